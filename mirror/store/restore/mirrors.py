"""Mirrors: what people want pushed elsewhere, each repo at each of them, and what the last pushes came to."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NewType
from uuid import UUID

import asyncpg

from mirror.core.errors import UsageError
from mirror.core.keyring import Keyring
from mirror.core.model import RefName, RepoId, Secret, Target
from mirror.core.rules import mirrors as rules
from mirror.core.rules.mirrors import Held, State
from mirror.store.database import Db, query, storable, transaction, translating
from mirror.store.discovery.connections import ConnectionId
from mirror.store.people.teams import TeamId

MirrorId = NewType("MirrorId", UUID)
TargetId = NewType("TargetId", UUID)

PUSHES_KEPT: Final = 50  # of each target


@dataclass(frozen=True, slots=True)
class Makes:
    """Under which owner a mirror's host makes repositories that are missing."""

    owner: Mapping[str, Any]  # as forges.contract.Owner has it
    private: bool


@dataclass(frozen=True, slots=True)
class Mirror:
    """What somebody wants: a repo, or every repo of a team, at another address."""

    id: MirrorId
    team_id: TeamId
    repo_id: RepoId | None  # None: every repo of the team
    address: str  # without credentials; of a team's mirror with {name}
    connection_id: ConnectionId | None  # whose token pushes; None: none
    makes: Makes | None  # None: nothing is made there
    lent: bool  # it has credentials of its own
    deletes: bool
    overwrites: bool
    left_out: Sequence[RepoId]
    paused_at: datetime | None  # None: it is at work
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Failing:
    """Why a repo cannot be pushed to a mirror."""

    kind: str  # the class of the error
    message: str
    since: datetime
    failures: int  # in a row


@dataclass(frozen=True, slots=True)
class MirrorTarget:
    """One repo at one mirror."""

    id: TargetId
    mirror: Mirror
    repo_id: RepoId
    repo: str  # its name
    url: str
    newest: int  # the repo's latest snapshot; 0: it has none
    pushed: int  # the one that was pushed last; 0: none
    pushed_at: datetime | None
    due_at: datetime | None
    pushing: bool
    failing: Failing | None  # None: the last push came to its end
    counts: Mapping[str, int]  # how many refs came to what
    refs: Sequence[Mapping[str, Any]]  # name, result, why, of those that are not as they should be
    notes: Sequence[str]
    behind_since: datetime | None  # since when the first snapshot waits that is not there; None: all are

    @property
    def state(self) -> State:
        """How it is doing, in a word."""
        return rules.state(
            paused=self.mirror.paused_at is not None,
            failure=self.failing.kind if self.failing else None,
            counts=dict(self.counts),
            pushed=self.pushed,
            newest=self.newest,
            due=self.due_at is not None,
        )

    @property
    def behind(self) -> int:
        """How many snapshots are not there yet."""
        return max(self.newest - self.pushed, 0)

    def lag(self, now: datetime) -> timedelta:
        """How long the first snapshot waits that is not there; nothing where all are."""
        return max(now - self.behind_since, timedelta(0)) if self.behind_since else timedelta(0)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A target that one run pushes to, and no other until the claim is over."""

    target: MirrorTarget
    attempt: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What a push came to."""

    snapshot: int
    began_at: datetime
    ended_at: datetime
    counts: Mapping[str, int]
    refs: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    wrote: bool = False  # it is worth a line in the list of pushes
    next_at: datetime | None = None  # when it is looked at again though nothing changes
    failure: tuple[str, str] | None = None  # the class and the message; None: it came to its end


@dataclass(frozen=True, slots=True)
class PushRecord:
    """A push that wrote something or failed."""

    snapshot: int
    began_at: datetime
    ended_at: datetime
    counts: Mapping[str, int]
    failure: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a mirror of a team is doing at all of its repos."""

    mirror: Mirror
    repo: str | None  # the name of its one repo; None: every repo of the team
    targets: int
    states: Mapping[State, int]
    lag: timedelta  # of the one that is behind for longest
    pushed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Mirrors in numbers, for /metrics."""

    lag: float  # seconds that the oldest snapshot waits that some mirror has not
    states: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sealing:
    """Credentials that are to be kept with a mirror, and the keys to seal them with."""

    keyring: Keyring
    secret: Secret = field(repr=False)


def _context(mirror_id: MirrorId) -> str:
    """The context of a sealed text, which opens in no other row."""
    return f"mirror/{mirror_id}"


