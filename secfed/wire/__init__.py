"""Typed messages to exact bytes and back; protobuf stops here, and no key comes here.

Encoder and decoder of a message stand side by side. Decoders are strict: a size limit before
anything is parsed, no unknown field at any depth, and only the one serialisation of a message.
"""
