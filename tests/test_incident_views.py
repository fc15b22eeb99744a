"""What a team's incident page reads of a long history: just what is meant, and little more than it shows."""

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from mirror.core.refs import meant_by
from mirror.core.rules.history.rollback import Wanted
from mirror.store.browse import incidents
from mirror.store.browse.incidents import Changed
from mirror.store.people.teams import TeamId

NOW: Final = datetime(2026, 3, 2, tzinfo=UTC)
REPOS, EACH = 60, 400
MOST: Final = 40

# Five years of pushes, most of them lately; every eighth is of no account. A snapshot has two moves.
SEED: Final = """
with made as (
  insert into repo (id, team_id, name, url, created_at)
  select gen_random_uuid(), $1, 'group' || n % 3 || '/repo' || n, 'https://git.example/' || n, $2
  from generate_series(1, $3::int) n returning id
), named as (
  insert into ref (repo_id, name)
  select made.id, convert_to(name, 'UTF8') from made, unnest(
    '{HEAD,refs/heads/main,refs/heads/release-1,refs/heads/release-2,refs/heads/topic,refs/tags/v1}'::text[]
  ) name returning id, repo_id, name
), numbered as (
  select named.*, row_number() over (partition by repo_id order by name) - 1 as place,
    dense_rank() over (order by repo_id) as repo
  from named
), moved as (
  select repo_id, (n + 1) / 2 as snapshot, 1 + (n + 1) % 2 as position, id as ref_id, n, repo, name,
    $2::timestamptz - interval '1826 days' * power(1 - n / ($4 + 1.0), 3) - repo * interval '7 seconds' as at
  from generate_series(1, $4::int) n join numbered on place = (n * 7 + n / 6 + repo) % 6
), taken as (
  insert into snapshot (
    repo_id, number, taken_at, reason, object_format, refs_count, refs_digest, changes_count, epoch,
    log_entries, log_bytes, manifest_sha256
  )
  select repo_id, snapshot, max(at) + interval '5 seconds', 'push', 'sha1', 5, repeat('0', 64), 2, 1,
    snapshot, snapshot, repeat('0', 64)
  from moved group by repo_id, snapshot
)
insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by, pushed_at)
select repo_id, snapshot, position, ref_id,
  case when n % 13 <> 1 then convert_to(repeat('1', 40), 'UTF8') end,
  case when n % 13 <> 2 then convert_to(repeat('2', 40), 'UTF8') end,
  case when n % 13 = 1 then 'created' when n % 13 = 2 then 'deleted'
    when name in ('HEAD', 'refs/tags/v1') then 'moved' when n % 13 = 3 then 'forced'
    else 'fast-forwarded' end,
  case when n % 8 > 0 then case when n % 97 = 5 then 'Rare' else 'user' || (n * n + repo) % 9 end end,
  case when n % 8 > 0 then at end
from moved
"""
VIEWS: Final[list[dict[str, Any]]] = [
    {},
    {"actors": ("USER1",)},
    {"actors": ("rare",)},
    {"actors": ("nobody",)},
    {"untold": True},
    {"untold": True, "actors": ("rare",)},
    {"untold": True, "kinds": ("forced",)},
    {"actors": ("user4",), "kinds": ("forced", "deleted")},
    {"kinds": ("forced",)},
    {"kinds": ("tag",)},
    {"kinds": ("default",)},
    {"kinds": ("created",)},
    {"kinds": ("pushed",)},
    {"kinds": ("forced", "deleted", "tag", "default")},
    {"refs": ("main",)},
    {"refs": ("release-*",), "kinds": ("deleted",)},
    {"refs": ("release-[1]",)},
    {"repos": ("group1/*",)},
    {"repos": ("group2/repo2",), "actors": ("user7",)},
]
WINDOWS: Final = [timedelta(hours=3), timedelta(days=40), timedelta(days=1900)]


