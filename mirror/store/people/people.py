"""People who sign in, and their accounts at forges."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.rules.roles import PersonId, Role
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people import teams

Forge = Literal["github", "gitlab"]

FIRST: Final = "Owner"  # the first owner's name until they change it


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can sign in."""

    id: PersonId
    name: str
    email: str | None  # None: they sign in with a forge or a link only
    zone: str | None  # IANA name; None: UTC
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """An account at a forge by which a person signs in."""

    forge: Forge
    host: str  # of the forge's web pages
    account_id: str  # the forge's number for it
    login: str  # as it was when last seen
    seen_at: datetime
    doubted_at: datetime | None = None  # since when it waits to be confirmed; None: it signs them in


IdentityKey = tuple[str, str, str]  # forge, host, the forge's number


@translating
async def add(
    db: Db,
    name: str,
    at: datetime,
    *,
    team_name: str,
    email: str | None = None,
    password_hash: str | None = None,
) -> Person:
    """A new person, with a team of this name or a similar one. Raises Refused: the e-mail is taken."""
    async with transaction(db) as connection:
        person = await _insert(connection, name, at, email, password_hash)
        team = await teams.add_named_like(connection, team_name, at, person.id)
        await teams.add(connection, team.id, person.id, Role.OWNER, at)
    return person


async def _insert(db: Db, name: str, at: datetime, email: str | None, password_hash: str | None) -> Person:
    try:
        row = await db.fetchrow(
            """
            insert into person (name, email, password_hash, created_at) values ($1, $2, $3, $4)
            returning *
            """,
            storable(name),
            email,
            password_hash,
            at,
        )
    except asyncpg.UniqueViolationError:
        raise _taken() from None
    except asyncpg.CheckViolationError:
        raise _unkept() from None
    return person(row)


@translating
async def first_owner(db: Db, at: datetime) -> Person:
    """The longest-standing owner of the command line's team, made where there is none. Safe to run twice."""
    async with transaction(db) as connection:
        team = await teams.default(connection)
        await teams.lock(connection, team)
        if found := await known_first_owner(connection):
            return found
        made = await _insert(connection, FIRST, at, None, None)
        await teams.add(connection, team, made.id, Role.OWNER, at)
        return made


@translating
async def known_first_owner(db: Db) -> Person | None:
    """The longest-standing owner of the command line's team. None: it has no owner yet."""
    return _maybe(
        await db.fetchrow(
            """
            select person.* from member join person on person.id = person_id
            where team_id = $1 and role = 'owner' order by since, person.id limit 1
            """,
            await teams.default(db),
        )
    )


async def lock(db: Db, person_id: PersonId) -> None:
    """Lock the person's row until the transaction ends, so that nobody else adds to what is theirs."""
    await db.execute("select from person where id = $1 for no key update", person_id)


@translating
async def set_invited(db: Db, person_id: PersonId, team_id: teams.TeamId) -> None:
    """Remember which team's invitation made the account."""
    await db.execute("update person set invited_to = $2 where id = $1", person_id, team_id)


@translating
async def invited_to(db: Db, person_id: PersonId) -> teams.TeamId | None:
    """The team whose invitation made the account. None: no invitation did."""
    found = await db.fetchval("select invited_to from person where id = $1", person_id)
    return None if found is None else teams.TeamId(UUID(bytes=found.bytes))


@translating
async def find(db: Db, person_id: PersonId) -> Person | None:
    """The person of this id."""
    return _maybe(await db.fetchrow("select * from person where id = $1", person_id))


@translating
async def by_email(db: Db, email: str) -> Person | None:
    """The person with this e-mail address."""
    return _maybe(await db.fetchrow("select * from person where email = lower($1)", storable(email)))


@translating
async def by_confirmed_email(db: Db, email: str) -> Person | None:
    """The person with this e-mail address, if they opened a link that was mailed there."""
    return _maybe(
        await db.fetchrow(
            "select * from person where email = lower($1) and email_confirmed_at is not null", storable(email)
        )
    )


@translating
async def is_email_confirmed(db: Db, person_id: PersonId) -> bool:
    """Whether the person opened a link that was mailed to their e-mail address."""
    found = await db.fetchval(
        "select email is not null and email_confirmed_at is not null from person where id = $1", person_id
    )
    return bool(found)


@translating
async def password_of(db: Db, email: str) -> tuple[Person, str] | None:
    """The person who signs in with this e-mail address, and their password's hash. None: nobody does."""
    row = await db.fetchrow(
        "select * from person where email = lower($1) and password_hash is not null", storable(email)
    )
    return None if row is None else (person(row), row["password_hash"])


@translating
async def password_hash(db: Db, person_id: PersonId) -> str | None:
    """The hash of this person's password. None: there is none."""
    found: str | None = await db.fetchval("select password_hash from person where id = $1", person_id)
    return found


@translating
async def set_password(db: Db, person_id: PersonId, password_hash: str, old: str | None = None) -> bool:
    """Set the person's password hash; with `old`, only if that is still the present one.

    Raises UsageError where the person has no e-mail address, which a password needs.
    """
    try:
        done = await db.execute(
            """
            update person set password_hash = $2
            where id = $1 and password_hash is not distinct from coalesce($3, password_hash)
            """,
            person_id,
            password_hash,
            old,
        )
    except asyncpg.CheckViolationError:
        raise UsageError("a password needs an e-mail address to sign in with; add one first") from None
    return done == "UPDATE 1"


