"""Backups, restores, bundles, drills and verifications of a repo, and the jobs that run them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, cast
from uuid import UUID

from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.browse import moments, plan_commits
from mirror.core import globs
from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.model import RefName, RepoId, Secret, Snapshot
from mirror.core.model import Repo as Known
from mirror.core.rules.history.plan import Hidden, check_new_name
from mirror.core.times import when
from mirror.discovery import connections
from mirror.jobs import run as flow
from mirror.restore import moment, target, undo
from mirror.restore import restore as restoring
from mirror.restore.target import Authority
from mirror.shapes.base import Page, encoded
from mirror.shapes.discovery import Owner
from mirror.shapes.work import Coverage, Drill, Job, Plan, Proofs, Report, ReportLine, Restore, UndoPlan
from mirror.store import repos
from mirror.store.browse import proofs, report
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job as Kept
from mirror.store.jobs.jobs import JobId, Kind
from mirror.store.restore import restores
from mirror.store.upkeep import readings
from mirror.web.api.call import EVENTS, Body, Call, Query, begin, call, cursor, uuid_of
from mirror.web.api.forges import CONNECTION, connection_of
from mirror.web.api.moments import RAW, moment_of
from mirror.web.api.repos import REPO, repo_of
from mirror.web.api.shapes import Nothing, Paged, When, Words
from mirror.web.api.team import TEAM
from mirror.web.dispatch import AskAgain, Needs, RequestContext
from mirror.web.drafts import (
    BUNDLES_PER_HOUR,
    Draft,
    allow_again,
    asked_in_role,
    confirm,
    limited,
    to_kept,
    to_new,
    to_url,
)
from mirror.web.live import follow
from mirror.web.pages.repos.download import bundle_of

ONLY_MISSING: Final = "create what the target does not have, and leave everything else there as it is"
PERIOD: Final = timedelta(days=30)  # that a report is about unless somebody says which
JOB: Final = f"{TEAM}/jobs/{{job}}"
RESTORING: Final = frozenset({"restore", "bundle"})  # kinds that need the scope of that name

Id = Annotated[str, Meta(pattern="^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
Globs = Annotated[list[Annotated[str, Meta(min_length=1, max_length=500)]], Meta(max_length=globs.MOST)]


class JobsAsked(Paged, frozen=True, kw_only=True):
    """Which jobs."""

    repo: Id | None = None
    kind: list[Kind] = []
    state: list[jobs.State] = []


class BackupsAsked(Paged, frozen=True, kw_only=True):
    """Which backups."""

    repo: Id | None = None
    state: list[jobs.State] = []


class BackupWanted(Body, frozen=True, kw_only=True):
    """Which repo to back up."""

    repo: Annotated[str, Meta(min_length=1, max_length=500, description="its id, or its name")]


class DrillsAsked(Paged, frozen=True, kw_only=True):
    """Which drills."""


class Period(Query, frozen=True, kw_only=True):
    """From when to when."""

    start: When | None = None
    end: When | None = None


class NewRepository(Body, frozen=True, kw_only=True):
    """A repository that a connection is to create."""

    connection: Id
    owner: Annotated[Words, Meta(description="the host's id of who is to own it, out of `owners`")]
    name: Words
    private: bool = True


class Target(Body, frozen=True, kw_only=True):
    """Where a restore goes: exactly one of an address, a repo that is backed up and a new repository.

    Credentials for an address are used once and not stored; without them a connection to its host is used.
    """

    url: Annotated[str, Meta(min_length=1, max_length=2000)] | None = None
    username: Words | None = None
    token: Annotated[str, Meta(max_length=10_000)] | None = None
    repo: Id | None = None
    new: NewRepository | None = None


class Bring(Body, frozen=True, kw_only=True):
    """A ref of the moment, or a commit, to bring back under another name."""

    source: Annotated[str, Meta(min_length=1, max_length=500)]
    name: Annotated[str, Meta(min_length=1, max_length=500)]


class What(Body, frozen=True, kw_only=True):
    """What to restore of a moment: all of it, the refs that match, or some things under other names."""

    at: When | None = None
    refs: Globs = []
    bring: Annotated[list[Bring], Meta(max_length=100)] = []


class PlanWanted(What, frozen=True, kw_only=True):
    """What to restore and where; without a target, a bundle."""

    to: Target | None = None
    hidden: Hidden = "skip"
    force: bool = False
    missing: Annotated[bool, Meta(description=ONLY_MISSING)] = False


class RestoreWanted(What, frozen=True, kw_only=True):
    """What to restore and where. Overwriting (`force`) must be confirmed with the target's name."""

    to: Target
    hidden: Hidden = "skip"
    force: bool = False
    missing: Annotated[bool, Meta(description=ONLY_MISSING)] = False
    confirm: Annotated[str, Meta(max_length=500)] | None = None


