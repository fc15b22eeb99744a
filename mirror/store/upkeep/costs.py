"""What each repo has in the vault by day and month, and what was written and read: what a store bills."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from mirror.core.model import RepoId
from mirror.core.rules.keeping.costs import Readings, Saved, Used
from mirror.store.database import Db, query, translating
from mirror.store.people.teams import TeamId


@translating
async def measure(db: Db, day: date) -> None:
    """Add what every repo has in the vault on this day (UTC) to its month. A day counts once."""
    await db.execute(query("measure_stored"), day)


@translating
async def unmeasured(db: Db, day: date) -> list[RepoId]:
    """The repos that were not measured on this day yet, and have parts."""
    rows = await db.fetch(
        """
        select id from repo
        where exists (select from part where part.repo_id = repo.id and deleted_at is null) and not exists (
          select from measured_month
          where measured_month.repo_id = repo.id and month = date_trunc('month', $1::date) and last_day >= $1
        )
        order by id
        """,
        day,
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def classify(db: Db, repo_id: RepoId, classes: Mapping[str, str | None]) -> None:
    """Record in which storage class each part (by its key) is; None: the usual one. Safe to run twice."""
    await db.execute(
        """
        update part set storage_class = given.class
        from unnest($2::text[], $3::text[]) as given (key, class)
        where repo_id = $1 and part.key = given.key and storage_class is distinct from given.class
        """,
        repo_id,
        list(classes),
        list(classes.values()),
    )


@translating
async def used(db: Db, team_id: TeamId, start: datetime, end: datetime, piece: int) -> list[Used]:
    """What is known of the team's repos in the month from `start` to before `end`, by name.

    `piece`: the bytes of one request of an upload in several.
    """
    return [_used(row) for row in await db.fetch(query("costs"), team_id, start, end, piece)]


def _used(row: Any) -> Used:
    sums = {(kind, name): int(total) for kind, name, total in json.loads(row["sums"])}
    others = (name for name in Used.__dataclass_fields__ if name != "byte_days")
    return Used(byte_days=sums, **{name: row[name] for name in others})


@translating
async def readings(db: Db, team_id: TeamId, start: datetime, end: datetime) -> Readings:
    """What the rotation read of the team's repos in that time, by days of UTC."""
    row = await db.fetchrow(
        """
        select coalesce(sum(bytes), 0)::bigint as bytes, coalesce(sum(objects), 0)::bigint as objects
        from reading where team_id = $1
          and day >= ($2::timestamptz at time zone 'UTC')::date
          and day < ($3::timestamptz at time zone 'UTC')::date
        """,
        team_id,
        start,
        end,
    )
    return Readings(row["bytes"], row["objects"])


@translating
async def saved(db: Db, team_id: TeamId) -> Sequence[Saved]:
    """What the team's repos take with all kept snapshots, and what full bundles of these would, by name.

    A full bundle is taken to be as large as the pack log was then: all objects up to its moment.
    """
    rows = await db.fetch(
        """
        select repo.id::text as repo_id, repo.name as repo, live.stored, snapshots, each, daily
        from repo
        cross join lateral (
          select coalesce(sum(
            coalesce(sealed_bytes, bytes) + coalesce(sealed_index_bytes, index_bytes)
          ), 0)::bigint as stored
          from part where part.repo_id = repo.id and replaced_at is null
        ) live
        cross join lateral (
          select coalesce(sum(number), 0)::bigint as snapshots, coalesce(sum(bytes), 0)::bigint as each,
            coalesce(sum(most), 0)::bigint as daily
          from (
            select count(*) as number, sum(log_bytes) as bytes, max(log_bytes) as most
            from snapshot where snapshot.repo_id = repo.id and dropped_at is null
            group by (taken_at at time zone 'UTC')::date
          ) by_day
        ) full_bundles
        where team_id = $1
        order by repo.name, repo.id
        """,
        team_id,
    )
    return [Saved(**{name: row[name] for name in Saved.__dataclass_fields__}) for row in rows]


@translating
async def exports(db: Db, team_id: TeamId) -> int:
    """The bytes of the team's bundles to download that are in the vault now."""
    found: int = await db.fetchval(
        "select coalesce(sum(bytes), 0)::bigint from export where team_id = $1", team_id
    )
    return found


@translating
async def first_month(db: Db, team_id: TeamId) -> date | None:
    """The first day of the first month in which a repo of the team was measured. None: none was."""
    found: date | None = await db.fetchval(
        "select min(month) from measured_month join repo on repo.id = repo_id where team_id = $1", team_id
    )
    return found
