"""What git fetched from us, counted for ever."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mirror.store.database import Db, translating

Kind = Literal["clone", "fetch", "archive", "bundle", "bundle-link"]
KINDS: Final[tuple[Kind, ...]] = ("clone", "fetch", "archive", "bundle", "bundle-link")


@dataclass(frozen=True, slots=True)
class Served:
    """How often something was served, and how much that was."""

    number: int
    bytes: int


@translating
async def count(db: Db, kind: Kind, size: int) -> None:
    """Count one answer of so many bytes.

    Its end waits for this, so this waits for no disk: what a crash of the database forgets is a fraction of
    a second's counts. Not for a transaction that others rely on, which would not wait either.
    """
    await db.execute(
        """
        insert into served (kind, number, bytes)
        select $1, 1, $2::bigint where set_config('synchronous_commit', 'off', true) = 'off'
        on conflict (kind) do update set number = served.number + 1, bytes = served.bytes + excluded.bytes
        """,
        kind,
        size,
    )


@translating
async def counted(db: Db) -> Mapping[Kind, Served]:
    """All that was ever served, by kind."""
    found = {row["kind"]: row for row in await db.fetch("select * from served")}
    return {
        kind: Served(found[kind]["number"], int(found[kind]["bytes"])) if kind in found else Served(0, 0)
        for kind in KINDS
    }
