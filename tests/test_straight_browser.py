"""A real Chromium uploads straight to a real S3 server: broken off, gone on with, refused, past the pages."""

import asyncio
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest_asyncio
import uvicorn
from aiohttp import web
from playwright.async_api import Browser, ConsoleMessage, Page, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirror.jobs.runner import Runner
from mirror.vault import open_vault
from mirror.web.app import application
from mirror.web.dispatch import cookie_name
from tests.parts.browser import DESK, PATIENCE, PHONE, POLICY
from tests.parts.everref import Mirror
from tests.parts.faultproxy import FaultProxy, Forward, deaf, fault_proxy, says
from tests.parts.repos import Work
from tests.parts.s3 import S3Server, let_in
from tests.parts.web import Site
from tests.parts.whole import until
from tests.test_bring_in import bundled

BUCKET = "everref-cors"


@dataclass
class Counting:
    """An application, and how many bytes were sent to it, by method and what the path ends with."""

    app: ASGIApp
    came: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            message = await receive()
            self.came[f"{scope['method']} {scope['path'].rpartition('/')[2]}"] += len(
                message.get("body", b"")
            )
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)


@dataclass
class Served:
    """Everref on a port, its vault in S3 behind a proxy, and a page of Alice's."""

    site: Site
    web: Counting
    store: FaultProxy
    url: str
    page: Page
    said: list[str]  # errors in the console

    async def choose(self, file: Path) -> None:
        """Open the form, choose the file and send it."""
        await self.page.goto(f"{self.url}/alice/-/bring")
        await self.page.get_by_label("File", exact=True).set_input_files(file)
        await self.page.get_by_role("button", name="Upload", exact=True).click()

    async def saved(self) -> None:
        """All of it came; let a worker prove it, and wait for what the page says then."""
        await self.page.wait_for_url(re.compile(r"/-/bring/[0-9a-f-]{36}$"), timeout=3 * PATIENCE)
        await Runner(self.site.mirror.services).work_off()
        await expect(self.page.get_by_text("Saved as")).to_be_visible(timeout=PATIENCE)

    def sent(self, what: str) -> int:
        """Requests of the browser to the store: pieces by PUT, and by OPTIONS whether it may send them."""
        return sum(one.startswith(what) and "X-Amz-Signature" in one for one in self.store.requests)

    @property
    def through(self) -> int:
        """Bytes of the file that came through Everref."""
        return sum(size for name, size in self.web.came.items() if name.startswith("PATCH"))


