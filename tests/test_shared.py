"""What a share link gives to somebody without an account, and that it gives no more than it covers."""

import io
import os
import re
import zipfile
from dataclasses import dataclass, replace
from datetime import timedelta
from html import unescape
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from mirror.core.errors import TooOften
from mirror.core.formats import pktline
from mirror.core.model import Target
from mirror.jobs.runner import Runner
from mirror.restore import shares
from mirror.store.people import audit
from mirror.store.restore import shares as rows
from mirror.web.strangers import FROM_ONE, OF_LINK, Strangers
from tests.parts import sockets
from tests.parts.gitclient import World, done, git, world
from tests.parts.repos import Work, refs_of, run_git
from tests.parts.web import Browser
from tests.parts.whole import until

__all__ = ["world"]
PASSWORD = "a long enough one"


@dataclass
class Given:
    """A repo with a secret branch, its owner's browser, and what strangers have."""

    world: World
    alice: Browser
    stranger: Browser
    main: Target
    secret: Target

    async def link(self, **fields: object) -> str:
        """The path of a new link, as the page shows it once."""
        chosen = {"form": ["bundle", "clone"], "days": "7"} | fields
        await self.alice.get("/alice/acme/api/-/share")
        made = await self.alice.post("/alice/acme/api/-/share", **chosen)
        assert made.status_code == 303, made.text
        page = await self.alice.get(made.headers["location"])
        found = re.search(r"http://127\.0\.0\.1:8000(/s/[\w-]+)", unescape(page.text))
        assert found, page.text
        assert found[1] not in (await self.alice.get(made.headers["location"])).text  # shown once
        return found[1]

    def url(self, link: str, password: str = "") -> str:
        user = f"share:{password.replace(' ', '%20')}@" if password else ""
        return f"http://{user}127.0.0.1:{self.world.served.port}{link}"

    async def rows(self) -> list[rows.Share]:
        mirror = self.world.site.mirror
        return list(await rows.of_team(mirror.services.db, self.world.team.id, mirror.clock.now))

    async def revoke(self) -> None:
        (share,) = [one for one in await self.rows() if one.state == "live"]
        await self.alice.get("/alice/-/shares")
        answer = await self.alice.post(f"/alice/-/shares/{share.id}/revoke")
        assert answer.status_code == 303


@pytest_asyncio.fixture
async def given(world: World, work: Work) -> Given:
    main = work.commit("main", {"a": b"one"})
    secret = work.commit("secret", {"key": b"nobody's business"})
    work.head("main")
    await world.backup(work)
    world.site.mirror.clock.step *= 0
    alice = await world.site.signed_in(world.alice)
    return Given(world, alice, await world.site.browser(), main, secret)


def _private(answer: httpx.Response) -> bool:
    return "noindex" in answer.headers["x-robots-tag"] and answer.headers["referrer-policy"] == "no-referrer"


async def test_a_link_is_shown_once_works_without_an_account_and_ends_at_once(given: Given) -> None:
    link = await given.link(refs="main")
    page = await given.stranger.get(link)
    assert page.status_code == 200 and _private(page)
    assert '<meta name="robots" content="noindex' in page.text
    assert "Shared by Alice of alice" in page.text
    assert "refs/heads/main" in page.text and "secret" not in page.text
    assert "/sign-in" not in page.text
    assert "acme/api at #1" in (await given.alice.get("/alice/acme/api/-/shares")).text
    await given.revoke()
    accept = {"accept": "text/html"}
    dead = await given.stranger.client.get(link, headers=accept)
    never = await given.stranger.client.get("/s/" + "x" * 43, headers=accept)
    assert (dead.status_code, never.status_code) == (404, 404)
    assert dead.text.replace(link, "") == never.text.replace("/s/" + "x" * 43, "")
    assert _private(dead)
    for path in (f"{link}/bundle", f"{link}/info/refs?service=git-upload-pack"):
        gone = await given.stranger.get(path)
        assert gone.status_code == 404 and _private(gone)
    assert "was revoked" in (await given.alice.get("/alice/-/shares")).text


