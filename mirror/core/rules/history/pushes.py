"""Which snapshots to take: one for each moment that was reported since the last look, then what is shown now.

Who calls: backup/sync, which takes the snapshots of the `Plan` one by one.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from mirror.core.errors import NetworkError
from mirror.core.model import Listing, Reason, RefName, Refs, Target
from mirror.core.rules.history import reports
from mirror.core.rules.history.reports import Push, ReportedUpdate, UpdateId

AT_ONCE: Final = 100  # moments that become snapshots of their own in one sync
GIVEN_UP: Final = timedelta(days=1)  # after which a push that could not be fetched is lost
GONE: Final = "the remote no longer has it"
NO_COMMIT: Final = "it is no commit, as a branch must be"


@dataclass(frozen=True, slots=True)
class Lost:
    """A push that could not be rescued."""

    name: RefName
    old: Target | None  # None: it was created, or this was not reported
    new: Target
    by: str | None  # None: not reported
    at: datetime
    why: str
    snapshot: int = 0  # the latest one when this was noticed; 0: not recorded yet


@dataclass(frozen=True, slots=True)
class Answered:
    """The updates that a sync has dealt with, and which of their pushes are lost."""

    updates: Collection[UpdateId] = ()
    lost: Collection[Lost] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """The pushes that led from one snapshot to the next, and the updates that the next one answers."""

    pushes: Sequence[Push] = ()
    updates: Collection[UpdateId] = ()
    gone: Mapping[Push, str] = field(default_factory=dict)  # lost unless held, and why; others without their
    # objects wait for the next sync
    lost: Sequence[Lost] = ()  # whatever else comes

    def answered(self, absent: Sequence[Push]) -> Answered:
        """What the snapshot answers if the objects of these pushes cannot be had."""
        waiting = {push.update.id for push in absent if push not in self.gone}
        lost = [lost_push(push, self.gone[push]) for push in absent if push in self.gone]
        return Answered([update for update in self.updates if update not in waiting], [*self.lost, *lost])


def lost_push(push: Push, why: str) -> Lost:
    """What is remembered of a push that cannot be rescued."""
    assert push.new, "a deletion needs no object"
    before = None if push.is_inferred else push.update.before
    return Lost(push.name, before, push.new, push.by, push.update.at, why)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a repository: what deliveries reported until then, and what its remote shows."""

    updates: Sequence[ReportedUpdate]
    listing: Listing
    at: datetime  # before the remote answered: later pushes are not in it
    has_more: bool = False  # more updates may wait than were read


@dataclass(frozen=True, slots=True)
class SnapshotDraft:
    """A snapshot that is to be taken: which refs it shows, and how they came about."""

    listing: Listing
    taken_at: datetime
    reason: Reason
    route: Route = field(default_factory=Route)
    pushed: Sequence[Push] = ()  # those of the route that lead to refs which the remote may not show any more
    sync_request: datetime | None = None  # the request that this snapshot serves
    last_look: Refs | None = (
        None  # what the remote showed then; None: what the snapshot before this one shows
    )
    is_current: bool = True  # False: the remote does not show this now, but a push once made it so
    by: str | None = None  # who made the moves that no push of the route makes; None: nobody knows
    commits: Collection[Target] = ()  # objects that must be commits; the draft is Corrupt if one is not
    extra: Collection[Target] = ()  # objects to fetch as well, although no ref points at them any more

    @property
    def unsure(self) -> set[Target]:
        """The objects that the remote may not have any more."""
        return {*self.extra, *(push.new for push in self.pushed if push.new)}


@dataclass(frozen=True, slots=True)
class Gone:
    """The remote no longer has some of the objects that a draft needs."""

    targets: Collection[Target]


@dataclass(frozen=True, slots=True)
class Unsound:
    """The remote sent something for a draft that cannot be kept."""

    why: str


@dataclass(frozen=True, slots=True)
class BrokenOff:
    """The connection broke, or the remote stopped answering: the next sync goes on from here."""

    why: str
    error: NetworkError


Setback = Gone | Unsound | BrokenOff  # why a draft could not be taken as it is


@dataclass(frozen=True, slots=True)
class Moment:
    """Pushes after which the refs were as they made them, until the next moment."""

    pushes: Sequence[Push]
    split_from: Sequence[Push] = ()  # the moment that this is one push of, as one of them was unsound


