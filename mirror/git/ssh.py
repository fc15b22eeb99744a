"""Reaching a host with OpenSSH's client: with one key, one pinned host, and no user's configuration.

Who calls: git/upstream, which speaks git's protocol over it, and git/push, whose git starts it. The
key and the host's keys are never in argv and never on a disk: the client reads them from our
memory through /proc.
https://man.openbsd.org/ssh_config, https://git-scm.com/docs/pack-protocol#_ssh_transport
"""

import asyncio
import os
import re
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from mirror.core.errors import (
    BadCredentials,
    EverrefError,
    LimitReached,
    NetworkError,
    OurFault,
    Refused,
    RemoteGone,
)
from mirror.core.formats.pktline import Mark, Packets
from mirror.core.model import Remote
from mirror.git.address import HOME, SSH_PORT, USER
from mirror.git.run import Git, GitFailed, Process

CONNECTING: Final = 20  # seconds
_SCANNING: Final = 30.0  # seconds for a host to tell its keys
_ALIAS: Final = "pinned"  # under which the host's keys stand, whatever its name and address are
_KINDS: Final = "ed25519,ecdsa,rsa"
_ANSWER: Final = 1 << 16  # bytes of what a scan may say

# https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/githubs-ssh-key-fingerprints
# https://docs.gitlab.com/user/gitlab_com/#ssh-known_hosts-entries
# https://support.atlassian.com/bitbucket-cloud/docs/configure-ssh-and-two-step-verification/
# https://docs.codeberg.org/security/ssh-fingerprint/
KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "github.com": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",),
    "gitlab.com": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAfuCHKVTjquxvt6CM6tdG4SLp1Btn/nOeHHE5UOzRdf",),
    "bitbucket.org": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIazEu89wgQZ4bqs3d63QSMzYVa0MuJ2e2gKTKqu+UUO",),
    "codeberg.org": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIVIC02vnjFyL+I4RHfvIGNtOgJMe769VTF1VR4EB3ZB",),
}

# What a user's or a system's configuration could say otherwise. The first word on an option counts.
_OPTIONS: Final = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECTING}",
    "ConnectionAttempts=1",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PreferredAuthentications=publickey",
    "PubkeyAuthentication=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "GSSAPIAuthentication=no",
    "HostbasedAuthentication=no",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "CheckHostIP=no",
    "ProxyCommand=none",
    "ProxyJump=none",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ControlMaster=no",
    "ControlPath=none",
    "EscapeChar=none",
    "RequestTTY=no",
    "LogLevel=ERROR",
    f"HostKeyAlias={_ALIAS}",
)


def place(url: str) -> tuple[str, int]:
    """The host and port of an ssh address."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or SSH_PORT


@contextmanager
def at_hand(remote: Remote, checked: str) -> Iterator[list[str]]:
    """The words that start the client for this remote, for as long as the block lasts.

    `checked` is the address that was judged for its host: no other is dialled. Raises
    OurFault for a remote that was not made ready (services/ssh_access).
    """
    if remote.ssh is None:
        raise OurFault("an ssh address was used without its key; please report this")
    hosts = "".join(f"{_ALIAS} {key}\n" for key in remote.ssh.host_keys)
    with _in_memory(remote.ssh.key.rstrip("\n") + "\n") as key, _in_memory(hosts) as known:
        words = ["ssh", "-F", "/dev/null", "-T", "-a", "-x"]
        for option in (
            *_OPTIONS,
            f"IdentityFile={key}",
            f"UserKnownHostsFile={known}",
            f"HostName={checked}",
        ):
            words += ["-o", option]
        yield words


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A file that only this user reads and that no disk holds; it goes with this process at the latest."""
    number = os.memfd_create("everref", os.MFD_CLOEXEC)
    try:
        os.fchmod(number, 0o600)  # or the client refuses a key that everybody could read
        os.write(number, text.encode())
        yield f"/proc/{os.getpid()}/fd/{number}"
    finally:
        os.close(number)


def as_command(words: Sequence[str]) -> str:
    """The words as git takes them in GIT_SSH_COMMAND."""
    return shlex.join(words)


async def host_keys(git: Git, url: str, checked: str) -> tuple[str, ...]:
    """The keys that the host shows now: for who meets it for the first time. Raises NetworkError."""
    host, port = place(url)
    try:
        async with git.process(
            *("-T", str(CONNECTING), "-t", _KINDS, "-p", str(port), "--", checked),
            program="ssh-keyscan",
            stdin=False,
            timeout=_SCANNING,
        ) as child:
            said = b""
            async for chunk in child.stdout:
                said += chunk
                if len(said) > _ANSWER:
                    raise Refused(f"{host} offers too many host keys; check the address")
    except GitFailed:
        raise NetworkError(f"{host} offers no ssh on port {port}; check the address") from None
    lines = [line.split(" ", 1) for line in said.decode(errors="replace").splitlines()]
    keys = {rest for _, rest in (line for line in lines if len(line) == 2) if _KEY.fullmatch(rest)}
    if not keys:
        raise NetworkError(f"{host} offers no ssh on port {port}; check the address")
    return tuple(sorted(keys))


_KEY: Final = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+={0,2}")


