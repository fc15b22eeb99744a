"""Share links: one moment of a repo, or chosen refs of it, for somebody without an account.

Who calls: the pages, the API and the command line make and revoke them; web/pages/shared serves what they
cover. Whether one still works is asked of its row each time, so that revoking one counts at once.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from mirror.core import globs, peer
from mirror.core.errors import EverrefError, NotFound, Refused, TooOften
from mirror.core.model import HEAD, Refs, Repo, Snapshot
from mirror.core.rules import roles
from mirror.core.rules import shares as rules
from mirror.core.rules.roles import Role
from mirror.core.rules.shares import Form
from mirror.people import operator, passwords
from mirror.people.acting import HOUR, MADE, By, acting, limit_tries
from mirror.restore.moment import snapshot_at, wanted
from mirror.restore.serving import chosen_refs
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.database import transaction
from mirror.store.people import attempts, audit, teams
from mirror.store.people import quotas as limited
from mirror.store.people.teams import Team
from mirror.store.restore import shares
from mirror.store.restore.shares import Act, NewShare, Share, ShareId

KEPT: Final = timedelta(days=90)  # for which a link is listed after it has ended
TRIES: Final = 10  # of a link's password, from one network in an hour
TRIES_FROM: Final = 40  # of the passwords of all links, from one network in an hour
TRIES_OF: Final = 1000  # of one link's password in a day, from networks where nobody gave the right one
DAY: Final = timedelta(days=1)
KNOWN: Final = timedelta(days=7)  # for which a network counts as one where somebody gave the right one
AUDITED: Final = 100  # entries of one link in the audit log in an hour; its own list has what is beyond
ASKED_SECONDS: Final = 0.4  # between two looks whether a link still works, while bytes are sent
ACTOR: Final = "somebody with a share link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be shared, and how."""

    snapshot: Snapshot
    globs: Sequence[str] = ()  # the refs that match; none: all of the moment
    forms: Sequence[Form] = rules.FORMS
    lasts: timedelta = rules.USUAL
    password: str | None = field(default=None, repr=False)
    once: bool = False


async def make(services: Services, by: By | None, team: Team, repo: Repo, asked: Wanted) -> tuple[str, Share]:
    """A link and its token, which is shown once and not stored. `by` None: whoever runs Everref.

    It ends with the membership or the role of the member who made it, and with the API token by which it
    was made. One that whoever runs Everref made ends with no account, as they see everything at any time: it
    ends when it expires, is revoked, or its repo goes. Raises UsageError, Refused, NotFound where no ref is
    meant, LimitReached.
    """
    db, now = services.db, services.clock() if by is None else by.at
    globs.check(asked.globs)
    if asked.password is not None:
        roles.check_password(asked.password, "")
    covered = await refs_of(services, repo, asked.snapshot, asked.globs)
    if not covered:
        raise Refused(f"{repo.name} at {asked.snapshot.label} has no refs, so there is nothing to share")
    hashed = None
    if asked.password is not None:
        who = operator.ACTOR if by is None else str(by.person.id)
        hashed = await passwords.hashed(who, roles.password_bytes(asked.password))
    new = NewShare(
        repo_id=repo.id,
        snapshot=asked.snapshot.number,
        moment=asked.snapshot.moment,
        globs=asked.globs,
        forms=asked.forms,
        made_by=None if by is None else by.person.id,
        api_token_id=None if by is None else by.token,
        password_hash=hashed,
        once=asked.once,
        expires_at=now + asked.lasts,
    )
    told: dict[str, Any] = {
        "at": asked.snapshot.label,
        "forms": list(asked.forms),
        "refs": list(asked.globs),
        "until": new.expires_at.isoformat(),
        "password": hashed is not None,
        "once": asked.once,
    }
    limits = services.settings.limits
    if by is None:
        async with transaction(db) as connection:
            await teams.lock(connection, team.id)
            raw, made = await shares.make(connection, new, now)
            await limited.check(connection, team.id, limits, now, "shares")
            told["issuer"] = rules.BY_OPERATOR
            await operator.did(connection, team.id, "share.add", repo.name, told, now)
    else:
        await limit_tries(db, f"share by {by.person.id}", MADE, HOUR, now)
        async with acting(db, by, team, Role.OPERATOR, "share.add", repo.name, **told) as (connection, _):
            raw, made = await shares.make(connection, new, now)
            await limited.check(connection, team.id, limits, now, "shares")
    found = await shares.find(db, team.id, made, now)
    assert found is not None  # it was just made, and nobody deletes one that works
    return raw, found


