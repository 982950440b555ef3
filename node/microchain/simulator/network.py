"""Links between simulated nodes: latency, loss, reordering, duplication, partitions, and connections that break."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from microchain.consensus.interface import MessageReceived, PeerConnected, PeerDisconnected
from microchain.consensus.messages import Message, decode_message, encode_message
from microchain.simulator.world import MILLISECOND, SECOND, World

if TYPE_CHECKING:
    from microchain.simulator.node import SimulatedNode

__all__ = ["Channel", "LinkModel", "Network"]

FIRST_DIAL = 50 * MILLISECOND
LAST_DIAL = 3 * SECOND


class LinkModel(Struct, frozen=True, kw_only=True):
    """How links behave. Latencies in nanoseconds, bandwidth in bytes a second (0: unlimited).

    A ``reliable`` link is like TCP: in order, nothing lost but by a disconnection; what is sent into a partition waits.
    Any other loses, duplicates and reorders with the given probabilities.
    """

    latency: tuple[int, int] = (MILLISECOND, 10 * MILLISECOND)
    jitter: float = 0.5
    tail: float = 0.01
    reliable: bool = True
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    bandwidth: int = 0
    through_codec: bool = False


class Channel:
    """One direction of one connection."""

    __slots__ = ("destination", "free_at", "is_open", "last_arrival", "latency", "source", "waiting")

    def __init__(self, source: SimulatedNode, destination: SimulatedNode, latency: int) -> None:
        self.source = source
        self.destination = destination
        self.latency = latency
        self.is_open = True
        self.last_arrival = 0
        self.free_at = 0
        self.waiting: list[tuple[Message, int]] = []
        """Sent on a reliable link into a partition, with the sizes; arrives when the partition heals."""


class Network:
    """Full mesh. Two endpoints may carry one identity (a two-faced member): ``may_connect`` decides who sees whom."""

    def __init__(self, world: World, model: LinkModel) -> None:
        self.world = world
        self.model = model
        self.loss = model.loss
        """The probability of loss just now; a fault may raise it for a while."""
        self.slowness = 1.0
        """A factor on each latency; a fault may raise it for a while."""
        self.may_connect: Callable[[SimulatedNode, SimulatedNode], bool] = lambda a, b: a.id != b.id
        self.nodes: list[SimulatedNode] = []
        self.messages = 0
        self._latencies: dict[tuple[int, int], int] = {}
        self._blocked: dict[tuple[int, int], int] = {}
        self._dialling: set[tuple[int, int]] = set()

    def add(self, node: SimulatedNode) -> None:
        """Give ``node`` links to all that were added before it."""
        for other in self.nodes:
            there, back = (self.world.rng.randint(*self.model.latency) for _ in range(2))
            self._latencies[other.index, node.index] = there
            self._latencies[node.index, other.index] = back
        self.nodes.append(node)

    # --- connections ------------------------------------------------------------------------------------------------

    def dial_all(self, node: SimulatedNode) -> None:
        """Begin to connect a node that has started to every other one."""
        for other in self.nodes:
            if other is not node:
                self.dial(node, other, FIRST_DIAL)

    def dial(self, a: SimulatedNode, b: SimulatedNode, delay: int) -> None:
        """Try to connect after about ``delay``, and again with back-off until it works."""
        pair = (min(a.index, b.index), max(a.index, b.index))
        if pair not in self._dialling:
            self._dialling.add(pair)
            self.world.after(int(delay * (0.5 + self.world.rng.random())), self._try_connect, pair, delay)

    def _try_connect(self, pair: tuple[int, int], delay: int) -> None:
        a, b = self.nodes[pair[0]], self.nodes[pair[1]]
        self._dialling.discard(pair)
        blocked = self._blocked.get(pair) or self._blocked.get((pair[1], pair[0]))
        if not (a.is_up and b.is_up) or blocked or not self.may_connect(a, b):
            self.dial(a, b, min(2 * delay, LAST_DIAL))
            return
        for node, other in ((a, b), (b, a)):
            # A new connection shows that the old one, whose other end has crashed since, is dead.
            if other.id in node.peers and not node.peers[other.id].is_open:
                self._notice(node, node.peers[other.id])
        if b.id in a.peers or a.id in b.peers:
            return
        a.peers[b.id] = Channel(a, b, self._latencies[a.index, b.index])
        b.peers[a.id] = Channel(b, a, self._latencies[b.index, a.index])
        for node, other in ((a, b), (b, a)):
            node.deliver(PeerConnected(other.id))

    def disconnect(self, a: SimulatedNode, b: SimulatedNode) -> None:
        """Break the connection, if there is one; what is in flight is lost, and dialling begins."""
        channel = a.peers.get(b.id)
        if channel is not None and channel.destination is b:
            back = b.peers.get(a.id)
            self._notice(a, channel)
            if back is not None and back.destination is a:
                self._notice(b, back)

    def drop_all(self, node: SimulatedNode, notice: tuple[int, int]) -> None:
        """Close all connections of a node that has stopped; each peer notices after a time in ``notice`` (ns)."""
        for channel in node.peers.values():
            channel.is_open = False
            back = channel.destination.peers.get(node.id)
            if back is not None and back.destination is node:
                back.is_open = False
                self.world.after(self.world.rng.randint(*notice), self._notice, channel.destination, back)
        node.peers.clear()

    def _notice(self, node: SimulatedNode, channel: Channel) -> None:
        """Let a node see that a connection is gone."""
        other = channel.destination
        if node.peers.get(other.id) is channel:
            channel.is_open = False
            del node.peers[other.id]
            node.deliver(PeerDisconnected(other.id))
            self.dial(node, other, FIRST_DIAL)

    # --- partitions -------------------------------------------------------------------------------------------------

    def block(self, pairs: Iterable[tuple[int, int]], detection: tuple[int, int] | None) -> None:
        """Block the directed pairs; with ``detection`` (ns, from, to) connections break once somebody notices."""
        for pair in pairs:
            self._blocked[pair] = self._blocked.get(pair, 0) + 1
            if detection is not None:
                self.world.after(self.world.rng.randint(*detection), self._detect, pair)

    def _detect(self, pair: tuple[int, int]) -> None:
        if self._blocked.get(pair):
            self.disconnect(self.nodes[pair[0]], self.nodes[pair[1]])

    def unblock(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Undo one ``block`` of the same pairs."""
        for pair in pairs:
            self._blocked[pair] -= 1
            if self._blocked[pair]:
                continue
            channel = self.nodes[pair[0]].peers.get(self.nodes[pair[1]].id)
            if channel is not None and channel.destination.index == pair[1]:
                waiting, channel.waiting = channel.waiting, []
                for message, size in waiting:
                    self._schedule(channel, message, size)

    # --- messages ---------------------------------------------------------------------------------------------------

    def send(self, channel: Channel, message: Message) -> None:
        """Put a message on the wire."""
        self.messages += 1
        model, rng = self.model, self.world.rng
        size = 0
        if model.through_codec or model.bandwidth:
            encoded = encode_message(message)
            size = len(encoded)
            if model.through_codec:
                message = decode_message(encoded)
        if self._blocked and self._blocked.get((channel.source.index, channel.destination.index)):
            if model.reliable:
                channel.waiting.append((message, size))
            return
        if not model.reliable:
            if self.loss and rng.random() < self.loss:
                return
            if model.duplication and rng.random() < model.duplication:
                self._schedule(channel, message, size)
        self._schedule(channel, message, size)

    def _schedule(self, channel: Channel, message: Message, size: int) -> None:
        model, rng, now = self.model, self.world.rng, self.world.now
        delay = channel.latency * self.slowness * (1 + model.jitter * rng.random())
        if model.tail and rng.random() < model.tail:
            delay *= 1 + 20 * rng.random()
        if model.bandwidth:
            channel.free_at = max(channel.free_at, now) + size * SECOND // model.bandwidth
            delay += channel.free_at - now
        arrival = now + int(delay)
        if model.reliable:
            arrival = channel.last_arrival = max(arrival, channel.last_arrival + 1)
        elif model.reordering and rng.random() < model.reordering:
            arrival += int(delay * 4 * rng.random())
        self.world.at(arrival, self._arrive, channel, message)

    def _arrive(self, channel: Channel, message: Message) -> None:
        if not channel.is_open:
            return
        if self._blocked and self._blocked.get((channel.source.index, channel.destination.index)):
            if self.model.reliable:
                channel.waiting.append((message, 0))
            return
        channel.destination.deliver(MessageReceived(channel.source.id, message))

    def banish(self, node: SimulatedNode, other: SimulatedNode, duration: int) -> None:
        """Break the connection with a peer that misbehaved, and refuse a new one for ``duration`` ns."""
        pair = (node.index, other.index)
        self.block([pair], None)
        self.disconnect(node, other)
        self.world.after(duration, self.unblock, [pair])
