"""The vault as flows see it: whichever store is behind it, what fails in it is the vault's failure.

Who uses it: vault/open puts it around each store.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import timedelta
from types import TracebackType

from mirror.errors import EverrefError, Origin, met_by, whose
from mirror.vault.contract import GET_LIMIT, Capabilities, Stat, Unfinished, Vault, Writer

_mine = met_by(Origin.VAULT)


class Edge:
    """A Vault that says of every failure that it was the vault's."""

    def __init__(self, store: Vault) -> None:
        self._store = store

    def create(self, key: str) -> AbstractAsyncContextManager[Writer]:
        return _Creating(self._store.create(key))

    @_mine
    async def put(self, key: str, data: bytes) -> None:
        await self._store.put(key, data)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        with whose(Origin.VAULT):
            async with aclosing(self._store.read(key, start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk

    @_mine
    async def get(self, key: str, limit: int = GET_LIMIT) -> bytes:
        return await self._store.get(key, limit)

    @_mine
    async def stat(self, key: str) -> Stat | None:
        return await self._store.stat(key)

    async def list(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        with whose(Origin.VAULT):
            async with aclosing(self._store.list(prefix)) as found:
                async for stat in found:
                    yield stat

    @_mine
    async def delete(self, key: str) -> None:
        await self._store.delete(key)

    async def hidden(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        with whose(Origin.VAULT):
            async with aclosing(self._store.hidden(prefix)) as found:
                async for stat in found:
                    yield stat

    @_mine
    async def discard(self, key: str) -> None:
        await self._store.discard(key)

    @_mine
    async def give_up(self, key: str) -> None:
        await self._store.give_up(key)

    @_mine
    async def unfinished(self, prefix: str = "") -> Sequence[Unfinished]:
        return await self._store.unfinished(prefix)

    @_mine
    async def presign(self, key: str, expires: timedelta, filename: str) -> str | None:
        return await self._store.presign(key, expires, filename)

    @_mine
    async def capabilities(self) -> Capabilities:
        return await self._store.capabilities()

    @_mine
    async def probe(self) -> None:
        await self._store.probe()

    def describe(self) -> str:
        return self._store.describe()

    async def aclose(self) -> None:
        await self._store.aclose()


class _Creating:
    """An upload, begun and ended; what is raised in between, by whoever writes, passes as it is."""

    def __init__(self, begun: AbstractAsyncContextManager[Writer]) -> None:
        self._begun = begun

    async def __aenter__(self) -> Writer:
        with whose(Origin.VAULT):
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
