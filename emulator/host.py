"""Boots hosts, waits for their SSH, and runs commands in them."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from emulator.cgroups import Cgroups
from emulator.clock import CLOCK_FILE, SHIM
from emulator.commands import ENVIRONMENT
from emulator.errors import EmulationFailed
from emulator.foreign import is_foreign, register_command
from emulator.image import machine_of
from emulator.layers import host_directory, lower_layers
from emulator.network import inside
from emulator.settings import Settings
from emulator.state import Limits
from emulator.topology import Host

__all__ = [
    "console_tail",
    "enter_command",
    "execute",
    "execute_in_lab",
    "has_ended",
    "launch",
    "launcher_process",
    "wait_for_ssh",
]

_LAUNCH = Path(__file__).with_name("launch.sh")
_CONNECT_S = 1.0
_POLL_S = 0.05
_TAIL_LINES = 5

# include/uapi/linux/capability.h, in order
_CAPABILITIES = """
chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin
sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override
mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""


def launch(settings: Settings, cgroups: Cgroups, host: Host, base: Path, golden: Path | None, limits: Limits) -> None:
    """Start one host; it boots by itself and stays when this process ends."""
    cgroups.make_host(host.name, limits)
    directory = host_directory(settings, host)
    foreign = register_command(settings) if is_foreign(machine_of(base)) else []
    clock = f"--bind-ro={directory / CLOCK_FILE}:{Path(SHIM).with_name(CLOCK_FILE)}"
    shim = (directory / "seed" / SHIM.lstrip("/")).exists()
    environment = {
        **ENVIRONMENT,
        **cgroups.launcher(host.name),
        "HOST": host.name,
        "HOST_DIRECTORY": str(directory),
        "NAMESPACE": host.namespace,
        "LAYERS": lower_layers(settings, host, base, golden),
        "CLOCK_BIND": clock if shim else "",
    }
    with (directory / "console.log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "slave", *foreign, "sh", str(_LAUNCH)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    (directory / "launcher").write_text(str(process.pid))


def launcher_process(settings: Settings, host: Host) -> int:
    return int((host_directory(settings, host) / "launcher").read_text())


def wait_for_ssh(
    settings: Settings, cgroups: Cgroups, hosts: Sequence[Host], timeout_s: float, passing: Callable[[str], None]
) -> None:
    """Wait until every host lets users log in; EmulationFailed names those that don't, with their last words."""
    end = time.monotonic() + timeout_s
    waiting = list(hosts)
    while waiting:
        waiting = [host for host in waiting if not _is_ready(settings, cgroups, host)]
        passing(f"{len(hosts) - len(waiting)} of {len(hosts)} hosts are up")
        dead = [host for host in waiting if has_ended(launcher_process(settings, host))]
        if dead or (waiting and time.monotonic() > end):
            host = (dead or waiting)[0]
            raise EmulationFailed(
                f"{', '.join(h.name for h in dead or waiting)} did not boot; "
                f"the end of {host_directory(settings, host) / 'console.log'} says:\n{console_tail(settings, host)}"
            )
        time.sleep(_POLL_S)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def console_tail(settings: Settings, host: Host) -> str:
    path = host_directory(settings, host) / "console.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-_TAIL_LINES:]) or "nothing"


def enter_command(cgroups: Cgroups, host: str, command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command in a host as its root, with no more power than the host itself has.

    Capabilities are dropped by the machine's own program before the host is entered, whose programs may be anything.
    """
    pid = cgroups.init_process(host)
    if pid is None:
        raise EmulationFailed(f"{host} does not run; './testbed emulate start {host}' boots it")
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)
    kept = ",".join(f"+{name}" for bit, name in enumerate(_CAPABILITIES.split()) if mask >> bit & 1)
    drop = ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all"]
    spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
    return [*drop, "nsenter", "--target", str(pid), *spaces, "--", *command]


def execute(cgroups: Cgroups, host: str, command: Sequence[str]) -> int:
    """Run a command in a host, with this terminal; its exit code."""
    if cgroups.is_frozen(host):
        raise EmulationFailed(f"{host} is paused; './testbed emulate resume {host}' lets it go on")
    line = enter_command(cgroups, host, command)
    groups = cgroups.visit(host)

    def join() -> None:
        for group in groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    environment = {
        "PATH": ENVIRONMENT["PATH"],
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "TERM": os.environ.get("TERM", "dumb"),
    }
    with subprocess.Popen(line, env=environment, preexec_fn=join) as process:
        return _await(process)


def execute_in_lab(settings: Settings, command: Sequence[str]) -> int:
    """Run a command of this machine in the network of the hosts; its exit code."""
    with subprocess.Popen(["ip", "netns", "exec", settings.lab, *command]) as process:
        return _await(process)


def _await(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # it got one too
            continue
        return code if code >= 0 else 128 - code


def _is_ready(settings: Settings, cgroups: Cgroups, host: Host) -> bool:
    """Does sshd greet, and may others than root log in already?"""
    with inside(settings.lab):
        connection = socket.socket()
    with connection:
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect((host.address, 22))
            if not select.select([connection], [], [], _CONNECT_S)[0] or not connection.recv(4).startswith(b"SSH-"):
                return False
        except OSError:
            return False
    pid = cgroups.init_process(host.name)
    return pid is not None and not os.path.lexists(f"/proc/{pid}/root/run/nologin")
