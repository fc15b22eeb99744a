"""Which repos are kept, and how each of them is doing."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg

from mirror.core.errors import NotFound, UsageError
from mirror.core.model import ObjectFormat, Repo, RepoId
from mirror.core.rules.health import objective
from mirror.store.database import Db, query, storable, transaction, translating
from mirror.store.leases import Lease, fenced
from mirror.store.people.teams import DEFAULT, TeamId
from mirror.store.upkeep import damages
from mirror.store.upkeep.damages import Damage

State = Literal["damaged", "protected", "behind", "late", "failing", "paused", "archived", "never"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a repo's last run ended without protecting it."""

    kind: str  # the class, in the words of mirror/core/errors.py
    message: str
    since: datetime  # the first failure since the last run that went well
    at: datetime  # the newest
    retry_at: datetime | None = None  # when automatic tries go on; None: when credentials or address change


@dataclass(frozen=True, slots=True)
class Overview:
    """A repo, what is kept of it, and how it is doing.

    `state` is the first of these that is true:
    "damaged": a verification or a drill found its backup broken, and none has found it intact since.
    "archived": its remote has been gone for a day of attempts; its backups stay. This is not a failure.
    "never": no run has protected it yet; its first backup may be running, or have failed.
    "paused": somebody paused it; it is protected as of an earlier time.
    "failing": it is protected as of an earlier time, and the last run failed; or its token is refused,
        so that the next one will.
    "late": it is protected as of an earlier time, and a push has waited for ten minutes with nobody at it,
        or its scheduled check is overdue (sql/097_unchecked.sql).
    "behind": the last run succeeded, and another has been requested since.
    "protected": everything its remote showed at the last check is stored.
    """

    repo: Repo
    team: str
    snapshots: int
    refs: int  # of the latest snapshot, without HEAD
    bytes: int  # stored for the live parts
    protected_as_of: datetime | None  # None: never
    state: State
    failure: Failure | None  # None: the last run went well, or there was none
    behind_since: datetime | None = None  # what came from then on may not be here; None: it is not behind
    large_files: int = 0  # that Git LFS keeps outside git, and that are not saved
    archived_at: datetime | None = None  # None: it is not
    damage: Damage | None = None  # known of what is kept of it; None: none
    paused_at: datetime | None = None  # None: pushes and the schedule start syncs
    saved_at: datetime | None = None  # when something new was last saved; None: nothing ever was
    proved_at: datetime | None = None  # of the last drill; None: never drilled
    at_work: bool = False
    rpo: timedelta = objective.DEFAULT  # its recovery point objective, its own or its team's
    outside_rpo: bool = False  # more could be lost of it than that

    @property
    def id(self) -> RepoId:
        return self.repo.id

    @property
    def name(self) -> str:
        return self.repo.name

    @property
    def url(self) -> str:
        return self.repo.url

    @property
    def called(self) -> str:
        """Its name on the command line, which lists every team's repos together."""
        return self.repo.name if self.team == DEFAULT else f"{self.team}:{self.repo.name}"


@translating
async def add(db: Db, team: TeamId, name: str, url: str, at: datetime, repo_id: RepoId | None = None) -> Repo:
    """Add a repo for this remote; `url` has no credentials, `repo_id` is an id that the vault already has.

    Raises UsageError when the name or the address is taken in this team, or is too long to keep.
    """
    if storable(name) != name or storable(url) != url:
        raise UsageError("the name and the address of a repo must be valid UTF-8")
    repo = Repo(repo_id or RepoId(uuid4()), name, url, None, at)
    try:
        await db.execute(
            "insert into repo (id, team_id, name, url, created_at) values ($1, $2, $3, $4, $5)",
            repo.id,
            team,
            name,
            url,
            at,
        )
    except asyncpg.UniqueViolationError as error:
        taken = f"the name {name}" if error.constraint_name == "repo_team_id_name_key" else url
        raise UsageError(f"{taken} is taken by another repo; everref repos shows which") from None
    except asyncpg.CheckViolationError:
        raise UsageError("a repo's name must have 1 to 500 bytes, its address 1 to 2000") from None
    return repo


