"""Bundles to download: a worker makes them, the vault keeps them for a day, any web process serves them.

Who calls: jobs/run makes them, the pages and the API serve them, a maintenance task of the sweep
deletes them. So no web process needs a worker's disk.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from mirror.core.errors import Corrupt, Locked
from mirror.core.formats import bundle, layout
from mirror.core.model import Refs, Repo, RepoId, Snapshot
from mirror.restore import restore
from mirror.restore.restore import ALL, Restored, What
from mirror.services import sealing
from mirror.services.open import Services
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.store.people import quotas
from mirror.store.restore.restores import Cause

KEPT: Final = timedelta(days=1)
AHEAD: Final = 16 << 20  # bytes that are counted ahead, so that not every chunk asks the database
FRESH: Final = timedelta(hours=1)  # that a bundle must still be there, to be handed out a second time
LINK_LASTS: Final = timedelta(minutes=15)  # of the store itself, which asks nobody who they are

_locked: Final[dict[str, datetime]] = {}  # what the store does not let us delete yet, and when to try again
log = logging.getLogger("mirror.export")


@dataclass(frozen=True, slots=True)
class Export:
    """A bundle in the vault, ready to be fetched."""

    key: str  # which nobody can guess; no page or answer shows it
    bytes: int
    expires_at: datetime

    def told(self) -> dict[str, Any]:
        """As it stands in the result of the job that made it."""
        return {
            "export": {"key": self.key},
            "bytes": self.bytes,
            "expires_at": self.expires_at.isoformat(),
        }


async def make(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    cause: Cause,
    what: What = ALL,
) -> tuple[Restored, Export]:
    """Put a bundle of this moment into the vault.

    Safe to run twice: each run has a key of its own, the key is empty until the bundle is whole, and
    `forget` deletes what a killed run left. Raises OverLimit before the team has more bytes of bundles
    than its limit.
    """
    key = layout.export_key(repo.id if await sealing.of(services, repo.id) else None)
    team_id = (await remotes.get(services.db, repo.id)).team_id
    limits, until = services.settings.limits, services.clock() + KEPT + LINK_LASTS
    counted = size = 0

    async def count(ahead: int) -> int:
        return await quotas.reserve_export(services.db, team_id, limits, key, size, ahead, until)

    async def store(chunks: AsyncIterator[bytes]) -> None:
        nonlocal counted, size
        size = 0
        async with services.vault.create(key) as writer:
            async for chunk in chunks:
                size += len(chunk)
                if size > counted:
                    counted = await count(AHEAD)
                await writer.write(chunk)
                services.progress.advance(len(chunk))
            await writer.commit()

    services.progress.phase("writing the bundle", None, "bytes")
    try:
        made = await restore.bundled(services, repo, snapshot, store, what)
        await count(0)
    except BaseException:
        await quotas.drop_export(services.db, key)
        raise
    sound = await _heads(services, key) == made.heads
    expires_at = services.clock() + KEPT
    done = await restore.recorded(services, made.restored(sound), "a bundle to download", cause)
    return done, Export(key, size, expires_at)


async def _heads(services: Services, key: str) -> Refs:
    """The refs that a stored bundle's own header names."""
    start = b""
    async with aclosing(services.vault.read(key)) as chunks:
        async for chunk in chunks:
            start += chunk
            if found := bundle.decode(start):
                return found[0].refs
    raise Corrupt(f"{key} was written without a whole header; please report this as a bug")


def of(job: Job, now: datetime) -> Export | None:
    """The bundle that a job made. None: there is none, or it has expired."""
    result = job.result or {}
    if job.kind != "bundle" or job.state != "done" or "export" not in result:
        return None
    found = Export(result["export"]["key"], result["bytes"], datetime.fromisoformat(result["expires_at"]))
    return found if now < found.expires_at else None


async def again(services: Services, repo_id: RepoId, asked: Mapping[str, Any]) -> Job | None:
    """The job that is making the same bundle, or has made it, with some time left to fetch it."""
    if "snapshot" not in asked:
        return None
    for job in await jobs.alike(services.db, repo_id, "bundle", asked):
        made = of(job, services.clock() + FRESH)
        if job.state != "done" or (made is not None and await is_there(services, made)):
            return job
    return None


async def link(services: Services, export: Export, filename: str) -> str | None:
    """An address of the store itself that serves the bundle. None: it must be read through us."""
    return await services.vault.presign(export.key, LINK_LASTS, filename)


def read(services: Services, export: Export, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """The bytes from `start` to before `end`."""
    return services.vault.read(export.key, start, end)


async def is_there(services: Services, export: Export) -> bool:
    """Whether the vault still has all of it."""
    found = await services.vault.stat(export.key)
    return found is not None and (layout.is_sealed(export.key) or found.bytes == export.bytes)


async def forget(services: Services) -> None:
    """Delete expired bundles, and what killed runs left of others. Safe to run twice.

    Bundles under Object Lock are reported once, and deleted as soon as the lock allows it.
    """
    now = services.clock()
    before = now - KEPT - LINK_LASTS
    async with aclosing(services.vault.list(layout.EXPORTS)) as found:
        old = [
            stat.key
            async for stat in found
            if stat.modified < before and not stat.key.startswith(layout.UPLOADS)
        ]
    was_said = bool(_locked)
    for key in _locked.keys() - set(old):
        del _locked[key]
    for key in old:
        if _locked.get(key, now) <= now:
            try:
                await services.vault.delete(key)
            except Locked as locked:
                _locked[key] = locked.until or now + KEPT
            else:
                _locked.pop(key, None)
    if _locked and not was_said:  # without their keys, which are secret
        log.warning(
            "expired bundles cannot be deleted from the vault yet (S3 Object Lock): %d,"
            " until %s UTC at the earliest; they are deleted then",
            *(len(_locked), f"{min(_locked.values()):%Y-%m-%d %H:%M}"),
        )
    for upload in await services.vault.unfinished(layout.EXPORTS):
        if upload.since < before:
            await services.vault.give_up(upload.key)
    await quotas.forget_exports(services.db, now)
