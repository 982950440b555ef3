"""Wheels for each kind of host, one archive for a kind; pip is stood in for."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from control import wheelhouse
from control.wheelhouse import LOCAL, WheelhouseError, find_wheelhouse


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "node" / "microchain").mkdir(parents=True)
    (tmp_path / "node" / "pyproject.toml").write_text('[project]\ndependencies = ["aiohttp~=3.14"]\n')
    (tmp_path / "node" / "microchain" / "cli.py").write_text("")
    (tmp_path / "requirements.txt").write_text("aiohttp==3.14.5\n")
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What pip was called with; it installs one module where it is told, and has none for Python 3.99."""
    made: list[tuple[str, ...]] = []

    def pip(*arguments: str | Path) -> None:
        words = tuple(map(str, arguments))
        made.append(words)
        if "--python-version=3.99" in words:
            raise WheelhouseError("pip could not")
        target = Path(words[words.index("--target") + 1])
        (target / "bin").mkdir()
        (target / "some.py").write_text("")

    monkeypatch.setattr(wheelhouse, "_pip", pip)
    return made


def test_each_kind_has_one_archive_made_once(project: Path, calls: list[tuple[str, ...]]) -> None:
    output = project / "wheels"
    found = find_wheelhouse(output, ["aarch64-3.11", "aarch64-3.13", "aarch64-3.11"], root=project)
    assert sorted(found.dependencies) == ["aarch64-3.11", "aarch64-3.13"]
    assert len(found.missing) == len(calls) == 3
    for archive in (found.node, *found.dependencies.values()):
        with tarfile.open(archive.path) as packed:
            assert archive.error == "" and {"some.py", "__pycache__"} <= set(packed.getnames())
            assert "bin" not in packed.getnames()
    foreign = next(words for words in calls if "--python-version=3.13" in words)
    assert {"--only-binary=:all:", "--platform=manylinux2014_aarch64", "aiohttp~=3.14"} <= set(foreign)
    assert find_wheelhouse(output, ["aarch64-3.11", "aarch64-3.13"], root=project).missing == ()


def test_only_for_this_machine_may_wheels_be_built(project: Path, calls: list[tuple[str, ...]]) -> None:
    find_wheelhouse(project / "wheels", [LOCAL], ["supervisor"], root=project)
    assert not any("--only-binary=:all:" in words for words in calls)
    assert any("supervisor" in words for words in calls)


def test_new_sources_replace_the_nodes_archive_alone(project: Path, calls: list[tuple[str, ...]]) -> None:
    output = project / "wheels"
    before = find_wheelhouse(output, ["x86_64-3.11"], root=project)
    (project / "node" / "microchain" / "cli.py").write_text("changed = True")
    after = find_wheelhouse(output, ["x86_64-3.11"], root=project)
    assert after.missing == (after.node.name,) and after.dependencies == before.dependencies
    assert not Path(before.node.path).exists()


@pytest.mark.parametrize("kind", ["armv7l-3.11", "x86_64-3.99", "x86_64-3.11;rm"])
@pytest.mark.usefixtures("calls")
def test_a_kind_without_wheels_keeps_the_others_from_nothing(project: Path, kind: str) -> None:
    output = project / "wheels"
    found = find_wheelhouse(output, ["x86_64-3.11", kind], root=project)
    assert found.dependencies["x86_64-3.11"].error == ""
    assert found.dependencies[kind].error != ""
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_looking_makes_nothing(project: Path, calls: list[tuple[str, ...]]) -> None:
    found = find_wheelhouse(project / "wheels", ["x86_64-3.11"], make=False, root=project)
    assert len(found.missing) == 2 and calls == [] and not (project / "wheels").exists()