def _sealed(mirror_id: MirrorId, sealing: Sealing | None) -> bytes | None:
    if sealing is None:
        return None
    secret = sealing.secret
    plain = json.dumps({"username": secret.username, "password": secret.password}).encode()
    return sealing.keyring.seal(plain, _context(mirror_id))


@translating
async def add(db: Db, one: Mirror, sealing: Sealing | None) -> None:
    """Add a mirror. Raises UsageError where there is one with this address."""
    makes = {"owner": dict(one.makes.owner), "private": one.makes.private} if one.makes else None
    try:
        await db.execute(
            """
            insert into mirror (
              id, team_id, repo_id, address, connection_id, makes, sealed, deletes, overwrites,
              created_at, created_by
            ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            """,
            *(one.id, one.team_id, one.repo_id, storable(one.address), one.connection_id),
            None if makes is None else json.dumps(makes),
            _sealed(one.id, sealing),
            *(one.deletes, one.overwrites, one.created_at, storable(one.created_by)),
        )
    except asyncpg.UniqueViolationError:
        raise UsageError("there is a mirror at this address already", field="address") from None
    except asyncpg.CheckViolationError:
        raise UsageError("an address takes 1 to 2000 bytes", field="address") from None


@translating
async def secret_of(db: Db, keyring: Keyring, mirror_id: MirrorId) -> Secret | None:
    """The credentials that are kept with a mirror. None: it has none. Raises BadKey."""
    sealed = await db.fetchval("select sealed from mirror where id = $1", mirror_id)
    if sealed is None:
        return None
    found = json.loads(keyring.open(sealed, _context(mirror_id)))
    return Secret(found["username"], found["password"])


@translating
async def put_secret(db: Db, mirror_id: MirrorId, sealing: Sealing, now: datetime) -> None:
    """Keep other credentials with a mirror, and try all of its targets with them."""
    async with transaction(db) as connection:
        sealed = _sealed(mirror_id, sealing)
        await connection.execute("update mirror set sealed = $2 where id = $1", mirror_id, sealed)
        await _try_again(connection, mirror_id, now)


@translating
async def find(db: Db, team_id: TeamId, mirror_id: UUID) -> Mirror | None:
    """The team's mirror of this id."""
    row = await db.fetchrow("select * from mirror where id = $1 and team_id = $2", mirror_id, team_id)
    return None if row is None else _mirror(row)


@translating
async def of_team(db: Db, team_id: TeamId, now: datetime) -> list[Standing]:
    """The team's mirrors with how each is doing, those of all its repos first."""
    return [
        Standing(
            _mirror(row),
            row["repo"],
            row["targets"],
            json.loads(row["states"]),
            timedelta(seconds=row["lag"]),
            row["pushed_at"],
        )
        for row in await db.fetch(query("mirror_standings"), team_id, now)
    ]


@translating
async def of_repo(db: Db, repo_id: RepoId) -> list[MirrorTarget]:
    """Every mirror of this repo, the oldest first."""
    return await _targets(db, "target.repo_id = $1", repo_id)


@translating
async def troubled(db: Db, team_id: TeamId, limit: int) -> list[MirrorTarget]:
    """Repos of the team that a mirror has not as it should, those that fail for longest first."""
    return await _targets(
        db,
        """
        mirror.team_id = $1 and (
          target.failing_since is not null or target.counts ?| array['diverged', 'refused']
        )
        """,
        team_id,
        order="target.failing_since nulls last, repo.name",
        limit=limit,
    )


@translating
async def target(db: Db, team_id: TeamId, target_id: UUID) -> MirrorTarget | None:
    """One repo at one mirror of the team."""
    found = await _targets(db, "target.id = $1 and mirror.team_id = $2", target_id, team_id)
    return found[0] if found else None


async def _targets(
    db: Db,
    which: str,
    *args: object,
    order: str = "mirror.created_at, mirror.id, repo.name",
    limit: int = 10_000,
) -> list[MirrorTarget]:
    rows = await db.fetch(query("mirror_targets").format(which=which, order=order, limit=limit), *args)
    return [_target(row) for row in rows]


