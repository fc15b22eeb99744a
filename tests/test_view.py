"""A view is an ordinary bare repository: git reads from it what was written, name by name."""

import asyncio
from pathlib import Path

import pytest

from mirror.core.errors import Corrupt, LimitReached, Refused
from mirror.core.model import HEAD, ObjectFormat, RefName, Target
from mirror.git import pack, view
from mirror.git.pool import Pool
from mirror.git.run import Git
from mirror.git.view import scratch_view
from tests.parts.packs import FORMATS, sent, stream
from tests.parts.repos import ODD_NAMES, Work, fsck, objects_of, refs_of, run_git


async def fill(git: Git, path: Path, work: Work) -> None:
    """Every object of a remote."""
    tips = sorted(set(work.git("for-each-ref", "--format=%(objectname)").split()))
    data = sent(work, [Target(tip) for tip in tips])
    await pack.index(
        git,
        path,
        stream(data),
        pack.Indexing(self_contained=True, fix_thin=False, object_format=work.object_format),
    )


def any_in(folder: Path) -> bool:
    return any(folder.iterdir())


@FORMATS
async def test_every_ref_of_a_remote_comes_back_as_it_was(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "zoo", object_format)
    work.zoo()
    await view.create(tmp_path / "copy", object_format)
    await fill(git, tmp_path / "copy", work)
    await view.write_refs(tmp_path / "copy", work.refs())
    assert refs_of(tmp_path / "copy") == work.refs()
    assert objects_of(tmp_path / "copy") == objects_of(work.path)
    fsck(tmp_path / "copy")


@FORMATS
async def test_stock_git_clones_a_view_over_a_pool(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "zoo", object_format)
    work.zoo()
    pool = Pool(git, tmp_path / "pool # 1.git", object_format)
    async with pool.lock():
        await pool.open_or_create()
        await fill(git, pool.path, work)
    async with scratch_view(pool, tmp_path / "room") as moment:
        await view.write_refs(moment.path, work.refs(), durable=False)
        run_git("clone", "-q", "--mirror", "--no-local", moment.path, tmp_path / "clone")
    expected = {name: target for name, target in work.refs().items() if not target.startswith(b"ref: ")}
    cloned = refs_of(tmp_path / "clone")
    assert expected.items() <= cloned.items()
    assert cloned[HEAD] == work.refs()[HEAD]
    fsck(tmp_path / "clone")


@pytest.mark.parametrize(
    "head",
    [Target(b"ref: refs/heads/side"), Target(b"ref: refs/heads/unborn"), None, "detached"],
    ids=["symbolic", "unborn", "untold", "detached"],
)
async def test_head_is_written_as_it_was(
    git: Git, tmp_path: Path, work: Work, head: Target | str | None
) -> None:
    tip = work.commit("side")
    await view.create(tmp_path / "copy", "sha1")
    await fill(git, tmp_path / "copy", work)
    target = Target(tip) if head == "detached" else head
    refs = {RefName(b"refs/heads/side"): tip}
    if target is not None:
        refs[HEAD] = Target(target if isinstance(target, bytes) else target.encode())
    await view.write_refs(tmp_path / "copy", refs)
    assert refs_of(tmp_path / "copy") == {HEAD: view.UNBORN, **refs}


async def test_refs_in_any_bytes_are_written_side_by_side(git: Git, tmp_path: Path, work: Work) -> None:
    tip = work.commit()
    names = [*ODD_NAMES, RefName(b"refs/heads/" + b"n" * 4000), RefName(b"refs/heads/\x80")]
    await view.create(tmp_path / "copy", "sha1")
    await fill(git, tmp_path / "copy", work)
    await view.write_refs(tmp_path / "copy", dict.fromkeys(names, tip))
    assert refs_of(tmp_path / "copy").keys() == {*names, HEAD}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (b"refs/heads/a\n" + b"1" * 40 + b" refs/heads/b", b"1" * 40),
        (b"refs/../../outside", b"ref: refs/heads/main"),
        (b"refs/heads/x", b"ref: ../config"),
        (b"HEAD", b"ref: config"),
    ],
    ids=["line feed", "out of the view", "symbolic to outside", "HEAD to outside"],
)
async def test_a_name_that_would_write_elsewhere_is_corrupt(
    tmp_path: Path, name: bytes, target: bytes
) -> None:
    await view.create(tmp_path / "copy", "sha1")
    with pytest.raises(Corrupt):
        await view.write_refs(tmp_path / "copy", {RefName(name): Target(target)})
    assert not (tmp_path / "outside").exists()


@FORMATS
async def test_a_view_without_refs_is_an_empty_repository(
    tmp_path: Path, object_format: ObjectFormat
) -> None:
    async with scratch_view(None, tmp_path, object_format=object_format) as empty:
        answer = run_git("--git-dir", empty.path, "rev-parse", "--is-bare-repository", "--show-object-format")
        assert answer.split() == [b"true", object_format.encode()]
        assert refs_of(empty.path) == {HEAD: view.UNBORN}


async def test_nothing_is_left_of_a_view_when_its_block_ends(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        async with scratch_view(None, tmp_path, object_format="sha1") as gone:
            (gone.objects / "pack/tmp_pack_1").write_bytes(b"x")
            raise RuntimeError("stop")
    assert not any_in(tmp_path)


@pytest.mark.parametrize("steps", range(12))
async def test_nothing_is_left_of_a_view_that_is_cancelled_anywhere(tmp_path: Path, steps: int) -> None:
    async def use() -> None:
        async with scratch_view(None, tmp_path, object_format="sha1"):
            await asyncio.get_running_loop().create_future()

    using = asyncio.create_task(use())
    for _ in range(steps):
        await asyncio.sleep(0)
    using.cancel()
    await asyncio.wait([using])
    assert using.cancelled()
    assert not any_in(tmp_path)


async def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LimitReached, match=r"cannot write .*: Not a directory; free some space"):
        async with scratch_view(None, tmp_path / "file", object_format="sha1"):
            pass
    with pytest.raises(LimitReached, match="cannot write"):
        await view.create(tmp_path / "file/copy", "sha1")


async def test_a_directory_that_alternates_cannot_name_is_refused(git: Git, tmp_path: Path) -> None:
    pool = Pool(git, tmp_path / "line\nfeed", "sha1")
    with pytest.raises(Refused, match="has a line feed in its name; choose another one"):
        async with scratch_view(pool, tmp_path / "room"):
            pass
    assert not any_in(tmp_path / "room")


async def test_alternates_are_followed_to_the_last(git: Git, tmp_path: Path) -> None:
    pool = Pool(git, tmp_path / "pool", "sha1")
    async with pool.lock():
        await pool.open_or_create()
    async with scratch_view(pool, tmp_path) as one:
        view.lay_out(tmp_path / "two", "sha1", alternate=one.objects)
        found = view.object_folders(tmp_path / "two")
        assert found == [tmp_path / "two/objects", one.objects, pool.path / "objects"]
