"""A bundle on its way into the vault, summed while it goes by: how every part is written."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from mirror.core.formats.splice import Tap
from mirror.core.model import ObjectFormat, Part
from mirror.vault.contract import Vault, Writer


class Upload:
    """A bundle whose header is written; tentative until `commit`."""

    def __init__(self, key: str, writer: Writer, object_format: ObjectFormat) -> None:
        self._key = key
        self._writer = writer
        self.tap = Tap(object_format)

    async def write(self, chunk: bytes) -> None:
        """The next bytes of the bundle."""
        self.tap.feed(chunk)
        await self._writer.write(chunk)

    async def through(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Write these bytes, and hand each on to whoever proves them."""
        async with aclosing(chunks):
            async for chunk in chunks:
                await self.write(chunk)
                yield chunk

    async def all_of(self, chunks: AsyncGenerator[bytes, None]) -> None:
        """Write these bytes."""
        async with aclosing(chunks):
            async for chunk in chunks:
                await self.write(chunk)

    def part(self) -> Part:
        """What was written, which must be whole; its place in the log is for the caller to say."""
        self.tap.end()
        return Part(
            key=self._key,
            epoch=0,
            first=0,
            last=0,
            bytes=self.tap.stored_bytes,
            sha256=self.tap.stored_sha256,
            header_bytes=self.tap.header_bytes,
            entries=self.tap.entries,
            segments=(),
            complete=False,
        )

    async def commit(self) -> None:
        """From here on the bundle is in the vault."""
        await self._writer.commit()


@asynccontextmanager
async def upload(vault: Vault, key: str, header: bytes, object_format: ObjectFormat) -> AsyncIterator[Upload]:
    """Begin a bundle with its header; leaving without a commit leaves nothing."""
    async with vault.create(key) as writer:
        begun = Upload(key, writer, object_format)
        await begun.write(header)
        yield begun
