"""Hashing, signatures, Merkle trees, verifiable randomness and the TLS authority. Pure: no I/O, no clock."""
