"""What a run must show (chapter, section 3), checked from the ledgers of all its validators.

Agreement: no two ledgers hold different blocks at one height. Integrity: each finalized chain is a chain, every height
once, up to its head. Validity: each ledger's own audit (ids, parents, bodies, votes hashed again) found nothing.
Termination: what a client was told is final is final everywhere; what was acknowledged is finalized or expired.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from microchain.telemetry.recorder import CLIENT

from analysis.causes import Cause
from analysis.documents import LedgerDigest
from analysis.timeline import Timeline
from analysis.verdict import Level, Reason, against

__all__ = ["check_ledgers", "check_termination"]

_SHOWN = 3


def check_ledgers(cell: str, digests: Mapping[str, LedgerDigest | None], missing: Collection[str] = ()) -> list[Reason]:
    """Compare the ledgers of a cell's validators; of those ``missing`` altogether it is known already."""
    present = {name: digest for name, digest in digests.items() if digest is not None}
    reasons = [
        against(cell, Cause.LEDGER_MISSING, f"no ledger digest of {name}: its chain can't be compared")
        for name, digest in digests.items()
        if digest is None and name not in missing
    ]
    chains = defaultdict(list)
    for name, digest in present.items():
        chains[digest.chain_id].append(name)
        reasons += [against(cell, Cause.LEDGER_UNSOUND, f"{name}: {text}") for text in _integrity_problems(digest)]
        reasons += _audit(cell, name, digest)
        if digest.evidence:
            text = f"{name} recorded {len(digest.evidence)} proofs of an offence"
            reasons.append(against(cell, Cause.OFFENCE, text))
    if len(chains) > 1:
        groups = "; ".join(f"{chain[:8]}: {', '.join(names)}" for chain, names in chains.items())
        reasons.append(against(cell, Cause.CHAINS_DIFFER, f"the ledgers are of different chains ({groups})"))
    else:
        reasons += [against(cell, Cause.LEDGERS_DISAGREE, text) for text in _disagreements(present)]
    heights = {name: digest.finalized.height for name, digest in present.items()}
    if len(set(heights.values())) > 1:
        shown = ", ".join(f"{name} {height}" for name, height in heights.items())
        text = f"not all validators finalized the same height: {shown}"
        reasons.append(against(cell, Cause.HEIGHTS_DIFFER, text))
    return reasons


def _audit(cell: str, name: str, digest: LedgerDigest) -> list[Reason]:
    if digest.problems is None:
        return [against(cell, Cause.LEDGER_NOT_AUDITED, f"{name}: its ledger was not audited")]
    shown = digest.problems[:_SHOWN]
    hidden = len(digest.problems) - len(shown)
    texts = [*shown, f"{hidden} more problems"] if hidden else shown
    return [against(cell, Cause.LEDGER_UNSOUND, f"{name}: its ledger is not sound: {text}") for text in texts]


def _integrity_problems(digest: LedgerDigest) -> list[str]:
    problems = []
    for expected, (height, *_) in enumerate(digest.blocks, 1):
        if height != expected:
            problems.append(f"its finalized blocks are no chain: height {height} stands where {expected} should")
            break
    ids = {block[1] for block in digest.blocks}
    if len(ids) != len(digest.blocks):
        problems.append("a block is finalized at two heights")
    if digest.blocks and (digest.finalized.height, digest.finalized.id) != digest.blocks[-1][:2]:
        problems.append(f"its finalized head (height {digest.finalized.height}) is not its last finalized block")
    return problems


