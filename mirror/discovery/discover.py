"""Listing what each connection can see: which repositories are new, renamed, gone, or back again.

Who calls: a person who connects or refreshes the list, and the sweep, which lists each
connection once an hour. Pages that have not changed cost the forge nothing.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mirror.core.errors import EverrefError, LimitReached, RateLimited
from mirror.discovery import choose, follow
from mirror.discovery.choose import EVERREF, Chosen
from mirror.discovery.forge_client import ForgeClient, client_of
from mirror.forges.contract import Forge, Mark, Page, marked, marks_from_json, marks_to_json
from mirror.services import failpoints
from mirror.services.open import Hint, Services, nobody
from mirror.store.discovery import discovered, listings, remotes
from mirror.store.discovery.connections import ConnectionId
from mirror.store.discovery.remotes import RemoteRepository
from mirror.store.people import notices

EVERY: Final = timedelta(hours=1)  # between two listings of a connection
SPREAD: Final = 600  # seconds over which connections are spread, so that they are not all listed at once
SOON: Final = timedelta(minutes=15)  # until a listing that failed is tried again
AT_ONCE: Final = 4  # connections that are listed at the same time
LISTING: Final = 900.0  # seconds for a whole listing; 1,000 pages take half of it
A_SWEEP: Final = 100  # connections, and repositories that deliveries report as changed, in one sweep

log = logging.getLogger("mirror.listing")


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete listing."""

    repositories: int
    changed_pages: int  # pages that the forge sent again because they had changed
    hidden: int  # organisations that require a single sign-on before they list anything


async def refresh_listing(services: Services, connection_id: ConnectionId) -> Whole:
    """List everything the connection can see.

    1. Each page is stored as it arrives. For a page that has not changed since the mark of the
       last listing the forge says only that, and its repositories still count as present.
    2. Repositories on no page are marked as gone only after the last page. A listing that broke
       off, or from which an organisation was hidden, marks nothing as gone.
    3. The marks are stored last: after a run that died, every page is requested again.

    Safe to run twice, also at the same time. Raises RateLimited with the time at which the sweep
    continues, or whatever else kept the forge from answering.
    """
    began = services.clock()
    client = await client_of(services, connection_id)
    marks = marks_from_json(await listings.marks(services.db, connection_id))
    services.progress.phase(f"listing repositories at {client.connection.host}", None, "repositories")
    try:
        pages = await _in_time(services, client, marks)
    except EverrefError as error:
        now = services.clock()
        again = error.retry_at if isinstance(error, RateLimited) else now + SOON
        await listings.failed(services.db, connection_id, str(error), now, again)
        raise
    hidden = {number for page in pages for number in page.hidden}
    failpoints.reached("list: seen")
    if not hidden:
        await discovered.vanish(services.db, connection_id, began)
    await listings.done(
        services.db,
        connection_id,
        marks_to_json(marked(pages)),
        began,
        services.clock() + EVERY + timedelta(seconds=connection_id.int % SPREAD),
    )
    if hidden:
        await notices.add(
            services.db,
            client.connection.team_id,
            None,
            "connection",
            f"{client.connection.host} hides the repositories of {len(hidden)} organisations from "
            f"{client.connection.login} until the token is authorized for their single sign-on",
            services.clock(),
            f"hidden/{connection_id}/{','.join(sorted(hidden))}",
        )
    changed = sum(not page.not_modified for page in pages)
    return Whole(len({one for page in pages for one in page.ids}), changed, len(hidden))


async def _in_time(services: Services, client: ForgeClient, marks: Mapping[str, Mark]) -> list[Page]:
    """Every page, within LISTING seconds."""
    try:
        async with asyncio.timeout(LISTING) as limit:
            return await _pages(services, client, marks)
    except TimeoutError:
        if not limit.expired():
            raise
        host = client.connection.host
        raise LimitReached(
            f"{host} did not list all repositories within {LISTING / 60:g} minutes; Everref will try again"
        ) from None


