"""`everref up`: everything on this machine in one process tree, until a signal ends it."""

import asyncio
import errno
import fcntl
import json
import logging
import os
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mirror.cli.child import Child, Signals
from mirror.core.config import Settings
from mirror.core.errors import Busy, UsageError
from mirror.people import accounts
from mirror.services.embedded.join import join
from mirror.services.open import open_services
from mirror.services.startup import environment, with_redis_if_any
from mirror.web.dispatch import on_loopback

HOST = "127.0.0.1"
PORT_SECONDS = 3  # for what a killed predecessor left to let go of the port

log = logging.getLogger("mirror.up")


async def up(settings: Settings, port: int, as_json: bool) -> None:
    """Run the servers, the web pages and the worker, and say where once they answer; stop on a signal.

    1. Claim the data directory and the port, so that a second `up` fails at once.
    2. Start or join the embedded servers and open every edge: what is wrong with the settings shows here.
    3. Start the processes, and start anew whichever ends by itself.
    4. Stop in the opposite order, leaving no process.

    Raises Busy when it is up already or the port is taken, OurFault when a
    process does not start, and what opening the edges raises.
    """
    data = Path(os.path.abspath(settings.data))  # noqa: ASYNC240 - asks nothing of the disk
    with _lock_data(data) as claim, await _listen(port, claim.unclean) as listener, _signals() as signals:
        settings = with_redis_if_any(replace(settings, data=str(data), port=listener.getsockname()[1]))
        url = _url(settings)
        env = environment(settings, os.environ)
        while not signals.stop.is_set():
            async with _servers(settings) as (lost, sign_in):
                children = [Child("web", env, signals, listener.fileno()), Child("worker", env, signals)]
                telling = _tell(children, claim, url, url + sign_in, data, as_json)
                await _first(signals.stop.wait(), lost.wait(), telling, *(child.run() for child in children))
            if not signals.stop.is_set():
                log.warning("the embedded servers ended; everything is restarted")


async def beside(settings: Settings) -> Settings:
    """The settings as the `up` that runs on this data has them: its port is what forges are told."""
    parts = urlsplit(await address(settings))
    if settings.base_url is not None or parts.port is None or not on_loopback(parts.netloc):
        return settings
    return replace(settings, port=parts.port)


async def address(settings: Settings) -> str:
    """Where people reach the `up` that runs on this data, else where they would."""

    def told() -> str:
        try:
            return (Path(settings.data) / "up.lock").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    return await asyncio.to_thread(told) or _url(settings)


def _url(settings: Settings) -> str:
    return (settings.base_url or f"http://{HOST}:{settings.port}").rstrip("/")


@contextmanager
def _signals() -> Iterator[Signals]:
    loop = asyncio.get_running_loop()
    signals = Signals(asyncio.Event(), asyncio.Event())

    def told() -> None:
        (signals.hurry if signals.stop.is_set() else signals.stop).set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, told)
    try:
        yield signals
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _servers(settings: Settings) -> AsyncIterator[tuple[asyncio.Event, str]]:
    """The embedded servers that the settings ask for, and every edge tried.

    An event that is set when the servers are lost, and the path of a one-time
    link for who started us: they own the data, so they may sign in.
    """
    async with AsyncExitStack() as stack:
        lost = asyncio.Event()
        postgres, redis = settings.database_url is None, settings.redis_url is None
        if postgres or redis:
            joined = await stack.enter_async_context(
                join(Path(settings.data), postgres=postgres, redis=redis)
            )
            lost = joined.lost
        async with open_services(settings) as services:
            sign_in = await accounts.sign_in_path(services.db, services.clock())
        yield lost, sign_in


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of them, end the others and let them clean up, raise what the first raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


@dataclass(frozen=True, slots=True)
class DataLock:
    """The data directory, ours alone among all `up`."""

    unclean: bool  # the one before us was killed
    say: Callable[[str], bool]  # tell others our address; False: it is told already


@contextmanager
def _lock_data(data: Path) -> Iterator[DataLock]:
    """Claim the data directory. The claim is a lock, so that it ends with us; in the file is our address."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(data / "up.lock", "a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot use {data}: {error.strerror}; choose another with --data") from None
    with file:
        file.seek(0)
        address = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = f" at {address}" if address else ""
            raise Busy(f"everref is already up on {data}{where}; stop it, or choose another --data") from None
        told = False

        def say(url: str) -> bool:
            nonlocal told
            first, told = not told, True
            file.truncate(0)
            file.write(url + "\n")
            file.flush()
            return first

        try:
            yield DataLock(bool(address), say)
        finally:
            file.truncate(0)


async def _listen(port: int, unclean: bool) -> socket.socket:
    """A listening socket; after an unclean end a moment is given to what still holds the port."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + (PORT_SECONDS if unclean else 0)
    while True:
        try:
            return socket.create_server((HOST, port), backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UsageError(f"cannot listen on port {port}: {error.strerror}; use --port") from None
            if clock() >= deadline:
                raise Busy(f"port {port} is taken by another program; choose one with --port") from None
        await asyncio.sleep(0.05)


async def _tell(
    children: list[Child], claim: DataLock, url: str, sign_in: str, data: Path, as_json: bool
) -> None:
    """Say where we are once all work, the first time that they do."""
    for child in children:
        await child.ready.wait()
    if claim.say(url):
        said = json.dumps({"url": url, "sign_in": sign_in}) if as_json else greeting(url, sign_in, data)
        print(said, flush=True)
    await asyncio.Event().wait()


def greeting(url: str, sign_in: str, data: Path) -> str:
    """What a person is told once all work."""
    return (
        f"Everref is up at {url}, data in {data}. Ctrl-C stops it.\n"
        f"For another terminal: export EVERREF_DATA={shlex.quote(str(data))}\n"
        f"Sign in, once, within an hour: {sign_in}"
    )
