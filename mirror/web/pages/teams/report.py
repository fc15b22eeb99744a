"""The report of a period, as an auditor reads it: on a page that prints, as CSV and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from types import MappingProxyType
from typing import Final

from starlette.responses import Response

from mirror.core import words
from mirror.core.errors import NotFound, UsageError
from mirror.core.formats.spreadsheet import csv_of, plain
from mirror.core.rules.health.proof import State, standing
from mirror.core.times import when, zones
from mirror.core.times.when import When
from mirror.store.browse import report
from mirror.store.browse.report import Line
from mirror.web.dispatch import Endpoint, Needs, RequestContext

DAYS: Final = 30  # of a report, unless another period is asked for
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Period:
    """From the first moment of a day to before the first moment after another, on the clocks of who asks."""

    start: datetime
    end: datetime  # not included
    first: date
    last: date  # included, as people mean it


async def page(context: RequestContext) -> Response:
    """What was protected, behind, restored and drilled in a period: as a page, CSV or JSON."""
    form = context.query.get("as", "page")
    period, wrong = period_or_wrong(context, form)
    db, team = context.services.db, context.of_team()
    lines = await report.report(db, team.id, period.start, period.end, context.now)
    if form in ("csv", "json"):
        return _file(context, period, lines, form)
    return context.render(
        "report.html",
        lines=lines,
        period=period,
        standing=standing([State(one.state, one.protected_as_of, one.paused) for one in lines], context.now),
        wrong=wrong,
        typed=context.query if wrong else MappingProxyType({}),
    )


def period_or_wrong(context: RequestContext, form: str) -> tuple[Period, Mapping[str, str]]:
    """The period that is asked for. Where it makes no sense a page is of the usual one, with what is wrong
    at which field, and status 422; a file raises UsageError.
    """
    try:
        return asked(context), {}
    except UsageError as error:
        if form != "page":
            raise
        context.status = 422
        return asked(context, {}), {error.field or "from": words.sentence(str(error))}


def asked(context: RequestContext, query: Mapping[str, str] | None = None) -> Period:
    """The period that is asked for, by days that are both included, or by any WHEN. Raises UsageError."""
    query = context.query if query is None else query
    today = context.now.astimezone(context.zone).date()
    end, last = _moment(context, query.get("to"), "to", today)
    start, first = _moment(context, query.get("from"), "from", last - (DAYS - 1) * _DAY)
    if start >= end:
        raise UsageError("the period ends before it starts; choose a later end", field="to")
    return Period(start, end, first, last)


def _moment(context: RequestContext, text: str | None, field: str, otherwise: date) -> tuple[datetime, date]:
    """A start or an end, and the day that it belongs to. The day of an end is included."""
    try:
        day = date.fromisoformat(text.strip()) if text and text.strip() else otherwise
        shown = datetime.combine(day, time()) + (_DAY if field == "to" else timedelta())
        return zones.moment_of(shown, context.zone), day
    except (ValueError, OverflowError):
        pass
    found: When = 0
    try:
        found = when.parse(text or "", context.now, context.zone)
    except (UsageError, NotFound):
        pass
    if not isinstance(found, datetime):
        raise UsageError("that is not a day; choose one such as 2026-03-02", field=field)
    last = found - timedelta(microseconds=1) if field == "to" else found
    return found, last.astimezone(context.zone).date()


def _file(context: RequestContext, period: Period, lines: Sequence[Line], form: str) -> Response:
    """The same as a file; its times are UTC."""
    team = context.of_team().name
    name = f"{team}-{period.first:%Y%m%d}-{period.last:%Y%m%d}"
    if form == "csv":
        return sent(
            csv_of(list(Line.__dataclass_fields__), [asdict(line) for line in lines]),
            "text/csv; charset=utf-8",
            f"{name}.csv",
        )
    told = {"team": team, "from": period.start, "to": period.end, "repos": [asdict(one) for one in lines]}
    return sent(json.dumps(told, default=plain) + "\n", "application/json", f"{name}.json")


def sent(text: str, media_type: str, name: str) -> Response:
    """A file to download."""
    return Response(
        text, media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'}
    )


ENDPOINTS: Final[Sequence[Endpoint]] = (Endpoint("GET", "/{team}/-/report", page, Needs.VIEWER),)
