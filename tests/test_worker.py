"""The worker: jobs become syncs, what may pass is tried again, what will not ends, and Redis is no way in."""

import asyncio
import pickle
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.constants import in_progress_key_prefix, job_key_prefix
from arq.worker import Worker
from hypothesis import given
from hypothesis import strategies as st

from mirror import worker as work_module
from mirror.errors import EverrefError, NetworkError, RemoteGone
from mirror.flows import sweep as sweeping
from mirror.flows import sync as syncing
from mirror.flows.sweep import Swept
from mirror.flows.sync import Synced
from mirror.model import Reason, RepoId
from mirror.store import repos, snapshots
from mirror.worker import CLAIM_SECONDS, TRIES, make_worker, wait_before_retry
from tests.parts.everref import Mirror
from tests.parts.githttp import GitServer
from tests.parts.repos import Work

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")


async def wished(mirror: Mirror) -> RepoId:
    """A repo, wherever it is, with an open wish."""
    repo = await mirror.repo("https://forge.example/alice/garden")
    await repos.want(mirror.edges.db, repo.id, mirror.clock())
    return repo.id


async def work_off(mirror: Mirror, redis: RedisSettings, jobs: ArqRedis) -> Worker:
    """Let a worker do what is in the queue, without the sweep that would do it too."""
    worker = make_worker(mirror.edges, redis, burst=True)
    worker.cron_jobs = []
    worker.max_burst_jobs = await jobs.zcard("arq:queue")
    try:
        await worker.async_run()
    finally:
        await worker.close()
    return worker


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[EverrefError]:
    """What the next syncs fail with, in this order, in place of syncing."""
    failures: list[EverrefError] = []

    async def fail(*_: object, **__: object) -> None:
        raise failures.pop(0)

    monkeypatch.setattr(syncing, "sync", fail)
    return failures


async def test_a_job_syncs_its_repo(mirror: Mirror, work: Work, redis: RedisSettings, jobs: ArqRedis) -> None:
    work.commit("main")
    repo = await mirror.repo(str(work.path))
    await repos.want(mirror.edges.db, repo.id, mirror.clock())
    await jobs.enqueue_job("sync_repo", str(repo.id))
    await work_off(mirror, redis, jobs)
    snapshot = await snapshots.latest(mirror.edges.db, repo.id)
    assert snapshot is not None
    assert (snapshot.number, snapshot.reason) == (1, Reason.PUSH)
    assert await jobs.keys("arq:*") == []


async def test_the_sweep_at_the_start_finds_what_no_job_told_of(
    mirror: Mirror, work: Work, redis: RedisSettings, jobs: ArqRedis
) -> None:
    work.commit("main")
    repo = await mirror.repo(str(work.path))
    worker = make_worker(mirror.edges, redis, burst=True)
    await worker.async_run()
    await worker.close()
    snapshot = await snapshots.latest(mirror.edges.db, repo.id)
    assert snapshot is not None
    assert snapshot.reason == Reason.SWEEP


async def test_a_hundred_hints_of_one_wish_are_one_look_at_the_remote(
    mirror: Mirror, work: Work, git_server: GitServer, redis: RedisSettings, jobs: ArqRedis
) -> None:
    work.commit("main")
    repo = await mirror.repo(f"{git_server.url}/remote.git")
    await repos.want(mirror.edges.db, repo.id, mirror.clock())
    for _ in range(100):
        await jobs.enqueue_job("sync_repo", str(repo.id))
    worker = await work_off(mirror, redis, jobs)
    assert worker.jobs_failed == 0
    assert git_server.count("info/refs") == 1


