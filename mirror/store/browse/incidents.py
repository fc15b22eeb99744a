"""The ref changes of all repos of a team: by whom, when and of which kind; and what followed them."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any, Final
from uuid import UUID

from mirror.core import refs
from mirror.core.globs import Test, check, is_plain, meant, pattern
from mirror.core.model import Kind, RefChange, RefName, RepoId, Target
from mirror.core.rules.history.rollback import TAKES, Move, Strangers, Wanted, What, nearest, what
from mirror.store.backup.history import Logged
from mirror.store.browse.refs_shown import patterns
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people.teams import TeamId

MOST: Final = 10_000  # changes that are read at once
SLACK: Final = timedelta(minutes=5)  # between the clocks of a host and ours
FEW: Final = 20_000  # refs whose moves are read one ref after the other
ACCOUNTS: Final = 12  # that are named, the busiest
CANDIDATES: Final = 1000  # accounts among which one is looked for that is spelt alike
FOLLOWING: Final = 200  # later moves of one ref that are read

# What each kind is in the rows; _TAKING, of those that take something away, is as the index has it.
_TAKING: Final = (
    "old is not null and kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea"
)
_NAME: Final = "(select name from ref where id = ref_id)"
_IS_TAG: Final = f"substring({_NAME} from 1 for 10) = 'refs/tags/'::bytea"
_KINDS: Final[Mapping[What, str]] = {
    "created": "kind = 'created'",
    "pushed": "kind = 'fast-forwarded'",
    "forced": f"(kind = 'forced' or kind = 'moved' and ref_id is distinct from meant.head and not {_IS_TAG})",
    "deleted": "(kind = 'deleted' and ref_id is distinct from meant.head)",
    "tag": f"(kind = 'moved' and {_IS_TAG})",
    "default": "(ref_id = meant.head and kind <> 'created')",
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
    """The newest ref changes that are meant, newest first; and how many there are, MOST at most."""

    changes: tuple[Changed, ...] = ()
    total: int = 0  # of them, with those that were not read
    refs: int = 0  # that they moved
    repos: int = 0
    accounts: tuple[tuple[str | None, int], ...] = ()  # the busiest of them, and how many are theirs
    more: bool = False  # there are more than were counted


async def changes(
    db: Db,
    team: TeamId,
    wanted: Wanted,
    most: int = MOST,
    read: int = MOST,
    named: int = ACCOUNTS,
    *,
    only: Sequence[RepoId] | None = None,
) -> Found:
    """The newest `most` ref changes of a team that are meant, of which the newest `read` are given.

    `named` is how many accounts are; `only`: in these repos, which are among those that are meant.
    Raises UsageError for bad globs.
    """
    check(wanted.repos)
    check(wanted.refs)
    chosen = await _repos(db, team, wanted.repos) if wanted.repos and only is None else only
    rows = await _rows(db, team, wanted, chosen, most, read, named)
    if not rows:
        return Found()
    found = [_changed(row) for row in rows]
    if wanted.refs:
        names = await refs.meant_by({one.change.name for one in found}, wanted.refs)
        found = [one for one in found if one.change.name in names]
    if wanted.kinds:
        found = [one for one in found if one.what in wanted.kinds]
    first = rows[0]
    if len(rows) == first["total"]:  # all were read
        accounts = Counter(one.change.by for one in found).most_common(named)
        ids = {one.ref_id for one in found}
        counts = (len(found), len(ids), len({one.repo_id for one in found}))
        return Found(tuple(found), *counts, tuple(accounts), first["more"])
    accounts = [(name, number) for name, number in json.loads(first["accounts"])]
    counts = (first["total"], first["refs"], first["repos"])
    return Found(tuple(found), *counts, tuple(accounts), first["more"])


@translating
async def _repos(db: Db, team: TeamId, globs: Sequence[str]) -> list[RepoId]:
    rows = await db.fetch("select id, name from repo where team_id = $1", team)
    tests: list[Test[str]] = [glob.__eq__ if is_plain(glob) else pattern(glob).fullmatch for glob in globs]
    names = await meant([row["name"] for row in rows], tests)
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows if row["name"] in names]


@translating
async def _rows(
    db: Db, team: TeamId, wanted: Wanted, chosen: Sequence[RepoId] | None, most: int, read: int, named: int
) -> list[Any]:
    """The newest `read` of the newest `most` moves that are meant, each with the counts of all of these.

    1. Widen the time backwards from its end until it has so many, or is the whole window: each step counts
       by index, repo by repo, and stops as soon as there are enough.
    2. Read the moves of that time, each repo's by index, and sort and count them.
    3. Only of those that are given look up names and snapshots.

    So what is read grows with what is given, neither with the window nor with the history.
    """
    given: list[object] = [team, wanted.since, wanted.until, SLACK, most + 1, named, min(read, most)]

    def bound(value: object) -> str:
        given.append(value)
        return f"${len(given)}"

    repos, more, ref = "repo", "", ""
    if wanted.kinds:
        more += ", (select id from ref where repo_id = repo.id and sha256(name) = sha256('HEAD')) as head"
    if wanted.refs:
        likes = [one for glob in wanted.refs for one in patterns(glob)]
        some = await _refs(db, team, wanted.refs, likes)
        if some is None:
            ref = f" and {_NAME} like any({bound(likes)}::bytea[])"
        else:
            more, ref = f"{more}, ref_ids", " and ref_id = any(meant.ref_ids)"
            repos = f"""
              repo join (
                select repo_id, array_agg(id) as ref_ids from ref
                where id = any({bound(some)}::bigint[]) group by repo_id
              ) named on named.repo_id = repo.id
            """
    of = "" if chosen is None else f" and repo.id = any({bound(list(chosen))}::uuid[])"
    branches = [f"{one}{ref}" for one in _branches(wanted, bound)]
    async with transaction(db) as connection:
        await connection.execute(_ALONG)
        rows = await connection.fetch(
            f"""
            with recursive meant as materialized (
              select repo.id, repo.name as repo{more}, coalesce((
                select number from snapshot
                where repo_id = repo.id and taken_at > $3::timestamptz + $4::interval
                order by taken_at, number limit 1
              ), 2147483647) as last
              from {repos} where repo.team_id = $1{of}
            ), widened (since, number) as (
              select $3::timestamptz, 0::bigint
              union all
              select next.since, case when next.since > $2 then ({_counted(branches)}) end
              from widened cross join lateral (
                select greatest($2, $3 - greatest(
                  interval '6 hours', ($3 - since) * greatest(2, least(32, 1.5 * $5 / greatest(number, 1)))
                )) as since
              ) next
              where widened.since > $2 and number < $5
            ), next as materialized (
              select min(since) as since from widened
            ), found as materialized (
              select meant.id, meant.repo, move.* from next cross join meant {_read(branches)}
              order by at desc, repo, snapshot desc, position desc limit $5
            ), counted as materialized (
              select * from found order by at desc, repo, snapshot desc, position desc limit $5 - 1
            )
            select
              given.id as repo_id, given.repo, ref_id, snapshot, position, old, new, kind, pushed_by,
              pushed_at, moment, taken_at, dropped_at is not null as is_dropped, {_NAME} as name,
              (select count(*) from counted) as total,
              (select count(distinct ref_id) from counted) as refs,
              (select count(distinct id) from counted) as repos,
              (select count(*) from found) >= $5 as more,
              (
                select json_agg(json_build_array(pushed_by, number)) from (
                  select pushed_by, count(*) as number from counted
                  group by 1 order by 2 desc, 1 limit $6
                ) busiest
              ) as accounts
            from (select * from counted limit $7) given
            join snapshot taken on taken.repo_id = given.id and number = snapshot
            order by at desc, repo, snapshot desc, position desc
            """,
            *given,
        )
    return list(rows)


def _branches(wanted: Wanted, bound: Callable[[object], str]) -> list[str]:
    """The conditions of moves that are meant: alternatives, each of which one index answers."""
    who = []
    if wanted.actors:
        names = bound(_lower(wanted.actors))
        who.append(f" and pushed_by is not null and lower(pushed_by) = any({names}::text[])")
    if wanted.untold:
        who.append(" and pushed_by is null")
    if who:  # their indexes narrow more than those of kinds
        kinds = [f" and ({' or '.join(_KINDS[one] for one in wanted.kinds)})"] if wanted.kinds else [""]
        return [f"{one}{kind}" for one in who for kind in kinds]
    if wanted.kinds == ("tag",):
        return [f" and {_KINDS['tag']}"]  # of which there are few
    taken = [_KINDS[one] for one in wanted.kinds if one in _TAKEN]
    branches = [f" and {_KINDS[one]}" for one in wanted.kinds if one not in _TAKEN]
    branches += [f" and {_TAKING} and ({' or '.join(taken)})"] if taken else []
    return branches or [""]


def _lower(names: Sequence[str]) -> list[str]:
    """Account names in lower case, as databases of any locale do it: some know ASCII only."""
    ascii_ = [re.sub("[A-Z]+", lambda found: found[0].lower(), storable(one)) for one in names]
    return list(dict.fromkeys([*ascii_, *(one.lower() for one in ascii_)]))


# Indexes are read in their order and up to a limit, also where statistics say otherwise.
_ALONG: Final = "".join(f"set local enable_{one} = off;" for one in ("bitmapscan", "hashjoin", "mergejoin"))
_FIRST: Final = """
cross join lateral (
  select (
    select number from snapshot
    where repo_id = meant.id and taken_at >= next.since - $4::interval
    order by taken_at, number limit 1
  ) as number
) first
"""
# Moves that are meant, with when they were: `offset 0` has that looked up once for each, and for no other.
_MOVES: Final = """
  select * from (
    select
      ref_id, snapshot, position, old, new, kind, pushed_by, pushed_at, moment,
      coalesce(
        pushed_at, (select taken_at from snapshot where repo_id = meant.id and number = move.snapshot)
      ) as at
    from ref_change move
    where repo_id = meant.id and snapshot between first.number and meant.last{}
  ) timed where at between next.since and $3
