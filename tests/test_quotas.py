"""What one team may have and do: counted as it is added, refused in words, and raised by who runs Everref."""

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.backup import sync as syncing
from mirror.cli import arguments, render, shapes
from mirror.cli.render import Eye
from mirror.core import quotas, words
from mirror.core.config import from_env
from mirror.core.errors import EverrefError, OverLimit, UsageError
from mirror.core.rules.roles import Role
from mirror.discovery import choose
from mirror.discovery import webhook as hooking
from mirror.discovery.choose import By
from mirror.jobs import run as jobbing
from mirror.jobs import sweep
from mirror.jobs.runner import Runner
from mirror.people import accounts, acting, api_tokens, limits, members
from mirror.services.startup import environment
from mirror.store import repos
from mirror.store.people import notices, teams
from mirror.store.people import quotas as rows
from mirror.store.people.teams import TeamId
from tests.parts.api import with_token
from tests.parts.everref import Mirror
from tests.parts.githttp import GitServer
from tests.parts.repos import Work
from tests.parts.web import Site

BY = By(None, "a test")
NOWHERE = "https://127.0.0.1:9"  # where nobody answers, and nobody is asked


def limited(mirror: Mirror, **most: int) -> Mirror:
    """Everref with other limits for all teams; `repos=5`."""
    given = {name.replace("_", "-"): number for name, number in most.items()}
    assert given.keys() <= quotas.LIMITS.keys()
    settings = mirror.services.settings
    settings = replace(settings, limits={**settings.limits, **given})
    return replace(mirror, services=replace(mirror.services, settings=settings))


