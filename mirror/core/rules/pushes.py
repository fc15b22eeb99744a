"""Every push between two looks at a remote, in order, out of what deliveries claim: for backup/rescue."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from mirror.core.model import RefName, Refs, Target

UpdateId = tuple[int, int]  # the delivery's row, and the place in it

# Of two moves of different refs that are told as closer together than this, nobody knows which was first:
# GitHub tells `repository.pushed_at` in whole seconds, the same for all refs of one push, and GitLab no time.
TOGETHER: Final = timedelta(seconds=1)
_EVER: Final = datetime.min.replace(tzinfo=UTC)
TOLD: Final = (b"refs/heads/", b"refs/tags/")  # the refs whose moves forges tell of


@dataclass(frozen=True, slots=True)
class ReportedUpdate:
    """What a delivery says that one ref did, while no sync has answered it."""

    id: UpdateId
    name: RefName
    before: Target | None  # None: it was created, or this was not told
    after: Target | None  # None: it was deleted
    by: str | None  # None: not told
    at: datetime  # the forge's word, or when it arrived where that is earlier or all that is known
    known: bool = False  # the history has this very move already
    told_at: datetime | None = None  # the forge's own word, by its own clock; None: it tells no times

    @property
    def when(self) -> datetime:
        """What the claims of one forge are put in order by: its own times, where it tells any."""
        return self.told_at or self.at


@dataclass(frozen=True, slots=True)
class Push:
    """One move of one ref, as a claim tells it."""

    name: RefName
    new: Target | None  # None: deleted
    update: ReportedUpdate
    told: bool = True  # False: the claim tells only that the ref had been there before

    @property
    def by(self) -> str | None:
        return self.update.by if self.told else None

    @property
    def at(self) -> datetime | None:
        return self.update.at if self.told else None


@dataclass(frozen=True, slots=True)
class Lost:
    """A push that could not be rescued."""

    name: RefName
    old: Target | None  # None: it was created, or this was not told
    new: Target
    by: str | None  # None: not told
    at: datetime
    why: str
    snapshot: int = 0  # the latest when this was noticed; 0: not noticed yet


@dataclass(frozen=True, slots=True)
class Answered:
    """The claims that a sync has made an end of, and what of their pushes is lost."""

    updates: Collection[UpdateId] = ()
    lost: Collection[Lost] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """How a snapshot comes about: by which pushes from the one before, and which claims it answers."""

    pushes: Sequence[Push] = ()
    updates: Collection[UpdateId] = ()
    gone: Mapping[Push, str] = field(default_factory=dict)  # which are lost if not held, and why; others wait
    lost: Sequence[Lost] = ()  # whatever else comes

    def answered(self, absent: Sequence[Push]) -> Answered:
        """What the snapshot answers when the objects of these pushes are not to be had."""
        waiting = {push.update.id for push in absent if push not in self.gone}
        lost = [lost_push(push, self.gone[push]) for push in absent if push in self.gone]
        return Answered([update for update in self.updates if update not in waiting], [*self.lost, *lost])


def lost_push(push: Push, why: str) -> Lost:
    """What is remembered of a push that cannot be rescued."""
    assert push.new, "a deletion needs no object"
    return Lost(push.name, push.update.before if push.told else None, push.new, push.by, push.update.at, why)


@dataclass(frozen=True, slots=True)
class PushedMove:
    """One move of one ref, with who made it and when where that is known."""

    name: RefName
    old: Target | None
    new: Target | None
    by: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Which pushes led from the last snapshot to what the remote shows, moment by moment."""

    moments: Sequence[Sequence[Push]]  # in order; what each made of the refs was there before the next
    rest: Sequence[Push]  # those that led from the last moment to what the remote shows

    @property
    def pushes(self) -> list[Push]:
        return [*(push for moment in self.moments for push in moment), *self.rest]


