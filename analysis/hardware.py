"""The machines beside every figure."""

from __future__ import annotations

from collections.abc import Collection

from analysis.documents import Environment, HostFacts
from analysis.reference import CHAPTER_BOARD

__all__ = ["describe_hardware", "is_chapter_hardware"]


def describe_hardware(environment: Environment | None, hosts: Collection[str], client_host: str) -> str:
    """Return one line: what machines, kernel, Python and commit; it says so if that was not recorded.

    ``hosts`` are those of the validators, as their points say; ``client_host`` is the control machine.
    """
    if environment is None:
        return "unknown hardware (the run has no readable environment.json)"
    machines: dict[str, list[str]] = {}
    for name, facts in _facts(environment, hosts, client_host).items():
        machines.setdefault(_describe(facts) if facts else "", []).append(name)
    unknown = machines.pop("", [])
    if unknown:
        machine = _describe(environment.host)
        text = f"hosts that were not described: {', '.join(unknown)} (control machine: {machine})"
    elif len(machines) == 1 and set(hosts) == {client_host}:
        text = next(iter(machines))
    else:
        text = "; ".join(f"{len(names)} x {machine} ({', '.join(names)})" for machine, names in machines.items())
    git = environment.git
    commit = f"commit {git.commit[:12]}" if git.commit else "no commit"
    return f"{text}, {commit}{' with uncommitted changes' if git.dirty else ''}"


def is_chapter_hardware(environment: Environment | None, hosts: Collection[str], client_host: str) -> bool:
    """Whether every validator ran on one of the chapter's boards; an emulated host is none, on whatever it runs."""
    if environment is None or not hosts:
        return False
    facts = _facts(environment, hosts, client_host).values()
    return all(known is not None and not known.emulated and CHAPTER_BOARD in (known.board or "") for known in facts)


def _facts(environment: Environment, hosts: Collection[str], client_host: str) -> dict[str, HostFacts | None]:
    """What is known of each host; the control machine describes itself."""
    own = {client_host: environment.host}
    return {name: environment.hosts.get(name) or own.get(name) for name in sorted(hosts)}


def _describe(facts: HostFacts) -> str:
    machine = facts.board or facts.cpu or "unknown machine"
    parts = [f"emulated on {machine}" if facts.emulated else machine]
    if facts.cores is not None:
        parts.append(f"{facts.cores} cores")
    if facts.memory_bytes is not None:
        parts.append(f"{facts.memory_bytes / 2**30:.1f} GiB")
    parts += [f"governor {facts.governor}"] if facts.governor else []
    parts += [facts.kernel] if facts.kernel else []
    parts += [f"Python {facts.python}"] if facts.python else []
    return ", ".join(parts)
