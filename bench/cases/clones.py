"""Moments as a git remote, against git's own server of the same packs: one clone, very many, a cold repo."""

import asyncio
import base64
import os
import shutil
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bench import backend, sources
from bench.clock import ENVIRONMENT, Failed, side_by_side
from bench.figures import Row
from bench.room import Room
from bench.service import cpu_seconds, process, servers
from bench.sources import Source
from mirror.backup import sync as syncing
from mirror.core.formats.pktline import Mark, encode
from mirror.core.model import Repo
from mirror.git.pool import Pool
from mirror.git.reader.processes import CLONING
from mirror.services.open import Services
from mirror.services.queue import NoQueue
from mirror.services.server import serve
from mirror.services.startup import Ties
from mirror.store import repos
from mirror.store.people import people, teams, tokens
from mirror.store.people.teams import TeamId
from mirror.vault.directory import DirectoryVault
from mirror.web import templating
from mirror.web.app import application
from mirror.web.dispatch import Outside

GOAL: Final = 1 / 0.9  # of what git's own server takes
STRETCH: Final = 1.0
MANY: Final = 100  # clones at once
COLD: Final = 200  # fetches at once of a repo that is not on this disk
PLACES: Final = 10  # addresses that these come from: one has a hundred connections at most
_BUFFER: Final = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """Where clones come from, and the process whose processor's time that takes."""

    port: int
    path: str  # of a repository, with its name in it
    pid: int
    header: str = ""  # who asks

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.path.format(name)}"


async def clones(room: Room) -> list[Row]:
    """A clone of a moment, its answer alone, and very many at once, against git's own server of its packs."""
    if not backend.is_here():
        print("clones: left out; install lighttpd, behind which git's own server is measured")
        return []
    commits, size, many = (600, 8 << 20, 10) if room.quick else (6000, 192 << 20, MANY)
    place = room.new("clones")
    place.mkdir()
    made = [
        sources.generated(place, commits),
        sources.of_size(place, size),
        sources.generated(_folder(place / "medium"), 200 if room.quick else 1000),
    ]
    medium = Source("medium", made[2].path)
    async with servers(place / "data") as services:
        team, token = await _team(services)
        kept = _folder(place / "kept")
        for name, source in zip(("made", "large"), made[:2], strict=True):
            await _both(services, team, name, source, kept)
        cold = await _both(services, team, "medium", medium, kept)
        header = "Authorization: Basic " + base64.b64encode(f"git:{token}".encode()).decode()
        with (
            process("mirror.web", services.settings) as (web, port),
            backend.http_backend(kept, place / "front") as (front, other),
        ):
            ours = Server(port, "/git/acme/{}@1", web.pid, header)
            theirs = Server(other, "/git/{}.git", front.pid)
            rows = []
            for name, source in zip(("made", "large"), made[:2], strict=True):
                rows += await _one(room, name, source, ours, theirs)
            rows += await _many(room, many, medium, ours, theirs)
        return rows + await _cold(services, cold, medium, header, 20 if room.quick else COLD)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


async def _team(services: Services) -> tuple[TeamId, str]:
    """A team, and a token that may read its repos."""
    now = services.clock()
    kim = await people.add(services.db, "Kim", now, team_name="acme")
    team = await teams.home(services.db, kim.id)
    assert team is not None
    raw, _ = await tokens.make(services.db, kim.id, team.id, "bench", {"read"}, None, now)
    return team.id, raw


async def _both(services: Services, team: TeamId, name: str, source: Source, kept: Path) -> Repo:
    """Back a repository up; and beside it a bare one, of the same packs, that git's own server serves."""
    repo = await repos.add(services.db, team, name, str(source.path), services.clock())
    await syncing.sync(services, repo.id)
    bare = kept / f"{name}.git"
    shutil.copytree(services.disk.pool(repo.id), bare, copy_function=os.link)
    for one in ("HEAD", "packed-refs"):
        (bare / one).unlink(missing_ok=True)
        if (source.path / one).exists():
            shutil.copy(source.path / one, bare / one)
    shutil.copytree(source.path / "refs", bare / "refs", dirs_exist_ok=True)
    return repo


async def _one(room: Room, name: str, source: Source, ours: Server, theirs: Server) -> list[Row]:
    used: dict[int, list[float]] = {ours.pid: [], theirs.pid: []}
    body = _request(source)

    def cloned(server: Server) -> Callable[[int], Awaitable[float]]:
        async def once(_: int) -> float:
            return await _clone(room, server, name)

        return once

    def answered(server: Server) -> Callable[[int], Awaitable[float]]:
        async def once(_: int) -> float:
            (size, spent), processors = await _used(
                server.pid, asyncio.to_thread(_thrown_away, server, name, body)
            )
            if size < source.bytes() // 2:
                raise Failed(f"a clone of {source.name} was refused")
            used[server.pid].append(processors)
            return spent

        return once

    for server in (ours, theirs):  # warm
        await answered(server)(0)
        used[server.pid].clear()
    rounds = max(7, room.rounds)
    whole = await side_by_side(rounds, cloned(ours), cloned(theirs))
    alone = await side_by_side(2 * rounds, answered(ours), answered(theirs))
    told = f"{source.name}, {source.bytes() / 1e6:.0f} MB"
    rate = f"{source.bytes() / 1e6 / sorted(alone[0])[rounds]:.0f} MB/s"
    processors = tuple(used[ours.pid]), tuple(used[theirs.pid])
    return [
        Row("clone of a moment", told, whole[0], "s", backend.NAME, whole[1], GOAL, STRETCH),
        Row("its answer alone", told, alone[0], "s", "likewise", alone[1], GOAL, STRETCH, rate),
        Row("CPU of the server for it", told, processors[0], "s", "likewise", processors[1]),
    ]


