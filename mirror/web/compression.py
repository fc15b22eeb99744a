"""Which answers are compressed: pages, stylesheets, scripts and JSON, but never one that shows a secret.

Starlette's middleware compresses. This module says what it leaves as it is: downloads
and raw files (their bytes are their own), event streams (which must not wait), what
answers a form or a call that changes something, and whatever says `no-transform`, which
also tells a proxy before us. docs/security.md says for each page why.
"""

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipResponder, IdentityResponder
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TYPES: Final = frozenset(
    {
        *("text/html", "text/css", "text/javascript", "application/javascript"),
        *("application/json", "application/manifest+json", "image/svg+xml"),
    }
)
_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
LEAST: Final = 500  # bytes that are worth it
LEVEL: Final = 6  # zlib's own; 9 takes twice as long for one per cent
AS_IT_IS: Final = "no-transform"  # in Cache-Control, RFC 9111, 5.2.2.6


class Compression:
    """Lets Starlette's gzip have the answers that may be compressed, and that the visitor can unpack."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        takes_gzip = _GZIP.search(Headers(scope=scope).get("accept-encoding", ""))
        responder = (
            GZipResponder(self.app, LEAST, LEVEL) if takes_gzip else IdentityResponder(self.app, LEAST)
        )
        responder.send = send
        chosen = send

        async def choosing(message: Message) -> None:
            nonlocal chosen
            if message["type"] == "http.response.start" and may_be_compressed(
                Headers(raw=message["headers"])
            ):
                chosen = responder.send_with_compression
            await chosen(message)

        await self.app(scope, receive, choosing)


def as_it_is(answer: Response) -> Response:
    """Have an answer that shows a secret stored by nobody and compressed by nobody, a proxy included."""
    answer.headers["cache-control"] = f"no-store, {AS_IT_IS}"
    return answer


def may_be_compressed(headers: Headers) -> bool:
    """Whether an answer with these headers may be."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    whole = "content-range" not in headers and "content-disposition" not in headers
    return media_type in TYPES and whole and AS_IT_IS not in headers.get("cache-control", "")
