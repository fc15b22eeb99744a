"""Every push counts: what was pushed and overwritten between two looks is fetched by id, a snapshot for each.

Who calls: flows/sync, in its turn, before it takes what the remote shows now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mirror import pushes, refs
from mirror.errors import Corrupt, LimitReached, NetworkError, Origin, Refused, RemoteGone
from mirror.flows.take import Moment, Taking, take
from mirror.git import read
from mirror.git.upstream import NotOurRef
from mirror.model import HEX_LENGTH, Listing, ObjectFormat, Reason, RefName, Refs, Snapshot, Target
from mirror.pushes import Answered, Claim, Lost, Push, Way
from mirror.store import claims

AT_ONCE: Final = 100  # pushes that become snapshots of their own in one sync
GIVEN_UP: Final = timedelta(days=1)  # after which a push that could not be asked for is lost
_GONE: Final = "the remote has it no more"


@dataclass(frozen=True, slots=True)
class Rescued:
    """Where the rescue came to, and how the snapshot of what the remote shows goes on from there."""

    last: Snapshot
    refs: Refs  # of `last`
    way: Way
    is_short: bool  # something may be left to the next sync
    broken_off: NetworkError | None  # why the line could not be asked for all of it; None: it was


async def rescue(
    run: Taking, last: Snapshot, old: Refs, seen: Listing, told: Sequence[Claim], now: datetime
) -> Rescued:
    """Take a snapshot for each push that claims tell of, in order, up to the one that led to `seen`.

    A tip that was overwritten is fetched by its id, which forges serve while they
    have it. A claim is evidence, never state: its ref map is the last one with this
    one push, its objects are proved like all others, and the snapshot that follows
    is what the remote shows. So whoever has a hook's secret can add moments that
    never were, made of objects that the host serves for this repository (GitHub
    serves those of its forks too), and can neither change nor hide any that was.

    What can't be had is left to the snapshot that follows: if its objects come with
    it, the push is a change of its own there, else it is lost, and that is kept.
    Only the remote itself can make an end of a push: where the vault, the database or this
    machine fails, the sync fails, and the next one goes on from there.
    Beyond AT_ONCE, and when the line breaks, what did not come waits for the next sync, for which
    the caller leaves the wish open.

    Safe to run twice: each snapshot answers its claims in its own transaction, and a claim
    whose move the history has is no push. A run that dies leaves the first ones.
    """
    sound = [claim for claim in told if _is_sound(claim, seen.object_format)]
    tips = {tip for claim in sound for tip in (claim.before, claim.after) if tip}
    held = tips - await read.missing(run.pool.path, tips)
    compared = await claims.compared(run.edges.db, run.repo.id, sound)
    ahead = pushes.between(old, seen.refs, compared, held)
    open_ = {claim.id for claim in told}
    waiting: list[Push] = []
    gone: dict[Push, str] = {}
    lost: list[Lost] = []
    goal = [ahead.pop()] if ahead and ahead[-1].new == seen.refs.get(ahead[-1].name) else []
    broken_off: NetworkError | None = None
    for number, push in enumerate(ahead):
        state = _after(old, push)
        if broken_off or number >= AT_ONCE or state is None or old.get(push.name) == push.new:
            waiting.append(push)
            gone |= {push: "no ref can be beside others as it would have been"} if state is None else {}
            continue
        by_way_of = (*waiting, push)
        later = {one.claim.id for one in (*ahead[number + 1 :], *goal)}
        ended = {one.claim.id for one in by_way_of} - later
        moment = Moment(
            Listing(state, seen.object_format),
            min(now, max(last.taken_at, push.claim.at)),
            Reason.PUSH,
            Way(by_way_of, ended, dict(gone)),
            seen=False,
        )
        try:
            last = await take(run, last, old, moment)
        except NotOurRef:
            waiting.append(push)
            gone[push] = _GONE
        except (Corrupt, Refused) as error:
            if error.origin is Origin.SOURCE and await run.pool.empty_if_broken():
                error.came_from(Origin.DISK, instead_of=Origin.SOURCE)
            if error.origin is not Origin.SOURCE:
                raise
            lost.append(pushes.lost_push(push, str(error)))
        except (NetworkError, LimitReached, RemoteGone) as error:
            if error.origin is not Origin.SOURCE:
                raise
            # It has just listed its refs.
            broken_off = NetworkError(
                f"pushes that were overwritten are not saved yet: {error}", origin=error.origin
            )
            run.edges.progress.note(str(broken_off))
            waiting.append(push)
            gone |= {one: str(error) for one in ahead[number:] if now - one.claim.at > GIVEN_UP}
        else:
            old, waiting = state, []
            open_ -= ended
    if len(ahead) > AT_ONCE:
        run.edges.progress.note(
            f"{len(ahead) - AT_ONCE:,} pushes more were made at once than are saved as snapshots of their own"
        )
    is_short = broken_off is not None or len(ahead) > AT_ONCE or len(told) >= claims.AT_ONCE
    return Rescued(last, old, Way((*waiting, *goal), open_, gone, lost), is_short, broken_off)


async def without_snapshot(run: Taking, way: Way) -> Answered:
    """What is answered where all that was pushed is not there any more, and nothing else moved."""
    absent = await read.missing(run.pool.path, {push.new for push in way.pushes if push.new})
    return way.answered([push for push in way.pushes if push.new in absent])


def _is_sound(claim: Claim, object_format: ObjectFormat) -> bool:
    """Whether a repository of this format can have had such a ref."""
    try:
        refs.check_name(claim.name)
    except Corrupt:
        return False
    length = HEX_LENGTH[object_format]
    return all(tip is None or len(tip) == length for tip in (claim.before, claim.after))


def _after(old: Refs, push: Push) -> dict[RefName, Target] | None:
    """The map after this push; None where git could not keep it beside the others."""
    state = dict(old)
    if push.new is None:
        state.pop(push.name, None)
    elif push.name not in old and pushes.collides(old.keys(), push.name):
        return None
    else:
        state[push.name] = push.new
    return state
