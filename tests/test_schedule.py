"""When repos are looked at, as people say or by activity; and whose share each of them is."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import UsageError
from mirror.core.model import RepoId
from mirror.core.rules.work import schedule
from mirror.core.rules.work.schedule import (
    A_SECOND,
    Cron,
    Every,
    Rhythm,
    is_too_rare,
    next_look,
    parse,
    period_of,
    shares,
    spread,
    wait_before_retry,
)

NOW = datetime(2026, 3, 2, 9, 7, 30, tzinfo=UTC)
REPO = RepoId(UUID(int=7))
DAY = timedelta(days=1)
ids = st.uuids().map(RepoId)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("15m", Every(timedelta(minutes=15))),
        (" 6h ", Every(timedelta(hours=6))),
        ("30d", Every(timedelta(days=30))),
        ("30 2  * * 1-5", Cron("30 2 * * 1-5")),
    ],
)
def test_a_schedule_is_an_interval_or_a_cron_expression(text: str, meaning: Every | Cron) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "15",
        "0m",
        "31d",
        "1.5h",
        "-5m",
        "soon",
        "* * * *",
        "61 * * * *",
        "* * * * * *",
        "0 0 31 2 *",
        "٣m",
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_a_cron_expression_is_met_to_the_minute() -> None:
    due = next_look(Rhythm("30 2 * * *", NOW, 2 * DAY), REPO, NOW, NOW)
    assert datetime(2026, 3, 3, 2, 30, tzinfo=UTC) <= due < datetime(2026, 3, 3, 2, 31, tzinfo=UTC)


@given(repo=ids, now=moments, quiet=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_the_next_look_is_ahead_and_at_most_one_and_a_half_periods(
    repo: RepoId, now: datetime, quiet: timedelta
) -> None:
    period = period_of(quiet)
    due = next_look(Rhythm(None, now - quiet, 2 * DAY), repo, now, now)
    assert period / 2 <= due - now <= period * 3 / 2


@pytest.mark.parametrize("schedule", [None, "5m", "12h", "2d", "*/5 * * * *", "30 2 * * 0"])
@given(repo=ids, now=moments, rpo=st.timedeltas(timedelta(minutes=5), timedelta(days=60)))
def test_two_looks_are_within_the_objective_whatever_the_schedule_says(
    schedule: str | None, repo: RepoId, now: datetime, rpo: timedelta
) -> None:
    quiet = Rhythm(schedule, now - 400 * DAY, rpo)
    assert timedelta(0) < next_look(quiet, repo, now, now) - now <= rpo * 0.75 + timedelta(minutes=1)


def test_a_schedule_is_too_rare_for_an_objective_of_less_than_two_of_its_periods() -> None:
    said = [None, "12h", "13h", "30 2 * * *", "0 */6 * * *"]
    assert [is_too_rare(one, DAY) for one in said] == [False, False, True, True, False]


@given(repo=ids, now=moments)
def test_looks_of_one_repo_are_a_period_apart(repo: RepoId, now: datetime) -> None:
    first = next_look(Rhythm("6h", now, DAY), repo, now, None)
    assert next_look(Rhythm("6h", now, DAY), repo, first, first) - first == timedelta(hours=6)


@pytest.mark.parametrize(
    ("quiet", "period"),
    [
        (timedelta(0), timedelta(minutes=5)),
        (timedelta(hours=3), timedelta(minutes=5)),
        (timedelta(hours=6), timedelta(minutes=15)),
        (timedelta(days=1), timedelta(hours=1)),
        (timedelta(days=10), timedelta(hours=4)),
        (timedelta(days=24), timedelta(days=1)),
        (timedelta(days=4000), timedelta(days=1)),
    ],
)
def test_what_was_pushed_to_lately_is_looked_at_often(quiet: timedelta, period: timedelta) -> None:
    assert period_of(quiet) == period


def test_ten_thousand_repos_do_not_come_at_once() -> None:
    made = (RepoId(UUID(int=number * 7919)) for number in range(10_000))
    minutes = Counter(
        (next_look(Rhythm("1h", NOW, DAY), repo, NOW, None) - NOW) // timedelta(minutes=1) for repo in made
    )
    assert len(minutes) == 61  # it is half past a minute
    assert 100 < sorted(minutes.values())[1] and max(minutes.values()) < 240


@given(attempt=st.integers(1, 100), chance=st.floats(0, 1))
def test_waits_grow_to_a_limit_and_are_spread(attempt: int, chance: float) -> None:
    wait = wait_before_retry(attempt, chance)
    assert 1 <= wait <= 750
    assert wait <= wait_before_retry(attempt + 2, chance)
    assert wait_before_retry(attempt, 0) < wait_before_retry(attempt, 1)


@given(st.sets(st.text(min_size=1), min_size=1, max_size=6).map(sorted))
def test_every_share_is_some_workers_and_stays_when_another_goes(workers: list[str]) -> None:
    whole = {worker: set(shares(worker, workers)) for worker in workers}
    assert sorted(share for mine in whole.values() for share in mine) == list(range(256))
    for worker in workers[1:]:
        assert whole[worker] <= set(shares(worker, workers[1:]))


def test_shares_are_about_even() -> None:
    workers = [f"worker {number}" for number in range(4)]
    assert all(40 < len(shares(worker, workers)) < 90 for worker in workers)


def test_a_step_divides_the_day() -> None:
    assert all(timedelta(days=1) % step == timedelta(0) for step in schedule.STEPS)


@given(st.lists(st.sampled_from(["one.example", "other.example", None]), max_size=200))
def test_after_a_start_no_host_is_asked_for_more_than_so_much_a_second_and_none_waits_for_another(
    hosts: list[str | None],
) -> None:
    found = spread(hosts, NOW)
    for host in set(hosts):
        looks = [moment for at, moment in zip(hosts, found, strict=True) if at == host]
        assert looks == sorted(looks) and looks[0] == NOW
        assert max(Counter(looks).values()) <= A_SECOND
        assert looks[-1] - NOW == timedelta(seconds=(len(looks) - 1) // A_SECOND)
