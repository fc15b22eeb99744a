"""What a sweep finds and keeps small, when it looks, and what it does not let stop it."""

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mirror.core.errors import EverrefError, LimitReached
from mirror.core.model import Kind, Reason, Repo, Secret
from mirror.core.rules.work.fairness import Free
from mirror.core.rules.work.schedule import A_SECOND
from mirror.git import address, upstream
from mirror.git.pool import Pool
from mirror.jobs import looks, periodic, sweep
from mirror.jobs import run as jobbing
from mirror.jobs.looks import Ticked
from mirror.jobs.runner import Runner
from mirror.jobs.sweep import Task
from mirror.services import lease
from mirror.store import leases, repos
from mirror.store.backup import history, parts, snapshots
from mirror.store.jobs import jobs, runs, schedules
from mirror.store.jobs.runs import Preference
from mirror.store.upkeep import maintenance
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, GitServer, serving
from tests.parts.repos import Work, refs_of


async def row(mirror: Mirror, repo: Repo) -> Any:
    return await mirror.services.db.fetchrow("select * from repo where id = $1", repo.id)


async def later(mirror: Mirror, repo: Repo) -> None:
    """Let its next look be due, and no other."""
    await mirror.services.db.execute(
        "update repo set look_at = case when id = $1 then $2::timestamptz else 'infinity' end",
        repo.id,
        mirror.clock.now,
    )


async def test_a_push_that_nobody_told_of_is_found(mirror: Mirror, work: Work) -> None:
    work.commit()
    await mirror.backup(work)
    work.commit("main", parents=[])
    (swept,) = await sweep.sweep(mirror.services)
    assert swept.synced and swept.synced.new and swept.synced.snapshot.reason == Reason.SWEEP
    kinds = [line.change.kind async for line in history.changes(mirror.services.db, swept.repo.id)]
    assert kinds[0] == Kind.FORCED


