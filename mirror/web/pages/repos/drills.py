"""Drills with their results, and how much of what is stored was read back: what is proved, and since when."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from starlette.responses import Response

from mirror.core import words
from mirror.core.errors import NotFound, UsageError
from mirror.core.rules.health import proving
from mirror.core.times import when
from mirror.jobs import run as flow
from mirror.jobs import team_drills as flow_of_team
from mirror.store.browse import proofs, report
from mirror.store.restore import drills, team_drills
from mirror.store.restore.team_drills import TeamDrill
from mirror.store.upkeep import readings
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.live import follow
from mirror.web.pages.teams import settings

ROWS: Final = 50  # drills on a page
REPOS: Final = 20  # repos on it, unless all are asked for
ALL: Final = 2000
AT_ONCE: Final = 50  # drills that one press of the button starts


async def page(context: RequestContext) -> Response:
    """What is proved and when it is proved next; every drill: the answer to "did you test a restore?"."""
    db, team = context.services.db, context.of_team()
    before = _time(context, context.query.get("before"), context.now + timedelta(days=1))
    repo = context.query.get("repo", "")
    found = await report.drills(db, team.id, before, ROWS + 1, repo or None)
    most = ALL if context.query.get("all") else REPOS
    return context.render(
        "drills.html",
        drills=found[:ROWS],
        more=found[ROWS - 1].finished_at if len(found) > ROWS else None,
        only=repo,
        proofs=await proofs.proofs(db, team.id, context.now, most, repo or None),
        coverage=await readings.coverage(db, context.now, team.id),
        periods=await drills.periods(db, team.id),
        whole=None if repo else await team_drills.latest(db, team.id),
    )


async def begin(context: RequestContext) -> Response:
    """Begin a drill of every repo of the team, or go on with the one that was stopped."""
    team = context.of_team()
    made = await team_drills.begin(
        context.services.db, team.id, context.services.clock(), person_id=context.owner().id
    )
    await context.audit("team.drill", made.many)
    await flow_of_team.go_on(context.services)
    await context.hint()
    return context.redirect(f"/{team.name}/-/drills/{made.id}")


async def stop(context: RequestContext) -> Response:
    """Stop it; what was drilled stays, and it can go on."""
    found = await _team_drill(context)
    await flow_of_team.stop(context.services, context.of_team().id, found.id)
    await context.audit("team.drill-stopped", found.sentence)
    return context.redirect(f"/{context.of_team().name}/-/drills/{found.id}", "The drill is stopped.")


async def whole(context: RequestContext) -> Response:
    """If the host were gone today: what came of a drill of every repo, a line each."""
    found = await _team_drill(context)
    lines = await team_drills.lines(context.services.db, found.id)
    return context.render("team_drill.html", found=found, lines=lines)


async def events(context: RequestContext) -> Response:
    """The same while it goes on."""
    template = context.outside.pages.get_template("team_drill_now.html")

    async def look() -> tuple[str, bool]:
        found = await _team_drill(context)
        lines = await team_drills.lines(context.services.db, found.id)
        text = template.render(context=context, now=context.services.clock(), found=found, lines=lines)
        return text, found.finished_at is not None or found.stopped_at is not None

    return await follow(context, look)


async def _team_drill(context: RequestContext) -> TeamDrill:
    """The path's drill, of this team. Raises NotFound."""
    try:
        chosen = UUID(str(context.path["drill"]))
    except ValueError:
        raise NotFound("there is no such drill") from None
    found = await team_drills.get(context.services.db, context.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such drill")
    return found


async def drill_due(context: RequestContext) -> Response:
    """Start a drill of every repo that is due for one; repos that never had one come first."""
    db, team, now = context.services.db, context.of_team(), context.now
    days = (await drills.periods(db, team.id)).drill
    lines = (await proofs.proofs(db, team.id, now, ALL)).lines
    due = sorted(
        (line for line in lines if line.is_due(days, now)),
        key=lambda line: (line.drilled_at is not None, line.drilled_at or now),
    )
    for line in due[:AT_ONCE]:
        await flow.ask(context.services, line.repo_id, "drill", {}, person_id=context.owner().id)
        await context.audit("repo.drill", line.repo, line.repo_id)
    await context.hint()
    said = f"{words.count(len(due[:AT_ONCE]), 'drill')} started."
    return context.redirect(f"/{team.name}/-/activity", said)


async def set_periods(context: RequestContext) -> Response:
    """How often repos are drilled, and every stored byte is read again."""
    form = await context.form()
    typed = {name: str(form.get(name, "")) for name in ("drill_days", "read_days")}
    try:
        periods = [proving.days(typed[name], name) for name in ("drill_days", "read_days")]
    except UsageError as error:
        return await settings.page(context, error, typed)
    await drills.set_periods(context.services.db, context.of_team().id, *periods)
    await context.audit("team.proofs", f"drills: {periods[0]} days, reading: {periods[1]} days")
    return context.redirect(
        f"/{context.of_team().name}/-/settings", "Drills and reading follow the new periods."
    )


def _time(context: RequestContext, text: str | None, otherwise: datetime) -> datetime:
    if not text:
        return otherwise
    found = when.parse(text, context.now, context.zone)
    if not isinstance(found, datetime):
        raise UsageError("give a day or a time, such as 2026-03-02")
    return found


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/drills", page, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/drills/due", drill_due, Needs.OPERATOR),
    Endpoint("POST", "/{team}/-/drills/all", begin, Needs.OPERATOR),
    Endpoint("GET", "/{team}/-/drills/{drill}", whole, Needs.VIEWER),
    Endpoint("GET", "/{team}/-/drills/{drill}/events", events, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/drills/{drill}/stop", stop, Needs.OPERATOR),
    Endpoint("POST", "/{team}/-/settings/proofs", set_periods, Needs.ADMIN),
)
