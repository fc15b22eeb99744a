"""The commits of a plan: how many each ref gains and loses, whose they are, and their first messages.

Who calls: the pages, the API and the command `plan`, each with the moves of a plan, what is overwritten
first. A reader process counts them, within its limits; what is not counted is told as that.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mirror.browse.moments import opened
from mirror.core.errors import EverrefError
from mirror.core.formats.objects import Commit
from mirror.core.model import RefName, Repo, RepoId, Snapshot, Target
from mirror.core.refs import Move
from mirror.git.reader.questions import Between, Ends, WhatLies
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import snapshots

COUNTED: Final = 60  # refs of one plan whose commits are counted
SHOWN: Final = 10  # commits told of each side
HELD: Final = 2000  # ids that the target is known to hold
READING: Final = 10.0  # seconds that a plan waits for its commits
_SUMMARY: Final = 300  # characters
_REMEMBERED: Final = 1000  # moves: the commits between two ids never change


@dataclass(frozen=True, slots=True)
class RefCommits:
    """The commits that one ref of a plan gains and loses."""

    gains: int | None  # None: not counted
    loses: int | None
    gained: tuple[Commit, ...]  # the newest of them, SHOWN at most
    lost: tuple[Commit, ...]
    old: Commit | None  # None: there is none, or it is not in the backup yet
    new: Commit | None
    base: Commit | None = None  # the newest that both reach; None: there is none, or it was not asked for


@dataclass(frozen=True, slots=True)
class PlanCommits:
    """The commits of a plan, by ref."""

    by_name: dict[RefName, RefCommits] = field(default_factory=dict)
    uncounted: int = 0  # refs of the plan that would change and whose commits were not counted


NONE: Final = PlanCommits()
log = logging.getLogger("mirror.browse")
_known: OrderedDict[Ends, Between] = OrderedDict()


def authors(commits: Iterable[Commit]) -> list[str]:
    """Who wrote these commits, each once, in the order of the commits."""
    return list(dict.fromkeys(one.author for one in commits if one.author))


async def of_plan(
    services: Services, repo: Repo, moves: Sequence[Move], held: Collection[Target] = ()
) -> PlanCommits:
    """The commits of the first COUNTED of these moves. A new ref gains what none of the `held` ids reaches.

    Waits for a slot of `services.who`; a pool that is behind is filled first, which may take a while.
    """
    latest = await snapshots.latest(services.db, repo.id) if moves else None
    if latest is None:
        return PlanCommits({}, len(moves))
    wanted = moves[:COUNTED]
    found = await _between(services, repo, latest, wanted, tuple(held)[:HELD])
    told = {name: _told(one) for (name, _, _), one in zip(wanted, found, strict=True)}
    return PlanCommits(told, len(moves) - len(wanted))


async def of_plan_or_none(
    services: Services,
    repo: Repo,
    moves: Sequence[Move],
    held: Collection[Target] = (),
    seconds: float = READING,
) -> PlanCommits:
    """The same for who waits for the plan itself: without counts where they cannot be read soon."""
    try:
        async with asyncio.timeout(seconds):
            return await of_plan(services, repo, moves, held)
    except (EverrefError, TimeoutError) as error:
        log.info("the commits of a plan were not counted: %s", error)
        return PlanCommits({}, len(moves))


async def of_repos(
    services: Services, plans: Sequence[tuple[RepoId, Sequence[Move]]], seconds: float = READING
) -> dict[RepoId, PlanCommits]:
    """The same for moves of several repos, one after the other: as many as can be read in these seconds."""
    until = asyncio.get_running_loop().time() + seconds
    found: dict[RepoId, PlanCommits] = {}
    for repo_id, moves in plans:
        left = until - asyncio.get_running_loop().time()
        if not moves or left <= 0:
            found[repo_id] = PlanCommits({}, len(moves))
            continue
        found[repo_id] = await of_plan_or_none(
            services, await repos.get(services.db, repo_id), moves, (), left
        )
    return found


async def apart(services: Services, repo: Repo, old: Target | None, new: Target | None) -> RefCommits | None:
    """What a ref that goes from `old` to `new` loses and gains. None: one of them is missing."""
    if old is None or new is None:
        return None
    latest = await snapshots.latest(services.db, repo.id)
    if latest is None:
        return None
    (found,) = await _between(services, repo, latest, [(RefName(b""), old, new)], ())
    return _told(found)


async def _between(
    services: Services,
    repo: Repo,
    latest: Snapshot,
    moves: Sequence[Move],
    held: tuple[Target, ...],
) -> list[Between]:
    ends = [(old, new) for _, old, new in moves]
    found = [_known.get(one) for one in ends]
    missing = tuple(one for one, known in zip(ends, found, strict=True) if known is None)
    if not missing:
        return [one for one in found if one]
    async with opened(services, repo, latest) as there:
        asked = WhatLies(there.path, missing, shown=SHOWN, base=True, held=held)
        answer = await there.ask(asked)
    told = dict(zip(missing, map(_short, answer), strict=True))
    _known.update({one: between for one, between in told.items() if between.lost is not None})
    while len(_known) > _REMEMBERED:
        _known.popitem(last=False)
    return [known or told[one] for one, known in zip(ends, found, strict=True)]


def _told(one: Between) -> RefCommits:
    return RefCommits(one.gained, one.lost, one.gained_commits, one.lost_commits, one.old, one.new, one.base)


def _short(one: Between) -> Between:
    """The same as it is remembered: messages can be of any length."""
    return replace(
        one,
        old=_brief(one.old),
        new=_brief(one.new),
        lost_commits=tuple(map(_brief_one, one.lost_commits)),
        gained_commits=tuple(map(_brief_one, one.gained_commits)),
        base=_brief(one.base),
    )


def _brief(commit: Commit | None) -> Commit | None:
    return commit and _brief_one(commit)


def _brief_one(commit: Commit) -> Commit:
    return replace(commit, summary=commit.summary[:_SUMMARY], body="", parents=())
