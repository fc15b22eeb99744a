"""API tokens: making and revoking what a program signs in with. Who calls: the pages and the API."""

from collections.abc import Collection
from datetime import datetime

from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.quotas import ROOMY, Limits
from mirror.core.rules import roles as rules
from mirror.core.rules.roles import SCOPES, Role, Scope
from mirror.people.acting import HOUR, MADE, By, acting, limit_tries
from mirror.store.database import Db, translating
from mirror.store.people import quotas, tokens
from mirror.store.people.teams import Team
from mirror.store.people.tokens import ApiToken, TokenId


@translating
async def make_token(
    db: Db,
    by: By,
    team: Team,
    name: str,
    scopes: Collection[Scope],
    expires_at: datetime | None = None,
    *,
    limits: Limits = ROOMY,
) -> tuple[str, ApiToken]:
    """A token for programs, shown once. It may do what its scopes say and its owner may do in the team.

    Raises Refused for a scope beyond one's role, UsageError, LimitReached, NotFound.
    """
    name = rules.check_person_name(name, "name the token after what it is for")
    if not scopes or not set(scopes) <= SCOPES.keys():
        raise UsageError(f"choose the token's scopes: {', '.join(SCOPES)}", field="scope")
    if expires_at is not None and expires_at <= by.at:
        raise UsageError("that time has passed, so the token would never work; choose a later one")
    await limit_tries(db, f"token by {by.person.id}", MADE, HOUR, by.at)
    told = {"scopes": sorted(scopes), "expires_at": expires_at and expires_at.isoformat()}
    async with acting(db, by, team, Role.VIEWER, "token.add", name, **told) as (connection, mine):
        for scope in sorted(scopes):
            if not mine.may(SCOPES[scope]):
                raise Refused(
                    f"the scope {scope} needs the role {SCOPES[scope]}; you are {mine} in {team.name}"
                )
        made = await tokens.make(connection, by.person.id, team.id, name, scopes, expires_at, by.at)
        await quotas.check(connection, team.id, limits, by.at, "tokens")
        return made


@translating
async def revoke_token(db: Db, by: By, team: Team, token_id: TokenId) -> None:
    """Revoke a token: one's own, or as an admin anybody's. Raises NotFound, Refused."""
    found = await tokens.find(db, team.id, token_id)
    if found is None:
        raise NotFound("there is no such token, or it has been revoked")
    needed = Role.VIEWER if found.person.id == by.person.id else Role.ADMIN
    async with acting(db, by, team, needed, "token.revoke", found.name, owner=found.person.name) as (
        connection,
        _,
    ):
        if not await tokens.revoke(connection, team.id, token_id, by.at):
            raise NotFound("there is no such token, or it has been revoked")
