"""Mirrors of a repo, and of every repo of a team."""

from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

from mirror.core.errors import UsageError
from mirror.core.model import Repo, Secret
from mirror.restore import mirrors as flow
from mirror.restore.mirrors import Wanted
from mirror.shapes.base import Page
from mirror.shapes.mirrors import Mirror, RepoMirror, TeamMirror
from mirror.store.discovery.connections import ConnectionId
from mirror.store.restore import mirrors as rows
from mirror.web.api.call import Body, Call, call, uuid_of
from mirror.web.api.repos import REPO, repo_of
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

MIRRORS: Final = f"{TEAM}/mirrors"
MIRROR: Final = f"{MIRRORS}/{{mirror}}"
OF_REPO: Final = f"{REPO}/mirrors"
PUSHES: Final = 20  # of each mirror, in a list

Token = Annotated[str, Meta(max_length=10_000)]


class MirrorWanted(Body, frozen=True, kw_only=True):
    """Where to push every snapshot from now on."""

    address: Annotated[
        str, Meta(min_length=1, max_length=2000, description="https:// or ssh://; a team's has {name}")
    ]
    username: Annotated[str, Meta(max_length=200)] = ""
    token: Token | None = None
    connection: Annotated[str, Meta(max_length=40, description="null: the team's to that host")] | None = None
    make: Annotated[bool, Meta(description="have the host make what is missing")] = False
    private: bool = True
    deletes: bool = False
    overwrites: bool = False


class MirrorChange(Body, frozen=True, kw_only=True):
    """What is to be otherwise; what is left out stays."""

    deletes: bool | None = None
    overwrites: bool | None = None
    paused: bool | None = None


class MirrorCredentials(Body, frozen=True, kw_only=True):
    """What a mirror is pushed with from now on; for ssh a private key as the token."""

    username: Annotated[str, Meta(max_length=200)] = ""
    token: Token


async def list_team_mirrors(context: RequestContext) -> Page[TeamMirror]:
    """Every mirror of the team with how it is doing, those of all its repos first."""
    found = await rows.of_team(context.services.db, context.of_team().id, context.now)
    return Page(items=[TeamMirror.standing(one) for one in found], next=None)


async def list_mirrors(context: RequestContext) -> Page[RepoMirror]:
    """Every mirror of a repo, with its last pushes."""
    repo, db = await repo_of(context), context.services.db
    pushes = await rows.pushes_of(db, repo.id, PUSHES)
    found = await rows.of_repo(db, repo.id)
    return Page(items=[RepoMirror.of(one, pushes.get(one.id, ()), context.now) for one in found], next=None)


async def add_mirror(context: RequestContext, body: MirrorWanted) -> Mirror:
    """Push every snapshot of a repo to another address from now on."""
    return await _add(context, await repo_of(context), body)


async def add_team_mirror(context: RequestContext, body: MirrorWanted) -> Mirror:
    """Push every snapshot of every repo of the team to an address with {name} from now on."""
    return await _add(context, None, body)


async def _add(context: RequestContext, repo: Repo | None, body: MirrorWanted) -> Mirror:
    async with context.planning():
        made = await flow.add(
            context.services,
            context.by(),
            context.of_team(),
            repo,
            Wanted(
                body.address,
                Secret(body.username, body.token) if body.token else None,
                _connection(body.connection),
                body.make,
                body.private,
                body.deletes,
                body.overwrites,
            ),
        )
    return Mirror.of(made, repo.name if repo else None)


def _connection(given: str | None) -> ConnectionId | None:
    try:
        return None if given is None else ConnectionId(UUID(given))
    except ValueError:
        raise UsageError("the connection is not an id as /connections has it") from None


async def change_mirror(context: RequestContext, body: MirrorChange) -> Mirror:
    """Change what a mirror may do, pause or resume it."""
    team, mirror = context.of_team(), await _mirror(context)
    options = {"deletes": body.deletes, "overwrites": body.overwrites, "paused": body.paused}
    return await _shown(context, await flow.change(context.services, context.by(), team, mirror, **options))


async def set_mirror_credentials(context: RequestContext, body: MirrorCredentials) -> None:
    """Give a mirror other credentials, and try all of it with them."""
    secret = Secret(body.username, body.token)
    team, mirror = context.of_team(), await _mirror(context)
    await flow.put_secret(context.services, context.by(), team, mirror, secret)


async def push_mirror(context: RequestContext) -> Mirror:
    """Push to a mirror at once, whatever failed before; how it went shows in the list."""
    mirror = await _mirror(context)
    await flow.push_now(context.services, context.by(), context.of_team(), mirror)
    return await _shown(context, mirror)


async def remove_mirror(context: RequestContext) -> None:
    """Push nothing there any more; what is there stays."""
    await flow.remove(context.services, context.by(), context.of_team(), await _mirror(context))


async def leave_out_repo(context: RequestContext) -> None:
    """Push this repo no more to a mirror of the whole team."""
    repo, mirror = await repo_of(context), await _mirror(context)
    await flow.leave_out(context.services, context.by(), context.of_team(), mirror, repo)


async def take_in_repo(context: RequestContext) -> None:
    """Push this repo again to a mirror of the whole team."""
    repo, mirror = await repo_of(context), await _mirror(context)
    await flow.take_in(context.services, context.by(), context.of_team(), mirror, repo)


async def _mirror(context: RequestContext) -> rows.Mirror:
    return await flow.mine(context.services, context.of_team(), uuid_of(context, "mirror", "mirror"))


async def _shown(context: RequestContext, mirror: rows.Mirror) -> Mirror:
    repo = await flow.repo_of(context.services, context.of_team(), mirror)
    return Mirror.of(mirror, repo.name if repo else None)


CALLS: Final[Sequence[Call]] = (
    call("GET", MIRRORS, list_team_mirrors, Needs.VIEWER),
    call("POST", MIRRORS, add_team_mirror, Needs.ADMIN, "admin", status=201, sure=True),
    call("PATCH", MIRROR, change_mirror, Needs.ADMIN, "admin"),
    call("PUT", f"{MIRROR}/credentials", set_mirror_credentials, Needs.ADMIN, "admin", sure=True),
    call("POST", f"{MIRROR}/push", push_mirror, Needs.ADMIN, "admin", status=202),
    call("DELETE", MIRROR, remove_mirror, Needs.ADMIN, "admin"),
    call("GET", OF_REPO, list_mirrors, Needs.VIEWER),
    call("POST", OF_REPO, add_mirror, Needs.ADMIN, "admin", status=201, sure=True),
    call("DELETE", f"{OF_REPO}/{{mirror}}", leave_out_repo, Needs.ADMIN, "admin"),
    call("PUT", f"{OF_REPO}/{{mirror}}", take_in_repo, Needs.ADMIN, "admin"),
)
