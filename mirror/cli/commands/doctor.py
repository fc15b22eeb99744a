"""`everref doctor`: what is used and missing; with --failover, lines for git while a host is down, tried."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mirror.core.errors import NotFound, OurFault, UsageError
from mirror.core.words import count

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.rules.failover import Rule
    from mirror.upkeep.doctor import Finding

_SHOWN = 20  # rules of which the lines are printed; the page has a file with all


def arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref doctor`, beside the team."""
    parser.add_argument(
        "--failover",
        action="store_true",
        help="instead print, and try, the lines with which git fetches from Everref while a host is down",
    )
    parser.add_argument("repo", metavar="REPO", nargs="?", help="with --failover: only this repo")


async def run(call: Call) -> int:
    """What `everref doctor` does."""
    if call.args.failover:
        return await _failover(call)
    if call.args.repo or call.args.team:
        raise UsageError("the doctor looks at the whole installation; a repo or --team goes with --failover")
    async with call.services() as services:
        from mirror.upkeep import doctor

        findings = await doctor.doctor(services)
    return _tell(call, findings, "finding", "need attention; see the advice above")


async def _failover(call: Call) -> int:
    """Print the lines for a team or a repo, and let git list its refs through them."""
    from mirror.cli import up

    async with call.services() as services:
        from mirror.browse import served
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.store.browse import served as rows
        from mirror.upkeep import failover

        origin = await up.address(call.settings)
        repo = None
        if call.args.repo is None:
            team = await operator.team_named(services, call.args.team)
        else:
            repo = await moment.repo_named(services, call.args.repo, call.args.team)
            team = await operator.team_of(services, repo)
        known = await rows.repos_of(services.db, team.id)
        rules = served.rules_of(services.settings, origin, team.name, known)
        if not rules:
            raise NotFound(f"{team.name} has no repository of a host that git could be led away from")
        if repo is not None:
            rules = [rule for rule in rules if repo.name in rule.names] or rules
        call.out.result(partial(_lines, rules), partial(_shape, rules))
        findings = await failover.check(services, origin, team, rules, repo)
    return _tell(call, findings, "repo", "could not be fetched; see the advice above")


def _tell(call: Call, findings: Sequence[Finding], what: str, bad: str) -> int:
    """Print what was found. Raises OurFault, which counts what is bad of so many."""
    from mirror.cli import render, shapes

    if call.out.json:
        for one in findings:
            call.out.result(render.nothing, partial(shapes.finding, one))
    else:
        call.out.result(partial(render.findings, findings), dict)
    wrong = sum(not one.ok for one in findings)
    if wrong:
        raise OurFault(f"{wrong} of {count(len(findings), what)} {bad}")
    return 0


def _shape(rules: Sequence[Rule]) -> dict[str, object]:
    from mirror.shapes.base import plain
    from mirror.shapes.served import Failover

    return plain(Failover.of(list(rules)))


def _lines(rules: Sequence[Rule], eye: Eye) -> str:
    from mirror.core.rules.failover import switch_off, switch_on

    shown = rules[:_SHOWN]
    more = (
        f"\n# and {count(len(rules) - _SHOWN, 'more place')}: the team's page has a file with all"
        if rules[_SHOWN:]
        else ""
    )
    return (
        "\n".join(
            [
                "# On each machine, while the host is down; the password that git asks for is an API token:",
                *switch_on(shown),
                "# Afterwards:",
                *(switch_off(shown)),
            ]
        )
        + more
        + "\n"
    )
