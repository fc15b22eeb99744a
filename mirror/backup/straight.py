"""Pieces of an upload that go from where the file is straight to the store, past the web process.

Who calls: the API, for the page and for programs. The pieces are those of backup/uploads, in the same format:
whoever sends one encrypts it first, with a key that is good for this piece alone, and gets a link by which
the store takes these bytes at this key and nothing else. What cannot go this way goes through backup/uploads.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from mirror.backup import uploads
from mirror.core.errors import EverrefError, NoSuchObject, Refused
from mirror.core.formats import layout
from mirror.core.keyring import OVERHEAD, Envelope
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.backup import uploads as rows
from mirror.store.backup.uploads import Piece, Upload
from mirror.vault import PutLink

LINK_LASTS: Final = timedelta(minutes=10)  # until a piece must have begun to be sent
_HERE: Final = "send the pieces to Everref instead"


class NotStraight(Refused):
    """Nothing goes straight to this store."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A piece as whoever sends it has encrypted it."""

    start: int  # of its first byte in the file
    size: int  # bytes of the file that it holds
    sha256: bytes  # of the encrypted piece


async def store_of(services: Services) -> str | None:
    """Scheme and host to which pieces can go straight; None: to none, or the vault is away."""
    try:
        found = await specimen(services)
    except EverrefError:
        return None
    if found is None or services.keyring is None:
        return None
    parts = urlsplit(found.url)
    return f"{parts.scheme}://{parts.netloc}"


async def specimen(services: Services) -> PutLink | None:
    """A link as they are, which is given to nobody; None: the store has none."""
    return await services.vault.presign_put(f"{layout.UPLOADS}0", LINK_LASTS, 1, bytes(32))


async def envelope(services: Services, upload: Upload) -> Envelope | None:
    """How the next piece is to be encrypted; None: all have come. Raises NotStraight."""
    if await store_of(services) is None:
        raise NotStraight(f"the store takes nothing straight from browsers; {_HERE}")
    if upload.state != "coming" or upload.came == upload.bytes:
        return None
    return uploads.keyring(services).envelope(uploads.context(upload, upload.came))


async def link(services: Services, upload: Upload, piece: Encrypted) -> PutLink:
    """Where to send the next piece. Raises OutOfTurn, UsageError, NotStraight.

    The key says which bytes belong there, so a link that is used twice, or by two tabs, replaces nothing.
    """
    uploads.check_piece(upload, piece.start, piece.size)
    size = piece.size + OVERHEAD
    made = await services.vault.presign_put(_key(upload, piece), LINK_LASTS, size, piece.sha256)
    if made is None:
        raise NotStraight(f"the store takes nothing straight from browsers; {_HERE}")
    if not await rows.linked(services.db, upload.id, piece.start, size):
        uploads.check_piece(await uploads.again(services, upload), piece.start, piece.size)
        raise NotStraight(f"links to the store were given for three times the file; {_HERE}")
    failpoints.reached("straight: link given")
    return made


async def arrived(services: Services, upload: Upload, piece: Encrypted) -> Upload:
    """Count the next piece, once the store says that it has it.

    Safe to run twice: the second raises OutOfTurn, which says where to go on. Raises Refused where the
    store has no such piece, NotStraight where it does not say what it has.
    """
    uploads.check_piece(upload, piece.start, piece.size)
    key = _key(upload, piece)
    try:
        kept = await services.vault.kept_sha256(key)
    except NoSuchObject:
        raise Refused("the store does not have this piece; send it again") from None
    if kept is None:
        raise NotStraight(f"the store does not say what came to it; {_HERE}")
    if kept != piece.sha256:
        raise Refused("the store has other bytes than those of this piece; send it again")
    if not await rows.came(services.db, upload.id, Piece(piece.start, piece.size, key), services.clock()):
        raise uploads.out_of_turn(await uploads.again(services, upload))
    failpoints.reached("straight: piece counted")
    return await uploads.again(services, upload)


def _key(upload: Upload, piece: Encrypted) -> str:
    return layout.straight_upload_key(upload.id, piece.start, piece.sha256)
