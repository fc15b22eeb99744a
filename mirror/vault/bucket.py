"""Requests to one S3 bucket: deadlines, retries, and what S3's errors mean to a user."""

import asyncio
import base64
import io
import ipaddress
import random
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore import exceptions as boto
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError

from mirror.core import locks
from mirror.core.errors import (
    BadCredentials,
    Corrupt,
    EverrefError,
    LimitReached,
    NetworkError,
    OurFault,
    Refused,
    UsageError,
)
from mirror.core.locks import Locking
from mirror.vault.contract import PutLink

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=@+-]*")
_OPTIONS: Final = (
    *("endpoint_url", "region", "connect_timeout", "read_timeout"),
    *("attempts", "presign", "lock", "profile", "sse", "sse_kms_key_id"),
)
_CREATES: Final = frozenset({"put_object", "create_multipart_upload"})
_SSE_HEADERS: Final = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
_SSE: Final = ("AES256", "aws:kms", "aws:kms:dsse")
# No public name ends so.
_NEAR: Final = frozenset("arpa home internal intranet lan local localdomain localhost svc".split())
_CONNECTIONS: Final = 64
_SLOW: Final = 5  # times as long: S3 puts a large upload together within minutes

# What S3 and those who speak it answer, by https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
# and, where an answer has no body, by HTTP status.
_SAME: Final = {
    "404": "NoSuchKey",
    "NotFound": "NoSuchKey",
    "412": "PreconditionFailed",
    "416": "InvalidRange",
}
_AGAIN: Final = frozenset(
    "SlowDown RequestTimeout RequestTimeoutException Throttling ThrottlingException TooManyRequests"
    " TooManyRequestsException RequestLimitExceeded BandwidthLimitExceeded OperationAborted"
    " ConditionalRequestConflict 408 409 429".split()
)
CHANGED: Final = frozenset(
    "BadDigest InvalidDigest XAmzContentSHA256Mismatch XAmzContentChecksumMismatch".split()
)
DENIED: Final = frozenset(
    "AccessDenied AccountProblem AllAccessDisabled ExpiredToken Forbidden InvalidAccessKeyId InvalidToken"
    " SignatureDoesNotMatch TokenRefreshRequired Unauthorized 401 403".split()
)
_ELSEWHERE: Final = frozenset(
    "PermanentRedirect TemporaryRedirect AuthorizationHeaderMalformed IncorrectEndpoint 301 307".split()
)
_FULL: Final = frozenset("EntityTooLarge InsufficientStorage QuotaExceeded XMinioStorageFull 507".split())
# What every S3 answers; where it is missing, something else answered, be it with status 200.
_ALWAYS: Final = {
    "create_multipart_upload": "UploadId",
    "get_object": "ETag",
    "head_object": "ETag",
    "put_object": "ETag",
    "upload_part": "ETag",
}
_KEYLESS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
)
CUT: Final = (
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ConnectionError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store may take, and how often a request is tried."""

    connect: float = 10.0  # seconds until a connection stands
    read: float = 60.0  # seconds in which no byte moves
    attempts: int = 5
    pause: float = 0.25  # seconds before the second attempt; three times as long before each further one
    enough: float = 120.0  # seconds after which no further attempt begins


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """What an s3 URL says."""

    bucket: str
    prefix: str  # "" or without slashes at its ends
    endpoint_url: str | None  # None: AWS, or what AWS_ENDPOINT_URL says
    region: str | None  # None: what AWS_DEFAULT_REGION says
    patience: Patience
    profile: str | None = None  # of the AWS files, whose credentials are used; None: those of AWS_*
    presign: bool | None = None  # whether browsers reach the store; None: by its address, see is_public
    locking: Locking | None = None  # how new objects are locked; None: not at all
    encryption: Mapping[str, str] = field(default_factory=dict)  # that is asked of the store
    says_lock: bool = False  # whether the URL decides about locking, not the setting for all stores


class Told(Exception):
    """An answer that the caller handles itself, by its code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Bucket:
    """One bucket; every request is answered or fails with an EverrefError within a bounded time."""

    def __init__(self, client: Any, place: BucketAddress, connections: AsyncExitStack) -> None:
        self._client = client
        self.name = place.bucket
        url = client.meta.endpoint_url
        self.presigns = is_public(url) if place.presign is None else place.presign
        self._connections = connections
        self._encryption = place.encryption
        self.patience = place.patience
        self.host = urlsplit(url).netloc

    @classmethod
    async def open(cls, place: BucketAddress) -> "Bucket":
        """The bucket at a place; no request is made yet. Raises UsageError, BadCredentials."""
        try:
            session = get_session() if place.profile is None else AioSession(profile=place.profile)
            if await session.get_credentials() is None:
                raise _keyless()
            region = place.region or session.get_config_variable("region") or "us-east-1"
            endpoint = place.endpoint_url or ""
            making = session.create_client(
                "s3",
                region_name=region,
                endpoint_url=place.endpoint_url,
                config=_config(place, in_clear=endpoint.startswith("http:")),
            )
            async with AsyncExitStack() as connections:
                client = await connections.enter_async_context(making)
                # Waiting for "100 Continue" costs a round trip, and never ends behind some proxies.
                client.meta.events.unregister("before-call.s3", add_expect_header)
                return cls(client, place, connections.pop_all())
        except _KEYLESS as error:
            raise _keyless() from error
        except (boto.BotoCoreError, ValueError) as error:
            if place.profile is not None and isinstance(error, boto.ProfileNotFound):
                raise UsageError(
                    f"the AWS files have no profile {place.profile}; add it, or see "
                    "AWS_SHARED_CREDENTIALS_FILE"
                ) from None
            raise UsageError(
                f"the AWS settings cannot be used ({type(error).__name__}); check AWS_*"
            ) from error

    async def aclose(self) -> None:
        await self._connections.aclose()

    def describe(self, prefix: str) -> str:
        """Where it is, for a person."""
        return f"the S3 bucket {'/'.join(filter(None, (self.name, prefix)))} at {self.host}"

    async def call(
        self,
        operation: str,
        *,
        body: bytes | None = None,
        told: Collection[str] = (),
        slow: bool = False,
        **parameters: Any,
    ) -> Any:
        """One request, tried again while that may help. Raises Told for the answers named in `told`."""
        if operation in _CREATES:
            parameters |= self._encryption
        clock = asyncio.get_running_loop().time
        end = clock() + self.patience.enough
        attempt = 1
        while True:
            try:
                answer = await self._attempt(operation, body, slow, parameters)
                if _ALWAYS.get(operation) in (None, *answer):
                    return answer
                raise Refused(f"the server at {self.host} is not an S3 server; correct VAULT_URL")
            except boto.ClientError as error:
                code, status = _code(error)
                if code in told:
                    raise Told(code) from None
                failure, again = self._explain(code, status)
            except _KEYLESS as error:
                raise _keyless() from error
            except CUT as error:
                failure, again = self._unreachable(error)
            except boto.BotoCoreError as error:
                raise OurFault(
                    f"a request to the vault failed ({type(error).__name__}); please report this bug"
                ) from error
            if not again or attempt >= self.patience.attempts or clock() > end:
                raise failure
            await self.pause(attempt)
            attempt += 1

    async def _attempt(
        self, operation: str, body: bytes | None, slow: bool, parameters: dict[str, Any]
    ) -> Any:
        clock = asyncio.get_running_loop().time
        patience = self.patience.read * (_SLOW if slow else 1)
        # aiohttp's read timeout begins once the request is sent; a server may also stop taking it.
        # The body leaves by 64 KiB: taking it slower than some 1,000 bytes a second ends the attempt as well.
        async with asyncio.timeout(self.patience.connect + patience) as limit:
            method = getattr(self._client, operation)
            if body is None:
                return await method(Bucket=self.name, **parameters)
            stream = _Body(body, lambda: limit.reschedule(clock() + patience))
            try:
                return await method(Bucket=self.name, Body=stream, **parameters)
            finally:
                stream.moved = None

    async def pause(self, attempt: int) -> None:
        """Wait after the failure of the attempt of this number, counted from 1."""
        await asyncio.sleep(self.patience.pause * 3 ** (attempt - 1) * random.uniform(0.5, 1))

    async def presign_put(self, expires: int, size: int, sha256: bytes, **parameters: Any) -> PutLink | None:
        """A link to PutObject with these parameters, of these bytes alone; None: no browser gets there.

        The length, the sum and what the bucket's encryption asks are headers that the signature covers:
        https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
        """
        if not self.presigns:
            return None
        digest = base64.b64encode(sha256).decode()
        parameters |= {
            "Bucket": self.name,
            "ContentLength": size,
            "ChecksumSHA256": digest,
            **self._encryption,
        }
        url: str = await self._client.generate_presigned_url(
            "put_object", Params=parameters, ExpiresIn=expires
        )
        asked = {_SSE_HEADERS[name]: value for name, value in self._encryption.items()}
        return PutLink(url, {"x-amz-checksum-sha256": digest, **asked})

    async def presign(self, expires: int, **parameters: Any) -> str | None:
        """A link to GetObject with these parameters, for `expires` seconds; None: no browser gets there."""
        if not self.presigns:
            return None
        parameters["Bucket"] = self.name
        link: str = await self._client.generate_presigned_url(
            "get_object", Params=parameters, ExpiresIn=expires
        )
        return link

    def silent(self) -> NetworkError:
        """The error for a store that stopped answering."""
        return NetworkError(
            f"the vault at {self.host} stopped answering; nothing stored was changed; try again later"
        )

    def _unreachable(self, error: Exception) -> tuple[EverrefError, bool]:
        if isinstance(error, boto.SSLError):
            message = f"the certificate of the vault at {self.host} is not trusted here; see AWS_CA_BUNDLE"
            return Refused(message), False
        return self.silent(), True

    def _explain(self, code: str, status: int) -> tuple[EverrefError, bool]:
        """What an answer means, and whether to ask again."""
        where = f"the vault at {self.host}"
        if code in _FULL:
            return LimitReached(
                f"{where} is full or does not accept an object this large ({code}); make room there"
            ), False
        if code in _AGAIN or status >= 500 and code != "NotImplemented":
            return self._failing(code, status), True
        if code in CHANGED:
            return Corrupt(
                f"bytes were changed on their way to {where} ({code}); check the network and try again"
            ), True
        if code in DENIED:
            return BadCredentials(
                f"{where} refuses this key ({code}); check AWS_* and the key's permissions"
            ), False
        if code == "NoSuchBucket":
            return UsageError(f"{where} has no bucket {self.name}; create it or correct VAULT_URL"), False
        if code in _ELSEWHERE:
            return UsageError(f"the bucket {self.name} is in another region; add region= to VAULT_URL"), False
        if code == "RequestTimeTooSkewed":
            return Refused(f"this machine's clock differs from that of {where}; correct it"), False
        return Refused(f"{where} refused a request ({code}); check what the key may do there"), False

    def _failing(self, code: str, status: int) -> NetworkError:
        return NetworkError(
            f"the vault at {self.host} stopped answering (HTTP {status}, {code});"
            " nothing stored was changed; try again later"
        )


class _Body(io.BytesIO):
    """The bytes of a request; tells when the next ones leave."""

    def __init__(self, data: bytes, moved: Callable[[], None]) -> None:
        super().__init__(data)
        self._data = data
        self.moved: Callable[[], None] | None = moved

    def read(self, size: int | None = -1, /) -> bytes:
        if self.moved:
            with suppress(RuntimeError):  # the deadline has just passed
                self.moved()
        return super().read(size)

    def getbuffer(self) -> memoryview:
        # aiohttp asks for the length this way, and BytesIO would make a copy to lend it.
        return memoryview(self._data)


def parse(url: SplitResult) -> BucketAddress:
    """The place that s3://bucket/prefix?endpoint_url=...&region=... names. Raises UsageError.

    More options: connect_timeout and read_timeout (seconds), attempts, presign (on or off), lock as
    core/locks reads it, profile (of the AWS files, for a store with credentials of its own), sse and
    sse_kms_key_id (how the store itself is asked to encrypt each new object).
    """
    if "@" in url.netloc:
        raise UsageError(
            "VAULT_URL must not contain credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not _NAME.fullmatch(url.netloc):
        raise UsageError("VAULT_URL must name a bucket: s3://bucket/prefix")
    prefix = url.path.strip("/")
    if len(prefix) > 200 or prefix and not all(_PREFIX.fullmatch(name) for name in prefix.split("/")):
        raise UsageError("VAULT_URL: between its slashes the prefix may have only letters, digits and ._=@+-")
    try:
        options = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
    except ValueError:
        raise UsageError("VAULT_URL: write its options as ?endpoint_url=...&region=...") from None
    given = dict(options)
    if url.fragment or len(given) < len(options) or not given.keys() <= set(_OPTIONS):
        raise UsageError(f"VAULT_URL: its options are {', '.join(_OPTIONS)}, each once")
    region = given.get("region")
    if region is not None and not re.fullmatch(r"[a-z0-9-]{1,40}", region):
        raise UsageError("VAULT_URL: region must be a name such as eu-central-1")
    profile = given.get("profile")
    if profile is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", profile):
        raise UsageError("VAULT_URL: profile must be the name of a profile in the AWS files")
    usual = Patience()
    patience = Patience(
        connect=_number(given, "connect_timeout", usual.connect),
        read=_number(given, "read_timeout", usual.read),
        attempts=int(_number(given, "attempts", usual.attempts)),
    )
    if given.get("presign", "on") not in ("on", "off"):
        raise UsageError("VAULT_URL: presign must be on or off")
    presign = given["presign"] == "on" if "presign" in given else None
    return BucketAddress(
        url.netloc,
        prefix,
        _endpoint(given.get("endpoint_url")),
        region,
        patience,
        profile,
        presign,
        locking=locks.read(given["lock"], "VAULT_URL: lock") if "lock" in given else None,
        encryption=_encryption(given),
        says_lock="lock" in given,
    )


def _encryption(given: Mapping[str, str]) -> dict[str, str]:
    """What a request that creates an object says of the store's own encryption. Raises UsageError."""
    sse, key = given.get("sse"), given.get("sse_kms_key_id")
    if sse is not None and sse not in _SSE:
        raise UsageError(f"VAULT_URL: sse must be one of {', '.join(_SSE)}")
    if key is not None and (sse in (None, "AES256") or not re.fullmatch(r"[A-Za-z0-9:/_-]{1,200}", key)):
        raise UsageError("VAULT_URL: sse_kms_key_id must be the id or ARN of a key, beside sse=aws:kms")
    return ({"ServerSideEncryption": sse} if sse else {}) | ({"SSEKMSKeyId": key} if key else {})


def is_public(url: str) -> bool:
    """Whether browsers can probably reach this address, and may open it from an https page."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        return parts.scheme == "https" and ipaddress.ip_address(host).is_global
    except ValueError:  # it is a name
        _, dot, last = host.rpartition(".")
        return parts.scheme == "https" and bool(dot) and last not in _NEAR


def _endpoint(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        usable = (
            parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("VAULT_URL: endpoint_url must be an address such as https://s3.example.com")
    return text


def _number(given: dict[str, str], name: str, default: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) == 0:
        raise UsageError(f"VAULT_URL: {name} must be a number from 1 to 9999")
    return int(text)


def _config(place: BucketAddress, in_clear: bool) -> AioConfig:
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=place.patience.connect,
        read_timeout=place.patience.read,
        max_pool_connections=_CONNECTIONS,
        retries={"total_max_attempts": 1},
        # Our own sums go in headers: the trailers that botocore would choose are unknown to many stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": "path" if place.endpoint_url else "auto",
            "payload_signing_enabled": in_clear,
        },
    )


def _code(error: boto.ClientError) -> tuple[str, int]:
    """The code of an answer, safe to show, and its HTTP status."""
    code = str(error.response.get("Error", {}).get("Code") or "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if not re.fullmatch(r"[A-Za-z0-9.]{1,60}", code):
        code = str(status)
    return _SAME.get(code, code), int(status)


def _keyless() -> BadCredentials:
    return BadCredentials("the vault requires credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
