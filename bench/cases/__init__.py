"""The comparisons, one module for each question; each answers with rows."""

from collections.abc import Awaitable, Callable, Mapping

from bench.cases import (
    backup,
    chain,
    clones,
    growth,
    incidents,
    memory,
    neighbours,
    pages,
    queue,
    refs,
    retention,
    sealed,
    service,
    start,
    statements,
)
from bench.figures import Row
from bench.room import Room

Case = Callable[[Room], Awaitable[list[Row]]]

CASES: Mapping[str, Case] = {
    "first": backup.first,
    "incremental": backup.incremental,
    "growth": growth.growth,
    "forks": growth.forks,
    "nothing-new": refs.nothing_new,
    "refs": refs.many,
    "restore": chain.restore,
    "bundle": chain.bundle,
    "sealed": sealed.sealed,
    "push": chain.push,
    "clones": clones.clones,
    "compact": chain.compact,
    "memory": memory.memory,
    "start": start.start,
    "hooks": service.hooks,
    "looks": service.looks,
    "pushes": service.pushes,
    "pages": pages.pages,
    "incidents": incidents.incidents,
    "retention": retention.retention,
    "neighbours": neighbours.neighbours,
    "queue": queue.queue,
    "statements": statements.statements,
}

# Measured with repositories of their own, whichever are given.
ALONE: frozenset[str] = frozenset(
    {
        "clones",
        "start",
        "hooks",
        "looks",
        "pushes",
        "pages",
        "incidents",
        "retention",
        "neighbours",
        "queue",
        "statements",
    }
)
