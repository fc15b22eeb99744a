"""A secret that was just made, shown once after a redirect, so that a reload makes no other.

A form that makes a secret answers with a redirect like every other form. The secret
goes along in a cookie that is sealed with SECRET_KEYS for this session, lasts
minutes, is taken once, and is forgotten by the page that shows it.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from starlette.responses import Response

from mirror.core.keyring import BadKey
from mirror.store.people import attempts
from mirror.web.compression import as_it_is
from mirror.web.dispatch import RequestContext

COOKIE: Final = "once"
SECONDS: Final = 300  # for the browser to follow the redirect


class _Sealed(msgspec.Struct):
    """What the cookie holds."""

    at: datetime
    shown: dict[str, str]


def hand_over(context: RequestContext, to: str, shown: Mapping[str, str]) -> Response:
    """To the page `to` by GET, which shows these texts once."""
    plain = msgspec.json.encode(_Sealed(context.now, dict(shown)))
    sealed = context.outside.keyring.seal(plain, _purpose(context))
    answer = context.redirect(to)
    answer.set_cookie(
        COOKIE,
        base64.urlsafe_b64encode(sealed).decode(),
        SECONDS,
        path=to,
        secure=context.secure,
        httponly=True,
        samesite="lax",
    )
    return answer


async def taken(context: RequestContext) -> dict[str, str]:
    """What the form before this page handed over; nothing the second time."""
    cookie = context.request.cookies.get(COOKIE, "")
    if not cookie or context.session is None:
        return {}
    try:
        plain = context.outside.keyring.open(base64.urlsafe_b64decode(cookie), _purpose(context))
        found = msgspec.json.decode(plain, type=_Sealed)
    except (BadKey, binascii.Error, ValueError, msgspec.DecodeError):
        return {}
    age = timedelta(seconds=SECONDS)
    key = f"once {hashlib.sha256(cookie.encode()).hexdigest()}"
    fresh = context.now - found.at <= age
    return (
        found.shown
        if fresh and await attempts.take(context.services.db, key, 1, 2 * age, context.now)
        else {}
    )


def forget(context: RequestContext, answer: Response) -> Response:
    """The page has shown it, as it is: the browser stores nothing of it, and nobody compresses it."""
    answer.delete_cookie(COOKIE, path=context.request.url.path, httponly=True, samesite="lax")
    return as_it_is(answer)


def _purpose(context: RequestContext) -> str:
    session = context.session
    return f"shown once, session {session.key.hex() if session else ''}"
