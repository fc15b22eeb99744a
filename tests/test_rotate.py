"""Keys that change: everything is sealed anew, twice, beside others at work, and what is missing is said."""

from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from mirror.core import identities
from mirror.core.config import EXAMPLE, from_env
from mirror.core.errors import UsageError
from mirror.core.formats.statements import SigningKey
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId, Secret
from mirror.store.database import sql_directory
from mirror.store.discovery import credentials, hooks, ssh
from mirror.store.discovery.ssh import TeamKey
from mirror.store.jobs import jobs
from mirror.store.people import idempotency, keys, people, teams
from mirror.store.upkeep import reencryption
from mirror.upkeep import reencrypt
from tests.parts.chain import START, begin

OLD, BOTH, NEW = Keyring(["o" * 32]), Keyring(["n" * 32, "o" * 32]), Keyring(["n" * 32])
HOOK = "h" * 32
ALL = len(reencryption.PLACES)  # of `one_of_each` that are sealed


async def one_of_each(db: asyncpg.Pool, keyring: Keyring) -> tuple[RepoId, jobs.JobId, UUID]:
    """A row for every place in which something is sealed."""
    repo = (await begin(db)).repo
    await credentials.keep(db, keyring, repo.id, Secret("ann", "hush"))
    assert await hooks.add(db, repo.id, "github", hooks.lock(keyring, HOOK, "first"), START)
    await hooks.change(db, hooks.lock(keyring, HOOK, "second"), START + timedelta(days=1))
    job_id = jobs.new_id()
    secret = jobs.seal(keyring, job_id, Secret("ann", "push"))
    await jobs.queue(db, repo.id, "restore", {}, START, job_id=job_id, sealed=secret)
    connection = uuid4()
    await db.execute(
        """
        insert into connection (
          id, team_id, forge, host, account_id, login, grant_kind, scopes,
          sealed_access, sealed_refresh, created_at
        ) select $1, team_id, 'gitlab', 'gitlab.com', '1', 'ann', 'oauth', '{}', $2, $3, $4 from repo
        """,
        connection,
        keyring.seal(b"access", f"connection/{connection}/access"),
        keyring.seal(b"refresh", f"connection/{connection}/refresh"),
        START,
    )
    await ssh.keep_key(db, keyring, await teams.default(db), TeamKey("ssh-ed25519 AAAA", "private"), START)
    person = (await people.first_owner(db, START)).id
    await idempotency.begin(db, person, "key", "0" * 64, START)
    answer = idempotency.seal(keyring, person, "key", b"{}")
    await idempotency.answered(db, person, "key", 201, answer)
    channel = uuid4()
    await db.execute(
        """
        insert into channel (id, person_id, kind, name, shown, sealed, created_at)
        values ($1, $2, 'chat', 'ntfy', 'ntfy.example', $3, $4)
        """,
        channel,
        person,
        keyring.seal(b"{}", f"channel/{channel}"),
        START,
    )
    key = SigningKey.new()
    await db.execute(
        """
        insert into evidence_key (id, public, sealed, since, introduction, vault_key)
        values ($1, $2, $3, $4, '{}', 'evidence/keys/one')
        """,
        key.id,
        key.public,
        keyring.seal(key.private, f"evidence_key/{key.id}"),
        START,
    )
    await keys.add_identity(db, keyring, await teams.default(db), identities.made(), START)
    ping = uuid4()
    await db.execute(
        "insert into ping (id, team_id, sealed, shown, created_at) values ($1, $2, $3, 'hc.example', $4)",
        ping,
        await teams.default(db),
        keyring.seal(b"https://hc.example/1", f"ping/{ping}"),
        START,
    )
    await db.execute(
        """
        insert into mirror (id, team_id, address, sealed, created_at, created_by)
        values ($1, $2, 'https://git.example.org/{name}', $3, $4, 'Ann')
        """,
        mirror := uuid4(),
        await teams.default(db),
        keyring.seal(b"{}", f"mirror/{mirror}"),
        START,
    )
    return repo.id, job_id, connection


async def texts(db: asyncpg.Pool) -> set[bytes]:
    """Everything that is sealed."""
    return {
        row[0]
        for place in reencryption.PLACES
        for row in await db.fetch(
            f"select {place.column} from {place.table} where {place.column} is not null"
        )
    }


