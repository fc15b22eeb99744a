"""The header of a git bundle, which precedes the pack in every part of the vault.

The format is that of gitformat-bundle(5): version 2, and version 3 where the
object format must be told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mirror.core.errors import Corrupt
from mirror.core.model import HEAD, HEX_LENGTH, ObjectFormat, RefName, Target
from mirror.core.refs import check_name, is_symbolic, resolve, shown_text

V2: Final = b"# v2 git bundle\n"
V3: Final = b"# v3 git bundle\n"
LONGEST: Final = 256 << 20  # bytes; a header of a million refs has about 100 MB


@dataclass(frozen=True, slots=True)
class Header:
    """A bundle's header."""

    object_format: ObjectFormat
    prerequisites: tuple[Target, ...]  # commits whose objects the pack builds on
    refs: Mapping[RefName, Target]


def encode(header: Header) -> bytes:
    """The header's bytes, up to and with the empty line before b"PACK".

    A symbolic ref is written as the object that it comes to, and left out where
    it comes to none: a bundle cannot say more.
    """
    lines = [V2 if header.object_format == "sha1" else V3]
    if header.object_format != "sha1":
        lines.append(b"@object-format=%b\n" % header.object_format.encode())
    # The space ends the id for readers that look for a comment behind it.
    lines += [b"-%b \n" % target for target in header.prerequisites]
    for name in sorted(header.refs, key=lambda name: (name == HEAD, name)):
        target: Target | None = header.refs[name]
        if target and is_symbolic(target):
            target = resolve(header.refs, name)
        if target:
            lines.append(b"%b %b\n" % (target, name))
    lines.append(b"\n")
    return b"".join(lines)


def decode(start: bytes) -> tuple[Header, int] | None:
    """The header that a bundle starts with, and its length in bytes. None: more bytes are needed.

    Raises Corrupt when this is no bundle, or one that leaves objects out by a filter.
    """
    signature = start[: len(V2)]
    if not (V2.startswith(signature) or V3.startswith(signature)):
        raise Corrupt("this is not a git bundle")
    end = start.find(b"\n\n")
    if end < 0:
        if len(start) > LONGEST:
            raise Corrupt("the header of this bundle has no end")
        return None
    object_format: ObjectFormat = "sha1"
    prerequisites: list[Target] = []
    refs: dict[RefName, Target] = {}
    for line in start[len(V2) : end].split(b"\n") if end >= len(V2) else ():
        if line.startswith(b"@") and signature == V3:
            object_format = _capability(line, object_format)
        elif line.startswith(b"-"):
            prerequisites.append(_target(line[1:].split(b" ", 1)[0], object_format))
        else:
            target, _, name = line.partition(b" ")
            check_name(name)
            refs[RefName(name)] = _target(target, object_format)
    return Header(object_format, tuple(prerequisites), refs), end + 2


def _capability(line: bytes, object_format: ObjectFormat) -> ObjectFormat:
    if line == b"@object-format=sha256":
        return "sha256"
    if line == b"@object-format=sha1":
        return "sha1"
    if line.startswith(b"@filter="):
        raise Corrupt(
            f"objects were left out of this bundle ({shown_text(line[1:])}); make one without --filter"
        )
    raise Corrupt(f"this bundle needs a capability that Everref does not know: {shown_text(line)}")


def _target(text: bytes, object_format: ObjectFormat) -> Target:
    if len(text) != HEX_LENGTH[object_format] or text.strip(b"0123456789abcdef"):
        raise Corrupt(f"the bundle's header has a line without a valid {object_format} object id and name")
    return Target(text)
