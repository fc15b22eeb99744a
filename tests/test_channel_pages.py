"""Channels on the pages, and mails to one person: over real servers, and read as people read them."""

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import pytest_asyncio

from mirror.core.rules.roles import Role
from mirror.core.smtp import Smtp
from mirror.people import accounts, mails
from mirror.people import channels as flow
from mirror.people.acting import By
from mirror.people.channels import Whose
from mirror.services.open import Services
from mirror.store.notify import channels
from mirror.store.notify.channels import Owner
from mirror.store.people import audit, notices, people
from mirror.store.people.people import Person
from mirror.web.app import application
from tests.parts.mail import Postbox
from tests.parts.receiver import Receiver
from tests.parts.web import ORIGIN, Browser, Site

PASSWORD = "correct horse battery"


@pytest_asyncio.fixture
async def box(make_postbox: Callable[..., Awaitable[Postbox]]) -> Postbox:
    return await make_postbox(tls=False, auth=False)


@pytest_asyncio.fixture
async def mailing(site: Site, box: Postbox) -> Site:
    """The pages of a server that sends mails."""
    smtp = Smtp(
        "127.0.0.1", box.port, "none", None, None, "everref@acme.example", "Everref", "op@acme.example"
    )
    settings = replace(site.mirror.services.settings, smtp=smtp, base_url=ORIGIN, allow_private_remotes=True)
    services = replace(site.mirror.services, settings=settings)
    outside = replace(site.outside, services=services)
    site.stack.push_async_callback(outside.background.end)
    return Site(replace(site.mirror, services=services), application(outside), outside, site.stack)


async def signed_up(site: Site, name: str) -> Person:
    """Somebody with a password."""
    email = f"{name}@acme.example"
    now = site.mirror.clock.now
    return await accounts.sign_up(site.outside.services.db, email, PASSWORD, name.title(), now, "203.0.113.5")


def path_of(box: Postbox, number: int = -1) -> str:
    """The path of the one link in a mail that its reader is to press."""
    parts = urlsplit(box.links(number)[0])
    return parts.path + (f"?{parts.query}" if parts.query else "")


def channel_in(page: str) -> str:
    found = re.search(r'name="channel" value="([^"]+)"', page)
    assert found
    return found[1]


def code_in(page: str) -> str:
    found = re.search(r"whsec_[A-Za-z0-9+/=]+", html.unescape(page))
    assert found
    return found[0]


async def confirmed_mail(site: Site, box: Postbox, browser: Browser, base: str, to: str) -> None:
    await browser.get(base)
    await browser.post(base, kind="mail", to=to)
    stranger = await site.browser()
    await stranger.post(path_of(box))


async def test_a_webhook_is_added_tested_and_given_another_key_and_each_key_is_shown_once(
    mailing: Site, receiver: Receiver
) -> None:
    ann = await mailing.person("ann")
    browser, base = await mailing.signed_in(ann), "/ann/-/settings/channels"
    await browser.get(base)
    answer = await browser.post(base, kind="webhook", to=f"{receiver.url}/hook?key=s3cret", name="Our pager")
    first = await browser.follow(answer)
    key = code_in(first.text)
    page = (await browser.get(base)).text
    assert "whsec_" not in page and "s3cret" not in page and "Our pager" in page
    assert "Nothing has arrived there yet" in page
    assert "1 place" in (await browser.get("/ann/-/settings")).text
    channel = channel_in(page)
    tested = await browser.follow(await browser.post(f"{base}/test", channel=channel))
    assert "The answer: 200: thanks" in tested.text
    said = receiver.verified(key)
    assert said["type"] == "test" and said["data"]["team"] == "ann"
    again = await browser.follow(await browser.post(f"{base}/key", channel=channel))
    other = code_in(again.text)
    await browser.post(f"{base}/test", channel=channel)
    assert receiver.verified(key) and receiver.verified(other) and key != other
    mailing.mirror.clock.now += flow.OVERLAP
    services, team = mailing.outside.services, await mailing.team(ann)
    assert services.keyring is not None
    [kept] = await channels.of(services.db, Owner(team_id=team.id))
    to = await channels.address(services.db, services.keyring, kept.id, ORIGIN, services.clock())
    assert to is not None and to.keys == (other,)
    said = [one.entry for one in await audit.page(services.db, team.id)]
    assert [one.action for one in said[:2]] == ["channel.key", "channel.add"]
    assert "s3cret" not in repr(said) and "whsec_" not in repr(said)


