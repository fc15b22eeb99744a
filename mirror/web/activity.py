"""What is being done and what was: jobs as they run, drills with their evidence, a report of any period."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast, get_args
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror import when, words
from mirror.errors import NotFound, Refused, UsageError
from mirror.flows import jobs as flow
from mirror.job import SYNC
from mirror.store import jobs, report, repos
from mirror.store.jobs import Job, JobId, Kind, State
from mirror.store.report import Line
from mirror.web.frame import Needs, Visit, Way
from mirror.web.live import follow
from mirror.web.restore import allow_again

ROWS: Final = 50  # jobs or drills on a page
AT_ONCE: Final = 50  # drills that one press begins
PERIOD: Final = timedelta(days=30)  # that a report is about unless somebody says which
NAMES: Final = {
    "sync": "Backup",
    "restore": "Restore",
    "drill": "Drill",
    "verify": "Verification",
    "bundle": "Bundle",
    "compact": "Compaction",
}
PROOFS: Final = ("drill", "verify")
FILTERS: Final = {"": "All", "open": "Under way", "failed": "Failed", "cancelled": "Cancelled"}


async def page(visit: Visit) -> Response:
    """The team's jobs, newest first."""
    db, team = visit.edges.db, visit.of_team()
    chosen, kind = visit.query.get("state", ""), visit.query.get("kind", "")
    states: dict[str, Sequence[State]] = {
        "open": ("queued", "running"),
        "failed": ("failed",),
        "cancelled": ("cancelled",),
    }
    found = await jobs.page(
        db,
        team.id,
        kinds=(cast(Kind, kind),) if kind in NAMES else (),
        states=states.get(chosen, ()),
        before=_before(visit.query.get("before")),
        limit=ROWS + 1,
    )
    shown = found[:ROWS]
    return visit.render(
        "activity.html",
        jobs=shown,
        repos=await _names(visit, shown),
        more=shown[-1].id if len(found) > ROWS else None,
        names=NAMES,
        filters=FILTERS,
        asked={"state": chosen if chosen in FILTERS else "", "kind": kind if kind in NAMES else ""},
        now_open=any(job.finished_at is None for job in shown),
    )


async def job(visit: Visit) -> Response:
    """One job, from what was asked to what came of it."""
    found = await _job(visit)
    return visit.render(
        "job.html", job=found, repo=await repos.get(visit.edges.db, found.repo_id), names=NAMES
    )


async def events(visit: Visit) -> Response:
    """The same job while it changes."""
    first = await _job(visit)
    repo = await repos.get(visit.edges.db, first.repo_id)
    template = visit.outside.pages.get_template("job_now.html")

    async def look() -> tuple[str, bool]:
        found = await _job(visit)
        now = visit.edges.clock()
        text = template.render(visit=visit, now=now, job=found, repo=repo, names=NAMES)
        return text, found.finished_at is not None

    return await follow(visit, look)


async def cancel(visit: Visit) -> Response:
    """Ask the run to stop; it cleans up after itself within seconds."""
    found = await _job(visit)
    if await jobs.cancel(visit.edges.db, visit.of_team().id, found.id, visit.now) is None:
        return visit.redirect(_address(visit, found.id), "It had ended already.")
    await visit.audit("job.cancel", NAMES[found.kind], found.repo_id)
    return visit.redirect(_address(visit, found.id), "It is being stopped.")


async def retry(visit: Visit) -> Response:
    """Ask for the same again."""
    found = await _job(visit)
    if found.kind == "restore":  # what its target holds may be something else by now
        raise Refused("a restore is planned anew, on the page of its repository")
    await allow_again(visit, found)
    again = await flow.retry(visit.edges, visit.of_team().id, found.id, visit.owner().id, visit.acting)
    await visit.audit("job.retry", NAMES[found.kind], found.repo_id)
    await visit.hint(SYNC, str(found.repo_id))
    return visit.redirect(_address(visit, again.id))


async def prove(visit: Visit) -> Response:
    """Begin a drill, or read back every stored byte."""
    repo, kind = await visit.repo(), cast(Kind, str(visit.path["proof"]))
    if kind not in PROOFS:
        raise HTTPException(404, "there is nothing here, or it is not yours")
    asked = await flow.ask(visit.edges, repo.id, kind, {}, person_id=visit.owner().id)
    await visit.audit(f"repo.{kind}", repo.name, repo.id)
    await visit.hint(SYNC, str(repo.id))
    return visit.redirect(_address(visit, asked.id))


async def drills(visit: Visit) -> Response:
    """When somebody asks when you last restored: every drill, with its evidence."""
    db, team = visit.edges.db, visit.of_team()
    before = _time(visit.query.get("before"), visit.now, visit.now + timedelta(days=1))
    found = await report.drills(db, team.id, before, ROWS + 1)
    lines = await report.report(db, team.id, visit.now - PERIOD, visit.now)
    return visit.render(
        "drills.html",
        drills=found[:ROWS],
        more=found[ROWS - 1].finished_at if len(found) > ROWS else None,
        undrilled=[line for line in lines if line.last_drill_at is None and line.protected_as_of is not None],
        stale=[line for line in lines if line.last_drill_at and visit.now - line.last_drill_at > PERIOD],
        total=len(lines),
        failed=sum(line.drills_failed for line in lines),
    )


