"""Looking at every team's histories for what will soon fail, once an hour.

Who calls: the sweep.
"""

from datetime import timedelta
from typing import Final

from mirror.core.model import RepoId
from mirror.core.rules.health import prediction
from mirror.core.rules.health.prediction import Prediction
from mirror.services.open import Services
from mirror.store.browse import predictions
from mirror.store.browse.predictions import Histories
from mirror.store.people import notices, quotas

EVERY: Final = timedelta(hours=1)
LONGEST: Final = timedelta(hours=24)  # that a run may take
_SLOW: Final = LONGEST / 10

Found = list[tuple[RepoId | None, Prediction]]


async def due(services: Services) -> None:
    """Find and keep what will soon fail; a token that expires is a notice too, once.

    Safe to run twice: what is foreseen is replaced, and a notice has a key.
    """
    now = services.clock()
    histories = await predictions.histories(services.db, now, _SLOW.total_seconds())
    teams = {*histories, *await predictions.teams_with_any(services.db)}
    for team in sorted(teams):
        found = _of(histories.get(team, Histories()), services)
        if team in histories:
            (used,) = await quotas.uses(services.db, team, services.settings.limits, now, ["stored-bytes"])
            if used.most is not None and used.used:
                stored = histories[team].stored
                before = used.used - (stored[-1][1] if stored else 0)
                points = [(at, before + value) for at, value in stored]
                found += [(None, one) for one in prediction.of_quota(points, used.most, now)]
        for one in await predictions.keep(services.db, team, found, now):
            if one.kind == "credential":
                key = f"expires/{team}/{one.subject}/{one.at}"
                said = f"{one.title[:1].lower()}{one.title[1:]}: {one.why}"
                await notices.add(services.db, team, None, "credential", said, now, key)


def _of(known: Histories, services: Services) -> Found:
    now = services.clock()
    found: Found = []
    for credential in known.credentials:
        found += [(None, one) for one in prediction.of_credential(credential, now)]
    for repo_id, hooked in known.hooks:
        found += [(repo_id, one) for one in prediction.of_hook(hooked, now)]
    for repo_id, name, points in known.durations:
        found += [(repo_id, one) for one in prediction.of_durations(name, points, LONGEST, now)]
    for host, runs in known.hosts.items():
        found += [(None, one) for one in prediction.of_host(host, runs, now)]
    return list({(one.kind, one.subject): (repo_id, one) for repo_id, one in found}.values())
