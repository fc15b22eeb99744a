"""The API as programs use it: signing in, lists, errors, keys for what creates, and all that the pages do."""

import asyncio
import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from mirror.backup import sync
from mirror.core import words
from mirror.core.model import RefName, Repo
from mirror.core.rules.roles import Role
from mirror.jobs.runner import Runner
from mirror.store import repos
from mirror.store.jobs import jobs
from mirror.store.people import audit, idempotency, notices, teams
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.store.upkeep import damages, reencryption
from mirror.vault.directory import DirectoryVault
from mirror.web.api.call import A_MINUTE, BODY
from mirror.web.drafts import BUNDLES_PER_HOUR, PER_HOUR
from tests.parts.api import Program, program, with_token
from tests.parts.repos import Work
from tests.parts.web import ORIGIN, Site

PASSWORD = "correct horse battery"


@dataclass
class Kept:
    """A team of Alice's with a repo that has three snapshots, the last of them forced."""

    site: Site
    alice: Person
    team: Team
    program: Program
    work: Work
    repo: Repo

    @property
    def at(self) -> str:
        return f"/teams/alice/repos/{self.repo.id}"


@pytest_asyncio.fixture
async def kept(site: Site, work: Work, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr(teams, "DEFAULT", "alice")  # it is she who runs Everref: paths are hers to restore to
    alice = await site.person("alice")
    team = await site.team(alice)
    services = site.mirror.services
    first = work.commit(files={"README.md": b"# One\n", "src/a.txt": b"a\n"})
    work.set(RefName(b"refs/heads/odd-\xff"), first)
    repo = await repos.add(services.db, team.id, "acme/api", str(work.path), site.mirror.clock.now)
    await sync.sync(services, repo.id)
    work.commit(files={"README.md": b"# Two\n"}, message="This will be lost")
    await sync.sync(services, repo.id)
    work.commit(files={"README.md": b"# Three\n", "caf\u00e9.bin": b"\0\1"}, parents=[first])
    await sync.sync(services, repo.id)
    return Kept(site, alice, team, await with_token(site, alice, team), work, repo)


async def work_off(kept: Kept) -> None:
    """What a worker would do."""
    await Runner(kept.site.mirror.services).work_off()


# Signing in.


async def test_who_registers_gets_an_access_token_and_a_team(site: Site) -> None:
    guest = await program(site)
    made = await guest.ask(
        "POST", "/register", {"name": "Ann", "email": "ann@example.org", "password": PASSWORD}
    )
    assert made.status_code == 201
    assert (made.json()["token_type"], made.json()["expires_in"]) == ("Bearer", 12 * 3600)
    ann = await program(site, made.json()["access_token"])
    profile = await ann.get("/profile")
    assert (profile["name"], profile["email"]) == ("Ann", "ann@example.org")
    assert [(one["name"], one["role"]) for one in profile["teams"]] == [("ann", "owner")]


async def test_a_refresh_token_renews_both_once(site: Site) -> None:
    guest = await program(site)
    new = {"name": "Ann", "email": "ann@example.org", "password": PASSWORD}
    await guest.post("/register", new)
    first = await guest.post("/login", {"email": "ann@example.org", "password": PASSWORD})
    site.mirror.clock.now += timedelta(hours=13)
    old = await program(site, first["access_token"])
    assert (await old.ask("GET", "/profile")).status_code == 401
    second = await old.post("/refresh", {"refresh_token": first["refresh_token"]})
    ann = await program(site, second["access_token"])
    assert (await ann.get("/profile"))["name"] == "Ann"
    again = await guest.ask("POST", "/refresh", {"refresh_token": first["refresh_token"]})
    assert again.status_code == 401
    site.mirror.clock.now += timedelta(days=14)
    late = await guest.ask("POST", "/refresh", {"refresh_token": second["refresh_token"]})
    assert late.status_code == 401


async def test_refreshing_proves_nothing_about_who_it_is(site: Site) -> None:
    guest = await program(site)
    first = await guest.post("/register", {"name": "Ann", "email": "ann@example.org", "password": PASSWORD})
    site.mirror.clock.now += timedelta(hours=1)
    second = await guest.post("/refresh", {"refresh_token": first["refresh_token"]})
    ann = await program(site, second["access_token"])
    changed = await ann.ask("PUT", "/profile/password", {"password": "another good one"})
    assert changed.status_code == 403
    assert "confirm who you are" in changed.json()["detail"]


async def test_who_logs_out_is_out(site: Site) -> None:
    guest = await program(site)
    made = await guest.post("/register", {"name": "Ann", "email": "ann@example.org", "password": PASSWORD})
    ann = await program(site, made["access_token"])
    assert [one["current"] for one in (await ann.get("/sessions"))["items"]] == [True]
    assert (await ann.ask("POST", "/logout")).status_code == 204
    assert (await ann.ask("GET", "/profile")).status_code == 401
    gone = await guest.ask("POST", "/refresh", {"refresh_token": made["refresh_token"]})
    assert gone.status_code == 401


async def test_guessing_passwords_ends_after_ten_tries(site: Site) -> None:
    guest = await program(site)
    site.mirror.clock.step = timedelta()
    wrong = {"email": "ann@example.org", "password": "not the password"}
    answers = [await guest.ask("POST", "/login", wrong) for _ in range(11)]
    assert {answer.status_code for answer in answers[:10]} == {401}
    assert answers[10].status_code == 429
    assert answers[10].headers["retry-after"] == "60"
    assert (answers[10].json()["class"], answers[10].json()["retry"]) == ("limit", True)


async def test_an_access_token_is_no_cookie_and_a_cookie_no_access_token(site: Site) -> None:
    alice = await site.person("alice")
    raw, _ = await site.session(alice.id)
    assert (await (await program(site, raw)).ask("GET", "/profile")).status_code == 401


# Errors.


@pytest.mark.parametrize(
    ("sent", "kind", "status", "word"),
    [
        (b"{", "application/json", 400, "truncated"),
        (b"\xff{}", "application/json", 400, "malformed"),
        (b'{"url": 3}', "application/json", 400, "$.url"),
        (b'{"url": "https://x.example/y", "what": 1}', "application/json", 400, "what"),
        (b"{}", "application/json", 400, "url"),
        (b"[" * 100_000, "application/json", 400, ""),
        (b"url=x", "application/x-www-form-urlencoded", 415, "JSON"),
        (b'{"url": "' + b"x" * BODY + b'"}', "application/json", 413, "bytes"),
    ],
    ids=["cut off", "no UTF-8", "wrong type", "unknown field", "missing", "deep", "a form", "too large"],
)
async def test_what_is_sent_wrongly_is_told_with_the_place(
    site: Site, sent: bytes, kind: str, status: int, word: str
) -> None:
    alice = await site.person("alice")
    one = await with_token(site, alice, await site.team(alice))
    headers = {"authorization": f"Bearer {one.bearer}", "content-type": kind}
    answer = await one.client.post("/api/v1/teams/alice/repos", content=sent, headers=headers)
    told = answer.json()
    assert (answer.status_code, told["status"]) == (status, status), told
    assert answer.headers["content-type"] == "application/problem+json"
    assert word in told["detail"]
    assert (told["class"], told["retry"]) == ("limit" if status == 413 else "usage", False)


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "201"}, {"limit": "many"}, {"cursor": "!"}, {"what": "1"}, {"state": "odd"}],
    ids=lambda query: "=".join(next(iter(query.items()))),
)
async def test_a_parameter_that_is_not_right_is_named(site: Site, query: dict[str, Any]) -> None:
    alice = await site.person("alice")
    one = await with_token(site, alice, await site.team(alice))
    answer = await one.ask("GET", "/teams/alice/repos", **query)
    assert answer.status_code == 400
    assert next(iter(query)) in answer.json()["detail"]