@translating
async def lacking(db: Db, limit: int) -> list[tuple[Mirror, RepoId, str, int]]:
    """Mirrors with repos that they have no target for yet: the repo, its name and its latest snapshot.

    Repos of which nothing is saved yet, and those that are gone at their hosts, wait.
    """
    rows = await db.fetch(
        """
        select mirror.*, repo.id as of_repo, repo.name as repo, latest.number as newest
        from mirror
        join repo on repo.team_id = mirror.team_id and (mirror.repo_id is null or repo.id = mirror.repo_id)
        cross join lateral (
          select number from snapshot where snapshot.repo_id = repo.id order by number desc limit 1
        ) latest
        where not repo.set_aside and repo.archived_at is null and repo.id <> all (mirror.left_out)
          and not exists (select from mirror_target where mirror_id = mirror.id and repo_id = repo.id)
        order by mirror.created_at, repo.name limit $1
        """,
        limit,
    )
    return [(_mirror(row), RepoId(_uuid(row["of_repo"])), row["repo"], row["newest"]) for row in rows]


@translating
async def put_target(
    db: Db, mirror_id: MirrorId, repo_id: RepoId, url: str, newest: int, due_at: datetime
) -> None:
    """Have a repo pushed to a mirror. Safe to run twice."""
    await db.execute(
        """
        insert into mirror_target (mirror_id, repo_id, url, place, newest, due_at, since)
        select $1, $2, $3, $4, $5, $6, $6 where exists (select from mirror where id = $1)
        on conflict (mirror_id, repo_id) do nothing
        """,
        *(mirror_id, repo_id, storable(url), storable(rules.place_of(url)), newest, due_at),
    )


@translating
async def taken(db: Db, team_id: TeamId, place: str, one: TargetId | None = None) -> str | None:
    """What of the team is at this place, in words: a repo that is backed up, or another mirror.

    Of mirrors, only those count that were there before `one`. None: nothing is.
    """
    for row in await db.fetch(
        "select name, url from repo where team_id = $1 and not set_aside and archived_at is null", team_id
    ):
        if rules.place_of(row["url"]) == place:
            return f"{row['name']}, which is backed up"
    name = await db.fetchval(
        """
        select repo.name from mirror_target target
        join mirror on mirror.id = target.mirror_id join repo on repo.id = target.repo_id
        where target.place = $1 and mirror.team_id = $2
          and ($3::uuid is null or target.number < (select number from mirror_target where id = $3))
        order by target.number limit 1
        """,
        *(storable(place), team_id, one),
    )
    return None if name is None else f"a mirror of {name} already"


@translating
async def mirrored(db: Db, places: Collection[str]) -> set[str]:
    """Which of these places are mirrors of somebody: what is there is a copy of what is backed up already."""
    rows = await db.fetch(
        "select distinct place from mirror_target where place = any($1::text[])",
        [storable(place) for place in places],
    )
    return {row["place"] for row in rows}


@translating
async def claim(
    db: Db,
    now: datetime,
    until: datetime,
    most: int,
    *,
    troubled: bool,
    shares: Sequence[int],
    patience: timedelta,
    but_for: Collection[TeamId] = (),
) -> list[Claimed]:
    """Targets that are due, for nobody else until then: those that work, or those whose last push failed.

    A worker leaves the repos of other shares to their own workers for a while, as their pools are warm there;
    nobody's many repos come before the first of another team, and none of the teams `but_for` gets any. Safe
    to run twice, also at once.
    """
    rows = await db.fetch(
        query("claim_mirrors"), now, until, most, troubled, list(shares), patience, list(but_for)
    )
    attempts = {TargetId(_uuid(row["id"])): row["attempt"] for row in rows}
    if not attempts:
        return []
    found = await _targets(db, "target.id = any($1::uuid[])", list(attempts))
    return [Claimed(one, attempts[one.id]) for one in found]


@translating
async def claim_one(db: Db, target_id: TargetId, now: datetime, until: datetime) -> Claimed | None:
    """This target, for nobody else until then. None: somebody pushes to it, or it is gone."""
    attempt = await db.fetchval(
        """
        update mirror_target set pushing_until = $3, attempt = attempt + 1
        where id = $1 and (pushing_until is null or pushing_until <= $2) returning attempt
        """,
        *(target_id, now, until),
    )
    if attempt is None:
        return None
    found = await _targets(db, "target.id = $1", target_id)
    return Claimed(found[0], attempt) if found else None


