"""What teams use of their limits, counted under a lock of the team so that nobody gets more."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Final
from uuid import UUID

import asyncpg

from mirror.core import quotas
from mirror.core.model import RepoId
from mirror.core.quotas import LIMITS, Limits, Use
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people import teams
from mirror.store.people.teams import TeamId

_ASKED: Final = "from job where team_id = $1 and person_id is not null"
_HOLDS_UP: Final = f"{_ASKED} and kind not in ('restore', 'bundle')"  # quotas.GIVES_BACK
# $1 the team, $2 now
_USED: Final[Mapping[str, str]] = {
    "repos": "select count(*) from repo where team_id = $1",
    "stored-bytes": """
      select coalesce((
        select sum(part.bytes) from repo join part on part.repo_id = repo.id
        where team_id = $1 and replaced_at is null
      ), 0) + coalesce((
        select sum(intent.bytes) from repo join intent on intent.repo_id = repo.id where team_id = $1
      ), 0)
    """,
    "repo-bytes": """
      select coalesce(max(bytes), 0) from (
        select sum(part.bytes) as bytes from repo join part on part.repo_id = repo.id
        where team_id = $1 and replaced_at is null group by repo.id
      ) each
    """,
    "pool-bytes": "select 0",  # not counted here
    "jobs-open": f"select count(*) {_HOLDS_UP} and state in ('queued', 'running')",
    "jobs-a-day": f"select count(*) {_HOLDS_UP} and queued_at > $2 - interval '1 day'",
    "drills-a-day": f"select count(*) {_ASKED} and kind = 'drill' and queued_at > $2 - interval '1 day'",
    "restores-an-hour": (
        f"select count(*) {_ASKED} and kind = 'restore' and queued_at > $2 - interval '1 hour'"
    ),
    "restores-a-day": f"select count(*) {_ASKED} and kind = 'restore' and queued_at > $2 - interval '1 day'",
    "bundles-an-hour": f"select count(*) {_ASKED} and kind = 'bundle' and queued_at > $2 - interval '1 hour'",
    "bundles-a-day": f"select count(*) {_ASKED} and kind = 'bundle' and queued_at > $2 - interval '1 day'",
    "tokens": """
      select count(*) from api_token
      where team_id = $1 and revoked_at is null and (expires_at is null or expires_at > $2)
    """,
    "hooks": "select count(*) from hook join repo on repo.id = hook.repo_id where team_id = $1",
    "members": "select count(*) from member where team_id = $1",
    "shares": """
      select count(*) from share join repo on repo.id = share.repo_id
      where team_id = $1 and revoked_at is null and used_up_at is null and expires_at > $2
    """,
    "share-days": "select 0",  # nothing to count
}
SHOWN: Final = tuple(_USED)  # what a team is shown


@translating
async def uses(
    db: Db, team_id: TeamId, limits: Limits, now: datetime, names: Collection[str] = SHOWN
) -> list[Use]:
    """How much the team uses of these limits, in the order of the names."""
    rows = await db.fetch(_uses(tuple(names)), team_id, now)
    return [
        Use(
            LIMITS[row["name"]],
            row["used"],
            row["most"] if row["own"] else limits.get(row["name"]),
            row["own"],
        )
        for row in rows
    ]


@cache
def _uses(names: Sequence[str]) -> str:
    asked = " union all ".join(
        f"select {place} as place, '{name}' as name, $2::timestamptz as at, ({_USED[name]})::bigint as used"
        for place, name in enumerate(names)
    )
    return f"""
    select asked.name, used, most, team_limit.name is not null as own
    from ({asked}) asked left join team_limit on team_id = $1 and team_limit.name = asked.name
    order by place
    """


@asynccontextmanager
async def within(
    db: Db, team_id: TeamId, limits: Limits, now: datetime, *names: str
) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that adds something a team has a limit for.

    Others who add to the team wait until it ends, so that twenty at once get no more than one after the
    other. Raises OverLimit at the end, and then nothing was added.
    """
    async with transaction(db) as connection:
        await _lock(connection, team_id)
        yield connection
        await check(connection, team_id, limits, now, *names)


async def _lock(db: Db, team_id: TeamId) -> None:
    """A lock for this alone: a transaction that holds the team's row may wait for what is added here."""
    await db.execute("select pg_advisory_xact_lock(hashtextextended('limits ' || $1, 0))", str(team_id))


async def check(db: Db, team_id: TeamId, limits: Limits, now: datetime, *names: str) -> None:
    """Raise OverLimit where the team, with what this transaction added, has more than its limit.

    The caller took a lock before it added anything: that of `within`, or teams.lock for members and tokens.
    """
    for use in await uses(db, team_id, limits, now, names) if names else ():
        if use.most is not None and use.used > use.most:
            free_at = await _free_at(db, team_id, use, now)
            raise quotas.refusal(use, await _name(db, team_id), now, free_at)


