"""What a client that wastes our time costs: its own connection, and nobody else's. All by real sockets."""

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send

from hooks import app as hooks
from mirror.core import peer
from mirror.services.server import door
from mirror.web import dispatch, live
from mirror.web.dispatch import cookie_name
from tests.parts.repos import Work
from tests.parts.sockets import (
    CALL,
    FORM,
    GET,
    HOST,
    SHORT_FORM,
    STRANGER,
    Client,
    Served,
    hang_up,
    said,
    serving,
)
from tests.parts.web import Site
from tests.parts.whole import until


@pytest_asyncio.fixture
async def served(site: Site) -> AsyncIterator[Served]:
    async with serving(site.app, site) as found:
        yield found


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than is due, so that a test need not wait as long."""
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "UNREAD_SECONDS", "CLOSING_SECONDS"):
        monkeypatch.setattr(door, name, 0.5)


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def drip(client: Client, text: bytes) -> None:
    """Send a byte, and another a little later, until nobody takes them."""
    try:
        for at in range(len(text)):
            client.writer.write(text[at : at + 1])
            await client.writer.drain()
            await asyncio.sleep(0.05)
    except OSError:
        pass


async def test_headers_that_drip_are_ended(served: Served, short: None) -> None:
    client = await served.open()
    dripping = asyncio.create_task(drip(client, b"GET / HTTP/1.1\r\nx: " + b"a" * 10_000))
    said = await client.ended()
    dripping.cancel()
    assert said.startswith(b"HTTP/1.1 408 ") and b"x-frame-options: DENY" in said


async def test_who_says_nothing_at_all_is_ended(served: Served, short: None) -> None:
    assert (await (await served.open()).ended()).startswith(b"HTTP/1.1 408 ")


async def test_headers_that_drip_after_a_good_request_are_ended(served: Served, short: None) -> None:
    client = await served.open()
    client.writer.write(GET)
    assert b"200" in await client.reader.readline()
    dripping = asyncio.create_task(drip(client, b"GET / HTTP/1.1\r\nx: " + b"a" * 10_000))
    assert b"HTTP/1.1 408 " in await client.ended()
    dripping.cancel()


async def test_headers_without_end_are_refused_by_their_size(served: Served) -> None:
    client = await served.open()
    client.writer.write(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200_000)
    said = await client.ended()
    assert said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")) or said == b""  # h11 says 400
    assert await served.ask() == b"HTTP/1.1 200 OK"


async def test_a_flood_of_requests_in_one_breath_is_ended(served: Served) -> None:
    pytest.importorskip("httptools", reason="h11 reads one request after the other")
    client = await served.open()
    client.writer.write(GET * 3000)
    assert (await client.ended()).count(b"HTTP/1.1 200 OK") <= door.WAITING + 1
    assert await served.ask() == b"HTTP/1.1 200 OK"


async def test_more_headers_than_any_request_has_are_refused(served: Served) -> None:
    pytest.importorskip("httptools", reason="h11 takes no more than 16 KiB of them")
    assert await served.ask(GET[:-2] + b"a: b\r\n" * 90 + b"\r\n") == b"HTTP/1.1 200 OK"
    assert b" 400 " in await served.ask(GET[:-2] + b"a: b\r\n" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    "head",
    [SHORT_FORM, FORM + b"transfer-encoding: chunked\r\n\r\n5\r\nem", CALL],
    ids=["a form", "in chunks", "a call"],
)
async def test_a_body_that_does_not_come_is_408(served: Served, short: None, head: bytes) -> None:
    client = await served.open()
    client.writer.write(head)
    said = await client.ended()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive" in said.lower()


async def test_a_delivery_that_drips_is_408(site: Site, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "READ_SECONDS", 60)
    receiver = hooks.application(site.mirror.services.db, site.outside.queue, site.outside.keyring)
    async with serving(receiver, site) as served:
        client = await served.open()
        client.writer.write(b"POST /hooks/github/abc HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        dripping = asyncio.create_task(drip(client, b"a" * 10_000))
        assert (await client.ended()).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()


async def test_an_answer_that_waited_for_no_body_arrives_whole(served: Served) -> None:
    client = await served.open()
    client.writer.write(b"POST /nowhere/at/all" + HOST + b"content-length: 3000000\r\n\r\n")
    sending = asyncio.create_task(drip(client, b"a" * 10_000))
    said = await client.ended()
    sending.cancel()
    assert b" 404 " in said.partition(b"\r\n")[0] or b" 405 " in said.partition(b"\r\n")[0]
    assert said.rstrip().endswith(b"</html>")


async def test_two_thousand_connections_of_one_stranger_leave_others_served(
    served: Served, many_files: None
) -> None:
    for _ in range(20):
        await asyncio.gather(*(served.open() for _ in range(100)))
        assert await served.ask() == b"HTTP/1.1 200 OK"
    await until(lambda: said(served.connections <= door.FROM_ONE + 1))


async def test_when_all_connections_are_taken_who_is_silent_makes_room(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "CONNECTIONS", 30)
    async with serving(site.app, site) as served:
        silent = [await served.open(f"127.0.1.{number}") for number in range(1, 40)]
        assert await served.ask() == b"HTTP/1.1 200 OK"
        assert await silent[0].ended() == b""
        assert served.connections <= 30
    assert "all 30 connections are in use" in caplog.text


async def test_who_is_being_answered_makes_no_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(door, "FROM_ONE", 3)
    async with serving(app, site) as served:
        busy = [await served.open() for _ in range(3)]
        for client in busy:
            client.writer.write(GET)
        await until(lambda: said(len(served.server.server_state.tasks) == 3))
        refused = await (await served.open()).ended()
        assert refused.startswith(b"HTTP/1.1 503 ") and b"too many connections" in refused
        go.set()
        assert [b"200" in await client.reader.readline() for client in busy] == [True] * 3


async def test_a_proxy_that_is_trusted_may_open_more_than_anybody_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FROM_ONE", 3)
    async with serving(site.app, site, peer.networks([STRANGER])) as served:
        clients = [await served.open() for _ in range(10)]
        for client in clients:
            client.writer.write(GET)
        assert [b"200" in await client.reader.readline() for client in clients] == [True] * 10


async def test_who_does_not_read_what_they_asked_for_is_ended(site: Site, short: None) -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await asyncio.wait_for(_either(receive, send), 60)) != "http.disconnect":
            pass
        ended.set()

    async def _either(receive: Receive, send: Send) -> str:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        gone = served.connections == 0
        return "http.disconnect" if gone else "http.request"

    async with serving(app, site) as served:
        client = await served.open()
        client.writer.write(GET)
        await ended.wait()
        assert served.connections == 0


async def test_one_person_has_so_many_bytes_of_bodies_at_work(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BODIES", 100_000)
    raw, _ = await followed(site)
    cookie = f"cookie: {cookie_name(secure=False)}={raw}\r\n".encode()
    head = FORM.replace(b"/sign-in", b"/sign-out") + cookie + b"content-length: 90000\r\n\r\n"
    async with serving(site.app, site) as served:
        first = await served.open()
        first.writer.write(head + b"a" * 60_000)
        await until(lambda: said(sum(site.outside.bodies.values()) >= 60_000))
        assert b" 429 " in await served.ask(head + b"a" * 60_000)
        await first.close()
        await until(lambda: said(not site.outside.bodies))


async def test_large_bodies_of_all_people_together_have_so_much_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many accounts as one likes take no more memory; small forms are taken all the while."""
    monkeypatch.setattr(dispatch, "ROOM_SECONDS", 0.05)
    monkeypatch.setattr(site.outside.room, "_size", 150_000)
    heads = []
    for name in ("ann", "bob"):
        raw, _ = await site.session((await site.person(name)).id)
        cookie = f"cookie: {cookie_name(secure=False)}={raw}\r\n".encode()
        heads.append(FORM.replace(b"/sign-in", b"/sign-out") + cookie)
    large = b"content-length: 900000\r\n\r\n" + b"a" * 140_000
    chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n" % 140_000 + b"a" * 140_000 + b"\r\n"
    async with serving(site.app, site) as served:
        first = await served.open()
        first.writer.write(heads[0] + large)
        await until(lambda: said(site.outside.room._held > 0))
        for more in (large, chunked):
            assert b" 503 " in await served.ask(heads[1] + more)
        assert b" 403 " in await served.ask(heads[1] + b"content-length: 6\r\n\r\ncsrf=x")
        await first.close()
        await until(lambda: said(not site.outside.bodies))
        second = await served.open()
        second.writer.write(heads[1] + large)
        await until(lambda: said(site.outside.room._held > 0))
        await second.close()


