"""Genesis documents as files: built by the operator from bundles, read by nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from microchain.config import Address, suggest
from microchain.consensus.genesis import (
    Genesis,
    GenesisError,
    Parameters,
    RegistryEntry,
    decode_genesis,
    encode_genesis,
)
from microchain.crypto.signatures import get_scheme
from microchain.crypto.vrf import is_valid_key
from microchain.keys import Bundle

__all__ = ["build_genesis", "load_genesis", "parse_bundle", "parse_parameters"]


def parse_parameters(document: Mapping[str, Any] | Parameters) -> Parameters:
    """Check genesis parameters; GenesisError names the key, and the nearest one for a key that does not exist."""
    try:
        return msgspec.convert(document, Parameters)
    except msgspec.ValidationError as error:
        raise GenesisError(f"parameters: {_explain(str(error), Parameters)}") from None


def parse_bundle(document: Mapping[str, Any] | Bundle) -> Bundle:
    """Check a bundle that ``microchain-node keys`` printed; GenesisError says what is wrong with it."""
    try:
        bundle = msgspec.convert(document, Bundle)
    except msgspec.ValidationError as error:
        raise GenesisError(f"bundle: {_explain(str(error), Bundle)}") from None
    if not get_scheme(bundle.signature).is_public_key(bundle.signing_key):
        raise GenesisError(f"bundle {bundle.name}: signing_key is not an {bundle.signature} public key")
    for field, key in (("vrf_key", bundle.vrf_key), ("pvss_key", bundle.pvss_key)):
        if not is_valid_key(key):
            raise GenesisError(f"bundle {bundle.name}: {field} {key.hex()[:16]}… is no point of edwards25519")
    if len(bundle.tls_key) != 32:
        raise GenesisError(f"bundle {bundle.name}: tls_key has {len(bundle.tls_key)} bytes, a SHA-256 has 32")
    return bundle


def build_genesis(
    parameters: Mapping[str, Any] | Parameters,
    bundles: Iterable[Mapping[str, Any] | Bundle],
    run_id: str,
    addresses: Mapping[str, str],
) -> Genesis:
    """Return the genesis document of the nodes whose bundles are given, in that order.

    ``run_id`` is 32 hex digits, new for each chain; ``addresses`` maps each validator's name to its peer address
    (``host:port``). GenesisError says what does not fit together.
    """
    checked = parse_parameters(parameters)
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise GenesisError(f"run id {run_id!r} is not 32 lower-case hex digits")
    nodes = [parse_bundle(bundle) for bundle in bundles]
    strangers = sorted(set(addresses) - {node.name for node in nodes})
    if strangers:
        raise GenesisError(f"there is an address for {', '.join(strangers)}, but no bundle")
    registry = tuple(_entry(node, checked, addresses.get(node.name, "")) for node in nodes)
    return decode_genesis(encode_genesis(Genesis(run_id=run_id, parameters=checked, registry=registry)))


def load_genesis(path: Path) -> Genesis:
    """Read and check a genesis document; GenesisError names the file and what is wrong with it."""
    try:
        return decode_genesis(path.read_bytes())
    except OSError as error:
        raise GenesisError(f"{path}: cannot read the genesis document: {error.strerror}") from None
    except GenesisError as error:
        raise GenesisError(f"{path}: {error}") from None


def _entry(node: Bundle, parameters: Parameters, address: str) -> RegistryEntry:
    if node.signature != parameters.signature:
        raise GenesisError(
            f"bundle {node.name}: its signing key is {node.signature}, the parameters say {parameters.signature}; "
            "make other keys or set the parameter `signature`"
        )
    if node.role == "validator":
        try:
            Address(address)
        except ValueError as error:
            raise GenesisError(f"validator {node.name}: its peer address: {error}") from None
    return RegistryEntry(
        name=node.name,
        role=node.role,
        signing_key=node.signing_key,
        vrf_key=node.vrf_key,
        pvss_key=node.pvss_key,
        tls_key=node.tls_key,
        address=str(address),
    )


def _explain(message: str, struct: type[msgspec.Struct]) -> str:
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if not unknown:
        return message
    known = [field.name for field in msgspec.structs.fields(struct)]
    return f"unknown key {unknown[1]}; {suggest(unknown[1], known)}"
