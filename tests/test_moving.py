"""Repos that move with their histories from one installation to another."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from mirror.core.errors import Corrupt, Dropped, EverrefError, OverLimit, Refused, UsageError
from mirror.core.formats import exported, layout
from mirror.core.model import ObjectFormat, Refs, Repo
from mirror.people import operator
from mirror.restore import drill, moment
from mirror.services import failpoints
from mirror.services.lease import leased
from mirror.services.open import open_services
from mirror.store import repos
from mirror.store.backup import parts
from mirror.store.discovery import remotes
from mirror.store.people import audit, quotas, teams
from mirror.store.upkeep import imports, keeping
from mirror.upkeep import compact, epoch, prune, verify
from mirror.upkeep.epoch import Why
from mirror.upkeep.moving import export_repos, import_repos, rebuild
from mirror.upkeep.moving.import_repos import Imported
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of
from tests.test_sealed_team import seal


@pytest_asyncio.fixture
async def other(mirror: Mirror, empty_database: str, tmp_path: Path) -> AsyncIterator[Mirror]:
    """Another installation: a database, a vault and keys of its own."""
    settings = replace(
        mirror.services.settings,
        data=str(tmp_path / "other"),
        database_url=empty_database,
        secret_keys=("o" * 40,),
    )
    async with open_services(settings, clock=mirror.clock) as services:
        yield Mirror(services, mirror.clock, mirror.place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "export"


async def pushes(mirror: Mirror, work: Work, count: int) -> tuple[Repo, list[Refs]]:
    """So many backups, each with objects of its own."""
    moments: list[Refs] = []
    for number in range(count):
        work.commit("main", {"pushed": b"%d" % number})
        work.commit("side", {"forced": b"%d" % number * 50}, parents=[])
        repo = (await mirror.backup(work)).repo
        moments.append(work.refs())
    return repo, moments


async def export(mirror: Mirror, place: Path, *chosen: Repo) -> export_repos.Written:
    team = await operator.team_named(mirror.services, None)
    return await export_repos.export(mirror.services, team, chosen, place)


async def take(mirror: Mirror, place: Path) -> list[Imported]:
    return await import_repos.import_all(
        mirror.services, await operator.team_named(mirror.services, None), place
    )


async def all_back(mirror: Mirror, repo: Repo, moments: dict[int, Refs]) -> None:
    """Every kept moment is there, and every byte is as it was recorded."""
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.damaged, found.strays) == ((), (), ())
    for number, expected in moments.items():
        path = await mirror.restored(repo, number)
        assert refs_of(path) == expected
    fsck(path)
    shown = await drill.drill(mirror.services, repo, await mirror.snapshot(repo, max(moments)))
    assert shown.problems == ()


def files(place: Path, pattern: str = "*") -> set[str]:
    """The paths of all files in an export."""
    return {str(path.relative_to(place)) for path in place.rglob(pattern) if path.is_file()}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def script(place: Path, repo: Repo, to: Path, number: int) -> Path:
    done = subprocess.run(
        ["sh", str(place / "restore.sh"), str(place / str(repo.id)), str(to), str(number)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return to


@pytest.mark.parametrize(
    ("sealed", "seals", "object_format"),
    [
        (False, False, "sha1"),
        (False, True, "sha256"),
        (True, False, "sha256"),
        (True, True, "sha1"),
    ],
    ids=["plain-to-plain", "plain-to-sealed", "sealed-to-plain", "sealed-to-sealed"],
)
async def test_a_history_of_several_epochs_is_whole_in_another_installation(
    mirror: Mirror,
    other: Mirror,
    make_work: Callable[..., Work],
    place: Path,
    tmp_path: Path,
    sealed: bool,
    seals: bool,
    object_format: ObjectFormat,
) -> None:
    work = make_work("r.git", object_format=object_format)
    work.zoo()
    if sealed:
        await seal(mirror)
    repo, moments = await pushes(mirror, work, 4)
    await epoch.new_epoch(mirror.services, repo, drop={2}, why=Why("Ada", "the policy keeps less"))
    moments += (await pushes(mirror, work, 3))[1]
    await compact.compact(mirror.services, repo)
    moments += (await pushes(mirror, work, 1))[1]
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 3))
    await keeping.set_hold(mirror.services.db, repo.id, "a trial", "Ada", mirror.clock())
    done = await export(mirror, place, repo)
    assert done.objects == len(done.listed.objects)
    assert (mode(place), mode(place / exported.NAME)) == (0o700, 0o600)
    assert not files(place, "*.age")
    for key, stored in done.listed.objects.items():
        assert hashlib.sha256((place / key).read_bytes()).hexdigest() == stored.sha256
    assert refs_of(script(place, repo, tmp_path / "by-script", 3)) == moments[2]
    assert (await export(mirror, place, repo)).objects <= 1  # repo.json says when it was written
    if seals:
        await seal(other)
    (one,) = await take(other, place)
    assert (one.repo.id, one.snapshots, one.added, one.held) == (repo.id, 8, 8, "a trial")
    kept = {number: refs for number, refs in enumerate(moments, 1) if number != 2}
    await all_back(other, one.repo, kept)
    with pytest.raises(Dropped, match="Ada: the policy keeps less"):
        await moment.snapshot_at(other.services, one.repo, 2)
    remote = await remotes.get(other.services.db, repo.id)
    assert remote.archived_at is not None
    live = await parts.live(other.services.db, repo.id)
    assert {part.epoch for part in live} == {2}
    assert all((part.sealed is not None) is seals for part in live)
    assert [again.added for again in await take(other, place)] == [0]
    for side, action in ((mirror, "repo.export"), (other, "repo.import")):
        team = await teams.default(side.services.db)
        told = await audit.page(side.services.db, team, action=action)
        assert {entry.entry.repo_id for entry in told} == {repo.id}
    # It goes on there, and nothing that it needs is taken for left over.
    other.clock.now += timedelta(days=2)
    await prune.prune(other.services, prune.GRACE, one.repo)
    more = (await pushes(other, work, 1))[1]
    assert (
        await repos.by_url(other.services.db, await teams.default(other.services.db), repo.url)
    ) is not None
    await all_back(other, one.repo, kept | {9: more[0]})


async def test_an_import_survives_the_loss_of_its_database(
    mirror: Mirror, other: Mirror, work: Work, place: Path
) -> None:
    await seal(mirror)
    repo, moments = await pushes(mirror, work, 3)
    await export(mirror, place, repo)
    await take(other, place)
    async with leased(other.services, repo) as lease:
        await repos.forget_history(other.services.db, lease, repo.id)
    (one,) = (await rebuild.rebuild(other.services)).repos
    assert (one.snapshots, one.added) == (3, 3)
    await all_back(other, repo, dict(enumerate(moments, 1)))


async def test_later_snapshots_are_added_and_an_older_export_changes_nothing(
    mirror: Mirror, other: Mirror, work: Work, place: Path, tmp_path: Path
) -> None:
    repo, moments = await pushes(mirror, work, 2)
    await export(mirror, tmp_path / "old", repo)
    await take(other, tmp_path / "old")
    moments += (await pushes(mirror, work, 3))[1]
    await compact.compact(mirror.services, repo)
    await export(mirror, place, repo)
    assert [(one.snapshots, one.added) for one in await take(other, place)] == [(5, 3)]
    await all_back(other, repo, dict(enumerate(moments, 1)))
    assert [(one.snapshots, one.added) for one in await take(other, tmp_path / "old")] == [(5, 0)]


async def test_a_history_that_went_its_own_way_is_refused_and_left(
    mirror: Mirror, other: Mirror, work: Work, place: Path, tmp_path: Path
) -> None:
    repo, moments = await pushes(mirror, work, 2)
    await export(mirror, tmp_path / "old", repo)
    await take(other, tmp_path / "old")
    here = (await pushes(other, work, 1))[1]
    await pushes(mirror, work, 2)
    await export(mirror, place, repo)
    before = await other.keys()
    with pytest.raises(Refused, match="another history here: its snapshot #3 is not the one"):
        await take(other, place)
    assert await other.keys() == before
    await all_back(other, repo, dict(enumerate([*moments, *here], 1)))


async def test_what_is_kept_here_is_not_dropped_by_an_import(
    mirror: Mirror, other: Mirror, work: Work, place: Path, tmp_path: Path
) -> None:
    repo, moments = await pushes(mirror, work, 3)
    await export(mirror, tmp_path / "old", repo)
    await take(other, tmp_path / "old")
    await epoch.new_epoch(mirror.services, repo, drop={1}, why=Why("Ada", "less"))
    await pushes(mirror, work, 1)
    await export(mirror, place, repo)
    with pytest.raises(Refused, match="packed anew since it was imported"):
        await take(other, place)
    await all_back(other, repo, dict(enumerate(moments, 1)))


async def test_a_new_export_into_the_same_directory_has_nothing_of_what_was_dropped(
    mirror: Mirror, work: Work, place: Path
) -> None:
    repo, _ = await pushes(mirror, work, 3)
    await export(mirror, place, repo)
    old = files(place, "*.bundle")
    await epoch.new_epoch(mirror.services, repo, drop={1}, why=Why("Ada", "a secret"))
    listed = (await export(mirror, place, repo)).listed
    assert not old & files(place, "*.bundle")
    assert files(place) == {*listed.objects, exported.NAME}


async def test_repos_of_one_name_and_address_stand_side_by_side(
    mirror: Mirror, other: Mirror, work: Work, place: Path
) -> None:
    repo, moments = await pushes(mirror, work, 1)
    mine, own = await pushes(other, work, 1)
    await export(mirror, place, repo)
    (one,) = await take(other, place)
    assert (one.was, one.repo.name) == (repo.name, f"{repo.name}-{str(repo.id)[:8]}")
    await all_back(other, one.repo, {1: moments[0]})
    await all_back(other, mine, {1: own[0]})


def flipped(place: Path, repo: Repo) -> None:
    path = next(iter(place.glob(f"{repo.id}/bundles/*.bundle")))
    found = bytearray(path.read_bytes())
    found[-5] ^= 1
    path.write_bytes(found)


def missing(place: Path, repo: Repo) -> None:
    (place / layout.manifest_key(repo.id, 1)).unlink()


def not_whole(place: Path, repo: Repo) -> None:
    (place / exported.NAME).unlink()


def newer(place: Path, repo: Repo) -> None:
    path = place / exported.NAME
    path.write_text(path.read_text().replace('"format":1', '"format":2'))


def elsewhere(place: Path, repo: Repo) -> None:
    path = place / exported.NAME
    path.write_text(path.read_text().replace("README.txt", "../README.txt"))


def _relisted(place: Path, key: str) -> None:
    listed = exported.decode((place / exported.NAME).read_bytes())
    body = (place / key).read_bytes()
    listed.objects[key] = replace(
        listed.objects[key], bytes=len(body), sha256=hashlib.sha256(body).hexdigest()
    )
    (place / exported.NAME).write_bytes(exported.encode(listed))


def rewritten(place: Path, repo: Repo) -> None:
    key = layout.manifest_key(repo.id, 1)
    path = place / key
    path.write_text(path.read_text().replace('"reason":"manual"', '"reason":"push"'))
    _relisted(place, key)


def without_a_part(place: Path, repo: Repo) -> None:
    listed = exported.decode((place / exported.NAME).read_bytes())
    key = max(key for key in listed.objects if key.endswith(".bundle"))
    del listed.objects[key]
    (place / exported.NAME).write_bytes(exported.encode(listed))


def another_part(place: Path, repo: Repo) -> None:
    flipped(place, repo)
    path = next(iter(place.glob(f"{repo.id}/bundles/*.bundle")))
    _relisted(place, str(path.relative_to(place)))


SPOILED: Final[Sequence[tuple[Callable[[Path, Repo], None], str, type[EverrefError]]]] = (
    (flipped, "was changed since it was exported", Corrupt),
    (missing, "is missing since it was exported", Corrupt),
    (not_whole, "is not a whole export", UsageError),
    (newer, "its format is not 1", Corrupt),
    (elsewhere, "does not belong into an export", Corrupt),
    (rewritten, "does not follow the manifest before it", Corrupt),
    (another_part, "is not as its manifest or its index says", Corrupt),
    (without_a_part, "has no part with snapshot #", Corrupt),
)


async def test_an_export_that_is_not_as_it_was_is_refused(
    mirror: Mirror, other: Mirror, work: Work, place: Path, tmp_path: Path
) -> None:
    repo, _ = await pushes(mirror, work, 2)
    await export(mirror, place, repo)
    for spoil, says, kind in SPOILED:
        spoiled = tmp_path / spoil.__name__
        shutil.copytree(place, spoiled)
        spoil(spoiled, repo)
        with pytest.raises(kind, match=says) as raised:
            await take(other, spoiled)
        assert "\n" not in str(raised.value), spoil
        assert await repos.find(other.services.db, repo.id) is None, spoil
    with pytest.raises(UsageError, match="is no directory"):
        await take(other, tmp_path / "nothing")
    assert [key for key in await other.keys() if layout.repo_of(key)] == []
    assert [one.snapshots for one in await take(other, place)] == [2]


async def test_damage_in_the_vault_is_not_exported(mirror: Mirror, work: Work, place: Path) -> None:
    repo, _ = await pushes(mirror, work, 2)
    vault = Path(mirror.services.settings.data) / "vault"
    flipped(vault, repo)
    with pytest.raises(Corrupt, match="not as it was recorded"):
        await export(mirror, place, repo)
    assert not (place / exported.NAME).exists()


async def test_no_directory_with_other_things_is_exported_to(
    mirror: Mirror, work: Work, place: Path, tmp_path: Path
) -> None:
    repo, _ = await pushes(mirror, work, 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds something else"):
        await export(mirror, tmp_path / "mine", repo)
    with pytest.raises(UsageError, match="is a vault"):
        await export(mirror, Path(mirror.services.settings.data) / "vault", repo)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


async def test_a_team_gets_no_more_than_its_limits(
    mirror: Mirror, other: Mirror, work: Work, place: Path
) -> None:
    repo, _ = await pushes(mirror, work, 1)
    await export(mirror, place, repo)
    db = other.services.db
    for name, says in (("repos", "adds 1 repo,"), ("stored-bytes", "stored in the vault")):
        await quotas.set(db, await teams.default(db), name, 0, other.clock())
        with pytest.raises(OverLimit, match=says):
            await take(other, place)
        await quotas.unset(db, await teams.default(db), name)
    assert await repos.find(db, repo.id) is None
    assert len(await take(other, place)) == 1


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("seals", [False, True], ids=["plain", "sealed"])
async def test_killed_at_every_step_both_go_on(
    mirror: Mirror, other: Mirror, work: Work, place: Path, monkeypatch: pytest.MonkeyPatch, seals: bool
) -> None:
    repo, moments = await pushes(mirror, work, 2)
    await epoch.new_epoch(mirror.services, repo, drop={1}, why=Why("Ada", "less"))
    moments += (await pushes(mirror, work, 1))[1]
    if seals:
        await seal(other)
    left = set[str]()

    def reached(step: str) -> None:
        """End the run at the first step at which none has ended."""
        if step.startswith(("export:", "import:")):
            seen[step] = seen.get(step, 0) + 1
            if (place_of := f"{step} {seen[step]}") not in left:
                left.add(place_of)
                raise Killed(step)

    async def until_done(run: Callable[[], object]) -> int:
        deaths = 0
        while True:
            seen.clear()
            try:
                await run()  # type: ignore[misc]
                return deaths
            except Killed:
                deaths += 1
                assert deaths < 100

    seen = dict[str, int]()
    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "reached", reached)
        assert await until_done(lambda: export(mirror, place, repo)) > 5
        assert await until_done(lambda: take(other, place)) > 5
    assert not await imports.is_under_way(other.services.db, repo.id)
    await all_back(other, repo, {2: moments[1], 3: moments[2]})
    with pytest.raises(Dropped):
        await moment.snapshot_at(other.services, repo, 1)


async def test_commands_move_a_whole_team(
    mirror: Mirror, other: Mirror, make_work: Callable[..., Work], place: Path
) -> None:
    works = [make_work(f"{name}.git") for name in ("a", "b")]
    histories = [await pushes(mirror, work, 2) for work in works]
    await mirror.repo(str(make_work("never.git").path))

    async def run(side: Mirror, *args: str) -> list[dict[str, object]]:
        settings = side.services.settings
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from mirror.cli import main; main()", *args),
            "--json",
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": settings.data,
                "EVERREF_DATA": settings.data,
                "DATABASE_URL": settings.database_url or "",
                "SECRET_KEYS": ",".join(settings.secret_keys),
                "ALLOW_PRIVATE_REMOTES": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await done.communicate()
        assert done.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()]

    (told,) = await run(mirror, "export", "--to", str(place))
    assert (told["to"], len(told["repos"])) == (str(place), 2)  # type: ignore[arg-type]
    found = await run(other, "import", str(place))
    assert sorted((one["id"], one["snapshots"], one["added"]) for one in found) == sorted(
        (str(repo.id), 2, 2) for repo, _ in histories
    )
    for repo, moments in histories:
        await all_back(other, repo, dict(enumerate(moments, 1)))
