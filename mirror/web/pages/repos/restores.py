"""What came of a restore: the list of all, one of them as it happens, and undoing it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from os.path import commonprefix
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from mirror.browse.plan_commits import RefCommits
from mirror.core import words
from mirror.core.errors import BadCredentials, EverrefError, NotAllowed, NotFound, UsageError
from mirror.core.model import Repo, Secret
from mirror.restore import export, undo
from mirror.restore.restore import RefResult
from mirror.restore.target import Authority
from mirror.store import repos
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import ENDED, Job, JobId
from mirror.store.restore import restores
from mirror.store.upkeep import state
from mirror.web import receipts, templating
from mirror.web.dispatch import AskAgain, Endpoint, Needs, RequestContext
from mirror.web.drafts import Draft, destination, queue_once, sealed, unsealed
from mirror.web.live import follow
from mirror.web.pages.repos.download import bundle_name, bundle_of
from mirror.web.pages.repos.repo import moment_at

FOLD: Final = 12  # refs with the same result that are not folded yet
ROWS: Final = 200  # with the same result that are shown
LISTED: Final = 100  # restores on a page
WILL: Final[Mapping[str, str]] = {
    "refused": "refused",
    "updated": "overwrite",
    "removed": "remove",
    "created": "create",
    "skipped": "skipped",
    "unchanged": "unchanged",
}  # the words of a plan for each result, in the order in which they are shown
COLOUR: Final[Mapping[str, str]] = {
    "refused": "lost",
    "updated": "lost",
    "removed": "lost",
    "skipped": "late",
}


# Refs as they are shown


@dataclass(frozen=True, slots=True)
class Row:
    """One ref of a plan or of a result."""

    name: str
    target: str
    result: str
    why: str
    old: str
    commits: RefCommits | None = None  # None: they were not counted, or nothing changes


@dataclass(frozen=True, slots=True)
class Group:
    """Refs that are shown together: many of one folder with the same result, folded; or a few of any."""

    rows: Sequence[Row]  # the first of them
    total: int
    folder: str = ""  # "": a few of any, which are not folded

    @property
    def result(self) -> str:
        """The result they share, where they are folded."""
        return self.rows[0].result

    @property
    def why(self) -> str:
        """Why they have it: the reason of all that are shown, or how all their reasons begin."""
        reasons = {row.why for row in self.rows}
        if len(reasons) == 1:
            return self.rows[0].why
        start = commonprefix(list(reasons)).rpartition("/")[0]
        return f"{start}/…" if start else ""


def row_of(ref: RefResult, commits: RefCommits | None = None) -> Row:
    name = words.name(ref.name)
    old = "" if ref.old is None or ref.old == ref.target else words.name(ref.old)
    return Row(name, words.name(ref.target), ref.result, ref.why or "", old, commits)


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows by result and by folder; results that take something away come first."""
    found: dict[tuple[int, str], list[Row]] = {}
    order = list(WILL)
    for row in rows:
        folder = "/".join(row.name.split("/")[:2])
        found.setdefault((order.index(row.result), folder), []).append(row)
    shown: list[Group] = []
    for (_, folder), some in sorted(found.items(), key=lambda one: one[0]):
        if len(some) > FOLD:
            shown.append(Group(some[:ROWS], len(some), folder))
        elif shown and not shown[-1].folder:
            few = [*shown[-1].rows, *some]
            shown[-1] = Group(few, len(few))
        else:
            shown.append(Group(some, len(some)))
    return shown


def counted(refs: Sequence[RefResult]) -> dict[str, int]:
    """How many refs have each result, in the order of WILL."""
    return {one: n for one in WILL if (n := sum(ref.result == one for ref in refs))}


# What came of it


async def page(context: RequestContext) -> Response:
    """Every restore of the repo there ever was, and those under way."""
    at = await moment_at(context)
    db, team = context.services.db, context.of_team()
    done = await restores.of(db, at.repo.id, LISTED)
    told = {one.cause.job_id for one in done if one.cause}
    others = await jobs.page(db, team.id, repo_id=at.repo.id, kinds=("restore", "bundle"), limit=LISTED)
    return context.render(
        "restores.html",
        at=at,
        tab="restores",
        done=done,
        others=[job for job in others if job.id not in told],
        rebuilt=await state.taken_up_as_of(db),
    )


async def one(context: RequestContext) -> Response:
    """One restore: how far it is, what became of each ref, and how to undo it."""
    at = await moment_at(context)
    job = await job_of(context, at.repo)
    told = await _told(context, at.repo, job)
    receipt = None
    if job.kind == "restore" and job.state == "done" and not job.asked.get("undo"):
        receipt = await receipts.of(context, at.repo, job, told["to"])
    return context.render("restore_one.html", at=at, tab="restores", receipt=receipt, **told)


async def events(context: RequestContext) -> Response:
    """The same page while the job runs."""
    repo = await context.repo()
    await job_of(context, repo)
    template = context.outside.pages.get_template("restore_now.html")

    async def look() -> tuple[str, bool]:
        job = await job_of(context, repo)
        told = await _told(context, repo, job)
        now = context.services.clock()
        return template.render(context=context, now=now, receipt=None, **told), job.state in ENDED

    return await follow(context, look)


