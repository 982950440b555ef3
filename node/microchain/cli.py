"""The command ``microchain-node``: what happens on a node's host, and the operator's side of keys and genesis.

Results go to stdout, what a person should know to stderr. Exit code 2: the input was wrong, and one sentence says how.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from microchain.config import Address, ConfigError, NodeConfig, load_config
from microchain.consensus.genesis import GenesisError, encode_genesis
from microchain.crypto.authority import AuthorityError
from microchain.crypto.signatures import SCHEMES, KeyFileError

__all__ = ["main"]

_DESCRIPTION = """\
A Microchain validator and the tools around it.

A chain begins in four steps:
  1. on each host       microchain-node keys --directory KEYS --name validator-1 > validator-1.json
  2. by the operator    microchain-node authority init --directory CA
                        microchain-node authority sign --directory CA --output CERTS --bundle validator-1.json@10.0.0.1
  3. by the operator    microchain-node genesis --parameters parameters.json --run-id $(openssl rand -hex 16) \\
                            --bundle validator-1.json@10.0.0.1:9101 --bundle ... --output genesis.json
  4. on each host       microchain-node run --config validator-1.toml
     (KEYS now also holds the certificate as tls.crt and the authority's ca.crt)
"""


class UsageError(ValueError):
    """Input that a command cannot work with."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` explains\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _build_parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except (UsageError, ConfigError, GenesisError, KeyFileError, AuthorityError) as error:
        print(f"microchain-node: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        subject = f"{error.filename}: " if error.filename else ""
        print(f"microchain-node: {subject}{error.strerror or error}", file=sys.stderr)
        return 2
    return code


# --- commands; what only one of them needs is imported by it: a validator's memory is measured ---


def _keys(options: argparse.Namespace) -> int:
    from microchain.keys import create_keys

    bundle, made = create_keys(
        options.directory, options.name, role=options.role, signature=options.signature, hosts=options.host
    )
    if made:
        print(f"created {', '.join(made)}", file=sys.stderr)
    _print_json(bundle)
    return 0


def _genesis(options: argparse.Namespace) -> int:
    from microchain.genesis_file import build_genesis
    from microchain.keys import write_whole

    parameters = _read_json(options.parameters)
    bundles, addresses = [], {}
    for text in options.bundle:
        path, address = _split_bundle(text)
        document = _read_json(path)
        bundles.append(document)
        if address:
            addresses[str(document.get("name"))] = address
    genesis = build_genesis(parameters, bundles, options.run_id, addresses)
    encoded = encode_genesis(genesis)
    if not options.output.exists() or options.output.read_bytes() != encoded:
        write_whole(options.output, encoded, 0o644)
        print(f"created {options.output}", file=sys.stderr)
    _print_json({"chain_id": genesis.chain_id().hex(), "run_id": genesis.run_id, "nodes": len(genesis.registry)})
    return 0


def _run(options: argparse.Namespace) -> int:
    config = load_config(options.config)

    from microchain import runtime

    return runtime.main(config)


def _inspect(options: argparse.Namespace) -> int:
    from microchain.ledger.ledger import LedgerError

    try:
        document, sound = _read_ledger(load_config(options.config), only_digest=options.digest)
    except LedgerError as error:
        raise UsageError(str(error)) from None
    _print_json(document)
    return 0 if sound else 1


def _read_ledger(config: NodeConfig, *, only_digest: bool) -> tuple[dict[str, Any], bool]:
    from microchain.genesis_file import load_genesis
    from microchain.ledger.ledger import Ledger

    chain_id = load_genesis(config.node.genesis).chain_id()
    if not config.ledger_path.exists():
        raise UsageError(f"{config.ledger_path}: there is no ledger yet; the node has not run on this chain")
    ledger = Ledger(config.ledger_path, chain_id, read_only=True)
    try:
        if only_digest:
            return ledger.digest() | {"problems": ledger.verify()}, True
        height, block = ledger.finalized()
        problems = ledger.verify()
        document = {
            "name": config.node.name,
            "chain_id": chain_id.hex(),
            "finalized": {"height": height, "id": block.hex()},
            "evidence": len(ledger.evidence()),
            "problems": problems,
        }
        return document, not problems
    finally:
        ledger.close()


def _bench(options: argparse.Namespace) -> int:
    from microchain.bench import format_report, run_bench

    report = run_bench(options.directory, seconds=options.seconds)
    if options.json:
        _print_json(report)
    else:
        print(format_report(report))
    return 0


def _authority_init(options: argparse.Namespace) -> int:
    from microchain.certificates import init_authority

    authority, made = init_authority(options.directory, options.name, days=options.days, now=datetime.now(UTC))
    if made:
        print(f"created {options.directory}", file=sys.stderr)
    sys.stdout.write(authority.certificate.decode("ascii"))
    return 0


def _authority_sign(options: argparse.Namespace) -> int:
    from microchain.certificates import issue_certificates, load_authority_directory
    from microchain.genesis_file import parse_bundle

    authority = load_authority_directory(options.directory)
    requests = []
    for text in options.bundle:
        path, hosts = _split_hosts(text)
        requests.append((parse_bundle(_read_json(path)), hosts))
    made = issue_certificates(authority, requests, options.output, days=options.days, now=datetime.now(UTC))
    if made:
        print(f"created {', '.join(made)}", file=sys.stderr)
    _print_json({"created": made, "kept": [bundle.name for bundle, _ in requests if bundle.name not in made]})
    return 0


# --- input and output ---


def _print_json(document: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not a JSON object: {error}") from None


def _split_bundle(text: str) -> tuple[Path, str]:
    """Split ``FILE[@HOST:PORT]``."""
    path, separator, address = text.rpartition("@")
    if not separator or Path(text).exists():
        return Path(text), ""
    try:
        return Path(path), Address(address)
    except ValueError as error:
        raise UsageError(f"--bundle {text}: {error}") from None


def _split_hosts(text: str) -> tuple[Path, list[str]]:
    """Split ``FILE[@HOST[,HOST...]]``."""
    path, separator, hosts = text.rpartition("@")
    if not separator or Path(text).exists():
        return Path(text), []
    return Path(path), [host for host in hosts.split(",") if host]


# --- the command line ---


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="microchain-node", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_host_commands(commands)
    _add_operator_commands(commands)
    return parser


def _add(commands: Any, name: str, command: Any, summary: str, detail: str = "") -> argparse.ArgumentParser:
    description = summary[0].upper() + summary[1:] + "." + (f" {detail}" if detail else "")
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description)
    if command:
        parser.set_defaults(command=command)
    return parser


def _add_host_commands(commands: Any) -> None:
    keys = _add(
        commands,
        "keys",
        _keys,
        "make this node's private keys and print its public bundle",
        "Keys that are there are kept, so it can be repeated; what was made is named on stderr.",
    )
    keys.add_argument("--directory", type=Path, required=True, help="where the keys are kept (mode 0700)")
    keys.add_argument("--name", required=True, help="the node's name, such as validator-1")
    keys.add_argument("--role", choices=["validator", "device"], default="validator", help="default: validator")
    keys.add_argument("--signature", choices=list(SCHEMES), default="rsa-2048", help="default: rsa-2048")
    keys.add_argument(
        "--host", action="append", default=[], help="IP address or DNS name that its certificate is asked for; repeat"
    )

    run = _add(commands, "run", _run, "run a validator until SIGTERM")
    run.add_argument("--config", type=Path, required=True, help="the node's TOML file")

    inspect = _add(
        commands,
        "inspect",
        _inspect,
        "check a node's ledger and print what it holds, as JSON",
        "Exit code 1 if the ledger contradicts itself. The node may be running.",
    )
    inspect.add_argument("--config", type=Path, required=True, help="the node's TOML file")
    inspect.add_argument("--digest", action="store_true", help="print ids and what an audit finds, to compare nodes")

    bench = _add(commands, "bench", _bench, "measure this board's cryptography, fsync and disk (medians)")
    bench.add_argument("--directory", type=Path, default=Path(), help="on the disk to measure (default: here)")
    bench.add_argument("--seconds", type=_positive(float), default=0.3, help="for each figure (default: 0.3)")
    bench.add_argument("--json", action="store_true", help="JSON instead of a table")


def _add_operator_commands(commands: Any) -> None:
    genesis = _add(commands, "genesis", _genesis, "build a chain's genesis document from the nodes' bundles")
    genesis.add_argument("--parameters", type=Path, required=True, help="JSON object; {} means the defaults")
    genesis.add_argument(
        "--bundle", action="append", required=True, metavar="FILE[@HOST:PORT]",
        help="a node's bundle; a validator needs the address at which its peers reach it; repeat",
    )  # fmt: skip
    genesis.add_argument("--run-id", required=True, help="32 hex digits, other ones for each chain")
    genesis.add_argument("--output", type=Path, required=True, help="the file to write")

    authority = _add(commands, "authority", None, "run the testbed's TLS certificate authority")
    actions = authority.add_subparsers(metavar="ACTION", required=True, parser_class=_Parser)
    init = _add(actions, "init", _authority_init, "make the authority if it is not there, and print its certificate")
    init.add_argument("--directory", type=Path, required=True, help="where ca.key and ca.crt are kept (mode 0700)")
    init.add_argument("--name", default="Microchain testbed", help="default: Microchain testbed")
    init.add_argument("--days", type=_positive(int), default=3650, help="how long it is valid (default: 3650)")
    sign = _add(
        actions,
        "sign",
        _authority_sign,
        "issue certificates for bundles",
        "A certificate that is still right is kept; what was made is named on stderr.",
    )
    sign.add_argument("--directory", type=Path, required=True, help="the authority's directory")
    sign.add_argument("--output", type=Path, required=True, help="directory in which NAME.crt are written")
    sign.add_argument(
        "--bundle", action="append", required=True, metavar="FILE[@HOST[,HOST...]]",
        help="a node's bundle and the IP addresses or DNS names that its certificate is for; repeat",
    )  # fmt: skip
    sign.add_argument("--days", type=_positive(int), default=825, help="how long they are valid (default: 825)")


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> int | float:
        value = kind(text)
        if not 0 < value < 1_000_000:
            raise argparse.ArgumentTypeError(f"expected a number above 0 and below a million, not {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


if __name__ == "__main__":
    sys.exit(main())
