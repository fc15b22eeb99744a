"""Figures for those who monitor the service: a few queries, however much there is to count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mirror.store.database import Db, query, translating
from mirror.store.jobs import runs
from mirror.store.upkeep import outages, readings
from mirror.store.upkeep.readings import Coverage

Time = float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Protected:
    """The times as of which a class's repos are protected."""

    half: Time  # half of them are as of then, or later
    most: Time  # 95 in 100
    all: Time


@dataclass(frozen=True, slots=True)
class TeamMeasures:
    """The figures of one team."""

    repos: Mapping[str, int]  # by state
    bytes: int  # of the live parts in the vault
    protected: Time | None  # all of its repos are as of then, or later; None: none ever was
    outside: int = 0  # repos that are outside their recovery point objectives


@dataclass(frozen=True, slots=True)
class Measures:
    """The present figures."""

    protected: Mapping[str, Protected]  # by how pushes are noticed: hooked, scheduled, by-activity
    last_protected: Time | None  # when a repo was last found to be protected; None: none ever was
    repos: Mapping[str, int]  # by state
    failing: Mapping[str, int]  # repos, by the class of their last error
    outside: int  # repos that are outside their recovery point objectives
    requests: int  # repos that are due to be synced
    oldest_request: Time | None  # since when the oldest of them waits; None: none does
    jobs: Mapping[tuple[str, str], int]  # that have not ended, by kind and state
    oldest_job: Time | None  # since when the oldest queued one waits; None: none does
    bytes: int  # of the live parts in the vault
    replaced: int  # bytes there that wait to be deleted
    snapshots: int
    lost: int  # pushes that are lost for good
    workers: int  # that are alive
    away: frozenset[str]  # of vault and disk, as workers found
    unknown: int  # repos of the vault that the database does not know
    exported: Time | None  # when the state was last exported; None: never
    undrilled: int  # repos that no drill has ever restored
    drilled: Mapping[str, Time]  # when a drill last passed, and failed
    drills_due: int  # repos whose scheduled drill is due
    oldest_drill: Time | None  # the last drill of the repo whose last one is the longest ago; None: none yet
    coverage: Coverage  # of what is stored, by reading it back


@dataclass(frozen=True, slots=True)
class Bucket:
    """How often something happened, of those times that took about as long."""

    number: int
    seconds: float  # that they took together


Alike = tuple[str, str, str, str]  # what happened: job, delivery, push or drill; kind, outcome, class


@dataclass(frozen=True, slots=True)
class Counted:
    """What was ever counted; none of it goes down."""

    bounds: Sequence[float]  # of the buckets, in seconds
    alike: Mapping[Alike, Mapping[float, Bucket]]  # by the bucket's upper bound; -inf: not timed

    def total(self, what: str, **of: str) -> int:
        """How often this happened, of the kind, outcome and class that are given."""
        return sum(bucket.number for each in self._of(what, of) for bucket in each.values())

    def timed(self, what: str, **of: str) -> tuple[list[tuple[float, int]], float]:
        """How often it took no longer than each bound, infinity last; and the seconds of all together."""
        found = self._of(what, of)
        below, seconds, cumulative = 0, 0.0, []
        for bound in (*self.bounds, float("inf")):
            each = [buckets[bound] for buckets in found if bound in buckets]
            below += sum(bucket.number for bucket in each)
            seconds += sum(bucket.seconds for bucket in each)
            cumulative.append((bound, below))
        return cumulative, seconds

    def _of(self, what: str, of: Mapping[str, str]) -> list[Mapping[float, Bucket]]:
        names = ("kind", "outcome", "class_")
        wanted = [(names.index(name) + 1, value) for name, value in of.items()]
        return [
            buckets
            for key, buckets in self.alike.items()
            if key[0] == what and all(key[place] == value for place, value in wanted)
        ]


@translating
async def measures(db: Db, now: datetime) -> Measures:
    """The present figures of the whole installation."""
    repos = await db.fetch(query("measures_repos"), now)
    jobs = await db.fetch(query("measures_jobs"))
    rest = await db.fetchrow(query("measures_stored"), runs.SILENT, outages.FORGOTTEN, now)
    of = {what: [row for row in repos if row["what"] == what] for what in {row["what"] for row in repos}}
    (waiting,), (newest,), (outside,) = of["wish"], of["newest"], of["outside"]
    return Measures(
        protected={
            row["name"]: Protected(row["median"], row["most"], row["oldest"])
            for row in of.get("protected", ())
        },
        last_protected=newest["oldest"],
        repos={row["name"]: row["n"] for row in of.get("state", ())},
        failing={row["name"]: row["n"] for row in of.get("failing", ())},
        outside=outside["n"],
        requests=waiting["n"],
        oldest_request=waiting["oldest"],
        jobs={(row["kind"], row["state"]): row["n"] for row in jobs},
        oldest_job=min((row["oldest"] for row in jobs if row["oldest"] is not None), default=None),
        bytes=rest["live"],
        replaced=rest["replaced"],
        snapshots=rest["snapshots"],
        lost=rest["lost"],
        workers=rest["workers"],
        away=frozenset(rest["away"]),
        unknown=rest["unknown"],
        exported=rest["exported"],
        undrilled=rest["undrilled"],
        drilled={name: rest[name] for name in ("passed", "failed") if rest[name] is not None},
        drills_due=rest["drills_due"],
        oldest_drill=rest["oldest_drill"],
        coverage=await readings.coverage(db, now),
    )


@translating
async def of_teams(db: Db, now: datetime) -> Mapping[str, TeamMeasures]:
    """The same of each team that has repos, by its name."""
    rows: dict[str, list[Any]] = {}
    for row in await db.fetch(query("measures_teams"), now):
        rows.setdefault(row["team"], []).append(row)
    return {
        team: TeamMeasures(
            {row["state"]: row["n"] for row in found},
            sum(row["bytes"] for row in found),
            min((row["oldest"] for row in found if row["oldest"] is not None), default=None),
            sum(row["outside"] for row in found),
        )
        for team, found in rows.items()
    }


@translating
async def counted(db: Db) -> Counted:
    """All that was ever counted."""
    alike: dict[Alike, dict[float, Bucket]] = {}
    for row in await db.fetch(query("counted")):
        key = (row["what"], row["kind"], row["outcome"], row["class"])
        alike.setdefault(key, {})[row["bucket"]] = Bucket(row["number"], row["seconds"])
    return Counted(await db.fetchval("select duration_bounds()"), alike)


@translating
async def add_up(db: Db) -> None:
    """Add up what was counted since the last time, so that it takes no room. Safe to run twice."""
    await db.execute(query("add_up"))
