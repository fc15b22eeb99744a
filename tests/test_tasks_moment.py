"""How many presses it takes from a repository's page to a branch that is gone, and to a bundle."""

import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from mirror.core.model import RefName
from tests.parts.browser import PATIENCE, Visitor, somebody
from tests.parts.demo import Stage
from tests.parts.repos import run_git
from tests.parts.tasks import WAYS, Task, Way, options
from tests.test_tasks_connect import account, shown

MANY = 2000
HERE = "/mona/mona/api"
GONE = "refs/heads/feature/export-v2"


@pytest_asyncio.fixture(scope="session")
async def mona(chromium: Browser, stage: Stage) -> str:
    """Her login; her repository has 2,000 refs, and had one more."""
    account(stage, "mona")
    api = stage.github.add_repository("mona/api", commits=1)
    work = api.work
    tip = work.tip()
    work.update({RefName(b"refs/heads/chore/invoices-%d" % number): tip for number in range(MANY)})
    work.commit("feature/export-v2", {"export.py": b"csv\n"}, message="Export as CSV", parents=[tip])
    api.settle()
    async with AsyncExitStack() as stack:
        someone = await somebody(chromium, stage, stack, "mona")
        await someone.sign_in()
        await someone.connect()
        await someone.keep_everything()
        api.push(GONE, None)
        await someone.go(f"{HERE}/-/refs?state=gone")
        await shown(someone, someone.page.get_by_text("feature/export-v2"))
        assert someone.forgiven() == []
    return "mona"


@pytest.mark.parametrize("way", WAYS)
async def test_a_branch_that_is_gone_is_three_presses_away_and_a_bundle_two(
    visitor: Visitor, mona: str, way: Way, tmp_path: Path
) -> None:
    someone = await visitor(mona, **options(way))
    page = someone.page
    await someone.sign_in()

    await someone.go(HERE)
    task = Task(someone, way)
    await task.link("Refs")
    await task.link("Gone")
    await expect(page.get_by_text("deleted by mona")).to_be_visible()
    await task.link("Bring back feature/export-v2")
    await expect(page).to_have_url(
        re.compile(r"/-/restore\?at=%23\d+&ref=refs%2Fheads%2Ffeature%2Fexport-v2$")
    )
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Bring back feature/export-v2")
    assert task.presses <= 3

    await someone.go(f"{HERE}/-/refs")
    task = Task(someone, way)
    await task.type(page.get_by_role("searchbox", name="Search refs"), "export")
    await task.enter()
    await expect(page.get_by_text("1 is gone: feature/export-v2")).to_be_visible()
    await task.link("feature/export-v2")
    await expect(page.get_by_role("link", name="Bring back feature/export-v2")).to_be_visible()
    assert task.presses <= 3

    await someone.go(HERE)
    task = Task(someone, way)
    async with page.expect_download(timeout=3 * PATIENCE) as download:
        await task.link("Clone")
        await task.button("Make the bundle")
    file = tmp_path / "api.bundle"
    await (await download.value).save_as(file)
    assert task.presses <= 2
    run_git("clone", "--quiet", file, tmp_path / "clone")
    await expect(page.get_by_role("link", name=re.compile("^Download mona-api"))).to_be_visible()


async def test_restore_is_within_five_tabs_of_a_repository(visitor: Visitor, mona: str) -> None:
    someone = await visitor(mona)
    page, keys = someone.page, someone.page.keyboard
    await someone.sign_in()
    await someone.go(HERE)
    await keys.press("Tab")
    await keys.press("Tab")
    await expect(page.get_by_role("link", name="Skip to Restore")).to_be_focused()
    await keys.press("Enter")
    restore = page.get_by_role("link", name="Restore\u2026")
    await expect(restore).to_be_focused()
    await expect(restore).to_be_in_viewport(ratio=1)
    await keys.press("Enter")
    await expect(page).to_have_url(re.compile(r"/-/restore\?at=%23"))
