"""The vault in a directory of one machine: each object is a file, and a hard link makes it appear whole."""

import asyncio
import errno
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from uuid import UUID

from mirror.core.errors import (
    AlreadyExists,
    Busy,
    Corrupt,
    DiskFull,
    EverrefError,
    NetworkError,
    NoSuchObject,
    OurFault,
    Refused,
    UsageError,
)
from mirror.core.formats import layout, marker
from mirror.core.locks import Lock, Locking, LockProof
from mirror.vault.contract import (
    GET_LIMIT,
    Capabilities,
    PutLink,
    Stat,
    Unfinished,
    check_key,
    check_prefix,
    lockless,
    too_large,
)

CHUNK: Final = 1 << 20  # bytes per hop to a thread
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_UNFINISHED: Final = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp")
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_AWAY: Final = frozenset({errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH})

P = ParamSpec("P")
T = TypeVar("T")


class DirectoryVault:
    """A Vault in the directory `root`; its files can be read by their owner only."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity: UUID | None = None  # None: it may be any

    @classmethod
    async def open(cls, root: Path, *, make: bool = True) -> "DirectoryVault":
        """The vault at `root`; with `make`, made where only its last name is missing.

        Without it one that is missing is found missing when it is used. Raises UsageError, Refused.
        """
        if make:
            await asyncio.to_thread(_prepare, root)
        return cls(root)

    def expect(self, identity: UUID) -> None:
        self._identity = identity

    async def recognise(self) -> None:
        await asyncio.to_thread(self._guard)

    def _guard(self) -> None:
        """Raise NetworkError unless this is the expected vault: a disk can vanish between two checks."""
        if self._identity is None:
            return
        with _explained(self._root):
            found = None
            try:
                found = (self._root / layout.MARKER).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                if not self._root.is_dir():
                    raise
        marker.check(found, self._identity, self.describe())

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator["FileWriter"]:
        writer = FileWriter(_Draft(self._root, check_key(key), self._guard))
        try:
            await writer.begin()
            yield writer
        finally:
            await writer.close()

    async def put(self, key: str, data: bytes) -> None:
        draft = _Draft(self._root, check_key(key), self._guard)
        await _finished(_in_thread(draft.put, data))

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        source = _Source(self._root, check_key(key), self._guard)
        await _finished(_in_thread(source.open))
        stop = source.size if end is None else min(end, source.size)
        ahead: asyncio.Future[bytes] | None = None
        try:
            while start < stop or ahead:
                chunk = await _finished(ahead) if ahead else b""
                ahead = None
                if start < stop:
                    # The next chunk is read while the caller is at work on this one.
                    length = min(CHUNK, stop - start)
                    ahead = _in_thread(source.pread, length, start)
                    start += length
                if chunk:
                    yield chunk
        finally:
            await _settled(ahead)
            source.close()

    async def get(self, key: str, limit: int = GET_LIMIT) -> bytes:
        source = _Source(self._root, check_key(key), self._guard)
        return await _finished(_in_thread(source.get, limit))

    async def stat(self, key: str) -> Stat | None:
        return await asyncio.to_thread(self._stat, check_key(key))

    def _stat(self, key: str) -> Stat | None:
        source = _Source(self._root, key, self._guard)
        try:
            source.open()
        except NoSuchObject:
            return None
        source.close()
        return Stat(key, source.size, source.modified)

    async def list(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        above, _, _ = check_prefix(prefix).rpartition("/")
        waiting: list[Stat | str] = [f"{above}/" if above else ""]
        while waiting:
            match waiting.pop():
                case Stat() as found:
                    yield found
                case directory:
                    entries = await asyncio.to_thread(self._scan, directory, prefix)
                    waiting += reversed(entries)

    def _scan(self, directory: str, prefix: str) -> Sequence[Stat | str]:
        """What may begin with `prefix` in a directory, in key order: objects, directories with a slash."""
        found: list[tuple[str, Stat | str]] = []
        with self._scandir(directory) as entries:
            for entry in entries:
                key = f"{directory}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                        found.append((f"{key}/", f"{key}/"))
                elif key.startswith(prefix) and not _UNFINISHED.fullmatch(entry.name):
                    with suppress(FileNotFoundError):  # deleted since
                        found.append((key, _stat_of(key, entry.stat())))
        found.sort(key=lambda item: os.fsencode(item[0]))
        return [entry for _, entry in found]

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._delete, check_key(key))

    def _delete(self, key: str) -> None:
        self._guard()
        with _explained(self._root):
            _remove(self._root, self._root / key)

    def locking(self) -> Locking | None:
        return None

    async def retain(self, key: str, until: datetime) -> None:
        raise lockless(self.describe())

    async def hold(self, key: str, on: bool) -> None:
        raise lockless(self.describe())

    async def locked_until(self, key: str) -> Lock | None:
        if await self.stat(key) is None:
            raise NoSuchObject(f"{key} is not in the vault")
        return None

    async def prove_lock(self) -> LockProof:
        raise lockless(self.describe())

    async def uncover(self, prefix: str = "") -> AsyncGenerator[str, None]:
        nothing: Sequence[str] = ()  # a directory keeps no versions
        for key in nothing:
            yield key

    async def hidden(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        nothing: Sequence[Stat] = ()  # a directory keeps no versions
        for stat in nothing:
            yield stat

    async def discard(self, key: str) -> None:
        await self.give_up(key)
        await self.delete(key)

    async def give_up(self, key: str) -> None:
        await asyncio.to_thread(self._give_up, check_key(key))

    def _give_up(self, key: str) -> None:
        directory, slash, name = key.rpartition("/")
        with self._scandir(directory + slash) as entries:
            drafts = [e.path for e in entries if (m := _UNFINISHED.fullmatch(e.name)) and m["name"] == name]
        with _explained(self._root):
            for path in drafts:
                _remove(self._root, Path(path))

    async def unfinished(self, prefix: str = "") -> Sequence[Unfinished]:
        return await asyncio.to_thread(self._unfinished, check_prefix(prefix))

    def _unfinished(self, prefix: str) -> Sequence[Unfinished]:
        above, slash, _ = prefix.rpartition("/")
        waiting = [above + slash]
        found = []
        while waiting:
            directory = waiting.pop()
            with self._scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{directory}{entry.name}/")
                    elif match := _UNFINISHED.fullmatch(entry.name):
                        key = f"{directory}{match['name']}"
                        with suppress(FileNotFoundError):  # committed or given up since
                            if key.startswith(prefix):
                                found.append(Unfinished(key, _time(entry.stat().st_mtime)))
        return sorted(found, key=lambda one: (one.key, one.since))

    @contextmanager
    def _scandir(self, directory: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """The entries of a directory; none where it does not exist."""
        if not directory:
            self._guard()  # an empty directory is a vault without objects, or no vault
        with _explained(self._root):
            try:
                scan = os.scandir(self._root / directory)
            except (FileNotFoundError, NotADirectoryError):
                if not self._root.is_dir():
                    raise
                self._guard()
                yield iter(())
                return
            with scan:
                yield scan

    async def presign(self, key: str, expires: timedelta, filename: str) -> str | None:
        return None

    async def presign_put(self, key: str, expires: timedelta, size: int, sha256: bytes) -> PutLink | None:
        return None

    async def kept_sha256(self, key: str) -> bytes | None:
        if await self.stat(key) is None:
            raise NoSuchObject(f"{key} is not in the vault")
        return None

    async def capabilities(self) -> Capabilities:
        return Capabilities(conditional_create=True, checksums=False, object_lock=False, versioning=False)

    async def now(self) -> None:
        return None

    async def probe(self) -> None:
        draft = _Draft(self._root, f"probe-{secrets.token_hex(8)}", self._guard)
        await _finished(_in_thread(draft.probe))

    def directory(self) -> Path | None:
        return self._root

    def describe(self) -> str:
        return f"the directory {self._root}"

    async def aclose(self) -> None:
        return None


class FileWriter:
    """A Writer into a draft; one chunk is written in a thread while the next is gathered."""

    def __init__(self, draft: "_Draft") -> None:
        self._draft = draft
        self._gathered: list[bytes] = []
        self._bytes = 0
        self._writing: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        await _finished(_in_thread(self._draft.begin))

    async def write(self, data: bytes) -> None:
        self._gathered.append(data)
        self._bytes += len(data)
        if self._bytes >= CHUNK:
            await self._flush()

    async def commit(self) -> None:
        await self._flush()
        await self._flush()
        await _finished(_in_thread(self._draft.commit))

    async def _flush(self) -> None:
        """Write the collected bytes after those written before."""
        if self._writing:
            await _finished(self._writing)
            self._writing = None
        if self._gathered:
            self._writing = _in_thread(self._draft.write, self._gathered)
            self._gathered, self._bytes = [], 0

    async def close(self) -> None:
        """Leave nothing that was not committed."""
        await _settled(self._writing)
        await _finished(_in_thread(self._draft.close))


class _Draft:
    """A file beside the one that it may become; every method blocks."""

    def __init__(self, root: Path, key: str, guard: Callable[[], None]) -> None:
        self._root, self._key, self._guard = root, key, guard
        self._path = root / key
        self._draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}.tmp")
        self._fd = -1

    def put(self, data: bytes) -> None:
        try:
            self.begin()
            self.write([data])
            self.commit()
        finally:
            self.close()

    def probe(self) -> None:
        try:
            self.begin()
            with _explained(self._root):
                os.posix_fallocate(self._fd, 0, CHUNK)
                os.fsync(self._fd)
        finally:
            self.close()

    def begin(self) -> None:
        self._guard()
        with _explained(self._root):
            while self._fd < 0:
                try:
                    _make_directory(self._root, self._path.parent)
                    self._fd = os.open(self._draft, _NEW, 0o600)
                except FileNotFoundError:
                    if not self._root.is_dir():
                        raise
                    # Another run emptied and removed the directory in between.

    def write(self, pieces: list[bytes]) -> None:
        with _explained(self._root):
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(self._fd, rest) :]

    def commit(self) -> None:
        """Bytes first, then the name, then its directory, so that a crash leaves no half object."""
        with _explained(self._root):
            os.fsync(self._fd)
            try:
                os.link(self._draft, self._path)
            except FileExistsError:
                raise AlreadyExists(f"{self._key} is already in the vault") from None
            except FileNotFoundError:
                if not self._root.is_dir():
                    raise
                self._guard()
                raise Busy(f"another run discarded {self._key} while it was written; try again") from None
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise Refused(
                        f"the file system of the vault's directory {self._root} has no hard links,"
                        " which writing needs; choose a directory on another one"
                    ) from error
                raise
            os.unlink(self._draft)
            _sync_directory(self._path.parent)

    def close(self) -> None:
        """Leave nothing that was not committed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with _explained(self._root):
                _remove(self._root, self._draft)


