"""What a simulated run consists of, and how a seed becomes one."""

from __future__ import annotations

import random
from typing import Literal

from msgspec import Struct, structs

from microchain.consensus.genesis import Genesis, Parameters, RegistryEntry, Sortition, compute_weights, node_id
from microchain.consensus.types import NodeId
from microchain.simulator.behaviours import TAMPERING, behaviours_of
from microchain.simulator.crypto import SimulatedKeyring, SimulatedSuite
from microchain.simulator.network import LinkModel
from microchain.simulator.node import DiskModel
from microchain.simulator.world import MILLISECOND, SECOND

__all__ = [
    "BoundaryFault",
    "Crash",
    "Disturbance",
    "EngineName",
    "Fault",
    "Partition",
    "Pause",
    "PowerLoss",
    "Scenario",
    "create_genesis",
    "create_scenario",
]


EngineName = Literal["microchain", "pbft"]


class _Fault(Struct, frozen=True, kw_only=True):
    """Breaks something at ``at`` and mends it at ``until`` (virtual ns)."""

    at: int
    until: int


class Crash(_Fault, frozen=True, kw_only=True):
    """One node is killed, or loses power, and restarts; with ``wipe``, on an empty card."""

    node: int
    power: bool
    wipe: bool = False


class PowerLoss(_Fault, frozen=True, kw_only=True):
    """All nodes lose power at once; each restarts at its own moment (the latest is ``until``)."""

    restarts: tuple[int, ...]


class Pause(_Fault, frozen=True, kw_only=True):
    """One node stands still."""

    node: int


class Partition(_Fault, frozen=True, kw_only=True):
    """Messages of the directed pairs do not arrive. Connections break after ``detection`` ns (from, to), or never."""

    pairs: tuple[tuple[int, int], ...]
    detection: tuple[int, int] | None


class Disturbance(_Fault, frozen=True, kw_only=True):
    """Links lose more (where they lose at all) and are slower by a factor."""

    loss: float
    slowness: float


Fault = Crash | PowerLoss | Pause | Partition | Disturbance


class BoundaryFault(Struct, frozen=True, kw_only=True):
    """A fault that begins when the first honest node is ``ahead`` blocks before the end of a dynasty.

    ``fault.at`` is 0 and ``fault.until`` its duration; restarts after a loss of power count from its beginning.
    """

    dynasty: int
    ahead: int
    fault: Fault


class Scenario(Struct, frozen=True, kw_only=True):
    """One run. ``byzantine`` maps member numbers to behaviours; ``two_faced`` members run one engine for each side.

    ``sides`` (for two-faced members) lists (moment, the honest members on side 1); the network keeps the sides apart.
    """

    seed: int
    parameters: Parameters
    credits: tuple[int, ...]
    links: LinkModel
    disk: DiskModel
    rate: float
    payload: tuple[int, int] = (16, 256)
    validity: tuple[int, int] = (200, 400)
    byzantine: dict[int, tuple[str, ...]] = {}
    two_faced: tuple[int, ...] = ()
    sides: tuple[tuple[int, frozenset[int]], ...] = ()
    faults: tuple[Fault, ...] = ()
    boundary_faults: tuple[BoundaryFault, ...] = ()
    heal_at: int
    late_starts: tuple[int, ...] = ()
    """When each member starts for the first time (ns); empty: all at 0."""

    def describe(self) -> str:
        """Return one line for a person."""
        p = self.parameters
        bad = "; ".join(f"{i} {'+'.join(b)}" for i, b in self.byzantine.items())
        bad += "; ".join(f"{i} two-faced" for i in self.two_faced)
        faults = ", ".join(
            "wipe" if isinstance(fault, Crash) and fault.wipe else type(fault).__name__.lower() for fault in self.faults
        )
        faults += "".join(
            f", {type(b.fault).__name__.lower()} at the end of dynasty {b.dynasty}" for b in self.boundary_faults
        )
        if self.late_starts:
            faults += ", late starts"
        rules = (
            f"epoch_blocks {p.epoch_blocks}, dynasty_epochs {p.dynasty_epochs}"
            f"{'' if p.committee == 'fixed' else ' (drawn)'}, {p.proposal}, {p.relay}, slot {p.slot_timeout_ms} ms"
        )
        if p.engine == "pbft":
            rules = f"pbft, {p.relay}, view timeout {p.view_timeout_ms} ms"
        return (
            f"{len(self.credits)} members ({bad or 'all honest'}), {rules}, interval {p.block_interval_ms} ms, "
            f"{'reliable' if self.links.reliable else 'lossy'} links, {self.rate:.1f} tx/s; faults: {faults or 'none'}"
        )


