"""The files of a moment as a tar or zip to save, whole or of one directory."""

from collections.abc import AsyncGenerator
from typing import Final

from starlette.responses import Response

from mirror.core.model import Repo, Snapshot
from mirror.restore import archive
from mirror.restore.archive import Wanted
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.repos.download import Stream
from mirror.web.pages.repos.repo import bytes_of, moment_at

TYPES: Final = {"tar": "application/x-tar", "tar.gz": "application/gzip", "zip": "application/zip"}


async def page(context: RequestContext) -> Response:
    """An archive of what the query names, in the format in which the address ends."""
    at = await moment_at(context)
    kind = archive.format_of(str(context.path["file"]))
    wanted = Wanted(kind, bytes_of(context, "ref"), bytes_of(context, "path"))
    return await archived(context, at.repo, at.saved, wanted)


async def archived(context: RequestContext, repo: Repo, snapshot: Snapshot, wanted: Wanted) -> Response:
    """The archive as a download. What is wrong with it is told before it begins."""
    chunks = archive.made(context.services, repo, snapshot, wanted)
    first = await anext(chunks, b"")
    detail = snapshot.numbers | {"archive": wanted.format}
    await context.audit("repo.archive", repo.name, repo.id, detail)
    name = archive.name_of(repo, snapshot, wanted.format)
    headers = {
        "content-type": TYPES[wanted.format],
        "content-disposition": f'attachment; filename="{name}"',
        "everref-snapshot": snapshot.label.removeprefix("#"),
    }
    return Stream(begun(first, chunks), 200, headers)


async def begun(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """All chunks, of which the first was taken already."""
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()


ENDPOINTS: Final = (Endpoint("GET", "/{team}/{repo:repo}/-/archive/{file}", page, Needs.VIEWER, reads=True),)
