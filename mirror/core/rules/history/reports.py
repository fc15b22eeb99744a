"""What webhooks report that happened between two looks at a remote: the pushes, in order, moment by moment.

Who calls: core/rules/history/pushes, which plans a snapshot for each moment, and
core/rules/history/late_reports.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from mirror.core import refs
from mirror.core.errors import Corrupt
from mirror.core.model import HEX_LENGTH, ObjectFormat, RefName, Refs, Target

UpdateId = tuple[int, int]  # the delivery's row, and the update's position in it

# Nobody knows which of two moves of different refs came first if their reported times are closer than this.
# GitHub reports `repository.pushed_at` in whole seconds, the same for all refs of one push; GitLab no time.
TOGETHER: Final = timedelta(seconds=1)
REPORTED: Final = (b"refs/heads/", b"refs/tags/")  # the refs whose moves forges report
_EVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ReportedUpdate:
    """What a delivery says that one ref did, until a sync has answered it."""

    id: UpdateId
    name: RefName
    before: Target | None  # None: it was created, or this was not reported
    after: Target | None  # None: it was deleted
    by: str | None  # None: not reported
    at: datetime  # the forge's time, or when the delivery arrived if that is earlier or all that is known
    known: bool = False  # the history has this very move already
    forge_time: datetime | None = None  # by the forge's own clock; None: it reports no times

    @property
    def when(self) -> datetime:
        """What the updates of one forge are ordered by: its own times, if it reports any."""
        return self.forge_time or self.at


@dataclass(frozen=True, slots=True)
class Push:
    """One move of one ref, as an update reports it."""

    name: RefName
    new: Target | None  # None: deleted
    update: ReportedUpdate
    is_inferred: bool = False  # the update says only that the ref had pointed there before

    @property
    def by(self) -> str | None:
        return None if self.is_inferred else self.update.by

    @property
    def at(self) -> datetime | None:
        return None if self.is_inferred else self.update.at


def is_sound(update: ReportedUpdate, object_format: ObjectFormat) -> bool:
    """Whether a repository of this format can have had such a ref."""
    try:
        refs.check_name(update.name)
    except Corrupt:
        return False
    length = HEX_LENGTH[object_format]
    return all(tip is None or len(tip) == length for tip in (update.before, update.after))


@dataclass(frozen=True, slots=True)
class Between:
    """Which pushes led from the last snapshot to what the remote shows, moment by moment."""

    moments: Sequence[Sequence[Push]]  # in order; the refs were as each made them before the next one
    rest: Sequence[Push]  # those that led from the last moment to what the remote shows


def between(
    old: Refs,
    new: Refs,
    updates: Sequence[ReportedUpdate],
    held: Collection[Target],
    since: datetime | None = None,
) -> Between:
    """The moments between the last snapshot, taken at `since`, and what the remote shows, as reported.

    `updates` are in the order of their arrival, `held` are those of their objects that the pack log has.
    Deliveries may arrive in any order: of a ref's updates, one that starts where the ref is comes first.
    One that starts from somewhere else shows that another delivery was lost. What the history has already
    is no push, nor is an update whose objects are all held, unless the forge says that it happened
    after `since`. Across refs the forge's times decide: see `moments`.
    """
    if not updates:
        return Between((), ())
    reported: dict[RefName, list[tuple[int, ReportedUpdate]]] = {}
    seen: set[tuple[RefName, Target | None, Target | None, datetime]] = set()
    for position, update in enumerate(updates):
        if update.forge_time:  # the same again under another delivery id, which nothing signs
            if (same := (update.name, update.before, update.after, update.forge_time)) in seen:
                continue
            seen.add(same)
        reported.setdefault(update.name, []).append((position, update))
    found: list[Push | None] = []  # None: a move that nobody reported
    moves: list[Move] = []
    for name in sorted(reported.keys() | {name for name, _ in old.items() ^ new.items()}):
        chain = _of_ref(old.get(name), new.get(name), reported.get(name, []), set(held), since)
        found += [push for _, push in chain]
        moves += [
            Move(name, None if push.is_inferred else push.update.when, position) for position, push in chain
        ]
        if (chain[-1][1].new if chain else old.get(name)) != new.get(name):
            found.append(None)
            moves.append(Move(name, None))
    *before, rest = [[push for number in group if (push := found[number])] for group in moments(moves)]
    return Between(before, rest)


@dataclass(frozen=True, slots=True)
class Move:
    """One move of one ref, as `moments` looks at it."""

    name: RefName
    at: datetime | None  # None: nobody reported it
    position: int = 0  # among all reports, to order those of the same time


def moments(moves: Sequence[Move]) -> list[list[int]]:
    """The numbers of these moves in groups: after each group the refs were as it left them.

    `moves` has those of each ref in their order. The last group, which may be
    empty, has what led to the end of the stretch. Moves of different refs are one
    moment where nobody knows which came first: they were reported with the same time,
    as the refs of one push are. A move that nobody reported may have happened anywhere
    between its neighbours of the same ref, so there are no moments in that time; but
    what a ref was moved on from is always a moment, as nothing else would keep it.
    """
    when = _times(moves)
    last_of = {move.name: number for number, move in enumerate(moves)}
    latest: dict[RefName, int] = {}  # positions, so that no ref's moves change their order
    order = []
    for number, move in enumerate(moves):
        latest[move.name] = max(move.position, latest.get(move.name, 0))
        if (at := when[number]) is not None:
            order.append((at, latest[move.name], number))
    groups: list[list[int]] = []
    start: datetime | None = None
    names: set[RefName] = set()
    for at, _, number in sorted(order):
        if start is None or at - start >= TOGETHER or moves[number].name in names:
            groups.append([])
            start, names = at, set()
        groups[-1].append(number)
        names.add(moves[number].name)
    unsure = _unsure(moves, groups)
    found: list[list[int]] = [[]]
    for place, group in enumerate(groups):
        found[-1] += group
        moved_on = any(number != last_of[moves[number].name] for number in group)
        if moved_on or (place not in unsure and place < len(groups) - 1):
            found.append([])
    found[-1] += [number for number, at in enumerate(when) if at is None]
    return found


def _times(moves: Sequence[Move]) -> list[datetime | None]:
    """When each move happened at the latest: before the next one of its ref. None: nobody knows."""
    when: list[datetime | None] = [None] * len(moves)
    next_at: dict[RefName, datetime] = {}
    for number in range(len(moves) - 1, -1, -1):
        move = moves[number]
        times = [at for at in (move.at, next_at.get(move.name)) if at]
        if times:
            when[number] = next_at[move.name] = min(times)
    return when


def _unsure(moves: Sequence[Move], groups: Sequence[Sequence[int]]) -> set[int]:
    """The groups at whose end some ref may have moved already, as nobody reported when it did."""
    place_of = {number: place for place, group in enumerate(groups) for number in group}
    unsure: set[int] = set()
    previous: dict[RefName, int] = {}
    for number, move in enumerate(moves):
        place = place_of.get(number, len(groups))
        if move.at is None and move.name.startswith(REPORTED):
            unsure.update(range(previous.get(move.name, -1) + 1, place))
        previous[move.name] = place
    return unsure


def _of_ref(
    old: Target | None,
    new: Target | None,
    reported: list[tuple[int, ReportedUpdate]],
    held: set[Target],
    since: datetime | None,
) -> list[tuple[int, Push]]:
    """The pushes of one ref, each with its position among all updates."""
    left = sorted(reported, key=lambda one: one[1].when)
    if any(update.before and update.after is None for _, update in left):
        # A deletion was reported with what it deleted: a report without that says the same.
        left = [(position, update) for position, update in left if update.before or update.after]
    if old == new:
        left = [(position, update) for position, update in left if not update.known]
    now, latest = old, 0
    pushes: list[tuple[int, Push]] = []
    while left:
        linked = [one for one in left if _starts_at(one[1], now)]
        position, update = _first(linked, now, left) if linked else left[0]
        first = left[0][1]
        if first.forge_time and update.forge_time and first.forge_time < update.forge_time:
            if _is_new(first, since):
                (position, update), linked = left[0], []  # a push before it was not reported
        left.remove((position, update))
        latest = max(latest, position)
        if not linked:
            tips = {tip for tip in (update.before, update.after) if tip}
            explains = update.after == new != now
            is_new = _is_new(update, since)
            says_nothing = update.after == now or (tips <= held and not explains)
            if update.known or (says_nothing and not is_new):
                continue
            if update.before != now and (is_new or (update.before and update.before not in held)):
                pushes.append((latest, Push(update.name, update.before, update, is_inferred=True)))
                held |= {update.before} if update.before else set()
        pushes.append((latest, Push(update.name, update.after, update)))
        held |= {update.after} if update.after else set()
        now = update.after
    return _without_replays(old, new, pushes)


def _is_new(update: ReportedUpdate, since: datetime | None) -> bool:
    """Whether the forge says that it happened after `since`, and the history does not have it."""
    return bool(since and update.forge_time and update.forge_time > since) and not update.known


def _first(
    linked: Sequence[tuple[int, ReportedUpdate]],
    now: Target | None,
    left: Sequence[tuple[int, ReportedUpdate]],
) -> tuple[int, ReportedUpdate]:
    """Which of those that start from here came first: by the forge's times, else one that leads back here."""
    if len({update.after for _, update in linked}) == 1:
        return min(linked, key=lambda one: (one[1].known, one[1].when, one[0]))
    edges = {(update.before, update.after) for _, update in left}

    def is_end(update: ReportedUpdate) -> bool:
        reached: set[Target | None] = set()
        ahead = {update.after}
        while ahead and now not in reached:
            reached |= ahead
            ahead = {after for before, after in edges if before in ahead} - reached
        return now not in reached

    return min(
        linked,
        key=lambda one: (one[1].known, one[1].forge_time or _EVER, is_end(one[1]), one[1].when, one[0]),
    )


def _starts_at(update: ReportedUpdate, now: Target | None) -> bool:
    if update.before is None and update.after is None:  # a deletion that does not say of what
        return now is not None
    return update.before == now


def _without_replays(
    old: Target | None, new: Target | None, pushes: list[tuple[int, Push]]
) -> list[tuple[int, Push]]:
    """Without what was delivered again: it leads away from where the ref is, by moves that are known."""
    ends = [-1] if old == new else []
    ends += [number for number, (_, push) in enumerate(pushes) if push.new == new]
    if ends and all(push.update.known for _, push in pushes[ends[-1] + 1 :]):
        return pushes[: ends[-1] + 1]
    return pushes


def collides(refs: Collection[RefName], name: RefName) -> bool:
    """Whether a ref of this name cannot be beside these: git keeps `a` and `a/b` in one place."""
    parts = name.split(b"/")
    return any(b"/".join(parts[:end]) in refs for end in range(2, len(parts))) or any(
        other.startswith(name + b"/") for other in refs
    )
