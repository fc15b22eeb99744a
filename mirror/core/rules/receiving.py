"""Which refs a repo has after a push: what each command does to them, and why one is refused.

Who calls: backup/pushing, under the repo's lease. Forced moves and deletions are as welcome as all others:
what they leave behind is in earlier snapshots.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mirror.core import refs as names
from mirror.core.errors import Corrupt, UsageError
from mirror.core.formats.receive_pack import Command
from mirror.core.model import HEAD, SYMBOLIC, RefName, Refs, Target

MOVED: Final = "it has moved since you asked; fetch first, or push again"
TOGETHER: Final = "another ref of this atomic push was refused"
WHOLE: Final = "a first push is saved as a whole, and another ref of it was refused: leave that one out"
BESIDE: Final = "its name cannot be beside that of another ref, as a file and a folder cannot"
TWICE: Final = "it is named twice in one push"
_HEADS: Final = b"refs/heads/"
_DEFAULTS: Final = (RefName(b"refs/heads/main"), RefName(b"refs/heads/master"))  # the likely HEAD, in order


@dataclass(frozen=True, slots=True)
class Received:
    """What a push makes of the refs."""

    refs: Refs
    refused: Mapping[RefName, str]  # the commands that are not followed, and why


def received(
    old: Refs,
    commands: Sequence[Command],
    *,
    atomic: bool = False,
    first: bool = False,
    head: RefName | None = None,
) -> Received:
    """The refs after these commands; `head`: the branch that HEAD is to lead to, existing or not.

    A command is followed if its ref is where the client takes it to be, or already where it is to be.
    `atomic`: all are followed, or none is. So it is with the `first` push that brings an object: its pack is
    kept as it came, so what only a refused ref reaches would be saved, and travel in bundles for clones.
    """
    refused: dict[RefName, str] = {}
    after = dict(old)
    times = Counter(command.name for command in commands)
    followed: list[Command] = []
    for command in commands:
        why = TWICE if times[command.name] > 1 else _refusal(old, command)
        if why is None:
            followed.append(command)
        else:
            refused[command.name] = why
    for command in followed:  # deletions first: they make room for names like theirs
        if command.new is None:
            after.pop(command.name, None)
    folders = {folder for name in after for folder in _folders(name)}
    for command in followed:
        if command.new is None:
            continue
        if command.name not in after:
            mine = _folders(command.name)
            if command.name in folders or any(folder in after for folder in mine):
                refused[command.name] = BESIDE
                continue
            folders.update(mine)
        after[command.name] = command.new
    if refused and (atomic or first or len(refused) == len(times)):
        why = TOGETHER if atomic else WHOLE
        refused = {command.name: refused.get(command.name, why) for command in commands}
        return Received(old, refused)
    if after != old or head is not None:
        after[HEAD] = _head(old, after, head)
    return Received(after, refused)


def _folders(name: RefName) -> list[RefName]:
    """Names that no ref can have beside this one: git keeps `a` and `a/b` in one place."""
    parts = name.split(b"/")
    return [RefName(b"/".join(parts[:end])) for end in range(2, len(parts))]


def _refusal(old: Refs, command: Command) -> str | None:
    """Why this command is not followed, as far as it can be said without the others. None: it is."""
    if command.name == HEAD:
        return "HEAD is set by the push option everref.head=BRANCH"
    try:
        names.check_name(command.name)
    except Corrupt:
        return "this is no name that git accepts"
    if names.is_symbolic(old.get(command.name, Target(b""))):
        return "it is a symbolic ref"
    now = old.get(command.name)
    return MOVED if now not in (command.old, command.new) else None


def _head(old: Refs, after: Refs, wanted: RefName | None) -> Target:
    """Where HEAD leads after a push: where it led, unless no branch was ever there."""
    if wanted is not None:
        return Target(SYMBOLIC + wanted)
    held = old.get(HEAD)
    if held is not None:
        led = names.symbolic_target(held) if names.is_symbolic(held) else None
        if led is None or led in after or led in old:
            return held
    branches = sorted(name for name in after if name.startswith(_HEADS))
    chosen = next((name for name in _DEFAULTS if name in after), branches[0] if branches else _DEFAULTS[0])
    return Target(SYMBOLIC + chosen)


def astray(after: Refs, commands: Sequence[Command]) -> bytes | None:
    """The branch, as people call it, that HEAD leads to and these commands deleted. None: it is there."""
    head = after.get(HEAD)
    led = names.symbolic_target(head) if head and names.is_symbolic(head) else None
    if led is None or led in after or not any(one.name == led and one.new is None for one in commands):
        return None
    return led.removeprefix(_HEADS)


def branch(text: str) -> RefName:
    """The branch that is meant by `main` or `refs/heads/main`. Raises UsageError."""
    name = text.encode("utf-8", "surrogateescape")
    name = name if name.startswith(b"refs/") else _HEADS + name
    try:
        names.check_name(name)
    except Corrupt:
        name = b""
    if not name.startswith(_HEADS):
        raise UsageError("HEAD leads to a branch: name it like main or refs/heads/main", field="head")
    return RefName(name)


def moved_branches(old: Refs, after: Refs) -> Collection[Target]:
    """Where branches lead that did not lead there before: each must be a commit."""
    return {
        target
        for name, target in after.items()
        if name.startswith(_HEADS) and old.get(name) != target and not names.is_symbolic(target)
    }
