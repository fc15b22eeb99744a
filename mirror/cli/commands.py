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
from mirror.config import Settings
from mirror.errors import Corrupt, EverrefError, NetworkError, OurFault, Refused, UsageError
from mirror.model import Kind, Remote, Repo, Secret
from mirror.redact import Redactor
from mirror.words import ago, count, mend

if TYPE_CHECKING:
    from mirror.flows.edges import Edges
    from mirror.flows.restore import Restored
    from mirror.flows.sync import Synced
    from mirror.plan import Hidden
    from mirror.store.teams import Team
    from mirror.when import When

IN_PART: Final = 4  # the exit code of what was done in part
OWN: Final = "everref"  # the command line's own team
_WRITTEN: Final = frozenset({"created", "updated", "removed"})  # results of refs
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

    def edges(self) -> "AbstractAsyncContextManager[Edges]":
        """The outside, open for as long as the command needs it."""
        from mirror.flows.edges import open_edges

        return open_edges(self.settings, self.out.progress, environment.now)

    @property
    def repo(self) -> str:
        """The repo as it was named in this call, for a command that it is to be given to."""
        team = self.args.team
        return f"{self.args.repo} --team {team}" if team else str(self.args.repo)

    async def beside(self) -> "Call":
        """The call as one for the `up` that runs on the same data: forges are told of its port."""
        from mirror.web import up

        return replace(self, settings=await up.beside(self.settings))

    def when(self, text: str | None) -> "When | None":
        """What a WHEN means. None: it was not given."""
        from mirror import when

        return None if text is None else when.parse(text, environment.now())

    def remote(self, text: str) -> Remote:
        """An address and its credentials, judged as far as that goes without asking anybody."""
        from mirror.git import address

        remote = address.parse_remote(text, self.settings.allow_private_remotes)
        if self.args.token_file is None:
            return remote
        user, _, password = text.partition("://")[2].rpartition("@")[0].partition(":")
        if password:
            raise UsageError("there are credentials in the URL and a --token-file; give one of them")
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
    from mirror.web.up import up as everything

    await everything(call.settings, call.args.port or call.settings.port, call.out.json)
    return 0


async def backup(call: Call) -> int:
    """Add the repository if it is new, and take a snapshot if anything moved."""
    began = time.monotonic()
    remote = call.remote(call.args.remote)
    async with call.edges() as edges:
        from mirror.flows import operator, request, sync
        from mirror.store import repos

        team = await operator.team_named(edges, call.args.team)
        known = await repos.by_url(edges.db, team.id, remote.url)
        repo = await request.repo_for(edges, call.args.remote, call.args.name, remote.secret, team=team.id)
        if known is None:
            await operator.did_to(edges, repo, "repo.add", {"url": repo.url})
        else:
            await operator.did_for_repo(edges, repo, "repo.back-up")
        done = await sync.sync(edges, repo.id)
        seconds = time.monotonic() - began
        call.out.said(partial(render.backup, done, seconds), partial(shapes.backup, done, seconds))
        if done.new and done.snapshot.number > 1 and done.snapshot.changes_count:
            await _remark_changes(call, edges, _called(repo, team), done)
        await _refuse_damage(edges, repo)
    return 0


async def _refuse_damage(edges: "Edges", repo: Repo) -> None:
    """Let no backup of what is known to be damaged pass for a good one. Raises Corrupt."""
    from mirror.store import repos

    known = await repos.overview_of(edges.db, repo.id)
    if known.damage:
        found = f"found {ago(known.damage.at, environment.now())}: {known.damage.message}"
        raise Corrupt(f"{repo.name}: what is kept is damaged, {found}; {mend(known.called)}")


def _called(repo: Repo, team: "Team") -> str:
    """What a command calls this repo of a team."""
    return repo.name if team.name == OWN else f"{team.name}:{repo.name}"


async def _remark_changes(call: Call, edges: "Edges", called: str, done: "Synced") -> None:
    """The moves that a person would look up next."""
    from mirror.store import history

    shown = 0
    async for one in history.changes(edges.db, done.repo.id):
        if one.snapshot != done.snapshot.number:
            return
        if shown == _CHANGES_SHOWN:
            return call.out.remark(partial(render.more, called))
        call.out.remark(partial(render.moved, one.change))
        shown += 1


