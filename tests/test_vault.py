"""The vault's contract on every store: a directory, SeaweedFS, and rclone as one that can do little."""

import asyncio
import base64
import hashlib
import os
import resource
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
import pytest_asyncio

from mirror.core.errors import (
    AlreadyExists,
    BadCredentials,
    Busy,
    DiskFull,
    EverrefError,
    LimitReached,
    Locked,
    NoSuchObject,
    OurFault,
    Refused,
    UsageError,
)
from mirror.vault import Capabilities, Vault, bucket, open_vault
from mirror.vault.directory import DirectoryVault
from mirror.vault.s3 import PART, S3Vault, part_size
from tests.parts.s3 import SECRET_KEY, S3Server, client

MIB = 1 << 20
PARTS = os.urandom(2 * PART + 12345)  # an upload of three parts
STORES = ["directory", "s3", "weak-s3"]


@contextmanager
def raises(kind: type[EverrefError], words: str) -> Iterator[None]:
    """The block raises exactly this class, in one line that holds these words and no secret."""
    with pytest.raises(EverrefError) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert words in message
    assert "\n" not in message and SECRET_KEY not in message


async def bytes_of(vault: Vault, key: str, start: int = 0, end: int | None = None) -> bytes:
    async with aclosing(vault.read(key, start, end)) as stream:
        return b"".join([chunk async for chunk in stream])


async def upload(vault: Vault, key: str, data: bytes, chunk: int = MIB) -> None:
    async with vault.create(key) as writer:
        for at in range(0, len(data), chunk):
            await writer.write(data[at : at + chunk])
        await writer.commit()


async def keys(vault: Vault, prefix: str = "") -> list[str]:
    return [found.key async for found in vault.list(prefix)]


async def nothing_is_left(vault: Vault) -> bool:
    return not await keys(vault) and not await vault.unfinished()


@pytest_asyncio.fixture(params=STORES)
async def vault(request: pytest.FixtureRequest, tmp_path: Path, s3_credentials: None) -> AsyncIterator[Vault]:
    """An empty vault on each store in turn; S3 gives its lists in pages of two."""
    if request.param == "directory":
        async with open_vault(None, tmp_path) as directory:
            yield directory
        return
    server: S3Server = request.getfixturevalue("s3_server" if request.param == "s3" else "weak_s3_server")
    bucket = await S3Vault.open(urlsplit(server.url()), page=2)
    try:
        yield bucket
    finally:
        await bucket.aclose()


@pytest_asyncio.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Vault]:
    async with open_vault(None, tmp_path) as opened:
        yield opened


conditional = pytest.mark.parametrize("vault", ["directory", "s3"], indirect=True)


# What is written comes back


@pytest.mark.parametrize(
    "size",
    [0, 1, MIB - 1, MIB, MIB + 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 12345],
)
async def test_an_object_comes_back_byte_for_byte(vault: Vault, size: int) -> None:
    await upload(vault, "a/object", PARTS[:size], chunk=700_001)
    assert await bytes_of(vault, "a/object") == PARTS[:size]
    assert await vault.get("a/object") == PARTS[:size]
    assert await keys(vault) == ["a/object"]
    assert await vault.unfinished() == []


async def test_a_small_object_is_put_at_once(vault: Vault) -> None:
    await vault.put("a/small.json", b"{}\n")
    assert await vault.get("a/small.json") == b"{}\n"


async def test_a_vault_that_works_says_so_and_keeps_nothing_of_the_question(vault: Vault) -> None:
    await vault.probe()
    assert await nothing_is_left(vault)


async def test_a_store_elsewhere_tells_the_time_by_its_own_clock(vault: Vault) -> None:
    told = await vault.now()
    assert (told is None) == (vault.directory() is not None)
    assert told is None or abs(told - datetime.now(UTC)) < timedelta(hours=1)


