"""Checkpoints: once a day the heads of all histories and audit logs are signed into one statement.

Each names the one before it. Whoever keeps one checkpoint elsewhere notices if anything that it covers is
rewritten later, in the vault and the database alike. Who calls: the sweep; `everref evidence`; the pages.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from mirror.backup import evidence
from mirror.channels import timestamps as authority
from mirror.channels import wire
from mirror.core.channels import NotDelivered
from mirror.core.errors import AlreadyExists, Corrupt, LimitReached, NoSuchObject, NotFound, Refused
from mirror.core.formats import layout, manifest, merkle, proofs, statements, timestamps
from mirror.core.formats.proofs import REPO, Checkpoint, Head, Leaf
from mirror.core.formats.statements import NotProven, PublicKey
from mirror.core.model import RepoId
from mirror.services import sealing
from mirror.services.open import Services
from mirror.store.backup import snapshots
from mirror.store.evidence import checkpoints as rows
from mirror.store.evidence import keys
from mirror.store.evidence.checkpoints import Row
from mirror.store.upkeep import erased
from mirror.vault import age

EVERY: Final = timedelta(days=1)
log = logging.getLogger("mirror.checkpoints")

_AT_ONCE: Final = 16  # manifests asked of the vault at the same time
_SPAN: Final = 1000  # heads compared with the database at the same time


@dataclass(frozen=True, slots=True)
class Checked:
    """What a comparison of the checkpoints with the vault and the database found."""

    checkpoints: int
    heads: int  # different ones that were compared
    problems: tuple[str, ...]  # what was rewritten or is missing, each in a line; empty: nothing


async def due(services: Services) -> None:
    """Sign a checkpoint once a day, store what waits, and have the newest stamped. A maintenance task.

    Safe to run twice, also at once: of two with one number, the first is kept.
    """
    last = await rows.last(services.db)
    if last is None or services.clock() - last.at >= EVERY:
        await take(services)
    await store_waiting(services)
    await stamp(services)


async def stamp(services: Services) -> None:
    """Have the authority of TIMESTAMP_URL stamp the newest checkpoint, and store the stamp beside it.

    What fails is recorded and tried again next time, with the newest checkpoint by then, which covers all
    before it. Safe to run twice, also at once: the first stamp is kept. Raises Corrupt if the vault has
    another under this key, and the vault's errors.
    """
    url, last = services.settings.timestamp_url, await rows.last(services.db)
    if url is not None and last is not None and last.stamped_at is None:
        signed = await body(services, last)
        try:
            answer, found = await authority.ask(wire.of(services.settings), url, signed)
        except NotDelivered as error:
            log.warning("checkpoint %d is not time-stamped: %s", last.number, error)
            await rows.not_stamped(services.db, last.number, str(error))
        else:
            await rows.stamped(services.db, last.number, found.at, sha256(answer).hexdigest(), answer)
    for number, answer in await rows.stamps_waiting(services.db):
        await _put(services, layout.stamp_key(number), answer)
        await rows.stamp_stored(services.db, number)


async def stamp_of(services: Services, row: Row) -> bytes | None:
    """The stored time stamp of a checkpoint. None: it has none. Raises NotProven, and the vault's errors."""
    if row.stamped_at is None:
        return None
    found = row.stamp or await services.vault.get(layout.stamp_key(row.number), limit=timestamps.LIMIT)
    if sha256(found).hexdigest() != row.stamp_sha256:
        raise NotProven(f"the time stamp of checkpoint {row.number} was changed in the vault")
    return found


async def take(services: Services) -> Row | None:
    """Sign the heads as they are now. None: there are none, or no SECRET_KEYS, or another run was first.

    Safe to run twice, also at once: each number is taken once. Raises Refused if the vault has a
    checkpoint of this number that this database does not know.
    """
    heads = await rows.heads(services.db)
    key = await evidence.signing_key(services) if heads else None
    if key is None:
        return None
    sums = await rows.sums(services.db)
    number = max(sums, default=0) + 1
    if await services.vault.stat(layout.checkpoint_key(number)) is not None:
        raise Refused(
            f"the vault has checkpoint {number} of another database; run everref rebuild to go on from it"
        )
    found = proofs.leaves(heads)
    log = [proofs.entry(one) for one in sums.values()]
    made = Checkpoint(
        number, services.clock(), len(found), proofs.root(found), sums.get(number - 1), merkle.root(log)
    )
    body = proofs.sign(made, key)
    row = Row(number, made.at, made.size, key.id, sha256(body).hexdigest(), body, proofs.encode_leaves(found))
    return row if await rows.add(services.db, row) else None


