"""How a repo is kept, changed on its page."""

import re

import pytest
import pytest_asyncio

from mirror.core.model import Repo
from mirror.core.rules.roles import Role
from mirror.store import repos
from mirror.store.discovery import hooks, remotes
from mirror.store.jobs import schedules
from mirror.store.people import audit
from mirror.store.people.teams import Team
from tests.parts.web import Browser, Site


class Kept:
    """Ann's team with one repo, and her browser at its settings."""

    def __init__(self, site: Site, team: Team, repo: Repo, browser: Browser) -> None:
        self.site, self.team, self.repo, self.browser = site, team, repo, browser
        self.base = "/ann/acme/api/-/settings"


@pytest_asyncio.fixture
async def kept(site: Site) -> Kept:
    ann = await site.person("ann")
    team = await site.team(ann)
    url = "https://github.com/acme/api"
    repo = await repos.add(site.mirror.services.db, team.id, "acme/api", url, site.mirror.clock.now)
    browser = await site.signed_in(ann)
    made = Kept(site, team, repo, browser)
    assert (await browser.get(made.base)).status_code == 200
    return made


async def test_a_schedule_is_what_somebody_says_or_by_activity(kept: Kept) -> None:
    db = kept.site.mirror.services.db
    await kept.browser.post(f"{kept.base}/schedule", schedule="6h")
    assert (await schedules.of(db, kept.repo.id)).schedule == "6h"
    await kept.browser.post(f"{kept.base}/schedule", schedule=" 30  2 * * * ")
    assert (await schedules.of(db, kept.repo.id)).schedule == "30 2 * * *"
    await kept.browser.post(f"{kept.base}/schedule", schedule="")
    assert (await schedules.of(db, kept.repo.id)).schedule is None


@pytest.mark.parametrize("text", ["often", "0m", "61 2 * * *"])
async def test_a_schedule_that_is_none_is_told_in_a_line(kept: Kept, text: str) -> None:
    answer = await kept.browser.post(f"{kept.base}/schedule", schedule=text)
    assert answer.status_code == 422
    (told,) = re.findall(r'<p id="f-schedule-about" class="wrong">([^<]+)', answer.text)
    assert "schedule" in told and f'value="{text}"' in answer.text and 'role="alert"' not in answer.text


async def test_what_is_wrong_stands_at_its_field_with_what_was_typed(kept: Kept) -> None:
    sent = {"name": "Ann", "email": "ann at example", "zone": "Europe/Berlin"}
    answer = await kept.browser.post("/account/profile", **sent)
    assert answer.status_code == 422 and 'role="alert"' not in answer.text
    assert re.findall(r'<p id="([^"]+)" class="wrong">([^<]+)', answer.text) == [
        ("f-email-about", "That is not an e-mail address; write it like ann@example.org.")
    ]
    assert all(f'value="{typed}"' in answer.text for typed in sent.values())
    team = await kept.browser.post("/account/teams", name="No Team")
    assert 'value="No Team"' in team.text and "no-team." in team.text
    token = await kept.browser.post("/ann/-/settings/tokens", name="ci", days="30")
    assert re.findall(r'<p id="([^"]+)" class="wrong">Choose the token', token.text) == ["f-token-about"]


async def test_refs_are_left_out_by_patterns(kept: Kept) -> None:
    await kept.browser.post(f"{kept.base}/excluded", patterns="refs/pull/*  bots/*")
    assert await repos.excluded(kept.site.mirror.services.db, kept.repo.id) == ("refs/pull/*", "bots/*")
    assert (await kept.browser.post(f"{kept.base}/excluded", patterns="*")).status_code == 422


async def test_a_repo_is_paused_and_goes_on(kept: Kept) -> None:
    db = kept.site.mirror.services.db
    await kept.browser.post(f"{kept.base}/pause")
    assert (await remotes.get(db, kept.repo.id)).paused_at is not None
    await kept.browser.post(f"{kept.base}/resume")
    assert (await remotes.get(db, kept.repo.id)).paused_at is None
    actions = [one.entry.action for one in await audit.page(db, kept.team.id)]
    assert actions == ["repo.resume", "repo.pause"]


async def test_a_webhooks_secret_is_told_once(kept: Kept) -> None:
    db = kept.site.mirror.services.db
    told = (await kept.browser.post(f"{kept.base}/hook")).text
    secrets = re.findall(r'data-copy="([^"]+)"', told)
    assert len(secrets) == 3  # its address twice, and the secret
    again = (await kept.browser.get(kept.base)).text
    assert secrets[1] not in again
    assert await hooks.of(db, kept.repo.id) is not None
    await kept.browser.post(f"{kept.base}/hook/remove")
    assert await hooks.of(db, kept.repo.id) is None


async def test_who_is_no_admin_does_not_see_where_the_webhook_is(kept: Kept) -> None:
    db = kept.site.mirror.services.db
    await kept.browser.post(f"{kept.base}/hook")
    made = await hooks.of(db, kept.repo.id)
    assert made is not None and made.id in (await kept.browser.get(kept.base)).text
    for name, role in (("victor", Role.VIEWER), ("oscar", Role.OPERATOR)):
        person = await kept.site.member(kept.team, name, role)
        page = (await (await kept.site.signed_in(person)).get(kept.base)).text
        assert "Webhook" in page and made.id not in page
        token = await kept.site.token(person, kept.team, ["read", "backup", "restore"])
        answer = await (await kept.site.browser()).client.get(
            f"/api/v1/teams/ann/repos/{kept.repo.id}/hook", headers={"authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 403 and made.id not in answer.text


async def test_letting_go_keeps_what_is_kept(kept: Kept) -> None:
    answer = await kept.browser.post(f"{kept.base}/let-go")
    if "/account/sure" in answer.headers["location"]:  # the clock of the test runs ahead
        pytest.fail("the person was asked of late who they are")
    origin = await remotes.get(kept.site.mirror.services.db, kept.repo.id)
    assert origin.paused_at is not None


async def test_who_is_no_admin_changes_nothing(kept: Kept) -> None:
    browser = await kept.site.signed_in(await kept.site.member(kept.team, "oscar", Role.OPERATOR))
    assert (await browser.get(kept.base)).status_code == 200
    for name in ("schedule", "excluded", "pause", "resume", "let-go", "hook", "hook/remove"):
        assert (await browser.post(f"{kept.base}/{name}")).status_code == 403
