"""Numbers for Prometheus: how well everything is protected, what is being done, what fails.

Workers do the work and a web process is asked, so the numbers come from the
database: counters and histograms from what its triggers count (sql/085_counters.sql).
docs/operations.md lists them; deploy/prometheus and deploy/grafana use them.
"""

import asyncio
import hmac
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import product
from math import isinf
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mirror.core.quotas import Limits
from mirror.git.pools import Measured
from mirror.services.open import Services
from mirror.store.backup import received
from mirror.store.backup.received import Received
from mirror.store.jobs import jobs
from mirror.store.notify import sendings
from mirror.store.notify.sendings import Backlog
from mirror.store.people import quotas
from mirror.store.restore import mirrors, served, shares
from mirror.store.restore.served import Served
from mirror.store.upkeep import copies, measures
from mirror.store.upkeep.copies import Copy
from mirror.store.upkeep.measures import Counted, Measures, TeamMeasures
from mirror.web.dispatch import BEARER, Outside, is_local

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_DELIVERIES: Final = ("ping", "push", "create", "delete", "repository", "ignored")
_STATES: Final = ("damaged", "archived", "never", "paused", "failing", "late", "behind", "protected")


@dataclass(frozen=True, slots=True)
class Disk:
    """What this machine's disk holds; workers on others have disks of their own."""

    pools: Measured
    free: int  # bytes
    size: int


def route(outside: Outside) -> Route:
    """`GET /metrics`."""

    async def metrics(request: Request) -> Response:
        """Every number, for those who may read them."""
        if not _may(request, outside):
            return PlainTextResponse("send METRICS_TOKEN as a bearer token\n", 401, BEARER)
        return Response(await told(outside.services), headers={"content-type": TEXT})

    return Route("/metrics", metrics)


def _may(request: Request, outside: Outside) -> bool:
    """Whether it has the token. Where none is set: it comes from this machine by no proxy; else 404.

    A server that people reach by https has a proxy before it, which may say anything
    of where a request came from: there the token alone opens it.
    """
    token = outside.services.settings.metrics_token
    if token is not None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), token.encode())
    if not is_local(request, outside.origin) or any(one in request.headers for one in _FORWARDED):
        raise HTTPException(404, "there is nothing here")
    return True


async def told(services: Services) -> bytes:
    """Every number, in the text format of Prometheus."""
    settings = services.settings
    usage = await asyncio.to_thread(shutil.disk_usage, services.disk.root)
    disk = Disk(await services.disk.pools.measured(), usage.free, usage.total)
    families = [
        _of_build(),
        *_of_repos(await measures.measures(services.db, services.clock())),
        *_of_counted(await measures.counted(services.db)),
        *_of_served(await served.counted(services.db)),
        *_of_received(await received.counted(services.db)),
        *_of_shares(await shares.totals(services.db)),
        *_of_messages(await sendings.backlog(services.db, services.clock())),
        *_of_copies(await _copies(services), services.clock()),
        *_of_mirrors(await mirrors.measured(services.db, services.clock())),
        *_of_disk(disk),
        *of_limits(await quotas.measured(services.db, settings.limits, services.clock()), settings.limits),
    ]
    if settings.metrics_teams:
        families += _of_teams(await measures.of_teams(services.db, services.clock()))
    return text(families)


def text(families: Iterable[Metric]) -> bytes:
    """These, and what there is to say of this process."""

    class Found(Collector):
        def collect(self) -> Iterator[Metric]:
            return iter(families)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Found())
    ProcessCollector(registry=registry)
    return bytes(generate_latest(registry))


def _of_build() -> Metric:
    build = GaugeMetricFamily(
        "everref_build_info", "The version of Everref and of Python; always 1", labels=["version", "python"]
    )
    build.add_metric([version("everref"), platform.python_version()], 1)
    return build


