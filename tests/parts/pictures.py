"""The pictures of the documents: `python -m tests.parts.pictures DIRECTORY` takes them again.

A team's month is played at the doubles in half a minute, and its snapshots are then
spread over the month in the database of that Everref, which nobody uses for anything else.
"""

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

from playwright.async_api import Page, async_playwright, expect

from mirror.core.model import Target
from tests.parts.browser import ARGUMENTS, PATIENCE, Someone, chromium_path, somebody
from tests.parts.demo import Stage, running
from tests.parts.forges.github import GitHub
from tests.parts.forges.world import Person
from tests.parts.times import spread

MONTH: Final = timedelta(days=30)
OTHERS: Final = (
    *("auth", "billing", "design-tokens", "docs", "etl", "handbook"),
    *("infra", "mailer", "mobile", "search", "status", "web"),
)
FIRST: Final = ("Start the ledger", "Docs: install", "Make postings idempotent", "Round half to even")
NEXT: Final = ("Docs: changelog", "Fix the deploy script", "Retry on conflict", "Cache balances")


class Story:
    """northwind/api, and who pushes to it."""

    def __init__(self, github: GitHub) -> None:
        people = [github.add_person("kim", "Kim Larsson"), github.add_person("lena", "Lena Ortiz")]
        self.kim, self.lena = people
        self.sam = github.add_person("sam", "Sam Okafor")
        github.add_org("northwind", owners=[*people, self.sam])
        self.api = github.add_repository("northwind/api", commits=0)
        self.pushes = 1  # the first backup
        for number, message in enumerate(FIRST):
            self._date(self.lena, 40 - number)
            self.api.work.commit("main", _file(message), message=message)
        self.api.work.commit("release/2.4", _file("VERSION"), parents=[self.tip])
        self.api.work.tag("v2.4.0", message="Version 2.4")
        self.api.settle()
        for name in OTHERS:
            github.add_repository(f"northwind/{name}", commits=3).settle()

    @property
    def tip(self) -> Target:
        return self.api.work.tip()

    def commit(self, branch: str, message: str, by: Person, parents: Sequence[Target] = ()) -> None:
        """Push one commit, on top of the branch unless `parents` are given."""
        self._date(by, 28 - 2 * self.pushes)
        self.api.commit(branch, _file(message), message=message, by=by, parents=list(parents) or None)
        self.pushes += 1

    def delete(self, branch: str, by: Person) -> None:
        self.api.push(f"refs/heads/{branch}", None, by)
        self.pushes += 1

    def _date(self, by: Person, days: int) -> None:
        self.api.work.author = f"{by.name} <{by.login}@example.org>".encode()
        self.api.work.epoch = int(time.time() - 86_400 * days)


def _file(message: str) -> dict[str, bytes | None]:
    return {f"ledger/{re.sub('[^a-z]+', '_', message.lower())}.py": f"# {message}\n".encode()}


async def play(kim: Someone, story: Story) -> None:
    """What happened: a release, two features, one of them deleted, and a force-push of main."""
    fork = story.tip
    for number, message in enumerate(NEXT):
        story.commit("main", message, (story.lena, story.sam)[number % 2])
        await _saved(kim, story)
    for branch in ("feature/export-v2", "feature/ledger"):
        story.commit(branch, f"Begin {branch.partition('/')[2]}", story.lena, parents=[fork])
        await _saved(kim, story)
        story.commit(branch, f"Test {branch.partition('/')[2]}", story.lena)
        await _saved(kim, story)
    story.delete("feature/export-v2", story.lena)
    await _saved(kim, story)
    story.commit("release/2.4", "Release 2.4.1", story.sam)
    await _saved(kim, story)
    story.commit("main", "Squash the ledger", story.kim, parents=[fork])
    await _saved(kim, story)


async def _saved(kim: Someone, story: Story) -> None:
    """Wait for the latest push, by loading the page again as often as it takes."""
    for _ in range(PATIENCE // 100):
        await kim.go("/kim/northwind/api/-/pushes")
        if await kim.page.get_by_role("link", name=f"The moment of push #{story.pushes}").count():
            return
    raise AssertionError(f"push #{story.pushes} was not saved")


async def take(page: Page, directory: Path, name: str) -> None:
    """A picture of what the window shows, once everything on it has come."""
    await page.wait_for_load_state("load")
    await expect(page.locator("[data-load] .btn", has_text="See what was lost")).to_have_count(0)
    await page.screenshot(path=directory / f"{name}.png", animations="disabled")


async def pictures(directory: Path) -> None:
    """Home, a moment, a rescue and its receipt, as home.png, repo.png, rescue.png and receipt.png."""
    async with AsyncExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="everref-pictures-")))
        playwright = await stack.enter_async_context(async_playwright())
        chromium = await playwright.chromium.launch(executable_path=chromium_path(), args=list(ARGUMENTS))
        stack.push_async_callback(chromium.close)
        stage: Stage = await stack.enter_async_context(running(0, room))
        story = Story(stage.github)
        kim = await somebody(chromium, stage, stack, "kim", timezone_id="Europe/Berlin")
        await kim.sign_in()
        await kim.connect()
        await kim.keep_everything()
        await play(kim, story)
        await spread(stage.data, MONTH)
        page = kim.page
        await kim.go("/kim")
        await take(page, directory, "home")
        await kim.go(f"/kim/northwind/api?at=%23{story.pushes - 1}")
        await take(page, directory, "repo")
        await kim.go("/kim")
        await page.get_by_role("link", name="Bring back main").click()
        await expect(page.get_by_role("button", name="Create restored/main")).to_be_visible(timeout=PATIENCE)
        await take(page, directory, "rescue")
        await page.get_by_role("button", name="Create restored/main").click()
        await expect(page.get_by_text("Undo")).to_be_visible(timeout=PATIENCE)
        await take(page, directory, "receipt")


if __name__ == "__main__":
    asyncio.run(pictures(Path(sys.argv[1])))
