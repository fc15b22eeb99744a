"""Bringing a moment back as a bundle, as a directory, or by a push to a remote: plan, do, check.

Who calls: the pages and the API for a plan, jobs/run and jobs/attended for a push, the command `restore`
for files, restore/export for a bundle to download.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from mirror.backup import damage, hydrate
from mirror.core import refs
from mirror.core.errors import (
    Busy,
    Corrupt,
    Damaged,
    EverrefError,
    NotFound,
    Origin,
    Refused,
    UsageError,
    whose,
)
from mirror.core.formats import bundle
from mirror.core.formats.bundle import Header
from mirror.core.globs import told
from mirror.core.model import HEAD, SYMBOLIC, RefName, Refs, Remote, Repo, Snapshot, Target, has_remote
from mirror.core.refs import Move, from_shown, shown_as
from mirror.core.rules.history import plan as planning
from mirror.core.rules.history.plan import Hidden, Lease, RefAction, Step, Wrote
from mirror.git import address, disk, pack, push, read, view
from mirror.git.push import Answer, Destination
from mirror.git.view import View
from mirror.restore import here, target
from mirror.services import failpoints, remote
from mirror.services.open import Services
from mirror.services.reading import reading
from mirror.store.backup import history, snapshots
from mirror.store.restore import restores
from mirror.store.restore.restores import Cause, Restore

Bring = Mapping[RefName, bytes]  # new name -> the ref of the moment, or the commit, that gets it
NOTHING: Final[Bring] = MappingProxyType({})
PATIENCE: Final = 3600.0  # seconds to wait while another restore or a page reads the same from the vault
Result = Literal["created", "updated", "unchanged", "refused", "skipped", "removed", "diverged"]
STEPS: Final = ("restore: head pushed", "restore: pushed")  # the failpoints of `batches`
_NAMED: Final = 3  # refs that are named where many have the same result
_WILL: dict[str, Result] = {
    "create": "created",
    "update": "updated",
    "unchanged": "unchanged",
    "refused": "refused",
    "skipped": "skipped",
    "remove": "removed",
    "diverged": "diverged",
}


@dataclass(frozen=True, slots=True)
class What:
    """What of a moment is restored, and how a remote takes it."""

    globs: Sequence[str] = ()  # the refs that match; empty: all of them
    bring: Bring = field(default_factory=lambda: NOTHING)  # these alone, under names of their own
    hidden: Hidden = "skip"
    force: bool = False  # overwrite what the remote holds
    missing: bool = False  # create what the remote does not have, and leave everything else there as it is
    leases: Sequence[Lease] = ()  # instead of all that: a rollback of these refs

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> "What":
        """As a job was asked for it."""
        bring = {RefName(from_shown(one, "as")): from_shown(one, "from") for one in asked.get("bring", ())}
        globs, hidden = asked.get("globs", ()), asked.get("hidden", "skip")
        return cls(globs, bring, hidden, asked.get("force", False), asked.get("missing", False))

    @property
    def chosen(self) -> dict[str, Any]:
        """Which refs, as a job is asked for them; empty: all.

        A job that has ended well (state `done`) tells by this what was brought back, and from when:
        `asked.snapshot` and `asked.moment` name the moment; `asked.bring` has a pair of `from` (the ref,
        or a commit's id) and `as` (the ref that it became); `asked.globs` the refs that were put back
        under their own names, with `asked.force` where they were overwritten; neither means all of them.
        `from_b64` and `as_b64` stand instead for names that are no UTF-8. `asked.kept` is the repo that it
        went to, `asked.new` or `asked.to` another target.
        """
        if self.bring:
            return {
                "bring": [shown_as("as", name) | shown_as("from", old) for name, old in self.bring.items()]
            }
        return {"globs": list(self.globs)} if self.globs else {}


ALL: Final = What()


@dataclass(frozen=True, slots=True)
class RefResult:
    """What became of one ref."""

    name: RefName  # as the snapshot has it
    target: Target
    result: Result
    why: str | None  # None: nothing to explain
    old: Target | None = (
        None  # what the remote held under that name; None: nothing, or the remote was not asked
    )


@dataclass(frozen=True, slots=True)
class Alike:
    """Refs that came to the same for the same reason."""

    why: str | None
    refs: int
    names: tuple[RefName, ...]  # the first of them


def alike(refs: Iterable[RefResult], result: Result) -> list[Alike]:
    """The refs that came to this, drawn together by reason, the most first."""
    found: dict[str | None, list[RefName]] = {}
    for ref in refs:
        if ref.result == result:
            found.setdefault(ref.why, []).append(ref.name)
    told = [Alike(why, len(names), tuple(names[:_NAMED])) for why, names in found.items()]
    return sorted(told, key=lambda one: -one.refs)


@dataclass(frozen=True, slots=True)
class Restored:
    """How a restore ended."""

    repo: Repo
    snapshot: Snapshot
    refs: tuple[RefResult, ...]
    verified: bool  # every ref that was written was read back equal
    kept: tuple[Repo, Snapshot] | None = None  # has what was overwritten; None: nothing was overwritten
    said: tuple[str, ...] = ()  # what the remote told of what it refused, in its own words
    digest: str | None = (
        None  # of the refs as the target lists them, which is as wanted; None: not all arrived
    )

    @property
    def skipped(self) -> list[Alike]:
        """What was left out, by reason."""
        return alike(self.refs, "skipped")


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore would do, computed before anything is done."""

    repo: Repo
    snapshot: Snapshot
    steps: tuple[str, ...]
    refs: tuple[RefResult, ...]
    bytes: int = 0  # of the parts to read
    held: frozenset[Target] = frozenset()  # what the target lists now

    @property
    def moves(self) -> list[Move]:
        """What would change at the target, and what is refused for what it holds: overwritten refs first."""
        found = [
            (ref.name, ref.old, ref.target)
            for ref in self.refs
            if (ref.result in ("updated", "created") or (ref.result == "refused" and ref.old))
            and ref.name != HEAD  # which has no commits of its own
        ]
        return sorted(found, key=lambda move: move[1] is None)


async def plan(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    what: What = ALL,
    to: Remote | None = None,
    *,
    new: bool = False,
) -> RestorePlan:
    """What restoring this snapshot would read and write, ref by ref; asks the target which refs it has.

    A `new` target is still to be made, and has none. Raises Damaged, with the nearest whole moments, where
    a part that would be read is known to be damaged.
    """
    chosen = await _chosen(services, repo, snapshot, what)
    parts = await steps(services, repo, snapshot, pushes=to is not None)
    words = [_step_words(step) for step in parts]
    size = sum(step.part.bytes for step in parts)
    if to is None:
        results = tuple(RefResult(name, target, "created", None) for name, target in chosen.items())
        return RestorePlan(repo, snapshot, tuple(words), results, size)
    listed = {} if new else await listed_at(services, to)
    actions = _actions(chosen, listed, what, to)
    if _is_stopped(actions, what.force):
        words = [f"push nothing to {to.shown}, as refs are refused"]
        results = tuple(_not_pushed(one, {}) for one in actions)
        return RestorePlan(repo, snapshot, tuple(words), results, size, _ids(listed))
    writes = [action for action in actions if action.action in planning.WRITES]
    if to.here:
        words.append(f"save a snapshot of {to.shown} in which {len(writes)} of {len(actions)} refs change")
    else:
        words.append(f"push {len(writes)} of {len(actions)} refs to {to.url}")
        words.append(f"list the refs of {to.url} and compare them")
    results = tuple(foreseen(action) for action in actions)
    return RestorePlan(repo, snapshot, tuple(words), results, size, _ids(listed))


async def steps(services: Services, repo: Repo, snapshot: Snapshot, *, pushes: bool) -> list[Step]:
    """What restoring this snapshot would read. Raises Damaged, with the nearest whole moments, where a part
    is missing or known to be damaged, unless this machine's pool has all that a push needs.
    """
    parts = await hydrate.steps_to(services, repo, snapshot)
    if not pushes or not await hydrate.is_pooled(services, repo, snapshot):
        await damage.check(services, repo, parts)
    return parts


def _ids(listed: Refs) -> frozenset[Target]:
    return frozenset(target for target in listed.values() if not refs.is_symbolic(target))


def _step_words(step: Step) -> str:
    reach = "" if step.upto is None else f", up to snapshot #{step.upto}"
    part = step.part
    return f"read {part.key} (snapshots #{part.first} to #{part.last}, {part.bytes} bytes){reach}"


def foreseen(action: RefAction) -> RefResult:
    """The result that is planned for a ref."""
    return RefResult(action.name, action.target, _WILL[action.action], action.why, action.old)


async def _chosen(services: Services, repo: Repo, snapshot: Snapshot, what: What) -> dict[RefName, Target]:
    """The refs to restore. HEAD is part of a whole restore, and of a partial one if its branch is chosen."""
    known = await history.refs_at(services.db, repo.id, snapshot.number, snapshot.moment)
    if what.bring:
        return planning.brought(known, what.bring)
    if not what.globs:
        return dict(known)
    meant = await refs.meant_by(known, what.globs)
    chosen = {name: target for name, target in known.items() if name != HEAD and name in meant}
    if not chosen:
        raise NotFound(f"no ref of {repo.name} at {snapshot.label} matches {told(what.globs)}")
    head = known.get(HEAD)
    if head and refs.is_symbolic(head) and refs.symbolic_target(head) in chosen:
        chosen[HEAD] = head
    return chosen


Write = Callable[[AsyncIterator[bytes]], Awaitable[None]]  # starts over when it is called again


@dataclass(frozen=True, slots=True)
class Bundled:
    """A bundle that was written."""

    repo: Repo
    snapshot: Snapshot
    refs: Refs  # of the moment, as they were chosen
    heads: Refs  # as the bundle has them

    def restored(self, verified: bool) -> Restored:
        """The result of the restore that wrote this bundle."""
        results = tuple(
            RefResult(name, target, "created", None) for name, target in sorted(self.refs.items())
        )
        return Restored(self.repo, self.snapshot, results, verified)


async def bundled(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    write: Write,
    what: What = ALL,
) -> Bundled:
    """Write this moment as a git bundle that holds what the moment reaches and nothing else.

    It is spliced from the parts where no ref had been overwritten before that moment, else packed by
    git from a view, so that commits that were force-pushed away are left out. Where this disk has damaged
    the pool, `write` is called a second time.
    """
    chosen = await _chosen(services, repo, snapshot, what)
    heads = {name: target for name in chosen if (target := refs.resolve(chosen, name))}
    if not heads:
        raise Refused(f"{repo.name} at {snapshot.label} has no refs, which a bundle cannot hold; use --dir")
    parts = await hydrate.steps_to(services, repo, snapshot)
    failpoints.reached("restore: planned")
    header = bundle.encode(Header(snapshot.object_format, (), heads))
    # The pack log up to a moment within a snapshot also has the objects of later moments of that snapshot.
    overwritten = bool(snapshot.moment) or await history.overwritten(services.db, repo.id, snapshot.number)

    async def spliced() -> None:
        async with reading(services, repo.id):
            try:
                await write(_bundle(header, hydrate.spliced(services, parts, snapshot.object_format)))
                return
            except Damaged as error:
                if not damage.doubt(services, parts, error):
                    raise
        await spliced()  # from a copy of the vault

    async def packed() -> None:
        async with moment_of(services, repo, snapshot, chosen) as moment:
            await check_held(repo, moment, heads)
            tips = sorted(set(heads.values()))
            await write(_bundle(header, pack.make_checked(services.git, moment.path, tips)))

    if not what.chosen and not overwritten and all(step.exact for step in parts):
        await hydrate.roomy(services, spliced)
    else:
        await hydrate.mended(services, repo, packed)
    return Bundled(repo, snapshot, chosen, heads)


async def to_bundle(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    path: Path,
    what: What = ALL,
) -> Restored:
    """Write this moment as a bundle into a file, which is overwritten only by `force`.

    Safe to run twice: the file appears whole, under its own name, at the end.
    """
    _check_file(path, what.force)
    draft = await asyncio.to_thread(_draft, path)
    try:
        made = await bundled(services, repo, snapshot, partial(disk.write_file, draft), what)
        failpoints.reached("restore: written")
        found = await asyncio.to_thread(_heads_of, draft)
        _place(draft, path, what.force)
        await disk.finish(partial(disk.sync_path, path.parent))
        failpoints.reached("restore: in place")
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return await recorded(services, made.restored(found == made.heads), f"bundle {path.name}")


async def _bundle(header: bytes, pack: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pack):
        yield header
        async for chunk in pack:
            yield chunk


def _draft(path: Path) -> Path:
    """Where this run writes until the file is whole; files that killed runs left beside it are removed."""
    start = f".{path.name}.everref-part-"
    for left in path.parent.iterdir():
        if (
            left.name.startswith(start)
            and not Path("/proc", left.name[len(start) :].partition("-")[0]).exists()
        ):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return path.with_name(f"{start}{os.getpid()}-{secrets.token_hex(4)}")


def _place(draft: Path, path: Path, force: bool) -> None:
    """Move the finished draft to its path. Raises UsageError where something else is there by now."""
    try:
        if force:
            os.replace(draft, path)
        else:
            os.link(draft, path)
            draft.unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another name") from None


def _check_file(path: Path, force: bool) -> None:
    """Raise UsageError where a bundle may not be written."""
    if path.is_dir() or (path.exists() and not force):
        raise UsageError(f"{path} exists already; choose another name, or --force to replace it")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent} to write {path.name} into")


