"""The remote, as a sync sees it: one listing of its refs, then exactly the objects that listing named.

Git's protocol version 2, and version 0 where a server knows no other, over smart
HTTP or over the pipes of a local `git upload-pack`.
https://git-scm.com/docs/gitprotocol-v2, gitprotocol-pack, gitprotocol-http
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp

from mirror import pktline
from mirror.errors import (
    BadCredentials,
    Blocked,
    Corrupt,
    EverrefError,
    LimitReached,
    NetworkError,
    NotFound,
    Refused,
    RemoteGone,
)
from mirror.git import address
from mirror.git.address import CheckedResolver
from mirror.git.run import Git, GitFailed, Process
from mirror.model import HEAD, HEX_LENGTH, SYMBOLIC, Listing, ObjectFormat, RefName, Remote, Target
from mirror.pktline import DELIMITER, FLUSH, Special
from mirror.progress import Progress
from mirror.refs import check_name

SILENCE: Final = 60.0  # seconds without a byte after which a remote has stopped answering
_CONNECTING: Final = 20.0  # seconds
_CHUNK: Final = 1 << 18
_REFS: Final = 1 << 30  # bytes of one listing
_AGENT: Final = b"agent=git/everref"
_SERVICE: Final = "git-upload-pack"
_NULL: Final = re.compile(rb"0+")


class NotOurRef(NetworkError):
    """A wanted id is no longer there: the remote changed after it listed its refs."""


class _Transport(Protocol):
    """A way to ask a remote's upload-pack."""

    def advertisement(self) -> AsyncGenerator[bytes, None]:
        """What the remote says first."""

    def ask(self, request: bytes, v2: bool) -> AsyncGenerator[bytes, None]:
        """Its answer to a request, in pieces as they come."""


