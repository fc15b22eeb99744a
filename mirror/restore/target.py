"""Where a restore goes, and by whose credentials: a new repository, a kept one, or any address.

Who calls: the pages and the API for a plan; jobs/run when a restore is asked for and when it runs, as the
person's role may have changed since; restore/restore, to back up a target before it is overwritten.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from mirror.backup import pushing
from mirror.backup import sync as syncing
from mirror.core.errors import EverrefError, NotAllowed, NotFound, Origin, Refused, RemoteGone, UsageError
from mirror.core.model import HEAD, Reason, Remote, Repo, RepoId, Secret, Snapshot, has_remote, older_of
from mirror.core.rules.roles import PersonId, Role
from mirror.discovery import add, connections
from mirror.forges.contract import Forge, Owner, Purpose
from mirror.git import address
from mirror.services import failpoints, remote, ssh_access
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.discovery import connections as store
from mirror.store.discovery import remotes
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.store.people import quotas, teams
from mirror.store.people.teams import TeamId

Asked = Mapping[str, Any]  # of a job: names its target by one of WAYS

WAYS: Final = ("to", "kept", "new")
PATIENCE: Final = 60.0  # seconds to wait for another run on the target; then the job is tried again later
_NAMES: Final = 100  # that are tried for the backup of a target
_NOT_KEPT: Final = (
    "only an admin can use the team's own access at an address that the team does not back up; "
    "give a token of your own for it, or have an admin do it"
)


@dataclass(frozen=True, slots=True)
class Authority:
    """In which role, and with which credentials, a restore reaches its target."""

    role: Role  # of the person who asks
    lent: Secret | None = field(default=None, repr=False)  # for this restore alone
    here: bool = False  # at the command line: whoever runs Everref may use paths of this machine


async def role_of(services: Services, team_id: TeamId, person_id: UUID | None, asked: Asked) -> Role:
    """The role a restore runs in: the person's present one, or the one they asked in if that is lower.

    No person means the command line, which may do everything. Raises NotAllowed where the person may no
    longer restore.
    """
    if person_id is None:
        return Role.OWNER
    now = await teams.role_of(services.db, team_id, PersonId(person_id))
    if now is None:
        raise NotAllowed("the person who asked for this is not a member of the team any more")
    asked_in = Role(asked.get("role", now))
    least = asked_in if now.may(asked_in) else now
    if not least.may(Role.OPERATOR):
        raise NotAllowed(f"a restore needs the role operator; the person who asked for it is {least} now")
    return least


async def _check_authority(
    services: Services, team_id: TeamId, asked: Asked, url: str, means: Authority
) -> None:
    """Raise NotAllowed where this role may not use the team's own credentials at this address.

    An operator may write to a repository that the team backs up, with the credentials it is read with,
    and to one that the restore makes. Any other address needs credentials lent for this restore, or an admin.
    """
    if means.role.may(Role.ADMIN):
        return
    of_machine = address.is_path(url)  # reached with the rights of this process, whatever is lent
    if means.lent is not None and not of_machine:
        return
    if not (of_machine or address.is_ssh(url) or asked.get("connection")):
        return  # none of the team's credentials are used there
    kept = await repos.by_url(services.db, team_id, url)
    if kept is not None:
        origin = await remotes.get(services.db, kept.id)
        by_connection = None if origin.connection_id is None else str(origin.connection_id)
        if not origin.set_aside and by_connection == asked.get("connection"):
            return
    raise NotAllowed(_NOT_KEPT)


def new_repository(connection_id: ConnectionId, owner: Owner, name: str, private: bool) -> dict[str, Any]:
    """A repository that a restore is to make, as its job has it under `new`. Raises UsageError."""
    if not _is_name(name):
        raise UsageError("a repository's name has letters, digits, dots, dashes and underscores, 100 at most")
    of = {"id": owner.id, "login": owner.login, "name": owner.name, "personal": owner.personal}
    return {"connection": str(connection_id), "owner": of, "name": name, "private": private}


def _is_name(name: str) -> bool:
    """Whether both GitHub and GitLab accept this name, and keep it as it is."""
    plain = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    return plain and len(name) <= 100 and name[0] not in ".-_" and not name.endswith((".git", ".atom", "."))


def check(services: Services, asked: Asked, secret: Secret | None) -> None:
    """Raise UsageError unless exactly one valid target is named."""
    if len([way for way in WAYS if asked.get(way)]) != 1:
        raise UsageError("say where the restore goes: to an address, a repository of the team, or a new one")
    if asked.get("to"):
        _parsed(services, asked)
    elif secret is not None:
        raise UsageError("credentials can be given for an address only; this target uses its connection's")


async def reach(services: Services, team_id: TeamId, asked: Asked, means: Authority) -> Remote:
    """The target with the credentials to write there; a new one may not exist yet.

    Raises UsageError, NotFound, NotAllowed where the role may not use the team's credentials there,
    and BadCredentials where its connection must be made again.
    """
    secret = means.lent
    await allow(services, team_id, asked, means)
    if asked.get("kept"):
        repo = await repos.find_in(services.db, team_id, RepoId(_uuid(asked["kept"])))
        if repo is None:
            raise NotFound("the repository to restore to is not backed up any more")
        if at := older_of(repo.url):  # the newer history is at another address, with its own credentials
            repo = replace(await repos.by_url(services.db, team_id, at) or repo, url=at)
        if not has_remote(repo.url):
            await pushing.check_not_paused(services, repo)
            return Remote(repo.url, here=repo)
        return await add.remote_of(services, repo.id, repo.url)
    if asked.get("new"):
        new = asked["new"]
        forge, token = await _forge(services, team_id, new["connection"])
        url = f"{forge.app.url.rstrip('/')}/{new['owner']['login']}/{new['name']}.git"
        return Remote(url, forge.credential(token))
    url = _parsed(services, asked)
    if not means.here:
        await add.check_path(services, team_id, url)
    if secret is None and asked.get("connection"):
        forge, token = await _forge(services, team_id, asked["connection"])
        if not url.startswith(f"{forge.app.url.rstrip('/')}/"):
            raise UsageError("this connection is to another host than the address")
        secret = forge.credential(token)
    return await ssh_access.ready(services, team_id, Remote(url, secret))


async def allow(services: Services, team_id: TeamId, asked: Asked, means: Authority) -> None:
    """Raise NotAllowed where this role may not reach this target with the team's credentials."""
    if asked.get("to"):
        await _check_authority(services, team_id, asked, _parsed(services, asked), means)