def plan(
    old: Refs,
    seen: Refs,
    updates: Sequence[ReportedUpdate],
    held: Collection[Target],
    since: datetime | None = None,
) -> Plan:
    """The moments between the last snapshot, of `since`, and what the remote shows, as far as claims tell.

    `claims` are in the order of their arrival, `held` are those of their objects
    that the pack log has. Within a ref, a claim that goes on where the ref is comes first; so
    deliveries may arrive in any order. One that goes on from nowhere tells of a
    push whose own delivery was lost. What the history has already is no push, nor
    is a claim whose objects are all held, unless the forge says that it was since then. Across refs the
    forge's times decide: see `moments`.
    """
    told: dict[RefName, list[tuple[int, ReportedUpdate]]] = {}
    said: set[tuple[RefName, Target | None, Target | None, datetime]] = set()
    for place, update in enumerate(updates):
        if update.told_at:  # what is told again under another id, which nothing signs
            if (same := (update.name, update.before, update.after, update.told_at)) in said:
                continue
            said.add(same)
        told.setdefault(update.name, []).append((place, update))
    found: list[Push | None] = []  # None: a move that nobody told
    moves: list[Move] = []
    for name in sorted(told.keys() | {name for name, _ in old.items() ^ seen.items()}):
        chain = _of_ref(old.get(name), seen.get(name), told.get(name, []), set(held), since)
        found += [push for _, push in chain]
        moves += [Move(name, push.update.when if push.told else None, place) for place, push in chain]
        if (chain[-1][1].new if chain else old.get(name)) != seen.get(name):
            found.append(None)
            moves.append(Move(name, None))
    *between, rest = [[push for number in group if (push := found[number])] for group in moments(moves)]
    return Plan(between, rest)


@dataclass(frozen=True, slots=True)
class Move:
    """One move of one ref, as `moments` looks at it."""

    name: RefName
    at: datetime | None  # None: nobody told
    place: int = 0  # among all reports, where times are the same


def moments(moves: Sequence[Move]) -> list[list[int]]:
    """The numbers of these moves in groups: after each group the refs were as it left them.

    `moves` has those of one ref in their order. The last group, which may be
    empty, has what led to the end of the stretch. Moves of different refs are one
    moment where nobody knows which was first: they were told as at the same time,
    as the refs of one push are. A move that nobody told may have been anywhere
    between its neighbours of the same ref, so there are no moments meanwhile; but
    what a ref was moved on from is always one, as nothing else would keep it.
    """
    when = _times(moves)
    last_of = {move.name: number for number, move in enumerate(moves)}
    latest: dict[RefName, int] = {}  # places, so that no ref's moves change their order
    order = []
    for number, move in enumerate(moves):
        latest[move.name] = max(move.place, latest.get(move.name, 0))
        if (at := when[number]) is not None:
            order.append((at, latest[move.name], number))
    groups: list[list[int]] = []
    since: datetime | None = None
    names: set[RefName] = set()
    for at, _, number in sorted(order):
        if since is None or at - since >= TOGETHER or moves[number].name in names:
            groups.append([])
            since, names = at, set()
        groups[-1].append(number)
        names.add(moves[number].name)
    unsure = _unsure(moves, groups)
    found: list[list[int]] = [[]]
    for place, group in enumerate(groups):
        found[-1] += group
        left = any(number != last_of[moves[number].name] for number in group)
        if left or (place not in unsure and place < len(groups) - 1):
            found.append([])
    found[-1] += [number for number, at in enumerate(when) if at is None]
    return found


def _times(moves: Sequence[Move]) -> list[datetime | None]:
    """When each move was at the latest: a move was before the next one of its ref. None: nobody knows."""
    when: list[datetime | None] = [None] * len(moves)
    after: dict[RefName, datetime] = {}
    for number in range(len(moves) - 1, -1, -1):
        move = moves[number]
        times = [at for at in (move.at, after.get(move.name)) if at]
        if times:
            when[number] = after[move.name] = min(times)
    return when


def _unsure(moves: Sequence[Move], groups: Sequence[Sequence[int]]) -> set[int]:
    """The groups at whose end some ref may have been moved already, as nobody told when it was."""
    place_of = {number: place for place, group in enumerate(groups) for number in group}
    unsure: set[int] = set()
    since: dict[RefName, int] = {}
    for number, move in enumerate(moves):
        place = place_of.get(number, len(groups))
        if move.at is None and move.name.startswith(TOLD):
            unsure.update(range(since.get(move.name, -1) + 1, place))
        since[move.name] = place
    return unsure


