"""The moments within snapshots: passed over when the snapshots were taken, reported later."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from mirror.core.errors import Corrupt
from mirror.core.formats.notes import Note
from mirror.core.model import Kind, Reason, RefChange, RefName, RepoId, Snapshot
from mirror.core.rules.history import late_reports
from mirror.core.rules.history.late_reports import Moved, Past, Retelling, Within
from mirror.core.rules.history.reports import ReportedUpdate
from mirror.store.backup import history, snapshots
from mirror.store.database import Db, query, translating

_MOVES: Final = 200  # of each ref that late reports are compared with


@translating
async def past(db: Db, repo_id: RepoId, names: Collection[RefName]) -> dict[RefName, list[Past]]:
    """The latest moves of these refs, oldest first."""
    found: dict[RefName, list[Past]] = {}
    for row in await db.fetch(query("past_moves"), repo_id, sorted(names), _MOVES):
        name = RefName(row["name"])
        found.setdefault(name, []).append(_past(name, row))
    return found


@translating
async def still(db: Db, repo_id: RepoId, updates: Sequence[ReportedUpdate]) -> list[Past]:
    """Between which looks refs moved, by these updates, that both looks found in the same place.

    Each is an unreported move from there to there; its position is 0.
    """
    columns = [[one.name for one in updates], [one.forge_time for one in updates]]
    return [
        Past(
            row["snapshot"],
            0,
            0,
            row["since"],
            row["until"],
            RefName(row["name"]),
            row["target"],
            row["target"],
            None,
            None,
        )
        for row in await db.fetch(query("still_refs"), repo_id, *columns)
    ]


@translating
async def moves_of(db: Db, repo_id: RepoId, number: int) -> list[tuple[Past, Kind]]:
    """Every move of a snapshot, in the order of its moments, then of the names, then of time."""
    rows = await db.fetch(
        """
        select
          ref.name, move.snapshot, coalesce(move.moment, 0) as moment, move.position,
          move.old, move.new, move.kind, move.pushed_by, move.pushed_at,
          snapshot.taken_at as since, snapshot.taken_at as until
        from ref_change move
        join ref on ref.id = move.ref_id
        join snapshot on snapshot.repo_id = $1 and snapshot.number = $2
        where move.repo_id = $1 and move.snapshot = $2
        order by move.position
        """,
        repo_id,
        number,
    )
    return [(_past(RefName(row["name"]), row), Kind(row["kind"])) for row in rows]


def _past(name: RefName, row: Any) -> Past:
    return Past(
        row["snapshot"],
        row["moment"],
        row["position"],
        row["since"],
        row["until"],
        name,
        row["old"],
        row["new"],
        row["pushed_by"],
        row["pushed_at"],
    )


@translating
async def within(db: Db, repo_id: RepoId, number: int) -> list[Within]:
    """The moments within a snapshot, in their order."""
    rows = await db.fetch(
        "select * from moment where repo_id = $1 and snapshot = $2 order by place", repo_id, number
    )
    return [
        Within(row["number"], row["taken_at"], row["head"], row["refs_count"], row["refs_digest"], row["log"])
        for row in rows
    ]


async def get(db: Db, repo_id: RepoId, number: int, moment: int) -> Snapshot | None:
    """A moment within a snapshot, as a snapshot whose objects are in the log up to `reach`."""
    for one in await within(db, repo_id, number):
        if one.number == moment:
            return await _as_snapshot(db, repo_id, number, one)
    return None


async def after(db: Db, repo_id: RepoId, snapshot: Snapshot, at: datetime) -> Snapshot:
    """The last moment at or before this time within the snapshot that follows; else this snapshot."""
    passed = [one for one in await within(db, repo_id, snapshot.number + 1) if one.taken_at <= at]
    if not passed:
        return snapshot
    return await _as_snapshot(db, repo_id, snapshot.number + 1, passed[-1])


async def _as_snapshot(db: Db, repo_id: RepoId, number: int, one: Within) -> Snapshot:
    log = await snapshots.get(db, repo_id, one.log)
    if log is None:
        raise Corrupt(
            f"#{number}.{one.number} needs snapshot #{one.log}, which is not there; run everref rebuild"
        )
    own = log if log.number == number else await snapshots.get(db, repo_id, number)
    if own is None:
        raise Corrupt(f"#{number}.{one.number} is within a snapshot that is not there; run everref rebuild")
    return replace(
        log,
        number=number,
        moment=one.number,
        reach=log.number,
        taken_at=one.taken_at,
        reason=Reason.PUSH,
        head=one.head,
        refs_count=one.refs_count,
        refs_digest=one.refs_digest,
        changes_count=0,
        segment=None,
        bundle=None,
        dropped_at=own.dropped_at,
        dropped_why=own.dropped_why,
    )


async def retell_within(connection: Db, repo_id: RepoId, retelling: Retelling) -> None:
    """Replace what was recorded by a retelling, within a transaction. Safe to run twice."""
    await connection.execute(
        """
        insert into moment (repo_id, snapshot, number, place, taken_at, head, refs_count, refs_digest, log)
        select $1::uuid, $2::int, given.number, place, given.taken_at, head, refs_count, refs_digest, log
        from unnest($3::int[], $4::timestamptz[], $5::bytea[], $6::bigint[], $7::text[], $8::int[])
          with ordinality as given (number, taken_at, head, refs_count, refs_digest, log, place)
        on conflict (repo_id, snapshot, number) do update set place = excluded.place
        """,
        repo_id,
        retelling.snapshot,
        [one.number for one in retelling.moments],
        [one.taken_at for one in retelling.moments],
        [one.head for one in retelling.moments],
        [one.refs_count for one in retelling.moments],
        [one.refs_digest for one in retelling.moments],
        [one.log for one in retelling.moments],
    )
    names = {moved.change.name for moved in retelling.moves}
    recorded = await moves_of(connection, repo_id, retelling.snapshot)
    made = [Moved(_change(one, kind), one.moment) for one, kind in recorded if one.name not in names]
    places = {one.number: place for place, one in enumerate(retelling.moments)} | {0: len(retelling.moments)}
    made = sorted([*made, *retelling.moves], key=lambda moved: (places[moved.moment], moved.change.name))
    before = [Moved(_change(one, kind), one.moment) for one, kind in recorded]
    same = next(
        (place for place, pair in enumerate(zip(made, before, strict=False)) if pair[0] != pair[1]),
        min(len(made), len(before)),
    )
    await history.put_moves(
        connection, repo_id, retelling.snapshot, [(moved.change, moved.moment) for moved in made[same:]], same
    )
    await connection.execute(
        "update snapshot set changes_count = $3 where repo_id = $1 and number = $2",
        repo_id,
        retelling.snapshot,
        len(made),
    )


def _change(move: Past, kind: Kind) -> RefChange:
    return RefChange(move.name, move.old, move.new, kind, move.by, move.at)


async def retell(connection: Db, repo_id: RepoId, note: Note) -> None:
    """Record what a note in the vault says: for backup/notes."""
    await retell_within(connection, repo_id, late_reports.decode(note))
