"""Healing what was found damaged in the vault, wherever its bytes or its objects are still to be had.

Who calls: the sweep, soon after a verification, a drill or the rotation found damage. Nothing in the vault
is overwritten: a part is replaced by one under a new key, and the damaged bundle is kept aside until `prune`
deletes it; its `.idx` goes at once, so that nobody who reads the vault alone takes it for a part.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from mirror.backup import damage, hydrate, recover
from mirror.backup.part import write_index
from mirror.backup.withdraw import withdraw
from mirror.core import refs
from mirror.core.errors import (
    AlreadyExists,
    BadCredentials,
    Corrupt,
    EverrefError,
    KeyMissing,
    NetworkError,
    NoSuchObject,
    Origin,
)
from mirror.core.formats import layout, manifest
from mirror.core.formats.manifest import Manifest
from mirror.core.model import Part, Repo, RepoId, Snapshot
from mirror.core.rules.history.plan import Step
from mirror.core.rules.keeping.compaction import Checkpoint
from mirror.discovery import add
from mirror.git import pack, read, view
from mirror.git.view import View
from mirror.services import failpoints
from mirror.services.lease import PATIENCE, leased, leased_to_compact
from mirror.services.open import Services
from mirror.services.remote import connected
from mirror.store import repos
from mirror.store.backup import history, parts, snapshots
from mirror.store.forge_leases import ForgeLease
from mirror.store.upkeep import healing
from mirror.upkeep import compact, copies, rotation, verify
from mirror.upkeep.prune import GRACE
from mirror.vault import age
from mirror.vault.copies import only_the_first

AGAIN: Final = timedelta(hours=6)  # before damage that could not be healed is tried again
_AT_ONCE: Final = 10  # repos in one turn
_HAVES: Final = 256  # ids that a host is told we have, at the most

_CHANGED: Final = (
    "it changed, and nothing in the vault is overwritten; restores do not need it: remove its file, and it is"
    f" written again within {AGAIN.seconds // 3600} h"
)

log = logging.getLogger("mirror.heal")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one damaged object."""

    key: str
    how: str | None  # where its bytes or objects came from, in words; None: it could not be healed
    why_not: str = ""  # in a line; empty: it was healed


async def due(services: Services) -> None:
    """Heal repos that were found damaged; one that fails stops no other. Safe to run twice, also at once."""
    for repo_id in await healing.due(services.db, services.clock(), AGAIN, _AT_ONCE):
        try:
            await heal(services, await repos.get(services.db, repo_id))
        except EverrefError as error:
            log.warning("healing of %s: %s", repo_id, error)
            if error.origin is Origin.VAULT and not isinstance(error, Corrupt):
                raise  # the others would fail in the same way


async def heal(services: Services, repo: Repo, patience: float = PATIENCE) -> list[Outcome]:
    """Find every damaged part and manifest of a repo, heal what can be, and verify the repo if all was.

    A part is healed from the first of these that can:
    1. its `.idx` is missing: it is made again, if it then has the recorded sum;
    2. a copy of the vault: its bytes are stored again, under a new key;
    3. the parts that it had replaced, while they are still in the vault: they are live again;
    4. itself, where only its `.idx` changed: git packs its objects into a new part;
    5. the pool on this machine: git packs the whole log into a new part, as a checkpoint does;
    6. its host: what it brought is fetched by id, beside the parts before it.
    A missing manifest is written again from the database, if it then has the recorded sum; one that changed
    stays, as nothing is overwritten: restores do not need it, and its file must be removed first.
    The team is told what became of each. Safe to run twice: each step leaves the old state or the healed one.
    """
    with only_the_first():
        return await _all(services, repo, patience)


