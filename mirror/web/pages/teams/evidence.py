"""Evidence on the web: keys and badges for everybody, and the statements about a repo for its team."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from mirror.backup import evidence
from mirror.core.errors import NotFound, UsageError
from mirror.core.formats import statements as formats
from mirror.core.formats.proofs import REPO
from mirror.core.rules.health import badge as rules
from mirror.core.times import when
from mirror.store.backup import snapshots
from mirror.store.browse import badges
from mirror.store.evidence import checkpoints as checkpoint_rows
from mirror.store.evidence import daily as daily_rows
from mirror.store.evidence import keys, statements
from mirror.upkeep import checkpoints, daily
from mirror.web.dispatch import Endpoint, Needs, RequestContext

ROWS: Final = 50  # statements on a page
_INCLUSION: Final = "inclusion.json"


async def published(context: RequestContext) -> Response:
    """The public keys that check evidence, for anybody: they are no secret."""
    await evidence.signing_key(context.services)
    found = formats.published(await keys.every(context.services.db))
    return Response(found, media_type="application/json")


async def page(context: RequestContext) -> Response:
    """The signed statements about a repo, newest first, and how to check them."""
    repo, db = await context.repo(), context.services.db
    text = context.query.get("before")
    before = when.parse(text, context.now, context.zone) if text else context.now
    if not isinstance(before, datetime):
        raise UsageError("give a day or a time, such as 2026-03-02")
    found = await statements.of_repo(db, repo.id, before, ROWS + 1)
    last, first = await checkpoint_rows.last(db), await snapshots.get(db, repo.id, 1)
    days = await daily_rows.of_team(db, context.of_team().id, None, 1)
    return context.render(
        "evidence.html",
        repo=repo,
        found=found[:ROWS],
        more=found[ROWS - 1].at if len(found) > ROWS else None,
        newest_day=days[0] if days else None,
        checkpoint=last,
        is_covered=last is not None and first is not None and first.taken_at <= last.at,
        keys_at=f"{context.outside.origin}/.well-known/everref-evidence.json",
    )


async def statement(context: RequestContext) -> Response:
    """One statement as it is stored, or the proof that the repo is in the newest checkpoint, to be kept."""
    repo = await context.repo()
    name = str(context.path["name"])
    if name == _INCLUSION:
        return _download(
            await checkpoints.proof(context.services, REPO, repo.id), f"inclusion-{repo.id}.json"
        )
    row = await statements.named(context.services.db, repo.id, name)
    if row is None:
        raise NotFound(f"{repo.name} has no evidence with this name")
    return _download(await evidence.stored(context.services, row), f"{row.kind}-{name}")


async def of_day(context: RequestContext) -> Response:
    """The statement about what was read of the team's repositories on one day, to be kept."""
    team, day = context.of_team(), str(context.path["day"])
    found = await daily.of_day(context.services, team.id, day)
    return _download(found, f"{formats.DAILY}-{team.name}-{day}.json")


def _download(content: bytes, name: str) -> Response:
    return Response(
        content,
        media_type="application/json",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


async def badge(context: RequestContext) -> Response:
    """The badge with this name, for whoever knows it: one line, and nothing else of the repo."""
    found = await badges.named(context.services.db, str(context.path["name"]))
    if found is None:
        raise NotFound("there is no badge here; it may have been switched off")
    shown = rules.badge(found.drilled_at, found.failed, found.damaged, context.now)
    return Response(
        rules.svg(shown),
        media_type="image/svg+xml",
        headers={
            "cache-control": "public, max-age=300",
            "cross-origin-resource-policy": "cross-origin",  # for pages of others, such as a README
        },
    )


async def set_badge(context: RequestContext) -> Response:
    """Switch the repo's badge on, under a new address that nobody can guess, or off."""
    repo, is_on = await context.repo(), bool((await context.form()).get("on"))
    await badges.set_badge(context.services.db, repo.id, secrets.token_hex(16) if is_on else None)
    await context.audit("repo.badge", repo.name, repo.id, {"on": is_on})
    said = "The badge is on, at a new address." if is_on else "The badge is off; its address is gone."
    return context.redirect(f"/{context.of_team().name}/{quote(repo.name)}/-/settings#badge", said)


_REPO: Final = "/{team}/{repo:repo}/-"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/.well-known/everref-evidence.json", published, Needs.NOTHING),
    Endpoint("GET", "/badges/{name}.svg", badge, Needs.NOTHING),
    Endpoint("GET", f"{_REPO}/evidence", page, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/evidence/{{name}}", statement, Needs.VIEWER),
    Endpoint("GET", "/{team}/-/evidence/{day}.json", of_day, Needs.VIEWER),
    Endpoint("POST", f"{_REPO}/settings/badge", set_badge, Needs.ADMIN),
)
