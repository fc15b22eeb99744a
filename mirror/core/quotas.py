"""What one team may have and do, so that none fills what all share: the limits, their defaults, what is over.

Whoever runs Everref sets them for all teams by settings, and for one by `everref limits`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mirror.core import words
from mirror.core.errors import OverLimit, UsageError

Limits = Mapping[str, int | None]  # by name, the most that a team may; None: as much as there is

UNLIMITED: Final = "unlimited"
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_GB: Final = 10**9  # as sizes are shown
_NUMBER: Final = re.compile(r"([0-9]{1,15})([KMGT]?)(i?B)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limit:
    """Something of which a team has so much and no more."""

    name: str
    label: str  # in the words of the pages
    strict: int  # the default where strangers can sign up
    roomy: int | None = None  # the default elsewhere; None: as much as there is
    per: timedelta | None = None  # counted over so long; None: what there is now
    in_bytes: bool = False
    counted: bool = True  # False: each worker counts for itself, and nobody counts all

    @property
    def setting(self) -> str:
        """The environment variable that sets it for all teams."""
        return f"EVERREF_TEAM_{self.name.upper().replace('-', '_')}"


LIMITS: Final[Mapping[str, Limit]] = {
    one.name: one
    for one in (
        Limit("repos", "repositories", 1000),
        Limit("stored-bytes", "stored in the vault", 50 * _GB, in_bytes=True),
        Limit("repo-bytes", "stored of one repository", 10 * _GB, in_bytes=True),
        Limit("pool-bytes", "cached on one worker's disk", 20 * _GB, in_bytes=True, counted=False),
        Limit("jobs-open", "jobs that people asked for and that have not ended", 50, 10_000),
        Limit("jobs-a-day", "jobs that people asked for in a day", 1000, 100_000, _DAY),
        Limit("drills-a-day", "drills in a day", 50, 10_000, _DAY),
        Limit("restores-an-hour", "restores in an hour", 20, 1000, _HOUR),
        Limit("restores-a-day", "restores in a day", 100, 10_000, _DAY),
        Limit("bundles-an-hour", "bundles in an hour", 40, 1000, _HOUR),
        Limit("bundles-a-day", "bundles in a day", 200, 10_000, _DAY),
        Limit("tokens", "API tokens that work", 100, 10_000),
        Limit("hooks", "webhooks", 1000),
        Limit("members", "members", 100, 10_000),
    )
}
# What a job counts as, besides a job.
OF_KIND: Final[Mapping[str, tuple[str, ...]]] = {
    "drill": ("drills-a-day",),
    "restore": ("restores-an-hour", "restores-a-day"),
    "bundle": ("bundles-an-hour", "bundles-a-day"),
}
OF_JOBS: Final = ("jobs-open", "jobs-a-day")
# What gives back what is kept has limits of its own alone: nothing else that people do holds it up.
GIVES_BACK: Final = ("restore", "bundle")
PERSON_TEAMS_STRICT: Final = 5  # that one person owns, where strangers can sign up
PERSON_TEAMS_ROOMY: Final = 1000


def of_job(kind: str) -> tuple[str, ...]:
    """The limits that a job of this kind, which a person asks for, counts for."""
    return OF_KIND.get(kind, ()) if kind in GIVES_BACK else (*OF_JOBS, *OF_KIND.get(kind, ()))


def defaults(strict: bool) -> Limits:
    """The limits of a team of which nothing was said."""
    return {one.name: one.strict if strict else one.roomy for one in LIMITS.values()}


ROOMY: Final = defaults(strict=False)


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit a team uses."""

    limit: Limit
    used: int
    most: int | None  # None: as much as there is
    own: bool = False  # it was set for this team

    @property
    def is_full(self) -> bool:
        return self.limit.counted and self.most is not None and self.used >= self.most

    @property
    def said(self) -> str:
        """`118 of 1,000`."""
        if not self.limit.counted:
            return UNLIMITED if self.most is None else f"at most {shown(self.limit, self.most)}"
        used = shown(self.limit, self.used)
        return f"{used}, unlimited" if self.most is None else f"{used} of {shown(self.limit, self.most)}"


def refusal(use: Use, team: str) -> OverLimit:
    """Why a team gets no more of this now, and who can change that."""
    limit = use.limit
    assert use.most is not None
    had = min(use.used, use.most) if limit.per or not limit.in_bytes else use.used
    wait = "" if limit.per is None else f"; wait {'an hour' if limit.per == _HOUR else 'a day'}, or"
    ask = "whoever runs Everref can raise it" if limit.per is None else "have whoever runs Everref raise it"
    return OverLimit(
        f"the team {team} is at its limit of {shown(limit, use.most)} {limit.label}, with {shown(limit, had)}"
        f"{wait or ';'} {ask}: everref limits {team} {limit.name}=NUMBER",
        limit.name,
        None if limit.per is None else int(limit.per.total_seconds()),
    )


def too_much(use: Use, team: str) -> OverLimit:
    """Why what a remote has to give is not taken: it would be beyond a limit of bytes."""
    limit = use.limit
    assert use.most is not None
    return OverLimit(
        f"nothing new is saved, as {team} may have {shown(limit, use.most)} {limit.label}, and has "
        f"{shown(limit, use.used)}; what is kept stays, and this goes on by itself once whoever runs "
        f"Everref raises it: everref limits {team} {limit.name}=SIZE",
        limit.name,
    )


def too_many_bundles(use: Use, team: str) -> OverLimit:
    """Why no bundle to download is made: those of the last day would take more than the team may store."""
    assert use.most is not None
    return OverLimit(
        f"the bundles to download of {team} have {shown(use.limit, use.used)}, and may have"
        f" {shown(use.limit, use.most)} together; fetch those that are there, which go after a day, or choose"
        f" fewer refs",
        use.limit.name,
    )


def shown(limit: Limit, number: int) -> str:
    """An amount in the unit of its limit."""
    return words.size(number) if limit.in_bytes else f"{number:,}"


def read(limit: Limit, text: str, called: str) -> int | None:
    """A limit as somebody wrote it: 500, 20G for bytes, or unlimited. Raises UsageError."""
    given = text.strip()
    if given.lower() == UNLIMITED:
        return None
    match = _NUMBER.fullmatch(given)
    if match is None or (match[2] or match[3]) and not limit.in_bytes:
        example = "bytes such as 20G or 500M" if limit.in_bytes else "things such as 500"
        raise UsageError(f"{called} must be a number of {example}, or {UNLIMITED}, not {text!r}")
    thousand = 1024 if match[3] == "iB" else 1000
    unit: int = thousand ** " KMGT".index(match[2] or " ")
    return min(int(match[1]) * unit, (1 << 63) - 1)


class Allowance:
    """How many bytes one sync may still bring in, before its team or its repo is over a limit."""

    def __init__(self, uses: tuple[Use, ...], team: str) -> None:
        self._uses = [one for one in uses if one.most is not None]
        self._team = team
        self.brought = 0

    def check(self, coming: int = 0) -> None:
        """Raise OverLimit where what came so far, and this, is too much; without any, where all is full."""
        for one in self._uses:
            assert one.most is not None
            used = one.used + self.brought + coming
            if used > one.most or not coming and used >= one.most:
                raise too_much(one, self._team)

    @property
    def is_endless(self) -> bool:
        return not self._uses
