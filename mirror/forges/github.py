"""GitHub, both github.com and Enterprise Server: its OAuth and REST APIs.

https://docs.github.com/en/rest, https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
Repositories are addressed by number, as in GitHub's own links, so that a name that passed to another
repository is never mistaken for the one that is backed up.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

from mirror.core.config import App
from mirror.core.errors import Origin, RemoteGone
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

EVENTS: Final = ("push", "create", "delete", "repository")  # a ping comes by itself when a hook is made

# No scope reads private code and nothing else; `repo` is what does, and it has the hooks in it:
# https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps
SCOPES: Final[Mapping[Purpose, tuple[str, ...]]] = {
    Purpose.SIGN_IN: (),
    Purpose.READ: ("read:org", "repo"),
    Purpose.HOOKS: ("read:org", "repo"),
    Purpose.CREATE: ("read:org", "repo"),
    Purpose.PUSH: ("read:org", "repo"),
    Purpose.WORKFLOWS: ("read:org", "repo", "workflow"),
}
# Asked for by consent to connect, though a backup does not need it: a restore on the day it matters does.
CONSENT: Final[Mapping[Purpose, tuple[str, ...]]] = dict(SCOPES) | {
    Purpose.HOOKS: SCOPES[Purpose.WORKFLOWS],
    Purpose.CREATE: SCOPES[Purpose.WORKFLOWS],
}
INCLUDED: Final[Mapping[str, tuple[str, ...]]] = {
    "admin:org": ("write:org", "read:org"),
    "write:org": ("read:org",),
}
_HEADERS: Final = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
_MINE: Final = "/user/repos?per_page=100&sort=created&direction=asc"


class GitHub:
    """One GitHub. See contract.Forge for what each question promises."""

    def __init__(self, app: App, web: Http, api: Http) -> None:
        self.app = app
        self._web = web
        self._api = api

    def authorize_url(self, state: str, verifier: str, redirect_uri: str, purpose: Purpose) -> str:
        endpoint = f"{self.app.url}/login/oauth/authorize"
        return oauth.authorize_url(self.app, endpoint, state, verifier, redirect_uri, CONSENT[purpose])

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        return await self._tokens(oauth.code_request(self.app, code, verifier, redirect_uri))

    async def refresh(self, refresh_token: str, redirect_uri: str) -> Tokens:
        return await self._tokens(oauth.refresh_request(self.app, refresh_token, redirect_uri))

    async def _tokens(self, form: Mapping[str, str]) -> Tokens:
        answer = await self._web.ask("POST", "/login/oauth/access_token", form=form, also=oauth.STATUSES)
        return oauth.tokens(self.app, answer.status, answer.body, answer.at)

    async def revoke(self, token: str) -> None:
        """https://docs.github.com/en/rest/apps/oauth-applications: this token, not the whole grant."""
        if not self.app.client_id or not self.app.client_secret:
            return
        await self._api.ask(
            "DELETE",
            f"/applications/{quote(self.app.client_id, safe='')}/token",
            basic=(self.app.client_id, self.app.client_secret),
            json={"access_token": token},
            headers=_HEADERS,
            also=(404, 422),  # no such token of ours any more
        )

    async def account(self, token: str, *, personal: bool = False) -> Account:
        """A classic token's scopes are in X-OAuth-Scopes; a fine-grained one has no such header."""
        answer = await self._ask(token, "GET", "/user")
        person = fields.table(answer, self._api.host)
        login = fields.text(person, "login", self._api.host)
        scopes = answer.headers.get("x-oauth-scopes")
        return Account(
            fields.number(person, "id", self._api.host),
            login,
            str(person.get("name") or login),
            tuple(scope.strip() for scope in (scopes or "").split(",") if scope.strip()),
            fine_grained=scopes is None,
            expires_at=fields.moment(answer.headers.get("github-authentication-token-expiration")),
        )

    def scopes(self, purpose: Purpose) -> tuple[str, ...]:
        return SCOPES[purpose]

    def missing_scopes(self, granted: Sequence[str], purpose: Purpose) -> tuple[str, ...]:
        return oauth.missing(granted, SCOPES[purpose], INCLUDED)

    def credential(self, token: str) -> Secret:
        """Any user name goes with a token; this one is GitHub's own for its apps."""
        return Secret("x-access-token", token)

    async def repositories(self, token: str, marks: Mapping[str, Mark]) -> AsyncIterator[Page]:
        """https://docs.github.com/en/rest/repos/repos#list-repositories-for-the-authenticated-user

        In the order of their creation, so that a new one changes the last page alone. A request that is
        answered 304 does not count against the rate limit.
        """
        paging = Paging(self._api.host, self._api.base + _MINE)
        while url := paging.url:
            mark = marks.get(url)
            answer = await self._ask(token, "GET", url, etag=mark.etag if mark else None)
            page = self._page(url, answer, mark)
            yield page
            paging.turn(len(page.ids), page.next)

    def _page(self, url: str, answer: Answer, mark: Mark | None) -> Page:
        hidden = _hidden(answer)
        if answer.status == 304 and mark:
            return Page(url, mark.ids, (), mark.next, mark.etag, not_modified=True, hidden=hidden)
        items = tuple(self._listed(one) for one in fields.rows(answer, self._api.host))
        ids = tuple(item.repository_id for item in items)
        return Page(url, ids, items, answer.next, answer.headers.get("etag"), hidden=hidden)

    async def repository(self, token: str, repository_id: str) -> ForgeRepository:
        answer = await self._ask(token, "GET", _repository(repository_id))
        return self._listed(fields.table(answer, self._api.host))

    def _listed(self, one: Mapping[str, Any]) -> ForgeRepository:
        host = self._api.host
        permissions, name = one.get("permissions"), fields.text(one, "full_name", host)
        return ForgeRepository(
            fields.number(one, "id", host),
            name,
            fields.at_home(one, "clone_url", self.app.url, f"{name}.git"),
            fields.at_home(one, "html_url", self.app.url, name),
            private=one.get("private") is not False,
            archived=one.get("archived") is True,
            fork=one.get("fork") is True,
            admin=isinstance(permissions, Mapping) and permissions.get("admin") is True,
            bytes=fields.count(one.get("size"), 1024),
            pushed_at=fields.moment(one.get("pushed_at")),
        )

    async def hooks(self, token: str, repository_id: str) -> list[RemoteHook]:
        """https://docs.github.com/en/rest/repos/webhooks"""
        found: list[RemoteHook] = []
        paging = Paging(self._api.host, f"{_repository(repository_id)}/hooks?per_page=100", FEW_PAGES)
        while paging.url:
            answer = await self._ask(token, "GET", paging.url)
            rows = fields.rows(answer, self._api.host)
            found += [self._hook(one) for one in rows]
            paging.turn(len(rows), answer.next)
        return found

    async def add_hook(self, token: str, repository_id: str, url: str, secret: str) -> RemoteHook:
        wanted = {"name": "web", **_wanted(url, secret)}
        answer = await self._ask(token, "POST", f"{_repository(repository_id)}/hooks", json=wanted)
        return self._hook(fields.table(answer, self._api.host))

    async def update_hook(
        self, token: str, repository_id: str, hook_id: str, url: str, secret: str
    ) -> RemoteHook:
        place = f"{_repository(repository_id)}/hooks/{_number(hook_id)}"
        answer = await self._ask(token, "PATCH", place, json=_wanted(url, secret))
        return self._hook(fields.table(answer, self._api.host))

    async def remove_hook(self, token: str, repository_id: str, hook_id: str) -> None:
        await self._ask(
            token, "DELETE", f"{_repository(repository_id)}/hooks/{_number(hook_id)}", also=(404,)
        )

    async def test_hook(self, token: str, repository_id: str, hook_id: str) -> None:
        await self._ask(token, "POST", f"{_repository(repository_id)}/hooks/{_number(hook_id)}/pings")

    async def deliveries(self, token: str, repository_id: str, hook_id: str) -> list[Sent]:
        """https://docs.github.com/en/rest/repos/webhooks#list-deliveries-for-a-repository-webhook"""
        place = f"{_repository(repository_id)}/hooks/{_number(hook_id)}/deliveries?per_page=30"
        answer = await self._ask(token, "GET", place)
        found = []
        for one in fields.rows(answer, self._api.host):
            at, status = fields.moment(one.get("delivered_at")), fields.count(one.get("status_code"))
            if at:
                event = str(one.get("event") or "")
                ok = status is not None and 200 <= status < 400
                found.append(Sent(fields.number(one, "id", self._api.host), at, event, status or None, ok))
        return found

    async def redeliver(self, token: str, repository_id: str, hook_id: str, sent_id: str) -> None:
        """https://docs.github.com/en/rest/repos/webhooks#redeliver-a-delivery-for-a-repository-webhook"""
        hook = f"{_repository(repository_id)}/hooks/{_number(hook_id)}"
        await self._ask(token, "POST", f"{hook}/deliveries/{_number(sent_id)}/attempts")

    def _hook(self, one: Mapping[str, Any]) -> RemoteHook:
        config, last = one.get("config"), one.get("last_response")
        config = config if isinstance(config, Mapping) else {}
        last = last if isinstance(last, Mapping) else {}
        code = fields.count(last.get("code"))
        enabled = one.get("active") is True
        failing = code is not None and not 200 <= code < 400
        state: Literal["works", "failing", "disabled"] = (
            "disabled" if not enabled else "failing" if failing else "works"
        )
        events = one.get("events")
        why = None
        if not enabled:
            why = f"somebody disabled it at {self._web.host}"
        elif failing:
            why = f"the last delivery from {self._web.host} was answered with {code}"
        return RemoteHook(
            fields.number(one, "id", self._api.host),
            str(config.get("url") or ""),
            enabled,
            tuple(sorted(str(event) for event in events)) if isinstance(events, list) else (),
            state,
            why,
            signed=bool(config.get("secret")),
        )

    async def owners(self, token: str) -> list[Owner]:
        """https://docs.github.com/en/rest/orgs/orgs#list-organizations-for-the-authenticated-user

        Whether an organisation lets its members create repositories shows when it is tried.
        """
        person = await self.account(token)
        found = [Owner(person.id, person.login, person.name, personal=True)]
        paging = Paging(self._api.host, "/user/orgs?per_page=100", FEW_PAGES)
        while paging.url:
            answer = await self._ask(token, "GET", paging.url)
            rows = fields.rows(answer, self._api.host)
            for one in rows:
                login = fields.text(one, "login", self._api.host)
                found.append(Owner(fields.number(one, "id", self._api.host), login, login, personal=False))
            paging.turn(len(rows), answer.next)
        return found

    async def create_repository(
        self, token: str, owner: Owner, name: str, *, private: bool = True
    ) -> ForgeRepository:
        """https://docs.github.com/en/rest/repos/repos#create-a-repository-for-the-authenticated-user"""
        place = "/user/repos" if owner.personal else f"/orgs/{quote(owner.login, safe='')}/repos"
        wanted = {"name": name, "private": private, "auto_init": False}
        answer = await self._ask(token, "POST", place, json=wanted)
        return self._listed(fields.table(answer, self._api.host))

    async def set_default_branch(self, token: str, full_name: str, branch: str) -> None:
        """https://docs.github.com/en/rest/repos/repos#update-a-repository"""
        place = f"/repos/{quote(full_name)}"
        await self._ask(token, "PATCH", place, json={"default_branch": branch})

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
        headers = {**_HEADERS, "If-None-Match": etag} if etag else _HEADERS
        return await self._api.ask(method, url, token=token, json=json, headers=headers, also=also)


def _repository(repository_id: str) -> str:
    return f"/repositories/{_number(repository_id)}"


def _number(text: str) -> str:
    """A number of GitHub's. What is none is nowhere, and must not be read as a path."""
    if not text.isdecimal() or not text.isascii():
        raise RemoteGone(f"{text[:40]!r} is not the number of a repository or hook", origin=Origin.FORGE)
    return text


def _wanted(url: str, secret: str) -> dict[str, Any]:
    config = {"url": url, "content_type": "json", "secret": secret, "insecure_ssl": "0"}
    return {"active": True, "events": list(EVENTS), "config": config}


def _hidden(answer: Answer) -> tuple[str, ...]:
    """Organisations that told nothing, because the token has no single sign-on for them.

    https://docs.github.com/en/rest/authentication/authenticating-to-the-rest-api: X-GitHub-SSO
    """
    kind, _, numbers = answer.headers.get("x-github-sso", "").partition("organizations=")
    return tuple(numbers.split(",")) if kind.startswith("partial-results") and numbers else ()