async def _pages(services: Services, client: ForgeClient, marks: Mapping[str, Mark]) -> list[Page]:
    """Read and store every page. If a marked page has a repository unknown here, read all without marks."""

    async def read(forge: Forge, token: str) -> list[Page] | None:
        pages = []
        async for page in forge.repositories(token, marks):
            if page.not_modified:
                known = await discovered.still_there(
                    services.db, client.connection.id, page.ids, services.clock()
                )
                if known != len(set(page.ids)):
                    return None
            else:
                await discovered.see(services.db, client.connection.id, page.items, services.clock())
            pages.append(page)
            services.progress.advance(len(page.ids))
        return pages

    pages = await client.ask(read)
    if pages is None:
        marks = {}
        pages = await client.ask(read)
    assert pages is not None  # without marks the forge sends every page in full
    return pages


@dataclass(frozen=True, slots=True)
class Relisted:
    """What a listing led to."""

    whole: Whole
    chosen: list[Chosen]  # by the connection's rule


async def relist(services: Services, connection_id: ConnectionId, *, hint: Hint = nobody) -> Relisted:
    """List a connection, follow its repos to where they are now, and choose what its rule matches.

    Safe to run twice.
    """
    whole = await refresh_listing(services, connection_id)
    client = await client_of(services, connection_id)
    await _follow(services, client)
    rule = client.connection
    rows = await choose.unchosen(services, connection_id, rule.everything, rule.patterns)
    chosen = await choose.keep(services, client, EVERREF, rows, hint=hint) if rows else []
    return Relisted(whole, chosen)


async def _follow(services: Services, client: ForgeClient) -> None:
    """Follow the kept repos; ask the forge by number about those that the listing lacks."""
    rows = {row.repository_id: row for row in await discovered.all(services.db, client.connection.id)}
    old, missing = [], []
    for remote in await remotes.of_connection(services.db, client.connection.id):
        row = rows.get(remote.repository_id or "")
        if row is not None and row.gone_at is None:
            if follow.is_old(remote, row):
                old.append((remote, row))
        elif remote.archived_at is None and remote.repository_id:
            missing.append(remote)
    for remote in missing:  # first: one of them may be in the way of another
        try:
            await follow.check(services, client, remote)
        except LimitReached:
            raise  # the next listing continues
        except EverrefError as error:
            log.warning("could not ask the host what happened to %s: %s", remote.repo.name, error)
    await follow.follow(services, client.connection, old)


async def due(services: Services) -> None:
    """List the connections that are due, and check repositories that deliveries report as changed.

    A failure of one does not stop the others. Safe to run twice, also at the same time: a run
    claims a connection by moving the time of its next listing.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(connection_id: ConnectionId, was: datetime | None) -> None:
        async with room:
            if not await listings.claim(services.db, connection_id, was, services.clock() + SOON):
                return
            try:
                await relist(services, connection_id, hint=services.hint)
            except EverrefError as error:
                log.warning("could not list connection %s: %s", connection_id, error)
            except Exception:  # a bug, which stops this listing and no other
                log.exception("could not list connection %s; please report this", connection_id)

    async with asyncio.TaskGroup() as group:
        for connection_id, was in await listings.due(services.db, services.clock(), A_SWEEP):
            group.create_task(one(connection_id, was))
    for repo_id in await remotes.reported_changed(services.db, A_SWEEP):
        remote = await remotes.of(services.db, repo_id)
        if remote is not None:
            await _check_one(services, remote)


async def _check_one(services: Services, remote: RemoteRepository) -> None:
    """Ask the forge what happened to a repository for which a delivery reported a change."""
    if remote.connection_id is None or remote.repository_id is None:
        return
    try:
        await follow.check(services, await client_of(services, remote.connection_id), remote)
    except EverrefError as error:
        log.warning("could not ask the host what happened to %s: %s", remote.repo.name, error)
