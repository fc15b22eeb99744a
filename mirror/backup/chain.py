"""The manifests of a repo as the vault has them: whether they are those that were written, and what they say.

Who calls: a verification and a drill, which trust the database for nothing that the vault should have.
"""

import asyncio
import hashlib
from dataclasses import dataclass

from mirror.core import refs, words
from mirror.core.errors import Corrupt, KeyMissing, NoSuchObject
from mirror.core.formats import layout, manifest
from mirror.core.formats.manifest import Manifest
from mirror.core.model import RefName, Refs, Repo, Snapshot, Target
from mirror.services import sealing
from mirror.services.open import Services
from mirror.store.backup import history, snapshots
from mirror.vault import age

_AT_ONCE = 16  # manifests asked of the vault at the same time


@dataclass(frozen=True, slots=True)
class Chain:
    """What the manifests up to one of them show."""

    refs: Refs  # to which they add up
    before: Refs  # to which those before the last one add up
    targets: frozenset[Target]  # of all their changes that kept snapshots have
    problems: tuple[str, ...]  # each names its manifest
    damaged: frozenset[int]  # the numbers of these; what is wrong with one is not laid to those after it
    closed: KeyMissing | None  # some are stored as they were sealed, and no key that is here opens them


async def read(services: Services, repo: Repo, last: int) -> Chain:
    """Read every manifest up to this number: its sum, its place in the chain, the refs it adds up to.

    After one that does not hold, or that no key opens, the next one is judged by the refs that the
    database has.
    """
    services.progress.phase("reading every manifest", last, "manifests")
    targets: set[Target] = set()
    problems: list[str] = []
    damaged: set[int] = set()
    known: Refs = {}
    before: Refs = {}
    gone: dict[RefName, Target] = {}  # what dropped snapshots set since the last kept one
    closed: KeyMissing | None = None
    recorded = {snapshot.number: snapshot async for snapshot in snapshots.every(services.db, repo.id)}
    for start in range(1, last + 1, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, last + 1))
        for number, found in zip(
            numbers,
            await asyncio.gather(
                *(_manifest(services, repo, number, recorded.get(number)) for number in numbers)
            ),
            strict=True,
        ):
            services.progress.advance(1)
            before = known
            if isinstance(found, KeyMissing):
                closed = closed or found
                known = await history.refs_at(services.db, repo.id, number)
                continue
            problem = found if isinstance(found, str) else _mismatch(found, recorded.get(number))
            if problem is None and isinstance(found, tuple):
                known, problem = _added_up(known, found[0])
                moved = {change.name: change.new for change in found[0].changes if change.new}
                if _is_dropped(recorded.get(number)):
                    gone |= moved
                else:
                    targets.update(change.new for change in found[0].changes if change.new)
                    targets.update(known[name] for name in gone if name in known)
                    gone = {}
            if problem is not None:
                problems.append(f"{layout.manifest_key(repo.id, number)}: {problem}")
                damaged.add(number)
                known = await history.refs_at(services.db, repo.id, number)
    return Chain(known, before, frozenset(targets), tuple(problems), frozenset(damaged), closed)


async def unlike(services: Services, repo: Repo, number: int, found: Refs) -> list[str]:
    """How refs that the vault has for a snapshot differ from those of the database, in a line, if they do."""
    known = await history.refs_at(services.db, repo.id, number)
    other = [name for name in {**found, **known} if found.get(name) != known.get(name)]
    if not other:
        return []
    return [
        f"{words.count(len(other), 'ref')} of #{number} {'is' if len(other) == 1 else 'are'} not the same in"
        f" the vault and the database, such as {words.clean(words.name(min(other)))}"
    ]


def _added_up(known: Refs, found: Manifest) -> tuple[dict[RefName, Target], str | None]:
    """The refs after this manifest's changes, and what is wrong with them, or None."""
    try:
        after = refs.apply(known, found.changes)
    except Corrupt as error:
        return {}, str(error)
    if refs.digest(after) != found.refs_digest or (found.refs is not None and dict(found.refs) != after):
        return after, "its ref changes do not lead to its refs"
    return after, None


def _is_dropped(recorded: Snapshot | None) -> bool:
    return recorded is not None and recorded.dropped_at is not None


async def _manifest(
    services: Services, repo: Repo, number: int, recorded: Snapshot | None
) -> tuple[Manifest, str] | KeyMissing | str:
    """A manifest and its sum, or what is wrong with it; KeyMissing if it is as it was stored, but sealed."""
    key = layout.manifest_key(repo.id, number)
    try:
        if recorded is None:
            plain = (await sealing.got(services, key, manifest.LIMIT)).plain
        elif recorded.sealed is None:
            plain = await services.vault.get(key, manifest.LIMIT)
        else:
            key = layout.sealed(key)
            stored = await services.stored.get(key, age.sealed_limit(manifest.LIMIT))
            digest = hashlib.sha256(stored).hexdigest()
            if digest != recorded.sealed.sha256:
                return f"expected sha256 {recorded.sealed.sha256} of what is sealed, found {digest}"
            plain = await sealing.opened(services, key, stored)
        return manifest.decode(plain), hashlib.sha256(plain).hexdigest()
    except KeyMissing as error:
        return error
    except (NoSuchObject, Corrupt) as error:
        return str(error)


def _mismatch(found: tuple[Manifest, str], recorded: Snapshot | None) -> str | None:
    """What is wrong with a manifest that can be read, or None."""
    if recorded is None:
        return "the database does not have this snapshot; run everref rebuild"
    if found[1] != recorded.manifest_sha256:
        return f"expected sha256 {recorded.manifest_sha256}, found {found[1]}"
    if found[0].previous != recorded.previous_sha256:
        return "it does not follow the manifest before it"
    return None
