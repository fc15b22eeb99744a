"""A push in git's protocol, as its server sees it: what the client hears, and what it sends.

Format: gitprotocol-pack(5), "Pushing Data To a Server", gitprotocol-capabilities(5), gitprotocol-http(5).
Who calls: backup/pushing and web/remote/receive.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from mirror.core.config import LISTING_BYTES
from mirror.core.errors import Corrupt, UsageError
from mirror.core.formats import pktline
from mirror.core.formats.pktline import Mark, Packets
from mirror.core.model import HEAD, HEX_LENGTH, ObjectFormat, RefName, Refs, Target
from mirror.core.refs import resolve

SERVICE: Final = "git-receive-pack"
OPTIONS: Final = 100  # push options of one push
COMMANDS_BYTES: Final = LISTING_BYTES  # as much as a remote may list
_CAPABILITIES: Final = (
    b"report-status report-status-v2 delete-refs side-band-64k quiet atomic ofs-delta push-options "
    b"object-format=%b agent=everref"
)
_AT_ONCE: Final = 2000  # lines that are encoded at once
_BAND: Final = 65515  # bytes of one packet beside its length and its band: side-band-64k
_ID: Final[Mapping[ObjectFormat, re.Pattern[bytes]]] = {
    name: re.compile(rb"[0-9a-f]{%d}" % length) for name, length in HEX_LENGTH.items()
}
_NONE: Final = "this is not a push of git's protocol"


@dataclass(frozen=True, slots=True)
class Command:
    """What a client wants of one ref."""

    name: RefName  # as it was sent: maybe none that git accepts
    old: Target | None  # what the client takes it to be at; None: not there
    new: Target | None  # None: delete it


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A push, without its pack."""

    commands: Sequence[Command]
    capabilities: frozenset[bytes]
    options: Sequence[bytes] = ()
    is_shallow: bool = False  # it comes from a clone whose history is cut off

    @property
    def has_pack(self) -> bool:
        """Whether a pack follows: it does unless refs are only deleted."""
        return any(command.new for command in self.commands)

    @property
    def is_atomic(self) -> bool:
        return b"atomic" in self.capabilities

    def option(self, name: str) -> str | None:
        """What a push option NAME=VALUE says, the last one if there are several. None: there is none."""
        start = name.encode() + b"="
        found = [option.removeprefix(start) for option in self.options if option.startswith(start)]
        return found[-1].decode("utf-8", "surrogateescape") if found else None


class Reader:
    """Reads a push as it arrives: the commands and options, and then the bytes of the pack as they are."""

    def __init__(self, object_format: ObjectFormat) -> None:
        self._format: ObjectFormat = object_format
        self._packets: Packets | None = Packets()
        self._commands: list[Command] = []
        self._capabilities: frozenset[bytes] | None = None
        self._options: list[bytes] | None = None  # None: they have not begun
        self._shallow = False
        self.request: PushRequest | None = None  # None: it has not come so far

    def feed(self, data: bytes) -> bytes:
        """The bytes of the pack in `data`. Raises UsageError when this is no push."""
        if self._packets is None:
            return data
        self._packets.feed(data)
        try:
            while self.request is None:
                packet = self._packets.take()
                if packet is None:
                    if self._packets.taken + len(self._packets.rest) > COMMANDS_BYTES:
                        raise UsageError(f"the push names more refs than fit into {COMMANDS_BYTES >> 20} MiB")
                    return b""
                self._take(packet)
        except Corrupt:
            raise UsageError(_NONE) from None
        rest, self._packets = self._packets.rest, None
        return rest

    def end(self) -> PushRequest | None:
        """The push, without its pack. None: the client only asked whether it may push.

        Raises UsageError where it broke off.
        """
        if self.request is None:
            raise UsageError("the push broke off before it said what to change")
        return self.request if self.request.commands else None

    def _take(self, packet: pktline.Packet) -> None:
        if packet is Mark.FLUSH:
            capabilities = self._capabilities or frozenset()
            if self._options is None and b"push-options" in capabilities:
                self._options = []
                return
            self.request = PushRequest(
                tuple(self._commands), capabilities, tuple(self._options or ()), self._shallow
            )
            return
        if isinstance(packet, Mark):
            raise UsageError(_NONE)
        if self._options is not None:
            if len(self._options) >= OPTIONS:
                raise UsageError(f"a push may have {OPTIONS} options at most")
            self._options.append(pktline.text(packet))
            return
        if packet.startswith(b"shallow "):
            self._shallow = True
            return
        self._commands.append(self._command(pktline.text(packet)))

    def _command(self, line: bytes) -> Command:
        if self._capabilities is None:
            line, _, told = line.partition(b"\0")
            self._capabilities = frozenset(told.split())
            wanted = next(
                (one[14:] for one in self._capabilities if one.startswith(b"object-format=")), b"sha1"
            )
            if wanted != self._format.encode():
                raise UsageError(f"this repository has {self._format} objects, and the push has others")
        old, _, rest = line.partition(b" ")
        new, space, name = rest.partition(b" ")
        pattern = _ID[self._format]
        if not (space and name and pattern.fullmatch(old) and pattern.fullmatch(new)):
            raise UsageError(_NONE)
        return Command(RefName(name), _target(old), _target(new))


