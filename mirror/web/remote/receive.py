"""The push endpoint: `git push` to a repo without a remote, which ends only once everything is saved.

Format: gitprotocol-http(5). Who calls: web/remote/smart_http, which finds out who asks and for which repo.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.backup import pushing
from mirror.core import words
from mirror.core.errors import Crowded, EverrefError, Refused, TooOften, UsageError, for_strangers
from mirror.core.formats import gzipped
from mirror.core.formats import receive_pack as protocol
from mirror.core.formats.receive_pack import SERVICE, PushRequest, Reader
from mirror.core.model import ObjectFormat, Repo, Snapshot, has_remote
from mirror.core.progress import NOTES
from mirror.core.rules.roles import Role
from mirror.git.disk import finish
from mirror.git.run import CHUNK
from mirror.jobs import run as jobs
from mirror.services.server.bodies import Body
from mirror.store.backup import received as counts
from mirror.store.backup.received import Outcome
from mirror.web.dispatch import RequestContext
from mirror.web.pages.repos.download import Stream

SCOPE: Final = "backup"  # that a token needs to push
ROLE: Final = Role.OPERATOR
LARGE: Final = 1 << 18  # bytes of commands that are read at once
PATIENCE: Final = 8.0  # seconds for more of them to find room in memory
ALIVE_SECONDS: Final = 5.0  # after which a client hears that somebody is still at work: git's own habit
_NO_CACHE: Final = {"cache-control": "no-cache, max-age=0, must-revalidate", "pragma": "no-cache"}

log = logging.getLogger("mirror.web")


async def advertised(context: RequestContext, repo: Repo) -> Response:
    """What git asks before a push: which refs there are. Raises 403 where it may not push there."""
    await check(context, repo)
    refs = await pushing.refs_now(context.services, repo)
    told = protocol.advertisement(refs, pushing.format_of(repo))

    async def chunks() -> AsyncGenerator[bytes, None]:
        for chunk in told:
            yield chunk

    return Stream(chunks(), 200, _NO_CACHE | {"content-type": f"application/x-{SERVICE}-advertisement"})


async def check(context: RequestContext, repo: Repo) -> None:
    """Raise 403, in words that git shows, unless this person or token may push to this repo now."""
    if not context.may(ROLE):
        raise HTTPException(
            403, f"to push needs the role {ROLE}; you are {context.role} in {context.of_team().name}"
        )
    if not has_remote(repo.url):
        try:
            await pushing.check_not_paused(context.services, repo)
        except Refused as refused:
            raise HTTPException(403, str(refused)) from None
        return
    raise HTTPException(
        403,
        f"{repo.name} is backed up from its own host: push there, and Everref saves it; an admin can create"
        " a repository to push to with `everref create NAME`, or on the page Add repositories",
    )


async def received(context: RequestContext, repo: Repo) -> Response:
    """A push: its refs and its pack, and what became of them, once it is saved."""
    await check(context, repo)
    _check_type(context)
    body = _body(context)
    room = context.outside.room.body(protocol.COMMANDS_BYTES, PATIENCE)
    try:
        return await _received(context, repo, body, room)
    finally:
        room.end()
        await body.aclose()


async def _read(
    context: RequestContext, body: AsyncGenerator[bytes, None], object_format: ObjectFormat, room: Body
) -> tuple[PushRequest | None, bytes]:
    """What a push says of refs, and the first bytes of its pack. None: it only asks whether it may push.

    Very many refs are read by a thread, in memory that all large bodies share. Raises 400, 503, TooOften,
    Crowded.
    """
    reader, size = Reader(object_format), 0
    rest = b""
    try:
        async for chunk in body:
            size += len(chunk)
            if size <= LARGE:
                rest = reader.feed(chunk)
            else:
                async with context.outside.requests.slot(context.services.who):
                    rest = await finish(partial(reader.feed, chunk))
            if reader.request is not None:
                break
            await room.reach(size)
        return reader.end(), rest
    except UsageError as error:
        raise HTTPException(400, str(error)) from None
    except TimeoutError:
        raise HTTPException(
            503, "the server is receiving too much at once; try again in a few seconds", {"retry-after": "5"}
        ) from None


async def _received(
    context: RequestContext, repo: Repo, body: AsyncGenerator[bytes, None], room: Body
) -> Response:
    request, rest = await _read(context, body, pushing.format_of(repo), room)
    if request is None:  # git asks so before it sends much, whether it may
        return _result(b"")
    talk = _Talk(request)
    try:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(context.outside.pushes.slot(context.services.who))
            except (TooOften, Crowded):
                raise Refused("too many pushes are under way at once; try again in a minute") from None
            room.end()  # so many pushes at once may have more than that
            pack = await stack.enter_async_context(
                pushing.set_aside(context.services, repo, _pack(rest, body))
            )
            context.outside.background.begin(
                f"push {secrets.token_hex(8)}", _work(context, repo, request, pack, talk, stack.pop_all())
            )
    except EverrefError as error:
        await _count(context, "failed" if error.is_shared else "refused", 0)
        return _result(await finish(partial(_failed, request, error)))
    return Stream(talk.told(), 200, _NO_CACHE | {"content-type": f"application/x-{SERVICE}-result"})


async def _work(
    context: RequestContext,
    repo: Repo,
    request: PushRequest,
    pack: pushing.Pack,
    talk: "_Talk",
    held: AsyncExitStack,
) -> None:
    """Save what was pushed and tell it; also where the client has gone, as its next push finds out."""
    said: bytes | None = None
    outcome: Outcome = "failed"
    try:
        async with held:
            services = replace(context.services, progress=talk)
            done = await pushing.push(
                services, repo, request, pack, pushing.format_of(repo), context.owner().name
            )
        said = await finish(partial(protocol.report, request, None, done.refused))
        outcome = "saved" if done.new else "refused" if done.refused else "unchanged"
        if done.snapshot is not None:  # also where the client asks for quiet, as it does in every CI
            told = [_saved(repo, done.snapshot, done.new), *([_astray(done.astray)] if done.astray else ())]
            said = b"".join(protocol.note(request, line) for line in told) + said
            await _follow_up(context, repo, done)
    except EverrefError as error:
        outcome = "failed" if error.is_shared else "refused"
        said = await finish(partial(_failed, request, error))
    finally:
        ours = "Everref failed; whoever runs it finds why in its log"
        talk.end(protocol.report(request, ours, {}) if said is None else said)
    await _count(context, outcome, pack.size)


async def _follow_up(context: RequestContext, repo: Repo, done: pushing.Pushed) -> None:
    """What comes after a push that is saved, whatever becomes of this: the next push makes up for it."""
    if done.snapshot is None or not done.new:
        return
    detail = {"snapshot": done.snapshot.number, "changes": done.snapshot.changes_count}
    try:
        await context.audit("repo.push", repo.name, repo.id, detail)
        await jobs.pushed(context.services, repo.id)
    except EverrefError as error:
        log.warning(
            "push %s of %s is saved, but not in the audit log: %s", done.snapshot.label, repo.id, error
        )


async def _count(context: RequestContext, outcome: Outcome, size: int) -> None:
    try:
        await counts.count(context.services.db, outcome, size)
    except EverrefError as error:
        log.warning("a push was not counted: %s", error)


def _saved(repo: Repo, snapshot: Snapshot, new: bool) -> str:
    size = words.size(snapshot.segment.bytes) if snapshot.segment else "no new objects"
    if not new:
        return f"Everref: {repo.name} was saved already, as {snapshot.label}"
    count = words.count(snapshot.refs_count, "ref")
    return f"Everref: saved as {snapshot.label} of {repo.name}, {count}, {size}"


def _astray(branch: str) -> str:
    return (
        f"Everref: HEAD still leads to {branch}, which this push deleted: clones check nothing out until it"
        " is pushed again, or an admin sets another default branch"
    )


def _failed(request: PushRequest, error: EverrefError) -> bytes:
    if error.is_shared:
        log.warning("a push could not be saved: %s", error)
    said = for_strangers(error)
    return protocol.note(request, f"Everref: {said}") + protocol.report(request, said, {})


class _Talk:
    """What the client hears while its push is being saved: a Progress, of which notes alone are told."""

    def __init__(self, request: PushRequest) -> None:
        self._request = request
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None:
        if self._queue.qsize() < NOTES:
            self._queue.put_nowait(protocol.note(self._request, f"Everref: {text}"))

    def end(self, last: bytes) -> None:
        """Say this, and nothing after it."""
        self._queue.put_nowait(last)
        self._queue.put_nowait(None)

    async def told(self) -> AsyncGenerator[bytes, None]:
        """The answer, as it comes."""
        while True:
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    said = await self._queue.get()
            except TimeoutError:
                said = protocol.keep_alive(self._request)
            if said is None:
                return
            if said:
                yield said


def _check_type(context: RequestContext) -> None:
    headers = context.request.headers
    if headers.get("content-type", "") != f"application/x-{SERVICE}-request":
        raise HTTPException(415, f"send application/x-{SERVICE}-request")
    if headers.get("content-encoding", "identity").lower() not in ("identity", "gzip", "x-gzip"):
        raise HTTPException(415, "send the push as it is, or with gzip")


async def _body(context: RequestContext) -> AsyncGenerator[bytes, None]:
    """What the client sends, unpacked; how long that may take is for the door. Raises UsageError."""
    packed = "gzip" in context.request.headers.get("content-encoding", "")
    unpacking = gzipped.Unpacking("push") if packed else None
    async for chunk in context.request.stream():
        for piece in unpacking.feed(chunk, CHUNK) if unpacking else (chunk,):
            yield piece
    if unpacking:
        unpacking.end()


async def _pack(first: bytes, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The pack in pieces that are worth a write."""
    held = [first]
    size = len(first)
    async with aclosing(body):
        async for chunk in body:
            held.append(chunk)
            size += len(chunk)
            if size >= CHUNK:
                yield b"".join(held)
                held, size = [], 0
    if size:
        yield b"".join(held)


def _result(body: bytes) -> Response:
    return Response(body, 200, _NO_CACHE, media_type=f"application/x-{SERVICE}-result")