def _parsed(services: Services, asked: Asked) -> str:
    to = address.parse_remote(str(asked.get("to", "")), services.settings.allow_private_remotes)
    if to.secret is not None:
        raise UsageError("give the credentials separately, not in the address")
    return to.url


async def _forge(services: Services, team_id: TeamId, connection: object) -> tuple[Forge, str]:
    found = await store.find(services.db, team_id, ConnectionId(_uuid(connection)))
    if found is None:
        raise NotFound("the connection was removed; choose another target")
    return await connections.forge_of(services, found.id)


def _uuid(text: object) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise UsageError("the target is not named as it should be") from None


async def make_default(services: Services, team_id: TeamId, asked: Asked, to: Remote, branch: str) -> bool:
    """Have the target's forge make a branch the default one, by the connection that writes there.

    False: no connection does, so only a person can. Raises what kept the forge from doing so.
    """
    connection_id = await _connection_of(services, team_id, asked)
    if connection_id is None:
        return False
    name = urlsplit(to.url).path.strip("/").removesuffix(".git")
    await connections.asking(
        services, connection_id, lambda forge, token: forge.set_default_branch(token, name, branch)
    )
    return True


async def may_make_default(services: Services, team_id: TeamId, asked: Asked) -> bool:
    """Whether a connection writes to the target, which can ask its forge for another default branch."""
    return await _connection_of(services, team_id, asked) is not None


async def without_workflows(services: Services, team_id: TeamId, asked: Asked) -> Connection | None:
    """The connection that writes to the target, where its forge takes no workflow files from it.

    None: it takes them, or nobody can tell: a fine-grained token does not say what it may.
    """
    connection_id = await _connection_of(services, team_id, asked)
    found = await store.find(services.db, team_id, connection_id) if connection_id else None
    if found and connections.missing_scopes(services, found, Purpose.WORKFLOWS):
        return found
    return None