async def test_one_write_may_hold_many_parts(vault: Vault) -> None:
    await upload(vault, "object", PARTS, chunk=len(PARTS))
    assert await vault.get("object") == PARTS


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 10),
        (0, MIB + 5),
        (7, 8),
        (MIB - 3, MIB + 3),
        (3 * MIB, None),
        (3 * MIB, 4 * MIB + 100),
        (4 * MIB, None),
        (9 * MIB, 10 * MIB),
        (5, 5),
        (0, 0),
    ],
)
async def test_a_range_gives_its_bytes_and_no_more(vault: Vault, start: int, end: int | None) -> None:
    data = PARTS[: 4 * MIB]
    await upload(vault, "object", data)
    assert await bytes_of(vault, "object", start, end) == data[start:end]


async def test_a_range_of_an_empty_object_is_empty(vault: Vault) -> None:
    await vault.put("empty", b"")
    assert await bytes_of(vault, "empty", 0, 10) == b""
    assert await bytes_of(vault, "empty", 3) == b""


async def test_a_reader_may_leave_early(vault: Vault) -> None:
    await upload(vault, "object", PARTS)
    async with aclosing(vault.read("object")) as stream:
        first = await anext(stream)
    assert PARTS.startswith(first) and first


async def test_an_object_is_known_by_its_size_and_time(vault: Vault) -> None:
    await vault.put("a/object", b"seven b")
    found = await vault.stat("a/object")
    assert found and (found.key, found.bytes, found.modified.tzinfo) == ("a/object", 7, UTC)
    (listed,) = [one async for one in vault.list("a/")]
    assert (listed.key, listed.bytes, listed.modified.tzinfo) == ("a/object", 7, UTC)


async def test_what_is_not_there_is_said_to_be_missing(vault: Vault) -> None:
    await vault.put("a/object", b"here")
    for missing in ("a/other", "b/object", "a"):
        with raises(NoSuchObject, f"{missing} is not in the vault"):
            await vault.get(missing)
        with raises(NoSuchObject, f"{missing} is not in the vault"):
            await bytes_of(vault, missing, 3, 5)
        with raises(NoSuchObject, f"{missing} is not in the vault"):
            await bytes_of(vault, missing, 5, 5)
        assert await vault.stat(missing) is None


async def test_get_refuses_what_does_not_fit_into_memory(vault: Vault) -> None:
    await upload(vault, "object", PARTS[: 2 * MIB])
    assert len(await vault.get("object", limit=2 * MIB)) == 2 * MIB
    with raises(LimitReached, "object in the vault has more than 2097151 bytes"):
        await vault.get("object", limit=2 * MIB - 1)


# Nothing is overwritten


async def test_a_put_never_overwrites(vault: Vault) -> None:
    await vault.put("a/object", b"first")
    with raises(AlreadyExists, "a/object is already in the vault"):
        await vault.put("a/object", b"second")
    assert await vault.get("a/object") == b"first"


@pytest.mark.parametrize("size", [10, PART + 1], ids=["small", "large"])
async def test_an_upload_never_overwrites(vault: Vault, size: int) -> None:
    await vault.put("a/object", b"first")
    with raises(AlreadyExists, "a/object is already in the vault"):
        await upload(vault, "a/object", PARTS[:size])
    assert await vault.get("a/object") == b"first"
    assert await vault.unfinished() == []


@pytest.mark.parametrize("size", [10, PART + 1], ids=["small", "large"])
async def test_of_two_uploads_the_first_to_commit_stays(vault: Vault, size: int) -> None:
    first, second = PARTS[:size], PARTS[-size:]
    async with vault.create("object") as one, vault.create("object") as other:
        await one.write(first)
        await other.write(second)
        await one.commit()
        with raises(AlreadyExists, "object is already in the vault"):
            await other.commit()
    assert await vault.get("object") == first
    assert await vault.unfinished() == []


