"""The queue: what is picked next is what README says, at any length, and who hangs holds up nobody else."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror import store
from mirror.core.model import RepoId
from mirror.core.rules.work.fairness import Free
from mirror.store import leases, migrations, repos
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs, runs
from mirror.store.jobs.runs import AT_HOST, Preference, Run
from mirror.store.leases import Lease
from mirror.store.people.teams import TeamId

NOW: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
EVERYTHING: Final = range(256)
NO_PATIENCE: Final = timedelta(0)
ME: Final = "elsewhere/1/1/1/aa"
MINUTE: Final = timedelta(minutes=1)


async def take(
    db: Any,
    room: int = 100,
    now: datetime = NOW,
    repo_id: RepoId | None = None,
    full: Sequence[TeamId] = (),
) -> list[Run]:
    """What a worker takes up at once."""
    return await runs.take(
        db, ME, now, Free(room, 100, frozenset(full)), Preference(EVERYTHING, NO_PATIENCE, repo_id)
    )


async def add(
    db: asyncpg.Pool, count: int, host: str = "forge.example", team: str = "alice", known: bool = True
) -> list[RepoId]:
    """Repos of one team at one host, each with a wish, one a second."""
    rows = await db.fetch(
        """
        with one as (
          insert into team (name) values ($1) on conflict (name) do update set name = $1 returning id
        )
        insert into repo (id, team_id, name, url, created_at, wanted_at, behind_since, protected_as_of)
        select
          gen_random_uuid(), one.id, $2 || n, 'https://' || $2 || '/' || n, $3, at, at,
          case when $5 then $3 end
        from one, generate_series(1, $4::int) n,
          lateral (select $3::timestamptz - ($4 - n) * interval '1 second' as at) told
        returning id
        """,
        team,
        host,
        NOW,
        count,
        known,
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that could be taken up, as the model sees it."""

    key: UUID
    repo: UUID
    team: UUID
    host: str | None
    heavy: bool
    rank: int  # 0 a person asked, 1 a push, 2 a first backup, 3 upkeep
    since: datetime
    kind: str

    def place(self, preferred: UUID | None) -> tuple[datetime, UUID]:
        """Where it stands in its team."""
        rank = self.rank - (self.repo == preferred)
        return self.since + rank * timedelta(minutes=10), self.key


async def open_work(db: asyncpg.Pool, now: datetime) -> list[Waiting]:
    """All that is due, by the rows of repos and jobs alone."""
    kept = {row["id"]: row for row in await db.fetch("select * from repo")}
    queued = await db.fetch("select * from job where state in ('queued', 'running')")
    has_job = {row["repo_id"] for row in queued if row["kind"] == "sync"}
    found = []
    for key, row in kept.items():
        since = _due_since(row, now)
        if since is not None and key not in has_job:
            new = row["protected_as_of"] is None
            found.append(
                Waiting(key, key, row["team_id"], _host(row["url"]), new, 2 if new else 1, since, "sync")
            )
    for row in queued:
        repo = kept[row["repo_id"]]
        if row["state"] == "queued" and (row["due_at"] is None or row["due_at"] <= now):
            sync = row["kind"] == "sync"
            found.append(
                Waiting(
                    row["id"],
                    row["repo_id"],
                    row["team_id"],
                    _host(repo["url"]) if sync else None,
                    not sync or repo["protected_as_of"] is None,
                    0 if row["person_id"] else 3,
                    row["due_at"] or row["queued_at"],
                    row["kind"],
                )
            )
    return found


def _host(url: str) -> str | None:
    return url.split("/")[2] if "://" in url else None


def _due_since(row: Any, now: datetime) -> datetime | None:
    """Since when this repo's wish may be tried; None: it may not."""
    failing = row["failure_class"] is not None
    if row["wanted_at"] == row["synced_at"] or row["paused_at"] or (row["archived_at"] and not failing):
        return None
    wanted_at: datetime = row["wanted_at"]
    retry_at: datetime | None = row["retry_at"]
    behind_since: datetime | None = row["behind_since"]
    if not failing:
        return behind_since or wanted_at
    if row["failed_at"] < wanted_at and (row["failure_class"] != "credentials" or retry_at):
        return min(wanted_at, retry_at or wanted_at)
    return retry_at if retry_at and retry_at <= now else None