async def _used(pid: int, work: Awaitable[T]) -> tuple[T, float]:
    """What the work comes to, and the seconds of processors that a server and its git used for it.

    Git's count once the server has waited for its end, which lighttpd does each second.
    """
    before = cpu_seconds(pid)
    done = await work
    while _has_git(pid):  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)
    return done, cpu_seconds(pid) - before


def _has_git(pid: int) -> bool:
    """Whether a child of this process is git, at work or not waited for yet."""
    children = [one.read_text().split() for one in Path(f"/proc/{pid}/task").glob("*/children")]
    for child in (child for some in children for child in some):
        with suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().startswith("git"):
                return True
    return False


async def _many(room: Room, many: int, source: Source, ours: Server, theirs: Server) -> list[Row]:
    def all_of(server: Server, bound: int | None) -> Callable[[int], Awaitable[float]]:
        async def once(_: int) -> float:
            slots = asyncio.Semaphore(bound) if bound else nullcontext()

            async def one() -> None:
                async with slots:
                    await _clone(room, server, "medium")

            began = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(many)))
            return time.perf_counter() - began

        return once

    taken = await side_by_side(room.rounds, all_of(ours, None), all_of(theirs, CLONING.person))
    told = f"{source.name}, {source.bytes() / 1e6:.0f} MB"
    remark = f"{CLONING.person} of one person at work; the peer's clients likewise"
    return [Row(f"{many} clones at once", told, taken[0], "s", backend.NAME, taken[1], GOAL, STRETCH, remark)]


async def _clone(room: Room, server: Server, name: str) -> float:
    to = room.new("clone")
    who = (
        {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader", "GIT_CONFIG_VALUE_0": server.header}
        if server.header
        else {}
    )
    began = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        *("git", "clone", "-q", "--bare", server.url(name), str(to)),
        env={**ENVIRONMENT, **who},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await child.communicate()
    spent = time.perf_counter() - began
    if child.returncode:
        raise Failed(f"a clone failed: {said.decode(errors='replace')[-300:]}")
    room.clear(to)
    return spent


def _request(source: Source) -> bytes:
    """What a clone of the default branch asks for, by version 2."""
    wants = b"want " + source.git("rev-parse", "HEAD").strip().encode() + b"\n"
    said = (b"thin-pack\n", b"no-progress\n", b"include-tag\n", b"ofs-delta\n", wants, b"done\n")
    return encode((b"command=fetch\n", b"object-format=sha1\n", Mark.DELIM, *said, Mark.FLUSH))


def _head(server: Server, name: str, body: bytes) -> bytes:
    lines = [
        f"POST {server.path.format(name)}/git-upload-pack HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Connection: close",
        "Git-Protocol: version=2",
        "Content-Type: application/x-git-upload-pack-request",
        f"Content-Length: {len(body)}",
        *([server.header] if server.header else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _thrown_away(server: Server, name: str, body: bytes) -> tuple[int, float]:
    """How many bytes come, read by a client that does nothing with them, and in how many seconds."""
    buffer = bytearray(_BUFFER)
    began = time.perf_counter()
    size = 0
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(_head(server, name, body) + body)
        while count := connection.recv_into(buffer):
            size += count
    return size, time.perf_counter() - began


async def _cold(services: Services, repo: Repo, source: Source, header: str, many: int) -> list[Row]:
    """Very many at once of a repo whose pool is gone: how often each part is read from the vault."""
    pool = Pool(services.git, services.disk.pool(repo.id), "sha1")
    async with pool.lock():
        await pool.destroy()
    with _reads() as reads:
        async with _in_this_process(services) as port:
            server, body = Server(port, "/git/acme/{}@1", os.getpid(), header), _request(source)
            began = time.perf_counter()
            sizes = await asyncio.gather(*(_fetched(server, repo, body, one) for one in range(many)))
            spent = time.perf_counter() - began
    if min(sizes) < source.bytes() // 2:
        raise Failed("a fetch of the cold repo was refused")
    told = f"{source.name}, {source.bytes() / 1e6:.0f} MB"
    parts = [key for key in reads if key.endswith(".bundle")]
    what = f"{many} fetches at once of a repo that is not on this disk"
    return [
        Row(what, told, (spent,), "s", remark="served and read by one process"),
        Row("likewise: reads of its part from the vault", told, (float(len(parts)),), "reads", goal=1),
    ]


@contextmanager
def _reads() -> Iterator[list[str]]:
    """The keys of what this process reads from a directory vault while this is open."""
    keys: list[str] = []
    real = DirectoryVault.read

    def read(
        vault: DirectoryVault, key: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        keys.append(key)
        return real(vault, key, start, end)

    DirectoryVault.read = read  # type: ignore[method-assign, assignment]
    try:
        yield keys
    finally:
        DirectoryVault.read = real  # type: ignore[method-assign]


@asynccontextmanager
async def _in_this_process(services: Services) -> AsyncIterator[int]:
    """The web application on a port of loopback, where it can be looked into."""
    assert services.keyring is not None
    outside = Outside(
        services, NoQueue(), services.keyring, "http://127.0.0.1:8000", templating.environment()
    )
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        server = serve.server(application(outside), services.settings, Ties())
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def _fetched(server: Server, repo: Repo, body: bytes, number: int) -> int:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, local_addr=(f"127.0.0.{2 + number % PLACES}", 0)
    )
    size = 0
    try:
        writer.write(_head(server, repo.name, body) + body)
        while chunk := await reader.read(_BUFFER):
            size += len(chunk)
    finally:
        writer.close()
    return size
