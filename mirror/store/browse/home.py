"""How a team's repos are doing, many at a time: the queries of the home page and of a repo's page."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from mirror.core.model import Repo, RepoId, Snapshot
from mirror.core.rules.health.objective import DEFAULT
from mirror.core.rules.history.pushes import Lost
from mirror.store.backup import reported_updates
from mirror.store.database import Db, query, storable, translating
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.store.people.teams import TeamId
from mirror.store.repos import Failure, State, failure_of, repo
from mirror.store.restore import drills
from mirror.store.restore.drills import Drill
from mirror.store.upkeep import damages
from mirror.store.upkeep.damages import Damage

Order = Literal["trouble", "name", "state", "saved", "size"]

STATES: Final[Sequence[State]] = (
    *("protected", "damaged", "behind", "late", "failing", "never", "paused", "archived"),
)
_SIZE: Final = (
    "(select sum(bytes) from part where part.repo_id = repo.id and part.replaced_at is null) desc nulls last"
)
_SAVED: Final = "(select max(taken_at) from snapshot where snapshot.repo_id = repo.id) desc nulls last"
_WORST: Final = "{damaged,failing,never,late,behind,protected,paused,archived}"
_STATE: Final = f"array_position('{_WORST}'::text[], repo_state(repo, $8)), repo.protected_as_of nulls first"
# What needs somebody, then what was force-pushed ($9), then all others; a push being saved moves nothing.
_TROUBLE: Final = """
  case
    when repo.damaged_at is not null then 0
    when repo.archived_at is not null then 6
    when repo.paused_at is not null then 5
    when repo.failure_class is not null or repo.refused_at is not null then 1
    when is_late(repo, $8) then 2
    when repo.id = any ($9::uuid[]) then 3
    else 4
  end"""
_ORDERS: Final[Mapping[Order, str]] = {
    "trouble": _TROUBLE,
    "name": "repo.name",
    "state": _STATE,
    "saved": _SAVED,
    "size": _SIZE,
}


@dataclass(frozen=True, slots=True)
class Summary:
    """How many repos of a team are in each state."""

    total: int
    states: Mapping[State, int]
    saved_at: datetime | None  # when a snapshot was last taken; None: never
    gap_since: (
        datetime | None
    )  # the oldest moment up to which a repo that is behind is protected; None: none is behind
    gap_of: str | None  # that repo's name
    hooks_waiting: int = 0  # webhooks that their forges do not have yet
    news: str = ""  # it differs whenever a need came or was settled


@dataclass(frozen=True, slots=True)
class RepoOverview:
    """A line of the list: a repo with the state of its backup."""

    id: RepoId
    name: str
    url: str
    state: State
    protected_as_of: datetime | None  # None: never
    behind_since: datetime | None  # the oldest open sync request; None: there is none
    failure: Failure | None  # None: the last run went well, or there was none
    archived_at: datetime | None
    paused_at: datetime | None
    snapshots: int
    first_at: datetime | None  # when the first snapshot was taken; None: never
    saved_at: datetime | None  # when a snapshot was last taken
    refs: int
    bytes: int
    proved_at: datetime | None  # of the last drill; None: never drilled
    problems: int  # that the last drill found
    at_work: bool
    large_files: int = 0  # which Git LFS keeps outside git, so that they are not backed up
    large_bytes: int = 0
    damage: Damage | None = None  # known damage of its backup; None: none
    connection_id: UUID | None = None  # which reads it; None: no connection does
    rpo: timedelta = DEFAULT  # its recovery point objective, its own or its team's
    outside_rpo: bool = False  # more could be lost of it than that
    dropped: int = 0  # of its snapshots: let go by retention, or erased
    kept_before: int = 0  # the last kept snapshot before the latest; 0: there is none


@dataclass(frozen=True, slots=True)
class Day:
    """A day on which a snapshot was taken."""

    day: date  # by UTC
    backups: int
    forced: int  # refs


@dataclass(frozen=True, slots=True)
class HookState:
    """The state of a repo's webhook."""

    forge: str
    state: Literal["given", "registered", "disabled", "missing", "refused"]
    why: str | None  # None: it works, as far as we know
    delivered_at: datetime | None  # the last delivery; None: none yet


@dataclass(frozen=True, slots=True)
class OwnDrill:
    """The newest drill of one moment that signed a statement."""

    name: str  # of the statement
    finished_at: datetime
    seconds: float  # that the restore took
    passed: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """What a repo's page shows beside its history."""

    hook: HookState | None  # None: it has none
    drill: Drill | None  # the newest; None: never drilled
    rto: float | None  # seconds that a restore takes, by the last drills that passed; None: not known
    lost: Sequence[Lost]  # every push that could not be rescued, oldest first
    open_jobs: Sequence[Job]  # that have not ended, oldest first
    own_drill: OwnDrill | None  # of the moment that is shown; None: none proved this one


