"""The exported state as bytes: lines, compressed, cut into pieces, each sealed by the application's keyring.

An export begins with a line of its own, then one frame after another: a flag (0: more
follow, 1: the last one), the length of what follows (4 bytes, big-endian), and a sealed
piece of one zlib stream. A piece is sealed for its export, its place and its flag, so
that nothing can be left out, swapped or cut off unseen. Nobody holds all of it at once.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from mirror.core.errors import Corrupt
from mirror.core.keyring import Keyring

MAGIC: Final = b"everref state 1\n"
PIECE: Final = 1 << 20  # bytes of a piece before it is sealed
_LIMIT: Final = PIECE * 4  # of one that can be read
_FRAME: Final = struct.Struct(">BI")


class Sealer:
    """Seals the lines of one export."""

    def __init__(self, keyring: Keyring, name: str) -> None:
        self._keyring, self._name = keyring, name
        self._packer = zlib.compressobj()
        self._packed = bytearray()
        self._out = bytearray(MAGIC)
        self._place = 0

    def add(self, lines: bytes) -> bytes:
        """Take whole lines; returns what can be stored by now."""
        self._packed += self._packer.compress(lines)
        while len(self._packed) > PIECE:
            self._seal(self._packed[:PIECE], last=False)
            del self._packed[:PIECE]
        return self._taken()

    def end(self) -> bytes:
        """What is left to be stored."""
        self._packed += self._packer.flush()
        while len(self._packed) > PIECE:
            self._seal(self._packed[:PIECE], last=False)
            del self._packed[:PIECE]
        self._seal(self._packed, last=True)
        return self._taken()

    def _seal(self, piece: bytearray, *, last: bool) -> None:
        sealed = self._keyring.seal(bytes(piece), _context(self._name, self._place, last))
        self._out += _FRAME.pack(last, len(sealed)) + sealed
        self._place += 1

    def _taken(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out


class Opener:
    """Opens one export, as it comes in."""

    def __init__(self, keyring: Keyring, name: str) -> None:
        self._keyring, self._name = keyring, name
        self._unpacker = zlib.decompressobj()
        self._in = bytearray()
        self._line = bytearray()
        self._place = 0
        self._begun = self._ended = False

    def add(self, stored: bytes) -> Iterator[bytes]:
        """Take what was stored; gives every line that is whole. Raises BadKey, Corrupt."""
        self._in += stored
        if not self._begun and len(self._in) >= len(MAGIC):
            if not self._in.startswith(MAGIC):
                raise Corrupt(f"{self._name} is not an exported state that this version can read")
            del self._in[: len(MAGIC)]
            self._begun = True
        while self._begun and len(self._in) >= _FRAME.size:
            last, length = _FRAME.unpack_from(self._in)
            if self._ended or last > 1 or length > _LIMIT:
                raise Corrupt(f"{self._name} is damaged")
            if len(self._in) < _FRAME.size + length:
                return
            sealed = bytes(self._in[_FRAME.size : _FRAME.size + length])
            del self._in[: _FRAME.size + length]
            piece = self._keyring.open(sealed, _context(self._name, self._place, bool(last)))
            self._place, self._ended = self._place + 1, bool(last)
            yield from self._lines(piece)

    def end(self) -> None:
        """Raise Corrupt unless all of it came in."""
        if not self._ended or self._in or self._line or not self._unpacker.eof:
            raise Corrupt(f"{self._name} is cut short")

    def _lines(self, piece: bytes) -> Iterator[bytes]:
        try:
            self._line += self._unpacker.decompress(piece)
        except zlib.error:
            raise Corrupt(f"{self._name} is damaged") from None
        *lines, rest = bytes(self._line).split(b"\n")
        self._line = bytearray(rest)
        yield from lines


def _context(name: str, place: int, last: bool) -> str:
    return f"{name}/{place}{'/end' if last else ''}"