async def test_a_place_that_is_added_twice_is_told_everything_once(mailing: Site) -> None:
    ann = await mailing.person("ann")
    browser, base = await mailing.signed_in(ann), "/account/channels"
    await browser.get(base)
    for kind, to in (("webhook", "https://h.example/a"), ("chat", "ntfys://ntfy.acme.example/backups")):
        await browser.post(base, kind=kind, to=to)
        again = await browser.post(base, kind=kind, to=to)
        assert again.status_code == 422 and "Messages are sent to " in html.unescape(again.text)
    await browser.post(base, kind="webhook", to="https://h.example/b")  # at the same host, and another one
    kept = await channels.of(mailing.outside.services.db, Owner(person_id=ann.id))
    assert [one.kind for one in kept] == ["webhook", "chat", "webhook"]


async def test_a_failed_test_says_why_on_the_page_until_one_works(mailing: Site, receiver: Receiver) -> None:
    from aiohttp import web

    ann = await mailing.person("ann")
    browser, base = await mailing.signed_in(ann), "/account/channels"
    await browser.get(base)
    page = await browser.follow(await browser.post(base, kind="webhook", to=f"{receiver.url}/hook"))
    channel = channel_in(page.text)
    receiver.answers.append(web.Response(status=500, text="out of order"))
    failed = await browser.follow(await browser.post(f"{base}/test", channel=channel))
    assert "500: out of order" in failed.text and "Fails since" in failed.text
    works = await browser.follow(await browser.post(f"{base}/test", channel=channel))
    assert "Fails since" not in works.text
    await browser.post(f"{base}/remove", channel=channel)
    assert "There are none yet" in (await browser.get(base)).text


async def test_a_person_has_one_test_under_way_at_a_time(mailing: Site, receiver: Receiver) -> None:
    ann = await mailing.person("ann")
    browser, base = await mailing.signed_in(ann), "/account/channels"
    await browser.get(base)
    page = await browser.follow(await browser.post(base, kind="webhook", to=f"{receiver.url}/hook"))
    channel = channel_in(page.text)
    receiver.answers.append(None)
    slow = asyncio.create_task(browser.post(f"{base}/test", channel=channel))
    await receiver.waiting.acquire()
    second = await browser.post(f"{base}/test", channel=channel)
    assert second.status_code == 429 and "nother test of yours is under way" in second.text
    receiver.release.set()
    assert "The answer: 200" in (await browser.follow(await slow)).text
    assert (
        "The answer: 200" in (await browser.follow(await browser.post(f"{base}/test", channel=channel))).text
    )


