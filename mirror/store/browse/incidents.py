"""The ref changes of all repos of a team: by whom, when and of which kind; and what followed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from mirror.core import refs
from mirror.core.globs import Test, check, is_plain, meant, pattern
from mirror.core.model import Kind, RefChange, RefName, RepoId, Target
from mirror.core.rules.history.rollback import TAKES, Move, Wanted, What, what
from mirror.store.backup.history import Logged
from mirror.store.browse.refs_shown import patterns
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people.teams import TeamId

MOST: Final = 10_000  # changes that are read at once
SLACK: Final = timedelta(minutes=5)  # between the clocks of a host and ours
FEW: Final = 1000  # refs whose moves are read one ref after the other
FOLLOWING: Final = 200  # later moves of one ref that are read

# What each kind is in the rows; the first condition of those that take something away has an index.
_TAKING: Final = (
    "old is not null and kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea"
)
_KINDS: Final[Mapping[What, str]] = {
    "created": "kind = 'created'",
    "pushed": "kind = 'fast-forwarded'",
    "forced": f"({_TAKING} and kind in ('forced', 'moved'))",  # tags, too: what is left is chosen by `what`
    "deleted": f"({_TAKING} and kind = 'deleted')",
    "tag": f"({_TAKING} and kind in ('forced', 'moved'))",
    "default": (
        "ref_id = (select id from ref where ref.repo_id = repo.id and sha256(name) = sha256('HEAD'::bytea))"
    ),
}
_TAKEN: Final = frozenset(TAKES) - {"default"}


@dataclass(frozen=True, slots=True)
class Changed:
    """One ref change of one repo of a team."""

    repo_id: RepoId
    repo: str
    ref_id: int
    position: int  # among the moves of its snapshot
    logged: Logged
    is_dropped: bool = False  # its snapshot is no longer kept

    @property
    def change(self) -> RefChange:
        """What the ref did."""
        return self.logged.change

    @property
    def what(self) -> What:
        """What that is called."""
        return what(self.change)

    @property
    def before(self) -> int:
        """The snapshot that has what was there before it; of a first one, that one."""
        return max(1, self.logged.snapshot - 1)


@dataclass(frozen=True, slots=True)
class Found:
    """The newest ref changes that are meant, newest first."""

    changes: tuple[Changed, ...]
    more: bool  # there are more than MOST, which were not read


async def changes(db: Db, team: TeamId, wanted: Wanted, most: int = MOST) -> Found:
    """The ref changes of a team that are meant, newest first. Raises UsageError for bad globs."""
    check(wanted.repos)
    check(wanted.refs)
    chosen = await _repos(db, team, wanted.repos) if wanted.repos else None
    rows = await _rows(db, team, wanted, chosen, most + 1)
    found = [_changed(row) for row in rows[:most]]
    if wanted.refs:
        names = await refs.meant_by({one.change.name for one in found}, wanted.refs)
        found = [one for one in found if one.change.name in names]
    if wanted.kinds:
        found = [one for one in found if one.what in wanted.kinds]
    return Found(tuple(found), len(rows) > most)


@translating
async def _repos(db: Db, team: TeamId, globs: Sequence[str]) -> list[RepoId]:
    rows = await db.fetch("select id, name from repo where team_id = $1", team)
    tests: list[Test[str]] = [glob.__eq__ if is_plain(glob) else pattern(glob).fullmatch for glob in globs]
    names = await meant([row["name"] for row in rows], tests)
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows if row["name"] in names]


@translating
async def _rows(
    db: Db, team: TeamId, wanted: Wanted, chosen: Sequence[RepoId] | None, most: int
) -> list[Any]:
    """Each repo's window of snapshots is found by their times; within it the moves are read by index."""
    given: list[object] = [team, wanted.since, wanted.until, SLACK, most, wanted.since]

    def bound(value: object) -> str:
        given.append(value)
        return f"${len(given)}"

    of = "" if chosen is None else f" and repo.id = any({bound(list(chosen))}::uuid[])"
    inner = []
    if wanted.actors:
        names = bound([storable(one).lower() for one in wanted.actors])
        by = f"(pushed_by is not null and lower(pushed_by) = any({names}::text[]))"
        inner.append(f"({by} or pushed_by is null)" if wanted.untold else by)
    elif wanted.untold:
        inner.append("pushed_by is null")
    if wanted.kinds:
        inner.append(f"({' or '.join(_KINDS[one] for one in wanted.kinds)})")
        if set(wanted.kinds) <= _TAKEN:
            inner.append(_TAKING)
    if wanted.refs:
        likes = [one for glob in wanted.refs for one in patterns(glob)]
        ids = await _refs(db, team, likes)
        if ids is not None:
            inner.append(f"ref_id = any({bound(ids)}::bigint[])")
        else:
            inner.append(
                "ref_id in (select id from ref where ref.repo_id = repo.id"
                f" and name like any({bound(likes)}::bytea[]))"
            )
    if not inner:
        given[5] = await _newest(db, team, wanted, most)
    narrowed = "".join(f" and {one}" for one in inner)
    along = not wanted.actors and not wanted.refs and not {"created", *_TAKEN} & {*wanted.kinds}
    async with transaction(db) as connection:
        if along:  # read along the index and stop at the limit, also where statistics say otherwise
            await connection.execute("set local enable_bitmapscan = off; set local enable_hashjoin = off")
        rows = await connection.fetch(
            f"""
            select repo.id as repo_id, repo.name as repo, found.*,
              (select name from ref where id = found.ref_id) as name
            from repo
            cross join lateral (
              select (
                select number from snapshot
                where repo_id = repo.id and taken_at >= $6::timestamptz - $4::interval
                order by taken_at, number limit 1
              ) as first, coalesce((
                select number from snapshot
                where repo_id = repo.id and taken_at > $3::timestamptz + $4::interval
                order by taken_at, number limit 1
              ), 2147483647) as last
            ) bounds
            cross join lateral (
              select
                ref_id, snapshot, position, old, new, kind, pushed_by, pushed_at, move.moment, taken_at,
                dropped_at is not null as is_dropped, coalesce(pushed_at, taken_at) as at
              from ref_change move
              join snapshot on snapshot.repo_id = repo.id and snapshot.number = move.snapshot
              where move.repo_id = repo.id and move.snapshot between bounds.first and bounds.last
                and coalesce(pushed_at, taken_at) between $2 and $3{narrowed}
              order by move.snapshot desc, position desc
              limit $5
            ) found
            where repo.team_id = $1{of}
            order by found.at desc, repo.name, found.snapshot desc, found.position desc
            limit $5
            """,
            *given,
        )
    return list(rows)


