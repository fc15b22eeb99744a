"""A forge that tells late, twice and in any order, and a history that must tell the same in the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.core import refs
from mirror.core.model import RefName, Refs, Target
from mirror.core.rules.history import late_reports, pushes, reports
from mirror.core.rules.history.late_reports import Past, Story, Within
from mirror.core.rules.history.reports import ReportedUpdate

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
MAIN, DEV, TAG = (RefName(b"refs/heads/main"), RefName(b"refs/heads/dev"), RefName(b"refs/tags/v1"))
VALUES = [Target(letter * 40) for letter in (b"a", b"b", b"c", b"d")]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass
class Kept:
    """The history as the database has it, in memory."""

    maps: list[Refs]  # of each snapshot
    times: list[datetime]
    moves: dict[int, list[Past]] = field(default_factory=dict)
    within: dict[int, list[Within]] = field(default_factory=dict)

    def past(self, name: RefName) -> list[Past]:
        return [move for number in sorted(self.moves) for move in self.moves[number] if move.name == name]

    def sync(self, seen: Refs, now: datetime, told: Sequence[ReportedUpdate]) -> None:
        """One look: what came late is told, then what is new is taken."""
        found = []
        still = self._still([one for one in told if one.forge_time])
        for name in {update.name for update in told}:
            mine = [update for update in told if update.name == name]
            past = [*self.past(name), *(one for one in still if one.name == name)]
            found += late_reports.retold(past, mine, self.maps[-1].get(name), seen.get(name))
        for number in sorted({one.past.snapshot for one in found}):
            self._retell(number, [one for one in found if one.past.snapshot == number])
        used = {update for one in found for update in one.updates}
        left = [self._compared(update) for update in told if update not in used]
        plan = reports.between(self.maps[-1], seen, left, VALUES, self.times[-1])
        for moment in plan.moments:
            state = dict(self.maps[-1])
            for push in moment:
                if push.new is None:
                    state.pop(push.name, None)
                else:
                    state[push.name] = push.new
            self._take(state, min(now, max(push.update.at for push in moment)), moment)
        if seen != self.maps[-1] or plan.rest:
            self._take(seen, now, plan.rest)

    def _take(self, state: Refs, now: datetime, made: Sequence[reports.Push]) -> None:
        number, since = len(self.maps) + 1, self.times[-1]
        self.moves[number] = [
            Past(number, 0, place, since, now, step.name, step.old, step.new, step.by, step.at)
            for place, step in enumerate(pushes.steps(self.maps[-1], state, made), 1)
        ]
        self.maps.append(dict(state))
        self.times.append(now)

    def _compared(self, update: ReportedUpdate) -> ReportedUpdate:
        same = [one for one in self.past(update.name) if (one.old, one.new) == (update.before, update.after)]
        return replace(update, known=any(one.at == update.at for one in same))

    def _still(self, old: Sequence[ReportedUpdate]) -> list[Past]:
        found = {}
        for update in old:
            assert update.forge_time
            for number in range(2, len(self.maps) + 1):
                since, until = self.times[number - 2], self.times[number - 1]
                moved = {move.name for move in self.moves[number]}
                if update.forge_time + timedelta(seconds=1) <= until:
                    if since <= update.forge_time and update.name not in moved:
                        here = self.maps[number - 1].get(update.name)
                        found[number, update.name] = Past(
                            number, 0, 0, since, until, update.name, here, here, None, None
                        )
                    break
        return list(found.values())

    def _retell(self, number: int, found: Sequence[late_reports.Retold]) -> None:
        story = Story(number, dict(self.maps[number - 2]), self.times[number - 2], number)
        story.tell(self.moves[number], self.within.get(number, []), found)
        assert dict(story.state) == dict(self.maps[number - 1])
        before = {one.number: one for one in self.within.get(number, [])}
        after = {one.number: one for one in story.moments}
        assert before.items() <= after.items(), "a moment that has a number stays as it is"
        places = {one.number: place for place, one in enumerate(story.moments)} | {0: len(story.moments)}
        told = sorted(story.moves, key=lambda one: (places[one.moment], one.step.name))
        self.within[number] = story.moments
        since, until = self.times[number - 2], self.times[number - 1]
        self.moves[number] = [
            Past(number, one.moment, place, since, until, step.name, step.old, step.new, step.by, step.at)
            for place, one in enumerate(told, 1)
            for step in [one.step]
        ]

    def shown(self) -> list[Refs]:
        """Every moment's map, in order, by the moves."""
        found = [self.maps[0]]
        for number in range(2, len(self.maps) + 1):
            for one in (*self.within.get(number, []), None):
                state = dict(found[-1])
                for move in self.moves[number]:
                    if move.moment == (one.number if one else 0):
                        assert state.get(move.name) == move.old
                        if move.new is None:
                            del state[move.name]
                        else:
                            state[move.name] = move.new
                assert one is None or refs.digest(state) == one.refs_digest
                found.append(state)
            assert found[-1] == self.maps[number - 1]
        return found