async def test_a_mail_address_gets_one_question_and_nothing_else_until_its_reader_says_yes(
    mailing: Site, box: Postbox
) -> None:
    ann = await mailing.person("ann")
    browser, base = await mailing.signed_in(ann), "/ann/-/settings/channels"
    await browser.get(base)
    page = await browser.follow(await browser.post(base, kind="mail", to="team@acme.example"))
    assert "A link was mailed to team@acme.example" in html.unescape(page.text)
    assert box.mails[0]["Subject"] == "Do you want messages from Everref here?" and len(box.mails) == 1
    assert "List-Unsubscribe" not in box.mails[0]
    channel, link = channel_in(page.text), path_of(box)
    refused = await browser.post(f"{base}/test", channel=channel)
    assert refused.status_code == 422 and "has not confirmed" in refused.text and len(box.mails) == 1
    stranger = await mailing.browser()
    assert "Confirm this address" in (await stranger.get(link)).text
    assert (
        "Waits until somebody opens the link" in (await browser.get(base)).text
    )  # a preview pressed nothing
    assert "is confirmed" in (await stranger.post(link)).text
    await browser.post(f"{base}/test", channel=channel)
    assert box.mails[1]["Subject"] == "A test from Everref"
    # One click in a mail program: no cookie, no page of ours before, from anywhere.
    stop = urlsplit(str(box.mails[1]["List-Unsubscribe"]).strip("<>")).path
    assert "Stop the mails to team@acme.example?" in (await stranger.get(stop)).text
    one_click = await stranger.client.post(
        stop, data={"List-Unsubscribe": "One-Click"}, headers={"origin": "https://mail.example"}
    )
    assert one_click.status_code == 200 and "have stopped" in one_click.text
    assert "stopped these mails" in (await browser.get(base)).text
    assert (await browser.post(f"{base}/test", channel=channel)).status_code == 422 and len(box.mails) == 2
    await browser.post(f"{base}/ask", channel=channel)
    await stranger.post(path_of(box))
    assert "stopped these mails" not in (await browser.get(base)).text
    for wrong in ("/confirm/nonsense", "/unsubscribe/nonsense", f"{link}x", f"{stop}x"):
        assert (await stranger.get(wrong)).status_code == 404
    mailing.mirror.clock.now += mails.CONFIRMED_WITHIN + timedelta(minutes=2)
    assert (await stranger.get(link)).status_code == 404


async def test_nobody_has_everref_mail_strangers_over_and_over(mailing: Site, box: Postbox) -> None:
    services = mailing.outside.services
    ann, person = await mailing.person("ann"), await mailing.person("ben")
    browser, base = await mailing.signed_in(ann), "/ann/-/settings/channels"
    await browser.get(base)
    page = await browser.follow(await browser.post(base, kind="mail", to="Victim@other.example"))
    for _ in range(3):
        last = await browser.post(f"{base}/ask", channel=channel_in(page.text))
    assert len(box.mails) == mails.TO_ONE and "has been sent 3 mails today" in last.text
    assert last.status_code == 429
    browser = await mailing.signed_in(person)
    await browser.get("/account/channels")
    other = await browser.post("/account/channels", kind="mail", to="victim+1@other.example")
    assert other.status_code == 429 and "There are none yet" in other.text and len(box.mails) == mails.TO_ONE
    whose = Whose(person=person)
    for number in range(flow.MOST_PERSON):
        await flow.add(services, None, whose, "webhook", f"https://h.example/{number}")
    browser = await mailing.signed_in(person)
    await browser.get("/account/channels")
    full = await browser.post("/account/channels", kind="webhook", to="https://h.example/more")
    assert full.status_code == 429 and "which is the limit" in full.text


async def test_channels_belong_to_admins_to_their_person_and_to_whoever_runs_everref(mailing: Site) -> None:
    ann, services = await mailing.person("ann"), mailing.outside.services
    team = await mailing.team(ann)
    ben = await mailing.member(team, "ben", Role.OPERATOR)
    operator = await accounts.first_owner(services.db, services.clock())
    made = await flow.add(services, None, Whose(person=ann), "webhook", "https://h.example/ann")
    ours = await flow.add(services, None, Whose(), "webhook", "https://h.example/ours")
    bens, anns, owners = [await mailing.signed_in(one) for one in (ben, ann, operator)]
    assert (await bens.get("/ann/-/settings/channels")).status_code == 403
    assert "Where to tell people" not in (await bens.get("/ann/-/settings")).text
    for browser, base, channel in (
        (bens, "/account/channels", made.channel.id),
        (anns, "/ann/-/settings/channels", made.channel.id),
        (anns, "/account/channels", ours.channel.id),
    ):
        await browser.get(base)
        for act in ("test", "remove", "change", "ask"):
            assert (await browser.post(f"{base}/{act}", channel=str(channel))).status_code == 404, (base, act)
    assert (await anns.get("/status/channels")).status_code == 404
    assert "h.example" in (await owners.get("/status/channels")).text
    assert "/status/channels" in (await owners.get("/status")).text
    assert "/status/channels" not in (await anns.get("/status")).text


