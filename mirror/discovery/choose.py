"""Choosing what to back up: repositories of a connection, one by one or by a rule, and any git URL.

Choosing gives a repository its row, registers a hook at its forge and requests its first
backup; the worker and the sweep do the rest. Stopping removes the hook and keeps the backups.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from mirror.core.errors import Busy, NotFound, UsageError
from mirror.core.model import Repo, RepoId, Secret
from mirror.core.rules import choosing
from mirror.core.rules.mirrors import place_of
from mirror.core.rules.roles import PersonId
from mirror.discovery import add, connections, follow, webhooks
from mirror.discovery.forge_client import ForgeClient, client_of
from mirror.discovery.webhooks import HookCheck, Outcome
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
from mirror.store.restore import mirrors
from mirror.store.upkeep import erased

AT_ONCE: Final = 20  # hooks that are registered while a person waits; a sweep registers the others
ALL: Final = 1 << 31  # register every hook while the person waits


@dataclass(frozen=True, slots=True)
class Chosen:
    """A repository that is backed up from now on, and whether its forge will report pushes."""

    repo: Repo
    hook: Outcome
    why: str | None  # what is wrong with the hook


@dataclass(frozen=True, slots=True)
class By:
    """Who did something, as the audit log names them."""

    person_id: PersonId | None  # None: not a person who signs in
    name: str
    address: str | None = None  # the network address they came from; None: they came by no network


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
    """Back up these repositories of the connection from now on, in its team.

    1. Each gets a row; one that was kept before is found by the forge's number.
    2. Its first sync is requested and hinted at, so that it starts during step 3.
    3. The forge is asked to report every push; for the first `at_once` repositories, now.

    Safe to run twice, also at the same time: existing rows, sync requests and hooks are reused.
    Raises NotFound when the connection lists no repository with this number, OverLimit when the
    team has as many as it may: what was chosen before that stays.
    """
    rows = await discovered.of(services.db, connection_id, repository_ids)
    known = {row.repository_id for row in rows if row.gone_at is None}
    for number in repository_ids:
        if number not in known:
            raise NotFound(f"this connection lists no repository {number}; refresh the list and choose again")
    client = await client_of(services, connection_id)
    return await keep(services, client, by, rows, hint=hint, at_once=at_once)


async def keep(
    services: Services,
    client: ForgeClient,
    by: By,
    rows: Sequence[DiscoveredRepository],
    *,
    hint: Hint = nobody,
    at_once: int = AT_ONCE,
) -> list[Chosen]:
    """`choose`, for repositories that are already discovered and a forge client that is open."""
    kept: list[RemoteRepository] = []
    services.progress.phase("choosing repositories", len(rows), "repositories")
    for row in rows:
        remote = await _kept(services, client, by, row)
        failpoints.reached("choose: repo stored")
        await repos.request_sync(services.db, remote.repo.id, services.clock())
        failpoints.reached("choose: wished")
        await hint(remote.repo.id)
        kept.append(remote)
        services.progress.advance(1)
    services.progress.phase("registering hooks", min(len(kept), at_once), "hooks")
    done: list[Chosen] = []
    waits: str | None = None  # why no more hooks are registered now
    for number, remote in enumerate(kept):
        if number >= at_once:
            waits = waits or "the next sweep registers it"
        result = (
            HookCheck(Outcome.WAITING, waits) if waits else await webhooks.ensure(services, client, remote)
        )
        if waits:
            await webhooks.announce(services, client, remote)
        elif result.outcome is Outcome.WAITING:
            waits = result.why
        done.append(Chosen(remote.repo, result.outcome, result.why))
        services.progress.advance(1)
    return done


async def _kept(
    services: Services, client: ForgeClient, by: By, row: DiscoveredRepository
) -> RemoteRepository:
    """The repo that follows this repository's number, added if there is none, and read by this connection."""
    connection = client.connection
    team, host = connection.team_id, connection.host
    found = await remotes.at_forge(services.db, team, connection.forge, host, row.repository_id)
    if found is None:
        found = await _added_by_url(services, client, row)
    if found is None:
        name, now = await follow.free_name(services, team, row, host), services.clock()
        try:
            async with quotas.within(services.db, team, services.settings.limits, now, "repos") as locked:
                repo = await repos.add(locked, team, name, row.clone_url, now)
        except UsageError:  # another run was faster, or took the name
            found = await remotes.at_forge(services.db, team, connection.forge, host, row.repository_id)
            found = found or await _added_by_url(services, client, row)
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
            await _audit(services, db, connection.team_id, by, "repo.add", found.repo)
    if placed is None:  # another run has just given the row to another repository with this name
        raise Busy(f"{row.full_name} is a different repository now; refresh the list and choose again")
    remote = await remotes.get(services.db, found.repo.id)
    if follow.is_old(remote, row):
        await follow.follow(services, connection, [(remote, row)])
        remote = await remotes.get(services.db, found.repo.id)
    return remote