async def test_where_no_call_is_the_api_says_so(site: Site) -> None:
    guest = await program(site)
    assert (await guest.ask("GET", "/nothing")).json()["status"] == 404
    other = await guest.ask("DELETE", "/teams/alice/repos")
    assert other.status_code == 405
    assert other.headers["allow"] == "GET, HEAD, POST"
    assert other.headers["content-type"] == "application/problem+json"


async def test_another_teams_objects_are_as_those_that_there_are_not(kept: Kept) -> None:
    mallory = await kept.site.person("mallory")
    other = await with_token(kept.site, mallory, await kept.site.team(mallory))
    job = await kept.program.post(f"{kept.at}/backups")
    for path in (f"/repos/{kept.repo.id}", f"/jobs/{job['id']}", f"/backups/{job['id']}"):
        assert (await other.ask("GET", f"/teams/alice{path}")).status_code == 404
        assert (await other.ask("GET", f"/teams/mallory{path}")).status_code == 404
    assert (await other.ask("POST", "/backups", {"repo": str(kept.repo.id)})).status_code == 404
    assert (await other.get("/backups"))["items"] == []


async def test_more_than_so_many_calls_a_minute_are_refused(site: Site) -> None:
    alice = await site.person("alice")
    one = await with_token(site, alice, await site.team(alice))
    site.mirror.clock.step = timedelta()
    await one.get("/profile")
    await site.mirror.services.db.execute("update tries set count = $1", A_MINUTE)
    answer = await one.ask("GET", "/profile")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "60"
    site.mirror.clock.now += timedelta(minutes=2)
    await one.get("/profile")


# What creates.