async def test_one_bad_repo_stops_no_other(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    bad = make_work("a-bad-one.git")
    for one in (work, bad):
        one.commit()
        await mirror.backup(one)
    shutil.rmtree(bad.path)
    work.commit()
    swept = {one.repo.name: one for one in await sweep.sweep(mirror.services)}
    assert isinstance(swept["a-bad-one"].error, EverrefError)
    synced = swept["remote"].synced
    assert synced is not None and synced.snapshot.number == 2


async def test_a_compaction_that_is_under_way_keeps_no_sweep_from_saving(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "PATIENCE", 0.0)
    work.commit()
    done = await mirror.backup(work)
    work.commit()
    async with lease.leased_to_compact(mirror.services, done.repo, 0):
        (swept,) = await sweep.sweep(mirror.services)
    assert swept.error is None and swept.synced and swept.synced.new


async def test_parts_stay_few_however_many_pushes_there_were(mirror: Mirror, work: Work) -> None:
    work.many_commits(40, "bulk", size=3000)
    for _ in range(12):
        work.commit()
        done = await mirror.backup(work)
    await sweep.sweep(mirror.services)
    assert len(await parts.live(mirror.services.db, done.repo.id)) < 8
    assert refs_of(await mirror.restored(done.repo, 12)) == work.refs()


async def test_a_snapshot_is_no_failure_because_its_pool_could_not_be_tidied(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(pool: Pool) -> bool:
        raise LimitReached("the disk is full; free some space")

    monkeypatch.setattr(Pool, "repack_if_due", full)
    work.commit()
    assert (await mirror.backup(work)).new


async def test_a_look_finds_a_push_that_nobody_told_of_and_has_it_saved(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    work.commit()
    first = await mirror.backup(f"{git_server.url}/remote.git")
    work.commit()
    assert await sweep.tick(mirror.services) == Ticked(1, 1, 0)
    assert (await repos.overview_of(mirror.services.db, first.repo.id)).state == "behind"
    await Runner(mirror.services).work_off()
    (state,) = await repos.overview(mirror.services.db)
    snapshot = await snapshots.latest(mirror.services.db, first.repo.id)
    assert state.state == "protected" and snapshot
    assert (snapshot.number, snapshot.reason) == (2, Reason.SWEEP)
    (job,) = await jobs.page(mirror.services.db, await team_of(mirror, first.repo))
    assert (job.state, job.asked) == ("done", {"reason": "sweep"})


async def team_of(mirror: Mirror, repo: Repo) -> Any:
    return (await row(mirror, repo))["team_id"]


async def test_a_look_at_what_did_not_move_is_one_listing_and_leaves_no_job(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    work.commit()
    done = await mirror.backup(f"{git_server.url}/remote.git")
    await schedules.set_schedule(mirror.services.db, done.repo.id, "6h", mirror.clock())
    before = (await repos.overview_of(mirror.services.db, done.repo.id)).protected_as_of
    git_server.requests.clear()
    assert await sweep.tick(mirror.services) == Ticked(1, 0, 0)
    assert [request.method for request in git_server.requests] == ["GET", "POST"]
    after = await repos.overview_of(mirror.services.db, done.repo.id)
    assert before and after.protected_as_of and after.protected_as_of > before
    found = await row(mirror, done.repo)
    assert found["looked_at"] == after.protected_as_of
    assert timedelta(0) < found["look_at"] - found["looked_at"] <= timedelta(hours=9)
    assert await jobs.page(mirror.services.db, found["team_id"]) == []
    assert await sweep.tick(mirror.services) == Ticked(0, 0, 0)


async def test_connections_to_a_host_are_kept_from_look_to_look(
    mirror: Mirror, make_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    real = address.CheckedResolver.resolve

    async def resolve(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        return await real(*args, **kwargs)

    monkeypatch.setattr(address.CheckedResolver, "resolve", resolve)
    async with serving(tmp_path) as server:
        for number in range(30):
            make_work(f"many-{number}.git").commit()
            await mirror.backup(f"http://localhost:{server.port}/many-{number}.git", f"many-{number}")
        made = 0
        assert await sweep.tick(mirror.services) == Ticked(30, 0, 0)
    assert 0 < made <= upstream.PER_HOST


async def test_what_somebody_else_looks_at_is_left_to_them(mirror: Mirror, work: Work) -> None:
    work.commit()
    await mirror.backup(work)
    now = mirror.clock()
    assert len(await schedules.due(mirror.services.db, now, now + looks.LOOKING, 10)) == 1
    assert await sweep.tick(mirror.services) == Ticked(0, 0, 0)
    mirror.clock.now += looks.LOOKING  # it was killed meanwhile
    assert await sweep.tick(mirror.services) == Ticked(1, 0, 0)


async def test_a_paused_and_an_archived_repo_are_not_looked_at(
    mirror: Mirror, make_work: Callable[..., Work]
) -> None:
    for name in ("paused", "archived"):
        one = make_work(f"{name}.git")
        one.commit()
        await mirror.backup(one)
        await mirror.services.db.execute(f"update repo set {name}_at = now() where name = '{name}'")
    assert await sweep.tick(mirror.services) == Ticked(0, 0, 0)


async def test_a_failure_is_a_job_once_and_then_tried_again_in_silence(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    work.commit()
    done = await mirror.backup(f"{git_server.url}/remote.git")
    git_server.faults["remote.git"] = Fault(status=404)
    assert await sweep.tick(mirror.services) == Ticked(1, 0, 1)
    await Runner(mirror.services).work_off()
    state = await repos.overview_of(mirror.services.db, done.repo.id)
    assert state.failure and state.failure.kind == "gone"
    for _ in range(3):
        await later(mirror, done.repo)
        assert await sweep.tick(mirror.services) == Ticked(0, 0, 0)  # the wish is tried again by itself
        mirror.clock.now += timedelta(hours=3)
        await Runner(mirror.services).work_off()
    assert len(await jobs.page(mirror.services.db, await team_of(mirror, done.repo))) == 1
    del git_server.faults["remote.git"]
    mirror.clock.now += timedelta(days=1)
    await Runner(mirror.services).work_off()
    assert (await repos.overview_of(mirror.services.db, done.repo.id)).state == "protected"


async def test_a_look_takes_the_credentials_along(mirror: Mirror, work: Work, tmp_path: Path) -> None:
    work.commit()
    async with serving(tmp_path, credentials=("alice", "hunter2")) as server:
        remote = f"http://alice:hunter2@127.0.0.1:{server.port}/remote.git"
        await mirror.backup(remote)
        assert await sweep.tick(mirror.services) == Ticked(1, 0, 0)


async def test_a_bug_in_one_look_stops_no_other(
    mirror: Mirror, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        one = make_work(f"{name}.git")
        one.commit()
        await mirror.backup(one)
    real = looks.look

    async def with_a_bug(services: Any, session: Any, due: Any) -> Any:
        if due.repo.name == "a":
            raise KeyError("a bug")
        return await real(services, session, due)

    monkeypatch.setattr(looks, "look", with_a_bug)
    assert await sweep.tick(mirror.services) == Ticked(2, 0, 1)


async def test_a_schedule_that_a_person_sets_counts(mirror: Mirror, work: Work) -> None:
    work.commit()
    done = await mirror.backup(work)
    await schedules.set_schedule(mirror.services.db, done.repo.id, "6h", mirror.clock.now)
    assert await sweep.tick(mirror.services) == Ticked(1, 0, 0)
    rhythm = await schedules.of(mirror.services.db, done.repo.id)
    assert rhythm.schedule == "6h" and rhythm.look_at
    assert timedelta(hours=2) < rhythm.look_at - mirror.clock.now <= timedelta(hours=9)


async def test_a_chore_is_done_by_one_worker_when_it_is_due(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    async def fail(_: object) -> None:
        raise LimitReached("no room")

    async def note(_: object) -> None:
        done.append(1)

    day = timedelta(days=1)
    monkeypatch.setattr(sweep, "TASKS", [Task("fails", day, fail), Task("notes", day, note)])
    for _ in range(3):
        await sweep.tend(mirror.services)
    assert len(done) == 1
    mirror.clock.now += day
    await sweep.tend(mirror.services)
    assert len(done) == 2
    mirror.clock.now -= 10 * day  # a clock that was put right
    assert await maintenance.begin(mirror.services.db, "notes", mirror.clock.now, day)


async def test_a_chore_that_never_ends_stops_no_other_and_ends_in_its_time(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A forge whose every page named a next one kept pruning, exporting and all else from being done."""
    begun, day = asyncio.Event(), timedelta(days=1)

    async def endless(_: object) -> None:
        await asyncio.Event().wait()

    async def other(_: object) -> None:
        begun.set()

    chores_ = [Task("endless", day, endless, timedelta(seconds=0.2)), Task("other", day, other)]
    monkeypatch.setattr(sweep, "TASKS", chores_)
    tending = asyncio.create_task(sweep.tend(mirror.services))
    await begun.wait()
    await tending
    assert "endless: it took longer than" in caplog.text
    monkeypatch.setattr(periodic, "TOGETHER_SECONDS", 0.0)
    again = [replace(task, every=timedelta(0), limit=day) for task in chores_]
    done = periodic.Together([periodic.Periodic(one.name, 0, partial(sweep.do_if_due, one)) for one in again])
    try:
        for _ in range(2):  # the worker's way: each at its own time
            begun.clear()
            await done.run(mirror.services)
            await begun.wait()
    finally:
        await done.end()


async def test_parts_are_merged_after_the_push_that_made_them_too_many_and_deleted_later(
    mirror: Mirror, work: Work
) -> None:
    work.many_commits(40, "bulk", size=3000)
    repo = (await mirror.backup(work)).repo
    for _ in range(12):
        work.commit()
        await repos.request_sync(mirror.services.db, repo.id, mirror.clock())
        await Runner(mirror.services).work_off()
    assert len(await parts.live(mirror.services.db, repo.id)) < 8
    compactions = await jobs.page(mirror.services.db, await team_of(mirror, repo), kinds=["compact"])
    assert compactions and {job.state for job in compactions} == {"done"}
    graves = len(await parts.tombstones(mirror.services.db, repo.id))
    assert graves
    mirror.clock.now += timedelta(days=2)
    await sweep.tend(mirror.services)
    assert await parts.tombstones(mirror.services.db, repo.id) == []


async def test_what_killed_runs_left_on_the_disk_goes(mirror: Mirror, work: Work) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    disk = mirror.services.disk
    old = mirror.clock.now.timestamp() - 10 * 24 * 3600
    view, bundle = (
        disk.root / "restores" / "view-dead",
        disk.root / "bundles" / "an-earlier-version.bundle",
    )
    scratch, busy = disk.scratch(repo.id), disk.root / "restores" / "view-alive"
    for directory in (view, scratch, busy, bundle.parent):
        directory.mkdir(parents=True, exist_ok=True)
    bundle.touch()
    for path in (view, scratch, bundle):
        os.utime(path, (old, old))
    async with lease.leased(mirror.services, repo):
        await sweep.tidy(mirror.services)
        assert scratch.exists()  # whoever has the turn works there
    await sweep.tidy(mirror.services)
    assert [path.exists() for path in (view, scratch, bundle, busy)] == [False, False, False, True]


async def test_what_a_sweep_by_command_saw_is_not_looked_at_again_at_once(mirror: Mirror, work: Work) -> None:
    work.commit()
    await mirror.backup(work)
    mirror.clock.step = timedelta(seconds=1)
    await sweep.sweep(mirror.services)
    assert await sweep.tick(mirror.services) == Ticked(0, 0, 0)


async def test_a_secret_of_a_job_never_shows_in_what_a_worker_took(mirror: Mirror, work: Work) -> None:
    repo = await mirror.repo(str(work.path))
    await jobbing.ask(
        mirror.services,
        repo.id,
        "restore",
        {"to": "https://forge.example/x"},
        secret=Secret("alice", "hunter2"),
    )
    (run,) = await runs.take(
        mirror.services.db, "w/1/1/1/aa", mirror.clock(), Free(5, 5), Preference(range(256), timedelta(0))
    )
    assert run.job and run.job.sealed and "hunter2" not in repr(run) and "sealed" not in repr(run)


async def test_what_was_pushed_while_the_service_was_down_is_found_soon_after_its_start(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    quiet = (await mirror.backup(work)).repo
    await mirror.services.db.execute("update repo set look_at = $1", mirror.clock.now + timedelta(days=1))
    work.commit()
    assert await sweep.tick(mirror.services) == Ticked(0, 0, 0)
    await sweep.after_start(mirror.services)
    assert await sweep.tick(mirror.services) == Ticked(1, 1, 0)
    await Runner(mirror.services).work_off()
    latest = await snapshots.latest(mirror.services.db, quiet.id)
    assert latest and latest.number == 2


async def test_after_a_start_the_most_active_repos_of_a_host_are_looked_at_first(mirror: Mirror) -> None:
    mirror.clock.step = timedelta(0)
    now = mirror.clock.now
    made = [await mirror.repo(f"https://forge.example/alice/{n}") for n in range(A_SECOND + 2)]
    other = await mirror.repo("https://idle.example/alice/shed")
    for age, repo in enumerate([*reversed(made), other]):
        await mirror.services.db.execute(
            "update repo set look_at = $2, changed_at = $3 where id = $1",
            *(repo.id, now + timedelta(days=1), now - timedelta(hours=age)),
        )
    await sweep.after_start(mirror.services)
    waits = {repo.id: (await row(mirror, repo))["look_at"] - now for repo in (*made, other)}
    assert [waits[one.id].total_seconds() for one in made] == [1.0, 1.0] + [0.0] * A_SECOND
    assert waits[other.id] == timedelta(0)
    await mirror.services.db.execute("update repo set look_at = $1", now + timedelta(days=1))
    await sweep.after_start(mirror.services)  # of another worker that starts at the same time
    assert (await row(mirror, other))["look_at"] == now + timedelta(days=1)


@pytest.mark.parametrize(
    ("worker", "beat", "alone"),
    [
        pytest.param("elsewhere/1/1/1/aa", "0 s", False, id="another is alive"),
        pytest.param("elsewhere/1/1/1/aa", "1 hour", True, id="another fell silent"),
        pytest.param(None, "0 s", True, id="another of this machine was killed"),
    ],
)
async def test_a_service_has_just_started_where_no_other_worker_is_alive(
    mirror: Mirror, worker: str | None, beat: str, alone: bool
) -> None:
    machine = "/".join(leases.myself().split("/")[:2])
    other = worker or f"{machine}/{2**22 + 1}/1/aa"  # above the largest process id: proc_pid_max(5)
    await runs.beat(mirror.services.db, other)
    await mirror.services.db.execute(f"update worker set beat_at = beat_at - interval '{beat}'")
    assert await runs.is_alone(mirror.services.db, leases.myself()) is alone
