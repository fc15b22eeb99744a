"""Merkle trees: the vectors of Certificate Transparency's own tests, and every proof of every small tree."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.formats import merkle

# The leaves of RFC 6962's reference implementation, and the roots of the first 1, 2, ... of them.
LEAVES = [
    bytes.fromhex(one)
    for one in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def hashes(size: int) -> list[bytes]:
    return [merkle.leaf_hash(b"%d" % number) for number in range(size)]


def recursive(leaves: list[bytes]) -> bytes:
    """MTH as section 2.1 writes it, to compare with."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(recursive(leaves[:split]), recursive(leaves[split:]))


def test_the_roots_are_those_of_the_reference() -> None:
    assert merkle.root([]) == merkle.EMPTY == sha256(b"").digest()
    for size, expected in enumerate(ROOTS, 1):
        assert merkle.root([merkle.leaf_hash(one) for one in LEAVES[:size]]).hex() == expected


def test_every_leaf_of_every_small_tree_is_proved_at_its_place_and_at_no_other() -> None:
    for size in range(1, 34):
        leaves = hashes(size)
        root = merkle.root(leaves)
        assert root == recursive(leaves)
        for index, leaf in enumerate(leaves):
            path = merkle.inclusion(leaves, index)
            assert merkle.is_included(leaf, index, size, path, root)
            assert not merkle.is_included(merkle.leaf_hash(b"other"), index, size, path, root)
            assert not merkle.is_included(leaf, (index + 1) % size, size, path, root) or size == 1
            assert not merkle.is_included(leaf, index, size, [*path, leaf], root)
            assert not path or not merkle.is_included(leaf, index, size, path[:-1], root)


def test_every_older_tree_is_proved_to_be_the_beginning_and_no_other_is() -> None:
    for size in range(1, 26):
        leaves = hashes(size)
        root = merkle.root(leaves)
        for first in range(size + 1):
            path, old = merkle.consistency(leaves, first), merkle.root(leaves[:first])
            assert merkle.is_consistent(first, size, path, old, root)
            assert not merkle.is_consistent(first, size, path, merkle.leaf_hash(b"old"), root)
            assert first == 0 or not merkle.is_consistent(first, size, path, old, merkle.leaf_hash(b"new"))
            assert not merkle.is_consistent(first, size, [*path, root], old, root)


@given(st.integers(1, 300), st.data())
def test_a_changed_proof_never_holds(size: int, data: st.DataObject) -> None:
    leaves = hashes(size)
    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion(leaves, index)
    assert merkle.is_included(leaves[index], index, size, path, merkle.root(leaves))
    if path:
        place = data.draw(st.integers(0, len(path) - 1))
        changed = [*path[:place], bytes([path[place][0] ^ 1]) + path[place][1:], *path[place + 1 :]]
        assert not merkle.is_included(leaves[index], index, size, changed, merkle.root(leaves))


@pytest.mark.parametrize(("size", "index"), [(0, 0), (3, 3), (3, -1)])
def test_there_is_no_proof_of_what_is_not_there(size: int, index: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion(hashes(size), index)
    with pytest.raises(ValueError, match="not"):
        merkle.consistency(hashes(size), size + 1)
