"""The pages of a large team, asked of the web process over HTTP: how long the server takes for each."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import aiohttp

from bench.figures import Row
from bench.room import Room
from bench.service import process, servers
from mirror.core import signed
from mirror.core.rules.roles import PersonId
from mirror.services.open import Services
from mirror.store.people import people, sessions, teams
from mirror.web.dispatch import cookie_name

GOAL: Final = 0.05  # seconds of server time
BIG: Final = "acme/repo-1"
PAGES: Final = (
    ("home", "/acme"),
    ("home, worst first", "/acme?sort=state"),
    ("home, a search", "/acme?q=99"),
    ("a repo like most", "/acme/acme/repo-7"),
    ("the big repo", f"/acme/{BIG}"),
    ("the big repo in the past", f"/acme/{BIG}?at=%23250"),
    ("its refs", f"/acme/{BIG}/-/refs"),
    ("its refs that are gone", f"/acme/{BIG}/-/refs?state=gone"),
    ("its refs that are gone, a search", f"/acme/{BIG}/-/refs?state=gone&q=b49"),
    ("every ref there ever was", f"/acme/{BIG}/-/refs?state=ever"),
    ("its pushes", f"/acme/{BIG}/-/pushes"),
    ("activity", "/acme/-/activity"),
    ("drills", "/acme/-/drills"),
    ("a report of 30 days", "/acme/-/report"),
    ("costs", "/acme/-/costs"),
    ("settings", "/acme/-/settings"),
    ("audit log", "/acme/-/settings/audit"),
    ("repos by the API", "/api/v1/teams/acme/repos"),
)


async def pages(room: Room) -> list[Row]:
    """Each page again and again: 1,000 repos, of which one has 100,000 refs and 10,000 snapshots."""
    repos, refs, snapshots = (100, 2_000, 500) if room.quick else (1_000, 100_000, 10_000)
    async with servers(room.new("pages")) as services:
        cookie = await _filled(services, repos, refs, snapshots)
        with process("mirror.web", services.settings) as (_, port):
            base = f"http://127.0.0.1:{port}"
            async with aiohttp.ClientSession(base, cookies=cookie) as session:
                return [
                    Row(name, f"{repos:,} repos", await times(session, path), "s", goal=GOAL)
                    for name, path in PAGES
                ]


async def times(session: aiohttp.ClientSession, path: str) -> tuple[float, ...]:
    """How long the server takes for a page, in seconds, again and again once it is warm."""
    taken = []
    for number in range(12):
        began = time.perf_counter()
        async with session.get(path) as answer:
            await answer.read()
            assert answer.status == 200, f"{path}: {answer.status}"
        if number > 1:  # the first ones plan queries and read templates
            taken.append(time.perf_counter() - began)
    return tuple(taken)


async def _filled(services: Services, repos: int, refs: int, snapshots: int) -> dict[str, str]:
    """Rows as a large team has them after years; the cookie of somebody who may see them."""
    db, now = services.db, services.clock()
    kim = await people.add(db, "Kim", now, team_name="acme")
    team = await teams.home(db, kim.id)
    assert team is not None
    await db.execute(_REPOS, team.id, now, repos)
    big = await db.fetchval("select id from repo where name = $1", BIG)
    for statement, values in _rows(big, now, refs, snapshots):
        await db.execute(statement, *values)
    await db.execute("analyze")
    return await signed_in(services, kim.id)


async def signed_in(services: Services, person_id: PersonId) -> dict[str, str]:
    """The cookie of a browser that this person is signed in with."""
    assert services.keyring is not None
    now = services.clock()
    raw, _ = await sessions.start(services.db, person_id, now, "the bench", "127.0.0.1")
    return {cookie_name(secure=False): signed.sign(services.keyring, "session", raw, now)}


def _rows(big: object, now: datetime, refs: int, snapshots: int) -> Sequence[tuple[str, tuple[object, ...]]]:
    return (
        (_SNAPSHOTS, (now, big)),
        (_BIG_SNAPSHOTS, (now, big, snapshots, refs)),
        (_REFS, (big, refs // 2)),
        (_STAYS, (big,)),
        (_CREATED, (big,)),
        ("analyze ref", ()),
        (_MOVES, (big, snapshots, refs // 20)),
    )


_REPOS = """
insert into repo (id, team_id, name, url, object_format, created_at, protected_as_of, wanted_at, synced_at)
select gen_random_uuid(), $1, 'acme/repo-' || n, 'https://forge.example/' || n, 'sha1',
  $2::timestamptz - interval '200 days', $2::timestamptz - n * interval '1 second', $2,
  case when n % 50 = 0 then null else $2 end
from generate_series(1, $3::int) n
"""
_SNAPSHOT = """
insert into snapshot (
  repo_id, number, taken_at, reason, object_format, head, refs_count, refs_digest, changes_count, epoch,
  log_entries, log_bytes, manifest_sha256
)
"""
_SNAPSHOTS = (
    _SNAPSHOT
    + """
select id, n, $1::timestamptz - (10 - n) * interval '9 days', 'push', 'sha1', 'ref: refs/heads/main', 100,
  repeat('a', 64), 1, 1, 0, 0, repeat('b', 64)
from repo, generate_series(1, 10) n where id <> $2
"""
)
_BIG_SNAPSHOTS = (
    _SNAPSHOT
    + """
select $2, n, $1::timestamptz - ($3::int - n) * interval '13 minutes', 'push', 'sha1', 'ref: refs/heads/main',
  $4::int, repeat('a', 64), case when n = 1 then $4::int else 3 end, 1, 0, 0, repeat('b', 64)
from generate_series(1, $3::int) n
"""
)
_REFS = """
insert into ref (repo_id, name)
select $1::uuid, ('refs/heads/b' || n)::bytea from generate_series(1, $2::int) n
union all select $1::uuid, ('refs/pull/' || n || '/head')::bytea from generate_series(1, $2::int - 2) n
union all select id, 'refs/heads/main'::bytea from repo
union all select id, 'HEAD'::bytea from repo
"""
_STAYS = """
insert into ref_stay (ref_id, first_snapshot, target)
select id, 1, case when name = 'HEAD' then 'ref: refs/heads/main'::bytea else repeat('c', 40)::bytea end
from ref where repo_id = $1
"""
_CREATED = """
insert into ref_change (repo_id, snapshot, position, ref_id, new, kind)
select repo_id, 1, row_number() over (), id, repeat('c', 40)::bytea, 'created' from ref where repo_id = $1
"""
_MOVES = """
insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by)
select $1, n, p, ref.id, repeat('c', 40)::bytea, repeat('d', 40)::bytea,
  case
    when n % 20 = 0 and p = 1 then 'forced' when n % 20 = 1 and p = 2 then 'deleted' else 'fast-forwarded'
  end, 'kim'
from generate_series(2, $2::int) n, generate_series(1, 3) p
join lateral (
  select id from ref
  where repo_id = $1 and sha256(name) = sha256(('refs/heads/b' || (n * p % $3::int + 1))::bytea)
) ref on true
"""
