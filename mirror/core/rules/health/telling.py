"""When a message goes to a channel: at once, or in a digest, or after a night; and when it is tried again.

Who calls: notify. Times are arguments; nothing here knows the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final
from uuid import UUID

from mirror.core.errors import UsageError
from mirror.core.messages import KINDS, Message
from mirror.core.times import zones

DIGEST_EVERY: Final = timedelta(hours=1)  # for a person, of what is not urgent
URGENT_AT_ONCE: Final = 5  # within an hour at one channel; more of them are sent together
URGENT_EVERY: Final = timedelta(minutes=10)
GIVEN_UP: Final = timedelta(hours=24)  # after a message was first to be sent
FAILING_AFTER: Final = timedelta(minutes=15)  # without anything that arrives, until a channel counts as dead
REPORT_AT: Final = time(8)  # of a Monday, in the channel's zone
REPORT_LATE: Final = timedelta(hours=24)  # for which a report that nobody could write in time is still news
GLOBS: Final = 20  # of refs whose force-pushes are told
GLOB_LETTERS: Final = 200
DIGEST_LINES: Final = 30  # messages that a digest names
_WAITS: Final = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1))
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Channel:
    """A place that messages go to, as far as it decides which and when."""

    id: UUID
    of_person: bool  # about all of a person's teams
    off: frozenset[str] = frozenset()  # kinds that it does not want
    quiet_from: time | None = None  # from when to when it gets what is urgent alone; None: never
    quiet_to: time | None = None
    zone: str | None = None  # an IANA name; None: UTC
    calm_at: datetime | None = (
        None  # when the last message that is not urgent was, or is, to be sent; None: none was
    )
    urgent_at: Sequence[datetime] = ()  # likewise of the urgent ones of the last hour, and of those to come


@dataclass(frozen=True, slots=True)
class Due:
    """When a channel gets a message."""

    channel_id: UUID
    at: datetime
    held: bool  # it waits: whatever waits there with it is put into one digest


def wants(channel: Channel, message: Message) -> bool:
    """Whether the channel gets such messages: what is no kind of message can't be switched off."""
    return message.kind not in KINDS or message.kind not in channel.off


def plan(message: Message, channels: Sequence[Channel], now: datetime) -> list[Due]:
    """When each channel gets the message; those that do not want it are left out."""
    return [due(message.urgent, one, now) for one in channels if wants(one, message)]


def due(urgent: bool, channel: Channel, now: datetime) -> Due:
    """When a message is to be sent to a channel.

    What is urgent goes at once, but for a flood: after URGENT_AT_ONCE within an hour the next ones go
    together, every URGENT_EVERY at the most. What is not waits for the end of the quiet hours, and at a
    person's channel for an hour after the one before. Those that wait for the same time are one digest.
    """
    at = _urgent(channel, now) if urgent else _calm(channel, now)
    return Due(channel.id, at, held=at > now)


def _urgent(channel: Channel, now: datetime) -> datetime:
    lately = sorted(at for at in channel.urgent_at if at > now - timedelta(hours=1))
    if len(lately) < URGENT_AT_ONCE:
        return now
    return lately[-1] if lately[-1] > now else max(now, lately[-1] + URGENT_EVERY)


def _calm(channel: Channel, now: datetime) -> datetime:
    at = now
    if channel.calm_at is not None and channel.calm_at > now:
        at = channel.calm_at  # the digest that waits already
    elif channel.of_person and channel.calm_at is not None:
        at = max(now, channel.calm_at + DIGEST_EVERY)
    return awake(channel, at)


def awake(channel: Channel, at: datetime) -> datetime:
    """The time itself, or the end of the quiet hours that it falls into, by the channel's clocks."""
    if channel.quiet_from is None or channel.quiet_to is None or channel.quiet_from == channel.quiet_to:
        return at
    zone = zones.named(channel.zone)
    there = at.astimezone(zone)
    shown = there.time()
    overnight = channel.quiet_from > channel.quiet_to
    if overnight:
        quiet = shown >= channel.quiet_from or shown < channel.quiet_to
    else:
        quiet = channel.quiet_from <= shown < channel.quiet_to
    if not quiet:
        return at
    day = there.date() + (_DAY if overnight and shown >= channel.quiet_from else timedelta())
    end = zones.moment_of(datetime.combine(day, channel.quiet_to), zone)
    return max(at, end)  # a clock that is put back shows the end twice


def report_at(channel_zone: str | None, now: datetime) -> datetime:
    """The last Monday at 08:00 in this zone, which is not after `now`."""
    zone = zones.named(channel_zone)
    there = now.astimezone(zone)
    monday = there.date() - timedelta(days=there.weekday())
    at = zones.moment_of(datetime.combine(monday, REPORT_AT), zone)
    return at if at <= now else zones.moment_of(datetime.combine(monday - 7 * _DAY, REPORT_AT), zone)


def wait(tries: int) -> timedelta:
    """How long a channel is left alone after so many tries in a row failed: 30 s, 2 min, 10 min, then 1 h."""
    return _WAITS[min(max(tries, 1), len(_WAITS)) - 1]


def guarded(typed: str) -> tuple[str, ...] | None:
    """The globs of the refs whose force-pushes and deletions are told, as somebody typed them.

    None: nothing was typed, which means the default branch, and tags. Raises UsageError.
    """
    found = tuple(dict.fromkeys(typed.split()))
    if len(found) > GLOBS:
        raise UsageError(f"{len(found)} patterns are too many; use {GLOBS} or fewer", field="globs")
    if any(len(one) > GLOB_LETTERS for one in found):
        raise UsageError(
            f"a pattern may have at most {GLOB_LETTERS} letters; use a shorter one", field="globs"
        )
    return found or None
