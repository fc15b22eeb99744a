"""Ref maps, between the remote's answer and the manifest: how they differ, and which names are valid."""

import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

from mirror.core import globs as patterns
from mirror.core.errors import Corrupt
from mirror.core.model import HEAD, SYMBOLIC, Kind, RefChange, RefName, Refs, Target

Move = tuple[RefName, Target | None, Target | None]  # name, old (None: created), new (None: deleted)


FEW: Final = 4  # refs; with fewer, half of them go every day
_LINES: Final = 4096  # of a map that are in memory at once while its digest is taken
SYMBOLIC_DEPTH: Final = 5  # how many symbolic refs in a row git follows (refs.c, SYMREF_MAXDEPTH)
HIDDEN: Final = tuple(
    b"refs/" + folder + b"/"
    for folder in (
        b"pull",
        b"merge-requests",
        b"keep-around",
        b"pipelines",
        b"environments",
        b"remotes",
        b"tmp",
    )
)
ARCHIVE: Final = b"refs/archive/"
_SHORT: Final = (b"", b"refs/", b"refs/heads/", b"refs/tags/")  # what a glob may leave out

# What git-check-ref-format(1) forbids anywhere in a name.
_FORBIDDEN: Final = re.compile(
    rb"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/|\.lock\Z|\.\Z|/\Z",
)

# The same, for many names joined by newlines.
_NOWHERE: Final = bytes({*range(0x21), *b"\x7f~^:?*[\\"} - {0x0A})
_NOT_TOGETHER: Final = (b"..", b"@{", b"//", b"/.", b".lock/", b".lock\n", b".\n", b"/\n")


def digest(refs: Refs) -> str:
    """SHA-256, hex, of the lines b"target name\\n" in the order of names: equal for equal maps only."""
    found, names = sha256(), sorted(refs)
    for start in range(0, len(names), _LINES):
        found.update(b"".join([b"%b %b\n" % (refs[name], name) for name in names[start : start + _LINES]]))
    return found.hexdigest()


def diff(old: Refs, new: Refs) -> list[Move]:
    """What differs between two looks at a repository, in the order of names."""
    names = {name for name, _ in old.items() ^ new.items()}
    return [(name, old.get(name), new.get(name)) for name in sorted(names)]


def classify(
    moves: Iterable[Move], forwarded: frozenset[RefName], commits: frozenset[RefName]
) -> list[RefChange]:
    """Give every move its kind.

    `commits` are the refs that hold commits at both ends; `forwarded` are those
    of them whose old commit is an ancestor of the new one.
    """
    return [RefChange(name, old, new, _kind(name, old, new, forwarded, commits)) for name, old, new in moves]


def _kind(
    name: RefName,
    old: Target | None,
    new: Target | None,
    forwarded: frozenset[RefName],
    commits: frozenset[RefName],
) -> Kind:
    if old is None:
        return Kind.CREATED
    if new is None:
        return Kind.DELETED
    if name == HEAD or name.startswith(b"refs/tags/") or is_symbolic(old) or is_symbolic(new):
        return Kind.MOVED
    if name not in commits:
        return Kind.MOVED
    return Kind.FAST_FORWARDED if name in forwarded else Kind.FORCED


def all_moved(old: Refs, new: Refs) -> bool:
    """Whether there were branches, and none is where it was."""
    branches = [name for name in old if name.startswith(b"refs/heads/")]
    return bool(branches) and all(new.get(name) != old[name] for name in branches)


def all_overwritten(old: Refs, changes: Sequence[RefChange]) -> bool:
    """Whether no branch was left: each was overwritten by force or deleted."""
    branches = {name for name in old if name.startswith(b"refs/heads/")}
    left = {change.name for change in changes if change.kind in (Kind.FORCED, Kind.DELETED)}
    return bool(branches) and branches <= left


async def without(refs: Refs, globs: Sequence[str]) -> Refs:
    """The map but for every ref that a glob means; HEAD stays."""
    if not globs:
        return refs
    meant = await meant_by(refs, globs, None)
    return {name: target for name, target in refs.items() if name == HEAD or name not in meant}


def apply(refs: Refs, changes: Iterable[RefChange]) -> dict[RefName, Target]:
    """The map after these changes. Raises Corrupt where a change does not begin at what the map holds."""
    after = dict(refs)
    for change in changes:
        if after.get(change.name) != change.old:
            raise Corrupt(f"the history of {shown_text(change.name)} is broken: a change does not follow on")
        if change.new is None:
            after.pop(change.name, None)
        else:
            after[change.name] = change.new
    return after


def check_name(name: bytes) -> None:
    """Raise Corrupt unless this is HEAD or a name under refs/ that git-check-ref-format(1) accepts."""
    if name != HEAD and not is_valid(name):
        raise Corrupt(f"{shown_text(name)!r} is not a valid ref name")


def is_valid(name: bytes) -> bool:
    """Whether this is a name under refs/ that git-check-ref-format(1) accepts."""
    return name.startswith(b"refs/") and not _FORBIDDEN.search(name)


