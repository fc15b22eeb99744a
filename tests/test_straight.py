"""Files that people upload straight to the vault's store: links, lies, breaks, and what is left of them."""

import asyncio
import base64
import hashlib
import os
import socket
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aiohttp
import httpx
import pytest
import pytest_asyncio
import uvicorn
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mirror.backup import straight, uploads
from mirror.backup.straight import Encrypted
from mirror.backup.uploads import SMALLEST_PIECE
from mirror.core.errors import NetworkError
from mirror.core.formats import layout
from mirror.core.model import RepoId
from mirror.discovery import create
from mirror.discovery.choose import EVERREF
from mirror.jobs import uploads as whole
from mirror.services import failpoints
from mirror.store import repos
from mirror.store.backup import uploads as rows
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import JobId
from mirror.upkeep import doctor, outages
from mirror.vault import open_vault, preflight
from mirror.vault.s3 import S3Vault
from tests.parts.api import with_token
from tests.parts.everref import Mirror
from tests.parts.faultproxy import anything, fault_proxy, lost_answer, reset
from tests.parts.repos import objects_of, refs_of
from tests.parts.s3 import S3Server, let_in
from tests.parts.web import Site
from tests.test_bring_in import bundled
from tests.test_uploads import Uploading, filled


@dataclass
class Sender(Uploading):
    """Somebody who sends pieces straight to the store, as the page does."""

    http: aiohttp.ClientSession

    async def call(self, upload: dict[str, Any], what: str, body: dict[str, Any], status: int = 200) -> Any:
        """What a call about this upload answers; it is to have this status."""
        answer = await self.program.ask("POST", f"/teams/alice/uploads/{upload['id']}/{what}", body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def sealed(self, upload: dict[str, Any], data: bytes) -> tuple[bytes, dict[str, Any]]:
        """The next piece, encrypted, and what is said of it."""
        told = (await self.call(upload, "straight", {}))["next"]
        key, head, context = (base64.b64decode(told[name]) for name in ("key", "head", "context"))
        nonce = os.urandom(12)
        piece = head + nonce + AESGCM(key).encrypt(nonce, data, context)
        digest = hashlib.sha256(piece).hexdigest()
        return piece, {"offset": told["offset"], "bytes": len(data), "sha256": digest}

    async def put(self, link: dict[str, Any], piece: bytes) -> int:
        """What the store answers to it."""
        async with self.http.put(link["url"], data=piece, headers=link["headers"]) as answer:
            return answer.status

    async def straight(self, upload: dict[str, Any], data: bytes) -> Any:
        """Send the next piece; what Everref says when it counts it."""
        piece, about = await self.sealed(upload, data)
        assert await self.put(await self.call(upload, "link", about), piece) == 200
        return await self.call(upload, "straight", {"arrived": about})


Over = Callable[[str | None], Awaitable[Sender]]


@pytest_asyncio.fixture
async def over(
    mirror: Mirror, make_site: Callable[..., Awaitable[Site]], s3_credentials: None, tmp_path: Path
) -> AsyncIterator[Over]:
    """Makes Alice, whose installation has its vault at this URL; None: a directory."""
    async with AsyncExitStack() as stack:

        async def make(url: str | None) -> Sender:
            vault = await stack.enter_async_context(open_vault(url, tmp_path / "other"))
            mirror.services = replace(mirror.services, vault=vault)
            site = await make_site()
            alice = await site.person("alice")
            team = await site.team(alice)
            program = await with_token(site, alice, team)
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Sender(site, alice, team, program, filled(tmp_path), http)

        yield make


@pytest_asyncio.fixture
async def sender(over: Over, s3_server: S3Server) -> Sender:
    """Alice, whose installation has its vault in S3."""
    return await over(f"{s3_server.url()}&presign=on")


async def test_pieces_go_straight_to_the_store_and_become_a_repository(
    sender: Sender, tmp_path: Path
) -> None:
    file = bundled(sender.work, tmp_path / "api.bundle")
    data, half = file.read_bytes(), SMALLEST_PIECE
    made = await sender.begin(file)
    first = await sender.straight(made, data[:half])
    assert first["upload"]["came"] == first["next"]["offset"] == half
    (stored,) = [await sender.site.mirror.services.vault.get(key) for key in await sender.pieces()]
    assert len(stored) < half + 200 and data[200:1000] not in stored and b"git bundle" not in stored
    last = await sender.straight(made, data[half:])
    assert last["next"] is None
    await sender.program.post(f"/teams/alice/uploads/{made['id']}/finish")
    done = await sender.worked_off(made)
    assert (done["state"], done["result"]["snapshot"]) == ("done", 1), done
    mirror = sender.site.mirror
    repo = await repos.get(mirror.services.db, RepoId(UUID(done["repo_id"])))
    restored = await mirror.restored(repo, 1)
    assert (refs_of(restored), objects_of(restored)) == (
        refs_of(sender.work.path),
        objects_of(sender.work.path),
    )
    assert await sender.nothing_is_left()


async def test_what_breaks_off_goes_on_either_way(sender: Sender, tmp_path: Path) -> None:
    """A piece came and nobody said so; its answer was lost; two tabs; then through Everref."""
    file = bundled(sender.work, tmp_path / "api.bundle")
    data, half = file.read_bytes(), SMALLEST_PIECE
    made = await sender.begin(file)
    piece, about = await sender.sealed(made, data[:half])
    assert await sender.put(await sender.call(made, "link", about), piece) == 200
    other, of_other = await sender.sealed(made, data[: half + 1])  # another tab, with another step
    link = await sender.call(made, "link", of_other)
    assert (await sender.call(made, "straight", {"arrived": about}))["upload"]["came"] == half
    again = await sender.call(made, "straight", {"arrived": about}, 409)
    assert f"{half:,} bytes of the file are here" in again["detail"]
    assert await sender.put(link, other) == 200  # it replaces nothing
    await sender.call(made, "straight", {"arrived": of_other}, 409)
    await sender.call(made, "link", of_other, 409)
    assert len(await sender.pieces()) == 2
    assert (await sender.piece(made, half, data[half:])).json()["came"] == len(data)
    assert (await sender.call(made, "straight", {}))["next"] is None
    await sender.program.post(f"/teams/alice/uploads/{made['id']}/finish")
    assert (await sender.worked_off(made))["state"] == "done"
    assert await sender.nothing_is_left()


async def test_two_who_count_the_same_piece_at_once_keep_it(sender: Sender, tmp_path: Path) -> None:
    file = bundled(sender.work, tmp_path / "api.bundle")
    made = await sender.begin(file)
    piece, about = await sender.sealed(made, file.read_bytes())
    assert await sender.put(await sender.call(made, "link", about), piece) == 200
    path, body = f"/teams/alice/uploads/{made['id']}/straight", {"arrived": about}
    answers = await asyncio.gather(*(sender.program.ask("POST", path, body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert len(await sender.pieces()) == 1
    await sender.program.post(f"/teams/alice/uploads/{made['id']}/finish")
    assert (await sender.worked_off(made))["state"] == "done"


async def test_a_piece_that_lies_is_not_counted(sender: Sender, tmp_path: Path) -> None:
    file = bundled(sender.work, tmp_path / "api.bundle")
    data = file.read_bytes()
    made = await sender.begin(file)
    piece, about = await sender.sealed(made, data)
    absent = await sender.call(made, "straight", {"arrived": about}, 409)
    assert "the store does not have this piece; send it again" in absent["detail"]
    link = await sender.call(made, "link", about)
    for sent in (bytes(len(piece)), piece + b"x", piece[:-1]):
        assert await sender.put(link, sent) in (400, 403)
    await sender.call(made, "straight", {"arrived": about}, 409)
    for wrong, words in (
        ({"offset": 5}, "0 bytes of the file are here"),
        ({"bytes": 1000}, "has 262,144 to 8,388,608 bytes"),
        ({"bytes": len(data) + 1}, "bytes of the file are missing"),
        ({"bytes": 1 << 30}, "is not valid"),
        ({"sha256": "x" * 64}, "is not valid"),
        ({"offset": -1}, "is not valid"),
    ):
        for what, body in (("link", about | wrong), ("straight", {"arrived": about | wrong})):
            answer = await sender.program.ask("POST", f"/teams/alice/uploads/{made['id']}/{what}", body)
            assert answer.status_code in (400, 409) and words in answer.json()["detail"], answer.text
    assert await sender.pieces() == []
    assert await sender.put(link, piece) == 200
    assert (await sender.call(made, "straight", {"arrived": about}))["upload"]["came"] == len(data)


async def test_what_was_not_encrypted_as_told_is_refused_and_deleted(sender: Sender, tmp_path: Path) -> None:
    file = bundled(sender.work, tmp_path / "api.bundle")
    made = await sender.begin(file)
    real, about = await sender.sealed(made, file.read_bytes())
    plain = file.read_bytes().ljust(len(real), b"\0")
    about["sha256"] = hashlib.sha256(plain).hexdigest()
    assert await sender.put(await sender.call(made, "link", about), plain) == 200
    await sender.call(made, "straight", {"arrived": about})
    await sender.program.post(f"/teams/alice/uploads/{made['id']}/finish")
    done = await sender.worked_off(made)
    assert done["state"] == "refused" and "a piece of the upload was changed" in done["why"]
    assert await sender.nothing_is_left()


async def test_what_comes_by_a_link_when_the_upload_is_over_is_swept_away(
    sender: Sender, tmp_path: Path
) -> None:
    services, file = sender.site.mirror.services, bundled(sender.work, tmp_path / "api.bundle")
    made, kept = await sender.begin(file), await sender.begin(file, name="other")
    piece, about = await sender.sealed(made, file.read_bytes())
    link = await sender.call(made, "link", about)
    assert await sender.put(link, piece) == 200
    await sender.straight(kept, file.read_bytes()[:SMALLEST_PIECE])
    dropped = await sender.program.ask("DELETE", f"/teams/alice/uploads/{made['id']}")
    assert dropped.status_code == 204
    assert [layout.upload_of(key) for key in await sender.pieces()] == [UUID(kept["id"])]
    assert await sender.put(link, piece) == 200  # it is good for some minutes
    over = await sender.call(made, "link", about, 409)
    assert "this upload is over" in over["detail"]
    await sender.call(made, "straight", {"arrived": about}, 409)
    await uploads.forget(services)
    assert [layout.upload_of(key) for key in await sender.pieces()] == [UUID(kept["id"])]


async def test_an_upload_that_takes_a_week_keeps_its_first_piece(sender: Sender, tmp_path: Path) -> None:
    services, clock = sender.site.mirror.services, sender.site.mirror.clock
    data = os.urandom(4 * SMALLEST_PIECE)
    (tmp_path / "slow.bundle").write_bytes(data)
    made = await sender.begin(tmp_path / "slow.bundle")
    for at in range(0, len(data), SMALLEST_PIECE):
        await sender.straight(made, data[at : at + SMALLEST_PIECE])
        clock.now += uploads.LASTS - timedelta(hours=1)
        await uploads.forget(services)
    assert len(await sender.pieces()) == 4


class Killed(BaseException): ...


STEPS: Final = (
    *(step for step in failpoints.UPLOAD if step.startswith("straight")),
    *failpoints.BRING_IN,
    *("receive: requested", "sync: manifest stored", "sync: recorded"),
)


def kill_at(patched: pytest.MonkeyPatch, step: str) -> list[str]:
    """Whoever reaches this step is killed, once; the list has it then."""
    met: list[str] = []

    def reached(at: str) -> None:
        if at == step and not met:
            met.append(at)
            raise Killed

    patched.setattr(failpoints, "reached", reached)
    return met


async def test_whoever_is_killed_in_the_midst_the_file_becomes_the_same_snapshot(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The web process while pieces come and when all have come; the worker, with its job."""
    services, work = sender.site.mirror.services, sender.work
    file = bundled(work, tmp_path / "api.bundle")
    data = file.read_bytes()
    for number, step in enumerate(STEPS):
        made = await sender.begin(file, name=f"api-{number}")
        with monkeypatch.context() as patched:
            met = kill_at(patched, step)
            with suppress(Killed):
                while (row := await sender.row(made)).came < row.bytes:
                    part = data[row.came : row.came + SMALLEST_PIECE]
                    piece, about = await sender.sealed(made, part)
                    meant = Encrypted(row.came, len(part), bytes.fromhex(about["sha256"]))
                    link = await straight.link(services, row, meant)
                    assert await sender.put({"url": link.url, "headers": dict(link.headers)}, piece) == 200
                    await straight.arrived(services, row, meant)
                await whole.finish(services, row, EVERREF, sender.alice.id)
                made_for = await repos.get(services.db, row.own_repo)
                await uploads.prove(services, made_for, row.id, sender.team.id)
        assert met == [step]
        while (came := (await sender.row(made)).came) < len(data):
            await sender.straight(made, data[came : came + SMALLEST_PIECE])
        await sender.program.post(f"/teams/alice/uploads/{made['id']}/finish")
        done = await sender.worked_off(made)
        assert (done["state"], done["result"] and done["result"]["snapshot"]) == ("done", 1), (step, done)
        repo = await repos.get(services.db, RepoId(UUID(done["repo_id"])))
        restored = await sender.site.mirror.restored(repo, 1)
        assert refs_of(restored) == refs_of(work.path)
        assert objects_of(restored) == objects_of(work.path)
        assert await sender.nothing_is_left(), step
    assert len(await repos.all(services.db)) == len(STEPS)


async def test_a_store_that_is_away_at_any_step_costs_time_and_nothing_else(
    over: Over, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "LOOK_SECONDS", 0.0)
    async with fault_proxy(s3_server.endpoint) as store:
        sender = await over(f"{s3_server.url(endpoint=store.endpoint)}&presign=on&attempts=2")
        clock, file = sender.site.mirror.clock, bundled(sender.work, tmp_path / "api.bundle")
        data = file.read_bytes()
        made = await sender.begin(file)
        for fault in (reset, lost_answer):  # it has nothing; it has the piece and nobody knows
            piece, about = await sender.sealed(made, data)
            link = await sender.call(made, "link", about)
            store.fail(lambda request: request.method == "PUT", fault)
            with pytest.raises(aiohttp.ClientError):
                await sender.put(link, piece)
            store.heal()
        piece, about = await sender.sealed(made, data)
        assert await sender.put(await sender.call(made, "link", about), piece) == 200
        store.fail(anything, reset)
        away = await sender.program.ask(
            "POST", f"/teams/alice/uploads/{made['id']}/straight", {"arrived": about}
        )
        assert away.status_code >= 500 and (await sender.row(made)).came == 0
        store.heal()
        assert (await sender.call(made, "straight", {"arrived": about}))["upload"]["came"] == len(data)
        assert len(await sender.pieces()) == 2
        await sender.program.post(f"/teams/alice/uploads/{made['id']}/finish")
        store.fail(anything, reset)
        waits = await sender.worked_off(made)
        assert (waits["state"], waits["why"]) == ("proving", None)
        store.heal()
        assert await outages.look(sender.site.mirror.services)
        store.fail(lambda request: request.method == "DELETE" and "exports" in request.path, reset)
        clock.now += timedelta(hours=1)
        done = await sender.worked_off(made)
        assert (done["state"], done["result"]["snapshot"]) == ("done", 1), done
        assert len(await sender.pieces()) == 2  # the store deletes nothing yet
        job = await jobs.find(sender.site.mirror.services.db, sender.team.id, JobId(UUID(done["job_id"])))
        assert job and job.state == "done"
        store.heal()
        await uploads.forget(sender.site.mirror.services)
        assert await sender.nothing_is_left()
        repo = await repos.get(sender.site.mirror.services.db, RepoId(UUID(done["repo_id"])))
        restored = await sender.site.mirror.restored(repo, 1)
        assert objects_of(restored) == objects_of(sender.work.path)


async def test_what_was_begun_and_never_finished_is_swept_away(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repo stayed for ever where the process that made it, or that dropped its upload, was killed."""
    services, clock = sender.site.mirror.services, sender.site.mirror.clock
    file = bundled(sender.work, tmp_path / "api.bundle")
    sent, made, dropped = [await sender.begin(file, name=name) for name in ("sent", "made", "dropped")]
    piece, about = await sender.sealed(sent, file.read_bytes())
    assert await sender.put(await sender.call(sent, "link", about), piece) == 200  # and nobody counts it
    for upload, step in ((made, "upload: repo made"), (dropped, "upload: pieces deleted")):
        await sender.straight(upload, file.read_bytes())
        with monkeypatch.context() as patched:
            met = kill_at(patched, step)
            with suppress(Killed):
                over = await whole.finish(services, await sender.row(upload), EVERREF, sender.alice.id)
                await uploads.drop(services, over, "alice dropped it")
        assert met == [step]
    assert {repo.name for repo in await repos.all(services.db)} == {"made", "dropped"}
    await uploads.forget(services)
    assert {repo.name for repo in await repos.all(services.db)} == {"made"}
    clock.now += uploads.LASTS + timedelta(hours=1)
    await uploads.forget(services)
    assert await repos.all(services.db) == []
    assert await sender.nothing_is_left()


async def test_a_repository_of_that_name_that_somebody_made_meanwhile_is_left_alone(
    sender: Sender, tmp_path: Path
) -> None:
    """The file became its first snapshot, and it went with a file that was refused."""
    services, file = sender.site.mirror.services, bundled(sender.work, tmp_path / "api.bundle")
    upload = await sender.begin(file)
    await sender.straight(upload, file.read_bytes())
    theirs = await create.create(services, sender.team.id, EVERREF, "api")
    taken = await sender.program.ask("POST", f"/teams/alice/uploads/{upload['id']}/finish", {})
    assert taken.status_code == 400 and "api is here already" in taken.json()["detail"]
    await sender.program.ask("DELETE", f"/teams/alice/uploads/{upload['id']}")
    assert [repo.id for repo in await repos.all(services.db)] == [theirs.id]
    assert await sender.nothing_is_left()


async def test_links_are_given_for_so_many_bytes(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LINKED_MORE", 0)
    file = bundled(sender.work, tmp_path / "api.bundle")
    made = await sender.begin(file)
    _, about = await sender.sealed(made, file.read_bytes()[:-1000])
    for _ in range(3):
        await sender.call(made, "link", about)
    no_more = await sender.call(made, "link", about, 409)
    assert "send the pieces to Everref instead" in no_more["detail"]
    assert (await sender.piece(made, 0, file.read_bytes())).status_code == 200


@pytest.mark.parametrize("store", ["directory", "unreachable", "weak"])
async def test_where_nothing_goes_straight_pieces_go_through_everref(
    store: str, over: Over, s3_server: S3Server, weak_s3_server: S3Server, tmp_path: Path
) -> None:
    """A directory; a bucket that browsers do not reach; a store that believes any checksum."""
    urls = {"unreachable": f"{s3_server.url()}&presign=off", "weak": f"{weak_s3_server.url()}&presign=on"}
    sender = await over(urls.get(store))
    file = bundled(sender.work, tmp_path / "api.bundle")
    made = await sender.begin(file)
    about = {"offset": 0, "bytes": file.stat().st_size, "sha256": "0" * 64}
    for what, body in (("straight", {}), ("link", about)):
        answer = await sender.call(made, what, body, 409)
        assert "send the pieces to Everref instead" in answer["detail"]
    assert (await sender.piece(made, 0, file.read_bytes())).json()["came"] == file.stat().st_size
    page = await (await sender.site.signed_in(sender.alice)).get("/alice/-/bring")
    assert "data-straight" not in page.text and "connect-src 'self';" in policy(page)


async def test_a_store_that_does_not_say_what_came_counts_nothing(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(S3Vault, "kept_sha256", nothing)
    file = bundled(sender.work, tmp_path / "api.bundle")
    made = await sender.begin(file)
    piece, about = await sender.sealed(made, file.read_bytes())
    assert await sender.put(await sender.call(made, "link", about), piece) == 200
    answer = await sender.call(made, "straight", {"arrived": about}, 409)
    assert "send the pieces to Everref instead" in answer["detail"]
    assert (await sender.piece(made, 0, file.read_bytes())).json()["came"] == file.stat().st_size
    await sender.program.post(f"/teams/alice/uploads/{made['id']}/finish")
    assert (await sender.worked_off(made))["state"] == "done"
    assert await sender.nothing_is_left()


def policy(page: httpx.Response) -> str:
    return page.headers["content-security-policy"]


async def test_only_the_page_that_uploads_may_send_to_the_store(sender: Sender, s3_server: S3Server) -> None:
    browser = await sender.site.signed_in(sender.alice)
    page = await browser.get("/alice/-/bring")
    assert "data-straight" in page.text
    assert f"connect-src 'self' {s3_server.endpoint};" in policy(page)
    for path in ("/alice", "/alice/-/connect", "/alice/-/settings"):
        assert "connect-src 'self';" in policy(await browser.get(path))


REFUSED: Final = "through Everref: the bucket lets no page of https://everref.example in"


@pytest.mark.parametrize(
    ("rule", "value", "advice"),
    [
        ({}, "straight from pages of https://everref.example to the store", None),
        (
            {"AllowedOrigins": ["https://elsewhere.example"]},
            REFUSED,
            "CORS",
        ),
        ({"AllowedMethods": ["GET"]}, REFUSED, "CORS"),
        ({"AllowedHeaders": ["x-other"]}, REFUSED, "CORS"),
    ],
    ids=["allowed", "origin", "method", "header"],
)
async def test_the_doctor_says_whether_the_bucket_lets_the_pages_in(
    rule: dict[str, Any], value: str, advice: str | None, over: Over, s3_server: S3Server
) -> None:
    bucket = replace(s3_server, bucket="everref-doctor")
    usual = {
        "AllowedOrigins": ["https://everref.example"],
        "AllowedMethods": ["PUT"],
        "AllowedHeaders": ["x-amz-*"],
    }
    await asyncio.to_thread(let_in, bucket, usual | rule)
    services = (await over(f"{bucket.url()}&presign=on")).site.mirror.services
    settings = replace(services.settings, base_url="https://everref.example/")
    (found,) = [
        one
        for one in await doctor.doctor(replace(services, settings=settings))
        if one.what == "vault: uploads"
    ]
    assert found.ok and found.value.startswith(value)
    assert found.advice is None if advice is None else advice in str(found.advice)


async def test_the_doctor_says_when_the_store_does_not_answer_browsers(
    over: Over, s3_server: S3Server
) -> None:
    async with fault_proxy(s3_server.endpoint) as store:
        services = (await over(f"{s3_server.url(endpoint=store.endpoint)}&presign=on")).site.mirror.services
        store.fail(lambda request: request.method == "OPTIONS", reset)
        link = await straight.specimen(services)
        assert link
        with pytest.raises(NetworkError, match="does not answer the question that browsers ask first"):
            await preflight.lets_in(link, "https://everref.example")


async def test_a_file_is_uploaded_from_another_machine_as_the_page_shows(
    sender: Sender, tmp_path: Path
) -> None:
    """The script of docs/bring-in.md, with stock curl: broken off, gone on with, and all of it here."""
    page = (Path(__file__).parents[1] / "docs" / "bring-in.md").read_text()
    (tmp_path / "upload.sh").write_text(page.partition("```sh\n")[2].partition("```")[0])
    (tmp_path / "9 MB.bundle").write_bytes(os.urandom(9_000_000))
    file = bundled(sender.work, tmp_path / "api.bundle")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        served = uvicorn.Server(uvicorn.Config(sender.site.app, lifespan="off", log_config=None))
        serving = asyncio.create_task(served.serve(sockets=[listener]))
        env = {
            "PATH": os.environ["PATH"],
            "EVERREF": f"http://127.0.0.1:{port}",
            "TEAM": "alice",
            "TOKEN": str(sender.program.bearer),
        }

        async def types(*words: str) -> tuple[int | None, str]:
            shell = await asyncio.create_subprocess_exec(
                "sh", "upload.sh", *words, cwd=tmp_path, env=env, stdout=PIPE, stderr=STDOUT
            )
            out, _ = await shell.communicate()
            return shell.returncode, out.decode()

        status, said = await types("api.bundle")
        assert status == 0 and '"state":"proving"' in said, said
        upload = said.split()[1]
        done = await sender.worked_off({"id": upload})
        assert (done["state"], done["bytes"]) == ("done", file.stat().st_size)
        made = await sender.begin(tmp_path / "9 MB.bundle")
        await sender.piece(made, 0, (tmp_path / "9 MB.bundle").read_bytes()[:1_000_000])
        status, said = await types("9 MB.bundle", made["id"])
        assert status == 0 and said.splitlines()[0] == f"upload {made['id']}", said
        assert (await sender.row(made)).came == 9_000_000
        status, said = await types("9 MB.bundle", "nonsense")
        assert status != 0 and "there is no such upload" in said
        served.should_exit = True
        await serving
