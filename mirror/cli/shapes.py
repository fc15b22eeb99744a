"""The JSON of the command line: the shapes that the API has too, and what is told here alone.

A key that is here stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mirror.browse.plan_commits import NONE, PlanCommits
from mirror.cli.problem import error
from mirror.core import model
from mirror.core.model import RefName, Target
from mirror.core.rules.health.objective import written
from mirror.core.rules.history.pushes import Lost
from mirror.core.words import rfc3339
from mirror.jobs import results
from mirror.shapes import discovery as shown
from mirror.shapes import work
from mirror.shapes.base import plain
from mirror.shapes.channels import Channel, ChannelKey, ChannelTested, NewChannel
from mirror.shapes.discovery import Hook, SshKey
from mirror.shapes.people import Identity, Membership, Message, Token
from mirror.shapes.protection import Foreseen, Switch
from mirror.shapes.repos import Change, LostPushed, Ref, Repo, TakenSnapshot, WentAway
from mirror.shapes.work import Plan, RefOutcome
from mirror.shapes.work import UndoPlan as Undoing

if TYPE_CHECKING:
    from mirror.backup.sync import Synced
    from mirror.core.errors import EverrefError
    from mirror.core.quotas import Use
    from mirror.discovery.choose import Chosen
    from mirror.discovery.webhook import NewHook
    from mirror.jobs.sweep import Swept
    from mirror.people.accounts import KnownPerson
    from mirror.people.channels import Added
    from mirror.restore.drill import Drilled
    from mirror.restore.restore import Restored, RestorePlan
    from mirror.restore.undo import UndoPlan
    from mirror.store.backup.history import Logged
    from mirror.store.browse import predictions
    from mirror.store.browse.gone_refs import Gone
    from mirror.store.browse.home import HookState
    from mirror.store.discovery.connections import Connection
    from mirror.store.discovery.discovered import Counts
    from mirror.store.jobs.jobs import JobId
    from mirror.store.notify.channels import Channel as ChannelRow
    from mirror.store.notify.messages import Said
    from mirror.store.people.tokens import ApiToken
    from mirror.store.repos import Overview
    from mirror.store.restore.team_drills import TeamDrill
    from mirror.store.upkeep.readings import Coverage
    from mirror.upkeep.compact import Compacted
    from mirror.upkeep.doctor import Finding
    from mirror.upkeep.moving.rebuild import Rebuilt
    from mirror.upkeep.ping import Standing
    from mirror.upkeep.prune import Pruned
    from mirror.upkeep.reencrypt import Rotated
    from mirror.upkeep.rotation import Read
    from mirror.upkeep.state import Exported, ImportedState
    from mirror.upkeep.verify import Verified

Shape = dict[str, Any]


def at(time: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds, always as long."""
    return rfc3339(time)


def backup(done: Synced, seconds: float) -> Shape:
    """What a backup did; with nothing new, the latest snapshot."""
    snapshot = done.snapshot
    part = snapshot.bundle if done.new else None
    return {
        "repo": done.repo.name,
        **plain(TakenSnapshot.of(snapshot)),
        "snapshot": snapshot.number,
        "changes": snapshot.changes_count if done.new else 0,
        "bundle": part and {"key": part.key, "bytes": part.bytes, "sha256": part.sha256},
        "new": done.new,
        "seconds": round(seconds, 3),
    }


def kept(row: Overview) -> Shape:
    """One repo that is kept."""
    return {"repo": row.called, "team": row.team, **plain(Repo.of(row))}


def change(one: Logged | Lost, is_dropped: bool = False) -> Shape:
    """One ref's move, or a push that could not be rescued; `dropped` only where its snapshot was."""
    if isinstance(one, Lost):
        return {**plain(LostPushed.of(one)), "kind": None, "rescued": False}
    return {**plain(Change.of(one)), **({"dropped": True} if is_dropped else {})}


def ref(name: RefName, target: Target) -> Shape:
    """One ref as it was."""
    return plain(Ref.of(name, target))


