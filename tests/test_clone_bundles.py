"""Bundles for clones: what stock git is offered of the vault's own bytes, and that it is never too much."""

import math
import random
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from mirror.core.formats import pktline
from mirror.core.formats.upload_pack import Request
from mirror.core.model import Repo
from mirror.jobs.runner import Runner
from mirror.restore import bundles, serving
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.people import teams, tokens
from mirror.store.restore import served as counts
from tests.parts.gitclient import World, done, git, world
from tests.parts.repos import Work, objects_of, run_git
from tests.parts.whole import until

__all__ = ["world"]

ASK = {"content-type": "application/x-git-upload-pack-request", "git-protocol": "version=2"}
NOISE = random.Random(14).randbytes(400_000)


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "LEAST", 0)


async def _asked(world: World, what: str, token: str = "") -> httpx.Response:
    """A request for the list, as git makes it."""
    body = pktline.encode((b"command=bundle-uri", b"object-format=sha1", pktline.Mark.FLUSH))
    address = f"http://127.0.0.1:{world.served.port}/git/{world.team.name}/{what}/git-upload-pack"
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(address, content=body, headers=ASK, auth=("git", token or world.token))


async def _offered(world: World, what: str = "acme/api") -> dict[str, str]:
    """What the list says; empty: it offers nothing."""
    answer = await _asked(world, what)
    assert answer.status_code == 200, answer.text
    lines = pktline.Lines()
    told = [one.decode() for one in lines.feed(answer.content) if isinstance(one, bytes)]
    return dict(one.split("=", 1) for one in told)


def _url(offered: dict[str, str]) -> str:
    (url,) = [value for key, value in offered.items() if key.endswith(".uri")]
    return url.replace("http://127.0.0.1:8000", "")


async def _got(world: World, path: str, **headers: str) -> httpx.Response:
    """The bundle, asked for without any credentials."""
    async with httpx.AsyncClient(timeout=60, base_url=f"http://127.0.0.1:{world.served.port}") as client:
        return await client.get(path, headers=headers)


async def _history(world: World, work: Work) -> Repo:
    """A repo with history in three parts, and a tag."""
    for number in range(3):
        work.commit("main", {f"f{number}": NOISE[number * 100_000 : (number + 1) * 100_000]})
        await world.backup(work)
    work.tag("v1", message="signed off")
    return await world.backup(work)


async def test_a_moment_in_which_nothing_was_overwritten_is_offered_as_the_vault_has_it(
    world: World, work: Work, tmp_path: Path
) -> None:
    await _history(world, work)
    then = objects_of(work.path, everything=True)
    for what, token in (("acme/api", "4"), ("acme/api@2", "2")):
        offered = await _offered(world, what)
        name = f"bundle.snapshot-{token}"
        assert (offered["bundle.version"], offered["bundle.mode"]) == ("1", "all")
        assert (offered["bundle.heuristic"], offered[f"{name}.creationtoken"]) == ("creationToken", token)
        whole = await _got(world, _url(offered))
        assert whole.headers["content-length"] == str(len(whole.content))
        rest = await _got(world, _url(offered), range="bytes=1000-")
        assert (rest.status_code, rest.content) == (206, whole.content[1000:])
        file = tmp_path / f"{token}.bundle"
        file.write_bytes(whole.content)
        bare = tmp_path / f"{token}.git"
        run_git("clone", "-q", "--mirror", file, bare)
        assert objects_of(bare, everything=True) == (then if token == "4" else objects_of(bare))
    assert run_git("-C", bare, "for-each-ref", "--format=%(refname)").split() == [b"refs/heads/main"]

    async def counted() -> bool:  # once the server has seen that it is over
        served = (await counts.counted(world.site.mirror.services.db))["bundle"]
        return served.number == 4 and served.bytes > 500_000

    await until(counted)


@pytest.mark.parametrize("how", ["force-push", "deletion"])
async def test_what_was_overwritten_does_not_travel_in_a_bundle(world: World, work: Work, how: str) -> None:
    work.commit("main", {"a": b"one"})
    work.commit("side", {"secret": NOISE[:1000]}) if how == "deletion" else None
    await world.backup(work)
    assert await _offered(world)
    if how == "deletion":
        work.delete("side")
    else:
        work.commit("main", {"a": b"anew"}, parents=[])
    await world.backup(work)
    assert await _offered(world) == {}
    assert await _offered(world, "acme/api@1")  # which does reach it
    services = world.site.mirror.services
    repo = (await repos.by_name(services.db, world.team.id, "acme/api")) or pytest.fail("it is gone")
    first = await snapshots.get(services.db, repo.id, 1) or pytest.fail("it is gone")
    shared = serving.answered(services, repo, first, Request(2, "bundle-uri"))  # as a share link's door asks
    assert [chunk async for chunk in shared] == [b"0000"]


