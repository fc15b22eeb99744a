"""Histories made to cost a sync more than their bytes: it looks no further, and saves them all the same."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.backup.sync import sync
from mirror.core.errors import LimitReached, TooLarge
from mirror.core.model import Kind, ObjectFormat, RefName, Target
from mirror.git import lfs, pack, read, view
from mirror.git.run import Git
from mirror.git.view import scratch_view
from mirror.store.backup import history
from tests.parts import bombs
from tests.parts.everref import Mirror
from tests.parts.packs import FORMATS, pack_of, stream
from tests.parts.repos import MAIN, Work, refs_of
from tests.test_read import pool_of, take

MIB = 1 << 20


async def pool_with(git: Git, path: Path, data: bytes, object_format: ObjectFormat) -> Path:
    """A repository of ours that holds this pack."""
    await view.create(path, object_format)
    await pack.index(
        git,
        path,
        stream(data),
        pack.Indexing(self_contained=False, fix_thin=False, object_format=object_format),
    )
    return path


async def test_a_parent_that_is_named_many_times_is_one_parent_and_costs_no_memory(
    git: Git, tmp_path: Path, work: Work
) -> None:
    line = bombs.many_times_one_parent(work, 6)
    pool = await pool_of(git, work, tmp_path / "pool", line[:1])
    async with scratch_view(pool, tmp_path) as incoming:
        idx = await take(git, incoming.path, work, pack_of(work, line[1:]))
        gc.collect()
        tracemalloc.start()
        try:
            boundary = await read.new_commits_boundary(incoming.path, line[-1:], idx)
            found = await read.ancestry(git, incoming.path, [(MAIN, line[0], line[-1])])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert boundary == {line[0]}
    assert found.forward == {MAIN}
    assert peak < 16 * MIB


def test_a_commit_has_each_parent_once_and_not_too_many() -> None:
    def commit(parents: list[bytes]) -> bytes:
        lines = b"".join(b"parent %b\n" % parent for parent in parents)
        return b"tree %b\n%bauthor a <a@b> 7 +0000\ncommitter a <a@b> 9 +0000\n\nx" % (b"0" * 40, lines)

    assert read._parsed(commit([b"1" * 40, b"2" * 40, b"1" * 40])) == (9, (b"1" * 40, b"2" * 40))
    assert read._parsed(commit([])) == (9, ())
    assert read._parsed(commit([b"1" * 40])[:100]) == (0, (b"1" * 40,))
    with pytest.raises(TooLarge, match="parents"):
        read._parsed(commit([b"%040x" % number for number in range(read.PARENTS + 1)]))


@FORMATS
@pytest.mark.parametrize("link", [0, 40 * MIB], ids=["a large base", "a large step between"])
async def test_what_is_a_small_difference_from_something_large_is_not_unpacked(
    git: Git, tmp_path: Path, object_format: ObjectFormat, link: int
) -> None:
    work = Work(tmp_path / "work", object_format)
    size = 1000 if link else 40 * MIB
    data, ids = bombs.differences_from_a_large_commit(work, 3, size, link)
    path = await pool_with(git, tmp_path / "pool", data, object_format)
    gc.collect()
    tracemalloc.start()
    try:
        with read.opened(path, read.Look()) as held:
            for oid in ids[-3:]:
                assert held.kind(oid) == read.COMMIT
                with pytest.raises(TooLarge, match="delta of something"):
                    held.commit(oid)
                with pytest.raises(TooLarge, match="delta of something"):
                    held.beginning(oid, 100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB  # libgit2's memory is not in this, which the refusal is for
    assert not await lfs.are_likely(path, object_format, ids[-3:])
    assert await read.haves(path, ids[-3:], 10) == ids[-3:]
    moves = [(MAIN, ids[0], ids[-1]), (RefName(b"refs/heads/other"), ids[-1], ids[-1])]
    found = await read.ancestry(git, path, moves)
    assert found.untold == {MAIN} and found.forward == {b"refs/heads/other"}
    assert found.commits == {MAIN, b"refs/heads/other"}


async def test_many_objects_that_each_cost_a_little_less_are_not_all_unpacked(
    git: Git, tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "LOOK_BYTES", 16 * MIB)
    data, ids = bombs.differences_from_a_large_commit(work, 20, 4 * MIB)
    path = await pool_with(git, tmp_path / "pool", data, "sha1")
    read_whole = 0
    with read.opened(path, read.Look()) as held, pytest.raises(LimitReached, match="too much"):
        for oid in ids[1:]:
            held.commit(oid)
            read_whole += 1
    assert read_whole == 4
    moves = [(RefName(b"refs/heads/%d" % n), ids[n], ids[0]) for n in range(1, 20)]
    found = await read.ancestry(git, path, moves)
    assert len(found.untold) == 19


async def test_a_walk_has_an_end(
    git: Git, tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.many_commits(50)
    line = [Target(oid) for oid in work.git("rev-list", "main").split()]
    pool = await pool_of(git, work, tmp_path / "pool", line[-1:])
    monkeypatch.setattr(read, "WALKED", 30)
    async with scratch_view(pool, tmp_path) as incoming:
        idx = await take(git, incoming.path, work, pack_of(work, line[:-1]))
        with pytest.raises(LimitReached, match="commits came at once"):
            await read.new_commits_boundary(incoming.path, line[:1], idx)


async def test_a_branch_that_jumps_far_went_forward_as_git_says(
    git: Git, tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.many_commits(50)
    line = [Target(oid) for oid in work.git("rev-list", "main").split()]
    other = work.commit("other", parents=line[-1:])
    path = (await pool_of(git, work, tmp_path / "pool", [line[0], other])).path
    near, forced, merged = (RefName(b"refs/heads/" + name) for name in (b"near", b"forced", b"back"))
    moves = [(near, line[2], line[0]), (MAIN, line[-1], line[0])]
    moves += [(forced, other, line[0]), (merged, line[0], line[-1])]
    monkeypatch.setattr(read, "JUDGED", 30)
    found = await read.ancestry(git, path, moves)
    assert found.forward == {near, MAIN} and not found.untold
    monkeypatch.setattr(read, "FAR_SECONDS", 0)
    found = await read.ancestry(git, path, moves)
    assert found.forward == {near} and found.untold == {MAIN, forced, merged}


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
async def test_what_cannot_be_looked_at_is_saved_all_the_same(
    mirror: Mirror, make_work: Callable[..., Work], object_format: ObjectFormat
) -> None:
    """First and later: what went forward cannot be told, and counts as overwritten."""
    work = make_work("w.git", object_format=object_format)
    plain = work.commit("plain")
    data, ids = bombs.differences_from_a_large_commit(work, 5, 20 * MIB)
    work.git("index-pack", "--stdin", stdin=data)
    work.set("refs/heads/main", ids[0])
    for number, oid in enumerate(ids[1:]):
        work.set(f"refs/heads/b{number}", oid)
    done = await mirror.backup(work)
    assert await history.refs_at(mirror.services.db, done.repo.id, 1) == work.refs()
    on_top = work.commit_object(work.tree({}), [ids[1]], "on top of what cannot be looked at")
    work.set("refs/heads/b0", on_top)
    work.set("refs/heads/b1", work.commit_object(work.tree({}), [plain], "elsewhere"))
    after = work.commit("plain")
    again = await sync(mirror.services, done.repo.id)
    assert again.new and await history.refs_at(mirror.services.db, done.repo.id, 2) == work.refs()
    changes = [
        one.change async for one in history.changes(mirror.services.db, done.repo.id) if one.snapshot == 2
    ]
    kinds = {one.name: one.kind for one in changes}
    assert kinds[RefName(b"refs/heads/plain")] is Kind.FAST_FORWARDED and after != plain
    assert kinds[RefName(b"refs/heads/b1")] is Kind.FORCED


async def test_where_the_new_history_cannot_be_walked_the_old_tips_are_what_it_stands_on(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    done = await mirror.backup(work)
    for _ in range(20):
        work.commit()
    monkeypatch.setattr(read, "WALKED", 10)
    again = await sync(mirror.services, done.repo.id)
    assert again.new and await history.refs_at(mirror.services.db, done.repo.id, 2) == work.refs()
    assert refs_of(await mirror.restored(done.repo, 2)) == work.refs()
