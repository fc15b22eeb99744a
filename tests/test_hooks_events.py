"""Deliveries as GitHub, GitLab, Gitea and Forgejo document them, and bodies that nobody should have sent."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks import events
from hooks.errors import BadPayload
from hooks.events import Event, EventKind, RefUpdate, Repository
from mirror.core.model import RefName, Target

OLD, NEW, NONE = "1" * 40, "2" * 40, "0" * 40
MAIN, V1 = RefName(b"refs/heads/main"), RefName(b"refs/tags/v1")
PUSHED = datetime(2025, 11, 21, 4, 40, tzinfo=UTC)
NOT_JSON = "the body is not valid JSON"

GITHUB_REPOSITORY = {
    "id": 4711,
    "name": "cat",
    "full_name": "octo/cat",
    "private": True,
    "visibility": "internal",
    "clone_url": "https://github.example/octo/cat.git",
    "pushed_at": 1763700000,
}
CAT = Repository("4711", "octo/cat", "internal", "https://github.example/octo/cat.git")

GITEA_REPOSITORY = {
    "id": 12,
    "full_name": "alice/boat",
    "private": False,
    "internal": False,
    "clone_url": "https://gitea.example/alice/boat.git",
    "updated_at": "2025-11-21T04:39:00Z",
}
BOAT = Repository("12", "alice/boat", "public", "https://gitea.example/alice/boat.git")

GITLAB_PROJECT = {
    "id": 15,
    "name": "Boat",
    "path_with_namespace": "alice/group/boat",
    "visibility_level": 0,
    "git_http_url": "https://gitlab.example/alice/group/boat.git",
}
PROJECT = Repository("15", "alice/group/boat", "private", "https://gitlab.example/alice/group/boat.git")


def github(event: str, payload: object, **headers: str) -> Event:
    return events.parse(
        "github",
        {"x-github-event": event, "x-github-delivery": "d-1", "content-type": "application/json"} | headers,
        json.dumps(payload).encode(),
    )


def github_push(**changed: object) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": OLD,
        "after": NEW,
        "repository": GITHUB_REPOSITORY,
        "pusher": {"name": "alice", "email": "alice@example.org"},
        "sender": {"login": "alice", "id": 1},
        "created": False,
        "deleted": False,
        "forced": False,
        "commits": [],
    } | changed


def gitea(event: str, payload: object, prefix: str = "x-gitea") -> Event:
    headers = {f"{prefix}-event": event, f"{prefix}-delivery": "d-2"}
    return events.parse("gitea", headers, json.dumps(payload).encode())


def gitea_push(**changed: object) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": OLD,
        "after": NEW,
        "repository": GITEA_REPOSITORY,
        "pusher": {"id": 2, "login": "bob", "full_name": "Bob", "username": "bob"},
        "sender": {"id": 2, "login": "bob"},
    } | changed


def gitlab(payload: object, headers: dict[str, str] | None = None) -> Event:
    given = headers or {"x-gitlab-event": "Push Hook", "idempotency-key": "d-3"}
    return events.parse("gitlab", given, json.dumps(payload).encode())


def gitlab_push(**changed: object) -> dict[str, Any]:
    return {
        "object_kind": "push",
        "event_name": "push",
        "before": OLD,
        "after": NEW,
        "ref": "refs/heads/main",
        "checkout_sha": NEW,
        "user_id": 4,
        "user_name": "Charlie C.",
        "user_username": "charlie",
        "project_id": 15,
        "project": GITLAB_PROJECT,
        "repository": {"name": "Boat"},
    } | changed


def refused(forge: str, body: bytes, **headers: str) -> str:
    """Why this is refused, with headers that would do for any forge."""
    given = {"idempotency-key": "d"}
    for prefix in ("x-github", "x-gitea"):
        given |= {f"{prefix}-event": "push", f"{prefix}-delivery": "d"}
    with pytest.raises(BadPayload) as caught:
        events.parse(forge, given | headers, body)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_push_to_github_claims_what_one_ref_did_and_who_did_it_when() -> None:
    update = RefUpdate(MAIN, Target(OLD.encode()), Target(NEW.encode()), "alice", PUSHED)
    assert github("push", github_push()) == Event(EventKind.PUSH, "d-1", CAT, (update,), None)


def test_a_push_to_gitea_tells_no_time() -> None:
    update = RefUpdate(MAIN, Target(OLD.encode()), Target(NEW.encode()), "bob", None)
    assert gitea("push", gitea_push()) == Event(EventKind.PUSH, "d-2", BOAT, (update,), None)


def test_a_push_to_gitlab_names_the_user_name() -> None:
    update = RefUpdate(MAIN, Target(OLD.encode()), Target(NEW.encode()), "charlie", None)
    assert gitlab(gitlab_push()) == Event(EventKind.PUSH, "d-3", PROJECT, (update,), None)


def test_a_tag_push_of_gitlab_claims_the_tag_object_not_the_commit() -> None:
    tag = gitlab_push(object_kind="tag_push", ref="refs/tags/v1", before=NONE, checkout_sha=OLD)
    del tag["user_username"]
    update = RefUpdate(V1, None, Target(NEW.encode()), "Charlie C.", None)
    assert gitlab(tag).updates == (update,)


@pytest.mark.parametrize("prefix", ["x-gitea", "x-forgejo"])
def test_forgejo_speaks_with_its_own_headers_too(prefix: str) -> None:
    assert gitea("push", gitea_push(), prefix).delivery == "d-2"


def test_a_created_ref_has_no_before_and_a_deleted_one_no_after() -> None:
    (created,) = github("push", github_push(before=NONE)).updates
    (deleted,) = github("push", github_push(after=NONE)).updates
    assert (created.before, created.after) == (None, Target(NEW.encode()))
    assert (deleted.before, deleted.after) == (Target(OLD.encode()), None)


def test_a_repository_of_sha256_is_understood() -> None:
    (update,) = gitea("push", gitea_push(before="0" * 64, after="a" * 64)).updates
    assert (update.before, update.after) == (None, Target(b"a" * 64))


def test_giteas_test_delivery_is_a_push_that_moves_nothing() -> None:
    event = gitea("push", gitea_push(before=NEW))
    assert (event.kind, event.updates, event.why) == (EventKind.PUSH, (), None)


def test_a_ref_with_accents_is_the_bytes_that_git_has() -> None:
    (update,) = github("push", github_push(ref="refs/heads/été")).updates
    assert update.name == "refs/heads/été".encode()


def test_a_push_by_nobody_is_by_the_sender_if_there_is_one() -> None:
    (sent,) = github("push", github_push(pusher=None)).updates
    (unsent,) = github("push", github_push(pusher=None, sender=None)).updates
    assert (sent.by, unsent.by) == ("alice", None)


@pytest.mark.parametrize("value", [None, "2025-11-21T04:40:00Z", True, 0, -1, 1 << 40, 1e300, [], {}])
def test_a_time_that_is_no_push_time_is_not_told(value: object) -> None:
    (update,) = github("push", github_push(repository=GITHUB_REPOSITORY | {"pushed_at": value})).updates
    assert update.at is None


def test_githubs_create_claims_nothing_since_it_tells_no_target() -> None:
    told = {"ref": "v1", "ref_type": "tag", "repository": GITHUB_REPOSITORY, "sender": {"login": "alice"}}
    assert github("create", told) == Event(EventKind.CREATE, "d-1", CAT, (), None)


def test_giteas_create_claims_the_ref_by_its_whole_name() -> None:
    told = {
        "sha": NEW,
        "ref": "v1",
        "ref_type": "tag",
        "repository": GITEA_REPOSITORY,
        "sender": {"login": "bob"},
    }
    event = gitea("create", told)
    assert event.kind is EventKind.CREATE
    assert event.updates == (RefUpdate(V1, None, Target(NEW.encode()), "bob", None),)


@pytest.mark.parametrize("said", [github, gitea])
def test_a_delete_claims_that_the_ref_is_gone(said: Any) -> None:
    told = {
        "ref": "main",
        "ref_type": "branch",
        "pusher_type": "user",
        "repository": GITEA_REPOSITORY,
        "sender": {"login": "bob"},
    }
    event = said("delete", told)
    assert event.kind is EventKind.DELETE
    assert event.updates == (RefUpdate(MAIN, None, None, "bob", None),)


def test_a_branch_whose_name_begins_with_refs_keeps_it() -> None:
    told = {"ref": "refs/heads/x", "ref_type": "branch", "repository": GITEA_REPOSITORY}
    (update,) = gitea("delete", told).updates
    assert update.name == b"refs/heads/refs/heads/x"


def test_a_ping_tells_which_repository_the_hook_is_for() -> None:
    assert github("ping", {"zen": "Keep it.", "repository": GITHUB_REPOSITORY}).repository == CAT


def test_a_ping_of_an_organisation_tells_of_no_repository() -> None:
    assert github("ping", {"zen": "Keep it."}) == Event(EventKind.PING, "d-1", None, (), None)


def test_a_renamed_repository_keeps_its_id() -> None:
    renamed = GITHUB_REPOSITORY | {"full_name": "octo/dog", "visibility": "public", "private": False}
    event = github("repository", {"action": "renamed", "repository": renamed})
    assert event.kind is EventKind.REPOSITORY
    assert event.repository == Repository("4711", "octo/dog", "public", CAT.url)


@pytest.mark.parametrize(
    ("private", "internal", "visibility"),
    [(False, False, "public"), (True, False, "private"), (True, True, "internal"), (None, None, None)],
)
def test_gitea_tells_visibility_by_two_switches(
    private: object, internal: object, visibility: object
) -> None:
    event = gitea(
        "push", gitea_push(repository=GITEA_REPOSITORY | {"private": private, "internal": internal})
    )
    assert event.repository is not None and event.repository.visibility == visibility


@pytest.mark.parametrize(
    ("level", "visibility"), [(0, "private"), (10, "internal"), (20, "public"), (7, None), ([], None)]
)
def test_gitlab_tells_visibility_by_a_number(level: object, visibility: str | None) -> None:
    event = gitlab(gitlab_push(project=GITLAB_PROJECT | {"visibility_level": level}))
    assert event.repository is not None and event.repository.visibility == visibility


@pytest.mark.parametrize("name", ["project_rename", "project_transfer", "project_destroy", "project_update"])
@pytest.mark.parametrize("visibility", ["private", "visibilitylevel|private"])
def test_gitlabs_events_of_projects_are_understood(name: str, visibility: str) -> None:
    told = {
        "event_name": name,
        "project_id": 15,
        "path_with_namespace": "alice/ship",
        "old_path_with_namespace": "alice/boat",
        "project_visibility": visibility,
    }
    event = gitlab(told)
    assert event.kind is EventKind.REPOSITORY
    assert event.repository == Repository("15", "alice/ship", "private", None)


@pytest.mark.parametrize("event", ["issues", "pull_request", "workflow_run", "PUSH", "a" * 9000])
def test_other_events_are_ignored_with_a_reason(event: str) -> None:
    ignored = github(event, {"action": "opened"})
    assert (ignored.kind, ignored.repository, ignored.updates) == (EventKind.IGNORED, None, ())
    assert ignored.why == "only pushes and changes of the repository itself matter"


@pytest.mark.parametrize("kind", ["issue", "pipeline", None, [], {"push": 1}])
def test_other_events_of_gitlab_are_ignored_too(kind: object) -> None:
    assert gitlab({"object_kind": kind}).kind is EventKind.IGNORED


def test_what_gitlab_says_counts_more_than_its_header() -> None:
    assert (
        gitlab(gitlab_push(), {"x-gitlab-event": "Issue Hook", "idempotency-key": "d"}).kind is EventKind.PUSH
    )


def test_the_signed_id_of_gitlab_comes_first() -> None:
    given = {"webhook-id": "msg_1", "idempotency-key": "other", "x-gitlab-event-uuid": "third"}
    assert gitlab(gitlab_push(), given).delivery == "msg_1"


def test_an_older_gitlab_is_known_by_its_event_and_what_it_says() -> None:
    given = {"x-gitlab-event-uuid": "u-1"}
    once, again = gitlab(gitlab_push(), given), gitlab(gitlab_push(), given)
    other = gitlab(gitlab_push(ref="refs/heads/other"), given)
    assert once.delivery == again.delivery != other.delivery
    assert once.delivery.startswith("u-1/")


def test_github_may_send_the_payload_as_a_form() -> None:
    body = urlencode({"payload": json.dumps(github_push(ref="refs/heads/été"))}).encode()
    headers = {"x-github-event": "push", "x-github-delivery": "d-1"}
    media = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    (update,) = events.parse("github", headers | media, body).updates
    assert update.name == "refs/heads/été".encode()


FORGES = ["github", "gitlab", "gitea"]


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"ref":"refs/heads/main"',
        b'{"a":"\x00"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        json.dumps({}).encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=[
        "empty",
        "cut",
        "words",
        "open",
        "raw NUL",
        "not UTF-8",
        "a surrogate as UTF-8",
        "UTF-16",
        "a byte order mark",
        "an absurd number",
        "deep and open",
        "deep lists",
        "deep objects",
    ],
)
def test_a_body_that_is_no_json_is_refused(forge: str, body: bytes) -> None:
    assert NOT_JSON in refused(forge, body)


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"push"', b"NaN"])
def test_json_that_is_no_object_is_refused(forge: str, body: bytes) -> None:
    assert "not a JSON object" in refused(forge, body)


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"ab",', b"1,", b'["",""],'])
def test_a_body_that_parsing_would_blow_up_is_refused(unit: bytes) -> None:
    body = b'{"a":[' + unit * events.VALUES + b"1]}"
    assert "more than 1000000 values" in refused("github", body)


PUSHES: dict[str, Any] = {"github": github_push, "gitlab": gitlab_push, "gitea": gitea_push}
UNFIT = {
    "a NUL": "refs/heads/a\0b",
    "half a character": "refs/heads/\ud800",
    "no folder": "main",
    "dots": "refs/heads/../x",
    "a space": "refs/heads/a b",
    "a newline": "refs/heads/a\nb",
    "empty": "",
    "nothing": None,
    "a number": 7,
    "a list": ["refs/heads/main"],
    "too long": "refs/heads/" + "a" * 5000,
}


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("ref", UNFIT.values(), ids=UNFIT)
def test_a_ref_that_git_would_not_have_is_refused(forge: str, ref: object) -> None:
    assert "`ref`" in refused(forge, json.dumps(PUSHES[forge](ref=ref)).encode())


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("end", ["before", "after"])
@pytest.mark.parametrize("value", [None, "", "abc", "1" * 39, "1" * 41, "G" * 40, OLD + "\n", 0, True])
def test_an_end_that_is_no_object_id_is_refused(forge: str, end: str, value: object) -> None:
    assert f"`{end}`" in refused(forge, json.dumps(PUSHES[forge](**{end: value})).encode())


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("value", [None, "4711", 0, -1, True, 1.5, 1 << 64, [], {}])
def test_a_repository_without_its_number_is_refused(forge: str, value: object) -> None:
    key = "project" if forge == "gitlab" else "repository"
    push = PUSHES[forge]()
    assert "`id`" in refused(forge, json.dumps(push | {key: push[key] | {"id": value}}).encode())


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("value", [None, [], "octo/cat", 1])
def test_a_push_to_no_repository_is_refused(forge: str, value: object) -> None:
    key = "project" if forge == "gitlab" else "repository"
    assert f"`{key}`" in refused(forge, json.dumps(PUSHES[forge](**{key: value})).encode())


@pytest.mark.parametrize("name", ["\0", "\ud800", "a" * 5000, 7], ids=["NUL", "half", "long", "number"])
def test_a_user_name_that_cannot_be_kept_is_refused(name: object) -> None:
    refused("github", json.dumps(github_push(pusher={"name": name})).encode())
    refused("gitlab", json.dumps(gitlab_push(user_username=name)).encode())
    refused("gitea", json.dumps(gitea_push(pusher={"login": name})).encode())


def test_what_is_not_read_may_be_odd() -> None:
    commit = {"message": "\0 and \ud800", "id": None}
    assert len(github("push", github_push(commits=[commit])).updates) == 1


@pytest.mark.parametrize("value", ["", "a" * 201, "a\nb", "é", "\x7f"])
def test_a_delivery_without_a_sound_id_is_refused(value: str) -> None:
    body = json.dumps(github_push()).encode()
    assert "delivery" in refused("github", body, **{"x-github-delivery": value})


def test_an_event_that_no_header_names_is_refused() -> None:
    assert "event" in refused("github", b"{}", **{"x-github-event": ""})


def test_a_forge_that_is_none_is_refused() -> None:
    assert "no host" in refused("gerrit", b"{}")


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"payload=%7B", NOT_JSON),
        (b"payload=%FF", NOT_JSON),
        (b"payload=\xff", NOT_JSON),
        (b"&".join([b"a=1"] * 100), NOT_JSON),
        (b"other=%7B%7D", "no field `payload`"),
        (b"payload=" + b"%7B" * (events.FORM // 3), "choose application/json"),
    ],
    ids=["cut", "not UTF-8", "raw bytes", "many fields", "another field", "too large"],
)
def test_a_form_that_is_odd_is_refused(body: bytes, why: str) -> None:
    assert why in refused("github", body, **{"content-type": FORM})


ODD: list[Any] = [
    "",
    "main",
    "refs/heads/x",
    OLD,
    NONE,
    "tag",
    "\0",
    "\ud800",
    None,
    True,
    0,
    7,
    -1,
    1 << 70,
    0.5,
    [],
    {},
]
anything = st.sampled_from(ODD) | st.dictionaries(
    st.sampled_from(["id", "login", "name", "full_name", "pushed_at"]), st.sampled_from(ODD), max_size=3
)
KEYS = sorted({*github_push(), *gitlab_push(), "ref_type", "sha", "project_visibility"})


@given(
    st.sampled_from(FORGES),
    st.sampled_from(["push", "create", "delete", "repository", "ping"]),
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=3),
)
def test_whatever_a_field_holds_it_is_understood_or_refused(
    forge: str, event: str, changed: dict[str, object]
) -> None:
    headers = {"idempotency-key": "d"}
    for prefix in ("x-github", "x-gitea"):
        headers |= {f"{prefix}-event": event, f"{prefix}-delivery": "d"}
    body = json.dumps(PUSHES[forge]() | changed).encode()
    try:
        understood = events.parse(forge, headers, body)
    except BadPayload:
        return
    assert understood.delivery == "d"
    for update in understood.updates:
        assert update.name.startswith(b"refs/")


@given(st.sampled_from(FORGES), st.binary(max_size=200))
def test_whatever_bytes_arrive_they_are_understood_or_refused(forge: str, body: bytes) -> None:
    headers = {"idempotency-key": "d", "x-github-event": "push", "x-github-delivery": "d"}
    try:
        events.parse(forge, headers, body)
    except BadPayload:
        return
