"""The state in the vault: people sign in again after a rebuild; with the keys only what is sealed is lost."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import asyncpg
import pytest

from mirror.backup import describe, evidence
from mirror.cli import render
from mirror.core import identities
from mirror.core.errors import Corrupt, KeyMissing, NetworkError, Refused
from mirror.core.formats import attestation, layout, recovery_words, state_export
from mirror.core.formats.manifest import time_text
from mirror.core.formats.state_export import Opener, Sealer
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import Repo, Secret
from mirror.core.rules.keeping.pending import Kind
from mirror.core.rules.keeping.retention import Policy
from mirror.core.rules.roles import Role
from mirror.discovery import add
from mirror.jobs import sweep
from mirror.people import accounts, api_tokens, members, pending
from mirror.people import keys as flow
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.open import open_services
from mirror.store import repos
from mirror.store.browse import causes
from mirror.store.discovery import credentials, hooks, remotes
from mirror.store.people import audit, keys, quotas, teams
from mirror.store.people import pending as pending_rows
from mirror.store.people.teams import Team, TeamId
from mirror.store.upkeep import keeping, retention
from mirror.store.upkeep import state as rows
from mirror.upkeep import costs, doctor, reencrypt, state
from mirror.upkeep.moving import rebuild
from mirror.vault.contract import Vault
from tests.parts.everref import Mirror
from tests.parts.repos import Work, refs_of

HERE = "192.0.2.1"
PASSWORD = "correct horse 1"
SECRET = Secret("ann", "token-of-ann")
HOOK = "h" * 32
EVIL = "https://evil.example/x.git"


@asynccontextmanager
async def after_the_loss(
    mirror: Mirror, database: str, keys: tuple[str, ...] | None = None
) -> AsyncIterator[Mirror]:
    """Everref with the same vault and an empty database."""
    settings = replace(
        mirror.services.settings,
        database_url=database,
        secret_keys=keys or mirror.services.settings.secret_keys,
    )
    async with open_services(settings, clock=mirror.clock) as services:
        yield Mirror(services, mirror.clock, mirror.place)


@dataclass(frozen=True)
class Some:
    """Ann, who owns a team with a repo."""

    by: By
    team: Team
    repo: Repo


async def some_state(mirror: Mirror, work: Work) -> Some:
    services, db = mirror.services, mirror.services.db
    ann = await accounts.sign_up(db, "ann@example.org", PASSWORD, "Ann", mirror.clock(), HERE)
    by = By(ann, mirror.clock(), HERE)
    team = await members.new_team(db, by, "acme")
    work.commit()
    (done,) = [await mirror.backup(work)]
    await db.execute("update repo set team_id = $1, added_by = $2", team.id, ann.id)
    assert services.keyring
    await credentials.keep(db, services.keyring, done.repo.id, SECRET)
    await hooks.add(db, done.repo.id, "github", hooks.lock(services.keyring, HOOK, "hush"), mirror.clock())
    await api_tokens.make_token(db, by, team, "ci", ["read"])
    await quotas.set(db, team.id, "repos", 5, mirror.clock())
    await db.execute(
        """
        insert into connection (
          team_id, person_id, forge, host, account_id, login, grant_kind, scopes, sealed_access, created_at,
          patterns, etags
        ) values (
          $1, $2, 'github', 'github.com', '7', 'ann', 'token', '{repo}', '\\x00', $3, '{acme/*}', '{"1": "x"}'
        )
        """,
        team.id,
        ann.id,
        mirror.clock(),
    )
    await db.execute(
        "insert into ssh_key values ($1, 'ssh-ed25519 A', $2, $3)",
        team.id,
        services.keyring.seal(b"private", f"ssh_key/{team.id}"),
        mirror.clock(),
    )
    await db.execute(
        "insert into ssh_host values ($1, 'git.example.org', 22, '{ssh-ed25519 B}', $2)",
        team.id,
        mirror.clock(),
    )
    await db.execute("update repo set schedule = '6h', connection_id = (select id from connection)")
    await db.execute(
        "insert into notice (team_id, repo_id, kind, message, at) values ($1, $2, 'failing', 'it fails', $3)",
        team.id,
        done.repo.id,
        mirror.clock(),
    )
    await causes.settle(
        db,
        team.id,
        causes.Settlement("forced", "main was force-pushed", ann.id, mirror.clock()),
        [done.repo.id],
        1,
    )
    await db.execute(
        """
        insert into restore (repo_id, snapshot, destination, results, verified, finished_at, person_id)
        values ($1, 1, 'somewhere', '{"created": 1}', true, $2, $3)
        """,
        done.repo.id,
        mirror.clock(),
        ann.id,
    )
    await db.execute(
        """
        insert into channel (id, team_id, kind, name, shown, sealed, created_at, quiet_from, quiet_to)
        values ($1, $2, 'chat', 'ntfy', 'ntfy.example', $3, $4, '22:00', '06:00')
        """,
        channel := uuid4(),
        team.id,
        services.keyring.seal(b"{}", f"channel/{channel}"),
        mirror.clock(),
    )
    await db.execute("insert into former_admin values ($1, $2, 'admin', $3)", team.id, ann.id, mirror.clock())
    asked = await pending.ask(services, by, team, Kind.FORGET_REPO, {}, done.repo)
    await pending_rows.tell(db, asked.id, "asked", ann.id, mirror.clock())
    await db.execute(
        """
        insert into erased_repo (repo_id, team_id, action_id, name, forge, snapshots, bytes, erased_at)
        values (gen_random_uuid(), $1, $2, 'old', 'generic', 1, 2, $3)
        """,
        team.id,
        asked.id,
        mirror.clock(),
    )
    await keys.add_identity(db, services.keyring, team.id, identities.made(), mirror.clock())
    await db.execute(
        """
        insert into recovery_key (team_id, recipient, kind, name, added_by, added_at, proved_at)
        values ($1, $4, 'age', 'Ann', $2, $3, $3)
        """,
        team.id,
        ann.id,
        mirror.clock(),
        identities.made().recipient,
    )
    await retention.put(db, team.id, done.repo.id, Policy(keep_last=5), "Ann", mirror.clock())
    await keeping.set_hold(db, done.repo.id, "case 12", "Ann", mirror.clock())
    await db.execute(
        "insert into store_hold (place, repo_id, held_to) values ('s3 bucket', $1, $2)",
        done.repo.id,
        mirror.clock(),
    )
    await keeping.pin(db, done.repo.id, 1, "the release", "Ann", mirror.clock())
    await evidence.signing_key(services)
    await db.execute(
        "insert into ping (id, team_id, sealed, shown, created_at) values ($1, $2, $3, 'hc.example', $4)",
        monitor := uuid4(),
        team.id,
        services.keyring.seal(b"https://hc.example/1", f"ping/{monitor}"),
        mirror.clock(),
    )
    await db.execute("update repo set rpo = '1 hour'")
    await db.execute(
        """
        insert into mirror (id, team_id, repo_id, address, sealed, created_at, created_by)
        values ($1, $2, $3, 'https://git.example.org/acme/api', $4, $5, 'Ann')
        """,
        mirrored := uuid4(),
        team.id,
        done.repo.id,
        services.keyring.seal(b"{}", f"mirror/{mirrored}"),
        mirror.clock(),
    )
    await costs.due(services)
    await describe.due(services)
    return Some(by, team, done.repo)


async def table(db: asyncpg.Pool, one: rows.Table) -> list[str]:
    """What is exported of a table, in an order of its own."""
    chosen = one.only or [name for name in await rows.columns(db, one.name) if name not in one.without]
    listed = ", ".join(f'"{name}"' for name in chosen)
    found = await db.fetch(f"select to_jsonb(chosen)::text from (select {listed} from {one.name}) as chosen")
    return sorted(row[0] for row in found)


async def everything(db: asyncpg.Pool) -> dict[str, list[str]]:
    return {one.name: await table(db, one) for one in rows.EXPORTED}


async def exports(mirror: Mirror) -> list[str]:
    return [key for key in await mirror.keys() if layout.parse_state_key(key)]


# What is exported.


async def test_every_table_is_exported_or_left_out_for_a_reason(pool: asyncpg.Pool) -> None:
    found = await pool.fetch("select tablename from pg_tables where schemaname = 'public'")
    named = [one.name for one in rows.EXPORTED]
    assert sorted([*named, *rows.LEFT_OUT]) == sorted(row["tablename"] for row in found), (
        "say in mirror/store/upkeep/state.py whether a rebuild brings this table back"
    )
    for one in rows.EXPORTED:
        assert {*one.only, *one.without} <= {*await rows.columns(pool, one.name)}


async def test_tables_are_exported_after_those_that_they_need(pool: asyncpg.Pool) -> None:
    named = [one.name for one in rows.EXPORTED]
    found = await pool.fetch(
        """
        select conrelid::regclass::text as one, confrelid::regclass::text as other from pg_constraint
        where contype = 'f' and conrelid::regclass::text = any($1::text[])
        """,
        named,
    )
    needed = {(row["one"], row["other"]) for row in found if row["one"] != row["other"]}
    assert [pair for pair in needed if pair[1] in named and named.index(pair[1]) > named.index(pair[0])] == []


# The way there and back.


async def test_people_sign_in_and_all_that_they_chose_is_there_after_a_rebuild(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    some = await some_state(mirror, work)
    before = await everything(mirror.services.db)
    assert all(before[name] for name in before if name not in ("identity", "invitation"))
    made = await state.export(mirror.services)
    async with after_the_loss(mirror, empty_database) as again:
        db, keyring = again.services.db, again.services.keyring
        done = await rebuild.rebuild(again.services)
        assert done.state and done.state.taken_at == made.taken_at
        assert (done.state.added["person"], done.state.added["repo"]) == (1, 1)
        assert await everything(db) == before
        ann = await accounts.sign_in_with_password(db, "ann@example.org", PASSWORD, mirror.clock(), HERE)
        member = await teams.membership(db, ann.id, "acme")
        assert member and (member.team, member.role) == (some.team, Role.OWNER)
        assert keyring and await credentials.of(db, keyring, some.repo.id) == SECRET
        assert await audit.check(db, some.team.id) is None
        assert refs_of(await again.restored(some.repo, 1)) == work.refs()
        assert (await repos.overview_of(db, some.repo.id)).team == "acme"
        assert [one.repo.id for one in done.repos] == [some.repo.id]
        keys = await exports(mirror)
        assert len(keys) == 2  # the rebuild made another
        assert (await rebuild.rebuild(again.services)).state is None
        assert await state.latest(again.services) is not None
        assert [one.ok for one in await doctor.doctor(again.services) if one.what in ("state", "audit")] == [
            True
        ] * 2


async def test_a_rebuild_that_was_killed_goes_on_where_it_was(
    mirror: Mirror, work: Work, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = await some_state(mirror, work)
    await state.export(mirror.services)
    before = await everything(mirror.services.db)

    class Killed(BaseException): ...

    for step in failpoints.STATE[-1:] + failpoints.STATE[:-1]:
        async with after_the_loss(mirror, empty_database) as again:
            with monkeypatch.context() as patched, pytest.raises(Killed):

                def killed(reached: str, step: str = step) -> None:
                    if reached == step:
                        raise Killed

                patched.setattr(failpoints, "reached", killed)
                await rebuild.rebuild(again.services)
            if step == "state: taken up":  # in its transaction
                assert await again.services.db.fetchval("select count(*) from person") == 0
    async with after_the_loss(mirror, empty_database) as again:
        done = await rebuild.rebuild(again.services)
        assert (done.state, [one.added for one in done.repos]) == (None, [0])
        assert await everything(again.services.db) == before
        assert refs_of(await again.restored(some.repo, 1)) == work.refs()


async def audited(mirror: Mirror) -> str:
    """What `everref doctor` says of the audit logs."""
    (found,) = [one for one in await doctor.doctor(mirror.services) if one.what == "audit"]
    return found.value


async def test_with_other_keys_the_history_comes_back_and_one_line_says_what_does_not(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    some = await some_state(mirror, work)
    await state.export(mirror.services)
    mirror.clock.now += timedelta(minutes=1)
    newest = (await state.export(mirror.services)).key
    async with after_the_loss(mirror, empty_database, keys=("another" * 6,)) as again:
        for _ in range(2):
            assert await audited(again) == (
                f"2 of the states in the vault could not be read here, the last of them {newest}, "
                "so the audit log cannot be compared with them"
            )
            done = await rebuild.rebuild(again.services)
            assert done.state and done.state.taken_at is None
            assert render.taken_up(done.state, render.Eye(mirror.clock())) == (
                f"not read  {newest}/0/end: the key that encrypted it is not in SECRET_KEYS; add that key at "
                "the end; nor could 1 more be read; people, teams and connections were not restored"
            )
        assert refs_of(await again.restored(some.repo, 1)) == work.refs()
        assert (await repos.overview_of(again.services.db, some.repo.id)).team == "acme"
        assert await again.services.db.fetchval("select count(*) from person") == 0
    keys = ("another" * 6, *mirror.services.settings.secret_keys)  # which opens what was left aside
    async with after_the_loss(mirror, empty_database, keys=keys) as again:
        done = await rebuild.rebuild(again.services)
        assert done.state and done.state.added["person"] == 1
        assert await audited(again) == "matches every export in the vault"
        await accounts.sign_in_with_password(
            again.services.db, "ann@example.org", PASSWORD, mirror.clock(), HERE
        )


@asynccontextmanager
async def with_keys(mirror: Mirror, *keys: str) -> AsyncIterator[Mirror]:
    """Everref with the same vault and the same database, and other keys."""
    settings = replace(mirror.services.settings, secret_keys=keys)
    async with open_services(settings, clock=mirror.clock) as services:
        yield Mirror(services, mirror.clock, mirror.place)


async def seal_the_connection(mirror: Mirror) -> None:
    db, keyring = mirror.services.db, mirror.services.keyring
    id = await db.fetchval("select id from connection")
    assert keyring
    sealed = keyring.seal(b"token", f"connection/{id}/access")
    await db.execute("update connection set sealed_access = $1", sealed)


async def test_after_the_keys_were_changed_as_the_page_says_the_newest_alone_brings_the_state_back(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    some, old, new = (
        await some_state(mirror, work),
        mirror.services.settings.secret_keys,
        "n" * 20 + "ew" * 20,
    )
    await seal_the_connection(mirror)
    await state.export(mirror.services)
    mirror.clock.now += timedelta(minutes=1)
    async with with_keys(mirror, new, *old) as both:
        await state.due(both.services)  # holds what the older key sealed
        assert both.services.keyring
        needed = await reencrypt.keys(both.services.db, both.services.keyring)
        assert [(key.newest, key.state) for key in needed] == [(True, True), (False, True)]
        mirror.clock.now += timedelta(minutes=1)
        done = await reencrypt.everything(both.services)
        assert (done.done, done.problems) == (True, [])
        assert "is no longer needed" in render.rotated(done, render.Eye(mirror.clock()))
    async with after_the_loss(mirror, empty_database, keys=(new,)) as again:
        recovered = await rebuild.rebuild(again.services)
        assert recovered.state and recovered.state.added["person"] == 1 and not recovered.state.aside
        assert again.services.keyring
        assert await credentials.of(again.services.db, again.services.keyring, some.repo.id) == SECRET


async def test_a_key_is_needed_while_the_state_could_not_be_exported(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_state(mirror, work)
    await seal_the_connection(mirror)
    await state.export(mirror.services)

    async def away(*args: object) -> None:
        raise NetworkError("the vault is away")

    async with with_keys(mirror, "another" * 6, *mirror.services.settings.secret_keys) as both:
        with monkeypatch.context() as patched:
            patched.setattr(state, "_upload", away)
            done = await reencrypt.everything(both.services)
        assert not done.done
        assert done.problems == ["the state could not be exported: the vault is away"]
        assert "is needed until the state is exported" in render.rotated(done, render.Eye(mirror.clock()))
        assert (await reencrypt.everything(both.services)).done


async def test_the_doctor_sees_that_no_key_opens_the_newest_state(mirror: Mirror, work: Work) -> None:
    await some_state(mirror, work)
    await state.export(mirror.services)
    assert mirror.services.keyring
    async with with_keys(mirror, "another" * 6) as other:
        (found,) = [one for one in await doctor.doctor(other.services) if one.what == "state"]
        assert not found.ok
        assert f"with the key {mirror.services.keyring.id}, which is not in SECRET_KEYS" in found.value
        assert found.advice and found.advice.startswith("add that key at the end")
        await state.export(other.services)
        (found,) = [one for one in await doctor.doctor(other.services) if one.what == "state"]
        assert found.ok


async def test_the_doctor_does_not_ask_for_other_keys_where_those_that_are_set_open_the_state(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    await some_state(mirror, work)
    await state.export(mirror.services)
    async with after_the_loss(mirror, empty_database) as again:
        (found,) = [one for one in await doctor.doctor(again.services) if one.what == "audit"]
        assert (found.ok, found.advice) == (False, "run everref rebuild")


async def test_a_state_that_is_damaged_is_left_for_the_one_before_it(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    await some_state(mirror, work)
    good, bad = await state.export(mirror.services), await state.export(mirror.services)
    stored = await mirror.services.vault.get(bad.key)
    await mirror.services.vault.delete(bad.key)
    await mirror.services.vault.put(bad.key, stored[:-9])
    async with after_the_loss(mirror, empty_database) as again:
        done = await rebuild.rebuild(again.services)
        assert done.state and done.state.taken_at == good.taken_at and len(done.state.aside) == 1


async def test_what_became_of_a_repo_after_the_export_is_as_the_vault_says(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    some = await some_state(mirror, work)
    await state.export(mirror.services)
    place = ("acme/new", "https://github.com/acme/new.git")
    await remotes.rename(mirror.services.db, {some.repo.id: place}, mirror.clock())
    await describe.due(mirror.services)
    keys = await mirror.keys()
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        found = await remotes.get(again.services.db, some.repo.id)
        assert (found.repo.name, found.repo.url) == place
        assert found.connection_id is not None
        await describe.due(again.services)
        assert [key for key in await mirror.keys() if key not in keys and "state/" not in key] == []


async def forged(mirror: Mirror, some: Some, *, number: int = 4711, **fields: str | None) -> TeamId:
    """Whoever can write to the bucket, and signs up, says that the repo is theirs; nothing is overwritten."""
    db, at = mirror.services.db, mirror.clock() + timedelta(minutes=5)
    mallory = await accounts.sign_up(db, "mallory@example.org", PASSWORD, "Mallory", mirror.clock(), HERE)
    team = (await members.new_team(db, By(mallory, mirror.clock(), HERE), "theirs")).id
    stored = json.loads(await mirror.services.vault.get(layout.repo_file(some.repo.id)))
    told = stored | {"url": EVIL, "team": str(team), "team_name": "theirs", "at": time_text(at)} | fields
    await mirror.services.vault.put(layout.description_key(some.repo.id, number), json.dumps(told).encode())
    return team


@pytest.mark.parametrize("mac", ["another's", "0" * 64, "é", None])
async def test_who_can_only_write_to_the_bucket_is_given_no_repo_and_no_credentials(
    mirror: Mirror, work: Work, empty_database: str, mac: str | None
) -> None:
    some = await some_state(mirror, work)
    await state.export(mirror.services)
    mirror.clock.now += timedelta(minutes=1)
    await mirror.services.db.execute("update repo set name = 'renamed'")
    await describe.due(mirror.services)
    await forged(mirror, some, mac=mac)
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        found = await remotes.get(again.services.db, some.repo.id)
        assert (found.repo.name, found.repo.url, found.team_id) == ("renamed", some.repo.url, some.team.id)
        remote = await add.remote_of(again.services, some.repo.id, found.repo.url)
        assert (remote.url, remote.secret) == (some.repo.url, SECRET)
        await describe.due(again.services)  # what is so is the newest again
        key = layout.description_key(some.repo.id, 4712)
        assert attestation.is_attested(again.services.keyring, key, await again.services.vault.get(key))


async def test_credentials_never_join_a_repo_that_was_rebuilt_without_keys_at_a_forged_address(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    some = await some_state(mirror, work)
    theirs = await forged(mirror, some)
    await state.export(mirror.services)
    async with after_the_loss(mirror, empty_database, keys=("another" * 6,)) as again:
        await rebuild.rebuild(again.services)
        assert (await remotes.get(again.services.db, some.repo.id)).team_id == theirs  # nothing else is known
    async with after_the_loss(mirror, empty_database) as again:
        done = await rebuild.rebuild(again.services)
        assert done.state and done.state.added["person"] == 2
        remote = await add.remote_of(again.services, some.repo.id, EVIL)
        assert remote.secret is None


def test_a_mac_holds_at_its_own_key_for_what_was_said_there_by_any_of_the_keys() -> None:
    old, both, other = Keyring(("k" * 40,)), Keyring(("n" * 40, "k" * 40)), Keyring(("n" * 40,))
    stored = attestation.attest(old, "a/repo/0000000001.json", b'{"name": "caf\xe9"}')
    for keyring, key, said, holds in (
        (old, "a/repo/0000000001.json", stored, True),
        (both, "a/repo/0000000001.json", stored, True),
        (other, "a/repo/0000000001.json", stored, False),
        (None, "a/repo/0000000001.json", stored, False),
        (old, "a/repo/0000000002.json", stored, False),
        (old, "a/repo/0000000001.json", stored.replace(b"caf", b"cag"), False),
        (old, "a/repo/0000000001.json", stored.replace(b"{", b'{"more": 1,'), False),
        (old, "a/repo/0000000001.json", b"[]", False),
        (old, "a/repo/0000000001.json", b"\xff", False),
    ):
        assert attestation.is_attested(keyring, key, said) is holds
    assert attestation.attest(None, "a", b"{}") == b"{}"


async def test_what_is_in_the_database_already_stays_and_people_are_never_taken_for_others(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    some = await some_state(mirror, work)
    mine = await teams.default(mirror.services.db)
    await state.export(mirror.services)
    async with after_the_loss(mirror, empty_database) as again:
        db = again.services.db
        other = await accounts.sign_up(
            db, "ann@example.org", "another horse 2", "Mallory", mirror.clock(), HERE
        )
        theirs = await members.new_team(db, By(other, mirror.clock(), HERE), "acme")
        here = await teams.default(db)
        assert here != mine
        await rebuild.rebuild(again.services)
        assert await teams.by_name(db, "acme") == theirs
        assert (await repos.overview_of(db, some.repo.id)).team == "acme-2"
        assert await db.fetchval("select count(*) from member where team_id = $1", some.team.id) == 0
        assert await db.fetchval("select count(*) from person") == 1
        assert await db.fetchval("select count(*) from team where name = 'everref'") == 1
        assert await audit.check(db, some.team.id) is None
        assert await audit.check(db, theirs.id) is None


async def test_a_database_that_knows_its_own_exports_takes_up_no_other(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    await some_state(mirror, work)
    await state.export(mirror.services)
    async with after_the_loss(mirror, empty_database) as drill:
        await rebuild.rebuild(drill.services)  # to see that it works, somewhere else
    await mirror.services.db.execute("delete from api_token")
    assert (await rebuild.rebuild(mirror.services)).state is None
    assert await mirror.services.db.fetchval("select count(*) from api_token") == 0
    await state.export(mirror.services)


async def test_a_new_database_never_exports_over_the_head_of_the_one_that_was_lost(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    await some_state(mirror, work)
    (made,) = [await state.export(mirror.services)]
    async with after_the_loss(mirror, empty_database) as again:
        with pytest.raises(Refused, match="run everref rebuild"):
            await state.due(again.services)
        assert await exports(mirror) == [made.key]


async def test_a_vault_in_which_nothing_can_be_deleted_or_overwritten_is_enough(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    class Locked:
        """As a bucket under Object Lock."""

        def __getattr__(self, name: str) -> Any:
            assert name not in ("delete", "discard", "give_up")
            return getattr(mirror.services.vault, name)

    services = replace(mirror.services, vault=cast(Vault, Locked()))
    some = await some_state(Mirror(services, mirror.clock, mirror.place), work)
    for name in ("one", "two"):
        await services.db.execute("update repo set name = $1", name)
        await describe.due(services)
        await state.due(services)
    async with after_the_loss(mirror, empty_database) as again:
        done = await rebuild.rebuild(replace(again.services, vault=services.vault))
        assert [one.repo.name for one in done.repos] == ["two"]
        assert refs_of(await again.restored(some.repo, 1)) == work.refs()


# Once a day.


async def test_the_state_is_exported_daily_and_old_ones_go(mirror: Mirror, work: Work) -> None:
    await some_state(mirror, work)
    assert "export the state" in [task.name for task in sweep.TASKS]
    for _ in range(2):
        await state.due(mirror.services)
    (first,) = await exports(mirror)
    for _ in range(5):
        mirror.clock.now += timedelta(days=8)
        await state.due(mirror.services)
    found = await exports(mirror)
    assert first not in found and len(found) == 4
    assert sorted(await rows.known(mirror.services.db)) == found
    assert layout.state_about_key(first) not in await mirror.keys()


async def test_other_keys_make_another_export(mirror: Mirror, work: Work) -> None:
    await some_state(mirror, work)
    await state.due(mirror.services)
    newer = Keyring(("n" * 40, "k" * 40))
    for _ in range(2):
        await state.due(replace(mirror.services, keyring=newer))
    assert len(await exports(mirror)) == 2


async def test_nothing_that_is_secret_is_readable_in_the_vault(mirror: Mirror, work: Work) -> None:
    await some_state(mirror, work)
    made = await state.export(mirror.services)
    about = json.loads(await mirror.services.vault.get(layout.state_about_key(made.key)))
    assert about["tables"]["person"] == 1 and about["sealed_to"] == Keyring(("k" * 40,)).id
    stored = b"".join([await mirror.services.vault.get(key) for key in await mirror.keys()])
    for word in (b"ann@example.org", b"argon2", b"acme/*"):
        assert word not in stored


# The audit log.


@pytest.mark.parametrize("how", ["cut off", "written anew"])
async def test_an_audit_log_that_was_tampered_with_shows_and_its_team_is_told(
    mirror: Mirror, work: Work, how: str
) -> None:
    some = await some_state(mirror, work)
    await state.export(mirror.services)
    db = mirror.services.db
    assert await state.contradictions(mirror.services) == []
    async with db.acquire() as connection, connection.transaction():
        await connection.execute("alter table audit disable trigger user")
        await connection.execute("delete from audit where team_id = $1", some.team.id)
        await connection.execute("alter table audit enable trigger user")
    if how == "written anew":
        while await db.fetchval("select count(*) from audit") < 10:
            await audit.add(
                db,
                some.team.id,
                audit.Entry(person_id=None, actor="Mallory", action="team.rename", subject="x"),
                mirror.clock(),
            )
        assert await audit.check(db, some.team.id) is None  # by itself it looks well
    ((head, _),) = await state.contradictions(mirror.services)
    assert head.team_id == some.team.id
    (finding,) = [one for one in await doctor.doctor(mirror.services) if one.what == "audit"]
    assert not finding.ok and str(some.team.id) in finding.value
    mirror.clock.now += timedelta(days=2)
    for _ in range(2):
        await state.due(mirror.services)
    assert await db.fetchval("select count(*) from notice where kind = 'audit'") == 1


# The bytes.

LINES = [b'{"n": %d, "word": "%s"}' % (n, b"abc" * (n % 50)) for n in range(400)]


def sealed(lines: Sequence[bytes], keyring: Keyring) -> bytes:
    sealer = Sealer(keyring, "state/x")
    return b"".join([sealer.add(line + b"\n") for line in lines]) + sealer.end()


def opened(stored: bytes, keyring: Keyring, name: str = "state/x", step: int = 7919) -> list[bytes]:
    opener = Opener(keyring, name)
    found = [line for at in range(0, len(stored), step) for line in opener.add(stored[at : at + step])]
    opener.end()
    return found


@pytest.mark.parametrize("lines", [[], LINES], ids=["none", "many"])
def test_lines_come_back_as_they_were(lines: Sequence[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_export, "PIECE", 64)
    keyring = Keyring(("k" * 40,))
    assert opened(sealed(lines, keyring), Keyring(("n" * 40, "k" * 40))) == list(lines)


def _swapped(frames: list[bytes]) -> list[bytes]:
    return [frames[1], frames[0], *frames[2:]]


@pytest.mark.parametrize(
    "tampering",
    [
        lambda frames: frames[:-1],
        lambda frames: frames[1:],
        _swapped,
        lambda frames: [*frames, frames[-1]],
        lambda frames: [*frames[:-1], frames[-1][:-1] + bytes([frames[-1][-1] ^ 1])],
        lambda frames: [*frames[:2], b"\1" + frames[2][1:]],
    ],
    ids=["cut off", "begun late", "swapped", "repeated", "flipped", "ended early"],
)
def test_no_tampering_with_an_export_goes_unseen(
    tampering: Callable[[list[bytes]], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_export, "PIECE", 64)
    keyring = Keyring(("k" * 40,))
    stored, frames = sealed(LINES, keyring)[len(state_export.MAGIC) :], list[bytes]()
    while stored:
        length = 5 + int.from_bytes(stored[1:5], "big")
        frames.append(stored[:length])
        stored = stored[length:]
    assert len(frames) > 4
    with pytest.raises((BadKey, Corrupt)):
        opened(state_export.MAGIC + b"".join(tampering(frames)), keyring)


def test_what_is_no_export_or_another_one_does_not_open() -> None:
    keyring = Keyring(("k" * 40,))
    with pytest.raises(Corrupt):
        opened(b"PACK" * 9, keyring)
    with pytest.raises(BadKey):
        opened(sealed(LINES, keyring), keyring, name="state/y")


@pytest.mark.parametrize("lost", ["the database", "its key files as well"])
async def test_with_bucket_and_recovery_sheet_alone_sealed_histories_come_back(
    mirror: Mirror, work: Work, empty_database: str, lost: str
) -> None:
    services, team = mirror.services, Team(await teams.default(mirror.services.db), teams.DEFAULT)
    sheet = await flow.make_sheet(services, None, team)
    words = "\n".join(recovery_words.written(sheet.identity))
    await flow.prove(services, None, team, sheet.key.id, words)
    await flow.switch_on(services, None, team)
    work.commit("main")
    repo = (await mirror.backup(work)).repo
    files = [key for key in await mirror.keys() if key.startswith("keys/")]
    assert len(files) == 1  # at once, also where no worker runs
    if lost != "the database":
        await services.stored.delete(files[0])
    assert not [key for key in await mirror.keys() if key.startswith(f"{repo.id}/") and ".age" not in key]
    async with after_the_loss(mirror, empty_database, keys=("another" * 6,)) as again:
        with pytest.raises(KeyMissing, match="no key that is here opens it"):
            await rebuild.rebuild(again.services)
        given = flow.read_identity(words)
        done = await rebuild.rebuild_with(again.services, given)
        assert [(one.repo.id, one.snapshots) for one in done.repos] == [(repo.id, 1)]
        assert [one.id for one in await rebuild.stored_plain(again.services)] == [repo.id]
        own = await keys.own_keys(again.services.db, await teams.default(again.services.db))
        assert (given.recipient in [one.recipient for one in own]) == (lost != "the database")
    async with after_the_loss(mirror, empty_database, keys=("another" * 6,)) as later:
        path = await later.restored(done.repos[0].repo, 1)
        assert refs_of(path) == refs_of(work.path)
