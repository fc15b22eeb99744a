"""How well a team's repositories are protected, in the one sentence that an auditor reads first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from mirror.core import words

_ANY: Final = datetime(2000, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
# What is said of repositories that are not protected, in this order, by their state.
_OTHERWISE: Final = (
    ("damaged", "damaged"),
    ("failing", "failing"),
    ("never", "not saved yet"),
    ("paused", "paused"),
    ("archived", "gone"),
)


@dataclass(frozen=True, slots=True)
class State:
    """How one repository stands."""

    state: str  # as SQL's repo_state says it
    protected_as_of: datetime | None  # None: nothing was saved yet
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How many repositories stand how. Each is counted once; the late ones are among the protected."""

    total: int
    protected: int
    late: int  # a push waits longer than it should, or its check is overdue
    worst: timedelta | None  # how long ago the latest of those was last up to date; None: none is late
    otherwise: dict[str, int]  # how many are not protected, by why

    @property
    def sentence(self) -> str:
        """`337 of 339 repositories are protected; 21 of them are late, at worst by 3 h. 1 failing.`"""
        if not self.total:
            return "There is no repository yet."
        noun = "repository" if self.total == 1 else "repositories"
        said = f"{self.protected:,} of {self.total:,} {noun} {_are(self.protected)} protected"
        if self.worst is not None:
            longest = words.ago(_ANY, _ANY + max(self.worst, _SECOND)).removesuffix(" ago")
            said += f"; {self.late:,} of them {_are(self.late)} late, at worst by {longest}"
        rest = ", ".join(f"{number:,} {why}" for why, number in self.otherwise.items())
        return f"{said}. {rest}." if rest else f"{said}."


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def standing(states: Sequence[State], now: datetime) -> Standing:
    """How these repositories stand now."""
    found = Counter[str]()
    late: list[timedelta] = []
    for one in states:
        unpaused = one.state in ("protected", "behind", "late")
        found["paused" if unpaused and one.is_paused else one.state] += 1
        if one.state == "late" and not one.is_paused and one.protected_as_of is not None:
            late.append(max(now - one.protected_as_of, timedelta()))
    otherwise = {said: found[state] for state, said in _OTHERWISE if found[state]}
    protected = found["protected"] + found["behind"] + found["late"]
    return Standing(len(states), protected, found["late"], max(late, default=None), otherwise)
