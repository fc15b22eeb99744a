"""Every page in a real browser: for people who cannot see or point, in the dark, and on a phone."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from mirror.core.model import Target
from mirror.web.app import ENDPOINTS
from mirror.web.dispatch import Endpoint, Needs
from tests.parts.browser import DESK, PATIENCE, PHONE, Someone, somebody
from tests.parts.demo import Stage
from tests.parts.forges import Repository

RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SEEN: Final = ["color-contrast", "target-size", "scrollable-region-focusable"]  # what a screen changes

# What is answered, but is no page.
OTHERWISE: Final = {
    "/static/{name}": "a file of ours",
    "/manifest.webmanifest": "for whoever installs the pages",
    "/.well-known/everref-evidence.json": "for programs",
    "/badges/{name}.svg": "a picture for other pages",
    "/{team}/{repo:repo}/-/evidence/{name}": "is downloaded",
    "/{team}/-/evidence/{day}.json": "is downloaded",
    "/auth/{forge}": "leads to the forge",
    "/auth/{forge}/callback": "leads on, from the forge",
    "/{team}/-/settings/audit.jsonl": "is downloaded",
    "/{team}/-/settings/keys/{key}/sample.age": "is downloaded",
    "/{team}/{repo:repo}/-/raw/{path:path}": "a file of somebody's",
    "/{team}/{repo:repo}/-/object/{oid}": "an object of somebody's, as git keeps it",
    "/status/channels": "is /account/channels, for whoever runs Everref",
    "/status/{team}.json": "is for programs",
    "/git/{team}/{repo:repo}/bundles/{raw}": "is for git",
    "/{team}/-/live": "is streamed",
    "/{team}/{repo:repo}/-/live": "is streamed",
    "/{team}/{repo:repo}/-/progress": "is streamed",
    "/{team}/{repo:repo}/-/said": "is a part of a page",
    "/{team}/{repo:repo}/-/pushes/{number}": "is a part of a page",
    "/{team}/-/activity/{job}/events": "is streamed",
    "/{team}/-/drills/{drill}/events": "is streamed",
    "/{team}/-/incident/{rollback}/events": "is streamed",
    "/{team}/-/bring/{upload}/events": "is streamed",
    "/{team}/{repo:repo}/-/restore/over": "leads back to the plan",
    "/{team}/{repo:repo}/-/bundles/{job}": "is downloaded",
    "/{team}/{repo:repo}/-/archive/{file}": "is downloaded",
    "/s/{link}/bundle": "is downloaded",
    "/s/{link}/archive/{file}": "is downloaded",
    "/{team}/{repo:repo}/-/restores/{job}/events": "is streamed",
    "/{team}/{repo:repo}/-/restores/{job}/undo/now": "leads back to the plan",
}

# What is named more than once on a page: a label leads to the first of them alone.
TWICE: Final = """() => [...document.querySelectorAll("[id]")].map((one) => one.id)
  .filter((id, at, all) => all.indexOf(id) !== at)"""

PASSWORD: Final = "a rather long one"
ALSO: Final = ("/",)  # all teams of who is in several; who is signed out is led to signing in

# Every page by its way, as it can be met. The names in them are those of `World.names`.
PAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "/": (),  # of who is signed in: ALSO
    "/status": ("/status",),
    "/status/{team}": ("/status/ann",),
    "/sign-in": ("/sign-in", "/sign-in?next=/ann"),
    "/sign-up": ("/sign-up",),
    "/sign-in/{raw}": ("/sign-in/a-link-of-somebody",),
    "/forgot": ("/forgot",),
    "/confirm/{raw}": ("{confirm}",),
    "/unsubscribe/{raw}": ("{unsubscribe}",),
    "/account": ("/account",),
    "/account/channels": ("/account/channels",),
    "/account/sure": ("/account/sure?next=/account",),
    "/invitations/{raw}": ("{invitation}",),
    "/{team}": (
        "/ann",
        "/ann?q=nothing-like-this",
        "/ann?q=garden",
        "/ann?q=main",
        "/ann?state=forced&sort=size",
        "/empty-team",
    ),
    "/{team}/-/settings": ("/ann/-/settings", "/empty-team/-/settings"),
    "/{team}/-/failover": ("/ann/-/failover", "/empty-team/-/failover"),
    "/{team}/-/settings/channels": ("/ann/-/settings/channels", "/empty-team/-/settings/channels"),
    "/{team}/-/settings/keys": ("/ann/-/settings/keys", "/empty-team/-/settings/keys"),
    "/{team}/-/settings/keys/sheet": ("/ann/-/settings/keys/sheet",),
    "/{team}/-/settings/keys/{key}": ("{key}",),
    "/{team}/-/pending": ("/ann/-/pending", "/empty-team/-/pending"),
    "/account/pending": ("/account/pending",),
    "/{team}/-/settings/audit": ("/ann/-/settings/audit",),
    "/{team}/-/connect": ("/ann/-/connect", "/empty-team/-/connect"),
    "/{team}/-/connect/url": ("/ann/-/connect/url",),
    "/{team}/-/connect/push": ("/ann/-/connect/push",),
    "/{team}/-/connect/{connection}": (
        "{connection}",
        "{connection}?q=garden&private=no",
        "{connection}?q=nothing-like-this",
    ),
    "/{team}/-/connect/{connection}/token": ("{connection}/token?next=/ann",),
    "/{team}/-/bring": ("/ann/-/bring", "/empty-team/-/bring?repo=notes"),
    "/{team}/-/bring/{upload}": (),  # test_uploads
    "/{team}/{repo:repo}/-/evidence": ("{garden}/-/evidence",),
    "/{team}/-/report/details": ("/ann/-/report/details",),
    "/{team}/-/activity": ("/ann/-/activity", "/empty-team/-/activity"),
    "/{team}/-/activity/{job}": ("{job}",),
    "/{team}/-/notices": ("/ann/-/notices", "/empty-team/-/notices"),
    "/{team}/-/drills": ("/ann/-/drills", "/empty-team/-/drills"),
    "/{team}/-/drills/{drill}": ("{drill}",),
    "/{team}/-/costs": ("/ann/-/costs",),
    "/{team}/-/incident": (
        "/ann/-/incident?since=30d+ago",
        "/ann/-/incident?actor=ann&kind=forced",
        "/empty-team/-/incident",
    ),
    "/{team}/-/incident/{rollback}": ("{rollback}", "{rolled_back}"),
    "/{team}/-/report": ("/ann/-/report", "/empty-team/-/report"),
    "/{team}/{repo:repo}/-/settings": ("{garden}/-/settings",),
    "/{team}/{repo:repo}/-/retention": (
        "{garden}/-/retention",
        "{garden}/-/retention?preview=1&keep_last=1",
    ),
    "/{team}/{repo:repo}/-/mirrors": ("{garden}/-/mirrors",),
    "/{team}/-/mirrors": ("/ann/-/mirrors", "/empty-team/-/mirrors"),
    "/{team}/-/retention": ("/ann/-/retention", "/ann/-/retention?preview=1&keep_last=1"),
    "/{team}/{repo:repo}": ("{garden}", "{garden}?at=%231", "{garden}?window=all"),
    "/{team}/{repo:repo}/-/pushes": ("{garden}/-/pushes", "{garden}/-/pushes?kind=taken&at=%232"),
    "/{team}/{repo:repo}/-/refs": (
        "{garden}/-/refs",
        "{garden}/-/refs?q=nothing",
        "{garden}/-/refs?q=idea",
        "{garden}/-/refs?state=gone",
        "{garden}/-/refs?state=ever",
    ),
    "/{team}/{repo:repo}/-/commits": ("{garden}/-/commits", "{garden}/-/commits?path=beds.py&at=%231"),
    "/{team}/{repo:repo}/-/commit/{oid}": ("{garden}/-/commit/{commit}",),
    "/{team}/{repo:repo}/-/files": ("{garden}/-/files", "{garden}/-/files?at=%231"),
    "/{team}/{repo:repo}/-/files/{path:path}": (
        "{garden}/-/files/src",
        "{garden}/-/files/beds.py",
        "{garden}/-/files/README.md",
        "{garden}/-/files/README.md?source=1",
        "{garden}/-/files/plot.png",
        "{garden}/-/files/seeds.bin",
        "{garden}/-/files/empty",
    ),
    "/{team}/{repo:repo}/-/difference": ("{garden}/-/difference?from=%231&ref=refs/heads/main",),
    "/{team}/{repo:repo}/-/clone": ("{garden}/-/clone?at=%231",),
    "/{team}/-/shares": ("/ann/-/shares", "/empty-team/-/shares"),
    "/{team}/-/shares/{share}": ("{share}",),
    "/{team}/{repo:repo}/-/shares": ("{garden}/-/shares",),
    "/{team}/{repo:repo}/-/share": ("{garden}/-/share?at=%231",),
    "/s/{link}": ("{link}", "{locked}"),
    "/{team}/{repo:repo}/-/lost": ("{garden}/-/lost", "{garden}/-/lost?at=%231"),
    "/{team}/{repo:repo}/-/restore": (
        "{garden}/-/restore?at=%231",
        "{garden}/-/restore?ref=refs/heads/main&at=%231",
        "{garden}/-/restore?ref=refs/heads/main&as=refs/heads/rescue/main&at=%231",
        "{garden}/-/restore?ref=refs/heads/main&at=%231&where=back",
        "{garden}/-/restore?where=new&connection={connection_id}",
        "{garden}/-/restore?where=missing&at=%231",
        "{garden}/-/restore?where=back&at=%231",
        "{garden}/-/restore?where=url&at=%231",
    ),
    "/{team}/{repo:repo}/-/restore/plan": (
        "{garden}/-/restore/plan?where=kept&at=%231",
        "{garden}/-/restore/plan?where=kept&at=%231&force=yes",
        "{garden}/-/restore/plan?where=kept",
    ),
    "/{team}/{repo:repo}/-/restores": ("{garden}/-/restores", "/ann/ann/notes/-/restores"),
    "/{team}/{repo:repo}/-/restores/{job}": ("{restore}", "{bundle}"),
    "/{team}/{repo:repo}/-/restores/{job}/undo": ("{restore}/undo",),
    "/api/docs": ("/api/docs",),
}
ERRORS: Final = (
    *("/nothing/here", "/ann/-/connect/nothing", "/ann/ann/garden?at=never"),
    "/ann/-/costs?month=never",
    "/ann/-/retention?preview=1&keep_last=0",
)

README: Final = b"""# The garden

