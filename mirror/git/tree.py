"""The lines of a folder: a tree's content read by dulwich, whose parser is in Rust and takes no odd modes."""

from collections.abc import Iterator

from dulwich.errors import ObjectFormatException
from dulwich.objects import parse_tree

from mirror.core.errors import Corrupt
from mirror.core.formats.objects import Entry, entry_kind
from mirror.core.model import HEX_LENGTH, ObjectFormat, Target


def entries(data: bytes, object_format: ObjectFormat) -> Iterator[Entry]:
    """The lines of a tree, in git's order. Raises Corrupt where it ends within one, or has no mode for it."""
    try:
        found = list(parse_tree(data, HEX_LENGTH[object_format] // 2))
    except (ObjectFormatException, ValueError):
        raise Corrupt("a folder of this moment cannot be read: its tree is broken") from None
    return (Entry(name, entry_kind(mode), mode, Target(oid)) for name, mode, oid in found)
