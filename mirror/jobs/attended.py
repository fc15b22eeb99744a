"""Restores to a remote that whoever runs Everref does at the command line: jobs, but without a worker.

Who calls: the commands `restore`, `undo` and `rollback`. What it uses: restore/restore, target and undo,
which do the work, and store/jobs/jobs, where it shows under activity while it goes on, and can be stopped.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from mirror.core.errors import Busy, Cancelled, EverrefError, NotFound, OurFault, UsageError
from mirror.core.model import Remote, Repo, RepoId, Secret, Snapshot
from mirror.core.progress import Both, Meter
from mirror.core.rules.roles import Role
from mirror.jobs import results
from mirror.jobs import run as flow
from mirror.restore import moment, target, undo
from mirror.restore import restore as restoring
from mirror.restore.restore import Restored, What
from mirror.restore.target import Authority
from mirror.restore.undo import UndoPlan
from mirror.services.open import Services, ended
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs, runs
from mirror.store.jobs.jobs import Job, JobId, State
from mirror.store.restore import restores, rollbacks
from mirror.store.restore.restores import Cause
from mirror.store.restore.rollbacks import RollbackId

log = logging.getLogger("mirror.attended")

_TELL: Final = 1.0  # seconds from one time that it is written how far the work is to the next
_UNDER_WAY: Final = (
    "a restore is still running (id {}): wait for it or stop it; a killed one counts as ended after 30 s"
)

Work = Callable[[Services, Job], Awaitable[Restored]]


async def restore(
    services: Services, repo: Repo, snapshot: Snapshot, to: Remote, what: What
) -> tuple[JobId, Restored]:
    """Push this moment to a remote, as `restore.to_remote`; what is overwritten there is kept first.

    Raises what that does, and Cancelled where somebody stopped it by the pages.
    """
    where = {"kept": str(to.here.id)} if to.here else {"to": to.url}
    asked = {**snapshot.numbers, **what.chosen, "hidden": what.hidden, "force": what.force, **where}
    if to.secret is not None:
        asked["lent"] = True

    async def work(services: Services, job: Job) -> Restored:
        cause = Cause(job.id, target=where)
        done = await restoring.to_remote(services, repo, snapshot, to, what, cause)
        await flow.follow_up(services, job.team_id, where)
        return done

    return await _done(services, repo, asked, work)


async def into(services: Services, repo: Repo, name: str) -> Remote:
    """The repo of this name in the team of `repo`, as the target of a restore. Raises NotFound, Refused."""
    team_id = (await remotes.get(services.db, repo.id)).team_id
    found = await repos.by_name(services.db, team_id, name)
    if found is None:
        raise NotFound(f"no repo is called {name} in the team of {repo.name}; `everref repos` lists them")
    means = Authority(Role.OWNER, here=True)
    return await target.reach(services, team_id, {"kept": str(found.id)}, means)


async def undone(services: Services, repo: Repo, job_id: JobId | None) -> Job:
    """The restore of the repo that is to be undone: this one, or the last that wrote and was not undone.

    A restore whose command was killed has ended, also where no worker runs to find that out.
    Raises NotFound, and Busy where a restore is still running.
    """
    await runs.settle(services.db, services.clock())
    if job_id is None:
        if going := await restores.under_way(services.db, repo.id):
            raise Busy(_UNDER_WAY.format(going))
        found = await restores.last_standing(services.db, repo.id)
        if found is None:
            raise NotFound(f"no restore of {repo.name} to a remote is left to undo")
        return found
    job = await jobs.by_id(services.db, job_id)
    if job is None or job.repo_id != repo.id or job.kind != "restore":
        raise NotFound(f"{repo.name} has no restore {job_id}")
    if job.state == "running" and not job.asked.get("undo"):
        raise Busy(_UNDER_WAY.format(job.id))
    return job


async def undo_plan(services: Services, job: Job, secret: Secret | None) -> UndoPlan:
    """What undoing this restore would do. Raises UsageError where its credentials are wanted again."""
    return await undo.plan(services, job, _means(job, secret))


async def undo_now(
    services: Services,
    repo: Repo,
    job: Job,
    secret: Secret | None,
    also: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[JobId, Restored]:
    """Put a restore's target back to what it was before, as restore/undo. Raises as `undo_plan` does."""
    await undo.check(services, job)
    means = _means(job, secret)
    number = (job.result or job.asked).get("snapshot")
    snapshot = await snapshots.get(services.db, repo.id, number) if number else None
    snapshot = snapshot or await snapshots.latest(services.db, repo.id)
    if snapshot is None:
        raise NotFound(f"{repo.name} has no snapshot, so nothing of it can be put back")
    asked = {**also, "undo": str(job.id), **snapshot.numbers, "force": False}

    async def work(services: Services, mine: Job) -> Restored:
        done = await undo.undo(services, job, repo, snapshot, means, Cause(mine.id, undo_of=job.id))
        await flow.follow_up(services, job.team_id, job.asked)
        return done

    return await _done(services, repo, asked, work)


