"""`everref archive`: the files of a moment as a tar or zip."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from mirror.cli.call import Call

HELP = "write the files of a moment, or of one directory of it, as a tar or zip"
EPILOG = """\
The files are those of HEAD, or of another ref or commit that the moment reaches. They are in a
folder named after the repo and snapshot; attributes such as export-ignore count.

--json: {"repo", "snapshot", "file", "bytes"}

examples:
  everref archive acme/api --at '#12' -o api.tar.gz
  everref archive acme/api --ref v1 --path docs -o docs.zip"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref archive`, beside the repo, the team and the moment."""
    parser.add_argument("--ref", metavar="REF", help="a branch, tag or full commit id (default: HEAD)")
    parser.add_argument("--path", metavar="PATH", help="only this directory or file")
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="a new file; .tar.gz, .zip or .tar says how"
    )


async def run(call: Call) -> int:
    """Write the archive, safe on disk, and say how large it is."""
    import os
    from functools import partial
    from pathlib import Path

    from mirror.core.errors import UsageError
    from mirror.core.words import size
    from mirror.git.disk import finish, write_file
    from mirror.restore import archive, moment

    file = Path(call.args.output)
    wanted = archive.Wanted(
        archive.format_of(file.name), os.fsencode(call.args.ref or ""), os.fsencode(call.args.path or "")
    )
    if await finish(file.exists):
        raise UsageError(f"{file} exists already; choose another file")
    async with call.services() as services:
        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        snapshot = await moment.snapshot_at(services, repo, call.when(call.args.at))
        try:
            await write_file(file, archive.made(services, repo, snapshot, wanted))
        except BaseException:
            await finish(partial(file.unlink, missing_ok=True))
            raise
    written = (await finish(file.stat)).st_size
    call.out.result(
        lambda _: f"{repo.name}  {snapshot.label}  to {file}  {size(written)}",
        lambda: {"repo": repo.name, **snapshot.numbers, "file": str(file), "bytes": written},
    )
    return 0
