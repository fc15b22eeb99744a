"""A worker whose work is simulated: `python -m bench.starter NUMBER WORKERS`, for bench/cases/queue.py.

It says "ready", waits for the end of its input, takes up and ends what is due until nothing is, and
says how many runs that were.
"""

import asyncio
import os
import sys
from datetime import timedelta
from typing import Final

import asyncpg

from mirror import store
from mirror.core.rules.work.fairness import Free
from mirror.core.rules.work.schedule import shares
from mirror.services.open import now
from mirror.store import repos
from mirror.store.jobs import runs
from mirror.store.jobs.runs import Preference, Run

SLOTS: Final = 16
SECONDS: Final = 0.05  # that a run takes
PATIENCE: Final = timedelta(seconds=0.3)


def name(number: int) -> str:
    """What the worker of this number is called."""
    return f"bench/{number}/0/aa"


async def main(number: int, workers: int) -> None:
    mine = shares(name(number), [name(one) for one in range(workers)])
    async with store.opened(os.environ["DATABASE_URL"]) as db:
        await runs.beat(db, name(number))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(await _work(db, name(number), mine), flush=True)


async def _work(db: asyncpg.Pool, me: str, mine: list[int]) -> int:
    under_way: set[asyncio.Task[None]] = set()
    done = 0
    while True:
        room = SLOTS - len(under_way)
        found = await runs.take(db, me, now(), Free(room, SLOTS), Preference(mine, PATIENCE))
        under_way |= {asyncio.create_task(_serve(db, me, run)) for run in found}
        done += len(found)
        if not under_way:
            return done
        _, under_way = await asyncio.wait(under_way, return_when="FIRST_COMPLETED")


async def _serve(db: asyncpg.Pool, me: str, run: Run) -> None:
    sync_request = await repos.sync_request(db, run.repo_id)
    await asyncio.sleep(SECONDS)
    await repos.touch_protected(db, run.repo_id, now(), sync_request)
    await runs.end(db, me, run.key)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
