"""The web application: all endpoints, in the order in which a path is matched."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirror.web import api, assets, dispatch, metrics, openapi, policy, problems
from mirror.web.compression import Compression
from mirror.web.dispatch import Endpoint, Outside, on_loopback
from mirror.web.pages import home, shared, status, told
from mirror.web.pages.people import account, connect, signin
from mirror.web.pages.repos import (
    archive,
    browse,
    clone,
    drills,
    protection,
    repo,
    repo_settings,
    restore,
    restores,
    served,
    share,
)
from mirror.web.pages.teams import (
    activity,
    auditors,
    bring_in,
    channels,
    costs,
    evidence,
    incident,
    keys,
    mirrors,
    pending,
    report,
    retention,
    settings,
)
from mirror.web.remote import clone_bundles, smart_http

ENDPOINTS: Final[Sequence[Endpoint]] = (
    *openapi.ENDPOINTS,
    *api.CALLS,
    *status.ENDPOINTS,
    *clone_bundles.ENDPOINTS,
    *smart_http.ENDPOINTS,
    *assets.ENDPOINTS,
    *signin.ENDPOINTS,
    *shared.ENDPOINTS,
    *account.ENDPOINTS,
    *channels.ENDPOINTS,
    *served.ENDPOINTS,
    *settings.ENDPOINTS,
    *retention.ENDPOINTS,
    *mirrors.ENDPOINTS,
    *keys.ENDPOINTS,
    *protection.ENDPOINTS,
    *connect.ENDPOINTS,
    *bring_in.ENDPOINTS,
    *activity.ENDPOINTS,
    *told.ENDPOINTS,
    *costs.ENDPOINTS,
    *drills.ENDPOINTS,
    *incident.ENDPOINTS,
    *report.ENDPOINTS,
    *auditors.ENDPOINTS,
    *evidence.ENDPOINTS,
    *repo_settings.ENDPOINTS,
    *pending.ENDPOINTS,
    *home.ENDPOINTS,
    *restore.ENDPOINTS,
    *restores.ENDPOINTS,
    *clone.ENDPOINTS,
    *archive.ENDPOINTS,
    *share.ENDPOINTS,
    *browse.ENDPOINTS,
    *repo.ENDPOINTS,
)  # a path is answered by the first that fits: those of a repo, which fit most, come last


class RepoName(Convertor[str]):
    """A repo's name in a path: it has slashes of its own, and ends before the first `/-/`."""

    regex = r"(?!-/)[^/](?:(?!/-/).)*?"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("repo", RepoName())


class Application(Starlette):
    """Starlette with security headers on everything that it sends, error pages too, and with compression."""

    def __init__(self, headers: Mapping[str, str], **given: Any) -> None:
        super().__init__(**given)
        self._headers = headers

    def build_middleware_stack(self) -> ASGIApp:
        return Compression(SafeHeaders(super().build_middleware_stack(), self._headers))


def application(outside: Outside, receiver: ASGIApp | None = None) -> Starlette:
    """The application over an open outside, with the webhook receiver if it is given."""
    calls = dispatch.routes([endpoint for endpoint in ENDPOINTS if endpoint.is_api], outside)
    return Application(
        _headers(outside),
        routes=[
            *status.probes(outside),
            metrics.route(outside),
            *([Route("/hooks/{rest:path}", receiver)] if receiver else ()),
            *calls,
            Route("/api/{rest:path}", _Nowhere(calls)),  # no page stands below it
            *dispatch.routes([endpoint for endpoint in ENDPOINTS if not endpoint.is_api], outside),
        ],
        exception_handlers=problems.handlers(outside),
    )


class _Nowhere:
    """What answers under /api/ where no call matches: 405 if another method would, else 404."""

    def __init__(self, calls: Sequence[Route]) -> None:
        self.calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods: set[str] = set()
        for call in self.calls:
            if call.matches(scope)[0] is not Match.NONE:
                methods |= call.methods or set()
        if methods:
            allow = ", ".join(sorted(methods))
            raise HTTPException(405, f"this address accepts {allow}", {"allow": allow})
        raise HTTPException(404, "there is no such call; see /api/docs")


def _headers(outside: Outside) -> Mapping[str, str]:
    """Headers for every answer, so that a page cannot be abused."""
    headers = {
        "content-security-policy": policy.of_pages(outside.services.settings),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer" if _is_trustworthy(outside.origin) else "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
    }
    if outside.origin.startswith("https:"):
        headers["strict-transport-security"] = "max-age=31536000"
    return headers


def _is_trustworthy(origin: str) -> bool:
    """Whether browsers tell us Sec-Fetch-Site; over plain http they do not, and Origin has to be told."""
    return origin.startswith("https:") or on_loopback(urlsplit(origin).netloc)


class SafeHeaders:
    """Sends headers with every answer that does not set them itself."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self.app = app
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
