"""Rolling back what one account pushed: one plan over repos, a job each with leases, one undo."""

import asyncio
import io
import itertools
import re
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from mirror.cli import arguments
from mirror.cli.commands import incident as cli
from mirror.cli.terminal import Drawn
from mirror.core.errors import Busy, NotFound, Refused, UsageError
from mirror.core.model import HEAD, RefName, RepoId, Target
from mirror.core.rules.history import plan as planning
from mirror.core.rules.history import rollback as rules
from mirror.core.rules.history.plan import Lease, Wrote
from mirror.core.rules.history.rollback import Move, Wanted
from mirror.core.rules.roles import Role
from mirror.jobs import rollbacks
from mirror.jobs import run as jobbing
from mirror.jobs.rollbacks import State
from mirror.restore import rollback
from mirror.restore.target import Authority
from mirror.store import repos
from mirror.store.browse import causes, incidents
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs
from mirror.store.people.teams import TeamId
from mirror.store.restore import rollbacks as rows
from mirror.store.restore.rollbacks import Rollback
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.test_cli import EYE
from tests.test_undo import taken_up

MAIN, SIDE, TAG = RefName(b"refs/heads/main"), RefName(b"refs/heads/side"), RefName(b"refs/tags/v1")
PULL = RefName(b"refs/pull/1/head")
OLD, NEW, OTHER = Target(b"1" * 40), Target(b"2" * 40), Target(b"3" * 40)
WHEN = datetime(2026, 3, 2, tzinfo=UTC)


def moves(*given: tuple[Target | None, Target | None, str | None, bool]) -> list[Move]:
    return [Move(old, new, by, WHEN, meant) for old, new, by, meant in given]


MALLORY, LENA = ("mallory", True), ("lena", False)


@pytest.mark.parametrize(
    ("name", "steps", "now", "state", "why"),
    [
        (MAIN, [(OLD, NEW, *MALLORY)], NEW, "ready", ""),
        (SIDE, [(OLD, None, *MALLORY)], None, "ready", ""),
        (SIDE, [(None, NEW, *MALLORY)], NEW, "ready", rules.CREATED_WHY),
        (MAIN, [(OLD, NEW, *MALLORY), (NEW, OTHER, *LENA)], OTHER, "moved", "lena pushed to it since"),
        (
            MAIN,
            [(OLD, NEW, *MALLORY), (NEW, OTHER, *LENA), (OTHER, NEW, *MALLORY)],
            NEW,
            "moved",
            "lena pushed to it in between",
        ),
        (
            MAIN,
            [(OLD, NEW, *MALLORY), (NEW, OTHER, None, False)],
            OTHER,
            "moved",
            "an account that the host did not name pushed to it since",
        ),
        (MAIN, [(OLD, NEW, *MALLORY), (NEW, OTHER, *LENA), (OTHER, NEW, *LENA)], NEW, "ready", ""),
        (MAIN, [(OLD, NEW, *MALLORY)], OTHER, "moved", "somebody has pushed to it since the last backup"),
        (MAIN, [(OLD, NEW, *MALLORY), (NEW, OLD, *LENA)], OLD, "back", "it is what it was before"),
        (
            RefName(b"refs/pull/1/head"),
            [(OLD, NEW, *MALLORY)],
            NEW,
            "fixed",
            "hosts refuse pushes to this name",
        ),
    ],
    ids=[
        "forced",
        "deleted",
        "created",
        "since",
        "between",
        "unnamed",
        "restored",
        "unsaved",
        "back",
        "hidden",
    ],
)
def test_a_ref_goes_back_to_just_before_unless_others_pushed(
    name: RefName, steps: Any, now: Target | None, state: str, why: str
) -> None:
    found = rules.planned(name, moves(*steps), now)
    assert (found.state, found.why, found.expected, found.target) == (state, why, now, steps[0][0])
    live = rules.planned(name, moves(*steps), OTHER, listed={} if now is None else {name: now})
    assert live.state == state  # what the host lists counts, and not what was recorded


