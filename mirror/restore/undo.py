"""Undoing a restore: refs that it overwrote or removed get back what they held, and refs that it made go.

What a restore wrote was recorded before it was pushed (store/restore/restores), and what it overwrote was
backed up (restore/target). Nothing but this and a rollback (restore/rollback) deletes a ref of a remote.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mirror.core.errors import EverrefError, NotFound, Refused
from mirror.core.model import HEAD, RefName, Refs, Remote, Repo, Snapshot
from mirror.core.refs import is_symbolic, shown_text
from mirror.core.rules.history import plan as planning
from mirror.core.rules.history.plan import RefAction, Wrote
from mirror.git import read
from mirror.git.push import Answer
from mirror.restore import here, restore, target
from mirror.restore.restore import RefResult, Restored
from mirror.restore.target import Authority
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.jobs.jobs import ENDED, Job
from mirror.store.restore import restores
from mirror.store.restore.restores import Cause

log = logging.getLogger("mirror.undo")


@dataclass(frozen=True, slots=True)
class DefaultMove:
    """A change of the target's default branch, as hosts do not let theirs be removed."""

    old: RefName
    new: RefName


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """What undoing a restore would do, computed before anything is done."""

    to: Remote
    refs: tuple[RefResult, ...]
    kept: Repo | None  # has what was overwritten; None: nothing was
    made: bool  # the restore made the repository, which stays
    default: DefaultMove | None = None  # None: the target's default branch stays what it is


async def check(services: Services, job: Job) -> None:
    """Raise Refused where this job left nothing to undo."""
    if job.kind != "restore" or job.asked.get("undo"):
        raise Refused("only a restore to a repository can be undone; restore another moment instead")
    if job.state not in ENDED:
        raise Refused("the restore has not ended yet; stop it first")
    if not await restores.wrote_any(services.db, job.id):
        raise Refused("the restore wrote nothing, so there is nothing to undo")


async def plan(services: Services, job: Job, means: Authority) -> UndoPlan:
    """What undoing the restore of this job would do, ref by ref; asks the target which refs it has."""
    await check(services, job)
    to, made = await _reach(services, job, means)
    wrote = await _wrote(services, job)
    listed = await restore.listed_at(services, to)
    actions = planning.undo_actions(wrote, listed)
    kept = await _kept(services, job, to) if any(one.old for one in wrote) else None
    move = _default_move(listed, actions)
    if move and not await target.may_make_default(services, job.team_id, job.asked):
        move = None
    return UndoPlan(to, tuple(restore.foreseen(action) for action in actions), kept, made, move)


async def _wrote(services: Services, job: Job) -> list[Wrote]:
    """What the restore of this job wrote. A HEAD where there was none stays, as a repo always has one."""
    wrote = await restores.written(services.db, job.id)
    return [one for one in wrote if one.name != HEAD or one.old]


def _default_move(listed: Refs, actions: Iterable[RefAction]) -> DefaultMove | None:
    """The default branch and the one that takes its place, where it is to be removed and there is one."""
    removed = [action.name for action in actions if action.action == "remove"]
    default = planning.default_branch(listed)
    other = planning.another_default(listed, removed) if default in removed else None
    return DefaultMove(default, other) if default and other else None


