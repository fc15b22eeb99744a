"""Following repositories by their forge's number: renamed, transferred, gone, there again, replaced.

A repo keeps its history under whatever name its repository has. Nothing that a
delivery tells is believed here: the forge is asked.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
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
from mirror.store.discovery.remotes import RemoteRepository
from mirror.store.people import notices
from mirror.store.people.teams import TeamId

log = logging.getLogger("mirror.listing")


class FollowedRepository(Protocol):
    """A repository as its forge tells of it now."""

    @property
    def repository_id(self) -> str: ...
    @property
    def full_name(self) -> str: ...
    @property
    def clone_url(self) -> str: ...
    @property
    def private(self) -> bool: ...


def names(full_name: str, host: str, repository_id: str) -> tuple[str, str, str]:
    """What a repo can be called, the best first: another repo may have its name."""
    return full_name, f"{full_name}-{host.replace(':', '-')}", f"{full_name}-{repository_id}"


def has_moved(origin: RemoteRepository, there: FollowedRepository) -> bool:
    """Whether it is not where the repo says."""
    return origin.repo.url != there.clone_url


def is_old(origin: RemoteRepository, there: FollowedRepository) -> bool:
    """Whether anything of what the repo says of its repository is not so any more."""
    return has_moved(origin, there) or origin.private != there.private or origin.archived_at is not None


async def look(services: Services, asked: ForgeClient, origin: RemoteRepository) -> RemoteRepository:
    """Ask the forge by its number what has become of a repository, and follow it; the repo as it is now.

    One that is gone is archived: what is kept stays, and nothing looks at it until
    a listing has it again. Raises IdentityChanged where it cannot be followed to
    where it is. Safe to run twice.
    """
    assert origin.repository_id
    number, began, there = origin.repository_id, services.clock(), None
    try:
        there = await asked.ask(lambda forge, token: forge.repository(token, number))
    except RemoteGone:
        if not asked.missing(Purpose.READ):  # else it may only be hidden from this token
            await _gone(services, asked, origin)
    else:
        await follow(services, asked.connection, [(origin, there)])
    await remotes.looked(services.db, origin.repo.id, began)
    now = await remotes.get(services.db, origin.repo.id)
    if there is not None and has_moved(now, there):
        raise IdentityChanged(
            f"{now.repo.name} is {there.full_name} now, which another repo keeps already: stop one of the two"
        )
    return now


async def _gone(services: Services, asked: ForgeClient, origin: RemoteRepository) -> None:
    name, connection = origin.repo.name, asked.connection
    async with transaction(services.db) as db:
        if await remotes.archive(db, origin.repo.id, services.clock()):
            await notices.add(
                db,
                origin.team_id,
                origin.repo.id,
                "archived",
                f"{name} is not at {connection.host} any more, or not for {connection.login}: "
                "it is archived, and everything that was kept of it stays",
                services.clock(),
            )


async def follow(
    services: Services, connection: Connection, seen: Sequence[tuple[RemoteRepository, FollowedRepository]]
) -> None:
    """Let these repos be where and what their repositories are now.

    All at once, since two can have swapped their names. A repo whose address
    another repository has taken steps aside first. Safe to run twice.
    """
    moved = [(origin, there) for origin, there in seen if has_moved(origin, there)]
    lost = await _move(services, connection, moved) if moved else set()
    for origin, there in seen:
        if origin.repo.id in lost:
            continue
        if origin.private != there.private:
            await remotes.set_private(services.db, origin.repo.id, there.private)
        if origin.archived_at is not None and await remotes.revive(services.db, origin.repo.id):
            await _tell(
                services, origin, f"{origin.repo.name} is at {connection.host} again; its history goes on"
            )


async def _move(
    services: Services, connection: Connection, moved: Sequence[tuple[RemoteRepository, FollowedRepository]]
) -> set[RepoId]:
    """Give these repos their new names and addresses; those that cannot have theirs."""
    leaving = {origin.repo.id for origin, _ in moved}
    lost: set[RepoId] = set()
    while stuck := await _stuck(services, [one for one in moved if one[0].repo.id not in lost], leaving):
        lost |= stuck  # they stay where they are, and can be in the way of others
        leaving -= stuck
    places = {}
    for origin, there in moved:
        if origin.repo.id in lost:
            continue
        name = origin.repo.name
        if name in names(
            _path(origin.repo.url), connection.host, there.repository_id
        ):  # nobody chose another
            name = await free_name(services, origin.team_id, there, connection.host, leaving)
        places[origin.repo.id] = (name, there.clone_url)
    for repo_id in await _renamed(services, places):
        lost.add(repo_id)
        del places[repo_id]
    for origin, there in moved:
        if origin.repo.id in places:
            await _tell(
                services,
                origin,
                f"{_path(origin.repo.url)} is {there.full_name} now; its history goes on as "
                f"{places[origin.repo.id][0]}",
                key=f"moved/{origin.repo.id}/{there.clone_url}",
            )
    return lost


async def _renamed(services: Services, places: Mapping[RepoId, tuple[str, str]]) -> set[RepoId]:
    """Rename all of them at once, or where one is in the way each by itself; those that could not be."""
    failed = set()
    try:
        await remotes.rename(services.db, places, services.clock())
    except UsageError:
        for repo_id, place in places.items():
            try:
                await remotes.rename(services.db, {repo_id: place}, services.clock())
            except UsageError as error:
                log.warning("%s cannot be followed to %s: %s", repo_id, place[0], error)
                failed.add(repo_id)
    return failed


async def _stuck(
    services: Services,
    moved: Sequence[tuple[RemoteRepository, FollowedRepository]],
    leaving: Collection[RepoId],
) -> set[RepoId]:
    """Those whose new address a repo has that follows the address; their team is told."""
    stuck = set()
    for origin, there in moved:
        other = await remotes.at_address(services.db, origin.team_id, there.clone_url)
        if other is None or other.repo.id in leaving:
            continue
        if await make_room(services, other, there.repository_id):
            continue
        stuck.add(origin.repo.id)
        await _tell(
            services,
            origin,
            f"{origin.repo.name} is {there.full_name} now, which {other.repo.name} keeps already: "
            "stop one of the two",
            key=f"moved/{origin.repo.id}/{there.clone_url}",
        )
    return stuck


async def make_room(services: Services, other: RemoteRepository, repository_id: str) -> bool:
    """Whether a repo that has this repository's address keeps it no longer.

    One that follows another number was here before: it keeps its history under
    another name. False: it was added by its URL, and follows the address.
    """
    if other.repository_id in (None, repository_id) or _gave_up_its_address(other.repo):
        return False
    name = f"{other.repo.name}-{other.repository_id}"
    await remotes.step_aside(services.db, other.repo.id, name, services.clock())
    await _tell(
        services,
        other,
        f"{other.repo.name} is another repository now; what was kept of the earlier one stays, as {name}",
        kind="archived",
    )
    return True


async def free_name(
    services: Services, team: TeamId, there: FollowedRepository, host: str, leaving: Collection[RepoId] = ()
) -> str:
    """The best name that no other repo of the team has, but one that is about to give it up."""
    for name in names(there.full_name, host, there.repository_id):
        taken = await remotes.named(services.db, team, name)
        if taken is None or taken.repo.id in leaving:
            return name
        if taken.archived_at is not None and _path(taken.repo.url) == there.full_name:  # gone, and replaced
            if taken.host == host and await make_room(services, taken, there.repository_id):
                return name
    raise UsageError(f"every name for {there.full_name} is taken by another repo; rename that one first")


@errors.met_by(errors.Origin.SOURCE)  # what the forge itself failed in is stamped already
async def identity_at_forge(
    services: Services, repo: Repo, *, doubt: bool = False, known: RemoteRepository | None = None
) -> None:
    """See that a repo's address still leads to the repository that it follows, before a sync goes there.

    The forge is asked where there is a reason: the last run found it gone, moved
    or closed, a delivery told of a change, or a listing shows another repository at
    its address; or the caller has a `doubt` of its own. `known` is what it was at its forge
    a moment ago, where somebody has read that. Raises IdentityChanged or
    RemoteGone, and Busy where the repo has just been given its new address: the next
    run goes there.
    """
    origin = known or await remotes.of(services.db, repo.id)
    if origin is None:
        return
    if at := older_of(repo.url):
        raise RemoteGone(f"{repo.name} is an older history of {at}; what is there now is saved elsewhere")
    if origin.repository_id is None or origin.connection_id is None:
        if _gave_up_its_address(repo):
            raise IdentityChanged(
                f"another repository is at the address of {repo.name} now; nothing is taken"
            )
        return
    if not (doubt or _gave_up_its_address(repo) or await remotes.is_doubtful(services.db, repo.id)):
        return
    now = await look(services, await client_of(services, origin.connection_id), origin)
    if now.archived_at is not None:
        if _gave_up_its_address(repo) or await remotes.is_taken(services.db, repo.id):
            raise IdentityChanged(
                f"another repository is at the address of {repo.name} now; nothing is taken"
            )
        raise RemoteGone(f"{repo.name} is not at {origin.host} any more; what was kept of it stays")
    if now.repo.url != repo.url:
        raise Busy(f"{repo.name} has moved to {now.repo.url}; the next run goes there")


def _gave_up_its_address(repo: Repo) -> bool:
    """Whether it stepped aside for another repository (origins.step_aside)."""
    return "#" in repo.url


def _path(url: str) -> str:
    """The full name that a forge's clone address holds."""
    return unquote(urlsplit(url).path).strip("/").removesuffix(".git")


async def _tell(
    services: Services, origin: RemoteRepository, message: str, *, kind: str = "moved", key: str | None = None
) -> None:
    await notices.add(services.db, origin.team_id, origin.repo.id, kind, message, services.clock(), key)