def _check_directory(path: Path) -> None:
    """Raise UsageError where a repository may not be made."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} exists and is not an empty directory; choose another place")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent} to make {path.name} in")


def _heads_of(path: Path) -> Refs:
    """The refs that a bundle file's own header names."""
    with path.open("rb") as file:
        start = file.read(1 << 16)
        while (found := bundle.decode(start)) is None:
            more = file.read(len(start))
            if not more:
                raise Corrupt(f"{path.name} was written without a whole header; please report this as a bug")
            start += more
    return found[0].refs


async def to_directory(
    services: Services, repo: Repo, snapshot: Snapshot, path: Path, what: What = ALL
) -> Restored:
    """Make a bare repository with this moment's refs, symbolic refs and HEAD included.

    Safe to run twice, also at once: everything is written into a directory beside it, which is renamed
    at the end; a later run removes what a killed run left.
    """
    _check_directory(path)
    chosen = await _chosen(services, repo, snapshot, what)
    parts = await hydrate.steps_to(services, repo, snapshot)
    failpoints.reached("restore: planned")
    draft = await asyncio.to_thread(_draft, path)
    try:
        await view.create(draft, snapshot.object_format)
        await hydrate.fill(services, draft, snapshot.object_format, parts, durable=True)
        failpoints.reached("restore: written")
        await view.write_refs(draft, chosen)
        failpoints.reached("restore: refs written")
        verified = await reads_back(services, draft, chosen)
        _place(draft, path, force=True)  # a directory replaces only an empty one
        await disk.finish(partial(disk.sync_path, path.parent))
        failpoints.reached("restore: in place")
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        raise
    results = tuple(RefResult(name, target, "created", None) for name, target in sorted(chosen.items()))
    return await recorded(services, Restored(repo, snapshot, results, verified), f"directory {path.name}")


