"""Which snapshots are kept, and why: a policy applied to what is known of a repo, with no clock of its own.

Who calls: upkeep/retention, for a preview and for what is dropped. A snapshot that nothing keeps is dropped
by the next rewrite of its repo's pack log (upkeep/epoch).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mirror.core import words
from mirror.core.errors import UsageError

MOST: Final = 100_000  # of any number of a policy
STEP: Final = timedelta(days=3)  # without anything in the vault, after which a clock counts as moved
SPAN: Final = timedelta(days=8)  # over which a clock must have gone on as the vault shows it
AHEAD: Final = timedelta(hours=1)  # that the vault's newest object may be younger than now
FLOOD: Final = 7  # days of which the last snapshot stays, however many came since
APART: Final = timedelta(days=7)  # between two rewrites of one repo
MANY: Final = 50  # snapshots for which a rewrite is worth it
SHARE: Final = 0.1  # of a repo's bytes, likewise
LONG: Final = timedelta(days=30)  # after which anything is worth it


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept of a repo. A snapshot stays if any of these keeps it; 0 keeps none."""

    keep_last: int = 0  # the newest n snapshots
    days: int = 0  # everything of the last n days
    daily: int = 0  # the last snapshot of each of the last n days (UTC) that have one
    weekly: int = 0  # likewise: ISO weeks
    monthly: int = 0
    yearly: int = 0
    for_ever: bool = False  # everything, whatever the numbers

    def __str__(self) -> str:
        """The policy in words: "the last 10, everything of the last 30 days, 12 monthly"."""
        if self.for_ever:
            return "everything, for ever"
        said = [
            *([f"the last {self.keep_last}"] if self.keep_last else []),
            *([f"everything of the last {words.count(self.days, 'day')}"] if self.days else []),
            *(f"{getattr(self, name)} {name}" for name in PERIODS if getattr(self, name)),
        ]
        return ", ".join(said)

    @property
    def numbers(self) -> dict[str, int]:
        """Its numbers by their names."""
        return {name: getattr(self, name) for name in NUMBERS}


PERIODS: Final = ("daily", "weekly", "monthly", "yearly")
NUMBERS: Final = tuple(one.name for one in fields(Policy) if one.name != "for_ever")
EVERYTHING: Final = Policy(for_ever=True)


def parse(given: Mapping[str, Any]) -> Policy:
    """The policy that these fields make; what is empty or missing is 0. Raises UsageError, with its field.

    One that keeps nothing is refused.
    """
    if given.get("for_ever"):
        return EVERYTHING
    found: dict[str, Any] = {}
    for name in NUMBERS:
        text = str(given.get(name) or "0").strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text) <= MOST):
            raise UsageError(f"give a whole number from 0 to {MOST:,}", field=name)
        found[name] = int(text)
    if not any(found.values()):
        raise UsageError(
            "a policy of only zeros would keep nothing; give at least one number, or keep everything",
            field=NUMBERS[0],
        )
    return Policy(**found)


def keeps_less(new: Policy, old: Policy) -> bool:
    """Whether the new policy may drop something that the old one keeps."""
    if new.for_ever:
        return False
    return old.for_ever or any(getattr(new, name) < getattr(old, name) for name in NUMBERS)


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot as the policy sees it."""

    number: int
    at: datetime
    whole: bool = True  # False: it needs a part that was found damaged


@dataclass(frozen=True, slots=True)
class Facts:
    """What keeps snapshots whatever the policy says."""

    hold: str | None = None  # why the repo is on legal hold
    pins: Mapping[int, str] = field(default_factory=dict)  # numbers, and why somebody keeps each
    drilled: int | None = None  # the newest snapshot that a drill restored whole
    deleted_after: int | None = None  # the last snapshot before a mass deletion that nobody has dismissed
    in_use: Collection[int] = ()  # that work which waits or runs is about
    seen: Sequence[
        datetime
    ] = ()  # when things came into the vault lately, by the clock of then, in any order


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot that stays."""

    number: int
    at: datetime
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy keeps and what it drops, in the order of numbers."""

    policy: Policy
    kept: tuple[Kept, ...]
    dropped: tuple[Taken, ...]
    stopped: str | None = None  # why nothing is dropped now although something would go


def plan(policy: Policy, taken: Sequence[Taken], facts: Facts, now: datetime) -> Plan:
    """Judge every snapshot that was not dropped yet; `taken` are all of them, in the order of numbers.

    Whatever the policy, these stay: the newest snapshot and the newest whole one; what somebody keeps; what
    is younger than the newest that a drill proved, and that one; everything before a mass deletion that
    nobody has dismissed; what a job is about; what the remote showed at the end of each of the last 7 days,
    so that a hundred pushes of junk do not make "the last 10" drop what was good; and all of a repo on legal
    hold. Costs as much as there are snapshots, times the logarithm of that.
    """
    because: dict[int, list[str]] = {one.number: [] for one in taken}
    for number, why in _by_policy(policy, taken, now):
        because[number].append(why)
    for number, why in [*_by_facts(taken, facts), *_against_floods(taken, now)]:
        because[number].append(why)
    kept = [Kept(one.number, one.at, tuple(because[one.number])) for one in taken if because[one.number]]
    dropped = tuple(one for one in taken if not because[one.number])
    return Plan(policy, tuple(kept), dropped, clock_problem(facts.seen, now) if dropped else None)


def _by_policy(policy: Policy, taken: Sequence[Taken], now: datetime) -> Iterable[tuple[int, str]]:
    """What the policy's numbers keep: each with why."""
    if policy.for_ever:
        yield from ((one.number, "everything is kept") for one in taken)
        return
    for one in taken[len(taken) - policy.keep_last :] if policy.keep_last else ():
        yield one.number, f"one of the last {policy.keep_last}"
    if policy.days:
        since = now - timedelta(days=policy.days)
        yield from (
            (one.number, f"of the last {words.count(policy.days, 'day')}") for one in taken if one.at >= since
        )
    for period in PERIODS:
        left, named, last = getattr(policy, period), _PERIOD[period], ""
        for one in sorted(taken, key=lambda one: (one.at, one.number), reverse=True):
            name = named(one.at.astimezone(UTC))
            if left and name != last:
                yield one.number, f"the last of {name}"
                left, last = left - 1, name
            if not left:
                break


