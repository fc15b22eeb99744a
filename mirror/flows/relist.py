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

from mirror.errors import EverrefError, LimitReached, RateLimited
from mirror.flows import choose, follow, steps
from mirror.flows.asking import Asked, asked_of
from mirror.flows.choose import EVERREF, Chosen
from mirror.flows.edges import Edges, Hint, nobody
from mirror.forges.contract import Forge, Mark, Page, marked, marks_from_json, marks_to_json
from mirror.store import listed, listings, notices, origins
from mirror.store.connections import ConnectionId
from mirror.store.origins import Origin

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


async def refresh_listing(edges: Edges, connection_id: ConnectionId) -> Whole:
    """List what the connection can see, to the end.

    1. Each page is kept as it comes; one that has not changed says so, by the
       mark of the last listing, and what was on it is there still.
    2. Only after the last one is gone what was on none of them. A listing that
       broke off, or that an organisation kept itself out of, makes nothing gone.
    3. The marks are stored last: a run that dies asks for every page again.

    Safe to run twice, also at once. Raises RateLimited with the time, after which
    the sweep goes on, or what else kept the forge from answering.
    """
    began = edges.clock()
    asked = await asked_of(edges, connection_id)
    marks = marks_from_json(await listings.marks(edges.db, connection_id))
    edges.progress.phase(f"listing repositories at {asked.connection.host}", None, "repositories")
    try:
        pages = await _in_time(edges, asked, marks)
    except EverrefError as error:
        now = edges.clock()
        again = error.retry_at if isinstance(error, RateLimited) else now + SOON
        await listings.failed(edges.db, connection_id, str(error), now, again)
        raise
    hidden = {number for page in pages for number in page.hidden}
    steps.reached("list: seen")
    if not hidden:
        await listed.vanish(edges.db, connection_id, began)
    await listings.done(
        edges.db,
        connection_id,
        marks_to_json(marked(pages)),
        began,
        edges.clock() + EVERY + timedelta(seconds=connection_id.int % SPREAD),
    )
    if hidden:
        await notices.add(
            edges.db,
            asked.connection.team_id,
            None,
            "connection",
            f"{asked.connection.host} hides the repositories of {len(hidden)} organisations from "
            f"{asked.connection.login} until the token is allowed by their single sign-on",
            edges.clock(),
            f"hidden/{connection_id}/{','.join(sorted(hidden))}",
        )
    changed = sum(not page.not_modified for page in pages)
    return Whole(len({one for page in pages for one in page.ids}), changed, len(hidden))


async def _in_time(edges: Edges, asked: Asked, marks: Mapping[str, Mark]) -> list[Page]:
    """Every page, within LISTING seconds."""
    try:
        async with asyncio.timeout(LISTING) as limit:
            return await _pages(edges, asked, marks)
    except TimeoutError:
        if not limit.expired():
            raise
        host = asked.connection.host
        raise LimitReached(
            f"{host} did not list all of its repositories within {LISTING / 60:g} minutes; it is tried again"
        ) from None


async def _pages(edges: Edges, asked: Asked, marks: Mapping[str, Mark]) -> list[Page]:
    """Every page, what is on it kept. Marks whose repositories are not known here are not relied on."""

    async def read(forge: Forge, token: str) -> list[Page] | None:
        pages = []
        async for page in forge.repositories(token, marks):
            if page.not_modified:
                known = await listed.still_there(edges.db, asked.connection.id, page.ids, edges.clock())
                if known != len(set(page.ids)):
                    return None
            else:
                await listed.see(edges.db, asked.connection.id, page.items, edges.clock())
            pages.append(page)
            edges.progress.advance(len(page.ids))
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


async def relist(edges: Edges, connection_id: ConnectionId, *, hint: Hint = nobody) -> Relisted:
    """List a connection, follow its repos to where they are now, and choose what its rule means.

    Safe to run twice.
    """
    whole = await refresh_listing(edges, connection_id)
    asked = await asked_of(edges, connection_id)
    await _follow(edges, asked)
    rule = asked.connection
    rows = await choose.unchosen(edges, connection_id, rule.everything, rule.patterns)
    chosen = await choose.keep(edges, asked, EVERREF, rows, hint=hint) if rows else []
    return Relisted(whole, chosen)


async def _follow(edges: Edges, asked: Asked) -> None:
    """Follow the repos that are kept; about those that the listing lacks, the forge is asked by number."""
    rows = {row.repository_id: row for row in await listed.all(edges.db, asked.connection.id)}
    old, missing = [], []
    for origin in await origins.of_connection(edges.db, asked.connection.id):
        row = rows.get(origin.repository_id or "")
        if row is not None and row.gone_at is None:
            if follow.is_old(origin, row):
                old.append((origin, row))
        elif origin.archived_at is None and origin.repository_id:
            missing.append(origin)
    for origin in missing:  # first: one of them may be in the way of another
        try:
            await follow.look(edges, asked, origin)
        except LimitReached:
            raise  # the next listing goes on
        except EverrefError as error:
            log.warning("what became of %s could not be asked: %s", origin.repo.name, error)
    await follow.follow(edges, asked.connection, old)


async def due(edges: Edges) -> None:
    """List the connections whose time has come, and look at repositories that deliveries tell of.

    One that fails stops no other. Safe to run twice, also at once: each connection
    is claimed by moving the time of its next listing.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(connection_id: ConnectionId, was: datetime | None) -> None:
        async with room:
            if not await listings.claim(edges.db, connection_id, was, edges.clock() + SOON):
                return
            try:
                await relist(edges, connection_id, hint=edges.hint)
            except EverrefError as error:
                log.warning("connection %s could not be listed: %s", connection_id, error)
            except Exception:  # a bug, which stops this listing and no other
                log.exception("connection %s could not be listed; report this", connection_id)

    async with asyncio.TaskGroup() as group:
        for connection_id, was in await listings.due(edges.db, edges.clock(), A_SWEEP):
            group.create_task(one(connection_id, was))
    for repo_id in await origins.told_of(edges.db, A_SWEEP):
        origin = await origins.of(edges.db, repo_id)
        if origin is not None:
            await _looked_at(edges, origin)


async def _looked_at(edges: Edges, origin: Origin) -> None:
    """A delivery told that something became of this repository: what, only the forge is believed."""
    if origin.connection_id is None or origin.repository_id is None:
        return
    try:
        await follow.look(edges, await asked_of(edges, origin.connection_id), origin)
    except EverrefError as error:
        log.warning("what became of %s could not be asked: %s", origin.repo.name, error)
