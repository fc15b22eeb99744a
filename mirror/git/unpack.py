"""The repository in an archive or a folder that somebody brings in: its objects and refs, no more of it.

Who calls: backup/bring_in. What is read may be made by an attacker. So nothing of it is run, believed
or written under a name of its own: files are chosen by a list (core/formats/bare), what they hold is
counted against a bound, git gives each object its name anew, and no index, configuration, hook, link or
other repository that it names has any effect.
"""

import asyncio
import gzip
import os
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from struct import error as StructError
from typing import IO, Any, Final, Literal, Protocol, TypeVar

from mirror.core.errors import Corrupt, Refused
from mirror.core.formats import bare
from mirror.core.formats.bare import Container, FoundRefs, Part, Roots
from mirror.core.model import HEX_LENGTH
from mirror.core.progress import Progress
from mirror.core.refs import shown_text
from mirror.git import pack
from mirror.git.disk import disk_error
from mirror.git.pack import Indexing
from mirror.git.run import CHUNK, Git
from mirror.git.view import View, lay_out

MOST_FILES: Final = 1_000_000  # in an archive or a folder
MOST_IN_ZIP: Final = 200_000  # files in a zip, whose list is read whole
LONGEST_NAME: Final = 4096  # bytes of a path
_LIST_OF_ZIP: Final = 64 << 20  # bytes of that list
_HEADERS_OF_TAR: Final = 4 << 20  # bytes of the headers of one file
SOURCE: Final = "what was brought in"

_UNREADABLE: Final = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError, StructError),
    *(ValueError, ArithmeticError, LookupError, RuntimeError, TypeError, AttributeError),
)  # what Python's readers of archives raise where one is broken, or made to break them

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """Something in an archive or a folder."""

    path: bytes  # clean
    kind: Literal["file", "folder", "other"]  # other: a link, a device or the like
    open: Callable[[], "Content"] = field(repr=False)  # of a file
    at: Path | None = None  # the file itself; None: it is in an archive


class Content(Protocol):
    """What a file holds."""

    def read(self, size: int) -> bytes:
        """The next bytes, so many at the most; none at the end."""

    def close(self) -> None: ...


class Members(Protocol):
    """An archive or a folder."""

    def walk(self) -> Iterator[Member]:
        """Everything in it, in its order. Raises Corrupt, Refused."""


class _Stopped(Exception):
    """Nobody waits for this any more."""


