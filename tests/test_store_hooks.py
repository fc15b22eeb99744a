"""What is kept of webhooks: deliveries once, claims as claims, wishes renewed, one repository a hook."""

from dataclasses import replace
from datetime import datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import RefName, RepoId, Target
from mirror.core.rules.history.pushes import Answered, Lost
from mirror.store import forge_leases, repos
from mirror.store.backup import reported_updates as updates
from mirror.store.discovery import hooks
from mirror.store.discovery.hooks import BODY_KEPT, Delivery, NewUpdate, Received
from tests.parts.chain import MAIN, START, begin, oid

KEYS = Keyring(("k" * 40,))
HOOK = "h" * 32
PUSH = Delivery("d-1", "push", "77", (NewUpdate(MAIN, oid(1), oid(2), "alice", START),), None, b"{}")
SECOND = timedelta(seconds=1)


@pytest_asyncio.fixture
async def repo_id(db: asyncpg.Pool) -> RepoId:
    """A repo with a GitHub hook."""
    repo = (await begin(db)).repo
    assert await hooks.add(db, repo.id, "github", hooks.lock(KEYS, HOOK, "first"), START)
    return repo.id


async def deliver(db: asyncpg.Pool, delivery: Delivery, at: datetime = START) -> Received:
    taken = await hooks.deliver(db, HOOK, delivery, at)
    assert taken is not None
    return taken


async def secrets(db: asyncpg.Pool, at: datetime) -> list[str]:
    found = await hooks.locks(db, "github", HOOK, at)
    assert found is not None
    return found.secrets(KEYS)


async def count(db: asyncpg.Pool, table: str) -> int:
    found: int = await db.fetchval(f"select count(*) from {table}")
    return found


async def test_a_delivery_is_kept_and_renews_the_wish(db: asyncpg.Pool, repo_id: RepoId) -> None:
    taken = await deliver(db, PUSH)
    assert taken == Received(repo_id, within=True, ours=True, fresh=True, sync_requested=True)
    assert await repos.sync_request(db, repo_id) == START


async def test_a_replay_changes_nothing(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, PUSH)
    taken = await deliver(db, PUSH, START + SECOND)
    assert (taken.fresh, taken.sync_requested) == (False, False)
    assert await repos.sync_request(db, repo_id) == START
    assert (await count(db, "delivery"), await count(db, "claim")) == (1, 1)


async def test_of_what_nothing_comes_is_kept_with_the_reason(db: asyncpg.Pool, repo_id: RepoId) -> None:
    taken = await deliver(db, replace(PUSH, kind="ping", updates=(), why="a ping"))
    assert (taken.fresh, taken.sync_requested) == (True, False)
    assert await db.fetchval("select why from delivery") == "a ping"
    assert await repos.sync_request(db, repo_id) is None


async def test_the_first_delivery_binds_the_repository(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, replace(PUSH, id="d-0", repository_id=None, why="a ping"))
    await deliver(db, PUSH)
    found = await hooks.of(db, repo_id)
    assert found and found.repository_id == "77"


async def test_another_repository_is_refused_and_recorded(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, PUSH)
    taken = await deliver(db, replace(PUSH, id="d-2", repository_id="78"), START + SECOND)
    assert (taken.ours, taken.fresh, taken.sync_requested) == (False, True, False)
    assert await repos.sync_request(db, repo_id) == START
    assert await count(db, "claim") == 1
    assert await db.fetchval("select why from delivery where delivery = 'd-2'") == (
        "it is about another repository"
    )


async def test_beyond_the_limit_of_a_minute_only_the_wish_is_renewed(
    db: asyncpg.Pool, repo_id: RepoId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "A_MINUTE", 5)
    monkeypatch.setattr(hooks, "BODIES_A_MINUTE", 3)
    for number in range(5):
        assert (await deliver(db, replace(PUSH, id=f"d-{number}"), START)).within
    taken = await deliver(db, replace(PUSH, id="one more"), START + SECOND)
    assert (taken.within, taken.fresh, taken.sync_requested) == (False, False, True)
    assert await count(db, "delivery") == 5
    assert await db.fetchval("select count(*) from delivery where body <> ''") == 3
    assert await count(db, "claim") == 5
    assert await repos.sync_request(db, repo_id) == START + SECOND
    assert (await deliver(db, replace(PUSH, id="later"), START + 61 * SECOND)).within


