"""Sealing and opening streams of bytes in the age format (https://age-encryption.org/v1), with flat memory.

Who calls: vault/sealed, for everything whose key ends in `.age`. pyrage reads and writes blocking file-like
objects, so each stream has a thread of its own: those of the default executor serve the vault itself, and a
thread that waits for one of them there could wait for ever.
"""

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

import pyrage

from mirror.core.errors import Corrupt, KeyMissing, OurFault
from mirror.core.identities import Identity
from mirror.core.model import Sealed

T = TypeVar("T")
Call = Callable[["_Source", "_Sink"], None]

OVERHEAD: Final = 1 << 16  # bytes; no header of ours is longer
_PIECE: Final = 1 << 19  # bytes that are handed to the other side at once
_AHEAD: Final = 2  # pieces that wait in each direction
_SMALL: Final = 1 << 16  # bytes that are sealed or opened at once, without a thread
_NO_KEY: Final = "No matching keys found"


def sealed_limit(limit: int) -> int:
    """The most bytes that an object has, sealed, of which no more than `limit` bytes were sealed."""
    return limit + (limit // (1 << 16) + 1) * 16 + OVERHEAD


def recipient(text: str) -> Any:
    """The recipient, as age takes it: `age1...`, `ssh-...`, or a plugin's `age1name1...`.

    Raises OurFault, as only recipients that were checked are stored.
    """
    try:
        if text.startswith("ssh-"):
            return pyrage.ssh.Recipient.from_str(text)
        if text.startswith("age1") and "1" in text[4:]:
            plugin = pyrage.plugin.Recipient.from_str(text)
            return pyrage.plugin.RecipientPluginV1(plugin.plugin(), [plugin], [], _Silent())
        return pyrage.x25519.Recipient.from_str(text)
    except Exception as error:  # pyrage's classes of errors differ by the kind of key
        raise OurFault(
            f"{text[:20]}... cannot be sealed to here ({type(error).__name__}); see everref keys"
        ) from None


class _Silent:
    """Answers a plugin that asks a person: nobody is there."""

    def display_message(self, message: str) -> None:
        """Nobody reads it."""

    def confirm(self, message: str, yes: str, no: str | None) -> bool | None:
        return None

    def request_public_string(self, description: str) -> str | None:
        return None

    def request_passphrase(self, description: str) -> str | None:
        return None


async def seal(plain: bytes, recipients: Sequence[str]) -> bytes:
    """These bytes, sealed to each of the recipients. Raises OurFault where there is none."""
    to = _to(recipients)
    return await _hop(len(plain), lambda: _sealed(plain, to))


def _sealed(plain: bytes, to: Sequence[Any]) -> bytes:
    try:
        return bytes(pyrage.encrypt(plain, to))
    except pyrage.EncryptError as error:
        raise _cannot_seal(error) from None


async def open_sealed(key: str, stored: bytes, identities: Sequence[Identity]) -> bytes:
    """What was sealed. Raises KeyMissing where no identity opens it, Corrupt where it is not whole."""
    keys = _with(key, identities)
    return await _hop(len(stored), lambda: _opened(key, stored, keys))


def _opened(key: str, stored: bytes, keys: Sequence[Any]) -> bytes:
    try:
        return bytes(pyrage.decrypt(stored, keys))
    except (pyrage.DecryptError, OSError) as error:
        raise _cannot_open(key, error) from None


async def _hop(size: int, work: Callable[[], T]) -> T:
    return work() if size <= _SMALL else await asyncio.to_thread(work)


def _to(recipients: Sequence[str]) -> list[Any]:
    if not recipients:
        raise OurFault("this team has no key to seal its backups to; see everref keys")
    return [recipient(one) for one in recipients]


def _with(key: str, identities: Sequence[Identity]) -> list[Any]:
    if not identities:
        raise missing(key)
    return [pyrage.x25519.Identity.from_str(one.text) for one in identities]


def missing(key: str) -> KeyMissing:
    """What is raised where nothing that is here opens an object."""
    return KeyMissing(
        f"{key} is sealed, and no key that is here opens it; nothing of it is damaged: put the missing key"
        " back into SECRET_KEYS, as an older one, or import the team's identity: everref keys import"
    )


def _cannot_seal(error: Exception) -> OurFault:
    return OurFault(f"nothing can be sealed to one of the team's keys ({error}); see everref keys")


def _cannot_open(key: str, error: Exception) -> Corrupt | KeyMissing:
    if str(error) == _NO_KEY:
        return missing(key)
    return Corrupt(f"{key}: what is sealed in it is not as it was stored: it was cut off or changed")


class _Stopped(Exception):
    """Nobody waits for the thread's work any more."""


class _Bridge:
    """A blocking call in a thread of its own, between bytes that are fed to it and bytes that it makes.

    Both directions are bounded. `close` ends the thread, wherever it is.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._fed: asyncio.Queue[bytes] = asyncio.Queue()  # empty bytes: the end
        self._made: asyncio.Queue[bytes] = asyncio.Queue()  # likewise
        self._to_feed, self._to_make = asyncio.Semaphore(_AHEAD), asyncio.Semaphore(_AHEAD)
        self._stopped = False
        self._failure: BaseException | None = None  # of whoever feeds, or of the thread
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="age", daemon=True)
        self._thread.start()

    async def feed(self, piece: bytes) -> None:
        """Hand over the next bytes; none: that was all. Where the thread is over, they are dropped."""
        await self._to_feed.acquire()
        if self._ended.done():
            self._to_feed.release()
        else:
            self._fed.put_nowait(piece)

    async def made(self) -> bytes:
        """The next bytes that the call made; none: it is over. Its own failure is raised, or the feeder's."""
        piece = await self._made.get()
        self._to_make.release()
        if not piece:
            await self._ended
            self._made.put_nowait(b"")  # whoever asks again gets the same answer
            if self._failure is not None:
                raise self._failure
        return piece

    def stop(self, failure: BaseException | None = None) -> None:
        """Have the thread end at its next step; `failure` says why. Safe to call twice."""
        self._failure = self._failure or failure
        self._stopped = True
        self._fed.put_nowait(b"")  # wakes a thread that waits for these
        self._to_make.release()

    async def close(self) -> None:
        """End the thread, and wait until it has. Safe to call twice."""
        self.stop()
        while not self._ended.done():
            await asyncio.wait([self._ended])
        self._thread.join()  # saying so was the last that it did

    def source(self) -> bytes:
        """In the thread: the next bytes; none at the end."""
        return self._in_loop(self._next_fed())

    def sink(self, piece: bytes) -> None:
        """In the thread: hand over what was made, once there is room."""
        self._in_loop(self._put_made(piece))

    async def _next_fed(self) -> bytes:
        piece = await self._fed.get()
        self._to_feed.release()
        return piece

    async def _put_made(self, piece: bytes) -> None:
        await self._to_make.acquire()
        self._made.put_nowait(piece)

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            if self._stopped:
                raise _Stopped
            found = asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (RuntimeError, _Stopped):  # the loop is closed, or nobody waits
            work.close()
            raise _Stopped from None
        if self._stopped:
            raise _Stopped
        return found

    def _run(self) -> None:
        failure = None
        try:
            source, sink = _Source(self), _Sink(self)
            self._call(source, sink)
            sink.end()
        except BaseException as error:  # raised again by whoever reads what is made
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._over, failure)

    def _over(self, failure: BaseException | None) -> None:
        self._failure = self._failure or failure
        self._ended.set_result(None)
        self._to_feed.release()
        self._made.put_nowait(b"")


