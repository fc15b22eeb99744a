"""The database itself, the repos in it and the small tables, on every PostgreSQL that is found."""

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from mirror import store
from mirror.core.errors import (
    BadCredentials,
    EverrefError,
    LimitReached,
    NetworkError,
    NotFound,
    OurFault,
    UsageError,
)
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import RepoId, Secret
from mirror.store import database, leases, migrations, repos
from mirror.store.backup import history, parts, snapshots
from mirror.store.backup.snapshots import Ending
from mirror.store.discovery import credentials
from mirror.store.migrations import Migration
from mirror.store.people import teams
from mirror.store.restore import drills, restores
from tests.parts.chain import MAIN, SIDE, START, begin, oid
from tests.parts.postgres import Server

HOUR = timedelta(hours=1)


async def test_migrating_twice_changes_nothing(db: asyncpg.Pool) -> None:
    assert await store.migrate(db) == []
    assert await store.pending(db) == []


async def test_an_empty_database_waits_for_every_migration(empty_database: str) -> None:
    names = [migration.name for migration in migrations.migrations()]
    async with store.opened(empty_database) as pool:
        assert await store.pending(pool) == names
        assert await store.migrate(pool) == names


async def test_two_programs_that_migrate_at_once_apply_each_file_once(empty_database: str) -> None:
    async with store.opened(empty_database) as one, store.opened(empty_database) as other:
        first, second = await asyncio.gather(store.migrate(one), store.migrate(other))
    assert sorted(first + second) == [migration.name for migration in migrations.migrations()]


async def test_a_migration_that_fails_leaves_nothing_of_itself(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Migration(1, "001_good.sql", "create table good ()")
    bad = Migration(2, "002_bad.sql", "create table half (); select 1 / 0")
    monkeypatch.setattr(migrations, "migrations", lambda: (good, bad))
    async with store.opened(empty_database) as pool:
        with pytest.raises(OurFault):
            await store.migrate(pool)
        assert await store.pending(pool) == ["002_bad.sql"]
        assert await pool.fetchval("select to_regclass('half') is null")


async def test_a_migration_that_was_edited_after_it_was_applied_is_refused(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rest = migrations.migrations()
    edited = (replace(first, text=first.text + "-- a word more"), *rest)
    monkeypatch.setattr(migrations, "migrations", lambda: edited)
    with pytest.raises(OurFault, match="001_words.sql was edited"):
        await store.migrate(pool)


async def test_the_database_of_a_newer_version_is_refused(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = migrations.migrations()[:-1]
    monkeypatch.setattr(migrations, "migrations", lambda: older)
    with pytest.raises(OurFault, match="newer everref"):
        await store.migrate(pool)


def test_the_sql_is_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "mirror" / "store"
    (inside / "sql").mkdir(parents=True)
    monkeypatch.setattr(database, "__file__", str(inside / "database.py"))
    assert database.sql_directory() == inside / "sql"


async def test_the_version_is_told(db: asyncpg.Pool) -> None:
    assert (await store.version(db)).startswith("PostgreSQL 1")


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        pytest.param("postgresql://me:hush@127.0.0.1:1/x", NetworkError, "does not answer", id="no server"),
        pytest.param("postgresql://me:hush@host:port/x", UsageError, "cannot be read", id="no port"),
        pytest.param("postgresql://me:hush@/x?host=/none", NetworkError, "PostgreSQL runs", id="no socket"),
    ],
)
async def test_a_database_url_that_leads_nowhere_is_one_line_without_the_password(
    url: str, error: type[EverrefError], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        await store.connect(url)
    assert "hush" not in "".join(traceback.format_exception(raised.value))


async def test_a_user_whom_the_server_refuses_has_bad_credentials(postgres: Server) -> None:
    with pytest.raises(BadCredentials, match="DATABASE_URL"):
        await store.connect(postgres.url("migrated").replace("everref@", "mallory@"))


async def test_a_database_that_does_not_exist_is_said_to_be_made(postgres: Server) -> None:
    with pytest.raises(OurFault, match="createdb"):
        await store.connect(postgres.url("nowhere"))


async def test_a_database_in_another_encoding_is_refused(postgres: Server) -> None:
    await postgres.sql("create database latin encoding 'latin1' locale 'C' template template0")
    with pytest.raises(OurFault, match="UTF8, not LATIN1"):
        await store.connect(postgres.url("latin"))


async def test_a_database_without_the_tables_is_said_to_be_migrated(empty_database: str) -> None:
    async with store.opened(empty_database) as pool:
        with pytest.raises(OurFault, match="everref migrate"):
            await repos.all(pool)


async def test_a_connection_that_breaks_is_worth_another_try(db: asyncpg.Pool) -> None:
    async with db.acquire() as connection:
        await db.execute("select pg_terminate_backend($1)", connection.get_server_pid())
        with pytest.raises(NetworkError) as raised:
            await repos.all(connection)
    assert not raised.value.permanent


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        pytest.param(asyncpg.DiskFullError, LimitReached, id="disk"),
        pytest.param(asyncpg.OutOfMemoryError, LimitReached, id="memory"),
        pytest.param(asyncpg.TooManyConnectionsError, LimitReached, id="connections"),
        pytest.param(asyncpg.AdminShutdownError, NetworkError, id="shutdown"),
        pytest.param(asyncpg.ReadOnlySQLTransactionError, NetworkError, id="failover"),
        pytest.param(asyncpg.InsufficientPrivilegeError, OurFault, id="privilege"),
        pytest.param(asyncpg.InterfaceError, NetworkError, id="connection lost"),
        pytest.param(TimeoutError, NetworkError, id="timeout"),
    ],
)
def test_what_the_driver_raises_is_said_in_our_words(
    error: Callable[[str], Exception], becomes: type[EverrefError]
) -> None:
    explained = database.explained(error("relation of a secret"))
    assert type(explained) is becomes
    assert "secret" not in str(explained)


