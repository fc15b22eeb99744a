"""Repos whose backups somebody let go: deleting their rows, and what is left of them in the vault."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.core.model import RefName, Repo, RepoId, Target
from mirror.store.database import Db, transaction, translating
from mirror.store.discovery.connections import ConnectionId
from mirror.store.leases import Lease, fenced
from mirror.store.people.pending import PendingId
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import keeping

# Tables with a repo_id whose rows stay: who did what, what was asked for, and that the repo is gone.
STAY: Final = frozenset({"audit", "pending_action", "erased_repo"})


@dataclass(frozen=True, slots=True)
class Erased:
    """A repo that is gone."""

    repo_id: RepoId
    team_id: TeamId | None  # None: the team is gone, too
    action_id: PendingId | None
    name: str  # empty: only the vault tells of it
    snapshots: int
    bytes: int  # that its live parts had
    erased_at: datetime
    looked_at: datetime | None
    objects_left: int | None  # in the vault at that look; None: not known
    locked_until: datetime | None
    gone_at: datetime | None  # when the vault had none left


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of a repo."""

    snapshots: int
    bytes: int  # of its live parts, with their indexes


@translating
async def size(db: Db, repo_id: RepoId) -> Size:
    """How much there is of this repo."""
    row = await db.fetchrow(
        """
        select
          (select count(*) from snapshot where repo_id = $1)::int as snapshots,
          (select coalesce(sum(bytes + index_bytes), 0)::bigint from part
           where repo_id = $1 and replaced_at is null) as bytes
        """,
        repo_id,
    )
    return Size(row["snapshots"], row["bytes"])


@translating
async def is_read(db: Db, repo_id: RepoId) -> bool:
    """Whether somebody restores, drills or exports it right now."""
    found: bool = await db.fetchval(
        """
        select exists (
          select from job where repo_id = $1 and state = 'running' and kind <> 'sync'
        )
        """,
        repo_id,
    )
    return found


@translating
async def export_keys(db: Db, repo_id: RepoId) -> list[str]:
    """The keys of bundles to download that were made of this repo, as its jobs tell."""
    rows = await db.fetch(
        "select result->'export'->>'key' from job where repo_id = $1 and result ? 'export'", repo_id
    )
    return [row[0] for row in rows if row[0]]


@translating
async def remove(
    db: Db, lease: Lease, repo: Repo, action_id: PendingId | None, was: Size, at: datetime
) -> None:
    """Delete every row about the repo and record that it is gone, in one transaction. Raises Busy, Held.

    The tables are those that have a `repo_id`, whichever they are, those that refer to others first.
    """
    async with transaction(db) as connection:
        await fenced(connection, lease, repo.id)
        await keeping.check_not_held(connection, repo.id)
        await connection.execute(
            """
            insert into erased_repo (repo_id, team_id, action_id, name, forge, host, repository_id,
              snapshots, bytes, erased_at)
            select id, team_id, $2, $3, forge, host, repository_id, $4, $5, $6 from repo where id = $1
            on conflict do nothing
            """,
            repo.id,
            action_id,
            repo.name,
            was.snapshots,
            was.bytes,
            at,
        )
        await connection.execute(
            "delete from ref_stay using ref where ref.id = ref_stay.ref_id and ref.repo_id = $1", repo.id
        )
        for table in await tables(connection):
            await connection.execute(f"delete from {table} where repo_id = $1", repo.id)
        await connection.execute("delete from repo where id = $1", repo.id)


@translating
async def tables(db: Db, column: str = "repo_id") -> list[str]:
    """The tables with rows of single repos (`team_id`: of teams), those that refer to others first."""
    rows = await db.fetch(
        """
        select relname as name from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        join pg_attribute on attrelid = pg_class.oid and attname = $1 and not attisdropped
        where nspname = 'public' and relkind = 'r' and not relispartition order by relname
        """,
        column,
    )
    names = [row["name"] for row in rows if row["name"] not in STAY]
    edges = await db.fetch(
        """
        select distinct one.relname as one, other.relname as other from pg_constraint
        join pg_class as one on one.oid = conrelid join pg_class as other on other.oid = confrelid
        where contype = 'f' and one.relname <> other.relname
        """
    )
    needs = {(row["one"], row["other"]) for row in edges if row["one"] in names and row["other"] in names}
    found = list[str]()
    while names:
        free = [name for name in names if not any(other == name for _, other in needs)]
        assert free, "tables refer to each other in a circle"
        found += free
        names = [name for name in names if name not in free]
        needs = {(one, other) for one, other in needs if one not in free}
    return found


@translating
async def rows(db: Db, repo_id: RepoId) -> dict[str, int]:
    """How many rows each table has about this repo; none of them should have any once it is gone."""
    found = dict[str, int]()
    for table in [*await tables(db), "repo"]:
        column = "id" if table == "repo" else "repo_id"
        found[table] = await db.fetchval(f"select count(*) from {table} where {column} = $1", repo_id)
    return found


