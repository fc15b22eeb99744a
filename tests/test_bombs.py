"""Repositories that were made to be bombs: they cost a reader process, and a page says what is the matter."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from bench.cases import neighbours
from bench.service import process, servers
from mirror.browse import moments
from mirror.core.errors import LimitReached, TooLarge
from mirror.core.model import ObjectFormat, Target
from mirror.git import entry, read
from mirror.git.pack import IdxFile
from mirror.git.reader.processes import ADDRESSES, MEMORY, Readers
from mirror.git.reader.questions import ChangesBetween, CommitsOf, Source
from mirror.git.run import Git
from mirror.services.open import Services
from tests.parts import bombs
from tests.parts.everref import Mirror
from tests.parts.packs import FORMATS
from tests.parts.repos import Work, run_git
from tests.parts.web import Browser, Site
from tests.parts.whole import until

MIB = 1 << 20


@pytest.fixture
async def alice(site: Site) -> Browser:
    return await site.signed_in(await site.person("alice"))


async def kept(site: Site, work: Work) -> str:
    """The repository in Alice's team; its address."""
    done = await site.mirror.backup(work, "bomb")
    await site.mirror.services.db.execute(
        "update repo set team_id = (select id from team where name = 'alice') where id = $1", done.repo.id
    )
    return "/alice/bomb"


async def api_of(site: Site) -> str:
    """The same for programs."""
    repo_id = await site.mirror.services.db.fetchval("select id from repo where name = 'bomb'")
    return f"/api/v1/teams/alice/repos/{repo_id}"


def of_process(pid: int, what: str) -> bytes:
    """What Linux tells of a process: proc(5)."""
    return Path(f"/proc/{pid}/{what}").read_bytes()


def pids(services: Services) -> list[int]:
    """The reader processes at rest."""
    return [one.process.pid for one in services.readers._idle]


async def test_a_file_of_tabs_is_shown_without_colours(site: Site, alice: Browser, work: Work) -> None:
    bombs.tabs(work)
    page = await alice.get(f"{await kept(site, work)}/-/files/x.ezt")
    assert page.status_code == 200 and "1 line" in page.text and "\t" * 1900 in page.text


async def test_folders_in_folders_without_end_are_compared_as_far_as_it_goes(
    site: Site, alice: Browser, work: Work
) -> None:
    bombs.nested(work)
    at = await kept(site, work)
    page = await alice.get(f"{at}/-/commit/{work.tip().decode()}")
    assert page.status_code == 200 and "the comparison was stopped early" in page.text
    page = await alice.get(f"{at}/-/files/deep/0000001/0000002")
    assert page.status_code == 200 and "13,000 more are not shown" in page.text


async def test_a_folder_that_is_too_large_says_how_large_and_is_had_as_it_is(
    site: Site, alice: Browser, work: Work
) -> None:
    bombs.wide(work)
    at = await kept(site, work)
    oid = work.git("rev-parse", "main:wide").strip()
    page = await alice.get(f"{at}/-/files/wide")
    assert page.status_code == 422 and f"{300_000 * 35:,} bytes" in page.text
    assert f'href="{at}/-/object/{oid.decode()}"' in page.text
    raw = await alice.get(f"{at}/-/object/{oid.decode()}")
    assert raw.content == work.git("cat-file", "tree", oid)
    assert raw.headers["content-type"] == "application/octet-stream"
    api = await api_of(site)
    told = await alice.get(f"{api}/tree?path=wide")
    assert told.status_code == 422 and told.json()["class"] == "limit" and not told.json()["retry"]
    raw = await alice.get(f"{api}/objects/{oid.decode()}")
    assert raw.content == work.git("cat-file", "tree", oid)
    assert (await alice.get(f"{at}/-/object/{'1' * 40}")).status_code == 404
    assert (await alice.get(f"{at}/-/object/main")).status_code == 404


async def test_long_names_and_long_messages_make_no_page_long(site: Site, alice: Browser, work: Work) -> None:
    empty = work.blob(b"")
    names = {b"%05d" % number + b"x" * 4000: (b"100644", empty) for number in range(1000)}
    for _ in range(40):
        work.commit("main", {}, entries=names, message="a" * 60_000)
    at = await kept(site, work)
    for page in ("files", "commits", f"commit/{work.git('rev-list', 'main').split()[-1].decode()}"):
        found = await alice.get(f"{at}/-/{page}")
        assert found.status_code == 200 and len(found.content) < 4 * MIB
    assert "more are not shown" in (await alice.get(f"{at}/-/files")).text


