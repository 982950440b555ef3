"""Key directories: made once, kept ever after, whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from microchain import keys
from microchain.crypto.authority import request_matches, request_spki_hash
from microchain.crypto.signatures import KeyFileError, get_scheme
from microchain.crypto.vrf import verify_proof
from microchain.keys import Bundle, create_keys, load_keyring, load_signing_key, write_whole

FILES = ["signing.pem", "vrf.key", "pvss.key", "tls.key", "tls.csr"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_keys_are_made_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    previous = os.umask(0)
    try:
        _, made = create_keys(folder, "validator-1", signature="ed25519")
    finally:
        os.umask(previous)
    assert made == FILES
    assert sorted(contents(folder)) == sorted(FILES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    assert create_keys(tmp_path / "a" / "b", "validator-1", signature="ed25519")[1] == FILES


@pytest.mark.parametrize("signature", ["rsa-2048", "ed25519"])
def test_second_time_nothing_changes(tmp_path: Path, signature: Literal["rsa-2048", "ed25519"]) -> None:
    first, _ = create_keys(tmp_path, "validator-1", signature=signature, hosts=["127.0.0.1"])
    before = contents(tmp_path)
    second, made = create_keys(tmp_path, "validator-1", signature=signature, hosts=["127.0.0.1"])
    assert (second, made, contents(tmp_path)) == (first, [], before)


def test_bundle_matches_the_private_keys(tmp_path: Path) -> None:
    bundle, _ = create_keys(tmp_path, "validator-1", signature="ed25519", hosts=["10.0.0.1"])
    keyring = load_keyring(tmp_path, "ed25519")
    assert get_scheme("ed25519").verify(bundle.signing_key, bytes(32), keyring.sign(bytes(32)))
    proof, output = keyring.prove(b"alpha")
    assert verify_proof(bundle.vrf_key, b"alpha", proof) == output
    assert request_spki_hash(bundle.csr.encode()) == bundle.tls_key
    assert request_matches(bundle.csr.encode(), (tmp_path / "tls.key").read_bytes(), "validator-1", ["10.0.0.1"])
    assert msgspec.json.decode(msgspec.json.encode(bundle), type=Bundle) == bundle


def test_bundle_holds_nothing_private(tmp_path: Path) -> None:
    bundle, _ = create_keys(tmp_path, "validator-1", signature="ed25519")
    public = (bundle.signing_key, bundle.vrf_key, bundle.pvss_key, bundle.tls_key)
    secrets = {(tmp_path / file).read_bytes() for file in ("vrf.key", "pvss.key")}
    assert len(set(public)) == 4
    assert not secrets & set(public)


@pytest.mark.parametrize("missing", FILES)
def test_only_what_is_missing_is_made(tmp_path: Path, missing: str) -> None:
    create_keys(tmp_path, "validator-1", signature="ed25519")
    before = contents(tmp_path)
    (tmp_path / missing).unlink()
    _, made = create_keys(tmp_path, "validator-1", signature="ed25519")
    changed = {file for file, content in contents(tmp_path).items() if content != before[file]}
    assert set(made) == changed == ({missing, "tls.csr"} if missing == "tls.key" else {missing})


def test_other_hosts_renew_the_request_only(tmp_path: Path) -> None:
    first, _ = create_keys(tmp_path, "validator-1", signature="ed25519", hosts=["10.0.0.1"])
    second, made = create_keys(tmp_path, "validator-1", signature="ed25519", hosts=["10.0.0.2"])
    assert made == ["tls.csr"]
    assert msgspec.structs.replace(second, csr=first.csr) == first


@pytest.mark.parametrize("fails_at", range(len(FILES)))
def test_run_that_is_cut_short_leaves_whole_files_and_the_next_completes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Power is lost while file number ``fails_at`` is written: its temporary file is there, torn."""
    calls = 0
    real = keys.write_whole

    def write_some(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal calls
        if calls == fails_at:
            path.with_name(f".{path.name}.new").write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        calls += 1
        real(path, data, mode)

    monkeypatch.setattr(keys, "write_whole", write_some)
    with pytest.raises(KeyboardInterrupt):
        create_keys(tmp_path, "validator-1", signature="ed25519")
    monkeypatch.undo()
    kept = {file: content for file, content in contents(tmp_path).items() if not file.startswith(".")}
    assert sorted(kept) == sorted(FILES[:fails_at])
    create_keys(tmp_path, "validator-1", signature="ed25519")
    assert sorted(contents(tmp_path)) == sorted(FILES)
    assert kept.items() <= contents(tmp_path).items()


def _create(folder: Path) -> bytes:
    return create_keys(folder, "validator-1", signature="ed25519")[0].signing_key


def test_processes_that_run_at_once_agree_on_the_keys(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(_create, [tmp_path] * 6))) == 1


@pytest.mark.parametrize("file", ["signing.pem", "vrf.key", "pvss.key", "tls.key"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 31])
def test_damaged_key_is_kept_and_named(tmp_path: Path, file: str, content: bytes) -> None:
    create_keys(tmp_path, "validator-1", signature="ed25519")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(KeyFileError, match="key") as caught:
        create_keys(tmp_path, "validator-1", signature="ed25519")
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / file).read_bytes() == content


def test_damaged_request_is_made_again(tmp_path: Path) -> None:
    create_keys(tmp_path, "validator-1", signature="ed25519")
    (tmp_path / "tls.csr").write_bytes(b"damaged")
    assert create_keys(tmp_path, "validator-1", signature="ed25519")[1] == ["tls.csr"]


def test_keys_of_another_scheme_are_kept_and_named(tmp_path: Path) -> None:
    create_keys(tmp_path, "validator-1", signature="ed25519")
    before = contents(tmp_path)
    with pytest.raises(KeyFileError, match=r"signing\.pem: not an rsa-2048 key"):
        create_keys(tmp_path, "validator-1", signature="rsa-2048")
    assert contents(tmp_path) == before


def test_scheme_of_simulations_has_no_key_files(tmp_path: Path) -> None:
    create_keys(tmp_path, "validator-1", signature="ed25519")
    with pytest.raises(KeyFileError, match="no signature scheme 'simulated'; there are: rsa-2048, ed25519"):
        load_keyring(tmp_path, "simulated")


def test_missing_key_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"signing\.pem: cannot read it: No such file.*`microchain-node keys`"):
        load_signing_key(tmp_path, "ed25519")


@pytest.mark.parametrize("name", ["", "Validator", "-v", "a" * 64, "v\n", "../v"])
def test_name_that_is_no_node_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="is no node name"):
        create_keys(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


def test_write_replaces_the_whole_file_even_over_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and long")
    (tmp_path / ".file.new").write_bytes(b"torn")
    previous = os.umask(0o077)
    try:
        write_whole(path, b"new", 0o644)
    finally:
        os.umask(previous)
    assert contents(tmp_path) == {"file": b"new"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
