"""pkt-lines, the framing of git's wire protocol: between the bytes of git/upstream and its sentences.

Format: https://git-scm.com/docs/protocol-common#_pkt_line_format and
https://git-scm.com/docs/protocol-v2#_packet_line_framing.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final

from mirror.errors import Corrupt

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


def split_lines(data: bytes) -> list[Packet]:
    """All lines of a whole message, without the newlines that may end them.

    Raises Corrupt when it is no message, or ends within a line.
    """
    packets: list[Packet] = []
    add = packets.append
    at, end = 0, len(data)
    while at < end:
        size = _size(data[at : at + 4])
        if size < 4:
            add(_MARKS[size])
            at += 4
            continue
        at, start = at + size, at + 4
        if at > end:
            raise Corrupt("the remote's answer ends in the middle")
        add(data[start : at - 1] if data[at - 1] == _NEWLINE and size > 4 else data[start:at])
    return packets


def text(packet: Packet) -> bytes:
    """What a line says, without the newline that may end it."""
    return b"" if isinstance(packet, Mark) else packet.removesuffix(b"\n")


class Packets:
    """Takes one packet after the other out of bytes as they arrive."""

    def __init__(self) -> None:
        self.rest = b""  # what has arrived and was not taken

    def feed(self, data: bytes) -> None:
        self.rest += data

    def take(self) -> Packet | None:
        """The next packet. None: more bytes are needed. Raises Corrupt when these are no packets."""
        if len(self.rest) < 4:
            return None
        size = _size(self.rest[:4])
        if size < 4:
            self.rest = self.rest[4:]
            return _MARKS[size]
        if len(self.rest) < size:
            return None
        packet, self.rest = self.rest[4:size], self.rest[size:]
        return packet


class SideBand:
    """Takes a pack, and what the remote says beside it, out of bytes as they arrive (side-band-64k)."""

    def __init__(self) -> None:
        self.ended = False  # the flush packet has come: the pack is whole
        self.fatal = b""  # the remote's last words; when there are any, nothing follows
        self._said = b""
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
                self._said = (self._said + piece)[-LONGEST:]
            elif self._band == _FATAL:
                self.fatal = (self.fatal + piece)[:LONGEST]
            else:
                raise Corrupt("the remote's answer is not git's protocol")
        return pack[0].tobytes() if len(pack) == 1 else b"".join(pack)

    def said(self) -> Iterator[bytes]:
        """The whole lines that the remote has said beside the pack since the last call."""
        *lines, self._said = self._said.replace(b"\r", b"\n").split(b"\n")
        return (line for line in lines if line)


def _size(digits: bytes) -> int:
    """The length that four hex digits say, themselves included; 0 to 2 mean marks."""
    try:
        size = int(digits, 16)
    except ValueError:
        size = 3
    if size == 3 or size < 0 or len(digits) != 4:
        raise Corrupt("the remote's answer is not git's protocol")
    return size
