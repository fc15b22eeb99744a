"""An S3 store that only pretends to lock: it remembers every lock, and deletes and overwrites anyway."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from xml.etree import ElementTree

from aiohttp import web

from tests.parts.s3 import S3Server

_ENABLED = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
_MADE = "Sun, 22 Nov 2026 00:00:00 GMT"
_KEPT = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold")
EVERYBODY = {"Statement": {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "s3:GetObject"}}
EXPIRES = (
    "<Rule><ID>tidy</ID><Status>Enabled</Status><Filter/><Expiration><Days>30</Days></Expiration></Rule>"
)


class Pretender:
    """One bucket in memory, without versions."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self._uploads: dict[str, dict[str, str]] = {}
        self._parts: dict[str, bytes] = {}

    async def answer(self, request: web.Request) -> web.Response:
        key, asked, body = request.path, request.query, await request.read()
        if request.method == "GET" and key.count("/") == 1:
            return self._settings(request)
        if request.method in ("GET", "HEAD"):
            if key not in self._objects:
                return _xml("<Error><Code>NoSuchKey</Code></Error>", 404)
            data, lock = self._objects[key]
            return web.Response(body=data, headers={"ETag": '"e"', "Last-Modified": _MADE} | lock)
        if request.method == "DELETE":
            self._objects.pop(key, None)
            return web.Response(status=204)
        lock = {name: request.headers[name] for name in _KEPT if name in request.headers}
        if "retention" in asked or "legal-hold" in asked:
            self._change(key, body)
        elif "uploads" in asked:
            self._uploads[key] = lock
            return _xml(f"<X><UploadId>{hashlib.sha256(key.encode()).hexdigest()}</UploadId></X>")
        elif "partNumber" in asked:
            self._parts[key] = body
        elif "uploadId" in asked:
            self._objects[key] = (self._parts[key], self._uploads[key])
            return _xml("<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
        else:
            self._objects[key] = (body, lock)
        return web.Response(headers={"ETag": '"e"'})

    def _settings(self, request: web.Request) -> web.Response:
        asked = request.query
        if "object-lock" in asked:
            return _xml(_ENABLED)
        if "lifecycle" in asked:
            return _xml(f"<LifecycleConfiguration>{EXPIRES}</LifecycleConfiguration>")
        if "policy" in asked:
            return web.Response(text=json.dumps(EVERYBODY))
        if "versioning" in asked:
            return _xml("<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>")
        if "list-type" in asked:
            return _xml("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        return _xml("<Error><Code>NotImplemented</Code></Error>", 501)

    def _change(self, key: str, body: bytes) -> None:
        data, lock = self._objects[key]
        said = {one.tag.rpartition("}")[2]: one.text or "" for one in ElementTree.fromstring(body)}
        names = dict(zip(("Mode", "RetainUntilDate", "Status"), _KEPT, strict=True))
        self._objects[key] = (data, lock | {names[tag]: text for tag, text in said.items()})


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/xml")


@asynccontextmanager
async def pretending() -> AsyncIterator[S3Server]:
    """A store on loopback that pretends, gone afterwards."""
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", Pretender().answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield S3Server(f"http://127.0.0.1:{port}", bucket="pretender")
    finally:
        await runner.cleanup()
