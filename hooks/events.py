"""What a verified delivery says, in our words: which repository, and what it reports of its refs.

Nothing here is believed: a reported update is compared with what the remote itself shows
later. Only the fields that we need are read; the rest of a body may be anything.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from hooks.errors import BadPayload
from mirror.core.errors import Corrupt
from mirror.core.model import RefName, Target
from mirror.core.refs import check_name

VALUES: Final = 1_000_000  # commas and brackets in a body: bounds the memory that parsing takes
FORM: Final = 4 << 20  # bytes of a body that is a form; GitHub sends JSON as one unless told otherwise
PLAIN: Final = 1 << 20  # bytes of a body that may be parsed in a way that takes much memory
TEXT: Final = 4096  # characters of a name or an address
DELIVERY: Final = 200  # characters of a delivery's id


class EventKind(StrEnum):
    """What a delivery is about."""

    PING = "ping"
    PUSH = "push"
    CREATE = "create"
    DELETE = "delete"
    REPOSITORY = "repository"  # renamed, transferred, deleted, archived, shown or hidden
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository as the forge describes it."""

    id: str  # the forge's own number: stays when it is renamed or transferred
    name: str  # with its owner: "octo/cat"
    visibility: str | None  # "public", "internal" or "private"; None: not reported
    url: str | None  # to clone it by HTTP; None: not reported


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """What a forge says that one ref did."""

    name: RefName
    before: Target | None  # None: it was created, or this was not reported
    after: Target | None  # None: it was deleted
    by: str | None  # the user name; None: not reported
    at: datetime | None  # when it was pushed; None: not reported


@dataclass(frozen=True, slots=True)
class Event:
    """One delivery, understood."""

    kind: EventKind
    delivery: str  # the forge's id for it, the same when it is delivered again
    repository: Repository | None  # None: not reported, or not read because it is ignored
    updates: tuple[RefUpdate, ...] = ()
    why: str | None = None  # why it is ignored; None: it is not


Payload = Mapping[str, Any]

_ID: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FOLDERS: Final = {"branch": "refs/heads/", "tag": "refs/tags/"}
_LEVELS: Final = {0: "private", 10: "internal", 20: "public"}  # Gitlab::VisibilityLevel
_PROJECT_EVENTS: Final = {
    "project_create",
    "project_destroy",
    "project_rename",
    "project_transfer",
    "project_update",
}


def parse(forge: str, headers: Mapping[str, str], body: bytes) -> Event:
    """Understand a delivery of "github", "gitlab" or "gitea"; header names are in lower case.

    Raises BadPayload when it cannot be read: not JSON in UTF-8, nested too deeply,
    or a field that we need is missing or invalid.
    """
    if (read := _READERS.get(forge)) is None:
        raise BadPayload("there is no host of this kind")
    return read(headers, _payload(headers, body))


def _github(headers: Mapping[str, str], payload: Payload) -> Event:
    """https://docs.github.com/en/webhooks/webhook-events-and-payloads"""
    delivery = _delivery(headers, "x-github-delivery")
    return _hub(headers.get("x-github-event"), delivery, payload)


def _gitea(headers: Mapping[str, str], payload: Payload) -> Event:
    """https://docs.gitea.com/usage/webhooks; Forgejo sends the headers of both."""
    delivery = _delivery(headers, "x-forgejo-delivery", "x-gitea-delivery")
    return _hub(headers.get("x-forgejo-event") or headers.get("x-gitea-event"), delivery, payload)


def _hub(event: str | None, delivery: str, payload: Payload) -> Event:
    """GitHub's form of events, which Gitea uses too. The event's name is in a header, which nobody signs."""
    if not event:
        raise BadPayload("no header names the event")
    if event not in _HUB_UPDATES:
        return _ignored(delivery)
    kind = EventKind(event)
    has_repository = kind is not EventKind.PING or payload.get("repository") is not None
    repository = _hub_repository(_object(payload, "repository")) if has_repository else None
    return Event(kind, delivery, repository, _HUB_UPDATES[event](payload))


