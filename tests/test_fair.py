"""A worker's slots: one team may have all of them, and still every other finds half of them free."""

from hypothesis import given
from hypothesis import strategies as st

from mirror.core.rules.work.fairness import LENT, LENT_TO_ONE, Free, Held, free


def held(team: str, count: int, *, heavy: bool = False, waits: bool = False) -> list[Held[str]]:
    return [Held(team, heavy, waits)] * count


def taken_by(team: str, under_way: list[Held[str]], slots: int, *, heavy: bool) -> int:
    """How many runs a team gets beside these, as none of them ends."""
    count = 0
    while True:
        now = free(under_way + held(team, count, heavy=heavy), slots)
        barred: frozenset[str] = now.full_of_heavy if heavy else frozenset()
        if now.room <= 0 or team in now.full or team in barred or (heavy and now.heavy <= 0):
            return count
        count += 1


def test_a_team_alone_has_every_slot() -> None:
    assert taken_by("alice", [], 4, heavy=False) == 4
    assert taken_by("alice", [], 4, heavy=True) == 3  # one is for what is quick
    assert free([], 4) == Free(4, 3, frozenset(), frozenset())


def test_whoever_comes_finds_half_of_the_slots_however_long_the_others_take() -> None:
    """One team's heavy runs, or fetches just above the least rate, held all slots of a small worker."""
    assert taken_by("bob", held("mallory", 4), 4, heavy=False) == 2
    assert taken_by("bob", held("mallory", 3, heavy=True), 4, heavy=True) == 2
    assert taken_by("bob", held("mallory", 8), 8, heavy=False) == 4
    assert taken_by("mallory", held("mallory", 4), 4, heavy=False) == 0


def test_one_team_lends_half_of_what_may_be_lent() -> None:
    drips = held("mallory", LENT_TO_ONE + 4, waits=True)
    assert free(drips, 4).full == {"mallory"}
    assert free(drips, 4).room == 2
    assert free(drips[:LENT_TO_ONE], 4) == Free(4, 3, frozenset(), frozenset())


runs = st.lists(st.builds(Held, st.sampled_from("abcd"), st.booleans(), st.booleans()), max_size=60)


@given(st.integers(1, 32), st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=80))
def test_no_worker_has_more_than_half_as_much_again_as_it_has_slots(
    slots: int, asking: list[tuple[str, bool]]
) -> None:
    under_way: list[Held[str]] = []
    for team, heavy in asking:
        now = free(under_way, slots)
        if now.room > 0 and team not in now.full:
            if not heavy or (now.heavy > 0 and team not in now.full_of_heavy):
                under_way += held(team, 1, heavy=heavy)
    assert len(under_way) <= slots + -(-slots // 2)
    for team in "abcd":
        assert sum(one.team == team for one in under_way) <= slots


@given(st.integers(1, 32), runs)
def test_what_waits_is_lent_within_its_bound(slots: int, under_way: list[Held[str]]) -> None:
    waiting = sum(run.waits for run in under_way)
    if len(under_way) - min(waiting, LENT) >= slots + slots // 2 + LENT:
        assert free(under_way, slots).room == 0
    assert free(under_way, slots).room <= slots