async def test_after_rotating_the_newest_key_alone_opens_everything(db: asyncpg.Pool) -> None:
    repo_id, job_id, connection = await one_of_each(db, OLD)
    done = await reencrypt.rotate(db, BOTH)
    assert (done.resealed, done.problems) == (ALL, [])
    assert [(key.newest, key.here, key.sealed) for key in done.keys] == [
        (True, True, ALL),
        (False, True, 0),
    ]
    assert await credentials.of(db, NEW, repo_id) == Secret("ann", "hush")
    locks = await hooks.locks(db, "github", HOOK, START)
    assert locks and locks.secrets(NEW) == ["second", "first"]
    row = await db.fetchrow("select * from connection")
    assert NEW.open(row["sealed_access"], f"connection/{connection}/access") == b"access"
    assert NEW.open(row["sealed_refresh"], f"connection/{connection}/refresh") == b"refresh"
    kept = await db.fetchval("select sealed from job where id = $1", job_id)
    assert b"push" in NEW.open(kept, f"job/{job_id}")


async def test_rotating_twice_changes_nothing_more(db: asyncpg.Pool) -> None:
    await one_of_each(db, OLD)
    await reencrypt.rotate(db, BOTH)
    before = await texts(db)
    assert (await reencrypt.rotate(db, BOTH)).resealed == 0
    assert await texts(db) == before


async def test_every_column_of_sealed_texts_is_known_here() -> None:
    tables = "\n".join(path.read_text() for path in sorted(sql_directory().glob("*.sql")))
    columns = [
        line.split()[0] for line in tables.splitlines() if " bytea" in line and "sealed" in line.split()[0]
    ]
    assert sorted(columns) == sorted(place.column for place in reencryption.PLACES)


async def test_what_needs_a_key_that_is_missing_is_said_and_stays(db: asyncpg.Pool) -> None:
    repo_id, _, _ = await one_of_each(db, OLD)
    done = await reencrypt.rotate(db, NEW)
    assert (done.resealed, done.done) == (0, False)
    assert [(key.newest, key.here, key.sealed) for key in done.keys] == [(True, True, 0), (False, False, ALL)]
    assert len(done.problems) == ALL
    assert "the key that encrypted it is not in SECRET_KEYS" in done.problems[0]
    assert await credentials.of(db, OLD, repo_id) == Secret("ann", "hush")


async def test_what_was_tampered_with_stops_nothing_else(db: asyncpg.Pool) -> None:
    repo_id, _, _ = await one_of_each(db, OLD)
    await db.execute("update credential set sealed = set_byte(sealed, 90, get_byte(sealed, 90) # 1)")
    done = await reencrypt.rotate(db, BOTH)
    assert (done.resealed, done.done) == (ALL - 1, False)
    assert done.problems == [
        f"credential/{repo_id}: the stored secret was changed or moved; enter it again",
    ]


async def test_what_changes_meanwhile_is_not_overwritten(
    db: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo_id, _, _ = await one_of_each(db, OLD)
    replace = reencryption.replace

    async def later(
        db: asyncpg.Pool, place: reencryption.Column, old: reencryption.SealedValue, text: bytes
    ) -> bool:
        if place.table == "credential" and not changed:
            changed.append(True)
            await credentials.keep(
                db, OLD, repo_id, Secret("ann", "changed")
            )  # by a process with the old keys
        return await replace(db, place, old, text)

    changed: list[bool] = []
    monkeypatch.setattr(reencryption, "replace", later)
    done = await reencrypt.rotate(db, BOTH)
    assert (done.resealed, [key.sealed for key in done.keys]) == (ALL, [ALL, 0])
    assert await credentials.of(db, NEW, repo_id) == Secret("ann", "changed")


async def test_more_than_are_read_at_once_are_all_sealed_anew(
    db: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencrypt, "_AT_ONCE", 3)
    for number in range(10):
        repo = (await begin(db, f"ann/{number}")).repo
        await credentials.keep(db, OLD, repo.id, Secret("ann", str(number)))
    assert (await reencrypt.rotate(db, BOTH)).resealed == 10


def test_no_sealed_text_is_shown() -> None:
    assert "hush" not in repr(reencryption.SealedValue("1", b"hush"))


@pytest.mark.parametrize("keys", [EXAMPLE, f"{'n' * 32},{EXAMPLE}"], ids=["newest", "older"])
def test_nobody_starts_with_the_key_of_the_documentation(keys: str) -> None:
    with pytest.raises(UsageError, match="openssl rand"):
        from_env({"SECRET_KEYS": keys}, lambda path: "", "/data")
