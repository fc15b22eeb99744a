"""Signing up and in, and all that members do to teams: the rules, and who did what, in one transaction.

Whoever acts is given as `By`. Every change writes its audit entry in its own
transaction, so that neither stands without the other; what a rule refuses
changes nothing, and is written down as refused.
"""

import asyncio
import functools
import zoneinfo
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mirror.core import peer, signed
from mirror.core.config import Signup
from mirror.core.errors import BadCredentials, NotAllowed, NotFound, OverLimit, Refused, TooOften, UsageError
from mirror.core.keyring import Keyring
from mirror.core.quotas import PERSON_TEAMS_ROOMY, ROOMY, Limits
from mirror.core.rules import roles as rules
from mirror.core.rules.roles import SCOPES, PersonId, Role, Scope
from mirror.store.database import Db, transaction, translating
from mirror.store.people import attempts as tries
from mirror.store.people import (
    audit,
    invitations,
    known_networks,
    links,
    notices,
    people,
    quotas,
    sessions,
    teams,
    tokens,
)
from mirror.store.people.invitations import Invitation, InvitationId
from mirror.store.people.people import Forge, Identity, IdentityKey, Person
from mirror.store.people.teams import Team
from mirror.store.people.tokens import ApiToken, TokenId

P = ParamSpec("P")
R = TypeVar("R")

TRIES: Final = 10  # a minute, to sign in by one e-mail address from one place; and to sign up from one place
TRIES_FROM: Final = 100  # an hour, that fail, from one place by whichever e-mail addresses
TRIES_AS: Final = 50  # an hour, that fail, by one e-mail address from all places that its person does not use
BEYOND: Final = 1  # a minute more by one e-mail address, so that who guesses does not keep its person out
PROVED: Final = 20  # wrong passwords by which a session ends that is to prove whose it is
MADE: Final = 30  # links, tokens, teams and passwords that one person makes in an hour
INVITED: Final = timedelta(days=7)  # for which an invitation can be accepted
LINK: Final = timedelta(hours=1)  # for which a one-time link works
_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_WRONG: Final = "the e-mail address or the password is wrong"
_USED: Final = "this link was used already or has expired; ask for another"
BY_INVITATION: Final = (
    "accounts are made by invitation here: ask somebody who is in for one, and open its link; who runs "
    "Everref gets in by everref sign-in"
)
CLOSED: Final = "no new accounts are made here; whoever runs Everref can change that, by SIGNUP"
_UNINVITED: Final = "this invitation was accepted or withdrawn already, or has expired; ask for another"

# argon2id as RFC 9106 recommends it where memory is scarce: 64 MiB a hash, so only a few at once.
HASHER: Final = PasswordHasher()
_THREADS: Final = ThreadPoolExecutor(2, "argon2")
_HASHING: Final = WeakValueDictionary[str, asyncio.Lock]()  # by who waits: each has one hash at a time


@dataclass(frozen=True, slots=True)
class By:
    """Who does something, when, and from where."""

    person: Person
    at: datetime
    address: str | None = None  # None: not by the network
    session: bytes | None = None  # the key of the session that lets them; None: none does
    token: TokenId | None = None  # the API token that lets them; None: none does
    let_in: bool = False  # an owner's link began that session


@dataclass(frozen=True, slots=True)
class Door:
    """Who may make an account here, and with what somebody comes to it."""

    signup: Signup
    keyring: Keyring
    invitation: str | None = None  # what stands in its link; None: they have none
    limits: Limits = field(default_factory=lambda: ROOMY)


@dataclass(frozen=True, slots=True)
class Grants:
    """What lets in, or is let in, as a person; what a person keeps of it when the rest ends."""

    tokens: frozenset[TokenId] = frozenset()
    sessions: frozenset[bytes] = frozenset()  # their keys
    identities: frozenset[IdentityKey] = frozenset()
    invitations: frozenset[InvitationId] = frozenset()


NOTHING: Final = Grants()


# Signing up and in.


