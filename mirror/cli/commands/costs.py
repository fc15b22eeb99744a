"""`everref costs`: what a team's month in the vault costs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mirror.core.words import clean, count, size

if TYPE_CHECKING:
    import argparse

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.rules.keeping.costs import Bill

HELP = "show what a team's repos have in the vault in a month, and what that costs"
EPILOG = """\
Bytes are measured once a day; requests and what restores read are estimated from what is
recorded. There is money where PRICES is set (docs/configuration.md).

--json: {"team", "month", "start", "is_over", "currency", "cost", "exports_bytes",
         "repos": [{"repo_id", "repo", "bytes": {KIND: BYTES}, "classes", "days",
         "measured_days", "writes", "reads", "restored_bytes", "checked_bytes",
         "storage_cost", "requests_cost", "egress_cost", "cost"}],
         "saved": [{"repo_id", "repo", "snapshots", "stored_bytes", "each_bytes",
         "daily_bytes"}]}; costs are decimal numbers as text, null without PRICES

examples:
  everref costs --month 2026-10 --csv > october.csv"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref costs`, beside the repo and the team."""
    parser.add_argument("--month", metavar="YYYY-MM", help="which month, by UTC (default: this one)")
    parser.add_argument("--csv", action="store_true", help="print CSV: one line for each repo")


async def run(call: Call) -> int:
    """Measure what is stored today, unless that was done, and show the month."""
    from mirror.core.rules.keeping.costs import month_named

    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.upkeep import costs

        month = month_named(call.args.month, services.clock())
        await costs.due(services)
        if call.args.repo is None:
            team = await operator.team_named(services, call.args.team)
            bill = await costs.of_team(services, team.id, month)
        else:
            repo = await moment.repo_named(services, call.args.repo, call.args.team)
            team = await operator.team_of(services, repo)
            bill = (await costs.of_team(services, team.id, month)).of_repo(str(repo.id))
    if call.args.csv:
        from mirror.core.formats.spreadsheet import csv_of
        from mirror.shapes.costs import COLUMNS, rows

        table = csv_of(COLUMNS, rows(bill)).replace("\r\n", "\n").rstrip("\n")
        call.out.result(partial(_as_it_is, table), partial(_shape, team.name, bill))
        return 0
    call.out.result(partial(_lines, team.name, bill), partial(_shape, team.name, bill))
    return 0


def _as_it_is(table: str, _: Eye) -> str:
    return table


def _shape(team: str, bill: Bill) -> dict[str, object]:
    from mirror.shapes.base import plain
    from mirror.shapes.costs import Costs

    return plain(Costs.of(team, bill))


def _lines(team: str, bill: Bill, eye: Eye) -> str:
    from mirror.cli.render import table
    from mirror.core.rules.keeping.costs import money

    def cost(amount: object) -> str:
        return "" if bill.prices is None else f"{bill.prices.currency} {amount}"

    rows = [
        (
            eye.repo(line.repo),
            size(line.bytes),
            f"{line.writes:,} writes",
            f"{line.reads:,} reads",
            f"{size(line.restored)} restored",
            f"{size(line.checked)} checked",
            cost(money(line.cost)) if line.cost is not None else "",
        )
        for line in bill.lines
    ]
    total = f"{size(bill.bytes)} on average" + (
        f"  {cost(money(bill.cost))}" if bill.cost is not None else "  no prices are set (PRICES)"
    )
    so_far = "" if bill.is_over else " so far"
    lines = [f"{clean(team)}  {bill.month.label}{so_far}  {total}", *table(rows)]
    if bill.unmeasured:
        lines.append(
            f"{count(bill.unmeasured, 'day')} of repos without a measurement, taken to be like the others"
        )
    lines += [
        f"{eye.repo(one.repo)}  {count(one.snapshots, 'snapshot')} in {size(one.stored)};"
        f" a full bundle a day would take some {size(one.daily)}, one for each snapshot {size(one.each)}"
        for one in bill.saved
        if one.snapshots
    ]
    return "\n".join(lines)
