"""Object Lock in a real store: what is locked, by whom it cannot be ended, and what says so."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from mirror.core import locks
from mirror.core.errors import EverrefError, Locked, NoSuchObject, Refused, UsageError
from mirror.core.locks import Lock, Locking, LockMode
from mirror.vault import Vault, hazards, open_vault
from mirror.vault.s3 import PART
from tests.parts.pretender import pretending
from tests.parts.s3 import S3Server, client

DAYS_30 = Locking(LockMode.GOVERNANCE, timedelta(days=30))
DAYS_90 = Locking(LockMode.COMPLIANCE, timedelta(days=90))
NOW = datetime.now(UTC).replace(microsecond=0)  # stores refuse locks that end in their past


@pytest.fixture(scope="module")
def lockable(s3_server: S3Server) -> S3Server:
    """A bucket with Object Lock and without a default."""
    server = S3Server(s3_server.endpoint, bucket="everref-lockable")
    with client(server) as s3:
        s3.create_bucket(Bucket=server.bucket, ObjectLockEnabledForBucket=True)
    return server


@contextmanager
def raises(kind: type[EverrefError], words: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert words in str(caught.value) and "\n" not in str(caught.value)


async def upload(vault: Vault, key: str, size: int) -> None:
    async with vault.create(key) as writer:
        await writer.write(b"x" * size)
        await writer.commit()


@pytest.mark.parametrize(
    ("text", "locking"),
    [("governance:30d", DAYS_30), ("COMPLIANCE:90d", DAYS_90), ("off", None)],
)
def test_a_lock_is_written_as_a_mode_and_days(text: str, locking: Locking | None) -> None:
    assert locks.read(text, "VAULT_LOCK") == locking
    assert locking is None or str(locking) == text.lower()


@pytest.mark.parametrize("text", ["30d", "compliance", "compliance:0d", "compliance:9999d", "worm:30d", "on"])
def test_a_lock_that_cannot_be_read_is_one_clear_line(text: str) -> None:
    with raises(UsageError, "VAULT_LOCK must be off, or a mode and days such as governance:30d"):
        locks.read(text, "VAULT_LOCK")


def test_a_lock_is_extended_when_less_than_half_of_it_is_left() -> None:
    assert DAYS_30.is_due(None, NOW)
    assert not DAYS_30.is_due(NOW + timedelta(days=15), NOW)
    assert DAYS_30.is_due(NOW + timedelta(days=15), NOW + timedelta(seconds=1))


@pytest.mark.parametrize("locking", [DAYS_30, DAYS_90], ids=str)
async def test_every_object_of_a_history_is_locked_from_its_first_moment(
    lockable: S3Server, s3_credentials: None, locking: Locking
) -> None:
    async with open_vault(lockable.url(), "unused", locking=locking, clock=lambda: NOW) as vault:
        await vault.put("a/small.json", b"{}")
        await upload(vault, "a/large.bundle", PART + 1)
        await vault.put("exports/x.bundle", b"to download")
        for key in ("a/small.json", "a/large.bundle"):
            until = NOW + locking.period
            assert await vault.locked_until(key) == Lock(locking.mode, until, False)
            with raises(Locked, f"retains it until {until:%Y-%m-%d %H:%M} UTC"):
                await vault.delete(key)
            assert await vault.stat(key)
        assert await vault.locked_until("exports/x.bundle") is None
        await vault.delete("exports/x.bundle")
        assert await vault.stat("exports/x.bundle") is None


async def test_a_lock_is_extended_and_never_shortened(lockable: S3Server, s3_credentials: None) -> None:
    async with open_vault(lockable.url(), "unused", locking=DAYS_30, clock=lambda: NOW) as vault:
        await vault.put("a/object", b"bytes")
        later = NOW + timedelta(days=60)
        for until in (later, later, NOW + timedelta(days=1)):
            await vault.retain("a/object", until)
            assert await vault.locked_until("a/object") == Lock(LockMode.GOVERNANCE, later, False)
        with raises(NoSuchObject, "a/none is not in the vault"):
            await vault.retain("a/none", later)


async def test_a_held_object_stays_until_somebody_lifts_the_hold(
    lockable: S3Server, s3_credentials: None
) -> None:
    async with open_vault(lockable.url(), "unused") as vault:
        await vault.put("a/object", b"bytes")
        for _ in range(2):
            await vault.hold("a/object", True)
        assert await vault.locked_until("a/object") == Lock(None, None, True)
        with raises(Locked, "a legal hold in the vault prevents that"):
            await vault.delete("a/object")
        for _ in range(2):
            await vault.hold("a/object", False)
        assert await vault.locked_until("a/object") is None
        await vault.delete("a/object")
        assert await vault.stat("a/object") is None


async def test_a_store_without_object_lock_says_so(
    tmp_path: object, s3_server: S3Server, weak_s3_server: S3Server, s3_credentials: None
) -> None:
    urls = (None, s3_server.url(), weak_s3_server.url())
    for url in urls:
        async with open_vault(url, str(tmp_path), locking=DAYS_30 if url is None else None) as vault:
            await vault.put("a/object", b"bytes")
            assert vault.locking() is None
            assert await vault.locked_until("a/object") is None
            for change in (vault.retain("a/object", NOW), vault.hold("a/object", True)):
                with raises(Refused, "does not lock objects; use an S3 bucket with Object Lock"):
                    await change
            assert await vault.get("a/object") == b"bytes"
    for url in urls[1:]:
        async with open_vault(f"{url}&lock=governance:30d", "unused") as vault:
            for key, size in (("b/small", 1), ("b/large", PART + 1)):
                with raises(Refused, "does not lock objects"):
                    await upload(vault, key, size)
                assert await vault.stat(key) is None


async def test_a_url_decides_about_its_own_store(lockable: S3Server, s3_credentials: None) -> None:
    url = lockable.url()
    async with open_vault(f"{url}&lock=off", "unused", locking=DAYS_90) as vault:
        assert vault.locking() is None
    async with open_vault(f"{url}&lock=governance:30d", "unused", locking=DAYS_90) as vault:
        assert vault.locking() == DAYS_30
    with raises(UsageError, "VAULT_URL: lock must be off"):
        async with open_vault(f"{url}&lock=ever", "unused"):
            await asyncio.sleep(0)


# Proving it by trying


async def test_a_store_that_enforces_locks_withstands_every_trial(
    lockable: S3Server, s3_credentials: None
) -> None:
    async with open_vault(lockable.url(), "unused", locking=DAYS_90) as vault:
        for _ in range(2):
            proof = await vault.prove_lock()
            assert (proof.failed, proof.hazards, len(proof.trials)) == ((), (), 18)
        assert [stat.key async for stat in vault.list()] == []
        assert [stat.key async for stat in vault.hidden()] == []


async def test_a_key_that_may_bypass_governance_is_found_out(
    lockable: S3Server, s3_credentials: None
) -> None:
    async with open_vault(lockable.url(), "unused", locking=DAYS_30) as vault:
        proof = await vault.prove_lock()
    assert len(proof.failed) == 4  # two for each kind of object: SeaweedFS lets an admin do that, as S3 does
    assert all(what.endswith("by bypassing governance") for what in proof.failed)


async def test_a_store_that_only_pretends_to_lock_is_found_out(s3_credentials: None) -> None:
    async with pretending() as server, open_vault(server.url(""), "unused", locking=DAYS_90) as vault:
        proof = await vault.prove_lock()
    assert proof.failed == (
        *(
            f"a locked {kind} {what}"
            for kind in ("object", "object of a multipart upload")
            for what in (
                "was deleted",
                "was gone after a deletion of its name",
                "was overwritten",
                "was given a shorter lock",
                "was given the weaker mode",
                "was given a shorter lock by bypassing governance",
                "was deleted by bypassing governance",
            )
        ),
        "an object under a legal hold was deleted",
    )
    assert [one.what for one in proof.hazards] == [
        "versioning is suspended, so that an overwritten object is lost",
        "the lifecycle rule tidy deletes objects after 30 days",
        "its policy lets everybody in",
    ]


async def test_what_a_thief_hid_or_overwrote_comes_back(lockable: S3Server, s3_credentials: None) -> None:
    names = [f"a/{name}" for name in ("untouched", "hidden", "overwritten", "both", "buried")]
    server = lockable.url("thief")
    async with open_vault(server, "unused", locking=DAYS_90) as vault:
        for name in names:
            await upload(vault, name, 10)
        with client(lockable) as s3:

            def overwrite(name: str, **lock: object) -> None:
                body = b"garbage"
                s3.put_object(Bucket=lockable.bucket, Key=f"thief/a/{name}", Body=body, **lock)

            for name in ("hidden", "both"):
                s3.delete_object(Bucket=lockable.bucket, Key=f"thief/a/{name}")
            for name in ("overwritten", "both"):
                overwrite(name)
            s3.delete_object(Bucket=lockable.bucket, Key="thief/a/both")
            overwrite(
                "buried", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=NOW + timedelta(days=9999)
            )
        assert sorted([key async for key in vault.uncover("a/")]) == sorted(names[1:])
        for name in names:
            assert await vault.get(name) == b"x" * 10
            assert await vault.locked_until(name) is not None
        assert [key async for key in vault.uncover("a/")] == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"Expiration": {"Days": 30}}, "tidy deletes objects after 30 days"),
        ({"Expiration": {"Date": datetime(2027, 1, 2, tzinfo=UTC)}}, "tidy deletes objects on 2027-01-02"),
        ({"NoncurrentVersionExpiration": {"NoncurrentDays": 1}}, "after 1 day once they are hidden"),
        ({"Transitions": [{"Days": 9, "StorageClass": "GLACIER"}]}, "where they cannot be read at once"),
        ({"Expiration": {"Days": 30}, "Filter": {"Prefix": "backups/a"}}, "tidy deletes objects"),
        ({"Expiration": {"Days": 30}, "Filter": {"Prefix": "back"}}, "tidy deletes objects"),
        ({"Expiration": {"Days": 30}, "Filter": {"Prefix": "backups/exports/"}}, None),
        ({"Expiration": {"Days": 30}, "Filter": {"Prefix": "logs/"}}, None),
        ({"Expiration": {"Days": 30}, "Status": "Disabled"}, None),
        ({"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}, None),
        ({"Expiration": {"ExpiredObjectDeleteMarker": True}}, None),
        ({"Transitions": [{"Days": 9, "StorageClass": "STANDARD_IA"}]}, None),
    ],
)
def test_lifecycle_rules_that_would_undo_the_lock_are_named(
    rule: dict[str, object], words: str | None
) -> None:
    rules = {"Rules": [{"ID": "tidy", "Status": "Enabled"} | rule]}
    found = [one.what for one in hazards.of_lifecycle(rules, "backups/")]
    assert len(found) == (words is not None) and all(words and words in one for one in found)


def test_a_default_lock_that_is_shorter_or_weaker_than_asked_is_named() -> None:
    def found(mode: str, **lasts: int) -> list[str]:
        rule = {"DefaultRetention": {"Mode": mode} | lasts}
        answer = {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled", "Rule": rule}}
        return [one.what for one in hazards.of_default(answer, DAYS_90)]

    assert found("COMPLIANCE", Days=90) == found("COMPLIANCE", Years=1) == []
    assert found("COMPLIANCE", Days=89) == [
        "the bucket's default lock is compliance:89d, less than the compliance:90d that is asked for"
    ]
    assert len(found("GOVERNANCE", Years=1)) == 1
