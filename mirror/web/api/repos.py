"""A team's repos: their state, when they are checked, and their webhooks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from mirror.backup import default_branch, excluded
from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Repo as Known
from mirror.core.model import RepoId, Secret
from mirror.core.rules.health import objective
from mirror.core.rules.work import schedule
from mirror.discovery import choose, create, webhooks
from mirror.discovery import webhook as hooking
from mirror.discovery.webhook import NewHook
from mirror.shapes.base import Page
from mirror.shapes.discovery import Hook
from mirror.shapes.repos import Repo, RepoSettings
from mirror.store import repos
from mirror.store.browse import home
from mirror.store.discovery import hooks, remotes
from mirror.store.jobs import schedules
from mirror.web.api.call import Body, Call, begin, call, cursor, uuid_of
from mirror.web.api.shapes import Paged, Told, Words
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

REPO: Final = f"{TEAM}/repos/{{repo}}"


class ReposAsked(Paged, frozen=True, kw_only=True):
    """Which repos."""

    q: Annotated[Words, Meta(description="words of the name, in order")] | None = None
    name: Annotated[Words, Meta(description="the whole name")] | None = None
    state: repos.State | None = None


class RepoWanted(Body, frozen=True, kw_only=True):
    """A git remote to back up, or a repository to push to."""

    url: (
        Annotated[
            str,
            Meta(min_length=1, max_length=2000, description="null: it has no remote; `name` is pushed to"),
        ]
        | None
    ) = None
    name: Words | None = None
    username: Words | None = None
    token: Annotated[str, Meta(max_length=10_000)] | None = None
    default_branch: (
        Annotated[Words, Meta(description="of a repository to push to: what clones check out")] | None
    ) = None


class RepoChange(Body, frozen=True, kw_only=True):
    """How a repo is kept from now on; what is left out stays."""

    schedule: (
        Annotated[str, Meta(max_length=200, description="15m, 6h, cron; null: by activity")]
        | None
        | UnsetType
    ) = UNSET
    rpo: (
        Annotated[str, Meta(max_length=40, description="its objective: 15m, 24h, 7d; null: the team's")]
        | None
        | UnsetType
    ) = UNSET
    paused: bool | UnsetType = UNSET
    excluded: Annotated[
        list[Words], Meta(max_length=100, description="patterns of refs that are excluded")
    ] | (UnsetType) = UNSET
    default_branch: Annotated[
        Words, Meta(description="of a repository that is pushed to: what clones check out")
    ] | (UnsetType) = UNSET


class HookWanted(Body, frozen=True, kw_only=True):
    """Which kind of host the hook is for; null: taken from the repo's address."""

    forge: Literal["github", "gitlab", "gitea"] | None = None


async def list_repos(context: RequestContext, asked: ReposAsked) -> Page[Repo]:
    """The team's repos, by name."""
    db, team = context.services.db, context.of_team()
    only: list[RepoId] | None = None
    if asked.name is not None:
        found = await repos.by_name(db, team.id, asked.name)
        only = [found.id] if found else []
    wanted = home.Wanted(asked.q or "", asked.state, only, after=begin(asked.cursor, str))
    rows, _ = await home.page(db, team.id, wanted, limit=asked.limit + 1, now=context.now)
    shown = rows[: asked.limit]
    more = cursor(shown[-1].name) if len(rows) > asked.limit else None
    return Page(items=[Repo.of(one) for one in shown], next=more)


async def add_repo(context: RequestContext, body: RepoWanted) -> Repo:
    """Keep a git remote from now on, or create a repository to push to. One that is kept is that one."""
    if body.url is None:
        if body.username or body.token:
            raise UsageError("a repository to push to has no credentials of its own", field="token")
        if not body.name:
            raise UsageError(
                "give the url of a repository to back up, or the name of one to push to", field="url"
            )
        if body.default_branch:
            default_branch.named(body.default_branch)  # before anything is made
        made = await create.create(context.services, context.of_team().id, context.as_logged(), body.name)
        if body.default_branch:
            await _lead_head(context, made, body.default_branch)
        return await _row(context, made.id)
    if body.default_branch:
        raise UsageError(
            "the default branch of a repository with a url is its host's", field="default_branch"
        )
    secret = Secret(body.username or "", body.token) if body.token else None
    made = await choose.add_url(
        context.services,
        context.of_team().id,
        context.as_logged(),
        body.url,
        secret,
        body.name or None,
        hint=context.hint,
    )
    return await _row(context, made.id)


async def _lead_head(context: RequestContext, repo: Known, branch: str) -> None:
    if await default_branch.set(context.services, repo, branch, context.owner().name):
        await context.audit("repo.default-branch", repo.name, repo.id, {"branch": branch})


async def repo(context: RequestContext) -> Repo:
    """A repo and its state."""
    return await _row(context, (await repo_of(context)).id)


async def repo_settings(context: RequestContext) -> RepoSettings:
    """When a repo is checked, and which refs are excluded."""
    return await _settings(context, (await repo_of(context)).id)


