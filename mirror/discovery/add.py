"""Adding a repository to what is kept: the first step of every backup."""

from mirror.core.errors import BadCredentials, OurFault, UsageError
from mirror.core.model import Remote, Repo, RepoId, Secret
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
    """The repo that a team keeps for this address, added if it is new; credentials are cut out and sealed.

    Without a team it is that of the command line.

    Raises OverLimit when the team has as many as it may; UsageError
    when the address is kept under another name, or the name
    belongs to another address, unless that one was never reached and the name is
    given anew. Safe to run twice, also at once: the second finds the first's row.
    """
    team = team or await teams.default(services.db)
    remote = await remote_meant(services, team, remote_text)
    known = await repos.by_url(services.db, team, remote.url)
    wanted = name or (known.name if known else address.name_from_url(remote.url))
    if known and known.name != wanted:
        raise UsageError(f"{remote.url} is already kept as {known.name}; use that name, or leave --name out")
    if not known:
        known = await _added(services, team, wanted, remote.url, insisted=name is not None)
    given = secret or remote.secret
    await remotes.chosen(services.db, known.id)
    if given:
        if services.keyring is None:
            raise OurFault("credentials cannot be kept: set SECRET_KEYS (32 random characters or more)")
        await credentials.keep(services.db, services.keyring, known.id, given)
    return known


async def remote_meant(services: Services, team: TeamId, text: str) -> Remote:
    """The remote that this address means to a team. Raises UsageError, NotFound.

    A path of this machine is for the team of who runs Everref here and for nobody
    else, whether there is something at it or not: everybody may sign up, and whoever
    owns the command line's team has its terminal.
    """
    paths = team == await teams.default(services.db)
    return address.parse_remote(text, services.settings.allow_private_remotes, paths=paths)


async def check_path(services: Services, team: TeamId, url: str) -> None:
    """Raise UsageError for a path of this machine, unless the team is that of who runs Everref here."""
    if address.is_path(url) and team != await teams.default(services.db):
        raise UsageError(address.NO_PATHS)


async def _added(services: Services, team: TeamId, name: str, url: str, insisted: bool) -> Repo:
    """A new repo; or one whose address was mistyped, with the address that `insisted` puts right."""
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
    taken = f"the name {name} is taken by {namesake.url}"
    if namesake.object_format:
        raise UsageError(f"{taken}; choose another with --name")
    if not insisted:
        raise UsageError(
            f"{taken}, which was never reached; --name {name} puts this address in its place, "
            "another --name keeps both"
        )
    async with leased(services, namesake, patience=0):
        moved = await repos.move(services.db, namesake.id, url)
    if not moved:
        raise UsageError(f"{taken}; choose another with --name")
    return moved


async def remote_of(services: Services, repo_id: RepoId, url: str, secret: Secret | None = None) -> Remote:
    """The repo's address with these credentials, else with those kept for it, else its connection's token.

    Raises BadCredentials where the connection wants its person to connect again.
    """
    if secret is None and services.keyring is not None:
        secret = await credentials.of(services.db, services.keyring, repo_id, url)
        secret = secret or await connections.credential_of(services, repo_id, url)
    remote = Remote(url, secret)
    if address.is_ssh(url):
        remote = await _by_ssh(services, await remotes.get(services.db, repo_id), remote)
    return remote


async def remote_at(services: Services, began: Beginning, secret: Secret | None = None) -> Remote:
    """`remote_of` for a turn that has just begun."""
    url = began.repo.url
    if secret is None and services.keyring is not None:
        if began.sealed is not None:
            secret = credentials.opened(services.keyring, began.repo.id, began.sealed)
        elif began.connection is not None:
            secret = await connections.credential_from(services, began.connection, url)
    return await _by_ssh(services, began.origin, Remote(url, secret))


async def _by_ssh(services: Services, origin: RemoteRepository, remote: Remote) -> Remote:
    """The remote with the team's key where it is reached by ssh, which one that nobody chose never is."""
    if origin.set_aside and remote.secret is None and address.is_ssh(remote.url):
        raise BadCredentials(
            f"{origin.repo.name} was kept by a restore with a key lent for it; an admin who resumes it lets "
            "it be read with the team's key"
        )
    return await ssh_access.ready(services, origin.team_id, remote)
