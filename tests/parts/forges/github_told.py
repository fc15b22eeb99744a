"""What GitHub tells of people, repositories, hooks and pushes, as its API and its deliveries say it.

https://docs.github.com/en/rest, https://docs.github.com/en/webhooks/webhook-events-and-payloads
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response

from tests.parts.forges.calls import Refused, stamp
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
)
from tests.parts.repos import run_git

DOCS: Final = "https://docs.github.com/rest"
API: Final = "/api/v3"
COMMITS: Final = 2048  # of one push in its payload ("Webhook events and payloads")


def place(host: Host, person: Person) -> Owner:
    return next((one for one in host.owners if one.person is person), Owner(person.id, person.login, person))


def account(host: Host, owner: Owner) -> Json:
    kind = "User" if owner.person else "Organization"
    return {
        "login": owner.login,
        "id": owner.id,
        "node_id": _node(kind, owner.id),
        "avatar_url": f"{host.url}/avatars/{owner.id}",
        "gravatar_id": "",
        "url": f"{host.api_url}/users/{owner.login}",
        "html_url": f"{host.url}/{owner.login}",
        "repos_url": f"{host.api_url}/users/{owner.login}/repos",
        "type": kind,
        "site_admin": False,
    }


def repository_of(host: Host, repository: Repository, person: Person | None) -> Json:
    name = repository.full_name
    url = f"{host.api_url}/repos/{name}"
    told: Json = {
        "id": repository.id,
        "node_id": _node("Repository", repository.id),
        "name": repository.name,
        "full_name": name,
        "private": repository.private,
        "owner": account(host, repository.owner),
        "html_url": f"{host.url}/{name}",
        "description": repository.description,
        "fork": False,
        "url": url,
        "hooks_url": f"{url}/hooks",
        "created_at": stamp(repository.created_at),
        "updated_at": stamp(repository.pushed_at),
        "pushed_at": stamp(repository.pushed_at),
        "git_url": f"git://{urlsplit(host.url).netloc}/{name}.git",
        "ssh_url": f"git@{urlsplit(host.url).hostname}:{name}.git",
        "clone_url": repository.url,
        "svn_url": f"{host.url}/{name}",
        "homepage": None,
        "size": 1,
        "language": None,
        "archived": repository.archived,
        "disabled": False,
        "is_template": False,
        "visibility": "private" if repository.private else "public",
        "default_branch": repository.default_branch,
    }
    if person:
        level = host.level_for(repository, person)
        told["permissions"] = {
            "admin": level >= ADMIN,
            "maintain": level >= MAINTAIN,
            "push": level >= WRITE,
            "triage": level >= WRITE,
            "pull": level >= READ,
        }
    return told


def hook_of(host: Host, hook: Hook) -> Json:
    url = f"{host.api_url}/repos/{hook.repository.full_name}/hooks/{hook.id}"
    last = hook.deliveries[-1] if hook.deliveries else None
    config = {
        "content_type": hook.content_type,
        "insecure_ssl": "0" if hook.verify else "1",
        "url": hook.url,
    }
    return {
        "type": "Repository",
        "id": hook.id,
        "name": "web",
        "active": hook.active,
        "events": list(hook.events),
        "config": config | ({"secret": "********"} if hook.secret else {}),
        "updated_at": stamp(hook.updated_at),
        "created_at": stamp(hook.created_at),
        "url": url,
        "test_url": f"{url}/test",
        "ping_url": f"{url}/pings",
        "deliveries_url": f"{url}/deliveries",
        "last_response": {
            "code": (last.status or 502) if last else None,
            "status": ("active" if _ok(last) else "misconfigured") if last else "unused",
            "message": _status(last) if last else None,
        },
    }


def delivery_of(host: Host, delivery: Delivery) -> Json:
    return {
        "id": delivery.id,
        "guid": delivery.guid,
        "delivered_at": stamp(delivery.created_at),
        "redelivery": delivery.redelivery,
        "duration": round(delivery.seconds, 2),
        "status": _status(delivery),
        "status_code": delivery.status or 502,
        "event": delivery.event,
        "action": delivery.payload.get("action"),
        "installation_id": None,
        "repository_id": delivery.hook.repository.id,
        "throttled_at": None,
    }


def push_of(host: Host, repository: Repository, move: Move, by: Person) -> Json:
    commits = _commits(host, repository, move)
    return {
        "ref": move.name.decode(errors="replace"),
        "before": move.old,
        "after": move.new,
        "created": move.before is None,
        "deleted": move.after is None,
        "forced": _forced(host, repository, move),
        "base_ref": None,
        "compare": f"{host.url}/{repository.full_name}/compare/{move.old[:12]}...{move.new[:12]}",
        "commits": commits,
        "head_commit": commits[-1] if commits else None,
        "pusher": {"name": by.login, "email": by.email},
    }


def _commits(host: Host, repository: Repository, move: Move) -> list[Json]:
    if not move.after or not move.name.startswith(b"refs/heads/"):
        return []
    span = [move.after.decode(), *([f"^{move.before.decode()}"] if move.before else [])]
    form = "%H%x00%T%x00%aI%x00%an%x00%ae%x00%B%x01"
    text = run_git("-C", repository.path, "log", f"-{COMMITS}", "--reverse", f"--format={form}", *span)
    commits = []
    for entry in text.decode(errors="replace").split("\1")[:-1]:
        oid, tree, at, name, mail, message = entry.lstrip("\n").split("\0", 5)
        who = {"name": name, "email": mail}
        commits.append(
            {
                "id": oid,
                "tree_id": tree,
                "distinct": True,
                "message": message.strip("\n"),
                "timestamp": at,
                "url": f"{host.url}/{repository.full_name}/commit/{oid}",
                "author": who,
                "committer": who,
                "added": [],
                "removed": [],
                "modified": [],
            }
        )
    return commits


def _forced(host: Host, repository: Repository, move: Move) -> bool:
    if not move.before or not move.after or not move.name.startswith(b"refs/heads/"):
        return False
    left = run_git("-C", repository.path, "rev-list", "-1", move.before.decode(), f"^{move.after.decode()}")
    return bool(left.strip())


def made_of(host: Host, repository: Repository, move: Move, created: bool) -> Json:
    tag = move.name.startswith(b"refs/tags/")
    told: Json = {
        "ref": move.name.split(b"/", 2)[2].decode(errors="replace"),
        "ref_type": "tag" if tag else "branch",
        "pusher_type": "user",
    }
    if created:
        told |= {"master_branch": repository.default_branch, "description": repository.description}
    return told


def _ok(delivery: Delivery | None) -> bool:
    return bool(delivery and delivery.status and delivery.status < 300)


def _status(delivery: Delivery) -> str:
    if delivery.status is None:
        return "timed out" if "Timeout" in (delivery.problem or "") else "failed to connect to host"
    return "OK" if _ok(delivery) else f"Invalid HTTP Response: {delivery.status}"


def _node(kind: str, id: int) -> str:
    return b64encode(f"0{len(kind)}:{kind}{id}".encode()).decode()


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    told = {"message": message, "documentation_url": DOCS, "status": str(status)}
    return JSONResponse(told, status, dict(headers or {}))


def not_found(scopes: Sequence[str] = ()) -> Refused:
    return Refused(error(404, "Not Found", {"X-Accepted-OAuth-Scopes": ", ".join(scopes)}))


def invalid(
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
