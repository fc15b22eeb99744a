"""Applying retention policies: what would go and why the rest stays, and dropping it at an even pace.

Who calls: the pages, the API and the command line for a preview; the sweep, as a maintenance task.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from mirror.core.errors import SHARED, Busy, Corrupt, EverrefError, Held, UsageError
from mirror.core.model import Repo
from mirror.core.rules.keeping import retention as rules
from mirror.core.rules.keeping.retention import Plan, Policy
from mirror.services.lease import PATIENCE
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.database import Db
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import retention as rows
from mirror.store.upkeep.keeping import Hold, Pin
from mirror.store.upkeep.retention import Size
from mirror.upkeep import epoch
from mirror.upkeep.epoch import NewEpoch, Why

BY: Final = "the retention policy"

log = logging.getLogger("mirror.retention")


@dataclass(frozen=True, slots=True)
class Preview:
    """What a policy would do to a repo now."""

    repo: Repo
    plan: Plan
    size: Size
    worth: bool  # whether the log would be packed anew for it at the next turn
    hold: Hold | None
    pins: Sequence[Pin]

    @property
    def earliest_before(self) -> datetime | None:
        """The oldest moment that can be restored now. None: there is no snapshot."""
        times = [one.at for one in self.plan.kept] + [one.at for one in self.plan.dropped]
        return min(times, default=None)

    @property
    def earliest_after(self) -> datetime | None:
        """The oldest one that stays."""
        return min((one.at for one in self.plan.kept), default=None)


async def preview(
    services: Services, repo: Repo, policy: Policy, last_rewrite: datetime | None = None
) -> Preview:
    """What this policy would drop and keep of the repo, and why. Changes nothing."""
    now = services.clock()
    taken = await rows.taken(services.db, repo.id)
    facts, held, pins = await rows.facts(services.db, repo.id, now)
    plan = rules.plan(policy, taken, facts, now)
    going = [one.number for one in plan.dropped]
    size = await rows.size(services.db, repo.id, going)
    worth = rules.is_worth(len(going), size.at_most, size.stored, last_rewrite, now)
    return Preview(repo, plan, size, worth and plan.stopped is None, held, pins)


async def of_team(
    services: Services, team_id: TeamId, policy: Policy, most: int | None = None
) -> list[Preview]:
    """What this policy would do to each repo of the team that has none of its own; to `most` of them."""
    found: list[Preview] = []
    for repo in await repos.all(services.db, team_id):
        if most is not None and len(found) >= most:
            break
        if await rows.of_repo(services.db, repo.id) is None:
            found.append(await preview(services, repo, policy))
    return found


async def apply(
    services: Services,
    repo: Repo,
    policy: Policy,
    *,
    clock_is_right: bool = False,
    patience: float = PATIENCE,
) -> NewEpoch | None:
    """Drop what the policy drops now, whether or not a rewrite is worth it. None: there is nothing to drop.

    `clock_is_right`: a person vouches for the clock where the vault does not show it. What keeps a snapshot
    is asked again in the transaction that drops it: a pin, a hold or a job that came meanwhile wins. Safe to
    run twice. Raises Refused where the clock cannot be trusted, Held, Busy.
    """
    found = await preview(services, repo, policy)
    if not found.plan.dropped:
        return None
    if not clock_is_right:
        ahead = rules.ahead_of_vault(await services.vault.now(), services.clock())
        if stopped := ahead or found.plan.stopped:
            raise UsageError(stopped)
    going = frozenset(one.number for one in found.plan.dropped)

    async def still(db: Db) -> None:
        await _check(db, repo, policy, going, services.clock())

    why = Why(BY, f"keeps {policy}")
    return await epoch.new_epoch(services, repo, drop=going, why=why, still=still, patience=patience)


async def _check(db: Db, repo: Repo, policy: Policy, going: Collection[int], now: datetime) -> None:
    """Raise Busy unless the policy still drops all of these, as it is and with what keeps them now."""
    facts, _, _ = await rows.facts(db, repo.id, now)
    plan = rules.plan(policy, await rows.taken(db, repo.id), replace(facts, seen=()), now)
    if not set(going) <= {one.number for one in plan.dropped}:
        raise Busy(f"what is kept of {repo.name} has changed meanwhile; the next run looks again")


async def due(services: Services) -> None:
    """Drop what policies no longer keep, one repo after another, where a rewrite is worth it.

    Safe to run twice, also at
    once: one run at a time packs a repo's log. A repo that fails stops no other.
    """
    now = services.clock()
    for one in await rows.governed(services.db):
        repo = await repos.find(services.db, one.repo_id)
        last = max(filter(None, (one.rewritten_at, one.policy.at)))
        if repo is None or now - last < rules.APART:
            continue
        try:
            found = await preview(services, repo, one.policy.policy, last)
            if found.plan.dropped and found.plan.stopped:
                log.warning("retention of %s: %s", repo.id, found.plan.stopped)
            if found.worth:
                made = await apply(services, repo, one.policy.policy, patience=0)
                if made is not None:
                    log.info("retention of %s: dropped %d snapshots", repo.id, len(made.dropped))
        except (Busy, Held):
            continue  # another run works on it: the next turn
        except EverrefError as error:
            if error.origin in SHARED and not isinstance(error, Corrupt):
                raise  # the others would fail in the same way
            log.warning("retention of %s: %s", repo.id, error)