@translating
async def keep(db: Db, claimed: Claimed, until: datetime) -> bool:
    """Go on pushing until then. False: it is another run's by now, was removed or is paused."""
    done = await db.execute(
        """
        update mirror_target set pushing_until = $3 from mirror
        where mirror_target.id = $1 and attempt = $2 and mirror.id = mirror_id and mirror.paused_at is null
        """,
        *(claimed.target.id, claimed.attempt, until),
    )
    return done != "UPDATE 0"


@translating
async def hand_back(db: Db, claimed: Claimed, due_at: datetime) -> None:
    """Nobody pushes any more; it is due again then. Nothing is said of it: it is not the mirror's fault."""
    await db.execute(
        "update mirror_target set pushing_until = null, due_at = $3 where id = $1 and attempt = $2",
        *(claimed.target.id, claimed.attempt, due_at),
    )


@translating
async def ended(db: Db, claimed: Claimed, end: Ended) -> bool:
    """Record what a push came to. A snapshot that came meanwhile is due at once.

    False: it is another run's by now, and nothing was recorded.
    """
    kind, message = end.failure or (None, None)
    async with transaction(db) as connection:
        done = await connection.execute(
            query("end_mirror_push"),
            *(claimed.target.id, claimed.attempt, end.snapshot, end.ended_at, end.next_at),
            *(kind, None if message is None else storable(message)),
            *(json.dumps(dict(end.counts)), _json(end.refs), _json(end.notes)),
        )
        if done == "UPDATE 0":
            return False
        if end.wrote or end.failure:
            await connection.execute(
                """
                insert into mirror_push (target_id, snapshot, began_at, ended_at, counts, failure)
                values ($1, $2, $3, $4, $5, $6)
                """,
                *(claimed.target.id, end.snapshot, end.began_at, end.ended_at, json.dumps(dict(end.counts))),
                None if message is None else storable(message),
            )
            await connection.execute(
                """
                delete from mirror_push where target_id = $1 and id <= (
                  select id from mirror_push where target_id = $1 order by id desc offset $2 limit 1
                )
                """,
                claimed.target.id,
                PUSHES_KEPT,
            )
        return True


def _json(values: Sequence[Any]) -> str:
    return storable(json.dumps([dict(one) if isinstance(one, Mapping) else one for one in values]))


@translating
async def pushes(db: Db, target_id: TargetId, limit: int) -> list[PushRecord]:
    """The last pushes of a target, the newest first."""
    rows = await db.fetch(
        "select * from mirror_push where target_id = $1 order by id desc limit $2", target_id, limit
    )
    return [_push(row) for row in rows]


@translating
async def pushes_of(db: Db, repo_id: RepoId, each: int) -> dict[TargetId, list[PushRecord]]:
    """The last pushes of each target of a repo, the newest first."""
    rows = await db.fetch(
        """
        select push.* from mirror_target target cross join lateral (
          select * from mirror_push where target_id = target.id order by id desc limit $2
        ) push
        where target.repo_id = $1 order by push.id desc
        """,
        repo_id,
        each,
    )
    found = dict[TargetId, list[PushRecord]]()
    for row in rows:
        found.setdefault(TargetId(_uuid(row["target_id"])), []).append(_push(row))
    return found


def _push(row: Any) -> PushRecord:
    return PushRecord(
        row["snapshot"], row["began_at"], row["ended_at"], json.loads(row["counts"]), row["failure"]
    )


@translating
async def due_now(db: Db, mirror_id: MirrorId, now: datetime, repo_id: RepoId | None = None) -> int:
    """Push to a mirror as soon as may be, whatever failed before; returns to how many targets."""
    done = await db.execute(
        "update mirror_target set due_at = $2 where mirror_id = $1 and ($3::uuid is null or repo_id = $3)",
        *(mirror_id, now, repo_id),
    )
    return int(done.split()[1])


@translating
async def change(
    db: Db, one: Mirror, now: datetime, *, deletes: bool, overwrites: bool, paused: bool
) -> None:
    """Set what a mirror may do and whether it is at work; then all of its targets are due.

    One that is resumed begins anew: what failed before the pause counts no more, and it is behind since now.
    """
    async with transaction(db) as connection:
        was_paused = await connection.fetchval(
            "select paused_at is not null from mirror where id = $1 for update", one.id
        )
        await connection.execute(
            """
            update mirror set
              deletes = $2, overwrites = $3, paused_at = case when $4 then coalesce(paused_at, $5) end
            where id = $1
            """,
            *(one.id, deletes, overwrites, paused, now),
        )
        if was_paused and not paused:
            await connection.execute(
                """
                update mirror_target set
                  since = $2, failures = 0, failure_class = null, failure = null, failing_since = null
                where mirror_id = $1
                """,
                *(one.id, now),
            )
        await _try_again(connection, one.id, now)


