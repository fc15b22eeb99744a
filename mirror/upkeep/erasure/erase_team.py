"""Erasing a team: every repo of it with all backups, and all that it set up.

Who calls: jobs/pending, when what was asked for has taken effect; the pages and the command line ask.
"""

import secrets
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from uuid import UUID

from mirror.core.errors import Locked, Refused
from mirror.core.formats import layout
from mirror.core.rules.keeping.pending import Kind
from mirror.discovery import choose
from mirror.people import pending
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.database import transaction
from mirror.store.discovery import connections
from mirror.store.people import audit, erasures, teams
from mirror.store.people.pending import Pending
from mirror.store.people.teams import DEFAULT, Team, TeamId
from mirror.store.upkeep import keeping
from mirror.upkeep import state
from mirror.upkeep.erasure import forget


async def ask(services: Services, by: By | None, team: Team, why: str = "") -> Pending:
    """Ask for the team to be erased; `by` None: at the command line.

    Raises Refused for the command line's own team, Held while one of its repos is on legal hold, and as
    `people.pending.ask` does.
    """
    if team.name == DEFAULT:
        raise Refused(f"the team {DEFAULT} belongs to the command line, and cannot be erased")
    await _check(services, team.id)
    many = len(await repos.all(services.db, team.id))
    subject = f"the team {team.name}, with " + ("1 repository" if many == 1 else f"{many:,} repositories")
    return await pending.ask(services, by, team, Kind.ERASE, {"team": str(team.id)}, subject=subject, why=why)


async def erase(services: Services, one: Pending) -> Mapping[str, Any]:
    """Erase the team that was asked for.

    1. No repo of it may be on hold: nothing is deleted otherwise.
    2. Every repo is let go, one after the other.
    3. Its connections end, at their hosts too, where these answer.
    4. One transaction: its audit log is redacted, with an entry that says so; everything that it set up,
       every membership and its name are deleted.
    5. Its daily statements in the vault are deleted, the state is exported anew, and earlier exports deleted.

    Safe to run twice and after a run that was killed: each step finds what is left. Raises Held, Busy.
    """
    team_id = TeamId(UUID(str(one.wanted["team"])))
    await _check(services, team_id)
    snapshots = 0
    for repo in await repos.all(services.db, team_id):
        gone = await forget.forget(services, repo.id, one.id)
        snapshots += int(gone["snapshots"])
        failpoints.reached("erase: repo of a team let go")
    for connection in await connections.of_team(services.db, team_id):
        await choose.disconnect(services, connection.id, choose.EVERREF)
    now = services.clock()
    async with transaction(services.db) as db:
        await teams.lock(db, team_id)
        if numbers := await erasures.redact_all(db, team_id, now):
            await audit.add(db, team_id, erasures.entry(numbers), now)
        await erasures.remove_team(db, team_id, f"erased-{secrets.token_hex(4)}", now)
    failpoints.reached("erase: team deleted")
    locked = 0
    async with aclosing(services.vault.list(f"{layout.EVIDENCE_DAYS}{team_id}/")) as found:
        keys = [stat.key async for stat in found]
    for key in keys:
        try:
            await services.vault.delete(key)
        except Locked:
            locked += 1
    await state.replace_all(services)
    return {"team": str(team_id), "snapshots": snapshots, "objects_left": locked}


async def _check(services: Services, team_id: TeamId) -> None:
    """Raise Held while a repo of the team is on legal hold."""
    for held in await keeping.held(services.db, team_id):
        await keeping.check_not_held(services.db, held.repo_id)
