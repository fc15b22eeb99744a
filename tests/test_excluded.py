"""Refs that are kept no longer: they stay as they were, and nothing looks like a deletion."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from mirror.backup import excluded, sync
from mirror.core import refs
from mirror.core.errors import UsageError
from mirror.core.model import HEAD, RefName, Repo, RepoId, Target
from mirror.store import repos
from tests.parts.everref import Mirror
from tests.parts.repos import Work

FETCHED = Repo(
    RepoId(UUID(int=1)), "acme/api", "https://git.example.org/api", None, datetime(2026, 3, 2, tzinfo=UTC)
)
A, B, C = (Target(letter * 40) for letter in (b"a", b"b", b"c"))
MAIN, PULL, OTHER = (RefName(b"refs/" + name) for name in (b"heads/main", b"pull/1/head", b"pull/2/head"))


async def test_what_is_left_out_stays_as_it_was() -> None:
    seen = {HEAD: Target(b"ref: refs/heads/main"), MAIN: B, PULL: B, OTHER: C}
    kept = await refs.frozen(seen, {MAIN: A, PULL: A}, ["refs/pull/*"])
    assert kept == {HEAD: seen[HEAD], MAIN: B, PULL: A}


async def test_head_is_never_left_out() -> None:
    assert await refs.frozen({HEAD: A}, {HEAD: B}, ["HEAD", "*"]) == {HEAD: A}


@pytest.mark.parametrize(
    ("old", "live"),
    [(b"refs/heads/x", b"refs/heads/x/y"), (b"refs/heads/x/y", b"refs/heads/x")],
    ids=["a folder now", "a file now"],
)
async def test_one_that_cannot_stand_beside_a_live_one_goes(old: bytes, live: bytes) -> None:
    name = RefName(live)
    assert await refs.frozen({name: A}, {RefName(old): B}, [old.decode()]) == {name: A}


@pytest.mark.parametrize("given", ["*", "refs/*", "HEAD", "a b", "x" * 201])
def test_patterns_that_cannot_be_meant_are_refused(given: str) -> None:
    with pytest.raises(UsageError):
        excluded.patterns([given], FETCHED)


async def test_a_branch_that_is_left_out_is_fetched_no_more_and_never_deleted(
    mirror: Mirror, work: Work
) -> None:
    work.commit("main")
    work.commit("bots/one")
    first = await mirror.backup(work)
    kept = work.refs()[RefName(b"refs/heads/bots/one")]
    await repos.set_excluded(mirror.services.db, first.repo.id, excluded.patterns(["bots/*"], first.repo))
    work.commit("bots/one")
    work.commit("bots/two")
    assert not (await mirror.backup(work)).new
    work.delete("refs/heads/bots/one")
    work.commit("main")
    third = await mirror.backup(work)
    assert (third.new, third.snapshot.changes_count) == (True, 1)
    restored = await mirror.refs(first.repo, third.snapshot.number)
    assert restored[RefName(b"refs/heads/bots/one")] == kept
    assert RefName(b"refs/heads/bots/two") not in restored
    await repos.set_excluded(mirror.services.db, first.repo.id, [])
    last = await sync.sync(mirror.services, first.repo.id)
    assert await mirror.refs(first.repo, last.snapshot.number) == work.refs()
