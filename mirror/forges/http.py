"""Requests to one origin of a forge: all are sent here, and every failure gets its class here.

Connections go to the address that was checked, even if the name's address has
changed since. No redirect is followed, no proxy or cookie is used, and a token
travels in a header alone.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from hashlib import sha256
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from mirror.core.config import App
from mirror.core.errors import (
    BadCredentials,
    Blocked,
    Corrupt,
    EverrefError,
    LimitReached,
    NetworkError,
    Origin,
    OurFault,
    RateLimited,
    Refused,
    RemoteGone,
    met_by,
)
from mirror.core.rules.work import backoff
from mirror.net.reach import resolved

PATIENCE: Final = 5.0  # seconds that a question waits by itself where the forge says "not so fast"
LONGEST: Final = 8 << 20  # bytes of an answer; a page of 100 repositories has less than one million
VALUES: Final = 400_000  # that its JSON may have; such a page has some 15,000, and each takes 60 bytes
PAGES: Final = 1000  # of one listing
FEW_PAGES: Final = 20  # of a listing of what there are few of: hooks of a repository, groups of a person
ROWS: Final = 100_000  # of one listing
ADDRESS: Final = 4096  # characters of the address of a next page
WHOLE: Final = 60.0  # seconds for a question and its answer
SECONDARY: Final = 60.0  # seconds to wait where a forge does not say how long

_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
_PORTS: Final = {"https": 443, "http": 80}
_LINK: Final = re.compile(r"<([^<>]*)>\s*((?:;[^,<]*)*)")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a forge answered."""

    status: int
    headers: httpx.Headers
    body: Any  # its JSON; None: it was empty or is none
    at: datetime  # by our clock

    @property
    def next(self) -> str | None:
        """The address of the next page: RFC 8288's link of relation `next`."""
        for match in _LINK.finditer(self.headers.get("link", "")):
            if re.search(r';\s*rel="?next"?\s*(;|$)', match[2]):
                return match[1]
        return None


class Paging:
    """How far one listing may go: a forge whose every page names a next one comes to an end here."""

    def __init__(self, host: str, first: str, pages: int = PAGES) -> None:
        self.url: str | None = first  # of the page that is due; None: there is none
        self._host = host
        self._pages = pages
        self._seen: set[str] = set()
        self._rows = 0

    def turn(self, rows: int, following: str | None) -> None:
        """A page with so many rows was read; `following` is the one after it. Raises LimitReached."""
        self._seen.add(self.url or "")
        self._rows += rows
        if following in self._seen:
            following = None
        if following and len(following) > ADDRESS:
            raise Corrupt(f"{self._host} gave a next page's address of {len(following)} characters")
        if self._rows > ROWS or (following and len(self._seen) >= self._pages):
            raise LimitReached(
                f"{self._host} lists more than {ROWS} rows, or {self._pages} pages; the rest was not read: "
                "connect with a token that sees less"
            )
        self.url = following


