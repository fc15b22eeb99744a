"""The weekly report of a team: how it stands and what happened, in ten lines, on Monday mornings.

Who calls: notify/look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from mirror.core import words
from mirror.core.messages import Link, Message
from mirror.core.rules.health import causes as rules
from mirror.core.rules.health import proof, telling
from mirror.core.rules.health.causes import repositories
from mirror.core.rules.health.proof import State
from mirror.notify import words as said
from mirror.services.open import Services
from mirror.store.browse import causes, report
from mirror.store.browse.report import Line
from mirror.store.database import Db
from mirror.store.notify import messages
from mirror.store.notify.sendings import Listening
from mirror.store.people import teams
from mirror.store.people.teams import Team, TeamId

WEEK: Final = timedelta(days=7)
NEEDS: Final = 3  # that the report names
_KIND: Final = "report"


@dataclass(frozen=True, slots=True)
class Due:
    """A report whose time has come."""

    team_id: TeamId
    message: Message
    readers: Sequence[Listening]
    told_key: str


async def due(services: Services, db: Db, listening: Sequence[Listening], now: datetime) -> list[Due]:
    """The reports whose time has come and that nobody wrote yet.

    One for each team and Monday morning: readers in one zone share it. What could not be written within
    a day is left out.
    """
    wanted: dict[tuple[TeamId, datetime], list[Listening]] = {}
    for one in listening:
        at = telling.report_at(one.channel.zone, now)
        if now - at < telling.REPORT_LATE and one.created_at < at and _KIND not in one.channel.off:
            for team_id in one.teams:
                wanted.setdefault((team_id, at), []).append(one)
    found = []
    known = {one.id: one for one in await teams.of_ids(db, {team_id for team_id, _ in wanted})}
    for (team_id, at), readers in wanted.items():
        key = f"{_KIND}/{team_id}/{at.astimezone(UTC).isoformat()}"
        if team_id not in known or await messages.by_key(db, key) is not None:
            continue
        if lines := await report.report(db, team_id, at - WEEK, at, now):
            open_ = [_title(one) for one in await causes.troubles(db, team_id, now, 1)]
            message = written(services, known[team_id], lines, open_, at)
            found.append(Due(team_id, message, readers, key))
    return found


def written(
    services: Services, team: Team, lines: Sequence[Line], open_: Sequence[str], at: datetime
) -> Message:
    """The report of the week before `at`, of these repositories and of what needs somebody now."""
    standing = proof.standing([State(one.state, one.protected_as_of, one.paused) for one in lines], at)
    drilled = sum(one.drills for one in lines)
    failed = sum(one.drills_failed for one in lines)
    restores = sum(one.restores for one in lines)
    undrilled = sum(one.last_drill_at is None for one in lines)
    forced = sum(one.forced for one in lines)
    where = sum(one.forced > 0 for one in lines)
    text = [
        standing.sentence,
        f"Saved this week: {words.count(sum(one.snapshots for one in lines), 'snapshot')} with "
        f"{words.count(sum(one.changes for one in lines), 'ref change')}, "
        f"{words.size(sum(one.bytes for one in lines))} new.",
        f"Force-pushed or deleted: {words.count(forced, 'ref')} in {repositories(where)}."
        if forced
        else "Nothing was force-pushed or deleted.",
        f"Restores: {restores:,}, {sum(one.restores_verified for one in lines):,} of them verified."
        if restores
        else "Nothing was restored.",
        f"Drills: {drilled:,}, {failed:,} of them failed." if drilled else "No drill was made.",
        f"No drill has ever restored {repositories(undrilled)}." if undrilled else "",
        f"Needs you now: {'; '.join(open_[:NEEDS])}{_more(len(open_) - NEEDS)}."
        if open_
        else "Nothing needs you.",
    ]
    facts = {
        "from": (at - WEEK).astimezone(UTC).isoformat(),
        "to": at.astimezone(UTC).isoformat(),
        "repos": standing.total,
        "protected": standing.protected,
        "late": standing.late,
        "snapshots": sum(one.snapshots for one in lines),
        "forced": forced,
        "restores": restores,
        "drills": drilled,
        "drills_failed": failed,
    }
    subject = f"{team.name}: {standing.protected:,} of {repositories(standing.total)} protected this week"
    link = Link("See the report", said.url(services.settings, team.name, "-/report"))
    return said.new(_KIND, subject, text, at, team=team.name, link=link, facts=facts)


def _title(one: causes.Trouble) -> str:
    by = one.refused
    return rules.title(one) if by is None else rules.refused(by.forge, by.host, by.login)


def _more(number: int) -> str:
    return f"; and {number:,} more" if number > 0 else ""
