"""What a run shows: timing data as DataFrames, the chapter's tables, and an honest verdict."""

from analysis.run import Cell, NotARun, Run, load

__all__ = ["Cell", "NotARun", "Run", "load"]
