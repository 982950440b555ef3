"""Which ways of breaking the rules there are for each engine."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import Engine
from microchain.consensus.types import NodeId
from microchain.crypto.suite import Keyring
from microchain.simulator.byzantine import BEHAVIOURS, ByzantineMember
from microchain.simulator.pbft_byzantine import PBFT_BEHAVIOURS
from microchain.simulator.tampering import Tamperer

__all__ = ["TAMPERING", "behaviours_of", "create_byzantine"]

TAMPERING = "tampering"
"""With RandShare, which is Microchain's; a liar does it besides the rest."""


def behaviours_of(engine: str) -> Mapping[str, type[ByzantineMember]]:
    """Return the behaviours of an engine's members by name."""
    return PBFT_BEHAVIOURS if engine == "pbft" else BEHAVIOURS


def create_byzantine(
    behaviours: tuple[str, ...], id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random
) -> Callable[[Engine], Engine]:
    """Return what turns an honest engine into one with these behaviours, the first innermost."""
    known = {**behaviours_of(genesis.parameters.engine), TAMPERING: Tamperer}

    def corrupt(engine: Engine) -> Engine:
        for name in behaviours:
            engine = known[name](engine, id, keyring, genesis, rng)
        return engine

    return corrupt
