"""`everref verify`, `drill` and `coverage`: show that what is kept comes back."""

import time
from functools import partial

from mirror.cli import render, shapes
from mirror.cli.call import Call
from mirror.core.errors import Corrupt, UsageError
from mirror.core.words import count


async def verify(call: Call) -> int:
    """Read back every stored byte; or prove that something was erased."""
    began = time.monotonic()
    if call.args.object and not call.args.erased:
        raise UsageError("--object goes with --erased")
    if call.args.erased:
        if call.args.repo is None:
            raise UsageError("name the repo that was deleted, or of which an object was erased")
        from mirror.cli.commands import pending

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
