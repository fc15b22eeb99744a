"""The remote as a sync sees it: one listing of its refs, then exactly the objects that the listing names.

Git's protocol version 2, and version 0 of servers that know no other, over
smart HTTP or to a local `git upload-pack`, one request and one answer at a time.
https://git-scm.com/docs/protocol-v2, pack-protocol, http-protocol
"""

import asyncio
import gzip
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from mirror import login, pktline
from mirror.errors import (
    BadCredentials,
    Blocked,
    Corrupt,
    EverrefError,
    LimitReached,
    Moved,
    NetworkError,
    NotFound,
    Origin,
    Refused,
    RemoteGone,
    whose,
)
from mirror.git import address
from mirror.git.run import CHUNK, DAY, Git, GitFailed, redact
from mirror.model import HEAD, HEX_LENGTH, SYMBOLIC, Listing, ObjectFormat, RefName, Remote, Target
from mirror.net.reach import NOWHERE
from mirror.pktline import Mark, Packet, Packets, SideBand
from mirror.progress import Progress
from mirror.refs import check_names, resolve

SILENCE: Final = 60.0  # seconds without a byte after which a remote counts as dead
CONNECTING: Final = 20.0  # seconds
LONGEST_LISTING: Final = 512 << 20  # bytes
PER_HOST: Final = 8  # connections to one host at once
WORTH_PACKING: Final = 1 << 16  # bytes of a request from which on it is compressed

_AGENT: Final = b"agent=everref"
_SERVICE: Final = "git-upload-pack"
_ACKNOWLEDGING: Final = (b"multi_ack_detailed", b"multi_ack")  # the first that the server knows


class NotOurRef(NetworkError):
    """A wanted id is no longer to be had: the remote changed after it had listed its refs. List again."""


class _Asked(Protocol):
    """A way to an upload-pack."""

    def greeting(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """What it says first."""

    def ask(self, request: bytes) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Its answer to a request, as it arrives."""


@asynccontextmanager
async def sessions(allow_private: bool) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections to hosts, kept for whoever asks the same host next; no more than PER_HOST to each."""
    connector = aiohttp.TCPConnector(
        resolver=address.CheckedResolver(allow_private), use_dns_cache=False, limit_per_host=PER_HOST
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "git/everref", "Git-Protocol": "version=2"},
        read_bufsize=CHUNK,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECTING, sock_read=SILENCE),
        trust_env=False,
    ) as session:
        yield session


@asynccontextmanager
async def connect(
    git: Git,
    remote: Remote,
    *,
    allow_private: bool,
    session: aiohttp.ClientSession | None = None,
    origin: Origin = Origin.SOURCE,
) -> AsyncIterator["Upstream"]:
    """A remote, ready to be asked; nothing is sent before. `allow_private` also allows our own network.

    `session`, one of `sessions` with the same `allow_private`, is for who asks many remotes.
    What fails in the asking is of this `origin`: it may be a target as well.
    """
    if address.is_path(remote.url):
        yield Upstream(_Local(git, remote.url), remote.url, origin)
        return
    with whose(origin):
        await address.check_literal(remote.url, allow_private)
    async with AsyncExitStack() as stack:
        if session is None:
            session = await stack.enter_async_context(sessions(allow_private))
        upstream = Upstream(_Http(session, remote), remote.url, origin)
        try:
            yield upstream
        finally:
            await upstream.hang_up()


