"""Requests that create something, by the key of their sender: sent again, they are answered the same."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from mirror.core.keyring import Keyring
from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, storable, translating

REMEMBERED: Final = timedelta(hours=24)  # for which an answer is kept
AT_WORK: Final = timedelta(minutes=5)  # after which who was at work is taken for dead


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """A request of this key that was here before."""

    same: bool  # it asked for the same
    status: int | None  # of its answer; None: it is still at work
    sealed: bytes | None = field(repr=False)  # the answer's body, which may hold a token


@translating
async def begin(db: Db, person_id: PersonId, key: str, request: str, now: datetime) -> KnownRequest | None:
    """Begin with a request, known by its SHA-256. None: it is the first of this key, and is to be served.

    The key of one that died at its work is free again after a while: what it made then is made once more.
    """
    row = await db.fetchrow(
        """
        insert into idempotency as known (person_id, key, request, created_at) values ($1, $2, $3, $4)
        on conflict (person_id, key) do update
          set request = excluded.request, status = null, sealed = null, created_at = excluded.created_at
          where known.created_at <= $5 or known.status is null and known.created_at <= $6
        returning true
        """,
        person_id,
        storable(key),
        request,
        now,
        now - REMEMBERED,
        now - AT_WORK,
    )
    if row is not None:
        return None
    known = await db.fetchrow(
        "select request, status, sealed from idempotency where person_id = $1 and key = $2",
        person_id,
        storable(key),
    )
    if known is None:  # it failed at this very moment; the next try is served
        return KnownRequest(True, None, None)
    return KnownRequest(known["request"] == request, known["status"], known["sealed"])


@translating
async def answered(db: Db, person_id: PersonId, key: str, status: int, sealed: bytes) -> None:
    """Keep what the request was answered."""
    await db.execute(
        "update idempotency set status = $3, sealed = $4 where person_id = $1 and key = $2",
        person_id,
        storable(key),
        status,
        sealed,
    )


@translating
async def forget(db: Db, person_id: PersonId, key: str) -> None:
    """Nothing was made; the key is free for another try. Safe to run twice."""
    await db.execute(
        "delete from idempotency where person_id = $1 and key = $2 and status is null",
        person_id,
        storable(key),
    )


def seal(keyring: Keyring, person_id: PersonId, key: str, body: bytes) -> bytes:
    """An answer sealed for its row and no other."""
    return keyring.seal(body, _context(person_id, key))


def opened(keyring: Keyring, person_id: PersonId, key: str, sealed: bytes) -> bytes:
    """The answer itself. Raises BadKey."""
    return keyring.open(sealed, _context(person_id, key))


def _context(person_id: PersonId, key: str) -> str:
    return f"idempotency/{person_id}/{key}"
