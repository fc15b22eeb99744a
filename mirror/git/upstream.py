"""The remote as a sync sees it: one listing of its refs, then exactly the objects the listing names.

Git's protocol version 2, and version 0 of servers that know no other, over
smart HTTP or to a local `git upload-pack`, one request and one answer at a time.
https://git-scm.com/docs/protocol-v2, pack-protocol, http-protocol
"""

import asyncio
import gzip
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from mirror.core import login, lowspeed
from mirror.core.config import LISTING_BYTES
from mirror.core.errors import (
    BadCredentials,
    Blocked,
    Corrupt,
    EverrefError,
    LimitReached,
    Moved,
    NetworkError,
    NotFound,
    Origin,
    RateLimited,
    Refused,
    RemoteGone,
    whose,
)
from mirror.core.formats import pktline
from mirror.core.formats.lsrefs import Greeting, Reading, no_repository, shallow
from mirror.core.formats.pktline import Lines, Mark, Packet, Packets, SideBand
from mirror.core.lowspeed import Speeds
from mirror.core.model import Listing, ObjectFormat, Remote, Target
from mirror.core.progress import Progress
from mirror.core.rules.work import backoff
from mirror.git import address
from mirror.git.run import CHUNK, DAY, Git, GitFailed, Stdout, redact
from mirror.git.ssh import Ssh
from mirror.net.reach import NOWHERE

SILENCE: Final = 60.0  # seconds without a byte after which a remote counts as dead
CONNECTING: Final = 20.0  # seconds
LOOK: Final = 60.0  # seconds for a listing in all, with its greeting
PREPARING: Final = 1800.0  # seconds in which a pack must begin; meanwhile a remote counts and compresses
RATES: Final = lowspeed.RATES  # that a pack keeps, once it has begun
BEFORE_THE_PACK: Final = 1 << 16  # bytes of other words; 256 acknowledgments are 20 KiB
BESIDE_THE_PACK: Final = 1 << 20  # bytes of other words and of framing, and an eighth of the pack
REMARKS: Final = 100  # lines of the remote that are passed on
UNTOLD: Final = timedelta(minutes=1)  # to wait where a host that is asked too often does not say how long
INLINE: Final = 1 << 16  # bytes of a listing that are read at once, in a millisecond; more go to a thread
PER_HOST: Final = 8  # connections to one host at once
WORTH_PACKING: Final = 1 << 16  # bytes of a request from which on it is compressed

_AGENT: Final = b"agent=everref"
_SERVICE: Final = "git-upload-pack"
_ACKNOWLEDGING: Final = (b"multi_ack_detailed", b"multi_ack")  # the first that the server knows


class NotOurRef(NetworkError):
    """A wanted id is no longer to be had: the remote changed after it had listed its refs. List again."""


