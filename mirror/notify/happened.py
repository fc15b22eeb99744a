"""Things that happened once, as messages: notices, force-pushes, restores, members.

Who calls: notify/look. Those of one kind in one team that a look finds together are one message.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import thread_time
from typing import Final

from mirror.core import globs, refs, words
from mirror.core.config import Settings
from mirror.core.messages import ALWAYS, KINDS, Link, Message
from mirror.notify import words as said
from mirror.store.notify.events import Events, Joining, Notice, Restoring, Taken
from mirror.store.people.teams import TeamId

NEWS: Final = timedelta(
    days=1
)  # what is older is told to nobody: a rebuild brings back what happened long ago
COMPARED: Final = 0.5  # seconds of comparing one team's refs with its globs in a look; all others are told
LINES: Final = 20  # of several things in one message
# How a notice is told whose kind is no kind of message. The alarms tell the others.
_AS: Final = {"audit": "damage"}
# What several of a kind are called.
_SEVERAL: Final = {
    "force-push": "{n} protected branches and tags were force-pushed or deleted",
    "mass-deletion": "Most branches of {n} repositories were deleted or replaced",
    "drill-failed": "{n} drills failed",
    "damage": "Damage was found in {n} places",
    "restore": "{n} restores began or ended",
    "member": "{n} changes of who is in {team}",
    "credential": "{n} credentials need somebody",
    "mirror": "{n} mirrors need somebody",
}


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened, in words."""

    team_id: TeamId
    team: str
    kind: str  # of KINDS
    subject: str
    lines: Sequence[str]
    at: datetime
    repo: str | None = None
    page: Sequence[str] = ()  # of the team, to go on at
    label: str = ""  # of the link; empty: by the repo or the team


def messages(settings: Settings, events: Events, now: datetime) -> list[tuple[TeamId, Message]]:
    """What is said of these events, of which team."""
    found: dict[tuple[TeamId, str], list[Happening]] = {}
    for one in _happenings(events):
        if one.at > now - NEWS:
            found.setdefault((one.team_id, one.kind), []).append(one)
    return [(team_id, _message(settings, several)) for (team_id, _), several in found.items()]


def _happenings(events: Events) -> Iterable[Happening]:
    for notice in events.notices:
        if (kind := _kind(notice)) is not None:
            yield _of_notice(notice, kind)
    over = {one.job_id for one in events.restores if not one.began}
    for restore in events.restores:
        if not restore.began or restore.job_id not in over:  # what began and ended meanwhile is told once
            yield _of_restore(restore)
    for joining in events.members:
        yield _of_member(joining)
    spent: dict[TeamId, float] = {}
    for taken in events.refs:
        began = thread_time()
        if spent.get(taken.team_id, 0.0) > COMPARED or is_guarded(taken):
            yield _of_taken(taken)
        spent[taken.team_id] = spent.get(taken.team_id, 0.0) + thread_time() - began


def _kind(notice: Notice) -> str | None:
    """Of which kind a notice is told; None: it is not, or an alarm tells it."""
    kind = _AS.get(notice.kind, notice.kind)
    if kind in ALWAYS:
        return kind
    if kind not in KINDS or (notice.kind == "damage" and notice.is_damaged):
        return None
    return kind


def is_guarded(taken: Taken) -> bool:
    """Whether the team wants to hear of this ref."""
    name = refs.shown_text(taken.ref)
    if taken.guarded is None:
        return taken.is_default or name.startswith("refs/tags/")
    short = name.removeprefix("refs/heads/").removeprefix("refs/tags/")
    patterns = [globs.pattern(glob) for glob in taken.guarded]
    return any(one.match(name) or one.match(short) for one in patterns)


def _message(settings: Settings, several: Sequence[Happening]) -> Message:
    first = several[0]
    repos = list(dict.fromkeys(one.repo for one in several if one.repo))
    if len(several) == 1:
        subject, lines = first.subject, list(first.lines)
    else:
        pattern = _SEVERAL.get(first.kind, "{n} things happened in {team}")
        subject = pattern.format(n=f"{len(several):,}", team=first.team)
        lines = [f"{said.minute(one.at)}: {one.subject}." for one in several[:LINES]]
        if len(several) > LINES:
            lines.append(f"And {len(several) - LINES:,} more.")
    if len(repos) == 1:
        page = first.page if len(several) == 1 else ()
        link = Link(
            first.label if page else f"Open {repos[0]}", said.url(settings, first.team, repos[0], *page)
        )
    else:
        page = first.page if not repos else ()
        link = Link(first.label if page else f"Open {first.team}", said.url(settings, first.team, *page))
    at = max(one.at for one in several)
    calm = first.kind == "credential"  # one that has died is an alarm; these will die
    made = said.new(
        first.kind,
        subject,
        lines,
        at,
        team=first.team,
        link=link,
        urgent=True if first.kind in ALWAYS else False if calm else None,
    )
    return replace(made, repos=tuple(repos[:12]), many=len(repos))