def _disagreements(digests: Mapping[str, LedgerDigest]) -> list[str]:
    """One sentence for each height (the first few) at which two ledgers differ in id, count or body."""
    variants: dict[int, dict[tuple[str, int, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, digest in digests.items():
        for height, id, count, body in digest.blocks:
            variants[height][id, count, body].append(name)
    differing = sorted(height for height, blocks in variants.items() if len(blocks) > 1)
    found = []
    for height in differing[:_SHOWN]:
        sides = "; ".join(f"{id[:8]} on {', '.join(names)}" for (id, _, _), names in variants[height].items())
        found.append(f"validators disagree about finalized height {height}: {sides}")
    if len(differing) > _SHOWN:
        found.append(f"validators disagree about {len(differing)} finalized heights in all")
    return found


def check_termination(timeline: Timeline, *, complete: bool, silent: Collection[str] = ()) -> list[Reason]:
    """Check that what was acknowledged or reported final is final. ``complete``: no telemetry of the cell is missing.

    What is missing everywhere is lost (INVALID), if telemetry is complete; what only some lack may be still to come.
    Of ``silent`` processes it is known already that they reported nothing.
    """
    return [*_round_blocks(timeline), *_acknowledged(timeline, complete=complete, silent=silent)]


def _round_blocks(timeline: Timeline) -> list[Reason]:
    cell = timeline.cell
    chains = {name: {b[1]: b[2] for b in digest.blocks} for name, digest in cell.digests.items() if digest is not None}
    reasons = []
    for record in cell.rounds:
        if record.status != "ok" or not chains:
            continue
        holders = [name for name, chain in chains.items() if record.block in chain]
        if not holders:
            text = f"round {record.round}: its block {str(record.block)[:8]} is final in no ledger"
            reasons.append(against(cell.id, Cause.BLOCK_NOT_FINAL, text))
        elif len(holders) < len(chains):
            lacking = ", ".join(sorted(chains.keys() - set(holders)))
            text = f"round {record.round}: its block is not final on {lacking}"
            reasons.append(against(cell.id, Cause.BLOCK_NOT_EVERYWHERE, text))
        elif chains[holders[0]][str(record.block)] != len(record.transaction_ids):
            count = chains[holders[0]][str(record.block)]
            text = f"round {record.round}: its block holds {count} of {len(record.transaction_ids)} transactions"
            reasons.append(against(cell.id, Cause.BLOCK_NOT_EVERYWHERE, text))
    return _shorten(reasons)


def _acknowledged(timeline: Timeline, *, complete: bool, silent: Collection[str]) -> list[Reason]:
    points, cell = timeline.transactions, timeline.cell
    client = points[points["validator"] == CLIENT]
    acknowledged = set(client.loc[client["event"] == "accepted", "id"])
    ended = points[points["event"].isin(["finalized", "expired"]) & points["validator"].isin(cell.spec.validators)]
    by_validator = {name: set(ended.loc[ended["validator"] == name, "id"]) for name in cell.spec.validators}
    lost = acknowledged.difference(*by_validator.values())
    reasons = []
    if lost:
        drained = cell.outcome is not None and cell.outcome.drained is not False
        cause = Cause.TRANSACTIONS_LOST if complete and drained else Cause.TRANSACTIONS_UNACCOUNTED
        text = (
            f"{len(lost)} of {len(acknowledged)} acknowledged transactions are neither finalized nor expired anywhere"
        )
        reasons.append(against(cell.id, cause, f"{text}, e.g. {_example(lost)}"))
    for name, ids in by_validator.items():
        lacking = acknowledged - ids - lost
        if lacking and name not in silent:
            text = f"{name} reported neither finality nor expiry of {len(lacking)} acknowledged transactions"
            reasons.append(against(cell.id, Cause.TRANSACTIONS_UNACCOUNTED, f"{text}, e.g. {_example(lacking)}"))
    return reasons


def _example(ids: Collection[str]) -> str:
    return min(ids)


def _shorten(reasons: list[Reason]) -> list[Reason]:
    """Keep the first few of each level and say how many more there are."""
    kept: list[Reason] = []
    for level in (Level.INVALID, Level.SUSPECT):
        alike = [reason for reason in reasons if reason.level is level]
        kept += alike[:_SHOWN]
        if len(alike) > _SHOWN:
            text = f"… and {len(alike) - _SHOWN} more rounds like these"
            kept.append(Reason(level, text, alike[0].cell, alike[0].cause))
    return kept
