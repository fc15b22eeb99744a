"""The remote repository of each repo: its number at the forge, its connection, and whether it exists.

A repo follows the forge's number, not the name: a rename or a transfer keeps its
history, and another repository under the old name is another repo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import asyncpg

from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Repo, RepoId
from mirror.store.database import Db, query, storable, transaction, translating
from mirror.store.discovery.connections import ConnectionId
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class RemoteRepository:
    """A repo with its remote repository."""

    repo: Repo
    team_id: TeamId
    forge: str
    host: str | None  # None: a path of this machine
    repository_id: str | None  # None: not known
    connection_id: ConnectionId | None  # None: nobody's token reads it
    private: bool | None  # None: not told
    archived_at: datetime | None  # since when it is gone at its forge; None: it is there
    paused_at: datetime | None  # None: pushes and the schedule start syncs
    set_aside: bool = False  # a restore made it, to keep what its target held: nobody chose it
    disconnected: bool = False  # paused because its connection ended, by no person: a rule takes it up again


@translating
async def of(db: Db, repo_id: RepoId) -> RemoteRepository | None:
    """The repo of this id."""
    return _maybe(await db.fetchrow("select * from repo where id = $1", repo_id))


async def get(db: Db, repo_id: RepoId) -> RemoteRepository:
    """The repo of this id. Raises NotFound."""
    found = await of(db, repo_id)
    if found is None:
        raise NotFound(f"no repo has the id {repo_id}; `everref repos` lists them")
    return found


@translating
async def at_forge(
    db: Db, team: TeamId, forge: str, host: str, repository_id: str
) -> RemoteRepository | None:
    """The team's repo that follows this number."""
    return _maybe(
        await db.fetchrow(
            "select * from repo where team_id = $1 and forge = $2 and host = $3 and repository_id = $4",
            team,
            forge,
            host,
            storable(repository_id),
        )
    )


@translating
async def at_address(db: Db, team: TeamId, url: str) -> RemoteRepository | None:
    """The team's repo with this remote."""
    return _maybe(
        await db.fetchrow("select * from repo where team_id = $1 and url = $2", team, storable(url))
    )


@translating
async def named(db: Db, team: TeamId, name: str) -> RemoteRepository | None:
    """The team's repo of this name."""
    return _maybe(
        await db.fetchrow("select * from repo where team_id = $1 and name = $2", team, storable(name))
    )


@translating
async def of_connection(db: Db, connection_id: ConnectionId) -> list[RemoteRepository]:
    """Every repo that this connection reads, by name."""
    rows = await db.fetch("select * from repo where connection_id = $1 order by name", connection_id)
    return [remote_repository(row) for row in rows]


@translating
async def place(
    db: Db,
    repo_id: RepoId,
    *,
    forge: str,
    host: str,
    repository_id: str,
    connection_id: ConnectionId,
    private: bool,
    added_by: UUID | None,
) -> bool | None:
    """Record the repo's remote repository and the connection that reads it; a paused repo is resumed.

    True: it was not kept before. None, and nothing is changed: it follows another
    number. Safe to run twice, also at the same time: one of them gets True.
    """
    fresh: bool | None = await db.fetchval(
        """
        with was as (
          select id, repository_id is null or paused_at is not null as fresh
          from repo where id = $1 for update
        )
        update repo set
          forge = $2, host = $3, repository_id = $4, connection_id = $5, private = $6,
          added_by = coalesce(added_by, $7), paused_at = null, set_aside = false, disconnected = false
        from was
        where repo.id = was.id
          and (repository_id is null or (forge = $2 and host = $3 and repository_id = $4))
        returning was.fresh
        """,
        repo_id,
        forge,
        host,
        storable(repository_id),
        connection_id,
        private,
        added_by,
    )
    return fresh


@translating
async def set_host(db: Db, repo_id: RepoId, host: str | None, added_by: UUID | None) -> None:
    """Record the host of a repo that no connection reads, and who added it. Safe to run twice."""
    await db.execute(
        "update repo set host = coalesce(host, $2), added_by = coalesce(added_by, $3) where id = $1",
        repo_id,
        host,
        added_by,
    )


