"""How the slots of a worker are shared out among teams: who may take up more, and who has enough.

Who calls: jobs/runner, and jobs/looks for its own places. https://en.wikipedia.org/wiki/Max-min_fairness
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

LENT: Final = 24  # slots that runs which wait for their host give away; no host has more than its own bound
LENT_TO_ONE: Final = LENT // 2  # of them, by runs of one team
KEPT_FREE: Final = 4  # one slot in so many is for what is quick: a huge first backup keeps no push waiting

Team = TypeVar("Team", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Held(Generic[Team]):
    """One run that is under way."""

    team: Team
    heavy: bool  # it may take long, or has
    waits: bool  # for its host, most likely: it gives its slot away


@dataclass(frozen=True, slots=True)
class Free(Generic[Team]):
    """What may be taken up."""

    room: int  # runs, of a team that has none
    heavy: int  # likewise, of what is heavy
    full: frozenset[Team]  # teams that may take up nothing
    full_of_heavy: frozenset[Team]  # teams that may take up nothing heavy


def free(runs: Iterable[Held[Team]], slots: int) -> Free[Team]:
    """What may begin beside these runs.

    A team alone has every slot. To the others no team's runs count for more than half of them, so
    that whoever comes finds the other half free, however long those runs take: a worker has one and a half
    times its slots at work then, at the most.
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
    """How many more a team may have that has none, and which teams may have no more."""
    half = max(1, slots // 2)
    counted = sum(min(number, half) for number in held.values())
    full = frozenset(team for team, number in held.items() if counted - min(number, half) + number >= slots)
    return max(0, slots - counted), full
