"""Evidence: statements about a repo, signed with the installation's key and stored beside the repo.

Who calls: a drill and a verification, when they end; the sweep, for what the vault could not take.
Without SECRET_KEYS there is no key that could be sealed, and nothing is signed.
"""

import functools
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from mirror.core.errors import AlreadyExists, EverrefError, OurFault
from mirror.core.formats import layout, statements
from mirror.core.formats.manifest import time_text
from mirror.core.formats.statements import DRILL, VERIFICATION, PublicKey, SigningKey, Statement, Subject
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import Part, Repo, RepoId, Snapshot
from mirror.services import failpoints, sealing
from mirror.services.open import Services
from mirror.store.database import Db
from mirror.store.evidence import keys
from mirror.store.evidence import statements as rows
from mirror.store.evidence.daily import Row as DailyRow
from mirror.store.evidence.keys import NewKey, Sealed
from mirror.store.evidence.statements import Row

OVERLAP: Final = timedelta(
    days=1
)  # for which an old key holds beside a new one, as processes have it in hand
_AT_ONCE: Final = 100  # statements read from the database at a time


async def signing_key(services: Services) -> SigningKey | None:
    """The key that signs now, made if there is none, or if no key of SECRET_KEYS opens it any more.

    None: there are no SECRET_KEYS. Safe to run twice, also at once: the one that comes first is taken.
    """
    if services.keyring is None:
        return None
    while True:
        known = await keys.current(services.db)
        if known is not None:
            with suppress(BadKey):
                return _opened(services.keyring, known)
        made, _ = await _make(services, services.keyring, known, None, timedelta())
        if made is not None:
            return made


async def rotate(services: Services) -> PublicKey:
    """Let a new key sign, introduced by the one before it, which holds for OVERLAP longer.

    Each run makes another key; what older keys signed still holds. Raises OurFault without SECRET_KEYS,
    Refused never: of two rotations at once, the second follows the first.
    """
    if services.keyring is None:
        raise OurFault("no key can be stored: set SECRET_KEYS (32 random characters or more)")
    while True:
        by = await signing_key(services)
        known = await keys.current(services.db)
        if by is None or known is None or known.public.id != by.id:
            continue
        made, public = await _make(services, services.keyring, known, by, OVERLAP)
        if made is not None:
            await store_keys(services)
            return public


async def _make(
    services: Services, keyring: Keyring, known: Sealed | None, by: SigningKey | None, overlap: timedelta
) -> tuple[SigningKey | None, PublicKey]:
    """A new key after `known`, introduced by it where `by` is its private half. None: another came first."""
    at, made = services.clock(), SigningKey.new()
    introduction = statements.introduce(made, at, by)
    public = statements.introduced(introduction, "the new key")
    sealed = keyring.seal(made.private, f"evidence_key/{made.id}")
    new = NewKey(public, layout.signing_key_key(at, made.id), sealed)
    is_first = await keys.add(services.db, new, known.public.id if known else None, at, overlap)
    return made if is_first else None, public


def _opened(keyring: Keyring, known: Sealed) -> SigningKey:
    return SigningKey(keyring.open(known.sealed, f"evidence_key/{known.public.id}"))


async def of_drill(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    digest: str,
    began: datetime,
    ended: datetime,
    *,
    bytes: int,
    seconds: float,
    problems: Sequence[str],
    findings: Sequence[str],
) -> Row | None:
    """Sign what a drill showed: that this moment came back from the vault alone, or why it did not.

    `digest` is refs.digest of the refs that were compared; `findings` is what git dislikes in objects that
    are as their remote has them. None: nothing can be signed.
    """
    told = {
        **_told(repo, began, ended, problems),
        **snapshot.numbers,
        "taken_at": time_text(snapshot.taken_at),
        "refs": snapshot.refs_count,
        "bytes": bytes,
        "seconds": round(seconds, 3),
        "findings": list(findings),
        "restored_from": "the vault alone, into an empty directory",
    }
    return await _record(services, repo, DRILL, snapshot, digest, told, ended)


