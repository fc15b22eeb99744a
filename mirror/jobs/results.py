"""What came of a piece of work, as a job keeps it and the command line prints it: values in, one object out.

What is kept of many lines or refs is `most` of them; None: all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.core.refs import shown_text
from mirror.core.words import rfc3339

if TYPE_CHECKING:
    from mirror.backup.sync import Synced
    from mirror.restore.drill import Drilled
    from mirror.restore.restore import Restored
    from mirror.upkeep.compact import Compacted
    from mirror.upkeep.verify import Verified

Result = dict[str, Any]


def synced(done: Synced) -> Result:
    """What a backup did; with nothing new, the latest snapshot."""
    snapshot = done.snapshot
    return {
        "new": done.new,
        **snapshot.numbers,
        "taken_at": rfc3339(snapshot.taken_at),
        "changes": snapshot.changes_count if done.new else 0,
        "refs": snapshot.refs_count,
        "bytes": snapshot.bundle.bytes if done.new and snapshot.bundle else 0,
    }


def compacted(done: Compacted) -> Result:
    """What became of a repo's parts."""
    return {
        "merged": done.merged,
        "parts_before": done.parts_before,
        "parts_after": done.parts_after,
        "bytes": done.bytes_written,
    }


def drilled(done: Drilled, most: int | None = None) -> Result:
    """The evidence of a drill."""
    return {
        **done.snapshot.numbers,
        "refs": done.refs,
        "bytes": done.bytes,
        "seconds": done.seconds,
        "problems": list(done.problems[:most]),
        "findings": list(done.findings[:most]),
        "large_files": done.large_files.files,
    }


def verified(found: Verified, most: int | None = None) -> Result:
    """What a verification found."""
    return {
        "snapshots": found.snapshots,
        "parts": found.parts,
        "bytes": found.bytes,
        "problems": list(found.problems[:most]),
        "strays": list(found.strays[:most]),
        "damaged": list(found.damaged[:most]),
    }


def restored(done: Restored, most: int | None = None) -> Result:
    """How a restore ended, what went wrong first."""
    counts: dict[str, int] = {}
    for ref in done.refs:
        counts[ref.result] = counts.get(ref.result, 0) + 1
    order = {"refused": 0, "skipped": 1}
    shown = sorted(done.refs, key=lambda ref: (order.get(ref.result, 2), ref.name))[:most]
    kept = {"kept": done.kept[0].name, "kept_snapshot": done.kept[1].number} if done.kept else {}
    digest = {"digest": done.digest} if done.digest else {}
    return {
        **kept,
        **digest,
        **done.snapshot.numbers,
        "verified": done.verified,
        "counts": counts,
        "skipped": [
            {"why": one.why, "refs": one.refs, "names": [shown_text(name) for name in one.names]}
            for one in done.skipped
        ],
        "said": list(done.said),
        "refs_total": len(done.refs),
        "refs": [
            {
                "name": shown_text(ref.name),
                "target": shown_text(ref.target),
                "result": ref.result,
                "why": ref.why,
                "old": None if ref.old is None else shown_text(ref.old),
            }
            for ref in shown
        ],
    }
