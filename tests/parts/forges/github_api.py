"""GitHub's REST API over people and repositories: who is let in, how often, and what may be seen."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.parts.forges.calls import Call, Refused, Route, conditional, number, stamp
from tests.parts.forges.github_oauth import GitHubOAuth, with_implied
from tests.parts.forges.github_told import (
    API,
    DOCS,
    account,
    error,
    invalid,
    not_found,
    place,
    repository_of,
)
from tests.parts.forges.world import (
    ADMIN,
    WRITE,
    Json,
    Owner,
    Person,
    Repository,
    Token,
)

HOUR: Final = timedelta(hours=1)
REPOSITORY: Final = (API + "/repos/{owner}/{name}", API + "/repositories/{id}")


class GitHubApi(GitHubOAuth):
    """The part of a GitHub that tells of people and repositories."""

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.limit = 5000  # requests of a person in an hour ("Rate limits for the REST API")
        self.sso: list[Owner] = []  # organisations that tell nothing to a token without a single sign-on
        self._secondary: list[tuple[int, int]] = []  # for each of the next requests: status, seconds to wait
        r = self.route
        r("GET", API + "/meta", self._meta)
        r("GET", API + "/rate_limit", self._rate_limit)
        r("GET", API + "/user", self._user)
        r("GET", API + "/user/emails", self._emails)
        r("GET", API + "/user/repos", self._my_repositories)
        r("POST", API + "/user/repos", self._create_mine)
        r("GET", API + "/user/orgs", self._orgs)
        r("GET", API + "/orgs/{org}/repos", self._org_repositories)
        r("POST", API + "/orgs/{org}/repos", self._create_for_org)
        for repo in REPOSITORY:
            r("GET", repo, self._repository)
            r("PATCH", repo, self._edit)

    def secondary_limit(self, retry_after: int = 60, times: int = 1, status: int = 403) -> None:
        """The next requests of the API are too many at once: 403 or 429 ("Rate limits for the REST API")."""
        self._secondary += [(status, retry_after)] * times

    def exhaust(self, person: Person) -> None:
        """Everything that this person may ask in this hour is asked."""
        while self.spent(person.id, HOUR) < self.limit:
            self.spend(person.id, HOUR)

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
            return error(status, why, headers | {"Retry-After": str(seconds)})
        if given := self._given(call.request):
            call.token = self.live(given)
            if call.token is None:
                return error(401, "Bad credentials", headers)
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
            return error(403, told, headers | self._rates(who, limit, limit))
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
            raise Refused(error(401, "Requires authentication"))
        if scopes and not self._may(call.token, scopes):
            raise Refused(error(403, f"Your token has not been granted the required scopes: {scopes[0]}"))
        return call.token.person

    def _may(self, token: Token | None, scopes: Iterable[str]) -> bool:
        if token is None:
            return False
        return token.kind == "fine-grained" or bool(with_implied(token.scopes) & set(scopes))

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
            raise not_found()
        mail = {"email": person.email, "primary": True, "verified": True, "visibility": "private"}
        return JSONResponse([mail])

    async def _orgs(self, call: Call) -> Response:
        """https://docs.github.com/en/rest/orgs/orgs: 403 without a scope for it."""
        person = self._must(call)
        if not self._may(call.token, ("read:org", "user")):
            told = "You need at least read:org scope or user scope to list your organizations"
            raise Refused(error(403, told))
        mine = [one for one in self.owners if one.person is None and person.id in one.access]
        return self._paged(call, [account(self, owner) for owner in mine])

    # https://docs.github.com/en/rest/repos/repos

    async def _my_repositories(self, call: Call) -> Response:
        person = self._must(call)
        query = call.query
        if "type" in query and query.keys() & {"visibility", "affiliation"}:
            told = "If you specify visibility or affiliation, you cannot specify type."
            raise Refused(error(422, told))
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
            raise not_found()
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

    async def _edit(self, call: Call) -> Response:
        """https://docs.github.com/en/rest/repos/repos#update-a-repository: the default branch, of it."""
        person = self._must(call, "repo", "public_repo")
        repository, branch = self._reached(call), call.fields().get("default_branch")
        if repository.level(person) < ADMIN:
            raise Refused(error(403, "Must have admin rights to Repository."))
        if branch is not None:
            if f"refs/heads/{branch}".encode() not in repository.work.refs():
                told = f"The branch {branch} was not found. Please push that ref first."
                raise Refused(invalid("Repository", "default_branch", "invalid", message=told))
            repository.work.head(str(branch))
            repository.default_branch = str(branch)
        return JSONResponse(repository_of(self, repository, person))

    async def _create_mine(self, call: Call) -> Response:
        person = self._must(call)
        return self._create(call, place(self, person))

    async def _create_for_org(self, call: Call) -> Response:
        person = self._must(call)
        org = self.owner(call.parts["org"])
        if org is None or org.person:
            raise not_found()
        if org.access.get(person.id, 0) < WRITE:
            raise Refused(error(403, "You need admin access to the organization before adding a repository"))
        return self._create(call, org)

    def _create(self, call: Call, owner: Owner) -> Response:
        fields = call.fields()
        private = bool(fields.get("private", fields.get("visibility") == "private"))
        if not self._may(call.token, ("repo",) if private else ("public_repo",)):
            raise not_found()  # as GitHub answers where a scope is missing
        name = fields.get("name")
        if not isinstance(name, str) or not name.strip("."):
            raise Refused(invalid("Repository", "name", "missing_field", "Repository creation failed."))
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
        if self.repository(f"{owner.login}/{name}"):
            told = "name already exists on this account"
            raise Refused(invalid("Repository", "name", "custom", "Repository creation failed.", told))
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
            raise not_found()
        if repository.owner in self.sso:
            why = (
                "Resource protected by organization SAML enforcement. You must grant your OAuth token access"
            )
            url = f"{self.url}/orgs/{repository.owner.login}/sso?authorization_request=1"
            raise Refused(error(403, why, {"X-GitHub-SSO": f"required; url={url}"}))
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
        per_page = min(number(call.query.get("per_page"), 30), self.most)
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


def _affiliation(repository: Repository, person: Person) -> str:
    if repository.owner.person is person:
        return "owner"
    return "organization_member" if person.id in repository.owner.access else "collaborator"
