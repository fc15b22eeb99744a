"""Which browsers and programs are signed in: each holds a random id, whose SHA-256 is stored here."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from mirror.core.rules.roles import PersonId, Role
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people.idempotency import REMEMBERED
from mirror.store.people.people import Person, person
from mirror.store.people.teams import Membership, team

IDLE: Final = timedelta(hours=12)  # after which a session that nobody used ends
ABSOLUTE: Final = timedelta(days=14)  # after which every session ends
LET_IN: Final = timedelta(hours=4)  # after which a session that an owner's link began ends
_SEEN: Final = timedelta(minutes=1)  # how exactly the time of the last use is known
_AGENT: Final = 200  # characters of the User-Agent that are stored


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in."""

    person: Person
    csrf: str = field(repr=False)  # sent back with every form
    created_at: datetime
    seen_at: datetime  # at most a minute old
    sure_at: datetime  # when the person last proved who they are
    agent: str  # the browser, by its User-Agent
    address: str  # from where
    key: bytes = field(repr=False)  # the SHA-256 of its id
    let_in: bool = False  # an owner's link began it, for a member who forgot their password


@translating
async def start(
    db: Db,
    person_id: PersonId,
    now: datetime,
    agent: str,
    address: str,
    program: bool = False,
    let_in: tuple[PersonId, UUID] | None = None,
) -> tuple[str, Session]:
    """Sign in a browser, or a program, which may be idle. Returns its id, which is not stored, and it.

    `let_in`: the owner whose link did this, and their team; the session lasts while `may_let_in` says so.
    """
    raw = secrets.token_urlsafe(32)
    row = await db.fetchrow(
        """
        with begun as (
          insert into session
            (id_sha256, person_id, csrf, created_at, seen_at, sure_at, agent, address, program,
             let_in_by, let_in_team)
          values ($1, $2, $3, $4, $4, $4, $5, $6, $7, $8, $9) returning *
        )
        select begun.*, person.id, name, email, zone, person.created_at as since
        from begun join person on person.id = person_id
        """,
        _key(raw),
        person_id,
        secrets.token_urlsafe(32),
        now,
        storable(agent)[:_AGENT],
        storable(address)[:_AGENT],
        program,
        *(let_in or (None, None)),
    )
    return raw, _session(row)


_USED: Final = """
    with used as (
      update session set seen_at = greatest(seen_at, $4)
      where id_sha256 = $1 and (seen_at > $2 or program) and created_at > $3 and seen_at <= $5
    )
    select session.*, person.id, name, email, zone, person.created_at as since {more}
    from session join person on person.id = person_id
    where id_sha256 = $1 and (seen_at > $2 or program) and session.created_at > $3
      and (let_in_by is null or session.created_at > $6 and may_let_in(person_id, let_in_team, let_in_by))
"""
_TEAMS: Final = """
    , array(
      select team from member join team on team.id = team_id
      where member.person_id = person.id order by team.name
    ) as teams, array(
      select role from member join team on team.id = team_id
      where member.person_id = person.id order by team.name
    ) as roles
"""


@translating
async def of(db: Db, raw_id: str, now: datetime) -> Session | None:
    """The session of this id, which counts as used now. None: there is none, or it has ended."""
    row = await _used(db, raw_id, now, "")
    return None if row is None else _session(row)


@translating
async def with_teams(db: Db, raw_id: str, now: datetime) -> tuple[Session | None, Sequence[Membership]]:
    """The same with its person's teams, by name: what every page starts with."""
    row = await _used(db, raw_id, now, _TEAMS)
    if row is None:
        return None, ()
    pairs = zip(row["teams"], row["roles"], strict=True)
    return _session(row), [Membership(team(one), Role(role)) for one, role in pairs]


async def _used(db: Db, raw_id: str, now: datetime, more: str) -> Any:
    return await db.fetchrow(
        _USED.format(more=more),
        *(_key(raw_id), now - IDLE, now - ABSOLUTE, now, now - _SEEN, now - LET_IN),
    )


@translating
async def is_there(db: Db, key: bytes) -> bool:
    """Whether the session of this key still exists; asking does not count as its use."""
    found: bool = await db.fetchval(
        """
        select exists (
          select from session where id_sha256 = $1
            and (let_in_by is null or may_let_in(person_id, let_in_team, let_in_by))
        )
        """,
        key,
    )
    return found