async def test_only_a_form_of_choices_may_be_large(site: Site) -> None:
    raw, _ = await followed(site)
    cookie = f"cookie: {cookie_name(secure=False)}={raw}\r\n".encode()
    size = b"content-length: %d\r\n\r\n" % (dispatch.BODY + 1)
    async with serving(site.app, site) as served:
        profile = FORM.replace(b"/sign-in", b"/account/profile") + cookie + size
        assert (await served.ask(profile)).startswith(b"HTTP/1.1 413 ")


async def test_a_stranger_sends_no_more_than_a_form_of_theirs_needs(served: Served) -> None:
    size = dispatch.STRANGERS_BODY + 1
    told = await served.ask(FORM + b"content-length: %d\r\n\r\n" % size + b"a" * size)
    assert told.startswith(b"HTTP/1.1 413 ")


async def test_one_person_follows_so_many_pages_at_once(
    site: Site, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "AT_ONCE", 2)
    raw, get = await followed(site)
    async with serving(site.app, site) as served:
        following = [await served.open() for _ in range(2)]
        for client in following:
            client.writer.write(get)
            assert b"200" in await client.reader.readline()
        third = await served.open()
        third.writer.write(get)
        assert b" 429 " in await third.reader.readline()
        assert b"retry-after: " in (await third.reader.readuntil(b"\r\n\r\n")).lower()
        await following[0].close()
        await until(lambda: said(sum(site.outside.streams.values()) == 1))
        again = await served.open()
        again.writer.write(get)
        assert b"200" in await again.reader.readline()
    assert not site.outside.streams


