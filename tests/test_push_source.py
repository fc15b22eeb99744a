"""A repo that people push to: what clients are told, what is saved by then, and what is refused."""

import asyncio
import errno
import gzip
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from bench.statements import counted
from mirror.backup import default_branch, pushing, receive
from mirror.backup import sync as syncing
from mirror.core.errors import Damaged, OverLimit
from mirror.core.formats import layout, pktline
from mirror.core.formats.pktline import Mark
from mirror.core.model import Kind, RefName, Repo
from mirror.core.rules.roles import Role
from mirror.discovery import create
from mirror.discovery.choose import EVERREF
from mirror.git import pack
from mirror.git.disk import disk_error
from mirror.git.run import DAY
from mirror.git.view import View
from mirror.jobs.runner import Runner
from mirror.people import accounts
from mirror.restore import bundles
from mirror.services import lease
from mirror.store import repos
from mirror.store.backup import beginnings, history, snapshots
from mirror.store.discovery import remotes
from mirror.store.people import audit, quotas, teams
from mirror.upkeep import verify
from tests.parts.everref import Mirror
from tests.parts.gitclient import World, done, git, world
from tests.parts.packs import pack_of
from tests.parts.repos import Work, fsck, objects_of, refs_of

__all__ = ["world"]

MAIN = RefName(b"refs/heads/main")


async def made(world: World, name: str = "acme/laptop") -> tuple[Repo, str]:
    """A repo to push to, and its address with a token of its owner's that may."""
    services = world.site.mirror.services
    repo = await create.create(services, world.team.id, EVERREF, name)
    token = await world.site.token(world.alice, world.team, ("backup",))
    return repo, world.url(name, token)


