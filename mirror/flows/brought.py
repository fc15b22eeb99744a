"""What pushes brought: how many commits each move of a ref added and took away, and the newest of them."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mirror import refs
from mirror.flows.browse import opened
from mirror.flows.edges import Edges
from mirror.git import browse
from mirror.git.read import Objects
from mirror.model import RefChange, Repo, Snapshot, Target
from mirror.objects import Commit

Move = tuple[Target | None, Target | None]  # old, new

COUNTED: Final = 60  # moves whose commits are counted at once
_REMEMBERED: Final = 20_000  # moves: between two commits never more and never fewer lie


@dataclass(frozen=True, slots=True)
class Brought:
    """What one move brought."""

    gained: int | None  # commits; None: it was created or deleted, or holds no commit, or was not counted
    lost: int | None  # commits that the new one does not reach
    newest: Commit | None  # that it came to; of a deleted ref the last; None: none is kept


_known: OrderedDict[Move, Brought] = OrderedDict()


async def brought(
    edges: Edges, repo: Repo, snapshot: Snapshot, changes: Iterable[RefChange]
) -> Mapping[Move, Brought]:
    """What each of these moves brought, by old and new target; `snapshot` is not older than any of them.

    Counting is remembered, as commits never change. A move beyond the limit is left out.
    """
    wanted = list(dict.fromkeys((one.old, one.new) for one in changes))[:COUNTED]
    missing = [move for move in wanted if move not in _known]
    if missing:
        async with opened(edges, repo, snapshot) as view:
            commits = await browse.look(view, lambda held: {move: _commits(held, move) for move in missing})
            for move, (old, new) in commits.items():
                gained = lost = None
                if old and new:
                    lost, gained = await browse.count_apart(edges.git, view, old.oid, new.oid)
                _known[move] = Brought(gained, lost, new or old)
    found = {move: _known[move] for move in wanted}
    for move in wanted:
        _known.move_to_end(move)
    while len(_known) > _REMEMBERED:
        _known.popitem(last=False)
    return found


def _commits(held: Objects, move: Move) -> tuple[Commit | None, Commit | None]:
    old, new = move
    return _commit(held, old), _commit(held, new)


def _commit(held: Objects, target: Target | None) -> Commit | None:
    return None if target is None or refs.is_symbolic(target) else browse.commit_of(held, target)