async def _told(context: RequestContext, repo: Repo, job: Job) -> dict[str, Any]:
    """What the page of a restore shows."""
    db, result = context.services.db, job.result or {}
    rows = [
        Row(ref["name"], ref["target"], ref["result"], ref["why"] or "", ref.get("old") or "")
        for ref in result.get("refs", ())
    ]
    ended, undoes = job.state in ENDED, job.asked.get("undo")
    return {
        "repo": repo,
        "job": job,
        "result": result,
        "base": address_of(context, repo, job.id),
        "groups": groups(rows),
        "colour": COLOUR,
        "rest": result.get("refs_total", 0) - len(rows),
        "to": await destination(context, job),
        "undoable": job.kind == "restore" and ended and not undoes and await restores.wrote_any(db, job.id),
        "undone": await restores.undone(db, job.id),
        "file": bundle_name(repo, job) if export.of(job, context.now) else None,
        "expires": datetime.fromisoformat(result["expires_at"]) if "expires_at" in result else None,
        "kept": await _kept(context, result),
    }


async def _kept(context: RequestContext, result: Mapping[str, Any]) -> Repo | None:
    """The repo that holds what was overwritten."""
    if "kept" not in result:
        return None
    return await repos.by_name(context.services.db, context.of_team().id, result["kept"])


async def job_of(context: RequestContext, repo: Repo) -> Job:
    """The job in the path, which restores this repo. Raises NotFound."""
    try:
        found = await jobs.find(
            context.services.db, context.of_team().id, JobId(UUID(str(context.path["job"])))
        )
    except ValueError:
        found = None
    if found is None or found.repo_id != repo.id or found.kind not in ("restore", "bundle"):
        raise NotFound("there is no such restore")
    return found


def address_of(context: RequestContext, repo: Repo, job_id: JobId) -> str:
    return templating.repo_url(context.of_team().name, repo.name, f"restores/{job_id}")


async def download(context: RequestContext) -> Response:
    """The bundle of a job."""
    repo = await context.repo()
    return await bundle_of(context, repo, await job_of(context, repo))


# Undoing it


def status_of(error: EverrefError | None) -> int:
    """The status of a page that says what went wrong, if anything did."""
    return 200 if error is None else 403 if isinstance(error, NotAllowed) else 422


async def undo_plan(context: RequestContext) -> Response:
    """What undoing a restore will do, ref by ref; asks again for a token that was lent for the restore."""
    at = await moment_at(context)
    job = await job_of(context, at.repo)
    secret, error, made = None, None, None
    if context.request.method == "POST":
        form = await context.form()
        token, username = str(form.get("token", "")).strip(), str(form.get("username", "")).strip()
        secret = Secret(username or "", token) if token else None
    await undo.check(context.services, job)
    if not context.is_sure:
        raise AskAgain  # before the plan is made, which would be lost
    asks = bool(job.asked.get("lent")) and secret is None
    if not asks:
        try:
            async with context.planning():
                made = await undo.plan(context.services, job, Authority(context.acting, secret))
        except (BadCredentials, NotAllowed) as failed:
            if isinstance(failed, BadCredentials) and not job.asked.get("lent"):
                raise
            asks, error = True, failed
    to = await destination(context, job)
    asked = {"undo": str(job.id), "snapshot": (job.result or {}).get("snapshot"), "force": False}
    draft = Draft(jobs.new_id(), asked, to, to, secret)
    counts = counted(made.refs) if made else {}
    return context.render(
        "restore_undo.html",
        status_of(error),
        at=at,
        tab="restores",
        job=job,
        to=to,
        base=address_of(context, at.repo, job.id),
        asks=asks,
        error=error,
        plan=made,
        counts=counts,
        due=counts.get("updated", 0) + counts.get("removed", 0),
        groups=groups([row_of(ref) for ref in made.refs]) if made else [],
        will=WILL,
        colour=COLOUR,
        sealed=sealed(context, at.repo, draft),
    )


async def undo_now(context: RequestContext) -> Response:
    """Start an undo as planned."""
    repo = await context.repo()
    undone = await job_of(context, repo)
    draft = unsealed(context, repo, str((await context.form()).get("draft", "")))
    if draft.asked.get("undo") != str(undone.id):
        raise UsageError("this is another plan; plan the undo again")
    found = await jobs.find(context.services.db, context.of_team().id, draft.job_id)
    if found is None and await queue_once(context, repo, draft):
        await context.audit("restore.undo", repo.name, repo.id, {"to": draft.told})
    return context.redirect(address_of(context, repo, draft.job_id))


async def undo_again(context: RequestContext) -> Response:
    """Back to the plan, for somebody who had to prove who they are while it was shown."""
    repo = await context.repo()
    return context.redirect(f"{address_of(context, repo, (await job_of(context, repo)).id)}/undo")


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", f"{_REPO}/-/bundles/{{job}}", download, Needs.OPERATOR),
    Endpoint("GET", f"{_REPO}/-/restores", page, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}", one, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}/events", events, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}/undo", undo_plan, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restores/{{job}}/undo", undo_plan, Needs.OPERATOR),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}/undo/now", undo_again, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restores/{{job}}/undo/now", undo_now, Needs.OPERATOR, sure=True),
)
