"""Deleting what nothing needs any more from the vault: replaced parts, and leftovers of killed runs."""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from mirror.backup import damage, recover
from mirror.core.errors import Corrupt, Locked
from mirror.core.formats import layout
from mirror.core.model import Repo, Snapshot
from mirror.services import failpoints
from mirror.services.lease import PATIENCE, leased
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import parts
from mirror.store.upkeep import keeping, reseal
from mirror.vault.contract import Stat, Vault

GRACE: Final = timedelta(hours=24)  # how long a running restore may still read replaced parts

log = logging.getLogger("mirror.prune")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, and what still waits for its grace period to end."""

    deleted: tuple[str, ...]  # keys
    bytes: int
    waiting: int  # objects
    locked: tuple[str, ...] = ()  # keys that the store does not let anybody delete yet
    locked_until: datetime | None = None  # when the first can be deleted; None: none, or unknown

    def __add__(self, other: "Pruned") -> "Pruned":
        moments = [one for one in (self.locked_until, other.locked_until) if one]
        return Pruned(
            self.deleted + other.deleted,
            self.bytes + other.bytes,
            self.waiting + other.waiting,
            self.locked + other.locked,
            min(moments, default=None),
        )


NOTHING: Final = Pruned((), 0, 0)


async def prune(
    services: Services, grace: timedelta, repo: Repo | None = None, patience: float = PATIENCE
) -> Pruned:
    """Delete replaced parts, records that are sealed by now, stray objects and unfinished uploads.

    Only those that are older than `grace`.

    In a bucket that keeps versions, all versions are deleted, also those that an earlier deletion
    had only hidden. Objects that Object Lock keeps are reported and tried again the next time.

    What a live run still reads waits, and what was dropped of a repo before it was put on legal hold. After a
    rebuild everything waits until a verification has shown that what the vault calls newer holds it all.

    The row went first (a replaced part became a tombstone when its replacement was
    verified), the object follows, and the tombstone goes last. Safe to run twice.
    Raises Corrupt, and deletes nothing, if the vault and the database disagree:
    what the database does not know may be the only copy left.
    """
    chosen = [repo] if repo else await repos.all(services.db)
    total = NOTHING
    for one in chosen:
        async with leased(services, one, patience) as lease:
            last = (await recover.recover(services, one, lease)).last
            await _check(services, one, last)
            done = await _prune(services, one, grace, last)
        total += done
    return total


async def _prune(services: Services, repo: Repo, grace: timedelta, last: Snapshot | None) -> Pruned:
    before = services.clock() - grace
    read_since = await keeping.reading_since(services.db, repo.id)
    on_hold = await keeping.hold(services.db, repo.id) is not None
    unproved = await parts.is_unproved(services.db, repo.id)
    done = _Done()
    for grave in await parts.tombstones(services.db, repo.id):
        is_read = read_since is not None and grave.replaced_at >= read_since
        has_dropped = last is not None and grave.epoch < last.epoch  # what the live parts no longer hold
        if grave.replaced_at > before or is_read or unproved or (on_hold and has_dropped):
            done.waiting += 1
            continue
        if not await done.remove(services.vault, grave.key, index=True):
            continue
        failpoints.reached("prune: object deleted")
        await parts.bury(services.db, repo.id, grave.key)
        failpoints.reached("prune: row deleted")
        done.delete(grave.key, grave.bytes)
    for small in await reseal.graves(services.db, repo.id):
        if small.replaced_at > before or (read_since is not None and small.replaced_at >= read_since):
            done.waiting += 1
            continue
        if await services.stored.stat(layout.sealed(small.key)) is None:
            log.warning("%s stays: the sealed object that replaced it is not there", small.key)
            done.waiting += 1
            continue
        if not await done.remove(services.vault, small.key):
            continue
        failpoints.reached("prune: plain object deleted")
        await reseal.bury(services.db, small.key)
        done.delete(small.key, small.bytes)
    for stray in [*await strays(services, repo), *await _hidden(services, repo)]:
        says_of_kept = stray.key in {layout.withdrawn_key(key) for key in done.locked}
        if stray.modified > before or says_of_kept or unproved:
            done.waiting += 1
            continue
        if await done.remove(services.vault, stray.key):
            done.delete(stray.key, stray.bytes)
    under_way = {intent.key for intent in await parts.intents(services.db, repo.id)}  # of a checkpoint
    for upload in await services.vault.unfinished(layout.repo_prefix(repo.id)):
        if upload.since > before or upload.key in under_way:
            done.waiting += 1
            continue
        await services.vault.give_up(upload.key)  # not the object, which a commit may have made
    return done.pruned()


@dataclass(slots=True)
class _Done:
    """The result for each object so far."""

    deleted: list[str] = field(default_factory=list)
    bytes: int = 0
    waiting: int = 0
    locked: list[str] = field(default_factory=list)
    until: datetime | None = None

    def delete(self, key: str, size: int) -> None:
        self.deleted.append(key)
        self.bytes += size

    async def remove(self, vault: Vault, key: str, *, index: bool = False) -> bool:
        """Delete an object, and its index. False: the store lets nobody yet; the next prune tries again."""
        try:
            if index:
                await vault.delete(layout.index_key(key))
            await vault.delete(key)
        except Locked as locked:
            self.locked.append(key)
            if locked.until is not None:
                self.until = min(self.until or locked.until, locked.until)
            return False
        return True

    def pruned(self) -> Pruned:
        return Pruned(tuple(self.deleted), self.bytes, self.waiting, tuple(self.locked), self.until)


async def _check(services: Services, repo: Repo, last: Snapshot | None) -> None:
    """Raise Corrupt unless every live part exists and no manifest follows the recorded ones."""
    due = {part.key for part in await parts.live(services.db, repo.id)}
    newest, later = last.number if last else 0, list[int]()
    async for stat in services.vault.list(layout.repo_prefix(repo.id)):
        due.discard(stat.key)
        manifest = layout.parse_manifest_key(stat.key)
        if manifest and manifest.number > newest:
            later.append(manifest.number)
    if later:
        raise damage.missing_manifest(repo.id, newest, later)
    if due:
        raise Corrupt(f"{min(due)} is missing from the vault; nothing was pruned; run everref rebuild")


async def strays(services: Services, repo: Repo) -> list[Stat]:
    """Objects of this repo in the vault that neither a snapshot nor a part, live or replaced, accounts for.

    An upload that is in progress is not a stray: an intent names it.
    """
    known = await _known(services, repo)
    # Nor is a manifest after the latest snapshot: it is a commit that the next run replays.
    return [
        stat
        async for stat in services.vault.list(layout.repo_prefix(repo.id))
        if stat.key not in known and not layout.is_kept_for_ever(stat.key)
    ]


async def _hidden(services: Services, repo: Repo) -> list[Stat]:
    """Objects of this repo of which only old versions are left and for which no row accounts."""
    known = await _known(services, repo)
    return [
        stat
        async for stat in services.vault.hidden(layout.repo_prefix(repo.id))
        if stat.key not in known and not layout.is_kept_for_ever(stat.key)
    ]


async def _known(services: Services, repo: Repo) -> set[str]:
    """The keys of parts and uploads that rows account for."""
    known = set[str]()
    for part in await parts.live(services.db, repo.id):
        known |= {part.key, layout.index_key(part.key)}
    for grave in await parts.tombstones(services.db, repo.id):
        known |= {grave.key, layout.index_key(grave.key), layout.withdrawn_key(grave.key)}
    for intent in await parts.intents(services.db, repo.id):
        known |= {intent.key, layout.index_key(intent.key)}
    return known
