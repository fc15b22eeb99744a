"""Which team, which of its repos, and which of its snapshots, a person means."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.errors import NotFound, UsageError
from mirror.flows.edges import Edges
from mirror.model import Repo, Snapshot
from mirror.store import moments, repos, snapshots, teams
from mirror.store.teams import DEFAULT, Team, TeamId
from mirror.when import When, Within

_TEAMS: Final = 8  # that a message names


async def repo_named(edges: Edges, name: str, team: str | None = None) -> Repo:
    """The repo that `everref repos` shows as NAME (of the command line's team) or as TEAM:NAME.

    `team` says the team instead, by its name or id. A name that has a colon is first looked for as it
    stands. Raises NotFound, UsageError as `team_named` does.
    """
    chosen = await team_named(edges, team)
    repo = await repos.by_name(edges.db, chosen.id, name)
    if repo is None and team is None and ":" in name:
        before, _, after = name.partition(":")
        other = await teams.by_name(edges.db, before)
        repo = None if other is None else await repos.by_name(edges.db, other.id, after)
    if repo is None:
        where = "" if chosen.name == DEFAULT else f" in the team {chosen.name}"
        raise NotFound(f"no repo is called {name}{where}; {await _elsewhere(edges, name)}")
    return repo


async def _elsewhere(edges: Edges, name: str) -> str:
    """What to do where the team has no repo of this name."""
    others = await repos.teams_with(edges.db, name, _TEAMS)
    if not others:
        return "`everref repos` lists them"
    if len(others) == 1:
        return f"it is kept by the team {others[0]}: add --team {others[0]}"
    return f"it is kept by the teams {_listed(others)}: say which with --team"


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
        some = await teams.names(edges.db, _TEAMS + 1)
        there_is = f"there {'are' if len(some) > 1 else 'is'} {_listed(some) or 'none yet'}"
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


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`; of too many some, and that there are more."""
    if len(names) > _TEAMS:
        return f"{', '.join(names[:_TEAMS])} and others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


async def snapshot_at(edges: Edges, repo: Repo, when: When | None) -> Snapshot:
    """The snapshot of this number, or the last moment at or before this time; None means the latest."""
    if when is None:
        found = await snapshots.latest(edges.db, repo.id)
    elif isinstance(when, int):
        found = await snapshots.get(edges.db, repo.id, when)
    elif isinstance(when, Within):
        found = await moments.get(edges.db, repo.id, *when)
    else:
        found = await snapshots.at(edges.db, repo.id, when)
        found = found and await moments.after(edges.db, repo.id, found, when)
    if found is None:
        raise await _none(edges, repo, when)
    return found


def wanted(asked: Mapping[str, Any]) -> int | Within | None:
    """Which moment a job is about, from Snapshot.numbers; None means the latest."""
    number, moment = asked.get("snapshot"), asked.get("moment")
    return Within(number, moment) if number and moment else number


async def _none(edges: Edges, repo: Repo, when: When | None) -> NotFound:
    """Why there is no such snapshot."""
    latest = await snapshots.latest(edges.db, repo.id)
    if latest is None or when is None:
        return NotFound(f"{repo.name} has no snapshot yet; back it up first: everref backup {repo.url}")
    if isinstance(when, int):
        return NotFound(f"{repo.name} has no snapshot #{when}; it has #1 to #{latest.number}")
    if isinstance(when, Within):
        return NotFound(f"{repo.name} has no moment #{when.snapshot}.{when.moment}")
    first = await snapshots.get(edges.db, repo.id, 1)
    assert first is not None  # there is a latest one, and numbers begin at 1
    return NotFound(
        f"{repo.name} has no snapshot at or before {_shown(when)}; "
        f"the first is #1 of {_shown(first.taken_at)}"
    )


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