@pytest.mark.parametrize("version", ["0", "2"])
async def test_stock_git_clones_what_the_chosen_refs_reach_and_nothing_else(
    given: Given, tmp_path: Path, version: str
) -> None:
    link = await given.link(refs="main")
    protocol = ("-c", f"protocol.version={version}")
    clone = tmp_path / "clone"
    await done(*protocol, "clone", "-q", given.url(link), clone)
    assert await done("rev-parse", "HEAD", cwd=clone) == given.main.decode()
    assert await done("branch", "-r", cwd=clone) == "origin/HEAD -> origin/main\n  origin/main"
    wanted = await git(*protocol, "fetch", "-q", given.url(link), given.secret.decode(), cwd=clone)
    assert wanted.code != 0 and "not our ref" in wanted.err
    assert (await git("cat-file", "-e", given.secret.decode(), cwd=clone)).code != 0
    pushed = await git("push", "-q", given.url(link), "HEAD:refs/heads/x", cwd=clone)
    assert pushed.code != 0 and "a share link is for clones and fetches" in pushed.err
    (share,) = await given.rows()
    assert share.uses >= 1 and share.bytes > 0
    mirror = given.world.site.mirror
    (entry,) = await audit.page(mirror.services.db, given.world.team.id, action="share.use")
    assert (entry.entry.detail["what"], entry.entry.address) == ("clone", "127.0.0.1")
    used = await given.alice.get(f"/alice/-/shares/{share.id}")
    assert "127.0.0.1" in used.text and "cloned" in used.text


async def test_a_password_is_asked_of_browsers_and_of_git(given: Given, tmp_path: Path) -> None:
    link = await given.link(password=PASSWORD)
    page = await given.stranger.get(link)
    assert "A password is needed" in page.text and "acme/api" not in page.text
    refused = await git("clone", "-q", given.url(link, "another long one"), tmp_path / "no")
    assert refused.code != 0
    assert (await given.stranger.get(f"{link}/bundle")).headers["www-authenticate"].startswith("Basic")
    wrong = await given.stranger.post(link, password="another long one")
    assert wrong.status_code == 422 and "That is not the password" in wrong.text
    right = await given.stranger.post(link, password=PASSWORD)
    assert right.status_code == 303
    assert "acme/api" in (await given.stranger.get(link)).text
    await done("clone", "-q", given.url(link, PASSWORD), tmp_path / "yes")
    other = await given.link(password=PASSWORD + "!")
    assert "A password is needed" in (await given.stranger.get(other)).text  # the cookie is for one link


async def test_a_link_that_works_once_gives_one_clone(given: Given, tmp_path: Path) -> None:
    link = await given.link(once="1")
    assert (await git("ls-remote", given.url(link))).code == 0  # uses nothing up
    await done("clone", "-q", given.url(link), tmp_path / "first")
    again = await git("clone", "-q", given.url(link), tmp_path / "second")
    assert again.code != 0
    (share,) = await given.rows()
    assert (share.state, share.uses) == ("used", 1)


async def test_git_says_what_is_a_use_and_no_client(given: Given, work: Work) -> None:
    """A client gets a pack without `done`, too; and who leaves out a first byte has the rest."""
    tip = work.commit("main", {"a": b"two"})
    await given.world.backup(work)
    mirror = given.world.site.mirror
    asked = {"content-type": "application/x-git-upload-pack-request", "git-protocol": "version=2"}

    async def packs(link: str, *said: bytes) -> bool:
        lines = (b"want " + tip, *said)
        body = pktline.encode((b"command=fetch", pktline.Mark.DELIM, *lines, pktline.Mark.FLUSH))
        answer = await given.stranger.client.post(f"{link}/git-upload-pack", content=body, headers=asked)
        return answer.status_code == 200 and b"PACK" in answer.content

    async def ended(uses: int) -> bool:
        (share, *_) = await given.rows()
        return (share.uses, share.state) == (uses, "used")

    for said in ([], [b"have " + given.main]):
        link = await given.link(refs="main", once="on")
        assert await packs(link, *said), said
        await until(lambda: ended(1))
        assert not await packs(link, *said)
    (first, second) = await audit.page(mirror.services.db, given.world.team.id, action="share.use")
    assert first.entry.detail["what"] == second.entry.detail["what"] == "clone"

    await given.link(refs="main")
    (share,) = [one for one in await given.rows() if not one.once]
    for _ in range(2):  # parts of a bundle, none of them the first
        await shares.go_on(mirror.services, share, "bundle", "192.0.2.1")
    (share,) = [one for one in await given.rows() if not one.once]
    entries = await audit.page(mirror.services.db, given.world.team.id, action="share.use")
    assert share.uses == 1 and len(entries) == 3 and entries[0].entry.address == "192.0.2.1"


