"""What is compressed on the wire and what never is: no page repeats a secret beside what a stranger chose."""

import base64
import gzip
import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from mirror.backup import sync
from mirror.core.rules.roles import Role
from mirror.people import members
from mirror.people.acting import By
from mirror.store import repos
from mirror.web import csrf
from mirror.web.compression import may_be_compressed
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

LARGEST: int = 60_000  # bytes of a page on the wire


async def _wire(browser: Browser, path: str, **query: str) -> tuple[Headers, bytes]:
    """The answer's headers and its bytes as they went over the wire."""
    headers = {"accept-encoding": "gzip, deflate, br"}
    request = browser.client.build_request("GET", path, params=query or None, headers=headers)
    answer = await browser.client.send(request, stream=True)
    assert answer.status_code == 200, path
    raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    return Headers(dict(answer.headers)), raw


@pytest.mark.parametrize(
    ("media_type", "more", "wanted"),
    [
        ("text/html; charset=utf-8", {}, True),
        ("text/css", {}, True),
        ("text/javascript; charset=utf-8", {}, True),
        ("application/json", {}, True),
        ("image/svg+xml", {}, True),
        ("text/html", {"cache-control": "no-store, no-transform"}, False),
        ("text/event-stream", {}, False),
        ("text/plain; charset=utf-8", {}, False),
        ("image/png", {}, False),
        ("application/octet-stream", {}, False),
        ("application/x-ndjson", {"content-disposition": "attachment"}, False),
        ("application/json", {"content-disposition": 'attachment; filename="report.json"'}, False),
        ("text/html", {"content-range": "bytes 0-9/10"}, False),
        ("", {}, False),
    ],
)
def test_pages_and_their_parts_are_compressed_and_nothing_else(
    media_type: str, more: dict[str, str], wanted: bool
) -> None:
    assert may_be_compressed(Headers({"content-type": media_type} | more)) is wanted


async def test_a_page_is_gzip_for_who_takes_it(site: Site) -> None:
    browser = await site.signed_in(await site.person("acme"))
    headers, raw = await _wire(browser, "/acme")
    assert headers["content-encoding"] == "gzip" and "accept-encoding" in headers["vary"].lower()
    assert b"<!doctype html>" in gzip.decompress(raw)
    for refusing in ("", "identity", "gzip;q=0", "br, gzip; q=0.0"):
        plain = await browser.client.get("/acme", headers={"accept-encoding": refusing})
        assert "content-encoding" not in plain.headers and "accept-encoding" in plain.headers["vary"].lower()
        assert "<!doctype html>" in plain.text


async def test_stylesheet_and_scripts_are_small_on_the_wire(site: Site) -> None:
    browser = await site.browser()
    total = 0
    page = (await browser.get("/sign-in")).text
    for path in re.findall(r'(?:href|src)="(/static/[^"]+\.(?:css|js)[^"]*)"', page):
        headers, raw = await _wire(browser, unescape(path))
        assert headers["content-encoding"] == "gzip", path
        total += len(raw)
    assert 0 < total < 40_000
    assert "font" not in page and not re.search(
        r"@font-face|@import", (await browser.get("/static/style.css")).text
    )


async def test_no_page_repeats_the_token_of_its_forms(site: Site) -> None:
    person = await site.person("acme")
    browser = await site.signed_in(person)
    bare = browser.csrf
    seen = set()
    for _ in range(3):
        page = (await browser.get("/acme/-/settings")).text
        (token,) = set(re.findall(r'name="csrf" value="([^"]+)"', page))
        assert bare not in page and csrf.is_right(token, bare)
        seen.add(token)
    assert len(seen) == 3
    assert (await browser.post("/acme/-/settings/name", name="acme")).status_code == 303
    browser.csrf = token[:-6] + "AAAAA="
    assert (await browser.post("/acme/-/settings/name", name="acme")).status_code == 403


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=64))
def test_a_masked_token_is_right_and_says_nothing_of_itself(token: str) -> None:
    one, two = csrf.masked(token), csrf.masked(token)
    assert csrf.is_right(one, token) and csrf.is_right(two, token) and csrf.is_right(token, token)
    assert len(base64.urlsafe_b64decode(one)) == 2 * len(token)
    assert not csrf.is_right(one, token + "x") and not csrf.is_right("", token)