async def drill_due(visit: Visit) -> Response:
    """Begin a drill of every repo that is due for one, those that never had one first."""
    lines = await report.report(visit.edges.db, visit.of_team().id, visit.now - PERIOD, visit.now)
    due = [line for line in lines if is_due(line, visit.now)]
    due.sort(key=lambda line: line.last_drill_at or datetime.min.replace(tzinfo=UTC))
    for line in due[:AT_ONCE]:
        await flow.ask(visit.edges, line.repo_id, "drill", {}, person_id=visit.owner().id)
        await visit.audit("repo.drill", line.repo, line.repo_id)
    await visit.hint(SYNC)
    began = len(due[:AT_ONCE])
    return visit.redirect(f"/{visit.of_team().name}/-/activity", f"{words.count(began, 'drill')} begun.")


def is_due(line: Line, now: datetime) -> bool:
    """Whether it is time to prove again that this repo comes back."""
    old = line.last_drill_at is None or now - line.last_drill_at > PERIOD
    return old and line.protected_as_of is not None


async def period(visit: Visit) -> Response:
    """What was protected, behind, restored and drilled in a period: as a page, CSV or JSON."""
    start, end = _period(visit)
    lines = await report.report(visit.edges.db, visit.of_team().id, start, end)
    form = visit.query.get("as", "page")
    name = f"{visit.of_team().name}-{start:%Y%m%d}-{end:%Y%m%d}"
    if form == "csv":
        return _file(_csv(lines), "text/csv; charset=utf-8", f"{name}.csv")
    if form == "json":
        told = {
            "team": visit.of_team().name,
            "from": start,
            "to": end,
            "repos": [asdict(one) for one in lines],
        }
        return _file(json.dumps(told, default=_plain) + "\n", "application/json", f"{name}.json")
    return visit.render("report.html", lines=lines, start=start, end=end)


def _period(visit: Visit) -> tuple[datetime, datetime]:
    end = _time(visit.query.get("to"), visit.now, visit.now)
    start = _time(visit.query.get("from"), visit.now, end - PERIOD)
    if start >= end:
        raise UsageError("the period has no length: it ends when it begins, or before; choose a later end")
    return start, end


def _csv(lines: Sequence[Line]) -> str:
    """One line for each repo. A cell that a spreadsheet would take for a formula is quoted against that."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(Line.__dataclass_fields__)
    for line in lines:
        writer.writerow([_cell(value) for value in asdict(line).values()])
    return out.getvalue()


def _cell(value: Any) -> str:
    text = "" if value is None else _plain(value)
    return f"'{text}" if text[:1] in "=+-@\t\r" and text[:1] else text


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _file(text: str, media_type: str, name: str) -> Response:
    return Response(
        text, media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'}
    )


def _time(text: str | None, now: datetime, otherwise: datetime) -> datetime:
    if not text:
        return otherwise
    found = when.parse(text, now)
    if not isinstance(found, datetime):
        raise UsageError("say a day or a time, as in 2026-03-02")
    return found


def _before(text: str | None) -> JobId | None:
    return None if not text else _id(text)


def _id(text: str) -> JobId:
    try:
        return JobId(UUID(text))
    except ValueError:
        raise NotFound("there is no such job") from None


async def _job(visit: Visit) -> Job:
    """The path's job, of this team. Raises NotFound."""
    found = await jobs.find(visit.edges.db, visit.of_team().id, _id(str(visit.path["job"])))
    if found is None:
        raise NotFound("there is no such job")
    return found


async def _names(visit: Visit, found: Sequence[Job]) -> dict[Any, str]:
    """The names of these jobs' repos."""
    return await repos.names(visit.edges.db, {job.repo_id for job in found})


def _address(visit: Visit, job_id: JobId) -> str:
    return f"/{visit.of_team().name}/-/activity/{job_id}"


assert set(NAMES) == set(get_args(Kind))

WAYS: Final[Sequence[Way]] = (
    Way("GET", "/{team}/-/activity", page, Needs.VIEWER),
    Way("GET", "/{team}/-/activity/{job}", job, Needs.VIEWER),
    Way("GET", "/{team}/-/activity/{job}/events", events, Needs.VIEWER),
    Way("POST", "/{team}/-/activity/{job}/cancel", cancel, Needs.OPERATOR),
    Way("POST", "/{team}/-/activity/{job}/retry", retry, Needs.OPERATOR),
    Way("GET", "/{team}/-/drills", drills, Needs.VIEWER),
    Way("POST", "/{team}/-/drills/due", drill_due, Needs.OPERATOR),
    Way("POST", "/{team}/{repo:repo}/-/prove/{proof}", prove, Needs.OPERATOR),
    Way("GET", "/{team}/-/report", period, Needs.VIEWER),
)
