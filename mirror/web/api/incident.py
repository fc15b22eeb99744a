"""What was pushed to a team's repos, by whom, and putting it back: ref changes and rollbacks."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from mirror.browse import plan_commits
from mirror.core.rules.history.rollback import What
from mirror.jobs.rollbacks import State
from mirror.restore import rollback
from mirror.shapes.incident import Rollback, TeamRefChanges
from mirror.store.browse import incidents
from mirror.web import rollbacks
from mirror.web.api.call import Body, Call, Query, call
from mirror.web.api.shapes import Nothing, Words
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

ROLLBACK: Final = f"{TEAM}/rollbacks/{{rollback}}"

Time = Annotated[str, Meta(max_length=100, description="a time: 2026-03-02T09:00:00Z, Friday 18:00, 2h ago")]
Globs = Annotated[list[Annotated[str, Meta(max_length=500)]], Meta(max_length=100)]
Accounts = Annotated[
    list[Words], Meta(max_length=100, description="accounts, as the hosts name them; case does not count")
]
UNTOLD: Final = "those whose account the host did not name; with `actor`, those too"


class TeamChangesAsked(Query, frozen=True, kw_only=True):
    """Which ref changes; without a time, those of the last day."""

    since: Time | None = None
    until: Time | None = None
    actor: Accounts = []
    untold: Annotated[Literal["yes"], Meta(description=UNTOLD)] | None = None
    kind: list[What] = []
    repo: Globs = []
    ref: Globs = []
    limit: Annotated[int, Meta(ge=1, le=incidents.MOST, description="how many to give at most")] = 1000


class RollbackWanted(Body, frozen=True, kw_only=True):
    """Which ref changes to put back; without a time, those of the last day."""

    since: Time | None = None
    until: Time | None = None
    actor: Accounts = []
    untold: Annotated[bool, Meta(description=UNTOLD)] = False
    kind: list[What] = []
    repo: Globs = []
    ref: Globs = []
    created: Annotated[bool, Meta(description="also delete refs that did not exist before")] = False
    moved: Annotated[bool, Meta(description="also take away what others pushed to these refs since")] = False


class BeginWanted(Body, frozen=True, kw_only=True):
    """Which refs of the plan: their `place`; left out: as it was planned."""

    places: Annotated[list[int], Meta(max_length=rollback.REFS)] | None = None


def _given(asked: TeamChangesAsked | RollbackWanted) -> dict[str, list[str]]:
    return {
        "since": [asked.since or ""],
        "until": [asked.until or ""],
        "actor": list(asked.actor),
        "untold": ["yes"] if asked.untold else [],
        "kind": list(asked.kind),
        "repo": list(asked.repo),
        "ref": list(asked.ref),
    }


async def list_team_changes(context: RequestContext, asked: TeamChangesAsked) -> TeamRefChanges:
    """What was pushed to all repos of the team, by whom and of which kind, newest first."""
    meant = rollbacks.wanted(context, _given(asked))
    db, team = context.services.db, context.of_team().id
    found = await incidents.changes(db, team, meant, asked.limit)
    return TeamRefChanges.of(meant, found, await incidents.strangers(db, team, meant))


async def plan_rollback(context: RequestContext, body: RollbackWanted) -> Rollback:
    """Plan to put refs back to just before these changes. Hosts are asked what they have; nothing changes."""
    meant = rollbacks.wanted(context, _given(body))
    made = await rollbacks.plan(context, meant, created=body.created, moved=body.moved)
    return await _told(context, await rollbacks.made(context, made))


async def one_rollback(context: RequestContext) -> Rollback:
    """A rollback: its plan, ref by ref, and how far it is."""
    return await _told(context, await rollbacks.state(context))


async def begin_rollback(context: RequestContext, body: BeginWanted) -> Rollback:
    """Put back what was planned within the last hour: a job a repo, each ref only if the plan still holds."""
    return Rollback.of(await rollbacks.begin(context, body.places))


async def retry_rollback(context: RequestContext, body: Nothing) -> Rollback:
    """Go on with the repos whose refs are not all back."""
    return Rollback.of(await rollbacks.again(context))


async def undo_rollback(context: RequestContext, body: Nothing) -> Rollback:
    """Undo all that a rollback wrote, each ref only if it still holds that."""
    return Rollback.of(await rollbacks.undo(context))


async def _told(context: RequestContext, found: State) -> Rollback:
    if found.rollback.begun_at is not None:
        return Rollback.of(found)
    return Rollback.of(found, await plan_commits.of_repos(context.services, rollback.moves(found.rollback)))


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/changes", list_team_changes, Needs.VIEWER),
    call("POST", f"{TEAM}/rollbacks", plan_rollback, Needs.OPERATOR, "restore", status=201, sure=True),
    call("GET", ROLLBACK, one_rollback, Needs.VIEWER, reads=True),
    call("POST", f"{ROLLBACK}/begin", begin_rollback, Needs.OPERATOR, "restore", status=202, sure=True),
    call("POST", f"{ROLLBACK}/retry", retry_rollback, Needs.OPERATOR, "restore", status=202, sure=True),
    call("POST", f"{ROLLBACK}/undo", undo_rollback, Needs.OPERATOR, "restore", status=202, sure=True),
)