class _Asked(Protocol):
    """A connection to an upload-pack."""

    def greeting(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The first thing that it says."""

    def ask(self, request: bytes) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Its answer to a request, as it arrives."""


def now() -> datetime:
    """This moment."""
    return datetime.now(UTC)


@asynccontextmanager
async def sessions(allow_private: bool) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections to hosts, reused for the next request to the same host; at most PER_HOST to each."""
    connector = aiohttp.TCPConnector(
        resolver=address.CheckedResolver(allow_private), use_dns_cache=False, limit_per_host=PER_HOST
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "User-Agent": "git/everref",
            "Git-Protocol": "version=2",
            "Accept-Encoding": "identity",  # a pack is compressed as it is, and a listing would have no bound
        },
        auto_decompress=False,
        read_bufsize=CHUNK,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECTING, sock_read=SILENCE),
        trust_env=False,
    ) as session:
        yield session


@dataclass(frozen=True, slots=True)
class Asking:
    """By what means a remote is asked, and how much it may answer."""

    session: aiohttp.ClientSession | None = None  # one of `sessions`, to ask many remotes; None: a new one
    longest: int = LISTING_BYTES  # bytes of refs that it may list
    clock: Callable[[], datetime] = now  # by which is said when a host may be asked again


@asynccontextmanager
async def connect(
    git: Git,
    remote: Remote,
    *,
    allow_private: bool,
    origin: Origin = Origin.SOURCE,
    asking: Asking | None = None,
) -> AsyncIterator["Upstream"]:
    """A remote, ready for requests; sends nothing yet. `allow_private` also allows our own network.

    A session has the same `allow_private`. Failures are of this `origin`: the remote may be a target as well.
    """
    asking = asking or Asking()
    session, longest = asking.session, asking.longest
    if address.is_path(remote.url):
        yield Upstream(_Local(git, remote.url), remote.url, origin, longest)
        return
    if address.is_ssh(remote.url):
        with whose(origin):
            checked = await address.check(remote.url, allow_private)
        client = Ssh(git, remote, checked, SILENCE, longest)
        upstream = Upstream(client, remote.url, origin, longest)
        try:
            yield upstream
        finally:
            await upstream.hang_up()
            await client.hang_up()
        return
    with whose(origin):
        await address.check_literal(remote.url, allow_private)
    async with AsyncExitStack() as stack:
        if session is None:
            session = await stack.enter_async_context(sessions(allow_private))
        upstream = Upstream(_Http(session, remote, asking.clock), remote.url, origin, longest)
        try:
            yield upstream
        finally:
            await upstream.hang_up()


class Upstream:
    """A remote repository that can be listed and fetched from."""

    is_exact: Final = True  # it is asked for ids, and sends what they reach

    def __init__(
        self, asked: _Asked, name: str, origin: Origin = Origin.SOURCE, longest: int = LISTING_BYTES
    ) -> None:
        self._asked = asked
        self._origin = origin  # of what fails
        self._name = name  # its address, for messages
        self._longest = longest  # listing, in bytes
        self._version = 0  # of the protocol; 0 also while it is unknown
        self._capabilities: dict[bytes, bytes] = {}  # empty: it has not been greeted
        self._advertised: Listing | None = None  # version 0 lists its refs in the greeting; None: used up
        self._format: ObjectFormat = "sha1"
        self._fetching: AsyncGenerator[bytes, None] | None = None

    @property
    def agent(self) -> bytes:
        """What the remote calls itself; empty before it was greeted, or where it says nothing."""
        return self._capabilities.get(b"agent", b"")

    async def ls_refs(self) -> Listing:
        """Every ref at this moment, within LOOK seconds, however much or little arrives in them.

        HEAD is `ref: name` on a branch, unborn ones too where the remote tells,
        else an id. Other symbolic refs are `ref: name` where that name is listed,
        else an id. Raises BadCredentials, RemoteGone, Blocked, Refused,
        NetworkError, LimitReached (a listing longer than allowed; RateLimited where
        the host asks us to wait), Corrupt (a shallow copy; an answer that no git gives).
        """
        with whose(self._origin):
            return await self._ls_refs()

    async def _ls_refs(self) -> Listing:
        async with self._in_time():
            if self._version != 2 and self._advertised is None:
                await self._greet()
            if self._version == 2:
                return await self._listed_v2()
        listing, self._advertised = self._advertised, None
        return listing or Listing({}, self._format)

    async def _listed_v2(self) -> Listing:
        arguments = [b"symrefs\n"]
        if b"unborn" in self._capabilities.get(b"ls-refs", b"").split():
            arguments.append(b"unborn\n")
        reading, ended = Reading(self._name, self._format), False

        def take(packets: Sequence[Packet]) -> None:
            nonlocal ended
            lines = [packet for packet in packets if isinstance(packet, bytes)]
            marks = len(packets) - len(lines)
            if ended and packets or marks > 1 or marks and packets[-1] != Mark.FLUSH:
                raise Corrupt(f"{self._name} sent more than its refs when they were listed")
            ended = ended or bool(marks)
            reading.add(lines)

        length = await self._read(self._asked.ask(self._command(b"ls-refs", arguments)), take)
        if not ended:
            raise self._broken_off()
        return reading.done() if length <= INLINE else await asyncio.to_thread(reading.done)

    async def fetch(
        self, wants: Sequence[Target], haves: Sequence[Target], progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        """The pack of what `wants` reach and `haves` don't, as it arrives; thin where there are haves.

        It is whole only when the iteration ends by itself. Raises NotOurRef when a
        wanted id is gone, Corrupt when the remote is a shallow copy or broken,
        and whatever `ls_refs` raises.

        Until the pack begins, a remote that counts and compresses has PREPARING seconds, as long as it
        says something now and then (git's keep-alive packets and progress do). From then on only bytes of the
        pack count: where they come slower than one of RATES, it is a NetworkError, whatever else is said.
        What is said beside the pack is bounded: before it by BEFORE_THE_PACK, then by BESIDE_THE_PACK.
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
            async with self._in_time():
                await self._greet()
        wants, haves = list(dict.fromkeys(wants)), list(dict.fromkeys(haves))
        request = self._fetch_v2(wants, haves) if self._version == 2 else self._fetch_v0(wants, haves)
        progress.phase("receiving", None, "bytes")
        clock = asyncio.get_running_loop().time
        before, speeds = Packets(), Speeds(RATES)
        side: SideBand | None = None
        begun, prepared = False, 0.0
        came = carried = remarks = 0  # bytes in all, bytes of the pack, lines
        async with self._asked.ask(request) as chunks:
            asked = clock()
            async for chunk in chunks:
                waited, size, pack = clock() - asked, len(chunk), b""
                if side is None:
                    before.feed(chunk)
                    if self._at_the_pack(before):
                        side, chunk = SideBand(), before.rest
                if side is not None:
                    pack = side.feed(chunk)
                    for line in islice(side.said(), max(0, REMARKS - remarks)):
                        progress.note(f"the remote says: {redact(line, [])}")
                        remarks += 1
                came, carried = came + size, carried + len(pack)
                if came - carried > (BESIDE_THE_PACK + carried // 8 if carried else BEFORE_THE_PACK):
                    raise Corrupt(f"{self._name} sent more messages with its pack than git would")
                begun = begun or bool(pack or side and side.fatal)
                prepared += waited
                if not begun and prepared > PREPARING:
                    raise NetworkError(
                        f"{self._name} did not start sending its pack within {PREPARING:g} s; try again later"
                    )
                if begun and (missed := speeds.is_slow(len(pack), waited)):
                    raise NetworkError(f"{self._name} sends {missed}; try again later")
                if pack:
                    progress.advance(len(pack))
                    yield pack
                asked = clock()
        if side and side.fatal:
            raise self._meaning(side.fatal)
        if not side or not side.ended:
            raise self._broken_off()

    def _at_the_pack(self, packets: Packets) -> bool:
        """Whether what has arrived so far goes up to the pack. Raises what the remote says instead of one."""
        while True:
            if self._version != 2 and packets.peek(4) in (1, 2, 3):
                return True
            packet = packets.take()
            if packet is None:
                return False
            if packets.taken > BEFORE_THE_PACK:
                raise Corrupt(f"{self._name} sent more messages before its pack than git would")
            line = pktline.text(packet)
            if line.startswith(b"ERR "):
                raise self._meaning(line[4:])
            if line.startswith(b"shallow "):
                raise shallow(self._name)
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
            raise Refused(f"the git at {self._name} is too old to back up from; ask the host to update it")
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
        greeting = Greeting(self._name)
        length = await self._read(self._asked.greeting(), greeting.add)
        if not greeting.begun and not greeting.served:
            raise no_repository(self._name, "it does not speak git's protocol")
        if not greeting.ended:
            raise self._broken_off()
        self._version, self._capabilities = greeting.version, greeting.capabilities
        self._format = greeting.object_format
        if self._version == 2 and not {b"ls-refs", b"fetch"} <= self._capabilities.keys():
            raise Refused(f"{self._name} does not allow listing its refs; check the address")
        if self._version == 0:
            done = greeting.reading.done
            self._advertised = done() if length <= INLINE else await asyncio.to_thread(done)

    async def _read(
        self,
        asking: AbstractAsyncContextManager[AsyncIterator[bytes]],
        take: Callable[[Sequence[Packet]], None],
    ) -> int:
        """Hand the lines of an answer on as they arrive; how many bytes they were."""
        lines, length, known = Lines(), 0, 0

        def read(data: bytes) -> None:
            nonlocal known
            packets = lines.feed(data)
            for packet in packets[: max(0, 3 - known)]:
                if isinstance(packet, bytes) and packet.startswith(b"ERR "):
                    raise self._meaning(packet[4:])
            known += len(packets)
            take(packets)

        async with asking as chunks:
            async for chunk in chunks:
                length += len(chunk)
                if length > self._longest:
                    raise LimitReached(
                        f"{self._name} lists more than {self._longest >> 20} MiB of refs; "
                        "to back them up, allow more with EVERREF_LISTING_BYTES"
                    )
                if len(chunk) <= INLINE:
                    read(chunk)
                else:
                    await asyncio.to_thread(read, chunk)
        lines.end()
        return length

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Allow LOOK seconds for the block."""
        try:
            async with asyncio.timeout(LOOK) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise NetworkError(
                f"{self._name} did not list its refs within {LOOK:g} s; try again later"
            ) from None

    def _broken_off(self) -> NetworkError:
        return NetworkError(f"{self._name} closed the connection in mid-answer; try again later")

    def _meaning(self, said: bytes) -> EverrefError:
        """What the remote's own message means."""
        words = redact(said, []).strip()[:200]
        if re.search("not our ref|unadvertised object", words):
            return NotOurRef(f"{self._name} changed while it was being read; try again")
        if re.search("(?i)not found|does not exist|not exported|not appear to be a git repository", words):
            return RemoteGone(f"{self._name}: the host says that the repository does not exist: {words}")
        if re.search("(?i)corrupt|unable to (read|parse)|bad (object|tree)|missing", words):
            return Corrupt(f"{self._name} is damaged, its host says: {words}; have it repaired there")
        return Refused(f"{self._name}: the host says: {words}")


class _Http:
    """Smart HTTP. A redirect is never followed: it would take the credentials along."""

    def __init__(self, session: aiohttp.ClientSession, remote: Remote, clock: Callable[[], datetime]) -> None:
        self._session = session
        self._clock = clock
        self._url = remote.url
        authorization = login.authorization(remote)
        self._authorization = {"Authorization": authorization} if authorization else {}

    def greeting(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._answer(
            "GET", f"info/refs?service={_SERVICE}", f"application/x-{_SERVICE}-advertisement", {}
        )

    def ask(self, request: bytes) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        headers = {"Content-Type": f"application/x-{_SERVICE}-request"}
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
                raise no_repository(
                    self._url, f"it answers with {redact(response.content_type.encode(), [])[:60]}"
                )
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Refused(
                    f"{self._url} answers in a compressed form that was not requested; "
                    "configure the host, or the proxy in front of it, to leave git's answers unchanged"
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
                    raise LimitReached(f"{self._url} was still sending after a day and was stopped")

    async def _refusal(self, response: aiohttp.ClientResponse) -> EverrefError:
        text, at = "", self._clock()
        with suppress(aiohttp.ClientError, TimeoutError):
            text = (await response.content.read(4096)).decode(errors="replace")
        status, headers = response.status, response.headers
        told = backoff.retry_after(headers.get("Retry-After", ""), headers.get("Date", ""), at)
        if is_limit(status, text, told is not None):
            until = told or at + UNTOLD
            return RateLimited(
                f"{self._url}: the host wants no more requests until {until:%H:%M:%S} UTC (HTTP {status}); "
                "Everref asks again then",
                until,
            )
        return refusal(self._url, status, bool(self._authorization), text, headers.get("Location", ""))


def is_limit(status: int, text: str, told: bool) -> bool:
    """Whether an answer means that we ask too often; `told`: it says when we may come again."""
    if status == 403 and re.search("(?i)rate limit|too many requests", text):
        return True
    return status == 429 or (told and status in (403, 503))


def refusal(url: str, status: int, with_secret: bool, text: str = "", location: str = "") -> EverrefError:
    """What an HTTP status other than 200 means; `text` is the beginning of the answer's body."""
    if status == 451 or (
        status == 403 and re.search("(?i)blocked|disabled|dmca|suspended|unavailable", text)
    ):
        return Blocked(f"{url}: the host blocks access to this repository (HTTP {status}); ask the host why")
    if status == 401 and not with_secret:
        return BadCredentials(f"{url} requires credentials, or does not exist; add a token if it is private")
    if status == 401:
        return BadCredentials(f"{url}: the host refuses these credentials; enter new ones")
    if status == 403 and with_secret:
        return BadCredentials(f"{url}: these credentials are not allowed to do this (HTTP 403); use others")
    if status == 403:
        return Blocked(f"{url}: the host forbids access (HTTP 403); add credentials if it is private")
    if status in (404, 410):
        return RemoteGone(
            f"{url}: the repository does not exist or is not visible to us; check address and credentials"
        )
    if status in (301, 302, 303, 307, 308):
        goal = _whither(location)
        where = f" to {goal}" if goal else ""
        return Moved(f"{url} has moved{where}; Everref does not follow redirects: add that address", goal)
    if status == 408 or status >= 500:
        return NetworkError(f"{url}: the host has a problem (HTTP {status}); try again later")
    return no_repository(url, f"it answers with HTTP {status}")


def _whither(location: str) -> str | None:
    """The address that a redirect names, without possible secrets. None: it names none."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return None
    if not parts.hostname:
        return None
    return redact(f"{parts.scheme}://{host}{parts.path.removesuffix('/info/refs')}".encode(), [])[:200]


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Translate network failures into errors of ours. A forbidden address and no route read the same."""
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
        raise NetworkError(f"{url} closed the connection; try again later") from None
    except aiohttp.ClientError:
        raise NetworkError(f"{url} does not answer as an HTTP server; check the address") from None


class _Local:
    """A repository on this machine: one upload-pack for each request, as at a git host."""

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
            raise RemoteGone(f"there is no longer a git repository at {self._path}; check the path")
        try:
            async with (
                self._git.process(
                    "upload-pack",
                    "--stateless-rpc",
                    option,
                    str(directory),
                    env={"GIT_PROTOCOL": "version=2"},
                    env_config={"safe.directory": "*"},  # the person named it, whoever owns it
                ) as child,
                child.fed(request),
                aclosing(self._chunks(child.stdout)) as chunks,
            ):
                yield chunks
        except GitFailed as failed:
            raise _local_failure(failed, self._path) from None

    async def _chunks(self, stdout: Stdout) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    chunk = await stdout.read()
            except TimeoutError:
                raise NetworkError(f"{self._path} has stopped answering; try again later") from None
            if not chunk:
                return
            yield chunk


def _local_failure(failed: GitFailed, path: str) -> EverrefError:
    if "not our ref" in failed.stderr:
        return NotOurRef(f"{path} changed while it was being read; try again")
    if "Permission denied" in failed.stderr:
        return Refused(f"this user may not read {path}: {failed.line}; change its permissions")
    if "does not appear to be a git repository" in failed.stderr:
        return NotFound(f"{path} is not a git repository; check the path")
    return Corrupt(f"{path} is damaged, git says: {failed.line}; repair it and try again")
