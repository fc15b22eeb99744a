"""Sealing anew, with the newest of SECRET_KEYS, what older ones sealed: after that the older ones can go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror.keyring import BadKey, Keyring
from mirror.store import sealed
from mirror.store.database import Db

_AT_ONCE: Final = 500  # texts that are read together
_ROUNDS: Final = 3  # while others still seal with an older key


@dataclass(frozen=True, slots=True)
class Key:
    """One of the keys, or one that is missing, and what needs it."""

    id: str  # hex; nothing of the key itself
    newest: bool
    here: bool  # it is in SECRET_KEYS
    sealed: int  # texts that only it opens


@dataclass(frozen=True, slots=True)
class Rotated:
    """What became of it."""

    resealed: int
    keys: Sequence[Key]  # the newest first, then those that are here, then those that are missing
    problems: Sequence[str]  # what could not be opened, each in a line

    @property
    def done(self) -> bool:
        """Nothing needs any key but the newest."""
        return not any(key.sealed for key in self.keys if not key.newest)


async def rotate(db: Db, keyring: Keyring) -> Rotated:
    """Seal anew what an older key sealed, and count which keys are needed still.

    Safe to run twice, and while everything works: a text is only replaced if it
    is still the one that was read, and what changed meanwhile is looked at
    again. A process that still has the older keys alone goes on sealing with
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
    for place in sealed.PLACES:
        after = ""
        while found := await sealed.others(db, place, keyring.mark, after, _AT_ONCE):
            for one in found:
                context = place.context.format(one.row)
                try:
                    plain = keyring.open(one.text, context)
                except BadKey as error:
                    problems.append(str(error))
                    continue
                resealed += await sealed.replace(db, place, one, keyring.seal(plain, context))
            after = found[-1].row
    return resealed, problems


async def keys(db: Db, keyring: Keyring) -> Sequence[Key]:
    """Every key that something is sealed with, or that SECRET_KEYS has, and how much each seals."""
    counts = await sealed.marks(db, len(keyring.mark))
    known = [Key(mark[1:].hex(), mark == keyring.mark, True, counts.pop(mark, 0)) for mark in keyring.marks]
    return [*known, *(Key(mark[1:].hex(), False, False, counts[mark]) for mark in sorted(counts))]