async def reads_back(services: Services, path: Path, wanted: Refs) -> bool:
    """Whether git lists exactly these refs there and finds the object of each."""
    found = await read.for_each_ref(services.git, path)
    expected = {name: target for name in wanted if name != HEAD and (target := refs.resolve(wanted, name))}
    return found == expected and not await read.missing(path, set(expected.values()))


@asynccontextmanager
async def moment_of(services: Services, repo: Repo, snapshot: Snapshot, chosen: Refs) -> AsyncIterator[View]:
    """A view of these refs over all objects of the repo; a sync may grow the pool meanwhile."""
    latest = await snapshots.latest(services.db, repo.id) or snapshot
    room = services.disk.root / "restores"  # not in the scratch space of syncs, which they empty; see settle
    async with hydrate.view_of(services, repo, latest, room, PATIENCE) as moment:
        failpoints.reached("restore: pool filled")
        await view.write_refs(moment.path, chosen)
        yield moment


async def check_held(repo: Repo, moment: View, wanted: Refs) -> None:
    """Raise NotFound unless the moment has every object that these refs point to."""
    lacking = await read.missing(moment.path, _ids(wanted))
    if lacking:
        raise NotFound(f"{repo.name} holds no object {min(lacking).decode()}; look at its lost commits")


async def to_remote(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    to: Remote,
    what: What = ALL,
    cause: Cause | None = None,
) -> Restored:
    """Push this moment to a remote and check, ref by ref, what arrived there.

    1. List the target and plan; without `force` nothing at all is pushed if
       something would be overwritten. Nothing is ever deleted, but by a rollback what its plan says.
    2. Where a job is the `cause` and something will be overwritten, back up the target
       (restore/target), and plan again.
    3. Record what will be written, for the same job, so that it can be undone (restore/undo).
    4. Push HEAD's branch first to a target without branches: most hosts make it the default one.
    5. Push the rest.
    6. List the target again; what counts is what is there now. What was refused is taken back from that
       record.

    Safe to run twice: refs that have arrived are `unchanged` the second time, or reported as
    written where an earlier run of the same job recorded that.
    """
    chosen = {} if what.leases else await _chosen(services, repo, snapshot, what)
    listed = await listed_at(services, to)
    actions = _actions(chosen, listed, what, to)
    kept = None
    if cause and any(action.action in _TAKES for action in actions):
        kept = await target.keep(services, repo, to)
        listed = await listed_at(services, to)
        actions = _actions(chosen, listed, what, to)
        await _check_kept(services, kept, actions)
    before = {one.name: one for one in await restores.written(services.db, cause.job_id)} if cause else {}
    failpoints.reached("restore: planned")
    where = f"push to {to.shown}"
    due = [action for action in actions if action.action in planning.WRITES]
    if not due or (not what.leases and _is_stopped(actions, what.force)):
        told = tuple(_not_pushed(action, before) for action in actions)
        sound = all(action.action != "refused" for action in actions)
        done = Restored(repo, snapshot, told, sound, kept, digest=_digest(actions, listed))
        return await recorded(services, done, where, cause)
    if cause:
        wrote = [Wrote(action.target_name, action.old, _goal(action)) for action in due]
        _check_ours(await restores.will_write(services.db, cause, wrote))
        failpoints.reached("restore: set down")
    writes = [action for action in due if action.action != "remove"]
    removed = [action.target_name for action in due if action.action == "remove"]

    async def check() -> None:
        if cause:  # it may have been undone meanwhile
            _check_ours(await restores.will_write(services.db, cause, ()))

    sending = Sending(
        to,
        listed,
        batches(writes, None if to.here else chosen.get(HEAD), listed),
        STEPS,
        removed,
        in_part=bool(what.leases),
        check=check,
        by=await here.who(services, cause),
    )
    try:
        await send(services, repo, snapshot, sending)
    except EverrefError:  # see push.push: what has no answer cannot have been written
        await _take_back(services, cause, [one for one in due if not _may_be_written(one, sending.said, {})])
        raise
    said = sending.said
    arrived = await listed_at(services, to)
    await _take_back(services, cause, [one for one in due if not _may_be_written(one, said, arrived)])
    results = tuple(outcome(action, arrived, said, before) for action in actions)
    equal = {action.target_name: arrived.get(action.target_name) == _goal(action) for action in due}
    written = [name for name in equal if said[name].ok or (said[name].ok is None and equal[name])]
    verified = bool(written) and all(equal[name] for name in written)
    if what.leases:  # else there is more to do: run again, it goes on
        verified = all(result.result != "refused" for result in results)
    done = Restored(repo, snapshot, results, verified, kept, remarks(said), _digest(actions, arrived))
    return await recorded(services, done, where, cause)