@pytest_asyncio.fixture
async def served(
    mirror: Mirror,
    make_site: Callable[..., Awaitable[Site]],
    s3_server: S3Server,
    s3_credentials: None,
    chromium: Browser,
) -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """Makes all of that, at a bucket that lets the pages of these origins in; None: those of Everref."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(fault_proxy(s3_server.endpoint))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def make(origin: str | None = None, **options: Any) -> Served:
            server = replace(s3_server, bucket=BUCKET)
            rule = {
                "AllowedOrigins": [origin or url],
                "AllowedMethods": ["PUT"],
                "AllowedHeaders": ["x-amz-checksum-sha256"],
            }
            await asyncio.to_thread(let_in, server, rule)
            where = f"{server.url(endpoint=store.endpoint)}&presign=on"
            vault = await stack.enter_async_context(open_vault(where, "unused"))
            mirror.services = replace(mirror.services, vault=vault)
            site = await make_site()
            counting = Counting(application(replace(site.outside, origin=url)))
            server_of_pages = uvicorn.Server(uvicorn.Config(counting, lifespan="off", log_config=None))
            serving = asyncio.create_task(server_of_pages.serve(sockets=[listener]))

            async def stop() -> None:
                server_of_pages.should_exit = True
                await serving

            stack.push_async_callback(stop)
            cookie, _ = await site.session((await site.person("alice")).id)
            context = await chromium.new_context(**{"viewport": DESK, "locale": "en-GB"} | options)
            stack.push_async_callback(context.close)
            context.set_default_timeout(PATIENCE)
            await context.add_init_script(POLICY)
            await context.add_cookies([{"name": cookie_name(secure=False), "value": cookie, "url": url}])
            said = list[str]()

            def hear(message: ConsoleMessage) -> None:
                if message.type == "error":
                    said.append(message.text)

            context.on("console", hear)
            return Served(site, counting, store, url, await context.new_page(), said)

        yield make


def piece(request: web.Request) -> bool:
    """A piece that a browser sends."""
    return request.method == "PUT" and "X-Amz-Signature" in request.query


async def cut(request: web.Request, forward: Forward) -> web.StreamResponse:
    """The connection breaks when a part of the request has come."""
    await request.content.readexactly(200_000)
    assert request.transport
    request.transport.abort()
    return web.Response()


async def swallow(request: web.Request, forward: Forward) -> web.StreamResponse:
    """A part of the request is taken, and it is never answered."""
    await request.content.readexactly(200_000)
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def large(room: Path) -> Path:
    """A bundle of 30 MB."""
    work = Work(room / "large.git")
    work.commit(files={"noise": random.Random(3).randbytes(30_000_000)})
    return bundled(work, room / "large.bundle")


async def test_a_browser_sends_30_mb_straight_to_the_store_and_goes_on_after_breaks(
    served: Callable[..., Awaitable[Served]], tmp_path: Path
) -> None:
    here, file = await served(), large(tmp_path)
    here.store.fail(lambda request: piece(request) and here.sent("PUT") == 3, cut)
    here.store.fail(lambda request: piece(request) and here.sent("PUT") > 5, deaf)
    await here.choose(file)
    await expect(here.page.locator("[data-told]")).to_have_text("Uploading.", timeout=PATIENCE)

    async def held() -> bool:
        return here.sent("PUT") == 6

    await until(held)
    here.store.heal()
    await here.choose(file)  # a reload
    await here.saved()
    assert here.sent("PUT") >= 8
    through = sum(here.web.came.values())
    assert through < 50_000, here.web.came  # of 30,000,000 bytes
    assert here.through == 0
    assert not [one for one in here.said if "policy" in one]
    row = await here.site.mirror.services.db.fetchrow("select bytes, came, state from upload")
    assert row["came"] == row["bytes"] > 30_000_000 and row["state"] == "done"
    left = [stat.key async for stat in here.site.mirror.services.vault.list("exports/")]
    assert left == []


async def test_how_far_a_piece_is_shows_before_it_counts_and_the_keyboard_pauses_it(
    served: Callable[..., Awaitable[Served]], tmp_path: Path
) -> None:
    """The bar moved with whole pieces only, which take a minute on a slow line."""
    here = await served(viewport=PHONE)
    page = here.page
    work = Work(tmp_path / "source.git")
    work.commit(files={"noise": random.Random(6).randbytes(4_000_000)})
    here.store.fail(piece, swallow)
    await page.goto(f"{here.url}/alice/-/bring")
    await page.get_by_label("File", exact=True).set_input_files(bundled(work, tmp_path / "api.bundle"))
    await page.get_by_role("button", name="Upload", exact=True).focus()
    await page.keyboard.press("Enter")
    far, told = page.locator("[data-far]"), page.locator("[data-told]")
    await expect(far).to_have_text(re.compile("^[1-9].* of 4.0 MB$"), timeout=PATIENCE)
    assert await here.site.mirror.services.db.fetchval("select came from upload") == 0
    bar = page.get_by_role("progressbar", name="Upload")
    assert await bar.evaluate("bar => 0 < bar.value && bar.value < bar.max")
    await expect(told).to_have_text("Uploading.")
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    await expect(page.get_by_role("button", name="Pause")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(told).to_have_text(re.compile("^Paused."), timeout=PATIENCE)
    await expect(far).to_have_text("0 kB of 4.0 MB")
    here.store.heal()
    await expect(page.get_by_role("button", name="Go on")).to_be_focused()
    await page.keyboard.press("Enter")
    await here.saved()


async def test_a_store_that_lets_no_page_in_is_passed_by(
    served: Callable[..., Awaitable[Served]], tmp_path: Path
) -> None:
    here = await served("https://elsewhere.example")
    work = Work(tmp_path / "source.git")
    work.commit(files={"noise": random.Random(4).randbytes(600_000)})
    file = bundled(work, tmp_path / "api.bundle")
    await here.choose(file)
    await here.saved()
    assert (here.sent("PUT"), here.sent("OPTIONS")) == (0, 2)
    assert here.through == file.stat().st_size


async def test_a_store_that_fails_in_the_midst_is_passed_by(
    served: Callable[..., Awaitable[Served]], tmp_path: Path
) -> None:
    """Everref answers and the store refuses what came before: an expired link looks like this, too."""
    here = await served(viewport=PHONE)
    work = Work(tmp_path / "source.git")
    work.commit(files={"noise": random.Random(5).randbytes(4_000_000)})
    file = bundled(work, tmp_path / "api.bundle")
    here.store.fail(lambda request: piece(request) and here.sent("PUT") > 1, says(403, "AccessDenied"))
    await here.choose(file)
    await here.saved()
    assert 0 < here.through < file.stat().st_size
