"""API tokens: named, for one team, limited by scopes and by their owner's present role there."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NewType
from uuid import UUID

import asyncpg

from mirror.core.errors import NotFound, UsageError
from mirror.core.rules.roles import SCOPES, PersonId, Role, Scope
from mirror.store.database import Db, storable, translating
from mirror.store.people.people import Person, person
from mirror.store.people.teams import Team, TeamId, team

TokenId = NewType("TokenId", UUID)

PREFIX: Final = "everref_"  # by which scanners for leaked secrets recognise it
_SEEN: Final = timedelta(minutes=1)
_SELECT: Final = """
select
  api_token.id, api_token.name, scopes, api_token.created_at, api_token.expires_at, used_at, role,
  person.id as person_id, person.name as person_name, email, zone, person.created_at as person_since,
  team.id as team_id, team.name as team_name, team.person_id as own
from api_token
join member using (team_id, person_id)
join person on person.id = api_token.person_id
join team on team.id = api_token.team_id
where revoked_at is null
"""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token for programs, with its owner's present role."""

    id: TokenId
    person: Person
    team: Team
    role: Role  # of the person in the team, now
    name: str
    scopes: frozenset[Scope]  # only those that the person's present role allows
    created_at: datetime
    expires_at: datetime | None  # None: never
    used_at: datetime | None  # None: never; else at most a minute off


@translating
async def make(
    db: Db,
    person_id: PersonId,
    team_id: TeamId,
    name: str,
    scopes: Collection[Scope],
    expires_at: datetime | None,
    now: datetime,
) -> tuple[str, ApiToken]:
    """A new token for a member of the team, with its text, which is not stored. Raises NotFound."""
    raw = PREFIX + secrets.token_urlsafe(32)
    try:
        made = await db.fetchval(
            """
            insert into api_token (id_sha256, person_id, team_id, name, scopes, created_at, expires_at)
            select $1, person_id, team_id, $4, $5, $6, $7 from member where person_id = $2 and team_id = $3
            returning id
            """,
            _key(raw),
            person_id,
            team_id,
            storable(name),
            sorted(scopes),
            now,
            expires_at,
        )
    except asyncpg.CheckViolationError:
        raise UsageError(
            "a token's name takes 1 to 200 bytes; scopes are read, backup, restore, admin"
        ) from None
    if made is None:
        raise NotFound("this person is not a member of the team")
    return raw, _token(await db.fetchrow(f"{_SELECT} and api_token.id = $1", made))


@translating
async def of(db: Db, raw: str, now: datetime) -> ApiToken | None:
    """The token with this text, which counts as used now. None: there is none, or it has ended."""
    if not raw.startswith(PREFIX):
        return None
    row = await db.fetchrow(
        f"{_SELECT} and id_sha256 = $1 and (expires_at is null or expires_at > $2)", _key(raw), now
    )
    if row is None:
        return None
    if row["used_at"] is None or row["used_at"] <= now - _SEEN:
        await db.execute("update api_token set used_at = greatest(used_at, $2) where id = $1", row["id"], now)
    return _token(row)


@translating
async def all_of(db: Db, team_id: TeamId, person_id: PersonId | None = None) -> Sequence[ApiToken]:
    """The team's tokens that are not revoked, or one person's among them; the newest first."""
    rows = await db.fetch(
        f"""{_SELECT} and api_token.team_id = $1 and api_token.person_id = coalesce($2, api_token.person_id)
        order by api_token.created_at desc, api_token.id""",
        team_id,
        person_id,
    )
    return [_token(row) for row in rows]


@translating
async def of_person(db: Db, person_id: PersonId, now: datetime) -> Sequence[ApiToken]:
    """The person's tokens that work, in any team; the newest first."""
    rows = await db.fetch(
        f"""{_SELECT} and api_token.person_id = $1 and (expires_at is null or expires_at > $2)
        order by api_token.created_at desc, api_token.id""",
        person_id,
        now,
    )
    return [_token(row) for row in rows]


@translating
async def revoke_all(
    db: Db, person_id: PersonId, keep: Collection[TokenId], now: datetime
) -> Sequence[tuple[TeamId, str]]:
    """Revoke the person's tokens except these; returns the team and the name of each."""
    rows = await db.fetch(
        """
        update api_token set revoked_at = $3
        where person_id = $1 and revoked_at is null and id <> all($2::uuid[])
        returning team_id, name
        """,
        person_id,
        list(keep),
        now,
    )
    return [(TeamId(UUID(bytes=row["team_id"].bytes)), row["name"]) for row in rows]


@translating
async def find(db: Db, team_id: TeamId, token_id: TokenId) -> ApiToken | None:
    """The team's token of this id, unless it is revoked."""
    row = await db.fetchrow(f"{_SELECT} and api_token.team_id = $1 and api_token.id = $2", team_id, token_id)
    return None if row is None else _token(row)


@translating
async def is_there(db: Db, token_id: TokenId) -> bool:
    """Whether nobody has revoked the token of this id."""
    found: bool = await db.fetchval(
        "select exists (select from api_token where id = $1 and revoked_at is null)", token_id
    )
    return found


@translating
async def revoke(db: Db, team_id: TeamId, token_id: TokenId, now: datetime) -> bool:
    """Revoke the team's token. False: it did not work any more."""
    done = await db.execute(
        "update api_token set revoked_at = $3 where id = $2 and team_id = $1 and revoked_at is null",
        team_id,
        token_id,
        now,
    )
    return done == "UPDATE 1"


def _key(raw: str) -> bytes:
    return hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest()


def _token(row: Any) -> ApiToken:
    role = Role(row["role"])
    return ApiToken(
        TokenId(UUID(bytes=row["id"].bytes)),
        person(
            {
                "id": row["person_id"],
                "name": row["person_name"],
                "email": row["email"],
                "zone": row["zone"],
                "created_at": row["person_since"],
            }
        ),
        team({"id": row["team_id"], "name": row["team_name"], "person_id": row["own"]}),
        role,
        row["name"],
        frozenset(scope for scope in row["scopes"] if role.may(SCOPES[scope])),
        row["created_at"],
        row["expires_at"],
        row["used_at"],
    )