async def test_a_link_ends_with_the_token_the_membership_and_the_hour(world: World, work: Work) -> None:
    await _history(world, work)
    db, clock = world.site.mirror.services.db, world.site.mirror.clock
    clock.step *= 0
    links = [_url(await _offered(world)) for _ in range(2)]
    assert (await _got(world, links[0])).status_code == 200
    assert (await _got(world, links[0][:-3] + "AAA")).status_code == 404
    clock.now += timedelta(hours=1, minutes=5)
    assert (await _got(world, links[0])).status_code == 404
    link = _url(await _offered(world))
    assert (await _got(world, link)).status_code == 200
    (token,) = await tokens.all_of(db, world.team.id, world.vic.id)
    await tokens.revoke(db, world.team.id, token.id, clock.now)
    assert (await _got(world, link)).status_code == 404
    assert (await _asked(world, "acme/api")).status_code == 401
    world.token = await world.site.token(world.vic, world.team)
    link = _url(await _offered(world))
    await teams.remove_member(db, world.team.id, world.vic.id, clock.now)
    assert (await _got(world, link)).status_code == 404


class _Counted:
    """How many bytes upload-pack has sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        told = serving.answered

        async def counted(*args: Any, **named: Any) -> AsyncGenerator[bytes, None]:
            async for chunk in told(*args, **named):
                self.bytes += len(chunk)
                yield chunk

        monkeypatch.setattr(serving, "answered", counted)


async def test_stock_git_takes_four_fifths_of_a_clone_from_the_bundle_and_the_rest_from_us(
    world: World, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _history(world, work)
    object.__setattr__(world.site.outside, "origin", f"http://127.0.0.1:{world.served.port}")  # for links
    counted = _Counted(monkeypatch)
    plain = world.place / "plain"
    await done("clone", "-q", world.url(), plain)  # a client that ignores it
    without, counted.bytes = counted.bytes, 0
    helped = world.place / "helped"
    said = await git("clone", "-q", f"--bundle-uri={world.url('acme/api/bundles')}", world.url(), helped)
    assert said.code == 0 and "bundle" not in said.err, said.err
    assert counted.bytes < without / 5
    for clone in (plain, helped):
        tip = work.tip().decode()
        assert await done("rev-parse", "main", "v1^{commit}", cwd=clone) == f"{tip}\n{tip}"
        await done("fsck", "--strict", cwd=clone)


async def test_a_bundle_that_is_gone_costs_a_clone_nothing(world: World, work: Work) -> None:
    await _history(world, work)
    gone = f"http://127.0.0.1:{world.served.port}/git/alice/acme/api/bundles/nothing"
    clone = world.place / "clone"
    said = await git("clone", "-q", f"--bundle-uri={gone}", world.url(), clone)
    assert said.code == 0 and "fatal" not in said.err
    assert await done("rev-parse", "main", cwd=clone) == work.tip().decode()


async def test_where_a_branch_was_deleted_the_default_one_is_bundled_once_clones_ask_again(
    world: World, work: Work, tmp_path: Path
) -> None:
    site, services = world.site, world.site.mirror.services
    first = work.commit("main", {"a": NOISE[:1000]})
    secret = work.commit("side", {"secret": b"hush"})
    await world.backup(work)
    work.delete("side")
    repo = await world.backup(work)
    site.mirror.clock.step *= 0
    for _ in range(3):
        assert await _offered(world) == {}
    assert await services.db.fetchval("select count(*) from job where kind = 'bundle'") == 1
    await Runner(services).serve(repo.id, math.inf)
    offered = await _offered(world)
    assert offered["bundle.branch-2.creationtoken"] == "2"
    file = tmp_path / "main.bundle"
    file.write_bytes((await _got(world, _url(offered))).content)
    bare = tmp_path / "main.git"
    run_git("clone", "-q", "--mirror", file, bare)
    assert first in objects_of(bare, everything=True) and secret not in objects_of(bare, everything=True)
    work.commit("main", {"a": b"two"})
    work.commit("other", {"b": b"three"})
    await world.backup(work)
    assert "bundle.branch-2.uri" in await _offered(world)  # of which git adds what came since
    work.commit("main", {"a": b"anew"}, parents=[])
    await world.backup(work)
    assert await _offered(world) == {}


async def test_a_store_that_signs_links_gives_the_part_that_has_nearly_all(
    world: World, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = world.site.mirror.services.vault

    async def signed(_: object, key: str, *__: object) -> str:
        return f"https://store.example/{key}"

    monkeypatch.setattr(type(vault), "presign", signed)
    work.commit("main", {"a": NOISE})
    await world.backup(work)
    work.commit("main", {"b": b"a little more"})
    await world.backup(work)
    url = (await _offered(world))["bundle.snapshot-2.uri"]
    assert url.startswith("https://store.example/")
    file = tmp_path / "part.bundle"
    file.write_bytes(await vault.get(url.removeprefix("https://store.example/")))
    run_git("clone", "-q", "--mirror", file, tmp_path / "part.git")
    work.commit("main", {"c": NOISE[::-1]})
    await world.backup(work)
    assert "/git/alice/acme/api/bundles/" in (await _offered(world))["bundle.snapshot-3.uri"]
