"""Mirrors: every new snapshot lives elsewhere too, and nothing that others did there is overwritten."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from mirror.backup import sync as syncing
from mirror.core.errors import EverrefError, UsageError
from mirror.core.model import HEAD, RefName, Refs, Repo, Secret, Target
from mirror.core.rules import hosts
from mirror.core.rules import mirrors as rules
from mirror.discovery import add, choose, discover
from mirror.jobs import mirrors as pushing
from mirror.jobs.mirrors import Mirroring
from mirror.people import operator
from mirror.restore import mirroring, mirrors
from mirror.restore.mirrors import Wanted
from mirror.services import failpoints
from mirror.services.lanes import UnderWay
from mirror.store import repos
from mirror.store.people import audit, notices, teams
from mirror.store.people.teams import Team
from mirror.store.restore import mirrors as rows
from mirror.store.restore.mirrors import Claimed, MirrorTarget
from mirror.store.restore.mirrors import Mirror as Kept
from tests.parts.connected import Connected
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import MAIN, Work
from tests.parts.sshd import Sshd
from tests.test_ssh import let_in

OLD, NEW, THEIRS = (Target(char * 40) for char in (b"a", b"b", b"c"))
TOPIC = RefName(b"refs/heads/topic")


def of(**heads: Target | None) -> dict[RefName, Target]:
    return {RefName(f"refs/heads/{name}".encode()): to for name, to in heads.items() if to}


# What a push will do: one row for each way in which source, mirror and history can differ


@pytest.mark.parametrize(
    ("source", "there", "came_from_here", "options", "expected"),
    [
        pytest.param(NEW, None, (), {}, "create", id="new"),
        pytest.param(NEW, NEW, (), {}, "unchanged", id="the same"),
        pytest.param(NEW, OLD, (OLD,), {}, "update", id="moved or forced at the source"),
        pytest.param(NEW, THEIRS, (OLD,), {}, "diverged", id="changed at the mirror"),
        pytest.param(NEW, THEIRS, (OLD,), {"overwrites": True}, "update", id="changed, to be overwritten"),
        pytest.param(None, OLD, (OLD,), {}, "skipped", id="deleted, kept"),
        pytest.param(None, OLD, (OLD,), {"deletes": True}, "remove", id="deleted, deleted there"),
        pytest.param(None, THEIRS, (), {}, "skipped", id="made at the mirror"),
        pytest.param(None, THEIRS, (), {"overwrites": True}, "skipped", id="made there, no deletions"),
        pytest.param(None, THEIRS, (), {"deletes": True}, "diverged", id="made there, deletions"),
        pytest.param(
            None, THEIRS, (), {"deletes": True, "overwrites": True}, "remove", id="made there, exact copy"
        ),
    ],
)
def test_what_others_did_at_a_mirror_stays_unless_it_may_be_overwritten(
    source: Target | None,
    there: Target | None,
    came_from_here: Sequence[Target],
    options: Mapping[str, bool],
    expected: str,
) -> None:
    known = {(TOPIC, target) for target in came_from_here}
    (found,) = rules.actions(of(topic=source), of(topic=there), known, hosts.GENERIC, **options)
    assert found.action == expected
    assert (found.why or "").startswith("changed at the mirror") == (expected == "diverged" and bool(source))


def test_a_host_is_not_offered_what_it_keeps_for_itself() -> None:
    wanted: Refs = {RefName(name): NEW for name in (b"refs/heads/a", b"refs/for/main", b"refs/pull/1/head")}
    found = {
        url: [
            one.name for one in rules.actions(wanted, {}, (), hosts.profile_of(url)) if one.action == "create"
        ]
        for url in ("https://codeberg.org/a/b", "https://git.example.org/a/b")
    }
    assert found["https://codeberg.org/a/b"] == [b"refs/heads/a"]
    assert found["https://git.example.org/a/b"] == [b"refs/for/main", b"refs/heads/a"]
    assert "unprotect it there" in hosts.advice(
        "pre-receive hook declined", ["GH006: Protected branch update"]
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://GitHub.com/Acme/api", "ssh://git@github.com/acme/api.git"),
        ("https://git.example.org:443/a/b/", "https://git.example.org/a/b"),
        ("ssh://git@git.example.org:2222/./a/b", "ssh://git.example.org/a/b.git"),
        ("https://git.example.org./a/b.git/", "https://GIT.example.org/a/b"),
    ],
)
def test_a_place_is_the_same_however_it_is_written(one: str, other: str) -> None:
    assert rules.place_of(one) == rules.place_of(other)


@pytest.mark.parametrize(
    ("url", "origin", "ours"),
    [
        ("https://Everref.example./git/a/b", "https://everref.example", True),
        ("http://everref.example:443/git/a/b", "https://everref.example", True),
        ("http://localhost:8000/git/a/b", "http://127.0.0.1:8000", True),
        ("http://[::ffff:127.0.0.1]:8000/git/a/b", "http://localhost:8000", True),
        ("http://[::1]:8000/git/a/b", "http://127.0.0.1:8000", True),
        ("http://localhost:3000/a/b", "http://127.0.0.1:8000", False),
        ("https://git.everref.example/a/b", "https://everref.example", False),
        ("ssh://git@everref.example/a/b", "https://everref.example", False),
    ],
)
def test_our_own_door_is_known_by_its_other_names(url: str, origin: str, ours: bool) -> None:
    assert rules.is_ours(url, origin) is ours


def test_it_is_said_how_a_plain_repository_gets_another_default_branch() -> None:
    said = rules.default_stays(RefName(b"refs/heads/it's"))
    assert said.endswith("""git symbolic-ref HEAD 'refs/heads/it'"'"'s'""")


def test_a_pattern_names_one_address_for_each_repo() -> None:
    pattern = "https://git.example.org/{owner}-backup/{name}"
    assert rules.address_of(pattern, "acme/web/api") == "https://git.example.org/acme-web-backup/api"
    for wrong in ("https://git.example.org/all", "https://x.org/{name}/{team}", "https://x.org/{name}}"):
        with pytest.raises(UsageError, match=r"\{name\}"):
            rules.check_pattern(wrong)


# With real git


class Place:
    """A mirror of one repo, as a test speaks to it."""

    def __init__(self, mirror: Mirror, repo: Repo, kept: Kept, team: Team) -> None:
        self.mirror, self.repo, self.kept, self.team = mirror, repo, kept, team

    async def push(self) -> MirrorTarget:
        """What is due is pushed; how the mirror of this repo is doing then."""
        await Mirroring(self.mirror.services).once()
        return await self.now()

    async def now(self) -> MirrorTarget:
        found = await rows.of_repo(self.mirror.services.db, self.repo.id)
        return next(one for one in found if one.mirror.id == self.kept.id)

    async def change(self, **options: bool) -> None:
        self.kept = await mirrors.change(self.mirror.services, None, self.team, self.kept, **options)


@pytest.fixture
def placed(mirror: Mirror, work: Work) -> Callable[..., Any]:
    async def make(address: str, **wanted: Any) -> Place:
        mirror.clock.step = timedelta(milliseconds=1)
        work.commit()
        repo = (await mirror.backup(work)).repo
        team = await operator.team_of(mirror.services, repo)
        kept = await mirrors.add(mirror.services, None, team, repo, Wanted(address, **wanted))
        return Place(mirror, repo, kept, team)

    return make


def tip(work: Work, name: str = "main") -> Target:
    """Where a branch is that others push to."""
    return work.refs()[RefName(f"refs/heads/{name}".encode())]


def plain(work: Work) -> dict[RefName, Target]:
    return {name: target for name, target in work.refs().items() if name != HEAD}


async def test_every_snapshot_arrives_and_a_force_push_is_carried(
    placed: Callable[..., Any], mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    there = make_work("there.git")
    place = await placed(str(there.path))
    assert (await place.push()).state == "current"
    work.commit("main", {"again": b"1"}, parents=[])
    work.commit("topic")
    await mirror.backup(work)
    behind = await place.now()
    assert (behind.state, behind.behind) == ("behind", 1) and behind.lag(mirror.clock()) > timedelta(0)
    done = await place.push()
    assert (done.state, done.pushed, done.counts) == ("current", 2, {"created": 1, "updated": 1})
    assert plain(there) == plain(work)
    history = await rows.pushes(mirror.services.db, done.id, 10)
    assert [(one.snapshot, one.failure) for one in history] == [(2, None), (1, None)]
    assert await Mirroring(mirror.services).once() == 0  # nothing is due
    mirror.clock.now += timedelta(days=2)
    there.delete("topic")
    assert (await place.push()).counts == {"unchanged": 1, "created": 1}  # it is compared daily
    assert plain(there) == plain(work)


async def test_what_somebody_changed_at_a_mirror_is_told_and_kept_before_it_is_overwritten(
    placed: Callable[..., Any], mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    there = make_work("there.git")
    place = await placed(str(there.path))
    await place.push()
    theirs = there.commit("main", {"theirs": b"1"})
    mine = there.commit("mine")
    work.commit("main", {"ours": b"1"})
    work.commit("topic")
    await mirror.backup(work)
    done = await place.push()
    assert (done.state, done.counts["diverged"]) == ("changed", 1)
    assert done.refs[0]["why"].startswith("changed at the mirror: it holds") and tip(there) == theirs
    assert tip(there, "topic") == work.tip("topic")  # the others are pushed
    (told,) = await notices.open_of(mirror.services.db, place.team.id)
    assert told.kind == "mirror" and "changed at its mirror" in told.message
    await place.change(overwrites=True)
    done = await place.push()
    assert done.state == "current" and tip(there) == work.tip() and tip(there, "mine") == mine
    assert "is kept as #1 of" in done.notes[0]
    kept = await repos.by_url(mirror.services.db, place.team.id, str(there.path))
    assert kept and (await mirror.refs(kept, 1))[MAIN] == theirs
    assert not await notices.open_of(mirror.services.db, place.team.id)
    # What only went forward at the source between two snapshots was overwritten by nobody.
    work.commit("main", {"one": b"1"})
    there.git("fetch", "-q", work.path, "main:main")
    work.commit("main", {"two": b"1"})
    await mirror.backup(work)
    await place.change(overwrites=False)
    assert (await place.push()).state == "current" and tip(there) == work.tip()


async def test_deletions_travel_only_where_the_mirror_says_so(
    placed: Callable[..., Any], mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    there = make_work("there.git")
    place = await placed(str(there.path))
    work.commit("a")
    await mirror.backup(work)
    await place.push()
    there.commit("theirs")
    work.delete("a")
    work.commit("a/b")  # what is deleted is in its way
    await mirror.backup(work)
    done = await place.push()
    assert done.counts == {"unchanged": 1, "skipped": 2, "refused": 1} and b"refs/heads/a" in there.refs()
    await place.change(deletes=True)
    done = await place.push()
    assert set(plain(there)) == {MAIN, b"refs/heads/a/b", b"refs/heads/theirs"}
    assert done.counts["diverged"] == 1 and done.state == "changed"


async def test_a_host_that_hides_protects_and_limits_takes_the_rest(
    placed: Callable[..., Any],
    mirror: Mirror,
    work: Work,
    make_work: Callable[..., Work],
    git_server: GitServer,
) -> None:
    there = make_work("there.git")
    there.git("config", "receive.hideRefs", "refs/notes")
    there.git("config", "receive.denyNonFastForwards", "true")
    git_server.push = True
    git_server.credentials = ("token", "s3cret")
    work.note("seen", work.commit())
    place = await placed(git_server.add(there.path, "there.git"), secret=Secret("token", "s3cret"))
    done = await place.push()
    (refused,) = [one for one in done.refs if one["result"] == "refused"]
    assert done.state == "refused" and refused["why"].startswith("the host keeps this name for itself")
    work.commit("main", parents=[])
    await mirror.backup(work)
    done = await place.push()
    assert (
        "the mirror takes no force-pushes"
        in {one["name"]: one["why"] for one in done.refs}["refs/heads/main"]
    )
    # A history that is more than the host takes at once goes in parts, the oldest first.
    there.git("config", "receive.denyNonFastForwards", "false")
    there.git("config", "receive.maxInputSize", "200000")
    work.many_commits(60, size=9000)
    before = len(git_server.requests)
    await mirror.backup(work)
    done = await place.push()
    assert tip(there) == work.tip() and done.failing is None
    posts = [one for one in git_server.requests[before:] if one.path.endswith("git-receive-pack")]
    assert len([one for one in posts if one.method == "POST"]) >= 4


async def test_a_mirror_that_is_away_or_refuses_the_token_holds_up_no_backup(
    placed: Callable[..., Any],
    mirror: Mirror,
    work: Work,
    make_work: Callable[..., Work],
    git_server: GitServer,
) -> None:
    there = make_work("there.git")
    git_server.push = True
    url = git_server.add(there.path, "there.git")
    git_server.faults["there.git"] = Fault(status=503)
    place = await placed(url, secret=Secret("token", "wrong"))
    failing = await place.push()
    assert failing.state == "failing" and failing.failing and failing.failing.kind == "network"
    work.commit()
    assert (await mirror.backup(work)).snapshot.number == 2  # and nothing of the repo is red
    assert (await place.now()).failing and not await notices.open_of(mirror.services.db, place.team.id)
    assert await Mirroring(mirror.services).once() == 0  # it waits for its next try, snapshot or not
    git_server.faults.clear()
    git_server.credentials = ("token", "s3cret")
    mirror.clock.now += timedelta(hours=2)
    stopped = await place.push()
    assert stopped.state == "stopped" and stopped.due_at is None
    (told,) = await notices.open_of(mirror.services.db, place.team.id)
    assert "credentials" in told.message and "s3cret" not in told.message
    mirror.clock.now += timedelta(days=9)
    assert await Mirroring(mirror.services).once() == 0
    await mirrors.put_secret(mirror.services, None, place.team, place.kept, Secret("token", "s3cret"))
    assert (await place.push()).state == "current" and tip(there) == work.tip()
    assert not await notices.open_of(mirror.services.db, place.team.id)


@pytest.mark.parametrize("step", [one for one in failpoints.MIRROR if one != "mirror: part pushed"])
async def test_a_push_that_dies_is_made_again_by_another_worker(
    placed: Callable[..., Any],
    mirror: Mirror,
    work: Work,
    make_work: Callable[..., Work],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    there = make_work("there.git")
    work.commit("gone")
    place = await placed(str(there.path), deletes=True)
    await place.push()
    work.delete("gone")
    work.commit()
    await mirror.backup(work)

    def die(name: str) -> None:
        if name == step:
            raise ConnectionResetError("the power is gone")

    with monkeypatch.context() as broken:
        broken.setattr(failpoints, "reached", die)
        await Mirroring(mirror.services).once()
    assert (await place.now()).pushed == 1
    assert await Mirroring(mirror.services).once() == 0  # the dead run still has its claim
    mirror.clock.now += mirroring.CLAIM
    done = await place.push()
    assert (done.state, done.pushed) == ("current", 2) and plain(there) == plain(work)


async def test_a_mirror_over_ssh_uses_the_teams_key(
    placed: Callable[..., Any], mirror: Mirror, sshd: Sshd, work: Work, make_work: Callable[..., Work]
) -> None:
    there = make_work("there.git")
    await let_in(mirror, sshd)
    place = await placed(sshd.url(there.path))
    assert (await place.push()).state == "current" and plain(there) == plain(work)


async def test_no_mirror_leads_back_to_a_source_or_to_everref_itself(
    placed: Callable[..., Any], mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    other = make_work("other.git")
    other.commit()
    backed_up = (await mirror.backup(other)).repo
    place = await placed(str(make_work("there.git").path))
    services = mirror.services
    port = services.settings.port
    for address, why in (
        (str(work.path), "which is backed up"),
        (str(other.path), "which is backed up"),
        (f"http://127.0.0.1:{port}/git/everref/x", "Everref's own"),
    ):
        with pytest.raises(UsageError, match=why):
            await mirrors.add(services, None, place.team, place.repo, Wanted(address))
    with pytest.raises(UsageError, match="a mirror of"):
        await mirrors.add(services, None, place.team, backed_up, Wanted((await place.now()).url))
    entries = await audit.page(services.db, place.team.id, limit=10)
    assert [one.entry.action for one in entries] == ["mirror.add"]


@pytest.mark.parametrize("spelling", ["{host}/there.git/", "{host}/there", "HTTP://{bare}/there.git"])
async def test_one_place_is_one_mirror_however_it_is_written(
    placed: Callable[..., Any], mirror: Mirror, git_server: GitServer, spelling: str
) -> None:
    place = await placed(f"{git_server.url}/there.git")
    again = spelling.format(host=git_server.url, bare=git_server.url.partition("://")[2])
    add, services = mirrors.add, mirror.services
    with pytest.raises(UsageError, match="already"):
        await add(services, None, place.team, place.repo, Wanted(again))
    pattern = f"{git_server.url}/all/{{name}}"
    await add(services, None, place.team, None, Wanted(pattern))
    with pytest.raises(UsageError, match="already"):
        await add(services, None, place.team, None, Wanted(f"{pattern}.git"))
    assert len(await rows.of_team(services.db, place.team.id, mirror.clock())) == 2


async def test_a_mirror_is_behind_since_it_could_be_up_to_date(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    services, db = mirror.services, mirror.services.db
    mirror.clock.step = timedelta(milliseconds=1)
    work.commit()
    repo = (await mirror.backup(work)).repo
    team = await operator.team_of(services, repo)
    git_server.faults["there.git"] = Fault(status=503)

    async def lags() -> list[float]:
        """As the page of the repo, the team's and /metrics have it, in whole seconds."""
        now = mirror.clock()
        (target,), (standing,) = await rows.of_repo(db, repo.id), await rows.of_team(db, team.id, now)
        found = target.lag(now).total_seconds(), standing.lag.total_seconds()
        return [int(one) for one in (*found, (await rows.measured(db, now)).lag)]

    mirror.clock.now += timedelta(days=30)
    kept = await mirrors.add(services, None, team, repo, Wanted(f"{git_server.url}/there.git"))
    place = Place(mirror, repo, kept, team)
    assert await lags() == [0, 0, 0]  # though the snapshot is a month old
    mirror.clock.now += timedelta(hours=1)
    assert await lags() == [3600, 3600, 3600]
    await place.push()
    mirror.clock.now += timedelta(hours=2)
    assert (await place.push()).state == "failing" and await notices.open_of(db, team.id)
    await place.change(paused=True)
    assert not await notices.open_of(db, team.id)
    mirror.clock.now += timedelta(days=9)
    await place.change(deletes=True)  # it stays paused
    assert (await lags())[2] == 0
    await place.change(paused=False)
    assert await lags() == [0, 0, 0]
    failed = await place.push()  # it was away for nine days, or for a minute: nobody has tried
    assert failed.state == "failing" and failed.failing and failed.failing.failures == 1
    assert not await notices.open_of(db, team.id)
    mirror.clock.now += timedelta(hours=2)
    await place.push()
    assert await notices.open_of(db, team.id)
    await mirrors.remove(services, None, team, place.kept)
    assert not await notices.open_of(db, team.id)


