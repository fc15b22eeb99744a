"""What whoever runs Everref does from the command line: in which team, with an entry in its audit log."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from mirror.core.errors import NotAllowed, NotFound, UsageError
from mirror.core.model import Repo, RepoId
from mirror.core.rules.roles import Role
from mirror.people.acting import By, acting
from mirror.services.open import Services
from mirror.store.database import Db, transaction
from mirror.store.discovery import remotes
from mirror.store.people import audit, teams
from mirror.store.people.audit import Entry
from mirror.store.people.teams import DEFAULT, Team, TeamId

TEAMS: Final = 8  # that a message names
ACTOR: Final = "whoever runs Everref"  # the command line asks for no account: the data is theirs


@asynccontextmanager
async def acting_as(
    services: Services, by: By | None, team: Team, needed: Role, action: str, subject: str, **detail: Any
) -> AsyncIterator[tuple[asyncpg.Connection, datetime]]:
    """A transaction in which a member (`acting`), or whoever runs Everref (None), changes the team, and when.

    Its audit entry is written with it. Raises as `acting` does.
    """
    if by is not None:
        async with acting(services.db, by, team, needed, action, subject, **detail) as (db, _):
            yield db, by.at
        return
    at = services.clock()
    async with transaction(services.db) as db:
        await teams.lock(db, team.id)
        yield db, at
        await did(db, team.id, action, subject, detail, at)


def check_signed_in(by: By | None, no_token: str) -> None:
    """Raise NotAllowed for an API token, in these words, and for whom an owner's link let in."""
    if by is not None and by.token is not None:
        raise NotAllowed(no_token)
    if by is not None and by.let_in:
        raise NotAllowed("you signed in by an owner's link: set a new password first, then sign in with it")


def name_of(by: By | None) -> str:
    """Who acts, as it is recorded and told."""
    return by.person.name if by else ACTOR


async def did(
    db: Db,
    team_id: TeamId,
    action: str,
    subject: str,
    detail: Mapping[str, Any],
    at: datetime,
    repo_id: RepoId | None = None,
) -> None:
    """Record what they did in the team, in the caller's transaction if there is one."""
    entry = Entry(person_id=None, actor=ACTOR, action=action, subject=subject, repo_id=repo_id, detail=detail)
    await audit.add(db, team_id, entry, at)


async def did_for(
    services: Services, team_id: TeamId, action: str, subject: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Record what they did in the team, unless it is the command line's own; its members should see it."""
    if team_id != await teams.default(services.db):
        await did(services.db, team_id, action, subject, detail or {}, services.clock())


async def did_for_repo(
    services: Services, repo: Repo, action: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Record what they did to a repo, unless its team is the command line's own."""
    if (await remotes.get(services.db, repo.id)).team_id != await teams.default(services.db):
        await did_to(services, repo, action, detail)


async def did_to(
    services: Services, repo: Repo, action: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Record what they did to the repo."""
    team_id = (await remotes.get(services.db, repo.id)).team_id
    await did(services.db, team_id, action, repo.name, detail or {}, services.clock(), repo.id)


async def team_named(services: Services, name: str | None) -> Team:
    """The team of this name or id; None: the one that the settings name, else the command line's own.

    Raises NotFound, and UsageError where one team has the name and another one the id.
    """
    name = name or services.settings.team
    if name is None:
        return Team(await teams.default(services.db), DEFAULT)
    by_name, by_id = await teams.by_name(services.db, name), await _team_with_id(services, name)
    if by_name and by_id and by_name != by_id:
        raise UsageError(
            f"{name} is the name of one team and the id of {by_id.name}; use an id or another name"
        )
    found = by_name or by_id
    if found is None:
        some = await teams.names(services.db, TEAMS + 1)
        there_is = f"there {'are' if len(some) > 1 else 'is'} {listed(some) or 'none yet'}"
        raise NotFound(f"there is no team {name}; {there_is}")
    return found


async def team_chosen(services: Services, name: str | None) -> Team | None:
    """The team that is named here or in the settings. None: all teams."""
    return await team_named(services, name) if name or services.settings.team else None


async def team_of(services: Services, repo: Repo) -> Team:
    """The team that owns this repo."""
    found = await teams.find(services.db, (await remotes.get(services.db, repo.id)).team_id)
    assert found is not None  # a repo has a team
    return found


async def _team_with_id(services: Services, text: str) -> Team | None:
    try:
        return await teams.find(services.db, TeamId(UUID(text)))
    except ValueError:
        return None


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; of too many the first ones, `and others`."""
    if len(names) > TEAMS:
        return f"{', '.join(names[:TEAMS])} and others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
