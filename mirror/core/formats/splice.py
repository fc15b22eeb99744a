"""Many stored parts as one pack, streamed: the step from the vault to a pool, a directory or a bundle.

A pack entry does not depend on where it stands (its base is named by a relative
offset or by id), so the bodies of the parts, one after the other between a new
header and a new trailer, are one valid pack; see gitformat-pack(5). No object is
twice in the pack log, so nothing is re-encoded and no id is looked at.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from mirror.core.errors import Corrupt, LimitReached
from mirror.core.model import ObjectFormat, Part, Segment

PACK_HEADER: Final = 12  # bytes: b"PACK", the version, the number of entries
MOST_ENTRIES: Final = (1 << 32) - 1
TRAILER: Final = {"sha1": 20, "sha256": 32}  # bytes: the hash of all that stands before

_BUNDLE: Final = b"# v"


def pack_header(entries: int) -> bytes:
    """What a pack of so many entries begins with. Raises LimitReached beyond what the format can count."""
    if entries > MOST_ENTRIES:
        raise LimitReached(f"one pack cannot hold {entries} entries; restore fewer refs at a time")
    return b"PACK\0\0\0\2" + entries.to_bytes(4, "big")


def read_pack_header(start: bytes) -> int:
    """The number of entries that these first 12 bytes of a pack announce. Raises Corrupt."""
    if len(start) < PACK_HEADER or start[:8] != b"PACK\0\0\0\2":
        raise Corrupt("this is not a git pack of version 2")
    return int.from_bytes(start[8:PACK_HEADER], "big")


def trailer_bytes(object_format: ObjectFormat) -> int:
    """The length of a pack's trailer."""
    return TRAILER[object_format]


@dataclass(frozen=True, slots=True)
class Cut:
    """The bytes of a stored part that are to be read: from `start` up to, not including, `end`."""

    entries: int  # pack entries among them
    start: int
    end: int

    @property
    def bytes_to_read(self) -> int:
        return self.end - self.start


def cut(part: Part, upto: int | None = None, after: int = 0) -> Cut:
    """What to read of a part for its segments after snapshot `after` up to and with `upto` (None: the last).

    A part without segments is read whole whatever is wanted of it; so is one of
    which every segment is wanted, since then one sum covers all of its bytes.
    """
    wanted = _wanted(part, upto, after)
    if wanted is None:
        return Cut(part.entries, 0, part.bytes)
    body = part.header_bytes + PACK_HEADER
    skipped = sum(segment.bytes for segment in part.segments if segment.snapshot <= after)
    start = body + skipped if skipped else 0
    return Cut(sum(s.entries for s in wanted), start, body + skipped + sum(s.bytes for s in wanted))


def entries(part: Part, upto: int | None = None, after: int = 0) -> int:
    """How many pack entries such a cut brings."""
    return cut(part, upto, after).entries


def body_bytes(part: Part, object_format: ObjectFormat, upto: int | None = None, after: int = 0) -> int:
    """How many bytes of pack entries such a cut brings, which is what `bodies` yields of it."""
    wanted = _wanted(part, upto, after)
    if wanted is None:
        return part.bytes - part.header_bytes - PACK_HEADER - trailer_bytes(object_format)
    return sum(segment.bytes for segment in wanted)


def _wanted(part: Part, upto: int | None, after: int) -> tuple[Segment, ...] | None:
    """The segments of a cut, or None when the part is read whole."""
    wanted = tuple(s for s in part.segments if s.snapshot > after and (upto is None or s.snapshot <= upto))
    return None if wanted == part.segments else wanted


@dataclass(frozen=True, slots=True)
class Source:
    """A part, and as they come from the vault the stored bytes of `cut(part, upto, after)`."""

    part: Part
    chunks: AsyncIterator[bytes]
    upto: int | None = None  # the last snapshot wanted; None: to the end
    after: int = 0  # the last snapshot not wanted; 0: from the beginning


async def bodies(source: Source, object_format: ObjectFormat) -> AsyncGenerator[bytes, None]:
    """The pack entries of one part: its stored bytes without bundle header, pack header and trailer.

    Every byte is summed on its way: whole parts against the part's SHA-256, cut
    ones segment by segment against theirs. Raises Corrupt naming the key; it may
    do so after the last chunk, so nothing that was yielded is good before the end.
    """
    wanted = _wanted(source.part, source.upto, source.after)
    if wanted is None:
        stream = _whole(source.part, source.chunks, object_format)
    else:
        stream = _segments(source.part, source.chunks, wanted, cut(source.part, source.upto, source.after))
    try:
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk
    finally:
        if isinstance(source.chunks, AsyncGenerator):
            await source.chunks.aclose()


async def _whole(
    part: Part, chunks: AsyncIterator[bytes], object_format: ObjectFormat
) -> AsyncGenerator[bytes, None]:
    digest = hashlib.sha256()
    skip = part.header_bytes + PACK_HEADER
    end = part.bytes - trailer_bytes(object_format)
    at = 0  # how many stored bytes have come
    async for chunk in chunks:
        digest.update(chunk)
        begin, at = at, at + len(chunk)
        if begin >= skip and at <= end:
            yield chunk
        elif body := chunk[max(0, skip - begin) : max(0, end - begin)]:
            yield body
    found = digest.hexdigest()
    if (at, found) != (part.bytes, part.sha256):
        raise Corrupt(
            f"{part.key}: expected sha256 {part.sha256} of {part.bytes} bytes, found {found} of {at} bytes"
        )


