"""The script `testbed` before there is a .venv: what it refuses, what it repeats, what it leaves alone."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.testbed_copy import ROOT


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """The script as a module, for a project at ``tmp_path``; what it would run is noted in ``commands``."""
    loader = SourceFileLoader("testbed_script", str(ROOT / "testbed"))
    spec = importlib.util.spec_from_loader("testbed_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    for name, place in (
        ("PROJECT", "."), ("CACHE", ".cache"), ("VENV", ".venv"), ("PYTHON", ".venv/bin/python"),
        ("REQUIREMENTS", "requirements.txt"), ("INSTALLED", ".venv/installed"), ("INSTALLING", ".venv/installing"),
    ):  # fmt: skip
        setattr(module, name, tmp_path / place)
    (tmp_path / "requirements.txt").write_text("one==1\n")
    commands: list[list[str]] = []

    def run(command: list[str], packages: int = 0) -> None:
        commands.append(command)
        python = tmp_path / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        if not python.exists():
            python.symlink_to(sys.executable)

    vars(module).update(run=run, commands=commands)
    return module


def test_a_python_too_old_gets_one_sentence(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr(sys, "version", "3.9.2 (default)")
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        script.main(["demo"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "Python 3.11 or newer is needed" in told
    assert "3.9.2" in told


def test_a_newer_python_of_the_machine_is_taken(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[str]] = []

    def execv(program: str, words: list[str]) -> None:
        taken.append(words)
        raise SystemExit  # it would not return

    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/python3.12" if name == "python3.12" else None)
    monkeypatch.setattr("os.execv", execv)
    with pytest.raises(SystemExit):
        script.use_suitable_python(["demo"])
    assert taken[0][0] == "/usr/bin/python3.12"
    assert taken[0][-1] == "demo"


def test_without_venv_it_names_the_package_to_install(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        script.install()
    assert ended.value.code == 3
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in capsys.readouterr().err


def test_what_is_installed_is_not_installed_again(script: Any) -> None:
    script.CACHE.mkdir()
    script.install()
    assert script.is_installed()
    assert not script.INSTALLING.exists()


def test_changed_requirements_are_installed_into_what_is_there(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script.CACHE.mkdir()
    script.install()
    script.commands.clear()
    script.REQUIREMENTS.write_text("one==2\n")
    assert not script.is_installed()
    monkeypatch.setattr(script, "has_pip", lambda: True)
    script.install()
    assert [command[1:4] for command in script.commands] == [["-m", "pip", "install"]]
    assert script.is_installed()


def test_an_interrupted_installation_begins_anew(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script.CACHE.mkdir()
    script.VENV.mkdir()
    script.INSTALLING.touch()
    monkeypatch.setattr(script, "has_pip", lambda: True)
    assert not script.is_installed()
    script.install()
    assert script.commands[0][1:4] == ["-m", "venv", "--clear"]
    assert script.is_installed()


def test_an_environment_that_was_moved_is_made_anew(script: Any) -> None:
    script.CACHE.mkdir()
    script.install()
    script.commands.clear()
    script.PROJECT = script.PROJECT / "elsewhere"
    assert not script.is_installed()
    script.install()
    assert "--clear" in script.commands[0]


def test_a_directory_that_cannot_be_written_gets_one_sentence(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {})
    script.CACHE = script.REQUIREMENTS / ".cache"
    with pytest.raises(SystemExit) as ended:
        script.main(["demo"])
    assert ended.value.code == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "must be writable" in told
