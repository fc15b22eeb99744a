"""The audit log: a chain that shows every edit, and notices, which are told once."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from mirror.core.keyring import Keyring
from mirror.core.model import RepoId
from mirror.core.rules.roles import PersonId, Role
from mirror.people import accounts as flow
from mirror.people import api_tokens, members
from mirror.people.acting import By
from mirror.store.database import transaction
from mirror.store.people import audit, links, notices, people, teams
from mirror.store.people.audit import Entry
from mirror.store.people.teams import TeamId
from tests.parts.chain import START, begin

SECOND = timedelta(seconds=1)
ENTRY = Entry(
    person_id=PersonId(uuid4()),
    actor="Ann",
    action="repo.add",
    subject="acme/api",
    repo_id=RepoId(uuid4()),
    detail={"url": "https://example.org", "count": 3, "globs": ["a", "b"], "none": None, "yes": True},
    address="192.0.2.1",
)


async def team(db: asyncpg.Pool, name: str = "acme") -> TeamId:
    return (await teams.add_named(db, name, START)).id


async def five(db: asyncpg.Pool) -> TeamId:
    """A team with five entries."""
    team_id = await team(db)
    for number in range(1, 6):
        assert await audit.add(db, team_id, replace(ENTRY, subject=f"r{number}"), START) == number
    return team_id


async def tampered(db: asyncpg.Pool, statement: str) -> None:
    """What somebody does who owns the database."""
    async with transaction(db) as connection:
        await connection.execute("alter table audit disable trigger user")
        await connection.execute(statement)
        await connection.execute("alter table audit enable trigger user")


async def test_an_entry_is_kept_as_it_was_written(db: asyncpg.Pool) -> None:
    team_id = await team(db)
    await audit.add(db, team_id, ENTRY, START)
    (kept,) = await audit.page(db, team_id)
    assert (kept.number, kept.at, kept.entry, kept.previous) == (1, START, ENTRY, None)
    assert await audit.check(db, team_id) is None


@pytest.mark.parametrize(
    ("detail", "kept"),
    [
        ({"a": "\0\udcff"}, {"a": "\ufffd\ufffd"}),
        ({"b": 1.5, "a": {"z": [1, (2,)]}}, {"b": "1.5", "a": {"z": [1, [2]]}}),
        ({"big": 10**40, "é": "ü"}, {"big": 10**40, "é": "ü"}),
        ({"role": Role.ADMIN, "id": START}, {"role": "admin", "id": str(START)}),
    ],
    ids=["unstorable", "fractions", "large", "values"],
)
async def test_whatever_its_detail_is_the_chain_holds(
    db: asyncpg.Pool, detail: dict[str, object], kept: dict[str, object]
) -> None:
    team_id = await team(db)
    await audit.add(db, team_id, replace(ENTRY, detail=detail, subject="\0", actor="\udcff"), START)
    assert (await audit.page(db, team_id))[0].entry.detail == kept
    assert await audit.check(db, team_id) is None


async def test_many_writers_at_once_make_no_gap(pool: asyncpg.Pool) -> None:
    team_id = await team(pool)
    made = await asyncio.gather(*(audit.add(pool, team_id, ENTRY, START) for _ in range(50)))
    assert sorted(made) == list(range(1, 51))
    assert await audit.check(pool, team_id) is None


async def test_an_entry_falls_with_the_transaction_that_it_is_about(db: asyncpg.Pool) -> None:
    team_id = await team(db)
    with pytest.raises(ZeroDivisionError):
        async with transaction(db) as connection:
            await audit.add(connection, team_id, ENTRY, START)
            raise ZeroDivisionError
    assert await audit.add(db, team_id, ENTRY, START) == 1


async def test_each_team_has_a_chain_of_its_own(db: asyncpg.Pool) -> None:
    one, two = await five(db), await team(db, "other")
    assert await audit.add(db, two, ENTRY, START) == 1
    assert len(await audit.page(db, one)) == 5
    assert len(await audit.page(db, two)) == 1


@pytest.mark.parametrize(
    "statement",
    ["update audit set actor = 'Bob'", "delete from audit", "truncate audit"],
    ids=lambda statement: statement.split()[0],
)
async def test_the_database_itself_refuses_to_change_entries(db: asyncpg.Pool, statement: str) -> None:
    await five(db)
    with pytest.raises(asyncpg.RaiseError, match="never changed"):
        await db.execute(statement)


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("update audit set subject = 'r9' where number = 3", 3),
        ("update audit set at = at + interval '1 microsecond' where number = 3", 3),
        ("update audit set detail = '{}' where number = 3", 3),
        ("update audit set person_id = null where number = 3", 3),
        ("update audit set result = 'refused' where number = 5", 5),
        ("delete from audit where number = 3", 3),
        ("delete from audit where number = 1", 1),
        ("delete from audit where number = 3; update audit set number = number - 1 where number > 3", 3),
        (
            "update audit set number = 99 where number = 2; update audit set number = 2 where number = 3; "
            "update audit set number = 3 where number = 99",
            2,
        ),
        ("update audit set sha256 = repeat('0', 64) where number = 3", 3),
        ("update audit set previous = null where number = 3", 3),
    ],
    ids=[
        *("subject", "time", "detail", "person", "result", "deletion", "first", "renumbered", "swapped"),
        *("sum", "previous"),
    ],
)
async def test_a_tampering_is_found_where_it_is(db: asyncpg.Pool, statement: str, broken: int) -> None:
    team_id = await five(db)
    await tampered(db, statement)
    assert await audit.check(db, team_id) == broken


async def test_entries_of_another_team_do_not_fit_in(db: asyncpg.Pool) -> None:
    one, two = await five(db), await team(db, "other")
    await tampered(
        db, f"insert into audit select '{two}', {_BUT_THE_TEAM} from audit where team_id = '{one}'"
    )
    assert await audit.check(db, one) is None
    assert await audit.check(db, two) == 1


_BUT_THE_TEAM = (
    "number, at, person_id, actor, action, repo_id, subject, detail, address, result, previous, sha256"
)


async def test_a_long_chain_is_checked_whole(db: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_AT_ONCE", 2)
    team_id = await five(db)
    assert await audit.check(db, team_id) is None
    assert len([line async for line in audit.export(db, team_id)]) == 5
    await tampered(db, "update audit set subject = 'r9' where number = 5")
    assert await audit.check(db, team_id) == 5


async def test_an_export_is_json_lines_that_anybody_can_check(db: asyncpg.Pool) -> None:
    import hashlib

    team_id = await five(db)
    previous = None
    async for line in audit.export(db, team_id):
        entry = json.loads(line)
        said = entry.pop("sha256")
        assert entry["previous"] == previous
        words = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        previous = hashlib.sha256(words.encode()).hexdigest()
        assert said == previous
    assert previous == (await audit.page(db, team_id))[0].sha256


async def test_pages_go_back_in_time_and_can_be_narrowed(db: asyncpg.Pool) -> None:
    team_id = await five(db)
    other = replace(ENTRY, person_id=None, repo_id=None, action="repository.move")
    await audit.add(db, team_id, other, START)

    async def numbers(**narrowed: object) -> list[int]:
        return [one.number for one in await audit.page(db, team_id, **narrowed)]  # type: ignore[arg-type]

    assert await numbers(limit=2) == [6, 5]
    assert await numbers(before=5, limit=2) == [4, 3]
    assert await numbers(action="repo") == [5, 4, 3, 2, 1]
    assert await numbers(action="repository.move") == [6]
    assert await numbers(repo_id=ENTRY.repo_id, limit=1) == [5]
    assert await numbers(person_id=PersonId(uuid4())) == []


async def test_no_secret_is_in_the_audit_log(db: asyncpg.Pool) -> None:
    keyring = Keyring(["k" * 32])
    ann = await flow.sign_up(db, "ann@example.org", "canary horse 1", "Ann", START, "192.0.2.1")
    by = By(ann, START, "192.0.2.1")
    raw = await links.make(db, ann.id, START, timedelta(hours=1))
    await flow.sign_in_with_link(db, raw, START, "192.0.2.1")
    await flow.set_password(db, by, "canary horse 2")
    home = await teams.home(db, ann.id)
    assert home
    _, invitation = await members.invite(db, keyring, by, home, Role.VIEWER, "bob@example.org")
    token, _ = await api_tokens.make_token(db, by, home, "ci", {"read"})
    hashed = await people.password_hash(db, ann.id)
    kept = b"".join([line async for line in audit.export(db, home.id)]).decode()
    for secret in (raw, invitation, token, hashed, "canary"):
        assert secret and secret not in kept


async def test_the_same_is_told_once(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    team_id = await teams.default(db)
    told: list[Callable[[], Awaitable[bool]]] = [
        lambda: notices.add(db, team_id, chain.repo.id, "failing", "it fails", START, "failing 1"),
        lambda: notices.add(db, team_id, chain.repo.id, "failing", "it fails", START, "failing 1"),
        lambda: notices.add(db, team_id, None, "connection", "\0", START),
        lambda: notices.add(db, team_id, None, "connection", "\0", START),
    ]
    assert [await tell() for tell in told] == [True, False, True, True]
    found = await notices.open_of(db, team_id)
    assert [(one.kind, one.repo, one.message) for one in found] == [
        ("connection", None, "\ufffd"),
        ("connection", None, "\ufffd"),
        ("failing", chain.repo.name, "it fails"),
    ]


async def test_what_was_dismissed_is_listed_but_not_open(db: asyncpg.Pool) -> None:
    team_id, other = await team(db), await team(db, "other")
    for number in range(4):
        await notices.add(db, team_id, None, "failing", str(number), START + number * SECOND)
    newest, second, *_ = await notices.open_of(db, team_id)
    assert not await notices.seen(db, other, newest.id, START)
    assert await notices.seen(db, team_id, newest.id, START)
    assert not await notices.seen(db, team_id, newest.id, START)
    assert [one.message for one in await notices.open_of(db, team_id)] == ["2", "1", "0"]
    assert [one.message for one in await notices.page(db, team_id, limit=2)] == ["3", "2"]
    assert [one.message for one in await notices.page(db, team_id, second.id)] == ["1", "0"]
    assert await notices.all_seen(db, team_id, second.id, START) == 3
    assert await notices.open_of(db, team_id) == []
    assert await notices.open_of(db, other) == []
