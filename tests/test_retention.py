"""Retention from the wish to the drop: who may set it, when it takes effect, and what nothing may drop."""

import json
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mirror.core.config import Settings
from mirror.core.errors import Dropped, NotFound, UsageError
from mirror.core.rules.keeping.pending import Kind
from mirror.core.rules.keeping.retention import EVERYTHING, Policy
from mirror.jobs import pending
from mirror.people import operator, retention
from mirror.people import pending as asking
from mirror.restore import moment
from mirror.services import failpoints
from mirror.services.open import open_services
from mirror.store.backup import epochs, parts
from mirror.store.jobs import jobs
from mirror.store.people import pending as pending_rows
from mirror.store.upkeep import keeping
from mirror.upkeep import doctor, prune, verify
from mirror.upkeep import retention as upkeep
from tests.parts.everref import Clock, Mirror
from tests.parts.pending import days_pass
from tests.parts.repos import Work, fsck, refs_of
from tests.parts.s3 import S3Server
from tests.test_epoch import pushes


async def days_go_by(mirror: Mirror, days: int) -> None:
    """Each with an export of the state in the vault."""
    for _ in range(days):
        mirror.clock.now += timedelta(days=1)
        await mirror.services.db.execute(
            "insert into state_export (key, taken_at, state) values ($1, $2, 'stored')",
            f"state/{mirror.clock.now}",
            mirror.clock.now,
        )


async def test_a_shorter_policy_waits_for_its_days_then_drops_what_nothing_keeps(
    mirror: Mirror, work: Work
) -> None:
    services = mirror.services
    moments = await pushes(mirror, work, 8)
    repo = await mirror.repo(str(work.path))
    team = await operator.team_of(services, repo)
    await retention.pin(services, None, team, repo, 2, "release 1.0")
    asked = await retention.set_policy(services, None, team, Policy(keep_last=3), repo)
    assert asked is not None and asked.does == f"keep fewer backups of {repo.name}, from now on the last 3"
    assert await retention.policy_of(services, team, repo) == EVERYTHING  # nothing yet
    await days_go_by(mirror, 89)
    await pending.due(services)  # which tells that it comes
    await days_go_by(mirror, 1)
    await pending.due(services)
    assert await retention.policy_of(services, team, repo) == Policy(keep_last=3)
    await upkeep.due(services)
    assert await epochs.dropped(services.db, repo.id) == []  # a week after it was set, at the earliest
    await days_go_by(mirror, 31)
    queued = await jobs.queue(services.db, repo.id, "drill", {"snapshot": 4}, mirror.clock())
    await upkeep.due(services)
    gone = await epochs.dropped(services.db, repo.id)
    assert [number for number, _, _ in gone] == [1, 3, 5]
    assert gone[0][2] == "the retention policy: keeps the last 3"
    with pytest.raises(Dropped, match="the nearest kept snapshots are #2 before it and #4 after it"):
        await moment.snapshot_at(services, repo, 3)
    for number in (2, 4, 6, 7, 8):
        assert refs_of(await mirror.restored(repo, number)) == moments[number - 1]
    assert queued is not None
    # Keeping more takes effect at once, and brings nothing back.
    assert await retention.set_policy(services, None, team, Policy(keep_last=9), repo) is None
    assert await retention.set_policy(services, None, team, None, repo) is None
    found = await verify.verify(services, repo)
    assert (found.problems, found.strays) == ((), ())


async def test_nothing_of_a_repo_on_legal_hold_goes_and_lifting_it_waits(mirror: Mirror, work: Work) -> None:
    services = mirror.services
    await pushes(mirror, work, 3)
    repo = await mirror.repo(str(work.path))
    team = await operator.team_of(services, repo)
    await retention.hold(services, None, team, repo, "case 12")
    assert not await retention.hold(services, None, team, repo, "another reason")  # the first one stands
    assert [one.reason for one in await keeping.held(services.db)] == ["case 12"]
    assert await upkeep.apply(services, repo, Policy(keep_last=1), clock_is_right=True) is None
    await retention.lift(services, None, team, repo, "closed")
    await pending.due(services)
    assert await keeping.hold(services.db, repo.id) is not None
    await days_pass(mirror, timedelta(days=90))
    await pending.due(services)
    assert await keeping.hold(services.db, repo.id) is None
    with pytest.raises(NotFound, match="not on legal hold"):
        await retention.lift(services, None, team, repo)
    # A hold that comes after the drop keeps what is still there.
    made = await upkeep.apply(services, repo, Policy(keep_last=1), clock_is_right=True)
    assert made is not None and made.dropped == (1, 2)
    await retention.hold(services, None, team, repo, "case 13")
    mirror.clock.now += timedelta(days=3)
    assert (await prune.prune(services, prune.GRACE, repo)).deleted == ()


