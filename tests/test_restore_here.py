"""Restores into a repo that is pushed to: written here, as a push is, and undone as any other."""

import re
import signal
import subprocess
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest

from mirror.backup import receive
from mirror.core import refs
from mirror.core.errors import Busy, Refused
from mirror.core.model import HEAD, Kind, RefName, Refs, Repo, RepoId, Target
from mirror.core.rules.history import plan as planning
from mirror.core.rules.history.rollback import Wanted
from mirror.core.rules.roles import Role
from mirror.discovery import create
from mirror.discovery.choose import EVERREF
from mirror.git.view import View
from mirror.jobs import attended, rollbacks
from mirror.jobs.runner import Runner
from mirror.restore import here, restore, rollback, target
from mirror.restore.restore import What
from mirror.restore.target import Authority
from mirror.services import failpoints
from mirror.services.lease import leased
from mirror.store.backup import history, snapshots
from mirror.store.discovery import remotes
from mirror.store.people import audit, teams
from mirror.upkeep import verify
from tests.parts.everref import Mirror
from tests.parts.gitclient import World, done, world
from tests.parts.repos import Work, fsck, refs_of
from tests.parts.web import Browser

__all__ = ["world"]

MAIN, SIDE = RefName(b"refs/heads/main"), RefName(b"refs/heads/side")
PULL = RefName(b"refs/pull/1/head")
FOLLOWS = RefName(b"refs/remotes/origin/HEAD")  # symbolic: it is where main is
TRUNK = Target(b"ref: refs/heads/trunk")


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page
    return unescape(found[1])


async def ended(world: World, browser: Browser, answer: object) -> str:
    """The page of the job that a press has begun, after a worker did it."""
    assert answer.status_code == 303, answer.text  # type: ignore[attr-defined]
    await Runner(world.site.mirror.services).work_off()
    page = await browser.follow(answer)  # type: ignore[arg-type]
    return page.text


async def test_main_is_put_back_by_one_press_fetched_by_git_and_undone_by_another(
    world: World, work: Work
) -> None:
    services, db = world.site.mirror.services, world.site.mirror.services.db
    before = work.commit("main", {"a": b"one"})
    side = work.commit("side")
    repo = await create.create(services, world.team.id, EVERREF, "acme/laptop")
    token = await world.site.token(world.alice, world.team, ("backup",))
    url = world.url("acme/laptop", token)
    await done("-C", work.path, "push", "-q", url, "--mirror")
    clone = world.place / "clone"
    await done("clone", "-q", world.url("acme/laptop"), clone)
    forced = work.commit("main", {"rewritten": b"1"}, parents=[])
    await done("-C", work.path, "push", "-q", url, "--mirror")

    browser = await world.site.signed_in(world.alice)
    query = {"at": "#1", "ref": "refs/heads/main", "where": "back"}
    page = (await browser.get("/alice/acme/laptop/-/restore", **query)).text
    assert "To acme/laptop, which is pushed to." in page and "loses 1 commit" in page, page
    assert "everref:" not in page  # the address of what has none
    action = unescape(re.findall(r'action="([^"]*/restore/over[^"]*)"', page)[0])
    answer = await browser.post(action, draft=hidden(page, "draft"), name="acme/laptop")
    told = await ended(world, browser, answer)
    assert "<h1>Put main back in acme/laptop</h1>" in told and "In its place before: 1 commit" in told, told
    assert "acme/laptop, snapshot #2</a>" in told and "everref:" not in told
    await done("fetch", "-q", "origin", cwd=clone)
    assert await done("rev-parse", "origin/main", "origin/side", cwd=clone) == (
        f"{before.decode()}\n{side.decode()}"
    )
    (change,) = await history.of_snapshot(db, repo.id, 3)
    assert (change.name, change.kind, change.by, change.new) == (MAIN, Kind.FORCED, "Alice", before)
    logged = await audit.page(db, world.team.id, 10)
    assert "restore.push" in [one.entry.action for one in logged]

    base = re.search(r'href="(/alice/acme/laptop/-/restores/[^"]+/undo)"', told)
    assert base, told
    browser = await world.site.signed_in(world.alice)  # so that nobody asks who she is
    page = (await browser.get(base[1])).text
    assert "Undo the restore to acme/laptop" in page
    told = await ended(world, browser, await browser.post(f"{base[1]}/now", draft=hidden(page, "draft")))
    await done("fetch", "-q", "origin", cwd=clone)
    assert await done("rev-parse", "origin/main", cwd=clone) == forced.decode()
    last = await snapshots.latest(db, repo.id)
    assert last is not None and last.number == 4
    assert refs_of(await world.site.mirror.restored(repo, 4)) == work.refs()


async def laptop(mirror: Mirror, *works: Callable[[], object], work: Work) -> tuple[Repo, list[Refs]]:
    """A repo to push to, and its refs after each of these changes was pushed."""
    team = await teams.default(mirror.services.db)
    repo = await create.create(mirror.services, team, EVERREF, "laptop")
    return repo, [await pushed(mirror, repo, work, one) for one in works]


