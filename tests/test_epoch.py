"""A new epoch of a pack log: what is dropped goes, what is kept stays, what comes again is stored again."""

import asyncio
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from mirror.core.errors import Busy, Dropped, Held, UsageError
from mirror.core.formats import epochs as records
from mirror.core.formats import layout
from mirror.core.model import RefName, Refs, Target
from mirror.jobs import proofs
from mirror.restore import drill, moment
from mirror.services.lease import leased
from mirror.services.reading import reading
from mirror.store.backup import epochs, parts, snapshots
from mirror.store.upkeep import keeping
from mirror.upkeep import compact, epoch, heal, prune, verify
from mirror.upkeep.epoch import Why
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, objects_of, refs_of, run_git

SIDE = RefName(b"refs/heads/side")
WHY = Why("Ada", "the policy keeps less")


async def pushes(mirror: Mirror, work: Work, count: int) -> list[Refs]:
    """So many backups, each after a force-push of a branch, so that each has objects of its own."""
    moments = []
    for number in range(count):
        work.commit("main", {"pushed": b"%d" % number})
        work.commit("side", {"forced": b"secret %d" % number * 50}, parents=[])
        await mirror.backup(work)
        moments.append(work.refs())
    return moments


async def brought_back_by_script(mirror: Mirror, repo_id: object, number: int, place: Path) -> Path:
    """What restore.sh makes of a snapshot."""
    vault = Path(mirror.services.settings.data) / "vault"
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", str(vault / "restore.sh"), str(vault / str(repo_id)), str(number), str(place)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return place


async def test_what_is_dropped_goes_and_every_kept_moment_stays_in_all_ways(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    moments = await pushes(mirror, work, 7)
    repo = await mirror.repo(str(work.path))
    gone = Target(moments[2][SIDE])
    made = await epoch.new_epoch(mirror.services, repo, drop={2, 3, 4}, why=WHY)
    assert (made.number, made.dropped) == (2, (2, 3, 4))
    assert made.bytes_after < made.bytes_before
    moments += await pushes(mirror, work, 2)  # goes on upon the new epoch
    kept = [1, 5, 6, 7, 8, 9]
    db = mirror.services.db
    assert {part.epoch for part in await parts.live(db, repo.id)} == {2}
    for number in kept:
        path = await mirror.restored(repo, number)
        assert refs_of(path) == moments[number - 1]
        fsck(path)
        assert gone not in objects_of(path, everything=True)
        assert (await drill.drill(mirror.services, repo, await mirror.snapshot(repo, number))).problems == ()
        script = await brought_back_by_script(mirror, repo.id, number, tmp_path / f"script-{number}")
        assert refs_of(script) == moments[number - 1]
    with pytest.raises(
        Dropped,
        match=r"#3 of .* was dropped on .* \(Ada: the policy keeps less\); the nearest kept snapshots are #1",
    ):
        await moment.snapshot_at(mirror.services, repo, 3)
    with pytest.raises(Dropped):
        await mirror.restored(repo, 2)
    with pytest.raises(AssertionError, match=r"snapshot 3 was dropped on 20.*: Ada: the policy keeps less"):
        await brought_back_by_script(mirror, repo.id, 3, tmp_path / "script-dropped")
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.damaged, found.strays) == ((), (), ())
    mirror.clock.now += timedelta(days=2)
    pruned = await prune.prune(mirror.services, prune.GRACE, repo)
    assert len([key for key in pruned.deleted if "/0001-" in key]) == 7
    assert (await verify.verify(mirror.services, repo)).problems == ()
    # Another epoch, compaction and healing go on with it.
    await epoch.new_epoch(mirror.services, repo, drop={5}, why=WHY)
    moments += await pushes(mirror, work, 10)
    await compact.compact(mirror.services, repo)
    assert await heal.heal(mirror.services, repo) == []
    for number in (1, 6, 9, 19):
        assert refs_of(await mirror.restored(repo, number)) == moments[number - 1]
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def test_what_was_dropped_is_stored_again_when_a_remote_sends_it_again(
    mirror: Mirror, work: Work
) -> None:
    moments = await pushes(mirror, work, 4)
    repo = await mirror.repo(str(work.path))
    await epoch.new_epoch(mirror.services, repo, drop={2, 3}, why=WHY)
    # A restore of an old state at the remote: it is in no kept snapshot, but in git's memory there.
    old = moments[1][SIDE].decode()
    run_git("-C", work.path, "update-ref", "refs/heads/again", old)
    await mirror.backup(work)
    path = await mirror.restored(repo, 5)
    assert refs_of(path)[RefName(b"refs/heads/again")] == old.encode()
    fsck(path)
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def test_a_lost_database_comes_back_with_the_epoch_and_what_was_dropped(
    mirror: Mirror, work: Work
) -> None:
    moments = await pushes(mirror, work, 5)
    repo = await mirror.repo(str(work.path))
    await epoch.new_epoch(mirror.services, repo, drop={2, 4}, why=WHY)
    moments += await pushes(mirror, work, 1)
    before = [replace(one, verified_at=None) async for one in snapshots.every(mirror.services.db, repo.id)]
    await mirror.services.db.execute("truncate repo, ref_change, ref_stay cascade")
    await rebuild.rebuild(mirror.services)
    found = [replace(one, verified_at=None) async for one in snapshots.every(mirror.services.db, repo.id)]
    assert found == before
    for number in (1, 3, 5, 6):
        assert refs_of(await mirror.restored(repo, number)) == moments[number - 1]
    assert (await verify.verify(mirror.services, repo)).problems == ()
    assert await rebuild.rebuild(mirror.services)  # once more
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def test_what_a_killed_run_left_of_an_epoch_counts_for_nothing(mirror: Mirror, work: Work) -> None:
    await pushes(mirror, work, 3)
    repo = await mirror.repo(str(work.path))
    record = records.Record(repo.id, 2, 3, mirror.clock(), "Ada", "x", ())
    await mirror.services.vault.put(layout.epoch_key(repo.id, 2), records.encode(record))
    made = await epoch.new_epoch(mirror.services, repo, drop={2}, why=WHY)
    assert made.number == 3  # a number is used once
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())


