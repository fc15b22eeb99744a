"""Each command: its words in, one call of a flow, one answer out. Heavy imports wait till they are needed."""

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote
from uuid import UUID

from mirror.cli import environment, render, shapes
from mirror.cli.terminal import Out
from mirror.core.config import Settings
from mirror.core.errors import Corrupt, EverrefError, NetworkError, NotFound, Refused, UsageError
from mirror.core.model import Kind, Remote, Repo, Secret
from mirror.core.redact import Redactor
from mirror.core.words import ago, count, mend

if TYPE_CHECKING:
    from mirror.backup.sync import Synced
    from mirror.core.model import Snapshot
    from mirror.core.rules.history.plan import Hidden
    from mirror.core.times.when import When
    from mirror.restore.restore import Restored, What
    from mirror.services.open import Services
    from mirror.store.people.teams import Team

IN_PART: Final = 4  # the exit code of what was done in part
OWN: Final = "everref"  # the command line's own team
_WRITTEN: Final = frozenset({"created", "updated", "removed"})  # results of refs
COUNTING: Final = 600.0  # seconds that a plan waits for its commits
_GLANCE_SECONDS: Final = 10  # for a vault that is asked what else it has
_CHANGES_SHOWN: Final = 10  # by backup; log shows them all
_ASKED_AGAIN: Final = 1.0  # seconds from one try to the next, of a database that is waited for
_LONGEST_GRACE: Final = timedelta(days=36500)  # what is longer would begin before the calendar does


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the command."""

    args: argparse.Namespace
    settings: Settings
    out: Out
    redact: Redactor

    def services(self) -> "AbstractAsyncContextManager[Services]":
        """The outside, open for as long as the command needs it."""
        from mirror.services.open import open_services

        return open_services(self.settings, self.out.progress, environment.now)

    @property
    def repo(self) -> str:
        """The repo as it was named in this call, for a command that it is to be given to."""
        team = self.args.team
        return f"{self.args.repo} --team {team}" if team else str(self.args.repo)

    async def beside(self) -> "Call":
        """The call as one for the `up` that runs on the same data: forges are told of its port."""
        from mirror.cli import up

        return replace(self, settings=await up.beside(self.settings))

    def when(self, text: str | None) -> "When | None":
        """What a WHEN means. None: it was not given."""
        from mirror.core.times import when

        return None if text is None else when.parse(text, environment.now())

    def remote(self, text: str) -> Remote:
        """An address and its credentials, judged as far as that goes without asking anybody."""
        from mirror.git import address

        remote = address.parse_remote(text, self.settings.allow_private_remotes)
        if self.args.token_file is None:
            return remote
        user, _, password = text.partition("://")[2].rpartition("@")[0].partition(":")
        if password:
            raise UsageError("there are credentials in the URL and a --token-file; use one of them")
        given = self.secret(remote.url)
        if not address.is_ssh(remote.url):
            given = Secret(unquote(user), given.password)
        return Remote(remote.url, given)

    def secret(self, url: str) -> Secret:
        """What the --token-file has for this address: a private key for ssh, else a token."""
        from mirror.git import address

        read = environment.read_key if address.is_ssh(url) else environment.read_token
        given = read(self.args.token_file)
        self.redact.add(given)
        return Secret("", given)


async def up(call: Call) -> int:
    """Everything on this machine, until a signal ends it."""
    from mirror.cli.up import up as everything

    await everything(call.settings, call.args.port or call.settings.port, call.out.json)
    return 0


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


async def plan(call: Call) -> int:
    """What restore would do."""
    when = call.when(call.args.at)
    to = call.remote(call.args.to) if call.args.to else None
    async with call.services() as services:
        from mirror.browse import plan_commits
        from mirror.restore import moment, restore
        from mirror.services import ssh_access

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        to = to and await ssh_access.ready_for(services, repo, to)
        snapshot = await moment.snapshot_at(services, repo, when)
        made = await restore.plan(services, repo, snapshot, _what(call.args), to)
        commits = plan_commits.NONE
        if to:
            commits = await plan_commits.of_plan_or_none(services, repo, made.moves, made.held, COUNTING)
    where = to.url if to else None
    call.out.result(partial(render.plan, made, where, commits), partial(shapes.plan, made, where, commits))
    return 0


def _what(args: argparse.Namespace) -> "What":
    from mirror.restore.restore import What

    hidden: Hidden = args.hidden_refs or "skip"
    return What(args.refs, hidden=hidden, force=args.force, missing=args.only_missing)


async def restore(call: Call) -> int:
    """Bring a moment back."""
    args = call.args
    when = call.when(args.at)
    to = call.remote(args.to) if args.to else None
    path = environment.absolute(args.bundle or args.dir or "")
    async with call.services() as services:
        from mirror.jobs import attended
        from mirror.people import operator
        from mirror.restore import moment, restore
        from mirror.services import ssh_access

        job, what = None, _what(args)
        repo = await moment.repo_named(services, args.repo, args.team)
        to = to and await ssh_access.ready_for(services, repo, to)
        snapshot = await moment.snapshot_at(services, repo, when)
        if to:
            told = {"to": to.url, "snapshot": snapshot.number, "overwrites": args.force}
            await operator.did_to(services, repo, "restore.push", told)
            job, done = await attended.restore(services, repo, snapshot, to, what)
        elif args.bundle:
            await operator.did_for_repo(services, repo, "restore.bundle", snapshot.numbers)
            done = await restore.to_bundle(services, repo, snapshot, path, what)
        else:
            await operator.did_for_repo(services, repo, "restore.directory", snapshot.numbers)
            done = await restore.to_directory(services, repo, snapshot, path, what)
    where = to.url if to else args.bundle or args.dir
    code = restore_code(done)
    show = call.out.result if code else call.out.said
    show(partial(render.restored, done, where), partial(shapes.restored, done, job))
    if done.kept and any(ref.result == "updated" for ref in done.refs):
        call.out.remark(partial(render.undoable, call.repo, done.kept))
    if code == 1:
        raise _restore_failure(done, where)
    return code


async def undo(call: Call) -> int:
    """Put back what a restore to a remote overwrote, and remove what it made."""
    args = call.args
    async with call.services() as services:
        from mirror.jobs import attended
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.store.jobs.jobs import JobId

        repo = await moment.repo_named(services, args.repo, args.team)
        undone = await attended.undone(services, repo, JobId(UUID(args.restore)) if args.restore else None)
        secret = call.secret(str(undone.asked.get("to", ""))) if args.token_file else None
        planned = await attended.undo_plan(services, undone, secret)
        where = planned.to.url
        if args.plan:
            text, shape = render.undo_plan, shapes.undo_plan
            call.out.result(partial(text, planned, repo), partial(shape, planned, repo, undone.id))
            return 0
        await operator.did_to(services, repo, "restore.undo", {"to": where})
        job, done = await attended.undo_now(services, repo, undone, secret)
    code = undo_code(done)
    show = call.out.result if code else call.out.said
    show(partial(render.undone, done, where), partial(shapes.restored, done, job, undone.id))
    if code == 1:
        raise _restore_failure(done, where)
    return code


def undo_code(done: "Restored") -> int:
    """As `restore_code`; 4 also where somebody has moved a ref since, so that it was left."""
    results = {ref.result for ref in done.refs}
    return IN_PART if "skipped" in results and "refused" not in results else restore_code(done)


def restore_code(done: "Restored") -> int:
    """0: all that was to be written was. 4: some was refused. 1: all was, or it does not read back equal."""
    results = {ref.result for ref in done.refs}
    if "refused" in results:
        return IN_PART if results & _WRITTEN else 1
    return 0 if done.verified else 1


def _restore_failure(done: "Restored", where: str) -> Refused | Corrupt:
    refused = sum(ref.result == "refused" for ref in done.refs)
    if refused:
        return Refused(f"nothing was written to {where}: {count(refused, 'ref')} refused, as listed above")
    return Corrupt(f"{where} did not read back as it was written; restore to another place and compare")


async def verify(call: Call) -> int:
    """Read back every stored byte; or prove that something was erased."""
    began = time.monotonic()
    if call.args.object and not call.args.erased:
        raise UsageError("--object goes with --erased")
    if call.args.erased:
        if call.args.repo is None:
            raise UsageError("name the repo that was deleted, or of which an object was erased")
        from mirror.cli import pending

        return await pending.proved(call)
    _one_or_due(call)
    if call.args.due:
        return await _read_due(call)
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.upkeep import verify

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        await operator.did_for_repo(services, repo, "repo.verify")
        found = await verify.verify(services, repo)
    seconds = time.monotonic() - began
    show = call.out.result if found.problems else call.out.said
    show(partial(render.verified, found, seconds), partial(shapes.verified, found, seconds))
    if found.problems:
        lost = render.numbers(found.damaged)
        rest = f"{lost} cannot be restored whole" if lost else "every snapshot can still be restored"
        raise Corrupt(f"{found.repo.name}: {count(len(found.problems), 'problem')}; {rest}")
    return 0


def _one_or_due(call: Call) -> None:
    """Raise UsageError unless either a repo is named, or --due says which ones are meant."""
    if call.args.due == (call.args.repo is not None):
        raise UsageError("name a repo, or use --due for what is due, not both")


async def _read_due(call: Call) -> int:
    """Read again what is due in the rotation."""
    async with call.services() as services:
        from mirror.upkeep import rotation

        found = await rotation.turn(services, at_once=True)
    show = call.out.result if found.problems else call.out.said
    show(partial(render.read_again, found), partial(shapes.read_again, found))
    if found.problems:
        raise Corrupt(f"{count(len(found.problems), 'object')} missing or changed; everref verify says more")
    return 0


async def _drill_due(call: Call) -> int:
    """Drill every repo whose scheduled drill is due, one after the other."""
    bad = 0
    async with call.services() as services:
        from mirror.jobs import proofs
        from mirror.people import operator
        from mirror.restore import drill

        chosen = await proofs.due_now(services)
        if not chosen:
            call.out.remark(lambda eye: "no drill is due")
        for repo, snapshot in chosen:
            await operator.did_for_repo(services, repo, "repo.drill")
            found = await drill.drill(services, repo, snapshot)
            show = call.out.result if found.problems else call.out.said
            show(partial(render.drilled, found), partial(shapes.drilled, found))
            bad += bool(found.problems)
    if bad:
        raise Corrupt(f"{count(bad, 'drill')} failed; everref verify REPO says why")
    return 0


async def _drill_all(call: Call) -> int:
    """Drill every repo of a team at its newest moment; what was done before it was stopped stays."""
    async with call.services() as services:
        from mirror.jobs import team_drills as flow
        from mirror.people import operator
        from mirror.restore import drill, moment
        from mirror.store import repos
        from mirror.store.restore import team_drills

        team = await operator.team_named(services, call.args.team)
        whole = await team_drills.begin(services.db, team.id, services.clock(), attended=True)
        for line in await team_drills.lines(services.db, whole.id):
            if line.result is not None:
                continue
            repo = await repos.get(services.db, line.repo_id)
            await operator.did_for_repo(services, repo, "repo.drill")
            found = await drill.drill(services, repo, await moment.snapshot_at(services, repo, None))
            await flow.record(services, whole.id, found)
            show = call.out.result if found.problems else call.out.said
            show(partial(render.drilled, found), partial(shapes.drilled, found))
        await flow.finish(services, whole)
        done = await team_drills.get(services.db, team.id, whole.id)
        assert done is not None
    call.out.result(partial(render.team_drilled, done), partial(shapes.team_drilled, done))
    if done.failed or done.undone:
        raise Corrupt(
            f"{count(done.failed + done.undone, 'repo')} did not come back; the lines above say why"
        )
    return 0


async def coverage(call: Call) -> int:
    """How much of the vault was read back, and what is due."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store.restore import drills
        from mirror.store.upkeep import readings

        team = await operator.team_chosen(services, call.args.team)
        found = await readings.coverage(services.db, services.clock(), team.id if team else None)
        due = await drills.count_due(services.db, services.clock(), team.id if team else None)
    call.out.result(partial(render.coverage, found, due), partial(shapes.coverage, found, due))
    return 0


