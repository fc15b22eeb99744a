"""Parsing git's objects for the pages: commits, trees and file changes.

Nothing here trusts what it reads: names, messages and dates are whatever somebody wrote into an object.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from mirror.core.errors import Corrupt
from mirror.core.model import HEAD, HEX_LENGTH, ObjectFormat, RefName, Target

EntryKind = Literal["file", "executable", "link", "folder", "submodule"]
RefKind = Literal["head", "branch", "tag", "note", "pull", "other"]
Sign = Literal[" ", "+", "-"]
Status = Literal["added", "deleted", "modified", "renamed"]

FOLDER: Final = 0o040000
LINK: Final = 0o120000
SUBMODULE: Final = 0o160000

MESSAGE_KEPT: Final = 1 << 16  # bytes of a message that are read
NAME_KEPT: Final = 300  # characters of a name or an address
_PULLS: Final = (b"refs/pull/", b"refs/merge-requests/", b"refs/changes/", b"refs/pull-requests/")
_LFS: Final = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n?\Z"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODING: Final = re.compile(
    r"(utf|iso|latin|windows|cp|koi|euc|shift|sjis|big5|gb|ascii|us-ascii|mac)[-_\w]*", re.IGNORECASE
)
_HEX: Final = re.compile(r"[0-9a-f]+\Z")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as its author wrote it, shown in Unicode."""

    oid: Target
    summary: str  # the first paragraph of the message, on one line
    body: str
    author: str
    author_email: str
    authored_at: datetime | None  # None: the commit gives no time that a calendar has
    committer: str
    committed_at: datetime | None
    parents: tuple[Target, ...]
    tree: Target


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a folder."""

    name: bytes
    kind: EntryKind
    mode: int
    oid: Target
    size: int | None = None  # None: it has none, or it is not held


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a hunk."""

    sign: Sign
    old: int | None  # its number there; None: it is not there
    new: int | None
    text: bytes  # without the line feed
    ends: bool = True  # False: the file ends here without a line feed


@dataclass(frozen=True, slots=True)
class Hunk:
    """A run of changed lines with what stands around them."""

    old_start: int
    old_lines: int
    new_start: int
    new_lines: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change of one file."""

    path: bytes
    status: Status
    old_path: bytes | None  # None: as `path`, or it was added
    old_mode: int | None  # None: it was added
    new_mode: int | None  # None: it was deleted
    old_oid: Target | None
    new_oid: Target | None
    additions: int | None = None  # None: not counted, see `why`
    deletions: int | None = None
    binary: bool = False
    hunks: tuple[Hunk, ...] = ()
    why: str | None = None  # why its lines are not, or not all, here; None: they are


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two trees."""

    files: tuple[FileChange, ...]  # in the order of paths
    total: int  # files that differ, also those beyond the limit
    whole: bool  # False: the trees are so large that the comparison was ended early


@dataclass(frozen=True, slots=True)
class LfsPointer:
    """What a small file of this kind stands for: content that lives outside git."""

    sha256: str
    size: int


def is_id(text: str, object_format: ObjectFormat) -> bool:
    """Whether this is a whole object id of the format."""
    return len(text) == HEX_LENGTH[object_format] and _HEX.match(text) is not None


def ref_kind(name: bytes) -> RefKind:
    """A ref's short name for people."""
    if name == HEAD:
        return "head"
    if name.startswith(b"refs/heads/"):
        return "branch"
    if name.startswith(b"refs/tags/"):
        return "tag"
    if name.startswith(b"refs/notes/"):
        return "note"
    return "pull" if name.startswith(_PULLS) else "other"


def candidates(text: bytes) -> list[RefName]:
    """The ref names that a person who types this may mean, the likeliest first: gitrevisions(7)."""
    text = text or HEAD
    starts = (b"", b"refs/", b"refs/heads/", b"refs/tags/", b"refs/remotes/")
    return [RefName(start + text) for start in starts if (start + text).startswith(b"refs/") or text == HEAD]


