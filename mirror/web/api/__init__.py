"""The JSON API: everything that the pages do, for programs."""

from collections.abc import Sequence
from typing import Final

from mirror.web.api import (
    account,
    channels,
    costs,
    entry,
    evidence,
    forges,
    incident,
    keys,
    mirrors,
    moments,
    pending,
    protection,
    repos,
    retention,
    served,
    shares,
    team,
    uploads,
    work,
)
from mirror.web.api.call import Call

CALLS: Final[Sequence[Call]] = (
    *entry.CALLS,
    *account.CALLS,
    *team.CALLS,
    *channels.CALLS,
    *protection.CALLS,
    *served.CALLS,
    *keys.CALLS,
    *repos.CALLS,
    *retention.CALLS,
    *mirrors.CALLS,
    *moments.CALLS,
    *work.CALLS,
    *shares.CALLS,
    *incident.CALLS,
    *uploads.CALLS,
    *evidence.CALLS,
    *costs.CALLS,
    *pending.CALLS,
    *forges.CALLS,
)
