"""arq carries the jobs: each does its run inside itself; with Redis away, or dying then, no run is lost."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from arq.connections import RedisSettings, create_pool
from arq.utils import timestamp_ms

from mirror import worker
from mirror.backup import sync as syncing
from mirror.backup.sync import Synced
from mirror.core.errors import Refused
from mirror.core.model import Repo, RepoId
from mirror.core.rules.work.job import SYNC, numbered
from mirror.jobs import runner as running
from mirror.jobs.run import RUN_SECONDS
from mirror.jobs.runner import Runner
from mirror.services import open
from mirror.services import queue as queueing
from mirror.services.queue import NAME, Choice, Queue, WorkerQueue
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.jobs import runs
from tests.parts.everref import Mirror
from tests.parts.redis import work_off
from tests.parts.repos import Work
from tests.parts.whole import OwnRedis
from tests.test_worker import jobs_of, sync_requested, take, until

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

OURS, THEIRS = RepoId(UUID(int=1 << 120)), RepoId(UUID(int=2 << 120))  # the first byte says whose it is


@asynccontextmanager
async def carried(mirror: Mirror, redis_url: str) -> AsyncIterator[Runner]:
    """A worker in this process, with arq in it."""
    queue = WorkerQueue.at(redis_url)
    async with worker.working(mirror.services, queue, periodical=False) as ctx:
        carrying = asyncio.create_task(worker.carry(ctx, queue, cron_jobs=()))
        await until(lambda: lives(queue))
        try:
            yield ctx["runner"]
        finally:
            carrying.cancel()  # once, as a signal does
            await asyncio.wait([carrying])
            await queue.aclose(close_connection_pool=True)


async def lives(queue: WorkerQueue) -> bool:
    return queue.lives()


async def done(queue: Queue) -> bool:
    """Whether arq has done every job that was put in."""
    return not await queue.keys("arq:job:*")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """The next syncs have begun; they may go on."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    real = syncing.sync_kept

    async def hold(*args: Any, **kwargs: Any) -> Synced:
        begun.set()
        await go_on.wait()
        return await real(*args, **kwargs)

    monkeypatch.setattr(syncing, "sync_kept", hold)
    return begun, go_on


async def test_a_job_of_arq_does_the_run_inside_itself_and_is_in_no_queue_meanwhile(
    mirror: Mirror, work: Work, redis_url: str, jobs: Queue, held: tuple[asyncio.Event, asyncio.Event]
) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    begun, go_on = held
    job = await jobs.enqueue_job(SYNC, str(repo_id))
    working = asyncio.create_task(work_off(mirror.services, redis_url))
    await begun.wait()
    assert job and await jobs.keys("arq:in-progress:*") == [f"arq:in-progress:{job.job_id}".encode()]
    assert await jobs.zcard(NAME) == 0  # of a worker that is killed now nothing stays there
    go_on.set()
    done = await working
    assert (done.jobs_complete, await jobs.keys("arq:*")) == (1, [])
    assert await snapshots.latest(mirror.services.db, repo_id)


async def test_a_job_that_finds_its_run_taken_does_what_is_next(
    mirror: Mirror, work: Work, redis_url: str, jobs: Queue
) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    await jobs.enqueue_job(SYNC, str(OURS))
    await work_off(mirror.services, redis_url)
    assert await snapshots.latest(mirror.services.db, repo_id)


