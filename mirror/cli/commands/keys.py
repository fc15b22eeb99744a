"""`everref keys`: who can open a team's backups, the proof of it, and what to do when a key is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror.core.errors import UsageError
from mirror.core.words import count, minute

if TYPE_CHECKING:
    import argparse

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.identities import Identity
    from mirror.people.keys import Standing
    from mirror.store.people.keys import RecoveryKey
    from mirror.store.upkeep.reseal import Progress

_LARGEST: Final = 64 << 10  # bytes of a file that holds a key

HELP: Final = """\
Recovery keys open sealed backups without Everref. A key counts once it is proved, and sealing
can be switched on once one is. Without WHAT: list.

  everref keys add age1... --name Ann    or an SSH public key, or a hardware key's age1yubikey1...
  everref keys prove Ann --identity key.txt     open a sample with it, here
  everref keys sample Ann > sample.age          or elsewhere: age -d -i key.txt sample.age
  everref keys prove Ann                        and type what it says
  everref keys sheet                     a key on paper, shown once; prove it by typing its words
  everref keys seal                      encrypt new backups from now on; unseal: no longer
  everref keys rotate                    a new key of the team's own; the old one still opens
  everref keys import FILE               keep an identity that opens sealed backups, of a sheet or a file
  everref keys remove Ann                asks for it, if it is proved: see everref pending
  everref keys export [FILE]             asks for it; once it took effect, writes the identities
  everref keys words                     the identity of a sheet's words; opens no service

FILE - is standard input; no private key is ever given as an argument.

--json: {"team", "sealed_since", "own": [...], "recovery": [...]}; of add, prove and remove
{"id", "name", "kind", "recipient", "proved_at"}; of sheet {"id", "recipient", "words", "identity"}"""


def declare(parser: argparse.ArgumentParser, own: str) -> None:
    """What `everref keys` is followed by; `own` says which team is meant without --team."""
    parser.add_argument(
        "what", metavar="WHAT", nargs="?", default="list", choices=list(_COMMANDS), help=", ".join(_COMMANDS)
    )
    parser.add_argument("key", metavar="KEY|FILE", nargs="*", help="a public key, a name, or a file")
    parser.add_argument("--name", help="of a key that is added: whose it is")
    parser.add_argument("--identity", metavar="FILE|-", help="prove the key here with its private half")
    parser.add_argument("--team", metavar="TEAM", help=f"the team {own}")


async def run(call: Call) -> int:
    """Carry out what follows `everref keys`."""
    return await _COMMANDS[call.args.what](call)


async def listed(call: Call) -> int:
    """The team's keys."""
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        found = await keys.standing(services, team)
    call.out.result(partial(_list, team.name, found), partial(_shape, team.name, found))
    return 0


async def add(call: Call) -> int:
    """Add the public half of somebody's key."""
    typed = " ".join(call.args.key)
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        made = await keys.add(services, None, team, typed, call.args.name or "")
    call.out.said(partial(_added, made), partial(_key, made))
    return 0


async def sample(call: Call) -> int:
    """Write the sample of a key."""
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        key = await keys.named(services, team, _one(call, "KEY"))
        found = await keys.challenge(services, team, key.id)
    _print(found.decode())
    return 0


async def prove(call: Call) -> int:
    """Prove a key by its private half, or by what its sample says."""
    name = _one(call, "KEY")
    private = await _read(call.args.identity, "--identity") if call.args.identity else None
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        key = await keys.named(services, team, name)
        if key.proved_at is None:
            if private is None:
                says = "the words of the sheet" if key.kind == "sheet" else "what the sample says"
                said = await _read("-", says)
            elif key.kind == "sheet":
                said = private
            else:
                said = keys.opened_with(await keys.challenge(services, team, key.id), private)
            key = await keys.prove(services, None, team, key.id, said)
    call.out.said(partial(_proved, key), partial(_key, key))
    return 0


async def remove(call: Call) -> int:
    """Remove a key, or ask for it."""
    async with call.services() as services:
        from mirror.people import keys, operator, pending

        team = await operator.team_named(services, call.args.team)
        key = await keys.named(services, team, _one(call, "KEY"))
        asked = await keys.remove(services, None, team, key.id)
        since = "was ever" if key.proved_at is None else "more is"
        told = f"{key.name} is removed; nothing {since} sealed to it"
    if asked is not None:
        told = pending.told(asked, "asked")
    call.out.said(partial(_plain, told), partial(_key, key))
    return 0


