"""From bundles to a genesis document: what does not fit together is said before a chain starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from microchain.consensus.genesis import GenesisError, Parameters, encode_genesis
from microchain.genesis_file import build_genesis, load_genesis, parse_bundle, parse_parameters
from microchain.keys import create_keys

RUN_ID = "0123456789abcdef" * 2


def make_bundle(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    bundle, _ = create_keys(folder / name, name, **{"signature": "ed25519", **options})
    document: dict[str, Any] = msgspec.to_builtins(bundle)
    return document


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("keys")
    validators = [make_bundle(folder, f"validator-{n}") for n in range(1, 5)]
    return [*validators, make_bundle(folder, "device-1", role="device")]


PARAMETERS = {"signature": "ed25519", "epoch_blocks": 2}
ADDRESSES = {f"validator-{n}": f"10.0.0.{n}:9101" for n in range(1, 5)}


def test_document_holds_every_node_and_survives_its_file(bundles: list[dict[str, Any]], tmp_path: Path) -> None:
    genesis = build_genesis(PARAMETERS, bundles, RUN_ID, ADDRESSES)
    assert [(e.name, e.role, e.address) for e in genesis.registry] == [
        *((name, "validator", address) for name, address in ADDRESSES.items()),
        ("device-1", "device", ""),
    ]
    assert genesis.parameters == Parameters(signature="ed25519", epoch_blocks=2)
    assert len(genesis.committee().members) == 4
    (tmp_path / "genesis.json").write_bytes(encode_genesis(genesis))
    assert load_genesis(tmp_path / "genesis.json") == genesis


def test_same_input_gives_the_same_chain_and_another_run_another(bundles: list[dict[str, Any]]) -> None:
    first, second = (build_genesis(PARAMETERS, bundles, RUN_ID, ADDRESSES).chain_id() for _ in range(2))
    assert first == second
    assert build_genesis(PARAMETERS, bundles, "f" * 32, ADDRESSES).chain_id() != first


def test_typed_arguments_serve_as_well_as_documents(bundles: list[dict[str, Any]]) -> None:
    typed = build_genesis(parse_parameters(PARAMETERS), [parse_bundle(b) for b in bundles], RUN_ID, ADDRESSES)
    assert typed == build_genesis(PARAMETERS, bundles, RUN_ID, ADDRESSES)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch_block": 1}, "parameters: unknown key epoch_block; did you mean epoch_blocks?"),
        ({"zzz": 1}, "parameters: unknown key zzz; there are: engine, epoch_blocks, dynasty_epochs"),
        ({"epoch_blocks": 0}, "parameters: Expected `int` >= 1 - at `$.epoch_blocks`"),
        ({"signature": "rsa-2048"}, "bundle validator-1: its signing key is ed25519, the parameters say rsa-2048"),
        ({**PARAMETERS, "max_block_bytes": 1024}, "max_tx_bytes 262144 is more than max_block_bytes 1024"),
    ],
)
def test_wrong_parameters_are_a_clear_error(
    bundles: list[dict[str, Any]], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenesisError) as caught:
        build_genesis(parameters, bundles, RUN_ID, ADDRESSES)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("role", "king", "bundle: Invalid enum value 'king'"),
        ("nmae", "x", "bundle: unknown key nmae; did you mean name?"),
        ("name", "x\n", "bundle: Expected `str` matching regex"),
        ("signing_key", "", "bundle validator-1: signing_key is not an ed25519 public key"),
        ("signing_key", "AQ" + "A" * 41 + "=", "bundle validator-1: signing_key is not an ed25519 public key"),
        ("signing_key", "%", "bundle: Invalid base64 encoded string - at `$.signing_key`"),
        ("vrf_key", "AQ" + "A" * 41 + "=", "vrf_key 0100000000000000… is no point of edwards25519"),
        ("pvss_key", "AAAA", "pvss_key 000000… is no point of edwards25519"),
        ("tls_key", "AAAA", "tls_key has 3 bytes, a SHA-256 has 32"),
    ],
)
def test_corrupt_bundle_is_a_clear_error(bundles: list[dict[str, Any]], key: str, value: object, message: str) -> None:
    with pytest.raises(GenesisError) as caught:
        build_genesis(PARAMETERS, [{**bundles[0], key: value}, *bundles[1:]], RUN_ID, ADDRESSES)
    assert message in str(caught.value)


def test_node_named_twice_is_refused(bundles: list[dict[str, Any]]) -> None:
    with pytest.raises(GenesisError, match="name validator-1 appears twice"):
        build_genesis(PARAMETERS, [*bundles, bundles[0]], RUN_ID, ADDRESSES)


@pytest.mark.parametrize("address", ["", "10.0.0.1", "10.0.0.1:port", "10.0.0.1:70000"])
def test_validator_without_a_usable_address_is_named(bundles: list[dict[str, Any]], address: str) -> None:
    with pytest.raises(GenesisError, match="validator validator-1: its peer address: expected host:port"):
        build_genesis(PARAMETERS, bundles, RUN_ID, {**ADDRESSES, "validator-1": address})


def test_address_of_a_stranger_is_refused(bundles: list[dict[str, Any]]) -> None:
    with pytest.raises(GenesisError, match="there is an address for validator-9, but no bundle"):
        build_genesis(PARAMETERS, bundles, RUN_ID, {**ADDRESSES, "validator-9": "10.0.0.9:9101"})


@pytest.mark.parametrize("run_id", ["", "0" * 31, "0" * 33, "G" * 32, "0" * 32 + "\n"])
def test_run_id_that_is_no_run_id_is_refused(bundles: list[dict[str, Any]], run_id: str) -> None:
    with pytest.raises(GenesisError, match="is not 32 lower-case hex digits"):
        build_genesis(PARAMETERS, bundles, run_id, ADDRESSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the genesis document: No such file or directory"),
        (b"", "genesis: Input data was truncated"),
        (b"{}", "genesis: Object missing required field `run_id`"),
        (b"\xff", "genesis: JSON is malformed: invalid character"),
    ],
)
def test_corrupt_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "genesis.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GenesisError) as caught:
        load_genesis(path)
    assert str(caught.value).startswith(f"{path}: {message}")
