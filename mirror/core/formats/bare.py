"""A repository as files (gitrepository-layout(5)), as far as it is taken over: its objects and refs.

Who uses it: git/unpack. Nothing else of such a repository counts: no configuration, no hook, no other
repository that it names.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mirror.core.errors import Refused
from mirror.core.model import HEAD, HEX_LENGTH, ObjectFormat, RefName, Refs, Target
from mirror.core.refs import is_symbolic, is_valid, resolve, shown_text

LONGEST_REF: Final = 4096  # bytes of the file of one ref
LONGEST_PACKED_REFS: Final = 256 << 20  # bytes; a million refs have about 100 MB
START: Final = 512  # bytes of a file that `container` needs


class Container(StrEnum):
    """What a file that somebody brings in is, by its first bytes."""

    BUNDLE = "a git bundle"
    TAR = "a tar archive"
    TAR_GZ = "a tar.gz archive"
    ZIP = "a zip archive"


_OTHERS: Final = (
    (b"PACK", "it is a pack, which has no refs"),
    (b"BZh", "it is packed with bzip2"),
    (b"\xfd7zXZ", "it is packed with xz"),
    (b"\x28\xb5\x2f\xfd", "it is packed with zstd"),
    (b"7z\xbc\xaf", "it is packed with 7-Zip"),
    (b"age-encryption.org/", "it is encrypted"),
)
_WAYS: Final = "a git bundle, or a tar, tar.gz or zip archive of a repository"


def container(start: bytes) -> Container:
    """What a file is, by its first START bytes. Raises Refused, saying what would be taken."""
    if re.match(rb"# v[0-9]+ git bundle\n", start):
        return Container.BUNDLE
    if start.startswith(b"\x1f\x8b"):
        return Container.TAR_GZ
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Container.ZIP
    if start[257:262] == b"ustar":
        return Container.TAR
    for magic, what in _OTHERS:
        if start.startswith(magic):
            raise Refused(f"{what}; give {_WAYS}")
    what = "it is empty" if not start else "it is no file of git that Everref knows"
    raise Refused(f"{what}; give {_WAYS}")


class Part(StrEnum):
    """What a file is in a repository."""

    HEAD = "HEAD"
    REF = "ref"
    PACKED_REFS = "packed-refs"
    PACK = "pack"
    LOOSE = "loose object"
    BORROWED = "alternates"
    SHALLOW = "shallow"
    PARTIAL = "partial"
    REFTABLE = "reftable"


_LOOSE: Final = re.compile(rb"objects/([0-9a-f]{2})/([0-9a-f]{38}|[0-9a-f]{62})")
_PACK: Final = re.compile(rb"objects/pack/[^/]+\.pack")
_PARTIAL: Final = re.compile(rb"objects/pack/[^/]+\.promisor")
_NAMED: Final = {
    b"HEAD": Part.HEAD,
    b"packed-refs": Part.PACKED_REFS,
    b"objects/info/alternates": Part.BORROWED,
    b"shallow": Part.SHALLOW,
    b"reftable/tables.list": Part.REFTABLE,
}


def part_of(name: bytes) -> Part | None:
    """What a file is, by its path below the repository. None: nothing that is taken over."""
    if named := _NAMED.get(name):
        return named
    if name.startswith(b"refs/"):
        return Part.REF if is_valid(name) else None  # git does not read those either
    if _LOOSE.fullmatch(name):
        return Part.LOOSE
    if _PACK.fullmatch(name):
        return Part.PACK
    return Part.PARTIAL if _PARTIAL.fullmatch(name) else None


def clean_path(name: bytes) -> bytes | None:
    """The path of an archive's member without `./` and doubled slashes. None: it leads out of the archive."""
    if name.startswith(b"/"):
        return None
    pieces = [piece for piece in name.split(b"/") if piece not in (b"", b".")]
    return None if b".." in pieces else b"/".join(pieces)


