"""Compaction: no snapshot is ever lost, few parts stay, and little is written again."""

from dataclasses import replace
from math import log

from hypothesis import given
from hypothesis import strategies as st

from mirror.core.model import Part, Segment
from mirror.core.rules.history import plan
from mirror.core.rules.keeping import compaction
from mirror.core.rules.keeping.compaction import DEEPEST, FAN_IN, Checkpoint, Merge


def born(first: int, last: int, size: int, complete: bool = False) -> Part:
    return Part(
        f"{first}-{last}", 1, first, last, size, "", 0, 1, (Segment(last, 1, size, f"{last}"),), complete
    )


def carried_out(due: Merge | Checkpoint, live: list[Part], packing: float = 1.0) -> tuple[list[Part], Part]:
    """The live parts after this, and the new one; git makes a checkpoint smaller by the factor `packing`."""
    size = sum(part.bytes for part in due.parts)
    if isinstance(due, Checkpoint):
        new = replace(due.parts[0], segments=(), bytes=int(size * packing), last=due.last, complete=True)
    else:
        new = replace(due.parts[0], segments=due.segments, bytes=size, last=due.last)
    new = replace(new, key=f"{due.first}-{due.last}-new")
    assert (new.first, new.last) == (due.first, due.last)
    return [part for part in live if part not in due.parts] + [new], new


class Vault:
    """A log that is pushed to and compacted after each push."""

    def __init__(self, packing: float = 1.0) -> None:
        self.packing = packing
        self.live: list[Part] = []
        self.segments: list[Segment] = []
        self.number = 0
        self.merged = self.checkpointed = 0  # bytes written
        self.longest = 0  # live parts, at the most

    def push(self, size: int, without_objects: int = 0) -> None:
        first = self.live[-1].last + 1 if self.live else 1
        self.number += 1 + without_objects
        part = born(first, self.number, size, complete=not self.live)
        self.live.append(part)
        self.segments += part.segments
        while due := compaction.due(self.live):
            self.live, new = carried_out(due, self.live, self.packing)
            self.live.sort(key=lambda part: part.first)
            if isinstance(due, Merge):
                self.merged += new.bytes
            else:
                self.checkpointed += new.bytes
        self.longest = max(self.longest, len(self.live))


sizes = st.lists(st.integers(1, 10**6), min_size=1, max_size=150)
gaps = st.lists(st.integers(0, 3), min_size=150, max_size=150)


@given(sizes, gaps, st.floats(0.3, 1))
def test_every_moment_stays_restorable_after_every_compaction(
    pushed: list[int], without: list[int], packing: float
) -> None:
    vault = Vault(packing)
    for size, empty in zip(pushed, without, strict=False):
        vault.push(size, empty)
    for number in range(1, vault.number + 1):
        steps = plan.parts_for(vault.live, vault.segments, number)
        assert all(step.exact or not step.part.segments for step in steps)
    latest = plan.parts_for(vault.live, vault.segments, vault.number)
    assert latest == [plan.Step(part, None, True) for part in vault.live]


@given(sizes, st.floats(0.3, 1))
def test_few_parts_stay_and_little_is_written_again(pushed: list[int], packing: float) -> None:
    vault = Vault(packing)
    for size in pushed:
        vault.push(size)
    tiers = 1 + int(log(len(pushed), FAN_IN) + 1e-9)
    assert vault.longest <= 1 + (FAN_IN - 1) * tiers
    assert vault.merged <= sum(pushed) * tiers
    assert vault.checkpointed <= 3 * sum(pushed)


def test_five_hundred_pushes_make_a_short_chain() -> None:
    vault = Vault()
    vault.push(29_000_000)
    for _ in range(500):
        vault.push(6_000)
    data = 29_000_000 + 500 * 6_000
    assert vault.longest <= 1 + 3 * (FAN_IN - 1)  # the base, and three tiers
    assert (data + vault.merged + vault.checkpointed) / data <= 1.3


def test_eight_increments_become_one_with_their_boundaries() -> None:
    base = born(1, 1, 10**9, complete=True)
    increments = [born(n, n, 5) for n in range(2, 10)]
    assert compaction.due([base, *increments[:7]]) is None
    due = compaction.due([base, *increments])
    assert due == Merge(tuple(increments))
    assert due.segments == tuple(part.segments[0] for part in increments)
    assert (due.first, due.last) == (2, 9)


def test_a_full_tier_goes_up_in_one_step() -> None:
    base = born(1, 1, 10**9, complete=True)
    merged = [
        replace(
            born(8 * n + 2, 8 * n + 9, 40), segments=tuple(Segment(8 * n + 2 + k, 1, 5, "") for k in range(8))
        )
        for n in range(7)
    ]
    single = [born(n, n, 5) for n in range(58, 66)]
    due = compaction.due([base, *merged, *single])
    assert due == Merge((*merged, *single))


def test_increments_of_half_the_base_call_for_a_checkpoint() -> None:
    increments = [born(n, n, 10) for n in range(2, 10)]
    for size, kind in ((160, Checkpoint), (161, Merge)):
        base = born(1, 1, size, complete=True)
        due = compaction.due([*increments, base])
        assert isinstance(due, kind)
        assert set(due.parts) <= {base, *increments}
        assert due.last == 9
        assert due.first == (1 if kind is Checkpoint else 2)


def test_delta_chains_that_may_be_too_deep_call_for_a_checkpoint() -> None:
    base = born(1, 1, 10**9, complete=True)
    deep = replace(born(2, 1001, 5), segments=tuple(Segment(n, 1, 1, "") for n in range(2, DEEPEST + 2)))
    assert compaction.due([base, deep]) is None
    last = born(1002, 1002, 5)
    assert compaction.due([base, deep, last]) == Checkpoint((base, deep, last))


def test_a_log_with_a_loss_is_left_alone() -> None:
    base = born(1, 1, 10**9, complete=True)
    increments = [born(n, n, 5) for n in range(2, 12)]
    assert compaction.due([base, *increments])
    assert compaction.due(increments) is None
    assert compaction.due([base, *increments[1:]]) is None
    assert compaction.due([base, *increments[:4], *increments[5:]]) is None
    assert compaction.due([base, *increments, born(2, 9, 40)]) is None
    assert compaction.due([base, *(replace(part, epoch=2) for part in increments)]) is None
    assert compaction.due([]) is None
    assert compaction.due([base]) is None
