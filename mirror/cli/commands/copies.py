"""The stores that hold the vault, shown, filled, compared and exchanged; and one fetched elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mirror.core import words
from mirror.core.errors import Damaged, Refused
from mirror.core.words import ago, clean, count

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.cli.shapes import Shape
    from mirror.services.open import Services
    from mirror.store.upkeep.copies import Copy
    from mirror.upkeep.copies import Compared, ReadBack
    from mirror.upkeep.moving.replicate import Replicated

_LIST: Final = """\
VAULT_COPIES names the copies (docs/copies.md); a worker keeps them up to date.

--json: for each store {"name", "place", "first"}; for a copy also {"filled", "waiting",
        "behind_seconds", "away", "problem", "damaged", "damage", "objects", "bytes", "extra",
        "reads", "compared_at", "read_at"}"""
_COMPARE: Final = """\
--json: {"name", "objects", "bytes", "missing", "extra", "different", "returned", "read_bytes",
        "problems"} for each copy"""
_COPY: Final = """\
It goes on where it was stopped; a worker does the same by itself.

--json: as everref vault list has it"""
_SWITCH: Final = """\
Nothing pauses: backups go on. Killed anywhere, the first vault stays the first; run it again.

--json: {"first", "switched"}"""
REPLICATE: Final = "fetch what a vault has into another place, with credentials that can only read"
REPLICATE_EPILOG: Final = """\
For a timer at another place, with no database: who takes over the installation cannot touch
what was fetched. FROM and TO are URLs as VAULT_URL has them; s3 URLs may say profile=NAME for
credentials of their own. Nothing is ever deleted or replaced in TO, and a history that does
not continue the one that is there is refused. Run it again to go on, or to fetch more.

--json: {"repos", "snapshots", "objects", "bytes", "as_of", "problems"}