async def test_the_same_key_makes_one_thing(kept: Kept) -> None:
    key = {"idempotency-key": "one"}
    wanted = {"role": "viewer"}
    first = await kept.program.ask("POST", "/teams/alice/invitations", wanted, headers=key)
    again = await kept.program.ask("POST", "/teams/alice/invitations", wanted, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert len((await kept.program.get("/teams/alice/invitations"))["items"]) == 1
    other = await kept.program.ask("POST", "/teams/alice/invitations", {"role": "operator"}, headers=key)
    assert other.status_code == 422
    kept.site.mirror.clock.now += timedelta(hours=25)
    fresh = await kept.program.ask("POST", "/teams/alice/invitations", {"role": "operator"}, headers=key)
    assert fresh.status_code == 201


async def test_a_key_whose_first_request_is_at_work_waits(kept: Kept) -> None:
    kept.site.mirror.clock.step = timedelta()
    key = {"idempotency-key": "one"}
    answers = await asyncio.gather(
        *(kept.program.ask("POST", f"{kept.at}/drills", {}, headers=key) for _ in range(4))
    )
    assert set(one.status_code for one in answers) <= {202, 409}
    assert len({one.json()["id"] for one in answers if one.status_code == 202}) == 1
    assert len((await kept.program.get("/teams/alice/jobs", kind="drill"))["items"]) == 1


async def test_what_failed_leaves_its_key_free(kept: Kept) -> None:
    key = {"idempotency-key": "one"}
    gone = {"to": {"url": "ftp://nowhere.example/x"}}
    failed = await kept.program.ask("POST", f"{kept.at}/restores", gone, headers=key)
    assert failed.status_code == 400
    made = await kept.program.ask("POST", f"{kept.at}/drills", {}, headers=key)
    assert made.status_code == 202


async def test_the_key_of_a_process_that_died_is_free_after_a_while(kept: Kept) -> None:
    db, now = kept.site.mirror.services.db, kept.site.mirror.clock.now
    assert await idempotency.begin(db, kept.alice.id, "one", "0" * 64, now) is None
    key = {"idempotency-key": "one"}
    other = await kept.program.ask("POST", f"{kept.at}/drills", {}, headers=key)
    assert other.status_code == 422
    kept.site.mirror.clock.now += timedelta(minutes=6)
    assert (await kept.program.ask("POST", f"{kept.at}/drills", {}, headers=key)).status_code == 202


async def test_a_kept_answer_shows_no_token(site: Site) -> None:
    alice = await site.person("alice")
    browser = await site.signed_in(alice)
    headers = {"origin": ORIGIN, "x-csrf-token": browser.csrf, "idempotency-key": "one"}
    body = {"name": "ci", "scopes": ["read"]}
    made = await browser.client.post("/api/v1/teams/alice/tokens", json=body, headers=headers)
    again = await browser.client.post("/api/v1/teams/alice/tokens", json=body, headers=headers)
    assert made.json() == again.json()
    token = made.json()["token"]
    kept = await site.mirror.services.db.fetchval("select sealed from idempotency")
    assert token.encode() not in kept
    place = next(one for one in reencryption.PLACES if one.table == "idempotency")
    assert len(await reencryption.others(site.mirror.services.db, place, b"\0" * 9, "", 10)) == 1


# Reading.


async def test_a_get_that_has_not_changed_is_304(kept: Kept) -> None:
    first = await kept.program.ask("GET", f"{kept.at}/snapshots")
    tag = first.headers["etag"]
    same = await kept.program.ask("GET", f"{kept.at}/snapshots", headers={"if-none-match": f'"x", W/{tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    other = await kept.program.ask("GET", f"{kept.at}/snapshots", limit=1, headers={"if-none-match": tag})
    assert other.status_code == 200


async def test_a_head_is_a_get_without_its_body(kept: Kept) -> None:
    for path in (f"{kept.at}/snapshots", f"{kept.at}/refs"):
        assert (await kept.program.ask("HEAD", path)).status_code == 200
    job = await kept.program.post(f"{kept.at}/backups")
    assert (await kept.program.ask("HEAD", f"/teams/alice/jobs/{job['id']}/events")).status_code == 200


async def test_lists_are_read_page_by_page(kept: Kept) -> None:
    db, now = kept.site.mirror.services.db, kept.site.mirror.clock.now
    for number in range(5):
        await repos.add(db, kept.team.id, f"acme/b{number}", f"https://b.example/{number}", now)
        await notices.add(db, kept.team.id, None, "connection", f"notice {number}", now)
    for path, key, count in (
        ("/teams/alice/repos", "name", 6),
        (f"{kept.at}/snapshots", "number", 3),
        (f"{kept.at}/refs", "name", 3),
        (f"{kept.at}/changes", "new", 5),
        (f"{kept.at}/pushes", "snapshot", 3),
        ("/notifications", "id", 5),
    ):
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await kept.program.get(path, limit=2, **cursor)
            found += [str(one[key]) for one in page["items"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert len(found) == count, path
        assert found == [str(one[key]) for one in (await kept.program.get(path, limit=200))["items"]]


async def test_a_cursor_of_another_list_is_refused(kept: Kept) -> None:
    page = await kept.program.get(f"{kept.at}/snapshots", limit=1)
    for path in (f"{kept.at}/changes", "/teams/alice/repos", "/teams/alice/jobs", "/teams/alice/drills"):
        answer = await kept.program.ask("GET", path, cursor=page["next"])
        assert answer.status_code == 400, path


async def test_repos_are_found_by_name_words_and_state(kept: Kept) -> None:
    for query, found in (
        ({"name": "acme/api"}, 1),
        ({"name": "acme"}, 0),
        ({"q": "api"}, 1),
        ({"state": "protected"}, 1),
        ({"state": "failing"}, 0),
        ({"state": "damaged"}, 0),
    ):
        assert len((await kept.program.get("/teams/alice/repos", **query))["items"]) == found
    one = await kept.program.get(kept.at)
    assert (one["name"], one["state"], one["snapshots"], one["refs"]) == ("acme/api", "protected", 3, 2)
    db, now = kept.site.mirror.services.db, kept.site.mirror.clock()
    await damages.found(db, kept.repo.id, "a part is gone", "a drill found that", now, 3)
    one = await kept.program.get(kept.at)
    assert (one["state"], one["damage"]["message"]) == ("damaged", "a part is gone")
    assert [one["name"] for one in (await kept.program.get("/teams/alice/repos", state="damaged"))["items"]]


async def test_a_name_that_is_no_utf8_has_its_bytes_as_well(kept: Kept) -> None:
    odd = (await kept.program.get(f"{kept.at}/refs", glob="odd-*"))["items"][0]
    assert base64.b64decode(odd["name_b64"]) == b"refs/heads/odd-\xff"
    shown = await kept.program.get(f"{kept.at}/commits", ref_b64=odd["name_b64"])
    assert shown["items"][0]["oid"] == odd["target"]


async def test_refs_that_are_gone_say_how_they_went(kept: Kept) -> None:
    services = kept.site.mirror.services
    for name in ("old-a", "old-b"):
        kept.work.set(name, kept.work.tip())
    await sync.sync(services, kept.repo.id)
    for name in ("old-b", "old-a"):
        kept.work.delete(name)
        await sync.sync(services, kept.repo.id)
    first = await kept.program.get(f"{kept.at}/refs", state="gone", limit=1)
    rest = await kept.program.get(f"{kept.at}/refs", state="gone", cursor=first["next"])
    assert [one["name"] for one in first["items"] + rest["items"]] == ["refs/heads/old-a", "refs/heads/old-b"]
    assert first["items"][0]["gone"]["last"] == 5 and rest["next"] is None
    assert (await kept.program.get(f"{kept.at}/refs", state="gone", at="#4"))["items"] == []
    found: list[tuple[str, int | None]] = []
    cursor: dict[str, str] = {}
    while cursor.get("cursor", "") is not None:
        page = await kept.program.get(f"{kept.at}/refs", state="ever", limit=2, glob="*old*", **cursor)
        found += [(one["name"], one.get("gone", {}).get("last")) for one in page["items"]]
        cursor = {"cursor": page["next"]}
    assert found == [("refs/heads/old-a", 5), ("refs/heads/old-b", 4)]
    two = await kept.program.ask("GET", f"{kept.at}/refs", glob=["a", "b"], state="gone")
    assert two.status_code == 400


async def test_a_moment_is_read_as_it_was(kept: Kept) -> None:
    blob = await kept.program.get(f"{kept.at}/blob", path="README.md", at="#2")
    assert (blob["snapshot"], blob["text"], blob["whole"]) == (2, "# Two\n", True)
    now = await kept.program.get(f"{kept.at}/blob", path="caf\u00e9.bin")
    assert (now["text"], base64.b64decode(now["data_b64"])) == (None, b"\0\1")
    folder = await kept.program.get(f"{kept.at}/tree", path="src")
    assert [(one["name"], one["kind"], one["mode"]) for one in folder["entries"]] == [
        ("a.txt", "file", "100644")
    ]
    raw = await kept.program.ask("GET", f"{kept.at}/raw", path="README.md", at="#1")
    assert (raw.content, raw.headers["x-content-type-options"]) == (b"# One\n", "nosniff")
    told = await kept.program.get(f"{kept.at}/difference", since="#2", at="#3")
    assert [(one["name"], one["kind"]) for one in told["refs"]] == [("refs/heads/main", "forced")]
    assert {one["path"] for one in told["files"]["files"]} == {"README.md", "caf\u00e9.bin"}
    commit = await kept.program.get(f"{kept.at}/commits/{kept.work.tip().decode()}")
    assert commit["commit"]["author"] == "Alice Example"
    missing = await kept.program.ask("GET", f"{kept.at}/blob", path="nothing")
    assert missing.status_code == 404


async def test_what_a_force_push_took_away_is_told(kept: Kept) -> None:
    lost = await kept.program.get(f"{kept.at}/lost")
    assert (lost["total"], lost["commits"]) == (1, 1)
    assert lost["items"][0]["commits"][0]["summary"] == "This will be lost"
    assert lost["items"][0]["bring_back_as"].startswith("refs/heads/restored/main-")
    forced = await kept.program.get(f"{kept.at}/changes", kind="forced")
    assert [one["snapshot"] for one in forced["items"]] == [3]


# Doing.


async def test_a_backup_is_a_job_that_is_listed_shown_and_cancelled(kept: Kept) -> None:
    by_name = await kept.program.post("/backups", {"repo": "acme/api"})
    job = await kept.program.post("/backups", {"repo": str(kept.repo.id)})
    assert by_name["id"] == job["id"]  # it waits still
    assert (job["kind"], job["state"], job["repo"]) == ("sync", "queued", "acme/api")
    assert (await kept.program.post(f"{kept.at}/backups"))["id"] == job["id"]
    assert [one["id"] for one in (await kept.program.get("/backups"))["items"]] == [job["id"]]
    assert (await kept.program.get(f"/teams/alice/backups/{job['id']}"))["id"] == job["id"]
    early = await kept.program.ask("POST", f"/backups/{job['id']}/restore", {"to": {"url": "https://x/y"}})
    assert early.status_code == 409
    stopped = await kept.program.post(f"/teams/alice/jobs/{job['id']}/cancel")
    assert stopped["state"] == "cancelled"
    again = await kept.program.post(f"/teams/alice/jobs/{job['id']}/retry")
    assert (again["state"], again["id"] == job["id"]) == ("queued", False)
    actions = [one.entry.action for one in await audit.page(kept.site.mirror.services.db, kept.team.id)]
    assert actions[:4] == ["job.retry", "job.cancel", "repo.back-up", "repo.back-up"]


async def test_a_job_is_followed_by_events(kept: Kept) -> None:
    job = await kept.program.post(f"{kept.at}/drills")
    await kept.program.post(f"/teams/alice/jobs/{job['id']}/cancel")
    answer = await kept.program.ask("GET", f"/teams/alice/jobs/{job['id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    part, end, _ = answer.text.split("\n\n", 2)
    assert json.loads(part.partition("data: ")[2])["state"] == "cancelled"
    assert end.startswith("event: end")


async def test_a_plan_says_ref_by_ref_what_a_restore_would_do(kept: Kept) -> None:
    plan = await kept.program.post(f"{kept.at}/plans", {"at": "#2", "refs": ["main"]})
    told = {one["name"]: one["result"] for one in plan["refs"]}
    assert told == {"HEAD": "created", "refs/heads/main": "created"}
    assert plan["snapshot"] == 2


async def test_credentials_of_a_restore_are_sealed_and_never_shown(kept: Kept, work: Work) -> None:
    to = {"url": str(kept.work.path), "token": "s3cret-token"}
    job = await kept.program.post(f"{kept.at}/restores", {"at": "#1", "to": to})
    assert "s3cret" not in json.dumps(job)
    assert (job["kind"], job["asked"]["snapshot"]) == ("restore", 1)
    row = await kept.site.mirror.services.db.fetchrow(
        "select asked, sealed from job where id = $1", job["id"]
    )
    assert "s3cret" not in row["asked"]
    assert row["sealed"] is not None


async def test_overwriting_is_confirmed_by_the_name(kept: Kept) -> None:
    wanted = {"to": {"url": str(kept.work.path)}, "force": True}
    refused = await kept.program.ask("POST", f"{kept.at}/restores", wanted)
    assert refused.status_code == 400
    name = kept.work.path.stem
    assert f'"confirm": "{name}"' in refused.json()["detail"]
    await kept.program.post(f"{kept.at}/restores", wanted | {"confirm": name})


async def test_a_person_proves_who_they_are_before_overwriting(kept: Kept) -> None:
    browser = await kept.site.signed_in(kept.alice)
    kept.site.mirror.clock.now += timedelta(hours=1)
    wanted = {"to": {"url": str(kept.work.path)}, "force": True, "confirm": kept.work.path.stem}
    headers = {"origin": ORIGIN, "x-csrf-token": browser.csrf}
    answer = await browser.client.post(f"/api/v1{kept.at}/restores", json=wanted, headers=headers)
    assert answer.status_code == 403
    assert await jobs.page(kept.site.mirror.services.db, kept.team.id) == []


async def test_a_restore_is_done_told_and_undone(kept: Kept, make_work: Callable[..., Work]) -> None:
    goal = make_work("goal")
    bring = [{"source": "main", "name": "rescue/two"}]
    wanted = {"at": "#2", "bring": bring, "to": {"url": str(goal.path)}}
    plan = await kept.program.post(f"{kept.at}/plans", wanted)
    assert [(one["name"], one["result"]) for one in plan["refs"]] == [("refs/heads/rescue/two", "created")]
    job = await kept.program.post(f"{kept.at}/restores", wanted)
    await work_off(kept)
    done = await kept.program.get(f"/teams/alice/jobs/{job['id']}")
    assert (done["state"], done["result"]["verified"]) == ("done", True), done
    assert len((await kept.program.get(f"{kept.at}/restores"))["items"]) == 1
    assert goal.git("show", "rescue/two:README.md") == b"# Two\n"
    undoing = await kept.program.post(f"/teams/alice/jobs/{job['id']}/undo/plan")
    assert [(one["name"], one["result"]) for one in undoing["refs"]] == [("refs/heads/rescue/two", "removed")]
    back = await kept.program.post(f"/teams/alice/jobs/{job['id']}/undo")
    await work_off(kept)
    assert (await kept.program.get(f"/teams/alice/jobs/{back['id']}"))["failure"] is None
    assert goal.git("for-each-ref") == b""


async def test_a_bundle_is_made_and_fetched_in_parts(kept: Kept) -> None:
    tip = kept.work.tip().decode()
    wanted = {"bring": [{"source": tip, "name": "rescue/it"}]}
    job = await kept.program.post(f"{kept.at}/bundles", wanted)
    early = await kept.program.ask("GET", f"/teams/alice/jobs/{job['id']}/bundle")
    assert early.status_code == 404
    await work_off(kept)
    whole = await kept.program.ask("GET", f"/teams/alice/jobs/{job['id']}/bundle")
    assert whole.content.startswith(b"# v2 git bundle\n")
    assert f"{tip} refs/heads/rescue/it".encode() in whole.content
    part = await kept.program.ask(
        "GET", f"/teams/alice/jobs/{job['id']}/bundle", headers={"range": "bytes=2-3"}
    )
    assert (part.status_code, part.content) == (206, b"v2")
    told = await kept.program.get(f"/teams/alice/jobs/{job['id']}")
    assert told["result"]["bytes"] == len(whole.content) and "exports/" not in str(told)


async def test_a_bundle_is_handed_over_by_the_store_where_it_can(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await kept.program.post(f"{kept.at}/bundles", {})
    await work_off(kept)

    async def presign(*_: object) -> str:
        return "https://store.example/exports/x?X-Amz-Signature=abc"

    monkeypatch.setattr(DirectoryVault, "presign", presign)
    answer = await kept.program.ask("GET", f"/teams/alice/jobs/{job['id']}/bundle")
    assert (answer.status_code, answer.headers["location"]) == (303, await presign())


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": {}},
        {"to": {"url": "https://git.example.org/x", "repo": "7b0f7b9e-8b1c-4a57-8e0c-000000000000"}},
        {"to": {"repo": "7b0f7b9e-8b1c-4a57-8e0c-000000000000", "token": "x"}},
        {
            "to": {"url": "https://u:p@git.example.org/x"},
            "refs": ["a"],
            "bring": [{"source": "a", "name": "b"}],
        },
        {"to": {"url": "https://git.example.org/x"}, "bring": [{"source": "main", "name": "a..b"}]},
    ],
    ids=["nowhere", "two places", "a token for a kept one", "both refs and others", "no name"],
)
async def test_a_restore_that_says_no_one_thing_is_refused(kept: Kept, wrong: dict[str, Any]) -> None:
    answer = await kept.program.ask("POST", f"{kept.at}/restores", wrong)
    assert answer.status_code in (400, 404), answer.text
    assert await jobs.page(kept.site.mirror.services.db, kept.team.id) == []


async def test_a_restore_from_what_is_known_to_be_damaged_is_refused_before_it_begins(kept: Kept) -> None:
    services = kept.site.mirror.services
    found = "update part set damaged_at = now() where repo_id = $1 and last_snapshot = 2"
    await services.db.execute(found, kept.repo.id)
    shutil.rmtree(services.disk.pool(kept.repo.id))
    to = {"url": str(kept.work.path)}
    for call, wanted in (("bundles", {}), ("restores", {"to": to})):
        answer = await kept.program.ask("POST", f"{kept.at}/{call}", wanted)
        said = answer.json()
        assert (said["class"], said["retry"]) == ("corrupt", False)
        assert "was found damaged; #1 before it can be restored" in said["detail"]
    assert await jobs.page(services.db, kept.team.id) == []


async def test_a_token_that_may_only_back_up_does_not_retry_a_restore(kept: Kept) -> None:
    to = {"url": str(kept.work.path)}
    job = await kept.program.post(f"{kept.at}/restores", {"to": to})
    small = await with_token(kept.site, kept.alice, kept.team, ("read", "backup"))
    for what in ("cancel", "retry"):
        answer = await small.ask("POST", f"/teams/alice/jobs/{job['id']}/{what}", {})
        assert answer.status_code == 403
    found = await jobs.page(kept.site.mirror.services.db, kept.team.id)
    assert [one.state for one in found] == ["queued"]


async def test_a_retry_obeys_what_the_first_try_obeyed(kept: Kept, make_work: Callable[..., Work]) -> None:
    db, clock = kept.site.mirror.services.db, kept.site.mirror.clock
    clock.step *= 0
    goal = make_work("goal")
    wanted = {"to": {"url": str(goal.path)}, "force": True, "confirm": "goal"}
    job = await kept.program.post(f"{kept.at}/restores", wanted)
    await work_off(kept)
    again = f"/teams/alice/jobs/{job['id']}/retry"
    refused = await kept.program.ask("POST", again, {})
    assert refused.status_code == 400 and '"confirm": "goal"' in refused.json()["detail"]
    browser = await kept.site.signed_in(kept.alice)
    headers = {"origin": ORIGIN, "x-csrf-token": browser.csrf}
    clock.now += timedelta(minutes=11)
    unsure = await browser.client.post(f"/api/v1{again}", json={"confirm": "goal"}, headers=headers)
    assert unsure.status_code == 403 and "confirm who you are" in unsure.json()["detail"]
    assert await db.fetchval("select count(*) from job") == 1
    statuses = [
        (await kept.program.ask("POST", again, {"confirm": "goal"})).status_code for _ in range(PER_HOUR)
    ]
    assert statuses == [202] * (PER_HOUR - 1) + [429]
    more = await kept.program.ask("POST", f"{kept.at}/restores", wanted)
    assert more.status_code == 429 and f"{PER_HOUR} restores within an hour" in more.json()["detail"]
    over = clock.now - timedelta(minutes=11) + timedelta(hours=1)  # since the first of them
    clock.now += timedelta(minutes=44)  # and the answer says how long is left
    more = await kept.program.ask("POST", f"{kept.at}/restores", wanted)
    assert more.status_code == 429 and 0 < int(more.headers["retry-after"]) <= 600
    assert words.minute(over)[:15] in more.json()["detail"]


async def test_undoing_once_more_wants_its_person_sure(kept: Kept, make_work: Callable[..., Work]) -> None:
    kept.site.mirror.clock.step *= 0
    job = await kept.program.post(f"{kept.at}/restores", {"to": {"url": str(make_work("goal").path)}})
    await work_off(kept)
    undone = await kept.program.post(f"/teams/alice/jobs/{job['id']}/undo")
    await work_off(kept)
    browser = await kept.site.signed_in(kept.alice)
    kept.site.mirror.clock.now += timedelta(minutes=11)
    headers = {"origin": ORIGIN, "x-csrf-token": browser.csrf}
    path = f"/api/v1/teams/alice/jobs/{undone['id']}/retry"
    assert (await browser.client.post(path, json={}, headers=headers)).status_code == 403


async def test_bundles_that_are_asked_for_again_are_counted_with_the_others(kept: Kept) -> None:
    kept.site.mirror.clock.step *= 0
    job = await kept.program.post(f"{kept.at}/bundles", {"at": "#1"})
    await kept.program.post(f"/teams/alice/jobs/{job['id']}/cancel")
    browser = await kept.site.signed_in(kept.alice)
    for number in range(1, BUNDLES_PER_HOUR):
        if number % 2:
            await kept.program.post(f"/teams/alice/jobs/{job['id']}/retry")
        else:
            assert (await browser.post(f"/alice/-/activity/{job['id']}/retry")).status_code == 303
    by_api = await kept.program.ask("POST", f"/teams/alice/jobs/{job['id']}/retry", {})
    by_page = await browser.post(f"/alice/-/activity/{job['id']}/retry")
    anew = await kept.program.ask("POST", f"{kept.at}/bundles", {"at": "#1"})
    assert [one.status_code for one in (by_api, by_page, anew)] == [429] * 3


async def test_a_repos_schedule_is_checked_and_kept(kept: Kept) -> None:
    headers = {"content-type": "application/json"}
    wrong = await kept.program.ask("PATCH", f"{kept.at}/settings", {"schedule": "often"}, headers=headers)
    assert wrong.status_code == 400
    done = await kept.program.ask(
        "PATCH", f"{kept.at}/settings", {"schedule": "6h", "paused": True, "excluded": ["refs/pull/*"]}
    )
    assert (done.json()["schedule"], done.json()["paused_at"] is None) == ("6h", False)
    assert done.json()["excluded"] == ["refs/pull/*"]
    back = await kept.program.ask("PATCH", f"{kept.at}/settings", {"schedule": None, "paused": False})
    assert (back.json()["schedule"], back.json()["paused_at"]) == (None, None)


async def test_what_is_kept_of_a_repo_is_shown_set_and_held_by_its_id(kept: Kept) -> None:
    wanted = {"keep_last": 2, "why": "the disk"}
    saved = await kept.program.ask("PUT", f"{kept.at}/retention", wanted)
    assert saved.status_code == 403  # one that keeps less is asked for by a person who signs in
    shown = await kept.program.get(f"{kept.at}/retention", keep_last=1)
    assert [one["snapshot"] for one in shown["preview"]["kept"]][-1] == 3
    pinned = await kept.program.ask("PUT", f"{kept.at}/kept", {"snapshot": 1, "note": "the release"})
    assert (pinned.status_code, pinned.json()["snapshot"]) == (200, 1)
    held = await kept.program.ask("PUT", f"{kept.at}/hold", {"reason": "case 12"})
    assert (held.status_code, held.json()["reason"]) == (200, "case 12")
    shown = await kept.program.get(f"{kept.at}/retention")
    assert shown["hold"]["reason"] == "case 12"
    assert [one["snapshot"] for one in shown["kept_by_hand"]] == [1]


async def test_a_hook_is_given_rotated_and_removed(kept: Kept) -> None:
    assert (await kept.program.ask("GET", f"{kept.at}/hook")).status_code == 404
    made = await kept.program.post(f"{kept.at}/hook", {"forge": "github"})
    assert made["secret"]
    assert "/hooks/github/" in made["url"]
    assert (await kept.program.get(f"{kept.at}/hook"))["secret"] is None
    assert (await kept.program.post(f"{kept.at}/hook/rotate"))["secret"] != made["secret"]
    assert (await kept.program.ask("DELETE", f"{kept.at}/hook")).status_code == 204


async def test_members_come_by_invitation_and_go(kept: Kept) -> None:
    bob = await kept.site.person("bob")
    theirs = await kept.site.signed_in(bob)
    invited = await kept.program.post("/teams/alice/invitations", {"role": "operator"})
    seen = await theirs.client.get(f"/api/v1/invitations/{invited['code']}")
    assert (seen.json()["team"], seen.json()["role"]) == ("alice", "operator")
    headers = {"origin": ORIGIN, "x-csrf-token": theirs.csrf}
    joined = await theirs.client.post(f"/api/v1/invitations/{invited['code']}/accept", headers=headers)
    assert joined.json()["role"] == "operator"
    changed = await kept.program.ask("PATCH", f"/teams/alice/members/{bob.id}", {"role": "viewer"})
    assert changed.json()["role"] == "viewer"
    assert (await kept.program.ask("DELETE", f"/teams/alice/members/{bob.id}")).status_code == 204
    assert [one["name"] for one in (await kept.program.get("/teams/alice/members"))["items"]] == ["Alice"]


async def test_notices_are_listed_and_dismissed(kept: Kept) -> None:
    db, now = kept.site.mirror.services.db, kept.site.mirror.clock.now
    await notices.add(db, kept.team.id, kept.repo.id, "mass-deletion", "half is gone", now)
    (one,) = (await kept.program.get("/notifications"))["items"]
    assert (one["repo"], one["seen_at"]) == ("acme/api", None)
    assert (await kept.program.ask("POST", f"/notifications/{one['id']}/seen")).status_code == 204
    assert (await kept.program.get("/teams/alice/notices"))["items"][0]["seen_at"] is not None


async def test_the_audit_log_is_read_and_exported(kept: Kept) -> None:
    await kept.program.post(f"{kept.at}/backups")
    page = await kept.program.get("/teams/alice/audit", action="repo")
    assert page["items"][0]["actor"] == "Alice, by token a test's"
    export = await kept.program.ask("GET", "/teams/alice/audit/export")
    assert export.headers["content-type"] == "application/x-ndjson"
    assert json.loads(export.text.splitlines()[-1])["action"] == "repo.back-up"


async def test_a_report_is_about_its_period(kept: Kept) -> None:
    report = await kept.program.get("/teams/alice/report")
    assert [(one["repo"], one["snapshots"], one["forced"]) for one in report["repos"]] == [("acme/api", 3, 1)]
    wrong = await kept.program.ask("GET", "/teams/alice/report", start="2026-03-02", end="2026-03-01")
    assert wrong.status_code == 400


async def test_the_team_that_is_meant_can_be_said(kept: Kept) -> None:
    bob = await kept.site.member(kept.team, "bob", Role.VIEWER)
    browser = await kept.site.signed_in(bob)
    own = await browser.client.get("/api/v1/settings")
    assert (own.json()["name"], own.json()["role"]) == ("bob", "owner")
    theirs = await browser.client.get("/api/v1/settings", params={"team": "alice"})
    assert (theirs.json()["name"], theirs.json()["role"]) == ("alice", "viewer")
    headers = {"origin": ORIGIN, "x-csrf-token": browser.csrf}
    refused = await browser.client.post(
        "/api/v1/backups?team=alice", json={"repo": str(kept.repo.id)}, headers=headers
    )
    assert refused.status_code == 403


async def test_a_session_sends_its_token_and_another_site_cannot(kept: Kept) -> None:
    browser = await kept.site.signed_in(kept.alice)
    body = {"repo": str(kept.repo.id)}
    assert (await browser.client.post("/api/v1/backups", json=body)).status_code == 403
    foreign = {"origin": "https://evil.example", "x-csrf-token": browser.csrf}
    assert (await browser.client.post("/api/v1/backups", json=body, headers=foreign)).status_code == 403
    assert await jobs.page(kept.site.mirror.services.db, kept.team.id) == []