@conditional
async def test_of_sixteen_puts_at_once_exactly_one_wins(vault: Vault) -> None:
    async def put(number: int) -> int | None:
        try:
            await vault.put("snapshots/0000000001.json", b"%d" % number)
        except AlreadyExists:
            return None
        return number

    winners = [n for n in await asyncio.gather(*(put(n) for n in range(16))) if n is not None]
    assert len(winners) == 1
    assert await vault.get("snapshots/0000000001.json") == b"%d" % winners[0]


# Tentative until commit


@pytest.mark.parametrize("size", [10, PART + 1], ids=["small", "large"])
async def test_nothing_is_there_before_the_commit(vault: Vault, size: int) -> None:
    async with vault.create("a/object") as writer:
        await writer.write(PARTS[:size])
        assert await keys(vault) == []
        assert await vault.stat("a/object") is None
        await writer.commit()
        assert await keys(vault) == ["a/object"]


@pytest.mark.parametrize("size", [0, 10, 2 * PART + 1], ids=["empty", "small", "large"])
async def test_leaving_without_a_commit_leaves_nothing(vault: Vault, size: int) -> None:
    async with vault.create("a/object") as writer:
        await writer.write(PARTS[:size])
    assert await nothing_is_left(vault)


async def test_leaving_by_an_error_leaves_nothing(vault: Vault) -> None:
    with pytest.raises(ZeroDivisionError):
        async with vault.create("a/object") as writer:
            await writer.write(PARTS)
            raise ZeroDivisionError
    assert await nothing_is_left(vault)


async def test_a_cancelled_upload_leaves_nothing(vault: Vault) -> None:
    begun = asyncio.Event()

    async def endless() -> None:
        async with vault.create("a/object") as writer:
            while True:
                await writer.write(PARTS)
                begun.set()

    task = asyncio.create_task(endless())
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert await nothing_is_left(vault)


async def test_an_upload_at_work_is_listed_as_unfinished(vault: Vault) -> None:
    await vault.put("a/done", b"")
    async with vault.create("a/object") as writer, vault.create("b/object") as other:
        await writer.write(PARTS)
        await other.write(PARTS)
        assert [one.key for one in await vault.unfinished()] == ["a/object", "b/object"]
        (found,) = await vault.unfinished("a/")
        assert (found.key, found.since.tzinfo) == ("a/object", UTC)
        assert await vault.unfinished("c/") == []
    assert await vault.unfinished() == []


async def test_unfinished_uploads_are_found_over_many_pages(vault: Vault) -> None:
    async with (
        vault.create("a/1") as one,
        vault.create("a/2") as two,
        vault.create("a/2") as again,
        vault.create("a/3") as three,
        vault.create("a/4") as four,
    ):
        for writer in (one, two, again, three, four):
            await writer.write(PARTS[: PART + 1])
        assert [one.key for one in await vault.unfinished("a/")] == ["a/1", "a/2", "a/2", "a/3", "a/4"]


async def test_discarding_removes_the_object_and_what_is_unfinished_of_it_alone(vault: Vault) -> None:
    await vault.put("a/object", b"committed")
    await vault.put("a/object2", b"another")
    async with vault.create("a/object") as ours, vault.create("a/object2") as others:
        await ours.write(PARTS)
        await others.write(PARTS)
        await vault.discard("a/object")
        assert await keys(vault) == ["a/object2"]
        assert [one.key for one in await vault.unfinished()] == ["a/object2"]
    await vault.discard("a/object")


async def test_giving_up_what_is_unfinished_leaves_the_object_of_that_key(vault: Vault) -> None:
    await vault.put("a/object", b"committed")
    async with vault.create("a/object") as ours, vault.create("a/object2") as others:
        await ours.write(PARTS)
        await others.write(PARTS)
        await vault.give_up("a/object")
        assert [one.key for one in await vault.unfinished()] == ["a/object2"]
    assert await vault.get("a/object") == b"committed"
    await vault.give_up("a/none")


