"""The receiver: what it takes, what it refuses and how, and that a delivery ends as a snapshot."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MethodType
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yarl
from arq.connections import ArqRedis
from starlette.applications import Starlette
from starlette.routing import Route

from hooks import app
from mirror.core.model import RefName, Repo
from mirror.discovery import webhook
from mirror.services.queue import Queue
from mirror.services.server.bodies import Budget
from mirror.store import repos
from mirror.store.backup import history, snapshots
from mirror.store.discovery import hooks
from tests.parts.everref import Mirror
from tests.parts.forge import Forge, served
from tests.parts.githttp import GitServer
from tests.parts.redis import work_off
from tests.parts.repos import Work

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

MAIN = RefName(b"refs/heads/main")


@dataclass
class Garden:
    """A repository on a forge, kept, with a hook, and the receiver that its deliveries go to."""

    mirror: Mirror
    work: Work
    repo: Repo
    forge: Forge
    jobs: ArqRedis

    async def push(self, by: str = "alice", **how: Any) -> Any:
        """A person pushes a commit, and the forge tells of it."""
        before = self.work.tip()
        return await self.forge.push(MAIN, before, self.work.commit("main"), by, **how)

    async def work_off(self, redis_url: str) -> None:
        """Let a worker hear what is in the queue, and do what is due."""
        worker = await work_off(self.mirror.services, redis_url)
        assert worker.jobs_failed == 0

    async def state(self) -> str:
        """What `everref repos` says."""
        (row,) = await repos.overview(self.mirror.services.db)
        return row.state

    async def rows(self, table: str) -> list[Any]:
        found: list[Any] = await self.mirror.services.db.fetch(f"select * from {table} order by 1")
        return found


@pytest_asyncio.fixture
async def garden(
    mirror: Mirror,
    work: Work,
    git_server: GitServer,
    redis_url: str,
    jobs: ArqRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Garden]:
    monkeypatch.setattr(app, "HINT_SECONDS", 60)  # a Redis that is there takes every hint
    work.commit("main")
    synced = await mirror.backup(f"{git_server.url}/remote.git")
    given = await webhook.give(mirror.services, synced.repo, "github")
    queue = Queue.at(redis_url)
    keyring = mirror.services.keyring
    assert keyring
    receiver = app.application(mirror.services.db, queue, keyring, lambda: mirror.clock.now)
    async with served(receiver) as base, aiohttp.ClientSession() as session:
        yield Garden(mirror, work, synced.repo, Forge(session, base, given), jobs)
    await queue.aclose(close_connection_pool=True)


async def test_a_push_is_a_snapshot_with_who_and_when(garden: Garden, redis_url: str) -> None:
    before, told = garden.work.tip(), garden.mirror.clock.now
    answer = await garden.push(by="alice")
    assert (answer.status, answer.text) == (202, '{"why": "a sync is due"}\n')
    assert await garden.state() == "behind"
    await garden.work_off(redis_url)
    assert await garden.state() == "protected"
    db = garden.mirror.services.db
    snapshot = await snapshots.latest(db, garden.repo.id)
    assert snapshot and (snapshot.number, snapshot.reason) == (2, "push")
    newest = await anext(history.changes(db, garden.repo.id))
    assert (newest.change.name, newest.change.old, newest.change.new) == (MAIN, before, garden.work.tip())
    assert newest.change.by == "alice"
    assert newest.change.at and told <= newest.change.at < snapshot.taken_at
    assert await garden.mirror.refs(garden.repo, 2) == garden.work.refs()


async def test_a_hundred_deliveries_at_once_are_two_looks_at_the_most(
    garden: Garden, redis_url: str, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "A_MINUTE", 60)
    looks = git_server.count("info/refs")
    tip = garden.work.tip()
    after = garden.work.commit("main")
    answers = await asyncio.gather(*(garden.forge.push(MAIN, tip, after) for _ in range(100)))
    statuses = [answer.status for answer in answers]
    assert (statuses.count(202), statuses.count(429)) == (60, 40)
    await garden.work_off(redis_url)
    assert git_server.count("info/refs") - looks <= 2
    assert await garden.state() == "protected"


async def test_a_replay_is_answered_200_and_does_nothing(garden: Garden) -> None:
    payload = garden.forge.payload(MAIN, None, garden.work.tip(), "alice")
    assert (await garden.forge.send(payload, delivery="one")).status == 202
    sync_request = await repos.sync_request(garden.mirror.services.db, garden.repo.id)
    again = await garden.forge.send(payload, delivery="one")
    assert (again.status, again.why) == (200, "this delivery is known already")
    assert await repos.sync_request(garden.mirror.services.db, garden.repo.id) == sync_request
    assert len(await garden.rows("delivery")) == 1
    assert await garden.jobs.zcard("arq:queue") == 1


async def test_a_ping_is_answered_and_wishes_for_nothing(garden: Garden) -> None:
    answer = await garden.forge.send({"zen": "Keep it.", "repository": garden.forge.about()}, event="ping")
    assert answer.status == 202
    assert answer.why.startswith("nothing to do")
    assert await garden.state() == "protected"
    assert await garden.jobs.zcard("arq:queue") == 0


async def test_a_delivery_of_gitlab_signed_with_the_token_that_was_given_is_taken(garden: Garden) -> None:
    await webhook.remove(garden.mirror.services, garden.repo)
    given = await webhook.give(garden.mirror.services, garden.repo, "gitlab")
    assert given.secret
    before, after = garden.work.tip(), garden.work.commit("main")
    payload = {
        "object_kind": "push",
        "ref": "refs/heads/main",
        "before": before.decode(),
        "after": after.decode(),
        "user_username": "bob",
        "project": {"id": 9, "path_with_namespace": "alice/garden", "visibility_level": 0},
    }
    body = json.dumps(payload).encode()
    seconds = str(int(garden.mirror.clock.now.timestamp()))
    key = base64.b64decode(given.secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"msg_1.{seconds}.".encode() + body, hashlib.sha256).digest()
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": seconds,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }
    forge = replace(garden.forge, given=given)
    assert (await forge.send(body, headers=headers)).status == 202
    older = {"x-gitlab-token": given.secret, "x-gitlab-event-uuid": "2", "x-gitlab-event": "Push Hook"}
    assert (await forge.send(body, headers=older)).status == 202
    assert (await forge.send(body, headers=older | {"x-gitlab-token": "x" * 50})).status == 404
    assert len(await garden.rows("delivery")) == 2


async def test_an_unknown_hook_and_a_wrong_signature_get_the_same_answer(garden: Garden) -> None:
    forge = garden.forge
    stranger = replace(forge, given=replace(forge.given, secret="x" * 40))
    unknown = f"{forge.base}/hooks/github/{'x' * 32}"
    elsewhere = forge.url.replace("/github/", "/gitea/")
    answers = {
        await stranger.push(MAIN, None, None),
        await forge.push(MAIN, None, None, url=unknown),
        await forge.push(MAIN, None, None, url=elsewhere),
        await forge.push(MAIN, None, None, url=unknown.replace("github", "nonesuch")),
    }
    assert {answer.status for answer in answers} == {404}
    assert len(answers) == 1
    assert await garden.rows("delivery") == []


@pytest.mark.parametrize("path", ["/hooks/github/a%00b", "/hooks/git%00hub/a", "/hooks/%ff/a"])
async def test_what_no_hook_can_be_called_gets_that_answer_too(
    garden: Garden, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = yarl.URL(garden.forge.base + path, encoded=True)
    async with garden.forge.session.post(url, data=b"{}") as answer:
        assert answer.status == 404
        assert "there is no such hook" in await answer.text()
    assert [one for one in caplog.records if one.name != "asyncio"] == []  # which tells of other tests' tasks


async def test_another_repository_is_refused_and_recorded(garden: Garden) -> None:
    await garden.push()
    garden.forge.repository = 78
    answer = await garden.push()
    assert (answer.status, answer.why) == (403, "this hook is for another repository")
    _, refused = await garden.rows("delivery")
    assert refused["why"] == "it is about another repository"


async def test_the_secret_before_is_accepted_for_a_day(garden: Garden) -> None:
    await webhook.give(garden.mirror.services, garden.repo, None, new=True)
    assert (await garden.push()).status == 202
    garden.mirror.clock.now += timedelta(hours=24)
    assert (await garden.push()).status == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[" * 100_000, b'{"ref": "refs/heads/\\u0000"}', b'{"ref": "\\ud800"}', b"\xff\xfe"],
    ids=["empty", "no json", "deep", "NUL", "lone surrogate", "no utf-8"],
)
async def test_a_signed_body_that_makes_no_sense_is_400_and_one_line(garden: Garden, body: bytes) -> None:
    answer = await garden.forge.send(body)
    assert answer.status == 400
    assert len(answer.text.splitlines()) == 1
    assert await garden.state() == "protected"


async def test_a_body_that_is_too_large_is_413(garden: Garden) -> None:
    async def too_much() -> AsyncIterator[bytes]:
        for _ in range(app.LARGEST >> 20):
            yield bytes(1 << 20)
        yield b"x"

    async with garden.forge.session.post(garden.forge.url, data=too_much()) as answer:
        assert answer.status == 413
    assert await _raw(garden.forge, b"content-length: %d\r\n\r\n" % (app.LARGEST + 1)) == 413


async def test_a_large_body_without_its_length_told_is_taken(garden: Garden) -> None:
    payload = garden.forge.payload(MAIN, None, garden.work.tip(), "alice") | {"much": "x" * (2 << 20)}
    body = json.dumps(payload).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[: 1 << 20]
        yield body[1 << 20 :]

    headers = garden.forge.signed(body, "push", "in pieces")
    async with garden.forge.session.post(garden.forge.url, data=pieces(), headers=headers) as answer:
        assert answer.status == 202
    (row,) = await garden.rows("delivery")
    assert (len(row["body"]), row["bytes"]) == (hooks.BODY_KEPT, len(body))


async def test_a_compressed_body_is_415(garden: Garden) -> None:
    answer = await garden.forge.send(b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status == 415


async def test_a_slow_body_is_408(garden: Garden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "READ_SECONDS", 0.05)
    assert await _raw(garden.forge, b"content-length: 10\r\n\r\nslow") == 408


async def test_a_large_body_of_which_nothing_more_comes_is_408(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PIECE_SECONDS", 0.05)
    much = bytes(app.SMALL + 1)
    assert await _raw(garden.forge, b"content-length: %d\r\n\r\n" % app.LARGEST + much) == 408


@asynccontextmanager
async def strangers(
    receiver: Starlette, forge: Forge, many: int, sent: int, *, guessed: bool = True
) -> AsyncIterator[None]:
    """So many who announce the largest body, send so many bytes of it and hold it open.

    They guessed the address of the hook, or send to one where no hook is.
    """
    (route,) = receiver.routes
    assert isinstance(route, Route)
    assert isinstance(route.endpoint, MethodType)
    room: Budget = vars(route.endpoint.__self__)["_room" if guessed else "_strangers_room"]
    host, port = forge.base.removeprefix("http://").split(":")
    path = forge.url.removeprefix(forge.base) if guessed else "/hooks/github/nobody"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n"
    async with AsyncExitStack() as stack:
        for _ in range(many):
            _, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
            stack.push_async_callback(writer.wait_closed)
            stack.callback(writer.transport.abort)
            writer.write(head.encode() + b"content-length: %d\r\n\r\n" % app.LARGEST + bytes(sent))
        while room._held < many * room.share(sent, app.LARGEST):  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.01)
        yield


@pytest.mark.parametrize("sent", [1, app.SMALL + 1], ids=["a byte", "some of it"])
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_strangers_who_hold_announced_bodies_open_do_not_delay_a_delivery(
    garden: Garden, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    monkeypatch.setattr(app, "ROOM_SECONDS", 0)  # who has to wait at all is refused
    monkeypatch.setattr(app, "PIECE_SECONDS", 60)
    services, clock = garden.mirror.services, garden.mirror.clock
    assert services.keyring
    receiver = app.application(services.db, garden.jobs, services.keyring, lambda: clock.now)
    async with served(receiver) as base:
        forge = replace(garden.forge, base=base)
        payload = forge.payload(MAIN, None, garden.work.tip(), "alice") | {"much": "x" * (1 << 20)}
        async with strangers(receiver, forge, 60, sent):
            answer = await forge.send(json.dumps(payload).encode())
    assert answer.status == 202


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_large_bodies_wait_for_room_and_small_ones_pass_by(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "ROOM_SECONDS", 0.05)
    monkeypatch.setattr(app, "PIECE_SECONDS", 60)
    monkeypatch.setattr(app, "ROOM", 2 << 20)
    services, clock = garden.mirror.services, garden.mirror.clock
    assert services.keyring
    receiver = app.application(services.db, garden.jobs, services.keyring, lambda: clock.now)
    async with served(receiver) as base:
        forge = replace(garden.forge, base=base)
        large = b" " * (1 << 20)
        async with strangers(receiver, forge, 4, app.SMALL + (128 << 10) + 1):  # 512 KiB for each
            refused = await forge.send(large)
            assert refused.status == 503
            assert refused.why == "too much arrives at once; deliver it again"
            assert (await forge.push(MAIN, garden.work.tip(), None)).status == 202
        while (again := await forge.send(large)).status == 503:
            pass
        assert again.status == 400


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_bodies_to_addresses_where_no_hook_is_are_in_no_deliverys_way(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "ROOM_SECONDS", 0)  # who has to wait at all is refused
    monkeypatch.setattr(app, "PIECE_SECONDS", 60)
    monkeypatch.setattr(app, "ROOM", 2 << 20)
    monkeypatch.setattr(app, "STRANGERS_ROOM", 2 << 20)
    services, clock = garden.mirror.services, garden.mirror.clock
    assert services.keyring
    receiver = app.application(services.db, garden.jobs, services.keyring, lambda: clock.now)
    async with served(receiver) as base:
        forge = replace(garden.forge, base=base)
        payload = forge.payload(MAIN, None, garden.work.tip(), "alice") | {"much": "x" * (1 << 20)}
        body = json.dumps(payload).encode()
        async with strangers(receiver, forge, 4, app.SMALL + (128 << 10) + 1, guessed=False):  # all of theirs
            unknown = await forge.send(body, url=f"{base}/hooks/github/{'x' * 32}")
            signed = await forge.send(body)
    assert (unknown.status, unknown.why) == (503, "too much arrives at once; deliver it again")
    assert signed.status == 202


async def test_without_redis_it_is_taken_and_the_sweep_finds_it(garden: Garden, tmp_path: Path) -> None:
    services = garden.mirror.services
    assert services.keyring
    nowhere = Queue.at(f"unix://{tmp_path}/nobody")
    receiver = app.application(services.db, nowhere, services.keyring, lambda: garden.mirror.clock.now)
    async with served(receiver) as base:
        answer = await replace(garden.forge, base=base).push(MAIN, garden.work.tip(), None)
    await nowhere.aclose(close_connection_pool=True)
    assert answer.status == 202
    assert await garden.state() == "behind"
    assert await repos.unheard(services.db, garden.mirror.clock()) == [garden.repo.id]


async def test_without_the_database_it_is_503_and_to_be_delivered_again(garden: Garden) -> None:
    await garden.mirror.services.db.execute("alter table hook rename to away")
    assert (await garden.push(delivery="again")).status == 503
    await garden.mirror.services.db.execute("alter table away rename to hook")
    assert (await garden.push(delivery="again")).status == 202


async def _raw(forge: Forge, rest: bytes) -> int:
    """Send the beginning of a request as it is; the status of the answer."""
    host, port = forge.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
    writer.write(f"POST {forge.url.removeprefix(forge.base)} HTTP/1.1\r\nhost: x\r\n".encode() + rest)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])
