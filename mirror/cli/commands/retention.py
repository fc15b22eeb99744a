"""`everref retention`, `everref hold` and `everref pin`: what is kept, and what may go."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mirror.core.errors import UsageError
from mirror.core.words import clean, count, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.model import Repo
    from mirror.core.rules.keeping.retention import Policy
    from mirror.services.open import Services
    from mirror.store.people.pending import Pending
    from mirror.store.people.teams import Team
    from mirror.upkeep.epoch import NewEpoch
    from mirror.upkeep.retention import Preview

HELP = "show what a retention policy would drop and why the rest stays; save and apply it"
EPILOG = """\
A snapshot stays if any number of the policy keeps it. Without a policy everything is kept
for ever. `plan` changes nothing. `apply` with numbers saves the policy of the repo, or else
of the team; one that keeps less than now needs a second person and some days. `apply`
without numbers drops what the saved policy no longer keeps, now.

--json of plan: one object for each repo, as the API has it (docs/api.md)

examples:
  everref retention plan --repo acme/api --days 30 --weekly 12 --yearly 5
  everref retention apply --repo acme/api --days 30 --weekly 12 --yearly 5
  everref retention apply --repo acme/api"""
HOLD = "put a repo on legal hold, so that nothing of it goes; or ask for the hold to be lifted"
HOLD_EPILOG = """\
While a hold stands, nothing of the repo is dropped, deleted or erased. It is set at once;
lifting it needs a second person and some days. Without an option the hold is shown.

examples:
  everref hold acme/api --reason "case 12-345"
  everref hold acme/api --lift"""
PIN = "keep a snapshot, whatever the retention policy says"
PIN_EPILOG = """\
Without SNAPSHOT the kept ones are listed. --remove leaves it to the policy again, which
needs a second person and some days.

examples:
  everref pin acme/api 12 --note "release 1.0"
  everref pin acme/api 12 --remove"""

_NUMBERS = {
    "keep_last": "the newest N snapshots",
    "days": "everything of the last N days",
    "daily": "the last of each of the last N days that have one",
    "weekly": "the same for weeks",
    "monthly": "the same for months",
    "yearly": "the same for years",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref retention`, beside the team."""
    parser.add_argument("what", choices=("plan", "apply"), metavar="plan|apply", help="look, or do it")
    parser.add_argument("--repo", metavar="REPO", help="only this repo (default: the team's)")
    for name, says in _NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="N", help=says)
    parser.add_argument("--for-ever", action="store_true", help="keep everything")
    parser.add_argument("--inherit", action="store_true", help="the repo has its team's policy again")
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for who has to confirm it")
    parser.add_argument(
        "--clock-is-right",
        action="store_true",
        help="drop although the vault does not show for some days that the clock is right",
    )


