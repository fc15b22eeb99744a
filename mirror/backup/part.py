"""A part in the vault: its bundle on the way there, and the `.idx` object beside it.

Who calls: backup/snapshot and upkeep/compact write parts; backup/hydrate, verify and rebuild read indexes.

The `.idx` object says where the part's bytes are cut, and its sums: one line of JSON (`PartIndex` in
core/formats/manifest), a newline, and for a complete part git's own pack index, version 2
(https://git-scm.com/docs/gitformat-pack).
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from mirror.core.errors import Corrupt
from mirror.core.formats import layout, manifest
from mirror.core.formats.splice import Tap
from mirror.core.model import ObjectFormat, Part, Sealed
from mirror.git import pack
from mirror.vault.contract import Vault, Writer

_LINE = 1 << 24  # bytes; no first line is longer


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
        """Write these bytes, and pass each on to whoever proves them."""
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
        """What was written, which must be whole; the caller fills in its place in the log."""
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

    async def commit(self, part: Part) -> Part:
        """From here on the bundle is in the vault; returns the part with what is stored of it."""
        return replace(part, sealed=await self._writer.commit())


@asynccontextmanager
async def upload(vault: Vault, key: str, header: bytes, object_format: ObjectFormat) -> AsyncIterator[Upload]:
    """Begin a bundle with its header; leaving without a commit leaves nothing."""
    async with vault.create(key) as writer:
        bundle = Upload(key, writer, object_format)
        await bundle.write(header)
        yield bundle


async def write_index(vault: Vault, part: Part, idx: Path | None) -> Part:
    """Store the index of this part and return the part as it is now known."""
    digest = hashlib.sha256()
    size = 0
    async with vault.create(layout.index_key(part.key)) as writer:
        async for chunk in _content(part, idx):
            digest.update(chunk)
            size += len(chunk)
            await writer.write(chunk)
        sealed = await writer.commit()
    return replace(part, index_bytes=size, index_sha256=digest.hexdigest(), sealed_index=sealed)


async def copy_index(vault: Vault, old: Part, new: Part) -> Part:
    """Store the index of a part that has what another one has, in another form; git's index is that one's.

    Returns the new part as it is now known. Raises Corrupt, and stores nothing, where the old one's is not as
    it was recorded.
    """
    digest = hashlib.sha256()
    size = 0
    async with vault.create(layout.index_key(new.key)) as writer:

        async def write(chunk: bytes) -> None:
            nonlocal size
            digest.update(chunk)
            size += len(chunk)
            await writer.write(chunk)

        await write(manifest.encode_index(new))
        if old.complete:
            async for chunk in read_index(vault, old):
                await write(chunk)
        sealed = await writer.commit()
    return replace(new, index_bytes=size, index_sha256=digest.hexdigest(), sealed_index=sealed)


async def _content(part: Part, idx: Path | None) -> AsyncIterator[bytes]:
    yield manifest.encode_index(part)
    if idx is not None:
        async for chunk in pack.file_chunks(idx):
            yield chunk


async def read_index(vault: Vault, part: Part) -> AsyncIterator[bytes]:
    """Git's pack index of a complete part as it streams by. Raises Corrupt, at its end, if its sum is off."""
    key = layout.index_key(part.key)
    digest = hashlib.sha256()
    line: bytes | None = b""  # None: the first line has passed
    async for chunk in vault.read(key):
        digest.update(chunk)
        if line is not None:
            line += chunk
            end = line.find(b"\n")
            if end < 0 and len(line) > _LINE:
                raise Corrupt(f"{key}: its first line does not end")
            if end < 0:
                continue
            chunk, line = line[end + 1 :], None
        yield chunk
    if digest.hexdigest() != part.index_sha256:
        raise Corrupt(f"{key}: expected sha256 {part.index_sha256}, found {digest.hexdigest()}")


async def part_of(vault: Vault, stored: Vault, bundle_key: str) -> Part | None:
    """The part that an `.idx` object in the vault describes, or None where there is no such object.

    `stored` is the vault beneath, whose bytes are as they are stored. Raises KeyMissing, Corrupt.
    """
    key = layout.index_key(bundle_key)
    if await vault.stat(key) is None:
        return None
    digest = hashlib.sha256()
    start, size = b"", 0
    async for chunk in vault.read(key):
        digest.update(chunk)
        size += len(chunk)
        if b"\n" not in start and len(start) <= _LINE:
            start += chunk
    line, end, _ = start.partition(b"\n")
    if not end:
        raise Corrupt(f"{key}: its first line does not end")
    part = manifest.decode_index(bundle_key, line + end)
    sealed = await _as_stored(stored, key) if layout.is_sealed(key) else None
    return replace(part, index_bytes=size, index_sha256=digest.hexdigest(), sealed_index=sealed)


async def _as_stored(stored: Vault, key: str) -> Sealed:
    digest, size = hashlib.sha256(), 0
    async for chunk in stored.read(key):
        digest.update(chunk)
        size += len(chunk)
    return Sealed(size, digest.hexdigest())
