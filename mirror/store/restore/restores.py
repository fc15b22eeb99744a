"""The restores that people asked for, kept for ever, and what is needed to undo them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from mirror.core.model import RefName, RepoId, Target, label
from mirror.core.rules.history.plan import Wrote
from mirror.store.database import Db, storable, translating
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job, JobId


@dataclass(frozen=True, slots=True)
class Cause:
    """The job and the person behind a restore, and how its target is reached again."""

    job_id: JobId
    person_id: UUID | None = None
    target: Mapping[str, Any] = field(default_factory=dict)  # without secrets
    made: bool = False  # the target was made for it
    undo_of: JobId | None = None  # the restore that it undoes
    attempt: int = 1  # of the job; another run may have it by now


@dataclass(frozen=True, slots=True)
class Restore:
    """A restore that has ended, whether every ref arrived or not."""

    snapshot: int
    destination: str  # in words, without credentials
    results: Mapping[str, int]  # how many refs have each result
    verified: bool  # every ref that was written was read back equal
    finished_at: datetime
    cause: Cause | None = None  # None: into a file at the command line, or from before a rebuild
    kept: tuple[RepoId, int] | None = None  # the snapshot that has what was overwritten; None: nothing was
    person: str | None = None  # who did it; None: whoever runs Everref, or somebody who is gone
    moment: int = 0  # the number of the moment within the snapshot; 0: the snapshot itself
    attended: bool = False  # at the command line

    @property
    def label(self) -> str:
        """What was restored, as people call it."""
        return label(self.snapshot, self.moment)


@translating
async def add(db: Db, repo_id: RepoId, done: Restore) -> None:
    """Record a restore; only the first record of a job is kept. Who did it is in its cause."""
    cause, kept = done.cause, done.kept
    await db.execute(
        """
        insert into restore
          (repo_id, snapshot, destination, results, verified, finished_at,
           job_id, person_id, target, made, undo_of, kept_repo_id, kept_snapshot, moment)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        on conflict (job_id) do nothing
        """,
        repo_id,
        done.snapshot,
        storable(done.destination),
        json.dumps(dict(done.results)),
        done.verified,
        done.finished_at,
        cause.job_id if cause else None,
        cause.person_id if cause else None,
        json.dumps(dict(cause.target) if cause else {}),
        cause.made if cause else False,
        cause.undo_of if cause else None,
        kept[0] if kept else None,
        kept[1] if kept else None,
        done.moment,
    )


@translating
async def of(db: Db, repo_id: RepoId, limit: int | None = None) -> list[Restore]:
    """Every restore of this repo, newest first; or the newest ones."""
    rows = await db.fetch(
        """
        select restore.*, person.name as person, coalesce(job.attended, false) as attended from restore
        left join person on person.id = restore.person_id left join job on job.id = job_id
        where restore.repo_id = $1 order by restore.finished_at desc, restore.id desc limit $2
        """,
        repo_id,
        limit,
    )
    return [_restore(row) for row in rows]


@translating
async def by_job(db: Db, job_id: JobId) -> Restore | None:
    """The record of what this job restored. None: it has not ended."""
    row = await db.fetchrow(
        """
        select restore.*, person.name as person, coalesce(job.attended, false) as attended from restore
        left join person on person.id = restore.person_id left join job on job.id = job_id
        where job_id = $1
        """,
        job_id,
    )
    return None if row is None else _restore(row)


@translating
async def last_standing(db: Db, repo_id: RepoId) -> Job | None:
    """The last restore of this repo that wrote to a remote and was not wholly undone. None: there is none."""
    row = await db.fetchrow(
        """
        select job.* from job
        where repo_id = $1 and kind = 'restore' and finished_at is not null and not asked ? 'undo'
          and exists (select from restored_ref where job_id = job.id)
          and not exists (select from restore where undo_of = job.id and verified)
        order by queued_at desc, id desc limit 1
        """,
        repo_id,
    )
    return None if row is None else jobs.from_row(row)


@translating
async def under_way(db: Db, repo_id: RepoId) -> JobId | None:
    """A restore of this repo to a remote that is running. None: there is none."""
    found = await db.fetchval(
        """
        select id from job
        where repo_id = $1 and kind = 'restore' and state = 'running' and not asked ? 'undo'
        order by queued_at desc, id desc limit 1
        """,
        repo_id,
    )
    return None if found is None else JobId(UUID(bytes=found.bytes))


@translating
async def undone(db: Db, job_id: JobId) -> list[Restore]:
    """The restores that undid this one, newest first."""
    rows = await db.fetch(
        """
        select restore.*, person.name as person, coalesce(job.attended, false) as attended from restore
        left join person on person.id = restore.person_id left join job on job.id = job_id
        where undo_of = $1 order by restore.finished_at desc, restore.id desc
        """,
        job_id,
    )
    return [_restore(row) for row in rows]


@translating
async def will_write(db: Db, cause: Cause, wrote: Sequence[Wrote]) -> bool:
    """Record what a restore is about to write; a second record of the same ref replaces the first.

    False: the job is no longer this run's, and nothing was recorded. Else it counts as alive from now on.
    """
    found: bool = await db.fetchval(
        """
        with mine as (
          update job set beat_at = clock_timestamp()
          where id = $1 and attempt = $2 and state = 'running' returning id
        ), recorded as (
          insert into restored_ref (job_id, name, old, new)
          select mine.id, will.* from mine, unnest($3::bytea[], $4::bytea[], $5::bytea[]) as will
          on conflict (job_id, name) do update set old = excluded.old, new = excluded.new
        )
        select exists (select from mine)
        """,
        cause.job_id,
        cause.attempt,
        [one.name for one in wrote],
        [one.old for one in wrote],
        [one.new for one in wrote],
    )
    return found


@translating
async def did_not_write(db: Db, cause: Cause, names: Collection[RefName]) -> None:
    """Take back what a restore recorded that it would write, where it is sure that it did not.

    What a later run of the job recorded stays.
    """
    await db.execute(
        """
        delete from restored_ref where job_id = $1 and name = any($3::bytea[])
          and exists (select from job where id = $1 and attempt = $2)
        """,
        *(cause.job_id, cause.attempt, names),
    )


@translating
async def written(db: Db, job_id: JobId) -> list[Wrote]:
    """What this job's runs wrote, or were about to write, in the order of names."""
    rows = await db.fetch("select name, old, new from restored_ref where job_id = $1 order by name", job_id)
    return [
        Wrote(
            RefName(row["name"]),
            *(None if row[side] is None else Target(row[side]) for side in ("old", "new")),
        )
        for row in rows
    ]


@translating
async def wrote_any(db: Db, job_id: JobId) -> bool:
    """Whether a run of this job wrote to its target, or was about to."""
    return await db.fetchval("select true from restored_ref where job_id = $1 limit 1", job_id) is not None


def _restore(row: Any) -> Restore:
    cause = kept = None
    if row["job_id"] is not None:
        cause = Cause(
            JobId(UUID(bytes=row["job_id"].bytes)),
            None if row["person_id"] is None else UUID(bytes=row["person_id"].bytes),
            json.loads(row["target"]),
            row["made"],
            None if row["undo_of"] is None else JobId(UUID(bytes=row["undo_of"].bytes)),
        )
    if row["kept_repo_id"] is not None:
        kept = (RepoId(UUID(bytes=row["kept_repo_id"].bytes)), row["kept_snapshot"])
    return Restore(
        row["snapshot"],
        row["destination"],
        json.loads(row["results"]),
        row["verified"],
        row["finished_at"],
        cause,
        kept,
        row["person"],
        row["moment"],
        row["attended"],
    )