async def drill(call: Call) -> int:
    """Restore only to prove that it works."""
    if call.args.all:
        if call.args.due or call.args.repo is not None or call.args.at is not None:
            raise UsageError("--all drills every repo at its newest moment; leave out REPO, --at and --due")
        return await _drill_all(call)
    _one_or_due(call)
    if call.args.due:
        if call.args.at is not None:
            raise UsageError("--due drills each repo at a moment of its own; leave out --at")
        return await _drill_due(call)
    when = call.when(call.args.at)
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import drill, moment

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        await operator.did_for_repo(services, repo, "repo.drill")
        found = await drill.drill(services, repo, await moment.snapshot_at(services, repo, when))
    show = call.out.result if found.problems else call.out.said
    show(partial(render.drilled, found), partial(shapes.drilled, found))
    if found.problems:
        raise Corrupt(
            f"{repo.name}: {found.snapshot.label} did not come back as it was; everref verify says why"
        )
    return 0


async def keys(call: Call) -> int:
    """Who can open sealed backups."""
    from mirror.cli import keys

    return await keys.run(call)


async def evidence(call: Call) -> int:
    """What was proved, in signed statements."""
    from mirror.cli import evidence

    return await evidence.run(call)


async def replicate(call: Call) -> int:
    """Fetch a vault into another place."""
    from mirror.cli import copies

    return await copies.replicate(call)


