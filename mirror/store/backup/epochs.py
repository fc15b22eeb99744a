"""The epochs of pack logs: what began with each, and which snapshots were dropped."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from mirror.core.errors import Busy
from mirror.core.formats.epochs import Record
from mirror.core.model import Part, RepoId, Segment
from mirror.store.backup import parts, snapshots
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.leases import Lease, fenced

Still = Callable[[Db], Awaitable[None]]  # raises, within the transaction, where something may no longer go


@dataclass(frozen=True, slots=True)
class Epoch:
    """A rewrite of a repo's pack log, as people see it."""

    number: int
    last: int  # the last snapshot that it packed anew
    began_at: datetime
    by: str
    why: str
    dropped: int  # snapshots
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Log:
    """A repo's pack log up to a snapshot, as it was at one moment."""

    epoch: int
    dropped_at: datetime | None  # when the snapshot was dropped; None: it is kept
    dropped_why: str | None
    live: tuple[Part, ...]  # of this epoch
    segments: tuple[Segment, ...]


@translating
async def log(db: asyncpg.Pool, repo_id: RepoId, number: int, upto: int) -> Log | None:
    """The log up to the snapshot `upto`, for reading `number`; None: there is no such snapshot.

    All of one moment: an epoch that begins meanwhile changes the parts and the snapshots together.
    """
    async with (
        db.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        row = await connection.fetchrow(
            "select epoch, dropped_at, dropped_why from snapshot where repo_id = $1 and number = $2",
            *(repo_id, number),
        )
        if row is None:
            return None
        live = await parts.live(connection, repo_id)
        segments = await snapshots.segments(connection, repo_id, row["epoch"], upto)
    return Log(
        row["epoch"],
        row["dropped_at"],
        row["dropped_why"],
        tuple(part for part in live if part.epoch == row["epoch"]),
        segments,
    )


@translating
async def begin(
    db: Db,
    lease: Lease,
    record: Record,
    record_sha256: str,
    drop: Collection[int],
    old: Sequence[Part],
    new: Part,
    still: Still,
) -> None:
    """Begin an epoch: `new` is live, `old` are tombstones, all snapshots are of it, and these are dropped.

    One transaction, fenced by the lease; `new` was read back, and the record is in the vault. Safe to run
    twice. Raises Busy if the lease was lost, or the parts changed, or what `still` raises.
    """
    async with transaction(db) as connection:
        await fenced(connection, lease, record.repo)
        if await connection.fetchval("select true from part where key = $1 and replaced_at is null", new.key):
            return
        await still(connection)
        gone = await connection.execute(
            "update part set replaced_at = $3 where repo_id = $1 and key = any($2) and replaced_at is null",
            record.repo,
            [part.key for part in old],
            record.at,
        )
        if gone != f"UPDATE {len(old)}":
            raise Busy("another run replaced the same parts of this repo; run it again")
        await _move(connection, record, drop)
        await parts.insert(connection, record.repo, new)
        await connection.execute(
            "update part set read_at = $2, verified_at = $2 where key = $1", new.key, record.at
        )
        await connection.execute(
            """
            insert into epoch (
              repo_id, epoch, last_snapshot, began_at, by_whom, why, dropped, bytes_before, bytes_after,
              record_sha256
            ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            """,
            record.repo,
            record.epoch,
            record.last,
            record.at,
            storable(record.by),
            storable(record.why),
            len(drop),
            sum(part.bytes + part.index_bytes for part in old),
            new.bytes + new.index_bytes,
            record_sha256,
        )


@translating
async def adopt(db: Db, lease: Lease, record: Record, record_sha256: str | None) -> None:
    """Take an epoch over from the vault after the database was lost: parts of earlier ones no longer count.

    `record_sha256` None: its record is missing; then nothing is known to be dropped. Safe to run twice.
    """
    async with transaction(db) as connection:
        await fenced(connection, lease, record.repo)
        await connection.execute(
            "update part set replaced_at = $3 where repo_id = $1 and epoch < $2 and replaced_at is null",
            record.repo,
            record.epoch,
            record.at,
        )
        await _move(connection, record, ())
        for run in record.dropped:
            await connection.execute(
                """
                update snapshot set dropped_at = $4, dropped_why = $5
                where repo_id = $1 and number between $2 and $3
                """,
                *(record.repo, run.first, run.last, run.at, storable(run.why)),
            )
        if record_sha256 is not None:
            await connection.execute(
                """
                insert into epoch (
                  repo_id, epoch, last_snapshot, began_at, by_whom, why, dropped, bytes_before, bytes_after,
                  record_sha256
                ) values ($1, $2, $3, $4, $5, $6, $7, 0, 0, $8) on conflict do nothing
                """,
                record.repo,
                record.epoch,
                record.last,
                record.at,
                storable(record.by),
                storable(record.why),
                sum(len(run.numbers) for run in record.dropped if run.at == record.at),
                record_sha256,
            )


async def _move(connection: Db, record: Record, drop: Collection[int]) -> None:
    """Every snapshot up to the record's last is of its epoch; `drop` go."""
    await connection.execute(
        """
        update snapshot set epoch = $2, manifest_epoch = coalesce(manifest_epoch, epoch)
        where repo_id = $1 and number <= $3 and epoch < $2
        """,
        *(record.repo, record.epoch, record.last),
    )
    if drop:
        await connection.execute(
            """
            update snapshot set dropped_at = $3, dropped_why = $4
            where repo_id = $1 and number = any($2) and dropped_at is null
            """,
            *(record.repo, list(drop), record.at, storable(f"{record.by}: {record.why}")),
        )


@translating
async def dropped(db: Db, repo_id: RepoId) -> list[tuple[int, datetime, str]]:
    """The snapshots that were dropped: number, when, and why, in order."""
    rows = await db.fetch(
        """
        select number, dropped_at, dropped_why from snapshot
        where repo_id = $1 and dropped_at is not null order by number
        """,
        repo_id,
    )
    return [(row["number"], row["dropped_at"], row["dropped_why"]) for row in rows]


@translating
async def kept_near(db: Db, repo_id: RepoId, number: int) -> tuple[int | None, int | None]:
    """The nearest kept snapshots before and after this number."""
    row = await db.fetchrow(
        """
        select
          max(number) filter (where number < $2) as before, min(number) filter (where number > $2) as after
        from snapshot
        where repo_id = $1 and dropped_at is null
        """,
        repo_id,
        number,
    )
    return row["before"], row["after"]


@translating
async def is_unsettled(db: Db, repo_id: RepoId) -> bool:
    """Whether a run announced a manifest that is not recorded, and might still store it.

    Such a run has lost its lease, or its manifest would have been recorded since. Its bundle counts on what
    the log had then. The next snapshot takes the manifest's place.
    """
    found: bool = await db.fetchval(
        """
        select exists (
          select from lease where repo_id = $1 and pending is not null and not exists (
            select from snapshot where repo_id = $1 and manifest_sha256 = lease.pending ->> 'manifest'
          )
        )
        """,
        repo_id,
    )
    return found


@translating
async def all(db: Db, repo_id: RepoId) -> list[Epoch]:
    """The epochs of a repo after its first, newest first."""
    rows = await db.fetch("select * from epoch where repo_id = $1 order by epoch desc", repo_id)
    return [
        Epoch(
            row["epoch"],
            row["last_snapshot"],
            row["began_at"],
            row["by_whom"],
            row["why"],
            row["dropped"],
            row["bytes_before"],
            row["bytes_after"],
        )
        for row in rows
    ]


@translating
async def records(db: Db, repo_id: RepoId) -> dict[int, str]:
    """The SHA-256 of the records of a repo's epochs that took effect, by number."""
    rows = await db.fetch("select epoch, record_sha256 from epoch where repo_id = $1", repo_id)
    return {row["epoch"]: row["record_sha256"] for row in rows}


@translating
async def current(db: Db, ids: Collection[RepoId]) -> dict[RepoId, int]:
    """The epochs of those of these repos whose log was ever packed anew."""
    rows = await db.fetch(
        "select repo_id, max(epoch) as epoch from epoch where repo_id = any($1) group by repo_id", list(ids)
    )
    return {RepoId(UUID(bytes=row["repo_id"].bytes)): row["epoch"] for row in rows}
