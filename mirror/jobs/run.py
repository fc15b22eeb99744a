"""Jobs that people request, and the runs in which a worker does them: from queueing one to recording its end.

Who calls: the pages and the API request, cancel and retry jobs; the worker runs them. What it
uses: store/jobs/jobs, store/jobs/runs, and the rooms that do the work.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from mirror.backup import sync as syncing
from mirror.backup import uploads
from mirror.core import logs, quotas
from mirror.core.errors import (
    Busy,
    Cancelled,
    Corrupt,
    EverrefError,
    LimitReached,
    NotFound,
    Origin,
    OurFault,
    OverLimit,
    RateLimited,
    Refused,
    UsageError,
)
from mirror.core.model import Reason, Repo, RepoId, Secret, Snapshot, has_remote
from mirror.core.progress import Meter
from mirror.core.rules.keeping import compaction
from mirror.core.rules.roles import Role
from mirror.core.rules.work import backoff
from mirror.core.rules.work.schedule import next_look, wait_before_retry
from mirror.jobs import results, rollbacks, team_drills
from mirror.restore import drill, export, moment, restore, target, undo
from mirror.restore.restore import What
from mirror.restore.target import Authority
from mirror.services.open import Services, ended, unbroken
from mirror.store import repos
from mirror.store.backup import parts
from mirror.store.backup.uploads import UploadId
from mirror.store.database import connected
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs, schedules
from mirror.store.jobs.jobs import Job, JobId, Kind, Outcome, State
from mirror.store.jobs.runs import ATTEMPTS, Run
from mirror.store.jobs.schedules import Looked
from mirror.store.people import notices
from mirror.store.people import quotas as limited
from mirror.store.people.teams import TeamId
from mirror.store.restore import rollbacks as rollback_rows
from mirror.store.restore.restores import Cause
from mirror.store.restore.rollbacks import RollbackId
from mirror.upkeep import compact, outages, verify

Result = Mapping[str, Any]  # of a job, as it is kept and shown

PROGRESS_SECONDS: Final = (
    1.0  # between two times that a run writes its progress and learns whether it should stop
)
RUN_SECONDS: Final = 24 * 3600  # a first backup of a huge repository takes hours
PATIENCE: Final = 5.0  # seconds that a run waits for its repo's lease; then it is started again later
TICK: Final = 0.001  # seconds
LINES_KEPT: Final = 100  # of the problems that a drill or a verification found
LONGEST_WAIT: Final = (
    3540.0  # seconds; a job due in more than an hour is taken for one by a clock that was ahead
)
FULL: Final = timedelta(minutes=10)  # until a team that has used up its bytes is tried again
AFTER_CANCEL: Final = timedelta(hours=1)  # until a backup that somebody stopped starts again
REFS_KEPT: Final = 1000  # of a restore, in the record of its job; its counts include all of them
_MOMENT: Final = timedelta(seconds=2)  # until a run that waits is started again at the earliest
_TOO_LONG: Final = f"it took longer than {RUN_SECONDS / 3600:g} hours and was stopped; try again later"

log = logging.getLogger("mirror.jobs")


async def ask(
    services: Services,
    repo_id: RepoId,
    kind: Kind,
    asked: Mapping[str, Any],
    *,
    person_id: UUID | None = None,
    secret: Secret | None = None,
    job_id: JobId | None = None,
) -> Job:
    """Queue what somebody requests; a worker starts it within seconds, or at once if it gets a hint.

    What `asked` holds, by kind:
    sync: reason. compact, verify: nothing. import: upload, its id. drill: snapshot (none: the latest).
    bundle: snapshot, globs, bring. restore: snapshot, globs, bring, hidden, force, and its target
    (restore/target): `to` an address, `connection` whose token is used there; or `kept`, the id of a
    repo; or `new`. Or `undo`, the job whose restore is undone; `rollback`, the one that it belongs to, which
    has what is put back. And `role`, in which it is requested, if that is less than the person's.

    `secret` is for the target of a restore; it is encrypted, and deleted when the job
    ends. What a person requests counts towards the limits of the repo's team; a bundle
    that is being made, or exists already, is handed out again instead. Raises UsageError,
    NotFound, NotAllowed, OverLimit, and OurFault if secrets cannot be stored.
    """
    if kind == "bundle" and (same := await export.again(services, repo_id, asked)):
        return same
    if kind == "restore":
        await _check_restore(services, repo_id, asked, person_id, secret)
    job_id, sealed = job_id or jobs.new_id(), None
    if secret is not None:
        if services.keyring is None:
            raise OurFault("credentials cannot be stored: set SECRET_KEYS (32 random characters or more)")
        sealed = jobs.seal(services.keyring, job_id, secret)
    now = services.clock()
    names = quotas.of_job(kind) if person_id is not None else ()
    origin = await remotes.get(services.db, repo_id)
    team_id = origin.team_id
    if kind == "sync" and not has_remote(origin.repo.url):
        raise UsageError(f"{origin.repo.name} has no remote to read: it is backed up by pushing to it")
    async with limited.within(services.db, team_id, services.settings.limits, now, *names) as db:
        if kind == "sync":
            await repos.request_sync(db, repo_id, now)
        return await jobs.queue(
            db, repo_id, kind, asked, now, job_id=job_id, person_id=person_id, sealed=sealed
        )


async def _check_restore(
    services: Services,
    repo_id: RepoId,
    asked: Mapping[str, Any],
    person_id: UUID | None,
    secret: Secret | None,
) -> None:
    team_id, reached = (await remotes.get(services.db, repo_id)).team_id, asked
    if asked.get("undo"):
        undone = await _undone(services, team_id, repo_id, asked)
        await undo.check(services, undone)
        reached = undone.asked
    else:
        target.check(services, asked, secret)
    role = await target.role_of(services, team_id, person_id, asked)
    await target.allow(services, team_id, reached, Authority(role, secret))


async def retry(
    services: Services,
    team_id: TeamId,
    job_id: JobId,
    person_id: UUID | None,
    role: Role = Role.OWNER,
    secret: Secret | None = None,
) -> Job:
    """Queue an ended job again, as the request of the person who retries it. Raises NotFound, Refused."""
    job = await jobs.find(services.db, team_id, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    if job.state not in jobs.ENDED:
        raise Refused("this job has not ended yet; cancel it first")
    asked = dict(job.asked) | ({"role": str(role)} if job.kind == "restore" else {})
    return await ask(services, job.repo_id, job.kind, asked, person_id=person_id, secret=secret)


async def run(services: Services, run: Run, until: float = math.inf) -> None:
    """Do a run to its end; a failure is recorded, and nothing is raised.

    Cancelled, the work cleans up after itself, its git processes with it. Before
    `until`, by the loop's clock, that means that the worker stops: the run is handed
    back. After that it took too long, which is recorded as its failure. Safe to
    run twice, as each kind of work is: a run whose worker was killed starts
    again, and a restore by push finds what had arrived `unchanged`. Every line of the
    log that is written meanwhile names the repo and the job.
    """
    with logs.at_work(run.repo_id, run.job.id if run.job else None) as logged:
        await _watched(services, run, until, logged)


async def _watched(services: Services, run: Run, until: float, logged: logs.Work) -> None:
    watch = _Watch(services, run, until, logged)
    work = asyncio.ensure_future(_DO[run.kind](replace(services, progress=watch.meter), run))
    watching = asyncio.create_task(watch.report(work))
    try:
        await asyncio.wait([work])
    except asyncio.CancelledError:
        if not watch.is_over():
            raise
    finally:
        await ended(work, watching)
        await watch.record(work)


class _TooLong(LimitReached):
    """A run took too long; its work was cancelled and could not record that."""


class _Watch:
    """Records one run: its progress, whether somebody stops it, and how it ends.

    A sync has a row if it is a first backup, found something, was requested, or
    fails in a new way: one that finds nothing new leaves none.
    """

    def __init__(self, services: Services, run: Run, until: float, logged: logs.Work) -> None:
        self._until = until
        self._logged = logged
        self.meter = Meter(asyncio.get_running_loop().time, run.job.notes if run.job else ())
        self._services = services
        self._run = run
        self._job = run.job
        self._began = services.clock()
        self._stopped = False  # somebody asked for that
        self._lost = False  # another run has the job

    def is_over(self) -> bool:
        """Whether the time of this run is over. A timer may fire a tick of the clock early."""
        return asyncio.get_running_loop().time() + TICK >= self._until

    async def report(self, work: "asyncio.Future[Result | None]") -> None:
        """Write the progress about once a second, until somebody stops the work or this is cancelled."""
        while not (self._stopped or self._lost):
            await asyncio.sleep(PROGRESS_SECONDS)
            with suppress(EverrefError):  # the database may be back the next time
                await self._write_progress()
        work.cancel()

    async def _write_progress(self) -> None:
        seen = self.meter.seen
        if self._run.heavy or seen.phases:  # it fetches something
            await self._have_row()
        if self._job is not None:
            stop = await jobs.progress(self._services.db, self._job.id, self._job.attempt, seen)
            self._stopped, self._lost = stop is True, stop is None

    async def _have_row(self) -> None:
        """Give this run a row, if it has none."""
        if self._job is None:
            await unbroken(self._begin())  # if its answer were lost, nobody would end it

    async def _begin(self) -> None:
        asked = {"reason": Reason.PUSH.value}
        self._job = await jobs.start(self._services.db, self._run.repo_id, self._run.kind, asked, self._began)
        self._logged.job = str(self._job.id) if self._job else None

    async def record(self, work: "asyncio.Future[Result | None]") -> None:
        """Record how it ended. If the database is away, the job is found without a run later and restarts."""
        try:
            if not self._lost:
                await self._record(work)
        except EverrefError as error:
            log.warning(
                "the end of a %s of %s could not be recorded: %s", self._run.kind, self._run.repo_id, error
            )

    async def _record(self, work: "asyncio.Future[Result | None]") -> None:
        services, run = self._services, self._run
        is_late = work.cancelled() and not self._stopped and self.is_over()
        if work.cancelled() and not self._stopped and not is_late:
            return await self._hand_back(None, "the worker was stopped")
        if work.cancelled() and not is_late:
            if run.kind == "sync":  # its sync request is still open, and must not be served at once
                now = services.clock()
                stopped = Cancelled(
                    "somebody stopped this; it starts again with the next push, or in an hour"
                )
                await repos.set_failure(
                    services.db, run.repo_id, stopped.kind, str(stopped), now, now + AFTER_CANCEL
                )
            return await self._finish("cancelled")
        raised = _TooLong(_TOO_LONG) if is_late else work.exception()
        error = _explained(raised, run)
        if error is None:
            result = work.result()
            short = shortcoming(run.kind, result)
            state: State = "failed" if short else "done"
            if self._job is None and result is not None and (run.heavy or result.get("new")):
                return await self._keep(state, result, short)
            return await self._finish(state, result, short)
        if run.kind == "sync" and isinstance(error, OverLimit) and not syncing.is_its_own(error):
            return await self._wait_for_room(error)
        if await outages.met(services, error):
            return await self._hand_back(_MOMENT, f"{error} (waits until that is over)", counted=False)
        log.warning("%s of %s: %s", run.kind, run.repo_id, error)
        if run.kind == "sync" and not syncing.is_its_own(error):
            return await self._put_off(error)
        if run.kind == "sync":
            if error is not raised or isinstance(error, _TooLong):
                await syncing.record_failure(services, run.repo_id, error)
            if error.kind not in (
                run.failing,
                Busy.kind,
            ):  # otherwise the repo's row shows this failure already
                await self._have_row()
        elif not error.permanent and self._job is not None and self._job.attempt < ATTEMPTS:
            wait = wait_before_retry(self._job.attempt, random.random())
            if isinstance(error, RateLimited):
                asked_for = (error.retry_at - services.clock()).total_seconds()  # by the host
                wait = max(wait, min(asked_for, LONGEST_WAIT))
            return await self._hand_back(timedelta(seconds=wait), f"{error} (tried again in {wait:.0f} s)")
        await self._finish("failed", failure=error)

    async def _wait_for_room(self, error: OverLimit) -> None:
        """Try a sync again later if its team has used up its bytes; the team is notified once."""
        services, now = self._services, self._services.clock()
        team_id = (await remotes.get(services.db, self._run.repo_id)).team_id
        if await limited.over(services.db, team_id, now, str(error)):
            await notices.add(services.db, team_id, None, "over-limit", str(error), now)
        await self._have_row()
        await self._hand_back(FULL, f"{error} (tried again later)", counted=False)

    async def _put_off(self, error: EverrefError) -> None:
        """Try a sync again whose failure comes neither from its repo nor from anything that all repos share.

        If the vault, the database or a disk keeps failing for this one repo only, that
        is finally recorded at the repo, as nobody would see it otherwise.
        """
        await self._have_row()
        attempt = self._job.attempt if self._job is not None else 1
        if attempt >= ATTEMPTS and error.origin is not Origin.FORGE:
            await syncing.record_failure(self._services, self._run.repo_id, error)
            return await self._finish("failed", failure=error)
        wait = backoff.wait("network", attempt, random.random())
        await self._hand_back(wait, f"{error} (tried again later)")

    async def _hand_back(self, wait: timedelta | None, note: str, *, counted: bool = True) -> None:
        if self._job is not None:
            due = None if wait is None else self._services.clock() + wait
            await jobs.again(self._services.db, self._job.id, self._job.attempt, due, note, counted=counted)

    async def _keep(self, state: State, result: Result, failure: EverrefError | None) -> None:
        """Make a row for a run that has ended without one, in one statement."""
        services, run = self._services, self._run
        asked = {"reason": Reason.PUSH.value}
        outcome = self._outcome(state, result, failure)
        kept = await jobs.keep(services.db, run.repo_id, run.kind, asked, self._began, outcome)
        if kept is not None:
            self._logged.job = str(kept)
            self._log_end(state)

    async def _finish(
        self, state: State, result: Result | None = None, failure: EverrefError | None = None
    ) -> None:
        outcome = self._outcome(state, result, failure)
        if self._job and await jobs.finish(self._services.db, self._job.id, self._job.attempt, outcome):
            self._log_end(state)
            if team_drills.ASKED in self._job.asked:
                await team_drills.go_on(self._services)

    def _outcome(self, state: State, result: Result | None, failure: EverrefError | None) -> Outcome:
        return Outcome(state, self._services.clock(), self.meter.ended, result, failure)

    def _log_end(self, state: State) -> None:
        """Log one line for each job that has ended; why one failed is logged already."""
        if state != "failed":
            log.info("%s of %s: %s", self._run.kind, self._run.repo_id, state)


def _explained(error: BaseException | None, run: Run) -> EverrefError | None:
    """What the work raised, in our words; a bug stops this run and no other."""
    if error is None or isinstance(error, EverrefError):
        return error
    log.error("a bug in a %s of %s", run.kind, run.repo_id, exc_info=error)
    return OurFault(f"Everref failed ({type(error).__name__}); the worker's log says where; please report it")


def shortcoming(kind: Kind, result: Result | None) -> EverrefError | None:
    """What is wrong although the work was completed."""
    if result is None:
        return None
    problems = result.get("problems")
    if problems:
        return Corrupt(f"{len(problems)} problems were found, the first: {problems[0]}")
    if kind == "restore" and not result["verified"]:
        refused = result["counts"].get("refused", 0)
        skipped = sum(one["refs"] for one in result["skipped"])
        if skipped and not refused:
            return Refused(
                f"{skipped} of {result['refs_total']} refs were left as they are; the result says why"
            )
        return Refused(
            f"{refused} of {result['refs_total']} refs were refused; the result says which and why"
        )
    if kind == "bundle" and not result["verified"]:
        return Corrupt("the bundle does not hold the refs that were recorded; report this")
    return None


async def _sync(services: Services, run: Run) -> Result | None:
    """Serve the open sync request, or look because somebody asked. None: another run has served it."""
    reason = Reason.PUSH
    if run.job is not None:
        reason = Reason(run.job.asked.get("reason", Reason.MANUAL))
        repo = await repos.get(services.db, run.repo_id)
    elif (sync_requested := await repos.with_sync_request(services.db, run.repo_id)) is not None:
        repo = sync_requested
    else:
        return None
    done = await syncing.sync_kept(services, repo, reason, PATIENCE)
    await looked(services, run.repo_id, done.new)
    if done.new and run.job is not None and run.job.notes:  # it may have waited for room
        await limited.brought(services.db, run.repo_id)
    if done.new:
        await _compact_if_due(services, run.repo_id)
    return results.synced(done)


async def pushed(services: Services, repo_id: RepoId) -> None:
    """What follows a push to a repo without a remote, as it follows a sync. Safe to run twice."""
    await looked(services, repo_id, new=True)
    await _compact_if_due(services, repo_id)


async def follow_up(services: Services, team_id: TeamId, asked: Mapping[str, Any]) -> None:
    """What follows a restore into a repo without a remote, as it follows a push. Safe to run twice."""
    kept = await repos.find_in(services.db, team_id, RepoId(UUID(asked["kept"]))) if "kept" in asked else None
    if kept is not None and not has_remote(kept.url):
        await pushed(services, kept.id)


async def _compact_if_due(services: Services, repo_id: RepoId) -> None:
    if compaction.due(await parts.live(services.db, repo_id)):
        await jobs.queue(services.db, repo_id, "compact", {}, services.clock())


async def looked(services: Services, repo_id: RepoId, new: bool) -> None:
    """The remote has just answered: the next look is due when the repo's schedule says."""
    now = services.clock()
    async with connected(services.db) as db:
        rhythm = await schedules.answered(db, repo_id, now, new)
        due = next_look(rhythm, repo_id, now, now)
        await schedules.looked(db, [Looked(repo_id, now, due)])


