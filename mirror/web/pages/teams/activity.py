"""Jobs as they run and as they ended."""

from collections.abc import Sequence
from typing import Any, Final, cast, get_args
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.core.errors import NotFound, Refused
from mirror.jobs import run as flow
from mirror.store import repos
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job, JobId, Kind, State
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.drafts import allow_again
from mirror.web.live import follow

ROWS: Final = 50  # jobs on a page
NAMES: Final = {
    "sync": "Backup",
    "restore": "Restore",
    "drill": "Drill",
    "verify": "Verification",
    "bundle": "Bundle",
    "compact": "Compaction",
    "import": "Bring in",
}
PROOFS: Final = ("drill", "verify")
FILTERS: Final = {"": "All", "open": "Running", "failed": "Failed", "cancelled": "Cancelled"}


async def page(context: RequestContext) -> Response:
    """The team's jobs, newest first."""
    db, team = context.services.db, context.of_team()
    chosen, kind = context.query.get("state", ""), context.query.get("kind", "")
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
        before=_before(context.query.get("before")),
        limit=ROWS + 1,
    )
    shown = found[:ROWS]
    return context.render(
        "activity.html",
        jobs=shown,
        repos=await _names(context, shown),
        more=shown[-1].id if len(found) > ROWS else None,
        names=NAMES,
        filters=FILTERS,
        asked={"state": chosen if chosen in FILTERS else "", "kind": kind if kind in NAMES else ""},
        now_open=any(job.finished_at is None for job in shown),
    )


async def job(context: RequestContext) -> Response:
    """One job, from the request to the result."""
    found = await _job(context)
    return context.render(
        "job.html", job=found, repo=await repos.get(context.services.db, found.repo_id), names=NAMES
    )


async def events(context: RequestContext) -> Response:
    """The same job while it changes."""
    first = await _job(context)
    repo = await repos.get(context.services.db, first.repo_id)
    template = context.outside.pages.get_template("job_now.html")

    async def look() -> tuple[str, bool]:
        found = await _job(context)
        now = context.services.clock()
        text = template.render(context=context, now=now, job=found, repo=repo, names=NAMES)
        return text, found.finished_at is not None

    return await follow(context, look)


async def cancel(context: RequestContext) -> Response:
    """Ask the run to stop; it cleans up after itself within seconds."""
    found = await _job(context)
    if await jobs.cancel(context.services.db, context.of_team().id, found.id, context.now) is None:
        return context.redirect(_address(context, found.id), "The job had already ended.")
    await context.audit("job.cancel", NAMES[found.kind], found.repo_id)
    return context.redirect(_address(context, found.id), "The job is being stopped.")


async def retry(context: RequestContext) -> Response:
    """Request the same job again."""
    found = await _job(context)
    if found.kind == "restore":  # its target may hold something else by now
        raise Refused("a restore cannot be run again; plan a new one on the page of its repository")
    await allow_again(context, found)
    again = await flow.retry(
        context.services, context.of_team().id, found.id, context.owner().id, context.acting
    )
    await context.audit("job.retry", NAMES[found.kind], found.repo_id)
    await context.hint(found.repo_id)
    return context.redirect(_address(context, again.id))


async def prove(context: RequestContext) -> Response:
    """Start a drill, or a verification, which reads back every stored byte."""
    repo, kind = await context.repo(), cast(Kind, str(context.path["proof"]))
    if kind not in PROOFS:
        raise HTTPException(404, "there is nothing here, or it is not yours")
    asked = await flow.ask(context.services, repo.id, kind, {}, person_id=context.owner().id)
    await context.audit(f"repo.{kind}", repo.name, repo.id)
    await context.hint(repo.id)
    return context.redirect(_address(context, asked.id))


def _before(text: str | None) -> JobId | None:
    return None if not text else _id(text)


def _id(text: str) -> JobId:
    try:
        return JobId(UUID(text))
    except ValueError:
        raise NotFound("there is no such job") from None


async def _job(context: RequestContext) -> Job:
    """The path's job, of this team. Raises NotFound."""
    found = await jobs.find(context.services.db, context.of_team().id, _id(str(context.path["job"])))
    if found is None:
        raise NotFound("there is no such job")
    return found


async def _names(context: RequestContext, found: Sequence[Job]) -> dict[Any, str]:
    """The names of these jobs' repos."""
    return await repos.names(context.services.db, {job.repo_id for job in found})


def _address(context: RequestContext, job_id: JobId) -> str:
    return f"/{context.of_team().name}/-/activity/{job_id}"


assert set(NAMES) == set(get_args(Kind))

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/activity", page, Needs.VIEWER),
    Endpoint("GET", "/{team}/-/activity/{job}", job, Needs.VIEWER),
    Endpoint("GET", "/{team}/-/activity/{job}/events", events, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/activity/{job}/cancel", cancel, Needs.OPERATOR),
    Endpoint("POST", "/{team}/-/activity/{job}/retry", retry, Needs.OPERATOR),
    Endpoint("POST", "/{team}/{repo:repo}/-/prove/{proof}", prove, Needs.OPERATOR),
)
