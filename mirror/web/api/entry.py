"""Signing in without a browser: an access token for twelve hours, and one that renews both, once."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta
from starlette.exceptions import HTTPException

from mirror import signed
from mirror.errors import BadCredentials
from mirror.flows import people
from mirror.people import PersonId
from mirror.store import sessions
from mirror.web import consent
from mirror.web.api.call import Body, Call, call
from mirror.web.api.shapes import Access, Words
from mirror.web.frame import ACCESS, BEARER, Needs, Visit

Password = Annotated[str, Meta(min_length=1, max_length=1000)]
Email = Annotated[str, Meta(min_length=3, max_length=320)]


class Registration(Body, frozen=True, kw_only=True):
    """A new account, with the invitation by which it is made where one is needed."""

    name: Words
    email: Email
    password: Password
    invitation: (
        Annotated[str, Meta(max_length=2000, description="what stands in the link, after /invitations/")]
        | None
    ) = None


class Credentials(Body, frozen=True, kw_only=True):
    """By what a person signs in."""

    email: Email
    password: Password


class Refreshing(Body, frozen=True, kw_only=True):
    """What renews an access."""

    refresh_token: Annotated[str, Meta(max_length=2000)]


async def register(visit: Visit, body: Registration) -> Access:
    """Make an account by e-mail and password, with a team of its own, and sign in; where SIGNUP allows it."""
    door = consent.door(visit, f"/invitations/{body.invitation}" if body.invitation else "")
    person = await people.sign_up(
        visit.edges.db, body.email, body.password, body.name, visit.now, visit.address, door
    )
    return await _begin(visit, person.id)


async def login(visit: Visit, body: Credentials) -> Access:
    """Sign in by e-mail and password. Ten tries a minute for one e-mail address from one place."""
    try:
        person = await people.sign_in_with_password(
            visit.edges.db, body.email, body.password, visit.now, visit.address
        )
    except BadCredentials as error:
        raise HTTPException(401, str(error), BEARER) from None
    return await _begin(visit, person.id)


async def refresh(visit: Visit, body: Refreshing) -> Access:
    """Renew an access: the tokens before this are of no use from now on."""
    raw = signed.read(visit.outside.keyring, "refresh", body.refresh_token, sessions.ABSOLUTE, visit.now)
    found = await sessions.rotate(visit.edges.db, raw, visit.now) if isinstance(raw, str) else None
    if found is None:
        raise HTTPException(
            401, "the refresh token was used or revoked, or has expired; sign in again", BEARER
        )
    return _access(visit, found[0])


async def logout(visit: Visit) -> None:
    """End this session; its tokens are of no use from now on."""
    if visit.raw_session is not None:
        await sessions.end(visit.edges.db, visit.raw_session)


async def _begin(visit: Visit, person_id: PersonId) -> Access:
    agent = visit.request.headers.get("user-agent", "")
    raw, _ = await sessions.start(visit.edges.db, person_id, visit.now, agent, visit.address, program=True)
    return _access(visit, raw)


def _access(visit: Visit, raw: str) -> Access:
    keyring = visit.outside.keyring
    return Access(
        access_token=signed.sign(keyring, "access", raw, visit.now),
        token_type="Bearer",
        expires_in=int(ACCESS.total_seconds()),
        refresh_token=signed.sign(keyring, "refresh", raw, visit.now),
    )


CALLS: Final[Sequence[Call]] = (
    call("POST", "/register", register, Needs.NOTHING, status=201),
    call("POST", "/login", login, Needs.NOTHING),
    call("POST", "/refresh", refresh, Needs.NOTHING),
    call("POST", "/logout", logout, Needs.PERSON, "account"),
)