class Http:
    """One origin, by connections that are kept open until `close`."""

    def __init__(
        self, app: App, base: str, *, allow_private: bool, patience: float, clock: Callable[[], datetime]
    ) -> None:
        self.app = app
        self.base = base
        self.host = urlsplit(base).hostname or ""
        self._private = allow_private
        self._patience = patience
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._closed = False
        self._until: dict[bytes, datetime] = {}  # by a token's digest: when it is answered again

    async def close(self) -> None:
        """Hang up, for good: whoever asks later is refused. Safe to run twice."""
        self._closed = True
        if self._client:
            await self._client.aclose()
            self._client = None

    @met_by(Origin.FORGE)
    async def ask(
        self,
        method: str,
        url: str,
        *,
        token: str | None = None,
        json: object = None,
        form: Mapping[str, str] | None = None,
        basic: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        also: Collection[int] = (),
    ) -> Answer:
        """The answer to one question: a path below the base, or an address of the same origin.

        Statuses other than 2xx and 304 are raised as errors of ours unless they are in `also`.
        """
        sent = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # what is unpacked here has no bound
            "User-Agent": "everref",
            **(headers or {}),
        }
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        whose = sha256((token or "").encode()).digest()
        await self._wait(whose)
        for last in (False, True):
            request = self._open().build_request(
                method, self._place(url), headers=sent, json=json, data=form, timeout=_TIMEOUT
            )
            if basic:
                httpx_auth = httpx.BasicAuth(*basic)
                request = next(httpx_auth.sync_auth_flow(request))
            answer = await self._send(request, again=method == "GET")
            limited = retry_at(answer)
            if limited is None:
                break
            self._until[whose] = limited
            if last:
                raise self._too_fast(limited)
            await self._wait(whose)
        self._until.pop(whose, None)
        if _remaining(answer) == 0 and (reset := _reset(answer)):
            self._until[whose] = reset  # this one was answered; the next would not be
        if 200 <= answer.status < 300 or answer.status == 304 or answer.status in also:
            return answer
        raise self.explained(answer)

    def explained(self, answer: Answer) -> EverrefError:
        """The error that a status means."""
        status, said, host = answer.status, message(answer.body), self.host
        words = f": {said}" if said else ""
        if status == 401:
            return BadCredentials(f"{host} refuses the token; connect again")
        if status in (404, 410):
            return RemoteGone(f"{host}: it does not exist, or this token may not see it")
        if status == 451 or (status == 403 and _is_blocked(answer.body, said)):
            return Blocked(f"{host} has blocked access{words}")
        if 300 <= status < 400:
            return OurFault(
                f"{host} answers with a redirect; set {self.app.forge.upper()}_URL to its new address"
            )
        if status >= 500 or status == 408:
            return NetworkError(f"{host} answered with HTTP {status}; try again later")
        if isinstance(answer.body, Mapping) and answer.body.get("error") == "insufficient_scope":
            scopes = " or ".join(str(answer.body.get("scope") or "").split()[:10])
            return Refused(
                f"{host} requires a token with the scope {scopes or 'for this'}; connect again with it"
            )
        if 400 <= status < 500:
            return Refused(f"{host} refused the request (HTTP {status}){words}")
        return Corrupt(f"{host} answered with the unexpected status {status}")

    async def _wait(self, whose: bytes) -> None:
        """Wait until this token is answered again, where that is soon. Raises RateLimited where it is not."""
        now = self._clock()
        until = self._until.get(whose)
        if until is None:
            return
        seconds = (until - now).total_seconds()
        if seconds > self._patience:
            raise self._too_fast(until)
        if seconds > 0:
            await asyncio.sleep(seconds)
        self._until = {key: moment for key, moment in self._until.items() if moment > now and key != whose}

    def _too_fast(self, until: datetime) -> RateLimited:
        return RateLimited(
            f"{self.host} accepts no more requests until {until:%H:%M:%S} UTC; Everref asks again then", until
        )

    def _place(self, url: str) -> str:
        if url.startswith("/"):
            return self.base + url
        wanted, ours = urlsplit(url), urlsplit(self.base)
        if (wanted.scheme, wanted.netloc) != (ours.scheme, ours.netloc):
            raise Corrupt(f"{self.host} points to another host for its next page; it was not followed")
        return url

    def _open(self) -> httpx.AsyncClient:
        if self._closed:
            raise NetworkError(f"this process is stopping and sends {self.host} no more requests")
        if self._client is None:
            self._client = httpx.AsyncClient(
                transport=_Dialling(self._private),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                follow_redirects=False,
                trust_env=False,
            )
        return self._client

    async def _send(self, request: httpx.Request, again: bool) -> Answer:
        try:
            async with asyncio.timeout(WHOLE):
                response = await self._open().send(request, stream=True)
                try:
                    if response.headers.get("content-encoding", "identity").lower() != "identity":
                        raise Refused(f"{self.host} answers in a compressed form that was not requested")
                    body = await self._read(response)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException):
            raise NetworkError(f"{self.host} did not answer in time; try again later") from None
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:  # a kept connection may have been cut
            if again:
                return await self._send(request, again=False)
            raise self._unreached(error) from None
        except httpx.HTTPError as error:
            raise self._unreached(error) from None
        if sum(map(body.count, (b",", b"[", b"{"))) > VALUES:
            raise LimitReached(f"{self.host} answered with more than {VALUES} values; it was not read")
        return Answer(response.status_code, response.headers, _json(body), self._clock())

    def _unreached(self, error: httpx.HTTPError) -> NetworkError:
        if "certificate verify failed" in str(error).lower():
            return NetworkError(
                f"the certificate of {self.host} cannot be verified; check it, or trust its authority"
            )
        return NetworkError(f"cannot reach {self.host} from here; check the address and the network")

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > LONGEST:
                raise LimitReached(
                    f"{self.host} answered with more than {LONGEST >> 20} MiB; it was not read"
                )
        return bytes(body)


