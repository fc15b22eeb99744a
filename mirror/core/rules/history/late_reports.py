"""Which moves of the history late reports are about: they came after the sync that found these moves.

Who calls: backup/late_reports. A move that a sync found between two looks may have been several; each
that a late report names gets its pusher and its time, and what the ref was moved on from becomes a moment.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from mirror.core.errors import Corrupt
from mirror.core.formats.manifest import Fields
from mirror.core.formats.notes import Note
from mirror.core.model import HEAD, Kind, ObjectFormat, RefChange, RefName, Target
from mirror.core.refs import digest, shown_as
from mirror.core.rules.history import reports
from mirror.core.rules.history.pushes import PushedMove
from mirror.core.rules.history.reports import TOGETHER, ReportedUpdate

KIND: Final = "pushes"  # of the notes


@dataclass(frozen=True, slots=True)
class Past:
    """One move of one ref as the history has it."""

    snapshot: int  # the one that it led to
    moment: int  # the number of the moment within that snapshot; 0: the snapshot itself
    position: int  # among the moves of the snapshot; 0: none of them, as both looks found it in one place
    since: datetime  # when the snapshot before was taken
    until: datetime  # when this one was
    name: RefName
    old: Target | None
    new: Target | None
    by: str | None
    at: datetime | None

    @property
    def is_still(self) -> bool:
        """Whether the two looks found the ref in one place: no move, but there may have been some."""
        return self.position == 0

    @property
    def is_unreported(self) -> bool:
        """Whether nobody has reported it yet."""
        return self.by is None and self.at is None


@dataclass(frozen=True, slots=True)
class Part:
    """One of the moves that a move of the history was."""

    new: Target | None
    update: ReportedUpdate | None  # None: nobody reported it, but what was reported implies it


@dataclass(frozen=True, slots=True)
class Retold:
    """What a move of the history really was: these parts in order; the last one leads to where it led."""

    past: Past
    parts: Sequence[Part]

    @property
    def updates(self) -> list[ReportedUpdate]:
        return [part.update for part in self.parts if part.update]


def retold(
    past: Sequence[Past], updates: Iterable[ReportedUpdate], old: Target | None, seen: Target | None
) -> list[Retold]:
    """Which moves of one ref these updates are about; the history has it at `old` now, the remote at `seen`.

    An update that starts at `old`, or leads to what the remote shows, is new. Any other
    belongs to the move during which it happened by the forge's times, or, if
    the forge reports no times, to the latest one that it can be a part of. A push that a
    look saw before the time that the forge gives it is the latest move itself.
    The very first snapshot has no look before it: a move in it gets its name and is never split.
    """
    reported = _unrecorded(past, updates)
    ahead = _ahead(old, seen, reported)
    reported = [update for update in reported if update not in ahead or _was_before_look(update, past)]
    found: list[Retold] = []
    left = sorted((one for one in past if one.is_unreported), key=_order, reverse=True)
    for by_times in (True, False):
        for one in list(left):
            if one.is_still and not by_times:
                continue
            inside = [update for update in reported if _can_be_in(one, update, by_times)]
            parts = _parts(one, inside, anywhere=old == seen and not by_times)
            used = {part.update for part in parts if part.update}
            if not used or (one.snapshot == 1 and len(parts) > 1):
                continue
            found.append(Retold(one, parts))
            left.remove(one)
            reported = [update for update in reported if update not in used]
    if late := _seen_before_its_time(past, left, reported):
        found.append(late)
    return found


def _seen_before_its_time(
    past: Sequence[Past], left: Collection[Past], reported: Sequence[ReportedUpdate]
) -> Retold | None:
    """The latest move of the ref, if the first of what is left reports it with a time after the look.

    A host can show a push before the time that it gives it, and clocks differ. Without this such a
    push would be told as another one, with a way back before it that nobody made.
    """
    latest = max((one for one in past if not one.is_still), key=_order, default=None)
    if latest is None or latest not in left or not reported:
        return None
    first = reported[0]
    is_same = (first.before, first.after) == (latest.old, latest.new)
    if not is_same or first.forge_time is None or first.forge_time <= latest.until:
        return None
    return Retold(latest, [Part(latest.new, first)])


def _order(past: Past) -> tuple[int, int]:
    return past.snapshot, past.position


def _unrecorded(past: Sequence[Past], updates: Iterable[ReportedUpdate]) -> list[ReportedUpdate]:
    """The updates that add to what is recorded or to another one, in the order of their times."""
    known = {(one.old, one.new, one.at) for one in past if not one.is_unreported}
    moves = {(old, new) for old, new, _ in known} - {(one.old, one.new) for one in past if one.is_unreported}
    found: dict[tuple[Target | None, Target | None, datetime], ReportedUpdate] = {}
    for update in updates:
        move = (update.before, update.after)
        is_recorded = (*move, update.at) in known if update.forge_time else move in moves
        if not is_recorded and move != (None, None):
            found.setdefault((*move, update.when), update)
    return sorted(found.values(), key=lambda update: (update.when, update.id))


def _ahead(
    old: Target | None, seen: Target | None, reported: Sequence[ReportedUpdate]
) -> set[ReportedUpdate]:
    """Those that lead from `old` towards `seen`, and those that lead to it."""
    found: set[ReportedUpdate] = set()
    while old != seen and (on := _first(reported, found, before=old)):
        found.add(on)
        old = on.after
    while old != seen and (back := _first(reversed(reported), found, after=seen)):
        found.add(back)
        seen = back.before
    return found


def _first(
    reported: Iterable[ReportedUpdate], used: Collection[ReportedUpdate], **ends: Target | None
) -> ReportedUpdate | None:
    """The first of the updates with these ends, apart from those that are used."""
    return next(
        (
            update
            for update in reported
            if update not in used and all(getattr(update, end) == target for end, target in ends.items())
        ),
        None,
    )


def _was_before_look(update: ReportedUpdate, past: Sequence[Past]) -> bool:
    """Whether it happened before the latest look by the forge's times, which are in whole seconds."""
    return any(_is_within(one, update) for one in past if one.is_unreported)


