"""Files that people upload to bring a repository in: in pieces, broken off and gone on with, and proved."""

import asyncio
import io
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Final
from uuid import UUID

import pytest
import pytest_asyncio
from playwright.async_api import Route, expect

from mirror.backup import bring_in, uploads
from mirror.backup.uploads import SMALLEST_PIECE
from mirror.core.errors import Damaged
from mirror.core.formats import layout
from mirror.core.model import RepoId
from mirror.discovery.choose import EVERREF
from mirror.jobs import uploads as whole
from mirror.jobs.runner import Runner
from mirror.services import failpoints
from mirror.store import repos
from mirror.store.backup import uploads as rows
from mirror.store.backup.uploads import Upload, UploadId
from mirror.store.discovery import remotes
from mirror.store.people import audit, quotas
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from tests.parts.api import Program, with_token
from tests.parts.browser import PATIENCE, Visitor
from tests.parts.demo import Stage
from tests.parts.repos import Work, objects_of, refs_of
from tests.parts.web import ORIGIN, Site
from tests.test_bring_in import bundled, flipped, tar

OCTETS: Final = {"content-type": "application/octet-stream"}


def read(file: Path) -> bytes:
    return file.read_bytes()


@dataclass
class Uploading:
    """A team of Alice's, and a repository with a file of 600 kB that nobody has yet."""

    site: Site
    alice: Person
    team: Team
    program: Program
    work: Work

    async def begin(self, file: Path, **more: Any) -> dict[str, Any]:
        wanted = {"file": file.name, "bytes": len(read(file)), **more}
        made: dict[str, Any] = await self.program.post("/teams/alice/uploads", wanted)
        return made

    async def piece(self, upload: dict[str, Any], offset: int, data: bytes) -> Any:
        """The answer to one piece."""
        path = f"/api/v1/teams/alice/uploads/{upload['id']}"
        headers = OCTETS | {"authorization": f"Bearer {self.program.bearer}"}
        client = self.program.client
        return await client.patch(path, content=data, params={"offset": offset}, headers=headers)

    async def send(self, file: Path, **more: Any) -> dict[str, Any]:
        """All of a file, finished and worked off; what became of it."""
        made, data = await self.begin(file, **more), read(file)
        assert (await self.piece(made, 0, data)).status_code == 200
        await self.program.post(f"/teams/alice/uploads/{made['id']}/finish")
        return await self.worked_off(made)

    async def row(self, upload: dict[str, Any]) -> Upload:
        found = await rows.find(self.site.mirror.services.db, self.team.id, UploadId(UUID(upload["id"])))
        assert found is not None
        return found

    async def worked_off(self, upload: dict[str, Any]) -> dict[str, Any]:
        await Runner(self.site.mirror.services).work_off()
        done: dict[str, Any] = await self.program.get(f"/teams/alice/uploads/{upload['id']}")
        return done

    async def pieces(self) -> list[str]:
        """What waits in the vault."""
        return [stat.key async for stat in self.site.mirror.services.vault.list(layout.UPLOADS)]

    async def nothing_is_left(self) -> bool:
        """Neither in the vault, nor on the disk, nor of a repo."""
        services = self.site.mirror.services
        incoming = services.disk.root / "incoming"
        rows = await services.db.fetchval("select count(*) from upload_piece")
        return not await self.pieces() and not rows and not (incoming.exists() and list(incoming.iterdir()))


def filled(room: Path) -> Work:
    """A repository with a file of 600 kB."""
    work = Work(room / "source.git")
    work.commit(files={"noise": random.Random(1).randbytes(600_000), "README": b"hello\n"})
    work.tag("v1", message="signed off")
    return work


@pytest_asyncio.fixture
async def uploading(site: Site, tmp_path: Path) -> Uploading:
    alice = await site.person("alice")
    team = await site.team(alice)
    return Uploading(site, alice, team, await with_token(site, alice, team), filled(tmp_path))


