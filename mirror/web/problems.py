"""Errors as answers: an error page, or problem+json (RFC 9457) under /api/."""

import json
import logging
import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route

from mirror.core.errors import (
    Crowded,
    EverrefError,
    NetworkError,
    NotAllowed,
    Origin,
    OverLimit,
    TooLarge,
    TooOften,
)
from mirror.web.dispatch import SAFE, AskAgain, Endpoint, Needs, Outside, RequestContext

STATUS: Final[Mapping[str, int]] = {
    "usage": 400,
    "not-found": 404,
    "credentials": 422,
    "gone": 422,
    "blocked": 422,
    "refused": 409,
    "busy": 409,
    "limit": 503,
    "network": 502,
    "corrupt": 500,
    "ours": 500,
}
CLASS: Final[Mapping[int, str]] = {
    400: "usage",
    401: "credentials",
    403: "refused",
    404: "not-found",
    405: "usage",
    409: "busy",
    413: "limit",
    415: "usage",
    422: "usage",
    429: "limit",
}  # for what is not an error of mirror/core/errors.py
TITLE: Final[Mapping[int, str]] = {
    400: "This request is not valid",
    401: "You are signed out",
    403: "You are not allowed to do this",
    404: "Page not found",
    405: "This address does not work like that",
    409: "This is not possible right now",
    413: "That is too large",
    422: "This did not work",
    429: "Limit reached",
    500: "Something went wrong",
    502: "Another server did not answer",
    503: "Not available at the moment",
}  # of a page; programs get the words of HTTP
_NO_DATABASE: Final = "Everref cannot reach its database; the backups are in the vault. Try again in a minute"
_ELSE: Final = "Everref itself failed and has logged the error"
_LINK: Final = re.compile(r"(?<=/sign-in/)[^/]+|(?<=/invitations/)[^/]+")

log = logging.getLogger("mirror.web")


def handlers(outside: Outside) -> Mapping[Any, Any]:
    """What Starlette calls for each kind of exception."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 401 and not _is_api(request) and request.method in SAFE:
            return RedirectResponse(f"/sign-in?next={quote(_here(request))}", 303)
        status = error.status_code
        if status == 405 and not _is_api(request) and request.method in SAFE:
            return RedirectResponse(_page_of(request), 303)  # reloaded, or reached by its address
        return answer(
            outside, request, status, error.detail, retry=status in (409, 429), headers=error.headers
        )

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, EverrefError)
        status = STATUS.get(error.kind, 500)
        if isinstance(error, TooLarge):
            status = 422
        if status >= 500 and not isinstance(error, TooOften | OverLimit | Crowded):
            log.warning("%s %s: %s", request.method, _told(request), error)
        headers, detail = {}, str(error)
        if isinstance(error, NetworkError) and error.origin is Origin.DATABASE:
            status, detail, headers = 503, _NO_DATABASE, {"retry-after": "30"}
        if isinstance(error, TooOften | OverLimit):
            status = 429
        elif isinstance(error, NotAllowed):
            status = 403
        if isinstance(error, TooOften | OverLimit | Crowded) and error.seconds is not None:
            headers = {"retry-after": str(error.seconds)}
        return answer(
            outside,
            request,
            status,
            detail,
            kind=error.kind,
            retry=not error.permanent,
            headers=headers,
            raw=error.oid.decode() if isinstance(error, TooLarge) else None,
        )

    async def ask_again(request: Request, error: Exception) -> Response:
        if _is_api(request):
            return answer(outside, request, 403, "confirm who you are on the web page, or use an API token")
        assert isinstance(error, AskAgain)
        if request.method in SAFE:  # the browser returns here afterwards
            return RedirectResponse(f"/account/sure?next={quote(error.back or _here(request))}", 303)
        back = error.back or _page_of(request)
        return RedirectResponse(f"/account/sure?next={quote(back)}&dropped=yes", 303)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # the client has hung up: nobody reads this

    async def broken(request: Request, error: Exception) -> Response:
        number = secrets.token_hex(4)
        log.error("%s %s failed, %s", request.method, _told(request), number, exc_info=error)
        detail = f"{_ELSE} as {number}; try again, or give this number to the person who runs the service"
        return answer(outside, request, 500, detail)

    return {
        HTTPException: refused,
        EverrefError: failed,
        AskAgain: ask_again,
        ClientDisconnect: gone,
        Exception: broken,
    }


def answer(
    outside: Outside,
    request: Request,
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    retry: bool = False,
    headers: Mapping[str, str] | None = None,
    raw: str | None = None,  # the id of an object that is too large for a page
) -> Response:
    """The error as a page or as JSON."""
    title = HTTPStatus(status).phrase
    if _is_api(request):
        about = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        about |= {"class": kind or CLASS.get(status, "ours"), "retry": retry}
        return Response(
            json.dumps(about) + "\n", status, dict(headers or {}), media_type="application/problem+json"
        )
    page = _visit(outside, request).render(
        "error.html",
        status,
        title=TITLE.get(status, title),
        detail=detail,
        retry=retry and request.method in SAFE,  # no link sends a form again
        raw=raw,
        sign_in=f"/sign-in?next={quote(_page_of(request))}" if status == 401 else None,
    )
    page.headers.update(headers or {})
    return page


def _visit(outside: Outside, request: Request) -> RequestContext:
    """The request context as far as it was built; a stranger's where no endpoint was found."""
    found = getattr(request.state, "context", None)
    if isinstance(found, RequestContext):
        return found
    nowhere = Endpoint(request.method, request.url.path, _nothing, Needs.NOTHING)
    return RequestContext(request, outside, outside.services.clock(), nowhere)


async def _nothing(context: RequestContext) -> Response:
    raise HTTPException(404)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _told(request: Request) -> str:
    """The path as it may be logged: without the secret of a one-time link or an invitation."""
    return _LINK.sub("***", request.url.path)


def _here(request: Request) -> str:
    return _sent(request) + _asked(request)


def _asked(request: Request) -> str:
    return f"?{request.url.query}" if request.url.query else ""


def _sent(request: Request) -> str:
    """The path as it was sent: a quoted `#` in it does not end the address."""
    raw = request.scope.get("raw_path") or quote(request.url.path).encode()
    return bytes(raw).partition(b"?")[0].decode("ascii", "replace")


def _page_of(request: Request) -> str:
    """The page of an address that a form is sent to: its own, or the nearest above it."""
    path, context = _sent(request), getattr(request.state, "context", None)
    if isinstance(context, RequestContext) and any(
        isinstance(route, Route) and route.path == context.endpoint.path and "GET" in (route.methods or ())
        for route in request.app.routes
    ):
        return path + _asked(request)
    while path:
        path = path.rpartition("/")[0]
        scope = {"type": "http", "method": "GET", "path": unquote(path), "root_path": "", "headers": []}
        shown = any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
        if shown and not path.endswith("/-"):
            return path + _asked(request)
    return "/"
