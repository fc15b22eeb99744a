"""How old a team's backups may be, and the dead man's switch that tells when one is older."""

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from mirror.core import words
from mirror.core.errors import EverrefError, UsageError
from mirror.core.rules.health import objective
from mirror.store.jobs import schedules
from mirror.store.upkeep import pings
from mirror.upkeep import ping
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.repos import repo_settings
from mirror.web.pages.teams import settings


async def set_objective(context: RequestContext) -> Response:
    """Set the objective of the team's repos that have none of their own."""
    text, team = str((await context.form()).get("rpo", "")).strip(), context.of_team()
    try:
        rpo = objective.parse(text)
    except UsageError as error:
        return await settings.page(context, error, {"rpo": text})
    await schedules.set_team_rpo(context.services.db, team.id, rpo, context.now)
    await context.audit("team.rpo", team.name, None, {"rpo": objective.written(rpo)})
    return _back(context, f"A backup may be {objective.said(rpo)} old at most.")


async def set_repo_objective(context: RequestContext) -> Response:
    """Give a repo an objective of its own; empty: its team's."""
    text, repo = str((await context.form()).get("rpo", "")).strip(), await context.repo()
    try:
        rpo = objective.parse(text) if text else None
    except UsageError as error:
        return await repo_settings.shown(context, repo, error, rpo=text)
    await schedules.set_rpo(context.services.db, repo.id, rpo, context.now)
    told = {"rpo": objective.written(rpo) if rpo else "the team's"}
    await context.audit("repo.rpo", repo.name, repo.id, told)
    return context.redirect(repo_settings.address_of(context, repo), "The objective is saved.")


async def set_ping(context: RequestContext) -> Response:
    """Set up the monitor that is pinged, and send the first ping."""
    form, team = await context.form(), context.of_team()
    typed = {name: str(form.get(name, "")).strip() for name in ("ping", "style", *DAYS)}
    try:
        wanted = ping.wanted(
            context.services.settings,
            typed["ping"],
            typed["style"],
            *(typed[name] for name in DAYS),
        )
    except UsageError as error:
        named = f"ping_{error.field}" if f"ping_{error.field}" in DAYS else error.field
        return await settings.page(context, UsageError(str(error), field=named), typed)
    await pings.put(context.services.db, context.outside.keyring, team.id, wanted, context.now)
    await context.audit("ping.set", wanted.shown, None, {"style": wanted.style})
    return await _sent(context)


async def send_ping(context: RequestContext) -> Response:
    """Send one now, or say why none is sent."""
    return await _sent(context)


async def remove_ping(context: RequestContext) -> Response:
    """Ping no more."""
    team = context.of_team()
    known = await pings.of_team(context.services.db, team.id)
    if known is not None and await pings.remove(context.services.db, team.id):
        await context.audit("ping.remove", known.shown)
    return _back(context, "The monitor is removed. Switch it off there too, or it raises an alarm.")


async def _sent(context: RequestContext) -> Response:
    try:
        async with context.planning():
            done = await ping.send_now(context.services, context.of_team().id)
    except EverrefError as error:
        return await settings.page(context, error)
    return _back(context, words.sentence(ping.told(done)))


def _back(context: RequestContext, said: str) -> Response:
    return context.redirect(f"/{context.of_team().name}/-/settings", said)


DAYS: Final = ("ping_drill_days", "ping_read_days")  # fields of its form; drills have days of their own
_TEAM: Final = "/{team}/-/settings"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("POST", f"{_TEAM}/objective", set_objective, Needs.ADMIN),
    Endpoint("POST", f"{_TEAM}/ping", set_ping, Needs.ADMIN),
    Endpoint("POST", f"{_TEAM}/ping/send", send_ping, Needs.ADMIN),
    Endpoint("POST", f"{_TEAM}/ping/remove", remove_ping, Needs.ADMIN, sure=True),
    Endpoint("POST", "/{team}/{repo:repo}/-/settings/objective", set_repo_objective, Needs.ADMIN),
)