async def test_a_push_is_a_snapshot_and_nothing_is_lost_by_force(
    world: World, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_BEAT", DAY)  # a slow machine asks that beside what is counted
    mirror = world.site.mirror
    first = work.commit("main", {"a": b"one"})
    work.set("refs/odd/one", work.commit("refs/heads/per%cent+plus&and=is"))
    work.tag("v1", message="signed off")
    before = work.refs()
    repo, url = await made(world)
    said = await git("-C", work.path, "push", url, "--mirror")
    assert said.code == 0 and "Everref: saved as #1 of acme/laptop, 4 refs" in said.err, said.err
    work.commit("main", {"rewritten": b"1"}, parents=[])
    work.delete("refs/odd/one")
    with counted() as asked:
        said = await git("-C", work.path, "push", url, "--mirror")
    assert said.code == 0 and "saved as #2" in said.err, said.err
    assert len(asked) <= 42, asked  # both requests, with who may, and all that follows
    assert "Everything up-to-date" in (await git("-C", work.path, "push", url, "--mirror")).err
    for number, expected in enumerate((before, work.refs()), 1):
        path = await mirror.restored(repo, number)
        assert refs_of(path) == expected
        fsck(path)
    changes = await history.of_snapshot(mirror.services.db, repo.id, 2)
    assert {(one.name, one.kind, one.by) for one in changes} == {
        (MAIN, Kind.FORCED, "Alice"),
        (RefName(b"refs/odd/one"), Kind.DELETED, "Alice"),
    }
    logged = await audit.page(mirror.services.db, world.team.id, 10)
    assert [one.entry.action for one in logged].count("repo.push") == 2
    page = await (await world.site.signed_in(world.alice)).get("/alice/acme/laptop/-/restore?at=%231")
    assert "Put everything back" in page.text and "Only create what is missing" in page.text
    clone = world.place / "clone"
    await done("clone", "-q", world.url("acme/laptop@1"), clone)
    assert await done("rev-parse", "HEAD", cwd=clone) == first.decode()
    said = await git("clone", world.url("acme/laptop"), world.place / "latest")
    assert "acme/laptop as of #2" in said.err and "host" not in said.err, said.err


async def test_a_ref_that_moved_meanwhile_is_refused_alone_or_with_all_if_the_push_is_atomic(
    world: World, work: Work
) -> None:
    db = world.site.mirror.services.db
    base = work.commit("main")
    repo, url = await made(world)
    await done("-C", work.path, "push", "-q", url, "main")
    ours, theirs = work.commit("main", {"ours": b"1"}), work.commit("dev", {"theirs": b"1"}, parents=[base])

    async def raced(*options: str) -> str:
        """Push main and dev, while somebody moves main between the two requests of this push."""
        hook = work.path / "hooks/pre-push"  # runs in the client, after it was told where refs are
        hook.write_text(f"#!/bin/sh\ngit push -q --no-verify {url} +{theirs.decode()}:refs/heads/main\n")
        hook.chmod(0o755)
        said = await git("-C", work.path, "push", *options, url, "main", "dev")
        assert said.code == 1
        return said.err

    said = await raced("--atomic")
    assert "fetch first" in said and "another ref of this atomic push was refused" in said, said
    now = await snapshots.latest(db, repo.id)
    assert now is not None and now.number == 2
    assert (await history.refs_at(db, repo.id, 2)).keys() == {b"HEAD", MAIN}
    await done("-C", work.path, "push", "--no-verify", "-q", url, f"+{base.decode()}:refs/heads/main")
    said = await raced()
    assert "[remote rejected] main -> main (it has moved since you asked" in said and "dev -> dev" in said, (
        said
    )
    now = await snapshots.latest(db, repo.id)
    assert now is not None
    refs = await history.refs_at(db, repo.id, now.number)
    assert (refs[MAIN], refs[RefName(b"refs/heads/dev")]) == (theirs, theirs) and ours not in refs.values()


async def test_objects_of_a_ref_that_was_refused_are_not_saved_with_a_first_push(
    world: World, work: Work
) -> None:
    """The pack of a first push is kept as it came, and clones are given it whole, as a bundle."""
    work.commit("main", {"a": b"one"})
    work.commit("secret", {"key": b"nobody's business"}, parents=[])
    repo, url = await made(world)
    beside = "secret:refs/heads/main/secret"
    said = await git("-C", work.path, "push", url, "main", beside)
    assert said.code == 1 and "cannot be beside that of another ref" in said.err, said.err
    assert "a first push is saved as a whole" in said.err, said.err
    assert await snapshots.latest(world.site.mirror.services.db, repo.id) is None
    await done("-C", work.path, "push", "-q", url, "main")
    said = await git("-C", work.path, "push", url, beside, "main:dev")
    assert said.code == 1 and "main -> dev" in said.err, said.err
    assert objects_of(await world.site.mirror.restored(repo, 2), everything=True) == objects_of(
        await world.site.mirror.restored(repo, 2)
    )


@pytest.mark.parametrize("size", [10, 300_000], ids=["small", "large"])
async def test_what_no_ref_reaches_is_left_out_of_a_first_push_and_of_what_clones_are_given(
    world: World, work: Work, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Any client may pack what it likes; the first part of the vault is given to clones as it lies."""
    monkeypatch.setattr(bundles, "LEAST", 0)
    mirror = world.site.mirror
    work.commit("main", {"a": random.Random(2).randbytes(size)})
    work.tag("v1", message="signed off")
    reached = objects_of(work.path)
    extra = work.blob(b"nobody's business")
    repo, url = await made(world)
    told = b"\0report-status side-band-64k object-format=sha1"
    names = {name: oid for name, oid in work.refs().items() if name != b"HEAD"}
    lines = [b"0" * 40 + b" " + oid + b" " + name for name, oid in names.items()]
    body = pktline.encode([lines[0] + told, *lines[1:], Mark.FLUSH]) + pack_of(work, [*reached, extra])
    post = f"http://127.0.0.1:{world.served.port}/git/{world.team.name}/acme/laptop/git-receive-pack"
    kind = {"content-type": "application/x-git-receive-pack-request"}
    token = url.partition("git:")[2].partition("@")[0]
    async with httpx.AsyncClient(auth=("x", token), timeout=60) as client:
        answer = await client.post(post, content=body, headers=kind)
        assert b"ok refs/heads/main" in answer.content, answer.content
    assert objects_of(await mirror.restored(repo, 1), everything=True) == reached
    first = await mirror.snapshot(repo, 1)
    offer = await bundles.offer(mirror.services, repo, first)
    assert offer is not None
    file = world.place / "offered.bundle"
    file.write_bytes(b"".join([chunk async for chunk in bundles.read(mirror.services, offer)]))
    clone = world.place / "offered.git"
    await done("clone", "-q", "--mirror", file, clone)
    assert objects_of(clone, everything=True) == reached
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())
    work.commit("main", {"b": b"2"})
    await done("-C", work.path, "push", "-q", url, "--mirror")
    assert objects_of(await mirror.restored(repo, 2), everything=True) == objects_of(work.path)


async def test_head_is_set_by_a_push_option_and_other_formats_and_clients_push_too(
    world: World, make_work: Callable[..., Work]
) -> None:
    services = world.site.mirror.services
    work = make_work("wide", "sha256")
    work.commit("trunk")
    work.commit("main")
    repo = await create.create(services, world.team.id, EVERREF, "big", "sha256")
    url = (await made(world))[1].replace("acme/laptop", "big")
    await done("-C", work.path, "push", "-q", "-o", "everref.head=trunk", url, "--all")
    refs = await history.refs_at(services.db, repo.id, 1)
    assert (refs[RefName(b"HEAD")], refs[MAIN]) == (b"ref: refs/heads/trunk", work.tip("main"))
    other = make_work("other")
    other.commit("main")
    assert (await git("-C", other.path, "push", url, "--all")).code != 0


async def test_dulwich_and_libgit2_push_as_well(world: World, work: Work, tmp_path: Path) -> None:
    services = world.site.mirror.services
    work.commit("main", {"a": b"1"})
    repo, url = await made(world)
    path, plain = str(work.path), url.replace("git:", "x:")

    def by_dulwich() -> None:
        from dulwich import porcelain

        porcelain.push(path, plain, "refs/heads/main", outstream=io.BytesIO(), errstream=io.BytesIO())

    def by_libgit2() -> None:
        import pygit2

        found = pygit2.Repository(path)
        found.remotes.create_anonymous(plain).push(["+refs/heads/main:refs/heads/main"])

    await asyncio.to_thread(by_dulwich)
    work.commit("main", {"b": b"2"}, parents=[])
    await asyncio.to_thread(by_libgit2)
    last = await snapshots.latest(services.db, repo.id)
    assert last is not None and last.number == 2
    assert (await history.refs_at(services.db, repo.id, 2))[MAIN] == work.tip()


async def test_who_may_not_push_is_told_why_and_a_moment_or_another_repo_takes_none(
    world: World, work: Work
) -> None:
    work.commit("main")
    repo, url = await made(world)
    await world.backup(work)
    services = world.site.mirror.services
    reads = await world.site.token(world.alice, world.team, ("read",))
    now, password = services.clock(), "correct-horse-battery"
    pat = await accounts.sign_up(services.db, "pat@example.org", password, "Pat", now, "127.0.0.1")
    await teams.add(services.db, world.team.id, pat.id, Role.VIEWER, now)
    by_password = url.replace(url.partition("//")[2].partition("@")[0], f"pat%40example.org:{password}")
    for address, why in (
        (by_password, "to push needs the role operator; you are viewer"),
        (world.url("acme/laptop"), "does not have the scope backup"),
        (world.url("acme/laptop", reads), "does not have the scope backup"),
        (world.url("acme/laptop", None), "could not read Username"),
        (url + "@1", "leave out the @"),
        (url.replace("laptop", "nothing"), "there is no repository acme/nothing"),
        (url.replace("laptop", "api"), "is backed up from its own host"),
    ):
        said = await git("-C", work.path, "push", address, "--mirror")
        assert said.code == 128 and why in said.err, said.err
    # The token of a stolen laptop reads nothing:
    assert "does not have the scope read" in (await git("ls-remote", url)).err
    await remotes.pause(services.db, repo.id, services.clock())
    assert "is paused" in (await git("-C", work.path, "push", url, "--mirror")).err
    assert await snapshots.latest(services.db, repo.id) is None


async def test_what_is_no_whole_push_is_refused_and_nothing_of_it_stays(world: World, work: Work) -> None:
    services = world.site.mirror.services
    commit = work.commit("main", {"a": b"1"})
    repo, url = await made(world)
    token = url.partition("git:")[2].partition("@")[0]
    keys = {stat.key async for stat in services.vault.list()}
    zero, blob = b"0" * 40, work.blob(b"1")
    told = b"\0report-status side-band-64k object-format=sha1"

    def asking(new: bytes, name: bytes = b"refs/heads/main") -> bytes:
        return pktline.encode([zero + b" " + new + b" " + name + told, Mark.FLUSH])

    whole, lacking = pack_of(work, [commit]), pack_of(work, [blob])
    cases = (
        (asking(commit) + whole, b"not a complete pack"),  # its tree is not there
        (asking(commit) + lacking, b"did not send"),
        (asking(commit) + whole[:-30], b"not a complete pack"),
        (asking(commit) + b"PACK", b"not a complete pack"),
        (asking(commit), b"not a complete pack"),
        (asking(blob) + lacking, b"no commit, as a branch must be"),
        (asking(blob, b"refs/heads/a..b") + lacking, b"no name that git accepts"),
        (pktline.encode([b"garbage\n"]), None),
        (b"", None),
    )
    async with httpx.AsyncClient(auth=("x", token), timeout=60) as client:
        post = f"http://127.0.0.1:{world.served.port}/git/{world.team.name}/acme/laptop/git-receive-pack"
        kind = {"content-type": "application/x-git-receive-pack-request"}
        for body, why in cases:
            answer = await client.post(post, content=body, headers=kind)
            assert answer.status_code == (400 if why is None else 200), answer.content
            if why is not None:
                assert b"ng refs/" in answer.content and why in answer.content, (why, answer.content)
        assert (await client.post(post, content=b"0000", headers=kind)).content == b""
        assert (await client.post(post, content=b"0000")).status_code == 415
        packed = gzip.compress(asking(blob, b"refs/blobs/one") + lacking)
        answer = await client.post(post, content=packed, headers=kind | {"content-encoding": "gzip"})
        assert b"ok refs/blobs/one" in answer.content, answer.content
    left = {stat.key async for stat in services.vault.list()} - keys
    assert len([key for key in left if "/snapshots/" in key or key.endswith(".bundle")]) == 2
    assert not list((services.disk.root / "incoming").iterdir())


async def test_a_shallow_clone_pushes_what_is_complete_here_and_is_refused_else(
    world: World, work: Work
) -> None:
    for number in range(3):
        work.commit("main", {"a": b"%d" % number})
    shallow = world.place / "shallow"
    await done("clone", "-q", "--depth=1", f"file://{work.path}", shallow)
    repo, url = await made(world)
    said = await git("-C", shallow, "push", url, "main")
    assert said.code == 1 and "git fetch --unshallow" in said.err, said.err
    await done("-C", work.path, "push", "-q", url, "main")
    await done("-C", shallow, "commit", "-q", "--allow-empty", "-m", "later")
    await done("-C", shallow, "push", "-q", url, "main")
    last = await snapshots.latest(world.site.mirror.services.db, repo.id)
    assert last is not None and last.number == 2


async def test_a_push_beyond_the_quota_ends_early_with_the_reason_and_leaves_nothing(
    world: World, work: Work
) -> None:
    services = world.site.mirror.services
    work.commit("main", {"large": random.Random(1).randbytes(3 << 20)})
    repo, url = await made(world)
    await quotas.set(services.db, world.team.id, "repo-bytes", 1 << 20, services.clock())
    said = await git("-C", work.path, "push", url, "main")
    assert said.code == 1 and "remote: Everref: nothing new is saved: the limit of" in said.err, said.err
    assert not list((services.disk.root / "incoming").iterdir())
    assert await snapshots.latest(services.db, repo.id) is None
    await quotas.set(services.db, world.team.id, "repo-bytes", 9 << 20, services.clock())
    await done("-C", work.path, "push", "-q", url, "main")


async def test_of_a_push_far_beyond_the_quota_no_more_is_read_than_fits(world: World) -> None:
    services = world.site.mirror.services
    repo, _ = await made(world)
    await quotas.set(services.db, world.team.id, "repo-bytes", 10 << 20, services.clock())
    read = 0

    async def pack() -> AsyncGenerator[bytes, None]:
        nonlocal read
        for _ in range(1 << 10):
            read += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(OverLimit, match="nothing new is saved"):
        async with pushing.set_aside(services, repo, pack()):
            pass
    assert read == 11 << 20  # of 1 GiB
    assert not list((services.disk.root / "incoming").iterdir())


@pytest.mark.parametrize("where", ["set_aside", "saved"])
async def test_a_full_disk_is_told_in_one_line_without_our_paths_and_the_next_push_is_saved(
    world: World, work: Work, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    services = world.site.mirror.services
    work.commit("main")
    repo, url = await made(world)
    await done("-C", work.path, "push", "-q", url, "main")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patched:
        if where == "set_aside":
            patched.setattr(pushing, "write_all", Mock(side_effect=full))
        else:
            patched.setattr(pack, "index", Mock(side_effect=disk_error(services.disk.root / "pools", full)))
        work.commit("main", {"later": b"1"})
        said = await git("-C", work.path, "push", url, "main")
    assert said.code == 1 and "a disk of it is full or broken; try again" in said.err, said.err
    assert str(services.disk.root) not in said.err, said.err
    assert str(services.disk.root) in caplog.text
    assert not list((services.disk.root / "incoming").iterdir())
    assert "saved as #2" in (await git("-C", work.path, "push", url, "main")).err
    fsck(await world.site.mirror.restored(repo, 2))


async def test_people_create_one_on_a_page_and_by_the_api_and_read_how_to_push(world: World) -> None:
    alice, services = await world.site.signed_in(world.alice), world.site.mirror.services
    answer = await alice.post("/alice/-/connect/push", name="../x")
    assert answer.status_code == 422 and "a name has letters" in answer.text.lower()
    answer = await alice.post("/alice/-/connect/push", name="acme/laptop")
    page = await alice.get(answer.headers["location"])
    assert "git remote add everref" in page.text and "/git/alice/acme/laptop" in page.text
    assert "Back up now" not in page.text and "nothing pushed yet" in page.text
    assert "push to it first" in (await alice.get("/alice/acme/laptop/-/clone")).text
    assert "It has no remote" in (await alice.get("/alice/acme/laptop/-/settings")).text
    token = await world.site.token(world.alice, world.team, ("read", "backup", "admin"))
    async with httpx.AsyncClient(timeout=60, headers={"authorization": f"Bearer {token}"}) as client:
        calls = f"http://127.0.0.1:{world.served.port}/api/v1/teams/alice/repos"
        made = await client.post(calls, json={"name": "ci"})
        assert (made.status_code, made.json()["url"], made.json()["state"]) == (201, None, "never")
        again = await client.post(calls, json={"name": "ci"})
        assert again.json()["id"] == made.json()["id"]
        asked = await client.post(
            calls.rpartition("/teams")[0] + "/backups", json={"repo": made.json()["id"]}
        )
        assert "it is backed up by pushing to it" in asked.text, asked.text
        bad = await client.post(calls, json={"name": "other", "default_branch": "a..b"})
        assert bad.status_code == 400 and "name a branch like main" in bad.text, bad.text
        assert await repos.by_name(services.db, world.team.id, "other") is None
        kept = f"{calls}/{made.json()['id']}/settings"
        refused = await client.patch(kept, json={"excluded": ["refs/pull/*"]})
        assert refused.status_code == 400 and "all that is pushed is saved" in refused.text, refused.text
    assert await repos.by_name(services.db, world.team.id, "ci") is not None


async def test_what_is_excluded_counts_for_what_is_fetched_and_not_for_what_is_pushed(
    mirror: Mirror, work: Work
) -> None:
    work.commit("main")
    work.set("refs/pull/1/head", work.tip("main"))
    services = mirror.services
    repo = await create.create(services, await teams.default(services.db), EVERREF, "laptop")
    await repos.set_excluded(services.db, repo.id, ("refs/pull/*",))  # from before it was refused
    await receive.take(services, repo, View(work.path, "sha1"), work.refs())
    assert await mirror.refs(repo, 1) == work.refs()


@pytest.mark.parametrize("step", ["sync: bundle stored", "sync: manifest stored"])
async def test_a_push_that_was_killed_is_finished_by_the_next_or_by_a_worker(
    mirror: Mirror, work: Work, step: str
) -> None:
    work.commit("main")
    services = mirror.services
    team = await teams.default(services.db)
    repo = await create.create(services, team, EVERREF, "laptop")
    settings = services.settings
    told = (settings.data, str(settings.database_url), settings.secret_keys[0], str(repo.id), str(work.path))
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.parts.receiving", step, *told)
    assert await child.wait() == -signal.SIGKILL
    assert await repos.sync_request(services.db, repo.id) is not None  # so that a worker comes
    if step == "sync: manifest stored":
        assert (await syncing.sync(services, repo.id)).snapshot.number == 1
    took = await receive.take(services, repo, View(work.path, "sha1"), work.refs())
    assert took.snapshot.number == 1 and took.new == (step != "sync: manifest stored")
    assert await repos.sync_request(services.db, repo.id) is None
    assert refs_of(await mirror.restored(repo, 1)) == work.refs()
    found = await verify.verify(services, repo)
    assert (found.problems, found.strays) == ((), ())


async def test_damage_that_keeps_pushes_out_is_shown_and_tried_again_ever_less_often(
    mirror: Mirror, work: Work
) -> None:
    work.commit("main")
    services, clock = mirror.services, mirror.clock
    repo = await create.create(services, await teams.default(services.db), EVERREF, "laptop")

    async def pushed() -> int:
        return (await receive.take(services, repo, View(work.path, "sha1"), work.refs())).snapshot.number

    async def tried() -> tuple[int, bool]:
        """How many syncs have failed, and whether the repo is shown as failing, once workers have looked."""
        await Runner(services).work_off()
        rows = await services.db.fetch("select state from job where kind = 'sync' and state = 'failed'")
        return len(rows), (await beginnings.of(services.db, repo.id)).is_failing

    assert await pushed() == 1
    work.commit("main", {"a": b"2"})
    stored = Path(services.settings.data) / "vault" / layout.manifest_key(repo.id, 2)
    stored.write_bytes(b"garbage")  # what a push that was killed has left, damaged since
    await repos.request_sync(services.db, repo.id, clock.now)
    async with asyncio.timeout(200):
        assert await tried() == (1, True)
    clock.now += timedelta(days=2)
    with pytest.raises(Damaged, match="is damaged"):
        await pushed()
    assert await tried() == (1, True)  # it waits longer than the push took
    stored.unlink()
    clock.now += timedelta(days=2)
    assert await tried() == (1, False)
    assert await pushed() == 2


async def test_the_default_branch_is_set_by_page_and_api_and_a_push_that_deletes_it_is_told(
    world: World, work: Work
) -> None:
    services = world.site.mirror.services
    work.commit("main")
    work.commit("trunk", {"t": b"1"})
    repo, url = await made(world)
    alice = await world.site.signed_in(world.alice)
    settings = "/alice/acme/laptop/-/settings"
    moved = await alice.post(f"{settings}/default-branch", branch="trunk")
    assert moved.status_code == 303 and moved.headers["location"].startswith(settings)
    await done("-C", work.path, "push", "-q", url, "--mirror")
    clone = world.place / "clone"
    await done("clone", "-q", world.url("acme/laptop"), clone)
    assert await done("symbolic-ref", "HEAD", cwd=clone) == "refs/heads/trunk"
    page = (await alice.get(settings)).text
    assert 'value="trunk"' in page and "Default branch" in page
    wrong = await alice.post(f"{settings}/default-branch", branch="gone")
    assert wrong.status_code == 422 and "has no branch gone; push it first" in wrong.text
    token = await world.site.token(world.alice, world.team, ("read", "backup", "admin"))
    async with httpx.AsyncClient(timeout=60, headers={"authorization": f"Bearer {token}"}) as client:
        kept = f"http://127.0.0.1:{world.served.port}/api/v1/teams/alice/repos/{repo.id}/settings"
        answer = await client.patch(kept, json={"default_branch": "main"})
        assert answer.status_code == 200, answer.text
    assert await default_branch.of(services, repo) == "main"
    last = await snapshots.latest(services.db, repo.id)
    assert last is not None and last.number == 3
    (change,) = await history.of_snapshot(services.db, repo.id, 3)
    assert (change.name, change.by) == (b"HEAD", "Alice")
    assert not await default_branch.set(services, repo, "refs/heads/main", "Alice")
    await alice.post(f"{settings}/pause")
    stopped = await alice.post(f"{settings}/default-branch", branch="trunk")
    assert stopped.status_code == 422 and "is paused: nothing new is saved" in stopped.text
    assert await default_branch.of(services, repo) == "main"
    await alice.post(f"{settings}/resume")
    said = await git("-C", work.path, "push", url, ":main")
    assert "HEAD still leads to main, which this push deleted" in said.err, said.err
    logged = await audit.page(services.db, world.team.id, 20)
    assert [one.entry.action for one in logged].count("repo.default-branch") == 2


def test_a_command_sets_the_default_branch_of_a_new_repo_and_of_one_that_is_here(
    mirror: Mirror, work: Work, everref: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    said = everref("create", "laptop", "--default-branch", "trunk", "--json")
    assert said.returncode == 0, said.stderr
    assert "ref: refs/heads/trunk" in everref("refs", "laptop", "--json").stdout
    again = everref("create", "laptop", "--default-branch", "main")
    assert again.returncode == 0, again.stderr
    assert "ref: refs/heads/main" in everref("refs", "laptop", "--json").stdout
    bad = everref("create", "other", "--default-branch", "a..b")
    assert "name a branch like main" in bad.stderr
    assert "other" not in everref("repos").stdout