async def of_verification(
    services: Services,
    repo: Repo,
    last: Snapshot,
    live: Sequence[Part],
    began: datetime,
    ended: datetime,
    *,
    bytes: int,
    problems: Sequence[str],
) -> Row | None:
    """Sign what a verification read back: all manifests up to `last`, and these parts. None: it cannot be."""
    told = {
        **_told(repo, began, ended, problems),
        "snapshot": last.number,
        "taken_at": time_text(last.taken_at),
        "bytes": bytes,
        "parts": [{"key": part.key, "bytes": part.bytes, "sha256": part.sha256} for part in live],
    }
    return await _record(services, repo, VERIFICATION, last, last.refs_digest, told, ended)


def _told(repo: Repo, began: datetime, ended: datetime, problems: Sequence[str]) -> dict[str, object]:
    return {
        "repo": {"id": str(repo.id), "name": repo.name},
        "started_at": time_text(began),
        "finished_at": time_text(ended),
        "result": "failed" if problems else "passed",
        "problems": list(problems),
        "by": program(),
    }


async def _record(
    services: Services,
    repo: Repo,
    kind: str,
    snapshot: Snapshot,
    refs_digest: str,
    told: Mapping[str, Any],
    at: datetime,
) -> Row | None:
    """Sign a statement, keep it in a row, and store it in the vault if that can be written now."""
    key = await signing_key(services)
    if key is None:
        return None
    manifest = layout.manifest_key(repo.id, snapshot.number)
    refs = Subject(f"refs of {repo.id} {snapshot.label}", refs_digest)
    statement = Statement(kind, (Subject(manifest, snapshot.manifest_sha256), refs), services.clock(), told)
    body = statements.sign(statement, key)
    place = layout.evidence_key(repo.id, at, layout.unique())
    row = Row(
        layout.sealed(place, await sealing.of(services, repo.id)),  # it names the repo, and may name refs
        repo.id,
        kind,
        snapshot.number,
        snapshot.moment,
        at,
        not told["problems"],
        key.id,
        rows.digest(body),
        body,
    )
    await rows.add(services.db, row)
    failpoints.reached("evidence: recorded")
    with suppress(EverrefError):  # the vault cannot be written now: the sweep tries again
        await store_waiting(services, repo.id)
    return row


async def store_waiting(services: Services, repo_id: RepoId | None = None) -> None:
    """Store the waiting keys and statements, of this repo or of all, in the vault.

    Safe to run twice, also at once: a key of the vault is never used for anything else.
    """
    await store_keys(services)
    while batch := await rows.waiting(services.db, repo_id, _AT_ONCE):
        await store(services, batch, rows.stored)


async def store(
    services: Services,
    batch: Sequence[tuple[str, bytes]],
    stored: Callable[[Db, str], Awaitable[None]],
) -> None:
    """Store these statements in the vault, and record each by `stored`. Safe to run twice, also at once."""
    for key, body in batch:
        with suppress(AlreadyExists):  # a run that died had put it
            await services.vault.put(key, body)
        failpoints.reached("evidence: stored")
        await stored(services.db, key)


async def store_keys(services: Services) -> None:
    """Store the waiting introductions of keys in the vault. Safe to run twice, also at once."""
    for key, body in await keys.waiting(services.db):
        with suppress(AlreadyExists):
            await services.vault.put(key, body)
        await keys.stored(services.db, key, services.clock())


async def stored(services: Services, row: Row | DailyRow) -> bytes:
    """The bytes of a statement. Raises the vault's errors, and NotProven if they are not those of its row."""
    body = row.body or await services.vault.get(row.key, limit=statements.LIMIT)
    if rows.digest(body) != row.sha256:
        raise statements.NotProven(f"{row.key}: it was changed in the vault since it was signed")
    return body


def program() -> dict[str, str]:
    """The program that signs, and its version."""
    return {"name": "everref", "version": _version()}


@functools.cache
def _version() -> str:
    return importlib.metadata.version("everref")
