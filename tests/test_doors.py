"""Attacks on the doors that git uses: clones, pushes, bundles and archives. All go on, and nothing stays."""

import asyncio
import gzip
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from mirror.core import refs
from mirror.core.errors import UsageError
from mirror.core.formats import bundle, gzipped, manifest, receive_pack
from mirror.core.formats.gzipped import Unpacking
from mirror.core.formats.pktline import Mark, encode
from mirror.core.model import Repo, Target
from mirror.core.rules import receiving
from mirror.core.rules.history import pushes
from mirror.discovery import create
from mirror.discovery.choose import EVERREF
from mirror.services.server import door
from mirror.store.backup import snapshots
from mirror.web.remote import receive
from tests.parts.gitclient import World, world
from tests.parts.packs import pack_of
from tests.parts.repos import Work
from tests.parts.sockets import Client, said
from tests.parts.traces import Traces
from tests.parts.whole import until

__all__ = ["world"]

ZERO = b"0" * 40
UPLOAD, RECEIVE = "git-upload-pack", "git-receive-pack"


@dataclass
class Doors:
    """A repo to clone, one to push to, and who may do both."""

    world: World
    work: Work
    read: str  # tokens
    push: str
    laptop: Repo
    client: httpx.AsyncClient
    traces: Traces

    @property
    def tip(self) -> Target:
        return self.work.tip()

    def path(self, what: str) -> str:
        return f"http://127.0.0.1:{self.world.served.port}/git/{self.world.team.name}/{what}"

    async def post(
        self, what: str, service: str, body: bytes | AsyncIterator[bytes], version: int = 2, **headers: str
    ) -> httpx.Response:
        """What a raw request is answered."""
        given = {"content-type": f"application/x-{service}-request", "git-protocol": f"version={version}"}
        token = self.push if service == RECEIVE else self.read
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(
            f"{self.path(what)}/{service}", content=body, headers=given | more, auth=("x", token)
        )

    async def answers(self) -> bool:
        """Whether others are answered."""
        return b"200" in await self.world.served.ask()

    async def open(self, head: str, body: bytes = b"", service: str = UPLOAD) -> Client:
        """A connection with the beginning of a request."""
        client = await self.world.served.open()
        text = f"POST {head} HTTP/1.1\r\nhost: 127.0.0.1:8000\r\ngit-protocol: version=2\r\n"
        text += f"content-type: application/x-{service}-request\r\n"
        token = self.push if service == RECEIVE else self.read
        text += f"authorization: Bearer {token}\r\n"
        client.writer.write(text.encode() + body)
        await client.writer.drain()
        return client


@pytest_asyncio.fixture
async def doors(world: World, work: Work) -> AsyncIterator[Doors]:
    services = world.site.mirror.services
    world.site.mirror.clock.step *= 0
    work.commit("main", {"a": b"one"})
    work.many_commits(20)
    await world.backup(work)
    laptop = await create.create(services, world.team.id, EVERREF, "acme/laptop")
    push = await world.site.token(world.alice, world.team, ("backup",))
    async with httpx.AsyncClient(timeout=60) as client:
        traces = await Traces(world.site).begin()
        yield Doors(world, work, world.token, push, laptop, client, traces)


def fetch(*lines: bytes) -> bytes:
    return encode([b"command=fetch\n", Mark.DELIM, *(line + b"\n" for line in lines), Mark.FLUSH])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def command(new: Target, name: bytes = b"refs/heads/main", old: bytes = ZERO) -> bytes:
    told = b"\0report-status side-band-64k object-format=sha1"
    return encode([old + b" " + new + b" " + name + told, Mark.FLUSH])


# Bodies that are compressed


