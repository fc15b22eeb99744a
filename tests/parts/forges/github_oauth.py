"""GitHub's OAuth apps and tokens: consent, the exchange of codes, and what an app may ask of its tokens."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.parts.forges.calls import Call, Refused, stamp, with_query
from tests.parts.forges.github_told import (
    API,
    DOCS,
    account,
    error,
    not_found,
    place,
)
from tests.parts.forges.host import Host
from tests.parts.forges.world import (
    Code,
    Json,
    Person,
    Token,
)

TOKENS: Final = 10  # of one person, app and scopes; the oldest goes ("Authorizing OAuth apps")
# What a scope brings with it ("Scopes for OAuth apps").
IMPLIED: Final[Mapping[str, tuple[str, ...]]] = {
    "repo": ("repo:status", "repo_deployment", "public_repo", "repo:invite", "security_events"),
    "admin:repo_hook": ("write:repo_hook", "read:repo_hook"),
    "write:repo_hook": ("read:repo_hook",),
    "admin:org": ("write:org", "read:org"),
    "write:org": ("read:org",),
    "user": ("read:user", "user:email", "user:follow"),
    "admin:org_hook": (),
    "gist": (),
    "workflow": (),
    "delete_repo": (),
    "notifications": (),
}
SCOPES: Final = frozenset(IMPLIED) | {one for many in IMPLIED.values() for one in many}


class GitHubOAuth(Host):
    """The part of a GitHub that gives tokens."""

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.api_url = url + API
        self.callback = "http://127.0.0.1/auth/github/callback"  # at any port, while it is on loopback
        self._granted: dict[int, set[str]] = {}  # to the app, by person's id
        r = self.route
        r("GET", "/login/oauth/authorize", self._ask)
        r("POST", "/login/oauth/authorize", self._decided)
        r("POST", "/login/oauth/access_token", self._exchange)
        r("POST", API + "/applications/{client_id}/token", self._check_token)
        r("DELETE", API + "/applications/{client_id}/token", self._delete_token)
        r("DELETE", API + "/applications/{client_id}/grant", self._delete_grant)

    # Tokens

    def personal_token(self, person: Person, scopes: Iterable[str] = ("repo", "admin:repo_hook")) -> str:
        """A classic one."""
        return self._new_token(person, tuple(scopes), "classic", "ghp_").value

    def fine_grained_token(self, person: Person) -> str:
        """A fine-grained one over everything that the person has; it carries no scopes."""
        return self._new_token(person, (), "fine-grained", "github_pat_").value

    def _new_token(self, person: Person, scopes: tuple[str, ...], kind: str, prefix: str) -> Token:
        token = Token(prefix + secrets.token_hex(18), person, scopes, kind, self.next_id(), self.now())
        self.tokens.append(token)
        return token

    # OAuth: https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps

    async def _ask(self, call: Call) -> Response:
        scopes = self._wanted(call.query)
        return self.consent(f"{self.url}/login/oauth/authorize", call.query, scopes)

    async def _decided(self, call: Call) -> Response:
        form = call.fields()
        scopes = self._wanted(form)
        uri = form.get("redirect_uri") or self.callback
        state = {"state": form["state"]} if form.get("state") else {}
        if form.get("decision") != "approve":
            return with_query(uri, _denied("The user has denied your application access.") | state)
        person = next((one for one in self.people if one.login == form.get("person")), None)
        if person is None:
            return PlainTextResponse("Who are you?\n", 422)
        granted = self._granted.setdefault(person.id, set())
        if "scope" not in form:  # left out: what was granted before
            scopes = _normal(granted)
        granted.update(scopes)
        code = self.give_code(person, scopes, form.get("redirect_uri"), form)
        return with_query(uri, {"code": code.value} | state)

    def _wanted(self, asked: Mapping[str, str]) -> tuple[str, ...]:
        """The scopes of a request that can be answered. Raises Refused."""
        if asked.get("client_id") != self.client_id:
            raise Refused(PlainTextResponse("Not Found\n", 404))
        uri = asked.get("redirect_uri")
        state = {"state": asked["state"]} if asked.get("state") else {}
        if uri and not _below(self.callback, uri):
            told = "The redirect_uri MUST match the registered callback URL for this application."
            error = {"error": "redirect_uri_mismatch", "error_description": told}
            raise Refused(with_query(self.callback, error | state))
        if asked.get("code_challenge") and asked.get("code_challenge_method") != "S256":
            error = {"error": "invalid_request", "error_description": "Only S256 is a code_challenge_method."}
            raise Refused(with_query(uri or self.callback, error | state))
        given = asked.get("scope", "").replace(",", " ").split()
        return _normal(scope for scope in given if scope in SCOPES)

    async def _exchange(self, call: Call) -> Response:
        """Errors come with 200: "Troubleshooting OAuth app access token request errors"."""
        form = call.fields()
        told: Json
        if form.get("client_id") != self.client_id or not hmac.compare_digest(
            str(form.get("client_secret", "")), self.client_secret
        ):
            told = _token_error(
                "incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect."
            )
        else:
            told = self._exchanged(form)
        accept = call.request.headers.get("accept", "")
        if "application/json" in accept:
            return JSONResponse(told)
        return Response(urlencode(told), media_type="application/x-www-form-urlencoded; charset=utf-8")

    def _exchanged(self, form: Mapping[str, str]) -> Json:
        code = self.take_code(form.get("code", ""), form.get("code_verifier"))
        if code is None or code.person.deleted:
            return _token_error("bad_verification_code", "The code passed is incorrect or expired.")
        uri = form.get("redirect_uri")
        if uri and uri != (code.redirect_uri or self.callback):
            told = "The redirect_uri MUST match the registered callback URL for this application."
            return _token_error("redirect_uri_mismatch", told)
        code.used = True
        token = self._oauth_token(code)
        return {"access_token": token.value, "scope": ",".join(token.scopes), "token_type": "bearer"}

    def _oauth_token(self, code: Code) -> Token:
        alike = [
            token
            for token in self.tokens
            if token.kind == "oauth"
            and not token.revoked
            and (token.person, token.scopes) == (code.person, code.scopes)
        ]
        for old in alike[: len(alike) + 1 - TOKENS]:
            old.revoked = True
        return self._new_token(code.person, code.scopes, "oauth", "gho_")

    # https://docs.github.com/en/rest/apps/oauth-applications

    async def _check_token(self, call: Call) -> Response:
        token = self._of_app(call)
        value = token.value
        return JSONResponse(
            {
                "id": token.id,
                "url": f"{self.api_url}/authorizations/{token.id}",
                "app": {"name": "Everref", "url": self.url, "client_id": self.client_id},
                "token": value,
                "hashed_token": hashlib.sha256(value.encode()).hexdigest(),
                "token_last_eight": value[-8:],
                "note": None,
                "note_url": None,
                "scopes": list(token.scopes),
                "fingerprint": None,
                "expires_at": None,
                "created_at": stamp(token.created_at),
                "updated_at": stamp(token.created_at),
                "user": account(self, place(self, token.person)),
            }
        )

    async def _delete_token(self, call: Call) -> Response:
        self._of_app(call).revoked = True
        return Response(status_code=204)

    async def _delete_grant(self, call: Call) -> Response:
        person = self._of_app(call).person
        for token in self.tokens:
            token.revoked |= token.kind == "oauth" and token.person is person
        self._granted.pop(person.id, None)
        return Response(status_code=204)

    def _of_app(self, call: Call) -> Token:
        """The app's token of the body; the app shows its own secret."""
        given = self.basic(call.request)
        if given != (self.client_id, self.client_secret):
            raise Refused(error(401, "Requires authentication"))
        if call.parts["client_id"] != self.client_id:
            raise not_found()
        value = call.fields().get("access_token")
        if not value:
            raise Refused(error(422, "Validation Failed"))
        token = self.live(value)
        if token is None or token.kind != "oauth":
            raise not_found()
        return token