def gone(one: Gone) -> Shape:
    """One ref that is gone."""
    return plain(Ref.of(one.name, one.target, WentAway.of(one)))


def plan(made: RestorePlan, to: str | None, commits: PlanCommits = NONE) -> Shape:
    """What a restore would do."""
    return plain(Plan.of(made, to, commits))


def restored(done: Restored, job: JobId | None = None, undo_of: JobId | None = None) -> Shape:
    """What a restore did, or the undo of one."""
    return {
        "repo": done.repo.name,
        "kept": None,
        "kept_snapshot": None,
        **results.restored(done),
        "refs": [plain(RefOutcome.of(one)) for one in done.refs],
        "job": None if job is None else str(job),
        "undo_of": None if undo_of is None else str(undo_of),
    }


def undo_plan(made: UndoPlan, repo: model.Repo, job: JobId) -> Shape:
    """What undoing a restore would do."""
    return {"repo": repo.name, "undo_of": str(job), **plain(Undoing.of(made))}


def verified(found: Verified, seconds: float) -> Shape:
    """What a verification found."""
    ok = not found.problems
    return {"repo": found.repo.name, **results.verified(found), "ok": ok, "seconds": round(seconds, 3)}


def drilled(found: Drilled) -> Shape:
    """The evidence of a drill."""
    return {
        "repo": found.repo.name,
        **results.drilled(found),
        "ok": not found.problems,
        "large_files_not_saved": found.large_files.files,
    }


def team_drilled(found: TeamDrill) -> Shape:
    """What came of a drill of every repo of a team."""
    names = ("repos", "passed", "failed", "undone", "seconds", "bytes")
    return {**{name: getattr(found, name) for name in names}, "ok": found.passed == found.repos}


def read_again(found: Read) -> Shape:
    """What a turn of the rotation read."""
    return {
        "bytes": found.bytes,
        "objects": found.objects,
        "problems": list(found.problems),
        "ok": not found.problems,
    }


def coverage(found: Coverage, due: int) -> Shape:
    """How much was read back in time."""
    return {**plain(work.Coverage.of(found)), "drills_due": due}


def compacted(done: Compacted) -> Shape:
    """What became of one repo's parts."""
    return {"repo": done.repo.name, **results.compacted(done), "bytes_written": done.bytes_written}


def pruned(done: Pruned) -> Shape:
    """What was deleted."""
    return {
        "deleted": list(done.deleted),
        "bytes": done.bytes,
        "waiting": done.waiting,
        "locked": list(done.locked),
        "locked_until": done.locked_until and at(done.locked_until),
    }


def hook(given: NewHook, state: HookState) -> Shape:
    """A webhook; its secret once."""
    return {"repo": given.repo.name, **plain(Hook.of(state, given.url, given.secret))}


def unhooked(repo: model.Repo) -> Shape:
    """A webhook is forgotten."""
    return {"repo": repo.name, "removed": True}


def connected(made: Connection, counts: Counts, chosen: Sequence[Chosen]) -> Shape:
    """An account that is connected, and what was chosen of it."""
    return {**connection(made, counts), "chosen": [plain(shown.Chosen.of(one)) for one in chosen]}


def connection(made: Connection, counts: Counts) -> Shape:
    """An account that is connected."""
    return {
        "connection": str(made.id),
        **plain(shown.Connection.of(made)),
        "only": list(made.patterns),
        "repositories": counts.all,
        "kept": counts.chosen,
    }


def token(raw: str, made: ApiToken) -> Shape:
    """An API token, once."""
    return {"token": raw, **plain(Token.of(made))}


def ssh_key(public: str) -> Shape:
    """A team's deploy key."""
    return plain(SshKey(public_key=public))


def limits(team: str, uses: Sequence[Use]) -> Shape:
    """What a team uses of its limits."""
    return {"team": team, "limits": [_limit(one) for one in uses]}


@dataclass(frozen=True, slots=True)
class Objective:
    """How old a backup may be, of a team or of one of its repos."""

    team: str
    repo: str | None  # None: of the team
    rpo: timedelta
    own: bool  # the repo has one of its own
    outside: Sequence[str]  # names of the repos that are outside of theirs