async def _compact(services: Services, run: Run) -> Result:
    done = await compact.compact(services, await repos.get(services.db, run.repo_id), PATIENCE)
    return results.compacted(done)


async def _drill(services: Services, run: Run) -> Result:
    repo, snapshot = await _moment(services, run)
    done = await drill.drill(services, repo, snapshot)
    await schedules.drilled(services.db, repo.id, services.clock())
    if whole := _job_of(run).asked.get(team_drills.ASKED):
        await team_drills.record(services, UUID(str(whole)), done)
    return results.drilled(done, LINES_KEPT)


async def _verify(services: Services, run: Run) -> Result:
    done = await verify.verify(services, await repos.get(services.db, run.repo_id))
    return results.verified(done, LINES_KEPT)


async def _bundle(services: Services, run: Run) -> Result:
    """Make a bundle, which can be downloaded for a while."""
    repo, snapshot = await _moment(services, run)
    job = _job_of(run)
    cause = Cause(job.id, job.person_id)
    done, made = await export.make(services, repo, snapshot, cause, What.of(job.asked))
    return results.restored(done, REFS_KEPT) | made.told()


async def _restore(services: Services, run: Run) -> Result:
    """Push a moment to a remote, or undo that, with what its requester may use now."""
    repo, snapshot = await _moment(services, run)
    job = _job_of(run)
    role = await target.role_of(services, job.team_id, job.person_id, job.asked)
    means = Authority(role, job.secret(services.keyring) if services.keyring else None)
    if job.asked.get("undo"):
        undone = await _undone(services, job.team_id, job.repo_id, job.asked)
        cause = Cause(job.id, job.person_id, undo_of=undone.id, attempt=job.attempt)
        put_back = await undo.undo(services, undone, repo, snapshot, means, cause)
        await follow_up(services, job.team_id, undone.asked)
        return results.restored(put_back, REFS_KEPT)
    to, made = await target.ready(services, job, means)
    named = {way: job.asked[way] for way in (*target.WAYS, "connection") if job.asked.get(way)}
    cause = Cause(job.id, job.person_id, named, made, attempt=job.attempt)
    what = What.of(job.asked)
    if whole := job.asked.get(rollbacks.ASKED):
        what = replace(what, leases=await rollback_rows.leases(services.db, RollbackId(UUID(whole)), repo.id))
    done = await restore.to_remote(services, repo, snapshot, to, what, cause)
    await follow_up(services, job.team_id, job.asked)
    result = results.restored(done, REFS_KEPT) | {"to": to.shown}
    return result | {"made": to.url} if made else result