async def _all(services: Services, repo: Repo, patience: float) -> list[Outcome]:
    last = await snapshots.latest(services.db, repo.id)
    if last is None:
        return []
    found: list[Outcome] = []
    async with leased_to_compact(services, repo, patience) as alone:
        for part in await parts.live(services.db, repo.id):
            services.progress.phase("reading every part")
            if part.epoch == last.epoch and (problem := await rotation.wrong_with(services, part)):
                log.warning("damaged: %s", problem)
                found.append(await _heal(services, repo, alone, last, part))
        found += await _manifests(services, repo)
    await _withdraw(services, repo)
    for one in found:
        await _tell(services, repo, one)
    if all(one.how for one in found):
        await verify.verify(services, repo)  # which ends the damage, if there is no other
        await healing.drill_soon(services.db, repo.id, services.clock())
    return found


async def _heal(services: Services, repo: Repo, alone: ForgeLease, last: Snapshot, bad: Part) -> Outcome:
    """Replace one damaged part, or make its index again."""
    if bad.key not in {part.key for part in await parts.live(services.db, repo.id)}:
        return Outcome(bad.key, "the healing of another part, which replaced it too")
    await healing.put_aside(services.db, bad.key, services.clock())
    is_whole = await _is_whole(services, bad)
    with suppress(KeyMissing):  # a copy's bytes need none
        if is_whole and await _index_again(services, repo, bad):
            return Outcome(bad.key, "its bundle, which is whole: its .idx was missing and is made again")
    if name := await _copied(services, repo, alone, bad):
        return Outcome(bad.key, f"the copy {name} of the vault")
    if await _revive(services, repo, bad):
        return Outcome(bad.key, "the parts that it had replaced, which are live again")
    live = [part for part in await parts.live(services.db, repo.id) if part.epoch == last.epoch]
    log_to = tuple(sorted((part for part in live if part.first <= bad.first), key=lambda part: part.first))
    whys: list[str] = []
    if is_whole:
        why = await _recut(
            services, repo, alone, last, log_to, partial(_from_vault, services, last, log_to), exact=True
        )
        if not why:
            return Outcome(bad.key, "its bundle, which is whole")
        whys.append(f"from its bundle: {why}")
    pool = partial(_from_pool, services, repo, last)
    why = await _recut(services, repo, alone, last, tuple(sorted(live, key=lambda one: one.first)), pool)
    if not why:
        return Outcome(bad.key, "the pool on this machine")
    whys.append(f"from the pool: {why}")
    host = partial(_from_host, services, repo, last, log_to[:-1], bad)
    why = await _recut(services, repo, alone, last, log_to, host, exact=True)
    if not why:
        return Outcome(bad.key, "its host")
    whys.append(f"from its host: {why}")
    return Outcome(bad.key, None, "; ".join(whys))


async def _withdraw(services: Services, repo: Repo) -> None:
    """Withdraw the damaged parts that were replaced: their indexes go, or do not count (backup/withdraw).

    Otherwise a rebuild, or restore.sh, could choose the damaged one while it is kept aside. Safe to run
    twice.
    """
    for one in await healing.aside(services.db, repo.id):
        await withdraw(services, one.key, "it was found damaged, and replaced")


async def _is_whole(services: Services, part: Part) -> bool:
    """Whether the bundle itself is as it was stored."""
    return await rotation.wrong_with(services, replace(part, index_bytes=0)) is None


async def _index_again(services: Services, repo: Repo, part: Part) -> bool:
    """Make a missing `.idx` again, if it then has the recorded sum. False: there is one, or it would not."""
    if not part.index_bytes or await services.vault.stat(layout.index_key(part.key)) is not None:
        return False
    room = services.disk.root / "restores"
    async with view.scratch_view(None, room, object_format=repo.object_format) as place:
        idx = None
        digest = hashlib.sha256(manifest.encode_index(part))
        if part.complete:
            proved = await pack.index(
                services.git,
                place.path,
                hydrate.spliced(services, [Step(part, None, True)], repo.object_format or "sha1"),
                pack.Indexing(object_format=repo.object_format or "sha1"),
            )
            idx = proved.idx
            async for chunk in pack.file_chunks(idx):
                digest.update(chunk)
        if digest.hexdigest() != part.index_sha256:
            return False
        made = await write_index(services.vault, part, idx)
        await healing.index_made(services.db, part.key, made.sealed_index)
    return True