async def sheet(call: Call) -> int:
    """Make the key of a sheet, and print it the one time that it is here."""
    async with call.services() as services:
        from mirror.core.formats import recovery_words
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        made = await keys.make_sheet(services, None, team)
        vault = services.vault.describe()
        lines = recovery_words.written(made.identity)
    text = "\n".join(
        [
            f"Recovery sheet of {clean(team.name)}, {made.key.added_at:%Y-%m-%d}, vault {clean(vault)}",
            "",
            *(f"{number}  {line}" for number, line in enumerate(lines, 1)),
            "",
            made.identity,
            f"public key: {made.key.recipient}",
            "",
            "Write it down or print it now: it is kept nowhere. Then type its words back:",
            f"  everref keys prove '{clean(made.key.name)}' --team {clean(team.name)}",
        ]
    )
    shape = {
        "id": str(made.key.id),
        "recipient": made.key.recipient,
        "words": lines,
        "identity": made.identity,
    }
    call.out.result(partial(_plain, text), lambda: shape)
    return 0


async def seal(call: Call) -> int:
    """Encrypt new backups from now on."""
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        done = await keys.switch_on(services, None, team)
    told = "new backups are sealed from now on" if done else "new backups are sealed already"
    call.out.said(partial(_plain, f"{team.name}  {told}"), lambda: {"team": team.name, "sealed": True})
    return 0


async def unseal(call: Call) -> int:
    """Store new backups as they are."""
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        await keys.switch_off(services, None, team)
    told = "new backups are stored unencrypted; what is sealed stays so, and readable"
    call.out.said(partial(_plain, f"{team.name}  {told}"), lambda: {"team": team.name, "sealed": False})
    return 0


async def rotate(call: Call) -> int:
    """Make a new key of the team's own."""
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        made = await keys.rotate(services, None, team)
    told = f"{team.name}  new backups are sealed to {made}; the old key still opens"
    call.out.said(partial(_plain, told), lambda: {"team": team.name, "recipient": made})
    return 0


async def bring_back(call: Call) -> int:
    """Keep an identity that opens sealed backups."""
    text = await _read(_one(call, "FILE"), "FILE")
    async with call.services() as services:
        from mirror.people import keys, operator

        team = await operator.team_named(services, call.args.team)
        recipient, done = await keys.bring_back(services, None, team, text)
    told = f"{team.name}  the identity of {recipient} " + (
        "opens backups here" if done else "was here already"
    )
    call.out.said(partial(_plain, told), lambda: {"team": team.name, "recipient": recipient, "new": done})
    return 0


async def export(call: Call) -> int:
    """Ask that the identities may be written; once that took effect, write them."""
    path = call.args.key[0] if call.args.key else None
    async with call.services() as services:
        from mirror.people import keys, operator, pending

        team = await operator.team_named(services, call.args.team)
        if path is None:
            asked = await keys.ask_export(services, None, team)
            told = pending.told(asked, "asked")
            call.out.said(partial(_plain, told), lambda: {"team": team.name, "asked": True})
            return 0
        found = await keys.exported(services, None, team)
    import asyncio

    await asyncio.to_thread(_write, Path(path), found)
    call.out.said(partial(_plain, f"{path}  the identities of {team.name}"), lambda: {"to": path})
    return 0


async def words(call: Call) -> int:
    """The identity of words that are typed."""
    from mirror.people import keys

    _print(keys.read_identity(await _read("-", "the words of the sheet")).text + "\n")
    return 0


async def identity(path: str) -> Identity:
    """The identity, or the words of a sheet, in a file. Raises UsageError."""
    from mirror.people import keys

    return keys.read_identity(await _read(path, "--identity"))


def _print(text: str) -> None:
    from mirror.cli import stdout

    stdout.write(text)


def clean(text: str) -> str:
    """Text of others, without what a terminal would act on."""
    from mirror.core import words

    return words.clean(text)


