"""Repositories to keep: a `Work` is a remote that a test changes as people do, with reproducible ids.

Objects are written straight into the object store (a few microseconds each),
refs by git itself; git is the judge of both.
"""

import hashlib
import os
import random
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from mirror.core.model import HEAD, HEX_LENGTH, SYMBOLIC, ObjectFormat, RefName, Refs, Target

EPOCH = 1_700_000_000  # the first commit's time; every later one is a minute younger
PERSON = b"Alice Example <alice@example.org>"
MAIN = RefName(b"refs/heads/main")

ODD_NAMES: tuple[RefName, ...] = tuple(
    RefName(name)
    for name in (
        b"refs/heads/-rf",
        b'refs/heads/a"b<script>',
        b"refs/heads/not-utf8-\xff\xfe",
        "refs/heads/r\u00e9sum\u00e9".encode(),  # NFC
        "refs/heads/re\u0301sume\u0301".encode(),  # NFD
        b"refs/heads/Case",
        b"refs/heads/case",
        b"refs/heads/CASE",
        b"refs/heads/" + b"n" * 240,
        b"refs/heads/deep/er/and/deeper",
        b"refs/heads/with'quote",
        b"refs/heads/per%cent+plus&and=is",
        b"refs/heads/semi;colon|pipe$dollar`tick",
        "refs/heads/\U0001f33f".encode(),
        b"refs/heads/@",
        b"refs/tags/--upload-pack=x",
        b"refs/pull/1/head",
        b"refs/merge-requests/2/head",
        b"refs/odd/one",
        b"refs/stash",
    )
)

ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": "/nonexistent",
    "LANG": "C",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "init.defaultBranch",
    "GIT_CONFIG_VALUE_0": "main",
    "GIT_CONFIG_KEY_1": "gc.auto",
    "GIT_CONFIG_VALUE_1": "0",
    "GIT_CONFIG_KEY_2": "safe.directory",
    "GIT_CONFIG_VALUE_2": "*",
    "GIT_AUTHOR_NAME": "Alice Example",
    "GIT_AUTHOR_EMAIL": "alice@example.org",
    "GIT_AUTHOR_DATE": f"{EPOCH} +0000",
    "GIT_COMMITTER_NAME": "Alice Example",
    "GIT_COMMITTER_EMAIL": "alice@example.org",
    "GIT_COMMITTER_DATE": f"{EPOCH} +0000",
}

Entry = tuple[bytes, Target]  # a file's mode and id


def run_git(*args: str | bytes | Path, cwd: Path | None = None, stdin: bytes = b"") -> bytes:
    """Stock git with nobody's configuration; its output. A failure is a failed test with git's words."""
    done = subprocess.run(["git", *args], cwd=cwd, env=ENVIRONMENT, input=stdin, capture_output=True)
    assert done.returncode == 0, f"git {args!r}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def refs_of(path: Path) -> Refs:
    """Every ref of a repository, symbolic ones with their target, and HEAD: the map that Everref keeps."""
    answer = run_git("-C", path, "for-each-ref", "--format=%(objectname)%00%(symref)%00%(refname)")
    refs: dict[RefName, Target] = {}
    for line in answer.splitlines():
        oid, symref, name = line.split(b"\0")
        refs[RefName(name)] = Target(SYMBOLIC + symref if symref else oid)
    git_dir = path / ".git" if (path / ".git").exists() else path
    refs[HEAD] = Target((git_dir / "HEAD").read_bytes().strip())
    return refs


def objects_of(path: Path, *, everything: bool = False) -> frozenset[Target]:
    """The ids of the objects that the refs reach; with `everything`, of all that are there."""
    if everything:
        answer = run_git("-C", path, "cat-file", "--batch-check=%(objectname)", "--batch-all-objects")
        return frozenset(map(Target, answer.split()))
    answer = run_git("-C", path, "rev-list", "--objects", "--all", "--no-object-names")
    return frozenset(map(Target, answer.split()))


def fsck(path: Path) -> None:
    """Git finds nothing wrong in the whole repository."""
    run_git("-C", path, "fsck", "--full", "--strict", "--no-dangling", "--no-progress")


