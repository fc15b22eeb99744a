"""When a repo is drilled and at which moment, and how fast the vault is read: decisions without I/O."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest

from mirror.core.errors import UsageError
from mirror.core.model import RepoId
from mirror.core.rules.health import proving

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PARTS = [(1, 40), (41, 48), (49, 50)]


def repo(number: int) -> RepoId:
    return RepoId(UUID(int=number * 7919))


def test_drills_are_spread_over_the_period_and_never_later_than_it() -> None:
    times = [proving.next_drill(repo(number), 30, NOW, NOW) for number in range(1000)]
    days = [(time - NOW) / DAY for time in times if time]
    assert len(days) == 1000 and 22.5 <= min(days) < 23 and 28 < max(days) <= 28.5
    assert max(Counter(int(day) for day in days).values()) < 250


def test_a_repo_that_was_never_drilled_is_drilled_within_two_days_but_not_at_once() -> None:
    waits = [time - NOW for n in range(1000) if (time := proving.next_drill(repo(n), 30, None, NOW))]
    assert len(waits) == 1000 and timedelta(hours=1) <= min(waits) and max(waits) <= timedelta(hours=49)


def test_a_team_that_wants_no_drills_gets_none_and_a_late_one_is_due_now() -> None:
    assert proving.next_drill(repo(1), 0, NOW, NOW) is None
    assert proving.next_drill(repo(1), 30, NOW - 90 * DAY, NOW) == NOW


def chosen(drilled: set[int], parts: list[tuple[int, int]] = PARTS) -> Counter[int]:
    random = Random(12)
    return Counter(proving.drill_moment(parts, 50, drilled, random) for _ in range(20_000))


def test_every_moment_may_be_drilled_and_recent_ones_are_more_often() -> None:
    found = chosen(set())
    assert set(found) == set(range(1, 51))
    assert sum(found[number] for number in (49, 50)) > 0.5 * found.total()
    assert found[50] > 4 * found[1]


def test_a_part_that_no_drill_has_proved_is_chosen_more_often_than_before() -> None:
    before, after = chosen(set()), chosen({49, 50})
    old = range(1, 49)
    assert sum(after[n] for n in old) > 1.3 * sum(before[n] for n in old)
    assert 0.25 * after.total() < after[49] + after[50] < 0.5 * after.total()


def test_a_history_in_one_part_is_drilled_at_recent_moments_rather() -> None:
    found = chosen(set(), [(1, 50)])
    assert sum(found[n] for n in range(26, 51)) > 0.65 * found.total() and min(found) == 1
    assert proving.drill_moment([], 1, [], Random(1)) == 1  # an empty repository has no part


@pytest.mark.parametrize(("slots", "drills"), [(0, 1), (4, 1), (39, 1), (40, 2), (200, 10)])
def test_scheduled_drills_have_a_twentieth_of_the_slots_and_one_at_least(slots: int, drills: int) -> None:
    assert proving.drills_at_once(slots) == drills


def test_everything_is_read_in_half_of_its_period_within_bounds() -> None:
    assert proving.rate(0) == proving.SLOWEST
    day = 1 << 40  # bytes
    assert proving.rate(day) * 86_400 == pytest.approx(2 * day)
    assert proving.rate(1 << 60) == proving.FASTEST
    assert proving.makes_way(NOW - 20 * DAY, 30, NOW) and not proving.makes_way(NOW - 28 * DAY, 30, NOW)


@pytest.mark.parametrize("text", ["", "-1", "367", "often", "1.5"])
def test_a_period_that_is_none_is_told_in_a_line(text: str) -> None:
    with pytest.raises(UsageError, match="from 1 to 366, or 0 for never"):
        proving.days(text, "drills")
    assert proving.days(" 7 ", "drills") == 7
