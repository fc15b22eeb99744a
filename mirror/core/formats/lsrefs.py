"""Parsing a remote's greeting and its listing of refs, line by line as they arrive.

Who calls: git/upstream, in a thread where much has arrived. Nothing is kept of a line but what goes
into the map, so that a listing takes about three times its length in memory.
https://git-scm.com/docs/protocol-v2#_ls_refs, https://git-scm.com/docs/pack-protocol#_reference_discovery
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from mirror.core.errors import Corrupt, Refused
from mirror.core.formats.pktline import Mark, Packet
from mirror.core.model import HEAD, HEX_LENGTH, SYMBOLIC, Listing, ObjectFormat, RefName, Target
from mirror.core.refs import check_names, resolve, shown_text

CAPABILITIES: Final = 1 << 16  # bytes of what a remote says that it can do; git's own are 300

_HEX: Final = b"0123456789abcdef"


class Greeting:
    """What a remote says first: its version and capabilities, and in version 0 its refs."""

    def __init__(self, name: str) -> None:
        self._name = name  # of the remote, for messages
        self.served = False  # smart HTTP's own line has come
        self._parted = False  # and the mark behind it
        self.begun = False  # git's own first line has come
        self.ended = False
        self.version = 0
        self.capabilities: dict[bytes, bytes] = {}
        self._length = 0  # of version 2's, in bytes
        self.reading = Reading(name, "sha1")  # of version 0

    @property
    def object_format(self) -> ObjectFormat:
        """Of its ids. Raises Refused for a kind that we do not know."""
        found = self.capabilities.get(b"object-format", b"sha1")
        if found != b"sha1" and found != b"sha256":
            raise Refused(f"{self._name} uses an unknown object format: {shown_text(found)}")
        return "sha1" if found == b"sha1" else "sha256"

    def add(self, packets: Sequence[Packet]) -> None:
        """Some more of it. Raises Refused where this is not git's, Corrupt where git would not say it."""
        for at, packet in enumerate(packets):
            if self.ended:
                raise Corrupt(f"{self._name} sent more than a greeting when it was greeted")
            if self.begun:
                return self._add_rest(packets[at:])
            if isinstance(packet, bytes):
                self._add_first(packet)
            elif packet is Mark.FLUSH and self.served and not self._parted:
                self._parted = True
            else:  # version 0 has no more to say of a repository without refs
                self.ended = True

    def _add_first(self, line: bytes) -> None:
        if line.startswith(b"# service=") and not self.served:
            self.served = True
        elif line == b"version 2":
            self.version, self.begun = 2, True
        elif line != b"version 1":
            self.begun = True
            first, nul, words = line.partition(b"\0")
            if not nul:
                raise no_repository(self._name, "it does not speak git's protocol")
            for key, _, value in (word.partition(b"=") for word in words.split()):
                known = self.capabilities.get(key)
                self.capabilities[key] = value if known is None else known + b" " + value
            self.reading = Reading(self._name, self.object_format)
            self._add_refs([first])
            pairs = [pair.partition(b":") for pair in self.capabilities.get(b"symref", b"").split()]
            self.reading.point({name: target for name, _, target in pairs})

    def _add_rest(self, packets: Sequence[Packet]) -> None:
        lines = [packet for packet in packets if isinstance(packet, bytes)]
        if len(lines) < len(packets):
            if len(lines) + 1 < len(packets) or packets[-1] is not Mark.FLUSH:
                raise Corrupt(f"{self._name} sent more than a greeting when it was greeted")
            self.ended = True
        if self.version == 2:
            self._length += sum(map(len, lines))
            if self._length > CAPABILITIES:
                raise Corrupt(f"{self._name} sent more than a greeting when it was greeted")
            self.capabilities.update({key: value for key, _, value in (one.partition(b"=") for one in lines)})
        else:
            self._add_refs(lines)

    def _add_refs(self, lines: Sequence[bytes]) -> None:
        if any(line.startswith(b"shallow ") for line in lines):
            raise shallow(self._name)
        # Left out: peeled tags, and "there are none".
        self.reading.add([line for line in lines if not line.endswith(b"^{}")])


class Reading:
    """Builds a refs map from lines `id name attribute...`."""

    def __init__(self, name: str, object_format: ObjectFormat) -> None:
        self._name = name  # of the remote, for messages
        self._format: ObjectFormat = object_format
        self._length = HEX_LENGTH[object_format]
        self._refs: dict[RefName, Target] = {}
        self._unborn: set[RefName] = set()
        self._symbolic: dict[RefName, RefName] = {}
        self._count = 0  # lines

    def add(self, lines: Sequence[bytes]) -> None:
        """Some more lines. Raises Corrupt on what no git says."""
        self._count += len(lines)
        if b"\n".join(lines).count(b" ") != len(lines):  # some have attributes
            lines = [line for line in lines if line.count(b" ") == 1 or not self._took(line)]
        ids = [line[: self._length] for line in lines]
        names = [line[self._length + 1 :] for line in lines]
        if not _are_ids(ids, self._length):
            raise Corrupt(f"{self._name} lists an invalid object id")
        check_names(names)
        self._refs.update(cast(Iterable[tuple[RefName, Target]], zip(names, ids, strict=True)))

    def _took(self, line: bytes) -> bool:
        """Whether this line has attributes. It was taken then, but for the attributes that we do not know."""
        oid, name, *attributes = [*line.split(b" "), b""]
        if not attributes[:-1]:
            return False
        if oid == b"unborn":
            self._unborn.add(RefName(name))
        elif _are_ids([oid], self._length):
            self._refs[RefName(name)] = Target(oid)
        else:
            raise Corrupt(f"{self._name} lists an invalid object id")
        check_names([name])
        for attribute in attributes:
            if attribute.startswith(b"symref-target:"):
                self.point({name: attribute.removeprefix(b"symref-target:")})
        return True

    def point(self, symbolic: Mapping[bytes, bytes]) -> None:
        """These refs name others. Raises Corrupt where that is no name."""
        check_names([*symbolic.values()])
        self._symbolic.update({RefName(name): RefName(target) for name, target in symbolic.items()})

    def done(self) -> Listing:
        """The map, after all lines were added. Raises Corrupt if a ref was listed twice."""
        refs = self._refs
        if len(refs) + len(self._unborn) != self._count:
            raise Corrupt(f"{self._name} lists a ref twice")
        found = {
            name: target
            for name, target in self._symbolic.items()
            if (name in self._unborn and target != HEAD) or (name in refs and target in refs)
        }
        ids = {name: refs[name] for name in found if name in refs}
        refs.update({name: Target(SYMBOLIC + target) for name, target in found.items()})
        # What leads back to itself keeps its id, whose object would not be fetched else.
        refs.update({name: ids[name] for name in [one for one in ids if resolve(refs, one) is None]})
        return Listing(refs, self._format)


def _are_ids(targets: Sequence[bytes], length: int) -> bool:
    digits = b"".join(targets)
    return len(digits) == length * len(targets) and not digits.translate(None, _HEX)


def no_repository(name: str, why: str) -> Refused:
    """The error for an address that is not a git repository."""
    return Refused(f"{name} is not a git repository address: {why}; check the address")


def shallow(name: str) -> Corrupt:
    """The error for a remote that is a shallow copy."""
    return Corrupt(
        f"{name} is a shallow copy without its full history: "
        "back up what it was cloned from, or run git fetch --unshallow in it"
    )
