"""The repositories that are measured: given ones, this project's own history, made-up ones of real sizes."""

import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.clock import ENVIRONMENT, Failed, run

WHO = b"Alice Example <alice@example.org>"
BEGIN = 1_750_000_000  # of all made-up histories, so that every run makes the same ids


@dataclass(frozen=True, slots=True)
class Source:
    """A bare repository to be measured with, which nothing here ever changes."""

    name: str
    path: Path

    def git(self, *args: str, stdin: bytes | None = None) -> str:
        return run("git", f"--git-dir={self.path}", *args, stdin=stdin).decode()

    @property
    def branch(self) -> str:
        """The full name of the default branch."""
        return self.git("symbolic-ref", "HEAD").strip()

    def mainline(self) -> list[str]:
        """The default branch as its pushes: first parents, oldest first."""
        return self.git("rev-list", "--first-parent", "--reverse", self.branch).split()

    def bytes(self) -> int:
        """Of its packs."""
        return sum(file.stat().st_size for file in (self.path / "objects/pack").glob("*.pack"))

    def described(self) -> str:
        refs = self.git("for-each-ref", "--format=.").count(".")
        commits = self.git("rev-list", "--all", "--count").strip()
        return f"{self.name}: {int(commits):,} commits, {refs:,} refs, {self.bytes() / 1e6:.1f} MB"


def given(path: Path, into: Path) -> Source:
    """A mirror of a repository on this disk, so that the original stays as it is."""
    name = path.name.removesuffix(".git") or path.parent.name
    if name == "":
        raise Failed(f"{path} has no name to call it by")
    return _mirrored(path, into / f"{name}.git", name)


def own(into: Path) -> Source | None:
    """The history of this very project, where it was cloned with one."""
    top = Path(__file__).resolve().parent.parent
    try:
        git_dir = run("git", "-C", top, "rev-parse", "--absolute-git-dir").decode().strip()
        if run("git", "-C", top, "rev-parse", "--is-shallow-repository").strip() == b"true":
            return None
    except Failed:
        return None
    return _mirrored(Path(git_dir), into / "everref.git", "everref")


def _mirrored(path: Path, to: Path, name: str) -> Source:
    run("git", "clone", "-q", "--mirror", "--local", path.absolute(), to)
    run("git", f"--git-dir={to}", "repack", "-a", "-d", "-q")
    run("git", f"--git-dir={to}", "pack-refs", "--all")
    return Source(name, to)


