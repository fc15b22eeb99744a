"""What went wrong once in thought: crashes between two effects, lost answers, clocks and disks that lie."""

import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.backup import recover, snapshot
from mirror.core.errors import Busy, Corrupt
from mirror.core.formats import layout, manifest
from mirror.core.formats.lsrefs import Reading
from mirror.core.model import HEAD, Listing, RefName, Remote, Repo
from mirror.git.upstream import Upstream
from mirror.restore import moment, restore
from mirror.services import failpoints
from mirror.store import repos
from mirror.store.backup import parts
from mirror.upkeep import compact, prune, verify
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of, run_git


def stored(mirror: Mirror, key: str) -> Path:
    """Where the directory vault keeps an object."""
    return Path(mirror.services.settings.data) / "vault" / key


async def ten_pushes(mirror: Mirror, work: Work) -> Repo:
    """A repo of which a compaction merges parts."""
    work.many_commits(30, "bulk", size=2000)
    for number in range(10):
        work.commit("main", {"pushed": b"%d" % number})
        done = await mirror.backup(work)
    return done.repo


async def prune_at_once(mirror: Mirror, repo: Repo) -> prune.Pruned:
    """Prune as if everything were older than any grace period."""
    mirror.clock.now = datetime.now(UTC) + timedelta(days=1)
    return await prune.prune(mirror.services, timedelta(0), repo)


async def lose_the_database(mirror: Mirror) -> None:
    await mirror.services.db.execute("truncate repo cascade")
    await mirror.services.db.execute("truncate ref cascade")
    await mirror.services.db.execute("truncate ref_change")


