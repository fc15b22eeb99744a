"""What happened and nobody was told of yet: triggers write it down, notify says it and removes it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.core.model import RefName
from mirror.store.database import Db, query, storable, translating
from mirror.store.people.teams import TeamId

AT_ONCE: Final = 2000  # events that are read together


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice, as far as people are told of it."""

    team_id: TeamId
    team: str
    repo: str | None
    kind: str
    message: str
    at: datetime
    is_damaged: bool  # its repo is, which an alarm tells


@dataclass(frozen=True, slots=True)
class Restoring:
    """A restore that began or ended."""

    team_id: TeamId
    team: str
    repo: str
    job_id: UUID | None  # None: at the command line, into a directory or a file
    began: bool
    person: str | None  # None: whoever runs Everref, or somebody who is gone
    is_undo: bool
    state: str  # of the job: done, failed, cancelled, or queued
    failure: str | None
    destination: str | None  # in words; None: it did not get that far
    results: Mapping[str, int]  # how many refs have each result
    verified: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Joining:
    """Somebody joined a team, left it, or has another role."""

    team_id: TeamId
    team: str
    actor: str
    action: str  # member.add, member.role, member.remove, member.leave
    subject: str  # whom it was done to
    role: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """A branch or tag that was force-pushed, moved or deleted."""

    team_id: TeamId
    team: str
    guarded: (
        Sequence[str] | None
    )  # globs of the refs that the team asked for; None: the default branch, and tags
    repo: str
    ref: RefName
    deleted: bool
    is_default: bool
    by: str | None  # None: nobody told us
    snapshot: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Events:
    """What happened, of each kind in the order in which it was written down."""

    ids: Sequence[int]
    notices: Sequence[Notice]
    restores: Sequence[Restoring]
    members: Sequence[Joining]
    refs: Sequence[Taken]


@translating
async def waiting(db: Db) -> Events:
    """What happened and was not looked at yet, the oldest first; locked for the caller's transaction."""
    rows = await db.fetch("select id, kind from event order by id limit $1 for update skip locked", AT_ONCE)
    of: dict[str, list[int]] = {}
    for row in rows:
        of.setdefault(row["kind"], []).append(row["id"])
    restores = of.get("begun", []) + of.get("ended", []) + of.get("restored", [])
    return Events(
        [row["id"] for row in rows],
        await _notices(db, of["notice"]) if "notice" in of else [],
        await _restores(db, sorted(restores)) if restores else [],
        await _members(db, of["member"]) if "member" in of else [],
        await _moves(db, of["refs"]) if "refs" in of else [],
    )


@translating
async def remove(db: Db, ids: Sequence[int]) -> None:
    """These were looked at, in the caller's transaction."""
    await db.execute("delete from event where id = any($1::bigint[])", list(ids))


@translating
async def guarded(db: Db, team_id: TeamId) -> list[str] | None:
    """The globs of the refs that the team wants to hear of. None: the default branch, and tags."""
    found: list[str] | None = await db.fetchval("select guarded_refs from team where id = $1", team_id)
    return found


@translating
async def set_guarded(db: Db, team_id: TeamId, globs: Sequence[str] | None) -> None:
    """Set these globs. Safe to run twice."""
    chosen = None if globs is None else [storable(one) for one in globs]
    await db.execute("update team set guarded_refs = $2 where id = $1", team_id, chosen)


async def _notices(db: Db, ids: Sequence[int]) -> list[Notice]:
    rows = await db.fetch(
        """
        select notice.*, team.name as team, repo.name as repo, repo.damaged_at is not null as is_damaged
        from event join notice on notice.id = event.number
        join team on team.id = notice.team_id left join repo on repo.id = notice.repo_id
        where event.id = any($1::bigint[]) order by event.id
        """,
        list(ids),
    )
    return [
        Notice(
            _team(row), row["team"], row["repo"], row["kind"], row["message"], row["at"], row["is_damaged"]
        )
        for row in rows
    ]


async def _restores(db: Db, ids: Sequence[int]) -> list[Restoring]:
    rows = await db.fetch(
        """
        select event.kind as event_kind, event.job_id, repo.team_id, team.name as team, repo.name as repo,
          person.name as person, coalesce(job.asked ? 'undo', false) as is_undo,
          coalesce(job.state, 'done') as state, job.failure_message, restore.destination, restore.results,
          coalesce(restore.verified, false) as verified,
          case
            when event.kind = 'begun' then job.queued_at
            else coalesce(job.finished_at, restore.finished_at)
          end as at
        from event
        join repo on repo.id = event.repo_id join team on team.id = repo.team_id
        left join job on job.id = event.job_id
        left join restore
          on restore.job_id = event.job_id or (event.job_id is null and restore.id = event.number)
        left join person on person.id = coalesce(job.person_id, restore.person_id)
        where event.id = any($1::bigint[]) order by event.id
        """,
        list(ids),
    )
    return [
        Restoring(
            _team(row),
            row["team"],
            row["repo"],
            None if row["job_id"] is None else UUID(bytes=row["job_id"].bytes),
            row["event_kind"] == "begun",
            row["person"],
            row["is_undo"],
            row["state"],
            row["failure_message"],
            row["destination"],
            json.loads(row["results"] or "{}"),
            row["verified"],
            row["at"],
        )
        for row in rows
        if row["at"] is not None
    ]


async def _members(db: Db, ids: Sequence[int]) -> list[Joining]:
    rows = await db.fetch(
        """
        select audit.*, team.name as team from event
        join audit on audit.team_id = event.team_id and audit.number = event.number
        join team on team.id = event.team_id
        where event.id = any($1::bigint[]) order by event.id
        """,
        list(ids),
    )
    return [
        Joining(
            _team(row),
            row["team"],
            row["actor"],
            row["action"],
            row["subject"],
            json.loads(row["detail"]).get("role"),
            row["at"],
        )
        for row in rows
    ]


async def _moves(db: Db, ids: Sequence[int]) -> list[Taken]:
    return [
        Taken(
            _team(row),
            row["team"],
            row["guarded_refs"],
            row["repo"],
            RefName(row["ref"]),
            row["kind"] == "deleted",
            row["is_default"],
            row["pushed_by"],
            row["snapshot"],
            row["at"],
        )
        for row in await db.fetch(query("events_moves"), list(ids))
    ]


def _team(row: Any) -> TeamId:
    return TeamId(UUID(bytes=row["team_id"].bytes))
