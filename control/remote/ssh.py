"""Connections by Fabric: host keys that are not known are refused, and every wait has an end."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.config import SSHConfig
from paramiko.ssh_exception import AuthenticationException, BadHostKeyException, NoValidConnectionsError, SSHException

from control.project import ROOT
from control.remote.hosts import Host
from control.remote.session import Away, Refused

__all__ = ["SshSession"]

_CONNECT_S = 10
_ANSWER_S = 20
_KEEPALIVE_S = 5
_LOST_AFTER_MS = 15_000
_CHUNK = 1 << 16
_KNOWN_HOSTS = "~/.ssh/known_hosts /etc/ssh/ssh_known_hosts"


class SshSession:
    """An open connection to one host; Away if there can't be one."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._connection = _make_connection(host)
        self._place = f"{self._connection.host}, port {self._connection.port}"
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def start(self, line: str) -> SshChannel:
        try:
            channel = self._connection.transport.open_session(timeout=_CONNECT_S)
            channel.set_combine_stderr(True)
            channel.exec_command(line)
        except paramiko.ChannelException as error:
            raise Refused(f"the host opens no more sessions ({error}): see MaxSessions in its sshd_config") from None
        except (SSHException, OSError, EOFError) as error:
            raise self._lost(error) from None
        return SshChannel(channel, self._lost)

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as this end knows."""
        return bool(self._connection.is_connected)

    def close(self) -> None:
        self._connection.close()
        for gateway in _gateways(self._connection):
            gateway.close()

    def _open(self) -> None:
        files = _trust_known_hosts(self._connection)
        user = self._connection.user
        try:
            self._connection.open()
            _notice_death(self._connection.transport)
        except BadHostKeyException as error:
            raise Away(
                f"its host key {_fingerprint(error.key)} is not the one that is known: another machine answers at this "
                f"address, or it was installed anew. If you know why, `ssh-keygen -R {_entry(self._connection)} "
                f"-f {files[0]}` and add the new key"
            ) from None
        except _UnknownHostKey as error:
            raise Away(
                f"its host key {error.fingerprint} is not known: compare it with the host's own (`ssh-keygen -lf "
                f"/etc/ssh/ssh_host_ed25519_key.pub` there), then add it to {files[0]} (`ssh-keyscan` prints it)"
            ) from None
        except (AuthenticationException, paramiko.PasswordRequiredException) as error:
            keys = ", ".join(self._connection.connect_kwargs.get("key_filename", [])) or "the keys of this account"
            raise Away(
                f"it does not let {user} in with {keys} ({error}): check ansible_user and "
                "ansible_ssh_private_key_file, or `ssh-copy-id` the key"
            ) from None
        except FileNotFoundError as error:
            raise Away(f"{error.filename} does not exist: check ansible_ssh_private_key_file") from None
        except (NoValidConnectionsError, socket.gaierror, TimeoutError, ConnectionError, OSError) as error:
            reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise Away(f"it can't be reached at {self._place} ({reason}): is it on, and ansible_host right?") from None
        except (SSHException, EOFError, ValueError) as error:
            raise Away(
                f"{self._place} makes no connection ({error or 'it hung up'}): is an SSH server there?"
            ) from None

    def _lost(self, error: Exception | str) -> Away:
        return Away(f"the connection to {self._place} broke ({error or 'it hung up'}): is it still on?")


class SshChannel:
    """A command on the host."""

    def __init__(self, channel: Any, lost: Any) -> None:
        self._channel = channel
        self._lost = lost

    def receive(self, timeout_s: float) -> bytes | None:
        self._channel.settimeout(timeout_s)
        try:
            return bytes(self._channel.recv(_CHUNK))
        except TimeoutError:
            return None
        except (SSHException, OSError, EOFError) as error:
            raise self._lost(error) from None

    def send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except (SSHException, OSError) as error:
            raise self._lost(error) from None

    def has_ended(self) -> bool:
        return bool(self._channel.exit_status_ready())

    def exit_code(self, timeout_s: float) -> int:
        self._channel.status_event.wait(timeout_s)
        code = int(self._channel.exit_status)
        if code < 0:
            raise self._lost("before the command ended")
        return code

    def close(self) -> None:
        self._channel.close()


class _UnknownHostKey(SSHException):  # type: ignore[misc]
    def __init__(self, key: Any) -> None:
        super().__init__("unknown host key")
        self.fingerprint = _fingerprint(key)


class _RejectPolicy(paramiko.RejectPolicy):  # type: ignore[misc]
    """Refuses as its parent does, and tells the key's fingerprint."""

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        raise _UnknownHostKey(key)


def _make_connection(host: Host) -> Any:
    """Return a Fabric connection that heeds Ansible's options first, then the user's own ssh_config, as ssh does."""
    own = Path("~/.ssh/config").expanduser()
    text = "\n".join(["Host *", *host.options, own.read_text(errors="replace") if own.exists() else ""])
    passwords = {} if host.password is None else {"password": host.password}
    try:
        ssh_config = SSHConfig.from_file(io.StringIO(text))
        return fabric.Connection(
            host.address,
            user=host.user,
            port=host.port,
            config=fabric.Config(ssh_config=ssh_config),
            connect_timeout=_CONNECT_S,
            connect_kwargs={
                **passwords,
                "key_filename": [str(_absolute(key)) for key in host.keys],
                "look_for_keys": not host.keys,
                "banner_timeout": _ANSWER_S,
                "auth_timeout": _ANSWER_S,
                "channel_timeout": _CONNECT_S,
            },
        )
    except (SSHException, ValueError) as error:
        raise Away(f"its ssh options can't be used: {error}; see ansible_ssh_common_args and ~/.ssh/config") from None


def _gateways(connection: Any) -> list[Any]:
    """Return the connections that this one goes through, the nearest to it first."""
    found = []
    gateway = connection.gateway
    while isinstance(gateway, fabric.Connection):
        found.append(gateway)
        gateway = gateway.gateway
    return found


def _trust_known_hosts(connection: Any) -> list[str]:
    """Load known host keys into a connection and those that it goes through; returns the names of its files."""
    for one in [connection, *_gateways(connection)]:
        one.client.set_missing_host_key_policy(_RejectPolicy())
        for path in map(_absolute, _known_hosts(one)):
            if path.exists():
                one.client.load_system_host_keys(str(path))
    return _known_hosts(connection)


def _known_hosts(connection: Any) -> list[str]:
    """Return the names of files; one name may hold blanks."""
    names = str(connection.ssh_config.get("userknownhostsfile", _KNOWN_HOSTS)).strip('"')
    return [names] if _absolute(names).exists() else names.split()


def _absolute(name: str) -> Path:
    """Ansible runs in the project's directory, and so are relative names meant."""
    return ROOT / Path(name).expanduser()


def _notice_death(transport: Any) -> None:
    """See to it that a host that is gone without a word is noticed."""
    transport.set_keepalive(_KEEPALIVE_S)
    if isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LOST_AFTER_MS)


def _fingerprint(key: Any) -> str:
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"{key.get_name()} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _entry(connection: Any) -> str:
    """How the host is written in known_hosts."""
    return str(connection.host) if connection.port == 22 else f"'[{connection.host}]:{connection.port}'"
