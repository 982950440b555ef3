"""The configuration file: every mistake is named with its file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.config import Address, ConfigError, load_config, suggest

TEXT = """\
# of one validator
[node]
name = "validator-1"
data = "/srv/data"
genesis = "/srv/genesis.json"
keys = "/srv/keys"

[listen]
peer = "127.0.0.1:9101"
api = "[::1]:9201"

[api]
token_file = "/srv/token"

[telemetry]
run = "run-1"
sample = 1

[lease]
seconds = 0
"""
INFLUX = """
[influx]
url = "https://10.0.0.1:8086"
org = "testbed"
bucket = "microchain"
token_file = "/srv/influx.token"
ca_file = "/srv/influx-ca.pem"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_file_is_read_and_what_it_leaves_out_has_its_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, TEXT))
    assert config.node.name == "validator-1"
    assert config.ledger_path == Path("/srv/data/ledger.db")
    assert config.spool_path == Path("/srv/data/spool")
    assert (config.listen.peer.host, config.listen.peer.port) == ("127.0.0.1", 9101)
    assert (config.listen.api.host, config.listen.api.port) == ("::1", 9201)
    assert (config.telemetry.run, config.telemetry.cell, config.telemetry.sample) == ("run-1", "", 1.0)
    assert config.telemetry.max_spool_bytes == 268435456
    assert config.lease.seconds == 0


def test_telemetry_and_lease_may_be_left_out(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, TEXT[: TEXT.index("[telemetry]")]))
    assert (config.telemetry.interval_s, config.lease.seconds) == (1.0, 900.0)
    assert config.influx is None, "nothing is streamed then"


