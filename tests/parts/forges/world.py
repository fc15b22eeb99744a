"""What both forges are made of, in memory: people, owners, repositories with real git, hooks, tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.core.model import HEAD, RefName, Refs, Target
from tests.parts.repos import Work, full

if TYPE_CHECKING:
    from tests.parts.forges.host import Host

Json = dict[str, Any]

# Who may do what, by GitLab's numbers: https://docs.gitlab.com/api/access_requests/
GUEST, READ, WRITE, MAINTAIN, ADMIN = 10, 20, 30, 40, 50

NOTHING = "0" * 40


@dataclass(eq=False)
class Person:
    """Somebody with an account."""

    id: int
    login: str
    name: str
    email: str
    deleted: bool = False


@dataclass(eq=False)
class Owner:
    """Where repositories are: a person's own place, an organisation or a group."""

    id: int
    login: str  # GitLab's may be nested: "acme/tools"
    person: Person | None  # None: an organisation or a group
    access: dict[int, int] = field(default_factory=dict)  # of everything in it, by person's id


@dataclass(frozen=True, slots=True)
class Move:
    """What a push did to one ref."""

    name: RefName
    before: Target | None  # None: it was created
    after: Target | None  # None: it was deleted

    @property
    def old(self) -> str:
        return self.before.decode() if self.before else NOTHING

    @property
    def new(self) -> str:
        return self.after.decode() if self.after else NOTHING


@dataclass(eq=False)
class Token:
    """What a program shows to be let in."""

    value: str
    person: Person
    scopes: tuple[str, ...]
    kind: str  # "oauth", "classic", "fine-grained" or "personal"
    id: int
    created_at: datetime
    expires_at: datetime | None = None  # None: never
    revoked: bool = False
    refresh: str | None = None  # GitLab's, used up once it is exchanged


@dataclass(eq=False)
class Code:
    """A consent on its way to be exchanged for a token."""

    value: str
    person: Person
    scopes: tuple[str, ...]
    redirect_uri: str | None  # as it was given; None: it was left out
    challenge: str | None
    method: str
    created_at: datetime
    used: bool = False


@dataclass(eq=False)
class Hook:
    """A receiver that is told of what happens."""

    id: int
    repository: Repository
    url: str
    created_at: datetime
    updated_at: datetime
    secret: str | None = None
    signing: str | None = None  # GitLab's signing token
    events: tuple[str, ...] = ("push",)
    active: bool = True
    content_type: str = "form"
    verify: bool = True  # the receiver's certificate
    settings: Json = field(default_factory=dict)  # what else was set, as it is read back
    deliveries: list[Delivery] = field(default_factory=list)  # in order of their sending
    failures: int = 0  # in a row
    disabled_until: datetime | None = None


@dataclass(eq=False)
class Delivery:
    """One request to a receiver, and what came back."""

    id: int
    guid: str
    hook: Hook
    event: str
    payload: Json
    body: bytes
    headers: dict[str, str]
    created_at: datetime
    redelivery: bool = False
    status: int | None = None  # None: not sent yet, or nobody answered
    problem: str | None = None  # why nobody answered
    seconds: float = 0.0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: str = ""


@dataclass(eq=False)
class Repository:
    """A repository at a forge; what is pushed to it, through HTTP or by a test, is told to its hooks."""

    host: Host
    id: int
    owner: Owner
    name: str
    work: Work  # the bare repository, to be changed at will; then `pushed` or `host.deliver`
    created_at: datetime
    pushed_at: datetime
    private: bool = False
    archived: bool = False
    blocked: bool = False
    default_branch: str = "main"
    description: str | None = None
    access: dict[int, int] = field(default_factory=dict)  # of this one alone, by person's id
    hooks: list[Hook] = field(default_factory=list)
    seen: Refs = field(default_factory=dict)  # as they were told last

    @property
    def full_name(self) -> str:
        return f"{self.owner.login}/{self.name}"

    @property
    def path(self) -> Path:
        """The bare repository's directory."""
        return self.work.path

    @property
    def url(self) -> str:
        """To clone it."""
        return f"{self.host.url}/{self.full_name}.git"

    def level(self, person: Person | None) -> int:
        """What somebody may do here; 0: not even see it, where it is private."""
        if person is None:
            return 0
        own = ADMIN if self.owner.person is person else 0
        return max(own, self.owner.access.get(person.id, 0), self.access.get(person.id, 0))

    def commit(
        self,
        branch: str = "main",
        files: dict[str, bytes | None] | None = None,
        *,
        by: Person | None = None,
        message: str | None = None,
        parents: list[Target] | None = None,
    ) -> Target:
        """Push one commit; with `parents` it may leave others behind, which is a force-push."""
        oid = self.work.commit(branch, files, message=message, parents=parents)
        self.pushed(by)
        return oid

    def push(self, ref: str | bytes, target: Target | None, by: Person | None = None) -> None:
        """Push one ref to anywhere; None deletes it."""
        self.work.update({full(ref): target})
        self.pushed(by)

    def pushed(self, by: Person | None = None) -> list[Move]:
        """Tell the hooks what changed since the last time, as one push."""
        now = self.work.refs()
        head = now[HEAD].removeprefix(b"ref: refs/heads/").decode(errors="replace")
        moves = [
            Move(name, self.seen.get(name), now.get(name))
            for name in sorted(self.seen.keys() | now.keys())
            if name != HEAD and self.seen.get(name) != now.get(name)
        ]
        self.seen = now
        self.default_branch = head
        if moves:
            self.pushed_at = self.host.now()
            self.host.tell_push(self, moves, by or self.owner.person or self.host.people[0])
        return moves

    def settle(self) -> None:
        """Take what is there as known, and tell nobody."""
        self.seen = self.work.refs()

    def learn(self) -> None:
        """After a push by HTTP: let `work` know where the branches are now."""
        now = self.work.refs()
        known = {name: target for name, target in now.items() if name != HEAD}
        gone: dict[RefName, Target | None] = {name: None for name in self.seen if name not in now}
        self.work.update({**{name: value for name, value in gone.items() if name != HEAD}, **known})
