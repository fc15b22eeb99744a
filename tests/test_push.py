"""A push writes what is asked, where nothing else would be lost, and tells ref by ref what became of it."""

import asyncio
import gzip
import os
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.core.errors import (
    BadCredentials,
    Blocked,
    EverrefError,
    LimitReached,
    NetworkError,
    Refused,
    RemoteGone,
)
from mirror.core.model import HEAD, ObjectFormat, RefName, Refs, Remote, Secret, Target
from mirror.core.progress import Silent
from mirror.git import address, pack
from mirror.git import push as pushing
from mirror.git.push import Answer, Destination, push
from mirror.git.run import Git, Limits
from mirror.git.view import View, scratch_view, write_refs
from tests.parts.githttp import Fault, GitServer, Request, serving
from tests.parts.packs import FORMATS, pack_of, stream
from tests.parts.repos import MAIN, ODD_NAMES, Work, fsck, objects_of, refs_of

SIDE = RefName(b"refs/heads/side")


class Heard(Silent):
    """What a person would have been told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None, str]] = []
        self.done = 0
        self.notes: list[str] = []

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.phases.append((name, total, unit))

    def advance(self, amount: int) -> None:
        self.done += amount

    def note(self, text: str) -> None:
        self.notes.append(text)


@asynccontextmanager
async def moment_of(git: Git, work: Work) -> AsyncIterator[View]:
    """A view with every object of a repository and all its refs."""
    async with scratch_view(None, work.path.parent, object_format=work.object_format) as moment:
        data = pack_of(work, sorted(objects_of(work.path)))
        await pack.index(
            git,
            moment.path,
            stream(data),
            pack.Indexing(self_contained=False, fix_thin=False, object_format=work.object_format),
        )
        await write_refs(moment.path, work.refs(), durable=False)
        yield moment


async def pushed(
    git: Git,
    work: Work,
    remote: Remote | Work,
    refs: Mapping[RefName, Target],
    *,
    expected: Mapping[RefName, Target] | None = None,
    progress: Heard | None = None,
) -> dict[RefName, Answer]:
    to = Remote(str(remote.path)) if isinstance(remote, Work) else remote
    before = set(work.path.parent.iterdir())
    try:
        async with moment_of(git, work) as moment:
            pinned = await address.check(to.url, allow_private=True)
            return await push(git, moment, Destination(to, pinned, expected), refs, progress or Heard())
    finally:
        assert {path.name for path in set(work.path.parent.iterdir()) - before} <= {"target", "argv"}


def ids(refs: Refs) -> dict[RefName, Target]:
    """The refs that hold an object id."""
    return {name: to for name, to in refs.items() if name != HEAD and not to.startswith(b"ref: ")}


def listed(work: Work) -> dict[RefName, Target]:
    return ids(work.refs())


@pytest.fixture
def target(tmp_path: Path) -> Work:
    return Work(tmp_path / "target")


# What arrives


@FORMATS
async def test_every_ref_arrives_in_an_empty_target(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    target = Work(tmp_path / "target", object_format)
    work.zoo()
    goal = {name: to for name, to in listed(work).items() if name != b"refs/stash"}
    answers = await pushed(git, work, target, goal)
    assert answers == dict.fromkeys(goal, Answer(True))
    assert listed(target) == goal
    fsck(target.path)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_every_ref_arrives_over_smart_http(
    tmp_path: Path, work: Work, target: Work, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.zoo()
    goal = {name: to for name, to in listed(work).items() if name != b"refs/stash"}
    async with serving(tmp_path, push=True, tls=tls, credentials=("alice", "pass:word")) as server:
        (tmp_path / "ca.pem").write_bytes(server.ca_pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        remote = Remote(f"{server.url}/target", Secret("alice", "pass:word"))
        answers = await pushed(Git("git", str(tmp_path)), work, remote, goal)
    assert answers == dict.fromkeys(goal, Answer(True))
    assert listed(target) == goal


async def test_a_second_push_of_the_same_changes_nothing(git: Git, work: Work, target: Work) -> None:
    work.commit()
    await pushed(git, work, target, listed(work))
    assert await pushed(git, work, target, listed(work)) == {MAIN: Answer(True)}
    assert await pushed(git, work, target, listed(work), expected=listed(target)) == {MAIN: Answer(True)}


async def test_what_else_the_target_has_stays(git: Git, work: Work, target: Work) -> None:
    work.commit()
    theirs = target.commit("theirs")
    await pushed(git, work, target, listed(work))
    assert listed(target) == {MAIN: work.tip(), RefName(b"refs/heads/theirs"): theirs}
    await pushed(git, work, target, listed(work), expected=listed(target))
    assert listed(target) == {MAIN: work.tip(), RefName(b"refs/heads/theirs"): theirs}


async def test_only_the_refs_that_are_asked_for_are_written(git: Git, work: Work, target: Work) -> None:
    work.commit()
    work.commit("side")
    assert await pushed(git, work, target, {SIDE: work.tip("side")}) == {SIDE: Answer(True)}
    assert listed(target) == {SIDE: work.tip("side")}
    assert await pushed(git, work, target, {}) == {}


async def test_a_ref_arrives_under_the_name_that_is_asked_for(git: Git, work: Work, target: Work) -> None:
    name = RefName(b"refs/archive/pull/1/head")
    tip = work.commit("refs/pull/1/head")
    assert await pushed(git, work, target, {name: tip}) == {name: Answer(True)}
    assert listed(target) == {name: tip}


async def test_thousands_of_odd_names_fit(git: Git, work: Work, target: Work) -> None:
    """Far more bytes of names than argv could hold."""
    tip = work.commit()
    names = [RefName(b"refs/heads/\xff%s-%d" % (b"n" * 200, number)) for number in range(10_000)]
    goal = dict.fromkeys([*names, *(name for name in ODD_NAMES if name != b"refs/stash")], tip)
    answers = await pushed(git, work, target, goal)
    assert answers == dict.fromkeys(goal, Answer(True))
    assert listed(target) == goal


async def test_progress_and_remarks_are_passed_on(git: Git, work: Work, target: Work) -> None:
    hook(target, "post-receive", "printf 'welcome\\033[31m home\\n'")
    work.commit()
    heard = Heard()
    await pushed(git, work, target, listed(work), progress=heard)
    assert heard.phases == [("sending", 3, "objects")]
    assert heard.done == 3
    assert heard.notes == ["the target says: welcome [31m home"]


# What is not overwritten


async def test_without_leave_nothing_is_overwritten(git: Git, work: Work, target: Work) -> None:
    work.commit()
    work.commit("side")
    work.tag("v1")
    theirs = target.commit("main", {"theirs": b"1\n"})
    target.tag("v1")
    answers = await pushed(git, work, target, listed(work))
    tag = RefName(b"refs/tags/v1")
    assert answers == {
        MAIN: Answer(False, "it would be overwritten"),
        SIDE: Answer(True),
        tag: Answer(False, "already exists"),
    }
    assert listed(target) == {MAIN: theirs, SIDE: work.tip("side"), tag: theirs}


async def test_with_leave_what_was_listed_is_overwritten(git: Git, work: Work, target: Work) -> None:
    work.commit()
    work.commit("side")
    work.tag("v1")
    target.commit("main", {"theirs": b"1\n"})
    target.tag("v1", message="theirs")
    other = target.commit("other")
    answers = await pushed(git, work, target, listed(work), expected=listed(target))
    assert answers == dict.fromkeys(listed(work), Answer(True))
    assert listed(target) == {**listed(work), RefName(b"refs/heads/other"): other}


async def test_what_moved_since_it_was_listed_is_not_overwritten(git: Git, work: Work, target: Work) -> None:
    for name in ("main", "side", "new"):
        work.commit(name)
    target.commit("main", {"theirs": b"1\n"})
    target.commit("side", {"theirs": b"2\n"})
    known = listed(target)
    moved = target.commit("main", {"theirs": b"3\n"})
    arrived = target.commit("new", {"theirs": b"4\n"})
    answers = await pushed(git, work, target, listed(work), expected=known)
    new = RefName(b"refs/heads/new")
    meanwhile = Answer(False, "it has changed at the target meanwhile")
    assert answers == {MAIN: meanwhile, SIDE: Answer(True), new: meanwhile}
    assert listed(target) == {MAIN: moved, SIDE: work.tip("side"), new: arrived}


async def test_many_refs_are_overwritten_at_once(git: Git, work: Work, target: Work) -> None:
    goal = dict.fromkeys((RefName(b"refs/heads/%04d" % n) for n in range(2000)), work.commit())
    target.commit("main", {"theirs": b"1\n"})
    target.update(dict.fromkeys(goal, target.tip()))
    answers = await pushed(git, work, target, goal, expected=listed(target))
    assert answers == dict.fromkeys(goal, Answer(True))
    assert goal.items() <= listed(target).items()


# What the target refuses


def hook(target: Work, name: str, script: str) -> None:
    file = target.git_dir / "hooks" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


async def test_a_hook_refuses_one_ref(git: Git, work: Work, target: Work) -> None:
    hook(target, "update", '[ "$1" != refs/heads/main ] || { echo "refs/heads/main is protected"; exit 1; }')
    work.commit()
    work.commit("side")
    answers = await pushed(git, work, target, listed(work))
    assert answers == {
        MAIN: Answer(False, "hook declined: refs/heads/main is protected"),
        SIDE: Answer(True),
    }
    assert listed(target) == {SIDE: work.tip("side")}


async def test_a_hook_refuses_everything(git: Git, work: Work, target: Work) -> None:
    hook(target, "pre-receive", "exit 1")
    work.commit()
    work.commit("side")
    answers = await pushed(git, work, target, listed(work))
    assert answers == dict.fromkeys([MAIN, SIDE], Answer(False, "pre-receive hook declined"))
    assert listed(target) == {}


async def test_names_that_hosts_refuse_are_told(git: Git, work: Work, target: Work) -> None:
    target.git("config", "receive.hideRefs", "refs/pull")
    for name in ("refs/stash", "refs/pull/1/head", "refs/heads/main"):
        work.commit(name)
    answers = await pushed(git, work, target, listed(work))
    assert answers[RefName(b"refs/stash")].ok is False
    assert answers[RefName(b"refs/stash")].why.startswith("funny refname")
    assert answers[RefName(b"refs/pull/1/head")] == Answer(False, "deny updating a hidden ref")
    assert answers[MAIN] == Answer(True)


async def test_a_branch_that_is_checked_out_is_refused(git: Git, tmp_path: Path, work: Work) -> None:
    target = Work(tmp_path / "target", bare=False)
    target.commit("main", {"theirs": b"1\n"})
    work.commit()
    answers = await pushed(git, work, target, listed(work), expected=listed(target))
    assert answers[MAIN].ok is False
    assert answers[MAIN].why.startswith("branch is currently checked out")


async def test_a_directory_and_a_file_of_one_name_are_told(git: Git, work: Work, target: Work) -> None:
    target.commit("a")
    below = RefName(b"refs/heads/a/b")
    work.commit("a/b")
    work.commit("side")
    answers = await pushed(git, work, target, listed(work))
    assert (answers[below].ok, answers[SIDE].ok) == (False, True)
    assert answers[below].why


async def test_another_object_format_is_refused(git: Git, tmp_path: Path, work: Work) -> None:
    target = Work(tmp_path / "target", "sha256")
    work.commit()
    with pytest.raises(Refused, match="uses another object format"):
        await pushed(git, work, target, listed(work))


async def test_a_target_that_is_gone(git: Git, tmp_path: Path, work: Work) -> None:
    work.commit()
    with pytest.raises(RemoteGone, match="the repository does not exist"):
        await pushed(git, work, Remote(str(tmp_path / "nowhere")), listed(work))


async def test_a_repository_of_another_user_is_left_alone(
    git: Git, work: Work, target: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hooks would run with our rights."""
    work.commit()
    if os.geteuid() == 0:
        for path in (target.path, *target.path.rglob("*")):
            os.chown(path, 12345, 12345)
    else:
        git._environment["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"
    with pytest.raises(Refused, match="belongs to another user"):
        await pushed(git, work, target, listed(work))
    assert not (target.path / "refs/heads/main").exists()


# What goes wrong over HTTP


async def failed(git: Git, work: Work, server: GitServer, *, secret: Secret | None = None) -> EverrefError:
    work.commit()
    with pytest.raises(EverrefError) as error:
        await pushed(git, work, Remote(f"{server.url}/target", secret), listed(work))
    assert "127.0.0.1" in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, BadCredentials),
        (403, BadCredentials),
        (404, RemoteGone),
        (413, Refused),
        (451, Blocked),
        (301, Refused),
        (429, LimitReached),
        (503, NetworkError),
    ],
)
@pytest.mark.parametrize("phase", ["info/refs", "target/git-receive-pack"])
async def test_each_refusal_of_a_host_has_its_class(
    git: Git,
    work: Work,
    target: Work,
    git_server: GitServer,
    status: int,
    kind: type[EverrefError],
    phase: str,
) -> None:
    moved = {"Location": "http://127.0.0.1:9/elsewhere"} if status == 301 else {}
    git_server.faults[phase] = Fault(status=status, headers=moved)
    if phase != "info/refs" and status == 503:  # it may have been done all the same
        work.commit()
        answers = await pushed(git, work, Remote(f"{git_server.url}/target"), listed(work))
        assert answers[MAIN].ok is None
    else:
        assert isinstance(await failed(git, work, git_server), kind)
    assert listed(target) == {}


