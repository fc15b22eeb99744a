"""One repo's objects on this disk: a bare repository without refs, filled from the vault, grown by syncs."""

import asyncio
import fcntl
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from mirror.core.errors import Busy
from mirror.core.model import ObjectFormat
from mirror.git.disk import disk_error, finish, sync_path
from mirror.git.pack import Indexed, is_whole
from mirror.git.run import Git, GitFailed, explain
from mirror.git.view import config_text, lay_out

REPACK_AT: Final = 50  # packs; from there on every fetch is noticeably slower
MARK: Final = "everref-mark"
_LOOK: Final = 0.05  # seconds between two looks at a lock that somebody holds
_PATIENCE: Final = 3600.0  # seconds
_DRAFTS: Final = ("tmp_*", ".tmp-*", "*.lock")  # what a killed git leaves in objects/pack
_BESIDE: Final = (".rev", ".bitmap", ".mtimes")  # what may stand beside a pack besides its index


class Pool:
    """A cache of the vault: whatever is wrong with it, deleting it repairs it.

    It holds exactly the pack log up to its mark. Every method but `lock` and
    `mark` changes it and wants its lock held, so that one process does so at a time.
    """

    def __init__(self, git: Git, path: Path, object_format: ObjectFormat) -> None:
        self.path = path
        self.object_format = object_format
        self._git = git
        self._lock: int | None = None  # the descriptor of the lock file while we hold it

    @property
    def _packs(self) -> Path:
        return self.path / "objects/pack"

    @asynccontextmanager
    async def lock(self, patience: float = _PATIENCE) -> AsyncIterator[None]:
        """Lock the pool among all processes of this machine; a process that dies releases it.

        Raises Busy when another run holds it for longer than `patience` seconds.
        """
        self._lock = await self._acquire(".lock", patience)
        try:
            yield
        finally:
            os.close(self._lock)
            self._lock = None

    @asynccontextmanager
    async def filling(self, patience: float) -> AsyncIterator[None]:
        """Be the only reader who reads from the vault what the pool lacks; no sync ever waits for that."""
        held = await self._acquire(".filling.lock", patience)
        try:
            yield
        finally:
            os.close(held)

    async def _acquire(self, ending: str, patience: float) -> int:
        file = _lock_file(self.path, ending)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(file, error) from None
        deadline = asyncio.get_running_loop().time() + patience
        try:
            while not _try_lock(fd):
                if asyncio.get_running_loop().time() >= deadline:
                    raise Busy(f"another run is using {self.path.name}; try again when that run has ended")
                await asyncio.sleep(_LOOK)
            os.utime(fd)  # its last use, by which it is chosen to be evicted or not
        except BaseException:
            os.close(fd)
            raise
        return fd

    @staticmethod
    def used_at(path: Path) -> float:
        """When the pool at this path was last used. Raises FileNotFoundError where it never was."""
        return _lock_file(path, ".lock").stat().st_mtime

    @staticmethod
    def note_use(path: Path) -> None:
        """Mark the pool at this path as just used; for readers, which do not take its lock."""
        with suppress(FileNotFoundError):
            os.utime(_lock_file(path, ".lock"))

    @staticmethod
    def remove(path: Path) -> None:
        """Remove the pool at this path from the disk. The caller holds its lock, see `held_alone`."""
        for draft in path.parent.glob(f".{path.name}-*"):
            shutil.rmtree(draft, ignore_errors=True)
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        doomed = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        os.replace(path, doomed)  # which needs no room, as the disk may be full
        sync_path(path.parent)  # or it could come back with the power, and be half of it
        shutil.rmtree(doomed)

    async def open_or_create(self) -> None:
        """Create an empty pool, unless one of this object format exists already."""
        self._check_held()
        await self._on_disk(self._open_or_create)

    def _open_or_create(self) -> None:
        with suppress(OSError, UnicodeDecodeError):
            if (self.path / "config").read_text() == config_text(self.object_format) and self._packs.is_dir():
                return
        self.remove(self.path)
        draft = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        lay_out(draft, self.object_format)
        os.replace(draft, self.path)

    async def mark(self) -> tuple[int, int, str] | None:
        """Up to where it holds the pack log: epoch, snapshot, its manifest's SHA-256; None: nobody knows.

        Nothing that grows a cache is forced to disk, and what was there when the
        machine went down may be half written: a mark of an earlier boot counts if every pack is whole.
        Who holds the lock writes it anew then, so that all packs are read once.
        """
        return await finish(self._read_mark)

    def _read_mark(self) -> tuple[int, int, str] | None:
        try:
            epoch, snapshot, manifest, boot = (self.path / MARK).read_text().split()
            mark = int(epoch), int(snapshot), manifest
            if boot == _boot():
                return mark
            if not all(is_whole(idx) for idx in self._packs.glob("*.idx")):
                return None
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        if self._lock is not None:
            with suppress(OSError):  # the next one reads them again
                self._write_mark(f"{epoch} {snapshot} {manifest} {_boot()}\n")
        return mark

    async def set_mark(self, epoch: int, snapshot: int, manifest: str) -> None:
        """Record what it holds, after the packs are in; `manifest` is the SHA-256 of the snapshot's."""
        self._check_held()
        await self._on_disk(lambda: self._write_mark(f"{epoch} {snapshot} {manifest} {_boot()}\n"))

    def _write_mark(self, text: str) -> None:
        draft = self.path / f"{MARK}.lock"
        draft.write_text(text)
        os.replace(draft, self.path / MARK)

    async def adopt(self, packs: Sequence[Indexed]) -> None:
        """Move packs in from a scratch view on the same disk; git sees each as a whole or not at all."""
        self._check_held()
        await self._on_disk(lambda: self._adopt(packs))

    def _adopt(self, packs: Sequence[Indexed]) -> None:
        for arrived in packs:
            for file in (arrived.pack, arrived.idx):  # the index last: git looks for indexes
                os.replace(file, self._packs / file.name)

    async def link(self, packs: Path, names: Collection[str]) -> None:
        """Link these packs of a view on the same disk, which keeps them too."""
        self._check_held()
        await self._on_disk(lambda: self._link(packs, names))

    def _link(self, packs: Path, names: Collection[str]) -> None:
        for name in names:
            for ending in (".pack", ".idx"):  # likewise
                with suppress(FileExistsError):
                    os.link(packs / (name + ending), self._packs / (name + ending))

    async def clean(self) -> None:
        """Remove what a killed run left: drafts, locks, packs without an index and indexes without a pack."""
        self._check_held()
        await self._on_disk(self._clean)

    def _clean(self) -> None:
        names = {path.name for path in self._packs.iterdir()}
        for path in self._packs.iterdir():
            whole = {path.stem + ".pack", path.stem + ".idx"} <= names
            known = path.suffix in (".pack", ".idx", *_BESIDE)
            if any(path.match(draft) for draft in _DRAFTS) or (known and not whole):
                path.unlink()
        for lock in (*self.path.glob("*.lock"), *self.path.glob("objects/info/*.lock")):
            lock.unlink()

    async def repack_if_due(self) -> bool:
        """Roll small packs into larger ones when there are many; returns whether it did.

        Every object stays, reached by a ref or not: there are none to go by.
        https://git-scm.com/docs/git-repack#Documentation/git-repack.txt---geometricltfactorgt
        """
        self._check_held()
        if len(await asyncio.to_thread(lambda: list(self._packs.glob("*.pack")))) < REPACK_AT:
            return False
        args = ("repack", "--geometric=2", "-d", "-q", "-n")
        try:
            await self._git.run(*args, git_dir=str(self.path), env_config={"repack.writeBitmaps": "false"})
        except GitFailed as failed:
            raise explain(failed) from None
        return True

    async def empty(self) -> None:
        """Remove all objects, the mark first."""
        self._check_held()
        await self._on_disk(self._empty)

    def _empty(self) -> None:
        (self.path / MARK).unlink(missing_ok=True)
        sync_path(self.path)  # or the mark could come back with the power, and the packs not
        for idx in self._packs.glob("*.idx"):
            idx.unlink()
        for file in self._packs.iterdir():
            file.unlink()

    async def empty_if_broken(self) -> bool:
        """Empty the pool if a pack does not match its checksum; returns whether it did. Reads every pack."""
        self._check_held()
        if await finish(lambda: all(is_whole(idx) for idx in self._packs.glob("*.idx"))):
            return False
        await self.empty()
        return True

    async def destroy(self) -> None:
        """Remove it from the disk."""
        self._check_held()
        await self._on_disk(lambda: self.remove(self.path))

    async def _on_disk(self, work: Callable[[], None]) -> None:
        try:
            await finish(work)
        except OSError as error:
            raise disk_error(self.path, error) from None

    def _check_held(self) -> None:
        assert self._lock is not None, "the pool's lock must be held to change it"


@contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Take the lock of the pool at this path if it is free; yields whether it is held."""
    fd = os.open(_lock_file(path, ".lock"), os.O_RDWR | os.O_CLOEXEC)
    try:
        yield _try_lock(fd)
    finally:
        os.close(fd)


def _lock_file(path: Path, ending: str) -> Path:
    # Beside the pool, because `remove` deletes that; never deleted, as a deleted lock locks nobody out.
    return path.with_name(path.name + ending)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@functools.cache
def _boot() -> str:
    """The id of this boot of the machine: proc(5), random/boot_id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
