"""A remote is listed and fetched from as it is, and what is wrong with it is said in one line."""

import asyncio
import gzip
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from mirror.core.errors import (
    BadCredentials,
    Blocked,
    Corrupt,
    EverrefError,
    LimitReached,
    Moved,
    NetworkError,
    RateLimited,
    Refused,
    RemoteGone,
)
from mirror.core.formats import pktline
from mirror.core.model import HEAD, SYMBOLIC, Listing, ObjectFormat, RefName, Refs, Remote, Secret, Target
from mirror.core.progress import Meter, Silent
from mirror.git import upstream
from mirror.git.run import Git
from mirror.git.upstream import NotOurRef, Upstream, connect
from tests.parts.githttp import Fault, GitServer, serving
from tests.parts.repos import Work, fsck, objects_of, refs_of, run_git

MAIN = RefName(b"refs/heads/main")
NOWHERE = Target(b"d" * 40)
ANSWER = {"Content-Type": "application/x-git-upload-pack-result"}

Reach = Callable[[Work], AbstractAsyncContextManager[Upstream]]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git("git", str(tmp_path))


@pytest.fixture(params=["version 2", "version 0", "local"])
def reach(request: pytest.FixtureRequest, git: Git, git_server: GitServer) -> Reach:
    """Every way to a repository."""
    git_server.protocol = 0 if request.param == "version 0" else 2
    local = request.param == "local"

    def to(work: Work) -> AbstractAsyncContextManager[Upstream]:
        url = str(work.path) if local else git_server.add(work.path, "remote")
        return connect(git, Remote(url), allow_private=True)

    return to


def over_http(
    git: Git, server: GitServer, secret: Secret | None = None
) -> AbstractAsyncContextManager[Upstream]:
    return connect(git, Remote(f"{server.url}/remote.git", secret), allow_private=True)


def ids(refs: Refs) -> list[Target]:
    return [target for target in refs.values() if not target.startswith(SYMBOLIC)]


async def pack_of(source: Upstream, wants: list[Target], haves: list[Target] | None = None) -> bytes:
    return b"".join([chunk async for chunk in source.fetch(wants, haves or [], Silent())])


# Listing


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
async def test_every_ref_is_listed_as_it_is(
    reach: Reach, git_server: GitServer, make_work: Callable[..., Work], object_format: ObjectFormat
) -> None:
    work = make_work("zoo", object_format)
    work.zoo()
    async with reach(work) as source:
        listing = await source.ls_refs()
    wanted = dict(work.refs())
    if git_server.protocol == 0:  # which tells of no symbolic ref but HEAD
        wanted[RefName(b"refs/remotes/origin/HEAD")] = work.tip()
    assert (listing.refs, listing.object_format) == (wanted, object_format)


async def test_a_hundred_thousand_refs_are_listed(reach: Reach, work: Work) -> None:
    work.commit()
    work.many_refs(100_000)
    async with reach(work) as source:
        assert (await source.ls_refs()).refs == work.refs()


async def test_a_repository_without_commits_has_no_refs(
    reach: Reach, git_server: GitServer, make_work: Callable[..., Work]
) -> None:
    work, other = make_work("one"), make_work("two", "sha256")
    async with reach(work) as source:
        listing = await source.ls_refs()
        assert listing == await source.ls_refs()
    if git_server.protocol == 0:  # which says nothing at all then
        assert listing == Listing({}, "sha1")
        return
    unborn = {HEAD: Target(b"ref: refs/heads/main")}
    assert listing == Listing(unborn, "sha1")
    async with reach(other) as source:
        assert await source.ls_refs() == Listing(unborn, "sha256")


async def test_heads_branch_is_kept_also_when_it_is_unborn(git: Git, work: Work) -> None:
    work.commit()
    work.head("refs/heads/none/such")
    async with connect(git, Remote(str(work.path)), allow_private=True) as source:
        refs = (await source.ls_refs()).refs
    assert refs == {HEAD: b"ref: refs/heads/none/such", MAIN: work.tip()}


async def test_a_detached_head_is_an_id(reach: Reach, work: Work) -> None:
    first = work.commit()
    work.commit()
    work.head(first)
    async with reach(work) as source:
        assert (await source.ls_refs()).refs == {HEAD: first, MAIN: work.tip()}