async def test_the_bundle_is_made_once_and_read_through_us_in_any_part(given: Given, tmp_path: Path) -> None:
    link = await given.link(refs="main")
    waits = await given.stranger.get(f"{link}/bundle")
    assert (waits.status_code, waits.headers["retry-after"]) == (503, "5")
    page = await given.stranger.get(link)
    assert "The bundle is being made" in page.text and 'http-equiv="refresh"' in page.text
    await Runner(given.world.site.mirror.services).work_off()
    assert "Download" in (await given.stranger.get(link)).text
    whole = await given.stranger.get(f"{link}/bundle")
    assert whole.status_code == 200 and _private(whole)
    rest = await given.stranger.client.get(f"{link}/bundle", headers={"range": "bytes=10-"})
    assert (rest.status_code, rest.content) == (206, whole.content[10:])
    file = tmp_path / "api.bundle"
    file.write_bytes(whole.content)
    run_git("clone", "-q", "--bare", file, tmp_path / "clone")
    assert refs_of(tmp_path / "clone").keys() == {b"HEAD", b"refs/heads/main"}
    (share,) = await given.rows()
    assert share.uses == 1 and share.bytes == 2 * len(whole.content) - 10
    assert await given.stranger.post(f"{link}/bundle") is not None
    jobs = await given.world.site.mirror.services.db.fetchval(
        "select count(*) from job where kind = 'bundle'"
    )
    assert jobs == 1
    await given.revoke()
    assert (await given.stranger.get(f"{link}/bundle")).status_code == 404


async def test_an_archive_has_the_files_of_a_shared_ref_and_of_no_other(given: Given) -> None:
    link = await given.link(form=["archive"], refs="main", once="1")
    page = await given.stranger.get(link)
    assert f"{link}/archive/files.zip?ref=refs%2Fheads%2Fmain" in page.text and "git clone" not in page.text
    for ref in ("secret", given.secret.decode()):
        assert (await given.stranger.get(f"{link}/archive/x.zip", ref=ref)).status_code == 404
    assert (await given.stranger.get(f"{link}/bundle")).status_code == 404
    files = await given.stranger.get(f"{link}/archive/files.zip", ref="refs/heads/main")
    assert files.status_code == 200 and _private(files)
    with zipfile.ZipFile(io.BytesIO(files.content)) as opened:
        assert opened.namelist() == ["api-1/", "api-1/a"]
    assert (await given.stranger.get(link)).status_code == 404  # it was used up


async def test_a_download_under_way_is_cut_off_where_the_link_is_revoked(given: Given, work: Work) -> None:
    work.commit("main", {"large": os.urandom(12 << 20)})
    await given.world.backup(work)
    link = await given.link(form=["bundle"], refs="main")
    await Runner(given.world.site.mirror.services).work_off()
    client = await given.world.served.open()
    client.writer.write(f"GET {link}/bundle HTTP/1.1\r\nhost: 127.0.0.1:8000\r\n\r\n".encode())
    head = await client.reader.readuntil(b"\r\n\r\n")
    (size,) = re.findall(rb"content-length: (\d+)", head)
    await given.revoke()  # while nobody reads
    db = given.world.site.mirror.services.db
    await until(lambda: db.fetchval("select bytes > 0 from share"))  # what was sent is counted at the end
    assert len(await client.ended()) < int(size)
    assert await db.fetchval("select bytes from share") < int(size)


async def test_who_has_a_link_takes_no_place_from_the_clones_of_the_team(
    given: Given, work: Work, tmp_path: Path
) -> None:
    """One link had all places of its team's clones, by archives of which each waited to be sent."""
    work.commit("main", {"large": os.urandom(12 << 20)})
    await given.world.backup(work)
    link = await given.link(form=["archive"], refs="main")
    clones = given.world.site.mirror.services.readers.clones
    slots = given.world.site.outside.strangers.slots
    clones.bounds = replace(clones.bounds, team=1, person=2)
    slots.bounds = replace(slots.bounds, at_once=1)
    text = f"GET {link}/archive/files.tar HTTP/1.1\r\nhost: 127.0.0.1:8000\r\n\r\n".encode()
    await given.world.served.deaf(text)
    await until(lambda: sockets.said(clones._total == 1))
    await given.world.served.deaf(text)
    await until(lambda: sockets.said(len(slots._line) == 1))
    assert clones._total == 1  # who waits for strangers' slots has none of git's
    await done("clone", "-q", given.world.url(), tmp_path / "clone")
    await until(lambda: sockets.said(clones._total == 1))  # nobody has read anything, or ever will
    await given.revoke()
    await until(lambda: sockets.said(not clones._total and not slots._total and not slots._line))


