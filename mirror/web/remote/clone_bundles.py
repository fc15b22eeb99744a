"""The bundles that clones are offered at our own address, and the list of them.

git sends no credentials when it fetches a bundle. So the link is signed, works for an hour, and only as
long as the person whom it was given to may read the repo, by the same token.
"""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from starlette.responses import Response

from mirror.core import signed
from mirror.core.errors import EverrefError, NotFound
from mirror.core.formats import upload_pack as protocol
from mirror.core.model import Repo, RepoId, Snapshot
from mirror.core.rules import failover
from mirror.core.rules.roles import PersonId
from mirror.git.reader.slots import Requester
from mirror.jobs import run
from mirror.people.acting import HOUR
from mirror.restore import bundles
from mirror.restore.bundles import Offer, Prepared
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import history, snapshots
from mirror.store.people import attempts, teams, tokens
from mirror.store.people.teams import TeamId
from mirror.store.people.tokens import TokenId
from mirror.store.restore import served
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.repos.download import Stream, asked_part

_PURPOSE: Final = "clone bundle"
_GONE: Final = "this bundle is not there, or not any more; git goes on without it"


@dataclass(frozen=True, slots=True)
class Listed:
    """A bundle that a client is told of."""

    name: str
    url: str
    token: int  # bundles with higher ones are newer


async def listed(context: RequestContext, repo: Repo, snapshot: Snapshot) -> Sequence[Listed]:
    """The bundles with which a clone of all refs of this moment can begin; none for who is not signed in."""
    services = context.services
    if context.person is None:
        return ()
    found = await _found(services, repo, snapshot)
    if found is None:
        await _prepare(context, repo, snapshot)
        return ()
    link = await bundles.link(services, found)
    if link is not None:
        await served.count(services.db, "bundle-link", found.bytes)
    return [Listed(found.name, link or _own_link(context, found, snapshot), found.token)]


async def _found(services: Services, repo: Repo, snapshot: Snapshot) -> Offer | Prepared | None:
    return await bundles.offer(services, repo, snapshot) or await bundles.prepared(services, repo, snapshot)


async def _prepare(context: RequestContext, repo: Repo, snapshot: Snapshot) -> None:
    """Have a bundle made where clones ask for one again within an hour; at most once an hour."""
    db, now = context.services.db, context.now
    asked = bundles.wanted(snapshot, await history.refs_at(db, repo.id, snapshot.number))
    latest = await snapshots.latest(db, repo.id)
    if asked is None or latest is None or latest.number != snapshot.number:
        return
    if await attempts.take(db, f"bundle asked for {repo.id}", 1, HOUR, now):
        return
    if await attempts.take(db, f"bundle for clones {repo.id}", 1, HOUR, now):
        await run.ask(context.services, repo.id, "bundle", asked)
        await context.hint(repo.id)


def in_protocol(found: Sequence[Listed]) -> bytes:
    """The answer to `command=bundle-uri`; without any bundle it is empty."""
    return protocol.told_bundles([(one.name, one.url, one.token) for one in found])


def as_list(found: Sequence[Listed]) -> str:
    """The list as a file in the syntax of git's configuration, which `git clone --bundle-uri` takes."""
    lines = ["[bundle]", "\tversion = 1", "\tmode = all", "\theuristic = creationToken"]
    for one in found:
        lines += [f'[bundle "{one.name}"]', f"\turi = {one.url}", f"\tcreationToken = {one.token}"]
    return "\n".join(lines) + "\n"


def _own_link(context: RequestContext, found: Offer | Prepared, snapshot: Snapshot) -> str:
    """An address of ours that serves these bytes, and nothing else, to whoever has it."""
    assert context.team is not None
    value = {
        "repo": str(found.repo.id),
        "snapshot": snapshot.number,
        "name": found.name,
        "team": str(context.team.id),
        "person": str(context.owner().id),
        "token": None if context.token is None else str(context.token.id),
    }
    raw = signed.sign(context.outside.keyring, _PURPOSE, value, context.now)
    where = failover.clone_url(context.outside.origin, context.team.name, found.repo.name)
    return f"{where}/bundles/{raw}"


async def serve(context: RequestContext) -> Response:
    """A bundle, whole or from where a download broke off. 404 also where its person may read it no more."""
    found = await _offered(context)
    headers = {"cache-control": "private, no-cache", "content-type": "application/x-git-bundle"}
    part = asked_part(context.request, found.bytes, found.tag, headers)
    if part.answer is not None:
        return part.answer
    return Stream(_streamed(context, found, part.start, part.end), part.status, part.headers)


async def _streamed(
    context: RequestContext, found: Offer | Prepared, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    """The bytes, once there is a slot: who would wait too long for one goes on without the bundle."""
    services, link, sent = context.outside.services, _read_link(context), 0
    async with context.outside.bundles.slot(Requester(link.team, link.person)):
        try:
            async with aclosing(bundles.read(services, found, start, end)) as chunks:
                async for chunk in chunks:
                    sent += len(chunk)
                    yield chunk
        finally:
            # Whoever has the last byte may hang up at once, which ends this here.
            counting = served.count(services.db, "bundle", sent)
            context.outside.background.begin(f"counting the bundle {secrets.token_hex(8)}", counting)


async def _offered(context: RequestContext) -> Offer | Prepared:
    """What the link stands for. Raises NotFound, whatever is wrong with it."""
    link, services = _read_link(context), context.outside.services
    role = await teams.role_of(services.db, link.team, link.person)
    if role is None or not await _is_good(context, link):
        raise NotFound(_GONE)
    repo = await repos.find_in(services.db, link.team, link.repo)
    snapshot = await snapshots.get(services.db, repo.id, link.snapshot) if repo else None
    try:
        found = await _found(services, repo, snapshot) if repo and snapshot else None
    except EverrefError as error:  # dropped, or erased meanwhile
        raise NotFound(_GONE) from error
    if found is None or found.name != link.name:  # another one has been made since
        raise NotFound(_GONE)
    return found


async def _is_good(context: RequestContext, link: "_Link") -> bool:
    """Whether the token with which the list was asked for may still read; no token: the person did."""
    if link.token is None:
        return True
    found = await tokens.find(context.outside.services.db, link.team, link.token)
    if found is None or (found.expires_at is not None and found.expires_at <= context.now):
        return False
    return "read" in found.scopes


@dataclass(frozen=True, slots=True)
class _Link:
    """What a link of ours is for, and to whom it was given."""

    repo: RepoId
    snapshot: int
    name: str
    team: TeamId
    person: PersonId
    token: TokenId | None  # None: they gave their password


def _read_link(context: RequestContext) -> _Link:
    raw = str(context.path["raw"])
    value = signed.read(context.outside.keyring, _PURPOSE, raw, bundles.LINK_LASTS, context.now)
    if not isinstance(value, dict):
        raise NotFound(_GONE)
    return _Link(
        RepoId(UUID(value["repo"])),
        value["snapshot"],
        value["name"],
        TeamId(UUID(value["team"])),
        PersonId(UUID(value["person"])),
        TokenId(UUID(value["token"])) if value["token"] else None,
    )


ENDPOINTS: Final = (Endpoint("GET", "/git/{team}/{repo:repo}/bundles/{raw}", serve, Needs.NOTHING),)
