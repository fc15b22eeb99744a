"""The default branch of a repo that is pushed to: no push moves HEAD, so people say where it leads.

Who calls: the page of a repo's settings, the API and the command `create`.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from mirror.backup import pushing, receive
from mirror.core import refs
from mirror.core.errors import Corrupt, EverrefError, NotFound, UsageError
from mirror.core.model import HEAD, SYMBOLIC, ObjectFormat, Reason, Refs, Repo, Target, has_remote
from mirror.core.progress import Progress
from mirror.core.refs import shown_text
from mirror.core.rules import receiving
from mirror.services.open import Services
from mirror.store.backup import snapshots
from mirror.store.browse import refs_shown


class _Nothing:
    """The source of a snapshot that brings no object."""

    is_exact: Final = True

    async def fetch(
        self, wants: Sequence[Target], haves: Sequence[Target], progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        """Nothing is there to fetch: all that the refs hold was saved before."""
        if wants:
            raise Corrupt("an object that was saved is not there any more; nothing was changed")
        yield b""


class _Unchanged(EverrefError):
    """HEAD leads there already."""


async def of(services: Services, repo: Repo) -> str:
    """The branch that HEAD leads to, as people call it; "": nothing is saved yet, or HEAD leads to none."""
    last = await snapshots.latest(services.db, repo.id)
    found = await refs_shown.targets_at(services.db, repo.id, [HEAD], last.number) if last else {}
    head = found.get(HEAD)
    return called(head) if head and refs.is_symbolic(head) else ""


def called(head: Target) -> str:
    """The branch of a symbolic HEAD as people call it."""
    return shown_text(refs.symbolic_target(head)).removeprefix("refs/heads/")


async def set(services: Services, repo: Repo, branch: str, by: str) -> bool:
    """Lead HEAD to this branch, by one snapshot; `by` is in its history. False: it leads there already.

    Before the first push any name will do: it counts if that push brings such a branch. Later it must be
    there. Safe to run twice. Raises UsageError about the field `default_branch`, NotFound, Refused while
    the repo is paused, and Busy where another run keeps it for longer than a push waits.
    """
    if has_remote(repo.url):
        raise UsageError(
            f"the default branch of {repo.name} is its host's: change it there", field="default_branch"
        )
    head = Target(SYMBOLIC + named(branch))
    await pushing.check_not_paused(services, repo)

    def decide(old: Refs, _: ObjectFormat | None) -> Refs:
        if old.get(HEAD) == head:
            raise _Unchanged("HEAD leads there already")
        if refs.symbolic_target(head) not in old and old.keys() - {HEAD}:
            raise NotFound(f"{repo.name} has no branch {called(head)}; push it first")
        return {**old, HEAD: head}

    last = await snapshots.latest(services.db, repo.id)
    kept = last.object_format if last else pushing.format_of(repo)
    try:
        await receive.received(services, repo.id, _Nothing(), kept, decide, by=by, reason=Reason.MANUAL)
    except _Unchanged:
        return False
    return True


def named(text: str) -> bytes:
    """The branch that is meant by what somebody typed. Raises UsageError about the field `default_branch`."""
    try:
        return receiving.branch(text.strip())
    except UsageError:
        raise UsageError("name a branch like main or release/1", field="default_branch") from None
