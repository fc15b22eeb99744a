"""`everref pushes` and `everref rollback`: what was pushed to a team's repos, and putting it back."""

from __future__ import annotations

from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mirror.core.errors import NotFound, UsageError
from mirror.core.words import clean, count, name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from datetime import datetime

    from mirror.browse.plan_commits import PlanCommits
    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.model import RepoId
    from mirror.core.rules.history.rollback import Wanted
    from mirror.jobs.rollbacks import Line, State
    from mirror.services.open import Services
    from mirror.store.browse.incidents import Changed, Found
    from mirror.store.people.teams import Team
    from mirror.store.restore.rollbacks import PlannedRef, RollbackId

PUSHES = "list what was pushed to all repos of a team, by account, time and kind, newest first"
PUSHES_EPILOG = """\
Without --since it is the last day. An account is what the host named, whatever its case;
pushes that no webhook told of have none: --untold lists those. One that never pushed is
named, with those who did (exit code 3). Kinds: created, pushed, forced, deleted, tag (one
that was moved), default (the default branch changed).

--json: one object a change, as docs/command-line.md lists it

examples:
  everref pushes --team acme --actor mallory --since 'Friday 18:00'
  everref pushes --team acme --since '2h ago' --kind forced --kind deleted --csv > taken.csv"""
ROLLBACK = "put back what an account pushed to any number of repos, each ref to just before"
ROLLBACK_EPILOG = """\
Each ref goes back to what it held just before the first of these changes, if it still
holds what the plan saw; what its repo holds now is saved first. Refs that others pushed
to since are left (--moved takes them, too), and so are refs that did not exist before
(--created deletes them). One repo that fails stops no other: --again goes on, --undo puts
back all that a rollback wrote.

--json: one object, the rollback as docs/command-line.md lists it

examples:
  everref rollback --team acme --actor mallory --since 'Friday 18:00' --plan
  everref rollback --team acme --actor mallory --since 'Friday 18:00'
  everref rollback --team acme --undo 0c6f9d4e-5a1b-4c51-9f0e-7f3f0f8c2a11"""

_COUNTING: Final = 60.0  # seconds that a plan waits for its commits
_DOES: Final = {"ready": "", "moved": "", "back": "unchanged", "dropped": "lost", "fixed": "left"}


def _chosen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", metavar="WHEN", help="only what was pushed at or after this time")
    parser.add_argument("--until", metavar="WHEN", help="only what was pushed by then (default: now)")
    parser.add_argument("--actor", action="append", default=[], metavar="NAME", help="by this account")
    parser.add_argument("--untold", action="store_true", help="by accounts that the host did not name")
    parser.add_argument("--kind", action="append", default=[], metavar="KIND", help="only of this kind")
    parser.add_argument("--repo", action="append", default=[], metavar="GLOB", help="only these repos")
    parser.add_argument("--ref", action="append", default=[], metavar="GLOB", help="only these refs")


def pushes_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref pushes`, beside the team."""
    _chosen(parser)
    parser.add_argument("--csv", action="store_true", help="print CSV: one line for each change")


def rollback_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref rollback`, beside the team."""
    _chosen(parser)
    parser.add_argument("--created", action="store_true", help="also delete refs that did not exist before")
    parser.add_argument("--moved", action="store_true", help="also refs that others pushed to since")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="show what it would do, and do nothing")
    what.add_argument("--undo", metavar="ID", help="instead, undo this rollback, wholly")
    what.add_argument("--again", metavar="ID", help="instead, go on with the repos of this one that failed")


def _meant(call: Call, now: datetime) -> Wanted:
    from mirror.core.rules.history.rollback import wanted

    args = call.args
    given = {"since": [args.since or ""], "until": [args.until or ""], "actor": args.actor}
    given |= {"kind": args.kind, "repo": args.repo, "ref": args.ref}
    return wanted(given, now, UTC, untold=args.untold)


async def pushes(call: Call) -> int:
    """What was pushed to the team's repos."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store.browse import incidents

        meant = _meant(call, services.clock())
        team = await operator.team_named(services, call.args.team)
        found = await incidents.changes(services.db, team.id, meant)
        strangers = await incidents.strangers(services.db, team.id, meant)
    if call.args.csv and not call.out.json:
        call.out.result(partial(_table, found), dict)
    for one in () if call.args.csv and not call.out.json else found.changes:
        call.out.result(partial(_pushed, one), partial(_pushed_shape, one))
    if not found.changes and not strangers:
        call.out.remark(_nothing)
    if found.more:
        call.out.remark(partial(_more, len(found.changes)))
    if strangers:  # not only an empty list, which would read like an all-clear
        raise NotFound(strangers.sentence)
    return 0


