"""Outages of what all repos share: recorded by the first process that meets one or sees its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from mirror.core.errors import EverrefError, Origin
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.jobs.runs import SILENT

FORGOTTEN: Final = timedelta(minutes=10)  # without a check until an outage no longer counts

_BEGAN: Final = (
    "The vault does not answer, so nothing is backed up: pushes wait, and are backed up when it is back."
)
_ENDED: Final = "The vault answers again; what was pushed meanwhile is being backed up."


@dataclass(frozen=True, slots=True)
class Outage:
    """The vault or a machine's disk, while it is away."""

    id: int
    origin: Origin
    place: str  # the machine whose disk it is; empty for the vault
    kind: str  # the class of the error that was met
    message: str
    since: datetime


@translating
async def begin(db: Db, place: str, error: EverrefError, at: datetime) -> bool:
    """Record that an outage begins now. False: another process has already recorded it.

    Whoever is first tells every team of the vault; a disk is for who runs Everref. One transaction.
    """
    async with transaction(db) as connection:
        row = await connection.fetchrow(
            """
            insert into outage (origin, place, class, message, began_at) values ($1, $2, $3, $4, $5)
            on conflict (origin, place) where ended_at is null do update set asked_at = clock_timestamp()
            returning id, xmax = 0 as first
            """,
            error.origin,
            place,
            error.kind,
            storable(str(error)),
            at,
        )
        if row["first"] and error.origin is Origin.VAULT:
            await _tell(connection, _BEGAN, at, f"outage/{row['id']}")
    return bool(row["first"])


@translating
async def end(db: Db, outage: Outage, at: datetime) -> bool:
    """Record that an outage is over, and close its notices. False: another process has already done so."""
    async with transaction(db) as connection:
        done = await connection.execute(
            "update outage set ended_at = $2 where id = $1 and ended_at is null", outage.id, at
        )
        if done != "UPDATE 1":
            return False
        if outage.origin is Origin.VAULT:
            await connection.execute(
                "update notice set seen_at = $2 where starts_with(told_key, $1) and seen_at is null",
                f"outage/{outage.id}/",
                at,
            )
            await _tell(connection, _ENDED, at, f"outage-end/{outage.id}")
    return True


async def _tell(connection: Db, message: str, at: datetime, key: str) -> None:
    await connection.execute(
        """
        insert into notice (team_id, kind, message, at, told_key)
        select id, 'outage', $1, $2, $3 || '/' || id from team
        on conflict (told_key) do nothing
        """,
        message,
        at,
        key,
    )


@translating
async def ask(db: Db, outage: Outage, every: timedelta) -> bool:
    """Claim the next check of an outage: no other process checks it for this long."""
    done = await db.execute(
        """
        update outage set asked_at = clock_timestamp()
        where id = $1 and ended_at is null and asked_at <= clock_timestamp() - $2::interval
        """,
        outage.id,
        every,
    )
    return done == "UPDATE 1"


@translating
async def now(db: Db) -> Sequence[Outage]:
    """The outages that are still being checked, the longest first."""
    rows = await db.fetch(
        """
        select * from outage where ended_at is null and asked_at > clock_timestamp() - $1::interval
        order by began_at, id
        """,
        FORGOTTEN,
    )
    return [_outage(row) for row in rows]


@translating
async def held_up(db: Db) -> tuple[bool, Outage | None]:
    """Whether no worker is alive, and the longest outage that is still being checked. None: there is none."""
    row = await db.fetchrow(
        """
        select not exists (select from worker where beat_at > clock_timestamp() - $2::interval) as alone,
          longest.*
        from (select) as one left join lateral (
          select * from outage where ended_at is null and asked_at > clock_timestamp() - $1::interval
          order by began_at, id limit 1
        ) as longest on true
        """,
        FORGOTTEN,
        SILENT,
    )
    return row["alone"], None if row["id"] is None else _outage(row)


@translating
async def at(db: Db, place: str) -> Sequence[Outage]:
    """The outages that affect this machine's workers: of the vault and of this machine's disk."""
    rows = await db.fetch(
        "select * from outage where ended_at is null and place in ('', $1) order by id", place
    )
    return [_outage(row) for row in rows]


@translating
async def forget_before(db: Db, moment: datetime) -> None:
    """Forget the outages that ended before this moment. Safe to run twice."""
    await db.execute("delete from outage where ended_at < $1", moment)


def _outage(row: Any) -> Outage:
    return Outage(
        row["id"], Origin(row["origin"]), row["place"], row["class"], row["message"], row["began_at"]
    )
