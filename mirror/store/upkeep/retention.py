"""Retention policies, and what is known of a repo when one is applied to its snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from mirror.core.model import RepoId
from mirror.core.rules.keeping.retention import EVERYTHING, NUMBERS, Facts, Policy, Taken, parse
from mirror.store.database import Db, query, storable, translating
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import keeping
from mirror.store.upkeep.keeping import Hold, Pin

_SEEN: Final = timedelta(days=30)  # of which what came into the vault is looked at


@dataclass(frozen=True, slots=True)
class Set:
    """A policy as it was set."""

    policy: Policy
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Size:
    """What dropping snapshots may free."""

    stored: int  # bytes of the live parts, with their indexes
    at_most: int  # bytes that the dropped snapshots brought; later ones may need most of it


@translating
async def of_team(db: Db, team_id: TeamId) -> Set | None:
    """The policy of a team's repos that have none of their own. None: everything is kept."""
    return _set(
        await db.fetchrow("select * from retention_policy where team_id = $1 and repo_id is null", team_id)
    )


@translating
async def of_repo(db: Db, repo_id: RepoId) -> Set | None:
    """The repo's own policy. None: it has its team's."""
    return _set(await db.fetchrow("select * from retention_policy where repo_id = $1", repo_id))


def _set(row: Any) -> Set | None:
    if row is None:
        return None
    policy = EVERYTHING if row["for_ever"] else parse({name: row[name] for name in NUMBERS})
    return Set(policy, row["set_by"], row["set_at"])


@translating
async def put(db: Db, team_id: TeamId, repo_id: RepoId | None, policy: Policy, by: str, at: datetime) -> None:
    """Set the policy of a repo, or of the team. Safe to run twice."""
    which = "(team_id) where repo_id is null" if repo_id is None else "(repo_id) where repo_id is not null"
    numbers = ", ".join(NUMBERS)
    await db.execute(
        f"""
        insert into retention_policy (team_id, repo_id, {numbers}, for_ever, set_by, set_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict {which} do update set
          ({numbers}, for_ever, set_by, set_at) = ($3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        team_id,
        repo_id,
        *policy.numbers.values(),
        policy.for_ever,
        storable(by),
        at,
    )


@translating
async def remove(db: Db, team_id: TeamId, repo_id: RepoId | None) -> bool:
    """Remove the policy of a repo, or of the team. False: there was none. Safe to run twice."""
    done = await db.execute(
        "delete from retention_policy where team_id = $1 and repo_id is not distinct from $2",
        *(team_id, repo_id),
    )
    return done == "DELETE 1"


@translating
async def taken(db: Db, repo_id: RepoId) -> list[Taken]:
    """Every snapshot of a repo that was not dropped, in the order of numbers."""
    rows = await db.fetch(
        """
        select number, taken_at, number < coalesce((
          select min(first_snapshot) from part
          where repo_id = $1 and replaced_at is null and damaged_at is not null
        ), 2147483647) as whole
        from snapshot where repo_id = $1 and dropped_at is null order by number
        """,
        repo_id,
    )
    return [Taken(row["number"], row["taken_at"], row["whole"]) for row in rows]


@translating
async def facts(db: Db, repo_id: RepoId, now: datetime) -> tuple[Facts, Hold | None, list[Pin]]:
    """What keeps snapshots of this repo whatever a policy says; its hold and its pins also as they are."""
    row = await db.fetchrow(query("retention_facts"), repo_id, now - _SEEN)
    held, pins = await keeping.hold(db, repo_id), await keeping.pins(db, repo_id)
    found = Facts(
        hold=held.reason if held else None,
        pins={one.snapshot: one.note for one in pins},
        drilled=row["drilled"],
        deleted_after=row["deleted_after"],
        in_use=frozenset(row["in_use"]),
        seen=tuple(row["seen"]),
    )
    return found, held, pins


@translating
async def size(db: Db, repo_id: RepoId, going: Sequence[int]) -> Size:
    """How many bytes a repo has, and how many of them the snapshots that go may free.

    Where no ref was ever overwritten or deleted, later snapshots need all that earlier ones brought.
    """
    row = await db.fetchrow(
        """
        select
          (
            select coalesce(sum(bytes + index_bytes), 0)::bigint from part
            where repo_id = $1 and replaced_at is null
          ) as stored,
          case when exists (
            select from ref_change where repo_id = $1 and kind in ('forced', 'deleted', 'moved')
              and old is not null and substring(old from 1 for 5) <> 'ref: '::bytea
          ) then (
            select coalesce(sum(segment_bytes), 0)::bigint from snapshot
            where repo_id = $1 and number = any($2)
          ) else 0 end as at_most
        """,
        *(repo_id, list(going)),
    )
    return Size(row["stored"], min(row["at_most"], row["stored"]))


@dataclass(frozen=True, slots=True)
class Due:
    """A repo whose policy may drop something."""

    repo_id: RepoId
    policy: Set
    rewritten_at: datetime | None  # when its log was last packed anew


@translating
async def governed(db: Db, team_id: TeamId | None = None) -> list[Due]:
    """Every repo whose policy does not keep everything, the longest not rewritten first."""
    rows = await db.fetch(
        """
        select repo.id, policy.*,
          (select max(began_at) from epoch where epoch.repo_id = repo.id) as rewritten_at
        from repo
        join lateral (
          select * from retention_policy one
          where one.repo_id = repo.id or (one.repo_id is null and one.team_id = repo.team_id)
          order by one.repo_id is null limit 1
        ) policy on not policy.for_ever
        where ($1::uuid is null or repo.team_id = $1)
          and exists (select from snapshot where snapshot.repo_id = repo.id)
        order by rewritten_at nulls first, repo.id
        """,
        team_id,
    )
    found = []
    for row in rows:
        policy = _set(row)
        assert policy is not None
        found.append(Due(RepoId(UUID(bytes=row[0].bytes)), policy, row["rewritten_at"]))
    return found
