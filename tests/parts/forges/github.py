"""GitHub as a double: OAuth apps, the REST API below /api/v3 as Enterprise Server has it, webhooks, git.

Rules are from https://docs.github.com (the page is named at each), payloads
follow https://github.com/octokit/webhooks/tree/main/payload-examples.
"""

from __future__ import annotations

import hmac
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from tests.parts.forges import workflows
from tests.parts.forges.calls import Call, Refused, number
from tests.parts.forges.github_api import REPOSITORY, GitHubApi
from tests.parts.forges.github_told import (
    account,
    delivery_of,
    error,
    hook_of,
    invalid,
    made_of,
    not_found,
    place,
    push_of,
    repository_of,
)
from tests.parts.forges.world import (
    ADMIN,
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

BODY: Final = 25 << 20  # bytes of a payload; a larger one is not sent ("Webhook events and payloads")
TAGS: Final = 3  # of one push; with more of them none is told of (the same page, at create, delete and push)
HOOKS: Final = 20  # of one event in one repository ("Creating webhooks")
KEPT: Final = timedelta(days=3)  # deliveries ("Viewing webhook deliveries")
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


class GitHub(GitHubApi):
    """A GitHub; its OAuth app sends people back to `callback`."""

    kind = "github"

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.public_hooks = False  # whether a receiver on loopback is refused, as github.com does
        r = self.route
        for repo in REPOSITORY:
            r("GET", repo + "/hooks", self._hooks)
            r("POST", repo + "/hooks", self._create_hook)
            r("GET", repo + "/hooks/{hook}", self._hook)
            r("PATCH", repo + "/hooks/{hook}", self._edit_hook)
            r("DELETE", repo + "/hooks/{hook}", self._delete_hook)
            r("POST", repo + "/hooks/{hook}/pings", self._ping_hook)
            r("GET", repo + "/hooks/{hook}/deliveries", self._deliveries)
            r("GET", repo + "/hooks/{hook}/deliveries/{delivery}", self._delivery)
            r("POST", repo + "/hooks/{hook}/deliveries/{delivery}/attempts", self._redeliver)

    # https://docs.github.com/en/rest/repos/webhooks

    async def _hooks(self, call: Call) -> Response:
        repository = self._for_hooks(call, _READS_HOOKS)
        return self._paged(call, [hook_of(self, hook) for hook in repository.hooks])

    async def _create_hook(self, call: Call) -> Response:
        repository = self._for_hooks(call, _WRITES_HOOKS)
        fields = call.fields()
        if fields.get("name", "web") != "web":
            raise Refused(invalid("Hook", "name", "invalid"))
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
        per_page = min(number(call.query.get("per_page"), 30), self.most)
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
            raise Refused(error(401, "Requires authentication"))
        token = call.token
        seen = Token(token.value, token.person, ("repo",), token.kind, token.id, token.created_at)
        call.token = seen if token.kind != "fine-grained" else token
        repository = self._reached(call)
        call.token = token
        wanted = tuple(one for one in scopes if one != "public_repo" or not repository.private)
        if repository.level(token.person) < ADMIN or not self._may(token, wanted):
            raise not_found(scopes)
        return repository

    def _its_hook(self, call: Call, scopes: tuple[str, ...]) -> Hook:
        repository = self._for_hooks(call, scopes)
        for hook in repository.hooks:
            if str(hook.id) == call.parts["hook"]:
                return hook
        raise not_found()

    def _its_delivery(self, call: Call, scopes: tuple[str, ...] = _READS_HOOKS) -> Delivery:
        for delivery in self._its_hook(call, scopes).deliveries:
            if str(delivery.id) == call.parts["delivery"]:
                return delivery
        raise not_found()

    def _configure(self, hook: Hook, config: object) -> None:
        """A config replaces the one before, with its secret."""
        if not isinstance(config, dict) or not config.get("url"):
            raise Refused(invalid("Hook", "url", "missing_field"))
        url = urlsplit(str(config["url"]))
        if url.scheme not in ("http", "https") or not url.hostname:
            told = "url is missing a scheme" if not url.scheme else "url is not valid"
            raise Refused(invalid("Hook", "url", "custom", message=told))
        if self.public_hooks and url.hostname in ("localhost", "127.0.0.1", "::1"):
            told = "url is not supported because it isn't reachable over the public Internet"
            raise Refused(invalid("Hook", "url", "custom", message=f"{told} ({url.hostname})"))
        kind = config.get("content_type", "form")
        if kind not in ("json", "form"):
            raise Refused(invalid("Hook", "content_type", "invalid"))
        hook.url, hook.content_type = str(config["url"]), kind
        hook.secret = str(config["secret"]) if config.get("secret") else None
        hook.verify = str(config.get("insecure_ssl", "0")) != "1"

    def _set_events(self, hook: Hook, events: object) -> None:
        if not isinstance(events, list) or not events or not set(events) <= EVENTS:
            raise Refused(invalid("Hook", "events", "invalid"))
        hook.events = tuple(sorted(set(events)))

    def _check_unique(self, repository: Repository, hook: Hook) -> None:
        """Hooks of one config share no event ("About webhooks"); there are 20 for an event at most."""
        others = [one for one in repository.hooks if one is not hook]
        for one in others:
            same = (one.url, one.content_type, one.verify) == (hook.url, hook.content_type, hook.verify)
            if same and set(one.events) & set(hook.events):
                told = "Hook already exists on this repository"
                raise Refused(invalid("Hook", None, "custom", message=told))
        for event in hook.events:
            if sum(event in one.events for one in others) >= HOOKS:
                told = f'The "{event}" event cannot have more than {HOOKS} hooks'
                raise Refused(invalid("Hook", None, "custom", message=told))

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

    def push_rules(self, given: tuple[str, str] | None) -> tuple[str, ...]:
        token = self.live(given[1]) if given else None
        if token is None or token.kind == "fine-grained" or "workflow" in token.scopes:
            return ()
        who = "an OAuth App" if token.kind == "oauth" else "a Personal Access Token"
        return workflows.config_for(self.room, who)

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


def _events(hook: Hook) -> frozenset[str]:
    return EVENTS if "*" in hook.events else frozenset(hook.events)
