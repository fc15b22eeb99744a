"""Which repo, and which of its snapshots, a person means."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mirror.errors import NotFound
from mirror.flows import operator
from mirror.flows.edges import Edges
from mirror.model import Repo, Snapshot
from mirror.store import moments, repos, snapshots, teams
from mirror.store.teams import DEFAULT
from mirror.when import When, Within


async def repo_named(edges: Edges, name: str, team: str | None = None) -> Repo:
    """The repo that `everref repos` shows as NAME (of the command line's team) or as TEAM:NAME.

    `team` says the team instead, by its name or id. A name that has a colon is first looked for as it
    stands. Raises NotFound, UsageError as `operator.team_named` does.
    """
    chosen = await operator.team_named(edges, team)
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
    others = await repos.teams_with(edges.db, name, operator.TEAMS)
    if not others:
        return "`everref repos` lists them"
    if len(others) == 1:
        return f"it is kept by the team {others[0]}: add --team {others[0]}"
    return f"it is kept by the teams {operator.listed(others)}: say which with --team"


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
