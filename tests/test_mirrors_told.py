"""Mirrors as people and programs meet them: the pages, the API and the command line say the same."""

from collections.abc import Callable
from pathlib import Path

from mirror.backup import sync
from mirror.jobs.mirrors import Mirroring
from mirror.store import repos
from mirror.web import metrics
from tests.parts.api import with_token
from tests.parts.githttp import GitServer
from tests.parts.repos import Work, run_git
from tests.parts.web import Site
from tests.test_cli import Everref, everref, surroundings

__all__ = ["everref", "surroundings"]


async def test_pages_and_api_add_show_and_remove_a_mirror(
    site: Site, work: Work, make_work: Callable[..., Work], git_server: GitServer
) -> None:
    git_server.push = True
    person, services = await site.person("acme"), site.mirror.services
    team, there = await site.team(person), make_work("there.git")
    work.commit()
    repo = await repos.add(services.db, team.id, "acme/api", str(work.path), site.mirror.clock())
    await sync.sync(services, repo.id)
    program, browser = await with_token(site, person, team), await site.signed_in(person)
    page, base = "/acme/acme/api/-/mirrors", f"/teams/{team.name}/repos/{repo.id}/mirrors"
    site.mirror.clock.step *= 0
    refused = await browser.post(page, address="ftp://user:hush@git.example.org/x")
    assert refused.status_code == 422 and "ftp:// addresses are not supported" in refused.text.lower()
    assert "hush" not in refused.text
    url = git_server.add(there.path, "there.git")
    made = await program.post(base, {"address": url, "deletes": True})
    assert (made["address"], made["deletes"], made["repo"]) == (url, True, "acme/api")
    assert "It is pushed for the first time within seconds." in (await browser.get(page)).text
    await Mirroring(services).once()
    (shown,) = (await program.get(base))["items"]
    assert (shown["state"], shown["snapshot"], shown["behind"]) == ("current", 1, 0)
    assert [one["snapshot"] for one in shown["pushes"]] == [1]
    run_git("-C", there.path, "update-ref", "refs/heads/main", there.commit("theirs", {"theirs": b"1"}))
    work.commit()
    await sync.sync(services, repo.id)
    assert (await program.get(f"/teams/{team.name}/mirrors"))["items"][0]["states"] == {"behind": 1}
    await Mirroring(services).once()
    text = (await browser.get(page)).text
    assert "changed there</span>" in text and "changed at the mirror: it holds" in text
    assert "2 refs were changed there by somebody else; that is not overwritten." in text
    assert 'href="/acme/acme/api/-/mirrors"' in (await browser.get("/acme/-/mirrors")).text
    home = (await browser.get("/acme")).text
    assert "See the mirror" in home
    told = (await metrics.told(services)).decode()
    assert 'everref_mirror_targets{state="changed"} 1.0' in told
    assert 'everref_mirror_pushes_total{result="done"} 1.0' in told
    mirror = f"/teams/{team.name}/mirrors/{made['id']}"
    changed = await program.ask("PATCH", mirror, {"overwrites": True})
    assert changed.status_code == 200 and changed.json()["overwrites"] is True
    await Mirroring(services).once()
    assert (await program.get(base))["items"][0]["state"] == "current"
    assert there.refs()[b"refs/heads/main"] == work.tip()  # type: ignore[index]
    assert (await program.ask("DELETE", mirror)).status_code == 204
    assert "This repository has no mirror yet." in (await browser.get(page)).text


def test_the_command_adds_pushes_and_tells_what_differs(
    everref: Everref, work: Work, make_work: Callable[..., Work]
) -> None:
    there = make_work("there.git")
    work.commit()
    everref("backup", str(work.path), "--name", "acme/api")
    added = everref("mirror", "acme/api", "add", str(there.path))
    assert added.out == f"{there.path}  added; the workers push to it within seconds\n"
    (Path(everref.env["EVERREF_DATA"]) / "up.lock").write_text("http://127.0.0.1:8123\n")
    own = everref("mirror", "acme/api", "add", "http://localhost:8123/git/everref/acme/web", code=2)
    assert "Everref's own" in own.err  # as its workers would find
    assert everref("mirror", "acme/api", "push").out == f"{there.path}  #1  1 created\n"
    there.commit("main", {"theirs": b"1"})
    work.commit()
    everref("backup", str(work.path))
    pushed = everref("mirror", "acme/api", "push", code=4)
    assert "diverged  refs/heads/main  changed at the mirror: it holds" in pushed.out
    (shown,) = everref.json("mirror", "acme/api").lines
    assert (shown["state"], shown["counts"]) == ("changed", {"diverged": 1})
    everref("mirror", "acme/api", "pause")
    assert everref("mirrors").out == f"{there.path}  acme/api  1 paused\n"
    assert "is paused" in everref("mirror", "acme/api", "push", code=2).err
    everref("mirror", "acme/api", "remove")
    assert "there is no mirror" in everref("mirror", "acme/api", "remove", code=3).err