async def of_rollback(services: Services, repo_id: RepoId, asked: Mapping[str, Any]) -> None:
    """Do the job of one repo of a rollback, or undo it, as jobs/rollbacks asks. Raises what that does."""
    repo = await repos.get(services.db, repo_id)
    if asked.get("undo"):
        job = await jobs.by_id(services.db, JobId(UUID(asked["undo"])))
        if job is None:
            raise NotFound(f"{repo.name} has no such restore to undo")
        await undo_now(services, repo, job, None, asked)
        return
    means = Authority(Role.OWNER, here=True)
    to = await target.reach(services, (await remotes.get(services.db, repo_id)).team_id, asked, means)
    snapshot = await moment.snapshot_at(services, repo, asked["snapshot"])
    leases = await rollbacks.leases(services.db, RollbackId(UUID(asked["rollback"])), repo_id)

    async def work(services: Services, mine: Job) -> Restored:
        cause = Cause(mine.id, target={"kept": asked["kept"]})
        done = await restoring.to_remote(services, repo, snapshot, to, What(leases=leases), cause)
        await flow.follow_up(services, mine.team_id, asked)
        return done

    await _done(services, repo, dict(asked), work)


def _means(job: Job, secret: Secret | None) -> Authority:
    if job.asked.get("lent") and secret is None:
        raise UsageError(
            "the restore was made with credentials that were not stored; pass them with --token-file"
        )
    return Authority(Role.OWNER, secret, here=True)


async def _done(services: Services, repo: Repo, asked: dict[str, Any], do: Work) -> tuple[JobId, Restored]:
    """Do it as a job: told while it goes on, stopped where somebody wants that, recorded however it ends."""
    job = await jobs.attend(services.db, repo.id, "restore", asked, services.clock())
    meter = Meter(asyncio.get_running_loop().time)
    progress = Both(services.progress, meter)
    work = asyncio.ensure_future(do(replace(services, progress=progress), job))
    telling = asyncio.create_task(_tell(services, job, meter, work))
    try:
        await asyncio.wait([work])
    finally:
        await ended(work, telling)
        await _record(services, job, meter, asked, work)
    if work.cancelled():
        raise Cancelled("somebody stopped this on a page or by the API, or it did not respond for too long")
    return job.id, work.result()


async def _tell(services: Services, job: Job, meter: Meter, work: "asyncio.Future[Restored]") -> None:
    """Write about once a second how far it is, until somebody wants it to stop or this is cancelled."""
    while True:
        await asyncio.sleep(_TELL)
        with suppress(EverrefError):  # the database may be back the next time
            if await jobs.progress(services.db, job.id, job.attempt, meter.seen) is not False:  # None: lost
                work.cancel()
                return


async def _record(
    services: Services, job: Job, meter: Meter, asked: dict[str, Any], work: "asyncio.Future[Restored]"
) -> None:
    """Say how it ended."""
    state: State = "cancelled"
    result, failure = None, None
    if not work.cancelled():
        error = work.exception()
        if error is None:
            where = {"to": asked["to"]} if "to" in asked else {}
            result = results.restored(work.result(), flow.REFS_KEPT) | where
            failure = flow.shortcoming("restore", result)
        else:
            failure = error if isinstance(error, EverrefError) else OurFault(f"a bug: {type(error).__name__}")
        state = "failed" if failure else "done"
    with suppress(EverrefError):  # what became of the work is told to who waits for it, and counts
        outcome = jobs.Outcome(state, services.clock(), meter.ended, result, failure)
        if not await jobs.finish(services.db, job.id, job.attempt, outcome) and state == "done":
            log.warning(
                "restore %s did not respond for too long and counts as failed: compare its target, "
                "or undo it by id",
                job.id,
            )