@translating
async def find(db: Db, repo_id: RepoId) -> Repo | None:
    """The repo of this id."""
    return _maybe(await db.fetchrow("select * from repo where id = $1", repo_id))


@translating
async def find_in(db: Db, team: TeamId, repo_id: RepoId) -> Repo | None:
    """The team's repo of this id. None: there is none, or it is another team's."""
    return _maybe(await db.fetchrow("select * from repo where id = $1 and team_id = $2", repo_id, team))


async def get(db: Db, repo_id: RepoId) -> Repo:
    """The repo of this id. Raises NotFound."""
    found = await find(db, repo_id)
    if found is None:
        raise NotFound(f"no repo has the id {repo_id}; `everref repos` lists them")
    return found


@translating
async def by_name(db: Db, team: TeamId, name: str) -> Repo | None:
    """The team's repo of this name."""
    return _maybe(
        await db.fetchrow("select * from repo where team_id = $1 and name = $2", team, storable(name))
    )


@translating
async def ending_in(db: Db, team: TeamId, part: str, most: int) -> list[str]:
    """The team's repos whose name ends in `/` and this, in order, so many at most."""
    rows = await db.fetch(
        """
        select name from repo
        where team_id = $1 and right(name, length($2) + 1) = '/' || $2 order by name limit $3
        """,
        team,
        storable(part),
        most,
    )
    return [row["name"] for row in rows]


@translating
async def protected_as_of(db: Db, repo_id: RepoId) -> datetime | None:
    """When the repo's remote last said what is stored. None: never."""
    found: datetime | None = await db.fetchval("select protected_as_of from repo where id = $1", repo_id)
    return found


@translating
async def teams_with(db: Db, name: str, most: int) -> list[str]:
    """The names of the teams that have a repo of this name, in order; so many and one more at most."""
    rows = await db.fetch(
        """
        select team.name from repo join team on team.id = repo.team_id
        where repo.name = $1 order by team.name limit $2
        """,
        storable(name),
        most + 1,
    )
    return [row["name"] for row in rows]


@translating
async def by_url(db: Db, team: TeamId, url: str) -> Repo | None:
    """The team's repo with this remote."""
    return _maybe(
        await db.fetchrow("select * from repo where team_id = $1 and url = $2", team, storable(url))
    )


@translating
async def move(db: Db, repo_id: RepoId, url: str) -> Repo | None:
    """Replace an address that was never reached; its failures and credentials are deleted.

    None: it has been reached by now, and nothing is changed. Raises UsageError when the address is taken.
    """
    try:
        async with transaction(db) as connection:
            row = await connection.fetchrow(
                """
                update repo set
                  url = $2,
                  failure_class = null, failure_message = null, failing_since = null, failed_at = null,
                  failures = 0, retry_at = null
                where id = $1 and object_format is null
                returning *
                """,
                repo_id,
                storable(url),
            )
            if row:
                await connection.execute("delete from credential where repo_id = $1", repo_id)
    except asyncpg.UniqueViolationError:
        raise UsageError(f"{url} is taken by another repo; everref repos shows which") from None
    return _maybe(row)


@translating
async def excluded(db: Db, repo_id: RepoId) -> tuple[str, ...]:
    """The patterns of refs that are no longer backed up."""
    return tuple(await db.fetchval("select excluded from repo where id = $1", repo_id) or ())


@translating
async def set_excluded(db: Db, repo_id: RepoId, patterns: Collection[str]) -> None:
    """Stop backing up refs that match one of these patterns; their past stays."""
    await db.execute("update repo set excluded = $2 where id = $1", repo_id, list(patterns))


