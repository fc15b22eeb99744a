"""Whether every part of the service answers: for people, and for the machines that watch it."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mirror.core.errors import EverrefError, Origin
from mirror.services.queue import NAME
from mirror.store.jobs import runs
from mirror.store.upkeep import outages, vaults
from mirror.web.dispatch import Endpoint, Needs, Outside, RequestContext

ANSWER_SECONDS: Final = 3  # for a server that is asked whether it is there


@dataclass(frozen=True, slots=True)
class Health:
    """Which parts answer."""

    database: bool
    queue: bool
    worker: bool  # one of them at least said so of late
    vault: bool  # no worker found it away
    disk: bool  # no worker found its own full or broken
    unknown: int = 0  # repos that the vault has and the database does not know

    @property
    def ready(self) -> bool:
        """Whether requests can be served; a worker is not needed for that."""
        return self.database and self.queue

    @property
    def well(self) -> bool:
        return self.ready and self.worker and self.vault and self.disk and not self.unknown


async def status(context: RequestContext) -> Response:
    """Whether everything works, for people."""
    health = await look(context.services.db, context.outside.queue)
    return context.render("status.html", 200 if health.ready else 503, health=health)


def probes(outside: Outside) -> list[Route]:
    """The addresses that machines ask, by whatever name they reach us."""

    async def healthz(request: Request) -> Response:
        """This process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        """What this process needs answers too."""
        health = await look(outside.services.db, outside.queue)
        names = ("database", "queue", "worker", "vault", "disk")
        parts = {name: getattr(health, name) for name in names}
        return JSONResponse({"ready": health.ready} | parts, status_code=200 if health.ready else 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


async def look(db: asyncpg.Pool, queue: Redis) -> Health:
    """Ask every part whether it is there."""
    database, queued, alive, away, unknown = await asyncio.gather(
        _database_answers(db), _queue_answers(queue), _is_a_worker_alive(db), _away(db), _unknown(db)
    )
    return Health(
        database=database,
        queue=queued,
        worker=alive,
        vault=Origin.VAULT not in away,
        disk=Origin.DISK not in away,
        unknown=unknown,
    )


async def _unknown(db: asyncpg.Pool) -> int:
    """How many repos a worker found in the vault that the database does not know."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await vaults.unknown(db)
    except (EverrefError, TimeoutError):
        return 0


async def _away(db: asyncpg.Pool) -> Collection[Origin]:
    """What workers found away; nothing where the database does not tell."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return {one.origin for one in await outages.now(db)}
    except (EverrefError, TimeoutError):
        return ()


async def _database_answers(db: asyncpg.Pool) -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return bool(await db.fetchval("select true"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # TimeoutError is an OSError
        return False


async def _queue_answers(queue: Redis) -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await queue.exists(NAME)
    except (RedisError, OSError):
        return False
    return True


async def _is_a_worker_alive(db: asyncpg.Pool) -> bool:
    """Whether a worker has said of late that it lives; none where the database does not tell."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await runs.is_anyone_alive(db)
    except (EverrefError, TimeoutError):
        return False


ENDPOINTS: Final = (Endpoint("GET", "/status", status, Needs.NOTHING),)
