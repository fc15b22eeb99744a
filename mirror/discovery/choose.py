"""Choosing what is kept: repositories of a connection, one by one or by a rule, and any git URL.

From here a repository has a row, its forge a hook, and its first backup is wished
for; the worker and the sweep do the rest. Letting go removes the hook and keeps
the backups.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from mirror.core.errors import Busy, NotFound, UsageError
from mirror.core.model import Repo, RepoId, Secret
from mirror.core.rules import choosing
from mirror.core.rules.roles import PersonId
from mirror.discovery import add, connections, follow, webhooks
from mirror.discovery.forge_client import ForgeClient, client_of
from mirror.discovery.webhooks import Care, Outcome
from mirror.services import failpoints
from mirror.services.open import Hint, Services, nobody
from mirror.store import repos
from mirror.store.database import Db, transaction
from mirror.store.discovery import discovered, listings, remotes
from mirror.store.discovery.connections import ConnectionId
from mirror.store.discovery.discovered import DiscoveredRepository
from mirror.store.discovery.remotes import RemoteRepository
from mirror.store.people import audit, quotas
from mirror.store.people.audit import Entry
from mirror.store.people.teams import TeamId

AT_ONCE: Final = 20  # hooks that are registered while a person waits; a sweep registers the others
ALL: Final = 1 << 31  # of them


@dataclass(frozen=True, slots=True)
class Chosen:
    """A repository that is kept from now on, and whether its pushes will be told."""

    repo: Repo
    hook: Outcome
    why: str | None  # why the hook is not as it should be


@dataclass(frozen=True, slots=True)
class By:
    """Who does it, as the audit log says."""

    person_id: PersonId | None  # None: nobody who signs in
    name: str
    address: str | None = None  # from where; None: not by the network


EVERREF: Final = By(None, "Everref")


async def choose(
    services: Services,
    connection_id: ConnectionId,
    by: By,
    repository_ids: Sequence[str],
    *,
    hint: Hint = nobody,
    at_once: int = AT_ONCE,
) -> list[Chosen]:
    """Keep these repositories of the connection from now on, in its team.

    1. Each has a row, found by the forge's number where it was kept before.
    2. Its first backup is wished for, and hinted at: it begins while 3 goes on.
    3. The forge is asked to tell of every push, for the first `at_once` now.

    Safe to run twice, also at once: rows, wishes and hooks are found as they are.
    Raises NotFound when the connection lists none of this number, OverLimit where the team has as many as
    it may: what was chosen before that is kept.
    """
    rows = await discovered.of(services.db, connection_id, repository_ids)
    known = {row.repository_id for row in rows if row.gone_at is None}
    for number in repository_ids:
        if number not in known:
            raise NotFound(f"this connection lists no repository {number}; list it anew")
    asked = await client_of(services, connection_id)
    return await keep(services, asked, by, rows, hint=hint, at_once=at_once)


async def keep(
    services: Services,
    asked: ForgeClient,
    by: By,
    rows: Sequence[DiscoveredRepository],
    *,
    hint: Hint = nobody,
    at_once: int = AT_ONCE,
) -> list[Chosen]:
    """`choose`, for what is listed and with a connection that is open."""
    kept: list[RemoteRepository] = []
    services.progress.phase("choosing repositories", len(rows), "repositories")
    for row in rows:
        origin = await _kept(services, asked, by, row)
        failpoints.reached("choose: repo stored")
        await repos.request_sync(services.db, origin.repo.id, services.clock())
        failpoints.reached("choose: wished")
        await hint(origin.repo.id)
        kept.append(origin)
        services.progress.advance(1)
    services.progress.phase("registering hooks", min(len(kept), at_once), "hooks")
    done: list[Chosen] = []
    waits: str | None = None  # why no more hooks are registered now
    for number, origin in enumerate(kept):
        if number >= at_once:
            waits = waits or "its turn comes with the next sweep"
        care = Care(Outcome.WAITING, waits) if waits else await webhooks.ensure(services, asked, origin)
        if waits:
            await webhooks.announce(services, asked, origin)
        elif care.outcome is Outcome.WAITING:
            waits = care.why
        done.append(Chosen(origin.repo, care.outcome, care.why))
        services.progress.advance(1)
    return done


async def _kept(
    services: Services, asked: ForgeClient, by: By, row: DiscoveredRepository
) -> RemoteRepository:
    """The repo that follows this number, made if there is none, and read by this connection."""
    connection = asked.connection
    team, host = connection.team_id, connection.host
    found = await remotes.at_forge(services.db, team, connection.forge, host, row.repository_id)
    if found is None:
        found = await _placeless(services, asked, row)
    if found is None:
        name, now = await follow.free_name(services, team, row, host), services.clock()
        try:
            async with quotas.within(services.db, team, services.settings.limits, now, "repos") as locked:
                repo = await repos.add(locked, team, name, row.clone_url, now)
        except UsageError:  # another run was faster, or took the name
            found = await remotes.at_forge(services.db, team, connection.forge, host, row.repository_id)
            found = found or await _placeless(services, asked, row)
            if found is None:
                raise
        else:
            found = await remotes.get(services.db, repo.id)
    async with transaction(services.db) as db:
        placed = await remotes.place(
            db,
            found.repo.id,
            forge=connection.forge,
            host=host,
            repository_id=row.repository_id,
            connection_id=connection.id,
            private=row.private,
            added_by=by.person_id,
        )
        if placed:
            await _told(services, db, connection.team_id, by, "repo.add", found.repo)
    if placed is None:  # another run has just given the row to another repository of this name
        raise Busy(f"{row.full_name} is another repository now; list it anew")
    origin = await remotes.get(services.db, found.repo.id)
    if follow.is_old(origin, row):
        await follow.follow(services, connection, [(origin, row)])
        origin = await remotes.get(services.db, found.repo.id)
    return origin


async def _placeless(
    services: Services, asked: ForgeClient, row: DiscoveredRepository
) -> RemoteRepository | None:
    """The repo of this address that follows no number yet: somebody added it by its URL.

    One that follows another number was here before this repository was: it is
    gone or renamed, keeps its history under another name, and gives up the address.
    """
    team = asked.connection.team_id
    found = await remotes.at_address(services.db, team, row.clone_url)
    if found is None or found.repository_id is None:
        return found
    return None if await follow.make_room(services, found, row.repository_id) else found


async def choose_pattern(
    services: Services,
    connection_id: ConnectionId,
    by: By,
    patterns: Iterable[str],
    *,
    hint: Hint = nobody,
    at_once: int = AT_ONCE,
) -> list[Chosen]:
    """Keep what matches one of these now, and later; with none, only what is chosen one by one."""
    given = choosing.patterns(patterns)
    return await _by_rule(services, connection_id, by, False, given, hint, at_once)


async def choose_everything(
    services: Services,
    connection_id: ConnectionId,
    by: By,
    on: bool,
    *,
    hint: Hint = nobody,
    at_once: int = AT_ONCE,
) -> list[Chosen]:
    """Keep everything that is listed, now and later; or, with `on` false, nothing more by itself."""
    return await _by_rule(services, connection_id, by, on, None, hint, at_once)


async def _by_rule(
    services: Services,
    connection_id: ConnectionId,
    by: By,
    everything: bool,
    patterns: Sequence[str] | None,
    hint: Hint,
    at_once: int,
) -> list[Chosen]:
    """The rule is stored first: a run that dies after that is finished by the next listing."""
    asked = await client_of(services, connection_id)
    kept = asked.connection.patterns if patterns is None else tuple(patterns)
    await listings.set_rule(services.db, connection_id, everything, kept)
    rows = await unchosen(services, connection_id, everything, kept)
    return await keep(services, asked, by, rows, hint=hint, at_once=at_once)


async def unchosen(
    services: Services, connection_id: ConnectionId, everything: bool, patterns: Sequence[str]
) -> list[DiscoveredRepository]:
    """What the connection's rule means and is not kept yet, or not since its connection ended."""
    if not everything and not patterns:
        return []
    rows = await discovered.all(services.db, connection_id)
    known = {
        row.repository_id
        for row in rows
        if (row.repo_id is not None and not row.disconnected) or row.gone_at is not None
    }
    return await choosing.wanted(rows, everything, patterns, known)


