"""What a client of `git upload-pack` asks and hears, versions 0 and 2: from bytes to requests and back.

A request is never passed on as it came. It is read as a whole, and what git gets is written anew from
what was understood, so that nothing reaches git that nobody has looked at. Who calls: git/serve.
Formats: gitprotocol-pack(5), gitprotocol-v2(5), gitprotocol-http(5), gitprotocol-capabilities(5).
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from mirror.core import refs as rules
from mirror.core.errors import Corrupt, UsageError
from mirror.core.formats.pktline import LONGEST, Lines, Mark, Packet, Packets, encode
from mirror.core.model import HEAD, HEX_LENGTH, ObjectFormat, RefName, Refs, Target

Version = Literal[0, 2]
Command = Literal["fetch", "ls-refs", "bundle-uri"]

BODY: Final = 64 << 20  # bytes of one request once it is unpacked: 1,300,000 wants or haves
LINES: Final = BODY // 45  # of a request: more are shorter than one that names an object
AGENT: Final = b"everref"  # what we call ourselves where nobody says more
SERVICE: Final = "git-upload-pack"
_PREFIXES: Final = (
    10_000  # ref prefixes of one request; with more, all refs are told, as gitprotocol-v2 allows
)
_HEX: Final = frozenset(b"0123456789abcdef")
_V0: Final = (
    b"multi_ack thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not deepen-relative "
    b"no-progress include-tag multi_ack_detailed no-done allow-tip-sha1-in-want allow-reachable-sha1-in-want "
    b"filter"
)
# What a client may ask for beside the objects. The first words decide; each is passed on as it was written.
_DEEPEN: Final = (b"deepen ", b"deepen-since ", b"deepen-not ")
_BANDS: Final = frozenset((b"\x01", b"\x02", b"\x03"))  # with which packets begin once there is a pack
_FLAGS: Final = frozenset(
    (b"thin-pack", b"no-progress", b"include-tag", b"ofs-delta", b"deepen-relative", b"wait-for-done")
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for, in either version."""

    version: Version
    command: Command = "fetch"
    wants: tuple[Target, ...] = ()
    haves: tuple[Target, ...] = ()
    shallows: tuple[Target, ...] = ()  # commits whose parents the client does not have
    options: tuple[bytes, ...] = ()  # what else it says of a fetch, a line each; of v0: capabilities
    limits: tuple[bytes, ...] = ()  # of v0: how deep and what to leave out, a line each
    done: bool = False  # it says no more about what it has
    peel: bool = False  # of ls-refs
    symrefs: bool = False
    unborn: bool = False
    prefixes: tuple[bytes, ...] = ()

    @property
    def is_clone(self) -> bool:
        """Whether the answer is a pack and nothing before it."""
        deep = any(one.startswith(_DEEPEN) for one in (*self.options, *self.limits))
        return self.done and not self.haves and not self.shallows and not deep

    @property
    def quiet(self) -> bool:
        """Whether the client wants to hear of no progress."""
        return b"no-progress" in self.options

    @property
    def has_sideband(self) -> bool:
        """Whether there can be words beside the pack."""
        return self.version == 2 or b"side-band-64k" in self.options

    @property
    def has_bands(self) -> bool:
        """Whether the pack comes in packets, however short."""
        return self.has_sideband or b"side-band" in self.options


