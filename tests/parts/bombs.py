"""Repositories that were made to cost whoever looks into them more than they cost who made them."""

import hashlib
import struct
import zlib
from typing import Final

from mirror.core.model import Target
from tests.parts.repos import Work

TABS: Final = b"\t" * 1900 + b"\n"  # Pygments' lexer of Easytrieve takes 21 s for them


def tabs(work: Work, path: str = "x.ezt") -> Target:
    """A file of tabs, of a language whose highlighting has no end."""
    return work.commit("main", {path: TABS})


def nested(work: Work, *, width: int = 15_000, depth: int = 10) -> Target:
    """Folders that hold one folder under many names, a few levels deep: more files than there are atoms."""
    inner = work.tree({b"file": (b"100644", work.blob(b"at the bottom\n"))})
    for _ in range(depth):
        inner = work.tree({b"%07d" % number: (b"40000", inner) for number in range(width)})
    return work.commit("main", {}, entries={b"deep": (b"40000", inner)})


def wide(work: Work, *, width: int = 300_000) -> Target:
    """A folder of so many files."""
    empty = work.blob(b"")
    inner = work.tree({b"%07d" % number: (b"100644", empty) for number in range(width)})
    return work.commit("main", {}, entries={b"wide": (b"40000", inner)})


def message(work: Work, size: int = 300 << 20) -> Target:
    """A commit whose message is so long; packed it has a thousandth of that."""
    return work.commit("main", {"file": b"1\n"}, message="A word\n\n" + "a" * size)


def differences(work: Work, size: int = 300 << 20) -> Target:
    """Two large files, one of them kept as what it differs by from the other."""
    work.commit("main", {"large": bytes(size) + b"1"})
    second = work.commit("main", {"large": bytes(size) + b"2"})
    work.git("repack", "-adfq", "--window=10", "--depth=10")
    return second


def many_times_one_parent(work: Work, count: int, times: int = 50_000) -> list[Target]:
    """A line of commits, each of which names its one parent so many times; the first one is plain."""
    tree = work.tree({})
    made = [work.commit_object(tree, [], "plain")]
    for number in range(count):
        made.append(work.commit_object(tree, made[-1:] * times, f"number {number}"))
    return made


def differences_from_a_large_commit(
    work: Work, count: int, size: int = 48 << 20, link: int = 0
) -> tuple[bytes, list[Target]]:
    """A pack of one commit of so many bytes, and of small ones kept as differences from it; their ids.

    With a `link`, what lies between that commit and the others is one more, of so many bytes.
    """
    tree = work.tree({})
    who = b"a <a@b> 1700000000 +0000"

    def commit(message: bytes) -> bytes:
        return b"tree %b\nauthor %b\ncommitter %b\n\n%b" % (tree, who, who, message)

    large = commit(b"a" * size)
    bodies, entries = [large], [_entry(1, large)]
    base = len(large)
    if link:
        step = b"\x90\xff"  # 255 bytes from the beginning
        data = _varint(base) + _varint(255 * (link // 255)) + step * (link // 255)
        entries.append(_entry(6, data, _back(len(entries[0]))))
        base = 255 * (link // 255)
        bodies.append(large[:255] * (link // 255))
    after = 12 + sum(map(len, entries))
    from_ = after - len(entries[-1])
    for number in range(count):
        body = commit(b"small %d\n" % number)
        pieces = [body[at : at + 127] for at in range(0, len(body), 127)]
        data = _varint(base) + _varint(len(body)) + b"".join(bytes([len(one)]) + one for one in pieces)
        entries.append(_entry(6, data, _back(after - from_)))
        after += len(entries[-1])
        bodies.append(body)
    pack = b"PACK" + struct.pack(">II", 2, len(entries)) + b"".join(entries)
    pack += hashlib.new(work.object_format, pack, usedforsecurity=False).digest()
    ids = [
        hashlib.new(work.object_format, b"commit %d\0%b" % (len(body), body), usedforsecurity=False)
        for body in bodies
    ]
    return pack, [Target(one.hexdigest().encode()) for one in ids]


def _entry(kind: int, data: bytes, base: bytes = b"") -> bytes:
    """One object as packs have it: gitformat-pack(5)."""
    left, head = len(data) >> 4, [kind << 4 | len(data) & 15]
    while left:
        head[-1] |= 0x80
        head.append(left & 0x7F)
        left >>= 7
    return bytes(head) + base + zlib.compress(data, 9)


def _varint(number: int) -> bytes:
    found = bytearray([number & 0x7F])
    while number := number >> 7:
        found[-1] |= 0x80
        found.append(number & 0x7F)
    return bytes(found)


def _back(distance: int) -> bytes:
    """How far before an entry its base begins."""
    found = [distance & 0x7F]
    while distance := distance >> 7:
        distance -= 1
        found.append(0x80 | distance & 0x7F)
    return bytes(reversed(found))
