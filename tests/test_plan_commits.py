"""A plan tells what each ref gains and loses, in commits and names."""

from mirror.browse import plan_commits
from mirror.core.model import RefName, Remote, Repo, Target
from mirror.git.reader.questions import WhatLies
from mirror.restore import restore
from mirror.restore.restore import What
from tests.parts.everref import Mirror
from tests.parts.repos import MAIN, Work

RELEASE = RefName(b"refs/heads/release/2.4")


async def backed_up(mirror: Mirror, work: Work) -> Repo:
    """A repository whose main was force-pushed after the first snapshot, and whose release went on."""
    base = work.commit("main", {"a": b"1\n"}, message="Begin")
    work.commit("main", {"b": b"1\n"}, message="Docs: changelog")
    work.commit("main", {"c": b"1\n"}, message="Fix deploy")
    work.commit("release/2.4", {"r": b"1\n"}, message="Release", parents=[base])
    await mirror.backup(work)
    work.commit("main", {"d": b"1\n"}, message="Say it otherwise", parents=[base])
    work.commit("release/2.4", {"s": b"1\n"}, message="Ship it")
    return (await mirror.backup(work)).repo


async def planned(mirror: Mirror, repo: Repo, work: Work, what: What) -> restore.RestorePlan:
    then = await mirror.snapshot(repo, 1)
    return await restore.plan(mirror.services, repo, then, what, Remote(str(work.path)))


async def test_an_overwritten_ref_tells_the_commits_it_gains_and_loses(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    made = await planned(mirror, repo, work, What(force=True))
    told = await plan_commits.of_plan(mirror.services, repo, made.moves, made.held)
    main, release = told.by_name[MAIN], told.by_name[RELEASE]
    assert [one.summary for one in main.gained] == ["Fix deploy", "Docs: changelog"]
    assert [one.summary for one in main.lost] == ["Say it otherwise"]
    assert (main.gains, main.loses, main.base and main.base.summary) == (2, 1, "Begin")
    assert (release.gains, release.loses, [one.summary for one in release.lost]) == (0, 1, ["Ship it"])
    assert plan_commits.authors(main.gained) == [main.gained[0].author]
    again = await plan_commits.of_plan(mirror.services, repo, made.moves, made.held)
    assert again == told and told.uncounted == 0


async def test_a_new_ref_gains_what_no_ref_of_the_target_reaches(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    back = RefName(b"refs/heads/restored/main")
    made = await planned(mirror, repo, work, What(bring={back: MAIN}))
    told = await plan_commits.of_plan(mirror.services, repo, made.moves, made.held)
    assert (told.by_name[back].gains, told.by_name[back].loses) == (2, None)
    assert [one.summary for one in told.by_name[back].gained] == ["Fix deploy", "Docs: changelog"]


async def test_histories_with_nothing_in_common_have_no_base(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    other = work.commit("other", {"x": b"1\n"}, message="Elsewhere", parents=[])
    await mirror.backup(work)
    told = await plan_commits.apart(mirror.services, repo, other, work.tip())
    assert told is not None and told.base is None and told.loses == 1


async def test_what_the_target_holds_and_nobody_backed_up_is_not_counted(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    tip = work.tip()
    told = await plan_commits.of_plan(mirror.services, repo, [(MAIN, Target(b"1" * 40), tip)])
    assert (told.by_name[MAIN].loses, told.by_name[MAIN].old) == (None, None)
    assert told.by_name[MAIN].new is not None


async def test_of_many_refs_the_first_are_counted_and_the_rest_is_said(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    tip = work.tip()
    moves = [(RefName(b"refs/heads/b%d" % number), None, tip) for number in range(70)]
    told = await plan_commits.of_plan(mirror.services, repo, moves)
    assert (len(told.by_name), told.uncounted) == (plan_commits.COUNTED, 10)


async def test_without_time_nothing_is_counted_and_nothing_is_remembered(mirror: Mirror, work: Work) -> None:
    repo = await backed_up(mirror, work)
    asked = WhatLies("x", (), patience=0.0)
    assert asked.shown == 0 and not asked.base, "a question of a page of pushes is as small as it was"
    moves = [(MAIN, work.tip(), work.tip("release/2.4"))]
    told = await plan_commits.of_plan_or_none(mirror.services, repo, moves, seconds=0.0)
    assert (told.by_name, told.uncounted) == ({}, 1)
