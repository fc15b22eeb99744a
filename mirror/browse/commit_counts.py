"""Commit counts: how many commits each move of a ref added and removed, and the newest of them."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mirror.browse.moments import opened
from mirror.core.formats.objects import Commit
from mirror.core.model import RefChange, Repo, Snapshot, Target
from mirror.git.reader.questions import WhatLies
from mirror.services.open import Services

Move = tuple[Target | None, Target | None]  # old, new

COUNTED: Final = 60  # moves whose commits are counted in one request
_SUMMARY: Final = 500  # characters
_REMEMBERED: Final = 20_000  # moves: the commits between two ids never change


@dataclass(frozen=True, slots=True)
class Brought:
    """The commits of one move."""

    gained: int | None  # commits; None: the ref was created or deleted, holds no commit, or was not counted
    lost: int | None  # commits that the new target does not reach
    newest: Commit | None  # the commit at the new target; of a deleted ref the last; None: it is not kept


_known: OrderedDict[Move, Brought] = OrderedDict()


def remembered(change: RefChange) -> Brought | None:
    """The commits of a move, if they were counted lately; asks nobody."""
    return _known.get((change.old, change.new))


async def brought(
    services: Services, repo: Repo, snapshot: Snapshot, changes: Iterable[RefChange]
) -> Mapping[Move, Brought]:
    """The commits of each of these moves, by old and new target; no move is later than `snapshot`.

    Counts are remembered, as commits never change. Moves beyond the limit are left out.
    """
    wanted = list(dict.fromkeys((one.old, one.new) for one in changes))[:COUNTED]
    found: dict[Move, Brought] = {}
    missing = [move for move in wanted if move not in _known]
    if missing:
        async with opened(services, repo, snapshot) as there:
            told = await there.ask(WhatLies(there.path, tuple(missing)))
        for move, one in zip(missing, told, strict=True):
            found[move] = Brought(one.gained, one.lost, _short(one.new or one.old))
            if one.lost is not None or not (one.old and one.new):  # else there was no time to count them
                _known[move] = found[move]
    for move in wanted:
        if move in _known:
            found[move] = _known[move]
            _known.move_to_end(move)
    while len(_known) > _REMEMBERED:
        _known.popitem(last=False)
    return found


def _short(commit: Commit | None) -> Commit | None:
    """A commit as it is remembered: its message can be of any length."""
    return commit and replace(commit, summary=commit.summary[:_SUMMARY], body="", parents=())
