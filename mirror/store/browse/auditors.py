"""What an auditor asks about a team in a period, beyond the report's line for each repo."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from mirror.core.model import label
from mirror.store.database import Db, translating
from mirror.store.people.teams import TeamId

MOST: Final = 1000  # rows of one section


@dataclass(frozen=True, slots=True)
class Delay:
    """How late pushes to one repo were saved in the period, as far as its host told when they were made."""

    repo: str
    moves: int  # of refs, that were saved in the period
    timed: int  # of these, those of which the host told the time
    worst_seconds: float | None  # from the push until it was saved, at worst; None: no time is known
    objective_seconds: float  # its recovery point objective, as it is now
    protected_as_of: datetime | None  # now; None: never


@dataclass(frozen=True, slots=True)
class Restored:
    """One restore that ended in the period."""

    repo: str
    snapshot: str  # as people call it
    destination: str  # without credentials
    verified: bool  # every ref that was written was read back equal
    finished_at: datetime
    person: str | None  # None: whoever runs Everref, or somebody who is gone


@dataclass(frozen=True, slots=True)
class Drilled:
    """One drill that ended in the period."""

    repo: str
    snapshot: str  # as people call it
    passed: bool
    seconds: float  # that the restore took
    bytes: int  # read from the vault
    refs: int  # compared
    finished_at: datetime
    evidence: str | None  # the name of its signed statement; None: it has none


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What the rotation read of the team's stored bytes in the period."""

    bytes: int
    objects: int
    problems: int  # objects that were missing or changed


@dataclass(frozen=True, slots=True)
class DayRead:
    """What the rotation read on one day of the period."""

    day: date  # in UTC
    bytes: int
    objects: int
    problems: int  # objects that were missing or changed
    signed: bool  # there is a signed statement about it


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept: every snapshot, for ever."""

    snapshots: int
    first_at: datetime | None  # the oldest; None: there is none


@dataclass(frozen=True, slots=True)
class Access:
    """A person who is a member now."""

    person: str
    role: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Action:
    """An entry of the audit log in the period."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    result: str


@dataclass(frozen=True, slots=True)
class Exempt:
    """A repo that is not backed up whole, and why; as it is now."""

    repo: str
    why: str
    since: datetime | None  # None: it is not known


@translating
async def delays(db: Db, team: TeamId, start: datetime, end: datetime) -> Sequence[Delay]:
    """Every repo of the team, the latest first."""
    rows = await db.fetch(
        """
        select repo.name, repo.objective, repo.protected_as_of, found.* from repo cross join lateral (
          select count(*) as moves, count(pushed_at) as timed,
            extract(epoch from max(greatest(taken_at - pushed_at, interval '0')))::float8 as worst
          from snapshot join ref_change
            on ref_change.repo_id = snapshot.repo_id and ref_change.snapshot = snapshot.number
          where snapshot.repo_id = repo.id and taken_at >= $2 and taken_at < $3
        ) as found
        where team_id = $1 order by worst desc nulls last, repo.name
        """,
        team,
        start,
        end,
    )
    return [
        Delay(
            row["name"],
            row["moves"],
            row["timed"],
            row["worst"] if row["timed"] else None,
            row["objective"].total_seconds(),
            row["protected_as_of"],
        )
        for row in rows
    ]


@translating
async def restores(db: Db, team: TeamId, start: datetime, end: datetime) -> Sequence[Restored]:
    """The restores of the period, newest first, bundles and undos among them."""
    rows = await db.fetch(
        """
        select repo.name, restore.*, person.name as person
        from restore join repo on repo.id = restore.repo_id left join person on person.id = restore.person_id
        where repo.team_id = $1 and finished_at >= $2 and finished_at < $3
        order by finished_at desc, restore.id desc limit $4
        """,
        team,
        start,
        end,
        MOST,
    )
    return [
        Restored(
            row["name"],
            label(row["snapshot"], row["moment"]),
            row["destination"],
            row["verified"],
            row["finished_at"],
            row["person"],
        )
        for row in rows
    ]


@translating
async def drills(db: Db, team: TeamId, start: datetime, end: datetime) -> Sequence[Drilled]:
    """The drills of the period, newest first, each with its statement."""
    rows = await db.fetch(
        """
        select repo.name, drill.*, evidence.key
        from drill join repo on repo.id = drill.repo_id left join evidence
          on evidence.repo_id = drill.repo_id and evidence.at = drill.finished_at and evidence.kind = 'drill'
        where repo.team_id = $1 and finished_at >= $2 and finished_at < $3
        order by finished_at desc, drill.id desc limit $4
        """,
        team,
        start,
        end,
        MOST,
    )
    return [
        Drilled(
            row["name"],
            label(row["snapshot"], row["moment"]),
            not row["problems"],
            row["seconds"],
            row["bytes"],
            row["refs"],
            row["finished_at"],
            row["key"] and row["key"].rpartition("/")[2],
        )
        for row in rows
    ]


