"""Who owns repos, and who is a member with which role. The command line works for one team.

People reach anything of a team through `membership`: for everybody else the team does not exist.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NewType
from uuid import UUID

import asyncpg

from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.rules.roles import SCOPES, PersonId, Role
from mirror.store.database import Db, storable, transaction, translating

TeamId = NewType("TeamId", UUID)

DEFAULT: Final = "everref"
_NEAR: Final = 9  # numbered names that are tried before a random one


@dataclass(frozen=True, slots=True)
class Team:
    """An owner of repos."""

    id: TeamId
    name: str
    person_id: PersonId | None = None  # the person whose own team it is; None: it is nobody's own


@dataclass(frozen=True, slots=True)
class Membership:
    """A person's place in a team."""

    team: Team
    role: Role


@dataclass(frozen=True, slots=True)
class Member:
    """One of a team's people."""

    person_id: PersonId
    name: str
    email: str | None
    role: Role
    since: datetime
    email_confirmed: bool = False  # they opened a link that was mailed there


@translating
async def default(db: Db) -> TeamId:
    """The team of the command line, made when it is first asked for."""
    found = await db.fetchval("select id from team where name = $1", DEFAULT)
    if found is None:
        await db.execute("insert into team (name) values ($1) on conflict do nothing", DEFAULT)
        found = await db.fetchval("select id from team where name = $1", DEFAULT)
    return TeamId(UUID(bytes=found.bytes))


@translating
async def of_ids(db: Db, ids: Collection[TeamId]) -> list[Team]:
    """These teams, by name."""
    rows = await db.fetch("select * from team where id = any($1::uuid[]) order by name", list(ids))
    return [team(row) for row in rows]


@translating
async def recover(db: Db, team_id: TeamId, name: str, at: datetime) -> TeamId:
    """The team of this id, made with this name, or one near it, where there is none.

    The command line's team is known by its name: where there is one, it is that.
    """
    if await find(db, team_id):
        return team_id
    if name == DEFAULT and (known := await by_name(db, name)):
        return known.id
    return (await add_named_like(db, name, at, team_id=team_id)).id


@translating
async def add_named_like(
    db: Db, name: str, at: datetime, own: PersonId | None = None, *, team_id: TeamId | None = None
) -> Team:
    """A new team of this name, or of a similar one that is free; `own`: the person whose own team it is."""
    for number in range(1, _NEAR + 1):
        made = await _add(db, name if number == 1 else f"{name}-{number}", at, own, team_id)
        if made is not None:
            return made
    made = await _add(db, f"{name}-{secrets.token_hex(4)}", at, own, team_id)
    assert made is not None  # 32 random bits behind a name of one's own
    return made


@translating
async def add_named(db: Db, name: str, at: datetime) -> Team:
    """A new team of this name. Raises UsageError when it is taken."""
    made = await _add(db, name, at, None)
    if made is None:
        raise _taken(name)
    return made


async def _add(
    db: Db, name: str, at: datetime, own: PersonId | None, team_id: TeamId | None = None
) -> Team | None:
    row = await db.fetchrow(
        """
        insert into team (name, person_id, created_at, id)
        values ($1, $2, $3, coalesce($4, gen_random_uuid()))
        on conflict (name) do nothing returning *
        """,
        storable(name),
        own,
        at,
        team_id,
    )
    return None if row is None else team(row)


@translating
async def by_name(db: Db, name: str) -> Team | None:
    """The team of this name, for the command line, which needs no membership."""
    row = await db.fetchrow("select * from team where name = $1", storable(name))
    return None if row is None else team(row)


@translating
async def find(db: Db, team_id: TeamId) -> Team | None:
    """The team of this id, likewise."""
    row = await db.fetchrow("select * from team where id = $1", team_id)
    return None if row is None else team(row)


@translating
async def names(db: Db, most: int) -> Sequence[str]:
    """The names of the teams, in order; at most `most`."""
    return [row["name"] for row in await db.fetch("select name from team order by name limit $1", most)]


@translating
async def home(db: Db, person_id: PersonId) -> Team | None:
    """The person's own team, else the one they have been in longest. None: they are in none."""
    row = await db.fetchrow(
        """
        select team.* from member join team on team.id = team_id where member.person_id = $1
        order by team.person_id is distinct from $1, since, team.id limit 1
        """,
        person_id,
    )
    return None if row is None else team(row)


@translating
async def memberships(db: Db, person_id: PersonId) -> Sequence[Membership]:
    """The person's teams, by name."""
    rows = await db.fetch(
        """
        select team.*, role from member join team on team.id = team_id
        where member.person_id = $1 order by team.name
        """,
        person_id,
    )
    return [Membership(team(row), Role(row["role"])) for row in rows]


@translating
async def membership(db: Db, person_id: PersonId, team_name: str) -> Membership | None:
    """The person's place in the team of this name. None: there is no such team, or not for them."""
    row = await db.fetchrow(
        """
        select team.*, role from member join team on team.id = team_id
        where member.person_id = $1 and team.name = $2
        """,
        person_id,
        storable(team_name),
    )
    return None if row is None else Membership(team(row), Role(row["role"]))


@translating
async def role_of(db: Db, team_id: TeamId, person_id: PersonId) -> Role | None:
    """The person's role in this team. None: they are not a member."""
    found = await db.fetchval(
        "select role from member where team_id = $1 and person_id = $2", team_id, person_id
    )
    return None if found is None else Role(found)


