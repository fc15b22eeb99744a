"""Storage classes by age: the rule of the bucket, what it moves, and what it never makes unreadable."""

import argparse
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from mirror.cli.commands import vault as cli
from mirror.core import storage_classes as rules
from mirror.core.config import from_env
from mirror.core.errors import BadCredentials, Refused, UsageError
from mirror.core.prices import Prices
from mirror.core.rules.keeping.costs import month_of
from mirror.core.storage_classes import RULE, Step
from mirror.services.startup import environment
from mirror.upkeep import costs
from mirror.vault import lifecycle
from mirror.vault.contract import Vault
from mirror.vault.s3 import S3Vault
from tests.parts.s3 import S3Server
from tests.parts.tiered import Tiered, tiered
from tests.test_pages_activity import Seen, seen

__all__ = ["seen"]

STEPS = (Step(30, "STANDARD_IA"), Step(180, "GLACIER_IR"))
OTHERS = {
    "ID": "of somebody else",
    "Status": "Enabled",
    "Filter": {"Prefix": "logs/"},
    "Transitions": [{"Days": 90, "StorageClass": "DEEP_ARCHIVE"}],
}
LARGE = bytes(rules.LEAST_BYTES + 1)


@pytest_asyncio.fixture
async def store(s3_credentials: None) -> AsyncIterator[Tiered]:
    async with tiered() as found:
        yield found


@pytest_asyncio.fixture
async def vault(store: Tiered) -> AsyncIterator[Vault]:
    opened = await S3Vault.open(urlsplit(store.url))
    yield opened
    await opened.aclose()


def test_the_setting_is_read_and_handed_on() -> None:
    found = from_env({"STORAGE_CLASS_AFTER": "30d:STANDARD_IA, 180d:GLACIER_IR"}, lambda _: "", "/data")
    assert found.storage_class_after == STEPS
    assert from_env(environment(found, {}), lambda _: "", "/data").storage_class_after == STEPS


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("30d", "'30d' is no age and class; write 30d:STANDARD_IA"),
        ("30d:STANDARD_IA,", "'' is no age and class"),
        ("90d:GLACIER", "what is in GLACIER cannot be read for hours"),
        ("180d:DEEP_ARCHIVE", "what is in DEEP_ARCHIVE cannot be read for hours"),
        ("30d:ONEZONE_IA", "ONEZONE_IA is not a class that it knows; choose STANDARD_IA"),
        ("29d:STANDARD_IA", "must be 30 to 3650 days"),
        ("30d:STANDARD_IA,59d:GLACIER_IR", "must follow 30d:STANDARD_IA by 30 days or more"),
        ("30d:GLACIER_IR,90d:STANDARD_IA", "in the order STANDARD_IA, INTELLIGENT_TIERING, GLACIER_IR"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(text: str, line: str) -> None:
    with pytest.raises(UsageError) as raised:
        from_env({"STORAGE_CLASS_AFTER": text}, lambda _: "", "/data")
    assert str(raised.value).startswith("STORAGE_CLASS_AFTER: ") and line in str(raised.value)


def test_a_rule_is_written_among_those_of_others() -> None:
    ours, newer = rules.rule("backups", STEPS[:1]), rules.rule("backups", STEPS)
    assert rules.merged([OTHERS], ours) == [OTHERS, ours]
    assert rules.merged([ours, OTHERS], newer) == [OTHERS, newer]
    assert rules.merged([ours, OTHERS], None) == [OTHERS]
    assert rules.is_there([OTHERS, ours], ours) and not rules.is_there([ours], newer)
    assert not rules.is_there([ours], None) and rules.is_there([OTHERS], None)
    assert not rules.is_there([dict(ours) | {"Expiration": {"Days": 365}}], ours)
    assert rules.archiving([ours, OTHERS]) == ["of somebody else"]


async def test_the_store_moves_what_is_old_and_large_and_all_is_read(store: Tiered, vault: Vault) -> None:
    await vault.put("1/bundles/a.bundle", LARGE)
    await vault.put("1/snapshots/0000000001.json", b"{}")
    async with lifecycle.opened(store.url) as bucket:
        await bucket.write(STEPS)
        await bucket.write(STEPS)
        assert rules.is_there(await bucket.rules(), bucket.wanted(STEPS))
    store.age(timedelta(days=31))
    await vault.put("1/bundles/b.bundle", LARGE)
    found = {one.key: one.storage_class async for one in vault.list("1/")}
    usual = {"1/bundles/b.bundle": None, "1/snapshots/0000000001.json": None}
    assert found == usual | {"1/bundles/a.bundle": "STANDARD_IA"}
    store.age(timedelta(days=150))
    stat = await vault.stat("1/bundles/a.bundle")
    assert stat and stat.storage_class == "GLACIER_IR" and await vault.get("1/bundles/a.bundle") == LARGE


async def test_the_rule_leaves_those_of_others_and_goes_alone(store: Tiered) -> None:
    async with lifecycle.opened(store.url) as bucket:
        await bucket._bucket.call(
            "put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": [OTHERS]}
        )
        store.least = "varies_by_storage_class"
        await bucket.write(STEPS)
        assert [one["ID"] for one in await bucket.rules()] == ["of somebody else", RULE]
        assert store.least == "varies_by_storage_class"  # for rules of others
        await bucket.write(())
        assert [one["ID"] for one in await bucket.rules()] == ["of somebody else"]
        store.rules = None
        await bucket.write(STEPS)
        await bucket.write(())
        assert await bucket.rules() == [] and store.rules is None


