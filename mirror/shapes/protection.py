"""Objectives and dead man's switches as JSON."""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from mirror.core.rules.health import objective
from mirror.core.rules.health.deadman import Style
from mirror.core.rules.health.prediction import Kind
from mirror.shapes.base import Answer
from mirror.store.browse.predictions import Foreseen as Known
from mirror.upkeep.ping import Standing


class Objective(Answer, frozen=True, kw_only=True):
    """How old the newest backup may be."""

    rpo: Annotated[str, Meta(description="15m, 24h, 7d")]

    @classmethod
    def of(cls, rpo: timedelta) -> "Objective":
        return cls(rpo=objective.written(rpo))


class Monitored(Answer, frozen=True, kw_only=True):
    """A team's dead man's switch, where it has one."""

    monitor: "Switch | None"


class Foreseen(Answer, frozen=True, kw_only=True):
    """Something that will soon fail, with the evidence."""

    kind: Kind
    subject: Annotated[str, Meta(description="a repo's name, an account, a host")]
    repo: Annotated[str | None, Meta(description="the repo's id; null: it is about no single one")]
    title: str
    why: Annotated[str, Meta(description="what was seen, and what to do")]
    at: Annotated[datetime | None, Meta(description="when; null: at any time")]
    since: Annotated[datetime, Meta(description="when it was first foreseen")]

    @classmethod
    def of(cls, one: Known) -> "Foreseen":
        return cls(
            kind=one.prediction.kind,
            subject=one.prediction.subject,
            repo=None if one.repo_id is None else str(one.repo_id),
            title=one.prediction.title,
            why=one.prediction.why,
            at=one.prediction.at,
            since=one.since,
        )


class Switch(Answer, frozen=True, kw_only=True):
    """A dead man's switch, and what it last said."""

    host: Annotated[str, Meta(description="of the monitor; its address is not shown")]
    style: Style
    drill_days: int
    read_days: int
    reasons: Annotated[list[str], Meta(description="why it is silent; empty: it pings")]
    pinged_at: Annotated[datetime | None, Meta(description="when the monitor last took a ping")]
    asked_at: Annotated[datetime | None, Meta(description="when anything was last sent")]
    answer: Annotated[str | None, Meta(description="to that: a status, or why it failed")]
    failing_since: Annotated[datetime | None, Meta(description="null: it took the last one")]

    @classmethod
    def of(cls, one: Standing) -> "Switch":
        return cls(
            host=one.ping.shown,
            style=one.ping.style,
            drill_days=one.ping.drill_age.days,
            read_days=one.ping.read_age.days,
            reasons=one.reasons,
            pinged_at=one.ping.pinged_at,
            asked_at=one.ping.asked_at,
            answer=one.ping.answer,
            failing_since=one.ping.failing_since,
        )