@dataclass(frozen=True, slots=True)
class Plan:
    """The snapshots that lead from the latest one to what the remote shows; `draft` is the next of them.

    A value: once a draft was taken, `taken` is the plan for what is left; where it turned out that the
    remote cannot give it, `without` is the plan that makes do. Pushes that cannot have a snapshot of their
    own wait for the next one: if their objects come with it, they become changes of their own there.
    """

    goal: SnapshotDraft  # of what the remote shows, as if nothing had been reported
    at: Listing  # what the latest snapshot shows
    taken_at: datetime  # when that was taken
    moments: Sequence[Moment]  # still to be taken, in order
    rest: Sequence[Push]  # what led from the last moment to what the remote shows
    open: frozenset[UpdateId]  # updates that no snapshot has answered yet
    too_many: int = 0  # moments that get no snapshot of their own
    waiting: Sequence[Push] = ()  # for the snapshot that comes next
    gone: Mapping[Push, str] = field(default_factory=dict)
    lost: Sequence[Lost] = ()
    broken_off: NetworkError | None = None
    is_complete: bool = False  # what the remote shows has its snapshot
    draft: SnapshotDraft | None = None  # the next to take; None: the refs are those that the remote shows

    @property
    def is_short(self) -> bool:
        """Whether something may be left to the next sync."""
        return self.broken_off is not None or self.too_many > 0

    @property
    def last_route(self) -> Route:
        """How the refs came from the last moment to what the remote shows."""
        return Route((*self.waiting, *self.rest), self.open, self.gone, self.lost)

    def taken(self) -> "Plan":
        """The plan once its draft was taken."""
        draft = self.draft
        assert draft is not None
        return replace(
            self,
            at=draft.listing,
            taken_at=draft.taken_at,
            moments=self.moments[1:],
            open=self.open - set(draft.route.updates),
            waiting=(),
            is_complete=draft.is_current,
        )._with_draft()

    def without(self, setback: Setback) -> "Plan":
        """The plan once its draft met this setback."""
        moment, *later = self.moments
        match setback:
            case Gone(targets):
                # What is left of a moment is one of its own only if some ref was moved on from there:
                # nobody saw the others without what is gone.
                gone = {push: GONE for push in moment.pushes if push.new in targets}
                left = [push for push in moment.pushes if push not in gone]
                if any(self._was_moved_on(push) for push in left):
                    moments, waits = [replace(moment, pushes=left), *later], [*gone]
                else:
                    moments, waits = later, [*gone, *left]
                plan = replace(self, moments=moments, gone={**self.gone, **gone})
            case Unsound(why) if len(moment.pushes) == 1:
                plan = replace(self, moments=later, lost=[*self.lost, lost_push(moment.pushes[0], why)])
                waits = []
            case Unsound():  # one of them is no sound push; the others shall not suffer for it
                split = [Moment([push], split_from=moment.pushes) for push in moment.pushes]
                plan, waits = replace(self, moments=[*split, *later]), []
            case BrokenOff(why, error):
                waits = [push for one in self.moments for push in one.pushes]
                old = {
                    push: why
                    for push in (*waits, *self.rest)
                    if self.goal.taken_at - push.update.at > GIVEN_UP
                }
                plan = replace(self, moments=(), gone={**self.gone, **old}, broken_off=error)
        return replace(plan, waiting=[*self.waiting, *waits])._with_draft()

    def _with_draft(self) -> "Plan":
        """This plan with its next draft. Pushes that lead to no new map of refs wait."""
        plan = self
        while plan.moments:
            moment, *later = plan.moments
            pushed, state, gone = plan._applied(moment)
            made = set(pushed)
            waits = [push for push in moment.pushes if push not in made]
            plan = replace(
                plan,
                moments=[replace(moment, pushes=pushed), *later] if pushed else later,
                waiting=[*plan.waiting, *waits],
                gone={**plan.gone, **gone},
            )
            if pushed:
                return replace(plan, draft=plan._draft_of(plan.moments[0], state))
        goal = replace(
            plan.goal,
            route=plan.last_route,
            sync_request=None if plan.is_short else plan.goal.sync_request,
        )
        is_there = plan.is_complete or plan.at == goal.listing
        return replace(plan, draft=None if is_there else goal)

    def _applied(self, moment: Moment) -> tuple[list[Push], dict[RefName, Target], dict[Push, str]]:
        """The pushes that make a new map of refs, that map, and those that git cannot keep in it."""
        state = dict(self.at.refs)
        pushed: list[Push] = []
        gone: dict[Push, str] = {}
        for push in moment.pushes:
            if moment.split_from and not self._was_moved_on(push):
                continue  # the snapshot of what the remote shows has it
            if push.new is not None and push.name not in state and reports.collides(state.keys(), push.name):
                gone[push] = "no ref can be beside others as it would have been"
            elif state.get(push.name) != push.new:
                pushed.append(push)
                if push.new is None:
                    state.pop(push.name)
                else:
                    state[push.name] = push.new
        return pushed, state, gone

    def _draft_of(self, moment: Moment, state: Refs) -> SnapshotDraft:
        later = [moment.split_from, *(one.pushes for one in self.moments[1:]), self.rest]
        pushes = [*self.waiting, *moment.pushes]
        answered = {push.update.id for push in pushes} - {push.update.id for one in later for push in one}
        pushed_at = max(self.taken_at, *(push.update.at for push in moment.pushes))
        return SnapshotDraft(
            Listing(state, self.goal.listing.object_format),
            min(self.goal.taken_at, pushed_at),
            Reason.PUSH,
            Route(pushes, answered, self.gone),
            pushed=moment.pushes,
            is_current=False,
        )

    def _was_moved_on(self, push: Push) -> bool:
        """Whether the ref was moved on from where this push left it."""
        return push.new != self.goal.listing.refs.get(push.name)


