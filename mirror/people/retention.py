"""Setting what is kept: retention policies, legal holds, and snapshots that somebody keeps.

Who calls: the pages, the API and the command line; jobs/pending for what another person had to confirm. What
keeps more is done at once; what lets more go is only asked for (people/pending).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Repo, RepoId
from mirror.core.rules.keeping import retention as rules
from mirror.core.rules.keeping.pending import Kind
from mirror.core.rules.keeping.retention import EVERYTHING, Policy
from mirror.core.rules.roles import Role
from mirror.people import operator, pending
from mirror.people.acting import By
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.database import translating
from mirror.store.people import teams
from mirror.store.people.pending import Pending
from mirror.store.people.teams import Team
from mirror.store.upkeep import keeping
from mirror.store.upkeep import retention as rows


async def policy_of(services: Services, team: Team, repo: Repo | None) -> Policy:
    """What is kept of a repo, by its own policy or its team's; or of the team's repos."""
    own = None if repo is None else await rows.of_repo(services.db, repo.id)
    found = own or await rows.of_team(services.db, team.id)
    return found.policy if found else EVERYTHING


async def set_policy(
    services: Services,
    by: By | None,
    team: Team,
    policy: Policy | None,
    repo: Repo | None = None,
    *,
    why: str = "",
) -> Pending | None:
    """Set the policy of a repo, or of its team; `policy` None: the repo has its team's again.

    One that keeps less than now is only asked for, and that is returned: it takes effect when another person
    has confirmed it and its days are over. `by` None: whoever runs the installation. Safe to run twice.
    Raises UsageError, NotAllowed.
    """
    if policy is None and repo is None:
        policy = EVERYTHING
    before = await policy_of(services, team, repo)
    after = await policy_of(services, team, None) if policy is None else policy
    if rules.keeps_less(after, before):
        wanted = {"policy": None if policy is None else _written(policy)}
        subject = f"{repo.name if repo else team.name}, from now on {after}"
        return await pending.ask(
            services, by, team, Kind.SHORTEN_RETENTION, wanted, repo, subject=subject, why=why
        )
    subject = repo.name if repo else team.name
    async with operator.acting_as(
        services, by, team, Role.ADMIN, "retention.set", subject, policy=str(after)
    ) as (db, at):
        await _put(db, team, repo.id if repo else None, policy, operator.name_of(by), at)
    return None


async def hold(services: Services, by: By | None, team: Team, repo: Repo, reason: str) -> bool:
    """Put a repo on legal hold at once. False: it is on hold already. Raises UsageError, NotAllowed."""
    reason = keeping.checked(reason, "why the repo is on hold")
    async with operator.acting_as(services, by, team, Role.ADMIN, "hold.set", repo.name, reason=reason) as (
        db,
        at,
    ):
        return await keeping.set_hold(db, repo.id, reason, operator.name_of(by), at)


async def lift(services: Services, by: By | None, team: Team, repo: Repo, why: str = "") -> Pending:
    """Ask for a repo's legal hold to be lifted. Raises NotFound where it is not on hold; NotAllowed."""
    if await keeping.hold(services.db, repo.id) is None:
        raise NotFound(f"{repo.name} is not on legal hold")
    return await pending.ask(services, by, team, Kind.LIFT_HOLD, {}, repo, why=why)


async def pin(services: Services, by: By | None, team: Team, repo: Repo, number: int, note: str) -> None:
    """Keep a snapshot, whatever a policy says. Raises UsageError, NotAllowed. Safe to run twice."""
    note = keeping.checked(note, "why it is kept")
    subject = f"{repo.name} #{number}"
    async with operator.acting_as(services, by, team, Role.OPERATOR, "snapshot.keep", subject, note=note) as (
        db,
        at,
    ):
        await keeping.pin(db, repo.id, number, note, operator.name_of(by), at)


async def unpin(
    services: Services, by: By | None, team: Team, repo: Repo, number: int, why: str = ""
) -> Pending:
    """Ask for a kept snapshot to be left to the policy again. Raises NotFound where nobody keeps it."""
    if number not in {one.snapshot for one in await keeping.pins(services.db, repo.id)}:
        raise NotFound(f"nobody keeps #{number} of {repo.name} by hand")
    subject = f"{repo.name}: #{number} only as long as the policy keeps it"
    return await pending.ask(
        services, by, team, Kind.SHORTEN_RETENTION, {"unpin": number}, repo, subject=subject, why=why
    )


@translating
async def shorten(services: Services, one: Pending) -> Mapping[str, Any]:
    """Carry out what was asked for as `shorten-retention`, for jobs/pending. Safe to run twice."""
    repo = None if one.repo_id is None else await repos.find(services.db, RepoId(one.repo_id))
    team = None if one.team_id is None else await teams.find(services.db, one.team_id)
    if team is None or (one.repo_id is not None and repo is None):
        raise NotFound("what this was about is gone")
    at = services.clock()
    if repo is not None and "unpin" in one.wanted:
        await keeping.unpin(services.db, repo.id, int(one.wanted["unpin"]))
        return {"unpinned": one.wanted["unpin"]}
    given = one.wanted["policy"]
    policy = None if given is None else rules.parse(given)
    await _put(services.db, team, repo.id if repo else None, policy, one.asked_name, at)
    return {"policy": str(policy) if policy else "the team's"}


async def lift_now(services: Services, one: Pending) -> Mapping[str, Any]:
    """Carry out what was asked for as `lift-hold`, for jobs/pending. Safe to run twice."""
    if one.repo_id is None:
        raise UsageError("a hold is on a repo, and none was named")
    lifted = await keeping.lift_hold(services.db, RepoId(one.repo_id), one.asked_name, services.clock())
    return {"lifted": lifted}


def _written(policy: Policy) -> dict[str, Any]:
    """A policy as it is stored with what is pending; `rules.parse` reads it."""
    return policy.numbers | ({"for_ever": True} if policy.for_ever else {})


async def _put(
    db: Any, team: Team, repo_id: RepoId | None, policy: Policy | None, who: str, at: datetime
) -> None:
    if policy is None or (repo_id is None and policy.for_ever):
        await rows.remove(db, team.id, repo_id)
    else:
        await rows.put(db, team.id, repo_id, policy, who, at)
