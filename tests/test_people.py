"""Who gets in, as whom, and what members may do to a team: with Ann, Bob and Carol."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import BadCredentials, LimitReached, NotFound, Refused, UsageError
from mirror.core.keyring import Keyring
from mirror.core.rules import roles as rules
from mirror.core.rules.roles import RESERVED, Role
from mirror.people import accounts as flow
from mirror.people import acting, api_tokens, members
from mirror.people.acting import By
from mirror.store import repos
from mirror.store.people import attempts, audit, invitations, known_networks, links, people, sessions, teams
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from tests.parts.chain import START

KEYS = Keyring(["k" * 32])
HERE = "192.0.2.1"
GOOD = "correct horse 1"
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def ann(db: asyncpg.Pool) -> Person:
    return await flow.sign_up(db, "Ann@Example.org ", GOOD, "Ann", START, HERE)


async def somebody(db: asyncpg.Pool, name: str) -> By:
    return By(await people.add(db, name, START, team_name=name.lower()), START, HERE)


async def own(db: asyncpg.Pool, by: By) -> Team:
    found = await teams.home(db, by.person.id)
    assert found is not None
    return found


async def joined(db: asyncpg.Pool, team: Team, name: str, role: Role) -> By:
    """Somebody new who is a member with this role."""
    by = await somebody(db, name)
    assert await teams.add(db, team.id, by.person.id, role, START)
    return by


async def done(db: asyncpg.Pool, team: Team) -> list[tuple[str, str, str]]:
    """The audit log, in order: who, what, with which result."""
    entries = [one.entry for one in await audit.page(db, team.id)]
    assert await audit.check(db, team.id) is None
    return [(one.actor, one.action, one.result) for one in reversed(entries)]


# Names, addresses and passwords.


@given(st.text())
def test_whatever_somebody_is_called_there_is_a_name_for_their_team(text: str) -> None:
    rules.check_team_name(rules.team_name(text))


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("Ann", "ann"),
        ("Søren Å. Bö", "sren-a-bo"),
        ("  ", "my-team"),
        ("API", "api-team"),
        ("x" * 99, "x" * 60),
    ],
    ids=ascii,
)
def test_a_teams_name_is_like_its_persons(called: str, name: str) -> None:
    assert rules.team_name(called) == name


@pytest.mark.parametrize(
    "name", ["", "Acme", "a b", "-a", "a-", "a--b", "é", "x" * 61, "../x", "api", "everref"]
)
def test_not_everything_is_a_name_of_a_team(name: str) -> None:
    with pytest.raises(UsageError):
        rules.check_team_name(name)


def test_no_team_can_stand_where_a_page_stands() -> None:
    needed = (
        "auth hooks api git s healthz readyz metrics static settings sign-in sign-out connect activity drills"
    )
    assert RESERVED >= {*needed.split(), "invitations", "new", "account", "docs", teams.DEFAULT}


@pytest.mark.parametrize(
    "email", ["", "ann", "a b@c", "@c", "a@", "a@b@c", "a\0@c", "a\u202e@c", "x" * 400 + "@c"]
)
def test_not_everything_is_an_email_address(email: str) -> None:
    with pytest.raises(UsageError, match="not an e-mail address"):
        rules.email_address(email)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("tiny-one1", "too short"),
        ("é" * 501 + "abcd", "too long"),
        ("aaaaaaaaaaaa", "same few characters"),
        ("Ann@Example.org", "your e-mail address"),
    ],
    ids=["short", "long", "same", "e-mail"],
)
def test_a_weak_password_is_refused_in_one_line(password: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as raised:
        rules.check_password(password, "ann@example.org")
    assert password not in str(raised.value)


@pytest.mark.parametrize("name", ["", " \t", "\u202e", "x" * 201], ids=ascii)
def test_not_everything_is_a_name_of_a_person(name: str) -> None:
    with pytest.raises(UsageError):
        rules.check_person_name(name)


def test_each_role_may_what_those_before_it_may() -> None:
    roles = list(Role)
    assert [[one.may(needed) for needed in roles] for one in roles] == [
        [place >= other for other in range(4)] for place in range(4)
    ]


# Signing up and in.


async def test_who_signs_up_owns_a_team_and_signs_in(db: asyncpg.Pool) -> None:
    person = await ann(db)
    assert (person.name, person.email) == ("Ann", "ann@example.org")
    (membership,) = await teams.memberships(db, person.id)
    assert (membership.team.name, membership.role) == ("ann", Role.OWNER)
    assert await flow.sign_in_with_password(db, " ANN@example.org", GOOD, START, HERE) == person
    assert await done(db, membership.team) == [
        ("Ann", "person.sign-up", "done"),
        ("Ann", "person.sign-in", "done"),
    ]


async def test_a_password_is_kept_as_argon2id_and_nowhere_else(db: asyncpg.Pool) -> None:
    await ann(db)
    kept = str(await db.fetch("select * from person")) + str(await db.fetch("select * from audit"))
    assert "$argon2id$v=19$m=65536" in kept
    assert GOOD not in kept


async def test_an_email_signs_up_once(db: asyncpg.Pool) -> None:
    await ann(db)
    with pytest.raises(Refused, match="already an account"):
        await flow.sign_up(db, "ann@EXAMPLE.org", GOOD, "Mallory", START, HERE)
    assert await db.fetchval("select count(*) from team") == 1


async def test_a_password_is_the_same_however_its_characters_are_written(db: asyncpg.Pool) -> None:
    person = await flow.sign_up(db, "ann@example.org", "\u00e9clair horse 1", "Ann", START, HERE)
    signed_in = await flow.sign_in_with_password(db, "ann@example.org", "e\u0301clair horse 1", START, HERE)
    assert signed_in == person


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("ann@example.org", "correct horse 2"),
        ("bob@example.org", GOOD),
        ("", ""),
        ("\0", "\udcff"),
        ("ann@example.org", "x" * 100_000),
    ],
    ids=["password", "e-mail", "nothing", "nonsense", "long"],
)
async def test_an_unknown_email_and_a_wrong_password_get_the_same_answer(
    db: asyncpg.Pool, email: str, password: str
) -> None:
    await ann(db)
    with pytest.raises(BadCredentials) as raised:
        await flow.sign_in_with_password(db, email, password, START, HERE)
    assert str(raised.value) == "the e-mail address or the password is wrong"


async def test_an_unknown_email_costs_the_work_of_a_wrong_password(
    db: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ann(db)
    worked = []

    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, hashed: str, password: bytes) -> bool:
        worked.append(hashed)
        return verify(self, hashed, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    for email in ("ann@example.org", "bob@example.org"):
        with pytest.raises(BadCredentials):
            await flow.sign_in_with_password(db, email, "wrong", START, HERE)
    known, unknown = [hashed.split("$")[:4] for hashed in worked]
    assert known == unknown


async def test_a_hash_of_weaker_parameters_is_replaced_when_its_person_signs_in(db: asyncpg.Pool) -> None:
    person = await ann(db)
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(GOOD)
    await people.set_password(db, person.id, weak)
    with pytest.raises(BadCredentials):
        await flow.sign_in_with_password(db, "ann@example.org", "wrong", START, HERE)
    assert await people.password_hash(db, person.id) == weak
    await flow.sign_in_with_password(db, "ann@example.org", GOOD, START, HERE)
    renewed = await people.password_hash(db, person.id)
    assert renewed and "m=65536" in renewed
    await flow.sign_in_with_password(db, "ann@example.org", GOOD, START, HERE)


async def test_after_ten_tries_a_minute_not_even_the_right_password_is_taken_there(db: asyncpg.Pool) -> None:
    await ann(db)
    for _ in range(flow.TRIES):
        with pytest.raises(BadCredentials):
            await flow.sign_in_with_password(db, "ann@example.org", "wrong", START, "192.0.2.1")
    with pytest.raises(LimitReached, match="wait a minute"):
        await flow.sign_in_with_password(db, "ann@example.org", GOOD, START, "192.0.2.1")
    await flow.sign_in_with_password(db, "ann@example.org", GOOD, START, "192.0.2.2")
    await flow.sign_in_with_password(db, "ann@example.org", GOOD, START + 60 * SECOND, "192.0.2.1")


async def test_one_address_cannot_try_many_emails(db: asyncpg.Pool) -> None:
    for number in range(flow.TRIES_FROM):
        await attempts.take(db, f"sign-in from {HERE}", flow.TRIES_FROM, HOUR, START + number * SECOND)
    with pytest.raises(LimitReached, match="wait an hour"):
        await flow.sign_in_with_password(db, "eleventh@example.org", GOOD, START + 10 * SECOND, HERE)


async def test_a_place_is_forgotten_in_time_and_when_there_are_many(db: asyncpg.Pool) -> None:
    person = await ann(db)
    for number in range(known_networks.MOST + 5):
        await known_networks.remember(db, person.id, f"192.0.2.{number}", START + number * SECOND)
    known = [
        await known_networks.is_known(db, "Ann@example.org", f"192.0.2.{number}", START + HOUR)
        for number in range(known_networks.MOST + 5)
    ]
    assert known == [False] * 5 + [True] * known_networks.MOST
    assert not await known_networks.is_known(
        db, "ann@example.org", "192.0.2.54", START + known_networks.LASTS + HOUR
    )
    assert not await known_networks.is_known(db, "bob@example.org", "192.0.2.54", START + HOUR)


async def test_the_link_of_the_terminal_makes_the_first_owner_once(db: asyncpg.Pool) -> None:
    raw = await links.make(db, None, START, HOUR)
    owner = await flow.sign_in_with_link(db, raw, START, HERE)
    membership = await teams.membership(db, owner.id, teams.DEFAULT)
    assert membership and membership.role is Role.OWNER
    with pytest.raises(Refused, match="has been used or has expired"):
        await flow.sign_in_with_link(db, raw, START, HERE)
    again = await links.make(db, None, START, HOUR)
    assert await flow.sign_in_with_link(db, again, START, HERE) == owner
    assert await done(db, membership.team) == [("Owner", "person.sign-in", "done")] * 2


async def test_two_first_owners_at_once_are_one(db: asyncpg.Pool) -> None:
    made = await asyncio.gather(*(people.first_owner(db, START) for _ in range(5)))
    assert len({one.id for one in made}) == 1


async def test_a_link_lets_in_who_forgot_their_password_and_sets_another(db: asyncpg.Pool) -> None:
    person = await ann(db)
    path = await flow.sign_in_path(db, START, "Ann@example.org")
    assert await flow.sign_in_with_link(db, path.removeprefix("/sign-in/"), START, HERE) == person
    unused = (await flow.sign_in_path(db, START, "ann@example.org")).removeprefix("/sign-in/")
    await flow.set_password(db, By(person, START, HERE), "another horse 2")
    await flow.sign_in_with_password(db, "ann@example.org", "another horse 2", START, HERE)
    with pytest.raises(Refused):
        await flow.sign_in_with_link(db, unused, START, HERE)
    with pytest.raises(NotFound):
        await flow.sign_in_path(db, START, "bob@example.org")


async def test_an_account_at_a_forge_is_known_by_its_number(db: asyncpg.Pool) -> None:
    async def sign_in(number: str, login: str, host: str = "github.com") -> Person:
        return await flow.sign_in_with_identity(db, "github", host, number, login, None, START, HERE)

    ann = await sign_in("1", "ann")
    assert await sign_in("1", "ann-renamed") == ann
    other = await sign_in("2", "ann")
    elsewhere = await sign_in("1", "ann", "git.example.org")
    assert len({ann.id, other.id, elsewhere.id}) == 3
    homes = [await teams.home(db, person.id) for person in (ann, other, elsewhere)]
    assert [team and team.name for team in homes] == ["ann", "ann-2", "ann-3"]
    assert [one.login for one in await people.identities(db, ann.id)] == ["ann-renamed"]


async def test_the_same_email_makes_nobody_the_same_person(db: asyncpg.Pool) -> None:
    with_password = await ann(db)
    by_forge = await flow.sign_in_with_identity(db, "gitlab", "gitlab.com", "7", "ann", "Ann", START, HERE)
    assert by_forge.id != with_password.id
    assert by_forge.email is None


async def test_a_first_sign_in_that_happens_twice_at_once_makes_one_person(db: asyncpg.Pool) -> None:
    made = await asyncio.gather(
        *(
            flow.sign_in_with_identity(db, "github", "github.com", "1", "ann", None, START, HERE)
            for _ in range(6)
        )
    )
    assert len({one.id for one in made}) == 1
    assert await db.fetchval("select count(*) from person") == 1
    assert await db.fetchval("select count(*) from team") == 1


async def test_who_is_signed_in_gets_one_more_way_to_sign_in(db: asyncpg.Pool) -> None:
    person = await ann(db)
    for _ in range(2):
        await flow.link_identity(db, By(person, START), "github", "github.com", "1", "ann")
    assert (
        await flow.sign_in_with_identity(db, "github", "github.com", "1", "ann", None, START, HERE) == person
    )
    assert [action for _, action, _ in await done(db, await own(db, By(person, START)))] == [
        "person.sign-up",
        "identity.link",
        "person.sign-in",
    ]


async def test_an_account_of_another_person_is_never_moved(db: asyncpg.Pool) -> None:
    theirs = await flow.sign_in_with_identity(db, "github", "github.com", "1", "bob", None, START, HERE)
    with pytest.raises(Refused, match="another person"):
        await flow.link_identity(db, By(await ann(db), START), "github", "github.com", "1", "bob")
    assert await people.by_identity(db, "github", "github.com", "1") == theirs


@pytest.mark.parametrize("login", ["", "\0", "\u202e", "ü" * 300], ids=ascii)
async def test_a_forge_may_call_its_people_what_it_likes(db: asyncpg.Pool, login: str) -> None:
    person = await flow.sign_in_with_identity(db, "gitlab", "gitlab.com", "7", login, None, START, HERE)
    assert person.name


async def test_the_last_way_to_sign_in_stays(db: asyncpg.Pool) -> None:
    person = await flow.sign_in_with_identity(db, "github", "github.com", "1", "ann", None, START, HERE)
    by = By(person, START, HERE)
    with pytest.raises(Refused, match="only way"):
        await flow.unlink_identity(db, by, "github", "github.com", "1")
    with pytest.raises(NotFound):
        await flow.unlink_identity(db, by, "github", "github.com", "2")
    await flow.set_profile(db, by, "Ann", "ann@example.org", "Europe/Berlin")
    found = await people.find(db, person.id)
    assert found and found.zone == "Europe/Berlin"
    await flow.set_password(db, By(found, START), GOOD)
    await flow.unlink_identity(db, by, "github", "github.com", "1")
    assert await flow.sign_in_with_password(db, "ann@example.org", GOOD, START, HERE) == found


async def test_a_new_password_signs_out_everywhere_else(db: asyncpg.Pool) -> None:
    person = await ann(db)
    here, _ = await sessions.start(db, person.id, START, "", HERE)
    there, _ = await sessions.start(db, person.id, START, "", HERE)
    await flow.set_password(db, By(person, START, HERE), "another horse 2", here)
    assert await sessions.of(db, here, START)
    assert await sessions.of(db, there, START) is None


async def test_a_person_proves_who_they_are_by_their_password(db: asyncpg.Pool) -> None:
    by = By(await ann(db), START, HERE)
    await flow.prove(db, by, GOOD)
    with pytest.raises(BadCredentials):
        await flow.prove(db, by, "wrong")
    with pytest.raises(BadCredentials, match="no password"):
        await flow.prove(db, await somebody(db, "Bob"), "")


async def test_a_profile_that_will_not_do_changes_nothing(db: asyncpg.Pool) -> None:
    by = By(await ann(db), START, HERE)
    await flow.sign_up(db, "bob@example.org", GOOD, "Bob", START, HERE)
    for email, zone in (("bob@example.org", None), (None, None), ("ann@example.org", "Mars/Olympus")):
        with pytest.raises((Refused, UsageError)):
            await flow.set_profile(db, by, "Anna", email, zone)
    assert await people.find(db, by.person.id) == by.person
    assert (await flow.set_profile(db, by, "Anna", "ANN@example.org", "")).name == "Anna"


async def test_whoever_signs_out_everywhere_is_signed_out_everywhere(db: asyncpg.Pool) -> None:
    by = By(await ann(db), START, HERE)
    raw, _ = await sessions.start(db, by.person.id, START, "", HERE)
    assert await flow.sign_out_everywhere(db, by) == 1
    assert await sessions.of(db, raw, START) is None


# Teams.


async def test_another_persons_team_is_one_that_does_not_exist(db: asyncpg.Pool) -> None:
    ann, bob = await somebody(db, "Ann"), await somebody(db, "Bob")
    team = await own(db, ann)
    assert await teams.membership(db, bob.person.id, "ann") is None
    carol = await joined(db, team, "Carol", Role.VIEWER)
    made, _ = await members.invite(db, KEYS, ann, team, Role.VIEWER)
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: members.rename_team(db, bob, team, "bobs"),
        lambda: members.invite(db, KEYS, bob, team, Role.VIEWER),
        lambda: members.withdraw(db, bob, team, made.id),
        lambda: members.change_role(db, bob, team, carol.person.id, Role.OWNER),
        lambda: members.remove_member(db, bob, team, carol.person.id),
        lambda: members.leave(db, bob, team),
        lambda: api_tokens.make_token(db, bob, team, "t", {"read"}),
    ]
    for ask in asked:
        with pytest.raises(NotFound):
            await ask()
    assert [action for _, action, _ in await done(db, team)] == ["invitation.add"]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_who_is_no_admin_changes_nobody(db: asyncpg.Pool, role: Role) -> None:
    ann = await somebody(db, "Ann")
    team = await own(db, ann)
    bob = await joined(db, team, "Bob", role)
    carol = await joined(db, team, "Carol", Role.VIEWER)
    for ask in (
        members.invite(db, KEYS, bob, team, Role.VIEWER),
        members.change_role(db, bob, team, carol.person.id, Role.VIEWER),
        members.remove_member(db, bob, team, carol.person.id),
        members.rename_team(db, bob, team, "bobs"),
    ):
        with pytest.raises(Refused, match="needs the role"):
            await ask
    assert await done(db, team) == [
        ("Bob", "invitation.add", "refused"),
        ("Bob", "member.role", "refused"),
        ("Bob", "member.remove", "refused"),
        ("Bob", "team.rename", "refused"),
    ]


async def test_nobody_gives_a_role_above_their_own_or_touches_who_is_above(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await own(db, ann)
    bob = await joined(db, team, "Bob", Role.ADMIN)
    carol = await joined(db, team, "Carol", Role.OWNER)
    for ask in (
        members.invite(db, KEYS, bob, team, Role.OWNER),
        members.change_role(db, bob, team, bob.person.id, Role.OWNER),
        members.change_role(db, bob, team, carol.person.id, Role.VIEWER),
        members.remove_member(db, bob, team, carol.person.id),
    ):
        with pytest.raises(Refused, match="above"):
            await ask
    await members.change_role(db, ann, team, carol.person.id, Role.VIEWER)
    await members.remove_member(db, bob, team, carol.person.id)
    assert [one.name for one in await teams.members(db, team.id)] == ["Ann", "Bob"]


async def test_a_team_never_loses_its_last_owner(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await members.new_team(db, ann, "acme")
    bob = await joined(db, team, "Bob", Role.ADMIN)
    with pytest.raises(Refused, match="needs an owner"):
        await members.leave(db, ann, team)
    with pytest.raises(Refused, match="needs an owner"):
        await members.change_role(db, ann, team, ann.person.id, Role.ADMIN)
    await members.change_role(db, ann, team, bob.person.id, Role.OWNER)
    await members.leave(db, ann, team)
    assert [one.role for one in await teams.members(db, team.id)] == [Role.OWNER]


async def test_two_owners_who_leave_at_once_do_not_leave_a_team_without_one(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await members.new_team(db, ann, "acme")
    bob = await joined(db, team, "Bob", Role.OWNER)
    left = await asyncio.gather(
        members.leave(db, ann, team), members.leave(db, bob, team), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in left) == ["NoneType", "Refused"]
    assert len(await teams.members(db, team.id)) == 1


async def test_nobody_is_put_out_of_their_own_team(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await own(db, ann)
    bob = await joined(db, team, "Bob", Role.OWNER)
    for ask in (
        members.leave(db, ann, team),
        members.remove_member(db, bob, team, ann.person.id),
        members.change_role(db, bob, team, ann.person.id, Role.VIEWER),
    ):
        with pytest.raises(Refused, match="own team"):
            await ask


async def test_an_invitation_makes_one_person_a_member(db: asyncpg.Pool) -> None:
    ann, bob, carol = [await somebody(db, name) for name in ("Ann", "Bob", "Carol")]
    team = await own(db, ann)
    made, raw = await members.invite(db, KEYS, ann, team, Role.OPERATOR, "Bob@Example.org")
    assert made.email == "bob@example.org"
    assert (await members.invitation(db, KEYS, raw, START)).inviter == "Ann"
    assert await members.accept(db, KEYS, ann, raw) == team  # a member already: it is not used up
    assert await members.accept(db, KEYS, bob, raw) == team
    membership = await teams.membership(db, bob.person.id, "ann")
    assert membership and membership.role is Role.OPERATOR
    with pytest.raises(NotFound, match="accepted or withdrawn"):
        await members.accept(db, KEYS, carol, raw)
    assert await invitations.open_of(db, team.id, START) == []
    assert await done(db, team) == [("Ann", "invitation.add", "done"), ("Bob", "member.add", "done")]


async def test_an_invitation_that_two_accept_at_once_takes_one(db: asyncpg.Pool) -> None:
    ann, bob, carol = [await somebody(db, name) for name in ("Ann", "Bob", "Carol")]
    team = await own(db, ann)
    _, raw = await members.invite(db, KEYS, ann, team, Role.VIEWER)
    both = await asyncio.gather(
        members.accept(db, KEYS, bob, raw), members.accept(db, KEYS, carol, raw), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in both) == ["NotFound", "Team"]
    assert len(await teams.members(db, team.id)) == 2


async def test_an_invitation_expires(db: asyncpg.Pool) -> None:
    ann, bob = await somebody(db, "Ann"), await somebody(db, "Bob")
    _, raw = await members.invite(db, KEYS, ann, await own(db, ann), Role.VIEWER)
    late = By(bob.person, START + members.INVITED, HERE)
    with pytest.raises(NotFound):
        await members.accept(db, KEYS, late, raw)


async def test_an_invitation_can_be_withdrawn(db: asyncpg.Pool) -> None:
    ann, bob = await somebody(db, "Ann"), await somebody(db, "Bob")
    team = await own(db, ann)
    made, raw = await members.invite(db, KEYS, ann, team, Role.VIEWER)
    await members.withdraw(db, ann, team, made.id)
    with pytest.raises(NotFound):
        await members.accept(db, KEYS, bob, raw)
    with pytest.raises(NotFound):
        await members.withdraw(db, ann, team, made.id)


@pytest.mark.parametrize("role", [Role.OPERATOR, None], ids=["less", "out"])
async def test_an_invitation_gives_no_more_than_who_invited_may_now(
    db: asyncpg.Pool, role: Role | None
) -> None:
    ann, carol = await somebody(db, "Ann"), await somebody(db, "Carol")
    team = await own(db, ann)
    bob = await joined(db, team, "Bob", Role.ADMIN)
    _, raw = await members.invite(db, KEYS, bob, team, Role.ADMIN)
    if role is None:
        await members.remove_member(db, ann, team, bob.person.id)
    else:
        await members.change_role(db, ann, team, bob.person.id, role)
    with pytest.raises(NotFound):
        await members.accept(db, KEYS, carol, raw)


async def test_no_other_words_are_an_invitation(db: asyncpg.Pool) -> None:
    ann, bob = await somebody(db, "Ann"), await somebody(db, "Bob")
    made, raw = await members.invite(db, KEYS, ann, await own(db, ann), Role.VIEWER)
    for text in ("", str(made.id), raw[:-1], raw[1:], "\udcff"):
        with pytest.raises(NotFound):
            await members.accept(db, KEYS, bob, text)
    with pytest.raises(NotFound):
        await members.invitation(db, Keyring(["x" * 32]), raw, START)


async def test_nobody_invites_without_end(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await own(db, ann)
    for _ in range(acting.MADE):
        await members.invite(db, KEYS, ann, team, Role.VIEWER)
    with pytest.raises(LimitReached, match="wait an hour"):
        await members.invite(db, KEYS, ann, team, Role.VIEWER)


async def test_a_team_is_renamed_by_its_owner_to_a_name_that_is_free(db: asyncpg.Pool) -> None:
    ann, _ = await somebody(db, "Ann"), await somebody(db, "Bob")
    team = await own(db, ann)
    for name in ("bob", "api", "A B"):
        with pytest.raises(UsageError):
            await members.rename_team(db, ann, team, name)
    await members.rename_team(db, ann, team, "acme")
    assert (await own(db, ann)).name == "acme"


async def test_the_team_of_the_command_line_keeps_its_name(db: asyncpg.Pool) -> None:
    owner = By(await people.first_owner(db, START), START)
    with pytest.raises(Refused, match="command line"):
        await members.rename_team(db, owner, await own(db, owner), "acme")


async def test_a_new_team_has_a_name_of_its_own(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await members.new_team(db, ann, "acme")
    with pytest.raises(UsageError, match="taken"):
        await members.new_team(db, ann, "acme")
    assert [one.team.name for one in await teams.memberships(db, ann.person.id)] == ["acme", "ann"]
    assert await done(db, team) == [("Ann", "team.add", "done")]


async def test_twenty_people_of_one_name_have_teams_of_their_own(db: asyncpg.Pool) -> None:
    await asyncio.gather(*(somebody(db, "Ann") for _ in range(20)))
    assert await db.fetchval("select count(distinct name) from team") == 20


async def test_a_repo_of_another_team_is_one_that_does_not_exist(db: asyncpg.Pool) -> None:
    ann, bob = await somebody(db, "Ann"), await somebody(db, "Bob")
    mine, theirs = await own(db, ann), await own(db, bob)
    repo = await repos.add(db, mine.id, "acme/api", "https://git.example.org/acme/api", START)
    await repos.add(db, theirs.id, "acme/api", "https://git.example.org/acme/api", START)
    assert await repos.find_in(db, mine.id, repo.id) == repo
    assert await repos.find_in(db, theirs.id, repo.id) is None
    assert [one.repo for one in await repos.overview(db, mine.id)] == [repo]
    assert (await repos.overview_of(db, repo.id, mine.id)).repo == repo
    with pytest.raises(NotFound):
        await repos.overview_of(db, repo.id, theirs.id)
