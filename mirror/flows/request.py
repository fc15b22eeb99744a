"""Adding a repository to what is kept: the first step of every backup."""

from mirror.errors import OurFault, UsageError
from mirror.flows.edges import Edges
from mirror.git import address
from mirror.model import Remote, Repo, RepoId, Secret
from mirror.store import credentials, repos, teams


async def repo_for(edges: Edges, remote_text: str, name: str | None, secret: Secret | None = None) -> Repo:
    """The repo kept for this address, added if it is new; credentials are cut out and sealed.

    Raises UsageError when the address is kept under another name, or the name
    belongs to another address. Safe to run twice: the second finds the first's row.
    """
    remote = address.parse_remote(remote_text, edges.settings.allow_private_remotes)
    team = await teams.default(edges.db)
    known = await repos.by_url(edges.db, team, remote.url)
    wanted = name or (known.name if known else address.name_from_url(remote.url))
    if known and known.name != wanted:
        raise UsageError(f"{remote.url} is already kept as {known.name}; use that name, or leave --name out")
    if not known:
        namesake = await repos.by_name(edges.db, team, wanted)
        if namesake:
            raise UsageError(f"the name {wanted} is taken by {namesake.url}; choose another with --name")
        known = await repos.add(edges.db, team, wanted, remote.url, edges.clock())
    given = secret or remote.secret
    if given:
        if edges.keyring is None:
            raise OurFault("credentials cannot be kept: set SECRET_KEYS (32 random characters or more)")
        await credentials.keep(edges.db, edges.keyring, known.id, given)
    return known


async def remote_of(edges: Edges, repo_id: RepoId, url: str) -> Remote:
    """The repo's address with the credentials that are kept for it."""
    if edges.keyring is None:
        return Remote(url)
    return Remote(url, await credentials.of(edges.db, edges.keyring, repo_id))
