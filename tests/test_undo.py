"""Undoing a restore: what it overwrote comes back, what it made goes, and nothing else is touched."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mirror.cli.call import IN_PART
from mirror.cli.commands.restore import undo_code
from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.model import HEAD, RefName, Repo, Target
from mirror.core.rules.history import plan
from mirror.core.rules.history.plan import Wrote
from mirror.core.rules.roles import Role
from mirror.git import push
from mirror.git.push import Answer
from mirror.jobs import attended
from mirror.jobs import run as jobbing
from mirror.restore import restore, undo
from mirror.restore.target import Authority
from mirror.store import repos
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.store.jobs.runs import Run, RunKey
from mirror.store.restore import restores
from tests.parts.everref import Mirror
from tests.parts.repos import Work

MAIN, SIDE = RefName(b"refs/heads/main"), RefName(b"refs/heads/side")
OLD, NEW, OTHER = Target(b"1" * 40), Target(b"2" * 40), Target(b"3" * 40)


@pytest.mark.parametrize(
    ("old", "now", "action", "goal"),
    [
        (OLD, NEW, "update", OLD),
        (OLD, OLD, "unchanged", OLD),
        (OLD, OTHER, "skipped", OLD),
        (OLD, None, "skipped", OLD),
        (None, NEW, "remove", NEW),
        (None, None, "unchanged", NEW),
        (None, OTHER, "skipped", NEW),
    ],
    ids=["overwritten", "back", "moved-since", "deleted-since", "made", "gone", "made-and-moved-since"],
)
def test_only_what_still_holds_what_was_written_is_touched(
    old: Target | None, now: Target | None, action: str, goal: Target
) -> None:
    listed = {} if now is None else {MAIN: now}
    (found,) = plan.undo_actions([Wrote(MAIN, old, NEW)], listed | {SIDE: OTHER})
    assert (found.action, found.target, found.old) == (action, goal, now)


def test_a_ref_is_brought_back_under_another_name() -> None:
    known = {MAIN: OLD, SIDE: NEW}
    rescue = RefName(b"refs/heads/rescue/main")
    assert plan.brought(known, {rescue: MAIN}) == {rescue: OLD}
    assert plan.brought(known, {rescue: OTHER}) == {rescue: OTHER}
    with pytest.raises(NotFound, match="no ref refs/heads/gone"):
        plan.brought(known, {rescue: b"refs/heads/gone"})


@pytest.mark.parametrize("name", [b"main", b"HEAD", b"refs/heads/", b"refs/pull/1/head", b"refs/heads/a..b"])
def test_what_is_brought_back_is_a_branch_or_a_tag(name: bytes) -> None:
    with pytest.raises(UsageError):
        plan.brought({MAIN: OLD}, {RefName(name): MAIN})


async def ran(mirror: Mirror, repo: Repo, asked: dict[str, Any]) -> Job:
    """A restore that was asked for, at its end."""
    db = mirror.services.db
    job = await jobbing.ask(mirror.services, repo.id, "restore", asked)
    return await taken_up(mirror, job, db)


async def taken_up(mirror: Mirror, job: Job, db: Any) -> Job:
    await db.execute("update job set state = 'running', attempt = attempt + 1 where id = $1", job.id)
    running = await jobs.by_id(db, job.id)
    assert running is not None
    await jobbing.run(
        mirror.services, Run(RunKey(job.id), job.repo_id, job.team_id, "restore", running, True, None)
    )
    ended = await jobs.by_id(db, job.id)
    assert ended is not None
    return ended


async def test_an_overwriting_restore_is_undone_to_what_the_target_was(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    work.commit("main")
    work.commit("side")
    done = await mirror.backup(work)
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    target.commit("other")
    before = target.refs()
    asked = {"snapshot": 1, "to": str(target.path), "force": True}
    job = await ran(mirror, done.repo, asked)
    assert job.state == "done", job.failure
    assert job.result and job.result["counts"] == {"created": 1, "updated": 1}
    assert target.refs()[MAIN] == work.tip("main")
    kept = await repos.by_url(mirror.services.db, job.team_id, str(target.path))
    assert kept is not None and job.result["kept"] == kept.name
    assert (await remotes.get(mirror.services.db, kept.id)).paused_at is not None
    planned = await undo.plan(mirror.services, job, Authority(Role.OWNER))
    assert [(ref.name, ref.result) for ref in planned.refs] == [(MAIN, "updated"), (SIDE, "removed")]
    undone = await ran(mirror, done.repo, {"undo": str(job.id), "snapshot": 1})
    assert undone.state == "done", undone.failure
    assert target.refs() == before
    assert undone.result and undone.result["counts"] == {"removed": 1, "updated": 1}
    (record,) = await restores.undone(mirror.services.db, job.id)
    assert record.cause and record.cause.undo_of == job.id
    again = await ran(mirror, done.repo, {"undo": str(job.id), "snapshot": 1})
    assert again.result and again.result["counts"] == {"unchanged": 2}
    assert target.refs() == before


async def test_what_somebody_moved_since_is_left_and_told(mirror: Mirror, work: Work, make_work: Any) -> None:
    work.commit("feature")
    work.commit("side")
    done = await mirror.backup(work)
    target = make_work("target.git")
    job = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path)})
    moved = target.commit("side", {"since": b"1\n"})
    undone = await ran(mirror, done.repo, {"undo": str(job.id), "snapshot": 1})
    assert undone.result and undone.result["counts"] == {"removed": 1, "skipped": 1}
    (skipped,) = [ref for ref in undone.result["refs"] if ref["result"] == "skipped"]
    assert "somebody has moved it since" in skipped["why"]
    assert {name: oid for name, oid in target.refs().items() if name != b"HEAD"} == {SIDE: moved}


async def test_a_run_that_was_killed_after_its_push_is_told_and_undone_as_if_it_had_not_been(
    mirror: Mirror, work: Work, make_work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    before = target.refs()

    async def killed(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(restore, "recorded", killed)
        job = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path), "force": True})
    assert job.state == "failed"
    assert target.refs()[MAIN] == work.tip("main")
    await mirror.services.db.execute(
        "update job set state = 'queued', finished_at = null, failure_class = null, failure_message = null"
    )
    job = await taken_up(mirror, replace(job, state="queued"), mirror.services.db)
    assert job.state == "done" and job.result and job.result["counts"] == {"updated": 1}
    await ran(mirror, done.repo, {"undo": str(job.id), "snapshot": 1})
    assert target.refs() == before


async def test_a_default_branch_that_the_host_will_not_delete_is_told(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    work.commit("main")
    work.commit("side")
    done = await mirror.backup(work)
    target = make_work("target.git")
    job = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path)})
    undone = await ran(mirror, done.repo, {"undo": str(job.id), "snapshot": 1})
    assert undone.failure and "1 of 2 refs were refused" in undone.failure.message
    assert undone.result and undone.result["refs"][0]["result"] == "refused"
    why = undone.result["refs"][0]["why"]
    assert "the only one left there" in why and "delete the repository there" in why
    assert set(target.refs()) == {MAIN, RefName(b"HEAD")}


async def test_a_default_branch_beside_another_is_told_with_what_to_do(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    target.commit("theirs")
    job = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path)})
    asked = {"undo": str(job.id), "snapshot": 1}
    undone = await ran(mirror, done.repo, asked)
    assert undone.result and "make theirs the default one there" in undone.result["refs"][0]["why"]
    target.head("theirs")
    undone = await ran(mirror, done.repo, asked)
    assert undone.state == "done" and MAIN not in target.refs()


def test_another_default_branch_is_a_usual_one_that_stays() -> None:
    listed = {HEAD: Target(b"ref: refs/heads/main"), MAIN: OLD, SIDE: OLD, RefName(b"refs/tags/a"): OLD}
    assert plan.default_branch(listed) == MAIN
    assert plan.another_default(listed, [MAIN]) == SIDE
    master = RefName(b"refs/heads/master")
    assert plan.another_default(listed | {master: OLD, RefName(b"refs/heads/a"): OLD}, [MAIN]) == master
    assert plan.another_default(listed, [MAIN, SIDE]) is None
    assert plan.default_branch({HEAD: Target(b"ref: refs/heads/gone"), MAIN: OLD}) is None
    assert plan.default_branch({HEAD: OLD, MAIN: OLD}) is None


async def test_a_lost_commit_comes_back_under_a_name_of_its_own(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    lost = work.commit("main", {"a": b"1"})
    await mirror.backup(work)
    work.commit("main", {"b": b"1"}, parents=[])
    done = await mirror.backup(work)
    target = make_work("target.git")
    rescue = RefName(b"refs/heads/rescue/main")
    job = await ran(
        mirror,
        done.repo,
        {"to": str(target.path), **restore.What(bring={rescue: lost}).chosen},
    )
    assert job.state == "done", job.failure
    assert {name: oid for name, oid in target.refs().items() if name != b"HEAD"} == {rescue: lost}
    unknown = restore.What(bring={RefName(rescue + b"-2"): b"f" * 40})
    job = await ran(mirror, done.repo, {"to": str(target.path), **unknown.chosen})
    assert job.failure and "holds no object" in job.failure.message


async def test_only_a_restore_that_wrote_something_can_be_undone(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    first = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path)})
    second = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path)})
    with pytest.raises(Refused, match="wrote nothing"):
        await jobbing.ask(mirror.services, done.repo.id, "restore", {"undo": str(second.id)})
    undone = await ran(mirror, done.repo, {"undo": str(first.id)})
    with pytest.raises(Refused, match="only a restore"):
        await jobbing.ask(mirror.services, done.repo.id, "restore", {"undo": str(undone.id)})
    with pytest.raises(NotFound):
        await jobbing.ask(mirror.services, done.repo.id, "restore", {"undo": "nonsense"})


def refusing(target: Any) -> Any:
    """A hook of the target that refuses every push, until it is removed."""
    hook = target.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    return hook


async def test_what_the_target_refused_is_not_undone_when_somebody_else_pushes_it(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    work.commit("main")
    work.commit("side")
    done = await mirror.backup(work)
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    hook = refusing(target)
    job = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path), "force": True})
    assert job.result and job.result["counts"] == {"refused": 2}
    hook.unlink()
    with pytest.raises(Refused, match="wrote nothing"):
        await undo.plan(mirror.services, job, Authority(Role.OWNER))
    with pytest.raises(NotFound, match="left to undo"):
        await attended.undone(mirror.services, done.repo, None)


async def test_an_undo_takes_the_last_restore_that_wrote(mirror: Mirror, work: Work, make_work: Any) -> None:
    work.commit("main")
    await mirror.backup(work)
    work.commit("main", {"more": b"1\n"})
    done = await mirror.backup(work)
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    before, asked = target.refs(), {"to": str(target.path), "force": True}
    first = await ran(mirror, done.repo, asked | {"snapshot": 1})
    hook = refusing(target)
    await ran(mirror, done.repo, asked | {"snapshot": 2})
    hook.unlink()
    undone = await attended.undone(mirror.services, done.repo, None)
    assert undone.id == first.id
    _, back = await attended.undo_now(mirror.services, done.repo, undone, None)
    assert back.verified and target.refs() == before


@pytest.mark.parametrize(
    "case",  # the target's answer; whether the ref is there afterwards; whether it can be undone
    [
        (Answer(None, "the connection broke"), False, True),
        (Answer(False, "it has changed at the target meanwhile", ours=True), True, False),
        (Answer(False, "declined"), False, False),
        (Refused("they take no push"), False, False),
    ],
    ids=["broke", "stale-and-pushed-by-another", "declined", "raised"],
)
async def test_only_what_may_have_been_written_stays_recorded(
    mirror: Mirror,
    work: Work,
    make_work: Any,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[Answer | Refused, bool, bool],
) -> None:
    answer, arrives, recorded = case
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")

    async def answered(*asked: Any) -> dict[RefName, Answer]:
        if isinstance(answer, Refused):
            raise answer
        if arrives:  # somebody else pushed just that
            await push.push(*asked)
        return dict.fromkeys(asked[3], answer)

    monkeypatch.setattr(restore, "push", SimpleNamespace(push=answered))
    job = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path)})
    assert await restores.wrote_any(mirror.services.db, job.id) is recorded


async def test_an_undo_that_left_a_ref_can_be_done_again(mirror: Mirror, work: Work, make_work: Any) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    theirs = target.commit("main", {"theirs": b"1\n"})
    job = await ran(mirror, done.repo, {"snapshot": 1, "to": str(target.path), "force": True})
    target.commit("main", {"since": b"1\n"})
    _, left = await attended.undo_now(mirror.services, done.repo, job, None)
    assert not left.verified and undo_code(left) == IN_PART
    undoing = await ran(mirror, done.repo, {"undo": str(job.id)})
    assert undoing.failure and "1 of 1 refs were left as they are" in undoing.failure.message
    target.set("refs/heads/main", work.tip("main"))  # they take their push back
    again = await attended.undone(mirror.services, done.repo, None)
    assert again.id == job.id
    _, back = await attended.undo_now(mirror.services, done.repo, again, None)
    assert back.verified and undo_code(back) == 0 and target.refs()[MAIN] == theirs
