"""One-time links that sign somebody in, as `everref up` prints them. Only their SHA-256 is kept."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Used:
    """Whom a link signs in."""

    person_id: PersonId | None  # None: the first owner
    by: tuple[PersonId, UUID] | None = None  # the owner who made it, and their team; None: no owner did


@translating
async def make(
    db: Db,
    person_id: PersonId | None,
    now: datetime,
    ttl: timedelta,
    *,
    made_by: PersonId | None = None,
    team_id: UUID | None = None,
) -> str:
    """A new link for this person (None: the first owner); returns its token, which is not stored.

    `made_by`: an owner of that team, whose link works while `may_let_in` says so; None: whoever runs Everref.
    """
    raw = secrets.token_urlsafe(32)
    await db.execute(
        """
        insert into sign_in_link (id_sha256, person_id, created_at, expires_at, made_by, team_id)
        values ($1, $2, $3, $4, $5, $6)
        """,
        _key(raw),
        person_id,
        now,
        now + ttl,
        made_by,
        team_id,
    )
    if made_by is not None:  # from now on somebody else may act as them: see core/rules/keeping/pending
        await db.execute(
            "update member set admin_since = $2 where person_id = $1 and admin_since < $2", person_id, now
        )
    return raw


@translating
async def may_let_in(db: Db, person_id: PersonId, team_id: UUID, owner: PersonId) -> bool:
    """Whether an owner of this team may make a link for this member: the rule is in sql/066_let_in.sql."""
    found: bool = await db.fetchval("select may_let_in($1, $2, $3)", person_id, team_id, owner)
    return found


@translating
async def use(db: Db, raw: str, now: datetime) -> Used | None:
    """Use the link up. None: it was used, has expired, or never existed."""
    return _used(
        await db.fetchrow(
            """
            update sign_in_link set used_at = $2
            where id_sha256 = $1 and used_at is null and expires_at > $2
              and (made_by is null or may_let_in(person_id, team_id, made_by))
            returning person_id, made_by, team_id
            """,
            _key(raw),
            now,
        )
    )


@translating
async def look(db: Db, raw: str, now: datetime) -> Used | None:
    """Whom the link would sign in, without using it up. None: as for `use`."""
    return _used(
        await db.fetchrow(
            """
            select person_id, made_by, team_id from sign_in_link
            where id_sha256 = $1 and used_at is null and expires_at > $2
              and (made_by is null or may_let_in(person_id, team_id, made_by))
            """,
            _key(raw),
            now,
        )
    )


@translating
async def made_by(db: Db, raw: str) -> tuple[PersonId, UUID] | None:
    """The owner who made the link, and their team, even if it no longer works. None: no owner did."""
    row = await db.fetchrow(
        "select person_id, made_by, team_id from sign_in_link where id_sha256 = $1", _key(raw)
    )
    found = _used(row)
    return None if found is None else found.by


@translating
async def void(db: Db, person_id: PersonId, now: datetime) -> None:
    """End all links made for this person. Safe to run twice."""
    await db.execute(
        "update sign_in_link set used_at = $2 where person_id = $1 and used_at is null", person_id, now
    )


def _key(raw: str) -> bytes:
    return hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest()


def _used(row: Any) -> Used | None:
    if row is None:
        return None
    who, owner = row["person_id"], row["made_by"]
    return Used(
        None if who is None else PersonId(UUID(bytes=who.bytes)),
        None if owner is None else (PersonId(UUID(bytes=owner.bytes)), UUID(bytes=row["team_id"].bytes)),
    )