async def _connection_of(services: Services, team_id: TeamId, asked: Asked) -> ConnectionId | None:
    if asked.get("kept"):
        repo = await repos.find_in(services.db, team_id, RepoId(_uuid(asked["kept"])))
        return (await remotes.get(services.db, repo.id)).connection_id if repo else None
    named = (asked.get("new") or asked).get("connection")
    found = await store.find(services.db, team_id, ConnectionId(_uuid(named))) if named else None
    return found.id if found else None


async def is_free(services: Services, to: Remote) -> bool:
    """Whether there is no repository at this address, as far as these credentials show."""
    try:
        await _is_empty(services, to)
    except RemoteGone:
        return True
    return False


async def ready(services: Services, job: Job, means: Authority) -> tuple[Remote, bool]:
    """The job's target, made if that was asked for; and whether the job made it.

    Safe to run twice: the job notes what it is about to make. A later run that finds an empty
    repository where an earlier run was about to make one takes it as its own. Raises Refused where
    somebody else has the name.
    """
    to = await reach(services, job.team_id, job.asked, means)
    if not job.asked.get("new"):
        return to, False
    noted = job.result or {}
    if noted.get("made"):
        return Remote(noted["made"], to.secret), True
    services.progress.phase("making the repository")
    await jobs.note(services.db, job.id, job.attempt, {"making": to.url})
    failpoints.reached("restore: about to make")
    url = await _made(services, job.asked["new"], to, again=bool(noted.get("making")))
    failpoints.reached("restore: made")
    await jobs.note(services.db, job.id, job.attempt, {"made": url})
    return Remote(url, to.secret), True


async def _made(services: Services, new: Asked, to: Remote, again: bool) -> str:
    owner = Owner(**new["owner"])
    try:
        listed = await connections.asking(
            services,
            ConnectionId(_uuid(new["connection"])),
            lambda forge, token: forge.create_repository(
                token, owner, new["name"], private=new.get("private", True)
            ),
        )
    except Refused:
        if not again or await is_free(services, to) or not await _is_empty(services, to):
            raise
        return to.url
    return listed.clone_url


async def _is_empty(services: Services, to: Remote) -> bool:
    async with remote.connected(services, to, origin=Origin.TARGET) as target:
        return not (await target.ls_refs()).refs.keys() - {HEAD}


async def keep(services: Services, restored: Repo, to: Remote) -> tuple[Repo, Snapshot]:
    """Back up what the target holds now, so that overwriting it can be undone.

    The backup is the repo of this address in the team of the restored repo. A new one is set aside: nobody
    asked for it to be synced, and the credentials may be lent for this restore alone.
    """
    services.progress.phase("backing up what the target holds")
    team_id = await keeper(services, (await remotes.get(services.db, restored.id)).team_id, to.url)
    secret = to.secret or (Secret("", to.ssh.key) if to.ssh else None)
    repo = await repos.by_url(services.db, team_id, to.url) or await _added(services, team_id, to.url)
    try:
        done = await syncing.sync(services, repo.id, Reason.MANUAL, PATIENCE, secret=secret)
    except EverrefError as error:
        error.came_from(Origin.TARGET, instead_of=Origin.SOURCE)
        raise
    failpoints.reached("restore: target kept")
    return done.repo, done.snapshot


async def keeper(services: Services, team_id: TeamId, url: str) -> TeamId:
    """The team that backs up the target: for a path of this machine, always the command line's."""
    return await teams.default(services.db) if address.is_path(url) else team_id


async def _added(services: Services, team_id: TeamId, url: str) -> Repo:
    wanted = address.name_from_url(url)
    for number in range(1, _NAMES):
        name = wanted if number == 1 else f"{wanted}-{number}"
        if await repos.by_name(services.db, team_id, name):
            continue
        try:
            now = services.clock()
            async with quotas.within(services.db, team_id, services.settings.limits, now, "repos") as db:
                made = await repos.add(db, team_id, name, url, now)
                await remotes.set_aside(db, made.id, now)
            return made
        except UsageError:  # another run was faster, or took the name
            if found := await repos.by_url(services.db, team_id, url):
                return found
    raise UsageError(f"no name is left for the backup of {url}; remove a repo with a similar name")
