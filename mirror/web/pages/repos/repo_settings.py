"""The settings of one repo: how often it is checked, excluded refs, its webhook, and stopping backups."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast, get_args
from urllib.parse import quote

from starlette.responses import Response

from mirror.backup import default_branch, excluded
from mirror.core import words
from mirror.core.errors import EverrefError, NotFound, Refused, UsageError
from mirror.core.model import Repo, Secret, has_remote
from mirror.core.rules.health import objective
from mirror.core.rules.roles import Role
from mirror.core.rules.work import schedule
from mirror.discovery import choose, create, source, webhook, webhooks
from mirror.discovery.webhooks import Outcome
from mirror.git import address
from mirror.services import ssh_access
from mirror.store import repos
from mirror.store.browse import badges
from mirror.store.discovery import connections, credentials, hooks, remotes
from mirror.store.discovery.hooks import Forge
from mirror.store.jobs import schedules
from mirror.web import once, templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.people.oauth import local


async def page(context: RequestContext) -> Response:
    """The settings page of this repo."""
    return await shown(context, await context.repo())


async def shown(
    context: RequestContext,
    repo: Repo,
    error: EverrefError | None = None,
    **typed: str,  # what was sent; the first is the field that the error is about
) -> Response:
    db = context.services.db
    known = await hooks.of(db, repo.id)
    kept = await connections.of_repo(db, repo.id)
    by_ssh = address.is_ssh(repo.url)
    overview = await repos.overview_of(db, repo.id, now=context.now)
    given = await once.taken(context)
    rhythm = await schedules.of(db, repo.id)
    badge = await badges.of(db, repo.id)
    answer = context.render(
        "keeping.html",
        200 if error is None else 422,
        error=error,
        wrong={name: words.sentence(error) for name in list(typed)[:1]},
        typed=typed,
        given=given,
        repo=repo,
        push_to=create.address_at(context.outside.origin, context.of_team().name, repo),
        origin=await remotes.get(db, repo.id),
        connection=kept.connection if kept else None,
        overview=overview,
        own=await credentials.has(db, repo.id),
        rhythm=rhythm,
        too_rare=schedule.is_too_rare(rhythm.schedule, rhythm.rpo),
        own_rpo=await schedules.rpo_of(db, repo.id),
        team_rpo=await schedules.team_rpo(db, context.of_team().id),
        objectives=[objective.written(one) for one in objective.CHOICES],
        written=objective.written,
        said_rpo=objective.said,
        excluded=await repos.excluded(db, repo.id),
        default_branch="" if has_remote(repo.url) else await default_branch.of(context.services, repo),
        hook=known,
        hook_url=webhook.address(context.services.settings, known)
        if known and context.may(Role.ADMIN)
        else None,
        forges=get_args(Forge),
        deploy_key=await ssh_access.known_key(context.services, context.of_team().id) if by_ssh else None,
        host=await ssh_access.pinned(context.services, context.of_team().id, repo.url) if by_ssh else None,
        fingerprint=ssh_access.fingerprint,
        badge=badge,
        badge_url=f"{context.outside.origin}/badges/{badge}.svg",
    )
    return once.forget(context, answer) if given else answer


async def forget_host(context: RequestContext) -> Response:
    """Forget the keys by which an ssh host is known."""
    repo = await context.repo()
    if not address.is_ssh(repo.url) or not await ssh_access.forget(
        context.services, context.of_team().id, repo.url
    ):
        return _back(context, repo, "There is no trusted host key to forget.")
    await context.audit("ssh-host.forget", repo.name, repo.id)
    await context.hint(repo.id)
    return _back(
        context, repo, "The host key is forgotten. Everref will trust the next key that the host shows."
    )


async def set_source(context: RequestContext) -> Response:
    """Replace the repo's token, or an address that was never reached, once the host has accepted them."""
    repo, form = await context.repo(), await context.form()
    url, token = str(form.get("url", repo.url)).strip(), str(form.get("token", "")).strip()
    username = str(form.get("username", "")).strip()
    try:
        async with context.planning():
            now = await source.replace(
                context.services, repo, url, Secret(username, token) if token else None, hint=context.hint
            )
    except EverrefError as error:
        about = next(iter(templating.wrong(error)), "url" if url != repo.url else "token")
        sent = {"url": "" if "@" in url else url, "username": username}  # an address may contain a password
        return await shown(context, repo, error, **({about: ""} | sent))
    detail = {"url": now.url} if now.url != repo.url else {}
    await context.audit("repo.source", repo.name, repo.id, detail)
    to = local(str(form.get("next", "")), f"/{context.of_team().name}/{quote(repo.name)}/-/settings")
    return context.redirect(to, "The host accepts it. A backup starts now.")


async def forget_secret(context: RequestContext) -> Response:
    """Forget the repo's own token or key: its connection's or its team's is used from then on."""
    repo = await context.repo()
    await credentials.forget(context.services.db, repo.id)
    await repos.retry(context.services.db, repo.id, context.now)
    await repos.request_sync(context.services.db, repo.id, context.now)
    await context.hint(repo.id)
    await context.audit("repo.forget-secret", repo.name, repo.id)
    return _back(context, repo, "The token or key is forgotten. Everref now tries without it.")