async def test_pieces_that_break_off_go_on_and_become_a_repository(
    uploading: Uploading, tmp_path: Path
) -> None:
    file = bundled(uploading.work, tmp_path / "old server.bundle")
    data, half = file.read_bytes(), SMALLEST_PIECE
    made = await uploading.begin(file)
    assert (made["name"], made["came"], made["state"]) == ("old-server", 0, "coming")
    for offset, sent, why in (
        (5, data[5:], "0 bytes of the file are here"),
        (0, data[:1000], "has 262,144 to 8,388,608 bytes"),
        (0, data + b"more", "bytes of the file are missing"),
        (0, b"", "bytes of the file are missing"),
    ):
        refused = await uploading.piece(made, offset, sent)
        assert refused.status_code in (400, 409) and why in refused.json()["detail"], refused.text
    assert (await uploading.piece(made, 0, data[:half])).json()["came"] == half
    assert (await uploading.piece(made, 0, data[:half])).status_code == 409  # its answer was lost: go on
    early = await uploading.program.ask("POST", f"/teams/alice/uploads/{made['id']}/finish", {})
    assert early.status_code == 409 and "bytes of the file are missing" in early.json()["detail"]
    stored = [await uploading.site.mirror.services.stored.get(key) for key in await uploading.pieces()]
    assert len(stored) == 1 and data[:half] not in stored[0] and b"git bundle" not in stored[0]
    assert (await uploading.piece(made, half, data[half:])).json()["came"] == len(data)
    for _ in range(2):
        done = await uploading.program.post(f"/teams/alice/uploads/{made['id']}/finish")
        assert done["state"] == "proving"
    done = await uploading.worked_off(made)
    assert done["state"] == "done", done
    assert done["result"] == {
        "new": True,
        "snapshot": 1,
        "refs": 2,
        "commits": 1,
        "head": "refs/heads/main",
        "large_files": 0,
    }
    mirror = uploading.site.mirror
    repo = await repos.get(mirror.services.db, RepoId(UUID(done["repo_id"])))
    restored = await mirror.restored(repo, 1)
    assert (refs_of(restored), objects_of(restored)) == (
        refs_of(uploading.work.path),
        objects_of(uploading.work.path),
    )
    assert await uploading.nothing_is_left()
    entries = await audit.page(mirror.services.db, uploading.team.id, action="repo")
    noted = [one.entry.action for one in entries if one.entry.subject == repo.name]
    assert noted == ["repo.import", "repo.create"]


async def test_what_is_refused_leaves_no_repository_and_says_why(
    uploading: Uploading, tmp_path: Path
) -> None:
    file = bundled(uploading.work, tmp_path / "bad.bundle")
    flipped(file)
    done = await uploading.send(file)
    assert (done["state"], done["result"], done["repo_id"]) == ("refused", None, None)
    assert "what was brought in is not a complete pack" in done["why"]
    assert await repos.all(uploading.site.mirror.services.db) == []
    assert await uploading.nothing_is_left()
    good = await uploading.send(tar(uploading.work.path, tmp_path / "good.tgz"))
    again = await uploading.send(file, repo="good")
    assert (again["state"], again["repo_id"]) == ("refused", good["repo_id"])
    assert len(await repos.all(uploading.site.mirror.services.db)) == 1


async def test_a_file_becomes_the_next_snapshot_of_a_repository_that_is_here(
    uploading: Uploading, tmp_path: Path
) -> None:
    work = uploading.work
    first = await uploading.send(bundled(work, tmp_path / "api.bundle"))
    before = work.tip().decode()
    work.commit()
    taken = await uploading.program.ask("POST", "/teams/alice/uploads", {"file": "api.tar", "bytes": 9})
    assert taken.status_code == 400 and "api is here already" in taken.json()["detail"]
    thin = bundled(work, tmp_path / "thin.bundle", "refs/heads/main", f"^{before}")
    second = await uploading.send(thin, repo=first["repo_id"])
    assert (second["result"]["snapshot"], second["result"]["commits"]) == (2, 1)
    repo = await repos.get(uploading.site.mirror.services.db, RepoId(UUID(first["repo_id"])))
    assert await uploading.site.mirror.refs(repo, 2) == refs_of(work.path)
    lone = await uploading.send(thin, name="lone")
    assert "builds on commits that it does not have" in lone["why"]