async def test_a_mirror_of_a_team_has_each_repo_also_those_to_come(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer
) -> None:
    git_server.push = True
    services, team = mirror.services, Team(await teams.default(mirror.services.db), teams.DEFAULT)
    first, second = make_work("one.git"), make_work("two.git")
    for work in (first, second):
        work.commit()
    repo = (await mirror.backup(first)).repo
    one, two = (make_work(f"mirror-{name}.git") for name in ("one", "two"))
    kept = await mirrors.add(services, None, team, None, Wanted(f"{git_server.url}/mirror-{{name}}.git"))
    await Mirroring(services).once()
    assert tip(one) == first.tip()
    await mirror.backup(second)
    await Mirroring(services).once()
    assert tip(two) == second.tip()
    (standing,) = await rows.of_team(services.db, team.id, mirror.clock())
    assert (standing.targets, standing.states) == (2, {"current": 2})
    assert (await rows.measured(services.db, mirror.clock())).states["current"] == 2
    await mirrors.leave_out(services, None, team, kept, repo)
    assert await mirrors.spread(services) == 0
    first.commit()
    await mirror.backup(first)
    await Mirroring(services).once()
    assert tip(one) != first.tip()
    await mirrors.take_in(services, None, team, kept, repo)
    await Mirroring(services).once()
    assert tip(one) == first.tip()
    with pytest.raises(EverrefError, match="no such mirror"):
        await mirrors.remove(services, None, team, kept)
        await mirrors.mine(services, team, kept.id)


