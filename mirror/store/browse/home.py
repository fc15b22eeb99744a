"""How a team's repos are doing, many at a time: the queries of the home page and of a repo's page."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal
from uuid import UUID

from mirror.core.model import RefName, Repo, RepoId
from mirror.core.rules.pushes import Lost
from mirror.store.backup import reported_updates
from mirror.store.database import Db, query, storable, translating
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.store.people.teams import TeamId
from mirror.store.repos import Failure, repo
from mirror.store.restore import drills
from mirror.store.restore.drills import Drill
from mirror.store.upkeep import damages
from mirror.store.upkeep.damages import Damage

State = Literal["protected", "damaged", "behind", "failing", "never", "archived"]
Order = Literal["name", "state", "saved", "size"]

STATES: Final[Sequence[State]] = ("protected", "damaged", "behind", "failing", "never", "archived")
_SIZE: Final = (
    "(select sum(bytes) from part where part.repo_id = {0}.id and part.replaced_at is null) desc nulls last"
)
_SAVED: Final = "(select max(taken_at) from snapshot where snapshot.repo_id = {0}.id) desc nulls last"
_STATE: Final = (
    "array_position(array['damaged', 'failing', 'never', 'behind', 'protected', 'archived'],"
    " repo_state({0})),"
    " {0}.protected_as_of nulls first"
)
_ORDERS: Final[Mapping[Order, str]] = {"name": "{0}.name", "state": _STATE, "saved": _SAVED, "size": _SIZE}


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
    paused: int = 0  # of the protected ones: as of when they were paused
    hooks_waiting: int = 0  # webhooks that their forges do not have yet


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


@dataclass(frozen=True, slots=True)
class Forced:
    """A repo that was force-pushed, with its most important force-push."""

    repo_id: RepoId
    repo: str
    ref: RefName
    snapshot: int  # the first that has it
    by: str | None
    at: datetime
    is_default: bool  # it was the branch that HEAD names
    many: int  # force-pushes in all


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
class Beside:
    """What a repo's page shows beside its history."""

    hook: HookState | None  # None: it has none
    drill: Drill | None  # the newest; None: never drilled
    lost: Sequence[Lost]  # every push that could not be rescued, oldest first
    open_jobs: Sequence[Job]  # that have not ended, oldest first


@dataclass(frozen=True, slots=True)
class Broken:
    """A connection that the forge no longer accepts, or a webhook that it does not deliver."""

    forge: str
    where: str  # the host, or the repo's name
    who: str | None  # the account; None for a hook
    why: str | None
    connection_id: UUID | None = None  # None: it is a webhook


@translating
async def summary(db: Db, team: TeamId) -> Summary:
    """How many repos the team has in each state."""
    row = await db.fetchrow(query("home_summary"), team)
    return Summary(
        row["total"],
        {state: row[state] for state in STATES},
        row["saved_at"],
        row["gap_since"],
        row["gap_of"],
        row["paused"],
        row["hooks_waiting"],
    )


@translating
async def page(
    db: Db,
    team: TeamId,
    *,
    search: str = "",
    state: State | None = None,
    only: Collection[RepoId] | None = None,
    after: str | None = None,
    order: Order = "name",
    limit: int = 50,
    offset: int = 0,
) -> tuple[list[RepoOverview], int]:
    """A page of the team's repos in this order, and how many match in all.

    `after`: only those whose name comes after this one.
    """
    rows = await db.fetch(
        _page(order),
        team,
        _pattern(search),
        state,
        None if only is None else list(only),
        limit,
        offset,
        None if after is None else storable(after),
    )
    return [_kept(row) for row in rows], rows[0]["matches"] if rows else 0


@translating
async def named(db: Db, team: TeamId, name: str) -> tuple[Repo, RepoOverview] | None:
    """The team's repo of this name, with the state of its backup."""
    row = await db.fetchrow(_page("name", match="="), team, storable(name), None, None, 1, 0, None)
    return None if row is None else (repo(row), _kept(row))