def test_what_is_gone_or_no_push_can_move_is_named() -> None:
    assert rules.planned(MAIN, moves((OLD, NEW, *MALLORY)), NEW, {OLD}).state == "dropped"
    old, new = Target(b"ref: refs/heads/main"), Target(b"ref: refs/heads/evil")
    head = rules.planned(HEAD, moves((old, new, *MALLORY)), new)
    assert head.state == "fixed" and head.why.endswith("it was refs/heads/main")
    assert not head.chosen(created=True, moved=True)


@pytest.mark.parametrize(
    ("expected", "target", "now", "action"),
    [
        (NEW, OLD, NEW, "update"),
        (NEW, OLD, OTHER, "refused"),
        (NEW, OLD, None, "refused"),
        (NEW, OLD, OLD, "unchanged"),
        (None, OLD, None, "create"),
        (None, OLD, NEW, "refused"),
        (NEW, None, NEW, "remove"),
        (NEW, None, OTHER, "refused"),
        (NEW, None, None, "unchanged"),
    ],
)
def test_a_ref_is_touched_only_while_it_holds_what_the_plan_saw(
    expected: Target | None, target: Target | None, now: Target | None, action: str
) -> None:
    listed = {SIDE: OTHER} | ({} if now is None else {MAIN: now})
    (found,) = planning.rollback_actions([Lease(MAIN, expected, target)], listed)
    assert (found.action, found.old) == (action, now)
    assert (found.why is not None) == (action in ("refused", "unchanged", "remove"))


def test_undoing_a_removal_creates_the_ref_again() -> None:
    (found,) = planning.undo_actions([Wrote(MAIN, OLD, None)], {})
    assert (found.action, found.target) == ("create", OLD)
    (found,) = planning.undo_actions([Wrote(MAIN, OLD, None)], {MAIN: OTHER})
    assert found.action == "skipped"


@dataclass
class Incident:
    """Three repositories in which mallory forced, deleted, moved and created refs; Lena went on in one."""

    mirror: Mirror
    team: TeamId
    works: list[Work]
    repos: list[RepoId]
    before: list[dict[RefName, Target]]
    after: list[dict[RefName, Target]]

    async def planned(self, **asked: Any) -> Rollback:
        since = self.mirror.clock.now - timedelta(days=1)
        wanted = Wanted(since, self.mirror.clock.now, ("Mallory",))
        means = Authority(Role.OWNER)
        return await rollback.plan(self.mirror.services, self.team, wanted, means, **asked)

    async def ask(self, repo_id: RepoId, asked: dict[str, Any]) -> None:
        await jobbing.ask(self.mirror.services, repo_id, "restore", asked)

    async def begun(self, found: Rollback, places: Any = None) -> State:
        services = self.mirror.services
        await rollbacks.begin(services, self.team, found.id, self.ask, places=places)
        return await self.worked_off(found)

    async def worked_off(self, found: Rollback) -> State:
        services = self.mirror.services
        for one in await services.db.fetch(
            "select id from job where state = 'queued' order by queued_at, id"
        ):
            job = await jobs.by_id(services.db, one["id"])
            assert job is not None
            await taken_up(self.mirror, job, services.db)
        return await rollbacks.state(services, self.team, found.id)

    def refs(self) -> list[dict[RefName, Target]]:
        return [dict(work.refs()) for work in self.works]


@pytest_asyncio.fixture
async def incident(mirror: Mirror, make_work: Any) -> Incident:
    db = mirror.services.db
    works = [make_work(f"{name}.git") for name in ("api", "shed", "web")]
    kept = []
    for work in works:
        for branch in ("main", "side", "feature"):
            work.commit(branch)
        work.tag("v1", work.tip("main"))
        kept.append((await mirror.backup(work)).repo.id)
    before = [dict(work.refs()) for work in works]
    for work in works:
        evil = work.commit(None, {"evil": b"1\n"}, parents=[])
        work.set("main", evil)
        work.delete("side")
        work.set("refs/tags/v1", evil)
        work.set("backdoor", evil)
        work.commit("feature", message="Looks harmless")
        await mirror.backup(work)
    await db.execute("update ref_change set pushed_by = 'MALLORY' where snapshot = 2")
    works[2].commit("feature", message="Lena goes on")
    await mirror.backup(works[2])
    await db.execute("update ref_change set pushed_by = 'lena' where snapshot = 3")
    team = (await remotes.get(db, kept[0])).team_id
    return Incident(mirror, team, works, kept, before, [dict(work.refs()) for work in works])