async def test_a_symbolic_ref_to_what_is_hidden_is_an_id(reach: Reach, work: Work) -> None:
    work.commit("secret/main")
    work.symbolic("refs/heads/alias", "secret/main")
    work.head("secret/main")
    work.git("config", "transfer.hideRefs", "refs/heads/secret")
    async with reach(work) as source:
        tip = work.tip("secret/main")
        assert (await source.ls_refs()).refs == {HEAD: tip, RefName(b"refs/heads/alias"): tip}


async def test_listing_again_sees_what_moved(reach: Reach, work: Work) -> None:
    work.commit()
    async with reach(work) as source:
        before = await source.ls_refs()
        work.commit()
        after = await source.ls_refs()
    assert (before.refs[MAIN], after.refs[MAIN]) != (after.refs[MAIN], before.refs[MAIN])
    assert after.refs == work.refs()


async def test_a_work_tree_is_as_good_as_a_bare_repository(git: Git, make_work: Callable[..., Work]) -> None:
    work = make_work("tree", bare=False)
    work.commit()
    work.git("worktree", "add", "--detach", "../linked")
    for path in (work.path, work.path / ".git", work.path.parent / "linked"):
        async with connect(git, Remote(str(path)), allow_private=True) as source:
            assert (await source.ls_refs()).refs[MAIN] == work.tip()


async def test_somebody_elses_repository_is_read_when_it_is_named(git: Git, work: Work) -> None:
    work.commit()
    if os.geteuid() == 0:
        os.chown(work.path, 12345, 12345)
    async with connect(git, Remote(str(work.path)), allow_private=True) as source:
        assert (await source.ls_refs()).refs == work.refs()


# Fetching


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
async def test_what_is_fetched_is_the_whole_repository(
    reach: Reach, make_work: Callable[..., Work], object_format: ObjectFormat
) -> None:
    work, copy = make_work("zoo", object_format), make_work("copy", object_format)
    work.zoo()
    async with reach(work) as source:
        refs = (await source.ls_refs()).refs
        pack = await pack_of(source, ids(refs))
    copy.git("index-pack", "--stdin", "--check-self-contained-and-connected", stdin=pack)
    assert objects_of(copy.path, everything=True) == objects_of(work.path)


async def test_with_haves_only_the_rest_is_fetched_as_a_thin_pack(
    reach: Reach, make_work: Callable[..., Work]
) -> None:
    work, copy = make_work("work"), make_work("copy")
    old = work.commit(files={"large": os.urandom(100_000)})
    run_git("-C", copy.path, "fetch", "-q", work.path, "main")
    new = work.commit(files={"large": run_git("-C", work.path, "show", "main:large") + b"one line more\n"})
    async with reach(work) as source:
        await source.ls_refs()
        pack = await pack_of(source, [new], [NOWHERE, old])
    assert len(pack) < 1000
    copy.git("index-pack", "--stdin", "--fix-thin", stdin=pack)
    assert new in objects_of(copy.path, everything=True)


@pytest.mark.parametrize("known", [b"multi_ack_detailed", b"multi_ack"])
async def test_a_server_that_wants_multi_ack_is_fetched_from(
    git: Git, git_server: GitServer, make_work: Callable[..., Work], known: bytes
) -> None:
    """Azure DevOps speaks version 0 and refuses clients that do not say multi_ack (TF401041)."""
    work, copy = make_work("remote.git"), make_work("copy")
    old = work.commit(files={"large": os.urandom(100_000)})
    run_git("-C", copy.path, "fetch", "-q", work.path, "main")
    new = work.commit(files={"large": run_git("-C", work.path, "show", "main:large") + b"one line more\n"})
    git_server.protocol, git_server.demands = 0, known
    async with over_http(git, git_server) as source:
        await source.ls_refs()
        source._capabilities = {
            key: b"" for key in source._capabilities if b"multi" not in key or key == known
        }
        assert len(await pack_of(source, [new], [])) > 100_000
        pack = await pack_of(source, [new], [NOWHERE, old])
    assert len(pack) < 1000
    copy.git("index-pack", "--stdin", "--fix-thin", stdin=pack)
    assert new in objects_of(copy.path, everything=True)


