"""Jobs: pieces of work that somebody can watch, from the request to the result."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NewType, cast
from uuid import UUID, uuid4

import asyncpg

from mirror.core.errors import Busy, EverrefError, NotFound, Origin
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId, Secret
from mirror.core.progress import Phase, Seen
from mirror.store.database import Db, storable, translating
from mirror.store.people.teams import TeamId

JobId = NewType("JobId", UUID)
Kind = Literal["sync", "restore", "drill", "verify", "bundle", "compact", "import"]
State = Literal["queued", "running", "done", "failed", "cancelled"]

ENDED: Final[frozenset[State]] = frozenset({"done", "failed", "cancelled"})
_NOTES: Final = 200  # the last lines of a job that are kept


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job failed."""

    kind: str  # the class, in the words of mirror/core/errors.py
    message: str
    origin: Origin | None = None  # whose failure it was; None: not known


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work on a repo."""

    id: JobId
    repo_id: RepoId
    team_id: TeamId
    kind: Kind
    asked: Mapping[str, Any]  # without secrets
    sealed: bytes | None = field(repr=False)  # credentials used once; gone when it ends
    person_id: UUID | None  # None: Everref itself
    state: State
    queued_at: datetime
    due_at: datetime | None  # it does not start before then; None: at once
    attempt: int  # how often it was started
    started_at: datetime | None  # the last time; None: it has not started yet
    finished_at: datetime | None  # None: it has not ended
    cancel_at: datetime | None  # when somebody asked it to stop
    phase: str | None  # in words; None: it is in none yet
    done: int | None  # of the phase
    total: int | None  # None: not known
    unit: str | None  # "bytes", or a plural noun
    bytes: int  # moved by all phases
    phases: tuple[Phase, ...]  # as they ended
    notes: tuple[str, ...]
    result: Mapping[str, Any] | None  # what came of it; None: nothing yet
    failure: JobFailure | None  # None: it has not failed

    def secret(self, keyring: Keyring) -> Secret | None:
        """The credentials that were given for this job alone. Raises BadKey."""
        if self.sealed is None:
            return None
        found = json.loads(keyring.open(self.sealed, _context(self.id)))
        return Secret(found["username"], found["password"])


def seal(keyring: Keyring, job_id: JobId, secret: Secret) -> bytes:
    """Credentials sealed for this job."""
    plain = json.dumps({"username": secret.username, "password": secret.password}).encode()
    return keyring.seal(plain, _context(job_id))


def new_id() -> JobId:
    """An id for a job that is about to be queued."""
    return JobId(uuid4())


class BegunAlready(Busy):
    """Another request, made at the same moment, has queued the job of this id."""

    def __init__(self) -> None:
        super().__init__("this was started a moment ago already")


@translating
async def queue(
    db: Db,
    repo_id: RepoId,
    kind: Kind,
    asked: Mapping[str, Any],
    at: datetime,
    *,
    job_id: JobId | None = None,
    person_id: UUID | None = None,
    sealed: bytes | None = None,
) -> Job:
    """Queue a job; a sync or compaction that is queued already is returned instead.

    Raises NotFound, BegunAlready.
    """
    try:
        row = await db.fetchrow(
            """
            insert into job (id, repo_id, team_id, kind, asked, sealed, person_id, state, queued_at)
            select $1, repo.id, repo.team_id, $3, $4, $5, $6, 'queued', $7 from repo where repo.id = $2
            on conflict (repo_id, kind) where kind in ('sync', 'compact') and state = 'queued'
            do update set person_id = coalesce(job.person_id, excluded.person_id), due_at = null
            returning *
            """,
            job_id or new_id(),
            repo_id,
            kind,
            json.dumps(dict(asked)),
            sealed,
            person_id,
            at,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "job_pkey":
            raise
        raise BegunAlready from error
    if row is None:
        raise NotFound(f"no repo has the id {repo_id}")
    return from_row(row)


@translating
async def alike(db: Db, repo_id: RepoId, kind: Kind, asked: Mapping[str, Any]) -> list[Job]:
    """Jobs requested in exactly the same words that wait, run or are done, newest first."""
    rows = await db.fetch(
        """
        select * from job where repo_id = $1 and kind = $2 and asked = $3 and cancel_at is null
          and state in ('queued', 'running', 'done')
        order by queued_at desc limit 3
        """,
        repo_id,
        kind,
        json.dumps(dict(asked)),
    )
    return [from_row(row) for row in rows]


@translating
async def latest_for_clones(db: Db, repo_id: RepoId) -> Job | None:
    """The newest job that made a bundle for clones of this repo. None: there is none."""
    row = await db.fetchrow(
        """
        select * from job where repo_id = $1 and kind = 'bundle' and state = 'done' and asked ? 'clones'
        order by queued_at desc limit 1
        """,
        repo_id,
    )
    return None if row is None else from_row(row)


@translating
async def start(db: Db, repo_id: RepoId, kind: Kind, asked: Mapping[str, Any], at: datetime) -> Job | None:
    """Make a row for a run that has none so far; `at` is when it began.

    None: that run is gone, or has a row.
    """
    row = await db.fetchrow(
        """
        with mine as (
          update run set job_id = $1 where key = $2 and job_id is null returning repo_id, team_id
        )
        insert into job
          (id, repo_id, team_id, kind, asked, state, queued_at, started_at, attempt, beat_at)
        select $1, repo_id, team_id, $3, $4, 'running', $5, $5, 1, clock_timestamp() from mine
        returning *
        """,
        new_id(),
        repo_id,
        kind,
        json.dumps(dict(asked)),
        at,
    )
    return None if row is None else from_row(row)


@translating
async def attend(db: Db, repo_id: RepoId, kind: Kind, asked: Mapping[str, Any], at: datetime) -> Job:
    """Make a row for work that the caller does itself, without a worker. Raises NotFound."""
    row = await db.fetchrow(
        """
        insert into job
          (id, repo_id, team_id, kind, asked, state, queued_at, started_at, attempt, beat_at, attended)
        select $1, repo.id, repo.team_id, $3, $4, 'running', $5, $5, 1, clock_timestamp(), true
        from repo where repo.id = $2
        returning *
        """,
        new_id(),
        repo_id,
        kind,
        json.dumps(dict(asked)),
        at,
    )
    if row is None:
        raise NotFound(f"no repo has the id {repo_id}")
    return from_row(row)


@translating
async def progress(db: Db, job_id: JobId, attempt: int, seen: Seen) -> bool | None:
    """Write a run's progress. True: somebody asked it to stop. None: the job is no longer this run's."""
    row = await db.fetchrow(
        """
        update job set
          beat_at = clock_timestamp(), phase = $3, done = $4, total = $5, unit = $6, bytes = $7,
          phases = $8, notes = $9
        where id = $1 and attempt = $2 and state = 'running'
        returning cancel_at is not null
        """,
        job_id,
        attempt,
        *_seen(seen),
    )
    return None if row is None else cast(bool, row[0])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job has ended."""

    state: State
    at: datetime
    seen: Seen  # its phases and notes
    result: Mapping[str, Any] | None = None
    failure: EverrefError | None = None


