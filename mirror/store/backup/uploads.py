"""Files that people upload to bring a repository in, for backup/uploads."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NewType, cast
from uuid import UUID, uuid4

from mirror.core.errors import OverLimit
from mirror.core.model import RepoId
from mirror.core.quotas import Limits
from mirror.core.rules.roles import PersonId
from mirror.core.words import size
from mirror.store.database import Db, storable, translating
from mirror.store.jobs.jobs import JobId
from mirror.store.people import quotas
from mirror.store.people.teams import TeamId

UploadId = NewType("UploadId", UUID)
State = Literal["coming", "proving", "done", "refused", "dropped"]

MOST_OF_PERSON: Final = 5  # that wait for bytes or a worker
MOST_OF_TEAM: Final = 20
SHOWN: Final = 20
LINKED_MORE: Final = 64 << 20  # bytes of links beyond three times the file: a small one is tried again too
_SELECT: Final = """
select upload.*, person.name as person from upload left join person on person.id = upload.person_id
"""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that somebody uploads, as far as it has come, or what became of it."""

    id: UploadId
    team_id: TeamId
    person_id: PersonId | None  # None: deleted since
    person: str | None  # the same by name
    file: str  # its name where it comes from
    name: str  # of the repo that it is to become, or be a snapshot of
    repo_id: RepoId | None  # None: not made yet, or gone
    keep_refs: bool  # refs that the file does not have stay
    bytes: int
    came: int
    linked: int  # bytes that may have been sent straight to the store, counted or not
    state: State
    why: str | None  # it was refused or dropped; None: it was not
    result: Mapping[str, Any] | None  # None: it is not done
    job_id: JobId | None  # None: not all has come
    began_at: datetime
    moved_at: datetime

    @property
    def is_open(self) -> bool:
        """Whether it may still become a snapshot."""
        return self.state in ("coming", "proving")

    @property
    def own_repo(self) -> RepoId:
        """The id of the repo that is made for it, so that one that a killed run made is known."""
        return RepoId(self.id)


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of a file's bytes, in the vault."""

    start: int
    bytes: int
    key: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that somebody wants to upload."""

    person_id: PersonId
    file: str
    name: str
    repo_id: RepoId | None  # None: a new repo
    keep_refs: bool
    bytes: int


@translating
async def begin(db: Db, team_id: TeamId, limits: Limits, wanted: Wanted, at: datetime) -> Upload:
    """Make room for a file. Raises OverLimit where the team could not store it, or too many come."""
    async with quotas.within(db, team_id, limits, at) as connection:
        row = await connection.fetchrow(
            """
            select count(*) as of_team, count(*) filter (where person_id = $2) as of_person,
              coalesce(sum(bytes), 0)::bigint as bytes
            from upload where team_id = $1 and state in ('coming', 'proving')
            """,
            team_id,
            wanted.person_id,
        )
        if row["of_person"] >= MOST_OF_PERSON or row["of_team"] >= MOST_OF_TEAM:
            raise OverLimit(
                f"{row['of_team']} uploads are under way already; finish or drop one of them first", "uploads"
            )
        for use in await quotas.uses(connection, team_id, limits, at, ["stored-bytes"]):
            if use.most is not None and use.used + row["bytes"] + wanted.bytes > use.most:
                raise OverLimit(
                    f"the file has {size(wanted.bytes)}, and the team has {use.said} {use.limit.label}; the"
                    " person who runs Everref can raise the limit with everref limits",
                    use.limit.name,
                )
        made = await connection.fetchrow(
            """
            insert into upload
              (id, team_id, person_id, file, name, repo_id, keep_refs, bytes, began_at, moved_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
            returning *, (select name from person where id = $3) as person
            """,
            uuid4(),
            team_id,
            wanted.person_id,
            storable(wanted.file),
            storable(wanted.name),
            wanted.repo_id,
            wanted.keep_refs,
            wanted.bytes,
            at,
        )
    return _upload(made)


@translating
async def find(db: Db, team_id: TeamId, upload_id: UploadId) -> Upload | None:
    """The team's upload of this id."""
    row = await db.fetchrow(f"{_SELECT} where upload.id = $1 and team_id = $2", upload_id, team_id)
    return None if row is None else _upload(row)


@translating
async def latest(db: Db, team_id: TeamId) -> list[Upload]:
    """The team's newest uploads, the newest first."""
    rows = await db.fetch(
        f"{_SELECT} where team_id = $1 order by began_at desc, upload.id limit $2", team_id, SHOWN
    )
    return [_upload(row) for row in rows]


@translating
async def came(db: Db, upload_id: UploadId, piece: Piece, at: datetime) -> bool:
    """Record the next piece, which is in the vault. False: another one came in its place, or it is over."""
    found = await db.fetchval(
        """
        with grown as (
          update upload set came = came + $3, moved_at = $5
          where id = $1 and state = 'coming' and came = $2 and came + $3 <= bytes returning id
        )
        insert into upload_piece (upload_id, start, bytes, key) select id, $2, $3, $4 from grown
        returning true
        """,
        upload_id,
        piece.start,
        piece.bytes,
        piece.key,
        at,
    )
    return found is not None


@translating
async def linked(db: Db, upload_id: UploadId, start: int, size: int) -> bool:
    """Count a link by which a piece of this size may be stored. False: no more are given, or it moved on."""
    done = await db.execute(
        """
        update upload set linked = linked + $3
        where id = $1 and state = 'coming' and came = $2 and linked + $3 <= 3 * bytes + $4
        """,
        upload_id,
        start,
        size,
        LINKED_MORE,
    )
    return done == "UPDATE 1"


@translating
async def over(db: Db, upload_ids: Collection[UploadId]) -> set[UploadId]:
    """Those that become no snapshot any more, or are one."""
    rows = await db.fetch(
        "select id from upload where id = any($1::uuid[]) and state not in ('coming', 'proving')", upload_ids
    )
    return {UploadId(UUID(bytes=row["id"].bytes)) for row in rows}


@translating
async def pieces(db: Db, upload_id: UploadId) -> list[Piece]:
    """The pieces that are in the vault, in the order of the file."""
    rows = await db.fetch(
        "select start, bytes, key from upload_piece where upload_id = $1 order by start", upload_id
    )
    return [Piece(row["start"], row["bytes"], row["key"]) for row in rows]


@translating
async def counted(db: Db, keys: Collection[str]) -> set[str]:
    """Those of these keys at which a piece lies that belongs to a file."""
    rows = await db.fetch("select key from upload_piece where key = any($1::text[])", keys)
    return {row["key"] for row in rows}


@translating
async def forget_pieces(db: Db, upload_id: UploadId) -> None:
    """Its pieces are no longer in the vault. Safe to run twice."""
    await db.execute("delete from upload_piece where upload_id = $1", upload_id)


@translating
async def proving(db: Db, upload_id: UploadId, repo_id: RepoId, job_id: JobId, at: datetime) -> bool:
    """All has come, and a job proves it. False: it is no longer coming, or not all has come."""
    done = await db.execute(
        """
        update upload set state = 'proving', repo_id = $2, job_id = $3, moved_at = $4
        where id = $1 and state = 'coming' and came = bytes
        """,
        upload_id,
        repo_id,
        job_id,
        at,
    )
    return done == "UPDATE 1"


@translating
async def done(db: Db, upload_id: UploadId, result: Mapping[str, Any], at: datetime) -> None:
    """It is a snapshot now. Safe to run twice."""
    await db.execute(
        "update upload set state = 'done', result = $2, moved_at = $3 where id = $1 and state = 'proving'",
        upload_id,
        json.dumps(dict(result)),
        at,
    )


@translating
async def ended(
    db: Db, upload_id: UploadId, state: Literal["refused", "dropped"], why: str, at: datetime
) -> bool:
    """It becomes no snapshot. False: it was over already."""
    changed = await db.execute(
        """
        update upload set state = $2, why = $3, moved_at = $4
        where id = $1 and state in ('coming', 'proving')
        """,
        upload_id,
        state,
        storable(why),
        at,
    )
    return changed == "UPDATE 1"


@translating
async def expired(db: Db, before: datetime) -> list[Upload]:
    """Those to which nothing has happened since this moment, and which are not over."""
    rows = await db.fetch(f"{_SELECT} where moved_at < $1 and state in ('coming', 'proving')", before)
    return [_upload(row) for row in rows]


@translating
async def left(db: Db) -> list[Upload]:
    """Those that are over and have left pieces, or the repo that was made for them."""
    rows = await db.fetch(
        f"""
        {_SELECT} where state not in ('coming', 'proving')
          and (exists (select from upload_piece where upload_id = upload.id)
            or exists (select from repo where repo.id = upload.id and object_format is null))
        """
    )
    return [_upload(row) for row in rows]


@translating
async def forget_before(db: Db, moment: datetime) -> None:
    """Delete the rows of what ended before this moment and has left nothing. Safe to run twice."""
    await db.execute(
        """
        delete from upload where moved_at < $1 and state not in ('coming', 'proving')
          and not exists (select from upload_piece where upload_id = upload.id)
        """,
        moment,
    )


@translating
async def remove_unborn(db: Db, repo_id: RepoId) -> bool:
    """Delete the row of a repo that has never had a snapshot. False: it has one, or is gone."""
    done = await db.execute(
        """
        delete from repo where id = $1 and object_format is null
          and not exists (select from snapshot where repo_id = $1)
          and not exists (select from part where repo_id = $1)
          and not exists (select from intent where repo_id = $1)
        """,
        repo_id,
    )
    return done == "DELETE 1"


def _upload(row: Any) -> Upload:
    return Upload(
        id=UploadId(UUID(bytes=row["id"].bytes)),
        team_id=TeamId(UUID(bytes=row["team_id"].bytes)),
        person_id=None if row["person_id"] is None else PersonId(UUID(bytes=row["person_id"].bytes)),
        person=row["person"],
        file=row["file"],
        name=row["name"],
        repo_id=None if row["repo_id"] is None else RepoId(UUID(bytes=row["repo_id"].bytes)),
        keep_refs=row["keep_refs"],
        bytes=row["bytes"],
        came=row["came"],
        linked=row["linked"],
        state=cast(State, row["state"]),
        why=row["why"],
        result=None if row["result"] is None else json.loads(row["result"]),
        job_id=None if row["job_id"] is None else JobId(UUID(bytes=row["job_id"].bytes)),
        began_at=row["began_at"],
        moved_at=row["moved_at"],
    )
