"""Checking what Everref uses and what is missing: the findings of `everref doctor`."""

import asyncio
import shutil
from dataclasses import dataclass
from urllib.parse import urlsplit

from mirror import store
from mirror.backup import straight
from mirror.channels import mail, wire
from mirror.core.channels import NotDelivered
from mirror.core.config import NO_REDIS
from mirror.core.errors import EverrefError
from mirror.core.formats.manifest import time_text
from mirror.core.rules.keeping import retention
from mirror.core.words import count, mend, not_known
from mirror.services import worm
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.evidence import checkpoints
from mirror.store.jobs import runs
from mirror.store.people import keys
from mirror.store.repos import Overview
from mirror.store.upkeep import copies, locks, outages
from mirror.store.upkeep.outages import Outage
from mirror.upkeep import state
from mirror.upkeep.moving import unknown_repos
from mirror.vault import preflight
from mirror.vault.copies import Place

_NAMED = 5  # repos that need attention and are named; `everref repos` lists the others
_ANSWER_SECONDS = 3  # for Redis
_LOW_SPACE = 1 << 30  # bytes of free disk below which a person should know


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    what: str
    value: str
    ok: bool
    advice: str | None = None  # what to do; None: nothing


async def doctor(services: Services) -> list[Finding]:
    """Check git, the database, the vault, workers, the queue, the disk and the keys; changes nothing."""
    return [
        await _git(services),
        Finding("database", await store.version(services.db), True),
        *await _vault(services),
        *await _copies(services),
        await _worker(services),
        await _queue(services),
        _disk(services),
        _keys(services),
        *await _sealing(services),
        await _mail(services),
        *await _stamps(services),
        *[_outage(one) for one in await outages.now(services.db)],
        *await _repos(services),
        *await _state(services),
    ]


async def _state(services: Services) -> list[Finding]:
    """When the state was last exported, and whether the audit logs are what the exports say."""
    try:
        last, changed = await state.latest(services), await state.contradictions(services)
        unread, foreign = await state.unread(services), await state.foreign(services)
        unopenable = await state.unopenable(services, [*unread[-1:], *([last.key] if last else [])])
    except EverrefError as error:
        return [Finding("state", str(error), False, "make sure that the vault answers, then run this again")]
    wrong = [f"{time_text(seen_at)}: entry {head.count} of team {head.team_id}" for head, seen_at in changed]
    audit = Finding("audit", "matches every export in the vault", True)
    if wrong:
        advice = "somebody changed the table: compare exports"
        audit = Finding("audit", f"differs from the export of {wrong[0]}", False, advice)
    elif unread:
        what, advice = "have not been read by this database yet", "run everref rebuild"
        if unread[-1] in unopenable:
            what = "could not be read here"
            advice = "set SECRET_KEYS to the keys that encrypted them, then run everref rebuild"
        words = (
            f"{len(unread)} of the states in the vault {what}, the last of them {unread[-1]}, "
            "so the audit log cannot be compared with them"
        )
        audit = Finding("audit", words, False, advice)
    if last is None and foreign:
        words = "this database has not exported its state yet, nor imported that of the database before it"
        return [Finding("state", words, False, "run everref rebuild"), audit]
    if last is None:
        advice = "run everref export, or a worker, so that people and connections outlive the database"
        return [Finding("state", "never exported", True, advice), audit]
    if last.key in unopenable:
        words = (
            f"exported {time_text(last.taken_at)} with the key {last.sealed_to}, which is not in SECRET_KEYS"
        )
        advice = (
            "add that key at the end and run everref rotate-keys, or run everref export with the present keys"
        )
        return [Finding("state", words, False, advice), audit]
    words, late = f"exported {time_text(last.taken_at)}", services.clock() - last.taken_at > 2 * state.EVERY
    return [Finding("state", words, not late, "run everref export, or a worker" if late else None), audit]


async def _git(services: Services) -> Finding:
    try:
        version = (await services.git.run("version", timeout=10)).decode().strip()
    except EverrefError as error:
        return Finding("git", str(error), False, "install git 2.39 or newer, or name one with EVERREF_GIT")
    return Finding("git", version, True)