async def test_thousands_of_ids_are_wanted_at_once(reach: Reach, make_work: Callable[..., Work]) -> None:
    work, copy = make_work("work"), make_work("copy")
    work.many_commits(3000, size=10)
    commits = [Target(line) for line in work.git("rev-list", "main").split()]
    work.many_refs(3000, targets=commits)
    async with reach(work) as source:
        refs = (await source.ls_refs()).refs
        pack = await pack_of(source, ids(refs))
    copy.git("index-pack", "--stdin", stdin=pack)
    assert objects_of(copy.path, everything=True) == objects_of(work.path)


async def test_fetching_and_listing_can_be_done_again(reach: Reach, work: Work) -> None:
    tip = work.commit()
    async with reach(work) as source:
        first = await pack_of(source, [tip])
        await source.ls_refs()
        assert await pack_of(source, [tip, tip]) == first


async def test_an_id_that_is_gone_is_told_apart(reach: Reach, work: Work) -> None:
    work.commit()
    async with reach(work) as source:
        await source.ls_refs()
        with pytest.raises(NotOurRef, match="changed while it was being read; try again"):
            await pack_of(source, [NOWHERE])
        assert await pack_of(source, [work.tip()])


async def test_a_shallow_copy_is_refused(
    reach: Reach, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    work = make_work("whole")
    for _ in range(3):
        work.commit()
    run_git("clone", "-q", "--mirror", "--depth=1", work.path.as_uri(), tmp_path / "shallow")
    shallow = make_work("shallow")
    async with reach(shallow) as source:
        with pytest.raises(Corrupt, match="is a shallow copy"):
            await source.ls_refs()
            await pack_of(source, [work.tip()])


async def test_a_repository_that_lacks_an_object_is_corrupt(reach: Reach, work: Work) -> None:
    tip = work.commit(files={"a": b"some content\n"})
    blob = work.blob(b"some content\n").decode()
    (work.path / "objects" / blob[:2] / blob[2:]).unlink()
    async with reach(work) as source:
        await source.ls_refs()
        with pytest.raises((Corrupt, NetworkError)):
            await pack_of(source, [tip])


async def test_a_local_repository_with_a_broken_list_of_refs_is_corrupt(git: Git, work: Work) -> None:
    work.commit()
    (work.path / "packed-refs").write_bytes(b"garbage\n")
    async with connect(git, Remote(str(work.path)), allow_private=True) as source:
        with pytest.raises(Corrupt, match="unexpected line in"):
            await source.ls_refs()


async def test_a_fetch_that_is_given_up_leaves_nothing_running(reach: Reach, work: Work) -> None:
    work.many_commits(12, size=1 << 19)
    with tasks_begun_here() as tasks:
        async with reach(work) as source:
            async with aclosing(source.fetch([work.tip()], [], Silent())) as chunks:
                async for _ in chunks:
                    break
            left_open = source.fetch([work.tip()], [], Silent())
            await anext(left_open)
    assert all(task.done() for task in tasks)
    await left_open.aclose()


@contextmanager
def tasks_begun_here() -> Iterator[list[asyncio.Task[Any]]]:
    """Every task that this block begins, and those begin in turn; of what else runs in this loop, none."""
    begun: list[asyncio.Task[Any]] = []
    here = ContextVar("here", default=False)
    loop = asyncio.get_running_loop()
    usual = loop.get_task_factory()

    def begin(loop: asyncio.AbstractEventLoop, work: Any, **how: Any) -> Any:
        task: Any = usual(loop, work, **how) if usual else asyncio.Task(work, loop=loop, **how)
        if here.get():
            begun.append(task)
        return task

    loop.set_task_factory(begin)
    token = here.set(True)
    try:
        yield begun
    finally:
        here.reset(token)
        loop.set_task_factory(usual)


async def test_what_the_remote_says_beside_the_pack_is_passed_on(
    git: Git, git_server: GitServer, work: Work
) -> None:
    work.commit()
    said: list[str] = []

    class Listens(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    body = pktline.encode([b"packfile\n", b"\2maintenance \x1b[31mtonight\n", b"\1PACK", pktline.Mark.FLUSH])
    git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
    async with over_http(git, git_server) as source:
        assert [chunk async for chunk in source.fetch([NOWHERE], [], Listens())] == [b"PACK"]
    assert said == ["the remote says: maintenance  [31mtonight"]


# Credentials


async def test_credentials_open_what_they_are_for(git: Git, work: Work, tmp_path: Path) -> None:
    work.commit()
    async with serving(tmp_path, credentials=("alice", "p\u00e4ss:word")) as server:
        async with over_http(git, server, Secret("alice", "p\u00e4ss:word")) as source:
            assert (await source.ls_refs()).refs == work.refs()
            assert await pack_of(source, [work.tip()])
        for secret, words in (
            (None, "requires credentials, or does not exist"),
            (Secret("a", "canary"), "enter new ones"),
        ):
            async with over_http(git, server, secret) as source:
                with pytest.raises(BadCredentials, match=words) as error:
                    await source.ls_refs()
                assert "canary" not in str(error.value) + repr(error.value)


async def test_a_redirect_is_refused_and_takes_no_credentials_along(
    git: Git, git_server: GitServer, tmp_path: Path
) -> None:
    async with serving(tmp_path) as elsewhere:
        location = f"http://bob:canary@127.0.0.1:{elsewhere.port}/new/name.git/info/refs?token=canary"
        for status in (301, 302, 307, 308):
            git_server.faults["info/refs"] = Fault(status=status, headers={"Location": location})
            async with over_http(git, git_server, Secret("alice", "canary")) as source:
                with pytest.raises(
                    Moved, match=r"has moved to .*/new/name.git; .* add that address"
                ) as error:
                    await source.ls_refs()
                assert error.value.address == f"http://127.0.0.1:{elsewhere.port}/new/name.git"
                assert "canary" not in str(error.value)
        assert elsewhere.requests == []


# What is wrong with a host


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (400, "", Refused),
        (401, "", BadCredentials),
        (403, "", Blocked),
        (403, "Repository access blocked", Blocked),
        (403, "API rate limit exceeded", RateLimited),
        (404, "", RemoteGone),
        (410, "", RemoteGone),
        (408, "", NetworkError),
        (429, "", RateLimited),
        (451, "", Blocked),
        (500, "", NetworkError),
        (502, "<html>", NetworkError),
        (503, "", NetworkError),
        (204, "", Refused),
        (302, "", Moved),
    ],
)
async def test_every_status_has_its_class(
    git: Git, git_server: GitServer, status: int, text: str, error: type[EverrefError]
) -> None:
    for piece in ("info/refs", "/git-upload-pack"):
        git_server.faults = {piece: Fault(status=status, body=text.encode())}
        Work(git_server.root / f"{status}-{piece[1:5]}.git")
        async with connect(
            git, Remote(f"{git_server.url}/{status}-{piece[1:5]}.git"), allow_private=True
        ) as source:
            with pytest.raises(error) as raised:
                await source.ls_refs()
            assert type(raised.value) is error
            assert "\n" not in str(raised.value)


