"""Which of many objects lead to one that must go: found by git over whole histories.

Who calls: upkeep/epoch, for erasure.
"""

from collections.abc import AsyncIterator, Collection
from pathlib import Path

from mirror.core.model import Target
from mirror.git.run import Git, GitFailed, explain

_AT_ONCE = 100  # objects that one run of git looks for


async def leading_to(git: Git, path: Path, tips: Collection[Target], gone: Collection[Target]) -> set[Target]:
    """Those of the tips that lead to one of the objects that are `gone`: commits, trees, blobs or tags.

    Costs a walk over all commits that the tips reach, with their trees compared. What is not in
    the repository is reached by nothing.
    """
    wanted, tainted = set(gone), set(tips) & set(gone)
    peeled = await _peeled(git, path, tips)
    seeds = set(wanted)
    objects = sorted(wanted)
    commits = {one for one, kind in peeled.values() if kind == b"commit"}
    for start in range(0, len(objects), _AT_ONCE):
        options = [f"--find-object={one.decode()}" for one in objects[start : start + _AT_ONCE]]
        async for line in _lines(
            git, path, commits, "log", "--stdin", "--format=%H", "--raw", "-m", "--full-history", *options
        ):
            if not line.startswith(b":") and line:
                seeds.add(Target(line))
    bad: set[bytes] = set()
    async for line in _lines(
        git, path, commits, "rev-list", "--stdin", "--reverse", "--topo-order", "--parents"
    ):
        commit, *parents = line.split()
        if commit in seeds or any(parent in bad for parent in parents):
            bad.add(commit)
    for tip, (one, kind) in peeled.items():
        if one in bad or one in wanted:
            tainted.add(tip)
        elif kind == b"tree":
            async for line in _lines(git, path, [one], "rev-list", "--stdin", "--objects"):
                if line.split(b" ", 1)[0] in wanted:
                    tainted.add(tip)
    return tainted


async def _peeled(git: Git, path: Path, tips: Collection[Target]) -> dict[Target, tuple[Target, bytes]]:
    """What each tip comes to, and its kind; tags are followed. What is missing is left out."""
    found: dict[Target, tuple[Target, bytes]] = {}
    ordered = sorted(tips)
    lines = b"".join(tip + b"^{}\n" for tip in ordered)
    answers = [
        line async for line in _fed(git, path, lines, "cat-file", "--batch-check=%(objectname) %(objecttype)")
    ]
    for tip, answer in zip(ordered, answers, strict=True):
        one, _, kind = answer.partition(b" ")
        if kind in (b"commit", b"tree", b"blob"):
            found[tip] = Target(one), kind
    return found


async def _lines(git: Git, path: Path, tips: Collection[Target], *args: str) -> AsyncIterator[bytes]:
    if tips:
        async for line in _fed(git, path, b"".join(tip + b"\n" for tip in sorted(tips)), *args):
            yield line


async def _fed(git: Git, path: Path, given: bytes, *args: str) -> AsyncIterator[bytes]:
    rest = b""
    try:
        async with git.process(*args, git_dir=str(path)) as child:
            await child.feed(given)
            async for chunk in child.stdout:
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line
    except GitFailed as failed:
        raise explain(failed) from None
    if rest:
        yield rest
