"""Repositories that were made to cost whoever looks into them more than they cost who made them."""

from typing import Final

from mirror.model import Target
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
