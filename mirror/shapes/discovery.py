"""Where repositories come from as JSON: connections, what they list, webhooks, keys."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.discovery import choose as choosing
from mirror.shapes.base import Answer
from mirror.store.browse import home
from mirror.store.discovery import connections, discovered


class Owner(Answer, frozen=True, kw_only=True):
    """An owner under whose name a repository can be made."""

    id: str
    login: str
    name: str
    personal: bool


class Hook(Answer, frozen=True, kw_only=True):
    """A repo's webhook, as it is pasted into the host's settings."""

    forge: str
    url: str
    state: str
    why: str | None
    delivered_at: datetime | None
    secret: Annotated[str | None, Meta(description="shown once, when it is made")]

    @classmethod
    def of(cls, one: home.HookState, url: str, secret: str | None) -> "Hook":
        return cls(
            forge=one.forge,
            url=url,
            state=one.state,
            why=one.why,
            delivered_at=one.delivered_at,
            secret=secret,
        )


class SshKey(Answer, frozen=True, kw_only=True):
    """A team's deploy key for hosts that are reached by ssh."""

    public_key: str


class Connection(Answer, frozen=True, kw_only=True):
    """An account at a host, as a team uses it."""

    id: str
    forge: str
    host: str
    login: str
    grant_kind: str
    scopes: list[str]
    state: str
    why: str | None
    everything: bool
    patterns: list[str]
    created_at: datetime
    listed_at: datetime | None
    list_failed_at: Annotated[
        datetime | None, Meta(description="when listing it began to fail; null: the last listing worked")
    ]
    list_failure: str | None

    @classmethod
    def of(cls, one: connections.Connection) -> "Connection":
        return cls(
            id=str(one.id),
            forge=one.forge,
            host=one.host,
            login=one.login,
            grant_kind=one.grant_kind,
            scopes=list(one.scopes),
            state=one.state,
            why=one.why,
            everything=one.everything,
            patterns=list(one.patterns),
            created_at=one.created_at,
            listed_at=one.listed_at,
            list_failed_at=one.list_failed_at,
            list_failure=one.list_failure,
        )


class ListedRepository(Answer, frozen=True, kw_only=True):
    """A repository that a connection sees."""

    id: str
    full_name: str
    clone_url: str
    web_url: str
    private: bool
    archived: bool
    fork: bool
    admin: bool
    bytes: int | None
    pushed_at: datetime | None
    chosen: bool
    repo_id: str | None

    @classmethod
    def of(cls, one: discovered.DiscoveredRepository) -> "ListedRepository":
        return cls(
            id=one.repository_id,
            full_name=one.full_name,
            clone_url=one.clone_url,
            web_url=one.web_url,
            private=one.private,
            archived=one.archived,
            fork=one.fork,
            admin=one.admin,
            bytes=one.bytes,
            pushed_at=one.pushed_at,
            chosen=one.chosen,
            repo_id=None if one.repo_id is None else str(one.repo_id),
        )


class Chosen(Answer, frozen=True, kw_only=True):
    """A repository that is backed up from now on."""

    repo_id: str
    repo: str
    hook: str
    why: str | None

    @classmethod
    def of(cls, one: choosing.Chosen) -> "Chosen":
        return cls(repo_id=str(one.repo.id), repo=one.repo.name, hook=one.hook.value, why=one.why)
