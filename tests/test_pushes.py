"""Which moments there were between two looks, out of reports that come in any order, twice, or not at all."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.core.model import RefName, Refs, Target
from mirror.core.rules import reports
from mirror.core.rules.reports import Move, Push, ReportedUpdate

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
MAIN, DEV, TAG = (RefName(b"refs/heads/main"), RefName(b"refs/heads/dev"), RefName(b"refs/tags/v1"))
PULL = RefName(b"refs/pull/1/head")
A, B, C, D = (Target(letter * 40) for letter in (b"a", b"b", b"c", b"d"))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def update(
    number: int, name: RefName, before: Target | None, after: Target | None, told: float | None = None
) -> ReportedUpdate:
    """A report that arrived as the number says; `told` is the forge's time."""
    when = None if told is None else at(told)
    return ReportedUpdate((number, 1), name, before, after, "alice", when or at(number), forge_time=when)


def after(old: Refs, moment: list[Push] | tuple[Push, ...]) -> Refs:
    """The map after these pushes."""
    state = dict(old)
    for push in moment:
        if push.new is None:
            state.pop(push.name, None)
        else:
            state[push.name] = push.new
    return state


def maps(old: Refs, plan: reports.Between) -> list[Refs]:
    """The map of each moment of a plan."""
    found = []
    for moment in plan.moments:
        old = after(old, list(moment))
        found.append(old)
    return found


def led(plan: reports.Between) -> list[Push]:
    """All pushes of a plan."""
    return [*(push for moment in plan.moments for push in moment), *plan.rest]


def test_two_pushes_to_different_refs_are_two_moments_in_the_order_of_the_forges_times() -> None:
    told = [update(1, TAG, None, B, 7), update(2, MAIN, A, B, 5)]
    plan = reports.between({MAIN: A}, {MAIN: B, TAG: B}, told, {A})
    assert maps({MAIN: A}, plan) == [{MAIN: B}]
    assert [push.name for push in plan.rest] == [TAG]


def test_the_refs_of_one_push_are_one_moment() -> None:
    told = [update(9, TAG, None, C, 5), update(2, MAIN, A, B, 5), update(3, MAIN, B, C, 8)]
    plan = reports.between({MAIN: A}, {MAIN: C, TAG: C}, told, {A})
    assert maps({MAIN: A}, plan) == [{MAIN: B, TAG: C}]


def test_where_a_forge_tells_no_times_what_arrives_together_is_one_moment() -> None:
    told = [update(1, MAIN, A, B), replace(update(2, DEV, None, B), at=at(1.4)), update(5, TAG, None, B)]
    plan = reports.between({MAIN: A}, {MAIN: B, DEV: B, TAG: B}, told, {A})
    assert maps({MAIN: A}, plan) == [{MAIN: B, DEV: B}]


def test_a_move_back_and_forth_keeps_every_step() -> None:
    told = [update(3, MAIN, A, B, 9), update(1, MAIN, B, A, 7), update(2, MAIN, A, B, 5)]
    plan = reports.between({MAIN: A}, {MAIN: B}, told, {A})
    assert maps({MAIN: A}, plan) == [{MAIN: B}, {MAIN: A}]
    assert [push.new for push in plan.rest] == [B]


def test_nothing_is_said_of_when_a_ref_moved_that_nobody_told_of() -> None:
    """Dev may have been moved before, between or after; but what main was moved on from must be kept."""
    told = [update(1, MAIN, A, B, 5), update(2, TAG, None, B, 7)]
    new = {MAIN: B, TAG: B, DEV: C}
    assert maps({MAIN: A}, reports.between({MAIN: A}, new, told, {A})) == []
    told.append(update(3, MAIN, B, D, 9))
    assert maps({MAIN: A}, reports.between({MAIN: A}, new | {MAIN: D}, told, {A})) == [{MAIN: B}]


def test_of_refs_that_no_forge_tells_of_nothing_is_expected() -> None:
    told = [update(1, MAIN, A, B, 5), update(2, TAG, None, B, 7)]
    plan = reports.between({MAIN: A}, {MAIN: B, TAG: B, PULL: C}, told, {A})
    assert maps({MAIN: A}, plan) == [{MAIN: B}]


def test_a_move_that_nobody_told_was_between_its_neighbours() -> None:
    """Main went from b to c at some time between 5 and 9; so at 5 and at 9 every ref is known."""
    moves = [Move(MAIN, at(5)), Move(MAIN, None), Move(MAIN, at(9)), Move(DEV, at(7)), Move(TAG, at(3))]
    assert reports.moments(moves) == [[4], [0], [3, 1], [2]]


@dataclass(frozen=True)
class Forge:
    """What was pushed to a forge that tells times in whole seconds, and how it told of it."""

    states: list[Refs]  # the one before all pushes first
    told: list[ReportedUpdate]  # in the order of arrival


@st.composite
def forges(draw: st.DrawFn) -> Forge:
    """Some pushes to a few refs, no two of them in one second; their reports in any order, some twice."""
    state: dict[RefName, Target] = {MAIN: A}
    states: list[Refs] = [dict(state)]
    told: list[ReportedUpdate] = []
    for number in range(draw(st.integers(1, 8))):
        names = draw(st.lists(st.sampled_from([MAIN, DEV, TAG]), min_size=1, max_size=3, unique=True))
        moved = False
        for name in names:
            new = draw(st.sampled_from([A, B, C, D, None]))
            if state.get(name) == new:
                continue
            moved = True
            told.append(
                ReportedUpdate(
                    (len(told), 1), name, state.get(name), new, "alice", at(number), forge_time=at(number)
                )
            )
            if new is None:
                del state[name]
            else:
                state[name] = new
        if moved:
            states.append(dict(state))
    again = draw(st.lists(st.sampled_from(told), max_size=3)) if told else []
    order = draw(st.permutations([*told, *again]))
    return Forge(states, [replace(one, id=(place, 1)) for place, one in enumerate(order)])


@settings(max_examples=60, deadline=None)
@given(forges())
def test_every_state_that_was_told_is_a_moment_in_order_and_none_that_never_was(forge: Forge) -> None:
    told = list({(one.name, one.before, one.after, one.at): one for one in forge.told}.values())
    plan = reports.between(forge.states[0], forge.states[-1], told, {A, B, C, D})
    assert [forge.states[0], *maps(forge.states[0], plan)] == forge.states[:-1] or len(forge.states) == 1
    assert (
        after(maps(forge.states[0], plan)[-1] if plan.moments else forge.states[0], list(plan.rest))
        == (forge.states[-1])
    )


@settings(max_examples=60, deadline=None)
@given(forges(), st.data())
def test_with_reports_missing_nothing_is_shown_that_contradicts_what_was_told(
    forge: Forge, data: st.DataObject
) -> None:
    kept = [one for one in forge.told if data.draw(st.booleans())]
    plan = reports.between(forge.states[0], forge.states[-1], kept, {A})
    for push in led(plan):
        assert push.is_inferred or push.update in kept
    names: dict[RefName, list[Target | None]] = {}
    for push in led(plan):
        names.setdefault(push.name, []).append(push.new)
    for name, targets in names.items():
        were = [state.get(name) for state in forge.states]
        assert set(targets) <= set(were)


@pytest.mark.parametrize("count", [0, 1])
def test_no_moves_are_no_moments(count: int) -> None:
    moves = [Move(MAIN, at(1))] * count
    assert reports.moments(moves) == [list(range(count))]
