"""Packing a repo's log anew without what was dropped: the only way in which anything of it ever goes.

Who calls: retention (upkeep/retention) and erasure. What was dropped lies in the vault until the grace period
of the replaced parts is over and nobody reads them any more (upkeep/prune).
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mirror.backup import hydrate, recover
from mirror.backup.part import upload, write_index
from mirror.core import words
from mirror.core.errors import AlreadyExists, Busy, Corrupt, Refused, UsageError
from mirror.core.formats import bundle, epochs, layout
from mirror.core.formats.bundle import Header
from mirror.core.formats.epochs import Record
from mirror.core.model import Part, Repo, RepoId, Snapshot, Target
from mirror.core.rules.history.plan import Step
from mirror.git import leading, pack, view
from mirror.git.pack import IdxFile
from mirror.git.pool import Pool
from mirror.services import failpoints, sealing
from mirror.services.lease import PATIENCE, leased, leased_to_compact
from mirror.services.open import Services
from mirror.store.backup import epochs as rows
from mirror.store.backup import history, parts, snapshots
from mirror.store.backup.epochs import Still
from mirror.store.database import Db
from mirror.store.forge_leases import ForgeLease
from mirror.store.leases import Lease
from mirror.store.upkeep import keeping

TRIES: Final = 3  # the last of them holds the repo's lease while git packs, so that no sync is in its way
_MOST: Final = 9999  # epochs; a key has four digits


@dataclass(frozen=True, slots=True)
class Why:
    """Who wants that something goes, and why, as people read it later."""

    by: str  # a person, a policy
    words: str


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """A pack log that was packed anew."""

    repo: Repo
    number: int
    part: Part  # everything that is kept, up to `part.last`
    dropped: tuple[int, ...]  # snapshots that went
    bytes_before: int  # of the parts that it replaced, with their indexes
    bytes_after: int


async def _anything(_: Db) -> None:
    """Nothing else has to be asked before it is recorded."""


async def new_epoch(
    services: Services,
    repo: Repo,
    *,
    drop: Collection[int],
    why: Why,
    without: Collection[Target] = (),
    still: Still = _anything,
    patience: float = PATIENCE,
) -> NewEpoch:
    """Drop these snapshots: pack the log up to the latest one anew, with what the others reach and no more.

    `without` are objects that must not be in it: refs that lead to one of them are left out of all snapshots.

    1. Outside of the lease: git packs all that the kept snapshots reach; store the intent, then the bundle
       under the next epoch; read it back and have git index it.
    2. Under the lease: if a sync took a snapshot meanwhile, the bundle is discarded and packed again; the
       last of three tries holds the lease throughout.
    3. Store the record that says what was dropped, then the `.idx`: from here on a rebuild takes this epoch.
    4. One transaction: the new part is live, the others are tombstones, all snapshots are of this epoch, and
       the dropped ones say so. `still` is asked within it. Nothing goes while the repo is on hold.

    A pool's mark names its epoch, so that every pool is emptied and filled anew at its next use: what was
    dropped counts as absent when a remote sends it again. Safe to run twice: a part without a row is
    discarded, and an epoch's number is never used again. Raises UsageError for the latest snapshot, which
    the next backup builds on, or one that there is not; Held; Busy if it could not be done now.
    """
    async with leased_to_compact(services, repo, patience) as alone:
        await keeping.check_not_held(services.db, repo.id)
        for left in range(TRIES, 0, -1):
            rewrite = _Rewrite(services, repo, alone, frozenset(drop), frozenset(without), why, still)
            if left == 1:
                async with leased(services, repo, patience) as lease:
                    await recover.recover(services, repo, lease)
                    made = await rewrite.run(lease)
            else:
                made = await rewrite.run(None)
            if made is not None:
                await _forget_pool(services, made)
                return made
            services.progress.note("a snapshot was taken meanwhile; it is packed again")
    raise Busy(f"the parts of {repo.name} changed while they were packed anew; try again later")


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """One try to begin an epoch."""

    services: Services
    repo: Repo
    alone: ForgeLease
    drop: frozenset[int]
    without: frozenset[Target]
    why: Why
    still: Still

    async def run(self, lease: Lease | None) -> NewEpoch | None:
        """All steps of `new_epoch`; None: a sync was faster. Without `lease`, it is taken for 2 to 4."""
        services, repo = self.services, self.repo
        last = await snapshots.latest(services.db, repo.id)
        if last is None or not last.log_entries:
            raise UsageError(f"{repo.name} has no objects yet, so nothing of it can be dropped")
        await self._check(last)
        live = await parts.live(services.db, repo.id)
        number = await self._next(last)
        is_sealed = await sealing.of(services, repo.id)
        key = layout.bundle_key(repo.id, number, 1, last.number, layout.unique(), is_sealed)
        room = services.disk.root / "restores" / f"epoch-{repo.id}"  # no sync empties it; see backup/recover
        await asyncio.to_thread(shutil.rmtree, room, ignore_errors=True)
        async with view.scratch_view(None, room, object_format=last.object_format) as proving:
            async with recover.tentative(services, repo.id, key):
                part, idx = await self._packed(last, number, key, room, proving.path)
                async with self._leased(lease) as held:
                    failpoints.reached("epoch: leased for the record")
                    if not await self._is_as_it_was(held, last, live, part):
                        await recover.discard(services, repo.id, key)
                        return None
                    made = await self._recorded(held, last, live, part, idx)
        return made

    async def _check(self, last: Snapshot) -> None:
        if not self.drop and not self.without:
            raise UsageError("nothing was named that is to be dropped")
        beyond = [number for number in self.drop if not 0 < number < last.number]
        if last.number in self.drop:
            raise UsageError(
                f"#{last.number} is the newest snapshot of {self.repo.name}, which the next backup builds on:"
                " it stays"
            )
        if beyond:
            raise UsageError(f"{self.repo.name} has no snapshot #{min(beyond)}; it has #1 to #{last.number}")

    async def _next(self, last: Snapshot) -> int:
        """A number that no epoch has had, not even one that a killed run began."""
        taken = {last.epoch}
        for prefix in (layout.epochs_prefix(self.repo.id), layout.bundles_prefix(self.repo.id)):
            async for stat in self.services.vault.list(prefix):
                if record := layout.parse_epoch_key(stat.key):
                    taken.add(record.number)
                elif named := layout.parse_bundle_key(stat.key):
                    taken.add(named.epoch)
        if max(taken) >= _MOST:
            raise Refused(
                f"the log of {self.repo.name} was packed anew {_MOST} times; export it as a new repo"
            )
        return max(taken) + 1

    async def _packed(
        self, last: Snapshot, number: int, key: str, room: Path, proving: Path
    ) -> tuple[Part, Path]:
        """Step 1: the complete part of the new epoch, read back, and git's index of it."""
        services, repo = self.services, self.repo
        async with hydrate.view_of(services, repo, last, room, PATIENCE) as seen:
            failpoints.reached("epoch: view made")
            tips = await history.targets(services.db, repo.id, last.epoch, last.number, self.drop)
            known = await history.refs_at(services.db, repo.id, last.number)
            if self.without:
                tainted = await leading.leading_to(services.git, seen.path, tips, self.without)
                tips -= tainted
                known = {name: target for name, target in known.items() if target not in tainted}
            if not tips:
                raise Refused(f"nothing of {repo.name} would be left; let go of the whole repo instead")
            await parts.intend(services.db, self.alone, repo.id, key)
            failpoints.reached("epoch: intent stored")
            header = bundle.encode(Header(last.object_format, (), known))
            services.progress.phase("packing what is kept")
            async with upload(services.vault, key, header, last.object_format) as bundled:
                await bundled.all_of(pack.make_whole(services.git, seen.path, sorted(tips)))
                part = await bundled.commit(bundled.part())
            failpoints.reached("epoch: bundle stored")
        part = replace(part, epoch=number, first=1, last=last.number, complete=True)
        proved = await pack.index(
            services.git,
            proving,
            hydrate.spliced(services, [Step(part, None, False)], last.object_format),
            pack.Indexing(self_contained=True, fix_thin=False, object_format=last.object_format),
        )
        failpoints.reached("epoch: read back")
        pack.check_has(proved.idx, tips, key)
        with IdxFile(proved.idx) as found:
            for gone in self.without:
                if found.offset(bytes.fromhex(gone.decode())) is not None:
                    raise Corrupt(f"{key}: git packed {gone.decode()}, which was to go")
        return part, proved.idx

    async def _is_as_it_was(self, lease: Lease, last: Snapshot, live: list[Part], new: Part) -> bool:
        """Whether the log is still what was packed."""
        services, repo = self.services, self.repo
        now = (await recover.recover(services, repo, lease)).last
        if now is None or (now.number, now.epoch) != (last.number, last.epoch):
            return False
        if [part.key for part in await parts.live(services.db, repo.id)] != [part.key for part in live]:
            return False
        if await rows.is_unsettled(services.db, repo.id):
            raise Busy(
                f"a run of {repo.name} that stopped responding may still store a snapshot; the next backup"
                " settles that"
            )
        stored = await services.vault.stat(new.key)
        return stored is not None and stored.bytes == new.stored_bytes

    async def _recorded(
        self, lease: Lease, last: Snapshot, live: list[Part], part: Part, idx: Path
    ) -> NewEpoch:
        """Steps 3 and 4."""
        services, repo = self.services, self.repo
        at = services.clock()
        gone = await rows.dropped(services.db, repo.id)
        before = {number for number, _, _ in gone}
        drop = sorted(self.drop - before)
        gone += [(number, at, f"{self.why.by}: {self.why.words}") for number in drop]
        record = Record(
            repo.id,
            part.epoch,
            last.number,
            at,
            words.clean(self.why.by),
            words.clean(self.why.words),
            epochs.runs(sorted(gone)),
        )
        key = layout.epoch_key(repo.id, part.epoch)
        stored = epochs.encode(record, services.keyring, key)
        try:
            await services.vault.put(layout.sealed(key, await sealing.of(services, repo.id)), stored)
        except AlreadyExists:
            raise Busy(f"another run packs the log of {repo.name} anew; try again later") from None
        failpoints.reached("epoch: told")
        part = await write_index(services.vault, part, idx)
        failpoints.reached("epoch: index stored")
        await rows.begin(
            services.db,
            lease,
            record,
            hashlib.sha256(stored).hexdigest(),
            drop,
            live,
            part,
            self._still,
        )
        failpoints.reached("epoch: recorded")
        size = sum(one.bytes + one.index_bytes for one in live)
        return NewEpoch(repo, part.epoch, part, tuple(drop), size, part.bytes + part.index_bytes)

    async def _still(self, db: Db) -> None:
        await keeping.check_not_held(db, self.repo.id)
        await self.still(db)

    @asynccontextmanager
    async def _leased(self, lease: Lease | None) -> AsyncIterator[Lease]:
        if lease is not None:
            yield lease
            return
        async with leased(self.services, self.repo) as taken:
            yield taken


async def _forget_pool(services: Services, made: NewEpoch) -> None:
    """Empty this machine's pool of the repo now, unless it is in use; others find that its mark is old."""
    pool = Pool(services.git, services.disk.pool(made.repo.id), made.repo.object_format or "sha1")
    try:
        async with pool.lock(patience=0):
            if pool.path.is_dir():
                await pool.empty()
    except Busy:
        services.progress.note("the pool is in use; it is filled anew at its next use")


async def forget_old_pools(services: Services, ids: Collection[RepoId]) -> int:
    """Empty the pools of these repos on this machine that hold an earlier epoch; returns how many.

    For workers that have no use of a repo whose log another one packed anew. Safe to run twice.
    """
    done = 0
    for repo_id, epoch in (await rows.current(services.db, ids)).items():
        pool = Pool(services.git, services.disk.pool(repo_id), "sha1")  # of either format: nothing is made
        mark = await pool.mark()
        if mark is None or mark[0] >= epoch:
            continue
        try:
            async with pool.lock(patience=0):
                mark = await pool.mark()
                if mark is not None and mark[0] < epoch:
                    await pool.empty()
                    done += 1
        except Busy:
            continue  # it is in use, and looked at again in a minute
    return done
