"""`everref compact`, `prune`, `sweep`, `rebuild`, `export` and `rotate-keys`: what a worker does, by hand."""

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from mirror.cli import render, shapes
from mirror.cli.call import IN_PART, Call
from mirror.core.model import Repo

if TYPE_CHECKING:
    from mirror.services.open import Services

_LONGEST_GRACE: Final = timedelta(days=36500)  # what is longer would begin before the calendar does


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


async def rotate_keys(call: Call) -> int:
    """Seal anew what older keys sealed."""
    async with call.services() as services:
        from mirror.upkeep import reencrypt

        done = await reencrypt.everything(services)
    show = call.out.said if done.done else call.out.result
    show(partial(render.rotated, done), partial(shapes.rotated, done))
    return 0 if done.done else IN_PART


async def rebuild(call: Call) -> int:
    """Read the vault back into the database."""
    from mirror.cli.commands import keys

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
    from mirror.cli.commands import moving

    return await (moving.export_repos(call) if call.args.to else moving.export_state(call))