async def test_a_repository_that_is_paused_takes_no_file_at_any_step(
    uploading: Uploading, everref: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    services, program, work = uploading.site.mirror.services, uploading.program, uploading.work
    first = await uploading.send(bundled(work, tmp_path / "api.bundle"))
    repo_id, now = RepoId(UUID(first["repo_id"])), services.clock()
    work.commit()
    file = bundled(work, tmp_path / "next.bundle")
    whole, proving = [await uploading.begin(file, repo="api") for _ in range(2)]
    for one in (whole, proving):
        assert (await uploading.piece(one, 0, read(file))).status_code == 200
    await program.post(f"/teams/alice/uploads/{proving['id']}/finish")
    await remotes.pause(services.db, repo_id, now)
    why = "api is paused: nothing new is saved until an admin resumes it in its settings"
    for path, body in (
        ("/teams/alice/uploads", {"file": "api.tar", "bytes": 9, "repo": "api"}),
        (f"/teams/alice/uploads/{whole['id']}/finish", {}),
    ):
        refused = await program.ask("POST", path, body)
        assert (refused.status_code, refused.json()["detail"]) == (409, why)
    browser = await uploading.site.signed_in(uploading.alice)
    sent = {"file": (file.name, io.BytesIO(read(file)))}
    data = {"csrf": browser.csrf, "name": "", "repo": "api", "keep_refs": ""}
    page = await browser.client.post("/alice/-/bring", data=data, files=sent, headers={"origin": ORIGIN})
    assert page.status_code == 422 and why.removeprefix("api") in page.text
    words = ("import", str(file), "--name", "api", "--team", "alice")
    typed = await asyncio.to_thread(everref, *words)
    assert why in typed.stderr and not typed.stdout
    done = await uploading.worked_off(proving)
    assert (done["state"], done["why"]) == ("refused", why)
    await remotes.resume(services.db, repo_id)
    await program.post(f"/teams/alice/uploads/{whole['id']}/finish")
    again = await uploading.worked_off(whole)
    assert (again["state"], again["result"]["snapshot"]) == ("done", 2)
    assert await uploading.nothing_is_left()


class Killed(BaseException): ...


STEPS: Final = (*failpoints.BRING_IN, "receive: requested", "sync: manifest stored", "sync: recorded")


async def test_whatever_is_killed_ends_right_when_it_is_run_again(
    uploading: Uploading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = uploading.site.mirror.services
    file = bundled(uploading.work, tmp_path / "api.bundle")
    for number, step in enumerate(STEPS):
        met: list[str] = []

        def reached(at: str, step: str = step, met: list[str] = met) -> None:
            if at == step and not met:
                met.append(at)
                raise Killed

        made = await uploading.begin(file, name=f"api-{number}")
        await uploading.piece(made, 0, file.read_bytes())
        finish = f"/teams/alice/uploads/{made['id']}/finish"
        with monkeypatch.context() as patched:
            patched.setattr(failpoints, "reached", reached)
            with suppress(Killed):
                await whole.finish(services, await uploading.row(made), EVERREF, uploading.alice.id)
                repo = await repos.by_name(services.db, uploading.team.id, f"api-{number}")
                assert repo is not None
                await uploads.prove(services, repo, UploadId(UUID(made["id"])), uploading.team.id)
        assert met == [step]
        await uploading.program.post(finish)
        done = await uploading.worked_off(made)
        assert (done["state"], done["result"] and done["result"]["snapshot"]) == ("done", 1), (step, done)
        assert await uploading.nothing_is_left(), step
    assert len(await repos.all(services.db)) == len(STEPS)


async def test_what_fails_for_good_is_over_and_says_why(
    uploading: Uploading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = uploading.site.mirror.services
    file = bundled(uploading.work, tmp_path / "api.bundle")
    place, proved = Path(services.settings.data) / "vault", bring_in.bring_in

    async def lies(*_: Any, **__: Any) -> None:
        raise Damaged("the vault lacks what this builds on")

    async def fails(*_: Any, **__: Any) -> None:
        raise ValueError

    for does, changed, why in (
        (proved, True, "a piece of the upload was changed in the vault"),
        (lies, False, "the vault lacks what this builds on"),
        (fails, False, "Everref failed; its log says why"),
    ):
        made = await uploading.begin(file)
        await uploading.piece(made, 0, file.read_bytes())
        if changed:
            (piece,) = [place / key for key in await uploading.pieces()]
            flipped(piece)
        await uploading.program.post(f"/teams/alice/uploads/{made['id']}/finish")
        monkeypatch.setattr(bring_in, "bring_in", does)
        done = await uploading.worked_off(made)
        assert done["state"] == "refused" and why in done["why"], done
        assert await uploading.nothing_is_left() and await repos.all(services.db) == []


async def test_limits_and_the_end_of_what_nobody_goes_on_with(uploading: Uploading, tmp_path: Path) -> None:
    services, program = uploading.site.mirror.services, uploading.program
    file = bundled(uploading.work, tmp_path / "api.bundle")
    await quotas.set(services.db, uploading.team.id, "stored-bytes", 10**6, services.clock())
    first = await uploading.begin(file)
    full = await program.ask("POST", "/teams/alice/uploads", {"file": "b.tar", "bytes": 500_000})
    assert full.status_code == 429 and "everref limits" in full.json()["detail"]
    for number in range(4):
        await program.post("/teams/alice/uploads", {"file": f"{number}.tar", "bytes": 10})
    many = await program.ask("POST", "/teams/alice/uploads", {"file": "b.tar", "bytes": 10})
    assert many.status_code == 429 and "5 uploads are under way" in many.json()["detail"]
    await uploading.piece(first, 0, file.read_bytes()[:SMALLEST_PIECE])
    uploading.site.mirror.clock.now += uploads.LASTS - timedelta(hours=1)
    await uploads.forget(services)
    assert len(await uploading.pieces()) == 1
    uploading.site.mirror.clock.now += timedelta(hours=2)
    await uploads.forget(services)
    assert await uploading.nothing_is_left()
    dropped = await program.get(f"/teams/alice/uploads/{first['id']}")
    assert (dropped["state"], dropped["why"]) == ("dropped", "nothing more of it came for three days")
    late = await uploading.piece(first, SMALLEST_PIECE, b"x")
    assert late.status_code == 409 and "this upload is over" in late.json()["detail"]
    uploading.site.mirror.clock.now += uploads.KEPT + timedelta(days=1)
    await uploads.forget(services)
    assert (await program.get("/teams/alice/uploads"))["items"] == []


async def test_what_somebody_drops_is_gone_and_noted(uploading: Uploading, tmp_path: Path) -> None:
    """The audit log knew no such result, so the page answered that the database had failed."""
    file, site = bundled(uploading.work, tmp_path / "api.bundle"), uploading.site
    first, second = await uploading.begin(file), await uploading.begin(file, name="other")
    await uploading.piece(first, 0, file.read_bytes())
    for _ in range(2):
        answer = await uploading.program.ask("DELETE", f"/teams/alice/uploads/{first['id']}")
        assert answer.status_code == 204
    browser = await site.signed_in(uploading.alice)
    answer = await browser.post(f"/alice/-/bring/{second['id']}/drop")
    assert "api.bundle was dropped." in (await browser.follow(answer)).text
    assert await uploading.nothing_is_left()
    entries = await audit.page(site.mirror.services.db, uploading.team.id, action="upload")
    assert [one.entry.subject for one in entries] == ["other", "api"]


async def test_a_form_without_a_script_sends_the_file_whole(uploading: Uploading, tmp_path: Path) -> None:
    browser = await uploading.site.signed_in(uploading.alice)
    file = tar(uploading.work.path, tmp_path / "api.tgz")
    for content, why in ((b"", "Choose a file"), (b"x", "")):
        sent = {"file": ("x.tar", io.BytesIO(content))}
        data = {"csrf": browser.csrf, "name": "a b" if content else "", "repo": "", "keep_refs": ""}
        answer = await browser.client.post(
            "/alice/-/bring", data=data, files=sent, headers={"origin": ORIGIN}
        )
        assert answer.status_code == 422 and why in answer.text
    sent = {"file": (file.name, io.BytesIO(file.read_bytes()))}
    data = {"csrf": browser.csrf, "name": "", "repo": "", "keep_refs": ""}
    answer = await browser.client.post("/alice/-/bring", data=data, files=sent, headers={"origin": ORIGIN})
    assert answer.status_code == 303
    page = await browser.get(answer.headers["location"])
    assert "waits for a worker" in page.text
    await Runner(uploading.site.mirror.services).work_off()
    page = await browser.get(answer.headers["location"])
    assert "Saved as" in page.text and "refs/heads/main" in page.text


async def test_a_browser_uploads_goes_on_after_a_break_and_shows_what_came_of_it(
    visitor: Visitor, stage: Stage, tmp_path: Path
) -> None:
    work = Work(tmp_path / "source.git")
    work.commit(files={"noise": random.Random(2).randbytes(3_000_000)})
    stage.github.add_person("ada")
    ada = await visitor("ada")
    await ada.sign_in()
    page, pieces, broken = ada.page, list[str](), list[str]()

    async def route(route: Route) -> None:
        """The connection is away at first; the third time a piece arrives, and its answer does not."""
        pieces.append(route.request.url)
        if len(pieces) == 3:
            await route.fetch()
        if len(pieces) in (1, 3):
            broken.append(route.request.url)
            await route.abort("connectionreset")
            return
        await route.continue_()

    await page.goto(f"{ada.url}/ada/-/connect")
    await page.get_by_role("link", name="Upload it").click()
    await page.route("**/uploads/*?offset=*", route)
    await page.get_by_label("File", exact=True).set_input_files(bundled(work, tmp_path / "api.bundle"))
    await ada.press("Upload")
    await expect(page.get_by_text("Saved as")).to_be_visible(timeout=PATIENCE)
    assert len(broken) == 2 and len(pieces) >= 4
    await expect(page.get_by_text("refs/heads/main")).to_be_visible()
    await page.get_by_role("link", name="api", exact=True).click()
    await expect(page).to_have_url(f"{ada.url}/ada/api")
    (tmp_path / "bad.bundle").write_bytes(b"# v2 git bundle\nno\n\nPACK")
    await page.goto(f"{ada.url}/ada/-/bring")
    await page.get_by_label("File", exact=True).set_input_files(tmp_path / "bad.bundle")
    await page.get_by_text("Add it to a repository").click()
    await page.get_by_label("Its name").fill("nowhere")
    await ada.press("Upload")
    await expect(page.get_by_text("There is no repository nowhere in ada.")).to_be_visible(timeout=PATIENCE)
    await expect(page.get_by_role("button", name="Upload", exact=True)).to_be_focused()
    assert len(ada.forgiven()) == 1
    await page.get_by_label("Its name").fill("")
    await ada.press("Upload")
    await expect(page.get_by_text("Nothing was saved: it was refused.")).to_be_visible(timeout=PATIENCE)
    await expect(page.get_by_role("link", name="Choose a file again")).to_be_visible()
