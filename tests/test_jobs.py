"""Jobs: what is asked for waits, can be watched and stopped, and is ended by the run that has it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mirror.core.errors import NetworkError, NotFound, Origin, Refused, UsageError
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import Repo, RepoId, Secret
from mirror.core.progress import Meter, Phase, Seen
from mirror.jobs import run as jobbing
from mirror.jobs.runner import Runner
from mirror.restore import export, restore
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job, JobFailure
from mirror.store.people.teams import TeamId
from tests.parts.chain import START, begin
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, serving
from tests.parts.repos import Work, refs_of, run_git

NOTHING = Seen()


async def repo_of(db: asyncpg.Pool, name: str = "alice/garden") -> RepoId:
    return (await begin(db, name)).repo.id


async def running(db: asyncpg.Pool, job: Job) -> Job:
    """The job as a run has taken it up."""
    await db.execute("update job set state = 'running', attempt = attempt + 1 where id = $1", job.id)
    found = await jobs.by_id(db, job.id)
    assert found
    return found


async def test_what_is_asked_for_waits_without_its_secret_in_sight(db: asyncpg.Pool) -> None:
    keyring, job_id = Keyring(["k" * 40]), jobs.new_id()
    sealed = jobs.seal(keyring, job_id, Secret("alice", "hunter2"))
    asked = {"snapshot": 3, "to": "https://forge.example/alice/back"}
    job = await jobs.queue(db, await repo_of(db), "restore", asked, START, job_id=job_id, sealed=sealed)
    assert (job.state, job.kind, job.asked, job.queued_at) == ("queued", "restore", asked, START)
    assert job.secret(keyring) == Secret("alice", "hunter2")
    assert "sealed" not in repr(job)
    assert await jobs.find(db, job.team_id, job.id) == job


async def test_credentials_of_one_job_open_in_no_other(db: asyncpg.Pool) -> None:
    keyring = Keyring(["k" * 40])
    sealed = jobs.seal(keyring, jobs.new_id(), Secret("alice", "hunter2"))
    job = await jobs.queue(db, await repo_of(db), "restore", {}, START, sealed=sealed)
    with pytest.raises(BadKey):
        job.secret(keyring)


async def test_nothing_is_queued_for_a_repo_that_is_not_there(db: asyncpg.Pool) -> None:
    with pytest.raises(NotFound):
        await jobs.queue(db, RepoId(jobs.new_id()), "verify", {}, START)


async def test_a_sync_waits_once_and_a_drill_as_often_as_it_is_asked_for(db: asyncpg.Pool) -> None:
    repo = await repo_of(db)
    first = await jobs.queue(db, repo, "sync", {"reason": "sweep"}, START)
    assert await jobs.queue(db, repo, "sync", {"reason": "manual"}, START) == first
    await running(db, first)
    assert (await jobs.queue(db, repo, "sync", {}, START)).id != first.id
    drills = {(await jobs.queue(db, repo, "drill", {}, START)).id for _ in range(2)}
    assert len(drills) == 2


async def test_another_team_sees_nothing(db: asyncpg.Pool) -> None:
    job = await jobs.queue(db, await repo_of(db), "verify", {}, START)
    other = TeamId(await db.fetchval("insert into team (name) values ('other') returning id"))
    assert await jobs.find(db, other, job.id) is None
    assert await jobs.cancel(db, other, job.id, START) is None
    assert await jobs.page(db, other) == []


async def test_a_run_tells_how_far_it_is_and_hears_that_it_should_stop(db: asyncpg.Pool) -> None:
    job = await running(db, await jobs.queue(db, await repo_of(db), "verify", {}, START))
    seen = Seen("reading every part", 10, 100, "bytes", 10, (Phase("asking", 0.5, 0),), ("a\0note",))
    assert await jobs.progress(db, job.id, job.attempt, seen) is False
    found = await jobs.by_id(db, job.id)
    assert found and (found.phase, found.done, found.total, found.unit) == (
        "reading every part",
        10,
        100,
        "bytes",
    )
    assert found.phases == (Phase("asking", 0.5, 0),) and found.notes == ("a\ufffdnote",)
    stopping = await jobs.cancel(db, job.team_id, job.id, START)
    assert stopping and stopping.state == "running" and stopping.cancel_at == START
    assert await jobs.progress(db, job.id, job.attempt, seen) is True


async def test_a_run_that_lost_its_job_can_write_nothing_of_it(db: asyncpg.Pool) -> None:
    old = await running(db, await jobs.queue(db, await repo_of(db), "verify", {}, START))
    assert await jobs.again(db, old.id, old.attempt, None, "the worker went away")
    new = await running(db, old)
    assert new.attempt == 2 and new.notes == ("the worker went away",)
    assert await jobs.progress(db, old.id, old.attempt, NOTHING) is None
    assert not await jobs.finish(db, old.id, old.attempt, jobs.Outcome("done", START, NOTHING))
    assert not await jobs.again(db, old.id, old.attempt, None, None)
    assert await jobs.finish(
        db, new.id, new.attempt, jobs.Outcome("done", START, NOTHING, result={"problems": []})
    )
    found = await jobs.by_id(db, new.id)
    assert found and found.state == "done" and found.result == {"problems": []}


async def test_credentials_go_when_the_job_ends(db: asyncpg.Pool) -> None:
    repo = await repo_of(db)
    waiting = await jobs.queue(db, repo, "restore", {}, START, sealed=b"sealed")
    ended = await running(db, await jobs.queue(db, repo, "restore", {}, START, sealed=b"sealed"))
    cancelled = await jobs.cancel(db, waiting.team_id, waiting.id, START)
    assert cancelled and (cancelled.state, cancelled.finished_at, cancelled.sealed) == (
        "cancelled",
        START,
        None,
    )
    error = NetworkError("the target does not answer", origin=Origin.TARGET)
    await jobs.finish(db, ended.id, ended.attempt, jobs.Outcome("failed", START, NOTHING, failure=error))
    found = await jobs.by_id(db, ended.id)
    assert found and found.sealed is None
    assert found.failure == JobFailure("network", "the target does not answer", Origin.TARGET)


async def test_what_has_ended_cannot_be_cancelled(db: asyncpg.Pool) -> None:
    job = await running(db, await jobs.queue(db, await repo_of(db), "drill", {}, START))
    await jobs.finish(db, job.id, job.attempt, jobs.Outcome("done", START, NOTHING))
    found = await jobs.cancel(db, job.team_id, job.id, START)
    assert found and found.state == "done" and found.cancel_at is None


async def test_the_list_goes_back_in_time_page_by_page(db: asyncpg.Pool) -> None:
    repo, other = await repo_of(db), await repo_of(db, "bob/shed")
    made = [await jobs.queue(db, repo, "drill", {}, START + timedelta(minutes=n // 2)) for n in range(6)]
    elsewhere = await jobs.queue(db, other, "verify", {}, START)
    team = elsewhere.team_id
    whole = await jobs.page(db, team)
    assert {job.id for job in whole} == {job.id for job in [*made, elsewhere]}
    paged: list[Job] = []
    while more := await jobs.page(db, team, limit=2, before=paged[-1].id if paged else None):
        paged += more
    assert paged == whole and paged[0].queued_at == START + timedelta(minutes=2)
    assert await jobs.page(db, team, repo_id=other) == [elsewhere]
    assert await jobs.page(db, team, kinds=["verify"], states=["queued"]) == [elsewhere]
    assert await jobs.page(db, team, states=["done"]) == []
    assert await jobs.counts(db) == {("drill", "queued"): 6, ("verify", "queued"): 1}


async def test_what_people_asked_for_is_kept_for_ever(db: asyncpg.Pool) -> None:
    repo = await repo_of(db)
    person = await db.fetchval("insert into person (name, created_at) values ('Alice', now()) returning id")
    hers = await jobs.queue(db, repo, "verify", {}, START, person_id=person)
    ours = await jobs.queue(db, repo, "verify", {}, START)
    for job in (hers, ours):
        now = await running(db, job)
        await jobs.finish(db, now.id, now.attempt, jobs.Outcome("done", START, NOTHING))
    await jobs.forget_before(db, datetime(2030, 1, 1, tzinfo=UTC))
    assert [job.id for job in await jobs.page(db, hers.team_id)] == [hers.id]


def test_a_meter_says_how_long_each_phase_took_and_what_it_moved() -> None:
    now = 0.0
    meter = Meter(lambda: now)
    meter.phase("receiving", 100, "bytes")
    meter.advance(40)
    meter.advance(20)
    assert meter.seen == Seen("receiving", 60, 100, "bytes", 60)
    now = 2.0
    meter.phase("comparing", None, "refs")
    meter.advance(7)
    now = 2.5
    meter.note("one line")
    assert meter.ended == Seen(
        bytes=60, phases=(Phase("receiving", 2.0, 60), Phase("comparing", 0.5, 0)), notes=("one line",)
    )
    assert meter.seen.done is None


def test_a_meter_keeps_the_last_notes_only() -> None:
    meter = Meter(lambda: 0.0)
    for number in range(1000):
        meter.note(str(number))
    assert meter.seen.notes[-1] == "999" and len(meter.seen.notes) == 200


async def done(mirror: Mirror, job: Job) -> Job:
    """The job after a worker did what was due."""
    await Runner(mirror.services).work_off()
    found = await jobs.by_id(mirror.services.db, job.id)
    assert found
    return found


async def backed_up(mirror: Mirror, work: Work) -> Repo:
    work.commit("main")
    work.commit("side")
    return (await mirror.backup(work)).repo


async def test_a_restore_by_push_is_done_by_a_worker_with_a_secret_used_once(
    mirror: Mirror, work: Work, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    repo = await backed_up(mirror, work)
    make_work("target.git")
    async with serving(tmp_path, push=True, credentials=("alice", "hunter2")) as server:
        asked = {"snapshot": 1, "to": f"{server.url}/target.git"}
        job = await jobbing.ask(mirror.services, repo.id, "restore", asked, secret=Secret("alice", "hunter2"))
        job = await done(mirror, job)
    assert (job.state, job.failure, job.sealed) == ("done", None, None)
    assert job.result and job.result["counts"] == {"created": 2}
    assert [ref["name"] for ref in job.result["refs"]] == ["refs/heads/main", "refs/heads/side"]
    assert refs_of(tmp_path / "target.git") == work.refs()
    row = await mirror.services.db.fetchrow("select * from job where id = $1", job.id)
    assert "hunter2" not in str(dict(row))


async def test_a_restore_that_a_target_refuses_says_so_ref_by_ref(
    mirror: Mirror, work: Work, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    repo = await backed_up(mirror, work)
    target = make_work("target.git")
    target.commit("main")
    target.commit("main")
    async with serving(tmp_path, push=True) as server:
        job = await jobbing.ask(mirror.services, repo.id, "restore", {"to": f"{server.url}/target.git"})
        job = await done(mirror, job)
    assert job.failure and (job.state, job.failure.kind) == ("failed", "refused")
    assert job.result and job.result["refs"][0]["why"] and job.result["counts"]["refused"] >= 1


async def test_a_bundle_waits_to_be_fetched_and_is_the_moment(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    job = await done(mirror, await jobbing.ask(mirror.services, repo.id, "bundle", {"snapshot": 1}))
    made = export.of(job, mirror.clock())
    assert made and job.result and job.result["bytes"] == made.bytes
    path = mirror.place / "x.bundle"
    path.write_bytes(await mirror.services.vault.get(made.key))
    assert path.stat().st_size == made.bytes
    copy = mirror.place / "copy.git"
    run_git("clone", "-q", "--mirror", path, copy)
    assert refs_of(copy) == work.refs()
    assert export.of(job, mirror.clock.now + export.KEPT) is None


async def test_a_drill_and_a_verification_keep_what_they_found(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    drill = await jobbing.ask(mirror.services, repo.id, "drill", {})
    verify = await done(mirror, await jobbing.ask(mirror.services, repo.id, "verify", {}))
    assert verify.result and verify.result["problems"] == [] and verify.state == "done"
    found = await jobs.by_id(mirror.services.db, drill.id)
    assert found and found.result and (found.state, found.result["refs"]) == ("done", 2)
    assert await mirror.services.db.fetchval("select drilled_at is not null from repo where id = $1", repo.id)


async def test_damage_that_is_found_is_a_failure_with_its_evidence(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    (key,) = [key for key in await mirror.keys() if key.endswith(".bundle")]
    await mirror.services.vault.delete(key)
    job = await done(mirror, await jobbing.ask(mirror.services, repo.id, "verify", {}))
    assert job.failure and (job.state, job.failure.kind) == ("failed", "corrupt")
    assert job.result and job.result["problems"] and job.result["damaged"] == [1]


async def test_a_failure_that_may_pass_is_tried_again_with_its_secret_and_then_ends(
    mirror: Mirror, work: Work
) -> None:
    repo = await backed_up(mirror, work)
    asked = {"to": "http://127.0.0.1:9/target.git"}
    job = await jobbing.ask(mirror.services, repo.id, "restore", asked, secret=Secret("alice", "hunter2"))
    job = await done(mirror, job)  # the clock of tests goes on by a minute at each look
    assert job.failure and (job.state, job.failure.kind, job.attempt) == ("failed", "network", 5)
    assert len([note for note in job.notes if "tried again in" in note]) == 4
    assert job.sealed is None


async def test_a_restore_comes_back_when_its_target_said_that_it_may(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    repo = await backed_up(mirror, work)
    async with serving(tmp_path) as server:
        server.faults["target.git"] = Fault(status=429, headers={"Retry-After": "86400"})
        asked = {"to": f"{server.url}/target.git"}
        job = await jobbing.ask(mirror.services, repo.id, "restore", asked)
        mirror.clock.step = timedelta(0)
        job = await done(mirror, job)
        assert job.due_at and (job.state, job.attempt) == ("queued", 1)
        assert job.due_at - mirror.clock.now == timedelta(seconds=jobbing.LONGEST_WAIT)
        assert len(server.requests) == 1


async def test_what_is_asked_wrongly_is_refused_before_it_is_queued(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    for asked in ({}, {"to": "nowhere"}, {"to": "https://alice:hunter2@forge.example/x"}):
        with pytest.raises((UsageError, NotFound)):
            await jobbing.ask(mirror.services, repo.id, "restore", asked)
    missing = await done(mirror, await jobbing.ask(mirror.services, repo.id, "drill", {"snapshot": 7}))
    assert missing.failure and missing.failure.kind == "not-found"


async def test_a_backup_that_somebody_asks_for_has_a_row_also_when_nothing_is_new(
    mirror: Mirror, work: Work
) -> None:
    repo = await backed_up(mirror, work)
    job = await done(mirror, await jobbing.ask(mirror.services, repo.id, "sync", {"reason": "manual"}))
    assert job.state == "done" and job.result and job.result["new"] is False


async def test_what_has_ended_can_be_asked_for_again(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    job = await jobbing.ask(mirror.services, repo.id, "drill", {"snapshot": 1})
    with pytest.raises(Refused):
        await jobbing.retry(mirror.services, job.team_id, job.id, None)
    await jobs.cancel(mirror.services.db, job.team_id, job.id, mirror.clock())
    again = await jobbing.retry(mirror.services, job.team_id, job.id, None)
    assert again.id != job.id and (again.kind, again.asked) == ("drill", {"snapshot": 1})
    assert (await done(mirror, again)).state == "done"
    with pytest.raises(NotFound):
        await jobbing.retry(mirror.services, job.team_id, jobs.new_id(), None)


async def test_a_running_job_that_is_cancelled_stops_and_cleans_up(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await backed_up(mirror, work)
    cleaned = asyncio.Event()

    async def hang(services: Any, *_: object, **__: object) -> None:
        services.progress.phase("hanging", 10, "bytes")
        services.progress.advance(4)
        team = await services.db.fetchval("select team_id from repo")
        try:
            await jobs.cancel(services.db, team, job.id, services.clock())  # it may be heard of at once
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    monkeypatch.setattr(restore, "bundled", hang)
    monkeypatch.setattr(jobbing, "PROGRESS_SECONDS", 0.01)
    job = await jobbing.ask(mirror.services, repo.id, "bundle", {})
    job = await done(mirror, job)
    assert cleaned.is_set()
    assert (job.state, job.failure, job.bytes) == ("cancelled", None, 4)
    assert job.phases[-1].name == "hanging"