async def test_kinds_and_quiet_hours_are_set_channel_by_channel(mailing: Site) -> None:
    ann = await mailing.person("ann")
    browser, base = await mailing.signed_in(ann), "/account/channels"
    await browser.get(base)
    page = await browser.follow(await browser.post(base, kind="webhook", to="https://h.example/x"))
    channel = channel_in(page.text)
    fields = {
        "channel": channel,
        "name": "Night shift",
        "on": ["failing", "damage"],
        "from": "22:00",
        "to": "07:00",
    }
    await browser.post(f"{base}/change", **fields, zone="Europe/Berlin")
    [kept] = await channels.of(mailing.outside.services.db, Owner(person_id=ann.id))
    assert kept.name == "Night shift" and "failing" not in kept.off and "report" in kept.off
    assert kept.quiet is not None and kept.quiet.zone == "Europe/Berlin"
    assert "Quiet from 22:00 to 07:00 (Europe/Berlin)" in (await browser.get(base)).text
    for wrong, said in (
        ({"from": "22:00", "to": ""}, "Write quiet hours like 22:00 and 07:00"),
        ({"from": "22:00", "to": "22:00"}, "Quiet hours begin and end at different times"),
        ({"zone": "Mars/Base"}, "There is no time zone"),
        ({"name": ""}, "The name must have 1 to 200 characters"),
    ):
        typed = {**fields, "name": "Day shift", "on": ["report"], "zone": "UTC", **wrong}
        answer = await browser.post(f"{base}/change", **typed)
        assert answer.status_code == 422, wrong
        form, _, new = answer.text.partition("Add a place")
        assert said in form and said not in new, wrong
        assert '<details class="gap" open>' in form and "autofocus" in form
        assert f'value="{typed["name"]}"' in form and f'value="{typed["zone"]}"' in form
        assert re.findall(r'value="(\w+)" checked', form) == ["report"]


async def test_without_smtp_url_mail_is_not_offered_and_the_pages_say_what_to_set(site: Site) -> None:
    ann = await site.person("ann")
    browser = await site.signed_in(ann)
    page = (await browser.get("/account/channels")).text
    assert "SMTP_URL" in page and 'value="mail"' not in page
    refused = await browser.post("/account/channels", kind="mail", to="ann@acme.example")
    assert refused.status_code == 422 and "SMTP_URL" in refused.text
    stranger = await site.browser()
    assert "/forgot" not in (await stranger.get("/sign-in")).text
    assert (await stranger.get("/forgot")).status_code == 404
    assert "SMTP_URL" in (await stranger.get("/status")).text


async def test_a_forgotten_password_is_reset_by_a_confirmed_address_alone(
    mailing: Site, box: Postbox
) -> None:
    db, clock = mailing.outside.services.db, mailing.mirror.clock
    ann, ben = await signed_up(mailing, "ann"), await signed_up(mailing, "ben")
    thief = await mailing.signed_in(ann)
    await confirmed_mail(mailing, box, await mailing.signed_in(ann), "/account/channels", "ann@acme.example")
    assert "It is confirmed" in (await thief.get("/account")).text
    stranger, answers = await mailing.browser(), set()
    for email in ("ann@acme.example", "ben@acme.example", "nobody@acme.example", "no address at all"):
        await stranger.get("/forgot")
        answer = await stranger.follow(await stranger.post("/forgot", email=email))
        answers.add((answer.status_code, re.sub(r'data-now="[^"]+"', "", answer.text)))
    await mailing.outside.background.quiet()
    assert len(answers) == 1 and mails.SENT in html.unescape(answers.pop()[1])
    assert len(box.mails) == 2 and box.recipients[-1] == "ann@acme.example"
    link = path_of(box)
    assert "signs you in as Ann" in (await stranger.get(link)).text
    entered = await stranger.post(link.partition("?")[0], **{"new-password": "1"})
    assert entered.headers["location"] == "/account"
    assert (await thief.get("/account")).status_code in (302, 303, 401)  # who was in is out
    await stranger.get("/account")
    await stranger.post("/account/password", password="another fine password")
    signed = await accounts.sign_in_with_password(
        db, "ann@acme.example", "another fine password", clock.now, "203.0.113.5"
    )
    assert signed.id == ann.id and ben.id != ann.id
    other = await mailing.browser()
    assert (await other.post(link.partition("?")[0])).headers["location"] == "/sign-in"  # it works once
    await other.post("/forgot", email="ann@acme.example")
    await mailing.outside.background.quiet()
    clock.now += timedelta(minutes=61)
    assert (await other.post(path_of(box).partition("?")[0])).headers["location"] == "/sign-in"  # for an hour


