"""Where the emulator keeps its files, and the names it gives to what it makes in the kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from msgspec import Struct

from emulator.errors import UsageError

__all__ = ["ROOT", "Settings", "read_settings"]

ROOT = Path(__file__).resolve().parent.parent

# Short: `PREFIX-desktop` names a namespace and a directory, and nothing longer than 15 characters names an interface.
_PREFIX = re.compile(r"[a-z][a-z0-9]{0,5}")


class Settings(Struct, frozen=True, kw_only=True):
    """One emulated testbed; two with other prefixes, networks and directories live side by side.

    ``network`` is the first three octets of its /24.
    """

    prefix: str = "tb"
    network: str = "10.77.0"
    directory: Path = ROOT / ".cache" / "emulated"
    images: Path = ROOT / ".cache" / "emulated"
    inventory: Path = ROOT / "inventory" / "emulated"

    @property
    def hosts(self) -> Path:
        return self.directory / "hosts"

    @property
    def golden(self) -> Path:
        return self.directory / "golden"

    @property
    def key(self) -> Path:
        """The private SSH key of the control machine."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def inventory_file(self) -> Path:
        return self.inventory / "hosts.yml"

    @property
    def lab(self) -> str:
        """The namespace that holds the bridge, and from which the hosts are reached."""
        return f"{self.prefix}-lab"

    @property
    def cgroup(self) -> str:
        """The name of our directory in every cgroup hierarchy; while it exists, something of ours may."""
        return f"testbed-emulator-{self.prefix}"

    def namespace(self, host: str) -> str:
        return f"{self.prefix}-{host}"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read ``TESTBED_EMULATOR_PREFIX``, ``_NET``, ``_DIR``, ``_IMAGES`` and ``_INVENTORY``; UsageError if one is wrong.

    A directory of one's own brings its inventory with it: ``DIR/inventory``, unless that is given too.
    """
    standard = Settings()
    prefix = environment.get("TESTBED_EMULATOR_PREFIX") or standard.prefix
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(f"TESTBED_EMULATOR_PREFIX '{prefix}': one to six of a-z and 0-9, a letter first")
    network = environment.get("TESTBED_EMULATOR_NET") or standard.network
    try:
        address = IPv4Address(f"{network}.0")
    except AddressValueError:
        raise UsageError(f"TESTBED_EMULATOR_NET '{network}': give three octets, such as 10.77.1") from None
    if not address.is_private or address.is_loopback or address.is_link_local:
        raise UsageError(f"TESTBED_EMULATOR_NET '{network}': take a private network, such as 10.77.1")
    directory = Path(environment.get("TESTBED_EMULATOR_DIR") or standard.directory).absolute()
    inventory = directory / "inventory" if directory != standard.directory else standard.inventory
    for path in (directory, Path(environment.get("TESTBED_EMULATOR_IMAGES") or standard.images).absolute()):
        # They stand in the options of an overlay mount, where these separate.
        if any(c in str(path) for c in ":,\\\n"):
            raise UsageError(f"{path}: with ':', ',' or '\\' it can't hold layers of hosts; set TESTBED_EMULATOR_DIR")
    return Settings(
        prefix=prefix,
        network=network,
        directory=directory,
        images=Path(environment.get("TESTBED_EMULATOR_IMAGES") or standard.images).absolute(),
        inventory=Path(environment.get("TESTBED_EMULATOR_INVENTORY") or inventory).absolute(),
    )
