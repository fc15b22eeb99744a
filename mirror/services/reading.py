"""Who reads a repo's parts from the vault: registered, so that what they read is not deleted meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

from mirror.core.errors import EverrefError
from mirror.core.model import RepoId
from mirror.services.open import Services
from mirror.store import leases
from mirror.store.upkeep import keeping

_BEAT: Final = 30.0  # seconds between two heartbeats
_BEFORE: Final = timedelta(hours=1)  # in which a reader may have planned what it reads


@asynccontextmanager
async def reading(services: Services, repo_id: RepoId) -> AsyncIterator[None]:
    """Keep the parts of this repo that were live within the last hour in the vault until the block ends.

    A tombstone that is younger waits: `prune` deletes nothing that was replaced after the oldest reader
    began. A reader that died is noticed at once on its own machine, elsewhere by its missing heartbeats.
    """
    owner = leases.enter()
    try:
        reader = await keeping.begin_reading(services.db, repo_id, owner, services.clock() - _BEFORE)

        async def beat() -> None:
            while True:
                await asyncio.sleep(_BEAT)
                with suppress(EverrefError):  # the database may be back before the next one
                    await keeping.beat(services.db, [reader])

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
            with suppress(EverrefError):  # prune finds that it is over
                await keeping.end_reading(services.db, reader)
    finally:
        leases.leave(owner)