async def test_another_address_is_not_confirmed_because_the_last_one_was(mailing: Site, box: Postbox) -> None:
    db = mailing.outside.services.db
    ann = await signed_up(mailing, "ann")
    await confirmed_mail(mailing, box, await mailing.signed_in(ann), "/account/channels", "ann@acme.example")
    assert await people.is_email_confirmed(db, ann.id)
    by = By(ann, mailing.mirror.clock.now)
    await accounts.set_profile(db, by, "Ann", "victim@other.example", None)
    assert not await people.is_email_confirmed(db, ann.id)
    assert not await mails.reset_password(mailing.outside.services, "victim@other.example", by.at)
    assert not await mails.reset_password(mailing.outside.services, "ann@acme.example", by.at)


async def test_a_greylisted_link_is_mailed_again_and_the_same(mailing: Site, box: Postbox) -> None:
    ann = await signed_up(mailing, "ann")
    await confirmed_mail(mailing, box, await mailing.signed_in(ann), "/account/channels", "ann@acme.example")
    box.refusals += ["451 greylisted", "451 still"]
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    services: Services = mailing.outside.services
    assert await mails.reset_password(services, "ann@acme.example", services.clock(), pause)
    assert paused == [300, 900] and len(box.mails) == 2


async def test_forgetting_is_limited_by_network_and_by_address(mailing: Site, box: Postbox) -> None:
    ann = await signed_up(mailing, "ann")
    await confirmed_mail(mailing, box, await mailing.signed_in(ann), "/account/channels", "ann@acme.example")
    stranger = await mailing.browser()
    said = [await stranger.post("/forgot", email="ann@acme.example") for _ in range(mails.ASKED + 1)]
    await mailing.outside.background.quiet()
    assert {one.status_code for one in said[:-1]} == {303} and said[-1].status_code == 429
    assert len(box.mails) == 1 + mails.TO_ONE, "the question, and the links"


async def test_an_invitation_is_mailed_and_still_shown(mailing: Site, box: Postbox) -> None:
    ann = await mailing.person("ann")
    browser = await mailing.signed_in(ann)
    await browser.get("/ann/-/settings")
    answer = await browser.post("/ann/-/settings/invitations", email="ben@acme.example", role="viewer")
    page = html.unescape((await browser.follow(answer)).text)
    [link] = box.links()
    assert "The invitation was mailed to ben@acme.example." in page and link in page
    box.refusals.append("550 no such user")
    answer = await browser.post("/ann/-/settings/invitations", email="cas@acme.example", role="viewer")
    page = html.unescape((await browser.follow(answer)).text)
    assert "The invitation was not mailed" in page and "550 no such user" in page and "/invitations/" in page


async def test_who_invites_somebody_keeps_no_link_from_them(mailing: Site, box: Postbox) -> None:
    services, now = mailing.outside.services, mailing.mirror.clock.now
    ann = await signed_up(mailing, "ann")
    await services.db.execute("update person set email_confirmed_at = $1", now)
    eve = await mailing.person("eve")
    for _ in range(mails.TO_ONE):
        await mails.invite(services, eve.id, "Eve", "eve", "ann@acme.example", f"{ORIGIN}/i", now)
    assert ann.email is not None and await mails.reset_password(services, ann.email, now)
    assert box.mails[-1]["Subject"] == "Set a new password for Everref"


