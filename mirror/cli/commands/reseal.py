"""`everref reseal`: seal what was stored before a team switched sealing on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mirror.core.errors import Corrupt, UsageError
from mirror.core.rules.keeping.resealing import left
from mirror.core.words import clean, count, minute

if TYPE_CHECKING:
    import argparse

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.upkeep.reseal import Resealed

HELP = "encrypt what was stored before sealing was switched on"
EPILOG = """\
The workers do this by themselves; this command does all of it now. Backups and restores go on
meanwhile, and it can be stopped and run again. What was unencrypted is deleted by everref
prune, a day after it was replaced, or when its Object Lock ends: until then whoever can read
the bucket can still read it.

--json: for each repo {"repo", "objects", "bytes", "left_objects", "left_bytes",
        "kept_objects", "kept_bytes", "kept_until", "kept_held", "problems"}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref reseal`, beside the team."""
    parser.add_argument(
        "--repo", metavar="REPO", help="only this repo (default: all of every team that seals)"
    )


async def run(call: Call) -> int:
    """Seal what lies plain of one repo, of a team, or of all. Raises UsageError, Corrupt."""
    problems = list[str]()
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.store import repos
        from mirror.upkeep import reseal

        if call.args.repo is not None:
            chosen = [await moment.repo_named(services, call.args.repo, call.args.team)]
        else:
            team = await operator.team_chosen(services, call.args.team)
            sealing = set(await reseal.repos_to_seal(services))
            known = await repos.all(services.db, team.id if team else None)
            chosen = [repo for repo in known if repo.id in sealing]
            if known and not chosen:
                who = f"{team.name} does not seal its" if team else "no team here seals its"
                raise UsageError(f"{who} backups; switch that on first: everref keys seal")
        for repo in chosen:
            await operator.did_for_repo(services, repo, "repo.reseal")
            done = await reseal.reseal(services, repo)
            problems += done.problems
            call.out.said(partial(_line, done), partial(_shape, done))
    if problems:
        raise Corrupt(f"{count(len(problems), 'object')} could not be sealed: {problems[0]}")
    return 0


def _line(done: Resealed, eye: Eye) -> str:
    words = f"{left(done.objects, done.bytes)} sealed" if done.objects else "nothing to seal"
    lines = [f"{eye.repo(done.repo.name)}  {words}"]
    rest = done.left
    if rest.objects:
        lines.append(eye.paint(f"  {left(rest.objects, rest.bytes)} still unencrypted", "bad"))
    if rest.kept_objects:
        until = f" until {minute(rest.kept_until)}" if rest.kept_until and not rest.kept_held else ""
        held = ", for as long as a legal hold in the store keeps them" if rest.kept_held else ""
        what = left(rest.kept_objects, rest.kept_bytes)
        lines.append(f"  {what} replaced, and still in the vault unencrypted{until}{held}")
    return "\n".join([*lines, *(eye.paint(f"  {clean(one)}", "bad") for one in done.problems)])


def _shape(done: Resealed) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.keys import PlainLeft

    shown = plain(PlainLeft.of(done.left))
    return {
        "repo": done.repo.name,
        "objects": done.objects,
        "bytes": done.bytes,
        **shown,
        "problems": list(done.problems),
    }
