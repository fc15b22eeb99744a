"""Who owns repos. The command line works for one team."""

from typing import Final, NewType
from uuid import UUID

from mirror.store.database import Db, translating

TeamId = NewType("TeamId", UUID)

DEFAULT: Final = "everref"


@translating
async def default(db: Db) -> TeamId:
    """The team of the command line, made when it is first asked for."""
    found = await db.fetchval("select id from team where name = $1", DEFAULT)
    if found is None:
        await db.execute("insert into team (name) values ($1) on conflict do nothing", DEFAULT)
        found = await db.fetchval("select id from team where name = $1", DEFAULT)
    return TeamId(UUID(bytes=found.bytes))
