"""The machines beside every figure."""

from __future__ import annotations

from analysis.documents import Environment, HostFacts
from analysis.reference import CHAPTER_BOARD

__all__ = ["describe_hardware", "is_chapter_hardware"]


def describe_hardware(environment: Environment | None) -> str:
    """Return one line: what machines, kernel, Python and commit; it says so if that was not recorded."""
    if environment is None:
        return "unknown hardware (the run has no readable environment.json)"
    machines: dict[str, list[str]] = {}
    for name, facts in environment.hosts.items():
        machines.setdefault(_describe(facts), []).append(name)
    if machines:
        text = "; ".join(f"{len(names)} x {machine} ({', '.join(names)})" for machine, names in machines.items())
    else:
        text = _describe(environment.host)
    git = environment.git
    commit = f"commit {git.commit[:12]}" if git.commit else "no commit"
    return f"{text}, {commit}{' with uncommitted changes' if git.dirty else ''}"


def is_chapter_hardware(environment: Environment | None) -> bool:
    """Whether every validator ran on one of the chapter's boards."""
    if environment is None:
        return False
    hosts = list(environment.hosts.values()) or [environment.host]
    return all(CHAPTER_BOARD in (facts.board or "") for facts in hosts)


def _describe(facts: HostFacts) -> str:
    parts = [facts.board or facts.cpu or "unknown machine"]
    if facts.cores is not None:
        parts.append(f"{facts.cores} cores")
    if facts.memory_bytes is not None:
        parts.append(f"{facts.memory_bytes / 2**30:.1f} GiB")
    parts += [facts.kernel] if facts.kernel else []
    parts += [f"Python {facts.python}"] if facts.python else []
    return ", ".join(parts)