What **grows** where, with `code`, a [link](beds.py) and ![a picture](plot.png).

| bed | plant |
|-----|------:|
| 1   | beans |

```python
def sow(bed: int) -> str:
    return f"beans in {bed}"  # in may
```

> Water, then wait.

- [x] dug
- [ ] sown
"""
PYTHON: Final = b'''"""Where it grows."""


class Bed(list[str]):
    def sow(self, seed: str = "beans", rows: int = 3) -> str:  # in may
        return f"{seed!r} in {rows} rows"
'''
PNG: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63f8cf"
    "c0f01f0005000185 3a9b5e600000000049454e44ae426082".replace(" ", "")
)


@dataclass
class World:
    """Ann, who keeps a repository in which something was overwritten, and where her pages are."""

    ann: Someone
    names: dict[str, str]

    def path(self, template: str) -> str:
        return template.format_map(self.names)


def garden(repository: Repository) -> Target:
    """Something of everything that a page shows differently; the first commit."""
    files: dict[str, bytes | None] = {
        "README.md": README,
        "beds.py": PYTHON,
        "plot.png": PNG,
        "seeds.bin": bytes(range(256)),
        "empty": b"",
        "src/deep/folder/a-file-with-a-rather-long-name-that-goes-on-and-on-and-on.txt": b"x" * 400,
    }
    work = repository.work
    first = work.commit("main", files, message="Dig\n\nIt takes a day, and a spade that somebody lent.")
    work.commit("main", {"beds.py": b"beds = 3\n", "src/log.txt": b"dug\n"}, message="Sow the beans")
    work.commit("a-branch/with-a-rather-long-name/which-a-phone-has-no-room-for", parents=[first])
    work.tag("v1", message="The first season")
    repository.settle()
    return first


@pytest_asyncio.fixture(scope="session")
async def world(chromium: Browser, stage: Stage) -> AsyncIterator[World]:
    """Everything is kept and was force-pushed once; a team is empty; an invitation is open."""
    async with AsyncExitStack() as stack:
        stage.github.add_person("ann", "Ann")
        repository = stage.github.add_repository("ann/garden", commits=0)
        first = garden(repository)
        stage.github.add_repository("ann/notes", private=True)
        ann = await somebody(chromium, stage, stack, "ann")
        await ann.sign_in()
        await ann.connect()
        connection = ann.page.url.removeprefix(ann.url)
        await ann.keep_everything()
        await ann.go("/account")
        await ann.page.get_by_label("Name of a new team").fill("empty-team")
        await ann.press("Create a team")
        repository.commit("main", {"beds.py": b"beds = 4\n"}, message="Sow peas", parents=[first])
        repository.push("refs/heads/idea-of-may", first)
        await ann.all_protected()
        repository.push("refs/heads/idea-of-may", None)
        await ann.go("/ann/-/activity")
        job = await ann.page.locator("main a[href*='/-/activity/']").first.get_attribute("href")
        assert job is not None
        await ann.go("/ann/ann/garden/-/restore?at=%231")
        await ann.press("Make a bundle to download")
        await ended(ann)
        bundle = ann.page.url.removeprefix(ann.url)
        await ann.go("/ann/ann/garden/-/restore?at=%231")
        await ann.press("Restore to ann/garden-restored")
        await ended(ann)
        restore = ann.page.url.removeprefix(ann.url)
        await ann.go("/ann/-/drills")
        await ann.press("Drill all repositories")
        drill = ann.page.url.removeprefix(ann.url)
        await expect(ann.page.get_by_text("nothing missing")).to_be_visible(timeout=PATIENCE)
        rollback, rolled_back = await rolled(ann, begun=False), await rolled(ann, begun=True)
        await ann.go("/ann/-/settings")
        await ann.press("Create an invitation")
        invitation = await ann.page.locator(".copy code").inner_text()
        confirm, unsubscribe = await told_by_mail(ann, stage)
        await ann.go("/ann/-/failover")
        await ann.page.locator('input[name="shows"][value="names"]').check()
        await ann.press("Save")
        await add_place(ann, "webhook", f"{ann.url}/nowhere", "A place " + "with-a-rather-long-name" * 5)
        await ann.go("/ann/-/settings/keys")
        await ann.press("Make a recovery sheet")
        key = await ann.page.get_by_role("link", name="type its words back").get_attribute("href")
        await mirrored(ann, stage)
        locked, _ = await shared(ann, PASSWORD)
        link, share = await shared(ann)
        names = {
            "link": link,
            "locked": locked,
            "share": share,
            "key": key or "",
            "confirm": confirm,
            "unsubscribe": unsubscribe,
            "job": job,
            "drill": drill,
            "rollback": rollback,
            "rolled_back": rolled_back,
            "connection": connection,
            "connection_id": connection.rpartition("/")[2],
            "bundle": bundle,
            "restore": restore,
            "garden": "/ann/ann/garden",
            "commit": repository.work.tip().decode(),
            "invitation": invitation.removeprefix(ann.url),
        }
        yield World(ann, names)


async def mirrored(ann: Someone, stage: Stage) -> None:
    """Every repository has a mirror that GitHub makes; one has another, which is not there."""
    await ann.go("/ann/-/mirrors")
    await ann.page.get_by_label("Address").fill(f"{stage.github.url}/ann/{{name}}-mirror")
    await ann.page.get_by_label("Have the host make it").check()
    await ann.press("Add the mirror")
    await ann.go("/ann/ann/garden/-/mirrors")
    await ann.page.get_by_label("Address").fill(f"{stage.github.url}/ann/nowhere")
    await ann.press("Add the mirror")
    for state in ("up to date", "failing"):
        while not await ann.page.locator(".chip").get_by_text(state, exact=True).count():
            await ann.go("/ann/ann/garden/-/mirrors")


async def shared(ann: Someone, password: str = "") -> tuple[str, str]:
    """A share link that somebody makes at the first moment, and its page: the paths of both."""
    await ann.go("/ann/ann/garden/-/clone?at=%231")
    await ann.press("Share it…")
    await ann.page.get_by_label("Password").fill(password)
    await ann.press("Make the link")
    link = await ann.page.locator(".copy code").inner_text()
    return link.removeprefix(ann.url), ann.page.url.removeprefix(ann.url)


async def rolled(ann: Someone, *, begun: bool) -> str:
    """Plan to put back all that was pushed, and do so if it is to be `begun`: the path of the rollback."""
    await ann.go("/ann/-/incident?since=30d+ago&kind=forced")
    await ann.press("Plan to put these back…")
    await expect(ann.page.get_by_role("heading", name="Put these refs back?")).to_be_visible(timeout=PATIENCE)
    if begun:
        await ann.press("Put the ticked refs back")
        await expect(ann.page.get_by_text("1 ref of 1 repository put back.")).to_be_visible(timeout=PATIENCE)
    return ann.page.url.removeprefix(ann.url)


async def told_by_mail(ann: Someone, stage: Stage) -> tuple[str, str]:
    """The team is told by mail: the paths of the links that confirm the address, and end its mails."""
    await add_place(ann, "mail", "ann@everref.example")
    await expect(ann.page.get_by_text("A link was mailed to ann@everref.example")).to_be_visible()
    confirm = stage.box.links()[0].removeprefix(ann.url)
    await ann.go(confirm)
    await ann.press("Confirm this address")
    await expect(ann.page.get_by_role("heading", name="ann@everref.example is confirmed")).to_be_visible()
    await ann.go("/ann/-/settings/channels")
    await ann.press("Test ann@everref.example")
    await expect(ann.page.get_by_text("The test to ann@everref.example was sent")).to_be_visible()
    mail = next(one for one in reversed(stage.box.mails) if one["List-Unsubscribe"])
    return confirm, mail["List-Unsubscribe"].strip("<>").removeprefix(ann.url)


async def add_place(ann: Someone, kind: str, to: str, name: str = "") -> None:
    """Add where the team is told."""
    await ann.go("/ann/-/settings/channels")
    await ann.page.locator(f'input[name="kind"][value="{kind}"]:not([type="hidden"])').check()
    await ann.page.get_by_label("Address", exact=True).fill(to)
    await ann.page.get_by_label("Name (optional)").fill(name)
    await ann.press("Add")


async def ended(someone: Someone) -> None:
    """The page of a restore says what came of it, and changes no more."""
    await expect(someone.page.locator("[data-live]")).to_have_count(0, timeout=PATIENCE)
    await expect(someone.page.get_by_text("Took", exact=True)).to_be_visible(timeout=PATIENCE)


def pages() -> list[Endpoint]:
    shown = [way for way in ENDPOINTS if way.method == "GET" and way.git is None]
    return [way for way in shown if not way.is_api or way.path == "/api/docs"]


def test_every_page_is_opened_here() -> None:
    assert {way.path for way in pages()} == PAGES.keys() | OTHERWISE.keys()


def met() -> list[tuple[str, bool]]:
    """Every example of a page, and whether it is for who is signed in."""
    needs = {way.path: way.needs for way in pages()}
    found = [(one, needs[path] is not Needs.NOTHING) for path, examples in PAGES.items() for one in examples]
    return found + [(one, True) for one in (*ALSO, *ERRORS)]


@pytest.mark.parametrize(("path", "signed_in"), met(), ids=[path for path, _ in met()])
async def test_a_page_is_for_everybody(world: World, path: str, signed_in: bool) -> None:
    page = world.ann.page
    answer = await world.ann.go(world.path(path))
    assert (answer.status < 400) == (path not in ERRORS), answer.status
    assert await complaints_of_axe(page, {"type": "tag", "values": RULES}) == []
    assert await page.evaluate(TWICE) == []
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size(PHONE)
    assert await complaints_of_axe(page, {"type": "rule", "values": SEEN}) == []
    assert await too_wide(page) == []
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size(DESK)
    assert world.ann.forgiven() == []


async def complaints_of_axe(page: Page, which: dict[str, Any]) -> list[str]:
    """What axe finds, with where."""
    options = {"resultTypes": ["violations"], "runOnly": which}
    found: dict[str, Any] = (await Axe().run(page, options=options)).response
    return [
        f"{one['id']}: {node['html'][:200]} {[why['message'] for why in node['any'] + node['all']]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


async def too_wide(page: Page) -> list[str]:
    """What makes the body scroll sideways."""
    found: list[str] = await page.evaluate("""() => {
      const wide = document.documentElement.clientWidth;
      const asked = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
      const over = (one) => one.getBoundingClientRect().right > wide + 1;
      const told = [...document.querySelectorAll("body *")].filter(over).map((one) => one.outerHTML);
      return asked <= wide ? [] : [`${asked} > ${wide}`, ...told.map((text) => text.slice(0, 150))];
    }""")
    return found
