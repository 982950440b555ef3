"""What is wrong with the files of a run: never a crash, always a reason."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LineProblems", "Problem"]

_SHOWN_LINES = 5


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file of the run; ``file`` is relative to the run directory."""

    file: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.text}"


@dataclass
class LineProblems:
    """Counts the bad lines of one file by kind, and keeps the first line numbers of each."""

    file: str
    counts: dict[str, int] = field(default_factory=dict)
    first_lines: dict[str, list[int]] = field(default_factory=dict)

    def add(self, kind: str, line: int) -> None:
        """Count one bad line; ``kind`` comes from a small fixed set of texts."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        lines = self.first_lines.setdefault(kind, [])
        if len(lines) < _SHOWN_LINES:
            lines.append(line)

    @property
    def total(self) -> int:
        """All bad lines."""
        return sum(self.counts.values())

    def problems(self) -> list[Problem]:
        """One problem for each kind, at its first line."""
        found = []
        for kind, count in self.counts.items():
            first = self.first_lines[kind]
            lines = ", ".join(map(str, first)) + (", …" if count > len(first) else "")
            found.append(Problem(self.file, kind if count == 1 else f"{kind} ({count} lines: {lines})", first[0]))
        return found
