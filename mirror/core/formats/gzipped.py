"""A body that a client has compressed, unpacked as it arrives: what it unpacks to has a bound elsewhere.

Format: gzip, RFC 1952, one member, as git sends it. Who calls: web/remote, for fetches and pushes.
"""

import zlib
from collections.abc import Iterator
from typing import Final

from mirror.core.errors import UsageError

OVERHEAD: Final = 1 << 20  # bytes by which what came may exceed what it unpacks to; deflate adds 0.03 %


class Unpacking:
    """One such body. It keeps next to nothing, whatever is sent.

    zlib by itself keeps all that follows the end, for whoever asks for it, and reads empty blocks and
    names without end: neither unpacks to a byte, so that no bound of what was unpacked ever meets it.
    """

    def __init__(self, what: str) -> None:
        self._what = what  # for whoever sends it, as in "the request cannot be unpacked"
        self._zlib = zlib.decompressobj(31)
        self._came = 0  # bytes
        self._unpacked = 0

    def feed(self, data: bytes, most: int) -> Iterator[bytes]:
        """What these bytes unpack to, at most so many at once. Raises UsageError for what is no such body."""
        self._came += len(data)
        while data:
            if self._zlib.eof:
                raise UsageError(f"the compressed {self._what} goes on after its end")
            try:
                piece = self._zlib.decompress(data, most)
            except zlib.error:
                raise UsageError(f"the {self._what} cannot be unpacked") from None
            if self._zlib.unused_data:
                raise UsageError(f"the compressed {self._what} goes on after its end")
            data = self._zlib.unconsumed_tail
            self._unpacked += len(piece)
            if piece:
                yield piece
        if self._came > self._unpacked + OVERHEAD:
            raise UsageError(f"the compressed {self._what} is larger than what it holds")

    def end(self) -> None:
        """Finish. Raises UsageError where it breaks off."""
        if not self._zlib.eof:
            raise UsageError(f"the compressed {self._what} ends too early")
