"""Bringing a repository in as a file: the form, how far an upload is, and what came of it.

The form sends the file in pieces by the API, which can go on after a break, straight to the vault's store
where that takes them; without a script it sends the file whole, up to a limit.
"""

from typing import Final

from starlette.datastructures import UploadFile
from starlette.responses import Response

from mirror.backup import straight, uploads
from mirror.backup.uploads import LARGEST_PIECE
from mirror.core.errors import EverrefError, NotFound, UsageError
from mirror.core.model import Repo
from mirror.jobs import uploads as whole
from mirror.store import repos
from mirror.store.backup import uploads as rows
from mirror.store.backup.uploads import Upload
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.web import policy, templating
from mirror.web.api.uploads import repo_meant, upload_of
from mirror.web.dispatch import LARGE_BODY, Endpoint, Needs, RequestContext
from mirror.web.live import follow

AT_ONCE: Final = LARGE_BODY - (256 << 10)  # bytes of a file that a form sends whole, beside its other fields
FIELDS: Final = ("name", "repo", "keep_refs")


async def page(
    context: RequestContext, error: EverrefError | None = None, typed: dict[str, str] | None = None
) -> Response:
    """The form, and the team's newest uploads."""
    store = await straight.store_of(context.services)
    page = context.render(
        "bring_in.html",
        200 if error is None else 422,
        wrong=templating.wrong(error) or ({"file": str(error)} if error else {}),
        typed=typed or {"repo": context.query.get("repo", "")},
        uploads=await rows.latest(context.services.db, context.of_team().id),
        at_once=AT_ONCE,
        straight=store is not None,
    )
    if store is not None:
        page.headers["content-security-policy"] = policy.of_pages(context.services.settings, store)
    return page


async def send(context: RequestContext) -> Response:
    """Take a whole file that a form without a script sent, and have it proved."""
    form = await context.form()
    typed = {name: str(form.get(name, "")).strip() for name in FIELDS}
    file = form.get("file")
    try:
        if not isinstance(file, UploadFile) or not file.filename or not file.size:
            raise UsageError("choose a file: a git bundle, or an archive of a repository", field="file")
        repo = await repo_meant(context, typed["repo"]) if typed["repo"] else None
        upload = await uploads.begin(
            context.services,
            context.of_team().id,
            context.owner().id,
            file.filename,
            file.size,
            name=typed["name"] or None,
            repo=repo,
            keep_refs=bool(typed["keep_refs"]),
        )
        while upload.came < upload.bytes:
            data = await file.read(LARGEST_PIECE)
            upload = await uploads.take(context.services, upload, upload.came, data)
        upload = await whole.finish(context.services, upload, context.as_logged(), context.owner().id)
    except EverrefError as error:
        return await page(context, error, typed)
    detail = {"file": upload.file, "bytes": upload.bytes}
    await context.audit("repo.import", upload.name, upload.repo_id, detail)
    await context.hint(upload.repo_id)
    return context.redirect(_address(context, upload))


async def shown(context: RequestContext) -> Response:
    """One upload: how far it is, or what came of it."""
    upload, job, repo = await _now(context)
    return context.render("brought.html", upload=upload, job=job, repo=repo)


async def events(context: RequestContext) -> Response:
    """The same while it changes."""
    template = context.outside.pages.get_template("brought_now.html")

    async def look() -> tuple[str, bool]:
        upload, job, repo = await _now(context)
        text = template.render(
            context=context, now=context.services.clock(), upload=upload, job=job, repo=repo
        )
        return text, not upload.is_open

    return await follow(context, look)


async def drop(context: RequestContext) -> Response:
    """Drop an upload that has become no snapshot yet."""
    upload = await upload_of(context)
    if not await uploads.drop(context.services, upload, f"{context.actor} dropped it"):
        return context.redirect(_address(context, upload), "It was over already.")
    await context.audit("upload.drop", upload.name, upload.repo_id, {"file": upload.file})
    return context.redirect(f"/{context.of_team().name}/-/bring", f"{upload.file} was dropped.")


async def _now(context: RequestContext) -> tuple[Upload, Job | None, Repo | None]:
    """The upload, the job that proves it, and its repo, as far as there are."""
    upload, db = await upload_of(context), context.services.db
    job = await jobs.find(db, upload.team_id, upload.job_id) if upload.job_id else None
    try:
        repo = await repos.get(db, upload.repo_id) if upload.repo_id else None
    except NotFound:
        repo = None
    return upload, job, repo


def _address(context: RequestContext, upload: Upload) -> str:
    return f"/{context.of_team().name}/-/bring/{upload.id}"


_BRING: Final = "/{team}/-/bring"

ENDPOINTS: Final = (
    Endpoint("GET", _BRING, page, Needs.ADMIN),
    Endpoint("POST", _BRING, send, Needs.ADMIN, large=True),
    Endpoint("GET", f"{_BRING}/{{upload}}", shown, Needs.ADMIN),
    Endpoint("GET", f"{_BRING}/{{upload}}/events", events, Needs.ADMIN),
    Endpoint("POST", f"{_BRING}/{{upload}}/drop", drop, Needs.ADMIN),
)
