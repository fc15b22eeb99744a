"""`everref evidence`: what was proved, listed, exported and checked; checking opens no service."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror.cli import shapes, stdout
from mirror.core import words
from mirror.core.errors import UsageError
from mirror.core.words import clean, count

if TYPE_CHECKING:
    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.formats.statements import PublicKey
    from mirror.core.rules.evidence import Shown
    from mirror.store.evidence import daily
    from mirror.store.evidence.statements import Row
    from mirror.upkeep.checkpoints import Checked

_LISTED: Final = 1000  # statements that are shown; the vault has all


async def run(call: Call) -> int:
    """Carry out what follows `everref evidence`."""
    return await _COMMANDS[call.args.evidence](call)


async def verify(call: Call) -> int:
    """Check files with the public keys alone. Raises NotProven once all are looked at, UsageError."""
    from mirror.core.formats import statements, timestamps
    from mirror.core.formats.statements import NotProven
    from mirror.core.rules import evidence

    keys = statements.keys_of(await _read(call.args.key, "--key"), call.args.key)
    authority = timestamps.certificates(await _read(call.args.tsa, "--tsa"), "--tsa") if call.args.tsa else []
    found: dict[str, Shown] = {}
    held: dict[str, str] = {}  # the files that hold, by the SHA-256 of their bytes
    wrong = 0
    for path, stored in await _in_order(call.args.files):
        try:
            if timestamps.is_stamp(stored):
                found[path] = evidence.stamped(path, stored, authority, held)
            else:
                found[path] = evidence.shown(path, stored, keys)
                held[timestamps.digest(stored)] = path
        except NotProven as error:
            wrong += 1
            call.out.result(partial(_does_not_hold, str(error)), partial(_wrong, path, str(error)))
            continue
        call.out.said(partial(_holds, found[path]), partial(_shape, found[path]))
    if why := evidence.contradiction(found):
        raise NotProven(why)
    if wrong:
        raise NotProven(f"{wrong} of {count(len(call.args.files), 'file')} did not hold, as said above")
    return 0


async def _in_order(paths: Sequence[str]) -> list[tuple[str, bytes]]:
    """These files, time stamps last: what they are about is checked before them."""
    from mirror.core.formats import timestamps

    found = [(path, await _read(path, "FILE")) for path in paths]
    return sorted(found, key=lambda one: timestamps.is_stamp(one[1]))


async def _read(path: str, what: str) -> bytes:
    """Raises UsageError for a file that cannot be read, or is too large to be evidence."""
    from mirror.core.formats.proofs import LIMIT

    try:
        return await asyncio.to_thread(_bytes, Path(path), LIMIT)
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read: {error.strerror}") from None


def _bytes(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        found = file.read(limit + 1)
    if len(found) > limit:
        raise UsageError(f"{path} has more than {limit} bytes; it is no evidence")
    return found


def _holds(one: Shown, eye: Eye) -> str:
    says = f"{eye.paint('holds', 'good')}  {clean(one.what)}  {clean(one.sentence)}"
    return says if one.kind == "timestamp" else f"{says}; signed {eye.time(one.at)}"


def _shape(one: Shown) -> shapes.Shape:
    return {"file": one.what, "kind": one.kind, "at": shapes.at(one.at), "holds": True, "says": one.sentence}


def _does_not_hold(why: str, eye: Eye) -> str:
    return f"{eye.paint('DOES NOT HOLD', 'bad')}  {clean(why)}"


def _wrong(path: str, why: str) -> shapes.Shape:
    return {"file": path, "holds": False, "why": why}


async def listed(call: Call) -> int:
    """The statements about a repo, or about the days of a team."""
    if call.args.repo is None:
        return await _days(call)
    async with call.services() as services:
        from mirror.restore import moment
        from mirror.store.evidence import statements

        repo = await moment.repo_named(services, call.args.repo, call.args.team)
        rows = await statements.of_repo(services.db, repo.id, None, _LISTED)
    for row in rows:
        call.out.result(partial(_line, row), partial(_row, row))
    if not rows:
        call.out.remark(partial(_none, call.repo))
    return 0


async def _days(call: Call) -> int:
    async with call.services() as services:
        from mirror.people import operator
        from mirror.store.evidence import daily

        team = await operator.team_named(services, call.args.team)
        rows = await daily.of_team(services.db, team.id, None, _LISTED)
    for row in rows:
        call.out.result(partial(_day_line, row), partial(_day, row))
    if not rows:
        call.out.remark(partial(_no_day, team.name))
    return 0


def _day_line(row: daily.Row, eye: Eye) -> str:
    result = eye.paint("passed", "good") if row.passed else eye.paint("failed", "bad")
    return f"{row.day}  what was read back  {result}  signed {eye.time(row.at)}"


def _day(row: daily.Row) -> shapes.Shape:
    return {
        "kind": "daily-verification",
        "day": row.day.isoformat(),
        "at": shapes.at(row.at),
        "passed": row.passed,
        "key": row.key_id,
        "sha256": row.sha256,
    }


def _no_day(team: str, eye: Eye) -> str:
    return f"{clean(team)}  no day is signed yet; each on which anything is read again is, once it is over"


def _none(repo: str, eye: Eye) -> str:
    return f"{eye.repo(repo)}  nothing is proved yet; everref drill {repo} signs the first statement"


def _line(row: Row, eye: Eye) -> str:
    result = eye.paint("passed", "good") if row.passed else eye.paint("failed", "bad")
    return f"{eye.time(row.at)}  {row.kind} of {row.label}  {result}  {row.name}"


def _row(row: Row) -> shapes.Shape:
    return {
        "kind": row.kind,
        "snapshot": row.snapshot,
        **({"moment": row.moment} if row.moment else {}),
        "at": shapes.at(row.at),
        "passed": row.passed,
        "name": row.name,
        "key": row.key_id,
        "sha256": row.sha256,
    }


async def export(call: Call) -> int:
    """Write the evidence into a zip, whole or not at all. Raises UsageError if the file exists."""
    path = Path(call.args.to)
    async with call.services() as services:
        from mirror.people import operator
        from mirror.restore import moment
        from mirror.store import repos
        from mirror.upkeep import evidence

        if call.args.repo is None:
            team = await operator.team_named(services, call.args.team)
            chosen = await repos.all(services.db, team.id)
            found = evidence.exported(services, chosen, team.id, call.args.since)
        else:
            repo = await moment.repo_named(services, call.args.repo, call.args.team)
            found = evidence.exported(services, [repo], None, call.args.since)
        files, size = await _zipped(path, found)
    call.out.said(partial(_exported, path, files, size), partial(_export, path, files, size))
    return 0


async def _zipped(path: Path, found: AsyncIterator[tuple[str, bytes]]) -> tuple[int, int]:
    """The number of files in it, and its bytes. Whatever fails leaves no file."""
    try:
        into, files = zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED), 0
    except FileExistsError:
        raise UsageError(f"--to: {path} exists; name a new file") from None
    except OSError as error:
        raise UsageError(f"--to: {path} cannot be written: {error.strerror}") from None
    try:
        with into:
            async for name, content in found:
                await asyncio.to_thread(into.writestr, name, content)
                files += 1
        return files, (await asyncio.to_thread(path.stat)).st_size
    except BaseException:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - nothing may be awaited where it was cancelled
        raise


def _exported(path: Path, files: int, size: int, eye: Eye) -> str:
    return f"{clean(str(path))}  {count(files, 'file')}  {words.size(size)}"


def _export(path: Path, files: int, size: int) -> shapes.Shape:
    return {"to": str(path), "files": files, "bytes": size}


async def check(call: Call) -> int:
    """Compare the checkpoints with the vault and the database. Raises NotProven if anything was rewritten."""
    from mirror.core.formats.statements import NotProven

    async with call.services() as services:
        from mirror.upkeep import checkpoints

        found = await checkpoints.check(services)
    show = call.out.result if found.problems else call.out.said
    show(partial(_compared, found), partial(_check, found))
    if found.problems:
        raise NotProven(f"{count(len(found.problems), 'contradiction')} to what was signed, as listed above")
    return 0


def _compared(found: Checked, eye: Eye) -> str:
    lines = [f"  {eye.paint(clean(problem), 'bad')}" for problem in found.problems]
    heads = f"{count(found.heads, 'head')} of histories and audit logs"
    if not found.checkpoints:
        return "there is no checkpoint yet; a worker signs one every day, and so does everref sweep"
    ends = "not as they were signed" if found.problems else "as they were signed"
    return "\n".join([*lines, f"{count(found.checkpoints, 'checkpoint')}, {heads}: {ends}"])


def _check(found: Checked) -> shapes.Shape:
    return {
        "checkpoints": found.checkpoints,
        "heads": found.heads,
        "problems": list(found.problems),
        "ok": not found.problems,
    }


async def keys(call: Call) -> int:
    """Print the public keys."""
    from mirror.core.formats import statements

    async with call.services() as services:
        from mirror.backup import evidence
        from mirror.store.evidence import keys

        await evidence.signing_key(services)
        found = await keys.every(services.db)
    stdout.write(statements.published(found).decode())
    return 0


async def rotate(call: Call) -> int:
    """Let a new key sign."""
    async with call.services() as services:
        from mirror.backup import evidence
        from mirror.people import operator

        made = await evidence.rotate(services)
        team = await operator.team_named(services, None)
        await operator.did_for(services, team.id, "evidence.rotate", made.id[:16])
    call.out.said(partial(_rotated, made), partial(_made, made))
    return 0


def _rotated(made: PublicKey, eye: Eye) -> str:
    return f"key {made.id[:16]} signs from now on, introduced by {(made.previous or 'none')[:16]}"


def _made(made: PublicKey) -> shapes.Shape:
    return {"key_id": made.id, "from": made.since and shapes.at(made.since), "previous": made.previous}


_COMMANDS: Final[Mapping[str, Callable[[Call], Coroutine[Any, Any, int]]]] = {
    "verify": verify,
    "list": listed,
    "export": export,
    "check": check,
    "keys": keys,
    "rotate": rotate,
}
