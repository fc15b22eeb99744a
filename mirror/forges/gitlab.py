"""GitLab, both gitlab.com and self-managed: its OAuth and REST APIs.

https://docs.gitlab.com/api/oauth2/, https://docs.gitlab.com/api/rest/
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

from mirror.core.config import App
from mirror.core.errors import BadCredentials, Blocked, Origin, RemoteGone
from mirror.core.model import Secret
from mirror.forges import fields, oauth
from mirror.forges.contract import (
    Account,
    ForgeRepository,
    Mark,
    Owner,
    Page,
    Purpose,
    RemoteHook,
    Sent,
    Tokens,
)
from mirror.forges.http import FEW_PAGES, Answer, Http, Paging

MAINTAINER: Final = (
    40  # who may register hooks: https://docs.gitlab.com/api/access_requests/#valid-access-levels
)
DEVELOPER: Final = 30

# https://docs.gitlab.com/integration/oauth_provider/#view-all-authorized-applications
SCOPES: Final[Mapping[Purpose, tuple[str, ...]]] = {
    Purpose.SIGN_IN: ("read_user",),
    Purpose.READ: ("read_user", "read_api", "read_repository"),
    Purpose.HOOKS: ("read_user", "api", "read_repository"),
    Purpose.CREATE: ("read_user", "api", "read_repository"),
    Purpose.PUSH: ("read_user", "read_api", "write_repository"),
    Purpose.WORKFLOWS: ("read_user", "read_api", "write_repository"),
}
INCLUDED: Final[Mapping[str, tuple[str, ...]]] = {
    "api": ("read_api", "read_user", "read_repository", "write_repository"),
    "read_api": ("read_user",),
    "write_repository": ("read_repository",),
}
_GRANULAR: Final = "granular"  # the scope of a fine-grained token: what it may do is told elsewhere
_MINE: Final = "/projects?membership=true&pagination=keyset&order_by=id&sort=asc&per_page=100"


class GitLab:
    """One GitLab. See contract.Forge for what each question promises."""

    def __init__(self, app: App, web: Http, api: Http) -> None:
        self.app = app
        self._web = web
        self._api = api

    def authorize_url(self, state: str, verifier: str, redirect_uri: str, purpose: Purpose) -> str:
        endpoint = f"{self.app.url}/oauth/authorize"
        return oauth.authorize_url(self.app, endpoint, state, verifier, redirect_uri, self.scopes(purpose))

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        return await self._tokens(oauth.code_request(self.app, code, verifier, redirect_uri))

    async def refresh(self, refresh_token: str, redirect_uri: str) -> Tokens:
        return await self._tokens(oauth.refresh_request(self.app, refresh_token, redirect_uri))

    async def _tokens(self, form: Mapping[str, str]) -> Tokens:
        answer = await self._web.ask("POST", "/oauth/token", form=form, also=oauth.STATUSES)
        return oauth.tokens(self.app, answer.status, answer.body, answer.at)

    async def revoke(self, token: str) -> None:
        """https://docs.gitlab.com/api/oauth2/#revoke-a-token: also the refresh token that came with it."""
        if self.app.client_id and self.app.client_secret:
            form = {
                "client_id": self.app.client_id,
                "client_secret": self.app.client_secret,
                "token": token,
            }
            await self._web.ask("POST", "/oauth/revoke", form=form)

    async def account(self, token: str, *, personal: bool = False) -> Account:
        """A personal access token tells of itself, https://docs.gitlab.com/api/personal_access_tokens/#self-inform;
        one of OAuth would be refused there, and is told of by /oauth/token/info.
        """
        told: Mapping[str, Any] | None = None
        if personal:
            answer = await self._ask(token, "GET", "/personal_access_tokens/self", also=(400, 401, 403, 404))
            told = fields.table(answer, self._api.host) if answer.status == 200 else None
        if told is not None:
            scopes, expires_at = told.get("scopes"), fields.moment(told.get("expires_at"))
        else:  # of OAuth, also where a person has pasted such a token
            answer = await self._web.ask("GET", "/oauth/token/info", token=token, also=(400,))
            if answer.status == 400:
                raise BadCredentials(
                    f"{self._web.host} refuses the token; connect again", origin=Origin.FORGE
                )
            told = fields.table(answer, self._web.host)
            scopes, expires_at = told.get("scope"), None
        granted = tuple(str(scope) for scope in scopes) if isinstance(scopes, list) else ()
        person = fields.table(await self._ask(token, "GET", "/user"), self._api.host)
        login = fields.text(person, "username", self._api.host)
        fine_grained = not granted or _GRANULAR in granted
        return Account(
            fields.number(person, "id", self._api.host),
            login,
            str(person.get("name") or login),
            () if fine_grained else granted,
            fine_grained,
            expires_at,
        )

    def scopes(self, purpose: Purpose) -> tuple[str, ...]:
        return SCOPES[purpose]

    def missing_scopes(self, granted: Sequence[str], purpose: Purpose) -> tuple[str, ...]:
        return oauth.missing(granted, SCOPES[purpose], INCLUDED)

    def credential(self, token: str) -> Secret:
        """https://docs.gitlab.com/api/oauth2/#access-git-over-https-with-access-token"""
        return Secret("oauth2", token)

    async def repositories(self, token: str, marks: Mapping[str, Mark]) -> AsyncIterator[Page]:
        """https://docs.gitlab.com/api/projects/#list-all-projects by keyset, in order of their numbers."""
        paging = Paging(self._api.host, self._api.base + _MINE)
        while url := paging.url:
            mark = marks.get(url)
            answer = await self._ask(token, "GET", url, etag=mark.etag if mark else None)
            page = self._page(url, answer, mark)
            yield page
            paging.turn(len(page.ids), page.next)

    def _page(self, url: str, answer: Answer, mark: Mark | None) -> Page:
        if answer.status == 304 and mark:
            return Page(url, mark.ids, (), mark.next, mark.etag, not_modified=True)
        items = tuple(self._listed(one) for one in fields.rows(answer, self._api.host))
        ids = tuple(item.repository_id for item in items)
        return Page(url, ids, items, answer.next, answer.headers.get("etag"))

    async def repository(self, token: str, repository_id: str) -> ForgeRepository:
        """A project that this token may not read although it is there is one that was closed."""
        answer = await self._ask(token, "GET", f"{_project(repository_id)}?statistics=true", also=(403,))
        if answer.status == 403:
            error = self._api.explained(answer)
            error.came_from(Origin.FORGE)
            told = answer.body.get("error") if isinstance(answer.body, Mapping) else None
            raise error if told == "insufficient_scope" else Blocked(str(error), origin=Origin.FORGE)
        return self._listed(fields.table(answer, self._api.host))

    def _listed(self, one: Mapping[str, Any]) -> ForgeRepository:
        host, statistics = self._api.host, one.get("statistics")
        name = fields.text(one, "path_with_namespace", host)
        return ForgeRepository(
            fields.number(one, "id", host),
            name,
            fields.at_home(one, "http_url_to_repo", self.app.url, f"{name}.git"),
            fields.at_home(one, "web_url", self.app.url, name),
            private=one.get("visibility") != "public",
            archived=one.get("archived") is True,
            fork=isinstance(one.get("forked_from_project"), Mapping),
            admin=_level(one) >= MAINTAINER,
            bytes=fields.count(statistics.get("repository_size"))
            if isinstance(statistics, Mapping)
            else None,
            pushed_at=fields.moment(one.get("last_activity_at")),
        )

    async def hooks(self, token: str, repository_id: str) -> list[RemoteHook]:
        """https://docs.gitlab.com/api/project_webhooks/"""
        found: list[RemoteHook] = []
        paging = Paging(self._api.host, f"{_project(repository_id)}/hooks?per_page=100", FEW_PAGES)
        while paging.url:
            answer = await self._ask(token, "GET", paging.url)
            rows = fields.rows(answer, self._api.host)
            found += [self._hook(one) for one in rows]
            paging.turn(len(rows), answer.next)
        return found

    async def add_hook(self, token: str, repository_id: str, url: str, secret: str) -> RemoteHook:
        """With a signing token; where GitLab knows none yet (before 19.0) it says so by leaving
        `signing_token_present` out, and the secret is sent along as the older X-Gitlab-Token.
        """
        place = f"{_project(repository_id)}/hooks"
        answer = await self._ask(token, "POST", place, json={**_wanted(url), "signing_token": secret})
        return await self._secured(token, repository_id, url, secret, answer)

    async def update_hook(
        self, token: str, repository_id: str, hook_id: str, url: str, secret: str
    ) -> RemoteHook:
        """A hook that GitLab disabled stays so: `test_hook` enables it, or it is removed and added."""
        place = f"{_project(repository_id)}/hooks/{_number(hook_id)}"
        answer = await self._ask(token, "PUT", place, json={**_wanted(url), "signing_token": secret})
        return await self._secured(token, repository_id, url, secret, answer)

    async def _secured(
        self, token: str, repository_id: str, url: str, secret: str, answer: Answer
    ) -> RemoteHook:
        made = fields.table(answer, self._api.host)
        if made.get("signing_token_present") is not True:
            place = f"{_project(repository_id)}/hooks/{fields.number(made, 'id', self._api.host)}"
            answer = await self._ask(token, "PUT", place, json={**_wanted(url), "token": secret})
        return self._hook(fields.table(answer, self._api.host))

    async def remove_hook(self, token: str, repository_id: str, hook_id: str) -> None:
        await self._ask(token, "DELETE", f"{_project(repository_id)}/hooks/{_number(hook_id)}", also=(404,))

    async def test_hook(self, token: str, repository_id: str, hook_id: str) -> None:
        await self._ask(token, "POST", f"{_project(repository_id)}/hooks/{_number(hook_id)}/test/push_events")

    async def deliveries(self, token: str, repository_id: str, hook_id: str) -> list[Sent]:
        """The events of the last seven days, which GitLab tells since 17.3."""
        place = f"{_project(repository_id)}/hooks/{_number(hook_id)}/events?per_page=20"
        answer = await self._ask(token, "GET", place, also=(404, 405))
        if answer.status != 200:
            return []
        found = []
        for one in fields.rows(answer, self._api.host):
            status = str(one.get("response_status") or "")
            code = int(status) if status.isdecimal() else None
            event = str(one.get("trigger") or "")
            ok = code is not None and 200 <= code < 300
            found.append(Sent(fields.number(one, "id", self._api.host), None, event, code, ok))
        return found

    async def redeliver(self, token: str, repository_id: str, hook_id: str, sent_id: str) -> None:
        """https://docs.gitlab.com/api/project_webhooks/#resend-a-project-webhook-event, since 17.4."""
        place = f"{_project(repository_id)}/hooks/{_number(hook_id)}/events/{_number(sent_id)}/resend"
        await self._ask(token, "POST", place)

    def _hook(self, one: Mapping[str, Any]) -> RemoteHook:
        status = one.get("alert_status")
        state: Literal["works", "paused", "disabled"] = "works"
        why = None
        if status == "temporarily_disabled":
            state, why = "paused", f"{self._web.host} paused it after failed deliveries"
        elif status == "disabled":
            state, why = "disabled", f"{self._web.host} disabled it after too many failed deliveries"
        return RemoteHook(
            fields.number(one, "id", self._api.host),
            str(one.get("url") or ""),
            state == "works",
            tuple(
                sorted(
                    key.removesuffix("_events")
                    for key, value in one.items()
                    if value is True and key.endswith("_events")
                )
            ),
            state,
            why,
            fields.moment(one.get("disabled_until")),
            signed=one.get("signing_token_present") is True,
        )

    async def owners(self, token: str) -> list[Owner]:
        """https://docs.gitlab.com/api/groups/: `project_creation_level` is the role that is needed."""
        person = fields.table(await self._ask(token, "GET", "/user"), self._api.host)
        login = fields.text(person, "username", self._api.host)
        found = [
            Owner(fields.number(person, "id", self._api.host), login, str(person.get("name") or login), True)
        ]
        groups: dict[str, Owner] = {}
        for level, allowed in ((MAINTAINER, ("maintainer", "developer")), (DEVELOPER, ("developer",))):
            paging = Paging(self._api.host, f"/groups?min_access_level={level}&per_page=100", FEW_PAGES)
            while paging.url:
                answer = await self._ask(token, "GET", paging.url)
                rows = fields.rows(answer, self._api.host)
                for one in rows:
                    if one.get("project_creation_level", "maintainer") in allowed:
                        group = self._group(one)
                        groups[group.id] = group
                paging.turn(len(rows), answer.next)
        return found + sorted(groups.values(), key=lambda group: group.login.lower())

    def _group(self, one: Mapping[str, Any]) -> Owner:
        host = self._api.host
        path = fields.text(one, "full_path", host)
        return Owner(fields.number(one, "id", host), path, str(one.get("full_name") or path), personal=False)

    async def create_repository(
        self, token: str, owner: Owner, name: str, *, private: bool = True
    ) -> ForgeRepository:
        """https://docs.gitlab.com/api/projects/#create-a-project; without a namespace it is one's own."""
        wanted: dict[str, Any] = {
            "name": name,
            "path": name,
            "visibility": "private" if private else "public",
            "initialize_with_readme": False,
        }
        if not owner.personal:
            wanted["namespace_id"] = int(_number(owner.id))
        answer = await self._ask(token, "POST", "/projects", json=wanted)
        return self._listed(fields.table(answer, self._api.host))

    async def set_default_branch(self, token: str, full_name: str, branch: str) -> None:
        """https://docs.gitlab.com/api/projects/#edit-a-project"""
        place = f"/projects/{quote(full_name, safe='')}"
        await self._ask(token, "PUT", place, json={"default_branch": branch})

    async def _ask(
        self,
        token: str,
        method: str,
        url: str,
        *,
        json: object = None,
        etag: str | None = None,
        also: Sequence[int] = (),
    ) -> Answer:
        headers = {"If-None-Match": etag} if etag else {}
        return await self._api.ask(method, url, token=token, json=json, headers=headers, also=also)


def _project(repository_id: str) -> str:
    return f"/projects/{_number(repository_id)}"


def _number(text: str) -> str:
    """A number of GitLab's. What is none would be read as a path."""
    if not text.isdecimal() or not text.isascii():
        raise RemoteGone(f"{text[:40]!r} is not the number of a project or hook", origin=Origin.FORGE)
    return text


def _wanted(url: str) -> dict[str, Any]:
    return {
        "url": url,
        "push_events": True,
        "tag_push_events": True,
        "enable_ssl_verification": True,
        "push_events_branch_filter": "",
    }


def _level(one: Mapping[str, Any]) -> int:
    """The token's owner's role, by the project or by its group."""
    permissions = one.get("permissions")
    if not isinstance(permissions, Mapping):
        return 0
    ways = [permissions.get("project_access"), permissions.get("group_access")]
    levels = [fields.count(way.get("access_level")) or 0 for way in ways if isinstance(way, Mapping)]
    return max(levels, default=0)
