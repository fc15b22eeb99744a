"""How git fetches from here while a host is down, and a page for everybody that says whether it works."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.browse import served as looking
from mirror.core.rules import failover, served
from mirror.core.rules.roles import Role
from mirror.people import status_page
from mirror.shapes.base import plain
from mirror.shapes.served import RepoServed, TeamStatus
from mirror.store.browse import served as rows
from mirror.store.browse.served import Shown
from mirror.web.dispatch import Endpoint, Needs, RequestContext

NAMES: Final = 1000  # of repos that the page for everybody lists
OLDEST: Final = 10  # repos whose age the team's own page shows
SHOWN: Final = 20  # rules that the page shows; the file has all
_NO_ROBOTS: Final = {"x-robots-tag": "noindex, nofollow"}


@dataclass(frozen=True, slots=True)
class _Look:
    """What everybody may see of a team, at one moment."""

    shown: Shown
    why_not: str | None  # None: it is serving
    at: datetime
    repos: list[RepoServed] | None  # None: it does not show their names


async def status(context: RequestContext) -> Response:
    """Whether clones of the team's repos work, for anybody, if the team shows that."""
    look = await _look(context)
    answer = context.render(
        "served.html",
        200 if look.why_not is None else 503,
        look=look,
        served=look.shown.served,
        title=served.title(look.shown.served, look.why_not),
        about=served.about(look.shown.served),
    )
    answer.headers.update(_NO_ROBOTS)
    return answer


async def status_json(context: RequestContext) -> Response:
    """The same for programs. A monitor needs no more than the status code: 503 where clones would fail."""
    look = await _look(context)
    told = TeamStatus.of(look.shown.team, look.shown.served, look.why_not, look.at, look.repos)
    text = json.dumps(plain(told)) + "\n"
    return Response(text, 200 if look.why_not is None else 503, _NO_ROBOTS, "application/json")


async def _look(context: RequestContext) -> _Look:
    """What the team shows everybody. Raises TooOften; 404 for what is off as for what is not there."""
    glances, name = context.outside.glances, str(context.path["team"])
    glances.count(context.address, context.now)
    found = await glances.of(name, context.now, lambda: _looked(context, name))
    if found is None:
        raise HTTPException(404, "there is no such page")
    return found


async def _looked(context: RequestContext, name: str) -> _Look | None:
    services, now = context.outside.services, context.now
    shown = await rows.shown(services.db, name, now)
    if shown is None:
        return None
    repos = None
    if shown.page == "names":
        listed = await rows.repos_of(services.db, shown.team_id, NAMES)
        repos = [RepoServed(name=one.name, as_of=one.protected_as_of) for one in listed]
    return _Look(shown, await looking.why_not(services, shown.team), now, repos)


async def page(context: RequestContext) -> Response:
    """The lines with which git fetches from here while a host is down, and how old what it gets is."""
    team, db = context.of_team(), context.services.db
    repos = await rows.repos_of(db, team.id)
    rules = looking.rules_of(context.services.settings, context.outside.origin, team.name, repos)
    if context.query.get("as") == "file":
        headers = {"content-disposition": f'attachment; filename="{team.name}-failover.gitconfig"'}
        return Response(failover.as_file(rules), media_type="text/plain", headers=headers)
    first, others = failover.by_spelling(rules[:SHOWN])
    led = {name for rule in rules for name in rule.names}
    saved = [one for one in repos if one.protected_as_of is not None]
    return context.render(
        "failover.html",
        rules=rules[:SHOWN],
        more=max(0, len(rules) - SHOWN),
        on=failover.switch_on(first),
        on_others=failover.switch_on(others),
        off=failover.switch_off(rules[:SHOWN]),
        led=len(led),
        unled=[one for one in repos if one.name not in led],
        oldest=sorted(saved, key=lambda one: one.protected_as_of or context.now)[:OLDEST],
        newest=max((one.protected_as_of for one in saved if one.protected_as_of), default=None),
        origin=context.outside.origin,
        clone_url=failover.clone_url,
        shows=await rows.status_page(db, team.id),
        manages=context.may(Role.OWNER),
        status_url=f"{context.outside.origin}/status/{team.name}",
    )


async def set_status_page(context: RequestContext) -> Response:
    """Switch the page for everybody on, with or without names, or off."""
    wanted = str((await context.form()).get("shows", ""))
    await status_page.show(context.services, context.by(), context.of_team(), wanted or None)
    said = "The page for everybody is on." if wanted else "The page for everybody is off."
    return context.redirect(f"/{context.of_team().name}/-/failover#status", said)


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/status/{team}.json", status_json, Needs.NOTHING),
    Endpoint("GET", "/status/{team}", status, Needs.NOTHING),
    Endpoint("GET", "/{team}/-/failover", page, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/failover/status", set_status_page, Needs.OWNER),
)
