"""Killed at every step, run again, same end: nothing lost, nothing left behind."""

import json
import signal
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mirror.backup import sync as syncing
from mirror.core.errors import Busy
from mirror.core.formats import layout
from mirror.core.model import Repo
from mirror.services import failpoints
from mirror.services.lease import leased
from mirror.store.backup import parts
from mirror.upkeep import compact, prune, verify
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of, run_git


def history_of(work: Work) -> None:
    """What happens upstream between two backups: forced, deleted, created, renamed."""
    work.commit("main", {"rewritten": b"1"}, parents=[])
    work.delete("side")
    work.commit("new")
    work.tag("v2", message="signed off")


async def nothing_left(mirror: Mirror, repo: Repo) -> None:
    """Every object in the vault is accounted for, and no work in progress is to be seen anywhere."""
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())
    assert await mirror.services.vault.unfinished() == []
    assert await parts.intents(mirror.services.db, repo.id) == []
    scratch = mirror.services.disk.scratch(repo.id)
    assert not scratch.exists() or not list(scratch.iterdir())
    packs = mirror.services.disk.pool(repo.id) / "objects" / "pack"
    assert not [path for path in packs.iterdir() if path.suffix not in (".pack", ".idx", ".rev")]
    assert {path.stem for path in packs.glob("*.pack")} == {path.stem for path in packs.glob("*.idx")}


