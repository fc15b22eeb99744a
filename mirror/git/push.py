"""Pushing refs and their objects to a remote, and reporting the result of each ref.

The last step of a restore to a remote, using stock `git push`. The repository that
git pushes from is made for this and holds exactly the refs to write,
so that no ref is ever named in argv.
"""

import asyncio
import re
import secrets
import shlex
import shutil
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mirror.core import login
from mirror.core.errors import (
    BadCredentials,
    Blocked,
    EverrefError,
    LimitReached,
    NetworkError,
    Origin,
    Refused,
    RemoteGone,
    met_by,
)
from mirror.core.model import RefName, Remote, Target
from mirror.core.progress import Progress
from mirror.core.refs import check_name
from mirror.git import address, ssh
from mirror.git.disk import finish
from mirror.git.run import DAY, Git, GitFailed, explain, redact
from mirror.git.view import View, lay_out, write_refs

PUSHING: Final = 2 * 3600.0  # seconds for a small push: git packs, and the target unpacks
LEAST_SPEED: Final = 50_000  # bytes a second: what was sent extends the time at this rate
_REMARKS: Final = 20  # lines of the target's output that are passed on
_REMARK: Final = 300  # characters of each


class TooLarge(Refused):
    """The remote takes no push of this size."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of pushing one ref."""

    ok: bool | None  # None: the connection broke before the target answered; list it again
    why: str = ""  # the target's reason, one line
    doubtful: bool = False  # what was sent may have been broken
    remarks: tuple[str, ...] = field(
        default=(), compare=False
    )  # what the target said about a push of which it refused this ref
    ours: bool = field(default=False, compare=False)  # git refused it, as the target had changed


@dataclass(frozen=True, slots=True)
class Destination:
    """A remote to push to, and what it listed before."""

    remote: Remote
    pinned: Sequence[str]  # the addresses that were checked for its host; git dials no other
    listed: Mapping[RefName, Target] | None = None  # None: it was not, and nothing is overwritten
    option: str = ""  # push option; "": none, as most hosts refuse a push that has one


@met_by(Origin.TARGET)
async def push(
    git: Git,
    view: View,
    to: Destination,
    refs: Mapping[RefName, Target],
    progress: Progress,
    removed: Collection[RefName] = (),
) -> dict[RefName, Answer]:
    """Point the remote's refs at these objects of the view; returns an answer for each ref.

    Each ref is written if and only if the remote still has it as it was listed (not
    listed: if it does not exist there). Without a listing git overwrites nothing: the remote's ref
    must be missing, equal or an ancestor. Of `removed`, those are deleted that were listed and
    still are as listed; nothing else ever is. The push has PUSHING seconds, and more
    for what was sent; git itself gives up a push that is slower than its low-speed limit.

    Raises BadCredentials, RemoteGone, Blocked, Refused, NetworkError, LimitReached
    when nothing can have been written.
    """
    remote, removed = to.remote, [name for name in removed if name in (to.listed or {}) and name not in refs]
    if not refs and not removed:
        return {}
    asked = [*refs, *removed]
    async with _outbox(view, refs, to.listed or {}, removed) as box:
        listening = _Listening(progress)
        config = _config(to)
        said = b""
        try:
            with _way(to) as env:
                async with (
                    listening.in_time(),
                    git.process(
                        *_arguments(git, to),
                        git_dir=str(box),
                        stdin=False,
                        timeout=DAY,
                        env_config=config,
                        env=env,
                        on_stderr=listening.hear,
                    ) as child,
                ):
                    said = b"".join([chunk async for chunk in child.stdout])
                    await child.wait(said)
        except GitFailed as failed:
            return _answers(asked, said, listening, failed, remote)
    return _answers(asked, said, listening, None, remote)