async def _try_again(db: Db, mirror_id: MirrorId, now: datetime) -> None:
    await db.execute("update mirror_target set due_at = $2 where mirror_id = $1", mirror_id, now)


@translating
async def remove(db: Db, mirror_id: MirrorId) -> bool:
    """Push nothing there any more; what is there stays. False: there was no such mirror."""
    return await db.execute("delete from mirror where id = $1", mirror_id) != "DELETE 0"


@translating
async def leave_out(db: Db, mirror_id: MirrorId, repo_id: RepoId) -> None:
    """Push this repo no more to a team's mirror. Safe to run twice."""
    async with transaction(db) as connection:
        await connection.execute(
            "update mirror set left_out = array_append(array_remove(left_out, $2), $2) where id = $1",
            *(mirror_id, repo_id),
        )
        await connection.execute(
            "delete from mirror_target where mirror_id = $1 and repo_id = $2", mirror_id, repo_id
        )


@translating
async def take_in(db: Db, mirror_id: MirrorId, repo_id: RepoId) -> None:
    """Push a repo again that a team's mirror had left out. Safe to run twice."""
    await db.execute(
        "update mirror set left_out = array_remove(left_out, $2) where id = $1", mirror_id, repo_id
    )


@translating
async def ours(db: Db, repo_id: RepoId, held: Collection[Held]) -> set[Held]:
    """Which of these a snapshot of the repo has had under that name."""
    if not held:
        return set()
    rows = await db.fetch(
        """
        select asked.name, asked.target from unnest($2::bytea[], $3::bytea[]) as asked (name, target)
        where exists (
          select from ref join ref_stay on ref_stay.ref_id = ref.id
          where ref.repo_id = $1 and sha256(ref.name) = sha256(asked.name) and ref_stay.target = asked.target
        )
        """,
        repo_id,
        [name for name, _ in held],
        [target for _, target in held],
    )
    return {(RefName(row["name"]), Target(row["target"])) for row in rows}


@translating
async def failing_since(db: Db, mirror_id: MirrorId) -> datetime | None:
    """Since when the first repo fails that this mirror cannot be given. None: none does."""
    found: datetime | None = await db.fetchval(
        "select min(failing_since) from mirror_target where mirror_id = $1", mirror_id
    )
    return found


@translating
async def measured(db: Db, now: datetime) -> Measured:
    """How far mirrors are behind, and how many targets are in which state. Paused ones are no lag."""
    row = await db.fetchrow(query("measure_mirrors"), now)
    names = ("current", "behind", "failing", "changed", "refused", "paused")
    return Measured(float(row["lag"]), {name: row[name] for name in names})


def _uuid(found: Any) -> UUID:
    return UUID(bytes=found.bytes)


def _mirror(row: Any, id_column: str = "id") -> Mirror:
    makes = json.loads(row["makes"]) if row["makes"] else None
    return Mirror(
        MirrorId(_uuid(row[id_column])),
        TeamId(_uuid(row["team_id"])),
        None if row["repo_id"] is None else RepoId(_uuid(row["repo_id"])),
        row["address"],
        None if row["connection_id"] is None else ConnectionId(_uuid(row["connection_id"])),
        None if makes is None else Makes(makes["owner"], makes["private"]),
        row["sealed"] is not None,
        row["deletes"],
        row["overwrites"],
        tuple(RepoId(_uuid(one)) for one in row["left_out"]),
        row["paused_at"],
        row["created_at"],
        row["created_by"],
    )


def _target(row: Any) -> MirrorTarget:
    failing = None
    if row["failing_since"] is not None:
        failing = Failing(row["failure_class"], row["failure"], row["failing_since"], row["failures"])
    return MirrorTarget(
        TargetId(_uuid(row["target_id"])),
        _mirror(row),
        RepoId(_uuid(row["of_repo"])),
        row["repo"],
        row["url"],
        row["newest"],
        row["pushed"],
        row["pushed_at"],
        row["due_at"],
        row["pushing_until"] is not None,
        failing,
        json.loads(row["counts"]),
        json.loads(row["refs"]),
        json.loads(row["notes"]),
        row["behind_since"],
    )
