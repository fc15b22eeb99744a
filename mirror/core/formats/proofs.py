"""Checkpoints, what their roots are made of, and the proofs that something is in one.

A checkpoint is a signed statement with the root of a Merkle tree (core/formats/merkle.py) over the heads
of all histories and audit logs at one moment. A leaf has a random salt, so that the proof of one team,
which shows the hashes of others' leaves, shows nothing of these.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from mirror.core.errors import Corrupt
from mirror.core.formats import merkle, statements
from mirror.core.formats.manifest import FORMAT, Fields
from mirror.core.formats.statements import CHECKPOINT, NotProven, PublicKey, SigningKey, Statement, Subject

LIMIT: Final = 256 << 20  # bytes of the leaves of a checkpoint: some 200 for each repo
REPO: Final = "repo"
TEAM: Final = "team"
INCLUSION: Final = "inclusion"
CONSISTENCY: Final = "consistency"

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SALT: Final = 16  # bytes


@dataclass(frozen=True, slots=True)
class Head:
    """How far a history went: of a repo, to its newest manifest, or of a team's audit log."""

    of: str  # REPO or TEAM
    id: UUID
    number: int  # of the snapshot or the entry
    sha256: str  # of the manifest's stored bytes, or of the entry


@dataclass(frozen=True, slots=True)
class Leaf:
    """A head as a leaf of the tree."""

    head: Head
    salt: str  # hex

    @property
    def text(self) -> str:
        """The leaf's bytes, which are ASCII."""
        head = self.head
        told = {head.of: str(head.id), "number": head.number, "sha256": head.sha256, "salt": self.salt}
        return statements.canonical(told).decode()

    @property
    def hash(self) -> bytes:
        """Its hash in the tree."""
        return merkle.leaf_hash(self.text.encode())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says."""

    number: int  # 1, 2, 3...
    at: datetime
    size: int  # leaves
    root: bytes  # of the tree over them
    previous: str | None  # SHA-256 of the stored bytes of the checkpoint before; None: it is the first
    log_root: bytes  # of the tree over the SHA-256 of all checkpoints before it, in order


def leaves(heads: Sequence[Head]) -> list[Leaf]:
    """The leaves of these heads, each with a new salt, in the order of their hashes, which tells nothing."""
    made = [Leaf(head, secrets.token_hex(_SALT)) for head in heads]
    return sorted(made, key=lambda leaf: leaf.hash)


def encode_leaves(found: Sequence[Leaf]) -> bytes:
    """The leaves as they are stored, one a line."""
    return "".join(f"{leaf.text}\n" for leaf in found).encode()


def decode_leaves(stored: bytes, what: str) -> list[Leaf]:
    """The leaves of a checkpoint. Raises Corrupt."""
    return [leaf_of(line, what) for line in stored.decode("utf-8", "replace").splitlines()]


def leaf_of(text: str, what: str) -> Leaf:
    """The leaf with this text. Raises Corrupt if it is none."""
    try:
        found = json.loads(text)
        of = REPO if REPO in found else TEAM
        head = Head(of, UUID(found[of]), int(found["number"]), str(found["sha256"]))
        leaf = Leaf(head, str(found["salt"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Corrupt(f"{what}: a leaf cannot be read") from None
    if leaf.text != text:
        raise Corrupt(f"{what}: a leaf is not written as Everref writes it")
    return leaf


def root(found: Sequence[Leaf]) -> bytes:
    """The root over these leaves, in their order."""
    return merkle.root([leaf.hash for leaf in found])


def entry(sha256_hex: str) -> bytes:
    """The hash of a checkpoint as a leaf of the log of checkpoints, of the SHA-256 of its stored bytes."""
    return merkle.leaf_hash(bytes.fromhex(sha256_hex))


def sign(made: Checkpoint, key: SigningKey) -> bytes:
    """The checkpoint as it is stored."""
    told = {
        "number": made.number,
        "tree": {"size": made.size, "root": made.root.hex()},
        "previous": made.previous,
        "log": {"size": made.number - 1, "root": made.log_root.hex()},
    }
    subject = Subject(f"everref checkpoint {made.number}", made.root.hex())
    return statements.sign(Statement(CHECKPOINT, (subject,), made.at, told), key)


def checkpoint(statement: Statement, what: str) -> Checkpoint:
    """What a statement says that is a checkpoint. Raises NotProven."""
    if statement.kind != CHECKPOINT:
        raise NotProven(f"{what}: this is not a checkpoint")
    fields = statement.fields
    try:
        tree, log = fields.inner("tree"), fields.inner("log")
        number, previous = fields.count("number", 1), fields.text_or_none("previous")
        found = Checkpoint(
            number,
            statement.at,
            tree.count("size"),
            bytes.fromhex(tree.sha256("root")),
            previous,
            bytes.fromhex(log.sha256("root")),
        )
        if log.count("size") != number - 1 or (previous is None) != (number == 1):
            raise fields.off("previous")
        if previous is not None and not _HASH.fullmatch(previous):
            raise fields.off("previous")
    except Corrupt as error:
        raise NotProven(f"{what}: {error}") from None
    return found


def include(checkpoint: bytes, leaf: Leaf, index: int, path: Sequence[bytes]) -> bytes:
    """The proof that a leaf is in a checkpoint at this index, as a file that can be checked by itself."""
    return _file(
        {
            "kind": INCLUSION,
            "checkpoint": checkpoint.decode(),
            "leaf": leaf.text,
            "index": index,
            "path": [one.hex() for one in path],
        }
    )


def extend(first: bytes, second: bytes, sums: Sequence[str]) -> bytes:
    """The proof that a checkpoint and all before it are in the log of a later one.

    `sums` are the SHA-256 of all checkpoints before the second one, in order.
    """
    number = checkpoint(statements.read(first, "the first checkpoint")[0], "the first checkpoint").number
    log = [entry(one) for one in sums]
    return _file(
        {
            "kind": CONSISTENCY,
            "first": first.decode(),
            "second": second.decode(),
            "included": [one.hex() for one in merkle.inclusion(log, number - 1)],
            "consistent": [one.hex() for one in merkle.consistency(log, number - 1)],
        }
    )


def _file(told: Mapping[str, Any]) -> bytes:
    return statements.canonical({"format": FORMAT, **told}) + b"\n"


def is_proof(stored: bytes) -> bool:
    """Whether these bytes want to be a proof, and no statement."""
    try:
        return json.loads(stored).get("kind") in (INCLUSION, CONSISTENCY)
    except (ValueError, AttributeError, RecursionError):
        return False


def _fields(stored: bytes, what: str) -> Fields:
    try:
        fields = Fields.of(stored, what)
    except Corrupt as error:
        raise NotProven(str(error)) from None
    if _file({key: value for key, value in fields.fields.items() if key != "format"}) != stored:
        raise NotProven(f"{what}: the proof was changed: it is not written as Everref writes it")
    return fields


def _path(fields: Fields, key: str) -> list[bytes]:
    texts = fields.texts(key)
    if not all(_HASH.fullmatch(text) for text in texts):
        raise fields.off(key)
    return [bytes.fromhex(text) for text in texts]


def check(stored: bytes, keys: Mapping[str, PublicKey], what: str) -> tuple[Checkpoint, Leaf | Checkpoint]:
    """What a proof shows: this leaf is in this checkpoint, or this earlier checkpoint is in its log.

    Raises NotProven: the checkpoint's signature does not hold, or the proof does not lead to its root.
    """
    fields = _fields(stored, what)
    try:
        if fields.text("kind") == INCLUSION:
            named = f"{what}, the checkpoint"
            whole = checkpoint(statements.verify(fields.text("checkpoint").encode(), keys, named), named)
            leaf = leaf_of(fields.text("leaf"), what)
            index, path = fields.count("index"), _path(fields, "path")
            if not merkle.is_included(leaf.hash, index, whole.size, path, whole.root):
                raise NotProven(
                    f"{what}: the proof does not lead to the root of checkpoint {whole.number};"
                    " the leaf or the path was changed"
                )
            return whole, leaf
        return _consistent(fields, keys, what)
    except NotProven:
        raise
    except Corrupt as error:
        raise NotProven(str(error)) from None


def checkpoints(stored: bytes, what: str) -> tuple[tuple[Checkpoint, str], ...]:
    """The checkpoints that a proof has, which `check` has checked, and the SHA-256 of their bytes."""
    fields = _fields(stored, what)
    found = [fields.text(key).encode() for key in ("checkpoint", "first", "second") if key in fields.fields]
    return tuple((checkpoint(statements.read(one, what)[0], what), sha256(one).hexdigest()) for one in found)


def _consistent(
    fields: Fields, keys: Mapping[str, PublicKey], what: str
) -> tuple[Checkpoint, Leaf | Checkpoint]:
    first, second = fields.text("first").encode(), fields.text("second").encode()
    named = (f"{what}, the first checkpoint", f"{what}, the second checkpoint")
    old = checkpoint(statements.verify(first, keys, named[0]), named[0])
    new = checkpoint(statements.verify(second, keys, named[1]), named[1])
    size = new.number - 1
    of_first = entry(sha256(first).hexdigest())
    is_there = merkle.is_included(of_first, old.number - 1, size, _path(fields, "included"), new.log_root)
    consistent = _path(fields, "consistent")
    if old.number == 1:
        follows = not consistent and old.log_root == merkle.EMPTY
    else:
        follows = merkle.is_consistent(old.number - 1, size, consistent, old.log_root, new.log_root)
    if not is_there or not follows:
        raise NotProven(
            f"{what}: checkpoint {new.number} does not follow checkpoint {old.number}; one was rewritten"
        )
    return new, old