_TAKES: Final = frozenset({"update", "remove"})  # actions before which the target is backed up


def _actions(chosen: Refs, listed: Refs, what: What, to: Remote) -> list[RefAction]:
    """What a push to a target that lists these refs will do with each.

    A repo that is pushed to takes every name, and HEAD where that is part of what is restored.
    """
    if what.leases:
        return planning.rollback_actions(what.leases, listed)
    if to.here is None:
        return planning.push_actions(
            chosen, listed, force=what.force, hidden=what.hidden, missing=what.missing
        )
    actions = planning.push_actions(
        chosen, listed, force=what.force, missing=what.missing, refuses=lambda _: False
    )
    head = here.head_of(chosen, listed, whole=not (what.globs or what.bring))
    if head is None:
        return actions
    return [planning.head_action(head, listed, force=what.force, missing=what.missing), *actions]


def _goal(action: RefAction) -> Target | None:
    """What the remote has to list once a ref is written. None: no such ref."""
    return None if action.action == "remove" else action.target


def _digest(actions: Iterable[RefAction], listed: Refs) -> str | None:
    """The digest (core/refs) of all that was to be there, as the target lists it. None: not all is there."""
    if any(one.action == "remove" for one in actions):
        return None
    wanted = {one.target_name: one.target for one in actions if one.action != "skipped" and one.name != HEAD}
    there = {name: listed[name] for name in wanted if name in listed}
    return refs.digest(there) if there and there == wanted else None


