"""Plans to put refs of several repos back, as they were made and as they are done."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NewType
from uuid import UUID, uuid4

from mirror.core.model import RefName, RepoId, Target
from mirror.core.rules.history.plan import Lease
from mirror.core.rules.history.rollback import Planned
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.store.people.teams import TeamId

RollbackId = NewType("RollbackId", UUID)


@dataclass(frozen=True, slots=True)
class PlannedRef:
    """One ref of a rollback."""

    place: int  # among all refs of the rollback
    ref: Planned
    chosen: bool  # it is part of what is done


@dataclass(frozen=True, slots=True)
class PlannedRepo:
    """One repo of a rollback."""

    repo_id: RepoId
    repo: str
    snapshot: int  # the last kept one before the first of the moves
    problem: str | None  # its host could not be asked, or its job not be queued; None: neither
    refs: tuple[PlannedRef, ...]
    is_read: bool = True  # False: what its refs hold is not known yet, and it has none here

    @property
    def chosen(self) -> int:
        """How many of its refs are part of what is done."""
        return sum(one.chosen for one in self.refs)


@dataclass(frozen=True, slots=True)
class Rollback:
    """A plan to put refs of several repos of a team back."""

    id: RollbackId
    team_id: TeamId
    person_id: UUID | None  # None: whoever runs Everref
    person: str | None  # their name; None: likewise, or somebody who is gone
    asked: Mapping[str, Any]  # the window, and what it was narrowed to
    planned_at: datetime
    begun_at: datetime | None  # None: nothing was done
    repos: tuple[PlannedRepo, ...]
    created: bool = False  # refs that did not exist before are chosen, too
    moved: bool = False  # so are those that others pushed to since

    @property
    def unread(self) -> tuple[PlannedRepo, ...]:
        """The repos whose hosts are still to be asked; while there is one, the plan is being made."""
        return tuple(one for one in self.repos if not one.is_read)

    @property
    def chosen(self) -> int:
        """How many refs are part of what is done."""
        return sum(one.chosen for one in self.repos)


@translating
async def add(
    db: Db,
    team_id: TeamId,
    person_id: UUID | None,
    asked: Mapping[str, Any],
    repos: Sequence[tuple[RepoId, int]],
    *,
    created: bool,
    moved: bool,
    at: datetime,
) -> RollbackId:
    """Keep a plan of which no repo is read yet; plans of the team that nobody began go after a day.

    `repos`: with each a snapshot before the first of its moves.
    """
    made = RollbackId(uuid4())
    async with transaction(db) as connection:
        await connection.execute(
            """
            delete from rollback
            where team_id = $1 and begun_at is null and planned_at < $2::timestamptz - interval '1 day'
            """,
            *(team_id, at),
        )
        await connection.execute(
            """
            insert into rollback (id, team_id, person_id, asked, planned_at, created, moved)
            values ($1, $2, $3, $4, $5, $6, $7)
            """,
            *(made, team_id, person_id, json.dumps(dict(asked)), at, created, moved),
        )
        await connection.copy_records_to_table(
            "rollback_repo",
            records=[(made, repo_id, snapshot, False) for repo_id, snapshot in repos],
            columns=("rollback_id", "repo_id", "snapshot", "is_read"),
        )
    return made


@dataclass(frozen=True, slots=True)
class Read:
    """What a plan does with one repo, as it was read."""

    repo_id: RepoId
    snapshot: int
    problem: str | None  # why its host could not be asked; None: it was
    refs: tuple[tuple[Planned, bool], ...]  # with whether each is chosen


@translating
async def add_read(db: Db, rollback_id: RollbackId, repos: Sequence[Read]) -> None:
    """Keep what was read of these repos. One that was read already, by somebody else, stays as it is."""
    async with transaction(db) as connection:
        await connection.execute("select from rollback where id = $1 for update", rollback_id)
        rows = await connection.fetch(
            """
            update rollback_repo set is_read = true, snapshot = given.snapshot, problem = given.problem
            from unnest($2::uuid[], $3::int[], $4::text[]) given (repo_id, snapshot, problem)
            where rollback_id = $1 and rollback_repo.repo_id = given.repo_id and not is_read
            returning rollback_repo.repo_id
            """,
            rollback_id,
            [one.repo_id for one in repos],
            [one.snapshot for one in repos],
            [None if one.problem is None else storable(one.problem) for one in repos],
        )
        unread = {RepoId(UUID(bytes=row["repo_id"].bytes)) for row in rows}
        last = await connection.fetchval(
            "select coalesce(max(place), 0) from rollback_ref where rollback_id = $1", rollback_id
        )
        some = [(one.repo_id, *each) for one in repos if one.repo_id in unread for each in one.refs]
        await connection.copy_records_to_table(
            "rollback_ref",
            records=[
                (
                    *(rollback_id, last + number, repo_id, ref.name, ref.expected, ref.target),
                    *(ref.state, storable(ref.why), chosen),
                )
                for number, (repo_id, ref, chosen) in enumerate(some, 1)
            ],
            columns=(
                *("rollback_id", "place", "repo_id", "name", "expected", "target"),
                *("state", "why", "chosen"),
            ),
        )


@translating
async def find(db: Db, team_id: TeamId, rollback_id: RollbackId) -> Rollback | None:
    """The team's plan of this id, with all its refs."""
    row = await db.fetchrow(
        """
        select rollback.*, person.name as person
        from rollback left join person on person.id = person_id where rollback.id = $2 and team_id = $1
        """,
        *(team_id, rollback_id),
    )
    if row is None:
        return None
    repos = await db.fetch(
        """
        select each.*, repo.name as repo from rollback_repo each join repo on repo.id = repo_id
        where rollback_id = $1 order by repo.name
        """,
        rollback_id,
    )
    refs = await db.fetch("select * from rollback_ref where rollback_id = $1 order by place", rollback_id)
    by_repo: dict[UUID, list[PlannedRef]] = {}
    for each in refs:
        by_repo.setdefault(each["repo_id"], []).append(_ref(each))
    return Rollback(
        RollbackId(UUID(bytes=row["id"].bytes)),
        TeamId(UUID(bytes=row["team_id"].bytes)),
        None if row["person_id"] is None else UUID(bytes=row["person_id"].bytes),
        row["person"],
        json.loads(row["asked"]),
        row["planned_at"],
        row["begun_at"],
        tuple(
            PlannedRepo(
                RepoId(UUID(bytes=one["repo_id"].bytes)),
                one["repo"],
                one["snapshot"],
                one["problem"],
                tuple(by_repo.get(one["repo_id"], ())),
                one["is_read"],
            )
            for one in repos
        ),
        row["created"],
        row["moved"],
    )


