"""GitLab's REST API over people, groups and projects: who is let in, how often, and what may be seen."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.parts.forges.calls import Call, Refused, Route, conditional, number
from tests.parts.forges.gitlab_oauth import GitLabOAuth
from tests.parts.forges.gitlab_told import (
    API,
    VERSION,
    group_of,
    moment,
    namespace_of,
    oauth_error,
    project_of,
    said,
    true,
    visibility,
)
from tests.parts.forges.world import (
    ADMIN,
    MAINTAIN,
    READ,
    WRITE,
    Json,
    Owner,
    Person,
    Repository,
    Token,
)

MINUTE: Final = timedelta(minutes=1)
OFFSET: Final = 50_000  # of offset pagination ("REST API", pagination)
PROJECT: Final = API + "/projects/{id}"


class GitLabApi(GitLabOAuth):
    """The part of a GitLab that tells of people, groups and projects."""

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.limit = 2000  # requests of a person in a minute ("GitLab.com settings", rate limits)
        r = self.route
        r("GET", API + "/version", self._version)
        r("GET", API + "/metadata", self._version)
        r("GET", API + "/user", self._user)
        r("GET", API + "/personal_access_tokens/self", self._self)
        r("GET", API + "/namespaces", self._namespaces)
        r("GET", API + "/groups", self._groups)
        r("GET", API + "/groups/{group}/projects", self._group_projects)
        r("GET", API + "/projects", self._projects)
        r("POST", API + "/projects", self._create)
        r("GET", PROJECT, self._project)
        r("PUT", PROJECT, self._edit)

    def exhaust(self, person: Person) -> None:
        """Everything that this person may ask in this minute is asked."""
        while self.spent(person.id, MINUTE) < self.limit:
            self.spend(person.id, MINUTE)

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
            raise Refused(said(401, "401 Unauthorized"))
        if token.revoked:
            told = "Token was revoked. You have to re-authorize from the user."
            raise Refused(oauth_error(401, "invalid_token", told))
        if token.expires_at and token.expires_at <= self.now():
            told = "Token is expired. You can either do re-authorization or token refresh."
            raise Refused(oauth_error(401, "invalid_token", told))
        return token

    def _must(self, call: Call, *scopes: str) -> Person:
        """The person, whose token has one of these scopes. Raises Refused."""
        if call.token is None:
            raise Refused(said(401, "401 Unauthorized"))
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
            raise Refused(said(401, "401 Unauthorized"))
        token = call.token
        if token.kind != "personal":
            return said(
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
            return said(404, "404 Group Not Found")
        deep = true(call.query.get("include_subgroups", False))
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
        if person and true(query.get("membership", False)):
            found = [one for one in found if one.level(person)]
        if person and true(query.get("owned", False)):
            found = [one for one in found if one.level(person) >= ADMIN]
        if person and "min_access_level" in query:
            found = [one for one in found if one.level(person) >= number(query["min_access_level"], 0, 0)]
        if "visibility" in query:
            found = [one for one in found if visibility(one) == query["visibility"]]
        if "archived" in query:
            found = [one for one in found if one.archived == true(query["archived"])]
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
        return min(number(call.query.get("per_page"), 20), self.most)

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
        if true(call.query.get("statistics", False)) and project.level(call.person) >= READ:
            size = sum(file.stat().st_size for file in project.path.rglob("*") if file.is_file())
            told["statistics"] = {"commit_count": 1, "storage_size": size, "repository_size": size}
        return JSONResponse(told)

    async def _edit(self, call: Call) -> Response:
        """https://docs.gitlab.com/api/projects/#edit-a-project: the default branch, of it."""
        person = self._must(call, "api")
        project, branch = self._reached(call), call.fields().get("default_branch")
        if project.level(person) < MAINTAIN:
            return said(403, "403 Forbidden")
        if branch is not None:
            if f"refs/heads/{branch}".encode() not in project.work.refs():
                told = f"Could not set the default branch. Do you have a branch named '{branch}'?"
                return JSONResponse({"message": {"base": [told]}}, 400)
            project.work.head(str(branch))
            project.default_branch = str(branch)
        return JSONResponse(project_of(self, project, person))

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
        if true(fields.get("initialize_with_readme", False)):
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
                raise Refused(said(405, told))
            rest = call.request.scope["raw_path"].decode()[len(API + "/projects/") :].partition("/")[2]
            query = f"?{call.request.url.query}" if call.request.url.query else ""
            url = f"{self.api_url}/projects/{moved.id}{'/' + rest if rest else ''}{query}"
            raise Refused(JSONResponse({"message": "301 Moved Permanently"}, 301, {"Location": url}))
        if project is None or not self.visible(project, call.person):
            raise Refused(said(404, "404 Project Not Found"))
        if project.blocked:
            raise Refused(said(403, "403 Forbidden"))
        return project
