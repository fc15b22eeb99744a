"""Sealing what lies plain: which repos are due, what was sealed, what is still there unencrypted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from mirror.core.model import RepoId, Sealed
from mirror.store.backup.parts import sealed_columns
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.leases import Lease, fenced
from mirror.store.people.teams import TeamId

CLAIMED: Final = timedelta(minutes=15)  # in which no other worker takes the same repo


@dataclass(frozen=True, slots=True)
class Grave:
    """A plain record that lies sealed in the vault as well."""

    key: str
    bytes: int
    replaced_at: datetime


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A manifest, note, description or epoch's record that is in the vault in both forms."""

    key: str  # of the plain one
    bytes: int  # likewise
    number: int | None  # of its snapshot, for a manifest; None: it is none
    sealed: Sealed


@dataclass(frozen=True, slots=True)
class Left:
    """What of a repo lay plain when it was last looked at."""

    objects: int  # to be sealed
    bytes: int
    kept_objects: int  # sealed or replaced, and not deleted yet
    kept_bytes: int
    kept_until: datetime | None  # when the last of these can be deleted; None: there are none
    kept_held: bool  # a legal hold in a store keeps some, without an end


@dataclass(frozen=True, slots=True)
class Progress:
    """What of a team's repos lies plain, as they were last looked at."""

    left: Left
    unlooked: int  # repos that were not looked at yet
    problem: str | None  # why some object could not be sealed; None: nothing went wrong


@translating
async def register(db: Db, now: datetime) -> None:
    """Know the repos of every team that seals, and forget those of the others. Safe to run twice.

    One that was looked at before its team switched sealing on again is due at once.
    """
    await db.execute(
        """
        with gone as (
          delete from reseal using repo join team on team.id = repo.team_id
          where reseal.repo_id = repo.id and sealed_since is null
        )
        insert into reseal as mine (repo_id, since, due_at)
        select repo.id, sealed_since, $1 from repo join team on team.id = repo.team_id
        where sealed_since is not null
        on conflict (repo_id) do update set since = excluded.since, due_at = $1, looked_at = null
        where mine.since <> excluded.since
        """,
        now,
    )


@translating
async def claim(db: Db, now: datetime) -> tuple[RepoId, datetime] | None:
    """A repo that is due, and since when its team seals; nobody else gets it for a while. None: none is.

    One whose team has stopped sealing since `register` is left alone: nothing of it would be sealed.
    """
    row = await db.fetchrow(
        """
        update reseal set due_at = $1::timestamptz + $2::interval where repo_id = (
          select repo_id from reseal where due_at <= $1 and exists (
            select from repo join team on team.id = repo.team_id
            where repo.id = repo_id and sealed_since is not null
          )
          order by due_at, repo_id limit 1
          for update skip locked
        )
        returning repo_id, since
        """,
        *(now, CLAIMED),
    )
    return (RepoId(UUID(bytes=row["repo_id"].bytes)), row["since"]) if row else None


@translating
async def looked(
    db: Db, repo_id: RepoId, found: Left, problem: str | None, at: datetime, due_at: datetime
) -> None:
    """What was found of a repo, and when it is looked at next. Safe to run twice."""
    await db.execute(
        """
        update reseal set looked_at = $2, objects = $3, bytes = $4, kept_objects = $5, kept_bytes = $6,
          kept_until = $7, kept_held = $8, problem = $9, due_at = $10
        where repo_id = $1
        """,
        *(repo_id, at, found.objects, found.bytes, found.kept_objects, found.kept_bytes),
        *(found.kept_until, found.kept_held, problem and storable(problem), due_at),
    )


@translating
async def later(db: Db, repo_id: RepoId, problem: str | None, due_at: datetime) -> None:
    """Nothing is known anew of a repo; try again then. `problem`: None leaves the one before."""
    await db.execute(
        "update reseal set due_at = $3, problem = coalesce($2, problem) where repo_id = $1",
        *(repo_id, problem and storable(problem), due_at),
    )