async def repos(call: Call) -> int:
    """What is kept."""
    async with call.edges() as edges:
        from mirror.flows import operator
        from mirror.store import repos

        team = await operator.team_chosen(edges, call.args.team)
        rows = await repos.overview(edges.db, team.id if team else None)
        unknown = await _unknown(edges)
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


async def _unknown(edges: "Edges") -> int:
    """How many repos the vault has that the database does not know; as of the last look where it is away."""
    from mirror.flows import unknown
    from mirror.store import vaults

    try:
        async with asyncio.timeout(_GLANCE_SECONDS):
            return await unknown.look(edges)
    except (EverrefError, TimeoutError):
        return await vaults.unknown(edges.db)


async def log(call: Call) -> int:
    """How the refs moved."""
    args = call.args
    since = call.when(args.since)
    async with call.edges() as edges:
        from mirror import globs, refs
        from mirror.flows import moment
        from mirror.store import claims, history

        globs.check(args.ref)
        repo = await moment.repo_named(edges, args.repo, args.team)
        is_time = since is None or isinstance(since, datetime)
        first = 1 if is_time else (await moment.snapshot_at(edges, repo, since)).number
        found = history.changes(
            edges.db,
            repo.id,
            reverse=args.reverse,
            since=since if isinstance(since, datetime) else None,
            kinds=(Kind.FORCED,) if args.forced else (),
        )
        lost = [
            one
            for one in await claims.lost(edges.db, repo.id)
            if one.snapshot >= first and (not isinstance(since, datetime) or one.at >= since)
        ]
        if not args.reverse:
            lost.reverse()
        async for line in history.with_lost(found, lost, reverse=args.reverse):
            if line.snapshot < first and not args.reverse:
                break
            moved = line.change if isinstance(line, history.Logged) else line
            if line.snapshot >= first and (not args.ref or refs.matches(moved.name, args.ref)):
                call.out.result(partial(render.change, line), partial(shapes.change, line))
    return 0


async def refs(call: Call) -> int:
    """Every ref as it was."""
    when = call.when(call.args.at)
    async with call.edges() as edges:
        from mirror.flows import moment
        from mirror.store import history

        repo = await moment.repo_named(edges, call.args.repo, call.args.team)
        snapshot = await moment.snapshot_at(edges, repo, when)
        known = await history.refs_at(edges.db, repo.id, snapshot.number, snapshot.moment)
    for name in sorted(known):
        call.out.result(partial(render.ref, name, known[name]), partial(shapes.ref, name, known[name]))
    return 0


async def plan(call: Call) -> int:
    """What restore would do."""
    when = call.when(call.args.at)
    to = call.remote(call.args.to) if call.args.to else None
    async with call.edges() as edges:
        from mirror.flows import moment, restore, sshaccess

        repo = await moment.repo_named(edges, call.args.repo, call.args.team)
        to = to and await sshaccess.ready_for(edges, repo, to)
        snapshot = await moment.snapshot_at(edges, repo, when)
        hidden: Hidden = call.args.hidden_refs or "skip"
        made = await restore.plan(
            edges, repo, snapshot, globs=call.args.refs, to=to, hidden=hidden, force=call.args.force
        )
    where = to.url if to else None
    call.out.result(partial(render.plan, made, where), partial(shapes.plan, made, where))
    return 0


async def restore(call: Call) -> int:
    """Bring a moment back."""
    args = call.args
    when = call.when(args.at)
    to = call.remote(args.to) if args.to else None
    path = environment.absolute(args.bundle or args.dir or "")
    async with call.edges() as edges:
        from mirror.flows import attended, moment, operator, restore, sshaccess

        job = None
        repo = await moment.repo_named(edges, args.repo, args.team)
        to = to and await sshaccess.ready_for(edges, repo, to)
        snapshot = await moment.snapshot_at(edges, repo, when)
        if to:
            hidden: Hidden = args.hidden_refs or "skip"
            told = {"to": to.url, "snapshot": snapshot.number, "overwrites": args.force}
            await operator.did_to(edges, repo, "restore.push", told)
            what = attended.What(args.refs, hidden, args.force)
            job, done = await attended.restore(edges, repo, snapshot, to, what)
        elif args.bundle:
            await operator.did_for_repo(edges, repo, "restore.bundle", snapshot.numbers)
            done = await restore.to_bundle(edges, repo, snapshot, path, globs=args.refs, force=args.force)
        else:
            await operator.did_for_repo(edges, repo, "restore.directory", snapshot.numbers)
            done = await restore.to_directory(edges, repo, snapshot, path, globs=args.refs)
    where = to.url if to else args.bundle or args.dir
    code = restore_code(done)
    show = call.out.result if code else call.out.said
    show(partial(render.restored, done, where), partial(shapes.restored, done, job))
    if job and any(ref.result in _WRITTEN for ref in done.refs):
        call.out.remark(partial(render.undoable, call.repo, done.kept))
    if code == 1:
        raise _restore_failure(done, where)
    return code


