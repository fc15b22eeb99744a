"""The address and the credentials of one repo, replaced by a person: tried at the host, then stored."""

from mirror.core.errors import OurFault, UsageError
from mirror.core.model import Remote, Repo, Secret, has_remote
from mirror.discovery import add
from mirror.git import address
from mirror.services.lease import leased
from mirror.services.open import Hint, Services, nobody
from mirror.services.remote import connected
from mirror.store import repos
from mirror.store.discovery import credentials, remotes


async def replace(
    services: Services, repo: Repo, url: str, secret: Secret | None = None, *, hint: Hint = nobody
) -> Repo:
    """Back a repo up from this address with these credentials from now on, beginning at once.

    Only an address that was never reached can be another one afterwards. Raises UsageError, and whatever
    the host says where it refuses them; nothing is changed then. Safe to run twice.
    """
    if not has_remote(repo.url):
        raise UsageError(f"{repo.name} has no remote: push to it", field="url")
    team = (await remotes.get(services.db, repo.id)).team_id
    remote = await add.remote_for(services, team, url)
    moves, given = remote.url != repo.url, secret or remote.secret
    if moves and repo.object_format:
        raise UsageError(
            f"{repo.name} was reached at {repo.url} already; add the new address as a repository of its own",
            field="url",
        )
    if given is None and not moves:
        raise UsageError("enter the token or password", field="token")
    if given is not None and services.keyring is None:
        raise OurFault("credentials cannot be stored: set SECRET_KEYS (32 random characters or more)")
    await _try(services, repo, Remote(remote.url, given))
    if moves:
        async with leased(services, repo, patience=0):
            moved = await repos.move(services.db, repo.id, remote.url)
        if moved is None:  # a backup has reached it meanwhile
            raise UsageError(f"{repo.name} was reached meanwhile; load the page again", field="url")
        repo = moved
    if given is not None and services.keyring is not None:
        await credentials.keep(services.db, services.keyring, repo.id, given)
    await repos.request_sync(services.db, repo.id, services.clock())
    await hint(repo.id)
    return repo


async def _try(services: Services, repo: Repo, remote: Remote) -> None:
    """List the refs there, as the next backup will."""
    if address.is_ssh(remote.url):
        remote = await add.remote_of(services, repo.id, remote.url, remote.secret)
    async with connected(services, remote) as source:
        await source.ls_refs()
