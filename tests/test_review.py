"""What went wrong once in thought: crashes between two effects, lost answers, clocks and disks that lie."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mirror import layout
from mirror.errors import Corrupt
from mirror.flows import compact, moment, prune, rebuild, restore, settle, verify
from mirror.model import Remote, Repo
from mirror.store import parts, repos
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of


def stored(mirror: Mirror, key: str) -> Path:
    """Where the directory vault keeps an object."""
    return Path(mirror.edges.settings.data) / "vault" / key


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
    return await prune.prune(mirror.edges, timedelta(0), repo)


async def lose_the_database(mirror: Mirror) -> None:
    await mirror.edges.db.execute("truncate repo cascade")
    await mirror.edges.db.execute("truncate ref cascade")
    await mirror.edges.db.execute("truncate ref_change")


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
    assert (await verify.verify(mirror.edges, done.repo)).problems == ()


async def test_a_rebuild_killed_halfway_leaves_merged_parts_alone(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await ten_pushes(mirror, work)
    await compact.compact(mirror.edges, repo)
    await prune_at_once(mirror, repo)
    keys = await mirror.keys()
    await lose_the_database(mirror)

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(rebuild, "_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            await rebuild.rebuild(mirror.edges)
    with pytest.raises(Corrupt, match="everref rebuild"):
        await prune_at_once(mirror, repo)
    assert await mirror.keys() == keys
    await rebuild.rebuild(mirror.edges)
    await prune_at_once(mirror, repo)
    assert (await verify.verify(mirror.edges, repo)).problems == ()


async def test_a_rebuild_chooses_one_of_two_parts_with_the_same_range(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await ten_pushes(mirror, work)

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # a compaction that died with its machine: nobody discards at once
        patched.setattr(parts, "replace", killed)
        patched.setattr(settle, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            await compact.compact(mirror.edges, repo)
    await compact.compact(mirror.edges, repo)
    for grave in await parts.tombstones(mirror.edges.db, repo.id):
        await mirror.edges.vault.delete(grave.key)
    await lose_the_database(mirror)
    await rebuild.rebuild(mirror.edges)
    assert (await verify.verify(mirror.edges, repo)).problems == ()
    assert refs_of(await mirror.restored(repo, 10)) == work.refs()


async def test_a_rebuild_names_the_manifest_that_is_missing_in_the_middle(mirror: Mirror, work: Work) -> None:
    repo = await ten_pushes(mirror, work)
    await lose_the_database(mirror)
    missing = stored(mirror, layout.manifest_key(repo.id, 4))
    shutil.move(missing, missing.parents[2] / "aside")
    keys = await mirror.keys()
    with pytest.raises(Corrupt, match="0000000004.json is missing"):
        await rebuild.rebuild(mirror.edges)
    assert await mirror.keys() == keys
    assert await repos.all(mirror.edges.db) == []  # a backup now begins a repo of its own
    shutil.move(missing.parents[2] / "aside", missing)
    await rebuild.rebuild(mirror.edges)
    assert (await verify.verify(mirror.edges, repo)).problems == ()


async def test_a_database_that_knows_less_than_the_vault_prunes_nothing(mirror: Mirror, work: Work) -> None:
    repo = await ten_pushes(mirror, work)
    for statement in (
        "delete from ref_change where snapshot > 3",
        "delete from ref_stay where first_snapshot > 3",
        "update ref_stay set last_snapshot = null where last_snapshot = 3",
        "delete from snapshot where number > 3",
        "delete from part where last_snapshot > 3",
    ):
        await mirror.edges.db.execute(statement)
    missing = stored(mirror, layout.manifest_key(repo.id, 4))
    shutil.move(missing, missing.parents[2] / "aside")
    keys = await mirror.keys()
    with pytest.raises(Corrupt, match="0000000004.json is missing"):
        await prune_at_once(mirror, repo)
    assert await mirror.keys() == keys
    shutil.move(missing.parents[2] / "aside", missing)
    await prune_at_once(mirror, repo)
    assert (await verify.verify(mirror.edges, repo)).problems == ()


async def test_a_foreign_object_in_the_vault_does_not_stop_a_rebuild(mirror: Mirror, work: Work) -> None:
    work.commit()
    done = await mirror.backup(work)
    await mirror.edges.vault.put("elsewhere/repo.json", b"{}")
    await lose_the_database(mirror)
    assert [found.repo.id for found in await rebuild.rebuild(mirror.edges)] == [done.repo.id]


async def test_a_repo_that_cannot_be_rebuilt_does_not_stop_the_others(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    works = [work, make_work("second.git"), make_work("third.git")]
    done = [(await mirror.backup(one)) for one in works if one.commit()]
    victim = min(done, key=lambda one: one.repo.id.hex).repo
    stored(mirror, layout.manifest_key(victim.id, 1)).write_bytes(b"{}")
    await lose_the_database(mirror)
    with pytest.raises(Corrupt):
        await rebuild.rebuild(mirror.edges)
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
    found = await moment.snapshot_at(mirror.edges, first.repo, first.snapshot.taken_at + timedelta(hours=1))
    assert found.number == 2


@pytest.mark.parametrize("damage", ["flipped", "index gone", "both gone", "cut"])
async def test_a_damaged_pool_is_thrown_away_and_the_sync_goes_on(
    mirror: Mirror, work: Work, damage: str
) -> None:
    work.many_commits(20, size=5000)
    await mirror.backup(work)
    work.many_commits(5, "main", size=5000)
    done = await mirror.backup(work)
    packs = mirror.edges.disk.pool(done.repo.id) / "objects/pack"
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
    assert (await verify.verify(mirror.edges, done.repo)).problems == ()
    path = await mirror.restored(done.repo, 3)
    assert refs_of(path) == work.refs()
    fsck(path)


async def test_a_damaged_pool_does_not_stop_a_restore_to_a_remote(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.many_commits(20, size=5000)
    done = await mirror.backup(work)
    (pack,) = (mirror.edges.disk.pool(done.repo.id) / "objects/pack").glob("*.pack")
    pack.chmod(0o644)
    content = bytearray(pack.read_bytes())
    for place in range(1000, len(content), 1000):
        content[place] ^= 1
    pack.write_bytes(content)
    target = make_work("target.git")
    result = await restore.to_remote(mirror.edges, done.repo, done.snapshot, Remote(str(target.path)))
    assert result.verified and refs_of(target.path) == work.refs()
    fsck(target.path)
