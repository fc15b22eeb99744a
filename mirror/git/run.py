"""Running git: a clean environment, limits, and no process left behind.

The first step of everything in this folder that does not use pygit2. What
git may see and do is decided here once; its error messages come back as one
line without secrets.
"""

import asyncio
import ctypes
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from mirror.core.errors import Corrupt, DiskFull, EverrefError, LimitReached, Origin, OurFault

CHUNK: Final = 1 << 20  # bytes read at once, and what a pipe holds
DAY: Final = 24 * 3600.0  # seconds; nothing that git does for us takes longer
SLOTS: Final = max(4, 2 * (os.cpu_count() or 1))  # runs of a worker at once, which share its memory
LEAST_MEMORY: Final = 1 << 30  # bytes that one git may have on the smallest machine
CPU_SECONDS: Final = 4 * 3600  # of one git; the largest repositories that are known take a quarter of an hour
STDERR_KEPT: Final = 1 << 16  # bytes
BULK: Final = 1 << 16  # bytes; what is shorter is not worth a pause
PAUSE: Final = 0.001  # seconds, in which git writes some 250 kB

# What a child inherits from us; all else is left out, GIT_TRACE* and proxies above all.
INHERITED: Final = ("PATH", "TMPDIR", "GIT_EXEC_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")

ENVIRONMENT: Final[Mapping[str, str]] = {
    "LANG": "C",
    "GIT_ADVICE": "0",
    "GIT_ALLOW_PROTOCOL": "https",
    "GIT_ASKPASS": "/bin/false",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "SSH_ASKPASS": "/bin/false",
}

