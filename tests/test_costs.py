"""What a month in the vault costs: the price table, the reckoning, and where people see it."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from mirror.backup import sync as syncing
from mirror.core import prices
from mirror.core.config import Settings, from_env
from mirror.core.errors import UsageError
from mirror.core.prices import Prices
from mirror.core.rules.keeping import costs as rules
from mirror.core.rules.keeping.costs import Readings, Used, month_named, month_of
from mirror.restore import drill
from mirror.services.startup import environment
from mirror.store.people import quotas
from mirror.store.upkeep import costs as rows
from mirror.upkeep import costs
from mirror.web.app import application
from tests.parts.repos import Work
from tests.test_cli import Everref, everref
from tests.test_pages_activity import Seen, seen

__all__ = ["everref", "seen"]

TABLE = """
# a store
currency = EUR
storage = 0.02, storage.STANDARD_IA = 0.01
writes = 5, reads = 0.4
egress = 0.09
"""
NOVEMBER = month_of(datetime(2026, 11, 22, tzinfo=UTC))
USED = Used(
    repo_id="1",
    repo="acme/api",
    byte_days={("parts", "STANDARD"): 20 * 10**9, ("indexes", "STANDARD"): 10 * 10**9},
    measured=10,
    since=datetime(2026, 1, 1, tzinfo=UTC),
    snapshots=100,
    uploads=200,
    merged=50,
    drills=1,
    drilled=10**9,
    restores=1,
    restored=2 * 10**9,
    downloads=1,
    downloaded=10**9,
    parts=2,
    stored=2 * 10**9,
)


def settings(**env: str) -> Settings:
    return from_env(env, lambda _: "", "/data")


def test_a_price_table_is_read_and_handed_on() -> None:
    found = settings(PRICES=TABLE)
    assert found.prices == Prices(
        "EUR",
        {"STANDARD": Decimal("0.02"), "STANDARD_IA": Decimal("0.01")},
        writes=Decimal(5),
        reads=Decimal("0.4"),
        egress=Decimal("0.09"),
    )
    assert settings(**environment(found, {})).prices == found.prices
    assert settings().prices is None


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("storage = 0.02", "currency must be three capital letters"),
        ("currency = EUR", "storage is missing; write what a GB costs a month"),
        ("currency = EUR, storage = cheap", "storage must be a number such as 0.023, not 'cheap'"),
        ("currency = EUR, storage = -1", "storage must be a number"),
        ("currency = EUR, storage = nan", "storage must be a number"),
        ("currency = EUR, storage = 0.02, write = 1", "write is not known; a name is currency"),
        ("currency = EUR, storage = 1, storage = 2", "storage is there twice"),
        ("currency = EUR, storage", "'storage' is no price; write NAME = NUMBER"),
        ("currency = EUR, storage = 1, unit = TB", "unit must be GB or GiB"),
    ],
)
def test_a_wrong_price_table_is_one_clear_line(table: str, line: str) -> None:
    with pytest.raises(UsageError) as raised:
        settings(PRICES=table)
    assert str(raised.value).startswith("PRICES: ") and line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_month_is_reckoned_by_its_days() -> None:
    now = datetime(2026, 11, 15, 12, tzinfo=UTC)
    table = prices.read(TABLE)
    (line,) = rules.lines([USED], Readings(), NOVEMBER, table, now)
    assert (line.average, line.measured, line.days) == ({"parts": 2 * 10**9, "indexes": 10**9}, 10, 15)
    assert line.storage_cost == Decimal("0.03")  # 3 GB for half a month, of which 10 days were measured
    assert line.writes == 100 + 200 + 50 + 1 + 1 and line.reads == 50 + 5 * 2
    assert line.requests_cost == Decimal("1.76") + Decimal("0.024")
    assert (line.restored, line.checked) == (3 * 10**9, 10**9)
    assert line.egress_cost == Decimal("0.27")  # checks cost nothing where the table does not say so
    assert line.cost == Decimal("2.084")


@pytest.mark.parametrize(
    ("since", "now", "days"),
    [
        ("2026-11-20T23:00", "2026-11-22T01:00", 3),
        ("2026-01-01T00:00", "2026-12-24T00:00", 30),
        ("2026-11-22T00:30", "2026-11-22T01:00", 1),
        ("2026-12-01T00:00", "2026-12-24T00:00", 0),
    ],
    ids=["added in the month", "a month that is over", "added today", "added later"],
)
def test_only_days_on_which_a_repo_was_here_count(since: str, now: str, days: int) -> None:
    one = replace(USED, byte_days={}, measured=0, since=datetime.fromisoformat(f"{since}Z"))
    (line,) = rules.lines([one], Readings(), NOVEMBER, None, datetime.fromisoformat(f"{now}Z"))
    assert (line.days, line.bytes, line.cost) == (days, 0, None)


def test_what_is_read_of_a_team_is_shared_out_by_size() -> None:
    small, large = replace(USED, stored=10**9, drilled=0), replace(USED, stored=3 * 10**9, drilled=0)
    readings = Readings(bytes=8 * 10**9, objects=80)
    found = rules.lines([small, large], readings, NOVEMBER, None, NOVEMBER.end)
    assert [line.checked for line in found] == [2 * 10**9, 6 * 10**9]
    assert found[1].reads - found[0].reads == 40


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "November", "2027-01", "0000-01", "2026-11-22"])
def test_what_is_no_month_that_has_begun_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="month"):
        month_named(text, datetime(2026, 11, 22, tzinfo=UTC))


@pytest.mark.parametrize(
    ("amount", "shown"), [("0", "0.00"), ("0.0049", "<0.01"), ("0.005", "0.01"), ("1234.5", "1,234.50")]
)
def test_little_money_is_not_called_nothing(amount: str, shown: str) -> None:
    assert rules.money(Decimal(amount)) == shown


async def test_a_day_is_measured_once_and_summed_by_month(seen: Seen) -> None:
    services = seen.site.mirror.services
    db, repo = services.db, seen.synced.repo
    stored = await db.fetchval("select sum(bytes) from part where repo_id = $1", repo.id)
    for day in (date(2026, 2, 27), date(2026, 2, 28), date(2026, 2, 28), date(2026, 2, 1), date(2026, 3, 1)):
        await rows.measure(db, day)
    await db.execute("update repo set created_at = '2026-01-01Z'")
    for month, days in ((datetime(2026, 2, 3, tzinfo=UTC), 2), (datetime(2026, 3, 3, tzinfo=UTC), 1)):
        found = month_of(month)
        (used,) = await rows.used(db, seen.team.id, found.start, found.end, costs.PIECE)
        assert used.measured == days and used.byte_days["parts", "STANDARD"] == days * stored
    assert await rows.first_month(db, seen.team.id) == date(2026, 2, 1)
    await db.execute("update part set sealed_bytes = bytes + 1000, sealed_sha256 = sha256")
    await rows.measure(db, date(2026, 3, 2))
    (used,) = await rows.used(db, seen.team.id, found.start, found.end, costs.PIECE)
    assert used.byte_days["parts", "STANDARD"] == 2 * stored + 1000  # as it lies there
    await db.execute("update part set replaced_at = now(), deleted_at = now()")
    await rows.measure(db, date(2026, 3, 3))
    (used,) = await rows.used(db, seen.team.id, found.start, found.end, costs.PIECE)
    assert used.measured == 3 and used.byte_days["parts", "STANDARD"] == 2 * stored + 1000  # deleted since
    await db.execute("update snapshot set dropped_at = now(), dropped_why = 'a policy'")
    (saved,) = await rows.saved(db, seen.team.id)
    assert (saved.snapshots, saved.each, saved.stored) == (0, 0, 0)


async def test_a_team_sees_its_month(seen: Seen, work: Work) -> None:
    services, browser = seen.site.mirror.services, seen.browser
    db = services.db
    empty = await browser.get("/ann/-/costs")
    assert "not measured" in empty.text and "There is no price table" in empty.text
    work.commit("main")
    await syncing.sync(services, seen.synced.repo.id)
    await drill.drill(services, seen.synced.repo, seen.synced.snapshot)
    until = services.clock() + timedelta(days=1)
    await quotas.reserve_export(db, seen.team.id, services.settings.limits, "exports/x", 5_000, 0, until)
    await costs.due(services)
    services = replace(services, settings=replace(services.settings, prices=prices.read(TABLE)))
    outside = replace(seen.site.outside, services=services)
    browser = await seen.site.signed_in(seen.ann, application(outside))
    month = month_of(services.clock())
    bill = await costs.of_team(services, seen.team.id, month)
    (line,), (saved,) = bill.lines, bill.saved
    parts = await db.fetch("select bytes, index_bytes from part where repo_id = $1", seen.synced.repo.id)
    assert line.average["parts"] == sum(part["bytes"] for part in parts) and line.measured == 1
    assert line.writes == 2 + sum(2 if part["index_bytes"] else 1 for part in parts) + 1
    assert line.checked > 0 and bill.exports == 5_000 and bill.cost is not None and bill.cost > 0
    logs = await db.fetchval("select array_agg(log_bytes order by number) from snapshot")
    assert (saved.snapshots, saved.each, saved.daily) == (2, sum(logs), logs[-1])
    page = (await browser.get("/ann/-/costs")).text
    for words in ("acme/api", "EUR", "Bundles to download take 5.0 kB", "All 2 snapshots take", "estimated"):
        assert words in page, words
    told = (await browser.get("/ann/-/costs", **{"as": "json"})).json()
    assert told["repos"][0]["bytes"]["parts"] == line.average["parts"] and told["currency"] == "EUR"
    assert Decimal(told["cost"]) == bill.cost
    (row,) = csv.DictReader(io.StringIO((await browser.get("/ann/-/costs", **{"as": "csv"})).text))
    assert (row["repo"], row["parts"], row["cost"]) == (
        "acme/api",
        str(line.average["parts"]),
        str(line.cost),
    )
    token = await seen.site.token(seen.ann, seen.team)
    asked = await browser.client.get(
        f"/api/v1/teams/ann/costs?month={month.label}", headers={"authorization": f"Bearer {token}"}
    )
    assert asked.json() == told
    wrong = await browser.get("/ann/-/costs", month="never")
    assert wrong.status_code == 422 and "write one such as 2026-11" in wrong.text
    assert (await browser.get("/ann/-/costs", **{"month": "never", "as": "csv"})).status_code == 400


def test_the_command_line_measures_and_tells(everref: Everref, work: Work) -> None:
    work.commit("main")
    everref("backup", str(work.path), "--name", "acme/api")
    everref.env["PRICES"] = "currency=CHF,storage=999999"
    told = everref("costs")
    assert "acme/api" in told.out and "CHF " in told.out and "1 snapshot in" in told.out
    (row,) = csv.DictReader(io.StringIO(everref("costs", "acme/api", "--csv").out))
    shape = json.loads(everref("costs", "--json").out)
    assert shape["repos"][0]["cost"] == row["cost"] and Decimal(row["storage_cost"]) > 0
    wrong = everref("costs", "--month", "1999-12", code=2)
    assert "that is not a month" in wrong.err
