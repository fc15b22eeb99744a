"""The log's lines: each with time, level, program, and the current repo and job, as text or as JSON."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mirror.core.config import LogForm

Redact = Callable[[str], str]  # takes out every secret that is known

_OWN_HANDLERS: Final = ("", "arq")  # loggers whose handlers ours takes the place of; arq's command makes one
_WRITTEN: Final = {"\t": "\t", "\n": "\\n", "\r": "\\r"}  # as they are better known than by their codes

log = logging.getLogger("mirror")


@dataclass(slots=True)
class Work:
    """The current work."""

    repo: str  # the id of the repo
    job: str | None  # the id of the job; None: it has none yet


_work: Final[ContextVar[Work | None]] = ContextVar("work", default=None)


@contextmanager
def at_work(repo: object, job: object | None) -> Iterator[Work]:
    """Add this repo and job to every log line from here, and from tasks and threads started within."""
    work = Work(str(repo), None if job is None else str(job))
    before = _work.set(work)
    try:
        yield work
    finally:
        _work.reset(before)


class Lines(logging.Formatter):
    """Writes a record of the log: as a line of text with its traceback below, or as one line of JSON."""

    def __init__(self, program: str, form: LogForm, redact: Redact) -> None:
        super().__init__()
        self._program = program
        self._form = form
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """One record. Secrets are taken out before its words are put into JSON, which escapes them."""
        work = _work.get()
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": time.removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "program": self._program,
            "logger": record.name,
            "message": self._redact(record.getMessage()),
            "repo": work.repo if work else None,
            "job": work.job if work else None,
            "exception": self._redact(self._traceback(record)) or None,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        return _json(told) if self._form == "json" else _text(told)

    def _traceback(self, record: logging.LogRecord) -> str:
        found = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        return "\n".join(found + ([record.stack_info] if record.stack_info else []))


def _json(told: dict[str, str]) -> str:
    """A line for machines, in ASCII: some of them end a line at U+0085 or U+2028, too."""
    return json.dumps(told).replace("\x7f", "\\u007f")


def _text(told: dict[str, str]) -> str:
    """A line for people; what a stranger's words hold makes no other line, nor moves the cursor.

    Below it and indented are the lines of an exception, whose words may be a stranger's as well.
    """
    line = f"{told['time']} {told['level'].upper()} {told['program']}: {told['message']}"
    for name in ("repo", "job"):
        if name in told:
            line += f" {name}={told[name]}"
    below = told["exception"].split("\n") if "exception" in told else []
    return "\n".join([_plain(line), *("    " + _plain(one) for one in below)])


def _plain(text: str) -> str:
    """Everything that cannot be printed as its code: controls, and what breaks or turns round a line."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _WRITTEN.get(one, _code(one)) for one in text)


def _code(one: str) -> str:
    return one.encode("unicode_escape").decode()


def begin(program: str, form: LogForm = "text", redact: Redact = str) -> None:
    """Write everything that this process logs in this form to standard error. Safe to run twice.

    What our libraries log goes the same way, warnings of Python and bugs that nobody catches too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(program, form, redact))
    for name in _OWN_HANDLERS:
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            if name or isinstance(old.formatter, Lines):
                logger.removeHandler(old)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("mirror").setLevel(logging.INFO)
    logging.getLogger("arq").setLevel(logging.WARNING)  # it tells of each job, which we do where it matters
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # whoever needs a connection says what is wrong
    logging.captureWarnings(True)
    threading.excepthook = _bug_in_a_thread
    sys.unraisablehook = _bug_in_passing


def _bug_in_a_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        log.critical("a bug ended a thread", exc_info=args.exc_value)


def _bug_in_passing(args: "sys.UnraisableHookArgs") -> None:
    log.error("%s %r", args.err_msg or "a bug in", args.object, exc_info=args.exc_value)