@translating
async def set_profile(
    db: Db, person_id: PersonId, *, name: str, email: str | None, zone: str | None
) -> Person:
    """Set the person's name, e-mail address and time zone.

    Raises Refused when the address is taken, UsageError when a password needs it, NotFound.
    """
    try:
        row = await db.fetchrow(
            "update person set name = $2, email = $3, zone = $4 where id = $1 returning *",
            person_id,
            storable(name),
            email,
            zone,
        )
    except asyncpg.UniqueViolationError:
        raise _taken() from None
    except asyncpg.CheckViolationError:
        raise _unkept() from None
    if row is None:
        raise NotFound("this person no longer exists")
    return person(row)


@translating
async def set_zone(db: Db, person_id: PersonId, zone: str, *, only_first: bool = False) -> None:
    """Set the person's time zone; with `only_first`, if they have none yet."""
    await db.execute(
        "update person set zone = $2 where id = $1 and (zone is null or not $3)", person_id, zone, only_first
    )


@translating
async def by_identity(db: Db, forge: Forge, host: str, account_id: str) -> Person | None:
    """The person who signs in with this account at a forge, which is known only by its number."""
    return _maybe(
        await db.fetchrow(
            """
            select person.* from identity join person on person.id = person_id
            where forge = $1 and host = $2 and account_id = $3
            """,
            forge,
            storable(host),
            storable(account_id),
        )
    )


@translating
async def link(
    db: Db, person_id: PersonId, forge: Forge, host: str, account_id: str, login: str, at: datetime
) -> bool:
    """Let the person sign in with this account. False: they already could; the login is updated.

    Raises Refused when another person signs in with it: an account is never moved.
    """
    row = await db.fetchrow(
        """
        insert into identity as known (forge, host, account_id, person_id, login, seen_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (forge, host, account_id) do update
          set login = excluded.login, seen_at = greatest(known.seen_at, excluded.seen_at)
          where known.person_id = excluded.person_id
        returning xmax = 0 as fresh
        """,
        forge,
        storable(host),
        storable(account_id),
        person_id,
        storable(login),
        at,
    )
    if row is None:
        raise Refused(another_persons(login, host))
    return bool(row["fresh"])


def another_persons(login: str, host: str) -> str:
    """Why an account cannot be linked to a second person."""
    return f"the account {login} at {host} belongs to another person; sign in with it and unlink it first"


@translating
async def identities(db: Db, person_id: PersonId) -> Sequence[Identity]:
    """The accounts with which the person signs in."""
    rows = await db.fetch(
        """
        select forge, host, account_id, login, seen_at, doubted_at from identity
        where person_id = $1 order by forge, host, login, account_id
        """,
        person_id,
    )
    return [Identity(**row) for row in rows]


@translating
async def is_doubted(db: Db, forge: Forge, host: str, account_id: str) -> bool:
    """Whether this account waits to be confirmed, and signs nobody in meanwhile."""
    found: bool | None = await db.fetchval(
        """
        select doubted_at is not null from identity where forge = $1 and host = $2 and account_id = $3
        """,
        forge,
        storable(host),
        storable(account_id),
    )
    return bool(found)


@translating
async def doubt(db: Db, person_id: PersonId, but: Collection[IdentityKey], at: datetime) -> int:
    """Make the person's accounts, except these, wait to be confirmed; returns how many."""
    keys = [[storable(part) for part in key] for key in but]
    done = await db.execute(
        """
        update identity set doubted_at = $2
        where person_id = $1 and doubted_at is null and not exists (
          select from jsonb_array_elements($3::jsonb) as kept
          where kept = jsonb_build_array(forge, host, account_id)
        )
        """,
        person_id,
        at,
        json.dumps(keys),
    )
    return int(done.split()[1])


@translating
async def confirm(db: Db, person_id: PersonId, key: IdentityKey) -> bool:
    """Confirm that the account is the person's. False: it was not waiting for that."""
    done = await db.execute(
        """
        update identity set doubted_at = null
        where person_id = $1 and forge = $2 and host = $3 and account_id = $4 and doubted_at is not null
        """,
        person_id,
        *(storable(part) for part in key),
    )
    return done == "UPDATE 1"


@translating
async def unlink(db: Db, person_id: PersonId, forge: Forge, host: str, account_id: str) -> None:
    """Unlink the account. Raises NotFound; Refused where it is the person's only way in."""
    async with transaction(db) as connection:
        hashed = await connection.fetchval(
            "select password_hash from person where id = $1 for no key update", person_id
        )
        done = await connection.execute(
            "delete from identity where person_id = $1 and forge = $2 and host = $3 and account_id = $4",
            person_id,
            forge,
            storable(host),
            storable(account_id),
        )
        if done == "DELETE 0":
            raise NotFound("you do not sign in with that account")
        if hashed is None and not await connection.fetchval(
            "select exists (select from identity where person_id = $1 and doubted_at is null)", person_id
        ):
            raise Refused("that is your only way to sign in; link another account or set a password first")


def person(row: Any) -> Person:
    """The person in a row of that table."""
    return Person(
        PersonId(UUID(bytes=row["id"].bytes)), row["name"], row["email"], row["zone"], row["created_at"]
    )


def _maybe(row: Any) -> Person | None:
    return None if row is None else person(row)


def _taken() -> Refused:
    return Refused("there is already an account with this e-mail address; sign in instead")


def _unkept() -> UsageError:
    return UsageError("a name has 1 to 200 bytes, and a password needs an e-mail address")
