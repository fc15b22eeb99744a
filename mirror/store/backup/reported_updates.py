"""What deliveries reported and no sync has answered yet, and the pushes that are lost."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from mirror.core.model import RefName, RepoId
from mirror.core.rules.history.pushes import Answered, Lost
from mirror.core.rules.history.reports import ReportedUpdate
from mirror.store.database import Db, query, storable, transaction, translating

AT_ONCE: Final = 1000  # updates that one sync answers


@translating
async def unanswered(db: Db, repo_id: RepoId) -> list[ReportedUpdate]:
    """The updates that no sync has answered, in the order of their arrival; at most AT_ONCE."""
    return [
        ReportedUpdate(
            (row["delivery_id"], row["position"]),
            RefName(row["name"]),
            row["before"],
            row["after"],
            row["pushed_by"],
            row["pushed_at"],
            forge_time=row["told_at"],
        )
        for row in await db.fetch(query("claims"), repo_id, AT_ONCE)
    ]


@translating
async def compared(db: Db, repo_id: RepoId, updates: Sequence[ReportedUpdate]) -> list[ReportedUpdate]:
    """These updates, each with whether the history has its move, by its time if the forge reports times."""
    if not updates:
        return []
    columns = [[getattr(update, column) for update in updates] for column in ("name", "before", "after")]
    times = [update.at if update.forge_time else None for update in updates]
    known = {row[0] for row in await db.fetch(query("known_moves"), repo_id, *columns, times)}
    return [replace(update, known=place in known) for place, update in enumerate(updates, 1)]


@translating
async def answer(db: Db, repo_id: RepoId, answered: Answered, snapshot: int, at: datetime) -> None:
    """Mark these updates as answered and record what is lost of them, at once. Safe to run twice."""
    async with transaction(db) as connection:
        await answer_within(connection, repo_id, answered, snapshot, at)


async def answer_within(
    connection: Db, repo_id: RepoId, answered: Answered, snapshot: int, at: datetime
) -> None:
    """`answer` for a transaction of this package's own."""
    if not answered.updates:
        return
    rows = await connection.fetch(
        """
        update claim set open = false
        from unnest($1::bigint[], $2::int[]) as given (delivery_id, position)
        where claim.delivery_id = given.delivery_id and claim.position = given.position and open
        returning claim.delivery_id
        """,
        [delivery for delivery, _ in answered.updates],
        [position for _, position in answered.updates],
    )
    if rows and answered.lost:
        await _lose(connection, repo_id, answered.lost, snapshot, at)


async def _lose(connection: Db, repo_id: RepoId, lost: Collection[Lost], snapshot: int, at: datetime) -> None:
    await connection.execute(
        """
        insert into lost_push (repo_id, snapshot, noticed_at, name, old, new, pushed_by, pushed_at, why)
        select $1::uuid, $2::int, $3::timestamptz, given.*
        from unnest($4::bytea[], $5::bytea[], $6::bytea[], $7::text[], $8::timestamptz[], $9::text[]) as given
        """,
        repo_id,
        snapshot,
        at,
        [one.name for one in lost],
        [one.old for one in lost],
        [one.new for one in lost],
        [None if one.by is None else storable(one.by) for one in lost],
        [one.at for one in lost],
        [storable(one.why) for one in lost],
    )


@translating
async def lost(db: Db, repo_id: RepoId) -> list[Lost]:
    """Every push that could not be rescued, oldest first."""
    rows = await db.fetch("select * from lost_push where repo_id = $1 order by snapshot, id", repo_id)
    return [lost_push(row) for row in rows]


def lost_push(row: Any) -> Lost:
    """A push that could not be rescued, out of a row of that table."""
    return Lost(
        RefName(row["name"]),
        row["old"],
        row["new"],
        row["pushed_by"],
        row["pushed_at"],
        row["why"],
        row["snapshot"],
    )
