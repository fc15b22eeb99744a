"""What one team may have and do, so that no team uses up what all share: the limits and their defaults.

Whoever runs Everref sets them for all teams by settings, and for one by `everref limits`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from mirror.core import words
from mirror.core.errors import OverLimit, UsageError

Limits = Mapping[str, int | None]  # by name, the most that a team may have; None: unlimited

UNLIMITED: Final = "unlimited"
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_GB: Final = 10**9  # as sizes are shown
_NUMBER: Final = re.compile(r"([0-9]{1,15})([KMGT]?)(i?B)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on something that a team has or does."""

    name: str
    label: str  # as pages show it
    strict: int  # the default where strangers can sign up
    roomy: int | None = None  # the default elsewhere; None: unlimited
    per: timedelta | None = None  # the period it is counted over; None: the present number
    in_bytes: bool = False
    counted: bool = True  # False: each worker counts its own, and there is no total

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
        Limit("jobs-open", "open jobs that people requested", 50, 10_000),
        Limit("jobs-a-day", "jobs that people requested in a day", 1000, 100_000, _DAY),
        Limit("drills-a-day", "drills in a day", 50, 10_000, _DAY),
        Limit("restores-an-hour", "restores in an hour", 20, 1000, _HOUR),
        Limit("restores-a-day", "restores in a day", 100, 10_000, _DAY),
        Limit("bundles-an-hour", "bundles in an hour", 40, 1000, _HOUR),
        Limit("bundles-a-day", "bundles in a day", 200, 10_000, _DAY),
        Limit("tokens", "active API tokens", 100, 10_000),
        Limit("hooks", "webhooks", 1000),
        Limit("members", "members", 100, 10_000),
        Limit("shares", "share links that work", 100, 10_000),
        Limit("share-days", "days that a share link works", 90, 90, counted=False),
    )
}
# What a job counts as, besides a job.
OF_KIND: Final[Mapping[str, tuple[str, ...]]] = {
    "drill": ("drills-a-day",),
    "restore": ("restores-an-hour", "restores-a-day"),
    "bundle": ("bundles-an-hour", "bundles-a-day"),
}
OF_JOBS: Final = ("jobs-open", "jobs-a-day")
# Restores and bundles have limits of their own only, so that no other job holds them up.
GIVES_BACK: Final = ("restore", "bundle")
PERSON_TEAMS_STRICT: Final = 5  # teams that one person may own where strangers can sign up
PERSON_TEAMS_ROOMY: Final = 1000


def of_job(kind: str) -> tuple[str, ...]:
    """The limits that a job of this kind counts toward when a person requests it."""
    return OF_KIND.get(kind, ()) if kind in GIVES_BACK else (*OF_JOBS, *OF_KIND.get(kind, ()))


def defaults(strict: bool) -> Limits:
    """The limits of a team that has none of its own."""
    return {one.name: one.strict if strict else one.roomy for one in LIMITS.values()}


ROOMY: Final = defaults(strict=False)


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit a team uses."""

    limit: Limit
    used: int
    most: int | None  # None: unlimited
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


def refusal(use: Use, team: str, now: datetime, free_at: datetime | None = None) -> OverLimit:
    """Why a team gets no more of this now, when it gets some again, and who can raise the limit.

    `use` counts what was just asked for, too.
    """
    limit = use.limit
    assert use.most is not None
    wait = "" if free_at is None else f" the next is possible at {words.minute(free_at)}, or"
    return OverLimit(
        f"the team {team} has reached its limit, with {use.used - 1:,} of {use.most:,} {limit.label};"
        f"{wait} the person who runs Everref can raise it: everref limits {team} {limit.name}=NUMBER",
        limit.name,
        None if free_at is None else max(1, ceil((free_at - now).total_seconds())),
    )


def too_much(use: Use, team: str) -> OverLimit:
    """Why new data of a remote is not saved: it would exceed a limit of bytes."""
    limit = use.limit
    assert use.most is not None
    return OverLimit(
        f"nothing new is saved: the limit of {team} is {shown(limit, use.most)} {limit.label}, and it has "
        f"{shown(limit, use.used)}; every backup stays, and backups go on by themselves once the person "
        f"who runs Everref raises the limit: everref limits {team} {limit.name}=SIZE",
        limit.name,
    )


def too_many_bundles(use: Use, team: str) -> OverLimit:
    """Why no bundle is made: those of the last day would take more than the team may store."""
    assert use.most is not None
    return OverLimit(
        f"the bundles of {team} that wait to be downloaded have {shown(use.limit, use.used)} of"
        f" {shown(use.limit, use.most)}; wait until they are deleted, a day after each was made, or choose"
        f" fewer refs",
        use.limit.name,
    )


def shown(limit: Limit, number: int) -> str:
    """An amount in the unit of its limit."""
    return words.size(number) if limit.in_bytes else f"{number:,}"


def read(limit: Limit, text: str, called: str) -> int | None:
    """Parse a limit: 500, 20G for bytes, or unlimited. Raises UsageError."""
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
    """How many bytes one sync may still fetch before its team or its repo exceeds a limit."""

    def __init__(self, uses: tuple[Use, ...], team: str) -> None:
        self._uses = [one for one in uses if one.most is not None]
        self._team = team
        self.brought = 0

    def check(self, coming: int = 0) -> None:
        """Raise OverLimit if what came and is coming exceed a limit; with nothing coming, at the limit."""
        for one in self._uses:
            assert one.most is not None
            used = one.used + self.brought + coming
            if used > one.most or not coming and used >= one.most:
                raise too_much(one, self._team)
