"""Requests that create something, by their idempotency key: a repeated request gets the same answer."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from mirror.core.keyring import Keyring
from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, storable, translating

REMEMBERED: Final = timedelta(hours=24)  # for which an answer is kept
AT_WORK: Final = timedelta(minutes=5)  # after which a process that has not answered counts as dead


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """An earlier request with this key."""

    same: bool  # it was the same request
    status: int | None  # of its answer; None: it is still at work
    sealed: bytes | None = field(repr=False)  # the answer's body, which may hold a token


@translating
async def begin(db: Db, person_id: PersonId, key: str, request: str, now: datetime) -> KnownRequest | None:
    """Begin a request, known by its SHA-256. None: it is the first with this key, so serve it.

    If the process died over an earlier one, the key is free again after AT_WORK, and the work is repeated.
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
    """Store the answer to the request."""
    await db.execute(
        "update idempotency set status = $3, sealed = $4 where person_id = $1 and key = $2",
        person_id,
        storable(key),
        status,
        sealed,
    )


@translating
async def forget(db: Db, person_id: PersonId, key: str) -> None:
    """Free the key for another try, as nothing was made. Safe to run twice."""
    await db.execute(
        "delete from idempotency where person_id = $1 and key = $2 and status is null",
        person_id,
        storable(key),
    )


def seal(keyring: Keyring, person_id: PersonId, key: str, body: bytes) -> bytes:
    """An answer, encrypted for its row and no other."""
    return keyring.seal(body, _context(person_id, key))


def opened(keyring: Keyring, person_id: PersonId, key: str, sealed: bytes) -> bytes:
    """The answer itself. Raises BadKey."""
    return keyring.open(sealed, _context(person_id, key))


def _context(person_id: PersonId, key: str) -> str:
    return f"idempotency/{person_id}/{key}"
