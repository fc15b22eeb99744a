"""A restore made only to prove that it works, from the vault alone, with its evidence kept."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mirror.backup import chain, damage, evidence, hydrate, notes
from mirror.backup import lfs as lfs_flow
from mirror.core import refs
from mirror.core.errors import Damaged, EverrefError
from mirror.core.model import Refs, Repo, Snapshot
from mirror.core.rules.history.plan import Step
from mirror.git import lfs, read, view
from mirror.git.lfs import LargeFiles
from mirror.restore import restore
from mirror.services.open import Services
from mirror.store.backup import history
from mirror.store.restore import drills
from mirror.store.restore.drills import Drill

STARTS: Final = 3  # of one drill, each time after the parts that it read were replaced


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
    findings: tuple[str, ...] = ()  # what git dislikes in objects as their remote has them: no damage


async def drill(services: Services, repo: Repo, snapshot: Snapshot) -> Drilled:
    """Restore this moment into an empty directory without the pool, check every object and ref, delete it.

    Safe to run twice: each drill is a row of its own, and one that was killed has none. Raises the vault's
    error where it cannot be read at all: then nothing is known, and nothing is recorded. Damage that
    is found, such as a missing part, is in `problems`, and the team is told.
    """
    clock = asyncio.get_running_loop().time
    began, started = clock(), services.clock()
    wanted = await history.refs_at(services.db, repo.id, snapshot.number, snapshot.moment)
    found = _Found([], [], LargeFiles(0, 0), known=False)
    size = 0
    for left in range(STARTS, 0, -1):
        parts: list[Step] = []
        began = clock()
        try:
            parts = await hydrate.steps_to(services, repo, snapshot)
            size = sum(step.part.bytes for step in parts)
            found = await _restored(services, repo, snapshot, wanted, parts)
            break
        except Damaged as error:
            if left > 1 and await _is_replaced(services, repo, snapshot, parts):
                continue  # a compaction replaced parts, and they were deleted meanwhile
            found = _Found([str(error)], [], LargeFiles(0, 0), known=False)
            break
    done = Drilled(
        repo,
        snapshot,
        snapshot.refs_count,
        size,
        clock() - began,
        tuple(found.problems),
        found.large_files,
        tuple(found.findings),
    )
    if found.known:
        await lfs_flow.record(services, repo, found.large_files)
    record = Drill(
        snapshot=snapshot.number,
        refs=done.refs,
        bytes=done.bytes,
        seconds=done.seconds,
        problems=done.problems,
        finished_at=services.clock(),
        moment=snapshot.moment,
        findings=done.findings,
    )
    await drills.add(services.db, repo.id, record)
    await damage.looked_for(
        services, repo, f"a drill of {snapshot.label}", done.problems, started, snapshot.number
    )
    await evidence.of_drill(
        services,
        repo,
        snapshot,
        refs.digest(wanted),
        started,
        record.finished_at,
        bytes=done.bytes,
        seconds=done.seconds,
        problems=done.problems,
        findings=done.findings,
    )
    with suppress(EverrefError):  # the vault cannot be written now: the sweep tries again
        await notes.store_waiting(services, repo.id)
    return done


@dataclass(frozen=True, slots=True)
class _Found:
    """What restoring a moment showed."""

    problems: list[str]
    findings: list[str]
    large_files: LargeFiles
    known: bool = True  # False: it was not restored, so its large files are not known


async def _is_replaced(services: Services, repo: Repo, snapshot: Snapshot, read: list[Step]) -> bool:
    """Whether other parts hold this moment now than those that were read."""
    with suppress(Damaged):
        now = await hydrate.steps_to(services, repo, snapshot)
        return [step.part.key for step in now] != [step.part.key for step in read]
    return False


async def _restored(
    services: Services, repo: Repo, snapshot: Snapshot, wanted: Refs, parts: list[Step]
) -> _Found:
    """Restore the moment into an empty directory. Raises Damaged where the parts cannot be read.

    The refs are those of the vault's manifests; what the database has is only compared with them.
    """
    held = await chain.read(services, repo, snapshot.number)
    problems = [*held.problems] or await chain.unlike(services, repo, snapshot.number, held.refs)
    if snapshot.moment and not problems:  # it is told from the snapshot before it
        problems = await chain.unlike(services, repo, snapshot.number - 1, held.before)
    room = services.disk.root / "restores"
    async with view.scratch_view(None, room, object_format=snapshot.object_format) as copy:
        await hydrate.fill(services, copy.path, snapshot.object_format, parts)
        await view.write_refs(copy.path, wanted)
        services.progress.phase("checking every object")
        broken, odd = await read.fsck_strict(services.git, copy.path)
        problems += [f"git fsck: {line}" for line in broken]
        if not await restore.reads_back(services, copy.path, wanted):
            problems.append("git does not list the refs that were recorded")
        return _Found(problems, odd, await lfs.large_files(services.git, copy.path))