def _check_ours(ours: bool) -> None:
    """Raise Busy where the job was ended or taken by another run meanwhile."""
    if not ours:
        raise Busy("this restore did not respond for too long and counts as failed; nothing more was pushed")


async def _take_back(services: Services, cause: Cause | None, refused: Sequence[RefAction]) -> None:
    """Keep an undo from touching what this restore did not write, whoever writes the same there later."""
    if cause and refused:
        await restores.did_not_write(services.db, cause, [one.target_name for one in refused])


def _may_be_written(action: RefAction, said: Mapping[RefName, Answer], arrived: Refs) -> bool:
    """Whether this restore wrote the ref, or may have: its connection broke before the answer."""
    answer = said.get(action.target_name)
    if answer is None or answer.ours:
        return False
    return answer.ok is not False or arrived.get(action.target_name) == _goal(action)


def remarks(said: Mapping[RefName, Answer]) -> tuple[str, ...]:
    """What the remote told of what it refused, each line once."""
    lines = (line for answer in said.values() if not answer.ok for line in answer.remarks)
    return tuple(dict.fromkeys(lines))


async def _check_kept(services: Services, kept: tuple[Repo, Snapshot], actions: Sequence[RefAction]) -> None:
    """Raise Busy unless everything that will be overwritten is in the backup made just before."""
    held = await history.refs_at(services.db, kept[0].id, kept[1].number)
    for action in actions:
        name = action.target_name
        if action.action in _TAKES and action.old not in (held.get(name), refs.resolve(held, name)):
            where = kept[0].url if has_remote(kept[0].url) else kept[0].name
            raise Busy(f"somebody is pushing to {where} right now, so nothing was overwritten; try again")


