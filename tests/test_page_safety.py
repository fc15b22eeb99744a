"""What every answer says to a browser, and what no other site can make a browser do here."""

from collections.abc import AsyncIterator
from dataclasses import replace
from html import escape
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from starlette.responses import Response

from mirror.core.config import App
from mirror.web import app as web
from mirror.web.app import ENDPOINTS, application
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from tests.parts.web import ORIGIN, Browser, Site

HTTPS = "https://everref.example"
ELSEWHERE = (
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "/\t/evil.example",
    "https:evil.example",
)
PASSWORD = "a long enough word"


@pytest_asyncio.fixture
async def secure(site: Site) -> AsyncIterator[Browser]:
    """A browser that reaches the pages by https."""
    outside = replace(site.outside, origin=HTTPS)
    browser = await site.browser(application(outside))
    browser.client.base_url = HTTPS
    browser.client.headers["origin"] = HTTPS
    yield browser


def policy_of(text: str) -> dict[str, set[str]]:
    """A Content-Security-Policy by its directives."""
    found = (part.split() for part in text.split(";") if part.strip())
    return {name: set(values) for name, *values in found}


ANSWERS = sorted({endpoint.path for endpoint in ENDPOINTS if endpoint.method == "GET"})


@pytest.mark.parametrize("path", [*ANSWERS, "/nothing/at/all", "/static/nothing.css"])
async def test_every_answer_says_what_a_browser_may_do_with_it(secure: Browser, path: str) -> None:
    """Whatever it is: a page, a file, a refusal, an error, or a way to elsewhere."""
    named = (
        path.replace("{repo:repo}", "acme/api").replace("{path:path}", "a").replace("{", "").replace("}", "")
    )
    headers = (await secure.client.get(named)).headers
    policy = policy_of(headers["content-security-policy"])
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == {"'none'"}
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == {"'self'"}
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert "no-store" in headers["cache-control"] or path.startswith(("/static/", "/manifest", "/api/"))


async def test_over_https_a_cookie_is_bound_to_this_host_and_no_script_reads_it(secure: Browser) -> None:
    answer = await secure.client.post(
        "/sign-up", data={"name": "Ann", "email": "ann@example.org", "password": PASSWORD}
    )
    assert answer.status_code == 303, answer.text
    (cookie,) = [one for one in answer.headers.get_list("set-cookie") if "sid=" in one]
    name, *flags = [part.strip().lower() for part in cookie.split(";")]
    assert name.startswith("__host-sid=")
    assert {"secure", "httponly", "samesite=lax", "path=/"} <= set(flags)
    assert not any(flag.startswith("domain") for flag in flags)


async def test_a_bug_is_told_with_the_same_headers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(context: RequestContext) -> Response:
        raise ZeroDivisionError

    monkeypatch.setattr(web, "ENDPOINTS", (Endpoint("GET", "/broken", broken, Needs.NOTHING), *ENDPOINTS))
    answer = await (await site.browser(application(site.outside))).get("/broken")
    assert answer.status_code == 500
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["everref.example", "127.0.0.1:8000", "localhost", "[::1]:8000"])
async def test_whatever_name_a_proxy_passes_on_the_cookie_stays_bound_to_https(
    secure: Browser, host: str
) -> None:
    answer = await secure.client.post(
        "/sign-up",
        data={"name": "Ann", "email": "ann@example.org", "password": PASSWORD},
        headers={"host": host, "origin": HTTPS},
    )
    assert answer.status_code == 303, answer.text
    (cookie,) = [one.lower() for one in answer.headers.get_list("set-cookie") if "sid=" in one]
    assert cookie.startswith("__host-sid=") and "; secure" in cookie


async def test_a_page_of_this_machine_is_no_page_of_ours_behind_a_proxy(secure: Browser) -> None:
    answer = await secure.client.post(
        "/sign-up",
        data={"name": "Ann", "email": "ann@example.org", "password": PASSWORD},
        headers={"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"},
    )
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["[", "]", "a b", "[::1", ""])
async def test_a_host_that_is_none_is_refused_in_a_line(secure: Browser, host: str) -> None:
    assert (await secure.client.get("/sign-in", headers={"host": host})).status_code == 400


