"""Teams and who is in them: making and renaming teams, inviting, changing roles, leaving.

Who calls: the pages and the API. The rules for names and roles are core/rules/roles.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from mirror.core import signed
from mirror.core.errors import NotAllowed, NotFound, OverLimit, Refused
from mirror.core.keyring import Keyring
from mirror.core.quotas import PERSON_TEAMS_ROOMY, ROOMY, Limits
from mirror.core.rules import roles as rules
from mirror.core.rules.roles import PersonId, Role
from mirror.people.acting import HOUR, MADE, By, acting, audit_entry, limit_tries, role_in
from mirror.store.database import Db, transaction, translating
from mirror.store.people import audit, invitations, links, notices, people, quotas, teams
from mirror.store.people.invitations import Invitation, InvitationId
from mirror.store.people.people import Person
from mirror.store.people.teams import Team

INVITED: Final = timedelta(days=7)  # for which an invitation can be accepted
LINK: Final = timedelta(hours=1)  # for which a one-time link works
_UNINVITED: Final = "this invitation has been accepted or withdrawn, or has expired; ask for another"


@translating
async def new_team(db: Db, by: By, name: str, most: int = PERSON_TEAMS_ROOMY) -> Team:
    """A new team of this name, owned by the person who makes it; nobody owns more than `most`.

    Raises UsageError, LimitReached.
    """
    rules.check_team_name(name)
    await limit_tries(db, f"team by {by.person.id}", MADE, HOUR, by.at)
    async with transaction(db) as connection:
        await people.lock(connection, by.person.id)
        made = await teams.add_named(connection, name, by.at)
        await teams.add(connection, made.id, by.person.id, Role.OWNER, by.at)
        await _check_owned(connection, by.person, most)
        await audit.add(connection, made.id, audit_entry(by, "team.add", name), by.at)
    return made


async def _check_owned(db: Db, person: Person, most: int) -> None:
    """Raise OverLimit where the person owns more teams than one person may, however they got them."""
    if await teams.owned(db, person.id) > most:
        raise OverLimit(
            f"{person.name} owns {most} team{'' if most == 1 else 's'}, which is as many as one person may; "
            "the person who runs Everref can raise EVERREF_PERSON_TEAMS",
            "teams",
        )


@translating
async def rename_team(db: Db, by: By, team: Team, name: str) -> None:
    """Rename the team; its old addresses lead nowhere from then on. Raises UsageError, Refused, NotFound."""
    rules.check_team_name(name)
    async with acting(db, by, team, Role.OWNER, "team.rename", team.name, to=name) as (connection, _):
        if team.name == teams.DEFAULT:
            raise Refused(f"the command line finds the team {team.name} by its name, so it cannot be renamed")
        await teams.rename(connection, team.id, name)


@translating
async def invite(
    db: Db, keyring: Keyring, by: By, team: Team, role: Role, email: str | None = None
) -> tuple[Invitation, str]:
    """An invitation and the token of its link: anybody who is signed in and opens it can accept it, once.

    One made by an API token offers no role above operator, and ends with that token. Raises Refused,
    also for a role above one's own; UsageError, LimitReached, NotFound.
    """
    email = rules.email_address(email) if email else None
    await limit_tries(db, f"invite by {by.person.id}", MADE, HOUR, by.at)
    async with acting(
        db, by, team, Role.ADMIN, "invitation.add", email or "whoever has the link", role=role
    ) as (connection, mine):
        _not_above(mine, role)
        if by.token is not None and not Role.OPERATOR.may(role):
            raise NotAllowed("an API token cannot invite anybody above operator; do it on the team's page")
        made = await invitations.make(
            connection, team.id, role, email, by.person.id, by.at, INVITED, by.token
        )
    return made, signed.sign(keyring, "invitation", str(made.id), by.at)


@translating
async def invitation(db: Db, keyring: Keyring, raw: str, at: datetime) -> Invitation:
    """The invitation of this link. Raises NotFound, also when the inviter may no longer invite."""
    said = signed.read(keyring, "invitation", raw, INVITED, at)
    found = None if said is None else await invitations.find(db, InvitationId(UUID(said)), at)
    if found is None or found.invited_by is None:
        raise NotFound(_UNINVITED)
    theirs = await teams.role_of(db, found.team.id, found.invited_by)
    if theirs is None or not (theirs.may(Role.ADMIN) and theirs.may(found.role)):
        raise NotFound(_UNINVITED)
    return found


@translating
async def accept(
    db: Db, keyring: Keyring, by: By, raw: str, limits: Limits = ROOMY, owned: int = PERSON_TEAMS_ROOMY
) -> Team:
    """Become a member. Nothing changes for somebody who is one already. Raises NotFound, OverLimit.

    If two people accept at once, one becomes a member and the other is told that the link has been used.
    """
    async with transaction(db) as connection:
        found = await invitation(connection, keyring, raw, by.at)
        await teams.lock(connection, found.team.id)
        found = await invitation(connection, keyring, raw, by.at)  # as it is under the lock
        if not await teams.add(connection, found.team.id, by.person.id, found.role, by.at):
            return found.team
        if not await invitations.accept(connection, found.id, by.person.id, by.at):
            raise NotFound(_UNINVITED)
        await quotas.check(connection, found.team.id, limits, by.at, "members")
        if found.role is Role.OWNER:
            await _check_owned(connection, by.person, owned)
        entry = audit_entry(by, "member.add", by.person.name, role=found.role, invited_by=found.inviter)
        await audit.add(connection, found.team.id, entry, by.at)
    return found.team


@translating
async def withdraw(db: Db, by: By, team: Team, invitation_id: InvitationId) -> None:
    """Withdraw the invitation, so that nobody can accept it. Raises NotFound, Refused."""
    subject = str(invitation_id)
    async with acting(db, by, team, Role.ADMIN, "invitation.withdraw", subject) as (connection, _):
        if not await invitations.withdraw(connection, team.id, invitation_id, by.at):
            raise NotFound("this invitation has been accepted or withdrawn")


@translating
async def change_role(
    db: Db, by: By, team: Team, person_id: PersonId, role: Role, owned: int = PERSON_TEAMS_ROOMY
) -> None:
    """Give a member another role: never above one's own, and never to somebody whose role is above one's own.

    Raises Refused, also where the team would have no owner; NotFound; OverLimit where a new
    owner would own more than `owned` teams.
    """
    who = await _member(db, by, team, person_id)
    async with acting(db, by, team, Role.ADMIN, "member.role", who.name, role=role) as (connection, mine):
        _not_above(mine, role)
        await _not_over(connection, mine, team, person_id)
        await teams.set_role(connection, team.id, person_id, role, by.at)
        if role is Role.OWNER:
            await _check_owned(connection, who, owned)


@translating
async def remove_member(db: Db, by: By, team: Team, person_id: PersonId) -> None:
    """Remove a member, and their API tokens for the team. Raises as `change_role` does."""
    who = await _member(db, by, team, person_id)
    async with acting(db, by, team, Role.ADMIN, "member.remove", who.name) as (connection, mine):
        await _not_over(connection, mine, team, person_id)
        await teams.remove_member(connection, team.id, person_id, by.at)


@translating
async def let_in_again(db: Db, by: By, team: Team, person_id: PersonId) -> str:
    """The path of a one-time link that an owner makes for a member who forgot their password.

    Whoever opens it is signed in as that member. So it is only for accounts that give the owner nothing
    new: made by an invitation to this team, and in no team but the owner's (sql/066_let_in.sql).
    The member is told. Raises Refused, NotFound, LimitReached.
    """
    who = await _member(db, by, team, person_id)
    await limit_tries(db, f"link by {by.person.id}", MADE, HOUR, by.at)
    async with acting(db, by, team, Role.OWNER, "member.link", who.name) as (connection, _):
        if not await links.may_let_in(connection, person_id, team.id, by.person.id):
            raise Refused(
                f"an owner can do this only for an account that an invitation to {team.name} made and that "
                "is in nobody else's team; the person who runs Everref can do it for others: "
                "everref sign-in EMAIL"
            )
        raw = await links.make(connection, person_id, by.at, LINK, made_by=by.person.id, team_id=team.id)
        home = await teams.home(connection, person_id)
        if home is not None:
            await notices.add(
                connection,
                home.id,
                None,
                "sign-in",
                f"{by.person.name}, who owns {team.name}, made a one-time link that signs in as {who.name}; "
                "set a new password to sign everybody else out and to end this notice",
                by.at,
                f"{let_in_key(person_id)}{by.at.isoformat()}",
            )
    return f"/sign-in/{raw}"


def let_in_key(person_id: PersonId) -> str:
    return f"{notices.LET_IN}{person_id} "


@translating
async def leave(db: Db, by: By, team: Team) -> None:
    """Leave the team. Raises Refused for its last owner and for one's own team; NotFound."""
    async with acting(db, by, team, Role.VIEWER, "member.leave", by.person.name) as (connection, _):
        if team.person_id == by.person.id:
            raise Refused("this is your own team, which you cannot leave")
        await teams.remove_member(connection, team.id, by.person.id, by.at)


async def _member(db: Db, by: By, team: Team, person_id: PersonId) -> Person:
    """Another member, for a member of the team."""
    await role_in(db, by, team)
    found = await people.find(db, person_id)
    if found is None or await teams.role_of(db, team.id, person_id) is None:
        raise NotFound("this person is not a member of the team")
    return found


def _not_above(mine: Role, given: Role) -> None:
    if not mine.may(given):
        raise Refused(f"you cannot assign a role above your own, which is {mine}")


async def _not_over(db: Db, mine: Role, team: Team, person_id: PersonId) -> None:
    theirs = await teams.role_of(db, team.id, person_id)
    if theirs is not None and not mine.may(theirs):
        raise Refused(f"this person is {theirs}, which is above you; you are {mine} in {team.name}")
    if team.person_id == person_id:
        raise Refused("this is that person's own team, and they stay its owner")
