"""Every form of a page answers with a redirect once it has done something: a reload does nothing again."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from mirror.core import identities
from mirror.core.rules.keeping.pending import Kind
from mirror.core.rules.roles import Role
from mirror.jobs import run
from mirror.people import channels, pending
from mirror.restore import mirrors
from mirror.store import repos
from mirror.store.people import notices
from mirror.store.restore import team_drills
from mirror.web.app import ENDPOINTS
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

PASSWORD: Final = "a long enough one"
AGE: Final = identities.made().recipient
TEAM, REPO = "/kim/-", "/kim/acme/api/-"

# The path, what is typed, and where that leads; in the order in which one person can do all of it.
FORMS: list[tuple[str, dict[str, Any], str]] = [
    ("/account/profile", {"name": "Kim", "email": "kim@example.org", "zone": "Asia/Tokyo"}, "/account"),
    ("/account/zone", {"zone": "Europe/Berlin", "do": "use", "next": "/kim"}, "/kim"),
    ("/account/teams", {"name": "another"}, "/another"),
    ("/account/password", {"password": PASSWORD + "!"}, "/account"),
    ("/account/sure", {"password": PASSWORD + "!", "next": "/kim"}, "/kim"),
    (f"{TEAM}/settings/invitations", {"role": "viewer"}, f"{TEAM}/settings"),
    (f"{TEAM}/settings/tokens", {"name": "ci", "scope": "read"}, f"{TEAM}/settings"),
    (f"{TEAM}/settings/members/role", {"person": "{bob}", "role": "admin"}, f"{TEAM}/settings"),
    (f"{TEAM}/settings/members/remove", {"person": "{bob}"}, f"{TEAM}/settings"),
    (f"{TEAM}/settings/name", {"name": "kim"}, f"{TEAM}/settings"),
    (f"{TEAM}/settings/objective", {"rpo": "1h"}, f"{TEAM}/settings"),
    (f"{TEAM}/failover/status", {"shows": "counts"}, f"{TEAM}/failover#status"),
    (f"{TEAM}/settings/proofs", {"drill_days": "20", "read_days": "20"}, f"{TEAM}/settings"),
    (f"{TEAM}/settings/keys", {"recipient": AGE}, f"{TEAM}/settings/keys/"),
    (f"{TEAM}/retention", {"keep_last": "5"}, f"{TEAM}/retention"),
    (f"{REPO}/retention", {"days": "5"}, f"{REPO}/retention"),
    (f"{REPO}/retention/keep", {"snapshot": "1", "note": "release"}, f"{REPO}/retention"),
    (f"{REPO}/retention/leave", {"snapshot": "1"}, f"{REPO}/retention"),
    (f"{TEAM}/settings/keys/sheet", {}, f"{TEAM}/settings/keys/sheet"),
    (f"{TEAM}/settings/keys/export", {}, f"{TEAM}/settings/keys"),
    (f"{TEAM}/settings/keys/rotate", {}, f"{TEAM}/settings/keys"),
    (f"{TEAM}/notices/refs", {"globs": "main"}, f"{TEAM}/notices"),
    *(
        form
        for base, id in ((f"{TEAM}/settings/channels", "{channel}"), ("/account/channels", "{own}"))
        for form in (
            (base, {"kind": "webhook", "to": "https://hooks.example.org/new"}, base),
            (f"{base}/change", {"channel": id, "name": "ops"}, base),
            (f"{base}/key", {"channel": id}, base),
            (f"{base}/remove", {"channel": id}, base),
        )
    ),
    (f"{TEAM}/pending/days", {"days": "10"}, f"{TEAM}/pending"),
    (f"{TEAM}/pending/team", {"name": "kim"}, f"{TEAM}/pending"),
    (f"{TEAM}/pending/{{action}}/confirm", {}, f"{TEAM}/pending"),
    (f"{TEAM}/pending/{{action}}/cancel", {}, f"{TEAM}/pending"),
    ("/account/pending/{action}/cancel", {}, "/account/pending"),
    ("/account/erase", {}, "/account"),
    (f"{TEAM}/connect/ssh-key", {}, f"{TEAM}/connect/url"),
    (f"{TEAM}/connect/push", {"name": "laptop"}, "/kim/laptop"),
    (f"{TEAM}/incident/plan", {"actor": "nobody"}, f"{TEAM}/incident?"),
    (f"{TEAM}/drills/due", {}, f"{TEAM}/activity"),
    (f"{TEAM}/drills/all", {}, f"{TEAM}/drills/"),
    (f"{TEAM}/drills/{{drill}}/stop", {}, f"{TEAM}/drills/"),
    (f"{TEAM}/activity/{{job}}/cancel", {}, f"{TEAM}/activity/{{job}}"),
    (f"{TEAM}/activity/{{job}}/retry", {}, f"{TEAM}/activity/"),
    (f"{TEAM}/notices/{{notice}}/seen", {}, "/kim"),
    (f"{REPO}/backup", {}, "/kim/acme/api"),
    (f"{REPO}/prove/drill", {}, f"{TEAM}/activity/"),
    (f"{REPO}/prove/verify", {}, f"{TEAM}/activity/"),
    (f"{REPO}/bundles", {}, f"{REPO}/restores/"),
    (f"{REPO}/clone", {}, f"{REPO}/clone?"),
    (f"{REPO}/share", {"form": "clone", "days": "7"}, f"{TEAM}/shares/"),
    (f"{REPO}/settings/schedule", {"schedule": "6h"}, f"{REPO}/settings"),
    (f"{REPO}/settings/objective", {"rpo": "1h"}, f"{REPO}/settings"),
    (f"{REPO}/settings/badge", {"on": "1"}, f"{REPO}/settings"),
    (f"{REPO}/settings/excluded", {"patterns": "refs/pull/*"}, f"{REPO}/settings"),
    (f"{REPO}/settings/hook", {"forge": "github"}, f"{REPO}/settings"),
    (f"{REPO}/settings/hook/check", {}, f"{REPO}/settings"),
    (f"{REPO}/settings/hook/remove", {}, f"{REPO}/settings"),
    (f"{REPO}/settings/forget-secret", {}, f"{REPO}/settings"),
    (f"{REPO}/settings/forget-host", {}, f"{REPO}/settings"),
    (f"{REPO}/settings/pause", {}, f"{REPO}/settings"),
    (f"{REPO}/settings/resume", {}, f"{REPO}/settings"),
    (f"{REPO}/settings/let-go", {}, f"{REPO}/settings"),
    (f"{REPO}/settings/forget", {"name": "acme/api"}, f"{TEAM}/pending"),
    *(
        form
        for base, folder in ((f"{TEAM}/mirrors", "all"), (f"{REPO}/mirrors", "one"))
        for form in (
            (base, {"address": f"https://git.example.org/{folder}/{{{{name}}}}"}, base),
            (f"{base}/change", {"mirror": "{mirror}", "deletes": "1"}, base),
            (f"{base}/pause", {"mirror": "{mirror}"}, base),
            (f"{base}/token", {"mirror": "{mirror}", "token": "x"}, base),
            (f"{base}/push", {"mirror": "{mirror}"}, base),
        )
    ),
    (f"{REPO}/mirrors/leave", {"mirror": "{mirror}"}, f"{REPO}/mirrors"),
    (f"{REPO}/mirrors/leave", {"mirror": "{mirror}", "take": "1"}, f"{REPO}/mirrors"),
    (f"{REPO}/mirrors/remove", {"mirror": "{mirror}"}, f"{REPO}/mirrors"),
    (f"{TEAM}/mirrors/remove", {"mirror": "{mirror2}"}, f"{TEAM}/mirrors"),
    (f"{REPO}/retention/hold", {"reason": "case 12"}, f"{REPO}/retention"),
    (f"{REPO}/retention/lift", {"why": "closed"}, f"{REPO}/retention"),
    ("/sign-out", {}, "/sign-in"),
    ("/sign-in", {"email": "kim@example.org", "password": PASSWORD + "!"}, "/"),
]

# Pages that are asked for by POST as they may hold a token; they change nothing. And what is the same
# however often it is asked for: a mail program that ends mails follows no redirect (RFC 8058).
SHOWN: Final = {
    *("/{team}/{repo:repo}/-/restore/plan", "/{team}/{repo:repo}/-/restores/{job}/undo"),
    *("/confirm/{raw}", "/unsubscribe/{raw}"),
}

# What needs a host, or another state than the one above, and which tests see it lead on.
ELSEWHERE: Final[Mapping[str, str]] = {
    "/sign-up": "below",
    "/sign-in/{raw}": "test_recovery",
    "/forgot": "test_channel_pages",
    "/s/{link}": "test_shared",
    "/s/{link}/": "test_shared",
    "/{team}/-/shares/{share}/revoke": "test_shared",
    "/auth/link": "test_signin",
    "/auth/new-account": "test_signin",
    "/auth/{forge}": "test_signin",
    "/account/unlink": "test_signin",
    "/account/confirm": "test_recovery",
    "/account/tokens/revoke": "test_recovery",
    "/account/sessions/end": "test_pages_keeping",
    "/account/channels/test": "test_channel_pages",
    "/account/channels/ask": "test_channel_pages",
    "/status/channels": "those of a team, for whoever runs Everref",
    "/status/channels/": "likewise",
    "/{team}/-/settings/channels/test": "test_channel_pages",
    "/{team}/-/settings/channels/ask": "test_channel_pages",
    "/{team}/-/settings/keys/": "test_keys",
    "/{team}/{repo:repo}/-/settings/default-branch": "test_push_source",
    "/{team}/-/settings/ping": "test_ping",
    "/{team}/-/settings/ping/": "test_ping",
    "/invitations/{raw}": "test_recovery",
    "/{team}/-/settings/invitations/withdraw": "test_pages_keeping",
    "/{team}/-/settings/members/link": "test_signup",
    "/{team}/-/settings/leave": "test_pages_keeping",
    "/{team}/-/settings/tokens/revoke": "test_pages_keeping",
    "/{team}/-/settle": "test_pages_home",
    "/{team}/-/connect/": "test_pages_connect",
    "/{team}/-/bring": "test_uploads",
    "/{team}/-/bring/": "likewise",
    "/{team}/{repo:repo}/-/settings/source": "test_pages_keeping",
    "/{team}/-/incident/{rollback}/": "test_pages_incident",
    "/{team}/{repo:repo}/-/restore": "test_pages_restore",
    "/{team}/{repo:repo}/-/restores/{job}/undo/now": "test_undo",
}


async def test_what_a_form_did_is_answered_by_a_redirect(site: Site, work: Work) -> None:
    browser = await site.browser()
    await browser.get("/sign-up")
    new = {"name": "Kim", "email": "kim@example.org", "password": PASSWORD}
    signed_up = await browser.post("/sign-up", **new)
    assert signed_up.status_code == 303
    names = await _prepared(site, work)
    await browser.get("/kim")
    for path, fields, to in FORMS:
        typed = {name: str(value).format(**names) for name, value in fields.items()}
        answer = await browser.post(path.format(**names), **typed)
        assert answer.status_code == 303, (path, answer.status_code, answer.text[-2000:])
        place = answer.headers["location"]
        assert place.startswith(to.format(**names)) and not place.startswith("/account/sure"), (path, place)


async def _prepared(site: Site, work: Work) -> dict[str, str]:
    """A backup, a member, a job and a notice of Kim's team; their ids."""
    db, clock = site.mirror.services.db, site.mirror.clock
    clock.step *= 0  # who has just signed in stays sure
    row = await db.fetchrow("select id from team where name = 'kim'")
    assert row is not None
    work.commit("main")
    repo = (await site.mirror.backup(work, "acme/api")).repo
    await db.execute("update repo set team_id = $1 where id = $2", row["id"], repo.id)
    team = await site.team(await _kim(site))
    bob = await site.member(team, "bob", Role.VIEWER)
    job = await run.ask(site.mirror.services, repo.id, "verify", {})
    await notices.add(db, team.id, repo.id, "forced", "main was replaced", clock.now)
    notice = await db.fetchval("select max(id) from notice")
    assert (await repos.get(db, repo.id)).name == "acme/api"
    drill = await team_drills.begin(db, team.id, clock.now)
    kim = await _kim(site)
    asked = await pending.ask(site.mirror.services, None, team, Kind.SHORTEN_DELAY, {"days": 8})
    told = [
        await channels.add(site.mirror.services, None, whose, "webhook", f"https://hooks.example.org/{n}")
        for n, whose in enumerate((channels.Whose(team=team), channels.Whose(person=kim)))
    ]
    ids = {"action": asked.id, "bob": bob.id, "job": job.id, "notice": notice, "drill": drill.id}
    ids |= {"channel": told[0].channel.id, "own": told[1].channel.id}
    for number, name in ((1, "mirror"), (2, "mirror2")):
        wanted = mirrors.Wanted(f"https://git.example.org/{number}/{{name}}")
        ids[name] = (await mirrors.add(site.mirror.services, None, team, None, wanted)).id
    return {name: str(id) for name, id in ids.items()}


