"""A person without a manual, in a real browser: from the first sign-in to what a force-push took away."""

import re

from playwright.async_api import expect

from mirror.model import Target
from tests.parts.browser import PATIENCE, Visitor
from tests.parts.demo import Stage
from tests.parts.forges import Repository


def diary(stage: Stage, login: str) -> Repository:
    """Somebody's repository, with three commits."""
    stage.github.add_person(login)
    repository = stage.github.add_repository(f"{login}/diary", commits=0)
    for day in ("monday", "tuesday", "wednesday"):
        repository.work.commit("main", {f"{day}.md": f"# {day.title()}\n".encode()}, message=f"Write {day}")
    repository.settle()
    return repository


def commit_of(repository: Repository, revision: str) -> Target:
    return Target(repository.work.git("rev-parse", revision).strip())


async def test_the_link_of_the_terminal_signs_in_once(visitor: Visitor, stage: Stage) -> None:
    owner = await visitor()
    await owner.page.goto(stage.here.sign_in)
    await owner.press("Sign in")
    await expect(owner.page).to_have_url(f"{owner.url}/everref")
    await expect(owner.page.get_by_role("heading", level=1)).to_have_text(
        "Keep every ref of your repositories"
    )
    other = await visitor()
    await other.page.goto(stage.here.sign_in)
    await other.page.get_by_role("main").get_by_role("button", name="Sign in").click()
    await expect(other.page).to_have_url(f"{owner.url}/sign-in")
    await expect(other.page.get_by_role("status")).to_be_visible()


async def test_from_connecting_to_what_a_force_push_took_away(visitor: Visitor, stage: Stage) -> None:
    repository = diary(stage, "carol")
    carol = await visitor("carol")
    page = carol.page

    # An empty account is led through connect, and watches its first backup.
    await carol.sign_in()
    await carol.press("Connect")
    await page.get_by_role("button", name="Connect GitHub").click()
    await carol.consent()
    await expect(page.get_by_label("carol/diary")).to_be_visible(timeout=PATIENCE)
    await carol.keep_everything()

    # A push is seen without reloading.
    await carol.press("carol/diary")
    pushes = page.get_by_role("region", name=re.compile("What happened"))
    await expect(pushes.get_by_role("listitem")).to_have_count(1)
    repository.commit("main", {"thursday.md": b"# Thursday\n"}, message="Write thursday")
    await expect(pushes.get_by_text("Write thursday")).to_be_visible(timeout=PATIENCE)

    # So is a force-push, at home as well, which leads to what it took away.
    await page.goto(f"{carol.url}/carol")
    monday = commit_of(repository, "main~3")
    repository.commit("main", {"may.md": b"May\n"}, message="Say it otherwise", parents=[monday])
    needs = page.get_by_role("listitem").filter(has_text="replaced main")
    await expect(needs).to_be_visible(timeout=PATIENCE)
    await needs.get_by_role("link", name="See what was lost").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Lost commits")
    await expect(page.get_by_text("3 commits are on no ref any more")).to_be_visible()
    for message in ("Write tuesday", "Write wednesday", "Write thursday"):
        await expect(page.get_by_role("rowheader").filter(has_text=message)).to_be_visible()

    # The slider goes back by keys to the moment before, with the whole page.
    await page.get_by_role("link", name="Timeline").click()
    slider = page.get_by_role("slider", name="Moment")
    await slider.focus()
    await page.keyboard.press("ArrowLeft")
    await expect(page).to_have_url(re.compile(r"\?at=2"))
    await page.get_by_role("textbox", name="Moment, as a time").fill("#2")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("snapshot #2, just before carol replaced main")).to_be_visible()

    # A file as it was then.
    await page.get_by_role("link", name="Files").click()
    await page.get_by_role("link", name="thursday.md").click()
    await expect(page.get_by_role("article").get_by_role("heading")).to_have_text("Thursday")
    await page.get_by_role("link", name="Raw").click()
    await expect(page.locator("body")).to_have_text("# Thursday\n")