async def test_a_discarded_upload_cannot_be_committed(vault: Vault) -> None:
    with raises(Busy, "another run discarded a/object"):
        async with vault.create("a/object") as writer:
            await writer.write(PARTS)
            await vault.discard("a/object")
            await writer.commit()
    assert await nothing_is_left(vault)


# Lists and removal


async def test_a_list_is_of_a_prefix_and_in_order(vault: Vault) -> None:
    made = [
        "1/bundles/b",
        "1/bundles/a",
        "1/snapshots/0000000002.json",
        "1/snapshots/0000000010.json",
        "1/repo.json",
    ]
    made += ["10/repo.json", "2/repo.json", "README.txt"]
    for key in made:
        await vault.put(key, b"x")
    assert await keys(vault) == sorted(made)
    assert await keys(vault, "1/") == sorted(key for key in made if key.startswith("1/"))
    assert await keys(vault, "1/snapshots/0") == [
        "1/snapshots/0000000002.json",
        "1/snapshots/0000000010.json",
    ]
    assert await keys(vault, "1/b") == ["1/bundles/a", "1/bundles/b"]
    assert await keys(vault, "1") == sorted(key for key in made if key.startswith("1"))
    assert await keys(vault, "3/") == []
    assert await keys(vault, "README.txt/") == []


async def test_removing_twice_is_removing_once(vault: Vault) -> None:
    await vault.put("a/object", b"x")
    await vault.put("a/other", b"x")
    await vault.delete("a/object")
    await vault.delete("a/object")
    await vault.delete("b/never-there")
    assert await keys(vault) == ["a/other"]
    await vault.put("a/object", b"again")
    assert await vault.get("a/object") == b"again"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        ".",
        "a/.b",
        ".a",
        "a b",
        "a\nb",
        "a\0b",
        "ä",
        "a\\b",
        "x" * 201,
    ],
)
async def test_a_key_that_means_something_else_to_some_store_is_refused(vault: Vault, key: str) -> None:
    with raises(OurFault, "is not a key of a vault"):
        await vault.put(key, b"x")
    with raises(OurFault, "is not a key of a vault"):
        await vault.get(key)
    with raises(OurFault, "is not a key of a vault"):
        await vault.delete(key)
    with raises(OurFault, "is not a key of a vault"):
        await vault.discard(key)
    with raises(OurFault, "is not a key of a vault"):
        async with vault.create(key):
            pass
    assert await nothing_is_left(vault)


# What a store can do


async def test_a_store_says_what_it_can_do(vault: Vault, request: pytest.FixtureRequest) -> None:
    able = {
        "directory": Capabilities(True, checksums=False, object_lock=False, versioning=False),
        "s3": Capabilities(True, checksums=True, object_lock=False, versioning=False),
        "weak-s3": Capabilities(False, checksums=False, object_lock=False, versioning=False),
    }
    assert await vault.capabilities() == able[request.node.callspec.params["vault"]]
    assert await nothing_is_left(vault)


async def test_a_store_that_was_asked_what_it_can_do_overwrites_nothing_either(vault: Vault) -> None:
    await vault.capabilities()
    await test_a_put_never_overwrites(vault)


async def test_finding_out_what_a_store_can_do_leaves_nothing_in_it(
    s3_server: S3Server, s3_credentials: None
) -> None:
    async with open_vault(s3_server.url("probed"), "unused") as vault:
        await vault.capabilities()
    with client(s3_server) as s3:
        assert "Contents" not in s3.list_objects_v2(Bucket=s3_server.bucket, Prefix="probed")


async def test_versioning_is_seen(s3_server: S3Server, s3_credentials: None) -> None:
    kept = S3Server(s3_server.endpoint, bucket="everref-versions")
    with client(kept) as s3:
        s3.create_bucket(Bucket=kept.bucket)
        s3.put_bucket_versioning(Bucket=kept.bucket, VersioningConfiguration={"Status": "Enabled"})
    async with open_vault(kept.url(), "unused") as vault:
        assert (await vault.capabilities()).versioning


