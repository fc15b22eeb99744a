"""Undoing a restore: the refs that it overwrote get back what they held, and those that it made go.

What a restore wrote was set down before it was pushed (store/restores), and what
it overwrote was kept (flows/target). This is the only place from which a ref of
a remote is ever deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mirror import plan as planning
from mirror.errors import NotFound, Origin, Refused, whose
from mirror.flows import restore, steps, target
from mirror.flows.edges import Edges
from mirror.flows.entitled import Means
from mirror.flows.restore import RefResult, Restored
from mirror.git import address, push, read
from mirror.git.push import Answer
from mirror.model import RefName, Refs, Remote, Repo, Snapshot
from mirror.plan import RefAction
from mirror.store import repos, restores, snapshots
from mirror.store.jobs import ENDED, Job
from mirror.store.restores import Cause


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """What undoing a restore would do, computed before anything is done."""

    to: Remote
    refs: tuple[RefResult, ...]
    kept: Repo | None  # has what was overwritten; None: nothing was
    made: bool  # the restore made the repository, which stays


async def check(edges: Edges, job: Job) -> None:
    """Raise Refused where there is nothing of this job to undo."""
    if job.kind != "restore" or job.asked.get("undo"):
        raise Refused("only a restore to a repository can be undone; restore another moment instead")
    if job.state not in ENDED:
        raise Refused("the restore has not ended yet; stop it first")
    if not await restores.wrote_any(edges.db, job.id):
        raise Refused("the restore wrote nothing, so there is nothing to undo")


async def plan(edges: Edges, job: Job, means: Means) -> UndoPlan:
    """What undoing the restore of this job would do, ref by ref; asks the target what it has."""
    await check(edges, job)
    to, made = await _reach(edges, job, means)
    wrote = await restores.written(edges.db, job.id)
    actions = planning.undo_actions(wrote, await restore.listed_at(edges, to))
    kept = await _kept(edges, job, to) if any(one.old for one in wrote) else None
    return UndoPlan(to, tuple(restore.foreseen(action) for action in actions), kept, made)


async def undo(
    edges: Edges, job: Job, repo: Repo, snapshot: Snapshot, means: Means, cause: Cause
) -> Restored:
    """Put the target back to what it was before the restore of this job.

    1. List the target; a ref that somebody moved since is left, and told.
    2. Push what was overwritten, from what was kept of it, and delete what the restore
       made; each if and only if it still holds exactly what the restore wrote.
    3. List the target again; what counts is what is there now.

    Safe to run twice: what is as it was is `unchanged` the second time.
    """
    await check(edges, job)
    to, _ = await _reach(edges, job, means)
    wrote = await restores.written(edges.db, job.id)
    listed = await restore.listed_at(edges, to)
    actions = planning.undo_actions(wrote, listed)
    steps.reached("undo: planned")
    said = await _put_back(edges, job, to, actions, listed)
    arrived = await restore.listed_at(edges, to)
    results = tuple(restore.outcome(action, arrived, said) for action in actions)
    verified = all(result.result != "refused" for result in results)
    done = Restored(repo, snapshot, results, verified, said=restore.remarks(said))
    return await restore.recorded(edges, done, f"undo of the push to {to.url}", cause)


async def _put_back(
    edges: Edges, job: Job, to: Remote, actions: list[RefAction], listed: Refs
) -> Mapping[RefName, Answer]:
    goal = {action.name: action.target for action in actions if action.action == "update"}
    removed = [action.name for action in actions if action.action == "remove"]
    if not goal and not removed:
        return {}
    with whose(Origin.TARGET):
        pinned = await address.check(to.url, edges.settings.allow_private_remotes)
    repo = await _kept(edges, job, to) if goal else None
    repo = repo or await repos.get(edges.db, job.repo_id)
    latest = await snapshots.latest(edges.db, repo.id)
    if latest is None:
        raise NotFound(f"{repo.name} has no snapshot, so nothing of it can be put back")
    gone = Answer(False, f"{repo.name} does not hold what was there any more")
    said: dict[RefName, Answer] = {}

    async def send() -> None:
        edges.progress.phase("filling the pool")
        async with restore.moment_of(edges, repo, latest, goal) as moment:
            lacking = await read.missing(moment.path, set(goal.values()))
            said.update({name: gone for name, oid in goal.items() if oid in lacking})
            left = [name for name in (*goal, *removed) if name not in said or not said[name].ok]
            held = {name: goal[name] for name in left if name in goal and goal[name] not in lacking}
            edges.progress.phase(f"pushing {len(left)} refs")
            answers = await push.push(
                edges.git,
                moment,
                to,
                held,
                pinned=pinned,
                progress=edges.progress,
                expected=listed,
                removed=[name for name in removed if name in left],
            )
            said.update(answers)

    await restore.sent_whole(edges, repo, send, said)
    steps.reached("undo: pushed")
    return said


async def _reach(edges: Edges, job: Job, means: Means) -> tuple[Remote, bool]:
    """The target of that restore, as it is reached now."""
    to = await target.reach(edges, job.team_id, job.asked, means)
    made = (job.result or {}).get("made")
    return (Remote(made, to.secret), True) if made else (to, False)


async def _kept(edges: Edges, job: Job, to: Remote) -> Repo | None:
    """The repo in which what the target held was kept."""
    record = await restores.by_job(edges.db, job.id)
    team_id = await target.keeper(edges, job.team_id, to.url)
    if record and record.kept:
        return await repos.find_in(edges.db, team_id, record.kept[0])
    return await repos.by_url(edges.db, team_id, to.url)