async def test_what_one_account_pushed_to_several_repos_is_put_back_and_that_is_undone(
    incident: Incident,
) -> None:
    found = await incident.planned()
    assert [(one.repo, len(one.refs), one.chosen, one.problem) for one in found.repos] == [
        ("api", 5, 4, None),
        ("shed", 5, 4, None),
        ("web", 5, 3, None),
    ]
    web = {one.ref.name: one for one in found.repos[2].refs}
    assert web[RefName(b"refs/heads/feature")].ref.why == "lena pushed to it since"
    assert web[RefName(b"refs/heads/backdoor")].ref.why == rules.CREATED_WHY
    done = await incident.begun(found)
    assert [(line.job and line.job.state, line.counts) for line in done.lines] == [
        ("done", {"created": 1, "updated": 3}),
        ("done", {"created": 1, "updated": 3}),
        ("done", {"created": 1, "updated": 2}),
    ], [line.problem for line in done.lines]
    assert (done.sentence, done.failed, done.undoable) == ("11 refs of 3 repositories put back", 0, True)
    for work, before in zip(incident.works[:2], incident.before, strict=False):
        assert {name: oid for name, oid in work.refs().items() if name != b"refs/heads/backdoor"} == before
    assert (
        incident.works[2].tip("feature") == incident.refs()[2][RefName(b"refs/heads/feature")]
    )  # Lena's work stands
    services, db = incident.mirror.services, incident.mirror.services.db
    for work in incident.works:
        await incident.mirror.backup(work)
    since = incident.mirror.clock.now - timedelta(days=1)
    assert await causes.forced_lately(db, incident.team, since) == []  # settled by it

    await rollbacks.undo_all(services, incident.team, found.id, incident.ask)
    undone = await incident.worked_off(found)
    assert [line.undone and line.undone.state for line in undone.lines] == ["done"] * 3
    assert (undone.sentence, undone.undoable) == ("3 of 3 repositories undone", False)
    assert incident.refs() == incident.after
    with pytest.raises(Refused, match="nothing that is left to undo"):
        await rollbacks.undo_all(services, incident.team, found.id, incident.ask)
    with pytest.raises(Refused, match="this rollback was undone; plan a new one"):
        await rollbacks.again(services, incident.team, found.id, incident.ask)


async def test_what_was_created_and_what_others_pushed_since_goes_only_where_that_is_asked_for(
    incident: Incident,
) -> None:
    found = await incident.planned(created=True, moved=True)
    assert found.chosen == 15
    done = await incident.begun(found)
    assert done.failed == 0, [line.problem for line in done.lines]
    assert [line.counts["removed"] for line in done.lines] == [1, 1, 1]
    assert incident.refs() == incident.before
    await rollbacks.undo_all(incident.mirror.services, incident.team, found.id, incident.ask)
    await incident.worked_off(found)
    assert incident.refs() == incident.after  # the refs that were deleted are there again


async def test_what_is_pushed_after_the_plan_is_refused_and_named_and_the_rest_goes_on(
    incident: Incident,
) -> None:
    found = await incident.planned()
    saved = incident.works[0].commit("main", message="pushed after the plan")
    broken = incident.works[1].path
    broken.rename(broken.with_name("away"))
    done = await incident.begun(found)
    assert [line.job and line.job.state for line in done.lines] == ["failed", "failed", "done"]
    assert done.lines[0].counts == {"created": 1, "updated": 2, "refused": 1}
    (refused,) = [ref for ref in done.lines[0].job.result["refs"] if ref["result"] == "refused"]  # type: ignore
    assert refused["name"] == "refs/heads/main" and "since the plan was made" in refused["why"]
    assert incident.works[0].refs()[MAIN] == saved
    assert done.failed == 2 and done.sentence.endswith("2 repositories not, or only in part")
    broken.with_name("away").rename(broken)
    services = incident.mirror.services
    await rollbacks.again(services, incident.team, found.id, incident.ask)
    with pytest.raises(Busy):
        await rollbacks.again(services, incident.team, found.id, incident.ask)
    again = await incident.worked_off(found)
    assert [line.job and line.job.state for line in again.lines] == ["failed", "done", "done"]
    assert again.lines[0].counts == {"refused": 1, "unchanged": 3}
    assert incident.works[0].refs()[MAIN] == saved
    await rollbacks.undo_all(services, incident.team, found.id, incident.ask)
    await incident.worked_off(found)
    after = incident.after[0] | {MAIN: saved}
    assert incident.refs() == [after, *incident.after[1:]]


