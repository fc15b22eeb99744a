"""Time zones: that of a person by its name, times on its clocks, and how a time says which zone it is in."""

import zoneinfo
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

STEP: Final = timedelta(days=7)  # clocks are put forward or back less often
LONGEST: Final = 64  # letters of a name; the longest of the IANA's has 32
_SECOND: Final = timedelta(seconds=1)
# Browsers still say these, by the names that Unicode settled on long ago: https://cldr.unicode.org
_NOW_CALLED: Final = {
    "America/Godthab": "America/Nuuk",
    "Asia/Calcutta": "Asia/Kolkata",
    "Asia/Katmandu": "Asia/Kathmandu",
    "Asia/Rangoon": "Asia/Yangon",
    "Asia/Saigon": "Asia/Ho_Chi_Minh",
    "Atlantic/Faeroe": "Atlantic/Faroe",
    "Europe/Kiev": "Europe/Kyiv",
}


@cache
def names() -> frozenset[str]:
    """Every zone that a person can have, by its IANA name. The first call reads some files."""
    return frozenset(
        one for one in zoneinfo.available_timezones() if one not in ("localtime", "posixrules", "Factory")
    )


def named(name: str | None) -> ZoneInfo:
    """The zone of this name; UTC where there is none or nobody knows it."""
    try:
        return ZoneInfo(name or "UTC")
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def now_called(name: str) -> str:
    """The present name of a zone that a browser may call by an older one."""
    present = _NOW_CALLED.get(name, name)
    return present if present in names() else name


def moment_of(shown: datetime, zone: tzinfo) -> datetime:
    """The first moment, in UTC, at which the clocks of a zone show this time or a later one.

    That is one rule for the two days of a year on which clocks are changed. A time that
    they show twice is the first of the two. A time that they skip is the moment at which
    they skipped it. Who asks for the state as it was before an accident so never gets one from
    after it: nothing that happened later than the time on the clock is in the answer.

    Raises OverflowError or ValueError beyond the years 1 to 9999.
    """
    early = shown.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if early.astimezone(zone).replace(tzinfo=None) == shown:
        return early
    before, after = shown.replace(tzinfo=zone, fold=1).astimezone(UTC), early
    while after - before > _SECOND:  # the clocks are changed in between
        middle = before + (after - before) // 2
        if middle.astimezone(zone).replace(tzinfo=None) < shown:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def is_skipped(shown: datetime, zone: tzinfo) -> bool:
    """Whether the clocks of the zone never show this time, as they are put forward over it."""
    there = shown.replace(tzinfo=zone).astimezone(UTC).astimezone(zone)
    return there.replace(tzinfo=None) != shown


def is_repeated(shown: datetime, zone: tzinfo) -> bool:
    """Whether the clocks of the zone show this time twice, as they are put back."""
    first, second = (shown.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return first != second and not is_skipped(shown, zone)


def abbreviation(then: datetime, zone: tzinfo) -> str:
    """How the zone is called at a moment: `EST`, `CET`; `UTC+10:30` where it has no letters of its own."""
    there = then.astimezone(zone)
    name = there.tzname() or ""
    if name.isalpha():
        return name
    ahead = there.utcoffset() or timedelta()
    minutes = abs(ahead) // timedelta(minutes=1)
    return f"UTC{'-' if ahead < timedelta() else '+'}{minutes // 60:02}:{minutes % 60:02}"


def abbreviations(start: datetime, end: datetime, zone: tzinfo) -> list[tuple[int, str]]:
    """How the zone is called from `start` to `end`: from which second since 1970 on, and the letters."""
    found = [(int(start.timestamp()), abbreviation(start, zone))]
    before = start
    while before < end:
        after = min(before + STEP, end)
        if abbreviation(after, zone) != found[-1][1]:
            first, last = int(before.timestamp()), int(after.timestamp())
            while last - first > 1:
                middle = (first + last) // 2
                if abbreviation(datetime.fromtimestamp(middle, UTC), zone) == found[-1][1]:
                    first = middle
                else:
                    last = middle
            found.append((last, abbreviation(after, zone)))
        before = after
    return found
