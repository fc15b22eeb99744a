"""How recent what clones get from Everref is, of all repos of a team: one time and a few numbers."""

from dataclasses import dataclass
from datetime import datetime

from mirror.core.rules.health.causes import repositories
from mirror.core.words import count


@dataclass(frozen=True, slots=True)
class Served:
    """The repos of a team, as whoever clones them meets them."""

    total: int  # that can be cloned
    unsaved: int  # of which nothing is saved yet
    recent: int  # of those in `total`: their last check is not overdue, and went well
    damaged: int  # of those in `total`: a verification or a drill found damage
    recent_as_of: (
        datetime | None
    )  # the oldest time as of which one of `recent` is protected; None: there is none
    oldest_as_of: datetime | None  # likewise of all in `total`

    @property
    def as_of(self) -> datetime | None:
        """The time as of which they are served; the repos in `older` are older. None: nothing is saved.

        While their host is down all of them are overdue in the end: then it is the oldest of all.
        """
        return self.recent_as_of if self.recent else self.oldest_as_of

    @property
    def older(self) -> int:
        """How many of them are older than `as_of`, or may be: paused, gone at their host, or failing."""
        return self.total - self.recent if self.recent else 0


def title(served: Served, why_not: str | None) -> str:
    """Whether clones work, in a few words; without the age, which is a time of its own."""
    if why_not is not None:
        return "Not serving"
    if not served.total:
        return "Nothing can be cloned yet"
    return "Serving"


def about(served: Served) -> str:
    """The numbers, in a sentence; empty where there is nothing to say."""
    if not served.total:
        return ""
    said = f"{repositories(served.total)} can be cloned."
    if served.unsaved:
        said += f" {count(served.unsaved, 'other')} can be cloned once backed up."
    if served.damaged:
        said += f" Damage was found in {count(served.damaged, 'backup')}, which may not be readable in full."
    return said
