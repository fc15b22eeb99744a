"""The keys of the vault."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.formats import layout
from mirror.core.model import RepoId

REPO = RepoId(UUID("0b7e5a3c-8f1d-4c55-9b1e-2f6a7c8d9e0f"))
KEY = f"{REPO}/bundles/0001-0000000002-0000000009-00112233445566ff.bundle"

ids = st.uuids().map(RepoId)
numbers = st.integers(1, 10**10 - 1)
uniques = st.text("0123456789abcdef", min_size=16, max_size=16)


def test_keys_are_as_documented() -> None:
    assert layout.repo_prefix(REPO) == f"{REPO}/"
    assert layout.repo_file(REPO) == f"{REPO}/repo.json"
    assert layout.manifest_key(REPO, 12) == f"{REPO}/snapshots/0000000012.json"
    assert layout.bundle_key(REPO, 1, 2, 9, "00112233445566ff") == KEY
    assert layout.index_key(KEY) == f"{REPO}/bundles/0001-0000000002-0000000009-00112233445566ff.idx"


@given(ids, st.integers(1, 9999), numbers, numbers, uniques)
def test_a_bundle_key_reads_back_as_it_was_written(
    repo_id: RepoId, epoch: int, first: int, last: int, unique: str
) -> None:
    key = layout.bundle_key(repo_id, epoch, first, last, unique)
    said = layout.BundleKey(repo_id, epoch, first, last, unique)
    assert layout.parse_bundle_key(key) == said
    assert layout.parse_bundle_key(layout.index_key(key)) == said
    assert key.startswith(layout.bundles_prefix(repo_id))


@given(ids, numbers)
def test_a_manifest_key_reads_back_as_it_was_written(repo_id: RepoId, number: int) -> None:
    key = layout.manifest_key(repo_id, number)
    assert layout.parse_manifest_key(key) == layout.NumberedKey(repo_id, number)
    assert key.startswith(layout.manifests_prefix(repo_id))


@given(numbers, numbers)
def test_manifest_keys_sort_as_numbers_do(one: int, other: int) -> None:
    assert (layout.manifest_key(REPO, one) < layout.manifest_key(REPO, other)) == (one < other)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "README.txt",
        KEY + "\n",
        KEY + ".tmp",
        KEY.upper(),
        "x" + KEY,
        KEY.replace("0001", "٠٠٠١"),
        f"{KEY}.idx",
    ],
)
def test_other_keys_are_told_apart(key: str) -> None:
    assert layout.parse_bundle_key(key) is None
    assert layout.parse_manifest_key(key) is None


def test_the_same_range_gets_a_new_key_each_time() -> None:
    one, other = (layout.bundle_key(REPO, 1, 2, 9, layout.unique()) for _ in range(2))
    assert one != other


def test_a_key_that_could_not_be_read_back_is_never_made() -> None:
    with pytest.raises(ValueError, match="no key of a part"):
        layout.bundle_key(REPO, 1, 1, 1, "../../etc/passwd")
