"""Packs: checked and indexed as they stream in, made thin for the next part, or installed in a repository.

Between the remote and the vault (index, make_thin, check_proof), and between
the vault and a repository (install, index). The index format is version 2 of
gitformat-pack(5), for both object formats.
"""

import mmap
import os
import struct
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import new as new_hash
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mirror.core.errors import Corrupt, EverrefError, LimitReached, OurFault
from mirror.core.model import HEX_LENGTH, ObjectFormat, Target
from mirror.git.disk import disk_error, finish, sync_path, write_all
from mirror.git.run import CHUNK, Git, GitFailed, explain

_MAGIC: Final = b"\xfftOc\0\0\0\2"
_FAN_OUT: Final = 8 + 256 * 4  # bytes of the index before the ids
_LARGE: Final = 0x80000000  # in an offset of 4 bytes: the rest is a place in the table of 8-byte ones
_STEP: Final = 1 << 14  # index entries read at once
_SMALL: Final = 1 << 20  # bytes; a pack of no objects and its index are less
_REMOTE: Final = "what the remote sent"


@dataclass(frozen=True, slots=True)
class Indexed:
    """A pack that is in a repository's objects/pack, and its index."""

    pack: Path
    idx: Path

    @property
    def pack_id(self) -> str:
        """The pack's own checksum, hex."""
        return self.pack.stem.removeprefix("pack-")


@dataclass(frozen=True, slots=True)
class Indexing:
    """How strictly a pack is checked while it is indexed, and how it is written."""

    object_format: ObjectFormat
    self_contained: bool = False  # follow every link between objects; none may lead out of the pack
    fix_thin: bool = (
        False  # add the delta bases that the pack lacks and the repository (or its alternate) has
    )
    source: str = _REMOTE  # where it comes from, for messages
    durable: bool = False  # have it safe on disk at the end, which scratch space and caches need not be
    hasty: bool = False  # add bases uncompressed, for a pack that is removed soon
    longest: int | None = None  # bytes; with the bases that it lacks twice as many. None: there is no bound


async def index(git: Git, path: Path, chunks: AsyncIterator[bytes], how: Indexing) -> Indexed:
    """Stream a pack into the repository at `path`; git unpacks and hashes every object of it on the way.

    No more is read from `chunks` than git takes. Raises Corrupt, naming the source, when it is not a whole
    pack or is too long; what `chunks` raises; LimitReached when the disk is full.
    """
    args = ["index-pack", "--stdin"]
    args += ["--fix-thin"] if how.fix_thin else []
    args += ["--check-self-contained-and-connected"] if how.self_contained else []
    args += [f"--max-input-size={how.longest}"] if how.longest is not None else []
    config = {"pack.writeReverseIndex": "false", "core.fsync": "all" if how.durable else "none"}
    config |= {"core.looseCompression": "0"} if how.hasty else {}
    try:
        async with (
            _closing(chunks),
            git.process(
                *args,
                git_dir=str(path),
                env_config=config,
                longest_file=None if how.longest is None else 2 * how.longest + _SMALL,
            ) as child,
        ):
            async for chunk in chunks:
                await child.stdin.write(chunk)
            child.stdin.close()
            answer = b"".join([said async for said in child.stdout])
            await child.wait(answer)
    except GitFailed as failed:
        raise _not_whole(failed, how.source) from None
    pack_id = answer.split()[-1].decode()
    if len(pack_id) != HEX_LENGTH[how.object_format]:
        raise Corrupt(f"git index-pack answered {answer[:100]!r} instead of a pack's name")
    pack = path / "objects/pack" / f"pack-{pack_id}.pack"
    return Indexed(pack, pack.with_suffix(".idx"))


def _not_whole(failed: GitFailed, source: str) -> EverrefError:
    """What a failed index-pack means."""
    if failed.returncode == 1 and failed.stdout.startswith(b"pack\t"):
        return Corrupt(f"{source} is not a complete pack: objects in it point at objects that are missing")
    meaning = explain(failed)
    if isinstance(meaning, LimitReached) or failed.returncode < 0:
        return meaning
    if isinstance(meaning, Corrupt):
        return Corrupt(f"{source} is not a complete pack: {failed.line}")
    if meaning is failed:  # git says nothing of the pack: whoever sent it has no part in that
        return OurFault(f"{source} could not be indexed here: {failed.line}; check this machine")
    return meaning


@asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """Close what is left unread of a generator now, not when it is collected."""
    try:
        yield
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def make_thin(
    git: Git, path: Path, tips: Collection[Target], boundary: Collection[Target]
) -> AsyncGenerator[bytes, None]:
    """A thin pack of what `tips` reach and the alternate of the repository at `path` has not.

    `boundary` are commits of the alternate where the walk may stop; deltas are
    made against what they hold. Yields nothing at all when nothing is new.
    Raises Corrupt when something that the tips reach is nowhere.
    """
    lines = [*tips, b"--not", *boundary] if boundary else list(tips)
    async for chunk in _pack_objects(git, path, lines, "--thin", "--local", "--non-empty"):
        yield chunk


async def make_whole(git: Git, path: Path, tips: Collection[Target]) -> AsyncGenerator[bytes, None]:
    """A pack of everything that `tips` reach, which needs nothing from outside."""
    async for chunk in _pack_objects(git, path, list(tips)):
        yield chunk


async def make_listed(git: Git, path: Path, names: Collection[bytes]) -> AsyncGenerator[bytes, None]:
    """A pack of exactly these objects of the repository at `path`, as they are there.

    Whoever reads it finds their names out: that their bytes have those is not checked here. Raises Corrupt
    where git cannot read one.
    """
    args = ("pack-objects", "--stdout", "--window=0", "-q")
    try:
        async with git.process(*args, git_dir=str(path)) as child:
            async with child.fed(b"".join(name + b"\n" for name in names)):
                async for chunk in child.stdout:
                    yield chunk
    except GitFailed as failed:
        raise _not_packed(failed) from None


async def make_checked(git: Git, path: Path, tips: Collection[Target]) -> AsyncGenerator[bytes, None]:
    """The same, for a pack that nobody verifies later. Raises Corrupt if this disk has damaged an object.

    What git writes to a pipe it copies unread, but what it writes to a file it checks:
    so the pack stays in the repository at `path` until this ends.
    """
    base = path / "made"
    args = ("pack-objects", "--revs", "--delta-base-offset", "-q", str(base))
    try:
        name = await git.run(*args, git_dir=str(path), stdin=b"".join(tip + b"\n" for tip in tips))
    except GitFailed as failed:
        raise _not_packed(failed) from None
    made = base.with_name(f"{base.name}-{name.strip().decode()}.pack")
    try:
        async with aclosing(file_chunks(made)) as chunks:
            async for chunk in chunks:
                yield chunk
    finally:
        for file in (made, made.with_suffix(".idx")):
            file.unlink(missing_ok=True)


async def _pack_objects(
    git: Git, path: Path, lines: Sequence[bytes], *options: str
) -> AsyncGenerator[bytes, None]:
    wanted = b"".join(line + b"\n" for line in lines)
    args = ("pack-objects", "--revs", "--stdout", "--delta-base-offset", "-q", *options)
    try:
        async with git.process(*args, git_dir=str(path)) as child:
            await child.feed(wanted)
            async for chunk in child.stdout:
                yield chunk
    except GitFailed as failed:
        raise _not_packed(failed) from None


def _not_packed(failed: GitFailed) -> EverrefError:
    """What a failed pack-objects means."""
    meaning = explain(failed)
    if meaning is failed and failed.returncode == 128:
        return Corrupt(f"a history with missing or broken objects cannot be packed: {failed.line}")
    return meaning


async def install(
    path: Path, chunks: AsyncIterator[bytes], index: AsyncIterator[bytes], object_format: ObjectFormat
) -> Indexed:
    """Put a complete pack and the index that was stored beside it into a repository, without index-pack.

    Safe on disk before this returns; seen by git only as a whole. Raises Corrupt
    when the two do not belong together or either is cut short. The objects are
    not unpacked: the caller knows the sums of what it streams.
    """
    folder = path / "objects/pack"
    size = HEX_LENGTH[object_format] // 2
    drafts: list[Path] = []
    try:
        async with _closing(chunks), _closing(index):
            pack, trailer = await _write(folder, chunks, size, drafts)
            idx, _ = await _write(folder, index, size, drafts)
        return await finish(lambda: _place(pack, idx, trailer))
    except OSError as error:
        raise disk_error(folder, error) from None
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


