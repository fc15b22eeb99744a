"""`everref import FILE|DIR`, of anything that is no export: a bundle, a repository, or an archive of one."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.core.errors import UsageError
from mirror.core.model import SYMBOLIC
from mirror.core.refs import shown_text
from mirror.core.words import clean, count

if TYPE_CHECKING:
    from mirror.backup.bring_in import Brought
    from mirror.cli import shapes
    from mirror.cli.call import Call
    from mirror.cli.render import Eye


def is_repository(source: Path) -> bool:
    """Whether this is anything but the directory of an export, or one that should be.

    Raises UsageError where nothing is there.
    """
    if not source.exists():
        raise UsageError(f"there is no file or directory {clean(str(source))}; check its name")
    if (source / "export.json").exists():
        return False
    return source.is_file() or any((place / "objects").is_dir() for place in (source, source / ".git"))


async def bring_in(call: Call) -> int:
    """Bring in what the arguments name: prove it first, then make its repo, unless that is there."""
    from mirror.backup import bring_in
    from mirror.discovery import create
    from mirror.discovery.choose import By
    from mirror.people import operator
    from mirror.store import repos

    source = Path(call.args.source)
    async with call.services() as services:
        team = await operator.team_named(services, call.args.team)
        name = create.checked_name(
            call.args.name or bring_in.name_of(str(source) if source.name else os.getcwd())
        )
        known = await repos.by_name(services.db, team.id, name)
        if known is not None:
            await bring_in.check_takes(services, known)
        async with bring_in.proved(services, source, known) as found:
            by = By(None, operator.ACTOR)
            repo = known or await create.create(services, team.id, by, name)
            done = await bring_in.bring_in(services, repo, found, keep_others=call.args.keep_refs)
        detail = {**done.synced.snapshot.numbers, "refs": done.refs}
        await operator.did_for_repo(services, repo, "repo.import", detail)
    call.out.said(partial(_told, done), partial(_shape, done))
    return 0


def _head(done: Brought) -> str | None:
    head = done.synced.snapshot.head
    return None if head is None else shown_text(head.removeprefix(SYMBOLIC))


def _told(done: Brought, eye: Eye) -> str:
    snapshot = done.synced.snapshot
    name = eye.paint(clean(done.synced.repo.name), "good")
    what = f"{count(done.refs, 'ref')}, {count(done.commits, 'commit')}"
    saved = f"saved as {snapshot.label}" if done.synced.new else f"nothing new since {snapshot.label}"
    told = f"{name}  {saved}  {what}" + (f", HEAD {head}" if (head := _head(done)) else "")
    if done.large_files:
        told += (
            f"\n  {count(done.large_files, 'large file')} that Git LFS keeps outside git are not in it, and"
            " so not saved"
        )
    return told


def _shape(done: Brought) -> shapes.Shape:
    snapshot = done.synced.snapshot
    return {
        "id": str(done.synced.repo.id),
        "name": done.synced.repo.name,
        "new": done.synced.new,
        **snapshot.numbers,
        "refs": done.refs,
        "commits": done.commits,
        "head": _head(done),
        "large_files": done.large_files,
    }