async def test_a_connection_makes_the_mirror_and_its_default_branch_follows(
    alongside: Connected, work: Work
) -> None:
    services = alongside.services
    account = alongside.host.add_person("octo")
    connection = await alongside.connect(account)
    work.commit("main")
    work.commit("develop")
    repo = await add.repo_for(services, str(work.path), "acme/api")
    await syncing.sync(services, repo.id)
    team = await operator.team_of(services, repo)
    await services.db.execute("update repo set team_id = $1 where id = $2", alongside.team, repo.id)
    team = await operator.team_of(services, repo)
    address = f"{alongside.app.url}/octo/{{name}}-mirror"
    with pytest.raises(EverrefError, match="cannot make repositories under nobody"):
        nobody = address.replace("/octo/", "/nobody/")
        await mirrors.add(services, None, team, None, Wanted(nobody, make=True))
    await mirrors.add(services, None, team, None, Wanted(address, make=True))
    await Mirroring(services).once()
    (one,) = await rows.of_repo(services.db, repo.id)
    assert (one.state, one.notes) == ("current", [])
    by = choose.By(alongside.person, "Alice", None)
    listed = await discover.refresh_listing(services, connection.id)
    chosen = await choose.choose_everything(services, connection.id, by, True)
    assert listed and not chosen  # no rule takes a mirror
    made = next(each for each in alongside.host.repositories if each.name == "api-mirror")
    assert made.private and made.work.refs()[MAIN] == work.tip()
    work.head("refs/heads/develop")
    await syncing.sync(services, repo.id)
    alongside.later(timedelta(minutes=1))
    await Mirroring(services).once()
    (one,) = await rows.of_repo(services.db, repo.id)
    assert made.default_branch == "develop" and "develop was made the default branch" in one.notes[0]
    # Another token of the connection ends the wait of a mirror whose credentials were refused.
    refused = "failure_class = 'credentials', failure = 'refused', failing_since = now()"
    await services.db.execute(f"update mirror_target set due_at = null, failures = 1, {refused}")
    await services.db.execute("update connection set version = version + 1")
    (one,) = await rows.of_repo(services.db, repo.id)
    assert one.state == "failing" and one.due_at is not None


async def test_a_push_that_takes_long_lets_others_begin(
    placed: Callable[..., Any], make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "time", lambda: 1000.0)
    claimed = Claimed(await (await placed(str(make_work("there.git").path))).now(), 1)
    new, old = UnderWay(claimed, 990.0), UnderWay(claimed, 900.0)
    rooms = [pushing._room(began, 2) for began in ([], [new], [new, new], [old, new], [old, old, old, old])]
    assert rooms == [2, 1, 0, 1, 0]
