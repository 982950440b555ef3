"""Which engine a chain runs: its genesis document says it."""

from __future__ import annotations

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import Engine, Restored
from microchain.consensus.types import NodeId

__all__ = ["create_engine"]


def create_engine(genesis: Genesis, identity: NodeId, restored: Restored | None) -> Engine:
    """Return the engine of this chain for one node; ``restored`` is None on a new ledger."""
    if genesis.parameters.engine == "pbft":
        from microchain.consensus.pbft.engine import PbftEngine

        return PbftEngine(genesis, identity, restored)
    from microchain.consensus.engine import MicrochainEngine

    return MicrochainEngine(genesis, identity, restored)
