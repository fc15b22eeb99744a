"""GitLab as a double: OAuth with refresh tokens, the REST API below /api/v4, project webhooks, git over HTTP.

Rules are from https://docs.gitlab.com (the page is named at each) and, where
that is silent, from what GitLab's own code does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mirror.core.model import RefName
from tests.parts.forges.calls import Call, Refused
from tests.parts.forges.gitlab_api import MINUTE, PROJECT, GitLabApi
from tests.parts.forges.gitlab_told import (
    VERSION,
    delivery_of,
    moment,
    push_of,
    said,
    true,
)
from tests.parts.forges.world import (
    MAINTAIN,
    READ,
    WRITE,
    Delivery,
    Hook,
    Json,
    Move,
    Person,
    Repository,
)

HOOKS: Final = 100  # of a project ("GitLab.com settings", webhooks)
GIVES_UP: Final = 4  # failures in a row that disable a hook for a while ("Webhooks", auto-disabled)
FOR_GOOD: Final = 40
KEPT: Final = timedelta(days=7)  # deliveries ("Project webhooks API", events)
FLAGS: Final = (
    *("push_events", "tag_push_events", "issues_events", "confidential_issues_events", "note_events"),
    *("confidential_note_events", "merge_requests_events", "job_events", "pipeline_events"),
    *("wiki_page_events", "deployment_events", "feature_flag_events", "releases_events"),
    *("repository_update_events", "resource_access_token_events", "milestone_events", "emoji_events"),
)
_TRIGGERS: Final = {"push_hooks": "Push Hook", "tag_push_hooks": "Tag Push Hook"}
_PAGING: Final = ("page", "per_page", "order_by", "sort", "pagination", "id_after")


class GitLab(GitLabApi):
    """A GitLab; its OAuth application sends people back to one of `callbacks`."""

    kind = "gitlab"

    def __init__(self, url: str, room: Path) -> None:
        super().__init__(url, room)
        self.signing = True  # feature flag webhook_signing_token, and 19.0; else its field is ignored
        self.local_hooks = True  # whether hooks to loopback are allowed, as an administrator can
        self.push_event_hooks_limit = 3  # refs of one push; with more of them no hook hears of it
        r = self.route
        r("GET", PROJECT + "/hooks", self._hooks)
        r("POST", PROJECT + "/hooks", self._create_hook)
        r("GET", PROJECT + "/hooks/{hook}", self._hook)
        r("PUT", PROJECT + "/hooks/{hook}", self._edit_hook)
        r("DELETE", PROJECT + "/hooks/{hook}", self._delete_hook)
        r("POST", PROJECT + "/hooks/{hook}/test/{trigger}", self._test_hook)
        r("GET", PROJECT + "/hooks/{hook}/events", self._events)
        r("POST", PROJECT + "/hooks/{hook}/events/{event}/resend", self._resend)

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
            return said(422, "Ensure the project has at least one commit.")
        branch = f"refs/heads/{hook.repository.default_branch}".encode()
        move = Move(RefName(branch), tips[0], tips[0])
        who = call.person or self.people[0]
        delivery = self._delivery(hook, "push_hooks", push_of(self, hook.repository, move, who))
        await self.outbox.send_now(delivery)
        if delivery.status is None:
            return said(422, delivery.problem or "the receiver does not answer")
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
        return said(404, "404 Not found")

    def _five_a_minute(self, hook: Hook) -> None:
        if self.spend(-hook.id, MINUTE) > 5:
            told = "This endpoint has been requested too many times. Try again later."
            raise Refused(JSONResponse({"message": {"error": told}}, 429, {"Retry-After": "60"}))

    def _for_hooks(self, call: Call, *scopes: str) -> Repository:
        """Hooks are for maintainers."""
        person = self._must(call, *scopes)
        project = self._reached(call)
        if project.level(person) < MAINTAIN:
            raise Refused(said(403, "403 Forbidden"))
        return project

    def _its_hook(self, call: Call, *scopes: str) -> Hook:
        project = self._for_hooks(call, *scopes)
        for hook in project.hooks:
            if str(hook.id) == call.parts["hook"]:
                return hook
        raise Refused(said(404, "404 Not found"))

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
        hook.verify = true(fields.get("enable_ssl_verification", hook.verify))
        hook.settings |= {flag: true(fields[flag]) for flag in FLAGS if flag in fields}
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