async def test_forbidden_with_credentials_is_a_matter_of_credentials(git: Git, git_server: GitServer) -> None:
    git_server.faults["info/refs"] = Fault(status=403)
    async with over_http(git, git_server, Secret("alice", "canary")) as source:
        with pytest.raises(BadCredentials, match="not allowed to do this"):
            await source.ls_refs()


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain", "application/octet-stream"])
async def test_a_page_is_no_empty_repository(git: Git, git_server: GitServer, work: Work, kind: str) -> None:
    git_server.faults["info/refs"] = Fault(status=200, body=b"<html>hello", headers={"Content-Type": kind})
    async with over_http(git, git_server) as source:
        with pytest.raises(Refused, match="is not a git repository address"):
            await source.ls_refs()


async def test_an_empty_answer_is_no_empty_repository(git: Git, git_server: GitServer, work: Work) -> None:
    git_server.faults["info/refs"] = Fault(
        status=200, headers={"Content-Type": "application/x-git-upload-pack-advertisement"}
    )
    async with over_http(git, git_server) as source:
        with pytest.raises(Refused, match="is not a git repository address"):
            await source.ls_refs()


@pytest.mark.parametrize("after", [0, 4, 60, 1000])
async def test_a_connection_that_breaks_is_no_short_list(
    git: Git, git_server: GitServer, work: Work, after: int
) -> None:
    work.commit()
    work.many_refs(100)
    for piece in ("info/refs", "/git-upload-pack"):
        git_server.faults = {piece: Fault(cut_after=after)}
        async with over_http(git, git_server) as source:
            if piece == "info/refs" and after == 1000:
                continue  # it is not that long
            with pytest.raises(NetworkError, match="closed the connection"):
                await source.ls_refs()


