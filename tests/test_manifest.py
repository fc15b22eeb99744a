"""Manifests, repo.json and part indexes: what is written reads back; what is off is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.core import refs
from mirror.core.errors import Corrupt
from mirror.core.formats import layout, manifest
from mirror.core.formats.manifest import Manifest, RepoFile
from mirror.core.model import (
    HEAD,
    HEX_LENGTH,
    Kind,
    ObjectFormat,
    Part,
    Reason,
    RefChange,
    RefName,
    RepoId,
    Segment,
    Target,
)

REPO = RepoId(UUID("0b7e5a3c-8f1d-4c55-9b1e-2f6a7c8d9e0f"))
SUM = "ab" * 32
OLD, NEW = Target(b"1" * 40), Target(b"2" * 40)
MAIN = RefName(b"refs/heads/main")
WHEN = datetime(2024, 5, 1, 12, 30, 0, 250_000, tzinfo=UTC)
KEY = layout.bundle_key(REPO, 1, 11, 12, "00112233445566ff")


def is_name(name: bytes) -> bool:
    try:
        refs.check_name(name)
    except Corrupt:
        return False
    return True


sums = st.binary(min_size=32, max_size=32).map(bytes.hex)
times = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
names = (
    st.text(min_size=1, max_size=6).map(str.encode) | st.binary(min_size=1, max_size=6)
).map(lambda b: RefName(b"refs/heads/" + b)).filter(is_name)  # fmt: skip
counts = st.integers(1, 1 << 40)


def targets(object_format: ObjectFormat) -> st.SearchStrategy[Target]:
    length = HEX_LENGTH[object_format] // 2
    ids = st.binary(min_size=length, max_size=length).map(lambda b: Target(b.hex().encode()))
    return ids | names.map(lambda name: Target(b"ref: " + name))


@st.composite
def parts(draw: st.DrawFn, number: int) -> Part:
    segment = Segment(number, draw(counts), draw(counts), draw(sums))
    first = draw(st.integers(1, number))
    index_bytes = draw(st.integers(0, 1))
    return Part(
        key=layout.bundle_key(REPO, 1, first, number, "00112233445566ff"),
        epoch=1,
        first=first,
        last=number,
        bytes=draw(counts),
        sha256=draw(sums),
        header_bytes=draw(counts),
        entries=segment.entries,
        segments=(segment,),
        complete=draw(st.booleans()),
        index_bytes=index_bytes,
        index_sha256=draw(sums) if index_bytes else "",
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    object_format: ObjectFormat = draw(st.sampled_from(["sha1", "sha256"]))
    number = draw(st.integers(1, 200))
    target = targets(object_format)
    change = st.tuples(names | st.just(HEAD), st.none() | target, st.none() | target)
    moves = draw(st.lists(change.filter(lambda move: move[1] != move[2]), max_size=4))
    return Manifest(
        repo=REPO,
        number=number,
        taken_at=draw(times),
        reason=draw(st.sampled_from(Reason)),
        object_format=object_format,
        head=draw(st.none() | target),
        refs_count=draw(counts),
        refs_digest=draw(sums),
        epoch=1,
        log_entries=draw(counts),
        log_bytes=draw(counts),
        bundle=draw(st.none() | parts(number)),
        previous=draw(st.none() | sums),
        changes=tuple(
            RefChange(
                *move,
                kind=draw(st.sampled_from(Kind)),
                by=draw(st.none() | st.text(max_size=8)),
                at=draw(st.none() | times),
            )
            for move in moves
        ),
        refs=draw(st.none() | st.dictionaries(names | st.just(HEAD), target, max_size=4)),
    )


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(manifests())
def test_a_manifest_reads_back_as_it_was_written(taken: Manifest) -> None:
    stored = manifest.encode(taken)
    assert manifest.decode(stored) == taken
    assert manifest.encode(manifest.decode(stored)) == stored


def example(**other: Any) -> Manifest:
    part = Part(KEY, 1, 11, 12, 900, SUM, 88, 3, (Segment(12, 3, 780, SUM),), False)
    taken = Manifest(
        repo=REPO,
        number=12,
        taken_at=WHEN,
        reason=Reason.MANUAL,
        object_format="sha1",
        head=Target(b"ref: refs/heads/main"),
        refs_count=2,
        refs_digest=SUM,
        epoch=1,
        log_entries=40,
        log_bytes=9000,
        bundle=part,
        previous=SUM,
        changes=(
            RefChange(MAIN, OLD, NEW, Kind.FORCED, by="Alice", at=WHEN),
            RefChange(RefName(b'refs/heads/a"\xff'), None, NEW, Kind.CREATED),
        ),
        refs=None,
    )
    return replace(taken, **other)


def test_a_manifest_is_written_as_documented() -> None:
    assert manifest.encode(example()).decode() == (
        "{\n"
        '"format":1,\n'
        f'"repo":"{REPO}",\n'
        '"number":12,\n'
        '"taken_at":"2024-05-01T12:30:00.250000Z",\n'
        '"reason":"manual",\n'
        '"object_format":"sha1",\n'
        '"head":"ref: refs/heads/main",\n'
        '"refs_count":2,\n'
        f'"refs_digest":"{SUM}",\n'
        '"epoch":1,\n'
        '"log":{"entries":40,"bytes":9000},\n'
        f'"segment":{{"entries":3,"bytes":780,"sha256":"{SUM}"}},\n'
        f'"bundle":{{"key":"{KEY}","bytes":900,"sha256":"{SUM}","header_bytes":88,"first":11,"last":12,'
        '"complete":false,"index_bytes":0,"index_sha256":""},\n'
        '"sealed_to":null,\n'
        f'"previous":"{SUM}",\n'
        '"changes":[\n'
        f'{{"name":"refs/heads/main","old":"{OLD.decode()}","new":"{NEW.decode()}","kind":"forced",'
        '"by":"Alice","at":"2024-05-01T12:30:00.250000Z"},\n'
        '{"name":"refs/heads/a\\"\ufffd","name_b64":"cmVmcy9oZWFkcy9hIv8=","old":null,'
        f'"new":"{NEW.decode()}","kind":"created","by":null,"at":null}}\n'
        "],\n"
        '"refs":null\n'
        "}\n"
    )


def test_a_whole_map_has_one_ref_a_line_in_the_order_of_names() -> None:
    stored = manifest.encode(example(number=64, bundle=None, changes=(), refs={MAIN: NEW, HEAD: OLD}))
    assert stored.decode().splitlines()[-6:] == [
        "],",
        '"refs":[',
        f'{{"name":"HEAD","target":"{OLD.decode()}"}},',
        f'{{"name":"refs/heads/main","target":"{NEW.decode()}"}}',
        "]",
        "}",
    ]


def test_whole_maps_cost_a_snapshot_no_more_the_more_refs_there_are() -> None:
    assert [n for n in range(1, 200) if manifest.has_whole_map(n, 512)] == [64, 128, 192]
    for refs_count in (1, 513, 3_000, 100_000, 1_000_000):
        lines = sum(refs_count for n in range(1, 1 << 18) if manifest.has_whole_map(n, refs_count))
        assert refs_count / 16 < lines
        assert lines <= manifest.WHOLE_MAP_LINES << 18


def test_times_are_written_in_utc() -> None:
    local = WHEN.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert manifest.encode(example(taken_at=local)) == manifest.encode(example())


def test_the_snapshot_of_a_manifest_says_the_same() -> None:
    taken = example()
    stored = manifest.encode(taken)
    snapshot = manifest.snapshot_of(taken, sha256(stored).hexdigest())
    assert (snapshot.number, snapshot.taken_at, snapshot.changes_count) == (12, WHEN, 2)
    assert snapshot.segment == Segment(12, 3, 780, SUM)
    assert snapshot.bundle == taken.bundle
    assert (snapshot.manifest_sha256, snapshot.previous_sha256) == (sha256(stored).hexdigest(), SUM)
    assert manifest.snapshot_of(example(bundle=None), "").segment is None


def test_keys_that_are_not_known_are_ignored() -> None:
    fields = json.loads(manifest.encode(example()))
    fields["later"] = fields["changes"][0]["later"] = fields["bundle"]["later"] = {"any": 1}
    assert manifest.decode(json.dumps(fields).encode()) == example()


Tampering = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda m: m.pop("previous"), id="a key is missing"),
        pytest.param(lambda m: m.pop("refs"), id="refs are missing"),
        pytest.param(lambda m: m.update(format=2), id="another format"),
        pytest.param(lambda m: m.update(number=0), id="number 0"),
        pytest.param(lambda m: m.update(number="12"), id="a number as text"),
        pytest.param(lambda m: m.update(number=True), id="a truth value as number"),
        pytest.param(lambda m: m.update(number=12.0), id="a fraction"),
        pytest.param(lambda m: m.update(refs_count=-1), id="a negative count"),
        pytest.param(lambda m: m.update(log=None), id="no boundary"),
        pytest.param(lambda m: m["log"].update(bytes=1 << 64), id="a boundary beyond all files"),
        pytest.param(lambda m: m.update(repo="../etc"), id="the repo is no id"),
        pytest.param(lambda m: m.update(taken_at="2024-05-01"), id="a time without hours"),
        pytest.param(lambda m: m.update(taken_at="2024-05-01T12:30:00.250000"), id="a time without zone"),
        pytest.param(lambda m: m.update(taken_at="2024-05-01T12:30:00.250000+02:00"), id="another zone"),
        pytest.param(lambda m: m.update(taken_at="at noon"), id="no time at all"),
        pytest.param(lambda m: m.update(reason="whim"), id="an unknown reason"),
        pytest.param(lambda m: m.update(object_format="md5"), id="an unknown object format"),
        pytest.param(lambda m: m.update(object_format="sha256"), id="ids of another length"),
        pytest.param(lambda m: m.update(refs_digest=SUM[1:]), id="a digest cut short"),
        pytest.param(lambda m: m.update(previous=SUM.upper()), id="a sum in capitals"),
        pytest.param(lambda m: m.update(head="ref: main"), id="HEAD on no ref"),
        pytest.param(lambda m: m.update(head="z" * 40), id="HEAD on no id"),
        pytest.param(lambda m: m.update(segment=None), id="a bundle without segment"),
        pytest.param(lambda m: m.update(bundle=None), id="a segment without bundle"),
        pytest.param(lambda m: m["bundle"].update(last=13), id="a bundle of another snapshot"),
        pytest.param(lambda m: m["bundle"].update(first=13), id="a range turned round"),
        pytest.param(lambda m: m["bundle"].update(complete=1), id="a number as truth value"),
        pytest.param(lambda m: m["segment"].update(entries=0), id="a segment of nothing"),
        pytest.param(lambda m: m.update(changes={}), id="changes are no list"),
        pytest.param(lambda m: m.update(changes=[1]), id="a change is no object"),
        pytest.param(lambda m: m["changes"][0].update(name="refs/heads/a..b"), id="no ref name"),
        pytest.param(lambda m: m["changes"][0].update(kind="lost"), id="an unknown kind"),
        pytest.param(lambda m: m["changes"][0].update(old=None, new=None), id="a change of nothing"),
        pytest.param(lambda m: m["changes"][1].update(name_b64="%"), id="a name in no base64"),
        pytest.param(lambda m: m.update(refs=[{"name": "refs/heads/main"}]), id="a ref without target"),
    ],
)
def test_a_manifest_that_is_off_is_corrupt(tamper: Tampering) -> None:
    fields = json.loads(manifest.encode(example()))
    tamper(fields)
    with pytest.raises(Corrupt):
        manifest.decode(json.dumps(fields).encode())


@pytest.mark.parametrize("stored", [b"", b"{", b"[]", b"null", b"\xff", b'{"format":1', b"[" * 100_000])
def test_what_is_no_json_object_is_corrupt(stored: bytes) -> None:
    for read in (manifest.decode, manifest.decode_repo, lambda line: manifest.decode_index(KEY, line)):
        with pytest.raises(Corrupt):
            read(stored)


@given(
    st.builds(
        RepoFile,
        repo=st.uuids().map(RepoId),
        name=st.text(),
        url=st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")),
        object_format=st.sampled_from(["sha1", "sha256", None]),
        at=st.none() | times,
        team=st.none() | st.uuids(),
        team_name=st.none() | st.text(),
        repository_id=st.none() | st.text(),
        private=st.none() | st.booleans(),
        archived_at=st.none() | times,
        excluded=st.lists(st.text(), max_size=3).map(tuple),
    )
)
def test_repo_json_reads_back_as_it_was_written(about: RepoFile) -> None:
    assert manifest.decode_repo(manifest.encode_repo(about)) == about


@st.composite
def stored_parts(draw: st.DrawFn) -> Part:
    numbers = sorted(draw(st.sets(st.integers(5, 30), max_size=5)))
    segments = tuple(Segment(n, draw(counts), draw(counts), draw(sums)) for n in numbers)
    return Part(
        key=layout.bundle_key(REPO, 2, 5, 30, "00112233445566ff"),
        epoch=2,
        first=5,
        last=30,
        bytes=draw(counts),
        sha256=draw(sums),
        header_bytes=draw(st.integers(0, 1 << 20)),
        entries=sum(segment.entries for segment in segments) or draw(counts),
        segments=segments,
        complete=draw(st.booleans()),
    )


@given(stored_parts())
def test_an_index_line_reads_back_as_it_was_written(part: Part) -> None:
    line = manifest.encode_index(part)
    assert line.index(b"\n") == len(line) - 1
    assert manifest.decode_index(part.key, line) == part


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda m: m.update(format=2), id="another format"),
        pytest.param(lambda m: m.update(entries=5), id="entries that do not add up"),
        pytest.param(lambda m: m["segments"].reverse(), id="segments out of order"),
        pytest.param(lambda m: m["segments"][0].pop(), id="a segment of three"),
        pytest.param(lambda m: m["segments"][1].__setitem__(0, 13), id="a segment beyond the range"),
        pytest.param(lambda m: m["segments"].append(m["segments"][1]), id="a segment twice"),
        pytest.param(lambda m: m.update(segments=None), id="no segments"),
    ],
)
def test_an_index_line_that_is_off_is_corrupt(tamper: Tampering) -> None:
    part = Part(KEY, 1, 11, 12, 900, SUM, 88, 4, (Segment(11, 1, 2, SUM), Segment(12, 3, 780, SUM)), False)
    fields = json.loads(manifest.encode_index(part))
    tamper(fields)
    with pytest.raises(Corrupt):
        manifest.decode_index(KEY, json.dumps(fields).encode())


def test_an_index_belongs_to_the_key_of_a_part() -> None:
    with pytest.raises(Corrupt, match="not the key of a part"):
        manifest.decode_index("README.txt", b"{}")
