"""The moment as an instrument, in a real browser: where it is, what it says, and how it goes to another."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.parts.browser import DESK, PHONE, Someone, Visitor, somebody
from tests.parts.demo import Stage
from tests.parts.times import spread
from tests.test_tasks_connect import account, shown

HERE = "/nora/nora/api"
TOP = 150  # pixels above which the picture begins
HEAD = 56
FINGER = 24
LAST = 7  # the latest snapshot


@pytest_asyncio.fixture(scope="session")
async def nora(chromium: Browser, stage: Stage) -> AsyncIterator[Someone]:
    """Her repository was pushed to, force-pushed, and a branch of it was deleted."""
    account(stage, "nora")
    api = stage.github.add_repository("nora/api", commits=0)
    first = api.work.commit("main", {"a": b"1\n"}, message="Begin")
    for number in range(9):
        api.work.set(f"quiet-{number}", first)
    api.settle()

    async def snapshot(number: int) -> None:
        await someone.go(HERE)
        await shown(someone, someone.page.get_by_text(f"\u00b7 {number} snapshots \u00b7"))
        await shown(someone, someone.page.locator(".statusline", has_text="Protected as of"))

    async with AsyncExitStack() as stack:
        someone = await somebody(chromium, stage, stack, "nora")
        await someone.sign_in()
        await someone.connect()
        await someone.keep_everything()
        api.commit("main", {"a": b"2\n"}, message="Go on")
        await snapshot(2)
        api.commit("main", {"a": b"3\n"}, message="And on")
        await snapshot(3)
        api.commit("ledger", {"l": b"1\n"}, message="Ledger", parents=[api.work.tip()])
        await snapshot(4)
        api.commit("main", {"a": b"4\n"}, message="Say it otherwise", parents=[first])
        await snapshot(5)
        api.push("refs/heads/ledger", None)
        await snapshot(6)
        api.commit("main", {"a": b"5\n"}, message="Last words")
        await snapshot(7)
        await spread(stage.data, timedelta(hours=1), "nora/api")  # pushes that are close become one notch
        yield someone
        assert someone.complaints == []


async def box(one: Locator) -> dict[str, float]:
    """Where it is in the window."""
    found = await one.bounding_box()
    assert found is not None, one
    return {"x": found["x"], "y": found["y"], "width": found["width"], "height": found["height"]}


async def arrived(page: Page, url: str) -> None:
    """Wait for a page until its scripts listen to keys, which is after it has its address."""
    await expect(page).to_have_url(url)
    await page.wait_for_load_state("load")


async def test_the_picture_begins_high_and_the_bar_is_docked_in_one_row(nora: Someone) -> None:
    page = nora.page
    await page.set_viewport_size(DESK)
    await nora.go(HERE)
    assert (await box(page.locator(".repohead")))["height"] == HEAD
    assert (await box(page.locator("[data-picture]")))["y"] < TOP
    bar = page.get_by_role("group", name="The moment of this page")
    here = await box(bar)
    assert here["height"] < HEAD
    for name in ("Browse", "Clone", "Restore\u2026"):
        button = await box(bar.get_by_role("link", name=name))
        assert here["y"] <= button["y"] and button["y"] + button["height"] <= here["y"] + here["height"]
    await page.set_viewport_size({"width": 1280, "height": 500})
    here = await box(bar)
    assert here["y"] + here["height"] == 500  # docked
    await page.evaluate("scrollTo(0, 1e6)")
    assert (await box(bar))["y"] < 444  # at its place
    for path in ("files", "refs", "pushes", "commits", "lost", "difference"):
        await page.set_viewport_size(DESK)
        await nora.go(f"{HERE}/-/{path}")
        assert (await box(bar))["y"] + (await box(bar))["height"] == DESK["height"], path
    for path in ("restores", "restore?at=%233", "settings"):
        await nora.go(f"{HERE}/-/{path}")
        await expect(bar).to_have_count(0)
    await nora.go(HERE)
    await expect(page.get_by_text(re.compile("^Protected as of"))).to_be_visible()


async def test_cuts_are_links_that_say_what_went_and_lead_to_just_before(nora: Someone) -> None:
    page = nora.page
    await page.set_viewport_size(DESK)
    await nora.go(HERE)
    cut = page.get_by_role("link", name=re.compile("^main force-pushed by nora, .*: go to just before$"))
    target = await box(cut)
    assert target["width"] >= FINGER and target["height"] >= FINGER
    tip = page.locator("[data-picture] .tip")
    await expect(tip).to_be_hidden()
    await page.locator("[data-picture]").focus()
    await page.keyboard.press("Tab")
    await expect(cut).to_be_focused()
    await expect(tip).to_contain_text("nora force-pushed main +1 \u22122 commits")
    await expect(tip).to_contain_text("#5")
    await expect(tip).to_contain_text("Say it otherwise")
    await page.keyboard.press("Escape")
    await expect(tip).to_be_hidden()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{nora.url}{HERE}?at=%234")
    await expect(
        page.get_by_text("snapshot #4, just before nora replaced main: 2 commits go")
    ).to_be_visible()

    notch = page.locator(".strata .push").first  # what the pointer is near is meant
    await notch.hover(force=True)
    await expect(tip).to_contain_text("nora pushed main +1 commits")
    await expect(tip).to_contain_text("Go on")
    gone = page.get_by_role("link", name=re.compile("^ledger deleted by nora"))
    await gone.click()
    await expect(page).to_have_url(f"{nora.url}{HERE}?at=%235")
    await expect(
        page.get_by_text("snapshot #5, just before nora deleted ledger: 3 commits go")
    ).to_be_visible()


async def test_clicks_snap_to_pushes_and_keys_step(nora: Someone) -> None:
    page, keys = nora.page, nora.page.keyboard
    await page.set_viewport_size(DESK)
    await nora.go(f"{HERE}?at=%233")
    notch = await box(page.locator(".strata .push").first)
    await page.mouse.click(notch["x"] - 4, notch["y"] + 60)  # below it, on a lane that was quiet then
    await arrived(page, f"{nora.url}{HERE}?at=%232")
    for key, number in (("]", 3), ("]", 4), ("[", 3)):
        await keys.press(key)
        await arrived(page, f"{nora.url}{HERE}?at=%23{number}")
    slider = page.get_by_role("slider", name="Moment")
    await slider.focus()
    for number in (2, 1):
        await keys.press("ArrowLeft")
        await arrived(page, f"{nora.url}{HERE}?at=%23{number}")
        await expect(slider).to_be_focused()
    await keys.press("End")
    await arrived(page, f"{nora.url}{HERE}")
    before = page.locator(".strata a.beside")
    await expect(before).to_have_text(f"\u2039 #{LAST - 1}")
    await before.click()
    await arrived(page, f"{nora.url}{HERE}?at=%23{LAST - 1}")
    await page.locator("[data-picture]").focus()
    await keys.press("ArrowRight")
    await expect(page.locator(".tip")).to_contain_text("Go on")
    await keys.press("Enter")
    await arrived(page, f"{nora.url}{HERE}?at=%232")
    await page.locator("#when summary").click()
    await page.get_by_label("Moment", exact=True).and_(page.get_by_role("textbox")).fill("full moon")
    await keys.press("Enter")
    await expect(page.locator("#at-wrong")).to_be_visible()  # the fold is open
    await expect(page.locator("#at-wrong")).to_contain_text("'full moon' is not a moment")


async def test_a_phone_opens_at_the_handle_or_at_the_latest(nora: Someone, visitor: Visitor) -> None:
    page = nora.page
    await page.set_viewport_size(PHONE)
    for at in ("", "?at=%232"):
        await nora.go(HERE + at)
        await expect(page.locator(".picture.ready")).to_have_count(1)
        picture, handle = await box(page.locator(".picture")), await box(page.locator(".strata .head"))
        assert picture["x"] <= handle["x"] <= picture["x"] + picture["width"], at
        name = await box(page.locator(".strata .names text").first)
        assert picture["x"] <= name["x"] < picture["x"] + picture["width"] / 2
    await page.set_viewport_size(DESK)
    plain = await visitor("nora", java_script_enabled=False, viewport=PHONE)
    await plain.sign_in()
    await plain.go(HERE)
    picture, handle = (
        await box(plain.page.locator(".picture")),
        await box(plain.page.locator(".strata .head")),
    )
    assert picture["x"] <= handle["x"] <= picture["x"] + picture["width"]
