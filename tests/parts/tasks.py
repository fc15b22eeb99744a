"""A task as a person does it in a browser, and how many presses it takes, in each way of using one.

A press is a click, or an Enter or Space that does what a click would. Choosing a
field to type in is a press too, unless it has the focus already; typing is none,
and neither are the Tabs and arrows that lead somewhere: those are bounded by TABS.
What is pressed must be on the page and enabled; nothing is done by address.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from playwright.async_api import Locator, Page, expect

from tests.parts.browser import PATIENCE, Someone

Way = Literal["pointer", "plain", "keyboard"]

WAYS: Final[tuple[Way, ...]] = ("pointer", "plain", "keyboard")  # plain: the browser runs no script
TABS: Final = 120  # that nobody should need to come anywhere
IS_FOCUSED: Final = "element => element === document.activeElement"
IS_SIBLING: Final = """element => element.type === 'radio' && document.activeElement.type === 'radio'
  && document.activeElement.name === element.name && document.activeElement.form === element.form"""


def options(way: Way) -> Mapping[str, Any]:
    """What the browser of this way is made with."""
    return {"java_script_enabled": False} if way == "plain" else {}


class Task:
    """Counts what somebody presses from here on."""

    def __init__(self, someone: Someone, way: Way) -> None:
        self.page: Page = someone.page
        self.way = way
        self.presses = 0

    async def press(self, wanted: Locator) -> None:
        """Press a link, a button, a box or a summary."""
        await expect(wanted).to_be_visible(timeout=PATIENCE)
        await expect(wanted).to_be_enabled()
        self.presses += 1
        if self.way != "keyboard":
            await wanted.click()
            return
        await self.reach(wanted)
        kind = await wanted.get_attribute("type")
        if kind == "radio":
            if not await wanted.is_checked():  # arrows have chosen it otherwise
                await self.page.keyboard.press("Space")
        else:
            await self.page.keyboard.press("Space" if kind == "checkbox" else "Enter")

    async def link(self, name: str) -> None:
        """Press the first link of exactly this name."""
        await self.press(self.page.get_by_role("link", name=name, exact=True).first)

    async def button(self, name: str) -> None:
        """Press the first button of exactly this name."""
        await self.press(self.page.get_by_role("button", name=name, exact=True).first)

    async def type(self, field: Locator, text: str) -> None:
        """Replace what a field holds."""
        await expect(field).to_be_editable(timeout=PATIENCE)
        if not await self._is_at(field):
            self.presses += self.way != "keyboard"
            await (self.reach(field) if self.way == "keyboard" else field.click())
        await field.press("ControlOrMeta+a")
        await self.page.keyboard.type(text)

    async def enter(self) -> None:
        """Press Enter where the focus is."""
        self.presses += 1
        await self.page.keyboard.press("Enter")

    async def reach(self, wanted: Locator) -> int:
        """Go there by Tab, and by arrows within a group of radio buttons; how many Tabs it took."""
        for tabs in range(TABS):
            if await self._is_at(wanted):
                return tabs
            if await wanted.evaluate(IS_SIBLING):
                await self.page.keyboard.press("ArrowDown")
                continue
            await self.page.keyboard.press("Tab")
        raise AssertionError(f"not reached by {TABS} Tabs: {wanted}")

    async def _is_at(self, wanted: Locator) -> bool:
        return bool(await wanted.evaluate(IS_FOCUSED))