@translating
async def hookless(db: Db, limit: int) -> list[RemoteRepository]:
    """The repos that a connection reads but that have no hook, because the run that chose them died."""
    rows = await db.fetch(
        """
        select repo.* from repo
        join connection on connection.id = repo.connection_id
        where connection.state = 'works' and repo.repository_id is not null
          and repo.archived_at is null and repo.paused_at is null
          and not exists (select from hook where hook.repo_id = repo.id)
        order by repo.created_at limit $1
        """,
        limit,
    )
    return [remote_repository(row) for row in rows]


@translating
async def rename(db: Db, moved: Mapping[RepoId, tuple[str, str]], at: datetime) -> None:
    """Give these repos new names and addresses; their backups and credentials stay with them.

    What failed at the old address is tried again at the new one. All in one step, since two may have
    swapped their names. Raises UsageError if any other repo has one of the names or addresses.
    """
    try:
        async with transaction(db) as connection:
            # Out of each other's way first: a statement looks at uniqueness row by row.
            await connection.execute(
                "update repo set name = id::text, url = id::text where id = any($1::uuid[])", list(moved)
            )
            await connection.executemany(
                """
                update repo set
                  name = $2, url = $3,
                  retry_at = case when failure_class is not null then least(retry_at, $4) end
                where id = $1
                """,
                [(repo_id, storable(name), storable(url), at) for repo_id, (name, url) in moved.items()],
            )
    except asyncpg.UniqueViolationError as error:
        what = "name" if error.constraint_name == "repo_team_id_name_key" else "address"
        raise UsageError(f"a repo's new {what} is taken by another repo of the team") from None
    except asyncpg.CheckViolationError:
        raise UsageError("a repo's name takes 1 to 500 bytes, its address 1 to 2000") from None


@translating
async def step_aside(db: Db, repo_id: RepoId, name: str, at: datetime) -> None:
    """Rename a repo whose address belongs to another repository now; it keeps its history and is archived.

    Its number is added to its address as a fragment, so that nothing is fetched from there
    for it again. Safe to run twice.
    """
    try:
        await db.execute(
            """
            update repo set
              name = $2, archived_at = coalesce(archived_at, $3),
              url = split_part(url, '#', 1) || '#' || repository_id
            where id = $1
            """,
            repo_id,
            storable(name),
            at,
        )
    except asyncpg.UniqueViolationError:
        raise UsageError(f"another repo of the team has the name {name}; rename that one first") from None


@translating
async def set_private(db: Db, repo_id: RepoId, private: bool) -> None:
    """Record whether the forge shows it only to some."""
    await db.execute("update repo set private = $2 where id = $1", repo_id, private)


@translating
async def archive(db: Db, repo_id: RepoId, at: datetime) -> bool:
    """Record that it is gone at its forge; its backups stay. False: that was known."""
    done = await db.execute(
        "update repo set archived_at = $2 where id = $1 and archived_at is null", repo_id, at
    )
    return done == "UPDATE 1"


@translating
async def revive(db: Db, repo_id: RepoId) -> bool:
    """Record that it exists again. False: it was never gone."""
    done = await db.execute(
        "update repo set archived_at = null where id = $1 and archived_at is not null", repo_id
    )
    return done == "UPDATE 1"


@translating
async def is_doubtful(db: Db, repo_id: RepoId) -> bool:
    """Whether there is a reason to ask the forge what happened to the repository.

    It is archived; the last run found it gone, moved or closed; a delivery reported
    a change since the forge was last asked; or a listing shows another repository
    at its address.
    """
    found: bool = await db.fetchval(query("is_doubtful"), repo_id)
    return found


@translating
async def reported_changed(db: Db, limit: int) -> list[RepoId]:
    """The repos for which a delivery reported a change since the forge was last asked."""
    rows = await db.fetch(query("told_of"), limit)
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def looked(db: Db, repo_id: RepoId, at: datetime) -> None:
    """Record that the forge was asked about the repository."""
    await db.execute("update repo set asked_at = $2 where id = $1", repo_id, at)


