"""The service from a delivery to a protected repository, as processes over a real database and queue."""

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from bench import peers, reference, sources
from bench.clock import Failed, side_by_side
from bench.figures import Row
from bench.room import Room
from bench.service import Hooked, cpu_seconds, delivery, hooked, percentile, post, process, servers
from mirror.backup import sync as syncing
from mirror.jobs import sweep
from mirror.store import repos
from mirror.store.people import teams

_COPY = """
insert into snapshot (
  repo_id, number, taken_at, reason, object_format, refs_count, refs_digest,
  changes_count, epoch, log_entries, log_bytes, manifest_sha256
)
select
  $1, number, taken_at, reason, object_format, refs_count, refs_digest, 0, epoch, 0, 0, manifest_sha256
from snapshot where repo_id = $2
"""
_POLL = 0.005  # seconds between two looks at the database


async def hooks(room: Room) -> list[Row]:
    """Deliveries to the webhook receiver, 32 at once, against the least that one can do."""
    count, rounds = (500, room.rounds) if room.quick else (4000, max(5, room.rounds))
    late: list[list[float]] = [[], []]
    async with servers(room.new("hooks")) as services:
        made = [
            await hooked(services, f"hooks/{number}", f"https://forge.example/{number}")
            for number in range(500)
        ]
        with (
            process("hooks", services.settings) as ours,
            process("bench.reference", services.settings) as theirs,
        ):

            async def send(which: int, port: int, requests: Sequence[bytes]) -> float:
                began = time.perf_counter()
                taken = await post(port, requests)
                late[which].append(percentile(taken, 0.99))
                return time.perf_counter() - began

            async def to_us(number: int) -> float:
                hook = [made[one % len(made)] for one in range(count)]
                numbers = range(number * count, (number + 1) * count)
                requests = [
                    delivery(hook.path, hook.secret, made.index(hook) + 1, one)
                    for hook, one in zip(hook, numbers, strict=True)
                ]
                return await send(0, ours[1], requests)

            async def to_reference(number: int) -> float:
                numbers = range(number * count, (number + 1) * count)
                requests = [delivery(reference.PATH, reference.SECRET, one % 500 + 1, one) for one in numbers]
                return await send(1, theirs[1], requests)

            await to_us(99)  # warm
            await to_reference(99)
            for one in late:
                one.clear()
            taken = await side_by_side(rounds, to_us, to_reference)
    what = f"{count:,} deliveries"
    rate = f"{count / sorted(taken[0])[len(taken[0]) // 2]:,.0f} a second"
    return [
        Row(what, "-", taken[0], "s", "a receiver that only inserts", taken[1], 1.25, 1.05, rate),
        Row("the 99th percentile of a delivery", "-", tuple(late[0]), "s", "likewise", tuple(late[1]), 2.0),
    ]


