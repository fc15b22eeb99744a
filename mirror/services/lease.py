"""Whose turn it is: one job at a time per repo, one compaction, and one run at what it changes at a forge."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from mirror.core.errors import Busy, EverrefError
from mirror.core.model import Repo
from mirror.services.open import Services
from mirror.store import forge_leases, leases
from mirror.store.database import Db
from mirror.store.forge_leases import ForgeLease
from mirror.store.leases import Lease

PATIENCE = 3600.0  # seconds that a person's command waits for its turn
PATIENCE_AT_FORGE = 30.0  # seconds; a person waits meanwhile, or others of a sweep
_LOOK = 0.2  # seconds between two looks at somebody else's lease
_BEAT = 5.0  # seconds between two heartbeats


@asynccontextmanager
async def leased(services: Services, repo: Repo, patience: float = PATIENCE) -> AsyncIterator[Lease]:
    """Hold the repo's lease. Raises Busy if another run keeps it for longer than `patience` seconds.

    Losing the lease (a heartbeat came too late) cancels the work inside and
    raises Busy: the new holder continues from what is in the vault.
    """
    lease = await _acquire(services, repo, patience)
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
                lost = not await leases.beat(services.db, lease)
                heard = clock()
            except EverrefError:  # the database may be back before the lease has run out
                lost = clock() - heard > leases.TTL.total_seconds()
        worker.cancel()

    beating = asyncio.create_task(beat())
    try:
        yield lease
    except asyncio.CancelledError:
        if lost:
            raise Busy(f"another run took over {repo.name} because this one stopped responding") from None
        raise
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        await leases.release(services.db, lease)


async def _acquire(services: Services, repo: Repo, patience: float) -> Lease:
    deadline = asyncio.get_running_loop().time() + patience
    told = False
    while True:
        lease = await leases.acquire(services.db, repo.id)
        if lease is not None:
            return lease
        if asyncio.get_running_loop().time() >= deadline:
            raise Busy(f"another run is working on {repo.name}; try again when it has ended")
        if not told:
            services.progress.note(f"waiting: another run is working on {repo.name}")
            told = True
        await asyncio.sleep(_LOOK)


@asynccontextmanager
async def leased_at_forge(
    db: Db,
    name: str,
    what: str,
    patience: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> AsyncIterator[ForgeLease]:
    """Be the only run that changes this at its forge. Raises Busy if another does for longer than `patience`.

    No connection is held meanwhile, and `tell` is called once if this waits. A run whose heartbeats
    stopped is not cancelled, because the forge has already done what it asked: it finds that
    it lost the lease when it records the result.
    """
    patience = PATIENCE_AT_FORGE if patience is None else patience
    lease = await _acquire_at_forge(db, name, what, patience, tell)
    beating = asyncio.create_task(_beat_at_forge(db, lease))
    try:
        yield lease
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        with suppress(EverrefError):  # the next run finds the lease expired
            await forge_leases.release(db, lease)


@asynccontextmanager
async def leased_to_compact(services: Services, repo: Repo, patience: float) -> AsyncIterator[ForgeLease]:
    """Be the only run that compacts this repo. Raises Busy if another does for longer than `patience`.

    Syncs of the repo go on meanwhile: what is recorded is recorded under the repo's lease.
    """
    name = forge_leases.of_compaction(repo.id)
    async with leased_at_forge(
        services.db, name, f"the parts of {repo.name}", patience, services.progress.note
    ) as lease:
        yield lease


async def _acquire_at_forge(
    db: Db, name: str, what: str, patience: float, tell: Callable[[str], None] | None
) -> ForgeLease:
    deadline = asyncio.get_running_loop().time() + patience
    while (lease := await forge_leases.acquire(db, name)) is None:
        if asyncio.get_running_loop().time() >= deadline:
            raise Busy(f"another run is working on {what}; try again in a moment")
        if tell is not None:
            tell(f"waiting: another run is working on {what}")
            tell = None
        await asyncio.sleep(_LOOK)
    return lease


async def _beat_at_forge(db: Db, lease: ForgeLease) -> None:
    lost = False
    while not lost:
        await asyncio.sleep(_BEAT)
        with suppress(EverrefError):  # the database may be back before the lease has run out
            lost = not await forge_leases.beat(db, lease)