def plan(
    at: Listing,
    taken_at: datetime,
    goal: SnapshotDraft,
    updates: Sequence[ReportedUpdate],
    held: Collection[Target],
    broken_off: NetworkError | None = None,
) -> Plan:
    """The snapshots to take from the latest one, which shows `at`, to the `goal`: what the remote shows now.

    There is one for each moment that the updates report, AT_ONCE at the most, and then the goal itself.
    `held` are the objects of the updates that the pack log has. Where the connection is `broken_off`
    already, no moment gets a snapshot of its own.
    """
    object_format = goal.listing.object_format
    sound = [update for update in updates if reports.is_sound(update, object_format)]
    found = reports.between(at.refs, goal.listing.refs, sound, held, taken_at)
    own = () if broken_off else found.moments[:AT_ONCE]
    return Plan(
        replace(goal, last_look=at.refs),
        at,
        taken_at,
        [Moment(moment) for moment in own],
        [*(push for moment in found.moments[len(own) :] for push in moment), *found.rest],
        frozenset(update.id for update in updates),
        too_many=max(0, len(found.moments) - AT_ONCE),
        broken_off=broken_off,
    )._with_draft()


@dataclass(frozen=True, slots=True)
class PushedMove:
    """One move of one ref, with who made it and when, if that is known."""

    name: RefName
    old: Target | None
    new: Target | None
    by: str | None
    at: datetime | None


def steps(old: Refs, new: Refs, pushes: Iterable[Push], by: str | None = None) -> list[PushedMove]:
    """Every move from one map to the other by way of these pushes, in the order of names, then of time.

    What the pushes leave out is a step of its own, made by `by`; None: nobody knows who made it.
    """
    made: dict[RefName, list[PushedMove]] = {}
    now: dict[RefName, Target | None] = {}
    for push in pushes:
        before = now.get(push.name, old.get(push.name))
        if push.new != before:
            made.setdefault(push.name, []).append(PushedMove(push.name, before, push.new, push.by, push.at))
        now[push.name] = push.new
    changed = {name for name, _ in old.items() ^ new.items()}
    for name in changed | now.keys():
        if (before := now.get(name, old.get(name))) != new.get(name):
            made.setdefault(name, []).append(PushedMove(name, before, new.get(name), by, None))
    return [step for name in sorted(made) for step in made[name]]


def rounds(made: Sequence[PushedMove]) -> Iterator[list[int]]:
    """The numbers of the steps in groups that have each ref once: all first moves, all second ones, ..."""
    counts: dict[RefName, int] = {}
    groups: list[list[int]] = []
    for number, step in enumerate(made):
        count = counts[step.name] = counts.get(step.name, -1) + 1
        if count == len(groups):
            groups.append([])
        groups[count].append(number)
    yield from groups
