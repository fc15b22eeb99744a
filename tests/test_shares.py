"""Share links: what they cover, when they end, and what is known of those who used them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio

from mirror.backup import sync
from mirror.core.errors import NotFound, OverLimit, TooOften, UsageError
from mirror.core.model import Repo
from mirror.core.rules import shares as rules
from mirror.core.rules.roles import Role
from mirror.core.rules.shares import State
from mirror.people import accounts, limits, members
from mirror.people.acting import By
from mirror.people.api_tokens import make_token, revoke_token
from mirror.restore import shares
from mirror.restore.shares import Sending, Wanted
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.people import audit, links, people, teams
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.store.restore import shares as rows
from mirror.store.restore.shares import Share
from mirror.upkeep.erasure import forget
from tests.parts.everref import Mirror
from tests.parts.repos import Work

HERE, ELSEWHERE = "192.0.2.7", "198.51.100.9"
PASSWORD = "a long enough one"


@dataclass
class Acme:
    """A team of Alice's and Bob the operator's, with one repo of one snapshot."""

    mirror: Mirror
    team: Team
    repo: Repo
    alice: Person
    bob: Person

    def by(self, person: Person) -> By:
        return By(person, self.mirror.clock(), HERE)

    async def share(self, **wanted: object) -> tuple[str, Share]:
        """A link of Bob's."""
        services = self.mirror.services
        snapshot = await snapshots.get(services.db, self.repo.id, 1)
        assert snapshot is not None
        asked = Wanted(**({"snapshot": snapshot} | wanted))  # type: ignore[arg-type]
        return await shares.make(services, self.by(self.bob), self.team, self.repo, asked)

    async def state(self, share: Share) -> State:
        found = await rows.find(self.mirror.services.db, self.team.id, share.id, self.mirror.clock())
        assert found is not None
        return found.state


@pytest_asyncio.fixture
async def acme(mirror: Mirror, work: Work) -> Acme:
    db, now = mirror.services.db, mirror.clock.now
    alice = await people.add(db, "Alice", now, team_name="acme")
    bob = await people.add(db, "Bob", now, team_name="bob")
    team = await teams.home(db, alice.id)
    assert team is not None
    await teams.add(db, team.id, bob.id, Role.OPERATOR, now)
    work.commit()
    work.commit("secret", {"key": b"a key that is nobody's business"})
    work.head("main")
    repo = await repos.add(db, team.id, "api", str(work.path), now)
    await sync.sync(mirror.services, repo.id)
    return Acme(mirror, team, repo, alice, bob)


@pytest.mark.parametrize(
    ("text", "most", "hours"),
    [("7", None, 168), ("1h", None, 1), ("90d", None, 2160), ("2 weeks", 30, 336)],
)
def test_how_long_a_link_works_is_said_in_days_or_otherwise(text: str, most: int | None, hours: int) -> None:
    assert rules.lasting(text, most) == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("text", "most"),
    [("59m", None), ("91", None), ("91", 1000), ("31", 30), ("soon", None), ("9" * 30, None), ("", None)],
)
def test_no_link_works_for_less_than_an_hour_or_longer_than_the_team_may(text: str, most: int | None) -> None:
    with pytest.raises(UsageError):
        rules.lasting(text, most)


async def _revoke(acme: Acme, share: Share) -> None:
    await shares.revoke(acme.mirror.services, acme.by(acme.alice), acme.team, share.id)


async def _expire(acme: Acme, share: Share) -> None:
    acme.mirror.clock.now = share.expires_at


async def _use_up(acme: Acme, share: Share) -> None:
    await rows.use_up(acme.mirror.services.db, share.id, acme.mirror.clock())


async def _lose_the_role(acme: Acme, share: Share) -> None:
    await members.change_role(
        acme.mirror.services.db, acme.by(acme.alice), acme.team, acme.bob.id, Role.VIEWER
    )