"""
_NEWEST_FIRST: Final = " order by snapshot desc, position desc"


def _once(branch: str, order: str = "") -> str:
    """The same with its times looked up once; moves of few refs are found by their own index without that."""
    return branch if "meant.ref_ids" in branch else f"{branch}{order} offset 0"


def _counted(branches: Sequence[str]) -> str:
    """How many moves there are since next.since, $5 at most."""
    moves = " union ".join(f"({_MOVES.format(_once(one))})" for one in branches)
    each = f"select from meant {_FIRST} cross join lateral ({moves}) move"
    return f"select count(*) as number from ({each} limit $5) enough"


def _read(branches: Sequence[str]) -> str:
    """Each repo's newest moves since next.since, $5 at most."""
    moves = " union ".join(
        f"({_MOVES.format(_once(one, _NEWEST_FIRST))}{_NEWEST_FIRST} limit $5)" for one in branches
    )
    return f"{_FIRST} cross join lateral ({moves}) move"


async def _refs(db: Db, team: TeamId, globs: Sequence[str], likes: Sequence[bytes]) -> list[int] | None:
    """The ids of the refs that the globs mean; the moves of few are read by index. None: many."""
    rows = await db.fetch(
        """
        select id, name from ref where repo_id in (select id from repo where team_id = $1)
          and name like any($2::bytea[]) limit $3
        """,
        *(team, list(likes), FEW + 1),
    )
    if len(rows) > FEW:
        return None
    names = await refs.meant_by({RefName(row["name"]) for row in rows}, globs)
    return [row["id"] for row in rows if row["name"] in names]


