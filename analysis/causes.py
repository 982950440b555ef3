"""Every cause for which a run is SUSPECT or INVALID: what it means, and what to do (docs/verdict.md)."""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["Cause", "Level"]


class Level(IntEnum):
    """How far a run can be trusted; the worst reason decides."""

    VALID = 0
    SUSPECT = 1
    INVALID = 2


_SUSPECT, _INVALID = Level.SUSPECT, Level.INVALID


class Cause(Enum):
    """A kind of reason: how bad it is, what it means, and what to do about it."""

    # --- what the protocol promises ---
    LEDGERS_DISAGREE = (
        _INVALID,
        "Agreement is broken: two validators hold different final blocks.",
        "Keep the run, it shows a fault of the protocol or of its code; `microchain-node inspect` shows both ledgers.",
    )
    CHAINS_DIFFER = (
        _INVALID,
        "The validators did not run one chain.",
        "Reset the deployment and repeat the cell: a validator kept what it had of another attempt.",
    )
    LEDGER_UNSOUND = (
        _INVALID,
        "A ledger is no chain or fails its own audit.",
        "Look at the board's disk or SD card, then repeat the cell.",
    )
    BLOCK_NOT_FINAL = (
        _INVALID,
        "A client was told that a block is final, and no ledger holds it.",
        "Keep the run: finality was reported and not kept.",
    )
    TRANSACTIONS_LOST = (
        _INVALID,
        "Transactions were acknowledged and became neither final nor expired, and no telemetry is missing.",
        "Keep the run; the validators' logs may say what became of them.",
    )
    TRANSACTIONS_UNACCOUNTED = (
        _SUSPECT,
        "What became of acknowledged transactions is not known everywhere.",
        "See what telemetry is missing, or give the cell more time to drain.",
    )
    BLOCK_NOT_EVERYWHERE = (
        _SUSPECT,
        "A round's block is not final on all validators, or holds other transactions than were sent.",
        "Give rounds a longer `timeout_s`; validators that lag may be overloaded.",
    )
    HEIGHTS_DIFFER = (
        _SUSPECT,
        "Some validators had finalized less than others when the cell ended.",
        "Give the cell more time to drain; a validator that always lags is too slow or badly connected.",
    )
    OFFENCE = (
        _SUSPECT,
        "A validator signed what contradicts itself; the others kept the proof.",
        "Unless it was meant to cheat, see whether it ran twice or lost its ledger.",
    )
    LEDGER_MISSING = (
        _SUSPECT,
        "A validator's ledger can't be compared with the others'.",
        "Continue the run with --run-dir, or look into the validator's log.",
    )
    LEDGER_NOT_AUDITED = (
        _SUSPECT,
        "A ledger's digest came without its audit.",
        "Deploy the present version and repeat the cell.",
    )
    FORK = (
        _SUSPECT,
        "More than one block was proposed for one height; latencies of such rounds measure more than one try.",
        "Raise `slot_timeout_ms` above the time that a block takes.",
    )
    BLOCKS_REJECTED = (
        _SUSPECT,
        "Validators refused blocks as invalid.",
        "Their points' `detail` says why; see that all validators run one version.",
    )
    # --- what was run ---
    CELL_FAILED = (
        _INVALID,
        "The cell did not come to its end.",
        "The cell's conductor.log and the validators' node.log say more; mend it and continue the run with --run-dir.",
    )
    CELL_REFUSED = (
        _SUSPECT,
        "The deployment has fewer validators than the cell asks for: the experiment was run in part.",
        "Read what was run; or deploy more validators and start a new run, or ask for smaller committees.",
    )
    CELL_NOT_RUN = (
        _INVALID,
        "There is no outcome: the cell was not run, or not to its end.",
        "Continue the run with --run-dir.",
    )
    NOTHING_MEASURED = (_INVALID, "The run holds no cell that could be read.", "See that the directory is a whole run.")
    BACKLOG = (
        _SUSPECT,
        "Not every transaction was final at the end: more was offered than the validators could finish.",
        "Lower `rate`, or raise `drain_s`.",
    )
    GENERATOR_LATE = (
        _SUSPECT,
        "The load generator did not keep its schedule: the load was not the one that was asked for.",
        "Lower `rate`, or run the generator on a machine with less to do.",
    )
    TRANSACTIONS_REFUSED = (
        _SUSPECT,
        "Validators refused transactions: less was offered than was asked for.",
        "Lower `rate`, or raise `max_pool_bytes` or `max_validity`.",
    )
    ROUNDS_FAILED = (
        _SUSPECT,
        "Rounds that timed out or went into several blocks are not in the figures, which so look better than it was.",
        "Raise `timeout_s` of the workload, or see in the validators' logs why they took so long.",
    )
    TOO_FEW_SAMPLES = (
        _SUSPECT,
        "With so few samples the high percentiles are the worst sample.",
        "Raise `rounds`, `duration_s` or `telemetry.sample`.",
    )
    POINTS_MISSING = (
        _SUSPECT,
        "Rounds lack a point that their figures need, and are left out of them.",
        "See what telemetry is missing, and whether the validator lagged.",
    )
    # --- what was recorded ---
    HOST_MISSING = (
        _SUSPECT,
        "Nothing came from any validator of a host.",
        "See that the host is up and reachable (`./testbed status`), then continue the run with --run-dir.",
    )
    VALIDATOR_MISSING = (
        _SUSPECT,
        "Neither ledger nor telemetry came from a validator: the figures are without it.",
        "Look into its log on the host (`./testbed status`), then continue the run with --run-dir.",
    )
    TELEMETRY_MISSING = (
        _SUSPECT,
        "No telemetry came from a process: figures that need it are missing.",
        "Look into its log; `./testbed collect` fetches what is still on the hosts.",
    )
    TELEMETRY_GAP = (
        _SUSPECT,
        "A validator wrote none of the points that come every interval: it stood still, was away, or lost telemetry.",
        "See the board's load, memory and voltage at that time, and the validator's log; repeat the cell.",
    )
    POINTS_DROPPED = (
        _SUSPECT,
        "Points were given up because the spool was full or could not be written.",
        "Make room on the host, or raise `max_spool_bytes` of its configuration.",
    )
    LINES_MISSING = (
        _SUSPECT,
        "A spool holds fewer lines than the process wrote.",
        "The file was cut or damaged on its way: `./testbed collect`, if the host still has it.",
    )
    LINES_BAD = (
        _SUSPECT,
        "Lines of a file are damaged or do not belong there; they are left out.",
        "See the file at that line; `./testbed runs show` says whether it is as it was sealed.",
    )
    FILE_DAMAGED = (
        _SUSPECT,
        "A file of the run is missing or can't be read.",
        "`./testbed runs show` says whether the run is as it was sealed; fetch it again from where it was archived.",
    )
    SPOOL_NOT_CLOSED = (
        _SUSPECT,
        "A process was killed, or still ran when its spool was fetched: its last second may be lost.",
        "Look for the reason in its log; was the host short of memory?",
    )
    TIMES_MOVED = (
        _SUSPECT,
        "So many points fell on one moment that timestamps were moved apart by more than 1 ms.",
        "Lower `telemetry.sample`.",
    )
    SPOOLS_NOT_READ = (
        _SUSPECT,
        "Whether the spools are whole, and hold the same, was not looked at.",
        "`./testbed report RUN` analyses the run from its spools.",
    )
    INFLUXDB_DIFFERS = (
        _SUSPECT,
        "InfluxDB does not hold the same points as the spools; the figures here are from the spools or as stated.",
        "`./testbed influx backfill RUN` writes what is missing and compares again.",
    )
    INFLUXDB_NOT_COMPARED = (
        _SUSPECT,
        "Points were streamed to InfluxDB, and whether it has them all is not known.",
        "`./testbed influx status` says whether the server runs; then `./testbed influx backfill RUN`.",
    )
    INFLUXDB_REFUSED = (
        _SUSPECT,
        "The InfluxDB server refused lines; the spools have them.",
        "The validator's rejected.lp has them with the server's reason.",
    )
    # --- clocks and boards ---
    CLOCK_UNKNOWN = (
        _SUSPECT,
        "A host's clock was never compared with the others', so its times can't be.",
        "See that its validators reached their peers; lower `telemetry.interval_s` for a short cell.",
    )
    CLOCK_SET = (
        _SUSPECT,
        "Processes of one host read different times: its clock was set between their starts.",
        "Let the time daemon settle before validators start, then repeat the cell.",
    )
    CLOCK_UNSTEADY = (
        _SUSPECT,
        "Measured offsets of two hosts contradict each other: a clock was set, or ran off by more than 100 ppm.",
        "Let the time daemon settle before validators start, then repeat the cell.",
    )
    CLOCK_BOUND = (
        _SUSPECT,
        "The clocks' error is too large for the figure, which is refused.",
        "Shorten the way between the hosts (cable instead of Wi-Fi, less load), or measure something longer.",
    )
    CLOCK_ORDER = (
        _SUSPECT,
        "Something ended before it began by more than the clocks' error: the times can't be trusted.",
        "See whether a clock was set or a host was suspended; repeat the cell.",
    )
    BOARD_UNDER_VOLTAGE = (
        _SUSPECT,
        "A board had too little voltage: its processor was slowed down.",
        "Use a stronger power supply and a short cable.",
    )
    BOARD_THROTTLED = (
        _SUSPECT,
        "A board's processor was throttled or its frequency capped: it was slower than it can be.",
        "Cool the board and check its power supply.",
    )
    BOARD_HOT = (
        _SUSPECT,
        "A board reached its temperature limit.",
        "Cool the board: a heat sink or a fan, and pauses between cells.",
    )

    def __init__(self, level: Level, meaning: str, advice: str) -> None:
        self.level = level
        self.meaning = meaning
        self.advice = advice

    @property
    def code(self) -> str:
        """The name in ``verdict.json``, such as ``generator-late``."""
        return self.name.lower().replace("_", "-")
