"""gRPC, and only here: channels, hellos, the service, and what people and monitors ask a daemon."""
