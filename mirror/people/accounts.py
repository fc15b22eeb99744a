"""Signing up, signing in, and what people do to their own account; each with its audit entry.

Who calls: the pages, the API, and the command `sign-in`. What it uses: people/passwords for hashing,
people/members for the invitation that an account is made by.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.core import peer
from mirror.core.config import Signup
from mirror.core.errors import BadCredentials, NotFound, Refused, UsageError
from mirror.core.keyring import Keyring
from mirror.core.quotas import ROOMY, Limits
from mirror.core.rules import roles as rules
from mirror.core.rules.roles import PersonId
from mirror.core.times import zones
from mirror.people import passwords
from mirror.people.acting import HOUR, MADE, MINUTE, By, audit_entry, audit_own, check_let_in, limit_tries
from mirror.people.members import LINK, accept, invitation, let_in_key
from mirror.store.database import Db, transaction, translating
from mirror.store.people import attempts as tries
from mirror.store.people import (
    audit,
    invitations,
    known_networks,
    links,
    notices,
    people,
    sessions,
    teams,
    tokens,
)
from mirror.store.people.invitations import InvitationId
from mirror.store.people.people import Forge, Identity, IdentityKey, Person
from mirror.store.people.teams import Team
from mirror.store.people.tokens import TokenId
from mirror.store.restore import shares
from mirror.store.restore.shares import ShareId

TRIES: Final = 10  # a minute, to sign in by one e-mail address from one place; and to sign up from one place
TRIES_FROM: Final = 100  # an hour, that fail, from one place by whichever e-mail addresses
TRIES_AS: Final = 50  # an hour, that fail, by one e-mail address from all places that its person does not use
BEYOND: Final = 1  # a minute more by one e-mail address, so that a guesser does not keep its owner out
PROVED: Final = 20  # wrong passwords after which a session that must prove whose it is ends
_WRONG: Final = "the e-mail address or the password is wrong"
_USED: Final = "this link has been used or has expired; ask for another"
BY_INVITATION: Final = (
    "accounts are made by invitation here: ask a member for one and open its link; the person who "
    "runs Everref signs in with everref sign-in"
)
CLOSED: Final = "no new accounts can be made here; the person who runs Everref can change that with SIGNUP"


@dataclass(frozen=True, slots=True)
class Door:
    """Who may make an account here, and what a newcomer brings."""

    signup: Signup
    keyring: Keyring
    invitation: str | None = None  # the token of its link; None: they have none
    limits: Limits = field(default_factory=lambda: ROOMY)


@dataclass(frozen=True, slots=True)
class Grants:
    """Ways in that belong to a person: those to keep when the rest are ended."""

    tokens: frozenset[TokenId] = frozenset()
    sessions: frozenset[bytes] = frozenset()  # their keys
    identities: frozenset[IdentityKey] = frozenset()
    invitations: frozenset[InvitationId] = frozenset()
    shares: frozenset[ShareId] = frozenset()


NOTHING: Final = Grants()


# Signing up and in.


@translating
async def sign_up(
    db: Db, email: str, password: str, name: str, at: datetime, address: str, door: Door | None = None
) -> Person:
    """A new person who signs in by e-mail and password, with a team of their own.

    Raises UsageError where the e-mail, password or name is not acceptable, Refused where the e-mail is
    taken or this `door` lets nobody in (None: it lets anybody in), LimitReached.
    """
    await check_door(db, door, at)
    email, name = rules.email_address(email), rules.check_person_name(name)
    rules.check_password(password, email)
    await limit_tries(db, f"sign-up {peer.network(address)}", TRIES, MINUTE, at)
    hashed = await passwords.hashed(peer.network(address), rules.password_bytes(password))
    async with transaction(db) as connection:
        made = await people.add(
            connection, name, at, team_name=rules.team_name(name), email=email, password_hash=hashed
        )
        await _came(connection, By(made, at, address), "person.sign-up", made.name)
        await _let_in(connection, By(made, at, address), door)
    return made


async def check_door(db: Db, door: Door | None, at: datetime) -> None:
    """Raise Refused unless a newcomer at this door may make an account, as far as we can tell now."""
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
    """Use up the invitation that an account was made with: one invitation makes one account."""
    if door is None or door.signup == "open":
        return
    await check_door(db, door, by.at)
    assert door.invitation is not None
    team = await accept(db, door.keyring, by, door.invitation, door.limits)
    await people.set_invited(db, by.person.id, team.id)


@translating
async def sign_in_with_password(db: Db, email: str, password: str, at: datetime, address: str) -> Person:
    """The person with this e-mail and password. An unknown e-mail takes as long and gets the same answer.

    Tries are counted by e-mail address and network together, and with looser limits by each alone,
    but not against somebody who has signed in from that network before. So a guesser can lock nobody
    out of a network that they use, nor everybody behind one proxy; elsewhere one try a minute is still
    allowed. A hash with weaker parameters than today's is replaced. Raises BadCredentials, LimitReached.
    """
    known_as, place = email.strip().lower(), peer.network(address)
    both = f"sign-in as {known_as} from {place}"
    await limit_tries(db, both, TRIES, MINUTE, at)
    slow: Sequence[str] = ()
    if not await known_networks.is_known(db, known_as, place, at):
        slow = (f"sign-in from {place}", f"sign-in as {known_as}")
        await limit_tries(db, slow[0], TRIES_FROM, HOUR, at)
        if not await tries.take(db, slow[1], TRIES_AS, HOUR, at):
            await limit_tries(db, f"sign-in as {known_as}, beyond", BEYOND, MINUTE, at)
    found = await people.password_of(db, known_as)
    right = await passwords.is_right(place, found and found[1], rules.password_bytes(password))
    if found is None or not right:
        raise BadCredentials(_WRONG)
    person, hashed = found
    if passwords.is_outdated(hashed):
        renewed = await passwords.hashed(place, rules.password_bytes(password))
        await people.set_password(db, person.id, renewed, old=hashed)
    await tries.give_back(db, both)
    for key in slow:
        await tries.take_back(db, key)
    await _came(db, By(person, at, address), "person.sign-in", person.name, how="password")
    return person


@translating
async def sign_in_with_link(db: Db, raw: str, at: datetime, address: str, keep: Grants = NOTHING) -> Person:
    """The person this one-time link is for; the first owner is made when theirs is opened.

    People who forgot their password use one too, and set another. Every other way in ends, so that
    an intruder is put out: all sessions, tokens, invitations and share links except those in `keep`. A link
    of a team's owner keeps none, so that nobody gets in unnoticed. Raises Refused when it is used up.
    """
    async with transaction(db) as connection:
        used = await links.use(connection, raw, at)
        if used is None:
            raise Refused(_USED)
        person = await _linked(connection, used, at)
        by = By(person, at, address)
        ended = await _end_given(connection, by, NOTHING if used.by else keep)
        await audit_own(connection, by, "person.sign-in", person.name, how="link", **ended)
        if used.by is None:
            await _seen_at(connection, by, peer.network(address))
    return person


@translating
async def let_in_by(db: Db, raw: str) -> tuple[PersonId, UUID] | None:
    """Which owner of which team made this one-time link. None: it was made by whoever runs Everref."""
    return await links.made_by(db, raw)


@translating
async def link_is_for(db: Db, raw: str, at: datetime) -> tuple[Person | None, bool, bool]:
    """Whom a one-time link would sign in, whether they are the first owner, who signs in by such links
    every day, and whether other ways in can be kept, which a link made by an owner does not allow.

    No person: the link is of no use, or the first owner is still to be made.
    """
    used = await links.look(db, raw, at)
    if used is None:
        return None, False, False
    if used.person_id is None:
        return await people.known_first_owner(db), True, True
    return await people.find(db, used.person_id), False, used.by is None


async def _end_given(db: Db, by: By, keep: Grants, session: str | None = None) -> dict[str, int]:
    """End every way in as this person: tokens, sessions and links, and what they made that lets others in.

    Those are invitations and share links. Linked accounts at forges must be confirmed again. Returns how
    many of each there were.
    """
    person = by.person
    ended = await sessions.end_all(db, person.id, session, keep.sessions)  # first, see check_let_in
    revoked = await tokens.revoke_all(db, person.id, keep.tokens, by.at)
    for team_id, name in revoked:
        await audit.add(db, team_id, audit_entry(by, "token.revoke", name, owner=person.name), by.at)
    withdrawn = await invitations.withdraw_all(db, person.id, keep.invitations, by.at)
    for team_id, invited in withdrawn:
        await audit.add(db, team_id, audit_entry(by, "invitation.withdraw", str(invited)), by.at)
    closed = await shares.end_all(db, person.id, keep.shares, by.at)
    for team_id, repo_id, name, share_id in closed:
        entry = audit_entry(by, "share.revoke", name, share=str(share_id))
        await audit.add(db, team_id, replace(entry, repo_id=repo_id), by.at)
    await links.void(db, person.id, by.at)
    return {
        "tokens": len(revoked),
        "invitations": len(withdrawn),
        "shares": len(closed),
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
    """The person who signs in with this account at a forge: its number decides, never its name or e-mail.

    A new person gets a team of their own, named after the login. Two requests at once make one
    person. Raises Refused where this `door` lets nobody in.
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
            f"{login} at {host} waits to be confirmed, because a password was set or a one-time link was "
            "used; sign in another way and confirm it on your account page"
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
    """The path of a new one-time link for this e-mail address. None: for the first owner. Raises NotFound."""
    person = None if email is None else await people.by_email(db, email.strip())
    if email is not None and person is None:
        raise NotFound(f"nobody signs in as {email}")
    raw = await links.make(db, None if person is None else person.id, at, LINK)
    return f"/sign-in/{raw}"


