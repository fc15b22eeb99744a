"""Replayed histories with a known end: how often a prediction comes true, and how many failures are foreseen.

`python -m bench.prediction` writes PREDICTION.md. Every history is made by a seeded generator: 30 days that
Everref has seen, then 30 that it has not. What happens in those decides; the rules see only the first.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from mirror.core.rules.health import prediction
from mirror.core.rules.health.prediction import Credential, Hooked, Outcome, Prediction

NOW: Final = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DAY: Final = timedelta(days=1)
LIMIT: Final = timedelta(hours=24)
SEED: Final = 12
HISTORIES: Final = 2000  # of each kind
SEEN: Final = 30  # days


@dataclass(frozen=True, slots=True)
class Score:
    """How a kind of prediction did."""

    true: int  # foreseen, and it happened
    false: int  # foreseen, and it did not
    missed: int  # it happened, and was not foreseen
    quiet: int  # neither

    @property
    def precision(self) -> float:
        return self.true / (self.true + self.false) if self.true + self.false else 1.0

    @property
    def recall(self) -> float:
        return self.true / (self.true + self.missed) if self.true + self.missed else 1.0


Case = tuple[bool, Sequence[Prediction]]  # whether it failed, and what was foreseen


def _growth(chance: random.Random, limit: float) -> tuple[Callable[[int], float], float]:
    """A course of a value over days, 0 is now, and how noisy it is."""
    start, noise = limit * chance.uniform(0.1, 0.7), chance.uniform(0.01, 0.12)
    shape = chance.choice(["flat", "flat", "linear", "linear", "faster", "levels", "saw", "burst"])
    slope = limit * chance.uniform(0.001, 0.02)
    if shape == "linear":
        return lambda day: start + slope * (day + SEEN), noise
    if shape == "faster":
        rate = chance.uniform(0.005, 0.03)
        return lambda day: start * (1 + rate) ** (day + SEEN), noise
    if shape == "levels":  # it grows until somebody cleans up
        top = chance.randint(-10, 15)
        return lambda day: start + slope * (min(day, top) + SEEN), noise
    if shape == "saw":
        period = chance.randint(4, 12)
        return lambda day: start + slope * ((day + SEEN) % period), noise
    if shape == "burst":
        at, height = chance.randint(-20, 0), limit * chance.uniform(0.05, 0.3)
        return lambda day: start + (height if at <= day < at + 3 else 0), noise
    return lambda day: start, noise


def _trend(chance: random.Random, limit: float) -> tuple[bool, list[tuple[datetime, float]]]:
    value, noise = _growth(chance, limit)
    days = [day for day in range(-SEEN + 1, 1) if chance.random() < 0.8]  # not every day has a run
    points = [(NOW + day * DAY, value(day) * chance.lognormvariate(0, noise)) for day in days]
    fails = any(value(day) * chance.lognormvariate(0, noise) >= limit for day in range(1, SEEN + 1))
    return fails, [(at, min(one, limit * 0.999)) for at, one in points]


def _durations(chance: random.Random) -> Case:
    fails, points = _trend(chance, LIMIT.total_seconds())
    return fails, prediction.of_durations("acme/api", points, LIMIT, NOW) if points else []


def _quota(chance: random.Random) -> Case:
    """What is stored grows, by more or less each day; one team in ten is given more in time."""
    limit, used = 1e12, 1e12 * chance.uniform(0.2, 0.95)
    daily = 1e12 * chance.choice([0, 0.0005, 0.002, 0.005, 0.015])
    points, total = [], used - daily * SEEN
    for day in range(-SEEN + 1, 1):
        burst = daily * 10 if chance.random() < 0.03 else 0
        total += daily * chance.lognormvariate(0, 0.6) + burst
        if chance.random() < 0.7:
            points.append((NOW + day * DAY, min(total, limit * 0.999)))
    raised = chance.random() < 0.1
    for _ in range(SEEN):
        total += daily * chance.lognormvariate(0, 0.6)
    fails = total >= limit and not raised
    return fails, prediction.of_quota(points, int(limit), NOW) if points else []


def _hook(chance: random.Random) -> Case:
    """Some webhooks broke at some time; healthy ones lose a delivery now and then."""
    broke = chance.uniform(-20, 0) if chance.random() < 0.3 else None
    since, found = NOW - 40 * DAY, []
    at, often = NOW - SEEN * DAY, chance.choice([0.1, 0.5, 2.0, 8.0])  # pushes a day
    while (at := at + timedelta(days=chance.expovariate(often))) < NOW:
        if (broke is not None and at > NOW + broke * DAY) or chance.random() < 0.08:
            found.append(at)
        else:
            since = at
    return broke is not None, prediction.of_hook(Hooked("acme/api", since, found), NOW)


def _host(chance: random.Random) -> Case:
    """Flaky hosts go on being flaky; healthy ones have an outage of hours, or a run in fifty that fails."""
    share = chance.choice([0.0, 0.01, 0.02, 0.1, 0.3, 0.5])
    outage = chance.uniform(-8, 0) if chance.random() < 0.4 else None
    often = chance.choice([2, 10, 40])  # runs a day
    mended = chance.random() < 0.08

    def runs(start: int, end: int, share: float) -> list[Outcome]:
        made = []
        for day in range(start, end):
            for _ in range(often):
                when = day + chance.random()
                down = outage is not None and outage <= when < outage + 0.4
                made.append(Outcome(NOW + when * DAY, down or chance.random() < share))
        return sorted(made, key=lambda one: one.at)

    seen, later = runs(-7, 0, share), runs(0, 7, 0.01 if mended else share)
    fails = sum(one.failed for one in later) >= 0.15 * len(later)
    return fails, prediction.of_host("git.example.org", seen, NOW)


def _credential(chance: random.Random) -> Case:
    """Tokens that end in up to 60 days; who was going to replace one in time anyway made a false alarm."""
    ends = NOW + timedelta(days=chance.uniform(0.1, 60)) if chance.random() < 0.7 else None
    renewed = chance.random() < 0.3
    in_time = chance.random() < 0.12
    fails = ends is not None and ends < NOW + prediction.EXPIRY and not renewed and not in_time
    revoked = not fails and chance.random() < 0.02  # somebody takes it back, which no history tells
    known = Credential("kim", "github.com", ends, renewed, owned=True, repos=3)
    return fails or revoked, prediction.of_credential(known, NOW)


KINDS: Final[Mapping[str, Callable[[random.Random], Case]]] = {
    "credential": _credential,
    "hook": _hook,
    "duration": _durations,
    "quota": _quota,
    "host": _host,
}


def measured(seed: int = SEED, histories: int = HISTORIES) -> dict[str, Score]:
    """How each kind did, over so many histories of each."""
    scores = {}
    for kind, make in KINDS.items():
        chance = random.Random(f"{seed} {kind}")
        found = [make(chance) for _ in range(histories)]
        scores[kind] = Score(
            sum(failed and bool(told) for failed, told in found),
            sum(not failed and bool(told) for failed, told in found),
            sum(failed and not told for failed, told in found),
            sum(not failed and not told for failed, told in found),
        )
    return scores


def written(scores: Mapping[str, Score]) -> str:
    """The page."""
    rows = "\n".join(
        f"| {kind} | {one.true + one.missed} | {one.true + one.false} | {one.precision:.2f} "
        f"| {one.recall:.2f} |"
        for kind, one in scores.items()
    )
    return f"""# Failure before it happens