async def archive(call: Call) -> int:
    """The files of a moment as a tar or zip."""
    from mirror.cli import archive

    return await archive.run(call)


async def pushes(call: Call) -> int:
    """What was pushed to all repos of a team."""
    from mirror.cli import incident

    return await incident.pushes(call)


async def rollback(call: Call) -> int:
    """Put back what an account pushed."""
    from mirror.cli import incident

    return await incident.rollback(call)


async def costs(call: Call) -> int:
    """What a month in the vault costs."""
    from mirror.cli import costs

    return await costs.run(call)


async def share(call: Call) -> int:
    """Make, list or revoke share links."""
    from mirror.cli import shares

    return await shares.run(call)


async def pending(call: Call) -> int:
    """What waits to be deleted for ever."""
    from mirror.cli import pending

    return await pending.pending(call)


async def forget(call: Call) -> int:
    """Ask for all backups of a repo to be deleted."""
    from mirror.cli import pending

    return await pending.forget(call)


async def erase(call: Call) -> int:
    """Ask for an object to be erased out of all history."""
    from mirror.cli import pending

    return await pending.erase(call)


async def mirror(call: Call) -> int:
    """Where a repo lives too."""
    from mirror.cli import mirrors

    return await mirrors.one(call)


async def mirrors(call: Call) -> int:
    """Where every repo of a team lives too."""
    from mirror.cli import mirrors

    return await mirrors.all_of_team(call)


