"""The vault as flows see it: whichever store is behind it, its failures are marked as the vault's.

Who uses it: vault/open puts it around each store.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from uuid import UUID

from mirror.core.errors import EverrefError, Origin, met_by, whose
from mirror.core.locks import Lock, Locking, LockProof
from mirror.vault.contract import GET_LIMIT, Capabilities, PutLink, Stat, Unfinished, Vault, Writer

_mine = met_by(Origin.VAULT)


Permit = Callable[[Vault], Awaitable[None]]  # raises unless the store may be written to
Recognise = Callable[[Vault], Awaitable[UUID]]  # sees that a store is the vault that it should be


class Edge:
    """A Vault that marks each of its failures as the vault's.

    No request goes to the store before it was recognised, if it can be.
    """

    def __init__(
        self, store: Vault, recognise: Recognise | None = None, permit: Permit | None = None
    ) -> None:
        self._store = store
        self._recognise = recognise
        self._permit = permit
        self._is_recognised = recognise is None
        self._recognising = asyncio.Lock()

    async def _ours(self) -> Vault:
        """The store, once it was recognised; a failure to do so is retried at each call."""
        if not self._is_recognised:
            async with self._recognising:
                if self._recognise and not self._is_recognised:
                    self._store.expect(await self._recognise(self._store))
                    self._is_recognised = True
        return self._store

    async def _ours_to_write(self) -> Vault:
        """The store, recognised, and permitted to be written to."""
        store = await self._ours()
        if self._permit:
            await self._permit(store)
        return store

    def create(self, key: str) -> AbstractAsyncContextManager[Writer]:
        return _Creating(self._ours_to_write, key)

    @_mine
    async def put(self, key: str, data: bytes) -> None:
        await (await self._ours_to_write()).put(key, data)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        with whose(Origin.VAULT):
            async with aclosing((await self._ours()).read(key, start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk

    @_mine
    async def get(self, key: str, limit: int = GET_LIMIT) -> bytes:
        return await (await self._ours()).get(key, limit)

    @_mine
    async def stat(self, key: str) -> Stat | None:
        return await (await self._ours()).stat(key)

    async def list(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        with whose(Origin.VAULT):
            async with aclosing((await self._ours()).list(prefix)) as found:
                async for stat in found:
                    yield stat

    @_mine
    async def delete(self, key: str) -> None:
        await (await self._ours()).delete(key)

    def locking(self) -> Locking | None:
        return self._store.locking()

    @_mine
    async def retain(self, key: str, until: datetime) -> None:
        await (await self._ours()).retain(key, until)

    @_mine
    async def hold(self, key: str, on: bool) -> None:
        await (await self._ours()).hold(key, on)

    @_mine
    async def locked_until(self, key: str) -> Lock | None:
        return await (await self._ours()).locked_until(key)

    @_mine
    async def prove_lock(self) -> LockProof:
        return await (await self._ours()).prove_lock()

    async def uncover(self, prefix: str = "") -> AsyncGenerator[str, None]:
        with whose(Origin.VAULT):
            async with aclosing((await self._ours()).uncover(prefix)) as found:
                async for key in found:
                    yield key

    async def hidden(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        with whose(Origin.VAULT):
            async with aclosing((await self._ours()).hidden(prefix)) as found:
                async for stat in found:
                    yield stat

    @_mine
    async def discard(self, key: str) -> None:
        await (await self._ours()).discard(key)

    @_mine
    async def give_up(self, key: str) -> None:
        await (await self._ours()).give_up(key)

    @_mine
    async def unfinished(self, prefix: str = "") -> Sequence[Unfinished]:
        return await (await self._ours()).unfinished(prefix)

    @_mine
    async def presign(self, key: str, expires: timedelta, filename: str) -> str | None:
        return await (await self._ours()).presign(key, expires, filename)

    @_mine
    async def presign_put(self, key: str, expires: timedelta, size: int, sha256: bytes) -> PutLink | None:
        return await (await self._ours_to_write()).presign_put(key, expires, size, sha256)

    @_mine
    async def kept_sha256(self, key: str) -> bytes | None:
        return await (await self._ours()).kept_sha256(key)

    @_mine
    async def capabilities(self) -> Capabilities:
        return await (await self._ours()).capabilities()

    @_mine
    async def now(self) -> datetime | None:
        return await (await self._ours()).now()

    @_mine
    async def probe(self) -> None:
        await self.recognise()
        await (await self._ours_to_write()).probe()

    @_mine
    async def recognise(self) -> None:
        self._is_recognised = self._recognise is None
        await (await self._ours()).recognise()

    def expect(self, identity: UUID) -> None:
        self._store.expect(identity)

    def directory(self) -> Path | None:
        return self._store.directory()

    def describe(self) -> str:
        return self._store.describe()

    async def aclose(self) -> None:
        await self._store.aclose()


class _Creating:
    """Starting and ending an upload; errors that the writer's caller raises in between pass unchanged."""

    def __init__(self, ours: Callable[[], Awaitable[Vault]], key: str) -> None:
        self._ours, self._key = ours, key

    async def __aenter__(self) -> Writer:
        with whose(Origin.VAULT):
            self._begun = (await self._ours()).create(self._key)
            return _Writer(await self._begun.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._begun.__aexit__(kind, error, trace)
        except EverrefError as raised:
            if raised is not error:
                raised.came_from(Origin.VAULT)
            raise


class _Writer:
    """A Writer of the store's."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @_mine
    async def write(self, data: bytes) -> None:
        await self._writer.write(data)

    @_mine
    async def commit(self) -> None:
        await self._writer.commit()
