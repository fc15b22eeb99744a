"""The vault in S3 or a compatible store: an object is one PUT or one multipart upload."""

import asyncio
import base64
import re
import secrets
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult, quote
from uuid import UUID

from mirror.core import lowspeed
from mirror.core.errors import (
    AlreadyExists,
    BadCredentials,
    Busy,
    Corrupt,
    EverrefError,
    LimitReached,
    Locked,
    NetworkError,
    NoSuchObject,
    Refused,
)
from mirror.core.formats import layout
from mirror.core.locks import Lock, Locking, LockMode, LockProof
from mirror.core.lowspeed import LowSpeed
from mirror.vault import hazards, worm
from mirror.vault.bucket import CHANGED, CUT, DENIED, Bucket, Patience, Told, parse
from mirror.vault.contract import (
    GET_LIMIT,
    Capabilities,
    PutLink,
    Stat,
    Unfinished,
    check_key,
    check_prefix,
    lockless,
    too_large,
)

MIB: Final = 1 << 20
PART: Final = 8 * MIB  # larger ones are slower and take more memory
AT_ONCE: Final = 4  # parts of one upload on their way, while they are small
LEAST_SPEED: Final = lowspeed.LIMIT
SLOW_SECONDS: Final = lowspeed.TIME
CHUNK: Final = MIB  # what `read` gives at once
PAGE: Final = 1000  # keys of one answer, the most that S3 gives
_PARTS: Final = 10_000  # of one upload at most, a rule of S3
_SMALL_PARTS: Final = 7_000  # 54 GiB in parts of 8 MiB; from there on they grow, to reach 5 TiB with the rest
_PROBE: Final = ".everref-probe-"
_ARCHIVED: Final = (
    "InvalidObjectState"  # of an object that must be restored from an archive before it is read
)
_WRITER: Final = "everref-writer"  # metadata that tells whose write it was when its answer was lost
_COPY_OF: Final = "everref-copy-of"  # metadata: the version that this one brings back
_ABORT_WITHIN: Final = 15.0  # seconds; what cannot be aborted by then is found by `unfinished`


def _now() -> datetime:
    return datetime.now(UTC)