async def test_a_blob_goes_with_all_that_leads_to_it(mirror: Mirror, work: Work) -> None:
    moments = await pushes(mirror, work, 3)
    repo = await mirror.repo(str(work.path))
    tip = moments[0][SIDE].decode()
    blob = Target(run_git("-C", work.path, "rev-parse", f"{tip}:forced").strip())
    made = await epoch.new_epoch(mirror.services, repo, drop=(), without={blob}, why=WHY)
    path = await mirror.restored(repo, 3)
    assert refs_of(path) == moments[2]
    held = objects_of(path, everything=True)
    assert not held & {blob, Target(tip.encode())}
    assert made.dropped == ()


async def test_nothing_goes_that_must_not(mirror: Mirror, work: Work) -> None:
    await pushes(mirror, work, 3)
    repo = await mirror.repo(str(work.path))
    services = mirror.services
    for drop, words in ((set(), "nothing was named"), ({3}, "is the newest"), ({9}, "has no snapshot #9")):
        with pytest.raises(UsageError, match=words):
            await epoch.new_epoch(services, repo, drop=drop, why=WHY)
    await keeping.set_hold(services.db, repo.id, "case 12", "Ada", services.clock())
    with pytest.raises(Held, match=r"legal hold since .* \(case 12; set by Ada\)"):
        await epoch.new_epoch(services, repo, drop={1}, why=WHY)
    await keeping.lift_hold(services.db, repo.id, "Bob", services.clock())

    async def refuses(_: object) -> None:
        raise Busy("kept after all")

    before = await mirror.keys()
    with pytest.raises(Busy, match="kept after all"):
        await epoch.new_epoch(services, repo, drop={1}, why=WHY, still=refuses)
    assert [key for key in await mirror.keys() if "/retention/" not in key] == before
    assert (await snapshots.latest(services.db, repo.id)).epoch == 1  # type: ignore[union-attr]
    assert (await verify.verify(services, repo)).problems == ()


async def test_a_push_while_git_packs_is_waited_for_and_kept(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = await pushes(mirror, work, 3)
    repo = await mirror.repo(str(work.path))
    late = []

    def reached(step: str) -> None:
        late.append(step)

    monkeypatch.setattr("mirror.services.failpoints.reached", reached)
    packed = epoch._Rewrite._packed

    async def with_a_push(self: object, *args: object) -> object:
        done = await packed(self, *args)  # type: ignore[arg-type]
        if len(moments) < 5:
            moments.extend(await pushes(mirror, work, 1))
        return done

    monkeypatch.setattr(epoch._Rewrite, "_packed", with_a_push)
    monkeypatch.setattr(epoch, "TRIES", 3)
    made = await epoch.new_epoch(mirror.services, repo, drop={2}, why=WHY)
    assert len(moments) == 5 and made.part.last == 5
    for number in (1, 3, 4, 5):
        assert refs_of(await mirror.restored(repo, number)) == moments[number - 1]
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())


async def test_what_is_read_is_not_deleted_before_the_reader_ends(mirror: Mirror, work: Work) -> None:
    await pushes(mirror, work, 3)
    repo = await mirror.repo(str(work.path))
    async with reading(mirror.services, repo.id):
        await epoch.new_epoch(mirror.services, repo, drop={2}, why=WHY)
        mirror.clock.now += timedelta(days=3)
        assert (await prune.prune(mirror.services, prune.GRACE, repo)).deleted == ()
    assert len((await prune.prune(mirror.services, prune.GRACE, repo)).deleted) >= 3
    reader = await keeping.begin_reading(mirror.services.db, repo.id, "elsewhere/1/2/3", mirror.clock())
    await mirror.services.db.execute("update vault_reader set beat_at = beat_at - interval '1 hour'")
    assert await keeping.reading_since(mirror.services.db, repo.id) is None
    await keeping.end_reading(mirror.services.db, reader)


async def test_drills_choose_kept_moments_only(mirror: Mirror, work: Work) -> None:
    await pushes(mirror, work, 6)
    repo = await mirror.repo(str(work.path))
    await epoch.new_epoch(mirror.services, repo, drop={2, 3, 4, 5}, why=WHY)
    chosen = {
        one.number
        for seed in range(12)
        if (one := await proofs.moment(mirror.services, repo.id, Random(seed))) is not None
    }
    assert chosen <= {1, 6}
    async with leased(mirror.services, repo):
        assert await epochs.kept_near(mirror.services.db, repo.id, 3) == (1, 6)