Written by `python -m bench.prediction`: {HISTORIES:,} replayed histories of each kind, seed {SEED}. A history
is what Everref has seen for {SEEN} days, with noise, bursts, saws, days without a run, healthy repositories
and flaky hosts; what the generator does next decides whether the failure comes. A prediction is right if it
comes within 30 days (a token: 14, a host: 7).

| kind | failures | predictions | precision | recall |
| --- | --- | --- | --- | --- |
{rows}

What this is not: the histories are made, not taken from hosts, so the figures say how the rules bear noise,
not how often hosts fail. Precision comes before recall: a prediction has to be worth reading. Missed are:

- credential: a token that somebody takes back, and any whose end the host does not tell.
- hook: a webhook that broke when fewer than three pushes have come since, or all of them within a day.
- duration, quota: growth that begins or speeds up after the last look, and noise that hides a trend.
- host: one with fewer than 20 runs a week, and one that fails in bursts on fewer than three days.

A connection whose owner has left the team is told as well (`owner`); that is a fact, so there is nothing to
measure. How full a disk will be is not foreseen, as no history of it is kept; the alert
`EverrefDiskNearlyFull` tells of one that is.
"""


if __name__ == "__main__":
    Path(__file__).with_name("PREDICTION.md").write_text(written(measured()), encoding="utf-8")
