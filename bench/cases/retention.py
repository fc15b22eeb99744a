"""What a retention policy would drop of a repo with very many snapshots: how long the answer takes."""

import time
from datetime import timedelta
from typing import Final

from bench.clock import seconds_of
from bench.figures import Row
from bench.room import Room
from bench.service import servers
from mirror.core.model import RepoId
from mirror.core.rules.keeping import retention as rules
from mirror.core.rules.keeping.retention import Policy
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.people import people, teams
from mirror.store.upkeep import keeping
from mirror.store.upkeep import retention as rows_of
from mirror.upkeep import retention as flow

GOAL: Final = 1.0  # seconds
SNAPSHOTS: Final = 10_000
PINS: Final = 100
APART: Final = timedelta(hours=3)  # two snapshots
POLICIES: Final = (
    Policy(keep_last=10),
    Policy(keep_last=10, days=30, daily=60, weekly=52, monthly=36, yearly=10),
    Policy(days=36_500),
)


async def retention(room: Room) -> list[Row]:
    """The preview of a policy, from the tables to the plan: which snapshots go, and why each other stays."""
    many = SNAPSHOTS // 20 if room.quick else SNAPSHOTS
    what = f"{many:,} snapshots"
    async with servers(room.new("retention")) as services:
        repo_id = await _filled(services, many)
        repo, now = await repos.get(services.db, repo_id), services.clock()
        rows = []
        for policy in POLICIES:
            taken, began = list[float](), time.process_time()
            for _ in range(max(5, room.rounds)):
                taken.append(await seconds_of(flow.preview(services, repo, policy)))
            ours = (time.process_time() - began) / len(taken)
            found = (await flow.preview(services, repo, policy)).plan
            assert len(found.kept) + len(found.dropped) == many
            remark = f"{len(found.kept):,} stay; {ours * 1000:.0f} ms of processor time, without PostgreSQL"
            rows.append(Row(f"a preview: {policy}", what, tuple(taken), "s", goal=GOAL, remark=remark))
        known = await rows_of.taken(services.db, repo_id)
        facts, _, _ = await rows_of.facts(services.db, repo_id, now)
        alone = []
        for _ in range(max(5, room.rounds)):
            began = time.perf_counter()
            rules.plan(POLICIES[1], known, facts, now)
            alone.append(time.perf_counter() - began)
        rows.append(Row("the rule alone, without the database", what, tuple(alone), "s"))
    return rows


async def _filled(services: Services, many: int) -> RepoId:
    """A repo with so many snapshots, every third of a push that overwrote something, and what keeps some."""
    db, now = services.db, services.clock()
    kim = await people.add(db, "Kim", now, team_name="acme")
    team = await teams.home(db, kim.id)
    assert team is not None
    repo = await repos.add(db, team.id, "acme/api", "https://forge.example/acme/api", now)
    await db.execute(_SNAPSHOTS, repo.id, many, now, APART)
    await db.execute(_PARTS, repo.id, many)
    await db.execute("insert into ref (repo_id, name) values ($1, 'refs/heads/main'::bytea)", repo.id)
    await db.execute(_CHANGES, repo.id, many)
    for number in range(1, many, max(1, many // PINS)):
        await keeping.pin(db, repo.id, number, "a release", "Kim", now)
    await db.execute("vacuum analyze")
    return repo.id


_SNAPSHOTS = """
insert into snapshot (
  repo_id, number, taken_at, reason, object_format, head, refs_count, refs_digest, changes_count, epoch,
  log_entries, log_bytes, manifest_sha256
)
select $1, n, $3::timestamptz - ($2::int - n) * $4::interval, 'push', 'sha1', 'ref: refs/heads/main',
  1, repeat('a', 64), 1, 1, 0, 0, repeat('b', 64)
from generate_series(1, $2::int) n
"""
# A tenth of them in each part, as after compactions.
_PARTS = """
insert into part (
  key, repo_id, epoch, first_snapshot, last_snapshot, bytes, sha256, header_bytes, entries,
  cuttable, complete, index_bytes, index_sha256
)
select $1::uuid::text || '/' || n, $1::uuid, 1, n * ($2::int / 10) + 1, (n + 1) * ($2::int / 10), 1000000,
  repeat('c', 64), 100, 100, true, n = 0, 1000, repeat('d', 64)
from generate_series(0, 9) n
"""
_CHANGES = """
insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind)
select $1, n, 1, ref.id, repeat('c', 40)::bytea, repeat('d', 40)::bytea,
  case when n % 3 = 0 then 'forced' else 'fast-forwarded' end
from ref, generate_series(1, $2::int) n where ref.repo_id = $1
"""
