"""A job as it waits in Redis: written by who hints at a wish, read by the worker."""

import json
from typing import Any, Final

SYNC: Final = "sync_repo"  # serve the wish of the repo whose id is the argument


def dumps(job: dict[str, Any]) -> bytes:
    """A job as it is queued: JSON, since arq's pickle would let who writes to Redis run code here."""
    return json.dumps(job, default=str).encode()
