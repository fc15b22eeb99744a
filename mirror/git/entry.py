"""A pack's entries by their headers: what an object is, how large, and how it begins. No more is unpacked.

What a repository holds may be made to be large. pygit2 tells of sha1 objects
without reading them, but reads whole ones only; of sha256 ones nothing tells but this.
https://git-scm.com/docs/gitformat-pack
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from mirror.errors import Corrupt
from mirror.git.pack import IdxFile
from mirror.model import Target

_OFS_DELTA: Final = 6
_REF_DELTA: Final = 7
_CHAIN: Final = 5000  # differences of differences; git makes 4,095 of them at most
_STEP: Final = 1 << 16  # bytes of a pack read at once


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int  # as packs number them, differences among them
    size: int  # of what is unpacked
    content: int  # where in the pack that begins
    base: int | bytes | None  # of a difference: where its base begins, or the id of that


def header(indexes: Iterable[IdxFile], oid: Target) -> tuple[int, int] | None:
    """An object's type and size; None: none of these packs has it. Raises Corrupt."""
    for idx, file, at in _found(indexes, oid):
        size = None
        for _ in range(_CHAIN):
            entry = _entry(file, at, idx.id_size)
            if entry.base is None:
                return entry.kind, entry.size if size is None else size
            if size is None:
                size = _result(_unpacked(file, entry, 32))
            base = entry.base if isinstance(entry.base, int) else idx.offset(entry.base)
            if base is None:
                break
            at = base
        raise Corrupt(f"object {oid.decode()} cannot be read: its base is missing")
    return None


def beginning(indexes: Iterable[IdxFile], oid: Target, limit: int) -> bytes | None:
    """The first bytes of an object's content; None: it is kept as a difference, or not at all."""
    for idx, file, at in _found(indexes, oid):
        entry = _entry(file, at, idx.id_size)
        return _unpacked(file, entry, limit) if entry.base is None else None
    return None


def _found(indexes: Iterable[IdxFile], oid: Target) -> Iterator[tuple[IdxFile, BinaryIO, int]]:
    try:
        raw = bytes.fromhex(oid.decode())
    except ValueError:  # a tag or a commit says whatever it likes
        raise Corrupt("something here names an object that has no such id") from None
    for idx in indexes:
        at = idx.offset(raw)
        if at is not None:
            with idx.path.with_suffix(".pack").open("rb") as file:
                yield idx, file, at
            return


def _entry(file: BinaryIO, at: int, id_size: int) -> _Entry:
    file.seek(at)
    data = file.read(64)
    try:
        byte, place = data[0], 1
        kind, size, shift = byte >> 4 & 7, byte & 15, 4
        while byte & 0x80:
            byte = data[place]
            size |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
        base: int | bytes | None = None
        if kind == _OFS_DELTA:
            byte, place = data[place], place + 1
            back = byte & 0x7F
            while byte & 0x80:
                byte, place = data[place], place + 1
                back = (back + 1 << 7) | byte & 0x7F
            base = at - back
        elif kind == _REF_DELTA:
            base, place = data[place : place + id_size], place + id_size
    except IndexError:
        raise Corrupt("an object cannot be read: its pack is cut short") from None
    if kind in (0, 5):
        raise Corrupt("an object cannot be read: it is of no kind that git has")
    if isinstance(base, int) and not 0 < base < at:
        raise Corrupt("an object cannot be read: it is a difference from nothing")
    return _Entry(kind, size, at + place, base)


def _unpacked(file: BinaryIO, entry: _Entry, limit: int) -> bytes:
    """At most so many bytes of what an entry holds."""
    file.seek(entry.content)
    inflate = zlib.decompressobj()
    found = bytearray()
    limit = min(limit, entry.size)
    try:
        while len(found) < limit and not inflate.eof:
            packed = inflate.unconsumed_tail or file.read(_STEP)
            if not packed:
                break
            found += inflate.decompress(packed, limit - len(found))
    except zlib.error as error:
        raise Corrupt(f"an object cannot be read: {error}") from None
    if len(found) < limit:
        raise Corrupt("an object cannot be read: its pack is cut short")
    return bytes(found)


def _result(difference: bytes) -> int:
    """The size of what a difference makes: the second number in it."""
    numbers = []
    at = 0
    try:
        for _ in range(2):
            value, shift = 0, 0
            while True:
                byte = difference[at]
                value |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if not byte & 0x80:
                    break
            numbers.append(value)
    except IndexError:
        raise Corrupt("an object cannot be read: its difference is cut short") from None
    return numbers[1]
