"""Which moments there were between two looks, out of reports that come in any order, twice, or not at all."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.core.errors import NetworkError
from mirror.core.model import Listing, Reason, RefName, Refs, Target
from mirror.core.rules.history import pushes, reports
from mirror.core.rules.history.pushes import BrokenOff, Gone, Lost, SnapshotDraft, Unsound
from mirror.core.rules.history.reports import Move, Push, ReportedUpdate

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


def planned(
    old: Refs, new: Refs, updates: list[ReportedUpdate], reason: Reason = Reason.SWEEP
) -> pushes.Plan:
    """What is planned an hour after START for a sync that serves a request."""
    goal = SnapshotDraft(Listing(new, "sha1"), at(3600), reason, sync_request=START)
    return pushes.plan(Listing(old, "sha1"), START, goal, updates, {A})


def drafts(plan: pushes.Plan) -> Iterator[SnapshotDraft]:
    """The snapshots of a plan, if each of them can be taken."""
    while plan.draft:
        yield plan.draft
        plan = plan.taken()


def test_a_plan_has_a_snapshot_for_each_moment_and_then_one_of_what_is_shown() -> None:
    told = [update(1, MAIN, A, B, 5), update(2, MAIN, B, C, 9)]
    first, last = drafts(planned({MAIN: A}, {MAIN: C, PULL: D}, told))
    assert (first.listing.refs, first.taken_at, first.is_current) == ({MAIN: B}, at(5), False)
    assert (first.reason, first.sync_request, set(first.route.updates)) == (Reason.PUSH, None, {(1, 1)})
    assert (last.listing.refs, last.taken_at, last.is_current) == ({MAIN: C, PULL: D}, at(3600), True)
    assert (last.reason, last.sync_request, set(last.route.updates)) == (Reason.SWEEP, START, {(2, 1)})
    assert last.last_look == {MAIN: A}


def test_where_nothing_was_reported_what_is_shown_is_all_that_is_planned() -> None:
    (only,) = drafts(planned({MAIN: A}, {MAIN: B}, []))
    assert (only.listing.refs, only.sync_request, only.last_look) == ({MAIN: B}, START, {MAIN: A})
    assert only.is_current and not only.route.pushes and not only.route.updates
    assert list(drafts(planned({MAIN: A}, {MAIN: A}, []))) == []


def test_what_is_gone_waits_for_the_next_snapshot_which_records_it_as_lost_unless_it_comes_along() -> None:
    told = [update(1, MAIN, A, B, 5), update(2, MAIN, B, C, 9), update(3, MAIN, C, D, 13)]
    plan = planned({MAIN: A}, {MAIN: D}, told).without(Gone({B}))
    second, last = drafts(plan)
    assert [push.new for push in second.route.pushes] == [B, C] and second.listing.refs == {MAIN: C}
    (gone,) = second.route.gone
    assert second.route.answered([gone]).lost == [Lost(MAIN, A, B, "alice", at(5), pushes.GONE)]
    assert second.route.answered([]).lost == []
    assert [push.new for push in last.route.pushes] == [D]


def test_of_a_moment_one_of_whose_pushes_is_unsound_the_others_are_tried_alone() -> None:
    told = [
        update(1, MAIN, A, B, 5),
        update(2, DEV, None, C, 5),
        update(3, MAIN, B, D, 9),
        update(4, DEV, C, D, 9),
    ]
    plan = planned({MAIN: A}, {MAIN: D, DEV: D}, told)
    assert plan.draft and plan.draft.listing.refs == {MAIN: B, DEV: C}
    alone = plan.without(Unsound("two of them"))
    assert alone.draft and len(alone.draft.pushed) == 1
    bad = alone.draft.pushed[0]
    *rest, last = drafts(alone.without(Unsound("it is no commit")))
    assert [draft.listing.refs for draft in rest] == [{MAIN: A, DEV: C} if bad.name == MAIN else {MAIN: B}]
    assert [(one.name, one.new, one.why) for one in last.route.lost] == [
        (bad.name, bad.new, "it is no commit")
    ]
    assert {number for number, _ in last.route.updates} == {
        1,
        2,
        3,
        4,
    }  # none is answered before all is known


def test_where_the_connection_breaks_all_that_is_left_waits_and_the_request_stays_open() -> None:
    told = [update(1, MAIN, A, B, 5), update(2, MAIN, B, C, 9), update(3, MAIN, C, D, 13)]
    error = NetworkError("the line is dead")
    plan = planned({MAIN: A}, {MAIN: D}, told).taken().without(BrokenOff("the line is dead", error))
    (last,) = drafts(plan)
    assert plan.is_short and plan.broken_off is error
    assert last.is_current and last.sync_request is None
    assert [push.new for push in last.route.pushes] == [C, D]
    assert last.route.answered([last.route.pushes[0]]).updates == [(3, 1)]  # the other one waits


def test_more_moments_than_one_sync_takes_are_changes_of_the_last_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushes, "AT_ONCE", 1)
    told = [update(1, MAIN, A, B, 5), update(2, MAIN, B, C, 9), update(3, MAIN, C, D, 13)]
    plan = planned({MAIN: A}, {MAIN: D}, told)
    first, last = drafts(plan)
    assert (plan.too_many, plan.is_short, first.listing.refs) == (1, True, {MAIN: B})
    assert [push.new for push in last.route.pushes] == [C, D] and last.sync_request is None


def test_a_ref_that_git_cannot_keep_beside_the_others_has_no_snapshot_of_its_own() -> None:
    inside = RefName(DEV + b"/inside")
    told = [update(1, inside, None, B, 5), update(2, inside, B, None, 9), update(3, MAIN, A, B, 13)]
    plan = planned({MAIN: A, DEV: A}, {MAIN: B, DEV: A}, told)
    assert all(inside not in draft.listing.refs for draft in drafts(plan))
    assert "no ref can be beside others" in plan.gone[next(iter(plan.gone))]