@translating
async def finish(db: Db, job_id: JobId, attempt: int, outcome: Outcome) -> bool:
    """End a job and delete its credentials. False: it is no longer this run's."""
    done = await db.execute(
        """
        update job set
          phase = $3, done = $4, total = $5, unit = $6, bytes = $7, phases = $8, notes = $9,
          state = $10, finished_at = $11, result = coalesce($12, result),
          failure_class = $13, failure_message = $14, failure_origin = $15,
          sealed = null
        where id = $1 and attempt = $2 and state = 'running'
        """,
        job_id,
        attempt,
        *_seen(outcome.seen),
        outcome.state,
        outcome.at,
        *_ended(outcome),
    )
    return done == "UPDATE 1"


def _ended(outcome: Outcome) -> Sequence[str | None]:
    """The columns of the result and of the failure."""
    result, failure = outcome.result, outcome.failure
    return (
        None if result is None else json.dumps(dict(result)),
        failure.kind if failure else None,
        storable(str(failure)) if failure else None,
        failure.origin if failure else None,
    )


@translating
async def keep(
    db: Db, repo_id: RepoId, kind: Kind, asked: Mapping[str, Any], began: datetime, outcome: Outcome
) -> JobId | None:
    """Make a row for work that has ended without one. None: that run is gone, or has a row."""
    found: UUID | None = await db.fetchval(
        """
        with mine as (
          update run set job_id = $1 where key = $2 and job_id is null returning repo_id, team_id
        )
        insert into job (
          id, repo_id, team_id, kind, asked, state, queued_at, started_at, attempt, beat_at,
          phase, done, total, unit, bytes, phases, notes, finished_at, result,
          failure_class, failure_message, failure_origin
        )
        select
          $1, repo_id, team_id, $3, $4, $5, $6, $6, 1, clock_timestamp(),
          $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18
        from mine
        returning id
        """,
        new_id(),
        repo_id,
        kind,
        json.dumps(dict(asked)),
        outcome.state,
        began,
        *_seen(outcome.seen),
        outcome.at,
        *_ended(outcome),
    )
    return None if found is None else JobId(UUID(bytes=found.bytes))