async def _lose_the_role_for_a_while(acme: Acme, share: Share) -> None:
    await _lose_the_role(acme, share)
    await members.change_role(
        acme.mirror.services.db, acme.by(acme.alice), acme.team, acme.bob.id, Role.ADMIN
    )


async def _set_a_password(acme: Acme, share: Share) -> None:
    db, by = acme.mirror.services.db, acme.by(acme.bob)
    named = await accounts.set_profile(db, by, "Bob", "bob@example.org", None)
    await accounts.set_password(db, By(named, by.at, HERE), PASSWORD)


async def _use_a_one_time_link(acme: Acme, share: Share) -> None:
    db, now = acme.mirror.services.db, acme.mirror.clock()
    raw = await links.make(db, acme.bob.id, now, timedelta(hours=1))
    await accounts.sign_in_with_link(db, raw, now, HERE)


async def _begin_and_wait_an_hour(acme: Acme, share: Share) -> None:
    await shares.begin(acme.mirror.services, share, "bundle", ELSEWHERE)
    acme.mirror.clock.now += rules.CLAIMED


async def _leave(acme: Acme, share: Share) -> None:
    await members.leave(acme.mirror.services.db, acme.by(acme.bob), acme.team)


async def _leave_and_come_back(acme: Acme, share: Share) -> None:
    await _leave(acme, share)
    await teams.add(acme.mirror.services.db, acme.team.id, acme.bob.id, Role.OWNER, acme.mirror.clock())


async def _delete_the_account(acme: Acme, share: Share) -> None:
    await acme.mirror.services.db.execute("delete from person where id = $1", acme.bob.id)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (_revoke, "revoked"),
        (_expire, "expired"),
        (_use_up, "used"),
        (_lose_the_role, "role"),
        (_lose_the_role_for_a_while, "role"),
        (_set_a_password, "password"),
        (_use_a_one_time_link, "password"),
        (_begin_and_wait_an_hour, "used"),
        (_leave, "left"),
        (_leave_and_come_back, "left"),
        (_delete_the_account, "person"),
    ],
)
async def test_a_link_that_ended_is_as_one_that_never_was_and_the_list_says_why(
    acme: Acme, end: Callable[[Acme, Share], Awaitable[None]], state: State
) -> None:
    services = acme.mirror.services
    raw, share = await acme.share(once=True)
    assert (await shares.opened(services, raw)).id == share.id
    with pytest.raises(NotFound) as never:
        await shares.opened(services, "x" * len(raw))
    await end(acme, share)
    with pytest.raises(NotFound) as ended:
        await shares.opened(services, raw)
    assert str(ended.value) == str(never.value)
    assert await acme.state(share) == state


async def test_a_link_that_an_api_token_made_ends_with_the_token(acme: Acme) -> None:
    db = acme.mirror.services.db
    _, token = await make_token(db, acme.by(acme.bob), acme.team, "ci", {"restore"})
    snapshot = await snapshots.get(db, acme.repo.id, 1)
    assert snapshot is not None
    by = By(acme.bob, acme.mirror.clock(), HERE, token=token.id)
    _, share = await shares.make(acme.mirror.services, by, acme.team, acme.repo, Wanted(snapshot=snapshot))
    await revoke_token(db, acme.by(acme.bob), acme.team, token.id)
    assert await acme.state(share) == "token"