@translating
async def names(db: Db, ids: Collection[RepoId]) -> dict[RepoId, str]:
    """The names of these repos."""
    rows = await db.fetch("select id, name from repo where id = any($1::uuid[])", list(ids))
    return {RepoId(UUID(bytes=row["id"].bytes)): row["name"] for row in rows}


@translating
async def set_object_format(db: Db, repo_id: RepoId, object_format: ObjectFormat) -> None:
    """Remember in which format the remote's objects are."""
    await db.execute("update repo set object_format = $2 where id = $1", repo_id, object_format)


@translating
async def touch_protected(
    db: Db, repo_id: RepoId, at: datetime, sync_request: datetime | None = None
) -> None:
    """Record that everything the remote shows is stored; `wish` is the sync request that was served."""
    await protected(db, repo_id, at, sync_request)


async def protected(db: Db, repo_id: RepoId, at: datetime, sync_request: datetime | None) -> None:
    """`touch_protected` for a transaction of this package's own."""
    await db.execute(
        query("protected"),
        repo_id,
        at,
        sync_request,
    )


@translating
async def failures(db: Db, repo_id: RepoId, kind: str, at: datetime) -> int:
    """How many runs of this repo in a row failed with this class before `at`.

    A run that a push brought about before the next try was due counts instead of the one before:
    it is the same trouble, however many pushes come meanwhile.
    """
    found: int | None = await db.fetchval(
        """
        select failures - case when retry_at > $3 then 1 else 0 end
        from repo where id = $1 and failure_class = $2
        """,
        repo_id,
        kind,
        at,
    )
    return found or 0


@translating
async def set_failure(
    db: Db, repo_id: RepoId, kind: str, message: str, at: datetime, retry_at: datetime | None = None
) -> None:
    """Record that the last run failed; the time of the first failure in a row is kept.

    Automatic tries go on at `retry_at`; None: only when credentials or address
    change. A remote that has been gone for a day of tries is archived. Its team is told
    once: of what may pass by itself after an hour, of all else at once.
    """
    await db.execute(
        query("set_failure"),
        repo_id,
        kind,
        storable(message),
        at,
        retry_at,
    )


@translating
async def retry(db: Db, repo_id: RepoId, at: datetime) -> None:
    """Resume automatic tries, because its credentials or address changed. Safe to run twice."""
    await db.execute(
        "update repo set retry_at = least(retry_at, $2) where id = $1 and failure_class is not null",
        repo_id,
        at,
    )


@translating
async def is_held(db: Db, repo_id: RepoId) -> bool:
    """Whether automatic tries wait for other credentials."""
    found = await db.fetchval(
        "select true from repo where id = $1 and failure_class = 'credentials' and retry_at is null", repo_id
    )
    return found is not None


@translating
async def request_sync(db: Db, repo_id: RepoId, at: datetime) -> datetime:
    """Request a sync of this repo; returns the request's time, which is later than every earlier one's."""
    sync_request: datetime | None = await db.fetchval(
        """
        update repo set
          wanted_at = greatest($2, wanted_at + interval '1 microsecond'),
          behind_since = coalesce(behind_since, $2)
        where id = $1 returning wanted_at
        """,
        repo_id,
        at,
    )
    if sync_request is None:
        raise NotFound(f"no repo has the id {repo_id}")
    return sync_request


@translating
async def withdraw_request(db: Db, repo_id: RepoId, sync_request: datetime | None) -> None:
    """Close this sync request without having served it; one that came later stays open. Safe to run twice."""
    await db.execute(
        """
        update repo set
          synced_at = greatest(synced_at, $2),
          behind_since = case when wanted_at is distinct from greatest(synced_at, $2) then behind_since end
        where id = $1 and $2::timestamptz is not null
        """,
        repo_id,
        sync_request,
    )


@translating
async def sync_request(db: Db, repo_id: RepoId) -> datetime | None:
    """The time of the sync request that waits to be served; None: there is none.

    A run takes it at its start and hands it back at its end: one that came in between stays open.
    """
    found: datetime | None = await db.fetchval(
        "select wanted_at from repo where id = $1 and wanted_at is distinct from synced_at", repo_id
    )
    return found


