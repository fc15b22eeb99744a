"""What will soon fail, and why: plain statistics over histories that are kept anyway, in words.

Never a score: a prediction says what happens, when, and what was seen. Where too little was seen,
nothing is said.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from statistics import median
from typing import Final, Literal

from mirror.core import words

Kind = Literal["credential", "owner", "hook", "duration", "quota", "host"]
Points = Sequence[tuple[datetime, float]]  # in the order of time

AHEAD: Final = timedelta(days=30)  # how far a trend is followed
EXPIRY: Final = timedelta(days=14)  # before which an expiry is told
WINDOW: Final = timedelta(days=30)  # of a trend's points
_LEAST: Final = 8  # points of a trend
_SPAN: Final = timedelta(days=7)  # that they cover, at least
_MISSED: Final = 3  # pushes that a webhook did not report
_MISSING: Final = timedelta(days=1)  # over which those were, at least
FLAKY: Final = timedelta(days=7)  # of runs at a host
_RUNS: Final = 20
_SHARE: Final = 0.2  # of them that failed
_DAYS: Final = 3  # on which they failed
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Something that will soon fail: what, why we think so, and when."""

    kind: Kind
    subject: str  # what it is about: a repo, an account at a host, a host; the same as long as it is foreseen
    title: str  # one line
    why: str  # the evidence, in a sentence
    at: datetime | None = None  # when; None: it can be at any time


@dataclass(frozen=True, slots=True)
class Credential:
    """A connection's token, as far as its end is known."""

    login: str
    host: str
    expires_at: datetime | None  # None: not told
    renewed: bool  # Everref renews it by itself
    owned: bool  # who connected it is still a member of the team
    repos: int  # that are read with it


@dataclass(frozen=True, slots=True)
class Hooked:
    """A webhook that is registered, and the pushes that only checks found since it last reported one."""

    repo: str
    since: datetime  # its last delivery, or when it was made
    found: Sequence[datetime]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run at a host."""

    at: datetime
    failed: bool


def of_credential(one: Credential, now: datetime) -> list[Prediction]:
    """A token that expires within EXPIRY and that nobody renews, or whose owner is gone."""
    found = []
    who = f"{one.login} at {one.host}"
    reads = "1 repository" if one.repos == 1 else f"{one.repos:,} repositories"
    if not one.renewed and one.expires_at is not None and now < one.expires_at <= now + EXPIRY:
        found.append(
            Prediction(
                "credential",
                who,
                f"The token of {who} expires in {_days(one.expires_at - now)}",
                f"Its host says so; {reads} will not be backed up after that. Replace the token before.",
                one.expires_at,
            )
        )
    if not one.owned and one.repos:
        found.append(
            Prediction(
                "owner",
                who,
                f"The account {who} belongs to nobody in the team",
                f"Who connected it has left; {reads} will fail when they revoke it. Connect another account.",
            )
        )
    return found


def of_hook(one: Hooked, now: datetime) -> list[Prediction]:
    """A webhook that stays silent while pushes are found without it."""
    missed = [at for at in one.found if at > one.since]
    if len(missed) < _MISSED or missed[-1] - missed[0] < _MISSING:
        return []
    return [
        Prediction(
            "hook",
            one.repo,
            f"The webhook of {one.repo} has fallen silent",
            f"It last reported a push {words.ago(one.since, now)}; since then scheduled checks alone found "
            f"{words.count(len(missed), 'push').replace('pushs', 'pushes')}. Check the webhook.",
        )
    ]


def reaches(points: Points, limit: float, now: datetime) -> datetime | None:
    """When the points reach the limit by their trend, within AHEAD. None: not, or too little is known.

    The trend is the median of the slopes between all pairs (Theil-Sen), through the median point. It counts
    only where three pairs in four rise, so that a burst or a saw is none.
    """
    known = [(at, value) for at, value in points if at > now - WINDOW]
    if len(known) < _LEAST or known[-1][0] - known[0][0] < _SPAN or known[-1][1] >= limit:
        return None
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0]).total_seconds()
        for earlier, later in combinations(known, 2)
        if later[0] > earlier[0]
    ]
    slope = median(slopes)
    if slope <= 0 or sorted(slopes)[len(slopes) // 4] <= 0:
        return None
    level = median(value + slope * (now - at).total_seconds() for at, value in known)
    left = (limit - level) / slope
    return now + timedelta(seconds=max(left, 0)) if left <= AHEAD.total_seconds() else None


def of_durations(repo: str, points: Points, limit: timedelta, now: datetime) -> list[Prediction]:
    """A repo whose backups take longer and longer, up to where they are ended. Values are seconds."""
    at = reaches(points, limit.total_seconds(), now)
    if at is None:
        return []
    return [
        Prediction(
            "duration",
            repo,
            f"Backups of {repo} will take longer than they may in {_days(at - now)}",
            f"They took {words.lasted(points[0][1])} at first and take {words.lasted(points[-1][1])} now; at "
            f"{words.lasted(limit.total_seconds())} they are ended. Exclude refs, or split the repository.",
            at,
        )
    ]


def of_quota(points: Points, limit: int, now: datetime) -> list[Prediction]:
    """A team whose vault fills up to its limit. Values are bytes."""
    at = reaches(points, limit, now)
    if at is None:
        return []
    return [
        Prediction(
            "quota",
            "stored-bytes",
            f"The vault's limit is reached in {_days(at - now)}",
            f"{words.size(points[-1][1])} of {words.size(limit)} are used, "
            f"{words.size(points[-1][1] - points[0][1])} of them since {points[0][0]:%d %b}. Beyond the "
            "limit nothing new is saved; have it raised.",
            at,
        )
    ]


def of_host(host: str, runs: Iterable[Outcome], now: datetime) -> list[Prediction]:
    """A host that fails again and again and works in between; one that only fails is told as that."""
    known = [one for one in runs if one.at > now - FLAKY]
    failed = [one for one in known if one.failed]
    days = {one.at.date() for one in failed}
    works = any(not one.failed for one in known if one.at > now - _DAY)
    if len(known) < _RUNS or len(failed) < _SHARE * len(known) or len(days) < _DAYS or not works:
        return []
    return [
        Prediction(
            "host",
            host,
            f"{host} fails again and again",
            f"{len(failed)} of {len(known)} backups there failed within a week, on {len(days)} days; others "
            "worked. Pushes can be late whenever it fails; ask who runs it.",
        )
    ]


def _days(left: timedelta) -> str:
    """`1 day`, `12 days`: what is left, rounded up."""
    return words.count(max(1, -(-left // _DAY)), "day")
