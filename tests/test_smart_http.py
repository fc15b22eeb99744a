"""Any moment as a git remote: what stock clients get, and what nobody gets."""

import asyncio
import gzip
import hashlib
import io
import random
import tarfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import httpx
import pygit2
import pytest
from dulwich.client import HttpGitClient
from dulwich.repo import Repo as DulwichRepo

from mirror.backup import hydrate
from mirror.core.errors import UsageError
from mirror.core.formats import upload_pack as protocol
from mirror.core.formats.pktline import Mark, Packet, encode
from mirror.core.formats.upload_pack import Reader, Request, Version
from mirror.core.model import RefName, Repo, Target
from mirror.git.pool import Pool
from mirror.people import accounts
from mirror.restore import serving
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.people import tokens
from mirror.store.restore import served
from mirror.web.remote import smart_http
from tests.parts.gitclient import World, done, git, world
from tests.parts.repos import Work, run_git
from tests.parts.web import ORIGIN

__all__ = ["world"]


# Stock clients


@pytest.mark.parametrize("version", ["0", "2"])
async def test_stock_git_clones_a_moment_and_fetches_what_came_later(
    world: World, work: Work, version: str
) -> None:
    first = work.commit("main", {"a": b"one"})
    tag = work.tag("v1", message="signed off")
    await world.backup(work)
    work.commit("main", {"a": b"two"})
    work.commit("side", {"b": b"three"})
    await world.backup(work)
    protocol = ("-c", f"protocol.version={version}")
    then = world.place / "then"
    said = await git(*protocol, "clone", world.url("acme/api@1"), then)
    assert "remote: Everref: acme/api as of #1, 2026-03-02 09:" in said.err and "ago)" in said.err
    assert await done("rev-parse", "HEAD", cwd=then) == first.decode()
    assert await done("rev-parse", "v1", cwd=then) == tag.decode()
    assert await done("branch", "-r", cwd=then) == "origin/HEAD -> origin/main\n  origin/main"
    everything = ("+refs/*:refs/*", "--update-head-ok")
    await done(*protocol, "fetch", "-q", world.url("acme/api.git"), *everything, cwd=then)
    assert await done("rev-parse", "main", "side", cwd=then) == "\n".join(
        work.tip(name).decode() for name in ("main", "side")
    )
    assert await done("fsck", "--strict", cwd=then) == ""


async def test_shallow_and_partial_clones_are_served_and_deepened(world: World, work: Work) -> None:
    old = work.blob(b"an old file")
    work.commit("main", {"a": b"an old file"})
    work.many_commits(20)
    await world.backup(work)
    shallow, partial = world.place / "shallow", world.place / "partial"
    await done("clone", "-q", "--depth=3", world.url(), shallow)
    assert await done("rev-list", "--count", "HEAD", cwd=shallow) == "3"
    await done("fetch", "-q", "--deepen=4", cwd=shallow)
    assert await done("rev-list", "--count", "HEAD", cwd=shallow) == "7"
    await done("fetch", "-q", "--unshallow", cwd=shallow)
    assert await done("rev-list", "--count", "HEAD", cwd=shallow) == "21"
    await done("clone", "-q", "--filter=blob:none", "--no-checkout", world.url(), partial)
    missing = await done("rev-list", "--objects", "--missing=print", "HEAD", cwd=partial)
    assert f"?{old.decode()}" in missing.split()
    assert await done("cat-file", "blob", old.decode(), cwd=partial) == "an old file"
    refused = await git("clone", "-q", f"--filter=sparse:oid={old.decode()}", world.url(), world.place / "no")
    assert refused.code != 0 and "filter 'sparse:oid' not supported" in refused.err


@pytest.mark.parametrize("version", ["0", "2"])
async def test_who_has_many_commits_that_are_not_here_fetches_all_the_same(
    world: World, work: Work, version: str
) -> None:
    """git said "expected 'acknowledgments', received 'packfile'" where none of the first 16 was known."""
    work.commit("main", {"a": b"one"})
    await world.backup(work)
    there, protocol = world.place / "there", ("-c", f"protocol.version={version}")
    await done("clone", "-q", world.url(), there)
    for number in range(40):
        await done("commit", "-q", "--allow-empty", "-m", f"local {number}", cwd=there)
    tip = work.commit("main", {"a": b"two"})
    await world.backup(work)
    await done(*protocol, "fetch", "-q", cwd=there)
    assert await done("rev-parse", "origin/main", cwd=there) == tip.decode()
    await done("init", "-q", world.place / "unrelated")
    await done("-C", there, "push", "-q", world.place / "unrelated", "HEAD~39:refs/heads/x")
    await done(*protocol, "fetch", "-q", world.url(), "main", cwd=world.place / "unrelated")


