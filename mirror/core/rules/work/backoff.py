"""How long to wait before the next automatic try: by a failure's class and count, or as a host asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pace:
    """The wait after the first failure, which doubles, and the longest one."""

    first: timedelta
    most: timedelta


_USUAL: Final = Pace(_MINUTE, _HOUR)
_PACES: Final[Mapping[str, Pace]] = {
    "network": _USUAL,
    "limit": _USUAL,
    "ours": _USUAL,
    "corrupt": Pace(10 * _MINUTE, 6 * _HOUR),
    "gone": Pace(_HOUR, _DAY),
    "not-found": Pace(_HOUR, _DAY),
    "moved": Pace(_HOUR, _DAY),
    "refused": Pace(_HOUR, _DAY),
    "blocked": Pace(6 * _HOUR, _DAY),
    "identity": Pace(6 * _HOUR, _DAY),
}


def wait(kind: str, failures: int, chance: float) -> timedelta | None:
    """The wait after failure number `failures` in a row of this class, a quarter off by `chance` in 0..1.

    None: the same try would only fail again, until the credentials are others.
    """
    if kind == "credentials":
        return None
    pace = _PACES.get(kind, _USUAL)
    doubled = pace.first * int(2 ** min(max(failures, 1) - 1, 20))
    return min(doubled, pace.most) * (0.75 + chance / 2)


def retry_after(value: str, date: str, at: datetime, least: float = 1.0) -> datetime | None:
    """When a host that was asked `at` may be asked again, by its Retry-After; None: it does not say.

    Seconds, or a time by the host's clock, of which its Date tells. A day at the most, and `least` seconds.
    https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    elif (then := _date(value)) is not None:
        seconds = (then - (_date(date) or at)).total_seconds()
    else:
        return None
    return at + timedelta(seconds=min(max(seconds, least), _DAY.total_seconds()))


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def spread(told: datetime, now: datetime, chance: float) -> datetime:
    """A time up to a minute after the host's time, so that not all retry at once."""
    return told + min(max(told - now, timedelta(0)) / 10, _MINUTE) * chance
