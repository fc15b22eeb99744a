"""Numbers for Prometheus: they say what there is, to who may know, and what was counted never goes down."""

import asyncio
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror.jobs import run as jobbing
from mirror.jobs.runner import Runner
from mirror.store import repos
from mirror.store.discovery import hooks
from mirror.store.jobs import jobs
from mirror.store.restore import drills
from mirror.store.upkeep import measures
from mirror.web.app import application
from tests.parts.promtool import promtool
from tests.parts.repos import MAIN, Work
from tests.parts.web import ORIGIN, Site

__all__ = ["promtool"]
OPERATIONS: Final = Path(__file__).parents[1] / "docs" / "operations.md"
HOOK: Final = "h" * 32

Told = dict[tuple[str, ...], float]  # by name and the values of the labels, in the order of their names


async def read(site: Site, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(site.app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        return await client.get(
            "/metrics", headers={name.replace("_", "-"): value for name, value in headers.items()}
        )


async def told(site: Site) -> Told:
    answer = await read(site)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def naming_teams(site: Site) -> None:
    settings = replace(site.mirror.services.settings, metrics_teams=True)
    site.app = application(replace(site.outside, services=replace(site.mirror.services, settings=settings)))


async def busy(site: Site, work: Work) -> None:
    """Have some of everything: a repo that fails, jobs in each state, a push that was told of, drills."""
    work.commit()
    mirror = site.mirror
    services, clock = mirror.services, mirror.clock
    repo = (await mirror.backup(work)).repo
    assert services.keyring
    await hooks.add(services.db, repo.id, "github", hooks.lock(services.keyring, HOOK, "x"), clock())
    before = work.tip()
    update = hooks.NewUpdate(MAIN, before, work.commit(), "alice", None)
    assert await hooks.deliver(
        services.db, HOOK, hooks.Delivery("d-1", "push", "7", (update,), None, b"{}"), clock()
    )
    await services.db.execute("update delivery set received_at = clock_timestamp() - interval '7 seconds'")
    await jobbing.ask(services, repo.id, "drill", {})
    await Runner(services).work_off()
    await jobbing.ask(services, repo.id, "drill", {"snapshot": 99})  # there is none
    await Runner(services).work_off()
    waits = await jobbing.ask(services, repo.id, "bundle", {"snapshot": 1})
    await jobs.cancel(services.db, waits.team_id, waits.id, clock())
    await repos.set_failure(services.db, repo.id, "network", "no answer", clock.now)
    await repos.request_sync(services.db, repo.id, clock.now)
    await jobs.queue(services.db, repo.id, "drill", {}, clock.now)


async def test_they_say_what_is_kept_and_what_waits(site: Site, work: Work) -> None:
    await busy(site, work)
    found, now = await told(site), site.mirror.clock.now.timestamp()
    assert found[("everref_repos", "failing")] == 1
    assert found[("everref_repos_failing", "network")] == 1
    assert found[("everref_jobs", "drill", "queued")] == 1
    assert found[("everref_snapshots",)] == 2
    assert found[("everref_sync_requests",)] == found[("everref_workers",)] == 1
    assert found[("everref_stored_bytes",)] > 0
    for name in (
        ("everref_repos_protected_timestamp_seconds", "hooked", "1"),
        ("everref_last_protected_timestamp_seconds",),
        ("everref_last_drill_timestamp_seconds", "passed"),
        ("everref_job_queued_oldest_timestamp_seconds",),
        ("everref_sync_request_oldest_timestamp_seconds",),
    ):
        assert now - 3600 < found[name] <= now, name
    assert 0 < found[("everref_disk_free_bytes",)] < found[("everref_disk_size_bytes",)]
    assert [name for name in found if name[0] == "everref_build_info"]


async def test_they_say_what_has_ended_and_how_long_it_took(site: Site, work: Work) -> None:
    await busy(site, work)
    found = await told(site)
    assert found[("everref_jobs_ended_total", "drill", "done")] == 1
    assert found[("everref_jobs_ended_total", "drill", "failed")] == 1
    assert found[("everref_jobs_ended_total", "bundle", "cancelled")] == 1
    assert found[("everref_jobs_ended_total", "restore", "done")] == 0
    assert found[("everref_job_failures_total", "not-found", "drill")] == 1
    assert found[("everref_job_duration_seconds_count", "drill")] == 1
    assert found[("everref_job_duration_seconds_count", "sync")] == 1
    assert found[("everref_deliveries_total", "push")] == 1
    assert found[("everref_drills_total", "passed")] == 1
    assert found[("everref_drill_duration_seconds_count",)] == 1
    assert found[("everref_push_to_protected_seconds_bucket", "5.0")] == 0
    assert found[("everref_push_to_protected_seconds_bucket", "+Inf")] == 1
    assert 7 <= found[("everref_push_to_protected_seconds_sum",)] < 300


def counters(found: Told) -> Told:
    ends = ("_total", "_bucket", "_count", "_sum")
    return {
        name: value
        for name, value in found.items()
        if name[0].endswith(ends) and not name[0].startswith(("process_", "everref_pool"))
    }


async def test_what_was_counted_never_goes_down_when_rows_are_pruned(site: Site, work: Work) -> None:
    await busy(site, work)
    db, before = site.mirror.services.db, counters(await told(site))
    assert sum(before.values()) > 10
    await measures.add_up(db)
    assert await db.fetchval("select count(*) from counted") == 0
    await hooks.forget_before(db, site.mirror.clock.now.replace(year=2100))
    await db.execute("delete from job")
    await db.execute("delete from drill")
    assert counters(await told(site)) == before


async def test_whoever_adds_up_at_the_same_time_counts_nothing_twice(pool: asyncpg.Pool) -> None:
    seconds = [0.1, 0.10001, 7.0, 90000.0]
    for _ in range(5):
        await pool.execute("insert into counted (what, seconds) select 'push', unnest($1::float8[])", seconds)
        await asyncio.gather(*(measures.add_up(pool) for _ in range(4)))
    await pool.execute("insert into counted (what, seconds) select 'push', unnest($1::float8[])", seconds)
    buckets, together = (await measures.counted(pool)).timed("push")
    found = dict(buckets)
    assert (found[0.1], found[0.25], found[10], found[86400], found[math.inf]) == (6, 12, 18, 18, 24)
    assert together == pytest.approx(6 * sum(seconds))


async def test_a_drill_that_found_something_and_one_that_the_vault_tells_of(site: Site, work: Work) -> None:
    work.commit()
    repo, at = (await site.mirror.backup(work)).repo, site.mirror.clock()
    db = site.mirror.services.db
    await drills.add(db, repo.id, drills.Drill(1, 2, 3, 0.5, ("broken",), at))
    await db.execute("update drill set noted = true")
    await db.execute(
        """
        insert into drill (repo_id, snapshot, refs, bytes, seconds, problems, finished_at, noted)
        select repo_id, snapshot, refs, bytes, seconds, problems, finished_at, true from drill
        """
    )
    found = await told(site)
    assert found[("everref_drills_total", "failed")] == 1
    assert found[("everref_last_drill_timestamp_seconds", "failed")] == at.timestamp()
    assert ("everref_last_drill_timestamp_seconds", "passed") not in found


async def test_teams_are_named_where_that_is_wanted_and_nowhere_else(site: Site, work: Work) -> None:
    await busy(site, work)
    assert not [name for name in await told(site) if name[0].startswith("everref_team_repos")]
    naming_teams(site)
    found = await told(site)
    assert found[("everref_team_repos", "failing", "everref")] == 1
    assert found[("everref_team_stored_bytes", "everref")] == found[("everref_stored_bytes",)]
    assert ("everref_team_protected_timestamp_seconds", "everref") in found


async def test_promtool_finds_nothing_wrong_with_them(site: Site, work: Work, promtool: str) -> None:
    naming_teams(site)
    await busy(site, work)
    text = (await read(site)).text
    command = [promtool, "check", "metrics"]
    done = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_every_number_is_in_the_table_of_operations_and_no_other(site: Site) -> None:
    naming_teams(site)
    text = (await read(site)).text
    names = {name for name in re.findall(r"^# HELP (\S+)", text, re.M) if name.startswith("everref_")}
    table = OPERATIONS.read_text().partition("## Metrics")[2].partition("| before | now |")[0]
    rows = re.findall(r"^\| (`everref_.*?) \|", table, re.M)
    assert {name for row in rows for name in re.findall(r"`(everref_\w+)", row)} == names


async def test_with_nothing_kept_they_are_all_there(site: Site) -> None:
    found = await told(site)
    assert found[("everref_repos", "failing")] == found[("everref_deliveries_total", "push")] == 0
    assert ("everref_last_protected_timestamp_seconds",) not in found
    assert ("everref_job_queued_oldest_timestamp_seconds",) not in found


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("192.0.2.1", {}),
        ("127.0.0.1", {"x_forwarded_for": "192.0.2.1"}),
        ("127.0.0.1", {"host": "rebound.example"}),
        ("192.0.2.1", {"host": "localhost"}),
        ("192.0.2.1", {"host": "localhost", "x_forwarded_for": "127.0.0.1"}),
        ("127.0.0.1", {"host": "localhost", "x_forwarded_for": "127.0.0.1"}),
    ],
    ids=[
        "from elsewhere",
        "through a proxy",
        "by a foreign name",
        "by a forged name",
        "by a forged header",
        "by a header that a proxy passed on",
    ],
)
async def test_without_a_token_only_this_machine_reads_them(
    site: Site, address: str, headers: dict[str, str]
) -> None:
    assert (await read(site, address, **headers)).status_code == 404


async def test_behind_a_proxy_that_speaks_https_nobody_reads_them_without_a_token(site: Site) -> None:
    site.app = application(replace(site.outside, origin="https://everref.example"))
    for host in ("localhost", "127.0.0.1:8000", "everref.example"):
        assert (await read(site, host=host)).status_code == 404


async def test_with_a_token_who_has_it_reads_them_from_anywhere(site: Site) -> None:
    settings = replace(site.mirror.services.settings, metrics_token="s3cret")
    outside = replace(site.outside, services=replace(site.mirror.services, settings=settings))
    site.app = application(outside)
    assert (await read(site)).status_code == 401
    assert (await read(site, authorization="Bearer wrong")).status_code == 401
    assert (await read(site, "192.0.2.1", authorization="Bearer s3cret")).status_code == 200
