"""How a team's repos are served, and the way to them while their host is down, as JSON."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.core.rules.failover import Rule, switch_off, switch_on
from mirror.core.rules.served import Served
from mirror.shapes.base import Answer
from mirror.store.browse.served import StatusPage

AsOf = Annotated[datetime | None, Meta(description="null: nothing is saved yet")]


class RepoServed(Answer, frozen=True, kw_only=True):
    """A repo by name, as everybody may see it."""

    name: str
    as_of: AsOf


class TeamStatus(Answer, frozen=True, kw_only=True):
    """Whether clones of a team's repos work, for everybody."""

    team: str
    serving: bool
    reason: Annotated[str | None, Meta(description="why it is not serving")]
    as_of: AsOf
    age_seconds: int | None
    repositories: Annotated[int, Meta(description="that can be cloned")]
    older: Annotated[int, Meta(description="of these: as of an earlier time than `as_of`")]
    oldest_as_of: AsOf
    unsaved: Annotated[int, Meta(description="others, of which nothing is saved yet")]
    damaged: int
    checked_at: datetime
    repos: Annotated[
        list[RepoServed] | None, Meta(description="null: the team does not show their names; 1,000 at most")
    ]

    @classmethod
    def of(
        cls, team: str, one: Served, why_not: str | None, at: datetime, repos: list[RepoServed] | None
    ) -> "TeamStatus":
        return cls(
            team=team,
            serving=why_not is None and one.total > 0,
            reason=why_not,
            as_of=one.as_of,
            age_seconds=None if one.as_of is None else max(0, int((at - one.as_of).total_seconds())),
            repositories=one.total,
            older=one.older,
            oldest_as_of=one.oldest_as_of,
            unsaved=one.unsaved,
            damaged=one.damaged,
            checked_at=at,
            repos=repos,
        )


class StatusPageSetting(Answer, frozen=True, kw_only=True):
    """What everybody may see of a team without signing in."""

    shows: Annotated[StatusPage | None, Meta(description="null: nothing")]
    url: str | None


class FailoverRule(Answer, frozen=True, kw_only=True):
    """What git is to fetch from instead of what."""

    base: Annotated[str, Meta(description="at Everref")]
    instead_of: Annotated[list[str], Meta(description="the beginnings of addresses that it replaces")]
    repos: list[str]


class Failover(Answer, frozen=True, kw_only=True):
    """How git fetches from here while a host is down; pushes stay with the host."""

    rules: list[FailoverRule]
    switch_on: Annotated[list[str], Meta(description="commands, for each machine")]
    switch_off: list[str]

    @classmethod
    def of(cls, rules: list[Rule]) -> "Failover":
        return cls(
            rules=[
                FailoverRule(base=one.base, instead_of=list(one.prefixes), repos=list(one.names))
                for one in rules
            ],
            switch_on=switch_on(rules),
            switch_off=switch_off(rules),
        )