CONFIG: Final[Mapping[str, str]] = {
    "core.alternateRefsCommand": "exit 0 #",  # the ids of our pools are nobody's business
    "core.bigFileThreshold": "50m",
    "core.fsmonitor": "false",
    "core.fsync": "all",  # the default makes no fsync at all for a small fetch
    "core.hooksPath": "/dev/null",
    "core.useReplaceRefs": "false",
    "credential.helper": "",
    "fetch.recurseSubmodules": "no",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "http.extraHeader": "Accept-Encoding: identity",  # what is unpacked unasked has no bound but memory
    "http.followRedirects": "false",  # a redirect would carry our Authorization header elsewhere
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "http.sslVerify": "true",
    "init.defaultBranch": "main",
    "init.templateDir": "",
    "maintenance.auto": "false",
    "pack.threads": str(
        min(4, os.cpu_count() or 1)
    ),  # each has a window and a cache of 100 MB, of LEAST_MEMORY
    "pack.windowMemory": "100m",
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    "safe.bareRepository": "explicit",
    "submodule.recurse": "false",
    "transfer.bundleURI": "false",
    "transfer.credentialsInUrl": "die",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one git process may take."""

    memory: int | None = None  # bytes of private memory; None: a slot's share of the machine's
    file: int | None = None  # bytes of one file that it writes; None: unlimited
    address: int | None = None  # bytes of addresses, mapped files among them; None: unlimited
    open_files: int = 4096
    cpu: int = CPU_SECONDS


class GitFailed(EverrefError):
    """Git ended with an error; `explain` says what it means where that is known."""

    def __init__(self, verb: str, returncode: int, stderr: str, stdout: bytes = b"") -> None:
        self.verb = verb
        self.returncode = returncode  # negative: the signal that ended it
        self.stderr = stderr  # its last words, without secrets and control characters
        self.stdout = stdout  # what `run` had read
        self.line = _last_words(stderr)
        if returncode < 0:
            how = f"was ended by signal {-returncode}"
        else:
            how = f"ended with code {returncode}"
        super().__init__(f"git {verb} {how}" + (f": {self.line}" if self.line else ""))


class Git:
    """One git program and the empty home directory that it runs in."""

    def __init__(
        self,
        program: str,
        home: str,
        *,
        limits: Limits | None = None,
        inherited: Mapping[str, str] | None = None,  # None: our own environment
    ) -> None:
        ours = os.environ if inherited is None else inherited
        limits = limits or Limits()
        self.program = program
        self._environment = {name: ours[name] for name in INHERITED if name in ours}
        self._environment |= {**ENVIRONMENT, "HOME": home}
        if "SSL_CERT_FILE" in ours:  # a git with GnuTLS knows the authority by this name only
            self._environment["GIT_SSL_CAINFO"] = ours["SSL_CERT_FILE"]
        self._setpriv = _setpriv()
        self._limits = _limits(limits)

    async def run(
        self,
        *args: str | bytes,
        git_dir: str | None = None,
        stdin: bytes | AsyncIterator[bytes] | None = None,
        timeout: float = DAY,  # noqa: ASYNC109 -- the limit belongs to the process
        env_config: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Run git to its end; its standard output.

        Raises GitFailed when it fails, LimitReached after `timeout` seconds.
        """
        async with self.process(
            *args, git_dir=git_dir, stdin=stdin is not None, timeout=timeout, env_config=env_config, env=env
        ) as child:
            async with nullcontext() if stdin is None else child.fed(stdin):
                out = b"".join([chunk async for chunk in child.stdout])
            await child.wait(stdout=out)
        return out

    @asynccontextmanager
    async def process(
        self,
        *args: str | bytes,
        git_dir: str | None = None,
        stdin: bool = True,
        timeout: float = DAY,  # noqa: ASYNC109 -- the limit belongs to the process
        env_config: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        program: str | None = None,
        longest_file: int | None = None,
        nice: int = 0,
    ) -> AsyncIterator["Process"]:
        """A running git, or another `program` in the same surroundings, to be written to and read from.

        Leaving the block waits for its end and raises GitFailed when it failed;
        leaving it by an exception, or after `timeout` seconds (LimitReached),
        kills it with all its children. `env_config` is configuration that may
        hold secrets: it travels in the environment, never in argv. No file that it writes becomes longer
        than `longest_file` bytes, where that is said; `nice` lets so much else go first.
        """
        limits = self._limits
        if longest_file is not None:
            longest = min(longest_file, *limits.get(resource.RLIMIT_FSIZE, (longest_file,)))
            limits = limits | {resource.RLIMIT_FSIZE: (longest, longest)}
        child = self._start(args, git_dir, stdin, env_config or {}, env or {}, on_stderr, program, limits)
        if nice:
            with suppress(OSError):  # what it starts inherits it
                os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
        try:
            async with asyncio.timeout(timeout) as limit:
                yield child
                await child.wait()
        except TimeoutError:
            if not limit.expired():
                raise
            raise LimitReached(
                f"git {child.verb} took longer than {timeout:g} s and was stopped; try again later"
            ) from None
        finally:
            await child.end()

    def start(
        self, *args: str | bytes, program: str, env_config: Mapping[str, str] | None = None
    ) -> "Process":
        """Another program in git's surroundings, for as long as its caller wants: until `Process.end`."""
        return self._start(args, None, True, env_config or {}, {}, None, program, self._limits)

    def _start(
        self,
        args: tuple[str | bytes, ...],
        git_dir: str | None,
        stdin: bool,
        env_config: Mapping[str, str],
        env: Mapping[str, str],
        on_stderr: Callable[[bytes], None] | None,
        other: str | None,
        limits: Mapping[int, tuple[int, int]],
    ) -> "Process":
        program = shutil.which(other or self.program, path=self._environment.get("PATH", os.defpath))
        if program is None and other:
            raise OurFault(
                f"ssh addresses need the program {other}, which is missing here; install OpenSSH's client",
                origin=Origin.OURS,
            )
        if program is None:
            raise OurFault(
                f"{self.program} is missing here; install git 2.39 or newer, or set EVERREF_GIT to its path",
                origin=Origin.OURS,
            )
        argv: list[str | bytes] = [*self._setpriv, program]
        if git_dir is not None:
            argv.append(f"--git-dir={git_dir}")
        try:
            popen = subprocess.Popen(
                [*argv, *args],
                bufsize=0,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment | dict(env) | _config({**CONFIG, **env_config}),
                cwd="/",
                start_new_session=True,
                # Python in a forked child blocks us for 3 ms; setpriv for 0.1 ms, and takes 0.9 ms there.
                preexec_fn=None if self._setpriv else _die_with_parent,
            )
        except OSError as error:
            raise LimitReached(
                f"git could not be started: {error.strerror}; try again later", origin=Origin.OURS
            ) from None
        with suppress(ProcessLookupError):  # at once: what it starts inherits them
            for which, limit in limits.items():
                resource.prlimit(popen.pid, which, limit)
        verb = other or os.fsdecode(next((arg for arg in args if not os.fsencode(arg).startswith(b"-")), b""))
        secrets = [value for key, value in env_config.items() if key.lower().endswith("extraheader")]
        return Process(popen, verb, secrets, on_stderr)


class _Pipe:
    """Our end of a pipe, never blocking."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = file  # None: git has the null device there
        self._fd = file.fileno() if file else -1
        self._waiting: tuple[asyncio.Future[None], Callable[[int], object]] | None = None
        if file:
            os.set_blocking(self._fd, False)
            with suppress(
                PermissionError
            ):  # one user's pipes have a limit together; a small one is only slower
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, CHUNK)

    @property
    def closed(self) -> bool:
        return self._file is None or self._file.closed

    def fileno(self) -> int:
        """Its descriptor, as long as it is open."""
        return self._fd

    def close(self) -> None:
        """Close it and wake up whoever waits for it."""
        self._wake()
        if self._file:
            self._file.close()

    async def _ready(
        self, add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], object]
    ) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting = future, remove
        add(self._fd, self._wake)
        try:
            await future
        finally:
            self._wake()

    def _wake(self) -> None:
        if self._waiting:  # the number may be another file's once this is closed: taken out once, never later
            (future, remove), self._waiting = self._waiting, None
            remove(self._fd)
            if not future.done():
                future.set_result(None)


async def _pause() -> None:
    """Let a pipe fill: git writes a pack to a client as 5 bytes and 8 KiB, each by itself."""
    await asyncio.sleep(PAUSE)


class Stdout(_Pipe):
    """What git says, in chunks of up to 1 MiB."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self) -> bytes:
        """The next bytes, as many as there are; none at the end."""
        while not self.closed:
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
        return b""

    async def in_bulk(self, pause: Callable[[], Awaitable[None]] = _pause) -> AsyncGenerator[bytes, None]:
        """The same in few large chunks, for what is long and is passed on.

        Once BULK bytes have come, each chunk that does not fill half of the pipe is followed by a pause, as
        to be woken for every write of git costs more than to pass on what it wrote. Git never waits for
        that: where the pipe is a small one, or git is quick, what is read does fill half of it.
        """
        room = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ) if not self.closed else 0
        size = 0
        while chunk := await self.read():
            yield chunk
            size += len(chunk)
            if size >= BULK and 2 * len(chunk) < room:
                await pause()