async def test_one_job_does_all_that_is_due_beside_it(
    mirror: Mirror, redis_url: str, jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    async def sync(_: object, repo: Repo, *__: object) -> None:
        done.append(repo.id)
        await repos.touch_protected(
            mirror.services.db, repo.id, mirror.clock(), await repos.sync_request(mirror.services.db, repo.id)
        )
        raise Refused("this is all that it does")

    monkeypatch.setattr(syncing, "sync_kept", sync)
    sync_requests = [await sync_requested(mirror, f"https://forge.example/alice/{n}") for n in range(3)]
    await jobs.enqueue_job(SYNC, str(sync_requests[0]))
    await work_off(mirror.services, redis_url)
    assert sorted(done) == sorted(sync_requests)


async def test_what_arq_ends_when_its_time_is_over_has_failed_and_is_not_handed_back(
    mirror: Mirror, held: tuple[asyncio.Event, asyncio.Event]
) -> None:
    assert worker.WorkerSettings.job_timeout == RUN_SECONDS
    repo_id = await sync_requested(mirror)
    begun, _ = held
    job = asyncio.create_task(Runner(mirror.services).serve(repo_id, until=asyncio.get_running_loop().time()))
    await begun.wait()
    job.cancel()
    assert await job
    (found,) = await jobs_of(mirror, repo_id)
    assert found.failure and found.failure.kind == "limit"


async def test_a_redis_that_dies_in_the_midst_of_a_run_does_not_end_it(
    mirror: Mirror, work: Work, own_redis: OwnRedis, held: tuple[asyncio.Event, asyncio.Event]
) -> None:
    work.commit("main")
    begun, go_on = held
    repo_id = await sync_requested(mirror, str(work.path))
    async with carried(mirror, own_redis.url):
        await begun.wait()
        await own_redis.stop()
        go_on.set()
        await until(lambda: _ended(mirror, repo_id))
        await own_redis.start()
    (job,) = await jobs_of(mirror, repo_id)
    assert (job.state, job.attempt, job.notes) == ("done", 1, ())


async def test_a_worker_stops_also_where_redis_swallows_the_word_to_stop(
    mirror: Mirror, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = open.CANCEL_AGAIN_SECONDS
    monkeypatch.setattr(open, "CANCEL_AGAIN_SECONDS", 0.01)
    looking = asyncio.Event()
    swallowed: list[bool] = []

    async def look(*_: Any, **__: Any) -> list[bytes]:
        """As `asyncio.wait_for` of Python 3.11 answers one whose answer came with the cancellation."""
        looking.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallowed:
                raise
            swallowed.append(True)
            monkeypatch.setattr(open, "CANCEL_AGAIN_SECONDS", patience)  # the others clean up undisturbed
        return []

    monkeypatch.setattr(WorkerQueue, "zrangebyscore", look)
    async with carried(mirror, redis_url):
        await looking.wait()
    assert swallowed


async def _ended(mirror: Mirror, repo_id: RepoId) -> bool:
    found = await jobs_of(mirror, repo_id)
    return bool(found) and all(one.finished_at for one in found)


async def test_with_redis_away_a_loop_does_what_arq_did_and_arq_does_it_again_afterwards(
    mirror: Mirror, work: Work, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "AWAY_SECONDS", 0.05)
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.05)
    work.commit("main")
    async with carried(mirror, own_redis.url):
        await own_redis.stop()
        repo_id = await sync_requested(mirror, str(work.path))
        await until(lambda: snapshots.get(mirror.services.db, repo_id, 1))
        await own_redis.start()
        queue = Queue.at(own_redis.url)
        work.commit("main")
        await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
        await queue.enqueue_job(SYNC, str(repo_id))
        await until(lambda: snapshots.get(mirror.services.db, repo_id, 2))
        await until(lambda: done(queue))
        await queue.aclose(close_connection_pool=True)


async def test_a_publish_wakes_a_look_at_the_queue(
    redis_url: str, jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "LOOK_SECONDS", 3600)
    queue = WorkerQueue.at(redis_url)
    listening = asyncio.create_task(queue.listen())
    await until(lambda: lives(queue))
    now = timestamp_ms() - 1  # arq asks for what was due when it asked
    assert await queue.zrangebyscore(NAME, "-inf", now) == []  # the next look waits
    look = asyncio.create_task(queue.zrangebyscore(NAME, "-inf", now))
    job = await jobs.enqueue_job(SYNC, str(OURS))
    assert job and await look == [job.job_id.encode()]
    listening.cancel()
    await asyncio.wait([listening])
    await queue.aclose(close_connection_pool=True)


async def test_a_job_that_anybody_puts_in_as_arq_does_is_done(
    mirror: Mirror, work: Work, redis_url: str, jobs: Queue
) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    pool = await create_pool(RedisSettings.from_dsn(redis_url), job_serializer=jobs.job_serializer)
    await pool.enqueue_job("sync_repo", str(repo_id))
    await pool.aclose(close_connection_pool=True)
    await work_off(mirror.services, redis_url)
    assert await snapshots.latest(mirror.services.db, repo_id)


@pytest.mark.parametrize(
    "waiting, chosen, soon",
    [
        pytest.param([(numbered("a", str(OURS)), 0.0)], "a", None, id="our own at once"),
        pytest.param([(numbered("a", str(THEIRS)), 0.1)], "", 0.2, id="another's later"),
        pytest.param([(numbered("a", str(THEIRS)), 0.4)], "a", None, id="another's after a while"),
        pytest.param([("a", 0.0)], "a", None, id="one of no repo at once"),
        pytest.param([(numbered(n, str(OURS)), 0.0) for n in "abc"], "ab", None, id="as there is room"),
        pytest.param(
            [(numbered("abc"[n], str(OURS)), 0.0) for n in range(3)] + [("cron:sweep:1", 0.0)],
            "abcron",
            None,
            id="what is periodical always",
        ),
    ],
)
async def test_arq_begins_what_is_ours_and_what_there_is_room_for(
    mirror: Mirror, waiting: list[tuple[str, float]], chosen: str, soon: float | None
) -> None:
    runner = Runner(mirror.services, slots=2)
    runner._shares = [OURS.bytes[0]]
    choice = runner.choose(waiting)
    assert "".join(one.partition(":")[0] for one in choice.begin) == chosen
    assert choice.again is None if soon is None else choice.again == pytest.approx(soon)
    assert choice.drop == []


async def test_a_job_goes_whose_work_others_did(mirror: Mirror, redis_url: str, jobs: Queue) -> None:
    runner = Runner(mirror.services)
    waiting = [(numbered("late", str(OURS)), 0.5), (numbered("early", str(OURS)), 3600.0)]
    assert len(runner.choose(waiting).begin) == 2
    assert await runner.look() == 0  # nothing is due
    choice = runner.choose([*waiting, ("cron:sweep:1", 3600.0)])
    assert choice.begin == [waiting[0][0], "cron:sweep:1"] and choice.drop == [waiting[1][0]]
    queue = WorkerQueue.at(redis_url)
    queue.choose = lambda waiting: Choice(drop=[number for number, _ in waiting])
    await jobs.enqueue_job(SYNC, str(OURS))
    assert await queue.zrangebyscore(NAME, "-inf", timestamp_ms()) == []
    assert await jobs.keys("arq:*") == []
    await queue.aclose(close_connection_pool=True)


async def test_a_heartbeat_waits_for_no_take_and_takes_nothing_from_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, answer = asyncio.Event(), asyncio.Event()
    real = runs.take

    async def late(*args: Any, **kwargs: Any) -> Any:
        found = await real(*args, **kwargs)
        taken.set()
        await answer.wait()
        return found

    monkeypatch.setattr(runs, "take", late)
    await sync_requested(mirror)
    runner = Runner(mirror.services)
    looking = asyncio.create_task(runner.look())
    await taken.wait()
    await runner.beat_once()
    assert await mirror.services.db.fetchval("select worker from run") == runner.me
    looking.cancel()
    await asyncio.wait([looking])
    await runner.beat_once()  # which takes it for one whose answer was lost
    assert not await mirror.services.db.fetchval("select count(*) from run")


@asynccontextmanager
async def arqs_own(mirror: Mirror, redis_url: str, home: Path) -> AsyncIterator[Callable[..., Any]]:
    """arq's own command, with what people who know arq would set."""
    settings = mirror.services.settings
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "DATABASE_URL": settings.database_url or "",
        "REDIS_URL": redis_url,
        "VAULT_URL": f"file://{settings.data}/vault",
        "ALLOW_PRIVATE_REMOTES": "1",
    }
    begun: list[asyncio.subprocess.Process] = []

    async def arq(*options: str) -> asyncio.subprocess.Process:
        command = [str(Path(sys.executable).parent / "arq"), *options, "mirror.worker.WorkerSettings"]
        begun.append(await asyncio.create_subprocess_exec(*command, env=env))
        return begun[-1]

    try:
        yield arq
    finally:
        for one in begun:
            if one.returncode is None:
                one.kill()
            await one.wait()


async def _is_said_to_live(arq: Callable[..., Any]) -> bool:
    """Whether arq's command says so; a busy worker may write it down a little late."""
    code: int = await (await arq("--check")).wait()
    return code == 0


async def test_arqs_own_command_starts_a_worker_says_that_it_lives_and_stops_it(
    mirror: Mirror, work: Work, redis_url: str, jobs: Queue, tmp_path: Path
) -> None:
    work.commit("main")
    repo_id = await sync_requested(mirror, str(work.path))
    await jobs.enqueue_job("sync_repo", str(repo_id))
    async with arqs_own(mirror, redis_url, tmp_path) as arq:
        started = await arq()
        await until(lambda: snapshots.latest(mirror.services.db, repo_id))
        await until(lambda: _is_said_to_live(arq))
        started.terminate()
        assert await started.wait() == 0
        assert not await jobs.exists("arq:queue:health-check")
    assert await take(mirror, patience=timedelta()) == []
    assert not await mirror.services.db.fetchval("select count(*) from worker")
