"""GitHub as a double: OAuth apps, the REST API below /api/v3 as Enterprise Server has it, webhooks, git.

Rules are from https://docs.github.com (the page is named at each), payloads
follow https://github.com/octokit/webhooks/tree/main/payload-examples.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from tests.parts.forges.calls import MOST, Call, Refused, Route, conditional, number, stamp, with_query
from tests.parts.forges.github_told import (
    account,
    delivery_of,
    hook_of,
    made_of,
    place,
    push_of,
    repository_of,
)
from tests.parts.forges.host import Host
from tests.parts.forges.world import (
    ADMIN,
    WRITE,
    Code,
    Delivery,
    Hook,
    Json,
    Move,
    Owner,
    Person,
    Repository,
    Token,
)

DOCS: Final = "https://docs.github.com/rest"
HOUR: Final = timedelta(hours=1)
API: Final = "/api/v3"
BODY: Final = 25 << 20  # bytes of a payload; a larger one is not sent ("Webhook events and payloads")
TAGS: Final = 3  # of one push; with more of them none is told of (the same page, at create, delete and push)
HOOKS: Final = 20  # of one event in one repository ("Creating webhooks")
TOKENS: Final = 10  # of one person, app and scopes; the oldest goes ("Authorizing OAuth apps")
KEPT: Final = timedelta(days=3)  # deliveries ("Viewing webhook deliveries")

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
EVENTS: Final = frozenset(
    "* branch_protection_rule check_run check_suite commit_comment create delete deploy_key deployment "
    "deployment_status discussion fork gollum issue_comment issues label member meta milestone "
    "page_build ping project public pull_request pull_request_review push registry_package release "
    "repository repository_import repository_vulnerability_alert star status team_add watch "
    "workflow_job workflow_run".split()
)
_READS_HOOKS: Final = ("admin:repo_hook", "public_repo", "read:repo_hook", "repo", "write:repo_hook")
_WRITES_HOOKS: Final = ("admin:repo_hook", "public_repo", "repo", "write:repo_hook")
_DELETES_HOOKS: Final = ("admin:repo_hook", "public_repo", "repo")


class GitHub(Host):
    """A GitHub; its OAuth app sends people back to `callback`, on any port while that is on loopback."""

    kind = "github"

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.api_url = url + API
        self.callback = "http://127.0.0.1/auth/github/callback"
        self.limit = 5000  # requests of a person in an hour ("Rate limits for the REST API")
        self.public_hooks = False  # whether a receiver on loopback is refused, as github.com does
        self._secondary: list[tuple[int, int]] = []  # for each of the next requests: status, seconds to wait
        self._granted: dict[int, set[str]] = {}  # to the app, by person's id
        self.sso: list[Owner] = []  # organisations that tell nothing to a token without a single sign-on
        r = self.route
        r("GET", "/login/oauth/authorize", self._ask)
        r("POST", "/login/oauth/authorize", self._decided)
        r("POST", "/login/oauth/access_token", self._exchange)
        r("POST", API + "/applications/{client_id}/token", self._check_token)
        r("DELETE", API + "/applications/{client_id}/token", self._delete_token)
        r("DELETE", API + "/applications/{client_id}/grant", self._delete_grant)
        r("GET", API + "/meta", self._meta)
        r("GET", API + "/rate_limit", self._rate_limit)
        r("GET", API + "/user", self._user)
        r("GET", API + "/user/emails", self._emails)
        r("GET", API + "/user/repos", self._my_repositories)
        r("POST", API + "/user/repos", self._create_mine)
        r("GET", API + "/user/orgs", self._orgs)
        r("GET", API + "/orgs/{org}/repos", self._org_repositories)
        r("POST", API + "/orgs/{org}/repos", self._create_for_org)
        for repo in (API + "/repos/{owner}/{name}", API + "/repositories/{id}"):
            r("GET", repo, self._repository)
            r("GET", repo + "/hooks", self._hooks)
            r("POST", repo + "/hooks", self._create_hook)
            r("GET", repo + "/hooks/{hook}", self._hook)
            r("PATCH", repo + "/hooks/{hook}", self._edit_hook)
            r("DELETE", repo + "/hooks/{hook}", self._delete_hook)
            r("POST", repo + "/hooks/{hook}/pings", self._ping_hook)
            r("GET", repo + "/hooks/{hook}/deliveries", self._deliveries)
            r("GET", repo + "/hooks/{hook}/deliveries/{delivery}", self._delivery)
            r("POST", repo + "/hooks/{hook}/deliveries/{delivery}/attempts", self._redeliver)

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

    def secondary_limit(self, retry_after: int = 60, times: int = 1, status: int = 403) -> None:
        """The next requests of the API are too many at once: 403 or 429 ("Rate limits for the REST API")."""
        self._secondary += [(status, retry_after)] * times

    def exhaust(self, person: Person) -> None:
        """Everything that this person may ask in this hour is asked."""
        while self.spent(person.id, HOUR) < self.limit:
            self.spend(person.id, HOUR)

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
            raise Refused(_error(401, "Requires authentication"))
        if call.parts["client_id"] != self.client_id:
            raise _not_found()
        value = call.fields().get("access_token")
        if not value:
            raise Refused(_error(422, "Validation Failed"))
        token = self.live(value)
        if token is None or token.kind != "oauth":
            raise _not_found()
        return token

    # The API's manners

    async def guarded(self, route: Route, call: Call) -> Response:
        if not call.request.url.path.startswith(API):
            return await route.handler(call)
        headers = self._manners()
        if not call.request.headers.get("user-agent"):
            told = "Request forbidden by administrative rules. Please make sure your request has a User-Agent"
            return PlainTextResponse(told + " header.\n", 403)
        if "/applications/" in call.request.url.path:
            return await self._with(headers, route, call)
        if self._secondary:
            status, seconds = self._secondary.pop(0)
            why = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
            return _error(status, why, headers | {"Retry-After": str(seconds)})
        if given := self._given(call.request):
            call.token = self.live(given)
            if call.token is None:
                return _error(401, "Bad credentials", headers)
            if call.token.kind != "fine-grained":
                headers["X-OAuth-Scopes"] = ", ".join(call.token.scopes)
                if call.token.kind == "oauth":
                    headers["X-OAuth-Client-Id"] = self.client_id
            if call.token.expires_at:  # "Token expiration and revocation"
                headers["GitHub-Authentication-Token-Expiration"] = f"{call.token.expires_at:%F %T} UTC"
        return await self._limited(headers, route, call)

    async def _limited(self, headers: dict[str, str], route: Route, call: Call) -> Response:
        """https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api"""
        who, limit = (call.person.id, self.limit) if call.person else (0, 60)
        spent = self.spent(who, HOUR)
        free = route.handler == self._rate_limit
        if spent >= limit and not free:
            told = f"API rate limit exceeded for user ID {who}. If you reach out to GitHub Support for help"
            return _error(403, told, headers | self._rates(who, limit, limit))
        response = await self._with(headers, route, call)
        if response.status_code != 304 and not free:  # "Use conditional requests", in "Best practices"
            spent = self.spend(who, HOUR)
        response.headers.update(self._rates(who, limit, spent))
        return response

    def _rates(self, who: int, limit: int, spent: int) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(limit - spent, 0)),
            "X-RateLimit-Used": str(min(spent, limit)),
            "X-RateLimit-Reset": str(self.window_ends(who, HOUR)),
            "X-RateLimit-Resource": "core",
        }

    async def _with(self, headers: Mapping[str, str], route: Route, call: Call) -> Response:
        try:
            response = await route.handler(call)
        except Refused as refused:
            response = refused.response
        response = conditional(call, response)
        response.headers.update(headers)
        return response

    def _manners(self) -> dict[str, str]:
        return {
            "X-GitHub-Media-Type": "github.v3; format=json",
            "X-GitHub-Request-Id": secrets.token_hex(8).upper(),
            "X-GitHub-Enterprise-Version": "3.17.0",
        }

    def _given(self, request: Request) -> str | None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() in ("bearer", "token"):
            return value
        basic = self.basic(request)
        return basic[1] if basic else None

    def _must(self, call: Call, *scopes: str) -> Person:
        """The person, whose token has one of these scopes where it is one that has scopes at all."""
        if call.token is None:
            raise Refused(_error(401, "Requires authentication"))
        if scopes and not self._may(call.token, scopes):
            raise Refused(_error(403, f"Your token has not been granted the required scopes: {scopes[0]}"))
        return call.token.person

    def _may(self, token: Token | None, scopes: Iterable[str]) -> bool:
        if token is None:
            return False
        return token.kind == "fine-grained" or bool(_all(token.scopes) & set(scopes))

    def _sees(self, repository: Repository, token: Token | None) -> bool:
        """Whether a token is let to a repository; a private one needs `repo`."""
        if not repository.private:
            return True
        return self._may(token, ("repo",)) and repository.level(token.person if token else None) > 0

    # https://docs.github.com/en/rest/users

    async def _meta(self, call: Call) -> Response:
        return JSONResponse({"verifiable_password_authentication": True, "installed_version": "3.17.0"})

    async def _rate_limit(self, call: Call) -> Response:
        who, limit = (call.person.id, self.limit) if call.person else (0, 60)
        spent = min(self.spent(who, HOUR), limit)
        core = {
            "limit": limit,
            "used": spent,
            "remaining": limit - spent,
            "reset": self.window_ends(who, HOUR),
        }
        return JSONResponse({"resources": {"core": core}, "rate": core})

    async def _user(self, call: Call) -> Response:
        person = self._must(call)
        told = account(self, place(self, person))
        mail = person.email if self._may(call.token, ("user",)) else None
        more = {"name": person.name, "email": mail, "created_at": "2020-01-01T00:00:00Z", "company": None}
        return JSONResponse(told | more)

    async def _emails(self, call: Call) -> Response:
        person = self._must(call)
        if not self._may(call.token, ("user:email",)):
            raise _not_found()
        mail = {"email": person.email, "primary": True, "verified": True, "visibility": "private"}
        return JSONResponse([mail])

    async def _orgs(self, call: Call) -> Response:
        """https://docs.github.com/en/rest/orgs/orgs: 403 without a scope for it."""
        person = self._must(call)
        if not self._may(call.token, ("read:org", "user")):
            told = "You need at least read:org scope or user scope to list your organizations"
            raise Refused(_error(403, told))
        mine = [one for one in self.owners if one.person is None and person.id in one.access]
        return self._paged(call, [account(self, owner) for owner in mine])

    # https://docs.github.com/en/rest/repos/repos

    async def _my_repositories(self, call: Call) -> Response:
        person = self._must(call)
        query = call.query
        if "type" in query and query.keys() & {"visibility", "affiliation"}:
            told = "If you specify visibility or affiliation, you cannot specify type."
            raise Refused(_error(422, told))
        kinds = query.get("affiliation", "owner,collaborator,organization_member").split(",")
        found = [
            one
            for one in self.repositories
            if one.level(person) and self._sees(one, call.token) and _affiliation(one, person) in kinds
        ]
        hidden = [org for org in self.sso if person.id in org.access]
        found = [one for one in found if one.owner not in hidden]
        visibility = query.get("visibility", "all")
        if visibility != "all":
            found = [one for one in found if one.private == (visibility == "private")]
        response = self._paged(call, self._sorted(call, found), "repo")
        if hidden:  # "Authenticating to the REST API", SAML single sign-on
            numbers = ",".join(str(org.id) for org in hidden)
            response.headers["X-GitHub-SSO"] = f"partial-results; organizations={numbers}"
        return response

    async def _org_repositories(self, call: Call) -> Response:
        org = self.owner(call.parts["org"])
        if org is None or org.person:
            raise _not_found()
        found = [
            one
            for one in self.repositories
            if one.owner is org
            and self._sees(one, call.token)
            and {"public": not one.private, "private": one.private}.get(call.query.get("type", "all"), True)
        ]
        return self._paged(call, self._sorted(call, found), "repo")

    def _sorted(self, call: Call, found: list[Repository]) -> list[Json]:
        keys = {"created": lambda r: r.created_at, "updated": lambda r: r.pushed_at}
        keys["pushed"] = keys["updated"]
        sort = call.query.get("sort", "full_name")
        down = call.query.get("direction", "asc" if sort == "full_name" else "desc") == "desc"
        found = sorted(found, key=keys.get(sort, lambda r: r.full_name.lower()), reverse=down)
        return [repository_of(self, one, call.person) for one in found]

    async def _repository(self, call: Call) -> Response:
        repository = self._reached(call)
        response = JSONResponse(repository_of(self, repository, call.person))
        response.headers["X-Accepted-OAuth-Scopes"] = "repo"
        return response

    async def _create_mine(self, call: Call) -> Response:
        person = self._must(call)
        return self._create(call, place(self, person))

    async def _create_for_org(self, call: Call) -> Response:
        person = self._must(call)
        org = self.owner(call.parts["org"])
        if org is None or org.person:
            raise _not_found()
        if org.access.get(person.id, 0) < WRITE:
            raise Refused(_error(403, "You need admin access to the organization before adding a repository"))
        return self._create(call, org)

    def _create(self, call: Call, owner: Owner) -> Response:
        fields = call.fields()
        private = bool(fields.get("private", fields.get("visibility") == "private"))
        if not self._may(call.token, ("repo",) if private else ("public_repo",)):
            raise _not_found()  # as GitHub answers where a scope is missing
        name = fields.get("name")
        if not isinstance(name, str) or not name.strip("."):
            raise Refused(_invalid("Repository", "name", "missing_field", "Repository creation failed."))
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
        if self.repository(f"{owner.login}/{name}"):
            told = "name already exists on this account"
            raise Refused(_invalid("Repository", "name", "custom", "Repository creation failed.", told))
        repository = self._make(owner, name, private, "sha1")
        repository.description = fields.get("description")
        if fields.get("auto_init"):
            repository.work.commit("main", {"README.md": f"# {name}\n".encode()})
            repository.settle()
        answer = JSONResponse(repository_of(self, repository, call.person), 201)
        answer.headers["Location"] = f"{self.api_url}/repos/{repository.full_name}"
        return answer

    def _reached(self, call: Call) -> Repository:
        """The repository of the path; what may not be seen is not there. Raises Refused."""
        if "id" in call.parts:
            repository = self.numbered(number(call.parts["id"], 0, 0))
        else:
            name = f"{call.parts['owner']}/{call.parts['name']}"
            repository = self.repository(name)
            moved = self.moved.get(name.lower())
            if repository is None and moved and self._sees(moved, call.token):
                rest = call.request.url.path.split(f"/{call.parts['name']}", 1)[1]
                url = f"{self.api_url}/repositories/{moved.id}{rest}"
                told = {
                    "message": "Moved Permanently",
                    "url": url,
                    "documentation_url": f"{DOCS}/guides/best-practices",
                }
                # 307 where it is no GET ("Follow redirects", in "Best practices for using the REST API")
                status = 301 if call.request.method == "GET" else 307
                raise Refused(JSONResponse(told, status, {"Location": url}))
        if repository is None or not self._sees(repository, call.token):
            raise _not_found()
        if repository.owner in self.sso:
            why = (
                "Resource protected by organization SAML enforcement. You must grant your OAuth token access"
            )
            url = f"{self.url}/orgs/{repository.owner.login}/sso?authorization_request=1"
            raise Refused(_error(403, why, {"X-GitHub-SSO": f"required; url={url}"}))
        if repository.blocked:
            block = {
                "reason": "dmca",
                "created_at": stamp(self.now()),
                "html_url": "https://github.com/github/dmca",
            }
            raise Refused(JSONResponse({"message": "Repository access blocked", "block": block}, 451))
        return repository

    def _paged(self, call: Call, found: list[Json], accepted: str = "") -> Response:
        """https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api"""
        per_page = min(number(call.query.get("per_page"), 30), MOST)
        page = number(call.query.get("page"), 1)
        last = max(-(-len(found) // per_page), 1)
        links: dict[str, int] = {}
        if page > 1:
            links |= {"prev": min(page - 1, last), "first": 1}
        if page < last:
            links |= {"next": page + 1, "last": last}
        response = JSONResponse(found[(page - 1) * per_page : page * per_page])
        if links:
            base = f"{self.url}{call.request.url.path}"
            response.headers["Link"] = ", ".join(
                f'<{base}?{urlencode(call.query | {"page": str(at)})}>; rel="{rel}"'
                for rel, at in links.items()
            )
        response.headers["X-Accepted-OAuth-Scopes"] = accepted
        return response

    # https://docs.github.com/en/rest/repos/webhooks

    async def _hooks(self, call: Call) -> Response:
        repository = self._for_hooks(call, _READS_HOOKS)
        return self._paged(call, [hook_of(self, hook) for hook in repository.hooks])

    async def _create_hook(self, call: Call) -> Response:
        repository = self._for_hooks(call, _WRITES_HOOKS)
        fields = call.fields()
        if fields.get("name", "web") != "web":
            raise Refused(_invalid("Hook", "name", "invalid"))
        now = self.now()
        hook = Hook(self.next_id(), repository, "", now, now, active=fields.get("active", True) is not False)
        self._configure(hook, fields.get("config"))
        self._set_events(hook, fields.get("events", ["push"]))
        self._check_unique(repository, hook)
        repository.hooks.append(hook)
        self._ping(hook, call.token.person if call.token else repository.owner.person)
        return JSONResponse(hook_of(self, hook), 201, {"Location": hook_of(self, hook)["url"]})

    async def _hook(self, call: Call) -> Response:
        return JSONResponse(hook_of(self, self._its_hook(call, _READS_HOOKS)))

    async def _edit_hook(self, call: Call) -> Response:
        hook = self._its_hook(call, _WRITES_HOOKS)
        fields = call.fields()
        if "config" in fields:
            self._configure(hook, fields["config"])
        events = set(fields.get("events", hook.events))
        events |= set(fields.get("add_events", ()))
        self._set_events(hook, sorted(events - set(fields.get("remove_events", ()))))
        self._check_unique(hook.repository, hook)
        if "active" in fields:
            hook.active = bool(fields["active"])
        hook.updated_at = self.now()
        return JSONResponse(hook_of(self, hook))

    async def _delete_hook(self, call: Call) -> Response:
        hook = self._its_hook(call, _DELETES_HOOKS)
        hook.repository.hooks.remove(hook)
        return Response(status_code=204)

    async def _ping_hook(self, call: Call) -> Response:
        hook = self._its_hook(call, _READS_HOOKS)
        self._ping(hook, call.person)
        return Response(status_code=204)

    async def _deliveries(self, call: Call) -> Response:
        hook = self._its_hook(call, _READS_HOOKS)
        kept = [one for one in reversed(hook.deliveries) if self.now() - one.created_at < KEPT]
        start = number(call.query.get("cursor", "").removeprefix("v1_"), 0, 0)
        per_page = min(number(call.query.get("per_page"), 30), MOST)
        rest = [one for one in kept if not start or one.id <= start]
        response = JSONResponse([delivery_of(self, one) for one in rest[:per_page]])
        if rest[per_page:]:
            query = urlencode(call.query | {"cursor": f"v1_{rest[per_page].id}"})
            response.headers["Link"] = f'<{self.url}{call.request.url.path}?{query}>; rel="next"'
        return response

    async def _delivery(self, call: Call) -> Response:
        delivery = self._its_delivery(call)
        more = {
            "url": delivery.hook.url,
            "request": {"headers": delivery.headers, "payload": delivery.payload},
            "response": {"headers": delivery.answer_headers, "payload": delivery.answer},
        }
        return JSONResponse(delivery_of(self, delivery) | more)

    async def _redeliver(self, call: Call) -> Response:
        self.outbox.put(self.again(self._its_delivery(call, _WRITES_HOOKS)))
        return JSONResponse({}, 202)

    def _for_hooks(self, call: Call, scopes: tuple[str, ...]) -> Repository:
        """Hooks are for admins, and not there for others; their scopes do not need `repo`."""
        if call.token is None:
            raise Refused(_error(401, "Requires authentication"))
        token = call.token
        seen = Token(token.value, token.person, ("repo",), token.kind, token.id, token.created_at)
        call.token = seen if token.kind != "fine-grained" else token
        repository = self._reached(call)
        call.token = token
        wanted = tuple(one for one in scopes if one != "public_repo" or not repository.private)
        if repository.level(token.person) < ADMIN or not self._may(token, wanted):
            raise _not_found(scopes)
        return repository

    def _its_hook(self, call: Call, scopes: tuple[str, ...]) -> Hook:
        repository = self._for_hooks(call, scopes)
        for hook in repository.hooks:
            if str(hook.id) == call.parts["hook"]:
                return hook
        raise _not_found()

    def _its_delivery(self, call: Call, scopes: tuple[str, ...] = _READS_HOOKS) -> Delivery:
        for delivery in self._its_hook(call, scopes).deliveries:
            if str(delivery.id) == call.parts["delivery"]:
                return delivery
        raise _not_found()

    def _configure(self, hook: Hook, config: object) -> None:
        """A config replaces the one before, with its secret."""
        if not isinstance(config, dict) or not config.get("url"):
            raise Refused(_invalid("Hook", "url", "missing_field"))
        url = urlsplit(str(config["url"]))
        if url.scheme not in ("http", "https") or not url.hostname:
            told = "url is missing a scheme" if not url.scheme else "url is not valid"
            raise Refused(_invalid("Hook", "url", "custom", message=told))
        if self.public_hooks and url.hostname in ("localhost", "127.0.0.1", "::1"):
            told = "url is not supported because it isn't reachable over the public Internet"
            raise Refused(_invalid("Hook", "url", "custom", message=f"{told} ({url.hostname})"))
        kind = config.get("content_type", "form")
        if kind not in ("json", "form"):
            raise Refused(_invalid("Hook", "content_type", "invalid"))
        hook.url, hook.content_type = str(config["url"]), kind
        hook.secret = str(config["secret"]) if config.get("secret") else None
        hook.verify = str(config.get("insecure_ssl", "0")) != "1"

    def _set_events(self, hook: Hook, events: object) -> None:
        if not isinstance(events, list) or not events or not set(events) <= EVENTS:
            raise Refused(_invalid("Hook", "events", "invalid"))
        hook.events = tuple(sorted(set(events)))

    def _check_unique(self, repository: Repository, hook: Hook) -> None:
        """Hooks of one config share no event ("About webhooks"); there are 20 for an event at most."""
        others = [one for one in repository.hooks if one is not hook]
        for one in others:
            same = (one.url, one.content_type, one.verify) == (hook.url, hook.content_type, hook.verify)
            if same and set(one.events) & set(hook.events):
                told = "Hook already exists on this repository"
                raise Refused(_invalid("Hook", None, "custom", message=told))
        for event in hook.events:
            if sum(event in one.events for one in others) >= HOOKS:
                told = f'The "{event}" event cannot have more than {HOOKS} hooks'
                raise Refused(_invalid("Hook", None, "custom", message=told))

    # https://docs.github.com/en/webhooks/webhook-events-and-payloads

    def tell_push(self, repository: Repository, moves: Sequence[Move], by: Person) -> None:
        tags = [move for move in moves if move.name.startswith(b"refs/tags/")]
        heads = [move for move in moves if move.name.startswith(b"refs/heads/")]
        for move in heads + (tags if len(tags) <= TAGS else []):
            if "push" in {event for hook in repository.hooks for event in _events(hook)}:
                self._tell(repository, "push", push_of(self, repository, move, by), by)
            if move.before is None or move.after is None:
                event = "create" if move.before is None else "delete"
                self._tell(repository, event, made_of(self, repository, move, event == "create"), by)

    def disable_hook(self, hook: Hook) -> None:
        """Somebody switched it off in the settings."""
        hook.active = False

    def answered(self, delivery: Delivery) -> None:
        """GitHub goes on, whatever a receiver says."""

    def tell_change(self, repository: Repository, action: str, changes: Json) -> None:
        by = repository.owner.person or self.people[0]
        told = {"action": action} | ({"changes": changes} if changes else {})
        self._tell(repository, "repository", told, by)

    def change_of_owner(self, old: Owner) -> Json:
        kind = "user" if old.person else "organization"
        return {"owner": {"from": {kind: account(self, old)}}}

    def _ping(self, hook: Hook, by: Person | None) -> None:
        told = {
            "zen": "Keep it logically awesome.",
            "hook_id": hook.id,
            "hook": hook_of(self, hook),
        }
        self._queue(hook, "ping", told, by or self.people[0])

    def _tell(self, repository: Repository, event: str, payload: Json, by: Person) -> None:
        for hook in repository.hooks:
            if hook.active and event in _events(hook):
                self._queue(hook, event, payload, by)

    def _queue(self, hook: Hook, event: str, payload: Json, by: Person) -> None:
        about = repository_of(self, hook.repository, None)
        if event == "push":  # seconds in a push, text in all others
            about["created_at"] = int(hook.repository.created_at.timestamp())
            about["pushed_at"] = int(hook.repository.pushed_at.timestamp())
            about["owner"] |= {"name": about["owner"]["login"], "email": None}
        payload = payload | {"repository": about}
        if hook.repository.owner.person is None:
            payload["organization"] = account(self, hook.repository.owner)
        payload["sender"] = account(self, place(self, by))
        text = json.dumps(payload)
        if len(text) > BODY:
            return
        form = hook.content_type == "form"
        body = (urlencode({"payload": text}) if form else text).encode()
        guid = str(uuid.uuid4())
        headers = {
            "Accept": "*/*",
            "Content-Type": "application/x-www-form-urlencoded" if form else "application/json",
            "User-Agent": "GitHub-Hookshot/044aadd",
            "X-GitHub-Delivery": guid,
            "X-GitHub-Event": event,
            "X-GitHub-Hook-ID": str(hook.id),
            "X-GitHub-Hook-Installation-Target-ID": str(hook.repository.id),
            "X-GitHub-Hook-Installation-Target-Type": "repository",
            "X-GitHub-Enterprise-Host": urlsplit(self.url).netloc,
            "X-GitHub-Enterprise-Version": "3.17.0",
        }
        self.outbox.put(
            self._signed(Delivery(self.next_id(), guid, hook, event, payload, body, headers, self.now()))
        )

    def _signed(self, delivery: Delivery) -> Delivery:
        """https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries"""
        for name in ("X-Hub-Signature", "X-Hub-Signature-256"):
            delivery.headers.pop(name, None)
        if secret := delivery.hook.secret:
            for name, method in (("X-Hub-Signature", "sha1"), ("X-Hub-Signature-256", "sha256")):
                digest = hmac.new(secret.encode(), delivery.body, method).hexdigest()
                delivery.headers[name] = f"{method}={digest}"
        return delivery

    def again(self, delivery: Delivery) -> Delivery:
        """A redelivery keeps the GUID, and is signed with the secret of now."""
        headers = dict(delivery.headers)
        parts = (delivery.hook, delivery.event, delivery.payload, delivery.body, headers, self.now(), True)
        return self._signed(Delivery(self.next_id(), delivery.guid, *parts))

    # What is told of people and repositories

    # Git

    def enter(
        self, name: str, what: str, writes: bool, request: Request, given: tuple[str, str] | None
    ) -> tuple[Repository, Person | None]:
        token = self.live(given[1]) if given else None
        who = {"WWW-Authenticate": 'Basic realm="GitHub"'}
        if given and token is None:
            raise Refused(PlainTextResponse("Invalid username or token.\n", 401, who))
        repository = self.repository(name)
        moved = self.moved.get(name.lower())
        if repository is None and moved and self._sees(moved, token):
            query = f"?{request.url.query}" if request.url.query else ""
            raise Refused(RedirectResponse(f"{self.url}/{moved.full_name}.git/{what}{query}", 301))
        if repository is None or not self._sees(repository, token):
            if given is None:
                raise Refused(PlainTextResponse("Repository not found.\n", 401, who))
            raise Refused(PlainTextResponse("Repository not found.\n", 404))
        if repository.blocked:
            told = f"Repository '{repository.full_name}' is disabled.\n"
            raise Refused(PlainTextResponse(told, 403))
        if writes:
            self._may_push(repository, token, who)
        return repository, token.person if token else None

    def _may_push(self, repository: Repository, token: Token | None, who: Mapping[str, str]) -> None:
        if token is None:
            raise Refused(PlainTextResponse("Authentication required.\n", 401, who))
        if repository.archived:
            told = "This repository was archived so it is read-only.\n"
            raise Refused(PlainTextResponse(told, 403))
        scopes = ("repo",) if repository.private else ("repo", "public_repo")
        if repository.level(token.person) < WRITE or not self._may(token, scopes):
            told = f"Permission to {repository.full_name}.git denied to {token.person.login}.\n"
            raise Refused(PlainTextResponse(told, 403))


def _all(scopes: Iterable[str]) -> set[str]:
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


def _affiliation(repository: Repository, person: Person) -> str:
    if repository.owner.person is person:
        return "owner"
    return "organization_member" if person.id in repository.owner.access else "collaborator"


def _events(hook: Hook) -> frozenset[str]:
    return EVENTS if "*" in hook.events else frozenset(hook.events)


def _denied(told: str) -> dict[str, str]:
    return {"error": "access_denied", "error_description": told, "error_uri": f"{DOCS}/oauth"}


def _token_error(error: str, told: str) -> Json:
    uri = "/apps/oauth-apps/maintaining-oauth-apps/troubleshooting-oauth-app-access-token-request-errors"
    return {"error": error, "error_description": told, "error_uri": f"https://docs.github.com{uri}"}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    told = {"message": message, "documentation_url": DOCS, "status": str(status)}
    return JSONResponse(told, status, dict(headers or {}))


def _not_found(scopes: Sequence[str] = ()) -> Refused:
    return Refused(_error(404, "Not Found", {"X-Accepted-OAuth-Scopes": ", ".join(scopes)}))


def _invalid(
    resource: str,
    field: str | None,
    code: str,
    why: str = "Validation Failed",
    message: str | None = None,
) -> Response:
    error = {"resource": resource, "code": code}
    error |= {"field": field} if field else {}
    error |= {"message": message} if message else {}
    return JSONResponse({"message": why, "errors": [error], "documentation_url": DOCS}, 422)