@asynccontextmanager
async def _outbox(
    view: View,
    refs: Mapping[RefName, Target],
    listed: Mapping[RefName, Target],
    removed: Collection[RefName],
) -> AsyncIterator[Path]:
    """A repository with the refs to write in refs/wanted/ and what was listed there in refs/listed/.

    What to push is in its configuration, because there may be many refs to remove, and none may be in argv.
    """
    path = view.path.with_name(f"push-{secrets.token_hex(8)}")
    touched = {*refs, *removed}
    held = {name: target for name, target in listed.items() if name in touched}
    both = _under(b"refs/wanted", refs) | _under(b"refs/listed", held)

    def make() -> None:
        path.mkdir(mode=0o700)
        lay_out(path, view.object_format, alternate=view.path / "objects")
        with (path / "config").open("ab") as config:
            config.write(_pushed(bool(refs), removed))

    try:
        await finish(make)
        await write_refs(path, both, durable=False)
        yield path
    finally:
        await finish(lambda: shutil.rmtree(path, ignore_errors=True))


def _pushed(some: bool, removed: Collection[RefName]) -> bytes:
    """What to push, as values of remote.<name>.push: git-config(1)."""
    specs = [b"refs/wanted/*:refs/*"] if some else []
    for name in removed:
        check_name(name)
        specs.append(b":" + name.replace(b'"', b'\\"'))
    return b'[remote "target"]\n' + b"".join(b'\tpush = "%b"\n' % spec for spec in specs)


def _under(folder: bytes, refs: Mapping[RefName, Target]) -> dict[RefName, Target]:
    return {
        RefName(folder + name.removeprefix(b"refs")): target
        for name, target in refs.items()
        if name.startswith(b"refs/")
    }


@contextmanager
def _way(to: Destination) -> Iterator[dict[str, str]]:
    """The environment in which git finds its way to the remote, and no other."""
    remote = to.remote
    env = {"GIT_ALLOW_PROTOCOL": _protocol(remote)}
    if not address.is_ssh(remote.url):
        yield env
        return
    _, port = ssh.place(remote.url)
    with ssh.at_hand(remote, ssh.nearest(to.pinned)) as words:
        yield env | {"GIT_SSH_COMMAND": ssh.as_command([*words, "-p", str(port)]), "GIT_SSH_VARIANT": "ssh"}


def _arguments(git: Git, to: Destination) -> list[str]:
    """The words after git. The remote is named by configuration; its address is nobody's business in `ps`."""
    words = [
        "push",
        "--porcelain",
        "--progress",
        "--no-follow-tags",
        "--recurse-submodules=no",
        "--no-signed",
    ]
    words += [] if to.listed is None else ["--force-with-lease"]
    if address.is_path(to.remote.url):
        # Its own hooks and rules hold, but it shall leave no process behind that tidies up.
        words.append(f"--receive-pack={shlex.quote(git.program)} -c receive.autogc=false receive-pack")
    return [*words, "target"]


def _config(to: Destination) -> dict[str, str]:
    remote = to.remote
    url = ssh.as_git_has_it(remote.url) if address.is_ssh(remote.url) else remote.url
    config = {"remote.target.url": url, f"protocol.{_protocol(remote)}.allow": "always"}
    config["core.fsync"] = "none"  # nothing here outlives the push
    if not address.is_ssh(remote.url):
        config |= address.pinned(remote.url, list(to.pinned))
    if to.option:
        config["push.pushOption"] = to.option
    if to.listed is not None:  # where --force-with-lease looks up what it expects: git-push(1)
        config["remote.target.fetch"] = "+refs/*:refs/listed/*"
    if not address.is_ssh(remote.url) and (authorization := login.authorization(remote)):
        parts = urlsplit(remote.url)
        config[f"http.{parts.scheme}://{parts.netloc}/.extraHeader"] = f"Authorization: {authorization}"
    return config


def _protocol(remote: Remote) -> str:
    return "file" if address.is_path(remote.url) else urlsplit(remote.url).scheme