async def _write(
    folder: Path, chunks: AsyncIterator[bytes], size: int, drafts: list[Path]
) -> tuple[Path, bytes]:
    """Write a file of this stream, safe on disk; its name and its last `size` bytes."""
    fd, name = tempfile.mkstemp(prefix="tmp_", dir=folder)
    drafts.append(Path(name))
    end = b""
    try:
        async for chunk in chunks:
            await finish(partial(write_all, fd, chunk))
            end = (end + chunk[-size:])[-size:]
        os.fchmod(fd, 0o444)
        await finish(partial(os.fsync, fd))
    finally:
        os.close(fd)
    return drafts[-1], end


def _place(pack: Path, idx: Path, trailer: bytes) -> Indexed:
    with IdxFile(idx) as found:
        found.check()
        if found.pack_checksum != trailer:
            raise Corrupt(f"the stored index is of pack {found.pack_checksum.hex()}, not of {trailer.hex()}")
    final = pack.parent / f"pack-{trailer.hex()}.pack"
    os.replace(pack, final)
    os.replace(idx, final.with_suffix(".idx"))  # last: git looks for indexes
    sync_path(pack.parent)
    return Indexed(final, final.with_suffix(".idx"))


def is_whole(idx: Path) -> bool:
    """Whether a pack and its index are what their own checksums say."""
    try:
        with IdxFile(idx) as found, idx.with_suffix(".pack").open("rb") as pack:
            found.check()
            size = found.id_size
            digest = new_hash("sha1" if size == 20 else "sha256", usedforsecurity=False)
            left = os.fstat(pack.fileno()).st_size - size
            while left > 0 and (chunk := pack.read(min(CHUNK, left))):
                digest.update(chunk)
                left -= len(chunk)
            return digest.digest() == pack.read(size) == found.pack_checksum
    except (OSError, Corrupt):
        return False


_WHOLE_FOR: Final = 86_400.0  # seconds for which a pack that was read whole is not read again
_whole: dict[tuple[int, int, int, int], float] = {}  # when a file was read: its device, inode, size and time


async def are_whole(packs: Path) -> bool:
    """Whether the packs of a folder are what their checksums say; each is read once a day by this process.

    git itself does not see it: what it sends out of a pack it copies as it lies there.
    """
    return await finish(lambda: all(_was_whole(idx) for idx in packs.glob("*.idx")))


def _was_whole(idx: Path) -> bool:
    try:
        stat = idx.with_suffix(".pack").stat()
    except OSError:
        return False
    key, now = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns), time.monotonic()
    for old in [one for one, read in _whole.items() if read < now - _WHOLE_FOR]:
        del _whole[old]
    if key not in _whole and is_whole(idx):
        _whole[key] = now
    return key in _whole