async def test_a_wish_that_came_while_its_repo_was_synced_is_served_too(
    mirror: Mirror, work: Work, redis: RedisSettings, jobs: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit("main")
    repo = await mirror.repo(str(work.path))
    monkeypatch.setattr(work_module, "OTHERS_SECONDS", 0)
    pushes = 1
    real = syncing.sync

    async def sync_and_push(*args: Any, **kwargs: Any) -> Synced:
        nonlocal pushes
        done = await real(*args, **kwargs)
        if pushes < 5:
            pushes += 1
            work.commit("main")
            await repos.want(mirror.edges.db, repo.id, mirror.clock())
        return done

    monkeypatch.setattr(syncing, "sync", sync_and_push)
    await repos.want(mirror.edges.db, repo.id, mirror.clock())
    await jobs.enqueue_job("sync_repo", str(repo.id))
    await work_off(mirror, redis, jobs)
    assert pushes == syncing.ROUNDS + 1  # then others have their turn
    assert await repos.wish(mirror.edges.db, repo.id)
    assert await jobs.zcard("arq:queue") == 1
    await work_off(mirror, redis, jobs)
    assert await repos.wish(mirror.edges.db, repo.id) is None
    snapshot = await snapshots.latest(mirror.edges.db, repo.id)
    assert snapshot and snapshot.number == pushes


async def test_the_sweep_asks_again_for_a_wish_whose_hint_was_lost(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: object) -> list[Swept]:
        return []

    monkeypatch.setattr(sweeping, "sweep", nothing)
    repo_id = await wished(mirror)
    worker = make_worker(mirror.edges, redis)
    worker.ctx |= {"redis": jobs, "job_id": "sweep"}
    await work_module.sweep(worker.ctx)
    (job,) = await jobs.queued_jobs()
    assert (job.function, *job.args) == ("sync_repo", str(repo_id))
    await worker.close()


async def test_what_may_pass_is_tried_again_later(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis, syncs: list[EverrefError]
) -> None:
    syncs.append(NetworkError("the remote does not answer"))
    job = await jobs.enqueue_job("sync_repo", str(await wished(mirror)))
    worker = await work_off(mirror, redis, jobs)
    assert (worker.jobs_retried, worker.jobs_failed) == (1, 0)
    assert job is not None
    assert await jobs.zscore("arq:queue", job.job_id)


async def test_what_will_not_pass_ends(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis, syncs: list[EverrefError]
) -> None:
    syncs.append(RemoteGone("the forge says there is no such repository"))
    await jobs.enqueue_job("sync_repo", str(await wished(mirror)))
    worker = await work_off(mirror, redis, jobs)
    assert (worker.jobs_retried, worker.jobs_failed, worker.jobs_complete) == (0, 0, 1)
    assert await jobs.keys("arq:*") == []


async def test_after_enough_tries_it_is_left_to_the_sweep(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis, syncs: list[EverrefError]
) -> None:
    syncs.append(NetworkError("the remote does not answer"))
    await jobs.enqueue_job("sync_repo", str(await wished(mirror)), _job_try=TRIES)
    worker = await work_off(mirror, redis, jobs)
    assert (worker.jobs_retried, worker.jobs_complete) == (0, 1)


async def test_who_writes_to_redis_runs_no_code_here(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle from the queue was opened",))

    await jobs.set(job_key_prefix + "bomb", pickle.dumps(Bomb()))
    await jobs.zadd("arq:queue", {"bomb": 1})
    worker = await work_off(mirror, redis, jobs)
    assert (worker.jobs_failed, worker.jobs_complete) == (1, 0)


@asynccontextmanager
async def hanging(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """A worker in the midst of a job, which hangs; the job's id. At the end the worker is told to stop."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    monkeypatch.setattr(syncing, "sync", hang)
    job = await jobs.enqueue_job("sync_repo", str(await wished(mirror)))
    assert job is not None
    worker = make_worker(mirror.edges, redis)
    worker.cron_jobs = []
    working = asyncio.create_task(worker.async_run())
    try:
        await begun.wait()
        yield job.job_id
    finally:
        worker.handle_sig(signal.SIGTERM)
        await asyncio.gather(working, return_exceptions=True)
        await worker.close()
    assert cleaned.is_set()


async def test_a_running_job_is_claimed_for_a_short_while_again_and_again(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "RENEW_SECONDS", 0.01)
    async with hanging(mirror, redis, jobs, monkeypatch) as job_id:
        claim = in_progress_key_prefix + job_id
        assert 0 < await jobs.ttl(claim) <= CLAIM_SECONDS  # when the worker is killed, it ends by then
        await jobs.expire(claim, CLAIM_SECONDS // 2)
        while await jobs.ttl(claim) <= CLAIM_SECONDS // 2:
            pass


async def test_a_stopped_worker_gives_its_job_back(
    mirror: Mirror, redis: RedisSettings, jobs: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hanging(mirror, redis, jobs, monkeypatch) as job_id:
        pass
    assert await jobs.zscore("arq:queue", job_id)
    assert not await jobs.exists(in_progress_key_prefix + job_id)


@given(attempt=st.integers(1, 100), chance=st.floats(0, 1))
def test_waits_grow_to_a_limit_and_are_spread(attempt: int, chance: float) -> None:
    wait = wait_before_retry(attempt, chance)
    assert 1 <= wait <= 750
    assert wait <= wait_before_retry(attempt + 2, chance)
    assert wait_before_retry(attempt, 0) < wait_before_retry(attempt, 1)