def _target(oid: bytes) -> Target | None:
    return Target(oid) if oid.strip(b"0") else None


def advertisement(refs: Refs, object_format: ObjectFormat) -> Iterator[bytes]:
    """What a client hears first: every ref with its object, and what may be asked of this server."""
    yield pktline.encode([f"# service={SERVICE}\n".encode(), Mark.FLUSH])
    told = b"\0" + _CAPABILITIES % object_format.encode()
    lines: list[pktline.Packet] = []
    for name in sorted(refs):
        target = None if name == HEAD else resolve(refs, name)
        if target is None:
            continue  # git does not tell HEAD here, nor what leads nowhere
        lines.append(b"%b %b%b\n" % (target, name, told))
        told = b""
        if len(lines) == _AT_ONCE:
            yield pktline.encode(lines)
            lines = []
    if told:
        lines.append(b"%b capabilities^{}%b\n" % (b"0" * HEX_LENGTH[object_format], told))
    yield pktline.encode([*lines, Mark.FLUSH])


def report(request: PushRequest, unpack: str | None, refused: Mapping[RefName, str]) -> bytes:
    """What became of a push, as the client shows it for each ref; `unpack`: why nothing at all was done."""
    said = cache(_line)  # the same for very many
    lines: list[pktline.Packet] = [b"unpack %b\n" % said(unpack or "ok")]
    for command in request.commands:
        why = "nothing was saved" if unpack else refused.get(command.name)
        if why is None:
            lines.append(b"ok %b\n" % command.name)
        else:
            lines.append(b"ng %b %b\n" % (command.name, said(why)))
    told = pktline.encode([*lines, Mark.FLUSH])
    if not request.capabilities & {b"report-status", b"report-status-v2"}:
        told = b""
    if b"side-band-64k" not in request.capabilities:
        return told
    return b"".join([*_banded(b"\1", told), Mark.FLUSH.value])


def note(request: PushRequest, text: str) -> bytes:
    """A line for the person who pushes; nothing where the client takes none."""
    if b"side-band-64k" not in request.capabilities:
        return b""
    return b"".join(_banded(b"\2", _line(text) + b"\n"))


def keep_alive(request: PushRequest) -> bytes:
    """A packet that says nothing but that somebody is still at work; nothing where the client takes none."""
    return b"0005\1" if b"side-band-64k" in request.capabilities else b""


def _banded(band: bytes, data: bytes) -> Iterable[bytes]:
    for start in range(0, len(data), _BAND):
        yield pktline.encode([band + data[start : start + _BAND]])


def _line(text: str) -> bytes:
    """A message as one line without control characters: a terminal shows it."""
    plain = "".join(one if one.isprintable() else "?" for one in " ".join(text.split()))
    return plain.encode("utf-8", "replace")[:1000]