@dataclass(slots=True)
class Bound:
    """How many bytes may still be unpacked."""

    left: int
    _stopped: threading.Event = field(default_factory=threading.Event)

    def take(self, size: int) -> None:
        """Count what was unpacked. Raises Refused."""
        self.left -= size
        if self.left < 0:
            raise Refused(
                "it holds more than may be fetched at once; the person who runs Everref can allow more with"
                " EVERREF_FETCH_BYTES"
            )
        if self._stopped.is_set():
            raise _Stopped

    async def thread(self, work: Callable[[], T]) -> T:
        """Run blocking work, which calls `take` often, in a thread; cancelled, it ends soon."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._stopped.set()
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()
            raise


@dataclass(slots=True)
class Unpacked:
    """The files of a repository that are taken over, as `unpack` left them."""

    refs: FoundRefs
    packs: list[Path]
    loose: Path  # a directory of ours whose objects are those that were loose
    names: list[bytes]  # of those, as their files had them
    room: Path  # below which files are ours


@dataclass(slots=True)
class _Found:
    """What was found so far."""

    head: bytes = b""
    packed: list[bytes] = field(default_factory=list)
    refs: dict[bytes, bytes] = field(default_factory=dict)
    packs: list[Path] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)


def members_of(path: Path, kind: Container) -> Members:
    """The members of an archive."""
    return _Zip(path) if kind is Container.ZIP else _Tar(path, is_compressed=kind is Container.TAR_GZ)


def folder(path: Path) -> Members:
    """The repository in a folder of this machine: bare, or a working copy with `.git`. Raises Refused."""
    for place in (path, path / ".git"):
        if (place / "HEAD").is_file() and (place / "objects").is_dir():
            return _Folder(place)
    raise Refused(
        f"{path} is neither an export of Everref nor a git repository, which has HEAD beside the folders"
        " objects and refs"
    )


async def unpack(members: Members, room: Path, bound: Bound, progress: Progress) -> Unpacked:
    """Put what is taken over of the one repository in there below `room`, an empty directory.

    Raises Refused and Corrupt for what is no repository, or not a whole one; LimitReached.
    """
    progress.phase("looking for the repository")
    root = await bound.thread(partial(_root, members, bound))
    progress.phase("unpacking", None, "bytes")
    loop = asyncio.get_running_loop()

    def tell(size: int) -> None:
        loop.call_soon_threadsafe(progress.advance, size)

    found = await bound.thread(partial(_extract, members, root, room, bound, tell))
    refs = bare.refs_of(found.head, found.packed, found.refs)
    names = [name for name in found.names if len(name) == HEX_LENGTH[refs.object_format]]
    loose = room / "loose"
    if names:
        await asyncio.to_thread(lay_out, loose, refs.object_format)
    return Unpacked(refs, found.packs, loose, names, room)


async def index(git: Git, view: View, found: Unpacked, bytes_at_most: int, progress: Progress) -> None:
    """Put the objects into a view of ours: git unpacks each one, and gives it its name anew.

    So an object whose bytes were changed is another one, which no ref reaches. Raises Corrupt with git's
    own words.
    """
    how = Indexing(view.object_format, source=SOURCE, longest=bytes_at_most)
    for path in found.packs:
        progress.phase("checking a pack", path.stat().st_size, "bytes")
        await pack.index(git, view.path, counted(pack.file_chunks(path), progress), how)
        if path.is_relative_to(found.room):
            path.unlink()
    if found.names:
        progress.phase("checking loose objects", None, "bytes")
        chunks = pack.make_listed(git, found.loose, found.names)
        await pack.index(git, view.path, counted(chunks, progress), how)


async def counted(chunks: AsyncGenerator[bytes, None], progress: Progress) -> AsyncGenerator[bytes, None]:
    """The same bytes, told as progress."""
    async for chunk in chunks:
        progress.advance(len(chunk))
        yield chunk


def _root(members: Members, bound: Bound) -> bytes:
    if isinstance(members, _Folder):
        return b""
    roots = Roots()
    for member in members.walk():
        bound.take(0)
        roots.saw(member.path)
    return roots.only()


def _extract(
    members: Members, root: bytes, room: Path, bound: Bound, tell: Callable[[int], object]
) -> _Found:
    found = _Found()
    for member in members.walk():
        bound.take(0)
        part = bare.part_of(member.path.removeprefix(root)) if member.path.startswith(root) else None
        if part is None or member.kind == "folder":
            continue
        name = shown_text(member.path)
        if member.kind == "other":
            raise Refused(f"{name} is a link or no plain file; use tar --dereference --hard-dereference")
        _take(found, part, member, member.path.removeprefix(root), room, bound, tell)
    return found


def _take(
    found: _Found,
    part: Part,
    member: Member,
    name: bytes,
    room: Path,
    bound: Bound,
    tell: Callable[[int], object],
) -> None:
    """Take one file over, or raise what it means that it is there."""
    match part:
        case Part.HEAD:
            found.head = _small(member, bare.LONGEST_REF, bound)
        case Part.REF:
            found.refs[name] = _small(member, bare.LONGEST_REF, bound)
        case Part.PACKED_REFS:
            found.packed = _small(member, bare.LONGEST_PACKED_REFS, bound).split(b"\n")
        case Part.PACK if member.at is not None:
            found.packs.append(member.at)
        case Part.PACK:
            found.packs.append(room / "packs" / f"{len(found.packs):06d}.pack")
            _copy(member, found.packs[-1], bound, tell)
        case Part.LOOSE:
            found.names.append(name[8:10] + name[11:])
            _copy(member, room / "loose" / os.fsdecode(name), bound, tell)
        case Part.BORROWED:
            lines = _small(member, bare.LONGEST_REF, bound).split(b"\n")
            if any(line.strip() and not line.startswith(b"#") for line in lines):
                raise Refused(
                    "it borrows objects from another repository (objects/info/alternates); run git repack -a"
                    " -d there, delete that file, and bring it in again"
                )
        case Part.SHALLOW:
            if _small(member, bare.LONGEST_PACKED_REFS, bound).strip():
                raise Refused(
                    "it is a shallow clone, so a part of its history is missing; run git fetch --unshallow"
                    " there, and bring it in again"
                )
        case Part.PARTIAL:
            raise Refused(
                "it is a partial clone, so some of its objects are missing; clone it again without --filter"
            )
        case Part.REFTABLE:
            raise Refused(
                "it keeps its refs as a reftable, which Everref does not read; run git refs migrate"
                " --ref-format=files there, or make a bundle: git bundle create FILE --all"
            )


def _small(member: Member, most: int, bound: Bound) -> bytes:
    """The whole of a small file. Raises Refused where it is larger."""
    pieces, size = list[bytes](), 0
    for chunk in _chunks(member):
        size += len(chunk)
        bound.take(len(chunk))
        if size > most:
            raise Refused(f"{shown_text(member.path)} has more than {most:,} bytes; it is no file of git")
        pieces.append(chunk)
    return b"".join(pieces)


def _copy(member: Member, to: Path, bound: Bound, tell: Callable[[int], object]) -> None:
    """Write what a file holds to a file of ours; one that was in the archive twice is as it was last."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        out = to.open("wb", buffering=0)
    except OSError as error:
        raise disk_error(to.parent, error) from None
    with out:
        for chunk in _chunks(member):
            bound.take(len(chunk))
            tell(len(chunk))
            try:
                out.write(chunk)
            except OSError as error:
                raise disk_error(to.parent, error) from None


