"""Who may go which way: the frame round every page, with ways made for the test."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response

from mirror.core.errors import Busy, NetworkError, Origin
from mirror.core.rules.roles import Role
from mirror.store.people import audit, sessions
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.web import dispatch, problems
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from tests.parts.web import ORIGIN, Browser, Site


async def here(context: RequestContext) -> Response:
    team = context.team.name if context.team else "-"
    return PlainTextResponse(
        f"{context.person.name if context.person else 'nobody'} in {team} as {context.role}"
    )


async def done(context: RequestContext) -> Response:
    await context.audit("thing.do", "it", detail={"how": str((await context.form()).get("how"))})
    return context.redirect("/a/page", "It is done.")


async def said(context: RequestContext) -> Response:
    return context.render("error.html", title="Said", detail=context.said or "nothing", retry=False)


async def busy(context: RequestContext) -> Response:
    raise Busy("somebody else is at work")


async def away(context: RequestContext) -> Response:
    raise NetworkError("the database does not answer", origin=Origin.DATABASE)


async def broken(context: RequestContext) -> Response:
    raise ZeroDivisionError("a secret word")


ENDPOINTS = (
    Endpoint("GET", "/open", here, Needs.NOTHING),
    Endpoint("GET", "/a/page", said, Needs.NOTHING),
    Endpoint("GET", "/busy", busy, Needs.NOTHING),
    Endpoint("GET", "/broken", broken, Needs.NOTHING),
    Endpoint("GET", "/away", away, Needs.NOTHING),
    Endpoint("GET", "/mine", here, Needs.PERSON),
    Endpoint("GET", "/{team}/see", here, Needs.VIEWER),
    Endpoint("GET", "/{team}/rule", here, Needs.ADMIN),
    Endpoint("POST", "/{team}/do", done, Needs.OPERATOR),
    Endpoint("GET", "/{team}/danger", here, Needs.VIEWER, sure=True),
    Endpoint("POST", "/{team}/see/delete", done, Needs.VIEWER, sure=True),
    Endpoint("GET", "/api/{team}/see", here, Needs.VIEWER),
    Endpoint("POST", "/api/{team}/do", here, Needs.OPERATOR, scope="backup"),
    Endpoint("GET", "/api/broken", broken, Needs.NOTHING),
)


class Framed:
    """A site of the ways above, with Alice, who owns a team, and Victor, who may look at it."""

    def __init__(self, site: Site, alice: Person, victor: Person, team: Team) -> None:
        self.site, self.alice, self.victor, self.team = site, alice, victor, team
        self.app = self.over(ORIGIN)

    def over(self, origin: str) -> Starlette:
        outside = replace(self.site.outside, origin=origin)
        return Starlette(
            routes=dispatch.routes(ENDPOINTS, outside), exception_handlers=dict(problems.handlers(outside))
        )

    async def browser(self, person: Person | None = None) -> Browser:
        if person is None:
            return await self.site.browser(self.app)
        return await self.site.signed_in(person, self.app)


@pytest_asyncio.fixture
async def framed(site: Site) -> AsyncIterator[Framed]:
    alice = await site.person("alice")
    team = await site.team(alice)
    yield Framed(site, alice, await site.member(team, "victor", Role.VIEWER), team)


async def test_who_is_signed_out_sees_what_is_open_and_is_sent_to_sign_in(framed: Framed) -> None:
    browser = await framed.browser()
    assert (await browser.get("/open")).text == "nobody in - as None"
    answer = await browser.get("/alice/see", at="#3")
    assert answer.headers["location"] == "/sign-in?next=/alice/see%3Fat%3D%25233"
    assert (await browser.get("/api/alice/see")).status_code == 401


async def test_a_member_comes_as_far_as_the_role_reaches(framed: Framed) -> None:
    browser = await framed.browser(framed.victor)
    assert (await browser.get("/alice/see")).text == "Victor in alice as viewer"
    refused = await browser.get("/alice/rule")
    assert refused.status_code == 403
    assert "This needs the role admin; you are viewer in alice." in refused.text


async def test_another_team_is_as_one_that_there_is_not(framed: Framed) -> None:
    browser = await framed.browser(await framed.site.person("mallory"))
    theirs, none = await browser.get("/alice/see"), await browser.get("/nobody/see")
    assert (theirs.status_code, none.status_code) == (404, 404)
    shown = [
        re.sub('name="csrf" value="[^"]+"', "", one.text.partition("<main")[2]) for one in (theirs, none)
    ]
    assert shown[0] == shown[1] != ""


async def test_a_form_without_its_token_changes_nothing(framed: Framed) -> None:
    browser = await framed.browser(framed.alice)
    browser.csrf = "guessed"
    assert (await browser.post("/alice/do", how="wrong")).status_code == 403
    assert await audit.page(framed.site.mirror.services.db, framed.team.id) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "null", "sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site"},
    ],
    ids=["foreign origin", "no origin to tell", "nobody's origin", "cross-site"],
)
async def test_what_another_site_sends_changes_nothing(framed: Framed, headers: dict[str, str]) -> None:
    browser = await framed.browser(framed.alice)
    answer = await browser.client.post("/alice/do", data={"csrf": browser.csrf}, headers=headers)
    assert answer.status_code == 403
    assert await audit.page(framed.site.mirror.services.db, framed.team.id) == []


async def test_a_form_of_ours_is_known_where_the_browser_tells_no_origin(framed: Framed) -> None:
    """As Chromium does under `Referrer-Policy: no-referrer`."""
    browser = await framed.browser(framed.alice)
    headers = {"origin": "null", "sec-fetch-site": "same-origin"}
    answer = await browser.client.post(
        "/alice/do", data={"csrf": browser.csrf, "how": "well"}, headers=headers
    )
    assert answer.status_code == 303


async def test_a_form_of_ours_does_its_work_and_says_so_once(framed: Framed) -> None:
    browser = await framed.browser(framed.alice)
    answer = await browser.post("/alice/do", how="well")
    assert answer.headers["location"] == "/a/page"
    assert "It is done." in (await browser.follow(answer)).text
    assert "It is done." not in (await browser.get("/a/page")).text
    (written,) = await audit.page(framed.site.mirror.services.db, framed.team.id)
    assert (written.entry.actor, written.entry.action, written.entry.detail) == (
        "Alice",
        "thing.do",
        {"how": "well"},
    )


async def test_a_foreign_name_that_points_here_is_not_answered(framed: Framed) -> None:
    browser = await framed.browser()
    answer = await browser.client.get("/open", headers={"host": "rebound.example:8000"})
    assert answer.status_code == 400


async def test_a_session_that_was_ended_is_nobodys(framed: Framed) -> None:
    browser = await framed.browser(framed.alice)
    assert (await browser.get("/mine")).status_code == 200
    await sessions.end_all(framed.site.mirror.services.db, framed.alice.id)
    assert (await browser.get("/mine")).status_code == 303


async def test_a_cookie_that_was_tampered_with_is_nobodys(framed: Framed) -> None:
    browser = await framed.browser(framed.alice)
    kept = browser.client.cookies["sid"]
    browser.client.cookies.set("sid", ("A" if kept[0] != "A" else "B") + kept[1:], domain="127.0.0.1")
    assert (await browser.get("/open")).text == "nobody in - as None"


async def test_who_was_not_asked_of_late_is_asked_before_danger(framed: Framed) -> None:
    browser = await framed.browser(framed.alice)
    assert (await browser.get("/alice/danger")).status_code == 200
    for _ in range(12):
        framed.site.mirror.clock()
    assert (await browser.get("/alice/danger")).headers["location"] == "/account/sure?next=/alice/danger"
    sent = await browser.post("/alice/see/delete?at=%232")  # what comes back is the page with the form
    assert sent.headers["location"] == "/account/sure?next=/alice/see%3Fat%3D%25232&dropped=yes"


async def test_an_address_that_only_takes_a_form_leads_to_its_page(framed: Framed) -> None:
    browser = await framed.browser(framed.alice)
    assert (await browser.get("/alice/see/delete")).headers["location"] == "/alice/see"
    assert (await browser.get("/alice/do")).headers["location"] == "/"
    signed_out = await (await framed.browser()).post("/alice/see/delete")
    assert signed_out.status_code == 401
    assert 'href="/sign-in?next=/alice/see"' in signed_out.text


async def test_the_page_to_come_back_to_is_the_address_as_it_was_sent(framed: Framed) -> None:
    asked = await (await framed.browser()).get("/al%2523ice/see?at=%231&path=a%26b")
    to = parse_qs(urlsplit(asked.headers["location"]).query)["next"]
    assert to == ["/al%2523ice/see?at=%231&path=a%26b"]


async def test_a_token_opens_its_own_team_as_far_as_its_scopes_reach(framed: Framed) -> None:
    site = framed.site
    browser = await framed.browser()
    bearer = {"authorization": f"Bearer {await site.token(framed.alice, framed.team)}"}
    seen = await browser.client.get("/api/alice/see", headers=bearer)
    assert seen.text == "Alice in alice as owner"
    refused = await browser.client.post("/api/alice/do", headers=bearer)
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"
    assert "does not have the scope backup" in refused.json()["detail"]
    assert (await browser.client.get("/alice/see", headers=bearer)).status_code == 303
    mallory = await site.person("mallory")
    await site.member(framed.team, "eve", Role.OWNER)
    other = {"authorization": f"Bearer {await site.token(mallory, await site.team(mallory))}"}
    assert (await browser.client.get("/api/alice/see", headers=other)).status_code == 404
    unknown = {"authorization": "Bearer everref_nothing"}
    assert (await browser.client.get("/api/alice/see", headers=unknown)).status_code == 401


async def test_a_session_at_the_api_sends_its_token_in_a_header(framed: Framed) -> None:
    browser = await framed.browser(framed.alice)
    assert (await browser.client.post("/api/alice/do")).status_code == 403
    headers = {"x-csrf-token": browser.csrf, "origin": ORIGIN}
    assert (await browser.client.post("/api/alice/do", headers=headers)).status_code == 200


async def test_an_error_of_ours_is_told_with_its_class(framed: Framed) -> None:
    browser = await framed.browser()
    answer = await browser.get("/busy")
    assert answer.status_code == 409
    assert "Somebody else is at work." in answer.text


async def test_a_bug_is_told_without_its_words(framed: Framed, caplog: pytest.LogCaptureFixture) -> None:
    browser = await framed.browser()
    page, api = await browser.get("/broken"), await browser.get("/api/broken")
    assert (page.status_code, api.status_code) == (500, 500)
    assert "secret word" not in page.text + api.text
    assert api.json()["status"] == 500
    assert "secret word" in caplog.text


async def test_over_https_the_cookie_is_bound_to_it(framed: Framed) -> None:
    browser = await framed.site.browser(framed.over("https://everref.example"))
    raw, _ = await framed.site.session(framed.alice.id)
    headers = {"host": "everref.example"}
    plain = await browser.client.get("/mine", headers=headers | {"cookie": f"sid={raw}"})
    bound = await browser.client.get("/mine", headers=headers | {"cookie": f"__Host-sid={raw}"})
    assert (plain.status_code, bound.status_code) == (303, 200)


async def test_that_the_database_is_away_is_told_as_what_it_is(framed: Framed) -> None:
    """It was called somebody else who does not answer, with words for whoever runs a command."""
    answer = await (await framed.browser()).get("/away")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "cannot reach its database; the backups are in the vault. Try again" in answer.text
