"""`everref connect`, `connections`, `hook`, `token`, `ssh-key` and `limits`: forges, people, their limits."""

from functools import partial

from mirror.cli import environment, render, shapes
from mirror.cli.call import Call
from mirror.core.errors import NotFound, UsageError


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