async def test_a_commit_with_a_message_without_end_shows_how_it_begins(
    site: Site, alice: Browser, work: Work
) -> None:
    oid = bombs.message(work, 40 * MIB).decode()
    at = await kept(site, work)
    before = await alice.get(f"{at}/-/commit/{oid}")
    assert before.status_code == 200 and "A word" in before.text and len(before.text) < 40_000
    assert "The message is too long to show in full." in before.text and f"/-/object/{oid}" in before.text
    for page in ("refs", "files", "pushes", "difference"):
        assert (await alice.get(f"{at}/-/{page}")).status_code == 200


async def test_a_walk_over_what_is_larger_than_gits_memory_is_refused_in_words(
    site: Site, alice: Browser, work: Work
) -> None:
    bombs.message(work, 160 * MIB)
    page = await alice.get(f"{await kept(site, work)}/-/commits")
    assert page.status_code == 503 and "too large to be read here" in page.text


async def test_what_differs_a_little_from_something_large_is_no_way_in(mirror: Mirror, work: Work) -> None:
    second = bombs.differences(work, 100 * MIB)
    done = await mirror.backup(work)
    first = work.git("rev-parse", "main~1").strip()
    refused = 0
    for rev in (first, second):
        try:  # git keeps one of them as it is, and of that the beginning is read
            found = await moments.blob(mirror.services, done.repo, done.snapshot, rev, b"large")
            assert (found.size, len(found.data)) == (100 * MIB + 1, MIB)
        except LimitReached as error:
            assert "memory" in str(error) or "too large" in str(error)
            refused += 1
    assert refused == 1


