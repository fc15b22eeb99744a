"""What is kept: a team's repos, when they are looked at, and their webhooks."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from mirror import schedule
from mirror.errors import NotFound
from mirror.flows import choose, excluded, hookcare
from mirror.flows import hook as hooking
from mirror.flows.choose import By
from mirror.flows.hook import Given
from mirror.job import SYNC
from mirror.model import Repo as Known
from mirror.model import RepoId, Secret
from mirror.store import home, hooks, origins, repos, schedules
from mirror.web.api.call import Body, Call, begin, call, cursor, uuid_of
from mirror.web.api.shapes import Hook, Page, Paged, Repo, RepoSettings, Told, Words
from mirror.web.api.team import TEAM
from mirror.web.frame import Needs, Visit

REPO: Final = f"{TEAM}/repos/{{repo}}"


class ReposAsked(Paged, frozen=True, kw_only=True):
    """Which repos."""

    q: Annotated[Words, Meta(description="words of the name, in their order")] | None = None
    name: Annotated[Words, Meta(description="the whole name")] | None = None
    state: home.State | None = None


class RepoWanted(Body, frozen=True, kw_only=True):
    """A git remote to keep."""

    url: Annotated[str, Meta(min_length=1, max_length=2000)]
    name: Words | None = None
    username: Words | None = None
    token: Annotated[str, Meta(max_length=10_000)] | None = None


class RepoChange(Body, frozen=True, kw_only=True):
    """How a repo is kept from now on; what is left out stays."""

    schedule: (
        Annotated[str, Meta(max_length=200, description="15m, 6h, cron; null: by activity")]
        | None
        | UnsetType
    ) = UNSET
    paused: bool | UnsetType = UNSET
    excluded: Annotated[
        list[Words], Meta(max_length=100, description="patterns of refs that are left out")
    ] | (UnsetType) = UNSET


class HookWanted(Body, frozen=True, kw_only=True):
    """Which forge the hook is for; null: the repo's address tells."""

    forge: Literal["github", "gitlab", "gitea"] | None = None


async def list_repos(visit: Visit, asked: ReposAsked) -> Page[Repo]:
    """The team's repos, by name."""
    db, team = visit.edges.db, visit.of_team()
    only: list[RepoId] | None = None
    if asked.name is not None:
        found = await repos.by_name(db, team.id, asked.name)
        only = [found.id] if found else []
    rows, _ = await home.page(
        db,
        team.id,
        search=asked.q or "",
        state=asked.state,
        only=only,
        after=begin(asked.cursor, str),
        limit=asked.limit + 1,
    )
    shown = rows[: asked.limit]
    more = cursor(shown[-1].name) if len(rows) > asked.limit else None
    return Page(items=[Repo.of(one) for one in shown], next=more)


async def add_repo(visit: Visit, body: RepoWanted) -> Repo:
    """Keep a git remote from now on, beginning at once. One that is kept already is that one."""
    secret = Secret(body.username or "", body.token) if body.token else None
    made = await choose.add_url(
        visit.edges, visit.of_team().id, by(visit), body.url, secret, body.name or None, hint=hint(visit)
    )
    return await _row(visit, made.id)


async def repo(visit: Visit) -> Repo:
    """A repo and how it is doing."""
    return await _row(visit, (await repo_of(visit)).id)


async def repo_settings(visit: Visit) -> RepoSettings:
    """When a repo is looked at, and which refs are left out."""
    return await _settings(visit, (await repo_of(visit)).id)


async def change_repo(visit: Visit, body: RepoChange) -> RepoSettings:
    """Change when a repo is looked at or which refs are left out, or pause it."""
    found, db = await repo_of(visit), visit.edges.db
    if body.schedule:
        schedule.parse(body.schedule)
    if body.excluded:
        excluded.patterns(body.excluded)  # before anything is changed
    if body.schedule is not UNSET:
        wanted = " ".join((body.schedule or "").split()) or None
        rhythm = await schedules.of(db, found.id)
        due = schedule.next_look(wanted, found.id, visit.now, visit.now, rhythm.changed_at)
        await schedules.set_schedule(db, found.id, wanted, due)
        await visit.audit("repo.schedule", found.name, found.id, {"schedule": wanted or "by activity"})
    if body.excluded is not UNSET:
        patterns = excluded.patterns(body.excluded)
        await repos.set_excluded(db, found.id, patterns)
        await repos.want(db, found.id, visit.now)
        await visit.hint(SYNC, str(found.id))
        await visit.audit("repo.exclude", found.name, found.id, {"patterns": list(patterns)})
    if body.paused is True:
        await choose.pause(visit.edges, found.id, by(visit))
    elif body.paused is False:
        await choose.resume(visit.edges, found.id, by(visit), hint=hint(visit))
    return await _settings(visit, found.id)