@dataclass(frozen=True)
class Forge:
    states: list[Refs]
    told: list[tuple[int, ReportedUpdate]]  # with the number of the state that it led to
    looks: list[int]  # after which of the states, in order


@st.composite
def forges(draw: st.DrawFn) -> Forge:
    """Pushes of one to three refs, two seconds apart, and looks between them; the last look sees it all."""
    state: dict[RefName, Target] = {MAIN: VALUES[0]}
    states: list[Refs] = [dict(state)]
    told: list[tuple[int, ReportedUpdate]] = []
    for _ in range(draw(st.integers(1, 7))):
        number = len(states)
        names = draw(st.lists(st.sampled_from([MAIN, DEV, TAG]), min_size=1, max_size=3, unique=True))
        moves = [(name, state.get(name), draw(st.sampled_from([*VALUES, None]))) for name in names]
        moves = [(name, old, new) for name, old, new in moves if old != new]
        for name, old, new in moves:
            when = at(2 * number)
            told.append(
                (number, ReportedUpdate((len(told), 1), name, old, new, "alice", when, forge_time=when))
            )
            if new is None:
                del state[name]
            else:
                state[name] = new
        if moves:
            states.append(dict(state))
    last = len(states) - 1
    looks = sorted({draw(st.integers(0, last)) for _ in range(3)} | {last})
    return Forge(states, told, looks)


def begun(forge: Forge) -> Kept:
    return Kept([forge.states[0]], [at(0.5)])


def named(kept: Kept) -> set[tuple[RefName, Target | None, Target | None, datetime | None]]:
    return {(one.name, one.old, one.new, one.at) for moves in kept.moves.values() for one in moves if one.by}


def distinct(maps: Sequence[Refs]) -> list[Refs]:
    return [one for place, one in enumerate(maps) if place == 0 or one != maps[place - 1]]


MANY = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(forges(), st.randoms(use_true_random=False), st.booleans())
def test_reports_that_all_come_late_tell_every_state_and_none_that_never_was(
    forge: Forge, chance: object, twice: bool
) -> None:
    """The looks find moves that nobody told; then all is told at once, in any order, some of it twice."""
    kept = begun(forge)
    for look in forge.looks:
        kept.sync(forge.states[look], at(2 * look + 1.5), [])
    told = [update for _, update in forge.told] * (2 if twice else 1)
    chance.shuffle(told)  # type: ignore[attr-defined]
    told = [replace(update, id=(place, 1)) for place, update in enumerate(told)]
    kept.sync(forge.states[-1], at(100), told)
    assert named(kept) >= {(one.name, one.before, one.after, one.at) for _, one in forge.told}
    assert distinct(kept.shown()) == forge.states


@MANY
@given(forges(), st.data())
def test_every_told_push_has_its_name_and_its_state_however_late_each_report_comes(
    forge: Forge, data: st.DataObject
) -> None:
    kept = begun(forge)
    looks = [*forge.looks, forge.looks[-1], forge.looks[-1]]
    due: dict[int, list[ReportedUpdate]] = {}
    drawn: dict[tuple[RefName, int], int] = {}  # the reports of a ref's moves between two looks come together
    for number, update in forge.told:
        first = next(place for place, look in enumerate(looks) if look >= number)
        if (update.name, first) not in drawn:
            drawn[update.name, first] = data.draw(st.integers(first, len(looks) - 1))
        due.setdefault(drawn[update.name, first], []).append(update)
    for place, look in enumerate(looks):
        kept.sync(forge.states[look], at(2 * look + 1.5 + place / 100), due.get(place, []))
    assert named(kept) >= {(one.name, one.before, one.after, one.at) for _, one in forge.told}
    stays = {stay for one in kept.shown() for stay in one.items()}
    assert stays == {stay for one in forge.states for stay in one.items()}


@MANY
@given(forges(), st.data())
def test_reports_that_come_one_by_one_never_contradict_what_is_shown(
    forge: Forge, data: st.DataObject
) -> None:
    """Some are lost. What is kept stays as it is, and no ref is shown where it never was."""
    kept = begun(forge)
    looks = [*forge.looks, forge.looks[-1], forge.looks[-1]]
    due: dict[int, list[ReportedUpdate]] = {}
    for number, update in forge.told:
        first = next(place for place, look in enumerate(looks) if look >= number)
        due.setdefault(data.draw(st.integers(first, len(looks))), []).append(update)
    for place, look in enumerate(looks):
        before = kept.shown()
        kept.sync(forge.states[look], at(2 * look + 1.5 + place / 100), due.get(place, []))
        after = iter(kept.shown())
        assert all(one in after for one in before)
    stays = {stay for one in kept.shown() for stay in one.items()}
    assert stays <= {stay for one in forge.states for stay in one.items()}