@translating
async def unknown(db: Db, team: TeamId, actors: Sequence[str]) -> list[str]:
    """Which of these accounts never pushed to any repo of the team, as far as hosts told."""
    rows = await db.fetch(
        """
        select asked.name from unnest($2::text[]) asked (name) where exists (
          select from repo join ref_change move
            on move.repo_id = repo.id and pushed_by is not null and lower(pushed_by) = asked.name
          where team_id = $1
        )
        """,
        *(team, _lower(actors)),
    )
    known = {row["name"] for row in rows}
    return [one for one in actors if known.isdisjoint(_lower([one]))]


async def strangers(db: Db, team: TeamId, wanted: Wanted) -> Strangers | None:
    """The accounts that are asked for and never pushed, and who did in that time. None: each pushed some day.

    An account that is misspelt must not read like an all-clear. Of a long time, who pushed is told by the
    newest MOST changes.
    """
    names = await unknown(db, team, wanted.actors) if wanted.actors else []
    if not names:
        return None
    window = Wanted(wanted.since, wanted.until)
    active = await changes(db, team, window, read=1, named=CANDIDATES)
    told = {name.lower(): (name, number) for name, number in active.accounts if name}
    near = nearest(names, list(told))
    if near and active.more:  # those were of the newest changes only
        found = await changes(db, team, replace(window, actors=tuple(near)), read=1)
        told |= {name.lower(): (name, number) for name, number in found.accounts if name}
    first = [told.pop(name) for name in near]
    return Strangers(tuple(names), (*first, *islice(told.values(), ACCOUNTS - len(first))))


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