async def vault(call: Call) -> int:
    """What concerns the store of the vault."""
    from mirror.cli import vault

    return await vault.run(call)


async def retention(call: Call) -> int:
    """What is kept, and what would go."""
    from mirror.cli import retention

    return await retention.run(call)


async def hold(call: Call) -> int:
    """A repo's legal hold."""
    from mirror.cli import retention

    return await retention.run_hold(call)


async def pin(call: Call) -> int:
    """The snapshots that are kept by hand."""
    from mirror.cli import retention

    return await retention.run_pin(call)


async def reseal(call: Call) -> int:
    """Seal what lies plain."""
    from mirror.cli import reseal

    return await reseal.run(call)


async def compact(call: Call) -> int:
    """Merge small parts."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.upkeep import compact

        for repo in await _chosen(call, services):
            await operator.did_for_repo(services, repo, "repo.compact")
            done = await compact.compact(services, repo)
            call.out.said(partial(render.compacted, done), partial(shapes.compacted, done))
    return 0


async def prune(call: Call) -> int:
    """Delete what nothing needs any more."""
    from mirror.core.times import when

    grace = min(when.span(call.args.grace), _LONGEST_GRACE)
    async with call.services() as services:
        from mirror.people import operator
        from mirror.upkeep import prune

        chosen = await _chosen(call, services)
        for repo in chosen:
            await operator.did_for_repo(services, repo, "repo.prune")
        done = sum([await prune.prune(services, grace, repo) for repo in chosen], prune.NOTHING)
    call.out.said(partial(render.pruned, done), partial(shapes.pruned, done))
    return 0


async def _chosen(call: Call, services: "Services") -> list[Repo]:
    """The repo that was named, or every one, of a team where that was named."""
    from mirror.people import operator
    from mirror.restore import moment
    from mirror.store import repos

    if call.args.repo is not None:
        return [await moment.repo_named(services, call.args.repo, call.args.team)]
    team = await operator.team_chosen(services, call.args.team)
    return await repos.all(services.db, team.id if team else None)


async def hook(call: Call) -> int:
    """Give a repo a webhook, or take it away."""
    args, call = call.args, await call.beside()
    async with call.services() as services:
        from mirror.discovery import webhook
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.store.browse import home
        from mirror.store.discovery import hooks

        repo = await moment.repo_named(services, args.repo, args.team)
        if args.remove:
            await webhook.remove(services, repo)
            await operator.did_to(services, repo, "hook.remove")
            call.out.said(partial(render.unhooked, repo), partial(shapes.unhooked, repo))
            return 0
        known = await hooks.of(services.db, repo.id)
        given = await webhook.give(services, repo, args.forge, new=args.new)
        if given.secret is not None:
            await operator.did_to(services, repo, "hook.secret" if known else "hook.add")
        state = await home.hook_of(services.db, repo.id)
        if state is None:
            raise NotFound(f"{repo.name} has no webhook any more; run this again")
    call.out.result(partial(render.hook, given, call.repo), partial(shapes.hook, given, state))
    if call.settings.base_url is None:
        call.out.remark(render.unreachable)
    return 0


async def connect(call: Call) -> int:
    """Connect an account by a token, and keep what is asked for."""
    args, call = call.args, await call.beside()
    given = environment.read_token(args.token_file)
    call.redact.add(given)
    async with call.services() as services:
        from mirror.discovery import choose, connections, discover
        from mirror.forges.contract import Tokens
        from mirror.people import accounts, acting, operator
        from mirror.store.discovery import connections as rows
        from mirror.store.discovery import discovered

        now = environment.now()
        by = acting.By(await accounts.first_owner(services.db, now), now)
        meant = await operator.team_named(services, args.team)
        team = await accounts.team_named(services.db, by, meant.name)
        app = services.forges.first(args.forge)
        if args.host:
            app = services.forges.at(args.forge, args.host).app
        made = await connections.connect(services, team.id, by.person.id, app, Tokens(given), "token")
        await operator.did_for(services, team.id, "connection.add", f"{made.login} at {made.host}")
        chosen = (await discover.relist(services, made.id)).chosen
        who = choose.By(by.person.id, by.person.name)
        if args.everything:
            chosen += await choose.choose_everything(services, made.id, who, True, at_once=choose.ALL)
        elif args.only:
            chosen += await choose.choose_pattern(services, made.id, who, args.only, at_once=choose.ALL)
        made = await rows.get(services.db, made.id) or made
        counts = await discovered.counts(services.db, made.id)
    text, shape = (
        partial(render.connected, made, counts, chosen),
        partial(shapes.connected, made, counts, chosen),
    )
    call.out.said(text, shape)
    if chosen:
        call.out.remark(render.beginning)
    return 0


async def connections(call: Call) -> int:
    """The accounts that are connected."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store.discovery import connections, discovered

        team = await operator.team_named(services, call.args.team)
        rows = await connections.of_team(services.db, team.id)
        counted = [(row, await discovered.counts(services.db, row.id)) for row in rows]
    for row, counts in counted:
        call.out.result(partial(render.connection, row, counts), partial(shapes.connection, row, counts))
    if not rows:
        call.out.remark(render.nothing_connected)
    return 0


