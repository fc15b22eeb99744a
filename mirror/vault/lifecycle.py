"""The lifecycle rules of a bucket: read, and written with ours among those of others.

Who calls: `everref vault lifecycle`. Nothing else in Everref reads or writes them, so the key of the
service needs no right to.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from mirror.core import storage_classes
from mirror.core.errors import Origin, Refused, UsageError, whose
from mirror.core.storage_classes import Rule, Step
from mirror.vault.bucket import Bucket, Told, parse

_NONE: Final = "NoSuchLifecycleConfiguration"
_LEAST: Final = "TransitionDefaultMinimumObjectSize"  # of all rules of the bucket; it stays as it was


class Lifecycle:
    """The rules of one bucket."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix

    def describe(self) -> str:
        """Where it is, for a person."""
        return self._bucket.describe(self._prefix)

    def wanted(self, steps: Sequence[Step]) -> Rule | None:
        """The rule that these steps need; None: none."""
        return storage_classes.rule(self._prefix, steps) if steps else None

    async def rules(self) -> list[Rule]:
        """All of them, of whomever. Raises BadCredentials where the key may not read them."""
        return list((await self._configuration()).get("Rules", ()))

    async def _configuration(self) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = await self._bucket.call(
                "get_bucket_lifecycle_configuration", told=(_NONE,)
            )
        except Told:
            return {}
        return found

    async def write(self, steps: Sequence[Step]) -> None:
        """Put our rule in the place of an earlier one, or remove it. Safe to run twice.

        All rules of a bucket are written together: those that somebody else changes at this moment could
        get lost. Raises Refused if the store does not show the rule afterwards.
        """
        ours = self.wanted(steps)
        known = await self._configuration()
        rules = storage_classes.merged(known.get("Rules", ()), ours)
        if rules:
            beside = {_LEAST: known[_LEAST]} if _LEAST in known else {}
            try:
                await self._bucket.call(
                    "put_bucket_lifecycle_configuration",
                    told=("NotImplemented",),
                    LifecycleConfiguration={"Rules": rules},
                    **beside,
                )
            except Told:
                raise Refused(
                    f"{self.describe()} does not move objects by age; leave STORAGE_CLASS_AFTER out"
                ) from None
        elif known:
            await self._bucket.call("delete_bucket_lifecycle")
        if not storage_classes.is_there(await self.rules(), ours):
            raise Refused(
                f"{self.describe()} accepted the rule and does not show it as it was written;"
                " this store does not move objects by age, so leave STORAGE_CLASS_AFTER out"
            )


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Lifecycle]:
    """The rules of the bucket at this VAULT_URL. Raises UsageError where it is no bucket."""
    parts = urlsplit(url or "")
    if parts.scheme != "s3":
        raise UsageError("storage classes are those of an S3 bucket; this vault is none")
    with whose(Origin.VAULT):
        place = parse(parts)
        bucket = await Bucket.open(place)
        try:
            yield Lifecycle(bucket, place.prefix)
        finally:
            await bucket.aclose()