def _answers(
    refs: Collection[RefName], said: bytes, heard: "_Listening", failed: GitFailed | None, remote: Remote
) -> dict[RefName, Answer]:
    """Every ref's answer from git's output, or the error that kept git from writing any."""
    told = dict(_told(said, heard))
    if failed and not told:
        error = _meaning(failed, remote)
        if error is not None:
            raise error
    broken = f"the connection broke: {failed.line}" if failed and failed.line else "the target did not answer"
    return {name: told.get(name, Answer(None, broken, True)) for name in refs}


_LINE: Final = re.compile(
    rb"(.)\t[^\t:]*:([^\t]+)\t(.*)"
)  # flag, from:to, what became of it: git-push(1), OUTPUT
_REASON: Final = re.compile(rb"\[[^]]*\] \((.*)\)")
_OURS: Final = {  # git's own words for refs that it did not even send
    "stale info": "it has changed at the target meanwhile",
    "fetch first": "it would be overwritten",
    "needs force": "it would be overwritten",
    "non-fast-forward": "it would be overwritten",
}
# GitHub's, of "an OAuth App", "a Personal Access Token" or "a GitHub App"; the file and the scope follow.
_WORKFLOWS: Final = re.compile("refusing to allow an? .{1,60} to create or update workflow")
_NO_WORKFLOWS: Final = (
    "GitHub takes workflow files (.github/workflows) only from a token with the scope workflow: connect the"
    " account again and allow it, or use a token that has it (fine-grained: Workflows, write);"
    " then try again"
)
_BROKEN: Final = re.compile("unpack|missing necessary objects")  # git receive-pack's words for a bad pack


