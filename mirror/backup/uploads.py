"""Files that people upload to bring a repository in: their pieces, until they are proved or dropped.

Who calls: the pages and the API (web), jobs/uploads when all has come, jobs/run for the job that proves it,
and a maintenance task. The pieces wait in the vault, so that any web process can take the next one and any
worker can read them; each is encrypted with SECRET_KEYS, for teams that seal their backups as for all others.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from mirror.backup import bring_in
from mirror.core.errors import (
    Corrupt,
    Damaged,
    EverrefError,
    Locked,
    NoSuchObject,
    NotFound,
    OurFault,
    OverLimit,
    Refused,
    UsageError,
)
from mirror.core.formats import layout
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import SYMBOLIC, Repo
from mirror.core.refs import shown_text
from mirror.core.rules.roles import PersonId
from mirror.core.words import size
from mirror.discovery import create
from mirror.git.disk import disk_error, finish, write_all
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import uploads
from mirror.store.backup.uploads import Piece, Upload, UploadId, Wanted
from mirror.store.jobs import jobs
from mirror.store.people.teams import TeamId

LARGEST_PIECE: Final = 8 << 20  # bytes
SMALLEST_PIECE: Final = 256 << 10  # bytes, but for the last: each is an object in the vault
LASTS: Final = timedelta(days=3)  # without another piece
KEPT: Final = timedelta(days=30)  # what became of it
SEALED_PIECE: Final = LARGEST_PIECE + 1024  # bytes, at the most

_KEPT_BY_STORE: Final = "an upload cannot be deleted from the vault yet: %s"

log = logging.getLogger("mirror.uploads")


class OutOfTurn(Refused):
    """This piece is not the next one."""


async def begin(
    services: Services,
    team: TeamId,
    person: PersonId,
    file: str,
    size_of_file: int,
    *,
    name: str | None = None,
    repo: Repo | None = None,
    keep_refs: bool = False,
) -> Upload:
    """Make room for a file that is to become a new repo of this name, or a snapshot of `repo`.

    Raises UsageError, naming the field, where the name is taken or `repo` has a remote; Refused where that is
    paused; OverLimit.
    """
    if size_of_file <= 0:
        raise UsageError("the file is empty; choose a bundle or an archive of a repository", field="file")
    if size_of_file > services.settings.fetch_bytes:
        raise UsageError(
            f"the file has {size(size_of_file)}, and no more than {size(services.settings.fetch_bytes)} may"
            " come at once (EVERREF_FETCH_BYTES)",
            field="file",
        )
    if repo is None:
        name = await new_name(services, team, name or bring_in.name_of(file))
    else:
        await bring_in.check_takes(services, repo)
        name = repo.name
    if services.keyring is None:
        raise OurFault("uploads cannot be stored: set SECRET_KEYS (32 random characters or more)")
    wanted = Wanted(person, file[-300:] or "file", name, repo.id if repo else None, keep_refs, size_of_file)
    return await uploads.begin(services.db, team, services.settings.limits, wanted, services.clock())


async def new_name(services: Services, team: TeamId, name: str) -> str:
    """The name of a repo that is to be made. Raises UsageError where it is not valid, or taken."""
    name = create.checked_name(name)
    if await repos.by_name(services.db, team, name) is not None:
        raise name_taken(name)
    return name


def name_taken(name: str) -> UsageError:
    """Says what to do where a repo of this name is here already."""
    return UsageError(
        f"{name} is here already; choose another name, or bring the file in as its next snapshot",
        field="name",
    )


async def take(services: Services, upload: Upload, start: int, data: bytes) -> Upload:
    """Store the next piece: what begins at byte `start` of the file.

    Safe to run twice: the piece that came first counts, and the second raises OutOfTurn, which says where
    to go on. Raises UsageError for a piece that is too small, too large or too long for the file.
    """
    check_piece(upload, start, len(data))
    piece = Piece(start, len(data), layout.upload_key())
    sealed = await asyncio.to_thread(keyring(services).seal, data, context(upload, start))
    await services.vault.put(piece.key, sealed)
    failpoints.reached("upload: piece stored")
    if not await uploads.came(services.db, upload.id, piece, services.clock()):
        await services.vault.delete(piece.key)
        raise out_of_turn(await again(services, upload))
    return await again(services, upload)


def check_piece(upload: Upload, start: int, length: int) -> None:
    """Raise OutOfTurn unless the piece at `start` is next, UsageError for a length that no piece has."""
    _check_coming(upload)
    if start != upload.came:
        raise out_of_turn(upload)
    left = upload.bytes - start
    if not 0 < length <= left:
        raise UsageError(f"{left:,} bytes of the file are missing, and this piece has {length:,}")
    if length > LARGEST_PIECE or length < min(SMALLEST_PIECE, left):
        raise UsageError(
            f"a piece has {SMALLEST_PIECE:,} to {LARGEST_PIECE:,} bytes, and only the last one fewer"
        )


def _check_coming(upload: Upload) -> None:
    if upload.state != "coming":
        raise Refused(
            f"this upload is over: {upload.why}" if upload.why else "all of this file has come already"
        )


def out_of_turn(upload: Upload) -> OutOfTurn:
    """Says where to go on."""
    return OutOfTurn(f"{upload.came:,} bytes of the file are here; go on from there")


async def again(services: Services, upload: Upload) -> Upload:
    """The same as it is now. Raises NotFound."""
    found = await uploads.find(services.db, upload.team_id, upload.id)
    if found is None:
        raise NotFound("there is no such upload")
    return found


async def prove(services: Services, repo: Repo, upload_id: UploadId, team: TeamId) -> Mapping[str, Any]:
    """Read the file back, prove it and take a snapshot of it; returns what came of it, for its page.

    1. The pieces are written to a file on this disk.
    2. It is proved (backup/bring_in), and becomes a snapshot as a push does.
    3. That is recorded with the upload; then its pieces are deleted, and the file.

    What is no sound git is refused for ever, with the reason: its pieces go, and so does the repo that was
    made for it. What fails for another reason is left, to be tried again. Safe to run twice, and after a run
    that was killed anywhere. Raises what bring_in raises.
    """
    upload = await uploads.find(services.db, team, upload_id)
    if upload is None:
        raise NotFound("there is no such upload")
    if upload.result is not None:
        await _forget_soon(services, upload)
        return upload.result
    if upload.state != "proving":
        raise Refused(upload.why or "this upload has not come yet")
    try:
        async with _whole(services, upload) as path, bring_in.proved(services, path, repo) as found:
            brought = await bring_in.bring_in(
                services, repo, found, by=upload.person, keep_others=upload.keep_refs
            )
    except EverrefError as error:
        if isinstance(error, (Refused, Corrupt, UsageError, OverLimit)) and not isinstance(error, Damaged):
            await refuse(services, upload, str(error))
        raise
    done = brought.synced
    head = done.snapshot.head
    result = {
        "new": done.new,
        **done.snapshot.numbers,
        "refs": brought.refs,
        "commits": brought.commits,
        "head": None if head is None else shown_text(head.removeprefix(SYMBOLIC)),
        "large_files": brought.large_files,
        "bytes": upload.bytes,
    }
    await uploads.done(services.db, upload.id, result, services.clock())
    failpoints.reached("bring in: recorded")
    await _forget_soon(services, upload)
    return result


async def _forget_soon(services: Services, upload: Upload) -> None:
    """Delete the pieces of what is a snapshot now; where the store does not, `forget` does so later."""
    try:
        await forget_pieces(services, upload)
    except EverrefError as error:
        log.warning(_KEPT_BY_STORE, error)


async def refuse(services: Services, upload: Upload, why: str) -> None:
    """It becomes no snapshot, for this reason. Safe to run twice."""
    await uploads.ended(services.db, upload.id, "refused", why, services.clock())
    await _clear(services, await again(services, upload))


async def give_up(services: Services, upload_id: UploadId, team: TeamId, why: str) -> None:
    """It was tried often enough: refuse it. Safe to run twice."""
    upload = await uploads.find(services.db, team, upload_id)
    if upload is not None:
        await refuse(services, upload, why)


async def drop(services: Services, upload: Upload, why: str) -> bool:
    """Somebody drops it, or its time is over; its job stops. False: it was over. Safe to run twice."""
    if upload.job_id is not None:
        await jobs.cancel(services.db, upload.team_id, upload.job_id, services.clock())
    done = await uploads.ended(services.db, upload.id, "dropped", why, services.clock())
    await _clear(services, await again(services, upload))
    return done


async def _clear(services: Services, upload: Upload) -> None:
    """Delete its pieces, then the repo that was made for it, last: its job goes with that.

    Safe to run twice, also after a run that was killed.
    """
    if upload.is_open:
        return
    await forget_pieces(services, upload)
    failpoints.reached("upload: pieces deleted")
    await uploads.remove_unborn(services.db, upload.own_repo)


async def forget_pieces(services: Services, upload: Upload) -> None:
    """Delete its pieces. What the store keeps for a time (Object Lock) is tried again. Safe to run twice."""
    for piece in await uploads.pieces(services.db, upload.id):
        await services.vault.delete(piece.key)
    if upload.linked:  # what was sent straight to the store and never counted
        async with aclosing(services.vault.list(layout.straight_uploads(upload.id))) as found:
            strays = [stat.key async for stat in found]
        for key in strays:
            await services.vault.delete(key)
    await uploads.forget_pieces(services.db, upload.id)


async def forget(services: Services) -> None:
    """Drop uploads whose time is over, and delete what killed runs left of others. Safe to run twice."""
    now = services.clock()
    for upload in await uploads.expired(services.db, now - LASTS):
        await drop(services, upload, "nothing more of it came for three days")
    for upload in await uploads.left(services.db):
        try:
            await _clear(services, upload)
        except Locked as locked:
            log.warning(_KEPT_BY_STORE, locked)
    async with aclosing(services.vault.list(layout.UPLOADS)) as found:
        waiting = [(stat.key, layout.upload_of(stat.key), stat.modified) async for stat in found]
    # A link to the store outlives the upload for minutes, so something may come when it is over.
    over = await uploads.over(services.db, {UploadId(one) for _, one, _ in waiting if one})
    old = {key for key, _, modified in waiting if modified < now - 2 * LASTS}
    late = {key for key, upload_id, _ in waiting if upload_id in over}
    for key in late | (old - await uploads.counted(services.db, old)):
        await _delete(services, key)
    await uploads.forget_before(services.db, now - KEPT)


async def _delete(services: Services, key: str) -> None:
    """Delete a piece, unless the store keeps it for a time."""
    try:
        await services.vault.delete(key)
    except Locked as locked:
        log.warning(_KEPT_BY_STORE, locked)


@asynccontextmanager
async def _whole(services: Services, upload: Upload) -> AsyncIterator[Path]:
    """The whole file, on this disk, for as long as the block lasts."""
    path = services.disk.root / "incoming" / f"upload-{upload.id}"
    services.progress.phase("reading the upload", upload.bytes, "bytes")
    keys, came = keyring(services), 0
    await services.disk.make_way(services.disk.root, upload.bytes)
    try:
        fd = await finish(partial(_opened, path))
        try:
            for piece in await uploads.pieces(services.db, upload.id):
                data = await _read(services, keys, upload, piece)
                if piece.start != came or len(data) != piece.bytes:
                    raise Corrupt("the pieces of the upload do not fit together; upload it again")
                await finish(partial(write_all, fd, data))
                came += len(data)
                services.progress.advance(len(data))
        finally:
            os.close(fd)
        if came != upload.bytes:
            raise Corrupt("not all of the upload is in the vault; upload it again")
        yield path
    except OSError as error:
        raise disk_error(path.parent, error) from None
    finally:
        await finish(partial(path.unlink, missing_ok=True))


async def _read(services: Services, keys: Keyring, upload: Upload, piece: Piece) -> bytes:
    """What a piece holds; read twice where it cannot be opened, as one wrong answer proves no damage."""
    for _ in range(2):
        try:
            sealed = await services.vault.get(piece.key, SEALED_PIECE)
            return await asyncio.to_thread(keys.open, sealed, context(upload, piece.start))
        except NoSuchObject:
            raise Corrupt("a piece of the upload is gone from the vault; upload it again") from None
        except BadKey as error:
            log.warning("a piece of an upload cannot be opened: %s", error)
    raise Corrupt(
        "a piece of the upload was changed in the vault, or SECRET_KEYS lacks its key; upload it again"
    )


def _opened(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def keyring(services: Services) -> Keyring:
    """The keys that encrypt pieces."""
    assert services.keyring is not None, "an upload is begun only where there are SECRET_KEYS"
    return services.keyring


def context(upload: Upload, start: int) -> str:
    """The context of an encrypted piece: it opens in no other place."""
    return f"upload/{upload.id}/{start}"