@dataclass(frozen=True, slots=True)
class KnownPerson:
    """Who an e-mail address belongs to here, as far as anybody knows."""

    person: Person
    teams: Sequence[teams.Membership]
    identities: Sequence[Identity]
    email_proved: bool = False  # they opened a link that was mailed there


async def known_as(db: Db, email: str) -> KnownPerson:
    """The person who gave this e-mail address, which may not be theirs. Raises NotFound."""
    person = await people.by_email(db, email.strip())
    if person is None:
        raise NotFound(f"nobody signs in as {email}")
    return KnownPerson(
        person,
        await teams.memberships(db, person.id),
        await people.identities(db, person.id),
        await people.is_email_confirmed(db, person.id),
    )


async def first_owner(db: Db, at: datetime) -> Person:
    """The owner of the command line's team, made where there is none. Safe to run twice."""
    return await people.first_owner(db, at)


async def team_named(db: Db, by: By, name: str | None) -> Team:
    """The person's team of this name; the command line's where no name is given. Raises NotFound."""
    found = await teams.membership(db, by.person.id, name or teams.DEFAULT)
    if found is None:
        raise NotFound(f"there is no team {name}, or {by.person.name} is not in it")
    return found.team


# What people do to their own account.


@translating
async def prove(db: Db, by: By, password: str) -> None:
    """Check that the person who is signed in knows their password. Raises BadCredentials, LimitReached.

    A session with too many wrong answers ends: somebody else is guessing.
    """
    await limit_tries(db, f"prove {by.person.id} from {peer.network(by.address or '')}", TRIES, MINUTE, by.at)
    slow = f"prove {by.person.id}"
    await limit_tries(db, slow, TRIES_AS, HOUR, by.at)
    hashed = await people.password_hash(db, by.person.id)
    if hashed is None:
        raise BadCredentials("you have no password; sign in again the way you usually do")
    if not await passwords.is_right(str(by.person.id), hashed, rules.password_bytes(password)):
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
    """Set the password; every other way in ends, except this session and those in `keep`.

    A person who was let in by an owner's link keeps none, and signs in with the new password next.
    The caller has made sure who the person is. Raises UsageError, LimitReached; Refused where the
    session has ended.
    """
    person = by.person
    if person.email is None:
        raise UsageError("add your e-mail first: you sign in with it and the password", field="password")
    rules.check_password(password, person.email)
    await limit_tries(db, f"password of {person.id}", MADE, HOUR, by.at)
    hashed = await passwords.hashed(str(person.id), rules.password_bytes(password))
    async with transaction(db) as connection:
        await people.set_password(connection, person.id, hashed)
        await check_let_in(connection, by)
        if by.let_in:
            ended = await _end_given(connection, by, NOTHING)
        else:
            ended = await _end_given(connection, by, keep, session)
            await notices.answered(connection, let_in_key(person.id), by.at)
        await audit_own(connection, by, "person.password", person.name, **ended)


