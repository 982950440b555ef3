"""The domain's types: no protocol signature carries a bare int or bytes."""

from __future__ import annotations

from enum import IntEnum
from typing import NewType

from microchain.crypto.hashing import Digest

__all__ = [
    "Digest",
    "Dynasty",
    "Epoch",
    "Height",
    "Nanoseconds",
    "NodeId",
    "ProtocolError",
    "Slot",
    "TransactionKind",
    "Weight",
]

NodeId = NewType("NodeId", bytes)
"""32 bytes: the tagged hash of a node's public signing key."""
Height = NewType("Height", int)
Slot = NewType("Slot", int)
Epoch = NewType("Epoch", int)
Dynasty = NewType("Dynasty", int)
Weight = NewType("Weight", int)
Nanoseconds = NewType("Nanoseconds", int)
"""A moment or duration on the node's own monotonic clock."""


class TransactionKind(IntEnum):
    """What a transaction is for (protocol, section 3)."""

    DATA = 0
    REGISTER = 1
    REVOKE = 2
    EVIDENCE = 3
    DEAL = 4
    REVEAL = 5
    CLAIM = 6


class ProtocolError(ValueError):
    """Input from outside that breaks the protocol; the message says what was wrong."""
