"""WHEN: every form that the manual names, and one clear line for every other."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import EverrefError, NotFound, UsageError
from mirror.core.times import when

NOW = datetime(2024, 5, 10, 12, 0, 30, tzinfo=UTC)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("#1", 1),
        ("#12", 12),
        (" #0012 ", 12),
        ("#2147483647", 2**31 - 1),
        ("now", NOW),
        ("NOW", NOW),
        ("2024-05-01T12:00:00Z", at(2024, 5, 1, 12)),
        ("2024-05-01t12:00:00z", at(2024, 5, 1, 12)),
        ("2024-05-01 12:00:00", at(2024, 5, 1, 12)),
        ("2024-05-01T12:00", at(2024, 5, 1, 12)),
        ("2024-05-01T12:00:00+02:00", at(2024, 5, 1, 10)),
        ("2024-05-01T12:00:00-00:30", at(2024, 5, 1, 12, 30)),
        ("2024-05-01 12:00:00 +02:00", at(2024, 5, 1, 10)),
        ("2024-05-01T12:00:00.5Z", at(2024, 5, 1, 12, 0, 0, 500_000)),
        ("2024-05-01T12:00:00.1234567890Z", at(2024, 5, 1, 12, 0, 0, 123_456)),
        ("2016-12-31T23:59:60Z", at(2017, 1, 1)),
        ("2024-02-29", at(2024, 2, 29)),
        ("2h ago", at(2024, 5, 10, 10, 0, 30)),
        ("2 hours ago", at(2024, 5, 10, 10, 0, 30)),
        ("3 days ago", at(2024, 5, 7, 12, 0, 30)),
        ("1 Day Ago", at(2024, 5, 9, 12, 0, 30)),
        ("30s ago", at(2024, 5, 10, 12)),
        ("1.5h ago", at(2024, 5, 10, 10, 30, 30)),
        ("1h30m ago", at(2024, 5, 10, 10, 30, 30)),
        ("1 week 1 day ago", at(2024, 5, 2, 12, 0, 30)),
        ("90 minutes ago", at(2024, 5, 10, 10, 30, 30)),
        ("0s ago", NOW),
    ],
)
def test_every_form_of_the_manual_is_understood(text: str, meant: int | datetime) -> None:
    found = when.parse(text, NOW)
    assert found == meant
    assert not isinstance(found, datetime) or found.tzinfo is UTC


moments = st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29))


@given(moments, st.integers(-23 * 60, 23 * 60))
def test_a_time_reads_back_as_it_was_written(moment: datetime, minutes: int) -> None:
    written = moment.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
    assert when.parse(written, NOW) == moment


@given(st.integers(1, 2**31 - 1))
def test_a_number_reads_back_as_it_was_written(number: int) -> None:
    assert when.parse(f"#{number}", NOW) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday or so",
        "12",
        "#",
        "#0",
        "#-1",
        "#1x",
        "# 1",
        "#١",
        "2024-02-30",
        "2024-13-01T00:00:00Z",
        "2024-05-01T25:00:00Z",
        "2024-05-01T12:00:61Z",
        "2024-05-01T12:00:00+25:00",
        "0000-01-01",
        "0001-01-01T00:00:00+02:00",
        "20240501",
        "2024-W01",
        "05/01/2024",
        "2h",
        "ago",
        "2 ago",
        "2 fortnights ago",
        "-2h ago",
        "99999999999 days ago",
        "9999999 weeks ago",
        "9" * 400 + "h ago",
        "1h ago\n#12",
        "2024-05-01T12:00:00Z; drop table",
    ],
)
def test_anything_else_is_one_line_that_says_what_to_write(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        when.parse(text, NOW)
    message = str(raised.value)
    assert "\n" not in message
    assert "#" in message or "ago" in message


@pytest.mark.parametrize("text", ["#2147483648", "#" + "9" * 5000])
def test_a_number_beyond_all_snapshots_is_not_found(text: str) -> None:
    with pytest.raises(NotFound, match="no snapshot #"):
        when.parse(text, NOW)


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,3} ?[a-z]{1,4} ago", fullmatch=True))
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    try:
        found = when.parse(text, NOW)
    except EverrefError:
        return
    assert isinstance(found, int | datetime)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("24h", 86400), ("30 days", 2592000), ("1h 30m", 5400), ("2w", 1209600)]
)
def test_a_length_of_time_is_read(text: str, seconds: int) -> None:
    assert when.span(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "5 parsecs", "9" * 30 + "w"])
def test_what_is_no_length_of_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="write"):
        when.span(text)


def test_a_moment_within_a_snapshot_has_two_numbers() -> None:
    assert when.parse("#12.3", NOW) == when.Within(12, 3)
    for odd in ("#12.", "#.1", "#12.1.1", "#12.0"):
        with pytest.raises(UsageError):
            when.parse(odd, NOW)
