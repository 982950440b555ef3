"""Building a server: what is run with which settings, and what a failure leaves. `.ci/run` builds the real ones."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from control.errors import DeploymentFailed
from control.influx import binary, build

GO = """\
#!/bin/sh
case "$1" in version) echo "go version go1.26.0 linux/amd64"; exit 0;; esac
echo "go $*" >> {record}
env | grep -E '^(GO|CARGO|RUST|TMPDIR|CGO|PATH)' | sort >> {record}
{act}
"""
MAKE = """\
for word; do case "$before" in -o) target="$word";; esac; before="$word"; done
case "$*" in *influxdb/cmd/influxd@*) target="$GOBIN/influxd";; esac
[ -n "$target" ] && printf '#!/bin/sh\\necho InfluxDB v{version}\\n' > "$target" && chmod +x "$target"
true
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toolchain of stand-ins; ``record`` beside them has what ``go`` was told."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for name, text in (("rustc", "echo rustc 1.95.0"), ("cargo", "true"), ("gcc", "true"), ("pkg-config", "true")):
        make(directory / name, f"#!/bin/sh\n{text}\n")
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("TESTBED_INFLUXDB_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CARGO_HOME", raising=False)
    for module in (binary, build):
        monkeypatch.setattr(module, "HOME", tmp_path / "influxdb")
    return directory


def make(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make_go(tools: Path, act: str) -> None:
    make(tools / "go", GO.format(record=tools / "record", act=act))


def wait(_: str) -> None:
    time.sleep(0.01)


@pytest.mark.parametrize("major", [1, 2])
def test_a_build_ends_with_the_binary_alone(major: int, tools: Path, tmp_path: Path) -> None:
    version, steps = binary.VERSIONS[major], list[str]()
    make_go(tools, MAKE.format(version=version))
    made = build.build(major, steps.append, wait)
    assert made == tmp_path / "kept" / version / "influxd"
    assert steps[-1].startswith(f"building InfluxDB {version}")
    assert sorted(path.name for path in (tmp_path / "influxdb").iterdir()) == [
        f"build-{major}.lock",
        f"build-{major}.log",
    ]
    assert [path.name for path in made.parent.iterdir()] == ["influxd"]
    record = (tools / "record").read_text()
    for cache in ("GOCACHE", "GOMODCACHE", "TMPDIR"):
        assert f"{cache}={tmp_path / 'influxdb'}/build-{major}/" in record
    assert f"main.version={'v' * (major == 2)}{version}" in record
    assert (f"CARGO_HOME={tmp_path / 'influxdb'}/build-2/cargo" in record) == (major == 2)
    make_go(tools, "exit 1")
    assert build.build(major, steps.append, wait) == made  # it is not built again


def test_two_at_once_build_once(tools: Path) -> None:
    make_go(tools, "sleep 0.2\n" + MAKE.format(version=binary.VERSIONS[1]))
    threads = [threading.Thread(target=build.build, args=(1, lambda _: None, wait)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tools / "record").read_text().count("go install") == 1


def test_the_users_settings_of_cargo_come_along_but_no_credentials(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / ".cargo").mkdir(parents=True)
    (tmp_path / "home" / ".cargo" / "config.toml").write_text("[net]\nretry = 5\n")
    (tmp_path / "home" / ".cargo" / "credentials.toml").write_text("secret")
    make_go(tools, f'ls "$CARGO_HOME" >> {tools / "record"}\n' + MAKE.format(version=binary.VERSIONS[2]))
    build.build(2, lambda _: None, wait)
    record = (tools / "record").read_text()
    assert "config.toml" in record
    assert "credentials" not in record


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_nothing_else(tools: Path, tmp_path: Path) -> None:
    make_go(tools, "echo no route to the proxy; exit 1")
    with pytest.raises(DeploymentFailed, match="no route to the proxy"):
        build.build(1, lambda _: None, wait)
    assert sorted(path.name for path in (tmp_path / "influxdb").iterdir()) == ["build-1.lock", "build-1.log"]
    assert binary.find_built(1) is None


def test_an_interrupted_build_ends_its_compilers(tools: Path, tmp_path: Path) -> None:
    make_go(tools, f"echo $$ > {tmp_path / 'pid'}; sleep 600 & sleep 600")

    def interrupt(_: str) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            raise KeyboardInterrupt
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        build.build(1, lambda _: None, interrupt)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert not (tmp_path / "influxdb" / "build-1").exists()


def test_a_binary_of_another_version_is_not_kept(tools: Path) -> None:
    make_go(tools, MAKE.format(version="1.8.9"))
    with pytest.raises(DeploymentFailed, match=r"says that it is InfluxDB 1.8.9, not 1.8.10"):
        build.build(1, lambda _: None, wait)
    assert binary.find_built(1) is None


def test_what_is_missing_is_named(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tools / "go", "#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    make(tools / "rustc", "#!/bin/sh\necho rustc 1.63.0\n")
    monkeypatch.setenv("PATH", str(tools))
    assert build.find_missing_tools(1) == []
    assert build.find_missing_tools(2) == ["Go 1.23 or newer", "Rust 1.72 or newer with cargo"]
    (tools / "gcc").unlink()
    assert "gcc" in build.find_missing_tools(2)
    with pytest.raises(DeploymentFailed, match=r"can't be built here: Go 1.23 or newer, .*gcc is missing"):
        build.build(2, lambda _: None, wait)


def test_a_full_disk_is_seen_before_an_hour_is_spent(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_go(tools, "true")
    monkeypatch.setattr(build, "_FREE_GB", {1: 1e9})
    with pytest.raises(DeploymentFailed, match="make room"):
        build.build(1, lambda _: None, wait)
    assert not (tools / "record").exists()
