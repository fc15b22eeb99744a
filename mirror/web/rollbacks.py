"""Incidents and rollbacks as pages and the API do them: what is asked for, who may, what is audited."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from mirror.core.errors import NotFound
from mirror.core.model import RepoId
from mirror.core.rules.history import rollback as rules
from mirror.core.rules.history.rollback import Wanted
from mirror.core.rules.roles import Role
from mirror.jobs import rollbacks
from mirror.jobs.rollbacks import State
from mirror.restore import rollback
from mirror.restore.target import Authority
from mirror.store import repos
from mirror.store.restore.rollbacks import Rollback, RollbackId
from mirror.web.dispatch import RequestContext
from mirror.web.drafts import limited, queue

WAITS: Final = 2.0  # seconds that somebody waits for a plan, before its page says how far it is


def wanted(context: RequestContext, given: Mapping[str, Sequence[str]]) -> Wanted:
    """The ref changes that are meant. Raises UsageError with the field that is wrong."""
    return rules.wanted(given, context.now, context.zone, untold=bool(given.get("untold")))


async def plan(context: RequestContext, meant: Wanted, *, created: bool, moved: bool) -> RollbackId:
    """Plan to put them back; nothing is written to any host. Raises UsageError where nothing is meant."""
    async with context.planning():
        made = await rollback.plan(
            context.services,
            context.of_team().id,
            meant,
            Authority(context.acting),
            person_id=context.owner().id,
            created=created,
            moved=moved,
        )
    return made.id


async def start(context: RequestContext, meant: Wanted, *, created: bool, moved: bool) -> RollbackId:
    """The same without waiting for hosts that do not answer soon: the plan is read on in the background."""
    made = await rollback.start(
        context.services,
        context.of_team().id,
        meant,
        person_id=context.owner().id,
        created=created,
        moved=moved,
    )
    read_on(context, made)
    await context.outside.background.done(_about(made.id), WAITS)
    return made.id


def read_on(context: RequestContext, found: Rollback) -> None:
    """Have the rest of a plan read, by its maker, in the background: the page shows how far that is.

    Safe to run twice: this process does it once at a time, and what is read stays as it is. Where it
    stopped, as a process that ended or too much was read at once, the next look at the page goes on.
    """
    if found.unread and found.person_id == context.owner().id and context.may(Role.OPERATOR):
        work = _read_all(context, found.id, Authority(context.acting))
        context.outside.background.begin(_about(found.id), work)


async def _read_all(context: RequestContext, rollback_id: RollbackId, means: Authority) -> None:
    services, team_id = context.services, context.of_team().id
    left = True
    while left:
        async with context.outside.plans.slot(services.who):  # others have their turn in between
            found = await rollback.read_on(services, team_id, rollback_id, means, rollback.AT_ONCE)
        left = bool(found.unread)


def _about(rollback_id: RollbackId) -> str:
    return f"plan of the rollback {rollback_id}"


async def state(context: RequestContext) -> State:
    """The path's rollback, of this team. Raises NotFound."""
    return await rollbacks.state(context.services, context.of_team().id, id_of(context))


async def made(context: RequestContext, rollback_id: RollbackId) -> State:
    """A rollback that was planned just now."""
    return await rollbacks.state(context.services, context.of_team().id, rollback_id)


def id_of(context: RequestContext) -> RollbackId:
    """The rollback in the path. Raises NotFound."""
    try:
        return RollbackId(UUID(str(context.path["rollback"])))
    except ValueError:
        raise NotFound("there is no such rollback") from None


async def choose(context: RequestContext, places: Collection[int]) -> None:
    """Keep which refs of the path's plan were ticked, whatever comes of beginning it."""
    team_id, person_id = context.of_team().id, context.owner().id
    await rollbacks.choose(context.services, team_id, id_of(context), places, person_id)


async def begin(context: RequestContext, places: Collection[int] | None) -> State:
    """Begin the path's plan with these of its refs, once. It counts as one restore of the person's."""
    found = await state(context)
    if found.rollback.begun_at is not None:
        return found
    rollbacks.check(found.rollback, places, context.owner().id, context.now)  # which counts as none
    await limited(context)
    team = context.of_team()
    begun = await rollbacks.begin(
        context.services,
        team.id,
        found.rollback.id,
        _Doing(context, "restore.push"),
        person_id=context.owner().id,
        places=places,
    )
    await _audit(context, "rollback.begin", begun)
    return begun


async def again(context: RequestContext) -> State:
    """Go on with the repos whose refs are not all back."""
    await limited(context)
    doing = _Doing(context, "restore.push")
    done = await rollbacks.again(context.services, context.of_team().id, id_of(context), doing)
    await _audit(context, "rollback.again", done)
    return done


async def undo(context: RequestContext) -> State:
    """Undo all that the path's rollback wrote."""
    doing = _Doing(context, "restore.undo")
    done = await rollbacks.undo_all(context.services, context.of_team().id, id_of(context), doing)
    await _audit(context, "rollback.undo", done)
    return done


class _Doing:
    """Queues the job of one repo, as this person requests it, and writes that down."""

    def __init__(self, context: RequestContext, action: str) -> None:
        self._context, self._action = context, action

    async def __call__(self, repo_id: RepoId, asked: dict[str, Any]) -> None:
        context = self._context
        repo = await repos.get(context.services.db, repo_id)
        await queue(context, repo, "restore", asked)
        detail = {"to": repo.url, "rollback": asked[rollbacks.ASKED], "overwrites": True}
        await context.audit(self._action, repo.name, repo_id, detail)


async def _audit(context: RequestContext, action: str, done: State) -> None:
    found = done.rollback
    detail = {"rollback": str(found.id), "refs": found.chosen, **found.asked}
    await context.audit(action, done.sentence, detail=detail)
