"""People and teams as JSON."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta

from mirror.core.rules.roles import Role, Scope
from mirror.shapes.base import Answer
from mirror.store.notify import messages
from mirror.store.people import audit, invitations, notices, people, sessions, teams, tokens


class Access(Answer, frozen=True, kw_only=True):
    """What a program that signed in sends, and what it renews that with."""

    access_token: Annotated[str, Meta(description="for the header Authorization: Bearer")]
    token_type: str
    expires_in: Annotated[int, Meta(description="seconds")]
    refresh_token: Annotated[str, Meta(description="works once, until two weeks after the sign-in")]


class Membership(Answer, frozen=True, kw_only=True):
    """A team and one's role in it."""

    id: str
    name: str
    role: Role

    @classmethod
    def of(cls, one: teams.Membership) -> "Membership":
        return cls(id=str(one.team.id), name=one.team.name, role=one.role)


class Identity(Answer, frozen=True, kw_only=True):
    """An account at a host with which a person signs in."""

    forge: str
    host: str
    account_id: str
    login: str
    seen_at: datetime
    doubted_at: Annotated[
        datetime | None, Meta(description="since when it signs nobody in, because you have not confirmed it")
    ]

    @classmethod
    def of(cls, one: people.Identity) -> "Identity":
        return cls(
            forge=one.forge,
            host=one.host,
            account_id=one.account_id,
            login=one.login,
            seen_at=one.seen_at,
            doubted_at=one.doubted_at,
        )


class Profile(Answer, frozen=True, kw_only=True):
    """A person."""

    id: str
    name: str
    email: str | None
    email_proved: Annotated[bool, Meta(description="whether they opened a link that was mailed there")]
    zone: str | None
    created_at: datetime
    has_password: bool
    identities: list[Identity]
    teams: list[Membership]


class Session(Answer, frozen=True, kw_only=True):
    """Where somebody is signed in."""

    id: str
    agent: str
    address: str
    created_at: datetime
    seen_at: datetime
    current: bool

    @classmethod
    def of(cls, one: sessions.Session, current: sessions.Session | None) -> "Session":
        return cls(
            id=one.key.hex(),
            agent=one.agent,
            address=one.address,
            created_at=one.created_at,
            seen_at=one.seen_at,
            current=current is not None and one.key == current.key,
        )


class Member(Answer, frozen=True, kw_only=True):
    """One of a team's people."""

    id: str
    name: str
    email: str | None
    role: Role
    since: datetime

    @classmethod
    def of(cls, one: teams.Member) -> "Member":
        return cls(id=str(one.person_id), name=one.name, email=one.email, role=one.role, since=one.since)


class Invitation(Answer, frozen=True, kw_only=True):
    """A link that makes the signed-in person who opens it a member."""

    id: str
    team: str
    role: Role
    email: str | None
    invited_by: str | None
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, one: invitations.Invitation) -> "Invitation":
        return cls(
            id=str(one.id),
            team=one.team.name,
            role=one.role,
            email=one.email,
            invited_by=one.inviter,
            created_at=one.created_at,
            expires_at=one.expires_at,
        )


class Invited(Answer, frozen=True, kw_only=True):
    """An invitation that was just made. Its link is shown only now."""

    invitation: Invitation
    url: str
    code: Annotated[str, Meta(description="what /api/v1/invitations/{invitation} takes")]


class Token(Answer, frozen=True, kw_only=True):
    """An API token, without itself."""

    id: str
    name: str
    team: str
    person: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None

    @classmethod
    def of(cls, one: tokens.ApiToken) -> "Token":
        return cls(
            id=str(one.id),
            name=one.name,
            team=one.team.name,
            person=one.person.name,
            scopes=sorted(one.scopes),
            created_at=one.created_at,
            expires_at=one.expires_at,
            used_at=one.used_at,
        )


class NewToken(Answer, frozen=True, kw_only=True):
    """An API token that was just made. It is shown only now."""

    token: str
    about: Token


class AuditEntry(Answer, frozen=True, kw_only=True):
    """That somebody did something."""

    number: int
    at: datetime
    person_id: str | None
    actor: str
    action: str
    subject: str
    repo_id: str | None
    detail: dict[str, Any]
    address: str | None
    result: str
    previous: str | None
    sha256: str

    @classmethod
    def of(cls, one: audit.Recorded) -> "AuditEntry":
        entry = one.entry
        return cls(
            number=one.number,
            at=one.at,
            person_id=None if entry.person_id is None else str(entry.person_id),
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            repo_id=None if entry.repo_id is None else str(entry.repo_id),
            detail=dict(entry.detail),
            address=entry.address,
            result=entry.result,
            previous=one.previous,
            sha256=one.sha256,
        )


class Sending(Answer, frozen=True, kw_only=True):
    """A channel that a message goes to, and what became of it there."""

    channel: str
    kind: str
    shown: str
    state: str
    due_at: datetime
    tries: int
    tried_at: datetime | None
    answer: str | None
    in_digest: bool

    @classmethod
    def of(cls, one: messages.Reached) -> "Sending":
        return cls(
            channel=one.channel,
            kind=one.kind,
            shown=one.shown,
            state=one.state,
            due_at=one.due_at,
            tries=one.tries,
            tried_at=one.tried_at,
            answer=one.answer,
            in_digest=one.in_digest,
        )


class Message(Answer, frozen=True, kw_only=True):
    """Something that people were told, and where it went."""

    id: str
    kind: str
    urgent: bool
    subject: str
    lines: list[str]
    at: datetime
    team: str | None
    repos: list[str]
    many: int
    url: str | None
    facts: dict[str, Any]
    to: list[Sending]

    @classmethod
    def of(cls, said: messages.Said, reached: Sequence[messages.Reached]) -> "Message":
        one = said.message
        return cls(
            id=str(one.id),
            kind=one.kind,
            urgent=one.urgent,
            subject=one.subject,
            lines=list(one.lines),
            at=one.at,
            team=said.team,
            repos=list(one.repos),
            many=one.many,
            url=one.link.url if one.link else None,
            facts=dict(one.facts),
            to=[Sending.of(each) for each in reached],
        )


class Notice(Answer, frozen=True, kw_only=True):
    """Something that somebody should see."""

    id: str
    repo_id: str | None
    repo: str | None
    kind: str
    message: str
    at: datetime
    seen_at: datetime | None

    @classmethod
    def of(cls, one: notices.Notice) -> "Notice":
        return cls(
            id=str(one.id),
            repo_id=None if one.repo_id is None else str(one.repo_id),
            repo=one.repo,
            kind=one.kind,
            message=one.message,
            at=one.at,
            seen_at=one.seen_at,
        )
