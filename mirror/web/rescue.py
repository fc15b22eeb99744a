"""The choices of a restore: what is brought back, the ways to do so, and what each of them means.

Who calls: the page of a restore (web/pages/repos/restore). Nothing here asks another host: the words are made
of what the database and the reader of commits have told.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from mirror.browse.plan_commits import PlanCommits, RefCommits, authors
from mirror.core import words
from mirror.core.formats.objects import Commit
from mirror.core.model import RefName, Target
from mirror.restore.restore import RefResult, What
from mirror.store.jobs.jobs import Job
from mirror.web.templating import refname

Way = Literal["branch", "back", "missing", "new", "url"]

WAYS: Final[Mapping[str, Sequence[Way]]] = {
    "ref": ("branch", "back", "new", "url"),
    "commit": ("branch", "new", "url"),
    "all": ("new", "missing", "back", "url"),
}  # by the kind of the subject, the one that is chosen at first before the others
HERE: Final[frozenset[Way]] = frozenset({"branch", "back", "missing"})  # into a repository that is backed up
NAMED: Final = 2  # people who are named before "and 3 others"
FIRST: Final = 5  # refs that are named as rewound
SMALL: Final = 10_000_000  # bytes that take seconds anywhere


@dataclass(frozen=True, slots=True)
class Subject:
    """What of a moment is brought back: one ref, one commit, or all refs (or those that match)."""

    kind: Literal["ref", "commit", "all"] = "all"
    source: str = ""  # the ref, in full, or the commit's id; "": none
    globs: tuple[str, ...] = ()  # of kind all: the refs that match; empty: every ref
    name: str = ""  # the branch or tag, in full, that a ref or commit is brought back as
    named: bool = False  # whether that name was given, not proposed
    then: Target | None = None  # where the ref was at the moment
    now: Target | None = None  # where it was when it was last saved; None: it is gone

    @property
    def is_gone(self) -> bool:
        """Whether it is a ref that exists no more, so that bringing it back overwrites nothing."""
        return self.kind == "ref" and self.now is None

    @property
    def shown(self) -> str:
        """Its name as people call it."""
        return refname(self.source.encode()) if self.kind == "ref" else self.source[:10]

    @property
    def becomes(self) -> str:
        """The name that it is brought back as, likewise."""
        return refname(self.name.encode())

    @property
    def field(self) -> str:
        """The name that it is brought back as, as people type it: a branch without `refs/heads/`."""
        return self.name.removeprefix("refs/heads/")

    @property
    def ways(self) -> Sequence[Way]:
        """The ways to bring it back, the one to choose at first before the others."""
        found = WAYS[self.kind]
        if "back" in found and self.is_gone and not self.named:
            return ("back", *(way for way in found if way != "back"))
        return found

    @property
    def query(self) -> dict[str, str]:
        """As the query of an address."""
        if self.kind == "all":
            return {"ref": " ".join(self.globs)} if self.globs else {}
        as_ = {"as": self.name} if self.named else {}
        return {"ref" if self.kind == "ref" else "commit": self.source} | as_

    def asked(self, way: Way) -> dict[str, Any]:
        """As a job is asked for it in one of the ways."""
        if self.kind == "all":
            return What(self.globs).chosen | ({"missing": True} if way == "missing" else {})
        renamed = way == "branch" or self.kind == "commit" or (self.named and way == "url")
        if renamed:
            return What(bring={RefName(self.name.encode()): self.source.encode()}).chosen
        return What((self.source,)).chosen

    def overwrites(self, way: Way) -> bool:
        """Whether a way may overwrite what the target holds."""
        return way == "back" and not self.is_gone


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to bring something back, as a card of the page shows it."""

    way: Way
    title: str
    means: str  # its consequence, in one sentence
    chosen: bool


def choices(subject: Subject, chosen: Way, repo: str, commits: RefCommits | None) -> list[Choice]:
    """The cards of the page."""
    told = _WORDS[subject.kind]
    found = []
    for way in subject.ways:
        title, means = told[way]
        if way == "back" and subject.is_gone:
            title, means = (
                "Put {ref} back under its own name",
                "Creates {ref} again and touches nothing else.",
            )
        elif way == "back" and subject.kind == "ref":
            means = _loses(commits)
        named = {"ref": subject.shown, "name": subject.becomes, "repo": repo}
        found.append(Choice(way, title.format(**named), means.format(**named), way == chosen))
    return found


