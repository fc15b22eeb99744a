"""Proof for an auditor, in at most three presses from home: the report of a period, ready to print."""

import os
import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.parts.browser import PATIENCE, Someone, Visitor
from tests.parts.demo import Stage
from tests.parts.tasks import WAYS, Task, Way, options

REPOSITORIES = 12
A4 = {"width": 703, "height": 1000}  # what paper of 210 mm with margins of 12 mm shows, in pixels of CSS
CUT = """() => [...document.querySelectorAll('main *')]
  .filter((part) => part.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    && getComputedStyle(part).position !== 'absolute')
  .map((part) => part.outerHTML.slice(0, 80))"""


async def _protected(visitor: Visitor, stage: Stage) -> Someone:
    """Somebody in New York whose repositories are all protected."""
    if all(one.login != "petra" for one in stage.github.people):
        stage.github.add_person("petra")
        for number in range(REPOSITORIES):
            repository = stage.github.add_repository(
                f"petra/a-service-with-a-long-name-{number:03}", commits=1
            )
            repository.settle()
        petra = await visitor("petra", timezone_id="America/New_York")
        await petra.sign_in()
        await petra.connect()
        await petra.keep_everything()
        return petra
    petra = await visitor("petra", timezone_id="America/New_York")
    await petra.sign_in()
    return petra


@pytest.mark.parametrize("way", WAYS)
async def test_proof_for_an_auditor_is_three_presses_from_home(
    visitor: Visitor, stage: Stage, way: Way, tmp_path: Path
) -> None:
    await _protected(visitor, stage)
    petra = await visitor("petra", timezone_id="America/New_York", **options(way))
    await petra.sign_in()
    page = petra.page
    task = Task(petra, way)
    await task.press(page.get_by_role("navigation", name="Main").get_by_role("link", name="Activity"))
    await task.link("Report for a period")
    assert task.presses <= 3

    said = f"{REPOSITORIES} of {REPOSITORIES} repositories are protected."
    await expect(page.get_by_text(said)).to_be_visible(timeout=PATIENCE)
    await expect(page.locator(".lede time")).to_contain_text(re.compile("E[SD]T"))
    await expect(page.get_by_label("From")).to_have_attribute("type", "date")
    await expect(page.get_by_role("button", name="Print")).to_be_visible(visible=way != "plain")

    # On paper every column is there, dark mode is not, and what is only for the screen is gone.
    await page.emulate_media(media="print", color_scheme="dark")
    await page.set_viewport_size(A4)  # type: ignore[arg-type]
    assert await page.evaluate(CUT) == []
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    await expect(page.get_by_role("button", name="Show")).to_be_hidden()
    for column in ("Protected as of", "Stored", "Restores", "Drills", "Last drill"):
        await expect(page.get_by_role("columnheader", name=column, exact=True)).to_be_visible()
    shots = Path(os.environ.get("SHOTS", tmp_path))
    if way == "pointer":
        await page.screenshot(path=shots / "report-print.png", full_page=True)
        paper = await page.pdf(prefer_css_page_size=True, path=shots / "report.pdf")
        assert re.search(rb"/MediaBox \[0 0 84[12][.\d]* 59[45][.\d]*\]", paper)  # A4, landscape


async def test_the_content_is_skipped_to_and_what_is_current_is_seen(visitor: Visitor, stage: Stage) -> None:
    petra = await _protected(visitor, stage)
    page = petra.page
    await petra.go("/petra/-/report")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.querySelector('main').contains(document.activeElement)")
    current = page.get_by_role("link", name="Activity", exact=True).first
    await expect(current).to_have_attribute("aria-current", "page")
    assert await current.evaluate("a => getComputedStyle(a).textDecorationLine") == "underline"
