"""What each validator saw of each epoch: its checkpoint, the votes for it, and when it was justified and finalized."""

from __future__ import annotations

import pandas as pd

__all__ = ["EPOCH_COLUMNS", "find_epochs"]

_KEYS = ["cell", "validator"]
_MOMENTS = ["verified", "first_vote", "voted", "justified", "finalized"]
EPOCH_COLUMNS = [*_KEYS, "host", "epoch", "checkpoint", "height", "votes", *_MOMENTS]


def find_epochs(blocks: pd.DataFrame, votes: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each cell, validator and epoch of which the validator saw a vote or a justification.

    - ``cell``, ``validator``, ``host`` (category), ``epoch`` (int64)
    - ``checkpoint`` (str): the block that the validator saw justified in this epoch; else the one it voted for; else
      the first that it had a vote for
    - ``height`` (Int64): of the checkpoint, NA if no validator of the cell reported that block
    - ``votes`` (int64): how many voters' votes for the checkpoint this validator had in the end, its own included
    - ``verified``, ``first_vote`` (the first vote for the checkpoint that it sent or counted), ``voted`` (its own),
      ``justified``, ``finalized`` (Int64): when that first happened here, ns since 1970 on the validator's own clock,
      NA if it did not. So differences within a row need no correction of clocks.

    A block is justified by votes of more than 2/3 of the weight, and finalized by the next epoch's justified checkpoint
    or the one after that (docs/protocol.md, section 5).
    """
    # Nullable integers throughout: a float does not hold a time in ns.
    blocks = blocks.rename(columns={"id": "checkpoint"}).astype({"time": "Int64", "height": "Int64"})
    votes = votes.rename(columns={"target": "checkpoint", "target_epoch": "epoch"}).astype({"time": "Int64"})
    keys = [*_KEYS, "checkpoint"]
    found = _checkpoints(blocks, votes)
    found = found.join(
        votes.groupby(keys, observed=True).agg(votes=("voter", "nunique"), first_vote=("time", "min")), on=keys
    )
    reports = {
        "voted": votes[votes["event"] == "sent"],
        "verified": blocks[blocks["event"].isin(["verified", "proposed"])],
        "justified": blocks[blocks["event"] == "justified"],
        "finalized": blocks[blocks["event"] == "finalized"],
    }
    for moment, points in reports.items():
        found = found.join(points.groupby(keys, observed=True)["time"].min().rename(moment), on=keys)
    heights = blocks.groupby(["cell", "checkpoint"], observed=True)["height"].first()
    found = found.join(heights, on=["cell", "checkpoint"])
    found["votes"] = found["votes"].fillna(0).astype("int64")
    return found[EPOCH_COLUMNS].sort_values([*_KEYS, "epoch"], ignore_index=True)


def _checkpoints(blocks: pd.DataFrame, votes: pd.DataFrame) -> pd.DataFrame:
    """Choose one checkpoint for each cell, validator and epoch."""
    columns = [*_KEYS, "host", "time", "epoch", "checkpoint"]
    sources = [blocks[blocks["event"] == "justified"], votes[votes["event"] == "sent"], votes]
    ranked = pd.concat([source[columns].assign(rank=rank) for rank, source in enumerate(sources)], ignore_index=True)
    ranked = ranked.sort_values(["rank", "time"], kind="stable").drop_duplicates([*_KEYS, "epoch"])
    return ranked.drop(columns=["time", "rank"])
