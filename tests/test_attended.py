"""Restores at the command line: told, kept first, undone and stopped like those of the pages."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mirror.cli import render, shapes
from mirror.core.errors import Busy, Cancelled, NotFound, UsageError
from mirror.core.model import RefName, Remote, Secret
from mirror.discovery import add
from mirror.jobs import attended
from mirror.people import operator
from mirror.restore import moment
from mirror.restore import restore as restoring
from mirror.restore.restore import RefResult, Restored, What
from mirror.services import ssh_access
from mirror.store import repos
from mirror.store.browse import causes
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs, runs
from mirror.store.people import people, teams
from mirror.store.restore import restores
from tests.parts.everref import Mirror
from tests.parts.repos import Work, refs_of
from tests.parts.sshd import Sshd
from tests.test_cli import EYE, NOW, OID, REPO, SNAPSHOT

MAIN, SIDE = RefName(b"refs/heads/main"), RefName(b"refs/heads/side")
OVER = What(force=True)


async def test_what_a_restore_overwrites_is_kept_first_and_comes_back(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    db, work_main = mirror.services.db, work.commit("main")
    work.commit("side")
    done = await mirror.backup(work)
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    before, to = target.refs(), Remote(str(target.path))
    known = await mirror.backup(target)  # kept already, so that its next sync sees what the restore did
    job_id, restored = await attended.restore(mirror.services, done.repo, done.snapshot, to, OVER)
    assert restored.verified and target.refs()[MAIN] == work_main
    assert restored.kept and restored.kept[0].id == known.repo.id
    job = await jobs.by_id(db, job_id)
    assert job and (job.state, job.kind, job.person_id) == ("done", "restore", None)
    assert job.result and job.result["counts"] == {"created": 1, "updated": 1}
    assert job.result["kept"] == known.repo.name and job.phases
    (record,) = await restores.of(db, done.repo.id)
    assert record.cause and record.cause.job_id == job_id and record.attended
    await mirror.backup(target)
    assert await causes.forced_lately(db, job.team_id, mirror.clock.now - timedelta(days=1)) == []
    await jobs.forget_before(db, mirror.clock.now + timedelta(days=1))  # which would take the undo away

    undone = await attended.undone(mirror.services, done.repo, None)
    assert undone.id == job_id
    planned = await attended.undo_plan(mirror.services, undone, None)
    assert [(ref.name, ref.result) for ref in planned.refs] == [(MAIN, "updated"), (SIDE, "removed")]
    _, back = await attended.undo_now(mirror.services, done.repo, undone, None)
    assert back.verified and target.refs() == before
    with pytest.raises(NotFound, match="left to undo"):
        await attended.undone(mirror.services, done.repo, None)
    with pytest.raises(NotFound, match="has no restore"):
        await attended.undone(mirror.services, known.repo, job_id)


async def test_a_path_that_a_teams_restore_overwrites_is_kept_by_whoever_runs_everref(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    ann = await people.add(mirror.services.db, "Ann", mirror.clock(), team_name="ann")
    team = await teams.home(mirror.services.db, ann.id)
    assert team is not None
    await mirror.services.db.execute("update repo set team_id = $1", team.id)
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    before = target.refs()
    _, restored = await attended.restore(
        mirror.services, done.repo, done.snapshot, Remote(str(target.path)), OVER
    )
    assert restored.kept
    kept = await remotes.get(mirror.services.db, restored.kept[0].id)
    assert kept.team_id == await teams.default(mirror.services.db) and kept.set_aside
    undone = await attended.undone(mirror.services, done.repo, None)
    await attended.undo_now(mirror.services, done.repo, undone, None)
    assert target.refs() == before


async def test_a_host_behind_ssh_is_kept_by_the_key_that_writes_there(
    mirror: Mirror, sshd: Sshd, work: Work, make_work: Any
) -> None:
    team = await teams.default(mirror.services.db)
    sshd.let_in((await ssh_access.team_key(mirror.services, team)).public)
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    to = await ssh_access.ready(mirror.services, team, Remote(sshd.url(target.path)))
    _, restored = await attended.restore(mirror.services, done.repo, done.snapshot, to, OVER)
    assert restored.verified and restored.kept
    assert refs_of(target.path)[MAIN] == work.tip("main")


async def test_credentials_that_were_lent_are_wanted_again(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    to = Remote(str(target.path), Secret("ann", "k3y-s3cret"))
    await attended.restore(mirror.services, done.repo, done.snapshot, to, What())
    undone = await attended.undone(mirror.services, done.repo, None)
    assert "s3cret" not in repr(undone) and undone.sealed is None
    with pytest.raises(UsageError, match="pass them with --token-file"):
        await attended.undo_plan(mirror.services, undone, None)
    assert (await attended.undo_plan(mirror.services, undone, to.secret)).refs


async def test_a_restore_is_stopped_by_a_page_and_recorded_so(
    mirror: Mirror, work: Work, make_work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    begun = asyncio.Event()

    async def for_ever(*_: object, **__: object) -> Restored:
        begun.set()
        return await asyncio.Future[Restored]()

    monkeypatch.setattr(restoring, "to_remote", for_ever)
    monkeypatch.setattr(attended, "_TELL", 0.01)
    to = Remote(str(make_work("target.git").path))
    work_under_way = asyncio.create_task(
        attended.restore(mirror.services, done.repo, done.snapshot, to, What())
    )
    await begun.wait()
    (job,) = await jobs.open_of(mirror.services.db, done.repo.id)
    await jobs.cancel(mirror.services.db, job.team_id, job.id, mirror.clock())
    with pytest.raises(Cancelled, match="stopped this"):
        await work_under_way
    ended = await jobs.by_id(mirror.services.db, job.id)
    assert ended and ended.state == "cancelled"


async def test_what_a_killed_command_left_is_over_and_no_worker_takes_it_up(
    mirror: Mirror, work: Work
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    db = mirror.services.db
    job = await jobs.attend(db, done.repo.id, "restore", {"to": "nowhere"}, mirror.clock())
    await runs.reap(db, "me/1/1/1/cc", mirror.clock())
    assert [one.id for one in await jobs.open_of(db, done.repo.id)] == [job.id]  # its command is at work
    await db.execute("update job set beat_at = beat_at - interval '1 min' where id = $1", job.id)
    await runs.reap(db, "me/1/1/1/cc", mirror.clock())
    left = await jobs.by_id(db, job.id)
    assert left and (left.state, left.notes) == ("cancelled", ("its command went away",))


async def test_what_a_hook_says_is_in_the_result(mirror: Mirror, work: Work, make_work: Any) -> None:
    work.commit("main")
    work.set("refs/pull/1/head", work.tip("main"))
    done = await mirror.backup(work)
    target = make_work("target.git")
    hook = target.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        "#!/bin/sh\n"
        "printf 'GH013: \\033[31mrule violations\\033[0m\\n\\n- ask a\\tfriend\\n' >&2\n"
        "printf '%01000d\\n' 0 >&2\n"
        "exit 1\n"
    )
    hook.chmod(0o755)
    to = Remote(str(target.path))
    job_id, restored = await attended.restore(mirror.services, done.repo, done.snapshot, to, What())
    said = ("GH013: rule violations", "- ask a friend", "0" * 300 + "…")
    assert restored.said == said and not restored.verified
    job = await jobs.by_id(mirror.services.db, job_id)
    assert job and job.failure and job.result and tuple(job.result["said"]) == said
    (skipped,) = job.result["skipped"]
    assert (skipped["refs"], skipped["names"]) == (1, ["refs/pull/1/head"])
    assert "hosts refuse this name" in skipped["why"]
    assert shapes.restored(restored, job_id)["skipped"] == job.result["skipped"]
    assert "  remote: GH013: rule violations" in render.restored(restored, to.url, EYE).splitlines()


def test_many_refs_of_one_reason_are_one_line() -> None:
    pulls = [RefName(b"refs/pull/%d/head" % n) for n in range(1, 1205)]
    refs = [RefResult(name, OID, "skipped", "hosts refuse this name") for name in pulls]
    refs += [RefResult(SIDE, OID, "skipped", "symbolic"), RefResult(MAIN, OID, "created", None)]
    done = Restored(REPO, SNAPSHOT, tuple(refs), True)
    assert render.restored(done, "out.git", EYE).splitlines()[:-1] == [
        "  skipped    1234567890  refs/heads/side  symbolic",
        "  skipped    1,204 refs: refs/pull/1/head, refs/pull/2/head, refs/pull/3/head, ..."
        "  hosts refuse this name",
        "  everref plan and --json list each of them",
    ]
    assert [(one["why"], one["refs"]) for one in shapes.restored(done)["skipped"]] == [
        ("hosts refuse this name", 1204),
        ("symbolic", 1),
    ]


# Teams.


async def test_a_team_is_meant_by_its_name_or_its_id(mirror: Mirror, work: Work) -> None:
    db = mirror.services.db
    with pytest.raises(NotFound, match="there is no team nobody; there is none yet$"):
        await operator.team_named(mirror.services, "nobody")
    own = await operator.team_named(mirror.services, None)
    with pytest.raises(NotFound, match="there is no team nobody; there is everref$"):
        await operator.team_named(mirror.services, "nobody")
    acme = await teams.add_named(db, "acme", NOW)
    for name in ("acme", str(acme.id)):
        assert await operator.team_named(mirror.services, name) == acme
    with pytest.raises(NotFound, match="there is no team nobody; there are acme and everref$"):
        await operator.team_named(mirror.services, "nobody")
    assert await operator.team_chosen(mirror.services, None) is None
    settings = replace(mirror.services.settings, team="acme")
    assert await operator.team_named(replace(mirror.services, settings=settings), None) == acme
    await teams.add_named(db, str(own.id), NOW)
    with pytest.raises(UsageError, match="the name of one team and the id of everref"):
        await operator.team_named(mirror.services, str(own.id))
    for number in range(9):
        await teams.add_named(db, f"b{number}", NOW)
    with pytest.raises(NotFound, match="there are .*, b4, b5.* and others$"):
        await operator.team_named(mirror.services, "nobody")


async def test_a_repo_of_another_team_is_not_found_but_named(mirror: Mirror) -> None:
    db = mirror.services.db
    for name in ("acme", "zed"):
        team = await teams.add_named(db, name, NOW)
        await repos.add(db, team.id, "api", f"https://e.example/{name}", NOW)
        if name == "acme":
            with pytest.raises(NotFound, match="called api; it belongs to the team acme: add --team acme"):
                await moment.repo_named(mirror.services, "api")
    with pytest.raises(NotFound, match="to the teams acme and zed: say which with --team"):
        await moment.repo_named(mirror.services, "api")
    with pytest.raises(NotFound, match="called web in the team acme; `everref repos` lists them"):
        await moment.repo_named(mirror.services, "web", "acme")
    assert (await moment.repo_named(mirror.services, "acme:api")).url == "https://e.example/acme"


async def test_a_name_with_a_colon_that_means_two_repos_is_asked_about(mirror: Mirror) -> None:
    services, db = mirror.services, mirror.services.db
    acme, own = await teams.add_named(db, "acme", NOW), await teams.default(db)
    await repos.add(db, own, "acme:api", "https://e.example/own", NOW)
    assert (await moment.repo_named(services, "acme:api")).url == "https://e.example/own"
    await repos.add(db, acme.id, "api", "https://e.example/acme", NOW)
    with pytest.raises(UsageError, match="say which: acme:api --team everref, or api --team acme"):
        await moment.repo_named(services, "acme:api")
    assert (await moment.repo_named(services, "acme:api", "everref")).url == "https://e.example/own"
    assert (await moment.repo_named(services, "api", "acme")).url == "https://e.example/acme"


async def test_a_path_for_another_team_is_refused_with_the_team_that_may_have_it(mirror: Mirror) -> None:
    acme = await teams.add_named(mirror.services.db, "acme", NOW)
    with pytest.raises(UsageError, match="in the command line's own team"):
        await add.check_path(mirror.services, acme.id, "/srv/api.git")


@pytest.mark.parametrize("by_id", [False, True], ids=["the-last", "by-its-id"])
async def test_a_restore_whose_command_was_killed_is_undone_without_any_worker(
    mirror: Mirror, work: Work, make_work: Any, monkeypatch: pytest.MonkeyPatch, by_id: bool
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    theirs, db = target.commit("main", {"theirs": b"1\n"}), mirror.services.db

    async def killed(*_: object) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(attended, "_record", killed)  # nothing tells how it ended
        to = Remote(str(target.path))
        job_id, _ = await attended.restore(mirror.services, done.repo, done.snapshot, to, OVER)
    wanted = job_id if by_id else None
    with pytest.raises(Busy, match=rf"still running \(id {job_id}\): wait for it or stop it"):
        await attended.undone(mirror.services, done.repo, wanted)
    await db.execute("update job set beat_at = beat_at - interval '1 min' where id = $1", job_id)
    undone = await attended.undone(mirror.services, done.repo, wanted)
    assert (undone.id, undone.state) == (job_id, "cancelled")
    _, back = await attended.undo_now(mirror.services, done.repo, undone, None)
    assert back.verified and target.refs()[MAIN] == theirs


@pytest.mark.parametrize("slept", ["planned", "recorded"])
async def test_a_restore_that_slept_until_it_was_taken_for_dead_writes_nothing_more(
    mirror: Mirror, work: Work, make_work: Any, monkeypatch: pytest.MonkeyPatch, slept: str
) -> None:
    work.commit("main")
    done = await mirror.backup(work)
    target = make_work("target.git")
    theirs, db = target.commit("main", {"theirs": b"1\n"}), mirror.services.db
    name = {"planned": "_check_kept", "recorded": "check_held"}[slept]

    async def silent(*_: object) -> None:
        await db.execute("update job set beat_at = beat_at - interval '1 min'")
        await runs.settle(db, mirror.clock.now)

    monkeypatch.setattr(restoring, name, silent)
    monkeypatch.setattr(attended, "_TELL", 3600)  # who sleeps tells nothing, and hears of nothing
    to = Remote(str(target.path))
    with pytest.raises(Busy, match="counts as failed"):
        await attended.restore(mirror.services, done.repo, done.snapshot, to, OVER)
    assert target.refs()[MAIN] == theirs
    with pytest.raises(NotFound, match="left to undo"):
        await attended.undone(mirror.services, done.repo, None)