def _hub_repository(fields: Payload) -> Repository:
    visibility = _text(fields, "visibility")
    if visibility is None and isinstance(fields.get("private"), bool):
        hidden = "internal" if fields.get("internal") is True else "private"
        visibility = hidden if fields["private"] else "public"
    return Repository(
        _number(fields, "id"), _needed(fields, "full_name"), visibility, _text(fields, "clone_url")
    )


def _hub_push(payload: Payload) -> tuple[RefUpdate, ...]:
    pusher = payload.get("pusher")
    by = None
    if isinstance(pusher, dict):  # Gitea's is a user; GitHub's has the login as its name
        by = _text(pusher, "login") or _text(pusher, "name")
    return _moved(payload, by or _sender(payload), _seconds(_object(payload, "repository").get("pushed_at")))


def _hub_created(payload: Payload) -> tuple[RefUpdate, ...]:
    """Gitea says where it points; GitHub does not, and sends a push as well."""
    name = _short_name(payload)
    if name is None or payload.get("sha") is None:
        return ()
    return (RefUpdate(name, None, _target(payload, "sha"), _sender(payload), None),)


def _hub_deleted(payload: Payload) -> tuple[RefUpdate, ...]:
    name = _short_name(payload)
    return () if name is None else (RefUpdate(name, None, None, _sender(payload), None),)


def _nothing(payload: Payload) -> tuple[RefUpdate, ...]:
    return ()


_HUB_UPDATES: Final[Mapping[str, Callable[[Payload], tuple[RefUpdate, ...]]]] = {
    "ping": _nothing,
    "push": _hub_push,
    "create": _hub_created,
    "delete": _hub_deleted,
    "repository": _nothing,
}


def _gitlab(headers: Mapping[str, str], payload: Payload) -> Event:
    """https://docs.gitlab.com/user/project/integrations/webhook_events/; the signed body names the event."""
    delivery = _gitlab_delivery(headers, payload)
    if payload.get("object_kind") in ("push", "tag_push"):
        by = _text(payload, "user_username") or _text(payload, "user_name")
        project = _object(payload, "project")
        return Event(EventKind.PUSH, delivery, _gitlab_project(project), _moved(payload, by, None))
    if _text(payload, "event_name") in _PROJECT_EVENTS:
        return Event(EventKind.REPOSITORY, delivery, _gitlab_from_event(payload))
    return _ignored(delivery)


def _gitlab_delivery(headers: Mapping[str, str], payload: Payload) -> str:
    """The id that GitLab repeats when it retries.

    Before 17.4 there is only X-Gitlab-Event-UUID, which deliveries share if
    one hook triggers another; then their contents tell them apart.
    """
    if "webhook-id" in headers or "idempotency-key" in headers:
        return _delivery(headers, "webhook-id", "idempotency-key")
    contents = [_text(payload, key) or "" for key in ("object_kind", "event_name", "ref", "before", "after")]
    digest = sha256("\n".join(contents).encode()).hexdigest()
    return f"{_delivery(headers, 'x-gitlab-event-uuid')}/{digest[:32]}"


def _gitlab_project(fields: Payload) -> Repository:
    level = fields.get("visibility_level")
    visibility = _LEVELS.get(level) if isinstance(level, int) else None
    return Repository(
        _number(fields, "id"),
        _needed(fields, "path_with_namespace"),
        visibility,
        _text(fields, "git_http_url"),
    )


def _gitlab_from_event(payload: Payload) -> Repository:
    """A project as events of groups and of the whole GitLab instance describe it."""
    visibility = (_text(payload, "project_visibility") or "").removeprefix("visibilitylevel|")
    name = _needed(payload, "path_with_namespace")
    return Repository(_number(payload, "project_id"), name, visibility or None, None)


_READERS: Final[Mapping[str, Callable[[Mapping[str, str], Payload], Event]]] = {
    "github": _github,
    "gitlab": _gitlab,
    "gitea": _gitea,
}


