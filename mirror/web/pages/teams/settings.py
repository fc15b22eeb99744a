"""A team's settings: its name, members, invitations, API tokens and audit log."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Final, cast
from uuid import UUID

from starlette.responses import Response, StreamingResponse

from mirror.core.channels import NotDelivered
from mirror.core.errors import EverrefError, NotFound, OverLimit, Refused, TooOften, UsageError
from mirror.core.rules.health import objective
from mirror.core.rules.roles import SCOPES, PersonId, Role, Scope
from mirror.core.words import sentence
from mirror.people import api_tokens, mails, members
from mirror.store.jobs import schedules
from mirror.store.notify import channels
from mirror.store.notify.channels import Owner
from mirror.store.people import audit, invitations, quotas, teams, tokens
from mirror.store.people.invitations import InvitationId
from mirror.store.people.tokens import TokenId
from mirror.store.restore import drills
from mirror.upkeep import ping, reencrypt
from mirror.web import once, templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext

ENTRIES: Final = 100  # of the audit log on one page
EXPIRIES: Final = (30, 90, 365)  # days that are offered for a token


async def page(
    context: RequestContext,
    error: EverrefError | None = None,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Everything but the audit log; and once, what a form before it made: an invitation link, a token."""
    db, team = context.services.db, context.of_team()
    everyones = context.may(Role.ADMIN)
    known = await tokens.all_of(db, team.id, None if everyones else context.owner().id)
    shown = await once.taken(context)
    answer = context.render(
        "settings.html",
        200 if error is None else 429 if isinstance(error, OverLimit) else 422,
        error=error,
        wrong=templating.wrong(error),
        typed=typed,
        members=await teams.members(db, team.id),
        invitations=await invitations.open_of(db, team.id, context.now) if everyones else (),
        tokens=known,
        roles=[role for role in Role if context.may(role)],
        scopes=[scope for scope, role in SCOPES.items() if context.may(role)],
        expiries=EXPIRIES,
        uses=await quotas.uses(db, team.id, context.services.settings.limits, context.now),
        rpo=objective.written(await schedules.team_rpo(db, team.id)),
        objectives=[objective.written(one) for one in objective.CHOICES],
        switch=await ping.standing(context.services, team.id),
        keys=await reencrypt.keys(db, context.outside.keyring) if _runs_it(context) else (),
        periods=await drills.periods(db, team.id),
        shown=shown,
        channels=await channels.of(db, Owner(team_id=team.id)) if everyones else (),
        mail=context.services.settings.smtp is not None,
    )
    return once.forget(context, answer) if shown else answer


def _runs_it(context: RequestContext) -> bool:
    """Whether this is the team of the command line, and its owner: whoever runs Everref here."""
    return context.of_team().name == teams.DEFAULT and context.may(Role.OWNER)


async def rename(context: RequestContext) -> Response:
    name = str((await context.form()).get("name", ""))
    try:
        await members.rename_team(context.services.db, context.by(), context.of_team(), name)
    except (UsageError, Refused) as error:
        return await page(context, error, {"team": name})
    return context.redirect(f"/{name}/-/settings", f"The team is now called {name}.")


async def invite(context: RequestContext) -> Response:
    """Make an invitation; its link is shown once, to be sent in any way that people use."""
    form = await context.form()
    try:
        made, raw = await members.invite(
            context.services.db,
            context.outside.keyring,
            context.by(),
            context.of_team(),
            _role(form.get("role")),
            str(form.get("email", "")).strip() or None,
        )
    except (UsageError, Refused) as error:
        return await page(context, error, {"email": str(form.get("email", ""))})
    link = f"{context.outside.origin}/invitations/{raw}"
    return _shown(context, {"link": link, "mailed": await _mailed(context, made.email, link)})


async def _mailed(context: RequestContext, email: str | None, link: str) -> str:
    """Mail the invitation to whom it is meant for, if that was said; what became of it, in a sentence."""
    services, person = context.services, context.owner()
    if email is None or services.settings.smtp is None:
        return ""
    try:
        team = context.of_team().name
        await mails.invite(services, person.id, person.name, team, email, link, context.now)
    except (NotDelivered, TooOften) as error:
        return sentence(f"the invitation was not mailed: {error}; give the link to {email} yourself")
    return f"The invitation was mailed to {email}."


async def withdraw(context: RequestContext) -> Response:
    chosen = InvitationId(_uuid((await context.form()).get("invitation"), "invitation"))
    await members.withdraw(context.services.db, context.by(), context.of_team(), chosen)
    return _back(context, "The invitation is withdrawn.")


async def change_role(context: RequestContext) -> Response:
    form = await context.form()
    member = PersonId(_uuid(form.get("person"), "member"))
    try:
        role, owned = _role(form.get("role")), context.services.settings.person_teams
        await members.change_role(context.services.db, context.by(), context.of_team(), member, role, owned)
    except Refused as error:
        return await page(context, error)
    return _back(context, "The role is changed.")