@translating
async def beside(db: Db, repo_id: RepoId) -> Beside:
    """What a repo's page shows beside its history."""
    row = await db.fetchrow(query("beside"), repo_id)
    return Beside(
        hook=None if row["forge"] is None else _hook(row),
        drill=None if row["drill"] is None else drills.drill(row["drill"]),
        lost=[reported_updates.lost_push(one) for one in row["lost"]],
        open_jobs=[jobs.from_row(one) for one in row["jobs"]],
    )


def _page(order: Order, match: Literal["=", "ilike"] = "ilike") -> str:
    return query("home_page").format(order=_ORDERS[order].format("repo"), outer=_outer(order), match=match)


def _outer(order: Order) -> str:
    """The same order for the rows that were chosen."""
    if order == "size":
        return "bytes desc"
    if order == "saved":
        return "saved_at desc nulls last"
    return _ORDERS[order].format("chosen").replace("repo_state(chosen)", "chosen.state")


def _pattern(search: str) -> str | None:
    """The LIKE pattern of names that contain these words in this order."""
    words = storable(search).split()
    if not words:
        return None
    escaped = (word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") for word in words)
    return f"%{'%'.join(escaped)}%"


@translating
async def forced_lately(db: Db, team: TeamId, since: datetime) -> list[Forced]:
    """The repos that were force-pushed since then; those whose default branch was comes first."""
    return [
        Forced(
            _id(row["repo_id"]),
            row["repo"],
            RefName(row["ref"]),
            row["snapshot"],
            row["pushed_by"],
            row["at"],
            row["is_default"],
            row["many"],
        )
        for row in await db.fetch(query("forced_lately"), team, since)
    ]


@translating
async def strips(db: Db, ids: Sequence[RepoId], since: datetime) -> dict[RepoId, list[Day]]:
    """The days since then on which a snapshot of each of these repos was taken."""
    found: dict[RepoId, list[Day]] = {one: [] for one in ids}
    for row in await db.fetch(query("strips"), list(ids), since):
        found[_id(row["repo_id"])].append(Day(row["day"], row["backups"], row["forced"]))
    return found


@translating
async def broken_connections(db: Db, team: TeamId) -> list[Broken]:
    """The team's connections whose account must sign in again."""
    rows = await db.fetch(
        """
        select id, forge, host, login, why from connection where team_id = $1 and state = 'reauth'
        order by host, login
        """,
        team,
    )
    return [
        Broken(row["forge"], row["host"], row["login"], row["why"], UUID(bytes=row["id"].bytes))
        for row in rows
    ]


@translating
async def broken_hooks(db: Db, team: TeamId) -> list[Broken]:
    """The team's repos whose webhooks the forge should deliver but does not; not those still being made."""
    rows = await db.fetch(
        """
        select hook.forge, repo.name, hook.why from hook join repo on repo.id = hook.repo_id
        where repo.team_id = $1 and hook.state in ('disabled', 'refused')
          and repo.archived_at is null
        order by repo.name
        """,
        team,
    )
    return [Broken(row["forge"], row["name"], None, row["why"]) for row in rows]


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
    failure = None
    if (
        row["failure_class"] is not None and row["archived_at"] is None
    ):  # an archived repo that is gone has not failed
        failure = Failure(
            row["failure_class"],
            row["failure_message"],
            row["failing_since"],
            row["failed_at"],
            row["retry_at"],
        )
    return RepoOverview(
        id=_id(row["id"]),
        name=row["name"],
        url=row["url"],
        state=row["state"],
        protected_as_of=row["protected_as_of"],
        behind_since=row["behind_since"],
        failure=failure,
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
    )


def _id(value: Any) -> RepoId:
    return RepoId(_uuid(value))


def _uuid(value: Any) -> UUID:
    return UUID(bytes=value.bytes)