async def passed_over(services: Services, connection_id: ConnectionId) -> int:
    """How many the connection's rule means and leaves alone, as a person paused them or let them go."""
    connection = (await client_of(services, connection_id)).connection
    rows = await discovered.all(services.db, connection_id)
    known = {
        row.repository_id for row in rows if row.repo_id is None or row.chosen or row.gone_at is not None
    }
    if not connection.everything and not connection.patterns:
        return 0
    return len(await choosing.wanted(rows, connection.everything, connection.patterns, known))


async def add_url(
    services: Services,
    team: TeamId,
    by: By,
    url: str,
    secret: Secret | None = None,
    name: str | None = None,
    *,
    hint: Hint = nobody,
) -> Repo:
    """Keep any git remote that can be reached over HTTP; its first backup is wished for at once.

    Safe to run twice: the second finds the first's row.
    """
    remote = await add.remote_meant(services, team, url)
    known = await remotes.at_address(services.db, team, remote.url)
    repo = await add.repo_for(services, url, name, secret, team=team)
    await remotes.set_host(services.db, repo.id, urlsplit(repo.url).netloc or None, by.person_id)
    if known is None:
        await _told(services, services.db, team, by, "repo.add", repo)
    elif known.paused_at is not None:
        await resume(services, repo.id, by)
    await repos.request_sync(services.db, repo.id, services.clock())
    await hint(repo.id)
    return repo


