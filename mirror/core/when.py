"""WHEN, as people type it after --at and --since: a moment, or the number of a snapshot."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, NamedTuple

from mirror.core.errors import NotFound, UsageError

EXAMPLES: Final = "#12, 2024-05-01T12:00:00Z, 2024-05-01, 2h ago, 3 days ago, now"
HIGHEST: Final = 2**31 - 1  # no snapshot has a higher number

_NUMBER: Final = re.compile(r"#([0-9]+)(?:\.([0-9]+))?")
# RFC 3339, section 5.6; the zone may be left out, and the seconds too.
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?\s?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
_LENGTH: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?\s*[a-z]+\s*)+", re.IGNORECASE)
_AGO: Final = re.compile(r"((?:[0-9]+(?:\.[0-9]+)?\s*[a-z]+\s*)+)ago", re.IGNORECASE)
_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)", re.IGNORECASE)
_UNITS: Final = {
    name: timedelta(seconds=seconds)
    for names, seconds in (
        ("s sec secs second seconds", 1),
        ("m min mins minute minutes", 60),
        ("h hr hrs hour hours", 3600),
        ("d day days", 86400),
        ("w week weeks", 7 * 86400),
    )
    for name in names.split()
}


class Within(NamedTuple):
    """A moment within a snapshot: #12.1 is the first one that was told of after #12 had been taken."""

    snapshot: int
    moment: int


When = int | Within | datetime  # the number of a snapshot, a moment within one, or a time in UTC


def parse(text: str, now: datetime) -> When:
    """What a WHEN means: a snapshot's number for "#12", a moment within one for "#12.1", else a time in UTC.

    A time without zone is UTC, and a date alone is its first moment. Raises
    UsageError where the text is none of these, NotFound for a number that no
    snapshot can have.
    """
    text = text.strip()
    if match := _NUMBER.fullmatch(text):
        number = _number(match[1])
        return Within(number, _number(match[2])) if match[2] else number
    if text.lower() == "now":
        return now.astimezone(UTC)
    try:
        if match := _TIME.fullmatch(text):
            return _time(*match.groups())
        if match := _AGO.fullmatch(text):
            return now.astimezone(UTC) - _span(match[1])
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is no moment that ever was; write it like {EXAMPLES}") from None
    if text.isdecimal():
        raise UsageError(f"{text!r} could be many things; for the snapshot of that number write #{text}")
    raise UsageError(f"{text!r} is no moment; write it like {EXAMPLES}")


def span(text: str) -> timedelta:
    """How long `24h`, `30 days` or `0s` is. Raises UsageError with examples."""
    try:
        if _LENGTH.fullmatch(text.strip()):
            return _span(text)
    except OverflowError:
        pass
    raise UsageError(f"{text!r} is no length of time; write it like 24h, 30d or 0s")


def _number(digits: str) -> int:
    number = int(digits[:20])
    if number == 0:
        raise UsageError("snapshots are numbered from #1")
    if number > HIGHEST:
        raise NotFound(f"there is no snapshot #{digits[:20]}")
    return number


def _time(
    date: str, minute: str | None, second: str | None, fraction: str | None, zone: str | None
) -> datetime:
    leap = second == "60"  # RFC 3339 allows it at the end of some months; it is the next minute's start here
    seconds = "59" if leap else second or "00"
    micros = "" if leap or not fraction else f".{fraction[:6]:0<6}"
    moment = datetime.fromisoformat(f"{date}T{minute or '00:00'}:{seconds}{micros}")
    return (moment.replace(tzinfo=_zone(zone)) + timedelta(seconds=leap)).astimezone(UTC)


def _zone(zone: str | None) -> timezone:
    if zone is None or zone in "Zz":
        return UTC
    ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
    return timezone(-ahead if zone[0] == "-" else ahead)


def _span(text: str) -> timedelta:
    total = timedelta()
    for amount, unit in _SPAN.findall(text):
        if unit.lower() not in _UNITS:
            raise UsageError(f"{unit!r} is no unit of time; write s, m, h, d or w, as in 2h ago")
        total += float(amount) * _UNITS[unit.lower()]
    return total