async def change_repo(context: RequestContext, body: RepoChange) -> RepoSettings:
    """Change when a repo is checked or which refs are excluded, or pause it."""
    found, db = await repo_of(context), context.services.db
    if body.schedule:
        schedule.parse(body.schedule)
    wanted_rpo = objective.parse(body.rpo) if body.rpo else None
    if body.excluded:
        excluded.patterns(body.excluded, found)  # before anything is changed
    if body.default_branch is not UNSET:
        await _lead_head(context, found, body.default_branch)
    if body.schedule is not UNSET:
        wanted = " ".join((body.schedule or "").split()) or None
        rhythm = await schedules.of(db, found.id)
        due = schedule.next_look(replace(rhythm, schedule=wanted), found.id, context.now, context.now)
        await schedules.set_schedule(db, found.id, wanted, due)
        await context.audit("repo.schedule", found.name, found.id, {"schedule": wanted or "by activity"})
    if body.rpo is not UNSET:
        await schedules.set_rpo(db, found.id, wanted_rpo, context.now)
        told = {"rpo": objective.written(wanted_rpo) if wanted_rpo else "the team's"}
        await context.audit("repo.rpo", found.name, found.id, told)
    if body.excluded is not UNSET:
        patterns = excluded.patterns(body.excluded, found)
        await repos.set_excluded(db, found.id, patterns)
        await repos.request_sync(db, found.id, context.now)
        await context.hint(found.id)
        await context.audit("repo.exclude", found.name, found.id, {"patterns": list(patterns)})
    if body.paused is True:
        await choose.pause(context.services, found.id, context.as_logged())
    elif body.paused is False:
        await choose.resume(context.services, found.id, context.as_logged(), hint=context.hint)
    return await _settings(context, found.id)


async def let_go(context: RequestContext) -> Told:
    """Stop backing up a repo. Every backup stays."""
    left = await choose.let_go(context.services, (await repo_of(context)).id, context.as_logged())
    return Told(notes=[left] if left else [])


async def repo_hook(context: RequestContext) -> Hook:
    """A repo's webhook and its state."""
    found = await repo_of(context)
    known = await hooks.of(context.services.db, found.id)
    if known is None:
        raise NotFound(f"{found.name} has no webhook")
    return await _hook(context, found, hooking.address(context.services.settings, known), None)


async def give_hook(context: RequestContext, body: HookWanted) -> Hook:
    """Create a webhook for a repo. Its secret is shown only once."""
    found = await repo_of(context)
    return await _given(context, found, await hooking.give(context.services, found, body.forge), "hook.add")


async def rotate_hook(context: RequestContext) -> Hook:
    """Make a new secret for a repo's webhook, shown only once; the old one works for 24 more hours."""
    found = await repo_of(context)
    if await hooks.of(context.services.db, found.id) is None:
        raise NotFound(f"{found.name} has no webhook")
    made = await hooking.give(context.services, found, None, new=True)
    return await _given(context, found, made, "hook.secret")


async def check_hook(context: RequestContext) -> Hook:
    """Ask the host about a repo's webhook now; if it is missing there, it is registered again."""
    found = await repo_of(context)
    care = await webhooks.check_now(context.services, found.id)
    await context.audit("hook.check", found.name, found.id, {"outcome": care.outcome.value})
    return await repo_hook(context)


async def remove_hook(context: RequestContext) -> None:
    """Forget a repo's webhook and its deliveries."""
    found = await repo_of(context)
    await hooking.remove(context.services, found)
    await context.audit("hook.remove", found.name, found.id)


async def repo_of(context: RequestContext) -> Known:
    """The path's repo, of this team. Raises NotFound."""
    chosen = RepoId(uuid_of(context, "repo", "repo"))
    found = await repos.find_in(context.services.db, context.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such repo")
    return found


async def _row(context: RequestContext, repo_id: RepoId) -> Repo:
    wanted = home.Wanted(only=[repo_id])
    rows, _ = await home.page(context.services.db, context.of_team().id, wanted, 1, now=context.now)
    if not rows:
        raise NotFound("there is no such repo")
    return Repo.of(rows[0])


async def _settings(context: RequestContext, repo_id: RepoId) -> RepoSettings:
    rhythm = await schedules.of(context.services.db, repo_id)
    origin = await remotes.get(context.services.db, repo_id)
    return RepoSettings(
        schedule=rhythm.schedule,
        rpo=objective.written(own) if (own := await schedules.rpo_of(context.services.db, repo_id)) else None,
        look_at=rhythm.look_at,
        paused_at=origin.paused_at,
        excluded=list(await repos.excluded(context.services.db, repo_id)),
    )


async def _given(context: RequestContext, found: Known, made: NewHook, action: str) -> Hook:
    await context.audit(action, found.name, found.id)
    return await _hook(context, found, made.url, made.secret)


async def _hook(context: RequestContext, found: Known, url: str, secret: str | None) -> Hook:
    state = await home.hook_of(context.services.db, found.id)
    if state is None:
        raise NotFound(f"{found.name} no longer has a webhook")
    return Hook.of(state, url, secret)


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/repos", list_repos, Needs.VIEWER),
    call("POST", f"{TEAM}/repos", add_repo, Needs.ADMIN, "admin", status=201),
    call("GET", REPO, repo, Needs.VIEWER),
    call("DELETE", REPO, let_go, Needs.ADMIN, "admin", sure=True),
    call("GET", f"{REPO}/settings", repo_settings, Needs.VIEWER),
    call("PATCH", f"{REPO}/settings", change_repo, Needs.ADMIN, "admin"),
    call("GET", f"{REPO}/hook", repo_hook, Needs.ADMIN, "admin"),
    call("POST", f"{REPO}/hook", give_hook, Needs.ADMIN, "admin", status=201),
    call("POST", f"{REPO}/hook/rotate", rotate_hook, Needs.ADMIN, "admin", status=201),
    call("POST", f"{REPO}/hook/check", check_hook, Needs.ADMIN, "admin"),
    call("DELETE", f"{REPO}/hook", remove_hook, Needs.ADMIN, "admin", sure=True),
)
