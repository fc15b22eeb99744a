"""What may be said of a repo that is not backed up at the moment: what is saved, and what happens next.

A page in trouble promises nothing that is not so: "safe" only of what is saved and
not known to be damaged, and another attempt only where one is going to be made.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from mirror.core import words

CREDENTIALS: Final = "credentials"  # the class of a failure that only another token ends


@dataclass(frozen=True, slots=True)
class Standing:
    """How a repo's backup stands, as far as words about it depend on that."""

    saved: bool  # at least one snapshot
    damaged: bool = False  # part of it is known to be broken; its own note says so
    failure: str | None = None  # the class of the last run's failure; None: it went well
    retry_at: datetime | None = None  # of the next attempt after a failure; None: there is none
    paused: bool = False
    gone: bool = False  # it is archived: its host no longer has it, or it is an older history


class Backup(Protocol):
    """A repo as the lists of them have it."""

    @property
    def snapshots(self) -> int: ...
    @property
    def damage(self) -> object | None: ...
    @property
    def failure(self) -> Any | None: ...  # with its kind and when it is tried again
    @property
    def paused_at(self) -> datetime | None: ...
    @property
    def archived_at(self) -> datetime | None: ...


def of(repo: Backup) -> Standing:
    """How this repo's backup stands."""
    return Standing(
        saved=repo.snapshots > 0,
        damaged=repo.damage is not None,
        failure=repo.failure.kind if repo.failure else None,
        retry_at=repo.failure.retry_at if repo.failure else None,
        paused=repo.paused_at is not None,
        gone=repo.archived_at is not None,
    )


def told(it: Standing, now: datetime) -> str:
    """What is saved and what comes next, in one or two sentences; empty: neither needs a word."""
    return " ".join(filter(None, (held(it), following(it, now))))


def held(it: Standing) -> str:
    """What there is to restore. Empty: it is known to be damaged, which another note tells."""
    if not it.saved:
        return "Nothing is saved yet."
    return "" if it.damaged else "What was saved is safe."


def following(it: Standing, now: datetime) -> str:
    """What Everref does next by itself, or what it waits for. Empty: it is backed up as usual."""
    if it.gone:
        return "Nothing new is backed up."
    if it.paused:
        return "It is paused: nothing new is backed up until somebody resumes it."
    if it.failure is None:
        return ""
    if it.retry_at is None:
        what = "its token is replaced" if it.failure == CREDENTIALS else "its address or its token is changed"
        return f"Everref does not try again until {what}."
    if it.retry_at <= now:
        return "Everref is about to try again."
    return f"Everref tries again {words.ago(it.retry_at, now)}."