@translating
async def sign_up(
    db: Db, email: str, password: str, name: str, at: datetime, address: str, door: Door | None = None
) -> Person:
    """A new person who signs in by e-mail and password, with a team of their own.

    Raises UsageError where e-mail, password or name will not do, Refused where
    the e-mail is taken or nobody may come by this `door` (None: anybody may), LimitReached.
    """
    await check_door(db, door, at)
    email, name = rules.email_address(email), rules.check_person_name(name)
    rules.check_password(password, email)
    await _limit(db, f"sign-up {peer.network(address)}", TRIES, _MINUTE, at)
    hashed = await _in_thread(peer.network(address), HASHER.hash, rules.password_bytes(password))
    async with transaction(db) as connection:
        made = await people.add(
            connection, name, at, team_name=rules.team_name(name), email=email, password_hash=hashed
        )
        await _came(connection, By(made, at, address), "person.sign-up", made.name)
        await _let_in(connection, By(made, at, address), door)
    return made


async def check_door(db: Db, door: Door | None, at: datetime) -> None:
    """Raise Refused unless somebody who comes with this may make an account, as far as can be told now."""
    if door is None or door.signup == "open":
        return
    if door.signup == "closed":
        raise Refused(CLOSED)
    if door.invitation is None:
        raise Refused(BY_INVITATION)
    try:
        await invitation(db, door.keyring, door.invitation, at)
    except NotFound as error:
        raise Refused(str(error)) from None


async def _let_in(db: Db, by: By, door: Door | None) -> None:
    """Use up the invitation by which an account was made: one invitation makes one."""
    if door is None or door.signup == "open":
        return
    await check_door(db, door, by.at)
    assert door.invitation is not None
    team = await accept(db, door.keyring, by, door.invitation, door.limits)
    await people.set_invited(db, by.person.id, team.id)


@translating
async def sign_in_with_password(db: Db, email: str, password: str, at: datetime, address: str) -> Person:
    """Who this is. An e-mail that nobody has costs the work of a wrong password, and gets the same answer.

    Tries are counted by e-mail address and place together; and more slowly by each
    alone, but not against who signed in from that place before. So nobody who
    guesses keeps another person out of a place that they use, nor everybody behind
    one proxy; elsewhere one try a minute goes on, for whoever comes first. A hash of
    weaker parameters than today's is replaced. Raises BadCredentials, LimitReached.
    """
    known_as, place = email.strip().lower(), peer.network(address)
    both = f"sign-in as {known_as} from {place}"
    await _limit(db, both, TRIES, _MINUTE, at)
    slow: Sequence[str] = ()
    if not await known_networks.is_known(db, known_as, place, at):
        slow = (f"sign-in from {place}", f"sign-in as {known_as}")
        await _limit(db, slow[0], TRIES_FROM, _HOUR, at)
        if not await tries.take(db, slow[1], TRIES_AS, _HOUR, at):
            await _limit(db, f"sign-in as {known_as}, beyond", BEYOND, _MINUTE, at)
    found = await people.password_of(db, known_as)
    hashed = found[1] if found else await _in_thread(place, _nobodys)
    right = await _in_thread(place, _verified, hashed, rules.password_bytes(password))
    if found is None or not right:
        raise BadCredentials(_WRONG)
    person = found[0]
    if HASHER.check_needs_rehash(hashed):
        renewed = await _in_thread(place, HASHER.hash, rules.password_bytes(password))
        await people.set_password(db, person.id, renewed, old=hashed)
    await tries.give_back(db, both)
    for key in slow:
        await tries.take_back(db, key)
    await _came(db, By(person, at, address), "person.sign-in", person.name, how="password")
    return person


