"""What somebody needs on the worst day, in presses: main back, a branch back, everything elsewhere."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Locator, Route, ViewportSize, expect

from mirror.core.model import RefName, Target
from tests.parts.browser import DESK, PATIENCE, PHONE, Someone, Visitor
from tests.parts.demo import Stage
from tests.parts.forges import Repository
from tests.parts.repos import MAIN, refs_of
from tests.parts.tasks import WAYS, Task, Way, options

DRAFT: Final = RefName(b"refs/heads/draft")
SHORT: Final[ViewportSize] = {"width": 640, "height": 400}  # the desk at 200 % zoom
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


async def printed(task: Task) -> int:
    """How often the browser prints when the receipt's button is pressed; without a script there is none."""
    button = task.page.get_by_role("button", name="Print the receipt")
    await expect(button).to_be_visible(visible=task.way != "plain")
    if task.way == "plain":
        return 1
    await task.page.evaluate("() => { window.printed = 0; window.print = () => { window.printed += 1; }; }")
    await button.click()
    return int(await task.page.evaluate("window.printed"))


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
    assert await printed(task) == 1
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


async def test_the_button_of_a_rescue_is_in_sight_from_the_start_and_is_of_what_is_chosen(
    visitor: Visitor, stage: Stage
) -> None:
    repository = fill(stage, "hurry")
    hurry = await keeper(visitor, "hurry")
    page = hurry.page
    begin_anew(repository)
    await expect(rescue(hurry, "main")).to_be_visible(timeout=PATIENCE)
    await rescue(hurry, "main").click()
    button = page.locator(".dock.go .btn")
    await expect(button).to_have_text(re.compile(r"^Create restored\Wmain-.* in hurry/diary$"))
    for size in (DESK, PHONE, SHORT):
        await page.set_viewport_size(size)
        await page.evaluate("scrollTo(0, 0)")
        await expect(button).to_be_in_viewport(ratio=1)
        await expect(page.get_by_role("heading", level=1)).to_be_in_viewport(ratio=1)
        dock, title = await page.locator(".dock.go").bounding_box(), page.get_by_role("heading", level=1)
        above = await title.bounding_box()
        assert dock and above and above["y"] + above["height"] <= dock["y"], size
        assert dock["height"] <= size["height"] * 0.25, (size, dock)
        tabs = await page.locator(".tabs").bounding_box()
        assert tabs and tabs["height"] < 44, tabs  # in one line
        for field in (page.get_by_label("Name of the branch"), page.get_by_role("radio").last):
            await field.focus()
            await expect(field).to_be_in_viewport()
            seen = await field.bounding_box()
            assert seen and seen["y"] + seen["height"] <= dock["y"], (size, seen)
        await page.evaluate("document.querySelector('#plan h2').scrollIntoView({ block: 'end' })")
        heading = await page.get_by_role("heading", name="What will happen").bounding_box()
        assert heading and heading["y"] + heading["height"] <= dock["y"], (size, heading)
    await page.set_viewport_size(DESK)

    # A name that no branch can have is said, and nothing can be pressed meanwhile.
    name = page.get_by_label("Name of the branch")
    good = await name.input_value()
    await name.fill("a..b")
    await expect(page.locator("[data-planned]")).to_contain_text("a..b")
    await button.click()
    await expect(page.locator("#go")).to_have_attribute("aria-busy", "true")
    await name.fill(good)
    await expect(page.locator("#go")).to_have_attribute("aria-busy", "false")

    # While the plan of another choice is on its way, the button of the one before does nothing.
    held = asyncio.Event()

    async def later(route: Route) -> None:
        await held.wait()
        await route.continue_()

    await page.route("**/-/restore?*", later)
    await page.get_by_role("radio", name="Put main back").check()
    await button.click()
    await expect(page.locator("#go")).to_have_attribute("aria-busy", "true")
    held.set()
    await expect(button).to_have_text("Put main back in hurry/diary")
    await expect(button).to_be_focused()
    await expect(page.get_by_text("The plan has changed. Press the button again.")).to_be_visible()
    assert "/-/restores/" not in page.url
    await page.get_by_label("to go on").fill("hurry/else")
    await button.click()
    await expect(page.get_by_role("alert")).to_have_text(
        "Type hurry/diary to overwrite it. Nothing was done."
    )
    await expect(page.get_by_role("alert")).to_be_in_viewport()
    await expect(page.get_by_label("to go on")).to_be_focused()
    assert all("answered 422" in one or "status of 422" in one for one in hurry.forgiven())
