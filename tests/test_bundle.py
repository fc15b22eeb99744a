"""Bundle headers: what is written reads back, also by git."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import Corrupt
from mirror.core.formats import bundle
from mirror.core.formats.bundle import Header
from mirror.core.model import HEAD, HEX_LENGTH, ObjectFormat, RefName, Target
from mirror.core.refs import check_name

MAIN = RefName(b"refs/heads/main")
OLD, NEW = Target(b"1" * 40), Target(b"2" * 40)


def is_name(name: bytes) -> bool:
    try:
        check_name(name)
    except Corrupt:
        return False
    return True


@st.composite
def headers(draw: st.DrawFn) -> Header:
    object_format: ObjectFormat = draw(st.sampled_from(["sha1", "sha256"]))
    length = HEX_LENGTH[object_format]
    ids = st.text("0123456789abcdef", min_size=length, max_size=length).map(
        lambda text: Target(text.encode())
    )
    names = st.binary(min_size=1, max_size=12).map(lambda b: RefName(b"refs/heads/" + b)).filter(is_name)
    known = draw(st.dictionaries(names | st.just(HEAD), ids, max_size=6))
    return Header(object_format, tuple(draw(st.lists(ids, max_size=4))), known)


@given(headers(), st.binary(max_size=40))
def test_a_header_reads_back_as_it_was_written(header: Header, pack: bytes) -> None:
    written = bundle.encode(header)
    assert bundle.decode(written + b"PACK" + pack) == (header, len(written))


@given(headers(), st.data())
def test_a_header_cut_short_asks_for_more(header: Header, data: st.DataObject) -> None:
    written = bundle.encode(header)
    cut = data.draw(st.integers(0, len(written) - 1))
    assert bundle.decode(written[:cut]) is None


def test_symbolic_refs_are_written_as_what_they_come_to() -> None:
    alias = RefName(b"refs/heads/alias")
    known = {HEAD: Target(b"ref: refs/heads/main"), MAIN: NEW, alias: Target(b"ref: refs/heads/none")}
    read = bundle.decode(bundle.encode(Header("sha1", (), known)))
    assert read is not None
    assert read[0].refs == {HEAD: NEW, MAIN: NEW}


def test_version_3_may_name_sha1_too() -> None:
    start = b"# v3 git bundle\n@object-format=sha1\n%b refs/heads/main\n\n" % OLD
    assert bundle.decode(start) == (Header("sha1", (), {MAIN: OLD}), len(start))


def test_headers_are_as_git_documents_them() -> None:
    assert bundle.encode(Header("sha1", (OLD,), {MAIN: NEW, HEAD: NEW})) == (
        b"# v2 git bundle\n-%b \n%b refs/heads/main\n%b HEAD\n\n" % (OLD, NEW, NEW)
    )
    long = Target(b"a" * 64)
    assert bundle.encode(Header("sha256", (), {MAIN: long})) == (
        b"# v3 git bundle\n@object-format=sha256\n%b refs/heads/main\n\n" % long
    )


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_git_reads_our_header_and_we_read_gits(tmp_path: Path, object_format: ObjectFormat) -> None:
    repo = tmp_path / "repo"

    def git(*args: str, stdin: bytes = b"") -> bytes:
        return subprocess.run(
            ["git", "-C", str(repo), *args], input=stdin, capture_output=True, check=True
        ).stdout

    repo.mkdir()
    git("init", "-q", "-b", "main", f"--object-format={object_format}")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    git(*who, "commit", "-q", "--allow-empty", "-m", "one")
    git(*who, "commit", "-q", "--allow-empty", "-m", "two")
    old, new = (Target(git("rev-parse", rev).strip()) for rev in ("main~1", "main"))

    theirs = tmp_path / "theirs.bundle"
    git("bundle", "create", "-q", str(theirs), "HEAD", "main", "^main~1")
    read = bundle.decode(theirs.read_bytes())
    assert read is not None
    assert read[0] == Header(object_format, (old,), {HEAD: new, MAIN: new})

    ours = tmp_path / "ours.bundle"
    pack = theirs.read_bytes()[read[1] :]
    ours.write_bytes(bundle.encode(read[0]) + pack)
    assert git("bundle", "list-heads", str(ours)).split(b"\n") == [
        new + b" refs/heads/main",
        new + b" HEAD",
        b"",
    ]
    git("bundle", "verify", "-q", str(ours))


@pytest.mark.parametrize(
    "start",
    [
        b"PACK",
        b"<!doctype html>",
        b"# v4 git bundle\n",
        b"# v2 git bundle\n\n\n"[:15] + b"\r\n",
        b"# v2 git bundle\nrefs/heads/main\n\n",
        b"# v2 git bundle\n%b refs/heads/a..b\n\n" % OLD,
        b"# v2 git bundle\n%b main\n\n" % OLD,
        b"# v2 git bundle\n%b refs/heads/main\n\n" % OLD.replace(b"1", b"g"),
        b"# v2 git bundle\n@object-format=sha256\n\n",
        b"# v3 git bundle\n@object-format=sha256\n%b refs/heads/main\n\n" % OLD,
        b"# v3 git bundle\n@object-format=md5\n\n",
        b"# v3 git bundle\n@filter=blob:none\n\n",
        b"# v2 git bundle\n-12 x\n\n",
    ],
)
def test_what_is_no_bundle_of_ours_is_corrupt(start: bytes) -> None:
    with pytest.raises(Corrupt):
        bundle.decode(start)


def test_a_header_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LONGEST", 100)
    line = b"%b refs/heads/main\n" % OLD
    assert bundle.decode(bundle.V2 + line) is None
    with pytest.raises(Corrupt, match="no end"):
        bundle.decode(bundle.V2 + line * 3)
