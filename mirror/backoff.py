"""How long to wait after a failure before the next automatic try: by its class, and by how often it came."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
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
