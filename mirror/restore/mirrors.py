"""Making, changing and removing mirrors, and finding the repos that they are to have.

Who calls: the pages, the API and the command line; jobs/mirrors for `spread`. A mirror is an admin's: what is
pushed leaves Everref, readable by whoever may read it there.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg

from mirror.core import words
from mirror.core.errors import NotFound, OurFault, Refused, UsageError
from mirror.core.model import Repo, RepoId, Secret
from mirror.core.rules import mirrors as rules
from mirror.core.rules.mirrors import State
from mirror.core.rules.roles import Role
from mirror.discovery import add as adding
from mirror.discovery import connections
from mirror.forges.contract import Owner, Purpose
from mirror.git import address
from mirror.people import operator
from mirror.people.acting import By
from mirror.restore import mirroring
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.discovery import connections as store
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.store.people.teams import Team
from mirror.store.restore import mirrors as rows
from mirror.store.restore.mirrors import Makes, Mirror, MirrorId, MirrorTarget, Sealing

MOST: Final = 50  # mirrors of one team
_AT_ONCE: Final = 500  # targets that one look makes
_SAMPLE: Final = "repository"  # in place of a name, to judge a pattern


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mirror as somebody asks for it."""

    address: str  # may have credentials, as git's addresses may
    secret: Secret | None = field(
        default=None, repr=False
    )  # of its own; None: a connection's, or the team's ssh key
    connection_id: ConnectionId | None = None  # None: the one to that host, if there is one and nothing else
    make: bool = False  # have the host make what is missing
    private: bool = True  # what is made
    deletes: bool = False
    overwrites: bool = False


async def add(services: Services, by: By | None, team: Team, repo: Repo | None, wanted: Wanted) -> Mirror:
    """Have a repo, or every repo of the team, pushed to another address from now on.

    `by` None: whoever runs the installation. Raises UsageError, Refused, NotFound, and NotAllowed. The
    address is judged as every other that people give; whether it answers shows at the first push.
    """
    parsed = await _parsed(services, team, repo, wanted)
    secret = wanted.secret or parsed.secret
    connection = None if secret else await _connection(services, team, wanted, parsed.url)
    if secret is not None and services.keyring is None:
        raise OurFault("credentials cannot be stored: set SECRET_KEYS (32 random characters or more)")
    makes = await _makes(services, wanted, connection, parsed.url) if wanted.make else None
    if repo is not None:
        await _check_place(services, team, parsed.url)
    now = services.clock()
    made = Mirror(
        MirrorId(uuid4()),
        team.id,
        repo.id if repo else None,
        parsed.url,
        connection.id if connection else None,
        makes,
        secret is not None,
        wanted.deletes,
        wanted.overwrites,
        (),
        None,
        now,
        operator.name_of(by),
    )
    sealing = Sealing(services.keyring, secret) if secret and services.keyring else None
    subject = f"{repo.name if repo else 'every repository'} at {mirroring.where(made.address)}"
    detail = {"deletes": made.deletes, "overwrites": made.overwrites}
    async with _as(services, by, team, "mirror.add", subject, **detail) as (db, _):
        others = [one.mirror for one in await rows.of_team(db, team.id, now)]  # no other is added meanwhile
        if len(others) >= MOST:
            raise Refused(
                f"a team has {MOST} mirrors at the most; remove one, or make one for every repository"
            )
        place = rules.place_of(made.address)
        if any(one.repo_id == made.repo_id and rules.place_of(one.address) == place for one in others):
            raise UsageError("there is a mirror at this address already", field="address")
        await rows.add(db, made, sealing)
    await spread(services)
    return made


@dataclass(frozen=True, slots=True)
class _Parsed:
    url: str  # of a team's mirror with its {name}
    secret: Secret | None = field(default=None, repr=False)


async def _parsed(services: Services, team: Team, repo: Repo | None, wanted: Wanted) -> _Parsed:
    """The address as it is kept, judged as an address of a remote. Raises UsageError."""
    text = wanted.address.strip()
    if repo is not None:
        if "{" in text:
            rules.check_pattern(text)
            text = rules.address_of(text, repo.name)
        found = await _judged(services, team, text)
        return _Parsed(found.url, found.secret)
    rules.check_pattern(text)
    marks = {"{name}": f"{_SAMPLE}-4f1d", "{owner}": f"{_SAMPLE}-0b7c"}
    sample = text
    for mark, stand_in in marks.items():
        sample = sample.replace(mark, stand_in)
    found = await _judged(services, team, sample, exists=False)
    url = found.url
    for mark, stand_in in marks.items():
        url = url.replace(stand_in, mark)
    rules.check_pattern(url)  # it may have stood in the credentials
    if urlsplit(url.replace("{", "").replace("}", "")).hostname != urlsplit(found.url).hostname:
        raise UsageError("{name} and {owner} can stand in the path only, not in the host", field="address")
    return _Parsed(url, found.secret)


