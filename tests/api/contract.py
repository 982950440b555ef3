"""Requests whose every answer is checked against the OpenAPI document: status, content type and schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import aiohttp
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.api.stand_in import TOKEN

DOCUMENT: dict[str, Any] = json.loads(resources.files("microchain.api").joinpath("openapi.json").read_bytes())
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}

_BASE = "urn:api"
_REGISTRY: Registry[Any] = Registry().with_resource(_BASE, DRAFT202012.create_resource(DOCUMENT))


def check_schema(pointer: str, instance: object) -> None:
    """jsonschema.ValidationError unless ``instance`` fits the schema at a JSON pointer of the document."""
    Draft202012Validator({"$ref": f"{_BASE}#{pointer}"}, registry=_REGISTRY).validate(instance)


def check_answer(method: str, template: str, status: int, content_type: str, body: bytes) -> Any:
    """Return the decoded answer after checking that the document allows it."""
    operation = DOCUMENT["paths"][template][method.lower()]
    documented = operation["responses"]
    assert str(status) in documented, f"{method} {template} answered {status}, which is not documented: {body!r}"
    response = documented[str(status)]
    pointer = f"/paths/{_escape(template)}/{method.lower()}/responses/{status}"
    if "$ref" in response:
        pointer = response["$ref"].removeprefix("#")
        response = DOCUMENT["components"]["responses"][pointer.rpartition("/")[2]]
    assert content_type in response["content"], f"{method} {template} answered {content_type}"
    decoded = json.loads(body) if content_type == "application/json" else body.decode()
    check_schema(f"{pointer}/content/{_escape(content_type)}/schema", decoded)
    return decoded


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The error's code."""
        return str(self.body["error"]["code"])


class Api:
    """``get`` and ``post`` take the document's path template and what to put into it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, template: str, query: str = "", **parts: str) -> Answer:
        return await self._request("GET", template, template.format(**parts) + query)

    async def post(self, template: str, *, token: bool = True, **options: Any) -> Answer:
        """Post ``json`` or ``data``; with the right token unless told otherwise."""
        headers = {**(AUTHORIZED if token else {}), **options.pop("headers", {})}
        return await self._request("POST", template, template, headers=headers, **options)

    async def _request(self, method: str, template: str, path: str, **options: Any) -> Answer:
        async with self._session.request(method, path, **options) as response:
            body = await response.read()
        decoded = check_answer(method, template, response.status, response.content_type, body)
        return Answer(response.status, decoded, response.headers)