async def followed(site: Site) -> tuple[str, bytes]:
    """Somebody who is signed in, and their request for the stream of their home page."""
    raw, _ = await site.session((await site.person("ann")).id)
    cookie = f"{cookie_name(secure=False)}={raw}"
    return raw, f"GET /ann/-/live HTTP/1.1\r\nhost: 127.0.0.1:8000\r\ncookie: {cookie}\r\n\r\n".encode()


async def test_who_hangs_up_leaves_no_trace_in_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    _, stream = await followed(site)
    texts = [SHORT_FORM, CALL, b"GET /sign-in" + HOST + b"\r\n", stream]
    async with serving(site.app, site) as served:
        for text in texts:
            await hang_up(served, text)
    receiver = hooks.application(site.mirror.services.db, site.outside.queue, site.outside.keyring)
    async with serving(receiver, site) as served:
        await hang_up(served, b"POST /hooks/github/a HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\na")
    told = [one for one in caplog.records if one.exc_info or one.levelno >= logging.ERROR]
    assert told == []


@pytest.mark.chaos
async def test_as_it_runs_headers_have_ten_seconds_and_bodies_thirty(served: Served) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()

    async def lasts(text: bytes) -> tuple[bytes, float]:
        client = await served.open()
        client.writer.write(text)
        said = await client.ended()
        return said.partition(b"\r\n")[0], clock() - began

    head, body = await asyncio.gather(
        lasts(b"GET / HTTP/1.1\r\n"),
        lasts(SHORT_FORM),
    )
    assert head[0].endswith(b"408 Request Timeout") and body[0].endswith(b"408 Request Timeout")
    assert door.HEAD_SECONDS <= head[1] < door.BODY_SECONDS <= body[1]