@translating
async def owned(db: Db, person_id: PersonId) -> int:
    """How many teams the person owns."""
    found: int = await db.fetchval(
        "select count(*) from member where person_id = $1 and role = 'owner'", person_id
    )
    return found


@translating
async def members(db: Db, team_id: TeamId) -> Sequence[Member]:
    """The team's people, by name."""
    rows = await db.fetch(
        """
        select person.id, name, email, role, since, email_confirmed_at
        from member join person on person.id = person_id
        where team_id = $1 order by lower(name), person.id
        """,
        team_id,
    )
    return [
        Member(
            PersonId(UUID(bytes=row["id"].bytes)),
            row["name"],
            row["email"],
            Role(row["role"]),
            row["since"],
            row["email_confirmed_at"] is not None,
        )
        for row in rows
    ]


@translating
async def add(db: Db, team_id: TeamId, person_id: PersonId, role: Role, at: datetime) -> bool:
    """Make the person a member. False: they are one already, and keep their role."""
    done = await db.execute(
        """
        insert into member (team_id, person_id, role, since, admin_since)
        values ($1, $2, $3::role, $4, case when $3::role in ('admin', 'owner') then $4::timestamptz end)
        on conflict (team_id, person_id) do nothing
        """,
        team_id,
        person_id,
        role,
        at,
    )
    return done == "INSERT 0 1"


@translating
async def set_role(db: Db, team_id: TeamId, person_id: PersonId, role: Role, at: datetime) -> None:
    """Give a member another role; their API tokens and share links of the team that need a higher one end.

    Raises NotFound; Refused where the team would have no owner.
    """
    async with transaction(db) as connection:
        await lock(connection, team_id)
        await _was_admin(connection, team_id, person_id, at)
        done = await connection.execute(
            """
            update member set role = $3::role, admin_since =
              case when $3::role not in ('admin', 'owner') then null
                   when role in ('admin', 'owner') then coalesce(admin_since, since) else $4::timestamptz end
            where team_id = $1 and person_id = $2
            """,
            team_id,
            person_id,
            role,
            at,
        )
        if done == "UPDATE 0":
            raise NotFound("this person is not a member of the team")
        await connection.execute(
            """
            update api_token set revoked_at = $4
            where team_id = $1 and person_id = $2 and revoked_at is null and not scopes <@ $3::text[]
            """,
            team_id,
            person_id,
            [scope for scope, needed in SCOPES.items() if role.may(needed)],
            at,
        )
        if not role.may(Role.OPERATOR):
            await connection.execute(
                """
                update share set ended_as = 'role', ended_at = $3 from repo
                where repo.id = share.repo_id and repo.team_id = $1 and made_by = $2
                  and ended_as is null and revoked_at is null and used_up_at is null and expires_at > $3
                """,
                team_id,
                person_id,
                at,
            )
        await _owned(connection, team_id)


@translating
async def remove_member(db: Db, team_id: TeamId, person_id: PersonId, at: datetime) -> None:
    """End a membership, and revoke the person's API tokens for the team. Raises as `set_role` does."""
    async with transaction(db) as connection:
        await lock(connection, team_id)
        await _was_admin(connection, team_id, person_id, at)
        done = await connection.execute(
            "delete from member where team_id = $1 and person_id = $2", team_id, person_id
        )
        if done == "DELETE 0":
            raise NotFound("this person is not a member of the team")
        await connection.execute(
            """
            update api_token set revoked_at = $3
            where team_id = $1 and person_id = $2 and revoked_at is null
            """,
            team_id,
            person_id,
            at,
        )
        await _owned(connection, team_id)


@translating
async def rename(db: Db, team_id: TeamId, name: str) -> None:
    """Rename the team. Raises UsageError when the name is taken, NotFound."""
    try:
        done = await db.execute("update team set name = $2 where id = $1", team_id, storable(name))
    except asyncpg.UniqueViolationError:
        raise _taken(name) from None
    if done == "UPDATE 0":
        raise NotFound("there is no such team")


async def lock(db: Db, team_id: TeamId) -> None:
    """Lock the team's members and audit log until the transaction ends."""
    await db.execute("select from team where id = $1 for no key update", team_id)


async def _was_admin(db: Db, team_id: TeamId, person_id: PersonId, at: datetime) -> None:
    """Remember an admin or owner whose role is about to change or end."""
    await db.execute(
        """
        insert into former_admin (team_id, person_id, role, left_at)
        select team_id, person_id, role, $3::timestamptz from member
        where team_id = $1 and person_id = $2 and role in ('admin', 'owner')
        on conflict (team_id, person_id) do update set role = excluded.role, left_at = excluded.left_at
        """,
        team_id,
        person_id,
        at,
    )


async def _owned(db: Db, team_id: TeamId) -> None:
    if not await db.fetchval(
        "select exists (select from member where team_id = $1 and role = 'owner')", team_id
    ):
        raise Refused("a team needs an owner; make somebody else one first")


def team(row: Any) -> Team:
    """The team in a row of that table."""
    own = row["person_id"]
    return Team(
        TeamId(UUID(bytes=row["id"].bytes)),
        row["name"],
        None if own is None else PersonId(UUID(bytes=own.bytes)),
    )


def _taken(name: str) -> UsageError:
    return UsageError(f"the name {name} is taken by another team; choose another")