@dataclass
class Upstream:
    """A remote that is being asked; listing comes before fetching."""

    _transport: _Transport
    _name: str  # for messages, without credentials
    _v2: bool = False
    _object_format: ObjectFormat = "sha1"
    _capabilities: dict[bytes, bytes] = field(default_factory=dict)
    _advertised: list[bytes] = field(default_factory=list)  # version 0: the ref lines
    _greeted: bool = False

    async def ls_refs(self) -> Listing:
        """Every ref at this moment, symbolic ones as `ref: name`; HEAD also when it is unborn or detached.

        Raises BadCredentials, RemoteGone, Blocked, Refused, NetworkError, Corrupt.
        """
        if not self._greeted or not self._v2:
            await self._greet()
        lines = (
            await self._listed() if self._v2 else [_as_v2(line, self._symrefs()) for line in self._advertised]
        )
        return Listing(_refs(lines, self._object_format), self._object_format)

    async def _greet(self) -> None:
        self._advertised = []
        self._capabilities = {}
        lines: list[bytes] = []
        async for packet in self._packets(self._transport.advertisement()):
            if packet == FLUSH and isinstance(packet, Special):
                if lines and lines[0].startswith(b"# service="):
                    lines.clear()  # smart HTTP's own first line
                    continue
                break
            lines.append(packet.rstrip(b"\n"))
        if not lines:
            raise Refused(f"{self._name} is not a git repository address: its answer is empty")
        self._v2 = lines[0] == b"version 2"
        if self._v2:
            for line in lines[1:]:
                key, _, value = line.partition(b"=")
                self._capabilities[key] = value
        else:
            self._read_v0(lines)
        found = self._capabilities.get(b"object-format", b"sha1").decode(errors="replace")
        if found not in HEX_LENGTH:
            raise Refused(f"{self._name} has an object format that is not known here: {found[:40]}")
        self._object_format = "sha256" if found == "sha256" else "sha1"
        self._greeted = True

    def _read_v0(self, lines: list[bytes]) -> None:
        if lines[0] == b"version 1":
            lines.pop(0)
        if lines and lines[0].startswith(b"ERR "):
            raise self._said(lines[0][4:])
        for line in lines:
            text, nul, words = line.partition(b"\0")
            if nul:
                for word in words.split():
                    key, _, value = word.partition(b"=")
                    known = self._capabilities.get(key)
                    self._capabilities[key] = value if known is None else known + b" " + value
            if text.startswith(b"shallow "):
                raise self._shallow()
            oid, _, name = text.partition(b" ")
            if name == b"capabilities^{}" or name.endswith(b"^{}"):
                continue
            if name:
                self._advertised.append(oid + b" " + name)
        if (
            b"agent" not in self._capabilities
            and b"ofs-delta" not in self._capabilities
            and not self._advertised
        ):
            raise Refused(
                f"{self._name} is not a git repository address: its answer is not in git's protocol"
            )

    def _symrefs(self) -> dict[bytes, bytes]:
        pairs = (pair.partition(b":") for pair in self._capabilities.get(b"symref", b"").split())
        return {name: target for name, _, target in pairs}

    async def _listed(self) -> list[bytes]:
        arguments = [b"symrefs\n"]
        if b"unborn" in self._capabilities.get(b"ls-refs", b"").split():
            arguments.append(b"unborn\n")
        request = self._command(b"ls-refs", arguments)
        lines: list[bytes] = []
        whole = False
        async for packet in self._packets(self._transport.ask(request, True)):
            if isinstance(packet, Special):
                whole = True
                break
            lines.append(packet)
        if not whole:
            raise NetworkError(f"{self._name} stopped in the middle of its list of refs; try again later")
        return lines

    def _command(self, name: bytes, arguments: Sequence[bytes]) -> bytes:
        head = [b"command=" + name + b"\n", _AGENT]
        if b"object-format" in self._capabilities:
            head.append(b"object-format=" + self._object_format.encode())
        return pktline.encode(head) + DELIMITER + pktline.encode(arguments) + FLUSH

    async def fetch(
        self, wants: Sequence[Target], haves: Sequence[Target], progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        """The pack of what `wants` reach and `haves` do not, as its bytes arrive; it may be thin.

        Raises NotOurRef when a wanted id is gone, Corrupt when the remote is a
        shallow copy or breaks the protocol, and what `ls_refs` raises.
        """
        assert self._greeted, "list the refs first"
        request = self._fetch_v2(wants, haves) if self._v2 else self._fetch_v0(wants, haves)
        progress.phase("receiving", None, "bytes")
        begun = False  # the pack has begun
        ended = False
        async with aclosing(self._packets(self._transport.ask(request, self._v2))) as packets:
            async for packet in packets:
                if isinstance(packet, Special):
                    if begun and packet == FLUSH:
                        ended = True
                        break
                    continue
                if not begun:
                    begun, packet = self._preamble(packet)
                    if not packet:
                        continue
                band = packet[0]
                if band == 1:
                    begun = True
                    progress.advance(len(packet) - 1)
                    yield packet[1:]
                elif band == 3:
                    raise self._said(packet[1:])
                elif band != 2:
                    raise Corrupt(f"{self._name} sent something that is not in git's protocol")
        if not ended:
            raise NetworkError(f"{self._name} broke off in the middle of its answer; try again later")

    def _preamble(self, packet: bytes) -> tuple[bool, bytes]:
        """Whether the pack begins with or after this line, and what of the line belongs to it."""
        line = packet.rstrip(b"\n")
        if line.startswith(b"ERR "):
            raise self._said(line[4:])
        if line.startswith((b"shallow ", b"unshallow ")) or line == b"shallow-info":
            raise self._shallow()
        if self._v2:
            return (True, b"") if line == b"packfile" else (False, b"")
        if line == b"NAK" or line.startswith(b"ACK "):
            return False, b""
        return True, packet

    def _fetch_v2(self, wants: Sequence[Target], haves: Sequence[Target]) -> bytes:
        arguments = [b"thin-pack\n", b"no-progress\n", b"ofs-delta\n"]
        arguments += [b"want " + oid + b"\n" for oid in wants]
        arguments += [b"have " + oid + b"\n" for oid in haves]
        return self._command(b"fetch", [*arguments, b"done\n"])

    def _fetch_v0(self, wants: Sequence[Target], haves: Sequence[Target]) -> bytes:
        asked = [b"side-band-64k", b"thin-pack", b"no-progress", b"ofs-delta"]
        words = [word for word in asked if word in self._capabilities]
        if b"side-band-64k" not in words:
            raise Refused(f"{self._name} is served by a git that is too old to be backed up from")
        if self._object_format != "sha1":
            words.append(b"object-format=" + self._object_format.encode())
        if b"agent" in self._capabilities:
            words.append(_AGENT)
        first = b"want " + wants[0] + b" " + b" ".join(words) + b"\n"
        lines: list[bytes | None] = [first, *(b"want " + oid + b"\n" for oid in wants[1:]), None]
        lines += [b"have " + oid + b"\n" for oid in haves]
        return pktline.encode([*lines, b"done\n"])

    async def _packets(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        splitter = pktline.Splitter()
        async with aclosing(chunks):
            async for chunk in chunks:
                for packet in splitter.feed(chunk):
                    yield packet

    def _said(self, text: bytes) -> EverrefError:
        words = " ".join(text.decode(errors="replace").split())[:200]
        if "not our ref" in words or "unadvertised object" in words:
            return NotOurRef(f"{self._name} changed while it was read; try again")
        if "not found" in words or "does not exist" in words:
            return RemoteGone(f"{self._name}: the host says that there is no such repository")
        return Corrupt(f"{self._name} cannot be read; its host says: {words}")

    def _shallow(self) -> Corrupt:
        return Corrupt(
            f"{self._name} is a shallow clone: its history is not whole; back up the repository it was "
            "cloned from, or run git fetch --unshallow in it"
        )


def _as_v2(line: bytes, symrefs: dict[bytes, bytes]) -> bytes:
    _, _, name = line.partition(b" ")
    return line + b" symref-target:" + symrefs[name] if name in symrefs else line


def _refs(lines: Sequence[bytes], object_format: ObjectFormat) -> dict[RefName, Target]:
    """The refs map out of ls-refs lines. Raises Corrupt on what no git would send."""
    length = HEX_LENGTH[object_format]
    refs: dict[RefName, Target] = {}
    symbolic: dict[RefName, bytes] = {}
    for line in lines:
        words = line.rstrip(b"\n").split(b" ")
        if len(words) < 2:
            raise Corrupt("the remote's list of refs holds a line that is not in git's protocol")
        oid, name = words[0], RefName(words[1])
        for attribute in words[2:]:
            if attribute.startswith(b"symref-target:"):
                symbolic[name] = attribute[14:]
        if oid == b"unborn":
            continue
        if len(oid) != length or oid.strip(b"0123456789abcdef"):
            raise Corrupt("the remote's list of refs holds an object id that is none")
        refs[name] = Target(oid)
    for name in (*refs, *symbolic):
        check_name(name)
    for name, target in symbolic.items():
        check_name(target)
        if name == HEAD or target in refs:
            refs[name] = Target(SYMBOLIC + target)
    return refs


@asynccontextmanager
async def connect(git: Git, remote: Remote, *, allow_private: bool) -> AsyncIterator[Upstream]:
    """The remote, ready to be asked; nothing is sent before it is."""
    async with AsyncExitStack() as stack:
        if address.is_path(remote.url):
            local = await stack.enter_async_context(_local(git, remote.url))
            yield Upstream(local, remote.url)
            return
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING, sock_read=SILENCE)
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(allow_private), use_dns_cache=False, limit=2, enable_cleanup_closed=False
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=connector,
                timeout=limits,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
                read_bufsize=1 << 20,
                headers={"User-Agent": "git/everref", "Git-Protocol": "version=2"},
            )
        )
        await address.check(remote.url, allow_private)
        yield Upstream(_Http(session, remote), remote.url)