def _of_repos(found: Measures) -> Iterator[Metric]:
    protected = GaugeMetricFamily(
        "everref_repos_protected_timestamp_seconds",
        "The time as of which this share of the repos is protected, or later, by how we hear of their pushes",
        labels=["heard", "share"],
    )
    for heard, times in found.protected.items():
        for share, time in (("0.5", times.half), ("0.95", times.most), ("1", times.all)):
            protected.add_metric([heard, share], time)
    yield protected
    yield _gauge(
        "everref_last_protected_timestamp_seconds",
        "When a repo was last found to be protected: its remote answered and all of it is stored",
        found.last_protected,
    )
    yield _by(dict.fromkeys(_STATES, 0) | dict(found.repos), "everref_repos", "Repos, by state", "state")
    yield _by(
        found.failing, "everref_repos_failing", "Repos whose last run failed, by class of error", "class"
    )
    yield _gauge(
        "everref_repos_outside_rpo",
        "Repos of which more could be lost than their recovery point objectives allow",
        found.outside,
    )
    yield _gauge(
        "everref_unknown_repos",
        "Repos that are in the vault and that this database does not know: run everref rebuild",
        found.unknown,
    )
    yield _gauge("everref_lost_pushes", "Pushes that nobody can bring back", found.lost)
    yield _gauge("everref_sync_requests", "Repos that are due to be synced", found.requests)
    yield _gauge(
        "everref_sync_request_oldest_timestamp_seconds",
        "Since when the oldest request for a sync waits; absent while none does",
        found.oldest_request,
    )
    none = dict.fromkeys(product(get_args(jobs.Kind), ("queued", "running")), 0)
    open_ = none | dict(found.jobs)
    yield _by(open_, "everref_jobs", "Jobs that have not ended, by kind and state", "kind", "state")
    yield _gauge(
        "everref_job_queued_oldest_timestamp_seconds",
        "Since when the oldest queued job waits; absent while none does",
        found.oldest_job,
    )
    yield _gauge("everref_workers", "Workers that said within 30 s that they are alive", found.workers)
    yield _by(
        {part: int(part in found.away) for part in ("vault", "disk")},
        "everref_part_away",
        "1 while workers find the vault, or the disk of one of them, away or full",
        "part",
    )
    yield _gauge("everref_repos_never_drilled", "Repos that no drill has ever restored", found.undrilled)
    yield _by(
        found.drilled,
        "everref_last_drill_timestamp_seconds",
        "When a drill last restored a repo whole (passed), and last found something broken (failed)",
        "result",
    )
    yield _gauge("everref_drills_due", "Repos whose scheduled drill is due", found.drills_due)
    yield _gauge(
        "everref_oldest_drill_timestamp_seconds",
        "The last drill of the repo whose last one is the longest ago; absent while there is none",
        found.oldest_drill,
    )
    yield _gauge(
        "everref_read_coverage_ratio",
        "The part of all stored bytes that was read back, or stored, within the period of its team",
        found.coverage.ratio,
    )
    oldest = found.coverage.oldest_at
    yield _gauge(
        "everref_oldest_read_timestamp_seconds",
        "When the object that was not read for longest was read, or stored; absent while there is none",
        oldest.timestamp() if oldest else None,
    )
    yield _gauge(
        "everref_last_state_export_timestamp_seconds",
        "When people, teams and connections were last exported into the vault",
        found.exported,
    )
    yield _gauge("everref_stored_bytes", "Bytes of live parts in the vault", found.bytes)
    yield _gauge("everref_replaced_bytes", "Bytes in the vault that wait to be deleted", found.replaced)
    yield _gauge("everref_snapshots", "Snapshots in the vault", found.snapshots)