def objective(told: Objective) -> Shape:
    """How old a backup may be, and what is older."""
    return {
        "team": told.team,
        "repo": told.repo,
        "rpo": written(told.rpo),
        "own": told.own,
        "outside": list(told.outside),
    }


def foreseen(one: predictions.Foreseen) -> Shape:
    """Something that will soon fail, and the evidence."""
    return plain(Foreseen.of(one))


def pinged(team: str | None, done: Standing) -> Shape:
    """A dead man's switch, and what it last said."""
    return {"team": team, **plain(Switch.of(done))}


def channel(one: ChannelRow) -> Shape:
    """A place that messages go to."""
    return plain(Channel.of(one))


def channel_added(added: Added) -> Shape:
    """A new place, with its key."""
    shape = NewChannel(channel=Channel.of(added.channel), key=added.key, asked=added.asked)
    return plain(shape)


def channel_key(key: str) -> Shape:
    """A webhook's new key."""
    return plain(ChannelKey(key=key))


def channel_tested(answer: str) -> Shape:
    """What the other side of a test answered."""
    return plain(ChannelTested(answer=answer))


def unpinged(team: str) -> Shape:
    """A monitor that is pinged no more."""
    return {"team": team, "removed": True}


def _limit(one: Use) -> Shape:
    used = one.used if one.limit.counted else None
    return {"name": one.limit.name, "used": used, "most": one.most, "own": one.own}


def link(url: str, until: datetime, known: KnownPerson | None) -> Shape:
    """A one-time link, and whom it lets in, where an e-mail address said that."""
    person = known and {
        "name": known.person.name,
        "email": known.person.email,
        "email_proved": known.email_proved,
        "created_at": at(known.person.created_at),
        "teams": [plain(Membership.of(one)) for one in known.teams],
        "identities": [plain(Identity.of(one)) for one in known.identities],
    }
    return {"sign_in": url, "expires_at": at(until), "person": person}


def rotated(done: Rotated) -> Shape:
    """What was sealed anew, and which keys are needed."""
    keys = [
        {"id": key.id, "newest": key.newest, "here": key.here, "sealed": key.sealed, "state": key.state}
        for key in done.keys
    ]
    return {"resealed": done.resealed, "keys": keys, "problems": list(done.problems)}


def swept(one: Swept) -> Shape:
    """What became of one repo in a sweep."""
    snapshot = one.synced.snapshot if one.synced else None
    return {
        "repo": one.repo.name,
        "snapshot": snapshot and snapshot.number,
        "taken_at": snapshot and at(snapshot.taken_at),
        "new": one.synced.new if one.synced else False,
        "archived": one.synced is None and one.error is None,
        "error": one.error and failure(one.error)["error"],
    }


def failure(one: EverrefError) -> Shape:
    """An error of ours."""
    return error(one.kind, one.origin, str(one), not one.permanent)


def rebuilt(one: Rebuilt) -> Shape:
    """What was read back of one repo."""
    return {
        "repo": one.repo.name,
        "snapshots": one.snapshots,
        "added": one.added,
        "notes": one.notes,
        "was": one.was,
    }


def taken_up(one: ImportedState) -> Shape:
    """The state that was taken up."""
    return {"state": one.taken_at and at(one.taken_at), "added": dict(one.added), "unread": list(one.aside)}


def exported(one: Exported) -> Shape:
    """The state that was stored."""
    return {"state": one.key, "taken_at": at(one.taken_at), "bytes": one.bytes, "tables": dict(one.tables)}


def finding(one: Finding) -> Shape:
    """One thing that the doctor looked at."""
    return {"what": one.what, "value": one.value, "ok": one.ok, "advice": one.advice}


def told(one: Said) -> Shape:
    """Something that people were told, and where it went."""
    return plain(Message.of(one, one.reached))


def migrated(applied: Sequence[str]) -> Shape:
    """Which migrations were applied."""
    return {"applied": list(applied)}
