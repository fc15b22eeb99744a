"""Counts the large files of a repo that are not saved: those that Git LFS keeps outside git.

Who calls: a sync that found something new, and a drill. What is counted is shown
wherever the repo is; the files themselves are not fetched.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Final

from mirror.core.errors import EverrefError
from mirror.core.model import Repo, Snapshot
from mirror.git import lfs
from mirror.git.lfs import LargeFiles
from mirror.services.open import Services
from mirror.store.backup import lfs as rows

EVERY: Final = timedelta(hours=1)  # between two counts of a repo that is pushed to again and again
TIPS: Final = 200  # of a snapshot that are checked for LFS pointers


async def record_lfs(services: Services, repo: Repo, snapshot: Snapshot) -> None:
    """Count the large files again if this snapshot's new tips point at some.

    Safe to run twice. It fails no backup: if the pool is evicted meanwhile, they are
    counted after the next push, or by a drill.
    """
    with suppress(EverrefError, OSError):
        known = await rows.known(services.db, repo.id, snapshot.number, TIPS)
        if known.seen_at is not None and services.clock() - known.seen_at < EVERY:
            return
        pool = services.disk.pool(repo.id)
        if known.files or await lfs.are_likely(pool, snapshot.object_format, known.tips):
            await record(services, repo, await lfs.large_files(services.git, pool))


async def record(services: Services, repo: Repo, found: LargeFiles) -> None:
    """Record what was counted. Safe to run twice."""
    await rows.counted(services.db, repo.id, found.files, found.bytes, services.clock())