async def test_dulwich_and_libgit2_clone_a_moment_too(world: World, work: Work) -> None:
    work.zoo()
    await world.backup(work)

    def by_libgit2() -> Target:
        callbacks = pygit2.RemoteCallbacks(pygit2.UserPass("git", world.token))
        path = str(world.place / "pygit2")
        found = pygit2.clone_repository(world.url("acme/api@1", None), path, callbacks=callbacks)
        return Target(str(found.head.target).encode())

    def by_dulwich() -> Target:
        path = world.place / "dulwich"
        path.mkdir()
        with DulwichRepo.init_bare(str(path)) as found:
            client = HttpGitClient(world.url("", None), username="git", password=world.token)
            fetched = client.fetch("acme/api", found)
            return Target(dict(fetched.refs)[b"refs/heads/main"] or b"")  # type: ignore[index]

    assert await asyncio.to_thread(by_libgit2) == work.tip()
    assert await asyncio.to_thread(by_dulwich) == work.tip()


async def test_a_repository_with_sha256_ids_is_cloned(world: World, make_work: Callable[..., Work]) -> None:
    work = make_work("new", "sha256")
    work.commit("main", {"a": b"one"})
    await world.backup(work)
    await done("clone", "-q", world.url(), world.place / "clone")
    assert await done("rev-parse", "HEAD", cwd=world.place / "clone") == work.tip().decode()


async def test_an_empty_repository_is_cloned_with_its_head(world: World, work: Work) -> None:
    work.head("refs/heads/trunk")
    await world.backup(work)
    for version in "0", "2":
        there = world.place / version
        await done("-c", f"protocol.version={version}", "clone", "-q", world.url(), there)
    assert await done("symbolic-ref", "HEAD", cwd=there) == "refs/heads/trunk"


# What nobody gets


class Secret:
    """A repo from which a secret was force-pushed away, which the pool still holds."""

    def __init__(self, work: Work) -> None:
        self.base = work.commit("main", {"a": b"one"})
        self.lost = work.commit("main", {"a": b"one", "key": b"hunter2"})
        self.work = work

    def rewrite(self) -> None:
        self.blob = Target(run_git("rev-parse", "main:key", cwd=self.work.path).strip())
        self.tree = Target(run_git("rev-parse", "main^{tree}", cwd=self.work.path).strip())
        self.work.set("main", self.base)
        self.tip = self.work.commit("main", {"a": b"two"})


async def ask(world: World, lines: Sequence[Packet], what: str = "acme/api", version: str = "2") -> bytes:
    """What a raw request is answered."""
    return (await post(world, encode(lines), what, {"git-protocol": f"version={version}"})).content


async def post(world: World, body: bytes, what: str, headers: dict[str, str]) -> httpx.Response:
    given = {"content-type": "application/x-git-upload-pack-request"} | headers
    async with httpx.AsyncClient(auth=("git", world.token), timeout=60) as client:
        return await client.post(f"{world.url(what, None)}/git-upload-pack", content=body, headers=given)


def fetch(*lines: bytes) -> list[Packet]:
    return [b"command=fetch\n", Mark.DELIM, *(line + b"\n" for line in lines), Mark.FLUSH]


@pytest.fixture
async def secret(world: World, work: Work) -> Secret:
    found = Secret(work)
    await world.backup(work)
    found.rewrite()
    await world.backup(work)
    return found


async def test_nothing_is_given_that_the_moment_does_not_reach(world: World, secret: Secret) -> None:
    """Not by any want, in either version; at the moment that had it, it is."""
    for name in ("lost", "blob", "tree"):
        oid: bytes = getattr(secret, name)
        refusal = b"ERR upload-pack: not our ref " + oid
        assert refusal in await ask(world, fetch(b"want " + oid, b"done")), name
        with_tip = fetch(b"want " + secret.tip, b"want " + oid, b"done")
        assert refusal in await ask(world, with_tip), name
        v0: list[Packet] = [b"want " + oid + b" side-band-64k ofs-delta\n", Mark.FLUSH, b"done\n"]
        assert refusal in await ask(world, v0, version="0"), name
        assert b"PACK" in await ask(world, fetch(b"want " + oid, b"done"), "acme/api@1"), name
    assert b"PACK" in await ask(world, fetch(b"want " + secret.base, b"done"))  # no tip, but reached


