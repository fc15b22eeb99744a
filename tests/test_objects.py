"""What git's objects say, however they were written."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import Corrupt
from mirror.core.formats import objects
from mirror.core.model import HEAD, Target
from mirror.git.tree import entries

OID = Target(b"1" * 40)
TREE = b"tree " + b"2" * 40 + b"\n"


def commit(
    author: bytes = b"A <a@b> 0 +0000", rest: bytes = b"\nhello\n", more: bytes = b""
) -> objects.Commit:
    return objects.commit(OID, TREE + b"author " + author + b"\ncommitter C <c> 1 +0000\n" + more + rest)


@pytest.mark.parametrize(
    ("line", "name", "address", "at"),
    [
        (b"Ann Other <ann@example.org> 1700000000 +0100", "Ann Other", "ann@example.org", 1700000000),
        (b"<> 5 +0000", "", "", 5),
        (b"A <a@b> 99999999999999999999 +0000", "A", "a@b", None),
        (b"A <a@b> 9999999999999 +0000", "A", "a@b", None),
        (b"A <a@b> -5 +0000", "A", "a@b", -5),
        (b"A <a@b>", "A", "a@b", None),
        (b"A <a@b 7 +0000", "A", "a@b 7 +0000", None),
        (b"A <x> <a@b> 7 +0000", "A", "x> <a@b", 7),
        (b"no address", "no address", "", None),
        (b"", "", "", None),
        (b"\xc3\xa9 <\xff> 7 +9999", "\u00e9", "\ufffd", 7),
        (b"A" * 5000 + b" <a> 7 +0000", "A" * objects.NAME_KEPT, "a", 7),
    ],
)
def test_whoever_wrote_it_is_named(line: bytes, name: str, address: str, at: int | None) -> None:
    found = commit(line)
    assert (found.author, found.author_email) == (name, address)
    assert found.authored_at == (None if at is None else datetime.fromtimestamp(at, UTC))


def test_a_message_has_a_summary_and_a_body() -> None:
    found = commit(rest=b"\n\nOver two\nlines\n\n\nBody\n\nmore\n")
    assert (found.summary, found.body) == ("Over two lines", "Body\n\nmore")
    assert commit(rest=b"").summary == ""


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        (b"ISO-8859-1", b"\xe9t\xe9", "\u00e9t\u00e9"),
        (b"Shift_JIS", "\u65e5\u672c".encode("shift_jis"), "\u65e5\u672c"),
        (b"zip", b"\xff", "\ufffd"),
        (b"no-such-thing", "\u00e9".encode(), "\u00e9"),
        (b"\xff\xfe", b"x", "x"),
        (b"utf-16", b"x", "x"),
    ],
)
def test_a_message_is_read_in_its_encoding_or_as_well_as_it_goes(
    encoding: bytes, data: bytes, text: str
) -> None:
    assert commit(rest=b"\n" + data, more=b"encoding " + encoding + b"\n").summary == text


def test_a_signature_is_no_parent_and_no_author() -> None:
    more = b"parent " + b"3" * 40 + b"\ngpgsig -----BEGIN\n author X <x> 1 +0000\n -----END\n"
    found = commit(more=more)
    assert found.author == "A" and found.parents == (b"3" * 40,)


@given(st.binary())
def test_any_commit_is_read_or_refused(data: bytes) -> None:
    try:
        objects.commit(OID, data)
    except Corrupt:
        pass
    assert isinstance(objects.commit(OID, TREE + data), objects.Commit)


@given(st.binary(), st.sampled_from(["sha1", "sha256"]))
def test_any_tree_is_read_or_refused(data: bytes, object_format: str) -> None:
    try:
        list(entries(data, object_format))  # type: ignore[arg-type]
    except Corrupt:
        pass


@pytest.mark.parametrize(
    "line",
    [b"-1 a\0", b"1_0 a\0", b" a\0", b"8 a\0", b"7" * 20 + b" a\0", b"100644a\0", b"100644 a"],
    ids=["negative", "underlined", "none", "no octal", "too large", "no space", "no end"],
)
def test_a_tree_with_an_odd_mode_is_corrupt(line: bytes) -> None:
    with pytest.raises(Corrupt, match="its tree is broken"):
        entries(b"100644 before\0" + b"1" * 20 + line + b"2" * 20, "sha1")


def test_a_tree_has_its_lines_in_their_order() -> None:
    data = b"100755 run\0" + b"\x11" * 32 + b"40000 \xff dir\0" + b"\x22" * 32
    assert list(entries(data, "sha256")) == [
        objects.Entry(b"run", "executable", 0o100755, Target(b"11" * 32)),
        objects.Entry(b"\xff dir", "folder", objects.FOLDER, Target(b"22" * 32)),
    ]


@given(st.binary(), st.text())
def test_any_bytes_are_some_text(data: bytes, encoding: str) -> None:
    assert isinstance(objects.decoded(data, encoding), str)
    assert objects.text_of(data) is None or isinstance(objects.text_of(data), tuple)


def test_a_file_that_was_cut_within_a_character_is_still_utf_8() -> None:
    assert objects.text_of("a\u00e9".encode()[:-1]) == ("a\ufffd", "utf-8")
    assert objects.text_of(b"\xe9t\xe9 au lait") == ("\u00e9t\u00e9 au lait", "latin-1")
    assert objects.text_of("\ufeffhi".encode("utf-16-le")) == ("hi", "utf-16")
    assert objects.text_of(b"a\0b") is None


def test_a_pointer_of_lfs_is_known() -> None:
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
    assert objects.lfs_pointer(text) == objects.LfsPointer("a" * 64, 12345)
    assert objects.lfs_pointer(text + b"more") is None


def test_a_short_name_means_what_it_means_to_git() -> None:
    assert objects.candidates(b"")[0] == HEAD
    assert objects.candidates(b"main") == [
        b"refs/main",
        b"refs/heads/main",
        b"refs/tags/main",
        b"refs/remotes/main",
    ]
    assert objects.candidates(b"refs/heads/x")[0] == b"refs/heads/x"
    assert not objects.is_id("main", "sha1") and objects.is_id("a" * 64, "sha256")
