"""How one repo is kept: how often it is looked at, which refs are left out, its webhook, letting it go."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, cast, get_args
from urllib.parse import quote

from starlette.responses import Response

from mirror import schedule, words
from mirror.errors import EverrefError, NotFound, Refused, UsageError
from mirror.flows import choose, excluded, hook, hookcare, sshaccess
from mirror.flows.choose import By
from mirror.flows.hook import Given
from mirror.flows.hookcare import Outcome
from mirror.git import address
from mirror.job import SYNC
from mirror.model import Repo, RepoId
from mirror.people import Role
from mirror.store import connections, credentials, hooks, origins, repos, schedules
from mirror.store.hooks import Forge
from mirror.web.frame import Needs, Visit, Way


async def page(visit: Visit) -> Response:
    """Everything about how this repo is kept."""
    return await _page(visit, await visit.repo())


async def _page(
    visit: Visit, repo: Repo, error: EverrefError | None = None, given: Given | None = None
) -> Response:
    db = visit.edges.db
    known = await hooks.of(db, repo.id)
    kept = await connections.of_repo(db, repo.id)
    by_ssh = address.is_ssh(repo.url)
    return visit.render(
        "keeping.html",
        200 if error is None else 422,
        error=error,
        given=given,
        repo=repo,
        origin=await origins.get(db, repo.id),
        connection=kept.connection if kept else None,
        failure=(await repos.overview_of(db, repo.id)).failure,
        own=await credentials.has(db, repo.id),
        rhythm=await schedules.of(db, repo.id),
        excluded=await repos.excluded(db, repo.id),
        hook=known,
        hook_url=hook.address(visit.edges.settings, known) if known and visit.may(Role.ADMIN) else None,
        forges=get_args(Forge),
        deploy_key=await sshaccess.known_key(visit.edges, visit.of_team().id) if by_ssh else None,
        host=await sshaccess.pinned(visit.edges, visit.of_team().id, repo.url) if by_ssh else None,
        fingerprint=sshaccess.fingerprint,
    )


async def forget_host(visit: Visit) -> Response:
    """Know an ssh host no more by the keys that it once showed."""
    repo = await visit.repo()
    if not address.is_ssh(repo.url) or not await sshaccess.forget(visit.edges, visit.of_team().id, repo.url):
        return _back(visit, repo, "No host key is pinned for it.")
    await visit.audit("ssh-host.forget", repo.name, repo.id)
    await visit.hint(SYNC, str(repo.id))
    return _back(visit, repo, "The pinned key is forgotten; the next one that the host shows will be pinned.")


async def forget_secret(visit: Visit) -> Response:
    """Use the repo's own token or key no more: its connection's or its team's counts from then on."""
    repo = await visit.repo()
    await credentials.forget(visit.edges.db, repo.id)
    await repos.retry(visit.edges.db, repo.id, visit.now)
    await repos.want(visit.edges.db, repo.id, visit.now)
    await visit.hint(SYNC, str(repo.id))
    await visit.audit("repo.forget-secret", repo.name, repo.id)
    return _back(visit, repo, "Its own token or key is forgotten; it is tried without now.")


async def set_schedule(visit: Visit) -> Response:
    """Look at it as often as a person says; empty: by activity."""
    repo = await visit.repo()
    text = " ".join(str((await visit.form()).get("schedule", "")).split())
    try:
        if text:
            schedule.parse(text)
        rhythm = await schedules.of(visit.edges.db, repo.id)
        due = schedule.next_look(text or None, repo.id, visit.now, visit.now, rhythm.changed_at)
    except UsageError as error:
        return await _page(visit, repo, error)
    await schedules.set_schedule(visit.edges.db, repo.id, text or None, due)
    await visit.audit("repo.schedule", repo.name, repo.id, {"schedule": text or "by activity"})
    return _back(visit, repo, "The schedule is saved.")


async def set_excluded(visit: Visit) -> Response:
    """Leave out what matches."""
    repo = await visit.repo()
    try:
        patterns = excluded.patterns(str((await visit.form()).get("patterns", "")).split())
    except UsageError as error:
        return await _page(visit, repo, error)
    await repos.set_excluded(visit.edges.db, repo.id, patterns)
    await repos.want(visit.edges.db, repo.id, visit.now)
    await visit.hint(SYNC, str(repo.id))
    await visit.audit("repo.exclude", repo.name, repo.id, {"patterns": list(patterns)})
    return _back(visit, repo, "Saved. What was kept of these refs stays.")


