"""Pushing a repo to one of its mirrors: list, decide ref by ref, push, make HEAD follow, list again, record.

Who calls: jobs/mirrors, and the command `mirror push`. It pushes as restores do (restore.send), and waits for
nothing that a backup needs: the view is the pool's, and no lease of the repo is taken.
"""

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from mirror.core import refs, words
from mirror.core.errors import Busy, EverrefError, NotFound, Refused, RemoteGone
from mirror.core.model import HEAD, RefName, Refs, Remote, Repo, Snapshot, Target
from mirror.core.rules import circles, hosts
from mirror.core.rules import mirrors as rules
from mirror.core.rules.history import plan as planning
from mirror.core.rules.history.plan import RefAction
from mirror.core.rules.hosts import Profile
from mirror.core.rules.mirrors import Held
from mirror.core.rules.roles import Role
from mirror.core.rules.work import backoff
from mirror.discovery import connections
from mirror.forges.contract import Owner
from mirror.git import read
from mirror.git.push import Answer, TooLarge
from mirror.people import mails
from mirror.restore import restore, target
from mirror.restore.restore import RefResult, Sending
from mirror.restore.target import Authority
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import history, received, snapshots
from mirror.store.database import Db
from mirror.store.discovery import connections as store
from mirror.store.people import notices
from mirror.store.people.teams import TeamId
from mirror.store.restore import mirrors as rows
from mirror.store.restore.mirrors import Claimed, Ended, Mirror, MirrorId, MirrorTarget, TargetId
from mirror.store.upkeep import vaults

SHOWN: Final = 200  # refs that are kept with a target because they are not as they should be
_SAID: Final = 20  # lines of the host that are kept
_PARTS: Final = 64  # into which a history is cut at most, because the host takes no more at once
_TELLING: Final = frozenset({"diverged", "refused", "skipped"})  # results that are told ref by ref
CLAIM: Final = timedelta(minutes=3)  # for which a target is one run's; it is renewed while that run goes on
TOLD_AFTER: Final = timedelta(hours=1)  # of failing, until people hear of what may be over in a minute
_PASSES: Final = 2  # what a removed ref was in the way of is pushed in a second one

log = logging.getLogger("mirror.mirroring")


async def push(services: Services, claimed: Claimed) -> Ended:
    """Push the latest snapshot to the claimed target, and record what came of it, whatever that is.

    1. Check that the address is still no source and not our own; list it, and make it at its host where
       that was asked for and it never was there.
    2. Decide ref by ref (core/rules/mirrors). Where something is overwritten that no snapshot of ours has,
       which the mirror must allow, back it up first, as a restore does.
    3. Push, in parts where its host takes no more at once; then make HEAD's branch the default one; then
       delete what was deleted at the source, where the mirror does that.
    4. List it again; what counts is what is there now. Record it.

    Safe to run twice: each ref is written only if it still is as it was listed, and what has arrived is
    `unchanged` the second time. A run that was killed is begun again once its claim is over. Of a failure
    that is not the mirror's (the vault, the database) nothing is recorded at it. Raises nothing that a
    mirror can be to blame for.
    """
    began = services.clock()
    try:
        end = await _pushed(services, claimed, began)
    except EverrefError as error:
        if error.is_shared or error.kind == Busy.kind:
            await rows.hand_back(services.db, claimed, services.clock() + rules.SOON)
            raise
        end = _failed(claimed.target, error, began, services.clock())
    if await rows.ended(services.db, claimed, end):
        await _tell(services, claimed.target, end)
    return end


def _failed(one: MirrorTarget, error: EverrefError, began: datetime, now: datetime) -> Ended:
    """A push that failed, and when the next one is tried. Refused credentials wait until they are others."""
    failures = one.failing.failures if one.failing else 0
    wait = backoff.wait(error.kind, failures + 1, random.random())
    next_at = None if wait is None else now + wait
    retry_at = getattr(error, "retry_at", None)
    if next_at and retry_at:
        next_at = max(next_at, retry_at)
    return Ended(one.newest, began, now, {}, next_at=next_at, failure=(error.kind, str(error)))