class BundleWanted(What, frozen=True, kw_only=True):
    """What to put in a bundle."""


class UndoWanted(Body, frozen=True, kw_only=True):
    """The credentials for the target, if they were given for the restore alone."""

    username: Words | None = None
    token: Annotated[str, Meta(max_length=10_000)] | None = None


class ProofWanted(Body, frozen=True, kw_only=True):
    """What to drill."""

    at: When | None = None


class Again(Body, frozen=True, kw_only=True):
    """The credentials for a restore's target, which are not stored, and its name if it is overwritten."""

    username: Words | None = None
    token: Annotated[str, Meta(max_length=10_000)] | None = None
    confirm: Annotated[str, Meta(max_length=500)] | None = None


async def list_jobs(context: RequestContext, asked: JobsAsked) -> Page[Job]:
    """The team's jobs, newest first."""
    return await _listed(context, asked.repo, asked.kind, asked.state, asked)


async def job(context: RequestContext) -> Job:
    """One job, from what was asked to what came of it."""
    return await _shown(context, await _job(context))


async def job_events(context: RequestContext) -> Response:
    """A job as it changes, as server-sent events: `part` has the whole job as JSON, `end` is the last."""
    found = await _job(context)
    if context.request.method == "HEAD":
        return Response(media_type=EVENTS)
    name = (await repos.get(context.services.db, found.repo_id)).name

    async def look() -> tuple[str, bool]:
        now = await _job(context)
        return encoded(Job.of(now, name)).decode(), now.finished_at is not None

    return await follow(context, look)


async def cancel_job(context: RequestContext) -> Job:
    """Stop a job. A job that has ended stays as it is."""
    found = await _job(context)
    _check_scope(context, found.kind)
    done = await jobs.cancel(context.services.db, context.of_team().id, found.id, context.now)
    if done is None:
        raise NotFound("there is no such job")
    if found.finished_at is None:
        await context.audit("job.cancel", found.kind, found.repo_id)
    return await _shown(context, done)


async def retry_job(context: RequestContext, body: Again) -> Job:
    """Run the same job again; overwriting must be confirmed again, and restores count toward the limit."""
    found = await _job(context)
    _check_scope(context, found.kind)
    await allow_again(context, found, body.confirm)
    secret = _secret(body.username, body.token)
    team, me = context.of_team().id, context.owner().id
    again = await flow.retry(context.services, team, found.id, me, context.acting, secret)
    await context.audit("job.retry", found.kind, found.repo_id)
    await context.hint(found.repo_id)
    return await _shown(context, again)


async def list_backups(context: RequestContext, asked: BackupsAsked) -> Page[Job]:
    """The team's backups, newest first: those that found something new, were requested, or failed."""
    return await _listed(context, asked.repo, ("sync",), asked.state, asked)


async def back_up(context: RequestContext, body: BackupWanted) -> Job:
    """Back up a repo now."""
    db, team = context.services.db, context.of_team().id
    try:
        found = await repos.find_in(db, team, RepoId(UUID(body.repo)))
    except ValueError:
        found = await repos.by_name(db, team, body.repo)
    if found is None:
        raise NotFound(f"there is no repo {body.repo} in {context.of_team().name}")
    return await _back_up(context, found)


async def back_up_repo(context: RequestContext, body: Nothing) -> Job:
    """Back up this repo now."""
    return await _back_up(context, await repo_of(context))


async def backup(context: RequestContext) -> Job:
    """One backup; its result names the snapshot."""
    return await _shown(context, await _backup(context))


async def restore_backup(context: RequestContext, body: RestoreWanted) -> Job:
    """Restore the snapshot of a backup."""
    found = await _backup(context)
    number = (found.result or {}).get("snapshot")
    if not isinstance(number, int):
        raise Refused("this backup has no snapshot; restore another one, or wait until it is done")
    if body.at is not None:
        raise UsageError("leave out `at`: the backup already names the moment")
    repo = await repos.get(context.services.db, found.repo_id)
    return await _restore(context, repo, await moment.snapshot_at(context.services, repo, number), body)


