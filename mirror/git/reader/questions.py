"""The questions and answers of a reader process: everything that passes to and from it.

A question names a view or carries a text. Each is a type of its own that says
what its answer is; answers are checked against that type before they are used.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

from msgspec import Struct

from mirror.core.formats.objects import Changes, Commit, Entry, LfsPointer
from mirror.core.model import RefName, Target
from mirror.core.refs import Move

A = TypeVar("A")
Ends = tuple[Target | None, Target | None]  # old, new

FILES: Final = 300  # of a comparison, whose lines are compared
LINES: Final = 10_000  # shown of one comparison
SECONDS: Final = 5.0  # for one comparison, which ends early then
QUESTION_SECONDS: Final = 10.0  # for any other question
WALK_SECONDS: Final = 20.0  # for one that walks through history


class Question(Struct, Generic[A], frozen=True, tag=True):
    """Something to find out; `A` is what the answer is."""

    answer: ClassVar[Any]
    seconds: ClassVar[float] = QUESTION_SECONDS  # after which nobody waits for it


@dataclass(frozen=True, slots=True)
class FoundRefs:
    """What is at a path; a folder with what is in it."""

    entry: Entry
    entries: tuple[Entry, ...] = ()  # folders first, with sizes
    total: int = 0  # also those beyond the limit


@dataclass(frozen=True, slots=True)
class Content:
    """What is at a path; a file with how it begins."""

    entry: Entry
    size: int | None  # None: it is a folder or a submodule, or not held
    data: bytes = b""
    text: str | None = None  # of `data`; None: it is binary
    encoding: str | None = None
    lfs: LfsPointer | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """An object as it is."""

    kind: str  # blob, tree, commit, tag
    size: int
    data: bytes  # all of it where that is little, else nothing


@dataclass(frozen=True, slots=True)
class Between:
    """What is between two ends of a ref's move."""

    old: Commit | None  # None: there is none, or it is not held
    new: Commit | None
    lost: int | None  # commits that only the old one reaches; None: not counted
    gained: int | None
    lost_commits: tuple[Commit, ...] = ()  # the newest of them, where they were asked for
    gained_commits: tuple[Commit, ...] = ()
    base: Commit | None = None  # the newest that both reach, likewise; None: there is none


@dataclass(frozen=True, slots=True)
class LostThere:
    """A move's old commit, where something of it is on no ref."""

    tip: Target
    count: int  # commits that no ref holds and this one reaches
    commits: tuple[Commit, ...]  # the newest of them


@dataclass(frozen=True, slots=True)
class Losses:
    """The commits that some ids reach and the refs of a moment do not."""

    lost: frozenset[Target]  # of the ids asked for, those of which something is lost
    told: dict[Target, LostThere]  # of the first of them
    commits: int  # in all, each once
    whole: bool  # False: there are more than were walked through


@dataclass(frozen=True, slots=True)
class RepositoryView:
    """Where files of a moment are shown: the path goes between these."""

    before: str
    after: str


class CommitsOf(Question[dict[Target, Commit]], frozen=True):
    """The commits that these are or come to; what has none, or too large a one, is left out."""

    view: str
    oids: tuple[Target, ...]
    answer: ClassVar[Any] = dict[Target, Commit]


class Log(Question[tuple[Commit, ...] | None], frozen=True):
    """The commits from here backwards, those that changed `path` only where one is given. None: no commit."""

    view: str
    start: Target
    path: bytes
    skip: int
    limit: int
    answer: ClassVar[Any] = tuple[Commit, ...] | None
    seconds: ClassVar[float] = WALK_SECONDS


class CommitAndChanges(Question[tuple[Commit, Changes] | None], frozen=True):
    """A commit and what it changed against its first parent. None: no commit."""

    view: str
    oid: Target
    answer: ClassVar[Any] = tuple[Commit, Changes] | None
    seconds: ClassVar[float] = SECONDS + QUESTION_SECONDS


class ChangesBetween(Question[Changes], frozen=True):
    """What differs between the files of two commits, tags or trees (None: nothing), at or below `path`."""

    view: str
    old: Target | None
    new: Target | None
    path: bytes = b""
    files: int = FILES
    lines: int = LINES
    patience: float = SECONDS
    answer: ClassVar[Any] = Changes
    seconds: ClassVar[float] = SECONDS + QUESTION_SECONDS


class FolderAt(Question[FoundRefs | None], frozen=True):
    """What is at a path of a commit, tag or tree. None: nothing."""

    view: str
    oid: Target
    path: bytes
    limit: int
    answer: ClassVar[Any] = FoundRefs | None


class FileAt(Question[Content | None], frozen=True):
    """The file at a path of a commit, tag or tree, as far as a limit. None: nothing is there."""

    view: str
    oid: Target
    path: bytes
    limit: int
    is_text: bool = True  # False: only its bytes are wanted, all or none
    answer: ClassVar[Any] = Content | None


class ObjectAsItIs(Question[Whole | None], frozen=True):
    """An object. None: it is not held."""

    view: str
    oid: Target
    limit: int
    answer: ClassVar[Any] = Whole | None


class Ancestry(Question[tuple[frozenset[RefName], frozenset[RefName]]], frozen=True):
    """Of these moves, the refs that went forward, and those that hold commits at both ends."""

    view: str
    moves: tuple[Move, ...]
    answer: ClassVar[Any] = tuple[frozenset[RefName], frozenset[RefName]]
    seconds: ClassVar[float] = WALK_SECONDS


class WhatLies(Question[tuple[Between, ...]], frozen=True):
    """What lies between the ends of each of these moves."""

    view: str
    moves: tuple[Ends, ...]
    patience: float = SECONDS  # after which no more is counted
    shown: int = 0  # commits to tell of each end; 0: they are only counted
    base: bool = False  # whether to tell the newest commit that both ends reach
    held: tuple[Target, ...] = ()  # a new ref gains what none of these reaches; empty: not counted
    answer: ClassVar[Any] = tuple[Between, ...]
    seconds: ClassVar[float] = WALK_SECONDS


class WhatIsLost(Question[Losses], frozen=True):
    """Of these ids, newest move first, what is lost: on none of the refs that are held."""

    view: str
    olds: tuple[Target, ...]  # whatever they are
    held: tuple[Target, ...]
    told: tuple[Target, ...]  # of `olds`, those to tell more of
    limit: int
    shown: int
    answer: ClassVar[Any] = Losses
    seconds: ClassVar[float] = WALK_SECONDS


class Source(Question[list[str]], frozen=True):
    """A file's lines as HTML."""

    text: str
    path: bytes
    answer: ClassVar[Any] = list[str]


class Readme(Question[str], frozen=True):
    """A README as safe HTML."""

    text: str
    path: bytes
    files: RepositoryView
    pictures: RepositoryView
    answer: ClassVar[Any] = str


Asked = (
    CommitsOf
    | Log
    | CommitAndChanges
    | ChangesBetween
    | FolderAt
    | FileAt
    | ObjectAsItIs
    | Ancestry
    | WhatLies
    | WhatIsLost
    | Source
    | Readme
)


class Trouble(Struct, frozen=True, tag=True):
    """Why there is no answer."""

    kind: str  # too-large, limit, corrupt, ours
    message: str
    oid: bytes = b""
    size: int = 0
