"""The JSON that other programs rely on: values in, one object out. A key that is here stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mirror.core.model import RefName, Repo, Target
from mirror.core.refs import shown, shown_as, shown_text
from mirror.core.rules.pushes import Lost

if TYPE_CHECKING:
    from mirror.backup.sync import Synced
    from mirror.core.errors import EverrefError
    from mirror.core.quotas import Use
    from mirror.discovery.choose import Chosen
    from mirror.discovery.webhook import NewHook
    from mirror.jobs.sweep import Swept
    from mirror.people.accounts import KnownPerson
    from mirror.restore.drill import Drilled
    from mirror.restore.restore import RefResult, Restored, RestorePlan
    from mirror.restore.undo import UndoPlan
    from mirror.store.backup.history import Logged
    from mirror.store.discovery.connections import Connection
    from mirror.store.discovery.discovered import Counts
    from mirror.store.jobs.jobs import JobId
    from mirror.store.people.tokens import ApiToken
    from mirror.store.repos import Overview
    from mirror.upkeep.compact import Compacted
    from mirror.upkeep.doctor import Finding
    from mirror.upkeep.prune import Pruned
    from mirror.upkeep.rebuild import Rebuilt
    from mirror.upkeep.reencrypt import Rotated
    from mirror.upkeep.state import Exported, TakenUp
    from mirror.upkeep.verify import Verified

Shape = dict[str, Any]


def at(time: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds, always as long."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def error(kind: str, origin: str, message: str, retry: bool) -> Shape:
    """Any failure, as it goes to standard error."""
    return {"error": {"class": kind, "origin": origin, "message": message, "retry": retry}}


def _value(key: str, value: bytes | None) -> Shape:
    return {key: None} if value is None else dict(shown_as(key, value))


def backup(done: Synced, seconds: float) -> Shape:
    """What a backup did; with nothing new, the latest snapshot."""
    snapshot = done.snapshot
    part = snapshot.bundle if done.new else None
    return {
        "repo": done.repo.name,
        "snapshot": snapshot.number,
        "taken_at": at(snapshot.taken_at),
        "refs": snapshot.refs_count,
        "changes": snapshot.changes_count if done.new else 0,
        **_value("head", snapshot.head),
        "bundle": part and {"key": part.key, "bytes": part.bytes, "sha256": part.sha256},
        "new": done.new,
        "seconds": round(seconds, 3),
    }


def kept(row: Overview) -> Shape:
    """One repo that is kept."""
    return {
        "repo": row.called,
        "team": row.team,
        "url": row.repo.url,
        "snapshots": row.snapshots,
        "refs": row.refs,
        "bytes": row.bytes,
        "large_files_not_saved": row.large_files,
        "protected_as_of": row.protected_as_of and at(row.protected_as_of),
        "state": row.state,
        "damage": row.damage and {"message": row.damage.message, "found_at": at(row.damage.at)},
        "behind_since": row.behind_since and at(row.behind_since),
        "failure": row.failure
        and {
            "class": row.failure.kind,
            "message": row.failure.message,
            "since": at(row.failure.since),
        },
    }


def change(one: Logged | Lost) -> Shape:
    """One ref's move, or a push that could not be rescued."""
    if isinstance(one, Lost):
        return {
            "snapshot": one.snapshot,
            "at": at(one.at),
            **shown(one.name),
            **_value("old", one.old),
            **_value("new", one.new),
            "kind": None,
            "by": one.by,
            "rescued": False,
            "why": one.why,
        }
    move = one.change
    return {
        "snapshot": one.snapshot,
        **({"moment": one.moment} if one.moment else {}),
        "at": at(one.at),
        **shown(move.name),
        **_value("old", move.old),
        **_value("new", move.new),
        "kind": move.kind.value,
        "by": move.by,
    }


def ref(name: RefName, target: Target) -> Shape:
    """One ref as it was."""
    return {**shown(name), **_value("target", target)}


def _results(refs: Iterable[RefResult]) -> list[Shape]:
    return [{**ref(one.name, one.target), "result": one.result, "why": one.why} for one in refs]


def plan(made: RestorePlan, to: str | None) -> Shape:
    """What a restore would do."""
    return {
        "repo": made.repo.name,
        **made.snapshot.numbers,
        "taken_at": at(made.snapshot.taken_at),
        "to": to,
        "steps": list(made.steps),
        "refs": _results(made.refs),
    }


def restored(done: Restored, job: JobId | None = None, undo_of: JobId | None = None) -> Shape:
    """What a restore did, or the undo of one."""
    counts = Counter(one.result for one in done.refs)
    return {
        "repo": done.repo.name,
        **done.snapshot.numbers,
        "refs": _results(done.refs),
        "verified": done.verified,
        "counts": dict(counts),
        "skipped": [
            {"why": one.why, "refs": one.refs, "names": [shown_text(name) for name in one.names]}
            for one in done.skipped
        ],
        "said": list(done.said),
        "kept": done.kept[0].name if done.kept else None,
        "kept_snapshot": done.kept[1].number if done.kept else None,
        "job": None if job is None else str(job),
        "undo_of": None if undo_of is None else str(undo_of),
    }


