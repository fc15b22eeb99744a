"""OAuth 2 with PKCE, as far as it is words: the requests to a forge's endpoints, and what their answers say.

The requests themselves are made by the product's module. Authlib writes the
grant and token requests (RFC 6749, RFC 7636).
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from mirror.core.config import App
from mirror.core.errors import (
    BadCredentials,
    Corrupt,
    EverrefError,
    NetworkError,
    Origin,
    OurFault,
    Refused,
    whose,
)
from mirror.forges.contract import SpentGrant, Tokens

STATUSES: Final = (400, 401, 403, 404)  # with which an error of OAuth may come; GitHub's come with 200


def new_state() -> str:
    """An unguessable word, to know a callback by. It belongs into the session, once, for ten minutes."""
    return secrets.token_urlsafe(32)


def new_verifier() -> str:
    """PKCE's secret, kept beside the state."""
    return secrets.token_urlsafe(48)


def authorize_url(
    app: App, endpoint: str, state: str, verifier: str, redirect_uri: str, scopes: tuple[str, ...]
) -> str:
    """The address of the consent page. Raises Refused where nobody registered us."""
    if not app.registered:
        raise Refused(f"Everref is not registered at {app.host}; connect by a personal access token")
    uri = prepare_grant_uri(
        endpoint,
        client_id=app.client_id,
        response_type="code",
        redirect_uri=redirect_uri,
        scope=" ".join(scopes) or None,
        state=state,
        code_challenge=create_s256_code_challenge(verifier),
        code_challenge_method="S256",
    )
    return str(uri)


def code_request(app: App, code: str, verifier: str, redirect_uri: str) -> dict[str, str]:
    """The form that asks for the tokens of a code."""
    body = prepare_token_request(
        "authorization_code", redirect_uri=redirect_uri, code=code, code_verifier=verifier, **_client(app)
    )
    return dict(parse_qsl(body))


def refresh_request(app: App, refresh_token: str, redirect_uri: str) -> dict[str, str]:
    """The form that asks for a new pair."""
    body = prepare_token_request(
        "refresh_token", redirect_uri=redirect_uri, refresh_token=refresh_token, **_client(app)
    )
    return dict(parse_qsl(body))


@whose(Origin.FORGE)
def tokens(app: App, status: int, answer: object, now: datetime) -> Tokens:
    """What a token endpoint answered. GitHub reports errors with HTTP 200.

    https://docs.github.com/en/apps/oauth-apps/maintaining-oauth-apps/troubleshooting-oauth-app-access-token-request-errors
    """
    if status >= 500:
        raise NetworkError(f"{app.host} answered {status} when asked for tokens; try again later")
    if status == 404:  # so GitHub answers to a client id that it does not know
        raise explained(app, "invalid_client")
    if not isinstance(answer, Mapping):
        raise Corrupt(f"{app.host} did not answer with a JSON object when asked for tokens")
    if "error" in answer or status in STATUSES:
        raise explained(app, str(answer.get("error") or f"HTTP {status}"))
    access = answer.get("access_token")
    if not isinstance(access, str) or not access:
        raise Corrupt(f"{app.host} answered without an access token when asked for one")
    refresh = answer.get("refresh_token")
    return Tokens(
        access,
        refresh if isinstance(refresh, str) and refresh else None,
        _expiry(answer, now),
        tuple(str(answer.get("scope") or "").replace(",", " ").split()),
    )


def explained(app: App, error: str) -> EverrefError:
    """What an error code of OAuth means to us, from a callback's query or a token endpoint."""
    if error == "access_denied":
        return Refused(f"access was not granted at {app.host}; nothing was connected")
    if error in ("invalid_grant", "bad_verification_code", "bad_refresh_token", "expired_token"):
        return SpentGrant(f"{app.host} no longer accepts this request for tokens; connect again")
    name = app.forge.upper()
    if error in ("invalid_client", "incorrect_client_credentials", "unauthorized_client"):
        return OurFault(
            f"{app.host} does not know this application: check {name}_CLIENT_ID and {name}_CLIENT_SECRET"
        )
    if error in ("redirect_uri_mismatch", "invalid_redirect_uri"):
        return OurFault(
            f"the callback address registered at {app.host} is not ours: check BASE_URL and the registration"
        )
    if error in ("invalid_scope", "unsupported_scope"):
        return OurFault(f"the application registered at {app.host} may not ask for these scopes; allow them")
    if error in ("temporarily_unavailable", "server_error"):
        return NetworkError(f"{app.host} cannot answer now; try again later")
    if error in ("application_suspended", "unverified_user_email"):
        return Refused(f"{app.host} refuses: {error.replace('_', ' ')}")
    word = error if error.replace("_", "").isalnum() and len(error) <= 60 else "an unknown error"
    return BadCredentials(f"{app.host} refuses tokens: {word}")


def missing(
    granted: Sequence[str], wanted: Sequence[str], included: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """The wanted scopes that are neither granted nor included in one that is."""
    held = {*granted, *(part for scope in granted for part in included.get(scope, ()))}
    return tuple(scope for scope in wanted if scope not in held)


def _client(app: App) -> dict[str, str | None]:
    return {"client_id": app.client_id, "client_secret": app.client_secret}


def _expiry(answer: Mapping[str, Any], now: datetime) -> datetime | None:
    seconds = answer.get("expires_in")
    if isinstance(seconds, int | float) and 0 < seconds < 10**9:
        return now + timedelta(seconds=seconds)
    return None
