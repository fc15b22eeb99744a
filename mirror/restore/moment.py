"""Which repo, and which of its snapshots, a person means. Who calls: the commands, pages, API and jobs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mirror.backup import dropped
from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Repo, Snapshot, has_remote
from mirror.core.times.when import When, Within
from mirror.people import operator
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import moments, snapshots
from mirror.store.people import teams
from mirror.store.people.teams import DEFAULT


async def repo_named(services: Services, name: str, team: str | None = None) -> Repo:
    """The repo that `everref repos` shows as NAME (of the command line's team) or as TEAM:NAME.

    `team` says the team instead, by its name or id. Raises NotFound, UsageError as `operator.team_named`
    does, and UsageError where NAME has a colon and is one repo as it stands and another one as TEAM:NAME.
    """
    chosen = await operator.team_named(services, team)
    repo = await repos.by_name(services.db, chosen.id, name)
    if team is None and ":" in name:
        before, _, after = name.partition(":")
        other = await teams.by_name(services.db, before)
        elsewhere = None if other is None else await repos.by_name(services.db, other.id, after)
        if repo and elsewhere:
            raise UsageError(
                f"{name} is a repo of the team {chosen.name}, and {after} is one of the team {before}; "
                f"say which: {name} --team {chosen.name}, or {after} --team {before}"
            )
        repo = repo or elsewhere
    if repo is None:
        where = "" if chosen.name == DEFAULT else f" in the team {chosen.name}"
        raise NotFound(f"no repo is called {name}{where}; {await _elsewhere(services, name)}")
    return repo


async def _elsewhere(services: Services, name: str) -> str:
    """What to do where the team has no repo of this name."""
    others = await repos.teams_with(services.db, name, operator.TEAMS)
    if not others:
        return "`everref repos` lists them"
    if len(others) == 1:
        return f"it belongs to the team {others[0]}: add --team {others[0]}"
    return f"it belongs to the teams {operator.listed(others)}: say which with --team"


async def snapshot_at(services: Services, repo: Repo, when: When | None) -> Snapshot:
    """The snapshot of this number, or the last moment at or before this time; None: the latest.

    Raises Dropped where that one was let go, with the nearest kept ones.
    """
    if when is None:
        found = await snapshots.latest(services.db, repo.id)
    elif isinstance(when, int):
        found = await snapshots.get(services.db, repo.id, when)
    elif isinstance(when, Within):
        found = await moments.get(services.db, repo.id, *when)
    else:
        found = await snapshots.at(services.db, repo.id, when)
        found = found and await moments.after(services.db, repo.id, found, when)
    if found is None:
        raise await _none(services, repo, when)
    return await dropped.check(services, repo, found)


def wanted(asked: Mapping[str, Any]) -> int | Within | None:
    """Which moment a job is about, from Snapshot.numbers; None: the latest."""
    number, moment = asked.get("snapshot"), asked.get("moment")
    return Within(number, moment) if number and moment else number


async def _none(services: Services, repo: Repo, when: When | None) -> NotFound:
    """Why there is no such snapshot."""
    latest = await snapshots.latest(services.db, repo.id)
    if latest is None or when is None:
        if not has_remote(repo.url):
            return NotFound(f"nothing has been pushed to {repo.name} yet")
        return NotFound(f"{repo.name} has no snapshot yet; back it up first: everref backup {repo.url}")
    if isinstance(when, int):
        return NotFound(f"{repo.name} has no snapshot #{when}; it has #1 to #{latest.number}")
    if isinstance(when, Within):
        return NotFound(f"{repo.name} has no moment #{when.snapshot}.{when.moment}")
    first = await snapshots.get(services.db, repo.id, 1)
    assert first is not None  # there is a latest one, and numbers begin at 1
    return NotFound(
        f"{repo.name} has no snapshot at or before {_shown(when)}; "
        f"the first is #1 of {_shown(first.taken_at)}"
    )


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