async def plan(context: RequestContext, body: PlanWanted) -> Plan:
    """What a restore would do, ref by ref; the target is asked what it holds. Nothing is changed."""
    services = context.services
    found, then = await moment_of(context, body.at)
    what = await _what(context, found, then, body)
    draft = None if body.to is None else await _drafted(context, found, then, body.to, body, what)
    to = None
    async with context.planning():
        if draft is not None:
            to = await target.reach(
                services, context.of_team().id, draft.asked, Authority(context.acting, draft.secret)
            )
        made = await restoring.plan(
            services,
            found,
            then,
            restoring.What.of({**what, "globs": body.refs, **_how(body)}),
            to,
            new=draft is not None and bool(draft.asked.get("new")),
        )
    if to is None:
        return Plan.of(made, None)
    commits = await plan_commits.of_plan_or_none(services, found, made.moves, made.held)
    return Plan.of(made, to.shown, commits)


async def restore(context: RequestContext, body: RestoreWanted) -> Job:
    """Restore a moment to a remote. Nothing is ever deleted there; what it held is saved first."""
    found, then = await moment_of(context, body.at)
    return await _restore(context, found, then, body)


async def plan_undo(context: RequestContext, body: UndoWanted) -> UndoPlan:
    """What undoing a restore would do, ref by ref."""
    job = await _restore_job(context)
    async with context.planning():
        made = await undo.plan(
            context.services, job, Authority(context.acting, _secret(body.username, body.token))
        )
    return UndoPlan.of(made)


async def undo_restore(context: RequestContext, body: UndoWanted) -> Job:
    """Undo a restore: restore what it overwrote and remove what it created, unless it has changed since."""
    job = await _restore_job(context)
    secret = _secret(body.username, body.token)
    await undo.check(context.services, job)
    found = await repos.get(context.services.db, job.repo_id)
    asked = {"undo": str(job.id), "snapshot": (job.result or {}).get("snapshot"), "force": False}
    return await _ask(context, found, "restore", asked, "restore.undo", secret)


async def list_owners(context: RequestContext) -> Page[Owner]:
    """The owners under which a connection can create a repository."""
    found = await connection_of(context)
    owners = await connections.asking(context.services, found.id, lambda forge, token: forge.owners(token))
    items = [Owner(id=one.id, login=one.login, name=one.name, personal=one.personal) for one in owners]
    return Page(items=items, next=None)


async def list_restores(context: RequestContext) -> Page[Restore]:
    """Every finished restore of a repo, newest first."""
    found = await restores.of(context.services.db, (await repo_of(context)).id)
    return Page(items=[Restore.of(one) for one in found], next=None)


async def make_bundle(context: RequestContext, body: BundleWanted) -> Job:
    """Make a git bundle of a moment, which can be downloaded for a day."""
    found, then = await moment_of(context, body.at)
    what = await _what(context, found, then, body)
    await restoring.steps(context.services, found, then, pushes=False)  # refuses what would fail
    await limited(context, "bundle", BUNDLES_PER_HOUR)
    return await _ask(context, found, "bundle", what | then.numbers, "restore.bundle")


async def bundle(context: RequestContext) -> Response:
    """The bundle that a job has made, whole or in part; or, with 303, its address at the store."""
    found = await _job(context)
    return await bundle_of(context, await repos.get(context.services.db, found.repo_id), found)


async def drill(context: RequestContext, body: ProofWanted) -> Job:
    """Run a drill: restore a moment only to prove that it works."""
    found, then = await moment_of(context, body.at)
    return await _ask(context, found, "drill", then.numbers if body.at else {})


async def verify(context: RequestContext, body: Nothing) -> Job:
    """Read back every stored byte of a repo."""
    return await _ask(context, await repo_of(context), "verify", {})


async def list_drills(context: RequestContext, asked: DrillsAsked) -> Page[Drill]:
    """Every drill of the team with its result, newest first."""
    place = begin(asked.cursor, str)
    before = context.now + timedelta(days=1)
    if place is not None:
        began = when.parse(place, context.now)
        if not isinstance(began, datetime):
            raise UsageError("the cursor is not from this list; start without one")
        before = began
    found = await report.drills(context.services.db, context.of_team().id, before, asked.limit + 1)
    shown = found[: asked.limit]
    more = cursor(shown[-1].finished_at) if len(found) > asked.limit else None
    return Page(items=[Drill.of(one, one.repo) for one in shown], next=more)


async def list_proofs(context: RequestContext) -> Proofs:
    """When each repo was last drilled and is drilled next, and in what time it can be restored."""
    db, team = context.services.db, context.of_team()
    return Proofs.of(await proofs.proofs(db, team.id, context.now, 1000))


async def coverage(context: RequestContext) -> Coverage:
    """How much of what the team has stored was read back within its period."""
    return Coverage.of(await readings.coverage(context.services.db, context.now, context.of_team().id))


