"""Packs on their way: what is whole goes in, what is new comes out thin, and what is neither is found out."""

import asyncio
import hashlib
import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import Corrupt, LimitReached, NetworkError
from mirror.core.model import HEX_LENGTH, ObjectFormat, Target
from mirror.git import pack, view
from mirror.git.pack import IdxFile, Indexed, absent_from, proved
from mirror.git.pool import Pool
from mirror.git.run import Git, Limits
from mirror.git.view import View, scratch_view
from tests.parts.packs import FORMATS, gathered, ids_of, made_idx, pack_of, packed_ids, sent, stream
from tests.parts.repos import Work, fsck, objects_of, run_git


async def indexed(git: Git, view: View, data: bytes, *, self_contained: bool = False) -> Indexed:
    return await pack.index(
        git,
        view.path,
        stream(data),
        pack.Indexing(
            self_contained=self_contained, fix_thin=not self_contained, object_format=view.object_format
        ),
    )


async def pool_of(git: Git, work: Work, path: Path, tips: Sequence[Target]) -> Pool:
    """A pool with what these reach."""
    pool = Pool(git, path, work.object_format)
    async with pool.lock():
        await pool.open_or_create()
        async with scratch_view(pool, path.parent) as incoming:
            await pool.adopt([await indexed(git, incoming, sent(work, tips), self_contained=True)])
    return pool


def tips_of(work: Work) -> list[Target]:
    return sorted({target for target in work.refs().values() if not target.startswith(b"ref: ")})


# The first pack