async def _copied(services: Services, repo: Repo, alone: ForgeLease, bad: Part) -> str | None:
    """Store a part anew as a copy of the vault has it, under a new key; which copy. None: none has it whole.

    The bytes are those that lie there, sealed or not. Safe to run twice: an intent names the new part.
    """
    named = layout.parse_bundle_key(bad.key)
    assert named is not None, "a part has the key of a bundle"
    key = layout.bundle_key(repo.id, named.epoch, named.first, named.last, layout.unique())
    new = replace(bad, key=layout.sealed(key, layout.is_sealed(bad.key)))
    for place in services.copies.copies:
        try:
            await parts.intend(services.db, alone, repo.id, new.key)
            await copies.under(services, place, bad.key, new.key, bad.stored)
            if bad.index_bytes:
                idx = layout.index_key(new.key)
                await copies.under(services, place, layout.index_key(bad.key), idx, bad.stored_index)
            failpoints.reached("heal: copied")
            async with leased(services, repo) as lease:
                await parts.replace(services.db, lease, repo.id, [bad], new, services.clock())
        except (Corrupt, NoSuchObject, NetworkError, BadCredentials) as error:
            log.warning("%s cannot be healed from the copy %s: %s", bad.key, place.name, error)
            await recover.discard(services, repo.id, new.key)
        except BaseException:
            await recover.discard(services, repo.id, new.key)
            raise
        else:
            return place.name
    return None


async def _revive(services: Services, repo: Repo, bad: Part) -> bool:
    """Make the parts live again that a damaged one had replaced, if they are there and whole."""
    cover: list[Part] = []
    after = bad.first
    for one in await healing.replaced(services.db, repo.id, bad):
        if one.key != bad.key and one.first == after and await rotation.wrong_with(services, one) is None:
            cover.append(one)
            after = one.last + 1
    if not cover or after != bad.last + 1:
        return False
    async with leased(services, repo) as lease:
        await healing.revive(services.db, lease, repo.id, bad, cover, services.clock())
    return True


async def _recut(
    services: Services,
    repo: Repo,
    alone: ForgeLease,
    last: Snapshot,
    old: Sequence[Part],
    source: Callable[[Path], AbstractAsyncContextManager[View]],
    *,
    exact: bool = False,
) -> str:
    """Replace these parts by one that git packs from the source; why that cannot be, or an empty string."""
    try:
        made = await compact.recut(services, repo, alone, last, Checkpoint(tuple(old)), source, exact=exact)
    except EverrefError as error:
        if error.origin is Origin.VAULT and not isinstance(error, Corrupt | NoSuchObject):
            raise  # it is away: nothing is known
        return str(error)
    return "" if made else "the parts changed meanwhile"


@asynccontextmanager
async def _from_vault(
    services: Services, last: Snapshot, old: Sequence[Part], room: Path
) -> AsyncIterator[View]:
    """What these parts hold, read without their indexes."""
    async with view.scratch_view(None, room, object_format=last.object_format) as whole:
        steps = [Step(replace(part, index_bytes=0, index_sha256=""), None, True) for part in old]
        await hydrate.fill(services, whole.path, last.object_format, steps)
        yield whole


def _from_pool(
    services: Services, repo: Repo, last: Snapshot, room: Path
) -> AbstractAsyncContextManager[View]:
    """What the pool holds. Raises Damaged where it would have to be filled from the damaged part."""
    return hydrate.view_of(services, repo, last, room, PATIENCE)


@asynccontextmanager
async def _from_host(
    services: Services, repo: Repo, last: Snapshot, before: Sequence[Part], bad: Part, room: Path
) -> AsyncIterator[View]:
    """The log up to the damaged part: what the parts before it hold, and the rest fetched by id."""
    tips = await history.targets(services.db, repo.id, last.epoch, bad.last)
    tips = {tip for tip in tips if not refs.is_symbolic(tip)}
    async with view.scratch_view(None, room, object_format=last.object_format) as whole:
        if before:
            steps = [Step(part, None, True) for part in before]
            await hydrate.fill(services, whole.path, last.object_format, steps)
        absent = await read.missing(whole.path, tips)
        remote = await add.remote_of(services, repo.id, repo.url)
        async with connected(services, remote, repo_id=repo.id) as host:
            haves = sorted(tips - absent)[:_HAVES]
            async with aclosing(host.fetch(sorted(absent), haves, services.progress)) as chunks:
                how = pack.Indexing(object_format=last.object_format, fix_thin=bool(before))
                await pack.index(services.git, whole.path, chunks, how)
        yield whole


