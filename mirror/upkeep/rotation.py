"""Reading every stored byte again, in a rotation that goes on where it was: parts, indexes, manifests, notes.

Who calls: the sweep, as a maintenance task; the command `verify --due`, which reads at once what is due.
What is found damaged is recorded as any verification records it; upkeep/heal looks after it.
"""

import asyncio
import hashlib
import logging
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mirror.backup import damage, hydrate
from mirror.core.errors import Corrupt, EverrefError, LimitReached, NoSuchObject, Origin
from mirror.core.formats import layout, manifest
from mirror.core.formats.notes import LIMIT as NOTE_LIMIT
from mirror.core.model import Part, RepoId, Sealed, Snapshot
from mirror.core.rules.health import proving
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import notes
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import readings
from mirror.vault import age, streams
from mirror.vault.copies import only_the_first

TURN_SECONDS: Final = 50.0  # after which a turn begins nothing more; the next one comes within a minute
AHEAD: Final = timedelta(minutes=1)  # by which a turn may read ahead of its rate
_MANIFESTS: Final = 256  # read between two times that it is recorded how far the reading came
_UNREAD: Final = 8  # that the vault did not give in one turn, after which it counts as away
_AT_ONCE: Final = 16  # of these, asked of the vault at the same time

log = logging.getLogger("mirror.rotation")


@dataclass(frozen=True, slots=True)
class Read:
    """What a turn of the rotation has read."""

    bytes: int
    objects: int
    problems: tuple[str, ...]

    def __add__(self, other: "Read") -> "Read":
        return Read(self.bytes + other.bytes, self.objects + other.objects, self.problems + other.problems)


NOTHING: Final = Read(0, 0, ())


async def due(services: Services) -> None:
    """Read what is due for a turn, no faster than `proving.rate`; make way while syncs wait.

    Safe to run twice, also at once, and to kill: each object is stamped when it was read, and what is
    read is taken from an allowance that the database holds before the reading begins.
    """
    found = await turn(services)
    for problem in found.problems:
        log.warning("read again: %s", problem)


async def turn(services: Services, *, at_once: bool = False) -> Read:
    """Read what is due, the longest unread first. `at_once`: all of it, without a rate.

    What the vault does not give is left for the next turn, and the others are read: it may be one object.
    Raises the vault's error in the end: nothing is known of that one, and nothing is recorded.
    """
    with only_the_first():
        return await _turn(services, at_once)


async def _turn(services: Services, at_once: bool) -> Read:
    clock = asyncio.get_running_loop().time
    until = math.inf if at_once else clock() + TURN_SECONDS
    total, rate = NOTHING, 0.0
    unread, unread_records, why = 0, 0, None
    while clock() < until or (why and total == NOTHING):
        now = services.clock()
        part = await readings.due_part(services.db, now, proving.RESTING, unread)
        records = (
            None if part else await readings.due_records(services.db, now, proving.RESTING, unread_records)
        )
        one = part or records
        if one is None:
            break
        if not at_once:
            if proving.makes_way(one.read_at, one.days, now) and await readings.does_a_sync_wait(services.db):
                break
            rate = rate or proving.rate(await readings.daily_bytes(services.db))
            size = part.part.stored.bytes + part.part.stored_index.bytes if part else _MANIFESTS << 10
            if not await readings.reserve(services.db, now, AHEAD, timedelta(seconds=size / rate)):
                break
        try:
            if part is not None:
                total += await _part(services, part)
            elif records is not None:
                total += await _records(services, records)
        except EverrefError as error:
            if error.origin is not Origin.VAULT or unread + unread_records == _UNREAD:
                raise
            why = why or error
            unread, unread_records = unread + (part is not None), unread_records + (part is None)
    if why:
        raise why
    return total


async def _part(services: Services, due: readings.DuePart) -> Read:
    """Read a part and its index whole, and record what was found."""
    problem = await wrong_with(services, due.part)
    if problem:
        problem = f"{problem}; {await damage.touched(services, due.part)}"
    at = services.clock()
    if not await readings.read_part(services.db, due, problem, at):
        return NOTHING  # it was replaced meanwhile
    size = due.part.stored.bytes + due.part.stored_index.bytes
    found = Read(size, 2 if due.part.index_bytes else 1, (problem,) if problem else ())
    await _record(services, due.repo_id, due.team_id, found)
    return found


async def wrong_with(services: Services, part: Part) -> str | None:
    """What is wrong with the stored bytes of a part or of its index; None: they are as recorded."""
    try:
        await _compare(services, part.key, part.stored)
        if part.index_bytes:
            await _compare(services, layout.index_key(part.key), part.stored_index)
    except (Corrupt, NoSuchObject) as error:
        return str(error)
    return None


async def _compare(services: Services, key: str, wanted: Sealed) -> None:
    """Read an object as it is stored, no faster than proving.FASTEST. Raises Corrupt, NoSuchObject."""
    chunks = streams.paced(services.stored.read(key), proving.FASTEST)
    await hydrate.compare(services, key, chunks, wanted)


async def _records(services: Services, due: readings.DueRecords) -> Read:
    """Read the next manifests of a repo against their sums and the chain; after the last, its notes."""
    found = await readings.manifests_after(services.db, due.repo_id, due.read_to, _MANIFESTS)
    total = NOTHING
    for start in range(0, len(found), _AT_ONCE):
        some = found[start : start + _AT_ONCE]
        for read in await asyncio.gather(*(_manifest(services, due.repo_id, one) for one in some)):
            total += read
    is_last = len(found) < _MANIFESTS
    if is_last:
        for key, sha256 in sorted((await notes.sums(services.db, due.repo_id)).items()):
            total += await _small(services, key, NOTE_LIMIT, sha256)
    await _record(services, due.repo_id, due.team_id, total)
    upto = found[-1].number if found else due.read_to
    await readings.read_records(services.db, due.repo_id, upto, services.clock() if is_last else None)
    return total


async def _manifest(services: Services, repo_id: RepoId, snapshot: Snapshot) -> Read:
    """A manifest with the recorded sum names the recorded one before it, as the sum covers that too."""
    key, sealed = layout.manifest_key(repo_id, snapshot.number), snapshot.sealed
    if sealed is None:
        return await _small(services, key, manifest.LIMIT, snapshot.manifest_sha256)
    return await _small(services, layout.sealed(key), age.sealed_limit(manifest.LIMIT), sealed.sha256)


async def _small(services: Services, key: str, limit: int, sha256: str) -> Read:
    try:
        stored = await services.stored.get(key, limit=limit)
    except (NoSuchObject, LimitReached) as error:
        return Read(0, 1, (str(error),))
    digest = hashlib.sha256(stored).hexdigest()
    wrong = () if digest == sha256 else (f"{key}: expected sha256 {sha256}, found {digest}",)
    return Read(len(stored), 1, wrong)


async def _record(services: Services, repo_id: RepoId, team_id: TeamId, found: Read) -> None:
    """Add to the day, and record damage as a verification does. What is sound disproves nothing alone."""
    now = services.clock()
    await readings.add(services.db, team_id, now, found.bytes, found.objects, len(found.problems))
    if found.problems:
        repo = await repos.get(services.db, repo_id)
        await damage.looked_for(services, repo, "reading the vault again", found.problems, now)
