"""Planning a rollback: the refs that somebody moved, in any number of repos, back to just before.

Who calls: the page of a rollback, the API and the command `rollback`. The plan is kept in
store/restore/rollbacks with what each ref held when it was made; jobs/rollbacks does it, a job a repo.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final
from uuid import UUID

from mirror.core.errors import EverrefError, NotFound, UsageError
from mirror.core.model import HEAD, RefName, Refs, Repo, RepoId, Target, has_remote
from mirror.core.progress import Silent
from mirror.core.refs import Move, is_symbolic
from mirror.core.rules.history import rollback as rules
from mirror.core.rules.history.rollback import Planned, Wanted
from mirror.git import read
from mirror.restore import restore, target
from mirror.restore.target import Authority
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.browse import incidents
from mirror.store.browse.incidents import Changed, Followed
from mirror.store.people.teams import TeamId
from mirror.store.restore import rollbacks
from mirror.store.restore.rollbacks import PlannedRepo, Read, Rollback, RollbackId

LISTING: Final = 10.0  # seconds for one host to list its refs
AT_ONCE: Final = 8  # hosts that are asked at the same time
REFS: Final = 2000  # of one plan
REPOS: Final = 200
SHOWN: Final = ("ready", "moved")  # states of refs whose commits a plan tells

log = logging.getLogger("mirror.rollback")


async def plan(
    services: Services,
    team_id: TeamId,
    wanted: Wanted,
    means: Authority,
    *,
    person_id: UUID | None = None,
    created: bool = False,
    moved: bool = False,
) -> Rollback:
    """What putting back all that is meant would do, ref by ref, kept so that it can be begun as it was seen.

    `services.progress` is told of how many repos the plan knows already.

    Nothing is written to any host. Raises as `start` does.
    """
    made = await start(services, team_id, wanted, person_id=person_id, created=created, moved=moved)
    return await read_on(services, team_id, made.id, means)


async def start(
    services: Services,
    team_id: TeamId,
    wanted: Wanted,
    *,
    person_id: UUID | None = None,
    created: bool = False,
    moved: bool = False,
) -> Rollback:
    """A plan of all that is meant, of which no repo is read yet; no host is asked.

    `created`: also delete what did not exist before; `moved`: also take away what others pushed since.
    Raises UsageError where nothing is meant, or more than one plan holds, NotFound where an account never
    pushed: it may be misspelt, and what it did would be left out.
    """
    if strangers := await incidents.strangers(services.db, team_id, wanted):
        raise NotFound(strangers.sentence)
    found = await _meant(services, team_id, wanted, None)
    if not found:
        raise UsageError("nothing was pushed that matches; choose another account or a longer time")
    if (refs := len({one.ref_id for one in found})) > REFS:
        raise UsageError(f"{refs:,} refs match and one plan holds {REFS:,}; choose fewer")
    before: dict[RepoId, int] = {}
    for one in found:
        before[one.repo_id] = min(before.get(one.repo_id, one.before), one.before)
    if len(before) > REPOS:
        raise UsageError(f"{len(before):,} repositories match and one plan holds {REPOS}; choose fewer")
    made = await rollbacks.add(
        services.db,
        team_id,
        person_id,
        wanted.asked,
        list(before.items()),
        created=created,
        moved=moved,
        at=services.clock(),
    )
    return await get(services, team_id, made)


async def read_on(
    services: Services,
    team_id: TeamId,
    rollback_id: RollbackId,
    means: Authority,
    most: int | None = None,
) -> Rollback:
    """Go on with making a plan: with the next `most` of the repos that are not read; None: with all.

    1. Read the changes that are meant, and what followed them.
    2. Ask each repo's host which refs it has; of one that does not answer the newest snapshot counts, and the
       plan says so. A repo that is pushed to is asked itself.
    3. Decide ref by ref.
    4. Keep what was read, together.

    Safe to run twice, also at once: a repo that is read stays as it is. Takes 2 * LISTING seconds or little
    more for each AT_ONCE repos. Raises UsageError where there is more than one plan holds by now.
    """
    found = await get(services, team_id, rollback_id)
    due = sorted(found.unread, key=lambda one: one.repo)[:most]
    if not due:
        return found
    changes = await _meant(services, team_id, Wanted.of(found.asked), [one.repo_id for one in due])
    followed = await incidents.following(services.db, changes)
    by_repo = {repo_id: list(some) for repo_id, some in groupby(followed, key=lambda one: one.first.repo_id)}
    slots = asyncio.Semaphore(AT_ONCE)
    quiet = replace(services, progress=Silent())  # what several at once have to say makes no sense together
    services.progress.phase("asking hosts", len(due), "repositories")

    async def of_repo(one: PlannedRepo) -> Read:
        refs = by_repo.get(one.repo_id, [])
        async with slots:
            read = (
                await _of_repo(quiet, team_id, one.repo_id, refs, means) if refs else (None, [], one.snapshot)
            )
        services.progress.advance(1)
        problem, planned, snapshot = read
        chosen = [(each, each.chosen(created=found.created, moved=found.moved)) for each in planned]
        return Read(one.repo_id, snapshot, problem, tuple(chosen))

    made = await asyncio.gather(*(of_repo(one) for one in due))
    await rollbacks.add_read(services.db, rollback_id, made)
    return await get(services, team_id, rollback_id)


async def _meant(
    services: Services, team_id: TeamId, wanted: Wanted, only: Sequence[RepoId] | None
) -> Sequence[Changed]:
    """The changes that are meant. Raises UsageError where there are more than one plan holds."""
    found = await incidents.changes(services.db, team_id, wanted, only=only)
    if found.more:
        raise UsageError(
            f"more than {incidents.MOST:,} ref changes match, which one plan cannot hold; "
            "choose a shorter time, one account or fewer repositories"
        )
    return found.changes


async def get(services: Services, team_id: TeamId, rollback_id: RollbackId) -> Rollback:
    """The team's rollback of this id. Raises NotFound."""
    found = await rollbacks.find(services.db, team_id, rollback_id)
    if found is None:
        raise NotFound("there is no such rollback; plans that were not begun go after a day")
    return found