class _Source:
    """A file that is read; every method blocks."""

    size: int
    modified: datetime

    def __init__(self, root: Path, key: str, guard: Callable[[], None]) -> None:
        self._root, self._key, self._guard = root, key, guard
        self._fd = -1

    def open(self) -> None:
        with _explained(self._root):
            try:
                self._fd = os.open(self._root / self._key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                stat = os.fstat(self._fd)
                if not os.path.isfile(self._fd):
                    self.close()
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            except OSError as error:
                if error.errno in _ABSENT and self._root.is_dir():
                    self._guard()
                    raise NoSuchObject(f"{self._key} is not in the vault") from None
                raise
        self.size, self.modified = stat.st_size, _time(stat.st_mtime)

    def get(self, limit: int) -> bytes:
        self.open()
        try:
            if self.size > limit:
                raise too_large(self._key, limit)
            return self.pread(self.size, 0)
        finally:
            self.close()

    def pread(self, length: int, offset: int) -> bytes:
        with _explained(self._root):
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise Corrupt(f"{self._key} in the vault became shorter while it was read")
                data += more
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _prepare(root: Path) -> None:
    with _explained(root):
        try:
            root.mkdir(mode=0o700)
        except FileExistsError:
            if not root.is_dir():
                raise UsageError(f"the vault must be a directory, but {root} is not one") from None
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"the vault's directory {root} does not exist; create it or mount it") from None
    if not os.access(root, os.R_OK | os.X_OK):
        raise Refused(f"this user may not read the vault's directory {root}; change its owner or mode")


