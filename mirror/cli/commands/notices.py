"""`everref rpo`, `ping`, `channel` and `notices`: who hears of what, and how."""

from functools import partial

from mirror.cli import environment, render, shapes
from mirror.cli.call import Call
from mirror.core.errors import NotFound, UsageError


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
