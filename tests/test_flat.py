"""Memory that does not grow with the number of objects."""

import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.core.formats.bundle import Header
from mirror.core.model import ObjectFormat, Target
from mirror.git import pack
from mirror.git.pack import IdxFile, Seen, holds_none
from mirror.git.run import Git
from mirror.git.view import scratch_view
from mirror.upkeep import compact
from tests.parts.packs import FORMATS, made_idx, sent, stream
from tests.parts.repos import Work

OBJECTS = 20_000
A_SET = 90  # bytes an object: less than any set of ids takes
CHUNK = 1 << 16


def oid(number: int, size: int = 20) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()[:size]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two indexes with no object in common, each entry 10 bytes long."""
    folder = tmp_path_factory.mktemp("packs")
    for name, first in (("pack-one.idx", 0), ("pack-two.idx", OBJECTS)):
        ids = [oid(first + number) for number in range(OBJECTS)]
        (folder / name).write_bytes(made_idx(ids, range(12, 12 + 10 * OBJECTS, 10)))
    return folder


def all_named(folder: Path) -> bool:
    with IdxFile(folder / "pack-one.idx") as idx:
        seen = Seen(idx)
        lines = b""
        for number in range(OBJECTS):
            lines += oid(number).hex().encode() + b"\n"
            if len(lines) > CHUNK:
                seen.feed(lines[:CHUNK])
                lines = lines[CHUNK:]
        seen.feed(lines)
        return seen.has_all_own(12 + 10 * OBJECTS)


def none_held(folder: Path) -> bool:
    with IdxFile(folder / "pack-one.idx") as idx:
        apart = folder / "apart"
        apart.mkdir(exist_ok=True)
        (apart / "pack-two.idx").unlink(missing_ok=True)
        (apart / "pack-two.idx").symlink_to(folder / "pack-two.idx")
        return holds_none([apart], idx, 12 + 10 * OBJECTS)


def joined(folder: Path) -> bool:
    own, base, strange = (Target(oid(one).hex().encode()) for one in (0, OBJECTS - 1, 3 * OBJECTS))
    headers = [Header("sha1", (own, base, strange), {})]
    found = compact._joined(headers, folder / "pack-one.idx", 12 + 10 * (OBJECTS - 1))
    return set(found.prerequisites) == {base, strange}


@pytest.mark.parametrize("work", [all_named, none_held, joined])
def test_no_object_of_a_large_pack_is_kept_in_memory(work: Callable[[Path], bool], folder: Path) -> None:
    tracemalloc.start()
    try:
        assert work(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < A_SET * OBJECTS


@pytest.mark.parametrize("size", [20, 32])
@pytest.mark.parametrize("cut", [1, 40, 41, 42, 65, 1000])
def test_ids_are_counted_however_their_list_is_cut(size: int, cut: int, tmp_path: Path) -> None:
    ids = [oid(number, size) for number in range(50)]
    (tmp_path / "pack.idx").write_bytes(made_idx(ids, range(12, 512, 10)))
    with IdxFile(tmp_path / "pack.idx") as idx:
        for named, end, all_own in ((50, 512, True), (30, 312, True), (30, 313, False), (0, 12, True)):
            seen = Seen(idx)
            told = b"".join(one.hex().encode() + b"\n" for one in [oid(99, size), *ids[:named]])
            for start in range(0, len(told), cut):
                seen.feed(told[start : start + cut])
            assert seen.has_all_own(end) == all_own


@FORMATS
async def test_a_pack_with_more_than_its_tips_reach_is_told(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    first, second = work.commit("main"), work.commit("other", parents=[])
    async with scratch_view(None, tmp_path, object_format=object_format) as view:
        arrived = await pack.index(
            git,
            view.path,
            stream(sent(work, [first, second])),
            pack.Indexing(self_contained=True, fix_thin=False, object_format=object_format),
        )
        end = arrived.pack.stat().st_size
        assert await pack.is_reached(git, view.path, [first, second], [], arrived.idx, end)
        assert not await pack.is_reached(git, view.path, [first], [], arrived.idx, end)
        assert not await pack.is_reached(git, view.path, [first, second], [first], arrived.idx, end)


@pytest.mark.parametrize("mine", [2, 50], ids=["a shorter pack", "a longer pack"])
def test_a_pack_shares_an_object_only_where_it_is_its_own(mine: int, tmp_path: Path) -> None:
    (tmp_path / "pack-held.idx").write_bytes(made_idx([oid(number) for number in (1, 70, 71)], [12, 22, 32]))
    ids = [oid(number) for number in range(mine)]  # of which 1, at byte 22, is held
    (tmp_path / "mine.idx").write_bytes(made_idx(ids, range(12, 12 + 10 * mine, 10)))
    with IdxFile(tmp_path / "mine.idx") as idx:
        assert [holds_none([tmp_path], idx, end) for end in (12, 22, 23, 512)] == [True, True, False, False]
        assert holds_none([], idx, 512)
