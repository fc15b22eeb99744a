"""PostgreSQL and Redis on this machine, running while anybody uses them, shared by all users of the data.

A keeper process owns the servers. Each user is a connection to it, so that a user
that is killed has left, and the keeper stops when the last user has left.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EmbeddedServers:
    """Where the servers answer: unix sockets, whose addresses hold no secret."""

    database_url: str
    redis_url: str | None  # None: not asked for


@asynccontextmanager
async def embedded_servers(data: Path, *, redis: bool) -> AsyncIterator[EmbeddedServers]:
    """PostgreSQL, and Redis if requested, with their data under `data`: started, or joined if they run.

    Leaving waits until they have stopped, unless another user remains.
    Raises UsageError (`data` cannot be used), LimitReached (disk full), Busy and OurFault.
    """
    # Imported here because the keeper imports this package too, and starts sooner without asyncio.
    from mirror.services.embedded.join import join

    async with join(data, postgres=True, redis=redis) as joined:
        yield EmbeddedServers(joined.urls["postgres"], joined.urls.get("redis"))


@asynccontextmanager
async def queue(data: Path) -> AsyncIterator[str]:
    """The address of Redis alone, for as long as the block lasts; raises as `services` does."""
    from mirror.services.embedded.join import join

    async with join(data, postgres=False, redis=True) as joined:
        yield joined.urls["redis"]
