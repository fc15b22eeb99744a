"""The auditor's page: everything that is kept about a team and a period, section by section, as evidence."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from starlette.responses import Response

from mirror.backup import evidence
from mirror.core.errors import OurFault, UsageError
from mirror.core.formats import statements
from mirror.core.formats.manifest import time_text
from mirror.core.formats.spreadsheet import csv_of
from mirror.core.formats.statements import REPORT, Statement, Subject
from mirror.store.browse import auditors, report
from mirror.store.upkeep import readings
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.teams.report import Period, period_or_wrong, sent

SECTIONS: Final[Mapping[str, type[Any]]] = {
    "delays": auditors.Delay,
    "restores": auditors.Restored,
    "drills": auditors.Drilled,
    "days_read": auditors.DayRead,
    "access": auditors.Access,
    "actions": auditors.Action,
    "exceptions": auditors.Exempt,
}  # those that are tables, as they are named in CSV and JSON


@dataclass(frozen=True, slots=True)
class Found:
    """All sections. What a table does not hold is in `cut`."""

    tables: Mapping[str, Sequence[Any]]  # by the names of SECTIONS
    read_back: auditors.ReadBack
    coverage: readings.Coverage
    kept: auditors.Kept

    @property
    def cut(self) -> list[str]:
        """The sections that have more rows than are shown."""
        return [name for name, rows in self.tables.items() if len(rows) >= auditors.MOST and name != "delays"]

    def as_json(self) -> dict[str, Any]:
        """The sections as JSON; times are UTC."""
        tables = {name: [asdict(row) for row in rows] for name, rows in self.tables.items()}
        coverage = asdict(self.coverage) | {"ratio": round(self.coverage.ratio, 4)}
        found: dict[str, Any] = {
            **tables,
            "read_back": asdict(self.read_back),
            "coverage_now": coverage,
            "retention": {"policy": "every snapshot is kept for ever", **asdict(self.kept)},
            "not_all_rows": self.cut,
        }
        plain: dict[str, Any] = json.loads(json.dumps(found, default=_plain))
        return plain


async def page(context: RequestContext) -> Response:
    """The sections as a page, as JSON, as JSON in a signed statement, or one of them as CSV."""
    form = context.query.get("as", "page")
    period, wrong = period_or_wrong(context, form)
    if form == "csv":
        return await _csv(context, period)
    found = await _found(context, period)
    if form == "json":
        text = f"{json.dumps(_told(context, period, found))}\n"
        return sent(text, "application/json", _name(context, period))
    if form == "signed":
        return await _signed(context, period, found)
    team = context.of_team()
    lines = await report.report(context.services.db, team.id, period.start, period.end, context.now)
    return context.render(
        "auditors.html",
        found=found,
        lines=lines,
        period=period,
        wrong=wrong,
        typed=context.query if wrong else {},
        now_late=[one for one in lines if one.state == "late"],
    )


async def _found(context: RequestContext, period: Period) -> Found:
    db, team = context.services.db, context.of_team().id
    start, end = period.start, period.end
    return Found(
        {
            "delays": await auditors.delays(db, team, start, end),
            "restores": await auditors.restores(db, team, start, end),
            "drills": await auditors.drills(db, team, start, end),
            "days_read": await auditors.days_read(db, team, start, end),
            "access": await auditors.access(db, team),
            "actions": await auditors.actions(db, team, start, end),
            "exceptions": await auditors.exempt(db, team),
        },
        await auditors.read_back(db, team, start, end),
        await readings.coverage(db, context.now, team),
        await auditors.kept(db, team),
    )


async def _csv(context: RequestContext, period: Period) -> Response:
    """One section. Raises UsageError for one that there is not."""
    section = context.query.get("section", "")
    if section not in SECTIONS:
        raise UsageError(f"choose a section: {', '.join(SECTIONS)}", field="section")
    found = await _found(context, period)
    rows = found.tables[section]
    columns = [field.name for field in fields(SECTIONS[section])]
    text = csv_of(columns, [asdict(row) for row in rows])
    cut = f"-newest-{auditors.MOST}" if section in found.cut else ""
    return sent(text, "text/csv; charset=utf-8", _name(context, period, f"-{section}{cut}.csv"))


async def _signed(context: RequestContext, period: Period, found: Found) -> Response:
    """The JSON in a statement. Raises OurFault without SECRET_KEYS."""
    key = await evidence.signing_key(context.services)
    if key is None:
        raise OurFault("nothing can be signed here: set SECRET_KEYS (32 random characters or more)")
    told = _told(context, period, found)
    subject = Subject(
        f"report of team {context.of_team().id}", sha256(statements.canonical(told["report"])).hexdigest()
    )
    stored = statements.sign(Statement(REPORT, (subject,), context.now, told), key)
    return sent(stored.decode(), "application/json", _name(context, period, "-signed.json"))


def _told(context: RequestContext, period: Period, found: Found) -> dict[str, Any]:
    return {
        "team": context.of_team().name,
        "from": time_text(period.start),
        "to": time_text(period.end),
        "report": found.as_json(),
    }


def _name(context: RequestContext, period: Period, ending: str = ".json") -> str:
    return f"{context.of_team().name}-audit-{period.first:%Y%m%d}-{period.last:%Y%m%d}{ending}"


def _plain(value: Any) -> str:
    return time_text(value.astimezone(UTC)) if isinstance(value, datetime) else str(value)


ENDPOINTS: Final[Sequence[Endpoint]] = (Endpoint("GET", "/{team}/-/report/details", page, Needs.VIEWER),)