async def test_wrong_credentials_are_told_and_never_shown(
    git: Git, work: Work, target: Work, tmp_path: Path
) -> None:
    async with serving(tmp_path, push=True, credentials=("alice", "right")) as server:
        error = await failed(git, work, server, secret=Secret("alice", "wr0ng-s3cret"))
        assert isinstance(error, BadCredentials)
        assert "wr0ng" not in str(error)
        error = await failed(git, work, server)
        assert isinstance(error, BadCredentials)


async def test_a_host_that_takes_no_push(git: Git, work: Work, target: Work, tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert isinstance(await failed(git, work, server), BadCredentials)


async def test_nobody_listening_is_a_network_error(git: Git, work: Work, git_server: GitServer) -> None:
    git_server.stop()
    work.commit()
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1 could not be reached or stopped answering"):
        await pushed(git, work, Remote(f"{git_server.url}/target"), listed(work))


async def test_a_connection_that_breaks_leaves_the_outcome_open(
    git: Git, work: Work, target: Work, git_server: GitServer
) -> None:
    """The target has it, and we were not told: the caller lists it again."""
    git_server.faults["target/git-receive-pack"] = Fault(cut_after=1)
    work.commit()
    work.commit("side")
    answers = await pushed(git, work, Remote(f"{git_server.url}/target"), listed(work))
    assert {name: answer.ok for name, answer in answers.items()} == {MAIN: None, SIDE: None}
    assert all("connection broke" in answer.why for answer in answers.values())


async def test_only_the_checked_address_is_dialled(
    git: Git, work: Work, target: Work, git_server: GitServer
) -> None:
    """The name means another place by now, or has never meant any: what was judged is what is dialled."""
    work.commit()
    remote = Remote(f"http://git.invalid:{git_server.port}/target")
    async with moment_of(git, work) as moment:
        answers = await push(git, moment, Destination(remote, ["127.0.0.1"]), listed(work), Heard())
    assert answers == {MAIN: Answer(True)}


async def test_neither_names_nor_addresses_nor_secrets_are_in_argv(
    git: Git, tmp_path: Path, work: Work, target: Work, git_server: GitServer
) -> None:
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path / "argv"))}\nexec git "$@"\n')
    spy.chmod(0o755)
    work.commit("secret-branch")
    remote = Remote(f"{git_server.url}/target", Secret("alice", "s3cret"))
    await pushed(Git(str(spy), str(tmp_path)), work, remote, listed(work), expected={})
    words = (tmp_path / "argv").read_text()
    assert "push" in words
    assert not [word for word in ("secret-branch", "s3cret", "127.0.0.1", "YWxpY2U6") if word in words]