async def test_a_drop_killed_at_every_step_loses_no_kept_moment_and_is_finished_by_the_next(
    mirror: Mirror, work: Work, everref: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    services = mirror.services
    moments = await pushes(mirror, work, 3)
    repo = await mirror.repo(str(work.path))
    team = await operator.team_of(services, repo)
    await retention.set_policy(services, None, team, Policy(keep_last=2), repo)
    await days_pass(mirror, timedelta(days=90))
    await pending.due(services)
    drop = ("retention", "apply", "--repo", repo.name, "--clock-is-right")
    for step in failpoints.EPOCH:
        killed = everref(*drop, kill=step)
        assert killed.returncode == -signal.SIGKILL, (step, killed.stderr)
        moments += await pushes(mirror, work, 1)  # the next sync, which finds what was left
        kept = (len(moments) - 1, len(moments))
        for number in kept:
            path = await mirror.restored(repo, number)
            assert refs_of(path) == moments[number - 1], step
            fsck(path)
    done = everref(*drop, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dropped"][-1] == len(moments) - 2
    assert {part.epoch for part in await parts.live(services.db, repo.id)} == {
        json.loads(done.stdout)["epoch"]
    }
    found = await verify.verify(services, repo)
    assert (found.problems, found.strays) == ((), ())
    assert await services.vault.unfinished() == []


def test_the_command_line_shows_saves_and_holds(
    mirror: Mirror, work: Work, everref: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for number in range(3):
        work.commit("main", {"n": b"%d" % number})
        assert everref("backup", str(work.path), "--name", "api").returncode == 0
    shown = everref("retention", "plan", "--repo", "api", "--keep-last", "2")
    assert "api  the last 2: 2 snapshots stay, 1 would go" in shown.stdout, shown.stderr
    assert "would free nothing, as later snapshots need it all" in shown.stdout
    first = json.loads(everref("log", "api", "--reverse", "--json").stdout.splitlines()[0])["at"]
    assert f"#1  {first.replace('T', ' ')[:19]}Z" in shown.stdout  # to the second, as the log has it
    refused = everref("retention", "plan", "--repo", "api", "--days", "0")
    assert "would keep nothing; give at least one number" in refused.stderr
    held = everref("hold", "api", "--reason", "case 12")
    assert "on legal hold since" in held.stdout, held.stderr
    kept = everref("pin", "api", "1", "--note", "release", "--json")
    assert kept.stdout, kept.stderr
    assert json.loads(kept.stdout)["kept"][0]["note"] == "release", kept.stderr
    planned = everref("retention", "plan", "--repo", "api", "--keep-last", "1", "--json")
    assert planned.stdout, planned.stderr
    plan = json.loads(planned.stdout)
    assert [one["because"] for one in plan["kept"]][0] == ["legal hold: case 12", "kept by hand: release"]
    assert plan["going"] == []


async def test_a_clock_that_jumped_a_year_ahead_long_ago_takes_nothing_away(
    tmp_path: Path, database: str, work: Work, s3_server: S3Server, s3_credentials: None
) -> None:
    """Things have come in evenly since, so that only the store's own clock tells."""
    clock = Clock()
    clock.step, now = timedelta(0), datetime.now(UTC)
    clock.now = now - timedelta(days=15)
    settings = Settings(
        data=str(tmp_path / "data"),
        database_url=database,
        vault_url=s3_server.url(tmp_path.name),
        allow_private_remotes=True,
        secret_keys=("k" * 40,),
    )
    async with open_services(settings, clock=clock) as services:
        mirror = Mirror(services, clock, tmp_path)
        await pushes(mirror, work, 3)
        repo = await mirror.repo(str(work.path))
        team = await operator.team_of(services, repo)
        one = await asking.ask(services, None, team, Kind.SHORTEN_DELAY, {"days": 7})
        assert one.takes_effect_at is not None and one.takes_effect_at < now  # a team of one

        async def state() -> str:
            found = await pending_rows.find(services.db, one.id)
            assert found is not None
            return found.state(clock.now)

        clock.now = one.takes_effect_at - timedelta(days=1)
        await pending.due(services)  # which tells that it comes
        clock.now = now + timedelta(days=355)
        await days_go_by(mirror, 10)
        policy = Policy(keep_last=1)
        assert (await upkeep.preview(services, repo, policy)).plan.stopped is None
        with pytest.raises(UsageError, match="the clock here says .* and that of the vault .*: set the one"):
            await upkeep.apply(services, repo, policy)
        await pending.due(services)
        assert await state() == "agreed"
        told = [one for one in await doctor.doctor(services) if one.what == "vault: clock"]
        assert [one.ok for one in told] == [False]
        clock.now = now
        await pending.due(services)
        assert await state() == "done"
        made = await upkeep.apply(services, repo, policy, clock_is_right=True)
        assert made is not None and len(made.dropped) > 0