async def test_a_plan_is_begun_once_by_who_made_it_within_an_hour(incident: Incident) -> None:
    services, team = incident.mirror.services, incident.team
    found = await incident.planned()
    with pytest.raises(Refused, match="somebody else made this plan"):
        await rollbacks.begin(services, team, found.id, incident.ask, person_id=uuid4())
    with pytest.raises(Refused, match="no ref is chosen"):
        await rollbacks.begin(services, team, found.id, incident.ask, places=())
    one = found.repos[0].refs[-1].place
    await rollbacks.begin(services, team, found.id, incident.ask, places=[one])
    await rollbacks.begin(services, team, found.id, incident.ask)
    assert await services.db.fetchval("select count(*) from job where asked ? 'rollback'") == 1
    late = await incident.planned()
    incident.mirror.clock.now += timedelta(hours=2)
    with pytest.raises(Refused, match="more than an hour old"):
        await rollbacks.begin(services, team, late.id, incident.ask)
    incident.mirror.clock.now -= timedelta(hours=2)
    with pytest.raises(UsageError, match="nothing was pushed that matches"):
        wanted = Wanted(late.planned_at, late.planned_at, ("lena",))
        await rollback.plan(services, team, wanted, Authority(Role.OWNER))


async def test_what_is_no_longer_kept_is_named_and_the_rest_is_put_back(incident: Incident) -> None:
    db = incident.mirror.services.db
    await db.execute(
        "update snapshot set dropped_at = now(), dropped_why = 'a test' where repo_id = $1 and number = 1",
        incident.repos[0],
    )
    found = await incident.planned()
    assert {one.ref.state for one in found.repos[0].refs} == {"ready"}  # its objects are there still
    held = {one.ref.target for one in found.repos[0].refs if one.ref.target}
    unkept = await incidents.unkept(db, incident.repos[0], [*held, NEW])
    assert unkept == {*held, NEW}  # only the objects tell that they are not gone
    repo = await repos.get(db, incident.repos[0])
    assert await rollback._gone(incident.mirror.services, repo, unkept) == {NEW}


@dataclass
class Said:
    """What a command says, as text and as JSON."""

    json: bool = False
    texts: list[str] = field(default_factory=list)
    shapes: list[Any] = field(default_factory=list)

    def result(self, text: Any, shape: Any) -> None:
        self.texts.append(text(EYE))
        self.shapes.append(shape())

    def remark(self, text: Any) -> None:
        self.texts.append(text(EYE))