def create_genesis(scenario: Scenario, suite: SimulatedSuite) -> tuple[Genesis, list[SimulatedKeyring], NodeId]:
    """Return the genesis, the members' keys in order of their numbers, and the id of ``device-1``."""
    names = [f"validator-{i}" for i in range(1, len(scenario.credits) + 1)]
    keyrings = [suite.create_keyring(name) for name in names]
    device = suite.create_keyring("device-1")
    registry = [
        RegistryEntry(
            name=name,
            role="validator",
            signing_key=k.signing_key,
            vrf_key=k.vrf_key,
            pvss_key=k.pvss_key,
            credit=credit,
        )
        for name, k, credit in zip(names, keyrings, scenario.credits, strict=True)
    ]
    registry.append(RegistryEntry(name="device-1", role="device", signing_key=device.signing_key))
    run_id = random.Random(scenario.seed).randbytes(16).hex()
    genesis = Genesis(run_id=run_id, parameters=scenario.parameters, registry=tuple(registry))
    return genesis, keyrings, node_id(device.signing_key)


def create_scenario(seed: int, nodes: int | None = None, engine: EngineName = "microchain") -> Scenario:
    """Return the schedule of a seed: committee (of ``nodes``, if given), parameters, links, liars and faults."""
    rng = random.Random(seed)
    count = nodes or rng.choice((4, 4, 4, 5, 6, 7, 7, 8, 9, 10))
    credits = tuple(rng.choice((100, 100, rng.randint(20, 300))) for _ in range(count))
    heal_at = rng.randint(8, 25) * SECOND
    slot = rng.choice((250, 500, 1000))
    parameters = Parameters(
        epoch_blocks=rng.choice((1, 1, 2, 3, 4)),
        slot_timeout_ms=slot,
        block_interval_ms=rng.choice((200, 500)),
        idle_interval_ms=rng.choice((1000, 3000)),
        max_block_bytes=rng.choice((2048, 65536)),
        max_tx_bytes=1024,
        proposal=rng.choice(("ranked", "ranked", "eager")),
        relay=rng.choice(("compact", "full")),
        signature="simulated",
        engine=engine,
        view_timeout_ms=4 * slot,
    )
    liars = _create_liars(rng, credits, list(behaviours_of(engine)))
    faults = [_create_fault(rng, count, heal_at) for _ in range(rng.randint(1, 6))]
    late_starts: tuple[int, ...] = ()
    # Who joins a chain late or anew only observes, so these take a liar's place among the f that may be missing.
    match rng.choice(("late", "wiped", "", "")) if not liars else "":
        case "late":
            late_starts = tuple(rng.randint(0, 2 * SECOND) for _ in credits)
        case "wiped":
            at = rng.randint(SECOND, heal_at - SECOND)
            member = _choose_light(rng, credits)
            faults.append(Crash(at=at, until=rng.randint(at, heal_at), node=member, power=True, wipe=True))
    # From here on draws of their own: what is above stays as it was for each seed.
    more = random.Random(f"dynasties {seed}")
    boundary_faults: tuple[BoundaryFault, ...] = ()
    if engine == "microchain":
        parameters = _choose_dynasties(more, parameters, count, is_honest=not liars)
        boundary_faults = _create_boundary_faults(more, parameters, count)
        liars = {liar: (*does, TAMPERING) if more.random() < 0.3 else does for liar, does in liars.items()}
    return Scenario(
        seed=seed,
        parameters=parameters,
        credits=credits,
        links=_create_links(rng, slot),
        disk=DiskModel(),
        rate=rng.uniform(0.5, 4),
        validity=rng.choice(((200, 400), (10, 60))),
        byzantine=liars,
        faults=tuple(faults),
        boundary_faults=boundary_faults,
        heal_at=heal_at,
        late_starts=late_starts,
    )


def _choose_dynasties(rng: random.Random, parameters: Parameters, count: int, *, is_honest: bool) -> Parameters:
    """Choose how long dynasties are, and where nobody lies, whether a committee is drawn for each."""
    drawn = is_honest and count >= 6 and rng.random() < 0.5
    return structs.replace(
        parameters,
        dynasty_epochs=rng.choice((10, 14, 20, 20, 600)) * (2 if drawn else 1),
        committee=Sortition(expected_members=rng.randint(4, count - 1)) if drawn else "fixed",
        unsafe_committee=drawn,
    )


