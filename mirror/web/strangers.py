"""What people without an account may take of this process, so that a share link costs nobody else anything.

Who calls: web/pages/shared, before it asks the database for anything. Each process counts for itself.
"""

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mirror.core.errors import TooOften
from mirror.git.reader.slots import Bounds, Slots

WINDOW: Final = 60.0  # seconds
FROM_ONE: Final = 240  # requests of one network within them, for all links
OF_LINK: Final = 1200  # requests of one link within them
KEYS: Final = 10_000  # networks and links that are counted at once; the longest counted are forgotten first
DOWNLOADS: Final = Bounds(at_once=24, team=8, person=4, waiting_person=8, waiting=64)  # team: of one link
SURE: Final = 300.0  # seconds for which a password that was right is not hashed again: a clone asks thrice
_KNOWN: Final = 1000  # of these


@dataclass(slots=True)
class Windows:
    """How often something was done, by key, in stretches of WINDOW seconds."""

    most: int
    _began: OrderedDict[Hashable, tuple[float, int]] = field(default_factory=OrderedDict)

    def take(self, key: Hashable, now: float) -> float:
        """Count one; how many seconds there are to wait where it is one too many, else 0."""
        since, count = self._began.get(key, (now, 0))
        if now - since >= WINDOW:
            since, count = now, 0
            self._began.pop(key, None)  # it counts as new
        self._began[key] = since, count + 1
        while len(self._began) > KEYS:
            self._began.popitem(last=False)
        return 0.0 if count < self.most else since + WINDOW - now


@dataclass(slots=True)
class Strangers:
    """The requests of those who have share links, or guess at them."""

    slots: Slots = field(default_factory=partial(Slots, DOWNLOADS))
    _networks: Windows = field(default_factory=partial(Windows, FROM_ONE))
    _links: Windows = field(default_factory=partial(Windows, OF_LINK))
    _key: bytes = field(default_factory=partial(secrets.token_bytes, 32), repr=False)
    _sure: OrderedDict[bytes, float] = field(default_factory=OrderedDict, repr=False)  # until when

    def check(self, network: str, raw: str, now: float) -> None:
        """Count a request for the link of this token, which need not exist. Raises TooOften.

        Who asks too often alone counts nothing for a link, so that they hold up nobody else.
        """
        if wait := self._networks.take(network, now) or self._links.take(self._digest(raw), now):
            raise TooOften("this was asked for too often; wait a minute, then try again", max(1, round(wait)))

    def is_sure(self, stored: str, password: str, now: float) -> bool:
        """Whether this password was lately found to have this hash."""
        return self._sure.get(self._digest(stored, password), 0.0) > now

    def remember(self, stored: str, password: str, now: float) -> None:
        """The password has this hash: it need not be hashed again for a while."""
        self._sure[self._digest(stored, password)] = now + SURE
        while len(self._sure) > _KNOWN:
            self._sure.popitem(last=False)

    def _digest(self, *texts: str) -> bytes:
        each = (
            hmac.digest(self._key, one.encode("utf-8", "surrogatepass"), "sha256") for one in texts
        )  # as long as each other
        return hmac.digest(self._key, b"".join(each), "sha256")