@translating
async def summary(db: Db, team: TeamId, now: datetime) -> Summary:
    """How many repos the team has in each state."""
    row = await db.fetchrow(query("home_summary"), team, now)
    return Summary(
        row["total"],
        {state: row[state] for state in STATES},
        row["saved_at"],
        row["gap_since"],
        row["gap_of"],
        row["hooks_waiting"],
        row["news"],
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of a team's repos are wanted, and in which order."""

    search: str = ""  # words of the name, in this order
    state: State | None = None
    only: Collection[RepoId] | None = None
    after: str | None = None  # only those whose name comes after this one
    order: Order = "name"
    first: Collection[RepoId] = ()  # in the order `trouble`, those right after what needs somebody


_ALL: Final = Wanted()


@translating
async def page(
    db: Db, team: TeamId, wanted: Wanted = _ALL, limit: int = 50, offset: int = 0, now: datetime | None = None
) -> tuple[list[RepoOverview], int]:
    """A page of the team's repos, and how many match in all. `now` decides which are late; None: none is."""
    rows = await db.fetch(
        _page(wanted.order),
        team,
        _pattern(wanted.search),
        wanted.state,
        None if wanted.only is None else list(wanted.only),
        limit,
        offset,
        None if wanted.after is None else storable(wanted.after),
        now,
        *([list(wanted.first)] if wanted.order == "trouble" else []),
    )
    return [_kept(row) for row in rows], rows[0]["matches"] if rows else 0


@translating
async def named(db: Db, team: TeamId, name: str, now: datetime) -> tuple[Repo, RepoOverview] | None:
    """The team's repo of this name, with the state of its backup."""
    row = await db.fetchrow(_page("name", match="="), team, storable(name), None, None, 1, 0, None, now)
    return None if row is None else (repo(row), _kept(row))


@translating
async def beside(db: Db, repo_id: RepoId, shown: Snapshot | None = None) -> Beside:
    """What a repo's page shows beside its history; `shown`: the moment that it shows."""
    number, moment = (shown.number, shown.moment) if shown else (None, 0)
    row = await db.fetchrow(query("beside"), repo_id, number, moment)
    return Beside(
        hook=None if row["forge"] is None else _hook(row),
        drill=None if row["drill"] is None else drills.drill(row["drill"]),
        rto=row["rto"],
        lost=[reported_updates.lost_push(one) for one in row["lost"]],
        open_jobs=[jobs.from_row(one) for one in row["jobs"]],
        own_drill=_own_drill(row),
    )


def _own_drill(row: Any) -> OwnDrill | None:
    if row["own_key"] is None:
        return None
    name = row["own_key"].rpartition("/")[2]
    return OwnDrill(name, row["own_at"], row["own_seconds"], row["own_passed"])


def _page(order: Order, match: Literal["=", "ilike"] = "ilike") -> str:
    return query("home_page").format(order=_ORDERS[order], match=match)


def _pattern(search: str) -> str | None:
    """The LIKE pattern of names that contain these words in this order."""
    words = storable(search).split()
    if not words:
        return None
    escaped = (word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") for word in words)
    return f"%{'%'.join(escaped)}%"


@translating
async def strips(
    db: Db, ids: Sequence[RepoId], since: datetime, zone: str = "UTC"
) -> dict[RepoId, list[Day]]:
    """The days of a zone since then on which a snapshot of each of these repos was taken."""
    found: dict[RepoId, list[Day]] = {one: [] for one in ids}
    try:
        rows = await db.fetch(query("strips"), list(ids), since, zone)
    except asyncpg.InvalidParameterValueError:  # a zone that this PostgreSQL does not know yet
        rows = await db.fetch(query("strips"), list(ids), since, "UTC")
    for row in rows:
        found[_id(row["repo_id"])].append(Day(row["day"], row["backups"], row["forced"]))
    return found


@translating
async def hook_of(db: Db, repo_id: RepoId) -> HookState | None:
    """The repo's hook. None: it has none."""
    row = await db.fetchrow(
        """
        select forge, state, why, coalesce(delivered_at, (
          select received_at from delivery where hook_id = hook.id order by received_at desc limit 1
        )) as delivered_at
        from hook where repo_id = $1
        """,
        repo_id,
    )
    return None if row is None else _hook(row)


def _hook(row: Any) -> HookState:
    return HookState(row["forge"], row["state"], row["why"], row["delivered_at"])


def _kept(row: Any) -> RepoOverview:
    return RepoOverview(
        id=_id(row["id"]),
        name=row["name"],
        url=row["url"],
        state=row["state"],
        protected_as_of=row["protected_as_of"],
        behind_since=row["behind_since"],
        failure=failure_of(row),
        archived_at=row["archived_at"],
        paused_at=row["paused_at"],
        snapshots=row["snapshots"] or 0,
        first_at=row["first_at"],
        saved_at=row["saved_at"],
        refs=row["refs"],
        bytes=row["bytes"],
        proved_at=row["proved_at"],
        problems=row["problems"] or 0,
        at_work=row["at_work"],
        large_files=row["lfs_files"],
        large_bytes=row["lfs_bytes"],
        damage=damages.damage(row),
        connection_id=None if row["connection_id"] is None else _uuid(row["connection_id"]),
        rpo=row["objective"],
        outside_rpo=bool(row["outside_rpo"]),
        dropped=row["dropped"],
        kept_before=row["kept_before"],
    )


def _id(value: Any) -> RepoId:
    return RepoId(_uuid(value))


def _uuid(value: Any) -> UUID:
    return UUID(bytes=value.bytes)
