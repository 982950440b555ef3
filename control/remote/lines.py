"""Output of many hosts as lines for one screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.text import Text

__all__ = ["LineSplitter", "PrefixedPrinter", "plain"]

LONGEST_LINE = 8192
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
# What moves a terminal's cursor, rings it or turns text round is shown as a mark: a host's output is not to be trusted.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_UNSEEMLY = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def plain(text: str) -> str:
    """Return one line of text without anything that acts on a terminal."""
    return _UNSEEMLY.sub("\ufffd", _ESCAPES.sub("", text))


class LineSplitter:
    """Takes bytes as they come and hands on whole lines, without their ends; a very long line in parts."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._rest = b""

    def write(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit_parts(line)
        while len(self._rest) > LONGEST_LINE:
            self._emit_parts(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]

    def close(self) -> None:
        """Hand on what came after the last end of a line."""
        if self._rest:
            self._emit_parts(self._rest)
            self._rest = b""

    def _emit_parts(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, LONGEST_LINE):
            self._emit(plain(line[start : start + LONGEST_LINE].decode(errors="replace").rstrip("\r")))


class PrefixedPrinter:
    """Prints lines behind the name of where they are from, each name in its colour at a terminal."""

    def __init__(self, console: Console, names: Iterable[str]) -> None:
        self._console = console
        chosen = list(names)
        self._width = max(map(len, chosen), default=0)
        self._styles = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(chosen)}

    def line(self, name: str, text: str, style: str = "") -> None:
        """Print one line of output."""
        prefix = Text(f"{name:<{self._width}} │ ", style=self._styles.get(name, ""))
        self._console.print(prefix.append(text, style=style), soft_wrap=True, highlight=False)

    def note(self, name: str, text: str) -> None:
        """Print a remark of ours about a host."""
        self.line(name, text, style="red")
