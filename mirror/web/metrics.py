"""Numbers for Prometheus: how well everything is protected, what is being done, what fails."""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mirror.git.pools import Measured
from mirror.quotas import Limits
from mirror.store import quotas
from mirror.store.measures import Measures, measures
from mirror.web.frame import BEARER, Outside, is_local

LATE: Final = timedelta(hours=1)
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def route(outside: Outside) -> Route:
    """`GET /metrics`."""

    async def metrics(request: Request) -> Response:
        """Every number, to who may read them."""
        if not _may(request, outside):
            return PlainTextResponse("send METRICS_TOKEN as a bearer token\n", 401, BEARER)
        found = await measures(outside.edges.db, outside.edges.clock(), LATE)
        pools = await outside.edges.disk.pools.measured()
        settings = outside.edges.settings
        limits = await quotas.measured(outside.edges.db, settings.limits, outside.edges.clock())
        return Response(
            text(found, pools) + of_limits(limits, settings.limits), headers={"content-type": TEXT}
        )

    return Route("/metrics", metrics)


def _may(request: Request, outside: Outside) -> bool:
    """Whether it has the token. Where none is set: it comes from this machine by no proxy; else 404.

    A server that people reach by https has a proxy before it, which may say anything
    of where a request came from: there the token alone opens it.
    """
    token = outside.edges.settings.metrics_token
    if token is not None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), token.encode())
    if not is_local(request, outside.origin) or any(one in request.headers for one in _FORWARDED):
        raise HTTPException(404, "there is nothing here")
    return True


def text(found: Measures, pools: Measured) -> bytes:
    """The numbers in the text format of Prometheus."""

    class Found(Collector):
        def collect(self) -> Iterator[Metric]:
            return chain(_families(found), _of_disk(pools))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Found())
    return bytes(generate_latest(registry))


def of_limits(found: Sequence[quotas.Measured], limits: Limits) -> bytes:
    """How near teams are to their limits, in the same format."""
    near = GaugeMetricFamily(
        "everref_team_limit_used_ratio", "The share of a limit that the nearest team uses", labels=["limit"]
    )
    over = GaugeMetricFamily(
        "everref_teams_at_limit", "Teams that have as much of something as they may", labels=["limit"]
    )
    most = GaugeMetricFamily(
        "everref_team_limit", "What every team may have of which nothing else was said", labels=["limit"]
    )
    for one in found:
        near.add_metric([one.name], one.most)
        over.add_metric([one.name], one.over)
    for name, value in limits.items():
        most.add_metric([name], float("inf") if value is None else value)

    class Found(Collector):
        def collect(self) -> Iterator[Metric]:
            return iter((near, over, most))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Found())
    return bytes(generate_latest(registry))


def _families(found: Measures) -> Iterator[Metric]:
    ages = GaugeMetricFamily(
        "everref_protection_age_seconds",
        "How long ago repos were last known to be protected, by how we hear of their pushes",
        labels=["class", "quantile"],
    )
    for name, age in found.ages.items():
        for quantile, value in (("0.5", age.median), ("0.95", age.most), ("1", age.oldest)):
            ages.add_metric([name, quantile], value)
    yield ages
    yield _by(found.repos, "everref_repos", "Repos, by state", "state")
    yield _by(
        found.failing, "everref_repos_failing", "Repos whose last run failed, by class of error", "class"
    )
    yield GaugeMetricFamily("everref_wishes", "Repos that are due to be synced", value=found.wishes)
    yield GaugeMetricFamily(
        "everref_wish_oldest_seconds", "How long the oldest of them has waited", value=found.oldest_wish
    )
    yield _by(found.jobs, "everref_jobs", "Jobs that have not ended", "kind", "state")
    yield GaugeMetricFamily(
        "everref_queue_oldest_seconds", "How long the oldest queued job has waited", value=found.oldest_job
    )
    yield _by(found.ended, "everref_jobs_ended_last_hour", "Jobs that ended in an hour", "kind", "state")
    yield _by(
        found.failed, "everref_errors_last_hour", "Jobs that failed in an hour, by class", "kind", "class"
    )
    yield _by(found.deliveries, "everref_deliveries_last_hour", "Webhook deliveries in an hour", "kind")
    yield GaugeMetricFamily("everref_stored_bytes", "Bytes of live parts in the vault", value=found.bytes)
    yield GaugeMetricFamily(
        "everref_replaced_bytes", "Bytes in the vault that wait to be deleted", value=found.replaced
    )
    yield GaugeMetricFamily("everref_snapshots", "Snapshots", value=found.snapshots)


def _of_disk(pools: Measured) -> Iterator[Metric]:
    """What this machine's disk holds; workers on others have pools of their own."""
    yield GaugeMetricFamily("everref_pool_bytes", "Bytes of the pools on this disk", value=pools.bytes)
    yield CounterMetricFamily(
        "everref_pool_evictions", "Pools that made room on this disk", value=pools.evicted
    )


def _by(
    counts: Mapping[str, int] | Mapping[tuple[str, str], int], name: str, about: str, *labels: str
) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, count in counts.items():
        family.add_metric([key] if isinstance(key, str) else list(key), count)
    return family
