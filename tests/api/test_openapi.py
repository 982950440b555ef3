"""The OpenAPI document is the truth about the API: valid, complete, and nothing beyond it is served."""

from __future__ import annotations

import json
import re
from pathlib import Path

from microchain.api.server import create_app
from microchain.api.submission import HTTP_STATUS
from microchain.consensus.interface import AdmissionCode
from openapi_spec_validator import validate

from tests.api.contract import DOCUMENT, Api
from tests.api.stand_in import TOKEN, StandInNode


def documented_routes() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}


def test_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


def test_documented_routes_are_exactly_those_served(node: StandInNode) -> None:
    app = create_app(node, TOKEN)
    assert {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource} == (
        documented_routes()
    )


def test_only_what_changes_something_needs_the_token() -> None:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            assert ("security" in operation) == (method == "post"), path


def test_each_admission_code_has_its_documented_status_and_name() -> None:
    result = DOCUMENT["components"]["schemas"]["SubmissionResult"]["properties"]
    assert set(result["status"]["enum"]) == {HTTP_STATUS[code] for code in AdmissionCode}
    assert set(result["code"]["enum"]) == {code.name.lower() for code in AdmissionCode}
    assert 401 not in HTTP_STATUS.values()


async def test_node_serves_the_document(api: Api) -> None:
    assert (await api.get("/v1/openapi.json")).body == DOCUMENT


def test_every_error_code_is_explained_in_the_documentation() -> None:
    package = Path(create_app.__code__.co_filename).parent
    source = "".join(path.read_text() for path in package.glob("*.py"))
    raised = set(re.findall(r'ApiError\(\s*\d+,\s*"([a-z_]+)"', source)) | {c.name.lower() for c in AdmissionCode}
    explained = set(re.findall(r"`([a-z_]+)`", (package.parents[2] / "docs" / "api.md").read_text()))
    assert raised <= explained
    assert len(raised) > 20


def test_document_is_ascii_json_without_duplicate_keys() -> None:
    def refuse(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        assert len(set(keys)) == len(keys), keys
        return dict(pairs)

    path = Path(create_app.__code__.co_filename).with_name("openapi.json")
    json.loads(path.read_text(encoding="ascii"), object_pairs_hook=refuse)