async def _added_by_url(
    services: Services, client: ForgeClient, row: DiscoveredRepository
) -> RemoteRepository | None:
    """The repo at this address that follows no number yet, because somebody added it by its URL.

    A repo at this address that follows another number belongs to an earlier repository, since
    deleted or renamed: it keeps its history under another name and gives up the address.
    """
    team = client.connection.team_id
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
    """Back up what matches one of these patterns, now and later; with none, only single choices remain."""
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
    """Back up everything the connection lists, now and later; with `on` false, add nothing automatically."""
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
    """Store the rule first, so that the next listing finishes what a killed run left undone."""
    client = await client_of(services, connection_id)
    kept = client.connection.patterns if patterns is None else tuple(patterns)
    await listings.set_rule(services.db, connection_id, everything, kept)
    rows = await unchosen(services, connection_id, everything, kept)
    return await keep(services, client, by, rows, hint=hint, at_once=at_once)


async def unchosen(
    services: Services, connection_id: ConnectionId, everything: bool, patterns: Sequence[str]
) -> list[DiscoveredRepository]:
    """The repositories that the connection's rule matches and that are not kept yet, or no longer.

    No rule chooses a mirror: with mirrors of every repository, each mirror would get a mirror.
    """
    if not everything and not patterns:
        return []
    rows = await discovered.all(services.db, connection_id)
    known = {
        row.repository_id
        for row in rows
        if (row.repo_id is not None and not row.disconnected) or row.gone_at is not None
    } | await erased.forgotten(services.db, connection_id)
    places = {row.repository_id: place_of(row.clone_url) for row in rows if row.repository_id not in known}
    copies = await mirrors.mirrored(services.db, set(places.values()))
    known |= {number for number, place in places.items() if place in copies}
    return await choosing.wanted(rows, everything, patterns, known)


async def passed_over(services: Services, connection_id: ConnectionId) -> int:
    """How many repositories the rule matches but skips, because a person paused or stopped them."""
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
    """Back up any git remote that can be reached, and request its first sync.

    Safe to run twice: the second run finds the first's row.
    """
    remote = await add.remote_for(services, team, url)
    known = await remotes.at_address(services.db, team, remote.url)
    repo = await add.repo_for(services, url, name, secret, team=team)
    await remotes.set_host(services.db, repo.id, urlsplit(repo.url).netloc or None, by.person_id)
    if known is None:
        await _audit(services, services.db, team, by, "repo.add", repo)
    elif known.paused_at is not None:
        await resume(services, repo.id, by)
    await repos.request_sync(services.db, repo.id, services.clock())
    await hint(repo.id)
    return repo


async def pause(services: Services, repo_id: RepoId, by: By) -> None:
    """Stop syncing the repo for now; its hook and its backups stay. Safe to run twice."""
    remote = await remotes.get(services.db, repo_id)
    async with transaction(services.db) as db:
        if await remotes.pause(db, repo_id, services.clock()):
            await _audit(services, db, remote.team_id, by, "repo.pause", remote.repo)


async def resume(services: Services, repo_id: RepoId, by: By, *, hint: Hint = nobody) -> None:
    """Sync the repo again, starting now. Safe to run twice."""
    remote = await remotes.get(services.db, repo_id)
    async with transaction(services.db) as db:
        if not await remotes.resume(db, repo_id):
            return
        await _audit(services, db, remote.team_id, by, "repo.resume", remote.repo)
        await repos.request_sync(db, repo_id, services.clock())
    await hint(repo_id)


async def let_go(services: Services, repo_id: RepoId, by: By) -> str | None:
    """Stop backing the repo up: it is paused, its hook is removed, and its backups stay.

    Returns what to tell the person if the hook could not be removed at the forge.
    No rule chooses the repo again; a person can. Safe to run twice.
    """
    return await _let_go(services, repo_id, by, remotes.pause)


async def _let_go(
    services: Services, repo_id: RepoId, by: By, stop: Callable[[Db, RepoId, datetime], Awaitable[bool]]
) -> str | None:
    remote = await remotes.get(services.db, repo_id)
    async with transaction(services.db) as db:
        if await stop(db, repo_id, services.clock()):
            await _audit(services, db, remote.team_id, by, "repo.remove", remote.repo)
    return await _unhooked(services, remote)


async def _unhooked(services: Services, remote: RemoteRepository) -> str | None:
    if remote.connection_id is None:
        return await webhooks.remove(services, None, remote)
    try:
        client = await client_of(services, remote.connection_id)
    except NotFound:  # the connection was removed a moment ago
        return await webhooks.remove(services, None, remote)
    return await webhooks.remove(services, client, remote)


async def disconnect(services: Services, connection_id: ConnectionId, by: By) -> list[str]:
    """End a connection: its hooks are removed, its repos paused, and every backup stays.

    A repo that another connection of the team can see continues with that connection; the others
    continue when a rule of a later connection matches them, or a person chooses them. Returns what to
    tell the person. Safe to run twice: the connection is removed last.
    """
    left: list[str] = []
    for remote in await remotes.of_connection(services.db, connection_id):
        heir = await remotes.other_connection_of(services.db, remote.repo.id)
        if heir is None:
            left += filter(None, [await _let_go(services, remote.repo.id, by, remotes.disconnect)])
        await remotes.hand_to(services.db, [remote.repo.id], heir)
    await connections.disconnect(services, connection_id)
    return left


async def _audit(services: Services, db: Db, team: TeamId, by: By, action: str, repo: Repo) -> None:
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
