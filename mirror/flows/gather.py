"""The middle of a sync: from one ls-refs answer to a proved part in the vault and the list of ref changes."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from mirror import bundle, layout, refs, splice
from mirror.bundle import Header
from mirror.errors import Corrupt
from mirror.flows import partindex, settle, steps
from mirror.flows.edges import Edges, together
from mirror.git import pack, read, view
from mirror.git.pack import IdxFile, Indexed
from mirror.git.pool import Pool
from mirror.git.upstream import Upstream
from mirror.git.view import View
from mirror.model import HEAD, Listing, Part, RefChange, RefName, Refs, Repo, Segment, Snapshot, Target
from mirror.store import hooks, intents, parts
from mirror.store.leases import Lease

_HAVES = 256  # at the most, told to the remote
_LARGE = 64 << 20  # bytes; packing so much anew would take longer than the bytes it saves are worth
_EARLY = timedelta(minutes=5)  # before the last snapshot: a delivery overtook it, or clocks differ


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a sync found and stored, before its manifest says so."""

    changes: Sequence[RefChange]
    part: Part | None  # None: no new object
    packs: Sequence[Indexed]  # to move into the pool once the snapshot is recorded

    @property
    def entries(self) -> int:
        return self.part.entries if self.part else 0

    @property
    def bytes(self) -> int:
        return sum(segment.bytes for segment in self.part.segments) if self.part else 0


@asynccontextmanager
async def gather(
    edges: Edges,
    repo: Repo,
    lease: Lease,
    pool: Pool,
    source: Upstream,
    last: Snapshot | None,
    old: Refs,
    seen: Listing,
) -> AsyncIterator[Gathered]:
    """Fetch the ids of this listing that the pool lacks, store them as a part, and class the changes.

    The pool holds exactly the log up to `last`. Everything new lives in scratch
    views that vanish at the end; a failure leaves at most an object in the vault
    that the stored intent names.
    """
    number = last.number + 1 if last else 1
    targets = {target for target in seen.refs.values() if not refs.is_symbolic(target)}
    absent = await read.missing(pool.path, targets)
    async with AsyncExitStack() as stack:
        room = edges.disk.scratch(repo.id)
        incoming = await stack.enter_async_context(view.scratch_view(pool, room))
        making, packs = _Making(edges, repo, lease, source, last, number, seen), []
        part = None
        moves = refs.diff(old, seen.refs)
        if absent:
            try:
                if last is None or last.log_entries == 0:
                    part, kept = await making.whole(incoming, sorted(absent))
                else:
                    haves = await read.haves(pool.path, _told(old, moves), _HAVES)
                    proof = await stack.enter_async_context(view.scratch_view(pool, room))
                    part, kept = await making.increment(incoming, proof, sorted(absent), haves)
            except BaseException:  # whatever it was, no manifest names this key yet
                if making.key:
                    await settle.discard(edges, lease, repo.id, making.key)
                raise
            packs = [kept]
        forwarded, commits = await read.ancestry(incoming.path, moves)
        changes = refs.classify(moves, forwarded, commits)
        yield Gathered(await _attributed(edges, repo, last, changes), part, packs)


async def _attributed(
    edges: Edges, repo: Repo, last: Snapshot | None, changes: Sequence[RefChange]
) -> Sequence[RefChange]:
    """The changes, with who made them and when where deliveries since the last snapshot claim that."""
    since = last.taken_at - _EARLY if last else repo.created_at
    return refs.attribute(changes, await hooks.claims(edges.db, repo.id, since))


def _told(known: Refs, moves: Sequence[refs.Move]) -> list[Target]:
    """What to tell the remote that we have, the likeliest to help first: what moved, HEAD, the rest."""
    moved = [old for _, old, new in moves if old and new]
    head = refs.resolve(known, HEAD)
    order = dict.fromkeys([*moved, *([head] if head else ()), *known.values()])
    return [target for target in order if not refs.is_symbolic(target)]


