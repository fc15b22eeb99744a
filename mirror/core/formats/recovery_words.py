"""An age identity as words to print and to type: four lines of six words, each with a word that checks it.

The six-word lines together are the identity's 32 bytes as BIP-39 writes them, 24 words with its own checksum,
so that any program for BIP-39 gives the bytes back; Bech32 (BIP-173) with the prefix `age-secret-key-` makes
the identity of them. The seventh word of a line is the one that the first 11 bits of the SHA-256 of
`<number of the line> <its six words>` name, so that a typing error is found in its line.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from mirror.core.errors import UsageError
from mirror.core.formats.wordlist import WORDS

LINES: Final = 4
PER_LINE: Final = 6  # words, without the one that checks them
_BYTES: Final = 32  # of an X25519 identity
_PREFIX: Final = "age-secret-key-"
_LETTERS: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # of Bech32
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PLACE: Final = {word: number for number, word in enumerate(WORDS)}
_BY_FOUR: Final = {word[:4]: word for word in WORDS}


def written(identity: str) -> Sequence[str]:
    """The lines of an identity (`AGE-SECRET-KEY-1...`). Raises UsageError where it is none."""
    raw = raw_of(identity)
    check = hashlib.sha256(raw).digest()[0]  # as BIP-39 has it: a bit for every 32
    bits = (int.from_bytes(raw, "big") << 8) | check
    count = LINES * PER_LINE
    words = [WORDS[(bits >> 11 * (count - 1 - place)) & 2047] for place in range(count)]
    lines = [words[PER_LINE * line : PER_LINE * (line + 1)] for line in range(LINES)]
    return [" ".join([*line, _check(number, line)]) for number, line in enumerate(lines, 1)]


def read(typed: str) -> str:
    """The identity of typed words, in capitals as age writes it; the first four letters of a word suffice.

    Words may be numbered and in any lines. Raises UsageError, which names the line and maybe the word.
    """
    given = re.findall(r"[a-z]+", typed.lower())
    expected = LINES * (PER_LINE + 1)
    words = []
    for place, word in enumerate(given[:expected]):
        line, within = divmod(place, PER_LINE + 1)
        known = word if word in _PLACE else _BY_FOUR.get(word[:4]) if len(word) == 4 else None
        if known is None:
            raise UsageError(f"line {line + 1}, word {within + 1}: {word[:20]!r} is not a word of the list")
        words.append(known)
    for line in range(len(words) // (PER_LINE + 1)):
        *six, check = words[(PER_LINE + 1) * line : (PER_LINE + 1) * (line + 1)]
        if check != _check(line + 1, six):
            raise UsageError(
                f"line {line + 1} has a typing error: its last word does not fit the six before it"
            )
    if len(given) != expected:
        raise UsageError(f"these are {len(given)} words; a sheet has {expected}, {PER_LINE + 1} in each line")
    kept = [word for place, word in enumerate(words) if place % (PER_LINE + 1) != PER_LINE]
    bits = 0
    for word in kept:
        bits = (bits << 11) | _PLACE[word]
    raw = (bits >> 8).to_bytes(_BYTES, "big")
    if hashlib.sha256(raw).digest()[0] != bits & 255:
        raise UsageError("the words are of the list, but not those of one sheet; compare every line")
    return identity_of(raw)


def _check(number: int, six: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{number} {' '.join(six)}".encode()).digest()
    return WORDS[int.from_bytes(digest[:2], "big") >> 5]


def identity_of(raw: bytes) -> str:
    """Bech32 of an identity's 32 bytes, in capitals."""
    bits = int.from_bytes(raw, "big") << 4  # 256 bits in groups of 5: the last has 4 bits of padding
    data = [(bits >> 5 * (51 - place)) & 31 for place in range(52)]
    sum = _polymod([*_expanded(), *data, *[0] * 6]) ^ 1
    data += [(sum >> 5 * (5 - place)) & 31 for place in range(6)]
    return (_PREFIX + "1" + "".join(_LETTERS[one] for one in data)).upper()


def raw_of(identity: str) -> bytes:
    """The 32 bytes of an identity. Raises UsageError for anything else."""
    lower = identity.strip().lower()
    body = lower.removeprefix(_PREFIX + "1")
    if body == lower or len(body) != 58 or any(one not in _LETTERS for one in body):
        raise UsageError("an identity is one line that begins with AGE-SECRET-KEY-1")
    data = [_LETTERS.index(one) for one in body]
    if _polymod([*_expanded(), *data]) != 1:
        raise UsageError("the identity has a typing error: its checksum does not fit")
    bits = 0
    for one in data[:-6]:
        bits = (bits << 5) | one
    return (bits >> 4).to_bytes(_BYTES, "big")


def _expanded() -> list[int]:
    return [ord(one) >> 5 for one in _PREFIX] + [0] + [ord(one) & 31 for one in _PREFIX]


def _polymod(values: Sequence[int]) -> int:
    """The checksum of Bech32, as BIP-173 defines it."""
    sum = 1
    for value in values:
        top = sum >> 25
        sum = (sum & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATOR):
            sum ^= generator if (top >> place) & 1 else 0
    return sum