async def test_the_commands_list_plan_do_and_undo(incident: Incident) -> None:
    services = incident.mirror.services

    async def ran(act: Any, *words: str) -> tuple[int, Said]:
        said = Said()
        call = SimpleNamespace(args=arguments.parse(words), out=said, services=lambda: nullcontext(services))
        return await act(call), said

    since = ("--since", "2026-03-01", "--actor", "mallory")
    code, listed = await ran(cli.pushes, "pushes", *since, "--kind", "deleted")
    assert code == 0 and len(listed.texts) == 3 and "by MALLORY" in listed.texts[0]
    _, table = await ran(cli.pushes, "pushes", *since, "--csv")
    assert table.texts[0].startswith("at,repo,ref,what,by,old,new,snapshot\n")
    code, planned = await ran(cli.rollback, "rollback", *since, "--plan")
    assert code == 0 and incident.refs() == incident.after
    plan = planned.shapes[0]
    assert (plan["state"], plan["refs_chosen"], planned.texts[0].count("put back ")) == ("planned", 11, 8)
    assert "lena pushed to it since" in planned.texts[0] and "loses 1 commit" in planned.texts[0]
    incident.works[0].commit("main", message="pushed meanwhile")
    code, done = await ran(cli.rollback, "rollback", *since)
    assert code == 0 and done.shapes[-1]["state"] == "done", done.texts  # what moved by then was left out
    assert [len(one["counts"]) for one in done.shapes[-1]["repos"]] == [2, 2, 2]
    made = done.shapes[-1]["id"]
    assert f"everref rollback --undo {made}" in done.texts[-1]
    code, undone = await ran(cli.rollback, "rollback", "--undo", made)
    assert code == 0 and undone.shapes[-1]["state"] == "undone", undone.texts
    assert incident.refs()[1:] == incident.after[1:]
    with pytest.raises(
        NotFound, match=r"no push by 'malory' is known; .* in this time: MALLORY \(15\), lena"
    ):
        await ran(cli.pushes, "pushes", "--since", "2026-03-01", "--actor", "malory")
    with pytest.raises(UsageError, match="say since when"):
        await ran(cli.rollback, "rollback", "--actor", "mallory")
    with pytest.raises(NotFound, match="no rollback"):
        await ran(cli.rollback, "rollback", "--again", "what")


async def test_a_plan_says_how_many_repositories_it_has_looked_at(incident: Incident) -> None:
    services, said = incident.mirror.services, io.StringIO()
    ticks = itertools.count(0, 5)
    drawn = Drawn(said, lambda: float(next(ticks)), lambda: 100)
    told = replace(services, progress=drawn)
    wanted = Wanted(incident.mirror.clock.now - timedelta(days=1), incident.mirror.clock.now, ("mallory",))
    await rollback.plan(told, incident.team, wanted, Authority(Role.OWNER))
    counted = re.findall(r"asking hosts  (\d of 3 repositories)", said.getvalue())
    assert counted == [f"{number} of 3 repositories" for number in (0, 1, 2, 3)], said.getvalue()


async def test_a_plan_that_is_made_repo_by_repo_twice_at_once_is_the_one_that_is_made_at_once(
    incident: Incident,
) -> None:
    services, team = incident.mirror.services, incident.team
    whole = await incident.planned(created=True)
    wanted, means = Wanted.of(whole.asked), Authority(Role.OWNER)
    made = await rollback.start(services, team, wanted, created=True)
    assert (len(made.unread), made.chosen, made.asked) == (3, 0, whole.asked)
    with pytest.raises(Refused, match="still being made: 0 of 3 repositories read"):
        await rollbacks.begin(services, team, made.id, incident.ask)
    assert not await rows.begin(services.db, made.id, None, incident.mirror.clock.now)
    found = await rollback.read_on(services, team, made.id, means, 1)
    assert [one.repo for one in found.unread] == ["shed", "web"]
    await asyncio.gather(*(rollback.read_on(services, team, made.id, means, number) for number in (1, 2, 1)))
    found = await rollback.read_on(services, team, made.id, means)
    assert not found.unread
    for one, other in zip(found.repos, whole.repos, strict=True):
        assert [(ref.ref, ref.chosen) for ref in one.refs] == [(ref.ref, ref.chosen) for ref in other.refs]
        assert (one.snapshot, one.problem) == (other.snapshot, other.problem)
    places = [ref.place for one in found.repos for ref in one.refs]
    assert sorted(places) == [ref.place for one in whole.repos for ref in one.refs]