@dataclass(slots=True)
class Reader:
    """Reads one request as its bytes arrive. Raises UsageError for what is none, in words for the client."""

    version: Version
    object_format: ObjectFormat
    _lines: Lines = field(default_factory=Lines)
    _packets: list[Packet] = field(default_factory=list)
    _size: int = 0

    def feed(self, data: bytes) -> None:
        """More bytes of it."""
        self._size += len(data)
        if self._size > BODY:
            raise UsageError(f"the request is larger than {BODY >> 20} MiB; fetch fewer refs at once")
        try:
            self._packets += self._lines.feed(data)
        except Corrupt:
            raise UsageError("the request is not git's protocol: a line has no valid length") from None
        if len(self._packets) > LINES:
            raise UsageError("the request has more lines than ids fit into it; it is not git's protocol")

    def end(self) -> Request | None:
        """The request, which has come whole; None: it asks for nothing."""
        try:
            self._lines.end()
        except Corrupt:
            raise UsageError("the request ends within a line") from None
        if not self._packets or self._packets == [Mark.FLUSH]:
            return None
        return self._v2() if self.version == 2 else self._v0()

    def _v2(self) -> Request:
        packets = self._packets
        if packets[-1] is not Mark.FLUSH or Mark.FLUSH in packets[:-1] or packets.count(Mark.DELIM) > 1:
            raise UsageError("the request is not one whole command of git's protocol version 2")
        cut = packets.index(Mark.DELIM) if Mark.DELIM in packets else len(packets) - 1
        heads, lines = _texts(packets[:cut]), _texts(packets[cut + 1 : -1])
        commands = [one.removeprefix(b"command=") for one in heads if one.startswith(b"command=")]
        formats = [one for one in heads if one.startswith(b"object-format=")] or [b"object-format=sha1"]
        if formats != [b"object-format=" + self.object_format.encode()]:
            raise UsageError(f"this repository has {self.object_format} ids; use a git that knows them")
        if commands == [b"ls-refs"]:
            return self._ls_refs(lines)
        if commands == [b"bundle-uri"]:
            return Request(2, "bundle-uri")
        if commands != [b"fetch"]:
            raise UsageError("this command of git's protocol is not served here")
        return self._fetch(lines)

    def _ls_refs(self, lines: Sequence[bytes]) -> Request:
        prefixes = tuple(one.removeprefix(b"ref-prefix ") for one in lines if one.startswith(b"ref-prefix "))
        return Request(
            2,
            "ls-refs",
            peel=b"peel" in lines,
            symrefs=b"symrefs" in lines,
            unborn=b"unborn" in lines,
            prefixes=prefixes if len(prefixes) <= _PREFIXES else (),
        )

    def _fetch(self, lines: Sequence[bytes]) -> Request:
        wants: list[Target] = []
        haves: list[Target] = []
        shallows: list[Target] = []
        options: list[bytes] = []
        done = False
        for line in lines:
            word, _, rest = line.partition(b" ")
            if word == b"want":
                wants.append(self._id(rest))
            elif word == b"have":
                haves.append(self._id(rest))
            elif word == b"shallow":
                shallows.append(self._id(rest))
            elif line == b"done":
                done = True
            elif line in _FLAGS or line.startswith((*_DEEPEN, b"filter ")):
                options.append(line)
            else:
                raise UsageError("the request asks for something that is not served here")
        if not wants:
            raise UsageError("the request wants nothing")
        return Request(2, "fetch", _once(wants), _once(haves), _once(shallows), tuple(options), done=done)

    def _v0(self) -> Request:
        packets = self._packets
        if Mark.FLUSH not in packets or Mark.DELIM in packets or Mark.END in packets:
            raise UsageError("the request is not git's protocol")
        cut = packets.index(Mark.FLUSH)
        wants: list[Target] = []
        shallows: list[Target] = []
        limits: list[bytes] = []
        options: tuple[bytes, ...] = ()
        for number, line in enumerate(_texts(packets[:cut])):
            word, _, rest = line.partition(b" ")
            if word == b"want":
                oid, _, said = rest.partition(b" ")
                if said and number == 0:
                    options = tuple(one for one in said.split() if self._is_known(one))
                elif said:
                    raise UsageError("only the first want of a request may say what the client can do")
                wants.append(self._id(oid))
            elif word == b"shallow":
                shallows.append(self._id(rest))
            elif line.startswith((*_DEEPEN, b"filter ")):
                limits.append(line)
            else:
                raise UsageError("the request asks for something that is not served here")
        if not wants:
            raise UsageError("the request wants nothing")
        haves: list[Target] = []
        done = False
        for line in _texts([one for one in packets[cut:] if one is not Mark.FLUSH]):
            if line == b"done":
                done = True
            elif line.startswith(b"have ") and not done:
                haves.append(self._id(line[5:]))
            else:
                raise UsageError("the request asks for something that is not served here")
        return Request(
            0, "fetch", _once(wants), _once(haves), _once(shallows), options, tuple(limits), done=done
        )

    def _is_known(self, option: bytes) -> bool:
        """Whether it is one that git gets; the names of programs and sessions are nobody's business."""
        if option.startswith(b"object-format=") and option[14:] != self.object_format.encode():
            raise UsageError(f"this repository has {self.object_format} ids; use a git that knows them")
        return option in _V0.split()

    def _id(self, text: bytes) -> Target:
        if len(text) != HEX_LENGTH[self.object_format] or not _HEX.issuperset(text):
            raise UsageError(f"the request names an object by what is no {self.object_format} id")
        return Target(text)


