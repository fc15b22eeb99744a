"""What was asked for that takes something away for ever, and how far it is. See sql/180_pending.sql."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NewType
from uuid import UUID

from mirror.core.model import RepoId
from mirror.core.rules.keeping import pending as rules
from mirror.core.rules.keeping.pending import Admin, Asked, Kind
from mirror.core.rules.roles import PersonId, Role
from mirror.store.database import Db, storable, translating
from mirror.store.people.teams import TeamId

PendingId = NewType("PendingId", UUID)
State = Literal["asked", "agreed", "under-way", "done", "failed", "cancelled", "lapsed"]
Stage = Literal["asked", "confirmed", "cancelled", "soon", "done", "failed", "lapsed"]


@dataclass(frozen=True, slots=True)
class Pending:
    """One thing that was asked for."""

    id: PendingId
    team_id: TeamId | None  # None: the team is gone
    team: str  # as it was called when this was asked for
    repo_id: RepoId | None  # None: it is about no repo
    kind: Kind
    wanted: Mapping[str, Any]  # what its kind needs to know, in JSON
    subject: str  # what it is done to, in words
    why: str  # empty: no reason was given
    asked: Asked
    asked_name: str
    is_alone: bool  # nobody else could confirm it: it waits longer instead
    confirmed_name: str | None
    confirmed_at: datetime | None
    takes_effect_at: datetime | None  # None: it needs a second person
    soon_told_at: datetime | None  # when the team was told that it comes soon; None: not yet
    cancelled_name: str | None
    cancelled_at: datetime | None
    begun_at: datetime | None  # from here on it cannot be cancelled
    done_at: datetime | None
    failed: str | None  # why the last try did not end well
    result: Mapping[str, Any] | None

    @property
    def does(self) -> str:
        """What it does, in words."""
        return rules.does(self.kind, self.subject)

    @property
    def is_open(self) -> bool:
        """Whether it may still happen."""
        return self.cancelled_at is None and self.done_at is None

    def state(self, now: datetime) -> State:
        """How far it is."""
        if self.cancelled_at is not None:
            return "cancelled" if self.cancelled_name else "lapsed"
        if self.done_at is not None:
            return "failed" if self.failed else "done"
        if self.begun_at is not None:
            return "under-way"
        return "asked" if self.takes_effect_at is None else "agreed"


@dataclass(frozen=True, slots=True)
class New:
    """What is asked for, before it has a row."""

    team_id: TeamId
    team: str
    repo_id: RepoId | None
    kind: Kind
    wanted: Mapping[str, Any]
    subject: str
    why: str
    asked: Asked
    asked_name: str
    is_alone: bool
    takes_effect_at: datetime | None


@translating
async def add(db: Db, new: New) -> Pending | None:
    """Record it. None: the same is open already."""
    row = await db.fetchrow(
        """
        insert into pending_action (team_id, team_name, repo_id, kind, wanted, subject, why,
          asked_by, asked_name, by_operator, asked_at, is_alone, takes_effect_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        on conflict do nothing returning *
        """,
        new.team_id,
        new.team,
        new.repo_id,
        new.kind,
        _json(new.wanted),
        storable(new.subject),
        storable(new.why),
        new.asked.by,
        storable(new.asked_name),
        new.asked.by_operator,
        new.asked.at,
        new.is_alone,
        new.takes_effect_at,
    )
    return None if row is None else _pending(row)


@translating
async def same(db: Db, new: New) -> Pending | None:
    """The open one that asks for the same. None: there is none."""
    row = await db.fetchrow(
        """
        select * from pending_action
        where team_id = $1 and kind = $2 and repo_id is not distinct from $3 and wanted = $4
          and cancelled_at is null and done_at is null
        """,
        new.team_id,
        new.kind,
        new.repo_id,
        _json(new.wanted),
    )
    return None if row is None else _pending(row)


@translating
async def find(db: Db, pending_id: PendingId) -> Pending | None:
    """The one of this id."""
    row = await db.fetchrow("select * from pending_action where id = $1", pending_id)
    return None if row is None else _pending(row)


@translating
async def of_team(db: Db, team_id: TeamId, *, only_open: bool = False, limit: int = 100) -> list[Pending]:
    """The team's, the newest first."""
    rows = await db.fetch(
        """
        select * from pending_action
        where team_id = $1 and (not $2 or (cancelled_at is null and done_at is null))
        order by asked_at desc, id limit $3
        """,
        team_id,
        only_open,
        limit,
    )
    return [_pending(row) for row in rows]


@translating
async def of_all(db: Db, *, only_open: bool = True, limit: int = 1000) -> list[Pending]:
    """Those of every team, the newest first."""
    rows = await db.fetch(
        """
        select * from pending_action where not $1 or (cancelled_at is null and done_at is null)
        order by asked_at desc, id limit $2
        """,
        only_open,
        limit,
    )
    return [_pending(row) for row in rows]


@translating
async def of_repo(db: Db, repo_id: RepoId) -> list[Pending]:
    """The open ones about a repo, the newest first."""
    rows = await db.fetch(
        """
        select * from pending_action
        where repo_id = $1 and cancelled_at is null and done_at is null order by asked_at desc, id
        """,
        repo_id,
    )
    return [_pending(row) for row in rows]


@translating
async def of_former(db: Db, person_id: PersonId) -> list[Pending]:
    """The open ones of teams of which this person lately was an admin or owner."""
    rows = await db.fetch(
        """
        select pending_action.* from pending_action join former_admin using (team_id)
        where former_admin.person_id = $1 and left_at > asked_at - $2::interval
          and cancelled_at is null and done_at is null
        order by asked_at desc
        """,
        person_id,
        rules.FORMER,
    )
    return [_pending(row) for row in rows]


@translating
async def admins(db: Db, team_id: TeamId) -> list[Admin]:
    """The team's admins and owners, and those who were that once and are not any more, by name."""
    rows = await db.fetch(
        """
        select person.id, name, role, coalesce(admin_since, since) as since, null::timestamptz as left_at
        from member join person on person.id = person_id
        where team_id = $1 and role in ('admin', 'owner')
        union all
        select person.id, name, role, left_at, left_at from former_admin join person on person.id = person_id
        where team_id = $1 and not exists (
          select from member where member.team_id = former_admin.team_id
            and member.person_id = former_admin.person_id and member.role in ('admin', 'owner')
        )
        order by name, id
        """,
        team_id,
    )
    return [
        Admin(
            PersonId(UUID(bytes=row["id"].bytes)),
            row["name"],
            Role(row["role"]),
            row["since"],
            row["left_at"],
        )
        for row in rows
    ]


@translating
async def days(db: Db, team_id: TeamId) -> int:
    """How many days there are between a confirmation and its effect."""
    found: int | None = await db.fetchval("select pending_days from team where id = $1", team_id)
    return rules.DAYS if found is None else found


@translating
async def set_days(db: Db, team_id: TeamId, number: int) -> None:
    """Set them, for what is asked for from now on."""
    await db.execute("update team set pending_days = $2 where id = $1", team_id, number)


@translating
async def confirm(
    db: Db, pending_id: PendingId, by: PersonId | None, name: str, at: datetime, takes_effect_at: datetime
) -> bool:
    """Record the second person. False: somebody did before, or it was cancelled."""
    done = await db.execute(
        """
        update pending_action set
          confirmed_by = $2, confirmed_name = $3, confirmed_at = $4, takes_effect_at = $5
        where id = $1 and takes_effect_at is null and cancelled_at is null
        """,
        pending_id,
        by,
        storable(name),
        at,
        takes_effect_at,
    )
    return done == "UPDATE 1"


@translating
async def cancel(db: Db, pending_id: PendingId, by: PersonId | None, name: str, at: datetime) -> bool:
    """Cancel it. False: it has begun, or was cancelled. Of this and `begin` exactly one wins."""
    done = await db.execute(
        """
        update pending_action set cancelled_by = $2, cancelled_name = $3, cancelled_at = $4
        where id = $1 and cancelled_at is null and begun_at is null
        """,
        pending_id,
        by,
        storable(name),
        at,
    )
    return done == "UPDATE 1"


@translating
async def begin(db: Db, pending_id: PendingId, at: datetime) -> bool:
    """Begin to do it, or go on after a run that was killed.

    False: it was cancelled, is done, or nobody was told a day before.
    """
    done = await db.execute(
        """
        update pending_action set begun_at = coalesce(begun_at, $2)
        where id = $1 and cancelled_at is null and done_at is null and takes_effect_at <= $2
          and (begun_at is not null or soon_told_at <= $2 - $3::interval)
        """,
        pending_id,
        at,
        rules.SOON,
    )
    return done == "UPDATE 1"


@translating
async def due(db: Db, at: datetime) -> list[Pending]:
    """Those whose time has come, as was told a day before, or that had begun, the oldest first."""
    rows = await db.fetch(
        """
        select * from pending_action
        where cancelled_at is null and done_at is null and takes_effect_at <= $1
          and (begun_at is not null or soon_told_at <= $1 - $2::interval)
          and (retry_at is null or retry_at <= $1)
        order by takes_effect_at, id
        """,
        at,
        rules.SOON,
    )
    return [_pending(row) for row in rows]


@translating
async def to_announce(db: Db, before: datetime) -> list[Pending]:
    """Those that take effect before this, and of which nobody was told that they come soon."""
    rows = await db.fetch(
        """
        select * from pending_action
        where cancelled_at is null and done_at is null and begun_at is null and soon_told_at is null
          and takes_effect_at <= $1
        order by takes_effect_at, id
        """,
        before,
    )
    return [_pending(row) for row in rows]


@translating
async def announce(db: Db, pending_id: PendingId, at: datetime, takes_effect_at: datetime) -> Pending | None:
    """Record that people are told that it comes, and when. None: they were, it has begun or was cancelled."""
    row = await db.fetchrow(
        """
        update pending_action set soon_told_at = $2, takes_effect_at = $3
        where id = $1 and cancelled_at is null and done_at is null and begun_at is null
          and soon_told_at is null and takes_effect_at is not null
        returning *
        """,
        pending_id,
        at,
        takes_effect_at,
    )
    return None if row is None else _pending(row)


@translating
async def end(db: Db, pending_id: PendingId, result: Mapping[str, Any], at: datetime) -> bool:
    """Record that it is done. False: it was before."""
    done = await db.execute(
        """
        update pending_action set done_at = $2, result = $3, failed = null
        where id = $1 and done_at is null
        """,
        pending_id,
        at,
        _json(result),
    )
    return done == "UPDATE 1"


@translating
async def fail(db: Db, pending_id: PendingId, why: str, at: datetime, retry_at: datetime | None) -> None:
    """Record why a try failed, and when the next one is. None: there is none, so that it has ended."""
    await db.execute(
        """
        update pending_action set
          failed = $2, retry_at = $4, done_at = case when $4::timestamptz is null then $3::timestamptz end
        where id = $1 and done_at is null
        """,
        pending_id,
        storable(why),
        at,
        retry_at,
    )


@translating
async def lapse(db: Db, before: datetime, at: datetime) -> list[Pending]:
    """End those that were asked for before this and that nobody confirmed; returns them."""
    rows = await db.fetch(
        """
        update pending_action set cancelled_at = $2, cancelled_name = ''
        where takes_effect_at is null and cancelled_at is null and asked_at < $1 returning *
        """,
        before,
        at,
    )
    return [_pending(row) for row in rows]


@translating
async def to_tell(db: Db, since: datetime) -> list[Pending]:
    """Those that are open, or ended since then: people may have to be told of them."""
    rows = await db.fetch(
        """
        select * from pending_action
        where (cancelled_at is null and done_at is null) or cancelled_at > $1 or done_at > $1
        order by asked_at
        """,
        since,
    )
    return [_pending(row) for row in rows]


@translating
async def were_told(db: Db, pending_id: PendingId, stage: Stage) -> set[PersonId]:
    """Who was mailed this, or cannot be."""
    rows = await db.fetch(
        "select person_id from pending_told where action_id = $1 and stage = $2", pending_id, stage
    )
    return {PersonId(UUID(bytes=row[0].bytes)) for row in rows}


@translating
async def tell(db: Db, pending_id: PendingId, stage: Stage, person_id: PersonId, at: datetime) -> None:
    """Record that this person was mailed, or cannot be. Safe to run twice."""
    await db.execute(
        """
        insert into pending_told (action_id, stage, person_id, at)
        select $1, $2, id, $4 from person where id = $3 on conflict do nothing
        """,
        pending_id,
        stage,
        person_id,
        at,
    )


@translating
async def confirmed_addresses(db: Db, ids: Sequence[PersonId]) -> dict[PersonId, str]:
    """The e-mail addresses of these people that they have confirmed."""
    rows = await db.fetch(
        """
        select id, email from person
        where id = any($1::uuid[]) and email is not null and email_confirmed_at is not null
        """,
        list(ids),
    )
    return {PersonId(UUID(bytes=row["id"].bytes)): row["email"] for row in rows}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True).replace("\\u0000", "\\ufffd")


def _pending(row: Any) -> Pending:
    asker, repo_id, team_id = row["asked_by"], row["repo_id"], row["team_id"]
    return Pending(
        id=PendingId(UUID(bytes=row["id"].bytes)),
        team_id=None if team_id is None else TeamId(UUID(bytes=team_id.bytes)),
        team=row["team_name"],
        repo_id=None if repo_id is None else RepoId(UUID(bytes=repo_id.bytes)),
        kind=Kind(row["kind"]),
        wanted=json.loads(row["wanted"]),
        subject=row["subject"],
        why=row["why"],
        asked=Asked(
            None if asker is None else PersonId(UUID(bytes=asker.bytes)), row["by_operator"], row["asked_at"]
        ),
        asked_name=row["asked_name"],
        is_alone=row["is_alone"],
        confirmed_name=row["confirmed_name"],
        confirmed_at=row["confirmed_at"],
        takes_effect_at=row["takes_effect_at"],
        soon_told_at=row["soon_told_at"],
        cancelled_name=row["cancelled_name"],
        cancelled_at=row["cancelled_at"],
        begun_at=row["begun_at"],
        done_at=row["done_at"],
        failed=row["failed"],
        result=None if row["result"] is None else json.loads(row["result"]),
    )
