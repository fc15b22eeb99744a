"""The whole way of a message: from what fails, through a real webhook, to pages, API and command line."""

import json
from contextlib import suppress
from dataclasses import replace

from standardwebhooks.webhooks import WebhookVerificationError

from mirror.channels import webhook
from mirror.core.rules.roles import PersonId, Role
from mirror.notify import look, post
from mirror.notify.deliver import Delivery
from mirror.people import channels as own
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.notify import channels
from mirror.store.notify.channels import Owner
from mirror.store.people.teams import TeamId
from tests.parts.api import with_token
from tests.parts.receiver import Receiver
from tests.parts.web import Site


async def channel(
    services: Services, receiver: Receiver, name: str, *, team: TeamId | None, person: PersonId | None
) -> str:
    """A channel of a webhook that arrives at the receiver; the key that signs it."""
    key = webhook.new_key()
    assert services.keyring is not None
    await channels.add(
        services.db,
        services.keyring,
        Owner(team, person),
        "webhook",
        name,
        "hooks.example",
        f"{receiver.url}/{name}",
        services.clock(),
        key=key,
        confirmed=True,
    )
    return key


def _verified(receiver: Receiver, key: str) -> object:
    """What came that this key signs."""
    for number in range(len(receiver.got)):
        with suppress(WebhookVerificationError):
            return receiver.verified(key, number)
    raise AssertionError("nothing came with this signature")


async def test_a_failure_arrives_signed_and_is_shown_with_what_became_of_it(
    site: Site, receiver: Receiver
) -> None:
    settings = replace(site.mirror.services.settings, allow_private_remotes=True)
    services = replace(site.mirror.services, settings=settings)
    await services.db.execute("insert into worker values ('here', clock_timestamp() + interval '1 hour')")
    ann = await site.person("ann")
    team = await site.team(ann)
    bob = await site.member(team, "bob", Role.VIEWER)
    key = await channel(services, receiver, "ops", team=team.id, person=None)
    await channel(services, receiver, "secretly-bobs", team=None, person=bob.id)
    repo = await repos.add(services.db, team.id, "acme/api", "https://git.example/api", services.clock())
    await repos.set_failure(services.db, repo.id, "credentials", "it refuses the token", services.clock())

    await look.look(services)
    assert "waits for its turn" in (await (await site.signed_in(ann)).get("/ann/-/notices")).text
    await Delivery(services, post.sender(services)).once()
    assert len(receiver.got) == 2
    said = json.dumps(_verified(receiver, key))
    assert "refuses the credentials for acme/api" in said and "Replace the token" in said

    for person, sees in ((ann, False), (bob, True)):
        page = (await (await site.signed_in(person)).get("/ann/-/notices")).text
        assert "Its host refuses the credentials for acme/api" in page
        assert "ops" in page and "arrived" in page
        assert ("secretly-bobs" in page) is sees
    stranger = await site.signed_in(await site.person("eve"))
    assert (await stranger.get("/ann/-/notices")).status_code == 404

    program = await with_token(site, ann, team, ("read",))
    found = await program.get("/teams/ann/messages", limit=1)
    (one,) = found["items"]
    assert found["next"] is None and one["kind"] == "credential" and one["facts"]["state"] == "began"
    assert sorted((to["channel"], to["state"], to["tries"]) for to in one["to"]) == [
        ("a member's own channel", "sent", 1),
        ("ops", "sent", 1),
    ]

    receiver.got.clear()
    ops = await own.listed(services, own.Whose(team=team))
    assert (await own.test(services, None, own.Whose(team=team), ops[0].id)).startswith("2")
    assert b"A test from Everref" in receiver.got[0][1]

    await services.db.execute(
        "update channel set failing_since = now(), failure = 'it answers 500' where name = 'ops'"
    )
    home = (await (await site.signed_in(ann)).get("/ann")).text
    assert "Messages to ops no longer arrive" in home and "It answers 500." in home


async def test_a_team_says_of_which_refs_it_wants_to_hear(site: Site) -> None:
    ann = await site.person("ann")
    team = await site.team(ann)
    bob = await site.member(team, "bob", Role.OPERATOR)
    browser = await site.signed_in(ann)
    answer = await browser.post("/ann/-/notices/refs", globs=" main  release/* main ")
    assert answer.status_code == 303
    assert 'value="main release/*"' in (await browser.get("/ann/-/notices")).text
    wrong = await browser.post("/ann/-/notices/refs", globs="x " * 3 + " ".join(map(str, range(30))))
    assert wrong.status_code == 422 and "31 patterns are too many; use 20 or fewer" in wrong.text
    other = await site.signed_in(bob)
    assert "main release/*" in (await other.get("/ann/-/notices")).text
    assert (await other.post("/ann/-/notices/refs", globs="")).status_code == 403
    assert (await browser.post("/ann/-/notices/refs", globs="")).status_code == 303
    assert 'value=""' in (await browser.get("/ann/-/notices")).text
