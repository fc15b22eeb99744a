"""Every push between two looks at a remote, in order, out of what deliveries claim: for flows/rescue."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mirror.model import RefName, Refs, Target

ClaimId = tuple[int, int]  # the delivery's row, and the place in it


@dataclass(frozen=True, slots=True)
class Claim:
    """What a delivery says that one ref did, while no sync has answered it."""

    id: ClaimId
    name: RefName
    before: Target | None  # None: it was created, or this was not told
    after: Target | None  # None: it was deleted
    by: str | None  # None: not told
    at: datetime  # the forge's word, or when it arrived where that is earlier or all that is known
    known: bool = False  # the history has this very move already


@dataclass(frozen=True, slots=True)
class Push:
    """One move of one ref, as a claim tells it."""

    name: RefName
    new: Target | None  # None: deleted
    claim: Claim
    told: bool = True  # False: the claim tells only that the ref had been there before

    @property
    def by(self) -> str | None:
        return self.claim.by if self.told else None

    @property
    def at(self) -> datetime | None:
        return self.claim.at if self.told else None


@dataclass(frozen=True, slots=True)
class Lost:
    """A push that could not be rescued."""

    name: RefName
    old: Target | None  # None: it was created, or this was not told
    new: Target
    by: str | None  # None: not told
    at: datetime
    why: str
    snapshot: int = 0  # the latest when this was noticed; 0: not noticed yet


@dataclass(frozen=True, slots=True)
class Answered:
    """The claims that a sync has made an end of, and what of their pushes is lost."""

    claims: Collection[ClaimId] = ()
    lost: Collection[Lost] = ()


@dataclass(frozen=True, slots=True)
class Way:
    """How a snapshot comes about: by which pushes from the one before, and which claims it answers."""

    pushes: Sequence[Push] = ()
    claims: Collection[ClaimId] = ()
    gone: Mapping[Push, str] = field(default_factory=dict)  # which are lost if not held, and why; others wait
    lost: Sequence[Lost] = ()  # whatever else comes

    def answered(self, absent: Sequence[Push]) -> Answered:
        """What the snapshot answers when the objects of these pushes are not to be had."""
        waiting = {push.claim.id for push in absent if push not in self.gone}
        lost = [lost_push(push, self.gone[push]) for push in absent if push in self.gone]
        return Answered([claim for claim in self.claims if claim not in waiting], [*self.lost, *lost])


def lost_push(push: Push, why: str) -> Lost:
    """What is remembered of a push that cannot be rescued."""
    assert push.new, "a deletion needs no object"
    return Lost(push.name, push.claim.before if push.told else None, push.new, push.by, push.claim.at, why)


@dataclass(frozen=True, slots=True)
class Step:
    """One move of one ref, with who made it and when where that is known."""

    name: RefName
    old: Target | None
    new: Target | None
    by: str | None
    at: datetime | None


def between(old: Refs, seen: Refs, claims: Sequence[Claim], held: Collection[Target]) -> list[Push]:
    """The pushes that led from the last snapshot to what the remote shows, as far as claims tell.

    `claims` are in the order of their arrival, `held` are those of their objects
    that the pack log has. A claim that goes on where its ref is comes first; so
    deliveries may arrive in any order. One that goes on from nowhere tells of a
    push whose own delivery was lost. What the history has already is no push, nor
    is a claim that came late and whose objects are all held.
    """
    told: dict[RefName, list[tuple[int, Claim]]] = {}
    for place, claim in enumerate(claims):
        told.setdefault(claim.name, []).append((place, claim))
    placed = [
        one for name, mine in told.items() for one in _of_ref(old.get(name), seen.get(name), mine, set(held))
    ]
    return [push for _, push in sorted(placed, key=lambda one: one[0])]


def _of_ref(
    old: Target | None, seen: Target | None, told: list[tuple[int, Claim]], held: set[Target]
) -> list[tuple[int, Push]]:
    """The pushes of one ref, each with its place among all claims."""
    if any(claim.before and claim.after is None for _, claim in told):  # then what tells less says it again
        told = [(place, claim) for place, claim in told if claim.before or claim.after]
    if old == seen:
        told = [(place, claim) for place, claim in told if not claim.known]
    now, latest = old, 0
    pushes: list[tuple[int, Push]] = []
    while told:
        linked = [one for one in told if _goes_on(one[1], now)]
        place, claim = min(linked, key=lambda one: (one[1].known, one[0])) if linked else told[0]
        told.remove((place, claim))
        latest = max(latest, place)
        if not linked:
            tips = {tip for tip in (claim.before, claim.after) if tip}
            explains = claim.after == seen != now
            if claim.known or claim.after == now or (tips <= held and not explains):
                continue
            if claim.before and claim.before not in held:
                pushes.append((latest, Push(claim.name, claim.before, claim, told=False)))
                held.add(claim.before)
        pushes.append((latest, Push(claim.name, claim.after, claim)))
        held |= {claim.after} if claim.after else set()
        now = claim.after
    return _without_replays(old, seen, pushes)


def _goes_on(claim: Claim, now: Target | None) -> bool:
    if claim.before is None and claim.after is None:  # a deletion that does not tell of what
        return now is not None
    return claim.before == now


def _without_replays(
    old: Target | None, seen: Target | None, pushes: list[tuple[int, Push]]
) -> list[tuple[int, Push]]:
    """What was delivered again leads away from where the ref is, by moves that the history has already."""
    ends = [-1] if old == seen else []
    ends += [number for number, (_, push) in enumerate(pushes) if push.new == seen]
    if ends and all(push.claim.known for _, push in pushes[ends[-1] + 1 :]):
        return pushes[: ends[-1] + 1]
    return pushes


def steps(old: Refs, new: Refs, pushes: Iterable[Push]) -> list[Step]:
    """Every move from one map to the other by way of these pushes, in the order of names, then of time.

    What the pushes leave out is a step of its own, by nobody knows whom.
    """
    made: dict[RefName, list[Step]] = {}
    now: dict[RefName, Target | None] = {}
    for push in pushes:
        before = now.get(push.name, old.get(push.name))
        if push.new != before:
            made.setdefault(push.name, []).append(Step(push.name, before, push.new, push.by, push.at))
        now[push.name] = push.new
    changed = {name for name, _ in old.items() ^ new.items()}
    for name in changed | now.keys():
        if (before := now.get(name, old.get(name))) != new.get(name):
            made.setdefault(name, []).append(Step(name, before, new.get(name), None, None))
    return [step for name in sorted(made) for step in made[name]]


def rounds(made: Sequence[Step]) -> Iterator[list[int]]:
    """The numbers of the steps in groups that have each ref once: all first moves, all second ones, ..."""
    turns: dict[RefName, int] = {}
    groups: list[list[int]] = []
    for number, step in enumerate(made):
        turn = turns[step.name] = turns.get(step.name, -1) + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(number)
    yield from groups


def collides(refs: Collection[RefName], name: RefName) -> bool:
    """Whether a ref of this name cannot be beside these: git keeps `a` and `a/b` in one place."""
    parts = name.split(b"/")
    return any(b"/".join(parts[:end]) in refs for end in range(2, len(parts))) or any(
        other.startswith(name + b"/") for other in refs
    )
