"""Sealing what was stored plain before a team switched sealing on, at its own pace.

Who calls: the sweep, as a maintenance task; the command `reseal`. Nothing is overwritten: the sealed object
comes first and is read back, then its row says so, and prune deletes the plain one after its grace period.
Until then both can be read. What the manifests hash is inside, so that no chain, statement or checkpoint
changes.
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from mirror.backup import hydrate, recover
from mirror.backup.part import copy_index
from mirror.core.errors import AlreadyExists, Busy, Corrupt, EverrefError, NoSuchObject, Origin, UsageError
from mirror.core.formats import epochs, layout, manifest
from mirror.core.formats.notes import LIMIT as NOTE_LIMIT
from mirror.core.model import Part, Repo, RepoId, Sealed
from mirror.core.rules.health import proving
from mirror.core.rules.keeping import resealing
from mirror.core.rules.keeping.resealing import Lying, Plain
from mirror.services import failpoints, sealing
from mirror.services.lease import PATIENCE, leased, leased_to_compact
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import epochs as epoch_rows
from mirror.store.backup import parts
from mirror.store.forge_leases import ForgeLease
from mirror.store.upkeep import readings
from mirror.store.upkeep import reseal as rows
from mirror.store.upkeep.reseal import Left, SealedRecord
from mirror.upkeep.prune import GRACE
from mirror.vault import age, streams
from mirror.vault.contract import GET_LIMIT
from mirror.vault.copies import only_the_first

TURN_SECONDS: Final = 50.0  # after which a turn begins nothing more; the next one comes within a minute
AGAIN: Final = timedelta(hours=1)  # before what could not be sealed is tried again
KEPT_AGAIN: Final = timedelta(hours=6)  # between two looks at what waits to be deleted
LATE_RUNS: Final = timedelta(hours=1)  # a run that began before the switch has ended by then
LOOKED: Final = timedelta(days=7)  # between two looks at a repo of which nothing is plain
_BATCH: Final = 64  # records that are recorded together
_AT_ONCE: Final = 16  # of these, asked of the vault at the same time

log = logging.getLogger("mirror.reseal")

MayGoOn = Callable[[], Awaitable[bool]]  # whether the next object may be begun


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of one repo."""

    repo: Repo
    objects: int  # sealed by this run
    bytes: int  # of the plain ones
    left: Left
    problems: tuple[str, ...]  # what could not be sealed, and why


