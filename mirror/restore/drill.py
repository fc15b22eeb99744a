"""A restore made only to prove that it works, from the vault alone, with its evidence kept."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from mirror.backup import damage, hydrate, notes
from mirror.backup import lfs as lfs_flow
from mirror.core.errors import Damaged, EverrefError
from mirror.core.model import Refs, Repo, Snapshot
from mirror.core.rules.plan import Step
from mirror.git import lfs, read, view
from mirror.git.lfs import LargeFiles
from mirror.restore import restore
from mirror.services.open import Services
from mirror.store.backup import history
from mirror.store.restore import drills
from mirror.store.restore.drills import Drill


@dataclass(frozen=True, slots=True)
class Drilled:
    """The evidence of one drill."""

    repo: Repo
    snapshot: Snapshot
    refs: int
    bytes: int  # read from the vault
    seconds: float  # from the first byte read to the last ref compared
    problems: tuple[str, ...]  # empty: it works
    large_files: LargeFiles  # which are not backed up, as Git LFS keeps them outside git


async def drill(services: Services, repo: Repo, snapshot: Snapshot) -> Drilled:
    """Restore this moment into an empty directory without the pool, check every object and ref, delete it.

    Safe to run twice: each drill is a row of its own. Raises the vault's error where it cannot be read
    at all; damage that is found, such as a missing part, is in `problems`, and the team is told.
    """
    clock = asyncio.get_running_loop().time
    began, started = clock(), services.clock()
    wanted = await history.refs_at(services.db, repo.id, snapshot.number, snapshot.moment)
    size, large_files = 0, None
    try:
        parts = await hydrate.steps_to(services, repo, snapshot)
        size = sum(step.part.bytes for step in parts)
        problems, large_files = await _restored(services, snapshot, wanted, parts)
    except Damaged as error:
        problems = [str(error)]
    done = Drilled(
        repo,
        snapshot,
        snapshot.refs_count,
        size,
        clock() - began,
        tuple(problems),
        large_files or LargeFiles(0, 0),
    )
    if large_files is not None:
        await lfs_flow.record(services, repo, large_files)
    evidence = Drill(
        snapshot=snapshot.number,
        refs=done.refs,
        bytes=done.bytes,
        seconds=done.seconds,
        problems=done.problems,
        finished_at=services.clock(),
        moment=snapshot.moment,
    )
    await drills.add(services.db, repo.id, evidence)
    await damage.looked_for(
        services, repo, f"a drill of {snapshot.label}", done.problems, started, snapshot.number
    )
    with suppress(EverrefError):  # the vault cannot be written now: the sweep tries again
        await notes.store_waiting(services, repo.id)
    return done


async def _restored(
    services: Services, snapshot: Snapshot, wanted: Refs, parts: list[Step]
) -> tuple[list[str], LargeFiles]:
    """Restore the moment into an empty directory; return its problems, and the large files outside git."""
    room = services.disk.root / "restores"
    async with view.scratch_view(None, room, object_format=snapshot.object_format) as copy:
        await hydrate.fill(services, copy.path, snapshot.object_format, parts)
        await view.write_refs(copy.path, wanted)
        services.progress.phase("checking every object")
        problems = [f"git fsck: {line}" for line in await read.fsck(services.git, copy.path)]
        if not await restore.reads_back(services, copy.path, wanted):
            problems.append("git does not list the refs that were recorded")
        return problems, await lfs.large_files(services.git, copy.path)