def _is_within(past: Past, update: ReportedUpdate) -> bool:
    """Whether it certainly happened between the two looks, by the forge's time."""
    return update.forge_time is not None and past.since <= update.forge_time <= past.until - TOGETHER


def _can_be_in(past: Past, update: ReportedUpdate, by_times: bool) -> bool:
    if update.forge_time is not None:
        return by_times and past.since - TOGETHER <= update.forge_time <= past.until
    return update.at >= past.since


def _parts(past: Past, reported: Sequence[ReportedUpdate], anywhere: bool) -> list[Part]:
    """The parts of this move as these updates report them: on from its start, and back from its end.

    What links up with neither lies between them, if the times say so or it can be `anywhere`.
    """
    used: set[ReportedUpdate] = set()
    parts: list[Part] = []
    now = past.old
    while on := _first(
        (one for one in reported if now != past.new or _is_within(past, one)), used, before=now
    ):
        used.add(on)
        parts.append(Part(on.after, on))
        now = on.after
    end: list[Part] = []
    goal = past.new
    while now != goal and (back := _first(reversed(reported), used, after=goal)):
        used.add(back)
        end.insert(0, Part(goal, back))
        goal = back.before
    anywhere = anywhere and now != goal
    for update in reported:
        if update not in used and (anywhere or _is_within(past, update)):
            if update.before != now:
                parts.append(Part(update.before, None))
            parts.append(Part(update.after, update))
            now = update.after
    if now != goal:
        parts.append(Part(goal, None))
    return [*parts, *end]


@dataclass(frozen=True, slots=True)
class Within:
    """One moment within a snapshot, which was passed over when the snapshot was taken."""

    number: int
    taken_at: datetime
    head: Target | None
    refs_count: int  # without HEAD
    refs_digest: str
    log: int  # the number of a snapshot whose prefix of the pack log has all its objects


@dataclass(frozen=True, slots=True)
class Moved:
    """One move of a snapshot."""

    change: RefChange
    moment: int  # the number of the one that it led to; 0: the snapshot itself


@dataclass(frozen=True, slots=True)
class StoryMove:
    """One move of a snapshot, as it is known now."""

    step: PushedMove
    moment: int  # the number of the one that it led to; 0: the snapshot itself
    past: Past | None  # None: it is new, or a part of what was one move