async def test_a_cancelled_push_leaves_nothing_behind(
    git: Git, work: Work, target: Work, git_server: GitServer
) -> None:
    git_server.faults["info/refs"] = Fault(silent=True)
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    class Requests(list[Request]):
        def append(self, request: Request) -> None:
            loop.call_soon_threadsafe(asked.set)

    git_server.requests = Requests()
    work.commit()
    async with moment_of(git, work) as moment:
        before = sorted(moment.path.parent.iterdir())
        running = asyncio.create_task(
            push(git, moment, Destination(Remote(f"{git_server.url}/target"), []), listed(work), Heard())
        )
        await asked.wait()
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert sorted(moment.path.parent.iterdir()) == before


async def test_a_push_that_takes_too_long_is_stopped(
    git: Git, work: Work, target: Work, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "DAY", 0.2)
    git_server.faults["info/refs"] = Fault(silent=True)
    work.commit()
    remote = Remote(f"{git_server.url}/target")
    async with moment_of(git, work) as moment:
        with pytest.raises(LimitReached, match=r"git push took longer than 0\.2 s and was stopped"):
            await push(git, moment, Destination(remote, []), listed(work), Heard())


async def test_refs_of_a_view_are_left_as_they_were(git: Git, work: Work, target: Work) -> None:
    work.commit()
    target.commit("main", {"theirs": b"1\n"})
    async with moment_of(git, work) as moment:
        remote = Remote(str(target.path))
        before = refs_of(moment.path)
        await push(git, moment, Destination(remote, [], listed(target)), listed(work), Heard())
        assert refs_of(moment.path) == before


