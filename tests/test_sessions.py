"""Sessions, one-time links, limits and signed values: what lets somebody in, for how long, what does not."""

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from mirror.core import signed
from mirror.core.keyring import Keyring
from mirror.core.rules.roles import PersonId
from mirror.store.people import attempts, links, people, sessions
from mirror.store.people.people import Person
from mirror.store.people.sessions import ABSOLUTE, IDLE
from tests.parts.chain import START

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
OLD, NEW = "o" * 32, "n" * 32


async def ann(db: asyncpg.Pool) -> Person:
    return await people.add(db, "Ann", START, team_name="ann", email="ann@example.org", password_hash="x")


async def begin(db: asyncpg.Pool, person_id: PersonId, at: datetime = START) -> str:
    return (await sessions.start(db, person_id, at, "Firefox", "192.0.2.1"))[0]


async def test_a_session_is_known_by_its_id_which_is_not_kept(db: asyncpg.Pool) -> None:
    person = await ann(db)
    raw, session = await sessions.start(db, person.id, START, "Firefox", "192.0.2.1")
    assert await sessions.of(db, raw, START) == session
    assert session.person == person
    assert raw not in str(await db.fetch("select * from session"))
    assert session.csrf not in repr(session)


@pytest.mark.parametrize("raw", ["", "x" * 43, "\0", "\udcff"], ids=repr)
async def test_no_other_id_is_a_session(db: asyncpg.Pool, raw: str) -> None:
    await begin(db, (await ann(db)).id)
    assert await sessions.of(db, raw, START) is None


async def test_a_session_ends_when_nobody_uses_it(db: asyncpg.Pool) -> None:
    raw = await begin(db, (await ann(db)).id)
    assert await sessions.of(db, raw, START + IDLE - SECOND)
    assert await sessions.of(db, raw, START + 2 * IDLE - 2 * SECOND)
    assert await sessions.of(db, raw, START + 3 * IDLE) is None


async def test_a_session_ends_for_good_however_much_it_is_used(db: asyncpg.Pool) -> None:
    raw = await begin(db, (await ann(db)).id)
    at = START
    while at + HOUR < START + ABSOLUTE:
        at += HOUR * 8
        found = await sessions.of(db, raw, at)
        assert (found is not None) == (at < START + ABSOLUTE)


async def test_its_use_is_written_once_a_minute(db: asyncpg.Pool) -> None:
    raw = await begin(db, (await ann(db)).id)
    for later, seen in ((30 * SECOND, START), (MINUTE, START + MINUTE), (90 * SECOND, START + MINUTE)):
        await sessions.of(db, raw, START + later)
        assert await db.fetchval("select seen_at from session") == seen


async def test_whoever_proved_who_they_are_gets_another_id(db: asyncpg.Pool) -> None:
    raw = await begin(db, (await ann(db)).id)
    before = await sessions.of(db, raw, START)
    renewed = await sessions.renew(db, raw, START + MINUTE)
    assert renewed is not None
    assert await sessions.of(db, raw, START + MINUTE) is None
    after = await sessions.of(db, renewed, START + MINUTE)
    assert before and after
    assert after.sure_at == START + MINUTE
    assert after.csrf != before.csrf
    assert await sessions.renew(db, raw, START) is None


async def test_a_session_can_be_ended_here_there_and_everywhere(db: asyncpg.Pool) -> None:
    person = await ann(db)
    here, there, elsewhere, nowhere = [await begin(db, person.id, START + n * SECOND) for n in range(4)]
    await sessions.end(db, nowhere)
    assert [one.created_at for one in await sessions.all_of(db, person.id)] == [
        START + 2 * SECOND,
        START + SECOND,
        START,
    ]
    known = await sessions.of(db, there, START)
    bob = await people.add(db, "Bob", START, team_name="bob")
    assert known
    assert not await sessions.end_one(db, bob.id, known.key)
    assert await sessions.end_one(db, person.id, known.key)
    assert await sessions.end_all(db, person.id, but=here) == 1
    assert await sessions.of(db, elsewhere, START) is None
    assert await sessions.of(db, here, START)
    assert await sessions.end_all(db, person.id) == 1
    assert await sessions.of(db, here, START) is None


async def test_what_has_ended_is_not_listed_and_is_swept(db: asyncpg.Pool) -> None:
    person = await ann(db)
    await begin(db, person.id)
    await attempts.take(db, "x", 1, HOUR, START)
    assert await sessions.all_of(db, person.id, START + IDLE) == []
    await sessions.sweep(db, START + HOUR - SECOND)
    tables = ("session", "tries")
    assert [await db.fetchval(f"select count(*) from {table}") for table in tables] == [1, 1]
    await sessions.sweep(db, START + IDLE)
    assert [await db.fetchval(f"select count(*) from {table}") for table in tables] == [0, 0]