examples:
  everref replicate 's3://backups/everref?profile=reader' file:///srv/replica"""


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref vault list`."""


def _name_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a copy, as VAULT_COPIES calls it")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="of a copy (default: all)")
    parser.add_argument("--read", action="store_true", help="read every stored byte of it back, too")


SUBCOMMANDS: Final[Mapping[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]]] = {
    "list": ("show the stores that hold the vault, and how far each is behind", _LIST, _no_arguments),
    "copy": ("bring a copy of the vault up to date now", _COPY, _name_argument),
    "compare": ("compare copies of the vault with the first", _COMPARE, _compare_arguments),
    "switch": ("make a copy the first vault, and the first a copy", _SWITCH, _name_argument),
}


def replicate_arguments(parser: argparse.ArgumentParser) -> None:
    """What follows `everref replicate`."""
    parser.add_argument("source", metavar="FROM", help="the URL of the vault, as VAULT_URL has it")
    parser.add_argument("to", metavar="TO", help="where to: an empty place, or one that was fetched before")


async def run(call: Call) -> int:
    """Carry out one of SUBCOMMANDS."""
    async with call.services() as services:
        return await _COMMANDS[call.args.vault](call, services)


async def listed(call: Call, services: Services) -> int:
    """Every store."""
    from mirror.store.upkeep import copies
    from mirror.upkeep.copies import order

    await order(services)
    first = services.copies.places[0]
    name, place = first.name, first.vault.describe()
    call.out.result(partial(_first, name, place), partial(_shape_first, name, place))
    for one in await copies.standing(services.db, [place.name for place in services.copies.copies]):
        now = services.clock()
        call.out.result(partial(_line, one, now), partial(_shape, one, now))
    if not services.copies.copies:
        call.out.remark(lambda _: "it has no copy; VAULT_COPIES names some, see docs/copies.md")
    return 0


def _first(name: str, place: str, eye: Eye) -> str:
    return f"{eye.paint(name, 'good')}  the first vault  {clean(place)}"


def _shape_first(name: str, place: str) -> Shape:
    return {"name": name, "place": place, "first": True}


def _line(one: Copy, now: datetime, eye: Eye) -> str:
    says, is_well = one.state(now)
    name = eye.paint(one.name, "good" if is_well else "bad")
    told = [f"{name}  a copy  {clean(one.place)}  {clean(says)}"]
    if one.listed_at:
        has = f"{count(one.objects or 0, 'object')}, {words.size(one.bytes or 0)}"
        told.append(f"  compared {ago(one.listed_at, now)}: {has}")
    if one.extra:
        told.append(f"  {count(one.extra, 'object')} that the first vault does not have")
    if one.read_from_at:
        when, why = ago(one.read_from_at, now), clean(one.read_from or "")
        told.append(f"  read instead of the first {count(one.reads, 'time')}, last {when}: {why}")
    return "\n".join(told)


def _shape(one: Copy, now: datetime) -> Shape:
    from mirror.cli.shapes import at

    return {
        "name": one.name,
        "place": one.place,
        "first": False,
        "filled": one.listed_at is not None,
        "waiting": one.waiting,
        "behind_seconds": int(one.lag(now).total_seconds()),
        "away": one.away,
        "problem": one.problem,
        "damaged": one.damaged,
        "damage": one.damage,
        "objects": one.objects,
        "bytes": one.bytes,
        "extra": one.extra,
        "reads": one.reads,
        "compared_at": one.listed_at and at(one.listed_at),
        "read_at": one.read_at and at(one.read_at),
    }


async def compare(call: Call, services: Services) -> int:
    """Compare copies with the first. Raises Damaged if one has wrong bytes."""
    from mirror.upkeep import copies
    from mirror.upkeep.moving import switch

    await copies.order(services)
    chosen = [switch.place_of(services, call.args.name)] if call.args.name else services.copies.copies
    wrong = 0
    for place in chosen:
        services.progress.phase(f"comparing {place.name}", None, "objects")
        found = await copies.compare(services, place)
        read = None
        if call.args.read:
            services.progress.phase(f"reading {place.name}", found.bytes, "bytes")
            read = await copies.read_all(services, place)
        wrong += len(found.different) + len(read.problems if read else ())
        call.out.result(partial(_compared, found, read), partial(_shape_compared, found, read))
    if not chosen:
        call.out.remark(lambda _: "there is no copy to compare; VAULT_COPIES names some")
    if wrong:
        raise Damaged(f"{count(wrong, 'object')} not as stored in the copies; a worker replaces what it can")
    return 0


def _compared(found: Compared, read: ReadBack | None, eye: Eye) -> str:
    parts = [f"{found.name}  {count(found.objects, 'object')}, {words.size(found.bytes)}"]
    parts.append(f"{found.missing} missing, on their way" if found.missing else "nothing is missing")
    if found.extra:
        parts.append(f"{found.extra} more than the first vault has")
    if read is not None:
        parts.append(f"{words.size(read.bytes)} read back")
    lines = ["  ".join(parts)]
    lines += [f"  came back to the first vault: {clean(key)}" for key in found.returned]
    lines += [f"  {eye.paint('another size', 'bad')}: {clean(key)}" for key in found.different]
    lines += [f"  {eye.paint('damaged', 'bad')}: {clean(one)}" for one in (read.problems if read else ())]
    return "\n".join(lines)


def _shape_compared(found: Compared, read: ReadBack | None) -> Shape:
    return {
        "name": found.name,
        "objects": found.objects,
        "bytes": found.bytes,
        "missing": found.missing,
        "extra": found.extra,
        "different": list(found.different),
        "returned": list(found.returned),
        "read_bytes": None if read is None else read.bytes,
        "problems": list(read.problems) if read else [],
    }


async def copy(call: Call, services: Services) -> int:
    """Bring a copy up to date."""
    from mirror.store.upkeep import copies as rows
    from mirror.upkeep import copies
    from mirror.upkeep.moving import switch

    place = switch.place_of(services, str(call.args.name))
    await copies.order(services)
    if not copies.is_copy(services, place):
        raise Refused(f"{place.name} is the first vault, not a copy")
    await services.copies.recognise()
    if not await copies.answers(services, place):
        (found,) = await rows.standing(services.db, [place.name])
        raise Refused(f"the copy {place.name} cannot be used: {found.away}")
    services.progress.phase("comparing", None, "objects")
    await copies.compare(services, place)
    await rows.give_way(services.db, place.name, services.clock())
    services.progress.phase("copying", await rows.waiting(services.db, place.name), "objects")
    await copies.follow(services, place)
    (found,) = await rows.standing(services.db, [place.name])
    now = services.clock()
    call.out.said(partial(_line, found, now), partial(_shape, found, now))
    return 0


async def switch(call: Call, services: Services) -> int:
    """Make a copy the first vault."""
    from mirror.people import operator
    from mirror.upkeep.moving import switch

    name = str(call.args.name)
    await services.copies.recognise()
    done = await switch.switch(services, name)
    if done:
        team = await operator.team_named(services, None)
        await operator.did_for(services, team.id, "vault.switch", name)
    call.out.said(partial(_switched, name, done), lambda: {"first": name, "switched": done})
    return 0


def _switched(name: str, done: bool, eye: Eye) -> str:
    if not done:
        return f"{name} is the first vault already"
    return (
        f"{eye.paint(name, 'good')} is the first vault now, and the one before it is a copy. Exchange them "
        f"in VAULT_URL and VAULT_COPIES when it suits you, with their names: VAULT_URL={name}=URL"
    )


async def replicate(call: Call) -> int:
    """Fetch a vault. Raises Damaged where something does not fit what was fetched before."""
    from mirror.core import config
    from mirror.upkeep.moving import replicate
    from mirror.vault.open import open_vault

    source, to = config.place(call.args.source, "FROM"), config.place(call.args.to, "TO")
    async with (
        open_vault(source.url, call.settings.data, make=False) as there,
        open_vault(to.url, call.settings.data) as here,
    ):
        done = await replicate.replicate(there, here, call.out.progress)
    call.out.result(partial(_fetched, done), partial(_shape_fetched, done))
    if done.problems:
        raise Damaged(
            f"{count(len(done.problems), 'thing')} did not fit, as listed above; the rest is fetched"
        )
    return 0


def _fetched(done: Replicated, eye: Eye) -> str:
    as_of = f", as of {eye.time(done.as_of)}" if done.as_of else ""
    fetched = f"{count(done.objects, 'object')} fetched, {words.size(done.bytes)}"
    lines = [f"{count(done.repos, 'repo')}, {count(done.snapshots, 'snapshot')}{as_of}  {fetched}"]
    return "\n".join([*lines, *(f"  {eye.paint(clean(one), 'bad')}" for one in done.problems)])


def _shape_fetched(done: Replicated) -> Shape:
    from mirror.cli.shapes import at

    return {
        "repos": done.repos,
        "snapshots": done.snapshots,
        "objects": done.objects,
        "bytes": done.bytes,
        "as_of": done.as_of and at(done.as_of),
        "problems": list(done.problems),
    }


_COMMANDS: Final[Mapping[str, Callable[[Call, Services], Coroutine[Any, Any, int]]]] = {
    "list": listed,
    "copy": copy,
    "compare": compare,
    "switch": switch,
}