async def _kim(site: Site) -> Any:
    from mirror.store.people import people

    row = await site.mirror.services.db.fetchrow("select id from person where email = 'kim@example.org'")
    assert row is not None
    found = await people.find(site.mirror.services.db, row["id"])
    assert found is not None
    return found


def _of(path: str, template: str) -> bool:
    """Whether a form's path is one of this endpoint."""
    parts = template.replace("{repo:repo}", "acme/api").split("/")
    given = path.split("/")
    return len(parts) == len(given) and all(
        one == two or one[:1] == "{" for one, two in zip(parts, given, strict=True)
    )


@pytest.mark.parametrize(
    "template", [one.path for one in ENDPOINTS if one.method == "POST" and not (one.is_api or one.git)]
)
def test_no_form_is_forgotten(template: str) -> None:
    tried = any(_of(path, template) for path, _, _ in FORMS)
    named = any(template == one or (one.endswith("/") and template.startswith(one)) for one in ELSEWHERE)
    below = template.startswith("/{team}/{repo:repo}/-/restore/") and template.endswith("/over")
    assert tried or named or below or template in SHOWN, f"say where the form of {template} leads"


async def test_a_reload_after_making_a_token_makes_no_second_one(site: Site) -> None:
    browser: Browser = await site.signed_in(await site.person("kim"))
    made = await browser.post(f"{TEAM}/settings/tokens", name="ci", scope="read")
    first, again = await browser.follow(made), await browser.follow(made)
    assert "shown only once" in first.text and "shown only once" not in again.text
    assert await site.mirror.services.db.fetchval("select count(*) from api_token") == 1
