"""What the objects say is what git says of the same history."""

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.core.errors import Corrupt
from mirror.core.model import HEAD, ObjectFormat, RefName, Target
from mirror.core.refs import Move
from mirror.git import pack, read, view
from mirror.git.pool import Pool
from mirror.git.run import Git
from mirror.git.view import scratch_view
from tests.parts.packs import FORMATS, pack_of, packed_ids, sent, stream
from tests.parts.repos import MAIN, Work, objects_of, refs_of

SIDE = RefName(b"refs/heads/side")


async def take(git: Git, path: Path, work: Work, data: bytes) -> Path:
    """The index of this pack, which is in the repository then."""
    arrived = await pack.index(
        git,
        path,
        stream(data),
        pack.Indexing(self_contained=False, fix_thin=True, object_format=work.object_format),
    )
    return arrived.idx


async def copy_of(git: Git, work: Work, path: Path) -> Path:
    """A repository of ours with everything that a remote has, and its refs."""
    await view.create(path, work.object_format)
    await take(git, path, work, pack_of(work, sorted(objects_of(work.path, everything=True))))
    await view.write_refs(path, work.refs())
    return path


async def pool_of(git: Git, work: Work, path: Path, tips: Sequence[Target]) -> Pool:
    pool = Pool(git, path, work.object_format)
    async with pool.lock():
        await pool.open_or_create()
        await take(git, path, work, sent(work, tips))
    return pool


async def boundary_of(
    git: Git, pool: Pool, work: Work, tips: Sequence[Target], known: Sequence[Target]
) -> set[Target]:
    """Where what the remote sends for these tips joins the pool."""
    async with scratch_view(pool, pool.path.parent) as incoming:
        idx = await take(git, incoming.path, work, sent(work, tips, known))
        return await read.new_commits_boundary(incoming.path, tips, idx)


# What is missing


