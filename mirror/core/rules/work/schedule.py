"""When a repo is looked at next: by a person's schedule, or by how recently it was pushed to."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import islice, pairwise
from typing import Final

from cronsim import CronSim, CronSimError

from mirror.core.errors import UsageError
from mirror.core.model import RepoId

SHORTEST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(days=30)
A_SECOND: Final = 8  # looks per second that become due at one host after a start
# By activity: the longest of these that is at most a 24th of the time since the last push.
STEPS: Final = (
    *(timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1)),
    *(timedelta(hours=4), timedelta(hours=12), timedelta(days=1)),
)

_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CHECKS: Final = (
    400  # of a cron expression, among which its longest gap is: more than those of a year of days
)
_RARELY: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Every:
    """Repeatedly, after the same time."""

    period: timedelta


@dataclass(frozen=True, slots=True)
class Cron:
    """When a cron expression says, in UTC."""

    expression: str


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a repo is looked at, and why."""

    schedule: str | None  # None: by activity
    changed_at: datetime  # when a look last found something new; at first, when it was added
    rpo: timedelta  # its recovery point objective, its own or its team's


def is_too_rare(schedule: str | None, rpo: timedelta) -> bool:
    """Whether a schedule asks for fewer checks than the objective takes: two within it."""
    if not schedule:
        return False
    chosen = parse(schedule)
    gap = longest_gap(schedule) if isinstance(chosen, Cron) else chosen.period
    return gap is not None and gap > rpo / 2


def parse(text: str) -> Every | Cron:
    """A schedule as people write it: `15m`, `6h`, `2d`, or a cron expression. Raises UsageError."""
    words = text.split()
    if len(words) == 1 and (match := re.fullmatch("([0-9]{1,6})([mhd])", words[0])):
        period = int(match[1]) * _UNITS[match[2]]
        if not SHORTEST <= period <= LONGEST:
            raise UsageError(f"a schedule of {words[0]} is not between 1m and 30d")
        return Every(period)
    expression = " ".join(words)
    if len(words) == 5:
        try:
            next(CronSim(expression, _EPOCH))
        except (CronSimError, StopIteration):
            pass
        else:
            return Cron(expression)
    raise UsageError("a schedule is an interval as in 15m, 6h or 1d, or a cron expression as in 30 2 * * *")


def next_look(rhythm: Rhythm, repo_id: RepoId, now: datetime, looked_at: datetime | None) -> datetime:
    """When the repo is next due after `now`. Looks are spread: each repo has its own moment in every period.

    A repo is looked at at least twice within its objective, whatever its schedule says.
    """
    schedule, longest = rhythm.schedule, rhythm.rpo / 2
    chosen = parse(schedule) if schedule else Every(period_of(now - rhythm.changed_at))
    if isinstance(chosen, Cron):
        # Within the minute of the expression, each repo at its own second.
        due = next(CronSim(chosen.expression, now.astimezone(UTC))) + _place(repo_id, SHORTEST)
        return min(due, now + longest)
    period = min(chosen.period, longest)
    place = _place(repo_id, period)
    due = _EPOCH + place + ((now - _EPOCH - place) // period + 1) * period
    if looked_at is not None and due - looked_at < period / 2:  # its period has just changed
        due += period
    return due


def longest_gap(schedule: str | None) -> timedelta | None:
    """The longest time between two checks by a cron expression. None: the schedule is none."""
    chosen = parse(schedule) if schedule else None
    if not isinstance(chosen, Cron):
        return None
    times = list(islice(CronSim(chosen.expression, _EPOCH), _CHECKS))
    return max((later - earlier for earlier, later in pairwise(times)), default=_RARELY)


def spread(hosts: Sequence[str | None], now: datetime) -> list[datetime]:
    """When to look at each repo after the service has started: as soon as its host can bear it.

    `hosts` are those of the repos, in the order in which to look at them. None: this machine.
    """
    places: Counter[str | None] = Counter()
    found = []
    for host in hosts:
        found.append(now + timedelta(seconds=places[host] // A_SECOND))
        places[host] += 1
    return found


def period_of(quiet: timedelta) -> timedelta:
    """How often to look at a repo that has been quiet for this long."""
    return max((step for step in STEPS if step <= quiet / 24), default=STEPS[0])


def wait_before_retry(attempt: int, chance: float) -> float:
    """Seconds to wait after try `attempt`: doubling from 2 to 600, a quarter off by `chance` in 0..1."""
    return float(min(2**attempt, 600) * (0.75 + chance / 2))


def shares(worker: str, workers: Sequence[str], count: int = 256) -> list[int]:
    """Which of the `count` shares of all repos belong to this worker, among these workers.

    Every share goes to the worker with the highest hash for it, so that when a worker
    comes or goes, no share moves between the others (rendezvous hashing).
    """
    return [share for share in range(count) if max(workers, key=lambda one: _weight(one, share)) == worker]


def _weight(worker: str, share: int) -> bytes:
    return blake2b(f"{share} {worker}".encode(), digest_size=8).digest()


def _place(repo_id: RepoId, period: timedelta) -> timedelta:
    """A repo's own moment within a period."""
    number = int.from_bytes(blake2b(repo_id.bytes, digest_size=8).digest())
    return timedelta(seconds=number % int(period.total_seconds()))
