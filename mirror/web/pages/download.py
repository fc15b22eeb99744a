"""Handing over a bundle that waits in the vault: by a link to the store itself, or read through us."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from hashlib import sha256
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from mirror.core import lowspeed
from mirror.core.errors import NotFound
from mirror.core.model import Repo
from mirror.restore import export
from mirror.store.jobs.jobs import Job
from mirror.store.people import attempts
from mirror.web.dispatch import RequestContext

PIECE: Final = 1 << 16  # bytes that are sent at once
GOES_ON: Final = timedelta(hours=1)  # for which the parts of a bundle are one download of a person

_ONE_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_PRIVATE: Final = {"cache-control": "private, no-cache"}


def bundle_name(repo: Repo, job: Job) -> str:
    """What a bundle is called where it is saved."""
    plain = "".join(
        char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in repo.name
    )
    return f"{plain.strip('-.') or 'everref'}-{(job.result or {}).get('snapshot', 0)}.bundle"


async def bundle_of(context: RequestContext, repo: Repo, job: Job) -> Response:
    """The bundle of a job, whole or any part of it, as a download that broke off goes on. Raises NotFound."""
    found = export.of(job, context.now)
    if found is None or not await export.is_there(context.services, found):
        raise NotFound("there is no such bundle, or not any more; make it again")
    request, name = context.request, bundle_name(repo, job)
    tag = f'"{sha256(found.key.encode()).hexdigest()[:32]}"'  # a key is written once
    asked = request.headers.get("range")
    if request.headers.get("if-range", tag) != tag:
        asked = None
    part = part_of(asked, found.bytes)
    if request.method == "GET":
        first = await attempts.take(
            context.services.db, f"download {context.owner().id} {job.id}", 1, GOES_ON, context.now
        )
        if first or (part is not None and part[0] == 0):  # else one that broke off goes on
            snapshot = (job.result or {}).get("snapshot")
            await context.audit("restore.download", repo.name, repo.id, {"snapshot": snapshot})
    link = await export.link(context.services, found, name) if request.method == "GET" else None
    if link:
        return RedirectResponse(link, 303, {"cache-control": "no-store"})
    headers = _PRIVATE | {
        "accept-ranges": "bytes",
        "content-disposition": f'attachment; filename="{name}"',
        "content-type": "application/octet-stream",
        "etag": tag,
    }
    if part is None:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{found.bytes}"})
    start, end = part
    headers["content-length"] = str(end - start)
    status = 200
    if asked is not None and part != (0, found.bytes):
        status, headers["content-range"] = 206, f"bytes {start}-{end - 1}/{found.bytes}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return Stream(export.read(context.services, found, start, end), status, headers)


def part_of(asked: str | None, size: int) -> tuple[int, int] | None:
    """Where the part that a Range header asks for begins and ends; None: there is nothing of it.

    What is no range of bytes, or more than one, means the whole: RFC 9110, 14.2.
    """
    match = _ONE_RANGE.fullmatch(asked or "")
    if match is None or match[1] == match[2] == "":
        return 0, size
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < start:
            return 0, size
    return (start, end) if start < end else None


class Stream(StreamingResponse):
    """Chunks that are let go of at once when whoever reads them has gone, or takes next to nothing.

    A download that ends so goes on where it ended, by its range.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], status: int, headers: dict[str, str]) -> None:
        super().__init__(_pieces(chunks), status, headers)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        slow = False

        async def paced(message: Message) -> None:
            nonlocal slow
            try:
                async with asyncio.timeout(lowspeed.TIME + len(message.get("body", b"")) / lowspeed.LIMIT):
                    await send(message)
            except TimeoutError:
                slow = True
                raise

        async with aclosing(self._chunks):
            try:
                await super().__call__(scope, receive, paced)
            except (TimeoutError, ClientDisconnect):
                if not slow:
                    raise


async def _pieces(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same bytes, no more at once than are sent within two minutes by the slowest who is waited for."""
    async for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            yield chunk[start : start + PIECE]
