"""Listing what connections can see, again and again: what is new, renamed, gone, or there once more.

Who calls: a person who connects or looks for more, and the sweep, which lists each
connection once an hour. Pages that did not change cost the forge nothing.
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

EVERY: Final = timedelta(hours=1)  # a connection is listed
SPREAD: Final = 600  # seconds by which connections differ, so that they don't come together
SOON: Final = timedelta(minutes=15)  # until one that could not be listed is tried again
AT_ONCE: Final = 4  # connections that are listed at the same time
LISTING: Final = 900.0  # seconds for a listing in all; 1,000 pages take half of it
A_SWEEP: Final = 100  # connections, and repositories that deliveries tell of, in one sweep

log = logging.getLogger("mirror.listing")


@dataclass(frozen=True, slots=True)
class Whole:
    """A listing that came to its end."""

    repositories: int
    changed_pages: int  # the forge answered anew
    hidden: int  # organisations that want a single sign-on before they tell


async def refresh_listing(services: Services, connection_id: ConnectionId) -> Whole:
    """List what the connection can see, to the end.

    1. Each page is kept as it comes; one that has not changed says so, by the
       mark of the last listing, and what was on it is there still.
    2. Only after the last one is gone what was on none of them. A listing that
       broke off, or that an organisation kept itself out of, makes nothing gone.
    3. The marks are stored last: a run that dies asks for every page again.

    Safe to run twice, also at once. Raises RateLimited with the time, after which
    the sweep goes on, or what else kept the forge from answering.
    """
    began = services.clock()
    asked = await client_of(services, connection_id)
    marks = marks_from_json(await listings.marks(services.db, connection_id))
    services.progress.phase(f"listing repositories at {asked.connection.host}", None, "repositories")
    try:
        pages = await _in_time(services, asked, marks)
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
            asked.connection.team_id,
            None,
            "connection",
            f"{asked.connection.host} hides the repositories of {len(hidden)} organisations from "
            f"{asked.connection.login} until the token is allowed by their single sign-on",
            services.clock(),
            f"hidden/{connection_id}/{','.join(sorted(hidden))}",
        )
    changed = sum(not page.not_modified for page in pages)
    return Whole(len({one for page in pages for one in page.ids}), changed, len(hidden))


async def _in_time(services: Services, asked: ForgeClient, marks: Mapping[str, Mark]) -> list[Page]:
    """Every page, within LISTING seconds."""
    try:
        async with asyncio.timeout(LISTING) as limit:
            return await _pages(services, asked, marks)
    except TimeoutError:
        if not limit.expired():
            raise
        host = asked.connection.host
        raise LimitReached(
            f"{host} did not list all of its repositories within {LISTING / 60:g} minutes; it is tried again"
        ) from None


async def _pages(services: Services, asked: ForgeClient, marks: Mapping[str, Mark]) -> list[Page]:
    """Every page, what is on it kept. Marks whose repositories are not known here are not relied on."""

    async def read(forge: Forge, token: str) -> list[Page] | None:
        pages = []
        async for page in forge.repositories(token, marks):
            if page.not_modified:
                known = await discovered.still_there(
                    services.db, asked.connection.id, page.ids, services.clock()
                )
                if known != len(set(page.ids)):
                    return None
            else:
                await discovered.see(services.db, asked.connection.id, page.items, services.clock())
            pages.append(page)
            services.progress.advance(len(page.ids))
        return pages

    pages = await asked.ask(read)
    if pages is None:
        marks = {}
        pages = await asked.ask(read)
    assert pages is not None  # without marks every page is told anew
    return pages


@dataclass(frozen=True, slots=True)
class Relisted:
    """What a listing brought."""

    whole: Whole
    chosen: list[Chosen]  # by the connection's rule


async def relist(services: Services, connection_id: ConnectionId, *, hint: Hint = nobody) -> Relisted:
    """List a connection, follow its repos to where they are now, and choose what its rule means.

    Safe to run twice.
    """
    whole = await refresh_listing(services, connection_id)
    asked = await client_of(services, connection_id)
    await _follow(services, asked)
    rule = asked.connection
    rows = await choose.unchosen(services, connection_id, rule.everything, rule.patterns)
    chosen = await choose.keep(services, asked, EVERREF, rows, hint=hint) if rows else []
    return Relisted(whole, chosen)


async def _follow(services: Services, asked: ForgeClient) -> None:
    """Follow the repos that are kept; about those that the listing lacks, the forge is asked by number."""
    rows = {row.repository_id: row for row in await discovered.all(services.db, asked.connection.id)}
    old, missing = [], []
    for origin in await remotes.of_connection(services.db, asked.connection.id):
        row = rows.get(origin.repository_id or "")
        if row is not None and row.gone_at is None:
            if follow.is_old(origin, row):
                old.append((origin, row))
        elif origin.archived_at is None and origin.repository_id:
            missing.append(origin)
    for origin in missing:  # first: one of them may be in the way of another
        try:
            await follow.look(services, asked, origin)
        except LimitReached:
            raise  # the next listing goes on
        except EverrefError as error:
            log.warning("what became of %s could not be asked: %s", origin.repo.name, error)
    await follow.follow(services, asked.connection, old)


async def due(services: Services) -> None:
    """List the connections whose time has come, and look at repositories that deliveries tell of.

    One that fails stops no other. Safe to run twice, also at once: each connection
    is claimed by moving the time of its next listing.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(connection_id: ConnectionId, was: datetime | None) -> None:
        async with room:
            if not await listings.claim(services.db, connection_id, was, services.clock() + SOON):
                return
            try:
                await relist(services, connection_id, hint=services.hint)
            except EverrefError as error:
                log.warning("connection %s could not be listed: %s", connection_id, error)
            except Exception:  # a bug, which stops this listing and no other
                log.exception("connection %s could not be listed; report this", connection_id)

    async with asyncio.TaskGroup() as group:
        for connection_id, was in await listings.due(services.db, services.clock(), A_SWEEP):
            group.create_task(one(connection_id, was))
    for repo_id in await remotes.told_of(services.db, A_SWEEP):
        origin = await remotes.of(services.db, repo_id)
        if origin is not None:
            await _looked_at(services, origin)


async def _looked_at(services: Services, origin: RemoteRepository) -> None:
    """A delivery told that something became of this repository: what, only the forge is believed."""
    if origin.connection_id is None or origin.repository_id is None:
        return
    try:
        await follow.look(services, await client_of(services, origin.connection_id), origin)
    except EverrefError as error:
        log.warning("what became of %s could not be asked: %s", origin.repo.name, error)
