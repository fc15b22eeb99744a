"""`python -m mirror.git.reader GIT`: a process that reads untrusted content, one question after the other.

The process that starts it (mirror/git/reader/processes.py) gives it little memory, little time and nothing of
value: no secret is in its environment, and it writes nothing. Questions come on
standard input, answers go to standard output, each behind its length in four
bytes. Any question may kill it; another process takes its place.
"""

import gc
import os
import resource
import sys
from functools import partial
from typing import Any, Final

import msgspec
import pygit2

from mirror.core.errors import Corrupt, EverrefError, LimitReached, TooLarge
from mirror.core.rules import render
from mirror.git.reader import answers, questions
from mirror.git.reader.answers import OpenedRepository
from mirror.git.reader.processes import CPU_SECONDS
from mirror.git.reader.questions import Asked, Question, RepositoryView, Trouble

ANSWER_BYTES: Final = 16 << 20  # of one answer
RESTING_BYTES: Final = 96 << 20  # of memory that one may hold between two questions
CACHED_BYTES: Final = 8 << 20  # of objects that libgit2 keeps at hand
WINDOW_BYTES: Final = 8 << 20  # of a pack that libgit2 maps at once
MAPPED_BYTES: Final = 256 << 20  # of packs in all

_TOO_MUCH: Final = "reading this takes more memory than one page may use"


def main(git: str) -> None:
    """Answer questions until standard input ends."""
    out = os.dup(1)
    os.dup2(2, 1)  # so that no stray print spoils an answer
    pygit2.settings.cache_max_size(CACHED_BYTES)
    pygit2.settings.mwindow_size = WINDOW_BYTES
    pygit2.settings.mwindow_mapped_limit = MAPPED_BYTES
    decode = msgspec.msgpack.Decoder(Asked).decode
    encode = msgspec.msgpack.Encoder().encode
    gc.collect()
    gc.freeze()
    with open(0, "rb", closefd=False) as asked:
        while question := _framed(asked.read):
            try:
                good, said = _tell(git, decode(question))
                answer = encode(said)
                if len(answer) > ANSWER_BYTES:
                    good, answer = False, encode(Trouble("limit", "this is more than one page can show"))
                del said
            except MemoryError:
                good, answer = False, encode(Trouble("limit", _TOO_MUCH))
            tired = _resident() > RESTING_BYTES or _used() > CPU_SECONDS / 2
            head = bytes([good, tired])
            _write(out, (len(answer) + len(head)).to_bytes(4) + head)
            _write(out, answer)
            del answer, question


def _tell(git: str, question: Question[Any]) -> tuple[bool, Any]:
    """Whether there is an answer, and that, or why not."""
    allowed = int(_used() + question.seconds) + 2
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (allowed if hard < 0 else min(allowed, hard), hard))
    try:
        return True, _answer(git, question)
    except TooLarge as error:
        return False, Trouble("too-large", str(error), error.oid, error.size)
    except (LimitReached, Corrupt) as error:
        return False, Trouble(error.kind, _TOO_MUCH if "memory" in str(error).lower() else str(error))
    except EverrefError as error:
        return False, Trouble("ours", str(error))
    except RecursionError:
        return False, Trouble("limit", "this is nested too deeply to show here")
    except MemoryError:
        return False, Trouble("limit", _TOO_MUCH)
    except Exception as error:  # whatever a library makes of bytes that were written to make it stumble
        return False, Trouble("corrupt", f"this cannot be read here ({type(error).__name__})")


def _answer(git: str, question: Question[Any]) -> Any:
    match question:
        case questions.Source(text=text, path=path):
            return [str(line) for line in render.source(text, path)]
        case questions.Readme(text=text, path=path, files=files, pictures=pictures):
            link, picture = partial(_link, files), partial(_link, pictures)
            return str(render.readme(text, path, link=link, picture=picture))
        case questions.CommitsOf():
            return answers.commits_of(OpenedRepository(question.view, git), question)
        case questions.Log():
            return answers.log(OpenedRepository(question.view, git), question)
        case questions.CommitAndChanges():
            return answers.commit_and_changes(OpenedRepository(question.view, git), question)
        case questions.ChangesBetween():
            return answers.changes_between(OpenedRepository(question.view, git), question)
        case questions.FolderAt():
            return answers.folder_at(OpenedRepository(question.view, git), question)
        case questions.FileAt():
            return answers.file_at(OpenedRepository(question.view, git), question)
        case questions.ObjectAsItIs():
            return answers.object_as_it_is(OpenedRepository(question.view, git), question)
        case questions.Ancestry():
            return answers.ancestry(OpenedRepository(question.view, git), question)
        case questions.WhatLies():
            return answers.what_lies(OpenedRepository(question.view, git), question)
        case questions.WhatIsLost():
            return answers.what_is_lost(OpenedRepository(question.view, git), question)
        case _:
            raise LimitReached("the reader does not know this question; please report this")


def _link(place: RepositoryView, path: bytes) -> str:
    return place.before + render.quoted(path) + place.after


def _framed(read: Any) -> bytes:
    """What comes next, without its length; nothing at the end."""
    return bytes(read(int.from_bytes(read(4))))


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _used() -> float:
    """Seconds of CPU that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _resident() -> int:
    """Bytes of memory that this process holds: proc(5), statm."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1])
