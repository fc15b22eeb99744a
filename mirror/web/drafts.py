"""A restore before it is begun: where it goes, who may begin it, and how often.

Who calls: the pages (web/pages/repos/restore, restores) and the API (web/api/work), which ask for the same
things in the same order.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Final
from uuid import UUID

from starlette.exceptions import HTTPException

from mirror.core import words
from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.keyring import BadKey
from mirror.core.model import Remote, Repo, RepoId, Secret, has_remote, older_of
from mirror.core.rules.roles import Role
from mirror.discovery import add, connections
from mirror.forges.contract import Owner, Purpose
from mirror.git import address
from mirror.jobs import run as flow
from mirror.restore import target
from mirror.store import repos
from mirror.store.discovery import connections as store
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job, JobId
from mirror.store.people import attempts
from mirror.web.dispatch import AskAgain, RequestContext

PER_HOUR: Final = 5  # restores that one person can begin
BUNDLES_PER_HOUR: Final = 20
HOUR: Final = timedelta(hours=1)
DRAFT_LASTS: Final = timedelta(hours=1)  # a plan that was shown, until it must be made again


@dataclass(frozen=True, slots=True)
class Draft:
    """A restore whose plan was shown and that one press starts; it is sealed into the page."""

    job_id: JobId  # of the job that it becomes, so that a second press starts nothing
    asked: Mapping[str, Any]
    name: str  # of the target; people type it before the target is overwritten
    told: str  # the target in words
    secret: Secret | None = field(default=None, repr=False)  # lent for this restore alone


async def to_new(
    context: RequestContext, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]
) -> Draft:
    """To a repository that a connection makes. Raises UsageError, NotFound, Refused."""
    connection = await _connection(context, given.get("connection", ""))
    missing = missing_scopes(context, connection)
    if missing:
        raise Refused(f"{connection.host} has not granted {', '.join(missing)}; allow that first")
    owners = await owners_of(context, connection)
    owner = next((one for one in owners if one.id == given.get("owner")), None)
    if owner is None:
        raise UsageError("choose who will own the new repository")
    private = given.get("private", "yes") != "no"
    new = target.new_repository(connection.id, owner, given.get("name", "").strip(), private)
    name = f"{owner.login}/{new['name']}"
    kind = "private" if private else "public"
    told = (
        f"{name} at {connection.host}, a new {kind} repository, made by the connection of {connection.login}"
    )
    return Draft(jobs.new_id(), asked | {"new": new, "force": False}, name, told)


async def to_kept(
    context: RequestContext, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]
) -> Draft:
    """To a repository that the team backs up. Raises NotFound, Refused."""
    name = given.get("repo", "") or repo.name
    found = await repos.by_name(context.services.db, context.of_team().id, name)
    if found is None:
        raise NotFound(f"there is no repository {name} in {context.of_team().name}")
    kept = await store.of_repo(context.services.db, found.id)
    if kept:
        _check_push(context, kept.connection)
    where = f"at {older_of(found.url) or found.url}" if has_remote(found.url) else "which is pushed to"
    told = f"{found.name}, {where}"
    return Draft(jobs.new_id(), asked | {"kept": str(found.id)}, found.name, told)


async def to_url(
    context: RequestContext, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]
) -> Draft:
    """To any address. Raises UsageError, Refused."""
    to = await _address(context, given.get("url", "").strip())
    token, username = given.get("token", "").strip(), given.get("username", "").strip()
    secret = Secret(username or "", token) if token else to.secret
    asked, told = asked | {"to": to.url}, to.url
    if secret is not None:
        asked["lent"] = True
        told = f"{to.url}, with the token that you gave for this restore"
    elif connection := await _connection_to(context, to.url):
        _check_push(context, connection)
        asked["connection"] = str(connection.id)
        told = f"{to.url}, with the connection of {connection.login}"
    return Draft(jobs.new_id(), asked, address.name_from_url(to.url), told, secret)


async def _address(context: RequestContext, text: str) -> Remote:
    """The address that was given; only admins of the command line's team may give a path of this machine."""
    if context.acting.may(Role.ADMIN):
        return await add.remote_for(context.services, context.of_team().id, text)
    return address.parse_remote(text, context.services.settings.allow_private_remotes, paths=False)


def _check_push(context: RequestContext, connection: Connection) -> None:
    missing = connections.missing_scopes(context.services, connection, Purpose.PUSH)
    if missing:
        raise Refused(
            f"{connection.host} has not granted {connection.login}'s connection {', '.join(missing)}, so it"
            " cannot push; allow it under Connect, or give the address with a token that can push"
        )


async def _connection(context: RequestContext, text: str) -> Connection:
    try:
        found = await store.find(context.services.db, context.of_team().id, ConnectionId(UUID(text)))
    except ValueError:
        found = None
    if found is None:
        raise NotFound("there is no such connection")
    return found


async def _connection_to(context: RequestContext, url: str) -> Connection | None:
    """A connection of the team to the host of this address; the one that backs it up, where there is one."""
    found: Connection | None = None
    kept = await repos.by_url(context.services.db, context.of_team().id, url)
    reads = await store.of_repo(context.services.db, kept.id) if kept else None
    for one in await store.of_team(context.services.db, context.of_team().id):
        app = context.services.forges.at(one.forge, one.host).app
        if one.state == "works" and url.startswith(f"{app.url.rstrip('/')}/"):
            if reads is not None and reads.connection.id == one.id:
                return one
            found = found or one
    return found


