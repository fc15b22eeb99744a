"""What a file of evidence shows, in one line, once its signature holds; no database, no vault, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from cryptography.x509 import Certificate

from mirror.core import words
from mirror.core.errors import Corrupt
from mirror.core.formats import proofs, statements, timestamps
from mirror.core.formats.manifest import Fields, time_text
from mirror.core.formats.proofs import Checkpoint, Leaf
from mirror.core.formats.statements import (
    CHECKPOINT,
    DAILY,
    DRILL,
    KEY,
    VERIFICATION,
    NotProven,
    PublicKey,
    Statement,
)

TIMESTAMP: Final = "timestamp"
_OF: Final = {proofs.REPO: "the history of repo", proofs.TEAM: "the audit log of team"}


@dataclass(frozen=True, slots=True)
class Shown:
    """One file that holds: what it is, and what it shows."""

    what: str  # the file
    kind: str  # of a statement, or of a proof
    at: datetime  # when it was signed
    sentence: str
    checkpoints: tuple[tuple[Checkpoint, str], ...] = ()  # that it is, or has, and the SHA-256 of their bytes


def shown(what: str, stored: bytes, keys: Mapping[str, PublicKey]) -> Shown:
    """Check a statement or a proof with these keys, and say what it shows. Raises NotProven."""
    if proofs.is_proof(stored):
        whole, part = proofs.check(stored, keys, what)
        kind = proofs.INCLUSION if isinstance(part, Leaf) else proofs.CONSISTENCY
        return Shown(what, kind, whole.at, _proved(whole, part), proofs.checkpoints(stored, what))
    statement = statements.verify(stored, keys, what)
    try:
        sentence = _said(statement, what)
    except NotProven:
        raise
    except Corrupt as error:
        raise NotProven(f"{what}: {error}") from None
    if statement.kind != CHECKPOINT:
        return Shown(what, statement.kind, statement.at, sentence)
    return Shown(
        what,
        CHECKPOINT,
        statement.at,
        sentence,
        ((proofs.checkpoint(statement, what), sha256(stored).hexdigest()),),
    )


def stamped(
    what: str,
    stored: bytes,
    certificates: Sequence[Certificate],
    held: Mapping[str, str],
) -> Shown:
    """Check a time stamp, and say which file it is about and when the authority had seen that.

    `held`: the files that hold, by the SHA-256 of their bytes. Raises NotProven.
    """
    if not certificates:
        raise NotProven(f"{what}: to check a time stamp, give the authority's certificates with --tsa")
    stamp = timestamps.verify(stored, certificates, what)
    about = held.get(stamp.sha256)
    if about is None:
        raise NotProven(
            f"{what}: it stamps none of the given files that hold, but one with SHA-256 {stamp.sha256}"
        )
    return Shown(what, TIMESTAMP, stamp.at, f"the authority had seen {about} by {time_text(stamp.at)}")


def contradiction(found: Mapping[str, Shown]) -> str | None:
    """Why checkpoints among these, also within proofs, do not follow each other, or None. In any order."""
    by_number: dict[int, tuple[str, Checkpoint, str]] = {}
    for one in found.values():
        for checkpoint, digest in one.checkpoints:
            what, _, other = by_number.setdefault(checkpoint.number, (one.what, checkpoint, digest))
            if other != digest:
                return (
                    f"{one.what} and {what} both have checkpoint {checkpoint.number}, and it differs:"
                    " history was rewritten between them"
                )
    for number, (what, checkpoint, _) in by_number.items():
        before = by_number.get(number - 1)
        if before and checkpoint.previous != before[2]:
            return f"{what}: it does not follow {before[0]}; one of them was rewritten"
    return None


def _said(statement: Statement, what: str) -> str:
    fields = statement.fields
    if statement.kind == CHECKPOINT:
        found = proofs.checkpoint(statement, what)
        return f"checkpoint {found.number}: {words.count(found.size, 'head')} of histories and audit logs"
    if statement.kind == KEY:
        return f"key {fields.text('key_id')[:16]} signs from then on"
    if statement.kind == DAILY:
        return _day(fields)
    if statement.kind not in (DRILL, VERIFICATION):
        return f"report of team {fields.text('team')}, {fields.text('from')} to {fields.text('to')}"
    repo, number = fields.inner("repo").text("name"), fields.count("snapshot", 1)
    moment = f".{fields.count('moment')}" if "moment" in fields.fields else ""
    size, problems = words.size(fields.count("bytes")), fields.texts("problems")
    if problems:
        return f"{statement.kind} of {repo} #{number}{moment} FAILED: {problems[0]}"
    if statement.kind == DRILL:
        return (
            f"{repo} #{number}{moment} of {fields.text('taken_at')} was restored from the vault alone in"
            f" {words.lasted(fields.number('seconds'))}: {size},"
            f" {words.count(fields.count('refs'), 'ref')} compared and equal"
        )
    parts = words.count(len(fields.items("parts")), "part")
    return f"{repo} was read back whole, up to #{number} of {fields.text('taken_at')}: {size} in {parts}"


def _day(fields: Fields) -> str:
    """Of each day's verification."""
    team, reading = fields.inner("team").text("name"), fields.inner("reading")
    covered = fields.inner("coverage")
    size, objects = words.size(reading.count("bytes")), words.count(reading.count("objects"), "object")
    problems = reading.count("problems")
    ended = f"{problems} MISSING OR CHANGED" if problems else "none missing or changed"
    period = words.count(covered.count("days") or 30, "day")
    return (
        f"{size} in {objects} of team {team} were read back on {reading.text('day')}, {ended};"
        f" {words.percent(covered.number('ratio'))} of what is stored was read back or stored within"
        f" {period}, as of {covered.text('at')}"
    )


def _proved(whole: Checkpoint, part: Leaf | Checkpoint) -> str:
    if isinstance(part, Leaf):
        head = part.head
        return (
            f"{_OF[head.of]} {head.id} went to {head.number} (sha256 {head.sha256[:16]}...) at"
            f" checkpoint {whole.number} of {time_text(whole.at)}"
        )
    return f"checkpoint {whole.number} follows checkpoint {part.number} of {time_text(part.at)}, unchanged"
