"""What pushes brought: how many commits each move of a ref added and took away, and the newest of them."""

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

COUNTED: Final = 60  # moves whose commits are counted at once
_SUMMARY: Final = 500  # characters
_REMEMBERED: Final = 20_000  # moves: between two commits never more and never fewer lie


@dataclass(frozen=True, slots=True)
class Brought:
    """What one move brought."""

    gained: int | None  # commits; None: it was created or deleted, or holds no commit, or was not counted
    lost: int | None  # commits that the new one does not reach
    newest: Commit | None  # that it came to; of a deleted ref the last; None: none is kept


_known: OrderedDict[Move, Brought] = OrderedDict()


async def brought(
    services: Services, repo: Repo, snapshot: Snapshot, changes: Iterable[RefChange]
) -> Mapping[Move, Brought]:
    """What each of these moves brought, by old and new target; `snapshot` is not older than any of them.

    Counting is remembered, as commits never change. A move beyond the limit is left out.
    """
    wanted = list(dict.fromkeys((one.old, one.new) for one in changes))[:COUNTED]
    found: dict[Move, Brought] = {}
    missing = [move for move in wanted if move not in _known]
    if missing:
        async with opened(services, repo, snapshot) as there:
            told = await there.ask(WhatLies(there.path, tuple(missing)))
        for move, one in zip(missing, told, strict=True):
            found[move] = Brought(one.gained, one.lost, _short(one.new or one.old))
            if one.lost is not None or not (one.old and one.new):  # else there was no time to count
                _known[move] = found[move]
    for move in wanted:
        if move in _known:
            found[move] = _known[move]
            _known.move_to_end(move)
    while len(_known) > _REMEMBERED:
        _known.popitem(last=False)
    return found


def _short(commit: Commit | None) -> Commit | None:
    """A commit as it is remembered: a message can be as long as somebody likes."""
    return commit and replace(commit, summary=commit.summary[:_SUMMARY], body="", parents=())