async def pushes(room: Room) -> list[Row]:
    """From a delivery to the start of its job and to the end of it, at rest and with very many at once."""
    alone, many, rest = (10, 60, 20) if room.quick else (40, 1000, 60)
    source = sources.generated(room.new("pushed"), 60, 20)
    tips = source.mainline()
    chain, url = room.chain(source, tips[0])
    crowd, _ = room.chain(source, tips[0])
    async with servers(room.new("service")) as services:
        with (
            process("hooks", services.settings) as (_, port),
            process("mirror.worker", services.settings) as (worker, _),
        ):
            one = await hooked(services, "one", url)
            await repos.request_sync(services.db, one.repo.id, services.clock())
            await _settled(services.db, [one])
            starts, ends = [], []
            for number in range(alone):
                chain.invent(number)
                begun = datetime.now(UTC)
                await post(port, [delivery(one.path, one.secret, 1, number)], 1)
                await _settled(services.db, [one])
                started, ended = await _last_job(services.db, one, begun)
                starts.append((started - begun).total_seconds())
                ends.append((ended - begun).total_seconds())
                await asyncio.sleep(1.1)  # a hook takes sixty a minute

            used, began = cpu_seconds(worker.pid), time.perf_counter()
            await asyncio.sleep(rest)
            idle = (cpu_seconds(worker.pid) - used) / (time.perf_counter() - began) * 100

            group = [await hooked(services, f"many/{n}", room.alias(crowd.path)) for n in range(many)]
            used, began = cpu_seconds(worker.pid), time.perf_counter()
            for hook in group:
                await repos.request_sync(services.db, hook.repo.id, services.clock())
            await _settled(services.db, group)
            first, first_cpu = time.perf_counter() - began, cpu_seconds(worker.pid) - used

            crowd.push(tips[-1])
            used, began, begun = cpu_seconds(worker.pid), time.perf_counter(), datetime.now(UTC)
            requests = [delivery(hook.path, hook.secret, n + 1, n) for n, hook in enumerate(group)]
            await post(port, requests)
            await _settled(services.db, group)
            all_of, all_cpu = time.perf_counter() - began, cpu_seconds(worker.pid) - used
            unfinished = "select exists (select from job where started_at > $1 and finished_at is null)"
            # A wish is served just before its job ends.
            while await services.db.fetchval(unfinished, begun):  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(_POLL)
            waits = [
                (row["finished_at"] - begun).total_seconds()
                for row in await services.db.fetch("select finished_at from job where started_at > $1", begun)
            ]
    told = f"{many:,} repositories"
    return [
        Row("delivery to job start, at rest, median", "1 small", tuple(starts), "s"),
        Row(
            "likewise, 99th percentile", "1 small", (percentile(starts, 0.99),), "s", goal=0.06, stretch=0.02
        ),
        Row("delivery to protected, at rest, median", "1 small", tuple(ends), "s"),
        Row("likewise, 99th percentile", "1 small", (percentile(ends, 0.99),), "s", goal=1.0, stretch=0.3),
        Row("CPU of a worker at rest, in 100 s", "1 small", (idle,), "s", goal=1.0, stretch=0.5),
        Row("all of them for the first time", told, (first,), "s", remark=_rate(many, first, first_cpu)),
        Row("all of them pushed to at once", told, (all_of,), "s", remark=_rate(many, all_of, all_cpu)),
        Row("likewise, delivery to protected, median", told, tuple(waits), "s"),
        Row("likewise, 99th percentile", told, (percentile(waits, 0.99),), "s"),
    ]


async def looks(room: Room) -> list[Row]:
    """Looks by schedule at repositories to which nothing was pushed, against `git ls-remote`."""
    many = 50 if room.quick else 500
    source = sources.generated(room.new("quiet"), 60, 20)
    async with servers(room.new("looks")) as services:
        alias = room.alias(source.path)
        team = await teams.default(services.db)
        made = await repos.add(services.db, team, "first", room.alias(source.path), services.clock())
        await syncing.sync(services, made.id)
        for number in range(1, many):
            # What a look reads of a repo: its address, and the digest of its latest snapshot.
            one = await repos.add(services.db, team, f"{number}", room.alias(source.path), services.clock())
            await services.db.execute(_COPY, one.id, made.id)

        async def ours(_: int) -> float:
            await services.db.execute("update repo set look_at = null")
            used = time.process_time()
            done = await sweep.tick(services)
            if (done.looks, done.moved, done.failed) != (many, 0, 0):
                raise Failed(f"not every look found what it should: {done}")
            return (time.process_time() - used) / many

        async def theirs(_: int) -> float:
            used = os.times()
            for _ in range(20):
                peers.ls_remote(alias)
            after = os.times()
            return (after.children_user + after.children_system - used[2] - used[3]) / 20

        taken = await side_by_side(room.rounds, ours, theirs)
    remark = f"{many:,} looks each time"
    return [Row("CPU of a look", "small", taken[0], "s", "`git ls-remote`", taken[1], 1.0, 0.5, remark)]


def _rate(jobs: int, seconds: float, cpu: float) -> str:
    return f"{jobs / seconds:.0f} jobs a second, {jobs / cpu:.0f} for each second of CPU"


async def _settled(db: asyncpg.Pool, group: Sequence[Hooked]) -> None:
    """Wait until every wish of these is served."""
    ids = [hook.repo.id for hook in group]
    waiting = "select exists (select from repo where id = any($1) and synced_at is distinct from wanted_at)"
    while await db.fetchval(waiting, ids):  # noqa: ASYNC110 - it is another process's doing
        await asyncio.sleep(_POLL)


async def _last_job(db: asyncpg.Pool, hook: Hooked, since: datetime) -> tuple[datetime, datetime]:
    """When the job since then began and ended, by the worker's clock."""
    ended = (
        "select started_at, finished_at from job where repo_id = $1 and started_at >= $2 and state = 'done'"
    )
    while not (row := await db.fetchrow(ended, hook.repo.id, since)):  # noqa: ASYNC110 - likewise
        await asyncio.sleep(_POLL)
    return row["started_at"], row["finished_at"]
