"""The days between what was agreed and its effect, with the sweep that tells people a day before."""

from datetime import timedelta

from mirror.core.rules.keeping import pending as rules
from mirror.jobs import pending as jobs
from tests.parts.everref import Mirror


async def days_pass(mirror: Mirror, time: timedelta) -> None:
    """Wait so long; a day before the end people are told of what comes then."""
    mirror.clock.now += time - rules.SOON
    await jobs.due(mirror.services)
    mirror.clock.now += rules.SOON
