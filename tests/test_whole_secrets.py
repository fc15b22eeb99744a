"""No secret of the service at work is to be seen where somebody could look: logs, rows, files, argv."""

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.parts.whole import SECRET_KEY, Begin, Host, Whole, until

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")


def secrets_of(whole: Whole) -> list[bytes]:
    """Every secret that there is, and what is made of it on the way."""
    host = whole.host
    found = {SECRET_KEY, host.client_secret}
    forge = whole.services.forges.of(whole.services.settings.apps[0])
    for token in host.tokens:
        sent = forge.credential(token.value)
        found |= {token.value, token.refresh or token.value}
        found.add(b64encode(f"{sent.username}:{sent.password}".encode()).decode())
    for repository in whole.kept:
        for hook in repository.hooks:
            found |= {one for one in (hook.secret, hook.signing) if one}
    return [one.encode() for one in found]


@asynccontextmanager
async def command_lines() -> AsyncIterator[set[bytes]]:
    """Those of every process of this machine, for as long as the block lasts."""
    seen: set[bytes] = set()

    async def look() -> None:
        while True:
            seen.update(await asyncio.to_thread(lambda: set(running())))

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()


def running() -> Iterator[bytes]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                yield (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile


async def rows(whole: Whole) -> list[tuple[str, bytes]]:
    """Every row of the database, as text; bytes are hex there."""
    tables = await whole.services.db.fetch("select tablename from pg_tables where schemaname = 'public'")
    found = []
    for (table,) in tables:
        found += [
            (table, row[0].encode())
            for row in await whole.services.db.fetch(f"select t::text from {table} t")
        ]
    return found


async def queued(whole: Whole) -> list[tuple[str, bytes]]:
    """Everything in Redis."""
    keys = [key async for key in whole.queue.scan_iter()]
    return [(repr(key), key + (await whole.queue.dump(key) or b"")) for key in keys]


def files(room: Path) -> Iterator[tuple[str, bytes]]:
    """Everything on the disk: logs, pools, scratch, vault, what was restored."""
    for path in room.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


async def test_no_secret_is_to_be_seen_anywhere(
    either: Host, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    whole = await begin(either, oauth=True)
    garden, shed = whole.add("garden", "shed", private=True)
    async with command_lines() as seen, whole.process():
        await whole.keep(garden, shed)
        await whole.at_rest()
        either.slow(0.2, times=3, piece="git-upload-pack")
        garden.commit(parents=[])
        await either.deliver()
        await whole.at_rest()
        secrets = secrets_of(whole)
        async with httpx.AsyncClient(timeout=60) as client:  # what is refused is not told of either
            old = garden.hooks[0].deliveries[-1]
            forged = await client.post(garden.hooks[0].url, content=old.body + b" ", headers=old.headers)
            assert forged.status_code == 404
        for token in either.tokens:
            either.revoke(token.value)
        garden.commit()
        await either.deliver()
        await until(lambda: whole.is_failing(garden))
        leaves = [*await rows(whole), *await queued(whole)]
    assert any(b"index-pack" in line or b"fetch" in line for line in seen)
    assert len(secrets) > 5
    leaves += [*files(whole.room), ("the log", caplog.text.encode()), ("an answer", forged.content)]
    leaves += [("a command line", line) for line in seen]
    assert {"job", "connection", "hook", "the log", str(whole.log)} <= {where for where, _ in leaves}
    for where, text in leaves:
        assert not [secret for secret in secrets if secret in text or secret.hex().encode() in text], where
