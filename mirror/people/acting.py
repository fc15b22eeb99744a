"""Who acts, in which role, and the audit entry of what they did: what accounts, members and tokens share.

Whoever acts is given as `By`. Every change writes its audit entry in its own transaction, so that neither
stands without the other; a change that a rule refuses is recorded as refused.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from mirror.core.errors import NotFound, Refused, TooOften
from mirror.core.rules.roles import Role
from mirror.store.database import Db, transaction
from mirror.store.people import attempts as tries
from mirror.store.people import audit, sessions, teams, tokens
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.store.people.tokens import TokenId

MADE: Final = 30  # links, tokens, teams and passwords that one person makes in an hour
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class By:
    """Who acts, when, from where, and by which session or token."""

    person: Person
    at: datetime
    address: str | None = None  # None: not by the network
    session: bytes | None = None  # the key of the session they act in; None: none
    token: TokenId | None = None  # the API token they act with; None: none
    let_in: bool = False  # an owner's link began that session


@asynccontextmanager
async def acting(
    db: Db, by: By, team: Team, needed: Role, action: str, subject: str, **detail: Any
) -> AsyncIterator[tuple[asyncpg.Connection, Role]]:
    """A transaction in which a member with the needed role changes the team, and its audit entry.

    Other changes to the team's members wait meanwhile. Raises NotFound where they are not a member, Refused.
    """
    entry = audit_entry(by, action, subject, **detail)
    try:
        async with transaction(db) as connection:
            await check_let_in(connection, by)
            await teams.lock(connection, team.id)
            mine = await role_in(connection, by, team)
            if not mine.may(needed):
                raise Refused(f"this needs the role {needed}; you are {mine} in {team.name}")
            yield connection, mine
            await audit.add(connection, team.id, entry, by.at)
    except Refused:
        refused = audit_entry(by, action, subject, result="refused", **detail)
        await audit.add(db, team.id, refused, by.at)
        raise


async def check_let_in(db: Db, by: By) -> None:
    """Raise Refused where the session or token has ended; a session is held until the transaction ends.

    Call it before a team is locked, as ending every way in locks the sessions first.
    """
    if by.session is not None and not await sessions.hold(db, by.session):
        raise Refused("this session has just ended; sign in again")
    if by.token is not None and not await tokens.is_there(db, by.token):
        raise Refused("this token has just been revoked")


async def role_in(db: Db, by: By, team: Team) -> Role:
    """The role of the person who acts. Raises NotFound where they are not a member."""
    found = await teams.role_of(db, team.id, by.person.id)
    if found is None:
        raise NotFound(f"there is no team {team.name}, or it is not yours")
    return found


def audit_entry(by: By, action: str, subject: str, *, result: str = "done", **detail: Any) -> audit.Entry:
    """What they did, for an audit log."""
    return audit.Entry(
        person_id=by.person.id,
        actor=by.person.name,
        action=action,
        subject=subject,
        detail=detail,
        address=by.address,
        result=result,
    )


async def audit_own(db: Db, by: By, action: str, subject: str, **detail: Any) -> None:
    """Record in the audit log of the person's own team what they did to their account."""
    home = await teams.home(db, by.person.id)
    if home is not None:
        await audit.add(db, home.id, audit_entry(by, action, subject, **detail), by.at)


async def limit_tries(db: Db, key: str, limit: int, per: timedelta, at: datetime) -> None:
    """Count one try. Raises TooOften where it is one too many."""
    if not await tries.take(db, key, limit, per, at):
        seconds = int(per.total_seconds())
        raise TooOften(f"that was tried too often; wait {_in_words(per)}, then try again", seconds)


def _in_words(per: timedelta) -> str:
    return "a minute" if per <= MINUTE else "an hour"
