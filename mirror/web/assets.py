"""The static files of pages: stylesheet, script, icons and the web app manifest, all from this host."""

from functools import cache
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.templating import STATIC, static

FOR_EVER: Final = "public, max-age=31536000, immutable"  # under an address that names its content
A_WHILE: Final = "public, max-age=300"
TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}


async def asset(context: RequestContext) -> Response:
    """A static file by its name."""
    return _answer(str(context.path["name"]), context.query.get("v"))


async def manifest(context: RequestContext) -> Response:
    """What lets a phone or a desktop install Everref as an app."""
    return _answer("manifest.webmanifest", None)


def _answer(name: str, version: str | None) -> Response:
    if name not in names():
        raise HTTPException(404, "there is no such file")
    kept = FOR_EVER if version is not None and static(name).endswith(f"?v={version}") else A_WHILE
    headers = {"cache-control": kept, "cross-origin-resource-policy": "same-origin"}
    return Response(_bytes(name), headers=headers, media_type=TYPES[name.rpartition(".")[2]])


@cache
def names() -> frozenset[str]:
    """The names of the files."""
    return frozenset(file.name for file in STATIC.iterdir() if file.suffix[1:] in TYPES)


@cache
def _bytes(name: str) -> bytes:
    return (STATIC / name).read_bytes()


ENDPOINTS: Final = (
    Endpoint("GET", "/static/{name}", asset, Needs.NOTHING),
    Endpoint("GET", "/manifest.webmanifest", manifest, Needs.NOTHING),
)