def with_implied(scopes: Iterable[str]) -> set[str]:
    """These scopes and what they bring with them."""
    found = set(scopes)
    for scope in scopes:
        found.update(IMPLIED.get(scope, ()))
    return found


def _normal(scopes: Iterable[str]) -> tuple[str, ...]:
    """Without those that another brings ("Normalized scopes")."""
    given = set(scopes)
    brought = {one for scope in given for one in IMPLIED.get(scope, ())}
    return tuple(sorted(given - brought))


def _below(callback: str, uri: str) -> bool:
    """Whether an address is the callback or below it ("Redirect URLs"); on loopback at any port."""
    ours, given = urlsplit(callback), urlsplit(uri)
    host, loopback = ours.hostname or "", ours.hostname in ("127.0.0.1", "::1", "localhost")
    hosts = given.hostname == host or (given.hostname or "").endswith(f".{host}")
    ports = loopback or ours.port == given.port
    paths = given.path == ours.path or given.path.startswith(ours.path.rstrip("/") + "/")
    return ours.scheme == given.scheme and hosts and ports and paths and ".." not in given.path.split("/")


def _denied(told: str) -> dict[str, str]:
    return {"error": "access_denied", "error_description": told, "error_uri": f"{DOCS}/oauth"}


def _token_error(error: str, told: str) -> Json:
    uri = "/apps/oauth-apps/maintaining-oauth-apps/troubleshooting-oauth-app-access-token-request-errors"
    return {"error": error, "error_description": told, "error_uri": f"https://docs.github.com{uri}"}
