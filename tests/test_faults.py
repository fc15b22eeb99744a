"""What a remote does between two questions, and what git can hold but should not; the page of all faults."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from mirror.core.model import Refs, Target
from mirror.git.upstream import NotOurRef
from mirror.restore import drill
from mirror.services import failpoints
from mirror.store.backup import snapshots
from mirror.upkeep import verify
from tests.parts.everref import Mirror
from tests.parts.repos import Work, objects_of, refs_of, run_git
from tests.test_security_page import names

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "faults.md").read_text()
ROWS: Final = dict(re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.M))
TESTS: Final = sorted(set(re.findall(r"`(test_\w+)::(\w+)`", PAGE)))


def test_every_fault_has_a_test_or_a_reason() -> None:
    assert sorted(ROWS, key=int) == [str(number) for number in range(1, 51)]
    assert not [number for number, row in ROWS.items() if "::" not in row and "Not tested:" not in row]


@pytest.mark.parametrize(("module", "name"), TESTS)
def test_a_test_that_the_page_names_is_there(module: str, name: str) -> None:
    path = ROOT / "tests" / f"{module}.py"
    assert path.is_file() and name in names(path)


@pytest.fixture
def moves(work: Work, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Refs]]:
    """Has the remote overwrite main and forget what it was, so often, after it has listed its refs."""

    def so_often(times: int) -> list[Refs]:
        seen: list[Refs] = []

        def reached(step: str) -> None:
            if step == "sync: listed" and len(seen) < times:
                work.commit("main", {"new": b"%d" % len(seen)}, parents=[])
                run_git("-C", work.path, "gc", "--prune=now", "-q")
                seen.append(work.refs())

        monkeypatch.setattr(failpoints, "reached", reached)
        return seen

    return so_often


async def test_a_ref_that_moves_between_the_listing_and_the_fetch_is_listed_again(
    mirror: Mirror, work: Work, moves: Callable[[int], list[Refs]]
) -> None:
    work.commit()
    await mirror.backup(work)
    work.commit()
    seen = moves(1)
    done = await mirror.backup(work)
    assert (done.snapshot.number, len(seen)) == (2, 1)
    assert await mirror.refs(done.repo, 2) == seen[0] == work.refs()


async def test_refs_that_move_each_time_fail_the_sync_and_leave_nothing(
    mirror: Mirror, work: Work, moves: Callable[[int], list[Refs]]
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    work.commit()
    seen = moves(2)
    keys = await mirror.keys()
    with pytest.raises(NotOurRef) as failed:
        await mirror.backup(work)
    assert not failed.value.permanent and len(seen) == 2
    last = await snapshots.latest(mirror.services.db, repo.id)
    assert last and last.number == 1
    assert await mirror.keys() == keys
    assert (await mirror.backup(work)).snapshot.number == 2


async def test_what_a_replacement_hides_is_backed_up_and_so_is_the_replacement(
    mirror: Mirror, work: Work
) -> None:
    hidden = work.commit("main", {"a": b"hidden\n"})
    work.commit()
    other = work.commit(None, {"a": b"shown instead\n"}, parents=[])
    work.set(b"refs/replace/" + hidden, other)
    done = await mirror.backup(work)
    path = await mirror.restored(done.repo, 1)
    assert refs_of(path) == work.refs()
    assert {hidden, other} < objects_of(path, everything=True)
    assert (await verify.verify(mirror.services, done.repo)).problems == ()


def malformed(work: Work) -> dict[str, Target]:
    """Objects that old programs wrote and that `git fsck` complains of."""
    blob = bytes.fromhex(work.blob(b"x\n").decode())
    trees = {
        "dot-git": b"40000 .git\0" + bytes.fromhex(work.tree({}).decode()),
        "padded": b"0100644 a\0" + blob,
        "mode": b"100664 a\0" + blob,
        "unsorted": b"100644 b\0" + blob + b"100644 a\0" + blob,
    }
    made = {
        name: work.commit_object(work.write(b"tree", body), [], "a malformed tree")
        for name, body in trees.items()
    }
    lines = [
        b"tree " + work.tree({}),
        b"author A <a@example.org> 1 +051800",
        b"committer A <a@example.org> 1 x",
    ]
    made["zone"] = work.write(b"commit", b"\n".join(lines) + b"\n\nodd times\n")
    return made


async def test_malformed_objects_come_back_as_they_are_and_a_drill_names_them(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    for name, oid in malformed(work).items():
        work.set(f"refs/heads/{name}", oid)
    done = await mirror.backup(work)
    path = await mirror.restored(done.repo, 1)
    assert refs_of(path) == work.refs()
    assert objects_of(path) == objects_of(work.path)
    found = await drill.drill(mirror.services, done.repo, done.snapshot)
    assert found.problems == () and any("hasDotgit" in one for one in found.findings)
    assert (await verify.verify(mirror.services, done.repo)).problems == ()