async def _segments(
    part: Part, chunks: AsyncIterator[bytes], wanted: Sequence[Segment], span: Cut
) -> AsyncGenerator[bytes, None]:
    skip = 0 if span.start else part.header_bytes + PACK_HEADER
    end = span.bytes_to_read
    left = list(reversed(wanted))
    digest = hashlib.sha256()
    lacking = left[-1].bytes if left else 0  # of the segment that is being read
    at = 0
    async for chunk in chunks:
        begin, at = at, at + len(chunk)
        body = chunk if begin >= skip and at <= end else chunk[max(0, skip - begin) : max(0, end - begin)]
        rest = memoryview(body)
        while rest:
            digest.update(rest[:lacking])
            rest, lacking = rest[lacking:], lacking - min(lacking, len(rest))
            if not lacking:
                _check_segment(part, left.pop(), digest.hexdigest())
                digest = hashlib.sha256()
                lacking = left[-1].bytes if left else 0
        if body:
            yield body
    if left:
        _check_segment(part, left[-1], f"the end of the bytes, {lacking} too early")


def _check_segment(part: Part, segment: Segment, found: str) -> None:
    if found != segment.sha256:
        raise Corrupt(
            f"{part.key}: the objects of snapshot #{segment.snapshot}: expected sha256 {segment.sha256},"
            f" found {found}"
        )


async def pack(sources: Sequence[Source], object_format: ObjectFormat) -> AsyncGenerator[bytes, None]:
    """One pack out of these parts, in this order: header, bodies, trailer.

    Raises Corrupt as `bodies` does, always before the trailer: git takes no pack
    that is not whole.
    """
    digest = hashlib.new(object_format, usedforsecurity=False)
    header = pack_header(sum(entries(source.part, source.upto, source.after) for source in sources))
    digest.update(header)
    yield header
    for source in sources:
        async with aclosing(bodies(source, object_format)) as stream:
            async for chunk in stream:
                digest.update(chunk)
                yield chunk
    yield digest.digest()


async def repack(
    entries: int, body: AsyncIterator[bytes], object_format: ObjectFormat
) -> AsyncGenerator[bytes, None]:
    """A pack of these entries: a header before them and a trailer behind."""
    digest = hashlib.new(object_format, usedforsecurity=False)
    header = pack_header(entries)
    digest.update(header)
    yield header
    async for chunk in body:
        digest.update(chunk)
        yield chunk
    yield digest.digest()


class Tap:
    """Learns what a manifest says of a part while its stored bytes stream by: feed them all, then `end`."""

    def __init__(self, object_format: ObjectFormat) -> None:
        self.entries = 0  # as the pack header announces them
        self.header_bytes = 0  # of the bundle header; 0 for a bare pack
        self.stored_bytes = 0
        self.body_bytes = 0  # pack entries only, without pack header and trailer
        self.stored_sha256 = ""  # hex; known once ended, like the next
        self.body_sha256 = ""
        self._trailer = trailer_bytes(object_format)
        self._stored = hashlib.sha256()
        self._body = hashlib.sha256()
        self._start: bytes | None = b""  # None: the pack's header has passed
        self._held = b""  # the last bytes, which may be the trailer

    def feed(self, chunk: bytes) -> None:
        """The next stored bytes. Raises Corrupt where no pack begins."""
        self._stored.update(chunk)
        self.stored_bytes += len(chunk)
        if self._start is not None:
            self._start += chunk
            rest = self._past_headers(self._start)
            if rest is None:
                return
            self._start, chunk = None, rest
        if len(chunk) >= self._trailer:
            self._count(self._held)
            self._count(memoryview(chunk)[: -self._trailer])
            self._held = chunk[-self._trailer :]
        else:
            held = self._held + chunk
            self._count(held[: -self._trailer])
            self._held = held[-self._trailer :]

    def _past_headers(self, start: bytes) -> bytes | None:
        """What follows the bundle and pack headers, or None while they are not all here."""
        if start[:3] == _BUNDLE[: len(start)]:
            end = start.find(b"\n\n")
            if end < 0:
                return None
            self.header_bytes = end + 2
        body = self.header_bytes + PACK_HEADER
        if len(start) < body:
            return None
        self.entries = read_pack_header(start[self.header_bytes : body])
        return start[body:]

    def _count(self, body: bytes | memoryview) -> None:
        self._body.update(body)
        self.body_bytes += len(body)

    @property
    def trailer(self) -> bytes:
        """The last bytes, once all were fed."""
        return self._held

    def end(self) -> None:
        """No more bytes come. Raises Corrupt when that was no whole pack."""
        if self._start is not None or len(self._held) < self._trailer:
            raise Corrupt("the pack ended before its trailer")
        self.stored_sha256 = self._stored.hexdigest()
        self.body_sha256 = self._body.hexdigest()