async def pushed(mirror: Mirror, repo: Repo, work: Work, change: Callable[[], object] = lambda: None) -> Refs:
    change()
    await receive.take(mirror.services, repo, View(work.path, "sha1"), work.refs(), by="ann")
    return dict(work.refs())


async def now(mirror: Mirror, repo: Repo) -> Refs:
    """The refs of the latest snapshot, and that git finds them and their objects whole."""
    last = await snapshots.latest(mirror.services.db, repo.id)
    assert last is not None
    path = await mirror.restored(repo, last.number)
    fsck(path)
    return refs_of(path)


def zoo(work: Work) -> Callable[[], None]:
    def first() -> None:
        work.zoo()
        work.set(PULL.decode(), work.tip("main"))

    return first


def disaster(work: Work) -> Callable[[], None]:
    def second() -> None:
        work.commit("main", {"forced": b"1"}, parents=[])
        work.delete("side")
        work.commit("trunk")
        work.set(PULL.decode(), work.tip("trunk"))
        work.head("ref: refs/heads/trunk")

    return second


async def test_a_whole_moment_comes_back_with_every_name_and_head_and_is_undone(
    mirror: Mirror, work: Work
) -> None:
    repo, (before, after) = await laptop(mirror, zoo(work), disaster(work), work=work)
    services, moment = mirror.services, await mirror.snapshot(repo, 1)
    to = await attended.into(services, repo, "laptop")
    plan = await restore.plan(services, repo, moment, restore.ALL, to)
    assert any(ref.result == "refused" for ref in plan.refs) and "push nothing to laptop" in plan.steps[-1]
    _, stopped = await attended.restore(services, repo, moment, to, restore.ALL)
    assert not stopped.verified and await now(mirror, repo) == after
    plan = await restore.plan(services, repo, moment, What(force=True), to)
    assert {ref.name: ref.result for ref in plan.refs}[HEAD] == "updated"
    job, made = await attended.restore(services, repo, moment, to, What(force=True))
    assert made.verified and {ref.name for ref in made.refs if ref.result == "updated"} >= {HEAD, MAIN, PULL}
    assert await now(mirror, repo) == {**after, **before}  # what came since stays
    assert (await snapshots.latest(services.db, repo.id)).number == 3  # type: ignore[union-attr]
    again = await attended.restore(services, repo, moment, to, What(force=True))
    assert {ref.result for ref in again[1].refs} == {"unchanged"}
    undone = await attended.undone(services, repo, None)
    assert undone.id == job
    _, back = await attended.undo_now(services, repo, undone, None)
    assert back.verified and await now(mirror, repo) == after
    found = await verify.verify(services, repo)
    assert (found.problems, found.strays) == ((), ())


async def test_one_branch_moves_no_other_and_not_head_and_missing_refs_alone_are_created(
    mirror: Mirror, work: Work
) -> None:
    repo, (before, after) = await laptop(mirror, zoo(work), disaster(work), work=work)
    services, moment = mirror.services, await mirror.snapshot(repo, 1)
    to = await attended.into(services, repo, "laptop")
    await attended.restore(services, repo, moment, to, What(missing=True))
    assert await now(mirror, repo) == {**before, **after}
    await attended.restore(services, repo, moment, to, What(("main",), force=True))
    assert await now(mirror, repo) == {**before, **after, MAIN: before[MAIN]}


async def test_another_repo_is_restored_into_one_that_is_empty_with_its_objects_and_head(
    mirror: Mirror, work: Work
) -> None:
    work.zoo()
    work.head("ref: refs/heads/side")
    saved = await mirror.backup(work)
    services = mirror.services
    team = (await remotes.get(services.db, saved.repo.id)).team_id
    empty = await create.create(services, team, EVERREF, "empty")
    to = await attended.into(services, saved.repo, "empty")
    await attended.restore(services, saved.repo, saved.snapshot, to, restore.ALL)
    shown, found = work.refs(), await now(mirror, empty)
    assert found == {name: refs.resolve(shown, name) for name in shown} | {HEAD: shown[HEAD]}
    await attended.undo_now(services, saved.repo, await attended.undone(services, saved.repo, None), None)
    assert await now(mirror, empty) == {HEAD: b"ref: refs/heads/side"}
    wide = await create.create(services, team, EVERREF, "wide", "sha256")
    to = await attended.into(services, saved.repo, "wide")
    with pytest.raises(Refused, match="wide has sha256 objects, and this moment has sha1 ones"):
        await attended.restore(services, saved.repo, saved.snapshot, to, restore.ALL)
    assert await snapshots.latest(services.db, wide.id) is None


