"""Clients: signed transactions that arrive at random nodes at a rate."""

from __future__ import annotations

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import TransactionsSubmitted
from microchain.consensus.objects import TRANSACTION_TAG, TransactionBody, encode_body, seal
from microchain.consensus.types import Digest, NodeId, TransactionKind
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.suite import Keyring
from microchain.simulator.checker import Checker
from microchain.simulator.node import SimulatedNode
from microchain.simulator.world import SECOND, World

__all__ = ["Workload"]

REPEATED = 0.02
MAX_REMEMBERED = 100


class Workload:
    """Submits ``rate`` transactions a second (Poisson) until ``stop``; now and then one that was submitted before."""

    def __init__(
        self,
        world: World,
        genesis: Genesis,
        checker: Checker,
        nodes: list[SimulatedNode],
        device: tuple[NodeId, Keyring],
        *,
        rate: float,
        payload: tuple[int, int],
        validity: tuple[int, int],
    ) -> None:
        self._world = world
        self._chain_id = genesis.chain_id()
        self._checker = checker
        self._nodes = nodes
        self._device, self._keyring = device
        self._rate = rate
        self._payload = payload
        self._validity = validity
        self._is_stopped = False
        self._request = 0
        self._sent: list[bytes] = []

    @property
    def submitted(self) -> int:
        return self._request

    def start(self) -> None:
        if self._rate:
            self._world.after(int(self._world.rng.expovariate(self._rate) * SECOND), self._arrive)

    def stop(self) -> None:
        self._is_stopped = True

    def _arrive(self) -> None:
        if self._is_stopped:
            return
        rng = self._world.rng
        node = rng.choice(self._nodes)
        if node.is_up:
            if self._sent and rng.random() < REPEATED:
                self._submit(node, rng.choice(self._sent))
            else:
                self.submit_new(node)
        self.start()

    def submit_new(self, node: SimulatedNode) -> Digest:
        """Submit one new transaction at ``node``; return its id."""
        rng = self._world.rng
        valid_until = len(self._checker.chain) - 1 + rng.randint(*self._validity)
        payload = rng.randbytes(rng.randint(*self._payload))
        signed = encode_body(
            TransactionBody(1, self._chain_id, TransactionKind.DATA, self._device, valid_until, payload)
        )
        id = tagged_hash(TRANSACTION_TAG, signed)
        raw = seal(signed, self._keyring.sign(id))
        self._checker.valid_until[id] = valid_until
        self._sent = [*self._sent[1 - MAX_REMEMBERED :], raw]
        self._submit(node, raw)
        return id

    def _submit(self, node: SimulatedNode, raw: bytes) -> None:
        self._request += 1
        node.deliver(TransactionsSubmitted(self._request, (raw,)))
