"""`everref share`: links with which somebody without an account fetches one moment of a repo."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from mirror.core.errors import UsageError
from mirror.core.words import clean, count, size

if TYPE_CHECKING:
    import argparse

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.store.restore.shares import Share, ShareId

HELP = "let somebody without an account fetch a moment of a repo by a link; list and revoke such links"
EPILOG = """\
The link is printed once and not stored. It gives the moment, or the refs that match, as a
bundle, as an archive of files, and as an address that git clones, until it expires or is
revoked. It is vouched for by whoever runs Everref, not by an account: nobody's leaving or new
password ends it, and any operator of the team can. A repo that is called list or revoke is
given as TEAM:NAME.

  everref share REPO                     a new link
  everref share list                     all links of the team, and what became of them
  everref share revoke ID                end one at once

--json: {"url", "share": {...}}; list: one object a line, as docs/command-line.md lists it

examples:
  everref share acme/api --at '#12' --refs main --days 3 --once
  everref share acme/api --password-stdin < password
  everref share list --team acme"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref share`, beside the moment, the refs and the team."""
    parser.add_argument("repo", metavar="REPO|list|revoke", help="the repo; or what to do with links")
    parser.add_argument("id", metavar="ID", nargs="?", help="with revoke: which link, as list shows it")
    parser.add_argument(
        "--days", metavar="N", default="7", help="how long it works: 1 to 90, or 12h (default: 7)"
    )
    parser.add_argument("--once", action="store_true", help="it ends when it was fetched whole")
    parser.add_argument("--password-stdin", action="store_true", help="read a password for it from stdin")
    parser.add_argument("--bundle", action="append_const", dest="forms", const="bundle", help="only a bundle")
    parser.add_argument("--archive", action="append_const", dest="forms", const="archive", help="only files")
    parser.add_argument("--clone", action="append_const", dest="forms", const="clone", help="only git clone")


async def run(call: Call) -> int:
    """`everref share REPO|list|revoke`."""
    if call.args.repo == "list":
        return await _list(call)
    if (call.args.repo == "revoke") != bool(call.args.id):
        raise UsageError(
            "say which link to revoke: everref share revoke ID, with an ID of everref share list"
        )
    return await (_revoke if call.args.id else _make)(call)


async def _make(call: Call) -> int:
    from mirror.core.rules import shares as rules

    password = None
    if call.args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise UsageError("there is no password on stdin; write one line to it")
    async with call.services() as services:
        from mirror.cli import up
        from mirror.people import operator
        from mirror.restore import moment, shares

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        team = await operator.team_of(services, repo)
        wanted = shares.Wanted(
            snapshot=await moment.snapshot_at(services, repo, call.when(call.args.at)),
            globs=call.args.refs,
            forms=rules.forms_of(set(call.args.forms or rules.FORMS)),
            lasts=rules.lasting(call.args.days, await shares.most_days(services, team)),
            password=password,
            once=call.args.once,
        )
        raw, made = await shares.make(services, None, team, repo, wanted)
        url = f"{await up.address(services.settings)}/s/{raw}"
    call.out.result(partial(_made, url, made), partial(_made_shape, url, made))
    return 0


async def _list(call: Call) -> int:
    if call.args.id:
        raise UsageError("everref share list takes no ID; use --team to choose the team")
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store.restore import shares

        team = await operator.team_named(services, call.args.team)
        found = await shares.of_team(services.db, team.id, services.clock(), limit=1000)
    for one in found:
        call.out.result(partial(_line, one), partial(_shape, one))
    if not found:
        call.out.remark(lambda eye: f"{team.name} has no share links")
    return 0


async def _revoke(call: Call) -> int:
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import shares

        team = await operator.team_named(services, call.args.team)
        found = await shares.revoke(services, None, team, _id(call.args.id))
    call.out.said(partial(_line, found), partial(_shape, found))
    return 0


def _id(text: str) -> ShareId:
    from uuid import UUID

    from mirror.store.restore.shares import ShareId

    try:
        return ShareId(UUID(text))
    except ValueError:
        raise UsageError(f"{text!r} is not the ID of a share link; everref share list shows them") from None


def _made(url: str, share: Share, eye: Eye) -> str:
    return (
        f"{url}\n{clean(share.repo_name)} at {share.label}, until {eye.time(share.expires_at)};"
        f" end it by everref share revoke {share.id} --team {share.team.name}"
    )


def _made_shape(url: str, share: Share) -> dict[str, Any]:
    return {"url": url, "share": _shape(share)}


def _line(share: Share, eye: Eye) -> str:
    from mirror.core.rules.shares import WHY

    until = f" until {eye.time(share.expires_at)}" if share.state == "live" else ""
    of = f"{share.label} ({clean(' '.join(share.globs) or 'all refs')})"
    used = f"{count(share.uses, 'use')}, {size(share.bytes)}"
    return f"{share.id}  {eye.repo(share.repo_name)} at {of}  {WHY[share.state]}{until}; {used}"


def _shape(share: Share) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.shares import Share as Shape

    return plain(Shape.of(share))