async def pause(visit: Visit) -> Response:
    """Look at it no more for now."""
    repo = await visit.repo()
    await choose.pause(visit.edges, repo.id, _by(visit))
    return _back(visit, repo, "It is paused: nothing new is saved until it goes on.")


async def resume(visit: Visit) -> Response:
    """Look at it again, now."""
    repo = await visit.repo()
    await choose.resume(visit.edges, repo.id, _by(visit), hint=_hint(visit))
    return _back(visit, repo, "It is looked at now.")


async def let_go(visit: Visit) -> Response:
    """Keep it no longer up to date; the backups stay."""
    repo = await visit.repo()
    left = await choose.let_go(visit.edges, repo.id, _by(visit))
    return _back(visit, repo, f"It is kept as it is from now on. {left + '.' if left else ''}".strip())


async def give_hook(visit: Visit) -> Response:
    """A webhook to paste into a forge's settings, or another secret for it; told once."""
    repo, form = await visit.repo(), await visit.form()
    forge = str(form.get("forge", ""))
    try:
        given = await hook.give(
            visit.edges,
            repo,
            cast(Forge, forge) if forge in get_args(Forge) else None,
            new=bool(form.get("new")),
        )
    except UsageError as error:
        return await _page(visit, repo, error)
    await visit.audit("hook.secret" if form.get("new") else "hook.add", repo.name, repo.id)
    return await _page(visit, repo, given=given)


async def check_hook(visit: Visit) -> Response:
    """Ask the forge about the webhook now."""
    repo = await visit.repo()
    try:
        care = await hookcare.check_now(visit.edges, repo.id)
    except (NotFound, Refused) as error:
        return _back(visit, repo, words.sentence(str(error)))
    await visit.audit("hook.check", repo.name, repo.id, {"outcome": care.outcome.value})
    return _back(visit, repo, _CHECKED[care.outcome] + (f" {words.sentence(care.why)}" if care.why else ""))


async def remove_hook(visit: Visit) -> Response:
    """Forget the webhook; its address answers 404 from then on."""
    repo = await visit.repo()
    await hook.remove(visit.edges, repo)
    await visit.audit("hook.remove", repo.name, repo.id)
    return _back(visit, repo, "The webhook is forgotten. Remove it at the forge too.")


def _back(visit: Visit, repo: Repo, said: str) -> Response:
    return visit.redirect(f"/{visit.of_team().name}/{quote(repo.name)}/-/settings", said)


def _by(visit: Visit) -> By:
    return By(visit.owner().id, visit.actor, visit.address)


def _hint(visit: Visit) -> Callable[[RepoId], Awaitable[None]]:
    async def hint(repo_id: RepoId) -> None:
        await visit.hint(SYNC, str(repo_id))

    return hint


_CHECKED: Final[Mapping[Outcome, str]] = {
    Outcome.REGISTERED: "The webhook was not at the host any more; it has been registered anew.",
    Outcome.REUSED: "The webhook is at the host.",
    Outcome.REFUSED: "The host does not allow it.",
    Outcome.WAITING: "The host could not be asked; Everref asks again within minutes.",
}

_REPO: Final = "/{team}/{repo:repo}/-/settings"

WAYS: Final[Sequence[Way]] = (
    Way("GET", _REPO, page, Needs.VIEWER),
    Way("POST", f"{_REPO}/forget-secret", forget_secret, Needs.ADMIN, sure=True),
    Way("POST", f"{_REPO}/forget-host", forget_host, Needs.ADMIN, sure=True),
    Way("POST", f"{_REPO}/schedule", set_schedule, Needs.ADMIN),
    Way("POST", f"{_REPO}/excluded", set_excluded, Needs.ADMIN),
    Way("POST", f"{_REPO}/pause", pause, Needs.ADMIN),
    Way("POST", f"{_REPO}/resume", resume, Needs.ADMIN),
    Way("POST", f"{_REPO}/let-go", let_go, Needs.ADMIN, sure=True),
    Way("POST", f"{_REPO}/hook", give_hook, Needs.ADMIN),
    Way("POST", f"{_REPO}/hook/check", check_hook, Needs.ADMIN),
    Way("POST", f"{_REPO}/hook/remove", remove_hook, Needs.ADMIN),
)
