"""Whose turn it is: one job at a time per repo, whatever became of the others."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import asyncpg
import pytest

from mirror.core.errors import OurFault
from mirror.core.model import RepoId
from mirror.store import leases
from tests.parts.chain import begin
from tests.parts.postgres import Server

NOTHING = timedelta(0)
_HOLDER = """
import asyncio, sys, uuid
from mirror import store
from mirror.store import leases

async def hold(url, repo_id):
    async with store.opened(url) as db:
        lease = await leases.acquire(db, uuid.UUID(repo_id))
        print("held" if lease else "busy", flush=True)
        sys.stdin.read()

asyncio.run(hold(*sys.argv[1:]))
"""


@pytest.fixture
async def free(db: asyncpg.Pool) -> RepoId:
    """A repo at which nobody is at work."""
    chain = await begin(db)
    await leases.release(db, chain.lease)
    return chain.repo.id


@contextmanager
def _held_elsewhere(url: str, repo_id: RepoId) -> Iterator[subprocess.Popen[str]]:
    """Another process of this machine that has the turn, and lives until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url, str(repo_id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


async def _url(db: asyncpg.Pool, server: Server) -> str:
    return server.url(await db.fetchval("select current_database()"))


async def test_one_of_many_who_ask_at_once_gets_the_turn(db: asyncpg.Pool, free: RepoId) -> None:
    got = await asyncio.gather(*(leases.acquire(db, free) for _ in range(8)))
    assert sum(lease is not None for lease in got) == 1


async def test_a_turn_that_was_given_back_can_be_taken_and_its_number_grows(
    db: asyncpg.Pool, free: RepoId
) -> None:
    first = await leases.acquire(db, free)
    assert first is not None
    await leases.release(db, first)
    await leases.release(db, first)
    second = await leases.acquire(db, free)
    assert second is not None
    assert second.fence > first.fence
    assert second.owner != first.owner


async def test_two_repos_are_worked_on_at_once(db: asyncpg.Pool, free: RepoId) -> None:
    other = await begin(db, "bob/shed")
    assert await leases.acquire(db, free)
    assert await leases.beat(db, other.lease)


async def test_a_live_process_of_this_machine_keeps_its_turn(
    db: asyncpg.Pool, each_postgres: Server, free: RepoId
) -> None:
    with _held_elsewhere(await _url(db, each_postgres), free):
        assert await leases.acquire(db, free) is None


async def test_the_turn_of_a_killed_process_is_taken_over_at_once(
    db: asyncpg.Pool, each_postgres: Server, free: RepoId
) -> None:
    with _held_elsewhere(await _url(db, each_postgres), free) as process:
        process.kill()
        process.wait()
        assert await leases.acquire(db, free)


async def test_a_killed_process_whose_parent_has_not_looked_yet_is_dead_too(
    db: asyncpg.Pool, each_postgres: Server, free: RepoId
) -> None:
    with _held_elsewhere(await _url(db, each_postgres), free) as process:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert await leases.acquire(db, free)


async def test_a_run_of_another_machine_keeps_its_turn_for_30_seconds_without_a_beat(
    db: asyncpg.Pool, free: RepoId
) -> None:
    assert await leases.acquire(db, free)
    silent = "update lease set owner = 'elsewhere/boot.1/1/1/abc', beat_at = clock_timestamp() - $1::interval"
    await db.execute(silent, timedelta(seconds=20))
    assert await leases.acquire(db, free) is None
    await db.execute(silent, timedelta(seconds=31))
    assert await leases.acquire(db, free)


async def test_a_beat_keeps_the_turn_and_one_that_comes_too_late_says_so(
    db: asyncpg.Pool, free: RepoId
) -> None:
    lease = await leases.acquire(db, free)
    assert lease is not None
    await db.execute("update lease set beat_at = clock_timestamp() - interval '31 seconds'")
    assert await leases.beat(db, lease)
    assert await leases.acquire(db, free) is None
    successor = await leases.acquire(db, free, ttl=NOTHING)
    assert successor is not None
    assert not await leases.beat(db, lease)


async def test_a_run_that_lost_its_turn_cannot_give_back_its_successors(
    db: asyncpg.Pool, free: RepoId
) -> None:
    lease = await leases.acquire(db, free)
    successor = await leases.acquire(db, free, ttl=NOTHING)
    assert lease is not None
    assert successor is not None
    await leases.release(db, lease)
    assert await leases.acquire(db, free) is None
    assert await leases.beat(db, successor)


async def test_of_two_who_find_a_dead_owner_one_takes_over(db: asyncpg.Pool, free: RepoId) -> None:
    lease = await leases.acquire(db, free)
    assert lease is not None
    host, boot, pid, start, word = lease.owner.split("/")
    await db.execute("update lease set owner = $1", f"{host}/{boot}/{pid}/{int(start) + 1}/{word}")
    got = await asyncio.gather(*(leases.acquire(db, free) for _ in range(8)))
    assert sum(found is not None for found in got) == 1


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        pytest.param({}, False, id="this very process"),
        pytest.param({"start": "1"}, True, id="its number, given to another process since"),
        pytest.param({"pid": "4194305"}, True, id="a number that no process has"),
        pytest.param({"pid": "4194305", "host": "elsewhere"}, False, id="another machine"),
        pytest.param({"pid": "4194305", "boot": "0.0"}, False, id="another boot, or another container"),
    ],
)
async def test_only_this_machine_judges_its_processes(
    db: asyncpg.Pool, free: RepoId, change: dict[str, str], dead: bool
) -> None:
    lease = await leases.acquire(db, free)
    assert lease is not None
    parts = dict(zip(("host", "boot", "pid", "start", "word"), lease.owner.split("/"), strict=True)) | change
    assert leases.is_dead("/".join(parts.values())) is dead


@pytest.mark.parametrize("owner", ["", "x", "a/b/c/d/e", "a/b/1/2/x/y"])
def test_an_owner_that_we_did_not_write_is_never_dead(owner: str) -> None:
    assert not leases.is_dead(owner)


async def test_an_owner_says_where_to_look_for_it(db: asyncpg.Pool, free: RepoId) -> None:
    lease = await leases.acquire(db, free)
    assert lease is not None
    assert lease.owner.startswith(f"{socket.gethostname()}/")
    assert f"/{os.getpid()}/" in lease.owner


async def test_a_turn_whose_end_could_not_be_written_is_free_again_at_once(
    db: asyncpg.Pool, free: RepoId
) -> None:
    lease, other = await leases.acquire(db, free), (await begin(db, "other")).lease
    assert lease is not None
    await db.execute("alter table lease rename to away")
    with pytest.raises(OurFault):
        await leases.release(db, lease)
    await db.execute("alter table away rename to lease")
    await leases.release_over(db)
    assert await db.fetchval("select owner from lease where repo_id = $1", free) is None
    assert await leases.beat(db, other)  # the turn of a run that goes on


async def test_a_run_of_this_process_that_has_ended_holds_nobody_up(db: asyncpg.Pool, free: RepoId) -> None:
    lease = await leases.acquire(db, free)
    assert lease is not None and await leases.acquire(db, free) is None
    await leases.release(db, lease)
    await db.execute("update lease set owner = $2 where repo_id = $1", free, lease.owner)
    assert leases.is_over(lease.owner) and not leases.is_dead(lease.owner)
    assert await leases.acquire(db, free)