async def test_of_a_teams_bodies_so_many_bytes_are_kept_and_all_facts(
    db: asyncpg.Pool, repo_id: RepoId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "BODIES_KEPT", 250)

    async def kept() -> list[int]:
        rows = await db.fetch("select octet_length(body) from delivery order by id")
        return [row[0] for row in rows]

    for number in range(4):
        push = replace(PUSH, id=f"d-{number}", body=b"x" * 100)
        assert (await deliver(db, push, START + number * SECOND)).fresh
    assert await kept() == [100, 100, 0, 0]
    assert await db.fetchval("select min(bytes) from delivery") == 100
    assert await count(db, "claim") == 4
    await hooks.forget_before(db, START + SECOND)
    await deliver(db, replace(PUSH, id="later", body=b"x" * 100), START + 9 * SECOND)
    assert await kept() == [100, 0, 0, 100]


async def test_only_the_beginning_of_a_body_is_kept(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, replace(PUSH, body=b"\0\xff" * BODY_KEPT))
    row = await db.fetchrow("select octet_length(body), bytes from delivery")
    assert tuple(row) == (BODY_KEPT, 2 * BODY_KEPT)


async def test_after_a_change_the_old_secret_is_accepted_for_a_while(
    db: asyncpg.Pool, repo_id: RepoId
) -> None:
    assert await secrets(db, START) == ["first"]
    until = START + timedelta(hours=24)
    assert await hooks.change(db, hooks.lock(KEYS, HOOK, "second"), until)
    assert await secrets(db, until - SECOND) == ["second", "first"]
    assert await secrets(db, until) == ["second"]


async def test_secrets_are_sealed_for_their_hook(db: asyncpg.Pool, repo_id: RepoId) -> None:
    sealed = await db.fetchval("select sealed from hook")
    assert b"first" not in sealed
    with pytest.raises(BadKey):
        hooks.Locks("another", (sealed,)).secrets(KEYS)
    assert "sealed" not in repr(await hooks.locks(db, "github", HOOK, START))


async def test_a_repo_has_one_hook_and_it_can_be_removed(db: asyncpg.Pool, repo_id: RepoId) -> None:
    assert await hooks.add(db, repo_id, "gitea", hooks.lock(KEYS, "g" * 32, "x"), START) is None
    await deliver(db, PUSH)
    assert await hooks.remove(db, repo_id)
    assert not await hooks.remove(db, repo_id)
    assert await hooks.deliver(db, HOOK, PUSH, START) is None
    assert await count(db, "claim") == 0


@pytest.mark.parametrize(
    ("forge", "hook_id"), [("gitlab", HOOK), ("github", "x" * 32), ("github", "\0\udcff")], ids=repr
)
async def test_no_other_address_is_a_hook(
    db: asyncpg.Pool, repo_id: RepoId, forge: str, hook_id: str
) -> None:
    assert await hooks.locks(db, forge, hook_id, START) is None


async def test_claims_are_told_in_the_order_of_their_arrival_until_they_are_answered(
    db: asyncpg.Pool, repo_id: RepoId
) -> None:
    tag = RefName(b"refs/tags/\xff")
    deleted: Target | None = None
    early, late = START - SECOND, START + 10 * SECOND
    first = (NewUpdate(MAIN, oid(1), oid(2), "alice", early), NewUpdate(tag, oid(1), deleted, "alice", None))
    await deliver(db, replace(PUSH, updates=first))
    second = (NewUpdate(MAIN, oid(3), oid(2), "b\0b", late),)
    await deliver(db, replace(PUSH, id="d-2", updates=second), START + SECOND)
    told = await updates.unanswered(db, repo_id)
    assert [(one.name, one.before, one.after, one.by, one.at) for one in told] == [
        (MAIN, oid(1), oid(2), "alice", early),
        (tag, oid(1), deleted, "alice", START),
        (MAIN, oid(3), oid(2), "b\ufffdb", START + SECOND),  # a time after its arrival is not believed
    ]
    await updates.answer(db, repo_id, Answered([told[0].id, told[2].id]), 1, START)
    assert await updates.unanswered(db, repo_id) == [told[1]]