@translating
async def note(db: Db, job_id: JobId, attempt: int, found: Mapping[str, Any]) -> bool:
    """Keep what a run of a job did that its next run must know. False: the job is no longer this run's."""
    done = await db.execute(
        """
        update job set result = coalesce(result, '{}') || $3
        where id = $1 and attempt = $2 and state = 'running'
        """,
        job_id,
        attempt,
        json.dumps(dict(found)),
    )
    return done == "UPDATE 1"


@translating
async def again(
    db: Db, job_id: JobId, attempt: int, due_at: datetime | None, note: str | None, *, counted: bool = True
) -> bool:
    """Hand a running job back, to start again no earlier than `due_at`. False: it is no longer this run's.

    Not `counted`: this start does not count, as the job was not the reason that it failed.

    A job that somebody asked to stop is handed back too, and cancelled when it is taken. A sync that
    somebody requested meanwhile takes its place; then this is False as well.
    """
    done = await db.execute(
        """
        update job set
          state = 'queued', due_at = $3, phase = null, done = null, total = null, unit = null,
          notes = case when $4::text is null then notes else notes || $4::text end,
          attempt = attempt - case when $5::boolean then 0 else 1 end
        where id = $1 and attempt = $2 and state = 'running' and not exists (
          select from job as other
          where other.repo_id = job.repo_id and other.kind = job.kind and other.state = 'queued'
            and job.kind in ('sync', 'compact')
        )
        """,
        job_id,
        attempt,
        due_at,
        None if note is None else storable(note),
        counted,
    )
    return done == "UPDATE 1"


@translating
async def cancel(db: Db, team_id: TeamId, job_id: JobId, at: datetime) -> Job | None:
    """Ask a job to stop: a queued one is cancelled at once, a running one stops within about a second.

    An ended one stays as it is. None: the team has no such job.
    """
    row = await db.fetchrow(
        """
        update job set
          cancel_at = case when finished_at is null then coalesce(cancel_at, $3) else cancel_at end,
          finished_at = case when state = 'queued' then $3 else finished_at end,
          sealed = case when state = 'queued' then null else sealed end,
          state = case when state = 'queued' then 'cancelled' else state end
        where id = $2 and team_id = $1
        returning *
        """,
        team_id,
        job_id,
        at,
    )
    return None if row is None else from_row(row)


@translating
async def find(db: Db, team_id: TeamId, job_id: JobId) -> Job | None:
    """The team's job of this id."""
    row = await db.fetchrow("select * from job where id = $1 and team_id = $2", job_id, team_id)
    return None if row is None else from_row(row)


