"""A real Chromium for tests, and the demo whose pages it opens: both are begun once and shared by all tests.

Everybody at a browser is watched: a request to another host, an error in the
console, a script that fails, a dialog, or anything that the pages' own policy
had to stop, fails the test.
"""

import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    Response,
    ViewportSize,
    WebError,
    async_playwright,
    expect,
)

from tests.parts.demo import Stage, running
from tests.parts.s3 import free_ports

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WANTED: Final = "these tests want Chromium; on Debian: apt-get install chromium"
PATIENCE: Final = 60_000  # milliseconds for what is expected to be seen
DESK: Final = ViewportSize(width=1280, height=800)
PHONE: Final = ViewportSize(width=390, height=844)
TOLD_OF: Final = "Failed to load resource"  # what the console says of an answer that is looked at by itself
ALL_PROTECTED: Final = re.compile(r"\b(all )?protected$")
POLICY: Final = """addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} stopped ${event.blockedURI} ${event.sample}`);
});"""

expect.set_options(timeout=PATIENCE)  # where none is given; playwright's own is five seconds


def chromium_path() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Someone:
    """A person at a browser of their own."""

    stage: Stage
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    login: str = ""  # also the name of the team of their own

    @property
    def url(self) -> str:
        return self.stage.here.url

    async def go(self, path: str) -> Response:
        """Open a page of Everref."""
        answer = await self.page.goto(self.url + path)
        assert answer is not None
        return answer

    async def press(self, name: str) -> None:
        """Press the button, or follow the link, that is called exactly this."""
        button = self.page.get_by_role("button", name=name, exact=True)
        link = self.page.get_by_role("link", name=name, exact=True)
        await button.or_(link).first.click()

    async def consent(self) -> None:
        """Say at the forge who it is, and press Approve."""
        await self.page.locator(f'input[name="person"][value="{self.login}"]').check()
        await self.press("Approve")

    async def sign_in(self, forge: str = "GitHub", to: str = "") -> None:
        """By the forge, from the sign-in page to the team's home, or to this page."""
        await self.go("/sign-in")
        await self.page.get_by_role("button", name=f"Sign in with {forge}").click()
        await self.consent()
        await expect(self.page).to_have_url(self.url + (to or f"/{self.login}"))

    async def connect(self, forge: str = "GitHub") -> None:
        """Connect the team; the list of repositories is open then."""
        await self.go(f"/{self.login}/-/connect")
        await self.page.get_by_role("button", name=f"Connect {forge}").click()
        await self.consent()
        await expect(self.page.get_by_role("button", name="Refresh the list")).to_be_enabled(timeout=PATIENCE)

    async def keep_everything(self) -> None:
        """Everything, including later repositories; and wait for the first backups, without reloading."""
        await self.page.get_by_label("Everything, including repositories added later").check()
        await self.press("Back up everything")
        await self.all_protected()

    async def all_protected(self) -> None:
        """The home says that every repository is protected."""
        home = f"{self.url}/{self.login}"
        if self.page.url.partition("?")[0] != home:
            await self.page.goto(home)
        heading = self.page.get_by_role("heading", level=1)
        await expect(heading).to_have_text(ALL_PROTECTED, timeout=2 * PATIENCE)

    def forgiven(self) -> list[str]:
        """What there was to complain of; it is told once."""
        told, self.complaints = self.complaints, []
        return told

    def watch(self) -> None:
        """Write down whatever no page of ours should do."""
        self.context.on("request", self._asked)
        self.context.on("response", self._answered)
        self.context.on("console", self._said)
        self.context.on("weberror", self._failed)
        self.context.on("dialog", self._dialog)

    def _asked(self, request: Request) -> None:
        host = urlsplit(request.url).netloc
        forges = {urlsplit(one.url).netloc for one in (self.stage.github, self.stage.gitlab)}
        ours = host == urlsplit(self.url).netloc or request.url.startswith("data:")
        if not ours and not (request.is_navigation_request() and host in forges):
            self.complaints.append(f"asked another host: {request.method} {request.url}")

    def _answered(self, answer: Response) -> None:
        whole_page = answer.request.is_navigation_request()
        if answer.status >= 500 or (answer.status >= 400 and not whole_page):
            self.complaints.append(f"answered {answer.status}: {answer.url}")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(TOLD_OF):
            self.complaints.append(f"console: {message.text}")

    def _failed(self, error: WebError) -> None:
        self.complaints.append(f"script: {error.error}")

    async def _dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        await dialog.dismiss()


Visitor = Callable[..., Awaitable[Someone]]


@pytest_asyncio.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The browser. On a machine without one the tests that want it say so; in CI that is a failure."""
    path = chromium_path()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(WANTED)
        pytest.skip(WANTED)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS], timeout=PATIENCE)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session")
async def stage(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Everref beside a GitHub and a GitLab of its own, at a port of its own."""
    (port,) = free_ports(1)
    async with running(port, Path(tmp_path_factory.mktemp("stage"))) as stage:
        yield stage


@pytest_asyncio.fixture
async def visitor(chromium: Browser, stage: Stage) -> AsyncIterator[Visitor]:
    """Makes somebody at a browser of their own, with an account at GitHub if they have a login."""
    async with AsyncExitStack() as stack:
        met: list[Someone] = []

        async def make(login: str = "", **options: Any) -> Someone:
            someone = await somebody(chromium, stage, stack, login, **options)
            met.append(someone)
            return someone

        yield make
        for someone in met:
            assert someone.complaints == []


async def somebody(
    chromium: Browser, stage: Stage, stack: AsyncExitStack, login: str = "", **options: Any
) -> Someone:
    """A browser that is watched, with one window."""
    context = await chromium.new_context(
        **{"viewport": DESK, "color_scheme": "light", "locale": "en-GB", "service_workers": "block"} | options
    )
    stack.push_async_callback(context.close)
    context.set_default_timeout(PATIENCE)
    if options.get("java_script_enabled", True):
        await context.add_init_script(POLICY)
    someone = Someone(stage, context, await context.new_page(), login=login)
    someone.watch()
    return someone