async def _vault(services: Services) -> list[Finding]:
    try:
        can, number = await services.vault.capabilities(), await unknown_repos.look(services)
        now = await services.vault.now()
    except EverrefError as error:
        return [
            Finding(
                "vault",
                str(error),
                False,
                "make sure that its disk is mounted; check VAULT_URL and the store's credentials",
            )
        ]
    found = [Finding("vault", services.vault.describe(), True)]
    if ahead := retention.ahead_of_vault(now, services.clock()):
        found.append(Finding("vault: clock", ahead, False, "have NTP set it: timedatectl set-ntp true"))
    found.append(
        Finding("vault: conditional create", "yes", True)
        if can.conditional_create
        else Finding(
            "vault: conditional create",
            "no",
            False,
            "only the lease in the database keeps two workers apart; another store may be safer",
        )
    )
    found.append(
        Finding("vault: checksums", "yes" if can.checksums else "no; only Everref compares checksums", True)
    )
    found += await _uploads(services)
    found += [one for place in services.copies.places for one in await _lock(services, place)]
    if number:
        advice = "the database before this one was lost: run everref rebuild before anything else"
        found.append(Finding("vault: repos", not_known(number), False, advice))
    return found


async def _uploads(services: Services) -> list[Finding]:
    """Whether browsers can send uploads straight to the store, where it has links at all."""
    what, base = "vault: uploads", services.settings.base_url
    if base is None:
        return []
    parts = urlsplit(base)
    origin = f"{parts.scheme}://{parts.netloc}"
    try:
        link = await straight.specimen(services)
        if link is None:
            return []
        if await preflight.lets_in(link, origin):
            return [Finding(what, f"straight from pages of {origin} to the store", True)]
        words = f"through Everref: the bucket lets no page of {origin} in"
    except EverrefError as error:
        words = f"through Everref: {error}"
    advice = "set the bucket's CORS as docs/bring-in.md shows, if uploads are large"
    return [Finding(what, words, True, advice)]


async def _lock(services: Services, place: Place) -> list[Finding]:
    """Whether a store locks what is written and enforces it, found out by trying on canaries."""
    is_first = place.vault is services.copies.first
    called, vault = "vault" if is_first else f"copy {place.name}", place.vault
    what, locking = f"{called}: object lock", vault.locking()
    try:
        if locking is None:
            has_lock = (await vault.capabilities()).object_lock
            return [Finding(what, "available; set VAULT_LOCK to use it" if has_lock else "no", True)]
        proof = await worm.prove(services.db, vault, services.clock())
    except EverrefError as error:
        return [Finding(what, str(error), False, "see docs/object-lock.md for what the store must allow")]
    hazards = [Finding(f"{called}: settings", one, False, None) for one in proof.hazards]
    if proof.failed:
        advice = "whoever has the store's key can delete backups: use a bucket that enforces Object Lock"
        if all(one.endswith("by bypassing governance") for one in proof.failed):
            advice = "take s3:BypassGovernanceRetention from the store's key, or set VAULT_LOCK to compliance"
        return [
            *(Finding(what, f"{locking}, not enforced: {one}", False, advice) for one in proof.failed),
            *hazards,
        ]
    reach = await locks.extended(services.db, vault.describe())
    words = f"{locking}, enforced: a canary withstood everything"
    if reach.until:
        words += f"; what is kept is locked until {reach.until:%Y-%m-%d} at least"
    late = reach.until is not None and reach.until - services.clock() < locking.period / 4
    wanted = "a worker must run to extend the locks before they end" if late else None
    return [Finding(what, words, not late, wanted), *hazards]


async def _copies(services: Services) -> list[Finding]:
    """How each copy of the vault stands, where there are any."""
    found = list[Finding]()
    now = services.clock()
    for one in await copies.standing(services.db, [place.name for place in services.copies.copies]):
        says, is_well = one.state(now)
        advice = None if is_well else "see that its store answers, and everref vault list; a worker goes on"
        found.append(Finding(f"copy {one.name}", f"{one.place}: {says}", is_well, advice))
    return found


async def _worker(services: Services) -> Finding:
    """Whether a worker runs; one is expected on a server: where there is a queue, or a worker was killed."""
    if await runs.is_anyone_alive(services.db):
        return Finding("worker", "at least one is running", True)
    settings = services.settings
    has_queue = settings.redis_url not in (None, NO_REDIS)
    if has_queue or (settings.database_url and await runs.is_anyone_missing(services.db)):
        advice = "start one, and see in its log why the last one ended; until then no push is backed up"
        return Finding("worker", "none is running", False, advice)
    return Finding("worker", "none is running; commands do the work themselves", True)