@translating
async def sign_in_with_link(db: Db, raw: str, at: datetime, address: str, keep: Grants = NOTHING) -> Person:
    """Who this one-time link is for; the first owner is made when theirs is opened.

    Who forgot their password is let in by one too, and sets another. Whoever had got in meanwhile is put
    out: what was given before ends, but for what is kept; by an owner's link nothing is, so that nobody
    comes in unnoticed. Raises Refused when it is used up.
    """
    async with transaction(db) as connection:
        used = await links.use(connection, raw, at)
        if used is None:
            raise Refused(_USED)
        person = await _linked(connection, used, at)
        by = By(person, at, address)
        ended = await _end_given(connection, by, NOTHING if used.by else keep)
        await _note(connection, by, "person.sign-in", person.name, how="link", **ended)
        if used.by is None:
            await known_networks.remember(connection, person.id, peer.network(address), at)
    return person


@translating
async def let_in_by(db: Db, raw: str) -> tuple[PersonId, UUID] | None:
    """Which owner of which team made this one-time link. None: whoever runs Everref."""
    return await links.made_by(db, raw)


@translating
async def link_is_for(db: Db, raw: str, at: datetime) -> tuple[Person | None, bool, bool]:
    """Whom a one-time link would sign in, whether the first owner comes in each day by such a one,
    and whether something can be kept: not where an owner made it.

    Nobody: it is of no use, or the first owner is still to be made.
    """
    used = await links.look(db, raw, at)
    if used is None:
        return None, False, False
    if used.person_id is None:
        return await people.known_first_owner(db), True, True
    return await people.find(db, used.person_id), False, used.by is None


async def _end_given(db: Db, by: By, keep: Grants, session: str | None = None) -> dict[str, int]:
    """End all that lets in as this person, or was given in their name: tokens, sessions, links, invitations.

    Accounts at forges wait for their word.

    Returns how many of each there were.
    """
    person = by.person
    ended = await sessions.end_all(db, person.id, session, keep.sessions)  # first, see _check_let_in
    revoked = await tokens.revoke_all(db, person.id, keep.tokens, by.at)
    for team_id, name in revoked:
        await audit.add(db, team_id, _entry(by, "token.revoke", name, owner=person.name), by.at)
    withdrawn = await invitations.withdraw_all(db, person.id, keep.invitations, by.at)
    for team_id, invited in withdrawn:
        await audit.add(db, team_id, _entry(by, "invitation.withdraw", str(invited)), by.at)
    await links.void(db, person.id, by.at)
    return {
        "tokens": len(revoked),
        "invitations": len(withdrawn),
        "sessions": ended,
        "doubted": await people.doubt(db, person.id, keep.identities, by.at),
    }


@translating
async def sign_in_with_identity(
    db: Db,
    forge: Forge,
    host: str,
    account_id: str,
    login: str,
    name: str | None,
    at: datetime,
    address: str,
    door: Door | None = None,
) -> Person:
    """Who signs in by this account at a forge: its number decides, never its name or an e-mail.

    Somebody new gets a team of their own, called like the login. Two at once
    make one person. Raises Refused where nobody may come by this `door`.
    """
    known = await people.by_identity(db, forge, host, account_id)
    if known is None:
        try:
            return await _new_by_identity(db, forge, host, account_id, login, name, at, address, door)
        except Refused:  # another request made that person at the same moment
            known = await people.by_identity(db, forge, host, account_id)
            if known is None:
                raise
    if await people.is_doubted(db, forge, host, account_id):
        raise Refused(
            f"{login} at {host} waits to be confirmed, since a password was set or a one-time link was used; "
            "sign in another way and confirm it on your account page"
        )
    async with transaction(db) as connection:
        await people.link(connection, known.id, forge, host, account_id, login, at)
        await _came(
            connection, By(known, at, address), "person.sign-in", known.name, how=f"{login} at {host}"
        )
    return known


async def _new_by_identity(
    db: Db,
    forge: Forge,
    host: str,
    account_id: str,
    login: str,
    name: str | None,
    at: datetime,
    address: str,
    door: Door | None,
) -> Person:
    await check_door(db, door, at)
    called = rules.person_name(name or "", login, account_id)
    async with transaction(db) as connection:
        made = await people.add(connection, called, at, team_name=rules.team_name(login or called))
        await people.link(connection, made.id, forge, host, account_id, login, at)
        await _came(connection, By(made, at, address), "person.sign-up", made.name, how=f"{login} at {host}")
        await _let_in(connection, By(made, at, address), door)
    return made