async def test_a_question_that_takes_too_long_costs_its_process_and_not_the_next_one(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = bombs.nested(work)
    done = await mirror.backup(work)
    async with moments.opened(mirror.services, done.repo, done.snapshot) as there:
        assert await there.ask(CommitsOf(there.path, (tip,)))
        (before,) = pids(mirror.services)
        with monkeypatch.context() as patched:
            patched.setattr(ChangesBetween, "seconds", -1.95)
            with pytest.raises(LimitReached):
                await there.ask(ChangesBetween(there.path, None, tip, patience=100.0))
        assert await there.ask(CommitsOf(there.path, (tip,)))
    assert before not in pids(mirror.services)


async def test_a_reader_that_is_killed_is_replaced(mirror: Mirror, work: Work) -> None:
    tip = work.commit()
    done = await mirror.backup(work)
    async with moments.opened(mirror.services, done.repo, done.snapshot) as there:
        assert await there.ask(CommitsOf(there.path, (tip,)))
        (pid,) = pids(mirror.services)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(LimitReached):
            while True:  # until its end was noticed, it may be asked
                assert await there.ask(CommitsOf(there.path, (tip,)))
                assert pids(mirror.services) == [pid]
        assert await there.ask(CommitsOf(there.path, (tip,)))


async def test_a_reader_has_little_and_knows_no_secret(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECRET_KEYS", "DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "SMTP_URL_FILE"):
        monkeypatch.setenv(name, "a secret of ours")
    async with mirror.services.readers.slot() as reading:
        assert await reading.ask(Source("x = 1\n", b"a.py"))
    (pid,) = pids(mirror.services)
    told = of_process(pid, "environ")
    assert b"secret" not in told and b"PATH=" in told
    limits = of_process(pid, "limits").decode().splitlines()
    found = {line[:25].strip(): line[26:46].strip() for line in limits}
    assert found["Max data size"] == str(MEMORY) and found["Max address space"] == str(ADDRESSES)
    assert found["Max file size"] == "0" and int(found["Max cpu time"]) < 60
    assert os.getpriority(os.PRIO_PROCESS, pid) > 0


async def test_readers_end_with_who_has_them(git: Git) -> None:
    readers = Readers(git, streaming=git)
    readers.warm()
    ours = [one.process for one in readers._idle]
    assert len(ours) == 3
    await readers.close()
    assert all(one.exited.done() for one in ours) and not readers._idle


@FORMATS
async def test_an_object_is_known_by_its_header(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    work.zoo()
    text = b"".join(b"line %d\n" % number for number in range(5000))
    for number in range(5):
        work.commit("main", {"long": text + b"%d" % number})
    work.git("repack", "-adfq")
    (idx,) = (work.path / "objects/pack").glob("*.idx")
    said = run_git("-C", work.path, "cat-file", "--batch-all-objects", "--batch-check")
    kinds = [b"", b"commit", b"tree", b"blob", b"tag"]
    with IdxFile(idx) as found, read.opened(work.path) as held:
        differences = 0
        for line in said.splitlines():
            name, kind, size = line.split()
            oid = Target(name)
            assert entry.header([found], oid) == (held.kind(oid), held.size(oid))
            assert (held.kind(oid), held.size(oid)) == (kinds.index(kind), int(size))
            begins = entry.beginning([found], oid, 100)
            differences += begins is None
            assert begins in (None, work.git("cat-file", kind, oid)[:100])
        assert differences


async def test_what_is_larger_than_is_read_is_not_read(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"large": os.urandom(17 * MIB)})
    done = await mirror.backup(work)
    oid = Target(work.git("rev-parse", "main:large").strip())
    with read.opened(mirror.services.disk.pool(done.repo.id)) as held:
        assert held.beginning(oid, 10) == work.git("cat-file", "blob", oid)[:10]
        with pytest.raises(TooLarge) as told:
            held.read(oid)
    assert told.value.size == 17 * MIB


SMALL = """
import asyncio, resource, sys
from pathlib import Path
from mirror.git import lfs, read
from mirror.git.run import Git
path, old, new = Path(sys.argv[1]), *(one.encode() for one in sys.argv[2:])
limit = 128 << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
name = b"refs/heads/main"
print(asyncio.run(read.ancestry(Git("git", str(path)), path, [(name, old, new)]))[0] == {name})
print(asyncio.run(read.haves(path, [new], 10)) == [new, old])
print(asyncio.run(read.commits_among(path, [old, new])) == {old, new})
print(asyncio.run(lfs.are_likely(path, "sha1", [new])))
"""


async def test_a_worker_reads_what_it_needs_of_a_commit_and_not_its_message(work: Work) -> None:
    old = work.commit()
    new = bombs.message(work, 160 * MIB)
    work.repack()
    said = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", SMALL, str(work.git_dir), old.decode(), new.decode()),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await said.communicate()
    assert out.split() == [b"True", b"True", b"True", b"False"]


@pytest.mark.chaos
async def test_ten_bombs_a_second_cost_another_team_no_page_and_little_memory(
    tmp_path: Path,
) -> None:
    async with servers(tmp_path / "data") as services:
        good, bad = await neighbours.filled(services, Work, tmp_path, 300 * MIB)
        with process("mirror.web", services.settings) as (running, port):
            seen = await neighbours.attacked(port, running.pid, good, bad, 60.0)
    assert len(seen.taken) > 100  # each of them was answered, and 200
    assert set(seen.bombs) == {200, 429, 503} and seen.bombs[429] > seen.bombs[503]
    assert 0 < seen.megabytes < neighbours.MEMORY


@asynccontextmanager
async def served(site: Site) -> AsyncIterator[int]:
    """The pages on a port of this machine."""
    server = uvicorn.Server(uvicorn.Config(site.app, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: _true(server.started))
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def _true(value: object) -> object:
    return value


async def test_who_hangs_up_is_read_for_no_more(
    site: Site, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await site.person("alice")
    raw, _ = await site.session(person.id)
    bombs.nested(work)
    at = await kept(site, work)
    turns = site.outside.services.readers.slots
    monkeypatch.setattr("mirror.git.reader.processes.GRACE", 0.0)
    monkeypatch.setattr("mirror.git.reader.questions.SECONDS", 60.0)
    asked: list[int] = []
    real: Callable[..., Awaitable[None]] = turns._enter

    async def entered(who: object) -> None:
        await real(who)
        asked.append(1)

    monkeypatch.setattr(turns, "_enter", entered)
    async with served(site) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        path = f"{at}/-/commit/{work.tip().decode()}"
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: sid={raw}\r\n\r\n"
        writer.write(head.encode())
        await until(lambda: _true(asked))
        writer.close()
        await until(lambda: _true(not turns._total))
    assert not turns._running and not turns._line