_NEW: Final = "In a repository made for this. {repo} is not touched."
_URL: Final = "Anywhere git can push, with a token that is used once and forgotten."
_WORDS: Final[Mapping[str, Mapping[Way, tuple[str, str]]]] = {
    "ref": {
        "branch": ("As a branch beside it", "Creates {name} in {repo} and touches nothing else."),
        "back": ("Put {ref} back", ""),
        "new": ("Into a new repository", _NEW),
        "url": ("To a git address", _URL),
    },
    "commit": {
        "branch": ("As a branch", "Creates {name} in {repo} and touches nothing else."),
        "new": ("Into a new repository", _NEW),
        "url": ("To a git address", _URL),
    },
    "all": {
        "new": ("Into a new repository", _NEW),
        "missing": (
            "Only create what is missing",
            "Creates the refs that {repo} no longer has. Every other ref stays as it is.",
        ),
        "back": (
            "Put everything back",
            "Every ref of {repo} gets what it held then. What it holds now is saved first; newer refs stay.",
        ),
        "url": ("To a git address", _URL),
    },
}


def _loses(commits: RefCommits | None) -> str:
    """What putting a ref back means for its commits."""
    if commits is None or commits.loses is None:
        return "{ref} loses what it holds now, which is saved first."
    if not commits.loses:
        return "{ref} loses nothing: it only gets commits back."
    this = "this commit, which is" if commits.loses == 1 else f"these {commits.loses:,} commits, which are"
    back = f", and gets back {words.count(commits.gains, 'commit')}" if commits.gains else ""
    return f"{{ref}} loses {this} saved first{back}."


def people(names: Sequence[str]) -> str:
    """Names as a sentence has them: lena, sam and 3 others."""
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def written(commits: Sequence[Commit], number: int | None) -> str:
    """Who wrote these commits, of which there are `number`, as a sentence has it."""
    found = people(authors(commits))
    return f"{found} and others" if found and number and number > len(commits) else found


@dataclass(frozen=True, slots=True)
class Rewound:
    """A ref that loses commits by a plan."""

    name: str
    loses: int | None  # None: not counted
    by: str  # who wrote them; "": not known


@dataclass(frozen=True, slots=True)
class Rewinds:
    """The refs that lose commits by a plan, and were not what somebody came for."""

    refs: tuple[Rewound, ...] = ()  # the first of them
    more: int = 0
    also: str = ""  # the ref that they came for, where the plan rewinds that as well


def rewinds(refs: Iterable[RefResult], commits: PlanCommits, came_for: RefName | None) -> Rewinds:
    """What a plan takes away, beside the ref that somebody came for."""
    found: list[Rewound] = []
    also = ""
    for ref in refs:
        told = commits.by_name.get(ref.name)
        if ref.result != "updated" or (told and told.loses == 0):
            continue
        if ref.name == came_for:
            also = refname(ref.name)
            continue
        by = written(told.lost, told.loses) if told else ""
        found.append(Rewound(refname(ref.name), told.loses if told else None, by))
    return Rewinds(tuple(found[:FIRST]), max(0, len(found) - FIRST), also)


def label(subject: Subject, way: Way, target: str, writes: int) -> str:
    """What the one button of a plan says."""
    if way == "branch" or (way == "back" and subject.is_gone):
        return f"Create {subject.becomes if way == 'branch' else subject.shown} in {target}"
    if way == "missing":
        return f"Create {words.count(writes, 'ref')} in {target}"
    if way == "back":
        what = subject.shown if subject.kind == "ref" else words.count(writes, "ref") if subject.globs else ""
        return f"Put {what or 'everything'} back in {target}"
    return f"Restore to {target}"


def expected(size: int, earlier: Sequence[Job]) -> str:
    """How long a restore of so many bytes will take, by earlier ones of the same repo. "": not known."""
    if size <= SMALL:
        return "a few seconds"
    took = [
        (one.bytes, (one.finished_at - one.started_at).total_seconds())
        for one in earlier
        if one.finished_at and one.started_at
    ]
    moved, seconds = sum(size for size, _ in took), sum(seconds for _, seconds in took)
    if seconds <= 0 or moved < SMALL:  # too little to tell a rate
        return ""
    return f"about {words.lasted(size / moved * seconds)}, by earlier restores"
