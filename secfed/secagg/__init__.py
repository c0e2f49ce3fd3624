"""The secure sum: typed messages in, typed messages out; no socket, no clock, no file of its own.

Base: Bonawitz et al. 2017 (doi:10.1145/3133956.3133982, the active variant with a PKI), with
hybrid post-quantum key agreement, recovery blobs and a signed quorum on the survivors.
`protos/README.md` tells the protocol phase by phase.
"""
