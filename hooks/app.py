"""The webhook receiver as an application: from a request to a stored delivery and a renewed sync request.

What arrives is a hint and nothing more: the worst that a forged one can cause is
a look at the remote. Only what the remote itself says then is stored.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
from arq.connections import ArqRedis
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hooks import events, verify
from hooks.errors import BadPayload, BadSignature
from hooks.events import Event, EventKind
from mirror.core.config import NO_REDIS
from mirror.core.errors import EverrefError
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId
from mirror.core.rules.work.job import SYNC
from mirror.services.queue import NoQueue, Queue
from mirror.services.server.bodies import Body, Budget
from mirror.store.discovery import hooks
from mirror.store.discovery.hooks import Delivery, NewUpdate, Received

LARGEST: Final = 25 << 20  # bytes of a body; GitHub sends none that is larger
SMALL: Final = 128 << 10  # bytes of a body that is read at once, whatever else arrives
ROOM: Final = 64 << 20  # bytes of all larger bodies to hooks that there are, in memory at once
STRANGERS_ROOM: Final = 16 << 20  # bytes of all larger ones to addresses where no hook is
ROOM_SECONDS: Final = 8  # for a larger one to find room there
READ_SECONDS: Final = 10  # for a body to arrive; the forges give up on us about then
PIECE: Final = 256 << 10  # bytes of a larger body, of which each such piece must arrive
PIECE_SECONDS: Final = 3  # within this
HINT_SECONDS: Final = 0.5  # for Redis to take a hint; the forge waits meanwhile
LARGE: Final = 1 << 20  # bytes of a body that is verified and parsed in a thread
PARSED: Final = 2  # of these at once: what is parsed takes several times the memory of its body
REFUSED: Final = 1  # at once of large bodies to addresses where no hook is
REMEMBERED: Final = timedelta(minutes=1)  # the secrets of a hook that delivers
KNOWN: Final = 10_000  # hooks whose secrets are remembered
RETRY: Final = {"retry-after": "60"}
CLOSE: Final = {"connection": "close"}  # what is left of the body is not read

log = logging.getLogger("mirror.hooks")


def application(
    db: asyncpg.Pool, queue: ArqRedis | NoQueue, keyring: Keyring, clock: Callable[[], datetime] | None = None
) -> Starlette:
    """The application over an open database and a queue, which may be down."""
    receiver = Receiver(db, queue, keyring, clock or _now)
    return Starlette(
        routes=[Route("/hooks/{forge}/{hook_id}", receiver.post, methods=["POST"])],
        exception_handlers={HTTPException: _refused},
    )


def queue(url: str) -> Queue | NoQueue:
    """The queue that the workers read, connected to when it is first needed."""
    return NoQueue() if url == NO_REDIS else Queue.at(url)


class Receiver:
    """Takes deliveries."""

    def __init__(
        self, db: asyncpg.Pool, queue: ArqRedis | NoQueue, keyring: Keyring, clock: Callable[[], datetime]
    ) -> None:
        self._db = db
        self._queue = queue
        self._keyring = keyring
        self._clock = clock
        self._room = Budget(ROOM, SMALL)
        self._parsing = asyncio.Semaphore(PARSED)
        # Nobody guesses an address, so that whoever has none is in no delivery's way.
        self._strangers_room = Budget(STRANGERS_ROOM, SMALL)
        self._refusing = asyncio.Semaphore(REFUSED)
        # An unknown address costs the same work and gets the same answer as a wrong signature.
        self._decoy = [secrets.token_urlsafe(32)]
        self._known: dict[tuple[str, str], tuple[list[str], datetime]] = {}  # until when

    async def post(self, request: Request) -> Response:
        """Take one delivery, in this order:

        1. Read the body as it is, within its limits.
        2. Verify it with the hook's secrets; only then parse it.
        3. Store it with its reported updates and renew the sync request, in one statement.
        4. Put a job into arq's queue. If Redis is down, a worker finds the sync request.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "send the body as it is, without content-encoding", CLOSE)
        length = request.headers.get("content-length")
        if length is not None and (not length.isdecimal() or int(length) > LARGEST):
            raise HTTPException(413, f"the body is larger than {LARGEST} bytes", CLOSE)
        try:
            with ExitStack() as memory:
                return await self._take(request, await self._read(request, memory))
        except EverrefError as error:  # the database is away, or SECRET_KEYS does not open its rows
            log.error("a delivery could not be stored: %s", error)
            raise HTTPException(
                503, "this cannot be stored right now; deliver it again", RETRY | CLOSE
            ) from error

    async def _read(self, request: Request, memory: ExitStack) -> bytes:
        """The body; of more than SMALL no more than there is memory for, which it has until `memory` ends.

        While it waits for memory nothing of it is read: its sender waits as well, and is not slow.
        """
        body = bytearray()
        held: Body | None = None
        clock = asyncio.get_running_loop().time
        until = clock() + READ_SECONDS
        piece, piece_until = SMALL, until  # what must have arrived by then
        try:
            async with asyncio.timeout_at(until) as limit:
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > LARGEST:
                        raise HTTPException(413, f"the body is larger than {LARGEST} bytes", CLOSE)
                    if len(body) > SMALL and (held is None or held.lacks(len(body))):
                        limit.reschedule(None)
                        began = clock()
                        if held is None:
                            held = (await self._room_for(request)).body(_announced(request), ROOM_SECONDS)
                            memory.callback(held.end)
                        await _has_room(held, len(body))
                        until += clock() - began
                        piece_until += clock() - began
                    if len(body) > piece:
                        piece, piece_until = len(body) + PIECE, clock() + PIECE_SECONDS
                    limit.reschedule(min(until, piece_until))
        except TimeoutError:
            raise HTTPException(408, "the body arrives too slowly; deliver it again", CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the body ended early", CLOSE) from None
        return bytes(body)

    async def _room_for(self, request: Request) -> Budget:
        """Where a large body to this address has its memory: one look into the database, if any."""
        forge, hook_id = request.path_params["forge"], request.path_params["hook_id"]
        now = self._clock()
        opened, until = self._known.get((forge, hook_id), (self._decoy, now))
        if now >= until:
            opened = await self._asked(forge, hook_id, now)
        return self._strangers_room if opened is self._decoy else self._room

    async def _take(self, request: Request, body: bytes) -> Response:
        forge, hook_id = request.path_params["forge"], request.path_params["hook_id"]
        headers = {name.lower(): value for name, value in request.headers.items()}
        now = self._clock()
        known, until = self._known.get((forge, hook_id), (self._decoy, now))
        try:
            try:
                event = await self._understood(
                    forge, known if now < until else self._decoy, body, headers, now
                )
            except BadSignature:  # it may have another secret by now, or is not remembered
                opened = await self._asked(forge, hook_id, now)
                event = await self._understood(forge, opened, body, headers, now)
        except BadSignature:
            raise HTTPException(404, "there is no such hook, or the signature is not its own") from None
        except BadPayload as error:
            return _answer(400, str(error))
        taken = await hooks.deliver(self._db, hook_id, _delivery(event, body), now)
        if taken is None:  # removed a moment ago, or a decoy whose secret was guessed
            raise HTTPException(404, "there is no such hook, or the signature is not its own")
        if taken.sync_requested and taken.within:
            await self._enqueue(taken.repo_id)
        return _answered(taken, event)

    async def _asked(self, forge: str, hook_id: str, now: datetime) -> list[str]:
        """The hook's secrets, remembered for a while; if it is removed meanwhile, it takes no delivery."""
        locks = await hooks.locks(self._db, forge, hook_id, now)
        if locks is None:
            return self._decoy
        if len(self._known) >= KNOWN:
            self._known.clear()
        opened = locks.secrets(self._keyring)
        self._known[forge, hook_id] = opened, now + REMEMBERED
        return opened

    async def _understood(
        self, forge: str, opened: list[str], body: bytes, headers: Mapping[str, str], now: datetime
    ) -> Event:
        """Verify, then parse; large bodies in a thread, PARSED at once. Raises BadSignature or BadPayload."""
        if len(body) < LARGE:
            return _parsed(forge, opened, body, headers, now)
        async with self._refusing if opened is self._decoy else self._parsing:
            return await asyncio.to_thread(_parsed, forge, opened, body, headers, now)

    async def _enqueue(self, repo_id: RepoId) -> None:
        try:
            async with asyncio.timeout(HINT_SECONDS):
                await self._queue.enqueue_job(SYNC, str(repo_id))
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            log.warning(
                "no job could be queued (%s); a worker will find the sync request", type(error).__name__
            )


def _announced(request: Request) -> int:
    """The most bytes that the body has, as far as that is known."""
    return int(request.headers.get("content-length", LARGEST))


async def _has_room(held: Body, size: int) -> None:
    """Wait until there is memory for a body of this size. Raises 503 where none becomes free."""
    try:
        await held.reach(size)
    except TimeoutError:
        raise HTTPException(503, "too much arrives at once; deliver it again", RETRY | CLOSE) from None


def _parsed(forge: str, opened: list[str], body: bytes, headers: Mapping[str, str], now: datetime) -> Event:
    check = verify.VERIFIERS.get(forge, verify.VERIFIERS["github"])
    check(opened, body, headers, now)
    return events.parse(forge, headers, body)


def _delivery(event: Event, body: bytes) -> Delivery:
    why = event.why
    if event.kind in (EventKind.PING, EventKind.IGNORED) or event.repository is None:
        why = why or ("a ping" if event.kind is EventKind.PING else "it reports no change of a repository")
    return Delivery(
        id=event.delivery,
        kind=event.kind.value,
        repository_id=event.repository.id if event.repository else None,
        updates=[NewUpdate(one.name, one.before, one.after, one.by, one.at) for one in event.updates],
        why=why,
        body=body,
    )


def _answered(taken: Received, event: Event) -> Response:
    if not taken.ours:
        return _answer(403, "this hook is for another repository")
    if not taken.within:
        return _answer(
            429, f"more than {hooks.A_MINUTE} a minute; a sync is due, but the delivery was not stored"
        )
    if not taken.fresh:
        return _answer(200, "this delivery is known already")
    if not taken.sync_requested:
        return _answer(202, f"nothing to do: {event.why or event.kind.value}")
    return _answer(202, "a sync is due")


def _answer(status: int, why: str, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps({"why": why}) + "\n"
    return Response(text, status, dict(headers or {}), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(error.status_code, error.detail, error.headers)


def _now() -> datetime:
    return datetime.now(UTC)