def _make_directory(root: Path, wanted: Path) -> None:
    missing = []
    while wanted != root and not wanted.is_dir():
        missing.append(wanted)
        wanted = wanted.parent
    for directory in reversed(missing):
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        _sync_directory(directory.parent)


def _remove(root: Path, path: Path) -> None:
    """Remove a file where there is one, and the directories that it leaves empty."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in _ABSENT or not root.is_dir():
            raise
        return
    for directory in path.parents:
        if directory == root:
            return
        try:
            directory.rmdir()
        except OSError:  # something else is in it
            return


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _stat_of(key: str, stat: os.stat_result) -> Stat:
    return Stat(key, stat.st_size, _time(stat.st_mtime))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, root) from error


def _explain(error: OSError, root: Path) -> EverrefError:
    if error.errno in _FULL:
        return DiskFull(f"the vault's disk is full ({root}); free some space there and try again", str(root))
    if error.errno in _DENIED:
        return Refused(f"this user may not write to the vault's directory {root}; change its owner or mode")
    if error.errno in _AWAY:
        return NetworkError(f"the vault's directory {root} stopped answering; check its mount and try again")
    if error.errno == errno.EIO:
        return Corrupt(f"the disk of the vault's directory {root} failed; check the disk")
    if not root.is_dir():
        return Refused(f"the vault's directory {root} no longer exists; mount it or restore it")
    return OurFault(f"the vault's directory {root} failed: {error.strerror}; check its disk")


def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    # Not asyncio.to_thread: a cancelled task would leave its thread behind, at work on a closed file.
    return asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **kwargs))


async def _finished(future: asyncio.Future[T]) -> T:
    """The result of a thread. A cancellation still waits for its end, because nobody can stop it."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _settled(future)
        raise


async def _settled(future: asyncio.Future[T] | None) -> None:
    """Wait until a thread is done, whatever its result."""
    while future and not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({future})
    if future:
        future.exception()