async def test_over_loopback_a_cookie_is_read_by_no_script_either(site: Site) -> None:
    browser = await site.browser()
    answer = await browser.post("/sign-up", name="Ann", email="ann@example.org", password=PASSWORD)
    (cookie,) = [one.lower() for one in answer.headers.get_list("set-cookie") if "sid=" in one]
    assert "httponly" in cookie and "samesite=lax" in cookie


@pytest.mark.parametrize("where", ELSEWHERE)
async def test_no_next_leads_to_another_site(site: Site, where: str) -> None:
    browser = await site.browser()
    fields = {"email": "ann@example.org", "password": PASSWORD, "next": where}
    made = await browser.post("/sign-up", name="Ann", **fields)
    signed_in = await (await site.browser()).post("/sign-in", **fields)
    await browser.get("/account")
    sure = await browser.post("/account/sure", password=PASSWORD, next=where)
    wrong = await browser.post("/account/sure", password="another", next=where)
    assert wrong.status_code == 422 and f'value="{escape(where)}"' not in wrong.text
    for answer in (made, signed_in, sure):
        assert answer.status_code == 303, answer.text
        to = urlsplit(answer.headers["location"])
        assert (to.scheme, to.netloc) == ("", "") and to.path.startswith("/") and "evil" not in str(to)
    for page in ("/sign-in", "/sign-up", "/account/sure"):
        assert "evil" not in (await browser.get(page, next=where)).text


@pytest.mark.parametrize("path", ["/sign-in", "/sign-up", "/sign-in/a-link", "/auth/github"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "null", "sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:9", "sec-fetch-site": "same-site"},
    ],
    ids=["another site", "a sandbox", "another port"],
)
async def test_nobody_is_signed_in_by_another_sites_form(
    site: Site, path: str, headers: dict[str, str]
) -> None:
    browser = await site.browser()
    answer = await browser.client.post(path, data={"email": "eve@example.org"}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_session_that_somebody_set_beforehand_is_not_taken_over(site: Site) -> None:
    """Session fixation: whoever signs in gets an id that nobody knew."""
    eve, ann = await site.person("eve"), await site.browser()
    planted = (await site.signed_in(eve)).client.cookies["sid"]
    ann.client.cookies.set("sid", planted, domain="127.0.0.1")
    await ann.get("/sign-up")
    answer = await ann.post("/sign-up", name="Ann", email="ann@example.org", password=PASSWORD)
    assert answer.status_code == 303
    assert planted not in answer.headers["set-cookie"]
    watching = await site.browser()
    watching.client.cookies.set("sid", planted, domain="127.0.0.1")
    assert (await watching.get("/account")).headers.get("location", "").startswith("/sign-in")


async def test_forms_may_end_at_the_forges_that_are_set_up_and_nowhere_else(site: Site) -> None:
    apps = (App("github", "https://github.example", "https://github.example/api/v3", "id", "secret"),)
    settings = replace(site.outside.services.settings, apps=apps)
    outside = replace(site.outside, services=replace(site.outside.services, settings=settings))
    headers = (await (await site.browser(web.application(outside))).get("/sign-in")).headers
    assert policy_of(headers["content-security-policy"])["form-action"] == {
        "'self'",
        "https://github.example",
    }


@pytest.mark.parametrize(
    ("charset", "value"),
    [("utf-7", b"+2AA-"), ("unicode_escape", rb"\ud800"), ("undefined", b"x"), ("utf-8\0", b"x")],
)
async def test_a_form_in_an_encoding_of_somebodys_choice_is_refused_in_a_line(
    site: Site, charset: str, value: bytes
) -> None:
    """It made half of a character of the form's token, which was an error of the server."""
    browser = await site.signed_in(await site.person("ann"))
    form = b'--B\r\ncontent-disposition: form-data; name="csrf"\r\n\r\n' + value + b"\r\n--B--\r\n"
    kind = f"multipart/form-data; boundary=B; charset={charset}"
    headers = {"origin": ORIGIN, "content-type": kind}
    answer = await browser.client.post("/account/zone", content=form, headers=headers)
    assert answer.status_code == 400 and "is not in UTF-8" in answer.text
