"""Letting go of all backups of a repo: its rows go first, then what is stored of it, wherever that is.

Who calls: jobs/pending, when what was asked for and confirmed (people/pending) takes effect, and the sweep,
which deletes what a store kept locked, or a run that was killed left.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from mirror.core import words
from mirror.core.errors import AlreadyExists, Busy, Corrupt, EverrefError, Locked
from mirror.core.formats import attestation, layout
from mirror.core.model import Repo, RepoId
from mirror.core.rules.keeping.pending import Kind
from mirror.discovery import choose
from mirror.people import pending
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.lease import leased, leased_to_compact
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.discovery import remotes
from mirror.store.people import notices
from mirror.store.people.pending import Pending, PendingId
from mirror.store.people.teams import Team
from mirror.store.upkeep import erased, keeping
from mirror.store.upkeep.erased import Erased
from mirror.vault import streams

LOOK: Final = timedelta(hours=1)  # between two searches of the vault for what is left
AFTER: Final = timedelta(
    days=7
)  # for which it is searched again: a run that hung may still have stored something
PATIENCE: Final = 60.0  # seconds for a run that is at work on the repo to end

log = logging.getLogger("mirror.forget")


@dataclass(frozen=True, slots=True)
class Left:
    """What the vault still has of a repo that is gone."""

    deleted: int  # objects, by this search
    locked: int  # that the store does not let anybody delete yet
    until: datetime | None  # when the first can be deleted; None: none is locked, or the store does not say


async def ask(services: Services, by: By | None, team: Team, repo: Repo, why: str = "") -> Pending:
    """Ask for all backups of the repo to be deleted, at which people/pending says when.

    Until then it is backed up as before. Raises Held, and as `people.pending.ask` does.
    """
    await keeping.check_not_held(services.db, repo.id)
    return await pending.ask(services, by, team, Kind.FORGET_REPO, {}, repo, why=why)


async def forget(services: Services, repo_id: RepoId, action_id: PendingId | None) -> Mapping[str, Any]:
    """Delete all backups of this repo, and everything else about it; returns what there was.

    1. Its webhook is removed at its host, and no sync begins any more.
    2. Under its leases, with no restore under way: `erased/<repo id>.json` in the vault says that it is gone,
       so that a rebuild does not bring back what is not deleted yet.
    3. One transaction: all its rows are deleted; what stays is a row of `erased_repo`.
    4. This machine's pool and scratch space, bundles to download, and every object of it in the vault.

    What the store keeps locked is deleted by `due` when the lock ends. Safe
    to run twice and after a run that was killed: each step finds what is left to do. Raises Held;
    Busy while something reads it.
    """
    repo = await repos.find(services.db, repo_id)
    if repo is None:
        known = await erased.find(services.db, repo_id)
        if known is None:
            return {"snapshots": 0, "bytes": 0}
        return _told(known, await clear(services, repo_id))
    await keeping.check_not_held(services.db, repo_id)
    await choose.let_go(services, repo_id, choose.EVERREF)
    async with (
        leased_to_compact(services, repo, PATIENCE),
        leased(services, repo, PATIENCE) as lease,
    ):
        if await erased.is_read(services.db, repo_id) or await keeping.reading_since(services.db, repo_id):
            raise Busy(f"something reads {repo.name} right now; it is deleted when that has ended")
        was, now = await erased.size(services.db, repo_id), services.clock()
        team_id = (await remotes.get(services.db, repo_id)).team_id
        exports = await erased.export_keys(services.db, repo_id)
        await _tell_vault(
            services, repo, {"team": str(team_id), "snapshots": was.snapshots, "bytes": was.bytes}, now
        )
        failpoints.reached("forget: told the vault")
        await erased.remove(services.db, lease, repo, action_id, was, now)
    failpoints.reached("forget: recorded")
    for key in exports:
        try:
            await services.vault.delete(key)
        except Locked as error:  # the maintenance of exports tries again
            log.warning("a bundle to download is locked: %s", error)
    left = await clear(services, repo_id)
    known = await erased.find(services.db, repo_id)
    assert known is not None  # step 3 wrote it
    return _told(known, left)


async def clear(services: Services, repo_id: RepoId) -> Left:
    """Delete every object, hidden version and unfinished upload of a repo that is gone, and its disk caches.

    Safe to run twice; an object that the store keeps locked is counted.
    """
    await clear_disk(services)
    prefix = layout.repo_prefix(repo_id)
    deleted, locked, until = 0, 0, None
    for key in await streams.every_key(services.vault, prefix):
        try:
            await services.vault.delete(key)
        except Locked as error:
            locked += 1
            if error.until is not None:
                until = min(until or error.until, error.until)
            continue
        deleted += 1
        failpoints.reached("forget: object deleted")
    for upload in await services.vault.unfinished(prefix):
        await services.vault.give_up(upload.key)
    now = services.clock()
    if await erased.looked(services.db, repo_id, locked, until, now):
        await _say_gone(services, repo_id, now)
    failpoints.reached("forget: cleared")
    return Left(deleted, locked, until)


async def due(services: Services) -> None:
    """Delete what is left of repos that are gone, as far as the store lets anybody. Safe to run twice."""
    now = services.clock()
    for one in await erased.to_look(services.db, now - AFTER, now - LOOK):
        try:
            left = await clear(services, one.repo_id)
        except EverrefError as error:
            log.warning("repo %s, which is gone: %s", one.repo_id, error)
            continue
        if left.locked:
            log.info(
                "repo %s, which is gone: %d objects are locked until %s", one.repo_id, left.locked, left.until
            )


async def clear_disk(services: Services) -> int:
    """Delete pools and scratch space of repos that are gone from this machine's disk; returns how many.

    For every worker. Safe to run twice.
    """
    found = await asyncio.to_thread(_on_disk, services.disk.root)
    gone = await erased.among(services.db, list(found))
    for repo_id in gone:
        for path in found[repo_id]:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
    return len(gone)


def _on_disk(root: Path) -> dict[RepoId, list[Path]]:
    found = dict[RepoId, list[Path]]()
    for folder in (root / "pools", root / "scratch"):
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            try:
                found.setdefault(RepoId(UUID(path.name.removesuffix(".git"))), []).append(path)
            except ValueError:  # not of one repo
                continue
    return found


async def gone(services: Services) -> Mapping[RepoId, Mapping[str, Any]]:
    """The repos that the vault says are gone, and what it says of each, so far as Everref's keys attest it.

    Anybody who can write to the bucket can put such an object there, and what is left of a repo that is gone
    is deleted. So one that no key attests counts for nothing; a note says so.
    """
    found = dict[RepoId, Mapping[str, Any]]()
    async with aclosing(services.vault.list(layout.ERASED)) as objects:
        ids = [repo_id async for stat in objects if (repo_id := layout.parse_erased_key(stat.key))]
    for repo_id in ids:
        try:
            found[repo_id] = await said(services, repo_id)
        except Corrupt as error:
            services.progress.note(f"{error}; until then nothing of that repository is deleted for it")
    return found


async def replay(services: Services) -> None:
    """Record the repos that the vault says are gone, for a rebuild, after the state. Safe to run twice."""
    for repo_id, told in (await gone(services)).items():
        await erased.recover(services.db, told, repo_id, datetime.fromisoformat(told["erased_at"]))


async def said(services: Services, repo_id: RepoId) -> Mapping[str, Any]:
    """What the vault says about a repo that is gone. Raises Corrupt where Everref did not; NoSuchObject."""
    key = layout.erased_key(repo_id)
    stored = await services.vault.get(key)
    if services.keyring is not None and not attestation.is_attested(services.keyring, key, stored):
        raise Corrupt(
            f"{key} was not written with any of SECRET_KEYS: put the key that it was written with back as an"
            " older one, or delete the object from the vault if somebody else put it there"
        )
    try:
        told = json.loads(stored)
        datetime.fromisoformat(told["erased_at"])
        if told["format"] != 1 or told["repo"] != str(repo_id) or UUID(told["team"]) is None:
            raise ValueError
        return {**told, "snapshots": int(told["snapshots"]), "bytes": int(told["bytes"])}
    except (ValueError, KeyError, TypeError):
        raise Corrupt(f"{key} cannot be read; restore it from a copy of the vault") from None


async def _tell_vault(services: Services, repo: Repo, about: Mapping[str, Any], at: datetime) -> None:
    key = layout.erased_key(repo.id)
    told = {"format": 1, "repo": str(repo.id), **about, "erased_at": words.rfc3339(at)}
    stored = json.dumps(told, sort_keys=True).encode()
    try:
        await services.vault.put(key, attestation.attest(services.keyring, key, stored))
    except AlreadyExists:  # a run that was killed wrote it
        await said(services, repo.id)


async def _say_gone(services: Services, repo_id: RepoId, now: datetime) -> None:
    """Tell the team when what was locked is gone, too."""
    known = await erased.find(services.db, repo_id)
    if known is None or known.team_id is None or now - known.erased_at < timedelta(hours=1):
        return
    what = known.name or f"the repository with the id {repo_id}"
    said = f"The vault has nothing of {what} any more: the last of its objects was deleted"
    await notices.add(services.db, known.team_id, None, pending.NOTICE, said, now, f"gone {repo_id}")


def _told(known: Erased, left: Left) -> Mapping[str, Any]:
    return {
        "repo": str(known.repo_id),
        "snapshots": known.snapshots,
        "bytes": known.bytes,
        "objects_left": left.locked,
        "locked_until": left.until.isoformat() if left.until else None,
    }