async def test_a_form_says_what_is_wrong_with_it(given: Given) -> None:
    await given.alice.get("/alice/acme/api/-/share")
    for fields, said in [
        ({"form": ["clone"], "days": "91"}, "1 hour to 90 days"),
        ({"form": [], "days": "7"}, "choose what the link gives"),
        ({"form": ["clone"], "days": "7", "password": "short"}, "too short"),
        ({"form": ["clone"], "days": "7", "refs": "nothing*"}, "nothing*"),
        ({"form": ["clone"], "refs": "nothing*", "password": "long enough, this"}, "type the password again"),
    ]:
        answer = await given.alice.post("/alice/acme/api/-/share", **fields)
        assert answer.status_code == 422
        assert said.lower() in unescape(answer.text).lower()
        again = re.search(r'<input id="f-password"[^>]* required', answer.text)
        assert bool(again) == ("password" in fields), fields  # nobody shares without the one they typed
    assert await given.rows() == []


async def test_who_asks_too_often_is_told_to_wait_and_not_that_the_link_is_bad(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await given.link()

    def refuse(*_: object) -> None:
        raise TooOften("this was asked for too often; wait a minute, then try again", 60)

    monkeypatch.setattr(Strangers, "check", refuse)
    answer = await given.stranger.client.get(link, headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert "wait a minute" in answer.text and "does not work" not in answer.text


async def test_a_program_makes_lists_and_revokes_links(given: Given) -> None:
    site, team = given.world.site, given.world.team
    repo = await site.mirror.services.db.fetchval("select id from repo")
    raw = await site.token(given.world.alice, team, ("restore",))
    client, sent = given.stranger.client, {"authorization": f"Bearer {raw}"}
    base = f"/api/v1/teams/{team.name}"
    asked = {"refs": ["main"], "lasts": "12h", "forms": ["clone"]}
    made = await client.post(f"{base}/repos/{repo}/shares", json=asked, headers=sent)
    assert made.status_code == 201, made.text
    link, about = made.json()["url"], made.json()["about"]
    assert "refs/heads/main" in (await given.stranger.get(link)).text
    (listed,) = (await client.get(f"{base}/shares", headers=sent)).json()["items"]
    assert (listed["id"], listed["refs"], listed["state"]) == (about["id"], ["main"], "live")
    (use,) = (await client.get(f"{base}/shares/{about['id']}/uses", headers=sent)).json()["items"]
    assert use["what"] == "page"
    ended = await client.delete(f"{base}/shares/{about['id']}", headers=sent)
    assert ended.json()["state"] == "revoked"
    assert (await given.stranger.get(link)).status_code == 404


async def test_a_new_password_ends_links_but_those_that_are_ticked(given: Given) -> None:
    links = [await given.link(refs="main")]
    given.world.site.mirror.clock.now += timedelta(seconds=1)
    links.append(await given.link())
    await given.alice.post("/account/profile", name="Alice", email="alice@example.org")
    page = unescape((await given.alice.get("/account")).text)
    assert page.count("the share link to acme/api at #1") == 2
    (newest, _) = re.findall(r'name="keep-share" value="([^"]+)"', page)
    await given.alice.post("/account/password", password="another horse 2", **{"keep-share": [newest]})
    assert [(await given.stranger.get(link)).status_code for link in links] == [404, 200]
    assert "set a new password" in (await given.alice.get("/alice/-/shares")).text


async def test_a_dropped_moment_says_so(given: Given) -> None:
    link = await given.link()
    db = given.world.site.mirror.services.db
    await db.execute("update snapshot set dropped_at = now(), dropped_why = 'by the policy'")
    page = await given.stranger.get(link)
    assert page.status_code == 410 and "no longer kept" in page.text


def test_who_asks_too_often_waits_and_holds_up_nobody_else() -> None:
    strangers = Strangers()
    for _ in range(FROM_ONE):
        strangers.check("192.0.2.1", "token", 0.0)
    for _ in range(10_000):
        with pytest.raises(TooOften):
            strangers.check("192.0.2.1", "token", 30.0)
    for number in range(OF_LINK - FROM_ONE):  # what was refused did not count for the link
        strangers.check(f"192.0.2.{2 + number % 200}", "token", 30.0)
    with pytest.raises(TooOften):
        strangers.check("203.0.113.1", "token", 30.0)
    strangers.check("203.0.113.1", "another", 30.0)
    strangers.check("192.0.2.1", "token", 90.0)