def seen(answer: bytes) -> tuple[bytes, bytes]:
    """What a client learns: all before the pack, and how many objects that has; git orders them freely."""
    before, _, pack = answer.partition(b"PACK")
    return before[:-5], pack[4:8]


async def test_no_answer_tells_whether_an_unreached_object_is_there(world: World, secret: Secret) -> None:
    """A have, a shallow boundary or a depth that names it is as one that names nothing."""
    world.site.mirror.clock.step = timedelta()  # answers say how old they are
    nothing = b"1" * 40
    for line in (b"have %b", b"shallow %b"):
        for rest in ((b"done",), (b"thin-pack", b"deepen 1", b"done"), ()):
            answers = {
                seen(await ask(world, fetch(b"want " + secret.tip, line % oid, b"no-progress", *rest)))
                for oid in (secret.lost, nothing)
            }
            assert len(answers) == 1, (line, rest)
    known = await ask(world, fetch(b"want " + secret.tip, b"have " + secret.base))
    assert b"ACK " + secret.base in known
    refs = await ask(world, [b"command=ls-refs\n", Mark.DELIM, b"peel\n", b"symrefs\n", Mark.FLUSH])
    assert bytes(secret.tip) in refs and bytes(secret.lost) not in refs


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([b"command=object-info\n", Mark.FLUSH], b"is not served"),
        ([b"command=fetch\n", b"object-format=sha256\n", Mark.DELIM, b"done\n", Mark.FLUSH], b"sha1 ids"),
        (fetch(b"want main", b"done"), b"no sha1 id"),
        (fetch(b"want " + b"a" * 40 + b" x", b"done"), b"no sha1 id"),
        (fetch(b"want-ref refs/heads/main", b"done"), b"not served"),
        (fetch(b"sideband-all", b"done"), b"not served"),
        (fetch(b"packfile-uris https"), b"not served"),
        (fetch(b"done"), b"wants nothing"),
        ([b"command=fetch\n", Mark.DELIM, b"want \n"], b"not one whole command"),
        ([*fetch(b"done"), *fetch(b"done")], b"not one whole command"),
    ],
    ids=lambda case: case.decode() if isinstance(case, bytes) else "",
)
def test_a_request_that_is_not_understood_reaches_no_git(lines: Sequence[Packet], why: bytes) -> None:
    reader = Reader(2, "sha1")
    with pytest.raises(Exception, match=why.decode()):
        reader.feed(encode(lines))
        reader.end()


