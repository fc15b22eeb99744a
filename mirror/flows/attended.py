"""Restores to a remote that whoever runs Everref does at the command line: jobs, but without a worker.

Who calls: the commands `restore` and `undo`. What it uses: flows/restore, flows/target and flows/undo, which
do the work, and store/jobs, where it shows under activity while it goes on, and can be stopped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from mirror.errors import Cancelled, EverrefError, NotFound, OurFault, UsageError
from mirror.flows import jobs as flow
from mirror.flows import restore as restoring
from mirror.flows import target, undo
from mirror.flows.edges import Edges, ended
from mirror.flows.entitled import Means
from mirror.flows.restore import Restored
from mirror.flows.undo import UndoPlan
from mirror.model import Remote, Repo, Secret, Snapshot
from mirror.people import Role
from mirror.plan import Hidden
from mirror.progress import Both, Meter
from mirror.store import jobs, origins, restores, snapshots
from mirror.store.jobs import Job, JobId, State
from mirror.store.restores import Cause

_TELL: Final = 1.0  # seconds from one time that it is written how far the work is to the next

Work = Callable[[Edges, Job], Awaitable[Restored]]


@dataclass(frozen=True, slots=True)
class What:
    """What of a moment is restored, and how."""

    globs: Sequence[str] = ()
    hidden: Hidden = "skip"
    force: bool = False


async def restore(
    edges: Edges, repo: Repo, snapshot: Snapshot, to: Remote, what: What
) -> tuple[JobId, Restored]:
    """Push this moment to a remote, as `restore.to_remote`; what is overwritten there is kept first.

    Raises what that does, and Cancelled where somebody stopped it by the pages.
    """
    team_id = (await origins.get(edges.db, repo.id)).team_id
    asked: dict[str, Any] = {**snapshot.numbers, "hidden": what.hidden, "force": what.force, "to": to.url}
    if what.globs:
        asked["globs"] = list(what.globs)
    if to.secret is not None:
        asked["lent"] = True

    async def work(edges: Edges, job: Job) -> Restored:
        return await restoring.to_remote(
            edges,
            repo,
            snapshot,
            to,
            globs=what.globs,
            hidden=what.hidden,
            force=what.force,
            cause=Cause(job.id, target={"to": to.url}),
            keep=partial(target.keep, edges, team_id),
        )

    return await _done(edges, repo, asked, work)


async def undone(edges: Edges, repo: Repo, job_id: JobId | None) -> Job:
    """The restore of the repo that is to be undone: this one, or the last that wrote and was not undone.

    Raises NotFound.
    """
    if job_id is None:
        found = await restores.last_standing(edges.db, repo.id)
        if found is None:
            raise NotFound(f"no restore of {repo.name} to a remote is left to undo")
        return found
    job = await jobs.by_id(edges.db, job_id)
    if job is None or job.repo_id != repo.id or job.kind != "restore":
        raise NotFound(f"{repo.name} has no restore {job_id}")
    return job


async def undo_plan(edges: Edges, job: Job, secret: Secret | None) -> UndoPlan:
    """What undoing this restore would do. Raises UsageError where its credentials are wanted again."""
    return await undo.plan(edges, job, _means(job, secret))


async def undo_now(edges: Edges, repo: Repo, job: Job, secret: Secret | None) -> tuple[JobId, Restored]:
    """Put a restore's target back to what it was before, as flows/undo. Raises as `undo_plan` does."""
    await undo.check(edges, job)
    means = _means(job, secret)
    number = (job.result or job.asked).get("snapshot")
    snapshot = await snapshots.get(edges.db, repo.id, number) if number else None
    snapshot = snapshot or await snapshots.latest(edges.db, repo.id)
    if snapshot is None:
        raise NotFound(f"{repo.name} has no snapshot, so nothing of it can be put back")
    asked = {"undo": str(job.id), **snapshot.numbers, "force": False}

    async def work(edges: Edges, mine: Job) -> Restored:
        return await undo.undo(edges, job, repo, snapshot, means, Cause(mine.id, undo_of=job.id))

    return await _done(edges, repo, asked, work)


def _means(job: Job, secret: Secret | None) -> Means:
    if job.asked.get("lent") and secret is None:
        raise UsageError("the restore was made with credentials that are not kept; give them by --token-file")
    return Means(Role.OWNER, secret, here=True)


async def _done(edges: Edges, repo: Repo, asked: dict[str, Any], do: Work) -> tuple[JobId, Restored]:
    """Do it as a job: told while it goes on, stopped where somebody wants that, recorded however it ends."""
    job = await jobs.attend(edges.db, repo.id, "restore", asked, edges.clock())
    meter = Meter(asyncio.get_running_loop().time)
    progress = Both(edges.progress, meter)
    work = asyncio.ensure_future(do(replace(edges, progress=progress), job))
    telling = asyncio.create_task(_tell(edges, job, meter, work))
    try:
        await asyncio.wait([work])
    finally:
        await ended(work, telling)
        await _record(edges, job, meter, asked, work)
    if work.cancelled():
        raise Cancelled("somebody stopped this by the pages or the API")
    return job.id, work.result()


async def _tell(edges: Edges, job: Job, meter: Meter, work: "asyncio.Future[Restored]") -> None:
    """Write about once a second how far it is, until somebody wants it to stop or this is cancelled."""
    while True:
        await asyncio.sleep(_TELL)
        with suppress(EverrefError):  # the database may be back the next time
            if await jobs.progress(edges.db, job.id, job.attempt, meter.seen):
                work.cancel()
                return


async def _record(
    edges: Edges, job: Job, meter: Meter, asked: dict[str, Any], work: "asyncio.Future[Restored]"
) -> None:
    """Say how it ended."""
    state: State = "cancelled"
    result, failure = None, None
    if not work.cancelled():
        error = work.exception()
        if error is None:
            result = flow.shown_restore(work.result()) | ({"to": asked["to"]} if "to" in asked else {})
            failure = flow.shortcoming("restore", result)
        else:
            failure = error if isinstance(error, EverrefError) else OurFault(f"a bug: {type(error).__name__}")
        state = "failed" if failure else "done"
    with suppress(EverrefError):  # what became of the work is told to who waits for it, and counts
        await jobs.finish(
            edges.db,
            job.id,
            job.attempt,
            state,
            edges.clock(),
            meter.ended,
            result=result,
            failure=failure,
        )
