"""What takes something away for ever: asked for by one person, confirmed by another, done days later.

Ann owns the team; Bob has long been an admin; a thief has Ann's session.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from mirror.core import words
from mirror.core.errors import NetworkError, NotAllowed, NotFound, Refused, UsageError
from mirror.core.rules.keeping import pending as rules
from mirror.core.rules.keeping.pending import Admin, Asked, Kind
from mirror.core.rules.roles import PersonId, Role
from mirror.core.smtp import Smtp
from mirror.jobs import pending as jobs
from mirror.people import members
from mirror.people import pending as flow
from mirror.people.acting import By
from mirror.store.people import audit, links, notices, people, teams, tokens
from mirror.store.people import pending as rows
from mirror.store.people.pending import Pending
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from tests.parts.chain import START
from tests.parts.everref import Mirror
from tests.parts.mail import Postbox
from tests.parts.pending import days_pass

DAY = timedelta(days=1)
MONTH = timedelta(days=30)
SECOND = timedelta(seconds=1)


@dataclass
class Acme:
    """A team, and who acts in it; `at` is the time by everybody's clock."""

    mirror: Mirror
    team: Team
    ann: Person
    bob: Person

    def by(self, person: Person) -> By:
        return By(person, self.mirror.clock.now, "192.0.2.1")

    def wait(self, time: timedelta) -> None:
        self.mirror.clock.now += time

    async def joined(self, name: str, role: Role) -> Person:
        person = await people.add(
            self.mirror.services.db, name, self.mirror.clock.now, team_name=name.lower()
        )
        await teams.add(self.mirror.services.db, self.team.id, person.id, role, self.mirror.clock.now)
        return person

    async def ask(self, by: By | None, days: int = 9) -> Pending:
        """Ask for fewer days; the team has 30."""
        return await flow.ask(
            self.mirror.services, by, self.team, Kind.SHORTEN_DELAY, {"days": days}, why="cost"
        )

    async def days(self) -> int:
        return await rows.days(self.mirror.services.db, self.team.id)

    async def now(self, one: Pending) -> str:
        found = await rows.find(self.mirror.services.db, one.id)
        assert found is not None
        return found.state(self.mirror.clock.now)


@pytest.fixture
async def acme(mirror: Mirror) -> Acme:
    db = mirror.services.db
    mirror.clock.step = timedelta()
    before = mirror.clock.now - 90 * DAY
    ann, bob = [await people.add(db, name, before, team_name=name.lower()) for name in ("Ann", "Bob")]
    team = await teams.add_named(db, "acme", before)
    await teams.add(db, team.id, ann.id, Role.OWNER, before)
    await teams.add(db, team.id, bob.id, Role.ADMIN, before)
    await rows.set_days(db, team.id, 30)
    return Acme(mirror, team, ann, bob)


async def test_a_second_person_confirms_and_days_later_it_is_done(acme: Acme) -> None:
    services = acme.mirror.services
    one = await acme.ask(acme.by(acme.ann))
    acme.wait(40 * DAY - 11 * DAY)
    await jobs.due(services)
    assert await acme.now(one) == "asked"  # however long it waits
    with pytest.raises(NotAllowed, match="you asked for this yourself"):
        await flow.confirm(services, acme.by(acme.ann), one.id)
    agreed = await flow.confirm(services, acme.by(acme.bob), one.id, acme.team)
    assert agreed.takes_effect_at == acme.mirror.clock.now + 30 * DAY
    await days_pass(acme.mirror, 30 * DAY - SECOND)
    await jobs.due(services)
    assert await acme.days() == 30
    acme.wait(SECOND)
    await jobs.due(services)
    await jobs.due(services)  # safe to run twice
    assert (await acme.now(one), await acme.days()) == ("done", 9)
    said = [notice.message for notice in reversed(await notices.page(services.db, acme.team.id))]
    assert [text.split(" ")[0] for text in said] == ["Ann", "Bob", "At", "Everref"]
    assert "The reason given: cost" in said[0]
    log = [entry.entry.action for entry in await audit.page(services.db, acme.team.id)]
    assert log == [
        "pending.shorten-delay.done",
        "pending.confirm",
        "pending.confirm",  # what Ann tried
        "pending.shorten-delay",
    ]
    assert await audit.check(services.db, acme.team.id) is None


