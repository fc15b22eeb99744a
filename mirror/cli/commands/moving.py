"""`everref export` and `everref import`: the state into the vault; repos to and from another installation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirror.core import words
from mirror.core.words import clean, count

if TYPE_CHECKING:
    import argparse

    from mirror.cli import shapes
    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.upkeep.moving.export_repos import Written
    from mirror.upkeep.moving.import_repos import Imported

EXPORT: Final = "store the state in the vault, encrypted; with --to, repos in a directory"
EXPORT_EPILOG: Final = """\
Without --to: store in the vault, encrypted with SECRET_KEYS, what no snapshot has: teams, people,
roles, connections, hooks, chosen repositories, schedules and the audit logs. The worker does
so once a day, and `everref rebuild` reads the newest one back.

With --to DIR: write these repos, or all of the team, with every snapshot into DIR, for `everref
import` elsewhere (docs/moving.md). Nothing in it is encrypted; restore.sh works on it. Run it
again to go on where it was stopped, or to add later snapshots. It is whole once DIR has an
export.json.

--json: {"state", "taken_at", "bytes", "tables": {TABLE: rows}}; with --to: {"to", "repos":
        [{"id", "name", "snapshots"}], "objects", "bytes", "written"}, `written` objects by this run

examples:
  everref export acme/api --to /srv/acme-api"""
IMPORT: Final = "bring in a repository from a file or a folder, or repos of another installation"
IMPORT_EPILOG: Final = """\
A bundle, a repository (bare or not), or a tar, tar.gz or zip of one becomes a repo that is called
as the file is, or NAME. If that is here already, and has no remote, it gets one more snapshot.
git proves every object first; what is no sound git is refused, and nothing is kept of it. Only
objects and refs are read, no configuration and no hook (docs/bring-in.md).

What everref export --to DIR wrote: all of DIR is compared with its export.json first; if anything
is missing or was changed, nothing is imported. Each repo keeps its id and its history, and is
archived until somebody connects it: everref backup with its address goes on with it. Of a repo
that is here already, later snapshots are added; a history that differs is refused. Run it again
if it was stopped.

--json: {"id", "name", "new", "snapshot", "refs", "commits", "head", "large_files"}; of an export:
        {"id", "name", "snapshots", "added", "was", "held"} for each repo

examples:
  everref import api.bundle
  everref import old-server.tar.gz --name archive/old-server
  everref import /srv/acme-api"""


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref export`."""
    parser.add_argument(
        "repos", metavar="REPO", nargs="*", help="with --to: which repos (default: all of the team)"
    )
    parser.add_argument("--to", metavar="DIR", help="a new or empty directory, or one exported to before")
    parser.add_argument("--team", metavar="TEAM", help="of this team (default: the command line's own)")


def import_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref import`."""
    parser.add_argument(
        "source",
        metavar="FILE|DIR",
        help="a bundle, a repository, an archive of one, or an export",
    )
    parser.add_argument("--name", metavar="NAME", help="of the repo (default: as the file is called)")
    parser.add_argument(
        "--keep-refs", action="store_true", help="keep refs of the repo that the file does not have"
    )
    parser.add_argument("--team", metavar="TEAM", help="into this team (default: the command line's own)")


async def export_state(call: Call) -> int:
    """Store the state in the vault, now."""
    from mirror.cli import render, shapes
    from mirror.upkeep import state

    async with call.services() as services:
        done = await state.export(services)
    call.out.said(partial(render.exported, done), partial(shapes.exported, done))
    return 0


async def export_repos(call: Call) -> int:
    """Write repos into a directory."""
    from mirror.people import operator
    from mirror.restore import moment
    from mirror.store import repos
    from mirror.upkeep.moving import export_repos

    async with call.services() as services:
        team = await operator.team_named(services, call.args.team)
        if call.args.repos:
            named = {one: await moment.repo_named(services, one, call.args.team) for one in call.args.repos}
            chosen = list({repo.id: repo for repo in named.values()}.values())
        else:
            found = await repos.overview(services.db, team.id)
            chosen = [one.repo for one in found if one.snapshots]
        to = Path(call.args.to)
        done = await export_repos.export(services, team, chosen, to)
    call.out.said(partial(_exported, done, to), partial(_shape_exported, done, to))
    return 0


def _exported(done: Written, to: Path, eye: Eye) -> str:
    lines = [
        f"{eye.paint(clean(repo.name), 'good')}  {count(repo.snapshots, 'snapshot')}"
        for repo in done.listed.repos
    ]
    has = f"{count(len(done.listed.objects), 'object')}, {words.size(done.listed.bytes)}"
    lines.append(f"{clean(str(to))} is whole: {has}, {count(done.objects, 'object')} written now")
    lines.append("Nothing in it is encrypted. Import it with: everref import DIR")
    return "\n".join(lines)


def _shape_exported(done: Written, to: Path) -> shapes.Shape:
    return {
        "to": str(to),
        "repos": [
            {"id": str(repo.id), "name": repo.name, "snapshots": repo.snapshots} for repo in done.listed.repos
        ],
        "objects": len(done.listed.objects),
        "bytes": done.listed.bytes,
        "written": done.objects,
    }


async def import_repos(call: Call) -> int:
    """Import repos out of a directory, or bring in a repository."""
    from mirror.cli.commands import bring_in
    from mirror.core.errors import UsageError
    from mirror.people import operator
    from mirror.upkeep.moving import import_repos

    if bring_in.is_repository(Path(call.args.source)):
        return await bring_in.bring_in(call)
    if call.args.name or call.args.keep_refs:
        raise UsageError(
            f"{call.args.source} is no repository, bundle or archive; --name and --keep-refs are for those"
        )
    async with call.services() as services:
        team = await operator.team_named(services, call.args.team)
        done = await import_repos.import_all(services, team, Path(call.args.source))
    for one in done:
        call.out.said(partial(_imported, one), partial(_shape_imported, one))
    return 0


def _imported(one: Imported, eye: Eye) -> str:
    name = eye.paint(clean(one.repo.name), "good")
    was = "" if one.was == one.repo.name else f"  it was called {clean(one.was)}"
    told = f"{name}  {count(one.snapshots, 'snapshot')}, {one.added} of them new{was}"
    if one.held is not None:
        told += (
            f"\n  it was on legal hold there ({clean(one.held)}), which a hold here must repeat: everref hold"
        )
    return told


def _shape_imported(one: Imported) -> shapes.Shape:
    return {
        "id": str(one.repo.id),
        "name": one.repo.name,
        "snapshots": one.snapshots,
        "added": one.added,
        "was": one.was,
        "held": one.held,
    }
