"""What is kept stays locked, what was hidden comes back, and a store that only pretends is not written to."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio

from mirror.core import locks
from mirror.core.config import Settings, from_env
from mirror.core.errors import EverrefError, NetworkError, Refused, UsageError
from mirror.core.formats import layout
from mirror.core.locks import Locking, LockMode
from mirror.services.open import open_services
from mirror.store.backup import parts
from mirror.store.upkeep import keeping
from mirror.store.upkeep import locks as lock_rows
from mirror.store.upkeep.locks import Proved
from mirror.upkeep import compact, lock, prune, reseal
from mirror.upkeep.doctor import doctor
from mirror.web.pages import status
from tests.parts.everref import Clock, Mirror
from tests.parts.pretender import pretending
from tests.parts.repos import Work
from tests.parts.s3 import S3Server, client
from tests.test_pages import page, signed_in
from tests.test_sealed_team import seal

DAYS_90 = timedelta(days=90)


@asynccontextmanager
async def everref(
    tmp_path: Path, database: str, vault_url: str, lock: str = "compliance:90d", require: bool = False
) -> AsyncIterator[Mirror]:
    """Everref over a store that locks. Its clock begins now: no store takes a lock that has ended."""
    clock = Clock()
    clock.now, clock.step = datetime.now(UTC).replace(microsecond=0), timedelta(0)
    settings = Settings(
        data=str(tmp_path / "data"),
        database_url=database,
        vault_url=vault_url,
        vault_lock=locks.read(lock, "VAULT_LOCK"),
        require_worm=require,
        allow_private_remotes=True,
        secret_keys=("k" * 40,),
    )
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    async with open_services(settings, clock=clock) as services:
        yield Mirror(services, clock, place)


@pytest.fixture(scope="module")
def lockable(s3_server: S3Server) -> S3Server:
    server = S3Server(s3_server.endpoint, bucket="everref-upkeep")
    with client(server) as s3:
        s3.create_bucket(Bucket=server.bucket, ObjectLockEnabledForBucket=True)
    return server


@pytest_asyncio.fixture
async def mirror(
    tmp_path: Path, database: str, lockable: S3Server, s3_credentials: None
) -> AsyncIterator[Mirror]:
    async with everref(tmp_path, database, lockable.url(tmp_path.name)) as opened:
        yield opened


async def ends(mirror: Mirror) -> dict[str, datetime | None]:
    """When the lock of each object in the vault ends."""
    found = {key: await mirror.services.vault.locked_until(key) for key in await mirror.keys()}
    return {key: one.until if one else None for key, one in found.items()}


async def test_what_is_sealed_afterwards_lies_plain_until_its_lock_ends_which_is_not_extended(
    mirror: Mirror, work: Work
) -> None:
    begun, services = mirror.clock.now, mirror.services
    work.commit()
    repo = (await mirror.backup(work)).repo
    await seal(mirror)
    done = await reseal.reseal(services, repo)
    assert done.left.objects == 0 and done.left.kept_until == begun + DAYS_90
    mirror.clock.now += timedelta(days=50)
    later = mirror.clock.now
    await lock.turn(services, at_once=True)
    found = await ends(mirror)
    plain = [
        key for key in found if layout.is_kept_for_ever(layout.sealed(key)) and layout.sealed(key) in found
    ]
    assert plain and {found[key] for key in plain if not layout.is_sealed(key)} == {begun + DAYS_90}
    assert {found[layout.sealed(key)] for key in plain} == {later + DAYS_90}
    pruned = await prune.prune(services, timedelta(0), repo)
    assert set(plain) - {layout.sealed(key) for key in plain} <= set(pruned.locked)
    assert (await reseal.reseal(services, repo)).left.kept_until == begun + DAYS_90


async def test_locks_of_what_is_kept_are_extended_and_others_end(mirror: Mirror, work: Work) -> None:
    begun = mirror.clock.now
    for _ in range(9):
        work.commit()
        repo = (await mirror.backup(work)).repo
    await lock.turn(mirror.services, at_once=True)
    assert await lock.turn(mirror.services, at_once=True) == 0
    assert set((await ends(mirror)).values()) == {begun + DAYS_90}
    await compact.compact(mirror.services, repo)
    replaced = {one.key for one in await parts.tombstones(mirror.services.db, repo.id)}
    assert replaced
    replaced |= {layout.index_key(key) for key in replaced}
    mirror.clock.now += timedelta(days=46)  # less than half of the first locks is left
    kept = set(await mirror.keys()) - replaced
    assert await lock.turn(mirror.services, at_once=True) == len(kept) > 0
    for key, until in (await ends(mirror)).items():
        assert until == (begun if key in replaced else mirror.clock.now) + DAYS_90, key
    place = mirror.services.vault.describe()
    reach = await lock_rows.extended(mirror.services.db, place)
    assert (reach.until, reach.open) == (mirror.clock.now + DAYS_90, 0)
    pruned = await prune.prune(mirror.services, timedelta(0), repo)
    assert (pruned.deleted, pruned.locked_until) == ((), begun + DAYS_90)
    assert set(pruned.locked) <= replaced
    number, size, last = await lock_rows.waiting(mirror.services.db, DAYS_90)
    assert number == len(replaced) // 2 and size > 0 and last == begun + DAYS_90


async def test_a_pass_that_was_killed_goes_on_where_it_was(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    await mirror.backup(work)
    vault, extended = mirror.services.copies.first, list[str]()
    retain = type(vault).retain

    async def failing(self: object, key: str, until: datetime) -> None:
        if len(extended) == 3:
            raise NetworkError("the vault stopped answering")
        extended.append(key)
        await retain(vault, key, until)

    monkeypatch.setattr(lock, "_SAVED", 1)
    monkeypatch.setattr(type(vault), "retain", failing)
    with pytest.raises(NetworkError):
        await lock.turn(mirror.services, at_once=True)
    monkeypatch.setattr(type(vault), "retain", retain)
    mirror.clock.now += timedelta(days=1)
    rest = await lock.turn(mirror.services, at_once=True)
    assert rest == len(await mirror.keys()) - 3
    assert all(until and until - mirror.clock.now >= DAYS_90 / 2 for until in (await ends(mirror)).values())


async def test_what_a_thief_hides_or_overwrites_is_brought_back(
    mirror: Mirror, work: Work, lockable: S3Server
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    refs = await mirror.refs(repo, 1)
    await lock.turn(mirror.services, at_once=True)
    with client(lockable) as s3:
        prefix = mirror.services.vault.describe().split("/", 1)[1].split(" ")[0]
        for number, key in enumerate(await mirror.keys()):
            which = {"Bucket": lockable.bucket, "Key": f"{prefix}/{key}"}
            s3.delete_object(**which) if number % 2 else s3.put_object(**which, Body=b"garbage")
        s3.delete_object(Bucket=lockable.bucket, Key=f"{prefix}/{layout.MARKER}")
    with pytest.raises(EverrefError):
        await mirror.refs(repo, 1)
    await (
        mirror.services.vault.recognise()
    )  # as a worker does every few minutes; it finds that somebody was here
    await lock.turn(mirror.services, at_once=True)
    assert await mirror.refs(repo, 1) == refs


async def test_a_legal_hold_reaches_the_store_also_for_what_comes_later(mirror: Mirror, work: Work) -> None:
    async def held() -> set[bool]:
        prefix = layout.repo_prefix(repo.id)
        keys = [key for key in await mirror.keys() if key.startswith(prefix)]
        locks = [await mirror.services.vault.locked_until(key) for key in keys]
        return {one is not None and one.is_held for one in locks}

    work.commit()
    repo = (await mirror.backup(work)).repo
    assert await held() == {False}
    await keeping.set_hold(mirror.services.db, repo.id, "case 12", "alice", mirror.clock.now)
    for _ in range(2):
        await lock.hold(mirror.services)
        assert await held() == {True}
        work.commit()
        await mirror.backup(work)
        assert await held() == {True, False}
    await keeping.lift_hold(mirror.services.db, repo.id, "alice", mirror.clock.now)
    for _ in range(2):
        await lock.hold(mirror.services)
        assert await held() == {False}
    assert await lock_rows.held(mirror.services.db, mirror.services.vault.describe()) == {}


@pytest.mark.parametrize("mode", ["compliance:90d", "governance:90d"])
async def test_require_worm_writes_only_where_locks_withstand_everything(
    tmp_path: Path, database: str, lockable: S3Server, s3_credentials: None, work: Work, mode: str
) -> None:
    work.commit()
    url = lockable.url(tmp_path.name)
    async with everref(tmp_path, database, url, mode, require=True) as mirror:
        if mode.startswith("compliance"):
            assert (await mirror.backup(work)).snapshot.number == 1
            return
        with pytest.raises(Refused, match="does not enforce Object Lock .* by bypassing governance"):
            await mirror.backup(work)  # SeaweedFS lets an admin bypass, as S3 does


async def test_a_pretending_store_is_not_written_to_and_doctor_says_why(
    tmp_path: Path, database: str, s3_credentials: None, work: Work
) -> None:
    work.commit()
    async with pretending() as server, everref(tmp_path, database, server.url("p"), require=True) as mirror:
        with pytest.raises(Refused, match="REQUIRE_WORM: .* does not enforce Object Lock"):
            await mirror.services.vault.put("a/object", b"bytes")
        with pytest.raises(Refused, match="REQUIRE_WORM"):
            await mirror.services.vault.probe()
        found = {one.what: one for one in await doctor(mirror.services) if not one.ok}
        assert "under a legal hold was deleted" in found["vault: object lock"].value
        assert "everybody" in found["vault: settings"].value


async def test_doctor_says_that_locks_withstood_everything(mirror: Mirror, work: Work) -> None:
    work.commit()
    await mirror.backup(work)
    await lock.turn(mirror.services, at_once=True)
    (found,) = [one for one in await doctor(mirror.services) if one.what == "vault: object lock"]
    assert found.ok and found.value.startswith("compliance:90d, enforced: a canary withstood everything")
    assert f"locked until {mirror.clock.now + DAYS_90:%Y-%m-%d} at least" in found.value


def test_require_worm_needs_a_lock() -> None:
    def read(path: str) -> str:
        raise AssertionError(path)

    with pytest.raises(UsageError, match="REQUIRE_WORM needs VAULT_LOCK"):
        from_env({"REQUIRE_WORM": "on"}, read, "data")
    found = from_env({"REQUIRE_WORM": "on", "VAULT_LOCK": "compliance:7d"}, read, "data")
    assert found.require_worm and found == replace(found, vault_lock=locks.read("compliance:7d", "x"))


def test_the_page_of_the_state_says_what_a_store_let_happen_and_until_when_all_is_locked() -> None:
    until = datetime(2027, 2, 20, 10, 0, tzinfo=UTC)
    parts = dict.fromkeys(("database", "queue", "worker", "vault", "disk", "ready", "well"), True)
    store = status.LockedStore(
        name="vault",
        where="the S3 bucket backups at s3.example.com",
        locking=Locking(LockMode.COMPLIANCE, DAYS_90),
        proved=Proved("compliance:90d", until - DAYS_90, ["a locked object was <deleted>"], []),
        extended=lock_rows.Extended(until, 2),
        parts=3,
        bytes=4000,
        until=until,
    )
    said = page("status.html", signed_in(), health=SimpleNamespace(**parts, unknown=0), locked=[store])
    text = " ".join(re.sub("<[^>]*>", " ", said).split())
    assert "Each new object is locked for 90 days (compliance mode)." in text
    assert "at least, except in 2 repos that a worker has not looked at yet." in text
    assert "3 replaced parts (4.0 kB) cannot be deleted before the locks end" in text
    assert "The store let this happen: a locked object was &lt;deleted&gt;." in text
    assert "not enforced" in text and "Feb" in text
