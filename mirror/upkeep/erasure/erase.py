"""Erasing an object out of a repo's whole history.

Who calls: jobs/pending, when what was asked for and confirmed (people/pending) takes effect; the command line
asks. An object goes with every moment that reaches it, by a new epoch of the log (upkeep/epoch). That it is
gone is proved by upkeep/erasure/proof.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from mirror.backup import hydrate
from mirror.core import refs, words
from mirror.core.errors import Locked, NotFound, Refused, UsageError
from mirror.core.model import HEX_LENGTH, RefName, Repo, Target
from mirror.core.rules.keeping.pending import Kind
from mirror.git import leading, read
from mirror.people import pending
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.lease import PATIENCE
from mirror.services.open import Services
from mirror.store.backup import history, snapshots
from mirror.store.people.pending import Pending
from mirror.store.people.teams import Team
from mirror.store.upkeep import erased, keeping, mentions
from mirror.upkeep import epoch, prune

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
    parts are deleted at once, bundles to download, and what webhook deliveries told of them. Safe to run
    twice: once they are gone, step 3 alone is left. Raises Refused as `ask` does, Held, Busy.
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
    await mentions.forget_bodies(services.db, repo.id, wanted)
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
