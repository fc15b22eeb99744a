"""Serving fetches from a view by git's own upload-pack, and never an object that its refs do not reach.

git by itself does not see to that: in protocol version 2 it sends any object that is asked for by its id
(gitprotocol-v2(5), "fetch"; gitnamespaces(7), SECURITY), and a view's packs hold what later moments have,
and what was force-pushed away. So every id in a request is judged here before git gets it:

- a want must be a ref's target, or be reached by the refs; partial clones want files and folders by id;
- what a client says it has, and where its history ends, is dropped unless the refs reach it: an answer would
  tell whether the object is there, and packs could hold differences from it.

Who calls: restore/serving.
"""

import asyncio
import bisect
import mmap
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from mirror.core import refs as rules
from mirror.core.errors import LimitReached, NotFound
from mirror.core.formats import upload_pack as protocol
from mirror.core.formats.upload_pack import Request
from mirror.core.model import HEX_LENGTH, Refs, Target
from mirror.git.disk import disk_error, finish
from mirror.git.run import Git, GitFailed, explain
from mirror.git.sharing import Once
from mirror.git.view import View

SECONDS: Final = 6 * 3600.0  # for one pack to be made and read
FINDING: Final = 3600.0  # seconds for git to list what the refs reach
MOST: Final = 16 << 20  # objects of which ids are kept: 320 MB of the disk's cache with sha1
NICE: Final = 10  # so that backups and pages go first
_FEW: Final = 2000  # ids that are looked up without leaving the event loop

# What git may do for a client that we have answered for.
CONFIG: Final = {
    "uploadpack.allowAnySHA1InWant": "true",  # each want was judged above; git need not do it again
    "uploadpack.allowFilter": "true",
    "uploadpack.allowRefInWant": "false",
    "uploadpack.allowSidebandAll": "false",
    "uploadpack.advertiseBundleURIs": "false",
    "uploadpackfilter.allow": "false",
    "uploadpackfilter.blob:none.allow": "true",
    "uploadpackfilter.blob:limit.allow": "true",
    "uploadpackfilter.tree.allow": "true",
    "uploadpackfilter.object:type.allow": "true",
    "uploadpackfilter.combine.allow": "true",  # each part of one is judged by the lines above; no sparse:oid
    "transfer.advertiseSID": "false",
    "transfer.advertiseObjectInfo": "false",
}


class Ids:
    """Very many object ids, sorted, each as long as its format says and nothing between them."""

    def __init__(self, data: bytes | mmap.mmap, size: int) -> None:
        self._data = data
        self._size = size  # bytes of one

    def close(self) -> None:
        """Let go of the file, which else stays on the disk for as long as it is mapped; no ids are left."""
        self._data = b""

    def __len__(self) -> int:
        return len(self._data) // self._size

    def __getitem__(self, number: int) -> bytes:
        return self._data[number * self._size : (number + 1) * self._size]

    def __contains__(self, oid: Target) -> bool:
        wanted = bytes.fromhex(oid.decode())
        at = bisect.bisect_left(self, wanted, 0, len(self))
        return at < len(self) and self[at] == wanted