def _of_counted(found: Counted) -> Iterator[Metric]:
    kinds = get_args(jobs.Kind)
    ended = CounterMetricFamily(
        "everref_jobs_ended", "Jobs that have ended, by kind and state", labels=["kind", "state"]
    )
    for kind in kinds:
        for state in sorted(jobs.ENDED):
            ended.add_metric([kind, state], found.total("job", kind=kind, outcome=state))
    yield ended
    failures = CounterMetricFamily(
        "everref_job_failures", "Jobs that have failed, by kind and class of error", labels=["kind", "class"]
    )
    for kind, class_ in sorted({(key[1], key[3]) for key in found.alike if key[3]}):
        failures.add_metric([kind, class_], found.total("job", kind=kind, class_=class_))
    yield failures
    yield _histogram(
        found,
        "everref_job_duration_seconds",
        "How long successful jobs took, from their last start, by kind",
        {kind: ("job", {"kind": kind, "outcome": "done"}) for kind in kinds},
    )
    deliveries = CounterMetricFamily(
        "everref_deliveries", "Webhook deliveries that were accepted, by kind", labels=["kind"]
    )
    for kind in _DELIVERIES:
        deliveries.add_metric([kind], found.total("delivery", kind=kind))
    yield deliveries
    yield _histogram(
        found,
        "everref_push_to_protected_seconds",
        "Time from the arrival of a webhook delivery until its push was protected",
        {"": ("push", {})},
    )
    pushes = CounterMetricFamily(
        "everref_mirror_pushes",
        "Pushes to mirrors that wrote something or failed, by result",
        labels=["result"],
    )
    for result in ("done", "failed"):
        pushes.add_metric([result], found.total("mirror", outcome=result))
    yield pushes
    drills = CounterMetricFamily("everref_drills", "Drills, by whether they passed", labels=["result"])
    for result in ("passed", "failed"):
        drills.add_metric([result], found.total("drill", outcome=result))
    yield drills
    yield _histogram(
        found,
        "everref_drill_duration_seconds",
        "How long drills took, from the first byte read to the last ref compared",
        {"": ("drill", {})},
    )


def _of_shares(found: Mapping[str, tuple[int, int]]) -> Iterator[Metric]:
    uses = CounterMetricFamily(
        "everref_share_uses", "What was done with share links; password: a wrong one", labels=["what"]
    )
    sent = CounterMetricFamily("everref_share_bytes", "Bytes that were sent for share links", labels=["what"])
    for what in get_args(shares.Act):
        times, size = found.get(what, (0, 0))
        uses.add_metric([what], times)
        sent.add_metric([what], size)
    return iter((uses, sent))


def _of_messages(found: Backlog) -> Iterator[Metric]:
    yield _gauge("everref_messages_waiting", "Messages that are due at a channel and not sent", found.waiting)
    yield _gauge(
        "everref_message_oldest_due_timestamp_seconds",
        "Since when the oldest message is due that is not sent; absent while none is",
        None if found.oldest_due is None else found.oldest_due.timestamp(),
    )
    yield _gauge("everref_messages_failed", "Messages that were given up within a day", found.failed)
    yield _gauge("everref_channels_failing", "Channels at which nothing arrives", found.failing)


async def _copies(services: Services) -> Sequence[Copy]:
    return await copies.standing(services.db, [place.name for place in services.copies.copies])


def _of_copies(found: Sequence[Copy], now: datetime) -> Iterator[Metric]:
    yield _by(
        {one.name: one.lag(now).total_seconds() for one in found},
        "everref_copy_behind_seconds",
        "How long the oldest object waits to get to a copy of the vault; 0 where it has everything",
        "copy",
    )
    yield _by(
        {one.name: one.waiting for one in found},
        "everref_copy_waiting",
        "Objects that a copy of the vault still has to get or to lose",
        "copy",
    )
    yield _by(
        {one.name: int(one.away_since is not None) for one in found},
        "everref_copy_away",
        "1 while a copy of the vault does not answer",
        "copy",
    )
    yield _by(
        {one.name: one.damaged for one in found},
        "everref_copy_damaged",
        "Objects of a copy of the vault that are damaged and not replaced yet",
        "copy",
    )
    reads = CounterMetricFamily(
        "everref_copy_reads", "Objects that were read from a copy instead of the first vault", labels=["copy"]
    )
    for one in found:
        reads.add_metric([one.name], one.reads)
    yield reads


def _of_served(found: Mapping[served.Kind, Served]) -> Iterator[Metric]:
    """Clones and fetches of moments by git, and archives."""
    number = CounterMetricFamily(
        "everref_served", "Moments that git or a person was served, by kind", labels=["kind"]
    )
    size = CounterMetricFamily(
        "everref_served_bytes", "Bytes of the packs and archives of moments that were sent", labels=["kind"]
    )
    return _counted(found, number, size)