async def let_go(visit: Visit) -> Told:
    """Keep a repo no longer up to date. Every backup stays."""
    left = await choose.let_go(visit.edges, (await repo_of(visit)).id, by(visit))
    return Told(notes=[left] if left else [])


async def repo_hook(visit: Visit) -> Hook:
    """A repo's webhook, and how it is doing."""
    found = await repo_of(visit)
    known = await hooks.of(visit.edges.db, found.id)
    if known is None:
        raise NotFound(f"{found.name} has no hook")
    return await _hook(visit, found, hooking.address(visit.edges.settings, known), None)


async def give_hook(visit: Visit, body: HookWanted) -> Hook:
    """Give a repo a webhook. Its secret is told this once."""
    found = await repo_of(visit)
    return await _given(visit, found, await hooking.give(visit.edges, found, body.forge), "hook.add")


async def rotate_hook(visit: Visit) -> Hook:
    """Give a repo's webhook another secret, told this once; the one before is taken for 24 hours more."""
    found = await repo_of(visit)
    if await hooks.of(visit.edges.db, found.id) is None:
        raise NotFound(f"{found.name} has no hook")
    made = await hooking.give(visit.edges, found, None, new=True)
    return await _given(visit, found, made, "hook.secret")


async def check_hook(visit: Visit) -> Hook:
    """Ask the forge about a repo's webhook now; one that is gone there is registered anew."""
    found = await repo_of(visit)
    care = await hookcare.check_now(visit.edges, found.id)
    await visit.audit("hook.check", found.name, found.id, {"outcome": care.outcome.value})
    return await repo_hook(visit)


async def remove_hook(visit: Visit) -> None:
    """Forget a repo's webhook and what arrived by it."""
    found = await repo_of(visit)
    await hooking.remove(visit.edges, found)
    await visit.audit("hook.remove", found.name, found.id)


async def repo_of(visit: Visit) -> Known:
    """The path's repo, of this team. Raises NotFound."""
    chosen = RepoId(uuid_of(visit, "repo", "repo"))
    found = await repos.find_in(visit.edges.db, visit.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such repo")
    return found


def by(visit: Visit) -> By:
    """Who does it, as the audit log says."""
    return By(visit.owner().id, visit.actor, visit.address)


def hint(visit: Visit) -> Callable[[RepoId], Awaitable[None]]:
    """Tells the workers of a wish."""

    async def tell(repo_id: RepoId) -> None:
        await visit.hint(SYNC, str(repo_id))

    return tell


async def _row(visit: Visit, repo_id: RepoId) -> Repo:
    rows, _ = await home.page(visit.edges.db, visit.of_team().id, only=[repo_id], limit=1)
    if not rows:
        raise NotFound("there is no such repo")
    return Repo.of(rows[0])


async def _settings(visit: Visit, repo_id: RepoId) -> RepoSettings:
    rhythm = await schedules.of(visit.edges.db, repo_id)
    origin = await origins.get(visit.edges.db, repo_id)
    return RepoSettings(
        schedule=rhythm.schedule,
        look_at=rhythm.look_at,
        paused_at=origin.paused_at,
        excluded=list(await repos.excluded(visit.edges.db, repo_id)),
    )


async def _given(visit: Visit, found: Known, made: Given, action: str) -> Hook:
    await visit.audit(action, found.name, found.id)
    return await _hook(visit, found, made.url, made.secret)


async def _hook(visit: Visit, found: Known, url: str, secret: str | None) -> Hook:
    state = await home.hook_of(visit.edges.db, found.id)
    if state is None:
        raise NotFound(f"{found.name} has no hook any more")
    return Hook(
        forge=state.forge,
        url=url,
        state=state.state,
        why=state.why,
        delivered_at=state.delivered_at,
        secret=secret,
    )


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