def batches(due: Sequence[RefAction], head: Target | None, listed: Refs) -> tuple[Refs, Refs]:
    """HEAD's branch, where the target has no branches yet; and the rest."""
    empty = not any(name.startswith(b"refs/heads/") for name in listed)
    first = {one.target_name: one.target for one in due if empty and head == SYMBOLIC + one.name}
    return first, {one.target_name: one.target for one in due if one.target_name not in first}


@dataclass(frozen=True, slots=True)
class Sending:
    """A push to a target, batch after batch, and what it has answered."""

    to: Remote
    listed: Refs
    batches: Sequence[Refs]
    steps: Sequence[str]  # the failpoint after each batch
    removed: Collection[RefName] = ()  # deleted with the last batch, if they still are as listed
    in_part: bool = False  # a ref whose objects are not kept any more is refused, and the others go on
    check: Callable[[], Awaitable[None]] | None = None  # before each batch: whether it may still be sent
    by: str = ""  # who restores, where the target is a repo that is pushed to
    option: str = ""  # of git push, where the target is known to understand it
    said: dict[RefName, Answer] = field(default_factory=dict)
    done: set[tuple[int, RefName]] = field(default_factory=set)  # batch and ref, once the target has it
    held: dict[RefName, Target] = field(default_factory=dict)  # what the target has, since it was listed


