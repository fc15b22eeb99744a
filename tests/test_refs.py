"""Ref maps: digests, differences, kinds, names."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core import refs
from mirror.core.errors import Corrupt
from mirror.core.model import HEAD, Kind, RefChange, RefName, Target

MAIN = RefName(b"refs/heads/main")
TAG = RefName(b"refs/tags/v1")
OLD, NEW = Target(b"1" * 40), Target(b"2" * 40)

names = st.binary(min_size=1, max_size=8).map(lambda b: RefName(b"refs/" + b))
targets = st.sampled_from([OLD, NEW, Target(b"ref: refs/heads/main"), Target(b"3" * 64)])
maps = st.dictionaries(names | st.just(HEAD), targets, max_size=12)
RefMap = dict[RefName, Target]


def moved(old: Target | None, new: Target | None, name: RefName = MAIN, **known: bool) -> Kind:
    forwarded = frozenset([name] if known.get("forwarded") else [])
    commits = frozenset([name] if known.get("commits") else [])
    return refs.classify([(name, old, new)], forwarded, commits)[0].kind


@given(maps, maps)
def test_applying_the_difference_gives_the_new_map(old: RefMap, new: dict[RefName, Target]) -> None:
    changes = refs.classify(refs.diff(old, new), frozenset(), frozenset())
    assert refs.apply(old, changes) == new


@given(maps, maps)
def test_digests_are_equal_for_equal_maps_only(old: RefMap, new: dict[RefName, Target]) -> None:
    assert (refs.digest(old) == refs.digest(new)) == (old == new)


@given(maps)
def test_a_map_does_not_differ_from_itself(same: RefMap) -> None:
    assert refs.diff(same, dict(reversed(same.items()))) == []


def test_differences_come_in_the_order_of_names() -> None:
    assert refs.diff({TAG: OLD, MAIN: OLD}, {MAIN: NEW, HEAD: NEW}) == [
        (HEAD, None, NEW),
        (MAIN, OLD, NEW),
        (TAG, OLD, None),
    ]


def test_a_force_push_is_one_change_with_both_tips() -> None:
    changes = refs.classify(refs.diff({MAIN: OLD}, {MAIN: NEW}), frozenset(), frozenset([MAIN]))
    assert changes == [RefChange(MAIN, OLD, NEW, Kind.FORCED)]


def test_kinds_follow_ancestry_for_commits_and_nothing_else() -> None:
    assert moved(None, NEW) is Kind.CREATED
    assert moved(OLD, None, commits=True) is Kind.DELETED
    assert moved(OLD, NEW, commits=True, forwarded=True) is Kind.FAST_FORWARDED
    assert moved(OLD, NEW, commits=True) is Kind.FORCED
    assert moved(OLD, NEW) is Kind.MOVED
    assert moved(OLD, NEW, name=TAG, commits=True, forwarded=True) is Kind.MOVED
    assert moved(OLD, NEW, name=HEAD, commits=True, forwarded=True) is Kind.MOVED
    assert moved(Target(b"ref: refs/heads/a"), NEW, commits=True) is Kind.MOVED
    assert moved(OLD, Target(b"ref: refs/heads/a"), commits=True) is Kind.MOVED


def test_a_change_that_does_not_follow_on_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="refs/heads/main"):
        refs.apply({MAIN: OLD}, [RefChange(MAIN, NEW, OLD, Kind.FORCED)])
    with pytest.raises(Corrupt, match="refs/heads/main"):
        refs.apply({}, [RefChange(MAIN, OLD, None, Kind.DELETED)])


def test_names_are_judged_as_git_judges_them() -> None:
    tried = [
        *(b"refs/heads/a" + bytes([byte]) + b"b" for byte in range(1, 256)),
        *(b"refs/heads/" + odd for odd in (b"", b"a/", b"/a", b"a//b", b"a.lock", b"a.lock/b", b"a.locks")),
        *(b"refs/heads/" + odd for odd in (b".a", b"a/.b", b"a.", b"a./b", b"a..b", b"a@{b", b"@", b"-rf")),
        *(b"refs/heads/" + odd for odd in (b"\xff\xfe", b"a.lock.", b"a" * 240, b'a"b<script>', b"{a}")),
        *(b"refs/stash", b"refs/@", b"refs/", b"refs/a.lock", b"refs//a", b"refs/.lock"),
    ]
    assert [name for name in tried if is_accepted(name) != git_accepts(name)] == []
    assert [name for name in tried if is_accepted(MAIN, name, TAG) != is_accepted(name)] == []


def git_accepts(name: bytes) -> bool:
    return subprocess.run([b"git", b"check-ref-format", name], check=False).returncode == 0


def is_accepted(*names: bytes) -> bool:
    try:
        refs.check_name(*names) if len(names) == 1 else refs.check_names(names)
    except Corrupt:
        return False
    return True


pieces = st.sampled_from([b"refs/", b"HEAD", b"a", b".", b"/", b".lock", b"@", b"{", b"\n", b" ", b"\xff"])


@given(st.lists(st.lists(pieces, max_size=5).map(b"".join), max_size=4))
def test_many_names_are_judged_as_each_is(many: list[bytes]) -> None:
    try:
        refs.check_names(many)
        accepted = True
    except Corrupt:
        accepted = False
    assert accepted == all(is_accepted(name) for name in many)


@pytest.mark.parametrize(
    "name", [b"", b"main", b"FETCH_HEAD", b"ref/heads/main", b"refs", b"/refs/heads/a", b"head"]
)
def test_only_head_and_names_under_refs_are_names(name: bytes) -> None:
    assert not is_accepted(name)
    assert is_accepted(HEAD)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (b"refs/pull/1/head", True),
        (b"refs/merge-requests/1/head", True),
        (b"refs/keep-around/abc", True),
        (b"refs/pipelines/7", True),
        (b"refs/environments/prod/1", True),
        (b"refs/remotes/origin/main", True),
        (b"refs/tmp/x", True),
        (b"refs/stash", True),
        (b"refs/heads/pull/1", False),
        (b"refs/tags/v1", False),
        (b"refs/notes/commits", False),
        (b"refs/pulls/1", False),
        (b"HEAD", False),
    ],
)
def test_refs_that_hosts_refuse_are_hidden(name: bytes, hidden: bool) -> None:
    assert refs.is_hidden(name) is hidden


@given(names.filter(refs.is_hidden))
def test_an_archived_name_is_not_hidden(name: RefName) -> None:
    assert not refs.is_hidden(refs.archived(name))


def test_archived_names_keep_their_path() -> None:
    assert refs.archived(b"refs/pull/1/head") == b"refs/archive/pull/1/head"
    assert refs.archived(b"refs/stash") == b"refs/archive/stash"


@pytest.mark.parametrize(
    ("glob", "matched"),
    [
        ("main", {b"refs/heads/main", b"refs/tags/main"}),
        ("heads/*", {b"refs/heads/main", b"refs/heads/a/b"}),
        ("refs/heads/*", {b"refs/heads/main", b"refs/heads/a/b"}),
        ("refs/pull/*", {b"refs/pull/main"}),
        ("HEAD", {b"HEAD"}),
        ("Main", set()),
        ("a/?", {b"refs/heads/a/b"}),
        ("*\udcff", {b"refs/x/\xff"}),
    ],
)
def test_globs_mean_what_git_users_mean(glob: str, matched: set[bytes]) -> None:
    everything = [
        b"HEAD",
        b"refs/heads/main",
        b"refs/tags/main",
        b"refs/heads/a/b",
        b"refs/pull/main",
        b"refs/x/\xff",
    ]
    assert {name for name in everything if refs.matches(name, [glob])} == matched
    assert {name for name in everything if refs.matches(name, ["nothing", glob])} == matched
    assert not any(refs.matches(name, []) for name in everything)


def test_symbolic_refs_are_followed_to_an_object() -> None:
    known = {HEAD: Target(b"ref: refs/heads/main"), MAIN: NEW, TAG: Target(b"ref: refs/heads/none")}
    assert refs.resolve(known, HEAD) == NEW
    assert refs.resolve(known, TAG) is None
    assert refs.resolve(known, RefName(b"refs/heads/none")) is None


def test_symbolic_refs_in_a_ring_come_to_nothing() -> None:
    assert refs.resolve({HEAD: Target(b"ref: " + MAIN), MAIN: Target(b"ref: HEAD")}, HEAD) is None


@given(st.binary(max_size=20))
def test_shown_bytes_read_back_as_they_were(value: bytes) -> None:
    assert refs.from_shown(refs.shown(value)) == value
    assert refs.from_shown(refs.shown_as("target", value), "target") == value


def test_a_name_that_is_no_utf8_carries_its_bytes() -> None:
    assert refs.shown(b"refs/heads/\xff") == {"name": "refs/heads/\ufffd", "name_b64": "cmVmcy9oZWFkcy//"}
    assert refs.shown("refs/heads/é".encode()) == {"name": "refs/heads/é"}


@pytest.mark.parametrize("fields", [{}, {"name": None}, {"name": 3}, {"name": "\ud800"}, {"name_b64": "a"}])
def test_what_cannot_be_read_back_is_corrupt(fields: dict[str, object]) -> None:
    with pytest.raises(Corrupt, match="name"):
        refs.from_shown(fields)


def test_shown_text_gives_a_terminal_nothing_to_act_on() -> None:
    assert (
        refs.shown_text("refs/heads/\u009b31m\u202ex".encode() + b"\xff")
        == "refs/heads/\ufffd31m\ufffdx\ufffd"
    )
    assert refs.shown_text("refs/heads/é日".encode()) == "refs/heads/é日"
