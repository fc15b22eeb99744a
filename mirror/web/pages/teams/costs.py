"""What a team's month in the vault costs, repo by repo: on a page, as CSV and as JSON."""

import json
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from mirror.core import words
from mirror.core.errors import UsageError
from mirror.core.formats.spreadsheet import csv_of
from mirror.core.rules.keeping import costs as rules
from mirror.core.rules.keeping.costs import month_named, month_of
from mirror.shapes.base import plain
from mirror.shapes.costs import COLUMNS, Costs, rows
from mirror.store.upkeep import costs as cost_rows
from mirror.upkeep import costs
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.teams.report import sent


async def page(context: RequestContext) -> Response:
    """What each repo had in the vault in a month, what was written and read, and what that costs."""
    form, team, wrong = context.query.get("as", "page"), context.of_team(), ""
    try:
        month = month_named(context.query.get("month"), context.now)
    except UsageError as error:
        if form != "page":
            raise
        context.status, wrong, month = 422, words.sentence(error), month_of(context.now)
    bill = await costs.of_team(context.services, team.id, month)
    name = f"{team.name}-costs-{month.label}"
    if form == "csv":
        return sent(csv_of(COLUMNS, rows(bill)), "text/csv; charset=utf-8", f"{name}.csv")
    if form == "json":
        told = json.dumps(plain(Costs.of(team.name, bill)), default=str)
        return sent(told + "\n", "application/json", f"{name}.json")
    first = await cost_rows.first_month(context.services.db, team.id)
    return context.render(
        "costs.html",
        bill=bill,
        month=month,
        earlier=month.before() if first is not None and first < month.first else None,
        later=month.after() if month.end <= context.now else None,
        this_month=month_of(context.now).label,
        wrong=wrong,
        money=rules.money,
    )


ENDPOINTS: Final[Sequence[Endpoint]] = (Endpoint("GET", "/{team}/-/costs", page, Needs.VIEWER),)
