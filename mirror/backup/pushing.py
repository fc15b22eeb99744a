"""A push by git's own protocol: its pack is set aside on this disk, then it becomes a snapshot.

Who calls: web/remote/receive. A client is told that a ref is saved only once backup/receive has
recorded that.
"""

import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from mirror.backup import receive
from mirror.backup.sync import share_of
from mirror.core.errors import Corrupt, EverrefError, LimitReached, Origin, Refused
from mirror.core.formats.receive_pack import PushRequest
from mirror.core.model import ObjectFormat, RefName, Refs, Repo, Snapshot, Target
from mirror.core.progress import Progress
from mirror.core.refs import shown_text
from mirror.core.rules import circles, receiving
from mirror.git.disk import disk_error, finish, write_all
from mirror.git.reserve import Room
from mirror.git.run import CHUNK
from mirror.services.open import Services
from mirror.store.backup import beginnings, history, received, snapshots
from mirror.store.discovery import remotes

HEAD_OPTION: Final = "everref.head"  # the push option that says which branch HEAD leads to
_PLACE: Final = "incoming"  # the directory of what is being received


@dataclass(frozen=True, slots=True)
class Pack:
    """What a client has sent: a file without a name, which is gone with the process, however that ends."""

    fd: int
    size: int  # bytes
    is_exact: ClassVar[bool] = False  # a client packs what it likes, also what no ref reaches

    async def fetch(
        self, wants: Sequence[Target], haves: Sequence[Target], progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        """The pack as it was sent, whatever is asked for: the caller proves that it is enough."""
        progress.phase("indexing", self.size, "bytes")
        at = 0
        while chunk := await finish(partial(os.pread, self.fd, CHUNK, at)):
            at += len(chunk)
            progress.advance(len(chunk))
            yield chunk


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push that could be judged."""

    refused: Mapping[RefName, str]  # the commands that were not followed, and why
    snapshot: Snapshot | None  # None: nothing was to be changed
    new: bool  # whether the push made it
    astray: str = ""  # the branch that HEAD leads to and that the push deleted; "": none


def format_of(repo: Repo) -> ObjectFormat:
    """The format of a repo's objects; sha1 where nobody has chosen one."""
    return repo.object_format or "sha1"


async def check_not_paused(services: Services, repo: Repo) -> None:
    """Raise Refused where nothing may be saved of this repo now."""
    if await is_paused(services, repo):
        raise paused(repo)


async def is_paused(services: Services, repo: Repo) -> bool:
    """Whether somebody paused this repo."""
    return (await remotes.get(services.db, repo.id)).paused_at is not None


def paused(repo: Repo) -> Refused:
    """Says what to do."""
    return Refused(f"{repo.name} is paused: nothing new is saved until an admin resumes it in its settings")


async def refs_now(services: Services, repo: Repo) -> Refs:
    """What the latest snapshot shows; empty before the first."""
    last = await snapshots.latest(services.db, repo.id)
    return await history.refs_at(services.db, repo.id, last.number) if last else {}


@asynccontextmanager
async def set_aside(
    services: Services, repo: Repo, chunks: AsyncGenerator[bytes, None]
) -> AsyncIterator[Pack]:
    """The bytes of a pack, on this disk for as long as this is open; no more than fits is read.

    Raises OverLimit as soon as they exceed what the team may still store, LimitReached where they are more
    than EVERREF_FETCH_BYTES or would fill the disk, and what `chunks` raises. Nothing is left of it then.
    """
    place = services.disk.root / _PLACE
    longest = services.settings.fetch_bytes
    share = await share_of(services, await beginnings.of(services.db, repo.id))
    room = Room([place], services.disk.make_way)
    sent = room.counted(share.through(chunks) if share else chunks)
    try:
        fd = await finish(partial(_nameless, place))
    except OSError as error:
        raise disk_error(place, error) from None
    try:
        size = 0
        async with room.kept(), aclosing(sent):
            async for chunk in sent:
                size += len(chunk)
                if size > longest:
                    raise LimitReached(
                        f"the push has more than {longest >> 20} MiB, which is all that one may bring;"
                        " push fewer refs at once",
                        origin=Origin.OURS,
                    )
                try:
                    await finish(partial(write_all, fd, chunk))
                except OSError as error:
                    raise disk_error(place, error) from None
        yield Pack(fd, size)
    finally:
        os.close(fd)


def _nameless(place: os.PathLike[str]) -> int:
    os.makedirs(place, mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=place) as file:
        return os.dup(file.fileno())


class _Unchanged(EverrefError):
    """Nothing is to be changed."""


async def push(
    services: Services,
    repo: Repo,
    request: PushRequest,
    pack: Pack,
    object_format: ObjectFormat,
    by: str,
) -> Pushed:
    """Do what a push asks for: one snapshot with all that is accepted, made by `by`.

    Whether each ref is still where the client takes it to be is decided under the repo's lease
    (core/rules/receiving). Safe to run twice: refs that are where they should be are left and reported as
    saved. Raises what `receive.received` does, with words for whoever pushes.
    """
    head = request.option(HEAD_OPTION)
    wanted = None if head is None else receiving.branch(head)
    judged = receiving.Received({}, {})

    def decide(old: Refs, known: ObjectFormat | None) -> Refs:
        nonlocal judged
        judged = receiving.received(
            old, request.commands, atomic=request.is_atomic, first=known is None, head=wanted
        )
        if judged.refs == old:
            raise _Unchanged("nothing changes")
        return judged.refs

    # Before there is a snapshot that a mirror would push on.
    await received.came_by(services.db, repo.id, circles.marks_in(request.option(circles.OPTION)))
    try:
        done = await receive.received(services, repo.id, pack, object_format, decide, by=by)
    except _Unchanged:
        return Pushed(judged.refused, None, new=False)
    except Corrupt as error:
        if error.origin is not Origin.SOURCE:
            raise
        raise Corrupt(_unsound(request, error), origin=Origin.SOURCE) from None
    astray = receiving.astray(judged.refs, request.commands)
    return Pushed(judged.refused, done.snapshot, done.new, shown_text(astray) if astray else "")


def _unsound(request: PushRequest, error: Corrupt) -> str:
    """Why what was sent cannot be kept, for whoever sent it."""
    if request.is_shallow:
        return (
            "your clone is shallow, and history that it lacks is not here either;"
            " run git fetch --unshallow, then push again"
        )
    return f"nothing was saved: {str(error).replace('the remote', 'your git')}"