_PERIOD: Final[Mapping[str, Callable[[datetime], str]]] = {
    "daily": lambda at: f"{at:%Y-%m-%d}",
    "weekly": lambda at: f"week {at:%G-W%V}",
    "monthly": lambda at: f"{at:%Y-%m}",
    "yearly": lambda at: f"{at:%Y}",
}


def _by_facts(taken: Sequence[Taken], facts: Facts) -> Iterable[tuple[int, str]]:
    """What stays whatever the policy says: each with why."""
    if not taken:
        return
    yield taken[-1].number, "the newest"
    good = next((one.number for one in reversed(taken) if one.whole), None)
    if good is not None and good != taken[-1].number:
        yield good, "the newest that is undamaged"
    for one in taken:
        if facts.hold is not None:
            yield one.number, f"legal hold: {facts.hold}"
        if (note := facts.pins.get(one.number)) is not None:
            yield one.number, f"kept by hand: {note}"
        if facts.drilled is not None and one.number >= facts.drilled:
            yield (
                one.number,
                "proved by a drill" if one.number == facts.drilled else "newer than what drills proved",
            )
        if facts.deleted_after is not None and one.number <= facts.deleted_after:
            yield one.number, "before a mass deletion that nobody has dismissed"
        if one.number in facts.in_use:
            yield one.number, "a job reads it"


def _against_floods(taken: Sequence[Taken], now: datetime) -> Iterable[tuple[int, str]]:
    """What the remote showed at the end of each of the last days, and before them: each with why."""
    before, known = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0), 0
    for _ in range(FLOOD):
        earlier = [one for one in taken if one.at < before]
        before -= timedelta(days=1)
        found = max(earlier, key=lambda one: (one.at, one.number), default=None)
        if found is not None and found.number != known:
            known = found.number
            yield known, f"as it was at the end of {before:%Y-%m-%d}"


def clock_problem(seen: Sequence[datetime], now: datetime) -> str | None:
    """Why nothing may be dropped by this clock; None: the vault's objects show that it went on evenly.

    A clock that jumped ahead makes everything look old. So objects must have come into the vault within the
    last days, at most three days apart; and none may be from the future.
    """
    if seen and max(seen) > now + AHEAD:
        return (
            f"the newest object of the vault is from {max(seen):%Y-%m-%d %H:%M} UTC, but the clock says"
            f" {now:%Y-%m-%d %H:%M}: set the clock right"
        )
    at, shown = now, False
    for one in sorted((one for one in seen if one <= now), reverse=True):
        if at - one > STEP:
            break
        at, shown = one, True
        if now - at >= SPAN - STEP:
            return None
    if not shown:
        return (
            f"nothing came into the vault within the last {STEP.days} days, so the clock may have jumped"
            " ahead; nothing is dropped until the vault's objects show that it is right"
        )
    return (
        f"the vault's objects show only since {at:%Y-%m-%d} that the clock is right; nothing is dropped"
        f" until they have shown it for {(SPAN - STEP).days} days"
    )


def ahead_of_vault(vault: datetime | None, now: datetime) -> str | None:
    """Why nothing may be taken away for ever by this clock: that of the vault is behind it.

    None: it is not, or the vault has no clock of its own. This finds also a clock that jumped long ago, by
    which things have come into the vault evenly since.
    """
    if vault is None or now - vault <= AHEAD:
        return None
    return (
        f"the clock here says {now:%Y-%m-%d %H:%M} UTC, and that of the vault {vault:%Y-%m-%d %H:%M}: set the"
        " one that is wrong right; until then nothing is dropped or deleted for ever"
    )


def is_worth(
    going: int, bytes_at_most: int, stored: int, last_rewrite: datetime | None, now: datetime
) -> bool:
    """Whether a repo's log is packed anew now for these snapshots.

    At most once a week; for 50 snapshots or a tenth of its bytes, or when the last time is a month ago.
    `last_rewrite`: the last one, or when its policy was set; None: neither is known.
    """
    if not going or (last_rewrite is not None and now - last_rewrite < APART):
        return False
    is_long = last_rewrite is None or now - last_rewrite >= LONG
    return is_long or going >= MANY or bytes_at_most >= SHARE * stored
