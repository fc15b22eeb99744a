"""A person without a manual, in a real browser: from the first sign-in to what a force-push took away."""

import re
import time

import httpx
from playwright.async_api import Page, expect

from mirror.core.model import Target
from tests.parts.browser import PATIENCE, Visitor
from tests.parts.demo import Stage
from tests.parts.forges import Repository
from tests.parts.repos import fsck


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
        "Back up every ref of your repositories"
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
    needs = page.get_by_role("listitem").filter(has_text="force-pushed main")
    await expect(needs).to_be_visible(timeout=PATIENCE)
    await needs.get_by_role("link", name="See what was lost").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Lost commits of main")
    await expect(page.get_by_text("3 commits are no longer on any ref")).to_be_visible()
    for message in ("Write tuesday", "Write wednesday", "Write thursday"):
        await expect(page.get_by_role("rowheader").filter(has_text=message)).to_be_visible()

    # The slider goes back by keys to the moment before, with the whole page.
    await page.get_by_role("link", name="Timeline").click()
    slider = page.get_by_role("slider", name="Moment")
    await slider.focus()
    await page.keyboard.press("ArrowLeft")
    await expect(page).to_have_url(re.compile(r"\?at=%232"))
    await page.keyboard.press("ArrowLeft")  # the slider has kept the focus
    await expect(page).to_have_url(re.compile(r"\?at=%231"))
    await page.locator("#when summary").click()
    await page.get_by_role("textbox", name="Moment").fill("#2")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("snapshot #2, just before carol replaced main")).to_be_visible()

    # A file as it was then.
    await page.get_by_role("link", name="Files").click()
    await page.get_by_role("link", name="thursday.md").click()
    await expect(page.get_by_role("article").get_by_role("heading")).to_have_text("Thursday")
    await page.get_by_role("link", name="Raw").click()
    await expect(page.locator("body")).to_have_text("# Thursday\n")


async def test_a_moment_is_restored_to_a_new_remote_and_an_overwriting_undone(
    visitor: Visitor, stage: Stage
) -> None:
    repository = diary(stage, "ida")
    before = repository.work.refs()
    ida = await visitor("ida")
    page = ida.page
    await ida.sign_in()
    await ida.connect()
    await ida.keep_everything()
    await ida.press("ida/diary")
    repository.commit("main", {"may.md": b"May\n"}, message="Say it otherwise", parents=[])
    await page.get_by_role("link", name="Check for lost commits in push #2").wait_for()
    after = repository.work.refs()
    assert before != after

    # To a new repository, which the connection makes.
    await ida.go("/ida/ida/diary?at=%231")
    await ida.press("Restore…")
    await expect(page.get_by_role("rowheader", name="refs/heads/main")).to_be_visible()
    assert stage.github.repository("ida/diary-restored") is None  # so far it is a plan
    await ida.press("Restore to ida/diary-restored")
    await expect(page.get_by_text("read back from ida/diary-restored")).to_be_visible(timeout=PATIENCE)
    made = stage.github.repository("ida/diary-restored")
    assert made is not None and made.private
    assert made.work.refs() == before
    fsck(made.path)

    # Over what is there: its name is typed, and it can be undone.
    await ida.go("/ida/ida/diary/-/restore?at=%231")
    await page.get_by_role("radio", name="Put everything back").check()
    await page.get_by_label("to go on").fill("ida/something")
    await ida.press("Put everything back in ida/diary")
    await expect(page.get_by_role("alert")).to_be_visible()
    await page.get_by_label("to go on").fill("ida/diary")
    await ida.press("Put everything back in ida/diary")
    await expect(page.get_by_text("read back from ida/diary")).to_be_visible(timeout=PATIENCE)
    assert repository.work.refs() == before
    await ida.press("Undo this restore…")
    await ida.press("Undo the restore")
    await expect(page.get_by_text("Every ref that was written was read back")).to_be_visible(timeout=PATIENCE)
    assert repository.work.refs() == after


async def test_somebody_who_was_invited_looks_and_no_more(visitor: Visitor, stage: Stage) -> None:
    stage.github.add_person("dora")
    stage.github.add_person("emil")
    dora, emil = await visitor("dora"), await visitor("emil")
    await dora.sign_in()
    await dora.go("/dora/-/settings")
    await dora.page.get_by_label("Role", exact=True).select_option("viewer")
    await dora.press("Create an invitation")
    link = await dora.page.locator(".copy code").inner_text()
    await emil.page.goto(link)  # signed out: by way of signing in
    await emil.page.get_by_role("button", name="Sign in with GitHub").click()
    await emil.consent()
    await expect(emil.page).to_have_url(link)
    await emil.press("Join dora")
    await expect(emil.page).to_have_url(f"{emil.url}/dora")
    await expect(emil.page.get_by_role("status")).to_have_text("You are now a member of dora.")
    await emil.go("/dora/-/settings")
    await expect(emil.page.get_by_role("heading", name="Invitations")).to_have_count(0)
    answer = await emil.go("/dora/-/settings/audit")
    assert answer.status == 403
    third = await visitor("emil")
    await third.sign_in(to="/")  # where both teams are
    await expect(third.page.get_by_role("link", name="dora", exact=True)).to_be_visible()
    assert (await third.go(link.removeprefix(third.url))).status == 404  # it was for one person


