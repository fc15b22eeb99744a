"""Reader processes: they read untrusted content, so that the process that serves everybody never does.

A few are kept running. Each answers one question at a time, within a memory of its
own; one that takes too long, or whose request was cancelled, is killed and replaced.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import msgspec

from mirror.core.errors import Corrupt, LimitReached, Origin, OurFault, TooLarge
from mirror.core.model import Target
from mirror.git.reader.questions import Question, Trouble
from mirror.git.reader.slots import NOBODY, Bounds, Requester, Slots
from mirror.git.run import Git, GitFailed, Limits, Process

A = TypeVar("A")

AT_ONCE: Final = 3  # readers
READING: Final = Bounds(at_once=AT_ONCE, team=2, person=1)
STREAMING: Final = Bounds(at_once=6, team=2, person=1, patience=60.0)  # files on their way out, by git
CLONING: Final = Bounds(
    32, team=12, person=8, waiting_person=512, waiting=2048, patience=900.0
)  # packs for git
FILLING: Final = Bounds(at_once=2, team=1, person=1, patience=30.0)  # pools that a page needs from the vault
MEMORY: Final = 192 << 20  # bytes of its own that a reader may have
ADDRESSES: Final = 2 << 30  # bytes, packs and their indexes among them
CPU_SECONDS: Final = 3600  # of one reader in all; it also limits each question
STREAM_MEMORY: Final = 128 << 20  # bytes that git may have to hand a file out
ANSWER_BYTES: Final = (16 << 20) + 64  # of one answer
GRACE: Final = 1.0  # seconds to finish once nobody waits any more: starting a new process costs more
QUESTIONS: Final = 5000  # that one process answers, at most
NICE: Final = 5  # so that the web server's own process goes first

# Of packs, git maps windows: these count as addresses, and have to fit.
CONFIG: Final = {
    "core.packedGitWindowSize": "32m",
    "core.packedGitLimit": "256m",
    "core.bigFileThreshold": "1m",  # from there on a file is streamed
}

_DIED: Final = "reading this takes more memory or time than one page may use"


class Reader:
    """One process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.left = QUESTIONS
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)

    async def ask(self, question: Question[A]) -> A:
        """The answer. Raises LimitReached, TooLarge, Corrupt; EOFError where the process has died."""
        data = _encode(question)
        good, self.left, answer = await self._exchange(data)
        if good:
            told: A = _decoded(answer, question.answer)
            return told
        trouble = _decoded(answer, Trouble)
        if trouble.kind == "too-large":
            raise TooLarge(trouble.message, Target(trouble.oid), trouble.size)
        if trouble.kind == "limit":
            raise LimitReached(trouble.message, origin=Origin.OURS)
        if trouble.kind == "corrupt":
            raise Corrupt(trouble.message)
        raise OurFault(trouble.message)

    async def _exchange(self, data: bytes) -> tuple[bool, int, bytes]:
        try:
            await self.process.stdin.write(len(data).to_bytes(4) + data)
        except GitFailed:
            raise EOFError from None
        found = bytearray()
        size = 4
        while len(found) < size:
            chunk = await self.process.stdout.read()
            if not chunk:
                raise EOFError
            found += chunk
            if size == 4 and len(found) >= 4:
                size += int.from_bytes(found[:4])
                if not 6 <= size <= ANSWER_BYTES:
                    raise EOFError
        return bool(found[4]), 0 if found[5] else self.left - 1, bytes(found[6:])


class Reading:
    """A slot: questions are asked here, one after the other."""

    def __init__(self, readers: "Readers") -> None:
        self._readers = readers

    async def ask(self, question: Question[A]) -> A:
        """The answer. Raises LimitReached where it costs too much, TooLarge, Corrupt."""
        reader = self._readers.take()
        asking = asyncio.create_task(reader.ask(question))
        try:
            done, _ = await asyncio.wait([asking], timeout=question.seconds + 2)
            if not done:
                raise LimitReached(
                    f"reading this takes longer than {question.seconds:g} s, more than one page may use",
                    origin=Origin.OURS,
                )
            return asking.result()
        except asyncio.CancelledError:
            await asyncio.wait([asking], timeout=GRACE)
            raise
        except EOFError:
            raise LimitReached(_DIED, origin=Origin.OURS) from None
        finally:
            answered = asking.done() and not isinstance(asking.exception(), EOFError)
            asking.cancel()
            self._readers.give_back(reader, answered and reader.left > 0)


class Readers:
    """The processes, and the slots in which they are used."""

    def __init__(self, git: Git, *, streaming: Git) -> None:
        self.slots = Slots(READING)
        self.streams = Slots(STREAMING)
        self.fills = Slots(FILLING)
        self.clones = Slots(CLONING)
        self.streaming = streaming  # git, as it hands out what is too large for an answer
        self._git = git
        self._idle: list[Reader] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    def of(cls, program: str, home: str) -> "Readers":
        """Readers that use this git; nothing is started yet."""
        limits = Limits(memory=MEMORY, address=ADDRESSES, file=0, cpu=CPU_SECONDS)
        small = Limits(memory=STREAM_MEMORY, address=ADDRESSES, file=0)
        return cls(Git(program, home, limits=limits), streaming=Git(program, home, limits=small))

    @asynccontextmanager
    async def slot(self, who: Requester = NOBODY) -> AsyncIterator[Reading]:
        """Wait for a slot to ask questions in. Raises TooOften, Crowded."""
        async with self.slots.slot(who):
            yield Reading(self)

    def warm(self) -> None:
        """Start all processes before anybody asks."""
        while len(self._idle) < AT_ONCE:
            self._idle.append(self._started())

    def take(self) -> Reader:
        """A process for one question."""
        while self._idle:
            reader = self._idle.pop()
            if not reader.process.exited.done():
                return reader
            self._end(reader)
        return self._started()

    def give_back(self, reader: Reader, keep: bool) -> None:
        """Keep the process for the next question, or replace it."""
        if not keep:
            self._end(reader)
        if not self._closed:
            self._idle.append(reader if keep else self._started())

    def _started(self) -> Reader:
        args = ("-P", "-B", "-m", "mirror.git.reader", self._git.program)
        return Reader(self._git.start(*args, program=sys.executable, env_config=CONFIG))

    def _end(self, reader: Reader) -> None:
        reader.process.kill()
        ending = asyncio.create_task(reader.process.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Stop all processes."""
        self._closed = True
        while self._idle:
            self._end(self._idle.pop())
        if self._ending:
            await asyncio.wait(self._ending)


_encode = msgspec.msgpack.Encoder().encode


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise EOFError from None
