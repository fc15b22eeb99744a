"""`everref create`: a repository that people and programs push to."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mirror.core.words import clean

if TYPE_CHECKING:
    import argparse

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.model import Repo

CREATE: Final = "create a repository to push to: git push backs it up, without any other host"
CREATE_EPILOG: Final = """\
Nothing is fetched for it. Everybody with the role operator, and every token with the scope backup,
pushes to the address that this prints; a push ends once it is saved. Force-pushes and deletions
lose nothing: every push is a snapshot (docs/push.md). If it exists already, it is that one:
with --default-branch its HEAD leads there from now on, which no push changes.

--json: {"id", "name", "url", "created"}

examples:
  everref create acme/laptop
  everref create acme/laptop --default-branch trunk
  everref token laptop --scope backup      a token, which is the password of git push
  git remote add everref https://everref.example.org/git/everref/acme/laptop
  git push everref --mirror"""


def create_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref create`."""
    parser.add_argument("name", metavar="NAME", help="what it is called, as in acme/laptop")
    parser.add_argument("--team", metavar="TEAM", help="in this team (default: the command line's own)")
    parser.add_argument(
        "--default-branch",
        metavar="BRANCH",
        help="what clones check out, also of one that is here already (default: main, master or the first)",
    )
    parser.add_argument(
        "--object-format",
        choices=["sha1", "sha256"],
        default="sha1",
        help="what its objects are named by; only git init --object-format=sha256 makes others than sha1",
    )


async def create_repo(call: Call) -> int:
    """Create a repository to push to, and say how."""
    call = await call.beside()
    async with call.services() as services:
        from mirror.backup import default_branch
        from mirror.discovery import create
        from mirror.discovery.choose import By
        from mirror.people import operator
        from mirror.store import repos

        team = await operator.team_named(services, call.args.team)
        name = create.checked_name(call.args.name)
        branch = call.args.default_branch
        if branch:
            default_branch.named(branch)  # before anything is made
        known = await repos.by_name(services.db, team.id, name)
        by = By(None, operator.ACTOR)
        repo = await create.create(services, team.id, by, name, call.args.object_format)
        if branch and await default_branch.set(services, repo, branch, operator.ACTOR):
            await operator.did_to(services, repo, "repo.default-branch", {"branch": branch})
        address = create.address(services.settings, team.name, repo)
    made = known is None
    call.out.said(partial(_told, repo, address, made), partial(_shape, repo, address, made))
    return 0


def _told(repo: Repo, address: str, made: bool, eye: Eye) -> str:
    lines = [
        f"{eye.repo(repo.name)}  {'created' if made else 'is here already'}; push to it with plain git:",
        f"  git remote add everref {clean(address)}",
        "  git push everref --mirror",
        "Its password is an API token with the scope backup: everref token NAME --scope backup",
    ]
    return "\n".join(lines)


def _shape(repo: Repo, address: str, made: bool) -> dict[str, Any]:
    return {"id": str(repo.id), "name": repo.name, "url": address, "created": made}
