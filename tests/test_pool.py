"""The pool grows by whole packs, survives what killed runs leave, and loses no object."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from mirror.core.errors import Busy, EverrefError, LimitReached
from mirror.core.model import ObjectFormat
from mirror.git import pack
from mirror.git import pool as git_pool
from mirror.git.pool import REPACK_AT, Pool
from mirror.git.run import Git
from mirror.git.view import scratch_view
from tests.parts.packs import FORMATS, packed_ids, sent, stream
from tests.parts.repos import Work, fsck, objects_of, run_git


@pytest_asyncio.fixture
async def held(git: Git, tmp_path: Path) -> AsyncIterator[Pool]:
    """An empty pool whose lock we hold."""
    pool = Pool(git, tmp_path / "pools/one.git", "sha1")
    async with pool.lock():
        await pool.open_or_create()
        yield pool


async def grow(git: Git, pool: Pool, work: Work, room: Path, *, commits: int = 1) -> None:
    """Take over new commits of a remote, each as a push of its own."""
    for _ in range(commits):
        known = [work.tip()] if b"refs/heads/main" in work.refs() else []
        new = work.commit("main", {"file": os.urandom(64).hex().encode()})
        async with scratch_view(pool, room) as incoming:
            data = sent(work, [new], known)
            arrived = await pack.index(
                git,
                incoming.path,
                stream(data),
                pack.Indexing(self_contained=False, fix_thin=True, object_format=pool.object_format),
            )
            await pool.adopt([arrived])


async def test_a_pool_holds_what_it_adopted(git: Git, held: Pool, work: Work, tmp_path: Path) -> None:
    await grow(git, held, work, tmp_path / "room", commits=3)
    assert packed_ids(held.path) == objects_of(work.path)
    assert list((tmp_path / "room").iterdir()) == []
    fsck(held.path)


async def test_the_mark_says_what_it_holds(held: Pool) -> None:
    assert await held.mark() is None
    await held.set_mark(1, 12, "sum")
    await held.set_mark(2, 13, "sum")
    assert await held.mark() == (2, 13, "sum")


async def test_after_a_restart_of_the_machine_the_packs_are_read_once(
    git: Git, held: Pool, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grow(git, held, work, tmp_path / "room")
    await held.set_mark(1, 1, "sum")
    read: list[Path] = []

    def is_whole(idx: Path) -> bool:
        read.append(idx)
        return True

    monkeypatch.setattr(git_pool, "_boot", lambda: "another-start")
    monkeypatch.setattr(git_pool, "is_whole", is_whole)
    reader = Pool(git, held.path, "sha1")
    assert await reader.mark() == await held.mark() == (1, 1, "sum")
    assert len(read) == 2  # a reader changes nothing
    assert await reader.mark() == await held.mark() == (1, 1, "sum")
    assert len(read) == 2


@pytest.mark.parametrize("text", ["", "1", "one two\n", "1 2 3 4 5", "1 x 3 4"])
async def test_a_mark_that_cannot_be_read_says_nothing(held: Pool, text: str) -> None:
    await held.set_mark(1, 12, "sum")
    (held.path / "everref-mark").write_text(text)
    assert await held.mark() is None


async def test_an_open_pool_is_left_as_it_is(git: Git, held: Pool, work: Work, tmp_path: Path) -> None:
    await grow(git, held, work, tmp_path / "room")
    await held.set_mark(1, 1, "sum")
    await held.open_or_create()
    assert await held.mark() == (1, 1, "sum")
    assert packed_ids(held.path) == objects_of(work.path)


@pytest.mark.parametrize("damage", ["of sha256", "config lost", "a file"])
async def test_what_is_no_pool_of_ours_is_made_anew(git: Git, held: Pool, damage: str) -> None:
    await held.set_mark(1, 1, "sum")
    if damage == "of sha256":
        other = Pool(git, held.path, "sha256")
        other._lock = held._lock
        await other.open_or_create()
        assert await other.mark() is None
        await held.open_or_create()
    elif damage == "config lost":
        (held.path / "config").unlink()
        await held.open_or_create()
    else:
        await held.destroy()
        held.path.write_text("in the way")
        await held.open_or_create()
    assert await held.mark() is None
    assert run_git("--git-dir", held.path, "rev-parse", "--show-object-format") == b"sha1\n"
    assert [path.name for path in held.path.parent.iterdir() if path.name.startswith(".")] == []


async def test_an_emptied_pool_holds_nothing(git: Git, held: Pool, work: Work, tmp_path: Path) -> None:
    await grow(git, held, work, tmp_path / "room", commits=2)
    await held.set_mark(1, 2, "sum")
    await held.empty()
    assert (await held.mark(), packed_ids(held.path)) == (None, set())


async def test_a_destroyed_pool_is_gone(git: Git, held: Pool, work: Work, tmp_path: Path) -> None:
    await grow(git, held, work, tmp_path / "room")
    await held.destroy()
    assert [path.name for path in held.path.parent.iterdir()] == ["one.git.lock"]
    await held.destroy()


async def test_what_a_killed_run_left_is_cleaned(git: Git, held: Pool, work: Work, tmp_path: Path) -> None:
    await grow(git, held, work, tmp_path / "room", commits=2)
    whole = set(held.path.rglob("*"))
    folder = held.path / "objects/pack"
    left = ["tmp_pack_a", "tmp_idx_b", "tmp_rev_c", ".tmp-12-pack-1.pack", "multi-pack-index.lock"]
    left += ["pack-1.pack", "pack-2.idx", "pack-3.rev", "pack-4.bitmap"]
    for name in left:
        (folder / name).write_bytes(b"x")
    for lock in ("packed-refs.lock", "everref-mark.lock", "config.lock", "objects/info/alternates.lock"):
        (held.path / lock).write_bytes(b"x")
    await held.clean()
    assert set(held.path.rglob("*")) == whole
    fsck(held.path)


async def test_cleaning_keeps_what_git_put_beside_a_pack(
    git: Git, held: Pool, work: Work, tmp_path: Path
) -> None:
    await grow(git, held, work, tmp_path / "room")
    (idx,) = (held.path / "objects/pack").glob("*.idx")
    for suffix in (".rev", ".keep"):
        idx.with_suffix(suffix).write_bytes(b"x")
    await held.clean()
    assert idx.with_suffix(".rev").exists() and idx.with_suffix(".keep").exists()


# Repacking


@FORMATS
async def test_a_repack_loses_no_object(git: Git, tmp_path: Path, object_format: ObjectFormat) -> None:
    work = Work(tmp_path / "remote", object_format)
    pool = Pool(git, tmp_path / "pool", object_format)
    async with pool.lock():
        await pool.open_or_create()
        await grow(git, pool, work, tmp_path / "room", commits=REPACK_AT - 1)
        assert not await pool.repack_if_due()
        work.commit("orphan", {"alone": b"1\n"}, parents=[])  # no ref of the remote's main reaches it
        work.tag("tree", work.tree({b"x": (b"100644", work.blob(b"only here"))}))
        async with scratch_view(pool, tmp_path / "room") as incoming:
            data = sent(work, [work.tip("orphan"), work.tip("refs/tags/tree")])
            arrived = await pack.index(
                git,
                incoming.path,
                stream(data),
                pack.Indexing(self_contained=True, fix_thin=False, object_format=object_format),
            )
            await pool.adopt([arrived])
        before = packed_ids(pool.path)
        assert before == objects_of(work.path)
        assert await pool.repack_if_due()
        assert packed_ids(pool.path) == before
        assert len(list((pool.path / "objects/pack").glob("*.pack"))) < REPACK_AT
        assert not await pool.repack_if_due()
    fsck(pool.path)


async def test_a_view_reads_on_while_its_pool_is_repacked(
    git: Git, held: Pool, work: Work, tmp_path: Path
) -> None:
    await grow(git, held, work, tmp_path / "room", commits=REPACK_AT)
    async with (
        scratch_view(held, tmp_path / "room") as reader,
        git.process("cat-file", "--batch-check", git_dir=str(reader.path)) as child,
    ):
        await child.stdin.write(work.tip() + b"\n")
        assert b"commit" in await child.stdout.read()
        assert await held.repack_if_due()
        await child.stdin.write(b"\n".join(sorted(objects_of(work.path))) + b"\n")
        child.stdin.close()
        answer = b"".join([chunk async for chunk in child.stdout])
    assert len(answer.splitlines()) == len(objects_of(work.path))
    assert b"missing" not in answer


async def test_a_repack_that_dies_on_the_way_loses_nothing(
    git: Git, held: Pool, work: Work, tmp_path: Path
) -> None:
    await grow(git, held, work, tmp_path / "room", commits=REPACK_AT)
    before = packed_ids(held.path)
    cramped = tmp_path / "cramped-git"  # limited from its first moment on, and so whatever it starts
    cramped.write_text('#!/bin/sh\nulimit -f 1\nexec git "$@"\n')
    cramped.chmod(0o755)
    held._git = Git(str(cramped), str(tmp_path))
    with pytest.raises(EverrefError):
        await held.repack_if_due()
    assert list((held.path / "objects/pack").glob("tmp_pack_*"))
    await held.clean()
    assert packed_ids(held.path) == before
    assert {path.suffix for path in (held.path / "objects/pack").iterdir()} == {".pack", ".idx"}
    fsck(held.path)


# The lock


async def test_the_lock_has_one_holder(git: Git, held: Pool) -> None:
    other = Pool(git, held.path, "sha1")
    with pytest.raises(Busy, match=r"another run is using one\.git; try again when that run has ended"):
        async with other.lock(patience=0):
            pass


async def test_who_waits_for_the_lock_gets_it_when_it_is_free(git: Git, held: Pool) -> None:
    other = Pool(git, held.path.with_name("two.git"), "sha1")
    order = []

    async def use(name: str) -> None:
        async with Pool(git, other.path, "sha1").lock():
            order.append(name)

    async with other.lock():
        waiting = [asyncio.create_task(use(name)) for name in "ab"]
        await asyncio.sleep(0)
        order.append("first")
    await asyncio.gather(*waiting)
    assert order[0] == "first" and sorted(order[1:]) == ["a", "b"]


async def test_who_stops_waiting_for_the_lock_does_not_get_it(git: Git, held: Pool) -> None:
    waiting = asyncio.create_task(Pool(git, held.path, "sha1").lock().__aenter__())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


@pytest.mark.parametrize(
    "change", ["open_or_create", "clean", "repack_if_due", "empty", "destroy"], ids=lambda name: str(name)
)
async def test_a_pool_is_changed_under_its_lock_only(git: Git, tmp_path: Path, change: str) -> None:
    with pytest.raises(AssertionError, match="lock must be held"):
        await getattr(Pool(git, tmp_path / "pool", "sha1"), change)()


@contextmanager
def holding(lock: Path) -> Iterator[None]:
    """Another process holds a lock, and is killed at the end."""
    script = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline() == b"1\n"
        yield
        other.kill()


async def test_no_repack_runs_while_another_process_holds_the_lock(
    git: Git, work: Work, tmp_path: Path
) -> None:
    pool = Pool(git, tmp_path / "pool", "sha1")
    async with pool.lock():
        await pool.open_or_create()
        await grow(git, pool, work, tmp_path / "room", commits=REPACK_AT)
    packs = sorted((pool.path / "objects/pack").iterdir())
    with holding(pool.path.with_name("pool.lock")):
        with pytest.raises(Busy):
            async with pool.lock(patience=0):
                await pool.repack_if_due()
        assert sorted((pool.path / "objects/pack").iterdir()) == packs
    async with pool.lock(patience=0):  # who dies lets go
        assert await pool.repack_if_due()


async def test_a_full_disk_is_one_clear_line(
    git: Git, held: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LimitReached, match="No space left on device; free some space"):
        await held.set_mark(1, 1, "sum")
    assert await held.mark() is None


async def test_a_mark_of_an_earlier_boot_counts_while_every_pack_is_whole(held: Pool, work: Work) -> None:
    work.many_commits(3)
    work.repack()
    packs = held.path / "objects/pack"
    for file in (work.path / "objects/pack").iterdir():
        shutil.copy(file, packs / file.name)
    mark = held.path / "everref-mark"
    mark.write_text("1 2 sum another-boot\n")
    assert await held.mark() == (1, 2, "sum")
    (pack,) = packs.glob("*.pack")
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(content)
    mark.write_text("1 2 sum another-boot\n")
    assert await held.mark() is None
