"""What a team's people were told, and where it went."""

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from mirror.core.errors import UsageError
from mirror.core.messages import KINDS
from mirror.core.rules.health import telling
from mirror.store.notify import events, messages
from mirror.web import cursors
from mirror.web.dispatch import Endpoint, Needs, RequestContext

ROWS: Final = 50  # messages on a page
STATES: Final = {"sent": "arrived", "waiting": "waits", "failed": "did not arrive"}


async def page(
    context: RequestContext, error: UsageError | None = None, typed: str | None = None
) -> Response:
    """The team's messages, newest first; again with what is wrong with what was typed."""
    reader = context.person.id if context.person else None
    about = messages.About(team_id=context.of_team().id)
    found = await messages.page(
        context.services.db, about, cursors.read(context.query.get("before"), "messages"), ROWS + 1
    )
    guarded = await events.guarded(context.services.db, context.of_team().id)
    shown = found[:ROWS]
    last = shown[-1].message if len(found) > ROWS else None
    return context.render(
        "told.html",
        422 if error else 200,
        said=[(one.message, messages.reached_for(one.reached, reader)) for one in shown],
        more=cursors.after(last.at, last.id) if last else None,
        kinds=KINDS,
        states=STATES,
        globs=" ".join(guarded or ()) if typed is None else typed,
        wrong={"globs": str(error)} if error else {},
    )


async def set_guarded(context: RequestContext) -> Response:
    """Of which refs force-pushes and deletions are told."""
    typed = str((await context.form()).get("globs", ""))
    try:
        chosen = telling.guarded(typed)
    except UsageError as error:
        return await page(context, error, typed)
    team = context.of_team()
    await events.set_guarded(context.services.db, team.id, chosen)
    await context.audit("team.guarded-refs", " ".join(chosen or ("the default branch, and tags",)))
    return context.redirect(f"/{team.name}/-/notices", "Force-pushes and deletions of these are told.")


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/notices", page, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/notices/refs", set_guarded, Needs.ADMIN),
)
