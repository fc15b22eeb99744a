"""Deleting from the vault what nothing needs any more: replaced parts, and what dead runs left."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mirror import layout
from mirror.errors import Corrupt
from mirror.flows import settle, steps
from mirror.flows.edges import Edges
from mirror.flows.turn import PATIENCE, turn
from mirror.model import Repo, RepoId, Snapshot
from mirror.store import intents, parts, repos
from mirror.vault.contract import Stat

GRACE: Final = timedelta(hours=24)  # how long a restore that has begun may still read what was replaced


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, and what still waits for its grace period to end."""

    deleted: tuple[str, ...]  # keys
    bytes: int
    waiting: int  # objects


async def prune(
    edges: Edges, grace: timedelta, repo: Repo | None = None, patience: float = PATIENCE
) -> Pruned:
    """Delete replaced parts, stray objects and unfinished uploads that are older than `grace`.

    The row went first (a replaced part is a tombstone since its replacement was
    verified), the object follows, the tombstone goes last. Safe to run twice.
    Raises Corrupt, and deletes nothing, where the vault and the database disagree:
    what the database does not know may be all that is left.
    """
    chosen = [repo] if repo else await repos.all(edges.db)
    total = Pruned((), 0, 0)
    for one in chosen:
        async with turn(edges, one, patience) as lease:
            last = (await settle.settle(edges, one, lease)).last
            await _check(edges, one, last)
            done = await _prune(edges, one, grace)
        total = Pruned(total.deleted + done.deleted, total.bytes + done.bytes, total.waiting + done.waiting)
    return total


async def _prune(edges: Edges, repo: Repo, grace: timedelta) -> Pruned:
    before = edges.clock() - grace
    deleted: list[str] = []
    size = waiting = 0
    for grave in await parts.tombstones(edges.db, repo.id):
        if grave.replaced_at > before:
            waiting += 1
            continue
        await edges.vault.delete(layout.index_key(grave.key))
        await edges.vault.delete(grave.key)
        steps.reached("prune: object deleted")
        await parts.bury(edges.db, repo.id, grave.key)
        steps.reached("prune: row deleted")
        deleted.append(grave.key)
        size += grave.bytes
    for stray in await strays(edges, repo):
        if stray.modified > before:
            waiting += 1
            continue
        await edges.vault.delete(stray.key)
        deleted.append(stray.key)
        size += stray.bytes
    for upload in await edges.vault.unfinished(layout.repo_prefix(repo.id)):
        if upload.since > before:
            waiting += 1
            continue
        await edges.vault.give_up(upload.key)  # no more: a commit whose end got lost has left its object
    return Pruned(tuple(deleted), size, waiting)


async def _check(edges: Edges, repo: Repo, last: Snapshot | None) -> None:
    """Raise Corrupt unless every live part is there and no manifest follows those that are recorded."""
    due = {part.key for part in await parts.live(edges.db, repo.id)}
    newest = last.number if last else 0
    async for stat in edges.vault.list(layout.repo_prefix(repo.id)):
        due.discard(stat.key)
        manifest = layout.parse_manifest_key(stat.key)
        if manifest and manifest.number > newest:
            raise missing_manifest(repo.id, newest + 1)
    if due:
        raise Corrupt(f"{min(due)} is missing from the vault; nothing was pruned, run everref rebuild")


def missing_manifest(repo_id: RepoId, number: int) -> Corrupt:
    """What is wrong with a vault that has later manifests than this one."""
    key = layout.manifest_key(repo_id, number)
    return Corrupt(
        f"{key} is missing from the vault, which has later ones; bring it back, then everref rebuild"
    )


async def strays(edges: Edges, repo: Repo) -> list[Stat]:
    """Objects of this repo in the vault that neither a snapshot nor a part, live or replaced, accounts for.

    An upload that is under way right now is no stray: an intent names it.
    """
    known = set[str]()
    for part in await parts.live(edges.db, repo.id):
        known |= {part.key, layout.index_key(part.key)}
    for grave in await parts.tombstones(edges.db, repo.id):
        known |= {grave.key, layout.index_key(grave.key)}
    for intent in await intents.of(edges.db, repo.id):
        known |= {intent.key, layout.index_key(intent.key)}
    found = []
    async for stat in edges.vault.list(layout.repo_prefix(repo.id)):
        # A manifest after the latest snapshot is no stray either, but a commit that the next run replays.
        if stat.key not in known and not layout.is_kept_for_ever(stat.key):
            found.append(stat)
    return found