def _of_received(found: Mapping[received.Outcome, Received]) -> Iterator[Metric]:
    """Pushes to repos without a remote."""
    number = CounterMetricFamily(
        "everref_pushes_received", "Pushes to Everref itself, by how they ended", labels=["outcome"]
    )
    size = CounterMetricFamily(
        "everref_pushes_received_bytes", "Bytes of the packs that they sent", labels=["outcome"]
    )
    return _counted(found, number, size)


def _counted(
    found: Mapping[Any, Served | Received], number: CounterMetricFamily, size: CounterMetricFamily
) -> Iterator[Metric]:
    """How many there were under each label, and their bytes."""
    for label, one in found.items():
        number.add_metric([label], one.number)
        size.add_metric([label], one.bytes)
    yield from (number, size)


def _of_mirrors(found: mirrors.Measured) -> Iterator[Metric]:
    yield _gauge(
        "everref_mirror_lag_seconds",
        "How long the oldest snapshot waits that some mirror has not; 0 where all have everything",
        found.lag,
    )
    yield _by(found.states, "everref_mirror_targets", "Repos at mirrors, by state", "state")


def _of_disk(disk: Disk) -> Iterator[Metric]:
    yield _gauge("everref_disk_free_bytes", "Bytes that are free on this machine's data disk", disk.free)
    yield _gauge("everref_disk_size_bytes", "Bytes of this machine's data disk", disk.size)
    yield _gauge("everref_pool_bytes", "Bytes of the pools on this machine's disk", disk.pools.bytes)
    yield CounterMetricFamily(
        "everref_pool_evictions",
        "Pools deleted to free disk space on this machine",
        value=disk.pools.evicted,
    )


def of_limits(found: Sequence[quotas.Measured], limits: Limits) -> Iterator[Metric]:
    """How near teams are to their limits."""
    near = GaugeMetricFamily(
        "everref_team_limit_used_ratio", "The share of a limit that the nearest team uses", labels=["limit"]
    )
    over = GaugeMetricFamily("everref_teams_at_limit", "Teams that have reached a limit", labels=["limit"])
    most = GaugeMetricFamily(
        "everref_team_limit", "The limit of every team that has none of its own", labels=["limit"]
    )
    for one in found:
        near.add_metric([one.name], one.most)
        over.add_metric([one.name], one.over)
    for name, value in limits.items():
        most.add_metric([name], float("inf") if value is None else value)
    return iter((near, over, most))


def _of_teams(found: Mapping[str, TeamMeasures]) -> Iterator[Metric]:
    counts = {(team, state): n for team, of in found.items() for state, n in of.repos.items()}
    yield _by(counts, "everref_team_repos", "A team's repos, by state", "team", "state")
    yield _by(
        {team: of.outside for team, of in found.items()},
        "everref_team_repos_outside_rpo",
        "A team's repos of which more could be lost than their recovery point objectives allow",
        "team",
    )
    yield _by(
        {team: of.bytes for team, of in found.items()},
        "everref_team_stored_bytes",
        "Bytes of a team's live parts in the vault",
        "team",
    )
    yield _by(
        {team: of.protected for team, of in found.items() if of.protected is not None},
        "everref_team_protected_timestamp_seconds",
        "The time as of which all repos of a team are protected, or later",
        "team",
    )


def _gauge(name: str, about: str, value: float | None) -> Metric:
    """One number; none where there is none to tell."""
    family = GaugeMetricFamily(name, about, labels=[])
    if value is not None:
        family.add_metric([], value)
    return family


def _by(
    counts: Mapping[str, float] | Mapping[tuple[str, str], int], name: str, about: str, *labels: str
) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, count in counts.items():
        family.add_metric([key] if isinstance(key, str) else list(key), count)
    return family


def _histogram(
    found: Counted, name: str, about: str, each: Mapping[str, tuple[str, Mapping[str, str]]]
) -> Metric:
    """How long what is alike took: by kind, or all together under the empty name."""
    family = HistogramMetricFamily(name, about, labels=[] if "" in each else ["kind"])
    for kind, (what, of) in each.items():
        buckets, seconds = found.timed(what, **of)
        named = [("+Inf" if isinf(bound) else str(bound), float(number)) for bound, number in buckets]
        family.add_metric([kind] if kind else [], named, seconds)
    return family
