"""One training round told as a story, on both sides; knows neither grpc, protobuf nor torch."""
