"""What whoever runs Everref does by the command line, written down in the team's audit log."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from mirror.flows.edges import Edges
from mirror.model import Repo
from mirror.store import audit, origins, teams
from mirror.store.audit import Entry
from mirror.store.database import Db
from mirror.store.teams import TeamId

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
