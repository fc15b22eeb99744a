"""Handing over a bundle that waits in the vault: by a link to the store itself, or read through us."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final

from starlette.requests import ClientDisconnect, Request
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
    headers = _PRIVATE | {
        "content-disposition": f'attachment; filename="{name}"',
        "content-type": "application/octet-stream",
    }
    part = asked_part(request, found.bytes, tag_of(found.key), headers)
    if request.method == "GET":
        first = await attempts.take(
            context.services.db, f"download {context.owner().id} {job.id}", 1, GOES_ON, context.now
        )
        if first or part.start == 0 < part.end:  # else one that broke off goes on
            snapshot = (job.result or {}).get("snapshot")
            await context.audit("restore.download", repo.name, repo.id, {"snapshot": snapshot})
    link = await export.link(context.services, found, name) if request.method == "GET" else None
    if link:
        return RedirectResponse(link, 303, {"cache-control": "no-store"})
    if part.answer is not None:
        return part.answer
    return Stream(export.read(context.services, found, part.start, part.end), part.status, part.headers)


@dataclass(frozen=True, slots=True)
class AskedPart:
    """Which bytes a request asks for, and what is answered before them."""

    start: int
    end: int
    status: int
    headers: dict[str, str]
    answer: Response | None  # the whole answer, where no bytes are to follow


def tag_of(key: str) -> str:
    """The entity tag of an object of the vault; a key is written once."""
    return sha256(key.encode()).hexdigest()[:32]


def asked_part(request: Request, size: int, tag: str, headers: Mapping[str, str]) -> AskedPart:
    """What of so many bytes is asked for by Range and If-Range: RFC 9110, 13.1.5 and 14."""
    given = {**headers, "accept-ranges": "bytes", "etag": f'"{tag}"'}
    asked = request.headers.get("range")
    if request.headers.get("if-range", given["etag"]) != given["etag"]:
        asked = None
    part = part_of(asked, size)
    if part is None:
        given["content-range"] = f"bytes */{size}"
        return AskedPart(0, 0, 416, given, Response(status_code=416, headers=given))
    start, end = part
    status, given["content-length"] = 200, str(end - start)
    if asked is not None and part != (0, size):
        status, given["content-range"] = 206, f"bytes {start}-{end - 1}/{size}"
    alone = Response(status_code=status, headers=given) if request.method == "HEAD" else None
    return AskedPart(start, end, status, given, alone)


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

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], status: int, headers: dict[str, str], piece: int = PIECE
    ) -> None:
        super().__init__(_pieces(chunks, piece), status, headers)
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


async def _pieces(chunks: AsyncGenerator[bytes, None], piece: int) -> AsyncGenerator[bytes, None]:
    """The same bytes, and at once only what the slowest who is waited for reads in minutes."""
    async for chunk in chunks:
        for start in range(0, len(chunk), piece):
            yield chunk[start : start + piece]
