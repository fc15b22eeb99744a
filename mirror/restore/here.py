"""A repo that is pushed to, as the target of a restore: it is read and written here, by no remote.

Who calls: restore/restore and restore/undo, wherever they would list the refs of a host or push to it. What
is written is a snapshot as a push makes it (backup/receive), with the name of the person who restores.
"""

from collections.abc import Collection, Mapping, MutableMapping
from typing import Final

from mirror.backup import pushing, receive
from mirror.core import refs as names
from mirror.core.errors import Busy, EverrefError, Refused
from mirror.core.formats.receive_pack import Command
from mirror.core.model import HEAD, ObjectFormat, Reason, RefName, Refs, Repo, Target
from mirror.core.rules import receiving
from mirror.core.rules.roles import PersonId
from mirror.git.push import Answer
from mirror.git.view import View
from mirror.people import operator
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.people import people
from mirror.store.restore.restores import Cause

_MOVED: Final = "somebody has moved it since the plan was made"


async def listed(services: Services, repo: Repo) -> Refs:
    """Its refs as a host would list them: of its latest snapshot, symbolic refs resolved except HEAD."""
    now = await pushing.refs_now(services, repo)
    return {name: held if name == HEAD else names.resolve(now, name) or held for name, held in now.items()}


async def who(services: Services, cause: Cause | None) -> str:
    """The name that a restore's changes are recorded with, as a push's are."""
    if cause is None or cause.person_id is None:
        return operator.ACTOR
    found = await people.find(services.db, PersonId(cause.person_id))
    return found.name if found else operator.ACTOR


class _Unchanged(EverrefError):
    """Every ref is where it is to be."""


async def push(
    services: Services,
    moment: View,
    repo: Repo,
    seen: Refs,
    wanted: Refs,
    removed: Collection[RefName],
    by: str,
    said: MutableMapping[RefName, Answer],
) -> None:
    """Give these refs their targets and remove those, by one snapshot; `said` gets the result of each.

    Each is written if and only if it still is as `seen`, or is already as wanted; that is decided under the
    repo's lease, for which this waits as a push does. `moment` has the objects; those that the repo lacks, as
    where another repo is restored into it, are read there and proved. HEAD is written as it is given.

    Safe to run twice: what a killed run has written is found and left. Raises what `receive.received` does;
    where the snapshot may exist nevertheless, `said` has the refs without a result.
    """
    commands = [Command(name, seen.get(name), target) for name, target in wanted.items() if name != HEAD]
    commands += [Command(name, seen[name], None) for name in removed if name in seen and name not in wanted]
    head = wanted.get(HEAD)
    asked = {*(one.name for one in commands), *({HEAD} if head else ())}
    if not asked:
        return
    _check_format(repo, moment.object_format)
    answers: dict[RefName, Answer] = {}

    def decide(old: Refs, _: ObjectFormat | None) -> Refs:
        judged = receiving.received(old, commands)
        answers.update({name: Answer(True) for name in asked} | _refused(judged.refused))
        after = dict(judged.refs)
        if head is not None and old.get(HEAD) in (seen.get(HEAD), head):
            after[HEAD] = head
        elif head is not None:
            answers.update(_refused({HEAD: receiving.MOVED}))
        if after == old:
            raise _Unchanged("nothing changes")
        return after

    said.update({name: Answer(None, "Everref stopped while it was saved") for name in asked})
    try:
        await receive.take(services, repo, moment, decide, by=by, reason=Reason.MANUAL)
    except _Unchanged:
        pass
    except EverrefError as error:
        if not (error.is_shared or isinstance(error, Busy)):  # see receive.received: there is no snapshot
            for name in asked:
                del said[name]
        raise
    said.update(answers)
    failpoints.reached("restore: saved here")


def _check_format(repo: Repo, object_format: ObjectFormat) -> None:
    """Raise Refused where nothing was pushed yet, and objects of another format are expected."""
    if repo.object_format not in (None, object_format):
        raise Refused(
            f"{repo.name} has {repo.object_format} objects, and this moment has {object_format} ones: "
            "restore it to another repository"
        )


def _refused(why: Mapping[RefName, str]) -> dict[RefName, Answer]:
    return {
        name: Answer(False, _MOVED if one == receiving.MOVED else one, ours=one == receiving.MOVED)
        for name, one in why.items()
    }


def head_of(chosen: Refs, seen: Refs, *, whole: bool) -> Target | None:
    """Where a restore leads HEAD, where that is part of it: of all refs, or into a repo without branches.

    None: HEAD stays as it is, as whoever asks for one branch asks for no other default branch.
    """
    is_empty = not any(name.startswith(b"refs/heads/") for name in seen)
    return chosen.get(HEAD) if whole or is_empty else None