async def file_chunks(path: Path, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
    """A file as it is on disk, or `length` bytes of it from `start` on, 1 MiB at a time."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = os.fstat(file.fileno()).st_size - start if length is None else length
        while left > 0 and (chunk := await finish(partial(file.read, min(CHUNK, left)))):
            left -= len(chunk)
            yield chunk


async def is_reached(
    git: Git, path: Path, tips: Collection[Target], boundary: Collection[Target], idx: Path, own_end: int
) -> bool:
    """Whether `tips` reach every own object of a pack (those that begin before byte `own_end`).

    Raises Corrupt unless all that they reach is there; below `boundary` it is known to be.
    """
    wanted = b"".join(line + b"\n" for line in (*tips, *(b"^" + oid for oid in boundary)))
    args = ("rev-list", "--objects", "--no-object-names", "--stdin")
    with IdxFile(idx) as found:
        seen = Seen(found)
        try:
            async with git.process(*args, git_dir=str(path)) as child:
                await child.feed(wanted)
                async for chunk in child.stdout:
                    await finish(partial(seen.feed, chunk))
        except GitFailed as failed:
            raise explain(failed) from None
        return await finish(partial(seen.has_all_own, own_end))


class Seen:
    """Which objects of a pack a list of ids named, one bit an object: the list may be longer than memory."""

    def __init__(self, idx: "IdxFile") -> None:
        self._idx = idx
        self._bits = bytearray(-(-len(idx) // 8))
        self._rest = b""  # of a line that goes on in the next chunk

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the list: ids in hex, a line feed after each."""
        length = 2 * self._idx.id_size + 1  # of a line
        begun = len(self._rest)
        first = min(length - begun, len(chunk)) if begun else 0
        lines = memoryview(chunk)
        self._rest += chunk[:first]
        if len(self._rest) == length:
            self._name(self._rest)
            self._rest = b""
        whole = first + (len(chunk) - first) // length * length
        for at in range(first, whole, length):
            self._name(lines[at : at + length])
        self._rest += chunk[whole:]

    def _name(self, line: bytes | memoryview) -> None:
        place = self._idx.place(bytes.fromhex(str(line, "ascii")))
        if place is not None:
            self._bits[place >> 3] |= 1 << (place & 7)

    def has_all_own(self, end: int) -> bool:
        """Whether every object whose entry begins before byte `end` of the pack was named."""
        return all(
            self._bits[place >> 3] & 1 << (place & 7)
            for place, start in enumerate(self._idx.starts())
            if start < end
        )


async def check_proof(received: Indexed, proof: Indexed, own_end: int) -> None:
    """Raise Corrupt unless the remote had sent every object of the new part; see `proved`."""

    def holds() -> bool:
        with IdxFile(received.idx) as incoming, IdxFile(proof.idx) as proven:
            return proved(incoming, proven, own_end)

    if not await finish(holds):
        raise Corrupt("git packed an object into the part that the remote did not send; nothing was stored")


def proved(incoming: "IdxFile", proof: "IdxFile", own_end: int) -> bool:
    """Whether every own object of the proof was received.

    `proof` is the index of a thin pack after git completed it: what begins at
    byte `own_end` (the thin pack's size without its trailer) are added bases.
    """
    came = incoming.ids()
    seen = b""
    for oid in proof.iter_own(own_end):
        while seen < oid:  # both are in the order of ids
            seen = next(came, b"\xff" * 33)
        if seen != oid:
            return False
    return True


class IdxFile:
    """A pack index, read where it lies. Ids are raw bytes, in order. Raises Corrupt on what is no index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _FAN_OUT + 40:
                raise Corrupt(f"{path.name} is not a pack index: it has {size} bytes")
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        try:
            self._fan: tuple[int, ...] = struct.unpack(">256I", self._map[8:_FAN_OUT])
            self._len = self._fan[255]
            self.id_size = self._read_id_size(size)
        except BaseException:
            self.close()
            raise
        self._offsets = _FAN_OUT + self._len * (self.id_size + 4)
        self._large = self._offsets + self._len * 4

    def _read_id_size(self, size: int) -> int:
        """20 or 32, whichever makes the file as long as it is: the index itself does not tell."""
        if self._map[:8] == _MAGIC and all(a <= b for a, b in zip(self._fan, self._fan[1:], strict=False)):
            for id_size in (20, 32):
                large = size - _FAN_OUT - self._len * (id_size + 8) - 2 * id_size
                if large % 8 == 0 and 0 <= large <= 8 * self._len:
                    return id_size
        raise Corrupt(f"{self.path.name} is not a pack index of version 2, or is cut short")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._map.close()

    def __len__(self) -> int:
        return self._len

    def __contains__(self, oid: object) -> bool:
        return isinstance(oid, bytes) and self.place(oid) is not None

    @property
    def pack_checksum(self) -> bytes:
        """The last bytes of the pack that this is the index of."""
        return self._map[-2 * self.id_size : -self.id_size]

    def check(self) -> None:
        """Raise Corrupt unless the index agrees with its own checksum."""
        digest = new_hash("sha1" if self.id_size == 20 else "sha256", usedforsecurity=False)
        end = len(self._map) - self.id_size
        for start in range(0, end, CHUNK):
            digest.update(self._map[start : min(start + CHUNK, end)])
        if digest.digest() != self._map[end:]:
            raise Corrupt(f"the pack index {self.path.name} does not match its own checksum")

    def ids(self) -> Iterator[bytes]:
        """Every id, in order."""
        size, end = self.id_size, _FAN_OUT + self._len * self.id_size
        for start in range(_FAN_OUT, end, size * _STEP):
            block = self._map[start : min(start + size * _STEP, end)]
            for at in range(0, len(block), size):
                yield block[at : at + size]

    def offset(self, oid: bytes) -> int | None:
        """Where this object's entry begins in the pack; None: it is not in there."""
        place = self.place(oid)
        return None if place is None else self._offset_at(place)

    def offsets(self, oid: bytes) -> list[int]:
        """Where all its entries begin: a pack that somebody made by hand may hold an object twice."""
        place = self.place(oid)
        if place is None:
            return []
        first = last = place
        while first > 0 and self._id_at(first - 1) == oid:
            first -= 1
        while last + 1 < self._len and self._id_at(last + 1) == oid:
            last += 1
        return [self._offset_at(one) for one in range(first, last + 1)]

    def _id_at(self, place: int) -> bytes:
        start = _FAN_OUT + place * self.id_size
        return self._map[start : start + self.id_size]

    def starts(self) -> Iterator[int]:
        """Where the entry of every id begins in the pack, in the order of ids."""
        for start in range(self._offsets, self._large, 4 * _STEP):
            block = self._map[start : min(start + 4 * _STEP, self._large)]
            for (short,) in struct.iter_unpack(">I", block):
                yield short if short < _LARGE else self._large_offset(short)

    def iter_own(self, end: int) -> Iterator[bytes]:
        """The ids of the entries that begin before byte `end` of the pack, in order."""
        return (oid for oid, start in zip(self.ids(), self.starts(), strict=True) if start < end)

    def place(self, oid: bytes) -> int | None:
        """Which of the ids this is, counted from 0; None: none of them."""
        if len(oid) != self.id_size:
            return None
        size, ids = self.id_size, self._map
        first = oid[0]
        low, high = (self._fan[first - 1] if first else 0), self._fan[first]
        while low < high:
            middle = (low + high) // 2
            start = _FAN_OUT + middle * size
            found = ids[start : start + size]
            if found == oid:
                return middle
            if found < oid:
                low = middle + 1
            else:
                high = middle
        return None

    def _offset_at(self, place: int) -> int:
        start = self._offsets + 4 * place
        short = int.from_bytes(self._map[start : start + 4])
        return short if short < _LARGE else self._large_offset(short)

    def _large_offset(self, short: int) -> int:
        start = self._large + 8 * (short & ~_LARGE)
        return int.from_bytes(self._map[start : start + 8])


def absent_from(folders: Collection[Path], ids: Collection[bytes]) -> set[bytes]:
    """Which of these raw ids no pack in these objects/pack folders holds.

    Reads the folders anew at each call, so packs that just arrived count. When
    a repack takes a pack away meanwhile, looks again.
    """
    while True:
        left = set(ids)
        with suppress(FileNotFoundError):
            for folder in folders:
                for path in sorted(folder.glob("pack-*.idx")):
                    if not left:
                        return left
                    with IdxFile(path) as idx:
                        _subtract(left, idx)
            return left


def holds_none(folders: Collection[Path], idx: IdxFile, end: int) -> bool:
    """Whether no pack in these objects/pack folders holds one of the own objects that `iter_own` gives.

    Nothing is brought into memory: the shorter of two indexes is walked, and looked up in the longer.
    """
    for folder in folders:
        for path in sorted(folder.glob("pack-*.idx")):
            with IdxFile(path) as other:
                if len(other) < len(idx):
                    places = (idx.offset(oid) for oid in other.ids())
                    found = any(at is not None and at < end for at in places)
                else:
                    found = any(oid in other for oid in idx.iter_own(end))
            if found:
                return False
    return True


def _subtract(left: set[bytes], idx: IdxFile) -> None:
    if len(idx) < 8 * len(left):
        left.difference_update(idx.ids())
    else:
        left.difference_update([oid for oid in left if oid in idx])


def check_has(idx: Path, targets: Iterable[Target], key: str) -> None:
    """Raise Corrupt, naming the part that git packed, unless it has all of these objects."""
    with IdxFile(idx) as found:
        for target in targets:
            if found.offset(bytes.fromhex(target.decode())) is None:
                raise Corrupt(f"{key}: git packed it without {target.decode()}")
