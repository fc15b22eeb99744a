"""One snapshot: fetch what the pool lacks, prove it, store part and manifest, record it, let the pool grow.

Who calls: backup/sync for each draft of its plan, and backup/late_reports for objects that no ref shows.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from mirror.backup import part, recover
from mirror.backup.part import Upload
from mirror.backup.share import Share
from mirror.core import refs
from mirror.core.errors import (
    AlreadyExists,
    Busy,
    Corrupt,
    LimitReached,
    NetworkError,
    Origin,
    Refused,
    RemoteGone,
    whose,
)
from mirror.core.formats import bundle, layout, manifest, splice
from mirror.core.formats.bundle import Header
from mirror.core.formats.manifest import Manifest
from mirror.core.model import (
    HEAD,
    Kind,
    Listing,
    ObjectFormat,
    Part,
    Reason,
    RefChange,
    RefName,
    Refs,
    Repo,
    Segment,
    Snapshot,
    Target,
)
from mirror.core.progress import Progress
from mirror.core.rules.history import pushes
from mirror.core.rules.history.pushes import BrokenOff, Gone, PushedMove, Setback, SnapshotDraft, Unsound
from mirror.core.rules.history.reports import Push
from mirror.discovery import follow
from mirror.git import pack, read, view
from mirror.git.disk import finish
from mirror.git.pack import IdxFile, Indexed, Indexing
from mirror.git.pool import Pool
from mirror.git.reserve import Room
from mirror.git.run import Git
from mirror.git.upstream import NotOurRef
from mirror.git.view import View
from mirror.services import failpoints, remote
from mirror.services.open import Services, together
from mirror.store.backup import parts, snapshots
from mirror.store.backup.beginnings import Beginning
from mirror.store.backup.snapshots import Ending
from mirror.store.leases import Lease

_HAVES: Final = 256  # ids that the remote is told we have, at the most
_LARGE: Final = 64 << 20  # bytes; packing so much again would take longer than the bytes it saves are worth


class Source(Protocol):
    """Where the objects of a snapshot come from: a remote, or what somebody has pushed or uploaded."""

    @property
    def is_exact(self) -> bool:
        """Whether it sends what is asked for and no more, as git's own upload-pack does."""

    def fetch(
        self, wants: Sequence[Target], haves: Sequence[Target], progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        """The pack of what `wants` reach and `haves` don't; it may hold more, and be thin with haves.

        Raises NotOurRef when a wanted id is not to be had there.
        """


@dataclass(frozen=True, slots=True)
class SyncRun:
    """One sync that holds its repo's lease; while snapshots are taken, the pool is locked and warm."""

    services: Services
    began: Beginning  # the repo as it was when the lease was taken
    lease: Lease
    remote: Source
    pool: Pool
    reason: Reason
    share: Share | None = None  # how much its team may still store; None: there is no limit

    @property
    def repo(self) -> Repo:
        return self.began.repo


@dataclass(frozen=True, slots=True)
class BuiltPart:
    """What was fetched and stored for a snapshot, before its manifest says so."""

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


async def try_snapshot(run: SyncRun, last: Snapshot, old: Refs, draft: SnapshotDraft) -> Snapshot | Setback:
    """`take_snapshot`, for a draft of what the remote no longer shows: it may not have all of it any more.

    Only the remote can be the reason that a push is given up: where the vault, the database or this
    machine fails, that is raised.
    """
    try:
        return await take_snapshot(run, last, old, draft)
    except NotOurRef:
        absent = await read.missing(run.pool.path, draft.unsure)
        return Gone(absent - await _served(run, absent))
    except (Corrupt, Refused) as error:
        if error.origin is Origin.SOURCE and await run.pool.empty_if_broken():
            error.came_from(Origin.DISK, instead_of=Origin.SOURCE)
        if error.origin is not Origin.SOURCE:
            raise
        return Unsound(str(error))
    except (NetworkError, LimitReached, RemoteGone) as error:  # the remote has just listed its refs
        if error.origin is not Origin.SOURCE:
            raise
        broken = NetworkError(f"pushes that were overwritten are not saved yet: {error}", origin=error.origin)
        run.services.progress.note(str(broken))
        return BrokenOff(str(error), broken)


async def _served(run: SyncRun, absent: Collection[Target]) -> set[Target]:
    """Those of the objects that the remote gives by their ids, each by itself; not all of them are there."""
    found = set()
    for target in absent if len(absent) > 1 else ():
        with suppress(NotOurRef):
            async with aclosing(run.remote.fetch([target], (), run.services.progress)) as sent:
                await anext(sent, None)
            found.add(target)
    return found if len(found) < len(absent) else set()  # all of them: they can't be had together


async def take_snapshot(run: SyncRun, last: Snapshot | None, old: Refs, draft: SnapshotDraft) -> Snapshot:
    """Take the snapshot that follows `last`, whose refs are `old`.

    1. Fetch exactly the ids that the pool lacks into a scratch view, prove them, store the part.
    2. Store the manifest by a conditional create: from here on the snapshot exists.
    3. Record it in Postgres in one transaction, fenced by the lease.
    4. Let the pool grow. It is a cache: a run that dies here loses nothing.

    A run that dies in between leaves an intent, or a manifest that the next one replays.
    """
    listing = draft.listing
    number = last.number + 1 if last else 1
    refs_digest = await remote.digest(listing.refs)
    async with build_part(run, last, old, draft) as built:
        taken = Manifest(
            repo=run.repo.id,
            number=number,
            taken_at=draft.taken_at,
            reason=draft.reason,
            object_format=listing.object_format,
            head=listing.refs.get(HEAD),
            refs_count=len(listing.refs) - (HEAD in listing.refs),
            refs_digest=refs_digest,
            epoch=last.epoch if last else 1,
            log_entries=(last.log_entries if last else 0) + built.entries,
            log_bytes=(last.log_bytes if last else 0) + built.bytes,
            bundle=built.part,
            previous=last.manifest_sha256 if last else None,
            changes=tuple(built.changes),
            refs=dict(listing.refs) if manifest.has_whole_map(number, len(listing.refs)) else None,
        )
        snapshot = await _commit(run, taken, draft, built)
        await run.pool.adopt(built.packs)
    await run.pool.set_mark(snapshot.epoch, snapshot.number, snapshot.manifest_sha256)
    failpoints.reached("sync: pool grown")
    return snapshot


async def _commit(run: SyncRun, taken: Manifest, draft: SnapshotDraft, built: BuiltPart) -> Snapshot:
    """Store the manifest, then record it. The order is the promise: see `take_snapshot`."""
    services, repo = run.services, run.repo
    stored = await finish(partial(manifest.encode, taken))  # with every ref, where there are many
    sha256 = hashlib.sha256(stored).hexdigest()
    answered = draft.route.answered(built.lost)
    ending = Ending(draft.sync_request, answered, built.suspicion, draft.is_current)
    # Another run that holds the lease now may have discarded the part.
    is_sealed = await snapshots.announce(
        services.db, run.lease, taken.number, sha256, ending, run.began.is_sealed
    )
    if is_sealed is None:
        raise Busy(f"another run took over {repo.name} while this one was not answering")
    try:
        sealed = await services.vault.put(layout.manifest_key(repo.id, taken.number, is_sealed), stored)
    except AlreadyExists:
        raise Busy(f"another run took snapshot #{taken.number} of {repo.name}; run it again") from None
    snapshot = manifest.snapshot_of(taken, sha256, sealed)
    failpoints.reached("sync: manifest stored")
    await snapshots.record(services.db, run.lease, repo.id, snapshot, taken.changes, ending)
    failpoints.reached("sync: recorded")
    return snapshot


@asynccontextmanager
async def build_part(
    run: SyncRun, last: Snapshot | None, old: Refs, draft: SnapshotDraft
) -> AsyncIterator[BuiltPart]:
    """Fetch the ids of this draft that the pool lacks, store them as a part, and class the changes.

    Pushes that led there become changes of their own, if their objects came along.
    A draft that the remote does not show now is Corrupt if it does not fit its objects. Raises OverLimit
    where the part does not fit into the share of its team.
    The pool holds exactly the log up to `last`. Everything new lives in scratch
    views that vanish at the end; a failure leaves at most an object in the vault
    that the stored intent names.
    """
    services, shown = run.services, draft.listing
    targets = {target for target in shown.refs.values() if not refs.is_symbolic(target)}
    absent = await read.missing(run.pool.path, targets | set(draft.extra))
    async with AsyncExitStack() as stack:
        scratch = services.disk.scratch(run.repo.id)
        incoming = await stack.enter_async_context(view.scratch_view(run.pool, scratch))
        extra = {RefName(b"refs/passed/" + target): target for target in draft.extra}
        listing = Listing({**extra, **shown.refs}, shown.object_format)
        places = [scratch, *filter(None, [services.vault.directory()])]
        builder = _PartBuilder(run, last, old, listing, Room(places, services.disk.make_way))
        built, packs = None, []
        try:
            if absent:
                if run.share:
                    run.share.check()
                with whose(Origin.SOURCE, Corrupt):  # the proof of what it sent fails
                    if last is None or last.log_entries == 0:
                        async with builder.room.kept():
                            if run.remote.is_exact:
                                built, kept = await builder.whole(incoming, sorted(absent))
                            else:
                                proof = await stack.enter_async_context(view.scratch_view(run.pool, scratch))
                                built, kept = await builder.reached(incoming, proof, sorted(absent))
                    else:
                        proof = await stack.enter_async_context(view.scratch_view(run.pool, scratch))
                        async with builder.room.kept():
                            built, kept = await builder.increment(incoming, proof, sorted(absent))
                packs = [kept]
            if set(draft.commits) - await read.commits_among(incoming.path, draft.commits):
                raise Corrupt(f"a branch is refused: {pushes.NO_COMMIT}", origin=Origin.SOURCE)
            lost = await _lost(incoming, draft)
            came = set(draft.route.pushes) - set(lost)
            route = [push for push in draft.route.pushes if push in came]
            steps = await finish(partial(pushes.steps, old, shown.refs, route, draft.by))
            changes = await classed(services.git, incoming.path, steps, services.progress)
            suspicion = await _suspicion(run, incoming, old, draft, changes) if draft.is_current else None
        except BaseException:  # whatever it was, no manifest names this key yet
            if builder.key:
                await recover.discard(services, run.repo.id, builder.key)
            raise
        yield BuiltPart(changes, built, packs, lost, suspicion)


async def _lost(incoming: View, draft: SnapshotDraft) -> list[Push]:
    """The pushes whose objects neither came nor were held, or that no branch can point at."""
    shown = draft.listing.refs if draft.is_current else {}
    doubtful = [push for push in draft.route.pushes if push.new != shown.get(push.name)]
    if not doubtful:
        return []
    absent = await read.missing(incoming.path, {push.new for push in doubtful if push.new})
    tips = {push.new for push in doubtful if push.new and push.name.startswith(b"refs/heads/")} - absent
    absent |= tips - await read.commits_among(incoming.path, tips)
    lost = [push for push in doubtful if push.new in absent]
    if not draft.is_current and any(push.new == draft.listing.refs.get(push.name) for push in lost):
        raise Corrupt(pushes.NO_COMMIT, origin=Origin.SOURCE)
    return lost


async def classed(git: Git, path: Path, made: Sequence[PushedMove], progress: Progress) -> list[RefChange]:
    """Give every step its kind; the repository at `path` has the objects.

    A branch whose history costs too much to compare counts as overwritten.
    """
    kinds: dict[int, Kind] = {}
    undecided = 0
    for numbers in pushes.rounds(made):
        moves = [(made[number].name, made[number].old, made[number].new) for number in numbers]
        found = await read.ancestry(git, path, moves)
        undecided += len(found.untold)
        kinded = await finish(partial(refs.classify, moves, found.forward, found.commits))
        kinds.update(zip(numbers, (change.kind for change in kinded), strict=True))
    if undecided:
        progress.note(
            f"{undecided:,} moves count as overwritten: comparing their histories would cost too much"
        )

    def changes() -> list[RefChange]:
        return [
            RefChange(step.name, step.old, step.new, kinds[number], step.by, step.at)
            for number, step in enumerate(made)
        ]

    return await finish(changes)


async def _suspicion(
    run: SyncRun, incoming: View, old: Refs, draft: SnapshotDraft, changes: Sequence[RefChange]
) -> str | None:
    """Why this looks like a mistake or an attack: nothing is left of what the last look showed.

    The forge is asked then whether it is the same repository still (discovery/follow). Refs that are
    excluded count for nothing.
    """
    before, excluded = old if draft.last_look is None else draft.last_look, run.began.excluded
    known = changes if before is old else ()
    compared = await refs.without(before, excluded), await refs.without(draft.listing.refs, excluded)
    if not await _is_replaced(run.services.git, incoming, *compared, known):
        return None
    await follow.identity_at_forge(run.services, run.repo, doubt=True)
    if len(before.keys() - {HEAD}) < refs.FEW:
        return None
    return "every branch was overwritten with something unrelated, or deleted"


async def _is_replaced(git: Git, incoming: View, old: Refs, new: Refs, known: Sequence[RefChange]) -> bool:
    """Whether no branch was left, and none has history in common with what it was.

    `known` are changes that lead away from `old`, if their kinds are known already.
    """
    if not refs.all_moved(old, new):
        return False
    if any(one.kind is Kind.FAST_FORWARDED and one.name.startswith(b"refs/heads/") for one in known):
        return False
    moves = refs.diff(old, new)
    found = await read.ancestry(git, incoming.path, moves)
    changes = refs.classify(moves, found.forward, found.commits)
    if not refs.all_overwritten(old, changes):
        return False
    for change in changes:
        if change.kind is Kind.FORCED and change.name.startswith(b"refs/heads/"):
            assert change.old and change.new
            with suppress(LimitReached):  # comparing them costs too much: the worse is assumed
                if await read.are_related(git, incoming.path, change.old, change.new):
                    return False
    return True


@dataclass(slots=True)
class _PartBuilder:
    """One part that is being built."""

    run: SyncRun
    last: Snapshot | None
    old: Refs  # of `last`
    listing: Listing
    room: Room
    key: str = ""  # empty: not announced yet
    first: int = 0

    @property
    def number(self) -> int:
        return self.last.number + 1 if self.last else 1

    @property
    def epoch(self) -> int:
        return self.last.epoch if self.last else 1

    @property
    def format(self) -> ObjectFormat:
        return self.listing.object_format

    async def announce(self) -> None:
        """Choose the key, and store the intent to upload to it."""
        db, repo_id = self.run.services.db, self.run.repo.id
        # The log's last part ends where the latest snapshot that brought an object does.
        covered = self.last.number if self.last and self.last.bundle else None
        self.first = (await parts.last(db, repo_id) if covered is None else covered) + 1
        is_sealed = self.run.began.is_sealed
        self.key = layout.bundle_key(repo_id, self.epoch, self.first, self.number, layout.unique(), is_sealed)
        await parts.intend(db, self.run.lease, repo_id, self.key)
        failpoints.reached("sync: intent stored")

    async def whole(self, incoming: View, absent: Sequence[Target]) -> tuple[Part, Indexed]:
        """The first part of the log: the pack exactly as the remote sent it, proved while it is stored."""
        await self.announce()
        vault = self.run.services.vault
        header = await finish(partial(bundle.encode, Header(self.format, (), self.listing.refs)))
        async with part.upload(vault, self.key, header, self.format) as bundled:
            sent = self._fetch(absent, ())
            proving = Indexing(self.format, self_contained=True, longest=self._longest)
            indexed = await self._index(incoming, bundled.through(sent), proving)
            failpoints.reached("sync: fetched")
            _all_here(absent, indexed)
            stored = replace(self._placed(bundled), complete=True)
            if bundled.tap.trailer.hex() != indexed.pack_id:
                raise Corrupt("the remote sent more than its pack; nothing was saved")
            failpoints.reached("sync: proved")
            await self._reserve(stored)
            stored = await bundled.commit(stored)
        failpoints.reached("sync: bundle stored")
        stored = await part.write_index(vault, stored, indexed.idx)
        failpoints.reached("sync: index stored")
        return stored, indexed

    async def reached(self, incoming: View, proof: View, absent: Sequence[Target]) -> tuple[Part, Indexed]:
        """The first part where a client chose what is in its pack: what the refs reach, and nothing else.

        The pack is stored as it was sent, or as git packs what is reached where more was sent: clones are
        given this part whole (restore/bundles).
        """
        services, came = self.run.services, splice.Tap(self.format)
        sent = _tapped(self._fetch(absent, ()), came)
        strictly = Indexing(self.format, self_contained=True, longest=self._longest)
        received, _ = await together(self._index(incoming, sent, strictly), self.announce())
        came.end()
        failpoints.reached("sync: fetched")
        _all_here(absent, received)
        header = bundle.encode(Header(self.format, (), self.listing.refs))
        end = splice.PACK_HEADER + came.body_bytes
        async with part.upload(services.vault, self.key, header, self.format) as bundled:
            if await pack.is_reached(services.git, incoming.path, absent, (), received.idx, end):
                kept = await self._as_sent(bundled, received, came)
            else:
                packed = pack.make_whole(services.git, incoming.path, absent)
                kept = await self._index(proof, bundled.through(packed), strictly)
            stored = replace(self._placed(bundled), complete=True)
            await pack.check_proof(received, kept, splice.PACK_HEADER + stored.segments[0].bytes)
            failpoints.reached("sync: proved")
            await self._reserve(stored)
            stored = await bundled.commit(stored)
        failpoints.reached("sync: bundle stored")
        stored = await part.write_index(services.vault, stored, kept.idx)
        failpoints.reached("sync: index stored")
        return stored, kept

    async def increment(self, incoming: View, proof: View, absent: Sequence[Target]) -> tuple[Part, Indexed]:
        """A later part: what the pool lacks of what the remote sends, proved against the pool."""
        services = self.run.services
        haves = await read.haves(self.run.pool.path, self._likely_haves(), _HAVES)
        came = splice.Tap(self.format)
        sent = _tapped(self._fetch(absent, haves), came)
        thin = Indexing(self.format, fix_thin=True, longest=self._longest)
        received, _ = await together(self._index(incoming, sent, replace(thin, hasty=True)), self.announce())
        came.end()
        failpoints.reached("sync: fetched")
        _all_here(absent, received)
        boundary = await self._boundary(incoming, proof, absent, received)
        header = bundle.encode(
            Header(self.format, tuple(sorted(boundary)), _pointing_at(self.listing.refs, set(absent)))
        )
        end = splice.PACK_HEADER + came.body_bytes
        async with part.upload(services.vault, self.key, header, self.format) as bundled:
            if (
                came.body_bytes >= _LARGE
                and await read.is_apart(incoming.path, received.idx, end)
                and await pack.is_reached(services.git, incoming.path, absent, boundary, received.idx, end)
            ):
                kept = await self._as_sent(bundled, received, came)
            else:
                packed = pack.make_thin(services.git, incoming.path, absent, boundary)
                kept = await self._index(proof, bundled.through(packed), thin)
            stored = self._placed(bundled)
            await pack.check_proof(received, kept, splice.PACK_HEADER + stored.segments[0].bytes)
            failpoints.reached("sync: proved")
            await self._reserve(stored)
            stored = await bundled.commit(stored)
        failpoints.reached("sync: bundle stored")
        return stored, kept

    def _likely_haves(self) -> list[Target]:
        """What to tell the remote that we have, the likeliest to help first: what moved, HEAD, the rest."""
        moved = [old for _, old, new in refs.diff(self.old, self.listing.refs) if old and new]
        head = refs.resolve(self.old, HEAD)
        order = dict.fromkeys([*moved, *([head] if head else ()), *self.old.values()])
        return [target for target in order if not refs.is_symbolic(target)]

    async def _boundary(
        self, incoming: View, proof: View, absent: Sequence[Target], received: Indexed
    ) -> Collection[Target]:
        """The commits of the pool on which what was received builds."""
        try:
            return await read.new_commits_boundary(incoming.path, absent, received.idx)
        except LimitReached:  # the history was made to cost much; the tips that are held serve as well
            known = {target for target in self.old.values() if not refs.is_symbolic(target)}
            boundary = await read.held_commits(proof.path, known)
            if not boundary:
                raise
            return boundary

    def _fetch(self, absent: Sequence[Target], haves: Sequence[Target]) -> AsyncGenerator[bytes, None]:
        """What the remote sends, as far as there is room for it."""
        sent = self.room.counted(self.run.remote.fetch(absent, haves, self.run.services.progress))
        return self.run.share.through(sent) if self.run.share else sent

    async def _reserve(self, stored: Part) -> None:
        if self.run.share:
            await self.run.share.reserve(stored.key, stored.bytes)

    async def _as_sent(self, bundled: Upload, received: Indexed, came: splice.Tap) -> Indexed:
        """Write the remote's own pack, which git proved when it came in."""
        body = pack.file_chunks(received.pack, splice.PACK_HEADER, came.body_bytes)
        await bundled.all_of(splice.repack(came.entries, body, self.format))
        bundled.tap.end()
        if bundled.tap.body_sha256 != came.body_sha256:
            raise Corrupt(
                "what was received changed on this machine's disk; nothing was saved", origin=Origin.DISK
            )
        return received

    @property
    def _longest(self) -> int:
        return self.run.services.settings.fetch_bytes

    async def _index(self, place: View, chunks: AsyncGenerator[bytes, None], how: Indexing) -> Indexed:
        return await pack.index(self.run.services.git, place.path, chunks, how)

    def _placed(self, bundled: Upload) -> Part:
        """What was written, at its place in the log."""
        stored = bundled.part()
        segment = Segment(self.number, stored.entries, bundled.tap.body_bytes, bundled.tap.body_sha256)
        return replace(stored, epoch=self.epoch, first=self.first, last=self.number, segments=(segment,))


async def _tapped(chunks: AsyncGenerator[bytes, None], tap: splice.Tap) -> AsyncGenerator[bytes, None]:
    """The same bytes, counted as they go by; the tap's end is for who knows that git has taken them all."""
    async with aclosing(chunks):
        async for chunk in chunks:
            tap.feed(chunk)
            yield chunk


def _pointing_at(shown: Refs, targets: set[Target]) -> dict[RefName, Target]:
    """The refs that lead to one of these objects."""
    return {
        name: target
        for name, held in shown.items()
        if (target := refs.resolve(shown, name) if refs.is_symbolic(held) else held) and target in targets
    }


def _all_here(absent: Sequence[Target], indexed: Indexed) -> None:
    """Raise Corrupt unless the remote sent every object that a ref of its own listing points at."""
    with IdxFile(indexed.idx) as found:
        for target in absent:
            if found.offset(bytes.fromhex(target.decode())) is None:
                raise Corrupt(f"the remote did not send {target.decode()}, which one of its refs points at")