async def test_in_a_bucket_that_keeps_versions_what_is_deleted_is_gone(
    s3_server: S3Server, s3_credentials: None
) -> None:
    kept = S3Server(s3_server.endpoint, bucket="everref-old-versions")
    with client(kept) as s3:
        s3.create_bucket(Bucket=kept.bucket)
        async with open_vault(kept.url("p"), "unused") as vault:
            await vault.put("a/before", b"before versions were kept")
        s3.put_bucket_versioning(Bucket=kept.bucket, VersioningConfiguration={"Status": "Enabled"})
        async with open_vault(kept.url("p"), "unused") as vault:
            await vault.put("a/object", b"bytes")
            await vault.put("a/object-2", b"other bytes")
            await vault.put("a/hidden", b"1234567")
            for key in ("p/a/object", "p/a/hidden"):  # as a deletion by anybody else does it
                s3.delete_object(Bucket=kept.bucket, Key=key)
            assert {(one.key, one.bytes) async for one in vault.hidden("a/")} == {
                ("a/object", 5),
                ("a/hidden", 7),
            }
            await vault.put("a/object", b"new bytes")
            assert [one.key async for one in vault.hidden("a/")] == ["a/hidden"]
            for key in ("a/object", "a/hidden", "a/before", "a/none"):
                await vault.delete(key)
            assert [one.key async for one in vault.hidden()] == []
            assert await keys(vault) == ["a/object-2"]
        left = s3.list_object_versions(Bucket=kept.bucket)
        assert [one["Key"] for one in left["Versions"]] == ["p/a/object-2"]
        assert "DeleteMarkers" not in left


async def test_what_object_lock_keeps_is_said_and_stays(s3_server: S3Server, s3_credentials: None) -> None:
    locked = S3Server(s3_server.endpoint, bucket="everref-kept")
    until = datetime(2040, 1, 2, 3, 4, tzinfo=UTC)
    with client(locked) as s3:
        s3.create_bucket(Bucket=locked.bucket, ObjectLockEnabledForBucket=True)
        async with open_vault(locked.url("p"), "unused") as vault:
            await vault.put("a/object", b"bytes")
            s3.put_object_retention(
                Bucket=locked.bucket,
                Key="p/a/object",
                Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
            )
            with raises(Locked, "retains it until 2040-01-02 03:04 UTC"):
                await vault.delete("a/object")
            assert await vault.get("a/object") == b"bytes"
            await vault.discard("a/object")
            assert await vault.get("a/object") == b"bytes"


async def test_object_lock_is_seen(s3_server: S3Server, s3_credentials: None) -> None:
    locked = S3Server(s3_server.endpoint, bucket="everref-locked")
    with client(locked) as s3:
        s3.create_bucket(Bucket=locked.bucket, ObjectLockEnabledForBucket=True)
    async with open_vault(locked.url(), "unused") as vault:
        assert (await vault.capabilities()).object_lock


async def test_a_link_downloads_an_object_under_a_name_for_so_long(
    s3_server: S3Server, s3_credentials: None
) -> None:
    url = f"{s3_server.url()}&presign=on"
    async with open_vault(url, "unused") as vault, aiohttp.ClientSession() as browser:
        await vault.put("a/object.bundle", b"bytes")
        link = await vault.presign("a/object.bundle", timedelta(minutes=15), 'my "é".bundle')
        assert link and parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["900"]
        assert SECRET_KEY not in link
        async with browser.get(link) as answer:
            assert (answer.status, await answer.read()) == (200, b"bytes")
            assert answer.headers["Content-Disposition"] == (
                "attachment; filename=\"my ___.bundle\"; filename*=UTF-8''my%20%22%C3%A9%22.bundle"
            )
        async with browser.get(link.replace("a/object.bundle", "a/other.bundle")) as answer:
            assert answer.status == 403


