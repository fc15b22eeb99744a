"""Cloning a moment: by its address, or as one file that git can clone, and the same on the command line."""

import shlex
from contextlib import suppress
from typing import Final
from uuid import UUID

from starlette.responses import Response

from mirror.core.model import Repo
from mirror.core.rules import failover
from mirror.restore import export
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import ENDED, Job, JobId
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.drafts import BUNDLES_PER_HOUR, limited, queue
from mirror.web.pages.repos.download import bundle_name
from mirror.web.pages.repos.repo import moment_at


async def clone(context: RequestContext) -> Response:
    """How to clone the moment; with `job`, how far its bundle is.

    With `start`, the download begins by itself once there is one, also without a script.
    """
    at = await moment_at(context)
    snapshot = at.saved
    job = await _job(context, at.repo)
    there = bool(job and export.of(job, context.now))
    named = shlex.quote(at.repo.name)
    named_at = f"{at.repo.name}@{snapshot.label.removeprefix('#')}" if at.asked else at.repo.name
    short = at.repo.name.rpartition("/")[2]
    file = bundle_name(at.repo, job) if job and there else f"{short}.bundle"
    answer = context.render(
        "clone.html",
        at=at,
        tab="clone",
        job=job,
        there=there,
        ended=bool(job and job.state in ENDED),
        address=f"git clone {shlex.quote(failover.clone_url(context.outside.origin, at.team, named_at))}",
        file=shlex.quote(file),
        folder=shlex.quote(short),
        restore=f"everref restore {named} --at '{snapshot.label}'",
    )
    if job and there and "start" in context.query:
        answer.headers["refresh"] = (
            f"0; url={templating.repo_url(at.team, at.repo.name, f'bundles/{job.id}')}"
        )
    return answer


async def make(context: RequestContext) -> Response:
    """Queue the bundle of the whole moment."""
    at = await moment_at(context)
    await limited(context, "bundle", BUNDLES_PER_HOUR)
    job = await queue(context, at.repo, "bundle", at.saved.numbers)
    await context.audit("restore.bundle", at.repo.name, at.repo.id, at.saved.numbers)
    return context.redirect(at.url("clone", at=at.saved.label, job=job.id, start=1))


async def _job(context: RequestContext, repo: Repo) -> Job | None:
    """The bundle's job that the query names, if there is one."""
    with suppress(ValueError):
        job_id = JobId(UUID(context.query.get("job", "")))
        found = await jobs.find(context.services.db, context.of_team().id, job_id)
        return found if found and found.repo_id == repo.id and found.kind == "bundle" else None
    return None


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final = (
    Endpoint("GET", f"{_REPO}/-/clone", clone, Needs.VIEWER),
    Endpoint("POST", f"{_REPO}/-/clone", make, Needs.OPERATOR),
)
