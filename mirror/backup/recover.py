"""What a run does first: finish what a killed run committed, and remove what it did not."""

import hashlib
import logging
import shutil
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from mirror.backup import damage, describe, guide
from mirror.backup.withdraw import withdraw
from mirror.core.errors import Corrupt, Damaged, EverrefError, NoSuchObject
from mirror.core.formats import layout, manifest
from mirror.core.model import ObjectFormat, Repo, RepoId, Snapshot
from mirror.services import sealing
from mirror.services.open import Services
from mirror.store import leases, repos
from mirror.store.backup import beginnings, parts, snapshots
from mirror.store.backup.beginnings import Beginning
from mirror.store.leases import Lease
from mirror.vault.copies import only_the_first

log = logging.getLogger("mirror.recover")

_ABANDONED = timedelta(hours=1)  # without a heartbeat until an upload from another machine counts as dead


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
    Safe to run twice; costs the vault two requests at once when there is nothing to do. Raises Damaged
    if the next manifest is missing and later ones exist: nobody may write another in
    its place. The vault is listed for that only if the database may not know them: it has no
    snapshot, some were replayed just now, or the repo fails, as it does after such a rebuild.
    """
    began = began or await beginnings.of(services.db, repo.id)
    before = began.latest
    last = await replay(services, repo, lease, before)
    if last is None or last != before or began.is_failing:
        await see_that_none_is_missing(services, repo.id, last)
        await see_that_no_copy_goes_on(services, repo.id, last)
    for intent in began.intents:
        if leases.is_over(intent.owner) or began.asked_at - intent.at > _ABANDONED:
            await discard(services, repo.id, intent.key)
    await to_thread(shutil.rmtree, services.disk.scratch(repo.id), ignore_errors=True)
    return Recovered(last, last != before)


async def replay(
    services: Services, repo: Repo, lease: Lease, last: Snapshot | None, *, any_epoch: bool = False
) -> Snapshot | None:
    """Record every snapshot whose manifest follows `last` in the vault; returns the latest.

    Each is recorded as the run that took it would have done, with the updates that it answered. `any_epoch`:
    the caller reads back what a lost database knew, epochs too (backup/dropped); else Damaged is raised where
    a manifest is of an epoch that the database does not know.
    """
    while True:
        number = last.number + 1 if last else 1
        try:
            with only_the_first():  # nothing else says whether it was committed
                got = await sealing.got(services, layout.manifest_key(repo.id, number), manifest.LIMIT)
        except NoSuchObject:
            return last
        key = got.key
        try:
            found = manifest.decode(got.plain)
        except Corrupt as error:
            raise Damaged(f"{key} is damaged: {error}") from None
        if (found.repo, found.number) != (repo.id, number):
            raise Damaged(f"{key} is the manifest of another snapshot")
        if found.previous != (last.manifest_sha256 if last else None):
            raise Damaged(f"{key} does not follow the manifest that was recorded before it")
        if last is not None and found.epoch != last.epoch and not any_epoch:
            raise Damaged(
                f"{key} is of epoch {found.epoch}, and the database knows only epoch {last.epoch}: it is"
                " older than the vault; run everref rebuild"
            )
        snapshot = manifest.snapshot_of(found, hashlib.sha256(got.plain).hexdigest(), got.sealed)
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


async def see_that_no_copy_goes_on(services: Services, repo_id: RepoId, last: Snapshot | None) -> None:
    """Raise Damaged if a copy of the vault has the next manifest: it gets each one after the first has it.

    So the first vault was brought back as it had been earlier. Another manifest in that place would have two
    histories, of which the longer one is the true one. A copy that does not answer says nothing.
    """
    number = last.number if last else 0
    keys = [layout.manifest_key(repo_id, number + 1, is_sealed) for is_sealed in (True, False)]
    for place in services.copies.copies:
        try:
            found = [await place.vault.stat(key) for key in keys]
        except EverrefError as error:
            log.warning("%s: the copy %s was not asked for what follows: %s", repo_id, place.name, error)
            continue
        if any(found):
            raise damage.older_than(repo_id, number, place.name)


@asynccontextmanager
async def tentative(services: Services, repo_id: RepoId, key: str) -> AsyncIterator[None]:
    """Discard the upload under this key if the block fails and no row names it."""
    try:
        yield
    except BaseException:
        await discard(services, repo_id, key)
        raise


async def discard(services: Services, repo_id: RepoId, key: str) -> None:
    """Remove an upload that no snapshot names, finished or not, and then the intent that named it."""
    if not await parts.is_known(services.db, repo_id, key):
        await withdraw(services, key, "the run that made it did not record it")
        await services.vault.discard(layout.index_key(key))
        await services.vault.discard(key)
    await parts.drop_intent(services.db, repo_id, key)


async def introduce(services: Services, repo: Repo, object_format: ObjectFormat) -> None:
    """Say in the vault what this repo is, and how to restore without Everref. Safe to run twice."""
    await guide.store(services)
    await repos.set_object_format(services.db, repo.id, object_format)
    await describe.introduce(services, repo.id)
