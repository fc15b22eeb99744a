"""Every snapshot of a repo: recording one, and finding the one that is meant."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mirror.core.errors import Corrupt
from mirror.core.model import Kind, Reason, RefChange, RefName, RepoId, Segment, Snapshot, Target
from mirror.core.refs import FEW
from mirror.core.rules.history.pushes import Answered, Lost
from mirror.store import repos
from mirror.store.backup import history, parts, reported_updates
from mirror.store.database import Db, query, storable, transaction, translating
from mirror.store.leases import Lease, taken_over

_PAGE: Final = 500  # snapshots read at a time
_Latest = tuple[int, str | None]  # its number (0: there is none) and its manifest's sum


@dataclass(frozen=True, slots=True)
class Ending:
    """What is recorded with a snapshot besides its manifest."""

    sync_request: datetime | None = None  # the request that it serves
    answered: Answered = Answered()
    suspicion: str | None = None  # why its changes look like an attack
    seen: bool = True  # False: it shows what a push once made of the refs, not what the remote shows


_NOTHING: Final = Ending()


@translating
async def announce(
    db: Db, lease: Lease, number: int, manifest_sha256: str, ending: Ending, is_sealed: bool
) -> bool | None:
    """Write down what this snapshot will be recorded with, with a heartbeat. None: the lease was lost.

    Returns whether its manifest is stored sealed: as wanted, unless a run before this one has announced the
    same number otherwise. So two runs race for one key, also where sealing was switched on or off in between.
    """
    found: bool | None = await db.fetchval(
        """
        update lease set beat_at = clock_timestamp(), pending = $4::jsonb || jsonb_build_object(
          'sealed', case
            when pending -> 'number' = to_jsonb($5::int) then pending -> 'sealed' else to_jsonb($6::bool)
          end
        )
        where repo_id = $1 and owner = $2 and fence = $3
        returning (pending ->> 'sealed')::bool
        """,
        lease.repo_id,
        lease.owner,
        lease.fence,
        json.dumps({"manifest": manifest_sha256, "number": number, **_row(ending)}),
        number,
        is_sealed,
    )
    return found


@translating
async def announced(db: Db, repo_id: RepoId, manifest_sha256: str) -> Ending:
    """What the snapshot of this manifest is recorded with; nothing if another one was announced since."""
    found = await db.fetchval(
        "select pending from lease where repo_id = $1 and pending ->> 'manifest' = $2",
        repo_id,
        manifest_sha256,
    )
    return Ending() if found is None else _ending(json.loads(found))


@translating
async def record(
    db: Db,
    lease: Lease,
    repo_id: RepoId,
    snapshot: Snapshot,
    changes: Sequence[RefChange],
    ending: Ending = _NOTHING,
) -> None:
    """Record a snapshot whose manifest is in the vault, and the updates that it answers.

    One that the remote does not show says nothing about how the repo is doing.

    One transaction, in this order:
    1. The fence: no other run took the lease, and none can until the end.
    2. The place in the chain: it follows the latest snapshot, or is recorded already.
    3. Its bundle becomes a live part, and the intent to upload it is deleted.
    4. The snapshot, and what its changes did to the refs.
    5. The updates that it answers, and a notice if it looks like an attack.
    6. The repo is protected as of then; its failure, if any, is over.

    Costs as much as there are changes, however many refs the repo has. Safe to run
    twice. Raises Busy if the lease was lost, Corrupt if it does not follow.
    """
    async with transaction(db) as connection:
        latest = await _in_turn(connection, lease, repo_id)
        if await _record(connection, repo_id, snapshot, changes, latest):
            await reported_updates.answer_within(
                connection, repo_id, ending.answered, snapshot.number, snapshot.taken_at
            )
            if ending.suspicion:
                await _give_notice(connection, repo_id, snapshot, ending.suspicion, snapshot.number)
            if any(change.kind is Kind.DELETED for change in changes):
                await _notice_mass_deletion(connection, repo_id, snapshot)
            if ending.seen:
                await repos.protected(connection, repo_id, snapshot.taken_at, ending.sync_request)


@translating
async def record_many(
    db: Db, lease: Lease, repo_id: RepoId, taken: Iterable[tuple[Snapshot, Sequence[RefChange]]]
) -> None:
    """`record` for snapshots one after another, in one transaction: cheaper if thousands are read back."""
    async with transaction(db) as connection:
        latest = await _in_turn(connection, lease, repo_id)
        for snapshot, changes in taken:
            if await _record(connection, repo_id, snapshot, changes, latest):
                latest = (snapshot.number, snapshot.manifest_sha256)
                await repos.protected(connection, repo_id, snapshot.taken_at, None)


async def _in_turn(connection: Db, lease: Lease, repo_id: RepoId) -> _Latest:
    """The fence, and the latest snapshot behind it. Raises Busy when the lease was lost."""
    row = await connection.fetchrow(query("in_turn"), repo_id, lease.owner, lease.fence)
    if row is None:
        raise taken_over()
    return row["number"] or 0, row["manifest_sha256"]


async def _record(
    connection: Db, repo_id: RepoId, snapshot: Snapshot, changes: Sequence[RefChange], latest: _Latest
) -> bool:
    """Steps 2 to 4 of `record`; False: it was recorded already."""
    if await _is_recorded(connection, repo_id, snapshot, latest):
        return False
    await _insert(connection, repo_id, snapshot)
    await history.append(connection, repo_id, snapshot.number, changes)
    return True


async def _notice_mass_deletion(connection: Db, repo_id: RepoId, snapshot: Snapshot) -> None:
    """Give notice if half of several refs are gone within an hour, by however many pushes."""
    base, held, gone = await connection.fetchrow(query("mass_deletion"), repo_id, snapshot.taken_at)
    if FEW <= held <= 2 * gone:
        await _give_notice(connection, repo_id, snapshot, f"{gone} of {held} refs were deleted", base)


async def _give_notice(
    connection: Db, repo_id: RepoId, snapshot: Snapshot, suspicion: str, since: int
) -> None:
    """Give notice that a snapshot looks like a mistake or an attack; once for all after the same one."""
    await connection.execute(
        """
        insert into notice (team_id, repo_id, kind, message, at, told_key)
        select team_id, id, 'mass-deletion', name || $2, $3, $4 from repo where id = $1
        on conflict (told_key) do nothing
        """,
        repo_id,
        f": {suspicion}, as snapshot #{snapshot.number} shows; what was there before is backed up",
        snapshot.taken_at,
        f"mass-deletion/{repo_id}/{since}",
    )


async def _is_recorded(connection: Db, repo_id: RepoId, snapshot: Snapshot, latest: _Latest) -> bool:
    """Whether it is recorded already; False if it follows the latest. Raises Corrupt if neither."""
    number, sum_of_latest = latest
    if snapshot.number > number:
        if snapshot.previous_sha256 != sum_of_latest:
            raise Corrupt(f"the manifest of snapshot #{snapshot.number} does not follow what is recorded")
        return False
    known = await connection.fetchval(
        "select manifest_sha256 from snapshot where repo_id = $1 and number = $2", repo_id, snapshot.number
    )
    if known != snapshot.manifest_sha256:
        raise Corrupt(f"snapshot #{snapshot.number} is recorded already, from another manifest")
    return True


async def _insert(connection: Db, repo_id: RepoId, snapshot: Snapshot) -> None:
    segment, part = snapshot.segment, snapshot.bundle
    await connection.execute(
        query("add_snapshot"),
        repo_id,
        snapshot.number,
        snapshot.taken_at,
        snapshot.reason,
        snapshot.object_format,
        snapshot.head,
        snapshot.refs_count,
        snapshot.refs_digest,
        snapshot.changes_count,
        snapshot.epoch,
        snapshot.log_entries,
        snapshot.log_bytes,
        segment.entries if segment else None,
        segment.bytes if segment else None,
        segment.sha256 if segment else None,
        snapshot.manifest_sha256,
        *(parts.columns(part) if part else [None] * parts.COLUMNS),
        snapshot.previous_sha256,
        *parts.sealed_columns(snapshot.sealed),
    )


@translating
async def latest(db: Db, repo_id: RepoId) -> Snapshot | None:
    """The newest snapshot, by number."""
    return _maybe(await db.fetchrow(f"{query('snapshots')} order by number desc limit 1", repo_id))


@translating
async def get(db: Db, repo_id: RepoId, number: int) -> Snapshot | None:
    """The snapshot of this number."""
    if not 0 < number < 1 << 31:
        return None
    return _maybe(await db.fetchrow(f"{query('snapshots')} and number = $2", repo_id, number))


@translating
async def at(db: Db, repo_id: RepoId, moment: datetime) -> Snapshot | None:
    """The last snapshot at or before this moment; None before the first. Numbers decide: clocks go back."""
    return _maybe(
        await db.fetchrow(
            f"{query('snapshots')} and taken_at <= $2 order by number desc limit 1",
            repo_id,
            moment,
        )
    )


async def every(db: Db, repo_id: RepoId) -> AsyncIterator[Snapshot]:
    """All snapshots in order of their numbers, read a page at a time."""
    number = 0
    while page := await _page(db, repo_id, number):
        for snapshot in page:
            yield snapshot
        number = page[-1].number


@translating
async def _page(db: Db, repo_id: RepoId, after: int) -> list[Snapshot]:
    rows = await db.fetch(
        f"{query('snapshots')} and number > $2 order by number limit $3", repo_id, after, _PAGE
    )
    return [snapshot(row) for row in rows]


@translating
async def page(db: Db, repo_id: RepoId, before: int | None, limit: int) -> list[Snapshot]:
    """The snapshots below this number, or the newest; newest first."""
    rows = await db.fetch(
        f"{query('snapshots')} and number < $2::bigint order by number desc limit $3",
        repo_id,
        1 << 31 if before is None else before,
        limit,
    )
    return [snapshot(row) for row in rows]


@translating
async def segments(db: Db, repo_id: RepoId, epoch: int, upto: int) -> tuple[Segment, ...]:
    """The runs of the pack log that the epoch's snapshots up to this one added, in log order."""
    rows = await db.fetch(
        """
        select number, segment_entries, segment_bytes, segment_sha256 from snapshot
        where repo_id = $1 and epoch = $2 and number <= $3 and segment_entries is not null
        order by number
        """,
        repo_id,
        epoch,
        upto,
    )
    return tuple(Segment(*row) for row in rows)


