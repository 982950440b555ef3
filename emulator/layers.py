"""What a host's root is laid from: base image, perhaps a golden layer, its identity, and what it writes itself."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from emulator.clock import CLOCK_FILE, SHIM, install_shim, write_clock
from emulator.commands import run
from emulator.errors import UsageError
from emulator.files import remove_tree
from emulator.foreign import QEMU_DROP_IN, QEMU_SERVICES, is_foreign
from emulator.image import STAMP, USER, machine_of
from emulator.settings import Settings
from emulator.topology import Host

__all__ = [
    "golden_layer", "golden_path", "host_directory", "lower_layers", "make_control_key", "make_host_layers",
    "public_host_key", "save_golden", "upper_layer",
]  # fmt: skip

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

# What makes a host that host, or belongs to one boot of it; the layer of identity gives it again.
_NOT_GOLDEN = (
    "etc/machine-id", "etc/hostname", "etc/hosts", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub",
    "home/pi/.ssh/authorized_keys", "home/pi/.ansible", "root/.ansible", "run", "tmp", "var/tmp", "var/log/journal",
    "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret",
)  # fmt: skip


def host_directory(settings: Settings, host: Host) -> Path:
    return settings.hosts / host.name


def golden_path(settings: Settings, name: str) -> Path:
    """Return where the golden layer of that name is or would be; UsageError for a name that can't be."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"golden layer '{name}': a name is one to 32 of a-z, 0-9 and '-'")
    return settings.golden / name


def lower_layers(settings: Settings, host: Host, base: Path, golden: Path | None) -> str:
    """Return them as overlayfs wants them, the topmost first."""
    layers = [host_directory(settings, host) / "seed", *([golden] if golden else []), base]
    return ":".join(str(layer) for layer in layers)


def upper_layer(settings: Settings, host: Host, launcher: int | None) -> Path:
    """Return what a host wrote, as it is seen by its launcher (an image is mounted for that one only)."""
    path = host_directory(settings, host) / "rw" / "upper"
    return path if launcher is None else Path(f"/proc/{launcher}/root{path}")


def make_control_key(settings: Settings) -> str:
    """Make the control machine's SSH key if there is none; returns the public one."""
    public = settings.key.with_suffix(".pub")
    if not (settings.key.exists() and public.exists()):
        settings.key.unlink(missing_ok=True)
        private_text, public_text = _make_key("testbed")
        _write_private(settings.key, private_text)
        public.write_text(public_text)
    return public.read_text()


def make_host_layers(
    settings: Settings, host: Host, hosts: Sequence[Host], base: Path, control_key: str, disk_bytes: int
) -> None:
    """Make a host's directory: its identity, its clock, and its disk if it shall have one of limited size."""
    directory = host_directory(settings, host)
    seed = directory / "seed"
    (seed / "etc" / "ssh").mkdir(parents=True)
    names = "".join(f"{h.address} {h.name}\n" for h in hosts)
    (seed / "etc" / "hostname").write_text(f"{host.name}\n")
    (seed / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{names}")
    (seed / "etc" / "machine-id").write_text(f"{host.machine_id}\n")
    private_text, public_text = _make_key(host.name)
    _write_private(seed / "etc" / "ssh" / "ssh_host_ed25519_key", private_text)
    (seed / "etc" / "ssh" / "ssh_host_ed25519_key.pub").write_text(public_text)
    _authorize(seed, base, control_key)
    write_clock(directory / CLOCK_FILE, 0.0, 0.0)
    machine = machine_of(base)
    if is_foreign(machine):
        (seed / QEMU_DROP_IN).parent.mkdir(parents=True)
        (seed / QEMU_DROP_IN).write_text(QEMU_SERVICES)
    if shim := install_shim(settings, machine):
        target = seed / SHIM.lstrip("/")
        target.parent.mkdir(parents=True)
        shutil.copyfile(shim, target)
        (target.parent / CLOCK_FILE).touch()
        (seed / "etc" / "ld.so.preload").write_text(f"{SHIM}\n")
    if disk_bytes:
        _make_disk(directory / "disk.img", disk_bytes)


def public_host_key(settings: Settings, host: Host) -> str:
    """Return type and key of a host, as known_hosts has them."""
    text = (host_directory(settings, host) / "seed" / "etc" / "ssh" / "ssh_host_ed25519_key.pub").read_text()
    return " ".join(text.split()[:2])


def save_golden(settings: Settings, name: str, upper: Path, base: Path) -> Path:
    """Keep what a host wrote on top of ``base`` as the golden layer ``name``, in place of an older one."""
    target = golden_path(settings, name)
    draft = target.with_name(f"{name}.new")
    remove_tree(draft)
    draft.mkdir(parents=True)
    run("cp", "--archive", "--reflink=auto", str(upper), str(draft / "layer"))  # with owners and overlayfs's own marks
    for path in _NOT_GOLDEN:
        _delete(draft / "layer" / path)
    shutil.copyfile(base / STAMP, draft / "base")
    remove_tree(target)
    draft.rename(target)
    return target


def golden_layer(settings: Settings, name: str, base: Path) -> Path:
    """Return the golden layer of that name; UsageError if there is none, or if it was taken on another base image."""
    place = golden_path(settings, name)
    if not place.is_dir():
        raise UsageError(f"there is no golden layer '{name}'; './testbed emulate snapshot {name}' makes one of a host")
    if (place / "base").read_bytes() != (base / STAMP).read_bytes():
        raise UsageError(f"golden layer '{name}' belongs to another base image; boot without it and take it anew")
    return place / "layer"


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _authorize(seed: Path, base: Path, control_key: str) -> None:
    """Let the control machine in as ``pi``. Directories of the upper layer hide owner and mode of those below."""
    entry = next(e for e in (base / "etc" / "passwd").read_text().splitlines() if e.startswith(f"{USER}:")).split(":")
    uid, gid = int(entry[2]), int(entry[3])
    home = seed / "home" / USER
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "authorized_keys").write_text(control_key)
    for path, mode in ((home, 0o755), (home / ".ssh", 0o700), (home / ".ssh" / "authorized_keys", 0o600)):
        path.chmod(mode)
        os.chown(path, uid, gid)
    for path in (seed, seed / "etc", seed / "etc" / "ssh", seed / "home"):
        path.chmod(0o755)


def _make_disk(image: Path, size: int) -> None:
    with image.open("wb") as stream:
        os.truncate(stream.fileno(), size)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    run("mkfs.ext4", "-q", "-m", "0", "-E", options, str(image))


def _make_key(comment: str) -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return private, f"{key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()} {comment}\n"


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
