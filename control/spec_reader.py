"""Reads experiment files: every mistake is named with file, line, nearest key and the arithmetic."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from microchain.consensus.genesis import Parameters
from msgspec import Meta, Struct

from control.document import Document, KeyPath, read_document
from control.errors import Problem, SpecError
from control.spec import (
    MAX_BLOCK_BYTES,
    MAX_COMMITTEE,
    MIN_BLOCK_BYTES,
    MIN_COMMITTEE,
    MIN_TRANSACTION_BYTES,
    EngineName,
    Experiment,
    HostSelection,
    Name,
    RateWorkload,
    RoundsWorkload,
    Settings,
    Size,
    TelemetrySettings,
    Workload,
    parse_size,
)

__all__ = ["MAX_CELLS", "load_experiment"]

MAX_CELLS = 200
MAX_TRANSACTIONS = 2_000_000
MAX_PREPARED_BYTES = 2 << 30


class _Source(Settings, frozen=True, kw_only=True):
    """An experiment as it stands in the file."""

    name: Name
    description: Annotated[str, Meta(max_length=2000)] = ""
    engine: EngineName | list[EngineName] = "microchain"
    validators: int | list[int]
    hosts: HostSelection = "boards"
    block_bytes: Size | list[Size]
    transaction_bytes: Size | list[Size]
    workload: Workload
    repeats: Annotated[int, Meta(ge=1, le=100)] = 1
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    devices: Annotated[int, Meta(ge=1, le=64)] = 1
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    telemetry: TelemetrySettings = TelemetrySettings()


Swept = TypeVar("Swept", int, EngineName)

_WORKLOADS: dict[str, type[Struct]] = {"rounds": RoundsWorkload, "rate": RateWorkload}

_RESERVED = {
    "engine": "is set by the experiment's key 'engine'",
    "max_block_bytes": "is set by 'block_bytes'",
    "max_tx_bytes": "is set by 'transaction_bytes'",
    "propose": "is set by the workload's 'kind'",
    "signature": "belongs to the deployment (the inventory's variable 'signature'), since keys are made with it",
}


def load_experiment(path: Path, name: str | None = None) -> Experiment:
    """Read and check an experiment file; SpecError lists every mistake as ``file:line: what is wrong``."""
    document = read_document(path, name)
    checker = _Checker(document)
    checker.check_keys()
    checker.stop_if_wrong()
    source = checker.convert()
    experiment = checker.resolve(source)
    checker.stop_if_wrong()
    checker.check_numbers(experiment)
    checker.stop_if_wrong()
    return experiment


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest known key, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known keys are {', '.join(names)}"


class _Checker:
    """Collects the mistakes of one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def add(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.document.line(path), message))

    def stop_if_wrong(self) -> None:
        if self.problems:
            raise SpecError(self.document.file, self.problems)

    # --- keys and types ---

    def check_keys(self) -> None:
        data = self.document.data
        self._check_mapping((), data, _Source.__struct_fields__, required=_required(_Source))
        workload = data.get("workload")
        if isinstance(workload, dict):
            self._check_workload(workload)
        parameters = data.get("parameters")
        if isinstance(parameters, dict):
            self._check_parameters(parameters)
        telemetry = data.get("telemetry")
        if isinstance(telemetry, dict):
            self._check_mapping(("telemetry",), telemetry, TelemetrySettings.__struct_fields__)

    def _check_mapping(
        self, path: KeyPath, data: dict[str, Any], known: Iterable[str], required: Iterable[str] = ()
    ) -> None:
        where = f" in '{path[0]}'" if path else ""
        hints = {key: nearest(key, known) for key in data if key not in known}
        for key, hint in hints.items():
            self.add((*path, key), f"unknown key '{key}'{where}; {hint}")
        for key in required:
            # A required key that was only misspelt is told of once.
            if key not in data and not any(f"'{key}'" in hint for hint in hints.values()):
                self.add(path, f"key '{key}' is missing{where}")

    def _check_workload(self, workload: dict[str, Any]) -> None:
        kind = workload.get("kind")
        if not isinstance(kind, str) or kind not in _WORKLOADS:
            what = f"'{kind}' is no kind of workload" if "kind" in workload else "key 'kind' is missing in 'workload'"
            self.add(("workload", "kind"), f"{what}; use 'rounds' or 'rate'")
            return
        shape = _WORKLOADS[kind]
        self._check_mapping(("workload",), workload, ("kind", *shape.__struct_fields__), required=_required(shape))

    def _check_parameters(self, parameters: dict[str, Any]) -> None:
        known = [name for name in Parameters.__struct_fields__ if name not in _RESERVED]
        for key in parameters:
            if key in _RESERVED:
                self.add(("parameters", key), f"parameter '{key}' {_RESERVED[key]}")
            elif key not in known:
                self.add(("parameters", key), f"unknown parameter '{key}'; {nearest(key, known)}")
        if self.problems:
            return
        try:
            msgspec.convert(parameters, Parameters)
        except msgspec.ValidationError as error:
            self._add_conversion_error(error, ("parameters",))

    def convert(self) -> _Source:
        try:
            return msgspec.convert(self.document.data, _Source)
        except msgspec.ValidationError as error:
            self._add_conversion_error(error, ())
        raise SpecError(self.document.file, self.problems)

    def _add_conversion_error(self, error: msgspec.ValidationError, base: KeyPath) -> None:
        message, path = _split_path(str(error))
        path = (*base, *path)
        value: Any = self.document.data
        for step in path:
            value = value[step]
        key = ".".join(str(step) for step in path if isinstance(step, str))
        self.add(path, f"'{key}': {message[0].lower()}{message[1:].replace('`', '')}, got {_shown_value(value)}")

    # --- values ---

    def resolve(self, source: _Source) -> Experiment:
        """Return the experiment with sizes in bytes and lists as tuples; notes what is no size or stands twice."""
        fields = {name: getattr(source, name) for name in Experiment.__struct_fields__}
        fields["engine"] = self._swept("engine", source.engine)
        fields["validators"] = self._swept("validators", source.validators)
        for key in ("block_bytes", "transaction_bytes"):
            fields[key] = self._swept(key, self._sizes(key, getattr(source, key)))
        return Experiment(**fields)

    def _sizes(self, key: str, value: Size | list[Size]) -> list[int]:
        sizes = []
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            size = parse_size(item)
            if size is None:
                path: KeyPath = (key, index) if isinstance(value, list) else (key,)
                self.add(path, f"'{key}': '{item}' is no size; write bytes (131072) or '128K', '2M'")
            else:
                sizes.append(size)
        return sizes

    def _swept(self, key: str, value: Swept | list[Swept]) -> tuple[Swept, ...]:
        values = tuple(value) if isinstance(value, list) else (value,)
        if self.document.data.get(key) == []:
            self.add((key,), f"'{key}' is an empty list; give at least one value")
        for index, item in enumerate(values):
            if item in values[:index]:
                self.add((key, index), f"'{key}': {item} is listed twice; use 'repeats' to run a cell again")
        return values

    # --- arithmetic ---

    def check_numbers(self, experiment: Experiment) -> None:
        self._check_committees(experiment)
        self._check_sizes(experiment)
        cells = (
            len(experiment.engine)
            * len(experiment.validators)
            * len(experiment.block_bytes)
            * len(experiment.transaction_bytes)
            * experiment.repeats
        )
        if cells > MAX_CELLS:
            self.add(
                (),
                f"{len(experiment.engine)} engines * {len(experiment.validators)} committees * "
                f"{len(experiment.block_bytes)} block sizes * "
                f"{len(experiment.transaction_bytes)} transaction sizes * {experiment.repeats} repeats = {cells} "
                f"cells; at most {MAX_CELLS} are run in one experiment",
            )
        for block in experiment.block_bytes:
            for size in experiment.transaction_bytes:
                self._check_load(experiment, block, size)

    def _check_committees(self, experiment: Experiment) -> None:
        for index, count in enumerate(experiment.validators):
            path = self._item("validators", index)
            if count < MIN_COMMITTEE:
                self.add(
                    path,
                    f"{count} validators tolerate ⌊({count} - 1) / 3⌋ = {max(0, (count - 1) // 3)} faulty ones; "
                    f"a committee has at least {MIN_COMMITTEE}, which tolerate 1",
                )
            elif count > MAX_COMMITTEE:
                self.add(path, f"{count} validators are more than the {MAX_COMMITTEE} that a fixed committee may have")

    def _check_sizes(self, experiment: Experiment) -> None:
        for index, block in enumerate(experiment.block_bytes):
            path = self._item("block_bytes", index)
            if block > MAX_BLOCK_BYTES:
                self.add(path, f"a block of {block} bytes is more than the protocol's {MAX_BLOCK_BYTES} (8M)")
            elif block < MIN_BLOCK_BYTES:
                self.add(path, f"a block of {block} bytes is less than the protocol's {MIN_BLOCK_BYTES} (1K)")
        for index, size in enumerate(experiment.transaction_bytes):
            path = self._item("transaction_bytes", index)
            if size < MIN_TRANSACTION_BYTES:
                self.add(
                    path,
                    f"a transaction of {size} bytes has no room for its envelope, signature and sensor reading; "
                    f"{MIN_TRANSACTION_BYTES} is the least",
                )
            for block in experiment.block_bytes:
                if size > block:
                    self.add(path, f"a transaction of {size} bytes doesn't fit into a block of {block}")

    def _check_load(self, experiment: Experiment, block: int, size: int) -> None:
        workload = experiment.workload
        if not 0 < size <= block:
            return
        if isinstance(workload, RoundsWorkload):
            self._check_round(workload, experiment, block, size)
            return
        count = int(workload.rate * (workload.warmup_s + workload.duration_s))
        if count < 1:
            self.add(("workload", "rate"), f"{workload.rate:g} /s in {workload.duration_s:g} s are no transaction")
        if count > MAX_TRANSACTIONS or count * size > MAX_PREPARED_BYTES:
            self.add(
                ("workload",),
                f"{workload.rate:g} /s * ({workload.warmup_s:g} + {workload.duration_s:g}) s = {count} transactions of "
                f"{size} bytes = {count * size >> 20} MiB, all signed beforehand; at most {MAX_TRANSACTIONS} and "
                f"{MAX_PREPARED_BYTES >> 20} MiB are",
            )

    def _check_round(self, workload: RoundsWorkload, experiment: Experiment, block: int, size: int) -> None:
        fit = block // size
        if workload.transactions is not None and workload.transactions > fit:
            self.add(
                ("workload", "transactions"),
                f"{workload.transactions} transactions * {size} bytes = {workload.transactions * size} bytes, "
                f"and a block takes {block}: {fit} fit",
            )
        pool = experiment.parameters.get("max_pool_bytes", Parameters().max_pool_bytes)
        needed = (workload.transactions or fit) * size
        if needed > pool:
            self.add(
                ("parameters", "max_pool_bytes"),
                f"a round's {needed} bytes of transactions don't fit into a pool of {pool} (max_pool_bytes)",
            )

    def _item(self, key: str, index: int) -> KeyPath:
        return (key, index) if isinstance(self.document.data[key], list) else (key,)


def _required(shape: type[Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(shape) if field.required]


def _split_path(message: str) -> tuple[str, KeyPath]:
    """Split msgspec's ``Expected `int` - at `$.workload.rounds``` into the message and the path."""
    text, _, location = message.partition(" - at `$")
    steps: list[str | int] = []
    for word, index in re.findall(r"\.([^.\[`]+)|\[(\d+)\]", location):
        steps.append(int(index) if index else word)
    return re.sub(r", got .*", "", text), tuple(steps)


def _shown_value(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return f"{text[:60]}…" if len(text) > 60 else text