def blown(size: int) -> bytes:
    """The beginning of a gzip body that goes on for so many bytes and unpacks to none."""
    return gzip.compress(b"")[:10] + b"\x00\x00\x00\xff\xff" * (size // 5)


def test_what_is_unpacked_has_a_bound_and_what_unpacks_to_nothing_too() -> None:
    data = random.Random(1).randbytes(3 << 20)
    whole, parts = gzip.compress(data), Unpacking("push")
    assert (
        b"".join(
            piece
            for at in range(0, len(whole), 70_000)
            for piece in parts.feed(whole[at : at + 70_000], 1 << 16)
        )
        == data
    )
    parts.end()
    named = b"\x1f\x8b\x08\x08" + bytes(6)  # a file name follows, up to a zero: RFC 1952, 2.3
    for start, more, why in (
        (gzip.compress(b"0000"), b"x", "goes on after its end"),
        (gzip.compress(b"0000") + b"x", b"", "goes on after its end"),
        (gzip.compress(b"0000"), gzip.compress(b"0000"), "goes on after its end"),
        (blown(gzipped.OVERHEAD), blown(20)[10:], "is larger than what it holds"),
        (named + b"n" * gzipped.OVERHEAD, b"n", "is larger than what it holds"),
        (b"nonsense", b"", "cannot be unpacked"),
        (gzip.compress(b"0000")[:-1], b"", "ends too early"),
    ):
        parts = Unpacking("push")
        with pytest.raises(UsageError, match=why):
            list(parts.feed(start, 1 << 16))
            list(parts.feed(more, 1 << 16))
            parts.end()


@pytest.mark.parametrize("service", [UPLOAD, RECEIVE])
async def test_a_compressed_body_that_never_ends_is_ended(doors: Doors, service: str) -> None:
    """What follows the end of a compressed body was kept in memory, for as long as somebody sent more."""
    what, good = ("acme/api", fetch(b"want " + doors.tip, b"done"))
    if service == RECEIVE:
        what, good = "acme/laptop", command(doors.tip) + pack_of(doors.work, [doors.tip])
    for start, more in ((gzip.compress(good), b"x" * 65536), (blown(0), b"\x00\x00\x00\xff\xff" * 13107)):
        headers = b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
        client = await doors.open(f"/git/alice/{what}/{service}", headers + chunk(start), service)
        answer, sent = asyncio.create_task(client.reader.readuntil(b"compressed")), 0
        while not answer.done():
            assert sent < 1 << 28
            client.writer.write(chunk(more))
            sent += len(more)
            await client.writer.drain()
        await answer
        await client.close()
    assert await snapshots.latest(doors.world.site.mirror.services.db, doors.laptop.id) is None
    await doors.traces.gone()


# Clients that stop


async def test_who_reads_nothing_of_a_clone_gives_back_all_that_it_held(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 16 << 20  # more than the buffers between two sockets hold
    doors.work.commit("main", {"large": random.Random(1).randbytes(size)})
    await doors.world.backup(doors.work)
    await doors.traces.begin()
    monkeypatch.setattr(door, "UNREAD_SECONDS", 0.5)
    body = fetch(b"want " + doors.tip, b"done")
    head = (
        f"POST /git/alice/acme/api/{UPLOAD} HTTP/1.1\r\nhost: 127.0.0.1:8000\r\ngit-protocol: version=2\r\n"
    )
    head += f"content-type: application/x-{UPLOAD}-request\r\ncontent-length: {len(body)}\r\n"
    head += f"authorization: Bearer {doors.read}\r\n\r\n"
    before = doors.world.served.connections
    client = await doors.world.served.deaf(head.encode() + body)
    assert b" 200 " in await client.reader.readline()
    assert await doors.answers()
    await until(lambda: said(doors.world.served.connections <= before))
    assert len(await client.ended()) < size
    await doors.traces.gone()


async def test_a_push_that_stops_gives_back_all_that_it_held_and_nothing_is_saved(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "BODY_SECONDS", 0.5)
    whole = command(doors.tip) + pack_of(doors.work, [doors.tip])
    start = b"transfer-encoding: chunked\r\n\r\n" + chunk(whole[: len(whole) // 2])
    client = await doors.open(f"/git/alice/acme/laptop/{RECEIVE}", start, RECEIVE)
    assert b" 408 " in await client.reader.readline()
    assert await doors.answers()
    await doors.traces.gone()
    assert await snapshots.latest(doors.world.site.mirror.services.db, doors.laptop.id) is None


# Very many refs


async def test_very_many_refs_are_read_and_judged_beside_the_event_loop(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.5 MB of a push, unpacked, named 500,000 refs, and nobody else was answered for four seconds."""
    inside: dict[str, bool] = {}

    def noted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def called(*args: object, **more: object) -> object:
            inside[name] = threading.current_thread() is threading.main_thread()
            return real(*args, **more)

        monkeypatch.setattr(owner, name, called)

    for owner, name in (
        (receive_pack.Reader, "feed"),
        (receive_pack, "report"),
        (receiving, "received"),
        (refs, "check_names"),
        (pushes, "steps"),
        (refs, "classify"),
        (bundle, "encode"),
    ):
        noted(owner, name)
    noted(manifest, "encode")
    monkeypatch.setattr(receive, "LARGE", 1 << 12)
    first, told = command(doors.tip, b"refs/heads/a")[:-4], b"refs/tags/%d"
    more = encode([b"%b %b %b" % (ZERO, doors.tip, told % number) for number in range(3000)])
    whole = doors.work.git("pack-objects", "--revs", "--stdout", "-q", stdin=b"main\n")
    answer = await doors.post(
        "acme/laptop", RECEIVE, gzip.compress(first + more + b"0000" + whole), content_encoding="gzip"
    )
    assert b"ok refs/tags/2999" in answer.content and b"saved as #1" in answer.content, answer.content[:300]
    assert inside == dict.fromkeys(inside, False) and len(inside) == 7
    await doors.traces.gone(saved=True)


async def test_the_refs_of_all_pushes_have_so_much_memory_together(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = doors.world.site.outside
    monkeypatch.setattr(outside.room, "_size", 1 << 18)
    monkeypatch.setattr(receive, "PATIENCE", 0.05)
    lines = encode([b"%b %b refs/heads/%d" % (ZERO, doors.tip, number) for number in range(3000)])
    held = await doors.open(
        "/git/alice/acme/laptop/git-receive-pack", b"content-length: 9000000\r\n\r\n" + lines, RECEIVE
    )
    await until(lambda: said(outside.room._held > 1 << 17))
    second = await doors.post("acme/laptop", RECEIVE, lines + b"0000")
    assert second.status_code == 503 and second.headers["retry-after"] == "5"
    await held.close()
    monkeypatch.setattr(outside.room, "_size", 1 << 26)
    await until(lambda: said(not outside.room._held))
    assert (await doors.post("acme/laptop", RECEIVE, lines + b"0000")).status_code == 200
    await doors.traces.gone()


# Requests that mean nothing, or too much


PIECES = (b"", b"0", b"\0", b"\n", b"0000", b"0001", b"0002", b"0003", b"fff0", b"ffff", b"\xff", b"-", b" ")


def mutated(chance: random.Random, good: bytes) -> bytes:
    """These bytes with a few of them changed, dropped, repeated or cut off."""
    body = bytearray(good)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(body) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            body[at : at + chance.randrange(4)] = chance.choice(PIECES)
        elif kind == 1:
            body[at:at] = body[at : at + chance.randrange(200)]
        elif kind == 2:
            del body[at:]
        else:
            body[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(body)


async def mangle(doors: Doors, seed: int, rounds: int) -> set[int]:
    """Send that many broken requests to each door; which statuses were answered."""
    chance, tip, seen = random.Random(seed), doors.tip, set[int]()
    whole = pack_of(doors.work, [tip])
    packets: list[tuple[str, str, bytes, int]] = [
        ("acme/api", UPLOAD, fetch(b"want " + tip, b"have " + tip, b"deepen 2", b"done"), 2),
        ("acme/api@1", UPLOAD, fetch(b"want " + tip, b"filter blob:none", b"shallow " + tip, b"done"), 2),
        ("acme/api", UPLOAD, encode([b"command=ls-refs", Mark.DELIM, b"ref-prefix refs/", Mark.FLUSH]), 2),
        ("acme/api", UPLOAD, encode([b"command=bundle-uri", Mark.FLUSH]), 2),
        ("acme/api", UPLOAD, encode([b"want " + tip + b" side-band-64k\n", Mark.FLUSH, b"done\n"]), 0),
        ("acme/laptop", RECEIVE, command(tip) + whole, 0),
        ("acme/laptop", RECEIVE, command(tip, b"refs/heads/x", tip) + whole, 0),
    ]
    for _ in range(rounds):
        for what, service, good, version in packets:
            body = mutated(chance, good)
            headers = {"content_encoding": "gzip"} if chance.random() < 0.3 else {}
            if headers:
                body = gzip.compress(body)
                body = mutated(chance, body) if chance.random() < 0.5 else body
            seen.add((await doors.post(what, service, body, version, **headers)).status_code)
        for path in (
            "acme/api@1/info/refs?service=git-upload-pack",
            "acme/laptop/info/refs?service=git-receive-pack",
            "acme/api@1/bundles",
        ):
            text = quote(mutated(chance, path.encode()), safe="/?=@")
            token = doors.push if "receive" in path else doors.read
            asked_for = chance.choice(["version=2", "version=0", "version=2:version=9", "=" * 4000])
            asked = await doors.client.get(
                doors.path(text), headers={"git-protocol": asked_for}, auth=("x", token)
            )
            seen.add(asked.status_code)
        query = quote(mutated(chance, b"ref=main&path=a&at=#1&format=tar"), safe="=&")
        asked = await doors.client.get(
            f"http://127.0.0.1:{doors.world.served.port}/api/v1/teams/alice/repos/acme/api/archive?{query}",
            headers={"authorization": f"Bearer {doors.read}"},
        )
        seen.add(asked.status_code)
        assert await doors.answers()
    return seen


async def test_no_broken_request_at_any_door_is_an_error_of_ours_or_leaves_anything(
    doors: Doors, caplog: pytest.LogCaptureFixture
) -> None:
    seen = await mangle(doors, 14, 4)
    assert seen <= {200, 303, 400, 401, 403, 404, 405, 409, 413, 415} and 200 in seen, seen
    assert "Traceback" not in caplog.text and " bug " not in caplog.text
    await doors.traces.gone()


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(8))
async def test_thousands_of_broken_requests_are_no_error_of_ours(
    doors: Doors, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    assert await mangle(doors, seed, 100) <= {200, 303, 400, 401, 403, 404, 405, 409, 413, 415}
    assert "Traceback" not in caplog.text and " bug " not in caplog.text
    await doors.traces.gone()