async def token(call: Call) -> int:
    """An API token of the first owner."""
    from mirror.core.times import when

    args, now = call.args, environment.now()
    expires_at = now + when.span(args.expires) if args.expires else None
    async with call.services() as services:
        from mirror.core.rules.roles import SCOPES
        from mirror.people import accounts, acting, api_tokens, operator

        by = acting.By(await accounts.first_owner(services.db, now), now)
        team = await accounts.team_named(
            services.db, by, (await operator.team_named(services, args.team)).name
        )
        raw, made = await api_tokens.make_token(
            services.db, by, team, args.name, args.scope or SCOPES, expires_at
        )
    call.out.result(partial(render.token, raw, made), partial(shapes.token, raw, made))
    return 0


async def ssh_key(call: Call) -> int:
    """The deploy key of a team, made if it has none."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.services import ssh_access

        team = await operator.team_named(services, call.args.team)
        if await ssh_access.known_key(services, team.id) is None:
            await operator.did_for(services, team.id, "ssh-key.make", team.name)
        public = (await ssh_access.team_key(services, team.id)).public
    call.out.result(partial(render.ssh_key, public), partial(shapes.ssh_key, public))
    return 0


async def limits(call: Call) -> int:
    """What a team may have and do; changed first, where that was asked for."""
    from mirror.core import quotas

    name, asked = call.args.limited, list(call.args.changes)
    if call.args.team and name:  # then what follows is no name
        name, asked = None, [name, *asked]
    changes: dict[str, int | None | str] = {}
    for one in asked:
        limit, _, value = one.partition("=")
        if limit not in quotas.LIMITS or not value:
            raise UsageError(f"{one}: write NAME=VALUE, with one of {', '.join(quotas.LIMITS)}")
        changes[limit] = value if value == "default" else quotas.read(quotas.LIMITS[limit], value, limit)
    now = environment.now()
    async with call.services() as services:
        from mirror.people import limits

        team, found = await limits.of(services, name or call.args.team, changes, now)
    call.out.result(partial(render.limits, team, found), partial(shapes.limits, team, found))
    return 0


async def rpo(call: Call) -> int:
    """How old a backup may be, of a team or of a repo; set first, where that was asked for."""
    async with call.services() as services:
        from mirror.core.rules.health import objective
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.store import repos
        from mirror.store.discovery import remotes
        from mirror.store.jobs import schedules
        from mirror.store.people import teams

        db, now, text = services.db, environment.now(), call.args.rpo
        if call.args.repo is None:
            repo, own = None, False
            team = await operator.team_named(services, call.args.team)
            if text is not None:
                chosen = objective.parse(text)
                await schedules.set_team_rpo(db, team.id, chosen, now)
                detail = {"rpo": objective.written(chosen)}
                await operator.did(db, team.id, "team.rpo", team.name, detail, now)
            length = await schedules.team_rpo(db, team.id)
        else:
            repo = await moment.repo_named(services, call.args.repo, call.args.team)
            (team,) = await teams.of_ids(db, [(await remotes.get(db, repo.id)).team_id])
            if text is not None:
                wanted = None if text == "team" else objective.parse(text)
                await schedules.set_rpo(db, repo.id, wanted, now)
                await operator.did_to(services, repo, "repo.rpo", {"rpo": text})
            own = await schedules.rpo_of(db, repo.id) is not None
            length = (await schedules.of(db, repo.id)).rpo
        rows = await repos.overview(db, team.id, now)
        outside = [one.name for one in rows if one.outside_rpo and (repo is None or one.id == repo.id)]
    told = shapes.Objective(team.name, repo.name if repo else None, length, own, outside)
    call.out.result(partial(render.objective, told), partial(shapes.objective, told))
    return 0


async def ping(call: Call) -> int:
    """Set up or remove the monitor of a dead man's switch, or ping it now."""
    args = call.args
    url = None
    if args.url_file:
        url = environment.read_token(args.url_file)
        call.redact.add(url)
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store.upkeep import pings
        from mirror.upkeep import ping as pinging

        team = None if args.installation else await operator.team_named(services, args.team)
        if team is not None and args.remove:
            if not await pings.remove(services.db, team.id):
                raise NotFound(f"{team.name} has no monitor to ping")
            await operator.did(services.db, team.id, "ping.remove", team.name, {}, environment.now())
            call.out.said(partial(render.unpinged, team.name), partial(shapes.unpinged, team.name))
            return 0
        if team is not None and url is not None:
            wanted = pinging.wanted(call.settings, url, args.style or "healthchecks", "35", "35")
            if services.keyring is None:
                raise UsageError("SECRET_KEYS is empty, so the address cannot be stored encrypted; set it")
            await pings.put(services.db, services.keyring, team.id, wanted, environment.now())
            detail = {"style": wanted.style}
            await operator.did(services.db, team.id, "ping.set", wanted.shown, detail, environment.now())
        done = await pinging.send_now(services, team.id if team else None)
    name = team.name if team else None
    call.out.result(partial(render.pinged, done), partial(shapes.pinged, name, done))
    return 1 if done.reasons or done.ping.failing_since else 0


