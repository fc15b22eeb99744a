"""Object Lock, by which a store itself keeps what was written: how long, and when that is extended.

Who uses it: the vault locks each new object by it, upkeep/lock extends the locks of what is kept.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from mirror.core.errors import UsageError

OFF: Final = "off"
_LONGEST: Final = (
    3650  # days; what is locked in compliance mode by mistake cannot be deleted earlier by anybody
)
_WRITTEN: Final = re.compile(r"(governance|compliance):([0-9]{1,4})d")


class LockMode(StrEnum):
    """Who may end a lock early."""

    GOVERNANCE = "governance"  # whoever has the store's permission to bypass it; Everref never asks for that
    COMPLIANCE = "compliance"  # nobody, not even the owner of the account


@dataclass(frozen=True, slots=True)
class Locking:
    """How a store locks each new object of a history."""

    mode: LockMode
    period: timedelta

    def until(self, now: datetime) -> datetime:
        """The end of a lock that begins now, in whole seconds as stores keep it."""
        return (now + self.period).replace(microsecond=0)

    def is_due(self, locked_until: datetime | None, now: datetime) -> bool:
        """Whether locks that end then (None: some objects have none) are extended: at half of the period."""
        return locked_until is None or locked_until - now < self.period / 2

    def __str__(self) -> str:
        return f"{self.mode}:{self.period.days}d"


@dataclass(frozen=True, slots=True)
class Lock:
    """What keeps one object in the store."""

    mode: LockMode | None  # None: it has no retention, only a hold
    until: datetime | None  # None likewise
    is_held: bool  # a legal hold, which ends only when somebody lifts it


def read(text: str, setting: str) -> Locking | None:
    """What `governance:30d` or `compliance:90d` says; None: off. Raises UsageError, naming the setting."""
    if text.lower() == OFF:
        return None
    match = _WRITTEN.fullmatch(text.lower())
    if match is None or not 1 <= int(match[2]) <= _LONGEST:
        raise UsageError(
            f"{setting} must be off, or a mode and days such as governance:30d or compliance:90d"
            f" (at most {_LONGEST}d)"
        )
    return Locking(LockMode(match[1]), timedelta(days=int(match[2])))


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried on an object that the store should keep."""

    what: str  # what the store let happen if it failed: "a locked object was deleted"
    passed: bool


@dataclass(frozen=True, slots=True)
class Hazard:
    """A setting of a bucket that would undo what Object Lock is for."""

    what: str
    advice: str  # what to do


@dataclass(frozen=True, slots=True)
class LockProof:
    """What trying showed of a store, and what is wrong with its settings."""

    trials: tuple[Trial, ...]
    hazards: tuple[Hazard, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """What the store let happen; empty: it enforces Object Lock."""
        return tuple(dict.fromkeys(trial.what for trial in self.trials if not trial.passed))