class Work:
    """A repository that plays the remote. The same calls make the same ids on every run."""

    def __init__(self, path: Path, object_format: ObjectFormat = "sha1", *, bare: bool = True) -> None:
        self.path = path
        self.object_format = object_format
        self.git_dir = path if bare else path / ".git"
        self.author = PERSON  # of commits and tags that are made from here on
        self.epoch = EPOCH
        self._clock = 0
        self._files: dict[Target, dict[bytes, Entry]] = {}  # of each commit made here
        self._tips: dict[RefName, Target] = {}
        kind = ("--bare",) if bare else ()
        run_git("init", "-q", *kind, f"--object-format={object_format}", path)

    def git(self, *args: str | bytes | Path, stdin: bytes = b"") -> bytes:
        """Stock git in this repository."""
        return run_git("-C", self.path, *args, stdin=stdin)

    # Objects

    def write(self, kind: bytes, body: bytes) -> Target:
        """A loose object as it is, however malformed; its id."""
        data = b"%s %d\0%s" % (kind, len(body), body)
        oid = hashlib.new(self.object_format, data, usedforsecurity=False).hexdigest()
        file = self.git_dir / "objects" / oid[:2] / oid[2:]
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(zlib.compress(data, 1))
        return Target(oid.encode())

    def blob(self, data: bytes) -> Target:
        return self.write(b"blob", data)

    def tree(self, files: Mapping[bytes, Entry]) -> Target:
        """A tree, with its subtrees, of paths with "/" in them."""
        here: dict[bytes, Entry] = {}
        below: dict[bytes, dict[bytes, Entry]] = {}
        for path, entry in files.items():
            first, slash, rest = path.partition(b"/")
            if slash:
                below.setdefault(first, {})[rest] = entry
            else:
                here[first] = entry
        here |= {name: (b"40000", self.tree(inner)) for name, inner in below.items()}
        order = sorted(here, key=lambda name: name + b"/" if here[name][0] == b"40000" else name)
        return self.write(b"tree", b"".join(b"%s %s\0%s" % (here[n][0], n, _raw(here[n][1])) for n in order))

    def commit(
        self,
        branch: str | bytes | None = "main",
        files: Mapping[str, bytes | None] | None = None,
        *,
        message: str | None = None,
        parents: Sequence[Target] | None = None,
        entries: Mapping[bytes, Entry] | None = None,
    ) -> Target:
        """A commit on top of the branch (or on `parents`), which then points at it.

        `files` change the first parent's: None removes one. Without them one new file is added.
        `branch` is a short or a full name; None makes the commit and moves no ref.
        """
        name = None if branch is None else full(branch)
        if parents is None:
            parents = [self._tips[name]] if name in self._tips else []
        self._clock += 1
        content = dict(self._files.get(parents[0], {})) if parents else {}
        if files is None and entries is None:
            files = {f"file-{self._clock}": b"what was written at %d\n" % self._clock}
        for path, data in (files or {}).items():
            if data is None:
                content.pop(path.encode(), None)
            else:
                content[path.encode()] = (b"100644", self.blob(data))
        content |= entries or {}
        oid = self.commit_object(self.tree(content), parents, message or f"Commit {self._clock}")
        self._files[oid] = content
        if name is not None:
            self.set(name, oid)
        return oid

    def commit_object(self, tree: Target, parents: Sequence[Target], message: str) -> Target:
        lines = [b"tree " + tree, *(b"parent " + parent for parent in parents)]
        lines += [b"%s %s" % (role, self._signature()) for role in (b"author", b"committer")]
        return self.write(b"commit", b"\n".join(lines) + b"\n\n" + message.encode() + b"\n")

    def tag_object(
        self, name: str, target: Target, kind: str = "commit", message: str = "signed off"
    ) -> Target:
        self._clock += 1
        words = (target, kind.encode(), name.encode(), self._signature(), message.encode())
        return self.write(b"tag", b"object %s\ntype %s\ntag %s\ntagger %s\n\n%s\n" % words)

    def _signature(self) -> bytes:
        return b"%s %d +0000" % (self.author, self.epoch + 60 * self._clock)

    # Refs

    def update(self, changes: Mapping[RefName, Target | None]) -> None:
        """Move many refs, old and new ones; None deletes. Deletions come first, so `a` can become `a/b`."""
        gone = [name for name, target in changes.items() if target is None]
        if gone:
            self.git(
                "update-ref",
                "--no-deref",
                "--stdin",
                "-z",
                stdin=b"".join(b"delete %s\0\0" % n for n in gone),
            )
        moved = {name: target for name, target in changes.items() if target is not None}
        if moved:
            lines = b"".join(b"update %s\0%s\0\0" % move for move in moved.items())
            self.git("update-ref", "--no-deref", "--stdin", "-z", stdin=lines)
        for name in gone:
            self._tips.pop(name, None)
        self._tips |= moved

    def set(self, name: str | bytes, target: Target) -> None:
        """Point a ref anywhere: a force-push."""
        self.update({full(name): target})

    def delete(self, *names: str | bytes) -> None:
        self.update({full(name): None for name in names})

    def tip(self, name: str | bytes = "main") -> Target:
        return self._tips[full(name)]

    def tag(self, name: str, target: Target | None = None, *, message: str | None = None) -> Target:
        """A lightweight tag, or with a message an annotated one; what the ref then holds."""
        target = target or self.tip()
        if message is not None:
            kind = self.git("cat-file", "-t", target.decode()).decode().strip()
            target = self.tag_object(name, target, kind, message)
        self.set(f"refs/tags/{name}", target)
        return target

    def note(self, text: str, target: Target | None = None) -> Target:
        """A note on a commit, under refs/notes/commits."""
        return self.commit("refs/notes/commits", {(target or self.tip()).decode(): text.encode()})

    def merge(self, branch: str | bytes, *others: Target) -> Target:
        """A merge of the branch with others: an octopus when there are more than one."""
        content = {path: entry for other in others for path, entry in self._files.get(other, {}).items()}
        return self.commit(branch, entries=content, parents=[self.tip(branch), *others])

    def submodule(self, branch: str | bytes, path: str, commit: Target) -> Target:
        """A link to a commit that is not here."""
        return self.commit(branch, entries={path.encode(): (b"160000", commit)})

    def head(self, target: str | bytes) -> None:
        """HEAD on a branch (also one that is not there), or detached at an id."""
        text = target.encode() if isinstance(target, str) else target
        if len(text) != HEX_LENGTH[self.object_format]:
            text = SYMBOLIC + full(text.removeprefix(SYMBOLIC))
        (self.git_dir / "HEAD").write_bytes(text + b"\n")

    def symbolic(self, name: str, target: str) -> None:
        """A symbolic ref besides HEAD."""
        self.git("symbolic-ref", full(name), full(target))

    def refs(self) -> Refs:
        return refs_of(self.path)

    # Whole repositories

    def zoo(self) -> None:
        """One of everything: every kind of ref, object and name that a remote may hold."""
        first = self.commit("main", {"README": b"hello\n", "src/a.c": b"int a;\n", "src/b.c": b"int b;\n"})
        self.commit("main", {"src/a.c": b"int a = 1;\n"})
        side = self.commit("side", {"side": b"1\n"}, parents=[first])
        other = self.commit("other", {"other": b"1\n"}, parents=[first])
        self.merge("main", side, other)
        self.submodule("main", "vendored", Target(b"1" * HEX_LENGTH[self.object_format]))
        self.commit("orphan", {"alone": b"1\n"}, parents=[])
        self.tag("light")
        annotated = self.tag("v1", message="signed off")
        self.tag("tag-of-tag", annotated, message="seen")
        self.tag("a-tree", self.tree({b"x": (b"100644", self.blob(b"x\n"))}))
        self.tag("a-blob", self.blob(b"just a blob\n"))
        self.tag("annotated-blob", self.blob(b"a blob with a tag\n"), message="why not")
        self.note("looks good")
        self.symbolic("refs/remotes/origin/HEAD", "refs/heads/main")
        self.odd_names()

    def odd_names(self) -> None:
        """A commit of its own under each name that tools trip over."""
        base = self._tips.get(MAIN)
        parents = [base] if base else []
        self.update({name: self.commit(None, parents=parents) for name in ODD_NAMES})

    def many_refs(self, count: int, prefix: str = "refs/heads/many/", targets: Sequence[Target] = ()) -> None:
        """So many refs in a second, over `targets` in turn, or else at the tip of main."""
        targets = targets or [self.tip()]
        self.git("pack-refs", "--all")
        packed = self.git_dir / "packed-refs"
        text = packed.read_bytes() if packed.exists() else b""
        lines = [line for line in text.splitlines() if line[:1] not in (b"#", b"^")]
        start = prefix.encode()
        lines += [b"%s %s%06d" % (targets[n % len(targets)], start, n) for n in range(count)]
        lines.sort(key=lambda line: line.partition(b" ")[2])
        packed.write_bytes(b"# pack-refs with: sorted \n" + b"\n".join(lines) + b"\n")

    def many_commits(self, count: int, branch: str = "main", *, size: int = 200, seed: int = 1) -> Target:
        """A history of so many commits, each with `size` new bytes that do not compress, in one pack."""
        self.git(
            "fast-import",
            "--quiet",
            "--force",
            stdin=b"".join(self._history(count, full(branch), size, seed)),
        )
        tip = Target(self.git("rev-parse", "--verify", full(branch)).strip())
        self._tips[full(branch)] = tip
        return tip

    def _history(self, count: int, name: RefName, size: int, seed: int) -> Iterator[bytes]:
        chance = random.Random(seed)
        yield b"feature done\n"
        for number in range(count):
            self._clock += 1
            data = chance.randbytes(size)
            path = b"%02x/%02x" % (number % 97 % 16, chance.randrange(256))
            yield b"commit %s\ncommitter %s\ndata 6\nbulk\n\n" % (name, self._signature())
            if number == 0 and name in self._tips:
                yield b"from %s\n" % self._tips[name]
            yield b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(data), data)
        yield b"done\n"

    def repack(self) -> None:
        """Everything in one pack, refs packed."""
        self.git("pack-refs", "--all")
        self.git("repack", "-a", "-d", "-q")


def full(name: str | bytes) -> RefName:
    """A branch's full name of its short one."""
    text = os.fsencode(name)
    return RefName(text if text == b"HEAD" or text.startswith(b"refs/") else b"refs/heads/" + text)


def _raw(oid: Target) -> bytes:
    return bytes.fromhex(oid.decode())


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """An empty bare repository that plays the remote."""
    return Work(tmp_path / "remote.git")


@pytest.fixture
def make_work(tmp_path: Path) -> Callable[..., Work]:
    """Makes any number of them: `make_work("name", object_format="sha256", bare=False)`."""

    def make(name: str = "other", object_format: ObjectFormat = "sha1", *, bare: bool = True) -> Work:
        return Work(tmp_path / name, object_format, bare=bare)

    return make
