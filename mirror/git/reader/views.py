"""Views of a pool for reading; nothing is parsed here (see git/reader/answers).

Nothing here holds the pool's lock: a reader links the packs into its own
view, where no sync can remove them.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from mirror.core.errors import Busy
from mirror.core.model import Target
from mirror.git.disk import disk_error, finish
from mirror.git.pool import MARK, Pool
from mirror.git.run import Git, GitFailed, explain
from mirror.git.view import View, scratch_view

Mark = tuple[int, int, str]  # epoch, snapshot, its manifest's SHA-256: see Pool.mark
Stamp = tuple[int, int]  # which mark file it is

STREAM_SECONDS: Final = 6 * 3600.0  # for one object to be handed out

_ABANDONED: Final = 6 * 3600.0  # seconds after which a view is what a killed process left
_TRIES: Final = 40
_LOOK: Final = 0.025  # seconds between two of them


@asynccontextmanager
async def reading(pool: Pool, room: Path) -> AsyncIterator[tuple[View, Mark | None]]:
    """A view of the pool's packs as they are now, and the pool's mark, which it holds at least.

    The packs are hard links. A sync may grow, repack or empty the pool meanwhile.
    Without a mark nobody knows what is in the pool, and the view is empty.
    Raises Busy when the pool changes faster than it can be looked at.
    """
    async with scratch_view(None, room, object_format=pool.object_format) as view:
        for _ in range(_TRIES):
            mark = await _mark(pool)
            if mark is None:
                yield view, None
                return
            try:
                settled = await finish(lambda: _link(pool.path, view.objects / "pack"))
            except OSError as error:
                raise disk_error(room, error) from None
            if settled and await _mark(pool) == mark:
                yield view, mark
                return
            await asyncio.sleep(_LOOK)
        raise Busy(f"{pool.path.name} is changing right now; try again in a moment")


_marks: dict[Path, tuple[Stamp, Mark]] = {}


async def _mark(pool: Pool) -> Mark | None:
    """The pool's mark. After a restart of the machine all packs are read for it: once, not for each page."""
    stamp = await finish(lambda: _stamp(pool.path))
    if stamp is None:
        return None
    known = _marks.get(pool.path)
    if known and known[0] == stamp:
        return known[1]
    mark = await pool.mark()
    if mark and await finish(lambda: _stamp(pool.path)) == stamp:
        _marks[pool.path] = stamp, mark
    return mark


async def sweep(room: Path) -> None:
    """Remove the views of processes that were killed long ago."""
    await finish(lambda: _sweep(room))


def _sweep(room: Path) -> None:
    try:
        with os.scandir(room) as found:
            old = [one.path for one in found if one.stat().st_mtime < time.time() - _ABANDONED]
    except OSError:
        return
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def _link(pool: Path, here: Path) -> bool:
    """Link every pack that is there and not yet here; tells if the pool stayed as it is meanwhile."""
    packs = pool / "objects/pack"
    Pool.note_use(pool)
    stamp, before = _stamp(pool), _indexes(packs)
    for stem in before:
        for suffix in (".pack", ".idx"):  # the index last, as when they arrive
            try:
                os.link(packs / (stem + suffix), here / (stem + suffix))
            except FileExistsError:
                pass
            except FileNotFoundError:
                return False
    return stamp is not None and stamp == _stamp(pool) and before == _indexes(packs)


def _stamp(pool: Path) -> Stamp | None:
    """Which mark this is: a pool that was emptied and filled again gets a new one, also of the same words."""
    try:
        found = os.stat(pool / MARK)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


async def packs(view: View) -> set[str]:
    """The names of the packs that a view has, without their endings."""
    return await finish(lambda: _indexes(view.objects / "pack"))


def _indexes(packs: Path) -> set[str]:
    try:
        return {name[:-4] for name in os.listdir(packs) if name.startswith("pack-") and name.endswith(".idx")}
    except FileNotFoundError:
        return set()


async def stream(git: Git, view: View, kind: str, oid: Target) -> AsyncGenerator[bytes, None]:
    """An object's content in chunks, as git reads it with the memory that it has."""
    try:
        async with git.process(
            "cat-file", kind, oid, git_dir=str(view.path), stdin=False, timeout=STREAM_SECONDS
        ) as child:
            async for chunk in child.stdout:
                yield chunk
    except GitFailed as failed:
        raise explain(failed) from None