class _Source:
    """What pyrage reads: the bytes that are fed."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge
        self._left = memoryview(b"")
        self._is_over = False

    def read(self, size: int = -1) -> bytes:
        if not self._left and not self._is_over:
            self._left = memoryview(self._bridge.source())
            self._is_over = not self._left
        taken = self._left if size < 0 else self._left[:size]
        self._left = self._left[len(taken) :]
        return bytes(taken)


class _Sink:
    """What pyrage writes to: pieces, of some size, for whoever reads what is made."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge
        self._piece = bytearray()

    def write(self, data: bytes) -> int:
        self._piece += data
        if len(self._piece) >= _PIECE:
            self.end()
        return len(data)

    def flush(self) -> None:
        """Nothing to do: `end` hands over the rest."""

    def end(self) -> None:
        """Hand over what there is."""
        if self._piece:
            self._bridge.sink(bytes(self._piece))
            self._piece.clear()


class Sealing:
    """A stream that is being sealed into a writer of the store beneath."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]], recipients: Sequence[str]) -> None:
        self._to = _to(recipients)
        self._write = write
        self._left = bytearray()
        self._digest, self._size = hashlib.sha256(), 0
        self._thread: tuple[_Bridge, asyncio.Task[None]] | None = None  # None: it may fit into one piece

    async def _through(self, bridge: _Bridge) -> None:
        try:
            while piece := await bridge.made():
                await self._store(piece)
        except BaseException as error:
            bridge.stop(error)
            raise

    async def _store(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._size += len(piece)
        await self._write(piece)

    async def write(self, data: bytes) -> None:
        """Take the next bytes. Raises what writing earlier ones met."""
        self._left += data
        if len(self._left) < _PIECE:
            return
        if self._thread is None:
            bridge = _Bridge(lambda source, sink: pyrage.encrypt_io(source, sink, self._to))
            self._thread = bridge, asyncio.create_task(self._through(bridge))
        bridge, writing = self._thread
        await bridge.feed(bytes(self._left))
        self._left.clear()
        if writing.done():
            await _finished(writing)

    async def finish(self) -> Sealed:
        """All bytes were taken; once this returns, the writer beneath has the whole sealed stream."""
        if self._thread is None:
            whole = bytes(self._left)
            await self._store(await _hop(len(whole), lambda: _sealed(whole, self._to)))
        else:
            bridge, writing = self._thread
            if self._left:
                await bridge.feed(bytes(self._left))
            await bridge.feed(b"")
            await _finished(writing)
        return Sealed(self._size, self._digest.hexdigest())

    async def close(self) -> None:
        """End the thread, whatever it was doing. Safe to call twice, and after `finish`."""
        if self._thread is None:
            return
        bridge, writing = self._thread
        writing.cancel()
        await asyncio.wait([writing])
        if not writing.cancelled():
            writing.exception()  # it was raised by `write` or `finish`, or nobody asks any more
        await bridge.close()


async def _finished(writing: "asyncio.Task[None]") -> None:
    try:
        await writing
    except pyrage.EncryptError as error:
        raise _cannot_seal(error) from None


async def opened(
    key: str, stored: AsyncGenerator[bytes, None], identities: Sequence[Identity]
) -> AsyncGenerator[bytes, None]:
    """What was sealed in these stored bytes, as it streams by; all of it, or an error.

    Every 64 KiB are authenticated before they come out, and the end of the stream is, before this ends:
    nothing that was cut off, changed or moved is taken for whole. Raises KeyMissing, Corrupt, and what
    `stored` raises.
    """
    keys = _with(key, identities)
    async with aclosing(stored):
        start = await _start(stored)
        if len(start) <= _PIECE:  # that was all: a thread would cost more than it saves
            plain = await _hop(len(start), lambda: _opened(key, start, keys))
            if plain:
                yield plain
            return
        async with aclosing(_streamed(key, start, stored, keys)) as pieces:
            async for piece in pieces:
                yield piece


async def _start(stored: AsyncGenerator[bytes, None]) -> bytes:
    """The first bytes, at least one piece and something more; less: there are no others."""
    start = bytearray()
    async for piece in stored:
        start += piece
        if len(start) > _PIECE:
            break
    return bytes(start)


async def _streamed(
    key: str, start: bytes, stored: AsyncGenerator[bytes, None], keys: Sequence[Any]
) -> AsyncGenerator[bytes, None]:
    bridge = _Bridge(lambda source, sink: pyrage.decrypt_io(source, sink, keys))
    feeding = asyncio.create_task(_fed(bridge, start, stored))
    try:
        while True:
            try:
                piece = await bridge.made()
            except (pyrage.DecryptError, OSError) as error:
                raise _cannot_open(key, error) from None
            if not piece:
                return
            yield piece
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        await bridge.close()


async def _fed(bridge: _Bridge, start: bytes, stored: AsyncGenerator[bytes, None]) -> None:
    """Feed all of it; a failure to read it is raised where the bytes that are made are read."""
    try:
        await bridge.feed(start)
        async for piece in stored:
            if piece:
                await bridge.feed(piece)
        await bridge.feed(b"")
    except Exception as error:
        bridge.stop(error)
