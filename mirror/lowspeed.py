"""When a transfer is too slow to go on: the low-speed limit of curl and git, for what we carry ourselves.

Who calls: git/upstream for packs, vault/s3 for objects. https://curl.se/libcurl/c/CURLOPT_LOW_SPEED_TIME.html
"""

from dataclasses import dataclass
from typing import Final

LIMIT: Final = 1000  # bytes a second
TIME: Final = 60.0  # seconds


@dataclass(slots=True)
class LowSpeed:
    """One transfer. Only the time that we wait for the other side counts, not what we do with what came."""

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