async def send(services: Services, repo: Repo, snapshot: Snapshot, sending: Sending) -> None:
    """Push each batch in turn; `sending.said` gets the remote's answer for each ref.

    A ref that is in several batches goes from one to the next. What has no answer was not written.
    """
    way, said = await way_to(services, sending.to, sending.listed), sending.said
    if isinstance(way, Destination):
        way = replace(way, option=sending.option)
    goal = {name: target for batch in sending.batches for name, target in batch.items()}

    async def all_batches() -> None:
        services.progress.phase("filling the pool")
        async with moment_of(services, repo, snapshot, goal) as moment:
            lacking = await read.missing(moment.path, _ids(goal)) if sending.in_part else set()
            said.update({name: _not_kept(repo) for name, oid in goal.items() if oid in lacking})
            await check_held(repo, moment, {name: oid for name, oid in goal.items() if oid not in lacking})
            for number, (batch, step) in enumerate(zip(sending.batches, sending.steps, strict=True)):
                left = {
                    name: oid
                    for name, oid in batch.items()
                    if oid not in lacking and (number, name) not in sending.done
                }
                is_last = number == len(sending.batches) - 1
                gone = [name for name in sending.removed if is_last and not _is_ok(said, name)]
                services.progress.phase(f"pushing {len(left) + len(gone)} refs")
                if sending.check:  # it may have slept since
                    await sending.check()
                listed = {**sending.listed, **sending.held}
                await write(services, moment, way, listed, left, gone, sending.by, said)
                written = [name for name in left if _is_ok(said, name)]
                sending.done.update((number, name) for name in written)
                sending.held.update((name, left[name]) for name in written)
                failpoints.reached(step)

    await sent_whole(services, repo, all_batches, said)


async def way_to(services: Services, to: Remote, listed: Refs) -> Destination | Repo:
    """How a target is written to: a remote by its checked addresses, a repo that is pushed to as it is."""
    return to.here or await pinned(services, to, listed)


async def write(
    services: Services,
    moment: View,
    way: Destination | Repo,
    listed: Refs,
    goal: Refs,
    removed: Collection[RefName],
    by: str,
    said: dict[RefName, Answer],
) -> None:
    """Write these refs to the target, and remove those, each if it still is as listed; `said` gets answers.

    See git/push for a remote, and restore/here, which records `by`, for a repo that is pushed to.
    """
    if isinstance(way, Repo):
        await here.push(services, moment, way, listed, goal, removed, by, said)
        return
    to = replace(way, listed=listed)
    said.update(await push.push(services.git, moment, to, goal, services.progress, removed))


def _is_ok(said: Mapping[RefName, Answer], name: RefName) -> bool:
    return name in said and said[name].ok is True