async def test_a_token_of_the_settings_page_opens_the_api(visitor: Visitor, stage: Stage) -> None:
    stage.github.add_person("jo")
    jo = await visitor("jo")
    await jo.sign_in()
    await jo.go("/jo/-/settings")
    await jo.page.get_by_label("Name of the token").fill("for a test")
    await jo.press("Create a token")
    token = await jo.page.locator(".copy code").inner_text()
    async with httpx.AsyncClient(trust_env=False, timeout=60, base_url=jo.url) as program:
        program.headers["authorization"] = f"Bearer {token}"
        answer = await program.get("/api/v1/teams/jo/repos")
        assert (answer.status_code, answer.json()["items"]) == (200, [])
        await jo.go("/jo/-/settings")
        await expect(jo.page.get_by_text(token)).to_have_count(0)  # it was shown once
        await jo.press("Revoke for a test")
        await expect(jo.page.get_by_text("The token is revoked.")).to_be_visible()
        assert (await program.get("/api/v1/teams/jo/repos")).status_code == 401


async def test_signing_out_everywhere_ends_every_window(visitor: Visitor, stage: Stage) -> None:
    stage.github.add_person("fay")
    here, there = await visitor("fay"), await visitor("fay")
    for one in (here, there):
        await one.sign_in()
    await here.go("/account")
    await here.press("Sign out everywhere")
    await expect(here.page).to_have_url(re.compile("/sign-in"))
    for one in (here, there):
        await one.go("/account")
        await expect(one.page).to_have_url(re.compile(r"/sign-in\?next=/account"))


async def test_everything_is_within_reach_of_keys(visitor: Visitor, stage: Stage) -> None:
    diary(stage, "gus")
    gus = await visitor("gus")
    page, keys = gus.page, gus.page.keyboard
    await gus.sign_in()
    await gus.connect()
    await gus.keep_everything()
    await page.goto(f"{gus.url}/gus")

    # The first stop skips to the page, and whatever has the focus shows it.
    await keys.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    await expect(skip).to_be_focused()
    await expect(skip).to_be_in_viewport()
    await keys.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.goto(f"{gus.url}/gus")
    stops = await page.locator("a[href], button, input:not([type=hidden]), select, summary").count()
    for _ in range(stops):
        await keys.press("Tab")
        assert await page.evaluate(FOCUS_SHOWS), await page.evaluate("document.activeElement.outerHTML")

    # Single keys: search, rows, pages, and the list of them all.
    await page.goto(f"{gus.url}/gus")
    await keys.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await keys.press("Escape")
    await keys.press("j")
    await expect(page.get_by_role("link", name="gus/diary")).to_be_focused()
    await keys.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    await keys.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await keys.press("g")
    await keys.press("s")
    await expect(page).to_have_url(f"{gus.url}/gus/-/settings")

    # Whoever speaks to the machine turns them off.
    await keys.press("?")
    await page.get_by_label("Use single-key shortcuts").uncheck()
    await keys.press("Escape")
    await keys.press("?")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_the_main_path_needs_no_script(visitor: Visitor, stage: Stage) -> None:
    repository = diary(stage, "hana")
    hana = await visitor("hana", java_script_enabled=False)
    page = hana.page
    await hana.sign_in()
    await hana.connect()
    await page.get_by_label("Everything, including repositories added later").check()
    await hana.press("Back up everything")
    await shows_after_reloading(page, "1 repository, protected")
    monday = commit_of(repository, "main~2")
    repository.commit("main", {"may.md": b"May\n"}, message="Say it otherwise", parents=[monday])
    await shows_after_reloading(page, "hana force-pushed main")
    await page.get_by_role("link", name=re.compile("^See what was lost: hana")).click()
    await expect(page.get_by_role("rowheader").filter(has_text="Write wednesday")).to_be_visible()
    await page.get_by_role("link", name="Timeline").click()
    await page.locator("#when summary").click()
    await page.get_by_role("textbox", name="Moment").fill("#1")
    await hana.press("Go")
    await page.get_by_role("link", name="Files").click()
    await page.get_by_role("link", name="wednesday.md").click()
    await expect(page.get_by_role("article")).to_have_text("Wednesday")


async def shows_after_reloading(page: Page, words: str) -> None:
    """As somebody does who has no scripts."""
    end = time.monotonic() + 2 * PATIENCE / 1000
    while time.monotonic() < end:
        if await page.get_by_text(words).count():
            return
        await page.reload()
    raise AssertionError(f"{words} is not on {await page.locator('main').inner_text()}")


async def test_the_people_of_the_demo_push_by_its_buttons(visitor: Visitor, stage: Stage) -> None:
    alice = await visitor("alice")
    page = alice.page
    await alice.sign_in()
    await alice.connect()
    await alice.keep_everything()
    await alice.go("/alice")
    garden = stage.github.repository("alice/garden")
    assert garden is not None
    for number, name in enumerate(("Push a commit", "New branch", "New tag", "Force-push", "Push a commit")):
        form = {"forge": "github", "repository": "alice/garden", "do": name}
        async with httpx.AsyncClient(trust_env=False, timeout=60) as somebody:
            assert (await somebody.post(stage.here.pushes, data=form)).status_code == 303
        await alice.go("/alice/alice/garden")
        await page.get_by_role("link", name=f"The moment of push #{number + 2}").wait_for()
    await alice.go("/alice")
    await expect(page.get_by_role("link", name="forced: main", exact=True)).to_be_visible()


FOCUS_SHOWS = """() => {
  const one = document.activeElement, look = getComputedStyle(one), box = one.getBoundingClientRect();
  const lined = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2;
  return one === document.body || (lined && box.height > 0);
}"""
