"""How Everref proves what it keeps: when a repo is drilled, at which moment, how fast bytes are read.

Who calls: jobs/proofs (drills) and upkeep/rotation (reading). What is random here comes from the caller.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from random import Random
from typing import Final

from mirror.core.errors import UsageError
from mirror.core.model import RepoId

DAY: Final = timedelta(days=1)
MOST_DAYS: Final = 366
FIRST_DRILL: Final = timedelta(days=2)  # within which a repo is drilled for the first time
SETTLING: Final = timedelta(hours=1)  # before which it is not
SHARE: Final = 0.05  # of all slots, for scheduled drills
RESTING: Final = 0.3  # of the period, in which nothing is read again
READING: Final = 0.5  # of the period, in which everything is read once
LATE: Final = 0.9  # of the period, after which reading no longer makes way
SLOWEST: Final = 1 << 20  # bytes a second; a small vault is read within minutes
FASTEST: Final = 64 << 20  # bytes a second; the vault and the network have other work too


def days(text: str, field: str) -> int:
    """A period in days as people write it; 0: never. Raises UsageError with this field."""
    if not text.strip().isdecimal() or int(text) > MOST_DAYS:
        raise UsageError(f"give a number of days from 1 to {MOST_DAYS}, or 0 for never", field=field)
    return int(text)


def next_drill(repo_id: RepoId, period: int, last: datetime | None, now: datetime) -> datetime | None:
    """When a repo is drilled next, for a period in days; None: never.

    Repos are spread: each has its own place in the period, and comes before three quarters and 95 % of it
    have passed since its `last` drill, which leaves room for a queue. None was drilled yet: within two days.
    """
    if period == 0:
        return None
    place = int.from_bytes(blake2b(repo_id.bytes, digest_size=4).digest()) / (1 << 32)
    if last is None:
        return now + SETTLING + place * min(FIRST_DRILL, period * DAY / 2)
    return max(last + period * DAY * (0.75 + place / 5), now)


def drills_at_once(slots: int) -> int:
    """How many scheduled drills may wait or run at once, of all the slots of all workers."""
    return max(1, int(slots * SHARE))


def drill_moment(
    parts: Sequence[tuple[int, int]], latest: int, drilled: Collection[int], random: Random
) -> int:
    """The snapshot to drill: any may be chosen, recent ones and unproved parts more often.

    `parts` are the first and last snapshots of the live parts; `drilled` the snapshots of recent drills that
    passed. The history is cut where parts end. The newest stretch weighs most, each before it less, and one
    in which no drill was weighs three times as much. In a stretch its later snapshots come more often.
    """
    ends = sorted({last for _, last in parts if last < latest} | {latest})
    stretches = list(zip([0, *ends], ends, strict=False))  # after the first, up to the second
    weights = [
        (1 if any(after < number <= end for number in drilled) else 3) / (len(stretches) - place)
        for place, (after, end) in enumerate(stretches)
    ]
    ((after, end),) = random.choices(stretches, weights)
    return end - int((end - after) * random.random() ** 2)


def rate(daily: float) -> float:
    """Bytes a second to read at, where `daily` bytes a day read everything once in its period.

    It reads everything in half of the period, within bounds.
    """
    return min(max(daily / READING / DAY.total_seconds(), SLOWEST), FASTEST)


def makes_way(read_at: datetime | None, period: int, now: datetime) -> bool:
    """Whether reading what was last read then waits while syncs do: not once it is nearly overdue."""
    return read_at is None or now - read_at < LATE * period * DAY
