"""The token that whatever changes something asks for."""

from __future__ import annotations

import hmac

from aiohttp import web

from microchain.api.responses import ApiError

__all__ = ["TokenGuard"]


class TokenGuard:
    """Checks ``Authorization: Bearer TOKEN`` in constant time."""

    def __init__(self, token: str) -> None:
        if not token.strip():
            raise ValueError("the API token is empty; write at least one character into the token file")
        self._expected = token.strip().encode()

    def check(self, request: web.Request) -> None:
        """ApiError 401 unless the request carries the token."""
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise ApiError(401, "token_missing", "this needs the header 'Authorization: Bearer TOKEN'")
        if not hmac.compare_digest(credentials.strip().encode("utf-8", "surrogateescape"), self._expected):
            raise ApiError(401, "token_wrong", "the token is not this node's; it is in the node's token file")