async def channel(call: Call) -> int:
    """Show where people are told; add, test, change or remove such a place."""
    args, to, call = call.args, None, await call.beside()
    if args.to_file:
        to = environment.read_token(args.to_file)
        call.redact.add_url(to)
    async with call.services() as services:
        from mirror.people import channels, operator
        from mirror.people.channels import Whose

        team = None if args.installation else await operator.team_named(services, args.team)
        whose = Whose(team=team)
        if to is not None:
            added = await channels.add(services, None, whose, args.add, to, args.channel or "")
            call.out.result(partial(render.channel_added, added), partial(shapes.channel_added, added))
            return 0
        found = await channels.listed(services, whose)
        if args.channel is None:
            for one in found:
                call.out.result(partial(render.channel, one), partial(shapes.channel, one))
            if not found:
                call.out.remark(render.no_channels)
            return 0
        chosen = [one for one in found if args.channel in (str(one.id), one.name)]
        if len(chosen) != 1:
            some = "no channel" if not chosen else "more than one channel"
            raise NotFound(f"{some} is called {args.channel}; everref channel --json shows their ids")
        one = chosen[0]
        if args.test:
            answer = await channels.test(services, None, whose, one.id)
            call.out.result(
                partial(render.channel_tested, one, answer), partial(shapes.channel_tested, answer)
            )
        elif args.new_key:
            key = await channels.rotate(services, None, whose, one.id)
            call.out.result(partial(render.channel_key, key), partial(shapes.channel_key, key))
        elif args.remove:
            gone = await channels.remove(services, None, whose, one.id)
            call.out.said(partial(render.channel_removed, gone), partial(shapes.channel, gone))
        else:
            if args.off is not None:
                off = [kind.strip() for kind in args.off.split(",") if kind.strip()]
                one = await channels.change(services, None, whose, one.id, off=off)
            call.out.result(partial(render.channel, one), partial(shapes.channel, one))
    return 0