def _texts(packets: Sequence[Packet]) -> list[bytes]:
    if any(isinstance(one, Mark) for one in packets):
        raise UsageError("the request is not git's protocol")
    return [one for one in packets if isinstance(one, bytes)]


def _once(ids: Sequence[Target]) -> tuple[Target, ...]:
    return tuple(dict.fromkeys(ids))


def written(request: Request, object_format: ObjectFormat) -> Iterator[bytes]:
    """A fetch as git gets it, in pieces."""
    if request.version == 2:
        yield encode(
            (b"command=fetch\n", b"object-format=" + object_format.encode() + b"\n", Mark.DELIM)
            + tuple(option + b"\n" for option in request.options)
        )
        yield from _pieces(b"shallow", request.shallows)
        yield from _pieces(b"want", request.wants)
        yield from _pieces(b"have", request.haves)
        yield encode((b"done\n", Mark.FLUSH) if request.done else (Mark.FLUSH,))
        return
    first, *others = request.wants
    formats = (b"object-format=" + object_format.encode(),)
    yield encode((b"want " + first + b" " + b" ".join((*request.options, *formats)) + b"\n",))
    yield from _pieces(b"want", others)
    yield from _pieces(b"shallow", request.shallows)
    yield encode((*(limit + b"\n" for limit in request.limits), Mark.FLUSH))
    yield from _pieces(b"have", request.haves)
    yield encode((b"done\n",) if request.done else (Mark.FLUSH,))


def _pieces(word: bytes, ids: Sequence[Target]) -> Iterator[bytes]:
    for start in range(0, len(ids), 4096):
        yield encode([word + b" " + oid + b"\n" for oid in ids[start : start + 4096]])


def having(request: Request, haves: Collection[Target], shallows: Collection[Target]) -> Request:
    """The request of a client that has only these of what it named.

    Who named some and has none of them has the id of no object: in version 2 git sends to a client that names
    none a pack at once, and not the acknowledgments that one that does waits for (gitprotocol-v2(5), fetch).
    """
    known = tuple(one for one in request.haves if one in haves)
    return replace(
        request,
        haves=known or tuple(Target(b"0" * len(one)) for one in request.haves[:1]),
        shallows=tuple(one for one in request.shallows if one in shallows),
    )


def capabilities(object_format: ObjectFormat, *, bundle_uri: bool = False, agent: bytes = AGENT) -> bytes:
    """What is served by version 2."""
    more = (b"bundle-uri\n",) if bundle_uri else ()
    return encode(
        (
            b"version 2\n",
            b"agent=" + agent + b"\n",
            b"ls-refs=unborn\n",
            b"fetch=shallow wait-for-done filter\n",
            b"object-format=" + object_format.encode() + b"\n",
            *more,
            Mark.FLUSH,
        )
    )


def told_bundles(found: Sequence[tuple[str, str, int]]) -> bytes:
    """The answer to bundle-uri: the name, address and creation token of each; all of them are wanted.

    The last part of a key is in lower case, as git writes its configuration: a client passes over any other.
    """
    lines = ["bundle.version=1", "bundle.mode=all", "bundle.heuristic=creationToken"]
    for name, url, token in found:
        lines += [f"bundle.{name}.uri={url}", f"bundle.{name}.creationtoken={token}"]
    return encode((*(f"{line}\n".encode() for line in lines if found), Mark.FLUSH))


def told_refs(refs: Refs, peeled: Mapping[Target, Target], request: Request) -> bytes:
    """The answer to ls-refs. `peeled` says what each annotated tag points to in the end."""
    lines: list[Packet] = []
    starts = _shortest(request.prefixes or (b"",))
    for name in _in_order(refs):
        at = bisect_right(starts, name)
        if not at or not name.startswith(starts[at - 1]):
            continue
        target = refs[name]
        oid = rules.resolve(refs, name)
        symbolic = rules.is_symbolic(target)
        if oid is None and not (name == HEAD and symbolic and request.unborn):
            continue
        line = (oid or b"unborn") + b" " + name
        if symbolic and request.symrefs:
            line += b" symref-target:" + rules.symbolic_target(target)
        if request.peel and oid and oid in peeled:
            line += b" peeled:" + peeled[oid]
        lines.append(line + b"\n")
    return encode((*lines, Mark.FLUSH))