class Upstream:
    """A remote that is asked."""

    def __init__(self, asked: _Asked, name: str, origin: Origin = Origin.SOURCE) -> None:
        self._asked = asked
        self._origin = origin  # of what fails
        self._name = name  # its address, for messages
        self._version = 0  # of the protocol; 0 also while it is unknown
        self._capabilities: dict[bytes, bytes] = {}  # empty: it has not been greeted
        self._advertised: list[bytes] | None = None  # version 0 lists its refs in the greeting; None: used up
        self._format: ObjectFormat = "sha1"
        self._fetching: AsyncGenerator[bytes, None] | None = None

    async def ls_refs(self) -> Listing:
        """Every ref at this moment.

        HEAD is `ref: name` on a branch, unborn ones too where the remote tells,
        else an id. Other symbolic refs are `ref: name` where that name is listed,
        else an id. Raises BadCredentials, RemoteGone, Blocked, Refused,
        NetworkError, Corrupt (a shallow copy; an answer that no git gives).
        """
        with whose(self._origin):
            return await self._ls_refs()

    async def _ls_refs(self) -> Listing:
        if self._version != 2 and self._advertised is None:
            await self._greet()
        if self._version == 2:
            arguments = [b"symrefs\n"]
            if b"unborn" in self._capabilities.get(b"ls-refs", b"").split():
                arguments.append(b"unborn\n")
            lines = self._lines(await self._whole(self._asked.ask(self._command(b"ls-refs", arguments))))
            if lines[-1:] != [Mark.FLUSH]:
                raise NetworkError(f"{self._name} broke off in the middle of its answer; try again later")
            return self._listing([line for line in lines if isinstance(line, bytes)], {})
        lines_v0, self._advertised = self._advertised or [], None
        pairs = [pair.partition(b":") for pair in self._capabilities.get(b"symref", b"").split()]
        return self._listing(lines_v0, {name: target for name, _, target in pairs})

    async def fetch(
        self, wants: Sequence[Target], haves: Sequence[Target], progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        """The pack of what `wants` reach and `haves` don't, as it arrives; thin where there are haves.

        It is whole only when the iteration ends by itself. Raises NotOurRef when a
        wanted id is gone, Corrupt when the remote is a shallow copy or broken,
        and whatever `ls_refs` raises.
        """
        self._fetching = self._pack(wants, haves, progress)
        with whose(self._origin):
            async with aclosing(self._fetching) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def hang_up(self) -> None:
        """End a fetch that nobody reads any more."""
        if self._fetching is not None:
            await self._fetching.aclose()

    async def _pack(
        self, wants: Sequence[Target], haves: Sequence[Target], progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        if not self._capabilities:
            await self._greet()
        wants, haves = list(dict.fromkeys(wants)), list(dict.fromkeys(haves))
        request = self._fetch_v2(wants, haves) if self._version == 2 else self._fetch_v0(wants, haves)
        progress.phase("receiving", None, "bytes")
        before = Packets()
        side: SideBand | None = None
        async with self._asked.ask(request) as chunks:
            async for chunk in chunks:
                if side is None:
                    before.feed(chunk)
                    if not self._at_the_pack(before):
                        continue
                    side, chunk = SideBand(), before.rest
                pack = side.feed(chunk)
                for line in side.said():
                    progress.note(f"the remote says: {redact(line, [])}")
                if pack:
                    progress.advance(len(pack))
                    yield pack
        if side and side.fatal:
            raise self._meaning(side.fatal)
        if not side or not side.ended:
            raise NetworkError(f"{self._name} broke off in the middle of its answer; try again later")

    def _at_the_pack(self, packets: Packets) -> bool:
        """Whether what has arrived so far goes up to the pack. Raises what the remote says instead of one."""
        while True:
            if self._version != 2 and packets.rest[4:5] in (b"\1", b"\2", b"\3"):
                return True
            packet = packets.take()
            if packet is None:
                return False
            line = pktline.text(packet)
            if line.startswith(b"ERR "):
                raise self._meaning(line[4:])
            if line.startswith(b"shallow "):
                raise self._shallow()
            if self._version == 2 and line == b"packfile":
                return True

    def _command(self, name: bytes, arguments: Sequence[bytes]) -> bytes:
        head: list[Packet] = [b"command=%b\n" % name, _AGENT]
        if b"object-format" in self._capabilities:
            head.append(b"object-format=" + self._format.encode())
        return pktline.encode([*head, Mark.DELIM, *arguments, Mark.FLUSH])

    def _fetch_v2(self, wants: Sequence[Target], haves: Sequence[Target]) -> bytes:
        arguments = [b"thin-pack\n", b"no-progress\n", b"ofs-delta\n"]
        arguments += [b"want %b\n" % oid for oid in wants]
        arguments += [b"have %b\n" % oid for oid in haves]
        return self._command(b"fetch", [*arguments, b"done\n"])

    def _fetch_v0(self, wants: Sequence[Target], haves: Sequence[Target]) -> bytes:
        if b"side-band-64k" not in self._capabilities:
            raise Refused(f"{self._name} is served by a git too old to be backed up from; have it updated")
        asked = (b"side-band-64k", b"thin-pack", b"no-progress", b"ofs-delta")
        words = [word for word in asked if word in self._capabilities]
        # All haves go in one request, so how they are acknowledged makes no difference here, but Azure DevOps
        # serves nobody who cannot say it (TF401041): https://git-scm.com/docs/protocol-capabilities#_multi_ack
        words += [word for word in _ACKNOWLEDGING if word in self._capabilities][:1]
        if b"object-format" in self._capabilities:
            words.append(b"object-format=" + self._format.encode())
        if b"agent" in self._capabilities:
            words.append(_AGENT)
        lines: list[Packet] = [b"want %b %b\n" % (wants[0], b" ".join(words))]
        lines += [b"want %b\n" % oid for oid in wants[1:]]
        return pktline.encode([*lines, Mark.FLUSH, *(b"have %b\n" % oid for oid in haves), b"done\n"])

    async def _greet(self) -> None:
        lines = self._lines(await self._whole(self._asked.greeting()))
        said = [line for line in lines if isinstance(line, bytes)]
        served = bool(said) and said[0].startswith(b"# service=")  # smart HTTP's own line
        said = said[1:] if served else said
        if served and not said:
            self._version, self._advertised = (
                0,
                [],
            )  # version 0 has no more to say of a repository without refs
            return
        if said[:1] == [b"version 2"]:
            self._version = 2
            self._capabilities = {key: value for key, _, value in (line.partition(b"=") for line in said)}
            if not {b"ls-refs", b"fetch"} <= self._capabilities.keys():
                raise Refused(f"{self._name} does not let its refs be listed; check the address")
        else:
            self._version = 0
            self._advertised = self._read_v0(said[1:] if said[:1] == [b"version 1"] else said)
        found = self._capabilities.get(b"object-format", b"sha1")
        if found == b"sha1" or found == b"sha256":
            self._format = "sha1" if found == b"sha1" else "sha256"
        else:
            raise Refused(f"{self._name} keeps ids of a kind that is not known here: {redact(found, [])}")

    def _read_v0(self, said: list[bytes]) -> list[bytes]:
        """The ref lines of a version 0 greeting; its capabilities stand behind the first."""
        first, nul, words = said[0].partition(b"\0") if said else (b"", b"", b"")
        if not nul:
            raise _no_repository(self._name, "it does not speak git's protocol")
        self._capabilities = {}
        for key, _, value in (word.partition(b"=") for word in words.split()):
            known = self._capabilities.get(key)
            self._capabilities[key] = value if known is None else known + b" " + value
        lines = [first, *said[1:]]
        if any(line.startswith(b"shallow ") for line in lines):
            raise self._shallow()
        return [line for line in lines if not line.endswith(b"^{}")]  # peeled tags, and "there are none"

    def _lines(self, answer: bytes) -> list[Packet]:
        lines = pktline.split_lines(answer)
        for line in lines[:3]:
            if isinstance(line, bytes) and line.startswith(b"ERR "):
                raise self._meaning(line[4:])
        return lines

    async def _whole(self, asking: AbstractAsyncContextManager[AsyncIterator[bytes]]) -> bytes:
        answer = bytearray()
        async with asking as chunks:
            async for chunk in chunks:
                answer += chunk
                if len(answer) > LONGEST_LISTING:
                    raise LimitReached(f"{self._name} lists more refs than can be kept")
        return bytes(answer)

    def _listing(self, lines: Sequence[bytes], symbolic: dict[bytes, bytes]) -> Listing:
        """The refs map out of lines `id name attribute...`. Raises Corrupt on what no git says."""
        length = HEX_LENGTH[self._format]
        refs: dict[RefName, Target] = {}
        longer = []
        for line in lines:
            if line.count(b" ") == 1:
                refs[RefName(line[length + 1 :])] = Target(line[:length])
            else:
                longer.append(line)
        unborn = set()
        for line in longer:
            oid, name, *attributes = [*line.split(b" "), b""]
            if oid == b"unborn":
                unborn.add(RefName(name))
            else:
                refs[RefName(name)] = Target(oid)
            for attribute in attributes:
                if attribute.startswith(b"symref-target:"):
                    symbolic[name] = attribute.removeprefix(b"symref-target:")
        if len(refs) + len(unborn) != len(lines):
            raise Corrupt(f"{self._name} lists a ref twice")
        if not _are_ids(refs.values(), length):
            raise Corrupt(f"{self._name} lists an object id that is none")
        check_names([*refs, *unborn, *symbolic.values()])
        pointing = {RefName(name): RefName(target) for name, target in symbolic.items()}
        found = {
            name: Target(SYMBOLIC + target)
            for name, target in pointing.items()
            if (name in unborn and target != HEAD) or (name in refs and target in refs)
        }
        whole = refs | found
        # What leads back to itself keeps its id, whose object would not be fetched else.
        loops = [name for name in found if name in refs and resolve(whole, name) is None]
        return Listing(whole | {name: refs[name] for name in loops}, self._format)

    def _meaning(self, said: bytes) -> EverrefError:
        """What the remote's own words mean."""
        words = redact(said, []).strip()[:200]
        if re.search("not our ref|unadvertised object", words):
            return NotOurRef(f"{self._name} changed while it was being read; try again")
        if re.search("(?i)not found|does not exist|not exported|not appear to be a git repository", words):
            return RemoteGone(f"{self._name}: the host says that there is no such repository: {words}")
        if re.search("(?i)corrupt|unable to (read|parse)|bad (object|tree)|missing", words):
            return Corrupt(f"{self._name} is broken, its host says: {words}; have it mended there")
        return Refused(f"{self._name}: the host says: {words}")

    def _shallow(self) -> Corrupt:
        return Corrupt(
            f"{self._name} is a shallow copy, its history is not whole: "
            "back up what it was cloned from, or run git fetch --unshallow in it"
        )


def _are_ids(targets: Collection[bytes], length: int) -> bool:
    digits = b"".join(targets)
    return {len(target) for target in targets} <= {length} and not digits.translate(None, b"0123456789abcdef")


class _Http:
    """Smart HTTP. A redirect is never followed: it would take the credentials along."""

    def __init__(self, session: aiohttp.ClientSession, remote: Remote) -> None:
        self._session = session
        self._url = remote.url
        authorization = login.authorization(remote)
        self._authorization = {"Authorization": authorization} if authorization else {}

    def greeting(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._answer(
            "GET", f"info/refs?service={_SERVICE}", f"application/x-{_SERVICE}-advertisement", {}
        )

    def ask(self, request: bytes) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        headers = {"Content-Type": f"application/x-{_SERVICE}-request"}
        if b"command=ls-refs" not in request[:32]:
            headers["Accept-Encoding"] = "identity"  # a pack is compressed as it is
        if len(request) >= WORTH_PACKING:
            headers["Content-Encoding"] = "gzip"
            request = gzip.compress(request, 1)
        return self._answer("POST", _SERVICE, f"application/x-{_SERVICE}-result", headers, request)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, kind: str, headers: dict[str, str], body: bytes | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        with _translated(self._url):
            response = await self._session.request(
                method,
                URL(f"{self._url}/{path}", encoded=True),
                data=None if body is None else io.BytesIO(body),
                headers={**self._authorization, **headers, "Accept": kind},
                allow_redirects=False,
            )
        try:
            if response.status != 200:
                raise await self._refusal(response)
            if response.content_type != kind:
                raise _no_repository(
                    self._url, f"it answers with {redact(response.content_type.encode(), [])[:60]}"
                )
            async with aclosing(self._chunks(response)) as chunks:
                yield chunks
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        clock = asyncio.get_running_loop().time
        end = clock() + DAY
        with _translated(self._url):
            while chunk := await response.content.readany():
                yield chunk
                if clock() > end:
                    raise LimitReached(f"{self._url} has not come to an end within a day and was given up")

    async def _refusal(self, response: aiohttp.ClientResponse) -> EverrefError:
        with suppress(aiohttp.ClientError, TimeoutError):
            text = (await response.content.read(4096)).decode(errors="replace")
            return refusal(
                self._url,
                response.status,
                bool(self._authorization),
                text,
                response.headers.get("Location", ""),
            )
        return refusal(self._url, response.status, bool(self._authorization))


def refusal(url: str, status: int, with_secret: bool, text: str = "", location: str = "") -> EverrefError:
    """What an HTTP status other than 200 means; `text` is the beginning of the answer's body."""
    if status == 451 or (
        status == 403 and re.search("(?i)blocked|disabled|dmca|suspended|unavailable", text)
    ):
        return Blocked(f"{url}: the host blocks access to this repository (HTTP {status}); ask the host why")
    if status == 429 or (status == 403 and re.search("(?i)rate limit|too many requests", text)):
        return NetworkError(f"{url}: the host wants fewer requests (HTTP {status}); try again later")
    if status == 401 and not with_secret:
        return BadCredentials(f"{url} wants credentials, or does not exist; give a token if it is private")
    if status == 401:
        return BadCredentials(f"{url}: the host refuses these credentials; give others")
    if status == 403 and with_secret:
        return BadCredentials(f"{url}: these credentials are not allowed to do this (HTTP 403); give others")
    if status == 403:
        return Blocked(f"{url}: the host forbids access (HTTP 403); give credentials if it is private")
    if status in (404, 410):
        return RemoteGone(
            f"{url}: there is no such repository, or not for us; check the address and credentials"
        )
    if status in (301, 302, 303, 307, 308):
        goal = _whither(location)
        where = f" to {goal}" if goal else ""
        return Moved(f"{url} has moved{where}; redirects are not followed: add that address", goal)
    if status == 408 or status >= 500:
        return NetworkError(f"{url}: the host is in trouble (HTTP {status}); try again later")
    return _no_repository(url, f"it answers with HTTP {status}")


def _whither(location: str) -> str | None:
    """The address that a redirect names, without what could be secret in it. None: it names none."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return None
    if not parts.hostname:
        return None
    return redact(f"{parts.scheme}://{host}{parts.path.removesuffix('/info/refs')}".encode(), [])[:200]


def _no_repository(url: str, why: str) -> Refused:
    return Refused(f"{url} is not a git repository address: {why}; check the address")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """What goes wrong on the way to a host, in our words. Refused by rule and no route read the same."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        raise NetworkError(f"{url}: its TLS certificate is not valid; nothing was sent") from None
    except aiohttp.ClientSSLError:
        raise NetworkError(f"{url}: no TLS connection could be made; check the address") from None
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise NetworkError(f"{url} {NOWHERE}; check the address and the network") from None
    except TimeoutError:
        raise NetworkError(f"{url} has stopped answering; try again later") from None
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
        raise NetworkError(f"{url} broke the connection off; try again later") from None
    except aiohttp.ClientError:
        raise NetworkError(f"{url} does not answer in HTTP; check the address") from None


class _Local:
    """A repository of this machine: one upload-pack a request, as a git host does it."""

    def __init__(self, git: Git, path: str) -> None:
        self._git = git
        self._path = path

    def greeting(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._answer("--http-backend-info-refs", b"")

    def ask(self, request: bytes) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._answer("--strict", request)

    @asynccontextmanager
    async def _answer(self, option: str, request: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        directory = address.git_directory(Path(self._path))
        if directory is None:
            raise RemoteGone(f"there is no git repository at {self._path} any more; check the path")
        try:
            async with self._git.process(
                "upload-pack",
                "--stateless-rpc",
                option,
                str(directory),
                env={"GIT_PROTOCOL": "version=2"},
                env_config={"safe.directory": "*"},  # the person named it, whoever owns it
            ) as child:
                feeding = asyncio.create_task(child.feed(request))
                try:
                    yield child.stdout
                    await feeding
                finally:
                    feeding.cancel()
                    await asyncio.wait([feeding])
        except GitFailed as failed:
            raise _local_failure(failed, self._path) from None


def _local_failure(failed: GitFailed, path: str) -> EverrefError:
    if "not our ref" in failed.stderr:
        return NotOurRef(f"{path} changed while it was being read; try again")
    if "Permission denied" in failed.stderr:
        return Refused(f"{path} cannot be read by this user: {failed.line}; change its permissions")
    if "does not appear to be a git repository" in failed.stderr:
        return NotFound(f"{path} is not a git repository; check the path")
    return Corrupt(f"{path} is broken, git says: {failed.line}; mend it and try again")
