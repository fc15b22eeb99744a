"""The retention policy: what it keeps and why, and what it never drops."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import UsageError
from mirror.core.rules.keeping import retention
from mirror.core.rules.keeping.retention import EVERYTHING, Facts, Policy, Taken

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
STEADY = tuple(NOW - n * DAY for n in range(12))

numbers = st.integers(0, 40)
policies = st.builds(Policy, numbers, numbers, numbers, numbers, numbers, numbers, st.just(False))
ages = st.lists(st.floats(0, 2000), min_size=1, max_size=60)
chances = st.lists(st.booleans(), min_size=60, max_size=60)


def history(found: Sequence[float], whole: Sequence[bool] = ()) -> list[Taken]:
    """Snapshots that are so many days old; clocks go back now and then, so times need not ascend."""
    flags = [*whole, *[True] * len(found)]
    return [Taken(number, NOW - age * DAY, flags[number - 1]) for number, age in enumerate(found, 1)]


@given(policies, ages, chances, st.data())
def test_what_must_stay_stays_whatever_the_policy_says(
    policy: Policy, found: list[float], whole: list[bool], data: st.DataObject
) -> None:
    taken = history(found, whole)
    some = st.none() | st.integers(1, len(taken))
    drilled, deleted, pin = data.draw(some), data.draw(some), data.draw(st.integers(1, len(taken)))
    facts = Facts(
        pins={pin: "for the audit"}, drilled=drilled, deleted_after=deleted, in_use={1}, seen=STEADY
    )
    plan = retention.plan(policy, taken, facts, NOW)
    gone = {one.number for one in plan.dropped}
    assert len(taken) not in gone
    assert max((one.number for one in taken if one.whole), default=0) not in gone
    assert pin not in gone and 1 not in gone
    assert not any(drilled is not None and number >= drilled for number in gone)
    assert not any(deleted is not None and number <= deleted for number in gone)
    kept = {one.number for one in plan.kept}
    assert kept | gone == {one.number for one in taken} and not kept & gone
    assert all(one.because for one in plan.kept)
    assert not retention.plan(policy, taken, replace(facts, hold="case 12"), NOW).dropped


@given(policies, policies, ages)
def test_a_policy_that_does_not_keep_less_drops_nothing_more(
    one: Policy, other: Policy, found: list[float]
) -> None:
    taken, facts = history(found), Facts(seen=STEADY)
    if not retention.keeps_less(other, one):
        before = {gone.number for gone in retention.plan(one, taken, facts, NOW).dropped}
        assert {gone.number for gone in retention.plan(other, taken, facts, NOW).dropped} <= before
    assert retention.keeps_less(one, EVERYTHING) and not retention.keeps_less(EVERYTHING, one)


@given(policies, ages)
def test_dropping_what_a_plan_says_leaves_nothing_more_to_drop(policy: Policy, found: list[float]) -> None:
    taken, facts = history(found), Facts(seen=STEADY)
    first = retention.plan(policy, taken, facts, NOW)
    left = [one for one in taken if one not in first.dropped]
    assert retention.plan(policy, left, facts, NOW).dropped == ()


def test_each_number_keeps_what_it_says_and_several_reasons_can_hold() -> None:
    taken = history([800, 400, 399, 35, 34, 9, 2, 1.2, 1.1, 0.1])
    plan = retention.plan(Policy(keep_last=2, days=3, daily=2, monthly=3, yearly=2), taken, Facts(), NOW)
    said = {one.number: one.because for one in plan.kept}
    assert said[10] == (
        "one of the last 2",
        "of the last 3 days",
        "the last of 2026-11-22",
        "the last of 2026-11",
        "the last of 2026",
        "the newest",
    )
    assert said[9][:2] == ("one of the last 2", "of the last 3 days")
    assert said[7][:1] == ("of the last 3 days",)
    assert said[5] == ("the last of 2026-10",)
    assert said[3] == ("the last of 2025-10", "the last of 2025")
    assert said[6] == ("as it was at the end of 2026-11-19",)
    assert [one.number for one in plan.dropped] == [1, 2, 4]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (STEADY, None),
        ((*STEADY, NOW + 2 * DAY), "set the clock right"),
        ([one - 365 * DAY for one in STEADY], "may have jumped ahead"),
        ([NOW, *(one - 365 * DAY for one in STEADY)], "show only since 2026-11-22"),
        ((), "may have jumped ahead"),
    ],
    ids=["steady", "from the future", "a year ahead", "a year ahead, and written since", "nothing"],
)
def test_nothing_is_dropped_on_a_clock_that_disagrees_with_the_vault(
    seen: Sequence[datetime], words: str | None
) -> None:
    plan = retention.plan(Policy(keep_last=1), history([9, 8, 7]), Facts(seen=seen), NOW)
    assert len(plan.dropped) == 2
    assert (plan.stopped is None) if words is None else words in (plan.stopped or "")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "keep_last"),
        ({"days": "0"}, "keep_last"),
        ({"days": "-3"}, "days"),
        ({"yearly": "1e3"}, "yearly"),
    ],
)
def test_a_policy_that_keeps_nothing_or_cannot_be_read_is_refused(given: dict[str, str], field: str) -> None:
    with pytest.raises(UsageError) as refused:
        retention.parse(given)
    assert refused.value.field == field
    assert str(retention.parse({"keep_last": "3", "days": 30, "weekly": 4})) == (
        "the last 3, everything of the last 30 days, 4 weekly"
    )


@pytest.mark.parametrize(
    ("going", "size", "days", "worth"),
    [
        (0, 0, 90, False),
        (99, 99, 3, False),
        (50, 0, 8, True),
        (2, 10, 8, True),
        (2, 1, 8, False),
        (1, 0, 30, True),
    ],
)
def test_a_log_is_packed_anew_when_that_is_worth_it(going: int, size: int, days: int, worth: bool) -> None:
    assert retention.is_worth(going, size, 100, NOW - days * DAY, NOW) is worth


def test_a_flood_of_pushes_drops_nothing_that_was_good_on_a_day_before() -> None:
    good = [Taken(number, NOW - (20 - number) * DAY) for number in range(1, 20)]
    junk = [Taken(19 + number, NOW - timedelta(minutes=200 - number)) for number in range(1, 101)]
    plan = retention.plan(Policy(keep_last=10), [*good, *junk], Facts(), NOW)
    kept = [one.number for one in plan.kept]
    assert kept == [*range(13, 20), *range(110, 120)]
    assert plan.kept[0].because == ("as it was at the end of 2026-11-15",)
