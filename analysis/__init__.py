"""What a run shows: timing data as DataFrames, the chapter's tables, and an honest verdict."""

from analysis.run import Cell, NotARun, Run, SourceError, load

__all__ = ["Cell", "NotARun", "Run", "SourceError", "load"]
