"""What a page costs one team while somebody else asks for bombs, ten a second; and what memory that takes."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from bench.cases.pages import signed_in
from bench.figures import Row
from bench.room import Room
from bench.service import percentile, process, servers
from mirror.backup import sync as syncing
from mirror.discovery import add
from mirror.services.open import Services
from mirror.store.people import people, teams

RATE: Final = 10.0  # bombs a second
PAUSE: Final = 0.05  # seconds between two pages of the other team
MEMORY: Final = 600.0  # megabytes of all processes of the pages together
LATE: Final = 0.2  # seconds, for the 99th percentile of the other team's pages


@dataclass
class Seen:
    """What was seen of an attack."""

    taken: list[float] = field(default_factory=list)  # seconds of each page of the other team
    bombs: Counter[int] = field(default_factory=Counter)  # answers to the attacker, by status
    megabytes: float = 0.0  # of all processes together, at most


async def neighbours(room: Room) -> list[Row]:
    """The three bombs in turn, ten requests a second of one person; pages of another team meanwhile."""
    from tests.parts.repos import Work

    seconds = 5.0 if room.quick else 60.0
    place = room.new("neighbours")
    async with servers(place / "data") as services:
        good, bad = await filled(services, Work, place, 8 << 20 if room.quick else 300 << 20)
        with process("mirror.web", services.settings) as (running, port):
            quiet = await attacked(port, running.pid, good, Asked({}, ()), seconds / 4)
            seen = await attacked(port, running.pid, good, bad, seconds)
    answers = ", ".join(f"{count} of {status}" for status, count in sorted(seen.bombs.items()))
    return [
        Row("a page of another team, at rest", "-", tuple(quiet.taken), "s"),
        Row("a page of another team, attacked", "-", tuple(seen.taken), "s", remark=f"answers: {answers}"),
        Row("its 99th percentile", "-", (percentile(seen.taken, 0.99),), "s", goal=LATE),
        Row("memory of all processes", "-", (seen.megabytes,), "MB", goal=MEMORY),
    ]


@dataclass(frozen=True)
class Asked:
    """Whose pages, and which."""

    cookies: dict[str, str]
    paths: Sequence[str]


async def filled(services: Services, work: type, place: Path, size: int) -> tuple[Asked, Asked]:
    """A repository like any other in one team, three bombs in another; a message has so many bytes."""
    from tests.parts import bombs

    pages = "/files", "/refs", "/commits", "/pushes", "/commit/{}", "/files/docs/README.md"
    made = {name: work(place / name) for name in ("plain", "tabs", "nested", "message")}
    for number in range(50):
        made["plain"].commit(
            "main", {"docs/README.md": b"# Words\n\n" * (number + 1), "a.py": b"x = 1\n" * 99}
        )
    bombs.tabs(made["tabs"])
    bombs.nested(made["nested"])
    bombs.message(made["message"], size)
    asked = {}
    for team, names in (("kim", ["plain"]), ("mallory", ["tabs", "nested", "message"])):
        person = await people.add(services.db, team.title(), services.clock(), team_name=team)
        home = await teams.home(services.db, person.id)
        assert home is not None
        for name in names:
            repo = await add.repo_for(services, str(made[name].path), name)
            await services.db.execute("update repo set team_id = $2 where id = $1", repo.id, home.id)
            await syncing.sync(services, repo.id)
        asked[team] = await signed_in(services, person.id)
    tip = {name: one.tip().decode() for name, one in made.items()}
    good = [f"/kim/plain/-{page.format(tip['plain'])}" for page in pages]
    bad = [
        "/mallory/tabs/-/files/x.ezt",
        f"/mallory/nested/-/commit/{tip['nested']}",
        f"/mallory/message/-/commit/{tip['message']}",
        "/mallory/message/-/commits",
    ]
    return Asked(asked["kim"], good), Asked(asked["mallory"], bad)


async def attacked(port: int, pid: int, good: Asked, bad: Asked, seconds: float) -> Seen:
    """Pages one after the other, for so long; beside them bombs, whether answered or not."""
    seen = Seen()
    base = f"http://127.0.0.1:{port}"
    unlimited = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(base, cookies=good.cookies) as kim,
        aiohttp.ClientSession(base, cookies=bad.cookies, connector=unlimited) as mallory,
    ):
        for path in [*good.paths, *good.paths]:
            await _page(kim, path)
        began = time.perf_counter()
        bombing = asyncio.create_task(_bomb(mallory, bad.paths, seen))
        weighing = asyncio.create_task(_weigh(pid, seen))
        try:
            while time.perf_counter() - began < seconds:
                for path in good.paths:
                    seen.taken.append(await _page(kim, path))
                    await asyncio.sleep(PAUSE)
        finally:
            for task in (bombing, weighing):
                task.cancel()
            await asyncio.wait([bombing, weighing])
    return seen


async def _page(session: aiohttp.ClientSession, path: str) -> float:
    began = time.perf_counter()
    async with session.get(path) as answer:
        await answer.read()
        assert answer.status == 200, f"{path}: {answer.status}"
    return time.perf_counter() - began


async def _bomb(session: aiohttp.ClientSession, paths: Sequence[str], seen: Seen) -> None:
    async def one(path: str) -> None:
        with suppress(aiohttp.ClientError):
            async with session.get(path) as answer:
                await answer.read()
                seen.bombs[answer.status] += 1

    async with asyncio.TaskGroup() as group:
        number = 0
        while paths:
            group.create_task(one(paths[number % len(paths)]))
            number += 1
            await asyncio.sleep(1 / RATE)


async def _weigh(pid: int, seen: Seen) -> None:
    while True:
        seen.megabytes = max(seen.megabytes, await asyncio.to_thread(resident, pid))
        await asyncio.sleep(0.05)


def resident(pid: int) -> float:
    """Megabytes that a process and all below it hold, what they share counted once: proc(5), smaps_rollup."""
    total = 0
    for one in (pid, *_below(pid)):
        with suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total / 1e6


def _below(pid: int) -> Collection[int]:
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError, IndexError):
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(stat[1]), []).append(int(name))
    found: list[int] = []
    ahead = [pid]
    while ahead:
        children = parents.get(ahead.pop(), [])
        found += children
        ahead += children
    return found