async def test_a_stolen_session_of_an_owner_alone_destroys_nothing(acme: Acme) -> None:
    """The thief lets an account of their own in, takes Bob's over by a link, and removes him in the end."""
    services, db = acme.mirror.services, acme.mirror.services.db
    thief = await acme.joined("Thief", Role.OWNER)
    acme.wait(SECOND)
    one = await acme.ask(acme.by(acme.ann))
    with pytest.raises(NotAllowed, match="has been an admin or owner for 30 days"):
        await flow.confirm(services, acme.by(thief), one.id)
    late = await acme.joined("Late", Role.ADMIN)
    with pytest.raises(NotAllowed, match="after this was asked for"):
        await flow.confirm(services, acme.by(late), one.id)
    await links.make(db, acme.bob.id, acme.mirror.clock.now, DAY, made_by=acme.ann.id, team_id=acme.team.id)
    with pytest.raises(NotAllowed, match="given a sign-in link"):
        await flow.confirm(services, acme.by(acme.bob), one.id)
    await members.remove_member(db, acme.by(acme.ann), acme.team, acme.bob.id)
    await members.remove_member(db, acme.by(acme.ann), acme.team, late.id)
    await members.remove_member(db, acme.by(acme.ann), acme.team, thief.id)
    acme.wait(SECOND)
    other = await acme.ask(acme.by(acme.ann), 8)
    assert not other.is_alone  # whoever was removed lately still counts
    assert [row.id for row in await rows.of_former(db, acme.bob.id)] == [other.id, one.id]
    done = await flow.cancel(services, acme.by(acme.bob), one.id)  # and can stop it
    assert done.cancelled_name == "Bob"


async def test_a_team_of_one_waits_twice_as_long_instead(acme: Acme) -> None:
    await members.remove_member(acme.mirror.services.db, acme.by(acme.ann), acme.team, acme.bob.id)
    acme.wait(MONTH + SECOND)
    one = await acme.ask(acme.by(acme.ann))
    assert one.is_alone and one.takes_effect_at == acme.mirror.clock.now + 60 * DAY
    await days_pass(acme.mirror, 60 * DAY)
    await jobs.due(acme.mirror.services)
    assert await acme.now(one) == "done"


async def test_whoever_runs_everref_only_asks_too(acme: Acme) -> None:
    services = acme.mirror.services
    one = await acme.ask(None)
    with pytest.raises(Refused, match="you asked for this yourself"):
        await flow.confirm(services, None, one.id)
    assert (await flow.confirm(services, acme.by(acme.bob), one.id)).confirmed_name == "Bob"
    other = await acme.ask(acme.by(acme.ann), 8)
    assert (await flow.confirm(services, None, other.id)).takes_effect_at is not None


async def test_the_same_asked_for_again_does_not_begin_its_days_anew(acme: Acme) -> None:
    one = await acme.ask(acme.by(acme.ann))
    acme.wait(DAY)
    assert (await acme.ask(acme.by(acme.ann))).id == one.id
    assert (await acme.ask(None)).id == one.id
    await flow.cancel(acme.mirror.services, acme.by(acme.bob), one.id)
    assert (await acme.ask(acme.by(acme.ann))).id != one.id


async def test_cancelled_at_the_last_moment_exactly_one_of_the_two_wins(acme: Acme) -> None:
    services, db = acme.mirror.services, acme.mirror.services.db
    for round in range(6):
        one = await acme.ask(None, 8 + round)
        await flow.confirm(services, acme.by(acme.bob), one.id)
        await days_pass(acme.mirror, 30 * DAY)
        cancelled, begun = await asyncio.gather(
            flow.cancel(services, acme.by(acme.bob), one.id),
            rows.begin(db, one.id, acme.mirror.clock.now),
            return_exceptions=True,
        )
        assert isinstance(begun, bool)
        assert isinstance(cancelled, Refused) == begun
        if begun:
            with pytest.raises(Refused, match="it has begun"):
                await flow.cancel(services, acme.by(acme.ann), one.id)


