"""Plans: the parts of a moment without a gap and without a repeat, and what a push does with each ref."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import Corrupt, GapInChain
from mirror.core.model import HEAD, Part, RefName, Segment, Target
from mirror.core.rules.history import plan
from mirror.core.rules.history.plan import Hidden, RefAction, Step

# The pack log


def segment(number: int) -> Segment:
    return Segment(number, number, 10 * number, f"{number:064x}")


def part(first: int, last: int, *numbers: int, unique: str = "") -> Part:
    """A part with these segments; a checkpoint when there are none."""
    segments = tuple(segment(n) for n in numbers)
    key = f"{first}-{last}{unique}"
    size = sum(s.bytes for s in segments) or 5 * last
    return Part(key, 1, first, last, size, "", 0, 1, segments, complete=not segments or first == 1)


def brought(steps: list[Step], wanted: list[Segment]) -> list[Segment]:
    """The segments that steps bring, in their order; a checkpoint's are those of its range."""
    out: list[Segment] = []
    for step in steps:
        if step.part.segments:
            upto = step.part.last if step.upto is None else step.upto
            out += [s for s in step.part.segments if step.after < s.snapshot <= upto]
        else:
            assert (step.upto, step.after) == (None, 0)
            out += [s for s in wanted if step.part.first <= s.snapshot <= step.part.last]
    return out


@st.composite
def vaults(draw: st.DrawFn) -> tuple[list[Part], list[Segment], int]:
    """Parts born and recut in any way, some of them lost; all segments; the number of snapshots."""
    count = draw(st.integers(1, 14))
    numbers = sorted(draw(st.sets(st.integers(1, count), min_size=1)))
    born, first = [], 1
    for number in numbers:
        born.append(part(first, number, number))
        first = number + 1
    parts = list(born)
    for unique in draw(st.lists(st.sampled_from("abc"), max_size=3, unique=True)):
        low = draw(st.integers(0, len(born) - 1))
        high = draw(st.integers(low, len(born) - 1))
        parts.append(part(born[low].first, born[high].last, *numbers[low : high + 1], unique=unique))
    for end in draw(st.lists(st.sampled_from(numbers), max_size=2, unique=True)):
        parts.append(part(1, end, unique="-checkpoint"))
    kept = draw(st.lists(st.sampled_from(parts), unique_by=lambda p: p.key)) if draw(st.booleans()) else parts
    return draw(st.permutations(kept)), [segment(n) for n in numbers], count


def can_be_covered(parts: list[Part], wanted: list[Segment], after: int, upto: int) -> bool:
    """Said in another way than the plan goes about it."""
    held = {s.snapshot for p in parts for s in p.segments}
    starts = [after] if after else [0, *(p.last for p in parts if not p.segments)]
    return any(
        start > upto or all(s.snapshot in held for s in wanted if s.snapshot > start) for start in starts
    )


@given(vaults(), st.integers(1, 14))
def test_a_plan_brings_every_segment_once_or_names_the_gap(
    vault: tuple[list[Part], list[Segment], int], upto: int
) -> None:
    parts, segments, _ = vault
    wanted = [s for s in segments if s.snapshot <= upto]
    if not can_be_covered(parts, wanted, 0, upto):
        with pytest.raises(GapInChain) as raised:
            plan.parts_for(parts, segments, upto)
        assert any(f"snapshot #{s.snapshot}:" in str(raised.value) for s in wanted)
        return
    steps = plan.parts_for(parts, segments, upto)
    if all(step.exact for step in steps):
        assert brought(steps, wanted) == wanted
        assert max((step.last for step in steps), default=0) <= upto
    else:
        (step,) = steps
        assert not step.part.segments and step.part.first == 1 and step.part.last > upto


@given(vaults(), st.integers(1, 12))
def test_what_is_nearest_and_whole_can_be_planned_and_nothing_nearer(
    vault: tuple[list[Part], list[Segment], int], at: int
) -> None:
    parts, segments, latest = vault

    def is_whole(number: int) -> bool:
        try:
            plan.parts_for(parts, segments, number)
        except GapInChain:
            return False
        return True

    before = [number for number in range(1, min(at, latest + 1)) if is_whole(number)]
    after = [number for number in range(at + 1, latest + 1) if is_whole(number)]
    assert plan.whole_near(parts, segments, min(at, latest + 1), latest) == (
        max(before, default=None),
        min(after, default=None),
    )


