"""Adding a repository: the first step of every backup."""

from mirror.core.errors import BadCredentials, OurFault, UsageError
from mirror.core.model import Remote, Repo, RepoId, Secret, has_remote
from mirror.discovery import connections
from mirror.git import address
from mirror.services import ssh_access
from mirror.services.lease import leased
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup.beginnings import Beginning
from mirror.store.discovery import credentials, remotes
from mirror.store.discovery.remotes import RemoteRepository
from mirror.store.people import quotas, teams
from mirror.store.people.teams import TeamId


async def repo_for(
    services: Services,
    remote_text: str,
    name: str | None,
    secret: Secret | None = None,
    *,
    team: TeamId | None = None,
) -> Repo:
    """Return the team's repo for this address, adding it if it is new; credentials are cut out and sealed.

    Without a team, the command line's team is used.

    Raises OverLimit when the team already has as many repos as it may; UsageError
    when the address is kept under another name, or when the name belongs to another
    address (unless that address was never reached and the name is given explicitly).
    Safe to run twice, also at the same time: the second run finds the first's row.
    """
    team = team or await teams.default(services.db)
    remote = await remote_for(services, team, remote_text)
    known = await repos.by_url(services.db, team, remote.url)
    wanted = name or (known.name if known else address.name_from_url(remote.url))
    if known and known.name != wanted:
        raise UsageError(
            f"{remote.url} is already backed up as {known.name}; use that name, or leave --name out"
        )
    if not known:
        known = await _added(services, team, wanted, remote.url, insisted=name is not None)
    given = secret or remote.secret
    await remotes.chosen(services.db, known.id)
    if given:
        if services.keyring is None:
            raise OurFault("credentials cannot be stored: set SECRET_KEYS (32 random characters or more)")
        await credentials.keep(services.db, services.keyring, known.id, given)
    return known


async def remote_for(services: Services, team: TeamId, text: str) -> Remote:
    """The remote that a team means by this address. Raises UsageError, NotFound.

    Only the command line's team may use a path on this machine, whether anything exists
    there or not: anybody may sign up, but the owner of that team has a terminal here anyway.
    """
    paths = team == await teams.default(services.db)
    return address.parse_remote(text, services.settings.allow_private_remotes, paths=paths)


async def check_path(services: Services, team: TeamId, url: str) -> None:
    """Raise UsageError for a path on this machine, unless the team is the command line's."""
    if address.is_path(url) and team != await teams.default(services.db):
        raise UsageError(address.NO_PATHS)


async def _added(services: Services, team: TeamId, name: str, url: str, insisted: bool) -> Repo:
    """A new repo; or, if `insisted`, an existing repo whose mistyped address is corrected."""
    namesake = await repos.by_name(services.db, team, name)
    if not namesake:
        try:
            now = services.clock()
            async with quotas.within(services.db, team, services.settings.limits, now, "repos") as db:
                return await repos.add(db, team, name, url, now)
        except UsageError:
            namesake = await repos.by_url(services.db, team, url)  # another run may have added it just now
            if not namesake or namesake.name != name:
                raise
    if namesake.url == url:
        return namesake
    if not has_remote(namesake.url):
        raise UsageError(
            f"the name {name} is taken by a repository that is pushed to; choose another with --name",
            field="name",
        )
    taken = f"the name {name} is taken by {namesake.url}"
    if namesake.object_format:
        raise UsageError(f"{taken}; choose another with --name", field="name")
    if not insisted:
        raise UsageError(
            f"{taken}, which was never reached; pass --name {name} to replace that address, "
            "or another --name to keep both",
            field="name",
        )
    async with leased(services, namesake, patience=0):
        moved = await repos.move(services.db, namesake.id, url)
    if not moved:
        raise UsageError(f"{taken}; choose another with --name", field="name")
    return moved


async def remote_of(services: Services, repo_id: RepoId, url: str, secret: Secret | None = None) -> Remote:
    """The repo's address with these credentials, else with its stored ones, else with its connection's token.

    Raises BadCredentials if the connection must be connected again, UsageError for a repo without a remote.
    """
    if not has_remote(url):
        raise UsageError(
            "this repository has no remote: nothing is read from a host or written to one for it"
        )
    if secret is None and services.keyring is not None:
        secret = await credentials.of(services.db, services.keyring, repo_id, url)
        secret = secret or await connections.credential_of(services, repo_id, url)
    remote = Remote(url, secret)
    if address.is_ssh(url):
        remote = await _by_ssh(services, await remotes.get(services.db, repo_id), remote)
    return remote


async def remote_at(services: Services, began: Beginning, secret: Secret | None = None) -> Remote:
    """`remote_of` for a run that has just taken the repo's lease."""
    url = began.repo.url
    if secret is None and services.keyring is not None:
        if began.sealed is not None:
            secret = credentials.opened(services.keyring, began.repo.id, began.sealed)
        elif began.connection is not None:
            secret = await connections.credential_from(services, began.connection, url)
    return await _by_ssh(services, began.origin, Remote(url, secret))


async def _by_ssh(services: Services, repository: RemoteRepository, remote: Remote) -> Remote:
    """The remote with the team's ssh key, if it is reached by ssh; never for a repo that nobody chose."""
    if repository.set_aside and remote.secret is None and address.is_ssh(remote.url):
        raise BadCredentials(
            f"{repository.repo.name} was added by a restore that used a key given only for that restore; "
            "an admin can resume it to read it with the team's key"
        )
    return await ssh_access.ready(services, repository.team_id, remote)