async def test_a_name_is_no_link_in_a_mail_to_a_stranger(mailing: Site, box: Postbox) -> None:
    bait = (
        "Your account ends: https://evil.example/login www\uff0eevil\u3002example a@evil.example " + "x" * 90
    )
    eve = replace(await mailing.person("eve"), name=bait)
    services, now = mailing.outside.services, mailing.mirror.clock.now
    await mails.invite(services, eve.id, eve.name, "eve", "bob@acme.example", f"{ORIGIN}/i", now)
    await flow.add(services, By(eve, now), Whose(person=eve), "mail", "bob@acme.example")
    assert len(box.mails) == 2
    for mail in box.mails:
        body = mail.get_body(("plain",))
        assert body is not None
        said = f"{mail['Subject']} {body.get_content()}"
        assert "evil" in said and "evil.example" not in said and "evil/" not in said
        assert "https://evil" not in said and "a@evil" not in said and "xxxx" not in said
    assert mails.called("J. R. Öztürk-Smith, jr.") == "J. R. Öztürk-Smith, jr."


async def test_a_sign_in_from_a_new_place_is_told_once(site: Site) -> None:
    db, clock = site.outside.services.db, site.mirror.clock
    ann = await signed_up(site, "ann")
    home = await site.team(ann)

    async def enter(address: str) -> int:
        await accounts.sign_in_with_password(db, "ann@acme.example", PASSWORD, clock.now, address)
        return len([one for one in await notices.open_of(db, home.id) if one.kind == "sign-in"])

    assert [await enter(one) for one in ("203.0.113.5", "198.51.100.7", "198.51.100.7")] == [0, 1, 1]
    [notice] = await notices.open_of(db, home.id)
    assert "from 198.51.100.7" in notice.message and not notice.lasts
    browser = await site.signed_in(ann)
    await browser.get("/ann")
    await browser.post(f"/ann/-/notices/{notice.id}/seen")
    assert await notices.open_of(db, home.id) == []


async def test_the_admin_of_smtp_url_is_told_of_the_installation(site: Site) -> None:
    services = site.outside.services
    db, keyring = services.db, services.keyring
    assert keyring is not None
    for address in ("op@acme.example", "op@acme.example", "other@acme.example", None):
        await channels.ensure_admin(db, keyring, address, services.clock())
        assert [one.shown for one in await channels.of(db, Owner())] == ([address] if address else [])


async def test_programs_list_add_change_test_and_remove_a_teams_channels(
    mailing: Site, receiver: Receiver
) -> None:
    ann = await mailing.person("ann")
    team = await mailing.team(ann)
    browser = await mailing.browser()
    bearer = {"authorization": f"Bearer {await mailing.token(ann, team, ('read', 'admin'))}"}
    calls, client = "/api/v1/teams/ann/channels", browser.client
    wanted = {"kind": "webhook", "to": f"{receiver.url}/s3cret", "name": "pager"}
    made = (await client.post(calls, json=wanted, headers=bearer)).json()
    assert made["channel"]["name"] == "pager" and made["key"].startswith("whsec_")
    one = f"{calls}/{made['channel']['id']}"
    tested = await client.post(f"{one}/test", headers=bearer)
    assert tested.json() == {"answer": "200: thanks"} and receiver.verified(made["key"])["type"] == "test"
    quiet = {"start": "22:00", "end": "07:00", "zone": "Europe/Berlin"}
    changed = (await client.patch(one, json={"off": ["report"], "quiet": quiet}, headers=bearer)).json()
    assert (changed["off"], changed["quiet"], changed["name"]) == (["report"], quiet, "pager")
    wrong = await client.patch(one, json={"off": ["nonsense"]}, headers=bearer)
    assert wrong.status_code == 400 and "there are behind" in wrong.json()["detail"]
    other = (await client.post(f"{one}/key", json={}, headers=bearer)).json()
    assert other["key"] != made["key"]
    listed = (await client.get(calls, headers=bearer)).text
    assert "pager" in listed and "s3cret" not in listed and "whsec_" not in listed
    assert (await client.delete(one, headers=bearer)).status_code == 204
    assert (await client.get(calls, headers=bearer)).json()["items"] == []
    reading = {"authorization": f"Bearer {await mailing.token(ann, team)}"}
    assert (await client.get(calls, headers=reading)).status_code == 403