async def period(context: RequestContext, asked: Period) -> Report:
    """What was protected, behind, restored and drilled in a period; by default the last 30 days."""
    end = _time(context, asked.end) or context.now
    start = _time(context, asked.start) or end - PERIOD
    if start >= end:
        raise UsageError("the period ends before it starts; choose a later end")
    team = context.of_team()
    lines = await report.report(context.services.db, team.id, start, end, context.now)
    return Report(team=team.name, start=start, end=end, repos=[ReportLine.of(one) for one in lines])


async def _listed(
    context: RequestContext,
    repo: str | None,
    kinds: Sequence[Kind],
    states: Sequence[jobs.State],
    asked: Paged,
) -> Page[Job]:
    db, team = context.services.db, context.of_team()
    found = await jobs.page(
        db,
        team.id,
        repo_id=None if repo is None else RepoId(UUID(repo)),
        kinds=kinds,
        states=states,
        before=cast(JobId | None, begin(asked.cursor, UUID)),
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    names = await repos.names(db, {one.repo_id for one in shown})
    more = cursor(shown[-1].id) if len(found) > asked.limit else None
    return Page(items=[Job.of(one, names[one.repo_id]) for one in shown], next=more)


async def _job(context: RequestContext) -> Kept:
    chosen = JobId(uuid_of(context, "job", "job"))
    found = await jobs.find(context.services.db, context.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such job")
    return found


async def _backup(context: RequestContext) -> Kept:
    chosen = JobId(uuid_of(context, "backup", "backup"))
    found = await jobs.find(context.services.db, context.of_team().id, chosen)
    if found is None or found.kind != "sync":
        raise NotFound("there is no such backup")
    return found


async def _shown(context: RequestContext, found: Kept) -> Job:
    return Job.of(found, (await repos.get(context.services.db, found.repo_id)).name)


def _check_scope(context: RequestContext, kind: Kind) -> None:
    """A token without the scope restore may not control restores by their jobs either."""
    if context.token is not None and kind in RESTORING and "restore" not in context.token.scopes:
        raise HTTPException(403, f"the token {context.token.name} does not have the scope restore")


async def _back_up(context: RequestContext, found: Known) -> Job:
    return await _ask(context, found, "sync", {"reason": "manual"}, "repo.back-up")


async def _ask(
    context: RequestContext,
    found: Known,
    kind: Kind,
    asked: Mapping[str, Any],
    action: str | None = None,
    secret: Secret | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Job:
    asked = asked_in_role(context, kind, asked)
    made = await flow.ask(
        context.services, found.id, kind, asked, person_id=context.owner().id, secret=secret
    )
    await context.audit(action or f"repo.{kind}", found.name, found.id, detail)
    await context.hint(found.id)
    return Job.of(made, found.name)


async def _restore(context: RequestContext, found: Known, then: Snapshot, body: RestoreWanted) -> Job:
    what = await _what(context, found, then, body)
    if body.force and not context.is_sure:
        raise AskAgain
    draft = await _drafted(context, found, then, body.to, body, what)
    if draft.asked["force"]:
        confirm(draft.name, body.confirm)
    await restoring.steps(context.services, found, then, pushes=True)  # refuses what would fail
    await limited(context)
    action = "restore.create" if draft.asked.get("new") else "restore.push"
    detail = {"to": draft.told, **then.numbers, "overwrites": draft.asked["force"]}
    return await _ask(context, found, "restore", draft.asked, action, draft.secret, detail)


def _how(body: PlanWanted | RestoreWanted) -> dict[str, Any]:
    """How the target takes it, as a job is asked. Raises UsageError."""
    if body.force and body.missing:
        raise UsageError("`force` overwrites and `missing` does not: say one of them")
    only = {"missing": True} if body.missing else {}
    return {"hidden": body.hidden, "force": body.force, **only}


async def _drafted(
    context: RequestContext,
    found: Known,
    then: Snapshot,
    to: Target,
    body: PlanWanted | RestoreWanted,
    what: Mapping[str, Any],
) -> Draft:
    """The requested restore, in the form that a job takes. Raises UsageError, NotFound, Refused."""
    asked = dict(what) | then.numbers | _how(body)
    if [to.url, to.repo, to.new].count(None) != 2:
        raise UsageError("name the target: exactly one of `url`, `repo` and `new`")
    if to.url is not None:
        given = {"url": to.url, "username": to.username or "", "token": to.token or ""}
        return await to_url(context, found, given, asked)
    if to.token or to.username:
        raise UsageError("leave out the credentials: this target uses those of a connection")
    if to.new is not None:
        new = to.new
        given = {"connection": new.connection, "owner": new.owner, "name": new.name}
        given["private"] = "yes" if new.private else "no"
        return await to_new(context, found, given, asked)
    kept = await repos.find_in(context.services.db, context.of_team().id, RepoId(UUID(to.repo)))
    if kept is None:
        raise NotFound("there is no such repo to restore to")
    return await to_kept(context, found, {"repo": kept.name}, asked)


async def _what(context: RequestContext, found: Known, then: Snapshot, body: What) -> dict[str, Any]:
    """What to restore of the moment, in the form that a job takes. Raises UsageError, NotFound."""
    globs.check(body.refs)
    if not body.bring:
        return {"globs": body.refs} if body.refs else {}
    if body.refs:
        raise UsageError("send either `refs` or `bring`, not both")
    bring: dict[RefName, bytes] = {}
    for one in body.bring:
        name = RefName((one.name if one.name.startswith("refs/") else f"refs/heads/{one.name}").encode())
        check_new_name(name)
        source = one.source.encode()
        await moments.commits(context.services, found, then, source, limit=1)  # it must be there
        if not source.startswith(b"refs/"):
            source = await moments.resolve(context.services, found, then, source)
        bring[name] = source
    return restoring.What(bring=bring).chosen


async def _restore_job(context: RequestContext) -> Kept:
    found = await _job(context)
    if found.kind != "restore":
        raise NotFound("there is no such restore")
    return found


def _secret(username: str | None, token: str | None) -> Secret | None:
    return Secret(username or "", token) if token else None


def _time(context: RequestContext, text: str | None) -> datetime | None:
    if not text:
        return None
    found = when.parse(text, context.now)
    if not isinstance(found, datetime):
        raise UsageError("give a day or a time, such as 2026-03-02")
    return found


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/jobs", list_jobs, Needs.VIEWER),
    call("GET", JOB, job, Needs.VIEWER),
    call("GET", f"{JOB}/events", job_events, Needs.VIEWER, media=EVENTS),
    call("POST", f"{JOB}/cancel", cancel_job, Needs.OPERATOR, "backup"),
    call("POST", f"{JOB}/retry", retry_job, Needs.OPERATOR, "backup", status=202),
    call("GET", f"{TEAM}/backups", list_backups, Needs.VIEWER),
    call("POST", f"{TEAM}/backups", back_up, Needs.OPERATOR, "backup", status=202),
    call("GET", f"{TEAM}/backups/{{backup}}", backup, Needs.VIEWER),
    call("POST", f"{TEAM}/backups/{{backup}}/restore", restore_backup, Needs.OPERATOR, "restore", status=202),
    call("GET", "/backups", list_backups, Needs.VIEWER),
    call("POST", "/backups", back_up, Needs.OPERATOR, "backup", status=202),
    call("GET", "/backups/{backup}", backup, Needs.VIEWER),
    call("POST", "/backups/{backup}/restore", restore_backup, Needs.OPERATOR, "restore", status=202),
    call("POST", f"{REPO}/backups", back_up_repo, Needs.OPERATOR, "backup", status=202),
    call("POST", f"{REPO}/plans", plan, Needs.OPERATOR, "restore"),
    call("GET", f"{REPO}/restores", list_restores, Needs.VIEWER),
    call("POST", f"{REPO}/restores", restore, Needs.OPERATOR, "restore", status=202),
    call("POST", f"{REPO}/bundles", make_bundle, Needs.OPERATOR, "restore", status=202),
    call("GET", f"{JOB}/bundle", bundle, Needs.OPERATOR, "restore", media=RAW, elsewhere=True),
    call("POST", f"{JOB}/undo/plan", plan_undo, Needs.OPERATOR, "restore"),
    call("POST", f"{JOB}/undo", undo_restore, Needs.OPERATOR, "restore", status=202, sure=True),
    call("GET", f"{CONNECTION}/owners", list_owners, Needs.OPERATOR, "restore"),
    call("POST", f"{REPO}/drills", drill, Needs.OPERATOR, "backup", status=202),
    call("POST", f"{REPO}/verifications", verify, Needs.OPERATOR, "backup", status=202),
    call("GET", f"{TEAM}/drills", list_drills, Needs.VIEWER),
    call("GET", f"{TEAM}/coverage", coverage, Needs.VIEWER),
    call("GET", f"{TEAM}/proofs", list_proofs, Needs.VIEWER),
    call("GET", f"{TEAM}/report", period, Needs.VIEWER),
)
