"""Invitations to become a member of a team."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NewType
from uuid import UUID

from mirror.core.rules.roles import PersonId, Role
from mirror.store.database import Db, storable, translating
from mirror.store.people.teams import Team, TeamId, team

InvitationId = NewType("InvitationId", UUID)

_SELECT: Final = """
select
  invitation.*, team.name as team_name, team.person_id as own, person.name as inviter
from invitation
join team on team.id = team_id
left join person on person.id = invited_by
"""
_OPEN: Final = """
accepted_at is null and withdrawn_at is null and (token_id is null or exists (
  select from api_token where api_token.id = token_id and revoked_at is null
))
"""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link that makes the signed-in person who opens it a member."""

    id: InvitationId
    team: Team
    role: Role
    email: str | None  # of the person it is meant for; None: not given
    invited_by: PersonId | None  # None: they are gone
    inviter: str | None  # their name
    created_at: datetime
    expires_at: datetime


@translating
async def make(
    db: Db,
    team_id: TeamId,
    role: Role,
    email: str | None,
    invited_by: PersonId,
    now: datetime,
    ttl: timedelta,
    token_id: UUID | None = None,
) -> Invitation:
    """Invite somebody to the team; an invitation made by an API token ends with that token."""
    made = await db.fetchval(
        """
        insert into invitation (team_id, role, email, invited_by, created_at, expires_at, token_id)
        values ($1, $2, $3, $4, $5, $6, $7) returning id
        """,
        team_id,
        role,
        None if email is None else storable(email),
        invited_by,
        now,
        now + ttl,
        token_id,
    )
    return _invitation(await db.fetchrow(f"{_SELECT} where invitation.id = $1", made))


@translating
async def open_of(db: Db, team_id: TeamId, now: datetime) -> Sequence[Invitation]:
    """The team's invitations that can still be accepted, the newest first."""
    rows = await db.fetch(
        f"""{_SELECT} where team_id = $1 and expires_at > $2 and {_OPEN}
        order by invitation.created_at desc, invitation.id""",
        team_id,
        now,
    )
    return [_invitation(row) for row in rows]


@translating
async def of_person(db: Db, person_id: PersonId, now: datetime) -> Sequence[Invitation]:
    """The invitations that the person made and that can still be accepted, in any team; the newest first."""
    rows = await db.fetch(
        f"""{_SELECT} where invited_by = $1 and expires_at > $2 and {_OPEN}
        order by invitation.created_at desc, invitation.id""",
        person_id,
        now,
    )
    return [_invitation(row) for row in rows]


@translating
async def withdraw_all(
    db: Db, person_id: PersonId, keep: Collection[InvitationId], now: datetime
) -> Sequence[tuple[TeamId, InvitationId]]:
    """Withdraw the person's invitations except these; returns the team and the id of each."""
    rows = await db.fetch(
        """
        update invitation set withdrawn_at = $3
        where invited_by = $1 and accepted_at is null and withdrawn_at is null and expires_at > $3
          and id <> all($2::uuid[])
        returning team_id, id
        """,
        person_id,
        list(keep),
        now,
    )
    return [
        (TeamId(UUID(bytes=row["team_id"].bytes)), InvitationId(UUID(bytes=row["id"].bytes))) for row in rows
    ]


@translating
async def find(db: Db, invitation_id: InvitationId, now: datetime) -> Invitation | None:
    """The invitation of this id, as long as it can be accepted."""
    row = await db.fetchrow(
        f"{_SELECT} where invitation.id = $1 and expires_at > $2 and {_OPEN}", invitation_id, now
    )
    return None if row is None else _invitation(row)


@translating
async def accept(db: Db, invitation_id: InvitationId, person_id: PersonId, now: datetime) -> bool:
    """Use the invitation up. False: it was used or withdrawn, or has expired."""
    done = await db.execute(
        f"""
        update invitation set accepted_by = $2, accepted_at = $3
        where id = $1 and expires_at > $3 and {_OPEN}
        """,
        invitation_id,
        person_id,
        now,
    )
    return done == "UPDATE 1"


@translating
async def withdraw(db: Db, team_id: TeamId, invitation_id: InvitationId, now: datetime) -> bool:
    """Withdraw the team's invitation. False: it was not open."""
    done = await db.execute(
        f"update invitation set withdrawn_at = $3 where id = $2 and team_id = $1 and {_OPEN}",
        team_id,
        invitation_id,
        now,
    )
    return done == "UPDATE 1"


def _invitation(row: Any) -> Invitation:
    who = row["invited_by"]
    return Invitation(
        InvitationId(UUID(bytes=row["id"].bytes)),
        team({"id": row["team_id"], "name": row["team_name"], "person_id": row["own"]}),
        Role(row["role"]),
        row["email"],
        None if who is None else PersonId(UUID(bytes=who.bytes)),
        row["inviter"],
        row["created_at"],
        row["expires_at"],
    )