@given(vaults(), st.integers(0, 14), st.integers(1, 14))
def test_a_pool_is_brought_on_from_where_it_is_or_begun_anew(
    vault: tuple[list[Part], list[Segment], int], after: int, upto: int
) -> None:
    parts, segments, _ = vault
    wanted = [s for s in segments if s.snapshot <= upto]
    if can_be_covered(parts, wanted, after, upto) and after:
        steps = plan.parts_after(parts, segments, after, upto)
        assert brought(steps, wanted) == [s for s in wanted if s.snapshot > after]
        assert not plan.starts_over(steps, after)
    elif can_be_covered(parts, wanted, 0, upto):
        steps = plan.parts_after(parts, segments, after, upto)
        assert steps == plan.parts_for(parts, segments, upto)
        assert plan.starts_over(steps, after) == (after > 0)
    else:
        with pytest.raises(GapInChain):
            plan.parts_after(parts, segments, after, upto)


@given(vaults(), st.integers(1, 14))
def test_no_plan_has_more_steps_than_parts_that_were_born(
    vault: tuple[list[Part], list[Segment], int], upto: int
) -> None:
    parts, segments, _ = vault
    try:
        steps = plan.parts_for(parts, segments, upto)
    except GapInChain:
        return
    assert len(steps) <= len([s for s in segments if s.snapshot <= upto])
    assert len({step.part.key for step in steps}) == len(steps)


BORN = [part(1, 1, 1), part(2, 3, 3), part(4, 4, 4), part(5, 7, 7)]
SEGMENTS = [segment(n) for n in (1, 3, 4, 7)]


def test_a_moment_without_objects_of_its_own_needs_no_later_part() -> None:
    assert plan.parts_for(BORN, SEGMENTS, 6) == [Step(p, None, True) for p in BORN[:3]]
    assert plan.parts_for([], [], 3) == []


def test_a_merged_part_is_cut_at_the_moment() -> None:
    merged = part(2, 7, 3, 4, 7)
    assert plan.parts_for([merged, BORN[0]], SEGMENTS, 5) == [
        Step(BORN[0], None, True),
        Step(merged, 4, True),
    ]


def test_a_pool_goes_on_inside_a_merged_part() -> None:
    merged = part(2, 7, 3, 4, 7)
    steps = plan.parts_after([BORN[0], merged], SEGMENTS, 3, 7)
    assert steps == [Step(merged, None, True, after=3)]
    assert steps[0].last == 7
    assert plan.parts_after([BORN[0], merged], SEGMENTS, 7, 7) == []


def test_after_a_crash_in_compaction_nothing_comes_twice() -> None:
    merged = part(2, 4, 3, 4)
    assert plan.parts_for([*BORN, merged], SEGMENTS, 7) == [
        Step(BORN[0], None, True),
        Step(merged, None, True),
        Step(BORN[3], None, True),
    ]


def test_a_checkpoint_stands_for_what_it_replaced() -> None:
    checkpoint = part(1, 4)
    assert plan.parts_for([checkpoint, BORN[3]], SEGMENTS, 7) == [
        Step(checkpoint, None, True),
        Step(BORN[3], None, True),
    ]


def test_a_checkpoint_beyond_the_moment_is_whole_and_says_so() -> None:
    checkpoint = part(1, 7)
    assert plan.parts_for([checkpoint], SEGMENTS, 3) == [Step(checkpoint, None, False)]
    assert plan.parts_for([checkpoint, *BORN], SEGMENTS, 3) == [Step(p, None, True) for p in BORN[:2]]


def test_a_pool_below_a_checkpoint_is_begun_anew() -> None:
    checkpoint = part(1, 7)
    steps = plan.parts_after([checkpoint], SEGMENTS, 3, 7)
    assert steps == [Step(checkpoint, None, True)]
    assert plan.starts_over(steps, 3)


