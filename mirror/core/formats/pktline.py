"""pkt-lines, the framing of git's wire protocol: from bytes to packets for git/upstream.

Format: https://git-scm.com/docs/protocol-common#_pkt_line_format and
https://git-scm.com/docs/protocol-v2#_packet_line_framing.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final

from mirror.core.errors import Corrupt

LONGEST: Final = 65516  # bytes of payload in one packet


class Mark(Enum):
    """The packets that carry nothing."""

    FLUSH = b"0000"  # the end of a message
    DELIM = b"0001"  # the end of a section
    END = b"0002"  # the end of a response


Packet = bytes | Mark

_MARKS: Final = {0: Mark.FLUSH, 1: Mark.DELIM, 2: Mark.END}
_PACK, _PROGRESS, _FATAL = 1, 2, 3  # the side-bands
_NEWLINE: Final = 0x0A


def encode(packets: Iterable[Packet]) -> bytes:
    """Packets as bytes. A payload has at most 65,516 bytes."""
    return b"".join(
        [
            packet.value if isinstance(packet, Mark) else b"%04x%b" % (len(packet) + 4, packet)
            for packet in packets
        ]
    )


def text(packet: Packet) -> bytes:
    """What a line says, without the newline that may end it."""
    return b"" if isinstance(packet, Mark) else packet.removesuffix(b"\n")


class Lines:
    """Parses whole lines as bytes arrive, without the newlines that may end them.

    Never more than one line is kept. Safe in another thread, one call at a time.
    """

    def __init__(self) -> None:
        self._rest = bytearray()  # the beginning of a line
        self._wanted = 4  # bytes of it, as far as that is known

    def feed(self, data: bytes) -> list[Packet]:
        """The lines that end in `data`. Raises Corrupt when these are no packets."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data, self._rest = bytes(self._rest), bytearray()
        packets: list[Packet] = []
        add = packets.append
        at, end = 0, len(data)
        wanted = 4
        while end - at >= 4:
            size = _size(data[at : at + 4])
            if size < 4:
                add(_MARKS[size])
                at += 4
                continue
            start, stop = at + 4, at + size
            if stop > end:
                wanted = size
                break
            at = stop
            add(data[start : stop - 1] if data[stop - 1] == _NEWLINE and size > 4 else data[start:stop])
        self._rest += data[at:]
        self._wanted = wanted
        return packets

    def end(self) -> None:
        """Finish. Raises Corrupt within a line."""
        if self._rest:
            raise Corrupt("the remote's answer ends too early")


class Packets:
    """Parses one packet after the other as bytes arrive."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0  # what was taken of it
        self.taken = 0  # bytes, of all packets so far

    @property
    def rest(self) -> bytes:
        """What has arrived and was not taken."""
        return self._data[self._at :]

    def feed(self, data: bytes) -> None:
        self._data, self._at = self.rest + data, 0

    def peek(self, place: int) -> int | None:
        """The byte at this place of what was not taken. None: it has not arrived."""
        at = self._at + place
        return self._data[at] if at < len(self._data) else None

    def take(self) -> Packet | None:
        """The next packet. None: more bytes are needed. Raises Corrupt when these are no packets."""
        start, left = self._at, len(self._data) - self._at
        if left < 4:
            return None
        size = _size(self._data[start : start + 4])
        if left < size:
            return None
        self._at += max(size, 4)
        self.taken += max(size, 4)
        return self._data[start + 4 : start + size] if size >= 4 else _MARKS[size]


class SideBand:
    """Separates a pack from the remote's messages as bytes arrive (side-band-64k)."""

    def __init__(self) -> None:
        self.ended = False  # the flush packet has come: the pack is whole
        self.fatal = b""  # the remote's last words; when there are any, nothing follows
        self._said = bytearray()
        self._head = b""  # of a packet that has not come so far: 4 digits and a band
        self._band = 0
        self._left = 0  # bytes of this packet still to come

    def feed(self, data: bytes) -> bytes:
        """The bytes of the pack in `data`. Raises Corrupt when these are no packets."""
        if self._head:
            data, self._head = self._head + data, b""
        view = memoryview(data)
        pack: list[memoryview] = []
        at, end = 0, len(data)
        while at < end and not self.ended:
            if not self._left:
                size = _size(data[at : at + 4]) if end - at >= 4 else -1
                if size == 0:
                    self.ended = True
                    break
                if end - at < 5:
                    self._head = data[at:]
                    break
                if size < 5:
                    raise Corrupt("the remote's answer is not git's protocol")
                self._band, self._left = data[at + 4], size - 5
                at += 5
            piece = view[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if self._band == _PACK:
                pack.append(piece)
            elif self._band == _PROGRESS:
                self._said += piece
                if len(self._said) > 2 * LONGEST:
                    del self._said[:-LONGEST]
            elif self._band == _FATAL:
                self.fatal += bytes(piece[: LONGEST - len(self.fatal)])
            else:
                raise Corrupt("the remote's answer is not git's protocol")
        return pack[0].tobytes() if len(pack) == 1 else b"".join(pack)

    def said(self) -> Iterator[bytes]:
        """The whole lines that the remote has said beside the pack since the last call."""
        *lines, self._said = self._said.replace(b"\r", b"\n").split(b"\n")
        return (bytes(line) for line in lines if line)


def _size(digits: bytes) -> int:
    """The length that four hex digits say, themselves included; 0 to 2 mean marks."""
    try:
        size = int(digits, 16)
    except ValueError:
        size = 3
    if size == 3 or size < 0 or len(digits) != 4:
        raise Corrupt("the remote's answer is not git's protocol")
    return size
