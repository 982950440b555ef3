"""Assembles a world from a scenario, lets it run through its faults, heals it, and reports what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct, structs

from microchain.consensus.engines import create_engine
from microchain.consensus.genesis import Genesis, node_id
from microchain.consensus.interface import Engine, Restored
from microchain.consensus.types import NodeId
from microchain.simulator.behaviours import create_byzantine
from microchain.simulator.checker import Checker
from microchain.simulator.crypto import SimulatedKeyring, SimulatedSuite
from microchain.simulator.network import Network
from microchain.simulator.node import SimulatedNode
from microchain.simulator.pbft_checker import PbftChecker
from microchain.simulator.scenario import (
    BoundaryFault,
    Crash,
    Disturbance,
    EngineName,
    Fault,
    Partition,
    Pause,
    PowerLoss,
    Scenario,
    create_genesis,
    create_scenario,
)
from microchain.simulator.store import MemoryStore, Store
from microchain.simulator.workload import Workload
from microchain.simulator.world import SECOND, World

__all__ = ["EngineFactory", "Report", "Simulation", "run_scenario"]

EngineFactory: TypeAlias = Callable[[Genesis, NodeId, Restored | None], Engine]

MAX_RECOVERY = 300 * SECOND
"""Virtual time after which a run that makes no progress counts as stalled."""


MAX_DYNASTY = 1200 * SECOND
"""The same for a dynasty to end, on a chain that has nothing but idle blocks."""
SHORT_DYNASTY = 100
"""Epochs: up to this length, a run goes on until one more dynasty has begun."""


class Report(Struct, kw_only=True):
    """What one run showed. Times in seconds; ``recovery_s``: from healing until all honest finalized a new block.

    ``cpu_s`` is processor time, which other processes on the machine do not stretch.
    """

    seed: int
    description: str
    violations: list[str]
    stall: str
    """What did not happen in time; empty if all did."""
    recovery_s: float | None
    virtual_s: float
    cpu_s: float
    events: int
    messages: int
    height: int
    dynasties: int
    acknowledged: int
    finalized: int
    expired: int
    excused: int
    trace: str

    @property
    def is_good(self) -> bool:
        return not self.violations and not self.stall


class Simulation:
    """One scenario's world. ``make_engine`` and ``make_store`` put other parts in the standard ones' place."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        make_engine: EngineFactory = create_engine,
        make_store: Callable[[Genesis, str], Store] = lambda genesis, name: MemoryStore(),
    ) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed)
        self.network = Network(self.world, scenario.links)
        self.suite = SimulatedSuite(b"%d" % scenario.seed)
        self.genesis, self._keyrings, device = create_genesis(scenario, self.suite)
        self._make_engine = make_engine
        self._make_store = make_store
        self._liars = set(scenario.byzantine) | set(scenario.two_faced)
        ids = [node_id(keyring.signing_key) for keyring in self._keyrings]
        honest = frozenset(id for member, id in enumerate(ids) if member not in self._liars)
        checker = PbftChecker if scenario.parameters.engine == "pbft" else Checker
        self.checker = checker(self.world, self.genesis, self.suite, honest)
        self._sides: dict[int, int] = {}
        self._healed = False
        self._boundary_faults: list[BoundaryFault] = []
        for member, id in enumerate(ids):
            self._add_node(member, id, f"validator-{member + 1}")
        for member in scenario.two_faced:
            self._sides[member] = 0
            self._sides[len(self.network.nodes)] = 1
            self._add_node(member, ids[member], f"validator-{member + 1}-b")
        if scenario.two_faced:
            self.network.may_connect = self._are_on_one_side
        self.honest = [node for node in self.network.nodes if node.is_honest]
        self.workload = Workload(
            self.world,
            self.genesis,
            self.checker,
            self.honest,
            (device, self.suite.create_keyring("device-1")),
            rate=scenario.rate,
            payload=scenario.payload,
            validity=scenario.validity,
        )

    def _add_node(self, member: int, id: NodeId, name: str) -> None:
        keyring = self._keyrings[member]
        node = SimulatedNode(
            self.world,
            self.network,
            self.checker,
            index=len(self.network.nodes),
            id=id,
            name=name,
            suite=self.suite,
            keyring=keyring,
            make_store=lambda: self._make_store(self.genesis, name),
            make_engine=self._engine_factory(member, id, keyring),
            is_honest=member not in self._liars,
            disk=self.scenario.disk,
            clock_offset=self.world.rng.randrange(10**6) * SECOND,
        )
        self.network.add(node)

    def _engine_factory(
        self, member: int, id: NodeId, keyring: SimulatedKeyring
    ) -> Callable[[Restored | None], Engine]:
        behaviours = self.scenario.byzantine.get(member, ())
        rng = random.Random(self.scenario.seed * 1000 + member)
        corrupt = create_byzantine(behaviours, id, keyring, self.genesis, rng)
        return lambda restored: corrupt(self._make_engine(self.genesis, id, restored))

    # --- two-faced members ------------------------------------------------------------------------------------------

    def _are_on_one_side(self, a: SimulatedNode, b: SimulatedNode) -> bool:
        if a.id == b.id:
            return False
        if self._healed and a.is_honest and b.is_honest:
            return True
        return self._sides.get(a.index, 0) == self._sides.get(b.index, 0)

    def _change_sides(self, ones: frozenset[int]) -> None:
        for node in self.honest:
            self._sides[node.index] = int(node.index in ones)
        self._cut_across()

    def _cut_across(self) -> None:
        for node in self.network.nodes:
            for channel in list(node.peers.values()):
                if not self._are_on_one_side(node, channel.destination):
                    self.network.disconnect(node, channel.destination)

    # --- faults at the end of a dynasty -----------------------------------------------------------------------------

    def _watch_boundaries(self, node: SimulatedNode) -> None:
        """Start the faults that waited for a node to come so near to the end of a dynasty."""
        status = node.engine.status()
        for waiting in list(self._boundary_faults):
            near = status.head_height >= status.dynasty_end - waiting.ahead
            if (status.dynasty == waiting.dynasty and near) or status.dynasty > waiting.dynasty:
                self._boundary_faults.remove(waiting)
                self._schedule(_shift(waiting.fault, self.world.now, self.scenario.heal_at))

    # --- faults -----------------------------------------------------------------------------------------------------

    def _schedule(self, fault: Fault) -> None:
        nodes, world = self.network.nodes, self.world
        match fault:
            case Crash():
                world.at(fault.at, self._crash, nodes[fault.node], fault)
                world.at(fault.until, self._restart, nodes[fault.node])
            case PowerLoss():
                for node, restart in zip(nodes, fault.restarts, strict=False):
                    world.at(fault.at, lambda node=node: node.crash(power=True))
                    world.at(max(restart, fault.at), self._restart, node)
            case Pause():
                world.at(fault.at, nodes[fault.node].pause)
                world.at(fault.until, nodes[fault.node].resume)
            case Partition():
                world.at(fault.at, self.network.block, fault.pairs, fault.detection)
                world.at(fault.until, self.network.unblock, fault.pairs)
            case Disturbance():
                world.at(fault.at, self._disturb, fault.loss, fault.slowness)
                world.at(fault.until, self._disturb, self.scenario.links.loss, 1.0)

    def _crash(self, node: SimulatedNode, fault: Crash) -> None:
        may_wipe = fault.wipe and node.is_running
        node.crash(power=fault.power)
        if may_wipe:
            node.wipe()

    def _restart(self, node: SimulatedNode) -> None:
        if not node.is_running:
            node.start()

    def _disturb(self, loss: float, slowness: float) -> None:
        self.network.loss = loss
        self.network.slowness = slowness

    def _heal(self) -> None:
        """End what is still broken; faults that reach to the healing end by themselves in this very moment."""
        self._healed = True
        self._boundary_faults = []
        self._disturb(self.scenario.links.loss, 1.0)
        for node in self.network.nodes:
            self._restart(node)
            node.resume()

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run all phases: faults, healing, recovery, new transactions, settling."""
        began = time.process_time()
        scenario, world = self.scenario, self.world
        for number, node in enumerate(self.network.nodes):
            start = scenario.late_starts[number] if number < len(scenario.late_starts) else 0
            world.at(start, self._restart, node)
        for moment, ones in scenario.sides:
            world.at(moment, self._change_sides, ones)
        for fault in scenario.faults:
            self._schedule(fault)
        self._boundary_faults = list(scenario.boundary_faults)
        if self._boundary_faults:
            self.checker.on_adopted = self._watch_boundaries
        self.workload.start()
        world.run(scenario.heal_at)
        self._heal()
        recovery, stall = None, ""
        if not self._is_broken():
            recovery, stall = self._recover()
        return self._report(began, recovery, stall)

    def _is_broken(self) -> bool:
        return bool(self.checker.violations)

    def _recover(self) -> tuple[float | None, str]:
        """Return (seconds until all honest nodes finalized something new, what did not happen in time)."""
        healed_at = self.world.now
        if not self._run_until_all_reach(len(self.checker.chain)):
            return None, f"{self._laggards()} finalized nothing new"
        recovery = (self.world.now - healed_at) / SECOND
        fresh = [self.workload.submit_new(node) for node in self.honest]
        self.workload.stop()
        if not self._run_until(lambda: all(map(self.checker.is_settled, fresh))):
            return recovery, "new transactions are not finalized"
        if not self._run_until_all_reach(len(self.checker.chain) - 1):
            return recovery, f"{self._laggards()} did not finalize what others had"
        if not self._run_until(self._is_all_settled):
            return recovery, f"{len(self.checker.pending)} acknowledged transactions neither finalized nor expired"
        begun = self.checker.dynasties
        short = self.scenario.parameters.dynasty_epochs <= SHORT_DYNASTY
        has_dynasties = any(node.engine.status().dynasty_end for node in self.honest)
        if short and has_dynasties and not self._run_until(lambda: self.checker.dynasties > begun, MAX_DYNASTY):
            return recovery, f"no dynasty begins after number {begun}"
        # Evidence waits for blocks, and on a quiet chain these are rare.
        if not self._run_until(lambda: not self.checker.unpunished()):
            return recovery, "an offence that two honest nodes found is not punished"
        return recovery, ""

    def _is_all_settled(self) -> bool:
        self.checker.expire()
        return not self.checker.pending

    def _run_until(self, is_done: Callable[[], bool], limit: int = MAX_RECOVERY) -> bool:
        """Run until done, broken or stalled; what ``is_done`` looks at changes only when the checker says so."""
        if not is_done():
            self.checker.on_change = lambda: self.world.stop() if is_done() else None
            self.world.run(self.world.now + limit)
        return is_done() or self._is_broken()

    def _run_until_all_reach(self, height: int) -> bool:
        self._goal = height
        return self._run_until(lambda: all(self.checker.heights[node.index] >= height for node in self.honest))

    def _laggards(self) -> str:
        return ", ".join(node.name for node in self.honest if self.checker.heights[node.index] < self._goal)

    def _report(self, began: float, recovery: float | None, stall: str) -> Report:
        checker, world = self.checker, self.world
        checker.expire()
        checker.check_slashes()
        return Report(
            seed=self.scenario.seed,
            description=self.scenario.describe(),
            violations=list(checker.violations),
            stall=stall,
            recovery_s=recovery,
            virtual_s=world.now / SECOND,
            cpu_s=time.process_time() - began,
            events=world.events,
            messages=self.network.messages,
            height=len(checker.chain) - 1,
            dynasties=checker.dynasties,
            acknowledged=checker.acknowledged,
            finalized=len(checker.finalized_at),
            expired=checker.expired,
            excused=checker.excused,
            trace=world.trace_digest(),
        )


def _shift(fault: Fault, by: int, heal_at: int) -> Fault:
    """Return a fault that begins ``by`` ns later, and ends before the healing."""
    moved = structs.replace(fault, at=by, until=min(by + fault.until, heal_at))
    if isinstance(moved, PowerLoss):
        return structs.replace(moved, restarts=tuple(min(by + at, heal_at) for at in moved.restarts))
    return moved


def run_scenario(seed: int, nodes: int | None = None, engine: EngineName = "microchain") -> Report:
    """Run the schedule of a seed."""
    return Simulation(create_scenario(seed, nodes, engine)).run()