async def store_waiting(services: Services) -> None:
    """Store waiting checkpoints in the vault, leaves first: where the statement is, they are, too.

    Safe to run twice, also at once. Raises Corrupt if the vault has something else under a number.
    """
    await evidence.store_keys(services)
    for row in await rows.waiting(services.db):
        assert row.body is not None and row.leaves is not None
        for key, stored in (
            (layout.leaves_key(row.number), row.leaves),
            (layout.checkpoint_key(row.number), row.body),
        ):
            await _put(services, key, stored)
        await rows.stored(services.db, row.number)


async def _put(services: Services, key: str, stored: bytes) -> None:
    try:
        await services.vault.put(key, stored)
    except AlreadyExists:  # a run that died had put it
        if await services.vault.get(key, limit=proofs.LIMIT) != stored:
            raise Corrupt(f"{key} in the vault is not what this database has") from None


async def body(services: Services, row: Row) -> bytes:
    """The stored bytes of a checkpoint. Raises NotProven if the vault has others, and the vault's errors."""
    found = row.body or await services.vault.get(layout.checkpoint_key(row.number), limit=statements.LIMIT)
    if sha256(found).hexdigest() != row.sha256:
        raise NotProven(f"checkpoint {row.number} was changed in the vault since it was signed")
    return found


async def leaves(services: Services, row: Row) -> list[Leaf]:
    """What the root of a checkpoint was made of. Raises Corrupt, NoSuchObject."""
    key = layout.leaves_key(row.number)
    return proofs.decode_leaves(row.leaves or await services.vault.get(key, limit=proofs.LIMIT), key)


async def inclusions(
    services: Services, row: Row, wanted: Collection[tuple[str, UUID]]
) -> dict[tuple[str, UUID], bytes]:
    """The proofs that these repos' histories (REPO) and teams' audit logs (TEAM) are in a checkpoint.

    What is newer than the checkpoint has none. Raises Corrupt, NoSuchObject.
    """
    signed, found = await body(services, row), await leaves(services, row)
    tree = await asyncio.to_thread(merkle.levels, [leaf.hash for leaf in found])
    return {
        (leaf.head.of, leaf.head.id): proofs.include(signed, leaf, index, merkle.path(tree, index))
        for index, leaf in enumerate(found)
        if (leaf.head.of, leaf.head.id) in wanted
    }


async def proof(services: Services, of: str, id: UUID) -> bytes:
    """The proof that a repo's history, or a team's audit log, is in the newest checkpoint.

    Raises NotFound if it is not: it is newer, or there is no checkpoint yet.
    """
    row = await rows.last(services.db)
    found = {} if row is None else await inclusions(services, row, {(of, id)})
    if not found:
        raise NotFound("it is in no checkpoint yet; one is signed every day")
    return found[of, id]


async def extension(services: Services, number: int) -> bytes:
    """The proof that the newest checkpoint follows that of this number. Raises NotFound."""
    old, new = await rows.of_number(services.db, number), await rows.last(services.db)
    if old is None or new is None or old.number >= new.number:
        raise NotFound(f"there is no checkpoint {number} before the newest one")
    sums = await rows.sums(services.db)
    before = [sums[one] for one in sorted(sums) if one < new.number]
    return proofs.extend(await body(services, old), await body(services, new), before)


async def replay(services: Services) -> int:
    """Record the checkpoints that the vault has and the database has not, as long as a known key signed them.

    Returns how many. Safe to run twice. What no known key signed ends it: what follows hangs on that.
    """
    known, added = await rows.sums(services.db), 0
    trusted = {key.id: key for key in await keys.every(services.db)}
    async for stat in services.vault.list(layout.CHECKPOINTS):
        number = layout.parse_checkpoint_key(stat.key)
        if number is None or number in known:
            continue
        try:
            stored = await services.vault.get(stat.key, limit=statements.LIMIT)
            found = proofs.checkpoint(statements.verify(stored, trusted, stat.key), stat.key)
        except (NotProven, NoSuchObject) as error:
            services.progress.note(f"left out: {error}")
            break
        key_id = statements.read(stored, stat.key)[1][0]
        row = Row(number, found.at, found.size, key_id, sha256(stored).hexdigest())
        added += await rows.add(services.db, row)
        await _replay_stamp(services, row)
    return added


async def _replay_stamp(services: Services, row: Row) -> None:
    """Record the stamp that the vault has of a checkpoint, if it is about this one."""
    key = layout.stamp_key(row.number)
    try:
        answer = await services.vault.get(key, limit=timestamps.LIMIT)
        found = timestamps.read(answer, key)
    except NoSuchObject:
        return
    except (NotProven, LimitReached) as error:
        services.progress.note(f"left out: {error}")
        return
    if found.sha256 != row.sha256:
        services.progress.note(f"left out: {key} is about another checkpoint")
        return
    await rows.stamped(services.db, row.number, found.at, sha256(answer).hexdigest(), None)