@dataclass(slots=True)
class _Making:
    """One part in the making."""

    edges: Edges
    repo: Repo
    lease: Lease
    source: Upstream
    last: Snapshot | None
    number: int
    seen: Listing
    key: str = ""  # empty: not announced yet
    first: int = 0

    @property
    def epoch(self) -> int:
        return self.last.epoch if self.last else 1

    async def announce(self) -> None:
        """Choose the key, and store the intent to upload to it."""
        live = await parts.live(self.edges.db, self.repo.id)
        self.first = max((known.last for known in live), default=0) + 1
        key = layout.bundle_key(self.repo.id, self.epoch, self.first, self.number, layout.unique())
        await intents.add(self.edges.db, self.lease, self.repo.id, key)
        self.key = key
        steps.reached("sync: intent stored")

    async def whole(self, incoming: View, absent: Sequence[Target]) -> tuple[Part, Indexed]:
        """The first part of the log: the pack exactly as the remote sent it, proved while it is stored."""
        await self.announce()
        header = bundle.encode(Header(self.seen.object_format, (), _listed(self.seen.refs, None)))
        tap = splice.Tap(self.seen.object_format)
        tap.feed(header)
        async with self.edges.vault.create(self.key) as writer:
            await writer.write(header)

            async def tee() -> AsyncIterator[bytes]:
                async for chunk in self.source.fetch(absent, (), self.edges.progress):
                    tap.feed(chunk)
                    await writer.write(chunk)
                    yield chunk

            indexed = await pack.index(
                self.edges.git,
                incoming.path,
                tee(),
                self_contained=True,
                fix_thin=False,
                object_format=self.seen.object_format,
            )
            steps.reached("sync: fetched")
            _all_here(absent, indexed)
            steps.reached("sync: proved")
            await writer.commit()
        steps.reached("sync: bundle stored")
        part = await partindex.write(
            self.edges.vault, self._part(tap, len(header), complete=True), indexed.idx
        )
        steps.reached("sync: index stored")
        return part, indexed

    async def increment(
        self, incoming: View, proof: View, absent: Sequence[Target], haves: Sequence[Target]
    ) -> tuple[Part, Indexed]:
        """A later part: git's thin pack of what the pool lacks, completed again from the pool to prove it."""
        counted = splice.Tap(self.seen.object_format)
        received, _ = await together(self._receive(incoming, absent, haves, counted), self.announce())
        steps.reached("sync: fetched")
        _all_here(absent, received)
        boundary = await read.new_commits_boundary(incoming.path, absent, received.idx)
        header = bundle.encode(
            Header(self.seen.object_format, tuple(sorted(boundary)), _listed(self.seen.refs, set(absent)))
        )
        own_end = splice.PACK_HEADER + counted.body_bytes
        if counted.body_bytes >= _LARGE and await read.is_apart(incoming.path, received.idx, own_end):
            return await self._as_sent(incoming, received, header, counted, absent, boundary)
        tap = splice.Tap(self.seen.object_format)
        tap.feed(header)
        async with self.edges.vault.create(self.key) as writer:
            await writer.write(header)

            async def tee() -> AsyncIterator[bytes]:
                async for chunk in pack.make_thin(self.edges.git, incoming.path, absent, boundary):
                    tap.feed(chunk)
                    await writer.write(chunk)
                    yield chunk

            proved = await pack.index(
                self.edges.git,
                proof.path,
                tee(),
                self_contained=False,
                fix_thin=True,
                object_format=self.seen.object_format,
            )
            part = self._part(tap, len(header), complete=False)
            await pack.check_proof(received, proved, splice.PACK_HEADER + part.segments[0].bytes)
            steps.reached("sync: proved")
            await writer.commit()
        steps.reached("sync: bundle stored")
        return part, proved

    async def _receive(
        self, incoming: View, absent: Sequence[Target], haves: Sequence[Target], counted: splice.Tap
    ) -> Indexed:
        """Index what the remote sends, completed from the pool."""

        async def listening() -> AsyncIterator[bytes]:
            async with aclosing(self.source.fetch(absent, haves, self.edges.progress)) as chunks:
                async for chunk in chunks:
                    counted.feed(chunk)
                    yield chunk

        received = await pack.index(
            self.edges.git,
            incoming.path,
            listening(),
            self_contained=False,
            fix_thin=True,
            object_format=self.seen.object_format,
        )
        counted.end()
        return received

    async def _as_sent(
        self,
        incoming: View,
        received: Indexed,
        header: bytes,
        counted: splice.Tap,
        absent: Sequence[Target],
        boundary: Collection[Target],
    ) -> tuple[Part, Indexed]:
        """A large part whose every object is new: the remote's own pack, which git has just proved."""
        await pack.check_connected(self.edges.git, incoming.path, absent, boundary)
        tap = splice.Tap(self.seen.object_format)
        body = pack.file_chunks(received.pack, splice.PACK_HEADER, counted.body_bytes)
        async with self.edges.vault.create(self.key) as writer:
            tap.feed(header)
            await writer.write(header)
            async with aclosing(splice.repack(counted.entries, body, self.seen.object_format)) as chunks:
                async for chunk in chunks:
                    tap.feed(chunk)
                    await writer.write(chunk)
            part = self._part(tap, len(header), complete=False)
            if part.segments[0].sha256 != counted.body_sha256:
                raise Corrupt("what was received changed on this machine's disk; nothing was kept")
            steps.reached("sync: proved")
            await writer.commit()
        steps.reached("sync: bundle stored")
        return part, received

    def _part(self, tap: splice.Tap, header_bytes: int, complete: bool) -> Part:
        tap.end()
        segment = Segment(self.number, tap.entries, tap.body_bytes, tap.body_sha256)
        return Part(
            key=self.key,
            epoch=self.epoch,
            first=self.first,
            last=self.number,
            bytes=tap.stored_bytes,
            sha256=tap.stored_sha256,
            header_bytes=header_bytes,
            entries=tap.entries,
            segments=(segment,),
            complete=complete,
        )


def _listed(seen: Refs, only: set[Target] | None) -> dict[RefName, Target]:
    """The refs that a bundle's header names: every one, or those that point at these targets."""
    if only is None:
        return dict(seen)
    return {name: target for name in seen if (target := refs.resolve(seen, name)) and target in only}


def _all_here(absent: Sequence[Target], indexed: Indexed) -> None:
    """Raise Corrupt unless the remote sent every object that a ref of its own listing points at."""
    with IdxFile(indexed.idx) as found:
        for target in absent:
            if found.offset(bytes.fromhex(target.decode())) is None:
                raise Corrupt(f"the remote did not send {target.decode()}, which one of its refs points at")