def _one(call: Call, what: str) -> str:
    if len(call.args.key) != 1:
        raise UsageError(f"name one {what}: everref keys {call.args.what} {what}")
    return str(call.args.key[0])


async def _read(path: str, what: str) -> str:
    """A file that holds a key, or standard input for "-". Raises UsageError, which repeats nothing of it."""
    import asyncio

    from mirror.cli import stdout

    if path == "-" and sys.stdin.isatty():
        stdout.write(f"Type {what}, then an empty line:\n" if "/" not in what else "")
        return await asyncio.to_thread(lambda: "\n".join(iter(input, "")))
    try:
        found = await asyncio.to_thread(_bytes, 0 if path == "-" else path)
        return found.decode()
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{what}: it must be text") from None


def _bytes(source: str | int) -> bytes:
    with open(source, "rb", closefd=isinstance(source, str)) as file:
        found = file.read(_LARGEST + 1)
    if len(found) > _LARGEST:
        raise UsageError(f"{source} is too large to be a key")
    return found


def _write(path: Path, text: str) -> None:
    """Only for who calls it, and over nothing. Raises UsageError."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _list(team: str, found: Standing, eye: Eye) -> str:
    since = found.sealing.since
    lines = [
        f"{clean(team)}  "
        + (f"sealed since {eye.time(since)}" if since else "not sealed: new backups are stored unencrypted")
    ]
    for own in found.own:
        state = "seals and opens" if own.retired_at is None else "only opens"
        if own.unreadable_since:
            state = eye.paint(
                f"does not open: SECRET_KEYS changed before {eye.time(own.unreadable_since)}", "bad"
            )
        lines.append(f"  own       {own.recipient}  {state}")
    for one in found.recovery:
        if one.removed_at is not None:
            continue
        state = f"proved {eye.time(one.proved_at)}" if one.proved_at else eye.paint("not proved", "bad")
        shown = one.recipient if len(one.recipient) <= 80 else one.recipient[:77] + "..."  # of RSA
        lines.append(f"  {one.kind:<8}  {clean(one.name)}  {shown}  {state}")
    if found.plain:
        lines += [f"  {line}" for line in _unsealed(found.plain)]
    return "\n".join(lines)


def _unsealed(found: Progress) -> list[str]:
    """What lies unencrypted although the team seals."""
    from mirror.core.rules.keeping.resealing import left

    lines = []
    if found.unlooked:
        lines.append(f"plain     {count(found.unlooked, 'repo')} not looked at yet; a worker does it")
    if found.left.objects:
        what = left(found.left.objects, found.left.bytes)
        lines.append(f"plain     {what} still to be sealed; a worker does it, or everref reseal")
    if found.left.kept_objects:
        until = f"until {minute(found.left.kept_until)}" if found.left.kept_until else "for now"
        held = ", and longer where a legal hold keeps it" if found.left.kept_held else ""
        what = left(found.left.kept_objects, found.left.kept_bytes)
        lines.append(f"plain     {what} replaced, but in the vault {until}{held}")
    if found.problem:
        lines.append(f"plain     {clean(found.problem)}")
    return lines


def _shape(team: str, found: Standing) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.keys import TeamKeys

    return {"team": team, **plain(TeamKeys.of(found))}


def _key(one: RecoveryKey) -> dict[str, Any]:
    from mirror.shapes.base import plain
    from mirror.shapes.keys import RecoveryKeyShown

    return plain(RecoveryKeyShown.of(one))


def _added(one: RecoveryKey, eye: Eye) -> str:
    return f"{clean(one.name)}  added; nothing is sealed to it before it is proved: everref keys prove --help"


def _proved(one: RecoveryKey, eye: Eye) -> str:
    return f"{clean(one.name)}  {eye.paint('proved', 'good')}  it opens what is sealed from now on"


def _plain(text: str, eye: Eye) -> str:
    return text


_COMMANDS: Final[Mapping[str, Callable[[Call], Coroutine[Any, Any, int]]]] = {
    "list": listed,
    "add": add,
    "sample": sample,
    "prove": prove,
    "remove": remove,
    "sheet": sheet,
    "seal": seal,
    "unseal": unseal,
    "rotate": rotate,
    "import": bring_back,
    "export": export,
    "words": words,
}
