"""Share links: who may fetch which moment of which repo without an account, and what they did."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NewType
from uuid import UUID

from mirror.core.model import RepoId, label
from mirror.core.rules.roles import PersonId
from mirror.core.rules.shares import BY_OPERATOR, Form, State
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people.teams import Team, TeamId, team

ShareId = NewType("ShareId", UUID)
Act = Literal["page", "bundle", "archive", "clone", "password"]  # password: a wrong one was given

USES: Final = 100  # rows of what was done with one link that are kept
_ADDRESS: Final = 100  # bytes of an address
# $1 is now. A member who left and came back has another `since`; sharing needs the role operator.
_STATE: Final = """
case
  when share.revoked_at is not null then 'revoked'
  when share.used_up_at is not null then 'used'
  when share.expires_at <= $1 then 'expired'
  when share.ended_as is not null then share.ended_as
  when share.by_operator then 'live'
  when share.made_by is null then 'person'
  when member.person_id is null or member.since > share.created_at then 'left'
  when member.role = 'viewer' then 'role'
  when share.api_token_id is not null and not exists (
    select from api_token where api_token.id = share.api_token_id and api_token.revoked_at is null
  ) then 'token'
  else 'live'
end
"""
# Of a link that works once, also: who began to fetch it had their hour. What is under way then goes on.
_STATE_NOW: Final = f"""
case ({_STATE}) when 'live' then
  case when share.once and share.first_used_at is not null and share.claimed_until <= $1 then 'used'
  else 'live' end
else {_STATE} end
"""
_SELECT: Final = f"""
select
  share.*, {_STATE_NOW} as state, repo.name as repo_name, team.id as team_id, team.name as team_name,
  team.person_id as own, person.name as maker
from share
join repo on repo.id = share.repo_id
join team on team.id = repo.team_id
left join member on member.team_id = repo.team_id and member.person_id = share.made_by
left join person on person.id = share.made_by
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewShare:
    """A link that is about to be made."""

    repo_id: RepoId
    snapshot: int
    moment: int = 0
    globs: Sequence[str] = ()  # none: all refs of the moment
    forms: Sequence[Form]
    made_by: PersonId | None  # None: whoever runs Everref, on the command line
    api_token_id: UUID | None = None
    password_hash: str | None = field(default=None, repr=False)
    once: bool = False
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A link as it is now."""

    id: ShareId
    repo_id: RepoId
    repo_name: str
    team: Team
    snapshot: int
    moment: int
    globs: tuple[str, ...]
    forms: tuple[Form, ...]
    maker: str | None  # their name; None: the command line, or somebody who is gone
    by_operator: bool
    password_hash: str | None = field(repr=False)
    once: bool
    created_at: datetime
    expires_at: datetime
    state: State
    revoked_at: datetime | None
    revoked_by: str | None
    claimed_by: str | None
    claimed_until: datetime | None
    used_up_at: datetime | None
    job_id: UUID | None
    uses: int
    bytes: int
    first_used_at: datetime | None
    last_used_at: datetime | None

    @property
    def label(self) -> str:
        """The name of its moment: #12."""
        return label(self.snapshot, self.moment)

    @property
    def issuer(self) -> str:
        """Who made it, in words; whoever runs Everref vouches for what the command line made."""
        return self.maker or (BY_OPERATOR if self.by_operator else "somebody who is gone")


@dataclass(frozen=True, slots=True)
class Use:
    """What one address did with a link in one minute."""

    at: datetime  # the beginning of the minute
    address: str
    what: Act
    times: int


@translating
async def make(db: Db, new: NewShare, now: datetime) -> tuple[str, ShareId]:
    """A new link; returns its token, which is not stored, and its id."""
    raw = secrets.token_urlsafe(32)
    made = await db.fetchval(
        """
        insert into share (
          token_sha256, repo_id, snapshot, moment, globs, forms, made_by, by_operator, api_token_id,
          password_hash, once, created_at, expires_at
        ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) returning id
        """,
        _key(raw),
        new.repo_id,
        new.snapshot,
        new.moment,
        [storable(glob) for glob in new.globs],
        list(new.forms),
        new.made_by,
        new.made_by is None,
        new.api_token_id,
        new.password_hash,
        new.once,
        now,
        new.expires_at,
    )
    return raw, ShareId(UUID(bytes=made.bytes))