async def _judged(services: Services, team: Team, text: str, *, exists: bool = True) -> _Parsed:
    if not exists and "://" not in text and "@" not in text:
        raise UsageError("write the address of a team's mirror with https:// or ssh://", field="address")
    try:
        found = await adding.remote_for(services, team.id, text)
    except UsageError as error:
        raise UsageError(str(error), field="address") from None
    return _Parsed(found.url, found.secret)


async def _connection(services: Services, team: Team, wanted: Wanted, url: str) -> Connection | None:
    """The connection that pushes there: the one that was named, or the first that works at that host."""
    if wanted.connection_id is not None:
        found = await store.find(services.db, team.id, wanted.connection_id)
        if found is None:
            raise NotFound("there is no such connection; choose another")
        if not _is_at(services, found, url):
            raise UsageError(
                f"this connection is to {found.host}, not to the host of the address", field="address"
            )
        _check_pushes(services, found)
        return found
    if address.is_ssh(url) or address.is_path(url):
        return None
    for one in await store.of_team(services.db, team.id):
        if one.state == "works" and _is_at(services, one, url):
            if not connections.missing_scopes(services, one, Purpose.PUSH):
                return one
    return None


def _is_at(services: Services, one: Connection, url: str) -> bool:
    return url.startswith(f"{services.forges.at(one.forge, one.host).app.url.rstrip('/')}/")


def _check_pushes(services: Services, one: Connection) -> None:
    missing = connections.missing_scopes(services, one, Purpose.PUSH)
    if missing:
        raise Refused(
            f"{one.host} has not granted {one.login}'s connection {', '.join(missing)}, so it cannot push;"
            " allow it under Connect, or give a token that can push"
        )


async def _makes(services: Services, wanted: Wanted, connection: Connection | None, url: str) -> Makes:
    """Under which owner the host makes what is missing: the one that the address names."""
    if connection is None:
        raise Refused(
            "only a connection can make repositories: connect an account at that host, or make them there"
        )
    path = urlsplit(url).path.strip("/").rpartition("/")[0]
    owners: list[Owner] = await connections.asking(
        services, connection.id, lambda forge, token: forge.owners(token)
    )
    owner = next((one for one in owners if one.login.lower() == path.lower()), None)
    if owner is None:
        known = ", ".join(one.login for one in owners[:8]) or "nobody"
        raise Refused(
            f"{connection.login} cannot make repositories under {path or '/'} there, but under {known}"
        )
    as_kept = {"id": owner.id, "login": owner.login, "name": owner.name, "personal": owner.personal}
    return Makes(as_kept, wanted.private)


async def _check_place(services: Services, team: Team, url: str) -> None:
    try:
        await mirroring.check_place(services, team.id, url)
    except Refused as error:
        raise UsageError(str(error), field="address") from None


async def spread(services: Services) -> int:
    """Give every mirror its repos, new ones of a team too; returns how many. Safe to run twice, also at once.

    One whose address leads to a source, or to another repo's mirror, gets its row all the same: its push
    says what is wrong.
    """
    found = await rows.lacking(services.db, _AT_ONCE)
    now = services.clock()
    for mirror, repo_id, name, newest in found:
        url = mirror.address if mirror.repo_id else rules.address_of(mirror.address, name)
        await rows.put_target(services.db, mirror.id, repo_id, url, newest, now)
    return len(found)


async def mine(services: Services, team: Team, mirror_id: UUID) -> Mirror:
    """The team's mirror of this id. Raises NotFound."""
    found = await rows.find(services.db, team.id, mirror_id)
    if found is None:
        raise NotFound("there is no such mirror; somebody may have removed it")
    return found


async def target(services: Services, team: Team, target_id: UUID) -> MirrorTarget:
    """One repo at one mirror of the team. Raises NotFound."""
    found = await rows.target(services.db, team.id, target_id)
    if found is None:
        raise NotFound("there is no such mirror; somebody may have removed it")
    return found


async def change(
    services: Services,
    by: By | None,
    team: Team,
    mirror: Mirror,
    *,
    deletes: bool | None = None,
    overwrites: bool | None = None,
    paused: bool | None = None,
) -> Mirror:
    """Set what a mirror may do, and whether it is at work; None: as it is. Then all is compared again.

    What people were told of its failing is over where it is paused.
    """
    now = {
        "deletes": mirror.deletes if deletes is None else deletes,
        "overwrites": mirror.overwrites if overwrites is None else overwrites,
        "paused": (mirror.paused_at is not None) if paused is None else paused,
    }
    async with _as(services, by, team, "mirror.change", mirroring.where(mirror.address), **now) as (db, _):
        await rows.change(db, mirror, services.clock(), **now)
        if now["paused"]:
            await mirroring.said_no_more(db, mirror.id, "failing", services.clock())
    return await mine(services, team, mirror.id)