async def test_an_account_that_never_pushed_is_named_with_those_who_did(incident: Incident) -> None:
    services, now = incident.mirror.services, incident.mirror.clock.now
    day = Wanted(now - timedelta(days=1), now, ("Malory", "LENA"))
    found = await incidents.strangers(services.db, incident.team, day)
    assert found is not None
    assert (found.names, found.accounts) == (("Malory",), (("MALLORY", 15), ("lena", 1)))
    said = "no push by 'Malory' is known; accounts that pushed in this time: MALLORY (15), lena (1)"
    assert found.sentence == said
    earlier = Wanted(now - timedelta(days=9), now - timedelta(days=8), ("len",))
    found = await incidents.strangers(services.db, incident.team, earlier)
    assert found is not None and found.accounts == ()
    nothing = Wanted(day.since, now, ("qqqq\x1b",), repos=("none",))
    found = await incidents.strangers(services.db, incident.team, nothing)
    assert found is not None and found.accounts == (("MALLORY", 15), ("lena", 1))
    assert "\x1b" not in found.sentence
    assert (
        await incidents.strangers(services.db, incident.team, Wanted(now, now, ("lena", "mallory"))) is None
    )
    with pytest.raises(NotFound, match="no push by 'Malory'"):  # what malory did would be left out
        await rollback.plan(services, incident.team, day, Authority(Role.OWNER))
    await services.db.execute("update ref_change set pushed_by = null")
    found = await incidents.strangers(services.db, incident.team, day)
    assert found is not None and found.sentence.endswith("no host named who pushed in this time")


NARROWED: list[tuple[dict[str, Any], int]] = [
    ({}, 16),
    ({"actors": ("mallory",)}, 15),
    ({"actors": ("LENA", "nobody")}, 1),
    ({"actors": ("lena",), "kinds": ("forced",)}, 0),
    ({"kinds": ("forced",)}, 3),
    ({"kinds": ("tag",)}, 3),
    ({"kinds": ("default",)}, 0),
    ({"kinds": ("deleted", "created")}, 6),
    ({"repos": ("api", "w*")}, 11),
    ({"refs": ("v*", "main")}, 6),
    ({"refs": ("refs/heads/*",), "kinds": ("pushed",)}, 4),
    ({"untold": True}, 0),
    ({"untold": True, "actors": ("lena",)}, 1),
]


async def test_changes_of_a_team_are_found_by_who_what_and_where(incident: Incident) -> None:
    now, db = incident.mirror.clock.now, incident.mirror.services.db
    first = await db.fetchval("select max(taken_at) from snapshot where number = 1") + timedelta(seconds=1)
    for narrowed, number in NARROWED:
        found = await incidents.changes(db, incident.team, Wanted(first, now, **narrowed))
        assert (len(found.changes), found.more) == (number, False), narrowed
    assert (await incidents.changes(db, incident.team, Wanted(first, now), 5)).more
    later = Wanted(now + timedelta(minutes=1), now + timedelta(hours=1))
    assert not (await incidents.changes(db, incident.team, later)).changes


async def test_a_rollback_in_two_goes_is_undone_only_once_both_are(incident: Incident) -> None:
    work, services = incident.works[0], incident.mirror.services
    evil = work.refs()[MAIN]
    found = await incident.planned()
    work.commit("main", message="pushed after the plan")
    await incident.begun(found)
    work.set("main", evil)
    await rollbacks.again(services, incident.team, found.id, incident.ask)
    twice = (await incident.worked_off(found)).lines[0]
    assert len(twice.wrote) == 2 and work.refs()[MAIN] == incident.before[0][MAIN]
    await rollbacks.undo_all(services, incident.team, found.id, incident.ask)
    away = work.path.with_name("away")
    for row in await services.db.fetch("select id from job where state = 'queued' order by queued_at, id"):
        job = await jobs.by_id(services.db, row["id"])
        assert job is not None
        is_second = job.asked["undo"] == str(twice.wrote[1].id)
        if is_second:
            work.path.rename(away)
        await taken_up(incident.mirror, job, services.db)
        if is_second:
            away.rename(work.path)
    half = await rollbacks.state(services, incident.team, found.id)
    assert work.refs()[MAIN] != evil
    assert (half.name, half.undoable, half.sentence) == ("failed", True, "2 of 3 repositories undone")
    await rollbacks.undo_all(services, incident.team, found.id, incident.ask)
    whole = await incident.worked_off(found)
    assert (whole.name, whole.undoable) == ("undone", False) and incident.refs() == incident.after
