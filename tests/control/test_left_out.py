"""Which hosts a playbook left out, read from its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.playbooks import hosts_left_out

_TASK = "TASK [Name the hosts that were left out] ***\n"


@pytest.mark.parametrize(
    ("log", "sentences"),
    [
        ("", []),
        (f"{_TASK}\nPLAY RECAP ***\npi01 : ok=1\n", []),
        (
            f"{_TASK}ok: [pi01] => \n    msg:\n    - 'pi03: it does not answer at 10.0.0.13: is its cable in?\n"
            "        Then run this again.'\n    - 'pi04: its disk is full.'\n\nTASK [Seal the run] ***\n",
            ["pi03: it does not answer at 10.0.0.13: is its cable in? Then run this again.", "pi04: its disk is full."],
        ),
        (f"{_TASK}ok: [pi01] => \n    msg: ['cut off\n", ["msg: ['cut off"]),
    ],
)
def test_hosts_that_were_left_out_are_named_with_what_to_do(tmp_path: Path, log: str, sentences: list[str]) -> None:
    path = tmp_path / "ansible.log"
    path.write_text(log)
    assert hosts_left_out(path) == sentences