async def test_a_page_that_shows_a_new_secret_shows_it_once_and_uncompressed(site: Site) -> None:
    ann = await site.person("ann")
    team = await site.team(ann)
    db, now = site.mirror.services.db, site.mirror.clock.now
    repo = await repos.add(db, team.id, "acme/api", "https://example.org/acme/api", now)
    browser = await site.signed_in(ann)
    forms = [
        ("/ann/-/settings/tokens", {"name": "ci", "scope": "read"}, r"data-copy=\"(everref_[^\"]+)"),
        ("/ann/-/settings/invitations", {"role": "viewer"}, r"/invitations/([^<\"]{20,})"),
        (
            f"/ann/{repo.name}/-/settings/hook",
            {"forge": "github"},
            r"shown only once.*?data-copy.*?data-copy=\"([^\"]+)",
        ),
    ]
    for path, fields, secret in forms:
        answer = await browser.post(path, **fields)
        assert answer.status_code == 303, answer.text
        to = answer.headers["location"]
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "Max-Age=300" in cookie
        (kept,) = re.findall(r"once=([^;]+)", cookie)
        headers, raw = await _wire(browser, to)
        assert "content-encoding" not in headers, path
        assert "no-transform" in headers["cache-control"] and "no-store" in headers["cache-control"]
        shown = re.search(secret, raw.decode(), re.DOTALL)
        assert shown, raw.decode()
        told = shown[1]
        assert told not in cookie
        reloaded = await browser.get(to)
        assert told not in reloaded.text
        browser.client.cookies.set("once", kept, domain="127.0.0.1", path=to)
        assert "shown only once" not in (await browser.get(to)).text  # taken once, whoever has the cookie
        browser.client.cookies.delete("once", domain="127.0.0.1", path=to)
    assert await db.fetchval("select count(*) from api_token") == 1


async def test_a_page_whose_address_is_a_secret_is_not_compressed(site: Site) -> None:
    ann, bob = await site.person("ann"), await site.person("bob")
    by = By(ann, site.mirror.clock.now, "127.0.0.1")
    db, team = site.mirror.services.db, await site.team(ann)
    _, invited = await members.invite(db, site.outside.keyring, by, team, Role.VIEWER)
    for browser, path in (
        (await site.signed_in(bob), f"/invitations/{invited}"),
        (await site.browser(), "/sign-in/x"),
    ):
        headers, _ = await _wire(browser, path)
        assert "content-encoding" not in headers and "no-transform" in headers["cache-control"]


async def test_every_page_is_small_on_the_wire_at_scale(site: Site, work: Work) -> None:
    """338 repositories that were backed up, one of them with 2,000 refs that moved, and its pages."""
    person = await site.person("acme")
    team, db = await site.team(person), site.mirror.services.db
    work.commit("main", message="First")
    work.many_refs(2000, "refs/heads/feature/with-a-name-of-some-length-")
    repo = await repos.add(db, team.id, "northwind/api", str(work.path), site.mirror.clock())
    await sync.sync(site.mirror.services, repo.id)
    work.commit("main", message="Second")
    moved = work.tip("main")
    work.update({name: moved for name in work.refs() if name.startswith(b"refs/heads/feature/")})
    await sync.sync(site.mirror.services, repo.id)
    for number in range(337):
        name = f"northwind/a-service-of-some-name-{number:03}"
        one = await repos.add(db, team.id, name, f"https://example.org/{name}", site.mirror.clock.now)
        await db.execute(
            "update repo set protected_as_of = $2, synced_at = $2, wanted_at = $2 where id = $1",
            one.id,
            site.mirror.clock.now,
        )
    browser = await site.signed_in(person)
    at = "/acme/northwind/api"
    pages = ["/acme", "/acme?q=service", "/acme/-/report", "/acme/-/drills", "/acme/-/activity", "/account"]
    pages += [
        "/acme/-/settings",
        "/acme/-/settings/audit",
        "/acme/-/connect",
        "/api/docs",
        at,
        f"{at}?at=%231",
    ]
    pages += [
        f"{at}/-/{one}" for one in ("files", "commits", "refs", "pushes", "lost", "difference", "restore")
    ]
    pages += [f"{at}/-/{one}" for one in ("restores", "settings", "clone")]
    sizes = {page: len((await _wire(browser, page))[1]) for page in pages}
    assert {page: size for page, size in sizes.items() if size >= LARGEST} == {}, sizes
