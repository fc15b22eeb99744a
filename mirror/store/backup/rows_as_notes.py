"""The pushes that could not be rescued, and the drills, as notes for the vault, and back from it.

Other modules write the rows; a note is made of those that are in none yet,
in the transaction that marks them.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.core.formats import notes
from mirror.core.formats.manifest import time_text
from mirror.core.formats.notes import Note
from mirror.core.model import RepoId
from mirror.core.refs import shown_as
from mirror.store.backup.notes import add_within
from mirror.store.database import Db, query, storable, transaction, translating

LOST_PUSHES: Final = "lost-pushes"
DRILLS: Final = "drills"
_AT_ONCE: Final = 500  # rows of one note


@translating
async def make(db: Db, repo_id: RepoId | None, at: datetime) -> None:
    """Make notes of rows that are in none yet, of this repo or of all. Safe to run twice, also at once."""
    for table, kind, as_note in (("lost_push", LOST_PUSHES, _lost_push), ("drill", DRILLS, _drill)):
        rows = await db.fetch(
            f"select distinct repo_id from {table} where not noted and ($1::uuid is null or repo_id = $1)",
            repo_id,
        )
        for row in rows:
            while await _make(db, table, kind, as_note, RepoId(UUID(bytes=row["repo_id"].bytes)), at):
                pass


async def _make(
    db: Db, table: str, kind: str, as_note: Callable[[Any], dict[str, object]], repo_id: RepoId, at: datetime
) -> bool:
    """Make one note. False: there is nothing to make it of."""
    async with transaction(db) as connection:
        rows = await connection.fetch(
            f"""
            with chosen as (
              select id from {table} where repo_id = $1 and not noted
              order by id limit $2 for update skip locked
            )
            update {table} set noted = true from chosen where {table}.id = chosen.id returning {table}.*
            """,
            repo_id,
            _AT_ONCE,
        )
        if rows:
            listed = [as_note(row) for row in sorted(rows, key=lambda row: row["id"])]
            await add_within(connection, repo_id, kind, notes.encode(repo_id, kind, {"rows": listed}), at)
    return bool(rows)


def _lost_push(row: Any) -> dict[str, object]:
    return {
        **shown_as("name", row["name"]),
        **({"old": None} if row["old"] is None else shown_as("old", row["old"])),
        **shown_as("new", row["new"]),
        "by": row["pushed_by"],
        "at": time_text(row["pushed_at"]),
        "snapshot": row["snapshot"],
        "noticed_at": time_text(row["noticed_at"]),
        "why": row["why"],
    }


async def read_lost_pushes(connection: Db, repo_id: RepoId, note: Note) -> None:
    """Record the pushes of a note that the database does not know."""
    found = [
        (
            row.name(),
            row.target_or_none("old"),
            row.target("new"),
            None if (by := row.text_or_none("by")) is None else storable(by),
            row.time("at"),
            storable(row.text("why")),
            row.count("snapshot", 1),
            row.time("noticed_at"),
        )
        for row in note.fields.rows("rows")
    ]
    await connection.execute(query("read_lost_pushes"), repo_id, *_columns(found))


def _drill(row: Any) -> dict[str, object]:
    return {
        "snapshot": row["snapshot"],
        "moment": row["moment"],
        "refs": row["refs"],
        "bytes": row["bytes"],
        "seconds": row["seconds"],
        "problems": list(row["problems"]),
        "at": time_text(row["finished_at"]),
    }


async def read_drills(connection: Db, repo_id: RepoId, note: Note) -> None:
    """Record the drills of a note that the database does not know."""
    for row in note.fields.rows("rows"):
        await connection.execute(
            query("read_drill"),
            repo_id,
            row.count("snapshot", 1),
            row.count("refs"),
            row.count("bytes"),
            row.number("seconds"),
            [storable(problem) for problem in row.texts("problems")],
            row.time("at"),
            row.count("moment") if "moment" in row.fields else 0,
        )


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