def commit(oid: Target, data: bytes) -> Commit:
    """Parse a commit. Raises Corrupt if it is not one."""
    head, _, message = data.partition(b"\n\n")
    fields: dict[bytes, bytes] = {}
    parents: list[Target] = []
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"parent":
            parents.append(Target(value))
        else:
            fields.setdefault(key, value)
    if b"tree" not in fields:
        raise Corrupt(f"commit {oid.decode()} names no tree")
    encoding = fields.get(b"encoding", b"utf-8").decode("ascii", "replace")
    text = decoded(message[:MESSAGE_KEPT], encoding)
    summary, _, body = text.strip("\n").partition("\n\n")
    author, author_email, authored = _person(fields.get(b"author", b""), encoding)
    committer, _, committed = _person(fields.get(b"committer", b""), encoding)
    return Commit(
        oid=oid,
        summary=" ".join(summary.split()),
        body=body.strip("\n"),
        author=author,
        author_email=author_email,
        authored_at=authored,
        committer=committer,
        committed_at=committed,
        parents=tuple(parents),
        tree=Target(fields[b"tree"]),
    )


def tree_of(data: bytes) -> Target | None:
    """The tree of a commit; None: it has none."""
    first = data.partition(b"\n")[0]
    return Target(first[5:]) if first.startswith(b"tree ") else None


def tagged(data: bytes) -> Target | None:
    """The object of a tag; None: it has none."""
    first = data.partition(b"\n")[0]
    return Target(first[7:]) if first.startswith(b"object ") else None


def _person(line: bytes, encoding: str) -> tuple[str, str, datetime | None]:
    """Name, address and time of "Name <address> 1700000000 +0100", or of what looks like it."""
    start, opened, rest = line.partition(b"<")
    address, _, when = rest.rpartition(b">") if b">" in rest else (rest, b"", b"")
    if not opened:
        address = b""
    words = when.split()
    name = decoded(start, encoding).strip()
    return name[:NAME_KEPT], decoded(address, encoding)[:NAME_KEPT], _time(words[0] if words else b"")


def _time(seconds: bytes) -> datetime | None:
    if not re.fullmatch(rb"-?[0-9]{1,15}", seconds):
        return None
    try:
        return _EPOCH + timedelta(seconds=int(seconds))
    except OverflowError:
        return None


def decoded(data: bytes, encoding: str = "utf-8") -> str:
    """Decode any bytes as text: a wrong encoding costs single characters, never the whole."""
    try:
        text = data.decode(encoding if _is_text_encoding(encoding) else "utf-8")
    except (LookupError, UnicodeError, ValueError):
        text = data.decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\0", "\ufffd")


def _is_text_encoding(name: str) -> bool:
    """Whether Python may decode with it: it also has codecs that unpack, such as zlib."""
    return _ENCODING.fullmatch(name) is not None


def entry_kind(mode: int) -> EntryKind:
    """What an entry of this mode is."""
    kind = mode & 0o170000
    if kind == FOLDER:
        return "folder"
    if kind == LINK:
        return "link"
    if kind == SUBMODULE:
        return "submodule"
    return "executable" if mode & 0o100 else "file"


def lfs_pointer(data: bytes) -> LfsPointer | None:
    """What a Git LFS pointer file stands for; None: it is another file."""
    found = _LFS.match(data) if len(data) < 1024 else None
    return LfsPointer(found[1].decode(), int(found[2])) if found else None


def is_binary(data: bytes) -> bool:
    """Whether git would show no lines of this: a NUL in its first 8,000 bytes."""
    return b"\0" in data[:8000]


def text_of(data: bytes) -> tuple[str, str] | None:
    """A file's text, and the encoding that it was read in; None: it is binary."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            try:
                return data.decode(encoding), encoding.removesuffix("-sig")
            except UnicodeDecodeError:
                break
    if is_binary(data):
        return None
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError as error:
        if error.end >= len(data) - 4 and error.reason == "unexpected end of data":
            return data.decode("utf-8", "replace"), "utf-8"  # it was cut within a character
        return data.decode("latin-1"), "latin-1"
