"""When a transfer is too slow: the low-speed limit of curl and git, for our own transfers.

Who calls: git/upstream for packs, git/push, vault/s3 for objects, web/pages/repos/download. https://curl.se/libcurl/c/CURLOPT_LOW_SPEED_TIME.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LIMIT: Final = 1000  # bytes a second
TIME: Final = 60.0  # seconds
# The longer a transfer takes, the more it must have brought: bytes a second, over so many seconds. What drips
# just above the least rate ends within half an hour so, and what goes on for hours has brought much.
RATES: Final = ((LIMIT, TIME), (10_000, 900.0), (50_000, 7200.0))


@dataclass(slots=True)
class LowSpeed:
    """One transfer. Only time spent waiting for the host counts, not our own work on what arrived."""

    limit: float = LIMIT
    time: float = TIME
    _bytes: int = 0
    _waited: float = 0.0

    def is_slow(self, size: int, waited: float) -> bool:
        """So many bytes came after such a wait: whether `time` seconds of waiting brought too few."""
        self._bytes += size
        self._waited += waited
        if self._waited < self.time:
            return False
        slow = self._bytes < self.limit * self._waited
        self._bytes, self._waited = 0, 0.0
        return slow


class Speeds:
    """One transfer, by each of several rates."""

    def __init__(self, rates: Sequence[tuple[float, float]] = RATES) -> None:
        self._each = [LowSpeed(limit, time) for limit, time in rates]

    def is_slow(self, size: int, waited: float) -> str | None:
        """So many bytes came after such a wait: which rate they have missed, in words. None: they keep up."""
        missed = [one for one in self._each if one.is_slow(size, waited)]
        return f"less than {missed[0].limit:g} bytes a second over {missed[0].time:g} s" if missed else None
