"""What a restore will do, computed before anything is done: which parts to read, which refs to push."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from mirror.core.errors import Corrupt, GapInChain, NotFound, UsageError
from mirror.core.model import HEAD, Part, RefName, Refs, Segment, Target
from mirror.core.refs import (
    archived,
    check_name,
    is_hidden,
    is_symbolic,
    resolve,
    shown_text,
    symbolic_target,
)

Hidden = Literal["skip", "archive"]  # what to do with refs that hosts refuse
# `diverged`: a mirror holds there what no snapshot of the source has had, and nobody asked to overwrite that.
Action = Literal["create", "update", "unchanged", "refused", "skipped", "remove", "diverged"]

WRITES: Final[frozenset[Action]] = frozenset({"create", "update", "remove"})
_ID: Final = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
PLACES: Final = (b"refs/heads/", b"refs/tags/")  # where a ref can be restored under another name


@dataclass(frozen=True, slots=True)
class Step:
    """One part to read: `splice.cut(part, upto, after)` says which bytes of it."""

    part: Part
    upto: int | None  # the last snapshot wanted of it; None: the part is read to its end
    exact: bool  # False: it also brings objects of later snapshots, as a checkpoint is whole or nothing
    after: int = 0  # the last snapshot of it to skip; 0: it is read from its beginning

    @property
    def last(self) -> int:
        """The last snapshot whose objects it brings."""
        return self.part.last if self.upto is None else self.upto


def parts_for(
    parts: Sequence[Part], segments: Sequence[Segment], upto: int, *, log_entries: int | None = None
) -> list[Step]:
    """The parts that hold the pack log from its beginning to snapshot `upto`, in log order.

    `parts` are the live parts of one epoch, in any order; they may overlap, as
    they do after a crash in a compaction. `segments` are those of the epoch's
    snapshots up to `upto`; later ones do no harm. Every segment comes from exactly
    one step, with the entries, bytes and checksum that its snapshot recorded; or from
    a checkpoint, which has no segments to compare. `log_entries`, where given, is
    what snapshot `upto` recorded, so that a missing segment is noticed.

    The plan has as few steps as possible. A cover that ends at `upto` is preferred; else a
    checkpoint beyond it is read whole, and the step is not `exact`: its objects are a
    superset, and the refs map decides what is visible.

    Raises GapInChain with the first snapshot whose objects no part holds and
    the keys that would hold them; every earlier snapshot can be restored.
    """
    wanted = _wanted(segments, upto)
    if log_entries is not None and sum(segment.entries for segment in wanted) != log_entries:
        raise Corrupt(
            f"the pack log up to snapshot #{upto} has {log_entries} entries, but the snapshots add up to"
            f" {sum(segment.entries for segment in wanted)}; run everref rebuild"
        )
    parts = _of_one_epoch(parts)
    steps, lacking = _cover(parts, wanted, 0, upto)
    if lacking is None:
        return steps
    beyond = [p for p in parts if not p.segments and p.first <= wanted[0].snapshot and p.last > upto]
    if beyond:
        return [Step(min(beyond, key=lambda part: (part.last, part.bytes, part.key)), None, False)]
    raise _gap(parts, lacking)


def parts_after(
    parts: Sequence[Part],
    segments: Sequence[Segment],
    after: int,
    upto: int,
    *,
    log_entries: int | None = None,
) -> list[Step]:
    """The parts that extend a pool with the log up to snapshot `after` to `upto`.

    Arguments and promises as in `parts_for`. Where compaction recut the log below `after`, so that
    the pool cannot be extended, the plan starts from the beginning; then `starts_over` is true,
    and the pool must be emptied first.
    """
    if after:
        steps, lacking = _cover(_of_one_epoch(parts), _wanted(segments, upto), after, upto)
        if lacking is None:
            return steps
    return parts_for(parts, segments, upto, log_entries=log_entries)


def whole_near(
    parts: Sequence[Part], segments: Sequence[Segment], at: int, latest: int
) -> tuple[int | None, int | None]:
    """The nearest snapshots before and after `at` that these undamaged parts hold whole.

    The log is whole up to the first segment that no part has; a checkpoint makes all that it covers
    whole, and what follows it.
    """
    wanted = _wanted(segments, latest)
    begins = [p.last for p in parts if not p.segments and wanted and p.first <= wanted[0].snapshot]
    whole = 0  # every snapshot up to this one is whole
    for begin in (0, *begins):
        _, lacking = _cover(parts, wanted, begin, latest)
        whole = max(whole, lacking.snapshot - 1 if lacking else latest)
    before = min(at - 1, whole)
    return before if before > 0 else None, at + 1 if at < whole else None


def starts_over(steps: Sequence[Step], after: int) -> bool:
    """Whether a plan of `parts_after` repeats what a pool at `after` holds."""
    if not steps:
        return False
    part = steps[0].part
    brought = (s.snapshot for s in part.segments if s.snapshot > steps[0].after)
    return next(brought, part.first) <= after


def _wanted(segments: Sequence[Segment], upto: int) -> list[Segment]:
    return sorted((s for s in segments if s.snapshot <= upto), key=_number)


def _of_one_epoch(parts: Sequence[Part]) -> Sequence[Part]:
    if len({part.epoch for part in parts}) > 1:
        raise ValueError("a plan can use the parts of one epoch only")
    return parts


def _cover(
    parts: Sequence[Part], wanted: Sequence[Segment], after: int, upto: int
) -> tuple[list[Step], Segment | None]:
    """Steps that bring every wanted segment after `after` once, and the first segment that no part has."""
    due = [segment for segment in wanted if segment.snapshot > after]
    holders: dict[Segment, list[Part]] = {}
    for part in parts:
        for segment in part.segments:
            holders.setdefault(segment, []).append(part)
    steps: list[Step] = []
    at = 0  # how many of the due segments the steps bring
    while at < len(due):
        choices = [(_reach(part, due, at), part) for part in holders.get(due[at], ())]
        if not steps and not after:
            # Objects must come only once, so a checkpoint can only be the first step.
            whole = (p for p in parts if not p.segments and p.first <= due[0].snapshot <= p.last <= upto)
            choices += [(bisect_right(due, part.last, key=_number), part) for part in whole]
        if not choices:
            return steps, due[at]
        # The part that reaches furthest makes the fewest steps.
        reach, part = min(choices, key=lambda choice: (-choice[0], choice[1].bytes, choice[1].key))
        steps.append(_step(part, due[at], due[reach - 1]))
        at = reach
    return steps, None


def _reach(part: Part, due: Sequence[Segment], at: int) -> int:
    """The due segment at which this part ends (exclusive) when it starts with segment `at`."""
    start = bisect_left(part.segments, due[at].snapshot, key=_number)
    for mine, other in zip(part.segments[start:], due[at : at + len(part.segments)], strict=False):
        if mine != other:
            break
        at += 1
    return at


def _number(segment: Segment) -> int:
    return segment.snapshot


def _step(part: Part, first: Segment, last: Segment) -> Step:
    if not part.segments:
        return Step(part, None, True)
    skipped = [segment.snapshot for segment in part.segments if segment.snapshot < first.snapshot]
    upto = None if last == part.segments[-1] else last.snapshot
    return Step(part, upto, True, after=skipped[-1] if skipped else 0)


def _gap(parts: Sequence[Part], lacking: Segment) -> GapInChain:
    number = lacking.snapshot
    spoilt = [p.key for p in parts if any(s.snapshot == number and s != lacking for s in p.segments)]
    if spoilt:
        what = f"{spoilt[0]} holds bytes for snapshot #{number} that differ from its manifest"
    else:
        epoch = f"{parts[0].epoch:04d}" if parts else "*"
        what = (
            f"no part holds the objects of snapshot #{number}: a bundles/{epoch}-FIRST-LAST-*.bundle with"
            f" FIRST <= {number:010d} <= LAST is missing from the vault"
        )
    return GapInChain(f"{what}; snapshots before #{number} can be restored; for later ones, put it back")


@dataclass(frozen=True, slots=True)
class RefAction:
    """What a push will do with one ref."""

    name: RefName  # as the snapshot has it
    target: Target  # the object id it resolves to; of a dangling symbolic ref its `ref: ` text
    target_name: RefName  # as the remote will have it
    action: Action
    why: str | None = None  # None: nothing to explain
    old: Target | None = None  # what the remote holds under `target_name`; None: nothing


def push_actions(
    wanted: Refs,
    target: Refs,
    *,
    force: bool = False,
    hidden: Hidden = "skip",
    missing: bool = False,
    refuses: Callable[[bytes], bool] = is_hidden,
) -> list[RefAction]:
    """What pushing these refs to a remote that lists `target` will do with each, in the order of names.

    HEAD is not among them: no push moves it. A symbolic ref is pushed as the
    object it resolves to. Nothing is ever deleted, so a ref is refused where another name is in
    its way (a and a/b), or where the remote holds something else under its name, unless `force`.
    The caller decides what to do when a ref is refused. With `missing`, only what the remote does not
    have is created, and such refs are skipped instead. `refuses` says which names the remote's host
    does not take.
    """
    planned = [_planned(wanted, name, hidden, refuses) for name in sorted(wanted) if name != HEAD]
    # A hidden ref gives way to a ref that really has its archived name.
    taken = {a.target_name for a in planned if a.name == a.target_name and a.action != "skipped"}
    standing = (taken | target.keys()) - {HEAD}
    folders = {folder for name in standing for folder in _folders(name)}
    found = [_against(action, target, taken, standing, folders, force) for action in planned]
    return [_left(one) if one.action == "refused" else one for one in found] if missing else found


def head_action(wanted: Target, target: Refs, *, force: bool = False, missing: bool = False) -> RefAction:
    """What leading the HEAD of a repo that is pushed to where `wanted` says will do.

    Nobody loses a commit by it, so where overwriting was not asked for it stays and stops nothing else.
    """
    old = target.get(HEAD)
    if old == wanted:
        return RefAction(HEAD, wanted, HEAD, "unchanged", None, old)
    if old is None or force:
        return RefAction(HEAD, wanted, HEAD, "create" if old is None else "update", None, old)
    why = None if missing else "overwriting was not asked for"
    led = f"it leads to {shown_text(symbolic_target(old) if is_symbolic(old) else old)} and stays"
    return RefAction(HEAD, wanted, HEAD, "skipped", f"{led}; {why}" if why else led, old)


def _left(refused: RefAction) -> RefAction:
    """The same ref where only what is missing is created."""
    if refused.old is None:
        return replace(refused, action="skipped")
    return replace(refused, action="skipped", why="it is there already, with something else, and stays")


def _planned(wanted: Refs, name: RefName, hidden: Hidden, refuses: Callable[[bytes], bool]) -> RefAction:
    found = resolve(wanted, name)
    if found is None:
        whither = shown_text(symbolic_target(wanted[name]))
        return RefAction(name, wanted[name], name, "skipped", f"symbolic, but {whither} does not exist")
    if refuses(name):
        if hidden == "skip":
            why = "hosts refuse this name; it can be carried under refs/archive/"
            return RefAction(name, found, name, "skipped", why)
        return RefAction(name, found, archived(name), "create", f"as {shown_text(archived(name))}")
    if is_symbolic(wanted[name]):
        whither = shown_text(symbolic_target(wanted[name]))
        return RefAction(name, found, name, "create", f"symbolic; pushed as the object of {whither}")
    return RefAction(name, found, name, "create")


def _against(
    action: RefAction,
    target: Refs,
    taken: set[RefName],
    standing: set[RefName],
    folders: set[RefName],
    force: bool,
) -> RefAction:
    """The planned action, given what the remote has."""
    if action.action == "skipped":
        return action
    goal = action.target_name
    old = resolve(target, goal) or target.get(goal)

    def instead(what: Action, why: str | None = action.why) -> RefAction:
        return RefAction(action.name, action.target, goal, what, why, old)

    if goal != action.name and goal in taken:
        return instead("refused", f"{shown_text(goal)} is a ref of its own")
    if old == action.target:
        return instead("unchanged")
    if old is not None:
        if is_symbolic(target[goal]):
            return instead(
                "refused", f"it is symbolic there and points to {shown_text(symbolic_target(target[goal]))}"
            )
        if force:
            return instead("update")
        return instead("refused", f"it holds {shown_text(old)} there, and overwriting was not asked for")
    above = next((folder for folder in _folders(goal) if folder in standing), None)
    if above is not None:
        return instead("refused", f"{shown_text(above)} is in the way")
    if goal in folders:
        return instead("refused", f"refs below {shown_text(goal)}/ are in the way")
    return action


def _folders(name: bytes) -> list[RefName]:
    """The names that cannot be refs beside this one: refs/heads/a for refs/heads/a/b."""
    pieces = name.split(b"/")
    return [RefName(b"/".join(pieces[:n])) for n in range(2, len(pieces))]


def brought(known: Refs, wanted: Mapping[RefName, bytes]) -> dict[RefName, Target]:
    """Refs of a moment, or commits by their ids, under names of their own: new name -> object id.

    A symbolic ref is resolved. Raises NotFound where the moment has no such
    ref, UsageError where a name cannot be given.
    """
    found: dict[RefName, Target] = {}
    for name, source in wanted.items():
        check_new_name(name)
        by_id = _ID.fullmatch(source)
        target = Target(source) if by_id else resolve(known, RefName(source))
        if target is None:
            raise NotFound(f"there is no ref {shown_text(source)} at this moment")
        found[name] = target
    return found


def check_new_name(name: RefName) -> None:
    """Raise UsageError unless this name can be restored to: it must be a branch or a tag."""
    try:
        check_name(name)
    except Corrupt:
        raise UsageError(f"{shown_text(name)} is not a name that git accepts") from None
    if not name.startswith(PLACES) or name in PLACES:
        raise UsageError("bring it back as a branch or a tag: refs/heads/NAME or refs/tags/NAME")


@dataclass(frozen=True, slots=True)
class Lease:
    """What a rollback does with one ref, if and only if the ref still holds what was planned for."""

    name: RefName
    expected: Target | None  # what the plan saw there; None: no such ref
    target: Target | None  # what it gets; None: it is removed


def rollback_actions(leases: Iterable[Lease], listed: Refs) -> list[RefAction]:
    """What rolling refs back will do to a remote that lists `listed`, in the order of names.

    A ref that holds anything but what the plan saw is refused: somebody pushed in between. One that holds
    already what it would get is `unchanged`, so that a second run of the same rollback goes on.
    """
    return [_leased(one, listed.get(one.name)) for one in sorted(leases, key=lambda one: one.name)]


def _leased(one: Lease, now: Target | None) -> RefAction:
    goal = one.target or one.expected or Target(b"")

    def action(what: Action, why: str | None = None) -> RefAction:
        return RefAction(one.name, goal, one.name, what, why, now)

    if now == one.target:
        return action("unchanged", "it was deleted already" if now is None else "it holds that already")
    if now != one.expected:
        holds = f"it holds {shown_text(now)} now" if now else "it was deleted"
        return action("refused", f"somebody has moved it since the plan was made: {holds}")
    if one.target is None:
        return action("remove", "it did not exist before")
    return action("create" if now is None else "update")


@dataclass(frozen=True, slots=True)
class Wrote:
    """What a restore wrote, or was about to write, to one ref of its target."""

    name: RefName
    old: Target | None  # None: the ref did not exist
    new: Target | None  # None: the ref was removed, by a rollback


def undo_actions(wrote: Iterable[Wrote], target: Refs) -> list[RefAction]:
    """What undoing a restore will do to a remote that lists `target`, in the order of names.

    Only a ref that still holds what the restore wrote is touched: it gets back
    what it held before, or is removed where the restore made it.
    """
    return [_undone(one, target.get(one.name)) for one in sorted(wrote, key=lambda one: one.name)]


def default_branch(listed: Refs) -> RefName | None:
    """The branch that a remote's HEAD names. None: there is no such branch, or it does not tell."""
    head = listed.get(HEAD)
    found = symbolic_target(head) if head and is_symbolic(head) else None
    return found if found in listed else None


def another_default(listed: Refs, removed: Collection[RefName]) -> RefName | None:
    """The branch to make the default one where that one is to be removed. None: no other is left."""
    left = [name for name in sorted(listed) if name.startswith(PLACES[0]) and name not in removed]
    usual = [name for name in (b"refs/heads/main", b"refs/heads/master") if name in left]
    return next((RefName(name) for name in (*usual, *left)), None)


def _undone(one: Wrote, now: Target | None) -> RefAction:
    goal = one.old or one.new or Target(b"")
    if now == one.old:
        why = "it was deleted already" if now is None else "it holds that already"
        return RefAction(one.name, goal, one.name, "unchanged", why, now)
    if now != one.new:
        holds = f"holds {shown_text(now)} now" if now else "was deleted"
        return RefAction(one.name, goal, one.name, "skipped", f"somebody has moved it since: it {holds}", now)
    if one.old is None:
        return RefAction(one.name, goal, one.name, "remove", "the restore made it", now)
    return RefAction(one.name, goal, one.name, "create" if now is None else "update", None, now)