def _of_notice(one: Notice, kind: str) -> Happening:
    about = one.repo or one.team
    titles = {
        "mass-deletion": f"Most branches of {about} were deleted or replaced",
        "drill-failed": f"A drill of {about} failed",
        "damage": f"Damage was found in the backup of {about}",
        "sign-in": "Somebody signed in, or can, as you",
        "credential": f"A credential of {about} needs somebody",
        "behind": f"{about} is behind",
        "installation": "Everref itself needs somebody",
        "mirror": f"A mirror of {about} needs somebody",
    }
    page: tuple[str, ...]
    if one.kind == "audit":
        subject, page, label = (
            f"The audit log of {one.team} was changed",
            ("-/settings/audit",),
            "See the audit log",
        )
    elif one.kind == "pending":
        subject, page, label = one.message.partition(". ")[0], ("-/pending",), "See it, and cancel it"
    elif one.kind == "mirror":
        subject, page, label = titles[kind], ("-/mirrors",), "See the mirror"
    elif one.kind == "mass-deletion" and one.repo:
        subject, page, label = titles[kind], ("-/lost",), "See what was lost"
    else:
        subject, page, label = titles.get(kind, words.sentence(one.message).rstrip(".")), (), ""
    line = words.sentence(one.message)
    lines = [] if subject == line.rstrip(".") else [line]
    return Happening(one.team_id, one.team, kind, subject, lines, one.at, one.repo, page, label)


def _of_taken(one: Taken) -> Happening:
    name = refs.shown_text(one.ref).removeprefix("refs/heads/").removeprefix("refs/tags/")
    did = "deleted" if one.deleted else "force-pushed"
    who = words.clean(one.by) if one.by else "Somebody"
    tag = "the tag " if one.ref.startswith(b"refs/tags/") else ""
    lines = [
        f"This happened at {said.minute(one.at)}. What it was before is in snapshot #{one.snapshot - 1}.",
        "If nobody meant to do this, bring it back from the repository's page.",
    ]
    subject = f"{who} {did} {tag}{words.clean(name)} of {one.repo}"
    return Happening(
        one.team_id,
        one.team,
        "force-push",
        subject,
        lines,
        one.at,
        one.repo,
        ("-/lost",),
        "See what was lost",
    )


def _of_restore(one: Restoring) -> Happening:
    who = one.person or "Whoever runs Everref"
    what = "the undoing of a restore" if one.is_undo else "a restore"
    lines = []
    if one.began:
        subject = f"{who} began {what} of {one.repo}"
    elif one.state == "done":
        subject = f"{who} {'undid a restore of' if one.is_undo else 'restored'} {one.repo}"
        if one.destination and not one.is_undo:
            subject += f" to {one.destination}"
        written = ", ".join(f"{number:,} {how}" for how, number in one.results.items() if number)
        if one.destination:
            lines.append(f"Refs at {one.destination}: {written or 'none to write'}.")
            lines.append("" if one.verified else "Not everything arrived; its page says what did not.")
    else:
        by = one.person or "whoever runs Everref"
        ended = "was cancelled" if one.state == "cancelled" else "failed"
        subject = f"{what[0].upper()}{what[1:]} of {one.repo} by {by} {ended}"
        lines.append(words.sentence(one.failure) if one.failure else "")
    lines.append(f"This was at {said.minute(one.at)}. If nobody should have done it, see the audit log.")
    return Happening(one.team_id, one.team, "restore", subject, lines, one.at, one.repo)


def _of_member(one: Joining) -> Happening:
    subject = {
        "member.add": f"{one.subject} joined {one.team}{f' as {one.role}' if one.role else ''}",
        "member.role": f"{one.subject} is now {one.role or 'in another role'} in {one.team}",
        "member.remove": f"{one.actor} removed {one.subject} from {one.team}",
        "member.leave": f"{one.subject} left {one.team}",
    }[one.action]
    lines = [f"{one.actor} did this at {said.minute(one.at)}."]
    return Happening(
        one.team_id, one.team, "member", subject, lines, one.at, None, ("-/settings",), "See the members"
    )