@pytest.mark.parametrize(
    ("endpoint", "public"),
    [
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("https://s3.example.com:9000", True),
        ("https://93.184.216.34", True),
        ("http://s3.example.com", False),
        ("https://minio:9000", False),
        ("https://s3.cluster.local", False),
        ("https://10.1.2.3", False),
        ("https://[::1]:9000", False),
        ("http://127.0.0.1:8333", False),
    ],
)
def test_links_are_given_where_browsers_reach_the_store(endpoint: str, public: bool) -> None:
    assert bucket.is_public(endpoint) == public


async def test_a_store_that_browsers_do_not_reach_gives_no_link(
    s3_server: S3Server, s3_credentials: None
) -> None:
    for option in ("", "&presign=off"):
        async with open_vault(s3_server.url() + option, "unused") as vault:
            assert await vault.presign("a/object.bundle", timedelta(minutes=15), "x.bundle") is None
            assert await vault.presign_put("exports/a", timedelta(minutes=5), 1, bytes(32)) is None


async def test_a_link_stores_these_bytes_at_this_key_and_nothing_else(
    s3_server: S3Server, s3_credentials: None
) -> None:
    data, minutes = os.urandom(5000), timedelta(minutes=5)
    digest = hashlib.sha256(data).digest()
    async with open_vault(f"{s3_server.url()}&presign=on", "unused") as vault, aiohttp.ClientSession() as any:

        async def sent(url: str, body: bytes, headers: Mapping[str, str]) -> int:
            async with any.put(url, data=body, headers=headers) as answer:
                return answer.status

        link = await vault.presign_put("exports/upload-1", minutes, len(data), digest)
        assert link and parse_qs(urlsplit(link.url).query)["X-Amz-Expires"] == ["300"]
        assert SECRET_KEY not in link.url and link.url not in repr(link)
        other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        for url, body, headers in (
            (link.url, bytes(len(data)), link.headers),  # other bytes
            (link.url, data + b"x", link.headers),  # of another length
            (link.url, data[:-1], link.headers),
            (link.url, data, {}),  # without the sum that was signed
            (link.url, b"other", {"x-amz-checksum-sha256": other}),  # with another sum
            (link.url.replace("upload-1", "upload-2"), data, link.headers),  # at another key
            (link.url.replace("upload-1", "../repo.json"), data, link.headers),
        ):
            assert await sent(url, body, headers) in (400, 403, 404)
        async with any.get(link.url) as answer:
            assert answer.status == 403  # nor does it read
        assert await keys(vault) == []
        with raises(NoSuchObject, "exports/upload-1"):
            await vault.kept_sha256("exports/upload-1")
        for _ in range(2):  # an answer that was lost
            assert await sent(link.url, data, link.headers) == 200
        assert await vault.kept_sha256("exports/upload-1") == digest
        assert await vault.get("exports/upload-1") == data


async def test_a_link_for_bytes_expires(s3_server: S3Server, s3_credentials: None) -> None:
    async with open_vault(f"{s3_server.url()}&presign=on", "unused") as vault, aiohttp.ClientSession() as any:
        link = await vault.presign_put("exports/a", timedelta(seconds=1), 1, hashlib.sha256(b"a").digest())
        assert link
        signed = parse_qs(urlsplit(link.url).query)["X-Amz-Date"][0]
        at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        old = link.url.replace(signed, f"{at - timedelta(hours=1):%Y%m%dT%H%M%SZ}")
        for url in (old, link.url.replace("Expires=1&", "Expires=9000&")):
            async with any.put(url, data=b"a", headers=link.headers) as answer:
                assert answer.status == 403
        assert await keys(vault) == []


async def test_a_store_that_believes_any_sum_gives_no_link_for_bytes(
    weak_s3_server: S3Server, s3_credentials: None
) -> None:
    async with open_vault(f"{weak_s3_server.url()}&presign=on", "unused") as vault:
        assert await vault.presign_put("exports/a", timedelta(minutes=5), 1, bytes(32)) is None
        assert await keys(vault) == []