async def _of_repo(
    services: Services, team_id: TeamId, repo_id: RepoId, refs: Sequence[Followed], means: Authority
) -> tuple[str | None, list[Planned], int]:
    """Why its host could not be asked, its refs as planned, and the last kept snapshot before the moves."""
    db = services.db
    repo = await repos.get(db, repo_id)
    first = min(one.first.before for one in refs)
    number = await incidents.kept_before(db, repo_id, first) or first
    listed, problem = await _listed(services, team_id, repo, means)
    before = {one.moves[0].old for one in refs}
    lost = await incidents.unkept(db, repo_id, [one for one in before if one and not is_symbolic(one)])
    if lost:
        lost = await _gone(services, repo, lost)
    planned = [
        rules.planned(
            one.first.change.name,
            one.moves,
            one.now,
            lost,
            listed and _of(listed, one),
            here=not has_remote(repo.url),
        )
        for one in refs
    ]
    return problem, planned, number


def _of(listed: Refs, one: Followed) -> dict[RefName, Target]:
    name = one.first.change.name
    return {name: listed[name]} if name in listed else {}


async def _listed(
    services: Services, team_id: TeamId, repo: Repo, means: Authority
) -> tuple[Refs | None, str | None]:
    """The refs that its host has now; or None, and why it could not be asked."""
    try:
        async with asyncio.timeout(LISTING):
            to = await target.reach(services, team_id, {"kept": str(repo.id)}, means)
            return await restore.listed_at(services, to), None
    except TimeoutError:
        return None, f"the host did not answer within {LISTING:g} s"
    except EverrefError as error:
        log.info("a rollback is planned by the newest snapshot of %s: %s", repo.id, error)
        return None, str(error)


async def _gone(services: Services, repo: Repo, suspected: set[Target]) -> set[Target]:
    """Of what no kept snapshot names, the objects that are gone; those that another ref reaches are not.

    Where nobody can look soon, all of them count as gone: the plan promises nothing that it cannot keep.
    """
    latest = await snapshots.latest(services.db, repo.id)
    if latest is None:
        return suspected
    try:
        async with asyncio.timeout(LISTING):
            async with restore.moment_of(services, repo, latest, {}) as moment:
                return await read.missing(moment.path, suspected)
    except (EverrefError, TimeoutError) as error:
        log.info("what %s still holds could not be looked up: %s", repo.id, error)
        return suspected


def moves(found: Rollback) -> list[tuple[RepoId, list[Move]]]:
    """What each of its repos' refs would go from and to, the chosen ones first: for counting commits."""
    told: list[tuple[RepoId, list[Move]]] = []
    for one in found.repos:
        refs = sorted(
            (each for each in one.refs if each.ref.state in SHOWN), key=lambda each: not each.chosen
        )
        steps = [
            (each.ref.name, each.ref.expected, each.ref.target) for each in refs if each.ref.name != HEAD
        ]
        told.append((one.repo_id, [(name, old, new) for name, old, new in steps if new is not None]))
    return told