async def _manifests(services: Services, repo: Repo) -> list[Outcome]:
    """Write missing manifests again, and name those that changed."""
    found = []
    async for snapshot in snapshots.every(services.db, repo.id):
        sealed = snapshot.sealed
        key = layout.manifest_key(repo.id, snapshot.number, sealed is not None)
        try:
            stored = await services.stored.get(key, age.sealed_limit(manifest.LIMIT))
        except NoSuchObject:
            name = await copies.came_back(services, (key, layout.sealed(key)))
            found.append(
                Outcome(key, f"the copy {name} of the vault")
                if name
                else await _write_again(services, repo.id, key, snapshot)
            )
            continue
        if hashlib.sha256(stored).hexdigest() != (sealed.sha256 if sealed else snapshot.manifest_sha256):
            found.append(Outcome(key, None, _CHANGED))
    return found


async def _write_again(services: Services, repo_id: RepoId, key: str, snapshot: Snapshot) -> Outcome:
    """Write a missing manifest as the database has it, if that is what was recorded."""
    refs_then = await history.refs_at(services.db, repo_id, snapshot.number)
    whole = manifest.has_whole_map(snapshot.number, len(refs_then))
    made = manifest.encode(
        Manifest(
            repo=repo_id,
            number=snapshot.number,
            taken_at=snapshot.taken_at,
            reason=snapshot.reason,
            object_format=snapshot.object_format,
            head=snapshot.head,
            refs_count=snapshot.refs_count,
            refs_digest=snapshot.refs_digest,
            epoch=snapshot.manifest_epoch or snapshot.epoch,
            log_entries=snapshot.log_entries,
            log_bytes=snapshot.log_bytes,
            bundle=snapshot.bundle,
            previous=snapshot.previous_sha256,
            changes=tuple(await history.of_snapshot(services.db, repo_id, snapshot.number)),
            refs=dict(refs_then) if whole else None,
        )
    )
    if hashlib.sha256(made).hexdigest() != snapshot.manifest_sha256:
        return Outcome(key, None, "the database no longer has all that it said")
    try:
        sealed = await services.vault.put(key, made)
    except AlreadyExists:
        return Outcome(key, None, "another object was put in its place meanwhile")
    if sealed:
        await healing.manifest_made(services.db, repo_id, snapshot.number, sealed)
    return Outcome(key, "the database, which has all that it said")


async def _tell(services: Services, repo: Repo, one: Outcome) -> None:
    """Notify the team what became of a damaged object: healed from where, or what cannot be restored."""
    now = services.clock()
    if one.how:
        log.warning("healed: %s from %s", one.key, one.how)
        asides = {part.key: part for part in await healing.aside(services.db, repo.id)}
        kept = asides.get(one.key)
        end = f"{kept.replaced_at + GRACE:%Y-%m-%d %H:%M} UTC" if kept else ""
        until = f"; the damaged one is kept aside until {end}" if kept else ""
        words = f"{repo.name}: {one.key} was damaged and has been healed from {one.how}{until}"
        return await healing.tell(services.db, repo.id, words, now, f"healed/{one.key}")
    log.error("cannot be healed: %s: %s", one.key, one.why_not)
    bad = next((part for part in await parts.live(services.db, repo.id) if part.key == one.key), None)
    touched = f"; {await damage.touched(services, bad)}" if bad else ""  # else it is a manifest
    words = f"{repo.name}: {one.key} cannot be healed ({one.why_not}){touched}"
    await healing.tell(services.db, repo.id, words, now, f"damage/unhealed/{one.key}")