class Stdin(_Pipe):
    """What git is told."""

    def __init__(self, file: IO[bytes] | None, process: "Process") -> None:
        super().__init__(file)
        self._process = process

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write it all. GitFailed: git has failed meanwhile; what a git that is content leaves is dropped."""
        view = memoryview(data)
        while len(view) and not self.closed:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except BrokenPipeError:
                self.close()
                await asyncio.wait([self._process.exited], timeout=1)
        if len(view) and self._process.exited.done() and self._process.exited.result() != 0:
            raise self._process.failure()


class Process:
    """A git that runs."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        verb: str,
        secrets: list[str],
        on_stderr: Callable[[bytes], None] | None,
    ) -> None:
        assert popen.stdout and popen.stderr
        self.verb = verb
        self._popen = popen
        self._secrets = secrets
        self._on_stderr = on_stderr
        self._stderr = bytearray()
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self.stdout = Stdout(popen.stdout)
        self.stdin = Stdin(popen.stdin, self)
        self._errors = popen.stderr.fileno()
        os.set_blocking(self._errors, False)
        self._loop.add_reader(self._errors, self._read_errors)
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        return self._popen.pid

    async def feed(self, data: bytes | AsyncIterator[bytes]) -> None:
        """Write it all to standard input, then close that.

        A failure of `data` kills git and is raised. GitFailed: it has failed before all was written.
        """
        try:
            if isinstance(data, bytes):
                await self.stdin.write(data)
            else:
                async for chunk in data:
                    await self.stdin.write(chunk)
        except BaseException:
            self.kill()
            raise
        self.stdin.close()

    @asynccontextmanager
    async def fed(self, data: bytes | AsyncIterator[bytes]) -> AsyncIterator[None]:
        """`feed` while the block reads what comes back; leaving the block waits for it, or breaks it off."""
        feeding = asyncio.create_task(self.feed(data))
        try:
            yield
            await feeding
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])

    async def wait(self, stdout: bytes = b"") -> None:
        """Close its input, leave the rest of its output, and wait for its end.

        Raises GitFailed (which carries `stdout`) when it failed.
        """
        self.stdin.close()
        async for _ in self.stdout:
            pass
        await asyncio.wait([self.exited])
        if self.exited.result() != 0:
            raise self.failure(stdout)

    def failure(self, stdout: bytes = b"") -> GitFailed:
        """Why it failed; only after its end."""
        return GitFailed(self.verb, self.exited.result(), redact(bytes(self._stderr), self._secrets), stdout)

    def kill(self) -> None:
        """End it with all its children, at once."""
        if not self.exited.done():
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Nothing is left of it afterwards: no process, no pipe."""
        self.kill()
        self.stdin.close()
        self.stdout.close()
        await asyncio.wait([self.exited])

    def _reap(self) -> None:
        # Its process group is emptied before its id is given back, so nobody else's group can be hit.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        returncode = self._popen.wait()
        self._read_errors()
        assert self._popen.stderr
        if not self._popen.stderr.closed:
            self._loop.remove_reader(self._errors)
            self._popen.stderr.close()
        if not self.exited.done():
            self.exited.set_result(returncode)

    def _read_errors(self) -> None:
        assert self._popen.stderr
        while not self._popen.stderr.closed:
            try:
                data = os.read(self._errors, STDERR_KEPT)
            except BlockingIOError:
                return
            if not data:
                self._loop.remove_reader(self._errors)
                self._popen.stderr.close()
                return
            self._stderr += data
            del self._stderr[:-STDERR_KEPT]
            if self._on_stderr:
                self._on_stderr(data)


def explain(failed: GitFailed) -> EverrefError:
    """What a failure of git on our own disk means, if its message tells; else the failure itself."""
    for pattern, error in _MEANINGS:
        if pattern.search(failed.stderr):
            return error(failed.line)
    if failed.returncode == -signal.SIGXFSZ:
        return LimitReached(
            "a file would have grown larger than allowed; nothing was changed", origin=Origin.OURS
        )
    if failed.returncode == -signal.SIGXCPU:
        return LimitReached(
            f"git {failed.verb} took more than {CPU_SECONDS / 3600:g} hours of the processor and was stopped",
            origin=Origin.OURS,
        )
    return failed


_MEANINGS: Final[tuple[tuple[re.Pattern[str], Callable[[str], EverrefError]], ...]] = (
    (
        re.compile("pack exceeds maximum allowed size"),
        lambda line: LimitReached(f"{line}; allow more with EVERREF_FETCH_BYTES", origin=Origin.OURS),
    ),
    (
        re.compile("No space left on device|Disk quota exceeded|Out of diskspace"),
        lambda line: DiskFull(
            "the disk is full; nothing was changed; free some space and try again", origin=Origin.DISK
        ),
    ),
    (
        re.compile("File too large|File size limit exceeded"),
        lambda line: LimitReached(
            "a file would have grown larger than allowed; nothing was changed", origin=Origin.OURS
        ),
    ),
    (
        re.compile("[Oo]ut of memory|Cannot allocate memory|malloc failed|unable to create thread"),
        lambda line: LimitReached(
            f"git ran out of memory ({line}); give it more memory, or run fewer jobs at once",
            origin=Origin.OURS,
        ),
    ),
    (
        re.compile("Too many open files"),
        lambda line: LimitReached(
            f"git could not open more files ({line}); allow more, or run fewer jobs at once",
            origin=Origin.OURS,
        ),
    ),
    (
        re.compile("Read-only file system|Permission denied|Input/output error"),
        lambda line: OurFault(
            f"the data directory cannot be used: {line}; repair it and run this again", origin=Origin.DISK
        ),
    ),
    (
        re.compile(
            "early EOF|unexpected end|inflate|did not receive expected object|unresolved deltas?|bad pack|"
            "pack (has|is|signature|too)|corrupt|SHA1 COLLISION|missing (blob|tree|commit|tag|object)|"
            "unable to read [0-9a-f]{40}|not a valid object|hash mismatch|delta base|bad object|broken link|"
            "cannot apply delta|unable to parse|unknown object type|premature end|signature mismatch|"
            "version [0-9]+ unsupported|bad object type|out of bound|overflow for delta|inconsistency|"
            "invalid (blob|tree|commit|tag)|fsck error|all child objects|failed to apply delta|"
            "junk at the end|confusion beyond insanity"
        ),
        lambda line: Corrupt(f"git found broken objects: {line}"),
    ),
)


def redact(text: bytes, secrets: list[str]) -> str:
    """Another program's output, safe to show: no secrets, no user names in URLs, no control characters."""
    shown = text.decode(errors="replace")
    for secret in secrets:
        for word in (secret, secret.rpartition(" ")[2]):
            shown = shown.replace(word, "***") if word else shown
    shown = re.sub(r"(\w+://)[^/\s@]*@", r"\1***@", shown)
    shown = re.sub(r"(?i)(authorization:)[^\r\n]*", r"\1 ***", shown)
    return re.sub(r"[^\S\r\n]|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]", " ", shown)


