"""WHEN on the clocks of a person, all over the world and on the days on which clocks are changed."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import UsageError
from mirror.core.times import when, zones

NEW_YORK, BERLIN, KOLKATA = "America/New_York", "Europe/Berlin", "Asia/Kolkata"
LORD_HOWE, AUCKLAND, SANTIAGO, APIA = (
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "America/Santiago",
    "Pacific/Apia",
)
# A Wednesday: 10:00 in New York, 16:00 in Berlin, and already Thursday, 02:00, on Lord Howe and in Auckland.
NOW = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)

# Zone, what somebody there types, and the moment that it is.
ORDINARY = [
    (NEW_YORK, "2026-11-17T08:00", "2026-11-17T13:00:00Z"),
    (NEW_YORK, "2026-07-17 08:00", "2026-07-17T12:00:00Z"),
    (NEW_YORK, "2026-11-17", "2026-11-17T05:00:00Z"),
    (NEW_YORK, "08:00", "2026-11-18T13:00:00Z"),
    (NEW_YORK, "10:00", "2026-11-18T15:00:00Z"),
    (NEW_YORK, "11:00", "2026-11-17T16:00:00Z"),  # today's is to come
    (NEW_YORK, "8am", "2026-11-18T13:00:00Z"),
    (NEW_YORK, "8:30 pm", "2026-11-18T01:30:00Z"),
    (NEW_YORK, "12 am", "2026-11-18T05:00:00Z"),
    (NEW_YORK, "yesterday", "2026-11-17T05:00:00Z"),
    (NEW_YORK, "yesterday 10:00", "2026-11-17T15:00:00Z"),
    (NEW_YORK, "Yesterday at 22:30:15", "2026-11-18T03:30:15Z"),
    (NEW_YORK, "today 08:00", "2026-11-18T13:00:00Z"),
    (NEW_YORK, "today", "2026-11-18T05:00:00Z"),
    (NEW_YORK, "Tuesday 10:00", "2026-11-17T15:00:00Z"),
    (NEW_YORK, "on tue, 10:00", "2026-11-17T15:00:00Z"),
    (NEW_YORK, "Wednesday", "2026-11-18T05:00:00Z"),
    (NEW_YORK, "Wednesday 08:00", "2026-11-18T13:00:00Z"),
    (NEW_YORK, "Wednesday 18:00", "2026-11-11T23:00:00Z"),  # today's is to come
    (NEW_YORK, "last Wednesday 08:00", "2026-11-11T13:00:00Z"),
    (NEW_YORK, "last Friday", "2026-11-13T05:00:00Z"),
    (NEW_YORK, "last Friday 18:00", "2026-11-13T23:00:00Z"),
    (NEW_YORK, "18 November, 09:55:59", "2026-11-18T14:55:59Z"),
    (NEW_YORK, "18 November, 14:55:59", "2025-11-18T19:55:59Z"),  # this year's is to come
    (NEW_YORK, "Nov 2 7:15", "2026-11-02T12:15:00Z"),
    (NEW_YORK, "18 Nov 2025, 14:55 EST", "2025-11-18T19:55:00Z"),
    (NEW_YORK, "Tuesday 17 November, 10:00 EST", "2026-11-17T15:00:00Z"),
    (NEW_YORK, "Monday 17 November 2025, 10:00", "2025-11-17T15:00:00Z"),
    (NEW_YORK, "29 Feb", "2024-02-29T05:00:00Z"),
    (NEW_YORK, "yesterday 10:00 UTC", "2026-11-17T10:00:00Z"),
    (NEW_YORK, "2026-11-17 10:00:30 UTC", "2026-11-17T10:00:30Z"),
    (NEW_YORK, "2026-11-17T08:00+01:00", "2026-11-17T07:00:00Z"),
    (NEW_YORK, "2026-11-17 08:00 UTC-03:30", "2026-11-17T11:30:00Z"),
    (NEW_YORK, "2h ago", "2026-11-18T13:00:00Z"),
    (BERLIN, "2026-11-17T08:00", "2026-11-17T07:00:00Z"),
    (BERLIN, "Tuesday 10:00 CET", "2026-11-17T09:00:00Z"),
    (KOLKATA, "2026-11-17T08:00", "2026-11-17T02:30:00Z"),
    (KOLKATA, "yesterday", "2026-11-16T18:30:00Z"),
    (LORD_HOWE, "08:00", "2026-11-17T21:00:00Z"),  # of Wednesday, as Thursday's is to come
    (LORD_HOWE, "today", "2026-11-18T13:00:00Z"),
    (AUCKLAND, "yesterday 10:00", "2026-11-17T21:00:00Z"),
    (AUCKLAND, "Wednesday", "2026-11-17T11:00:00Z"),
    ("UTC", "Tuesday 10:00", "2026-11-17T10:00:00Z"),
]

# Around each change: the last time before it, what is skipped or shown twice, and the first after it.
CHANGES = [
    (NEW_YORK, "2026-03-08T01:59:59", "2026-03-08T06:59:59Z", ""),
    (NEW_YORK, "2026-03-08T02:00", "2026-03-08T07:00:00Z", "skipped 02:00"),
    (NEW_YORK, "2026-03-08T02:30", "2026-03-08T07:00:00Z", "skipped 02:30 that day, so it means 03:00"),
    (NEW_YORK, "2026-03-08T03:00", "2026-03-08T07:00:00Z", ""),
    (NEW_YORK, "2026-11-01T00:59:59", "2026-11-01T04:59:59Z", ""),
    (NEW_YORK, "2026-11-01T01:30", "2026-11-01T05:30:00Z", "two 01:30 that day; this is the first"),
    (NEW_YORK, "2026-11-01 01:30 EDT", "2026-11-01T05:30:00Z", ""),
    (NEW_YORK, "2026-11-01 01:30 EST", "2026-11-01T06:30:00Z", ""),
    (NEW_YORK, "2026-11-01T02:00", "2026-11-01T07:00:00Z", ""),
    (NEW_YORK, "2026-11-01", "2026-11-01T04:00:00Z", ""),
    (NEW_YORK, "2026-11-02", "2026-11-02T05:00:00Z", ""),
    (BERLIN, "2026-03-29T01:59:59", "2026-03-29T00:59:59Z", ""),
    (BERLIN, "2026-03-29T02:30", "2026-03-29T01:00:00Z", "skipped 02:30"),
    (BERLIN, "2026-03-29T03:00", "2026-03-29T01:00:00Z", ""),
    (BERLIN, "2026-10-25T02:30", "2026-10-25T00:30:00Z", "two 02:30"),
    (BERLIN, "25 October 2:30 CET", "2026-10-25T01:30:00Z", ""),
    (BERLIN, "2026-10-25T03:00", "2026-10-25T02:00:00Z", ""),
    (KOLKATA, "2026-03-29T02:30", "2026-03-28T21:00:00Z", ""),
    (KOLKATA, "2026-10-25T02:30", "2026-10-24T21:00:00Z", ""),
    (LORD_HOWE, "2026-04-05T01:29:59", "2026-04-04T14:29:59Z", ""),
    (LORD_HOWE, "2026-04-05T01:45", "2026-04-04T14:45:00Z", "two 01:45"),
    (LORD_HOWE, "2026-04-05 01:45 UTC+10:30", "2026-04-04T15:15:00Z", ""),
    (LORD_HOWE, "2026-04-05T02:00", "2026-04-04T15:30:00Z", ""),
    (LORD_HOWE, "2026-10-04T02:15", "2026-10-03T15:30:00Z", "skipped 02:15 that day, so it means 02:30"),
    (LORD_HOWE, "2026-10-04T02:30", "2026-10-03T15:30:00Z", ""),
    (AUCKLAND, "2026-04-05T02:30", "2026-04-04T13:30:00Z", "two 02:30"),
    (AUCKLAND, "2026-04-05 02:30 NZST", "2026-04-04T14:30:00Z", ""),
    (AUCKLAND, "2026-09-27T02:59:59", "2026-09-26T14:00:00Z", "skipped 02:59"),
    (AUCKLAND, "2026-09-27T03:00", "2026-09-26T14:00:00Z", ""),
    (SANTIAGO, "2026-09-06", "2026-09-06T04:00:00Z", "skipped 00:00"),  # the day begins at 01:00
    (APIA, "2011-12-30T12:00", "2011-12-30T10:00:00Z", "skipped 12:00"),  # there was no such day
]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@pytest.mark.parametrize(("zone", "text", "meant"), ORDINARY)
def test_a_time_is_on_the_clocks_of_who_typed_it(zone: str, text: str, meant: str) -> None:
    assert when.understood(text, NOW, ZoneInfo(zone)) == (moment(meant), "")


@pytest.mark.parametrize(("zone", "text", "meant", "note"), CHANGES)
def test_where_clocks_are_changed_a_time_is_the_first_moment_at_which_they_show_it_or_a_later_one(
    zone: str, text: str, meant: str, note: str
) -> None:
    found, said = when.understood(text, NOW, ZoneInfo(zone))
    assert found == moment(meant)
    assert note in said and bool(note) == bool(said)


@pytest.mark.parametrize("zone", [NEW_YORK, BERLIN, KOLKATA, LORD_HOWE, AUCKLAND])
@given(local=st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2037, 12, 31)))
def test_nothing_after_the_time_on_the_clock_is_before_its_moment(zone: str, local: datetime) -> None:
    there = ZoneInfo(zone)
    at = zones.moment_of(local, there)
    assert at.astimezone(there).replace(tzinfo=None) >= local.replace(microsecond=0)
    assert zones.is_skipped(local, there) or at.astimezone(there).replace(tzinfo=None) == local


@pytest.mark.parametrize(
    ("zone", "then", "called"),
    [
        (NEW_YORK, "2026-11-17T08:00:00Z", "EST"),
        (NEW_YORK, "2026-07-17T08:00:00Z", "EDT"),
        (BERLIN, "2026-11-17T08:00:00Z", "CET"),
        (KOLKATA, "2026-11-17T08:00:00Z", "IST"),
        (LORD_HOWE, "2026-11-17T08:00:00Z", "UTC+11:00"),
        (LORD_HOWE, "2026-07-17T08:00:00Z", "UTC+10:30"),
        (SANTIAGO, "2026-07-17T08:00:00Z", "UTC-04:00"),
        ("UTC", "2026-07-17T08:00:00Z", "UTC"),
    ],
)
def test_a_zone_is_called_by_its_letters_or_its_offset(zone: str, then: str, called: str) -> None:
    assert zones.abbreviation(moment(then), ZoneInfo(zone)) == called


def test_the_letters_of_a_zone_change_at_the_second_when_its_clocks_do() -> None:
    start, end = moment("2026-03-01T00:00:00Z"), moment("2026-11-22T00:00:00Z")
    forward, back = (int(moment(at).timestamp()) for at in ("2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z"))
    assert zones.abbreviations(start, end, ZoneInfo(NEW_YORK)) == [
        (int(start.timestamp()), "EST"),
        (forward, "EDT"),
        (back, "EST"),
    ]
    assert zones.abbreviations(start, end, ZoneInfo(KOLKATA)) == [(int(start.timestamp()), "IST")]


@pytest.mark.parametrize(
    "name", [None, "", "Mars/Phobos", "../etc/passwd", "/etc/localtime", "Europe", "a\0b"]
)
def test_a_zone_that_nobody_knows_is_utc(name: str | None) -> None:
    assert zones.named(name).key == "UTC"


@pytest.mark.parametrize(
    "text",
    [
        *("yesterday 25:00", "13 pm", "0am", "Tuesday 10", "tu 10:00", "last", "last week", "next Friday"),
        *("31 February", "yesterday tomorrow", "10:00 11:00", "Monday 17 November 2026", "Fri Fri", "at"),
        *("2026-11-17 10:00 CET", "yesterday 10:00 XYZ", "10:00Z Z", "18 Nov 20", "November", "Novembers 3"),
    ],
)
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="write"):
        when.parse(text, NOW, ZoneInfo(NEW_YORK))
