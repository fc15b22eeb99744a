"""`everref mirror` and `everref mirrors`: where a repo, or every repo of a team, lives too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mirror.core.words import clean, count

if TYPE_CHECKING:
    import argparse

    from mirror.cli import shapes
    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.model import Repo
    from mirror.services.open import Services
    from mirror.store.people.teams import Team
    from mirror.store.restore.mirrors import Ended, Mirror, MirrorTarget, Standing

_ONE: Final = """\
Every new snapshot of REPO is pushed to its mirrors, within seconds, by the workers. What somebody else
changed there stays, unless --overwrite; what is deleted at the source stays there, unless --delete.

  everref mirror acme/api                                    its mirrors, and how far each is
  everref mirror acme/api add https://git.example.org/backup/api.git --token-file token
  everref mirror acme/api push                               now, ref by ref, and wait for it
  everref mirror acme/api pause --mirror git.example.org     or resume, or remove

--json: {"mirror", "url", "state", "snapshot", "behind", "lag_seconds", "failure", "refs", ...}"""
_ALL: Final = """\
A mirror of a whole team gets every repository, and those that are added later: {name} becomes the last part
of each name, {owner} what is before it. A repository that is renamed later keeps its address.

  everref mirrors --team acme                                every mirror of the team
  everref mirrors add 'https://git.example.org/backup/{name}' --make --team acme
  everref mirrors pause --mirror git.example.org --team acme

