"""What Everref needs from a forge, whichever product it is, and the values that it returns."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

from mirror.core.config import App
from mirror.core.errors import BadCredentials
from mirror.core.model import Secret


class Purpose(StrEnum):
    """What a token is used for; each purpose includes those before it."""

    SIGN_IN = "sign-in"
    READ = "read"
    HOOKS = "hooks"
    CREATE = "create"
    PUSH = "push"  # a restore into a repository of the forge
    WORKFLOWS = "workflows"  # the same, where what is pushed has files that the forge would run


class SpentGrant(BadCredentials):
    """The forge issues no tokens for this code or refresh token: it was used, revoked or has expired."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens from a forge for a code or a refresh token, or from a person for a connection."""

    access: str = field(repr=False)
    refresh: str | None = field(repr=False, default=None)  # None: there is none; the access token lasts
    expires_at: datetime | None = None  # of the access token; None: not told
    scopes: tuple[str, ...] = ()  # as granted; empty: not told here, `account` knows


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a token belongs to, and what it may do."""

    id: str  # the forge's number: names change hands, numbers do not
    login: str
    name: str
    scopes: tuple[str, ...]  # empty with a fine-grained token, which does not tell
    fine_grained: bool = False
    expires_at: datetime | None = None  # of the token, where the forge tells


@dataclass(frozen=True, slots=True)
class ForgeRepository:
    """A repository as the forge describes it."""

    repository_id: str  # the forge's number
    full_name: str  # owner/name; at GitLab group/subgroup/name
    clone_url: str
    web_url: str
    private: bool
    archived: bool
    fork: bool
    admin: bool  # this token's owner may register hooks
    bytes: int | None = None  # None: it does not tell
    pushed_at: datetime | None = None  # GitLab tells when anything last happened there


@dataclass(frozen=True, slots=True)
class Mark:
    """What is stored about one page of a listing, to ask next time whether it changed."""

    etag: str
    next: str | None  # the address of the page after it; None: it was the last one
    ids: tuple[str, ...]  # the repositories on it


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing."""

    url: str
    ids: tuple[str, ...]  # the repositories on it, also where it did not change
    items: tuple[ForgeRepository, ...]  # empty where it did not change
    next: str | None
    etag: str | None
    not_modified: bool = False
    hidden: tuple[str, ...] = ()  # organisations (their numbers) that want a single sign-on before they tell


@dataclass(frozen=True, slots=True)
class RemoteHook:
    """A webhook as the forge knows it."""

    id: str  # the forge's number
    url: str
    enabled: bool
    events: tuple[str, ...]
    state: Literal["works", "failing", "paused", "disabled"]
    why: str | None = None  # what the forge says of it in a line; None: nothing
    until: datetime | None = None  # when a paused one goes on by itself
    signed: bool = True  # False: it carries no signature, only a secret in a header


@dataclass(frozen=True, slots=True)
class Sent:
    """A delivery in the forge's log."""

    id: str
    at: datetime | None  # None: the forge does not tell
    event: str
    status: int | None  # None: nobody answered
    ok: bool


@dataclass(frozen=True, slots=True)
class Owner:
    """Under whose name a repository can be created."""

    id: str
    login: str  # acme; at GitLab group/subgroup
    name: str
    personal: bool


class Forge(Protocol):
    """One host of one product. Every error is of mirror/errors, names the host, and never a token or a query.

    BadCredentials: the token is refused. RemoteGone: it does not exist, or is hidden from this token.
    Blocked: the forge has closed it. Refused: the request is not allowed, and why. RateLimited:
    not before `retry_at`. NetworkError: no usable answer; nothing is known.
    """

    @property
    def app(self) -> App: ...

    def authorize_url(self, state: str, verifier: str, redirect_uri: str, purpose: Purpose) -> str:
        """The address where a person grants access; the code comes back to `redirect_uri` with this state.

        `verifier` is PKCE's secret (RFC 7636), of which only the S256 challenge is sent. Raises Refused
        if no OAuth app was registered.
        """

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """The tokens for a code. Raises SpentGrant if it was already used or is not ours."""

    async def refresh(self, refresh_token: str, redirect_uri: str) -> Tokens:
        """A new pair, which invalidates the old one. Raises SpentGrant if the old one was already used."""

    async def revoke(self, token: str) -> None:
        """Revoke the token of an OAuth grant. Safe to run twice."""

    async def account(self, token: str, *, personal: bool = False) -> Account:
        """The account and scopes of a token; `personal`: a person made it, so it is not from OAuth."""

    def scopes(self, purpose: Purpose) -> tuple[str, ...]:
        """The fewest scopes that this purpose needs."""

    def missing_scopes(self, granted: Sequence[str], purpose: Purpose) -> tuple[str, ...]:
        """The needed scopes that are neither granted nor part of a granted one."""

    def credential(self, token: str) -> Secret:
        """The token as git sends it."""

    def repositories(self, token: str, marks: Mapping[str, Mark]) -> AsyncIterator[Page]:
        """Every repository that the token's owner can see, page by page; `marks` are of the last listing."""

    async def repository(self, token: str, repository_id: str) -> ForgeRepository:
        """What a repository is now, by its number: renamed and transferred ones are found."""

    async def hooks(self, token: str, repository_id: str) -> list[RemoteHook]:
        """The repository's webhooks."""

    async def add_hook(self, token: str, repository_id: str, url: str, secret: str) -> RemoteHook:
        """Register a hook for the events Everref needs: pushes, and changes of the repository itself."""

    async def update_hook(
        self, token: str, repository_id: str, hook_id: str, url: str, secret: str
    ) -> RemoteHook:
        """Bring a hook to the form that `add_hook` makes, and enable it again if the forge allows that."""

    async def remove_hook(self, token: str, repository_id: str, hook_id: str) -> None:
        """Remove a hook. Safe to run twice."""

    async def test_hook(self, token: str, repository_id: str, hook_id: str) -> None:
        """Ask the forge for a test delivery, which also enables a paused hook."""

    async def deliveries(self, token: str, repository_id: str, hook_id: str) -> list[Sent]:
        """The hook's latest deliveries, newest first; none where the forge keeps no log."""

    async def redeliver(self, token: str, repository_id: str, hook_id: str, sent_id: str) -> None:
        """Ask the forge to send a delivery again."""

    async def owners(self, token: str) -> list[Owner]:
        """The accounts and groups where the token's owner can create repositories; their own comes first."""

    async def create_repository(
        self, token: str, owner: Owner, name: str, *, private: bool = True
    ) -> ForgeRepository:
        """A new, empty repository. Raises Refused if the name is taken or creating it is not allowed."""

    async def set_default_branch(self, token: str, full_name: str, branch: str) -> None:
        """Make a branch the repository's default one. Raises Refused where it is not there or not allowed."""


def marks_to_json(marks: Mapping[str, Mark]) -> dict[str, Any]:
    """Marks as they are kept with a connection."""
    return {url: [mark.etag, mark.next, list(mark.ids)] for url, mark in marks.items()}


def marks_from_json(kept: Mapping[str, Any]) -> dict[str, Mark]:
    """Marks as they were kept."""
    return {url: Mark(etag, after, tuple(ids)) for url, (etag, after, ids) in kept.items()}


def marked(pages: Sequence[Page]) -> dict[str, Mark]:
    """The marks of a listing that was read to its end."""
    return {page.url: Mark(page.etag, page.next, page.ids) for page in pages if page.etag}