def _ref(row: Any) -> PlannedRef:
    expected, target = (None if row[side] is None else Target(row[side]) for side in ("expected", "target"))
    planned = Planned(RefName(row["name"]), expected, target, row["state"], row["why"])
    return PlannedRef(row["place"], planned, row["chosen"])


@translating
async def leases(db: Db, rollback_id: RollbackId, repo_id: RepoId) -> list[Lease]:
    """What the job of this repo does: the chosen refs, each with what the plan saw there."""
    rows = await db.fetch(
        "select * from rollback_ref where rollback_id = $1 and repo_id = $2 and chosen order by place",
        *(rollback_id, repo_id),
    )
    return [_ref(row).ref.lease for row in rows]


@translating
async def begin(db: Db, rollback_id: RollbackId, places: Collection[int] | None, at: datetime) -> bool:
    """Begin a plan with these of its refs, those that can be put back; None: as it was planned.

    False: it was begun already, by somebody else's press or an earlier one, and stays as it is; so does one
    of which a repo is not read.
    """
    async with transaction(db) as connection:
        begun: str = await connection.execute(
            """
            update rollback set begun_at = $2 where id = $1 and begun_at is null
              and not exists (select from rollback_repo where rollback_id = $1 and not is_read)
            """,
            *(rollback_id, at),
        )
        if begun != "UPDATE 1":
            return False
        if places is not None:
            await connection.execute(_CHOOSE, rollback_id, list(places))
    return True


_CHOOSE: Final = """
update rollback_ref set chosen = place = any($2::int[]) and state in ('ready', 'moved') where rollback_id = $1
"""


@translating
async def choose(db: Db, rollback_id: RollbackId, places: Collection[int]) -> None:
    """Choose these of a plan's refs, those that can be put back. One that was begun stays as it is."""
    async with transaction(db) as connection:
        open_ = await connection.fetchval(
            "select true from rollback where id = $1 and begun_at is null for update", rollback_id
        )
        if open_:
            await connection.execute(_CHOOSE, rollback_id, list(places))


@translating
async def set_problem(db: Db, rollback_id: RollbackId, repo_id: RepoId, problem: str | None) -> None:
    """Keep why the job of this repo could not be queued; None: it was."""
    await db.execute(
        "update rollback_repo set problem = $3 where rollback_id = $1 and repo_id = $2",
        *(rollback_id, repo_id, None if problem is None else storable(problem)),
    )


@translating
async def jobs_of(db: Db, rollback_id: RollbackId) -> list[tuple[Job, bool]]:
    """The jobs of a rollback, those that undo it too, oldest first; and whether each wrote to its host."""
    rows = await db.fetch(
        """
        select job.*, exists (select from restored_ref where job_id = job.id) as wrote
        from job where asked ? 'rollback' and asked->>'rollback' = $1
        order by queued_at, id
        """,
        str(rollback_id),
    )
    return [(jobs.from_row(row), row["wrote"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Begun:
    """A rollback of a team that was begun, as a list has it."""

    id: RollbackId
    person: str | None  # None: whoever runs Everref, or somebody who is gone
    asked: Mapping[str, Any]
    begun_at: datetime
    repos: int
    refs: int  # that were chosen


@translating
async def latest(db: Db, team_id: TeamId, most: int) -> list[Begun]:
    """The rollbacks of a team that were begun, newest first."""
    rows = await db.fetch(
        """
        select rollback.id, person.name as person, asked, begun_at, counts.*
        from rollback left join person on person.id = person_id
        cross join lateral (
          select count(distinct repo_id) as repos, count(*) as refs
          from rollback_ref where rollback_id = rollback.id and chosen
        ) counts
        where team_id = $1 and begun_at is not null order by begun_at desc limit $2
        """,
        *(team_id, most),
    )
    return [
        Begun(
            RollbackId(UUID(bytes=row["id"].bytes)),
            row["person"],
            json.loads(row["asked"]),
            *(row[name] for name in ("begun_at", "repos", "refs")),
        )
        for row in rows
    ]