class Ssh:
    """An upload-pack behind ssh: a connection for its greeting and what is asked next, then one for each."""

    def __init__(
        self, git: Git, remote: Remote, addresses: Sequence[str], silence: float, longest: int
    ) -> None:
        self._git = git
        self._remote = remote
        self._checked = nearest(addresses)
        self._silence = silence  # seconds without a byte, or for a second greeting in all
        self._longest = longest  # greeting, in bytes: with protocol 0 it lists the refs
        self._greeted: _Called | None = None  # it waits to be asked

    @asynccontextmanager
    async def greeting(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """What it says first, up to where it waits for us."""
        await self.hang_up()
        with _explained(self._remote):
            called = await self._call()
            try:
                async with aclosing(_until_flush(self._chunks(called.child))) as chunks:
                    yield chunks
                if called.child.exited.done():
                    await called.child.wait()
            except BaseException:
                await called.end()
                raise
            self._greeted = called

    @asynccontextmanager
    async def ask(self, request: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """Its answer to one request; the connection ends with it."""
        called, self._greeted = self._greeted, None
        with _explained(self._remote):
            if called is not None and called.task is not asyncio.current_task():
                await called.end()  # its time limit belongs to the task that called
                called = None
            if called is None:
                called = await self._call()
                await self._skip_greeting(called)
            async with (
                called.stack,
                called.child.fed(request),
                aclosing(self._chunks(called.child)) as chunks,
            ):
                yield chunks

    async def _skip_greeting(self, called: "_Called") -> None:
        """Read what it says first once more, within the bounds of a listing, which it may be."""
        size = 0
        try:
            async with asyncio.timeout(self._silence):
                async for chunk in _until_flush(self._chunks(called.child)):
                    size += len(chunk)
                    if size > self._longest:
                        raise LimitReached(
                            f"{self._remote.url} does not answer like a git host; check the address"
                        )
        except TimeoutError:
            await called.end()
            raise NetworkError(f"{self._remote.url} did not finish its greeting; try again later") from None
        except EverrefError:
            await called.end()
            raise

    async def hang_up(self) -> None:
        """End a connection that nobody asked anything."""
        called, self._greeted = self._greeted, None
        if called is not None:
            await called.end()

    async def _call(self) -> "_Called":
        stack = AsyncExitStack()
        try:
            words = stack.enter_context(at_hand(self._remote, self._checked))
            child = await stack.enter_async_context(
                self._git.process(*words[1:], *_upload_pack(self._remote.url), program=words[0])
            )
            stack.push_async_callback(child.end)  # before it is waited for: nobody has more to say
        except BaseException:
            await stack.aclose()
            raise
        return _Called(child, stack, asyncio.current_task())

    async def _chunks(self, child: Process) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    chunk = await child.stdout.read()
            except TimeoutError:
                raise NetworkError(f"{self._remote.url} has stopped answering; try again later") from None
            if not chunk:
                await child.wait()  # raises why it ended, where that was not all
                return
            yield chunk


@dataclass(frozen=True, slots=True)
class _Called:
    """An open connection."""

    child: Process
    stack: AsyncExitStack  # what goes with it
    task: "asyncio.Task[object] | None"

    async def end(self) -> None:
        """Break it off."""
        with suppress(GitFailed):  # as it was killed
            await self.stack.aclose()


def nearest(addresses: Sequence[str]) -> str:
    """The one of a host's addresses that is dialled: an IPv4 one, where it has such."""
    return min(addresses, key=lambda one: ":" in one)


def _upload_pack(url: str) -> list[str]:
    """The words behind the options: where to, and what to run there."""
    parts = urlsplit(url)
    host, port = place(url)
    path = "'" + remote_path(url).replace("'", "'\\''") + "'"  # git-shell takes nothing unquoted
    version = ("-o", "SetEnv=GIT_PROTOCOL=version=2")
    return [*version, "-p", str(port), "-l", parts.username or USER, "--", host, f"git-upload-pack {path}"]


def remote_path(url: str) -> str:
    """The path as the host is told it: from its root, or from the account's home directory."""
    path = unquote(urlsplit(url).path)
    return path.removeprefix(HOME) if path.startswith(HOME) else path


def as_git_has_it(url: str) -> str:
    """The address for git itself, which writes a path from the home directory as scp does."""
    if not unquote(urlsplit(url).path).startswith(HOME):
        return url
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.username}@{host}:{remote_path(url)}"


async def _until_flush(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks up to the first flush packet, behind which a git waits for an answer."""
    packets = Packets()
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk
            packets.feed(chunk)
            while (packet := packets.take()) is not None:
                if packet is Mark.FLUSH:
                    return


@contextmanager
def _explained(remote: Remote) -> Iterator[None]:
    """Translate the last message of the client or the host into an error of ours."""
    try:
        yield
    except GitFailed as failed:
        raise meaning(failed, remote.url) from None


_OTHER_HOST: Final = re.compile(
    "HOST IDENTIFICATION HAS CHANGED|Host key verification failed|host key is known"
)
_NO_KEY: Final = re.compile("Permission denied|Too many authentication failures")
_BAD_KEY: Final = re.compile("invalid format|error in libcrypto|Load key|incorrect passphrase")
_GONE: Final = re.compile(
    "(?i)not found|does not exist|not exported|not appear to be a git repository|no such repository"
)


def meaning(failed: GitFailed, url: str) -> EverrefError:
    """What the last message of an ssh client, or of the git behind it, means."""
    host, _ = place(url)
    words = failed.stderr
    if _OTHER_HOST.search(words):
        return Refused(
            f"{host} shows a different host key than the pinned one; nothing was sent. If the host announced "
            "that it changed its key, forget the pinned key in the repository's settings"
        )
    if _BAD_KEY.search(words):
        return BadCredentials(
            f"the ssh key for {host} cannot be read; use an OpenSSH key without a passphrase"
        )
    if _NO_KEY.search(words):
        return BadCredentials(
            f"{host} does not accept this ssh key; add the deploy key at the host (everref ssh-key prints it)"
        )
    if _GONE.search(words):
        return RemoteGone(
            f"{url}: the host says that the repository does not exist, or that this key may not read it"
        )
    if "not our ref" in words:
        return NetworkError(f"{url} changed while it was being read; try again")
    return NetworkError(f"the ssh connection to {host} failed: {failed.line}; try again later")