async def sign_in(call: Call) -> int:
    """A one-time link for a person."""
    now = environment.now()
    async with call.services() as services:
        from mirror.cli import up
        from mirror.people import accounts, members

        known = await accounts.known_as(services.db, call.args.email) if call.args.email else None
        path = await accounts.sign_in_path(services.db, now, call.args.email)
        url = await up.address(services.settings) + path
    until = now + members.LINK
    call.out.result(partial(render.link, url, until, known), partial(shapes.link, url, until, known))
    return 0


async def rotate_keys(call: Call) -> int:
    """Seal anew what older keys sealed."""
    async with call.services() as services:
        from mirror.upkeep import reencrypt

        done = await reencrypt.everything(services)
    show = call.out.said if done.done else call.out.result
    show(partial(render.rotated, done), partial(shapes.rotated, done))
    return 0 if done.done else IN_PART


async def sweep(call: Call) -> int:
    """Sync every repo."""
    async with call.services() as services:
        from mirror.jobs import sweep
        from mirror.people import operator

        team = await operator.team_chosen(services, call.args.team)
        if team:
            await operator.did_for(services, team.id, "team.sweep", team.name)
        done = await sweep.sweep(services, team.id if team else None)
    for one in done:
        show = call.out.result if one.error else call.out.said
        show(partial(render.swept, one), partial(shapes.swept, one))
    failed = [one.error for one in done if one.error]
    if failed and len(failed) == len(done):
        raise type(failed[0])(f"no repo could be synced; the first: {failed[0]}")
    return IN_PART if failed else 0