async def test_a_store_that_only_pretends_is_found_out(store: Tiered) -> None:
    store.loses_rules = True
    async with lifecycle.opened(store.url) as bucket:
        with pytest.raises(Refused, match="does not move objects by age"):
            await bucket.write(STEPS)


async def test_what_somebody_archived_is_named_and_not_called_damaged(store: Tiered, vault: Vault) -> None:
    await vault.put("1/bundles/a.bundle", LARGE)
    store.objects["backups/1/bundles/a.bundle"].kind = "DEEP_ARCHIVE"
    with pytest.raises(Refused, match=r"a\.bundle is in an archive of the store.*RestoreObject"):
        async with aclosing(vault.read("1/bundles/a.bundle")) as chunks:
            await anext(chunks)


class Shown:
    """What a command prints."""

    def __init__(self) -> None:
        self.shape: dict[str, Any] = {}
        self.text = ""

    def result(self, text: Any, shape: Any) -> None:
        self.shape, self.text = shape(), text(SimpleNamespace(paint=lambda said, _: said))


async def called(url: str | None, after: str, *, write: bool = False) -> Shown:
    env = {"STORAGE_CLASS_AFTER": after} | ({"VAULT_URL": url} if url else {})
    settings, shown = from_env(env, lambda _: "", "/data"), Shown()
    call = SimpleNamespace(
        settings=settings, args=argparse.Namespace(vault="lifecycle", set=write), out=shown
    )
    assert await cli.run(cast(Any, call)) == 0
    return shown


async def test_the_command_shows_the_rule_and_writes_it_when_asked(store: Tiered) -> None:
    before = await called(store.url, "30d:STANDARD_IA")
    assert before.shape["is_there"] is False and store.rules is None
    assert "does not have this rule" in before.text and '"StorageClass": "STANDARD_IA"' in before.text
    after = await called(store.url, "30d:STANDARD_IA", write=True)
    assert after.shape["is_there"] is True and "has the rule" in after.text
    gone = await called(store.url, "", write=True)
    assert gone.shape == before.shape | {"rule": None, "is_there": True} and store.rules is None
    store.denies_rules = True
    assert (await called(store.url, "30d:STANDARD_IA")).shape["is_there"] is None
    with pytest.raises(BadCredentials):
        await called(store.url, "30d:STANDARD_IA", write=True)
    with pytest.raises(UsageError, match="storage classes are those of an S3 bucket"):
        await called(None, "30d:STANDARD_IA")


async def test_seaweedfs_has_no_classes_and_says_so(s3_server: S3Server, s3_credentials: None) -> None:
    async with lifecycle.opened(s3_server.url("a-prefix")) as bucket:
        with pytest.raises(Refused, match="does not move objects by age; leave STORAGE_CLASS_AFTER out"):
            await bucket.write(STEPS)
        await bucket.write(())


async def test_a_month_is_priced_by_the_classes_in_which_parts_are(
    seen: Seen, store: Tiered, vault: Vault
) -> None:
    services = seen.site.mirror.services
    (key, size) = await services.db.fetchrow("select key, bytes from part")
    prices = Prices("EUR", {"STANDARD": Decimal(8_000_000), "STANDARD_IA": Decimal(4_000_000)})
    settings = replace(services.settings, storage_class_after=STEPS, prices=prices)
    services = replace(services, vault=vault, settings=settings)
    await vault.put(key, LARGE)
    store.objects[f"backups/{key}"].kind = "STANDARD_IA"
    await costs.due(services)
    (line,) = (await costs.of_team(services, seen.team.id, month_of(services.clock()))).lines
    assert line.classes["STANDARD_IA"] == size and line.classes["STANDARD"] > 0
    assert line.storage_cost is not None
    monthly = (Decimal(size) * 4 + Decimal(line.classes["STANDARD"]) * 8) / 1000
    assert abs(line.storage_cost - monthly / 31 * line.days) < Decimal("0.0001")
