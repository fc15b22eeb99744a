"""A call of a forge's API as its handlers see it, and the answers that both forges give alike."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.parts.forges.world import Json, Person, Token

Handler = Callable[["Call"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a pattern of the path as it was sent, and who answers."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler


@dataclass
class Call:
    """A request as a handler sees it."""

    request: Request
    parts: dict[str, str]  # of the path, decoded
    query: dict[str, str]
    body: bytes
    token: Token | None = None

    @property
    def person(self) -> Person | None:
        return self.token.person if self.token else None

    def fields(self) -> Json:
        """The parameters: of the query, and of a body that is a form or JSON."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "application/x-www-form-urlencoded":
            return self.query | dict(parse_qsl(self.body.decode(), keep_blank_values=True))
        if not self.body:
            return dict(self.query)
        try:
            told = json.loads(self.body)
        except ValueError:
            raise Refused(JSONResponse({"message": "Problems parsing JSON"}, 400)) from None
        if not isinstance(told, dict):
            raise Refused(JSONResponse({"message": "Body should be a JSON object"}, 400))
        return self.query | told


class Refused(Exception):
    """The answer is this, and nothing was done."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def with_query(url: str, answer: Mapping[str, str]) -> RedirectResponse:
    """Back to where the person came from, with an answer."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(answer))))
    return RedirectResponse(parts._replace(query=query).geturl(), 302)


def conditional(call: Call, response: Response) -> Response:
    """An answer with its ETag, or that it is the one which is known already."""
    if call.request.method == "GET" and response.status_code == 200:
        etag = f'W/"{hashlib.sha256(bytes(response.body)).hexdigest()}"'
        kept = response.headers
        if call.request.headers.get("if-none-match") == etag:
            response = Response(status_code=304, headers={"Link": kept["Link"]} if "Link" in kept else None)
        response.headers["ETag"] = etag
    return response


def number(text: Any, default: int, least: int = 1) -> int:
    """A number of a query, or what stands for one."""
    value = int(text) if isinstance(text, str) and text.isdecimal() else default
    return max(value, least)


def stamp(at: datetime) -> str:
    """A time as both write it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
