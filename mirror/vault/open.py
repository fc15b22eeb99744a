"""Opening the vault from its URL: the only module that knows which stores there are."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from mirror.core.errors import Origin, Refused, UsageError, whose
from mirror.core.locks import Locking
from mirror.vault.contract import Vault
from mirror.vault.directory import DirectoryVault
from mirror.vault.edge import Edge, Permit, Recognise

_NOW: Final = partial(datetime.now, UTC)


@asynccontextmanager
async def open_vault(
    url: str | None,
    data_dir: str | Path,
    recognise: Recognise | None = None,
    *,
    make: bool = True,
    locking: Locking | None = None,
    permit: Permit | None = None,
    clock: Callable[[], datetime] = _NOW,
) -> AsyncIterator[Vault]:
    """The vault at `url`; None: the directory `vault` under `data_dir`. It is made if missing, with `make`.

    Given `recognise`, nothing is asked of it before that has found it to be the right one; given `permit`,
    nothing is written that this refuses.

    `file:///dir`, or `s3://bucket/prefix?endpoint_url=...&region=...` with credentials by the usual AWS
    variables. `locking`: how a store locks what is written, unless its URL says otherwise (`lock=`).
    Raises UsageError for any other URL, Refused, BadCredentials.
    """
    with whose(Origin.VAULT):
        vault = await _open(url, Path(data_dir), make, locking, clock)
    try:
        yield Edge(vault, recognise, permit)
    finally:
        await vault.aclose()


def _default(data_dir: Path) -> Path:
    data_dir = data_dir.absolute()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"the data directory {data_dir} cannot be created: {error.strerror}; choose another"
        ) from error
    return data_dir / "vault"


async def _open(
    url: str | None, data_dir: Path, make: bool, locking: Locking | None, clock: Callable[[], datetime]
) -> Vault:
    if url is None:
        return await DirectoryVault.open(await asyncio.to_thread(_default, data_dir), make=make)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError("VAULT_URL is not a URL; write file:///dir or s3://bucket/prefix") from None
    if parts.scheme == "file":
        return await DirectoryVault.open(_directory(parts), make=make)
    if parts.scheme == "s3":
        # Importing aiobotocore takes a third of a second, which a directory should not cost.
        from mirror.vault.s3 import S3Vault

        return await S3Vault.open(parts, locking=locking, clock=clock)
    raise UsageError("VAULT_URL must begin with file:// or s3://")


def _directory(parts: SplitResult) -> Path:
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise UsageError("VAULT_URL must be file:///dir: an absolute path after three slashes")
    if parts.query or parts.fragment:
        raise UsageError("VAULT_URL: write ? and # in the path of a directory as %3F and %23")
    return Path(path)
