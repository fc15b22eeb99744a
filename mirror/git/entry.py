"""A pack's entries by their headers: an object's type, its size and how it begins. Nothing more is unpacked.

A hostile repository may contain huge objects. pygit2 reports sha1 objects' headers
without reading them, but otherwise reads whole objects only; for sha256 only this module does it.
https://git-scm.com/docs/gitformat-pack
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, Final

from mirror.core.errors import Corrupt, TooLarge
from mirror.core.model import Target
from mirror.git.pack import IdxFile

_OFS_DELTA: Final = 6
_REF_DELTA: Final = 7
_CHAIN: Final = 5000  # differences of differences; git makes 4,095 of them at most
_STEP: Final = 1 << 16  # bytes of a pack read at once
_PEEK: Final = 512  # bytes of an entry that tell what it is and, mostly, how much a difference makes
_LINK_BYTES: Final = 256  # that a difference costs at least, however little it makes
_REMEMBERED: Final = 100_000  # entries whose cost is kept: differences are of the same ones


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
        raise Corrupt("an object here names another one by an invalid id") from None
    for idx in indexes:
        at = idx.offset(raw)
        if at is not None:
            with idx.path.with_suffix(".pack").open("rb") as file:
                yield idx, file, at
            return


@dataclass(frozen=True, slots=True)
class Cost:
    """What it takes to read an object whole."""

    largest: int  # bytes of the largest thing that is unpacked on the way
    all: int  # bytes of all of them

    def or_worse(self, other: "Cost") -> "Cost":
        return Cost(max(self.largest, other.largest), max(self.all, other.all))


class Costs:
    """What objects of these packs cost to read, found by their entries' headers.

    An object of a few bytes may be kept as a difference from one of a thousand MiB, which is
    unpacked first; so may be what differences of differences make on the way.
    """

    def __init__(self, indexes: Sequence[IdxFile], stack: ExitStack) -> None:
        self._packs: list[tuple[IdxFile, int]] = []
        for idx in indexes:
            fd = os.open(idx.path.with_suffix(".pack"), os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            self._packs.append((idx, fd))
        self._known: dict[tuple[int, int], Cost] = {}

    def of(self, oid: Target) -> Cost:
        """The most that reading it may cost, wherever it is. Raises Corrupt, TooLarge."""
        try:
            raw = bytes.fromhex(oid.decode())
        except ValueError:  # a tag or a commit says whatever it likes
            raise Corrupt("an object here names another one by an invalid id") from None
        found = None
        for number, (idx, _) in enumerate(self._packs):
            for at in idx.offsets(raw):
                cost = self._at(number, at)
                found = cost if found is None else found.or_worse(cost)
        return found or Cost(0, 0)

    def _at(self, number: int, at: int) -> Cost:
        """Of the entry that begins there: down to where its chain ends or is known, and up again."""
        idx, file = self._packs[number]
        above: list[tuple[int, int]] = []  # where a difference is, and the bytes that it takes and makes
        while True:
            cost = self._known.get((number, at))
            if cost is not None:
                break
            data = os.pread(file, _PEEK, at)
            entry = _parsed(data, at, idx.id_size)
            if entry.base is None:
                cost = Cost(entry.size, entry.size)
                break
            if len(above) == _CHAIN:
                raise TooLarge(f"an object is stored as a chain of more than {_CHAIN:,} deltas", b"", 0)
            begins = _peeked(data[entry.content - at :])
            if begins is None:
                with open(file, "rb", closefd=False) as pack:
                    begins = _unpacked(pack, entry, 32)
            makes = _result(begins)
            above.append((at, max(entry.size, makes)))
            base = entry.base if isinstance(entry.base, int) else idx.offset(entry.base)
            if base is None:
                raise Corrupt("an object cannot be read: its base is missing")
            at = base
        for at, size in reversed(above):
            cost = Cost(max(cost.largest, size), cost.all + max(size, _LINK_BYTES))
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[number, at] = cost
        return cost


def _peeked(packed: bytes) -> bytes | None:
    """How a difference begins, its two numbers among that; None: these bytes are too few to tell."""
    try:
        found = zlib.decompressobj().decompress(packed, 32)
    except zlib.error as error:
        raise Corrupt(f"an object cannot be read: {error}") from None
    return found if sum(byte < 0x80 for byte in found) >= 2 else None


def _entry(file: BinaryIO, at: int, id_size: int) -> _Entry:
    file.seek(at)
    return _parsed(file.read(64), at, id_size)


def _parsed(data: bytes, at: int, id_size: int) -> _Entry:
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
        raise Corrupt("an object cannot be read: its type is unknown to git")
    if isinstance(base, int) and not 0 < base < at:
        raise Corrupt("an object cannot be read: its delta has no base")
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
        raise Corrupt("an object cannot be read: its delta is cut short") from None
    return numbers[1]