def hold_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref hold REPO`."""
    parser.add_argument("--reason", metavar="TEXT", help="put it on hold, for this reason")
    parser.add_argument("--lift", action="store_true", help="ask for the hold to be lifted")
    parser.add_argument("--why", default="", metavar="TEXT", help="why it is to be lifted")


def pin_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref pin REPO`."""
    parser.add_argument("snapshot", nargs="?", metavar="SNAPSHOT", help="its number")
    parser.add_argument("--note", metavar="TEXT", help="why it is kept")
    parser.add_argument("--remove", action="store_true", help="ask for it to be left to the policy again")


async def run(call: Call) -> int:
    """`everref retention plan|apply`."""
    from mirror.core.rules.keeping import retention as rules

    given = {name: getattr(call.args, name) for name in _NUMBERS}
    policy: Policy | None = None
    if call.args.for_ever or any(value is not None for value in given.values()):
        policy = rules.parse(given | {"for_ever": call.args.for_ever})
    if call.args.inherit and (policy is not None or call.args.repo is None or call.args.what == "plan"):
        raise UsageError("--inherit goes with `apply --repo REPO` and no numbers")
    async with call.services() as services:
        from mirror.people import operator, retention
        from mirror.restore import moment
        from mirror.upkeep import retention as upkeep

        repo = None
        if call.args.repo is not None:
            repo = await moment.repo_named(services, call.args.repo, call.args.team)
            team = await operator.team_of(services, repo)
        else:
            team = await operator.team_named(services, call.args.team)
        if call.args.what == "apply" and (policy is not None or call.args.inherit):
            asked = await retention.set_policy(services, None, team, policy, repo, why=call.args.why)
            now = await retention.policy_of(services, team, repo)
            call.out.said(partial(_set, asked, now), partial(_set_shape, asked, now))
            return 0
        if call.args.what == "apply":
            return await _apply(call, services, team, repo)
        meant = policy or await retention.policy_of(services, team, repo)
        if repo is not None:
            found = [await upkeep.preview(services, repo, meant)]
        else:
            found = await upkeep.of_team(services, team.id, meant)
    for one in found:
        call.out.result(partial(_preview, one), partial(_preview_shape, one))
    return 0


async def _apply(call: Call, services: Services, team: Team, repo: Repo | None) -> int:
    from mirror.people import retention
    from mirror.store import repos
    from mirror.upkeep import retention as upkeep

    for one in [repo] if repo else await repos.all(services.db, team.id):
        policy = await retention.policy_of(services, team, one)
        made = await upkeep.apply(services, one, policy, clock_is_right=call.args.clock_is_right)
        call.out.said(partial(_applied, one, made), partial(_applied_shape, one, made))
    return 0


async def run_hold(call: Call) -> int:
    """`everref hold`."""
    if call.args.lift and call.args.reason:
        raise UsageError("give --reason to put it on hold, or --lift; not both")
    async with call.services() as services:
        from mirror.people import operator, retention
        from mirror.restore import moment
        from mirror.store.upkeep import keeping

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        team = await operator.team_of(services, repo)
        if call.args.lift:
            asked = await retention.lift(services, None, team, repo, call.args.why)
            call.out.said(partial(_asked, asked), partial(_asked_shape, asked))
            return 0
        if call.args.reason is not None:
            await retention.hold(services, None, team, repo, call.args.reason)
        found = await keeping.hold(services.db, repo.id)
    call.out.result(partial(_hold, repo, found), partial(_hold_shape, repo, found))
    return 0


async def run_pin(call: Call) -> int:
    """`everref pin`."""
    async with call.services() as services:
        from mirror.people import operator, retention
        from mirror.restore import moment
        from mirror.store.upkeep import keeping

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        team = await operator.team_of(services, repo)
        if call.args.snapshot is not None:
            text = call.args.snapshot.removeprefix("#")
            if not (text.isascii() and text.isdecimal()):
                raise UsageError("give the number of a snapshot, such as 12")
            if call.args.remove:
                asked = await retention.unpin(services, None, team, repo, int(text))
                call.out.said(partial(_asked, asked), partial(_asked_shape, asked))
                return 0
            if call.args.note is None:
                raise UsageError("say why it is kept: --note TEXT")
            await retention.pin(services, None, team, repo, int(text), call.args.note)
        elif call.args.remove or call.args.note:
            raise UsageError("say which snapshot, by its number")
        found = await keeping.pins(services.db, repo.id)
    call.out.result(partial(_pins, repo, found), partial(_pins_shape, repo, found))
    return 0


def _preview(one: Preview, eye: Eye) -> str:
    plan = one.plan
    verb = "stays" if len(plan.kept) == 1 else "stay"
    lines = [
        f"{eye.repo(one.repo.name)}  {plan.policy}: {count(len(plan.kept), 'snapshot')} {verb},"
        f" {len(plan.dropped)} would go"
    ]
    if plan.dropped:
        before, after = one.earliest_before, one.earliest_after
        if before and after:
            lines.append(f"earliest moment: {eye.time(before)} now, {eye.time(after)} after that")
        freed = (
            f"at most {size(one.size.at_most)}"
            if one.size.at_most
            else "nothing, as later snapshots need it all"
        )
        lines.append(f"would free {freed}, of {size(one.size.stored)}")
        if plan.stopped:
            lines.append(f"not now: {plan.stopped}")
        elif not one.worth:
            lines.append("they go with a later rewrite: it is worth it for more of them, or after a month")
    lines += [f"  goes   #{gone.number}  {eye.time(gone.at)}" for gone in plan.dropped]
    for kept in plan.kept:
        lines.append(f"  stays  #{kept.number}  {eye.time(kept.at)}  {clean('; '.join(kept.because))}")
    return "\n".join(lines)


def _preview_shape(one: Preview) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.retention import RetentionPreview

    return plain(RetentionPreview.of(one))


def _set(asked: Pending | None, now: Policy, eye: Eye) -> str:
    return _asked(asked, eye) if asked else f"saved: {now}"


def _set_shape(asked: Pending | None, now: Policy) -> dict[str, Any]:
    return {"policy": str(now), **(_asked_shape(asked) if asked else {"pending": None})}


def _asked(asked: Pending, _: Eye) -> str:
    from mirror.people import pending

    return clean(pending.told(asked, "asked"))


def _asked_shape(asked: Pending) -> dict[str, Any]:
    return {"pending": str(asked.id), "does": asked.does}


def _applied(repo: Repo, made: NewEpoch | None, eye: Eye) -> str:
    if made is None:
        return f"{eye.repo(repo.name)}  nothing to drop"
    change = f"{size(made.bytes_before)} before, {size(made.bytes_after)} now"
    return f"{eye.repo(repo.name)}  {count(len(made.dropped), 'snapshot')} dropped; {change}"


def _applied_shape(repo: Repo, made: NewEpoch | None) -> dict[str, Any]:
    if made is None:
        return {"repo": repo.name, "dropped": []}
    return {
        "repo": repo.name,
        "dropped": list(made.dropped),
        "epoch": made.number,
        "bytes_before": made.bytes_before,
        "bytes_after": made.bytes_after,
    }


def _hold(repo: Repo, found: Any, eye: Eye) -> str:
    if found is None:
        return f"{eye.repo(repo.name)}  not on hold"
    why = f"{clean(found.reason)} (set by {clean(found.set_by)})"
    return f"{eye.repo(repo.name)}  on legal hold since {eye.time(found.set_at)}: {why}"


def _hold_shape(repo: Repo, found: Any) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.retention import LegalHold

    return {"repo": repo.name, "hold": plain(LegalHold.of(found)) if found else None}


def _pins(repo: Repo, found: Sequence[Any], eye: Eye) -> str:
    if not found:
        return f"{eye.repo(repo.name)}  no snapshot is kept by hand"
    return "\n".join(
        f"{eye.repo(repo.name)}  #{one.snapshot}  {clean(one.note)} ({clean(one.by)}, {eye.time(one.at)})"
        for one in found
    )


def _pins_shape(repo: Repo, found: Sequence[Any]) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.retention import KeptByHand

    return {"repo": repo.name, "kept": [plain(KeptByHand.of(one)) for one in found]}
