"""The queue at scale: how long a pick takes, and how many runs several workers start together."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Final

import asyncpg

from bench import starter
from bench.clock import Failed
from bench.figures import Row
from bench.room import Room
from bench.service import servers
from mirror.core.rules.work.fairness import Free
from mirror.services.open import Services
from mirror.services.startup import environment
from mirror.store.jobs import runs
from mirror.store.jobs.runs import Preference

WORKERS: Final = 8
TEAMS: Final = 20  # each at a host of its own
PICK: Final = 0.005  # seconds
STARTS: Final = 500  # a second

_WISHES = """
with made as (
  insert into team (name) select 'team ' || n from generate_series(0, $3::int - 1) n returning id, name
)
insert into repo (id, team_id, name, url, created_at, wanted_at, behind_since, protected_as_of)
select
  gen_random_uuid(), made.id, 'repo ' || n,
  'https://' || split_part(made.name, ' ', 2) || '.example/' || n, $1, at, at, $1
from generate_series(1, $2::int) n join made on made.name = 'team ' || n % $3,
  lateral (select $1::timestamptz - n * interval '1 millisecond' as at) told
"""


async def queue(room: Room) -> list[Row]:
    """Picking what is next among very many open wishes, alone and by 8 workers whose work is simulated."""
    short, long = (100, 2_000) if room.quick else (1_000, 20_000)
    rows = []
    for count in (short, long):
        async with servers(room.new(f"queue-{count}")) as services:
            await services.db.execute(_WISHES, services.clock(), count, TEAMS)
            await services.db.execute("analyze")
            taken = await _picks(services, 50 if room.quick else 200)
            told = f"{count:,} open wishes"
            rows.append(Row("a pick of one run, median", told, taken, "s", goal=PICK))
            rows.append(Row("likewise, 95th percentile", told, (sorted(taken)[len(taken) * 95 // 100],), "s"))
            if count == long:
                seconds = await _started(services, count)
                rate = f"{count / seconds:,.0f} starts a second"
                what = f"{WORKERS} workers start and end them all"
                rows.append(Row(what, told, (seconds,), "s", goal=count / STARTS, remark=rate))
    return rows


async def _picks(services: Services, count: int) -> tuple[float, ...]:
    """One run after another, with some at work, by a single worker."""
    taken = []
    for number in range(count + 10):
        began = time.perf_counter()
        found = await runs.take(
            services.db, starter.name(0), services.clock(), Free(1, 1), Preference(range(256), timedelta(0))
        )
        if number >= 10:  # the first ones plan
            taken.append(time.perf_counter() - began)
        if len(found) != 1:
            raise Failed("a pick found nothing")
        if number % 16 == 15:
            await runs.leave(services.db, starter.name(0))
    await runs.leave(services.db, starter.name(0))
    return tuple(taken)


async def _started(services: Services, count: int) -> float:
    """How long several workers take until every wish is served."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(services, number)) for number in range(WORKERS)]
        for worker in workers:
            await asyncio.to_thread(_read, worker)
        began = time.perf_counter()
        for worker in workers:
            assert worker.stdin
            worker.stdin.close()
        done = await asyncio.gather(*(asyncio.to_thread(_read, worker) for worker in workers))
        seconds = time.perf_counter() - began
    await _check(services.db, [int(number) for number in done], count)
    return seconds


def _read(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout
    return worker.stdout.readline()


async def _check(db: asyncpg.Pool, done: Sequence[int], count: int) -> None:
    open_ones = await db.fetchval("select count(*) from repo where wanted_at is distinct from synced_at")
    if open_ones or sum(done) != count or await db.fetchval("select exists (select from queue)"):
        raise Failed(f"{sum(done)} runs for {count} wishes, of which {open_ones} are open")


@contextmanager
def _worker(services: Services, number: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.starter", str(number), str(WORKERS)]
    env = environment(services.settings, os.environ)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as running:
        try:
            yield running
        finally:
            running.terminate()
