"""The vault's contract where the store is reached through `rclone serve s3` (docs/other-stores.md)."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mirror.core.errors import NetworkError
from mirror.vault import Capabilities, Vault
from mirror.vault.bucket import Patience
from mirror.vault.s3 import PART, S3Vault
from tests import test_vault as contract
from tests.parts.gateways import STORES, gateway
from tests.parts.s3 import S3Server

CHECKS: list[Callable[[Vault], Awaitable[None]]] = [
    contract.test_a_small_object_is_put_at_once,
    contract.test_one_write_may_hold_many_parts,
    lambda vault: contract.test_a_range_gives_its_bytes_and_no_more(vault, (1 << 20) - 3, (1 << 20) + 3),
    contract.test_what_is_not_there_is_said_to_be_missing,
    contract.test_a_put_never_overwrites,
    lambda vault: contract.test_an_upload_never_overwrites(vault, PART + 1),
    lambda vault: contract.test_of_two_uploads_the_first_to_commit_stays(vault, PART + 1),
    lambda vault: contract.test_nothing_is_there_before_the_commit(vault, PART + 1),
    lambda vault: contract.test_leaving_without_a_commit_leaves_nothing(vault, 2 * PART + 1),
    contract.test_a_discarded_upload_cannot_be_committed,
    contract.test_an_upload_at_work_is_listed_as_unfinished,
    contract.test_a_list_is_of_a_prefix_and_in_order,
    contract.test_removing_twice_is_removing_once,
    contract.test_a_vault_that_works_says_so_and_keeps_nothing_of_the_question,
    contract.test_a_store_elsewhere_tells_the_time_by_its_own_clock,
]


@pytest.fixture(scope="module", params=sorted(STORES))
def gated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with gateway(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


async def test_the_contract_holds_behind_a_gateway(gated: S3Server, s3_credentials: None) -> None:
    for check in CHECKS:
        vault = await S3Vault.open(urlsplit(gated.url()), page=2)
        try:
            await check(vault)
        finally:
            await vault.aclose()


async def test_what_a_gateway_cannot_do_is_said(gated: S3Server, s3_credentials: None) -> None:
    vault = await S3Vault.open(urlsplit(gated.url()))
    try:
        can = await vault.capabilities()
    finally:
        await vault.aclose()
    assert can == Capabilities(can.conditional_create, can.checksums, object_lock=False, versioning=False)


async def test_a_gateway_that_went_away_is_said_in_one_line(s3_credentials: None, tmp_path: Path) -> None:
    patience = Patience(connect=1, read=1, attempts=1)
    with gateway("ftp", tmp_path) as server:
        vault = await S3Vault.open(urlsplit(server.url()), patience)
        await vault.put("a/object", b"bytes")
    try:
        with pytest.raises(NetworkError, match="stopped answering; nothing stored was changed"):
            await vault.get("a/object")
    finally:
        await vault.aclose()
