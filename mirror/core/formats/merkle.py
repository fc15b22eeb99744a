"""Merkle trees as RFC 6962, section 2.1 has them: roots, and proofs that a leaf or an older tree is in one.

A root is 32 bytes. A proof is a list of such, which RFC 9162, section 2.1 says how to check; whoever
has it and the root needs nothing else of the tree, and learns nothing else of it.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

EMPTY: Final = sha256(b"").digest()  # the root of the tree without a leaf


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf; that of no inner node can be the same."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node, of its children's hashes."""
    return sha256(b"\x01" + left + right).digest()


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """The hashes of the tree over these leaf hashes, from the leaves up to the root alone."""
    found = [list(leaves)]
    while len(level := found[-1]) > 1:  # an odd one at the end goes up as it is, which gives RFC 6962's tree
        pairs = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        found.append(pairs + ([level[-1]] if len(level) % 2 else []))
    return found


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes, in their order."""
    return levels(leaves)[-1][0] if leaves else EMPTY


def path(tree: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """The proof that the leaf at `index`, counted from 0, is in the tree with these levels.

    Raises ValueError if there is no such leaf.
    """
    if not 0 <= index < len(tree[0]):
        raise ValueError(f"there is no leaf {index} among {len(tree[0])}")
    found, at = list[bytes](), index
    for level in tree[:-1]:
        if at ^ 1 < len(level):
            found.append(level[at ^ 1])
        at //= 2
    return found


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that the leaf at `index` is in the tree of these leaf hashes; see `path`."""
    return path(levels(leaves), index)


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> bool:
    """Whether the proof shows this leaf hash at `index` of the tree of `size` leaves with that root."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for one in path:
        if last == 0:
            return False
        if at % 2 or at == last:
            found = node_hash(one, found)
            while at and not at % 2:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, one)
        at, last = at >> 1, last >> 1
    return last == 0 and found == expected


def consistency(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """The proof that the tree of these leaf hashes begins with the tree of the `first` ones.

    Empty for none of them or all. Raises ValueError if there are not so many.
    """
    if not 0 <= first <= len(leaves):
        raise ValueError(f"there are {len(leaves)} leaves, not {first}")
    return [] if first in (0, len(leaves)) else _subproof(leaves, first, True)


def _subproof(leaves: Sequence[bytes], first: int, is_known: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962; `is_known`: these leaves are a tree that the verifier has the root of."""
    if first == len(leaves):
        return [] if is_known else [root(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1  # the largest power of two below their number
    if first <= split:
        return [*_subproof(leaves[:split], first, is_known), root(leaves[split:])]
    return [*_subproof(leaves[split:], first - split, False), root(leaves[:split])]


def is_consistent(first: int, second: int, path: Sequence[bytes], old: bytes, new: bytes) -> bool:
    """Whether the proof shows that the tree of `second` leaves and root `new` begins with that of `first`."""
    if first == second:
        return not path and old == new
    if not 0 <= first < second:
        return False
    if first == 0:
        return not path and old == EMPTY
    left = list(path) if first & (first - 1) else [old, *path]
    if not left:
        return False
    at, last = first - 1, second - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    before = after = left[0]
    for one in left[1:]:
        if last == 0:
            return False
        if at % 2 or at == last:
            before, after = node_hash(one, before), node_hash(one, after)
            while at and not at % 2:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, one)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old and after == new
