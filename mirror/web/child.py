"""A process under `everref up`: started, awaited, started anew when it ends by itself, and ended with us."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass

from mirror.errors import OurFault
from mirror.process import READY, Ties

READY_SECONDS = 120  # for a process to say that it works
STOP_SECONDS = 30  # for a process to end when asked
PAUSES = (0.5, 1, 2, 5, 10, 30)  # seconds before a process that ended by itself is started anew
STEADY_SECONDS = 60  # who lived this long begins with the first pause again

log = logging.getLogger("mirror.up")


@dataclass(frozen=True, slots=True)
class Signals:
    """What the person at the terminal, or the system, has told us."""

    stop: asyncio.Event  # once
    hurry: asyncio.Event  # again


class Child:
    """One process of `up`, started anew when it ends by itself."""

    def __init__(self, name: str, env: dict[str, str], signals: Signals, listen: int | None = None) -> None:
        self.ready = asyncio.Event()  # it has worked at least once
        self._name = name
        self._env = env
        self._signals = signals
        self._listen = listen

    async def run(self) -> None:
        """Keep it running until cancelled. Raises OurFault if it ends before it was ready."""
        clock = asyncio.get_running_loop().time
        ended = 0
        while True:
            began = clock()
            code = await self._live()
            if not self.ready.is_set():
                raise OurFault(f"the {self._name} process did not start; what it said stands above")
            if clock() - began > STEADY_SECONDS:
                ended = 0
            pause = PAUSES[min(ended, len(PAUSES) - 1)]
            ended += 1
            log.warning("the %s process ended with %s; it is started anew in %s s", self._name, code, pause)
            await asyncio.sleep(pause)

    async def _live(self) -> int:
        """One life of it, ended if we are cancelled; its exit code."""
        ties = Ties(parent=os.getpid(), listen=self._listen)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", f"mirror.{self._name}", *ties.arguments()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=self._env,
            pass_fds=() if self._listen is None else (self._listen,),
            start_new_session=True,  # Ctrl-C is for us, who tell it when to stop
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_SECONDS):
                word = await process.stdout.readline()
            if word == READY:
                if self.ready.is_set():
                    log.warning("the %s process works again", self._name)
                self.ready.set()
                await process.wait()
        except TimeoutError:
            log.warning("the %s process did not get ready within %s s", self._name, READY_SECONDS)
        finally:
            await self._end(process)
        return await process.wait()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Ask it to end, and make it end if it takes too long or somebody is in a hurry."""
        _signal(process, signal.SIGTERM)
        waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._signals.hurry.wait())]
        await asyncio.wait(waits, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        _signal(process, signal.SIGKILL)
        await waits[0]
        waits[1].cancel()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal it if it runs. Its own `terminate` may take its exit code from the loop, which then warns."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
