"""What whoever runs Everref does by the command line: in which team, and written down in its audit log."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.errors import NotFound, UsageError
from mirror.flows.edges import Edges
from mirror.model import Repo
from mirror.store import audit, origins, teams
from mirror.store.audit import Entry
from mirror.store.database import Db
from mirror.store.teams import DEFAULT, Team, TeamId

TEAMS: Final = 8  # that a message names
ACTOR: Final = "whoever runs Everref"  # no account is asked for there: the data is theirs


async def did(
    db: Db, team_id: TeamId, action: str, subject: str, detail: Mapping[str, Any], at: datetime
) -> None:
    """They did this in the team; in a transaction of the caller's it stands or falls with that one."""
    entry = Entry(person_id=None, actor=ACTOR, action=action, subject=subject, detail=detail)
    await audit.add(db, team_id, entry, at)


async def did_for(
    edges: Edges, team_id: TeamId, action: str, subject: str, detail: Mapping[str, Any] | None = None
) -> None:
    """They did this in a team that is not the command line's own, whose people are to see it."""
    if team_id != await teams.default(edges.db):
        await did(edges.db, team_id, action, subject, detail or {}, edges.clock())


async def did_for_repo(
    edges: Edges, repo: Repo, action: str, detail: Mapping[str, Any] | None = None
) -> None:
    """They did this to a repo of such a team."""
    if (await origins.get(edges.db, repo.id)).team_id != await teams.default(edges.db):
        await did_to(edges, repo, action, detail)


async def did_to(edges: Edges, repo: Repo, action: str, detail: Mapping[str, Any] | None = None) -> None:
    """They did this to the repo."""
    entry = Entry(
        person_id=None,
        actor=ACTOR,
        action=action,
        subject=repo.name,
        repo_id=repo.id,
        detail=detail or {},
    )
    team_id = (await origins.get(edges.db, repo.id)).team_id
    await audit.add(edges.db, team_id, entry, edges.clock())


async def team_named(edges: Edges, name: str | None) -> Team:
    """The team of this name or id; None: the one that the settings name, else the command line's own.

    Raises NotFound, and UsageError where one team has the name and another one the id.
    """
    name = name or edges.settings.team
    if name is None:
        return Team(await teams.default(edges.db), DEFAULT)
    by_name, by_id = await teams.by_name(edges.db, name), await _team_with_id(edges, name)
    if by_name and by_id and by_name != by_id:
        raise UsageError(f"{name} is the name of one team and the id of {by_id.name}; give an id or a name")
    found = by_name or by_id
    if found is None:
        some = await teams.names(edges.db, TEAMS + 1)
        there_is = f"there {'are' if len(some) > 1 else 'is'} {listed(some) or 'none yet'}"
        raise NotFound(f"there is no team {name}; {there_is}")
    return found


async def team_chosen(edges: Edges, name: str | None) -> Team | None:
    """The same, where all teams are meant unless one is named. None: all."""
    return await team_named(edges, name) if name or edges.settings.team else None


async def _team_with_id(edges: Edges, text: str) -> Team | None:
    try:
        return await teams.find(edges.db, TeamId(UUID(text)))
    except ValueError:
        return None


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; of too many some, and that there are more."""
    if len(names) > TEAMS:
        return f"{', '.join(names[:TEAMS])} and others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
