"""The command microchain-node, as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from microchain import runtime
from microchain.cli import main
from microchain.config import NodeConfig
from microchain.crypto.hashing import Digest
from microchain.genesis_file import load_genesis
from microchain.ledger.ledger import Ledger

RUN_ID = "0123456789abcdef" * 2
NODE = Path(__file__).parents[2] / "node"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run a command; return its exit code, stdout and stderr."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def make_chain(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Make the bundles of four validators; return the arguments that name them with their addresses."""
    arguments = []
    for n in range(1, 5):
        name = f"validator-{n}"
        code, out, err = run(
            capsys, "keys", "--directory", folder / name, "--name", name, "--signature", "ed25519", "--host", "::1"
        )
        assert (code, err) == (0, "created signing.pem, vrf.key, pvss.key, tls.key, tls.csr\n")
        (folder / f"{name}.json").write_text(out)
        arguments += ["--bundle", f"{folder / name}.json@127.0.0.1:{9100 + n}"]
    (folder / "parameters.json").write_text('{"signature": "ed25519"}')
    return arguments


def make_genesis(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    return run(
        capsys, "genesis", "--parameters", folder / "parameters.json", "--run-id", RUN_ID,
        "--output", folder / "genesis.json", *make_chain(folder, capsys),
    )  # fmt: skip


def write_config(folder: Path) -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'[node]\nname = "validator-1"\ndata = "{folder}/data"\ngenesis = "{folder}/genesis.json"\n'
        f'keys = "{folder}/validator-1"\n[listen]\npeer = "127.0.0.1:0"\napi = "127.0.0.1:0"\n'
        f'[api]\ntoken_file = "{folder}/token"\n'
    )
    return path


def test_keys_prints_the_bundle_and_the_second_time_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("keys", "--directory", tmp_path / "keys", "--name", "validator-1", "--role", "device")
    code, first, err = run(capsys, *command)
    assert (code, err) == (0, "created signing.pem, vrf.key, pvss.key, tls.key, tls.csr\n")
    bundle = json.loads(first)
    assert set(bundle) == {"name", "role", "signature", "signing_key", "vrf_key", "pvss_key", "tls_key", "csr"}
    assert (bundle["name"], bundle["role"], bundle["signature"]) == ("validator-1", "device", "rsa-2048")
    assert run(capsys, *command) == (0, first, "")


def test_genesis_is_built_from_the_bundles_and_not_rewritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = make_genesis(tmp_path, capsys)
    path = tmp_path / "genesis.json"
    assert (code, err) == (0, f"created {path}\n")
    genesis = load_genesis(path)
    assert json.loads(out) == {"chain_id": genesis.chain_id().hex(), "run_id": RUN_ID, "nodes": 4}
    assert [entry.address for entry in genesis.registry] == [f"127.0.0.1:{9100 + n}" for n in range(1, 5)]
    arguments = [f"{tmp_path}/validator-{n}.json@127.0.0.1:{9100 + n}" for n in range(1, 5)]
    again = run(
        capsys, "genesis", "--parameters", tmp_path / "parameters.json", "--run-id", RUN_ID, "--output", path,
        *(part for argument in arguments for part in ("--bundle", argument)),
    )  # fmt: skip
    assert again == (0, out, "")


def test_authority_signs_bundles_and_keeps_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_chain(tmp_path, capsys)
    code, certificate, err = run(capsys, "authority", "init", "--directory", tmp_path / "ca")
    assert (code, err) == (0, f"created {tmp_path / 'ca'}\n")
    assert run(capsys, "authority", "init", "--directory", tmp_path / "ca") == (0, certificate, "")
    sign = (
        "authority", "sign", "--directory", tmp_path / "ca", "--output", tmp_path / "certs",
        "--bundle", f"{tmp_path}/validator-1.json@127.0.0.1,board.lan", "--bundle", f"{tmp_path}/validator-2.json",
    )  # fmt: skip
    code, out, err = run(capsys, *sign)
    assert (code, err) == (0, "created validator-1, validator-2\n")
    assert json.loads(out) == {"created": ["validator-1", "validator-2"], "kept": []}
    code, out, err = run(capsys, *sign)
    assert (code, json.loads(out), err) == (0, {"created": [], "kept": ["validator-1", "validator-2"]}, "")


def test_run_hands_the_configuration_to_the_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[NodeConfig] = []

    def main(config: NodeConfig) -> int:
        given.append(config)
        return 3

    monkeypatch.setattr(runtime, "main", main)
    assert run(capsys, "run", "--config", write_config(tmp_path))[0] == 3
    assert given[0].node.name == "validator-1"


