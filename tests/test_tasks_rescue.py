"""What somebody needs on the worst day, in presses: main back, a branch back, everything elsewhere."""

import re
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Locator, expect

from mirror.core.model import RefName, Target
from tests.parts.browser import PATIENCE, Someone, Visitor
from tests.parts.demo import Stage
from tests.parts.forges import Repository
from tests.parts.repos import MAIN, refs_of
from tests.parts.tasks import WAYS, Task, Way, options

DRAFT: Final = RefName(b"refs/heads/draft")
ZONE: Final = "America/New_York"  # of the browsers, so that a moment read in another zone is another moment
RELOADS: Final = 400  # of a page without a script, till a worker is done


def fill(stage: Stage, login: str) -> Repository:
    """Somebody's repository: main with three commits, and a branch with one of its own."""
    stage.github.add_person(login)
    repository = stage.github.add_repository(f"{login}/diary", commits=0)
    work = repository.work
    for day in ("monday", "tuesday", "wednesday"):
        work.commit("main", {f"{day}.md": f"# {day.title()}\n".encode()}, message=f"Write {day}")
    work.commit("draft", {"idea.md": b"An idea\n"}, message="Have an idea", parents=[first(repository)])
    repository.settle()
    return repository


def first(repository: Repository) -> Target:
    """The first commit of main."""
    return Target(repository.work.git("rev-parse", "main~2").strip())


def begin_anew(repository: Repository) -> None:
    """Force-push main: two of its commits go."""
    parents = [first(repository)]
    repository.commit("main", {"may.md": b"May\n"}, message="Say it otherwise", parents=parents)


async def keeper(visitor: Visitor, login: str) -> Someone:
    """Whoever connected GitHub once; everything is backed up."""
    someone = await visitor(login, timezone_id=ZONE)
    await someone.sign_in()
    await someone.connect()
    await someone.keep_everything()
    return someone


async def at_home(visitor: Visitor, login: str, way: Way) -> Someone:
    """The same person at a browser of this way, signed in, with home before them."""
    someone = await visitor(login, timezone_id=ZONE, **options(way))
    await someone.sign_in()
    await expect(someone.page).to_have_url(f"{someone.url}/{login}")
    return someone


async def next_second(someone: Someone) -> datetime:
    """The second that begins next; the page of home is loaded till then."""
    before = now = datetime.now(UTC).replace(microsecond=0)
    while now == before:
        await someone.go(f"/{someone.login}")
        now = datetime.now(UTC).replace(microsecond=0)
    return now


async def receipt(task: Task) -> None:
    """Wait for the receipt; without a script, by loading the page again."""
    said = task.page.get_by_text(re.compile("read back from"))
    if task.way == "plain":
        for _ in range(RELOADS):
            if await said.count():
                break
            await task.page.reload()
    await expect(said).to_be_visible(timeout=PATIENCE)


def rescue(someone: Someone, lost: str) -> Locator:
    """The link of home to the page that brings a lost ref back."""
    return someone.page.get_by_role("link", name=re.compile(f"^Bring back {lost}: ")).first


@pytest.mark.parametrize("way", WAYS)
async def test_a_forced_main_and_a_deleted_branch_are_back_in_three_presses_from_home(
    visitor: Visitor, stage: Stage, way: Way
) -> None:
    login = f"rescuer-{way}"
    repository = fill(stage, login)
    before = repository.work.refs()
    keeping = await keeper(visitor, login)
    begin_anew(repository)
    await expect(rescue(keeping, "main")).to_be_visible(timeout=PATIENCE)

    someone = await at_home(visitor, login, way)
    task, page = Task(someone, way), someone.page
    await task.press(rescue(someone, "main"))
    button = page.get_by_role("button", name=re.compile(r"^Create restored\Wmain-.* in "))
    await expect(page.get_by_text("Write wednesday").first).to_be_visible(timeout=PATIENCE)
    name = (await button.inner_text()).split()[1]
    await task.press(button)
    assert task.presses <= 3, task.presses
    await receipt(task)
    back = RefName(f"refs/heads/{name}".encode())
    assert repository.work.refs()[back] == before[MAIN]
    assert repository.work.refs()[DRAFT] == before[DRAFT]
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Created {name} in {login}/diary")
    await expect(page.get_by_text("2 commits: Write wednesday")).to_be_visible()
    request = await page.get_by_role("link", name="New pull request").get_attribute("href")
    assert request == f"{stage.github.url}/{login}/diary/compare/main...{name}?expand=1"
    assert "Undo this restore" in await page.locator("main").inner_text()

    # A branch that was deleted comes back, too.
    repository.push(DRAFT, None)
    await keeping.go(f"/{login}/{login}/diary/-/refs")
    await expect(keeping.page.get_by_text("draft", exact=True)).to_have_count(0, timeout=PATIENCE)
    await page.goto(f"{keeping.url}/{login}")
    task.presses = 0
    await task.link(f"{login}/diary")
    await task.link("Lost commits")
    await task.link("Bring draft back as a branch")
    button = page.get_by_role("button", name=re.compile(r"^Create restored\Wdraft.* in "))
    await expect(page.get_by_text("Have an idea").first).to_be_visible(timeout=PATIENCE)
    name = (await button.inner_text()).split()[1]
    await task.press(button)
    assert task.presses <= 4, task.presses
    await receipt(task)
    assert repository.work.refs()[RefName(f"refs/heads/{name}".encode())] == before[DRAFT]


@pytest.mark.parametrize("way", WAYS)
async def test_everything_of_a_moment_goes_to_a_host_that_is_not_connected_yet_and_the_moment_stays(
    visitor: Visitor, stage: Stage, way: Way
) -> None:
    login = f"mover-{way}"
    repository = fill(stage, login)
    stage.gitlab.add_person(login)
    before = repository.work.refs()
    keeping = await keeper(visitor, login)
    then = await next_second(keeping)
    await next_second(keeping)  # a host tells of a push by the second
    begin_anew(repository)
    await expect(rescue(keeping, "main")).to_be_visible(timeout=PATIENCE)

    someone = await at_home(visitor, login, way)
    task, page = Task(someone, way), someone.page
    await task.link(f"{login}/diary")
    await task.press(page.locator("#when > summary"))
    await task.type(page.locator("#moment-at"), f"{then.astimezone(ZoneInfo(ZONE)):%Y-%m-%d %H:%M:%S}")
    await task.enter()
    await expect(page.locator("#when > summary")).not_to_contain_text("Now")
    await task.press(page.locator("#restore-it"))
    await task.press(page.get_by_role("button", name=re.compile("^Connect GitLab")))
    # Whoever is at the browser is signed in at the host; the double asks who that is.
    await page.locator(f'input[name="person"][value="{login}"]').check()
    await task.button("Approve")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Restore as of")
    assert "at=%231&" in page.url, "the moment was kept"
    await task.press(page.get_by_role("button", name=f"Restore to {login}/diary-restored"))
    assert task.presses <= 8, task.presses
    await receipt(task)
    made = stage.gitlab.repository(f"{login}/diary-restored")
    assert made is not None and made.private
    assert refs_of(made.path) == before
    made.work.git("fsck", "--strict")
