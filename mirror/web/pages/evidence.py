"""Evidence on the web: the public keys for everybody, and the statements about a repo for its team."""

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from mirror.backup import evidence
from mirror.core.errors import NotFound
from mirror.core.formats import statements as formats
from mirror.store.evidence import keys, statements
from mirror.web.dispatch import Endpoint, Needs, RequestContext


async def published(context: RequestContext) -> Response:
    """The public keys that check evidence, for anybody: they are no secret."""
    await evidence.signing_key(context.services)
    found = formats.published(await keys.every(context.services.db))
    return Response(found, media_type="application/json")


async def statement(context: RequestContext) -> Response:
    """One statement as it is stored, to be kept and checked elsewhere."""
    repo = await context.repo()
    name = str(context.path["name"])
    row = await statements.named(context.services.db, repo.id, name)
    if row is None:
        raise NotFound(f"{repo.name} has no evidence with this name")
    return Response(
        await evidence.stored(context.services, row),
        media_type="application/json",
        headers={"content-disposition": f'attachment; filename="{row.kind}-{name}"'},
    )


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/.well-known/everref-evidence.json", published, Needs.NOTHING),
    Endpoint("GET", "/{team}/{repo:repo}/-/evidence/{name}", statement, Needs.VIEWER),
)