class S3Vault:
    """A Vault in a bucket, under a prefix."""

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        page: int = PAGE,
        locking: Locking | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._bucket = bucket
        self._root = prefix
        self._prefix = f"{prefix}/" if prefix else ""
        self._page = page
        self._locking = locking
        self._clock = clock  # for the ends of locks
        self._capabilities: Capabilities | None = None
        self._lockable = False  # whether the bucket was found to have Object Lock
        self._versioned: bool | None = None  # None: nobody has asked
        self._checks_sha256: bool | None = None  # None: it was not tried yet
        self._probe_key = f"{_PROBE}{secrets.token_hex(8)}"
        self._probing = asyncio.Lock()
        # Whether this store honours If-None-Match. None: not known, so every create looks first.
        self._conditional = True if bucket.host.endswith(".amazonaws.com") else None

    @classmethod
    async def open(
        cls,
        url: SplitResult,
        patience: Patience | None = None,
        page: int = PAGE,
        *,
        locking: Locking | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> "S3Vault":
        """The vault at an s3 URL; no request is made yet. `locking` counts unless the URL says `lock=`.

        Raises UsageError, BadCredentials.
        """
        place = parse(url)
        if patience:
            place = replace(place, patience=patience)
        chosen = place.locking if place.says_lock else locking
        return cls(await Bucket.open(place), place.prefix, page, chosen, clock)

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator["UploadWriter"]:
        writer = UploadWriter(self, check_key(key))
        try:
            yield writer
        finally:
            await writer.close()

    async def put(self, key: str, data: bytes) -> None:
        await self._refuse_taken(check_key(key), known=self._conditional)
        writer = secrets.token_hex(8)
        condition: dict[str, Any] = {} if self._conditional is False else {"IfNoneMatch": "*"}
        try:
            await self._bucket.call(
                "put_object",
                body=data,
                told=("PreconditionFailed", "NotImplemented") if condition else (),
                Key=self._prefix + key,
                ChecksumCRC32=await _crc32(data),
                Metadata={_WRITER: writer},
                **await self._lock_of_new(key),
                **condition,
            )
        except Told as told:
            if told.code == "NotImplemented":
                self._conditional = False
                await self.put(key, data)
            elif not await self._wrote(key, writer):
                raise _taken(key) from None

    async def _refuse_taken(self, key: str, known: bool | None) -> None:
        if not known and await self.stat(key):
            raise _taken(key)

    async def _wrote(self, key: str, writer: str) -> bool:
        """Whether this writer made the object at `key`, in an attempt whose answer was lost."""
        answer = await self._head(key)
        return bool(answer) and answer.get("Metadata", {}).get(_WRITER) == writer

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if end is not None and end <= start:
            if not await self.stat(key):
                raise _missing(key)
            return
        offset, failures = start, 0
        speed = LowSpeed(LEAST_SPEED, SLOW_SECONDS)
        etag: str | None = None
        while end is None or offset < end:
            answer = await self._get(check_key(key), offset, end, etag)
            if answer is None:
                return
            etag, end = answer["ETag"], offset + answer["ContentLength"]
            async with answer["Body"] as body:
                while offset < end and (chunk := await self._gather(body, speed)):
                    offset, failures = offset + len(chunk), 0
                    yield chunk
            if offset < end:
                failures += 1
                if failures >= self._bucket.patience.attempts:
                    raise self._bucket.silent()
                await self._bucket.pause(failures)

    async def _gather(self, body: Any, speed: LowSpeed) -> bytes:
        """The next bytes of an answer, about a chunk; fewer or none where it ended or was cut."""
        pieces, size, clock = [], 0, asyncio.get_running_loop().time
        with suppress(*CUT):
            asked = clock()
            while size < CHUNK and (piece := await body.read(CHUNK - size)):
                pieces.append(piece)
                size += len(piece)
                if speed.is_slow(len(piece), clock() - asked):
                    raise NetworkError(
                        f"the vault at {self._bucket.host} sends less than {LEAST_SPEED} bytes a second; "
                        "nothing stored was changed; try again later"
                    )
                asked = clock()
        return b"".join(pieces)

    async def _get(self, key: str, start: int, end: int | None, etag: str | None) -> Any:
        """The answer with these bytes; None: the object ends before them."""
        wanted: dict[str, Any] = {}
        if start or end is not None:
            wanted["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if etag:
            wanted["IfMatch"] = etag
        told = ("NoSuchKey", "InvalidRange", "PreconditionFailed", _ARCHIVED)
        try:
            answer = await self._bucket.call("get_object", told=told, Key=self._prefix + key, **wanted)
        except Told as answered:
            if answered.code == "InvalidRange":
                return None
            if answered.code == "NoSuchKey":
                raise _missing(key) from None
            if answered.code == _ARCHIVED:
                raise Refused(
                    f"{key} is in an archive of the store and cannot be read at once; have the store restore"
                    " it there (S3 RestoreObject), which takes minutes to days, and try again then"
                ) from None
            raise Corrupt(f"{key} in the vault was replaced while it was read") from None
        if start and "ContentRange" not in answer:
            answer["Body"].close()
            raise Refused(f"the vault ({self.describe()}) cannot read part of an object; use another store")
        return answer

    async def get(self, key: str, limit: int = GET_LIMIT) -> bytes:
        chunks, size = [], 0
        async with aclosing(self.read(key)) as stream:
            async for chunk in stream:
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise too_large(key, limit)
        return b"".join(chunks)

    async def stat(self, key: str) -> Stat | None:
        answer = await self._head(check_key(key))
        return answer and Stat(
            key, answer["ContentLength"], answer["LastModified"].astimezone(UTC), _class_of(answer)
        )

    async def _head(self, key: str) -> Any:
        try:
            return await self._bucket.call("head_object", told=("NoSuchKey",), Key=self._prefix + key)
        except Told:
            return None

    async def unfinished(self, prefix: str = "") -> Sequence[Unfinished]:
        found = []
        async for upload in self._uploads(check_prefix(prefix)):
            found.append(Unfinished(upload["Key"][len(self._prefix) :], upload["Initiated"].astimezone(UTC)))
        return sorted(found, key=lambda one: (one.key, one.since))

    async def _uploads(self, prefix: str) -> AsyncGenerator[Any, None]:
        prefix = self._prefix + prefix
        marker: dict[str, Any] = {}
        told = ("NoSuchUpload", "NotImplemented")  # the first is rclone's word for none
        while True:
            try:
                page = await self._bucket.call(
                    "list_multipart_uploads", told=told, Prefix=prefix, MaxUploads=self._page, **marker
                )
            except Told:
                return
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(prefix):
                    yield upload
            if not page.get("IsTruncated"):
                return
            # Some stores give one of the two alone.
            after = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
            marker = {name: value for name, value in after.items() if value}

    async def list(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        check_prefix(prefix)
        marker: dict[str, Any] = {}
        while True:
            page = await self._bucket.call(
                "list_objects_v2", Prefix=self._prefix + prefix, MaxKeys=self._page, **marker
            )
            for item in page.get("Contents", ()):
                key = item["Key"][len(self._prefix) :]
                if key.startswith(prefix) and not key.startswith(_PROBE):
                    modified = item["LastModified"].astimezone(UTC)
                    yield Stat(key, item["Size"], modified, _class_of(item))
            if not page.get("IsTruncated"):
                return
            marker = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, key: str) -> None:
        check_key(key)
        if not await self._keeps_versions():
            with suppress(Told):
                await self._bucket.call("delete_object", told=("NoSuchKey",), Key=self._prefix + key)
            return
        # The bytes first, and what hides them last: a deletion that breaks off is found by `hidden`.
        found = [one async for one in self._versions(key) if one.key == key]
        for one in sorted(found, key=lambda one: (one.is_marker, one.is_latest)):
            await self._delete_version(one)

    async def _delete_version(self, one: "_Version") -> None:
        which: dict[str, Any] = {"Key": self._prefix + one.key, "VersionId": one.id}
        try:
            await self._bucket.call("delete_object", told=("NoSuchKey", "NoSuchVersion"), **which)
        except Told:
            return
        except BadCredentials:
            if one.is_marker:
                raise
            locked = _lock_of(await self._bucket.call("head_object", **which))
            if locked is None:
                raise
            raise locked from None

    def locking(self) -> Locking | None:
        return self._locking

    async def _lock_of_new(self, key: str) -> dict[str, Any]:
        """What a request that creates an object says about its lock. Raises Refused as `_check_lockable`."""
        if self._locking is None or key.startswith((layout.EXPORTS, _PROBE)):
            return {}
        await self._check_lockable()
        return {
            "ObjectLockMode": self._locking.mode.upper(),
            "ObjectLockRetainUntilDate": self._locking.until(self._clock()),
        }

    async def retain(self, key: str, until: datetime) -> None:
        if self._locking is None:
            raise lockless(self.describe())
        # Never BypassGovernanceRetention: nothing that Everref sends can end a lock early.
        retention = {"Mode": self._locking.mode.upper(), "RetainUntilDate": until}
        try:
            await self._lock("put_object_retention", key, Retention=retention)
        except BadCredentials:
            # That is also the answer to an attempt to shorten a lock, which then stays as it is.
            lock = await self.locked_until(key)
            if lock is None or lock.until is None or lock.until < until:
                raise

    async def hold(self, key: str, on: bool) -> None:
        await self._lock("put_object_legal_hold", key, LegalHold={"Status": "ON" if on else "OFF"})

    async def _lock(self, operation: str, key: str, **wanted: Any) -> None:
        """Change the lock of an object. Raises NoSuchObject; Refused where the bucket has no Object Lock."""
        await self._check_lockable()
        try:
            await self._bucket.call(
                operation, told=("NoSuchKey",), Key=self._prefix + check_key(key), **wanted
            )
        except Told:
            raise _missing(key) from None

    async def _check_lockable(self) -> None:
        """Raise Refused unless the bucket says that it has Object Lock.

        A store that does not know locks takes a request about one for a PUT of the object itself.
        """
        if not self._lockable:
            try:
                self._lockable = _locks(await self._bucket.call("get_object_lock_configuration"))
            except Refused:  # there is none, or the store does not know the question
                self._lockable = False
            if not self._lockable:
                raise lockless(self.describe())

    async def locked_until(self, key: str) -> Lock | None:
        answer = await self._head(check_key(key))
        if answer is None:
            raise _missing(key)
        until = answer.get("ObjectLockRetainUntilDate")
        is_held = answer.get("ObjectLockLegalHoldStatus") == "ON"
        if until is None:
            return Lock(None, None, True) if is_held else None
        return Lock(LockMode(answer["ObjectLockMode"].lower()), until.astimezone(UTC), is_held)

    async def prove_lock(self) -> LockProof:
        await self._check_lockable()
        mode = self._locking.mode if self._locking else LockMode.GOVERNANCE
        canaries = f"{self._prefix}{_PROBE}lock-"
        trials = await worm.Prover(self._bucket, canaries, mode, self._clock()).prove()
        return LockProof(tuple(trials), tuple(await hazards.look(self._bucket, self._prefix, self._locking)))

    async def uncover(self, prefix: str = "") -> AsyncGenerator[str, None]:
        if not await self._keeps_versions():
            return
        versions: dict[str, list[_Version]] = {}
        async for one in self._versions(check_prefix(prefix)):
            if not one.key.startswith(_PROBE):
                versions.setdefault(one.key, []).append(one)
        for key, found in versions.items():
            if len(found) > 1 and await self._uncover(found):
                yield key

    async def _uncover(self, versions: Sequence["_Version"]) -> bool:
        """Make the first of these versions of one object current. False: it is."""
        stored = [one for one in versions if not one.is_marker]  # newest first
        if not stored or stored[-1].is_latest:
            return False
        first = stored[-1]
        try:
            for one in [*stored[:-1], *(one for one in versions if one.is_marker)]:
                await self._delete_version(one)
        except Locked:
            return await self._put_on_top(first)  # whoever overwrote it locked that as well
        return True

    async def _put_on_top(self, first: "_Version") -> bool:
        """Make a copy of this version the current one. False: it is, by an earlier call."""
        key, mark = self._prefix + first.key, {_COPY_OF: first.id}
        head = await self._head(first.key)
        if head is not None and head.get("Metadata", {}).get(_COPY_OF) == first.id:
            return False
        await self._bucket.call(
            "copy_object",
            slow=True,
            Key=key,
            CopySource={"Bucket": self._bucket.name, "Key": key, "VersionId": first.id},
            Metadata=mark,
            MetadataDirective="REPLACE",
            **await self._lock_of_new(first.key),
        )
        return True

    async def _keeps_versions(self) -> bool:
        """Whether the bucket keeps versions, or did once."""
        if self._versioned is None:
            try:
                answer = await self._bucket.call("get_bucket_versioning")
            except (Refused, BadCredentials):  # many stores do not know the question
                answer = {}
            self._versioned = bool(answer.get("Status"))
        return self._versioned

    async def _versions(self, prefix: str) -> AsyncGenerator["_Version", None]:
        marker: dict[str, Any] = {}
        while True:
            page = await self._bucket.call(
                "list_object_versions", Prefix=self._prefix + prefix, MaxKeys=self._page, **marker
            )
            for kind in ("Versions", "DeleteMarkers"):
                for item in page.get(kind, ()):
                    yield _Version(
                        item["Key"][len(self._prefix) :],
                        item["VersionId"],
                        kind == "DeleteMarkers",
                        item["IsLatest"],
                        item.get("Size", 0),
                        item["LastModified"].astimezone(UTC),
                    )
            if not page.get("IsTruncated"):
                return
            after = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker")}
            marker = {name: value for name, value in after.items() if value}

    async def hidden(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        if not await self._keeps_versions():
            return
        sizes: dict[str, int] = {}
        gone: dict[str, datetime] = {}
        async for one in self._versions(check_prefix(prefix)):
            if one.is_latest and one.is_marker:
                gone[one.key] = one.modified
            elif not one.is_latest:
                sizes[one.key] = sizes.get(one.key, 0) + one.bytes
        for key, modified in gone.items():
            if not key.startswith(_PROBE):
                yield Stat(key, sizes.get(key, 0), modified)

    async def discard(self, key: str) -> None:
        await self.give_up(key)
        with suppress(Locked):
            await self.delete(key)

    async def give_up(self, key: str) -> None:
        async for upload in self._uploads(check_key(key)):
            if upload["Key"] == self._prefix + key:
                await self.abort(key, upload["UploadId"])

    async def presign(self, key: str, expires: timedelta, filename: str) -> str | None:
        plain = re.sub(r'[^ -~]|["%\\]', "_", filename)
        return await self._bucket.presign(
            int(expires.total_seconds()),
            Key=self._prefix + check_key(key),
            ResponseContentDisposition=(  # RFC 6266
                f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
            ),
        )

    async def presign_put(self, key: str, expires: timedelta, size: int, sha256: bytes) -> PutLink | None:
        if self._checks_sha256 is None and self._bucket.presigns:
            self._checks_sha256 = await self._refuses(ChecksumSHA256=base64.b64encode(bytes(32)).decode())
        if not self._checks_sha256:  # some stores repeat whatever sum they were told
            return None
        return await self._bucket.presign_put(
            int(expires.total_seconds()), size, sha256, Key=self._prefix + check_key(key)
        )

    async def kept_sha256(self, key: str) -> bytes | None:
        try:
            answer = await self._bucket.call(
                "head_object", told=("NoSuchKey",), Key=self._prefix + check_key(key), ChecksumMode="ENABLED"
            )
        except Told:
            raise _missing(key) from None
        told = answer.get("ChecksumSHA256")
        # That of a multipart upload is of its parts' sums, and says so by a dash and their number.
        return None if told is None or "-" in told else base64.b64decode(told)

    async def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            self._capabilities = Capabilities(
                conditional_create=await self._probe_condition(),
                checksums=await self._refuses(ChecksumCRC32=await _crc32(b"other bytes")),
                object_lock=await self._answers("get_object_lock_configuration", _locks),
                versioning=await self._answers("get_bucket_versioning", _keeps_versions),
            )
            self._conditional = self._capabilities.conditional_create
        return self._capabilities

    async def _probe_condition(self) -> bool:
        told = ("PreconditionFailed", "NotImplemented")
        async with self._probe() as key:
            try:
                for _ in range(2):
                    await self._bucket.call("put_object", body=b"", told=told, Key=key, IfNoneMatch="*")
            except Told as answered:
                return answered.code == "PreconditionFailed"
        return False

    async def _refuses(self, **sum_of_others: Any) -> bool:
        """Whether the store refuses bytes with the checksum of others."""
        told = (*CHANGED, "InvalidRequest", "InvalidArgument")
        async with self._probe() as key:
            try:
                await self._bucket.call("put_object", body=b"some bytes", told=told, Key=key, **sum_of_others)
            except Told:
                return True
        return False

    @asynccontextmanager
    async def _probe(self) -> AsyncIterator[str]:
        key = f"{self._prefix}{_PROBE}{secrets.token_hex(8)}"
        try:
            yield key
        finally:
            # Where this may not be deleted, a small object stays, which `list` does not show.
            with suppress(Told):
                await self._bucket.call("delete_object", told=("NoSuchKey", *DENIED), Key=key)

    async def _answers(self, question: str, yes: Callable[[Any], bool]) -> bool:
        try:
            return yes(await self._bucket.call(question))
        except (Refused, BadCredentials, NetworkError):  # many stores do not know the question
            return False

    async def now(self) -> datetime | None:
        answer = await self._bucket.call("list_objects_v2", Prefix=self._prefix, MaxKeys=1)
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        try:  # the Date of RFC 9110, section 6.6.1
            return parsedate_to_datetime(told).astimezone(UTC)
        except ValueError:
            return None

    async def probe(self) -> None:
        # An upload that is never completed leaves nothing, where objects cannot be deleted neither.
        key = self._probe_key
        async with self._probing:
            upload_id = await self.begin(key, key)
            await self.upload(key, upload_id, 1, b"some bytes")
            await self._head(key)
            await self.abort(key, upload_id)
            async for upload in self._uploads(
                key
            ):  # those of earlier tries, whose beginning was not answered
                await self.abort(key, upload["UploadId"])

    def expect(self, identity: UUID) -> None:
        return None  # a bucket is not unmounted by accident: it is recognised at first, and by each probe

    async def recognise(self) -> None:
        return None  # the edge does

    def directory(self) -> None:
        return None

    def describe(self) -> str:
        return self._bucket.describe(self._root)

    async def aclose(self) -> None:
        await self._bucket.aclose()

    async def begin(self, key: str, writer: str) -> str:
        """Start a multipart upload and return its id."""
        answer = await self._bucket.call(
            "create_multipart_upload",
            Key=self._prefix + key,
            ChecksumAlgorithm="CRC32",
            Metadata={_WRITER: writer},
            **await self._lock_of_new(key),
        )
        upload_id: str = answer["UploadId"]
        return upload_id

    async def upload(self, key: str, upload_id: str, number: int, data: bytes) -> dict[str, Any]:
        """Upload a part and return what the completion must say about it."""
        crc32 = await _crc32(data)
        try:
            answer = await self._bucket.call(
                "upload_part",
                body=data,
                told=("NoSuchUpload",),
                Key=self._prefix + key,
                UploadId=upload_id,
                PartNumber=number,
                ChecksumCRC32=crc32,
            )
        except Told:
            raise _discarded(key) from None
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        # A store that does not keep sums is not told of them again.
        return part | ({"ChecksumCRC32": crc32} if answer.get("ChecksumCRC32") else {})

    async def complete(self, key: str, upload_id: str, parts: Sequence[dict[str, Any]], writer: str) -> None:
        """Make an object of the parts."""
        # Stores honour the condition here more rarely than for a PUT, and some let two racers win.
        await self._refuse_taken(key, known=False)
        condition: dict[str, Any] = {} if self._conditional is False else {"IfNoneMatch": "*"}
        try:
            await self._bucket.call(
                "complete_multipart_upload",
                slow=True,
                told=("PreconditionFailed", "NoSuchUpload", "NotImplemented"),
                Key=self._prefix + key,
                UploadId=upload_id,
                MultipartUpload={"Parts": list(parts)},
                **condition,
            )
        except Told as told:
            if told.code == "NotImplemented" and condition:
                self._conditional = False
                await self.complete(key, upload_id, parts, writer)
            elif await self._wrote(key, writer):
                return
            elif told.code == "NoSuchUpload":
                raise _discarded(key) from None
            else:
                raise _taken(key) from None

    async def abort(self, key: str, upload_id: str) -> None:
        """Abort a multipart upload and discard the parts that arrived."""
        with suppress(Told):
            await self._bucket.call(
                "abort_multipart_upload", told=("NoSuchUpload",), Key=self._prefix + key, UploadId=upload_id
            )


class UploadWriter:
    """A Writer that uploads full parts while the next one is gathered; what fits into one part is one PUT."""

    def __init__(self, vault: S3Vault, key: str) -> None:
        self._vault = vault
        self._key = key
        self._writer = secrets.token_hex(8)
        self._gathered: list[memoryview] = []
        self._bytes = 0  # gathered
        self._sent = 0  # bytes in the parts so far
        self._size = PART  # of the part that is gathered
        self._upload_id: str | None = None  # None: no part was full yet
        self._parts: dict[int, dict[str, Any]] = {}
        self._on_their_way: dict[asyncio.Task[dict[str, Any]], int] = {}

    async def write(self, data: bytes) -> None:
        # A part is sent once a byte more than it is there: the last one can then never be empty.
        rest = memoryview(data)
        while self._bytes + len(rest) > self._size:
            fitting = self._size - self._bytes
            self._gathered.append(rest[:fitting])
            rest = rest[fitting:]
            await self._send()
        self._gathered.append(rest)
        self._bytes += len(rest)

    async def commit(self) -> None:
        if self._upload_id is None:
            await self._vault.put(self._key, b"".join(self._gathered))
            return
        await self._send()
        await self._arrived(at_most=0)
        parts = [self._parts[number] for number in sorted(self._parts)]
        await self._vault.complete(self._key, self._upload_id, parts, self._writer)
        self._upload_id = None

    async def _send(self) -> None:
        """Send what was gathered as the next part. All but the last have one size: some stores ask it."""
        data = b"".join(self._gathered)
        self._gathered, self._bytes = [], 0
        number = len(self._parts) + len(self._on_their_way) + 1
        if number > _PARTS:
            raise LimitReached(f"{self._key} is larger than the largest object that S3 accepts")
        if self._upload_id is None:
            self._upload_id = await self._vault.begin(self._key, self._writer)
        await self._arrived(at_most=max(1, AT_ONCE * PART // self._size) - 1)
        sending = self._vault.upload(self._key, self._upload_id, number, data)
        self._on_their_way[asyncio.create_task(sending)] = number
        self._sent += len(data)
        self._size = part_size(number + 1, self._sent)

    async def _arrived(self, at_most: int) -> None:
        """Wait until at most `at_most` parts are being sent. Raises the error of one that failed."""
        while len(self._on_their_way) > at_most:
            done, _ = await asyncio.wait(self._on_their_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._parts[self._on_their_way.pop(task)] = task.result()

    async def close(self) -> None:
        """Leave nothing that was not committed."""
        for task in self._on_their_way:
            task.cancel()
        await asyncio.gather(*self._on_their_way, return_exceptions=True)
        if self._upload_id:
            with suppress(EverrefError, TimeoutError):
                async with asyncio.timeout(_ABORT_WITHIN):
                    await self._vault.abort(self._key, self._upload_id)


@dataclass(frozen=True, slots=True)
class _Version:
    """One of the versions of an object, or the marker that one was deleted."""

    key: str
    id: str
    is_marker: bool
    is_latest: bool
    bytes: int
    modified: datetime


def _lock_of(answer: Any) -> Locked | None:
    """Why an object cannot be deleted; None: no lock of its own keeps it."""
    if answer.get("ObjectLockLegalHoldStatus") == "ON":
        return Locked("a legal hold in the vault prevents that (S3 Object Lock)", None)
    until = answer.get("ObjectLockRetainUntilDate")
    if until is None:
        return None
    until = until.astimezone(UTC)
    return Locked(f"the vault retains it until {until:%Y-%m-%d %H:%M} UTC (S3 Object Lock)", until)


def part_size(number: int, sent: int) -> int:
    """The bytes of an upload's part: 10,000 of them hold 5 TiB, and the first 54 GiB go in small ones."""
    if number <= _SMALL_PARTS:
        return PART
    return max(PART, -(-sent // 650 // MIB) * MIB)


async def _crc32(data: bytes) -> str:
    """As S3 writes it: base64 of the big-endian CRC-32."""
    crc = zlib.crc32(data) if len(data) < MIB else await asyncio.to_thread(zlib.crc32, data)
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _class_of(answer: Any) -> str | None:
    """The storage class that an answer names; None: the usual one."""
    name = answer.get("StorageClass")
    return None if name in (None, "", "STANDARD") else str(name)


def _locks(answer: Any) -> bool:
    return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")


def _keeps_versions(answer: Any) -> bool:
    return bool(answer.get("Status") == "Enabled")


def _taken(key: str) -> AlreadyExists:
    return AlreadyExists(f"{key} is already in the vault")


def _missing(key: str) -> NoSuchObject:
    return NoSuchObject(f"{key} is not in the vault")


def _discarded(key: str) -> Busy:
    return Busy(f"another run discarded {key} while it was written; try again")