def _of_ref(
    old: Target | None,
    seen: Target | None,
    told: list[tuple[int, ReportedUpdate]],
    held: set[Target],
    since: datetime | None,
) -> list[tuple[int, Push]]:
    """The pushes of one ref, each with its place among all claims."""
    told = sorted(told, key=lambda one: one[1].when)
    if any(
        update.before and update.after is None for _, update in told
    ):  # then what tells less says it again
        told = [(place, update) for place, update in told if update.before or update.after]
    if old == seen:
        told = [(place, update) for place, update in told if not update.known]
    now, latest = old, 0
    pushes: list[tuple[int, Push]] = []
    while told:
        linked = [one for one in told if _goes_on(one[1], now)]
        place, update = _next(linked, now, told) if linked else told[0]
        first = told[0][1]
        if first.told_at and update.told_at and first.told_at < update.told_at and _is_new(first, since):
            (place, update), linked = told[0], []  # one before it was not told
        told.remove((place, update))
        latest = max(latest, place)
        if not linked:
            tips = {tip for tip in (update.before, update.after) if tip}
            explains = update.after == seen != now
            is_new = _is_new(update, since)
            says_nothing = update.after == now or (tips <= held and not explains)
            if update.known or (says_nothing and not is_new):
                continue
            if update.before != now and (is_new or (update.before and update.before not in held)):
                pushes.append((latest, Push(update.name, update.before, update, told=False)))
                held |= {update.before} if update.before else set()
        pushes.append((latest, Push(update.name, update.after, update)))
        held |= {update.after} if update.after else set()
        now = update.after
    return _without_replays(old, seen, pushes)


def _is_new(update: ReportedUpdate, since: datetime | None) -> bool:
    """Whether the forge says that it was after this, and the history does not have it."""
    return bool(since and update.told_at and update.told_at > since) and not update.known


def _next(
    linked: Sequence[tuple[int, ReportedUpdate]],
    now: Target | None,
    told: Sequence[tuple[int, ReportedUpdate]],
) -> tuple[int, ReportedUpdate]:
    """Which of those that go on from here was first: by the forge's times, else one that leads back here."""
    if len({update.after for _, update in linked}) == 1:
        return min(linked, key=lambda one: (one[1].known, one[1].when, one[0]))
    ways = {(update.before, update.after) for _, update in told}

    def is_end(update: ReportedUpdate) -> bool:
        reached: set[Target | None] = set()
        ahead = {update.after}
        while ahead and now not in reached:
            reached |= ahead
            ahead = {after for before, after in ways if before in ahead} - reached
        return now not in reached

    return min(
        linked, key=lambda one: (one[1].known, one[1].told_at or _EVER, is_end(one[1]), one[1].when, one[0])
    )


def _goes_on(update: ReportedUpdate, now: Target | None) -> bool:
    if update.before is None and update.after is None:  # a deletion that does not tell of what
        return now is not None
    return update.before == now


def _without_replays(
    old: Target | None, seen: Target | None, pushes: list[tuple[int, Push]]
) -> list[tuple[int, Push]]:
    """What was delivered again leads away from where the ref is, by moves that the history has already."""
    ends = [-1] if old == seen else []
    ends += [number for number, (_, push) in enumerate(pushes) if push.new == seen]
    if ends and all(push.update.known for _, push in pushes[ends[-1] + 1 :]):
        return pushes[: ends[-1] + 1]
    return pushes


def steps(old: Refs, new: Refs, pushes: Iterable[Push]) -> list[PushedMove]:
    """Every move from one map to the other by way of these pushes, in the order of names, then of time.

    What the pushes leave out is a step of its own, by nobody knows whom.
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
            made.setdefault(name, []).append(PushedMove(name, before, new.get(name), None, None))
    return [step for name in sorted(made) for step in made[name]]


def rounds(made: Sequence[PushedMove]) -> Iterator[list[int]]:
    """The numbers of the steps in groups that have each ref once: all first moves, all second ones, ..."""
    turns: dict[RefName, int] = {}
    groups: list[list[int]] = []
    for number, step in enumerate(made):
        turn = turns[step.name] = turns.get(step.name, -1) + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(number)
    yield from groups


def collides(refs: Collection[RefName], name: RefName) -> bool:
    """Whether a ref of this name cannot be beside these: git keeps `a` and `a/b` in one place."""
    parts = name.split(b"/")
    return any(b"/".join(parts[:end]) in refs for end in range(2, len(parts))) or any(
        other.startswith(name + b"/") for other in refs
    )
