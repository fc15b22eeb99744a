"""`everref pending` and `everref forget`: asking for what deletes something for ever, and stopping it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse

    from mirror.cli import shapes
    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.store.people.pending import Pending

_PENDING: Final = """\
What deletes something for ever is asked for by one person and confirmed by another; days later it is done.
You who run Everref are one of these two at most: what you asked for, an admin or owner of the team confirms.

  everref pending                        what is pending, of all teams
  everref pending --cancel ID            until it has begun
  everref pending --confirm ID           what somebody else asked for"""
_FORGET: Final = """\
Asks for all backups of a repository to be deleted. An admin or owner of the team must confirm it; then its
days run (7, or what the team has set), in which any of them can cancel it and backups go on. Where the team
has no admin or owner, it waits twice as long.

  everref forget acme/api --why 'the customer left'"""

_ERASE: Final = """\
Asks for an object to be erased out of a repository's whole history, in the vault, its copies, pools and
bundles. The moments that reach it go with it: rewrite it at the host and push first, as the newest must not.
Like `everref forget`, an admin or owner must confirm it, and days pass. Prove afterwards that it is gone:

  git rev-parse COMMIT:path/to/file      the id of a file
  everref erase acme/api --object ID --plan
  everref erase acme/api --object ID --why 'a leaked key'
  everref verify acme/api --erased --object ID"""


def arguments(command: Callable[..., argparse.ArgumentParser], team: Callable[..., None]) -> None:
    """What follows these two commands; `team` adds the option --team."""
    pending = command("pending", "show what waits to be deleted for ever, confirm it or cancel it", _PENDING)
    team(pending, "only of this team (default: all, or EVERREF_TEAM)")
    pending.add_argument(
        "--all", action="store_true", help="also what was done, cancelled or never confirmed"
    )
    act = pending.add_mutually_exclusive_group()
    act.add_argument("--confirm", metavar="ID", help="confirm it as the second person")
    act.add_argument("--cancel", metavar="ID", help="cancel it")
    forget = command("forget", "ask for all backups of a repository to be deleted", _FORGET)
    forget.add_argument("repo", metavar="REPO", help="its name, as `everref repos` shows it")
    team(forget, "the team that it belongs to, or write TEAM:NAME")
    erase = command(
        "erase", "ask for an object, such as a leaked secret, to be erased out of all history", _ERASE
    )
    erase.add_argument("repo", metavar="REPO", nargs="?", help="its name, as `everref repos` shows it")
    erase.add_argument(
        "--whole-team", metavar="TEAM", help="instead, ask for a team to be erased with all its repos"
    )
    erase.add_argument(
        "--person", metavar="EMAIL", help="instead, ask for this person's account to be erased"
    )
    erase.add_argument(
        "--object",
        action="append",
        default=[],
        metavar="ID",
        help="a blob or commit by its whole id; repeatable",
    )
    team(erase, "the team that it belongs to, or write TEAM:NAME")
    erase.add_argument("--plan", action="store_true", help="show what would go with it, and ask for nothing")
    erase.add_argument("--why", metavar="TEXT", default="", help="the reason, for those who can cancel it")
    forget.add_argument("--why", metavar="TEXT", default="", help="the reason, for those who can cancel it")


async def pending(call: Call) -> int:
    """What is pending; or one of these is confirmed or cancelled."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.people import pending as flow
        from mirror.store.people import pending as rows

        if call.args.confirm or call.args.cancel:
            chosen = _id(call.args.confirm or call.args.cancel)
            act = flow.confirm if call.args.confirm else flow.cancel
            found = [await act(services, None, chosen)]
        else:
            team = await operator.team_chosen(services, call.args.team)
            every = call.args.all
            found = (
                await rows.of_team(services.db, team.id, only_open=not every, limit=1000)
                if team
                else await rows.of_all(services.db, only_open=not every)
            )
        now = services.clock()
    for one in found:
        call.out.result(partial(_line, one, now), partial(_shape, one, now))
    if not found:
        call.out.remark(_none)
    return 0


async def forget(call: Call) -> int:
    """Ask for all backups of a repo to be deleted."""
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.upkeep.erasure import forget as letting_go

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        team = await operator.team_of(services, repo)
        asked = await letting_go.ask(services, None, team, repo, call.args.why)
        now = services.clock()
    call.out.said(partial(_line, asked, now), partial(_shape, asked, now))
    return 0


async def erase(call: Call) -> int:
    """Ask for objects to be erased out of all history, or show what would go; or for an account to go."""
    from mirror.core.errors import UsageError

    if [bool(call.args.repo), bool(call.args.person), bool(call.args.whole_team)].count(True) != 1:
        raise UsageError("name a REPO and its --object, or a --person, or a --whole-team")
    if bool(call.args.repo) != bool(call.args.object):
        raise UsageError("name a REPO and its --object; everref forget deletes a whole repo")
    if call.args.repo is None:
        return await _erase_other(call)
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.upkeep.erasure import erase as erasing

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        objects = erasing.objects_of(repo, call.args.object)
        if call.args.plan:
            found = await erasing.reach(services, repo, objects)
            call.out.result(partial(_plan, repo.name, found), partial(_reach, repo.name, found))
            return 0
        team = await operator.team_of(services, repo)
        asked, found = await erasing.ask(services, None, team, repo, objects, call.args.why)
        now = services.clock()
    call.out.remark(partial(_plan, repo.name, found))
    call.out.said(partial(_line, asked, now), partial(_shape, asked, now))
    return 0


