"""How the slots of a worker are shared among teams: which teams may start more, and which have enough.

Who calls: jobs/runner, and jobs/looks for its own slots. https://en.wikipedia.org/wiki/Max-min_fairness
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

LENT: Final = 24  # slots given away by runs that wait for their host; each host has its own bound
LENT_TO_ONE: Final = LENT // 2  # of these, by runs of one team
KEPT_FREE: Final = 4  # one slot in so many is for quick runs, so that a huge first backup delays no push

Team = TypeVar("Team", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Held(Generic[Team]):
    """A run under way."""

    team: Team
    heavy: bool  # it may take long, or already has
    waits: bool  # most likely for its host, so it gives its slot away


@dataclass(frozen=True, slots=True)
class Free(Generic[Team]):
    """What may start."""

    room: int  # runs, of a team with none under way
    heavy: int  # heavy runs, likewise
    full: frozenset[Team] = frozenset()  # teams that may start nothing
    full_of_heavy: frozenset[Team] = frozenset()  # teams that may start nothing heavy


def free(runs: Iterable[Held[Team]], slots: int) -> Free[Team]:
    """What may start beside these runs.

    A team that is alone can have every slot. For other teams, its runs count for at most half of them,
    so the others find half of the slots free, however long those runs take. A worker then runs at most
    one and a half times its slots, rounded up.
    """
    total: dict[Team, int] = {}
    heavy: dict[Team, int] = {}
    waiting: dict[Team, int] = {}
    for run in runs:
        total[run.team] = total.get(run.team, 0) + 1
        heavy[run.team] = heavy.get(run.team, 0) + run.heavy
        waiting[run.team] = waiting.get(run.team, 0) + run.waits
    left = LENT
    for team, number in sorted(waiting.items(), key=lambda item: item[1]):
        lent = min(number, LENT_TO_ONE, left)
        total[team] -= lent
        left -= lent
    room, full = left_over(total, slots)
    of_heavy, full_of_heavy = left_over(heavy, slots - max(1, slots // KEPT_FREE))
    return Free(room, of_heavy, full, full_of_heavy)


def left_over(held: Mapping[Team, int], slots: int) -> tuple[int, frozenset[Team]]:
    """How many slots a team with none may have, and which teams may have no more."""
    half = max(1, slots // 2)
    counted = sum(min(number, half) for number in held.values())
    full = frozenset(team for team, number in held.items() if counted - min(number, half) + number >= slots)
    return max(0, slots - counted), full