async def _free_at(db: Db, team_id: TeamId, use: Use, now: datetime) -> datetime | None:
    """When one more is allowed, as the oldest fall out of the period. None: waiting does not help."""
    per, most = use.limit.per, use.most
    if per is None or not most:
        return None
    counted = _USED[use.limit.name].removeprefix("select count(*) ").replace("$2", "$2::timestamptz")
    queued_at: datetime | None = await db.fetchval(
        f"select queued_at {counted} order by queued_at desc offset $3 limit 1", team_id, now, most
    )
    return None if queued_at is None else queued_at + per


async def _name(db: Db, team_id: TeamId) -> str:
    found = await teams.find(db, team_id)
    return found.name if found else "the team"


@translating
async def set(db: Db, team_id: TeamId, name: str, most: int | None, now: datetime) -> None:
    """Set the team's own limit, which replaces the general one. Safe to run twice."""
    await db.execute(
        """
        insert into team_limit (team_id, name, most, set_at) values ($1, $2, $3, $4)
        on conflict (team_id, name) do update set most = excluded.most, set_at = excluded.set_at
        """,
        team_id,
        storable(name),
        most,
        now,
    )


@translating
async def unset(db: Db, team_id: TeamId, name: str) -> None:
    """Remove the team's own limit, so that the general one applies. Safe to run twice."""
    await db.execute("delete from team_limit where team_id = $1 and name = $2", team_id, storable(name))


# Bytes: a team that is over is told once, and its syncs wait.


@translating
async def over(db: Db, team_id: TeamId, now: datetime, message: str) -> bool:
    """Record that the team's syncs wait, and why. False: that was known."""
    done = await db.execute(
        "insert into team_over (team_id, since, message) values ($1, $2, $3) on conflict do nothing",
        team_id,
        now,
        storable(message),
    )
    return done == "INSERT 0 1"


@dataclass(frozen=True, slots=True)
class Over:
    """Since when a team's syncs wait, and why."""

    since: datetime
    message: str


@translating
async def is_over(db: Db, team_id: TeamId) -> Over | None:
    """Why the team's syncs wait. None: no limit holds them up."""
    row = await db.fetchrow("select since, message from team_over where team_id = $1", team_id)
    return None if row is None else Over(row["since"], row["message"])


@translating
async def brought(db: Db, repo_id: RepoId) -> None:
    """A sync of this repo that had waited has run: its team is within its limits again."""
    await db.execute(
        "delete from team_over using repo where repo.id = $1 and repo.team_id = team_over.team_id", repo_id
    )


@translating
async def go_on(db: Db, team_id: TeamId, now: datetime) -> None:
    """Let syncs that wait because of the team's limits be tried at once."""
    await db.execute("delete from team_over where team_id = $1", team_id)
    await db.execute(
        """
        update job set due_at = null
        where team_id = $1 and kind = 'sync' and state = 'queued' and due_at is not null
        """,
        team_id,
    )
    await db.execute(
        "update repo set retry_at = least(retry_at, $2) where team_id = $1 and failure_class = 'limit'",
        team_id,
        now,
    )


@translating
async def allowance(db: Db, team_id: TeamId, repo_id: RepoId, limits: Limits) -> tuple[Use, ...]:
    """The stored bytes of this repo and of its team, with their limits; what is unlimited is not counted."""
    rows = await db.fetch(
        """
        with asked as (
          select given.name, case when own.name is null then given.most else own.most end as most
          from unnest($3::text[], $4::bigint[]) as given (name, most)
          left join team_limit own on own.name = given.name and own.team_id = $1
        )
        select name, most, case
          when name = 'stored-bytes' then (
            select coalesce(sum(part.bytes), 0) from repo join part on part.repo_id = repo.id
            where team_id = $1 and replaced_at is null
          ) + (
            select coalesce(sum(intent.bytes), 0) from repo join intent on intent.repo_id = repo.id
            where team_id = $1
          )
          else (select coalesce(sum(bytes), 0) from part where part.repo_id = $2 and replaced_at is null)
        end::bigint as used
        from asked where most is not null
        """,
        team_id,
        repo_id,
        list(_OF_BYTES),
        [limits.get(name) for name in _OF_BYTES],
    )
    return tuple(Use(LIMITS[row["name"]], row["used"], row["most"]) for row in rows)


_OF_BYTES: Final = ("stored-bytes", "repo-bytes")


@translating
async def reserve(db: Db, team_id: TeamId, repo_id: RepoId, limits: Limits, key: str, size: int) -> None:
    """Count a part that is about to be stored. Raises OverLimit if there is no room for it."""
    async with transaction(db) as connection:
        await _lock(connection, team_id)
        await connection.execute(
            "update intent set bytes = $3 where key = $2 and repo_id = $1", repo_id, key, size
        )
        for use in await allowance(connection, team_id, repo_id, limits):
            coming = size if use.limit.name == "repo-bytes" else 0
            if use.most is not None and use.used + coming > use.most:
                raise quotas.too_much(use, await _name(connection, team_id))


