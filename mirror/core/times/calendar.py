"""Days and times as people say them, read in a time zone: "yesterday 10:00", "last Friday"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Final

from mirror.core.errors import UsageError
from mirror.core.times import zones

DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
ZONE: Final = r"(?:UTC|GMT)?[+-][0-9]{2}:[0-9]{2}|[A-Z]{1,6}"

_CLOCK: Final = re.compile(
    rf"([0-9]{{1,2}})(?::([0-9]{{2}})(?::([0-9]{{2}}))?)?(am|pm)?({ZONE})?", re.IGNORECASE
)
_OFFSET: Final = re.compile(r"(?:UTC|GMT)?([+-])([0-9]{2}):([0-9]{2})", re.IGNORECASE)
_LETTERS: Final = 3  # of a day or a month that is abbreviated
_LEAP: Final = 8  # years, at most, from one 29 February to the next


@dataclass(frozen=True, slots=True)
class Meant:
    """A moment, and what has to be said about how it was understood."""

    at: datetime  # UTC
    note: str = ""  # about clocks that were changed; mostly nothing


def on_clocks(shown: datetime, zone: str | None, there: tzinfo) -> Meant:
    """The moment of a time on the clocks of the zone that was written with it, or else of the one `there`.

    Which moment it is where clocks were changed is the rule of zones.moment_of, unless the
    zone that was written tells the two apart: 01:30 EST is the second 01:30 of that night.
    Raises UsageError for a zone that is unknown or not used there then.
    """
    if zone is not None and (fixed := _fixed(zone)) is not None:
        return Meant(shown.replace(tzinfo=fixed).astimezone(UTC))
    if zone is not None:
        return Meant(_lettered(shown, zone, there))
    at = zones.moment_of(shown, there)
    if zones.is_skipped(shown, there):
        return Meant(
            at, f"the clocks skipped {shown:%H:%M} that day, so it means {at.astimezone(there):%H:%M}"
        )
    if zones.is_repeated(shown, there):
        return Meant(at, f"there were two {shown:%H:%M} that day; this is the first")
    return Meant(at)


def read(text: str, now: datetime, there: tzinfo) -> Meant | None:
    """What a day, a time, or a day with a time means on the clocks there; None: it is none of these.

    A day without a time is its first moment. A time without a day, a day of the week and a day
    without a year are the latest ones that are not yet to come. "last Friday" is before today.
    """
    words = text.lower().replace(",", " ").split()
    zone = words.pop() if len(words) > 1 and _is_zone(words[-1]) else None
    if len(words) > 1 and words[-1] in ("am", "pm"):
        half = words.pop()
        words[-1] += half
    shown, attached = None, None
    if words and (found := _CLOCK.fullmatch(words[-1])) and (found[2] or found[4]):
        words.pop()
        shown, attached = _time(found), found[5]
        if words and words[-1] == "at":
            words.pop()
    if (not words and shown is None) or (zone and (attached or shown is None)):
        return None
    zone = zone or attached
    if zone is not None and (fixed := _fixed(zone)) is not None:
        there = fixed
    today = now.astimezone(there).date()
    clock = shown or time()
    for day in _days(words, today):
        meant = on_clocks(datetime.combine(day, clock), zone, there)
        if meant.at <= now or words in (["today"], ["yesterday"]):
            return meant
    return None


def _days(words: Sequence[str], today: date) -> Sequence[date]:
    """The days that these words can mean, the latest first: the first that is not to come is meant."""
    match words:
        case [] | ["today"]:
            return [today, today - timedelta(days=1)]
        case ["yesterday"]:
            return [today - timedelta(days=1)]
        case ["last", name] if (day := _place(name, DAYS)) is not None:
            return [today - timedelta(days=(today.weekday() - day - 1) % 7 + 1)]
        case [name] | ["on", name] if (day := _place(name, DAYS)) is not None:
            latest = today - timedelta(days=(today.weekday() - day) % 7)
            return [latest, latest - timedelta(days=7)]
        case ["on", *rest]:
            return _dates(rest, today)
        case [name, *rest] if rest and (day := _place(name, DAYS)) is not None:
            return [one for one in _dates(rest, today) if one.weekday() == day]
    return _dates(words, today)


def _dates(words: Sequence[str], today: date) -> Sequence[date]:
    """The days that "18 November", "Nov 18" or "18 Nov 2025" can mean, the latest first."""
    match words:
        case [number, name, *year] if number.isdecimal():
            month = _place(name, MONTHS)
        case [name, number, *year] if number.isdecimal():
            month = _place(name, MONTHS)
        case _:
            return []
    if month is None or len(number) > 2 or len(year) > 1:
        return []
    if year and not (year[0].isdecimal() and len(year[0]) == 4):
        return []
    years = [int(year[0])] if year else range(today.year, max(today.year - _LEAP - 1, 0), -1)
    found = []
    for one in years:
        try:
            found.append(date(one, month + 1, int(number)))
        except ValueError:  # 29 February of most years
            continue
    return found


def _place(word: str, names: Sequence[str]) -> int | None:
    """Which of these names it is, whole or abbreviated."""
    if len(word) < _LETTERS:
        return None
    found = [number for number, name in enumerate(names) if name.startswith(word)]
    return found[0] if found else None


def _time(found: re.Match[str]) -> time:
    hour, half = int(found[1]), found[4]
    if half is not None:
        if not 1 <= hour <= 12:
            raise ValueError("a clock of twelve hours has no such hour")
        hour = hour % 12 + (12 if half == "pm" else 0)
    return time(hour, int(found[2] or 0), int(found[3] or 0))


def _is_zone(word: str) -> bool:
    if word in ("am", "pm", "today", "yesterday") or re.fullmatch(ZONE, word, re.IGNORECASE) is None:
        return False
    return _place(word, DAYS) is None and _place(word, MONTHS) is None


def _fixed(zone: str) -> tzinfo | None:
    """The zone that is written as an offset, or as UTC; None: it is letters of another zone."""
    if zone.upper() in ("Z", "UTC", "GMT"):
        return UTC
    found = _OFFSET.fullmatch(zone)
    if found is None:
        return None
    ahead = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-ahead if found[1] == "-" else ahead)


def _lettered(shown: datetime, zone: str, there: tzinfo) -> datetime:
    """The moment of a time that was written with the letters of the zone there."""
    for fold in (0, 1):
        at = shown.replace(tzinfo=there, fold=fold).astimezone(UTC)
        exact = at.astimezone(there).replace(tzinfo=None) == shown
        if exact and zones.abbreviation(at, there).lower() == zone.lower():
            return at
    raise UsageError(
        f"{zone.upper()} is not the zone of that time here; leave it out, or write an offset such as +02:00"
    )