async def test_the_browsers_words_are_shortened(db: asyncpg.Pool) -> None:
    person = await ann(db)
    _, session = await sessions.start(db, person.id, START, "\0\udcff" + "é" * 9000, "192.0.2.1")
    assert len(session.agent) == 200


async def test_a_link_works_once(db: asyncpg.Pool) -> None:
    person = await ann(db)
    raw = await links.make(db, person.id, START, HOUR)
    used = await asyncio.gather(*(links.use(db, raw, START) for _ in range(8)))
    assert [one for one in used if one] == [links.Used(person.id)]


async def test_a_link_expires_and_can_be_voided(db: asyncpg.Pool) -> None:
    person = await ann(db)
    raw = await links.make(db, None, START, HOUR)
    assert await links.use(db, raw, START + HOUR) is None
    assert await links.use(db, "\udcff", START) is None
    other = await links.make(db, person.id, START, HOUR)
    await links.void(db, person.id, START)
    assert await links.use(db, other, START) is None
    assert await links.use(db, raw, START) == links.Used(None)


async def test_a_limit_counts_all_tries_of_a_stretch_of_time(db: asyncpg.Pool) -> None:
    for number in range(12):
        at = START + number * SECOND
        assert await attempts.take(db, "sign-in 192.0.2.1", 10, MINUTE, at) == (number < 10)
    assert await attempts.take(db, "sign-in 192.0.2.2", 10, MINUTE, START)
    assert await attempts.take(db, "sign-in 192.0.2.1", 10, MINUTE, START + MINUTE)


async def test_tries_at_the_same_moment_are_all_counted(db: asyncpg.Pool) -> None:
    taken = await asyncio.gather(*(attempts.take(db, "k", 10, MINUTE, START) for _ in range(30)))
    assert sum(taken) == 10


async def test_who_got_in_has_not_been_guessing(db: asyncpg.Pool) -> None:
    assert await attempts.take(db, "k", 1, MINUTE, START)
    assert not await attempts.take(db, "k", 1, MINUTE, START)
    await attempts.give_back(db, "k")
    assert await attempts.take(db, "k", 1, MINUTE, START)


def test_what_was_signed_comes_back() -> None:
    value = {"who": "é", "n": 1}
    assert signed.read(Keyring([NEW]), "said", signed.sign(Keyring([NEW]), "said", value), HOUR) == value


def test_what_was_signed_for_one_purpose_is_read_for_no_other() -> None:
    keyring = Keyring([NEW])
    assert signed.read(keyring, "session", signed.sign(keyring, "said", "x"), HOUR) is None


def test_an_older_key_still_reads_and_another_one_does_not() -> None:
    text = signed.sign(Keyring([OLD]), "said", "x", START)
    assert signed.read(Keyring([NEW, OLD]), "said", text, HOUR, START) == "x"
    assert signed.read(Keyring([NEW]), "said", text, HOUR, START) is None
    both = signed.sign(Keyring([NEW, OLD]), "said", "x", START)
    assert signed.read(Keyring([NEW]), "said", both, HOUR, START) == "x"


def test_a_signed_value_has_an_age() -> None:
    keyring = Keyring([NEW])
    text = signed.sign(keyring, "said", "x", START)
    assert signed.read(keyring, "said", text, HOUR, START + HOUR) == "x"
    assert signed.read(keyring, "said", text, HOUR, START + HOUR + 2 * SECOND) is None


def test_a_clock_that_is_a_minute_behind_takes_it_and_one_further_behind_does_not() -> None:
    keyring = Keyring([NEW])
    text = signed.sign(keyring, "said", "x", START)
    assert signed.read(keyring, "said", text, HOUR, START - signed.BACKDATED) == "x"
    assert signed.read(keyring, "said", text, HOUR, START - 2 * signed.BACKDATED) is None


@pytest.mark.parametrize("position", range(0, 90, 7), ids="character {}".format)
def test_a_changed_character_is_found_wherever_it_is(position: int) -> None:
    keyring = Keyring([NEW])
    text = signed.sign(keyring, "said", "a message of some length", START)
    changed = "A" if text[position] != "A" else "B"
    assert signed.read(keyring, "said", text[:position] + changed + text[position + 1 :], HOUR, START) is None


@pytest.mark.parametrize("text", ["", ".", "..", "\0", "\udcff", "é", "x" * 100_000], ids=ascii)
def test_nonsense_is_nothing(text: str) -> None:
    assert signed.read(Keyring([NEW]), "said", text, HOUR, START) is None


async def test_tries_that_are_counted_in_another_order_than_they_came_start_no_new_period(
    db: asyncpg.Pool,
) -> None:
    """Whoever holds back bodies chooses the order; each request has the time at which its headers came."""
    taken = [
        await attempts.take(db, "guess", 3, MINUTE, START - number * timedelta(milliseconds=1))
        for number in range(20)
    ]
    assert sum(taken) == 3
    assert await attempts.take(db, "guess", 3, MINUTE, START - HOUR), (
        "a clock that was ahead keeps nobody out"
    )