async def test_a_push_that_comes_meanwhile_is_kept_and_the_ref_it_moved_is_refused(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, (before, _) = await laptop(mirror, zoo(work), disaster(work), work=work)
    services, moment = mirror.services, await mirror.snapshot(repo, 1)
    to, real = await attended.into(services, repo, "laptop"), here.push
    meanwhile: dict[RefName, Target] = {}

    async def raced(*given: object) -> None:
        if not meanwhile:
            meanwhile.update(await pushed(mirror, repo, work, lambda: work.commit("main", {"late": b"1"})))
        await real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(here, "push", raced)
    _, made = await attended.restore(services, repo, moment, to, What(force=True))
    refused = {ref.name: ref.why for ref in made.refs if ref.result == "refused"}
    assert refused.keys() == {MAIN, FOLLOWS} and "somebody has moved it since" in str(refused[MAIN])
    assert await now(mirror, repo) == {**meanwhile, **before, MAIN: meanwhile[MAIN]}
    await attended.undo_now(services, repo, await attended.undone(services, repo, None), None)
    assert await now(mirror, repo) == meanwhile  # what the restore did not write, its undo leaves


async def test_while_another_run_has_the_repo_it_says_busy_and_changes_nothing(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, (_, after) = await laptop(mirror, zoo(work), disaster(work), work=work)
    services, moment = mirror.services, await mirror.snapshot(repo, 1)
    to = await attended.into(services, repo, "laptop")
    monkeypatch.setattr(target, "PATIENCE", 0.0)
    async with leased(services, repo, patience=0):
        with pytest.raises(Busy):
            await attended.restore(services, repo, moment, to, What(force=True))
    assert await now(mirror, repo) == after
    await remotes.pause(services.db, repo.id, services.clock())
    with pytest.raises(Refused, match="laptop is paused"):
        await attended.into(services, repo, "laptop")


@pytest.mark.parametrize("step", failpoints.RESTORE_HERE)
async def test_a_restore_that_is_killed_at_any_step_ends_right_when_it_is_run_again_and_is_undone(
    mirror: Mirror, work: Work, everref: Callable[..., subprocess.CompletedProcess[str]], step: str
) -> None:
    repo, (before, after) = await laptop(mirror, zoo(work), disaster(work), work=work)
    line = ("restore", "laptop", "--at", "#1", "--into", "laptop", "--force")
    killed = everref(*line, kill=step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = everref(*line)
    assert again.returncode == 0, again.stderr
    assert await now(mirror, repo) == {**after, **before}
    db = mirror.services.db
    last = await snapshots.latest(db, repo.id)
    assert last is not None and last.number == 3
    changes = await history.of_snapshot(db, repo.id, 3)
    assert {one.by for one in changes} == {"whoever runs Everref"}
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())
    wrote = "select job.id from job join restored_ref on job_id = job.id order by queued_at desc limit 1"
    job = await db.fetchval(wrote)  # the killed one, or the other
    await db.execute("update job set beat_at = beat_at - interval '1 hour' where finished_at is null")
    undone = everref("undo", "laptop", str(job))
    assert undone.returncode == 0, undone.stderr
    assert await now(mirror, repo) == after


def test_head_is_led_elsewhere_only_where_that_is_asked_for() -> None:
    seen = {HEAD: Target(b"ref: refs/heads/main"), MAIN: Target(b"1" * 40)}
    assert planning.head_action(TRUNK, seen).action == "skipped"
    assert planning.head_action(TRUNK, seen, missing=True).action == "skipped"
    assert planning.head_action(TRUNK, seen, force=True).action == "update"
    assert planning.head_action(TRUNK, {}).action == "create"
    assert planning.head_action(TRUNK, seen | {HEAD: TRUNK}).action == "unchanged"
    assert here.head_of({HEAD: TRUNK}, seen, whole=False) is None
    assert here.head_of({HEAD: TRUNK}, {}, whole=False) == TRUNK


async def test_a_rollback_puts_back_all_that_one_account_pushed_there_head_and_hidden_names_too(
    mirror: Mirror, work: Work
) -> None:
    services = mirror.services
    team = await teams.default(services.db)
    repo = await create.create(services, team, EVERREF, "laptop")
    first, second = zoo(work), disaster(work)
    await pushed(mirror, repo, work, first)
    mirror.clock.now += timedelta(hours=1)
    began = mirror.clock.now
    before = dict(work.refs())
    second()
    await receive.take(services, repo, View(work.path, "sha1"), work.refs(), by="mallory")
    means = Authority(Role.OWNER, here=True)
    wanted = Wanted(began, mirror.clock.now, ("mallory",))
    planned = await rollback.plan(services, team, wanted, means, created=True)
    (one,) = planned.repos
    assert one.problem is None and {each.ref.state for each in one.refs} == {"ready"}, one.refs
    assert {HEAD, PULL, MAIN, SIDE} <= {each.ref.name for each in one.refs if each.chosen}

    async def do(repo_id: RepoId, asked: dict[str, Any]) -> None:
        await attended.of_rollback(services, repo_id, asked)

    state = await rollbacks.begin(services, team, planned.id, do)
    assert (state.name, state.failed) == ("done", 0), [line.problem for line in state.lines]
    assert await now(mirror, repo) == before
    state = await rollbacks.undo_all(services, team, planned.id, do)
    assert state.name == "undone", [line.problem for line in state.lines]
    assert await now(mirror, repo) == dict(work.refs())