async def _refs(db: Db, team: TeamId, likes: Sequence[bytes]) -> list[int] | None:
    """The ids of the refs that match a pattern; the moves of few are read by index. None: many."""
    rows = await db.fetch(
        """
        select id from ref where repo_id in (select id from repo where team_id = $1)
          and name like any($2::bytea[]) limit $3
        """,
        *(team, list(likes), FEW + 1),
    )
    return [row["id"] for row in rows] if len(rows) <= FEW else None


async def _newest(db: Db, team: TeamId, wanted: Wanted, most: int) -> datetime:
    """The time since which the team's snapshots have so many changes, if the window has more than that.

    So no more is read of any repo where nothing else narrows what is meant.
    """
    found: datetime | None = await db.fetchval(
        """
        select taken_at from (
          select taken_at, sum(changes_count) over (order by taken_at desc, repo_id, number) as total
          from snapshot
          where repo_id in (select id from repo where team_id = $1) and changes_count > 0
            and taken_at between $2::timestamptz - $4::interval and $3::timestamptz + $4::interval
        ) counted
        where total > $5 order by taken_at desc limit 1
        """,
        *(team, wanted.since, wanted.until, SLACK, most),
    )
    return found or wanted.since


def _changed(row: Any) -> Changed:
    change = RefChange(
        RefName(row["name"]), row["old"], row["new"], Kind(row["kind"]), row["pushed_by"], row["pushed_at"]
    )
    logged = Logged(row["snapshot"], row["taken_at"], change, row["moment"] or 0)
    repo_id = RepoId(UUID(bytes=row["repo_id"].bytes))
    return Changed(repo_id, row["repo"], row["ref_id"], row["position"], logged, row["is_dropped"])