class _Dialling(httpx.AsyncBaseTransport):
    """Dials what was judged, under the name that was asked for: TLS and Host keep that."""

    def __init__(self, allow_private: bool) -> None:
        self._private = allow_private
        self._inner = httpx.AsyncHTTPTransport(verify=_authorities(), trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        addresses = await resolved(url.host, url.port or _PORTS[url.scheme], self._private)
        extensions = {**request.extensions, "sni_hostname": url.host}
        for address in addresses:
            dialled = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions=extensions,
            )
            try:
                return await self._inner.handle_async_request(dialled)
            except (httpx.ConnectError, httpx.ConnectTimeout):  # nothing was sent yet
                if address == addresses[-1]:
                    raise
        raise AssertionError("a name without an address")

    async def aclose(self) -> None:
        await self._inner.aclose()


@cache
def _authorities() -> ssl.SSLContext:
    """Who is trusted on this machine; SSL_CERT_FILE adds to it, as it does for git."""
    return ssl.create_default_context()


def retry_at(answer: Answer) -> datetime | None:
    """When a forge that was asked too often answers again. None: it was not.

    GitHub says 403 or 429, with retry-after, or x-ratelimit-remaining 0 and the time of the reset,
    or neither, where a minute is to be waited; GitLab says 429 with Retry-After.
    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers
    """
    told = backoff.retry_after(
        answer.headers.get("retry-after", ""), answer.headers.get("date", ""), answer.at, least=0
    )
    if answer.status == 503 and told:
        return told
    if answer.status not in (403, 429) or (answer.status == 403 and "ratelimit-limit" in answer.headers):
        return None  # GitLab's 403 is never about how often
    if told:
        return told
    if _remaining(answer) == 0 and (reset := _reset(answer)):
        return reset
    if answer.status == 429 or "secondary rate limit" in (message(answer.body) or "").lower():
        return answer.at + timedelta(seconds=SECONDARY)
    return None


def _remaining(answer: Answer) -> int | None:
    text = answer.headers.get("x-ratelimit-remaining") or answer.headers.get("ratelimit-remaining") or ""
    return int(text) if text.isdecimal() else None


def _reset(answer: Answer) -> datetime | None:
    """The time of the reset by our clock: the forge's own may differ, so its Date is subtracted."""
    text = answer.headers.get("x-ratelimit-reset") or answer.headers.get("ratelimit-reset") or ""
    if not text.isdecimal():
        return None
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        theirs = answer.at
    seconds = int(text) - theirs.timestamp()
    return answer.at + timedelta(seconds=min(max(seconds, 1.0), 86400.0))


def message(body: object) -> str | None:
    """What a forge says in an error, in a line. None: nothing.

    GitHub: {"message", "errors": [{"message"}]}. GitLab: {"message": "..."} or {"message": {field: [...]}},
    {"error", "error_description"}.
    """
    if not isinstance(body, Mapping):
        return None
    said = body.get("message") or body.get("error_description") or body.get("error")
    words = _flat(said)
    if isinstance(errors := body.get("errors"), list):
        words += [word for one in errors if isinstance(one, Mapping) for word in _flat(one.get("message"))]
    line = "; ".join(words)
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line[:200] or None


def _flat(said: object) -> list[str]:
    if isinstance(said, str):
        return [said]
    if isinstance(said, Mapping):
        return [f"{key} {word}" for key, value in said.items() for word in _flat(value)]
    if isinstance(said, list):
        return [word for one in said for word in _flat(one)]
    return []


def _is_blocked(body: object, said: str | None) -> bool:
    """GitHub: 403 {"message": "Repository access blocked", "block": {"reason": ...}}."""
    return isinstance(body, Mapping) and ("block" in body or "access blocked" in (said or "").lower())


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
