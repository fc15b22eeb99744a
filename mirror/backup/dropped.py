"""Moments that were let go: what is said where one is asked for, and an epoch read back from the vault."""

import hashlib
from collections.abc import Collection, Sequence

from mirror.backup.part import part_of
from mirror.core.errors import Corrupt, Dropped, NoSuchObject
from mirror.core.formats import attestation, epochs, layout
from mirror.core.formats.epochs import Record
from mirror.core.model import Part, Repo, Snapshot, label
from mirror.services import sealing
from mirror.services.open import Services
from mirror.store.backup import epochs as rows
from mirror.store.backup import snapshots
from mirror.store.leases import Lease


async def refusal(services: Services, repo: Repo, snapshot: Snapshot) -> Dropped:
    """That this moment was dropped: when, by whom and why, and which kept ones are nearest."""
    before, after = await rows.kept_near(services.db, repo.id, snapshot.number)
    near = [f"#{number} {where} it" for number, where in ((before, "before"), (after, "after")) if number]
    nearest = f"; the nearest kept snapshot{'s are' if len(near) > 1 else ' is'} {' and '.join(near)}"
    kept = nearest if near else ""
    assert snapshot.dropped_at is not None
    name = label(snapshot.number, snapshot.moment)
    return Dropped(
        f"{name} of {repo.name} was dropped on {snapshot.dropped_at:%Y-%m-%d %H:%M} UTC"
        f" ({snapshot.dropped_why}){kept}"
    )


async def check(services: Services, repo: Repo, snapshot: Snapshot) -> Snapshot:
    """The same snapshot. Raises Dropped where it was let go."""
    if snapshot.dropped_at is not None:
        raise await refusal(services, repo, snapshot)
    return snapshot


async def adopt(services: Services, repo: Repo, lease: Lease, keys: Collection[str]) -> Part | None:
    """Take over the newest epoch that the vault holds of a repo, after its snapshots were read back.

    `keys` are those of the repo's bundles and indexes. An epoch holds where a complete part of it that has
    its `.idx` covers every snapshot whose manifest names an earlier one; anything else is what a killed
    run left. Anybody who can write to the bucket can put one there: where none of Everref's keys attests its
    record, and the parts that it replaced are still there, it counts for nothing. Returns that part. None: no
    epoch after the recorded one. Safe to run twice.
    """
    found = [snapshot async for snapshot in snapshots.every(services.db, repo.id)]
    current = max((snapshot.epoch for snapshot in found), default=1)
    indexed = {key for key in keys if layout.is_index(key)}
    firsts = [
        (named.epoch, named.last, key)
        for key in keys
        if not layout.is_index(key)
        and layout.index_key(key) in indexed
        and (named := layout.parse_bundle_key(key))
        and named.first == 1
        and named.epoch > 1
    ]
    for epoch, last, key in sorted(firsts, reverse=True):
        earlier = [snapshot.number for snapshot in found if snapshot.epoch < epoch]
        brought = [snapshot.number for snapshot in found if snapshot.epoch < epoch and snapshot.bundle]
        if epoch < current or not earlier or max(earlier) > last:
            continue
        part = await part_of(services.vault, services.stored, key)
        if part is None or not part.complete:
            continue
        record, sha256, is_attested = await _record(services, repo, epoch, last)
        if not is_attested and _covered(keys, epoch, brought):
            services.progress.note(
                f"{layout.epoch_key(repo.id, epoch)} was not written with any of SECRET_KEYS, and what it"
                " says was packed anew is still there: nothing counts as dropped by it"
            )
            if current < epoch:
                continue
            record, sha256 = _nothing(services, repo, epoch, last), None
        await rows.adopt(services.db, lease, record, sha256)
        return part
    return None


def _covered(keys: Collection[str], epoch: int, numbers: Collection[int]) -> bool:
    """Whether parts of one earlier epoch are there for every one of these snapshots."""
    ranges = dict[int, list[tuple[int, int]]]()
    for key in keys:
        named = None if layout.is_index(key) else layout.parse_bundle_key(key)
        if named is not None and named.epoch < epoch:
            ranges.setdefault(named.epoch, []).append((named.first, named.last))
    return any(_all_within(sorted(found), sorted(numbers)) for found in ranges.values())


def _all_within(ranges: Sequence[tuple[int, int]], numbers: Sequence[int]) -> bool:
    reached, next_one = 0, 0
    for number in numbers:
        while next_one < len(ranges) and ranges[next_one][0] <= number:
            reached, next_one = max(reached, ranges[next_one][1]), next_one + 1
        if reached < number:
            return False
    return True


def _nothing(services: Services, repo: Repo, epoch: int, last: int) -> Record:
    return Record(repo.id, epoch, last, services.clock(), "", "", ())


async def _record(services: Services, repo: Repo, epoch: int, last: int) -> tuple[Record, str | None, bool]:
    """What an epoch's record in the vault says, its sum, and whether one of Everref's keys attests it.

    Without it nothing counts as dropped.
    """
    key = layout.epoch_key(repo.id, epoch)
    try:
        stored = (await sealing.got(services, key, epochs.LIMIT)).plain
        record = epochs.decode(stored)
        if (record.repo, record.epoch) != (repo.id, epoch):
            raise Corrupt(f"{key} is the record of another epoch")
    except (NoSuchObject, Corrupt) as error:
        services.progress.note(
            f"{error}; it says which snapshots were dropped: without it those count as damaged"
        )
        return _nothing(services, repo, epoch, last), None, False
    keyring = services.keyring
    is_ours = keyring is None or attestation.is_attested(keyring, key, stored)
    return record, hashlib.sha256(stored).hexdigest(), is_ours
