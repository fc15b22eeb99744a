"""Following repositories by their forge's number when they are renamed, moved, deleted, restored or replaced.

A repo keeps its history whatever its repository is called. Deliveries are not trusted here:
the forge is asked.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import unquote, urlsplit

from mirror.core import errors
from mirror.core.errors import Busy, IdentityChanged, RemoteGone, UsageError
from mirror.core.model import Repo, RepoId, older_of
from mirror.discovery.forge_client import ForgeClient, client_of
from mirror.forges.contract import Purpose
from mirror.services.open import Services
from mirror.store.database import transaction
from mirror.store.discovery import remotes
from mirror.store.discovery.connections import Connection
from mirror.store.discovery.discovered import FollowedRepository
from mirror.store.discovery.remotes import RemoteRepository
from mirror.store.people import notices
from mirror.store.people.teams import TeamId

log = logging.getLogger("mirror.listing")


def names(full_name: str, host: str, repository_id: str) -> tuple[str, str, str]:
    """Possible names for a repo, the best first, because another repo may have its name."""
    return full_name, f"{full_name}-{host.replace(':', '-')}", f"{full_name}-{repository_id}"


def has_moved(remote: RemoteRepository, there: FollowedRepository) -> bool:
    """Whether the repository's address is no longer the repo's."""
    return remote.repo.url != there.clone_url


def is_old(remote: RemoteRepository, there: FollowedRepository) -> bool:
    """Whether anything that is stored about the repository has changed."""
    return has_moved(remote, there) or remote.private != there.private or remote.archived_at is not None


async def check(services: Services, client: ForgeClient, remote: RemoteRepository) -> RemoteRepository:
    """Ask the forge, by number, what happened to a repository, and follow it; returns the repo as it is now.

    A repository that is gone is archived: its backups stay, and nothing syncs it until
    a listing shows it again. Raises IdentityChanged if it cannot be followed to its new
    address. Safe to run twice.
    """
    assert remote.repository_id
    number, began, there = remote.repository_id, services.clock(), None
    try:
        there = await client.ask(lambda forge, token: forge.repository(token, number))
    except RemoteGone:
        if not client.missing(Purpose.READ):  # otherwise it may only be hidden from this token
            await _gone(services, client, remote)
    else:
        await follow(services, client.connection, [(remote, there)])
    await remotes.looked(services.db, remote.repo.id, began)
    now = await remotes.get(services.db, remote.repo.id)
    if there is not None and has_moved(now, there):
        raise IdentityChanged(
            f"{now.repo.name} is now {there.full_name}, which another repo already backs up: "
            "stop one of the two"
        )
    return now


async def _gone(services: Services, client: ForgeClient, remote: RemoteRepository) -> None:
    name, connection = remote.repo.name, client.connection
    async with transaction(services.db) as db:
        if await remotes.archive(db, remote.repo.id, services.clock()):
            await notices.add(
                db,
                remote.team_id,
                remote.repo.id,
                "archived",
                f"{name} was deleted at {connection.host} or is no longer visible to {connection.login}: "
                "it is archived, and all its backups stay",
                services.clock(),
            )


async def follow(
    services: Services, connection: Connection, seen: Sequence[tuple[RemoteRepository, FollowedRepository]]
) -> None:
    """Give these repos the names, addresses and visibility that their repositories have now.

    All in one step, since two may have swapped their names. A repo whose address now belongs
    to another repository is renamed first. Safe to run twice.
    """
    moved = [(remote, there) for remote, there in seen if has_moved(remote, there)]
    lost = await _move(services, connection, moved) if moved else set()
    for remote, there in seen:
        if remote.repo.id in lost:
            continue
        if remote.private != there.private:
            await remotes.set_private(services.db, remote.repo.id, there.private)
        if remote.archived_at is not None and await remotes.revive(services.db, remote.repo.id):
            await _notify(
                services, remote, f"{remote.repo.name} is back at {connection.host}; its history continues"
            )


async def _move(
    services: Services, connection: Connection, moved: Sequence[tuple[RemoteRepository, FollowedRepository]]
) -> set[RepoId]:
    """Give these repos their new names and addresses; returns those that could not get theirs."""
    leaving = {remote.repo.id for remote, _ in moved}
    lost: set[RepoId] = set()
    while stuck := await _stuck(services, [one for one in moved if one[0].repo.id not in lost], leaving):
        lost |= stuck  # they keep their names, which others may need
        leaving -= stuck
    places = {}
    for remote, there in moved:
        if remote.repo.id in lost:
            continue
        name = remote.repo.name
        if name in names(
            _path(remote.repo.url), connection.host, there.repository_id
        ):  # nobody chose another
            name = await free_name(services, remote.team_id, there, connection.host, leaving)
        places[remote.repo.id] = (name, there.clone_url)
    for repo_id in await _renamed(services, places):
        lost.add(repo_id)
        del places[repo_id]
    for remote, there in moved:
        if remote.repo.id in places:
            await _notify(
                services,
                remote,
                f"{_path(remote.repo.url)} was renamed to {there.full_name}; its history continues as "
                f"{places[remote.repo.id][0]}",
                key=f"moved/{remote.repo.id}/{there.clone_url}",
            )
    return lost


async def _renamed(services: Services, places: Mapping[RepoId, tuple[str, str]]) -> set[RepoId]:
    """Rename all in one step, or one by one if a name is taken; returns those that could not be renamed."""
    failed = set()
    try:
        await remotes.rename(services.db, places, services.clock())
    except UsageError:
        for repo_id, place in places.items():
            try:
                await remotes.rename(services.db, {repo_id: place}, services.clock())
            except UsageError as error:
                log.warning("could not rename repo %s to %s: %s", repo_id, place[0], error)
                failed.add(repo_id)
    return failed


async def _stuck(
    services: Services,
    moved: Sequence[tuple[RemoteRepository, FollowedRepository]],
    leaving: Collection[RepoId],
) -> set[RepoId]:
    """Those whose new address already belongs to a repo that was added by URL; their team is notified."""
    stuck = set()
    for remote, there in moved:
        other = await remotes.at_address(services.db, remote.team_id, there.clone_url)
        if other is None or other.repo.id in leaving:
            continue
        if await make_room(services, other, there.repository_id):
            continue
        stuck.add(remote.repo.id)
        await _notify(
            services,
            remote,
            f"{remote.repo.name} is now {there.full_name}, which {other.repo.name} already backs up: "
            "stop one of the two",
            key=f"moved/{remote.repo.id}/{there.clone_url}",
        )
    return stuck


async def make_room(services: Services, other: RemoteRepository, repository_id: str) -> bool:
    """Rename a repo out of the way of this repository if it can be; returns whether it was.

    A repo that follows another number belongs to an earlier repository: it keeps its history under
    another name. False: the repo was added by its URL, so the address stays its own.
    """
    if other.repository_id in (None, repository_id) or _gave_up_its_address(other.repo):
        return False
    name = f"{other.repo.name}-{other.repository_id}"
    await remotes.step_aside(services.db, other.repo.id, name, services.clock())
    await _notify(
        services,
        other,
        f"{other.repo.name} is a different repository now; the backups of the earlier one stay, as {name}",
        kind="archived",
    )
    return True


async def free_name(
    services: Services, team: TeamId, there: FollowedRepository, host: str, leaving: Collection[RepoId] = ()
) -> str:
    """The best name that no other repo of the team has, except those that are about to give theirs up."""
    for name in names(there.full_name, host, there.repository_id):
        taken = await remotes.named(services.db, team, name)
        if taken is None or taken.repo.id in leaving:
            return name
        if taken.archived_at is not None and _path(taken.repo.url) == there.full_name:  # deleted and replaced
            if taken.host == host and await make_room(services, taken, there.repository_id):
                return name
    raise UsageError(
        f"other repos have every name that {there.full_name} could get; rename one of them first"
    )


@errors.met_by(errors.Origin.SOURCE)  # errors of the forge itself already carry their origin
async def identity_at_forge(
    services: Services, repo: Repo, *, doubt: bool = False, known: RemoteRepository | None = None
) -> None:
    """Check, before a sync, that a repo's address still leads to the repository that it follows.

    The forge is asked only if there is a reason: the last run found the repository gone, moved
    or closed, a delivery reported a change, a listing shows another repository at its address,
    or the caller has a `doubt` of its own. `known` is the repo's row, if the caller has just read
    it. Raises IdentityChanged or RemoteGone, and Busy if the repo has just got its new address:
    the next run goes there.
    """
    remote = known or await remotes.of(services.db, repo.id)
    if remote is None:
        return
    if at := older_of(repo.url):
        raise RemoteGone(f"{repo.name} is an older history of {at}; another repo saves what is there now")
    if remote.repository_id is None or remote.connection_id is None:
        if _gave_up_its_address(repo):
            raise IdentityChanged(
                f"another repository is at the address of {repo.name} now; nothing is backed up from there"
            )
        return
    if not (doubt or _gave_up_its_address(repo) or await remotes.is_doubtful(services.db, repo.id)):
        return
    now = await check(services, await client_of(services, remote.connection_id), remote)
    if now.archived_at is not None:
        if _gave_up_its_address(repo) or await remotes.is_taken(services.db, repo.id):
            raise IdentityChanged(
                f"another repository is at the address of {repo.name} now; nothing is backed up from there"
            )
        raise RemoteGone(f"{repo.name} is no longer at {remote.host}; its backups stay")
    if now.repo.url != repo.url:
        raise Busy(f"{repo.name} has moved to {now.repo.url}; the next run goes there")


def _gave_up_its_address(repo: Repo) -> bool:
    """Whether it was renamed to make room for another repository (store/discovery/remotes.step_aside)."""
    return "#" in repo.url


def _path(url: str) -> str:
    """The full name that a forge's clone address holds."""
    return unquote(urlsplit(url).path).strip("/").removesuffix(".git")


async def _notify(
    services: Services, remote: RemoteRepository, message: str, *, kind: str = "moved", key: str | None = None
) -> None:
    await notices.add(services.db, remote.team_id, remote.repo.id, kind, message, services.clock(), key)