@translating
async def by_id(db: Db, job_id: JobId) -> Job | None:
    """The job of this id, of any team: for the run that works on it."""
    row = await db.fetchrow("select * from job where id = $1", job_id)
    return None if row is None else from_row(row)


@translating
async def page(
    db: Db,
    team_id: TeamId,
    *,
    repo_id: RepoId | None = None,
    kinds: Collection[Kind] = (),
    states: Collection[State] = (),
    before: JobId | None = None,
    limit: int = 50,
) -> list[Job]:
    """The team's jobs, newest first, from after `before` on; of one repo, of some kinds, in some states."""
    rows = await db.fetch(
        """
        select * from job
        where team_id = $1 and ($2::uuid is null or repo_id = $2)
          and (cardinality($3::text[]) = 0 or kind = any($3))
          and (cardinality($4::text[]) = 0 or state = any($4))
          and ($5::uuid is null or (queued_at, id) < (select queued_at, id from job where id = $5))
        order by queued_at desc, id desc limit $6
        """,
        team_id,
        repo_id,
        list(kinds),
        list(states),
        before,
        limit,
    )
    return [from_row(row) for row in rows]


@translating
async def open_of(db: Db, repo_id: RepoId) -> list[Job]:
    """The repo's jobs that have not ended, oldest first."""
    rows = await db.fetch(
        "select * from job where repo_id = $1 and state in ('queued', 'running') order by queued_at, id",
        repo_id,
    )
    return [from_row(row) for row in rows]


@translating
async def counts(db: Db) -> Mapping[tuple[Kind, State], int]:
    """How many jobs of each kind are queued and running."""
    rows = await db.fetch(
        "select kind, state, count(*) as n from job where state in ('queued', 'running') group by kind, state"
    )
    return {(row["kind"], row["state"]): row["n"] for row in rows}


@translating
async def forget_before(db: Db, moment: datetime) -> None:
    """Delete jobs of Everref itself that ended before this moment; those that people requested stay."""
    await db.execute("delete from job where finished_at < $1 and person_id is null and not attended", moment)


def _seen(seen: Seen) -> Sequence[object]:
    phases = [{"phase": one.name, "seconds": one.seconds, "bytes": one.bytes} for one in seen.phases]
    return (
        None if seen.phase is None else storable(seen.phase),
        seen.done,
        seen.total,
        storable(seen.unit),
        seen.bytes,
        json.dumps(phases),
        [storable(note) for note in seen.notes[-_NOTES:]],
    )


def from_row(row: Any) -> Job:
    """A row of the table `job`."""
    failure = None
    if row["failure_class"] is not None:
        origin = row["failure_origin"]
        failure = JobFailure(
            row["failure_class"], row["failure_message"], None if origin is None else Origin(origin)
        )
    return Job(
        id=JobId(UUID(bytes=row["id"].bytes)),
        repo_id=RepoId(UUID(bytes=row["repo_id"].bytes)),
        team_id=TeamId(UUID(bytes=row["team_id"].bytes)),
        kind=row["kind"],
        asked=json.loads(row["asked"]),
        person_id=None if row["person_id"] is None else UUID(bytes=row["person_id"].bytes),
        state=row["state"],
        queued_at=row["queued_at"],
        due_at=row["due_at"],
        attempt=row["attempt"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_at=row["cancel_at"],
        phase=row["phase"],
        done=row["done"],
        total=row["total"],
        unit=row["unit"],
        bytes=row["bytes"],
        phases=tuple(Phase(one["phase"], one["seconds"], one["bytes"]) for one in json.loads(row["phases"])),
        notes=tuple(row["notes"]),
        result=None if row["result"] is None else json.loads(row["result"]),
        failure=failure,
        sealed=row["sealed"],
    )


def _context(job_id: JobId) -> str:
    """The context of encrypted credentials: they decrypt in no other row."""
    return f"job/{job_id}"