@translating
async def with_sync_request(db: Db, repo_id: RepoId) -> Repo | None:
    """The repo of this id, if a sync request waits to be served."""
    return _maybe(
        await db.fetchrow(
            "select * from repo where id = $1 and wanted_at is distinct from synced_at", repo_id
        )
    )


@translating
async def unheard(db: Db, before: datetime) -> list[RepoId]:
    """The repos with a sync request from before this moment that no run has tried to serve; oldest first."""
    rows = await db.fetch(
        """
        select id from repo
        where wanted_at is distinct from synced_at and wanted_at < $1
          and (failed_at is null or failed_at < wanted_at)
        order by wanted_at
        """,
        before,
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def overview(db: Db, team: TeamId | None = None, now: datetime | None = None) -> list[Overview]:
    """Every repo with what is kept of it, by name; or those of one team. `now` decides which are late."""
    return [_overview(row) for row in await db.fetch(query("overview"), None, team, now)]


@translating
async def overview_of(
    db: Db, repo_id: RepoId, team: TeamId | None = None, now: datetime | None = None
) -> Overview:
    """One repo with what is kept of it. Raises NotFound, also where it is not that team's."""
    row = await db.fetchrow(query("overview"), repo_id, team, now)
    if row is None:
        raise NotFound(f"no repo has the id {repo_id}; `everref repos` lists them")
    return _overview(row)


@translating
async def forget_history(db: Db, lease: Lease, repo_id: RepoId) -> None:
    """Delete all that a rebuild can read back from the vault; the repo, its credentials and proofs stay.

    One transaction. Raises Busy when the lease was lost.
    """
    async with transaction(db) as connection:
        await fenced(connection, lease, repo_id)
        for statement in (
            "delete from ref_change where repo_id = $1",
            "delete from ref_stay using ref where ref.id = ref_stay.ref_id and ref.repo_id = $1",
            "delete from ref where repo_id = $1",
            "delete from snapshot where repo_id = $1",
            "delete from part where repo_id = $1",
            "update repo set protected_as_of = null where id = $1",
        ):
            await connection.execute(statement, repo_id)


@translating
async def all(db: Db, team: TeamId | None = None) -> list[Repo]:
    """Every repo, by name; or those of one team."""
    rows = await db.fetch("select * from repo where $1::uuid is null or team_id = $1 order by name, id", team)
    return [repo(row) for row in rows]


def _maybe(row: Any) -> Repo | None:
    return None if row is None else repo(row)


def repo(row: Any) -> Repo:
    """A repo out of a row of that table."""
    return Repo(
        RepoId(UUID(bytes=row["id"].bytes)), row["name"], row["url"], row["object_format"], row["created_at"]
    )


def failure_of(row: Any) -> Failure | None:
    """Why a repo is not saved, out of a row that has `refused` as well: what its connection says.

    None: the last run went well, or there was none. An archived repo that is gone has not failed.
    """
    if row["archived_at"] is not None:
        return None
    if row["failure_class"] is not None:
        return Failure(
            row["failure_class"],
            row["failure_message"],
            row["failing_since"],
            row["failed_at"],
            row["retry_at"],
        )
    if row["refused"] is not None and row["paused_at"] is None:
        return Failure("credentials", row["refused"], row["refused_at"], row["refused_at"])
    return None


def _overview(row: Any) -> Overview:
    return Overview(
        repo(row),
        row["team"],
        row["snapshots"],
        row["refs"],
        row["bytes"],
        row["protected_as_of"],
        row["state"],
        failure_of(row),
        None if row["archived_at"] else row["behind"],
        row["lfs_files"],
        row["archived_at"],
        damages.damage(row),
        row["paused_at"],
        row["saved_at"],
        row["proved_at"],
        row["at_work"],
        row["objective"],
        bool(row["outside_rpo"]),
    )
