"""WHEN, as people type it after --at and --since and on pages: a moment, or the number of a snapshot."""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from mirror.core.errors import NotFound, UsageError
from mirror.core.times import calendar

EXAMPLES: Final = "#12, 2h ago, yesterday 10:00, last Friday, 2024-05-01, 2024-05-01T12:00:00Z, now"
HIGHEST: Final = 2**31 - 1  # no snapshot has a higher number

_NUMBER: Final = re.compile(r"#([0-9]+)(?:\.([0-9]+))?")
# RFC 3339, section 5.6; the zone may be left out, and the seconds too.
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    rf"(?:[T ]([0-9]{{2}}:[0-9]{{2}})(?::([0-9]{{2}})(?:\.([0-9]+))?)?\s?({calendar.ZONE})?)?",
    re.IGNORECASE,
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


class Understood(NamedTuple):
    """What a WHEN means, and what has to be said about how it was understood."""

    when: When
    note: str = ""  # about clocks that were changed; mostly nothing


def parse(text: str, now: datetime, zone: tzinfo = UTC) -> When:
    """What a WHEN means: a snapshot's number for "#12", a moment within one for "#12.1", else a time in UTC.

    A time without a zone is one on the clocks of `zone`, a date alone is its first moment there,
    and a day of the week or a time alone is the latest that is not to come. What it means where
    clocks are changed is the rule of zones.moment_of. Raises UsageError where the text is none of
    these, NotFound for a number that no snapshot can have.
    """
    return understood(text, now, zone).when


def understood(text: str, now: datetime, zone: tzinfo = UTC) -> Understood:
    """The same, with what has to be said about it."""
    text = text.strip()
    if match := _NUMBER.fullmatch(text):
        number = _number(match[1])
        return Understood(Within(number, _number(match[2])) if match[2] else number)
    if text.lower() == "now":
        return Understood(now.astimezone(UTC))
    try:
        if match := _TIME.fullmatch(text):
            return Understood(*_time(match, zone))
        if match := _AGO.fullmatch(text):
            return Understood(now.astimezone(UTC) - _span(match[1]))
        if meant := calendar.read(text, now, zone):
            return Understood(meant.at, meant.note)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a time that exists; write it like {EXAMPLES}") from None
    if text.isdecimal():
        raise UsageError(f"{text!r} could be many things; for the snapshot of that number write #{text}")
    raise UsageError(f"{text!r} is not a moment; write it like {EXAMPLES}")


def span(text: str) -> timedelta:
    """How long `24h`, `30 days` or `0s` is. Raises UsageError with examples."""
    try:
        if _LENGTH.fullmatch(text.strip()):
            return _span(text)
    except OverflowError:
        pass
    raise UsageError(f"{text!r} is not a length of time; write it like 24h, 30d or 0s")


def _number(digits: str) -> int:
    number = int(digits[:20])
    if number == 0:
        raise UsageError("snapshots are numbered from #1")
    if number > HIGHEST:
        raise NotFound(f"there is no snapshot #{digits[:20]}")
    return number


def _time(found: re.Match[str], there: tzinfo) -> tuple[datetime, str]:
    date, minute, second, fraction, zone = found.groups()
    leap = second == "60"  # RFC 3339 allows it at the end of some months; it is the next minute's start here
    seconds = "59" if leap else second or "00"
    micros = "" if leap or not fraction else f".{fraction[:6]:0<6}"
    meant = calendar.on_clocks(
        datetime.fromisoformat(f"{date}T{minute or '00:00'}:{seconds}{micros}"), zone, there
    )
    return meant.at + timedelta(seconds=leap), meant.note


def _span(text: str) -> timedelta:
    total = timedelta()
    for amount, unit in _SPAN.findall(text):
        if unit.lower() not in _UNITS:
            raise UsageError(f"{unit!r} is not a unit of time; write s, m, h, d or w, as in 2h ago")
        total += float(amount) * _UNITS[unit.lower()]
    return total
