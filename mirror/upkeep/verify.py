"""Verifying a repo's backup: read every stored byte back, unpack it, compare every ref of every snapshot."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from mirror.backup import chain, damage, evidence, hydrate, recover
from mirror.backup.chain import Chain
from mirror.core import refs
from mirror.core.errors import Corrupt, Damaged, EverrefError, KeyMissing, NoSuchObject, NotFound
from mirror.core.formats import layout
from mirror.core.formats.epochs import LIMIT as RECORD_LIMIT
from mirror.core.formats.notes import LIMIT as NOTE_LIMIT
from mirror.core.model import Part, Repo, Snapshot, Target
from mirror.git import read, view
from mirror.restore import restore
from mirror.services import sealing
from mirror.services.open import Services
from mirror.services.reading import reading
from mirror.store.backup import epochs, history, notes, parts, snapshots
from mirror.upkeep import prune
from mirror.vault.copies import only_the_first


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found."""

    repo: Repo
    snapshots: int  # that are kept
    parts: int
    bytes: int  # read back
    problems: tuple[str, ...]  # empty: the backup is intact
    strays: tuple[str, ...]  # keys of objects that nothing accounts for: waste, not damage
    damaged: tuple[int, ...]  # numbers of the snapshots that cannot be restored whole


async def verify(services: Services, repo: Repo) -> Verified:
    """Check the vault's copy of a repo from end to end; changes nothing but the record of the result.

    Stored bytes are compared without any key. Where some are sealed and no key that is here opens them,
    steps 1 and 2 find every damage, step 4 is not possible, and KeyMissing is raised in the end.

    1. Every manifest: its sum, its place in the hash chain, the refs map it adds up to. Every note, every
       record of an epoch: its sum.
    2. Every part and index: every stored byte against its sum.
    3. The cover: every segment of the pack log is in exactly one part.
    4. A copy hydrated from the vault alone: `git fsck --full`, every target that any
       snapshot ever had, or any moment within one, and the refs of the latest.
    """
    with only_the_first():
        return await _verify(services, repo)


async def _verify(services: Services, repo: Repo) -> Verified:
    last = await snapshots.latest(services.db, repo.id)
    if last is None:
        raise NotFound(f"{repo.name} has no snapshot to verify; back it up first: everref backup {repo.url}")
    began = services.clock()
    problems: list[str] = []
    damaged: set[int] = set()
    read_back = await chain.read(services, repo, last.number)
    problems += read_back.problems or await chain.unlike(services, repo, last.number, read_back.refs)
    damaged |= read_back.damaged
    targets = await _targets(services, repo, last, read_back)
    problems += await _notes(services, repo) + await _records(services, repo)
    live = await parts.live(services.db, repo.id)
    size = 0
    bad: list[Part] = []
    total = sum(part.stored.bytes + part.stored_index.bytes for part in live)
    services.progress.phase("reading every part", total, "bytes")
    async with reading(services, repo.id):
        for part in live:
            try:
                size += await hydrate.read_back_as_stored(services, part)
            except (Corrupt, NoSuchObject) as error:
                problems.append(str(error))
                bad.append(part)
    damaged |= _needing(bad, last)
    gone = {number for number, _, _ in await epochs.dropped(services.db, repo.id)}
    try:
        await hydrate.steps_to(services, repo, last)
    except Corrupt as error:
        problems.append(str(error))
    closed = read_back.closed
    if not problems and closed is None:
        try:
            problems += await _copy(services, repo, last, targets)
        except KeyMissing as error:
            closed = error
        if problems:
            damaged |= set(range(1, last.number + 1))
    is_cut_off = False
    try:
        await recover.see_that_none_is_missing(services, repo.id, last)
    except Damaged as error:
        problems.append(str(error))
        is_cut_off = True  # objects of later snapshots are not strays
    if closed and not problems:
        await damage.looked_for(services, repo, "a verification", (), began)
        raise KeyMissing(
            f"every stored byte of {repo.name} is as it was stored, but it cannot be opened: {closed}"
        )
    if not problems:
        await parts.stamp_verified(services.db, repo.id, [part.key for part in live], services.clock())
        await snapshots.stamp_verified(services.db, repo.id, last.number, services.clock())
    await damage.looked_for(services, repo, "a verification", tuple(problems), began)
    await evidence.of_verification(
        services, repo, last, live, began, services.clock(), bytes=size, problems=problems
    )
    strays = [] if is_cut_off else await prune.strays(services, repo)
    return Verified(
        repo,
        last.number - len(await epochs.dropped(services.db, repo.id)),
        len(live),
        size,
        tuple(problems),
        tuple(stray.key for stray in strays),
        tuple(sorted(damaged - gone)),
    )


def _needing(bad: Sequence[Part], last: Snapshot) -> set[int]:
    """The snapshots that need one of these parts: every one from the part's first on."""
    first = min((part.first for part in bad), default=last.number + 1)
    return set(range(first, last.number + 1))


async def _targets(services: Services, repo: Repo, last: Snapshot, read_back: Chain) -> set[Target]:
    """Every object id that any snapshot's refs point at, or any moment's within one."""
    known = await history.targets(services.db, repo.id, last.epoch, last.number)
    return {target for target in read_back.targets | known if not refs.is_symbolic(target)}


async def _notes(services: Services, repo: Repo) -> list[str]:
    """What is wrong with the notes that are in the vault."""
    problems = []
    for key, sha256 in sorted((await notes.sums(services.db, repo.id)).items()):
        try:
            found = hashlib.sha256(await services.stored.get(key, limit=NOTE_LIMIT)).hexdigest()
        except NoSuchObject as error:
            problems.append(str(error))
            continue
        if found != sha256:
            problems.append(f"{key}: expected sha256 {sha256}, found {found}")
    return problems


async def _records(services: Services, repo: Repo) -> list[str]:
    """What is wrong with the records of the epochs, which say what was dropped."""
    problems = []
    for epoch, sha256 in sorted((await epochs.records(services.db, repo.id)).items()):
        key = layout.epoch_key(repo.id, epoch)
        try:
            found = hashlib.sha256((await sealing.got(services, key, RECORD_LIMIT)).plain).hexdigest()
        except KeyMissing as error:
            services.progress.note(str(error))
            continue
        except (NoSuchObject, Corrupt) as error:
            problems.append(str(error))
            continue
        if found != sha256:
            problems.append(f"{key}: expected sha256 {sha256}, found {found}")
    return problems


async def _copy(services: Services, repo: Repo, last: Snapshot, targets: set[Target]) -> list[str]:
    """Step 4: what is wrong with a copy made from the vault alone."""
    room = services.disk.root / "restores"
    async with view.scratch_view(None, room, object_format=last.object_format) as copy:
        try:
            await hydrate.fill(
                services, copy.path, last.object_format, await hydrate.steps_to(services, repo, last)
            )
        except KeyMissing:
            raise
        except EverrefError as error:
            return [str(error)]
        wanted = await history.refs_at(services.db, repo.id, last.number)
        await view.write_refs(copy.path, wanted)
        services.progress.phase("checking every object")
        problems = [f"git fsck: {line}" for line in await read.fsck(services.git, copy.path)]
        for lost in sorted(await read.missing(copy.path, targets)):
            problems.append(f"object {lost.decode()}, at which a ref pointed, is in no part")
        if not await restore.reads_back(services, copy.path, wanted):
            problems.append("git does not list the recorded refs")
    return problems
