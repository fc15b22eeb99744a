"""Mirrors: those of a repo with what the last pushes came to, those of a team, and forms for both."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final
from urllib.parse import quote
from uuid import UUID

from starlette.responses import Response

from mirror.core.errors import EverrefError, NotFound
from mirror.core.model import Repo, Secret
from mirror.core.rules.roles import Role
from mirror.git import address
from mirror.restore import mirroring
from mirror.restore import mirrors as flow
from mirror.restore.mirrors import Wanted
from mirror.services import ssh_access
from mirror.store.restore import mirrors as rows
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext

_TEAM: Final = "/{team}/-/mirrors"
_REPO: Final = "/{team}/{repo:repo}/-/mirrors"
_PUSHES: Final = 10  # of each mirror
_TROUBLED: Final = 50  # repositories of a team
TONES: Final[Mapping[str, str]] = {
    "behind": "late",
    "changed": "late",
    "refused": "late",
    "failing": "late",
    "stopped": "late",
    "paused": "quiet",
    "waiting": "quiet",
}  # the colour of each state's chip; none where all is well
_TYPED: Final = ("address", "username", "make", "public", "deletes", "overwrites")


_Act = Callable[[rows.Mirror], Awaitable[object]]


async def of_repo(context: RequestContext) -> Response:
    """The mirrors of this repo: how far each is, what it has not, and its last pushes."""
    return await _repo_page(context, await context.repo())


async def _repo_page(
    context: RequestContext,
    repo: Repo,
    error: EverrefError | None = None,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    db, team = context.services.db, context.of_team()
    found = await rows.of_repo(db, repo.id)
    ssh = any(address.is_ssh(one.url) for one in found)
    return context.render(
        "mirrors.html",
        200 if error is None else 422,
        repo=repo,
        targets=found,
        left_out=[one.mirror for one in await _team_mirrors(context) if repo.id in one.mirror.left_out],
        pushes=await rows.pushes_of(db, repo.id, _PUSHES),
        deploy_key=await ssh_access.known_key(context.services, team.id) if ssh else None,
        **_shared(context, repo, error, typed),
    )


async def _team_mirrors(context: RequestContext) -> Sequence[rows.Standing]:
    found = await rows.of_team(context.services.db, context.of_team().id, context.now)
    return [one for one in found if one.mirror.repo_id is None]


async def of_team(context: RequestContext) -> Response:
    """The mirrors of the team, and the repositories that one of them has not as it should."""
    return await _team_page(context)


async def _team_page(
    context: RequestContext,
    error: EverrefError | None = None,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    db, team = context.services.db, context.of_team()
    return context.render(
        "team_mirrors.html",
        200 if error is None else 422,
        repo=None,
        mirrors=await rows.of_team(db, team.id, context.now),
        troubled=await rows.troubled(db, team.id, _TROUBLED),
        deploy_key=await ssh_access.known_key(context.services, team.id),
        **_shared(context, None, error, typed),
    )


def _shared(
    context: RequestContext, repo: Repo | None, error: EverrefError | None, typed: Mapping[str, str]
) -> dict[str, object]:
    return {
        "error": error,
        "wrong": templating.wrong(error),
        "typed": typed,
        "base": _base(context, repo),
        "manages": context.may(Role.ADMIN),
        "said": flow.said,
        "states": flow.STATES,
        "tones": TONES,
        "where": mirroring.where,
    }


async def add(context: RequestContext) -> Response:
    """Add a mirror of this repo, or of every repo of the team."""
    repo = await context.repo() if "repo" in context.path else None
    form = await context.form()
    typed = {name: str(form.get(name, "")).strip() for name in _TYPED}
    token = str(form.get("token", "")).strip()
    wanted = Wanted(
        typed["address"],
        Secret(typed["username"], token) if token else None,
        None,
        bool(typed["make"]),
        not typed["public"],
        bool(typed["deletes"]),
        bool(typed["overwrites"]),
    )
    try:
        async with context.planning():
            made = await flow.add(context.services, context.by(), context.of_team(), repo, wanted)
    except EverrefError as error:
        shown = typed | {"address": "" if "@" in typed["address"].partition("://")[2] else typed["address"]}
        if repo is None:
            return await _team_page(context, error, shown)
        return await _repo_page(context, repo, error, shown)
    told = f"{mirroring.where(made.address)} is added. The first push starts within seconds."
    return context.redirect(_base(context, repo), told)


async def change(context: RequestContext) -> Response:
    """Set what a mirror may do."""
    form = await context.form()
    return await _done(
        context,
        lambda one: flow.change(
            context.services,
            context.by(),
            context.of_team(),
            one,
            deletes=bool(form.get("deletes")),
            overwrites=bool(form.get("overwrites")),
        ),
        "It is changed. Everything there is compared again now.",
    )


async def pause(context: RequestContext) -> Response:
    """Pause a mirror, or resume it."""
    paused = bool((await context.form()).get("paused"))
    return await _done(
        context,
        lambda one: flow.change(context.services, context.by(), context.of_team(), one, paused=paused),
        "It is paused." if paused else "It is resumed. What it lacks is pushed now.",
    )


async def secret(context: RequestContext) -> Response:
    """Give a mirror another token."""
    form = await context.form()
    token, username = (str(form.get(name, "")).strip() for name in ("token", "username"))
    return await _done(
        context,
        lambda one: flow.put_secret(
            context.services, context.by(), context.of_team(), one, Secret(username, token)
        ),
        "The token is stored. It is tried now.",
    )


async def push(context: RequestContext) -> Response:
    """Push at once: this repo, or all of the mirror."""
    repo = await context.repo() if "repo" in context.path else None
    return await _done(
        context,
        lambda one: flow.push_now(
            context.services, context.by(), context.of_team(), one, repo.id if repo else None
        ),
        "It is pushed now. Reload this page in a moment.",
    )


async def remove(context: RequestContext) -> Response:
    """Push nothing there any more."""
    return await _done(
        context,
        lambda one: flow.remove(context.services, context.by(), context.of_team(), one),
        "The mirror is removed. What is there stays there.",
    )


async def leave(context: RequestContext) -> Response:
    """Leave this repo out of a mirror of the whole team, or take it in again."""
    repo, takes = await context.repo(), bool((await context.form()).get("take"))
    act = flow.take_in if takes else flow.leave_out
    told = "It is pushed there again." if takes else "It is pushed there no more. What is there stays there."
    team = context.of_team()
    return await _done(context, lambda one: act(context.services, context.by(), team, one, repo), told)


async def _done(context: RequestContext, act: _Act, told: str) -> Response:
    """Do this to the mirror that the form names, and go back."""
    form = await context.form()
    repo = await context.repo() if "repo" in context.path else None
    try:
        chosen = UUID(str(form.get("mirror", "")))
    except ValueError:
        raise NotFound("there is no such mirror") from None
    mirror = await flow.mine(context.services, context.of_team(), chosen)
    await act(mirror)
    return context.redirect(_base(context, repo), told)


def _base(context: RequestContext, repo: Repo | None) -> str:
    """The address of the page."""
    name = f"/{quote(repo.name)}" if repo else ""
    return f"/{context.of_team().name}{name}/-/mirrors"


ENDPOINTS: Final[Sequence[Endpoint]] = tuple(
    endpoint
    for base, page in ((_TEAM, of_team), (_REPO, of_repo))
    for endpoint in (
        Endpoint("GET", base, page, Needs.VIEWER),
        Endpoint("POST", base, add, Needs.ADMIN, sure=True),
        Endpoint("POST", f"{base}/change", change, Needs.ADMIN),
        Endpoint("POST", f"{base}/pause", pause, Needs.ADMIN),
        Endpoint("POST", f"{base}/token", secret, Needs.ADMIN, sure=True),
        Endpoint("POST", f"{base}/push", push, Needs.ADMIN),
        Endpoint("POST", f"{base}/remove", remove, Needs.ADMIN),
        *([Endpoint("POST", f"{base}/leave", leave, Needs.ADMIN)] if base is _REPO else []),
    )
)