async def most_days(services: Services, team: Team) -> int:
    """How many days a link of this team may last."""
    (use,) = await limited.uses(
        services.db, team.id, services.settings.limits, services.clock(), ("share-days",)
    )
    return rules.LONGEST_DAYS if use.most is None else min(use.most, rules.LONGEST_DAYS)


async def revoke(services: Services, by: By | None, team: Team, share_id: ShareId) -> Share:
    """End a link of the team at once; any operator may. Raises NotFound, Refused. Safe to run twice."""
    db, now = services.db, services.clock() if by is None else by.at
    found = await shares.find(db, team.id, share_id, now)
    if found is None:
        raise NotFound("there is no such share link")
    told = {"share": str(share_id)}
    if by is None:
        async with transaction(db) as connection:
            if await shares.revoke(connection, share_id, operator.ACTOR, now):
                await operator.did(connection, team.id, "share.revoke", found.repo_name, told, now)
    else:
        async with acting(db, by, team, Role.OPERATOR, "share.revoke", found.repo_name, **told) as (
            connection,
            _,
        ):
            await shares.revoke(connection, share_id, by.person.name, now)
    return await shares.find(db, team.id, share_id, now) or found


async def refs_of(services: Services, repo: Repo, snapshot: Snapshot, chosen: Sequence[str]) -> Refs:
    """The refs of the moment that a link covers. Raises NotFound where none matches."""
    return await chosen_refs(services, repo, snapshot, chosen)


@dataclass(frozen=True, slots=True)
class Shared:
    """What a link covers."""

    share: Share
    repo: Repo
    snapshot: Snapshot


async def opened(services: Services, raw: str) -> Share:
    """The link with this token. Raises NotFound, in the same words for one that ended and one never made."""
    found = await shares.by_token(services.db, raw, services.clock())
    if found is None:
        raise NotFound("there is nothing at this address: it is wrong, or it no longer works")
    return found


async def covered(services: Services, share: Share) -> Shared:
    """What the link covers. Raises Dropped where that moment is no longer kept."""
    repo = await repos.get(services.db, share.repo_id)
    when = wanted({"snapshot": share.snapshot, "moment": share.moment})
    return Shared(share, repo, await snapshot_at(services, repo, when))


def branches(covers: Refs) -> list[bytes]:
    """The branches and tags of which an archive can be had, HEAD's first."""
    named = sorted(name for name in covers if name.startswith((b"refs/heads/", b"refs/tags/")))
    head = covers.get(HEAD, b"").removeprefix(b"ref: ")
    return sorted(named, key=lambda name: name != head)


async def is_right(services: Services, share: Share, password: str, address: str) -> bool:
    """Whether this is the link's password.

    Tries are counted by link and network, by network for all links, and by link in a day. The last does not
    count where somebody gave the right one before, so that a stranger who guesses from many places keeps
    nobody out who has been in. Raises TooOften.
    """
    db, now, place = services.db, services.clock(), peer.network(address)
    if share.password_hash is None:
        return True
    each = f"share {share.id} from {place}"
    await limit_tries(db, each, TRIES, HOUR, now)
    slow = [f"shares from {place}"]
    await limit_tries(db, slow[0], TRIES_FROM, HOUR, now)
    known = f"share {share.id} known at {place}"
    if await attempts.free_at(db, known, now) <= now:
        slow.append(f"share {share.id}")
        if not await attempts.take(db, slow[1], TRIES_OF, DAY, now):
            raise TooOften("this link's password was tried too often today; ask for another link", 3600)
    if not await passwords.is_right(place, share.password_hash, roles.password_bytes(password)):
        await shares.record(db, share.id, "password", address, now)
        return False
    await attempts.give_back(db, each)
    for key in slow:
        await attempts.take_back(db, key)
    await attempts.take(db, known, 1, KNOWN, now)
    return True


