"""Object Lock: what stores were found to enforce, and how far the locks of what is kept were extended."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from mirror.core.locks import Locking, LockProof
from mirror.core.model import RepoId
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Proved:
    """What the newest attempt to break the locks of a store showed."""

    locking: str  # as VAULT_LOCK has it
    at: datetime
    failed: Sequence[str]  # empty: the store enforces Object Lock
    hazards: Sequence[str]


@dataclass(frozen=True, slots=True)
class Pass:
    """Objects whose locks are due to be extended, or that are due to be looked at."""

    prefix: str
    locked_until: datetime | None  # of all of them, at least; None: of none
    goal: datetime | None  # of the pass under way; None: none is
    reached: str | None  # the last key of it


@dataclass(frozen=True, slots=True)
class Extended:
    """How far the locks of a whole store reach."""

    until: datetime | None  # every kept object is locked until then at least; None: of none is that known
    open: int  # repos whose objects are not all locked yet


@translating
async def record(db: Db, place: str, locking: Locking, proof: LockProof, at: datetime) -> None:
    """Record what an attempt to break the locks of a store showed, instead of the one before."""
    hazards = [f"{one.what}; {one.advice}" for one in proof.hazards]
    await db.execute(
        """
        insert into lock_proof (place, locking, proved_at, failed, hazards) values ($1, $2, $3, $4, $5)
        on conflict (place) do update set locking = excluded.locking, proved_at = excluded.proved_at,
          failed = excluded.failed, hazards = excluded.hazards
        """,
        *(place, str(locking), at, list(proof.failed), hazards),
    )


@translating
async def proved(db: Db, place: str) -> Proved | None:
    """The newest proof of a store. None: there was none."""
    row = await db.fetchrow("select * from lock_proof where place = $1", place)
    return row and Proved(row["locking"], row["proved_at"], row["failed"], row["hazards"])


@translating
async def due(
    db: Db, place: str, others: Sequence[str], extend_before: datetime, look_before: datetime
) -> Pass | None:
    """The objects whose locks end first, if before then or never locked, or not looked at since then."""
    row = await db.fetchrow(
        """
        select prefixes.prefix, locked_until, goal, reached
        from (select id::text || '/' as prefix from repo union all select unnest($2::text[])) prefixes
        left join lock_pass on lock_pass.place = $1 and lock_pass.prefix = prefixes.prefix
        where locked_until is null or locked_until < $3 or looked_at is null or looked_at < $4
        order by locked_until nulls first, looked_at nulls first, prefixes.prefix limit 1
        """,
        *(place, others, extend_before, look_before),
    )
    return row and Pass(row["prefix"], row["locked_until"], row["goal"], row["reached"])


@translating
async def looked(db: Db, place: str, prefix: str, at: datetime) -> None:
    """Record that hidden and overwritten objects were looked for."""
    await db.execute(
        """
        insert into lock_pass (place, prefix, looked_at) values ($1, $2, $3)
        on conflict (place, prefix) do update set looked_at = excluded.looked_at
        """,
        *(place, prefix, at),
    )


@translating
async def look_again(db: Db, place: str) -> None:
    """Have hidden and overwritten objects looked for in a store as soon as possible."""
    await db.execute("update lock_pass set looked_at = null where place = $1", place)


@translating
async def reach(db: Db, place: str, prefix: str, goal: datetime, key: str) -> None:
    """Record that the locks of all objects up to this key end at `goal` or later."""
    await db.execute(
        """
        insert into lock_pass (place, prefix, goal, reached) values ($1, $2, $3, $4)
        on conflict (place, prefix) do update set goal = excluded.goal, reached = excluded.reached
        """,
        *(place, prefix, goal, key),
    )


@translating
async def finish(db: Db, place: str, prefix: str, goal: datetime) -> None:
    """Record that the locks of all objects end at `goal` or later."""
    await db.execute(
        """
        insert into lock_pass (place, prefix, locked_until) values ($1, $2, $3)
        on conflict (place, prefix) do update set locked_until = excluded.locked_until,
          goal = null, reached = null
        """,
        *(place, prefix, goal),
    )


@translating
async def extended(db: Db, place: str) -> Extended:
    """How far the locks of a store reach."""
    row = await db.fetchrow(
        """
        select min(locked_until) as until, count(*) filter (where locked_until is null) as open
        from repo left join lock_pass on lock_pass.place = $1 and lock_pass.prefix = repo.id::text || '/'
        """,
        place,
    )
    return Extended(row["until"], row["open"])


@translating
async def waiting(db: Db, period: timedelta) -> tuple[int, int, datetime | None]:
    """Replaced parts that are still stored, their bytes, and when the last lock ends at the latest."""
    row = await db.fetchrow(
        """
        select count(*) as parts, coalesce(sum(bytes + index_bytes), 0)::bigint as bytes,
          max(replaced_at) + $1::interval as until
        from part where replaced_at is not null
        """,
        period,
    )
    return row["parts"], row["bytes"], row["until"]


@translating
async def held(db: Db, place: str) -> dict[RepoId, datetime | None]:
    """The repos with objects on hold in a store, and up to when they were stored; None: not all of them."""
    rows = await db.fetch("select repo_id, held_to from store_hold where place = $1", place)
    return {RepoId(UUID(bytes=row["repo_id"].bytes)): row["held_to"] for row in rows}


@translating
async def hold(db: Db, place: str, repo_id: RepoId, held_to: datetime | None) -> None:
    """Record up to when a repo's objects in a store are held; None: it begins."""
    await db.execute(
        """
        insert into store_hold (place, repo_id, held_to) values ($1, $2, $3)
        on conflict (place, repo_id) do update set held_to = excluded.held_to
        """,
        *(place, repo_id, held_to),
    )


@translating
async def lift(db: Db, place: str, repo_id: RepoId) -> None:
    """Record that no object of a repo is on hold in a store."""
    await db.execute("delete from store_hold where place = $1 and repo_id = $2", place, repo_id)
