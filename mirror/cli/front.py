"""From the arguments to the exit code: every failure is one line, or one JSON object, on standard error."""

import os
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from mirror.cli import arguments, environment, stdout
from mirror.core.errors import EverrefError, LimitReached, OurFault, Refused
from mirror.core.redact import Redactor

if TYPE_CHECKING:
    import argparse

    from mirror.cli.terminal import Out
    from mirror.core.config import Settings

SIGHUP, SIGINT, SIGTERM = 1, 2, 15
PIPE_CLOSED = 141  # what shells report of a program that SIGPIPE ended


class Interrupted(BaseException):
    """A signal asked the command to end, and it has cleaned up."""


class Stopped:
    """Whether a signal asked this call to end, and which."""

    by: int | None = None

    @property
    def word(self) -> str:
        return "terminated" if self.by in (SIGTERM, SIGHUP) else "interrupted"

    @property
    def exit_code(self) -> int:
        """As shells have it: 128 and the number of the signal."""
        return 128 + (self.by or SIGINT)


def run(argv: Sequence[str]) -> int:
    """Carry out one call."""
    redact = Redactor()
    redact.learn(os.environ, argv)
    as_json = arguments.wants_json(argv)
    stopped = Stopped()
    try:
        code = _called(argv, redact, stopped)
        stdout.flush()
        return code
    except stdout.StdoutClosed:
        return PIPE_CLOSED
    except (KeyboardInterrupt, Interrupted):
        _tell(OurFault(stopped.word), True, as_json, redact)
        return stopped.exit_code
    except Exception as error:
        if stopped.by:  # what broke while it was being stopped is no news
            _tell(OurFault(stopped.word), True, as_json, redact)
            return stopped.exit_code
        if environment.is_set(os.environ, "EVERREF_DEBUG"):
            import traceback

            _say(redact(traceback.format_exc().rstrip()))
        ours = explained(error)
        _tell(ours, not ours.permanent, as_json, redact)
        return ours.exit_code


def _called(argv: Sequence[str], redact: Redactor, stopped: Stopped) -> int:
    try:
        args = arguments.parse(argv)
    except SystemExit:  # --help and --version have been answered
        return 0
    if args.command == "completion":
        from mirror.cli.complete import script

        stdout.write(script(args.shell))
        return 0
    from mirror.cli.call import Call
    from mirror.cli.commands import command

    settings = environment.settings(os.environ, args.data)
    out = _out(args)
    _set_log(args.command, settings)
    return _finish(command(args.command)(Call(args, settings, out, redact)), out, stopped)


def _out(args: "argparse.Namespace") -> "Out":
    """Where results go, and progress where a person at a terminal would want it."""
    import io
    import time

    from mirror.cli.terminal import Drawn, Out, columns

    colour = environment.has_colour(os.environ, sys.stdout is not None and sys.stdout.isatty())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8" if args.json else None, errors="backslashreplace")
    out = Out(stdout.write, environment.now, as_json=args.json, quiet=args.quiet, colour=colour)
    wanted = not args.json and not args.quiet and not environment.is_dumb(os.environ)
    if wanted and sys.stderr is not None and sys.stderr.isatty():
        out.progress = Drawn(sys.stderr, time.monotonic, columns(sys.stderr))
    return out


def _finish(work: Coroutine[Any, Any, int], out: "Out", stopped: Stopped) -> int:
    """Run a command to its end. A signal cancels it, and it cleans up; a second does not wait for that."""
    import asyncio
    import signal

    from mirror.cli.terminal import Drawn

    async def tended() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: int, _: object) -> None:
            if stopped.by:
                raise KeyboardInterrupt
            stopped.by = number
            loop.call_soon_threadsafe(task.cancel)

        for number in (SIGINT, SIGTERM, SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, stop)
        drawn = out.progress if isinstance(out.progress, Drawn) else None
        drawing = asyncio.create_task(drawn.keep_drawing()) if drawn else None
        try:
            return await work
        except asyncio.CancelledError:
            raise Interrupted from None
        finally:
            if drawn and drawing:
                drawing.cancel()
                drawn.clear()

    return asyncio.run(tended())


def _set_log(command: str, settings: "Settings") -> None:
    """Only `up` runs for so long that it logs. Else a library's log lines are for us, not for a person."""
    import logging
    import warnings

    debug = environment.is_set(os.environ, "EVERREF_DEBUG")
    if command == "up":
        from mirror.services.startup import begin_log

        begin_log("everref up", settings)
    elif not debug:
        logging.getLogger().addHandler(logging.NullHandler())
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")


def explained(error: BaseException) -> EverrefError:
    """Any failure as one of ours. What a library says is left out: it may hold a secret."""
    while isinstance(error, BaseExceptionGroup):
        error = (error.subgroup(EverrefError) or error).exceptions[0]
    if isinstance(error, EverrefError):
        return error
    if isinstance(error, MemoryError):
        return LimitReached("there is not enough memory for this; close other programs and try again")
    if isinstance(error, OSError) and error.strerror:
        return _of_the_system(error)
    return OurFault(
        f"a bug: {type(error).__name__} in {_where(error)}; EVERREF_DEBUG=1 shows more; please report it"
    )


def _of_the_system(error: OSError) -> EverrefError:
    import errno

    about = f"{error.filename}: " if isinstance(error.filename, str) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LimitReached(f"{about}the disk is full; make room and try again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused(f"{about}{error.strerror}; run it as a user who may write there, or choose --data")
    return OurFault(f"{about}{error.strerror} in {_where(error)}; EVERREF_DEBUG=1 shows more")


def _where(error: BaseException) -> str:
    """The place in our own code that was nearest to the failure."""
    place = "Python itself"
    step = error.__traceback__
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        if "/mirror/" in path:
            place = f"mirror/{path.rpartition('/mirror/')[2]}:{step.tb_lineno}"
        step = step.tb_next
    return place


def _tell(error: EverrefError, retry: bool, as_json: bool, redact: Redactor) -> None:
    message = redact(str(error))
    if as_json:
        from mirror.cli.problem import error as shape
        from mirror.cli.terminal import to_json

        _say(to_json(shape(error.kind, error.origin, message, retry)))
    else:
        from mirror.cli.render import failure, plain
        from mirror.cli.terminal import paint

        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        _say(failure(message, paint if environment.has_colour(os.environ, is_terminal) else plain))


def _say(text: str) -> None:
    """One more line on standard error, if anybody is listening."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:
            pass
