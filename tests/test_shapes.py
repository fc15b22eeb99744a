"""One set of shapes: of one thing the API and the command line say the same, under the same keys."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from mirror.backup.sync import Synced
from mirror.browse import plan_commits
from mirror.cli import shapes
from mirror.core.model import Remote
from mirror.core.rules.roles import Role
from mirror.core.words import rfc3339
from mirror.jobs import attended
from mirror.jobs.run import ask
from mirror.jobs.runner import Runner
from mirror.restore import drill, restore, undo
from mirror.restore.restore import What
from mirror.restore.target import Authority
from mirror.store import repos
from mirror.store.backup import history, snapshots
from mirror.store.jobs import jobs
from mirror.upkeep import verify
from tests.test_api import Kept, kept

__all__ = ["kept"]


def same(api: dict[str, Any], cli: dict[str, Any], *, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """All that the API says of it the command line says as well, in the same words."""
    assert {key: cli.get(key, "nothing") for key in api if key not in but} == {
        key: value for key, value in api.items() if key not in but
    }


async def test_a_repo_is_told_alike(kept: Kept) -> None:
    db = kept.site.mirror.services.db
    await repos.set_failure(db, kept.repo.id, "network", "nobody answers", kept.site.mirror.clock(), None)
    told = shapes.kept(await repos.overview_of(db, kept.repo.id))
    assert (told["repo"], told["state"], told["failure"]["class"]) == ("alice:acme/api", "failing", "network")
    same(await kept.program.get(kept.at), told)


async def test_a_snapshot_its_refs_and_its_changes_are_told_alike(kept: Kept) -> None:
    db = kept.site.mirror.services.db
    snapshot = await snapshots.latest(db, kept.repo.id)
    assert snapshot is not None
    told = shapes.backup(Synced(kept.repo, snapshot, new=True), 1.0)
    same(await kept.program.get(f"{kept.at}/snapshots/{snapshot.number}"), told)

    known = await history.refs_at(db, kept.repo.id, snapshot.number)
    refs = (await kept.program.get(f"{kept.at}/refs"))["items"]
    assert refs == [shapes.ref(name, known[name]) for name in sorted(known)]
    assert any("name_b64" in one for one in refs)

    changes = [shapes.change(one) async for one in history.changes(db, kept.repo.id)]
    assert (await kept.program.get(f"{kept.at}/changes"))["items"] == changes


async def test_what_jobs_came_to_is_told_alike(kept: Kept, make_work: Any) -> None:
    services = kept.site.mirror.services
    snapshot = await snapshots.latest(services.db, kept.repo.id)
    assert snapshot is not None
    repo = await repos.get(services.db, kept.repo.id)
    await ask(services, repo.id, "verify", {})
    await ask(services, repo.id, "drill", {})
    await Runner(services).work_off()
    found = {one["kind"]: one["result"] for one in (await kept.program.get("/teams/alice/jobs"))["items"]}
    same(found["verify"], shapes.verified(await verify.verify(services, repo), 1.0))
    same(found["drill"], shapes.drilled(await drill.drill(services, repo, snapshot)), but={"seconds"})


async def test_a_plan_a_restore_and_its_undo_are_told_alike(kept: Kept, make_work: Any) -> None:
    services, target = kept.site.mirror.services, make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    repo = await repos.get(services.db, kept.repo.id)
    snapshot = await snapshots.latest(services.db, repo.id)
    assert snapshot is not None
    to = Remote(str(target.path))
    asked = {"to": {"url": to.url}, "force": True}
    made = await restore.plan(services, repo, snapshot, What(force=True), to)
    commits = await plan_commits.of_plan(services, repo, made.moves, made.held)
    assert await kept.program.post(f"{kept.at}/plans", asked) == shapes.plan(made, to.url, commits)

    job_id, done = await attended.restore(services, repo, snapshot, to, What(force=True))
    told = shapes.restored(done, job_id)
    found = await kept.program.get(f"/teams/alice/jobs/{job_id}")
    assert found["result"]["kept"] and found["state"] == "done"
    same(found["result"], told, but={"to", "refs"})
    by_name = {one["name"]: one for one in told["refs"]}
    for one in found["result"]["refs"]:
        same(one, by_name[one["name"]])

    job = await jobs.by_id(services.db, job_id)
    assert job is not None
    undoing = await undo.plan(services, job, Authority(Role.OWNER, here=True))
    same(
        await kept.program.post(f"/teams/alice/jobs/{job_id}/undo/plan", {}),
        shapes.undo_plan(undoing, repo, job_id),
    )


def test_a_time_is_as_long_in_every_answer() -> None:
    at = datetime(2026, 3, 2, 9, 14, 3, tzinfo=UTC)
    assert rfc3339(at) == "2026-03-02T09:14:03.000000Z"
    assert rfc3339(at.astimezone(timezone(timedelta(hours=5, minutes=30)))) == rfc3339(at)