@translating
async def reserve_export(
    db: Db, team_id: TeamId, limits: Limits, key: str, size: int, ahead: int, until: datetime
) -> int:
    """Count a bundle to download as so many bytes, and up to so many ahead; returns how many are counted.

    Raises OverLimit where the team's bundles together would exceed its limit of stored bytes.
    """
    async with transaction(db) as connection:
        await _lock(connection, team_id)
        row = await connection.fetchrow(
            """
            select
              (select coalesce(sum(bytes), 0) from export where team_id = $1 and key <> $2)::bigint as others,
              (select case when count(*) > 0 then max(most) else $3::bigint end
               from team_limit where team_id = $1 and name = 'stored-bytes') as most
            """,
            team_id,
            key,
            limits.get("stored-bytes"),
        )
        others, most = row["others"], row["most"]
        if most is not None and others + size > most:
            use = Use(LIMITS["stored-bytes"], others, most)
            raise quotas.too_many_bundles(use, await _name(connection, team_id))
        counted: int = size + ahead if most is None else min(size + ahead, most - others)
        await connection.execute(
            """
            insert into export (key, team_id, bytes, until) values ($1, $2, $3, $4)
            on conflict (key) do update set bytes = excluded.bytes
            """,
            key,
            team_id,
            counted,
            until,
        )
        return counted


@translating
async def drop_export(db: Db, key: str) -> None:
    """Stop counting a bundle to download. Safe to run twice."""
    await db.execute("delete from export where key = $1", key)


@translating
async def forget_exports(db: Db, before: datetime) -> None:
    """Stop counting bundles that were deleted by this time. Safe to run twice."""
    await db.execute("delete from export where until < $1", before)


@translating
async def of_pools(db: Db, repo_ids: Collection[RepoId], limits: Limits) -> list[tuple[list[RepoId], int]]:
    """These repos by team, with the bytes that the team's pools may have, where that is limited."""
    rows = await db.fetch(
        """
        select array_agg(repo.id) as ids, each.most from repo
        cross join lateral (
          select case when own.name is null then $2::bigint else own.most end as most
          from (select) as one
          left join team_limit own on own.team_id = repo.team_id and own.name = 'pool-bytes'
        ) each
        where repo.id = any($1::uuid[]) and each.most is not null
        group by repo.team_id, each.most
        """,
        list(repo_ids),
        limits.get("pool-bytes"),
    )
    return [([RepoId(UUID(bytes=one.bytes)) for one in row["ids"]], row["most"]) for row in rows]


# For monitoring.


@dataclass(frozen=True, slots=True)
class Measured:
    """How near all teams together are to a limit."""

    name: str
    over: int  # teams at the limit or beyond
    most: float  # the share that the nearest team uses; 1.0: all of it


@translating
async def measured(db: Db, limits: Limits, now: datetime) -> list[Measured]:
    """For each limit that applies to some team, how near the teams are to it."""
    rows = await db.fetch(
        _MEASURED, list(limits), list(limits.values()), now - timedelta(days=1), now - timedelta(hours=1)
    )
    return [Measured(row["name"], row["over"], row["share"]) for row in rows]


_MEASURED: Final = """
    with used as (
      select 'repos' as name, team_id, count(*) as used from repo group by team_id
      union all
      select 'stored-bytes', team_id, sum(bytes) from repo join part on part.repo_id = repo.id
      where replaced_at is null group by team_id
      union all
      select 'repo-bytes', team_id, max(bytes) from (
        select team_id, sum(bytes) as bytes from repo join part on part.repo_id = repo.id
        where replaced_at is null group by team_id, repo.id
      ) each group by team_id
      union all
      select 'jobs-open', team_id, count(*) from job
      where state in ('queued', 'running') and person_id is not null and kind not in ('restore', 'bundle')
      group by team_id
      union all
      select counted.name, team_id, count(*) from job join (values
        ('jobs-a-day', null, $3::timestamptz), ('drills-a-day', 'drill', $3),
        ('restores-a-day', 'restore', $3), ('restores-an-hour', 'restore', $4),
        ('bundles-a-day', 'bundle', $3), ('bundles-an-hour', 'bundle', $4)
      ) as counted (name, kind, since) on job.kind = coalesce(counted.kind, job.kind) and queued_at > since
      where queued_at > $3 and person_id is not null
        and (counted.name <> 'jobs-a-day' or job.kind not in ('restore', 'bundle'))
      group by counted.name, team_id
      union all
      select 'tokens', team_id, count(*) from api_token
      where revoked_at is null and (expires_at is null or expires_at > $3 + interval '1 day') group by team_id
      union all
      select 'hooks', team_id, count(*) from hook join repo on repo.id = hook.repo_id group by team_id
      union all
      select 'members', team_id, count(*) from member group by team_id
    )
    select name, count(*) filter (where used >= most) as over,
      max(used::float8 / greatest(most, 1))::float8 as share
    from (
      select used.name, used, case when own.name is null then given.most else own.most end as most
      from used
      join unnest($1::text[], $2::bigint[]) as given (name, most) on given.name = used.name
      left join team_limit own on own.team_id = used.team_id and own.name = used.name
    ) each
    where most is not null
    group by name order by name
"""