async def test_a_bomb_and_broken_bodies_are_refused_in_words(
    world: World, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY", 1 << 20)
    zipped = {"content-encoding": "gzip", "git-protocol": "version=2"}
    good = encode(fetch(b"want " + secret.tip, b"done"))
    assert b"PACK" in (await post(world, gzip.compress(good), "acme/api", zipped)).content
    bomb = gzip.compress(encode([b"have " + b"a" * 40 + b"\n"] * 100_000), 9)
    assert len(bomb) < 20_000
    for body, headers, why in (
        (bomb, zipped, b"larger than 1 MiB"),
        (b"nonsense", zipped, b"cannot be unpacked"),
        (gzip.compress(good)[:-9], zipped, b"ends too early"),
        (b"zzzzwant", {"git-protocol": "version=2"}, b"no valid length"),
        (good[:-7], {"git-protocol": "version=2"}, b"ends within a line"),
    ):
        answer = await post(world, body, "acme/api", headers)
        assert answer.status_code == 200 and answer.content[4:8] == b"ERR " and why in answer.content


@pytest.mark.parametrize("said", [b"", b" side-band", b" side-band-64k"])
async def test_a_client_of_version_0_has_a_pack_with_and_without_messages(
    world: World, secret: Secret, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[Packet] = [b"want " + secret.tip + said + b"\n", Mark.FLUSH, b"done\n"]
    answer = await ask(world, lines, version="0")
    assert answer.startswith(b"0008NAK\n") and b"PACK" in answer
    if not said:
        assert hashlib.sha1(answer[8:-20]).digest() == answer[-20:]  # the pack, and nothing after it
    assert "could not be served" not in caplog.text


async def test_a_large_request_is_read_beside_the_event_loop(
    world: World, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    end = Reader.end

    def noted(self: Reader) -> Request | None:
        inside.append(threading.current_thread() is threading.main_thread())
        return end(self)

    monkeypatch.setattr(Reader, "end", noted)
    zipped = {"content-encoding": "gzip", "git-protocol": "version=2"}
    large = encode(fetch(b"want " + secret.tip, *[b"have " + secret.base] * 20_000, b"done"))
    monkeypatch.setattr(smart_http, "LARGE", 1 << 16)
    assert b"PACK" in (await post(world, gzip.compress(large), "acme/api", zipped)).content
    assert b"PACK" in await ask(world, fetch(b"want " + secret.tip, b"done"))
    assert inside == [False, True]  # a small one is read at once


def test_refs_are_told_by_their_prefixes_however_many_there_are() -> None:
    chance = random.Random(3)

    def names(count: int) -> list[bytes]:
        return ["".join(chance.choices("ab/", k=chance.randint(1, 6))).encode() for _ in range(count)]

    for count in (0, 1, 3, 30):
        refs = {RefName(name): Target(b"a" * 40) for name in names(200)}
        prefixes = tuple(names(count))
        told = protocol.told_refs(refs, {}, Request(2, "ls-refs", prefixes=prefixes))
        wanted = sorted(name for name in refs if name.startswith(prefixes or (b"",)))
        assert told == encode([*(b"a" * 40 + b" " + name + b"\n" for name in wanted), Mark.FLUSH])


def test_lines_that_say_nothing_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINES", 1000)
    reader = Reader(0, "sha1")
    with pytest.raises(UsageError, match="more lines than ids"):
        for _ in range(100):
            reader.feed(b"0000" * 100)


# Who may, and which moment


async def test_who_may_not_read_the_team_learns_nothing(world: World, work: Work) -> None:
    work.commit("main", {"a": b"one"})
    repo = await world.backup(work)
    mirror, db = world.site.mirror, world.site.mirror.services.db
    mallory = await world.site.person("mallory")
    hers = await world.site.token(mallory, await world.site.team(mallory))
    backup_only = await world.site.token(world.alice, world.team, ["backup"])
    password = "correct horse battery"
    pat = await accounts.sign_up(db, "pat@example.org", password, "Pat", mirror.clock.now, "127.0.0.1")

    async def status(user: str, secret: str | None) -> tuple[int, str]:
        auth = None if secret is None else (user, secret)
        async with httpx.AsyncClient(auth=auth, timeout=60) as client:
            url = f"{world.url('acme/api', None)}/info/refs?service=git-upload-pack"
            answer = await client.get(url, headers={"git-protocol": "version=2"})
            return answer.status_code, answer.text

    assert (await status("", None))[0] == 401
    assert (await status("any", world.token))[0] == (await status(world.token, "x-oauth-basic"))[0] == 200
    assert await status("any", "everref_wrong") == (401, "the token is unknown, revoked or expired\n")
    assert (await status("any", hers))[0] == (await status("pat@example.org", password))[0] == 404
    assert (await status("any", backup_only))[0] == 403
    await db.execute(
        "insert into member (team_id, person_id, role, since) values ($1, $2, 'viewer', now())",
        world.team.id,
        pat.id,
    )
    assert (await status("Pat@Example.org", password))[0] == 200
    assert (await status("pat@example.org", "wrong"))[0] == 401
    assert (await status("pat@example.org", password))[0] == 200  # remembered
    await db.execute("update person set password_hash = 'another' where id = $1", pat.id)
    assert (await status("pat@example.org", password))[0] == 401
    (mine,) = await tokens.all_of(db, world.team.id, world.vic.id)
    await tokens.revoke(db, world.team.id, mine.id, mirror.clock.now)
    assert (await status("any", world.token))[0] == 401
    assert repo.name == "acme/api"


async def test_the_moment_after_the_at_is_what_is_served_or_why_not(world: World, work: Work) -> None:
    one = work.commit("main", {"a": b"one"})
    await world.backup(work)
    world.site.mirror.clock.now += timedelta(days=1)
    two = work.commit("main", {"a": b"two"})
    await world.backup(work)

    async def tip(what: str) -> str:
        said = await git("ls-remote", world.url(what), "refs/heads/main")
        return said.out.split("\t")[0] if said.code == 0 else said.err

    for when, wanted in (
        ("", two),
        (".git", two),
        ("@%231", one),
        ("@1.git", one),
        ("@2", two),
        ("@2026-03-02T10:00Z", one),
        ("@2026-03-02T15:00+05:00", one),
        ("@2026-03-09", two),
        ("@12h%20ago", one),
    ):
        assert await tip(f"acme/api{when}") == wanted.decode(), when
    for when, why in (
        ("@7", "remote: acme/api has no snapshot #7; it has #1 to #2"),
        ("@2020-01-01", "no snapshot at or before 2020-01-01 00:00:00Z; the first is #1"),
        ("@nonsense", "remote: 'nonsense' is not a moment; write it like 12, 2026-03-02,"),
        ("@2026-02-30", "is not a time that exists; write it like 12, "),
        ("@" + "9" * 200, "too long for a moment"),
        ("/more", "remote: there is no repository acme/api/more in alice"),
    ):
        assert why in await tip(f"acme/api{when}"), when
    for address, why in (
        ("api@1", "there is no repository api in alice; do you mean /git/alice/acme/api?"),
        ("acme/api@#1", "remote: git finds no repository at this address; it is "),
    ):
        assert why in await tip(address), address
    url = world.url()
    for address, why in (
        (url.replace("/alice/", "/acme/"), "remote: there is no team acme here, or you have no access to it"),
        (url.replace("/git/", "/"), "remote: git finds no repository at this address; it is "),
        (url.replace("/acme/api", ""), "/git/TEAM/REPO, with @12,"),
    ):
        assert why in (await git("ls-remote", address)).err, address
    pushed = await git("push", world.url(), "HEAD:refs/heads/x", cwd=work.path)
    assert pushed.code != 0 and work.tip() == two


async def test_many_clones_of_a_cold_repo_read_the_vault_once(
    world: World, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.many_commits(50)
    repo = await world.backup(work)
    services = world.site.mirror.services
    pool = Pool(services.git, services.disk.pool(repo.id), "sha1")
    async with pool.lock():
        await pool.destroy()
    reads: list[Path] = []
    fill = hydrate.fill

    async def counted(services: object, path: Path, *rest: object, **more: object) -> None:
        reads.append(path)
        await fill(services, path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(hydrate, "fill", counted)
    world.site.mirror.clock.step = timedelta()  # all within an hour
    body = fetch(b"want " + work.tip(), b"done")
    answers = await asyncio.gather(*(ask(world, body) for _ in range(40)))
    assert all(b"PACK" in answer for answer in answers) and len(reads) == 1
    clones = (await served.counted(services.db))["clone"]
    assert clones.number == 40 and 0.9 < clones.bytes / sum(map(len, answers)) <= 1
    audited = await services.db.fetchval("select count(*) from audit where action = 'repo.clone'")
    assert audited == 1
    assert list((services.disk.root / "serving").iterdir()) != []  # kept for the next one


async def test_the_end_of_a_clone_waits_for_no_disk_to_be_counted(world: World) -> None:
    async with world.site.mirror.services.db.acquire() as connection, connection.transaction():
        await connection.execute("set local synchronous_commit = on")
        await served.count(connection, "clone", 7)
        assert await connection.fetchval("show synchronous_commit") == "off"
        assert (await served.counted(connection))["clone"] == served.Served(1, 7)


async def test_what_the_disk_damaged_is_read_from_the_vault_again_and_not_served(
    world: World, work: Work
) -> None:
    work.commit("main", {"a": b"one" * 1000})
    repo = await world.backup(work)
    services = world.site.mirror.services
    (damaged,) = services.disk.pool(repo.id).glob("objects/pack/*.pack")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.chmod(0o600)
    damaged.write_bytes(content)
    await done("clone", "-q", world.url(), world.place / "clone")
    assert await done("fsck", "--strict", cwd=world.place / "clone") == ""


async def test_what_a_view_reaches_is_let_go_of_with_it(world: World, secret: Secret) -> None:
    """The files stayed on the disk and open, without a name, until some cycle of objects was collected."""
    services = world.site.mirror.services
    repo = await repos.by_url(services.db, world.team.id, str(secret.work.path))
    assert repo is not None
    snapshot = await snapshots.latest(services.db, repo.id)
    assert snapshot is not None
    async with serving.opened(services, repo, snapshot) as served:
        commits, objects = await served.reached._commits.get(), await served.reached._objects.get()
        assert secret.base in commits and secret.tip in objects
    await services.shared.close()
    assert len(commits) == len(objects) == 0


async def test_who_waits_for_the_vault_hears_how_far_it_is(
    world: World, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.many_commits(50)
    repo: Repo = await world.backup(work)
    services = world.site.mirror.services
    pool = Pool(services.git, services.disk.pool(repo.id), "sha1")
    async with pool.lock():
        await pool.destroy()
    monkeypatch.setattr(serving, "TELL", 0.001)
    answer = await ask(world, fetch(b"want " + work.tip(), b"done"))
    assert answer.startswith(b"000dpackfile\n") and answer.count(b"packfile") == 1
    assert b"\x02Everref: " in answer and b"as of #1" not in answer.split(b"PACK")[1]


async def test_the_clone_page_gives_a_viewer_the_line_that_clones(world: World, work: Work) -> None:
    work.commit("main", {"a": b"one"})
    await world.backup(work)
    browser = await world.site.signed_in(world.vic)
    page = (await browser.get("/alice/acme/api/-/clone?at=%231")).text
    assert f"git clone {ORIGIN}/git/alice/acme/api@1<" in page and "Make the bundle" not in page
    latest = (await browser.get("/alice/acme/api/-/clone")).text
    assert f"git clone {ORIGIN}/git/alice/acme/api<" in latest


# Archives


async def test_the_files_of_a_moment_are_saved_as_an_archive(world: World, work: Work) -> None:
    files = {"a": b"one", "doc/b": b"two", "secret": b"x", ".gitattributes": b"secret export-ignore\n"}
    one = work.commit("main", files)
    await world.backup(work)
    work.commit("main", files | {"doc/c": b"three"})
    gone = work.commit("side", {"d": b"lost"})
    await world.backup(work)
    work.delete("side")
    await world.backup(work)
    browser = await world.site.signed_in(world.vic)
    page = "/alice/acme/api/-/archive/x"

    def names(data: bytes) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(data)) as found:
            return [entry.name for entry in found if entry.isfile()]

    then = await browser.get(f"{page}.tar.gz?at=%231")
    assert then.headers["content-disposition"] == 'attachment; filename="api-1.tar.gz"'
    assert names(then.content) == ["api-1/.gitattributes", "api-1/a", "api-1/doc/b"]
    docs = (await browser.get(f"{page}.tar?path=doc")).content
    assert names(docs) == ["api-3/doc/b", "api-3/doc/c"]
    with zipfile.ZipFile(io.BytesIO((await browser.get(f"{page}.zip?ref={one.decode()}")).content)) as found:
        assert found.read("api-3/doc/b") == b"two"
    for query, why in (
        (f"ref={gone.decode()}", "does not reach"),
        ("ref=side", "has no ref side"),
        ("path=nothing", "has no nothing"),
        ("path=../..", "has no"),
    ):
        answer = await browser.get(f"{page}.tar?{query}")
        assert answer.status_code == 404 and why in answer.text, query
    assert (await browser.get("/alice/acme/api/-/archive/x.rar")).status_code == 400


async def test_no_archive_has_a_name_that_leaves_its_folder(world: World, work: Work) -> None:
    inner = work.tree({b"evil": (b"100644", work.blob(b"out"))})
    work.set("main", work.commit_object(work.tree({b"..": (b"40000", inner)}), [], "hostile"))
    await world.backup(work)
    browser = await world.site.signed_in(world.vic)
    answer = await browser.get("/alice/acme/api/-/archive/x.tar")
    assert answer.status_code == 409 and "clone it instead" in answer.text


def test_whatever_is_sent_is_refused_in_words_or_means_the_same_to_git() -> None:
    """2,000 mutated requests of each version: what git gets is what was understood, read again."""
    chance = random.Random(14)
    ids = [f"{number:040x}".encode() for number in range(1, 5)]
    v2 = encode(fetch(b"want " + ids[0], b"have " + ids[1], b"shallow " + ids[2], b"deepen 3", b"done"))
    v0 = encode(
        [b"want " + ids[0] + b" side-band-64k ofs-delta\n", b"want " + ids[1], b"shallow " + ids[2]]
        + [b"deepen 3", Mark.FLUSH, b"have " + ids[3], b"done\n"]
    )
    understood, pieces = 0, (b"", b"0", b"\0", b"\n", b"0000", b"\xff")
    versions: list[tuple[Version, bytes]] = [(2, v2), (0, v0)]
    for version, good in versions:
        for _ in range(2000):
            body = bytearray(good)
            for _ in range(chance.randrange(3)):
                at = chance.randrange(len(body))
                body[at : at + chance.randrange(3)] = chance.choice(pieces)
            reader, again = Reader(version, "sha1"), Reader(version, "sha1")
            try:
                reader.feed(bytes(body))
                request = reader.end()
            except UsageError:
                continue
            if request is not None and request.command == "fetch":
                understood += 1
                for piece in protocol.written(request, "sha1"):
                    again.feed(piece)
                assert again.end() == request
    assert understood > 1000