async def test_what_the_store_keeps_no_sum_of_has_none(vault: Vault) -> None:
    await vault.put("object", b"bytes")
    assert await vault.kept_sha256("object") is None


async def test_a_directory_has_no_links(directory: Vault) -> None:
    await directory.put("object", b"")
    assert await directory.presign("object", timedelta(minutes=15), "object") is None
    assert await directory.presign_put("exports/a", timedelta(minutes=5), 1, bytes(32)) is None


async def test_a_vault_says_where_it_is(tmp_path: Path, s3_server: S3Server, s3_credentials: None) -> None:
    async with open_vault(None, tmp_path) as directory, open_vault(s3_server.url("a/b"), "unused") as bucket:
        assert directory.describe() == f"the directory {tmp_path}/vault"
        host = urlsplit(s3_server.endpoint).netloc
        assert bucket.describe() == f"the S3 bucket everref-tests/a/b at {host}"


# URLs


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gopher://x", "VAULT_URL must begin with file:// or s3://"),
        ("/srv/vault", "VAULT_URL must begin with file:// or s3://"),
        ("s3://[", "VAULT_URL is not a URL"),
        ("file://srv/vault", "three slashes"),
        ("file:", "three slashes"),
        ("file:///srv/va?ult", "%3F"),
        ("file:///srv/%00", "three slashes"),
        ("s3://", "must name a bucket"),
        ("s3://Bucket/x", "must name a bucket"),
        ("s3://key:" + SECRET_KEY + "@bucket/x", "VAULT_URL must not contain credentials"),
        ("s3://bucket/a//b", "the prefix"),
        ("s3://bucket/../b", "the prefix"),
        ("s3://bucket/a?endpoint=http://x", "its options are endpoint_url, region"),
        ("s3://bucket/a?region=a&region=b", "each once"),
        ("s3://bucket/a?region", "write its options as"),
        ("s3://bucket/a?region=a%20b", "region must be a name"),
        ("s3://bucket/a?endpoint_url=ftp://x", "endpoint_url must be an address"),
        ("s3://bucket/a?endpoint_url=http://u:" + SECRET_KEY + "@x", "endpoint_url must be an address"),
        ("s3://bucket/a?endpoint_url=http://x:port", "endpoint_url must be an address"),
        ("s3://bucket/a?endpoint_url=http://[x", "endpoint_url must be an address"),
        ("s3://bucket/a?read_timeout=soon", "read_timeout must be a number"),
        ("s3://bucket/a?presign=maybe", "presign must be on or off"),
        ("s3://bucket/a?attempts=0", "attempts must be a number"),
    ],
)
async def test_a_wrong_url_is_one_clear_line(
    url: str, words: str, tmp_path: Path, s3_credentials: None
) -> None:
    with raises(UsageError, words):
        async with open_vault(url, tmp_path):
            pass


async def test_an_s3_url_may_say_how_patient_to_be(s3_server: S3Server, s3_credentials: None) -> None:
    url = s3_server.url() + "&connect_timeout=60&read_timeout=120&attempts=2"
    async with open_vault(url, "unused") as vault:
        await vault.put("object", b"x")


