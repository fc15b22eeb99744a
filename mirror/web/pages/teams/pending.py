"""What is pending: asked for by one person, to be confirmed by another, cancelled by any admin or owner."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final
from urllib.parse import quote
from uuid import UUID

from starlette.responses import Response

from mirror.core import words
from mirror.core.errors import EverrefError, NotFound, UsageError
from mirror.core.rules.keeping import pending as rules
from mirror.core.rules.roles import Role
from mirror.people import pending as flow
from mirror.store.people import pending as rows
from mirror.store.people.pending import PendingId
from mirror.store.upkeep import erased
from mirror.upkeep.erasure import erase_person, erase_team, forget
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.repos import repo_settings

_NAME: Final = "name"  # the field of the forms that ask for the repository's name once more


async def page(
    context: RequestContext,
    error: EverrefError | None = None,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """What is pending in this team, what became of the others, and which repositories are gone."""
    db, team = context.services.db, context.of_team()
    found = await rows.of_team(db, team.id)
    return context.render(
        "pending.html",
        200 if error is None else 422,
        error=error,
        wrong=templating.wrong(error),
        typed=typed,
        open=[one for one in found if one.is_open],
        ended=[one for one in found if not one.is_open],
        gone=await erased.of_team(db, team.id),
        days=await rows.days(db, team.id),
        fewest=rules.DAYS,
        most=rules.MOST_DAYS,
        manages=context.may(Role.ADMIN),
        owns=context.may(Role.OWNER),
    )


async def mine(context: RequestContext) -> Response:
    """What is pending in all teams of this person, also in those that they were lately removed from."""
    db, person = context.services.db, context.owner()
    found = {one.id: one for one in await rows.of_former(db, person.id)}
    for membership in context.memberships:
        if membership.role.may(Role.ADMIN):
            found |= {one.id: one for one in await rows.of_team(db, membership.team.id, only_open=True)}
    return context.render("pending_mine.html", open=list(found.values()))


async def confirm(context: RequestContext) -> Response:
    """Confirm it as the second person."""
    try:
        done = await flow.confirm(context.services, context.by(), _chosen(context), context.of_team())
    except EverrefError as error:
        if isinstance(error, NotFound):
            raise
        return context.redirect(_page(context), warned=words.sentence(error))
    assert done.takes_effect_at is not None  # it is confirmed
    return context.redirect(_page(context), "It is confirmed. Until it takes effect, it can be cancelled.")


async def cancel(context: RequestContext) -> Response:
    """Cancel it, for an admin or owner."""
    try:
        await flow.cancel(context.services, context.by(), _chosen(context), context.of_team())
    except EverrefError as error:
        if isinstance(error, NotFound):
            raise
        return context.redirect(_page(context), warned=words.sentence(error))
    return context.redirect(_page(context), "It is cancelled. Nothing was changed.")


async def cancel_mine(context: RequestContext) -> Response:
    """Cancel it, also for somebody who was lately removed from the team."""
    try:
        await flow.cancel(context.services, context.by(), _chosen(context))
    except EverrefError as error:
        if isinstance(error, NotFound):
            raise
        return context.redirect(_MINE, warned=words.sentence(error))
    return context.redirect(_MINE, "It is cancelled. Nothing was changed.")


async def set_days(context: RequestContext) -> Response:
    """Set how many days pending actions wait."""
    text = str((await context.form()).get("days", "")).strip()
    try:
        if not (text.isascii() and text.isdecimal() and len(text) < 6):
            raise UsageError(f"enter a number of days, {rules.DAYS} or more", field="days")
        asked = await flow.set_days(context.services, context.by(), context.of_team(), int(text))
    except UsageError as error:
        return await page(context, error)
    said = "The delay is saved." if asked is None else "You asked for a shorter delay, which waits as well."
    return context.redirect(_page(context), said)


async def forget_repo(context: RequestContext) -> Response:
    """Ask for all backups of the repository to be deleted."""
    repo, form = await context.repo(), await context.form()
    typed, why = str(form.get(_NAME, "")).strip(), str(form.get("why", ""))
    try:
        if typed != repo.name:
            raise UsageError(f"type the name of the repository, {repo.name}, to ask for this", field=_NAME)
        await forget.ask(context.services, context.by(), context.of_team(), repo, why)
    except EverrefError as error:
        return await repo_settings.shown(context, repo, error, **{_NAME: typed, "why": why})
    return context.redirect(_page(context), "You asked for it. Everybody who can cancel it is told.")


async def erase_whole_team(context: RequestContext) -> Response:
    """Ask for the whole team to be erased."""
    team, form = context.of_team(), await context.form()
    typed = {name: str(form.get(name, "")) for name in (_NAME, "why")}
    try:
        if typed[_NAME].strip() != team.name:
            raise UsageError(f"type the name of the team, {team.name}, to ask for this", field=_NAME)
        await erase_team.ask(context.services, context.by(), team, typed["why"])
    except EverrefError as error:
        return await page(context, error, typed)
    return context.redirect(_page(context), "You asked for it. Everybody who can cancel it is told.")


async def erase_account(context: RequestContext) -> Response:
    """Ask for one's own account to be erased."""
    try:
        await erase_person.ask(context.services, context.by(), context.owner())
    except EverrefError as error:
        return context.redirect("/account", warned=words.sentence(error))
    return context.redirect(_MINE, "You asked for your account to be erased. Until then you can cancel it.")


def _chosen(context: RequestContext) -> PendingId:
    try:
        return PendingId(UUID(str(context.path["action"])))
    except ValueError:
        raise NotFound("nothing with this id is pending") from None


def _page(context: RequestContext) -> str:
    return f"/{quote(context.of_team().name)}/-/pending"


_MINE: Final = "/account/pending"
_TEAM: Final = "/{team}/-/pending"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", _MINE, mine, Needs.PERSON),
    Endpoint("POST", f"{_MINE}/{{action}}/cancel", cancel_mine, Needs.PERSON),
    Endpoint("POST", "/account/erase", erase_account, Needs.PERSON, sure=True),
    Endpoint("GET", _TEAM, page, Needs.VIEWER),
    Endpoint("POST", f"{_TEAM}/days", set_days, Needs.OWNER, sure=True),
    Endpoint("POST", f"{_TEAM}/team", erase_whole_team, Needs.OWNER, sure=True),
    Endpoint("POST", f"{_TEAM}/{{action}}/confirm", confirm, Needs.ADMIN, sure=True),
    Endpoint("POST", f"{_TEAM}/{{action}}/cancel", cancel, Needs.ADMIN),
    Endpoint("POST", "/{team}/{repo:repo}/-/settings/forget", forget_repo, Needs.OWNER, sure=True),
)
