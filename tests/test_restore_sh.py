"""The script in the vault brings every snapshot back with stock git, or says what is missing."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib import resources
from pathlib import Path
from uuid import UUID

import pytest

from mirror.core import refs
from mirror.core.formats import layout, manifest
from mirror.core.formats.manifest import Manifest
from mirror.core.model import HEAD, ObjectFormat, Part, Reason, RefName, Refs, RepoId
from tests.parts.log import Log
from tests.parts.repos import Work, fsck, objects_of, refs_of, run_git

REPO = RepoId(UUID("0b7e5a3c-8f1d-4c55-9b1e-2f6a7c8d9e0f"))
START = datetime(2024, 5, 1, tzinfo=UTC)


class Vault:
    """A directory vault written as Everref writes it, from a repository's log."""

    def __init__(self, work: Work, room: Path) -> None:
        self.work = work
        self.room = room
        self.log = Log(work, room)
        self.path = room / "vault"
        self.repo = self.path / str(REPO)
        (self.repo / "snapshots").mkdir(parents=True)
        self.keys: dict[str, str] = {}
        self._previous: str | None = None
        self._told: Refs = {}
        script = resources.files("mirror.vault.readme") / "restore.sh"
        self.script = self.path / "restore.sh"
        self.script.write_bytes(script.read_bytes())

    def snapshot(self, *, head: bool = True) -> int:
        part = self.log.take()
        number = self.log.number
        known = {n: t for n, t in self.log.refs[number].items() if head or n != HEAD}
        changes = refs.classify(refs.diff(self._told, known), frozenset(), frozenset())
        stored = manifest.encode(
            Manifest(
                repo=REPO,
                number=number,
                taken_at=START + timedelta(hours=number),
                reason=Reason.PUSH,
                object_format=self.work.object_format,
                head=known.get(HEAD),
                refs_count=len(known) - (HEAD in known),
                refs_digest=refs.digest(known),
                epoch=1,
                log_entries=sum(s.entries for s in self.log.segments),
                log_bytes=sum(s.bytes for s in self.log.segments),
                bundle=replace(part, key=self.write(part)) if part else None,
                previous=self._previous,
                changes=tuple(replace(c, by='B"ob\\","name":"x","kind":') for c in changes),
                refs=known if manifest.has_whole_map(number, len(known)) else None,
            )
        )
        self.manifest(number).write_bytes(stored)
        self._previous = sha256(stored).hexdigest()
        self._told = known
        return number

    def manifest(self, number: int) -> Path:
        return self.path / layout.manifest_key(REPO, number)

    def write(self, part: Part) -> str:
        """Store a part's bytes; its key."""
        key = layout.bundle_key(REPO, part.epoch, part.first, part.last, layout.unique())
        self.keys[part.key] = key
        self.bundle(part).parent.mkdir(exist_ok=True)
        self.bundle(part).write_bytes(self.log.stored[part.key])
        return key

    def bundle(self, part: Part) -> Path:
        return self.path / self.keys[part.key]

    def recut(self, part: Part) -> Part:
        """Store a merged part or a checkpoint and delete what it covers."""
        for old in list(self.keys):
            first, last, _ = old.removesuffix(".bundle").split("-")
            if part.first <= int(first) and int(last) <= part.last and old != part.key:
                (self.path / self.keys.pop(old)).unlink(missing_ok=True)
        key = self.write(part)
        index = manifest.encode_index(part) + b"\xfftOc\0\0\0\2 and more bytes\n\n"
        (self.path / layout.index_key(key)).write_bytes(index)
        return part

    def run(self, number: int | str, *shell: str) -> tuple[Path, subprocess.CompletedProcess[bytes]]:
        out = self.room / f"restored-{number}"
        done = subprocess.run(
            [*(shell or ["sh"]), str(self.script), str(self.repo), str(number), str(out)],
            capture_output=True,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/nonexistent"},
        )
        return out, done

    def restored(self, number: int) -> Path:
        out, done = self.run(number)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return out

    def fails(self, number: int | str) -> str:
        """The one line that it fails with."""
        out, done = self.run(number)
        assert done.returncode == 1
        assert not out.exists()
        said = [line for line in done.stderr.decode().splitlines() if line.startswith("restore.sh: ")]
        assert len(said) == 1, done.stderr.decode()
        return said[0].removeprefix("restore.sh: ")


