"""Without root: one process holds namespaces in which the emulator is root, and works as it does on a machine.

``up`` starts the holder, ``down`` ends it, and all hosts with it, since it is process 1 of theirs. Every verb is run
again inside.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from emulator.cgroups import enable_controllers, find_hierarchies, own_group, remove_group
from emulator.commands import ENVIRONMENT, await_process, succeeds
from emulator.errors import EmulationFailed, UsageError
from emulator.settings import ROOT, Settings
from emulator.state import locked

__all__ = ["holder_process", "in_user_namespace", "prerequisites", "refuse_beside_holder", "run_again"]

_SCRIPT = Path(__file__).with_name("holder.sh")
_ENTER = ("unshare", "--user", "--map-root-user", "--map-auto")
_UNSHARE = (*_ENTER, "--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--uts", "--cgroup")
_SPACES = ("--user", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--preserve-credentials")
_LEAF = "holder"  # of a group with controllers, processes can be in leaves only
_END_S = 10.0
_TRY_OVERLAY = """mount -t tmpfs tmpfs /tmp; cd /tmp; mkdir a b c d
mount -t overlay none -o userxattr,lowerdir=a,upperdir=b,workdir=c d"""
_SCOPE = "'systemd-run --user --scope -p Delegate=yes ./testbed emulate …'"


class _Holder(Struct, frozen=True):
    """``holder.json``: process 1 of the namespaces, when it began (jiffies since boot), and the group around all."""

    process: int
    began: str
    group: str


def in_user_namespace() -> bool:
    """Are there things that the machine's root may do and this process never can?"""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def holder_process() -> int:
    """Return what the machine calls the process that holds the namespaces around us; 0 outside of such."""
    return int(os.environ.get("TESTBED_EMULATOR_HOLDER") or 0)


def prerequisites() -> list[str]:
    """Return what a user without root lacks here, and how to get it: a sentence for each."""
    lacks = []
    if not shutil.which("newuidmap", path=ENVIRONMENT["PATH"]):
        lacks.append("newuidmap is missing: 'apt-get install uidmap'")
    elif not succeeds(*_ENTER, "true"):
        lacks.append(_explain_refusal())
    elif not succeeds(*_ENTER, "--mount", "sh", "-euc", _TRY_OVERLAY):
        lacks.append("overlayfs can't be mounted by a user here: 'modprobe overlay', or Linux 5.11 or newer")
    group = _current_group()
    if group is None:
        lacks.append("this machine has no cgroup v2: boot it with systemd.unified_cgroup_hierarchy=1")
    elif not os.access(group, os.W_OK) or not os.access(group / "cgroup.procs", os.W_OK):
        lacks.append(f"the control group {group} isn't yours: run {_SCOPE}")
    return lacks


def refuse_beside_holder(settings: Settings) -> None:
    """As root leave a user's hosts alone: UsageError. They lie in this directory, and aren't seen from here."""
    if not holder_process() and _find(settings):
        raise UsageError(f"hosts of a user are up in {settings.directory}: './testbed emulate …' as that user")


def run_again(settings: Settings, verb: str, arguments: Sequence[str]) -> int:
    """Run the command line once more, inside the holder's namespaces; its exit code.

    Of an ``up`` that fails or is killed the holder goes too.
    """
    if _find(settings) is None:
        if verb not in ("up", "down"):
            raise UsageError("no emulated hosts are up; './testbed emulate up' boots them")
        if lacks := prerequisites():
            raise EmulationFailed(f"emulated hosts need root: 'sudo ./testbed emulate …'; or else: {'; '.join(lacks)}")
    with locked(settings):
        holder, started = _find(settings), None
        if holder is None:
            started = _start(settings)
            holder = _record(settings, started)
    _join(holder)
    code = await_process(_run_inside(holder, arguments))
    if verb == "down" and code == 0:
        _end(settings, holder)
    elif started and started.stdin and verb == "up" and code == 0:
        started.stdin.write(b"stay\n")
        started.stdin.flush()
    elif started:
        _end(settings, holder)
    return code