@translating
async def snapshots_at(db: Db, repo_id: RepoId, targets: Collection[Target]) -> list[int]:
    """The snapshots that are kept and have a ref at one of these targets, in order.

    With those whose moments begin from such a snapshot's refs, or lead there by their own moves.
    """
    rows = await db.fetch(
        """
        with at as (
          select snapshot.number from ref join ref_stay on ref_stay.ref_id = ref.id
          join snapshot on snapshot.repo_id = $1 and snapshot.number >= first_snapshot
            and (last_snapshot is null or snapshot.number <= last_snapshot)
          where ref.repo_id = $1 and target = any($2::bytea[])
          union
          select snapshot from ref_change where repo_id = $1 and new = any($2::bytea[])
        )
        select number from snapshot
        where repo_id = $1 and dropped_at is null and (
          number in (select number from at)
          or (
            number - 1 in (select number from at)
            and exists (select from moment where repo_id = $1 and moment.snapshot = number)
          )
        )
        order by number
        """,
        repo_id,
        list(targets),
    )
    return [row[0] for row in rows]


@translating
async def refs_at(db: Db, repo_id: RepoId, targets: Collection[Target]) -> list[RefName]:
    """The refs that ever were at one of these targets, in order."""
    rows = await db.fetch(
        """
        select distinct name from ref join ref_stay on ref_stay.ref_id = ref.id
        where ref.repo_id = $1 and target = any($2::bytea[]) order by name
        """,
        repo_id,
        list(targets),
    )
    return [RefName(row[0]) for row in rows]


@translating
async def find(db: Db, repo_id: RepoId) -> Erased | None:
    """The repo of this id that is gone."""
    row = await db.fetchrow("select * from erased_repo where repo_id = $1", repo_id)
    return None if row is None else _erased(row)


@translating
async def of_team(db: Db, team_id: TeamId, limit: int = 100) -> list[Erased]:
    """The team's, the newest first."""
    rows = await db.fetch(
        "select * from erased_repo where team_id = $1 order by erased_at desc limit $2", team_id, limit
    )
    return [_erased(row) for row in rows]


@translating
async def by_name(db: Db, team_id: TeamId | None, name: str) -> list[Erased]:
    """Those that had this name, of a team or of all, the newest first."""
    rows = await db.fetch(
        """
        select * from erased_repo where name = $2 and ($1::uuid is null or team_id = $1)
        order by erased_at desc
        """,
        team_id,
        name,
    )
    return [_erased(row) for row in rows]


@translating
async def among(db: Db, ids: Collection[RepoId]) -> set[RepoId]:
    """Which of these are gone."""
    rows = await db.fetch("select repo_id from erased_repo where repo_id = any($1::uuid[])", list(ids))
    return {RepoId(UUID(bytes=row[0].bytes)) for row in rows}


@translating
async def to_look(db: Db, again_since: datetime, looked_before: datetime) -> list[Erased]:
    """Those of which the vault may still have something, or that went since `again_since`.

    A run that was killed or stopped responding may store an object of one that is gone.
    """
    rows = await db.fetch(
        """
        select * from erased_repo
        where (gone_at is null or erased_at > $1) and (looked_at is null or looked_at < $2)
        order by erased_at
        """,
        again_since,
        looked_before,
    )
    return [_erased(row) for row in rows]


@translating
async def looked(db: Db, repo_id: RepoId, left: int, locked_until: datetime | None, at: datetime) -> bool:
    """Record what the vault still has of it. True: from now on nothing, for the first time."""
    row = await db.fetchrow(
        """
        update erased_repo as now set
          looked_at = $4, objects_left = $2, locked_until = $3,
          gone_at = case when $2 = 0 then coalesce(now.gone_at, $4) end
        from (select gone_at from erased_repo where repo_id = $1 for update) as was
        where now.repo_id = $1 returning was.gone_at is null and now.gone_at is not null
        """,
        repo_id,
        left,
        locked_until,
        at,
    )
    return bool(row and row[0])


@translating
async def recover(db: Db, told: Mapping[str, Any], repo_id: RepoId, at: datetime) -> None:
    """Record a repo that the vault says is gone. Safe to run twice."""
    await db.execute(
        """
        insert into erased_repo (repo_id, team_id, name, forge, snapshots, bytes, erased_at)
        values ($1, (select id from team where id = $2), '', 'generic', $3, $4, $5) on conflict do nothing
        """,
        repo_id,
        told["team"],
        told["snapshots"],
        told["bytes"],
        at,
    )


@translating
async def forgotten(db: Db, connection_id: ConnectionId) -> set[str]:
    """The host's numbers of repositories that the team let go: no rule chooses them again; a person can."""
    rows = await db.fetch(
        """
        select erased_repo.repository_id from erased_repo
        join connection using (team_id, forge, host)
        where connection.id = $1 and erased_repo.repository_id is not null
        """,
        connection_id,
    )
    return {row[0] for row in rows}


def _erased(row: Any) -> Erased:
    team_id, action_id = row["team_id"], row["action_id"]
    return Erased(
        RepoId(UUID(bytes=row["repo_id"].bytes)),
        None if team_id is None else TeamId(UUID(bytes=team_id.bytes)),
        None if action_id is None else PendingId(UUID(bytes=action_id.bytes)),
        row["name"],
        row["snapshots"],
        row["bytes"],
        row["erased_at"],
        row["looked_at"],
        row["objects_left"],
        row["locked_until"],
        row["gone_at"],
    )
