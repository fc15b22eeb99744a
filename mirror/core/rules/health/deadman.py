"""The dead man's switch: whether a team, or the installation, is well enough to say so to a monitor outside.

The monitor raises the alarm when it hears nothing: so what is not well is answered with silence, and
so is everything that stops this from being asked at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from mirror.core import words
from mirror.core.rules.health import objective

Style = Literal["healthchecks", "plain"]  # whether the monitor understands ADDRESS/fail

EVERY: Final = timedelta(minutes=5)
NAMED: Final = 3  # repos that a reason names


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision is made of."""

    repos: int  # that are looked after
    outside: int  # of them, outside their recovery point objectives
    names: Sequence[str]  # of the first of those
    workers: bool  # one is alive
    vault: bool  # it answers, as far as the workers know
    drilled_at: datetime | None  # the last drill that passed, or the first snapshot; None: nothing to drill
    read_at: datetime | None  # every stored byte was read or stored since then; None: none is stored
    drill_age: timedelta = timedelta(days=35)  # what those may be old at most
    read_age: timedelta = timedelta(days=35)
    unknown: int = 0  # repos in the vault that the database lost; of the whole installation only
    damaged: int = 0  # repos whose backups are damaged; they do not count as `outside`
    damaged_names: Sequence[str] = ()  # of the first of those


def reasons(facts: Facts, now: datetime) -> list[str]:
    """Why there is no ping, the worst first, each as a clause; empty: it is sent."""
    found = []
    if not facts.workers:
        found.append("no worker is running, so nothing is backed up")
    if not facts.vault:
        found.append("the vault does not answer")
    if facts.unknown:
        found.append(words.not_known(facts.unknown))
    if facts.damaged:
        found.append(f"damaged in the vault: {_named(facts.damaged, facts.damaged_names)}")
    if facts.outside:
        what = "its recovery point objective" if facts.outside == 1 else "their recovery point objectives"
        found.append(f"outside {what}: {_named(facts.outside, facts.names)}")
    if facts.drilled_at is not None and now - facts.drilled_at > facts.drill_age:
        found.append(f"no drill has passed within {objective.said(facts.drill_age)}")
    if facts.read_at is not None and now - facts.read_at > facts.read_age:
        found.append(f"some stored bytes were not read again within {objective.said(facts.read_age)}")
    return found


def _named(many: int, names: Sequence[str]) -> str:
    named = ", ".join(names[:NAMED])
    more = many - min(len(names), NAMED)
    return f"{named} and {more:,} more" if more else named


def line(found: Sequence[str]) -> str:
    """The reasons in one line, as a monitor is told them."""
    return words.sentence("; ".join(found))


def what_to_send(found: Sequence[str], style: Style, told: bool) -> Literal["ping", "fail"] | None:
    """What the monitor is sent now. None: nothing, and its silence tells.

    `told`: it has had the news that something is wrong since that began.
    """
    if not found:
        return "ping"
    return "fail" if style == "healthchecks" and not told else None
