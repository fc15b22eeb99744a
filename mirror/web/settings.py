"""A team's settings: its name, members, invitations, API tokens and audit log."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, Final, cast
from uuid import UUID

from starlette.responses import Response, StreamingResponse

from mirror.errors import EverrefError, NotFound, OverLimit, Refused, UsageError
from mirror.flows import people, rotate
from mirror.people import SCOPES, PersonId, Role, Scope
from mirror.store import audit, invitations, quotas, teams, tokens
from mirror.store.invitations import InvitationId
from mirror.store.tokens import TokenId
from mirror.web.frame import Needs, Visit, Way

ENTRIES: Final = 100  # of the audit log on one page
EXPIRIES: Final = (30, 90, 365)  # days that are offered for a token


async def page(visit: Visit, error: EverrefError | None = None, **fresh: Any) -> Response:
    """Everything but the audit log. `fresh` is what is told once: an invitation's link, a token."""
    db, team = visit.edges.db, visit.of_team()
    everyones = visit.may(Role.ADMIN)
    known = await tokens.all_of(db, team.id, None if everyones else visit.owner().id)
    return visit.render(
        "settings.html",
        200 if error is None else 429 if isinstance(error, OverLimit) else 422,
        error=error,
        members=await teams.members(db, team.id),
        invitations=await invitations.open_of(db, team.id, visit.now) if everyones else (),
        tokens=known,
        roles=[role for role in Role if visit.may(role)],
        scopes=[scope for scope, role in SCOPES.items() if visit.may(role)],
        expiries=EXPIRIES,
        uses=await quotas.uses(db, team.id, visit.edges.settings.limits, visit.now),
        keys=await rotate.keys(db, visit.outside.keyring) if _runs_it(visit) else (),
        **{"link": None, "token": None, "let_in": None} | fresh,
    )


def _runs_it(visit: Visit) -> bool:
    """Whether this is the team of the command line, and its owner: whoever runs Everref here."""
    return visit.of_team().name == teams.DEFAULT and visit.may(Role.OWNER)


async def rename(visit: Visit) -> Response:
    name = str((await visit.form()).get("name", ""))
    try:
        await people.rename_team(visit.edges.db, visit.by(), visit.of_team(), name)
    except (UsageError, Refused) as error:
        return await page(visit, error)
    return visit.redirect(f"/{name}/-/settings", f"The team is called {name} now.")


async def invite(visit: Visit) -> Response:
    """Make an invitation; its link is told once, to be sent by whatever way people use."""
    form = await visit.form()
    try:
        _, raw = await people.invite(
            visit.edges.db,
            visit.outside.keyring,
            visit.by(),
            visit.of_team(),
            _role(form.get("role")),
            str(form.get("email", "")).strip() or None,
        )
    except (UsageError, Refused) as error:
        return await page(visit, error)
    return await page(visit, link=f"{visit.outside.origin}/invitations/{raw}")


async def withdraw(visit: Visit) -> Response:
    chosen = InvitationId(_uuid((await visit.form()).get("invitation"), "invitation"))
    await people.withdraw(visit.edges.db, visit.by(), visit.of_team(), chosen)
    return _back(visit, "The invitation is withdrawn.")


async def change_role(visit: Visit) -> Response:
    form = await visit.form()
    member = PersonId(_uuid(form.get("person"), "member"))
    try:
        role, owned = _role(form.get("role")), visit.edges.settings.person_teams
        await people.change_role(visit.edges.db, visit.by(), visit.of_team(), member, role, owned)
    except Refused as error:
        return await page(visit, error)
    return _back(visit, "The role is changed.")


async def remove(visit: Visit) -> Response:
    """End somebody's membership, or one's own."""
    member = PersonId(_uuid((await visit.form()).get("person"), "member"))
    db, by, team = visit.edges.db, visit.by(), visit.of_team()
    try:
        if member == by.person.id:
            await people.leave(db, by, team)
            return visit.redirect("/", f"You have left {team.name}.")
        await people.remove_member(db, by, team, member)
    except Refused as error:
        return await page(visit, error)
    return _back(visit, "They are no member any more, and their tokens for this team are revoked.")