async def test_a_refused_row_is_named_by_its_constraint_and_never_by_its_values(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    with pytest.raises(OurFault, match="23514") as raised:
        await repos.set_object_format(db, chain.repo.id, "md5-hush")  # type: ignore[arg-type]
    assert "hush" not in str(raised.value)


async def test_a_repo_is_found_by_its_id_its_name_and_its_address(db: asyncpg.Pool) -> None:
    team = await teams.default(db)
    repo = await repos.add(db, team, "alice/garden", "https://forge.example/alice/garden", START)
    assert await repos.get(db, repo.id) == repo
    assert await repos.by_name(db, team, "alice/garden") == repo
    assert await repos.by_url(db, team, "https://forge.example/alice/garden") == repo
    assert await repos.all(db) == [repo]
    assert repo.object_format is None


async def test_a_repo_that_is_not_there_is_not_found(db: asyncpg.Pool) -> None:
    team, nobody = await teams.default(db), RepoId(uuid4())
    assert await repos.find(db, nobody) is None
    assert await repos.by_name(db, team, "bob\udcff\0") is None
    assert await repos.by_url(db, team, "/none") is None
    with pytest.raises(NotFound):
        await repos.get(db, nobody)
    with pytest.raises(NotFound):
        await repos.overview_of(db, nobody)
    with pytest.raises(NotFound):
        await repos.request_sync(db, nobody, START)
    with pytest.raises(NotFound):
        await leases.acquire(db, nobody)


async def test_a_rebuilt_repo_keeps_the_id_that_the_vault_knows(db: asyncpg.Pool) -> None:
    known = RepoId(uuid4())
    repo = await repos.add(db, await teams.default(db), "alice/garden", "/srv/garden", START, known)
    await repos.set_object_format(db, known, "sha256")
    assert await repos.get(db, known) == replace(repo, id=known, object_format="sha256")


@pytest.mark.parametrize(
    ("name", "url", "says"),
    [
        pytest.param("alice/garden", "/other", "the name alice/garden is taken", id="name"),
        pytest.param("bob/garden", "/srv/garden", "/srv/garden is taken", id="address"),
        pytest.param("b" * 501, "/other", "1 to 500 bytes", id="long name"),
        pytest.param("", "/other", "1 to 500 bytes", id="no name"),
        pytest.param("bob/garden", "/" + "x" * 2000, "1 to 2000", id="long address"),
        pytest.param("bob/\udcff", "/other", "UTF-8", id="bytes"),
    ],
)
async def test_a_repo_that_cannot_be_added_is_a_usage_error(
    db: asyncpg.Pool, name: str, url: str, says: str
) -> None:
    team = await teams.default(db)
    await repos.add(db, team, "alice/garden", "/srv/garden", START)
    with pytest.raises(UsageError, match=says):
        await repos.add(db, team, name, url, START)


async def test_there_is_one_default_team_also_for_two_who_ask_first(db: asyncpg.Pool) -> None:
    one, other = await asyncio.gather(teams.default(db), teams.default(db))
    assert one == other


async def test_a_repo_is_never_protected_until_its_first_snapshot(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    assert (await repos.overview_of(db, chain.repo.id)).state == "never"
    await repos.set_failure(db, chain.repo.id, "network", "nobody answers", START)
    [row] = await repos.overview(db)
    assert (row.state, row.protected_as_of, row.snapshots, row.refs, row.bytes) == ("never", None, 0, 0, 0)
    assert row.failure == repos.Failure("network", "nobody answers", START, START)


async def test_a_snapshot_protects_a_repo_and_ends_its_failure(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await repos.set_failure(db, chain.repo.id, "network", "nobody answers", START)
    snapshot = await chain.take({MAIN: oid(1), SIDE: oid(2)})
    [row] = await repos.overview(db)
    assert (row.repo, row.team, row.state, row.failure) == (chain.repo, "everref", "protected", None)
    assert snapshot.bundle is not None
    assert (row.snapshots, row.refs, row.bytes) == (1, 2, snapshot.bundle.bytes)
    assert row.protected_as_of == snapshot.taken_at


async def test_a_repo_that_fails_remembers_since_when_and_as_of_when_it_is_protected(
    db: asyncpg.Pool,
) -> None:
    chain = await begin(db)
    snapshot = await chain.take({MAIN: oid(1)})
    await repos.set_failure(db, chain.repo.id, "network", "nobody\0 answers", START + HOUR)
    await repos.set_failure(db, chain.repo.id, "gone", "not found", START + 2 * HOUR)
    row = await repos.overview_of(db, chain.repo.id)
    assert (row.state, row.protected_as_of) == ("failing", snapshot.taken_at)
    assert row.failure == repos.Failure("gone", "not found", START + HOUR, START + 2 * HOUR)


async def test_a_look_that_finds_nothing_new_protects_up_to_then(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({MAIN: oid(1)})
    await repos.set_failure(db, chain.repo.id, "network", "nobody answers", START + HOUR)
    await repos.touch_protected(db, chain.repo.id, START + 2 * HOUR)
    await repos.touch_protected(db, chain.repo.id, START + 1.5 * HOUR)  # a slower run that looked before
    row = await repos.overview_of(db, chain.repo.id)
    assert (row.state, row.protected_as_of) == ("protected", START + 2 * HOUR)


async def test_a_wish_is_open_until_a_run_that_began_with_it_has_ended(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({MAIN: oid(1)})
    assert await repos.sync_request(db, chain.repo.id) is None
    sync_request = await repos.request_sync(db, chain.repo.id, START)
    assert await repos.sync_request(db, chain.repo.id) == sync_request
    assert (await repos.overview_of(db, chain.repo.id)).state == "behind"
    await repos.touch_protected(db, chain.repo.id, START + HOUR, sync_request)
    assert await repos.sync_request(db, chain.repo.id) is None
    assert (await repos.overview_of(db, chain.repo.id)).state == "protected"


async def test_a_wish_that_came_while_a_run_served_another_stays_open(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    served = await repos.request_sync(db, chain.repo.id, START)
    renewed = await repos.request_sync(db, chain.repo.id, START - HOUR)  # by a clock that is behind
    assert renewed > served
    snapshot = chain.next({}, [], objects=False)
    await snapshots.record(db, chain.lease, chain.repo.id, snapshot, [], Ending(served))
    assert await repos.sync_request(db, chain.repo.id) == renewed
    assert (await repos.overview_of(db, chain.repo.id)).state == "behind"


async def test_forgetting_a_history_keeps_the_repo_and_lets_the_same_history_be_recorded(
    db: asyncpg.Pool,
) -> None:
    chain, other = await begin(db), await begin(db, "bob/shed")
    for map_ in ({MAIN: oid(1)}, {MAIN: oid(2), SIDE: oid(1)}, {SIDE: oid(1)}):
        await chain.take(map_)
        await other.take(map_)
    log = [line async for line in history.changes(db, chain.repo.id)]
    await repos.forget_history(db, chain.lease, chain.repo.id)
    assert await snapshots.latest(db, chain.repo.id) is None
    assert await parts.live(db, chain.repo.id) == []
    assert (await repos.overview_of(db, chain.repo.id)).state == "never"
    taken, maps = chain.taken, chain.maps
    chain.taken, chain.maps = [], [{}]
    for map_ in maps[1:]:
        await chain.take(map_)
    assert chain.taken == taken
    assert [line async for line in history.changes(db, chain.repo.id)] == log
    assert await history.refs_at(db, other.repo.id, 2) == other.maps[2]


async def test_credentials_come_back_and_stand_nowhere_in_the_open(db: asyncpg.Pool) -> None:
    chain, keyring = await begin(db), Keyring(["k" * 32])
    assert await credentials.of(db, keyring, chain.repo.id) is None
    await credentials.keep(db, keyring, chain.repo.id, Secret("alice", "old-password"))
    await credentials.keep(db, keyring, chain.repo.id, Secret("alice", "hush-ünï\0"))
    assert await credentials.of(db, keyring, chain.repo.id) == Secret("alice", "hush-ünï\0")
    stored = await db.fetchval("select sealed from credential")
    assert b"alice" not in stored
    assert b"hush" not in stored
    await credentials.forget(db, chain.repo.id)
    assert await credentials.of(db, keyring, chain.repo.id) is None


async def test_credentials_moved_to_another_repo_do_not_open(db: asyncpg.Pool) -> None:
    mine, theirs, keyring = await begin(db), await begin(db, "bob/shed"), Keyring(["k" * 32])
    await credentials.keep(db, keyring, theirs.repo.id, Secret("bob", "hush"))
    await db.execute("update credential set repo_id = $1", mine.repo.id)
    with pytest.raises(BadKey, match="changed or moved"):
        await credentials.of(db, keyring, mine.repo.id)


async def test_restores_are_kept_newest_first(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    bundle = restores.Restore(1, "bundle a.bundle", {"created": 2}, True, START)
    await restores.add(db, chain.repo.id, bundle)
    broken = restores.Restore(2, "directory \udcff", {}, False, START + HOUR)
    await restores.add(db, chain.repo.id, broken)
    newest, oldest = await restores.of(db, chain.repo.id)
    assert oldest == bundle
    assert (newest.snapshot, newest.destination, newest.verified) == (2, "directory \ufffd", False)


async def test_the_newest_drill_is_kept_with_its_evidence(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    assert await drills.latest(db, chain.repo.id) is None
    failed = drills.Drill(1, 3, 1 << 40, 1.5, ("git fsck: missing blob",), START)
    await drills.add(db, chain.repo.id, failed)
    sound = drills.Drill(2, 4, 0, 0.5, (), START + HOUR)
    await drills.add(db, chain.repo.id, sound)
    assert await drills.latest(db, chain.repo.id) == sound