async def put_secret(services: Services, by: By | None, team: Team, mirror: Mirror, secret: Secret) -> None:
    """Give a mirror other credentials, and try all of it with them."""
    if services.keyring is None:
        raise OurFault("credentials cannot be stored: set SECRET_KEYS (32 random characters or more)")
    async with _as(services, by, team, "mirror.credentials", mirroring.where(mirror.address)) as (db, _):
        await rows.put_secret(db, mirror.id, Sealing(services.keyring, secret), services.clock())


async def push_now(
    services: Services, by: By | None, team: Team, mirror: Mirror, repo_id: RepoId | None = None
) -> int:
    """Have a worker push to a mirror at once, whatever failed before; returns to how many repositories."""
    if mirror.paused_at is not None:
        raise Refused("this mirror is paused; resume it first")
    async with _as(services, by, team, "mirror.push", mirroring.where(mirror.address)) as (db, _):
        return await rows.due_now(db, mirror.id, services.clock(), repo_id)


async def remove(services: Services, by: By | None, team: Team, mirror: Mirror) -> None:
    """Push nothing there any more. What is there stays. Safe to run twice."""
    async with _as(services, by, team, "mirror.remove", mirroring.where(mirror.address)) as (db, _):
        await rows.remove(db, mirror.id)
        for what in ("failing", "changed"):
            await mirroring.said_no_more(db, mirror.id, what, services.clock())


async def leave_out(services: Services, by: By | None, team: Team, mirror: Mirror, repo: Repo) -> None:
    """Push this repo no more to a mirror of the whole team. What is there stays."""
    if mirror.repo_id is not None:
        raise UsageError("this mirror has no other repository: remove it instead")
    subject = f"{repo.name} at {mirroring.where(mirror.address)}"
    async with _as(services, by, team, "mirror.leave-out", subject) as (db, _):
        await rows.leave_out(db, mirror.id, repo.id)


async def take_in(services: Services, by: By | None, team: Team, mirror: Mirror, repo: Repo) -> None:
    """Push a repo again that a mirror of the whole team had left out."""
    subject = f"{repo.name} at {mirroring.where(mirror.address)}"
    async with _as(services, by, team, "mirror.take-in", subject) as (db, _):
        await rows.take_in(db, mirror.id, repo.id)
    await spread(services)


STATES: Final[Mapping[State, str]] = {
    "current": "up to date",
    "behind": "behind",
    "waiting": "waiting",
    "changed": "changed there",
    "refused": "refs refused",
    "failing": "failing",
    "stopped": "stopped",
    "paused": "paused",
}  # in words, as people read them


def said(one: MirrorTarget, now: datetime) -> str:
    """How a repo is doing at a mirror, in sentences."""
    behind = ""
    if one.behind:
        lasted = words.lasted(one.lag(now).total_seconds())
        behind = f"It is {words.count(one.behind, 'snapshot')} behind, for {lasted}."
    if one.state == "paused":
        return f"Nothing is pushed until somebody resumes it. {behind}".strip()
    if one.failing is not None:
        why = words.sentence(one.failing.message)
        again = "Nothing is tried until it has other credentials."
        if one.due_at is not None:
            wait = max((one.due_at - now).total_seconds(), 0)
            again = f"The next try is in {words.lasted(wait)}." if wait else "It is tried again now."
        return f"{why} {again} {behind}".strip()
    if one.state == "changed":
        changed = one.counts.get("diverged", 0)
        was = "was" if changed == 1 else "were"
        return (
            f"{words.count(changed, 'ref')} {was} changed there by somebody else; that is not overwritten."
            f" Everything else is as in #{one.pushed}. {behind}"
        ).strip()
    if one.state == "refused":
        refused = words.count(one.counts.get("refused", 0), "ref")
        return f"The host refuses {refused}. Everything else is as in #{one.pushed}. {behind}".strip()
    if one.state == "waiting":
        return "It is pushed for the first time within seconds."
    return behind or f"It has snapshot #{one.pushed}, the latest."


async def repo_of(services: Services, team: Team, mirror: Mirror) -> Repo | None:
    """The one repo of a mirror. None: it is one of every repo of the team."""
    return None if mirror.repo_id is None else await repos.find_in(services.db, team.id, mirror.repo_id)


def _as(
    services: Services, by: By | None, team: Team, action: str, subject: str, **detail: Any
) -> AbstractAsyncContextManager[tuple[asyncpg.Connection, datetime]]:
    """A transaction in which an admin, or whoever runs Everref, changes mirrors; with its audit entry."""
    return operator.acting_as(services, by, team, Role.ADMIN, action, subject, **detail)
