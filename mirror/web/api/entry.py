"""Signing in without a browser: an access token for twelve hours, and one that renews both, once."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta
from starlette.exceptions import HTTPException

from mirror.core import signed
from mirror.core.errors import BadCredentials
from mirror.core.rules.roles import PersonId
from mirror.people import accounts
from mirror.shapes.people import Access
from mirror.store.people import sessions
from mirror.web.api.call import Body, Call, call
from mirror.web.api.shapes import Words
from mirror.web.dispatch import ACCESS, BEARER, Needs, RequestContext
from mirror.web.pages.people import oauth

Password = Annotated[str, Meta(min_length=1, max_length=1000)]
Email = Annotated[str, Meta(min_length=3, max_length=320)]


class Registration(Body, frozen=True, kw_only=True):
    """A new account, with the invitation by which it is made where one is needed."""

    name: Words
    email: Email
    password: Password
    invitation: (
        Annotated[str, Meta(max_length=2000, description="the part of the link after /invitations/")] | None
    ) = None


class Credentials(Body, frozen=True, kw_only=True):
    """What a person signs in with."""

    email: Email
    password: Password


class Refreshing(Body, frozen=True, kw_only=True):
    """What renews an access token."""

    refresh_token: Annotated[str, Meta(max_length=2000)]


async def register(context: RequestContext, body: Registration) -> Access:
    """Create an account with e-mail and password and a team of its own, and sign in, if SIGNUP allows it."""
    door = oauth.door(context, f"/invitations/{body.invitation}" if body.invitation else "")
    person = await accounts.sign_up(
        context.services.db, body.email, body.password, body.name, context.now, context.address, door
    )
    return await _begin(context, person.id)


async def login(context: RequestContext, body: Credentials) -> Access:
    """Sign in with e-mail and password. Ten attempts a minute for one e-mail address from one place."""
    try:
        person = await accounts.sign_in_with_password(
            context.services.db, body.email, body.password, context.now, context.address
        )
    except BadCredentials as error:
        raise HTTPException(401, str(error), BEARER) from None
    return await _begin(context, person.id)


async def refresh(context: RequestContext, body: Refreshing) -> Access:
    """Renew an access token; the earlier tokens stop working."""
    raw = signed.read(context.outside.keyring, "refresh", body.refresh_token, sessions.ABSOLUTE, context.now)
    found = await sessions.rotate(context.services.db, raw, context.now) if isinstance(raw, str) else None
    if found is None:
        raise HTTPException(
            401, "the refresh token was used or revoked, or has expired; sign in again", BEARER
        )
    return _access(context, found[0])


async def logout(context: RequestContext) -> None:
    """End this session; its tokens stop working."""
    if context.raw_session is not None:
        await sessions.end(context.services.db, context.raw_session)


async def _begin(context: RequestContext, person_id: PersonId) -> Access:
    agent = context.request.headers.get("user-agent", "")
    raw, _ = await sessions.start(
        context.services.db, person_id, context.now, agent, context.address, program=True
    )
    return _access(context, raw)


def _access(context: RequestContext, raw: str) -> Access:
    keyring = context.outside.keyring
    return Access(
        access_token=signed.sign(keyring, "access", raw, context.now),
        token_type="Bearer",
        expires_in=int(ACCESS.total_seconds()),
        refresh_token=signed.sign(keyring, "refresh", raw, context.now),
    )


CALLS: Final[Sequence[Call]] = (
    call("POST", "/register", register, Needs.NOTHING, status=201),
    call("POST", "/login", login, Needs.NOTHING),
    call("POST", "/refresh", refresh, Needs.NOTHING),
    call("POST", "/logout", logout, Needs.PERSON, "account"),
)