async def test_an_answer_that_ends_too_early_is_no_short_list(
    git: Git, git_server: GitServer, work: Work
) -> None:
    line = b"%b refs/heads/main\n" % work.commit()
    for body in (b"", pktline.encode([line]), pktline.encode([line, line])[:-3]):
        git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
        async with over_http(git, git_server) as source:
            with pytest.raises((NetworkError, Corrupt), match="in mid-answer|ends too early"):
                await source.ls_refs()


@pytest.mark.parametrize("after", [0, 30, 100_000])
async def test_a_pack_that_breaks_off_is_an_error(
    reach: Reach, git: Git, git_server: GitServer, work: Work, after: int
) -> None:
    work.many_commits(3, size=100_000)
    async with over_http(git, git_server) as source:
        refs = (await source.ls_refs()).refs
        git_server.faults["/git-upload-pack"] = Fault(cut_after=after)
        with pytest.raises(NetworkError, match="closed the connection"):
            await pack_of(source, ids(refs))
        git_server.faults.clear()
        assert await pack_of(source, ids(refs))


async def test_a_pack_without_its_end_is_an_error(git: Git, git_server: GitServer, work: Work) -> None:
    body = pktline.encode([b"packfile\n", b"\1PACK"])
    git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
    async with over_http(git, git_server) as source:
        with pytest.raises(NetworkError, match="in mid-answer"):
            await pack_of(source, [NOWHERE])