@translating
async def set_profile(db: Db, by: By, name: str, email: str | None, zone: str | None) -> Person:
    """Set the person's name, e-mail address and time zone. Raises UsageError, Refused."""
    name = rules.check_person_name(name)
    email = rules.email_address(email) if email else None
    if zone:
        await _check_zone(zone)
    async with transaction(db) as connection:
        now_called = await people.set_profile(
            connection, by.person.id, name=name, email=email, zone=zone or None
        )
        words = ("name", "email", "zone")
        changed = [word for word in words if getattr(now_called, word) != getattr(by.person, word)]
        if changed:
            await audit_own(connection, by, "person.profile", name, changed=changed)
    return now_called


async def take_zone(db: Db, person_id: PersonId, zone: str) -> None:
    """Let somebody who has no time zone have that of their browser, if it is one."""
    if zone and zone in await asyncio.to_thread(zones.names):
        await people.set_zone(db, person_id, zones.now_called(zone), only_first=True)


@translating
async def set_zone(db: Db, by: By, zone: str) -> None:
    """Set the person's time zone. Raises UsageError."""
    await _check_zone(zone)
    async with transaction(db) as connection:
        await people.set_zone(connection, by.person.id, zones.now_called(zone))
        await audit_own(connection, by, "person.profile", by.person.name, changed=["zone"])