def generated(into: Path, commits: int, files: int = 400, seed: int = 1) -> Source:
    """A made-up project: text files and some pictures, each commit changing lines of one to four files."""
    source = _empty(into / "generated.git", "generated")
    _import(source, _history(random.Random(seed), commits, files))
    source.git("repack", "-a", "-d", "-f", "-q")  # fast-import finds poor deltas
    tips = source.mainline()
    moves = [
        f"create refs/tags/v{number} {tip}\n" for number, tip in enumerate(tips[:: max(1, commits // 50)])
    ]
    source.git("update-ref", "--stdin", stdin="".join(moves).encode())
    source.git("pack-refs", "--all")
    return source


def many_refs(into: Path, count: int, commits: int = 1000) -> Source:
    """So many branches over a small history."""
    source = _empty(into / f"refs-{count}.git", f"{count:,} refs")
    _import(source, _history(random.Random(2), commits, 50))
    source.git("repack", "-a", "-d", "-f", "-q")  # fast-import finds poor deltas
    tips = source.mainline()
    lines = [f"{tips[number % commits]} refs/heads/feature/{number:06d}" for number in range(count - 1)]
    lines.append(f"{tips[-1]} {source.branch}")
    lines.sort(key=lambda line: line.partition(" ")[2])
    shutil.rmtree(source.path / "refs/heads")
    (source.path / "refs/heads").mkdir()
    text = "# pack-refs with: peeled fully-peeled sorted \n" + "\n".join(lines) + "\n"
    (source.path / "packed-refs").write_text(text)
    return source


def of_size(into: Path, size: int) -> Source:
    """A repository of so many bytes: files of 16 KiB that do not compress, eight to a commit."""
    source = _empty(into / f"size-{size >> 20}.git", f"{size >> 20} MiB")
    chance = random.Random(3)

    def history() -> Iterator[bytes]:
        for number in range(size >> 17):
            yield _commit(b"refs/heads/main", number, first=number == 0)
            for file in range(8):
                yield _file(
                    b"%02x/%02x" % (number >> 5 & 255, (number << 3 | file) & 255), chance.randbytes(1 << 14)
                )
            yield b"\n"

    _import(source, history(), "-c", "core.compression=0", "-c", "pack.compression=0")
    return source


class Chain:
    """A repository on the server whose default branch is played forward, push by push."""

    def __init__(self, source: Source, path: Path, start: str, keep_refs: bool = False) -> None:
        self.source, self.path = source, path
        self.now = start
        run("git", "init", "-q", "--bare", path)
        (path / "objects/info/alternates").write_text(f"{source.path / 'objects'}\n")
        if keep_refs:
            shutil.copy(source.path / "packed-refs", path / "packed-refs")
        self.git("symbolic-ref", "HEAD", source.branch)
        self.push(start)

    def git(self, *args: str, stdin: bytes | None = None) -> str:
        return run("git", f"--git-dir={self.path}", *args, stdin=stdin).decode()

    def push(self, commit: str) -> None:
        """Somebody pushes the default branch up to this commit."""
        self.git("update-ref", self.source.branch, commit)
        self.now = commit

    def invent(self, number: int) -> None:
        """Somebody pushes a commit of their own: one file changed."""
        tree = self.git("ls-tree", "-r", "--name-only", self.now).splitlines()
        path = tree[number % len(tree)]
        body = run("git", f"--git-dir={self.path}", "cat-file", "blob", f"{self.now}:{path}")
        lines = body.splitlines(keepends=True)
        lines.insert(len(lines) // 2, b"an invented line, number %d\n" % number)
        self.git(
            "-c",
            "fastimport.unpackLimit=1",
            "fast-import",
            "--quiet",
            "--date-format=raw",
            stdin=b"".join(
                (
                    _commit(self.source.branch.encode(), number, first=False, parent=self.now.encode()),
                    _file(path.encode(), b"".join(lines)),
                    b"\ndone\n",
                )
            ),
        )
        self.now = self.git("rev-parse", self.source.branch).strip()

    def refs(self) -> int:
        return self.git("for-each-ref", "--format=.").count(".")


def pushes(source: Source, count: int) -> tuple[str, list[str]]:
    """The last pushes of a default branch: where they begin, and each one's tip."""
    line = source.mainline()
    count = min(count, len(line) - 1)
    if count < 1:
        raise Failed(f"{source.name} has no history to replay")
    return line[-count - 1], line[-count:]


def strides(source: Source, commits: int, count: int) -> tuple[str, list[str]] | None:
    """The default branch cut into pushes of about so many commits each; None when it is too short."""
    line = source.mainline()
    cuts = [line[-1]]
    for _ in range(count):
        cut = _before(source, line, cuts[-1], commits)
        if cut is None:
            return None
        cuts.append(cut)
    cuts.reverse()
    return cuts[0], cuts[1:]


def _before(source: Source, line: Sequence[str], tip: str, commits: int) -> str | None:
    """The last one of the line with at least so many commits between it and the tip."""
    low, high = 0, line.index(tip)  # of `low` it is true, of `high` not
    if high == 0 or _between(source, line[0], tip) < commits:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _between(source, line[middle], tip) >= commits:
            low = middle
        else:
            high = middle
    return line[low]


def _between(source: Source, old: str, new: str) -> int:
    return int(source.git("rev-list", "--count", f"{old}..{new}"))


# Made-up histories, as git fast-import reads them: https://git-scm.com/docs/git-fast-import


def _empty(path: Path, name: str) -> Source:
    run("git", "init", "-q", "--bare", "--initial-branch=main", path)
    return Source(name, path)


def _import(source: Source, stream: Iterator[bytes], *config: str) -> None:
    command = ["git", f"--git-dir={source.path}", *config, "fast-import", "--quiet", "--date-format=raw"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(ENVIRONMENT)) as importing:
        assert importing.stdin is not None
        for chunk in stream:
            importing.stdin.write(chunk)
        importing.stdin.write(b"done\n")
    if importing.returncode:
        raise Failed("git fast-import did not take the made-up history")


def _commit(branch: bytes, number: int, *, first: bool, parent: bytes = b"") -> bytes:
    when = b"%d +0000" % (BEGIN + 600 * number)
    message = b"Change number %d\n" % number
    start = b"from %s\n" % parent if parent else b""
    reset = b"reset %s\n" % branch if first else b""
    return b"%scommit %s\nauthor %s %s\ncommitter %s %s\ndata %d\n%s%s" % (
        reset,
        branch,
        WHO,
        when,
        WHO,
        when,
        len(message),
        message,
        start,
    )


def _file(path: bytes, body: bytes) -> bytes:
    return b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(body), body)


def _history(chance: random.Random, commits: int, files: int) -> Iterator[bytes]:
    words = [chance.randbytes(chance.randint(2, 8)).hex().encode() for _ in range(4000)]

    def line() -> bytes:
        indent = b"    " * chance.choice((0, 1, 1, 2, 2, 3))
        return indent + b" ".join(chance.choices(words, k=chance.randint(2, 9))) + b"\n"

    tree = {
        b"src/%s/%s.c" % (words[number % 20], words[number]): [line() for _ in range(chance.randint(40, 400))]
        for number in range(files)
    }
    paths = list(tree)
    for number in range(commits):
        yield _commit(b"refs/heads/main", number, first=number == 0)
        changed = paths if number == 0 else chance.sample(paths, chance.choice((1, 1, 1, 2, 2, 4)))
        for path in changed:
            if number:
                place = chance.randrange(len(tree[path]))
                tree[path][place : place + chance.randint(0, 6)] = [
                    line() for _ in range(chance.randint(1, 30))
                ]
            yield _file(path, b"".join(tree[path]))
        if number % 40 == 0:  # a picture
            yield _file(b"assets/%d.png" % (number % 1000), chance.randbytes(100_000))
        yield b"\n"
