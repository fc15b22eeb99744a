"""Numbers of everything together, for who watches the service: a few queries, whatever there is to count."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mirror.store.database import Db, query, translating


@dataclass(frozen=True, slots=True)
class Ages:
    """How long ago the repos of a class were last known to be protected, in seconds."""

    median: float
    most: float  # of 95 in 100
    oldest: float


@dataclass(frozen=True, slots=True)
class Measures:
    """What there is to count. What is of late happened since a moment; the rest is as it is now."""

    ages: Mapping[str, Ages]  # by how we hear of pushes: hooked, scheduled, by-activity
    repos: Mapping[str, int]  # by state
    failing: Mapping[str, int]  # repos, by the class of their last error
    wishes: int  # that wait to be served
    oldest_wish: float  # seconds that the oldest of them has waited
    jobs: Mapping[tuple[str, str], int]  # that have not ended, by kind and state
    oldest_job: float  # seconds that the oldest queued one has waited
    ended: Mapping[tuple[str, str], int]  # of late, by kind and state
    failed: Mapping[tuple[str, str], int]  # of late, by kind and class of the error
    deliveries: Mapping[str, int]  # of late, by kind
    bytes: int  # of the live parts in the vault
    replaced: int  # bytes there that wait to be deleted
    snapshots: int


@translating
async def measures(db: Db, now: datetime, late: timedelta) -> Measures:
    """All of them, `late` being the length of the time that counts as of late."""
    repos = await db.fetch(query("measures_repos"), now)
    jobs = await db.fetch(query("measures_jobs"), now, now - late)
    rest = await db.fetchrow(query("measures_stored"))
    deliveries = await db.fetch(
        "select kind, count(*) as n from delivery where received_at > $1 group by kind", now - late
    )

    def counted(rows: list[Any], what: str, *names: str) -> dict[Any, int]:
        found = {}
        for row in rows:
            if row["what"] == what:
                key = tuple(row[name] for name in names)
                found[key if len(key) > 1 else key[0]] = row["n"]
        return found

    waiting = next(row for row in repos if row["what"] == "wish")
    return Measures(
        ages={
            row["name"]: Ages(row["median"], row["most"], row["oldest"])
            for row in repos
            if row["what"] == "age"
        },
        repos=counted(repos, "state", "name"),
        failing=counted(repos, "failing", "name"),
        wishes=waiting["n"],
        oldest_wish=waiting["oldest"] or 0.0,
        jobs=counted(jobs, "open", "kind", "name"),
        oldest_job=max((row["oldest"] for row in jobs if row["oldest"] is not None), default=0.0),
        ended=counted(jobs, "ended", "kind", "name"),
        failed=counted(jobs, "failed", "kind", "name"),
        deliveries={row["kind"]: row["n"] for row in deliveries},
        bytes=rest["live"],
        replaced=rest["replaced"],
        snapshots=rest["snapshots"],
    )
