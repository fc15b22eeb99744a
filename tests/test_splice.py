"""The splice: stored parts become one pack that git takes, or nothing does."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import Corrupt, LimitReached
from mirror.core.formats import bundle, splice
from mirror.core.formats.bundle import Header
from mirror.core.formats.splice import PACK_HEADER, Cut, Source, Tap
from mirror.core.model import HEX_LENGTH, ObjectFormat, Part, RefName, Segment, Target
from tests.parts.log import Log
from tests.parts.repos import Work, fsck, objects_of, run_git

FORMATS: list[ObjectFormat] = ["sha1", "sha256"]


async def chunked(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def source(log: Log, part: Part, upto: int | None = None, after: int = 0, size: int = 1 << 20) -> Source:
    span = splice.cut(part, upto, after)
    return Source(part, chunked(log.stored[part.key][span.start : span.end], size), upto, after)


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def spliced(log: Log, sources: Iterable[Source]) -> bytes:
    return await joined(splice.pack(list(sources), log.object_format))


def unpacked(log: Log, pack: bytes, path: Path) -> Path:
    """A bare repository out of one pack and nothing else."""
    run_git("init", "-q", "--bare", f"--object-format={log.object_format}", path)
    run_git("-C", path, "index-pack", "--strict", "--stdin", stdin=pack)
    return path


def pushes(work: Work) -> Iterable[None]:
    """A life with growth, a rewind, a revert, a branch made anew and tags; each step is one push."""
    work.commit("main", {"a": b"line\n" * 400, "b": b"b\n"})
    yield
    work.commit("main", {"a": b"line\n" * 400 + b"more\n"})
    work.tag("v1", message="signed off")
    yield
    work.commit("main", {"a": b"line\n" * 399})
    yield
    old = work.tip()
    work.set("main", work.commit(None, {"a": b"line\n" * 401}, parents=[]))
    yield
    work.set("again", old)  # brings no object
    yield
    work.commit("again", {"a": b"line\n" * 400 + b"more\n"}, message="Revert")  # a blob that came before
    work.note("seen")
    yield


@pytest.fixture(params=FORMATS)
def log(request: pytest.FixtureRequest, make_work: Callable[..., Work], tmp_path: Path) -> Log:
    work = make_work("remote", request.param)
    log = Log(work, tmp_path)
    for _ in pushes(work):
        log.take()
    return log


async def test_git_takes_the_spliced_parts_as_one_whole_pack(log: Log, tmp_path: Path) -> None:
    assert len(log.parts) == 5
    repo = unpacked(log, await spliced(log, [source(log, part) for part in log.parts]), tmp_path / "out.git")
    assert objects_of(repo, everything=True) == objects_of(log.pool, everything=True)
    for name, target in log.refs[log.number].items():
        if name.startswith(b"refs/"):
            run_git("-C", repo, "update-ref", name, target)
    fsck(repo)


async def test_every_moment_is_a_prefix_of_the_log(log: Log, tmp_path: Path) -> None:
    merged = log.merge(1, 6)
    everything = await spliced(log, [source(log, merged)])
    for number in (1, 2, 3, 4, 6):
        pack = await spliced(log, [source(log, merged, upto=number)])
        born = [source(log, part) for part in log.parts if part.last <= number]
        assert pack == await spliced(log, born)
        assert everything.startswith(
            pack[PACK_HEADER : -splice.trailer_bytes(log.object_format)], PACK_HEADER
        )
        unpacked(log, pack, tmp_path / f"{number}.git")


async def test_a_moment_without_objects_is_cut_like_the_one_before(log: Log) -> None:
    merged = log.merge(1, 6)
    assert splice.cut(merged, 5) == splice.cut(merged, 4)
    assert await spliced(log, [source(log, merged, 5)]) == await spliced(log, [source(log, merged, 4)])


async def test_a_part_can_be_taken_up_where_a_pool_ended(log: Log, tmp_path: Path) -> None:
    merged = log.merge(1, 6)
    repo = unpacked(log, await spliced(log, [source(log, merged, upto=2)]), tmp_path / "pool.git")
    rest = await spliced(log, [source(log, merged, after=2)])
    run_git("-C", repo, "index-pack", "--stdin", "--fix-thin", stdin=rest)
    assert objects_of(repo, everything=True) == objects_of(log.pool, everything=True)


async def test_a_checkpoint_is_whole_whatever_is_wanted_of_it(log: Log) -> None:
    part = log.checkpoint()
    assert splice.cut(part, 2) == splice.cut(part, None, 3) == Cut(part.entries, 0, part.bytes)
    pack = log.stored[part.key][part.header_bytes :]
    assert await spliced(log, [source(log, part, upto=2)]) == pack


async def test_no_part_at_all_is_the_empty_pack(log: Log) -> None:
    empty = await spliced(log, [])
    assert empty == run_git("-C", log.work.path, "pack-objects", "-q", "--stdout")


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
async def test_the_size_of_chunks_does_not_matter(log: Log, size: int) -> None:
    merged = log.merge(2, 6)
    for upto, after in ((None, 0), (4, 0), (None, 3), (4, 2)):
        cut = source(log, merged, upto, after, size)
        assert await spliced(log, [cut]) == await spliced(log, [source(log, merged, upto, after)])


@pytest.mark.parametrize("flip", [0, 5, 30, 200, -30, -1])
async def test_a_flipped_byte_is_told_with_key_and_sum_before_the_pack_ends(log: Log, flip: int) -> None:
    part = log.parts[0]
    bad = bytearray(log.stored[part.key])
    bad[flip] ^= 1
    log.stored[part.key] = bytes(bad)
    got = []
    with pytest.raises(Corrupt, match=rf"^{part.key}: expected sha256 {part.sha256}"):
        async for chunk in splice.pack([source(log, part, size=50)], log.object_format):
            got.append(chunk)
    assert len(b"".join(got)) <= part.bytes - part.header_bytes - splice.trailer_bytes(log.object_format)


async def test_a_flipped_byte_in_a_cut_names_the_snapshot(log: Log) -> None:
    part = log.merge(1, 6)
    bad = bytearray(log.stored[part.key])
    bad[part.header_bytes + PACK_HEADER + part.segments[0].bytes] ^= 1
    log.stored[part.key] = bytes(bad)
    await spliced(log, [source(log, part, upto=1)])
    for upto, after in ((3, 0), (2, 1), (None, 1)):
        with pytest.raises(Corrupt, match=rf"^{part.key}: .*#2: expected sha256 {part.segments[1].sha256}"):
            await spliced(log, [source(log, part, upto, after)])


@pytest.mark.parametrize("lost", [1, 20, 100])
async def test_a_part_cut_short_is_told(log: Log, lost: int) -> None:
    part = log.merge(1, 6)
    for upto in (None, 4):
        end = splice.cut(part, upto).end - lost
        with pytest.raises(Corrupt, match=rf"^{part.key}: .*expected sha256"):
            await spliced(log, [Source(part, chunked(log.stored[part.key][:end], 64), upto)])


async def test_a_part_that_grew_is_told(log: Log) -> None:
    part = log.parts[0]
    with pytest.raises(Corrupt, match="expected sha256"):
        await spliced(log, [Source(part, chunked(log.stored[part.key] + b"x", 64))])


async def test_another_repos_part_under_this_key_is_told(log: Log) -> None:
    one, other = log.parts[0], log.parts[1]
    log.stored[one.key] = log.stored[other.key]
    with pytest.raises(Corrupt, match=f"^{one.key}: expected sha256 {one.sha256}"):
        await spliced(log, [source(log, one)])


async def test_reading_is_ended_where_the_splice_is_given_up() -> None:
    closed = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100
        finally:
            closed.append(True)

    part = Part("k", 1, 1, 1, 10_000, "", 10, 1, (), True)
    stream = splice.pack([Source(part, chunks())], "sha1")
    assert await anext(stream)
    assert await anext(stream)
    await stream.aclose()
    assert closed


def test_pack_headers_read_back_and_count_no_further_than_the_format() -> None:
    assert splice.read_pack_header(splice.pack_header(0xFFFFFFFF)) == 0xFFFFFFFF
    with pytest.raises(LimitReached, match="4294967296"):
        splice.pack_header(1 << 32)


@pytest.mark.parametrize("start", [b"", b"PACK\0\0\0\2", b"PACK\0\0\0\3\0\0\0\1", b"<!doctype html>"])
def test_what_is_no_pack_is_corrupt(start: bytes) -> None:
    with pytest.raises(Corrupt):
        splice.read_pack_header(start)


@st.composite
def segmented(draw: st.DrawFn) -> Part:
    numbers = sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=8)))
    segments = tuple(Segment(n, draw(st.integers(1, 9)), draw(st.integers(1, 99)), "") for n in numbers)
    size = sum(segment.bytes for segment in segments)
    entries = sum(segment.entries for segment in segments)
    return Part("k", 1, 1, 30, 50 + 12 + size + 20, "", 50, entries, segments, False)


@given(segmented(), st.integers(0, 31), st.integers(0, 31))
def test_two_cuts_at_one_moment_bring_everything_once(part: Part, moment: int, end: int) -> None:
    before, behind = splice.cut(part, moment), splice.cut(part, None, moment)
    assert before.entries + behind.entries == part.entries
    assert splice.entries(part, end, moment) == sum(
        segment.entries for segment in part.segments if moment < segment.snapshot <= end
    )
    if before.entries and behind.entries:
        assert before.end == behind.start
        assert behind.end == part.bytes - 20


@given(
    st.sampled_from(FORMATS),
    st.booleans(),
    st.integers(0, 3),
    st.binary(max_size=90),
    st.lists(st.integers(1, 60), max_size=5),
)
def test_a_tap_learns_the_same_however_the_bytes_are_cut(
    object_format: ObjectFormat, bundled: bool, entries: int, body: bytes, sizes: list[int]
) -> None:
    name, target = RefName(b"refs/heads/main"), Target(b"a" * HEX_LENGTH[object_format])
    header = bundle.encode(Header(object_format, (), {name: target})) if bundled else b""
    stored = header + splice.pack_header(entries) + body + b"t" * splice.trailer_bytes(object_format)
    tap, rest = Tap(object_format), stored
    for size in sizes:
        tap.feed(rest[:size])
        rest = rest[size:]
    tap.feed(rest)
    tap.end()
    assert (tap.entries, tap.header_bytes) == (entries, len(header))
    assert (tap.body_bytes, tap.stored_bytes) == (len(body), len(stored))
    assert tap.body_sha256 == hashlib.sha256(body).hexdigest()
    assert tap.stored_sha256 == hashlib.sha256(stored).hexdigest()


@pytest.mark.parametrize(
    "fed", [b"", b"# v2 git bundle\n", b"PACK\0\0\0\2\0\0", splice.pack_header(0) + b"t" * 19]
)
def test_a_tap_takes_no_half_a_pack(fed: bytes) -> None:
    tap = Tap("sha1")
    tap.feed(fed)
    with pytest.raises(Corrupt, match="ended before"):
        tap.end()


def test_a_tap_takes_nothing_but_packs() -> None:
    with pytest.raises(Corrupt, match="not a git pack"):
        Tap("sha1").feed(b"<!doctype html><title>Sign in</title>")


async def test_a_large_part_is_passed_on_without_copies() -> None:
    chunk = bytes(1 << 20)
    size = 8 << 20
    part = Part("k", 1, 1, 1, size, hashlib.sha256(chunk * 8).hexdigest(), 100, 1, (), True)
    got = [c async for c in splice.bodies(Source(part, chunked_same(chunk, 8)), "sha1")]
    assert sum(piece is chunk for piece in got) == 6
    assert sum(map(len, got)) == size - 100 - PACK_HEADER - 20


async def chunked_same(chunk: bytes, times: int) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield chunk
