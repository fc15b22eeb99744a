"""`everref plan`, `restore` and `undo`: bring a moment back."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mirror.cli import environment, render, shapes
from mirror.cli.call import IN_PART, Call
from mirror.core.errors import Corrupt, Refused
from mirror.core.words import count

if TYPE_CHECKING:
    from mirror.core.rules.history.plan import Hidden
    from mirror.restore.restore import Restored, What

_WRITTEN: Final = frozenset({"created", "updated", "removed"})  # results of refs
COUNTING: Final = 600.0  # seconds that a plan waits for its commits


async def plan(call: Call) -> int:
    """What restore would do."""
    when = call.when(call.args.at)
    to = call.remote(call.args.to) if call.args.to else None
    async with call.services() as services:
        from mirror.browse import plan_commits
        from mirror.jobs import attended
        from mirror.restore import moment, restore
        from mirror.services import ssh_access

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        to = to and await ssh_access.ready_for(services, repo, to)
        if call.args.into:
            to = await attended.into(services, repo, call.args.into)
        snapshot = await moment.snapshot_at(services, repo, when)
        made = await restore.plan(services, repo, snapshot, _what(call.args), to)
        commits = plan_commits.NONE
        if to:
            commits = await plan_commits.of_plan_or_none(services, repo, made.moves, made.held, COUNTING)
    where = to.shown if to else None
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
        if args.into:
            to = await attended.into(services, repo, args.into)
        snapshot = await moment.snapshot_at(services, repo, when)
        if to:
            told = {"to": to.shown, "snapshot": snapshot.number, "overwrites": args.force}
            await operator.did_to(services, repo, "restore.push", told)
            job, done = await attended.restore(services, repo, snapshot, to, what)
        elif args.bundle:
            await operator.did_for_repo(services, repo, "restore.bundle", snapshot.numbers)
            done = await restore.to_bundle(services, repo, snapshot, path, what)
        else:
            await operator.did_for_repo(services, repo, "restore.directory", snapshot.numbers)
            done = await restore.to_directory(services, repo, snapshot, path, what)
    where = to.shown if to else args.bundle or args.dir
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
        where = planned.to.shown
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