async def sign_in_path(db: Db, at: datetime, email: str | None = None) -> str:
    """The path of a new one-time link for who has this e-mail. None: the first owner. Raises NotFound."""
    person = None if email is None else await people.by_email(db, email.strip())
    if email is not None and person is None:
        raise NotFound(f"nobody signs in as {email}")
    raw = await links.make(db, None if person is None else person.id, at, LINK)
    return f"/sign-in/{raw}"


@dataclass(frozen=True, slots=True)
class KnownPerson:
    """Whom an e-mail address stands for here, so far as anybody knows."""

    person: Person
    teams: Sequence[teams.Membership]
    identities: Sequence[Identity]


async def known_as(db: Db, email: str) -> KnownPerson:
    """Who gave this e-mail address, which nobody ever proved to be theirs. Raises NotFound."""
    person = await people.by_email(db, email.strip())
    if person is None:
        raise NotFound(f"nobody signs in as {email}")
    return KnownPerson(person, await teams.memberships(db, person.id), await people.identities(db, person.id))


async def first_owner(db: Db, at: datetime) -> Person:
    """Who owns what the command line keeps, made where there is nobody. Safe to run twice."""
    return await people.first_owner(db, at)


async def team_named(db: Db, by: By, name: str | None) -> Team:
    """Their team of this name; the command line's where none is said. Raises NotFound."""
    found = await teams.membership(db, by.person.id, name or teams.DEFAULT)
    if found is None:
        raise NotFound(f"there is no team {name}, or {by.person.name} is not in it")
    return found.team


# What people do to their own account.


@translating
async def prove(db: Db, by: By, password: str) -> None:
    """Check that who is signed in knows their password. Raises BadCredentials, LimitReached.

    A session that is wrong about it too often ends: it is somebody else who guesses.
    """
    await _limit(db, f"prove {by.person.id} from {peer.network(by.address or '')}", TRIES, _MINUTE, by.at)
    slow = f"prove {by.person.id}"
    await _limit(db, slow, TRIES_AS, _HOUR, by.at)
    hashed = await people.password_hash(db, by.person.id)
    if hashed is None:
        raise BadCredentials("you have no password; sign in again in the way that you do")
    if not await _in_thread(str(by.person.id), _verified, hashed, rules.password_bytes(password)):
        await _count_wrong(db, by)
        raise BadCredentials("the password is wrong")
    await tries.take_back(db, slow)


async def _count_wrong(db: Db, by: By) -> None:
    if by.session is None:
        return
    key = f"prove by session {by.session.hex()}"
    if not await tries.take(db, key, PROVED - 1, sessions.ABSOLUTE, by.at):
        await sessions.end_one(db, by.person.id, by.session)
        raise BadCredentials("the password was wrong too often, so this session has ended; sign in again")


@translating
async def set_password(
    db: Db, by: By, password: str, session: str | None = None, keep: Grants = NOTHING
) -> None:
    """Sign in by this password from now on; what was given before ends, but this session and what is kept.

    Who was let in by an owner's link keeps nothing, and signs in by the password next.

    The caller has had the person prove who they are. Raises UsageError, LimitReached; Refused where
    the session has ended.
    """
    person = by.person
    if person.email is None:
        raise UsageError("a password needs an e-mail address to sign in with; give one first")
    rules.check_password(password, person.email)
    await _limit(db, f"password of {person.id}", MADE, _HOUR, by.at)
    hashed = await _in_thread(str(person.id), HASHER.hash, rules.password_bytes(password))
    async with transaction(db) as connection:
        await people.set_password(connection, person.id, hashed)
        await _check_let_in(connection, by)
        if by.let_in:
            ended = await _end_given(connection, by, NOTHING)
        else:
            ended = await _end_given(connection, by, keep, session)
            await notices.answered(connection, _let_in_key(person.id), by.at)
        await _note(connection, by, "person.password", person.name, **ended)


