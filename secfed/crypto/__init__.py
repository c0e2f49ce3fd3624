"""Primitives: bytes in, bytes out, over pyca/cryptography; no protocol."""
