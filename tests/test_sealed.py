"""Objects sealed in the age format: the stream, what a thief or a broken disk does to it, and stock age."""

import asyncio
import hashlib
import os
import subprocess
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.core import identities
from mirror.core.errors import Corrupt, KeyMissing, LimitReached, NetworkError, NoSuchObject
from mirror.core.identities import Identity
from mirror.vault import Vault, age, open_vault
from mirror.vault.directory import DirectoryVault
from mirror.vault.s3 import PART
from mirror.vault.sealed import SealedVault
from tests.parts.s3 import S3Server

OURS, THEIRS = identities.made(), identities.made()
CHUNK = 1 << 16  # what age authenticates at once
KEY = "a/b.bundle.age"


class Given:
    """The same keys for every object."""

    def __init__(self, own: Sequence[Identity] = (OURS,), others: Sequence[Identity] = ()) -> None:
        self.own, self.rest = own, others

    async def recipients(self, key: str) -> Sequence[str]:
        return [OURS.recipient]

    async def identities(self, key: str) -> Sequence[Identity]:
        return self.own

    async def others(self, key: str) -> Sequence[Identity]:
        return self.rest


async def streamed(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def opened(stored: bytes, cuts: Sequence[int] = (), by: Identity = OURS) -> bytes:
    places = [0, *sorted(cuts), len(stored)]
    pieces = [stored[a:b] for a, b in zip(places, places[1:], strict=False)]
    async with aclosing(age.opened(KEY, streamed(*pieces), [by])) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def in_(vault: Vault, key: str = KEY, start: int = 0, end: int | None = None) -> bytes:
    async with aclosing(vault.read(key, start, end)) as chunks:
        return b"".join([chunk async for chunk in chunks])


def threads() -> int:
    return sum(one.name == "age" for one in threading.enumerate())


@pytest.fixture
async def store(tmp_path: Path) -> Vault:
    return await DirectoryVault.open(tmp_path / "vault")


near = st.one_of(
    st.integers(0, 40),
    st.sampled_from([CHUNK, 2 * CHUNK, 9 * CHUNK]).flatmap(lambda size: st.integers(size - 2, size + 2)),
)


@settings(max_examples=40, deadline=None)
@given(near, st.lists(st.integers(0, 1 << 20), max_size=4), st.floats(0, 0.9999), st.integers(0, 7))
def test_what_was_sealed_comes_back_and_no_cut_or_flipped_bit_is_taken_for_it(
    size: int, cuts: list[int], where: float, bit: int
) -> None:
    plain = os.urandom(size)

    async def check() -> None:
        stored = await age.seal(plain, [OURS.recipient, THEIRS.recipient])
        assert await opened(stored, [cut for cut in cuts if cut < len(stored)]) == plain
        assert await opened(stored, by=THEIRS) == plain
        at = int(where * len(stored))  # which has a random stanza as well
        flipped = bytearray(stored)
        flipped[at] ^= 1 << bit
        for broken in (stored[:at], bytes(flipped), stored + b"\0"):
            with pytest.raises((Corrupt, KeyMissing)):
                await opened(broken)
            with pytest.raises((Corrupt, KeyMissing)):
                await age.open_sealed(KEY, broken, [OURS])

    asyncio.run(check())


async def test_chunks_of_another_place_are_not_taken() -> None:
    stored = await age.seal(os.urandom(4 * CHUNK), [OURS.recipient])
    head = len(stored) - 4 * (CHUNK + 16)
    one, two = stored[head : head + CHUNK + 16], stored[head + CHUNK + 16 : head + 2 * (CHUNK + 16)]
    with pytest.raises(Corrupt, match=KEY):
        await opened(stored[:head] + two + one + stored[head + 2 * (CHUNK + 16) :])


async def test_a_stream_is_sealed_as_stock_age_opens_it_with_its_size_and_sum_told(
    store: Vault, tmp_path: Path
) -> None:
    vault, plain = SealedVault(store, Given()), os.urandom(3 * CHUNK + 5)
    async with vault.create(KEY) as writer:
        for at in range(0, len(plain), 10_000):
            await writer.write(plain[at : at + 10_000])
        sealed = await writer.commit()
    stored = await in_(store)
    assert sealed and (sealed.bytes, sealed.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert plain[:1000] not in stored and stored.startswith(b"age-encryption.org/v1\n")
    (tmp_path / "identity").write_text(OURS.text)
    stock = ["age", "-d", "-i", str(tmp_path / "identity")]
    done = await asyncio.to_thread(subprocess.run, stock, input=stored, capture_output=True, check=True)
    assert done.stdout == plain == await in_(vault)
    for start, end in ((0, 0), (0, 1), (CHUNK - 1, CHUNK + 1), (7, None), (len(plain) - 1, len(plain) + 9)):
        assert await in_(vault, KEY, start, end) == plain[start:end]
    assert threads() == 0


async def test_small_objects_are_sealed_and_plain_ones_pass(store: Vault) -> None:
    vault = SealedVault(store, Given())
    sealed = await vault.put("a.json.age", b"refs/heads/secret")
    assert sealed and sealed.bytes == len(await store.get("a.json.age"))
    assert b"secret" not in await store.get("a.json.age")
    assert await vault.get("a.json.age") == b"refs/heads/secret"
    with pytest.raises(LimitReached):
        await vault.get("a.json.age", limit=3)
    await vault.put("a.json", b"plain")
    assert await store.get("a.json") == b"plain" == await vault.get("a.json")


async def test_without_the_key_nothing_is_called_damaged_and_a_key_of_another_team_is_tried(
    store: Vault,
) -> None:
    await SealedVault(store, Given()).put("a.json.age", b"it")
    for keys in (Given(()), Given((THEIRS,))):
        with pytest.raises(KeyMissing, match=r"a\.json\.age is sealed.*SECRET_KEYS"):
            await SealedVault(store, keys).get("a.json.age")
        with pytest.raises(KeyMissing):
            await in_(SealedVault(store, keys), "a.json.age")
    moved = SealedVault(store, Given((THEIRS,), (THEIRS, OURS)))
    assert await moved.get("a.json.age") == b"it" == await in_(moved, "a.json.age")


async def test_what_is_left_early_or_fails_ends_its_thread_and_leaves_nothing(store: Vault) -> None:
    vault, much = SealedVault(store, Given()), bytes(5 << 20)
    for error in (RuntimeError, asyncio.CancelledError):
        with pytest.raises(error):
            async with vault.create(KEY) as writer:
                await writer.write(much)
                raise error
        assert threads() == 0 and await store.stat(KEY) is None and await store.unfinished() == []
    async with vault.create(KEY) as writer:
        await writer.write(much)
        await writer.commit()
    async with aclosing(vault.read(KEY)) as chunks:
        assert await anext(chunks)
    assert threads() == 0
    with pytest.raises(NoSuchObject):
        await in_(vault, "none.age")

    async def broken() -> AsyncGenerator[bytes, None]:
        yield (await store.get(KEY))[: 2 << 20]
        raise NetworkError("the store went away")

    with pytest.raises(NetworkError, match="went away"):
        async with aclosing(age.opened(KEY, broken(), [OURS])) as chunks:
            async for _ in chunks:
                pass
    assert threads() == 0


async def test_a_large_object_is_sealed_into_s3_in_parts_and_read_from_the_middle(
    s3_server: S3Server, s3_credentials: None
) -> None:
    plain = os.urandom(PART + 12345)
    async with open_vault(s3_server.url(), "unused") as bucket:
        vault = SealedVault(bucket, Given())
        async with vault.create(KEY) as writer:
            for at in range(0, len(plain), 1 << 20):
                await writer.write(plain[at : at + (1 << 20)])
            await writer.commit()
        assert await in_(vault) == plain
        assert await in_(vault, KEY, PART - 9, PART + 9) == plain[PART - 9 : PART + 9]
        assert await vault.presign(KEY, timedelta(minutes=1), "x") is None
        await bucket.delete(KEY)


async def test_a_store_that_fails_while_it_is_written_to_says_so() -> None:
    class Full:
        async def write(self, data: bytes) -> None:
            raise LimitReached("the store is full")

    sealing = age.Sealing(Full().write, [OURS.recipient])
    with pytest.raises(LimitReached, match="full"):
        for _ in range(64):
            await sealing.write(bytes(1 << 20))
        await sealing.finish()
    await sealing.close()
    assert threads() == 0