@translating
async def set_profile(db: Db, by: By, name: str, email: str | None, zone: str | None) -> Person:
    """What the person is called, signs in by and reads times in. Raises UsageError, Refused."""
    name = rules.check_person_name(name)
    email = rules.email_address(email) if email else None
    if zone and zone not in await asyncio.to_thread(zoneinfo.available_timezones):
        raise UsageError(f"there is no time zone {zone!r}; write one like Europe/Berlin")
    async with transaction(db) as connection:
        now_called = await people.set_profile(
            connection, by.person.id, name=name, email=email, zone=zone or None
        )
        words = ("name", "email", "zone")
        changed = [word for word in words if getattr(now_called, word) != getattr(by.person, word)]
        if changed:
            await _note(connection, by, "person.profile", name, changed=changed)
    return now_called


def is_other_email(person: Person, email: str) -> bool:
    """Whether this is not the e-mail address that the person has."""
    return email.strip().lower() != (person.email or "")


@translating
async def link_identity(db: Db, by: By, forge: Forge, host: str, account_id: str, login: str) -> None:
    """Let the person sign in by this account too, which the forge has said to be theirs. Raises Refused."""
    async with transaction(db) as connection:
        if await people.link(connection, by.person.id, forge, host, account_id, login, by.at):
            await _note(connection, by, "identity.link", f"{login} at {host}", account=account_id)


@translating
async def confirm_identity(db: Db, by: By, forge: Forge, host: str, account_id: str) -> None:
    """The account is the person's: it signs them in again. Raises NotFound."""
    async with transaction(db) as connection:
        if not await people.confirm(connection, by.person.id, (forge, host, account_id)):
            raise NotFound("no account of yours like that waits to be confirmed")
        await _note(connection, by, "identity.confirm", f"{forge} account {account_id} at {host}")


@translating
async def unlink_identity(db: Db, by: By, forge: Forge, host: str, account_id: str) -> None:
    """Sign in by this account no more. Raises NotFound; Refused where it is the only way in."""
    async with transaction(db) as connection:
        await people.unlink(connection, by.person.id, forge, host, account_id)
        await _note(connection, by, "identity.unlink", f"{forge} account {account_id} at {host}")


@translating
async def sign_out_everywhere(db: Db, by: By, but: str | None = None) -> int:
    """End the person's sessions, except this one; returns how many. Safe to run twice."""
    async with transaction(db) as connection:
        ended = await sessions.end_all(connection, by.person.id, but)
        await _note(connection, by, "person.sign-out", by.person.name, sessions=ended)
    return ended


# Teams and who is in them.


@translating
async def new_team(db: Db, by: By, name: str, most: int = PERSON_TEAMS_ROOMY) -> Team:
    """A team of this name, owned by who makes it; nobody owns more than `most`.

    Raises UsageError, LimitReached.
    """
    rules.check_team_name(name)
    await _limit(db, f"team by {by.person.id}", MADE, _HOUR, by.at)
    async with transaction(db) as connection:
        await people.lock(connection, by.person.id)
        made = await teams.add_named(connection, name, by.at)
        await teams.add(connection, made.id, by.person.id, Role.OWNER, by.at)
        await _check_owned(connection, by.person, most)
        await audit.add(connection, made.id, _entry(by, "team.add", name), by.at)
    return made


async def _check_owned(db: Db, person: Person, most: int) -> None:
    """Raise OverLimit where the person owns more teams than one may, however they came to them."""
    if await teams.owned(db, person.id) > most:
        raise OverLimit(
            f"{person.name} owns {most} team{'' if most == 1 else 's'}, which is as many as one person may; "
            "whoever runs Everref can raise it: EVERREF_PERSON_TEAMS",
            "teams",
        )