async def undo(call: Call) -> int:
    """Put back what a restore to a remote overwrote, and remove what it made."""
    args = call.args
    async with call.edges() as edges:
        from mirror.flows import attended, moment, operator
        from mirror.store.jobs import JobId

        repo = await moment.repo_named(edges, args.repo, args.team)
        undone = await attended.undone(edges, repo, JobId(UUID(args.restore)) if args.restore else None)
        secret = call.secret(str(undone.asked.get("to", ""))) if args.token_file else None
        planned = await attended.undo_plan(edges, undone, secret)
        where = planned.to.url
        if args.plan:
            text, shape = render.undo_plan, shapes.undo_plan
            call.out.result(partial(text, planned, repo), partial(shape, planned, repo, undone.id))
            return 0
        await operator.did_to(edges, repo, "restore.undo", {"to": where})
        job, done = await attended.undo_now(edges, repo, undone, secret)
    code = restore_code(done)
    show = call.out.result if code else call.out.said
    show(partial(render.undone, done, where), partial(shapes.restored, done, job, undone.id))
    if code == 1:
        raise _restore_failure(done, where)
    return code


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
    return Corrupt(f"{where} does not read back as it was written; restore to another place and compare")


async def verify(call: Call) -> int:
    """Read back every stored byte."""
    began = time.monotonic()
    async with call.edges() as edges:
        from mirror.flows import moment, operator, verify

        repo = await moment.repo_named(edges, call.args.repo, call.args.team)
        await operator.did_for_repo(edges, repo, "repo.verify")
        found = await verify.verify(edges, repo)
    seconds = time.monotonic() - began
    show = call.out.result if found.problems else call.out.said
    show(partial(render.verified, found, seconds), partial(shapes.verified, found, seconds))
    if found.problems:
        lost = render.numbers(found.damaged)
        rest = f"{lost} cannot be restored whole" if lost else "every snapshot can still be restored"
        raise Corrupt(f"{found.repo.name}: {count(len(found.problems), 'problem')}; {rest}")
    return 0


async def drill(call: Call) -> int:
    """Restore only to prove that it works."""
    when = call.when(call.args.at)
    async with call.edges() as edges:
        from mirror.flows import drill, moment, operator

        repo = await moment.repo_named(edges, call.args.repo, call.args.team)
        await operator.did_for_repo(edges, repo, "repo.drill")
        found = await drill.drill(edges, repo, await moment.snapshot_at(edges, repo, when))
    show = call.out.result if found.problems else call.out.said
    show(partial(render.drilled, found), partial(shapes.drilled, found))
    if found.problems:
        raise Corrupt(
            f"{repo.name}: {found.snapshot.label} did not come back as it was; everref verify says why"
        )
    return 0


async def compact(call: Call) -> int:
    """Merge small parts."""
    async with call.edges() as edges:
        from mirror.flows import compact, operator

        for repo in await _chosen(call, edges):
            await operator.did_for_repo(edges, repo, "repo.compact")
            done = await compact.compact(edges, repo)
            call.out.said(partial(render.compacted, done), partial(shapes.compacted, done))
    return 0


async def prune(call: Call) -> int:
    """Delete what nothing needs any more."""
    from mirror import when

    grace = min(when.span(call.args.grace), _LONGEST_GRACE)
    async with call.edges() as edges:
        from mirror.flows import operator, prune

        chosen = await _chosen(call, edges)
        for repo in chosen:
            await operator.did_for_repo(edges, repo, "repo.prune")
        done = sum([await prune.prune(edges, grace, repo) for repo in chosen], prune.NOTHING)
    call.out.said(partial(render.pruned, done), partial(shapes.pruned, done))
    return 0


