"""The page of an incident over HTTP, in a team with very many ref changes: how long the server takes."""

from datetime import timedelta
from typing import Final

import aiohttp

from bench.cases.pages import signed_in, times
from bench.figures import Row
from bench.room import Room
from bench.service import process, servers
from mirror.core import words
from mirror.services.open import Services
from mirror.store.people import people, teams

GOAL: Final = 0.3  # seconds of server time
REPOS: Final = 1000
SNAPSHOTS: Final = 100  # of each repo
MOVES: Final = 10  # of each snapshot
ACCOUNTS: Final = 300
YEARS: Final = timedelta(days=5 * 365)
VIEWS: Final = (
    ("the overview of a week", 7, ""),
    ("the overview of five years", 1825, ""),
    ("one account, a week", 7, "&actor=actor-7"),
    ("one account, five years", 1825, "&actor=actor-7"),
    ("force-pushes, five years", 1825, "&kind=forced"),
    ("deletions, five years", 1825, "&kind=deleted"),
    ("accounts that no host told, five years", 1825, "&untold=yes"),
)


async def incidents(room: Room) -> list[Row]:
    """The views of a team's incident page: 1,000,000 ref changes of 1,000 repos, 300 accounts, five years."""
    repos = 20 if room.quick else REPOS
    told = f"{repos * SNAPSHOTS * MOVES:,} ref changes"
    async with servers(room.new("incidents")) as services:
        cookie = await _filled(services, repos)
        now = services.clock()
        with process("mirror.web", services.settings) as (_, port):
            base = f"http://127.0.0.1:{port}"
            async with aiohttp.ClientSession(base, cookies=cookie) as session:
                rows = []
                for name, days, rest in VIEWS:
                    since = words.rfc3339(now - timedelta(days=days))
                    taken = await times(session, f"/acme/-/incident?since={since}{rest}")
                    rows.append(Row(name, told, taken, "s", goal=GOAL))
                return rows


async def _filled(services: Services, repos: int) -> dict[str, str]:
    """Rows of five years; the cookie of somebody who may see them."""
    db, now = services.db, services.clock()
    kim = await people.add(db, "Kim", now, team_name="acme")
    team = await teams.home(db, kim.id)
    assert team is not None
    await db.execute(_REPOS, team.id, now - YEARS, repos)
    await db.execute(_REFS)
    await db.execute(_SNAPSHOTS, now, SNAPSHOTS, YEARS / SNAPSHOTS)
    await db.execute(_CHANGES, SNAPSHOTS, MOVES, ACCOUNTS)
    await db.execute("vacuum analyze")
    return await signed_in(services, kim.id)


_REPOS = """
insert into repo (id, team_id, name, url, object_format, created_at, protected_as_of, wanted_at, synced_at)
select gen_random_uuid(), $1, 'acme/repo-' || n, 'https://forge.example/' || n, 'sha1',
  $2::timestamptz, $2, $2, $2
from generate_series(1, $3::int) n
"""
_REFS = """
insert into ref (repo_id, name)
select id, ('refs/heads/b' || n)::bytea from repo, generate_series(1, 100) n
union all select id, 'refs/heads/main'::bytea from repo
union all select id, 'HEAD'::bytea from repo
"""
_SNAPSHOTS = """
insert into snapshot (
  repo_id, number, taken_at, reason, object_format, head, refs_count, refs_digest, changes_count, epoch,
  log_entries, log_bytes, manifest_sha256
)
select id, n,
  $1::timestamptz - ($2::int - n) * $3::interval - abs(hashtext(name)) % 18 * interval '1 day',
  'push', 'sha1', 'ref: refs/heads/main', 100, repeat('a', 64), 10, 1, 0, 0, repeat('b', 64)
from repo, generate_series(1, $2::int) n
"""
# Of 50 moves 2 are force-pushes and 2 deletions, 6 create a ref; of one in 25 nobody told who did it.
_CHANGES = """
with named as (
  select repo_id, id, row_number() over (partition by repo_id order by id) as place
  from ref where name <> 'HEAD'::bytea
), moves as (
  select repo.id as repo_id, n, p, (n * 7 + p) % 50 as chance, (n * $2::int + p) % 100 + 1 as place,
    abs(hashtext(repo.name || n)) as who
  from repo, generate_series(1, $1::int) n, generate_series(1, $2::int) p
)
insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by)
select repo_id, n, p, named.id,
  case when chance between 4 and 9 then null else repeat('c', 40)::bytea end,
  case when chance in (2, 3) then null else repeat('d', 40)::bytea end,
  case
    when chance < 2 then 'forced' when chance < 4 then 'deleted' when chance < 10 then 'created'
    else 'fast-forwarded'
  end,
  case when who % 25 = 0 then null else 'actor-' || who % $3::int end
from moves join named using (repo_id, place)
"""
