"""`everref status-page`: whether everybody may see how a team's repositories are served."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.store.browse.served import StatusPage

OFF: Final = "off"
HELP = "show or switch the page on which everybody sees whether clones of a team work"
EPILOG = """\
/status/TEAM needs no sign-in: it says whether clones work, how many repositories there are and how
old what is served is. It is off at first, and then answers as an address that does not exist.

  everref status-page                    whether it is on, and its address
  everref status-page counts             switch it on
  everref status-page names              switch it on, with the name of every repository
  everref status-page off

--json: {"team", "shows": "counts", "names" or null, "url": null where it is off}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref status-page`, beside the team."""
    parser.add_argument(
        "shows",
        choices=("counts", "names", OFF),
        nargs="?",
        help="what everybody sees: numbers, also the names of repositories, or nothing",
    )


async def run(call: Call) -> int:
    """`everref status-page [counts|names|off]`."""
    wanted = call.args.shows
    async with call.services() as services:
        from mirror.cli import up
        from mirror.people import operator, status_page
        from mirror.store.browse import served

        team = await operator.team_named(services, call.args.team)
        if wanted is None:
            shows = await served.status_page(services.db, team.id)
        else:
            shows = await status_page.show(services, None, team, None if wanted == OFF else wanted)
        url = f"{await up.address(services.settings)}/status/{team.name}" if shows else None
    call.out.result(partial(_line, team.name, shows, url), partial(_shape, team.name, shows, url))
    return 0


def _line(team: str, shows: StatusPage | None, url: str | None, eye: Eye) -> str:
    if url is None:
        return f"{eye.repo(team)}  off: nobody sees anything without signing in"
    return f"{url}  on: everybody sees how {team} is served{', with names' if shows == 'names' else ''}"


def _shape(team: str, shows: StatusPage | None, url: str | None) -> dict[str, Any]:
    return {"team": team, "shows": shows, "url": url}