class Reached:
    """What a view's refs reach, as far as somebody has asked, found out once for all who fetch from it."""

    def __init__(self, git: Git, view: View, refs: Refs) -> None:
        self._git = git
        self._view = view
        self._size = HEX_LENGTH[view.object_format] // 2
        self.tips = frozenset(target for target in refs.values() if not rules.is_symbolic(target))
        self.peeled = Once(self._peeled)
        self._commits = Once(self._list_commits)
        self._objects = Once(self._list_objects)

    async def check(self, wants: Sequence[Target]) -> None:
        """Raise NotFound unless the refs reach all of these."""
        rest = [one for one in wants if one not in self.tips]
        if rest and (rest := await self._lacking(rest, await self._commits.get())):
            rest = await self._lacking(rest, await self._objects.get())
        if rest:
            # As git says it, so that a client that knows better falls back to what it was told.
            raise NotFound(f"upload-pack: not our ref {rest[0].decode()}")

    async def commits_of(self, ids: Sequence[Target]) -> Collection[Target]:
        """Those of these ids that are commits, or what a ref holds, and reached."""
        rest = [one for one in ids if one not in self.tips]
        if not rest:
            return frozenset(ids)
        return frozenset(ids) - frozenset(await self._lacking(rest, await self._commits.get()))

    async def _lacking(self, ids: Sequence[Target], known: Ids) -> list[Target]:
        def found() -> list[Target]:
            return [one for one in ids if one not in known]

        return found() if len(ids) < _FEW else await finish(found)

    async def close(self) -> None:
        """End what is still being found out, and let go of the files of what was."""
        for one in (self.peeled, self._commits, self._objects):
            await one.close()
        for listed in (self._commits.found, self._objects.found):
            if listed is not None:
                listed.close()

    async def _peeled(self) -> dict[Target, Target]:
        """What each annotated tag that a ref holds points to in the end."""
        if not self.tips:
            return {}  # git fails where there is no ref
        try:
            told = await self._git.run("show-ref", "-d", git_dir=str(self._view.path), timeout=FINDING)
        except GitFailed as failed:
            raise explain(failed) from None
        found: dict[Target, Target] = {}
        tag = b""
        for line in told.splitlines():
            oid, _, name = line.partition(b" ")
            if name.endswith(b"^{}"):
                found[Target(tag)] = Target(oid)
            tag = oid
        return found

    async def _list_commits(self) -> Ids:
        return await self._listed("reached-commits", "rev-list", "--all")

    async def _list_objects(self) -> Ids:
        return await self._listed("reached", "rev-list", "--all", "--objects", "--no-object-names")

    async def _listed(self, name: str, *args: str) -> Ids:
        """The ids that git lists, sorted, in a file of the view that is mapped: gone with the view."""
        buckets = [bytearray() for _ in range(256)]  # by their first byte, so that little is sorted at once
        count, rest = 0, b""
        line = 2 * self._size + 1
        try:
            async with self._git.process(
                *args, git_dir=str(self._view.path), stdin=False, timeout=FINDING, nice=NICE
            ) as child:
                async for chunk in child.stdout:
                    rest += chunk
                    whole = len(rest) // line * line
                    count += whole // line
                    if count > MOST:
                        raise LimitReached(
                            f"this repository has more than {MOST} objects; fetch refs and commits only"
                        )
                    await asyncio.to_thread(self._sort_in, buckets, rest[:whole])
                    rest = rest[whole:]
        except GitFailed as failed:
            raise explain(failed) from None
        try:
            return await finish(lambda: self._settled(self._view.path / name, buckets))
        except OSError as error:
            raise disk_error(self._view.path, error) from None

    def _sort_in(self, buckets: list[bytearray], lines: bytes) -> None:
        ids, size = bytes.fromhex(lines.decode()), self._size  # which leaves out the line feeds
        for start in range(0, len(ids), size):
            buckets[ids[start]] += ids[start : start + size]

    def _settled(self, file: Path, buckets: Iterable[bytearray]) -> Ids:
        size = self._size
        with file.open("wb") as out:
            for bucket in buckets:
                ids = sorted({bytes(bucket[at : at + size]) for at in range(0, len(bucket), size)})
                out.write(b"".join(ids))
        with file.open("rb") as done:
            if not file.stat().st_size:
                return Ids(b"", size)
            return Ids(mmap.mmap(done.fileno(), 0, access=mmap.ACCESS_READ), size)


async def judged(request: Request, reached: Reached) -> Request:
    """The fetch as git may get it. Raises NotFound where it wants what the refs do not reach."""
    await reached.check(request.wants)
    named = (*request.haves, *request.shallows)
    known = await reached.commits_of(named) if named else ()
    return protocol.having(request, known, known)


async def upload_pack(git: Git, view: View, request: Request) -> AsyncGenerator[bytes, None]:
    """git's answer to a fetch that was judged, as it comes.

    Where git fails it has mostly said so to the client itself, in what it answers. Raises Corrupt where
    objects are broken, else GitFailed.
    """
    try:
        async with aclosing(_upload_pack(git, view, request)) as chunks:
            async for chunk in chunks:
                yield chunk
    except GitFailed as failed:
        raise explain(failed) from None


async def _upload_pack(git: Git, view: View, request: Request) -> AsyncGenerator[bytes, None]:
    async with git.process(
        "upload-pack",
        "--strict",
        "--stateless-rpc",
        str(view.path),
        timeout=SECONDS,
        env_config=CONFIG,
        env={"GIT_PROTOCOL": "version=2"} if request.version == 2 else {},
        nice=NICE,
    ) as child:

        async def asked() -> AsyncGenerator[bytes, None]:
            for piece in protocol.written(request, view.object_format):
                yield piece

        async with child.fed(asked()), aclosing(child.stdout.in_bulk()) as chunks:
            async for chunk in chunks:
                yield chunk