@dataclass(frozen=True, slots=True)
class Followed:
    """A ref since the first of its changes that are meant."""

    first: Changed
    moves: tuple[Move, ...]  # that one and all after it, oldest first
    now: Target | None  # as the newest snapshot has it; None: there is no such ref


@translating
async def following(db: Db, found: Sequence[Changed]) -> list[Followed]:
    """Every ref of these changes since the first of them, by repo and name, with FOLLOWING moves at most."""
    first: dict[int, Changed] = {}
    meant = set()
    for one in found:  # newest first
        first[one.ref_id] = min(first.get(one.ref_id, one), one, key=_place)
        meant.add((one.ref_id, *_place(one)))
    rows = await db.fetch(
        """
        select given.ref_id, move.*, stay.target as now
        from unnest($1::bigint[], $2::int[], $3::int[]) given (ref_id, snapshot, position)
        cross join lateral (
          select snapshot, position, old, new, pushed_by, coalesce(pushed_at, taken_at) as at
          from ref_change join snapshot on snapshot.repo_id = ref_change.repo_id and number = snapshot
          where ref_change.ref_id = given.ref_id
            and (snapshot, position) >= (given.snapshot, given.position)
          order by snapshot, position limit $4
        ) move
        left join ref_stay stay on stay.ref_id = given.ref_id and stay.last_snapshot is null
        """,
        list(first),
        [one.logged.snapshot for one in first.values()],
        [one.position for one in first.values()],
        FOLLOWING,
    )
    moves: dict[int, list[tuple[tuple[int, int], Move]]] = {}
    now: dict[int, Target | None] = {}
    for row in rows:
        ref_id, place = row["ref_id"], (row["snapshot"], row["position"])
        move = Move(row["old"], row["new"], row["pushed_by"], row["at"], (ref_id, *place) in meant)
        moves.setdefault(ref_id, []).append((place, move))
        now[ref_id] = row["now"]
    followed = [
        Followed(one, tuple(move for _, move in sorted(moves[ref_id], key=lambda each: each[0])), now[ref_id])
        for ref_id, one in first.items()
        if ref_id in moves
    ]
    return sorted(followed, key=lambda one: (one.first.repo, one.first.change.name))


def _place(one: Changed) -> tuple[int, int]:
    return one.logged.snapshot, one.position


@translating
async def unkept(db: Db, repo_id: RepoId, targets: Sequence[Target]) -> set[Target]:
    """Of these, what no ref of the repo holds in any snapshot that is still kept.

    Another ref may still reach such an object: that it is gone, only the objects tell.
    """
    rows = await db.fetch(
        """
        select target from unnest($2::bytea[]) given (target)
        where not exists (
          select from ref_change move
          join snapshot on snapshot.repo_id = $1 and number = move.snapshot and dropped_at is null
          where move.repo_id = $1 and move.new = given.target
            and substring(move.new from 1 for 64) = substring(given.target from 1 for 64)
        ) and not exists (
          select from ref_stay stay join ref on ref.id = stay.ref_id and ref.repo_id = $1
          join snapshot on snapshot.repo_id = $1 and dropped_at is null
            and number between stay.first_snapshot and coalesce(stay.last_snapshot, 2147483647)
          where stay.target = given.target
            and substring(stay.target from 1 for 64) = substring(given.target from 1 for 64)
        )
        """,
        repo_id,
        list(targets),
    )
    return {Target(row["target"]) for row in rows}


@translating
async def kept_before(db: Db, repo_id: RepoId, number: int) -> int | None:
    """The newest kept snapshot up to this one, else the first kept one. None: none is kept."""
    found: int | None = await db.fetchval(
        """
        select number from snapshot where repo_id = $1 and dropped_at is null
        order by number > $2, case when number > $2 then number else -number end limit 1
        """,
        repo_id,
        number,
    )
    return found