def _told(said: bytes, heard: "_Listening") -> Iterator[tuple[RefName, Answer]]:
    """What git's porcelain output says about each ref."""
    for line in said.split(b"\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        flag, name, outcome = found.groups()
        if flag != b"!":
            yield RefName(name), Answer(True)
        elif outcome.startswith(b"[remote failure]"):
            yield RefName(name), Answer(None, "the connection broke before the target answered", True)
        else:
            reason = _REASON.fullmatch(outcome)
            words = redact(reason[1] if reason else outcome, [])
            if _WORKFLOWS.search(words):
                yield RefName(name), Answer(False, _NO_WORKFLOWS, remarks=(words, *heard.remarks))
                continue
            why = heard.about(name, _OURS.get(words, words))
            theirs = () if words in _OURS else heard.remarks
            yield RefName(name), Answer(False, why, bool(_BROKEN.search(words)), theirs, words in _OURS)


_BROKE: Final = re.compile(
    "RPC failed|unexpected disconnect|hung up unexpectedly|early EOF|helper died|Broken pipe|was given up"
)
_STATUS: Final = re.compile(r"returned error: (\d{3})|HTTP (\d{3})")
_NO_LOGIN: Final = re.compile("Authentication failed|could not read Username|could not read Password|askpass")
_GONE: Final = re.compile("does not appear to be a git repository|repository .* not found|does not exist")
_NOT_OURS: Final = re.compile("dubious ownership")
_NOT_TAKEN: Final = re.compile("[Pp]ermission denied|Read-only file system")
_OTHER_FORMAT: Final = re.compile("does not support this repository's hash algorithm|mismatched algorithms")
_NO_GIT: Final = re.compile("bad line length|protocol error|invalid server response")
_NO_WAY: Final = re.compile(
    "Could not resolve|Failed to connect|Couldn't connect|Connection (refused|reset)|timed out|"
    "Operation too slow|Empty reply|SSL|certificate|Recv failure|Send failure|unable to access"
)


def _meaning(failed: GitFailed, remote: Remote) -> EverrefError | None:
    """What it means that git reported no ref. None: unknown, because the connection broke."""
    where = remote.url if address.is_path(remote.url) else urlsplit(remote.url).hostname or ""
    words = failed.stderr
    if address.is_ssh(remote.url) and not _BROKE.search(words):
        return ssh.meaning(failed, remote.url)
    found = _STATUS.search(words)
    status = int(found[1] or found[2]) if found else 0
    if status == 401 or _NO_LOGIN.search(words):
        return BadCredentials(f"{where} requires credentials that may write; use a token with write access")
    if status == 403:
        return BadCredentials(f"{where} does not allow these credentials to write; check their permissions")
    if status == 404 or _GONE.search(words):
        return RemoteGone(f"{where}: the repository does not exist, or these credentials may not see it")
    if status == 429:
        return LimitReached(f"{where} is receiving too many requests; try again later")
    if status == 451:
        return Blocked(f"{where} reports that access to this repository is blocked")
    if status == 413:
        return TooLarge(
            f"{where} does not accept a push this large; restore fewer refs at a time with --refs"
        )
    if 300 <= status < 400:
        return Refused(f"{where} reports that the repository has moved; use its new address")
    if _OTHER_FORMAT.search(words):
        return Refused(f"{where} uses another object format (sha1 or sha256) than this repository")
    if _NOT_OURS.search(words):  # its hooks would run with our rights
        return Refused(f"{where} belongs to another user; run this as that user, or push over https")
    if _NOT_TAKEN.search(words):
        return Refused(f"this user may not write to {where}; check its permissions")
    if _BROKE.search(words) and not 400 <= status < 500:
        return None
    if status or _NO_WAY.search(words):
        return NetworkError(f"{where} could not be reached or stopped answering: {failed.line}")
    if _NO_GIT.search(words):
        return Refused(f"{where} does not answer like a git host; check the address")
    return explain(failed)


class _Listening:
    """Git's standard error: progress, and the target's remarks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rest = b""
        self._sent: int | None = None  # objects; None: not begun
        self._remarks: list[bytes] = []
        self._limit: asyncio.Timeout | None = None
        self._began = 0.0

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """The block has PUSHING seconds, and more for what was sent. Raises GitFailed."""
        try:
            async with asyncio.timeout(PUSHING) as self._limit:
                self._began = asyncio.get_running_loop().time()
                yield
        except TimeoutError:
            if not self._limit or not self._limit.expired():
                raise
            raise GitFailed(
                "push", 128, "fatal: it was given up because the target accepted too little for too long"
            ) from None

    def hear(self, chunk: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + chunk)
        for line in lines:
            if writing := _WRITING.match(line):
                self._advance(int(writing[1]), int(writing[2]))
                self._extend(float(writing[3] or 0) * _UNITS.get(writing[4], 1))
            elif line.startswith(b"remote: ") and line[8:].strip() and len(self._remarks) < _REMARKS:
                self._remarks.append(line[8:].strip())
                self._progress.note(f"the target says: {_shown(self._remarks[-1])}")

    def _advance(self, done: int, total: int) -> None:
        if self._sent is None:
            self._sent = 0
            self._progress.phase("sending", total, "objects")
        self._progress.advance(done - self._sent)
        self._sent = done

    def _extend(self, sent: float) -> None:
        """Extend the time for what was sent so far."""
        if self._limit and not self._limit.expired():
            self._limit.reschedule(self._began + PUSHING + sent / LEAST_SPEED)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the target said, line by line."""
        return tuple(_shown(_COLOUR.sub(b"", one)) for one in self._remarks)

    def about(self, name: bytes, reason: str) -> str:
        """The reason, and the first remark that names this ref."""
        remark = next((remark for remark in self._remarks if name in remark), None)
        return f"{reason}: {_shown(remark)}" if remark else reason


def _shown(remark: bytes) -> str:
    """A line of the target's output, safe to show."""
    text = redact(remark, [])
    return text if len(text) <= _REMARK else f"{text[:_REMARK]}…"


_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]*m")
_WRITING: Final = re.compile(rb"Writing objects: +\d+% \((\d+)/(\d+)\)(?:, ([\d.]{1,20}) (bytes|[KMG]iB))?")
_UNITS: Final = {b"KiB": 1 << 10, b"MiB": 1 << 20, b"GiB": 1 << 30}