async def _pushed(services: Services, claimed: Claimed, began: datetime) -> Ended:
    """Steps 1 to 4 of `push`, but for the record."""
    one = claimed.target
    repo, latest = await _latest(services, one)
    await check_place(services, one.mirror.team_id, one.url, one.id)
    to = await reach(services, one.mirror, one.url)
    profile = await profile_of(services, one.mirror, one.url)
    wanted = await history.refs_at(services.db, repo.id, latest.number)
    run = _Run(services, claimed, repo, latest, to, profile, wanted)
    await run.begin()
    found = await run.pass_once()
    for _ in range(_PASSES - 1):
        if not run.cleared:
            break
        found = {**found, **await run.pass_once()}
    counts = Counter[str](result.result for result in found.values())
    told = [_told(result) for result in found.values() if result.result in _TELLING]
    told.sort(key=lambda line: line["result"] == "skipped")
    now = services.clock()
    return Ended(
        latest.number,
        began,
        now,
        dict(counts),
        told[:SHOWN],
        [*run.notes, *run.remarks][:_SAID],
        wrote=bool(run.wrote),
        next_at=rules.next_look(now, random.random()),
    )


async def _latest(services: Services, one: MirrorTarget) -> tuple[Repo, Snapshot]:
    repo = await repos.get(services.db, one.repo_id)
    latest = await snapshots.latest(services.db, repo.id)
    if latest is None:
        raise NotFound(f"nothing of {repo.name} has been saved yet, so nothing can be pushed")
    return repo, latest


async def check_place(services: Services, team_id: TeamId, url: str, one: TargetId | None = None) -> None:
    """Raise Refused where that would make a loop, or two of one: our own door, a source, another mirror."""
    if rules.is_ours(url, mails.origin(services)):
        raise Refused("this address is Everref's own: a mirror has to be somewhere else")
    held = await rows.taken(services.db, team_id, rules.place_of(url), one)
    if held is not None:
        raise Refused(f"{url} is {held}: a mirror must be at an address of its own")


async def reach(services: Services, mirror: Mirror, url: str) -> Remote:
    """The mirror's address of one repo, with what may push there. Raises what `target.reach` does."""
    asked: dict[str, Any] = {"to": url}
    secret = await rows.secret_of(services.db, services.keyring, mirror.id) if services.keyring else None
    if secret is None and mirror.connection_id is not None:
        asked["connection"] = str(mirror.connection_id)
    return await target.reach(services, mirror.team_id, asked, Authority(Role.ADMIN, secret))


async def profile_of(services: Services, mirror: Mirror, url: str) -> Profile:
    """What the mirror's host is known to refuse."""
    if mirror.connection_id is None:
        return hosts.profile_of(url)
    found = await store.find(services.db, mirror.team_id, mirror.connection_id)
    return hosts.profile_of(url, found.forge if found else None)


