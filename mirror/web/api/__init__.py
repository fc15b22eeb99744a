"""The JSON API: everything that the pages do, for programs."""

from collections.abc import Sequence
from typing import Final

from mirror.web.api import account, channels, entry, evidence, forges, moments, protection, repos, team, work
from mirror.web.api.call import Call

CALLS: Final[Sequence[Call]] = (
    *entry.CALLS,
    *account.CALLS,
    *team.CALLS,
    *channels.CALLS,
    *protection.CALLS,
    *repos.CALLS,
    *moments.CALLS,
    *work.CALLS,
    *evidence.CALLS,
    *forges.CALLS,
)
