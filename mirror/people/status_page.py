"""Whether everybody may see how a team's repos are served, without signing in: switched on by its owner."""

from typing import get_args

from mirror.core.errors import UsageError
from mirror.core.rules.roles import Role
from mirror.people import operator
from mirror.people.acting import By
from mirror.services.open import Services
from mirror.store.browse import served
from mirror.store.browse.served import StatusPage
from mirror.store.people.teams import Team


async def show(services: Services, by: By | None, team: Team, page: str | None) -> StatusPage | None:
    """Let everybody see how the team's repos are served. `page` None: nobody.

    `by` None: whoever runs Everref. Raises UsageError, Refused. Safe to run twice: it is set to what it is.
    """
    found = next((one for one in get_args(StatusPage) if one == page), None)
    if page is not None and found is None:
        raise UsageError(f"the page for everybody shows {' or '.join(get_args(StatusPage))}, or is off")
    shows = found or "nothing"
    async with operator.acting_as(
        services, by, team, Role.OWNER, "team.status-page", team.name, shows=shows
    ) as (db, _):
        await served.set_status_page(db, team.id, found)
    return found