def undo_plan(made: UndoPlan, repo: Repo, job: JobId) -> Shape:
    """What undoing a restore would do."""
    return {"repo": repo.name, "undo_of": str(job), "to": made.to.url, "refs": _results(made.refs)}


def verified(found: Verified, seconds: float) -> Shape:
    """What a verification found."""
    return {
        "repo": found.repo.name,
        "snapshots": found.snapshots,
        "parts": found.parts,
        "bytes": found.bytes,
        "ok": not found.problems,
        "problems": list(found.problems),
        "damaged": list(found.damaged),
        "strays": list(found.strays),
        "seconds": round(seconds, 3),
    }


def drilled(found: Drilled) -> Shape:
    """The evidence of a drill."""
    return {
        "repo": found.repo.name,
        **found.snapshot.numbers,
        "refs": found.refs,
        "bytes": found.bytes,
        "ok": not found.problems,
        "problems": list(found.problems),
        "large_files_not_saved": found.large_files.files,
        "seconds": round(found.seconds, 3),
    }


def compacted(done: Compacted) -> Shape:
    """What became of one repo's parts."""
    return {
        "repo": done.repo.name,
        "merged": done.merged,
        "parts_before": done.parts_before,
        "parts_after": done.parts_after,
        "bytes_written": done.bytes_written,
    }


def pruned(done: Pruned) -> Shape:
    """What was deleted."""
    return {
        "deleted": list(done.deleted),
        "bytes": done.bytes,
        "waiting": done.waiting,
        "locked": list(done.locked),
        "locked_until": done.locked_until and at(done.locked_until),
    }


def hook(given: NewHook) -> Shape:
    """A webhook; its secret once."""
    return {"repo": given.repo.name, "forge": given.forge, "url": given.url, "secret": given.secret}


def unhooked(repo: Repo) -> Shape:
    """A webhook is forgotten."""
    return {"repo": repo.name, "removed": True}


def connected(made: Connection, counts: Counts, chosen: Sequence[Chosen]) -> Shape:
    """An account that is connected, and what was chosen of it."""
    return {
        "connection": str(made.id),
        "forge": made.forge,
        "host": made.host,
        "login": made.login,
        "repositories": counts.all,
        "kept": counts.chosen,
        "chosen": [{"repo": one.repo.name, "hook": one.hook.value, "why": one.why} for one in chosen],
    }


def connection(made: Connection, counts: Counts) -> Shape:
    """An account that is connected."""
    return {
        "connection": str(made.id),
        "forge": made.forge,
        "host": made.host,
        "login": made.login,
        "state": made.state,
        "why": made.why,
        "everything": made.everything,
        "only": list(made.patterns),
        "repositories": counts.all,
        "kept": counts.chosen,
        "listed_at": made.listed_at and at(made.listed_at),
    }


def token(raw: str, made: ApiToken) -> Shape:
    """An API token, once."""
    return {
        "name": made.name,
        "token": raw,
        "team": made.team.name,
        "scopes": sorted(made.scopes),
        "expires_at": made.expires_at and at(made.expires_at),
    }


def ssh_key(public: str) -> Shape:
    """A team's deploy key."""
    return {"public_key": public}


def limits(team: str, uses: Sequence[Use]) -> Shape:
    """What a team uses of its limits."""
    return {"team": team, "limits": [_limit(one) for one in uses]}


def _limit(one: Use) -> Shape:
    used = one.used if one.limit.counted else None
    return {"name": one.limit.name, "used": used, "most": one.most, "own": one.own}


def link(url: str, until: datetime, known: KnownPerson | None) -> Shape:
    """A one-time link, and whom it lets in, where an e-mail address said that."""
    person = known and {
        "name": known.person.name,
        "email": known.person.email,
        "email_proved": False,
        "created_at": at(known.person.created_at),
        "teams": [{"name": one.team.name, "role": one.role} for one in known.teams],
        "identities": [{"login": one.login, "host": one.host} for one in known.identities],
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


def taken_up(one: TakenUp) -> Shape:
    """The state that was taken up."""
    return {"state": one.taken_at and at(one.taken_at), "added": dict(one.added), "unread": list(one.aside)}


def exported(one: Exported) -> Shape:
    """The state that was stored."""
    return {"state": one.key, "taken_at": at(one.taken_at), "bytes": one.bytes, "tables": dict(one.tables)}


def finding(one: Finding) -> Shape:
    """One thing that the doctor looked at."""
    return {"what": one.what, "value": one.value, "ok": one.ok, "advice": one.advice}


def migrated(applied: Sequence[str]) -> Shape:
    """Which migrations were applied."""
    return {"applied": list(applied)}
