"""The middle of a sync: from one ls-refs answer to a proved part in the vault and the list of ref changes."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mirror.backup import part_index, recover
from mirror.backup.share import Share
from mirror.backup.upload import Upload, upload
from mirror.core import refs
from mirror.core.errors import Corrupt, LimitReached, Origin, whose
from mirror.core.formats import bundle, layout, splice
from mirror.core.formats.bundle import Header
from mirror.core.model import (
    HEAD,
    Kind,
    Listing,
    ObjectFormat,
    Part,
    RefChange,
    RefName,
    Refs,
    Repo,
    Segment,
    Snapshot,
    Target,
)
from mirror.core.progress import Progress
from mirror.core.rules import pushes
from mirror.core.rules.pushes import Push, PushedMove
from mirror.discovery import follow
from mirror.git import pack, read, view
from mirror.git.pack import IdxFile, Indexed
from mirror.git.pool import Pool
from mirror.git.reserve import Room
from mirror.git.run import Git
from mirror.git.upstream import Upstream
from mirror.git.view import View
from mirror.services import failpoints
from mirror.services.open import Services, together
from mirror.store.backup import intents, parts
from mirror.store.leases import Lease

_HAVES = 256  # at the most, told to the remote
_LARGE = 64 << 20  # bytes; packing so much anew would take longer than the bytes it saves are worth


@dataclass(frozen=True, slots=True)
class BuiltPart:
    """What a sync found and stored, before its manifest says so."""

    changes: Sequence[RefChange]
    part: Part | None  # None: no new object
    packs: Sequence[Indexed]  # to move into the pool once the snapshot is recorded
    lost: Sequence[Push]  # those whose objects did not come
    suspicion: str | None  # why the changes look like a mistake or an attack; None: they don't

    @property
    def entries(self) -> int:
        return self.part.entries if self.part else 0

    @property
    def bytes(self) -> int:
        return sum(segment.bytes for segment in self.part.segments) if self.part else 0


@asynccontextmanager
async def build_part(
    services: Services,
    repo: Repo,
    lease: Lease,
    pool: Pool,
    source: Upstream,
    last: Snapshot | None,
    old: Refs,
    seen: Listing,
    by_way_of: Sequence[Push] = (),
    *,
    claimed: bool = False,
    since: Refs | None = None,
    left_out: Sequence[str] = (),
    besides: Collection[Target] = (),
    share: Share | None = None,
) -> AsyncIterator[BuiltPart]:
    """Fetch the ids of this listing that the pool lacks, store them as a part, and class the changes.

    Pushes that led there become changes of their own, where their objects came along.
    A listing that is only `claimed` to have been is Corrupt when it does not fit its objects.
    `since` is what the remote showed at the last look, where `old` is not that;
    refs that `left_out` means say nothing about it. Where nothing is left of what it
    showed, the forge is asked whether it is the same repository still (discovery/follow).
    What is `besides` comes along. Where it does not fit into the `share` of its team, OverLimit is raised.
    The pool holds exactly the log up to `last`. Everything new lives in scratch
    views that vanish at the end; a failure leaves at most an object in the vault
    that the stored intent names.
    """
    number = last.number + 1 if last else 1
    targets = {target for target in seen.refs.values() if not refs.is_symbolic(target)}
    absent = await read.missing(pool.path, targets | set(besides))
    async with AsyncExitStack() as stack:
        scratch = services.disk.scratch(repo.id)
        incoming = await stack.enter_async_context(view.scratch_view(pool, scratch))
        passed = {RefName(b"refs/passed/" + target): target for target in besides}
        shown = Listing({**passed, **seen.refs}, seen.object_format)
        places = [scratch, *filter(None, [services.vault.directory()])]
        free = Room(places, services.disk.make_way)
        known = {target for target in old.values() if not refs.is_symbolic(target)}
        making, packs = (
            _PartBuilder(services, repo, lease, source, last, number, shown, known, free, share=share),
            [],
        )
        part = None
        moved = refs.diff(old, seen.refs)
        try:
            if absent:
                if share:
                    share.check()
                with whose(Origin.SOURCE, Corrupt):  # the proof of what it sent fails
                    if last is None or last.log_entries == 0:
                        async with making.room.kept():
                            part, kept = await making.whole(incoming, sorted(absent))
                    else:
                        haves = await read.haves(pool.path, _told(old, moved), _HAVES)
                        proof = await stack.enter_async_context(view.scratch_view(pool, scratch))
                        async with making.room.kept():
                            part, kept = await making.increment(incoming, proof, sorted(absent), haves)
                packs = [kept]
            sure = {} if claimed else seen.refs
            lost = await _not_here(incoming, [one for one in by_way_of if one.new != sure.get(one.name)])
            if claimed and any(one.new == seen.refs.get(one.name) for one in lost):
                raise Corrupt("it is no commit, as a branch must be", origin=Origin.SOURCE)
            here = [push for push in by_way_of if push not in lost]
            changes = await classed(
                services.git, incoming.path, pushes.steps(old, seen.refs, here), services.progress
            )
            before = old if since is None else since
            suspicion = None
            if not claimed and await _is_replaced(
                services,
                incoming,
                await refs.without(before, left_out),
                await refs.without(seen.refs, left_out),
                changes if before is old else (),
            ):
                await follow.identity_at_forge(services, repo, doubt=True)
                if len(before.keys() - {HEAD}) >= refs.FEW:
                    suspicion = "every branch was overwritten with something unrelated, or deleted"
        except BaseException:  # whatever it was, no manifest names this key yet
            if making.key:
                await recover.discard(services, repo.id, making.key)
            raise
        yield BuiltPart(changes, part, packs, lost, suspicion)


async def _not_here(incoming: View, by_way_of: Sequence[Push]) -> list[Push]:
    """Those of the pushes whose objects neither came nor were held, or that no branch can point at."""
    if not by_way_of:
        return []
    absent = await read.missing(incoming.path, {push.new for push in by_way_of if push.new})
    tips = {push.new for push in by_way_of if push.new and push.name.startswith(b"refs/heads/")} - absent
    absent |= tips - await read.commits_among(incoming.path, tips)
    return [push for push in by_way_of if push.new in absent]


async def classed(git: Git, path: Path, made: Sequence[PushedMove], progress: Progress) -> list[RefChange]:
    """Give every step its kind; the repository at `path` has the objects.

    A branch of which it costs too much to tell counts as overwritten.
    """
    kinds: dict[int, Kind] = {}
    untold = 0
    for numbers in pushes.rounds(made):
        moves = [(made[number].name, made[number].old, made[number].new) for number in numbers]
        found = await read.ancestry(git, path, moves)
        untold += len(found.untold)
        for number, change in zip(numbers, refs.classify(moves, found.forward, found.commits), strict=True):
            kinds[number] = change.kind
    if untold:
        progress.note(
            f"{untold:,} moves count as overwritten: whether they went forward costs too much to be told"
        )
    return [
        RefChange(step.name, step.old, step.new, kinds[number], step.by, step.at)
        for number, step in enumerate(made)
    ]


async def _is_replaced(
    services: Services, incoming: View, old: Refs, new: Refs, known: Sequence[RefChange]
) -> bool:
    """Whether no branch was left, and none has history in common with what it was.

    `known` are changes that lead away from `old`, if their kinds are known already.
    """
    if not refs.all_moved(old, new):
        return False
    if any(one.kind is Kind.FAST_FORWARDED and one.name.startswith(b"refs/heads/") for one in known):
        return False
    moves = refs.diff(old, new)
    found = await read.ancestry(services.git, incoming.path, moves)
    changes = refs.classify(moves, found.forward, found.commits)
    if not refs.all_overwritten(old, changes):
        return False
    for change in changes:
        if change.kind is Kind.FORCED and change.name.startswith(b"refs/heads/"):
            assert change.old and change.new
            with suppress(LimitReached):  # it costs too much to be told: the worse is supposed
                if await read.are_related(services.git, incoming.path, change.old, change.new):
                    return False
    return True


def _told(known: Refs, moves: Sequence[refs.Move]) -> list[Target]:
    """What to tell the remote that we have, the likeliest to help first: what moved, HEAD, the rest."""
    moved = [old for _, old, new in moves if old and new]
    head = refs.resolve(known, HEAD)
    order = dict.fromkeys([*moved, *([head] if head else ()), *known.values()])
    return [target for target in order if not refs.is_symbolic(target)]


@dataclass(slots=True)
class _PartBuilder:
    """One part in the making."""

    services: Services
    repo: Repo
    lease: Lease
    source: Upstream
    last: Snapshot | None
    number: int
    seen: Listing
    known: Collection[Target]  # ids that the last snapshot's refs point at
    room: Room
    key: str = ""  # empty: not announced yet
    first: int = 0
    share: Share | None = None  # None: as much as there is

    @property
    def epoch(self) -> int:
        return self.last.epoch if self.last else 1

    @property
    def format(self) -> ObjectFormat:
        return self.seen.object_format

    async def announce(self) -> None:
        """Choose the key, and store the intent to upload to it."""
        # The log's last part ends where the latest snapshot that brought an object does.
        covered = self.last.number if self.last and self.last.bundle else None
        self.first = (await parts.last(self.services.db, self.repo.id) if covered is None else covered) + 1
        self.key = layout.bundle_key(self.repo.id, self.epoch, self.first, self.number, layout.unique())
        await intents.add(self.services.db, self.lease, self.repo.id, self.key)
        failpoints.reached("sync: intent stored")

    async def whole(self, incoming: View, absent: Sequence[Target]) -> tuple[Part, Indexed]:
        """The first part of the log: the pack exactly as the remote sent it, proved while it is stored."""
        await self.announce()
        header = bundle.encode(Header(self.format, (), self.seen.refs))
        async with upload(self.services.vault, self.key, header, self.format) as bundled:
            sent = self._fetch(absent, ())
            indexed = await self._index(incoming, bundled.through(sent), self_contained=True)
            failpoints.reached("sync: fetched")
            _all_here(absent, indexed)
            part = replace(self._placed(bundled), complete=True)
            if bundled.tap.trailer.hex() != indexed.pack_id:
                raise Corrupt("the remote sent more than its pack; nothing was kept")
            failpoints.reached("sync: proved")
            await self._reserve(part)
            await bundled.commit()
        failpoints.reached("sync: bundle stored")
        part = await part_index.write(self.services.vault, part, indexed.idx)
        failpoints.reached("sync: index stored")
        return part, indexed

    async def increment(
        self, incoming: View, proof: View, absent: Sequence[Target], haves: Sequence[Target]
    ) -> tuple[Part, Indexed]:
        """A later part: what the pool lacks of what the remote sends, proved against the pool."""
        came = splice.Tap(self.format)
        sent = _tapped(self._fetch(absent, haves), came)
        received, _ = await together(self._index(incoming, sent, hasty=True), self.announce())
        failpoints.reached("sync: fetched")
        _all_here(absent, received)
        try:
            boundary = await read.new_commits_boundary(incoming.path, absent, received.idx)
        except LimitReached:  # of what was made to cost much: the tips that are held do as well
            boundary = await read.held_commits(proof.path, self.known)
            if not boundary:
                raise
        header = bundle.encode(
            Header(self.format, tuple(sorted(boundary)), _pointing_at(self.seen.refs, set(absent)))
        )
        end = splice.PACK_HEADER + came.body_bytes
        async with upload(self.services.vault, self.key, header, self.format) as bundled:
            if (
                came.body_bytes >= _LARGE
                and await read.is_apart(incoming.path, received.idx, end)
                and await pack.is_reached(
                    self.services.git, incoming.path, absent, boundary, received.idx, end
                )
            ):
                kept = await self._as_sent(bundled, received, came)
            else:
                thin = pack.make_thin(self.services.git, incoming.path, absent, boundary)
                kept = await self._index(proof, bundled.through(thin))
            part = self._placed(bundled)
            await pack.check_proof(received, kept, splice.PACK_HEADER + part.segments[0].bytes)
            failpoints.reached("sync: proved")
            await self._reserve(part)
            await bundled.commit()
        failpoints.reached("sync: bundle stored")
        return part, kept

    def _fetch(self, absent: Sequence[Target], haves: Sequence[Target]) -> AsyncGenerator[bytes, None]:
        """What the remote sends, as far as there is room for it."""
        sent = self.room.counted(self.source.fetch(absent, haves, self.services.progress))
        return self.share.through(sent) if self.share else sent

    async def _reserve(self, part: Part) -> None:
        if self.share:
            await self.share.reserve(part.key, part.bytes)

    async def _as_sent(self, bundled: Upload, received: Indexed, came: splice.Tap) -> Indexed:
        """Write the remote's own pack, which git has proved when it came in."""
        body = pack.file_chunks(received.pack, splice.PACK_HEADER, came.body_bytes)
        await bundled.all_of(splice.repack(came.entries, body, self.format))
        bundled.tap.end()
        if bundled.tap.body_sha256 != came.body_sha256:
            raise Corrupt(
                "what was received changed on this machine's disk; nothing was kept", origin=Origin.DISK
            )
        return received

    async def _index(
        self,
        place: View,
        chunks: AsyncGenerator[bytes, None],
        *,
        self_contained: bool = False,
        hasty: bool = False,
    ) -> Indexed:
        return await pack.index(
            self.services.git,
            place.path,
            chunks,
            self_contained=self_contained,
            fix_thin=not self_contained,
            object_format=self.format,
            hasty=hasty,
            longest=self.services.settings.fetch_bytes,
        )

    def _placed(self, bundled: Upload) -> Part:
        """What was written, at its place in the log."""
        part = bundled.part()
        segment = Segment(self.number, part.entries, bundled.tap.body_bytes, bundled.tap.body_sha256)
        return replace(part, epoch=self.epoch, first=self.first, last=self.number, segments=(segment,))


async def _tapped(chunks: AsyncGenerator[bytes, None], tap: splice.Tap) -> AsyncGenerator[bytes, None]:
    """The same bytes, counted as they go by."""
    async with aclosing(chunks):
        async for chunk in chunks:
            tap.feed(chunk)
            yield chunk
    tap.end()


def _pointing_at(seen: Refs, targets: set[Target]) -> dict[RefName, Target]:
    """The refs that come to one of these objects."""
    return {
        name: target
        for name, held in seen.items()
        if (target := refs.resolve(seen, name) if refs.is_symbolic(held) else held) and target in targets
    }


def _all_here(absent: Sequence[Target], indexed: Indexed) -> None:
    """Raise Corrupt unless the remote sent every object that a ref of its own listing points at."""
    with IdxFile(indexed.idx) as found:
        for target in absent:
            if found.offset(bytes.fromhex(target.decode())) is None:
                raise Corrupt(f"the remote did not send {target.decode()}, which one of its refs points at")
