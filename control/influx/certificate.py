"""The TLS key and certificate of a testbed's InfluxDB server, signed by the testbed's own authority.

``python -m control.influx.certificate --state DIR --host ADDRESS`` makes them from a playbook, which brings them to the
server's host. The key is made here, not there as a validator's is: that host has nothing of ours to make one with, and
who holds the authority can be the server anyway.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from microchain.certificates import BACKDATED, RENEWED_BEFORE, init_authority
from microchain.crypto.authority import AuthorityError, create_request, create_tls_key, is_issued, sign_request
from microchain.keys import write_whole

from control.enrol import AUTHORITY_DAYS, CERTIFICATE_DAYS

__all__ = ["NAME", "issue", "main"]

NAME = "influxdb"


def issue(state: Path, hosts: Sequence[str], *, check: bool = False) -> bool:
    """Bring ``state/influxdb`` (tls.key, tls.crt) up to date; whether it was not, or with ``check`` is not.

    ``hosts`` are the addresses and names that the certificate is for. AuthorityError for one that can't be.
    """
    directory, now = state / NAME, datetime.now(UTC)
    key_file, certificate_file = directory / "tls.key", directory / "tls.crt"
    if check and not (key_file.exists() and certificate_file.exists()):
        return True
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    issuer, _ = init_authority(state / "authority", "Microchain testbed", days=AUTHORITY_DAYS, now=now)
    directory.mkdir(mode=0o700, exist_ok=True)
    if not key_file.exists():
        write_whole(key_file, create_tls_key())
    request = create_request(key_file.read_bytes(), NAME, hosts)
    until = now + RENEWED_BEFORE
    if certificate_file.exists() and is_issued(
        certificate_file.read_bytes(), request, issuer, name=NAME, hosts=hosts, until=until
    ):
        return False
    if not check:
        not_after = now + timedelta(days=CERTIFICATE_DAYS)
        certificate = sign_request(
            request, issuer, name=NAME, hosts=hosts, not_before=now - BACKDATED, not_after=not_after
        )
        write_whole(certificate_file, certificate, 0o644)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.influx.certificate", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the control side's directory of this deployment")
    parser.add_argument("--host", action="append", required=True, help="an address or name of the server; repeatable")
    parser.add_argument("--check", action="store_true", help="write nothing, only say whether something would be")
    options = parser.parse_args(arguments)
    try:
        changed = issue(options.state.resolve(), options.host, check=options.check)
    except (AuthorityError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"changed": changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
