"""Files that bring a repository in: they come in pieces, and are proved when all of them are here."""

from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

from mirror.backup import straight, uploads
from mirror.backup.straight import Encrypted
from mirror.backup.uploads import LARGEST_PIECE
from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Repo, RepoId
from mirror.jobs import uploads as whole
from mirror.shapes.base import Page
from mirror.shapes.uploads import PieceKey, PieceLink, Straight, Upload
from mirror.store import repos
from mirror.store.backup import uploads as rows
from mirror.store.backup.uploads import UploadId
from mirror.web.api.call import OCTETS, Big, Body, Call, Query, call, uuid_of
from mirror.web.api.shapes import Nothing, Words
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

UPLOADS: Final = f"{TEAM}/uploads"
UPLOAD: Final = f"{UPLOADS}/{{upload}}"


class UploadWanted(Body, frozen=True, kw_only=True):
    """A file that is to become a new repo, or one more snapshot of a repo that has no remote."""

    file: Annotated[str, Meta(min_length=1, max_length=300, description="its name")]
    bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    name: Annotated[Words, Meta(description="of the new repo; default: as the file is called")] | None = None
    repo: (
        Annotated[
            str, Meta(min_length=1, max_length=500, description="id or name of what it becomes a snapshot of")
        ]
        | None
    ) = None
    keep_refs: Annotated[bool, Meta(description="keep refs of that repo that the file does not have")] = False


class PieceAsked(Query, frozen=True, kw_only=True):
    """Which piece of the file."""

    offset: Annotated[Big, Meta(description="of its first byte in the file: `came` of the upload")]


class PieceEncrypted(Body, frozen=True, kw_only=True):
    """A piece of the file, encrypted as `straight` says."""

    offset: Annotated[int, Meta(ge=0, le=1 << 50, description="`came` of the upload")]
    bytes: Annotated[int, Meta(ge=1, le=LARGEST_PIECE, description="of the file, before it was encrypted")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="of the encrypted piece")]

    @property
    def meant(self) -> Encrypted:
        return Encrypted(self.offset, self.bytes, bytes.fromhex(self.sha256))


class StraightAsked(Body, frozen=True, kw_only=True):
    """What has come to the store since."""

    arrived: Annotated[PieceEncrypted | None, Meta(description="a piece that the store has now")] = None


async def list_uploads(context: RequestContext) -> Page[Upload]:
    """The team's newest uploads."""
    found = await rows.latest(context.services.db, context.of_team().id)
    return Page(items=[Upload.of(one) for one in found], next=None)


async def begin_upload(context: RequestContext, body: UploadWanted) -> Upload:
    """Begin to upload a file: a git bundle, or a tar, tar.gz or zip archive of a repository."""
    repo = await repo_meant(context, body.repo) if body.repo is not None else None
    made = await uploads.begin(
        context.services,
        context.of_team().id,
        context.owner().id,
        body.file,
        body.bytes,
        name=body.name,
        repo=repo,
        keep_refs=body.keep_refs,
    )
    return Upload.of(made)


async def upload(context: RequestContext) -> Upload:
    """A file, as far as it has come, or what came of it."""
    return Upload.of(await upload_of(context))


async def upload_piece(context: RequestContext, asked: PieceAsked, data: bytes) -> Upload:
    """Send the next piece of a file: 256 KiB to 8 MiB, and what is left as the last.

    After a broken connection, ask where to go on: `came` of the upload.
    """
    return Upload.of(await uploads.take(context.services, await upload_of(context), asked.offset, data))


async def upload_straight(context: RequestContext, body: StraightAsked) -> Straight:
    """Go straight to the vault's store, where it takes pieces from elsewhere: get the key of the next piece.

    What `arrived` is counted first, if the store says that it has it. 409: send the pieces to Everref.
    """
    services, found = context.services, await upload_of(context)
    if body.arrived is not None:
        found = await straight.arrived(services, found, body.arrived.meant)
    made = await straight.envelope(services, found)
    return Straight(upload=Upload.of(found), next=None if made is None else PieceKey.of(found.came, made))


async def upload_link(context: RequestContext, body: PieceEncrypted) -> PieceLink:
    """Get the address at which the store takes the next piece, which is 256 KiB to 8 MiB, or the last."""
    return PieceLink.of(await straight.link(context.services, await upload_of(context), body.meant))


async def finish_upload(context: RequestContext, body: Nothing) -> Upload:
    """All pieces are there: have the file proved, which a job does. Can be called again."""
    found = await upload_of(context)
    done = await whole.finish(context.services, found, context.as_logged(), context.owner().id)
    if done.job_id != found.job_id:
        await context.audit("repo.import", done.name, done.repo_id, {"file": done.file, "bytes": done.bytes})
    await context.hint(done.repo_id)
    return Upload.of(done)


async def drop_upload(context: RequestContext) -> None:
    """Drop a file that has become no snapshot yet; its pieces are deleted."""
    found = await upload_of(context)
    if await uploads.drop(context.services, found, f"{context.actor} dropped it"):
        await context.audit("upload.drop", found.name, found.repo_id, {"file": found.file})


async def repo_meant(context: RequestContext, text: str) -> Repo:
    """The team's repo of this id or name. Raises UsageError about the field `repo`."""
    db, team = context.services.db, context.of_team().id
    try:
        found = await repos.find_in(db, team, RepoId(UUID(text)))
    except ValueError:
        found = await repos.by_name(db, team, text)
    if found is None:
        raise UsageError(f"there is no repository {text} in {context.of_team().name}", field="repo")
    return found


async def upload_of(context: RequestContext) -> rows.Upload:
    """The path's upload, of this team. Raises NotFound."""
    chosen = UploadId(uuid_of(context, "upload", "upload"))
    found = await rows.find(context.services.db, context.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such upload")
    return found


CALLS: Final[Sequence[Call]] = (
    call("GET", UPLOADS, list_uploads, Needs.ADMIN, "admin"),
    call("POST", UPLOADS, begin_upload, Needs.ADMIN, "admin", status=201),
    call("GET", UPLOAD, upload, Needs.ADMIN, "admin"),
    call("PATCH", UPLOAD, upload_piece, Needs.ADMIN, "admin", sends=OCTETS),
    call("POST", f"{UPLOAD}/straight", upload_straight, Needs.ADMIN, "admin"),
    call("POST", f"{UPLOAD}/link", upload_link, Needs.ADMIN, "admin"),
    call("POST", f"{UPLOAD}/finish", finish_upload, Needs.ADMIN, "admin", status=202),
    call("DELETE", UPLOAD, drop_upload, Needs.ADMIN, "admin"),
)