def _nothing(_: Eye) -> str:
    return "nothing was pushed that matches"


def _more(shown: int, _: Eye) -> str:
    return f"there is more than these {shown:,}: choose a shorter time, an account or fewer repos"


def _table(found: Found, _: Eye) -> str:
    from mirror.core.formats.spreadsheet import csv_of
    from mirror.shapes.incident import COLUMNS, rows

    return csv_of(COLUMNS, rows(found)).replace("\r\n", "\n").rstrip("\n")


def _pushed(one: Changed, eye: Eye) -> str:
    from mirror.cli.render import target

    ends = " -> ".join(target(end) for end in (one.change.old, one.change.new) if end is not None)
    by = clean(one.change.by) if one.change.by else "not told"
    taken = one.what in ("forced", "deleted", "tag")
    what = eye.paint(one.what.ljust(8), "bad" if taken else "")
    where = f"{eye.repo(one.repo)}  {name(one.change.name)}"
    return f"{eye.time(one.logged.at)}  {what}  {where}  {eye.paint(ends, 'faint')}  by {by}"


def _pushed_shape(one: Changed) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.incident import TeamRefChange

    return plain(TeamRefChange.of_team(one))


async def rollback(call: Call) -> int:
    """Plan a rollback, and do it unless only the plan was asked for; or go on with one, or undo it."""
    args = call.args
    if not (args.undo or args.again):
        narrowed = args.actor or args.untold or args.repo or args.ref
        if not args.since or not narrowed:
            raise UsageError(
                "say since when (--since) and what to put back: --actor, --untold, --repo or --ref"
            )
    async with call.services() as services:
        from mirror.jobs import attended, rollbacks
        from mirror.people import operator

        team = await operator.team_named(services, args.team)
        do = partial(attended.of_rollback, services)
        if args.undo or args.again:
            chosen = _id(args.undo or args.again)
            begun = await rollbacks.state(services, team.id, chosen)
            await _audit(services, team, "undo" if args.undo else "again", begun)
            act = rollbacks.undo_all if args.undo else rollbacks.again
            done = await act(services, team.id, chosen, do)
        else:
            planned, commits = await _planned(call, services, team)
            call.out.result(partial(_plan, planned, commits), partial(_shape, planned, commits))
            if args.plan:
                return 0
            await _audit(services, team, "begin", planned)
            done = await rollbacks.begin(services, team.id, planned.rollback.id, do)
    call.out.result(partial(_done, done), partial(_shape, done, {}))
    return 0 if done.name in ("done", "undone") else 4


async def _planned(call: Call, services: Services, team: Team) -> tuple[State, dict[RepoId, PlanCommits]]:
    from mirror.browse import plan_commits
    from mirror.core.rules.roles import Role
    from mirror.jobs import rollbacks
    from mirror.restore import rollback as planning
    from mirror.restore.target import Authority

    made = await planning.plan(
        services,
        team.id,
        _meant(call, services.clock()),
        Authority(Role.OWNER, here=True),
        created=call.args.created,
        moved=call.args.moved,
    )
    commits = await plan_commits.of_repos(services, planning.moves(made), _COUNTING)
    return await rollbacks.state(services, team.id, made.id), commits


