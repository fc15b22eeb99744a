"""Where every ref pointed at every snapshot, and every move that it made."""

from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from mirror.core.errors import Corrupt
from mirror.core.model import Kind, RefChange, RefName, RepoId, Target
from mirror.core.rules.history.pushes import Lost
from mirror.store.database import Db, query, storable, transaction, translating

_PAGE: Final = 5000  # moves read at a time
_LAST: Final = (1 << 31) - 1  # the greatest int: before every other, newest first


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the ref history."""

    snapshot: int  # the one that has it
    taken_at: datetime
    change: RefChange
    moment: int = 0  # the number of the moment within it that this led to; 0: the snapshot itself

    @property
    def label(self) -> str:
        """What people call the moment that it led to."""
        return f"#{self.snapshot}.{self.moment}" if self.moment else f"#{self.snapshot}"

    @property
    def at(self) -> datetime:
        """When it happened, as well as we know."""
        return self.change.at or self.taken_at


@translating
async def refs_at(db: Db, repo_id: RepoId, number: int, moment: int = 0) -> dict[RefName, Target]:
    """Every ref, HEAD too, as it was at this snapshot, in name order; empty where there is no such snapshot.

    `moment` is the number of one within the snapshot; 0 means the snapshot itself.
    Costs as much as the repo has names, whatever the length of its history.
    """
    rows = await db.fetch(query("refs_at"), repo_id, number - 1 if moment else number)
    found = {RefName(name): Target(target) for name, target in rows}
    if moment:
        moved = await db.fetch(query("refs_within"), repo_id, number, moment)
        found |= dict(moved)
        found = {name: target for name, target in found.items() if target is not None}
    return dict(sorted(found.items()))


async def changes(
    db: Db,
    repo_id: RepoId,
    *,
    reverse: bool = False,
    since: datetime | None = None,
    kinds: Collection[Kind] = (),
) -> AsyncIterator[Logged]:
    """Every move of every ref, newest first, `reverse` oldest first; read a page at a time.

    `since` leaves out what happened earlier, `kinds` everything but these.
    """
    position = (0, 0) if reverse else (_LAST, _LAST)
    while page := await _page(db, repo_id, position, reverse, since, kinds):
        for row in page:
            yield _logged(row)
        position = (page[-1]["snapshot"], page[-1]["position"])


@translating
async def of_snapshot(db: Db, repo_id: RepoId, number: int) -> list[RefChange]:
    """The moves of one snapshot, in their order."""
    rows = await db.fetch(
        """
        select move.*, ref.name, null::timestamptz as taken_at
        from ref_change move join ref on ref.id = move.ref_id
        where move.repo_id = $1 and snapshot = $2 order by position
        """,
        repo_id,
        number,
    )
    return [_logged(row).change for row in rows]


async def page(
    db: Db,
    repo_id: RepoId,
    *,
    before: tuple[int, int] | None = None,
    since: datetime | None = None,
    kinds: Collection[Kind] = (),
    limit: int,
) -> list[tuple[tuple[int, int], Logged]]:
    """At most `limit` of the `changes`, newest first, after this position; each with its own position."""
    start = (_LAST, _LAST) if before is None else (min(before[0], _LAST), min(before[1], _LAST))
    rows = await _page(db, repo_id, start, False, since, kinds, limit)
    return [((row["snapshot"], row["position"]), _logged(row)) for row in rows]


async def with_lost(
    found: AsyncIterator[Logged], lost: Sequence[Lost], *, reverse: bool = False
) -> AsyncIterator[Logged | Lost]:
    """The moves and the lost pushes in one order: a lost push came before the snapshot that noticed it."""
    ahead = deque(lost)
    async for one in found:
        while ahead and (ahead[0].snapshot <= one.snapshot if reverse else ahead[0].snapshot > one.snapshot):
            yield ahead.popleft()
        yield one
    for left in ahead:
        yield left


@translating
async def _page(
    db: Db,
    repo_id: RepoId,
    position: tuple[int, int],
    reverse: bool,
    since: datetime | None,
    kinds: Collection[Kind],
    limit: int = _PAGE,
) -> list[Any]:
    beyond, order = (">", "asc") if reverse else ("<", "desc")
    async with transaction(db) as connection:
        # Read along the index and stop at the limit, also while no statistics say that this is best.
        await connection.execute("set local enable_bitmapscan = off; set local enable_sort = off")
        rows: list[Any] = await connection.fetch(
            f"""
            select * from (
              select move.*,
                (select taken_at from snapshot where repo_id = $1 and number = move.snapshot) as taken_at,
                (select name from ref where id = move.ref_id) as name
              from ref_change move
              where repo_id = $1 and (snapshot, position) {beyond} ($2, $3)
                and ($5::text[] is null or kind = any($5))
            ) move
            where $4::timestamptz is null or coalesce(pushed_at, taken_at) >= $4
            order by snapshot {order}, position {order}
            limit {limit}
            """,
            repo_id,
            *position,
            since,
            [kind.value for kind in kinds] or None,
        )
    return rows


@translating
async def targets(
    db: Db, repo_id: RepoId, epoch: int, upto: int, without: Collection[int] = ()
) -> set[Target]:
    """Every object id that a ref pointed at in the epoch's kept snapshots up to this one.

    `without` are the numbers of snapshots that are about to be dropped.
    """
    rows = await db.fetch(query("targets"), repo_id, epoch, upto, list(without))
    return {Target(row[0]) for row in rows}


@translating
async def overwritten(
    db: Db, repo_id: RepoId, upto: int, *, since: int = 0, name: RefName | None = None
) -> bool:
    """Whether a move up to this snapshot may have left objects behind, which its refs do not reach.

    `since`: only moves after this snapshot count; `name`: only those of this ref.
    """
    found: bool = await db.fetchval(
        """
        select exists (
          select from ref_change
          where repo_id = $1 and snapshot <= $2 and snapshot > $3
            and old is not null and kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea
            and ($4::bytea is null or ref_id = (select id from ref where ref.repo_id = $1 and name = $4))
        )
        """,
        repo_id,
        upto,
        since,
        name,
    )
    return found


def _logged(row: Any) -> Logged:
    name, by, at = RefName(row["name"]), row["pushed_by"], row["pushed_at"]
    change = RefChange(name, row["old"], row["new"], Kind(row["kind"]), by, at)
    return Logged(row["snapshot"], row["taken_at"], change, row["moment"] or 0)


async def append(connection: Db, repo_id: RepoId, number: int, moves: Sequence[RefChange]) -> None:
    """Record what the moves of one snapshot did to the refs, within a transaction of this package.

    A ref that moved several times has one stay, at its last target, and every move
    in the log. Raises Corrupt if a move does not start at what is recorded.
    """
    first: dict[RefName, Target | None] = {}
    last: dict[RefName, Target | None] = {}
    for move in moves:
        first.setdefault(move.name, move.old)
        last[move.name] = move.new
    names = list(last)
    created = [name for name in names if first[name] is None]
    if created:
        await connection.execute(query("add_ref_names"), repo_id, created)
    rows = await connection.fetch(query("ref_ids"), repo_id, names)
    ids: dict[RefName, int | None] = {name: row[0] for name, row in zip(names, rows, strict=True)}
    moved = [name for name in names if first[name] != last[name]]
    await _end_stays(connection, number, [(ids[name], old) for name in moved if (old := first[name])])
    started = [(ids[name], new) for name in moved if (new := last[name])]
    try:
        await connection.execute(
            query("add_changes"),
            repo_id,
            number,
            [ids[move.name] for move in moves],
            [move.old for move in moves],
            [move.new for move in moves],
            [move.kind.value for move in moves],
            [None if move.by is None else storable(move.by) for move in moves],
            [move.at for move in moves],
            [ref for ref, _ in started],
            [target for _, target in started],
        )
    except asyncpg.UniqueViolationError:
        raise Corrupt(f"snapshot #{number} creates refs that exist; run everref rebuild") from None


async def put_moves(
    connection: Db, repo_id: RepoId, number: int, moves: Sequence[tuple[RefChange, int]], after: int
) -> None:
    """Replace a snapshot's moves after this position, within a transaction of this package.

    Each has the number of the moment that it led to, 0 where that is the snapshot itself.
    """
    await connection.execute(
        "delete from ref_change where repo_id = $1 and snapshot = $2 and position > $3",
        repo_id,
        number,
        after,
    )
    names = list({move.name for move, _ in moves})
    await connection.execute(query("add_ref_names"), repo_id, names)
    rows = await connection.fetch(query("ref_ids"), repo_id, names)
    ids = {name: row[0] for name, row in zip(names, rows, strict=True)}
    await connection.execute(
        query("put_changes"),
        repo_id,
        number,
        [ids[move.name] for move, _ in moves],
        [move.old for move, _ in moves],
        [move.new for move, _ in moves],
        [move.kind.value for move, _ in moves],
        [None if move.by is None else storable(move.by) for move, _ in moves],
        [move.at for move, _ in moves],
        [moment for _, moment in moves],
        after,
    )


async def _end_stays(connection: Db, number: int, stays: Sequence[tuple[int | None, Target]]) -> None:
    ids, targets = [ref for ref, _ in stays], [target for _, target in stays]
    if await connection.execute(query("end_stays"), number, ids, targets) != f"UPDATE {len(stays)}":
        raise Corrupt(f"snapshot #{number} moves refs from where they were not; run everref rebuild")
