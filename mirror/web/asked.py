"""The moment that somebody asked for: what they typed or picked, what that means, and the answer."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from mirror.core.errors import UsageError
from mirror.core.model import Repo, Snapshot, label
from mirror.core.times import when, zones
from mirror.core.times.when import When, Within
from mirror.web.dispatch import RequestContext

LONGEST: Final = 100  # letters that somebody may type
EXAMPLES: Final = "yesterday 10:00, Tuesday 10:00, 2026-03-02 09:14, 2h ago or #12"


@dataclass(frozen=True, slots=True)
class Asked:
    """A moment as it was asked for."""

    typed: str = ""  # as somebody wrote it, for the field that it came from
    when: When | None = None  # None: nothing was asked, which means now
    note: str = ""  # what has to be said about how it was understood

    @property
    def name(self) -> str:
        """The same as an address has it, which means the same tomorrow and in another zone."""
        match self.when:
            case None:
                return ""
            case datetime() as time:
                return time.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
            case Within(snapshot, moment):
                return label(snapshot, moment)
            case number:
                return label(number, 0)

    @property
    def up_to(self) -> When | None:
        """The same, to look for: pages show whole seconds, so that such a one means all of that second."""
        time = self.time
        return self.when if time is None or time.microsecond else time.replace(microsecond=999_999)

    @property
    def time(self) -> datetime | None:
        """The time that was asked for; None: a snapshot by its number, or nothing."""
        return self.when if isinstance(self.when, datetime) else None


def read(context: RequestContext, after: str = "") -> Asked:
    """What the address asks for: `picked` by a date-time field, else `at`, else what stands `after` its @.

    Raises UsageError, whose words stand at the field.
    """
    typed = typed_in(context, after)
    if not typed:
        return Asked()
    if len(typed) > LONGEST:
        raise UsageError(f"that is too long for a moment; write one like {EXAMPLES}", field="at")
    try:
        meant = when.understood(typed, context.now, context.zone)
    except UsageError as error:
        said = str(error).replace(when.EXAMPLES, EXAMPLES)
        raise UsageError(said, field="at") from None
    return Asked(typed, meant.when, meant.note)


def typed_in(context: RequestContext, after: str = "") -> str:
    """What somebody typed or picked, as a person would write it."""
    picked = context.query.get("picked", "").strip()
    return picked.replace("T", " ") or context.query.get("at", "").strip() or after


def answer(asked: Asked, snapshot: Snapshot, checked: datetime | None, now: datetime, zone: tzinfo) -> str:
    """What was understood and found: "Tuesday 17 November, 10:00 EST. Nothing changed since 01:55:59 (#66)."

    `checked` is when the repo was last compared with its remote; None: never. Nothing is
    said where a snapshot was asked for by its number.
    """
    time = asked.time
    if time is None:
        return ""
    first = said(time, now, zone) + (f" ({asked.note})" if asked.note else "") + ". "
    if snapshot.taken_at.replace(microsecond=0) == time.replace(microsecond=0):
        return f"{first}That is {snapshot.label}."
    if checked is not None and time > checked:
        last = _beside(checked, time, now, zone)
        return f"{first}Everref last checked at {last}; {snapshot.label} is the latest."
    return f"{first}Nothing changed since {_beside(snapshot.taken_at, time, now, zone)} ({snapshot.label})."


def too_early(repo: Repo, time: datetime, first: datetime, now: datetime, zone: tzinfo) -> str:
    """Why there is nothing to show of a time before the first snapshot."""
    return (
        f"Nothing of {repo.name} had been saved by {said(time, now, zone)}; "
        f"the first snapshot is #1 of {said(first, now, zone, seconds=True)}."
    )


def said(then: datetime, now: datetime, zone: tzinfo, *, seconds: bool = False) -> str:
    """`Tuesday 17 November, 10:00 EST`; with seconds and with the year where they say something."""
    return f"{_day(then, now, zone)}, {_clock(then, zone, seconds)} {zones.abbreviation(then, zone)}"


def _beside(then: datetime, other: datetime, now: datetime, zone: tzinfo) -> str:
    """A time to the second, with what differs from the other one that was just said."""
    letters = zones.abbreviation(then, zone)
    clock = _clock(then, zone, True) + ("" if letters == zones.abbreviation(other, zone) else f" {letters}")
    same = then.astimezone(zone).date() == other.astimezone(zone).date()
    return clock if same else f"{_day(then, now, zone)}, {clock}"


def _day(then: datetime, now: datetime, zone: tzinfo) -> str:
    there = then.astimezone(zone)
    year = "" if there.year == now.astimezone(zone).year else f" {there.year}"
    return f"{there:%A} {there.day} {there:%B}{year}"


def _clock(then: datetime, zone: tzinfo, seconds: bool) -> str:
    there = then.astimezone(zone)
    return f"{there:%H:%M:%S}" if seconds or there.second else f"{there:%H:%M}"
