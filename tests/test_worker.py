"""The worker: what is due is taken up, fairly and once; what is killed is begun anew; Redis is no way in."""

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from arq.constants import job_key_prefix

from mirror import worker
from mirror.backup import sync as syncing
from mirror.backup.sync import Synced
from mirror.core.errors import BadCredentials, EverrefError, NetworkError, RemoteGone
from mirror.core.model import Reason, Repo, RepoId
from mirror.core.rules.work.fairness import Free
from mirror.jobs import run as jobbing
from mirror.jobs import runner as running
from mirror.jobs.runner import Runner
from mirror.services.queue import NoQueue, Queue
from mirror.services.startup import environment
from mirror.store import leases, repos
from mirror.store.backup import snapshots
from mirror.store.jobs import jobs, runs
from mirror.store.jobs.jobs import Job
from mirror.store.jobs.runs import Preference, Run
from mirror.store.people.teams import TeamId
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, GitServer, serving
from tests.parts.redis import work_off
from tests.parts.repos import Work

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

EVERYTHING = list(range(256))
NO_PATIENCE = timedelta(0)


async def sync_requested(mirror: Mirror, address: str = "https://forge.example/alice/garden") -> RepoId:
    """A repo, wherever it is, with an open wish."""
    repo = await mirror.repo(address)
    await repos.request_sync(mirror.services.db, repo.id, mirror.clock())
    return repo.id


async def jobs_of(mirror: Mirror, repo_id: RepoId) -> list[Job]:
    rows = await mirror.services.db.fetch(
        "select id from job where repo_id = $1 order by queued_at, id", repo_id
    )
    found = [await jobs.by_id(mirror.services.db, row["id"]) for row in rows]
    return [job for job in found if job]


async def take(
    mirror: Mirror,
    room: int = 100,
    worker: str = "elsewhere/1/1/1/aa",
    *,
    heavy: int = 100,
    shares: Sequence[int] = EVERYTHING,
    patience: timedelta = NO_PATIENCE,
    now: datetime | None = None,
) -> list[Run]:
    """What a worker takes up."""
    return await runs.take(
        mirror.services.db, worker, now or mirror.clock(), Free(room, heavy), Preference(shares, patience)
    )


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[EverrefError]:
    """What the next syncs fail with, in this order, in place of asking the remote."""
    failures: list[EverrefError] = []

    async def fail(*_: object, **__: object) -> None:
        raise failures.pop(0)

    monkeypatch.setattr(syncing, "_sync_once", fail)
    return failures


@asynccontextmanager
async def hanging(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RepoId]:
    """A runner in the midst of a sync that hangs, of a repo with an open wish; cancelled at the end."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    monkeypatch.setattr(syncing, "sync_kept", hang)
    monkeypatch.setattr(jobbing, "PROGRESS_SECONDS", 0.01)
    repo_id = await sync_requested(mirror)
    runner = Runner(mirror.services)
    working = asyncio.create_task(runner.work())
    try:
        await begun.wait()
        yield repo_id
    finally:
        working.cancel()
        await asyncio.wait([working])
        await runner.hand_back()
    assert cleaned.is_set()


async def until(true: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until something holds; the limit of the test run ends a wait that is in vain."""
    while not (found := await true()):  # noqa: ASYNC110 - it is another connection's doing
        await asyncio.sleep(0.01)
    return found


async def test_a_hint_has_its_repo_synced(mirror: Mirror, work: Work, redis_url: str, jobs: Queue) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    await jobs.enqueue_job("sync_repo", str(repo_id))
    await work_off(mirror.services, redis_url)
    snapshot = await snapshots.latest(mirror.services.db, repo_id)
    assert snapshot is not None
    assert (snapshot.number, snapshot.reason) == (1, Reason.PUSH)
    assert await jobs.keys("arq:*") == []


async def test_what_no_hint_told_of_is_found(mirror: Mirror, work: Work) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    await Runner(mirror.services).work_off()
    assert await repos.sync_request(mirror.services.db, repo_id) is None


async def test_a_worker_without_redis_does_what_is_due(mirror: Mirror, work: Work) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    async with worker.working(mirror.services, NoQueue(), periodical=False):
        await until(lambda: snapshots.latest(mirror.services.db, repo_id))
    assert await repos.sync_request(mirror.services.db, repo_id) is None