def missing_scopes(context: RequestContext, connection: Connection) -> tuple[str, ...]:
    """The scopes missing from the connection that are needed to make a repository and push to it."""
    found = [
        scope
        for purpose in (Purpose.CREATE, Purpose.PUSH)
        for scope in connections.missing_scopes(context.services, connection, purpose)
    ]
    return tuple(dict.fromkeys(found))


async def owners_of(context: RequestContext, connection: Connection) -> list[Owner]:
    async with context.planning():
        return await connections.asking(
            context.services, connection.id, lambda forge, token: forge.owners(token)
        )


def sealed(context: RequestContext, repo: Repo, draft: Draft) -> str:
    """The draft for a hidden field, which only this person can use, for this repo, for an hour."""
    kept = {
        "job": str(draft.job_id),
        "asked": dict(draft.asked),
        "name": draft.name,
        "told": draft.told,
        "secret": [draft.secret.username, draft.secret.password] if draft.secret else None,
        "until": (context.now + DRAFT_LASTS).isoformat(),
    }
    sealed = context.outside.keyring.seal(json.dumps(kept).encode(), _context(context, repo))
    return base64.urlsafe_b64encode(sealed).decode()


def unsealed(context: RequestContext, repo: Repo, text: str) -> Draft:
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii", "replace"))
        kept = json.loads(context.outside.keyring.open(raw, _context(context, repo)))
    except (ValueError, BadKey):
        raise UsageError("this plan was not shown to you; plan the restore again") from None
    if datetime.fromisoformat(kept["until"]) < context.now:
        raise UsageError("this plan is more than an hour old; plan the restore again")
    secret = Secret(*kept["secret"]) if kept["secret"] else None
    return Draft(JobId(UUID(kept["job"])), kept["asked"], kept["name"], kept["told"], secret)


def _context(context: RequestContext, repo: Repo) -> str:
    return f"restore/{repo.id}/{context.owner().id}"


# Who may begin it


async def allow_again(context: RequestContext, job: Job, confirmed: str | None = None) -> None:
    """Hold the retry of a job to the same rules as a new one: sure who asks, confirmed and counted.

    Raises AskAgain, UsageError where overwriting is not confirmed, and 429.
    """
    if job.kind == "bundle":
        await limited(context, "bundle", BUNDLES_PER_HOUR)
    if job.kind != "restore":
        return
    if (job.asked.get("force") or job.asked.get("undo")) and not context.is_sure:
        raise AskAgain
    if job.asked.get("force"):
        confirm(await _target_name(context, job), confirmed)
    if not job.asked.get("undo"):
        await limited(context)


def confirm(name: str, confirmed: str | None) -> None:
    """Raise UsageError unless the name of the target to overwrite was given."""
    if confirmed != name:
        raise UsageError(f'confirm what will be overwritten: say "confirm": "{name}"')


async def _target_name(context: RequestContext, job: Job) -> str:
    """The name to type before a job overwrites its target."""
    if job.asked.get("to"):
        return address.name_from_url(job.asked["to"])
    return await destination(context, job)


async def destination(context: RequestContext, job: Job) -> str:
    """Where a job restores to, in words."""
    asked, result = job.asked, job.result or {}
    if asked.get("new"):
        return f"{asked['new']['owner']['login']}/{asked['new']['name']}"
    if asked.get("kept"):
        found = await repos.find_in(context.services.db, context.of_team().id, RepoId(UUID(asked["kept"])))
        return found.name if found else str(result.get("to", "a repository that is not backed up any more"))
    return str(asked.get("to", ""))


async def limited(context: RequestContext, key: str = "restore", limit: int = PER_HOUR) -> None:
    """Count one restore, or bundle, of this person. Raises 429 where it is one too many."""
    who, db = f"{key} {context.owner().id}", context.services.db
    if await attempts.take(db, who, limit, HOUR, context.now):
        return
    free_at = await attempts.free_at(db, who, context.now)
    raise HTTPException(
        429,
        f"you have started {limit} {key}s within an hour, which is the limit for one person; "
        f"the next is possible at {words.minute(free_at)}",
        {"retry-after": str(max(1, ceil((free_at - context.now).total_seconds())))},
    )


async def queue(
    context: RequestContext,
    repo: Repo,
    kind: jobs.Kind,
    asked: Mapping[str, Any],
    job_id: JobId | None = None,
    secret: Secret | None = None,
) -> Job:
    job = await flow.ask(
        context.services,
        repo.id,
        kind,
        asked_in_role(context, kind, asked),
        person_id=context.owner().id,
        secret=secret,
        job_id=job_id,
    )
    await context.hint(repo.id)
    return job


async def queue_once(context: RequestContext, repo: Repo, draft: Draft) -> bool:
    """Queue the restore of a draft. False: a press at the same moment did."""
    try:
        await queue(context, repo, "restore", draft.asked, draft.job_id, draft.secret)
    except jobs.BegunAlready:
        return False
    return True


def asked_in_role(context: RequestContext, kind: jobs.Kind, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request with the role of the person who asks: a restore uses no credentials beyond that role."""
    return {**asked, "role": str(context.acting)} if kind == "restore" else asked
