"""The vault in S3, or anything that speaks it."""

from urllib.parse import SplitResult

from mirror.errors import UsageError
from mirror.vault.contract import Vault


class S3Vault:
    """A Vault in a bucket."""

    @classmethod
    async def open(cls, url: SplitResult) -> Vault:
        """The vault at an s3 URL."""
        raise UsageError("this vault cannot be used yet")
