"""Numbers for Prometheus: they say what there is, to who may know."""

from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror.store import jobs, repos
from mirror.web.app import application
from tests.parts.repos import Work
from tests.parts.web import ORIGIN, Site


async def read(site: Site, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(site.app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        return await client.get(
            "/metrics", headers={name.replace("_", "-"): value for name, value in headers.items()}
        )


async def test_they_say_what_is_kept_and_what_waits(site: Site, work: Work) -> None:
    work.commit()
    done = await site.mirror.backup(work)
    db, clock = site.mirror.edges.db, site.mirror.clock
    await repos.set_failure(db, done.repo.id, "network", "no answer", clock.now)
    await repos.want(db, done.repo.id, clock.now)
    await jobs.queue(db, done.repo.id, "drill", {}, clock.now)
    answer = await read(site)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert told[("everref_repos", "failing")] == 1
    assert told[("everref_repos_failing", "network")] == 1
    assert told[("everref_jobs", "drill", "queued")] == 1
    assert told[("everref_snapshots",)] == told[("everref_wishes",)] == 1
    assert told[("everref_stored_bytes",)] > 0
    assert told[("everref_protection_age_seconds", "by-activity", "1")] > 0
    assert told[("everref_queue_oldest_seconds",)] > 0


async def test_with_nothing_kept_they_are_all_there(site: Site) -> None:
    names = {family.name for family in text_string_to_metric_families((await read(site)).text)}
    assert {"everref_pool_bytes", "everref_pool_evictions"} <= names
    assert {"everref_repos", "everref_deliveries_last_hour", "everref_errors_last_hour"} <= names


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
    settings = replace(site.mirror.edges.settings, metrics_token="s3cret")
    outside = replace(site.outside, edges=replace(site.mirror.edges, settings=settings))
    site.app = application(outside)
    assert (await read(site)).status_code == 401
    assert (await read(site, authorization="Bearer wrong")).status_code == 401
    assert (await read(site, "192.0.2.1", authorization="Bearer s3cret")).status_code == 200
