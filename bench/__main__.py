"""Ratios against git itself: `python -m bench [--only NAME] [--repo PATH] [--quick] [--profile SCENE]`.

Prints each case as it ends and writes RESULTS.md beside this file. A run of
some cases replaces their sections, as long as the machine and the sources are the same.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import figures, machine, profile, sources
from bench.cases import ALONE, CASES
from bench.clock import Failed
from bench.everref import Worker, settings
from bench.remote import remote
from bench.room import Room
from bench.sources import Source
from mirror.services.open import open_services

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    asked = _arguments().parse_args()
    with tempfile.TemporaryDirectory(prefix="everref-bench-", dir=asked.room) as place:
        try:
            return asyncio.run(_measure(asked, Path(place)))
        except Failed as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios against git itself.")
    parser.add_argument(
        "--only", action="append", choices=CASES, metavar="NAME", help=f"one of {', '.join(CASES)}"
    )
    parser.add_argument(
        "--repo", action="append", type=Path, metavar="PATH", help="a bare mirror to measure with"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each comparison is made (3)")
    parser.add_argument("--quick", action="store_true", help="shorter chains and smaller repositories")
    scenes = ", ".join(profile.SCENES)
    parser.add_argument(
        "--profile", choices=profile.SCENES, metavar="SCENE", help=f"say where time goes: {scenes}"
    )
    parser.add_argument(
        "--room", type=Path, help="where to work (the system's directory for temporary files)"
    )
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md as it is")
    return parser


async def _measure(asked: argparse.Namespace, place: Path) -> int:
    chosen = _sources(asked.repo, place, asked.quick)
    told = [source.described() for source in chosen]
    if not asked.repo:
        told.append("(no --repo was given: this project's own history and a generated one)")
    facts = machine.facts(told, asked.rounds, asked.quick, datetime.now(UTC).date())
    print(facts)
    served = place / "served"
    served.mkdir()
    with remote(served) as url:
        async with open_services(settings(place / "data")) as services:
            room = Room(
                place, served, url, Worker(services, place / "data"), chosen, asked.rounds, asked.quick
            )
            if asked.profile:
                await profile.profile(room, asked.profile)
                return 0
            sections = await _run(room, asked.only or list(CASES))
    if not asked.no_write:
        before = RESULTS.read_text() if RESULTS.exists() else ""
        if asked.only and ALONE.issuperset(asked.only):
            facts = figures.facts_of(before, facts)
        kept = figures.sections_of(before, facts)
        merged = kept | sections
        RESULTS.write_text(figures.document(facts, {name: merged[name] for name in CASES if name in merged}))
    return 0


def _sources(paths: Sequence[Path] | None, place: Path, quick: bool) -> list[Source]:
    room = place / "sources"
    room.mkdir()
    if paths:
        return [sources.given(path, room) for path in paths]
    ours = sources.own(room)
    made = sources.generated(room, 1000 if quick else 6000)
    return [ours, made] if ours else [made]


async def _run(room: Room, names: Sequence[str]) -> dict[str, str]:
    sections = {}
    for name in CASES:
        if name not in names:
            continue
        began = time.monotonic()
        rows = await CASES[name](room)
        print(
            f"{name}: {CASES[name].__doc__} ({time.monotonic() - began:.0f} s)\n\n{figures.text_table(rows)}",
            flush=True,
        )
        sections[name] = f"{CASES[name].__doc__}\n\n{figures.markdown_table(rows)}"
    return sections


if __name__ == "__main__":
    sys.exit(main())
