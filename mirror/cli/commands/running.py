"""`everref up`, `migrate` and `sign-in`: the service itself."""

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from mirror.cli import environment, render, shapes
from mirror.cli.call import Call
from mirror.core.errors import NetworkError

_ASKED_AGAIN: Final = 1.0  # seconds from one try to the next, of a database that is waited for


async def up(call: Call) -> int:
    """Everything on this machine, until a signal ends it."""
    from mirror.cli.up import up as everything

    await everything(call.settings, call.args.port or call.settings.port, call.out.json)
    return 0


async def migrate(call: Call) -> int:
    """Bring the database up to date. Needs no vault."""
    from mirror import store
    from mirror.core.times import when

    patience = when.span(call.args.wait).total_seconds()
    async with AsyncExitStack() as stack:
        url = call.settings.database_url
        if url is None:
            from mirror.services.embedded import embedded_servers

            url = (
                await stack.enter_async_context(embedded_servers(Path(call.settings.data), redis=False))
            ).database_url
        await _wait_for(url, patience)
        applied = await store.migrate(await stack.enter_async_context(store.opened(url)))
    call.out.said(partial(render.migrated, applied), partial(shapes.migrated, applied))
    return 0


async def _wait_for(url: str, seconds: float) -> None:
    """Until this database answers, for so long at the most; who opens it then is told why it does not."""

    from mirror import store

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            async with store.opened(url):
                return
        except NetworkError:
            await asyncio.sleep(_ASKED_AGAIN)


async def sign_in(call: Call) -> int:
    """A one-time link for a person."""
    now = environment.now()
    async with call.services() as services:
        from mirror.cli import up
        from mirror.people import accounts, members

        known = await accounts.known_as(services.db, call.args.email) if call.args.email else None
        path = await accounts.sign_in_path(services.db, now, call.args.email)
        url = await up.address(services.settings) + path
    until = now + members.LINK
    call.out.result(partial(render.link, url, until, known), partial(shapes.link, url, until, known))
    return 0
