"""Everything that is sealed with SECRET_KEYS, in every table, for upkeep/reencrypt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Column:
    """A column of sealed texts."""

    table: str
    id: str  # the column, or what is made of several, that names the row
    column: str
    context: str  # for what a text in it is sealed, with {} for the row


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A sealed text in its row."""

    row: str
    text: bytes = field(repr=False)


PLACES: Final[Sequence[Column]] = (
    Column("credential", "repo_id", "sealed", "credential/{}"),
    Column("hook", "id", "sealed", "hook/{}"),
    Column("hook", "id", "old_sealed", "hook/{}"),
    Column("connection", "id", "sealed_access", "connection/{}/access"),
    Column("connection", "id", "sealed_refresh", "connection/{}/refresh"),
    Column("ssh_key", "team_id", "sealed", "ssh_key/{}"),
    Column("channel", "id", "sealed", "channel/{}"),
    Column("evidence_key", "id", "sealed", "evidence_key/{}"),
    Column("mirror", "id", "sealed", "mirror/{}"),
    Column("ping", "id", "sealed", "ping/{}"),
    Column("team_key", "id", "sealed", "team_key/{}"),
    Column("job", "id", "sealed", "job/{}"),
    Column("idempotency", "(person_id::text || '/' || key)", "sealed", "idempotency/{}"),
)


@translating
async def others(db: Db, place: Column, mark: bytes, after: str, limit: int) -> Sequence[SealedValue]:
    """The sealed texts that do not begin with this mark, in the order of their rows, after this one."""
    rows = await db.fetch(
        f"""
        select {place.id}::text collate "C" as row, {place.column} as text from {place.table}
        where substring({place.column} from 1 for $1) <> $2 and {place.id}::text collate "C" > $3
        order by 1 limit $4
        """,
        len(mark),
        mark,
        after,
        limit,
    )
    return [SealedValue(row["row"], row["text"]) for row in rows]


@translating
async def replace(db: Db, place: Column, old: SealedValue, text: bytes) -> bool:
    """Replace a sealed text if it is still the one that was read. False: it is not; nothing is changed."""
    done = await db.execute(
        f"update {place.table} set {place.column} = $3 where {place.id}::text = $1 and {place.column} = $2",
        old.row,
        old.text,
        text,
    )
    return done != "UPDATE 0"


@translating
async def marks(db: Db, length: int) -> dict[bytes, int]:
    """The marks (this many first bytes) of all sealed texts, and how many texts have each."""
    every = " union all ".join(f"select {place.column} as text from {place.table}" for place in PLACES)
    rows = await db.fetch(
        f"""
        select substring(text from 1 for $1) as mark, count(*) as count from ({every}) as every
        where text is not null group by 1
        """,
        length,
    )
    return {row["mark"]: row["count"] for row in rows}
