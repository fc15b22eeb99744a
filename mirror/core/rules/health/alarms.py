"""When people are told that something lasting began or ended: once per turn, and once if it will not settle.

Who calls: notify, which compares what is so now with what people were told. Times are arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

_MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
FLIPS: Final = 3  # within an hour; more of them are flapping
# What may heal by itself within a minute or two is told after that; all else at the look that finds it.
GRACE: Final = {
    "network": 2 * _MINUTE,
    "limit": 2 * _MINUTE,
    "busy": 2 * _MINUTE,
    "late": 2 * _MINUTE,  # and it is late only after ten
    "unchecked": 2 * _MINUTE,
    "hook": 10 * _MINUTE,  # pushes are found by the schedule meanwhile
    "worker": _MINUTE,  # it may have been started again
    "disk": _MINUTE,  # pools may have been evicted
}
# What waits for the installation, and is no failure of a team: who runs it is told instead.
OF_INSTALLATION: Final = frozenset({"late", "unchecked"})
MUCH_LARGER: Final = 3  # times as many repos as were told, and
MANY_MORE: Final = 10  # so many more at least

Word = Literal["began", "ended", "grew", "flaps", "settled"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A lasting state, and what people know of it."""

    is_on: bool  # as it was at the last look
    turned_at: datetime  # the look that first saw it so
    since: datetime  # on: since when; off: since when it had been on
    told_on: bool = False  # as people know it
    told_at: datetime | None = None  # None: they never heard of it
    told_many: int = 0  # repos, as they know
    flips: Sequence[datetime] = field(default=())  # when it began or ended within the last hour
    flapping_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The state as a look finds it."""

    since: datetime | None  # None: it is not known
    many: int  # repos


@dataclass(frozen=True, slots=True)
class Step:
    """What a look makes of an alarm."""

    alarm: Alarm | None  # None: it is over, told and quiet; it can be forgotten
    say: Word | None  # None: nothing


def kind_of(cause: str) -> str:
    """The kind of a cause: `network` of network:github.com."""
    return cause.partition(":")[0]


def step(cause: str, was: Alarm | None, seen: Seen | None, now: datetime) -> Step:
    """Compare what is so now with what people were told.

    1. A turn is noted. 2. More than FLIPS turns within an hour are flapping, which is told once; then
    nothing is, until it was stable for an hour. 3. What began is told after its grace, what ended at once if
    its beginning was told. 4. What became much larger since it was told an hour or more ago is told again.
    Run twice with the same answers it says nothing the second time.
    """
    if was is None:
        if seen is None:
            return Step(None, None)
        was = Alarm(True, now, seen.since or now, flips=(now,))
    elif was.is_on != (seen is not None):
        since = (seen.since or now) if seen else was.since
        was = replace(was, is_on=seen is not None, turned_at=now, since=since, flips=(*was.flips, now))
    was = replace(was, flips=tuple(at for at in was.flips if at > now - HOUR))
    if was.flapping_since is not None:
        return _flapping(was, seen, now)
    if len(was.flips) > FLIPS:
        return Step(_told(replace(was, flapping_since=now), seen, now), "flaps")
    if was.is_on and seen is not None:
        if not was.told_on:
            grace = GRACE.get(kind_of(cause), timedelta())
            return Step(_told(was, seen, now), "began") if now - was.turned_at >= grace else Step(was, None)
        if is_much_larger(was, seen.many, now):
            return Step(_told(was, seen, now), "grew")
        return Step(was, None)
    if was.told_on:
        return Step(_told(was, None, now), "ended")
    return Step(was if was.flips else None, None)


def _flapping(was: Alarm, seen: Seen | None, now: datetime) -> Step:
    """Nothing is said until it was stable for an hour; then how it stands."""
    if now - was.turned_at < HOUR:
        return Step(was, None)
    return Step(_told(replace(was, flapping_since=None), seen, now), "settled")


def _told(was: Alarm, seen: Seen | None, now: datetime) -> Alarm:
    return replace(was, told_on=seen is not None, told_at=now, told_many=seen.many if seen else 0)


def is_much_larger(was: Alarm, many: int, now: datetime) -> bool:
    """Whether a cause concerns so many more repos than people know that they should hear of it again."""
    return (
        was.told_at is not None
        and now - was.told_at >= HOUR
        and many >= MUCH_LARGER * was.told_many
        and many >= was.told_many + MANY_MORE
    )
