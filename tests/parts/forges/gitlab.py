"""GitLab as a double: OAuth with refresh tokens, the REST API below /api/v4, project webhooks, git over HTTP.

Rules are from https://docs.gitlab.com (the page is named at each) and, where
that is silent, from what GitLab's own code does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mirror.model import RefName
from tests.parts.forges.calls import MOST, Call, Refused, Route, conditional, number, with_query
from tests.parts.forges.gitlab_told import (
    delivery_of,
    group_of,
    moment,
    namespace_of,
    project_of,
    push_of,
    visibility,
)
from tests.parts.forges.host import Host
from tests.parts.forges.world import (
    ADMIN,
    MAINTAIN,
    READ,
    WRITE,
    Delivery,
    Hook,
    Json,
    Move,
    Owner,
    Person,
    Repository,
    Token,
)

API: Final = "/api/v4"
LIFE: Final = timedelta(seconds=7200)  # of an access token ("OAuth 2.0 identity provider API")
MINUTE: Final = timedelta(minutes=1)
VERSION: Final = "19.1.0"
HOOKS: Final = 100  # of a project ("GitLab.com settings", webhooks)
OFFSET: Final = 50_000  # of offset pagination ("REST API", pagination)
GIVES_UP: Final = 4  # failures in a row that disable a hook for a while ("Webhooks", auto-disabled)
FOR_GOOD: Final = 40
KEPT: Final = timedelta(days=7)  # deliveries ("Project webhooks API", events)
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
FLAGS: Final = (
    *("push_events", "tag_push_events", "issues_events", "confidential_issues_events", "note_events"),
    *("confidential_note_events", "merge_requests_events", "job_events", "pipeline_events"),
    *("wiki_page_events", "deployment_events", "feature_flag_events", "releases_events"),
    *("repository_update_events", "resource_access_token_events", "milestone_events", "emoji_events"),
)
_TRIGGERS: Final = {"push_hooks": "Push Hook", "tag_push_hooks": "Tag Push Hook"}
_PAGING: Final = ("page", "per_page", "order_by", "sort", "pagination", "id_after")


class GitLab(Host):
    """A GitLab; its OAuth application sends people back to one of `callbacks`, on loopback at any port."""

    kind = "gitlab"

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.api_url = url + API
        self.callbacks = ["http://127.0.0.1/auth/gitlab/callback"]
        self.app_scopes: tuple[str, ...] = SCOPES  # that the application was registered with
        self.limit = 2000  # requests of a person in a minute ("GitLab.com settings", rate limits)
        self.signing = True  # feature flag webhook_signing_token, and 19.0; else its field is ignored
        self.local_hooks = True  # whether hooks to loopback are allowed, as an administrator can
        self.push_event_hooks_limit = 3  # refs of one push; with more of them no hook hears of it
        r = self.route
        r("GET", "/oauth/authorize", self._ask)
        r("POST", "/oauth/authorize", self._decided)
        r("POST", "/oauth/token", self._token)
        r("GET", "/oauth/token/info", self._token_info)
        r("POST", "/oauth/revoke", self._revoke)
        r("GET", API + "/version", self._version)
        r("GET", API + "/metadata", self._version)
        r("GET", API + "/user", self._user)
        r("GET", API + "/personal_access_tokens/self", self._self)
        r("GET", API + "/namespaces", self._namespaces)
        r("GET", API + "/groups", self._groups)
        r("GET", API + "/groups/{group}/projects", self._group_projects)
        r("GET", API + "/projects", self._projects)
        r("POST", API + "/projects", self._create)
        project = API + "/projects/{id}"
        r("GET", project, self._project)
        r("GET", project + "/hooks", self._hooks)
        r("POST", project + "/hooks", self._create_hook)
        r("GET", project + "/hooks/{hook}", self._hook)
        r("PUT", project + "/hooks/{hook}", self._edit_hook)
        r("DELETE", project + "/hooks/{hook}", self._delete_hook)
        r("POST", project + "/hooks/{hook}/test/{trigger}", self._test_hook)
        r("GET", project + "/hooks/{hook}/events", self._events)
        r("POST", project + "/hooks/{hook}/events/{event}/resend", self._resend)

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

    def exhaust(self, person: Person) -> None:
        """Everything that this person may ask in this minute is asked."""
        while self.spent(person.id, MINUTE) < self.limit:
            self.spend(person.id, MINUTE)

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
                return _oauth_error(400, "invalid_grant", _GRANT)
            code.used = True
            return self._issued(code.person, code.scopes)
        if form.get("grant_type") == "refresh_token":
            given = form.get("refresh_token") or ""
            old = next((one for one in self.tokens if one.refresh and one.refresh == given), None)
            if old is None or old.person.deleted:
                return _oauth_error(400, "invalid_grant", _GRANT)
            old.revoked, old.refresh = True, None
            return self._issued(old.person, old.scopes)
        told = "The authorization grant type is not supported by the authorization server."
        return _oauth_error(400, "unsupported_grant_type", told)

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
            raise Refused(_oauth_error(status, error, f"{told} or unsupported authentication method."))

    async def _token_info(self, call: Call) -> Response:
        scheme, _, value = call.request.headers.get("authorization", "").partition(" ")
        token = self.live(value) if scheme.lower() == "bearer" else None
        if token is None or token.kind != "oauth":
            return _oauth_error(401, "invalid_token", "The access token was revoked")
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

    # The API's manners

    async def guarded(self, route: Route, call: Call) -> Response:
        if not call.request.url.path.startswith(API):
            return await route.handler(call)
        try:
            call.token = self._let_in(call)
        except Refused as refused:
            return refused.response
        who = call.person.id if call.person else 0
        used = self.spend(who, MINUTE)
        rates = self._rates(who, used)
        if used > self.limit:  # https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/
            wait = self.window_ends(who, MINUTE) - int(self.now().timestamp())
            return PlainTextResponse("Retry later\n", 429, rates | {"Retry-After": str(max(wait, 1))})
        try:
            response = await route.handler(call)
        except Refused as refused:
            response = refused.response
        response = conditional(call, response)  # as Rack does; it counts all the same
        response.headers.update(rates | {"X-Request-Id": uuid.uuid4().hex})
        return response

    def _rates(self, who: int, used: int) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Name": "throttle_authenticated_api" if who else "throttle_unauthenticated_api",
            "RateLimit-Observed": str(used),
            "RateLimit-Remaining": str(max(self.limit - used, 0)),
            "RateLimit-Reset": str(self.window_ends(who, MINUTE)),
        }

    def _let_in(self, call: Call) -> Token | None:
        """https://docs.gitlab.com/api/rest/authentication/; the words are those of lib/api/api_guard.rb."""
        headers = call.request.headers
        scheme, _, value = headers.get("authorization", "").partition(" ")
        bearer = value if scheme.lower() == "bearer" else call.query.pop("access_token", "")
        private = headers.get("private-token") or call.query.pop("private_token", "")
        if not bearer and not private:
            return None
        token = self.token(bearer or private)
        if token is None or (not bearer and token.kind != "personal"):
            raise Refused(_said(401, "401 Unauthorized"))
        if token.revoked:
            told = "Token was revoked. You have to re-authorize from the user."
            raise Refused(_oauth_error(401, "invalid_token", told))
        if token.expires_at and token.expires_at <= self.now():
            told = "Token is expired. You can either do re-authorization or token refresh."
            raise Refused(_oauth_error(401, "invalid_token", told))
        return token

    def _must(self, call: Call, *scopes: str) -> Person:
        """The person, whose token has one of these scopes. Raises Refused."""
        if call.token is None:
            raise Refused(_said(401, "401 Unauthorized"))
        self._scoped(call, *scopes)
        return call.token.person

    def _scoped(self, call: Call, *scopes: str) -> None:
        if call.token and not set(call.token.scopes) & set(scopes):
            told = "The request requires higher privileges than provided by the access token."
            error = {"error": "insufficient_scope", "error_description": told, "scope": " ".join(scopes)}
            raise Refused(JSONResponse(error, 403))

    # https://docs.gitlab.com/api/users/, /api/personal_access_tokens/, /api/groups/

    async def _version(self, call: Call) -> Response:
        self._must(call, "api", "read_api", "read_user")
        return JSONResponse({"version": VERSION, "revision": "0a1b2c3d4e5", "enterprise": False})

    async def _user(self, call: Call) -> Response:
        person = self._must(call, "api", "read_api", "read_user")
        return JSONResponse(
            {
                "id": person.id,
                "username": person.login,
                "name": person.name,
                "state": "active",
                "locked": False,
                "avatar_url": None,
                "web_url": f"{self.url}/{person.login}",
                "created_at": "2020-01-01T00:00:00.000Z",
                "email": person.email,
                "public_email": "",
                "bot": False,
            }
        )

    async def _self(self, call: Call) -> Response:
        if call.token is None:
            raise Refused(_said(401, "401 Unauthorized"))
        token = call.token
        if token.kind != "personal":
            return _said(
                400, "400 Bad request - This endpoint requires token type to be a personal access token"
            )
        return JSONResponse(
            {
                "id": token.id,
                "name": "everref",
                "revoked": False,
                "created_at": moment(token.created_at),
                "scopes": list(token.scopes),
                "user_id": token.person.id,
                "last_used_at": moment(self.now()),
                "active": True,
                "expires_at": f"{token.expires_at:%Y-%m-%d}" if token.expires_at else None,
            }
        )

    async def _namespaces(self, call: Call) -> Response:
        person = self._must(call, "api", "read_api")
        mine = [one for one in self.owners if one.person is person or one.access.get(person.id, 0) >= WRITE]
        return self._paged(call, [namespace_of(self, owner) for owner in mine])

    async def _groups(self, call: Call) -> Response:
        person = self._must(call, "api", "read_api")
        least = number(call.query.get("min_access_level"), 1)
        mine = [one for one in self.owners if one.person is None and one.access.get(person.id, 0) >= least]
        return self._paged(call, [group_of(self, group) for group in sorted(mine, key=lambda one: one.login)])

    async def _group_projects(self, call: Call) -> Response:
        self._scoped(call, "api", "read_api")
        wanted = call.parts["group"]
        group = next((one for one in self.owners if wanted in (str(one.id), one.login)), None)
        if group is None or group.person:
            return _said(404, "404 Group Not Found")
        deep = _true(call.query.get("include_subgroups", False))
        found = [
            one
            for one in self.repositories
            if self.visible(one, call.person)
            and (one.owner is group or deep and one.owner.login.startswith(f"{group.login}/"))
        ]
        return self._listed(call, found)

    # https://docs.gitlab.com/api/projects/

    async def _projects(self, call: Call) -> Response:
        self._scoped(call, "api", "read_api")
        person, query = call.person, call.query
        found = [one for one in self.repositories if self.visible(one, person)]
        if person and _true(query.get("membership", False)):
            found = [one for one in found if one.level(person)]
        if person and _true(query.get("owned", False)):
            found = [one for one in found if one.level(person) >= ADMIN]
        if person and "min_access_level" in query:
            found = [one for one in found if one.level(person) >= number(query["min_access_level"], 0, 0)]
        if "visibility" in query:
            found = [one for one in found if visibility(one) == query["visibility"]]
        if "archived" in query:
            found = [one for one in found if one.archived == _true(query["archived"])]
        if search := query.get("search", "").lower():
            found = [one for one in found if search in one.full_name.lower()]
        return self._listed(call, found)

    def _listed(self, call: Call, found: list[Repository]) -> Response:
        """A page of projects: https://docs.gitlab.com/api/rest/#pagination"""
        query = call.query
        order = query.get("order_by", "created_at")
        down = query.get("sort", "desc") == "desc"
        if query.get("pagination") == "keyset":
            return self._keyset(call, found, order, down)
        if (number(query.get("page"), 1) - 1) * self._per_page(call) > OFFSET:
            told = f"Offset pagination has a maximum allowed offset of {OFFSET}"
            return JSONResponse({"error": f"{told} for requests that return objects of type Project."}, 405)
        keys = {"name": lambda r: r.name.lower(), "path": lambda r: r.name.lower(), "id": lambda r: r.id}
        keys |= {"last_activity_at": lambda r: r.pushed_at, "updated_at": lambda r: r.pushed_at}
        found = sorted(found, key=keys.get(order, lambda r: r.id), reverse=down)
        return self._paged(call, [project_of(self, one, call.person) for one in found])

    def _keyset(self, call: Call, found: list[Repository], order: str, down: bool) -> Response:
        if order != "id":
            told = "Keyset pagination is not yet available for this type of request"
            return JSONResponse({"error": told}, 405)
        after, before = call.query.get("id_after"), call.query.get("id_before")
        found = [
            one
            for one in sorted(found, key=lambda one: one.id, reverse=down)
            if one.id > number(after, 0, 0) and (before is None or one.id < number(before, 0, 0))
        ]
        size = self._per_page(call)
        response = JSONResponse([project_of(self, one, call.person) for one in found[:size]])
        if found[size:]:
            edge = "id_before" if down else "id_after"
            query = urlencode(call.query | {edge: str(found[size - 1].id)})
            response.headers["Link"] = f'<{self.url}{call.request.url.path}?{query}>; rel="next"'
        return response

    def _per_page(self, call: Call) -> int:
        return min(number(call.query.get("per_page"), 20), MOST)

    def _paged(self, call: Call, found: list[Json]) -> Response:
        size, page = self._per_page(call), number(call.query.get("page"), 1)
        last = max(-(-len(found) // size), 1)
        response = JSONResponse(found[(page - 1) * size : page * size])
        links = {"prev": page - 1} if page > 1 else {}
        links |= {"next": page + 1} if page < last else {}
        links["first"] = 1
        few = len(found) <= 10_000  # else they are left out ("Response headers")
        if few:
            links["last"] = last
            response.headers.update({"X-Total": str(len(found)), "X-Total-Pages": str(last)})
        base, query = f"{self.url}{call.request.scope['raw_path'].decode()}", call.query
        response.headers["Link"] = ", ".join(
            f'<{base}?{urlencode(query | {"page": str(at), "per_page": str(size)})}>; rel="{rel}"'
            for rel, at in links.items()
        )
        response.headers.update(
            {
                "X-Page": str(page),
                "X-Per-Page": str(size),
                "X-Next-Page": str(page + 1) if page < last else "",
                "X-Prev-Page": str(page - 1) if page > 1 else "",
            }
        )
        return response

    async def _project(self, call: Call) -> Response:
        self._scoped(call, "api", "read_api")
        project = self._reached(call)
        told = project_of(self, project, call.person)
        if _true(call.query.get("statistics", False)) and project.level(call.person) >= READ:
            size = sum(file.stat().st_size for file in project.path.rglob("*") if file.is_file())
            told["statistics"] = {"commit_count": 1, "storage_size": size, "repository_size": size}
        return JSONResponse(told)

    async def _create(self, call: Call) -> Response:
        person = self._must(call, "api")
        fields = call.fields()
        path = fields.get("path") or fields.get("name")
        if not isinstance(path, str):
            return JSONResponse(
                {"error": "name, path are missing, at least one parameter must be provided"}, 400
            )
        own = next(one for one in self.owners if one.person is person)
        owner: Owner | None = own
        if "namespace_id" in fields:
            owner = next((one for one in self.owners if str(one.id) == str(fields["namespace_id"])), None)
        if owner is None or (owner is not own and owner.access.get(person.id, 0) < WRITE):
            return JSONResponse({"message": {"namespace": ["is not valid"]}}, 400)
        path = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path).lower()
        if self.repository(f"{owner.login}/{path}"):
            taken = ["has already been taken"]
            told = {"project_namespace.name": taken, "name": taken, "path": taken}
            return JSONResponse({"message": told}, 400)
        project = self._make(owner, path, fields.get("visibility", "private") != "public", "sha1")
        project.description = fields.get("description")
        if _true(fields.get("initialize_with_readme", False)):
            project.work.commit("main", {"README.md": f"# {path}\n".encode()})
            project.settle()
        return JSONResponse(project_of(self, project, person), 201)

    def _reached(self, call: Call) -> Repository:
        """The project of the path, by id or full path; what may not be seen is not there. Raises Refused."""
        wanted = call.parts["id"]
        project = self.numbered(int(wanted)) if wanted.isdecimal() else self.repository(wanted)
        moved = self.moved.get(wanted.lower())
        if project is None and moved and self.visible(moved, call.person):
            if call.request.method != "GET":
                told = "405 Method Not Allowed: Non GET methods are not allowed for moved projects"
                raise Refused(_said(405, told))
            rest = call.request.scope["raw_path"].decode()[len(API + "/projects/") :].partition("/")[2]
            query = f"?{call.request.url.query}" if call.request.url.query else ""
            url = f"{self.api_url}/projects/{moved.id}{'/' + rest if rest else ''}{query}"
            raise Refused(JSONResponse({"message": "301 Moved Permanently"}, 301, {"Location": url}))
        if project is None or not self.visible(project, call.person):
            raise Refused(_said(404, "404 Project Not Found"))
        if project.blocked:
            raise Refused(_said(403, "403 Forbidden"))
        return project

    # https://docs.gitlab.com/api/project_webhooks/

    async def _hooks(self, call: Call) -> Response:
        project = self._for_hooks(call, "api", "read_api")
        return self._paged(call, [self._told_hook(hook) for hook in project.hooks])

    async def _create_hook(self, call: Call) -> Response:
        project = self._for_hooks(call, "api")
        if len(project.hooks) >= HOOKS:
            told = [f"Maximum number of project hooks ({HOOKS}) exceeded"]
            return JSONResponse({"message": {"base": told}}, 400)
        now = self.now()
        hook = Hook(self.next_id(), project, "", now, now, content_type="json")
        hook.settings = {flag: flag == "push_events" for flag in FLAGS}
        self._configure(hook, call.fields())
        project.hooks.append(hook)
        return JSONResponse(self._told_hook(hook), 201)

    async def _hook(self, call: Call) -> Response:
        return JSONResponse(self._told_hook(self._its_hook(call, "api", "read_api")))

    async def _edit_hook(self, call: Call) -> Response:
        hook = self._its_hook(call, "api")
        self._configure(hook, call.fields())
        hook.updated_at = self.now()
        return JSONResponse(self._told_hook(hook))

    async def _delete_hook(self, call: Call) -> Response:
        hook = self._its_hook(call, "api")
        hook.repository.hooks.remove(hook)
        return Response(status_code=204)

    async def _test_hook(self, call: Call) -> Response:
        """Sent also where the hook is disabled; an answer that is good enables it."""
        hook = self._its_hook(call, "api")
        self._five_a_minute(hook)
        trigger = call.parts["trigger"]
        if trigger not in ("push_events", "tag_push_events"):
            return JSONResponse({"error": "trigger does not have a valid value"}, 400)
        tips = [oid for name, oid in hook.repository.work.refs().items() if name.startswith(b"refs/heads/")]
        if not tips:
            return _said(422, "Ensure the project has at least one commit.")
        branch = f"refs/heads/{hook.repository.default_branch}".encode()
        move = Move(RefName(branch), tips[0], tips[0])
        who = call.person or self.people[0]
        delivery = self._delivery(hook, "push_hooks", push_of(self, hook.repository, move, who))
        await self.outbox.send_now(delivery)
        if delivery.status is None:
            return _said(422, delivery.problem or "the receiver does not answer")
        return JSONResponse({"message": "201 Created"}, 201)

    async def _events(self, call: Call) -> Response:
        hook = self._its_hook(call, "api", "read_api")
        told = []
        for one in reversed(hook.deliveries):
            if self.now() - one.created_at < KEPT and _of_status(one, call.query.get("status")):
                told.append(delivery_of(self, one))
        return self._paged(call, told)

    async def _resend(self, call: Call) -> Response:
        hook = self._its_hook(call, "api")
        self._five_a_minute(hook)
        for delivery in hook.deliveries:
            if str(delivery.id) == call.parts["event"]:
                again = self.again(delivery)
                await self.outbox.send_now(again)
                return JSONResponse({"response_status": again.status or "internal error"}, 201)
        return _said(404, "404 Not found")

    def _five_a_minute(self, hook: Hook) -> None:
        if self.spend(-hook.id, MINUTE) > 5:
            told = "This endpoint has been requested too many times. Try again later."
            raise Refused(JSONResponse({"message": {"error": told}}, 429, {"Retry-After": "60"}))

    def _for_hooks(self, call: Call, *scopes: str) -> Repository:
        """Hooks are for maintainers."""
        person = self._must(call, *scopes)
        project = self._reached(call)
        if project.level(person) < MAINTAIN:
            raise Refused(_said(403, "403 Forbidden"))
        return project

    def _its_hook(self, call: Call, *scopes: str) -> Hook:
        project = self._for_hooks(call, *scopes)
        for hook in project.hooks:
            if str(hook.id) == call.parts["hook"]:
                return hook
        raise Refused(_said(404, "404 Not found"))

    def _configure(self, hook: Hook, fields: Json) -> None:
        if not fields.get("url"):
            raise Refused(JSONResponse({"error": "url is missing"}, 400))
        url = urlsplit(str(fields["url"]))
        local = url.hostname in ("localhost", "127.0.0.1", "::1")
        if url.scheme not in ("http", "https") or not url.hostname or (local and not self.local_hooks):
            raise Refused(JSONResponse({"error": "Invalid url given"}, 422))
        signing = fields.get("signing_token") if self.signing else None
        if signing and not _is_signing_token(signing):
            told = {"signing_token": ["must be in the format whsec_<base64> and encode a 32-byte key"]}
            raise Refused(JSONResponse({"message": told}, 422))
        if hook.url != fields["url"]:  # "When you change the webhook URL, the secret token is reset"
            hook.secret = hook.signing = None
        hook.url = str(fields["url"])
        if "token" in fields:
            hook.secret = "".join(str(fields["token"] or "").splitlines()) or None
        hook.signing = signing or hook.signing
        hook.verify = _true(fields.get("enable_ssl_verification", hook.verify))
        hook.settings |= {flag: _true(fields[flag]) for flag in FLAGS if flag in fields}
        texts = ("name", "description", "push_events_branch_filter", "branch_filter_strategy")
        hook.settings |= {text: fields[text] for text in texts if text in fields}

    def _told_hook(self, hook: Hook) -> Json:
        told = {
            "id": hook.id,
            "url": hook.url,
            "name": None,
            "description": None,
            "created_at": moment(hook.created_at),
            "project_id": hook.repository.id,
            "enable_ssl_verification": hook.verify,
            "alert_status": self.alert_status(hook),
            "disabled_until": moment(hook.disabled_until) if hook.disabled_until else None,
            "url_variables": [],
            "push_events_branch_filter": None,
            "branch_filter_strategy": "wildcard",
            "custom_webhook_template": None,
            "custom_headers": [],
            **hook.settings,
        }
        if self.signing:
            told |= {"token_present": bool(hook.secret), "signing_token_present": bool(hook.signing)}
        return told

    # Disabling: https://docs.gitlab.com/user/project/integrations/webhooks/#auto-disabled-webhooks,
    # and app/models/concerns/web_hooks/auto_disabling.rb

    def alert_status(self, hook: Hook) -> str:
        if hook.failures >= FOR_GOOD:
            return "disabled"
        if hook.failures >= GIVES_UP and hook.disabled_until and hook.disabled_until >= self.now():
            return "temporarily_disabled"
        return "executable"

    def disable_hook(self, hook: Hook, *, for_good: bool = False) -> None:
        """As after so many failures."""
        hook.failures = FOR_GOOD if for_good else GIVES_UP
        hook.disabled_until = self.now() + MINUTE

    def may_send(self, hook: Hook) -> bool:
        return self.alert_status(hook) == "executable"

    def answered(self, delivery: Delivery) -> None:
        hook = delivery.hook
        if delivery.status is not None and 200 <= delivery.status < 400:
            hook.failures, hook.disabled_until = 0, None
            return
        if self.may_send(hook):
            hook.failures += 1
            if hook.failures >= GIVES_UP:
                hook.disabled_until = self.now() + min(
                    MINUTE * 2 ** (hook.failures - GIVES_UP), timedelta(days=1)
                )

    # https://docs.gitlab.com/user/project/integrations/webhook_events/

    def tell_push(self, repository: Repository, moves: Sequence[Move], by: Person) -> None:
        """One delivery for each ref, unless there are too many of them ("Push event limits")."""
        told = [move for move in moves if move.name.startswith((b"refs/heads/", b"refs/tags/"))]
        if len(told) > self.push_event_hooks_limit:
            return
        for move in told:
            trigger = "tag_push_hooks" if move.name.startswith(b"refs/tags/") else "push_hooks"
            payload = push_of(self, repository, move, by)
            for hook in repository.hooks:
                if hook.settings.get(trigger.replace("_hooks", "_events")) and _passes(hook, move):
                    self.outbox.put(self._delivery(hook, trigger, payload))

    def tell_change(self, repository: Repository, action: str, changes: Json) -> None:
        """A project's hooks hear nothing of it."""

    def _delivery(self, hook: Hook, trigger: str, payload: Json) -> Delivery:
        key = str(uuid.uuid4())
        body = json.dumps(payload).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"GitLab/{VERSION}",
            "Idempotency-Key": key,
            "X-Gitlab-Event": _TRIGGERS[trigger],
            "X-Gitlab-Instance": self.url,
            "X-Gitlab-Event-UUID": str(uuid.uuid4()),
        }
        return self._signed(Delivery(self.next_id(), key, hook, trigger, payload, body, headers, self.now()))

    def _signed(self, delivery: Delivery) -> Delivery:
        """The older token as it is, and Standard Webhooks ("Signing tokens")."""
        headers, hook = delivery.headers, delivery.hook
        headers["X-Gitlab-Webhook-UUID"] = str(uuid.uuid4())
        if hook.secret:
            headers["X-Gitlab-Token"] = hook.secret
        if self.signing:
            headers["webhook-id"] = delivery.guid
            headers["webhook-timestamp"] = str(int(delivery.created_at.timestamp()))
        if self.signing and hook.signing:
            start = f"{delivery.guid}.{headers['webhook-timestamp']}.".encode()
            key = b64decode(hook.signing.removeprefix("whsec_"))
            mac = hmac.new(key, start + delivery.body, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{b64encode(mac).decode()}"
        return delivery

    def again(self, delivery: Delivery) -> Delivery:
        """Sent again it keeps its idempotency key, and is signed anew."""
        gone = ("X-Gitlab-Token", "webhook-signature")
        headers = {name: value for name, value in delivery.headers.items() if name not in gone}
        parts = (delivery.hook, delivery.event, delivery.payload, delivery.body, headers, self.now(), True)
        return self._signed(Delivery(self.next_id(), delivery.guid, *parts))

    # What is told of groups and projects

    # Git

    def enter(
        self, name: str, what: str, writes: bool, request: Request, given: tuple[str, str] | None
    ) -> tuple[Repository, Person | None]:
        """The old path of a moved project leads to it still, without a redirect ("Repository redirects")."""
        who = {"WWW-Authenticate": 'Basic realm="GitLab"'}
        token = self.live(given[1]) if given else None
        if given and token is None:  # any user name will do ("Access Git over HTTPS with access token")
            raise Refused(PlainTextResponse("HTTP Basic: Access denied.\n", 401, who))
        project = self.repository(name) or self.moved.get(name.lower())
        person = token.person if token else None
        if project is None or not self.visible(project, person):
            if given is None:
                raise Refused(PlainTextResponse("HTTP Basic: Access denied.\n", 401, who))
            told = (
                "The project you were looking for could not be found or you don't have permission to view it."
            )
            raise Refused(PlainTextResponse(told, 404))
        if project.blocked:
            raise Refused(PlainTextResponse("Your account or project is blocked.\n", 403))
        if token:
            scopes = {"api", "write_repository"} | (set() if writes else {"read_repository"})
            if not set(token.scopes) & scopes:
                raise Refused(PlainTextResponse("HTTP Basic: Access denied.\n", 403))
        if writes:
            if token is None:
                raise Refused(PlainTextResponse("HTTP Basic: Access denied.\n", 401, who))
            if project.archived or project.level(person) < WRITE:
                told = "You are not allowed to push code to this project."
                raise Refused(PlainTextResponse(told, 403))
        elif self.level_for(project, person) < READ:
            raise Refused(PlainTextResponse("You are not allowed to download code from this project.", 403))
        return project, person


_GRANT: Final = (
    "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used "
    "in the authorization request, or was issued to another client."
)


def _oauth_error(status: int, error: str, told: str) -> Response:
    headers = {"WWW-Authenticate": f'Bearer realm="Protected by OAuth 2.0", error="{error}"'}
    return JSONResponse(
        {"error": error, "error_description": told}, status, headers if status == 401 else None
    )


def _said(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status)


def _same_place(callback: str, uri: str) -> bool:
    """Exactly the same, but for the port where both are loopback addresses (doorkeeper's URIChecker)."""
    ours, given = urlsplit(callback), urlsplit(uri)
    if {ours.hostname, given.hostname} <= {"127.0.0.1", "::1"}:
        return (ours.scheme, ours.hostname, ours.path) == (given.scheme, given.hostname, given.path)
    return callback == uri


def _is_signing_token(text: object) -> bool:
    """whsec_ and 32 bytes in base64 ("Project webhooks API")."""
    if not isinstance(text, str) or not text.startswith("whsec_"):
        return False
    try:
        return len(b64decode(text.removeprefix("whsec_"), validate=True)) == 32
    except ValueError:
        return False


def _passes(hook: Hook, move: Move) -> bool:
    wanted = hook.settings.get("push_events_branch_filter")
    if not wanted or not move.name.startswith(b"refs/heads/"):
        return True
    return fnmatchcase(move.name.decode(errors="replace").removeprefix("refs/heads/"), wanted)


def _of_status(delivery: Delivery, wanted: str | None) -> bool:
    if wanted is None:
        return True
    classes = {"successful": 2, "client_failure": 4, "server_failure": 5}
    code = delivery.status or 0
    return code // 100 == classes[wanted] if wanted in classes else str(code) == wanted


def _true(value: object) -> bool:
    return value is True or str(value).lower() in ("true", "1", "yes", "on")
