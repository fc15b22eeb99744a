"""Damage that may be healed: which repos have some, what else holds the bytes, what replaced them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from mirror.core.errors import Busy
from mirror.core.model import Part, RepoId, Sealed
from mirror.store.backup import parts
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.leases import Lease, fenced


@dataclass(frozen=True, slots=True)
class Aside:
    """A damaged part that was replaced, and is kept until its grace period is over."""

    key: str
    damaged_at: datetime
    replaced_at: datetime


@translating
async def due(db: Db, now: datetime, again: timedelta, limit: int) -> list[RepoId]:
    """Claim damaged repos that nobody has tried to heal for `again`, the longest damaged first."""
    rows = await db.fetch(
        """
        update repo set heal_at = $1::timestamptz + $2::interval where id in (
          select id from repo where damaged_at is not null and (heal_at is null or heal_at <= $1)
          order by damaged_at limit $3 for update skip locked
        )
        returning id
        """,
        now,
        again,
        limit,
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def replaced(db: Db, repo_id: RepoId, bad: Part) -> list[Part]:
    """Replaced parts within the range of this one, whose objects are still in the vault; in log order."""
    rows = await db.fetch(
        """
        select * from part
        where repo_id = $1 and replaced_at is not null and deleted_at is null and damaged_at is null
          and epoch = $2 and first_snapshot >= $3 and last_snapshot <= $4
        order by first_snapshot, last_snapshot desc
        """,
        *(repo_id, bad.epoch, bad.first, bad.last),
    )
    return [parts.part_of(row, row["key"], ()) for row in rows]


@translating
async def index_made(db: Db, key: str, sealed: Sealed | None) -> None:
    """The `.idx` of this part was written again; where it is sealed, its stored bytes are new ones."""
    await db.execute(
        "update part set sealed_index_bytes = $2, sealed_index_sha256 = $3 where key = $1",
        key,
        *parts.sealed_columns(sealed),
    )


@translating
async def manifest_made(db: Db, repo_id: RepoId, number: int, sealed: Sealed) -> None:
    """A sealed manifest was written again: its stored bytes are new ones."""
    await db.execute(
        """
        update snapshot set sealed_manifest_bytes = $3, sealed_manifest_sha256 = $4
        where repo_id = $1 and number = $2
        """,
        repo_id,
        number,
        *parts.sealed_columns(sealed),
    )


@translating
async def revive(
    db: Db, lease: Lease, repo_id: RepoId, bad: Part, cover: Sequence[Part], at: datetime
) -> None:
    """Make these replaced parts live again instead of the damaged one that had replaced them.

    They were read back just now. One transaction, fenced by the lease. Raises Busy if another run was faster.
    """
    keys = [part.key for part in cover]
    async with transaction(db) as connection:
        await fenced(connection, lease, repo_id)
        done = await connection.execute(
            "update part set replaced_at = $2, damaged_at = $2 where key = $1 and replaced_at is null",
            bad.key,
            at,
        )
        more = await connection.execute(
            """
            update part set replaced_at = null, read_at = $2, verified_at = $2
            where key = any($1) and replaced_at is not null and deleted_at is null
            """,
            keys,
            at,
        )
        if (done, more) != ("UPDATE 1", f"UPDATE {len(keys)}"):
            raise Busy("another run changed the parts of this repo meanwhile; it is tried again")


@translating
async def put_aside(db: Db, key: str, at: datetime) -> None:
    """Record that a part is damaged; where it was replaced, it is only kept aside."""
    await db.execute("update part set damaged_at = $2 where key = $1", key, at)


@translating
async def aside(db: Db, repo_id: RepoId) -> list[Aside]:
    """The damaged parts of a repo that were replaced and are still in the vault."""
    rows = await db.fetch(
        """
        select key, damaged_at, replaced_at from part
        where repo_id = $1 and damaged_at is not null and replaced_at is not null and deleted_at is null
        order by replaced_at, key
        """,
        repo_id,
    )
    return [Aside(row["key"], row["damaged_at"], row["replaced_at"]) for row in rows]


@translating
async def tell(db: Db, repo_id: RepoId, message: str, at: datetime, told_key: str) -> None:
    """Notify the repo's team, once for each key."""
    await db.execute(
        """
        insert into notice (team_id, repo_id, kind, message, at, told_key)
        select team_id, id, 'damage', $2, $3, $4 from repo where id = $1
        on conflict (told_key) do update set message = excluded.message
        """,
        repo_id,
        storable(message),
        at,
        storable(told_key),
    )


@translating
async def drill_soon(db: Db, repo_id: RepoId, at: datetime) -> None:
    """Let the repo be drilled soon: what was healed is proved like everything else."""
    await db.execute("update repo set drill_at = $2 where id = $1", repo_id, at)