async def test_a_link_of_the_command_line_is_no_accounts_and_ends_when_it_is_revoked_or_its_repo_goes(
    acme: Acme,
) -> None:
    services, clock = acme.mirror.services, acme.mirror.clock
    snapshot = await snapshots.get(services.db, acme.repo.id, 1)
    assert snapshot is not None
    asked = Wanted(snapshot=snapshot)
    (_, revoked), (raw, kept) = [
        await shares.make(services, None, acme.team, acme.repo, asked) for _ in range(2)
    ]
    assert {revoked.issuer, kept.issuer} == {"command line (operator of this installation)"}
    newest = (await audit.page(services.db, acme.team.id, action="share"))[0].entry
    assert (newest.action, newest.actor, newest.person_id) == ("share.add", "whoever runs Everref", None)
    assert newest.detail["issuer"] == kept.issuer
    for ends in (_set_a_password, _leave):
        await ends(acme, kept)
    assert await acme.state(kept) == "live"
    await _revoke(acme, revoked)
    assert await acme.state(revoked) == "revoked"
    assert (await shares.opened(services, raw)).id == kept.id
    await forget.forget(services, acme.repo.id, None)
    with pytest.raises(NotFound):
        await shares.opened(services, raw)
    assert not await rows.is_live(services.db, kept.id, clock(), HERE)  # as asked while bytes are sent


async def test_the_vault_and_the_database_hold_no_token_and_no_password(acme: Acme) -> None:
    raw, share = await acme.share(password=PASSWORD)
    stored = await acme.mirror.services.db.fetchval("select share::text from share")
    assert raw not in stored and PASSWORD not in stored
    assert PASSWORD not in repr(share) and "argon2" not in repr(share)


async def test_a_link_that_works_once_is_held_for_who_began_to_fetch_it(acme: Acme) -> None:
    services, clock = acme.mirror.services, acme.mirror.clock
    raw, share = await acme.share(once=True)
    await shares.begin(services, share, "page", ELSEWHERE)  # looking uses nothing up
    await shares.hold(services, share, HERE)
    clock.now += rules.CLAIMED  # nothing was fetched in that hour
    await shares.begin(services, share, "bundle", HERE)
    await shares.begin(services, share, "bundle", HERE)  # it broke off, and goes on
    with pytest.raises(NotFound, match="somebody else is using this link"):
        await shares.begin(services, share, "clone", ELSEWHERE)
    sending = Sending(services, share, "clone", HERE)
    clock.now += rules.CLAIMED  # it was never fetched whole
    with pytest.raises(NotFound):
        await shares.go_on(services, share, "bundle", ELSEWHERE)
    with pytest.raises(NotFound):
        await shares.go_on(services, share, "bundle", HERE)
    assert await rows.is_live(services.db, share.id, clock(), HERE)  # what is under way goes on
    assert not await rows.is_live(services.db, share.id, clock(), ELSEWHERE)
    assert [chunk async for chunk in sending.counted(_chunks(3))] == [b"xx"] * 3
    await sending.finish()
    await sending.finish()  # safe to run twice
    assert await acme.state(share) == "used"
    found = await rows.find(services.db, acme.team.id, share.id, clock())
    assert found is not None
    assert (found.uses, found.bytes) == (2, 6)
    assert not await rows.is_live(services.db, share.id, clock(), HERE)


async def test_what_is_ticked_goes_on_when_a_password_is_set_and_the_rest_is_audited(acme: Acme) -> None:
    db, by = acme.mirror.services.db, acme.by(acme.bob)
    _, kept = await acme.share()
    _, other = await acme.share()
    named = await accounts.set_profile(db, by, "Bob", "bob@example.org", None)
    assert [one.id for one in await rows.of_person(db, acme.bob.id, by.at)] == [other.id, kept.id]
    keep = accounts.Grants(shares=frozenset({kept.id}))
    await accounts.set_password(db, By(named, by.at, HERE), PASSWORD, keep=keep)
    assert (await acme.state(kept), await acme.state(other)) == ("live", "password")
    assert [one.id for one in await rows.of_person(db, acme.bob.id, by.at)] == [kept.id]
    newest = (await audit.page(db, acme.team.id))[0].entry
    assert (newest.action, newest.detail) == ("share.revoke", {"share": str(other.id)})


async def _chunks(count: int) -> AsyncGenerator[bytes, None]:
    for _ in range(count):
        yield b"xx"