async def test_a_draft_left_beside_a_committed_object_is_removed_without_the_object(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    done = await mirror.backup(work)
    assert done.snapshot.bundle
    keys = await mirror.keys()
    for key in (done.snapshot.bundle.key, layout.manifest_key(done.repo.id, 1)):
        file = stored(mirror, key)  # killed after the link, before the draft's name went
        file.with_name(f".{file.name}.{'0' * 16}.tmp").hardlink_to(file)
    await prune_at_once(mirror, done.repo)
    assert await mirror.keys() == keys
    assert (await verify.verify(mirror.services, done.repo)).problems == ()


async def test_a_rebuild_killed_halfway_leaves_merged_parts_alone(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await ten_pushes(mirror, work)
    await compact.compact(mirror.services, repo)
    await prune_at_once(mirror, repo)
    keys = await mirror.keys()
    await lose_the_database(mirror)

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(rebuild, "_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            await rebuild.rebuild(mirror.services)
    with pytest.raises(Corrupt, match="everref rebuild"):
        await prune_at_once(mirror, repo)
    assert await mirror.keys() == keys
    await rebuild.rebuild(mirror.services)
    await prune_at_once(mirror, repo)
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def test_a_rebuild_chooses_one_of_two_parts_with_the_same_range(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await ten_pushes(mirror, work)

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # a compaction that died with its machine: nobody discards at once
        patched.setattr(parts, "replace", killed)
        patched.setattr(recover, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            await compact.compact(mirror.services, repo)
    await compact.compact(mirror.services, repo)
    for grave in await parts.tombstones(mirror.services.db, repo.id):
        await mirror.services.vault.delete(grave.key)
    await lose_the_database(mirror)
    await rebuild.rebuild(mirror.services)
    assert (await verify.verify(mirror.services, repo)).problems == ()
    assert refs_of(await mirror.restored(repo, 10)) == work.refs()


async def test_a_rebuild_names_the_manifest_that_is_missing_in_the_middle(mirror: Mirror, work: Work) -> None:
    repo = await ten_pushes(mirror, work)
    await lose_the_database(mirror)
    missing = stored(mirror, layout.manifest_key(repo.id, 4))
    shutil.move(missing, missing.parents[2] / "aside")
    keys = await mirror.keys()
    with pytest.raises(Corrupt, match="0000000004.json is missing"):
        await rebuild.rebuild(mirror.services)
    assert await mirror.keys() == keys
    (found,) = await repos.overview(mirror.services.db)
    assert (found.snapshots, found.state) == (3, "failing")
    shutil.move(missing.parents[2] / "aside", missing)
    await rebuild.rebuild(mirror.services)
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def test_a_database_that_knows_less_than_the_vault_prunes_nothing(mirror: Mirror, work: Work) -> None:
    repo = await ten_pushes(mirror, work)
    for statement in (
        "delete from ref_change where snapshot > 3",
        "delete from ref_stay where first_snapshot > 3",
        "update ref_stay set last_snapshot = null where last_snapshot = 3",
        "delete from snapshot where number > 3",
        "delete from part where last_snapshot > 3",
    ):
        await mirror.services.db.execute(statement)
    missing = stored(mirror, layout.manifest_key(repo.id, 4))
    shutil.move(missing, missing.parents[2] / "aside")
    keys = await mirror.keys()
    with pytest.raises(Corrupt, match="0000000004.json is missing"):
        await prune_at_once(mirror, repo)
    assert await mirror.keys() == keys
    shutil.move(missing.parents[2] / "aside", missing)
    await prune_at_once(mirror, repo)
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def test_a_foreign_object_in_the_vault_does_not_stop_a_rebuild(mirror: Mirror, work: Work) -> None:
    work.commit()
    done = await mirror.backup(work)
    await mirror.services.vault.put("elsewhere/repo.json", b"{}")
    await lose_the_database(mirror)
    assert [found.repo.id for found in (await rebuild.rebuild(mirror.services)).repos] == [done.repo.id]


async def test_a_repo_that_cannot_be_rebuilt_does_not_stop_the_others(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    works = [work, make_work("second.git"), make_work("third.git")]
    done = [(await mirror.backup(one)) for one in works if one.commit()]
    victim = min(done, key=lambda one: one.repo.id.hex).repo
    stored(mirror, layout.manifest_key(victim.id, 1)).write_bytes(b"{}")
    await lose_the_database(mirror)
    with pytest.raises(Corrupt):
        await rebuild.rebuild(mirror.services)
    for one in done:
        if one.repo != victim:
            assert await mirror.refs(one.repo, 1)


async def test_a_clock_that_went_back_does_not_hide_the_latest_snapshot(mirror: Mirror, work: Work) -> None:
    work.commit()
    first = await mirror.backup(work)
    mirror.clock.now -= timedelta(hours=2)
    work.commit()
    second = await mirror.backup(work)
    assert second.snapshot.taken_at < first.snapshot.taken_at
    found = await moment.snapshot_at(
        mirror.services, first.repo, first.snapshot.taken_at + timedelta(hours=1)
    )
    assert found.number == 2


@pytest.mark.parametrize("damage", ["flipped", "index gone", "both gone", "cut"])
async def test_a_damaged_pool_is_thrown_away_and_the_sync_goes_on(
    mirror: Mirror, work: Work, damage: str
) -> None:
    work.many_commits(20, size=5000)
    await mirror.backup(work)
    work.many_commits(5, "main", size=5000)
    done = await mirror.backup(work)
    packs = mirror.services.disk.pool(done.repo.id) / "objects/pack"
    pack = max(packs.glob("*.pack"), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    if damage == "flipped":
        content = bytearray(pack.read_bytes())
        for place in range(1000, len(content), 1000):
            content[place] ^= 1
        pack.write_bytes(content)
    elif damage == "cut":
        with pack.open("r+b") as file:
            file.truncate(pack.stat().st_size // 2)
    else:
        pack.with_suffix(".idx").unlink()
        if damage == "both gone":
            pack.unlink()
    work.many_commits(3, "main", size=5000)
    done = await mirror.backup(work)
    assert done.new
    assert (await verify.verify(mirror.services, done.repo)).problems == ()
    path = await mirror.restored(done.repo, 3)
    assert refs_of(path) == work.refs()
    fsck(path)


async def test_a_damaged_pool_does_not_stop_a_restore_to_a_remote(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.many_commits(20, size=5000)
    done = await mirror.backup(work)
    (pack,) = (mirror.services.disk.pool(done.repo.id) / "objects/pack").glob("*.pack")
    pack.chmod(0o644)
    content = bytearray(pack.read_bytes())
    for place in range(1000, len(content), 1000):
        content[place] ^= 1
    pack.write_bytes(content)
    target = make_work("target.git")
    result = await restore.to_remote(mirror.services, done.repo, done.snapshot, Remote(str(target.path)))
    assert result.verified and refs_of(target.path) == work.refs()
    fsck(target.path)


def sending(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    """Have the remote send something else than what it should."""
    honest = Upstream.fetch

    async def fetch(self: Upstream, *args: Any) -> AsyncGenerator[bytes, None]:
        yield change(b"".join([chunk async for chunk in honest(self, *args)]))

    monkeypatch.setattr(Upstream, "fetch", fetch)


async def test_bytes_behind_the_first_pack_are_not_taken_for_a_part_of_it(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    with monkeypatch.context() as patched:
        sending(patched, lambda pack: pack + b"\n")
        with pytest.raises(Corrupt):
            await mirror.backup(work)
    done = await mirror.backup(work)
    assert done.snapshot.number == 1
    assert (await verify.verify(mirror.services, done.repo)).problems == ()


@pytest.mark.parametrize("large", [1, 1 << 40])
async def test_an_object_that_nobody_asked_for_is_not_taken_for_a_whole_history(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    work.commit()
    await mirror.backup(work)
    work.commit("main", {"pushed": b"1"})
    work.commit("hidden", {"secret": b"parent"}, parents=[])
    tip = work.commit("hidden", {"secret": b"child"})
    listed = run_git("-C", work.path, "rev-list", "--objects", "--no-object-names", "main").split()
    old = run_git("-C", work.path, "rev-list", "--objects", "--no-object-names", "main^").split()
    work.delete("hidden")
    wanted = [oid for oid in listed if oid not in old] + [tip]  # without its parent and its tree
    pack = run_git("-C", work.path, "pack-objects", "--stdout", "-q", stdin=b"\n".join(wanted) + b"\n")
    with monkeypatch.context() as patched:
        sending(patched, lambda _: pack)
        patched.setattr(snapshot, "_LARGE", large)
        await mirror.backup(work)
    work.set("refs/heads/hidden", tip)
    done = await mirror.backup(work)
    assert (await verify.verify(mirror.services, done.repo)).problems == ()
    fsck(await mirror.restored(done.repo, done.snapshot.number))


async def test_a_checkpoint_keeps_what_the_remote_sent_unasked(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    work.commit("hidden", {"secret": b"parent"}, parents=[])
    tip = work.commit("hidden", {"secret": b"child"})
    every = run_git("-C", work.path, "rev-list", "--objects", "--no-object-names", "--all")
    work.delete("hidden")
    pack = run_git("-C", work.path, "pack-objects", "--stdout", "-q", stdin=every)
    with monkeypatch.context() as patched:
        sending(patched, lambda _: pack)
        done = await mirror.backup(work)
    for number in range(10):
        work.commit("main", {"pushed": b"%d" % number})
        await mirror.backup(work)
    compacted = await compact.compact(mirror.services, done.repo)
    assert compacted.parts_after == 1
    work.set("refs/heads/hidden", tip)
    done = await mirror.backup(work)
    assert (await verify.verify(mirror.services, done.repo)).problems == ()
    fsck(await mirror.restored(done.repo, done.snapshot.number))


async def test_a_run_that_lost_its_turn_commits_no_manifest(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    done = await mirror.backup(work)
    work.commit()
    encode = manifest.encode

    def asleep(taken: manifest.Manifest) -> bytes:  # for hours; the next owner has cleaned up behind it
        assert taken.bundle
        stored(mirror, taken.bundle.key).unlink()
        return encode(taken)

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "encode", asleep)
        takeover = "update lease set owner = 'another', fence = nextval('lease_fence')"
        patched.setattr(failpoints, "reached", lambda step: None)
        fetched = snapshot.build_part

        @asynccontextmanager
        async def slowly(*args: Any, **kwargs: Any) -> AsyncIterator[snapshot.BuiltPart]:
            async with fetched(*args, **kwargs) as gathered:
                await mirror.services.db.execute(takeover)
                yield gathered

        patched.setattr(snapshot, "build_part", slowly)
        with pytest.raises(Busy):
            await mirror.backup(work)
    await mirror.services.db.execute("update lease set owner = null")
    again = await mirror.backup(work)
    assert again.snapshot.number == 2
    assert (await verify.verify(mirror.services, done.repo)).problems == ()


async def test_a_push_that_wrote_nothing_is_not_called_verified(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    done = await mirror.backup(work)
    target = make_work("target.git")
    hook = target.path / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    result = await restore.to_remote(mirror.services, done.repo, done.snapshot, Remote(str(target.path)))
    assert {ref.result for ref in result.refs} == {"refused"}
    assert not result.verified


async def test_a_ref_that_appears_in_the_target_meanwhile_is_not_moved(
    mirror: Mirror, work: Work, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = work.commit()
    work.commit()
    done = await mirror.backup(work)
    target = make_work("target.git")

    def meanwhile(step: str) -> None:
        if step == "restore: pool filled":
            assert target.commit() == first

    monkeypatch.setattr(failpoints, "reached", meanwhile)
    result = await restore.to_remote(mirror.services, done.repo, done.snapshot, Remote(str(target.path)))
    assert [(ref.name, ref.result) for ref in result.refs] == [
        (b"HEAD", "skipped"),
        (b"refs/heads/main", "refused"),
    ][-len(result.refs) :]
    assert refs_of(target.path)[RefName(b"refs/heads/main")] == first


async def test_an_empty_repository_that_changes_its_format_comes_back_at_every_moment(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    await mirror.backup(work)
    other = make_work("other.git", object_format="sha256")
    other.commit()
    shutil.rmtree(work.path)
    other.path.rename(work.path)
    done = await mirror.backup(work)
    assert done.snapshot.number == 2
    assert (await verify.verify(mirror.services, done.repo)).problems == ()
    await mirror.restored(done.repo, 1)
    fsck(await mirror.restored(done.repo, 2))
    await lose_the_database(mirror)
    await rebuild.rebuild(mirror.services)
    fsck(await mirror.restored(done.repo, 2))


async def test_symbolic_refs_in_a_circle_keep_the_objects_that_the_remote_lists(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = work.commit()
    other = work.commit("other", parents=[])
    circle = {
        b"HEAD": b"HEAD",
        b"refs/heads/main": b"refs/heads/other",
        b"refs/heads/other": b"refs/heads/main",
    }

    honest = Reading.done

    def turning(self: Reading) -> Listing:
        self.point(circle)
        return honest(self)

    monkeypatch.setattr(Reading, "done", turning)
    done = await mirror.backup(work)
    found = await mirror.refs(done.repo, 1)
    assert found == {HEAD: tip, RefName(b"refs/heads/main"): tip, RefName(b"refs/heads/other"): other}


async def test_a_repo_is_protected_as_of_the_question_and_not_of_what_came_after_the_answer(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Upstream.ls_refs
    answered = mirror.clock.now

    async def then_asleep(self: Upstream) -> Listing:  # the lid is closed, and somebody pushes
        nonlocal answered
        listing = await honest(self)
        answered = mirror.clock.now
        mirror.clock.now += timedelta(hours=5)
        return listing

    monkeypatch.setattr(Upstream, "ls_refs", then_asleep)
    work.commit()
    for new in (True, False):
        assert (await mirror.backup(work)).new is new
        (kept,) = await repos.overview(mirror.services.db)
        assert kept.protected_as_of and kept.protected_as_of <= answered


async def test_a_pool_that_knew_another_history_is_not_taken_for_a_copy_of_this_one(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    vault, pool = stored(mirror, ""), mirror.services.disk.pool(repo.id)
    shutil.copytree(vault, tmp_path / "vault")
    tip = work.commit("main", {"kept": b"on one disk"})
    await mirror.backup(work)
    shutil.move(pool, tmp_path / "pool")
    shutil.rmtree(vault)  # the store failed, and its own copy of yesterday took its place
    shutil.move(tmp_path / "vault", vault)
    await lose_the_database(mirror)
    await rebuild.rebuild(mirror.services)
    work.commit("main", {"another": b"second snapshot"}, parents=[])
    assert (await mirror.backup(work)).snapshot.number == 2
    shutil.rmtree(pool)
    shutil.move(tmp_path / "pool", pool)  # a worker that slept through all of it
    work.set("refs/heads/back", tip)
    done = await mirror.backup(work)
    assert (await verify.verify(mirror.services, repo)).problems == ()
    assert await mirror.refs(repo, done.snapshot.number) == work.refs()