async def undo(
    services: Services, job: Job, repo: Repo, snapshot: Snapshot, means: Authority, cause: Cause
) -> Restored:
    """Put the target back to what it was before the restore of this job.

    1. List the target; a ref that somebody has moved since is left as it is, and reported.
    2. Where the default branch is to be deleted, which hosts refuse, make another one the default.
    3. Push what was overwritten, from its backup, and delete what the restore made; each ref only
       if it still holds exactly what the restore wrote.
    4. List the target again; what counts is what is there now. Where the default branch could not be
       removed after all, make it the default one again.

    Safe to run twice: a ref that is back already is `unchanged` the second time. Where a ref was left or
    refused, the restore is not undone yet, and the rest can be later.
    """
    await check(services, job)
    to, _ = await _reach(services, job, means)
    wrote = await _wrote(services, job)
    listed = await restore.listed_at(services, to)
    actions = planning.undo_actions(wrote, listed)
    failpoints.reached("undo: planned")
    default = planning.default_branch(listed)
    move = _default_move(listed, actions)
    removes = any(action.name == default and action.action == "remove" for action in actions)
    advice = _ONLY if removes and move is None else ""
    moved = move is not None and await _moved_default(services, job, to, move.new)
    if move and not moved:
        other = _branch(move.new)
        advice = f"it is the default branch there: make {other} the default one there and undo this again"
    by = await here.who(services, cause)
    said = await _put_back(services, job, to, actions, listed, by)
    arrived = await restore.listed_at(services, to)
    if move and moved and move.old in arrived:  # it was refused: nobody is to find another default branch
        back = await _moved_default(services, job, to, move.old)
        now = "stays the default branch" if back else f"{_branch(move.new)} is the default branch there now"
        advice = f"{now}: unprotect this one there and undo this again"
    if default and default in said and said[default].ok is False and advice:
        said = {**said, default: replace(said[default], why=f"{said[default].why}; {advice}")}
    results = tuple(restore.outcome(action, arrived, said) for action in actions)
    verified = all(result.result not in ("refused", "skipped") for result in results)  # else there is more
    done = Restored(repo, snapshot, results, verified, said=restore.remarks(said))
    return await restore.recorded(services, done, f"undo of the push to {to.shown}", cause)


_ONLY: Final = (
    "it is the default branch and the only one left there, which hosts keep: delete the repository"
    " there, or make another branch the default one and undo this again"
)


def _branch(name: RefName) -> str:
    return shown_text(name.removeprefix(b"refs/heads/"))


async def _moved_default(services: Services, job: Job, to: Remote, branch: RefName) -> bool:
    """Make this the target's default branch. False: it is not, whatever the host answered."""
    try:
        if not await target.make_default(services, job.team_id, job.asked, to, _branch(branch)):
            return False
        return planning.default_branch(await restore.listed_at(services, to)) == branch
    except EverrefError as error:
        log.warning("another default branch could not be set at a restore's target: %s", error)
        return False


async def _put_back(
    services: Services, job: Job, to: Remote, actions: list[RefAction], listed: Refs, by: str
) -> Mapping[RefName, Answer]:
    goal = {action.name: action.target for action in actions if action.action in ("create", "update")}
    removed = [action.name for action in actions if action.action == "remove"]
    if not goal and not removed:
        return {}
    way = await restore.way_to(services, to, listed)
    repo = await _kept(services, job, to) if goal else None
    repo = repo or await repos.get(services.db, job.repo_id)
    latest = await snapshots.latest(services.db, repo.id)
    if latest is None:
        raise NotFound(f"{repo.name} has no snapshot, so nothing of it can be put back")
    gone = Answer(False, f"{repo.name} no longer holds what was there")
    said: dict[RefName, Answer] = {}

    async def send() -> None:
        services.progress.phase("filling the pool")
        async with restore.moment_of(services, repo, latest, goal) as moment:
            oids = {target for target in goal.values() if not is_symbolic(target)}
            lacking = await read.missing(moment.path, oids)
            said.update({name: gone for name, oid in goal.items() if oid in lacking})
            left = [name for name in (*goal, *removed) if name not in said or not said[name].ok]
            held = {name: goal[name] for name in left if name in goal and goal[name] not in lacking}
            services.progress.phase(f"pushing {len(left)} refs")
            gone_too = [name for name in removed if name in left]
            await restore.write(services, moment, way, listed, held, gone_too, by, said)

    await restore.sent_whole(services, repo, send, said)
    failpoints.reached("undo: pushed")
    return said


async def _reach(services: Services, job: Job, means: Authority) -> tuple[Remote, bool]:
    """The target of that restore, with the credentials of now; and whether the restore made it."""
    to = await target.reach(services, job.team_id, job.asked, means)
    made = (job.result or {}).get("made")
    return (Remote(made, to.secret), True) if made else (to, False)


async def _kept(services: Services, job: Job, to: Remote) -> Repo | None:
    """The repo that backed up what the target held."""
    record = await restores.by_job(services.db, job.id)
    team_id = await target.keeper(services, job.team_id, to.url)
    if record and record.kept:
        return await repos.find_in(services.db, team_id, record.kept[0])
    return await repos.by_url(services.db, team_id, to.url)