--json: {"id", "repo", "address", "repos", "states", "lag_seconds", ...}"""
_ACTS: Final = ("list", "add", "push", "pause", "resume", "remove")


def arguments(command: Callable[..., argparse.ArgumentParser], team: Callable[..., None]) -> None:
    """What follows these two commands; `team` adds the option --team."""
    one = command("mirror", "push every snapshot of a repository to other hosts too", _ONE)
    one.add_argument("repo", metavar="REPO", help="its name, as `everref repos` shows it")
    _arguments(one)
    team(one, "the team that it belongs to, or write TEAM:NAME")
    every = command("mirrors", "push every snapshot of every repository of a team to other hosts too", _ALL)
    _arguments(every)
    team(every, "of this team (default: the command line's own, or EVERREF_TEAM)")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "act", metavar="list|add|push|pause|resume|remove", nargs="?", choices=_ACTS, default="list"
    )
    parser.add_argument("address", metavar="URL", nargs="?", help="for add: where it is to live too")
    parser.add_argument("--mirror", metavar="TEXT", help="which one: a part of its address, or its id")
    parser.add_argument(
        "--token-file",
        metavar="FILE|-",
        help="for add: a file with the access token or password, for ssh a private key; -: stdin",
    )
    parser.add_argument("--make", action="store_true", help="for add: have the host make what is missing")
    parser.add_argument("--public", action="store_true", help="for add: what is made is public")
    parser.add_argument("--delete", action="store_true", help="for add: delete there what is deleted here")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="for add: overwrite what others change there, once it is saved",
    )


async def one(call: Call) -> int:
    """The mirrors of a repo."""
    call = await call.beside()  # else our own address is another one here than in the workers
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import moment

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        return await _do(call, services, await operator.team_of(services, repo), repo)


async def all_of_team(call: Call) -> int:
    """The mirrors of a team."""
    call = await call.beside()
    async with call.services() as services:
        from mirror.people import operator

        return await _do(call, services, await operator.team_named(services, call.args.team), None)


async def _do(call: Call, services: Services, team: Team, repo: Repo | None) -> int:
    from mirror.core.errors import UsageError
    from mirror.restore import mirrors as flow
    from mirror.store.restore import mirrors as rows

    act = call.args.act
    if (act == "add") != (call.args.address is not None):
        raise UsageError("add needs the URL of the mirror, and nothing else takes one")
    if act == "add":
        made = await flow.add(services, None, team, repo, _wanted(call))
        call.out.said(partial(_added, made), partial(_mirror_shape, made, repo))
        return 0
    if repo is not None:
        found = [
            one for one in await rows.of_repo(services.db, repo.id) if _is_meant(call, one.mirror, one.url)
        ]
        if act == "list":
            return _list(call, services, found)
        if act == "push":
            return await _push(call, services, _some(call, found))
        chosen: Sequence[Mirror] = [one.mirror for one in _some(call, found)]
    else:
        standing = await rows.of_team(services.db, team.id, services.clock())
        of_all = [one for one in standing if _is_meant(call, one.mirror, one.mirror.address)]
        if act == "list":
            return _list_all(call, of_all)
        chosen = _some(call, [one.mirror for one in of_all if one.mirror.repo_id is None])
        if act == "push":
            for mirror in chosen:
                number = await flow.push_now(services, None, team, mirror)
                call.out.said(partial(_asked, mirror, number), partial(_mirror_shape, mirror, None))
            return 0
    if len(chosen) > 1:
        raise UsageError("there are several mirrors; say which one by --mirror")
    return await _change(call, services, team, chosen[0], repo)


async def _change(call: Call, services: Services, team: Team, mirror: Mirror, repo: Repo | None) -> int:
    from mirror.core.errors import UsageError
    from mirror.restore import mirrors as flow

    act = call.args.act
    if repo is not None and mirror.repo_id is None:
        if act != "remove":
            raise UsageError(
                "this is a mirror of the whole team: use everref mirrors, or remove this repo from it"
            )
        await flow.leave_out(services, None, team, mirror, repo)
    elif act == "remove":
        await flow.remove(services, None, team, mirror)
    else:
        mirror = await flow.change(services, None, team, mirror, paused=act == "pause")
    call.out.said(partial(_changed, act, mirror), partial(_mirror_shape, mirror, repo))
    return 0


def _wanted(call: Call) -> Any:
    from mirror.restore.mirrors import Wanted

    args = call.args
    secret = call.secret(args.address) if args.token_file is not None else None
    return Wanted(
        args.address,
        secret,
        make=args.make,
        private=not args.public,
        deletes=args.delete,
        overwrites=args.overwrite,
    )


def _is_meant(call: Call, mirror: Mirror, url: str) -> bool:
    text = call.args.mirror
    return text is None or text == str(mirror.id) or text in url or text in mirror.address


def _some(call: Call, found: Sequence[Any]) -> Sequence[Any]:
    from mirror.core.errors import NotFound

    if not found:
        named = f" with {call.args.mirror!r} in its address" if call.args.mirror else ""
        raise NotFound(f"there is no mirror{named}; `everref mirror REPO add URL` makes one")
    return found


def _list(call: Call, services: Services, found: Sequence[MirrorTarget]) -> int:
    now = services.clock()
    for one in found:
        call.out.result(partial(_target_line, one, now), partial(_target_shape, one, now))
    if not found:
        call.out.remark(lambda _: "no mirror yet: everref mirror REPO add URL")
    return 0


def _list_all(call: Call, found: Sequence[Standing]) -> int:
    for one in found:
        call.out.result(partial(_standing_line, one), partial(_standing_shape, one))
    if not found:
        call.out.remark(lambda _: "no mirror yet: everref mirrors add 'https://HOST/OWNER/{name}'")
    return 0


async def _push(call: Call, services: Services, found: Sequence[MirrorTarget]) -> int:
    """Push to each, and say what became of it; 1: one failed, 4: some refs are not as they should be."""
    from mirror.cli.call import IN_PART
    from mirror.core.errors import UsageError
    from mirror.jobs import mirrors as pushing
    from mirror.people import operator
    from mirror.store.discovery import remotes

    code = 0
    for one in found:
        if one.mirror.paused_at is not None:
            raise UsageError(f"the mirror at {one.url} is paused: everref mirror {one.repo} resume")
        team = (await remotes.get(services.db, one.repo_id)).team_id
        await operator.did_for(services, team, "mirror.push", f"{one.repo} at {one.url}")
        end = await pushing.push_now(services, one.id)
        call.out.said(partial(_end_line, one, end), partial(_end_shape, one, end))
        if end.failure:
            code = 1
        elif (end.counts.get("diverged") or end.counts.get("refused")) and not code:
            code = IN_PART
    return code


def _added(made: Mirror, eye: Eye) -> str:
    return f"{clean(made.address)}  added; the workers push to it within seconds"


def _changed(act: str, mirror: Mirror, eye: Eye) -> str:
    did = {"pause": "paused", "resume": "resumed", "remove": "removed; what is there stays there"}[act]
    return f"{clean(mirror.address)}  {did}"


def _asked(mirror: Mirror, number: int, eye: Eye) -> str:
    return f"{clean(mirror.address)}  the workers push {count(number, 'repo')} now"


def _target_line(one: MirrorTarget, now: Any, eye: Eye) -> str:
    from mirror.restore import mirrors as flow

    good = one.state in ("current", "waiting", "paused")
    state = flow.STATES[one.state]
    return f"{clean(one.url)}  {state if good else eye.paint(state, 'bad')}  {clean(flow.said(one, now))}"


def _standing_line(one: Standing, eye: Eye) -> str:
    from mirror.restore import mirrors as flow

    states = "  ".join(f"{number} {flow.STATES[state]}" for state, number in one.states.items())
    return f"{clean(one.mirror.address)}  {clean(one.repo or 'every repo')}  {states}"


def _end_line(one: MirrorTarget, end: Ended, eye: Eye) -> str:
    if end.failure:
        return f"{clean(one.url)}  {eye.paint('failed', 'bad')}  {clean(end.failure[1])}"
    counts = "  ".join(f"{number} {name}" for name, number in end.counts.items())
    lines = [f"{clean(one.url)}  #{end.snapshot}  {counts}"]
    for ref in end.refs:
        lines.append(f"  {ref['result']:<9} {clean(ref['name'])}  {clean(ref['why'] or '')}")
    return "\n".join([*lines, *(f"  {clean(note)}" for note in end.notes)])


def _mirror_shape(one: Mirror, repo: Repo | None) -> shapes.Shape:
    from mirror.shapes.base import plain
    from mirror.shapes.mirrors import Mirror

    return plain(Mirror.of(one, repo.name if repo else None))


def _target_shape(one: MirrorTarget, now: Any) -> shapes.Shape:
    from mirror.shapes.base import plain
    from mirror.shapes.mirrors import RepoMirror

    return plain(RepoMirror.of(one, (), now))


def _standing_shape(one: Standing) -> shapes.Shape:
    from mirror.shapes.base import plain
    from mirror.shapes.mirrors import TeamMirror

    return plain(TeamMirror.standing(one))


def _end_shape(one: MirrorTarget, end: Ended) -> shapes.Shape:
    return {
        "url": one.url,
        "snapshot": end.snapshot,
        "counts": dict(end.counts),
        "refs": [dict(ref) for ref in end.refs],
        "notes": list(end.notes),
        "failure": end.failure[1] if end.failure else None,
    }
