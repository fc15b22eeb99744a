"""What GitLab tells of groups, projects, hooks and pushes, as its API and its deliveries say it.

https://docs.gitlab.com/api/projects/, https://docs.gitlab.com/user/project/integrations/webhook_events/
"""

from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response

from tests.parts.forges.calls import stamp
from tests.parts.forges.host import Host
from tests.parts.forges.world import ADMIN, Delivery, Json, Move, Owner, Person, Repository
from tests.parts.repos import run_git

API: Final = "/api/v4"
VERSION: Final = "19.1.0"
COMMITS: Final = 20  # of one push in its payload ("Webhook events", push events)


def namespace_of(host: Host, owner: Owner) -> Json:
    return {
        "id": owner.id,
        "name": owner.login.rpartition("/")[2],
        "path": owner.login.rpartition("/")[2],
        "kind": "user" if owner.person else "group",
        "full_path": owner.login,
        "parent_id": None,
        "avatar_url": None,
        "web_url": f"{host.url}/{'' if owner.person else 'groups/'}{owner.login}",
    }


def group_of(host: Host, group: Owner) -> Json:
    told = namespace_of(host, group)
    more = {
        "full_name": group.login.replace("/", " / "),
        "visibility": "private",
        "description": "",
        "project_creation_level": "developer",
    }
    return {key: told[key] for key in told if key != "kind"} | more


def project_of(host: Host, project: Repository, person: Person | None) -> Json:
    web = f"{host.url}/{project.full_name}"
    told: Json = {
        "id": project.id,
        "description": project.description,
        "name": project.name,
        "name_with_namespace": project.full_name.replace("/", " / "),
        "path": project.name,
        "path_with_namespace": project.full_name,
        "created_at": moment(project.created_at),
        "default_branch": project.default_branch,
        "tag_list": [],
        "topics": [],
        "ssh_url_to_repo": f"git@{urlsplit(host.url).hostname}:{project.full_name}.git",
        "http_url_to_repo": project.url,
        "web_url": web,
        "avatar_url": None,
        "star_count": 0,
        "last_activity_at": moment(project.pushed_at),
        "namespace": namespace_of(host, project.owner),
        "_links": {"self": f"{host.api_url}/projects/{project.id}"},
        "empty_repo": len(project.seen) <= 1,
        "archived": project.archived,
        "visibility": visibility(project),
    }
    if person:
        group = project.owner.access.get(person.id)
        own = ADMIN if project.owner.person is person else project.access.get(person.id)
        told["permissions"] = {
            "project_access": {"access_level": own, "notification_level": 3} if own else None,
            "group_access": {"access_level": group, "notification_level": 3} if group else None,
        }
    return told


def _hook_project(host: Host, repository: Repository) -> Json:
    ssh = f"git@{urlsplit(host.url).hostname}:{repository.full_name}.git"
    web = f"{host.url}/{repository.full_name}"
    return {
        "id": repository.id,
        "name": repository.name,
        "description": repository.description or "",
        "web_url": web,
        "avatar_url": None,
        "git_ssh_url": ssh,
        "git_http_url": repository.url,
        "namespace": repository.owner.login.rpartition("/")[2],
        "visibility_level": 0 if repository.private else 20,
        "path_with_namespace": repository.full_name,
        "default_branch": repository.default_branch,
        "ci_config_path": None,
        "homepage": web,
        "url": ssh,
        "ssh_url": ssh,
        "http_url": repository.url,
    }


def push_of(host: Host, repository: Repository, move: Move, by: Person) -> Json:
    tag = move.name.startswith(b"refs/tags/")
    commits, total = _commits(host, repository, move) if not tag else ([], 0)
    project = _hook_project(host, repository)
    return {
        "object_kind": "tag_push" if tag else "push",
        "event_name": "tag_push" if tag else "push",
        "before": move.old,
        "after": move.new,
        "ref": move.name.decode(errors="replace"),
        "ref_protected": False,
        "checkout_sha": move.after.decode() if move.after else None,
        "message": None,
        "user_id": by.id,
        "user_name": by.name,
        "user_username": by.login,
        "user_email": "",
        "user_avatar": None,
        "project_id": repository.id,
        "project": project,
        "commits": commits,
        "total_commits_count": total,
        "push_options": {},
        "repository": {
            "name": repository.name,
            "url": project["git_ssh_url"],
            "description": repository.description or "",
            "homepage": project["homepage"],
            "git_http_url": repository.url,
            "git_ssh_url": project["git_ssh_url"],
            "visibility_level": project["visibility_level"],
        },
    }


def _commits(host: Host, repository: Repository, move: Move) -> tuple[list[Json], int]:
    if not move.after:
        return [], 0
    span = [move.after.decode(), *([f"^{move.before.decode()}"] if move.before else [])]
    counted = run_git("-C", repository.path, "rev-list", "--count", *span)
    form = "%H%x00%aI%x00%an%x00%B%x01"
    text = run_git("-C", repository.path, "log", f"-{COMMITS}", f"--format={form}", *span)
    commits = []
    for entry in reversed(text.decode(errors="replace").split("\1")[:-1]):
        oid, at, name, message = entry.lstrip("\n").split("\0", 3)
        commits.append(
            {
                "id": oid,
                "message": message.strip("\n"),
                "title": message.split("\n", 1)[0],
                "timestamp": at,
                "url": f"{host.url}/{repository.full_name}/-/commit/{oid}",
                "author": {"name": name, "email": "[REDACTED]"},
                "added": [],
                "modified": [],
                "removed": [],
            }
        )
    return commits, int(counted)


def delivery_of(host: Host, delivery: Delivery) -> Json:
    hidden = {"X-Gitlab-Token": "[REDACTED]"} if "X-Gitlab-Token" in delivery.headers else {}
    return {
        "id": delivery.id,
        "url": delivery.hook.url,
        "trigger": delivery.event,
        "request_headers": delivery.headers | hidden,
        "request_data": delivery.payload,
        "response_headers": delivery.answer_headers,
        "response_body": delivery.answer,
        "execution_duration": delivery.seconds,
        "response_status": str(delivery.status or "internal error"),
    }


def visibility(project: Repository) -> str:
    return "private" if project.private else "public"


def moment(at: datetime) -> str:
    return stamp(at).replace("Z", ".000Z")


def oauth_error(status: int, error: str, told: str) -> Response:
    headers = {"WWW-Authenticate": f'Bearer realm="Protected by OAuth 2.0", error="{error}"'}
    return JSONResponse(
        {"error": error, "error_description": told}, status, headers if status == 401 else None
    )


def said(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status)


def true(value: object) -> bool:
    return value is True or str(value).lower() in ("true", "1", "yes", "on")