@translating
async def rename_team(db: Db, by: By, team: Team, name: str) -> None:
    """Call the team so; its old addresses lead nowhere then. Raises UsageError, Refused, NotFound."""
    rules.check_team_name(name)
    async with _acting(db, by, team, Role.OWNER, "team.rename", team.name, to=name) as (connection, _):
        if team.name == teams.DEFAULT:
            raise Refused(f"the team {team.name} is that of the command line, which knows it by its name")
        await teams.rename(connection, team.id, name)


@translating
async def invite(
    db: Db, keyring: Keyring, by: By, team: Team, role: Role, email: str | None = None
) -> tuple[Invitation, str]:
    """An invitation, and what stands in its link: whoever opens that, signed in, can accept it, once.

    By an API token it is to no role above operator, and ends with the token. Raises Refused,
    for a role above one's own too; UsageError, LimitReached, NotFound.
    """
    email = rules.email_address(email) if email else None
    await _limit(db, f"invite by {by.person.id}", MADE, _HOUR, by.at)
    async with _acting(
        db, by, team, Role.ADMIN, "invitation.add", email or "whoever has the link", role=role
    ) as (connection, mine):
        _not_above(mine, role)
        if by.token is not None and not Role.OPERATOR.may(role):
            raise NotAllowed("an API token invites nobody to be more than operator; do it on the team's page")
        made = await invitations.make(
            connection, team.id, role, email, by.person.id, by.at, INVITED, by.token
        )
    return made, signed.sign(keyring, "invitation", str(made.id), by.at)


@translating
async def invitation(db: Db, keyring: Keyring, raw: str, at: datetime) -> Invitation:
    """What this link invites to. Raises NotFound, also when who invited may not any more."""
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
    """Become a member. Who is one already stays as they are, and uses nothing up. Raises NotFound, OverLimit.

    Two at once: one becomes a member, the other is told that the link was used.
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
        entry = _entry(by, "member.add", by.person.name, role=found.role, invited_by=found.inviter)
        await audit.add(connection, found.team.id, entry, by.at)
    return found.team


@translating
async def withdraw(db: Db, by: By, team: Team, invitation_id: InvitationId) -> None:
    """Let nobody accept the invitation any more. Raises NotFound, Refused."""
    subject = str(invitation_id)
    async with _acting(db, by, team, Role.ADMIN, "invitation.withdraw", subject) as (connection, _):
        if not await invitations.withdraw(connection, team.id, invitation_id, by.at):
            raise NotFound("this invitation was accepted or withdrawn already")


@translating
async def change_role(
    db: Db, by: By, team: Team, person_id: PersonId, role: Role, owned: int = PERSON_TEAMS_ROOMY
) -> None:
    """Give a member another role: none above one's own, and to nobody who is above oneself.

    Raises Refused, also where the team would have no owner; NotFound; OverLimit where a new
    owner would own more than `owned` teams.
    """
    who = await _member(db, by, team, person_id)
    async with _acting(db, by, team, Role.ADMIN, "member.role", who.name, role=role) as (connection, mine):
        _not_above(mine, role)
        await _not_over(connection, mine, team, person_id)
        await teams.set_role(connection, team.id, person_id, role, by.at)
        if role is Role.OWNER:
            await _check_owned(connection, who, owned)


@translating
async def remove_member(db: Db, by: By, team: Team, person_id: PersonId) -> None:
    """End a membership, and the person's API tokens for the team with it. Raises as `change_role` does."""
    who = await _member(db, by, team, person_id)
    async with _acting(db, by, team, Role.ADMIN, "member.remove", who.name) as (connection, mine):
        await _not_over(connection, mine, team, person_id)
        await teams.remove_member(connection, team.id, person_id, by.at)