async def due(services: Services) -> None:
    """Seal what lies plain, for one turn: a maintenance task. Syncs that wait go first.

    Safe to run twice, also at once, and to kill: what is in the vault says what is left.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + TURN_SECONDS
    await rows.register(services.db, services.clock())

    async def may_go_on() -> bool:
        return clock() < until and not await readings.does_a_sync_wait(services.db)

    while await may_go_on() and (claimed := await rows.claim(services.db, services.clock())):
        repo_id, since = claimed
        try:
            repo = await repos.get(services.db, repo_id)
            done = await _reseal(services, repo, may_go_on, patience=0, rate=proving.FASTEST)
            await _recorded(services, done, since)
        except Busy:
            await rows.later(services.db, repo_id, None, services.clock() + timedelta(minutes=5))
        except EverrefError as error:
            log.warning("sealing what is plain of %s: %s", repo_id, error)
            await rows.later(services.db, repo_id, str(error), services.clock() + AGAIN)
            if error.origin is Origin.VAULT and not isinstance(error, Corrupt | NoSuchObject):
                raise  # it is away: the others would fail in the same way


async def reseal(services: Services, repo: Repo, patience: float = PATIENCE) -> Resealed:
    """Seal everything of a repo that lies plain, now. Safe to run twice, and to kill.

    For each part: 1. store the intent, then the sealed bundle; 2. read it back and open it; 3. store its
    `.idx`; 4. in one transaction under the repo's lease, the new part is live and the old one a tombstone.
    For each manifest, note, description and record: 1. store it sealed; 2. read it back and open it; 3. in
    one transaction under the lease, its row says so and the plain one has a tombstone.
    Raises UsageError where its team does not seal; Busy; KeyMissing.
    """
    if not await sealing.of(services, repo.id):
        raise UsageError(
            f"the team of {repo.name} does not seal its backups; switch that on first: everref keys seal"
        )
    await rows.register(services.db, services.clock())

    async def may_go_on() -> bool:
        return True

    done = await _reseal(services, repo, may_go_on, patience, math.inf)
    await _recorded(services, done, services.clock())
    return done


async def _recorded(services: Services, done: Resealed, since: datetime) -> None:
    """Record what was found, and when the repo is looked at again."""
    now = services.clock()
    if done.problems:
        due_at = now + AGAIN
    elif done.left.objects:
        due_at = now  # time was up
    elif done.left.kept_objects:
        due_at = now + KEPT_AGAIN
    else:
        due_at = now + LOOKED
    if since <= now < since + LATE_RUNS:
        due_at = min(due_at, since + LATE_RUNS)
    problem = done.problems[0] if done.problems else None
    await rows.looked(services.db, done.repo.id, done.left, problem, now, due_at)


async def _reseal(
    services: Services, repo: Repo, may_go_on: MayGoOn, patience: float, rate: float
) -> Resealed:
    with only_the_first():
        async with leased_to_compact(services, repo, patience) as alone:
            work = _Work(services, repo, alone, may_go_on, patience, rate)
            plain = await _look(services, repo)
            await work.records(plain.records)
            await work.parts()
        if work.objects:
            plain = await _look(services, repo)
        left = await _left(services, repo, plain)
    return Resealed(repo, work.objects, work.bytes, left, tuple(work.problems))


async def _look(services: Services, repo: Repo) -> Plain:
    """What the vault lists of a repo that is not sealed."""
    live = {part.key for part in await parts.live(services.db, repo.id)}
    buried = {one.key for one in await rows.graves(services.db, repo.id)}
    async with aclosing(services.stored.list(layout.repo_prefix(repo.id))) as found:
        listed = [Lying(stat.key, stat.bytes) async for stat in found]
    return resealing.sort(listed, live, buried)


async def _left(services: Services, repo: Repo, plain: Plain) -> Left:
    """The same in numbers, and until when what is kept cannot be deleted."""
    ends = dict[str, datetime]()
    for grave in await parts.tombstones(services.db, repo.id):
        ends[grave.key] = ends[layout.index_key(grave.key)] = grave.replaced_at + GRACE
    for small in await rows.graves(services.db, repo.id):
        ends[small.key] = small.replaced_at + GRACE
    kept = [one.key for one in plain.kept]
    until, is_held = await _locked(services, kept)
    moments = [ends[key] for key in kept if key in ends] + ([until] if until else [])
    return Left(
        plain.objects,
        plain.bytes,
        len(kept),
        sum(one.bytes for one in plain.kept),
        max(moments, default=None),
        is_held,
    )


async def _locked(services: Services, keys: Collection[str]) -> tuple[datetime | None, bool]:
    """When the last lock of these objects ends in any store, None if none has one; whether one is held."""
    latest, is_held = list[datetime](), False
    for place in services.copies.places if keys else ():
        try:
            if not (await place.vault.capabilities()).object_lock:
                continue
            for key in keys:
                with suppress(NoSuchObject):
                    if lock := await place.vault.locked_until(key):
                        is_held = is_held or lock.is_held
                        latest += [lock.until] if lock.until else []
        except EverrefError as error:  # a copy is away: what the others say counts until it is back
            log.warning("%s does not say until when it locks: %s", place.vault.describe(), error)
    return max(latest, default=None), is_held


class _Work:
    """One run over one repo."""

    def __init__(
        self,
        services: Services,
        repo: Repo,
        alone: ForgeLease,
        may_go_on: MayGoOn,
        patience: float,
        rate: float,
    ) -> None:
        self._services, self._repo, self._alone = services, repo, alone
        self._may_go_on, self._patience, self._rate = may_go_on, patience, rate
        self.objects = 0  # sealed
        self.bytes = 0
        self.problems: list[str] = []

    async def _goes_on(self) -> bool:
        return await self._may_go_on() and await sealing.of(self._services, self._repo.id)

    async def records(self, found: Sequence[Lying]) -> None:
        """Seal manifests, notes, descriptions and records."""
        self._services.progress.phase("sealing manifests and notes", len(found), "objects")
        for start in range(0, len(found), _BATCH):
            if not await self._goes_on():
                return
            batch = found[start : start + _BATCH]
            wanted = await self._wanted(batch)
            done = list[SealedRecord]()
            for at in range(0, len(wanted), _AT_ONCE):
                some = wanted[at : at + _AT_ONCE]
                sealed = await asyncio.gather(*(self._record(one) for one in some))
                done += [one for one in sealed if one]
                self._services.progress.advance(len(some))
            if not done:
                continue
            async with leased(self._services, self._repo, self._patience) as lease:
                failpoints.reached("reseal: leased for the records")
                await rows.record(self._services.db, lease, self._repo.id, done, self._services.clock())
            failpoints.reached("reseal: records recorded")
            self.objects += len(done)
            self.bytes += sum(one.bytes for one in done)

    async def _wanted(self, batch: Sequence[Lying]) -> "list[_Wanted]":
        """What is known of these. One that is on its way to being recorded is left for the next run."""
        db, repo_id = self._services.db, self._repo.id
        manifests = {one.key: found.number for one in batch if (found := layout.parse_manifest_key(one.key))}
        sums = await rows.manifest_sums(db, repo_id, list(manifests.values())) if manifests else {}
        notes = await rows.note_sums(db, repo_id) if any(layout.parse_note_key(x.key) for x in batch) else {}
        records = await epoch_rows.records(db, repo_id)
        wanted = list[_Wanted]()
        for one in batch:
            if number := manifests.get(one.key):
                if number in sums:
                    wanted.append(_Wanted(one, manifest.LIMIT, sums[number], number))
            elif layout.parse_note_key(one.key):
                if one.key in notes:
                    wanted.append(_Wanted(one, NOTE_LIMIT, notes[one.key]))
            elif epoch := layout.parse_epoch_key(one.key):
                wanted.append(_Wanted(one, epochs.LIMIT, records.get(epoch.number)))
            else:
                wanted.append(_Wanted(one, GET_LIMIT, None))
        return wanted

    async def _record(self, wanted: "_Wanted") -> SealedRecord | None:
        """Steps 1 and 2 for a record; None: it could not be sealed, and `problems` says why."""
        services, key = self._services, wanted.lying.key
        sealed_key = layout.sealed(key)
        try:
            plain = await services.stored.get(key, wanted.limit)
            if wanted.sha256 and hashlib.sha256(plain).hexdigest() != wanted.sha256:
                raise Corrupt(f"{key} is not as it was stored, and is left alone: everref verify")
            with suppress(AlreadyExists):  # a run that died had put it
                await services.vault.put(sealed_key, plain)
            failpoints.reached("reseal: record stored")
            stored = await services.stored.get(sealed_key, age.sealed_limit(wanted.limit))
            if await sealing.opened(services, sealed_key, stored) != plain:
                raise Corrupt(f"{sealed_key} does not have what {key} has, and both are left alone")
        except (Corrupt, NoSuchObject) as error:
            self.problems.append(str(error))
            return None
        about = Sealed(len(stored), hashlib.sha256(stored).hexdigest())
        return SealedRecord(key, wanted.lying.bytes, wanted.number, about)

    async def parts(self) -> None:
        """Seal the live parts that are not."""
        services = self._services
        found = [part for part in await parts.live(services.db, self._repo.id) if part.sealed is None]
        services.progress.phase("sealing parts", sum(part.bytes for part in found), "bytes")
        for part in found:
            if not await self._goes_on():
                return
            try:
                await self._part(part)
            except (Corrupt, NoSuchObject) as error:
                self.problems.append(str(error))
                continue
            self.objects += 2 if part.index_bytes else 1
            self.bytes += part.bytes + part.index_bytes

    async def _part(self, old: Part) -> None:
        """Steps 1 to 4 for a part. Raises Corrupt if the stored one is not as it was recorded."""
        services, repo = self._services, self._repo
        key = layout.bundle_key(repo.id, old.epoch, old.first, old.last, layout.unique(), True)
        async with recover.tentative(services, repo.id, key):
            await parts.intend(services.db, self._alone, repo.id, key)
            failpoints.reached("reseal: intent stored")
            sealed = await self._bundle(old, key)
            failpoints.reached("reseal: bundle stored")
            new = replace(old, key=key, sealed=sealed)
            await hydrate.read_back(services, new)
            new = await copy_index(services.vault, old, new)
            await hydrate.read_back_as_stored(services, new)
            failpoints.reached("reseal: index stored")
            async with leased(services, repo, self._patience) as lease:
                await parts.replace(services.db, lease, repo.id, [old], new, services.clock())
            failpoints.reached("reseal: part recorded")

    async def _bundle(self, old: Part, key: str) -> Sealed:
        """Store what a part has under a key that seals it; nothing, if it is not as it was recorded."""
        services = self._services
        async with services.vault.create(key) as writer:
            chunks = streams.paced(services.stored.read(old.key), self._rate)
            if await streams.write(writer, chunks) != Sealed(old.bytes, old.sha256):
                raise Corrupt(f"{old.key} is not as it was stored, and is left alone: everref verify")
            sealed = await writer.commit()
        assert sealed is not None, "the key says that it is sealed"
        return sealed


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A record that is to be sealed."""

    lying: Lying
    limit: int  # bytes
    sha256: str | None  # of what it says, as it was recorded; None: nothing recorded it
    number: int | None = None  # of its snapshot; None: it is no manifest


async def repos_to_seal(services: Services) -> list[RepoId]:
    """The repos of all teams that seal."""
    return await rows.sealing_repos(services.db)
