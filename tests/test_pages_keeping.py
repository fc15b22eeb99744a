"""How a repo is kept, changed on its page."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from mirror.core.model import Repo
from mirror.core.rules.roles import Role
from mirror.store import repos
from mirror.store.discovery import credentials, hooks, remotes
from mirror.store.jobs import schedules
from mirror.store.people import audit
from mirror.store.people.teams import Team
from tests.parts.githttp import GitServer, serving
from tests.parts.repos import Work
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
    told = (await kept.browser.follow(await kept.browser.post(f"{kept.base}/hook"))).text
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


@dataclass
class Guarded:
    """Ann's repo at a git host that wants a password, whose first backup failed for want of it."""

    site: Site
    server: GitServer
    repo: Repo
    browser: Browser

    async def answer(self, **fields: str) -> tuple[int, list[tuple[str, str]], str]:
        """What is said to these fields: the status, the messages at fields, and all of it."""
        answer = await self.browser.post("/ann/api/-/settings/source", **fields)
        told = re.findall(r'<p id="f-(\w+)-about" class="wrong">([^<]+)', answer.text)
        return answer.status_code, told, answer.text


@pytest_asyncio.fixture
async def guarded(site: Site, work: Work, tmp_path: Path) -> AsyncIterator[Guarded]:
    work.commit()
    db = site.mirror.services.db
    async with serving(tmp_path, credentials=("ann", "sesame")) as server:
        ann = await site.person("ann")
        team = await site.team(ann)
        repo = await repos.add(db, team.id, "api", f"{server.url}/remote.git", site.mirror.clock())
        await repos.set_failure(db, repo.id, "credentials", "it requires credentials", site.mirror.clock())
        browser = await site.signed_in(ann)
        await browser.get("/ann/api")
        yield Guarded(site, server, repo, browser)


async def test_a_repo_whose_first_backup_failed_takes_another_token_where_it_fails(guarded: Guarded) -> None:
    page = (await guarded.browser.get("/ann/api")).text
    assert "Nothing is saved yet. Everref does not try again until its token is replaced." in page
    assert "safe" not in page and 'action="/ann/api/-/settings/source"' in page
    settings = (await guarded.browser.get("/ann/api/-/settings")).text
    assert 'name="url"' in settings and 'name="token"' in settings and "It requires credentials." in settings
    status, told, page = await guarded.answer(token="canary", username="ann", next="/ann/api")
    assert status == 422 and [name for name, _ in told] == ["token"] and "enter new ones" in told[0][1]
    assert "canary" not in page and 'value="ann"' in page
    db = guarded.site.mirror.services.db
    assert not await credentials.has(db, guarded.repo.id)
    assert (await guarded.answer(token="", username="ann"))[1] == [("token", "Enter the token or password.")]
    status, _, page = await guarded.answer(token="sesame", username="ann", next="/ann/api")
    assert status == 303 and await credentials.has(db, guarded.repo.id)
    assert not await repos.is_held(db, guarded.repo.id)
    page = (await guarded.browser.get("/ann/api")).text
    assert "The host accepts it. A backup starts now." in page and "about to try again" in page
    assert "sesame" not in page + (await guarded.browser.get("/ann/api/-/settings")).text


async def test_an_address_that_was_never_reached_is_corrected_in_the_settings(guarded: Guarded) -> None:
    right, wrong = f"{guarded.server.url}/remote.git", f"{guarded.server.url}/no-such.git"
    status, told, page = await guarded.answer(url=wrong, token="sesame", username="ann")
    assert status == 422 and [name for name, _ in told] == ["url"] and f'value="{wrong}"' in page
    status, told, page = await guarded.answer(url="nonsense with spaces", token="")
    assert status == 422 and [name for name, _ in told] == ["url"]
    db = guarded.site.mirror.services.db
    assert (await repos.get(db, guarded.repo.id)).url == right
    await db.execute("update repo set url = $1 where id = $2", wrong, guarded.repo.id)
    status, _, _ = await guarded.answer(url=right, token="sesame", username="ann")
    assert status == 303 and (await repos.get(db, guarded.repo.id)).url == right
    await repos.set_object_format(db, guarded.repo.id, "sha1")
    status, told, _ = await guarded.answer(url=wrong, token="sesame", username="ann")
    assert status == 422 and "was reached" in told[0][1] if told else status == 422
    assert 'name="url"' not in (await guarded.browser.get("/ann/api/-/settings")).text
