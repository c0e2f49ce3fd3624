"""Disk, without meaning: what is written here is durable before it is acted on.

Every class takes a `barrier` that is called as `before:<what>` and `after:<what>` around each
durable effect, so that a simulator can stop the program at exactly these points.
"""
