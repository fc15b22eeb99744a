"""From a push to a snapshot: look at the remote, fetch what is new, prove it, store it, record it.

Who calls: the command `backup`, the worker's job and the sweep. What it uses,
in order: flows/turn, flows/settle, git/upstream, flows/hydrate, flows/gather,
manifest, the vault, store/snapshots, git/pool.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mirror import layout, manifest, refs
from mirror.errors import AlreadyExists, Busy, Corrupt, EverrefError, Refused
from mirror.flows import gather, hydrate, request, settle, steps
from mirror.flows.edges import Edges, together
from mirror.flows.turn import PATIENCE, turn
from mirror.git import upstream
from mirror.git.pool import Pool
from mirror.git.upstream import NotOurRef, Upstream
from mirror.manifest import Manifest
from mirror.model import HEAD, Listing, Reason, Refs, Repo, RepoId, Snapshot
from mirror.store import history, leases, repos, snapshots
from mirror.store.leases import Lease

ROUNDS: Final = 3  # syncs of one repo in a row, after which others have their turn


@dataclass(frozen=True, slots=True)
class Synced:
    """How a sync ended: the repo's latest snapshot, and whether this run took it."""

    repo: Repo
    snapshot: Snapshot
    new: bool


async def sync(
    edges: Edges, repo_id: RepoId, reason: Reason = Reason.MANUAL, patience: float = PATIENCE
) -> Synced:
    """Bring one repo's history up to date and, if anything moved, take a snapshot.

    1. Take the lease, and finish or undo what a killed run left (flows/settle).
    2. Ask the remote for its refs, once. If nothing moved, say so and stop.
    3. Fetch exactly those ids into a scratch view, prove them, store the part.
    4. Store the manifest by a conditional create: from here on the snapshot exists.
    5. Record it in Postgres in one transaction, fenced by the lease.
    6. Let the pool grow. It is a cache: a run that dies here loses nothing.

    Safe to run twice: the refs are compared with the last *recorded* ones, and a
    manifest that was stored but not recorded is replayed by step 1. The wish that
    was open at the beginning is served by it, whoever called.
    """
    repo = await repos.get(edges.db, repo_id)
    async with turn(edges, repo, patience) as lease:
        steps.reached("sync: leased")
        try:
            try:
                return await _in_turn(edges, repo, lease, reason)
            except Corrupt:
                if not await hydrate.drop_broken(edges, repo):
                    raise  # it is the remote, or the vault
            return await _in_turn(edges, repo, lease, reason)
        except EverrefError as error:
            await repos.set_failure(edges.db, repo.id, error.kind, str(error), edges.clock())
            raise


async def serve(edges: Edges, repo_id: RepoId, reason: Reason = Reason.PUSH) -> bool:
    """Sync a repo while a wish for that is open; does nothing when another run has served it already.

    A wish that came while a sync ran is served by the next one. False: one is open
    still, and other repos should have their turn first. Raises Busy when another
    run is at work on it now.
    """
    for _ in range(ROUNDS):
        if await repos.wish(edges.db, repo_id) is None:
            return True
        await sync(edges, repo_id, reason, patience=0)
    return await repos.wish(edges.db, repo_id) is None


async def _in_turn(edges: Edges, repo: Repo, lease: Lease, reason: Reason) -> Synced:
    wish = await repos.wish(edges.db, repo.id)  # before the remote is asked: one that comes later stays open
    remote = await request.remote_of(edges, repo.id, repo.url)
    edges.progress.phase("asking the remote for its refs")
    async with upstream.connect(
        edges.git, remote, allow_private=edges.settings.allow_private_remotes
    ) as source:
        now = edges.clock()  # before the answer: later pushes are not in it
        last, seen = await together(settle.settle(edges, repo, lease), source.ls_refs())
        for attempt in (1, 2):
            steps.reached("sync: listed")
            if (
                last
                and refs.digest(seen.refs) == last.refs_digest
                and seen.object_format == last.object_format
            ):
                await repos.touch_protected(edges.db, repo.id, now, wish)
                return Synced(repo, last, new=False)
            try:
                snapshot = await _take(edges, repo, lease, source, last, seen, now, reason, wish)
            except NotOurRef:  # a ref moved between the listing and the fetch
                if attempt == 2:
                    raise
                now = edges.clock()
                seen = await source.ls_refs()
            else:
                return Synced(repo, snapshot, new=True)
    raise AssertionError("the second attempt returns or raises")


async def _take(
    edges: Edges,
    repo: Repo,
    lease: Lease,
    source: Upstream,
    last: Snapshot | None,
    seen: Listing,
    now: datetime,
    reason: Reason,
    wish: datetime | None,
) -> Snapshot:
    """Steps 3 to 6 of `sync`."""
    if last and last.object_format != seen.object_format and last.log_entries:
        raise Refused(
            f"{repo.url} was a {last.object_format} repository and is a {seen.object_format} one now: "
            "what is kept stays; back the new one up under another name"
        )
    old: Refs = await history.refs_at(edges.db, repo.id, last.number) if last else {}
    pool = Pool(edges.git, edges.disk.pool(repo.id), seen.object_format)
    async with pool.lock():
        if last and last.object_format != seen.object_format:
            await pool.destroy()
        await pool.open_or_create()
        await hydrate.warm(edges, repo, pool, last)
        if last is None:
            await settle.introduce(edges, repo, seen.object_format)
        async with gather.gather(edges, repo, lease, pool, source, last, old, seen) as gathered:
            taken = Manifest(
                repo=repo.id,
                number=last.number + 1 if last else 1,
                taken_at=now,
                reason=reason,
                object_format=seen.object_format,
                head=seen.refs.get(HEAD),
                refs_count=len(seen.refs) - (HEAD in seen.refs),
                refs_digest=refs.digest(seen.refs),
                epoch=last.epoch if last else 1,
                log_entries=(last.log_entries if last else 0) + gathered.entries,
                log_bytes=(last.log_bytes if last else 0) + gathered.bytes,
                bundle=gathered.part,
                previous=last.manifest_sha256 if last else None,
                changes=tuple(gathered.changes),
                refs=dict(seen.refs) if manifest.has_whole_map(last.number + 1 if last else 1) else None,
            )
            snapshot = await _commit(edges, repo, lease, taken, wish)
            await pool.adopt(gathered.packs)
        await pool.set_mark(snapshot.epoch, snapshot.number, snapshot.manifest_sha256)
        steps.reached("sync: pool grown")
        try:
            await pool.repack_if_due()
        except EverrefError as error:  # the snapshot is safe; the next run tries again
            edges.progress.note(f"the pool could not be repacked: {error}")
    return snapshot


async def _commit(edges: Edges, repo: Repo, lease: Lease, taken: Manifest, wish: datetime | None) -> Snapshot:
    """Store the manifest, then record it. The order is the promise: see `sync`."""
    stored = manifest.encode(taken)
    if not await leases.beat(edges.db, lease):  # whoever has the turn now may have discarded the part
        raise Busy(f"another run took over {repo.name} while this one was not answering")
    try:
        await edges.vault.put(layout.manifest_key(repo.id, taken.number), stored)
    except AlreadyExists:
        raise Busy(f"another run took snapshot #{taken.number} of {repo.name}; run it again") from None
    steps.reached("sync: manifest stored")
    snapshot = manifest.snapshot_of(taken, hashlib.sha256(stored).hexdigest())
    await snapshots.record(edges.db, lease, repo.id, snapshot, taken.changes, wish)
    steps.reached("sync: recorded")
    return snapshot