async def _undone(services: Services, team_id: TeamId, repo_id: RepoId, asked: Mapping[str, Any]) -> Job:
    """The job whose restore is to be undone. Raises NotFound."""
    try:
        found = await jobs.find(services.db, team_id, JobId(UUID(str(asked["undo"]))))
    except ValueError:
        found = None
    if found is None or found.repo_id != repo_id:
        raise NotFound("there is no such restore to undo")
    return found


async def _moment(services: Services, run: Run) -> tuple[Repo, Snapshot]:
    """The repo, and the snapshot that was asked for: by its number, or the latest. Raises NotFound."""
    repo = await repos.get(services.db, run.repo_id)
    return repo, await moment.snapshot_at(services, repo, moment.wanted(_job_of(run).asked))


async def _import(services: Services, run: Run) -> Result:
    """Prove a file that somebody uploaded, and take a snapshot of it; refuse it where no later try comes."""
    job = _job_of(run)
    repo, upload = await repos.get(services.db, run.repo_id), UploadId(UUID(str(job.asked["upload"])))
    try:
        done = await uploads.prove(services, repo, upload, job.team_id)
    except EverrefError as error:
        is_last = error.permanent or job.attempt >= ATTEMPTS
        if is_last and not await outages.met(services, error):  # else it waits until that is over
            await uploads.give_up(services, upload, job.team_id, str(error))
        raise
    except Exception:  # a bug
        await uploads.give_up(services, upload, job.team_id, "Everref failed; its log says why")
        raise
    await looked(services, repo.id, bool(done["new"]))
    return done


def _job_of(run: Run) -> Job:
    assert run.job is not None, f"a {run.kind} is always requested"
    return run.job


_DO: Final[Mapping[Kind, Callable[[Services, Run], Coroutine[Any, Any, Result | None]]]] = {
    "sync": _sync,
    "restore": _restore,
    "drill": _drill,
    "verify": _verify,
    "bundle": _bundle,
    "compact": _compact,
    "import": _import,
}