@translating
async def is_taken(db: Db, repo_id: RepoId) -> bool:
    """Whether a listing shows another repository at the repo's address."""
    found: bool = await db.fetchval(
        """
        select exists (
          select from repo
          join listed on listed.connection_id = repo.connection_id and listed.clone_url = repo.url
          where repo.id = $1 and listed.repository_id <> repo.repository_id and listed.gone_at is null
        )
        """,
        repo_id,
    )
    return found


@translating
async def pause(db: Db, repo_id: RepoId, at: datetime) -> bool:
    """Look at it no more until somebody says so; what is kept stays. False: somebody had paused it."""
    done = await db.execute(
        """
        update repo set paused_at = coalesce(paused_at, $2), disconnected = false
        where id = $1 and (paused_at is null or disconnected)
        """,
        repo_id,
        at,
    )
    return done == "UPDATE 1"


@translating
async def disconnect(db: Db, repo_id: RepoId, at: datetime) -> bool:
    """Look at it no more, as its connection ends; a person or a rule may choose it. False: it was paused."""
    done = await db.execute(
        "update repo set paused_at = $2, disconnected = true where id = $1 and paused_at is null", repo_id, at
    )
    return done == "UPDATE 1"


@translating
async def resume(db: Db, repo_id: RepoId) -> bool:
    """Sync it again, because a person chose it. False: it was not paused."""
    done = await db.execute(
        """
        update repo set paused_at = null, set_aside = false, disconnected = false
        where id = $1 and paused_at is not null
        """,
        repo_id,
    )
    return done == "UPDATE 1"


@translating
async def set_aside(db: Db, repo_id: RepoId, at: datetime) -> None:
    """Mark a repo that a restore added as not chosen: it is not synced, nor read with the team's key."""
    await db.execute("update repo set paused_at = $2, set_aside = true where id = $1", repo_id, at)


@translating
async def chosen(db: Db, repo_id: RepoId) -> None:
    """Mark the repo as chosen by a person who may choose. Safe to run twice."""
    await db.execute("update repo set set_aside = false where id = $1 and set_aside", repo_id)


@translating
async def other_connection_of(db: Db, repo_id: RepoId) -> ConnectionId | None:
    """Another working connection of the team that sees the repo; first one that may register hooks."""
    found = await db.fetchval(
        """
        select connection.id from repo
        join connection on connection.team_id = repo.team_id and connection.forge = repo.forge
          and connection.host = repo.host and connection.id is distinct from repo.connection_id
        join listed on listed.connection_id = connection.id and listed.repository_id = repo.repository_id
        where repo.id = $1 and connection.state = 'works' and listed.gone_at is null
        order by listed.admin desc, connection.created_at
        limit 1
        """,
        repo_id,
    )
    return None if found is None else ConnectionId(UUID(bytes=found.bytes))


@translating
async def hand_to(db: Db, repo_ids: Sequence[RepoId], connection_id: ConnectionId | None) -> None:
    """Let this connection read these repos from now on. None: no connection. Safe to run twice."""
    await db.execute(
        "update repo set connection_id = $2 where id = any($1::uuid[])", list(repo_ids), connection_id
    )


def _maybe(row: Any) -> RemoteRepository | None:
    return None if row is None else remote_repository(row)


def remote_repository(row: Any) -> RemoteRepository:
    """A repo with its remote repository, from a row of the repo table."""
    connection_id = row["connection_id"]
    return RemoteRepository(
        Repo(
            RepoId(UUID(bytes=row["id"].bytes)),
            row["name"],
            row["url"],
            row["object_format"],
            row["created_at"],
        ),
        TeamId(UUID(bytes=row["team_id"].bytes)),
        cast(str, row["forge"]),
        row["host"],
        row["repository_id"],
        None if connection_id is None else ConnectionId(UUID(bytes=connection_id.bytes)),
        row["private"],
        row["archived_at"],
        row["paused_at"],
        row["set_aside"],
        row["disconnected"],
    )