def _last_words(stderr: str) -> str:
    """The last line that says what went wrong, or else the last one."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", stderr)]
    lines = [line for line in lines if line and not line.startswith(("hint:", "warning:"))]
    telling = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    return telling[-1].removeprefix("fatal: ").removeprefix("error: ")[:300] if telling else ""


def _config(config: Mapping[str, str]) -> dict[str, str]:
    """Configuration as environment: https://git-scm.com/docs/git-config#ENVIRONMENT."""
    pairs = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        pairs |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return pairs


def memory_share(machine: int, slots: int = SLOTS) -> int:
    """Memory for one git when this many run at once: a share of three quarters, but at least LEAST_MEMORY."""
    return max(LEAST_MEMORY, machine * 3 // 4 // slots)


def machine_memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes that this machine has, or the container that we are in."""
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # there is no such file, or it says "max"
        return min(has, int(limit.read_text()))
    return has


def _limits(limits: Limits) -> dict[int, tuple[int, int]]:
    # Of what it may take as its own: a pack that is mapped is the disk's, and may be larger than memory.
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits.cpu,
        resource.RLIMIT_DATA: limits.memory or memory_share(machine_memory()),
        resource.RLIMIT_AS: limits.address,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file,
    }
    settled = {}
    for which, limit in wanted.items():
        if limit is not None:
            hard = resource.getrlimit(which)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            settled[which] = (limit, limit)
    soft, _ = settled[resource.RLIMIT_CPU]
    settled[resource.RLIMIT_CPU] = (max(1, soft - 1), soft)  # a signal that tells it apart comes first
    return settled


def _setpriv() -> tuple[str, ...]:
    """The words before git that make it die with us: util-linux has them, BusyBox has not."""
    path = shutil.which("setpriv")
    if path is None or os.path.basename(os.path.realpath(path)) != "setpriv":
        return ()
    return (path, "--pdeathsig", "KILL", "--")


_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