async def _chosen(call: Call, edges: "Edges") -> list[Repo]:
    """The repo that was named, or every one, of a team where that was named."""
    from mirror.flows import moment, operator
    from mirror.store import repos

    if call.args.repo is not None:
        return [await moment.repo_named(edges, call.args.repo, call.args.team)]
    team = await operator.team_chosen(edges, call.args.team)
    return await repos.all(edges.db, team.id if team else None)


async def hook(call: Call) -> int:
    """Give a repo a webhook, or take it away."""
    args, call = call.args, await call.beside()
    async with call.edges() as edges:
        from mirror.flows import hook, moment, operator
        from mirror.store import hooks

        repo = await moment.repo_named(edges, args.repo, args.team)
        if args.remove:
            await hook.remove(edges, repo)
            await operator.did_to(edges, repo, "hook.remove")
            call.out.said(partial(render.unhooked, repo), partial(shapes.unhooked, repo))
            return 0
        known = await hooks.of(edges.db, repo.id)
        given = await hook.give(edges, repo, args.forge, new=args.new)
        if given.secret is not None:
            await operator.did_to(edges, repo, "hook.secret" if known else "hook.add")
    call.out.result(partial(render.hook, given, call.repo), partial(shapes.hook, given))
    if call.settings.base_url is None:
        call.out.remark(render.unreachable)
    return 0


async def connect(call: Call) -> int:
    """Connect an account by a token, and keep what is asked for."""
    args, call = call.args, await call.beside()
    given = environment.read_token(args.token_file)
    call.redact.add(given)
    async with call.edges() as edges:
        from mirror.flows import choose, connections, operator, people, relist
        from mirror.forges.contract import Tokens
        from mirror.store import connections as rows
        from mirror.store import listed

        now = environment.now()
        by = people.By(await people.first_owner(edges.db, now), now)
        meant = await operator.team_named(edges, args.team)
        team = await people.team_named(edges.db, by, meant.name)
        app = edges.forges.first(args.forge)
        if args.host:
            app = edges.forges.at(args.forge, args.host).app
        made = await connections.connect(edges, team.id, by.person.id, app, Tokens(given), "token")
        await operator.did_for(edges, team.id, "connection.add", f"{made.login} at {made.host}")
        chosen = (await relist.relist(edges, made.id)).chosen
        who = choose.By(by.person.id, by.person.name)
        if args.everything:
            chosen += await choose.choose_everything(edges, made.id, who, True, at_once=choose.ALL)
        elif args.only:
            chosen += await choose.choose_pattern(edges, made.id, who, args.only, at_once=choose.ALL)
        made = await rows.get(edges.db, made.id) or made
        counts = await listed.counts(edges.db, made.id)
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
    async with call.edges() as edges:
        from mirror.flows import operator
        from mirror.store import connections, listed

        team = await operator.team_named(edges, call.args.team)
        rows = await connections.of_team(edges.db, team.id)
        counted = [(row, await listed.counts(edges.db, row.id)) for row in rows]
    for row, counts in counted:
        call.out.result(partial(render.connection, row, counts), partial(shapes.connection, row, counts))
    if not rows:
        call.out.remark(render.nothing_connected)
    return 0


async def token(call: Call) -> int:
    """An API token of the first owner."""
    from mirror import when

    args, now = call.args, environment.now()
    expires_at = now + when.span(args.expires) if args.expires else None
    async with call.edges() as edges:
        from mirror.flows import operator, people
        from mirror.people import SCOPES

        by = people.By(await people.first_owner(edges.db, now), now)
        team = await people.team_named(edges.db, by, (await operator.team_named(edges, args.team)).name)
        raw, made = await people.make_token(edges.db, by, team, args.name, args.scope or SCOPES, expires_at)
    call.out.result(partial(render.token, raw, made), partial(shapes.token, raw, made))
    return 0


async def ssh_key(call: Call) -> int:
    """The deploy key of a team, made if it has none."""
    async with call.edges() as edges:
        from mirror.flows import operator, sshaccess

        team = await operator.team_named(edges, call.args.team)
        if await sshaccess.known_key(edges, team.id) is None:
            await operator.did_for(edges, team.id, "ssh-key.make", team.name)
        public = (await sshaccess.team_key(edges, team.id)).public
    call.out.result(partial(render.ssh_key, public), partial(shapes.ssh_key, public))
    return 0


