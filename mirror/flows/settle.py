"""What a run does first: finish what a killed run had committed, and remove what it had not."""

import hashlib
import shutil
from asyncio import to_thread
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources

from mirror import layout, manifest
from mirror.errors import AlreadyExists, Corrupt, Damaged, NoSuchObject
from mirror.flows import damage, describe
from mirror.flows.edges import Edges
from mirror.model import ObjectFormat, Repo, RepoId, Snapshot
from mirror.store import beginnings, endings, intents, leases, parts, repos, snapshots
from mirror.store.beginnings import Beginning
from mirror.store.leases import Lease

_ABANDONED = timedelta(hours=1)  # after which an upload of an unknown machine is taken for dead


@dataclass(frozen=True, slots=True)
class Settled:
    """Where a run begins."""

    last: Snapshot | None  # the latest
    replayed: bool  # a run that was killed had committed it


async def settle(edges: Edges, repo: Repo, lease: Lease, began: Beginning | None = None) -> Settled:
    """Bring the database and the scratch space level with the vault.

    1. Replay manifests that were stored but not recorded: storing was the commit.
    2. Discard uploads that runs which are over intended and no manifest names.
    3. Empty the repo's scratch space on this disk: only the lease's holder works there.

    `began` is how the repo was when the turn began, where that was read already.
    Safe to run twice; costs one request to the vault when there is nothing to do. Raises Damaged
    where the next manifest is missing and later ones are there: nobody may write another in
    its place. The vault is listed for that only where the database may not know them: it has no
    snapshot, some were replayed just now, or the repo fails, as it does after such a rebuild.
    """
    began = began or await beginnings.of(edges.db, repo.id)
    before = began.latest
    last = await replay(edges, repo, lease, before)
    if last is None or last != before or began.is_failing:
        await see_that_none_is_missing(edges, repo.id, last)
    for intent in began.intents:
        if leases.is_over(intent.owner) or edges.clock() - intent.at > _ABANDONED:
            await discard(edges, repo.id, intent.key)
    await to_thread(shutil.rmtree, edges.disk.scratch(repo.id), ignore_errors=True)
    return Settled(last, last != before)


async def replay(edges: Edges, repo: Repo, lease: Lease, last: Snapshot | None) -> Snapshot | None:
    """Record every snapshot whose manifest follows `last` in the vault; returns the latest.

    Each is recorded as the run that took it would have done, with what it made an end of.
    """
    while True:
        number = last.number + 1 if last else 1
        key = layout.manifest_key(repo.id, number)
        try:
            stored = await edges.vault.get(key, limit=manifest.LIMIT)
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
        ending = await endings.of(edges.db, repo.id, snapshot.manifest_sha256)
        await snapshots.record(edges.db, lease, repo.id, snapshot, found.changes, ending)
        last = snapshot


async def see_that_none_is_missing(edges: Edges, repo_id: RepoId, last: Snapshot | None) -> None:
    """Raise Damaged where the manifest after `last` is missing, and later ones are there."""
    number, later = last.number if last else 0, set[int]()
    async for stat in edges.vault.list(layout.manifests_prefix(repo_id)):
        found = layout.parse_manifest_key(stat.key)
        if found and found.number > number:
            later.add(found.number)
    if later and number + 1 not in later:  # else a run that was taken over has just stored it
        raise damage.missing_manifest(repo_id, number, later)


async def discard(edges: Edges, repo_id: RepoId, key: str) -> None:
    """Remove an upload that no snapshot names, finished or not, and then the intent that named it."""
    if not await parts.is_known(edges.db, repo_id, key):
        await edges.vault.discard(layout.index_key(key))
        await edges.vault.discard(key)
    await intents.drop(edges.db, repo_id, key)


async def introduce(edges: Edges, repo: Repo, object_format: ObjectFormat) -> None:
    """Say in the vault what this repo is, and how to restore without Everref. Safe to run twice."""
    guide = resources.files("mirror.vault_readme")
    for key, content in (
        (layout.README, (guide / "README.txt").read_bytes()),
        (layout.RESTORE, (guide / "restore.sh").read_bytes()),
    ):
        try:
            await edges.vault.put(key, content)
        except AlreadyExists:
            pass  # an earlier repo's backup, or an earlier try at this one
    await repos.set_object_format(edges.db, repo.id, object_format)
    await describe.introduce(edges, repo.id)
