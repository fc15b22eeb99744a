"""What a vault in S3 survives: tired stores, broken networks; and what it says when it gives up."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from aiohttp import web

from mirror.core.errors import (
    AlreadyExists,
    BadCredentials,
    Corrupt,
    EverrefError,
    LimitReached,
    NetworkError,
    Refused,
    UsageError,
)
from mirror.vault import open_vault, s3
from mirror.vault.bucket import Patience
from mirror.vault.s3 import PART, S3Vault
from tests.parts import faultproxy as faults
from tests.parts.faultproxy import Fault, FaultProxy, Forward, When, fault_proxy
from tests.parts.s3 import SECRET_KEY, S3Server, free_ports
from tests.test_vault import bytes_of, keys, nothing_is_left, raises, upload

MIB = 1 << 20
DATA = os.urandom(PART + 12345)  # an upload of two parts
PATIENT = Patience(connect=60, read=60, attempts=4, pause=0.01)
HASTY = Patience(connect=60, read=1, attempts=2, pause=0.01)  # for what never answers
RETRYING = Patience(connect=60, read=2, attempts=9, pause=0.01)  # for what does not answer once

passing = [
    pytest.param(faults.says(503, "SlowDown"), id="slow-down"),
    pytest.param(faults.says(500, "InternalError"), id="internal-error"),
    pytest.param(faults.says(429, "TooManyRequests"), id="too-many-requests"),
    pytest.param(faults.reset, id="reset"),
    pytest.param(faults.lost_answer, id="lost-answer"),
]
lasting = [
    pytest.param(faults.says(503, "SlowDown"), id="slow-down"),
    pytest.param(faults.says(500, "InternalError"), id="internal-error"),
    pytest.param(faults.reset, id="reset"),
    pytest.param(faults.hang, id="hang"),
    pytest.param(faults.deaf, id="deaf"),
]
steps = [
    pytest.param(faults.beginning, id="begin"),
    pytest.param(faults.part(1), id="part-1"),
    pytest.param(faults.part(2), id="last-part"),
    pytest.param(faults.completing, id="complete"),
]


@pytest_asyncio.fixture
async def proxy(s3_server: S3Server, s3_credentials: None) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(s3_server.endpoint) as standing:
        yield standing


@pytest_asyncio.fixture
async def vault(s3_server: S3Server, proxy: FaultProxy) -> AsyncIterator[S3Vault]:
    """A vault behind the proxy that waits for what is slow."""
    opened = await S3Vault.open(urlsplit(s3_server.url(endpoint=proxy.endpoint)), PATIENT)
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest_asyncio.fixture
async def hasty(s3_server: S3Server, proxy: FaultProxy) -> AsyncIterator[S3Vault]:
    """A vault behind the proxy that soon gives up."""
    opened = await S3Vault.open(urlsplit(s3_server.url(endpoint=proxy.endpoint)), HASTY)
    try:
        yield opened
    finally:
        await opened.aclose()


# What passes is not seen


@pytest.mark.parametrize("fault", passing)
async def test_a_put_survives_what_passes(vault: S3Vault, proxy: FaultProxy, fault: Fault) -> None:
    proxy.fail(faults.putting, fault, times=2)
    await vault.put("a/object", b"bytes")
    assert await vault.get("a/object") == b"bytes"


@pytest.mark.parametrize("step", steps)
@pytest.mark.parametrize("fault", passing)
async def test_an_upload_survives_what_passes(
    vault: S3Vault, proxy: FaultProxy, step: When, fault: Fault
) -> None:
    proxy.fail(step, fault, times=2)
    await upload(vault, "a/object", DATA)
    assert await vault.get("a/object") == DATA


@pytest.mark.parametrize("fault", [faults.hang, faults.deaf])
async def test_an_upload_survives_a_part_that_hangs(
    s3_server: S3Server, proxy: FaultProxy, fault: Fault
) -> None:
    vault = await S3Vault.open(urlsplit(s3_server.url(endpoint=proxy.endpoint)), RETRYING)
    proxy.fail(faults.part(2), fault, times=1)
    await upload(vault, "a/object", DATA)
    assert await vault.get("a/object") == DATA
    assert await vault.unfinished() == []
    await vault.aclose()


async def test_an_error_in_an_answer_that_says_200_is_an_error(vault: S3Vault, proxy: FaultProxy) -> None:
    proxy.fail(faults.completing, faults.says(200, "InternalError"), times=2)
    await upload(vault, "a/object", DATA)
    assert await vault.get("a/object") == DATA
    assert proxy.count("POST ") == 4  # one begins the upload


async def test_bytes_that_change_on_their_way_are_sent_again(vault: S3Vault, proxy: FaultProxy) -> None:
    proxy.fail(faults.part(2), faults.changed, times=1)
    await upload(vault, "a/object", DATA)
    proxy.fail(faults.putting, faults.changed, times=1)
    await vault.put("a/small", b"bytes")
    assert await vault.get("a/object") == DATA
    assert await vault.get("a/small") == b"bytes"


@pytest.mark.parametrize("fault", passing)
async def test_a_read_survives_what_passes(vault: S3Vault, proxy: FaultProxy, fault: Fault) -> None:
    await upload(vault, "a/object", DATA)
    proxy.fail(faults.reading, fault, times=2)
    assert await vault.get("a/object") == DATA


@pytest.mark.parametrize("after", [0, 1, 3 * MIB + 7])
async def test_a_cut_read_goes_on_where_it_was(vault: S3Vault, proxy: FaultProxy, after: int) -> None:
    await upload(vault, "a/object", DATA)
    proxy.fail(faults.reading, faults.cut(after), times=3)
    assert await vault.get("a/object") == DATA
    assert await bytes_of(vault, "a/object", 5, 4 * MIB) == DATA[5 : 4 * MIB]


async def test_a_stalled_read_goes_on_where_it_was(proxy: FaultProxy, s3_server: S3Server) -> None:
    vault = await S3Vault.open(urlsplit(s3_server.url(endpoint=proxy.endpoint)), RETRYING)
    await upload(vault, "a/object", DATA[:MIB])
    proxy.fail(faults.reading, faults.stall(after=1000), times=1)
    assert await vault.get("a/object") == DATA[:MIB]
    await vault.aclose()


# What lasts is said, within a bounded time


@pytest.mark.parametrize("fault", lasting)
async def test_a_put_gives_up_in_one_line(hasty: S3Vault, proxy: FaultProxy, fault: Fault) -> None:
    proxy.fail(faults.putting, fault)
    with raises(NetworkError, "stopped answering"):
        await hasty.put("a/object", b"bytes")
    assert HASTY.attempts <= proxy.count("PUT ") <= 2 * HASTY.attempts  # aiohttp tries a broken one again
    assert await nothing_is_left(hasty)


@pytest.mark.parametrize("step", steps[1:])
@pytest.mark.parametrize("fault", lasting)
async def test_an_upload_that_gives_up_leaves_nothing(
    hasty: S3Vault, proxy: FaultProxy, step: When, fault: Fault
) -> None:
    proxy.fail(step, fault)
    with raises(NetworkError, "stopped answering"):
        await upload(hasty, "a/object", DATA)
    assert await nothing_is_left(hasty)


@pytest.mark.parametrize("fault", lasting)
async def test_every_question_gives_up_in_one_line(hasty: S3Vault, proxy: FaultProxy, fault: Fault) -> None:
    proxy.fail(faults.anything, fault)

    async def gives_up(question: Coroutine[Any, Any, object]) -> None:
        with raises(NetworkError, "stopped answering"):
            await question

    questions = [hasty.get("a"), hasty.stat("a"), keys(hasty), hasty.unfinished(), hasty.delete("a")]
    await asyncio.gather(*map(gives_up, questions))


@pytest.mark.parametrize("step", steps[:2])
async def test_a_vault_that_takes_nothing_new_does_not_work(
    vault: S3Vault, proxy: FaultProxy, step: When
) -> None:
    proxy.fail(step, faults.says(403, "AccessDenied"))
    with pytest.raises(EverrefError):
        await vault.probe()
    proxy.heal()
    await vault.probe()
    assert await vault.unfinished() == []


@pytest.mark.parametrize("fault", [faults.cut(after=0), faults.stall(after=0)], ids=["cut", "stall"])
async def test_a_read_that_gets_no_further_gives_up(hasty: S3Vault, proxy: FaultProxy, fault: Fault) -> None:
    await hasty.put("a/object", b"bytes")
    proxy.fail(faults.reading, fault)
    with raises(NetworkError, "stopped answering"):
        await hasty.get("a/object")


async def test_a_read_that_drips_gives_up(vault: S3Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    await vault.put("a/object", b"bytes")
    monkeypatch.setattr(s3, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(s3, "LEAST_SPEED", 1 << 60)
    with raises(NetworkError, "bytes a second; nothing stored was changed; try again later"):
        await vault.get("a/object")


async def test_bytes_that_always_change_on_their_way_are_said(hasty: S3Vault, proxy: FaultProxy) -> None:
    proxy.fail(faults.putting, faults.changed)
    with raises(Corrupt, "bytes were changed on their way"):
        await hasty.put("a/object", b"bytes")
    assert await nothing_is_left(hasty)


async def test_a_store_that_is_not_there_is_said(s3_credentials: None) -> None:
    (port,) = free_ports(1)
    vault = await S3Vault.open(urlsplit(S3Server(f"http://127.0.0.1:{port}").url()), HASTY)
    with raises(NetworkError, f"the vault at 127.0.0.1:{port} stopped answering"):
        await vault.put("a/object", b"bytes")
    with raises(NetworkError, f"the vault at 127.0.0.1:{port} stopped answering"):
        await upload(vault, "a/object", DATA)
    await vault.aclose()


async def test_no_attempt_begins_when_it_is_enough(s3_server: S3Server, proxy: FaultProxy) -> None:
    patience = Patience(attempts=1000, pause=0.01, enough=0)
    vault = await S3Vault.open(urlsplit(s3_server.url(endpoint=proxy.endpoint)), patience)
    proxy.fail(faults.putting, faults.says(503, "SlowDown"))
    with raises(NetworkError, "stopped answering"):
        await vault.put("a/object", b"bytes")
    assert proxy.count("PUT ") == 1
    await vault.aclose()


# What an answer means


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", BadCredentials, "check AWS_* and the key's permissions"),
        (403, "SignatureDoesNotMatch", BadCredentials, "refuses this key"),
        (400, "ExpiredToken", BadCredentials, "refuses this key (ExpiredToken)"),
        (401, "", BadCredentials, "refuses this key (401)"),
        (403, "RequestTimeTooSkewed", Refused, "this machine's clock"),
        (403, "QuotaExceeded", LimitReached, "is full"),
        (507, "XMinioStorageFull", LimitReached, "is full"),
        (404, "NoSuchBucket", UsageError, "has no bucket everref-tests; create it or correct VAULT_URL"),
        (400, "AuthorizationHeaderMalformed", UsageError, "add region= to VAULT_URL"),
        (400, "InvalidArgument", Refused, "refused a request (InvalidArgument)"),
        (400, f"{SECRET_KEY}: told a secret", Refused, "refused a request (400)"),
    ],
)
async def test_an_answer_is_one_clear_line(
    vault: S3Vault, proxy: FaultProxy, status: int, code: str, kind: type[EverrefError], words: str
) -> None:
    proxy.fail(faults.putting, faults.says(status, code))
    with raises(kind, words):
        await vault.put("a/object", b"bytes")
    assert proxy.count("PUT ") == 1
    assert await nothing_is_left(vault)


async def test_a_server_that_is_no_s3_is_said(vault: S3Vault, proxy: FaultProxy) -> None:
    proxy.fail(faults.anything, faults.web_page)
    for question in (vault.put("a", b""), vault.get("a"), vault.stat("a")):
        with raises(Refused, "is not an S3 server; correct VAULT_URL"):
            await question
    with raises(NetworkError, "stopped answering"):
        await keys(vault)


async def test_a_wrong_secret_is_said(
    s3_server: S3Server, s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY.swapcase())
    vault = await S3Vault.open(urlsplit(s3_server.url()), PATIENT)
    with raises(BadCredentials, "refuses this key"):
        await vault.put("a/object", b"bytes")
    with raises(BadCredentials, "refuses this key (SignatureDoesNotMatch)"):
        await vault.get("a/object")
    await vault.aclose()


async def test_an_unknown_key_is_said(
    s3_server: S3Server, s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody00000000000000")
    vault = await S3Vault.open(urlsplit(s3_server.url()), PATIENT)
    with raises(BadCredentials, "refuses this key (InvalidAccessKeyId)"):
        await vault.get("a/object")
    with raises(BadCredentials, "refuses this key (InvalidAccessKeyId)"):
        await upload(vault, "a/object", DATA)
    await vault.aclose()


async def test_a_bucket_that_does_not_exist_is_said(s3_server: S3Server, s3_credentials: None) -> None:
    nowhere = S3Server(s3_server.endpoint, bucket="everref-nowhere")
    vault = await S3Vault.open(urlsplit(nowhere.url()), PATIENT)
    for question in (vault.put("a/object", b"bytes"), upload(vault, "a/object", DATA), keys(vault)):
        with raises(UsageError, "has no bucket everref-nowhere; create it or correct VAULT_URL"):
            await question
    await vault.aclose()


# Who wrote it


async def test_a_lost_answer_does_not_hide_that_another_was_first(
    vault: S3Vault, proxy: FaultProxy, s3_server: S3Server
) -> None:
    assert (await vault.capabilities()).conditional_create  # from now on nothing is looked at before a put
    await vault.put("a/object", b"theirs")
    proxy.fail(faults.putting, faults.lost_answer, times=2)
    with raises(AlreadyExists, "a/object is already in the vault"):
        await vault.put("a/object", b"ours")
    assert await vault.get("a/object") == b"theirs"


async def test_a_store_that_refuses_conditions_is_written_without(vault: S3Vault, proxy: FaultProxy) -> None:
    proxy.fail(lambda request: "If-None-Match" in request.headers, faults.says(501, "NotImplemented"))
    await vault.put("a/object", b"first")
    await upload(vault, "a/large", DATA)
    with raises(AlreadyExists, "a/object is already in the vault"):
        await vault.put("a/object", b"second")
    assert await vault.get("a/object") == b"first"
    assert await vault.get("a/large") == DATA
    assert not (await vault.capabilities()).conditional_create


async def test_an_upload_learns_by_itself_that_a_store_refuses_conditions(
    vault: S3Vault, proxy: FaultProxy
) -> None:
    proxy.fail(lambda request: "If-None-Match" in request.headers, faults.says(501, "NotImplemented"))
    await upload(vault, "a/large", DATA)
    assert await vault.get("a/large") == DATA


async def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed(
    vault: S3Vault, proxy: FaultProxy
) -> None:
    await upload(vault, "a/object", DATA)
    proxy.fail(faults.reading, faults.cut(after=2 * MIB), times=1)
    with raises(Corrupt, "a/object in the vault was replaced while it was read"):
        async with aclosing(vault.read("a/object")) as stream:
            async for _ in stream:
                await vault.delete("a/object")
                await upload(vault, "a/object", DATA[::-1])


# What a dead run leaves


async def test_an_upload_that_could_not_be_given_up_is_found_and_discarded(
    hasty: S3Vault, proxy: FaultProxy
) -> None:
    proxy.fail(faults.aborting, faults.reset)
    async with hasty.create("a/object") as writer:
        await writer.write(DATA)
    proxy.heal()
    (left,) = await hasty.unfinished()
    assert left.key == "a/object"
    await hasty.discard("a/object")
    assert await nothing_is_left(hasty)


async def test_an_upload_that_is_cancelled_while_the_store_hangs_is_given_up(
    vault: S3Vault, proxy: FaultProxy
) -> None:
    arrived = asyncio.Event()

    async def hang(request: web.Request, forward: Forward) -> web.StreamResponse:
        arrived.set()
        return await faults.hang(request, forward)

    proxy.fail(faults.part(1), hang)
    task = asyncio.create_task(upload(vault, "a/object", DATA))
    await arrived.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert await nothing_is_left(vault)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("sse=AES256", ["AES256", None]),
        ("sse=aws:kms&sse_kms_key_id=alias/backups", ["aws:kms", "alias/backups"]),
    ],
)
async def test_every_new_object_asks_the_store_to_encrypt_it_as_the_address_says(
    s3_server: S3Server, proxy: FaultProxy, s3_credentials: None, options: str, said: list[str | None]
) -> None:
    asked: list[list[str | None]] = []

    def creating(request: web.Request) -> bool:
        if request.method == "PUT" and "partNumber" not in request.query or "uploads" in request.query:
            names = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")
            asked.append([request.headers.get(name) for name in names])
            return True
        return False

    proxy.fail(creating, faults.says(400, "InvalidRequest"))  # it has no keys
    async with open_vault(f"{s3_server.url(endpoint=proxy.endpoint)}&{options}", "unused") as vault:
        with pytest.raises(Refused):
            await vault.put("a.json", b"{}")
        with pytest.raises(Refused):
            async with vault.create("a.bundle") as writer:
                await writer.write(bytes(2 * PART))
                await writer.commit()
    assert asked == [said, said]


async def test_a_link_asks_the_store_to_encrypt_as_every_other_write(
    s3_server: S3Server, proxy: FaultProxy, s3_credentials: None
) -> None:
    proxy.fail(lambda request: request.method == "PUT", faults.says(400, "BadDigest"))  # it has no keys
    url = f"{s3_server.url(endpoint=proxy.endpoint)}&presign=on&sse=aws:kms&sse_kms_key_id=a-key"
    async with open_vault(url, "unused") as vault:
        link = await vault.presign_put("exports/a", timedelta(minutes=5), 1, bytes(32))
    assert link and link.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert link.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "a-key"
    (signed,) = parse_qs(urlsplit(link.url).query)["X-Amz-SignedHeaders"]
    assert {*link.headers, "content-length", "host"} == set(signed.split(";"))


@pytest.mark.parametrize("options", ["sse=rot13", "sse_kms_key_id=a", "sse=AES256&sse_kms_key_id=a"])
async def test_an_encryption_that_no_store_has_is_refused(s3_credentials: None, options: str) -> None:
    with pytest.raises(UsageError, match="sse"):
        async with open_vault(f"s3://bucket/x?{options}", "unused"):
            pass