def check_names(names: Sequence[bytes]) -> None:
    """`check_name` for every name, ten times as fast when all are valid."""
    lines = b"\n" + b"\n".join(names) + b"\n"
    sound = (
        lines.count(b"\n") == len(names) + 1
        and lines.count(b"\nrefs/") + lines.count(b"\nHEAD\n") == len(names)
        and len(lines.translate(None, _NOWHERE)) == len(lines)
        and not any(piece in lines for piece in _NOT_TOGETHER)
    )
    if not sound:
        for name in names:
            check_name(name)


def is_hidden(name: bytes) -> bool:
    """Whether hosts refuse a push of this ref: their own refs, and single-level names such as refs/stash."""
    return name.startswith(HIDDEN) or (name.startswith(b"refs/") and name.count(b"/") == 1)


def archived(name: bytes) -> RefName:
    """The name under refs/archive/ that carries a hidden ref to a host that refuses it by its own name."""
    return RefName(ARCHIVE + name.removeprefix(b"refs/"))


def matches(name: bytes, globs: Sequence[str]) -> bool:
    """Whether a glob means this ref: by its whole name, or without refs/, refs/heads/ or refs/tags/.

    `*` also matches `/`. Case counts.
    """
    return any(test(name) for test in _tests(tuple(globs)))


async def meant_by(
    names: Collection[RefName], globs: Sequence[str], work: float | None = patterns.WORK
) -> set[RefName]:
    """Which of many names a glob means, as `matches` has it; others are served meanwhile.

    Raises UsageError where the globs are too many, or take more seconds of work than this (None: any).
    """
    if work is not None:
        patterns.check(globs)
    return {RefName(name) for name in await patterns.meant(names, _made(globs), work)}


def _made(globs: Sequence[str]) -> Iterator[patterns.Test[bytes]]:
    plain = frozenset(patterns.encoded(glob) for glob in globs if patterns.is_plain(glob))
    if plain:
        yield lambda name: any(name.removeprefix(start) in plain for start in _SHORT)
    for glob in dict.fromkeys(globs):
        if not patterns.is_plain(glob):  # a star at the beginning means what could be left out as well
            before = b"" if glob.startswith("*") else b"(?:refs/(?:heads/|tags/)?)?"
            yield patterns.pattern_of_bytes(before, patterns.encoded(glob)).match


@lru_cache(16)
def _tests(globs: tuple[str, ...]) -> tuple[patterns.Test[bytes], ...]:
    return tuple(_made(globs))


async def frozen(seen: Refs, old: Refs, globs: Sequence[str]) -> dict[RefName, Target]:
    """The new map, but with every ref that a glob matches as it was before, or without it.

    HEAD is always as seen. An old one goes where a ref that was seen cannot stand beside it.
    """
    meant = await meant_by(seen.keys() | old.keys(), globs, None) - {HEAD}
    live = {name: target for name, target in seen.items() if name not in meant}
    parents: set[bytes] = set()
    pace = patterns.Pace(None)
    for name in live:
        parents.update(_folders(name))
        if pace.is_over:
            await pace.rest()
    for name in meant & old.keys():
        if name not in parents and not any(folder in live for folder in _folders(name)):
            live[name] = old[name]
        if pace.is_over:
            await pace.rest()
    return live


def _folders(name: bytes) -> Iterator[bytes]:
    """The names that this one stands below."""
    end = name.find(b"/")
    while end >= 0:
        yield name[:end]
        end = name.find(b"/", end + 1)


def is_symbolic(target: bytes) -> bool:
    """Whether a target names another ref instead of an object."""
    return target.startswith(SYMBOLIC)


def symbolic_target(target: bytes) -> RefName:
    """The ref that a symbolic target names."""
    return RefName(target.removeprefix(SYMBOLIC))


def resolve(refs: Refs, name: RefName) -> Target | None:
    """The object id that a ref comes to, through symbolic refs. None: there is none, or no end to it."""
    for _ in range(SYMBOLIC_DEPTH + 1):
        target = refs.get(name)
        if target is None or not is_symbolic(target):
            return target
        name = symbolic_target(target)
    return None


def shown_as(key: str, value: bytes) -> dict[str, str]:
    """Bytes of git for JSON: text under `key` and, where they are no UTF-8, their base64 under `key_b64`."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {key: value.decode(errors="replace"), f"{key}_b64": b64encode(value).decode()}


def shown(name: bytes) -> dict[str, str]:
    """A ref name for JSON: {"name"}, and "name_b64" where the bytes are no UTF-8."""
    return shown_as("name", name)


def from_shown(fields: Mapping[str, object], key: str = "name") -> bytes:
    """The bytes that `shown_as` was given. Raises Corrupt when they cannot be read back."""
    coded, text = fields.get(f"{key}_b64"), fields.get(key)
    try:
        if isinstance(coded, str):
            return b64decode(coded, validate=True)
        if isinstance(text, str):
            return text.encode()
    except ValueError:
        raise Corrupt(f"{key!r} is neither text nor base64") from None
    raise Corrupt(f"{key!r} is missing or not text")


def shown_text(name: bytes) -> str:
    """A ref name for people: what is no UTF-8 and what a terminal would act on is U+FFFD."""
    text = name.decode(errors="replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