async def limits(call: Call) -> int:
    """What a team may have and do; changed first, where that was asked for."""
    from mirror import quotas

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
    async with call.edges() as edges:
        from mirror.flows import limits

        team, found = await limits.of(edges, name or call.args.team, changes, now)
    call.out.result(partial(render.limits, team, found), partial(shapes.limits, team, found))
    return 0


async def sign_in(call: Call) -> int:
    """A one-time link for a person."""
    now = environment.now()
    async with call.edges() as edges:
        from mirror.flows import people
        from mirror.web import up

        known = await people.known_as(edges.db, call.args.email) if call.args.email else None
        path = await people.sign_in_path(edges.db, now, call.args.email)
        url = await up.address(edges.settings) + path
    until = now + people.LINK
    call.out.result(partial(render.link, url, until, known), partial(shapes.link, url, until, known))
    return 0


async def rotate_keys(call: Call) -> int:
    """Seal anew what older keys sealed."""
    async with call.edges() as edges:
        from mirror.flows import rotate

        done = await rotate.everything(edges)
    show = call.out.said if done.done else call.out.result
    show(partial(render.rotated, done), partial(shapes.rotated, done))
    return 0 if done.done else IN_PART


async def sweep(call: Call) -> int:
    """Sync every repo."""
    async with call.edges() as edges:
        from mirror.flows import operator, sweep

        team = await operator.team_chosen(edges, call.args.team)
        if team:
            await operator.did_for(edges, team.id, "team.sweep", team.name)
        done = await sweep.sweep(edges, team.id if team else None)
    for one in done:
        show = call.out.result if one.error else call.out.said
        show(partial(render.swept, one), partial(shapes.swept, one))
    failed = [one.error for one in done if one.error]
    if failed and len(failed) == len(done):
        raise type(failed[0])(f"no repo could be synced; the first: {failed[0]}")
    return IN_PART if failed else 0


async def rebuild(call: Call) -> int:
    """Read the vault back into the database."""
    async with call.edges() as edges:
        from mirror.flows import rebuild

        incomplete = None
        try:
            done = await rebuild.rebuild(edges)
        except rebuild.Incomplete as error:
            done, incomplete = error.recovered, error
    for one in done.repos:
        call.out.said(partial(render.rebuilt, one), partial(shapes.rebuilt, one))
    if done.state:
        show = call.out.result if done.state.aside else call.out.said
        show(partial(render.taken_up, done.state), partial(shapes.taken_up, done.state))
    elif not done.repos:
        call.out.remark(render.nothing)
    if incomplete:
        raise incomplete
    return IN_PART if done.state and done.state.aside else 0


async def export(call: Call) -> int:
    """Store the state in the vault, now."""
    async with call.edges() as edges:
        from mirror.flows import state

        done = await state.export(edges)
    call.out.said(partial(render.exported, done), partial(shapes.exported, done))
    return 0


async def migrate(call: Call) -> int:
    """Bring the database up to date. Needs no vault."""
    from mirror import store, when

    patience = when.span(call.args.wait).total_seconds()
    async with AsyncExitStack() as stack:
        url = call.settings.database_url
        if url is None:
            from mirror.embedded import services

            url = (
                await stack.enter_async_context(services(Path(call.settings.data), redis=False))
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


async def doctor(call: Call) -> int:
    """What is used, and what is missing."""
    async with call.edges() as edges:
        from mirror.flows import doctor

        findings = await doctor.doctor(edges)
    if call.out.json:
        for one in findings:
            call.out.result(render.nothing, partial(shapes.finding, one))
    else:
        call.out.result(partial(render.findings, findings), dict)
    bad = sum(not one.ok for one in findings)
    if bad:
        raise OurFault(f"{bad} of {count(len(findings), 'finding')} want attention; see the advice above")
    return 0


COMMANDS: Final[Mapping[str, Callable[[Call], Coroutine[Any, Any, int]]]] = {
    "up": up,
    "backup": backup,
    "repos": repos,
    "log": log,
    "refs": refs,
    "plan": plan,
    "restore": restore,
    "undo": undo,
    "verify": verify,
    "drill": drill,
    "compact": compact,
    "prune": prune,
    "hook": hook,
    "connect": connect,
    "connections": connections,
    "token": token,
    "ssh-key": ssh_key,
    "limits": limits,
    "sign-in": sign_in,
    "rotate-keys": rotate_keys,
    "sweep": sweep,
    "export": export,
    "rebuild": rebuild,
    "migrate": migrate,
    "doctor": doctor,
}