class _Http:
    """Smart HTTP: a GET that greets, then a POST a request. No redirect takes our token along."""

    def __init__(self, session: aiohttp.ClientSession, remote: Remote) -> None:
        self._session = session
        self._url = remote.url
        self._has_secret = remote.secret is not None
        self._headers: dict[str, str] = {}
        if remote.secret is not None:
            pair = f"{remote.secret.username}:{remote.secret.password}".encode()
            self._headers["Authorization"] = "Basic " + b64encode(pair).decode()

    def advertisement(self) -> AsyncGenerator[bytes, None]:
        return self._chunks(
            "GET", f"{self._url}/info/refs?service={_SERVICE}", f"{_SERVICE}-advertisement", None
        )

    def ask(self, request: bytes, v2: bool) -> AsyncGenerator[bytes, None]:
        return self._chunks("POST", f"{self._url}/{_SERVICE}", f"{_SERVICE}-result", request)

    async def _chunks(
        self, method: str, url: str, kind: str, body: bytes | None
    ) -> AsyncGenerator[bytes, None]:
        headers = {**self._headers, "Accept": f"application/x-{kind}"}
        if body is not None:
            headers["Content-Type"] = f"application/x-{_SERVICE}-request"
        try:
            async with self._session.request(
                method, _encoded(url), data=body, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise await self._refusal(answer)
                if answer.content_type != f"application/x-{kind}":
                    raise Refused(
                        f"{self._url} is not a git repository address: "
                        f"it answers with {answer.content_type[:60]}"
                    )
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    yield chunk
        except TimeoutError:
            raise NetworkError(f"{self._url} stopped answering; try again later") from None
        except aiohttp.ClientConnectorCertificateError:
            raise NetworkError(f"{self._url}: its TLS certificate is not valid; nothing was sent") from None
        except aiohttp.ClientSSLError:
            raise NetworkError(f"{self._url}: no TLS connection could be made; check the address") from None
        except aiohttp.ClientConnectionError as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise NetworkError(
                    f"{self._url} cannot be reached from here; check the address and the network"
                ) from None
            raise NetworkError(f"{self._url} broke the connection off; try again later") from None
        except aiohttp.ClientPayloadError:
            raise NetworkError(
                f"{self._url} broke off in the middle of its answer; try again later"
            ) from None
        except aiohttp.ClientError:
            raise NetworkError(f"{self._url} does not answer in HTTP; check the address") from None

    async def _refusal(self, answer: aiohttp.ClientResponse) -> EverrefError:
        """What a status other than 200 means."""
        status = answer.status
        text = (await answer.content.read(4096)).decode(errors="replace").lower()
        if status == 401:
            if self._has_secret:
                return BadCredentials(f"{self._url}: the host refuses these credentials; give new ones")
            return BadCredentials(
                f"{self._url} wants credentials, or does not exist; give a token if it is private"
            )
        if status == 451 or (status == 403 and ("blocked" in text or "disabled" in text or "dmca" in text)):
            return Blocked(f"{self._url}: the host blocks access to this repository (HTTP {status})")
        if status == 403:
            return BadCredentials(f"{self._url}: these credentials may not read this repository (HTTP 403)")
        if status in (404, 410):
            return RemoteGone(
                f"{self._url}: the host says that there is no such repository, or not for these credentials"
            )
        if 300 <= status < 400:
            whither = urlsplit(answer.headers.get("Location", ""))
            moved = (
                f" to {whither.hostname}{whither.path.partition('/info/refs')[0]}" if whither.hostname else ""
            )
            return Refused(
                f"{self._url} has moved{moved}; redirects are not followed: back up the new address"[:400]
            )
        if status == 413:
            return LimitReached(f"{self._url}: the host finds the request too large (HTTP 413)")
        if status == 429 or status >= 500:
            return NetworkError(
                f"{self._url}: the host has trouble or is too busy (HTTP {status}); try again later"
            )
        return Refused(f"{self._url} is not a git repository address: it answers with HTTP {status}")


def _encoded(url: str) -> "aiohttp.typedefs.StrOrURL":
    from yarl import URL

    return URL(url, encoded=True)


@asynccontextmanager
async def _local(git: Git, path: str) -> AsyncIterator["_Local"]:
    """A local repository's own upload-pack, started when it is first asked."""
    async with AsyncExitStack() as stack:
        local = _Local(git, path, stack)
        yield local
        await local.end()


class _Local:
    """One conversation over pipes: the greeting, then requests one by one (version 2), or one (version 0)."""

    def __init__(self, git: Git, path: str, stack: AsyncExitStack) -> None:
        self._git = git
        self._path = path
        self._stack = stack
        self._process: Process | None = None

    async def advertisement(self) -> AsyncGenerator[bytes, None]:
        directory = address.git_directory(Path(self._path))
        if directory is None:
            raise NotFound(f"there is no git repository at {self._path} any more")
        if (directory / "shallow").exists() and (directory / "shallow").stat().st_size:
            raise Corrupt(
                f"{self._path} is a shallow clone: its history is not whole; back up the repository it was "
                "cloned from, or run git fetch --unshallow in it"
            )
        await self.end()
        self._process = await self._stack.enter_async_context(_upload_pack(self._git, self._path))
        async for chunk in self._answer():
            yield chunk

    async def ask(self, request: bytes, v2: bool) -> AsyncGenerator[bytes, None]:
        assert self._process is not None
        asking = asyncio.create_task(self._process.stdin.write(request))
        try:
            async for chunk in self._answer():
                yield chunk
            await asking
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            if not asking.cancelled():
                asking.exception()  # the process's own failure says more

    async def _answer(self) -> AsyncGenerator[bytes, None]:
        assert self._process is not None
        try:
            while chunk := await self._process.stdout.read():
                yield chunk
            await self._process.wait()
        except GitFailed as failed:
            raise _failure(failed, self._path) from None

    async def end(self) -> None:
        """Let go of the process, whatever it is doing."""
        if self._process is not None:
            process, self._process = self._process, None
            await process.end()


@asynccontextmanager
async def _upload_pack(git: Git, path: str) -> AsyncIterator[Process]:
    manager = git.process(
        "upload-pack",
        "--timeout=600",
        "--end-of-options",
        path,
        env={"GIT_PROTOCOL": "version=2"},
        env_config={"safe.directory": "*", "uploadpack.allowAnySHA1InWant": "true"},
    )
    process = await manager.__aenter__()
    try:
        yield process
    finally:
        await process.end()


def _failure(failed: GitFailed, path: str) -> EverrefError:
    """What upload-pack's end means to the one who asked it."""
    words = failed.line
    if "not our ref" in failed.stderr:
        return NotOurRef(f"{path} changed while it was read; try again")
    if "does not appear to be a git repository" in failed.stderr or "not a git repository" in failed.stderr:
        return Refused(f"{path} is not a git repository")
    return Corrupt(f"{path} cannot be read by git: {words}")