def test_inspect_checks_a_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_genesis(tmp_path, capsys)
    config = write_config(tmp_path)
    chain_id = load_genesis(tmp_path / "genesis.json").chain_id()
    code, out, err = run(capsys, "inspect", "--config", config)
    assert (code, out) == (2, "")
    assert f"{tmp_path}/data/ledger.db: there is no ledger yet" in err
    (tmp_path / "data").mkdir()
    Ledger(tmp_path / "data" / "ledger.db", chain_id).close()
    code, out, err = run(capsys, "inspect", "--config", config)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["chain_id"], document["finalized"]["height"]) == (chain_id.hex(), 0)
    assert document["problems"] == []
    code, out, err = run(capsys, "inspect", "--config", config, "--digest")
    assert (code, err) == (0, "")
    assert chain_id.hex() in out


def test_inspect_refuses_the_ledger_of_another_chain_and_a_damaged_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_genesis(tmp_path, capsys)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "ledger.db"
    Ledger(path, Digest(bytes(32))).close()
    for _ in range(2):
        code, out, err = run(capsys, "inspect", "--config", write_config(tmp_path))
        assert (code, out) == (2, "")
        assert str(path) in err
        assert err.count("\n") == 1
        path.write_bytes(b"damaged" * 1000)


def test_bench_prints_figures_and_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("bench", "--directory", tmp_path, "--seconds", "0.001")
    code, table, err = run(capsys, *command)
    assert (code, err) == (0, "")
    report = json.loads(run(capsys, *command, "--json")[1])
    names = [figure["name"] for figure in report["figures"]]
    assert {"rsa-2048 sign", "SHA-256 of 2 MB", "ECVRF prove", "one dynasty, member of 16"} <= set(names)
    assert {"ed25519 verify", "SQLite commit, FULL"} <= set(names)
    for name in [*names, *report["environment"]]:
        assert name in table
    assert all(figure["median_us"] > 0 and figure["repeats"] >= 5 for figure in report["figures"])
    assert set(report["environment"]) >= {"machine", "system", "disk", "python", "libraries"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["keys"], "required: --directory, --name"),
        (["keys", "--directory", "k", "--name", "Validator 1"], "'Validator 1' is no node name"),
        (["keys", "--directory", "k", "--name", "v", "--signature", "dsa"], "invalid choice: 'dsa'"),
        (["keys", "--directory", "k", "--name", "v", "--host", "a b"], "'a b' is neither an IP address nor a DNS"),
        (["keys", "--directory", "file/k", "--name", "v"], "file/k: Not a directory"),
        (["run", "--config", "none.toml"], "none.toml: cannot read the configuration: No such file"),
        (["run", "--config", "file"], "file: not valid TOML"),
        (["inspect", "--config", "none.toml"], "none.toml: cannot read the configuration"),
        (["bench", "--seconds", "0"], "--seconds: expected a number above 0"),
        (["bench", "--seconds", "nan"], "--seconds: expected a number above 0"),
        (["bench", "--directory", "none"], "No such file or directory"),
        (["genesis", "--parameters", "none.json", "--bundle", "file", "--run-id", "0", "--output", "g"], "none.json"),
        (
            ["genesis", "--parameters", "file", "--bundle", "file", "--run-id", "0", "--output", "g"],
            "not a JSON object",
        ),
        (["genesis", "--parameters", "{}", "--bundle", "none", "--run-id", "0", "--output", "g"], "none: No such file"),
        (["genesis", "--parameters", "{}", "--bundle", "f@here", "--run-id", "0", "--output", "g"], "f@here: expected"),
        (["genesis", "--parameters", "{}", "--bundle", "{}", "--run-id", "0", "--output", "g"], "run id '0' is not 32"),
        (["authority"], "required: ACTION"),
        (["authority", "init", "--directory", "ca", "--days", "0"], "--days: expected a number above 0"),
        (["authority", "init", "--directory", "ca", "--days", "1000000"], "below a million"),
        (["authority", "sign", "--directory", "ca", "--output", "c", "--bundle", "{}"], "ca/ca.crt: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gives_one_sentence_and_exit_code_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("nonsense")
    Path("{}").write_text("{}")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("microchain-node")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [[], ["keys"], ["genesis"], ["run"], ["inspect"], ["bench"], ["authority", "sign"]])
def test_help_explains(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    code, out, err = run(capsys, *command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: microchain-node")


def test_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "microchain.cli", "run", "--config", "none.toml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(NODE)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_wheel_holds_the_typed_package_and_the_command(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(NODE)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("microchain_node-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        packaged = {str(path.relative_to(NODE)) for path in (NODE / "microchain").rglob("*.py")}
        assert packaged | {"microchain/py.typed"} <= names
        assert {name.split("/")[0] for name in names} == {
            "microchain",
            wheel.name[: -len("-py3-none-any.whl")] + ".dist-info",
        }
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert b"microchain-node = microchain.cli:main" in archive.read(entry_points)
