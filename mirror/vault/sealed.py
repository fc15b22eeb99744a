"""The vault as flows see it where teams seal their backups: keys that end in `.age` are sealed and opened.

Who uses it: services/open puts it over the store. Everything else passes as it is. Whoever copies or
verifies stored bytes, without a key, asks the store beneath (`services.stored`).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from uuid import UUID

from mirror.core.errors import KeyMissing
from mirror.core.formats import layout
from mirror.core.identities import Identity
from mirror.core.locks import Lock, Locking, LockProof
from mirror.core.model import Sealed
from mirror.vault import age
from mirror.vault.contract import GET_LIMIT, Capabilities, PutLink, Stat, Unfinished, Vault, Writer, too_large


class Keys(Protocol):
    """Whose keys seal and open an object."""

    async def recipients(self, key: str) -> Sequence[str]:
        """To whom the object with this key is sealed, as age takes them. Raises OurFault, NotFound."""

    async def identities(self, key: str) -> Sequence[Identity]:
        """What its team opens its objects with, so far as it is here."""

    async def others(self, key: str) -> Sequence[Identity]:
        """Everything that is here, for an object that those do not open."""


async def opened(keys: Keys, key: str, stored: bytes) -> bytes:
    """What is sealed in the stored bytes of an object. Raises KeyMissing, Corrupt."""
    try:
        return await age.open_sealed(key, stored, await keys.identities(key))
    except KeyMissing:
        return await age.open_sealed(key, stored, await keys.others(key))


class SealedVault:
    """A Vault over another: objects whose keys end in `.age` are sealed when created, and opened when read.

    Sizes (`stat`, `list`) are those of the stored bytes.
    """

    def __init__(self, store: Vault, keys: Keys) -> None:
        self.store = store  # the vault beneath
        self._keys = keys

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[Writer]:
        if not layout.is_sealed(key):
            async with self.store.create(key) as writer:
                yield writer
            return
        recipients = await self._keys.recipients(key)
        async with self.store.create(key) as writer:
            sealing = _Writer(writer, recipients)
            try:
                yield sealing
            finally:
                await sealing.close()

    async def put(self, key: str, data: bytes) -> Sealed | None:
        if not layout.is_sealed(key):
            return await self.store.put(key, data)
        stored = await age.seal(data, await self._keys.recipients(key))
        await self.store.put(key, stored)
        return Sealed(len(stored), sha256(stored).hexdigest())

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if not layout.is_sealed(key):
            async with aclosing(self.store.read(key, start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        passed = 0
        async with aclosing(self._whole(key)) as chunks:
            async for chunk in chunks:
                wanted = chunk[max(0, start - passed) : None if end is None else max(0, end - passed)]
                passed += len(chunk)
                if wanted:
                    yield wanted
                if end is not None and passed >= end:
                    return

    async def _whole(self, key: str) -> AsyncGenerator[bytes, None]:
        """What is sealed in an object, by the keys of its team, or else by any."""
        try:
            async with aclosing(self._read_by(key, await self._keys.identities(key))) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except KeyMissing:  # before the first chunk
            identities = await self._keys.others(key)
        async with aclosing(self._read_by(key, identities)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _read_by(self, key: str, identities: Sequence[Identity]) -> AsyncGenerator[bytes, None]:
        return age.opened(key, self.store.read(key), identities)

    async def get(self, key: str, limit: int = GET_LIMIT) -> bytes:
        if not layout.is_sealed(key):
            return await self.store.get(key, limit)
        plain = await opened(self._keys, key, await self.store.get(key, age.sealed_limit(limit)))
        if len(plain) > limit:
            raise too_large(key, limit)
        return plain

    async def stat(self, key: str) -> Stat | None:
        return await self.store.stat(key)

    def list(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        return self.store.list(prefix)

    async def delete(self, key: str) -> None:
        await self.store.delete(key)

    def locking(self) -> Locking | None:
        return self.store.locking()

    async def retain(self, key: str, until: datetime) -> None:
        await self.store.retain(key, until)

    async def hold(self, key: str, on: bool) -> None:
        await self.store.hold(key, on)

    async def locked_until(self, key: str) -> Lock | None:
        return await self.store.locked_until(key)

    async def prove_lock(self) -> LockProof:
        return await self.store.prove_lock()

    def uncover(self, prefix: str = "") -> AsyncGenerator[str, None]:
        return self.store.uncover(prefix)

    def hidden(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        return self.store.hidden(prefix)

    async def discard(self, key: str) -> None:
        await self.store.discard(key)

    async def give_up(self, key: str) -> None:
        await self.store.give_up(key)

    async def unfinished(self, prefix: str = "") -> Sequence[Unfinished]:
        return await self.store.unfinished(prefix)

    async def presign(self, key: str, expires: timedelta, filename: str) -> str | None:
        """None for a sealed object: whoever followed the link would get what they cannot open."""
        return None if layout.is_sealed(key) else await self.store.presign(key, expires, filename)

    async def presign_put(self, key: str, expires: timedelta, size: int, sha256: bytes) -> PutLink | None:
        """None for a sealed object: nobody else seals it."""
        if layout.is_sealed(key):
            return None
        return await self.store.presign_put(key, expires, size, sha256)

    async def kept_sha256(self, key: str) -> bytes | None:
        return await self.store.kept_sha256(key)

    async def capabilities(self) -> Capabilities:
        return await self.store.capabilities()

    async def now(self) -> datetime | None:
        return await self.store.now()

    async def probe(self) -> None:
        await self.store.probe()

    async def recognise(self) -> None:
        await self.store.recognise()

    def expect(self, identity: UUID) -> None:
        self.store.expect(identity)

    def directory(self) -> Path | None:
        return self.store.directory()

    def describe(self) -> str:
        return self.store.describe()

    async def aclose(self) -> None:
        await self.store.aclose()


class _Writer:
    """A Writer whose bytes are sealed on their way into another."""

    def __init__(self, writer: Writer, recipients: Sequence[str]) -> None:
        self._writer = writer
        self._sealing = age.Sealing(writer.write, recipients)

    async def write(self, data: bytes) -> None:
        await self._sealing.write(data)

    async def commit(self) -> Sealed:
        sealed = await self._sealing.finish()
        await self._writer.commit()
        return sealed

    async def close(self) -> None:
        """End what seals; does nothing after a commit."""
        await self._sealing.close()
