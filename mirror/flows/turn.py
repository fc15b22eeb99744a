"""Whose turn it is: one job at a time per repo, by a lease in Postgres."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from mirror.errors import Busy, EverrefError
from mirror.flows.edges import Edges
from mirror.model import Repo
from mirror.store import leases
from mirror.store.leases import Lease

PATIENCE = 3600.0  # seconds that a person's command waits for its turn
_LOOK = 0.2  # seconds between two looks at somebody else's lease
_BEAT = 5.0  # seconds between two heartbeats


@asynccontextmanager
async def turn(edges: Edges, repo: Repo, patience: float = PATIENCE) -> AsyncIterator[Lease]:
    """Hold the repo's lease; Busy when somebody else keeps it for longer than `patience` seconds.

    Losing the lease (we were too slow to beat) cancels the work inside and
    raises Busy: whoever has it now goes on from what is in the vault.
    """
    lease = await _acquire(edges, repo, patience)
    worker = asyncio.current_task()
    assert worker is not None
    lost = False
    clock = asyncio.get_running_loop().time

    async def beat() -> None:
        nonlocal lost
        heard = clock()
        while not lost:
            await asyncio.sleep(_BEAT)
            try:
                lost = not await leases.beat(edges.db, lease)
                heard = clock()
            except EverrefError:  # the database may be back before the lease has run out
                lost = clock() - heard > leases.TTL.total_seconds()
        worker.cancel()

    beating = asyncio.create_task(beat())
    try:
        yield lease
    except asyncio.CancelledError:
        if lost:
            raise Busy(f"another run took over {repo.name} while this one was not answering") from None
        raise
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        await leases.release(edges.db, lease)


async def _acquire(edges: Edges, repo: Repo, patience: float) -> Lease:
    deadline = asyncio.get_running_loop().time() + patience
    told = False
    while True:
        lease = await leases.acquire(edges.db, repo.id)
        if lease is not None:
            return lease
        if asyncio.get_running_loop().time() >= deadline:
            raise Busy(f"another run is at work on {repo.name}; try again when it has ended")
        if not told:
            edges.progress.note(f"waiting: another run is at work on {repo.name}")
            told = True
        await asyncio.sleep(_LOOK)
