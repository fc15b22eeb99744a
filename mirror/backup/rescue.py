"""Every push counts: what was overwritten between two looks is fetched by id, a snapshot for each moment.

Who calls: backup/sync, in its turn, before it takes what the remote shows now.
"""

from collections.abc import Collection, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from mirror.backup.snapshot import SnapshotDraft, SyncRun, take_snapshot
from mirror.core import refs
from mirror.core.errors import Corrupt, EverrefError, LimitReached, NetworkError, Origin, Refused, RemoteGone
from mirror.core.model import HEX_LENGTH, Listing, ObjectFormat, Reason, RefName, Refs, Snapshot, Target
from mirror.core.rules import pushes
from mirror.core.rules.pushes import Answered, Lost, Push, ReportedUpdate, Route, UpdateId
from mirror.git import read
from mirror.git.upstream import NotOurRef
from mirror.store.backup import reported_updates

AT_ONCE: Final = 100  # pushes that become snapshots of their own in one sync
GIVEN_UP: Final = timedelta(days=1)  # after which a push that could not be asked for is lost
GONE: Final = "the remote has it no more"


@dataclass(frozen=True, slots=True)
class Rescued:
    """Where the rescue came to, and how the snapshot of what the remote shows goes on from there."""

    last: Snapshot
    refs: Refs  # of `last`
    way: Route
    is_short: bool  # something may be left to the next sync
    broken_off: NetworkError | None  # why the line could not be asked for all of it; None: it was


async def rescue(
    run: SyncRun,
    last: Snapshot,
    old: Refs,
    seen: Listing,
    told: Sequence[ReportedUpdate],
    now: datetime,
    broken_off: NetworkError | None = None,
) -> Rescued:
    """Take a snapshot for each moment that claims tell of, in order, up to the one that led to `seen`.

    A tip that was overwritten is fetched by its id, which forges serve while they
    have it. A claim is evidence, never state: its ref map is the last one with the pushes of this one
    moment, its objects are proved like all others, and the snapshot that follows
    is what the remote shows. So whoever has a hook's secret can add moments that
    never were, made of objects that the host serves for this repository (GitHub
    serves those of its forks too), and can neither change nor hide any that was.

    What can't be had is left to the snapshot that follows: if its objects come with
    it, the push is a change of its own there, else it is lost, and that is kept.
    Only the remote itself can make an end of a push: where the vault, the database or this
    machine fails, the sync fails, and the next one goes on from there.
    Beyond AT_ONCE, and when the line breaks, what did not come waits for the next sync, for which
    the caller leaves the wish open.

    Safe to run twice: each snapshot answers its claims in its own transaction, and a claim
    whose move the history has is no push. A run that dies leaves the first ones.
    """
    sound = [update for update in told if is_sound(update, seen.object_format)]
    tips = {tip for update in sound for tip in (update.before, update.after) if tip}
    held = tips - await read.missing(run.pool.path, tips)
    compared = await reported_updates.compared(run.services.db, run.repo.id, sound)
    plan = pushes.plan(old, seen.refs, compared, held, last.taken_at)
    walk = _Walk(run, last, old, seen, now, {update.id for update in told}, broken_off=broken_off)
    for number, moment in enumerate(plan.moments):
        left = [push for later in plan.moments[number + 1 :] for push in later]
        if number >= AT_ONCE:
            walk.waiting += moment
        else:
            await walk.take(moment, [*left, *plan.rest])
    if len(plan.moments) > AT_ONCE:
        run.services.progress.note(
            f"{len(plan.moments) - AT_ONCE:,} pushes more were made at once than are saved as snapshots"
            " of their own"
        )
    is_short = walk.broken_off is not None or len(plan.moments) > AT_ONCE
    way = Route((*walk.waiting, *plan.rest), walk.open, walk.gone, walk.lost)
    return Rescued(walk.last, walk.refs, way, is_short, walk.broken_off)


