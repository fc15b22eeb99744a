"""Re-encrypting what older keys sealed with the newest of SECRET_KEYS, so that older keys can be removed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mirror.core.errors import EverrefError, OurFault
from mirror.core.keyring import BadKey, Keyring
from mirror.services.open import Services
from mirror.store.database import Db
from mirror.store.upkeep import reencryption
from mirror.store.upkeep import state as exports
from mirror.upkeep import state

_AT_ONCE: Final = 500  # texts that are read together
_ROUNDS: Final = 3  # more than one, because others may still seal with an older key


@dataclass(frozen=True, slots=True)
class Key:
    """A key, present or missing, and what needs it."""

    id: str  # hex; nothing of the key itself
    newest: bool
    here: bool  # it is in SECRET_KEYS
    sealed: int  # texts that only it opens
    state: bool  # the newest export of the state may need it


@dataclass(frozen=True, slots=True)
class Rotated:
    """The result of a rotation."""

    resealed: int
    keys: Sequence[Key]  # the newest first, then those that are here, then those that are missing
    problems: Sequence[str]  # what could not be opened, each in a line

    @property
    def done(self) -> bool:
        """Whether nothing needs any key but the newest."""
        return not any(key.sealed or key.state for key in self.keys if not key.newest)


async def everything(services: Services) -> Rotated:
    """Re-encrypt the database, then export the state, so that nothing new needs the older keys.

    In this order, because the export holds what is sealed in the database. Safe to run twice.
    """
    if services.keyring is None:
        raise OurFault("there are no keys: set SECRET_KEYS (32 random characters or more)")
    done = await rotate(services.db, services.keyring)
    try:
        await state.export(services)
    except EverrefError as error:
        return replace(done, problems=[*done.problems, f"the state could not be exported: {error}"])
    return replace(done, keys=await keys(services.db, services.keyring))


async def rotate(db: Db, keyring: Keyring) -> Rotated:
    """Re-encrypt what an older key sealed, and count which keys are still needed.

    Safe to run twice, and while everything runs: a text is replaced only if it
    is still the one that was read, and what changed meanwhile is checked
    again. A process that has only the older keys continues to seal with
    them, which the count at the end shows. What cannot be opened stays as it is.
    """
    resealed, problems = 0, list[str]()
    for _ in range(_ROUNDS):
        moved, problems = await _round(db, keyring)
        resealed += moved
        if not moved:
            break
    return Rotated(resealed, await keys(db, keyring), problems)


async def _round(db: Db, keyring: Keyring) -> tuple[int, list[str]]:
    resealed, problems = 0, []
    for place in reencryption.PLACES:
        after = ""
        while found := await reencryption.others(db, place, keyring.mark, after, _AT_ONCE):
            for one in found:
                context = place.context.format(one.row)
                try:
                    plain = keyring.open(one.text, context)
                except BadKey as error:
                    problems.append(str(error))
                    continue
                resealed += await reencryption.replace(db, place, one, keyring.seal(plain, context))
            after = found[-1].row
    return resealed, problems


async def keys(db: Db, keyring: Keyring) -> Sequence[Key]:
    """Every key that something is sealed with, or that SECRET_KEYS has, and what needs it.

    The newest export of the state needs the key that it was sealed with, and any of the
    older ones if it is not known which.
    """
    counts = await reencryption.marks(db, len(keyring.mark))
    needed = await exports.opens_with(db)
    known = [
        Key(mark[1:].hex(), mark == keyring.mark, True, counts.pop(mark, 0), needed in (None, mark[1:].hex()))
        for mark in keyring.marks
    ]
    missing = {mark[1:].hex(): count for mark, count in counts.items()}
    if needed and needed not in keyring.ids:
        missing.setdefault(needed, 0)
    return [*known, *(Key(id, False, False, missing[id], id == needed) for id in sorted(missing))]