async def _erase_other(call: Call) -> int:
    """Ask for an account, or a team, to be erased."""
    async with call.services() as services:
        from mirror.core.errors import NotFound
        from mirror.people import operator
        from mirror.store.people import people
        from mirror.upkeep.erasure import erase_person, erase_team

        if call.args.whole_team:
            team = await operator.team_named(services, call.args.whole_team)
            asked = await erase_team.ask(services, None, team, call.args.why)
        else:
            person = await people.by_email(services.db, call.args.person.strip().lower())
            if person is None:
                raise NotFound("nobody here has this e-mail address")
            asked = await erase_person.ask(services, None, person, call.args.why)
        now = services.clock()
    call.out.said(partial(_line, asked, now), partial(_shape, asked, now))
    return 0


async def proved(call: Call) -> int:
    """Prove that a repo, or objects of one, are gone. Raises Corrupt where something is left."""
    async with call.services() as services:
        from mirror.core.errors import Corrupt, NotFound
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.store.upkeep import erased
        from mirror.upkeep.erasure import erase as erasing
        from mirror.upkeep.erasure import proof

        if call.args.object:
            repo = await moment.repo_named(services, call.args.repo, call.args.team)
            found = await proof.proved_objects(services, repo, erasing.objects_of(repo, call.args.object))
        else:
            team = await operator.team_chosen(services, call.args.team)
            named, _, rest = call.args.repo.partition(":")
            if rest:
                team, name = await operator.team_named(services, named), rest
            else:
                name = named
            gone = await erased.by_name(services.db, team.id if team else None, name)
            if not gone:
                raise NotFound(f"no repo {name} was deleted here; `everref pending --all` shows what was")
            proofs = [await proof.proved(services, one.repo_id) for one in gone]
            found = proof.Proof(
                tuple(line for one in proofs for line in one.looked_at),
                tuple(line for one in proofs for line in one.left),
            )
    call.out.result(partial(_proof, found), partial(_proof_shape, found))
    if found.left:
        raise Corrupt(f"it is not gone: {found.left[0]}")
    return 0


def _plan(name: str, found: Any, eye: Eye) -> str:
    from mirror.core.refs import shown_text
    from mirror.core.words import clean, count

    if not found.present:
        return f"{clean(name)}  has none of these objects, in no moment that is kept"
    goes = f"{count(len(found.snapshots), 'snapshot')} would go with it"
    goes += ": " + ", ".join(f"#{number}" for number in found.snapshots[:20]) if found.snapshots else ""
    by = ", ".join(clean(shown_text(ref)) for ref in found.refs[:10])
    still = "  the newest snapshot still does: rewrite it at its host first" if found.newest else ""
    return f"{clean(name)}  {goes}{f'  through {by}' if by else ''}{still}"


def _reach(name: str, found: Any) -> shapes.Shape:
    from mirror.core.refs import shown_text

    return {
        "repo": name,
        "objects": [oid.decode() for oid in found.objects],
        "present": found.present,
        "snapshots": list(found.snapshots),
        "refs": [shown_text(ref) for ref in found.refs],
        "newest": [shown_text(ref) for ref in found.newest],
    }


def _proof(found: Any, eye: Eye) -> str:
    from mirror.core.words import clean

    lines = [f"looked at  {clean(line)}" for line in found.looked_at]
    lines += [f"id stays   {clean(line)}" for line in found.stays]
    lines += [f"{eye.paint('still there', 'bad')}  {clean(line)}" for line in found.left]
    return "\n".join([*lines, *([] if found.left else [eye.paint("nothing of it is left", "good")])])


def _proof_shape(found: Any) -> shapes.Shape:
    return {
        "looked_at": list(found.looked_at),
        "left": list(found.left),
        "stays": list(found.stays),
        "gone": not found.left,
    }


def _id(text: str) -> Any:
    from uuid import UUID

    from mirror.core.errors import UsageError

    try:
        return UUID(text)
    except ValueError:
        raise UsageError("that is not an id; `everref pending` shows the ids of what is pending") from None


def _line(one: Pending, now: Any, eye: Eye) -> str:
    from mirror.core.words import clean

    state = one.state(now)
    said = {
        "asked": "an admin or owner of the team must confirm it",
        "agreed": f"takes effect at {eye.time(one.takes_effect_at)}" if one.takes_effect_at else "",
        "under-way": "it has begun",
        "done": f"done at {eye.time(one.done_at)}" if one.done_at else "",
        "failed": f"failed: {clean(one.failed or '')}",
        "cancelled": f"cancelled by {clean(one.cancelled_name or '')}",
        "lapsed": "nobody confirmed it in time",
    }[state]
    by = f"asked by {clean(one.asked_name)}"
    by += f", confirmed by {clean(one.confirmed_name)}" if one.confirmed_name else ""
    why = f"  ({clean(one.why)})" if one.why else ""
    paint = eye.paint(state, "bad" if one.is_open else "dim")
    return f"{one.id}  {clean(one.team)}  {paint}  {clean(one.does)}  {by}; {said}{why}"


def _shape(one: Pending, now: Any) -> shapes.Shape:
    from mirror.cli import shapes

    def at(moment: Any) -> str | None:
        return None if moment is None else shapes.at(moment)

    return {
        "id": str(one.id),
        "team": one.team,
        "kind": str(one.kind),
        "subject": one.subject,
        "does": one.does,
        "why": one.why,
        "state": one.state(now),
        "asked_by": one.asked_name,
        "asked_at": shapes.at(one.asked.at),
        "confirmed_by": one.confirmed_name,
        "confirmed_at": at(one.confirmed_at),
        "takes_effect_at": at(one.takes_effect_at),
        "cancelled_by": one.cancelled_name or None,
        "cancelled_at": at(one.cancelled_at),
        "done_at": at(one.done_at),
        "failed": one.failed,
    }


def _none(eye: Eye) -> str:
    return "nothing is pending"
