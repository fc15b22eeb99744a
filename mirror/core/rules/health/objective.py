"""Recovery point objectives as people choose and read them: how old the newest backup of a repo may be."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from mirror.core.errors import UsageError
from mirror.core.times.when import span

SHORTEST: Final = timedelta(minutes=5)
LONGEST: Final = timedelta(days=60)
DEFAULT: Final = timedelta(hours=24)
CHOICES: Final[Sequence[timedelta]] = (
    *(timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4), timedelta(hours=12)),
    *(DEFAULT, timedelta(days=3), timedelta(days=7)),
)
_MINUTE: Final = timedelta(minutes=1)


def parse(text: str) -> timedelta:
    """`15m`, `1h`, `2d`: whole minutes from 5 minutes to 60 days. Raises UsageError about the field `rpo`."""
    try:
        found = span(text)
    except UsageError:
        raise UsageError(
            f"{text[:40]!r} is not a length of time; write it like 15m, 4h or 2d", field="rpo"
        ) from None
    if not SHORTEST <= found <= LONGEST or found % _MINUTE:
        raise UsageError("an objective is between 5m and 60d, in whole minutes", field="rpo")
    return found


def written(rpo: timedelta) -> str:
    """As programs read it and `parse` does: `15m`, `24h`, `7d`."""
    minutes = rpo // _MINUTE
    if minutes % 1440 == 0 and minutes > 1440:
        return f"{minutes // 1440}d"
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"


def said(rpo: timedelta) -> str:
    """In words: `15 minutes`, `24 hours`, `7 days`."""
    text = written(rpo)
    noun = {"m": "minute", "h": "hour", "d": "day"}[text[-1]]
    return f"{text[:-1]} {noun}" + ("" if text[:-1] == "1" else "s")
