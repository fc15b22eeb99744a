"""Each day's verification: what the rotation read of a team's repos on a day that is over, signed.

Who calls: the sweep; `rebuild`, for what the vault still has; pages, programs and `everref evidence`.
"""

import math
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from mirror.backup import evidence
from mirror.core.errors import NoSuchObject, NotFound
from mirror.core.formats import layout, statements
from mirror.core.formats.manifest import time_text
from mirror.core.formats.statements import DAILY, NotProven, SigningKey, Statement, Subject
from mirror.services.open import Services
from mirror.store.evidence import daily as rows
from mirror.store.evidence import keys
from mirror.store.evidence.daily import Due, Row
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import readings

SETTLED: Final = timedelta(hours=1)  # after midnight: what a worker read before it is counted by then
_AT_ONCE: Final = 100  # statements in memory at a time


async def due(services: Services) -> None:
    """Sign each day that is over, once for each team, and store what waits. A maintenance task.

    Safe to run twice, also at once: of two statements about one team and day the first is kept. Without
    SECRET_KEYS nothing is signed.
    """
    today = (services.clock() - SETTLED).astimezone(UTC).date()
    while batch := await rows.due(services.db, today, _AT_ONCE):
        key = await evidence.signing_key(services)
        if key is None:
            return
        for one in batch:
            await rows.add(services.db, await _signed(services, one, key))
    await store_waiting(services)


async def _signed(services: Services, one: Due, key: SigningKey) -> Row:
    now = services.clock()
    reading = {
        "day": one.day.isoformat(),
        "bytes": one.bytes,
        "objects": one.objects,
        "problems": one.problems,
    }
    told = {
        "team": {"id": str(one.team_id), "name": one.team},
        "reading": reading,
        "result": "failed" if one.problems else "passed",
        "coverage": _coverage(await readings.coverage(services.db, now, one.team_id), now),
        "by": evidence.program(),
    }
    subject = Subject(
        f"reading of team {one.team_id} on {one.day}", sha256(statements.canonical(reading)).hexdigest()
    )
    body = statements.sign(Statement(DAILY, (subject,), now, told), key)
    where = layout.daily_key(one.team_id, one.day, layout.unique())
    return Row(where, one.team_id, one.day, now, not one.problems, key.id, sha256(body).hexdigest(), body)


def _coverage(found: readings.Coverage, now: datetime) -> dict[str, Any]:
    return asdict(found) | {
        "at": time_text(now),
        "ratio": math.floor(found.ratio * 10_000) / 10_000,  # 1 only where nothing is left out
        "oldest_at": found.oldest_at and time_text(found.oldest_at.astimezone(UTC)),
    }


async def store_waiting(services: Services) -> None:
    """Store waiting statements in the vault.

    Safe to run twice, also at once: a key of the vault is never used for anything else.
    """
    await evidence.store_keys(services)
    while batch := await rows.waiting(services.db, _AT_ONCE):
        await evidence.store(services, batch, rows.stored)


async def of_day(services: Services, team: TeamId, text: str) -> bytes:
    """The statement about a day, such as 2026-03-02. Raises NotFound, the vault's errors, NotProven."""
    day = None
    with suppress(ValueError):
        day = date.fromisoformat(text)
    row = await rows.of_day(services.db, team, day) if day else None
    if row is None:
        raise NotFound("no statement was signed about this day; one is where anything was read again")
    return await evidence.stored(services, row)


async def replay(services: Services) -> int:
    """Record the statements that the vault has, the database has not, and a known key signed.

    Returns how many. Others, and those about teams that are not known, are left alone, in the vault. Safe
    to run twice.
    """
    here, added = await rows.known(services.db), 0
    trusted = {key.id: key for key in await keys.every(services.db)}
    async for stat in services.vault.list(layout.EVIDENCE_DAYS):
        if stat.key in here or not layout.is_daily(stat.key):
            continue
        try:
            found = await services.vault.get(stat.key, limit=statements.LIMIT)
            statement = statements.verify(found, trusted, stat.key)
            row = _row(stat.key, statement, statements.read(found, stat.key)[1][0], found)
        except (NotProven, NoSuchObject) as error:
            services.progress.note(f"left out: {error}")
            continue
        added += await rows.add(services.db, row)
    return added


def _row(key: str, statement: Statement, key_id: str, found: bytes) -> Row:
    """What the database had of a statement. Raises NotProven if it is about something else."""
    fields = statement.fields
    try:
        team = TeamId(UUID(fields.inner("team").text("id")))
        day = date.fromisoformat(fields.inner("reading").text("day"))
    except ValueError:
        raise NotProven(f"{key}: it names no team or no day") from None
    if statement.kind != DAILY or not key.startswith(layout.daily_prefix(team, day)):
        raise NotProven(f"{key}: it is about another day")
    passed = fields.text("result") == "passed"
    return Row(key, team, day, statement.at, passed, key_id, sha256(found).hexdigest())
