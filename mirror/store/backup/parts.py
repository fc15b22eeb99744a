"""Which bundles the pack log is stored in: intended uploads, live parts, and tombstones of replaced ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mirror.core.errors import Busy
from mirror.core.model import Part, RepoId, Sealed, Segment
from mirror.store.database import Db, query, transaction, translating
from mirror.store.forge_leases import ForgeLease
from mirror.store.leases import Lease, fenced

COLUMNS: Final = 15  # of `columns`


@dataclass(frozen=True, slots=True)
class Intent:
    """A bundle that a run is about to upload, or was when it died."""

    key: str
    owner: str  # of the run's lease; leases.is_over judges it
    at: datetime  # the last heartbeat of its run, by the database's clock


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A part that was replaced, and whose object is still in the vault."""

    key: str
    bytes: int
    index_bytes: int
    replaced_at: datetime
    epoch: int = 1


@translating
async def intend(db: Db, lease: Lease | ForgeLease, repo_id: RepoId, key: str) -> None:
    """Say, before an upload, that it will follow. Recording the bundle takes this back."""
    await db.execute(
        "insert into intent (key, repo_id, owner) values ($1, $2, $3)", key, repo_id, lease.owner
    )


@translating
async def intents(db: Db, repo_id: RepoId) -> list[Intent]:
    """Every intent of this repo, oldest first."""
    rows = await db.fetch(
        "select key, owner, at from intent_heard where repo_id = $1 order by at, key", repo_id
    )
    return [intent(row) for row in rows]


def intent(row: Any) -> Intent:
    """An intent out of a row of that view."""
    return Intent(row["key"], row["owner"], row["at"])


@translating
async def drop_intent(db: Db, repo_id: RepoId, key: str) -> None:
    """Forget an intent whose upload was discarded. Safe to run twice."""
    await db.execute("delete from intent where repo_id = $1 and key = $2", repo_id, key)


@translating
async def live(db: Db, repo_id: RepoId) -> list[Part]:
    """The parts that the pack log is stored in now, in log order, with their inner boundaries."""
    found = []
    for row in await db.fetch(query("live_parts"), repo_id):
        segments: tuple[Segment, ...] = ()
        if row["segment_snapshots"] is not None:
            columns = ("segment_snapshots", "segment_entries", "segment_bytes", "segment_sha256")
            segments = tuple(map(Segment, *(row[column] for column in columns)))
        found.append(part_of(row, row["key"], segments))
    return found


@translating
async def damaged(db: Db, repo_id: RepoId) -> frozenset[str]:
    """The keys of the live parts of this repo that were found damaged."""
    rows = await db.fetch(
        "select key from part where repo_id = $1 and replaced_at is null and damaged_at is not null", repo_id
    )
    return frozenset(row["key"] for row in rows)


@translating
async def last(db: Db, repo_id: RepoId) -> int:
    """The last snapshot that a live part covers; 0: there is none."""
    found: int = await db.fetchval(
        "select coalesce(max(last_snapshot), 0) from part where repo_id = $1 and replaced_at is null", repo_id
    )
    return found


@translating
async def is_known(db: Db, repo_id: RepoId, key: str) -> bool:
    """Whether this is the key of a part that is live, or replaced and not yet deleted."""
    found = await db.fetchval(
        "select true from part where repo_id = $1 and key = $2 and deleted_at is null", repo_id, key
    )
    return found is not None


@translating
async def replace(
    db: Db,
    lease: Lease,
    repo_id: RepoId,
    old: Sequence[Part],
    new: Part,
    at: datetime,
    *,
    proved: bool = True,
) -> None:
    """Make `new` live and `old` tombstones, in one transaction; `new` was read back and verified.

    Not `proved`: only the vault says that it replaced them; they wait until a verification has shown it.
    Safe to run twice. Raises Busy if the lease was lost, or one of `old` is no longer live.
    """
    keys = [part.key for part in old]
    async with transaction(db) as connection:
        await fenced(connection, lease, repo_id)
        if await connection.fetchval("select true from part where key = $1 and replaced_at is null", new.key):
            return
        done = await connection.execute(
            "update part set replaced_at = $3 where repo_id = $1 and key = any($2) and replaced_at is null",
            repo_id,
            keys,
            at,
        )
        if done != f"UPDATE {len(keys)}":
            raise Busy("another run replaced the same parts of this repo; run it again")
        await insert(connection, repo_id, new)
        await connection.execute(
            "update part set read_at = $2, verified_at = $2, unproved = not $3 where key = $1",
            new.key,
            at if proved else None,
            proved,
        )