def test_a_gap_names_the_first_snapshot_and_the_keys_that_would_fill_it() -> None:
    with pytest.raises(GapInChain, match=r"snapshot #3: a bundles/0001-FIRST-LAST-.*0000000003.*before #3"):
        plan.parts_for([BORN[0], BORN[3]], SEGMENTS, 7)
    assert plan.parts_for([BORN[0], BORN[3]], SEGMENTS, 2)
    with pytest.raises(GapInChain, match="snapshot #1"):
        plan.parts_for([], SEGMENTS, 1)


def test_a_part_with_other_bytes_than_recorded_is_a_gap() -> None:
    foreign = Part("k", 1, 2, 3, 30, "", 0, 1, (Segment(3, 3, 30, "f" * 64),), False)
    with pytest.raises(GapInChain, match="k holds bytes for snapshot #3 that differ"):
        plan.parts_for([BORN[0], foreign, *BORN[2:]], SEGMENTS, 7)


def test_a_merged_part_is_good_up_to_where_it_differs() -> None:
    foreign = Segment(4, 4, 40, "f" * 64)
    merged = Part("k", 1, 2, 4, 70, "", 0, 1, (segment(3), foreign), False)
    assert plan.parts_for([BORN[0], merged], SEGMENTS, 3)[1] == Step(merged, 3, True)
    assert plan.parts_for([*BORN, merged], SEGMENTS, 4) == [Step(p, None, True) for p in BORN[:3]]


def test_a_segment_that_nobody_passed_on_shows_in_the_sum() -> None:
    assert plan.parts_for(BORN, SEGMENTS, 7, log_entries=15)
    with pytest.raises(Corrupt, match="15 entries, but the snapshots add up to 12"):
        plan.parts_for(BORN, [s for s in SEGMENTS if s.snapshot != 3], 7, log_entries=15)


def test_epochs_are_not_mixed() -> None:
    other = Part("k", 2, 8, 8, 30, "", 0, 1, (segment(8),), True)
    with pytest.raises(ValueError, match="one epoch"):
        plan.parts_for([*BORN, other], SEGMENTS, 7)


# Pushes

OLD, NEW = Target(b"1" * 40), Target(b"2" * 40)
MAIN, TAG = RefName(b"refs/heads/main"), RefName(b"refs/tags/v1")
PULL, STASH = RefName(b"refs/pull/1/head"), RefName(b"refs/stash")


def names(*texts: bytes, target: Target = NEW) -> dict[RefName, Target]:
    return {RefName(text): target for text in texts}


def actions(
    wanted: dict[RefName, Target], there: dict[RefName, Target], force: bool = False, hidden: Hidden = "skip"
) -> dict[bytes, str]:
    found = plan.push_actions(wanted, there, force=force, hidden=hidden)
    assert [action.name for action in found] == sorted(set(wanted) - {HEAD})
    return {action.name: action.action for action in found}


def test_an_empty_target_gets_every_ref_but_head() -> None:
    wanted = {MAIN: NEW, TAG: OLD, HEAD: Target(b"ref: refs/heads/main")}
    assert plan.push_actions(wanted, {}) == [
        RefAction(MAIN, NEW, MAIN, "create"),
        RefAction(TAG, OLD, TAG, "create"),
    ]


def test_what_is_there_already_is_unchanged() -> None:
    assert actions({MAIN: NEW}, {MAIN: NEW, TAG: OLD}) == {MAIN: "unchanged"}


def test_nothing_is_overwritten_unless_forced() -> None:
    (refused,) = plan.push_actions({MAIN: NEW}, {MAIN: OLD})
    assert (refused.action, refused.old) == ("refused", OLD)
    assert refused.why and "overwriting was not asked for" in refused.why
    assert plan.push_actions({MAIN: NEW}, {MAIN: OLD}, force=True) == [
        RefAction(MAIN, NEW, MAIN, "update", None, OLD)
    ]