def _chunks(member: Member) -> Iterator[bytes]:
    with _reading():
        file = member.open()
    with closing(file):
        while True:
            with _reading():
                chunk = file.read(CHUNK)
            if not chunk:
                return
            yield chunk


@contextmanager
def _reading() -> Iterator[None]:
    """Say what Python's readers of archives raise in our words: they know no hostile archives."""
    try:
        yield
    except _UNREADABLE as error:
        raise Corrupt(f"the archive cannot be read: {str(error)[:200] or type(error).__name__}") from None


class _Guarded:
    """A file that a reader of archives reads: never much at once, so that no header fills the memory."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self.came = 0  # bytes since somebody set this to 0

    def read(self, size: int = -1) -> bytes:
        room = self._most - self.came
        found = b"" if size > room else self._file.read(room + 1 if size < 0 else size)
        self.came += len(found)
        if size > room or self.came > self._most:
            raise Corrupt("the archive cannot be read: one of its headers is too long")
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


class _Tar:
    """A tar archive, read from its beginning to its end."""

    def __init__(self, path: Path, *, is_compressed: bool) -> None:
        self._path = path
        self._is_compressed = is_compressed

    def walk(self) -> Iterator[Member]:
        opener: Any = gzip.open if self._is_compressed else open
        with _reading():
            file = opener(self._path, "rb")
        with closing(file):
            guarded = _Guarded(file, _HEADERS_OF_TAR)
            with _reading():
                reader: Any = guarded
                tar: Any = tarfile.open(fileobj=reader, mode="r:", encoding="utf-8", errors="surrogateescape")
            before, files = -1, 0
            while True:
                with _reading():
                    guarded.came = 0
                    info = tar.next()
                    guarded.came = 0
                    if info is None:
                        return
                    tar.members.clear()  # of a million files
                    path = info.name.encode("utf-8", "surrogateescape")
                if info.offset <= before or info.size < 0:
                    raise Corrupt("the archive cannot be read: its headers lead back")
                before, files = info.offset, files + 1
                clean = _checked(path, files, MOST_FILES)
                if clean is not None:
                    yield Member(clean, _kind_in_tar(info), partial(_open_in_tar, tar, info, guarded))


def _kind_in_tar(info: tarfile.TarInfo) -> Literal["file", "folder", "other"]:
    if info.isdir():
        return "folder"
    return "file" if info.isreg() and not info.issparse() else "other"


def _open_in_tar(tar: tarfile.TarFile, info: tarfile.TarInfo, guarded: _Guarded) -> Content:
    opened = tar.extractfile(info)
    if opened is None:
        raise Corrupt("the archive cannot be read: a file in it has no content")
    return _Content(opened, guarded)


class _Content:
    """A file in a tar, whose content is no header."""

    def __init__(self, file: IO[bytes], guarded: _Guarded) -> None:
        self._file = file
        self._guarded = guarded

    def read(self, size: int) -> bytes:
        self._guarded.came = 0
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


class _Zip:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def walk(self) -> Iterator[Member]:
        with _reading():
            file = self._path.open("rb")
        with closing(file):
            guarded = _Guarded(file, _LIST_OF_ZIP)
            with _reading():
                archive = zipfile.ZipFile(guarded)
            listed = archive.infolist()
            if len(listed) > MOST_IN_ZIP:
                raise Refused(
                    f"the zip has more than {MOST_IN_ZIP:,} files; run git gc in the repository first, or"
                    " make a bundle: git bundle create FILE --all"
                )
            for number, info in enumerate(listed, 1):
                path = info.filename.encode("utf-8", "surrogateescape")
                clean = _checked(path, number, MOST_IN_ZIP)
                if clean is not None:
                    yield Member(clean, _kind_in_zip(info), partial(_open_in_zip, archive, info, guarded))


def _kind_in_zip(info: zipfile.ZipInfo) -> Literal["file", "folder", "other"]:
    if info.is_dir():
        return "folder"
    mode = info.external_attr >> 16
    return "other" if stat.S_IFMT(mode) not in (0, stat.S_IFREG) else "file"


def _open_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, guarded: _Guarded) -> Content:
    if info.flag_bits & 1:
        raise Refused("the zip is encrypted; bring it in without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused("the zip is compressed in an unusual way; make it with zip -r, or make a tar.gz")
    guarded.came = 0
    return _Content(archive.open(info), guarded)


def _checked(path: bytes, files: int, most: int) -> bytes | None:
    """The clean path of a member. None: it leads out of the archive, where nothing is taken from."""
    if files > most:
        raise Refused(f"there are more than {most:,} files in it; run git gc in the repository first")
    if len(path) > LONGEST_NAME:
        raise Refused(f"a name in it has more than {LONGEST_NAME:,} bytes; it is no repository of git")
    return bare.clean_path(path)


class _Folder:
    """A repository on this machine; its links are not followed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def walk(self) -> Iterator[Member]:
        files = 0
        waiting = [b"HEAD", b"packed-refs", b"shallow", b"reftable/tables.list", b"refs", b"objects"]
        while waiting:
            name = waiting.pop()
            path = self._path / os.fsdecode(name)
            with suppress(FileNotFoundError, NotADirectoryError):
                mode = path.lstat().st_mode
                files += 1
                clean = _checked(name, files, MOST_FILES)
                assert clean is not None, "it was made of names in a directory"
                if stat.S_ISDIR(mode):
                    waiting += [name + b"/" + os.fsencode(one) for one in sorted(os.listdir(path))]
                elif stat.S_ISREG(mode):
                    yield Member(clean, "file", partial(_open_here, path), path)
                else:
                    yield Member(clean, "other", partial(_open_here, path))


def _open_here(path: Path) -> Content:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
