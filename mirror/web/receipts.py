"""The receipt of a restore: what came back, that it is there, and how to go on with it.

Who calls: the page of a restore (web/pages/repos/restores), once it has ended well. All of it is read from
what the job recorded, and the commits from the backup; the target is not asked again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Any, Final

from mirror.browse import plan_commits
from mirror.browse.plan_commits import RefCommits
from mirror.core import words
from mirror.core.model import HEAD, RefName, Repo, Target
from mirror.core.refs import Move, from_shown, is_symbolic, symbolic_target
from mirror.restore import moment
from mirror.store.backup import snapshots
from mirror.store.browse import refs_shown
from mirror.store.discovery import connections
from mirror.store.jobs.jobs import Job
from mirror.store.restore import restores
from mirror.web import host_links
from mirror.web.dispatch import RequestContext
from mirror.web.host_links import HostLinks
from mirror.web.templating import refname

SHOWN: Final = 8  # refs that are told one by one
WROTE: Final = ("created", "updated")
_ID: Final = re.compile("[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Brought:
    """One ref that came back."""

    name: str  # in full
    result: str
    target: str
    commits: RefCommits | None  # None: they could not be read
    page: str  # at the host; "": not known
    request: str  # the form to merge it; "": not known, or it is nothing to merge

    @property
    def shown(self) -> str:
        """Its name as people call it."""
        return refname(self.name.encode())


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a restore brought back."""

    title: str
    snapshot: str  # its label
    taken_at: datetime  # when it was like that
    person: str  # who asked; "": nobody who is known still
    brought: Sequence[Brought]
    more: int  # refs that were written beside these
    compared: int  # refs that were compared with the target
    digest: str  # of their list, as it was and as the target has it; "": not recorded
    host: HostLinks | None
    commands: Sequence[tuple[str, str]]  # what for, and the line


async def of(context: RequestContext, repo: Repo, job: Job, to: str) -> Receipt:
    """The receipt of this job, which has ended; `to` is its target in words."""
    services, result = context.services, job.result or {}
    snapshot = await moment.snapshot_at(services, repo, moment.wanted({**job.asked, **result}))
    record = await restores.by_job(services.db, job.id)
    written = [one for one in result.get("refs", ()) if one["result"] in WROTE]
    counts = result.get("counts") or {}
    number = sum(counts.get(one, 0) for one in WROTE)
    host = await _host(context, str(result.get("to", "")))
    base = await _default_branch(context, repo)
    told = await _commits(context, repo, job, written[:SHOWN])
    brought = [_brought(one, told.get(RefName(one["name"].encode())), host, base, job) for one in written]
    return Receipt(
        title(job, to, number),
        snapshot.label,
        snapshot.taken_at,
        (record.person if record else None) or "",
        brought[:SHOWN],
        max(0, number - len(brought[:SHOWN])),
        number + counts.get("unchanged", 0),
        str(result.get("digest", "")),
        host,
        _commands(job, str(result.get("to", "")), brought),
    )


def title(job: Job, to: str, number: int) -> str:
    """What a restore did, as the heading of its page."""
    if not number:
        return f"Nothing to restore to {to}"
    bring, globs = job.asked.get("bring", ()), job.asked.get("globs", ())
    if len(bring) == 1:
        return f"Created {refname(from_shown(bring[0], 'as'))} in {to}"
    if job.asked.get("missing"):
        return f"Created {words.count(number, 'ref')} in {to}"
    if job.asked.get("kept") and len(globs) == 1 and globs[0].startswith("refs/"):
        return f"Put {refname(globs[0].encode())} back in {to}"
    if job.asked.get("kept") and job.asked.get("force"):
        return f"Put {words.count(number, 'ref')} back in {to}"
    return f"Restored to {to}"


async def _host(context: RequestContext, url: str) -> HostLinks | None:
    """The target's pages, where its host is one that is set up here or connected."""
    apps = list(context.services.settings.apps)
    for one in await connections.of_team(context.services.db, context.of_team().id):
        apps.append(context.services.forges.at(one.forge, one.host).app)
    return host_links.of(url, apps)


async def _default_branch(context: RequestContext, repo: Repo) -> str:
    """The branch that HEAD names, as people call it; "": none."""
    latest = await snapshots.latest(context.services.db, repo.id)
    if latest is None:
        return ""
    found = await refs_shown.targets_at(context.services.db, repo.id, [HEAD], latest.number, latest.moment)
    head = found.get(HEAD)
    return refname(symbolic_target(head)) if head and is_symbolic(head) else ""


async def _commits(
    context: RequestContext, repo: Repo, job: Job, written: Sequence[dict[str, Any]]
) -> dict[RefName, RefCommits]:
    """The commits of these refs: of an overwritten one what it gained and lost, of a new one what it brought.

    A new ref brings what no ref held right after the moment that was restored, which is what had been lost.
    """
    services = context.services
    number = job.asked.get("snapshot")
    after = await snapshots.get(services.db, repo.id, number + 1) if number else None
    held: Sequence[Target] = ()
    if after and not job.asked.get("new"):
        held = await refs_shown.held_at(services.db, repo.id, after.number, after.moment)
    moves: list[Move] = [
        (
            RefName(one["name"].encode()),
            Target(one["old"].encode()) if one.get("old") else None,
            Target(one["target"].encode()),
        )
        for one in written
    ]
    return (await plan_commits.of_plan_or_none(services, repo, moves, held)).by_name


def _brought(
    one: dict[str, Any], commits: RefCommits | None, host: HostLinks | None, base: str, job: Job
) -> Brought:
    name = str(one["name"])
    short = refname(name.encode())
    is_branch, is_tag = name.startswith("refs/heads/"), name.startswith("refs/tags/")
    page = host.branch(short) if host and (is_branch or is_tag) else ""
    merges = is_branch and bool(job.asked.get("bring")) and one["result"] == "created"
    request = host.new_request(short, base) if host and merges and short != base else ""
    return Brought(name, one["result"], str(one["target"]), commits, page, request)


def _commands(job: Job, url: str, brought: Sequence[Brought]) -> list[tuple[str, str]]:
    """Lines of git to go on with: a clone of what was made, or a branch in a clone that there is."""
    if job.asked.get("new") or job.asked.get("to"):
        return [("A working copy:", f"git clone {quote(url)}")]
    branches = [one for one in brought if one.name.startswith("refs/heads/")]
    if len(brought) != 1 or not branches:
        return [("In a clone of it:", "git fetch origin")]
    (branch,) = branches
    plain = _is_plain(branch.shown)
    name = quote(branch.shown if plain else branch.name)
    if branch.result == "created":
        switch = f"git switch {name}" if plain else "git switch --detach FETCH_HEAD"
        return [("In a clone of it:", f"git fetch origin {name} && {switch}")]
    theirs = f"origin/{branch.shown}" if plain else f"refs/remotes/origin/{branch.shown}"
    compare = f"{name}...{quote(theirs)}"
    return [
        ("In a clone of it:", f"git fetch origin {name}"),
        ("What differs from yours:", f"git log --oneline --left-right {compare}"),
    ]


def _is_plain(branch: str) -> bool:
    """Whether git takes it as the name of a branch, without `refs/heads/` before it.

    Whoever pushes chooses the name. Git takes one with a hyphen before it as an option, wherever in a line it
    is, and some options run a command; a plus means a forced update, and 40 digits an object.
    """
    return branch[:1].isalnum() and branch not in ("HEAD", "tag") and not _ID.fullmatch(branch)