def _ignored(delivery: str) -> Event:
    return Event(
        EventKind.IGNORED, delivery, None, (), "only pushes and changes of the repository itself matter"
    )


def _moved(payload: Payload, by: str | None, at: datetime | None) -> tuple[RefUpdate, ...]:
    """The update that a push reports. One that moves nothing, like a forge's test delivery, reports none."""
    name = _ref_name(_needed(payload, "ref"))
    before, after = _target(payload, "before"), _target(payload, "after")
    return () if before == after else (RefUpdate(name, before, after, by, at),)


def _payload(headers: Mapping[str, str], body: bytes) -> Payload:
    """The object that the body is, or that its form field `payload` is."""
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        text = _field(body).encode() if media == "application/x-www-form-urlencoded" else body
        if sum(map(text.count, (b",", b"[", b"{"))) > VALUES:
            raise BadPayload(f"the body holds more than {VALUES} values")
        # json.loads of bytes would guess at other encodings and accept surrogates; of a text it takes eight
        # times the memory of the bytes. msgspec parses bytes, and accepts no half of a character anywhere.
        payload = msgspec.json.decode(text) if len(text) > PLAIN else json.loads(text.decode())
    except (
        ValueError,
        RecursionError,
    ):  # not UTF-8, not JSON, absurd numbers, nested too deeply
        raise BadPayload("the body is not valid JSON") from None
    if not isinstance(payload, dict):
        raise BadPayload("the body is not a JSON object")
    return payload


def _field(body: bytes) -> str:
    if len(body) > FORM:
        raise BadPayload("this form is too large: choose application/json as the content type of the hook")
    fields = parse_qs(body.decode("ascii"), max_num_fields=10, errors="strict")
    if "payload" not in fields:
        raise BadPayload("the form has no field `payload`")
    return fields["payload"][0]


def _delivery(headers: Mapping[str, str], *names: str) -> str:
    """The first of these headers."""
    given = next((headers[name] for name in names if headers.get(name)), "")
    if not given or len(given) > DELIVERY or not given.isascii() or not given.isprintable():
        raise BadPayload("no header has the delivery's id")
    return given


def _object(fields: Payload, key: str) -> Payload:
    value = fields.get(key)
    if not isinstance(value, dict):
        raise BadPayload(f"`{key}` is missing")
    return value


def _text(fields: Payload, key: str) -> str | None:
    """A string that can be kept anywhere; None where there is none or an empty one."""
    value = fields.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > TEXT or "\0" in value:
        raise BadPayload(f"`{key}` is not a valid text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadPayload(f"`{key}` holds half of a character") from None
    return value


def _needed(fields: Payload, key: str) -> str:
    value = _text(fields, key)
    if value is None:
        raise BadPayload(f"`{key}` is missing")
    return value


def _number(fields: Payload, key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 64:
        raise BadPayload(f"`{key}` is not a repository id")
    return str(value)


def _ref_name(name: str) -> RefName:
    encoded = name.encode()
    try:
        check_name(encoded)
    except Corrupt:
        raise BadPayload("`ref` is not a valid ref name") from None
    return RefName(encoded)


def _short_name(payload: Payload) -> RefName | None:
    """The ref of a create or delete event, which comes without its folder; None: neither branch nor tag."""
    folder = _FOLDERS.get(_text(payload, "ref_type") or "")
    return None if folder is None else _ref_name(folder + _needed(payload, "ref"))


def _target(fields: Payload, key: str) -> Target | None:
    """An object id; None where it is all zeros, the forges' word for no object."""
    value = _needed(fields, key)
    if not _ID.fullmatch(value):
        raise BadPayload(f"`{key}` is not an object id")
    return Target(value.encode()) if value.strip("0") else None


def _sender(payload: Payload) -> str | None:
    sender = payload.get("sender")
    return _text(sender, "login") if isinstance(sender, dict) else None


def _seconds(value: object) -> datetime | None:
    """A time in seconds since 1970, as GitHub has it in pushes; in other events it is an older push's."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 33:
        return None
    return datetime.fromtimestamp(value, UTC)
