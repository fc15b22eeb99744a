"""Whether every part of the service works: for people, and for monitoring."""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mirror.channels import mail, wire
from mirror.core.channels import NotDelivered
from mirror.core.config import Settings
from mirror.core.errors import EverrefError, Origin
from mirror.core.locks import Locking
from mirror.core.smtp import Smtp
from mirror.services.queue import NAME, NoQueue
from mirror.store.jobs import runs
from mirror.store.upkeep import locks, outages, vaults
from mirror.store.upkeep.locks import Extended, Proved
from mirror.web.dispatch import Endpoint, Needs, Outside, RequestContext
from mirror.web.pages.teams import channels

log = logging.getLogger("mirror.web")
A = TypeVar("A")
B = TypeVar("B")

MAIL_EVERY: Final = timedelta(minutes=1)  # between two questions to the mail server
ANSWER_SECONDS: Final = 3  # for a server that is asked whether it is there


@dataclass(frozen=True, slots=True)
class Health:
    """Which parts work; None: the database, which knows of it, does not answer."""

    database: bool
    queue: bool | None  # None: there is no Redis, and none is wanted
    worker: bool | None  # at least one has reported recently
    vault: bool | None  # no worker found it unavailable
    disk: bool | None  # no worker found its own full or broken
    unknown: int = 0  # repos that the vault has and the database does not know

    @property
    def ready(self) -> bool:
        """Whether requests can be served; a worker is not needed for that."""
        return self.database and self.queue is not False

    @property
    def well(self) -> bool:
        parts = (self.ready, self.worker, self.vault, self.disk)
        return all(parts) and not self.unknown


async def status(context: RequestContext) -> Response:
    """Whether everything works, for people."""
    health = await look(context.services.db, context.outside.queue)
    smtp = context.services.settings.smtp
    runs_it = health.database and await channels.runs_it(context)
    return context.render(
        "status.html",
        200 if health.ready else 503,
        health=health,
        mail=None if smtp is None else await _mails.works(context.services.settings, context.now),
        runs_it=runs_it,
        locked=await _locked(context) if runs_it else (),
    )


@dataclass(frozen=True, slots=True)
class LockedStore:
    """A store that locks what is written there, as whoever runs the service sees it."""

    name: str
    where: str
    locking: Locking
    proved: Proved | None  # None: nobody has tried to break its locks yet
    extended: Extended
    parts: int  # that were replaced and are not deleted yet
    bytes: int  # of these
    until: datetime | None  # when the last of their locks ends at the latest; None: there is none


async def _locked(context: RequestContext) -> list[LockedStore]:
    """The stores that lock, with what the last proof showed and until when what they hold is locked."""
    db, found = context.services.db, list[LockedStore]()
    for place in context.services.copies.places:
        if locking := place.vault.locking():
            where = place.vault.describe()
            proved, extended = await locks.proved(db, where), await locks.extended(db, where)
            waiting = await locks.waiting(db, locking.period)
            found.append(LockedStore(place.name, where, locking, proved, extended, *waiting))
    return found


class _MailCheck:
    """Whether the mail server takes our mails, asked once in MAIL_EVERY however often the page is opened."""

    def __init__(self) -> None:
        self._asked: datetime | None = None  # None: not yet
        self._of: Smtp | None = None  # whom
        self._works = False

    async def works(self, settings: Settings, now: datetime) -> bool:
        if self._of != settings.smtp or self._asked is None or abs(now - self._asked) >= MAIL_EVERY:
            self._of, self._asked = settings.smtp, now
            try:
                await mail.check(wire.of(settings))
                self._works = True
            except NotDelivered as error:
                log.warning("%s", error)
                self._works = False
        return self._works


_mails: Final = _MailCheck()


def probes(outside: Outside) -> list[Route]:
    """The health checks for machines, under whatever host name they use."""

    async def healthz(request: Request) -> Response:
        """This process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        """Everything that this process needs works, too."""
        health = await look(outside.services.db, outside.queue)
        names = ("database", "queue", "worker", "vault", "disk")
        parts = {name: getattr(health, name) for name in names}
        return JSONResponse({"ready": health.ready} | parts, status_code=200 if health.ready else 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


async def look(db: asyncpg.Pool, queue: Redis | NoQueue) -> Health:
    """Ask every part at once whether it is there: the answer is there after ANSWER_SECONDS at the latest."""
    database, queued, alive, away, unknown = await asyncio.gather(
        _answer(db.fetchval("select true"), False),
        _answer(_is_queue_there(queue), False),
        _answer(runs.is_anyone_alive(db), None),
        _answer(outages.now(db), None),
        _answer(vaults.unknown(db), 0),
    )
    origins = None if away is None else {one.origin for one in away}
    return Health(
        database=database,
        queue=queued,
        worker=alive,
        vault=None if origins is None else Origin.VAULT not in origins,
        disk=None if origins is None else Origin.DISK not in origins,
        unknown=unknown,
    )


async def _is_queue_there(queue: Redis | NoQueue) -> bool | None:
    """Whether Redis answers; None: there is none, and none is wanted."""
    if isinstance(queue, NoQueue):
        return None
    await queue.exists(NAME)
    return True


async def _answer(asked: Awaitable[A], otherwise: B) -> A | B:
    """What a part answers, or `otherwise` if it does not answer.

    Nobody waits for a cancelled question to end: asyncpg first tells the server to cancel it,
    which takes long if the server is frozen.
    """
    task = asyncio.ensure_future(asked)
    try:
        await asyncio.wait([task], timeout=ANSWER_SECONDS)
    finally:
        if not task.done():
            task.cancel()
            _given_up.add(task)
            task.add_done_callback(_ended)
    if not task.done():
        return otherwise
    try:
        return task.result()
    except (EverrefError, asyncpg.PostgresError, asyncpg.InterfaceError, RedisError, OSError):
        return otherwise


_given_up: Final[set["asyncio.Future[Any]"]] = set()  # kept alive until they have ended


def _ended(task: "asyncio.Future[Any]") -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()  # nobody waits for it


ENDPOINTS: Final = (Endpoint("GET", "/status", status, Needs.NOTHING),)
