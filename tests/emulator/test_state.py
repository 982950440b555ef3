"""The record of what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.errors import EmulationFailed, UsageError
from emulator.settings import Settings
from emulator.state import Limits, Link, State, forget_state, locked, read_state, running_state, write_state


def settings_in(place: Path) -> Settings:
    return Settings(directory=place, images=place, inventory=place / "inventory")


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    state = State(
        phase="up",
        hosts=["desktop", "pi01"],
        bases={"desktop": "/b", "pi01": "/b"},
        limits={"pi01": Limits(1, 0.5)},
        links={"pi01": Link(delay_s=0.1, shared=True)},
        blocked=[("desktop", "pi01")],
    )
    write_state(settings, state)
    assert read_state(settings) == state
    forget_state(settings)
    assert read_state(settings) is None


def test_verbs_say_how_to_get_hosts(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(UsageError, match="emulate up"):
        running_state(settings)
    write_state(settings, State(phase="starting", hosts=["desktop"], bases={"desktop": "/b"}))
    with pytest.raises(UsageError, match="emulate down"):
        running_state(settings)


@pytest.mark.parametrize("content", ["", "{}", '{"phase": "up", "hosts": 3}', "\0"])
def test_a_damaged_record_is_an_error_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(EmulationFailed, match="emulate down"):
        read_state(settings_in(tmp_path))


def test_of_two_commands_one_waits_and_then_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.state._LOCK_S", 0.0)
    settings = settings_in(tmp_path)
    with locked(settings), pytest.raises(UsageError, match="at work"), locked(settings):
        pass