async def test_a_hundred_hints_of_one_wish_are_one_look_at_the_remote(
    mirror: Mirror, work: Work, git_server: GitServer, redis_url: str, jobs: Queue
) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, f"{git_server.url}/remote.git")
    for _ in range(100):
        await jobs.enqueue_job("sync_repo", str(repo_id))
    worker = await work_off(mirror.services, redis_url)
    assert worker.jobs_failed == 0
    assert git_server.count("info/refs") == 1


async def test_a_wish_that_came_while_its_repo_was_synced_is_served_too(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    pushes = 1
    real = syncing.sync_kept

    async def sync_and_push(*args: Any, **kwargs: Any) -> Synced:
        nonlocal pushes
        done = await real(*args, **kwargs)
        if pushes < 5:
            pushes += 1
            work.commit("main")
            await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
        return done

    monkeypatch.setattr(syncing, "sync_kept", sync_and_push)
    await Runner(mirror.services).work_off()
    assert await repos.sync_request(mirror.services.db, repo_id) is None
    snapshot = await snapshots.latest(mirror.services.db, repo_id)
    assert snapshot and snapshot.number == pushes == 5


async def test_what_may_pass_is_tried_again_later_and_what_will_not_is_not(
    mirror: Mirror, syncs: list[EverrefError]
) -> None:
    syncs += [NetworkError("the remote does not answer"), RemoteGone("there is no such repository")]
    repo_id = await sync_requested(mirror)
    await Runner(mirror.services).work_off()  # the clock of tests goes on by a minute at each look
    assert await take(mirror, now=mirror.clock.now + timedelta(minutes=30)) == []
    assert syncs == []
    await repos.request_sync(mirror.services.db, repo_id, mirror.clock())  # somebody pushes
    (run,) = await take(mirror)
    assert (run.repo_id, run.failing) == (repo_id, "gone")


async def test_what_takes_other_credentials_is_not_tried_before_there_are_some(
    mirror: Mirror, syncs: list[EverrefError]
) -> None:
    syncs.append(BadCredentials("the host refuses these credentials"))
    repo_id = await sync_requested(mirror)
    await Runner(mirror.services).work_off()
    await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
    assert not await take(mirror, now=mirror.clock.now + timedelta(days=30))
    await repos.retry(mirror.services.db, repo_id, mirror.clock())
    assert await take(mirror)


async def test_who_writes_to_redis_runs_no_code_here(mirror: Mirror, redis_url: str, jobs: Queue) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle from the queue was opened",))

    await jobs.set(job_key_prefix + "bomb", pickle.dumps(Bomb()))
    await jobs.zadd("arq:queue", {"bomb": 1})
    worker = await work_off(mirror.services, redis_url)
    assert (worker.jobs_failed, worker.jobs_complete) == (1, 0)


async def test_what_one_worker_has_taken_up_no_other_gets(mirror: Mirror) -> None:
    for number in range(20):
        await sync_requested(mirror, f"https://forge-{number}.example/alice/garden-{number}")
    taken = await asyncio.gather(*(take(mirror, 3, worker=f"elsewhere/{n}/1/1/aa") for n in range(8)))
    keys = [run.key for one in taken for run in one]
    assert len(keys) == len(set(keys)) == 20


async def test_a_large_team_does_not_delay_a_small_one(mirror: Mirror) -> None:
    db = mirror.services.db
    for number in range(30):
        await sync_requested(mirror, f"https://forge-{number}.example/alice/garden-{number}")
    small = await db.fetchval("insert into team (name) values ('small') returning id")
    for number in range(3):
        repo = await repos.add(
            db, small, f"bob/{number}", f"https://other-{number}.example/x", mirror.clock()
        )
        await repos.request_sync(db, repo.id, mirror.clock())
    teams = []
    for _ in range(6):
        (run,) = await take(mirror, 1)
        teams.append(await db.fetchval("select team_id from repo where id = $1", run.repo_id))
    assert teams.count(small) == 3


async def test_no_host_is_asked_by_too_many_at_once(mirror: Mirror) -> None:
    for number in range(20):
        known = await sync_requested(mirror, f"https://busy.example/alice/{number}")
        await repos.touch_protected(mirror.services.db, known, mirror.clock())
    other = await sync_requested(mirror, "https://idle.example:8443/bob/shed")
    first = await take(mirror)
    assert len(first) == runs.AT_HOST + 1 and other in {run.repo_id for run in first}
    assert await take(mirror) == []
    await runs.end(mirror.services.db, "elsewhere/1/1/1/aa", first[0].key)
    await repos.touch_protected(
        mirror.services.db,
        first[0].repo_id,
        mirror.clock(),
        await repos.sync_request(mirror.services.db, first[0].repo_id),
    )
    assert len(await take(mirror)) == (first[0].repo_id != other)


async def test_first_backups_leave_room_for_pushes(mirror: Mirror) -> None:
    for number in range(5):
        await sync_requested(mirror, f"https://forge-{number}.example/alice/garden-{number}")
    known = await sync_requested(mirror, "https://last.example/bob/shed")
    await repos.touch_protected(mirror.services.db, known, mirror.clock())
    taken = await take(mirror, heavy=2)
    assert sum(run.heavy for run in taken) == 2 and known in {run.repo_id for run in taken}


async def test_a_repo_meets_the_worker_whose_share_it_is_unless_that_is_busy(mirror: Mirror) -> None:
    repo_id = await sync_requested(mirror)
    now = mirror.clock.now
    others = [share for share in EVERYTHING if share != repo_id.bytes[0]]
    patience = timedelta(seconds=1)
    assert not await take(mirror, shares=others, patience=patience, now=now)
    assert await take(mirror, shares=others, patience=patience, now=now + patience)
    await repos.request_sync(mirror.services.db, repo_id, now)
    await runs.leave(mirror.services.db, "elsewhere/1/1/1/aa")
    assert await take(mirror, shares=[repo_id.bytes[0]], patience=patience, now=now)


async def test_a_repo_that_somebody_is_at_work_on_is_left_alone(mirror: Mirror) -> None:
    repo_id = await sync_requested(mirror)
    lease = await leases.acquire(mirror.services.db, repo_id)
    assert lease and not await take(mirror)
    await leases.release(mirror.services.db, lease)
    assert await take(mirror)


async def test_a_paused_or_archived_repo_is_synced_when_a_person_asks_only(mirror: Mirror) -> None:
    repo_id = await sync_requested(mirror)
    await mirror.services.db.execute("update repo set paused_at = now()")
    assert not await take(mirror)
    await jobs.queue(mirror.services.db, repo_id, "sync", {"reason": "manual"}, mirror.clock())
    assert await take(mirror)


async def test_a_stopped_worker_hands_its_runs_back(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hanging(mirror, monkeypatch) as repo_id:
        assert await take(mirror) == []
        job = (await until(lambda: jobs_of(mirror, repo_id)))[0]  # a first backup can be watched
        assert job.state == "running"
    (job,) = await jobs_of(mirror, repo_id)
    assert (job.state, job.notes) == ("queued", ("the worker was stopped",))
    (run,) = await take(mirror)
    assert run.job and (run.job.id, run.job.attempt) == (job.id, 2)
    assert not await mirror.services.db.fetchval("select count(*) from worker")


def started(pid: int) -> str:
    """When a process began, as proc(5) says it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


async def test_the_runs_of_a_killed_worker_are_begun_anew(mirror: Mirror) -> None:
    db = mirror.services.db
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    me = leases.myself().split("/")
    killed = "/".join([*me[:2], str(process.pid), started(process.pid), "aa"])
    repo_id = await sync_requested(mirror)
    job = await jobs.queue(db, repo_id, "verify", {}, mirror.clock())
    assert len(await take(mirror, worker=killed)) == 2
    await runs.beat(db, killed)
    assert await runs.reap(db, "me/1/1/1/cc", mirror.clock()) == 0
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await runs.reap(db, "me/1/1/1/cc", mirror.clock()) == 2
    again = {run.repo_id if run.job is None else run.job.id: run for run in await take(mirror)}
    assert again.keys() == {repo_id, job.id}
    found = again[job.id].job
    assert found and found.attempt == 2 and found.notes == ("its worker went away",)


async def test_a_job_that_kills_its_worker_each_time_has_failed_in_the_end(mirror: Mirror) -> None:
    db = mirror.services.db
    repo = await mirror.repo("https://forge.example/alice/garden")
    job = await jobs.queue(db, repo.id, "verify", {}, mirror.clock())
    for _ in range(runs.ATTEMPTS):
        assert len(await take(mirror)) == 1
        await runs.leave(db, "elsewhere/1/1/1/aa")
        await runs.reap(db, "me/1/1/1/cc", mirror.clock())
    assert await take(mirror) == []
    found = await jobs.by_id(db, job.id)
    assert found and found.state == "failed" and found.failure and found.failure.kind == "ours"


async def test_a_worker_that_fell_silent_loses_its_runs(mirror: Mirror) -> None:
    db = mirror.services.db
    await sync_requested(mirror)
    await runs.beat(db, "elsewhere/1/1/1/aa")
    await take(mirror)
    assert await runs.reap(db, "me/1/1/1/cc", mirror.clock()) == 0
    await db.execute("update worker set beat_at = clock_timestamp() - interval '1 hour'")
    assert await runs.beat(db, "another/1/1/1/bb") == ["another/1/1/1/bb"]
    assert await runs.reap(db, "me/1/1/1/cc", mirror.clock()) == 1


async def test_a_worker_that_could_not_reach_the_database_takes_nobody_for_dead(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(mirror.services)
    await sync_requested(mirror)
    assert len(await take(mirror)) == 1
    monkeypatch.setattr(running, "BEAT_SECONDS", -1)  # the last beat was longer ago than it should be
    await runner.beat_once()
    assert await take(mirror) == []
    monkeypatch.undo()
    await runner.beat_once()
    assert len(await take(mirror)) == 1


async def test_a_run_whose_end_could_not_be_written_is_ended_by_the_next_beat(mirror: Mirror) -> None:
    runner = Runner(mirror.services)
    await sync_requested(mirror)
    assert len(await take(mirror, worker=runner.me)) == 1
    await runner.beat_once()
    assert len(await take(mirror)) == 1


async def test_a_look_that_finds_nothing_leaves_no_job_and_a_push_leaves_one(
    mirror: Mirror, work: Work
) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    runner = Runner(mirror.services)
    await runner.work_off()
    await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
    await runner.work_off()
    work.commit("main")
    await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
    await runner.work_off()
    first, second = await jobs_of(mirror, repo_id)
    assert first.result and second.result
    assert (first.state, first.result["snapshot"], second.result["snapshot"]) == ("done", 1, 2)
    assert first.phases and first.bytes is not None and first.asked == {"reason": "push"}


async def test_a_failure_is_told_once(mirror: Mirror, syncs: list[EverrefError]) -> None:
    repo_id = await sync_requested(mirror)
    await repos.touch_protected(mirror.services.db, repo_id, mirror.clock())
    for _ in range(3):
        syncs.append(RemoteGone("there is no such repository"))
        await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
        await Runner(mirror.services).work_off()
    (job,) = await jobs_of(mirror, repo_id)
    assert job.failure and job.failure.kind == "gone"


async def test_a_bug_stops_one_repo_and_no_other(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit("main")
    good, bad = await sync_requested(mirror, str(work.path)), await sync_requested(mirror)
    real = syncing.sync_kept

    async def with_a_bug(services: Any, repo: Repo, *args: Any) -> Synced:
        if repo.id == bad:
            raise KeyError("a bug")
        return await real(services, repo, *args)

    monkeypatch.setattr(syncing, "sync_kept", with_a_bug)
    await Runner(mirror.services).work_off()
    assert await repos.sync_request(mirror.services.db, good) is None
    state = await repos.overview_of(mirror.services.db, bad)
    assert state.failure and state.failure.kind == "ours" and "KeyError" in state.failure.message


async def test_a_run_that_takes_too_long_is_stopped_and_recorded(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(syncing, "_sync_once", hang)
    monkeypatch.setattr(jobbing, "RUN_SECONDS", 0.05)
    repo_id = await sync_requested(mirror)
    await Runner(mirror.services).work_off()
    (job,) = await jobs_of(mirror, repo_id)
    assert job.failure and job.failure.kind == "limit"
    state = await repos.overview_of(mirror.services.db, repo_id)
    assert state.failure and state.failure.kind == "limit"


async def test_a_cancelled_backup_is_not_begun_at_once(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hanging(mirror, monkeypatch) as repo_id:
        (job,) = await until(lambda: jobs_of(mirror, repo_id))
        await jobs.cancel(mirror.services.db, job.team_id, job.id, mirror.clock())
        await until(lambda: ended(mirror.services.db, job))
    assert await take(mirror) == []
    found = await jobs.by_id(mirror.services.db, job.id)
    assert found and (found.state, found.failure) == ("cancelled", None)
    await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
    assert len(await take(mirror)) == 1


async def ended(db: asyncpg.Pool, job: Job) -> datetime | None:
    found = await jobs.by_id(db, job.id)
    return found.finished_at if found else None


@asynccontextmanager
async def process(mirror: Mirror, redis_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker process; asked to stop at the end, if it still runs."""
    settings = replace(mirror.services.settings, redis_url=redis_url)
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "mirror.worker"),
        env=environment(settings, os.environ),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()


async def test_without_redis_work_goes_on_also_with_what_was_pushed_while_no_worker_was_there(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.commit("main")
    repo_id = (await mirror.backup(work)).repo.id
    await mirror.services.db.execute("update repo set look_at = now() + interval '1 day'")
    work.commit("main")
    async with process(mirror, f"unix://{tmp_path}/no.sock") as worker:
        await until(lambda: snapshots.get(mirror.services.db, repo_id, 2))
        work.commit("main")
        await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
        await until(lambda: snapshots.get(mirror.services.db, repo_id, 3))
        worker.terminate()
        assert await worker.wait() == 0
    assert not await mirror.services.db.fetchval("select count(*) from worker")


async def test_with_redis_flushed_and_restarted_work_goes_on(
    mirror: Mirror, work: Work, redis_url: str, jobs: Queue
) -> None:
    work.commit("main")
    async with process(mirror, redis_url):
        repo_id = await sync_requested(mirror, str(work.path))
        await jobs.enqueue_job("sync_repo", str(repo_id))
        await until(lambda: snapshots.latest(mirror.services.db, repo_id))
        await jobs.flushall()
        work.commit("main")
        await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
        await until(lambda: snapshots.get(mirror.services.db, repo_id, 2))


async def test_the_first_backup_of_a_worker_that_is_killed_is_done_by_the_next(
    mirror: Mirror, work: Work, git_server: GitServer, redis_url: str
) -> None:
    work.commit("main")
    git_server.faults["git-upload-pack"] = Fault(silent=True)
    repo_id = await sync_requested(mirror, f"{git_server.url}/remote.git")
    async with process(mirror, redis_url) as worker:
        (job,) = await until(lambda: jobs_of(mirror, repo_id))
        worker.kill()
        await worker.wait()
    git_server.faults.clear()
    async with process(mirror, redis_url):
        await until(lambda: ended(mirror.services.db, job))
    (again,) = await jobs_of(mirror, repo_id)
    assert (again.id, again.state, again.attempt) == (job.id, "done", 2)
    assert again.notes[0] == "its worker went away"
    assert await snapshots.latest(mirror.services.db, repo_id)


async def test_a_sync_that_waits_for_its_host_gives_its_slot_away(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = make_work("slow.git"), make_work("quick.git")
    for work in (slow, quick):
        work.commit("main")
    kept = [await mirror.backup(f"{git_server.url}/{name}.git", name) for name in ("slow", "quick")]
    git_server.faults["slow.git"] = Fault(silent=True)
    monkeypatch.setattr(running, "SLOW_SECONDS", 0)
    runner = Runner(mirror.services, slots=1)
    db = mirror.services.db
    await repos.request_sync(db, kept[0].repo.id, mirror.clock())
    assert await runner.look() == 1
    quick.commit("main")
    await repos.request_sync(db, kept[1].repo.id, mirror.clock())
    assert await runner.look() == 1
    await until(lambda: _has(mirror, kept[1].repo.id, 2))
    await runner.hand_back()
    assert await repos.sync_request(db, kept[0].repo.id) is not None


@pytest.mark.parametrize("known", [True, False], ids=["fetches", "first backups"])
async def test_a_team_whose_runs_never_end_leaves_half_of_the_slots_to_others(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer, known: bool
) -> None:
    """Five remotes that dripped held every slot of a small worker, of all teams, for a day."""
    db, others = mirror.services.db, await _team(mirror.services.db, "others")
    runner = Runner(mirror.services, slots=4)
    for number in range(6):
        make_work(f"slow-{number}.git").commit("main")
        if known:
            await mirror.backup(f"{git_server.url}/slow-{number}.git", f"slow-{number}")
    git_server.faults["slow"] = Fault(silent=True)
    for number in range(6):
        await sync_requested(mirror, f"{git_server.url}/slow-{number}.git")
    assert await runner.look() == (4 if known else 3)
    async with serving(git_server.root) as elsewhere:
        for name in ("one", "two", "three"):
            make_work(f"{name}.git").commit("main")
            repo = await repos.add(db, others, name, f"{elsewhere.url}/{name}.git", mirror.clock())
            await repos.request_sync(db, repo.id, mirror.clock())
        for repo in await repos.all(db):
            if repo.name in ("one", "two", "three"):
                await runner.look()
                await until(partial(_has, mirror, repo.id, 1))
        await runner.hand_back()


async def _team(db: asyncpg.Pool, name: str) -> TeamId:
    found = await db.fetchval("insert into team (name) values ($1) returning id", name)
    return TeamId(UUID(bytes=found.bytes))


async def _has(mirror: Mirror, repo_id: RepoId, number: int) -> bool:
    last = await snapshots.latest(mirror.services.db, repo_id)
    return last is not None and last.number == number
