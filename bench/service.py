"""The service as processes over servers of their own: the webhook receiver, a worker, and who posts."""

import asyncio
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from bench.clock import Failed
from mirror.core.config import Settings
from mirror.core.model import Repo
from mirror.discovery import webhook
from mirror.services.embedded import embedded_servers
from mirror.services.open import Services, open_services
from mirror.services.startup import environment
from mirror.store import repos
from mirror.store.jobs import schedules
from mirror.store.people import teams

AT_ONCE = 32  # requests under way


@dataclass(frozen=True, slots=True)
class Hooked:
    """A repo with a webhook."""

    repo: Repo
    path: str
    secret: str


@asynccontextmanager
async def servers(data: Path) -> AsyncIterator[Services]:
    """A database, a queue and a vault with nothing in them."""
    async with embedded_servers(data, redis=True) as running:
        settings = Settings(
            data=str(data),
            database_url=running.database_url,
            redis_url=running.redis_url,
            allow_private_remotes=True,
            secret_keys=("k" * 40,),
        )
        async with open_services(settings) as services:
            yield services


@contextmanager
def process(module: str, settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process of ours on a port of loopback, which takes connections at once."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        command = [sys.executable, "-m", module, "--listen", str(listener.fileno())]
        env = environment(settings, os.environ)
        with subprocess.Popen(command, env=env, pass_fds=[listener.fileno()]) as running:
            try:
                yield running, listener.getsockname()[1]
            finally:
                running.terminate()
                running.wait()


async def hooked(services: Services, name: str, url: str) -> Hooked:
    """A repo with a webhook, added; no schedule comes before the bench."""
    team = await teams.default(services.db)
    repo = await repos.add(services.db, team, name, url, services.clock())
    await schedules.set_schedule(services.db, repo.id, None, services.clock() + timedelta(days=1))
    given = await webhook.give(services, repo, "github")
    assert given.secret
    return Hooked(repo, urlsplit(given.url).path, given.secret)


def delivery(path: str, secret: str, repository: int, number: int) -> bytes:
    """A push event as GitHub sends it, as a whole request: some 7 kB, most of it about commits."""
    zeros = "0" * 40
    commit = {"id": zeros, "message": "a message of some length " * 4, "added": ["a/file.py"] * 20}
    body = json.dumps(
        {
            "ref": "refs/heads/main",
            "before": zeros,
            "after": f"{number + 1:040x}",
            "repository": {"id": repository, "full_name": f"bench/{repository}", "private": True},
            "pusher": {"name": "alice"},
            "sender": {"login": "alice", "id": 5},
            "commits": [commit] * 14,
        }
    ).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"X-GitHub-Event: push\r\nX-GitHub-Delivery: {repository}-{number}\r\n"
        f"X-Hub-Signature-256: sha256={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def post(port: int, requests: Sequence[bytes], at_once: int = AT_ONCE) -> list[float]:
    """Send them all, so many at once, each on a connection that is kept; how long each took."""
    waiting = iter(requests)
    taken: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for request in waiting:
                began = time.perf_counter()
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length))
                taken.append(time.perf_counter() - began)
                if not head.startswith(b"http/1.1 202"):
                    raise Failed(f"a delivery was not taken: {head[:40]!r} {body[:200]!r}")
        finally:
            writer.close()

    await asyncio.gather(*(client() for _ in range(at_once)))
    return taken


def cpu_seconds(pid: int) -> float:
    """What a process and the children that it has waited for have used: fields 14 to 17 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which so many of them are."""
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]