def _not_kept(repo: Repo) -> Answer:
    return Answer(False, f"{repo.name} no longer holds what it was", ours=True)


async def pinned(services: Services, to: Remote, listed: Refs) -> Destination:
    """The target with the addresses of its host, which are checked."""
    with whose(Origin.TARGET):
        return Destination(to, await address.check(to.url, services.settings.allow_private_remotes), listed)


async def sent_whole(
    services: Services, repo: Repo, send: Callable[[], Awaitable[None]], said: Mapping[RefName, Answer]
) -> None:
    """Send, and send the rest again where this disk has damaged the pool; see hydrate.mended.

    The remote finds the damage, as git does not check what it has packed before it sends it.
    `said` holds the remote's answers; `send` adds to it.
    """

    async def checked() -> None:
        await send()
        if any(answer.doubtful for answer in said.values()) and await hydrate.drop_broken(services, repo):
            await send()

    await hydrate.mended(services, repo, checked)


def _is_stopped(actions: Sequence[RefAction], force: bool) -> bool:
    """Whether one conflict stops the whole push; `_not_pushed` says so of each ref."""
    return not force and any(action.action == "refused" for action in actions)


def _not_pushed(action: RefAction, before: Mapping[RefName, Wrote]) -> RefResult:
    """Without --force one conflict stops the push: no remote that somebody uses is left half restored."""
    if action.action == "create":
        return RefResult(
            action.name, action.target, "refused", "not pushed, because other refs would be overwritten"
        )
    return _as_before(action, before)


def outcome(
    action: RefAction,
    arrived: Refs,
    said: Mapping[RefName, Answer],
    before: Mapping[RefName, Wrote] = MappingProxyType({}),
) -> RefResult:
    """What became of a ref, judged by what the remote lists now."""
    if action.action not in planning.WRITES:
        return _as_before(action, before)
    if arrived.get(action.target_name) == _goal(action):
        return foreseen(action)
    why = said[action.target_name].why or "it did not arrive"
    return RefResult(action.name, action.target, "refused", why, action.old)


def _as_before(action: RefAction, before: Mapping[RefName, Wrote]) -> RefResult:
    """The result of a ref that was not pushed: `unchanged` only if no earlier run of the job wrote it."""
    wrote = before.get(action.target_name)
    if action.action != "unchanged" or wrote is None or wrote.new != action.old:
        return foreseen(action)
    result: Result = "removed" if wrote.new is None else "updated" if wrote.old else "created"
    return RefResult(action.name, action.target, result, action.why, wrote.old)


async def listed_at(services: Services, to: Remote) -> Refs:
    """The refs of the target as they are now, symbolic refs resolved except HEAD."""
    return (await greeted(services, to))[0]


async def greeted(services: Services, to: Remote) -> tuple[Refs, bytes]:
    """The same, and what the target calls itself in git's protocol, if it says so."""
    services.progress.phase("listing the target")
    if to.here is not None:
        return await here.listed(services, to.here), b""
    async with remote.connected(services, to, origin=Origin.TARGET) as target:
        listing = await target.ls_refs()
        agent = target.agent
    found = {
        name: found if name == HEAD else refs.resolve(listing.refs, name) or found
        for name, found in listing.refs.items()
    }
    return found, agent


async def recorded(services: Services, done: Restored, where: str, cause: Cause | None = None) -> Restored:
    """Record the restore; the record is kept for ever."""
    counts: dict[str, int] = {}
    for ref in done.refs:
        counts[ref.result] = counts.get(ref.result, 0) + 1
    kept = (done.kept[0].id, done.kept[1].number) if done.kept else None
    record = Restore(
        snapshot=done.snapshot.number,
        destination=where,
        results=counts,
        verified=done.verified,
        finished_at=services.clock(),
        cause=cause,
        kept=kept,
        moment=done.snapshot.moment,
    )
    await restores.add(services.db, done.repo.id, record)
    failpoints.reached("restore: recorded")
    return done
