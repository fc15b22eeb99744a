"""The pages of what is pending: asking, confirming and cancelling in a browser, and at the command line."""

from datetime import timedelta

from mirror.core.rules.roles import Role
from mirror.jobs import pending as jobs
from mirror.people import members
from mirror.people.acting import By
from mirror.store import repos
from mirror.store.people import pending as rows
from mirror.store.people import teams
from tests.parts.pending import days_pass
from tests.parts.repos import Work
from tests.parts.web import Site

DAY = timedelta(days=1)
REPO = "/acme/acme/api/-"


async def test_two_people_let_a_repository_go_in_their_browsers(site: Site, work: Work) -> None:
    mirror, db = site.mirror, site.mirror.services.db
    mirror.clock.step *= 0
    now, mirror.clock.now = mirror.clock.now, mirror.clock.now - 90 * DAY
    ann = await site.person("ann")
    team = await teams.add_named(db, "acme", mirror.clock.now)
    await teams.add(db, team.id, ann.id, Role.OWNER, mirror.clock.now)
    bob = await site.member(team, "bob", Role.ADMIN)
    cora = await site.member(team, "cora", Role.ADMIN)
    mirror.clock.now = now
    work.commit()
    repo = (await mirror.backup(work, "acme/api")).repo
    await db.execute("update repo set team_id = $1", team.id)
    hers, his, third = [await site.signed_in(one) for one in (ann, bob, cora)]
    page = await hers.get(f"{REPO}/settings")
    assert "Ask for all backups to be deleted" in page.text
    assert "Ask for all backups to be deleted" not in (await his.get(f"{REPO}/settings")).text
    wrong = await hers.post(f"{REPO}/settings/forget", name="api", why="the customer left")
    assert wrong.status_code == 422 and "Type the name of the repository, acme/api" in wrong.text
    await hers.post(f"{REPO}/settings/forget", name="acme/api", why="the customer left")
    (one,) = await rows.of_team(db, team.id)
    for browser in (hers, his):
        home = await browser.get("/acme")
        assert "Ann asked to delete every backup of acme/api" in home.text
        assert "/acme/-/pending" in home.text
    refused = await hers.follow(await hers.post(f"/acme/-/pending/{one.id}/confirm"))
    assert "You asked for this yourself" in refused.text
    shown = await his.follow(await his.post(f"/acme/-/pending/{one.id}/confirm"))
    assert "The reason given: the customer left" in shown.text and "Bob confirmed it" in shown.text
    # Whoever is removed meanwhile finds it under their account, and cancels it at the last moment.
    await members.remove_member(db, By(ann, now), team, cora.id)
    await days_pass(mirror, 7 * DAY - timedelta(seconds=1))
    third = await site.signed_in(cora)
    assert "delete every backup of acme/api" in (await third.get("/account/pending")).text.lower()
    done = await third.follow(await third.post(f"/account/pending/{one.id}/cancel"))
    assert "It is cancelled" in done.text and "Nothing is pending in your teams" in done.text
    mirror.clock.now += DAY
    await jobs.due(mirror.services)
    assert await repos.find(db, repo.id) is not None
    assert "cancelled by Cora" in (await (await site.signed_in(bob)).get("/acme/-/pending")).text
