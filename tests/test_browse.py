"""A repo at any moment: its refs, commits, files, differences and losses, with git as the judge."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mirror.browse import moments
from mirror.core import refs
from mirror.core.errors import Busy, Corrupt, NotFound
from mirror.core.formats.objects import Commit
from mirror.core.model import HEAD, Kind, RefName, Repo, Snapshot, Target
from mirror.git import pool as git_pool
from mirror.git.pool import Pool
from mirror.git.reader import answers
from mirror.git.reader import views as git_browse
from mirror.git.reader.questions import ChangesBetween
from tests.parts.everref import Mirror
from tests.parts.repos import ODD_NAMES, Work, run_git

MAIN = RefName(b"refs/heads/main")


def git_says(work: Work, *args: str | bytes) -> list[Target]:
    """The ids that git lists in the remote."""
    return [Target(line) for line in work.git(*args).split()]


def ids(commits: Sequence[Commit]) -> list[Target]:
    return [commit.oid for commit in commits]


async def test_the_refs_of_a_moment_come_in_pages_with_their_commits(mirror: Mirror, work: Work) -> None:
    work.zoo()
    done = await mirror.backup(work)
    found: list[moments.RefRow] = []
    after = b""
    while True:
        page = await moments.refs_at(mirror.services, done.repo, done.snapshot, after=after, limit=7)
        found += page.items
        if page.next is None:
            break
        after = page.next.name
    assert {row.name: row.target for row in found} == work.refs()
    assert [row.name for row in found] == sorted(work.refs())
    by_name = {row.name: row for row in found}
    assert by_name[HEAD].commit == by_name[MAIN].commit
    tag = by_name[RefName(b"refs/tags/tag-of-tag")]
    assert tag.commit is not None and tag.commit.oid == work.tip() and tag.oid != work.tip()
    assert by_name[RefName(b"refs/tags/a-blob")].commit is None
    assert by_name[RefName(b"refs/remotes/origin/HEAD")].oid == work.tip()
    assert by_name[RefName(b"refs/pull/1/head")].kind == "pull"


@pytest.mark.parametrize("glob", ["main", "refs/tags/*", "v?", "[cC]ase", "*%*", "*_*", "\\*", "nothing"])
async def test_a_glob_means_the_same_refs_as_everywhere(mirror: Mirror, work: Work, glob: str) -> None:

    work.zoo()
    done = await mirror.backup(work)
    page = await moments.refs_at(mirror.services, done.repo, done.snapshot, globs=[glob])
    assert [row.name for row in page.items] == sorted(n for n in work.refs() if refs.matches(n, [glob]))


async def test_commits_are_those_of_git_and_in_pages(mirror: Mirror, work: Work) -> None:
    work.zoo()
    done = await mirror.backup(work)
    for rev in (b"", b"main", b"refs/heads/main", b"v1", b"tag-of-tag", work.tip()):
        first, more = await moments.commits(mirror.services, done.repo, done.snapshot, rev, limit=2)
        rest, end = await moments.commits(mirror.services, done.repo, done.snapshot, rev, skip=2)
        assert ids(first + rest) == git_says(work, "rev-list", "main")
        assert more and not end
    about_a, _ = await moments.commits(mirror.services, done.repo, done.snapshot, b"main", path=b"/src/a.c")
    assert ids(about_a) == git_says(work, "rev-list", "main", "--", "src/a.c")
    assert about_a[0].author == "Alice Example" and about_a[-1].summary == "Commit 1"


async def test_every_ref_can_be_walked_by_its_name(mirror: Mirror, work: Work) -> None:
    work.commit()
    work.odd_names()
    done = await mirror.backup(work)
    for name in ODD_NAMES:
        found, _ = await moments.commits(mirror.services, done.repo, done.snapshot, name, limit=1)
        assert found[0].oid == work.refs()[name]


async def test_a_commit_shows_its_files_and_lines(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"one\ntwo\nthree\n", "gone": b"x\n", "old/name": b"same\n", "bin": b"\0a"})
    work.commit(
        "main",
        {
            "a": b"one\n2\nthree",
            "gone": None,
            "old/name": None,
            "new/name": b"same\n",
            "bin": b"\0b",
            "n": b"1\n",
        },
        message="Second thoughts\n\nThe body,\nof two lines.",
    )
    work.submodule("main", "vendored", Target(b"1" * 40))
    done = await mirror.backup(work)
    shown = await moments.commit(mirror.services, done.repo, done.snapshot, b"main")
    assert [(one.path, one.status, one.additions) for one in shown.changes.files] == [
        (b"vendored", "added", 1)
    ]
    shown = await moments.commit(mirror.services, done.repo, done.snapshot, shown.commit.parents[0])
    assert (shown.commit.summary, shown.commit.body) == ("Second thoughts", "The body,\nof two lines.")
    files = {one.path: one for one in shown.changes.files}
    assert {path: (one.status, one.additions, one.deletions) for path, one in files.items()} == {
        b"a": ("modified", 2, 2),
        b"bin": ("modified", None, None),
        b"gone": ("deleted", 0, 1),
        b"n": ("added", 1, 0),
        b"new/name": ("renamed", 0, 0),
    }
    assert files[b"bin"].binary and files[b"new/name"].old_path == b"old/name"
    lines = [(line.sign, line.old, line.new, line.text, line.ends) for line in files[b"a"].hunks[0].lines]
    assert lines == [
        (" ", 1, 1, b"one", True),
        ("-", 2, None, b"two", True),
        ("-", 3, None, b"three", True),
        ("+", None, 2, b"2", True),
        ("+", None, 3, b"three", False),
    ]


async def test_a_first_commit_is_compared_with_nothing_and_a_merge_with_its_first_parent(
    mirror: Mirror, work: Work
) -> None:
    work.zoo()
    done = await mirror.backup(work)
    orphan = await moments.commit(mirror.services, done.repo, done.snapshot, b"orphan")
    assert orphan.commit.parents == () and [one.path for one in orphan.changes.files] == [b"alone"]
    merge = git_says(work, "rev-list", "--merges", "main")[0]
    shown = await moments.commit(mirror.services, done.repo, done.snapshot, merge)
    names = work.git("diff", "--name-only", f"{merge.decode()}^1", merge.decode()).split()
    assert [one.path for one in shown.changes.files] == names


async def test_folders_and_files_are_read_at_any_path(mirror: Mirror, work: Work) -> None:
    odd = b"\xe9t\xe9 \xff"
    link, plain, program = work.blob(b"src/a.c"), work.blob(b"int a;\n"), work.blob(b"#!/bin/sh\n")
    work.commit(
        "main",
        entries={
            b"README.md": (b"100644", work.blob(b"# Hello\n")),
            b"src/a.c": (b"100644", plain),
            b"src/run": (b"100755", program),
            b"src/" + odd: (b"100644", work.blob(b"x")),
            b"here": (b"120000", link),
            b"vendored": (b"160000", Target(b"1" * 40)),
        },
    )
    done = await mirror.backup(work)
    top = await moments.tree(mirror.services, done.repo, done.snapshot)
    assert [(one.name, one.kind, one.size) for one in top.entries] == [
        (b"src", "folder", None),
        (b"README.md", "file", 8),
        (b"here", "link", 7),
        (b"vendored", "submodule", None),
    ]
    assert top.readme is not None and top.readme.name == b"README.md"
    src = await moments.tree(mirror.services, done.repo, done.snapshot, b"main", b"src/")
    assert [(one.name, one.kind) for one in src.entries] == [
        (b"a.c", "file"),
        (b"run", "executable"),
        (odd, "file"),
    ]
    file = await moments.blob(mirror.services, done.repo, done.snapshot, b"main", b"src/a.c")
    assert (file.text, file.encoding, file.whole, file.size) == ("int a;\n", "utf-8", True, 7)
    strange = await moments.blob(mirror.services, done.repo, done.snapshot, b"main", b"src/" + odd)
    assert strange.text == "x"
    module = await moments.blob(mirror.services, done.repo, done.snapshot, b"main", b"vendored")
    assert (module.entry.kind, module.text) == ("submodule", None)
    async with moments.raw(mirror.services, done.repo, done.snapshot, b"main", b"src/run") as raw:
        assert (raw.name, raw.size) == (b"run", 10)
        assert b"".join([chunk async for chunk in raw.chunks]) == b"#!/bin/sh\n"


async def test_a_large_file_shows_its_beginning_and_is_handed_out_whole(mirror: Mirror, work: Work) -> None:
    data = b"line\n" * 700_000
    work.commit("main", {"large": data, "small": b"version https://git-lfs.github.com/spec/v1\n"})
    work.commit("main", {"large": data + b"more\n"})
    done = await mirror.backup(work)
    shown = await moments.blob(mirror.services, done.repo, done.snapshot, b"main", b"large")
    assert not shown.whole and shown.text == "line\n" * (moments.SHOWN_BYTES // 5) + "l"
    async with moments.raw(mirror.services, done.repo, done.snapshot, b"main", b"large") as raw:
        assert sum([len(chunk) async for chunk in raw.chunks]) == raw.size == len(data) + 5
    async with moments.raw(mirror.services, done.repo, done.snapshot, b"main", b"large"):
        pass  # nobody has to read it
    change = (await moments.commit(mirror.services, done.repo, done.snapshot, b"main")).changes.files[0]
    assert change.hunks == () and change.why is not None and "too large" in change.why


@pytest.mark.parametrize(
    ("rev", "path"),
    [
        (b"nowhere", b""),
        (b"f" * 40, b""),
        (b"main", b"no/such"),
        (b"main", b"README/deeper"),
        (b"main", b"a\0b"),
        (b"main", b"a/" * 5000),
        (b"main", b".."),
        (b"main\0", b""),
        (b"--all", b""),
        (b"main^{tree}", b""),
        (b"a-blob", b""),
    ],
)
async def test_what_is_not_there_is_one_line(mirror: Mirror, work: Work, rev: bytes, path: bytes) -> None:
    work.zoo()
    done = await mirror.backup(work)
    for ask in (moments.tree, moments.blob):
        with pytest.raises(NotFound):
            await ask(mirror.services, done.repo, done.snapshot, rev, path)
    if not path:
        with pytest.raises(NotFound):
            await moments.commits(mirror.services, done.repo, done.snapshot, rev)
        with pytest.raises(NotFound):
            await moments.commit(mirror.services, done.repo, done.snapshot, rev)


async def test_an_object_of_another_repo_is_not_there(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    other = make_work()
    foreign = other.commit("main", {"secret": b"theirs\n"})
    work.commit("main", {"mine": b"1\n"})
    await mirror.backup(other, "theirs")
    done = await mirror.backup(work)
    with pytest.raises(NotFound):
        await moments.commit(mirror.services, done.repo, done.snapshot, foreign)


async def test_a_moment_of_the_past_is_read_as_it_was(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"1\n"})
    await mirror.backup(work)
    work.commit("main", {"a": b"2\n"}, parents=[])
    done = await mirror.backup(work)
    first = await mirror.snapshot(done.repo, 1)
    then = await moments.blob(mirror.services, done.repo, first, b"main", b"a")
    now = await moments.blob(mirror.services, done.repo, done.snapshot, b"main", b"a")
    assert (then.text, now.text) == ("1\n", "2\n")


async def test_a_cold_pool_is_filled_from_the_vault(mirror: Mirror, work: Work) -> None:
    work.zoo()
    done = await mirror.backup(work)
    pool = Pool(mirror.services.git, mirror.services.disk.pool(done.repo.id), "sha1")
    async with pool.lock():
        await pool.destroy()
    assert (await moments.tree(mirror.services, done.repo, done.snapshot)).total > 0


async def test_sha256_is_read_too(mirror: Mirror, make_work: Callable[..., Work]) -> None:
    work = make_work("s.git", object_format="sha256")
    work.commit("main", {"a": b"1\n", "b/c": b"2\n"})
    tip = work.commit("main", {"a": b"2\n"})
    lost = work.tip()
    await mirror.backup(work)
    work.commit("main", {"z": b"1\n"}, parents=[])
    done = await mirror.backup(work)
    first = await mirror.snapshot(done.repo, 1)
    assert ids((await moments.commits(mirror.services, done.repo, first))[0])[0] == tip
    top = await moments.tree(mirror.services, done.repo, first)
    assert [(one.name, one.size) for one in top.entries] == [(b"b", None), (b"a", 2)]
    assert (await moments.blob(mirror.services, done.repo, first, b"", b"b/c")).text == "2\n"
    shown = await moments.commit(mirror.services, done.repo, first, tip)
    assert [(one.path, one.additions) for one in shown.changes.files] == [(b"a", 1)]
    losses = await moments.lost(mirror.services, done.repo, done.snapshot)
    assert [(one.tip, one.count) for one in losses.items] == [(lost, 2)]


async def test_pages_are_read_while_syncs_change_the_pool(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"1\n"})
    done = await mirror.backup(work)
    ended = asyncio.Event()

    async def push_and_repack() -> None:
        pool = Pool(mirror.services.git, mirror.services.disk.pool(done.repo.id), "sha1")
        for _ in range(6):
            work.commit("main")
            await mirror.backup(work)
            async with pool.lock():
                await mirror.services.git.run("repack", "-adkq", git_dir=str(pool.path))
        ended.set()

    async def read() -> int:
        seen = 0
        while not ended.is_set():
            found = await moments.blob(mirror.services, done.repo, done.snapshot, b"main", b"a")
            assert found.text == "1\n"
            seen += 1
        return seen

    _, seen = await asyncio.gather(push_and_repack(), read())
    assert seen
    assert list((mirror.services.disk.root / "reading").iterdir()) == []


async def test_a_moment_stays_readable_while_its_pool_is_thrown_away(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"1\n" * 10})
    done = await mirror.backup(work)
    pool = Pool(mirror.services.git, mirror.services.disk.pool(done.repo.id), "sha1")
    async with moments.raw(mirror.services, done.repo, done.snapshot, b"main", b"a") as raw:
        async with pool.lock():
            await pool.destroy()
        assert b"".join([chunk async for chunk in raw.chunks]) == b"1\n" * 10


def not_held(work: Work, old: Target) -> list[Target]:
    """The judge: what git says that no ref holds."""
    return git_says(work, "rev-list", old, "--not", "--all", "HEAD")


async def losses_of(mirror: Mirror, repo: Repo, at: Snapshot) -> dict[bytes, list[Target]]:
    found = await moments.lost(mirror.services, repo, at, shown=1000)
    assert found.whole and found.total == len(found.items)
    assert all(one.count == len(one.commits) for one in found.items)
    return {one.logged.change.name: ids(one.commits) for one in found.items}


async def test_what_was_lost_is_exactly_what_no_ref_holds(mirror: Mirror, work: Work) -> None:
    base = work.commit("main")
    for _ in range(3):
        work.commit("main")
    shared = work.commit("feature", parents=[base])
    work.commit("feature")
    work.set("keeper", shared)
    work.tag("v1", work.tip("feature"), message="annotated")
    work.commit("gone", parents=[base])
    await mirror.backup(work)
    main, feature, gone = work.tip(), work.tip("feature"), work.tip("gone")
    work.commit("main", parents=[base])
    work.delete("feature", "gone")
    done = await mirror.backup(work)
    expected = {b"refs/heads/main": not_held(work, main), b"refs/heads/gone": not_held(work, gone)}
    assert len(expected[b"refs/heads/main"]) == 3
    assert await losses_of(mirror, done.repo, done.snapshot) == expected
    work.delete("refs/tags/v1")
    later = await mirror.backup(work)
    alone = not_held(work, feature)
    assert alone == [feature]
    both = {**expected, b"refs/heads/feature": alone, b"refs/tags/v1": alone}
    assert await losses_of(mirror, done.repo, later.snapshot) == both
    assert await losses_of(mirror, done.repo, done.snapshot) == expected  # as it was then
    work.set("restored", main)
    back = await mirror.backup(work)
    del both[b"refs/heads/main"]
    assert await losses_of(mirror, done.repo, back.snapshot) == both


async def test_a_branch_to_bring_back_is_named_after_what_went(mirror: Mirror, work: Work) -> None:
    base = work.commit("main")
    work.commit("main")
    await mirror.backup(work)
    work.set("main", base)
    done = await mirror.backup(work)
    found = await moments.lost(mirror.services, done.repo, done.snapshot, ref=b"main")
    assert [one.logged.change.kind for one in found.items] == [Kind.FORCED]
    name = moments.bring_back_name(found.items[0].logged)
    assert name == b"refs/heads/restored/main-%b" % f"{done.snapshot.taken_at:%Y%m%d-%H%M%S}".encode()
    run_git("check-ref-format", name)
    nothing = await moments.lost(mirror.services, done.repo, done.snapshot, ref=b"other")
    assert nothing.items == () and nothing.commits == 1


async def test_two_moments_differ_by_refs_commits_and_files(mirror: Mirror, work: Work) -> None:
    base = work.commit("main", {"a": b"1\n"})
    work.commit("main", {"b": b"1\n"})
    work.commit("side")
    work.commit("forward")
    await mirror.backup(work)
    work.commit("main", {"a": b"2\n"}, parents=[base])
    work.commit("main", {"c": b"2\n"})
    work.commit("forward")
    work.delete("side")
    work.tag("v1")
    done = await mirror.backup(work)
    first = await mirror.snapshot(done.repo, 1)
    found = await moments.difference(mirror.services, done.repo, first, done.snapshot)
    assert [(one.name, one.kind, one.lost, one.gained) for one in found.refs] == [
        (b"refs/heads/main", Kind.FORCED, 1, 2),
        (b"refs/heads/side", Kind.DELETED, None, None),
        (b"refs/heads/forward", Kind.FAST_FORWARDED, 0, 1),
        (b"refs/tags/v1", Kind.CREATED, None, None),
    ]
    assert found.ref == MAIN and found.files is not None
    assert [(one.path, one.status) for one in found.files.files] == [
        (b"a", "modified"),
        (b"b", "deleted"),
        (b"c", "added"),
    ]
    back = await moments.difference(mirror.services, done.repo, done.snapshot, first)
    assert back.files is not None and len(back.refs) == 4
    assert (back.refs[2].name, back.refs[2].kind) == (b"refs/tags/v1", Kind.DELETED)
    same = await moments.difference(mirror.services, done.repo, first, first)
    assert same.refs == () and same.files is not None and same.files.files == ()
    side = await moments.difference(mirror.services, done.repo, first, done.snapshot, ref=b"side")
    assert side.files is not None and {one.status for one in side.files.files} == {"deleted"}
    with pytest.raises(NotFound):
        await moments.difference(mirror.services, done.repo, first, done.snapshot, ref=b"never")


async def test_an_empty_repository_is_empty_and_says_so(mirror: Mirror, work: Work) -> None:
    done = await mirror.backup(work)
    assert [row.name for row in (await moments.refs_at(mirror.services, done.repo, done.snapshot)).items] == [
        HEAD
    ]
    assert (await moments.lost(mirror.services, done.repo, done.snapshot)).items == ()
    with pytest.raises(NotFound):
        await moments.tree(mirror.services, done.repo, done.snapshot)


async def test_commits_that_no_git_would_write_are_shown_all_the_same(mirror: Mirror, work: Work) -> None:
    tree = work.tree({b"a": (b"100644", work.blob(b"1\n"))})
    far = b"tree %b\nauthor A <a@b> 99999999999999 +0000\ncommitter \xff\xfe <> x\nencoding zip\n\n\xff"
    work.set("far", work.write(b"commit", far % tree))
    work.set("plain", work.write(b"commit", b"tree %b\nauthor A\ncommitter > < 1\n\n" % tree))
    done = await mirror.backup(work)
    for name in (b"far", b"plain"):
        shown = await moments.commit(mirror.services, done.repo, done.snapshot, name)
        assert [one.path for one in shown.changes.files] == [b"a"]
    far_commit = (await moments.commits(mirror.services, done.repo, done.snapshot, b"far"))[0][0]
    assert far_commit.authored_at is None and far_commit.committed_at is None


async def test_a_reader_does_not_wait_for_ever(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "PATIENCE", 0.0)
    work.commit()
    done = await mirror.backup(work)
    pool = Pool(mirror.services.git, mirror.services.disk.pool(done.repo.id), "sha1")
    async with pool.lock(), pool.filling(0):
        await pool.destroy()
        with pytest.raises(Busy):
            await moments.tree(mirror.services, done.repo, done.snapshot)


def test_a_killed_reader_leaves_nothing_for_long(tmp_path: Path) -> None:

    old, new = tmp_path / "view-old", tmp_path / "view-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (1, 1))
    git_browse._sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [new]


async def test_a_moved_tag_loses_what_it_held(mirror: Mirror, work: Work) -> None:
    base = work.commit("main")
    side = work.commit(None, parents=[base])
    work.tag("v1", side, message="released")
    await mirror.backup(work)
    work.tag("v1", base)
    done = await mirror.backup(work)
    assert await losses_of(mirror, done.repo, done.snapshot) == {b"refs/tags/v1": [side]}
    found = await moments.lost(mirror.services, done.repo, done.snapshot)
    assert [(one.logged.change.name, one.logged.snapshot) for one in found.items] == [(b"refs/tags/v1", 2)]


async def test_what_is_too_much_to_show_is_cut_and_said_so(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"0": b"x\n"})
    files = {f"d{n % 7}/{n}": b"".join(b"%d\n" % m for m in range(50)) for n in range(400)}
    work.commit("main", {**files, "long": b"a" * 9000 + b"\n"})
    done = await mirror.backup(work)
    async with moments.opened(mirror.services, done.repo, done.snapshot) as there:
        trees = [Target(work.git("rev-parse", f"{rev}^{{tree}}").strip()) for rev in ("main~1", "main")]
        ask = there.path, trees[0], trees[1]
        found = await there.ask(ChangesBetween(*ask, files=100, lines=120))
        assert (len(found.files), found.total, found.whole) == (100, 401, True)
        assert sum(len(hunk.lines) for one in found.files for hunk in one.hunks) == 120
        assert [one.why is None for one in found.files[:4]] == [True, True, False, False]
        assert found.files[3].additions == 50  # counted, if not shown
        one = await there.ask(ChangesBetween(*ask, path=b"long"))
        assert one.files[0].why is not None and len(one.files[0].hunks[0].lines[0].text) == answers.LINE_BYTES
        below = await there.ask(ChangesBetween(*ask, path=b"d3"))
        assert below.total == len([name for name in files if name.startswith("d3/")])
        late = await there.ask(ChangesBetween(*ask, patience=0))
        assert late.files == () or all(one.why for one in late.files)


async def test_a_damaged_pool_is_told_in_one_line_and_mended_for_the_next(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"1\n" * 100})
    done = await mirror.backup(work)
    for pack in (mirror.services.disk.pool(done.repo.id) / "objects/pack").glob("*.pack"):
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        data[12:-20] = bytes(len(data) - 32)
        pack.write_bytes(data)
    with pytest.raises(Corrupt) as told:
        await moments.commits(mirror.services, done.repo, done.snapshot, b"main")
    assert "\n" not in str(told.value)
    assert await moments.tree(mirror.services, done.repo, done.snapshot, b"main")  # out of the vault again


@pytest.fixture
def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The packs that were read from their beginning to their end, all of which are found to be sound."""
    read: list[Path] = []

    def is_whole(idx: Path) -> bool:
        read.append(idx)
        return True

    monkeypatch.setattr(git_pool, "is_whole", is_whole)
    return read


async def test_a_pool_is_read_whole_once_where_the_damage_is_not_its_own(
    mirror: Mirror, work: Work, read_whole: list[Path]
) -> None:
    work.commit()
    done = await mirror.backup(work)
    for _ in range(3):
        with pytest.raises(Corrupt):
            async with moments.opened(mirror.services, done.repo, done.snapshot):
                raise Corrupt("a hostile object")
    assert len(read_whole) == 1


async def test_after_a_restart_the_packs_are_read_once_and_not_for_each_page(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch, read_whole: list[Path]
) -> None:
    work.commit()
    done = await mirror.backup(work)
    monkeypatch.setattr(git_pool, "_boot", lambda: "another start of the machine")
    for _ in range(3):
        await moments.tree(mirror.services, done.repo, done.snapshot)
    assert len(read_whole) == 1
