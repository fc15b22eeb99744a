"""All pools on this disk: how much they hold together, and which are evicted when room is short.

Who calls: code that is about to fill a pool or has met a full disk; a worker, every minute.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.git.disk import finish
from mirror.git.pool import Pool, held_alone

SPARE: Final = 64 << 20  # bytes that stay free where pools can make room for them
_KNOWN_SECONDS: Final = 30.0  # for which what was counted is good enough, if nothing large comes
_GAVE_SECONDS: Final = 5.0  # in which others that met the same full disk only try again
_COUNT: Final = ".evicted"  # one byte for each pool that was evicted on this disk

log = logging.getLogger("mirror.pools")


@dataclass(frozen=True, slots=True)
class Measured:
    """What there is to say of the pools of a disk."""

    bytes: int
    evicted: int  # ever


@dataclass(frozen=True, slots=True)
class _Held:
    path: Path
    bytes: int
    used: float  # when somebody last took its lock or read it


class Pools:
    """The pools under `root`; all processes of a machine that share it may do this at the same time.

    A pool is a cache, so evicting one costs reading its repo's parts from the vault at
    its next use. The least recently used go first. One whose lock is held is left
    alone; who reads a pool has links to its packs, which stay as long as the reader does.
    """

    def __init__(self, root: Path, bound: int | None = None) -> None:
        self._root = root
        self._bound = bound  # bytes; None: half of what is free and theirs
        self._known = 0  # bytes, when they were last counted and what was announced since
        self._counted = float("-inf")
        self._gave = float("-inf")

    async def make_room(self, path: Path, bytes: int) -> None:
        """Evict as many pools as needed so that `bytes` more fit below `path`, if that is on this disk."""
        try:
            await finish(lambda: self._make_room(path, bytes))
        except OSError as error:  # the caller reports it if room is short
            log.warning("could not evict pools in %s: %s", self._root, error.strerror)

    async def give_way(self, path: Path | None) -> bool:
        """Evict half of what they hold because the disk is full; returns whether that may have helped.

        `path` is where there was no room; None: on this disk.
        """
        try:
            return await finish(lambda: self._give_way(path))
        except OSError as error:
            log.warning("could not evict pools in %s: %s", self._root, error.strerror)
            return False

    async def held(self) -> dict[str, int]:
        """How many bytes each pool has, by its name: its repo's id."""
        return await finish(lambda: {pool.path.stem: pool.bytes for pool in self._scan()})

    async def keep_within(self, names: Collection[str], bound: int) -> None:
        """Evict the least recently used of these pools until together they hold at most `bound` bytes."""
        try:
            await finish(lambda: self._keep_within(frozenset(names), bound))
        except OSError as error:
            log.warning("could not evict pools in %s: %s", self._root, error.strerror)

    def _keep_within(self, names: frozenset[str], bound: int) -> None:
        with self._alone():
            pools = [pool for pool in self._count()[0] if pool.path.stem in names]
            self._evict(pools, sum(pool.bytes for pool in pools) - bound)

    async def measured(self) -> Measured:
        """What they hold now."""
        return await finish(lambda: Measured(self._count()[1], self._evictions()))

    def _make_room(self, path: Path, bytes: int) -> None:
        if not self._is_here(path):
            return
        self._known += bytes
        free = shutil.disk_usage(self._root).free
        late = time.monotonic() > self._counted + _KNOWN_SECONDS
        if late or self._lack(self._known, free, bytes) > 0:
            with self._alone():
                pools, held = self._count()
                free = shutil.disk_usage(self._root).free
                self._evict(pools, self._lack(held + bytes, free, bytes))
                self._known += bytes

    def _is_here(self, path: Path) -> bool:
        """Whether a path is on the same disk as the pools."""
        try:
            return os.stat(path).st_dev == os.stat(self._root).st_dev
        except FileNotFoundError:  # there are no pools yet
            return False

    def _lack(self, held: int, free: int, coming: int) -> int:
        """How many bytes must be evicted so that `coming` more fit."""
        bound = (free + held - coming) // 2 if self._bound is None else self._bound
        return max(held - bound, coming + SPARE - free)

    def _give_way(self, path: Path | None) -> bool:
        if not self._is_here(path or self._root):
            return False
        with self._alone():
            if time.monotonic() < self._gave + _GAVE_SECONDS:
                return True
            pools, held = self._count()
            if not self._evict(pools, -(-held // 2)):
                return False
            self._gave = time.monotonic()
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process of this machine evict at a time, or others would count what this one evicts."""
        with (self._root / _COUNT).open("ab") as count:
            fcntl.flock(count, fcntl.LOCK_EX)
            yield

    def _count(self) -> tuple[list[_Held], int]:
        """The pools, the least recently used first, and what they hold together."""
        pools = sorted(self._scan(), key=lambda pool: pool.used)
        held = sum(pool.bytes for pool in pools)
        self._known, self._counted = held, time.monotonic()
        return pools, held

    def _scan(self) -> Iterator[_Held]:
        for path in self._root.glob("[!.]*.git"):
            with suppress(FileNotFoundError):  # somebody else evicts it
                size = sum(file.stat().st_blocks * 512 for file in path.glob("objects/pack/*"))
                yield _Held(path, size, Pool.used_at(path))

    def _evict(self, pools: list[_Held], lack: int) -> bool:
        """Evict pools in this order until `lack` bytes are freed; returns whether any was."""
        gone = 0
        for pool in pools:
            if gone >= lack:
                break
            if pool.bytes:
                with held_alone(pool.path) as held:
                    # Somebody may have used it since it was counted.
                    if held and Pool.used_at(pool.path) == pool.used:
                        Pool.remove(pool.path)
                        gone += pool.bytes
                        with suppress(OSError), (self._root / _COUNT).open("ab") as count:
                            count.write(b".")
        self._known -= gone
        return gone > 0

    def _evictions(self) -> int:
        with suppress(FileNotFoundError):
            return (self._root / _COUNT).stat().st_size
        return 0
