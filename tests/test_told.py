"""What people are told outside the pages: once, grouped, in time, and what became of it.

The database is a real one, the clock the tests' own, and what would leave is recorded.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from time import thread_time
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from mirror.core.channels import NotDelivered, Undeliverable
from mirror.core.config import Settings
from mirror.core.errors import EverrefError, LimitReached, Origin
from mirror.core.messages import Message
from mirror.core.model import RefName, RepoId
from mirror.core.rules.roles import PersonId, Role
from mirror.notify import deliver, happened, look
from mirror.notify.deliver import Delivery
from mirror.store import repos
from mirror.store.jobs import jobs
from mirror.store.notify import alarms, messages, sendings
from mirror.store.notify.events import Events, Taken
from mirror.store.notify.messages import About
from mirror.store.people import audit, notices, people, teams
from mirror.store.people.audit import Entry
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import outages, vaults
from tests.parts.everref import Mirror
from tests.parts.repos import Work

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@dataclass
class Told:
    """Everref with a team, a worker that is alive, and channels whose other side is recorded."""

    mirror: Mirror
    team: TeamId
    got: dict[str, list[Message]] = field(default_factory=dict)  # by the channel's name
    ids: dict[UUID, str] = field(default_factory=dict)
    fails: dict[str, EverrefError] = field(default_factory=dict)  # what sending to a channel meets
    under_way: dict[str, int] = field(default_factory=dict)
    most: int = 0  # that were under way at once at one channel

    @property
    def db(self) -> Any:
        return self.mirror.services.db

    @property
    def now(self) -> datetime:
        return self.mirror.clock.now

    async def channel(
        self, name: str, *, team: TeamId | None = None, person: PersonId | None = None, **columns: object
    ) -> UUID:
        made = uuid4()
        await self.db.execute(
            """
            insert into channel (id, team_id, person_id, kind, name, shown, sealed, created_at, confirmed_at)
            values ($1, $2, $3, 'webhook', $4, 'hooks.example', '', $5, $5)
            """,
            made,
            team,
            person,
            name,
            self.now,
        )
        for column, value in columns.items():
            await self.db.execute(f"update channel set {column} = $2 where id = $1", made, value)
        self.ids[made] = name
        self.got[name] = []
        return made

    async def send(self, channel_id: UUID, message: Message) -> str:
        name = self.ids[channel_id]
        self.under_way[name] = self.under_way.get(name, 0) + 1
        self.most = max(self.most, self.under_way[name])
        await asyncio.sleep(0)
        self.under_way[name] -= 1
        if name in self.fails:
            raise self.fails[name]
        self.got[name].append(message)
        return "200 OK"

    async def after(self, passed: timedelta = timedelta()) -> dict[str, list[str]]:
        """Look and send what is due after so long; what came, by channel."""
        before = {name: len(got) for name, got in self.got.items()}
        end = self.now + passed
        while True:  # without a gap in which Everref would have been away
            self.mirror.clock.now = min(self.now + 9 * MINUTE, end)
            await look.look(self.mirror.services)
            await Delivery(self.mirror.services, self.send).once()
            if self.now == end:
                break
        return {
            name: [one.subject for one in got[before[name] :]]
            for name, got in self.got.items()
            if len(got) > before[name]
        }

    async def repo(self, name: str, team: TeamId | None = None) -> RepoId:
        url = f"https://git.example/{name}-{uuid4()}"
        made = (await repos.add(self.db, team or self.team, name, url, self.now)).id
        await self.db.execute("update repo set host = 'git.example' where id = $1", made)
        return made

    async def fail(self, *ids: RepoId, kind: str = "credentials", why: str = "it refuses") -> None:
        for one in ids:
            await repos.set_failure(self.db, one, kind, why, self.now)

    async def work(self, *ids: RepoId) -> None:
        for one in ids:
            await repos.touch_protected(self.db, one, self.now)


@pytest_asyncio.fixture
async def told(mirror: Mirror) -> AsyncIterator[Told]:
    mirror.clock.step = timedelta()
    services = mirror.services
    await services.db.execute("insert into worker values ('here', clock_timestamp() + interval '1 hour')")
    found = Told(mirror, await teams.default(services.db))
    await found.channel("team", team=found.team)
    yield found


async def member(told: Told, name: str, team: TeamId | None = None) -> PersonId:
    person = await people.add(told.db, name, told.now, team_name=name)
    await teams.add(told.db, team or told.team, person.id, Role.OPERATOR, told.now)
    return person.id


async def test_ten_repos_of_one_reason_are_one_message_and_so_is_its_end(told: Told) -> None:
    ids = [await told.repo(f"acme/{number}") for number in range(10)]
    assert await told.after() == {}
    await told.fail(*ids)
    assert await told.after() == {"team": ["git.example refuses the credentials for 10 repositories"]}
    message = told.got["team"][0]
    assert (message.kind, message.urgent, message.many) == ("credential", True, 10)
    assert message.repos[:2] == ("acme/0", "acme/1")
    assert any("Replace the token" in line for line in message.lines)
    assert message.link and "cause=credentials%3Agit.example" in message.link.url
    assert await told.after(200 * MINUTE) == {}
    await told.work(*ids)
    assert await told.after() == {
        "team": ["Resolved: git.example refuses the credentials for 10 repositories"]
    }
    assert "It lasted 3 h 20 min" in told.got["team"][-1].lines[0]
    assert await told.after(HOUR) == {}


async def test_a_look_that_dies_tells_nothing_twice_and_loses_nothing(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told.fail(await told.repo("acme/api"))
    await notices.add(told.db, told.team, None, "drill-failed", "a drill of acme/api failed", told.now)

    async def dies(*_: object) -> None:
        raise LimitReached("the disk is full", origin=Origin.DATABASE)

    with monkeypatch.context() as patched, pytest.raises(LimitReached):
        patched.setattr(alarms, "looked", dies)  # the last statement of the transaction
        await look.look(told.mirror.services)
    assert await told.db.fetchval("select count(*) from message") == 0
    await asyncio.gather(*(look.look(told.mirror.services) for _ in range(3)))
    assert sorted((await told.after())["team"]) == [
        "A drill of everref failed",
        "git.example refuses the credentials for acme/api",
    ]
    assert await told.after() == {}
    assert await told.db.fetchval("select count(*) from event") == 0


async def test_what_flaps_is_told_once_and_then_how_it_settles(told: Told) -> None:
    repo = await told.repo("acme/api")
    said = []
    for _ in range(5):
        await told.fail(repo)
        said += (await told.after(MINUTE)).get("team", [])
        await told.work(repo)
        said += (await told.after(MINUTE)).get("team", [])
    title = "git.example refuses the credentials for acme/api"
    assert said == [title, f"Resolved: {title}", title, f"Comes and goes: {title}"]
    assert await told.after(59 * MINUTE) == {}
    assert await told.after(MINUTE) == {"team": [f"Resolved: {title}"]}


async def test_ten_thousand_repos_that_fail_at_once_are_one_message(told: Told) -> None:
    await told.db.execute(
        """
        insert into repo (id, team_id, name, url, host, failing_since, failed_at, failure_class,
          failure_message, failures, created_at)
        select gen_random_uuid(), $1, 'acme/' || number, 'https://git.example/' || number, 'git.example',
          $2, $2, 'blocked', 'no', 1, $2
        from generate_series(1, 10000) as number
        """,
        told.team,
        told.now,
    )
    assert await told.after() == {"team": ["git.example blocks access to 10,000 repositories"]}
    assert len(told.got["team"][0].repos) == 12
    assert "and 9,988 more." in " ".join(told.got["team"][0].lines)


async def test_an_outage_is_told_to_whoever_runs_everref_and_to_no_team(told: Told) -> None:
    other = (await teams.add_named(told.db, "acme", told.now)).id
    await told.channel("acme", team=other)
    repo = await told.repo("acme/api", other)
    await told.work(repo)
    await repos.request_sync(told.db, repo, told.now)
    await outages.begin(told.db, "", LimitReached("the bucket is full", origin=Origin.VAULT), told.now)
    assert await told.after() == {"team": ["The vault of Everref does not answer"]}, "by the operators' team"
    await told.channel("pager")
    await told.db.execute("update outage set asked_at = clock_timestamp()")
    assert await told.after(30 * MINUTE) == {}
    told.mirror.clock.now += 20 * MINUTE
    assert await told.after() == {"pager": ["Everref was away for 20 min 0 s"]}
    (outage,) = await outages.now(told.db)
    await outages.end(told.db, outage, told.now)
    await told.work(repo)
    assert await told.after(MINUTE) == {"pager": ["Resolved: The vault of Everref does not answer"]}
    await told.db.execute("delete from worker")
    assert await told.after(MINUTE) == {}
    assert await told.after(MINUTE) == {"pager": ["No worker of Everref is running"]}
    assert told.got["acme"] == []


async def test_a_person_gets_the_first_at_once_and_the_rest_an_hour_later_as_one(told: Told) -> None:
    ann = await member(told, "Ann")
    await told.channel("ann", person=ann)
    stranger = await people.add(told.db, "Eve", told.now, team_name="eve")
    await told.channel("eve", person=stranger.id)
    await told.channel("deaf", team=told.team, off=["member"])
    for number in range(4):
        await _joined(told, f"Person {number}")
        await told.after(MINUTE)
    assert [one.subject for one in told.got["ann"]] == ["Person 0 joined everref as viewer"]
    assert len(told.got["team"]) == 4, "a team's channel has no digest"
    assert await told.after(55 * MINUTE) == {}
    await _failing_urgently(told)
    assert "ann" in await told.after(), "what is urgent does not wait"
    assert await told.after(5 * MINUTE) == {
        "ann": ["3 messages: Person 1 joined everref as viewer, and more"]
    }
    assert [line.partition(": ")[2] for line in told.got["ann"][-1].lines] == [
        f"Person {number} joined everref as viewer" for number in (1, 2, 3)
    ]
    assert told.got["eve"] == [] and {one.kind for one in told.got["deaf"]} == {"credential"}
    rows = await told.db.fetch("select state, count(*) from sending group by state")
    assert {row["state"] for row in rows} == {"sent"}


async def _joined(told: Told, name: str) -> None:
    entry = Entry(person_id=None, actor="Ann", action="member.add", subject=name, detail={"role": "viewer"})
    await audit.add(told.db, told.team, entry, told.now)


async def _failing_urgently(told: Told) -> None:
    await told.fail(await told.repo("acme/urgent"))


async def test_quiet_hours_hold_back_what_is_not_urgent(told: Told) -> None:
    now = told.now.time()
    await told.db.execute(
        "update channel set quiet_from = $1, quiet_to = $2", time(now.hour - 1), time(now.hour + 1)
    )
    await _joined(told, "Bob")
    await _joined(told, "Cy")
    await told.after(MINUTE)
    await _joined(told, "Di")
    assert await told.after(MINUTE) == {}
    await _failing_urgently(told)
    assert len((await told.after())["team"]) == 1
    assert await told.after(59 * MINUTE) == {"team": ["2 messages: 2 changes of who is in everref, and more"]}


async def test_restores_force_pushes_and_deletions_are_told_once_each(told: Told, work: Work) -> None:
    tip = work.commit()
    for name in (b"refs/tags/v1", b"refs/heads/side"):
        work.git("update-ref", name, tip)
    first = await told.mirror.backup(work, "acme/api")
    other = work.git("commit-tree", "-m", "another", b"main^{tree}").strip()
    work.git("update-ref", "refs/heads/main", other)
    for name in (b"refs/tags/v1", b"refs/heads/side"):
        work.git("update-ref", "-d", name)
    assert await told.after() == {}
    await told.mirror.backup(work, "acme/api")
    said = (await told.after())["team"]
    assert said == ["2 protected branches and tags were force-pushed or deleted"]
    lines = " ".join(told.got["team"][-1].lines)
    assert "force-pushed main of acme/api" in lines and "deleted the tag v1 of acme/api" in lines
    assert "side" not in lines
    await told.db.execute("update team set guarded_refs = '{s*}'")
    work.git("update-ref", "refs/heads/side", "refs/heads/main")
    await told.mirror.backup(work, "acme/api")
    work.git("update-ref", "-d", "refs/heads/side")
    await told.mirror.backup(work, "acme/api")
    assert await told.after(HOUR) == {"team": ["Somebody deleted side of acme/api"]}

    job = await jobs.attend(told.db, first.repo.id, "restore", {"snapshot": 1}, told.now)
    assert await told.after() == {"team": ["Whoever runs Everref began a restore of acme/api"]}
    await told.db.execute(
        """
        update job
        set state = 'failed', finished_at = $2, failure_class = 'refused', failure_message = 'no way in'
        where id = $1
        """,
        job.id,
        told.now,
    )
    assert await told.after() == {"team": ["A restore of acme/api by whoever runs Everref failed"]}
    for place in ("/srv/one", "/srv/two"):
        await told.db.execute(
            """
            insert into restore (repo_id, snapshot, destination, results, verified, finished_at)
            values ($1, 1, $2, '{"created": 2}', true, $3)
            """,
            first.repo.id,
            place,
            told.now,
        )
    assert await told.after() == {"team": ["2 restores began or ended"]}
    assert [line.partition(": ")[2] for line in told.got["team"][-1].lines] == [
        f"Whoever runs Everref restored acme/api to {place}." for place in ("/srv/one", "/srv/two")
    ]


def test_globs_that_are_slow_cost_a_look_little_and_tell_too_much_rather_than_too_little() -> None:
    slow = tuple(f"*{'a' * 196}{letter}b" for letter in "cdefghijkl")
    at, team = datetime(2026, 7, 1, tzinfo=UTC), TeamId(uuid4())
    name = b"refs/heads/" + b"/".join([b"a" * 250] * 15)
    moved = [
        Taken(team, "eve", slow, "acme/api", RefName(name + b"%d" % number), False, False, None, 5, at)
        for number in range(1000)
    ]
    began = thread_time()
    ((_, message),) = happened.messages(Settings("/data"), Events([], [], [], [], moved), at)
    assert thread_time() - began < 4 and "were force-pushed or deleted" in message.subject


async def test_notices_are_told_by_their_kinds_and_what_is_old_is_not(told: Told) -> None:
    repo = await told.repo("acme/api")
    for kind in ("mass-deletion", "damage", "audit", "failing", "recovered", "connection", "moved", "outage"):
        await notices.add(told.db, told.team, repo, kind, f"a notice of {kind}", told.now)
    await notices.add(told.db, told.team, repo, "drill-failed", "long ago", told.now - timedelta(days=2))
    await told.after()
    assert sorted(one.kind for one in told.got["team"]) == ["damage", "mass-deletion"]
    assert {one.urgent for one in told.got["team"]} == {True}
    both = next(one for one in told.got["team"] if one.kind == "damage")
    assert both.subject == "Damage was found in 2 places"


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        pytest.param(NotDelivered("the other side answered 500"), 5, id="may help to try again"),
        pytest.param(Undeliverable("the address does not exist"), 1, id="never will"),
        pytest.param(NotDelivered("come back later", retry_after=40 * MINUTE), 2, id="asks to wait"),
    ],
)
async def test_a_dead_channel_is_told_by_the_others(told: Told, error: NotDelivered, tries: int) -> None:
    dead = await told.channel("dead", team=told.team)
    told.fails["dead"] = error
    await _failing_urgently(told)
    said: list[str] = []
    for minute in range(60):
        said += (await told.after(MINUTE if minute else timedelta())).get("team", [])
        if said.count("Messages to dead no longer arrive"):
            break
    assert said == [
        "git.example refuses the credentials for acme/urgent",
        "Messages to dead no longer arrive",
    ]
    row = await told.db.fetchrow("select * from channel where id = $1", dead)
    assert row["failing_since"] is not None and row["failure"] == str(error)
    assert row["tries"] == tries
    (need,) = [one for one in await notices.open_of(told.db, told.team) if one.kind == "channel"]
    assert "Messages to dead no longer arrive" in need.message
    assert [one.name for one in await sendings.dead(told.db, told.team)] == ["dead"]

    del told.fails["dead"]
    await told.fail(await told.repo("acme/another"), kind="blocked")
    found = await told.after(HOUR)
    assert "git.example blocks access to acme/another" in found["dead"]
    assert found["team"] == ["git.example blocks access to acme/another", "Messages to dead arrive again"]


async def test_what_does_not_arrive_within_a_day_is_given_up(told: Told) -> None:
    told.fails["team"] = NotDelivered("the other side answered 503")
    await _failing_urgently(told)
    tries = 0
    for _ in range(30):
        await told.after(HOUR)
        tries = await told.db.fetchval("select tries from sending")
    row = await told.db.fetchrow("select state, answer, tries from sending")
    assert (row["state"], row["answer"], row["tries"]) == ("failed", "the other side answered 503", tries)
    assert 24 <= tries <= 28
    page = (await messages.page(told.db, About(team_id=told.team)))[-1]
    assert [(one.channel, one.state) for one in page.reached] == [("team", "failed")]


async def test_a_slow_channel_holds_up_no_other_and_gets_one_at_a_time(told: Told) -> None:
    await told.channel("slow", team=told.team)
    for number in range(3):
        await told.fail(await told.repo(f"acme/{number}"), kind=("blocked", "gone", "moved")[number])
    others_have_theirs = asyncio.Event()

    async def send(channel_id: UUID, message: Message) -> str:
        if told.ids[channel_id] == "slow":
            told.under_way["slow"] = told.under_way.get("slow", 0) + 1
            await others_have_theirs.wait()
            raise TimeoutError  # as when its time is over
        said = await told.send(channel_id, message)
        if len(told.got["team"]) == 3:
            others_have_theirs.set()
        return said

    async def deliver() -> None:
        while not others_have_theirs.is_set():  # it may have found the others' channel at work, too
            await Delivery(told.mirror.services, send).once()

    await look.look(told.mirror.services)
    await asyncio.gather(*(deliver() for _ in range(3)))
    assert len(told.got["team"]) == 3 and told.most == 1
    assert told.under_way["slow"] == 1, "one is tried; the others wait behind it"
    row = await told.db.fetchrow(
        """
        select sending.tries, answer from sending join channel on channel.id = channel_id
        where name = 'slow' and sending.tries > 0
        """
    )
    assert row["answer"] == "the other side did not answer in time"


async def test_a_channel_that_never_answers_has_so_much_time(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "TRY_SECONDS", 0.0)
    await told.fail(await told.repo("acme/garden"), kind="blocked")

    async def send(channel_id: UUID, message: Message) -> str:
        await asyncio.Event().wait()
        return "200 OK"

    await look.look(told.mirror.services)
    assert await Delivery(told.mirror.services, send).once() == 1
    assert await told.db.fetchval("select answer from sending") == "the other side did not answer in time"


async def test_whoever_dies_once_it_was_taken_has_it_sent_again_under_the_same_id(told: Told) -> None:
    class Killed(BaseException):
        """The end of a process."""

    died: list[Message] = []

    async def send(channel_id: UUID, message: Message) -> str:
        answer = await told.send(channel_id, message)
        if not died:
            died.append(message)
            raise Killed
        return answer

    await told.fail(await told.repo("acme/api"))
    await look.look(told.mirror.services)
    others = Delivery(told.mirror.services, send)
    with pytest.raises(Killed):
        await Delivery(told.mirror.services, send).once()
    assert await others.once() == 0, "it may still be at it"
    told.mirror.clock.now += deliver.LEASE + MINUTE
    assert (await others.once(), await others.once()) == (1, 0)
    assert [one.id for one in told.got["team"]] == [died[0].id] * 2, (
        "the same id, so that its reader can tell"
    )
    page = (await messages.page(told.db, About(team_id=told.team)))[-1]
    assert [(one.state, one.answer) for one in page.reached] == [("sent", "200 OK")]


async def test_many_slow_channels_of_one_team_delay_no_other_teams_message(told: Told) -> None:
    stranger = await teams.home(told.db, (await people.add(told.db, "eve", told.now, team_name="eve")).id)
    assert stranger is not None
    slow = [await told.channel(f"slow {number}", team=stranger.id) for number in range(20)]
    chats = [await told.channel(f"chat {number}", team=stranger.id, kind="chat") for number in range(5)]
    ours = await told.channel("our chat", team=told.team, kind="chat")
    team = next(one for one, name in told.ids.items() if name == "team")

    async def say(at: datetime, to: Sequence[UUID]) -> None:
        message = Message(uuid4(), "failing", True, "It fails", (), at)
        await messages.add(told.db, message, [messages.Planned(one, at) for one in to])

    async def claimed(most: int, chats: int) -> list[str]:
        until = told.now + deliver.LEASE
        found = await sendings.claim(told.db, told.now, until, most, troubled=False, chats=chats)
        return [told.ids[one.channel_id] for one in found]

    await say(told.now, [*slow, *chats])
    first = await claimed(12, 2)
    assert len(first) == 12 and sum(name.startswith("chat") for name in first) == 2
    told.mirror.clock.now += timedelta(seconds=15)
    await say(told.now, [team, ours])
    assert await claimed(1, 0) == ["team"], "who has none under way comes first, however long others wait"
    assert await claimed(1, 1) == ["our chat"]
    assert await claimed(3, 0) != [], "what is left is the stranger's"


async def test_the_report_comes_once_on_monday_morning(told: Told, work: Work) -> None:
    work.commit()
    await told.mirror.backup(work, "acme/api")
    ann = await member(told, "Ann")
    await told.channel("ann", person=ann, zone="America/New_York")
    await told.after()
    told.got["team"].clear()
    monday = datetime(2026, 3, 9, 7, 59, tzinfo=UTC)
    told.mirror.clock.now = monday
    await told.after()
    told.got = {name: [] for name in told.got}

    def reports(name: str) -> list[Message]:
        return [one for one in told.got[name] if one.kind == "report"]

    for _ in range(3):
        await told.after(MINUTE)
    assert (len(reports("team")), len(reports("ann"))) == (1, 0)
    message = reports("team")[0]
    assert message.subject == "everref: 1 of 1 repository protected this week"
    assert "1 snapshot with 2 ref changes" in message.lines[1] and len(message.lines) <= 10
    for _ in range(6):
        await told.after(HOUR)
    assert (len(reports("team")), len(reports("ann"))) == (1, 1)


@pytest.mark.parametrize("passed", [timedelta(days=89), timedelta(days=91)])
async def test_what_was_said_is_kept_for_ninety_days(told: Told, passed: timedelta) -> None:
    await _failing_urgently(told)
    await told.after()
    told.mirror.clock.now += passed
    await look.forget(told.mirror.services)
    assert len(await messages.page(told.db, None)) == (passed < look.KEPT)


async def test_repos_that_the_database_lost_keep_no_team_from_hearing_that_others_are_late(
    told: Told,
) -> None:
    one = await told.repo("acme/api")
    await told.work(one)
    await vaults.know(told.db, uuid4())
    await vaults.set_unknown(told.db, 3)
    await told.after()
    await told.db.execute("update repo set behind_since = $2, wanted_at = $2 where id = $1", one, told.now)
    assert await told.after(HOUR) == {"team": ["acme/api is late"]}