async def test_a_lost_push_outlives_its_delivery(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, PUSH)
    ids = [one.id for one in await updates.unanswered(db, repo_id)]
    lost = Lost(MAIN, oid(1), oid(2), "alice", START, "the remote no longer has it")
    for _ in range(2):
        await updates.answer(db, repo_id, Answered(ids, [lost]), 3, START)
    await hooks.forget_before(db, START + SECOND)
    assert await updates.lost(db, repo_id) == [replace(lost, snapshot=3)]


async def test_old_deliveries_are_forgotten_with_their_claims(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, PUSH)
    await hooks.forget_before(db, START)
    assert await count(db, "delivery") == 1
    await hooks.forget_before(db, START + SECOND)
    assert (await count(db, "delivery"), await count(db, "claim")) == (0, 0)


async def test_a_wish_that_no_run_tried_to_serve_is_unheard(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, PUSH)
    assert await repos.unheard(db, START) == []
    assert await repos.unheard(db, START + SECOND) == [repo_id]
    await repos.set_failure(db, repo_id, "network", "it does not answer", START + SECOND)
    assert await repos.unheard(db, START + 2 * SECOND) == []
    await deliver(db, replace(PUSH, id="d-2"), START + 2 * SECOND)
    assert await repos.unheard(db, START + 3 * SECOND) == [repo_id]
    await repos.touch_protected(db, repo_id, START, await repos.sync_request(db, repo_id))
    assert await repos.unheard(db, START + 3 * SECOND) == []


async def test_a_hook_says_when_it_was_last_heard_of(db: asyncpg.Pool, repo_id: RepoId) -> None:
    await deliver(db, PUSH)
    await deliver(db, replace(PUSH, id="d-2", repository_id="78"), START + SECOND)
    found = await hooks.of(db, repo_id)
    assert found and found.delivered_at == START  # what was about another repository was not its own


async def test_what_the_forge_says_of_a_hook_is_kept(db: asyncpg.Pool, repo_id: RepoId) -> None:
    made = await hooks.of(db, repo_id)
    assert made and (made.state, made.forge_hook_id, made.checked_at) == ("given", None, None)
    lease = await forge_leases.acquire(db, forge_leases.of_hook(repo_id))
    assert lease
    assert await hooks.set_state(db, lease, HOOK, "registered", None, START, "5")
    assert await hooks.set_state(db, lease, HOOK, "disabled", "it failed 4 times", START + SECOND)
    found = await hooks.of(db, repo_id)
    assert found and (found.state, found.why) == ("disabled", "it failed 4 times")
    assert (found.forge_hook_id, found.checked_at) == ("5", START + SECOND)
    assert not await hooks.set_state(db, lease, "none", "missing", None, START)


async def test_a_run_that_lost_its_lease_says_nothing_of_the_hook(db: asyncpg.Pool, repo_id: RepoId) -> None:
    name = forge_leases.of_hook(repo_id)
    frozen = await forge_leases.acquire(db, name)
    later = await forge_leases.acquire(db, name, ttl=timedelta(0))
    assert frozen and later and later.fence > frozen.fence
    assert not await hooks.set_state(db, frozen, HOOK, "refused", "as it was once", START)
    assert not await hooks.remove(db, repo_id, frozen)
    assert await hooks.set_state(db, later, HOOK, "registered", None, START, "5")
    assert await hooks.remove(db, repo_id, later)
