"""`everref backup`, `repos`, `log` and `refs`: take snapshots, and see what there is."""

import asyncio
import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from mirror.cli import environment, render, shapes
from mirror.cli.call import Call
from mirror.core.errors import Corrupt, EverrefError
from mirror.core.model import Kind, Repo
from mirror.core.words import ago, mend

if TYPE_CHECKING:
    from mirror.backup.sync import Synced
    from mirror.core.model import Snapshot
    from mirror.services.open import Services
    from mirror.store.people.teams import Team

OWN: Final = "everref"  # the command line's own team
_GLANCE_SECONDS: Final = 10  # for a vault that is asked what else it has
_CHANGES_SHOWN: Final = 10  # by backup; log shows them all


async def backup(call: Call) -> int:
    """Add the repository if it is new, and take a snapshot if anything moved."""
    began = time.monotonic()
    remote = call.remote(call.args.remote)
    async with call.services() as services:
        from mirror.backup import sync
        from mirror.discovery import add
        from mirror.people import operator
        from mirror.store import repos

        team = await operator.team_named(services, call.args.team)
        known = await repos.by_url(services.db, team.id, remote.url)
        repo = await add.repo_for(services, call.args.remote, call.args.name, remote.secret, team=team.id)
        if known is None:
            await operator.did_to(services, repo, "repo.add", {"url": repo.url})
        else:
            await operator.did_for_repo(services, repo, "repo.back-up")
        done = await sync.sync(services, repo.id)
        seconds = time.monotonic() - began
        call.out.said(partial(render.backup, done, seconds), partial(shapes.backup, done, seconds))
        if done.new and done.snapshot.number > 1 and done.snapshot.changes_count:
            await _remark_changes(call, services, _called(repo, team), done)
        await _refuse_damage(services, repo)
    return 0


async def _refuse_damage(services: "Services", repo: Repo) -> None:
    """Let no backup of what is known to be damaged pass for a good one. Raises Corrupt."""
    from mirror.store import repos

    known = await repos.overview_of(services.db, repo.id)
    if known.damage:
        found = f"found {ago(known.damage.at, environment.now())}: {known.damage.message}"
        raise Corrupt(f"{repo.name}: its backup is damaged, {found}; {mend(known.called)}")


def _called(repo: Repo, team: "Team") -> str:
    """What a command calls this repo of a team."""
    return repo.name if team.name == OWN else f"{team.name}:{repo.name}"


async def _remark_changes(call: Call, services: "Services", called: str, done: "Synced") -> None:
    """The moves that a person would look up next."""
    from mirror.store.backup import history

    shown = 0
    async for one in history.changes(services.db, done.repo.id):
        if one.snapshot != done.snapshot.number:
            return
        if shown == _CHANGES_SHOWN:
            return call.out.remark(partial(render.more, called))
        call.out.remark(partial(render.moved, one.change))
        shown += 1


async def repos(call: Call) -> int:
    """What is kept."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store import repos
        from mirror.store.browse import predictions

        team = await operator.team_chosen(services, call.args.team)
        if call.args.soon:
            soon = await predictions.of_team(services.db, team.id if team else None)
            for one in soon:
                call.out.result(partial(render.foreseen, one), partial(shapes.foreseen, one))
            if not soon:
                call.out.remark(render.nothing_foreseen)
            return 0
        rows = await repos.overview(services.db, team.id if team else None, services.clock())
        unknown = await _unknown(services)
    if call.out.json:
        for row in rows:
            call.out.result(render.nothing, partial(shapes.kept, row))
    elif rows:
        call.out.result(partial(render.kept, rows), dict)
    if unknown:
        call.out.remark(partial(render.unknown, unknown))
    elif not rows:
        call.out.remark(render.nothing)
    return 0


async def _unknown(services: "Services") -> int:
    """How many repos the vault has that the database does not know; as of the last look where it is away."""
    from mirror.store.upkeep import vaults
    from mirror.upkeep.moving import unknown_repos

    try:
        async with asyncio.timeout(_GLANCE_SECONDS):
            return await unknown_repos.look(services)
    except (EverrefError, TimeoutError):
        return await vaults.unknown(services.db)


async def log(call: Call) -> int:
    """How the refs moved."""
    args = call.args
    since = call.when(args.since)
    async with call.services() as services:
        from mirror.core import globs, refs
        from mirror.restore import moment
        from mirror.store.backup import epochs, history, reported_updates

        globs.check(args.ref)
        repo = await moment.repo_named(services, args.repo, args.team)
        is_time = since is None or isinstance(since, datetime)
        first = 1 if is_time else (await moment.snapshot_at(services, repo, since)).number
        found = history.changes(
            services.db,
            repo.id,
            reverse=args.reverse,
            since=since if isinstance(since, datetime) else None,
            kinds=(Kind.FORCED,) if args.forced else (),
        )
        lost = [
            one
            for one in await reported_updates.lost(services.db, repo.id)
            if one.snapshot >= first and (not isinstance(since, datetime) or one.at >= since)
        ]
        if not args.reverse:
            lost.reverse()
        dropped = {number for number, _, _ in await epochs.dropped(services.db, repo.id)}
        async for line in history.with_lost(found, lost, reverse=args.reverse):
            if line.snapshot < first and not args.reverse:
                break
            moved = line.change if isinstance(line, history.Logged) else line
            if line.snapshot >= first and (not args.ref or refs.matches(moved.name, args.ref)):
                went = line.snapshot in dropped
                call.out.result(
                    partial(render.change, line, is_dropped=went), partial(shapes.change, line, went)
                )
    return 0


async def refs(call: Call) -> int:
    """Every ref as it was."""
    when = call.when(call.args.at)
    async with call.services() as services:
        from mirror.restore import moment
        from mirror.store.backup import history

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        snapshot = await moment.snapshot_at(services, repo, when)
        if call.args.gone:
            return await _gone(call, services, repo, snapshot)
        known = await history.refs_at(services.db, repo.id, snapshot.number, snapshot.moment)
    for name in sorted(known):
        call.out.result(partial(render.ref, name, known[name]), partial(shapes.ref, name, known[name]))
    return 0


async def _gone(call: Call, services: "Services", repo: Repo, snapshot: "Snapshot") -> int:
    """The refs that were gone at this snapshot."""
    from mirror.store.browse import gone_refs

    before, page = gone_refs.LAST, 1000
    while True:
        found = await gone_refs.gone(services.db, repo.id, snapshot.number, before=before, limit=page)
        for one in found:
            call.out.result(partial(render.gone, one), partial(shapes.gone, one))
        if len(found) < page:
            return 0
        before = found[-1].place
