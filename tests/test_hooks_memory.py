"""What large deliveries may cost the receiver: measured as the peak memory of a process of its own."""

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from hooks import app
from mirror.core.model import RefName
from mirror.discovery import webhook
from mirror.discovery.webhook import NewHook
from mirror.services import startup
from mirror.services.startup import READY, Ties
from tests.parts.everref import Mirror
from tests.parts.forge import Forge
from tests.parts.repos import Work

# The body is at hand as a whole, in the process that sends it.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")

MAIN = RefName(b"refs/heads/main")
MOST = 450 << 20  # bytes more than at rest that six of the largest deliveries at once may cost


@dataclass
class Receiver:
    """A receiver that is a process of its own."""

    forge: Forge
    pid: int

    def peak(self) -> int:
        """The most bytes of memory that it ever had: VmHWM of proc(5)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise AssertionError("the kernel tells no peak")

    def largest(self, much: str, unit: bytes, end: bytes) -> bytes:
        """A push as large as one may be, mostly of this unit."""
        told = self.forge.payload(MAIN, None, None, "alice") | {"after": "1" * 40, "much": "?"}
        begin = json.dumps(told).replace('"?"}', much).encode()
        return begin + unit * ((app.LARGEST - len(begin) - len(end)) // len(unit)) + end


@asynccontextmanager
async def receiving(mirror: Mirror, given: NewHook, redis_url: str) -> AsyncIterator[Receiver]:
    """`python -m hooks` over the test's database."""
    settings = replace(mirror.services.settings, redis_url=redis_url)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        ties = Ties(os.getpid(), listener.fileno())
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hooks", *ties.arguments()),
            env=startup.environment(settings, os.environ),
            pass_fds=[listener.fileno()],
            stdout=PIPE,
        )
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            assert child.stdout and await child.stdout.readline() == READY
            async with aiohttp.ClientSession() as session:
                yield Receiver(Forge(session, base, given), child.pid)
        finally:
            if child.returncode is None:
                child.terminate()
            await child.wait()


async def delivered(forge: Forge, body: bytes) -> None:
    """Deliver it, again where it found no room in time or arrived too slowly, as it may on a slow machine.

    Who is refused before all of it is sent may hear of no more than a reset.
    """
    status = 503
    while status in (408, 503):
        try:
            status = (await forge.send(body)).status
        except aiohttp.ClientConnectorError:
            raise  # there is no receiver any more
        except aiohttp.ClientConnectionError:
            continue
    assert status == 202


@pytest.mark.parametrize(
    ("much", "unit", "end"),
    [
        ('"\U0001f33b', b"x", b'"}'),  # each letter takes four bytes in memory
        ("[", b'{"0123456789":"%s"},' % (b"x" * 40), b"1]}"),  # as many values as one may hold
    ],
    ids=["text", "objects"],
)
async def test_six_of_the_largest_deliveries_at_once_are_taken_and_cost_little_memory(
    mirror: Mirror, work: Work, redis_url: str, much: str, unit: bytes, end: bytes
) -> None:
    work.commit("main")
    given = await webhook.give(mirror.services, await mirror.repo(str(work.path)), "github")
    async with receiving(mirror, given, redis_url) as receiver:
        assert (await receiver.forge.push(MAIN, None, work.tip())).status == 202
        before, body = receiver.peak(), receiver.largest(much, unit, end)
        await asyncio.gather(*(delivered(receiver.forge, body) for _ in range(6)))
        grown = receiver.peak() - before
        assert grown < MOST, f"{grown >> 20} MiB"