def _create_boundary_faults(rng: random.Random, parameters: Parameters, count: int) -> tuple[BoundaryFault, ...]:
    if parameters.dynasty_epochs > 100 or rng.random() < 0.4:
        return ()
    longest = 10 * SECOND
    faults = []
    for _ in range(rng.randint(1, 3)):
        until = rng.randint(SECOND // 2, longest)
        fault: Fault
        match rng.choice(("crash", "power", "partition", "partition", "pause")):
            case "crash":
                fault = Crash(at=0, until=until, node=rng.randrange(count), power=rng.random() < 0.5)
            case "power":
                fault = PowerLoss(at=0, until=until, restarts=tuple(rng.randint(0, until) for _ in range(count)))
            case "pause":
                fault = Pause(at=0, until=until, node=rng.randrange(count))
            case _:
                fault = _create_partition(rng, count, 0, until)
        ahead = rng.randint(-2 * parameters.epoch_blocks, parameters.epoch_blocks)
        faults.append(BoundaryFault(dynasty=rng.randint(1, 3), ahead=ahead, fault=fault))
    return tuple(faults)


def _create_links(rng: random.Random, slot_ms: int) -> LinkModel:
    slowest = rng.choice((2, 10, slot_ms // 10)) * MILLISECOND
    if rng.random() < 0.6:
        return LinkModel(
            latency=(MILLISECOND // 5, slowest),
            tail=rng.choice((0, 0.005)),
            bandwidth=rng.choice((0, 0, 2_000_000)),
            through_codec=rng.random() < 0.3,
        )
    return LinkModel(
        latency=(MILLISECOND // 5, slowest),
        tail=rng.choice((0, 0.005)),
        reliable=False,
        loss=rng.choice((0.002, 0.02)),
        duplication=rng.choice((0, 0.05)),
        reordering=rng.choice((0, 0.2)),
        through_codec=rng.random() < 0.3,
    )


def _create_liars(rng: random.Random, credits: tuple[int, ...], behaviours: list[str]) -> dict[int, tuple[str, ...]]:
    """Choose members up to f, and below a third of the weight."""
    weights = compute_weights(list(credits))
    chosen: list[int] = []
    for _ in range(rng.randint(0, (len(credits) - 1) // 3)):
        member = rng.randrange(len(credits))
        if member not in chosen and 3 * (sum(weights[i] for i in chosen) + weights[member]) < sum(weights):
            chosen.append(member)
    return {member: tuple(rng.sample(behaviours, rng.choice((1, 1, 2, 3)))) for member in chosen}


def _choose_light(rng: random.Random, credits: tuple[int, ...]) -> int:
    """Choose a member that has less than a third of the weight."""
    weights = compute_weights(list(credits))
    return rng.choice([member for member, weight in enumerate(weights) if 3 * weight < sum(weights)])


def _create_fault(rng: random.Random, count: int, heal_at: int) -> Fault:
    at = rng.randint(SECOND // 10, heal_at - SECOND)
    until = min(heal_at, at + int(rng.choice((0.5, 3, 10, 20)) * rng.random() * SECOND))
    match rng.choice(("crash", "crash", "power", "pause", "partition", "partition", "partition", "disturbance")):
        case "crash":
            return Crash(at=at, until=until, node=rng.randrange(count), power=rng.random() < 0.5)
        case "power":
            return PowerLoss(at=at, until=until, restarts=tuple(rng.randint(at, until) for _ in range(count)))
        case "pause":
            return Pause(at=at, until=until, node=rng.randrange(count))
        case "partition":
            return _create_partition(rng, count, at, until)
        case _:
            return Disturbance(at=at, until=until, loss=rng.uniform(0.05, 0.6), slowness=rng.uniform(1, 30))


def _create_partition(rng: random.Random, count: int, at: int, until: int) -> Partition:
    groups = rng.choice((2, 2, 3))
    side = [rng.randrange(groups) for _ in range(count)]
    pairs = [(a, b) for a in range(count) for b in range(count) if side[a] != side[b]]
    match rng.choice(("symmetric", "symmetric", "one way", "leaky")):
        case "one way":
            pairs = [(a, b) for a, b in pairs if side[a] < side[b]]
        case "leaky":
            pairs = [pair for pair in pairs if rng.random() < 0.8]
    detection = rng.choice(((0, 10 * MILLISECOND), (SECOND, 10 * SECOND), None))
    return Partition(at=at, until=until, pairs=tuple(pairs), detection=detection)