def _id(text: str) -> RollbackId:
    from mirror.store.restore.rollbacks import RollbackId

    try:
        return RollbackId(UUID(text))
    except ValueError:
        raise NotFound(f"there is no rollback {clean(text)}; take the id that it printed") from None


async def _audit(services: Services, team: Team, what: str, found: State) -> None:
    from mirror.people import operator
    from mirror.store import repos

    detail = {"rollback": str(found.rollback.id), "refs": found.rollback.chosen, **found.rollback.asked}
    await operator.did_for(services, team.id, f"rollback.{what}", found.sentence, detail)
    action = "restore.undo" if what == "undo" else "restore.push"
    for line in found.lines:
        repo = await repos.get(services.db, line.planned.repo_id)
        told = {"to": repo.url, "rollback": str(found.rollback.id), "overwrites": True}
        await operator.did_for_repo(services, repo, action, told)


def _shape(found: State, commits: dict[RepoId, PlanCommits]) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.incident import Rollback

    return plain(Rollback.of(found, commits))


def _plan(found: State, commits: dict[RepoId, PlanCommits], eye: Eye) -> str:
    from mirror.browse.plan_commits import NONE

    lines: list[str] = []
    for one in found.rollback.repos:
        lines.append(f"{eye.repo(one.repo)}  {count(one.chosen, 'ref')} to put back")
        if one.problem:
            lines.append(f"  {eye.paint('its host could not be asked', 'warn')}: {clean(one.problem)}")
        told = commits.get(one.repo_id, NONE).by_name
        lines += [_ref(ref, told, eye) for ref in one.refs]
    lines.append(f"rollback {found.rollback.id}: {found.sentence}")
    return "\n".join(lines)


def _ref(one: PlannedRef, told: Any, eye: Eye) -> str:
    from mirror.cli.render import target

    ref = one.ref
    does = _DOES[ref.state] or ("delete" if ref.created else "put back" if ref.expected else "create")
    if ref.state in ("ready", "moved") and not one.chosen:
        does = "left"
    ends = f"{target(ref.expected) or 'gone'} -> {target(ref.target) or 'gone'}"
    commits = told.get(ref.name)
    parts = [f"loses {count(commits.loses, 'commit')}"] if commits and commits.loses else []
    parts += [f"gains {count(commits.gains, 'commit')}"] if commits and commits.gains else []
    if ref.why:
        parts.append(clean(ref.why))
    paint = {"put back": "good", "create": "good", "delete": "bad", "lost": "bad"}.get(does, "faint")
    about = f"  ({'; '.join(parts)})" if parts else ""
    return f"  {eye.paint(does.ljust(9), paint)}  {ends}  {name(ref.name)}{about}"


def _done(found: State, eye: Eye) -> str:
    lines = [_line(one, eye) for one in found.lines]
    lines.append(f"rollback {found.rollback.id}: {found.sentence}")
    if found.undoable:
        lines.append(f"  everref rollback --undo {found.rollback.id} undoes it (with the same --team)")
    return "\n".join(lines)


def _line(one: Line, eye: Eye) -> str:
    counts = ", ".join(f"{number} {result}" for result, number in one.counts.items())
    problem = f"  {eye.paint(clean(one.problem), 'bad')}" if one.problem else ""
    refused = [
        f"\n  {eye.paint('refused', 'bad')}  {clean(ref['name'])}  ({clean(ref['why'] or '')})"
        for ref in _refs(one)
        if ref["result"] == "refused"
    ]
    return f"{eye.repo(one.planned.repo)}  {counts}{problem}{''.join(refused)}"


def _refs(one: Line) -> Sequence[dict[str, Any]]:
    job = one.undone or one.job
    return (job.result or {}).get("refs", []) if job else []
