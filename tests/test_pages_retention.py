"""The pages of what is kept, and those of a repo of which snapshots went."""

from mirror.backup import sync
from mirror.core.rules.roles import Role
from mirror.store import repos
from mirror.upkeep.epoch import Why, new_epoch
from tests.parts.repos import Work
from tests.parts.web import Site

REPO = "/acme/acme/api"
WHY = Why("the retention policy", "keeps the last 2")


async def test_a_form_that_is_refused_says_so_and_keeps_what_was_typed(site: Site, work: Work) -> None:
    person = await site.person("acme")
    team, db = await site.team(person), site.mirror.services.db
    site.mirror.clock.step *= 0  # who signed in did so just now
    await site.member(team, "bob", Role.ADMIN)
    work.commit()
    repo = await repos.add(db, team.id, "acme/api", str(work.path), site.mirror.clock())
    await sync.sync(site.mirror.services, repo.id)
    browser = await site.signed_in(person)
    page = f"{REPO}/-/retention"
    refused = await browser.post(f"{page}/keep", snapshot="twelve", note="the release of May")
    assert refused.status_code == 422 and refused.text.count("Give the number of a snapshot") == 2
    assert 'value="twelve"' in refused.text and 'value="the release of May"' in refused.text
    refused = await browser.post(f"{page}/hold", reason="w" * 2000)
    assert refused.status_code == 422 and "w" * 2000 in refused.text
    # A policy that keeps less is not "saved": the button says so, and then the page, until it is confirmed.
    await browser.post(f"{page}", keep_last="5", why="")
    shown = await browser.get(page)
    assert "Kept now: <strong>everything, for ever</strong>" in shown.text
    assert "from now on the last 5. Nobody has confirmed it yet." in shown.text
    less = await browser.get(page, preview="1", keep_last="2")
    assert "Ask to keep only the last 2" in less.text and "7 days pass after another admin" in less.text
    assert "With this policy" not in (await browser.get(page, preview="1", keep_last="x")).text
    # A form of the team's page, likewise; what is on hold is called by its name there.
    pending = "/acme/-/pending"
    refused = await browser.post(f"{pending}/team", name="acmee", why="the company was sold")
    assert refused.status_code == 422 and 'value="the company was sold"' in refused.text
    await browser.post(f"{page}/hold", reason="case 12")
    refused = await browser.post(f"{pending}/team", name="acme", why="the company was sold")
    assert "acme/api has been on legal hold since" in refused.text.lower()


async def test_the_pages_of_a_repo_say_what_is_no_longer_kept(site: Site, work: Work) -> None:
    person = await site.person("acme")
    team, services = await site.team(person), site.mirror.services
    repo = await repos.add(services.db, team.id, "acme/api", str(work.path), site.mirror.clock())
    for number in range(5):
        work.commit(parents=[] if number == 3 else None)  # the fourth is a force-push
        await sync.sync(services, repo.id)
    found = await repos.find(services.db, repo.id)
    assert found is not None
    await new_epoch(services, found, drop=[2, 3], why=WHY)
    browser = await site.signed_in(person)
    overview = await browser.get(REPO)
    assert "3 of 5 snapshots kept" in overview.text
    assert overview.text.count("no longer kept</span>") == 2 and "The moment of push #3" not in overview.text
    assert "the vault still has the old commits" not in overview.text
    stepped = await browser.get(REPO, at="#4")
    assert "Previous snapshot, #1" in stepped.text and "Next snapshot, #5" in stepped.text
    assert "Next snapshot, #4" in (await browser.get(REPO, at="#1")).text
    lost = await browser.get(f"{REPO}/-/lost", at="#4", ref="refs/heads/main")
    assert "2 snapshots of this repository are no longer kept" in lost.text
    assert "Nothing was lost" not in lost.text
    gone = await browser.get(f"{REPO}/-/restore", at="#3")
    assert gone.status_code == 404 and "This moment is no longer kept" in gone.text
    assert "the nearest kept snapshots are #1 before it and #4 after it" in gone.text