@FORMATS
async def test_a_whole_pack_is_indexed_as_it_streams(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    work.zoo()
    data = sent(work, tips_of(work))
    async with scratch_view(None, tmp_path, object_format=object_format) as incoming:
        arrived = await indexed(git, incoming, data, self_contained=True)
        assert arrived.pack.read_bytes() == data
        assert arrived.pack_id == data[-HEX_LENGTH[object_format] // 2 :].hex()
        assert packed_ids(incoming.path) == ids_of(arrived.idx) == objects_of(work.path)


async def test_no_more_is_read_than_git_takes(git: Git, tmp_path: Path, work: Work) -> None:
    """A remote that sends for ever is stopped by the first byte that is no pack."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1 << 20
            yield b"\0" * (1 << 20)

    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        with pytest.raises(
            Corrupt, match="what the remote sent is not a complete pack: pack signature mismatch"
        ):
            await pack.index(
                git,
                incoming.path,
                endless(),
                pack.Indexing(self_contained=True, fix_thin=False, object_format="sha1"),
            )
    assert read < 1 << 25


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


def nothing(data: bytes) -> bytes:
    return b""


def no_trailer(data: bytes) -> bytes:
    return data[:-20]


def too_few(data: bytes) -> bytes:
    """A header that promises an object more, under a right checksum."""
    entries = struct.unpack(">I", data[8:12])[0]
    body = data[:8] + struct.pack(">I", entries + 1) + data[12:-20]
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


@pytest.mark.parametrize("harm", [cut, flipped, nothing, no_trailer, too_few], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("self_contained", [True, False], ids=["first", "later"])
async def test_what_is_no_whole_pack_is_corrupt(
    git: Git, tmp_path: Path, work: Work, harm: Callable[[bytes], bytes], self_contained: bool
) -> None:
    work.commit()
    data = harm(sent(work, [work.tip()]))
    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        with pytest.raises(Corrupt, match=r"^what the remote sent is not a complete pack: \w") as error:
            await indexed(git, incoming, data, self_contained=self_contained)
        assert "\n" not in str(error.value)
        assert packed_ids(incoming.path) == set()


async def test_the_source_of_a_broken_pack_is_named(git: Git, tmp_path: Path) -> None:
    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        with pytest.raises(Corrupt, match=r"^the bundle x is not a complete pack"):
            await pack.index(
                git,
                incoming.path,
                stream(b""),
                pack.Indexing(
                    self_contained=False, fix_thin=False, object_format="sha1", source="the bundle x"
                ),
            )


@FORMATS
@pytest.mark.parametrize("lost", ["blob", "tree", "parent", "tagged"])
async def test_a_first_pack_that_lacks_an_object_is_corrupt(
    git: Git, tmp_path: Path, object_format: ObjectFormat, lost: str
) -> None:
    work = Work(tmp_path / "remote", object_format)
    blob = work.blob(b"lost\n")
    first = work.commit()
    tip = work.commit("main", entries={b"dir/lost": (b"100644", blob)})
    work.tag("v1", message="signed off")
    tree = Target(work.git("rev-parse", f"{tip.decode()}:dir").strip())
    gone = {"blob": blob, "tree": tree, "parent": first, "tagged": tip}[lost]
    data = pack_of(work, sorted(objects_of(work.path) - {gone}))
    async with scratch_view(None, tmp_path, object_format=object_format) as incoming:
        with pytest.raises(
            Corrupt, match=f"is not a complete pack: did not receive expected object {gone.decode()}"
        ):
            await indexed(git, incoming, data, self_contained=True)


async def test_a_failing_source_fails_as_itself_and_git_is_stopped(git: Git, tmp_path: Path) -> None:
    closed = []

    async def breaking() -> AsyncIterator[bytes]:
        try:
            yield b"PACK"
            raise NetworkError("the connection broke")
        finally:
            closed.append(True)

    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        with pytest.raises(NetworkError, match="the connection broke"):
            await pack.index(
                git,
                incoming.path,
                breaking(),
                pack.Indexing(self_contained=True, fix_thin=False, object_format="sha1"),
            )
    assert closed == [True]


async def test_a_cancelled_index_closes_its_source(git: Git, tmp_path: Path) -> None:
    waiting, closed = asyncio.Event(), []

    async def hanging() -> AsyncIterator[bytes]:
        try:
            yield b"PACK"
            waiting.set()
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(True)

    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        running = asyncio.create_task(
            pack.index(
                git,
                incoming.path,
                hanging(),
                pack.Indexing(self_contained=True, fix_thin=False, object_format="sha1"),
            )
        )
        await waiting.wait()
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled() and closed == [True]


async def test_a_file_that_would_be_too_large_is_a_limit(tmp_path: Path, work: Work) -> None:
    work.commit("main", {"large": os.urandom(200_000)})
    small = Git("git", str(tmp_path), limits=Limits(file=100_000))
    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        with pytest.raises(LimitReached):
            await indexed(small, incoming, sent(work, [work.tip()]), self_contained=True)


async def test_a_full_disk_is_a_limit(tmp_path: Path, work: Work) -> None:
    """Git stands in for a full disk here: its words are what counts."""
    program = tmp_path / "git-on-a-full-disk"
    program.write_text(
        "#!/bin/sh\ncat >/dev/null\necho 'fatal: write error: No space left on device' >&2\nexit 128\n"
    )
    program.chmod(0o755)
    work.commit()
    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        with pytest.raises(LimitReached, match="the disk is full; nothing was changed; free some space"):
            await indexed(Git(str(program), str(tmp_path)), incoming, sent(work, [work.tip()]))


# Later parts


async def part_of(
    git: Git, pool: Pool, work: Work, tips: Sequence[Target], known: Sequence[Target]
) -> set[Target]:
    """What a sync of these tips would add to the log: its own objects, proved as a sync does."""
    async with (
        scratch_view(pool, pool.path.parent) as incoming,
        scratch_view(pool, pool.path.parent) as proof,
    ):
        received = await indexed(git, incoming, sent(work, tips, known))
        thin = await gathered(pack.make_thin(git, incoming.path, tips, known))
        if not thin:
            return set()
        end = len(thin) - HEX_LENGTH[work.object_format] // 2
        proven = await indexed(git, proof, thin)
        await pack.check_proof(received, proven, end)
        entries = struct.unpack(">I", thin[8:12])[0]
        with IdxFile(proven.idx) as found:
            own = set(found.iter_own(end))
        assert len(own) == entries
        return {Target(oid.hex().encode()) for oid in own}


@FORMATS
async def test_a_part_holds_what_is_new_and_nothing_else(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    first = work.commit("main", {"a": b"1\n" * 2000, "dir/b": b"2\n"})
    pool = await pool_of(git, work, tmp_path / "pool", [first])
    tip = work.commit("main", {"a": b"1\n" * 2000 + b"3\n"})
    new = objects_of(work.path) - packed_ids(pool.path)
    assert len(new) == 3  # commit, tree, blob
    assert await part_of(git, pool, work, [tip], [first]) == new


@FORMATS
async def test_what_comes_back_is_left_out(git: Git, tmp_path: Path, object_format: ObjectFormat) -> None:
    """A revert, and a branch made anew: trees and blobs that the pool has, reached by a ref or not."""
    work = Work(tmp_path / "remote", object_format)
    first = work.commit("main", {"a": b"1\n", "dir/b": b"2\n"})
    work.commit("main", {"a": b"changed\n", "dir/b": b"changed too\n"})
    gone = work.commit("gone", {"only": b"here\n"}, parents=[])
    pool = await pool_of(git, work, tmp_path / "pool", [work.tip(), gone])
    known = [work.tip()]
    revert = work.commit("main", {"a": b"1\n", "dir/b": b"2\n"})
    again = work.commit("again", {"only": b"here\n"}, parents=[])
    tree = b"^{tree}"
    assert work.git("rev-parse", revert + tree) == work.git("rev-parse", first + tree)
    assert work.git("rev-parse", again + tree) == work.git("rev-parse", gone + tree)
    assert await part_of(git, pool, work, [revert, again], known) == {revert, again}


async def test_what_the_remote_sends_again_is_left_out(git: Git, tmp_path: Path, work: Work) -> None:
    first = work.commit()
    pool = await pool_of(git, work, tmp_path / "pool", [first])
    tip = work.commit()
    async with scratch_view(pool, tmp_path) as incoming:
        await indexed(git, incoming, sent(work, [tip]))  # all of it, as if it had not heard what we have
        thin = await gathered(pack.make_thin(git, incoming.path, [tip], [first]))
    assert struct.unpack(">I", thin[8:12])[0] == 3


@FORMATS
async def test_tags_of_everything_are_in_the_part(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    first = work.commit("main", {"a": b"1\n"})
    pool = await pool_of(git, work, tmp_path / "pool", [first])
    old_tree = Target(work.git("rev-parse", first + b"^{tree}").strip())
    blob = work.blob(b"new\n")
    new_tree = work.tree({b"x": (b"100644", work.blob(b"in a tree\n"))})
    tips = [
        work.tag("commit", message="of an old commit"),
        work.tag("tree", old_tree, message="of an old tree"),
        work.tag("nested", work.tag("blob", blob, message="of a new blob"), message="of a tag"),
        work.tag("light-tree", new_tree),
        work.tag("light-blob", work.blob(b"light\n")),
    ]
    new = objects_of(work.path) - packed_ids(pool.path)
    assert len(new) == 4 + 1 + 2 + 1
    assert await part_of(git, pool, work, tips, [first]) == new


async def test_a_part_without_a_boundary_stands_alone(git: Git, tmp_path: Path, work: Work) -> None:
    pool = await pool_of(git, work, tmp_path / "pool", [work.commit()])
    orphan = work.commit("orphan", {"alone": b"1\n"}, parents=[])
    assert await part_of(git, pool, work, [orphan], []) == objects_of(work.path) - packed_ids(pool.path)


async def test_nothing_new_makes_no_pack_at_all(git: Git, tmp_path: Path, work: Work) -> None:
    tip = work.commit()
    tag = work.tag("v1", message="signed off")
    pool = await pool_of(git, work, tmp_path / "pool", [tip, tag])
    async with scratch_view(pool, tmp_path) as incoming:
        assert await gathered(pack.make_thin(git, incoming.path, [tip, tag], [tip])) == b""
        assert await gathered(pack.make_thin(git, incoming.path, [tip, tag], [])) == b""


async def test_deltas_go_by_offset(git: Git, tmp_path: Path, work: Work) -> None:
    """A remote names the base of a delta by its id; the log, in fewer bytes, by how far back it is."""
    text = os.urandom(4000).hex().encode()
    first = work.commit("main", {"a": text})
    pool = await pool_of(git, work, tmp_path / "pool", [first])
    work.commit("main", {"a": text + b"more"})
    tip = work.commit("main", {"a": text + b"more and more"})
    async with scratch_view(pool, tmp_path) as incoming:
        arrived = sent(work, [tip], [first])
        await indexed(git, incoming, arrived)
        thin = await gathered(pack.make_thin(git, incoming.path, [tip], [first]))
    assert len(arrived) - 20 < len(thin) < len(arrived) - 15


@FORMATS
@pytest.mark.parametrize("lost", ["blob", "tree", "parent", "tagged"])
async def test_a_fetch_that_lacks_an_object_makes_no_part(
    git: Git, tmp_path: Path, object_format: ObjectFormat, lost: str
) -> None:
    """Git packs nothing of a history that has a hole: what the remote kept back is found here."""
    work = Work(tmp_path / "remote", object_format)
    pool = await pool_of(git, work, tmp_path / "pool", [first := work.commit()])
    blob = work.blob(b"lost\n")
    middle = work.commit()
    tip = work.commit("main", entries={b"dir/lost": (b"100644", blob)})
    tag = work.tag("v1", message="signed off")
    tree = Target(work.git("rev-parse", f"{tip.decode()}:dir").strip())
    gone = {"blob": blob, "tree": tree, "parent": middle, "tagged": tip}[lost]
    new = objects_of(work.path) - packed_ids(pool.path) - {gone}
    async with scratch_view(pool, tmp_path) as incoming:
        await indexed(git, incoming, pack_of(work, sorted(new)))
        with pytest.raises(Corrupt, match="objects"):
            await gathered(pack.make_thin(git, incoming.path, [tag], [first]))


async def test_a_part_with_an_object_that_never_came_is_corrupt(git: Git, tmp_path: Path, work: Work) -> None:
    first = work.commit()
    pool = await pool_of(git, work, tmp_path / "pool", [first])
    second = work.commit()
    third = work.commit()
    async with scratch_view(pool, tmp_path) as incoming, scratch_view(pool, tmp_path) as proof:
        received = await indexed(git, incoming, sent(work, [second], [first]))
        thin = sent(work, [third], [first])
        proven = await indexed(git, proof, thin)
        with pytest.raises(Corrupt, match="that the remote did not send; nothing was stored"):
            await pack.check_proof(received, proven, len(thin) - 20)
        await pack.check_proof(proven, received, 1 << 62)


async def test_a_first_pack_that_leans_on_what_is_here_is_corrupt(
    git: Git, tmp_path: Path, work: Work
) -> None:
    pool = await pool_of(git, work, tmp_path / "pool", [work.commit()])
    work.commit()
    data = pack_of(work, sorted(objects_of(work.path) - packed_ids(pool.path)))
    async with scratch_view(pool, tmp_path) as incoming:
        with pytest.raises(Corrupt, match="objects in it point at objects that are missing"):
            await indexed(git, incoming, data, self_contained=True)


@FORMATS
async def test_a_whole_pack_needs_nothing_from_outside(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    work.commit()
    pool = await pool_of(git, work, tmp_path / "pool", [work.commit()])
    tip = work.tip()
    work.commit("other")
    async with (
        scratch_view(pool, tmp_path) as moment,
        scratch_view(None, tmp_path, object_format=object_format) as alone,
    ):
        data = await gathered(pack.make_whole(git, moment.path, [tip]))
        await indexed(git, alone, data, self_contained=True)
        assert packed_ids(alone.path) == packed_ids(pool.path)


# Put in place as they are


async def stored(git: Git, work: Work, room: Path) -> tuple[bytes, bytes]:
    """A complete pack and git's index of it."""
    async with scratch_view(None, room, object_format=work.object_format) as incoming:
        arrived = await indexed(git, incoming, sent(work, [work.tip()]), self_contained=True)
        return arrived.pack.read_bytes(), arrived.idx.read_bytes()


@FORMATS
async def test_an_installed_pack_is_read_by_git(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    work.commit("main", {"large": os.urandom(100_000)})
    data, idx = await stored(git, work, tmp_path)
    await view.create(tmp_path / "copy", object_format)
    placed = await pack.install(tmp_path / "copy", stream(data, 999), stream(idx, 999), object_format)
    await view.write_refs(tmp_path / "copy", work.refs())
    assert placed.pack.read_bytes() == data
    assert {path.suffix for path in placed.pack.parent.iterdir()} == {".pack", ".idx"}
    assert objects_of(tmp_path / "copy") == objects_of(work.path)
    fsck(tmp_path / "copy")


async def test_a_thin_pack_goes_on_top_of_an_installed_one(git: Git, tmp_path: Path, work: Work) -> None:
    first = work.commit()
    data, idx = await stored(git, work, tmp_path)
    tip = work.commit()
    await view.create(tmp_path / "copy", "sha1")
    await pack.install(tmp_path / "copy", stream(data), stream(idx), "sha1")
    await pack.index(
        git,
        tmp_path / "copy",
        stream(sent(work, [tip], [first])),
        pack.Indexing(self_contained=False, fix_thin=True, object_format="sha1"),
    )
    await view.write_refs(tmp_path / "copy", work.refs())
    assert objects_of(tmp_path / "copy") == objects_of(work.path)


@pytest.mark.parametrize(
    "harm",
    ["index of another pack", "index cut", "index flipped", "index empty", "pack cut", "no pack"],
)
async def test_a_pack_and_an_index_that_do_not_belong_together_are_corrupt(
    git: Git, tmp_path: Path, work: Work, harm: str
) -> None:
    work.commit()
    data, idx = await stored(git, work, tmp_path)
    work.commit()
    _, other = await stored(git, work, tmp_path)
    middle = len(idx) // 2
    data, idx = {
        "index of another pack": (data, other),
        "index cut": (data, idx[:-30]),
        "index flipped": (data, idx[:middle] + bytes([idx[middle] ^ 1]) + idx[middle + 1 :]),
        "index empty": (data, b""),
        "pack cut": (data[:-3], idx),
        "no pack": (b"", idx),
    }[harm]
    await view.create(tmp_path / "copy", "sha1")
    with pytest.raises(Corrupt, match="index"):
        await pack.install(tmp_path / "copy", stream(data), stream(idx), "sha1")
    assert list((tmp_path / "copy/objects/pack").iterdir()) == []


async def test_a_source_that_breaks_leaves_nothing_installed(git: Git, tmp_path: Path) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"PACK"
        raise NetworkError("the vault stopped answering")

    await view.create(tmp_path / "copy", "sha1")
    with pytest.raises(NetworkError):
        await pack.install(tmp_path / "copy", breaking(), stream(b""), "sha1")
    assert list((tmp_path / "copy/objects/pack").iterdir()) == []


async def test_a_full_disk_while_installing_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    await view.create(tmp_path / "copy", "sha1")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LimitReached, match="No space left on device; free some space"):
        await pack.install(tmp_path / "copy", stream(b"PACK"), stream(b""), "sha1")
    assert list((tmp_path / "copy/objects/pack").iterdir()) == []


async def test_a_file_streams_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content := os.urandom(3_000_000))
    assert await gathered(pack.file_chunks(tmp_path / "file")) == content


# The index


@FORMATS
async def test_the_index_says_where_each_object_is(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    work.zoo()
    work.many_commits(300)
    async with scratch_view(None, tmp_path, object_format=object_format) as incoming:
        arrived = await indexed(git, incoming, sent(work, [work.tip()]), self_contained=True)
        answer = run_git("--git-dir", incoming.path, "show-index", stdin=arrived.idx.read_bytes())
        expected = {
            bytes.fromhex(oid.decode()): int(at) for at, oid, *_ in map(bytes.split, answer.splitlines())
        }
        with IdxFile(arrived.idx) as found:
            found.check()
            assert list(found.ids()) == sorted(expected)
            assert {oid: found.offset(oid) for oid in expected} == expected
            assert len(found) == len(expected) > 900
            middle = sorted(expected.values())[400]
            assert set(found.iter_own(middle)) == {oid for oid, at in expected.items() if at < middle}
            assert found.pack_checksum.hex() == arrived.pack_id
            assert found.offset(b"\0" * found.id_size) is None
            assert b"" not in found and "text" not in found


@given(
    size=st.sampled_from([20, 32]),
    seeds=st.sets(st.integers(0, 400), max_size=40),
    far=st.sampled_from([1, 1 << 25, 1 << 28]),
    end=st.integers(0, 1 << 37),
)
def test_every_offset_of_every_index_is_read(
    tmp_path_factory: pytest.TempPathFactory, size: int, seeds: set[int], far: int, end: int
) -> None:
    ids = [hashlib.sha256(bytes([seed % 256, seed // 256])).digest()[:size] for seed in sorted(seeds)]
    offsets = [12 + number * far for number, _ in enumerate(ids)]
    path = tmp_path_factory.mktemp("idx") / "pack-1.idx"
    path.write_bytes(made_idx(ids, offsets))
    with IdxFile(path) as found:
        found.check()
        assert found.id_size == (size if ids else 20)
        assert [found.offset(oid) for oid in ids] == offsets
        assert list(found.iter_own(end)) == sorted(
            oid for oid, at in zip(ids, offsets, strict=True) if at < end
        )
        assert absent_from([path.parent], [*ids, b"\x07" * size]) == {b"\x07" * size}


@pytest.mark.parametrize(
    "harm",
    [
        lambda idx: b"",
        lambda idx: b"\xfftOc\0\0\0\2",
        lambda idx: b"\xfftOc\0\0\0\1" + idx[8:],
        lambda idx: idx[:-1],
        lambda idx: idx[:8] + b"\xff\xff\xff\xff" + idx[12:],
        lambda idx: idx[:-100],
    ],
    ids=["empty", "short", "version 1", "a byte less", "fan-out not in order", "cut"],
)
def test_what_is_no_index_is_corrupt(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    ids = [hashlib.sha1(bytes([n]), usedforsecurity=False).digest() for n in range(30)]
    (tmp_path / "pack-1.idx").write_bytes(harm(made_idx(ids, range(30))))
    with pytest.raises(Corrupt, match="not a pack index"):
        IdxFile(tmp_path / "pack-1.idx")


@given(
    came=st.sets(st.integers(0, 255)), own=st.sets(st.integers(0, 255)), bases=st.sets(st.integers(0, 255))
)
def test_a_part_is_proved_if_its_own_objects_came(
    tmp_path_factory: pytest.TempPathFactory, came: set[int], own: set[int], bases: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("proof")
    bases -= own

    def written(name: str, seeds: Sequence[int]) -> Path:
        ids = [hashlib.sha1(bytes([seed]), usedforsecurity=False).digest() for seed in seeds]
        (folder / name).write_bytes(made_idx(ids, [12 + 10 * number for number, _ in enumerate(ids)]))
        return folder / name

    with (
        IdxFile(written("came.idx", sorted(came))) as incoming,
        IdxFile(written("proof.idx", [*own, *bases])) as proof,
    ):
        assert proved(incoming, proof, 12 + 10 * len(own)) == (own <= came)


async def test_a_pack_that_a_repack_takes_away_is_looked_for_again(
    git: Git, tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await pool_of(git, work, tmp_path / "pool", [work.commit()])
    folder = pool.path / "objects/pack"
    doomed = folder / "pack-0.idx"
    doomed.write_bytes(b"")

    class Repacked(IdxFile):
        def __init__(self, path: Path) -> None:
            doomed.unlink(missing_ok=True)
            super().__init__(path)

    monkeypatch.setattr(pack, "IdxFile", Repacked)
    known = {bytes.fromhex(oid.decode()) for oid in objects_of(work.path)}
    assert absent_from([folder], known) == set()
