"""Damage in the vault, said in one line: what is missing or broken, and what can be restored without it.

Who calls: backup/hydrate, wherever parts are read; verifications and drills record what they found.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from mirror.core.errors import Corrupt, Damaged, NoSuchObject
from mirror.core.formats import layout
from mirror.core.model import Part, Repo, RepoId
from mirror.core.rules.history import plan
from mirror.core.rules.history.plan import Step
from mirror.services.open import Services
from mirror.store.backup import epochs, parts, snapshots
from mirror.store.upkeep import damages


async def found(services: Services, read: Sequence[Part], error: Corrupt | NoSuchObject) -> Damaged:
    """What this failure to read parts means: which part it was, and what can be restored without it."""
    if isinstance(error, Damaged):
        return error
    words = str(error)
    bad = next((one for one in read if one.key in words or layout.index_key(one.key) in words), None)
    if bad is None:
        return Damaged(f"{words}; everref verify says which part of the vault is damaged")
    key = bad.key if bad.key in words else layout.index_key(bad.key)
    missing = isinstance(error, NoSuchObject)
    what = "is missing from the vault" if missing else f"is damaged ({words.removeprefix(f'{key}: ')})"
    return Damaged(f"{key} {what}; {await left(services, bad)}, and everref verify says what is lost")


def doubt(services: Services, steps: Sequence[Step], error: Corrupt | NoSuchObject) -> bool:
    """Have what this failure names read from another store of the vault; False: each was asked already.

    Where it names no part, all of these are.
    """
    keys = [key for step in steps for key in (step.part.key, layout.index_key(step.part.key))]
    named = [key for key in keys if key in str(error)]
    return services.copies.doubt(named or keys)


async def check(services: Services, repo: Repo, steps: Sequence[Step]) -> None:
    """Raises Damaged if one of these parts is known to be damaged and is read whole, which would fail."""
    known = await parts.damaged(services.db, repo.id)
    bad = next((step.part for step in steps if step.upto is None and step.part.key in known), None)
    if bad is not None and services.copies.copies:
        services.copies.pass_over_the_first([*known, *map(layout.index_key, known)])
    elif bad is not None:
        raise Damaged(f"{bad.key} was found damaged; {await left(services, bad)}")


def missing_manifest(repo_id: RepoId, last: int, later: Collection[int]) -> Damaged:
    """What it means that the vault has these manifests, but not the one that follows `last`."""
    key, highest = layout.manifest_key(repo_id, last + 1), max(later)
    missing = highest - last - len(later)
    more = f" and {missing - 1} more are" if missing > 1 else " is"
    here = f"{span(1, last)} {'are' if last > 1 else 'is'} here" if last else "no snapshot is before it"
    return Damaged(
        f"{key}{more} missing from the vault; {here}, {span(min(later), highest)} cannot be read without "
        "it; bring it back, then run everref rebuild again"
    )


def older_than(repo_id: RepoId, last: int, copy: str) -> Damaged:
    """What it means that a copy of the vault has the manifest that follows `last`, and the first has not."""
    return Damaged(
        f"the copy {copy} has {layout.manifest_key(repo_id, last + 1)}, and the vault has not: the vault is"
        f" older than its copy; fetch what it lacks (everref replicate, from the copy to the vault), then run"
        " everref rebuild again"
    )


def span(first: int, last: int) -> str:
    """Snapshots from one to another, in words."""
    if first == last:
        return f"#{first}"
    return f"#{first} {'and' if last == first + 1 else 'to'} #{last}"


async def looked_for(
    services: Services,
    repo: Repo,
    found_by: str,
    problems: Sequence[str],
    began: datetime,
    drilled: int | None = None,
) -> None:
    """Record the damage that a check found, and notify the repo's team; or record that it found none.

    `drilled` is the snapshot whose drill it was; None: it was a verification. Safe to run twice.
    """
    now = services.clock()
    if not problems:
        await damages.nothing_found(services.db, repo.id, began, now, drilled)
        return
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    message = f"{found_by} of {repo.name} found damage: {problems[0]}{more}"
    await damages.found(services.db, repo.id, problems[0], message, now, drilled)


async def touched(services: Services, bad: Part) -> str:
    """Which snapshots need a part, and which near ones can be restored without it, in words."""
    named = layout.parse_bundle_key(bad.key)
    assert named is not None, "a part has the key of a bundle"
    latest = await snapshots.latest(services.db, named.repo_id)
    last = max(bad.first, latest.number if latest else 0)
    needs = "need" if last > bad.first else "needs"
    return f"{span(bad.first, last)} {needs} it, {await left(services, bad)}"


async def left(services: Services, bad: Part) -> str:
    """What can be restored without this part, in words, judged by what the vault lists."""
    named = layout.parse_bundle_key(bad.key)
    assert named is not None, "a part has the key of a bundle"
    repo_id = named.repo_id
    listed = {stat.key: stat.bytes async for stat in services.vault.list(layout.repo_prefix(repo_id))}
    latest = await snapshots.latest(services.db, repo_id)
    sound = [
        part
        for part in await parts.live(services.db, repo_id)
        if part.key != bad.key and listed.get(part.key) == part.stored_bytes
    ]
    if latest is None:
        return "no snapshot can be restored without it"
    segments = await snapshots.segments(services.db, repo_id, latest.epoch, latest.number)
    before, after = plan.whole_near(sound, segments, bad.first, latest.number)
    if before is not None:  # where that one was dropped, the kept one before it
        before, _ = await epochs.kept_near(services.db, repo_id, before + 1)
    if after is not None:
        _, after = await epochs.kept_near(services.db, repo_id, after - 1)
    names = [f"#{number} {where} it" for number, where in ((before, "before"), (after, "after")) if number]
    if not names:
        return "no snapshot can be restored without it"
    return f"{' and '.join(names)} can be restored"