async def remove(context: RequestContext) -> Response:
    """End somebody's membership, or one's own."""
    member = PersonId(_uuid((await context.form()).get("person"), "member"))
    db, by, team = context.services.db, context.by(), context.of_team()
    try:
        if member == by.person.id:
            await members.leave(db, by, team)
            return context.redirect("/", f"You have left {team.name}.")
        await members.remove_member(db, by, team, member)
    except Refused as error:
        return await page(context, error)
    return _back(context, "They are no longer a member, and their tokens for this team are revoked.")


async def let_in_again(context: RequestContext) -> Response:
    """A one-time link for a member who forgot their password, shown once."""
    member = PersonId(_uuid((await context.form()).get("person"), "member"))
    try:
        path = await members.let_in_again(context.services.db, context.by(), context.of_team(), member)
    except Refused as error:
        return await page(context, error)
    return _shown(context, {"let_in": f"{context.outside.origin}{path}"})


async def leave(context: RequestContext) -> Response:
    """End one's own membership."""
    try:
        await members.leave(context.services.db, context.by(), context.of_team())
    except Refused as error:
        return await page(context, error)
    return context.redirect("/", f"You have left {context.of_team().name}.")


async def make_token(context: RequestContext) -> Response:
    """Make an API token, which is shown once."""
    form = await context.form()
    days = str(form.get("days", ""))
    expires = context.now + timedelta(days=int(days)) if days.isdecimal() and 0 < int(days) <= 3650 else None
    scopes = {cast(Scope, str(scope)) for scope in form.getlist("scope")}
    try:
        raw, made = await api_tokens.make_token(
            context.services.db,
            context.by(),
            context.of_team(),
            str(form.get("name", "")),
            scopes,
            expires,
            limits=context.services.settings.limits,
        )
    except (UsageError, Refused, OverLimit) as error:
        return await page(context, error, {"token": str(form.get("name", ""))})
    return _shown(context, {"token": raw, "name": made.name, "scopes": ", ".join(sorted(made.scopes))})


async def revoke_token(context: RequestContext) -> Response:
    chosen = TokenId(_uuid((await context.form()).get("token"), "token"))
    await api_tokens.revoke_token(context.services.db, context.by(), context.of_team(), chosen)
    return _back(context, "The token is revoked.")


async def audit_log(context: RequestContext) -> Response:
    """Who did what, newest first, with what breaks the chain, if anything does."""
    db, team = context.services.db, context.of_team()
    before = context.query.get("before", "")
    entries = await audit.page(
        db, team.id, int(before) if before.isdecimal() and len(before) < 18 else None, ENTRIES
    )
    more = entries[-1].number if len(entries) == ENTRIES else None
    return context.render("audit.html", entries=entries, more=more, broken=await audit.check(db, team.id))


async def audit_export(context: RequestContext) -> Response:
    """The whole log as JSON lines, each with the checksum of the one before it."""

    async def lines() -> AsyncIterator[bytes]:
        async for line in audit.export(context.services.db, context.of_team().id):
            yield line

    name = f"{context.of_team().name}-audit.jsonl"
    return StreamingResponse(
        lines(),
        media_type="application/x-ndjson",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _back(context: RequestContext, said: str) -> Response:
    return context.redirect(f"/{context.of_team().name}/-/settings", said)


def _shown(context: RequestContext, shown: Mapping[str, str]) -> Response:
    """Back to this page, which shows the new secret once."""
    return once.hand_over(context, f"/{context.of_team().name}/-/settings", shown)


def _role(given: object) -> Role:
    try:
        return Role(str(given))
    except ValueError:
        raise UsageError(f"there is no such role; choose one of {', '.join(Role)}") from None


def _uuid(given: object, what: str) -> UUID:
    try:
        return UUID(str(given))
    except ValueError:
        raise NotFound(f"there is no such {what}") from None


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/settings", page, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/settings/name", rename, Needs.OWNER, sure=True),
    Endpoint("POST", "/{team}/-/settings/invitations", invite, Needs.ADMIN, sure=True),
    Endpoint("POST", "/{team}/-/settings/invitations/withdraw", withdraw, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/settings/members/role", change_role, Needs.ADMIN, sure=True),
    Endpoint("POST", "/{team}/-/settings/members/remove", remove, Needs.ADMIN, sure=True),
    Endpoint("POST", "/{team}/-/settings/members/link", let_in_again, Needs.OWNER, sure=True),
    Endpoint("POST", "/{team}/-/settings/leave", leave, Needs.VIEWER, sure=True),
    Endpoint("POST", "/{team}/-/settings/tokens", make_token, Needs.VIEWER, sure=True),
    Endpoint("POST", "/{team}/-/settings/tokens/revoke", revoke_token, Needs.VIEWER),
    Endpoint("GET", "/{team}/-/settings/audit", audit_log, Needs.ADMIN),
    Endpoint("GET", "/{team}/-/settings/audit.jsonl", audit_export, Needs.ADMIN),
)
