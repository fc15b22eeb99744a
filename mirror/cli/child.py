"""A process under `everref up`: started, awaited, started anew when it ends by itself, and ended with us."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass

from mirror.core.errors import OurFault
from mirror.services.startup import READY, Ties

READY_SECONDS = 120  # for a process to say that it works
STOP_SECONDS = 30  # for a process to end when asked
AT_ONCE_SECONDS = 5.0  # what works for less before it ends by itself has died at once
PAUSES = (0.0, 0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds to a new start, by how often it died at once

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
        died_at_once = 0  # in a row
        while True:
            code, worked = await self._live()
            if not self.ready.is_set():
                raise OurFault(f"the {self._name} process did not start; its messages are above")
            died_at_once = died_at_once + 1 if worked < AT_ONCE_SECONDS else 0
            pause = pause_after(died_at_once)
            log.warning("the %s process ended with %s; it is restarted in %g s", self._name, code, pause)
            await asyncio.sleep(pause)

    async def _live(self) -> tuple[int, float]:
        """One life of it, ended if we are cancelled; its exit code, and for how many seconds it worked."""
        clock = asyncio.get_running_loop().time
        worked = 0.0
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
                    log.warning("the %s process is running again", self._name)
                self.ready.set()
                began = clock()
                await process.wait()
                worked = clock() - began
        except TimeoutError:
            log.warning("the %s process did not get ready within %s s", self._name, READY_SECONDS)
        finally:
            await self._end(process)
        return await process.wait(), worked

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Ask it to end, and make it end if it takes too long or somebody is in a hurry."""
        _signal(process, signal.SIGTERM)
        waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._signals.hurry.wait())]
        await asyncio.wait(waits, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        _signal(process, signal.SIGKILL)
        await waits[0]
        waits[1].cancel()


def pause_after(died_at_once: int) -> float:
    """Seconds before a process is started anew that died at once so often in a row."""
    return PAUSES[min(died_at_once, len(PAUSES) - 1)]


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal it if it runs. Its own `terminate` may take its exit code from the loop, which then warns."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