@translating
async def let_in_again(db: Db, by: By, team: Team, person_id: PersonId) -> str:
    """The path of a one-time link that an owner makes for a member who forgot their password.

    Whoever opens it is that member, so it is for accounts alone by which nothing is to be had
    that the owner has not: made by this team's invitation, and in no team but the owner's
    (sql/066_let_in.sql). The member is told. Raises Refused, NotFound, LimitReached.
    """
    who = await _member(db, by, team, person_id)
    await _limit(db, f"link by {by.person.id}", MADE, _HOUR, by.at)
    async with _acting(db, by, team, Role.OWNER, "member.link", who.name) as (connection, _):
        if not await links.may_let_in(connection, person_id, team.id, by.person.id):
            raise Refused(
                f"only an account that an invitation to {team.name} made, and that is in no team of "
                "anybody else, is let in again by an owner; whoever runs Everref can do it for others: "
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
                "a new password that you set, signed in by it, puts everybody else out and ends this notice",
                by.at,
                f"{_let_in_key(person_id)}{by.at.isoformat()}",
            )
    return f"/sign-in/{raw}"


def _let_in_key(person_id: PersonId) -> str:
    return f"let in {person_id} "


@translating
async def leave(db: Db, by: By, team: Team) -> None:
    """End one's own membership. Raises Refused: of the last owner, and for one's own team; NotFound."""
    async with _acting(db, by, team, Role.VIEWER, "member.leave", by.person.name) as (connection, _):
        if team.person_id == by.person.id:
            raise Refused("this is your own team; nobody leaves that")
        await teams.remove_member(connection, team.id, by.person.id, by.at)


# API tokens.


@translating
async def make_token(
    db: Db,
    by: By,
    team: Team,
    name: str,
    scopes: Collection[Scope],
    expires_at: datetime | None = None,
    *,
    limits: Limits = ROOMY,
) -> tuple[str, ApiToken]:
    """A token for programs, told once: it may what its scopes say, as long as its person may it in the team.

    Raises Refused for a scope beyond one's role, UsageError, LimitReached, NotFound.
    """
    name = rules.check_person_name(name, "give the token a name that says what it is for")
    if not scopes or not set(scopes) <= SCOPES.keys():
        raise UsageError(f"say what the token may: {', '.join(SCOPES)}")
    if expires_at is not None and expires_at <= by.at:
        raise UsageError("the token would have expired already; say a later time")
    await _limit(db, f"token by {by.person.id}", MADE, _HOUR, by.at)
    told = {"scopes": sorted(scopes), "expires_at": expires_at and expires_at.isoformat()}
    async with _acting(db, by, team, Role.VIEWER, "token.add", name, **told) as (connection, mine):
        for scope in sorted(scopes):
            if not mine.may(SCOPES[scope]):
                raise Refused(
                    f"the scope {scope} needs the role {SCOPES[scope]}; you are {mine} in {team.name}"
                )
        made = await tokens.make(connection, by.person.id, team.id, name, scopes, expires_at, by.at)
        await quotas.check(connection, team.id, limits, by.at, "tokens")
        return made


@translating
async def revoke_token(db: Db, by: By, team: Team, token_id: TokenId) -> None:
    """Let a token not work any more: one's own, or as an admin anybody's. Raises NotFound, Refused."""
    found = await tokens.find(db, team.id, token_id)
    if found is None:
        raise NotFound("there is no such token, or it was revoked already")
    needed = Role.VIEWER if found.person.id == by.person.id else Role.ADMIN
    async with _acting(db, by, team, needed, "token.revoke", found.name, owner=found.person.name) as (
        connection,
        _,
    ):
        if not await tokens.revoke(connection, team.id, token_id, by.at):
            raise NotFound("there is no such token, or it was revoked already")


# What these have in common.


@asynccontextmanager
async def _acting(
    db: Db, by: By, team: Team, needed: Role, action: str, subject: str, **detail: Any
) -> AsyncIterator[tuple[asyncpg.Connection, Role]]:
    """A transaction in which a member with the needed role changes the team, and its audit entry.

    Others who would change the team's members wait. Raises NotFound to who is no member, Refused.
    """
    entry = _entry(by, action, subject, **detail)
    try:
        async with transaction(db) as connection:
            await _check_let_in(connection, by)
            await teams.lock(connection, team.id)
            mine = await _role(connection, by, team)
            if not mine.may(needed):
                raise Refused(f"this needs the role {needed}; you are {mine} in {team.name}")
            yield connection, mine
            await audit.add(connection, team.id, entry, by.at)
    except Refused:
        refused = _entry(by, action, subject, result="refused", **detail)
        await audit.add(db, team.id, refused, by.at)
        raise