async def _check_zone(zone: str) -> None:
    if zone not in await asyncio.to_thread(zones.names):
        raise UsageError(f"there is no time zone {zone!r}; write one like Europe/Berlin", field="zone")


def is_other_email(person: Person, email: str) -> bool:
    """Whether this differs from the person's e-mail address."""
    return email.strip().lower() != (person.email or "")


@translating
async def link_identity(db: Db, by: By, forge: Forge, host: str, account_id: str, login: str) -> None:
    """Let the person sign in with this account too, which the forge says is theirs. Raises Refused."""
    async with transaction(db) as connection:
        if await people.link(connection, by.person.id, forge, host, account_id, login, by.at):
            await audit_own(connection, by, "identity.link", f"{login} at {host}", account=account_id)


@translating
async def confirm_identity(db: Db, by: By, forge: Forge, host: str, account_id: str) -> None:
    """Let a linked account sign the person in again, as they say it is theirs. Raises NotFound."""
    async with transaction(db) as connection:
        if not await people.confirm(connection, by.person.id, (forge, host, account_id)):
            raise NotFound("none of your accounts like that is waiting to be confirmed")
        await audit_own(connection, by, "identity.confirm", f"{forge} account {account_id} at {host}")


@translating
async def unlink_identity(db: Db, by: By, forge: Forge, host: str, account_id: str) -> None:
    """Stop letting this account sign the person in. Raises NotFound; Refused where it is the only way in."""
    async with transaction(db) as connection:
        await people.unlink(connection, by.person.id, forge, host, account_id)
        await audit_own(connection, by, "identity.unlink", f"{forge} account {account_id} at {host}")


@translating
async def sign_out_everywhere(db: Db, by: By, but: str | None = None) -> int:
    """End the person's sessions, except `but`; returns how many ended. Safe to run twice."""
    async with transaction(db) as connection:
        ended = await sessions.end_all(connection, by.person.id, but)
        await audit_own(connection, by, "person.sign-out", by.person.name, sessions=ended)
    return ended


async def _came(db: Db, by: By, action: str, subject: str, **detail: Any) -> None:
    """Record in the audit log that the person signed in, and remember the network they came from."""
    await audit_own(db, by, action, subject, **detail)
    if by.address is not None:
        await _seen_at(db, by, peer.network(by.address))


async def _seen_at(db: Db, by: By, network: str) -> None:
    """Remember that the person signed in from this network; if it is a new one, tell them.

    Safe to run twice: a network is new once. The first of all is no news.
    """
    if await known_networks.is_new(db, by.person.id, network, by.at):
        home = await teams.home(db, by.person.id)
        if home is not None:
            await notices.add(
                db,
                home.id,
                None,
                "sign-in",
                f"somebody signed in as {by.person.name} from {by.address}, which was not used before; "
                "if it was not you, set a new password, which signs everybody else out",
                by.at,
                f"new place {by.person.id} {network} {by.at.date().isoformat()}",
            )
    await known_networks.remember(db, by.person.id, network, by.at)


async def _linked(db: Db, used: links.Used, at: datetime) -> Person:
    if used.person_id is None:
        return await people.first_owner(db, at)
    found = await people.find(db, used.person_id)
    if found is None:
        raise Refused(_USED)
    return found