@dataclass(slots=True)
class _Walk:
    """How far a rescue has come."""

    run: SyncRun
    last: Snapshot
    refs: Refs  # of `last`
    seen: Listing
    now: datetime
    open: set[UpdateId]  # that no snapshot has answered yet
    waiting: list[Push] = field(default_factory=list)  # for the snapshot that follows
    gone: dict[Push, str] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    broken_off: NetworkError | None = None

    async def take(self, moment: Sequence[Push], later: Sequence[Push]) -> None:
        """Take the snapshot of this moment, of as much as can be had of it."""
        if self.broken_off:
            self.waiting += moment
            return
        made, state = self._made(moment)
        while made:
            by_way_of = (*self.waiting, *made)
            ended = {one.update.id for one in by_way_of} - {one.update.id for one in later}
            taken = SnapshotDraft(
                Listing(state, self.seen.object_format),
                min(self.now, max(self.last.taken_at, *(push.update.at for push in made))),
                Reason.PUSH,
                Route(by_way_of, ended, dict(self.gone)),
                seen=False,
            )
            try:
                self.last = await take_snapshot(self.run, self.last, self.refs, taken)
            except NotOurRef:
                made, state = self._made(await self._to_be_had(made))
            except (Corrupt, Refused) as error:
                if error.origin is Origin.SOURCE and await self.run.pool.empty_if_broken():
                    error.came_from(Origin.DISK, instead_of=Origin.SOURCE)
                if error.origin is not Origin.SOURCE:
                    raise
                if len(made) > 1:  # one of them is no sound push; the others shall not suffer for it
                    for push in made:
                        if self._is_left(push):
                            await self.take([push], [*made, *later])
                        else:
                            self.waiting.append(push)
                    return
                self.lost.append(pushes.lost_push(made[0], str(error)))
                return
            except (NetworkError, LimitReached, RemoteGone) as error:
                if error.origin is not Origin.SOURCE:
                    raise
                self._break_off(error, made, later)  # it has just listed its refs
                return
            else:
                self.refs, self.waiting = state, []
                self.open -= ended
                return

    def _made(self, moment: Sequence[Push]) -> tuple[list[Push], dict[RefName, Target]]:
        """The pushes that make a map of their own, and that map; the others wait."""
        state = dict(self.refs)
        made = []
        for push in moment:
            if push.new is not None and push.name not in state and pushes.collides(state.keys(), push.name):
                self.gone[push] = "no ref can be beside others as it would have been"
                self.waiting.append(push)
            elif state.get(push.name) == push.new:
                self.waiting.append(push)
            else:
                made.append(push)
                if push.new is None:
                    state.pop(push.name)
                else:
                    state[push.name] = push.new
        return made, state

    async def _to_be_had(self, made: Sequence[Push]) -> list[Push]:
        """Those of the pushes whose objects can be had; what can't be had waits.

        So do the others then, where nothing was moved on from: nobody saw them without what is gone.
        """
        absent = await read.missing(self.run.pool.path, {push.new for push in made if push.new})
        absent -= await served(self.run, absent)
        for push in made:
            if push.new in absent:
                self.gone[push] = GONE
                self.waiting.append(push)
        had = [push for push in made if push.new not in absent]
        if any(self._is_left(push) for push in had):
            return had
        self.waiting += had
        return []

    def _is_left(self, push: Push) -> bool:
        """Whether the ref was moved on from there."""
        return push.new != self.seen.refs.get(push.name)

    def _break_off(self, error: EverrefError, made: Sequence[Push], later: Sequence[Push]) -> None:
        self.broken_off = NetworkError(
            f"pushes that were overwritten are not saved yet: {error}", origin=error.origin
        )
        self.run.services.progress.note(str(self.broken_off))
        self.waiting += made
        self.gone |= {one: str(error) for one in (*made, *later) if self.now - one.update.at > GIVEN_UP}


async def served(run: SyncRun, absent: Collection[Target]) -> set[Target]:
    """Those of the objects that the remote gives by their ids, each by itself; not all of them are there."""
    found = set()
    for target in absent if len(absent) > 1 else ():
        with suppress(NotOurRef):
            async with aclosing(run.source.fetch([target], (), run.services.progress)) as sent:
                await anext(sent, None)
            found.add(target)
    return found if len(found) < len(absent) else set()  # all of them: they can't be had together


async def without_snapshot(run: SyncRun, way: Route) -> Answered:
    """What is answered where all that was pushed is not there any more, and nothing else moved."""
    absent = await read.missing(run.pool.path, {push.new for push in way.pushes if push.new})
    return way.answered([push for push in way.pushes if push.new in absent])


def is_sound(update: ReportedUpdate, object_format: ObjectFormat) -> bool:
    """Whether a repository of this format can have had such a ref."""
    try:
        refs.check_name(update.name)
    except Corrupt:
        return False
    length = HEX_LENGTH[object_format]
    return all(tip is None or len(tip) == length for tip in (update.before, update.after))
