"""What is kept: policies with their preview, legal holds, kept snapshots."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import Meta

from mirror.core.model import Repo
from mirror.core.rules.keeping import retention as rules
from mirror.core.rules.keeping.retention import Policy
from mirror.people import retention
from mirror.shapes.base import Answer
from mirror.shapes.retention import (
    KeptByHand,
    LegalHold,
    RepoRetention,
    RetentionPolicy,
    RetentionPreview,
    Rewrite,
)
from mirror.store.backup import epochs
from mirror.store.upkeep import keeping
from mirror.store.upkeep import retention as rows
from mirror.upkeep import retention as upkeep
from mirror.web.api.call import Body, Call, Query, call
from mirror.web.api.repos import REPO, repo_of
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

Number = Annotated[int, Meta(ge=0, le=rules.MOST)]
Text = Annotated[str, Meta(min_length=1, max_length=keeping.LONGEST)]
NUMBER: Final = (1 << 31) - 1  # the highest that a snapshot can have


class PreviewAsked(Query, frozen=True, kw_only=True):
    """Of which policy; the one in force unless a number is given."""

    keep_last: Number = 0
    days: Number = 0
    daily: Number = 0
    weekly: Number = 0
    monthly: Number = 0
    yearly: Number = 0


class PolicyWanted(Body, frozen=True, kw_only=True):
    """What is to be kept. Numbers that are left out are 0."""

    keep_last: Number = 0
    days: Number = 0
    daily: Number = 0
    weekly: Number = 0
    monthly: Number = 0
    yearly: Number = 0
    for_ever: Annotated[bool, Meta(description="keep everything; the numbers then count for nothing")] = False
    why: Annotated[str, Meta(max_length=keeping.LONGEST)] = ""


class RetentionSaved(Answer, frozen=True, kw_only=True):
    """The policy in force, and the id of what was asked for, if that waits for a second person."""

    policy: RetentionPolicy
    pending: str | None


class HoldWanted(Body, frozen=True, kw_only=True):
    """Why nothing of the repo may go."""

    reason: Text


class KeepWanted(Body, frozen=True, kw_only=True):
    """Which snapshot is kept, and why."""

    snapshot: Annotated[int, Meta(ge=1, le=NUMBER)]
    note: Text


async def get_retention(context: RequestContext, asked: PreviewAsked) -> RepoRetention:
    """What is kept of a repo and why, and what would go: by the policy in force, or by the given numbers."""
    repo, db = await repo_of(context), context.services.db
    policy = _policy(asked) if any(_numbers(asked).values()) else await _current(context, repo)
    found = await upkeep.preview(context.services, repo, policy)
    return RepoRetention(
        own=await rows.of_repo(db, repo.id) is not None,
        preview=RetentionPreview.of(found),
        hold=LegalHold.of(found.hold) if found.hold else None,
        kept_by_hand=[KeptByHand.of(one) for one in found.pins],
        rewrites=[Rewrite.of(one) for one in await epochs.all(db, repo.id)],
    )


async def get_team_retention(context: RequestContext) -> RetentionPolicy:
    """The policy of the team's repos that have none of their own."""
    return RetentionPolicy.of(await _current(context, None))


async def set_retention(context: RequestContext, body: PolicyWanted) -> RetentionSaved:
    """Set a repo's own policy. One that keeps less than now is only asked for, by a person who signs in."""
    return await _save(context, await repo_of(context), body)


async def set_team_retention(context: RequestContext, body: PolicyWanted) -> RetentionSaved:
    """Set the team's policy; likewise."""
    return await _save(context, None, body)


async def set_hold(context: RequestContext, body: HoldWanted) -> LegalHold:
    """Put a repo on legal hold; one that stands already stays. Lifting it is asked for on its page."""
    repo = await repo_of(context)
    await retention.hold(context.services, context.by(), context.of_team(), repo, body.reason)
    held = await keeping.hold(context.services.db, repo.id)
    assert held is not None  # it was set just now, or before
    return LegalHold.of(held)


async def keep_snapshot(context: RequestContext, body: KeepWanted) -> KeptByHand:
    """Keep a snapshot, whatever the policy says."""
    repo, team = await repo_of(context), context.of_team()
    await retention.pin(context.services, context.by(), team, repo, body.snapshot, body.note)
    found = await keeping.pins(context.services.db, repo.id)
    return next(KeptByHand.of(one) for one in found if one.snapshot == body.snapshot)


async def _save(context: RequestContext, repo: Repo | None, body: PolicyWanted) -> RetentionSaved:
    policy = rules.EVERYTHING if body.for_ever else _policy(body)
    asked = await retention.set_policy(
        context.services, context.by(), context.of_team(), policy, repo, why=body.why
    )
    now = await _current(context, repo)
    return RetentionSaved(policy=RetentionPolicy.of(now), pending=str(asked.id) if asked else None)


async def _current(context: RequestContext, repo: Repo | None) -> Policy:
    return await retention.policy_of(context.services, context.of_team(), repo)


def _numbers(given: PreviewAsked | PolicyWanted) -> dict[str, Any]:
    return {name: getattr(given, name) for name in rules.NUMBERS}


def _policy(given: PreviewAsked | PolicyWanted) -> Policy:
    return rules.parse(_numbers(given))


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/retention", get_team_retention, Needs.VIEWER),
    call("PUT", f"{TEAM}/retention", set_team_retention, Needs.ADMIN, "admin"),
    call("GET", f"{REPO}/retention", get_retention, Needs.VIEWER),
    call("PUT", f"{REPO}/retention", set_retention, Needs.ADMIN, "admin"),
    call("PUT", f"{REPO}/hold", set_hold, Needs.ADMIN, "admin"),
    call("PUT", f"{REPO}/kept", keep_snapshot, Needs.OPERATOR, "backup"),
)
