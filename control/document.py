"""A strict reader for small YAML files from people: plain data, and the line on which each value stands.

Anchors, aliases, tags, merge keys, duplicate keys and several documents are refused: an experiment needs none of
them, and without them no short file can expand into a large one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from control.errors import Problem, SpecError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Document", "KeyPath", "read_document"]

MAX_BYTES = 64 << 10
MAX_DEPTH = 8

KeyPath = tuple[str | int, ...]

_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


class Document:
    """The data of a YAML file; ``line(path)`` is where a value stands, or the nearest one above it."""

    def __init__(self, file: str, text: str, data: Any, lines: dict[KeyPath, int]) -> None:
        self.file = file
        self.text = text
        self.data = data
        self._lines = lines

    def line(self, path: KeyPath) -> int:
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]


def read_document(path: Path, name: str | None = None) -> Document:
    """Read one YAML mapping; SpecError (under ``name``, default the path) says what is wrong and where."""
    file = name or str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(file, [Problem(1, f"can't be read: {error.strerror or error}")]) from None
    if len(raw) > MAX_BYTES:
        raise SpecError(file, [Problem(1, f"is larger than {MAX_BYTES} bytes; an experiment file is a page of text")])
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(file, [Problem(line, f"is not UTF-8: byte 0x{raw[error.start]:02x}")]) from None
    try:
        _check_events(file, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(file, [Problem(line, f"is not YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise SpecError(file, [Problem(1, f"is not YAML: {str(error).splitlines()[0]}")]) from None
    if not isinstance(root, yaml.MappingNode):
        raise SpecError(file, [Problem(1, "must be a mapping of keys to values, such as 'name: my-experiment'")])
    reader = _Reader(file)
    data = reader.read(root, ())
    if reader.problems:
        raise SpecError(file, reader.problems)
    return Document(file, text, data, reader.lines)


def _check_events(file: str, text: str) -> None:
    """Refuse what could make a small file expensive, before anything recursive sees it."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise SpecError(file, [Problem(line, "anchors and aliases (&, *) are not allowed; write the value again")])
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise SpecError(file, [Problem(line, f"tags are not allowed: {tag}")])
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise SpecError(file, [Problem(line, "a second document begins here; one file holds one experiment")])
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise SpecError(file, [Problem(line, f"is nested deeper than {MAX_DEPTH} levels")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns YAML nodes into plain data, noting lines and mistakes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.lines: dict[KeyPath, int] = {}
        self._constructor = yaml.constructor.SafeConstructor()

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._read_scalar(node)

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                self.problems.append(Problem(line, f"a key must be a word, not {_shown(key_node)}"))
                continue
            key = key_node.value
            if key in mapping:
                first = self.lines[(*path, key)]
                self.problems.append(Problem(line, f"key '{key}' stands here again; it is already on line {first}"))
                continue
            self.lines[(*path, key)] = line
            mapping[key] = self.read(value_node, (*path, key))
        return mapping

    def _read_scalar(self, node: yaml.Node) -> Any:
        line = node.start_mark.line + 1
        if node.tag not in _SCALARS:
            kind = node.tag.rsplit(":", 1)[-1]
            self.problems.append(Problem(line, f"YAML reads {_shown(node)} as a {kind}; put it in quotes"))
            return None
        try:
            value = self._constructor.construct_object(node)
        except (ValueError, yaml.YAMLError):
            self.problems.append(Problem(line, f"{_shown(node)} is no number that can be used"))
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.problems.append(Problem(line, f"{_shown(node)} is no number that can be used"))
            return None
        return value


def _shown(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "a list or mapping"
    text = node.value
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"