@translating
async def record(db: Db, lease: Lease, repo_id: RepoId, found: Sequence[SealedRecord], at: datetime) -> None:
    """These lie sealed in the vault, read back: from here on they count, and the plain ones may go.

    One transaction, fenced by the lease. Safe to run twice. Raises Busy if the lease was lost.
    """
    async with transaction(db) as connection:
        await fenced(connection, lease, repo_id)
        for one in found:
            if one.number is not None:
                await connection.execute(
                    """
                    update snapshot set sealed_manifest_bytes = $3, sealed_manifest_sha256 = $4
                    where repo_id = $1 and number = $2
                    """,
                    *(repo_id, one.number, *sealed_columns(one.sealed)),
                )
            else:
                await connection.execute(
                    """
                    update note set sealed_bytes = $3, sealed_sha256 = $4
                    where repo_id = $1 and key = $2 and body is null
                    """,
                    *(repo_id, one.key, *sealed_columns(one.sealed)),
                )
            await connection.execute(
                """
                insert into plain_tombstone (key, repo_id, bytes, replaced_at) values ($1, $2, $3, $4)
                on conflict (key) do nothing
                """,
                *(one.key, repo_id, one.bytes, at),
            )


@translating
async def note_sums(db: Db, repo_id: RepoId) -> dict[str, str]:
    """The SHA-256 of what the repo's notes say, by their plain keys; those that are in the vault."""
    rows = await db.fetch("select key, sha256 from note where repo_id = $1 and body is null", repo_id)
    return {row["key"]: row["sha256"] for row in rows}


@translating
async def manifest_sums(db: Db, repo_id: RepoId, numbers: Sequence[int]) -> dict[int, str]:
    """The SHA-256 of these manifests, by the numbers of their snapshots; of those that are recorded."""
    rows = await db.fetch(
        "select number, manifest_sha256 from snapshot where repo_id = $1 and number = any($2)",
        *(repo_id, list(numbers)),
    )
    return {row["number"]: row["manifest_sha256"] for row in rows}


@translating
async def graves(db: Db, repo_id: RepoId) -> list[Grave]:
    """The repo's plain records that are sealed by now and not deleted yet, the oldest first."""
    rows = await db.fetch(
        "select key, bytes, replaced_at from plain_tombstone where repo_id = $1 order by replaced_at, key",
        repo_id,
    )
    return [Grave(row["key"], row["bytes"], row["replaced_at"]) for row in rows]


@translating
async def bury(db: Db, key: str) -> None:
    """The plain object was deleted. Safe to run twice."""
    await db.execute("delete from plain_tombstone where key = $1", key)


@translating
async def progress(db: Db, team_id: TeamId) -> Progress:
    """What of a team's repos lies plain, as they were last looked at."""
    row = await db.fetchrow(
        """
        select coalesce(sum(reseal.objects), 0)::bigint as objects,
          coalesce(sum(reseal.bytes), 0)::bigint as bytes,
          coalesce(sum(kept_objects), 0)::bigint as kept_objects,
          coalesce(sum(kept_bytes), 0)::bigint as kept_bytes,
          max(kept_until) as kept_until, coalesce(bool_or(kept_held), false) as kept_held,
          count(*) filter (where reseal.looked_at is null) as unlooked, min(reseal.problem) as problem
        from repo left join reseal on repo_id = repo.id where team_id = $1 and object_format is not null
        """,
        team_id,
    )
    columns = ("objects", "bytes", "kept_objects", "kept_bytes", "kept_until", "kept_held")
    return Progress(Left(*(row[name] for name in columns)), row["unlooked"], row["problem"])


@translating
async def sealing_repos(db: Db) -> list[RepoId]:
    """The repos of all teams that seal."""
    rows = await db.fetch(
        """
        select repo.id from repo join team on team.id = repo.team_id
        where sealed_since is not null order by team.name, repo.name
        """
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]
