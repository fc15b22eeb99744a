"""Runs: what is due next, which worker took it, and what becomes of it when that worker stops."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NewType
from uuid import UUID

from mirror.core.model import RepoId
from mirror.core.rules.work.fairness import Free
from mirror.store import leases
from mirror.store.database import Db, query, translating
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job, Kind
from mirror.store.people.teams import TeamId

RunKey = NewType("RunKey", UUID)  # of the job, or of the repo whose sync request is served

SILENT: Final = timedelta(seconds=30)  # without a heartbeat, after which a worker elsewhere counts as dead
AT_HOST: Final = 8  # syncs at one host at once, of all workers together
ATTEMPTS: Final = 5  # unfinished starts of a job, after which it has failed


@dataclass(frozen=True, slots=True)
class Run:
    """A piece of work that this worker has taken."""

    key: RunKey
    repo_id: RepoId
    team_id: TeamId
    kind: Kind
    job: Job | None  # None: a sync request that nobody watches yet
    heavy: bool  # it may take long
    failing: str | None  # the class of the repo's last failure; None: its last run went well


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of the due runs a worker would rather take up than others that are equally fair."""

    shares: Sequence[int]  # the repos whose pools are warm here: 256 shares of all repos
    patience: timedelta  # how long it leaves the runs of other shares to their own worker
    repo_id: RepoId | None = None  # this repo first


@translating
async def take(db: Db, worker: str, now: datetime, free: Free[TeamId], preference: Preference) -> list[Run]:
    """Take up as many due runs as are `free` to begin here, the fairest first (core/rules/work/fairness).

    A run that is taken up is this worker's alone, and no worker waits for another's choice.
    """
    rows = await db.fetch(
        query("take"),
        *(worker, now, free.room, free.heavy),
        *(list(preference.shares), preference.patience, AT_HOST, preference.repo_id),
        *(list(free.full), list(free.full_of_heavy)),
    )
    return [_run(row) for row in rows]


@translating
async def take_reading(db: Db, worker: str, now: datetime) -> list[Run]:
    """Take up the restore that has waited longest: it only reads the vault. Empty: none is due."""
    return [_run(row) for row in await db.fetch(query("take_reading"), worker, now)]


def _run(row: Any) -> Run:
    return Run(
        RunKey(UUID(bytes=row["run_key"].bytes)),
        RepoId(UUID(bytes=row["run_repo"].bytes)),
        TeamId(UUID(bytes=row["run_team"].bytes)),
        row["run_kind"],
        None if row["id"] is None else jobs.from_row(row),
        row["run_heavy"],
        row["failing"],
    )


@translating
async def end(db: Db, worker: str, key: RunKey) -> None:
    """Record that this worker has ended this run. Safe to run twice."""
    await db.execute("delete from run where key = $1 and worker = $2", key, worker)


@translating
async def keep(db: Db, worker: str, keys: Collection[RunKey], before: datetime) -> None:
    """Keep only these of the runs that this worker took before then.

    The others ended while the database was away, or were taken by a statement whose answer was lost.
    """
    await db.execute(
        "delete from run where worker = $1 and not key = any($2::uuid[]) and began_at < $3",
        *(worker, list(keys), before),
    )


@translating
async def beat(db: Db, worker: str) -> list[str]:
    """Say that this worker is alive; returns every worker that is, in order."""
    await db.execute(
        """
        insert into worker (id, beat_at) values ($1, clock_timestamp())
        on conflict (id) do update set beat_at = excluded.beat_at
        """,
        worker,
    )
    rows = await db.fetch(
        "select id from worker where beat_at > clock_timestamp() - $1::interval order by id", SILENT
    )
    return [row["id"] for row in rows]


@translating
async def is_anyone_alive(db: Db) -> bool:
    """Whether any worker sent a heartbeat recently; if not, nothing new is being saved."""
    found: bool = await db.fetchval(
        "select exists (select from worker where beat_at > clock_timestamp() - $1::interval)", SILENT
    )
    return found


@translating
async def is_anyone_missing(db: Db) -> bool:
    """Whether some worker fell silent without leaving."""
    found: bool = await db.fetchval(
        "select exists (select from worker where beat_at <= clock_timestamp() - $1::interval)", SILENT
    )
    return found


@translating
async def is_alone(db: Db, worker: str) -> bool:
    """Whether no other worker is alive, as far as can be told from here."""
    rows = await db.fetch(
        "select id from worker where id <> $1 and beat_at > clock_timestamp() - $2::interval", worker, SILENT
    )
    return all(leases.is_dead(row["id"]) for row in rows)


@translating
async def leave(db: Db, worker: str) -> None:
    """Record that this worker stops and has handed everything back. Safe to run twice."""
    await db.execute("delete from run where worker = $1", worker)
    await db.execute("delete from worker where id = $1", worker)


@translating
async def reap(db: Db, worker: str, now: datetime) -> int:
    """Free the runs of dead workers other than this one; returns how many.

    How often in a row a sync of each repo ended like this is counted. A worker of this
    machine whose process is gone is dead at once, and its leases are released; any
    other is after SILENT without a heartbeat. A job without a run waits for the next
    one, unless it was started too often. Safe to run twice: each statement finds what the one
    before has left. None waits for a row that somebody else holds; the next heartbeat finds that.
    """
    rows = await db.fetch(
        """
        select id, coalesce(beat_at < clock_timestamp() - $1::interval, true) as silent
        from worker full join (select distinct worker as id from run) as at_work using (id)
        """,
        SILENT,
    )
    others = [row for row in rows if row["id"] != worker]
    gone = [row["id"] for row in others if leases.is_dead(row["id"])]
    dead = [row["id"] for row in others if row["silent"] or row["id"] in gone]
    await leases.release_of(db, gone)
    done = await db.execute(query("reap"), dead)
    await db.execute(
        "delete from worker where id in (select id from worker where id = any($1) for update skip locked)",
        dead,
    )
    await settle(db, now)
    return int(done.rpartition(" ")[2])


@translating
async def settle(db: Db, now: datetime) -> None:
    """End or hand back the running jobs that nobody works at any more. Safe to run twice."""
    await db.execute(query("orphaned"), now, ATTEMPTS)


@translating
async def mend(db: Db) -> int:
    """Correct the queue by the work that is open; returns how many rows were wrong. Safe to run twice."""
    mended: int = await db.fetchval("select mend_queue()")
    return mended


@translating
async def deadly(db: Db) -> list[RepoId]:
    """The repos whose syncs took their worker down ATTEMPTS times in a row, or once more since `spare`."""
    rows = await db.fetch("select id from repo where crashes > 0 and crashes >= $1", ATTEMPTS)
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def spare(db: Db, repo_id: RepoId) -> None:
    """Record that the repo's failure is recorded: one more stopped worker is then one too many."""
    await db.execute("update repo set crashes = $2 where id = $1", repo_id, ATTEMPTS - 1)