async def set_schedule(context: RequestContext) -> Response:
    """Set how often it is checked; empty: by activity."""
    repo = await context.repo()
    text = " ".join(str((await context.form()).get("schedule", "")).split())
    try:
        if text:
            schedule.parse(text)
        rhythm = await schedules.of(context.services.db, repo.id)
        due = schedule.next_look(replace(rhythm, schedule=text or None), repo.id, context.now, context.now)
    except UsageError as error:
        return await shown(context, repo, error, schedule=text)
    await schedules.set_schedule(context.services.db, repo.id, text or None, due)
    await context.audit("repo.schedule", repo.name, repo.id, {"schedule": text or "by activity"})
    return _back(context, repo, "The schedule is saved.")


async def set_excluded(context: RequestContext) -> Response:
    """Exclude the refs that match."""
    repo = await context.repo()
    text = str((await context.form()).get("patterns", ""))
    try:
        patterns = excluded.patterns(text.split(), repo)
    except UsageError as error:
        return await shown(context, repo, error, patterns=text)
    await repos.set_excluded(context.services.db, repo.id, patterns)
    await repos.request_sync(context.services.db, repo.id, context.now)
    await context.hint(repo.id)
    await context.audit("repo.exclude", repo.name, repo.id, {"patterns": list(patterns)})
    return _back(context, repo, "Saved. What was already saved of these refs stays.")


async def set_default_branch(context: RequestContext) -> Response:
    """Lead HEAD of a repo that is pushed to elsewhere."""
    repo = await context.repo()
    text = str((await context.form()).get("branch", "")).strip()
    try:
        done = await default_branch.set(context.services, repo, text, context.owner().name)
    except EverrefError as error:
        if error.is_shared:
            raise
        return await shown(context, repo, error, branch=text)
    if done:
        await context.audit("repo.default-branch", repo.name, repo.id, {"branch": text})
    return _back(context, repo, "Clones check that branch out from now on.")


async def pause(context: RequestContext) -> Response:
    """Stop checking it for now."""
    repo = await context.repo()
    await choose.pause(context.services, repo.id, context.as_logged())
    return _back(context, repo, "It is paused: nothing new is saved until you resume it.")


async def resume(context: RequestContext) -> Response:
    """Check it again, now."""
    repo = await context.repo()
    await choose.resume(context.services, repo.id, context.as_logged(), hint=context.hint)
    return _back(context, repo, "Backups are on again; Everref checks it now.")


async def let_go(context: RequestContext) -> Response:
    """Stop backing it up; the backups stay."""
    repo = await context.repo()
    left = await choose.let_go(context.services, repo.id, context.as_logged())
    said = "It is no longer backed up. Every snapshot stays."
    return _back(context, repo, f"{said} {left}." if left else said)


async def give_hook(context: RequestContext) -> Response:
    """Make a webhook to paste into a forge's settings, or a new secret for it; shown only once."""
    repo, form = await context.repo(), await context.form()
    forge = str(form.get("forge", ""))
    try:
        given = await webhook.give(
            context.services,
            repo,
            cast(Forge, forge) if forge in get_args(Forge) else None,
            new=bool(form.get("new")),
        )
    except UsageError as error:
        return await shown(context, repo, error)
    await context.audit("hook.secret" if form.get("new") else "hook.add", repo.name, repo.id)
    handed = {"url": given.url} | ({"secret": given.secret} if given.secret else {})
    return once.hand_over(context, address_of(context, repo), handed)


async def check_hook(context: RequestContext) -> Response:
    """Ask the forge about the webhook now."""
    repo = await context.repo()
    try:
        care = await webhooks.check_now(context.services, repo.id)
    except (NotFound, Refused) as error:
        return _back(context, repo, words.sentence(str(error)))
    await context.audit("hook.check", repo.name, repo.id, {"outcome": care.outcome.value})
    return _back(context, repo, _CHECKED[care.outcome] + (f" {words.sentence(care.why)}" if care.why else ""))


async def remove_hook(context: RequestContext) -> Response:
    """Forget the webhook; its address responds with 404 from then on."""
    repo = await context.repo()
    await webhook.remove(context.services, repo)
    await context.audit("hook.remove", repo.name, repo.id)
    return _back(context, repo, "The webhook is forgotten. Remove it at the forge too.")


def _back(context: RequestContext, repo: Repo, said: str) -> Response:
    return context.redirect(address_of(context, repo), said)


def address_of(context: RequestContext, repo: Repo) -> str:
    """The address of this page."""
    return f"/{context.of_team().name}/{quote(repo.name)}/-/settings"


_CHECKED: Final[Mapping[Outcome, str]] = {
    Outcome.REGISTERED: "The webhook was missing at the host; Everref registered it again.",
    Outcome.REUSED: "The webhook is registered at the host.",
    Outcome.REFUSED: "The host does not allow the webhook.",
    Outcome.WAITING: "The host did not answer; Everref asks again within minutes.",
}

_REPO: Final = "/{team}/{repo:repo}/-/settings"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", _REPO, page, Needs.VIEWER),
    Endpoint("POST", f"{_REPO}/source", set_source, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/forget-secret", forget_secret, Needs.ADMIN, sure=True),
    Endpoint("POST", f"{_REPO}/forget-host", forget_host, Needs.ADMIN, sure=True),
    Endpoint("POST", f"{_REPO}/schedule", set_schedule, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/excluded", set_excluded, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/default-branch", set_default_branch, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/pause", pause, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/resume", resume, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/let-go", let_go, Needs.ADMIN, sure=True),
    Endpoint("POST", f"{_REPO}/hook", give_hook, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/hook/check", check_hook, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/hook/remove", remove_hook, Needs.ADMIN),
)