async def let_in_again(visit: Visit) -> Response:
    """A one-time link for a member who forgot their password, told once."""
    member = PersonId(_uuid((await visit.form()).get("person"), "member"))
    try:
        path = await people.let_in_again(visit.edges.db, visit.by(), visit.of_team(), member)
    except Refused as error:
        return await page(visit, error)
    return await page(visit, let_in=f"{visit.outside.origin}{path}")


async def leave(visit: Visit) -> Response:
    """End one's own membership."""
    try:
        await people.leave(visit.edges.db, visit.by(), visit.of_team())
    except Refused as error:
        return await page(visit, error)
    return visit.redirect("/", f"You have left {visit.of_team().name}.")


async def make_token(visit: Visit) -> Response:
    """Make an API token, which is told once."""
    form = await visit.form()
    days = str(form.get("days", ""))
    expires = visit.now + timedelta(days=int(days)) if days.isdecimal() and 0 < int(days) <= 3650 else None
    scopes = {cast(Scope, str(scope)) for scope in form.getlist("scope")}
    try:
        raw, made = await people.make_token(
            visit.edges.db,
            visit.by(),
            visit.of_team(),
            str(form.get("name", "")),
            scopes,
            expires,
            limits=visit.edges.settings.limits,
        )
    except (UsageError, Refused, OverLimit) as error:
        return await page(visit, error)
    return await page(visit, token=(made, raw))


async def revoke_token(visit: Visit) -> Response:
    chosen = TokenId(_uuid((await visit.form()).get("token"), "token"))
    await people.revoke_token(visit.edges.db, visit.by(), visit.of_team(), chosen)
    return _back(visit, "The token is revoked.")


async def audit_log(visit: Visit) -> Response:
    """Who did what, newest first, with what breaks the chain, if anything does."""
    db, team = visit.edges.db, visit.of_team()
    before = visit.query.get("before", "")
    entries = await audit.page(
        db, team.id, int(before) if before.isdecimal() and len(before) < 18 else None, ENTRIES
    )
    more = entries[-1].number if len(entries) == ENTRIES else None
    return visit.render("audit.html", entries=entries, more=more, broken=await audit.check(db, team.id))


async def audit_export(visit: Visit) -> Response:
    """The whole log as JSON lines, each with the sum of the one before it."""

    async def lines() -> AsyncIterator[bytes]:
        async for line in audit.export(visit.edges.db, visit.of_team().id):
            yield line

    name = f"{visit.of_team().name}-audit.jsonl"
    return StreamingResponse(
        lines(),
        media_type="application/x-ndjson",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _back(visit: Visit, said: str) -> Response:
    return visit.redirect(f"/{visit.of_team().name}/-/settings", said)


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


WAYS: Final[Sequence[Way]] = (
    Way("GET", "/{team}/-/settings", page, Needs.VIEWER),
    Way("POST", "/{team}/-/settings/name", rename, Needs.OWNER, sure=True),
    Way("POST", "/{team}/-/settings/invitations", invite, Needs.ADMIN, sure=True),
    Way("POST", "/{team}/-/settings/invitations/withdraw", withdraw, Needs.ADMIN),
    Way("POST", "/{team}/-/settings/members/role", change_role, Needs.ADMIN, sure=True),
    Way("POST", "/{team}/-/settings/members/remove", remove, Needs.ADMIN, sure=True),
    Way("POST", "/{team}/-/settings/members/link", let_in_again, Needs.OWNER, sure=True),
    Way("POST", "/{team}/-/settings/leave", leave, Needs.VIEWER, sure=True),
    Way("POST", "/{team}/-/settings/tokens", make_token, Needs.VIEWER, sure=True),
    Way("POST", "/{team}/-/settings/tokens/revoke", revoke_token, Needs.VIEWER),
    Way("GET", "/{team}/-/settings/audit", audit_log, Needs.ADMIN),
    Way("GET", "/{team}/-/settings/audit.jsonl", audit_export, Needs.ADMIN),
)
