"""Bundles for clones: the vault's own bytes of a moment, so that git packs only what has come since.

A client that knows `bundle-uri` (gitprotocol-v2(5), git-clone(1)) fetches these first and then asks for
what it still lacks; one that does not, or for which one of them is gone, fetches everything as ever.

The vault's parts are a log of everything there ever was, so they are offered only where no ref had been
overwritten or deleted before the moment: then their objects are exactly those that it reaches, as
restore.bundled decides, too. Elsewhere git has to pack: a job bundles the default branch once clones
ask for it, which is good for every later moment until that branch itself is overwritten.
Who calls: web/remote/clone_bundles.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

from mirror.backup import damage, hydrate
from mirror.core import globs, refs
from mirror.core.errors import Damaged
from mirror.core.formats import bundle, layout, splice
from mirror.core.formats.bundle import Header
from mirror.core.model import HEAD, RefName, Refs, Repo, Snapshot
from mirror.core.rules.history.plan import Step
from mirror.restore import export
from mirror.restore.export import Export
from mirror.services.open import Services
from mirror.services.reading import reading
from mirror.store.backup import history
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job

LEAST: Final = 1 << 20  # bytes of a moment's objects below which git is as fast without
LINK_LASTS: Final = timedelta(hours=1)  # a link to begin with; git fetches bundles before anything else
SHARE: Final = 0.8  # of the bytes that the first part must have for a link to it alone


@dataclass(frozen=True, slots=True)
class Offer:
    """A moment whose objects can be given as the vault has them."""

    repo: Repo
    snapshot: Snapshot
    header: bytes  # of a bundle with all refs of the moment
    steps: Sequence[Step]
    bytes: int  # of the bundle

    @property
    def name(self) -> str:
        """What it is called in a list of bundles."""
        return f"snapshot-{self.snapshot.number}"

    @property
    def token(self) -> int:
        """Its creation token: it grows with every later moment."""
        return self.snapshot.number

    @property
    def tag(self) -> str:
        """It differs where the bytes do: the same moment in other parts is another sequence of objects."""
        told = sha256(self.header)
        for step in self.steps:
            told.update(f"{step.part.key} {step.upto}\n".encode())
        return told.hexdigest()[:32]


async def offer(services: Services, repo: Repo, snapshot: Snapshot) -> Offer | None:
    """What clones of the moment can be given from the vault. None: nothing, or it is not worth it.

    Raises Dropped, GapInChain.
    """
    if snapshot.moment or snapshot.log_bytes < LEAST:
        return None  # of a moment within a snapshot, the log also has the objects of later ones
    if await history.overwritten(services.db, repo.id, snapshot.number):
        return None
    known = await history.refs_at(services.db, repo.id, snapshot.number)
    heads = {name: target for name in known if (target := refs.resolve(known, name))}
    steps = await hydrate.steps_to(services, repo, snapshot)
    if not heads or not steps or not all(step.exact for step in steps):
        return None
    header = bundle.encode(Header(snapshot.object_format, (), heads))
    packed = splice.PACK_HEADER + splice.trailer_bytes(snapshot.object_format)
    size = (
        len(header)
        + packed
        + sum(splice.body_bytes(step.part, snapshot.object_format, step.upto, step.after) for step in steps)
    )
    return Offer(repo, snapshot, header, steps, size)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A bundle of the default branch that a job made, as it was at an earlier snapshot or this one."""

    repo: Repo
    job: Job
    made: Export
    number: int  # of the snapshot

    @property
    def name(self) -> str:
        """What it is called in a list of bundles."""
        return f"branch-{self.number}"

    @property
    def token(self) -> int:
        """Its creation token."""
        return self.number

    @property
    def tag(self) -> str:
        """It differs where the bytes do: a key is written once."""
        return sha256(self.made.key.encode()).hexdigest()[:32]

    @property
    def bytes(self) -> int:
        return self.made.bytes


def wanted(snapshot: Snapshot, known: Refs) -> Mapping[str, Any] | None:
    """What a job is asked for that makes a bundle for clones, of the default branch. None: it is no use."""
    head = known.get(HEAD)
    if snapshot.moment or snapshot.log_bytes < LEAST or not head or not refs.is_symbolic(head):
        return None
    branch = refs.symbolic_target(head)
    try:
        name = branch.decode()
    except UnicodeDecodeError:
        return None
    if branch not in known or not globs.is_plain(name):
        return None
    return {"clones": snapshot.epoch, "globs": [name]} | snapshot.numbers


async def prepared(services: Services, repo: Repo, snapshot: Snapshot) -> Prepared | None:
    """The bundle that a job made, if all of it is reached at this moment. None: there is none, or no more.

    The branch has only moved forward since, so what it reached then is reached by what it holds now. An epoch
    that began meanwhile may have been to erase something.
    """
    job = await jobs.latest_for_clones(services.db, repo.id)
    made = None if job is None else export.of(job, services.clock() + LINK_LASTS)
    if job is None or made is None or snapshot.moment:
        return None
    (name,), number = job.asked["globs"], job.asked["snapshot"]
    if number > snapshot.number or job.asked["clones"] != snapshot.epoch:
        return None
    branch = RefName(name.encode())
    if await history.overwritten(services.db, repo.id, snapshot.number, since=number, name=branch):
        return None
    return Prepared(repo, job, made, number) if await export.is_there(services, made) else None


async def link(services: Services, found: Offer | Prepared) -> str | None:
    """A link to the store itself, to what has nearly everything. None: it goes through us.

    A first part builds on nothing, and its header names the refs of its time, which are all reached still.
    """
    if isinstance(found, Prepared):
        return await export.link(services, found.made, f"{found.name}.bundle")
    first = found.steps[0]
    if first.upto is not None or first.after or layout.is_sealed(first.part.key):
        return None
    if first.part.bytes < SHARE * found.bytes:
        return None
    name = f"{found.name}.bundle"
    return await services.vault.presign(first.part.key, LINK_LASTS, name)


async def read(
    services: Services, found: Offer | Prepared, start: int = 0, end: int | None = None
) -> AsyncGenerator[bytes, None]:
    """The bundle from byte `start` to before `end` (None: to its end), every part checked on the way.

    What stands before `start` is read from the vault and left out: a pack has its sum at its end. Raises
    Damaged before that end, so git takes no bundle that is not whole.
    """
    until = found.bytes if end is None else end
    if isinstance(found, Prepared):
        async with aclosing(export.read(services, found.made, start, until)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    at = 0
    async with reading(services, found.repo.id), aclosing(_whole(services, found)) as chunks:
        async for chunk in chunks:
            piece = chunk[max(0, start - at) : max(0, until - at)]
            at += len(chunk)
            if piece:
                yield piece
            if at >= until:
                return


async def _whole(services: Services, found: Offer) -> AsyncGenerator[bytes, None]:
    yield found.header
    try:
        async with aclosing(hydrate.spliced(services, found.steps, found.snapshot.object_format)) as chunks:
            async for chunk in chunks:
                yield chunk
    except Damaged as error:
        damage.doubt(services, found.steps, error)  # so that the next download reads another store
        raise