@pytest.mark.parametrize("step", failpoints.SYNC)
async def test_a_sync_killed_at_any_step_is_finished_by_the_next_one(
    mirror: Mirror, work: Work, everref: Callable[..., subprocess.CompletedProcess[str]], step: str
) -> None:
    work.zoo()
    moments = []
    for _ in range(2):  # the first backup and a later one go different ways
        moments.append(work.refs())
        killed = everref("backup", str(work.path), kill=step)
        first_only = step == "sync: index stored" and len(moments) == 2
        assert killed.returncode == (0 if first_only else -signal.SIGKILL), killed.stderr
        again = everref("backup", str(work.path), "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["snapshot"] == len(moments)
        history_of(work)
    repo = await mirror.repo(str(work.path))
    for number, expected in enumerate(moments, 1):
        path = await mirror.restored(repo, number)
        assert refs_of(path) == expected
        fsck(path)
    await nothing_left(mirror, repo)


@pytest.mark.parametrize("step", [*failpoints.COMPACT, *failpoints.PRUNE])
async def test_a_compaction_killed_at_any_step_is_finished_by_the_next_one(
    mirror: Mirror, work: Work, everref: Callable[..., subprocess.CompletedProcess[str]], step: str
) -> None:
    work.zoo()
    work.many_commits(30, "bulk", size=2000)
    moments = []
    for number in range(10):
        if number % 3 == 2:
            work.commit("main", {"forced": b"%d" % number}, parents=[work.tip("side")])
        else:
            work.commit("main", {"pushed": b"%d" % number})
        moments.append(work.refs())
        done = await mirror.backup(work)
    before = await parts.live(mirror.services.db, done.repo.id)
    verb = ("compact",) if step in failpoints.COMPACT else ("prune", "--grace", "0s")
    if step in failpoints.PRUNE:
        await compact.compact(mirror.services, done.repo)
    killed = everref(*verb, kill=step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert everref("compact").returncode == 0
    assert everref("prune", "--grace", "0s").returncode == 0
    after = await parts.live(mirror.services.db, done.repo.id)
    assert len(after) < len(before)
    stored = {key for key in await mirror.keys() if key.endswith(".bundle")}
    assert stored == {part.key for part in after}
    for number, expected in enumerate(moments, 1):
        path = await mirror.restored(done.repo, number)
        assert refs_of(path) == expected
        fsck(path)
    await nothing_left(mirror, done.repo)


async def test_a_checkpoint_killed_at_every_step_one_after_another_loses_nothing_and_holds_up_no_push(
    mirror: Mirror, work: Work, everref: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    moments = []
    for number in range(9):
        work.commit("main", {"big": b"%d" % number * 500}, parents=[] if number % 4 == 3 else None)
        moments.append(work.refs())
        done = await mirror.backup(work)
    for step in failpoints.CHECKPOINT:
        killed = everref("compact", kill=step)
        assert killed.returncode == -signal.SIGKILL, (step, killed.stderr)
        work.commit("main", {"after": step.encode() * 50})
        moments.append(work.refs())
        again = await syncing.sync(mirror.services, done.repo.id, patience=0)
        assert again.snapshot.number == len(moments)
        live = await parts.live(mirror.services.db, done.repo.id)
        assert live[0].last == (1 if step != "compact: recorded" else len(moments) - 1), step
        graves = await parts.tombstones(mirror.services.db, done.repo.id)
        stored = {key for key in await mirror.keys() if key.endswith(".bundle")}
        assert stored == {part.key for part in live} | {grave.key for grave in graves}, step
        assert await mirror.services.vault.unfinished() == []
        assert await parts.intents(mirror.services.db, done.repo.id) == []
    await compact.compact(mirror.services, done.repo, 0)
    await prune.prune(mirror.services, timedelta(0), done.repo)
    for number, expected in enumerate(moments, 1):
        path = await mirror.restored(done.repo, number)
        assert refs_of(path) == expected
    fsck(path)
    await nothing_left(mirror, done.repo)


@pytest.mark.parametrize("step", failpoints.RESTORE)
@pytest.mark.parametrize("way", ["--bundle", "--dir", "--to"])
async def test_a_restore_killed_at_any_step_is_finished_by_the_next_one(
    mirror: Mirror,
    work: Work,
    make_work: Callable[..., Work],
    everref: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    way: str,
    step: str,
) -> None:
    work.commit()
    work.commit("side")
    await mirror.backup(work)
    work.commit("main", parents=[])
    done = await mirror.backup(work)
    if way == "--to":
        goal = make_work("target.git").path
    else:
        goal = tmp_path / "restored"
    command = ("restore", done.repo.name, "--at", "#2", way, str(goal))
    killed = everref(*command, kill=step)
    assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
    if (
        killed.returncode == 0 or step == "restore: in place"
    ):  # this way does not go past that step, or is done
        if way != "--to":
            assert goal.exists()
            return
    again = everref(*command, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["verified"] is True
    expected = {name: target for name, target in work.refs().items() if name.startswith(b"refs/")}
    if way == "--bundle":
        heads = dict(line.split()[::-1] for line in run_git("bundle", "list-heads", goal).splitlines())
        assert {name: heads[name] for name in expected} == expected
    else:
        found = refs_of(goal)
        assert {name: found[name] for name in expected} == expected
    leftovers = [path.name for path in goal.parent.iterdir() if "everref-part" in path.name]
    assert leftovers == []
    await nothing_left(mirror, done.repo)


async def test_of_two_syncs_at_once_one_waits_and_then_finds_nothing_new(mirror: Mirror, work: Work) -> None:
    import asyncio

    work.zoo()
    repo = await mirror.repo(str(work.path))
    first, second = await asyncio.gather(
        syncing.sync(mirror.services, repo.id), syncing.sync(mirror.services, repo.id)
    )
    assert sorted([first.new, second.new]) == [False, True]
    assert first.snapshot == second.snapshot
    manifests = [key for key in await mirror.keys() if layout.parse_manifest_key(key)]
    assert len(manifests) == 1


async def test_a_job_that_may_not_wait_says_who_is_at_work(mirror: Mirror, work: Work) -> None:
    work.commit()
    repo = await mirror.repo(str(work.path))
    async with leased(mirror.services, repo):
        with pytest.raises(Busy, match="another run is working"):
            await syncing.sync(mirror.services, repo.id, patience=0)


async def test_a_stray_object_is_named_by_verify_and_removed_by_prune_after_its_grace(
    mirror: Mirror, work: Work
) -> None:
    from datetime import UTC, datetime

    work.commit()
    done = await mirror.backup(work)
    stray = layout.bundle_key(done.repo.id, 1, 2, 2, layout.unique())
    await mirror.services.vault.put(stray, b"left by somebody")
    assert (await verify.verify(mirror.services, done.repo)).strays == (stray,)
    mirror.clock.now = datetime.now(UTC)
    waiting = await prune.prune(mirror.services, timedelta(hours=24))
    assert (waiting.deleted, waiting.waiting) == ((), 1)
    mirror.clock.now += timedelta(hours=25)
    assert (await prune.prune(mirror.services, timedelta(hours=24))).deleted == (stray,)
    assert stray not in await mirror.keys()