async def test_a_target_that_takes_next_to_nothing_is_given_up(
    git: Git, work: Work, target: Work, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that read a little above git's low-speed limit held its slot for a day."""
    monkeypatch.setattr(pushing, "PUSHING", 1.0)
    git_server.faults["/git-receive-pack"] = Fault(hang_after=0)
    work.commit()
    answers = await pushed(git, work, Remote(f"{git_server.url}/target"), listed(work))
    assert {answer.ok for answer in answers.values()} == {None}
    assert all(
        "it was given up because the target accepted too little" in answer.why for answer in answers.values()
    )


async def test_what_was_sent_makes_the_time_of_a_push_longer() -> None:
    listening = pushing._Listening(Heard())
    async with listening.in_time():
        listening.hear(b"Writing objects:  50% (1/2)\rWriting objects: 100% (2/2), 2.50 MiB | 1.00 MiB/s\r")
        assert listening._limit and listening._limit.when() == pytest.approx(
            listening._began + pushing.PUSHING + 2.5 * (1 << 20) / pushing.LEAST_SPEED
        )


async def test_git_asks_for_nothing_compressed_and_what_comes_so_ends_at_its_memory(
    work: Work, target: Work, git_server: GitServer, tmp_path: Path
) -> None:
    """183 KB of gzip cost 1.24 GiB."""
    work.commit()
    remote = Remote(f"{git_server.url}/target", Secret("alice", "secret"))
    git = Git("git", str(tmp_path), limits=Limits(memory=256 << 20))
    assert (await pushed(git, work, remote, listed(work)))[MAIN].ok
    kinds = [request.headers["accept-encoding"] for request in git_server.requests]
    assert len(kinds) > 1 and set(kinds) == {"identity"}
    assert git_server.requests[-1].headers["authorization"].startswith("Basic ")
    bomb = gzip.compress(b"001f# service=git-receive-pack\n0000" + bytes(400 << 20))
    headers = {"Content-Type": "application/x-git-receive-pack-advertisement", "Content-Encoding": "gzip"}
    git_server.faults["info/refs"] = Fault(status=200, body=bomb, headers=headers)
    with pytest.raises((LimitReached, NetworkError, Refused)):
        await pushed(git, work, remote, listed(work))