@dataclass(slots=True)
class Story:
    """How a snapshot came about, moment by moment; it starts with the refs and the time of the one before."""

    snapshot: int
    state: dict[RefName, Target]
    since: datetime
    log: int  # the snapshot up to which the pack log has every object of the story
    moments: list[Within] = field(default_factory=list)
    moves: list[StoryMove] = field(default_factory=list)
    impossible: list[PushedMove] = field(default_factory=list)  # what git cannot keep beside the other refs

    def tell(self, recorded: Sequence[Past], within: Sequence[Within], found: Sequence[Retold]) -> None:
        """Add what was found to what is recorded: `within` are the moments that exist already.

        Those stay as they are, each an end like the snapshot's own; what is new lies between them.
        """
        highest = max((one.number for one in within), default=0)
        parts = {(one.past.name, one.past.position): one for one in found}
        for end in (*within, None):
            items: list[tuple[Past, Part | None]] = []
            for move in recorded:
                if move.moment == (end.number if end else 0):
                    one = parts.pop((move.name, move.position), None)
                    items += [(move, part) for part in one.parts] if one else [(move, None)]
            if end is None:  # a ref that was where it had been before
                items += [(one.past, part) for one in parts.values() for part in one.parts]
            until = end.taken_at if end else max(move.until for move, _ in items)
            highest = self._stretch(items, until, end.number if end else 0, highest)
            if end:
                self.moments.append(end)

    def _stretch(
        self, items: Sequence[tuple[Past, Part | None]], until: datetime, end: int, highest: int
    ) -> int:
        """Add the moves from one moment to the next, and the moments between; returns the highest number."""
        groups = reports.moments([reports.Move(move.name, _when(move, part)) for move, part in items])
        steps = _steps(items)
        moment_of: dict[int, int] = {}
        waiting: list[int] = []
        for place, group in enumerate(groups):
            waiting += group
            self._apply([steps[number] for number in group], is_end=place == len(groups) - 1)
            if place == len(groups) - 1 or self.snapshot == 1:
                continue
            highest += 1
            times = [at for number in group if (at := steps[number].at)]
            self.since = max(self.since, min(until, max(times, default=until)))
            self.moments.append(self._moment(highest))
            moment_of |= dict.fromkeys(waiting, highest)
            waiting = []
        self.since = max(self.since, until)
        for number, (move, part) in enumerate(items):
            self.moves.append(StoryMove(steps[number], moment_of.get(number, end), None if part else move))
        return highest

    def _apply(self, steps: Sequence[PushedMove], is_end: bool) -> None:
        """Apply these steps. What git cannot keep beside the other refs is impossible, unless it was seen."""
        for step in sorted(steps, key=lambda step: step.new is not None):  # `a` goes before `a/b` comes
            if step.new is None:
                self.state.pop(step.name, None)
                continue
            if not is_end and step.name not in self.state and reports.collides(self.state.keys(), step.name):
                self.impossible.append(step)
            self.state[step.name] = step.new

    def _moment(self, number: int) -> Within:
        return Within(
            number,
            self.since,
            self.state.get(HEAD),
            len(self.state) - (HEAD in self.state),
            digest(self.state),
            self.log,
        )


def _steps(items: Sequence[tuple[Past, Part | None]]) -> list[PushedMove]:
    """Every move with where it came from, who made it and when."""
    steps = []
    now: dict[tuple[RefName, int], Target | None] = {}
    for move, part in items:
        if part is None:
            steps.append(PushedMove(move.name, move.old, move.new, move.by, move.at))
            continue
        old = now.get((move.name, move.position), move.old)
        now[move.name, move.position] = part.new
        update = part.update
        # The time of arrival says nothing if the snapshot was taken before.
        at = update.at if update and (update.forge_time or update.at <= move.until) else None
        steps.append(PushedMove(move.name, old, part.new, update.by if update else None, at))
    return steps


def _when(move: Past, part: Part | None) -> datetime | None:
    if part is None:
        return move.at
    return part.update.when if part.update else None


@dataclass(frozen=True, slots=True)
class Retelling:
    """How a snapshot came about, by late reports: what a note keeps."""

    snapshot: int
    object_format: ObjectFormat
    moments: Sequence[Within]  # all of the snapshot's, in their order
    moves: Sequence[Moved]  # all moves of each ref that something new was reported of, in order


def encode(retelling: Retelling) -> dict[str, object]:
    """The fields of a note."""
    return {
        "snapshot": retelling.snapshot,
        "object_format": retelling.object_format,
        "moments": [
            {
                "number": one.number,
                "taken_at": _time(one.taken_at),
                **_target("head", one.head),
                "refs_count": one.refs_count,
                "refs_digest": one.refs_digest,
                "log": one.log,
            }
            for one in retelling.moments
        ],
        "changes": [
            {
                **shown_as("name", one.change.name),
                **_target("old", one.change.old),
                **_target("new", one.change.new),
                "kind": one.change.kind,
                "by": one.change.by,
                "at": one.change.at and _time(one.change.at),
                "moment": one.moment,
            }
            for one in retelling.moves
        ],
    }


def _target(key: str, target: Target | None) -> dict[str, str | None]:
    return {key: None} if target is None else {**shown_as(key, target)}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def decode(note: Note) -> Retelling:
    """What a note of this kind says. Raises Corrupt if anything is wrong with it."""
    fields = note.fields
    object_format = fields.object_format("object_format")
    moments = [_decoded_moment(row, object_format) for row in fields.rows("moments")]
    moves = [_decoded_move(row, object_format) for row in fields.rows("changes")]
    numbers = {one.number for one in moments}
    if len(numbers) != len(moments) or not {one.moment for one in moves} <= numbers | {0}:
        raise Corrupt(f"{fields.what}: its moments are not those that its changes led to")
    return Retelling(fields.count("snapshot", 1), object_format, moments, moves)


def _decoded_moment(row: Fields, object_format: ObjectFormat) -> Within:
    return Within(
        row.count("number", 1),
        row.time("taken_at"),
        row.target_or_none("head", object_format),
        row.count("refs_count"),
        row.sha256("refs_digest"),
        row.count("log", 1),
    )


def _decoded_move(row: Fields, object_format: ObjectFormat) -> Moved:
    change = RefChange(
        row.name(),
        row.target_or_none("old", object_format),
        row.target_or_none("new", object_format),
        row.one_of("kind", Kind),
        None if row.optional("by") is None else row.text("by"),
        None if row.optional("at") is None else row.time("at"),
    )
    return Moved(change, row.count("moment"))
