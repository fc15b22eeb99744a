"""Errors as answers: an error page, problem+json (RFC 9457) under /api/, or a line for a client of git."""

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
    Dropped,
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
    "key": 409,
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
_FOR_GIT: Final = (
    "git finds no repository at this address; it is {}/git/TEAM/REPO, with @12, @2026-03-02 or @2h%20ago"
    " behind it for a moment"
)
_ELSE: Final = "Everref itself failed and has logged the error"
_LINK: Final = re.compile(r"(?<=/sign-in/)[^/]+|(?<=/invitations/)[^/]+|(?<=^/s/)[^/]+")

log = logging.getLogger("mirror.web")


def handlers(outside: Outside) -> Mapping[Any, Any]:
    """What Starlette calls for each kind of exception."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if _is_lost_git(request) and error.status_code in (401, 404, 405):
            detail = _FOR_GIT.format(outside.origin)
            return Response(detail + "\n", 404, media_type="text/plain")
        if error.status_code == 401 and not _is_of_program(request) and request.method in SAFE:
            return RedirectResponse(f"/sign-in?next={quote(_here(request))}", 303)
        status = error.status_code
        if status == 405 and not _is_of_program(request) and request.method in SAFE:
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
            named="This moment is no longer kept" if isinstance(error, Dropped) else None,
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
    named: str | None = None,  # the title of a page; None: the status has one
) -> Response:
    """The error as a page or as JSON."""
    title = HTTPStatus(status).phrase
    if _is_api(request):
        about = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        about |= {"class": kind or CLASS.get(status, "ours"), "retry": retry}
        return Response(
            json.dumps(about) + "\n", status, dict(headers or {}), media_type="application/problem+json"
        )
    if _is_of_git(request):  # which shows such a text, each line after "remote: "
        return Response(detail + "\n", status, dict(headers or {}), media_type="text/plain")
    page = _visit(outside, request).render(
        "error.html",
        status,
        title=named or TITLE.get(status, title),
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


def _is_of_git(request: Request) -> bool:
    found = getattr(request.state, "context", None)
    return isinstance(found, RequestContext) and found.endpoint.git is not None


def _is_lost_git(request: Request) -> bool:
    """Whether a client of git asks at an address that is not one of git's, where it cannot sign in."""
    path = request.url.path
    asks = path.endswith(("/info/refs", "/git-upload-pack", "/git-receive-pack"))
    return not _is_of_git(request) and (
        path.startswith("/git/") or (asks and request.headers.get("user-agent", "").startswith("git/"))
    )


def _is_of_program(request: Request) -> bool:
    return _is_api(request) or _is_of_git(request)


def _told(request: Request) -> str:
    """The path as it may be logged: without the secret of a link or an invitation."""
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