async def hold(services: Services, share: Share, address: str) -> None:
    """Claim a link that works once for the network that begins to fetch it, or goes on.

    For an hour from its first claim nobody else can; what is under way then goes on. After that it is used
    up, whether it was fetched whole or not: else each hour could have all of it but the last byte. If no
    download was begun, it can be claimed again. Raises NotFound where somebody else has it. Safe to run
    twice.
    """
    now = services.clock()
    if share.once and not await shares.claim(
        services.db, share.id, peer.network(address), now, now + rules.CLAIMED
    ):
        raise NotFound("somebody else is using this link, which works once; ask for another")


async def begin(services: Services, share: Share, what: Act, address: str) -> None:
    """Somebody looks at the link's page, or begins to fetch what it covers: held, counted and audited.

    The audit log has one entry for each network, form and hour, and AUDITED an hour at the most. Raises
    NotFound as `hold` does.
    """
    if what != "page":
        await hold(services, share, address)
    first = await attempts.take(services.db, *_hourly(services, share, what, address))
    await _write_down(services, share, what, address, audited=first)


async def go_on(services: Services, share: Share, what: Act, address: str) -> None:
    """Somebody fetches a later part of what the link covers: held; a use, unless one began within the hour.

    So who leaves out the first byte is seen as well. Raises NotFound as `hold` does.
    """
    await hold(services, share, address)
    if await attempts.take(services.db, *_hourly(services, share, what, address)):
        await _write_down(services, share, what, address, audited=True)


def _hourly(
    services: Services, share: Share, what: Act, address: str
) -> tuple[str, int, timedelta, datetime]:
    """What is taken for the first use of a form by a network within an hour."""
    return f"share {share.id} {what} {peer.network(address)}", 1, HOUR, services.clock()


async def _write_down(services: Services, share: Share, what: Act, address: str, *, audited: bool) -> None:
    """Count a use, and audit it where that is wanted and AUDITED allows."""
    db, now = services.db, services.clock()
    await shares.record(db, share.id, what, address, now)
    entry = audit.Entry(
        person_id=None,
        actor=ACTOR,
        action="share.use",
        repo_id=share.repo_id,
        subject=share.repo_name,
        detail={"share": str(share.id), "what": what, "at": share.label},
        address=address,
    )
    if audited and await attempts.take(db, f"share {share.id} audited", AUDITED, HOUR, now):
        await audit.add(db, share.team.id, entry, now)


@dataclass(slots=True)
class Sending:
    """Bytes that are sent for a link, for as long as it works."""

    services: Services
    share: Share
    what: Act
    address: str
    completes: bool = True  # all of these bytes are what a link that works once gives
    begun: bool = True  # it counts as a use already; False: it does once `packed`
    packed: bool = False  # git has answered with a pack
    size: int = 0  # bytes so far
    whole: bool = False  # all of them went out

    async def counted(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same bytes, counted as they go out."""
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
                self.size += len(chunk)
            self.whole = True

    async def link_ends(self) -> None:
        """Wait until the link has ended, at most ASKED_SECONDS longer."""
        place = peer.network(self.address)
        while True:
            await asyncio.sleep(ASKED_SECONDS)
            with suppress(EverrefError):  # a database that is away for a moment ends no download
                now = self.services.clock()
                if not await shares.is_live(self.services.db, self.share.id, now, place):
                    return

    async def finish(self) -> None:
        """Count what was sent; a link that works once has ended if that was all of it. Safe to run twice."""
        size, self.size = self.size, 0
        await shares.sent(self.services.db, self.share.id, self.what, size)
        if self.packed and not self.begun:
            self.begun = True
            await begin(self.services, self.share, self.what, self.address)
        if self.whole and self.completes:
            await shares.use_up(self.services.db, self.share.id, self.services.clock())


async def forget(services: Services) -> None:
    """Forget links that ended KEPT ago. A maintenance task; safe to run twice."""
    await shares.prune(services.db, services.clock(), KEPT)