@translating
async def read_back(db: Db, team: TeamId, start: datetime, end: datetime) -> ReadBack:
    """What the rotation read on the days (UTC) of the period."""
    row = await db.fetchrow(
        """
        select coalesce(sum(bytes), 0)::bigint as bytes, coalesce(sum(objects), 0)::bigint as objects,
          coalesce(sum(problems), 0)::bigint as problems
        from reading where team_id = $1 and day >= ($2::timestamptz at time zone 'UTC')::date
          and day < ($3::timestamptz at time zone 'UTC')::date + 1
        """,
        team,
        start,
        end,
    )
    return ReadBack(row["bytes"], row["objects"], row["problems"])


@translating
async def days_read(db: Db, team: TeamId, start: datetime, end: datetime) -> Sequence[DayRead]:
    """The days (UTC) of the period on which the rotation read anything, newest first."""
    rows = await db.fetch(
        """
        select reading.*, daily_evidence.key is not null as signed
        from reading left join daily_evidence using (team_id, day)
        where team_id = $1 and day >= ($2::timestamptz at time zone 'UTC')::date
          and day < ($3::timestamptz at time zone 'UTC')::date + 1
        order by day desc limit $4
        """,
        team,
        start,
        end,
        MOST,
    )
    return [DayRead(row["day"], row["bytes"], row["objects"], row["problems"], row["signed"]) for row in rows]


@translating
async def kept(db: Db, team: TeamId) -> Kept:
    """How many snapshots there are, and since when."""
    row = await db.fetchrow(
        """
        select coalesce(sum(last.number), 0)::bigint as snapshots, min(first.taken_at) as first_at
        from repo
        cross join lateral (
          select number from snapshot where repo_id = repo.id order by number desc limit 1
        ) as last
        cross join lateral (
          select taken_at from snapshot where repo_id = repo.id order by number limit 1
        ) as first
        where team_id = $1
        """,
        team,
    )
    return Kept(row["snapshots"], row["first_at"])


@translating
async def access(db: Db, team: TeamId) -> Sequence[Access]:
    """Who is a member now."""
    rows = await db.fetch(
        """
        select person.name, role, since from member join person on person.id = person_id
        where team_id = $1 order by since, person.name
        """,
        team,
    )
    return [Access(row["name"], row["role"], row["since"]) for row in rows]


@translating
async def actions(db: Db, team: TeamId, start: datetime, end: datetime) -> Sequence[Action]:
    """The audit log of the period, newest first, without what only backs up, reads or restores."""
    rows = await db.fetch(
        """
        select number, at, actor, action, subject, result from audit
        where team_id = $1 and at >= $2 and at < $3 and action !~ '^(restore|job)[.]'
          and action <> all (array['repo.back-up', 'repo.verify', 'repo.drill', 'repo.compact', 'repo.prune',
            'team.sweep', 'hook.check'])
        order by number desc limit $4
        """,
        team,
        start,
        end,
        MOST,
    )
    return [Action(*row) for row in rows]


@translating
async def exempt(db: Db, team: TeamId) -> Sequence[Exempt]:
    """The repos that are not backed up whole now, and why; a repo can have several reasons."""
    rows = await db.fetch(
        """
        select name, why, since from repo cross join lateral (values
          (case when archived_at is not null then 'its host says that it no longer exists' end, archived_at),
          (case when archived_at is null and paused_at is not null and disconnected
            then 'its connection was removed' end, paused_at),
          (case when archived_at is null and paused_at is not null and not disconnected
            then 'somebody paused it' end, paused_at),
          (case when failing_since is not null and archived_at is null and paused_at is null
            then 'it fails: ' || failure_class end, failing_since),
          (case when damaged_at is not null then 'its backup was found damaged' end, damaged_at),
          (case when cardinality(excluded) > 0
            then 'refs are excluded: ' || array_to_string(excluded, ' ') end, null),
          (case when lfs_files > 0 then lfs_files || ' large files (Git LFS) are not backed up' end, null)
        ) as reason (why, since)
        where team_id = $1 and why is not null order by name, why limit $2
        """,
        team,
        MOST,
    )
    return [_exempt(row) for row in rows]


def _exempt(row: Any) -> Exempt:
    return Exempt(row["name"], row["why"], row["since"])