@pytest_asyncio.fixture
async def team(db: asyncpg.Pool) -> TeamId:
    made = TeamId(UUID(int=0x7EA))
    await db.execute("insert into team (id, name) values ($1, 'acme')", made)
    await db.execute(SEED, made, NOW, REPOS, EACH)
    await db.execute("analyze")
    return made


def key(one: Changed) -> tuple[str, int, int]:
    return one.repo, one.logged.snapshot, one.position


async def everything(db: asyncpg.Pool) -> list[Changed]:
    """Every move, newest first, without any of the conditions of a view."""
    rows = await db.fetch(
        """
        select move.*, repo.name as repo, ref.name, taken_at, dropped_at is not null as is_dropped
        from ref_change move join repo on repo.id = move.repo_id join ref on ref.id = ref_id
        join snapshot on snapshot.repo_id = move.repo_id and number = snapshot
        order by coalesce(pushed_at, taken_at) desc, repo.name, snapshot desc, position desc
        """
    )
    return [incidents._changed(row) for row in rows]


async def meant(one: Wanted, all_: list[Changed]) -> list[Changed]:
    actors = {name.lower() for name in one.actors}
    names = await meant_by({each.change.name for each in all_}, one.refs) if one.refs else None
    return [
        each
        for each in all_
        if one.since <= each.logged.at <= one.until
        and (
            not (actors or one.untold)
            or (each.change.by or "").lower() in actors | ({""} if one.untold else set())
        )
        and (not one.kinds or each.what in one.kinds)
        and (not one.repos or any(fnmatchcase(each.repo, glob) for glob in one.repos))
        and (names is None or each.change.name in names)
    ]


@pytest.mark.parametrize("few", [incidents.FEW, 10], ids=["by ref", "many refs"])
async def test_a_view_gives_the_newest_of_exactly_what_is_meant(
    db: asyncpg.Pool, team: TeamId, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "FEW", few)
    all_ = await everything(db)
    assert len(all_) == REPOS * EACH
    for until in (NOW, NOW - timedelta(days=700)):
        for window in WINDOWS:
            for view in VIEWS if few > 10 else [one for one in VIEWS if "refs" in one]:
                wanted = Wanted(until - window, until, **view)
                expected = await meant(wanted, all_)
                found = await incidents.changes(db, team, wanted, MOST)
                newest = expected[:MOST]
                if "release-[1]" in view.get("refs", ()) and few == 10:  # read by a pattern that says less
                    assert [key(one) for one in found.changes] == [
                        key(one) for one in newest[: len(found.changes)]
                    ]
                    continue
                assert [key(one) for one in found.changes] == [key(one) for one in newest], (view, window)
                assert (found.total, found.more) == (len(newest), len(expected) > MOST), (view, window)
                shown = await incidents.changes(db, team, wanted, MOST, 7)
                assert [key(one) for one in shown.changes] == [key(one) for one in newest[:7]], (view, window)
                refs, repos = ({getattr(one, name) for one in newest} for name in ("ref_id", "repo_id"))
                assert (shown.total, shown.refs, shown.repos) == (len(newest), len(refs), len(repos))
                assert dict(shown.accounts) == dict(found.accounts), (view, window)


READ: Final = "select relname, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"


async def test_a_view_of_five_years_reads_little_more_than_it_gives(db: asyncpg.Pool, team: TeamId) -> None:
    for view in VIEWS:
        async with db.acquire() as connection, connection.transaction():
            before = dict(await connection.fetch(READ))
            wanted = Wanted(NOW - timedelta(days=1900), NOW, **view)
            found = await incidents.changes(connection, team, wanted, MOST)
            after = dict(await connection.fetch(READ))
        read = {name: after[name] - before.get(name, 0) for name in ("ref_change", "snapshot")}
        twice = len(view) > 1 and "kinds" in view  # an index finds the one, the other is read
        assert read["ref_change"] <= (4000 if twice else 1800) < REPOS * EACH / 5, (view, read)
        assert read["snapshot"] <= 1200 < REPOS * EACH / 10, (view, read)
        assert found.total or view.get("actors"), view
