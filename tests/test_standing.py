"""What a page may say of a repo that is not backed up at the moment."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mirror.core.rules.health.standing import CREDENTIALS, Standing, told

NOW = datetime(2026, 11, 22, 14, 5, tzinfo=UTC)
SAVED = Standing(saved=True)
NEVER = Standing(saved=False)
SOON = NOW + timedelta(minutes=5)
SAFE = "What was saved is safe."
NOTHING = "Nothing is saved yet."
PAUSED = "It is paused: nothing new is backed up until somebody resumes it."

CASES = {
    "well": (SAVED, SAFE),
    "new": (NEVER, NOTHING),
    "saved, retried": (
        replace(SAVED, failure="network", retry_at=SOON),
        f"{SAFE} Everref tries again in 5 min.",
    ),
    "saved, due": (
        replace(SAVED, failure="network", retry_at=NOW),
        f"{SAFE} Everref is about to try again.",
    ),
    "saved, dead token": (
        replace(SAVED, failure=CREDENTIALS),
        f"{SAFE} Everref does not try again until its token is replaced.",
    ),
    "saved, not retried": (
        replace(SAVED, failure="moved"),
        f"{SAFE} Everref does not try again until its address or its token is changed.",
    ),
    "saved, dead token, replaced": (
        replace(SAVED, failure=CREDENTIALS, retry_at=NOW - timedelta(hours=1)),
        f"{SAFE} Everref is about to try again.",
    ),
    "saved, paused": (replace(SAVED, paused=True), f"{SAFE} {PAUSED}"),
    "saved, retried but paused": (
        replace(SAVED, failure="network", retry_at=SOON, paused=True),
        f"{SAFE} {PAUSED}",
    ),
    "saved, archived": (replace(SAVED, gone=True), f"{SAFE} Nothing new is backed up."),
    "saved, archived and paused": (
        replace(SAVED, gone=True, paused=True),
        f"{SAFE} Nothing new is backed up.",
    ),
    "nothing, retried": (
        replace(NEVER, failure="network", retry_at=SOON),
        f"{NOTHING} Everref tries again in 5 min.",
    ),
    "nothing, dead token": (
        replace(NEVER, failure=CREDENTIALS),
        f"{NOTHING} Everref does not try again until its token is replaced.",
    ),
    "nothing, paused": (replace(NEVER, paused=True), f"{NOTHING} {PAUSED}"),
    "nothing, archived": (replace(NEVER, gone=True), f"{NOTHING} Nothing new is backed up."),
    "damaged": (replace(SAVED, damaged=True), ""),
    "damaged, retried": (
        replace(SAVED, damaged=True, failure="network", retry_at=SOON),
        "Everref tries again in 5 min.",
    ),
    "damaged, paused": (replace(SAVED, damaged=True, paused=True), PAUSED),
}


@pytest.mark.parametrize(("it", "said"), CASES.values(), ids=CASES.keys())
def test_what_is_said_is_so(it: Standing, said: str) -> None:
    assert told(it, NOW) == said