@pytest.mark.parametrize(
    "fault",
    [Fault(silent=True), Fault(hang_after=0), Fault(hang_after=50)],
    ids=["no answer", "no body", "half an answer"],
)
async def test_a_host_that_falls_silent_is_given_up(
    git: Git, git_server: GitServer, work: Work, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    monkeypatch.setattr(upstream, "SILENCE", 0.2)
    for piece in ("info/refs", "/git-upload-pack"):
        git_server.faults = {piece: fault}
        async with over_http(git, git_server) as source:
            with pytest.raises(NetworkError, match="has stopped answering; try again later"):
                await source.ls_refs()


async def test_a_look_ends_in_time_however_little_drips(
    git: Git, git_server: GitServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    monkeypatch.setattr(upstream, "LOOK", 0.3)
    for piece in ("info/refs", "/git-upload-pack"):
        git_server.faults = {piece: Fault(rate=20)}
        async with over_http(git, git_server) as source:
            with pytest.raises(NetworkError, match=r"did not list its refs within 0.3 s; try again later"):
                await source.ls_refs()
            with pytest.raises(NetworkError, match="did not list its refs"):
                source._capabilities = {}
                git_server.faults = {"info/refs": Fault(rate=20)}
                await pack_of(source, [work.tip()])


async def test_a_local_repository_that_falls_silent_is_given_up(
    git: Git, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    monkeypatch.setattr(upstream, "SILENCE", 0.0)
    async with connect(git, Remote(str(work.path)), allow_private=True) as source:
        with pytest.raises(NetworkError, match="has stopped answering; try again later"):
            await source.ls_refs()


async def test_a_pack_that_drips_is_given_up(
    git: Git, git_server: GitServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.many_commits(3, size=100_000)
    monkeypatch.setattr(upstream, "RATES", ((1, 60.0), (1 << 30, 0.2)))
    async with over_http(git, git_server) as source:
        refs = (await source.ls_refs()).refs
        git_server.faults["/git-upload-pack"] = Fault(rate=1 << 14)
        with pytest.raises(NetworkError, match=r"bytes a second over 0.2 s; try again later"):
            await pack_of(source, ids(refs))


async def test_keep_alives_are_no_pack(
    git: Git, git_server: GitServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = [b"packfile\n", *[b"\1", b"\2Counting objects: 1\r"] * 3]
    whole = pktline.encode([*alive, b"\1PACK", pktline.Mark.FLUSH])
    git_server.faults["/git-upload-pack"] = Fault(status=200, body=whole, headers=ANSWER)
    async with over_http(git, git_server) as source:
        assert await pack_of(source, [NOWHERE]) == b"PACK"
        monkeypatch.setattr(upstream, "PREPARING", 0.0)
        body = pktline.encode(alive)
        git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
        with pytest.raises(NetworkError, match="did not start sending its pack within 0 s; try again later"):
            await pack_of(source, [NOWHERE])


async def test_little_else_may_come_before_the_pack(git: Git, git_server: GitServer, work: Work) -> None:
    for version, line in ((2, b"acknowledgments\n"), (0, b"ACK %b common\n" % NOWHERE)):
        git_server.protocol = version
        work.commit()
        async with over_http(git, git_server) as source:
            await source.ls_refs()
            body = pktline.encode([line] * 5000)
            git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
            with pytest.raises(Corrupt, match="sent more messages before its pack than git would"):
                await pack_of(source, [NOWHERE])
        git_server.faults.clear()


@pytest.mark.parametrize(
    "said",
    [b"\1", b"\2Counting\n", b"\2" + b"x" * 60_000],
    ids=["keep-alive packets", "progress", "long progress"],
)
@pytest.mark.parametrize("begun", [False, True], ids=["before the pack", "beside the pack"])
async def test_a_flood_beside_the_pack_is_given_up(
    git: Git, git_server: GitServer, work: Work, said: bytes, begun: bool
) -> None:
    """Only waiting counted, so a remote that said nothing of use without a pause was read for a day."""
    body = pktline.encode([b"packfile\n", *([b"\1PACK"] if begun else [])])
    body += pktline.encode([said]) * ((3 << 20) // (len(said) + 4))
    git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
    async with over_http(git, git_server) as source:
        progress = Meter(lambda: 0.0)
        with pytest.raises(Corrupt, match="sent more messages with its pack than git would"):
            async for _ in source.fetch([NOWHERE], [], progress):
                pass
    assert len(progress.seen.notes) <= upstream.REMARKS


async def test_a_pack_in_small_packets_is_read(git: Git, git_server: GitServer, work: Work) -> None:
    pack = b"PACK" + bytes(1 << 20)
    pieces = [b"\1" + pack[at : at + 990] for at in range(0, len(pack), 990)]
    body = pktline.encode([b"packfile\n", *pieces, pktline.Mark.FLUSH])
    git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
    async with over_http(git, git_server) as source:
        assert await pack_of(source, [NOWHERE]) == pack


@pytest.mark.parametrize(
    "body",
    [b"0000" * (6 << 20), b"000eversion 2\n" + b"0005a" * (5 << 20), b"0005a" * (5 << 20)],
    ids=["flush packets", "capabilities", "lines"],
)
async def test_a_flood_instead_of_a_listing_ends_at_once(
    git: Git, git_server: GitServer, work: Work, body: bytes
) -> None:
    for kind, piece in ((GREETING, "info/refs"), (ANSWER, "/git-upload-pack")):
        git_server.faults = {piece: Fault(status=200, body=body, headers=kind)}
        async with over_http(git, git_server) as source:
            began = time.process_time()
            with pytest.raises((Corrupt, Refused)):
                await source.ls_refs()
            assert time.process_time() - began < 5  # 24 MiB cost 40 s


async def test_a_listing_is_bounded(reach: Reach, work: Work) -> None:
    work.commit()
    work.many_refs(100)
    async with reach(work) as source:
        source._longest = 1000
        with pytest.raises(LimitReached, match="to back them up, allow more with EVERREF_LISTING_BYTES"):
            await source.ls_refs()


async def test_an_answer_that_is_compressed_unasked_is_not_unpacked(
    git: Git, git_server: GitServer, work: Work
) -> None:
    work.commit()
    bomb = gzip.compress(pktline.encode([b"x"]) * 1_000_000)
    for kind, piece in ((GREETING, "info/refs"), (ANSWER, "/git-upload-pack")):
        packed = Fault(status=200, body=bomb, headers={**kind, "Content-Encoding": "gzip"})
        git_server.faults = {piece: packed}
        async with over_http(git, git_server) as source:
            with pytest.raises(Refused, match="in a compressed form that was not requested"):
                await source.ls_refs()
    assert {request.headers["accept-encoding"] for request in git_server.requests} == {"identity"}


async def test_a_long_listing_is_read_beside_the_event_loop(
    reach: Reach, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    work.many_refs(5000)
    read: list[tuple[bool, int]] = []
    real = pktline.Lines.feed

    def feed(lines: pktline.Lines, data: bytes) -> list[pktline.Packet]:
        read.append((threading.current_thread() is threading.main_thread(), len(data)))
        return real(lines, data)

    monkeypatch.setattr(pktline.Lines, "feed", feed)
    monkeypatch.setattr(upstream, "INLINE", 1000)
    async with reach(work) as source:
        assert (await source.ls_refs()).refs == work.refs()
    assert {main for main, length in read if length > 1000} == {False}
    assert sum(length for _, length in read) > 5000 * 50


async def test_a_slow_host_is_waited_for(git: Git, git_server: GitServer, work: Work) -> None:
    work.many_commits(3, size=10_000)
    git_server.faults["/git-upload-pack"] = Fault(rate=100_000)
    async with over_http(git, git_server) as source:
        assert len(await pack_of(source, ids((await source.ls_refs()).refs))) > 30_000


async def test_nobody_there_is_a_network_error(git: Git) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        urls = [f"http://127.0.0.1:{nobody.getsockname()[1]}/a", "https://nobody.invalid/a"]
        for url in urls:
            async with connect(git, Remote(url), allow_private=True) as source:
                with pytest.raises(NetworkError, match="cannot be reached from here; check"):
                    await source.ls_refs()


async def test_a_host_that_speaks_no_http_is_a_network_error(git: Git) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(banner, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for scheme in ("http", "https"):
            async with connect(git, Remote(f"{scheme}://127.0.0.1:{port}/a"), allow_private=True) as source:
                with pytest.raises(NetworkError):
                    await source.ls_refs()


async def test_a_certificate_that_nobody_vouches_for_is_an_error(
    git: Git, work: Work, tmp_path: Path
) -> None:
    async with serving(tmp_path, tls=True) as server, over_http(git, server, Secret("a", "b")) as source:
        with pytest.raises(NetworkError, match="its TLS certificate is not valid; nothing was sent"):
            await source.ls_refs()
        assert server.requests == []


async def test_an_authority_of_ones_own_is_named_by_the_environment(work: Work, tmp_path: Path) -> None:
    work.commit()
    program = textwrap.dedent(
        """
        import asyncio, sys
        from mirror.git.run import Git
        from mirror.git.upstream import connect
        from mirror.core.model import Remote
        async def main():
            git = Git("git", "/nonexistent")
            async with connect(git, Remote(sys.argv[1]), allow_private=True) as source:
                print(len((await source.ls_refs()).refs))
            print((await git.run("ls-remote", "--end-of-options", sys.argv[1])).count(b"refs/"))
        asyncio.run(main())
        """
    )
    async with serving(tmp_path, tls=True) as server:
        (tmp_path / "ca.pem").write_bytes(server.ca_pem)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program, f"{server.url}/remote.git"],
            env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem")},
            capture_output=True,
            text=True,
        )
    assert (done.stdout, done.stderr) == ("2\n1\n", "")


# Answers that no git gives


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b"%b refs/heads/a\n" % NOWHERE] * 2, "lists a ref twice"),
        ([b"1234 refs/heads/a\n"], "lists an invalid object id"),
        ([b"%b refs/heads/a\n" % NOWHERE.upper()], "lists an invalid object id"),
        ([b"%b refs/heads/../../etc\n" % NOWHERE], "is not a valid ref name"),
        ([b"%b /etc/passwd\n" % NOWHERE], "is not a valid ref name"),
        ([b"%b FETCH_HEAD\n" % NOWHERE], "is not a valid ref name"),
        ([b"%b refs/heads/a\0b\n" % NOWHERE], "is not a valid ref name"),
        ([b"%b\n" % NOWHERE], "is not a valid ref name"),
        ([b"unborn HEAD symref-target:../../config\n"], "is not a valid ref name"),
        ([b"nothing of the sort"], "lists an invalid object id"),
        ([b""], "lists an invalid object id"),
        ([pktline.Mark.FLUSH, pktline.Mark.FLUSH], "sent more than its refs"),
        ([pktline.Mark.FLUSH, b"%b refs/heads/a\n" % NOWHERE], "sent more than its refs"),
        ([pktline.Mark.DELIM], "sent more than its refs"),
    ],
)
async def test_a_listing_that_no_git_gives_is_corrupt(
    git: Git, git_server: GitServer, work: Work, lines: list[pktline.Packet], words: str
) -> None:
    body = pktline.encode([*lines, pktline.Mark.FLUSH])
    git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
    async with over_http(git, git_server) as source:
        with pytest.raises(Corrupt, match=re.escape(words)):
            await source.ls_refs()


async def test_attributes_that_are_not_known_are_passed_over(
    git: Git, git_server: GitServer, work: Work
) -> None:
    lines = [b"%b refs/tags/v1 peeled:%b colour:red\n" % (NOWHERE, NOWHERE), b"%b refs/heads/a" % NOWHERE]
    body = pktline.encode([*lines, pktline.Mark.FLUSH])
    git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
    async with over_http(git, git_server) as source:
        refs = (await source.ls_refs()).refs
    assert refs == {b"refs/tags/v1": NOWHERE, b"refs/heads/a": NOWHERE}


GREETING: Mapping[str, str] = {"Content-Type": "application/x-git-upload-pack-advertisement"}


@pytest.mark.parametrize(
    ("packets", "error", "words"),
    [
        ([b"ERR Repository not found.\n"], RemoteGone, "the repository does not exist"),
        (
            [b"ERR access denied or repository not exported: /a\n"],
            RemoteGone,
            "the repository does not exist",
        ),
        ([b"ERR upload-pack: the moon is full\n"], Refused, "the host says: upload-pack: the moon is full"),
        ([b"version 2\n", b"agent=x\n"], Refused, "does not allow listing its refs"),
        (
            [b"version 2\n", b"ls-refs\n", b"fetch\n", b"object-format=sha3\n"],
            Refused,
            "unknown object format: sha3",
        ),
        ([b"version 9\n"], Refused, "is not a git repository address"),
        ([b"%b HEAD\n" % NOWHERE], Refused, "is not a git repository address"),
    ],
)
async def test_a_host_that_does_not_want_says_why(
    git: Git, git_server: GitServer, packets: list[bytes], error: type[EverrefError], words: str
) -> None:
    service = pktline.encode([b"# service=git-upload-pack\n", pktline.Mark.FLUSH])
    for head in (b"", service):
        body = head + pktline.encode([*packets, pktline.Mark.FLUSH])
        git_server.faults["info/refs"] = Fault(status=200, body=body, headers=GREETING)
        async with over_http(git, git_server) as source:
            with pytest.raises(error, match=words):
                await source.ls_refs()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"upload-pack: not our ref dddd", NotOurRef),
        (b"Server does not allow request for unadvertised object dddd", NotOurRef),
        (b"aborting due to possible repository corruption on the remote side.", Corrupt),
        (b"out of patience", Refused),
    ],
)
async def test_the_remotes_last_words_have_a_meaning(
    git: Git, git_server: GitServer, work: Work, said: bytes, error: type[EverrefError]
) -> None:
    for packets in ([b"ERR " + said], [b"packfile\n", b"\1PACK", b"\3" + said + b"\n"]):
        body = pktline.encode(packets)
        git_server.faults["/git-upload-pack"] = Fault(status=200, body=body, headers=ANSWER)
        async with over_http(git, git_server) as source:
            with pytest.raises(error) as raised:
                await pack_of(source, [NOWHERE])
            assert type(raised.value) is error


async def test_a_local_repository_that_went_away_is_gone(git: Git, work: Work) -> None:
    work.commit()
    async with connect(git, Remote(str(work.path)), allow_private=True) as source:
        await source.ls_refs()
        work.path.rename(work.path.with_name("moved"))
        with pytest.raises(RemoteGone, match="no longer a git repository at"):
            await source.ls_refs()


async def test_a_pack_goes_straight_into_git(git: Git, reach: Reach, make_work: Callable[..., Work]) -> None:
    work, copy = make_work("work"), make_work("copy")
    work.zoo()
    async with reach(work) as source:
        refs = (await source.ls_refs()).refs
        chunks: AsyncIterator[bytes] = source.fetch(ids(refs), [], Silent())
        await git.run("index-pack", "--stdin", git_dir=str(copy.path), stdin=chunks)
    copy.update({name: target for name, target in refs.items() if name != HEAD and target in ids(refs)})
    fsck(copy.path)
    assert refs_of(copy.path).items() <= {**refs, HEAD: b"ref: refs/heads/main"}.items()