async def _mail(services: Services) -> Finding:
    """Whether the mail server is there and lets us in, where one is set."""
    if services.settings.smtp is None:
        return Finding("mail", "SMTP_URL is not set here; a service that has it sends mail", True)
    try:
        await mail.check(wire.of(services.settings))
    except NotDelivered as error:
        return Finding(
            "mail", str(error), False, "check SMTP_URL, and that this machine may reach the server"
        )
    return Finding("mail", f"{services.settings.smtp.host} takes mail", True)


async def _stamps(services: Services) -> list[Finding]:
    """Whether the newest checkpoint is time-stamped, where an authority is set."""
    if services.settings.timestamp_url is None:
        return []
    last = await checkpoints.last(services.db)
    if last is None:
        return [Finding("time stamps", "there is no checkpoint to stamp yet", True)]
    if last.stamped_at is not None:
        words = f"checkpoint {last.number} was stamped {time_text(last.stamped_at)}"
        return [Finding("time stamps", words, True)]
    if last.stamp_problem is None:
        return [Finding("time stamps", f"checkpoint {last.number} is stamped within an hour", True)]
    words = f"checkpoint {last.number} is not stamped: {last.stamp_problem}"
    advice = "it is tried again every hour; check TIMESTAMP_URL, and that this machine may reach it"
    return [Finding("time stamps", words, False, advice)]


async def _queue(services: Services) -> Finding:
    """Whether Redis answers, where one is set."""
    if services.settings.redis_url is None:
        return Finding("queue", "no REDIS_URL is set here; commands need none", True)
    if services.settings.redis_url == NO_REDIS:
        return Finding("queue", "none, as REDIS_URL says; workers check for due work every 2 s", True)
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    try:
        async with asyncio.timeout(_ANSWER_SECONDS), Redis.from_url(services.settings.redis_url) as queue:
            await queue.exists("everref")
    except (RedisError, OSError):  # TimeoutError is an OSError; what it says may hold the password
        advice = "start Redis, or check REDIS_URL; until then workers poll for due jobs and start them later"
        return Finding("queue", "Redis does not answer", False, advice)
    return Finding("queue", "Redis answers", True)


def _outage(one: Outage) -> Finding:
    where = f"{one.origin} of {one.place}" if one.place else str(one.origin)
    words = f"away since {one.since:%Y-%m-%d %H:%M} UTC: {one.message}"
    return Finding(where, words, False, "workers wait for it and continue by themselves once it is back")


def _disk(services: Services) -> Finding:
    free = shutil.disk_usage(services.disk.root).free
    words = f"{services.disk.root}, {free / (1 << 30):.1f} GiB free"
    if free < _LOW_SPACE:
        return Finding("data", words, False, "make room: a backup needs about the size of its repository")
    return Finding("data", words, True)


def _keys(services: Services) -> Finding:
    if services.keyring is None:
        return Finding("keys", "none", False, "set SECRET_KEYS; without keys no credentials can be stored")
    return Finding("keys", "credentials are encrypted", True)


async def _sealing(services: Services) -> list[Finding]:
    """Teams whose sealed backups cannot be opened here; nothing where all can."""
    found = await keys.closed(services.db, services.keyring.marks if services.keyring else ())
    advice = "add the key that was removed to the end of SECRET_KEYS, or run everref keys import"
    words = "SECRET_KEYS does not open a key of {}; its backups can only be verified"
    return [Finding("sealed backups", words.format(team), False, advice) for team in found[:_NAMED]]


async def _repos(services: Services) -> list[Finding]:
    rows = await repos.overview(services.db, now=services.clock())
    bad = [row.called for row in rows if row.state in ("failing", "never", "damaged", "late")]
    damaged = [row for row in rows if row.damage]
    words = f"{count(len(rows), 'repo')}, {len(rows) - len(bad)} protected"
    if damaged:
        words += f", {len(damaged)} damaged"
    advice = f"see {', '.join(bad[:_NAMED])} in everref repos" if bad else None
    return [Finding("repos", words, not bad, advice), *[_damage(row) for row in damaged[:_NAMED]]]


def _damage(row: Overview) -> Finding:
    assert row.damage is not None
    words = f"{row.called}: {row.damage.message}, found {row.damage.at:%Y-%m-%d %H:%M} UTC"
    return Finding("damage", words, False, mend(row.called))