def _shortest(prefixes: Sequence[bytes]) -> list[bytes]:
    """The prefixes without those that begin with another, sorted.

    What begins with one of them follows it, with none of them in between: so one comparison tells for a name,
    where thousands of prefixes and refs would be as many millions.
    """
    found: list[bytes] = []
    for one in sorted(prefixes):
        if not found or not one.startswith(found[-1]):
            found.append(one)
    return found


def advertisement(
    refs: Refs, peeled: Mapping[Target, Target], object_format: ObjectFormat, agent: bytes = AGENT
) -> bytes:
    """All refs and what is served by version 0."""
    symbolic = refs.get(HEAD, b"")
    told = [_V0, b"object-format=" + object_format.encode(), b"agent=" + agent]
    if rules.is_symbolic(symbolic) and rules.resolve(refs, HEAD):
        told.append(b"symref=HEAD:" + rules.symbolic_target(symbolic))
    said = b"\0" + b" ".join(told) + b"\n"
    lines: list[Packet] = []
    for name in _in_order(refs):
        if oid := rules.resolve(refs, name):
            lines.append(oid + b" " + name + (b"\n" if lines else said))
            if oid in peeled:
                lines.append(peeled[oid] + b" " + name + b"^{}\n")
    if not lines:
        lines.append(b"0" * HEX_LENGTH[object_format] + b" capabilities^{}" + said)
    return encode((b"# service=git-upload-pack\n", Mark.FLUSH, *lines, Mark.FLUSH))


def _in_order(refs: Refs) -> Iterator[RefName]:
    if HEAD in refs:
        yield HEAD
    yield from sorted(name for name in refs if name != HEAD)


def refusal(text: str) -> bytes:
    """An error that stock git shows as `fatal: remote error: <text>`."""
    return encode((b"ERR " + _shown(text),))


def progress(text: str, end: bytes = b"\n") -> bytes:
    """A line that stock git shows as `remote: <text>`, beside a pack; one that ends in CR is written over."""
    return encode((b"\x02" + _shown(text) + end,))


def fatal(text: str) -> bytes:
    """The end of a pack that cannot go on, with the reason, which stock git shows as `remote: <text>`."""
    return encode((b"\x03" + _shown(text),))


def opening(request: Request) -> bytes:
    """What comes before the pack in the answer to a clone, so that people can be told something meanwhile."""
    return encode((b"packfile\n" if request.version == 2 else b"NAK\n",))


class Noted:
    """Puts a line for people before the first byte of the pack, as git's answer passes.

    Where `opened`, the client has what comes before the pack already: see `opening`. `bands`: the pack comes
    beside messages; else it follows as it is, and there is no place for a line.
    """

    def __init__(self, note: bytes, *, opened: bool, bands: bool = True) -> None:
        self.has_pack = False  # it has begun
        self._note = note  # whole packets
        self._opened = opened
        self._last = b""  # without bands: the end of what passed, as the pack's first word may come in two
        self._packets: Packets | None = Packets() if bands else None  # None: nothing more is to be put in

    def feed(self, data: bytes) -> bytes:
        """What to send of this. Raises Corrupt when it is not git's protocol."""
        if self._packets is None:
            if not self.has_pack:  # no line that comes before it has this word
                self.has_pack = b"PACK" in self._last + data
                self._last = data[-3:]
            return data
        self._packets.feed(data)
        sent: list[bytes] = []
        while (packet := self._packets.take()) is not None:
            whole = encode((packet,))
            if isinstance(packet, bytes) and packet[:1] in _BANDS:
                rest, self._packets, self.has_pack = self._packets.rest, None, True
                return b"".join((*sent, self._note, whole, rest))
            if not self._opened:
                sent.append(whole)
            elif isinstance(packet, bytes) and packet.startswith(b"ERR "):
                sent.append(encode((b"\x03" + packet[4:],)))
        return b"".join(sent)

    def end(self) -> bytes:
        """What has come and was no whole packet."""
        return b"" if self._packets is None or self._opened else self._packets.rest


def _shown(text: str) -> bytes:
    return " ".join(text.split()).encode()[: LONGEST - 8]
