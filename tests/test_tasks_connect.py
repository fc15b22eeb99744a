"""How many presses it takes to begin, to choose, to heal a token, to invite a colleague, to let a repo go."""

import re
import time

import pytest
from playwright.async_api import Locator, expect

from tests.parts.browser import ALL_PROTECTED, PATIENCE, Someone, Visitor
from tests.parts.demo import Stage
from tests.parts.forges import Person
from tests.parts.tasks import WAYS, Task, Way, options


def account(stage: Stage, login: str, *repositories: str) -> Person:
    """Somebody at GitHub, the first whom its consent offers, with repositories of one commit."""
    person = stage.github.add_person(login)
    stage.github.people.remove(person)
    stage.github.people.insert(0, person)
    for name in repositories:
        stage.github.add_repository(f"{login}/{name}", commits=1)
    return person


async def shown(someone: Someone, wanted: Locator) -> None:
    """Wait for what a page shows in time, loading it again as somebody without scripts does."""
    end = time.monotonic() + 3 * PATIENCE / 1000
    while not await wanted.count():
        assert time.monotonic() < end, await someone.page.locator("main").inner_text()
        await someone.page.reload()


async def protected(someone: Someone) -> None:
    """Wait until home says that everything is protected."""
    await someone.go(f"/{someone.login}")
    await shown(someone, someone.page.get_by_role("heading", level=1).filter(has_text=ALL_PROTECTED))


@pytest.mark.parametrize("way", WAYS)
async def test_a_first_backup_takes_six_presses_an_invitation_four_and_letting_go_two(
    visitor: Visitor, stage: Stage, way: Way
) -> None:
    login = f"first-{way}"
    account(stage, login, "diary", "letters")
    someone = await visitor(login, **options(way))
    page, task = someone.page, Task(someone, way)
    await someone.go("/sign-in")
    await task.press(page.get_by_role("button", name=re.compile("^Sign in with GitHub")))
    await task.button("Approve")
    await task.press(page.get_by_role("button", name=re.compile("^Connect GitHub")))
    await task.button("Approve")
    await task.press(page.get_by_label(f"{login}/diary"))
    await task.press(page.get_by_role("button", name=re.compile("^Back up")))
    await expect(page).to_have_url(f"{someone.url}/{login}")
    await expect(page.get_by_text("1 repository is backed up from now on")).to_be_visible()
    assert task.presses <= 6

    task = Task(someone, way)
    await task.link("Settings")
    await task.type(page.get_by_label(re.compile("^E-mail")), "lena@example.org")
    await task.button("Create an invitation")
    await expect(page.get_by_text("/invitations/")).to_be_visible()
    assert task.presses <= 4

    await protected(someone)
    await someone.go(f"/{login}/{login}/diary")
    task = Task(someone, way)
    await task.press(page.get_by_role("link", name="Settings", exact=True).last)
    await expect(page.get_by_text("every snapshot stays and can be restored")).to_be_visible()
    await task.button("Stop backing up")
    await expect(page.get_by_role("status")).to_contain_text("no longer backed up")
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert task.presses <= 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_pasted_address_takes_six_presses_from_the_sign_in_page(
    visitor: Visitor, stage: Stage, way: Way
) -> None:
    login = f"paste-{way}"
    account(stage, login, "public")
    someone = await visitor(login, **options(way))
    page, task = someone.page, Task(someone, way)
    await someone.go("/sign-in")
    await task.press(page.get_by_role("button", name=re.compile("^Sign in with GitHub")))
    await task.button("Approve")
    await task.link("Paste a URL")
    await task.type(page.get_by_label("Address", exact=True), "https://git.example.org/you/project.git")
    await task.button("Back it up")
    await expect(page.get_by_role("heading", level=1)).to_have_text("you/project")
    assert task.presses <= 6


@pytest.mark.parametrize("way", WAYS)
async def test_three_of_338_are_chosen_by_search(visitor: Visitor, stage: Stage, way: Way) -> None:
    login = "crowded"
    person = next((one for one in stage.github.people if one.login == login), None)
    if person is None:
        person = account(stage, login)
        for number in range(338):
            stage.github.add_repository(f"{login}/part-{number:03}", commits=0)
    someone = await visitor(login, **options(way))
    page = someone.page
    await someone.sign_in()
    await someone.connect()
    task, search = Task(someone, way), page.get_by_label("Search repositories")
    begin = WAYS.index(way)  # what another way has chosen cannot be chosen again
    for number in (100 + begin, 200 + begin, 300 + begin):
        await task.type(search, f"part-{number}")
        if way == "plain":
            await task.enter()
        await expect(page.locator("#list tbody tr")).to_have_count(1, timeout=PATIENCE)
        await task.press(page.locator("#list").get_by_label(f"{login}/part-{number}"))
    if way == "plain":  # who runs no script sees the count after the next search
        await task.press(page.get_by_role("button", name="Search"))
    await expect(page.get_by_role("status")).to_have_text(re.compile(r"^3 chosen, 3\d\d not$"))
    name = "Back up the chosen repositories" if way == "plain" else "Back up 3 repositories"
    await task.button(name)
    await expect(page.get_by_text("3 repositories are backed up from now on")).to_be_visible(timeout=PATIENCE)
    assert task.presses <= {"pointer": 7, "keyboard": 5, "plain": 11}[way]


@pytest.mark.parametrize("way", WAYS)
async def test_a_dead_token_is_healed_by_two_presses_from_home(
    visitor: Visitor, stage: Stage, way: Way
) -> None:
    login = f"dead-{way}"
    person = account(stage, login, "one", "two")
    someone = await visitor(login, **options(way))
    page = someone.page
    await someone.sign_in()
    await someone.connect()
    await page.get_by_label("Everything, including repositories added later").check()
    await someone.press("Back up everything")
    await protected(someone)
    for token in [one for one in stage.github.tokens if one.person is person]:
        token.revoked = True
    for repository in stage.github.repositories:
        if repository.owner.person is person:
            repository.private = True
            repository.commit(message="One more")
    again = page.get_by_role("button", name=re.compile("^Sign in again"))
    await shown(someone, again)
    task = Task(someone, way)
    await task.press(again.first)
    await task.button("Approve")
    await expect(page).to_have_url(re.compile(rf"{someone.url}/{login}"))
    await expect(page.get_by_text(re.compile(rf"accepts {login}.s token again"))).to_be_visible()
    assert task.presses <= 2
    await protected(someone)