async def model(
    db: asyncpg.Pool,
    now: datetime,
    asked: "Pick",
    preferred: UUID | None,
    full: Sequence[UUID],
    full_of_heavy: Sequence[UUID],
) -> list[UUID]:
    """What a worker must get, and in which order, in the words of README."""
    at_work = [
        dict(row) for row in await db.fetch("select key, repo_id, team_id, kind, host, heavy from run")
    ]
    leased = {row["repo_id"] for row in await db.fetch("select repo_id from lease where owner is not null")}
    work, heavy_room = await open_work(db, now), asked.heavy
    found: list[UUID] = []
    while len(found) < asked.room:
        teams = Counter(run["team_id"] for run in at_work)
        hosts = Counter(run["host"] for run in at_work if run["host"])
        heavy = Counter(run["host"] for run in at_work if run["host"] and run["heavy"])
        busy = {"sync": set(leased), "compact": set(leased)}
        for run in at_work:
            if run["kind"] == "sync":
                busy["sync"].add(run["repo_id"])
            if run["kind"] in ("sync", "compact"):  # which waits for both
                busy["compact"].add(run["repo_id"])
        keys = {run["key"] for run in at_work}
        allowed = [
            one
            for one in work
            if one.key not in keys
            and one.repo not in busy.get(one.kind, ())
            and (one.host is None or hosts[one.host] < AT_HOST)
            and not (one.heavy and (not heavy_room or heavy[one.host] >= AT_HOST - AT_HOST // 4))
            and one.team not in full
            and not (one.heavy and one.team in full_of_heavy)
            and (one.repo.bytes[0] in asked.shares or one.since <= now - asked.patience or one.since > now)
        ]
        first: dict[UUID, Waiting] = {}
        for one in sorted(allowed, key=lambda one: one.place(preferred)):
            first.setdefault(one.team, one)
        if not first:
            break

        def turn(one: Waiting, teams: Counter[UUID] = teams) -> tuple[Any, ...]:
            elsewhere = one.repo.bytes[0] not in asked.shares
            return teams[one.team], one.repo != preferred, elsewhere, one.since, one.key

        best = min(first.values(), key=turn)
        found.append(best.key)
        heavy_room -= best.heavy
        at_work.append(
            {
                "key": best.key,
                "repo_id": best.repo,
                "team_id": best.team,
                "kind": best.kind,
                "host": best.host,
                "heavy": best.heavy,
            }
        )
    return found


@dataclass(frozen=True, slots=True)
class Pick:
    """A worker looks for something to do."""

    room: int
    heavy: int
    shares: range
    patience: timedelta
    preferred: int | None  # which repo
    full: frozenset[str]  # names of teams that may take up nothing
    full_of_heavy: frozenset[str]


@dataclass(frozen=True, slots=True)
class Step:
    """Something happens to one of the repos."""

    what: str
    repo: int
    minutes: int


REPOS: Final = 14
CALM: Final = ("want", "want", "want", "ask", "upkeep", "drill", "compact", "later", "end", "end", "serve")
ODD: Final = ("fail", "deny", "gone", "pause", "resume", "archive", "move", "lease", "release")
steps = st.builds(
    Step, st.sampled_from(CALM + ODD), st.integers(0, REPOS - 1), st.sampled_from((0, 1, 9, 11, 25))
)
picks = st.builds(
    Pick,
    st.integers(1, 12),
    st.integers(0, 8),
    st.sampled_from((range(256), range(128), range(64, 192))),
    st.sampled_from((timedelta(0), 2 * MINUTE)),
    st.none() | st.integers(0, REPOS - 1),
    st.sampled_from(tuple(map(frozenset, ("", "", "", "a", "bc", "abc")))),
    st.sampled_from(tuple(map(frozenset, ("", "", "", "b", "ac")))),
)


async def _happen(
    db: asyncpg.Pool, step: Step, repo: RepoId, now: datetime, held: dict[RepoId, Lease], person: UUID
) -> None:
    later = now + step.minutes * MINUTE
    match step.what:
        case "want":
            await repos.request_sync(db, repo, now)
        case "ask":
            await jobs.queue(db, repo, "sync", {}, now, person_id=person)
        case "upkeep":
            await jobs.queue(db, repo, "sync", {}, now)
        case "drill":
            await jobs.queue(db, repo, "drill", {}, now, person_id=person if step.minutes else None)
        case "compact":
            await jobs.queue(db, repo, "compact", {}, now)
        case "later":
            await db.execute(
                "update job set due_at = $2 where repo_id = $1 and state = 'queued'", repo, later
            )
        case "serve":
            await repos.touch_protected(db, repo, now, await repos.sync_request(db, repo))
        case "fail":
            await repos.set_failure(db, repo, "network", "it is away", now, later)
        case "deny":
            await repos.set_failure(db, repo, "credentials", "it refuses", now)
        case "gone":
            await repos.set_failure(db, repo, "gone", "there is none", now, later)
        case "pause":
            await remotes.pause(db, repo, now)
        case "resume":
            await remotes.resume(db, repo)
        case "archive":
            await remotes.archive(db, repo, now)
        case "move":
            await db.execute("update repo set url = 'https://new.example/' || id where id = $1", repo)
        case "lease":
            if repo not in held and (lease := await leases.acquire(db, repo)):
                held[repo] = lease
        case "release":
            if repo in held:
                await leases.release(db, held.pop(repo))
        case "end":
            row = await db.fetchrow("select * from run order by repo_id < $1, key limit 1", repo)
            if row:
                state = ("done", "queued")[step.minutes == 9]
                await db.execute(
                    """
                    update job set state = $2, finished_at = case when $2 = 'done' then $3::timestamptz end
                    where id = $1
                      and not ($2 = 'queued' and exists (
                        select from job other where other.repo_id = job.repo_id and other.kind = job.kind
                          and other.state = 'queued'
                      ))
                    """,
                    row["job_id"],
                    state,
                    now,
                )
                await runs.end(db, ME, row["key"])


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(things=st.lists(steps | picks, min_size=8, max_size=40))
async def test_whatever_happens_the_fairest_is_taken_up_next(
    pool: asyncpg.Pool, things: Sequence[Step | Pick]
) -> None:
    await pool.execute("delete from repo")
    person = await pool.fetchval("insert into person (name, created_at) values ('Kim', $1) returning id", NOW)
    ids = [RepoId(UUID(bytes=bytes([number * 19] * 16))) for number in range(REPOS)]
    await pool.execute(
        """
        with team as (
          insert into team (name) values ('a'), ('b'), ('c')
          on conflict (name) do update set name = excluded.name returning id, name
        )
        insert into repo (id, team_id, name, url, created_at, wanted_at, protected_as_of)
        select given.id, team.id, given.id::text,
          case when n = 3 then '/srv/3' when n % 5 = 4 then 'https://idle.example/' || n
            else 'https://busy.example/' || n end,
          $2::timestamptz, $2 - n % 7 * interval '5 minutes', case when n % 3 > 0 then $2 end
        from unnest($1::uuid[]) with ordinality as given (id, n)
        join team on team.name = case when n < 9 then 'a' when n < 12 then 'b' else 'c' end
        """,
        ids,
        NOW,
    )
    teams = {
        row["name"]: TeamId(UUID(bytes=row["id"].bytes)) for row in await pool.fetch("select * from team")
    }
    held: dict[RepoId, Lease] = {}
    now = NOW
    try:
        for thing in things:
            now += timedelta(seconds=1)
            if isinstance(thing, Step):
                await _happen(pool, thing, ids[thing.repo], now, held, person)
                continue
            preferred = None if thing.preferred is None else ids[thing.preferred]
            full = [teams[name] for name in sorted(thing.full)]
            full_of_heavy = [teams[name] for name in sorted(thing.full_of_heavy)]
            wanted = await model(pool, now, thing, preferred, full, full_of_heavy)
            taken = await runs.take(
                pool,
                ME,
                now,
                Free(thing.room, thing.heavy, frozenset(full), frozenset(full_of_heavy)),
                Preference(thing.shares, thing.patience, preferred),
            )
            assert [run.key for run in taken] == wanted
            assert {run.team_id for run in taken}.isdisjoint(full)
            now += MINUTE
        assert await runs.mend(pool) == 0
    finally:
        for lease in held.values():
            await leases.release(pool, lease)


async def test_a_run_comes_with_the_row_of_its_job(pool: asyncpg.Pool) -> None:
    (repo_id,) = await add(pool, 1)
    job = await jobs.queue(pool, repo_id, "drill", {"snapshot": 3}, NOW)
    sync_request, drill = sorted(await take(pool), key=lambda run: run.kind, reverse=True)
    assert (sync_request.repo_id, sync_request.job, drill.heavy) == (repo_id, None, True)
    assert drill.job == await jobs.by_id(pool, job.id)
    assert drill.job and (drill.job.state, drill.job.attempt, drill.job.asked) == (
        "running",
        1,
        {"snapshot": 3},
    )


async def test_a_push_waits_for_no_compaction_of_its_repo_and_a_compaction_for_its_sync(
    pool: asyncpg.Pool,
) -> None:
    (repo_id,) = await add(pool, 1)
    await pool.execute("update repo set synced_at = wanted_at")
    await jobs.queue(pool, repo_id, "compact", {}, NOW)
    (compaction,) = await take(pool)
    await repos.request_sync(pool, repo_id, NOW + MINUTE)
    again = await jobs.queue(pool, repo_id, "compact", {}, NOW)
    (sync,) = await take(pool, now=NOW + MINUTE)
    assert (compaction.kind, sync.kind) == ("compact", "sync")
    assert await take(pool, now=NOW + MINUTE) == []
    await runs.end(pool, ME, compaction.key)
    assert await take(pool, now=NOW + MINUTE) == []
    await repos.touch_protected(pool, repo_id, NOW + MINUTE, await repos.sync_request(pool, repo_id))
    await runs.end(pool, ME, sync.key)
    assert [run.key for run in await take(pool, now=NOW + MINUTE)] == [again.id]


async def test_a_pick_that_hangs_costs_what_it_picked_and_nothing_else(pool: asyncpg.Pool) -> None:
    ids = await add(pool, 5)
    job = await jobs.queue(pool, ids[0], "sync", {}, NOW)
    async with pool.acquire() as frozen:
        picking = frozen.transaction()
        await picking.start()
        held = await take(frozen, 2)
        assert len(held) == 2
        async with asyncio.timeout(60):  # each of these hung for as long as the transaction was open
            rest = await take(pool)
            assert {run.repo_id for run in held + rest} == set(ids) and len(rest) == 3
            for repo_id in ids:
                await repos.request_sync(pool, repo_id, NOW)
            await runs.beat(pool, ME)
            await runs.keep(pool, ME, [run.key for run in rest], NOW)
            await runs.reap(pool, "me/1/1/1/cc", NOW)
        await picking.rollback()
    assert {run.repo_id for run in await take(pool)} == {run.repo_id for run in held}
    found = await jobs.by_id(pool, job.id)
    assert found and found.attempt == 1


async def test_a_worker_that_hangs_in_a_transaction_is_reaped_without_waiting(pool: asyncpg.Pool) -> None:
    (repo_id,) = await add(pool, 1)
    assert await take(pool)
    await runs.beat(pool, ME)
    async with pool.acquire() as frozen, frozen.transaction():
        await frozen.execute("select from repo for update")
        async with asyncio.timeout(60):
            await runs.beat(pool, "another/1/1/1/bb")
            assert await runs.reap(pool, "another/1/1/1/bb", NOW) == 0  # it beats still, as far as is known
            await pool.execute("update worker set beat_at = beat_at - interval '1 hour' where id = $1", ME)
            assert await runs.reap(pool, "another/1/1/1/bb", NOW) == 1
            assert await take(pool) == []  # its row is held; nobody waits for it
    assert [run.repo_id for run in await take(pool)] == [repo_id]


@pytest.mark.parametrize(("known", "most"), [(True, AT_HOST), (False, AT_HOST - AT_HOST // 4)])
async def test_picks_at_the_same_moment_keep_a_hosts_bound_together(
    pool: asyncpg.Pool, known: bool, most: int
) -> None:
    await add(pool, 20, known=known)
    taken = await asyncio.gather(*(take(pool, 3) for _ in range(8)))
    assert sum(map(len, taken)) <= most
    await take(pool)
    rows = await pool.fetch("select place from run")
    assert sorted(row["place"] for row in rows) == list(range(1, most + 1))


async def test_a_place_at_a_host_is_free_again_when_its_run_is_over(pool: asyncpg.Pool) -> None:
    await add(pool, 20)
    first, *_ = await take(pool)
    await runs.end(pool, ME, first.key)
    (again,) = await take(pool)
    assert again.repo_id == first.repo_id  # nobody served it
    await runs.leave(pool, ME)
    assert len(await take(pool)) == AT_HOST


async def test_a_repo_asked_for_by_name_comes_first_of_what_is_equally_fair(pool: asyncpg.Pool) -> None:
    ids = await add(pool, 3)
    (other,) = await add(pool, 1, "other.example", team="bob")
    (run,) = await take(pool, 1, repo_id=ids[2])
    assert run.repo_id == ids[2]
    (run,) = await take(pool, 1, repo_id=ids[1])
    assert run.repo_id == other  # its team has nothing at work yet
    urgent = await add(pool, 1, "third.example")
    await pool.execute(
        "update repo set wanted_at = $2, behind_since = $2 where id = any($1)", urgent, NOW - 11 * MINUTE
    )
    await runs.leave(pool, ME)
    (run,) = await take(pool, 1, NOW + MINUTE, repo_id=ids[1])
    assert run.repo_id in (*urgent, other) and run.repo_id != ids[1]


async def test_a_pick_reads_no_more_of_a_long_queue_than_of_a_short_one(pool: asyncpg.Pool) -> None:
    async def pages_read() -> int:
        plan = await pool.fetchval(
            "explain (analyze, buffers, format json) select dequeue($1, $2, 1, 1, $3, $4, 8, null)",
            ME,
            NOW,
            list(EVERYTHING),
            NO_PATIENCE,
        )
        await runs.leave(pool, ME)
        top = json.loads(plan)[0]["Plan"]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])

    await add(pool, 50)
    short = min([await pages_read() for _ in range(5)])
    await add(pool, 2500, "forge-2.example", team="bob")
    long = min([await pages_read() for _ in range(5)])
    assert long < 2 * short + 100


async def test_what_waits_in_more_lanes_than_a_pick_looks_at_is_found_all_the_same(
    pool: asyncpg.Pool,
) -> None:
    for number in range(7):
        await add(pool, 1, f"quiet-{number}.example", team=f"team {number}")
    await pool.execute(
        """
        insert into repo (id, team_id, name, url, created_at, wanted_at, protected_as_of)
        select gen_random_uuid(), team.id, 'n' || n, 'https://h' || n || '.example/x', at, at, at
        from generate_series(1, 300) n, team, (select $1::timestamptz as at) told where team.name = 'team 0'
        """,
        NOW,
    )
    found = set()
    while taken := await take(pool, 50):
        found |= {run.repo_id for run in taken}
    assert len(found) == 307


async def test_a_team_that_is_full_keeps_nobody_from_being_found_however_many_lanes_it_has(
    pool: asyncpg.Pool,
) -> None:
    await add(pool, 1)
    await pool.execute(
        """
        insert into repo (id, team_id, name, url, created_at, wanted_at, protected_as_of)
        select gen_random_uuid(), team.id, 'n' || n, 'https://h' || n || '.example/x', at, at, at
        from generate_series(1, 300) n, team, (select $1::timestamptz as at) told where team.name = 'alice'
        """,
        NOW,
    )
    (quiet,) = await add(pool, 1, "quiet.example", team="bob")
    full = [TeamId(UUID(str(await pool.fetchval("select id from team where name = 'alice'"))))]
    for _ in range(10):
        (run,) = await take(pool, 100, full=full)
        assert run.repo_id == quiet
        await runs.leave(pool, ME)


async def test_a_queue_that_is_not_what_it_should_be_is_mended(pool: asyncpg.Pool) -> None:
    ids = await add(pool, 4)
    job = await jobs.queue(pool, ids[3], "drill", {}, NOW)
    await pool.execute("delete from queue where key = any($1)", [ids[0], job.id])  # lost
    await pool.execute("update queue set has_job = true where key = $1", ids[1])
    await pool.execute("update queue set host = 'elsewhere' where key = $1", ids[2])
    await pool.execute(
        """
        insert into queue (key, repo_id, team_id, kind, host, heavy, priority, since, ready)
        values (gen_random_uuid(), $1, $1, 'sync', '', false, 1, $2, true)
        """,
        ids[3],
        NOW,
    )
    assert await runs.mend(pool) == 5
    assert await runs.mend(pool) == 0
    assert {run.key for run in await take(pool)} == {*ids, job.id}


async def test_what_was_open_before_the_queue_is_in_it(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = migrations.migrations()
    monkeypatch.setattr(migrations, "migrations", lambda: tuple(one for one in every if one.number < 38))
    async with store.opened(empty_database) as db:
        await store.migrate(db)
        ids = await add(db, 3)
        await db.execute("update repo set synced_at = wanted_at where id = $1", ids[0])
        job = await jobs.queue(db, ids[1], "sync", {}, NOW)
        monkeypatch.undo()
        await store.migrate(db)
        assert {run.key for run in await take(db)} == {job.id, ids[2]}