async def test_an_s3_vault_without_credentials_is_refused(
    s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with raises(BadCredentials, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        async with open_vault("s3://bucket/prefix", "unused"):
            pass


async def test_half_a_key_is_refused(s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with raises(BadCredentials, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        async with open_vault("s3://bucket/prefix", "unused"):
            pass


async def test_aws_settings_that_cannot_be_used_are_one_clear_line(
    s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with raises(UsageError, "check AWS_"):
        async with open_vault("s3://bucket/prefix", "unused"):
            pass


# A directory


async def test_a_directory_is_read_by_its_owner_alone(directory: Vault, tmp_path: Path) -> None:
    await directory.put("a/object", b"secret")
    root = tmp_path / "vault"
    for path in (root, root / "a", root / "a/object"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


async def test_a_directory_keeps_no_empty_directories(directory: Vault, tmp_path: Path) -> None:
    await directory.put("a/b/c/object", b"x")
    await directory.delete("a/b/c/object")
    async with directory.create("d/e/object"):
        pass
    assert list((tmp_path / "vault").iterdir()) == []


async def test_a_file_url_names_a_directory_with_any_name(tmp_path: Path) -> None:
    async with open_vault(f"file://{tmp_path}/my%20vault%3F", "unused") as vault:
        await vault.put("object", b"x")
    assert (tmp_path / "my vault?" / "object").read_bytes() == b"x"


async def test_a_directory_whose_place_does_not_exist_is_refused(tmp_path: Path) -> None:
    with raises(UsageError, "does not exist; create it or mount it"):
        async with open_vault(f"file://{tmp_path}/not/there", "unused"):
            pass
    (tmp_path / "file").write_text("")
    with raises(UsageError, "must be a directory"):
        async with open_vault(f"file://{tmp_path}/file", "unused"):
            pass
    with raises(UsageError, "does not exist; create it or mount it"):
        async with open_vault(f"file://{tmp_path}/file/vault", "unused"):
            pass


async def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(Refused, "cannot be created"):
        async with open_vault(None, tmp_path / "file"):
            pass


async def test_a_directory_that_cannot_be_written_says_so() -> None:
    async with open_vault("file:///sys/kernel", "unused") as vault:  # not even root can
        with raises(Refused, "this user may not write to the vault's directory /sys/kernel"):
            await vault.put("a/object", b"x")
        with raises(Refused, "this user may not write to the vault's directory /sys/kernel"):
            await upload(vault, "object", b"x")


async def test_a_directory_that_went_away_says_so(directory: Vault, tmp_path: Path) -> None:
    gone = f"the vault's directory {tmp_path}/vault no longer exists"
    await directory.put("a/object", b"x")
    with raises(Refused, gone):
        async with directory.create("a/upload") as writer:
            (tmp_path / "vault").rename(tmp_path / "elsewhere")
            await writer.commit()
    with raises(Refused, gone):
        await directory.put("a/other", b"x")
    with raises(Refused, gone):
        await directory.put("other", b"x")
    with raises(Refused, gone):
        await directory.delete("a/object")
    with raises(Refused, gone):
        await directory.discard("a/object")
    with raises(Refused, gone):
        await directory.unfinished()
    with raises(Refused, gone):
        await directory.get("a/object")
    with raises(Refused, gone):
        await directory.stat("a/object")
    with raises(Refused, gone):
        await keys(directory)


async def test_a_full_disk_is_said_and_leaves_nothing(directory: Vault) -> None:
    await directory.put("a/object", b"stays")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, hard))
    try:
        with raises(DiskFull, "the vault's disk is full"):
            await upload(directory, "a/large", PARTS)
        with raises(DiskFull, "the vault's disk is full"):
            await directory.put("a/large", PARTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await keys(directory) == ["a/object"]
    assert await directory.unfinished() == []


async def test_a_directory_may_be_opened_by_its_path(tmp_path: Path) -> None:
    vault = await DirectoryVault.open(tmp_path / "vault")
    await vault.put("object", b"x")
    assert await keys(vault) == ["object"]


# The parts of an upload


def test_ten_thousand_parts_hold_the_largest_object() -> None:
    sent = 0
    for number in range(1, 10_001):
        size = part_size(number, sent)
        assert size >= PART and size % MIB == 0
        sent += size
    assert sent >= 5 << 40


def test_parts_are_small_up_to_fifty_gibibytes() -> None:
    assert {part_size(number, (number - 1) * PART) for number in range(1, 6_401)} == {PART}