@pytest.fixture
def vault(work: Work, tmp_path: Path) -> Vault:
    return Vault(work, tmp_path)


def pushes(work: Work, take: Callable[[], object]) -> None:
    """Five snapshots with a rewind, a deletion and a snapshot without objects."""
    work.commit("main", {"a": b"line\n" * 400})
    take()
    work.commit("main", {"a": b"line\n" * 401})
    work.tag("v1", message="signed off")
    take()
    work.set("side", work.tip())
    take()
    work.set("main", work.commit(None, {"a": b"line\n" * 402}, parents=[]))
    work.delete("side")
    take()
    work.commit("main", {"a": b"line\n" * 400, "b": b"b"})
    take()


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_every_snapshot_comes_back(
    make_work: Callable[..., Work], tmp_path: Path, object_format: ObjectFormat
) -> None:
    vault = Vault(make_work("remote", object_format), tmp_path)
    pushes(vault.work, vault.snapshot)
    for number in range(1, 6):
        out = vault.restored(number)
        assert refs_of(out) == vault.log.refs[number]
        fsck(out)
    assert objects_of(out) == objects_of(vault.work.path)


def test_everything_that_a_remote_may_hold_comes_back(vault: Vault) -> None:
    vault.work.zoo()
    vault.snapshot()
    vault.work.commit("main")
    vault.work.delete("refs/stash", b"refs/heads/not-utf8-\xff\xfe")
    vault.snapshot()
    for number in (1, 2):
        out = vault.restored(number)
        assert refs_of(out) == vault.log.refs[number]
        fsck(out)


def test_symbolic_refs_with_odd_names_come_back(vault: Vault) -> None:
    vault.work.commit("main")
    name = RefName(b'refs/heads/q"\xff')
    vault.work.set(name, vault.work.tip())
    vault.work.git("symbolic-ref", b'refs/odd/"\xfe', name)
    vault.work.git("symbolic-ref", "HEAD", name)
    vault.snapshot()
    out = vault.restored(1)
    assert refs_of(out) == vault.log.refs[1]
    assert refs_of(out)[HEAD] == b"ref: " + name


@pytest.mark.parametrize("where", ["refs/heads/main", "refs/heads/nowhere", "detached"])
def test_head_comes_back_as_it_was(vault: Vault, where: str) -> None:
    first = vault.work.commit("main")
    vault.work.commit("main")
    vault.work.head(first if where == "detached" else where)
    vault.snapshot()
    assert refs_of(vault.restored(1)) == vault.log.refs[1]


def test_a_head_that_the_remote_did_not_tell_is_on_main(vault: Vault) -> None:
    vault.work.commit("other")
    vault.snapshot(head=False)
    assert refs_of(vault.restored(1))[HEAD] == b"ref: refs/heads/main"


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_an_empty_repository_comes_back(
    make_work: Callable[..., Work], tmp_path: Path, object_format: ObjectFormat
) -> None:
    vault = Vault(make_work("remote", object_format), tmp_path)
    vault.snapshot()
    vault.work.commit("main")
    vault.snapshot()
    out = vault.restored(1)
    assert refs_of(out) == vault.log.refs[1]
    assert run_git("-C", out, "rev-parse", "--show-object-format").decode().strip() == object_format
    assert refs_of(vault.restored(2)) == vault.log.refs[2]


def test_a_name_that_became_a_folder_comes_back(vault: Vault) -> None:
    vault.work.commit("topic")
    vault.snapshot()
    tip = vault.work.tip("topic")
    vault.work.update({RefName(b"refs/heads/topic"): None, RefName(b"refs/heads/topic/one"): tip})
    vault.snapshot()
    for number in (1, 2):
        assert refs_of(vault.restored(number)) == vault.log.refs[number]


@pytest.mark.parametrize(("first", "last"), [(2, 4), (2, 5), (1, 5)])
def test_merged_parts_bring_every_snapshot_back(vault: Vault, first: int, last: int) -> None:
    pushes(vault.work, vault.snapshot)
    vault.recut(vault.log.merge(first, last))
    for number in range(1, 6):
        out = vault.restored(number)
        assert refs_of(out) == vault.log.refs[number]
        fsck(out)


def test_a_checkpoint_brings_every_snapshot_back(vault: Vault) -> None:
    pushes(vault.work, vault.snapshot)
    vault.recut(vault.log.checkpoint())
    vault.work.commit("main")
    vault.snapshot()
    for number in range(1, 7):
        assert refs_of(vault.restored(number)) == vault.log.refs[number]