def test_hidden_refs_are_skipped_or_carried_to_the_archive() -> None:
    wanted = {MAIN: NEW, PULL: NEW, STASH: OLD}
    assert actions(wanted, {}) == {MAIN: "create", PULL: "skipped", STASH: "skipped"}
    carried = {a.name: a.target_name for a in plan.push_actions(wanted, {}, hidden="archive")}
    assert carried == {MAIN: MAIN, PULL: b"refs/archive/pull/1/head", STASH: b"refs/archive/stash"}
    there = names(b"refs/archive/stash", target=OLD)
    assert actions(wanted, there, hidden="archive")[STASH] == "unchanged"


def test_a_hidden_ref_gives_way_to_one_that_has_its_archived_name() -> None:
    wanted = {**names(b"refs/archive/stash"), STASH: OLD}
    assert actions(wanted, {}, hidden="archive") == {b"refs/archive/stash": "create", STASH: "refused"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("here", "there"), [(b"a", b"a/b"), (b"a/b", b"a"), (b"a/b/c", b"a"), (b"a", b"a/b/c")]
)
def test_names_that_stand_in_each_others_way_are_refused(here: bytes, there: bytes, force: bool) -> None:
    wanted, there_ = names(b"refs/heads/" + here), names(b"refs/heads/" + there)
    (action,) = plan.push_actions(wanted, there_, force=force)
    assert action.action == "refused"
    assert action.why and "in the way" in action.why


def test_names_that_only_begin_alike_are_in_nobodys_way() -> None:
    assert set(actions(names(b"refs/heads/ab", b"refs/heads/a-b"), names(b"refs/heads/a")).values()) == {
        "create"
    }


def test_a_symbolic_ref_is_pushed_as_what_it_comes_to() -> None:
    alias = RefName(b"refs/heads/alias")
    (action, _) = plan.push_actions({alias: Target(b"ref: refs/heads/main"), MAIN: NEW}, {})
    assert (action.action, action.target) == ("create", NEW)
    (action,) = plan.push_actions({alias: Target(b"ref: refs/heads/main")}, {})
    assert (action.action, action.why) == ("skipped", "symbolic, but refs/heads/main does not exist")


def test_a_symbolic_ref_of_the_target_is_never_written_through() -> None:
    alias = RefName(b"refs/heads/alias")
    there = {alias: Target(b"ref: refs/heads/main"), MAIN: OLD}
    assert actions({alias: NEW}, there, force=True) == {alias: "refused"}
    assert actions({alias: OLD}, there) == {alias: "unchanged"}


ref_maps = st.dictionaries(
    st.sampled_from(
        sorted(
            names(*(b"refs/" + n for n in (b"heads/a", b"heads/b", b"pull/1", b"stash", b"archive/pull/1")))
        )
    ),
    st.sampled_from([OLD, NEW]),
)


@given(ref_maps, ref_maps, st.booleans(), st.sampled_from(["skip", "archive"]))
def test_a_push_without_force_changes_nothing_that_was_there(
    wanted: dict[RefName, Target], there: dict[RefName, Target], force: bool, hidden: Hidden
) -> None:
    planned = plan.push_actions(wanted, there, force=force, hidden=hidden)
    writes = [action for action in planned if action.action in plan.WRITES]
    assert len({action.target_name for action in writes}) == len(writes)
    after = there | {action.target_name: action.target for action in writes}
    if not force:
        assert {name: after[name] for name in there} == there
    again = plan.push_actions(wanted, after, force=force, hidden=hidden)
    assert not any(action.action in plan.WRITES for action in again)


def test_only_what_is_missing_is_created_and_the_rest_stays() -> None:
    there = {MAIN: OLD, RefName(b"refs/heads/a/b"): OLD}
    wanted = {MAIN: NEW, RefName(b"refs/heads/new"): NEW, RefName(b"refs/heads/a"): NEW}
    found = {one.name: one.action for one in plan.push_actions(wanted, there, missing=True)}
    assert found == {
        MAIN: "skipped",
        RefName(b"refs/heads/new"): "create",
        RefName(b"refs/heads/a"): "skipped",
    }
