"""A moment as a remote that git fetches from: a view with exactly its refs, for all who fetch at once.

Who calls: web/remote/smart_http for clones by people and programs; share links and bundles use the same.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final

from mirror.backup import hydrate
from mirror.core import refs as rules
from mirror.core import words
from mirror.core.errors import Corrupt, EverrefError, NotFound, for_strangers
from mirror.core.formats import upload_pack as protocol
from mirror.core.formats.upload_pack import Request, Version
from mirror.core.model import HEAD, Refs, Repo, Snapshot, Target
from mirror.core.progress import Both, Meter, Seen
from mirror.core.rules import circles
from mirror.git import pack, serve, view
from mirror.git.reader import views
from mirror.git.run import GitFailed
from mirror.git.serve import Reached
from mirror.git.view import View
from mirror.services.open import Services
from mirror.store.backup import history
from mirror.store.restore import served as store
from mirror.store.upkeep import vaults

LINGER: Final = 60.0  # seconds for which a view is kept after its last client: a clone is three requests
PATIENCE: Final = 1800.0  # seconds to wait while another process of this machine reads it from the vault
KEPT: Final = 600.0  # seconds after which a view says again that it is used
TELL: Final = 1.0  # seconds between two words to a client that waits

log = logging.getLogger("mirror.serving")


@dataclass(frozen=True, slots=True)
class Served:
    """A moment, or chosen refs of one, while it is served."""

    repo: Repo
    snapshot: Snapshot
    refs: Refs  # those that are served, and HEAD where what it leads to is among them
    view: View  # has exactly these refs, but the objects of other moments too: see git/serve
    reached: Reached

    @property
    def tips(self) -> Collection[Target]:
        """What the refs hold."""
        return self.reached.tips


@asynccontextmanager
async def opened(
    services: Services, repo: Repo, snapshot: Snapshot, globs: Sequence[str] = ()
) -> AsyncIterator[Served]:
    """The moment as a bare repository, with all refs or those that the globs mean, while this is open.

    It is shared by all who open the same at the same time, and stays for LINGER seconds without anybody; a
    repo that is not on this machine is read from the vault once for all. Its packs are links of its own, so
    that neither syncs nor evictions nor epochs take anything from it. Raises NotFound where the globs
    mean no ref, and what `hydrate.view_of` does.
    """
    key = _key(repo, snapshot, globs)
    async with services.shared.opened(key, _Opening(services, repo, snapshot, globs), LINGER) as served:
        try:
            yield served
        except Corrupt:
            services.shared.discard(key)
            await hydrate.doubt(services, repo, snapshot)
            raise


def _key(repo: Repo, snapshot: Snapshot, globs: Sequence[str]) -> tuple[object, ...]:
    # Dropping or erasing something begins a new epoch: what was opened before is given to nobody after it.
    moment = snapshot.number, snapshot.moment, snapshot.manifest_sha256, snapshot.epoch
    return "serving", repo.id, *moment, *sorted(set(globs))


class _Opening:
    """Makes the view, and knows how far that is."""

    def __init__(self, services: Services, repo: Repo, snapshot: Snapshot, globs: Sequence[str]) -> None:
        self.meter = Meter(monotonic)
        self._services = replace(services, progress=Both(services.progress, self.meter))
        self._of = repo, snapshot, globs

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Served]:
        services, (repo, snapshot, globs) = self._services, self._of
        room = services.disk.root / "serving"
        await views.sweep(room)
        refs = await chosen_refs(services, repo, snapshot, globs)
        async with _whole_view(services, repo, snapshot, room) as there:
            await view.write_refs(there.path, refs, durable=False)
            reached = Reached(services.git, there, refs)
            kept = asyncio.create_task(_kept(there))
            try:
                yield Served(repo, snapshot, refs, there, reached)
            finally:
                kept.cancel()
                await reached.close()


@asynccontextmanager
async def _whole_view(services: Services, repo: Repo, snapshot: Snapshot, room: Path) -> AsyncIterator[View]:
    """A view of a pool that this disk has not damaged; one that it has is read from the vault again."""
    async with hydrate.view_of(services, repo, snapshot, room, PATIENCE) as there:
        if await pack.are_whole(there.objects / "pack"):
            yield there
            return
    log.warning("this disk has damaged the pool of %s; it is read from the vault again", repo.name)
    await hydrate.doubt(services, repo, snapshot)
    async with hydrate.view_of(services, repo, snapshot, room, PATIENCE) as there:
        yield there


async def _kept(there: View) -> None:
    """Mark a view as used, so that nobody takes it for what a killed process left."""
    while True:
        await asyncio.sleep(KEPT)
        with suppress(OSError):
            os.utime(there.path)


async def chosen_refs(services: Services, repo: Repo, snapshot: Snapshot, globs: Sequence[str] = ()) -> Refs:
    """The refs of a moment that the globs mean, all without globs; HEAD where what it leads to is among them.

    Raises NotFound where they mean none.
    """
    refs: Refs = await history.refs_at(services.db, repo.id, snapshot.number, snapshot.moment)
    if not globs:
        return refs
    meant = await rules.meant_by(refs, globs)
    chosen = {name: target for name, target in refs.items() if name in meant}
    head = refs.get(HEAD)
    if head and rules.is_symbolic(head) and rules.symbolic_target(head) not in chosen:
        chosen.pop(HEAD, None)
    elif head and rules.is_symbolic(head):
        chosen[HEAD] = head
    if not chosen:
        raise NotFound(f"{repo.name} at {snapshot.label} has no ref like {' '.join(globs)[:200]}")
    return chosen


async def advertised(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    version: Version,
    globs: Sequence[str] = (),
    *,
    bundles: bool = False,
) -> bytes:
    """What a client hears first, with all refs in version 0; in version 2 nothing is opened for it.

    `bundles`: it may ask which bundles there are, which the caller answers.
    """
    vault = await vaults.known(services.db)
    agent = circles.agent(circles.mark_of(vault) if vault else None)
    if version == 2:
        return protocol.capabilities(snapshot.object_format, bundle_uri=bundles, agent=agent)
    async with opened(services, repo, snapshot, globs) as served:
        peeled = await served.reached.peeled.get()
        return protocol.advertisement(served.refs, peeled, snapshot.object_format, agent)


async def answered(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    request: Request,
    globs: Sequence[str] = (),
    *,
    note: str = "",
    packed: Callable[[], None] = lambda: None,
    whole: Callable[[], None] = lambda: None,
) -> AsyncGenerator[bytes, None]:
    """The answer to a request of git's protocol, as it comes; `note` is told to people beside the pack.

    `packed` is called when the answer turns out to have a pack, before any of it goes out; `whole` once git
    has made all of that, before the last bytes go out. Whether it has one is git's to say: a client gets it
    without `done` too, if it names nothing that it has, or enough of it.

    A client that waits for a slot of `services.who`, or for a repo to be read from the vault, hears how far
    that is, where the protocol has a place for it: in a clone, and not where it wants quiet. Errors are part
    of the answer, where git shows them; none is raised.
    """
    if request.command == "bundle-uri":  # of a door that offers none, to a client that asks anyway
        yield protocol.told_bundles(())
        return
    size = 0
    told = _Answer(request, note if request.has_sideband and request.command == "fetch" else "")
    try:
        async with AsyncExitStack() as stack:
            entering = asyncio.create_task(_entered(stack, services, repo, snapshot, request, globs))
            try:
                while not (await asyncio.wait([entering], timeout=TELL))[0]:
                    opener = services.shared.opener(_key(repo, snapshot, globs))
                    if said := told.waiting(opener.meter.seen if opener else Seen()):
                        yield said
            finally:
                entering.cancel()
                await asyncio.wait([entering])
            served = entering.result()
            if request.command == "ls-refs":
                peeled = await served.reached.peeled.get() if request.peel else {}
                yield await asyncio.to_thread(protocol.told_refs, served.refs, peeled, request)
                return
            judged = await serve.judged(request, served.reached)
            filtered = told.noted(any(one in served.tips for one in request.wants))
            async with aclosing(serve.upload_pack(services.git, served.view, judged)) as chunks:
                async for chunk in chunks:
                    told.began = True
                    had, passed = filtered.has_pack, filtered.feed(chunk)
                    if filtered.has_pack and not had:
                        packed()
                    if passed:
                        size += len(passed)
                        yield passed
                if filtered.has_pack:
                    whole()
                if rest := filtered.end():
                    yield rest
    except GitFailed as failed:
        log.warning("git could not serve %s of %s: %s", snapshot.label, repo.name, failed)
        if said := told.failed("git could not make the pack; try again, or tell who runs Everref"):
            yield said
    except EverrefError as error:
        if not isinstance(error, NotFound):
            log.warning("%s of %s could not be served: %s", snapshot.label, repo.name, error)
        if said := told.failed(for_strangers(error)):
            yield said
    finally:
        if size:
            await count(services, "fetch" if request.haves else "clone", size)


async def count(services: Services, kind: store.Kind, size: int) -> None:
    """Count it for /metrics. Where that fails, what was served is none the worse: it is logged."""
    try:
        await store.count(services.db, kind, size)
    except EverrefError as error:
        log.warning("it could not be counted that a moment was served: %s", error)


async def _entered(
    stack: AsyncExitStack,
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    request: Request,
    globs: Sequence[str],
) -> Served:
    """The moment, in a slot where git is to make a pack of it, until the stack is closed."""
    if request.command == "fetch":
        await stack.enter_async_context(services.readers.clones.slot(services.who))
    return await stack.enter_async_context(opened(services, repo, snapshot, globs))


class _Answer:
    """How far the answer to one request is, and so what can still be told in it."""

    def __init__(self, request: Request, note: str) -> None:
        self._request = request
        self._note = note
        self._opened = False  # what comes before a pack was sent
        self.began = False  # git has answered something

    def waiting(self, seen: Seen) -> bytes:
        """What to tell a client that waits, if anything can be told."""
        if not (self._request.is_clone and self._request.has_sideband) or self._request.quiet:
            return b""
        before = b"" if self._opened else protocol.opening(self._request)
        self._opened = True
        return before + protocol.progress(f"Everref: {_how_far(seen)}", b"\r")

    def noted(self, is_of_refs: bool) -> protocol.Noted:
        """What git's answer passes; what a partial clone fetches file by file is not commented."""
        note = protocol.progress(self._note) if self._note and is_of_refs else b""
        return protocol.Noted(note, opened=self._opened, bands=self._request.has_bands)

    def failed(self, why: str) -> bytes:
        """How to say that, if it still can be said."""
        if self.began:
            return b""
        return protocol.fatal(f"Everref: {why}") if self._opened else protocol.refusal(why)


def _how_far(seen: Seen) -> str:
    if seen.phase is None:
        return "waiting for a slot, as many are cloning now"
    if seen.total and seen.unit == "bytes" and seen.done is not None:
        share = min(100, seen.done * 100 // seen.total)
        return f"{seen.phase}, {share} % of {words.size(seen.total)}"
    return seen.phase