@translating
async def stamp_verified(db: Db, repo_id: RepoId, upto: int, at: datetime) -> None:
    """Record that every byte that the snapshots up to this one need was read back and is correct."""
    await db.execute(
        "update snapshot set verified_at = $3 where repo_id = $1 and number <= $2", repo_id, upto, at
    )


def _maybe(row: Any) -> Snapshot | None:
    return None if row is None else snapshot(row)


def snapshot(row: Any) -> Snapshot:
    """A snapshot out of a row of that table and of the part that it was born with."""
    segment = bundle = None
    if row["bundle_key"] is not None:
        segment = Segment(row["number"], row["segment_entries"], row["segment_bytes"], row["segment_sha256"])
        bundle = parts.part_of(row, row["bundle_key"], (segment,))
    return Snapshot(
        number=row["number"],
        taken_at=row["taken_at"],
        reason=Reason(row["reason"]),
        object_format=row["object_format"],
        head=row["head"],
        refs_count=row["refs_count"],
        refs_digest=row["refs_digest"],
        changes_count=row["changes_count"],
        epoch=row["epoch"],
        log_entries=row["log_entries"],
        log_bytes=row["log_bytes"],
        segment=segment,
        bundle=bundle,
        manifest_sha256=row["manifest_sha256"],
        previous_sha256=row["previous_sha256"],
        verified_at=row["verified_at"],
        sealed=parts.sealed_of(row["sealed_manifest_bytes"], row["sealed_manifest_sha256"]),
        dropped_at=row["dropped_at"],
        dropped_why=row["dropped_why"],
        manifest_epoch=row["manifest_epoch"],
    )


def _row(one: Ending) -> dict[str, Any]:
    return {
        "wish": one.sync_request and one.sync_request.isoformat(),
        "seen": one.seen,
        "suspicion": one.suspicion and storable(one.suspicion),
        "claims": [list(update) for update in one.answered.updates],
        "lost": [
            [
                lost.name.hex(),
                lost.old and lost.old.hex(),
                lost.new.hex(),
                lost.by and storable(lost.by),
                lost.at.isoformat(),
                storable(lost.why),
            ]
            for lost in one.answered.lost
        ],
    }


def _ending(row: Mapping[str, Any]) -> Ending:
    sync_request = row["wish"]
    updates = [(int(delivery), int(position)) for delivery, position in row["claims"]]
    return Ending(
        None if sync_request is None else datetime.fromisoformat(sync_request),
        Answered(updates, [_lost(one) for one in row["lost"]]),
        row["suspicion"],
        row["seen"],
    )


def _lost(row: Sequence[Any]) -> Lost:
    name, old, new, by, at, why = row
    return Lost(
        RefName(bytes.fromhex(name)),
        None if old is None else Target(bytes.fromhex(old)),
        Target(bytes.fromhex(new)),
        by,
        datetime.fromisoformat(at),
        why,
    )