async def _check_let_in(db: Db, by: By) -> None:
    """Raise Refused where what let somebody in has ended; a session stays till the transaction ends.

    It comes before a team is locked, as whoever ends what was given locks the sessions first.
    """
    if by.session is not None and not await sessions.hold(db, by.session):
        raise Refused("this session has ended meanwhile; sign in again")
    if by.token is not None and not await tokens.is_there(db, by.token):
        raise Refused("this token was revoked meanwhile")


async def _role(db: Db, by: By, team: Team) -> Role:
    found = await teams.role_of(db, team.id, by.person.id)
    if found is None:
        raise NotFound(f"there is no team {team.name}, or it is not yours")
    return found


async def _member(db: Db, by: By, team: Team, person_id: PersonId) -> Person:
    """Another member, for a member of the team."""
    await _role(db, by, team)
    found = await people.find(db, person_id)
    if found is None or await teams.role_of(db, team.id, person_id) is None:
        raise NotFound("this person is no member of the team")
    return found


def _not_above(mine: Role, given: Role) -> None:
    if not mine.may(given):
        raise Refused(f"nobody gives a role above their own; yours is {mine}")


async def _not_over(db: Db, mine: Role, team: Team, person_id: PersonId) -> None:
    theirs = await teams.role_of(db, team.id, person_id)
    if theirs is not None and not mine.may(theirs):
        raise Refused(f"this person is {theirs}, which is above you; you are {mine} in {team.name}")
    if team.person_id == person_id:
        raise Refused("this is that person's own team, in which they stay its owner")


def _entry(by: By, action: str, subject: str, *, result: str = "done", **detail: Any) -> audit.Entry:
    return audit.Entry(
        person_id=by.person.id,
        actor=by.person.name,
        action=action,
        subject=subject,
        detail=detail,
        address=by.address,
        result=result,
    )


async def _note(db: Db, by: By, action: str, subject: str, **detail: Any) -> None:
    """Write down in the person's own team what they did to their account."""
    home = await teams.home(db, by.person.id)
    if home is not None:
        await audit.add(db, home.id, _entry(by, action, subject, **detail), by.at)


async def _came(db: Db, by: By, action: str, subject: str, **detail: Any) -> None:
    """Write down that somebody came in, and know the place they came from."""
    await _note(db, by, action, subject, **detail)
    if by.address is not None:
        await known_networks.remember(db, by.person.id, peer.network(by.address), by.at)


async def _linked(db: Db, used: links.Used, at: datetime) -> Person:
    if used.person_id is None:
        return await people.first_owner(db, at)
    found = await people.find(db, used.person_id)
    if found is None:
        raise Refused(_USED)
    return found


async def _limit(db: Db, key: str, limit: int, per: timedelta, at: datetime) -> None:
    if not await tries.take(db, key, limit, per, at):
        seconds = int(per.total_seconds())
        raise TooOften(f"that was tried too often; wait {_in_words(per)}, then try again", seconds)


def _in_words(per: timedelta) -> str:
    return "a minute" if per <= _MINUTE else "an hour"


async def _in_thread(who: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Hash beside all else: one at a time for each person, or place, so that all have their turn."""
    ready = functools.partial(call, *args, **kwargs)
    async with _HASHING.setdefault(who, asyncio.Lock()):
        return await asyncio.get_running_loop().run_in_executor(_THREADS, ready)


def _verified(hashed: str, password: bytes) -> bool:
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


@functools.cache
def _nobodys() -> str:
    """A hash of the strength of today's, of a password that nobody knows."""
    return HASHER.hash(HASHER.hash("nobody"))
