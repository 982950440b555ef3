"""Status, health, metrics, release, lease and the token."""

from __future__ import annotations

from pathlib import Path

import pytest
from microchain.api.access import TokenGuard
from microchain.api.server import TlsFileError, create_app, server_context
from microchain.crypto.authority import create_tls_key

from tests.api.contract import Api
from tests.api.stand_in import StandInNode


async def test_status_is_what_the_node_says(api: Api, node: StandInNode) -> None:
    assert (await api.get("/v1/status")).body == node.status()


async def test_health_follows_readiness(api: Api, node: StandInNode) -> None:
    assert (await api.get("/v1/health")).body == {"ready": True, "syncing": False}
    node.ready = False
    answer = await api.get("/v1/health")
    assert (answer.status, answer.code) == (503, "not_ready")
    assert "0 of 3 peers" in answer.body["error"]["message"]


async def test_the_time_is_the_nodes_own_when_asked_and_when_answered(
    api: Api, node: StandInNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter((1_000, 1_700))
    monkeypatch.setattr(node, "now", lambda: next(ticks))
    assert (await api.get("/v1/time")).body == {"received_ns": 1_000, "sent_ns": 1_700}


async def test_metrics_are_prometheus_text_with_each_family_typed_once(api: Api) -> None:
    lines = (await api.get("/metrics")).body.splitlines()
    assert "# TYPE microchain_accepted_total counter" in lines
    assert lines.count("# TYPE microchain_peer_rtt_ns gauge") == 1
    assert 'microchain_peer_rtt_ns{peer="b"} 2.0' in lines
    assert "microchain_api_submissions_in_flight 0.0" in lines


@pytest.mark.parametrize(
    ("body", "above"), [(b"", None), (b"{}", None), (b'{"above": null}', None), (b'{"above": 7}', 7)]
)
async def test_release_reaches_the_engine(api: Api, node: StandInNode, body: bytes, above: int | None) -> None:
    answer = await api.post("/v1/release", data=body)
    assert (answer.status, answer.body) == (202, {"released": True})
    assert node.releases == [above]


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"above": -1}', b'{"above": 1.5}', b'{"height": 1}', b"\xff"])
async def test_malformed_release_is_refused(api: Api, node: StandInNode, body: bytes) -> None:
    answer = await api.post("/v1/release", data=body)
    assert (answer.status, answer.code) == (400, "bad_json")
    assert node.releases == []


async def test_lease_is_extended(api: Api, node: StandInNode) -> None:
    assert (await api.post("/v1/lease", json={"seconds": 90})).body == {"seconds": 90.0}
    assert node.leases == [90.0]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"seconds": 0}', "bad_lease"),
        (b'{"seconds": -5}', "bad_lease"),
        (b'{"seconds": 1e300}', "bad_lease"),
        (b'{"seconds": "5"}', "bad_json"),
        (b'{"seconds": 1e999}', "bad_json"),
        (b"{}", "bad_json"),
        (b"", "bad_json"),
        (b"\xff", "bad_json"),
    ],
)
async def test_impossible_leases_are_refused(api: Api, node: StandInNode, body: bytes, code: str) -> None:
    answer = await api.post("/v1/lease", data=body)
    assert (answer.status, answer.code) == (400, code)
    assert node.leases == []


@pytest.mark.parametrize("path", ["/v1/release", "/v1/lease"])
async def test_operator_writes_need_the_token(api: Api, node: StandInNode, path: str) -> None:
    assert (await api.post(path, token=False, json={})).code == "token_missing"
    assert (await api.post(path, token=False, json={}, headers={"Authorization": "Bearer x"})).code == "token_wrong"
    assert (node.releases, node.leases) == ([], [])


def test_empty_token_is_refused_at_the_start(node: StandInNode) -> None:
    with pytest.raises(ValueError, match="empty"):
        create_app(node, " \n")


def test_tls_files_that_do_not_belong_together_are_refused(tls: Path, tmp_path: Path) -> None:
    (tmp_path / "tls.key").write_bytes(create_tls_key())
    with pytest.raises(TlsFileError, match="deploy signs"):
        server_context(tls / "tls.crt", tmp_path / "tls.key")
    with pytest.raises(TlsFileError, match=r"missing\.crt"):
        server_context(tmp_path / "missing.crt", tls / "tls.key")


def test_token_file_may_end_in_a_newline() -> None:
    assert TokenGuard("secret\n")._expected == b"secret"
