"""Erasing an object out of a repo's whole history; and proving that it, or a repo, is gone.

Who calls: jobs/pending, when what was asked for and confirmed (people/pending) takes effect; the command line
asks and proves. An object goes with every moment that reaches it, by a new epoch of the log (upkeep/epoch).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from mirror.backup import hydrate
from mirror.core import refs, words
from mirror.core.errors import Locked, NotFound, Refused, UsageError
from mirror.core.formats import layout
from mirror.core.model import HEX_LENGTH, RefName, Repo, RepoId, Snapshot, Target
from mirror.core.rules.keeping.pending import Kind
from mirror.git import leading, read, view
from mirror.people import pending
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.lease import PATIENCE
from mirror.services.open import Services
from mirror.store.backup import history, parts, snapshots
from mirror.store.people.pending import Pending
from mirror.store.people.teams import Team
from mirror.store.upkeep import erased, keeping
from mirror.upkeep import epoch, prune
from mirror.vault import streams
from mirror.vault.copies import Place

MOST: Final = 100  # objects that are erased at once
_SHOWN: Final = 5  # of what an error names
_OID: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reach:
    """What leads to objects that are to go."""

    objects: tuple[Target, ...]
    present: bool  # whether the pack log has any of them
    snapshots: tuple[int, ...]  # that are not dropped yet, with a ref that leads to one of them
    refs: tuple[RefName, ...]  # whichever led there, in any of these
    newest: tuple[RefName, ...]  # those that still do, in the newest snapshot


@dataclass(frozen=True, slots=True)
class Proof:
    """What was looked at for what is gone, and where some of it still is."""

    looked_at: tuple[str, ...]  # each in a line
    left: tuple[str, ...]  # where something still is; empty: it is gone


def objects_of(repo: Repo, typed: Sequence[str]) -> tuple[Target, ...]:
    """The ids of objects, as somebody typed them. Raises UsageError."""
    found = tuple(dict.fromkeys(one.strip().lower() for one in typed))
    length = HEX_LENGTH[repo.object_format or "sha1"]
    for one in found:
        if not _OID.fullmatch(one) or len(one) != length:
            raise UsageError(f"an object is named by its whole id, {length} digits; git rev-parse shows it")
    if not found or len(found) > MOST:
        raise UsageError(f"name 1 to {MOST} objects")
    return tuple(Target(one.encode()) for one in found)


async def reach(services: Services, repo: Repo, objects: Sequence[Target]) -> Reach:
    """Which snapshots and refs lead to these objects; walks the repo's whole history, which can take minutes.

    Raises NotFound for a repo without a snapshot.
    """
    last = await snapshots.latest(services.db, repo.id)
    if last is None:
        raise NotFound(f"{repo.name} has no snapshot, so there is nothing to erase")
    room = services.disk.root / "restores" / f"erase-{repo.id}"
    tips = await history.targets(services.db, repo.id, last.epoch, last.number)
    async with hydrate.view_of(services, repo, last, room, PATIENCE) as seen:
        present = set(objects) - await read.missing(seen.path, objects)
        tainted = await leading.leading_to(services.git, seen.path, tips, present) if present else set()
    numbers = await erased.snapshots_at(services.db, repo.id, tainted)
    now = await history.refs_at(services.db, repo.id, last.number)
    return Reach(
        tuple(objects),
        bool(present),
        tuple(numbers),
        tuple(await erased.refs_at(services.db, repo.id, tainted)),
        tuple(name for name, target in now.items() if target in tainted),
    )


async def ask(
    services: Services, by: By | None, team: Team, repo: Repo, objects: Sequence[Target], why: str = ""
) -> tuple[Pending, Reach]:
    """Ask for these objects to be erased out of all history.

    Every moment that reaches one of them goes with it. Raises Refused while the newest snapshot still reaches
    one, or somebody keeps a moment that does; NotFound, Held, and as `people.pending.ask` does.
    """
    await keeping.check_not_held(services.db, repo.id)
    found = await reach(services, repo, objects)
    if not found.present:
        raise NotFound(f"{repo.name} has none of these objects, in no moment that is kept")
    await _check(services, repo, found)
    ids = [one.decode() for one in objects]
    some = ids[0][:12] + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
    goes = words.count(len(found.snapshots), "snapshot")
    subject = f"the object {some} of {repo.name}" + (f", with {goes}" if found.snapshots else "")
    return await pending.ask(
        services, by, team, Kind.ERASE, {"objects": ids}, repo, subject=subject, why=why
    ), found


async def objects(
    services: Services, repo: Repo, wanted: Sequence[Target], one: Pending
) -> Mapping[str, Any]:
    """Erase these objects: pack the log anew without them and without the moments that reach them.

    1. What leads to them now: since it was asked for, more may. 2. A new epoch without them. 3. The replaced
    parts are deleted at once, and bundles to download. Safe to run twice: once they are gone, step 3 alone
    is left. Raises Refused as `ask` does, Held, Busy.
    """
    found = await reach(services, repo, wanted)
    dropped: tuple[int, ...] = ()
    if found.present:
        await _check(services, repo, found)
        why = epoch.Why(one.asked_name, one.why or f"erased: {one.subject}")
        made = await epoch.new_epoch(services, repo, drop=found.snapshots, without=wanted, why=why)
        dropped = made.dropped
        failpoints.reached("erase: packed anew")
    pruned = await prune.prune(services, timedelta(0), repo)
    locked = list(pruned.locked)
    for key in await erased.export_keys(services.db, repo.id):
        try:
            await services.vault.delete(key)
        except Locked:
            locked.append("a bundle to download")
    await epoch.forget_old_pools(services, [repo.id])
    failpoints.reached("erase: deleted")
    return {
        "objects": [oid.decode() for oid in wanted],
        "dropped": list(dropped),
        "objects_left": len(locked) + pruned.waiting,
        "locked_until": pruned.locked_until.isoformat() if pruned.locked_until else None,
    }


async def _check(services: Services, repo: Repo, found: Reach) -> None:
    """Raise Refused where a moment that must stay leads there."""
    last = await snapshots.latest(services.db, repo.id)
    if last is not None and last.number in found.snapshots:
        named = ", ".join(refs.shown_text(name) for name in found.newest[:_SHOWN]) or "a push just before it"
        raise Refused(
            f"the newest snapshot of {repo.name}, #{last.number}, still reaches it through {named}: rewrite "
            "that at its host, push, wait for the backup, then ask again"
        )
    kept = [
        pin.snapshot for pin in await keeping.pins(services.db, repo.id) if pin.snapshot in found.snapshots
    ]
    if kept:
        raise Refused(
            f"#{kept[0]} of {repo.name} reaches it, and somebody keeps that snapshot; unpin it first"
        )


async def proved(services: Services, repo_id: RepoId) -> Proof:
    """Look everywhere for anything of a repo that is gone; changes nothing.

    Raises NotFound for a repo that is not gone.
    """
    known = await erased.find(services.db, repo_id)
    if known is None:
        raise NotFound(f"no repo with the id {repo_id} was erased here")
    looked, left = list[str](), list[str]()
    tables = await erased.rows(services.db, repo_id)
    looked.append(f"database: {words.count(len(tables), 'table')} with rows of repositories")
    left += [f"database: {words.count(number, 'row')} of {name}" for name, number in tables.items() if number]
    prefix = layout.repo_prefix(repo_id)
    for place in services.copies.places:
        here, where = await streams.every_key(place.vault, prefix), _where(services, place)
        until = f", which the store keeps locked until {known.locked_until}" if known.locked_until else ""
        looked.append(f"{where}: every object and hidden version under {prefix}")
        if here:
            left.append(f"{where}: {words.count(len(here), 'object')}, such as {here[0]}{until}")
    await _disk(services, repo_id, looked, left)
    exports = await _exports_before(services, known.erased_at.isoformat())
    looked.append("vault: exports of the state that were made before it was erased")
    left += [f"vault: {key} may have its name and address, encrypted" for key in exports]
    return Proof(tuple(looked), tuple(left))


async def proved_objects(services: Services, repo: Repo, wanted: Sequence[Target]) -> Proof:
    """Look everywhere for these objects of a repo: reads all that is stored of it; changes nothing.

    Raises NotFound for a repo without a snapshot; Corrupt, GapInChain where its parts cannot be read.
    """
    last = await snapshots.latest(services.db, repo.id)
    if last is None:
        raise NotFound(f"{repo.name} has no snapshot")
    looked, left = list[str](), list[str]()
    held = await _held(services, repo, last, wanted)
    live = await parts.live(services.db, repo.id)
    looked.append(f"vault: every byte of {words.count(len(live), 'part')}, unpacked by git")
    left += [f"vault: the pack log has {oid.decode()}" for oid in sorted(held)]
    keys = {part.key for part in live} | {layout.index_key(part.key) for part in live}
    for place in services.copies.places:
        where = _where(services, place)
        looked.append(f"{where}: which parts there are, also hidden versions")
        for key in await streams.every_key(place.vault, layout.bundles_prefix(repo.id)):
            if key.removesuffix(".age") not in keys and key not in keys:
                left.append(f"{where}: {key}, which was replaced and may have it")
    pool = services.disk.pool(repo.id)
    looked.append(f"the pool on this machine's disk, {services.disk.root}")
    if pool.is_dir():
        left += [
            f"the pool: {oid.decode()}" for oid in sorted(set(wanted) - await read.missing(pool, wanted))
        ]
    looked.append("bundles to download that were made of it")
    for key in await erased.export_keys(services.db, repo.id):
        if await services.vault.stat(key) is not None:
            left.append("vault: a bundle to download, which may have it")
    return Proof(tuple(looked), tuple(left))


async def _held(services: Services, repo: Repo, last: Snapshot, wanted: Collection[Target]) -> set[Target]:
    """Which of these a copy has that is made from the vault alone."""
    room = services.disk.root / "restores"
    async with view.scratch_view(None, room, object_format=last.object_format) as copy:
        await hydrate.fill(
            services, copy.path, last.object_format, await hydrate.steps_to(services, repo, last)
        )
        return set(wanted) - await read.missing(copy.path, wanted)


def _where(services: Services, place: Place) -> str:
    """A store in words: the vault itself, or one of its copies."""
    return "vault" if place is services.copies.places[0] else f"copy {place.name}"


async def _disk(services: Services, repo_id: RepoId, looked: list[str], left: list[str]) -> None:
    looked.append(f"this machine's disk: {services.disk.root}")
    for path in (services.disk.pool(repo_id), services.disk.scratch(repo_id)):
        if path.exists():
            left.append(f"this machine's disk: {path}")


async def _exports_before(services: Services, at: str) -> list[str]:
    found = []
    async with aclosing(services.vault.list(layout.STATES)) as states:
        async for stat in states:
            taken = layout.parse_state_key(stat.key)
            if taken is not None and taken.isoformat() < at:
                found.append(stat.key)
    return found