class _Run:
    """One push to one mirror, while it goes on."""

    def __init__(
        self,
        services: Services,
        claimed: Claimed,
        repo: Repo,
        latest: Snapshot,
        to: Remote,
        profile: Profile,
        wanted: Refs,
    ) -> None:
        self.services, self.claimed, self.repo, self.latest = services, claimed, repo, latest
        self.to, self.profile, self.wanted = to, profile, wanted
        self.mirror = claimed.target.mirror
        self.listed: Refs = {}
        self.via = ""  # a push option for the mirror, where that is another Everref
        self.wrote = 0  # refs that were written or removed
        self.cleared = False  # something was removed that had been in the way of something else
        self.notes: list[str] = []
        self.remarks: list[str] = []

    async def begin(self) -> None:
        """List the mirror; make it where it never was and its host may."""
        try:
            self.listed, agent = await restore.greeted(self.services, self.to)
        except RemoteGone:
            makes = self.mirror.makes
            if makes is None or self.mirror.connection_id is None or self.claimed.target.pushed:
                raise
            await self._make(Owner(**makes.owner), makes.private)
        else:
            self.via = await self._way_on(agent)

    async def _way_on(self, agent: bytes) -> str:
        """What a mirror that calls itself so is told of by whom the push came; nothing if it is no Everref.

        Raises Refused where it is this Everref, under whatever name, or one by which the last push to this
        repo came: with mirrors that overwrite, that would never end.
        """
        there, vault = circles.mark_in(agent), await vaults.known(self.services.db)
        if there is None or vault is None:
            return ""
        ours, came_by = circles.mark_of(vault), await received.came_from(self.services.db, self.repo.id)
        if there == ours:
            raise Refused(
                f"{where(self.to.url)} is this Everref by another name: a mirror has to be somewhere else"
            )
        if there in came_by:
            raise Refused(
                f"{self.repo.name} was last pushed here by a mirror of the Everref that {where(self.to.url)}"
                " belongs to, so pushing it there would make a circle; remove one of the two mirrors"
            )
        return circles.said([*came_by, ours])

    async def _make(self, owner: Owner, private: bool) -> None:
        """Make the repository at the mirror's host. One that an earlier run made is there, and is found."""
        name = self.to.url.rstrip("/").rpartition("/")[2].removesuffix(".git")
        connection_id = self.mirror.connection_id
        assert connection_id is not None  # `begin` has looked
        made = await connections.asking(
            self.services,
            connection_id,
            lambda forge, token: forge.create_repository(token, owner, name, private=private),
        )
        if rules.place_of(made.clone_url) != rules.place_of(self.to.url):
            raise Refused(
                f"the host made {made.full_name}, which is not at {self.to.url}; correct the address"
            )
        self.listed = {}

    async def pass_once(self) -> dict[RefName, RefResult]:
        """Decide, push, make HEAD follow, remove; what became of each ref, judged by what is there now."""
        actions = await self._decide()
        failpoints.reached("mirror: planned")
        due = [one for one in actions if one.action in ("create", "update")]
        removed = [one.target_name for one in actions if one.action == "remove"]
        said = dict[RefName, Answer]()
        if due:
            said |= await self._send(due)
            self.listed = await restore.listed_at(self.services, self.to)
        await self._follow_head()
        if removed:
            await self._still_ours()
            sending = Sending(self.to, self.listed, ({},), ("mirror: removed",), removed, option=self.via)
            await restore.send(self.services, self.repo, self.latest, sending)
            said |= sending.said
            self.listed = await restore.listed_at(self.services, self.to)
        self.remarks += [line for line in restore.remarks(said) if line not in self.remarks]
        found = {one.target_name: self._outcome(one, said) for one in actions}
        self.wrote += sum(one.result in ("created", "updated", "removed") for one in found.values())
        gone = any(one.result == "removed" for one in found.values())
        blocked = any(one.action == "refused" for one in actions)
        self.cleared = gone and blocked and not self.cleared
        return found

    async def _decide(self) -> list[RefAction]:
        """What becomes of each ref. What would be overwritten and is nowhere else is backed up first."""
        mirror = self.mirror
        held = rules.asked(self.wanted, self.listed, self.profile)
        known = await self._came_from_here(held)
        allowed = {"deletes": mirror.deletes, "overwrites": mirror.overwrites}
        actions = rules.actions(self.wanted, self.listed, known, self.profile, **allowed)
        foreign = [
            one
            for one in actions
            if one.action in ("update", "remove") and one.old and (one.target_name, one.old) not in known
        ]
        if not foreign:
            return actions
        kept, snapshot = await target.keep(self.services, self.repo, self.to)
        there = await history.refs_at(self.services.db, kept.id, snapshot.number)
        for one in foreign:
            if refs.resolve(there, one.target_name) != one.old:
                raise Busy(f"somebody is pushing to {self.to.url} right now, so nothing was overwritten")
        self.notes.append(f"what was changed at the mirror is kept as {snapshot.label} of {kept.name}")
        return actions

    async def _came_from_here(self, held: Sequence[Held]) -> set[Held]:
        """What of this a snapshot had under that name, or is an ancestor of what is pushed there."""
        also = rules.aliases(self.wanted, held)
        known = await rows.ours(self.services.db, self.repo.id, [*held, *also.values()])
        known |= {one for one, other in also.items() if other in known}
        moves = [
            (name, old, new)
            for name, old in held
            if (name, old) not in known
            and (new := refs.resolve(self.wanted, name))
            and not refs.is_symbolic(old)
        ]
        if moves:
            async with restore.moment_of(self.services, self.repo, self.latest, {}) as moment:
                lacking = await read.missing(moment.path, {old for _, old, _ in moves})
                judged = [move for move in moves if move[1] not in lacking]
                found = await read.ancestry(self.services.git, moment.path, judged)
            known |= {(name, old) for name, old, _ in judged if name in found.forward}
        return known

    async def _send(self, due: Sequence[RefAction]) -> Mapping[RefName, Answer]:
        """Push what is due; in parts where it is more than the host takes at once, or where it says so."""
        parts = 1
        limit = self.profile.push_bytes
        if limit and not any(name.startswith(b"refs/heads/") for name in self.listed):
            parts = min(_PARTS, -(-2 * self.latest.log_bytes // limit)) or 1
        while True:
            batches = await self._batches(due, parts)
            steps = ["mirror: part pushed"] * (len(batches) - 1) + ["mirror: pushed"]
            sending = Sending(self.to, self.listed, batches, steps, check=self._still_ours, option=self.via)
            try:
                await restore.send(self.services, self.repo, self.latest, sending)
                too_large = any(
                    hosts.TOO_LARGE.search(" ".join((answer.why, *answer.remarks)))
                    for answer in sending.said.values()
                    if answer.ok is False
                )
            except TooLarge:
                if parts >= _PARTS:
                    raise Refused(
                        f"{where(self.to.url)} takes no push this large, not even in {parts} parts;"
                        " have its limit raised there"
                    ) from None
                too_large = True
            if not too_large or parts >= _PARTS:
                return sending.said
            parts = min(_PARTS, parts * 4)
            self.services.progress.note(f"{self.to.url} takes no push this large; pushing in {parts} parts")
            self.listed = await restore.listed_at(self.services, self.to)

    async def _batches(self, due: Sequence[RefAction], parts: int) -> list[Refs]:
        """What is pushed one after the other: HEAD's branch, or the oldest history."""
        first, rest = restore.batches(due, self.wanted.get(HEAD), self.listed)
        if parts == 1:
            return [first, rest] if first else [rest]
        lines = [(name, new) for batch in (first, rest) for name, new in batch.items()]
        main = next((name for name in first), None) or _usual(dict(lines))
        stepped: list[Refs] = []
        if main is not None:
            new = dict(lines)[main]
            async with restore.moment_of(self.services, self.repo, self.latest, {main: new}) as moment:
                line = await read.mainline(self.services.git, moment.path, new, self.listed.get(main), parts)
            stepped = [{main: commit} for commit in [*line, new]]
        others = [line for line in lines if line[0] != main]
        size = -(-len(others) // parts) or 1
        return [*stepped, *(dict(others[at : at + size]) for at in range(0, len(others), size))] or [{}]

    async def _still_ours(self) -> None:
        """Raise Busy where another run has the target, or it was paused or removed."""
        if not await rows.keep(self.services.db, self.claimed, self.services.clock() + CLAIM):
            raise taken_over()

    async def _follow_head(self) -> None:
        """Make the mirror's default branch the source's, where its host lets us; else say what to do."""
        branch = rules.head_move(self.wanted, self.listed)
        if branch is None:
            return
        asked = {"connection": str(self.mirror.connection_id)} if self.mirror.connection_id else {}
        name = refs.shown_text(branch.removeprefix(b"refs/heads/"))
        try:
            made = await target.make_default(self.services, self.mirror.team_id, asked, self.to, name)
        except EverrefError as error:
            note = rules.default_stays(branch, str(error))
        else:
            note = (
                f"{name} was made the default branch at the mirror" if made else rules.default_stays(branch)
            )
        if note not in self.notes:
            self.notes.append(note)

    def _outcome(self, one: RefAction, said: Mapping[RefName, Answer]) -> RefResult:
        if one.action in planning.WRITES and one.target_name not in said:
            wanted = None if one.action == "remove" else one.target
            if self.listed.get(one.target_name) != wanted:  # the connection broke before its turn
                return RefResult(one.name, one.target, "refused", "it was not pushed", one.old)
        found = restore.outcome(one, self.listed, said)
        if found.result != "refused" or one.target_name not in said:
            return found
        answer = said[one.target_name]
        return replace(found, why=hosts.advice(found.why or "", answer.remarks))


def taken_over() -> Busy:
    """What is said where another run pushes to a mirror, or it was paused or removed."""
    return Busy("another run pushes to this mirror, or it was paused or removed; look again in a minute")


def _usual(due: Mapping[RefName, Target]) -> RefName | None:
    """The branch whose history is likely the longest."""
    branches = [name for name in due if name.startswith(b"refs/heads/")]
    usual = [name for name in branches if name in (b"refs/heads/main", b"refs/heads/master")]
    return next(iter([*usual, *branches]), None)


def _told(result: RefResult) -> dict[str, Any]:
    old = result.old.decode(errors="replace") if result.old else None
    return refs.shown(result.name) | {"result": result.result, "why": result.why, "old": old}


async def _tell(services: Services, one: MirrorTarget, end: Ended) -> None:
    """Tell the team once why a mirror fails, or that somebody else has changed it, until that is over.

    A mirror of many repos is told once. What fails and may be over in a minute waits for an hour.
    """
    db, mirror, key = services.db, one.mirror, f"mirror/{one.mirror.id}"
    host = where(one.url)
    since = await rows.failing_since(db, mirror.id)
    if end.failure is None and since is None:
        await notices.answered(db, f"{key}/failing/", end.ended_at)
    elif end.failure is not None and since is not None and _is_lasting(end, since):
        text = f"the mirror of {one.repo} at {host} fails: {end.failure[1]}"
        await notices.add(
            db,
            mirror.team_id,
            one.repo_id,
            "mirror",
            text,
            end.ended_at,
            f"{key}/failing/{since.isoformat()}",
        )
    changed, was = (found.get("diverged", 0) for found in (end.counts, one.counts))
    if end.failure is None and changed and not was:
        were = f"{words.count(changed, 'ref')} of {one.repo} {'was' if changed == 1 else 'were'}"
        text = f"{were} changed at its mirror {host} by somebody else; none of that is overwritten"
        told = f"{key}/changed/{one.id}/{end.ended_at.isoformat()}"
        await notices.add(db, mirror.team_id, one.repo_id, "mirror", text, end.ended_at, told)
    elif end.failure is None and not changed:
        await notices.answered(db, f"{key}/changed/{one.id}/", end.ended_at)


async def said_no_more(
    db: Db, mirror_id: MirrorId, what: Literal["failing", "changed"], at: datetime
) -> None:
    """People need see no more that this mirror is failing, or was changed: it is paused, or gone."""
    await notices.answered(db, f"mirror/{mirror_id}/{what}/", at)


def _is_lasting(end: Ended, since: datetime) -> bool:
    assert end.failure is not None
    soon = end.failure[0] in ("network", "limit", "ours", "busy")
    return not soon or end.ended_at - since >= TOLD_AFTER


def where(url: str) -> str:
    """A mirror's address as people read it: without the scheme."""
    return url.partition("://")[2].rpartition("@")[2].removesuffix(".git") or url