class Roots:
    """Which folders of an archive are repositories: those with HEAD beside objects."""

    def __init__(self) -> None:
        self._heads: set[bytes] = set()
        self._objects: set[bytes] = set()

    def saw(self, path: bytes) -> None:
        """Note a file or a folder, by its clean path."""
        above, slash, name = path.rpartition(b"/")
        if name == b"HEAD" and not above.endswith(b"/logs") and above != b"logs":
            self._heads.add(above + slash)
        at = 0
        while (at := path.find(b"objects", at)) >= 0:
            if (at == 0 or path[at - 1 : at] == b"/") and path[at + 7 : at + 8] in (b"", b"/"):
                self._objects.add(path[:at])
            at += 7

    def only(self) -> bytes:
        """What precedes every file of the one repository: nothing, or a path with its slash. Raises Refused.

        One that lies in another, as those of submodules do, is none of its own.
        """
        found = sorted(self._heads & self._objects)
        outer = [one for one in found if not any(other != one and one.startswith(other) for other in found)]
        if not outer:
            raise Refused(
                "there is no git repository in it: a repository has HEAD beside the folders objects and refs"
            )
        if len(outer) > 1:
            shown = ", ".join(shown_text(one) or "the top" for one in outer[:3])
            raise Refused(f"there is more than one repository in it ({shown}); give one at a time")
        return outer[0]


@dataclass(frozen=True, slots=True)
class FoundRefs:
    """The refs of a repository, as its files say."""

    refs: Refs
    object_format: ObjectFormat


def refs_of(head: bytes, packed: Iterable[bytes], loose: Mapping[bytes, bytes]) -> FoundRefs:
    """The refs as git reads them: a loose one goes before a packed one. Raises Refused for what is no ref.

    `head`: the content of HEAD; `packed`: the lines of packed-refs without their ends; `loose`: by name, the
    contents of the files below refs/.
    """
    found: dict[RefName, Target] = dict(_packed(packed))
    for name, content in loose.items():
        found[RefName(name)] = _target(name, content)
    ids = {len(target) for target in found.values() if not is_symbolic(target)}
    at = _target(HEAD, head)
    if not is_symbolic(at):
        ids.add(len(at))
    formats = [one for one, length in HEX_LENGTH.items() if length in ids]
    if not formats:
        raise Refused("it has no refs that point at anything, so there is nothing to bring in")
    if len(formats) > 1:
        raise Refused("its refs are of two object formats; it is no whole repository")
    refs: Refs = {HEAD: at, **found}
    return FoundRefs({name: refs[name] for name in refs.keys() - _dangling(refs)}, formats[0])


def _dangling(refs: Refs) -> set[RefName]:
    """Symbolic refs, HEAD left out, that come to nothing: git ignores them."""
    return {
        name
        for name, target in refs.items()
        if name != HEAD and is_symbolic(target) and resolve(refs, name) is None
    }


def _packed(lines: Iterable[bytes]) -> Iterator[tuple[RefName, Target]]:
    for line in lines:
        if not line or line.startswith((b"#", b"^")):
            continue
        target, _, name = line.partition(b" ")
        if len(target) not in HEX_LENGTH.values() or target.strip(b"0123456789abcdef"):
            raise Refused(f"unexpected line in .git/packed-refs: {shown_text(line[:100])}")
        if not is_valid(name):
            raise Refused(f"its packed-refs has {shown_text(name[:200])!r}, a name that git does not accept")
        yield RefName(name), Target(target)


def _target(name: bytes, content: bytes) -> Target:
    text = content.strip()
    if text.startswith(b"ref:"):
        to = text[4:].strip()
        if is_valid(to):
            return Target(b"ref: " + to)
    elif len(text) in HEX_LENGTH.values() and not text.strip(b"0123456789abcdef"):
        if text.strip(b"0"):
            return Target(text)
    raise Refused(
        f"{shown_text(name)} is a broken ref: it holds {shown_text(content[:60])!r} and no object id;"
        " repair or delete it, and bring the repository in again"
    )


def head_of(refs: Refs, head: Target | None) -> Target | None:
    """HEAD of a bundle, which tells only the object that it came to, or not even that.

    As git clone finds it: main or master if it comes to that object, else the first branch that does, else
    the object itself. Where the bundle does not tell it: main or master, else the only branch. None: nothing
    points to one.
    """
    branches = {name: refs[name] for name in sorted(refs) if name.startswith(b"refs/heads/")}
    usual = [RefName(b"refs/heads/main"), RefName(b"refs/heads/master")]
    if head is not None:
        fits = [name for name in (*usual, *branches) if branches.get(name) == head]
        return Target(b"ref: " + fits[0]) if fits else head
    fits = [name for name in usual if name in branches]
    if not fits and branches:
        fits = list(branches)[:1]
    return Target(b"ref: " + fits[0]) if fits else None