async def test_who_sends_bytes_learns_that_the_link_has_ended(acme: Acme) -> None:
    _, share = await acme.share(once=True)
    sending = Sending(acme.mirror.services, share, "bundle", HERE)
    waits = asyncio.create_task(sending.link_ends())
    stream = sending.counted(_chunks(2))
    assert await anext(stream) == b"xx"
    await _revoke(acme, share)
    await waits
    await stream.aclose()
    await sending.finish()
    assert not sending.whole
    assert await acme.state(share) == "revoked"


async def test_who_guesses_a_password_locks_out_themselves_and_nobody_who_has_been_in(
    acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = acme.mirror.services
    monkeypatch.setattr(shares, "TRIES", 2)  # a hash takes its time
    acme.mirror.clock.step = timedelta()
    _, share = await acme.share(password=PASSWORD)
    assert await shares.is_right(services, share, PASSWORD, HERE)
    for _ in range(shares.TRIES):
        assert not await shares.is_right(services, share, "another long one", ELSEWHERE)
    with pytest.raises(TooOften):
        await shares.is_right(services, share, PASSWORD, ELSEWHERE)
    await services.db.execute("update tries set count = $1", shares.TRIES_OF + 1)  # of everybody
    with pytest.raises(TooOften):
        await shares.is_right(services, share, PASSWORD, "203.0.113.5")
    await services.db.execute("update tries set count = 1")
    for _ in range(shares.TRIES + 1):
        assert await shares.is_right(services, share, PASSWORD, HERE)
    assert [(use.what, use.times) for use in await rows.uses(services.db, share.id)] == [
        ("password", shares.TRIES)
    ]


async def test_ten_thousand_uses_are_a_few_rows_and_a_few_audit_entries(acme: Acme) -> None:
    services, clock = acme.mirror.services, acme.mirror.clock
    clock.step = timedelta()
    _, share = await acme.share()
    for number in range(150):
        await shares.begin(services, share, "bundle", f"192.0.2.{number % 3}")
    for number in range(shares.AUDITED + 20):
        await shares.begin(services, share, "clone", f"198.51.100.{number}")
    found = await rows.uses(services.db, share.id)
    assert len(found) == rows.USES
    entries = await audit.page(services.db, acme.team.id, limit=1000, action="share.use")
    assert len(entries) == shares.AUDITED
    last = entries[-1].entry
    assert (last.address, last.repo_id, last.detail["what"]) == ("192.0.2.0", acme.repo.id, "bundle")
    assert (await rows.totals(services.db))["bundle"] == (150, 0)
    assert not await audit.check(services.db, acme.team.id)


async def test_only_refs_that_are_there_can_be_shared(acme: Acme) -> None:
    with pytest.raises(NotFound, match="no ref like nothing"):
        await acme.share(globs=["nothing*"])
    raw, share = await acme.share(globs=["main"])
    covers = await shares.covered(acme.mirror.services, await shares.opened(acme.mirror.services, raw))
    refs = await shares.refs_of(acme.mirror.services, covers.repo, covers.snapshot, share.globs)
    assert shares.branches(refs) == [b"refs/heads/main"]


async def test_a_team_has_as_many_links_and_days_as_it_may(acme: Acme) -> None:
    services = acme.mirror.services
    await limits.of(services, "acme", {"shares": 1, "share-days": 30}, acme.mirror.clock())
    assert await shares.most_days(services, acme.team) == 30
    _, share = await acme.share()
    with pytest.raises(OverLimit):
        await acme.share()
    await _revoke(acme, share)
    await acme.share()


async def test_links_are_forgotten_long_after_they_ended(acme: Acme) -> None:
    _, share = await acme.share()
    acme.mirror.clock.now = share.expires_at + shares.KEPT - timedelta(hours=1)
    await shares.forget(acme.mirror.services)
    assert await acme.state(share) == "expired"
    acme.mirror.clock.now += timedelta(hours=1)
    await shares.forget(acme.mirror.services)
    assert await acme.mirror.services.db.fetchval("select count(*) from share") == 0