def test_a_server_to_stream_to(tmp_path: Path) -> None:
    influx = load_config(write(tmp_path, TEXT + INFLUX)).influx
    assert influx is not None
    assert (influx.url, influx.org, influx.bucket) == ("https://10.0.0.1:8086", "testbed", "microchain")
    assert (influx.token_file, influx.ca_file) == (Path("/srv/influx.token"), Path("/srv/influx-ca.pem"))
    plain = INFLUX.replace("https://", "http://").partition("ca_file")[0]
    assert load_config(write(tmp_path, TEXT + plain)).influx is not None


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("https://10.0.0.1:8086", "10.0.0.1:8086", 23, "influx.url: expected http://host:port or https://host:port"),
        ("https://10.0.0.1:8086", "ftp://10.0.0.1", 23, "influx.url: expected http://host:port"),
        ("https://10.0.0.1:8086", "http://:8086", 23, "influx.url: expected http://host:port"),
        ("https://10.0.0.1:8086", "http://a:99999", 23, "influx.url: expected http://host:port"),
        ("https://10.0.0.1:8086", "http://[::1:8086", 23, "influx.url: expected http://host:port"),
        ("https://10.0.0.1:8086", "http://user:word@a", 23, "influx.url: expected http://host:port"),
        ("https://10.0.0.1:8086", "http://a/?org=b", 23, "influx.url: expected http://host:port"),
        ("https://10.0.0.1:8086", "http://a\\r\\nb", 23, "influx.url: expected http://host:port"),
        ('"https://10.0.0.1:8086"', "7", 23, "influx.url: expected a string, got 7"),
        ("https:", "http:", 27, "influx.ca_file: http://10.0.0.1:8086 uses no TLS; make it https:// or leave it out"),
        ("bucket =", "buket =", 25, "unknown key influx.buket; did you mean bucket?"),
        ('bucket = "microchain"', "", 22, "the key influx.bucket is missing"),
        ('"testbed"', '""', 24, "influx.org: Expected `str` of length >= 1"),
        ('"/srv/influx.token"', '"influx.token"', 26, "influx.token_file: expected an absolute path"),
        ('"/srv/influx-ca.pem"', '"ca.pem"', 27, "influx.ca_file: expected an absolute path"),
        ("[influx]", "[inflx]", 22, "unknown section inflx; did you mean influx?"),
    ],
)
def test_mistake_about_the_server_is_named(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in INFLUX
    path = write(tmp_path, TEXT + INFLUX.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:{line}: {message}")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("peer =", "peeer =", 9, "unknown key listen.peeer; did you mean peer?"),
        ("run =", '"zz" =', 16, "unknown key telemetry.zz; there are: run, cell, host, sample, interval_s"),
        ("[listen]", "[lsten]", 8, "unknown section lsten; did you mean listen?"),
        ("sample = 1", "sample = 1.5", 17, "telemetry.sample: Expected `float` <= 1.0 (it is 1.5)"),
        ("sample = 1", "sample = nan", 17, "telemetry.sample: Expected `float` >= 0.0 (it is nan)"),
        ("seconds = 0", "seconds = inf", 20, "lease.seconds: inf is no duration; 0 means no lease"),
        ("sample = 1", "sample = 'all'", 17, "telemetry.sample: Expected `float`, got `str` (it is 'all')"),
        ("seconds = 0", "seconds = -1", 20, "lease.seconds: Expected `float` >= 0.0 (it is -1)"),
        ('data = "/srv/data"', "", 2, "the key node.data is missing"),
        ('[api]\ntoken_file = "/srv/token"', "", 1, "the section api is missing"),
        ('"/srv/data"', '"data"', 4, "node.data: expected an absolute path, got 'data'"),
        ('"/srv/data"', '"/srv/\\u0000"', 4, "node.data: expected an absolute path"),
        ('"/srv/data"', "3", 4, "node.data: expected a string, got 3"),
        ('"validator-1"', '"Validator 1"', 3, "node.name: Expected `str` matching regex"),
        ('"validator-1"', '"v\\n"', 3, "node.name: Expected `str` matching regex"),
        ('"127.0.0.1:9101"', '"127.0.0.1"', 9, "listen.peer: expected host:port, such as 127.0.0.1:9101"),
        ('"127.0.0.1:9101"', '"127.0.0.1:65536"', 9, "listen.peer: expected host:port"),
        ('"127.0.0.1:9101"', '":9101"', 9, "listen.peer: expected host:port"),
        ('"127.0.0.1:9101"', '"::1:9101"', 9, "listen.peer: an IPv6 address needs brackets"),
        ("127.0.0.1:9101", "[::1]:9201", 10, "listen.api: [::1]:9201 is the address of listen.peer as well"),
        ("[lease]\nseconds = 0", "[[lease]]\nseconds = 0", 19, "lease: Expected `object`, got `array`"),
        ("[node]", "node = 1\n[other]", 2, "node: Expected `object`, got `int` (it is 1)"),
    ],
)
def test_mistake_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in TEXT
    path = write(tmp_path, TEXT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:{line}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[node\n", "not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
        (b"[node]\n[node]\n", "not valid TOML: Cannot declare ('node',) twice (at line 2"),
        (b"\xff\xfe", "the configuration is not UTF-8 text"),
        (b"", "1: the section node is missing"),
        (b"[lease]\nseconds = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
    ],
)
def test_file_that_is_no_toml_is_a_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot read the configuration: No such file"):
        load_config(tmp_path / "none.toml")


@given(st.integers(0, len(TEXT + INFLUX) - 1), st.characters(codec="utf-8"))
def test_any_changed_character_gives_a_configuration_or_the_typed_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, character: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.toml"
    text = TEXT + INFLUX
    path.write_text(text[:place] + character + text[place + 1 :], encoding="utf-8")
    try:
        load_config(path)
    except ConfigError as error:
        assert str(path) in str(error)


@given(st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.integers(0, 65535))
def test_address_has_the_parts_it_was_made_of(host: str, port: int) -> None:
    address = Address(f"{host}:{port}")
    assert (address, address.host, address.port) == (f"{host}:{port}", host, port)


def test_suggestion_is_the_nearest_name_or_all() -> None:
    assert suggest("relai", ["relay", "propose"]) == "did you mean relay?"
    assert suggest("x", ["relay", "propose"]) == "there are: relay, propose"