@translating
async def by_token(db: Db, raw: str, now: datetime) -> Share | None:
    """The link with this token, while it works. None: there is none, or it has ended.

    What is looked up is a digest, so the time that it takes tells nothing of a token.
    """
    row = await db.fetchrow(f"{_SELECT} where share.token_sha256 = $2", now, _key(raw))
    return None if row is None or row["state"] != "live" else _share(row)


@translating
async def find(db: Db, team_id: TeamId, share_id: ShareId, now: datetime) -> Share | None:
    """The team's link of this id, whether it works or not."""
    row = await db.fetchrow(f"{_SELECT} where share.id = $2 and repo.team_id = $3", now, share_id, team_id)
    return None if row is None else _share(row)


@translating
async def of_team(
    db: Db,
    team_id: TeamId,
    now: datetime,
    *,
    repo_id: RepoId | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 100,
) -> Sequence[Share]:
    """The team's links, or those of one repo; the newest first. `before`: older than this place."""
    rows = await db.fetch(
        f"""{_SELECT} where repo.team_id = $2 and ($3::uuid is null or share.repo_id = $3)
          and ($4::timestamptz is null or (share.created_at, share.id) < ($4, $5::uuid))
        order by share.created_at desc, share.id desc limit $6""",
        now,
        team_id,
        repo_id,
        *(before or (None, None)),
        limit,
    )
    return [_share(row) for row in rows]


@translating
async def is_live(db: Db, share_id: ShareId, now: datetime, network: str) -> bool:
    """Whether the link still works for who is fetching it from this network: asked while bytes are sent."""
    found: bool | None = await db.fetchval(
        f"""
        select {_STATE} = 'live' and (not share.once or share.claimed_by is null or share.claimed_by = $3)
        from share
        join repo on repo.id = share.repo_id
        left join member on member.team_id = repo.team_id and member.person_id = share.made_by
        where share.id = $2
        """,
        now,
        share_id,
        network,
    )
    return bool(found)


@translating
async def revoke(db: Db, share_id: ShareId, by: str, now: datetime) -> bool:
    """End the link. False: it was revoked already. Safe to run twice."""
    done = await db.execute(
        "update share set revoked_at = $2, revoked_by = $3 where id = $1 and revoked_at is null",
        share_id,
        now,
        storable(by),
    )
    return done == "UPDATE 1"


@translating
async def of_person(db: Db, person_id: PersonId, now: datetime) -> Sequence[Share]:
    """The links that the person made and that still work, in any team; the newest first."""
    rows = await db.fetch(
        f"{_SELECT} where share.made_by = $2 order by share.created_at desc, share.id", now, person_id
    )
    return [_share(row) for row in rows if row["state"] == "live"]


@translating
async def end_all(
    db: Db, person_id: PersonId, keep: Collection[ShareId], now: datetime
) -> Sequence[tuple[TeamId, RepoId, str, ShareId]]:
    """End the person's links except these, as they set a new password; the team and repo of each, and its id.

    Safe to run twice.
    """
    rows = await db.fetch(
        """
        update share set ended_as = 'password', ended_at = $3 from repo
        where repo.id = share.repo_id and made_by = $1 and share.id <> all($2::uuid[])
          and ended_as is null and revoked_at is null and used_up_at is null and expires_at > $3
        returning repo.team_id, repo.id as repo_id, repo.name, share.id
        """,
        person_id,
        list(keep),
        now,
    )
    return [
        (
            TeamId(UUID(bytes=row["team_id"].bytes)),
            RepoId(UUID(bytes=row["repo_id"].bytes)),
            row["name"],
            ShareId(UUID(bytes=row["id"].bytes)),
        )
        for row in rows
    ]


@translating
async def claim(db: Db, share_id: ShareId, network: str, now: datetime, until: datetime) -> bool:
    """Hold a link that works once for this network. False: another one has it, or it was used up.

    Who has it goes on having it, until the time that their first claim named. After that nobody has, if a
    download was begun in it; else it can be claimed again. Safe to run twice.
    """
    done = await db.execute(
        """
        update share set
          claimed_by = $2,
          claimed_until = case when claimed_by = $2 and claimed_until > $3 then claimed_until else $4 end
        where id = $1 and once and used_up_at is null
          and (
            claimed_by is null or claimed_by = $2 and claimed_until > $3
            or claimed_until <= $3 and first_used_at is null
          )
        """,
        share_id,
        network,
        now,
        until,
    )
    return done == "UPDATE 1"