def test_what_a_killed_compaction_left_is_not_touched(vault: Vault) -> None:
    pushes(vault.work, vault.snapshot)
    stray = vault.log.merge(1, 5)
    vault.log.stored[stray.key] = b"half of it"
    vault.write(stray)
    assert refs_of(vault.restored(5)) == vault.log.refs[5]


def test_parts_that_overlap_bring_every_snapshot_back(vault: Vault) -> None:
    pushes(vault.work, vault.snapshot)
    merged = vault.log.merge(2, 5)
    key = vault.write(merged)
    (vault.path / layout.index_key(key)).write_bytes(manifest.encode_index(merged))
    for number in (2, 5):
        assert refs_of(vault.restored(number)) == vault.log.refs[number]


def test_whole_maps_on_the_way_change_nothing(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "WHOLE_MAP_EVERY", 2)
    pushes(vault.work, vault.snapshot)
    assert '"refs":[' in vault.manifest(4).read_text()
    for number in (4, 5):
        assert refs_of(vault.restored(number)) == vault.log.refs[number]


def test_a_missing_part_is_named(vault: Vault) -> None:
    pushes(vault.work, vault.snapshot)
    vault.bundle(vault.log.parts[1]).unlink()
    assert "bundles/0001-FIRST-LAST-*.bundle holds snapshot 2" in vault.fails(4)
    assert refs_of(vault.restored(1)) == vault.log.refs[1]
    merged = vault.log.merge(1, 2)
    vault.recut(merged)
    vault.bundle(merged).unlink()
    assert vault.bundle(merged).name in vault.fails(5)


def test_a_damaged_part_is_named_with_its_sum(vault: Vault) -> None:
    pushes(vault.work, vault.snapshot)
    for part in (vault.log.parts[1], vault.recut(vault.log.merge(4, 5))):
        whole = vault.bundle(part).read_bytes()
        bad = bytearray(whole)
        bad[-30] ^= 1
        vault.bundle(part).write_bytes(bad)
        assert vault.fails(5) == f"{vault.bundle(part).name} is not whole: expected sha256 {part.sha256}"
        vault.bundle(part).write_bytes(whole)
    assert vault.restored(5)


def test_objects_that_no_part_holds_are_told(vault: Vault) -> None:
    vault.work.commit("main")
    vault.snapshot()
    fields = json.loads(vault.manifest(1).read_bytes())
    text = vault.manifest(1).read_text()
    vault.manifest(1).write_text(text.replace(fields["changes"][1]["new"], "1" * 40))
    assert vault.fails(1) == "objects are missing"


def test_a_missing_manifest_is_named(vault: Vault) -> None:
    pushes(vault.work, vault.snapshot)
    assert vault.fails(6) == "snapshots/0000000006.json is missing"
    vault.manifest(3).unlink()
    assert vault.fails(5) == "snapshots/0000000003.json is missing"
    assert vault.restored(2)


def test_a_newer_format_is_left_to_a_newer_script(vault: Vault) -> None:
    vault.work.commit("main")
    vault.snapshot()
    stored = vault.manifest(1).read_text()
    vault.manifest(1).write_text(stored.replace('"format":1,', '"format":2,'))
    assert "newer format" in vault.fails(1)


@pytest.mark.parametrize("number", ["", "x", "#1", "0", "-1", "1 1"])
def test_a_number_that_is_none_changes_nothing(vault: Vault, number: str) -> None:
    vault.work.commit("main")
    vault.snapshot()
    assert vault.fails(number)


def test_nothing_that_exists_is_overwritten(vault: Vault) -> None:
    vault.work.commit("main")
    vault.snapshot()
    out = vault.room / "restored-1"
    out.mkdir()
    (out / "mine").write_text("mine")
    _, done = vault.run(1)
    assert done.returncode == 1
    assert b"exists already" in done.stderr
    assert (out / "mine").read_text() == "mine"


def test_the_script_stays_small_and_says_so() -> None:
    guide = resources.files("mirror.vault.readme")
    lines = (guide / "restore.sh").read_text().splitlines()
    assert sum(not line.startswith("#") for line in lines) <= 60
    assert f"a {len(lines)}-line script" in (Path(__file__).parents[1] / "README.md").read_text()
    assert "restore.sh" in (guide / "README.txt").read_text()
