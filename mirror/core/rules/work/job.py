"""A job as it waits in Redis: written by whoever requests work, read by arq in the workers."""

import json
from typing import Any, Final
from uuid import UUID

from mirror.core.model import RepoId

SYNC: Final = "sync_repo"  # do what is due for the repo whose id is the argument, or what is due first
PERIODICAL: Final = "cron:"  # how the numbers of the jobs begin that arq makes by the clock


def dumps(job: dict[str, Any]) -> bytes:
    """A queued job: JSON, because with arq's pickle anybody who writes to Redis could run code here."""
    return json.dumps(job, default=str).encode()


def numbered(number: str, *arguments: str) -> str:
    """The number of a job, in which the repo that it is about can be read without opening the job."""
    return ":".join((number, *arguments))


def repo_of(number: str) -> RepoId | None:
    """The repo that a job is about; None: any, or it was not numbered by `numbered`."""
    try:
        return RepoId(UUID(number.rpartition(":")[2])) if ":" in number else None
    except ValueError:
        return None
