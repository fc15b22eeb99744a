"""What a run does first: finish what a killed run committed, and remove what it did not."""

import hashlib
import shutil
from asyncio import to_thread
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources

from mirror.backup import damage, describe
from mirror.core.errors import AlreadyExists, Corrupt, Damaged, NoSuchObject
from mirror.core.formats import layout, manifest
from mirror.core.model import ObjectFormat, Repo, RepoId, Snapshot
from mirror.services.open import Services
from mirror.store import leases, repos
from mirror.store.backup import beginnings, parts, snapshots
from mirror.store.backup.beginnings import Beginning
from mirror.store.leases import Lease

_ABANDONED = timedelta(hours=1)  # after which an upload from an unknown machine counts as dead


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a run begins."""

    last: Snapshot | None  # the latest
    replayed: bool  # a killed run had committed it


async def recover(services: Services, repo: Repo, lease: Lease, began: Beginning | None = None) -> Recovered:
    """Bring the database and the scratch space level with the vault.

    1. Replay manifests that were stored but not recorded: storing was the commit.
    2. Discard uploads that runs which are over intended and no manifest names.
    3. Empty the repo's scratch space on this disk: only the lease's holder works there.

    `began` is the repo as it was when the lease was taken, if that was read already.
    Safe to run twice; costs one request to the vault when there is nothing to do. Raises Damaged
    if the next manifest is missing and later ones exist: nobody may write another in
    its place. The vault is listed for that only if the database may not know them: it has no
    snapshot, some were replayed just now, or the repo fails, as it does after such a rebuild.
    """
    began = began or await beginnings.of(services.db, repo.id)
    before = began.latest
    last = await replay(services, repo, lease, before)
    if last is None or last != before or began.is_failing:
        await see_that_none_is_missing(services, repo.id, last)
    for intent in began.intents:
        if leases.is_over(intent.owner) or services.clock() - intent.at > _ABANDONED:
            await discard(services, repo.id, intent.key)
    await to_thread(shutil.rmtree, services.disk.scratch(repo.id), ignore_errors=True)
    return Recovered(last, last != before)


async def replay(services: Services, repo: Repo, lease: Lease, last: Snapshot | None) -> Snapshot | None:
    """Record every snapshot whose manifest follows `last` in the vault; returns the latest.

    Each is recorded as the run that took it would have done, with the updates that it answered.
    """
    while True:
        number = last.number + 1 if last else 1
        key = layout.manifest_key(repo.id, number)
        try:
            stored = await services.vault.get(key, limit=manifest.LIMIT)
        except NoSuchObject:
            return last
        try:
            found = manifest.decode(stored)
        except Corrupt as error:
            raise Damaged(f"{key} is damaged: {error}") from None
        if (found.repo, found.number) != (repo.id, number):
            raise Damaged(f"{key} is the manifest of another snapshot")
        if found.previous != (last.manifest_sha256 if last else None):
            raise Damaged(f"{key} does not follow the manifest that was recorded before it")
        snapshot = manifest.snapshot_of(found, hashlib.sha256(stored).hexdigest())
        ending = await snapshots.announced(services.db, repo.id, snapshot.manifest_sha256)
        await snapshots.record(services.db, lease, repo.id, snapshot, found.changes, ending)
        last = snapshot


async def see_that_none_is_missing(services: Services, repo_id: RepoId, last: Snapshot | None) -> None:
    """Raise Damaged if the manifest after `last` is missing, and later ones exist."""
    number, later = last.number if last else 0, set[int]()
    async for stat in services.vault.list(layout.manifests_prefix(repo_id)):
        found = layout.parse_manifest_key(stat.key)
        if found and found.number > number:
            later.add(found.number)
    if later and number + 1 not in later:  # else a run that lost its lease has just stored it
        raise damage.missing_manifest(repo_id, number, later)


async def discard(services: Services, repo_id: RepoId, key: str) -> None:
    """Remove an upload that no snapshot names, finished or not, and then the intent that named it."""
    if not await parts.is_known(services.db, repo_id, key):
        await services.vault.discard(layout.index_key(key))
        await services.vault.discard(key)
    await parts.drop_intent(services.db, repo_id, key)


async def introduce(services: Services, repo: Repo, object_format: ObjectFormat) -> None:
    """Say in the vault what this repo is, and how to restore without Everref. Safe to run twice."""
    guide = resources.files("mirror.vault.readme")
    for key, content in (
        (layout.README, (guide / "README.txt").read_bytes()),
        (layout.RESTORE, (guide / "restore.sh").read_bytes()),
    ):
        try:
            await services.vault.put(key, content)
        except AlreadyExists:
            pass  # an earlier repo's backup, or an earlier try at this one
    await repos.set_object_format(services.db, repo.id, object_format)
    await describe.introduce(services, repo.id)
