"""A real OpenSSH server on loopback: a process of the test, with keys and configuration in a directory of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from control.remote.hosts import Host
from tests.cluster import free_ports

SUDO_PASSWORD = "correct horse"

_SUDO = f"""\
#!/bin/sh
# Stands in for sudo: wants a password for everything, and says it as sudo does.
while [ $# -gt 0 ]; do
  case $1 in
    -n) echo "sudo: a password is required" >&2; exit 1 ;;
    -p) prompt=$2; shift ;;
    --) shift; break ;;
  esac
  shift
done
echo "We trust you have received the usual lecture." >&2
for try in 1 2; do
  printf %s "$prompt" >&2
  read -r given
  [ "$given" = "{SUDO_PASSWORD}" ] && BY_SUDO=yes exec "$@"
  echo "Sorry, try again." >&2
done
exit 1
"""


def find_sshd() -> str | None:
    """Where the server's program is."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


needs_sshd = pytest.mark.skipif(find_sshd() is None, reason="no sshd here (package openssh-server)")


class SshServer:
    """``start`` and ``stop`` it as often as you like; ``host()`` is how it is reached."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_ports(1)[0]
        self.key = self._make_key("client")
        self.host_key = self._make_key("host")
        self.known_hosts = root / "known_hosts"
        self.know(self.host_key)
        (root / "bin").mkdir()
        (root / "bin" / "sudo").write_text(_SUDO)
        (root / "bin" / "sudo").chmod(0o755)
        shutil.copyfile(self.key.with_suffix(".pub"), root / "authorized_keys")
        (root / "sshd_config").write_text(
            f"""\
Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.host_key}
AuthorizedKeysFile {root / "authorized_keys"}
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
SetEnv PATH={root / "bin"}:{os.environ.get("PATH", os.defpath)}
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    def host(self, **changes: object) -> Host:
        """The server as a host of an inventory."""
        values: dict[str, object] = {
            "name": "board",
            "address": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "keys": (str(self.key),),
            "options": (f"UserKnownHostsFile {self.known_hosts}", "IdentityAgent none"),
        }
        return Host(**{**values, **changes})  # type: ignore[arg-type]

    def know(self, key: Path) -> None:
        """Make this the one host key that is known."""
        kind, blob = key.with_suffix(".pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {blob}\n")

    def make_another_key(self) -> Path:
        return self._make_key("another")

    def start(self) -> None:
        program = find_sshd()
        assert program is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where the server of root locks itself in
        with (self.root / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(self.root / "sshd_config")], stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while f"port {self.port}" not in (self.root / "sshd.log").read_text().rpartition("Received signal")[2]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.root / "sshd.log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and every connection to it, as when the host's power goes."""
        if self._process is None:
            return
        for process in [*_descendants(self._process.pid), self._process.pid]:
            try:
                os.kill(process, signal.SIGTERM if process == self._process.pid else signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        self._process = None

    def _make_key(self, name: str) -> Path:
        path = self.root / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path


def _descendants(process: int) -> list[int]:
    """The server's own processes, one for each connection; what runs in a connection is not among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == process and name.startswith("sshd"):
            child = int(stat.parent.name)
            found += [*_descendants(child), child]
    return found
