"""The numbered SQL files, applied once each and in order, before a program uses its database."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from mirror.core.errors import OurFault
from mirror.store.database import Db, sql_directory, transaction, translating

_NAME: Final = re.compile(r"([0-9]{3})_[a-z_]+\.sql")
_LOCK: Final = 0x657665727265  # "everre": whoever holds this advisory lock is migrating
_TABLE: Final = """
-- A row is a migration that was applied, with the sum of the file as it was then.
create table if not exists migration (
  number     int         primary key,
  name       text        not null,
  sha256     text        not null,
  applied_at timestamptz not null default now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The sum of the file, hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> tuple[Migration, ...]:
    """Every migration of this version, in order."""
    found = []
    for path in sorted(sql_directory().glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if not match:
            raise OurFault(f"{path.name} is not a valid name of a migration; call it NNN_words.sql")
        found.append(Migration(int(match[1]), path.name, path.read_text(encoding="utf-8")))
    return tuple(found)


@translating
async def migrate(db: Db) -> list[str]:
    """Apply what is missing, each file in a transaction of its own; returns the names of the files applied.

    Two programs that start at once take turns. Safe to run twice. Raises OurFault
    where an applied file was edited since, or the database is of a newer version.
    """
    applied = []
    async with transaction(db) as connection:
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(_TABLE)
    for migration in await _missing(db, migrations()):
        async with transaction(db) as connection:
            await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            if await connection.fetchval("select true from migration where number = $1", migration.number):
                continue  # the other program was quicker
            await connection.execute(migration.text)
            await connection.execute(
                "insert into migration (number, name, sha256) values ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.sha256,
            )
            applied.append(migration.name)
    return applied


@translating
async def pending(db: Db) -> list[str]:
    """The names of the files that `migrate` would apply."""
    known = migrations()
    if await db.fetchval("select to_regclass('migration') is null"):
        return [migration.name for migration in known]
    return [migration.name for migration in await _missing(db, known)]


async def _missing(db: Db, known: tuple[Migration, ...]) -> list[Migration]:
    applied = {row["number"]: row for row in await db.fetch("select number, name, sha256 from migration")}
    newer = applied.keys() - {migration.number for migration in known}
    if newer:
        raise OurFault(
            f"a newer everref has made this database (it has {applied[max(newer)]['name']}); upgrade this one"
        )
    for migration in known:
        row = applied.get(migration.number)
        if row and row["sha256"] != migration.sha256:
            raise OurFault(f"{migration.name} was edited after it was applied; restore it and add another")
    return [migration for migration in known if migration.number not in applied]
