"""The files of a moment as a tar or zip, as `git archive` writes them. Who calls: pages, API and commands."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal, get_args

from mirror.core import refs as rules
from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.formats import objects
from mirror.core.model import Repo, Snapshot, Target
from mirror.git import serve
from mirror.git.run import GitFailed, explain
from mirror.restore import serving
from mirror.restore.serving import Served
from mirror.services.open import Services

Format = Literal["tar.gz", "zip", "tar"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SECONDS: Final = 3600.0  # for one archive to be made and read
LONGEST: Final = 8192  # bytes of a path


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be in an archive."""

    format: Format = "tar.gz"
    rev: bytes = b""  # a ref's name, whole or short, or a full id that the moment reaches; empty: HEAD
    path: bytes = b""  # a directory or file; empty: everything


def format_of(name: str) -> Format:
    """The format that a file's name ends in. Raises UsageError."""
    for one in FORMATS:
        if name.endswith(f".{one}"):
            return one
    raise UsageError("an archive's name must end with .tar.gz, .zip or .tar; give it one of these")


def name_of(repo: Repo, snapshot: Snapshot, format: Format) -> str:
    """What the archive is called where it is saved: api-12.tar.gz. Its files are in a folder of that name."""
    return f"{_folder(repo, snapshot)}.{format}"


def _folder(repo: Repo, snapshot: Snapshot) -> str:
    short = repo.name.rpartition("/")[2].removesuffix(".git")
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in short)
    return f"{plain.strip('-.') or 'everref'}-{snapshot.label.removeprefix('#')}"


async def made(
    services: Services, repo: Repo, snapshot: Snapshot, wanted: Wanted, globs: Sequence[str] = ()
) -> AsyncGenerator[bytes, None]:
    """The archive as git writes it, in a slot of `services.who`; with globs, of what these refs reach alone.

    Attributes of the moment count, as git-archive(1) says: export-ignore and export-subst. Raises NotFound
    for what the moment does not reach or have, Refused where a name in it is none for a file.
    """
    if len(wanted.path) > LONGEST or b"\0" in wanted.path:
        raise NotFound(f"{repo.name} has no path like that")
    async with (
        services.readers.clones.slot(services.who),
        serving.opened(services, repo, snapshot, globs) as served,
    ):
        oid = await _resolved(served, wanted.rev)
        size = 0
        try:
            async with aclosing(_archive(services, served, oid, wanted)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    yield chunk
        except GitFailed as failed:
            raise _meaning(failed, served, wanted) from None
        finally:
            if size:
                await serving.count(services, "archive", size)


async def _archive(
    services: Services, served: Served, oid: Target, wanted: Wanted
) -> AsyncGenerator[bytes, None]:
    path = wanted.path.strip(b"/")
    async with services.git.process(
        "archive",
        f"--format={wanted.format}",
        f"--prefix={_folder(served.repo, served.snapshot)}/",
        oid,
        *((b"--", path) if path else ()),
        git_dir=str(served.view.path),
        stdin=False,
        timeout=SECONDS,
        nice=serve.NICE,
    ) as child:
        async for chunk in child.stdout:
            yield chunk


async def _resolved(served: Served, rev: bytes) -> Target:
    """The object that a ref's name or a full id means, if the moment reaches it. Raises NotFound."""
    text = rev.decode("ascii", "replace").lower()
    of = f"{served.repo.name} at {served.snapshot.label}"
    if objects.is_id(text, served.snapshot.object_format):
        oid = Target(text.encode())
        try:
            await served.reached.check([oid])
        except NotFound:
            raise NotFound(f"{of} does not reach {text}") from None
        return oid
    for name in objects.candidates(rev) if b"\0" not in rev else []:
        if found := rules.resolve(served.refs, name):
            return found
    what = f"ref {rules.shown_text(rev)}" if rev else "HEAD that leads to a commit"
    raise NotFound(f"{of} has no {what}")


def _meaning(failed: GitFailed, served: Served, wanted: Wanted) -> Exception:
    """What git's refusal means."""
    of = f"{rules.shown_text(wanted.rev) or 'HEAD'} of {served.repo.name} at {served.snapshot.label}"
    if "did not match any files" in failed.stderr or "is outside repository" in failed.stderr:
        return NotFound(f"{of} has no {rules.shown_text(wanted.path)}")
    if "not a tree object" in failed.stderr:
        return NotFound(f"{of} has no files: it is neither a commit nor a directory")
    if "invalid path" in failed.stderr:
        return Refused(f"{of} has a file whose name is no name for a file; clone it instead")
    return explain(failed)