async def rebuild(call: Call) -> int:
    """Read the vault back into the database."""
    from mirror.cli import keys

    given = await keys.identity(call.args.identity) if call.args.identity else None
    async with call.services() as services:
        from mirror.upkeep.moving import rebuild

        incomplete = None
        try:
            done = await (rebuild.rebuild_with(services, given) if given else rebuild.rebuild(services))
        except rebuild.Incomplete as error:
            done, incomplete = error.recovered, error
        plain = await rebuild.stored_plain(services) if given else []
    for one in done.repos:
        call.out.said(partial(render.rebuilt, one), partial(shapes.rebuilt, one))
    if done.state:
        show = call.out.result if done.state.aside else call.out.said
        show(partial(render.taken_up, done.state), partial(shapes.taken_up, done.state))
    elif not done.repos:
        call.out.remark(render.nothing)
    if plain:
        call.out.remark(partial(render.stored_plain, plain))
    if incomplete:
        raise incomplete
    return IN_PART if done.state and done.state.aside else 0


async def export(call: Call) -> int:
    """Store the state in the vault, or write repos into a directory."""
    from mirror.cli import moving

    return await (moving.export_repos(call) if call.args.to else moving.export_state(call))


async def create_repo(call: Call) -> int:
    """Create a repository to push to."""
    from mirror.cli import create

    return await create.create_repo(call)


async def import_repos(call: Call) -> int:
    """Import repos out of a directory."""
    from mirror.cli import moving

    return await moving.import_repos(call)


async def migrate(call: Call) -> int:
    """Bring the database up to date. Needs no vault."""
    from mirror import store
    from mirror.core.times import when

    patience = when.span(call.args.wait).total_seconds()
    async with AsyncExitStack() as stack:
        url = call.settings.database_url
        if url is None:
            from mirror.services.embedded import embedded_servers

            url = (
                await stack.enter_async_context(embedded_servers(Path(call.settings.data), redis=False))
            ).database_url
        await _wait_for(url, patience)
        applied = await store.migrate(await stack.enter_async_context(store.opened(url)))
    call.out.said(partial(render.migrated, applied), partial(shapes.migrated, applied))
    return 0


async def _wait_for(url: str, seconds: float) -> None:
    """Until this database answers, for so long at the most; who opens it then is told why it does not."""
    import asyncio

    from mirror import store

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            async with store.opened(url):
                return
        except NetworkError:
            await asyncio.sleep(_ASKED_AGAIN)


async def notices(call: Call) -> int:
    """What people were told lately, and where it went."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store.notify import messages

        team = await operator.team_chosen(services, call.args.team)
        about = messages.About(team_id=team.id) if team else None
        found = await messages.page(services.db, about)
    if call.out.json:
        for one in found:
            call.out.result(render.nothing, partial(shapes.told, one))
    else:
        call.out.result(partial(render.told, found), dict)
    return 0


async def doctor(call: Call) -> int:
    """What is used, and what is missing; or how git fetches from here while a host is down."""
    from mirror.cli import doctor

    return await doctor.run(call)


COMMANDS: Final[Mapping[str, Callable[[Call], Coroutine[Any, Any, int]]]] = {
    "up": up,
    "backup": backup,
    "repos": repos,
    "log": log,
    "refs": refs,
    "plan": plan,
    "restore": restore,
    "undo": undo,
    "share": share,
    "pushes": pushes,
    "rollback": rollback,
    "verify": verify,
    "drill": drill,
    "coverage": coverage,
    "evidence": evidence,
    "retention": retention,
    "hold": hold,
    "pin": pin,
    "replicate": replicate,
    "archive": archive,
    "costs": costs,
    "keys": keys,
    "reseal": reseal,
    "vault": vault,
    "compact": compact,
    "prune": prune,
    "mirror": mirror,
    "mirrors": mirrors,
    "pending": pending,
    "forget": forget,
    "erase": erase,
    "hook": hook,
    "connect": connect,
    "connections": connections,
    "token": token,
    "ssh-key": ssh_key,
    "limits": limits,
    "channel": channel,
    "rpo": rpo,
    "ping": ping,
    "sign-in": sign_in,
    "rotate-keys": rotate_keys,
    "sweep": sweep,
    "export": export,
    "create": create_repo,
    "import": import_repos,
    "rebuild": rebuild,
    "migrate": migrate,
    "notices": notices,
    "doctor": doctor,
}