@translating
async def hold(db: Db, key: bytes) -> bool:
    """Whether the session of this key exists; if so, it is held until the transaction ends."""
    found = await db.fetchval("select true from session where id_sha256 = $1 for share", key)
    return found is not None


@translating
async def all_of(db: Db, person_id: PersonId, now: datetime | None = None) -> Sequence[Session]:
    """The person's sessions, the one used last first."""
    rows = await db.fetch(
        """
        select session.*, person.id, name, email, zone, person.created_at as since
        from session join person on person.id = person_id
        where person_id = $1
          and ($2::timestamptz is null
               or (seen_at > $2 - $3::interval or program) and session.created_at > $2 - $4::interval)
        order by seen_at desc, id_sha256
        """,
        person_id,
        now,
        IDLE,
        ABSOLUTE,
    )
    return [_session(row) for row in rows]


@translating
async def sure(db: Db, raw_id: str, now: datetime) -> bool:
    """The person has just proved who they are. False: the session is gone."""
    done = await db.execute("update session set sure_at = $2 where id_sha256 = $1", _key(raw_id), now)
    return done == "UPDATE 1"


@translating
async def renew(db: Db, raw_id: str, now: datetime) -> str | None:
    """Give the session another id and token for its forms: the person has just proved who they are.

    Returns the new id; the old one no longer works. None: the session is gone.
    """
    raw = secrets.token_urlsafe(32)
    done = await db.execute(
        "update session set id_sha256 = $2, csrf = $3, sure_at = $4 where id_sha256 = $1",
        _key(raw_id),
        _key(raw),
        secrets.token_urlsafe(32),
        now,
    )
    return raw if done == "UPDATE 1" else None


@translating
async def rotate(db: Db, raw_id: str, now: datetime) -> tuple[str, Session] | None:
    """Give a program's session another id; the old one no longer works. None: it has ended."""
    raw = secrets.token_urlsafe(32)
    row = await db.fetchrow(
        """
        with rotated as (
          update session set id_sha256 = $2, seen_at = greatest(seen_at, $3)
          where id_sha256 = $1 and program and created_at > $4 returning *
        )
        select rotated.*, person.id, name, email, zone, person.created_at as since
        from rotated join person on person.id = person_id
        """,
        _key(raw_id),
        _key(raw),
        now,
        now - ABSOLUTE,
    )
    return None if row is None else (raw, _session(row))


@translating
async def end(db: Db, raw_id: str) -> None:
    """Sign this browser out. Safe to run twice."""
    await db.execute("delete from session where id_sha256 = $1", _key(raw_id))


@translating
async def end_one(db: Db, person_id: PersonId, key: bytes) -> bool:
    """Sign out one of the person's browsers, by its session's key. False: they have no such session."""
    done = await db.execute("delete from session where id_sha256 = $1 and person_id = $2", key, person_id)
    return done == "DELETE 1"


@translating
async def end_all(db: Db, person_id: PersonId, but: str | None = None, keep: Collection[bytes] = ()) -> int:
    """Sign the person out everywhere, except of the session with the id `but` and those with these keys.

    Returns how many sessions ended.
    """
    done = await db.execute(
        """
        delete from session
        where person_id = $1 and id_sha256 is distinct from $2 and id_sha256 <> all($3::bytea[])
        """,
        person_id,
        None if but is None else _key(but),
        list(keep),
    )
    return int(done.split()[1])


@translating
async def sweep(db: Db, now: datetime) -> None:
    """Delete what has expired: sessions, counted tries, stored answers. Safe to run twice."""
    async with transaction(db) as connection:
        await connection.execute(
            """
            delete from session
            where seen_at <= $1 and not program or created_at <= $2
              or let_in_by is not null and created_at <= $3
            """,
            now - IDLE,
            now - ABSOLUTE,
            now - LET_IN,
        )
        await connection.execute("delete from tries where until <= $1", now)
        await connection.execute("delete from idempotency where created_at <= $1", now - REMEMBERED)


def _key(raw: str) -> bytes:
    return hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest()


def _session(row: Any) -> Session:
    who = {"id": row["id"], "name": row["name"], "email": row["email"], "zone": row["zone"]}
    return Session(
        person({**who, "created_at": row["since"]}),
        row["csrf"],
        row["created_at"],
        row["seen_at"],
        row["sure_at"],
        row["agent"],
        row["address"],
        row["id_sha256"],
        row["let_in_by"] is not None,
    )