async def refused(asked: list[Coroutine[Any, Any, Any]]) -> list[OverLimit]:
    """Ask for all of this at once; what was refused as beyond a limit."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    found = [one for one in answers if isinstance(one, OverLimit)]
    wrong = [one for one in answers if isinstance(one, BaseException) and not isinstance(one, OverLimit)]
    assert not wrong
    return found


async def own_team(mirror: Mirror) -> TeamId:
    return await teams.default(mirror.services.db)


# What is counted.


async def test_twenty_repos_at_once_are_as_many_as_a_team_may_have(mirror: Mirror) -> None:
    mirror, team = limited(mirror, repos=7), await own_team(mirror)
    asked = [choose.add_url(mirror.services, team, BY, f"{NOWHERE}/{number}.git") for number in range(20)]
    errors = await refused(list(asked))
    assert (len(errors), len(await repos.all(mirror.services.db))) == (13, 7)
    assert str(errors[0]) == (
        "the team everref has reached its limit, with 7 of 7 repositories; "
        "the person who runs Everref can raise it: everref limits everref repos=NUMBER"
    )
    known = await choose.add_url(mirror.services, team, BY, (await repos.all(mirror.services.db))[0].url)
    assert known  # what is kept already is no new one
    await limits.of(mirror.services, "everref", {"repos": 8}, mirror.clock())
    await choose.add_url(mirror.services, team, BY, f"{NOWHERE}/more.git")


async def test_another_team_has_limits_of_its_own(site: Site) -> None:
    mirror = limited(site.mirror, repos=1)
    ann, bob = await site.person("ann"), await site.person("bob")
    for person in (ann, bob):
        await choose.add_url(mirror.services, (await site.team(person)).id, BY, f"{NOWHERE}/x.git")
    with pytest.raises(OverLimit, match="ann has reached its limit, with 1 of 1 repositories"):
        await choose.add_url(mirror.services, (await site.team(ann)).id, BY, f"{NOWHERE}/y.git")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("drill", "drills-a-day"),
        ("bundle", "bundles-an-hour"),
        ("bundle", "bundles-a-day"),
        ("verify", "jobs-open"),
        ("verify", "jobs-a-day"),
    ],
)
async def test_twenty_jobs_at_once_are_as_many_as_a_team_may_ask_for(
    site: Site, work: Work, kind: Any, name: str
) -> None:
    work.commit()
    mirror = limited(site.mirror, **{name.replace("-", "_"): 3})
    repo, ann = (await mirror.backup(work)).repo, await site.person("ann")
    asked = [jobbing.ask(mirror.services, repo.id, kind, {}, person_id=ann.id) for _ in range(20)]
    errors = await refused(list(asked))
    assert len(errors) == 17
    assert {error.limit for error in errors} == {name}
    assert await mirror.services.db.fetchval("select count(*) from job where kind = $1", kind) == 3
    await jobbing.ask(mirror.services, repo.id, kind, {})  # Everref's own work is not held up


async def test_no_other_job_holds_up_what_gives_back_what_is_kept(site: Site, work: Work) -> None:
    work.commit()
    mirror = limited(site.mirror, jobs_open=1, jobs_a_day=1)
    repo, ann = (await mirror.backup(work)).repo, await site.person("ann")
    await jobbing.ask(mirror.services, repo.id, "verify", {}, person_id=ann.id)
    await jobbing.ask(mirror.services, repo.id, "bundle", {"snapshot": 1}, person_id=ann.id)
    (error,) = await refused([jobbing.ask(mirror.services, repo.id, "drill", {}, person_id=ann.id)])
    assert "with 1 of 1 open jobs that people requested" in str(error)


async def test_asking_for_a_backup_that_waits_already_takes_no_more(site: Site, work: Work) -> None:
    work.commit()
    mirror = limited(site.mirror, jobs_open=1, jobs_a_day=1)
    repo, ann = (await mirror.backup(work)).repo, await site.person("ann")
    first = await jobbing.ask(mirror.services, repo.id, "sync", {}, person_id=ann.id)
    again = await jobbing.ask(mirror.services, repo.id, "sync", {}, person_id=ann.id)
    assert again.id == first.id


async def test_twenty_tokens_and_members_at_once_are_as_many_as_a_team_may_have(site: Site) -> None:
    services, ann = site.mirror.services, await site.person("ann")
    team, by = await site.team(ann), acting.By(ann, site.mirror.clock.now)
    most = {"tokens": 4, "members": 3}
    asked = [
        api_tokens.make_token(services.db, by, team, f"t{number}", ["read"], limits=most)
        for number in range(20)
    ]
    assert len(await refused(list(asked))) == 16
    raws = [
        (await members.invite(services.db, site.outside.keyring, by, team, Role.VIEWER))[1] for _ in range(6)
    ]
    guests = [acting.By(await site.person(f"guest{number}"), by.at) for number in range(6)]
    joining = [
        members.accept(services.db, site.outside.keyring, guest, raw, most)
        for guest, raw in zip(guests, raws, strict=True)
    ]
    assert len(await refused(list(joining))) == 4
    assert len(await teams.members(services.db, team.id)) == 3


async def test_a_person_owns_no_more_teams_than_they_may(site: Site) -> None:
    ann = await site.person("ann")
    by = acting.By(ann, site.mirror.clock.now)
    asked = [members.new_team(site.mirror.services.db, by, f"team-{number}", 3) for number in range(10)]
    assert len(await refused(list(asked))) == 8  # and the one of their own


async def test_nobody_gives_a_person_more_teams_than_they_may_own(site: Site) -> None:
    """Somebody else made teams, invited them as owner, and left: one person owned 13 of 5."""
    db, keyring = site.mirror.services.db, site.outside.keyring
    ann, bob = await site.person("ann"), await site.person("bob")
    here, there = (acting.By(one, site.mirror.clock.now) for one in (ann, bob))
    invited, made = [await members.new_team(db, there, name) for name in ("invited", "made")]
    _, raw = await members.invite(db, keyring, there, invited, Role.OWNER)
    with pytest.raises(OverLimit, match="Ann owns 1 team, "):
        await members.accept(db, keyring, here, raw, owned=1)
    _, raw = await members.invite(db, keyring, there, made, Role.VIEWER)
    await members.accept(db, keyring, here, raw, owned=1)
    with pytest.raises(OverLimit, match="EVERREF_PERSON_TEAMS"):
        await members.change_role(db, there, made, ann.id, Role.OWNER, owned=1)
    assert await teams.owned(db, ann.id) == 1
    await members.accept(
        db, keyring, here, (await members.invite(db, keyring, there, invited, Role.OWNER))[1], owned=2
    )


async def test_a_team_gets_no_more_webhooks_than_it_may_have(mirror: Mirror) -> None:
    mirror = limited(mirror, hooks=1)
    first, second = await mirror.repo(f"{NOWHERE}/a.git"), await mirror.repo(f"{NOWHERE}/b.git")
    await hooking.give(mirror.services, first, "github")
    await hooking.give(mirror.services, first, "github", new=True)
    with pytest.raises(OverLimit, match="with 1 of 1 webhooks"):
        await hooking.give(mirror.services, second, "github")


# Bytes.


async def test_a_team_that_is_full_keeps_what_it_has_is_told_once_and_goes_on_when_it_may(
    site: Site, work: Work, git_server: GitServer
) -> None:
    mirror = site.mirror
    services, db = mirror.services, mirror.services.db
    work.commit(files={"a": b"first"})
    repo = (await mirror.backup(f"{git_server.url}/remote.git")).repo
    team = await own_team(mirror)
    (use,) = await rows.uses(db, team, services.settings.limits, mirror.clock(), ["stored-bytes"])
    await limits.of(services, "everref", {"stored-bytes": use.used}, mirror.clock())
    old = work.refs()
    work.commit(files={"b": b"second"})
    runner = Runner(services)
    for _ in range(2):
        await repos.request_sync(db, repo.id, mirror.clock())
        await runner.work_off()
    overview = await repos.overview_of(db, repo.id)
    assert (overview.state, overview.failure, overview.snapshots) == ("behind", None, 1)
    (notice,) = await notices.open_of(db, team)
    assert notice.kind == "over-limit"
    assert "nothing new is saved: the limit of everref is" in notice.message
    owner = await accounts.first_owner(db, mirror.clock.now)
    browser = await site.signed_in(owner)
    page = (await browser.get("/everref")).text
    assert page.count("limit reached") == 1
    assert await mirror.refs(repo, 1) == old
    await limits.of(services, "everref", {"stored-bytes": "default"}, mirror.clock())
    await runner.work_off()
    overview = await repos.overview_of(db, repo.id)
    assert (overview.state, overview.snapshots) == ("protected", 2)
    assert await mirror.refs(repo, 2) == work.refs()
    assert "limit reached" not in (await browser.get("/everref")).text


async def test_a_pack_that_does_not_fit_is_not_read_to_its_end_and_leaves_nothing(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    work.commit(files={"large": bytes(range(256)) * 40})
    mirror = limited(mirror, stored_bytes=300)
    with pytest.raises(OverLimit, match="is 300 B stored in the vault"):
        await mirror.backup(f"{git_server.url}/remote.git")
    assert not [key for key in await mirror.keys() if ".bundle" in key]
    assert await mirror.services.db.fetchval("select count(*) from intent") == 0


async def test_syncs_that_end_at_the_same_time_share_the_room_that_is_left(
    mirror: Mirror, tmp_path: Path
) -> None:
    made = []
    for number in range(4):
        one = Work(tmp_path / f"{number}.git")
        one.commit(files={"a": str(number).encode() * 400})
        made.append(one)
    sized = (await mirror.backup(made[0])).snapshot.bundle
    assert sized
    mirror = limited(mirror, stored_bytes=3 * sized.bytes - 20)
    kept = [await mirror.repo(str(one.path)) for one in made[1:]]
    errors = await refused([syncing.sync(mirror.services, repo.id) for repo in kept])
    stored = await mirror.services.db.fetchval("select sum(bytes) from part where replaced_at is null")
    assert errors
    assert stored <= 3 * sized.bytes - 20


async def test_a_repository_that_is_larger_than_it_may_be_fails_by_itself_until_that_is_raised(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    work.commit(files={"large": bytes(range(256)) * 40})
    mirror = limited(mirror, repo_bytes=300)
    with pytest.raises(OverLimit, match="stored of one repository"):
        await mirror.backup(f"{git_server.url}/remote.git")
    (row,) = await repos.overview(mirror.services.db)
    assert row.failure
    assert row.failure.kind == "limit"
    assert row.failure.retry_at
    assert row.failure.retry_at - row.failure.at == syncing.A_DAY
    await limits.of(mirror.services, "everref", {"repo-bytes": None}, mirror.clock())
    assert (await mirror.backup(f"{git_server.url}/remote.git")).new


async def test_beyond_its_share_of_a_disk_a_teams_pools_go_and_are_filled_anew(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    await limits.of(mirror.services, "everref", {"pool-bytes": 1}, mirror.clock())
    assert await mirror.services.disk.pools.held()
    await sweep.tend(mirror.services)
    assert not sum((await mirror.services.disk.pools.held()).values())
    work.commit()
    assert (await syncing.sync(mirror.services, repo.id)).snapshot.number == 2


# What people and programs are told.


async def test_the_api_answers_429_with_the_limit_and_how_long_to_wait(site: Site, work: Work) -> None:
    ann = await site.person("ann")
    team = await site.team(ann)
    db, now = site.mirror.services.db, site.mirror.clock.now
    program = await with_token(site, ann, team)
    for name in ("repos", "jobs-a-day"):
        await rows.set(db, team.id, name, 1, now)
    made = await program.post("/teams/ann/repos", {"url": f"{NOWHERE}/a.git"})
    answer = await program.ask("POST", "/teams/ann/repos", {"url": f"{NOWHERE}/b.git"})
    assert answer.status_code == 429
    assert answer.json()["class"] == "limit"
    assert "everref limits ann repos=NUMBER" in answer.json()["detail"]
    assert "retry-after" not in answer.headers  # time alone changes nothing
    await program.post(f"/teams/ann/repos/{made['id']}/verifications")
    answer = await program.ask("POST", f"/teams/ann/repos/{made['id']}/verifications", {})
    wait = int(answer.headers["retry-after"])
    assert answer.status_code == 429 and 86_000 < wait <= 86_400
    queued: datetime = await db.fetchval("select queued_at from job")
    free_at = words.minute(queued + timedelta(days=1))
    assert (
        f"with 1 of 1 jobs that people requested in a day; the next is possible at {free_at}, or "
        in (answer.json()["detail"])
    )


async def test_the_settings_show_what_is_used_of_each_limit(site: Site) -> None:
    ann = await site.person("ann")
    team = await site.team(ann)
    await rows.set(site.mirror.services.db, team.id, "repos", 1000, site.mirror.clock.now)
    await choose.add_url(site.mirror.services, team.id, BY, f"{NOWHERE}/x.git")
    page = (await (await site.signed_in(ann)).get("/ann/-/settings")).text
    shown = dict(re.findall(r'<th scope="row">([^<]+)</th><td class="num">([^<]+?)\s*<', page))
    assert shown["Repositories"] == "1 of 1,000"
    assert shown["Stored in the vault"].endswith(", unlimited")
    assert shown["Members"] == "1 of 10,000"


async def test_what_pools_may_take_is_shown_though_nobody_counts_all(mirror: Mirror) -> None:
    await teams.default(mirror.services.db)
    team, found = await limits.of(mirror.services, "everref", {"pool-bytes": 5 * 10**9}, mirror.clock())
    (pools,) = [one for one in found if one.limit.name == "pool-bytes"]
    assert (pools.said, pools.own, pools.is_full) == ("at most 5.0 GB", True, False)
    assert "pool-bytes" in render.limits(team, found, Eye(mirror.clock()))
    told = {one["name"]: one for one in shapes.limits(team, found)["limits"]}
    assert told["pool-bytes"] == {"name": "pool-bytes", "used": None, "most": 5 * 10**9, "own": True}


def test_limits_without_a_team_say_which_the_command_lines_is() -> None:
    with pytest.raises(UsageError, match="everref limits everref"):
        arguments.parse(["limits"])


async def test_metrics_tell_how_near_teams_are_to_their_limits(site: Site) -> None:
    ann = await site.person("ann")
    team = await site.team(ann)
    await rows.set(site.mirror.services.db, team.id, "repos", 2, site.mirror.clock.now)
    await choose.add_url(site.mirror.services, team.id, BY, f"{NOWHERE}/x.git")
    text = (await (await site.browser()).get("/metrics")).text
    assert 'everref_team_limit_used_ratio{limit="repos"} 0.5' in text
    assert 'everref_teams_at_limit{limit="repos"} 0.0' in text
    assert 'everref_team_limit{limit="repos"} +Inf' in text


# What is set.


def test_limits_are_strict_only_where_strangers_can_sign_up() -> None:
    def settings(**env: str) -> Any:
        return from_env(env, lambda _: "", "/data")

    server = "postgresql://db/everref"
    assert (settings().signup, settings().limits["repos"]) == ("open", None)
    assert settings(DATABASE_URL=server).signup == "invited"
    assert settings(DATABASE_URL=server).limits["stored-bytes"] is None
    open_to_all = settings(DATABASE_URL=server, SIGNUP="open", EVERREF_TEAM_HOOKS="unlimited")
    assert (open_to_all.limits["repos"], open_to_all.person_teams) == (1000, 5)
    assert open_to_all.limits["hooks"] is None
    assert settings(EVERREF_TEAM_STORED_BYTES="20G").limits["stored-bytes"] == 20 * 10**9
    handed_on = settings(**environment(open_to_all, {}))
    assert (handed_on.limits, handed_on.signup) == (open_to_all.limits, open_to_all.signup)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVERREF_TEAM_REPOS", "many"),
        ("EVERREF_TEAM_REPOS", "5G"),
        ("EVERREF_TEAM_REPOS", "-1"),
        ("EVERREF_TEAM_STORED_BYTES", "much"),
        ("EVERREF_PERSON_TEAMS", "0"),
        ("SIGNUP", "sometimes"),
    ],
)
def test_a_wrong_limit_is_one_clear_line(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be"):
        from_env({name: value}, lambda _: "", "/data")


async def test_a_limit_that_does_not_exist_changes_nothing(mirror: Mirror) -> None:
    with pytest.raises(EverrefError, match="there is no team nobody"):
        await limits.of(mirror.services, "nobody", {"repos": 1}, mirror.clock())
