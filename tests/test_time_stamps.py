"""Time stamps: an authority says when it saw a checkpoint, and none waits for it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from mirror.channels import timestamps as edge
from mirror.channels.wire import Wire
from mirror.core.config import from_env
from mirror.core.errors import UsageError
from mirror.core.formats import layout, timestamps
from mirror.core.formats.statements import NotProven
from mirror.services.open import Services
from mirror.store.evidence import checkpoints as rows
from mirror.upkeep import checkpoints, doctor, evidence
from tests.parts.authority import Authority, authority, set_up
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.test_checkpoints import some
from tests.test_evidence import checked, ran

DAY = timedelta(days=1)


@pytest_asyncio.fixture
async def tsa(tmp_path: Path) -> AsyncIterator[Authority]:
    """An authority that ends with the test."""
    async with authority(tmp_path / "tsa") as made:
        yield made


def stamping(mirror: Mirror, tsa: Authority) -> Services:
    settings = replace(mirror.services.settings, timestamp_url=tsa.url, allow_private_remotes=True)
    return replace(mirror.services, settings=settings)


async def said(services: Services) -> list[tuple[str, bool]]:
    return [(one.value, one.ok) for one in await doctor.doctor(services) if one.what == "time stamps"]


def changed(path: Path, place: int) -> Path:
    stored = path.read_bytes()
    made = path.with_name(f"changed-{path.name}")
    made.write_bytes(stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :])
    return made


async def test_a_checkpoint_is_stamped_stored_and_checked_offline(
    mirror: Mirror, work: Work, tsa: Authority, tmp_path: Path
) -> None:
    repo, services = await some(mirror, work), stamping(mirror, tsa)
    assert await said(mirror.services) == []  # nobody asked for stamps
    await checkpoints.due(services)
    await checkpoints.due(services)  # it is stamped once
    last = await rows.last(services.db)
    assert last is not None and last.stamped_at is not None and len(tsa.got) == 1
    assert abs(datetime.now(UTC) - last.stamped_at) < timedelta(minutes=5)  # by the authority's clock
    (told,) = await said(services)
    assert told[0].startswith("checkpoint 1 was stamped") and told[1]
    assert (await checkpoints.check(services)).problems == ()

    async for name, content in evidence.exported(services, [repo], None, None):
        (tmp_path / name.rpartition("/")[2]).write_bytes(content)
    one, stamp = tmp_path / "checkpoint.json", tmp_path / "checkpoint.tsr"
    assert stamp.read_bytes() == await services.vault.get(layout.stamp_key(1))
    keys = ("--key", tmp_path / "keys.json")
    certificates = ("--tsa", tsa.certificates)
    holds = checked(tmp_path, stamp, one, *keys, *certificates)
    assert holds.returncode == 0 and f"the authority had seen {one} by " in holds.stdout, holds.stderr
    stock = ("openssl", "ts", "-verify", "-in", stamp, "-data", one, "-CAfile", tsa.certificates)
    assert "Verification: OK" in ran(*map(str, stock), cwd=tmp_path).stdout

    other = set_up(tmp_path / "other")
    for files, why in (
        (
            (changed(stamp, 300), one, *certificates),
            "the time stamp was changed, or another authority made it",
        ),
        ((stamp, changed(one, 40), *certificates), "it stamps none of the given files that hold"),
        ((stamp, one), "give the authority's certificates with --tsa"),
        ((stamp, one, "--tsa", other.certificates), "another authority made it than those given"),
    ):
        found = checked(tmp_path, *files, *keys)
        assert found.returncode == 1 and why in found.stdout, (why, found.stdout, found.stderr)
    wrong = checked(tmp_path, stamp, one, *keys, "--tsa", one)
    assert wrong.returncode == 2 and "give the certificates of the authority as PEM" in wrong.stderr

    await services.db.execute("delete from checkpoint")
    await checkpoints.replay(services)  # as a rebuild does
    again = await rows.last(services.db)
    assert again is not None and (again.stamped_at, again.stamp_sha256) == (
        last.stamped_at,
        last.stamp_sha256,
    )
    path = Path(services.settings.data) / "vault" / layout.stamp_key(1)
    path.chmod(0o600)
    path.write_bytes(changed(stamp, 300).read_bytes())
    (problem,) = (await checkpoints.check(services)).problems
    assert problem == "the time stamp of checkpoint 1 was changed in the vault"


async def test_no_checkpoint_waits_for_an_authority_that_gives_no_stamp(
    mirror: Mirror, work: Work, tsa: Authority, tmp_path: Path
) -> None:
    await some(mirror, work)
    services = stamping(mirror, tsa)
    before = set_up(tmp_path / "before")._stamped(timestamps.ask(b"something else").body)
    for number, (answer, why) in enumerate(
        (
            (web.Response(status=302, headers={"location": "/elsewhere"}), "answered 302 instead of"),
            (web.Response(status=500, text="no"), "answered 500 instead of a time stamp"),
            (web.Response(body=b"0" * (timestamps.LIMIT + 1)), "more than 65536 bytes"),
            (web.Response(text="<html>"), "this is no time stamp (RFC 3161)"),
            (web.Response(body=before), "answered another question than it was asked"),
        ),
        1,
    ):
        tsa.answers.append(answer)
        mirror.clock.now += DAY
        await checkpoints.due(services)
        last = await rows.last(services.db)
        assert last is not None and last.number == number and last.body is None  # signed, and in the vault
        assert last.stamped_at is None and why in (last.stamp_problem or ""), last.stamp_problem
        ((told, ok),) = await said(services)
        assert f"checkpoint {number} is not stamped: 127.0.0.1" in told or why in told
        assert not ok and "/tsr" not in told  # whose path may be as good as a password
    await checkpoints.due(services)  # within the hour
    assert (await said(services))[0][1]
    assert [key for key in range(1, 6) if await services.vault.stat(layout.stamp_key(key))] == [5]
    gone = replace(services, settings=replace(services.settings, timestamp_url="http://127.0.0.1:9/tsr"))
    mirror.clock.now += DAY
    await checkpoints.due(gone)
    assert "cannot be reached from here" in (await said(gone))[0][0]


async def test_whatever_byte_of_a_stamp_is_changed_it_says_the_same_or_nothing(tsa: Authority) -> None:
    """The versions and the name of the algorithm are covered by no signature, and say nothing."""
    stored, stamp = await edge.ask(Wire(None, allow_private=True), tsa.url, b"a checkpoint")
    given = timestamps.certificates(tsa.certificates.read_bytes(), "ca.pem")
    assert timestamps.verify(stored, given, "one.tsr") == stamp
    assert stamp.sha256 == timestamps.digest(b"a checkpoint")
    held = 0
    for place in range(len(stored)):
        other = stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]
        try:
            assert timestamps.verify(other, given, "one.tsr") == stamp
            held += 1
        except NotProven as error:
            assert str(error).startswith("one.tsr: ")
    assert held < 16


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://tsa.example/tsr", None),
        ("http://tsa.example/tsr", "TIMESTAMP_URL must begin with https://"),
        ("https://me:secret@tsa.example/", "TIMESTAMP_URL has a user name"),
        ("tsa.example", "TIMESTAMP_URL must begin with https://"),
    ],
)
def test_the_address_of_the_authority_is_checked_at_the_start(text: str, why: str | None) -> None:
    env = {"TIMESTAMP_URL": text, "ALLOW_PRIVATE_REMOTES": "0"}
    if why is None:
        assert from_env(env, str, "/data").timestamp_url == text
        return
    with pytest.raises(UsageError, match=why) as caught:
        from_env(env, str, "/data")
    assert "secret" not in str(caught.value)