@FORMATS
async def test_what_the_packs_do_not_hold_is_missing(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    first = work.commit()
    pool = await pool_of(git, work, tmp_path / "pool", [first])
    work.commit()
    everything = objects_of(work.path)
    new = everything - packed_ids(pool.path)
    assert len(new) == 3
    assert await read.missing(pool.path, everything) == new
    async with scratch_view(pool, tmp_path) as incoming:
        assert await read.missing(incoming.path, everything) == new
        await take(git, incoming.path, work, pack_of(work, sorted(new)))
        assert await read.missing(incoming.path, everything) == set()
        assert await read.missing(pool.path, everything) == new


async def test_everything_is_missing_where_nothing_is(tmp_path: Path) -> None:
    assert await read.missing(tmp_path / "no pool", [Target(b"1" * 40)]) == {b"1" * 40}
    assert await read.missing(tmp_path / "no pool", []) == set()


async def test_many_ids_are_looked_up_at_once(git: Git, tmp_path: Path, work: Work) -> None:
    work.many_commits(2000)
    pool = await pool_of(git, work, tmp_path / "pool", [work.tip()])
    unknown = {Target(os.urandom(20).hex().encode()) for _ in range(100_000)}
    assert await read.missing(pool.path, unknown | packed_ids(pool.path)) == unknown


# Where the new joins the old


@FORMATS
async def test_the_boundary_of_a_push_is_the_old_tip(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    old = work.commit()
    pool = await pool_of(git, work, tmp_path / "pool", [old])
    for _ in range(5):
        work.commit()
    assert await boundary_of(git, pool, work, [work.tip()], [old]) == {old}


@FORMATS
async def test_every_parent_that_is_not_new_is_in_the_boundary(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    """An octopus on three old branches, a tag of it, an orphan, an old commit, a tree and a blob."""
    work = Work(tmp_path / "remote", object_format)
    root = work.commit()
    sides = [work.commit(f"side-{number}", parents=[root]) for number in range(3)]
    pool = await pool_of(git, work, tmp_path / "pool", sides)
    octopus = work.merge("side-0", *sides[1:])
    top = work.commit("side-0")
    tag = work.tag("twice", work.tag("once", top, message="of a new commit"), message="of a tag")
    orphan = work.commit("orphan", {"alone": b"1\n"}, parents=[])
    old_tagged = work.tag("old", root, message="of an old commit")
    others = [work.tag("tree", work.tree({})), work.tag("blob", work.blob(b"new"), message="of a blob")]
    tips = [tag, orphan, old_tagged, *others]
    assert await boundary_of(git, pool, work, tips, sides) == {*sides, root}
    assert await boundary_of(git, pool, work, [octopus], sides) == set(sides)
    assert await boundary_of(git, pool, work, [orphan, *others], sides) == set()


@FORMATS
async def test_what_was_sent_again_is_no_part_of_the_new_history(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    """A remote that did not understand what we have sends all of it: the boundary is where it was."""
    work = Work(tmp_path / "remote", object_format)
    work.commit()
    old = work.commit()
    pool = await pool_of(git, work, tmp_path / "pool", [old])
    new = work.commit()
    assert await boundary_of(git, pool, work, [new], []) == {old}


async def test_the_boundary_names_what_the_part_lacks_and_no_more(
    git: Git, tmp_path: Path, work: Work
) -> None:
    """Of a random history, cut anywhere: the parents of new commits that are not new themselves."""
    chance = Random(7)
    commits = [work.commit(None, {"root": b"1\n"}, parents=[])]
    for number in range(60):
        parents = chance.sample(commits[-8:], k=min(len(commits), chance.choice([1, 1, 2, 3])))
        commits.append(work.commit(None, {f"file-{number}": b"1\n"}, parents=parents))
    old, tips = commits[20:30:3], commits[-4:]
    pool = await pool_of(git, work, tmp_path / "pool", old)
    words = [tip.decode() for tip in tips] + ["^" + tip.decode() for tip in old]
    lines = work.git("rev-list", "--parents", *words).splitlines()
    new = {line.split()[0] for line in lines}
    needed = {Target(parent) for line in lines for parent in line.split()[1:]} - new
    assert await boundary_of(git, pool, work, tips, old) == needed


# Forward or forced


@FORMATS
async def test_each_ref_is_judged_as_git_judges_it(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    first = work.commit()
    second = work.commit()
    forced = work.commit("side", {"other": b"1\n"}, parents=[first])
    merge = work.commit("merged", parents=[forced, second])
    orphan = work.commit("orphan", {"alone": b"1\n"}, parents=[])
    tag = work.tag("v1", message="signed off")
    blob = work.blob(b"just a blob\n")
    work.tag("blob", blob)
    path = await copy_of(git, work, tmp_path / "copy")
    moves: list[Move] = [
        (RefName(b"refs/heads/forward"), first, second),
        (RefName(b"refs/heads/merged"), second, merge),
        (RefName(b"refs/heads/rewound"), second, first),
        (RefName(b"refs/heads/forced"), second, forced),
        (RefName(b"refs/heads/replaced"), second, orphan),
        (RefName(b"refs/heads/same"), second, second),
        (RefName(b"refs/heads/to-a-tag"), first, tag),
        (RefName(b"refs/heads/from-a-blob"), blob, second),
        (RefName(b"refs/heads/new"), None, second),
        (RefName(b"refs/heads/deleted"), second, None),
        (RefName(b"refs/heads/lost"), Target(b"1" * len(first)), second),
        (RefName(b"refs/remotes/x/HEAD"), Target(b"ref: refs/heads/a"), Target(b"ref: refs/heads/b")),
        (RefName(b"refs/tags/light"), first, second),
        (HEAD, first, second),
    ]
    forward, commits, *_ = await read.ancestry(git, path, moves)
    assert {name.removeprefix(b"refs/heads/") for name in forward} == {b"forward", b"merged", b"same"}
    assert {name.removeprefix(b"refs/heads/") for name in commits} == {
        *(b"forward", b"merged", b"rewound", b"forced", b"replaced", b"same")
    }


@settings(max_examples=60, deadline=None)
@given(
    parents=st.lists(st.sets(st.integers(1, 5), max_size=3), min_size=2, max_size=25),
    times=st.randoms(use_true_random=False),
    pairs=st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), min_size=1, max_size=12),
)
def test_dates_never_change_the_verdict(
    parents: list[set[int]], times: Random, pairs: list[tuple[int, int]]
) -> None:
    """Histories of any shape, their clocks all wrong: forward means reachable, and nothing else."""
    size = len(parents)
    ids = [Target(b"%040x" % number) for number in range(size)]
    above = {
        number: {number - back for back in backs if number >= back} for number, backs in enumerate(parents)
    }
    reach: dict[int, set[int]] = {}
    for number in range(size):
        reach[number] = {number}.union(*(reach[parent] for parent in above[number]))
    graph = read._Graph(
        _Made({ids[n]: (times.randrange(50), tuple(ids[p] for p in sorted(above[n]))) for n in range(size)})
    )
    moves = [(old % size, new % size) for old, new in pairs]
    bits, _ = read._forward(graph, [(ids[old], ids[new]) for old, new in moves])
    assert [bits >> bit & 1 for bit in range(len(moves))] == [old in reach[new] for old, new in moves]


class _Made(read.Objects):
    """A history that is only said to be."""

    def __init__(self, commits: dict[Target, tuple[int, tuple[Target, ...]]]) -> None:
        self.commits = commits
        self.read_ids: list[Target] = []

    def kind(self, oid: Target) -> int | None:
        return read.COMMIT if oid in self.commits else None

    def size(self, oid: Target) -> int | None:
        raise AssertionError("commits are enough")

    def read(self, oid: Target) -> tuple[int, bytes] | None:
        raise AssertionError("commits are enough")

    def commit(self, oid: Target) -> tuple[int, tuple[Target, ...]]:
        self.read_ids.append(oid)
        return self.commits[oid]


def line_of(length: int) -> dict[Target, tuple[int, tuple[Target, ...]]]:
    ids = [Target(b"%040x" % number) for number in range(length)]
    return {oid: (number, tuple(ids[number - 1 : number])) for number, oid in enumerate(ids)}


def test_a_forced_ref_costs_no_walk_to_the_root() -> None:
    """Only what is younger than the place where old and new part is read."""
    commits = line_of(10_000)
    fork, tip = list(commits)[-10], list(commits)[-1]
    other = Target(b"f" * 40)
    commits[other] = (10_000, (fork,))
    made = _Made(commits)
    assert read._forward(read._Graph(made), [(tip, other)]) == (0, 0)
    assert len(made.read_ids) < 20


def test_many_moves_cost_one_walk() -> None:
    commits = line_of(3000)
    ids = list(commits)
    made = _Made(commits)
    moves = [(ids[number], ids[number + 1000]) for number in range(0, 2000, 2)]
    assert read._forward(read._Graph(made), moves) == ((1 << len(moves)) - 1, 0)
    assert len(made.read_ids) <= 3000


async def test_thousands_of_rewritten_refs_are_judged(git: Git, tmp_path: Path, work: Work) -> None:
    work.many_commits(1500)
    old = [Target(oid) for oid in work.git("rev-list", "main").split()]
    work.many_commits(1500, "rewritten", seed=2)
    new = [Target(oid) for oid in work.git("rev-list", "rewritten").split()]
    path = await copy_of(git, work, tmp_path / "copy")
    moves: list[Move] = [(RefName(b"refs/heads/r%d" % n), old[n], new[n]) for n in range(1400)]
    moves += [(RefName(b"refs/heads/f%d" % n), old[n + 1], old[n]) for n in range(0, 1400, 10)]
    forward, commits, *_ = await read.ancestry(git, path, moves)
    assert forward == {name for name, _, _ in moves if name.startswith(b"refs/heads/f")}
    assert commits == {name for name, _, _ in moves}


@FORMATS
@pytest.mark.parametrize("filling", [b"\xff", b"\0", b"\x9f"], ids=bytes.hex)
async def test_an_object_that_cannot_be_read_is_corrupt(
    git: Git, tmp_path: Path, object_format: ObjectFormat, filling: bytes
) -> None:
    work = Work(tmp_path / "remote", object_format)
    old, new = work.commit(), work.commit()
    path = await copy_of(git, work, tmp_path / "copy")
    (file,) = (path / "objects/pack").glob("*.pack")
    data = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(data[:12] + filling * (len(data) - 44) + data[-32:])
    with pytest.raises(Corrupt, match="cannot be read"):
        await read.ancestry(git, path, [(MAIN, old, new)])


# What to tell the remote


@FORMATS
async def test_the_remote_is_told_tips_and_some_of_what_is_behind_them(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    line = [work.commit() for _ in range(20)]
    side = work.commit("side", parents=[line[3]])
    tag = work.tag("v1", side, message="signed off")
    blob = work.blob(b"a blob\n")
    work.tag("blob", blob)
    path = await copy_of(git, work, tmp_path / "copy")
    told = await read.haves(path, [line[-1], tag, blob, Target(b"1" * len(side))], 100)
    assert told[:6] == [line[-1], line[-2], line[-3], line[-5], line[-9], line[-17]]
    assert told[6:] == [side, line[2], line[0]]  # line[3] was told as the ancestor of the other tip
    assert len(told) == len(set(told))


async def test_the_remote_is_told_no_more_than_the_limit(git: Git, tmp_path: Path, work: Work) -> None:
    line = [work.commit() for _ in range(30)]
    path = await copy_of(git, work, tmp_path / "copy")
    assert await read.haves(path, reversed(line), 3) == [line[-1], line[-2], line[-3]]
    assert await read.haves(path, [], 3) == []
    assert len(await read.haves(path, line, 1000)) == 30


# What git lists and checks


@FORMATS
async def test_the_refs_are_listed_with_what_they_come_to(
    git: Git, tmp_path: Path, object_format: ObjectFormat
) -> None:
    work = Work(tmp_path / "remote", object_format)
    work.zoo()
    path = await copy_of(git, work, tmp_path / "copy")
    expected = {name: target for name, target in refs_of(path).items() if name != HEAD}
    expected[RefName(b"refs/remotes/origin/HEAD")] = work.tip()
    assert await read.for_each_ref(git, path) == expected


async def test_a_sound_repository_has_no_problems(git: Git, tmp_path: Path, work: Work) -> None:
    work.zoo()
    assert await read.fsck(git, await copy_of(git, work, tmp_path / "copy")) == []


async def test_an_empty_repository_has_no_problems(git: Git, tmp_path: Path) -> None:
    await view.create(tmp_path / "copy", "sha1")
    assert await read.fsck(git, tmp_path / "copy") == []


async def test_what_is_only_odd_is_no_problem(git: Git, tmp_path: Path, work: Work) -> None:
    """A zone that is none, a mode with a zero too many, an entry called .git: kept as they are."""
    blob = work.blob(b"x")
    raw = bytes.fromhex(blob.decode())
    tree = work.write(b"tree", b"100644 .git\0" + raw + b"0100644 z\0" + raw)
    body = b"tree %s\nauthor A <a@b> 1 +051800\ncommitter A <a@b> 1 +051800\n\nodd\n" % tree
    work.set("main", work.write(b"commit", body))
    assert await read.fsck(git, await copy_of(git, work, tmp_path / "copy")) == []


@pytest.mark.parametrize("lost", ["blob", "tree", "commit"])
async def test_what_is_lost_is_a_problem(git: Git, tmp_path: Path, work: Work, lost: str) -> None:
    first = work.commit("main", {"file": b"content\n"})
    work.commit("main", {"file": b"other\n"})
    gone = {
        "blob": Target(work.git("rev-parse", first + b":file").strip()),
        "tree": Target(work.git("rev-parse", first + b"^{tree}").strip()),
        "commit": first,
    }[lost]
    await view.create(tmp_path / "copy", "sha1")
    await take(git, tmp_path / "copy", work, pack_of(work, sorted(objects_of(work.path) - {gone})))
    await view.write_refs(tmp_path / "copy", work.refs())
    problems = await read.fsck(git, tmp_path / "copy")
    assert any(gone.decode() in problem for problem in problems)


async def test_a_flipped_byte_is_a_problem(git: Git, tmp_path: Path, work: Work) -> None:
    work.commit()
    path = await copy_of(git, work, tmp_path / "copy")
    (file,) = (path / "objects/pack").glob("*.pack")
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    assert await read.fsck(git, path) != []


async def test_a_ref_to_nothing_is_a_problem(git: Git, tmp_path: Path, work: Work) -> None:
    work.commit()
    path = await copy_of(git, work, tmp_path / "copy")
    await view.write_refs(path, {**work.refs(), SIDE: Target(b"1" * 40)})
    assert any("refs/heads/side" in problem for problem in await read.fsck(git, path))