def _run_inside(holder: _Holder, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = ["nsenter", f"--target={holder.process}", *_SPACES, "--", "env", f"--chdir={Path.cwd()}"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"TESTBED_EMULATOR_HOLDER": str(holder.process), "PYTHONPATH": path}
    return subprocess.Popen([*command, sys.executable, "-m", "emulator", *arguments], env=environment)


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a holder, which ends with this process unless it is told to stay; EmulationFailed says what failed."""
    group = _around(settings)
    _remove_groups(group)
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))  # what the namespace shows begins where we are
    log = settings.directory / "holder.log"
    with log.open("wb") as errors:
        command = [*_UNSHARE, "sh", str(_SCRIPT), _LEAF]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.wait()
        raise EmulationFailed(f"namespaces can't be made here; {log} says:\n{log.read_text(errors='replace')}")
    return process


def _record(settings: Settings, started: subprocess.Popen[bytes]) -> _Holder:
    group = Path(_current_group() or "")
    for process in (started.pid, os.getpid()):  # only then controllers can be given to the groups below
        (group / _LEAF / "cgroup.procs").write_text(str(process))
    with suppress(OSError):  # others are in the group that was given to us: hosts can't be limited then
        enable_controllers(group.parent)
    pids = (group / _LEAF / "cgroup.procs").read_text().split()
    process = next(int(pid) for pid in pids if _is_first(pid))
    holder = _Holder(process, _began(process), str(group))
    _path(settings).write_bytes(msgspec.json.encode(holder))
    return holder


def _find(settings: Settings) -> _Holder | None:
    """Return the holder that lives, if one does."""
    try:
        holder = msgspec.json.decode(_path(settings).read_bytes(), type=_Holder)
    except (OSError, msgspec.MsgspecError):
        return None
    return holder if _began(holder.process) == holder.began else None


def _join(holder: _Holder) -> None:
    """Processes may move between groups only where all around both is the user's."""
    try:
        (Path(holder.group) / _LEAF / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise EmulationFailed(f"{holder.group} can't be entered from here ({error.strerror}): run {_SCOPE}") from None


def _end(settings: Settings, holder: _Holder) -> None:
    """End the holder, and so every process inside, and wait for it."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(holder.process)
        try:
            if _began(holder.process) == holder.began:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], _END_S)
        finally:
            os.close(descriptor)
    _path(settings).unlink(missing_ok=True)
    (settings.directory / "holder.log").unlink(missing_ok=True)
    _remove_groups(Path(holder.group))


def _remove_groups(group: Path) -> None:
    """Remove those that are empty, after going back to the one that was given to us, if that is possible."""
    with suppress(OSError):
        if _current_group() in (group, group / _LEAF):
            (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    stays = _current_group() in (group, group / _LEAF)
    with suppress(EmulationFailed):
        remove_group(group, timeout_s=0.0 if stays else _END_S)


def _around(settings: Settings) -> Path:
    return Path(_current_group() or "") / f"testbed-rootless-{settings.prefix}"


def _current_group() -> Path | None:
    unified = find_hierarchies().unified
    return None if unified is None else unified / own_group().lstrip("/")


def _is_first(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    numbers = next(line.split()[1:] for line in status if line.startswith("NSpid:"))
    return len(numbers) > 1 and numbers[-1] == "1"


def _began(process: int) -> str:
    """When a process that lives began, "" if there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _explain_refusal() -> str:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()} is not in /etc/passwd: log in as one who is"
    for path in ("/etc/subuid", "/etc/subgid"):
        lines = Path(path).read_text().splitlines() if Path(path).exists() else []
        if not any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
            add = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535"
            return f"{path} has no range for you: as root '{add} {user}', with numbers that nobody else has"
    return (
        "user namespaces are refused: 'sysctl -w kernel.unprivileged_userns_clone=1', and "
        "'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0' where there is that"
    )


def _path(settings: Settings) -> Path:
    return settings.directory / "holder.json"