async def test_what_nobody_confirms_lapses(acme: Acme) -> None:
    services = acme.mirror.services
    one = await acme.ask(acme.by(acme.ann))
    acme.wait(MONTH + SECOND)
    await jobs.due(services)
    assert await acme.now(one) == "lapsed"
    with pytest.raises(Refused, match="nobody confirmed it in time"):
        await flow.confirm(services, acme.by(acme.bob), one.id)


async def test_a_try_that_fails_is_made_again_and_one_that_is_refused_ends(
    acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = acme.mirror.services
    tries = iter([NetworkError("the vault is away"), Refused("it is held")])

    async def fails(*_: object) -> dict[str, int]:
        raise next(tries)

    monkeypatch.setitem(jobs.CARRY_OUT, Kind.SHORTEN_DELAY, fails)
    one = await acme.ask(acme.by(acme.ann))
    await flow.confirm(services, acme.by(acme.bob), one.id)
    await days_pass(acme.mirror, 30 * DAY)
    await jobs.due(services)
    assert await acme.now(one) == "under-way"
    await jobs.due(services)  # too soon
    acme.wait(rules.RETRY)
    await jobs.due(services)
    assert await acme.now(one) == "failed"
    said = (await notices.page(services.db, acme.team.id))[0].message
    assert said.startswith("Everref could not carry out the request of Ann to let such actions of acme")
    assert said.endswith(": it is held")


async def test_after_a_time_in_which_nothing_ran_people_are_told_and_have_their_day(acme: Acme) -> None:
    """The worker stood still from the confirmation until long after it was to take effect."""
    services, db = acme.mirror.services, acme.mirror.services.db
    one = await acme.ask(acme.by(acme.ann))
    await flow.confirm(services, acme.by(acme.bob), one.id)
    acme.wait(100 * DAY)
    assert not await rows.begin(db, one.id, acme.mirror.clock.now)  # whoever tries it
    await jobs.due(services)
    await jobs.due(services)  # safe to run twice: told once, put off once
    told = await rows.find(db, one.id)
    later = acme.mirror.clock.now + DAY
    assert told is not None and (told.soon_told_at, told.takes_effect_at) == (later - DAY, later)
    said = [notice.message for notice in await notices.page(db, acme.team.id)]
    assert [text for text in said if "last day to cancel" in text] == [said[0]]
    assert said[0].startswith(f"At {words.minute(later)} Everref will let such actions")
    acme.wait(DAY - SECOND)
    await jobs.due(services)
    assert (await acme.now(one), await acme.days()) == ("agreed", 30)
    acme.wait(SECOND)
    await jobs.due(services)
    assert (await acme.now(one), await acme.days()) == ("done", 9)


async def test_what_is_told_in_time_takes_effect_when_it_was_said_to(acme: Acme) -> None:
    services = acme.mirror.services
    one = await acme.ask(acme.by(acme.ann))
    agreed = await flow.confirm(services, acme.by(acme.bob), one.id)
    acme.wait(29 * DAY - rules.EARLIER - SECOND)
    await jobs.due(services)
    assert (await flow.get(services, one.id)).soon_told_at is None
    acme.wait(jobs.EVERY)  # the sweep a minute later
    await jobs.due(services)
    told = await flow.get(services, one.id)
    assert (told.soon_told_at, told.takes_effect_at) == (acme.mirror.clock.now, agreed.takes_effect_at)


async def test_a_clock_that_is_ahead_tells_nobody_that_it_comes(
    acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = acme.mirror.services
    one = await acme.ask(acme.by(acme.ann))
    await flow.confirm(services, acme.by(acme.bob), one.id)

    async def behind() -> datetime:
        return acme.mirror.clock.now - 365 * DAY

    with monkeypatch.context() as patched:
        patched.setattr(type(services.vault), "now", lambda _: behind())
        acme.wait(365 * DAY)
        await jobs.due(services)
    known = await flow.get(services, one.id)
    assert (known.soon_told_at, known.state(acme.mirror.clock.now)) == (None, "agreed")


async def test_more_days_are_set_at_once_and_fewer_are_asked_for(acme: Acme) -> None:
    services, by = acme.mirror.services, acme.by(acme.ann)
    assert await flow.set_days(services, by, acme.team, 45) is None
    assert await acme.days() == 45
    asked = await flow.set_days(services, by, acme.team, 7)
    assert asked is not None and await acme.days() == 45
    with pytest.raises(UsageError, match="7 to 365"):
        await flow.set_days(services, by, acme.team, 6)


async def test_who_may_not_ask_is_refused(acme: Acme) -> None:
    db = acme.mirror.services.db
    vera, dora = await acme.joined("Vera", Role.VIEWER), await people.add(db, "Dora", START, team_name="dora")
    for person, error in ((vera, Refused), (acme.bob, Refused), (dora, NotFound)):
        with pytest.raises(error):
            await acme.ask(acme.by(person))
    _, made = await tokens.make(
        db, acme.ann.id, acme.team.id, "ci", frozenset({"admin"}), None, acme.mirror.clock.now
    )
    with pytest.raises(NotAllowed, match="an API token cannot"):
        await acme.ask(replace(acme.by(acme.ann), token=made.id))
    with pytest.raises(NotAllowed, match="only an admin or owner"):
        one = await acme.ask(acme.by(acme.ann))
        await flow.cancel(acme.mirror.services, acme.by(vera), one.id)


async def test_everybody_is_mailed_once_at_each_stage_also_who_was_removed(
    acme: Acme, make_postbox: Callable[..., Awaitable[Postbox]]
) -> None:
    box, services, db = (
        await make_postbox(tls=False, auth=False),
        acme.mirror.services,
        acme.mirror.services.db,
    )
    smtp = Smtp("127.0.0.1", box.port, "none", None, None, "everref@acme.example", "Everref", None)
    services = replace(services, settings=replace(services.settings, smtp=smtp, allow_private_remotes=True))
    for name in ("ann", "bob"):
        await db.execute("update person set email = $2 where name = $1", name.title(), f"{name}@acme.example")
        await db.execute("update person set email_confirmed_at = now() where name = $1", name.title())
    unconfirmed = await acme.joined("Carl", Role.OWNER)
    await db.execute("update person set email = 'carl@acme.example' where id = $1", unconfirmed.id)
    one = await acme.ask(acme.by(acme.ann))
    await members.remove_member(db, acme.by(acme.ann), acme.team, acme.bob.id)
    box.refusals = ["451 come back later"]
    await jobs.due(services)
    await jobs.due(services)
    await jobs.due(services)  # whoever was mailed is not mailed again
    assert sorted(box.recipients) == ["ann@acme.example", "bob@acme.example"]
    assert {str(mail["subject"]) for mail in box.mails} == {
        "Ann asked to let such actions of acme take effect sooner"
    }
    assert box.links()[0].endswith("/account/pending")
    await flow.confirm(services, None, one.id)
    acme.wait(29 * DAY)
    await jobs.due(services)
    assert (
        str(box.mails[-1]["subject"]) == "Tomorrow Everref will let such actions of acme take effect sooner"
    )
    acme.wait(DAY)
    await jobs.due(services)
    assert str(box.mails[-1]["subject"]).startswith("Done, as Ann asked: ")
    assert len(box.recipients) == 6


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        (dict(), True),
        (dict(person_id=PersonId(UUID(int=1))), False),
        (dict(since=START), False),
        (dict(since=START - 6 * DAY), False),
        (dict(left_at=START - DAY), False),
        (dict(role=Role.OPERATOR), False),
    ],
    ids=["long there", "who asked", "let in after it", "let in just before", "left", "operator"],
)
def test_who_is_a_second_person(who: dict[str, object], allowed: bool) -> None:
    admin = replace(Admin(PersonId(UUID(int=2)), "Bob", Role.ADMIN, START - 90 * DAY), **who)  # type: ignore[arg-type]
    asked = Asked(PersonId(UUID(int=1)), False, START)
    assert (rules.may_confirm(asked, admin, START, 7) is None) == allowed