@translating
async def is_unproved(db: Db, repo_id: RepoId) -> bool:
    """Whether only the vault says of one of its parts that it replaced others; see sql/220_unproved.sql."""
    found: bool = await db.fetchval(
        "select exists (select from part where repo_id = $1 and unproved and deleted_at is null)", repo_id
    )
    return found


@translating
async def tombstones(db: Db, repo_id: RepoId) -> list[Tombstone]:
    """The replaced parts whose objects are still in the vault, in the order in which they were replaced."""
    rows = await db.fetch(
        """
        select key, bytes, index_bytes, replaced_at, epoch from part
        where repo_id = $1 and replaced_at is not null and deleted_at is null
        order by replaced_at, key
        """,
        repo_id,
    )
    return [
        Tombstone(row["key"], row["bytes"], row["index_bytes"], row["replaced_at"], row["epoch"])
        for row in rows
    ]


@translating
async def bury(db: Db, repo_id: RepoId, key: str) -> None:
    """The object of this tombstone was deleted; its snapshot still names it. Safe to run twice."""
    await db.execute(
        """
        update part set deleted_at = replaced_at
        where repo_id = $1 and key = $2 and replaced_at is not null and deleted_at is null
        """,
        repo_id,
        key,
    )


@translating
async def stamp_verified(db: Db, repo_id: RepoId, keys: Sequence[str], at: datetime) -> None:
    """Record that every byte of these parts was read back and is correct."""
    await db.execute(
        """
        update part set verified_at = $3, read_at = $3, damaged_at = null, unproved = false
        where repo_id = $1 and key = any($2)
        """,
        repo_id,
        keys,
        at,
    )


async def insert(connection: Db, repo_id: RepoId, part: Part) -> None:
    """Make a part live and delete the intent to upload it, within a transaction of this package."""
    await connection.execute(
        """
        with intended as (delete from intent where repo_id = $1 and key = $2)
        insert into part (
          repo_id, key, epoch, first_snapshot, last_snapshot, bytes, sha256, header_bytes, entries,
          cuttable, complete, index_bytes, index_sha256,
          sealed_bytes, sealed_sha256, sealed_index_bytes, sealed_index_sha256
        ) values ($1, $2, $17, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        """,
        repo_id,
        *columns(part),
        part.epoch,
    )


def columns(part: Part) -> Sequence[object]:
    """A part's row without its repo and epoch: its key, then as `insert` has them."""
    return (
        part.key,
        part.first,
        part.last,
        part.bytes,
        part.sha256,
        part.header_bytes,
        part.entries,
        bool(part.segments),
        part.complete,
        part.index_bytes,
        part.index_sha256 or None,
        *sealed_columns(part.sealed),
        *sealed_columns(part.sealed_index),
    )


def sealed_columns(sealed: Sealed | None) -> tuple[int | None, str | None]:
    """What is stored where an object is sealed, as its two columns."""
    return (sealed.bytes, sealed.sha256) if sealed else (None, None)


def sealed_of(bytes: int | None, sha256: str | None) -> Sealed | None:
    """The same out of its two columns."""
    return None if bytes is None or sha256 is None else Sealed(bytes, sha256)


def part_of(row: Any, key: str, segments: tuple[Segment, ...]) -> Part:
    """A part from the columns of its row."""
    return Part(
        key,
        row["epoch"],
        row["first_snapshot"],
        row["last_snapshot"],
        row["bytes"],
        row["sha256"],
        row["header_bytes"],
        row["entries"],
        segments if row["cuttable"] else (),
        row["complete"],
        row["index_bytes"],
        row["index_sha256"] or "",
        sealed_of(row["sealed_bytes"], row["sealed_sha256"]),
        sealed_of(row["sealed_index_bytes"], row["sealed_index_sha256"]),
    )
