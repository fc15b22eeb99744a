"""Noticing outages of the vault, the database or this machine's disk, and when they end.

Who calls: jobs/run, when one of them made a run fail; the worker, which starts nothing meanwhile.
"""

import asyncio
import itertools
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from mirror.core import words
from mirror.core.errors import EverrefError, NetworkError, Origin
from mirror.git.disk import disk_error
from mirror.services.open import Services
from mirror.store.upkeep import outages
from mirror.store.upkeep.outages import Outage
from mirror.upkeep.moving import unknown_repos

LOOK_SECONDS: Final = 5.0  # between two checks whether an outage is over
_UNASKED: Final = 60  # checks after which the vault is probed although no run failed
_ROOM: Final = 1 << 20  # bytes; a disk that has less is full

log = logging.getLogger("mirror.outages")


async def met(services: Services, error: EverrefError) -> bool:
    """Whether a failure is an outage that affects everybody, so that this run waits as all others do.

    A failure may concern one object only, so the vault or the disk is probed
    separately: only if that fails too is it an outage. The first process to notice it logs it.
    Safe to run twice, also at the same time.
    """
    if error.origin is Origin.DATABASE:
        return isinstance(error, NetworkError)
    if not error.is_shared:
        return False
    if error.origin in services.away:
        return True
    found = await _fails(services, error.origin)
    if found is None:
        return False
    services.away.add(error.origin)
    if await outages.begin(services.db, _place(error.origin), found, services.clock()):
        log.error("the %s is unavailable; jobs that need it wait: %s", error.origin, found)
    return True


async def look(services: Services) -> bool:
    """Read which outages there are and probe those that are due; returns whether there is none."""
    found = await outages.at(services.db, _machine())
    services.away.clear()
    for outage in found:
        if not await _is_back(services, outage):
            services.away.add(outage.origin)
    return not services.away


async def _is_back(services: Services, outage: Outage) -> bool:
    if not await outages.ask(services.db, outage, timedelta(seconds=LOOK_SECONDS)):
        return False
    if await _fails(services, outage.origin) is not None:
        return False
    if await outages.end(services.db, outage, services.clock()):
        log.warning("the %s is available again after %s", outage.origin, services.clock() - outage.since)
    return True


async def watch(services: Services, back: Callable[[], None]) -> None:
    """Keep `services.away` up to date until cancelled; `back` is called when the last outage has ended.

    The vault is recognised at the start and every few minutes, so that an outage is
    noticed even if nobody pushes, and so are repos in the vault that this database lacks.
    """
    for looks in itertools.count():
        waited = bool(services.away)
        with suppress(EverrefError):  # the database is unavailable itself, and the worker reports that
            if looks % _UNASKED == 0 and Origin.VAULT not in services.away:
                await _recognise(services)
            if await look(services) and waited:
                back()
        await asyncio.sleep(LOOK_SECONDS)


async def _recognise(services: Services) -> None:
    try:
        await services.vault.recognise()
        if number := await unknown_repos.look(services):
            log.warning("%s", words.not_known(number))
    except EverrefError as error:
        await met(services, error)


async def _fails(services: Services, origin: Origin) -> EverrefError | None:
    """The error that keeps the vault or this disk from being used at all; None: it works."""
    try:
        if origin is Origin.VAULT:
            await services.vault.probe()
        else:
            await asyncio.to_thread(_probe, services.disk.root)
    except EverrefError as error:
        error.came_from(origin)
        return error
    return None


def _probe(root: Path) -> None:
    path = root / f".probe-{secrets.token_hex(8)}"
    try:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _ROOM)
                os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(root, error) from None


def _place(origin: Origin) -> str:
    return "" if origin is Origin.VAULT else _machine()


def _machine() -> str:
    return socket.gethostname()