async def check(services: Services) -> Checked:
    """Compare every checkpoint with what the vault and the database say now; changes nothing.

    1. Each checkpoint: in the vault as it was signed and stamped, by a known key, after the one before it.
    2. Its leaves: they lead to its root.
    3. Each head: the database has the same snapshot or entry there, and the vault the same manifest.
    """
    problems = list[str]()
    known = await rows.sums(services.db)
    trusted = {key.id: key for key in await keys.every(services.db)}
    in_vault = {
        number
        async for stat in services.vault.list(layout.CHECKPOINTS)
        if (number := layout.parse_checkpoint_key(stat.key)) is not None
    }
    for number in sorted(in_vault - known.keys()):
        problems.append(f"checkpoint {number} is in the vault, but not in the database; run everref rebuild")
    services.progress.phase("comparing checkpoints", len(known), "checkpoints")
    seen = set[Head]()
    for number in known:
        row = await rows.of_number(services.db, number)
        if row is None:
            continue
        try:
            found = await _checked(services, row, known, trusted)
        except (Corrupt, NoSuchObject) as error:
            problems.append(str(error))
            continue
        fresh = [leaf.head for leaf in found if leaf.head not in seen]
        seen.update(fresh)
        for start in range(0, len(fresh), _SPAN):
            problems += await _compared(services, number, fresh[start : start + _SPAN])
        services.progress.advance(1)
    return Checked(len(known), len(seen), tuple(problems))


async def _checked(
    services: Services, row: Row, known: dict[int, str], trusted: dict[str, PublicKey]
) -> list[Leaf]:
    """Steps 1 and 2 for one checkpoint: its leaves. Raises Corrupt, NoSuchObject."""
    what = f"checkpoint {row.number}"
    found = proofs.checkpoint(statements.verify(await body(services, row), trusted, what), what)
    log = [proofs.entry(known[one]) for one in sorted(known) if one < row.number]
    if found.number != row.number or found.previous != known.get(row.number - 1):
        raise NotProven(f"{what} does not follow checkpoint {row.number - 1}: one of them was rewritten")
    if found.log_root != merkle.root(log):
        raise NotProven(f"{what} was signed after other checkpoints than those that are here")
    await stamp_of(services, row)
    made_of = await leaves(services, row)
    if (len(made_of), proofs.root(made_of)) != (found.size, found.root):
        raise NotProven(f"{layout.leaves_key(row.number)} was changed: it does not lead to the signed root")
    return made_of


async def _compared(services: Services, number: int, heads: Sequence[Head]) -> list[str]:
    """Step 3 for some heads: what is not as it was at this checkpoint, each in a line."""
    problems = []
    gone = await erased.among(services.db, {RepoId(head.id) for head in heads if head.of == REPO})
    heads = [head for head in heads if head.of != REPO or RepoId(head.id) not in gone]
    for head, now in zip(heads, await rows.sums_now(services.db, heads), strict=True):
        if now != head.sha256:
            became = "is missing from" if now is None else "was rewritten in"
            problems.append(f"{_called(head)} of checkpoint {number} {became} the database")
    manifests = [head for head in heads if head.of == REPO]
    for start in range(0, len(manifests), _AT_ONCE):
        batch = manifests[start : start + _AT_ONCE]
        for head, wrong in zip(
            batch, await asyncio.gather(*(_in_vault(services, head) for head in batch)), strict=True
        ):
            if wrong:
                problems.append(f"{_called(head)} of checkpoint {number} {wrong} the vault")
    return problems


async def _in_vault(services: Services, head: Head) -> str | None:
    repo_id = RepoId(head.id)
    known = await snapshots.get(services.db, repo_id, head.number)
    sealed = known.sealed if known and known.manifest_sha256 == head.sha256 else None
    key = layout.manifest_key(repo_id, head.number, sealed is not None)
    try:
        if sealed:  # its stored bytes tell, without a key
            stored = await services.stored.get(key, age.sealed_limit(manifest.LIMIT))
            return None if sha256(stored).hexdigest() == sealed.sha256 else "was rewritten in"
        plain = (await sealing.got(services, key, manifest.LIMIT)).plain
    except NoSuchObject:
        return "is missing from"
    return None if sha256(plain).hexdigest() == head.sha256 else "was rewritten in"


def _called(head: Head) -> str:
    if head.of == REPO:
        return f"snapshot {head.number} of repo {head.id}"
    return f"entry {head.number} of the audit log of team {head.id}"