@translating
async def use_up(db: Db, share_id: ShareId, now: datetime) -> None:
    """It was fetched whole: one that works once has ended. Nothing changes for others. Safe to run twice."""
    await db.execute(
        "update share set used_up_at = $2 where id = $1 and once and used_up_at is null", share_id, now
    )


@translating
async def set_job(db: Db, share_id: ShareId, job_id: UUID) -> None:
    """Remember the job that makes the link's bundle."""
    await db.execute("update share set job_id = $2 where id = $1", share_id, job_id)


@translating
async def record(db: Db, share_id: ShareId, what: Act, address: str, now: datetime) -> None:
    """Count something that this address does with the link now, and forget the oldest beyond USES."""
    counts = what not in ("page", "password")
    async with transaction(db) as connection:
        # The link's row first: uses of one link take turns, and the rows below have no other writer.
        await connection.execute(
            """
            update share set
              uses = uses + $2::int,
              first_used_at = case when $2 = 1 then coalesce(first_used_at, $3) else first_used_at end,
              last_used_at = case when $2 = 1 then greatest(last_used_at, $3) else last_used_at end
            where id = $1
            """,
            share_id,
            int(counts),
            now,
        )
        await connection.execute(
            """
            insert into share_use (share_id, at, address, what, times)
            values ($1, date_trunc('minute', $2::timestamptz), $3, $4, 1)
            on conflict (share_id, at, address, what) do update set times = share_use.times + 1
            """,
            share_id,
            now,
            storable(address)[:_ADDRESS],
            what,
        )
        await connection.execute(
            """
            delete from share_use where share_id = $1 and (share_id, at, address, what) in (
              select share_id, at, address, what from share_use where share_id = $1
              order by at desc, address, what offset $2
            )
            """,
            share_id,
            USES,
        )
        await _add_up(connection, what, 1, 0)


@translating
async def sent(db: Db, share_id: ShareId, what: Act, size: int) -> None:
    """So many bytes were sent for the link."""
    async with transaction(db) as connection:
        await connection.execute("update share set bytes = bytes + $2 where id = $1", share_id, size)
        await _add_up(connection, what, 0, size)


async def _add_up(db: Db, what: Act, times: int, size: int) -> None:
    await db.execute(
        """
        insert into share_total (what, times, bytes) values ($1, $2, $3)
        on conflict (what) do update set
          times = share_total.times + excluded.times, bytes = share_total.bytes + excluded.bytes
        """,
        what,
        times,
        size,
    )


@translating
async def uses(db: Db, share_id: ShareId) -> Sequence[Use]:
    """What was done with the link, the newest first."""
    rows = await db.fetch(
        "select * from share_use where share_id = $1 order by at desc, address, what limit $2", share_id, USES
    )
    return [Use(row["at"], row["address"], row["what"], row["times"]) for row in rows]


@translating
async def totals(db: Db) -> dict[str, tuple[int, int]]:
    """How often each was done by any link there ever was, and how many bytes were sent for it."""
    return {row["what"]: (row["times"], row["bytes"]) for row in await db.fetch("select * from share_total")}


@translating
async def prune(db: Db, now: datetime, kept: timedelta) -> None:
    """Forget links that ended so long ago; the audit log has what was done with them. Safe to run twice."""
    await db.execute(
        "delete from share where least(expires_at, coalesce(revoked_at, expires_at)) < $1", now - kept
    )


def _key(raw: str) -> bytes:
    return hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest()


def _share(row: Any) -> Share:
    job_id = row["job_id"]
    return Share(
        id=ShareId(UUID(bytes=row["id"].bytes)),
        repo_id=RepoId(UUID(bytes=row["repo_id"].bytes)),
        repo_name=row["repo_name"],
        team=team({"id": row["team_id"], "name": row["team_name"], "person_id": row["own"]}),
        snapshot=row["snapshot"],
        moment=row["moment"],
        globs=tuple(row["globs"]),
        forms=tuple(row["forms"]),
        maker=row["maker"],
        by_operator=row["by_operator"],
        password_hash=row["password_hash"],
        once=row["once"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        state=row["state"],
        revoked_at=row["revoked_at"],
        revoked_by=row["revoked_by"],
        claimed_by=row["claimed_by"],
        claimed_until=row["claimed_until"],
        used_up_at=row["used_up_at"],
        job_id=None if job_id is None else UUID(bytes=job_id.bytes),
        uses=row["uses"],
        bytes=row["bytes"],
        first_used_at=row["first_used_at"],
        last_used_at=row["last_used_at"],
    )
