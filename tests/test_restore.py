"""Bringing moments back: to a bundle, a directory, a remote; and what each refuses."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.model import HEAD, RefName, Refs, Remote
from mirror.core.refs import is_hidden
from mirror.git import address
from mirror.restore import restore
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, objects_of, refs_of, run_git

MAIN = RefName(b"refs/heads/main")


def heads_of(bundle: Path) -> dict[bytes, bytes]:
    """What git lists in a bundle."""
    lines = run_git("bundle", "list-heads", bundle).splitlines()
    return {name: oid for oid, _, name in (line.partition(b" ") for line in lines)}


def plain(refs: Refs) -> dict[RefName, bytes]:
    """Every ref but HEAD."""
    return {name: target for name, target in refs.items() if name != HEAD}


def opened(bundle: Path, place: Path, object_format: str = "sha1") -> Path:
    """A bundle fetched into an empty repository by stock git."""
    run_git("init", "-q", "--bare", f"--object-format={object_format}", place)
    run_git("-C", place, "fetch", "-q", bundle, "+refs/*:refs/*")
    return place


async def test_a_bundle_of_a_moment_is_a_whole_bundle_for_stock_git(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.zoo()
    expected = work.refs()
    await mirror.backup(work)
    work.commit()
    done = await mirror.backup(work)
    bundle = tmp_path / "one.bundle"
    result = await restore.to_bundle(mirror.services, done.repo, await mirror.snapshot(done.repo, 1), bundle)
    assert result.verified
    assert heads_of(bundle)[b"HEAD"] == expected[MAIN]
    place = opened(bundle, tmp_path / "opened.git")
    resolved = {n: t for n, t in plain(refs_of(place)).items() if n != b"refs/remotes/origin/HEAD"}
    assert resolved == {n: t for n, t in plain(expected).items() if n != b"refs/remotes/origin/HEAD"}
    fsck(place)


async def test_a_bundle_after_many_pushes_is_spliced_without_the_pool(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    for _ in range(5):
        work.commit()
        done = await mirror.backup(work)
    (mirror.services.disk.pool(done.repo.id) / "HEAD").unlink()
    bundle = tmp_path / "all.bundle"
    await restore.to_bundle(mirror.services, done.repo, done.snapshot, bundle)
    assert objects_of(opened(bundle, tmp_path / "opened.git"), everything=True) == objects_of(work.path)


async def test_what_was_forced_away_before_a_moment_does_not_travel_in_its_bundle(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.commit("main", {"a": b"1"})
    await mirror.backup(work)
    secret = work.commit("main", {"password": b"hunter2"})
    await mirror.backup(work)
    work.commit("main", {"clean": b"1"}, parents=[])
    done = await mirror.backup(work)
    bundle = tmp_path / "clean.bundle"
    await restore.to_bundle(mirror.services, done.repo, done.snapshot, bundle)
    assert secret not in objects_of(opened(bundle, tmp_path / "opened.git"), everything=True)
    assert secret in objects_of(await mirror.restored(done.repo, 2))


async def test_a_sha256_bundle_comes_back(
    mirror: Mirror, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    work = make_work("s.git", object_format="sha256")
    work.commit()
    await mirror.backup(work)
    work.commit("main", parents=[])
    done = await mirror.backup(work)
    for number in (1, 2):
        bundle = tmp_path / f"{number}.bundle"
        await restore.to_bundle(mirror.services, done.repo, await mirror.snapshot(done.repo, number), bundle)
        place = opened(bundle, tmp_path / f"opened-{number}.git", "sha256")
        assert plain(refs_of(place)) == plain(await mirror.refs(done.repo, number))


async def test_a_bundle_of_nothing_is_refused_in_one_line(mirror: Mirror, work: Work, tmp_path: Path) -> None:
    done = await mirror.backup(work)
    with pytest.raises(Refused, match="use --dir"):
        await restore.to_bundle(mirror.services, done.repo, done.snapshot, tmp_path / "x.bundle")
    assert not (tmp_path / "x.bundle").exists()


async def test_nothing_that_is_there_is_replaced_unasked(mirror: Mirror, work: Work, tmp_path: Path) -> None:
    work.commit()
    done = await mirror.backup(work)
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        await restore.to_bundle(mirror.services, done.repo, done.snapshot, file)
    with pytest.raises(UsageError, match="not an empty directory"):
        await restore.to_directory(mirror.services, done.repo, done.snapshot, tmp_path)
    assert file.read_text() == "precious"
    await restore.to_bundle(mirror.services, done.repo, done.snapshot, file, restore.What(force=True))
    assert heads_of(file)


async def test_an_empty_directory_is_taken(mirror: Mirror, work: Work, tmp_path: Path) -> None:
    work.commit()
    done = await mirror.backup(work)
    place = tmp_path / "empty"
    place.mkdir()
    await restore.to_directory(mirror.services, done.repo, done.snapshot, place)
    assert refs_of(place) == work.refs()


async def test_chosen_refs_come_back_alone(mirror: Mirror, work: Work) -> None:
    work.zoo()
    done = await mirror.backup(work)
    path = await mirror.restored(done.repo, 1, globs=["main", "refs/tags/v*"])
    assert set(refs_of(path)) == {HEAD, MAIN, b"refs/tags/v1"}
    with pytest.raises(NotFound, match="no ref"):
        await mirror.restored(done.repo, 1, globs=["nothing-like-it"])


async def push(
    mirror: Mirror, work: Work, target: Work, number: int | None = None, **how: object
) -> restore.Restored:
    """Push a snapshot (the latest) to another repository."""
    repo = await mirror.repo(str(work.path))
    latest = (await mirror.backup(work)).snapshot
    snapshot = await mirror.snapshot(repo, number) if number else latest
    what = restore.What(**how)  # type: ignore[arg-type]
    return await restore.to_remote(mirror.services, repo, snapshot, Remote(str(target.path)), what)


async def test_a_push_to_an_empty_remote_brings_all_but_the_hidden_refs(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.zoo()
    target = make_work()
    done = await push(mirror, work, target)
    expected = {name: target for name, target in plain(work.refs()).items() if not is_hidden(name)}
    assert plain(target.refs()) == expected
    results = {ref.name: ref.result for ref in done.refs}
    assert {name for name, result in results.items() if result == "created"} == set(expected)
    assert results[RefName(b"refs/pull/1/head")] == "skipped"
    assert done.verified


async def test_hidden_refs_travel_to_the_archive_when_asked(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.zoo()
    target = make_work()
    done = await push(mirror, work, target, hidden="archive")
    assert target.refs()[RefName(b"refs/archive/pull/1/head")] == work.refs()[RefName(b"refs/pull/1/head")]
    assert done.verified and not [ref for ref in done.refs if ref.result == "refused"]


async def test_a_second_push_finds_everything_unchanged(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    target = make_work()
    await push(mirror, work, target)
    done = await push(mirror, work, target)
    assert {ref.result for ref in done.refs} == {"unchanged"}
    assert done.verified


async def test_without_force_one_conflict_stops_everything(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    work.commit("other")
    target = make_work()
    target.commit("main", {"theirs": b"1"})
    target.commit("kept")
    before = target.refs()
    done = await push(mirror, work, target)
    assert {ref.result for ref in done.refs} == {"refused"}
    assert not done.verified
    assert target.refs() == before


async def test_force_overwrites_and_deletes_nothing(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    target = make_work()
    target.commit("main", {"theirs": b"1"})
    kept = target.commit("kept")
    done = await push(mirror, work, target, force=True)
    assert target.refs()[MAIN] == work.tip()
    assert target.refs()[RefName(b"refs/heads/kept")] == kept
    assert {ref.result for ref in done.refs} == {"updated"}


async def test_an_earlier_moment_is_pushed_as_it_was(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    work.commit("gone")
    before = plain(work.refs())
    await mirror.backup(work)
    work.delete("gone")
    work.commit("main", parents=[])
    target = make_work()
    await push(mirror, work, target, number=1)
    assert plain(target.refs()) == before


async def test_what_a_hook_refuses_is_reported_and_the_rest_arrives(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    work.commit("protected")
    target = make_work()
    hook = target.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        '#!/bin/sh\n[ "$1" != refs/heads/protected ] || { echo "GH006: protected branch"; exit 1; }\n'
    )
    hook.chmod(0o755)
    done = await push(mirror, work, target)
    results = {ref.name: (ref.result, ref.why) for ref in done.refs}
    assert results[MAIN][0] == "created"
    result, why = results[RefName(b"refs/heads/protected")]
    assert result == "refused" and why
    assert set(plain(target.refs())) == {MAIN}


async def test_a_plan_says_what_will_be_read_and_written_and_touches_nothing(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    work.set("refs/pull/1/head", work.tip())
    done = await mirror.backup(work)
    target = make_work()
    made = await restore.plan(
        mirror.services, done.repo, done.snapshot, to=address.parse_remote(str(target.path), True)
    )
    assert {ref.name: ref.result for ref in made.refs} == {MAIN: "created", b"refs/pull/1/head": "skipped"}
    assert any(done.snapshot.bundle and done.snapshot.bundle.key in step for step in made.steps)
    assert plain(target.refs()) == {}


async def test_a_plan_foretells_what_a_restore_does_where_one_conflict_stops_it(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    work.commit("dev")
    done = await mirror.backup(work)
    target = make_work()
    target.commit("main", {"theirs": b"1"})
    to = address.parse_remote(str(target.path), True)
    made = await restore.plan(mirror.services, done.repo, done.snapshot, to=to)
    assert made.steps == (f"push nothing to {to.url}, as refs are refused",)
    assert made.refs == (await restore.to_remote(mirror.services, done.repo, done.snapshot, to)).refs
    assert {ref.name: ref.result for ref in made.refs if ref.name != HEAD} == {
        MAIN: "refused",
        b"refs/heads/dev": "refused",
    }


async def test_of_restores_to_one_place_at_once_none_spoils_another(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.commit()
    done = await mirror.backup(work)
    bundle, path = tmp_path / "one.bundle", tmp_path / "one.git"
    bundles = [
        restore.to_bundle(mirror.services, done.repo, done.snapshot, bundle, restore.What(force=True))
        for _ in range(4)
    ]
    assert all([one.verified for one in await asyncio.gather(*bundles)])
    directories = [restore.to_directory(mirror.services, done.repo, done.snapshot, path) for _ in range(4)]
    ended = await asyncio.gather(*directories, return_exceptions=True)
    assert [one.verified for one in ended if isinstance(one, restore.Restored)] == [True]
    assert all(isinstance(one, restore.Restored | UsageError) for one in ended)
    assert heads_of(bundle)[MAIN] == work.tip()
    assert refs_of(path) == work.refs()
    assert not [name for name in os.listdir(tmp_path) if "everref-part" in name]