async def pause(services: Services, repo_id: RepoId, by: By) -> None:
    """Look at it no more for now; its hook stays, and what is kept stays. Safe to run twice."""
    origin = await remotes.get(services.db, repo_id)
    async with transaction(services.db) as db:
        if await remotes.pause(db, repo_id, services.clock()):
            await _told(services, db, origin.team_id, by, "repo.pause", origin.repo)


async def resume(services: Services, repo_id: RepoId, by: By, *, hint: Hint = nobody) -> None:
    """Look at it again, beginning now. Safe to run twice."""
    origin = await remotes.get(services.db, repo_id)
    async with transaction(services.db) as db:
        if not await remotes.resume(db, repo_id):
            return
        await _told(services, db, origin.team_id, by, "repo.resume", origin.repo)
        await repos.request_sync(db, repo_id, services.clock())
    await hint(repo_id)


async def let_go(services: Services, repo_id: RepoId, by: By) -> str | None:
    """Keep it no longer up to date: it is paused, its hook removed, and its backups stay.

    Returns what the person should know where the hook could not be removed at the
    forge. A rule does not choose it again; a person can. Safe to run twice.
    """
    return await _let_go(services, repo_id, by, remotes.pause)


async def _let_go(
    services: Services, repo_id: RepoId, by: By, stop: Callable[[Db, RepoId, datetime], Awaitable[bool]]
) -> str | None:
    origin = await remotes.get(services.db, repo_id)
    async with transaction(services.db) as db:
        if await stop(db, repo_id, services.clock()):
            await _told(services, db, origin.team_id, by, "repo.remove", origin.repo)
    return await _unhooked(services, origin)


async def _unhooked(services: Services, origin: RemoteRepository) -> str | None:
    if origin.connection_id is None:
        return await webhooks.remove(services, None, origin)
    try:
        asked = await client_of(services, origin.connection_id)
    except NotFound:  # it was disconnected a moment ago
        return await webhooks.remove(services, None, origin)
    return await webhooks.remove(services, asked, origin)


async def disconnect(services: Services, connection_id: ConnectionId, by: By) -> list[str]:
    """End a connection: its hooks are removed, its repos paused, and every backup stays.

    A repo that another connection of the team sees goes on with that one; the others go on when a
    rule of a later connection means them, or a person ticks them. Returns what the person should know.
    Safe to run twice: the connection goes last.
    """
    left: list[str] = []
    for origin in await remotes.of_connection(services.db, connection_id):
        heir = await remotes.heir(services.db, origin.repo.id)
        if heir is None:
            left += filter(None, [await _let_go(services, origin.repo.id, by, remotes.disconnect)])
        await remotes.hand_to(services.db, [origin.repo.id], heir)
    await connections.disconnect(services, connection_id)
    return left


async def _told(services: Services, db: Db, team: TeamId, by: By, action: str, repo: Repo) -> None:
    entry = Entry(
        person_id=by.person_id,
        actor=by.name,
        action=action,
        subject=repo.name,
        repo_id=repo.id,
        detail={"url": repo.url},
        address=by.address,
    )
    await audit.add(db, team, entry, services.clock())
