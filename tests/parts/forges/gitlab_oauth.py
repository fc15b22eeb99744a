"""GitLab's OAuth and tokens: consent, codes, access tokens of two hours, refresh tokens for one use."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.parts.forges.calls import Call, Refused, with_query
from tests.parts.forges.gitlab_told import (
    API,
    oauth_error,
)
from tests.parts.forges.host import Host
from tests.parts.forges.world import (
    Owner,
    Person,
    Token,
)

LIFE: Final = timedelta(seconds=7200)  # of an access token ("OAuth 2.0 identity provider API")
SCOPES: Final = (
    "api",
    "read_api",
    "read_user",
    "read_repository",
    "write_repository",
    "openid",
    "profile",
    "email",
)


class GitLabOAuth(Host):
    """The part of a GitLab that gives tokens."""

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.api_url = url + API
        self.callbacks = ["http://127.0.0.1/auth/gitlab/callback"]  # at any port, while it is on loopback
        self.app_scopes: tuple[str, ...] = SCOPES  # that the application was registered with
        r = self.route
        r("GET", "/oauth/authorize", self._ask)
        r("POST", "/oauth/authorize", self._decided)
        r("POST", "/oauth/token", self._token)
        r("GET", "/oauth/token/info", self._token_info)
        r("POST", "/oauth/revoke", self._revoke)

    # The world

    def add_person(self, login: str, name: str | None = None, email: str | None = None) -> Person:
        """Somebody, whose namespace has another id than they have."""
        person = super().add_person(login, name, email)
        self.owners[-1].id = self.next_id()
        return person

    def add_org(self, login: str, owners: Sequence[Person] = (), members: Sequence[Person] = ()) -> Owner:
        """A group, or one below another ("acme/tools"), whose members it has too."""
        group = super().add_org(login, owners, members)
        parent = self.owner(login.rpartition("/")[0])
        group.access = (parent.access if parent else {}) | group.access
        return group

    def personal_token(self, person: Person, scopes: Iterable[str] = ("api",)) -> str:
        token = Token(
            f"glpat-{secrets.token_urlsafe(15)}",
            person,
            tuple(scopes),
            "personal",
            self.next_id(),
            self.now(),
        )
        self.tokens.append(token)
        return token.value

    # OAuth: https://docs.gitlab.com/api/oauth2/, and doorkeeper where that is silent

    async def _ask(self, call: Call) -> Response:
        scopes = self._wanted(call.query)
        return self.consent(f"{self.url}/oauth/authorize", call.query, scopes)

    async def _decided(self, call: Call) -> Response:
        form = call.fields()
        scopes = self._wanted(form)
        state = {"state": form["state"]} if form.get("state") else {}
        if form.get("decision") != "approve":
            told = "The resource owner or authorization server denied the request."
            return with_query(
                form["redirect_uri"], {"error": "access_denied", "error_description": told} | state
            )
        person = next((one for one in self.people if one.login == form.get("person")), None)
        if person is None:
            return PlainTextResponse("Who are you?\n", 422)
        code = self.give_code(person, scopes, form["redirect_uri"], form)
        return with_query(form["redirect_uri"], {"code": code.value} | state)

    def _wanted(self, asked: Mapping[str, str]) -> tuple[str, ...]:
        """The scopes of a request that can be answered. Raises Refused."""
        if asked.get("client_id") != self.client_id:
            raise Refused(PlainTextResponse("Client authentication failed due to unknown client.\n", 401))
        uri = asked.get("redirect_uri", "")
        if not any(_same_place(callback, uri) for callback in self.callbacks):
            raise Refused(PlainTextResponse("The redirect URI included is not valid.\n", 400))
        state = {"state": asked["state"]} if asked.get("state") else {}
        if asked.get("response_type") != "code":
            told = "The authorization server does not support this response type."
            error = {"error": "unsupported_response_type", "error_description": told}
            raise Refused(with_query(uri, error | state))
        if asked.get("code_challenge") and asked.get("code_challenge_method", "plain") not in (
            "plain",
            "S256",
        ):
            told = "The code challenge method must be plain or S256."
            error = {"error": "invalid_code_challenge_method", "error_description": told}
            raise Refused(with_query(uri, error | state))
        scopes = tuple(asked.get("scope", "").split()) or ("api",)
        if not set(scopes) <= set(self.app_scopes):
            told = "The requested scope is invalid, unknown, or malformed."
            raise Refused(with_query(uri, {"error": "invalid_scope", "error_description": told} | state))
        return scopes

    async def _token(self, call: Call) -> Response:
        form = call.fields()
        self._client(call, form)
        if form.get("grant_type") == "authorization_code":
            code = self.take_code(form.get("code", ""), form.get("code_verifier"))
            if code is None or code.redirect_uri != form.get("redirect_uri") or code.person.deleted:
                return oauth_error(400, "invalid_grant", _GRANT)
            code.used = True
            return self._issued(code.person, code.scopes)
        if form.get("grant_type") == "refresh_token":
            given = form.get("refresh_token") or ""
            old = next((one for one in self.tokens if one.refresh and one.refresh == given), None)
            if old is None or old.person.deleted:
                return oauth_error(400, "invalid_grant", _GRANT)
            old.revoked, old.refresh = True, None
            return self._issued(old.person, old.scopes)
        told = "The authorization grant type is not supported by the authorization server."
        return oauth_error(400, "unsupported_grant_type", told)

    def _issued(self, person: Person, scopes: tuple[str, ...]) -> Response:
        now = self.now()
        value, refresh = secrets.token_hex(32), secrets.token_hex(32)
        self.tokens.append(
            Token(value, person, scopes, "oauth", self.next_id(), now, now + LIFE, refresh=refresh)
        )
        return JSONResponse(
            {
                "access_token": value,
                "token_type": "Bearer",
                "expires_in": int(LIFE.total_seconds()),
                "refresh_token": refresh,
                "scope": " ".join(scopes),
                "created_at": int(now.timestamp()),
            },
            headers={"Cache-Control": "no-store"},
        )

    def _client(self, call: Call, form: Mapping[str, str], status: int = 401) -> None:
        """The application shows its secret, in the form or by basic authentication. Raises Refused."""
        given = self.basic(call.request) or (form.get("client_id"), form.get("client_secret"))
        if given != (self.client_id, self.client_secret):
            told = "Client authentication failed due to unknown client, no client authentication included,"
            error = "invalid_client" if status == 401 else "unauthorized_client"
            raise Refused(oauth_error(status, error, f"{told} or unsupported authentication method."))

    async def _token_info(self, call: Call) -> Response:
        scheme, _, value = call.request.headers.get("authorization", "").partition(" ")
        token = self.live(value) if scheme.lower() == "bearer" else None
        if token is None or token.kind != "oauth":
            return oauth_error(401, "invalid_token", "The access token was revoked")
        left = int((token.expires_at - self.now()).total_seconds()) if token.expires_at else None
        return JSONResponse(
            {
                "resource_owner_id": token.person.id,
                "scope": list(token.scopes),
                "expires_in": left,
                "application": {"uid": self.client_id},
                "created_at": int(token.created_at.timestamp()),
                "scopes": list(token.scopes),
                "expires_in_seconds": left,
            }
        )

    async def _revoke(self, call: Call) -> Response:
        form = call.fields()
        self._client(call, form, 403)
        for token in self.tokens:
            if form.get("token") in (token.value, token.refresh):
                token.revoked, token.refresh = True, None
        return JSONResponse({})


_GRANT: Final = (
    "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used "
    "in the authorization request, or was issued to another client."
)


def _same_place(callback: str, uri: str) -> bool:
    """Exactly the same, but for the port where both are loopback addresses (doorkeeper's URIChecker)."""
    ours, given = urlsplit(callback), urlsplit(uri)
    if {ours.hostname, given.hostname} <= {"127.0.0.1", "::1"}:
        return (ours.scheme, ours.hostname, ours.path) == (given.scheme, given.hostname, given.path)
    return callback == uri
