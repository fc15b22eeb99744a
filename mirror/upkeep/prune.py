"""Deleting what nothing needs any more from the vault: replaced parts, and leftovers of killed runs."""

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
from mirror.vault.contract import Stat

GRACE: Final = timedelta(hours=24)  # how long a running restore may still read replaced parts


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
    """Delete replaced parts, stray objects and unfinished uploads that are older than `grace`.

    In a bucket that keeps versions, all versions are deleted, also those that an earlier deletion
    had only hidden. Objects that Object Lock keeps are reported and tried again the next time.

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
            done = await _prune(services, one, grace)
        total += done
    return total


async def _prune(services: Services, repo: Repo, grace: timedelta) -> Pruned:
    before = services.clock() - grace
    done = _Done()
    for grave in await parts.tombstones(services.db, repo.id):
        if grave.replaced_at > before:
            done.waiting += 1
            continue
        try:
            await services.vault.delete(layout.index_key(grave.key))
            await services.vault.delete(grave.key)
        except Locked as locked:
            done.keep(grave.key, locked)
            continue
        failpoints.reached("prune: object deleted")
        await parts.bury(services.db, repo.id, grave.key)
        failpoints.reached("prune: row deleted")
        done.delete(grave.key, grave.bytes)
    for stray in [*await strays(services, repo), *await _hidden(services, repo)]:
        if stray.modified > before:
            done.waiting += 1
            continue
        try:
            await services.vault.delete(stray.key)
        except Locked as locked:
            done.keep(stray.key, locked)
            continue
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

    def keep(self, key: str, locked: Locked) -> None:
        """Record an object that the store does not let anybody delete yet; the next prune tries again."""
        self.locked.append(key)
        if locked.until is not None:
            self.until = min(self.until or locked.until, locked.until)

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
        known |= {grave.key, layout.index_key(grave.key)}
    for intent in await parts.intents(services.db, repo.id):
        known |= {intent.key, layout.index_key(intent.key)}
    return known
