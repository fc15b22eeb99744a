"""API tokens: told once, limited by scopes and by what their person may now."""

from datetime import datetime, timedelta

import asyncpg
import pytest

from mirror.core.errors import LimitReached, NotFound, Refused, UsageError
from mirror.core.rules.roles import SCOPES, Role, Scope
from mirror.people import acting, api_tokens, members
from mirror.people.acting import By
from mirror.store.people import people, teams, tokens
from mirror.store.people.teams import Team
from tests.parts.chain import START

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def somebody(db: asyncpg.Pool, name: str) -> By:
    return By(await people.add(db, name, START, team_name=name.lower()), START, "192.0.2.1")


async def own(db: asyncpg.Pool, by: By) -> Team:
    found = await teams.home(db, by.person.id)
    assert found
    return found


async def test_a_token_is_known_by_what_was_told_once(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    raw, made = await api_tokens.make_token(
        db, ann, await own(db, ann), "ci", {"read", "backup"}, START + HOUR
    )
    assert raw.startswith("everref_")
    found = await tokens.of(db, raw, START)
    assert found == made
    assert (found.person, found.team.name, found.role) == (ann.person, "ann", Role.OWNER)
    assert (found.name, sorted(found.scopes)) == ("ci", ["backup", "read"])
    assert raw not in str(await db.fetch("select * from api_token"))


@pytest.mark.parametrize("raw", ["", "everref_", "everref_" + "x" * 43, "\0", "everref_\udcff"], ids=ascii)
async def test_nothing_else_is_a_token(db: asyncpg.Pool, raw: str) -> None:
    ann = await somebody(db, "Ann")
    await api_tokens.make_token(db, ann, await own(db, ann), "ci", {"read"})
    assert await tokens.of(db, raw, START) is None


async def test_a_token_expires(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    raw, _ = await api_tokens.make_token(db, ann, await own(db, ann), "ci", {"read"}, START + HOUR)
    assert await tokens.of(db, raw, START + HOUR - SECOND)
    assert await tokens.of(db, raw, START + HOUR) is None


async def test_a_token_can_be_revoked(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await own(db, ann)
    raw, made = await api_tokens.make_token(db, ann, team, "ci", {"read"})
    await api_tokens.revoke_token(db, ann, team, made.id)
    assert await tokens.of(db, raw, START) is None
    assert await tokens.all_of(db, team.id) == []
    with pytest.raises(NotFound):
        await api_tokens.revoke_token(db, ann, team, made.id)


async def test_its_use_is_written_once_a_minute(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    raw, _ = await api_tokens.make_token(db, ann, await own(db, ann), "ci", {"read"})
    minute = 60 * SECOND
    for later, seen in ((0 * SECOND, START), (30 * SECOND, START), (minute, START + minute)):
        await tokens.of(db, raw, START + later)
        assert await db.fetchval("select used_at from api_token") == seen


async def test_a_token_may_what_its_person_may_now_and_dies_with_their_membership(db: asyncpg.Pool) -> None:
    ann, bob = await somebody(db, "Ann"), await somebody(db, "Bob")
    team = await own(db, ann)
    await teams.add(db, team.id, bob.person.id, Role.ADMIN, START)
    raw, _ = await api_tokens.make_token(db, bob, team, "ci", {"read"})
    await members.change_role(db, ann, team, bob.person.id, Role.VIEWER)
    found = await tokens.of(db, raw, START)
    assert found and found.role is Role.VIEWER
    await members.remove_member(db, ann, team, bob.person.id)
    assert await tokens.of(db, raw, START) is None
    await teams.add(db, team.id, bob.person.id, Role.ADMIN, START)
    assert await tokens.of(db, raw, START) is None


@pytest.mark.parametrize("role", list(Role))
async def test_a_scope_needs_its_role(db: asyncpg.Pool, role: Role) -> None:
    ann, bob = await somebody(db, "Ann"), await somebody(db, "Bob")
    team = await own(db, ann)
    await teams.add(db, team.id, bob.person.id, role, START)
    for scope, needed in SCOPES.items():
        if role.may(needed):
            await api_tokens.make_token(db, bob, team, scope, {scope})
        else:
            with pytest.raises(Refused, match=f"needs the role {needed}"):
                await api_tokens.make_token(db, bob, team, scope, {scope})


async def test_only_its_owner_and_admins_revoke_a_token(db: asyncpg.Pool) -> None:
    ann, bob, carol = [await somebody(db, name) for name in ("Ann", "Bob", "Carol")]
    team = await own(db, ann)
    for by, role in ((bob, Role.OPERATOR), (carol, Role.VIEWER)):
        await teams.add(db, team.id, by.person.id, role, START)
    _, anns = await api_tokens.make_token(db, ann, team, "ann's", {"read"})
    _, carols = await api_tokens.make_token(db, carol, team, "carol's", {"read"})
    with pytest.raises(Refused):
        await api_tokens.revoke_token(db, bob, team, anns.id)
    with pytest.raises(NotFound):
        await api_tokens.revoke_token(db, bob, await own(db, bob), anns.id)
    assert [one.name for one in await tokens.all_of(db, team.id, carol.person.id)] == ["carol's"]
    await api_tokens.revoke_token(db, carol, team, carols.id)
    await api_tokens.revoke_token(db, ann, team, anns.id)


async def test_tokens_that_will_not_do_are_refused(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await own(db, ann)
    wrong: list[tuple[str, set[Scope], datetime | None]] = [
        ("", {"read"}, None),
        ("x" * 201, {"read"}, None),
        ("ci", set(), None),
        ("ci", {"everything"}, None),  # type: ignore[arg-type]
        ("ci", {"read"}, START),
    ]
    for name, scopes, expires_at in wrong:
        with pytest.raises(UsageError):
            await api_tokens.make_token(db, ann, team, name, scopes, expires_at)
    assert await tokens.all_of(db, team.id) == []


async def test_nobody_makes_tokens_without_end(db: asyncpg.Pool) -> None:
    ann = await somebody(db, "Ann")
    team = await own(db, ann)
    for number in range(acting.MADE):
        await api_tokens.make_token(db, ann, team, str(number), {"read"})
    with pytest.raises(LimitReached):
        await api_tokens.make_token(db, ann, team, "one more", {"read"})
