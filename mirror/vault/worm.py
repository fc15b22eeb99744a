"""Whether a bucket enforces Object Lock, found out by trying to break it on canaries: some only pretend.

Who calls: vault/s3, for `everref doctor`, the daily proof and REQUIRE_WORM. Only here is the permission to
bypass governance ever asked for, and only for canaries: what this key may do, a thief of it may do.
"""

import base64
import secrets
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mirror.core.errors import BadCredentials, EverrefError, LimitReached, NetworkError, Refused
from mirror.core.locks import LockMode, Trial
from mirror.vault.bucket import Bucket, Told

LASTS: Final = timedelta(minutes=10)  # a canary's lock; far longer than the trials take
_BODY: Final = b"a canary of Everref: it may be deleted once its lock has ended\n"
_GONE: Final = ("NoSuchKey", "NoSuchVersion", "MethodNotAllowed")


@dataclass(slots=True)
class _Canary:
    """An object that should withstand everything."""

    key: str
    version: str | None  # None: the store gave none
    until: datetime

    @property
    def which(self) -> dict[str, Any]:
        return {"Key": self.key, **({"VersionId": self.version} if self.version else {})}


class Prover:
    """The trials in one bucket; canaries are at keys that begin with `prefix`."""

    def __init__(self, bucket: Bucket, prefix: str, mode: LockMode, now: datetime) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._mode = mode
        self._until = (now + LASTS).replace(microsecond=0)

    async def prove(self) -> list[Trial]:
        """Try everything on a small object and on one of a multipart upload, and a legal hold on a third.

        Canaries of earlier proofs, whose locks have ended, are deleted first. Raises NetworkError,
        and BadCredentials where this key may not even lock an object.
        """
        await self._clean()
        trials = []
        for kind, make in (("object", self._put), ("object of a multipart upload", self._upload)):
            canary = await make()
            for words, attempt in self._attempts():
                if not await self._is_locked(canary):
                    canary = await make()  # an earlier trial broke it
                locked = await self._is_locked(canary)
                if locked:
                    await self._try(attempt, canary)
                trials.append(Trial(f"a locked {kind} {words}", locked and await self._is_locked(canary)))
        trials.append(await self._try_extending())
        trials.append(await self._try_hold())
        return trials

    def _attempts(self) -> list[tuple[str, Callable[[_Canary], Awaitable[Any]]]]:
        """What is tried, with the words for what happened if it worked."""
        found: list[tuple[str, Callable[[_Canary], Awaitable[Any]]]] = [
            ("was not locked at all", self._nothing),
            ("was deleted", self._delete),
            ("was gone after a deletion of its name", self._hide),
            ("was overwritten", self._overwrite),
            ("was given a shorter lock", self._shorten),
        ]
        if self._mode is LockMode.COMPLIANCE:
            found.append(("was given the weaker mode", self._weaken))
        found += [
            ("was given a shorter lock by bypassing governance", self._shorten_bypassing),
            ("was deleted by bypassing governance", self._delete_bypassing),
        ]
        return found

    async def _try(self, attempt: Callable[[_Canary], Awaitable[Any]], canary: _Canary) -> None:
        """Attempt what should be refused. Not the answer counts, but what is there afterwards."""
        try:
            await attempt(canary)
        except NetworkError:
            raise
        except (EverrefError, Told):
            return

    async def _nothing(self, _: _Canary) -> None:
        return None

    async def _delete(self, canary: _Canary) -> None:
        await self._bucket.call("delete_object", **canary.which)

    async def _hide(self, canary: _Canary) -> None:
        await self._bucket.call("delete_object", Key=canary.key)

    async def _overwrite(self, canary: _Canary) -> None:
        await self._bucket.call("put_object", body=b"other bytes\n", Key=canary.key)

    async def _shorten(self, canary: _Canary, **options: Any) -> None:
        retention = {"Mode": self._mode.upper(), "RetainUntilDate": self._until - LASTS / 2}
        await self._bucket.call("put_object_retention", **canary.which, Retention=retention, **options)

    async def _weaken(self, canary: _Canary) -> None:
        retention = {"Mode": LockMode.GOVERNANCE.upper(), "RetainUntilDate": self._until}
        await self._bucket.call("put_object_retention", **canary.which, Retention=retention)

    async def _shorten_bypassing(self, canary: _Canary) -> None:
        await self._shorten(canary, BypassGovernanceRetention=True)

    async def _delete_bypassing(self, canary: _Canary) -> None:
        await self._bucket.call("delete_object", **canary.which, BypassGovernanceRetention=True)

    async def _try_extending(self) -> Trial:
        canary = await self._put()
        until = canary.until + timedelta(minutes=1)
        retention = {"Mode": self._mode.upper(), "RetainUntilDate": until}
        with suppress(Refused, LimitReached, BadCredentials):
            await self._bucket.call("put_object_retention", **canary.which, Retention=retention)
        canary.until = until
        return Trial("the lock of an object could not be extended", await self._is_locked(canary))

    async def _try_hold(self) -> Trial:
        """A delete under a legal hold, which is lifted afterwards so that the canary can be deleted."""
        key = self._new_key()
        answer = await self._bucket.call("put_object", body=_BODY, Key=key, ChecksumCRC32=_crc32(_BODY))
        canary = _Canary(key, answer.get("VersionId"), self._until)
        hold = {"Status": "ON"}
        with suppress(Refused, LimitReached, BadCredentials):
            await self._bucket.call("put_object_legal_hold", **canary.which, LegalHold=hold)
            await self._try(self._delete, canary)
        head = await self._head(canary)
        held = head is not None and head.get("ObjectLockLegalHoldStatus") == "ON"
        if head is not None:
            hold["Status"] = "OFF"
            await self._bucket.call("put_object_legal_hold", **canary.which, LegalHold=hold)
            await self._try(self._delete, canary)
        return Trial("an object under a legal hold was deleted", held)

    async def _is_locked(self, canary: _Canary) -> bool:
        """Whether the version is there as it was made: its bytes, its mode and its lock."""
        head = await self._head(canary)
        if head is None or head["ContentLength"] != len(_BODY):
            return False
        until = head.get("ObjectLockRetainUntilDate")
        return (
            head.get("ObjectLockMode") == self._mode.upper()
            and until is not None
            and until.astimezone(UTC) >= canary.until
        )

    async def _head(self, canary: _Canary) -> Any:
        try:
            return await self._bucket.call("head_object", told=_GONE, **canary.which)
        except Told:
            return None

    def _new_key(self) -> str:
        return f"{self._prefix}{secrets.token_hex(8)}"

    async def _put(self) -> _Canary:
        key = self._new_key()
        answer = await self._bucket.call(
            "put_object", body=_BODY, Key=key, ChecksumCRC32=_crc32(_BODY), **self._locked()
        )
        return _Canary(key, answer.get("VersionId"), self._until)

    async def _upload(self) -> _Canary:
        key = self._new_key()
        begun = await self._bucket.call(
            "create_multipart_upload", Key=key, ChecksumAlgorithm="CRC32", **self._locked()
        )
        which = {"Key": key, "UploadId": begun["UploadId"]}
        crc32 = _crc32(_BODY)
        part = await self._bucket.call("upload_part", body=_BODY, PartNumber=1, ChecksumCRC32=crc32, **which)
        one = {"PartNumber": 1, "ETag": part["ETag"]}
        one |= {"ChecksumCRC32": crc32} if part.get("ChecksumCRC32") else {}
        answer = await self._bucket.call(
            "complete_multipart_upload", MultipartUpload={"Parts": [one]}, **which
        )
        return _Canary(key, answer.get("VersionId"), self._until)

    def _locked(self) -> dict[str, Any]:
        return {"ObjectLockMode": self._mode.upper(), "ObjectLockRetainUntilDate": self._until}

    async def _clean(self) -> None:
        """Delete canaries of earlier proofs, as far as the store lets us; the others go with the next."""
        try:
            page = await self._bucket.call("list_object_versions", Prefix=self._prefix)
        except (Refused, BadCredentials):
            return  # it keeps no versions, so no canary stayed either
        for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            await self._try(self._delete, _Canary(one["Key"], one["VersionId"], self._until))


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
