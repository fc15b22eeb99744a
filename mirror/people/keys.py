"""A team's keys: who can open its backups besides Everref, how they showed it, and switching sealing on.

Who calls: the pages, the API and the command line; `due` is a maintenance task. A recovery key counts once
somebody has opened a sample with it: a backup that nobody can open would be none.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pyrage

from mirror.core import identities
from mirror.core.errors import EverrefError, KeyMissing, NotAllowed, NotFound, OurFault, Refused, UsageError
from mirror.core.formats import layout, recovery_words
from mirror.core.identities import Identity
from mirror.core.keyring import BadKey, Keyring
from mirror.core.rules.keeping import pending as pending_rules
from mirror.core.rules.keeping import recovery_keys as rules
from mirror.core.rules.keeping.recovery_keys import Kind, Recipient
from mirror.core.rules.roles import Role
from mirror.people import operator, pending
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.database import transaction, translating
from mirror.store.people import keys, notices, teams
from mirror.store.people import pending as pending_rows
from mirror.store.people.keys import NewKey, OwnKey, RecoveryKey, Sealing, Unreadable
from mirror.store.people.pending import Pending
from mirror.store.people.teams import Team, TeamId
from mirror.store.upkeep import reseal
from mirror.store.upkeep.reseal import Progress
from mirror.vault import age

log = logging.getLogger("mirror.people.keys")

NOTICE: Final = "keys"  # the kind of the notices
PLUGIN_SECONDS: Final = 20.0  # for the program of a hardware key to seal a sample
KEY_FILE_SECONDS: Final = 20.0  # in which the vault must take a key file while somebody waits
OPEN_FOR: Final = timedelta(days=1)  # in which an owner may download the identities, once that was allowed
_AT_ONCE: Final = 100  # teams
_MOST: Final = 20  # recovery keys of a team
_PROOF: Final = b"everref recovery key"  # what the answers of samples are derived for
_NO_TOKEN: Final = "an API token cannot change who opens the backups; an owner who signs in can"
_NO_KEYRING: Final = (
    "this installation has no SECRET_KEYS, so that identities cannot be kept; set it to 32 random characters"
    " or more, and start Everref again"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A team's keys, as people see them."""

    sealing: Sealing
    own: Sequence[OwnKey]  # the one that is sealed to first
    recovery: Sequence[RecoveryKey]  # those that were removed last
    unreadable: Unreadable | None  # None: SECRET_KEYS opens everything
    plain: Progress | None  # what lies plain; None: the team does not seal

    @property
    def proved(self) -> Sequence[RecoveryKey]:
        """Those that new objects are sealed to."""
        return [one for one in self.recovery if one.proved_at and not one.removed_at]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A recovery key that was just made, to be printed: nothing keeps the secret."""

    key: RecoveryKey
    identity: str = field(repr=False)  # AGE-SECRET-KEY-1...


@translating
async def standing(services: Services, team: Team) -> Standing:
    """The team's keys."""
    db = services.db
    missing = await keys.unreadable(db, team.id)
    sealing = await keys.sealing(db, team.id)
    return Standing(
        sealing,
        await keys.own_keys(db, team.id),
        await keys.recovery_keys(db, team.id),
        missing[0] if missing else None,
        await reseal.progress(db, team.id) if sealing.since else None,
    )


async def get(services: Services, team: Team, id: UUID) -> RecoveryKey:
    """One of the team's recovery keys. Raises NotFound, also for one that was removed."""
    found = await keys.recovery_key(services.db, team.id, id)
    if found is None:
        raise NotFound("there is no such recovery key; it may have been removed")
    return found


async def named(services: Services, team: Team, text: str) -> RecoveryKey:
    """The recovery key with this name, recipient or id. Raises NotFound, UsageError where several fit."""
    known = [one for one in await keys.recovery_keys(services.db, team.id) if one.removed_at is None]
    found = [one for one in known if text in (one.name, one.recipient, str(one.id))]
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} recovery keys are called {text}; give the id of one: see everref keys"
        )
    if not found:
        raise NotFound(f"{team.name} has no recovery key {text}; see everref keys")
    return found[0]


@translating
async def add(services: Services, by: By | None, team: Team, typed: str, name: str = "") -> RecoveryKey:
    """Add the public half of somebody's key. Nothing is sealed to it before it is proved.

    Raises UsageError for what is no public key, or cannot be sealed to here; Refused, NotAllowed.
    """
    recipient = rules.read(typed)
    called = rules.name(name, recipient)
    await _check_usable(recipient)
    if await keys.is_of_a_team(services.db, recipient.text):
        raise UsageError(
            "this is the key of a team here: it is lost with this installation, and recovers nothing then."
            " Give a key that is kept elsewhere",
            field=rules.FIELD,
        )
    return await _added(services, by, team, NewKey(recipient.text, recipient.kind, called))


async def _added(services: Services, by: By | None, team: Team, new: NewKey) -> RecoveryKey:
    async with _as(services, by, team, "keys.add", new.name, kind=new.kind, recipient=new.recipient) as (
        db,
        at,
    ):
        there = [one for one in await keys.recovery_keys(db, team.id) if one.removed_at is None]
        if len(there) >= _MOST:
            raise Refused(f"a team has at most {_MOST} recovery keys; remove one first")
        id = await keys.add_recovery(db, team.id, new, by.person.id if by else None, at)
        if id is None:
            known = next((one.name for one in there if one.recipient == new.recipient), "another")
            raise UsageError(f"this key is here already, as {known}", field=rules.FIELD)
        await notices.add(
            db,
            team.id,
            None,
            NOTICE,
            f"{_who(by)} added the recovery key {new.name}. Once it is proved, whoever has it can open"
            f" the backups of {team.name}.",
            at,
        )
    return await get(services, team, id)


async def _check_usable(recipient: Recipient) -> None:
    """Seal a sample, as a hardware key needs a program for it. Raises UsageError."""
    if recipient.plugin and shutil.which(recipient.plugin) is None:
        raise UsageError(
            f"a key of this kind needs the program {recipient.plugin} wherever Everref runs, and it is not"
            " there; install it on every machine of Everref, then add the key again",
            field=rules.FIELD,
        )
    try:
        async with asyncio.timeout(PLUGIN_SECONDS):
            await _sealed(b"sample", recipient.text)
    except (OurFault, TimeoutError):
        raise UsageError(
            "nothing can be sealed to this key here"
            + (f": {recipient.plugin} did not do it" if recipient.plugin else ""),
            field=rules.FIELD,
        ) from None


async def _sealed(plain: bytes, recipient: str) -> bytes:
    """Sealed in a thread, as a hardware key's program may take its time. Raises OurFault."""

    def seal() -> bytes:
        try:
            return bytes(pyrage.encrypt(plain, [age.recipient(recipient)], armored=True))
        except pyrage.EncryptError as error:
            raise OurFault(f"nothing can be sealed to this key ({type(error).__name__})") from None

    return await asyncio.to_thread(seal)


async def challenge(services: Services, team: Team, id: UUID) -> bytes:
    """A sample, sealed to this key (age, armored): who tells what it says has the private half.

    Safe to ask for twice: each sample says the same. Raises NotFound, OurFault.
    """
    key = await get(services, team, id)
    return await _sealed(f"{_answers(_keyring(services), key)[0]}\n".encode(), key.recipient)


def _answers(keyring: Keyring, key: RecoveryKey) -> list[str]:
    """What its sample says, by each of SECRET_KEYS: 120 bits in base32, in groups of four."""
    found = []
    for signing in keyring.signing_keys:
        about = f"{key.id} {key.recipient}".encode()
        raw = hmac.digest(hmac.digest(signing, _PROOF, "sha256"), about, "sha256")[:15]
        text = base64.b32encode(raw).decode()
        found.append("-".join(text[place : place + 4] for place in range(0, len(text), 4)))
    return found


@translating
async def prove(services: Services, by: By | None, team: Team, id: UUID, said: str) -> RecoveryKey:
    """Check what a sample said, or the words of a sheet; from then on new objects are sealed to the key.

    Raises UsageError where it is not right: the key stays as it was. Safe to run twice.
    """
    key = await get(services, team, id)
    if key.kind is Kind.SHEET:
        await _check_sheet(services, key, said)
    else:
        _check_answer(_keyring(services), key, said)
    async with _as(services, by, team, "keys.prove", key.name, recipient=key.recipient) as (db, at):
        if await keys.prove(db, team.id, key.id, at):
            failpoints.reached("keys: proved")
            await notices.add(
                db,
                team.id,
                None,
                NOTICE,
                f"{_who(by)} proved the recovery key {key.name}: it opens what is sealed from now on.",
                at,
            )
    await _store_key_file_now(services, team.id)
    return await get(services, team, id)


def _check_answer(keyring: Keyring, key: RecoveryKey, said: str) -> None:
    if rules.is_private(said):
        raise UsageError(
            "this is the private half of a key; nothing was stored. Open the sample with it where it is, and"
            " paste what the sample says",
            field="answer",
        )
    text = "".join(one for one in said.upper() if one.isascii() and one.isalnum()).encode()
    right = [hmac.compare_digest(text, one.replace("-", "").encode()) for one in _answers(keyring, key)]
    if not any(right):
        raise UsageError("this is not what the sample says; paste the line that age printed", field="answer")


async def _check_sheet(services: Services, key: RecoveryKey, said: str) -> None:
    """The words, or the identity, as typed from the paper, must open a sample that is sealed to the key."""
    try:
        identity = read_identity(said)
    except UsageError as error:
        raise UsageError(str(error), field="answer") from None
    if identity.recipient != key.recipient:
        raise UsageError(
            "these are the words of another sheet; take the one that you printed last", field="answer"
        )
    answer = _answers(_keyring(services), key)[0].encode()
    sample = await _sealed(answer, key.recipient)
    if not hmac.compare_digest(opened(sample, [identity]), answer):
        raise UsageError("the sample did not open with these words", field="answer")


def opened(sample: bytes, known: Sequence[Identity]) -> bytes:
    """What is sealed in a small object. Raises UsageError where none of these opens it."""
    try:
        return bytes(pyrage.decrypt(sample, [pyrage.x25519.Identity.from_str(one.text) for one in known]))
    except pyrage.DecryptError:
        raise UsageError("this key does not open it", field="answer") from None


def opened_with(sample: bytes, private: str) -> str:
    """What a sample says, by a file of age's or of SSH's that holds a private key. Raises UsageError."""
    if "PRIVATE KEY-----" in private:
        try:
            key: Any = pyrage.ssh.Identity.from_buffer(private.encode())
        except Exception:  # pyrage's classes of errors differ by what is wrong
            raise UsageError("this private key cannot be read; it must have no passphrase") from None
    else:
        key = pyrage.x25519.Identity.from_str(read_identity(private).text)
    try:
        return bytes(pyrage.decrypt(sample, [key])).decode().strip()
    except pyrage.DecryptError:
        raise UsageError(
            "this private key does not open the sample; it belongs to another public key"
        ) from None


def read_identity(typed: str) -> Identity:
    """An identity from a file of age, or from a sheet's words. Raises UsageError, which repeats no secret."""
    lines = [line.strip() for line in typed.splitlines() if line.strip() and not line.strip().startswith("#")]
    found = [line for line in lines if line.upper().startswith("AGE-SECRET-KEY-1")]
    if len(found) > 1:
        raise UsageError("there is more than one identity here; give one at a time")
    text = found[0].upper() if found else recovery_words.read(typed)
    recovery_words.raw_of(text)
    return Identity(str(pyrage.x25519.Identity.from_str(text).to_public()), text)


async def make_sheet(services: Services, by: By | None, team: Team) -> Sheet:
    """A new key for a sheet to print: only its public half is stored. Raises Refused, NotAllowed."""
    new = identities.made()
    at = by.at if by else services.clock()
    name = f"sheet of {at.date().isoformat()}, {new.recipient[-6:]}"
    return Sheet(await _added(services, by, team, NewKey(new.recipient, Kind.SHEET, name)), new.text)


@translating
async def switch_on(services: Services, by: By | None, team: Team) -> bool:
    """Seal what is stored from now on. False: it is so already. Raises Refused before a key is proved."""
    keyring = _keyring(services)
    async with _as(services, by, team, "keys.seal", team.name) as (db, at):
        if not [one for one in await keys.recovery_keys(db, team.id) if one.proved_at and not one.removed_at]:
            raise Refused(
                "first add a recovery key, or print a recovery sheet, and prove it: if this installation were"
                " lost, nobody could open sealed backups otherwise"
            )
        await keys.add_identity(db, keyring, team.id, identities.made(), at)
        current = (await keys.own_keys(db, team.id))[0].recipient
        if current not in [one.recipient for one in await keys.identities(db, keyring, team.id)]:
            raise Refused(
                "SECRET_KEYS does not open the team's identity; make a new one first: everref keys rotate"
            )
        done = await keys.set_sealed(db, team.id, at, at)
        if done:
            said = f"{_who(by)} switched sealing on: new backups of {team.name} are encrypted."
            await notices.add(db, team.id, None, NOTICE, said, at)
    await _store_key_file_now(services, team.id)
    return done


@translating
async def switch_off(services: Services, by: By | None, team: Team) -> bool:
    """Store new objects plain; those that are sealed stay so, and readable. False: it is so already."""
    async with _as(services, by, team, "keys.unseal", team.name) as (db, at):
        done = await keys.set_sealed(db, team.id, None, at)
        if done:
            said = (
                f"{_who(by)} switched sealing off: new backups of {team.name} are stored unencrypted."
                " What is sealed stays sealed, and readable."
            )
            await notices.add(db, team.id, None, NOTICE, said, at)
    return done


@translating
async def rotate(services: Services, by: By | None, team: Team) -> str:
    """Seal to a new identity from now on, and return its recipient; the old ones keep opening."""
    new, keyring = identities.made(), _keyring(services)
    async with _as(services, by, team, "keys.rotate", team.name, recipient=new.recipient) as (db, at):
        await keys.rotate(db, keyring, team.id, new, at)
        said = f"{_who(by)} made a new key for the backups of {team.name}."
        await notices.add(db, team.id, None, NOTICE, said, at)
    await _store_key_file_now(services, team.id)
    return new.recipient


@translating
async def bring_back(services: Services, by: By | None, team: Team, typed: str) -> tuple[str, bool]:
    """Keep an identity that somebody has, from a file or a sheet, so that it opens what was sealed to it.

    Returns its recipient; and False where it did already. Raises UsageError, NotAllowed.
    """
    known, keyring = read_identity(typed), _keyring(services)
    async with _as(services, by, team, "keys.import", team.name, recipient=known.recipient) as (db, at):
        done = await keys.bring_back(db, keyring, team.id, known, at)
        if done:
            said = f"{_who(by)} imported a key that opens backups of {team.name}."
            await notices.add(db, team.id, None, NOTICE, said, at)
    await _store_key_file_now(services, team.id)
    return known.recipient, done


async def remove(services: Services, by: By | None, team: Team, id: UUID) -> Pending | None:
    """Remove a key that was never proved, or only lately (None); ask for the removal of another.

    Raises Refused for the last proved key of a team that seals; NotFound, NotAllowed.
    """
    key = await get(services, team, id)
    if key.proved_at is not None and not await _is_new(services, team.id, key):
        await _check_not_last(services, team.id, key)
        wanted = {"key": str(key.id)}
        return await pending.ask(
            services, by, team, pending_rules.Kind.REMOVE_RECOVERY_KEY, wanted, subject=key.name
        )
    async with _as(services, by, team, "keys.remove", key.name, recipient=key.recipient) as (db, at):
        if (await keys.recovery_key(db, team.id, id) or key).proved_at != key.proved_at:
            raise Refused(f"{key.name} was proved just now; try again")
        await keys.remove(db, team.id, id, at)
        if key.proved_at is not None:
            await notices.add(
                db, team.id, None, NOTICE, f"{_who(by)} removed the new recovery key {key.name}.", at
            )
    return None


async def _is_new(services: Services, team_id: TeamId, key: RecoveryKey) -> bool:
    """Whether it was proved within the days that an export of the keys would wait, beside an older one."""
    days = await pending_rows.days(services.db, team_id)
    known = await keys.recovery_keys(services.db, team_id)
    return key not in _to_have_all(known, services.clock(), days)


def _to_have_all(known: Sequence[RecoveryKey], now: datetime, days: int) -> list[RecoveryKey]:
    """The recovery keys that a team's own identities are sealed to.

    What was sealed before is opened by those: to let somebody have them is an export of the keys. So a key
    that was proved beside an older one waits as many days as an export does, in which any owner can
    remove it at once.
    """
    proved = [one for one in known if one.proved_at and not one.removed_at]
    first = min((one.proved_at for one in proved if one.proved_at), default=None)
    return [
        one
        for one in proved
        if one.proved_at == first or (one.proved_at and one.proved_at <= now - timedelta(days=days))
    ]


async def remove_as_asked(services: Services, one: Pending) -> Mapping[str, Any]:
    """Seal nothing more to the key that was asked about, nor to what it opens. Raises Refused for the last.

    Safe to run twice.
    """
    if one.team_id is None:
        return {}
    key = await keys.recovery_key(services.db, one.team_id, UUID(one.wanted["key"]))
    if key is None:
        return {"removed": False}
    await _check_not_last(services, one.team_id, key)
    new, now = identities.made(), services.clock()
    async with transaction(services.db) as db:  # whoever has the key may have the identities, too
        await keys.remove(db, one.team_id, key.id, now)
        await keys.rotate(db, _keyring(services), one.team_id, new, now)
    await _store_key_file_now(services, one.team_id)
    return {"removed": True, "recipient": key.recipient}


async def _check_not_last(services: Services, team_id: TeamId, key: RecoveryKey) -> None:
    known = await keys.recovery_keys(services.db, team_id)
    others = [one for one in known if one.proved_at and not one.removed_at and one.id != key.id]
    if not others and (await keys.sealing(services.db, team_id)).since is not None:
        raise Refused(
            f"{key.name} is the only proved recovery key; add and prove another first, or switch sealing off"
        )


async def ask_export(services: Services, by: By | None, team: Team) -> Pending:
    """Ask that the team's identities may be downloaded, which takes effect days later."""
    return await pending.ask(services, by, team, pending_rules.Kind.EXPORT_KEYS, {})


async def let_out(services: Services, one: Pending) -> Mapping[str, Any]:
    """Let an owner download the identities for a day. Safe to run twice."""
    if one.team_id is None:
        return {}
    until = services.clock() + OPEN_FOR
    await keys.let_out(services.db, one.team_id, until)
    return {"until": until.isoformat()}


async def exported(services: Services, by: By | None, team: Team) -> str:
    """The team's identities, as a file that `age -i` takes. Raises NotAllowed outside of the time for it."""
    sealing = await keys.sealing(services.db, team.id)
    at = by.at if by else services.clock()
    if sealing.open_until is None or sealing.open_until <= at:
        raise NotAllowed(
            "the keys can be downloaded once their export was asked for, confirmed, and its days are over"
        )
    async with _as(services, by, team, "keys.export", team.name) as (db, at):
        found = await keys.identities(db, _keyring(services), team.id)
        said = f"{_who(by)} downloaded the keys of {team.name}."
        await notices.add(db, team.id, None, NOTICE, said, at)
    return _file(found)


async def due(services: Services) -> None:
    """Make identities for teams that have none, store key files, and tell of what SECRET_KEYS does not open.

    Safe to run twice: a team has one identity that is sealed to, and is told once of one that is lost.
    """
    keyring, now = services.keyring, services.clock()
    while keyring and (found := await keys.without(services.db, _AT_ONCE)):
        for team_id in found:
            await keys.add_identity(services.db, keyring, team_id, identities.made(), now)
    await store_key_files(services)
    for one in await keys.look(services.db, keyring.marks if keyring else (), now):
        told = f"{NOTICE} unreadable {one.team_id} {one.since.isoformat()}"
        await notices.add(services.db, one.team_id, None, NOTICE, lost(one), now, told)


async def store_key_files(services: Services) -> None:
    """Store the identities of each team that seals, sealed to its recovery keys, whenever either changed.

    So a recovery key opens what was sealed before it was added, some days after it was proved, and after a
    rotation: every object is sealed to an identity of the team's. Object first, row later; safe to run twice,
    as each file has its own key.
    """
    for team_id in await keys.that_seal(services.db) if services.keyring else ():
        await _store_key_file(services, team_id)


async def _store_key_file(services: Services, team_id: TeamId) -> None:
    known = await keys.recovery_keys(services.db, team_id)
    days = await pending_rows.days(services.db, team_id)
    to = sorted(one.recipient for one in _to_have_all(known, services.clock(), days))
    try:
        mine = await keys.identities(services.db, _keyring(services), team_id)
    except BadKey:  # of which `look` tells
        return
    of = hashlib.sha256("\n".join([*to, *(one.recipient for one in mine)]).encode()).hexdigest()
    if not to or not mine or await keys.key_file_of(services.db, team_id) == of:
        return
    key = layout.key_file(team_id, services.clock())
    await services.stored.put(key, await age.seal(_file(mine).encode(), to))
    failpoints.reached("keys: file stored")
    await keys.has_key_file(services.db, team_id, key, of)


async def _store_key_file_now(services: Services, team_id: TeamId) -> None:
    """After a change, rather than minutes later, or never where no worker runs: what is sealed meanwhile

    would be opened by no key file. Where the vault is away, `due` stores it.
    """
    if team_id not in await keys.that_seal(services.db):
        return
    try:
        async with asyncio.timeout(KEY_FILE_SECONDS):
            await _store_key_file(services, team_id)
    except (EverrefError, TimeoutError) as error:
        log.warning("the key file of a team is not stored yet; a worker does it: %s", error)


def _file(known: Sequence[Identity]) -> str:
    """Identities as `age -i` takes them."""
    return "".join(f"# public key: {one.recipient}\n{one.text}\n" for one in known)


async def from_key_files(services: Services, given: Identity) -> Mapping[TeamId, Sequence[Identity]]:
    """The identities of the teams whose key files this one opens: of each the newest file that it does."""
    found = dict[TeamId, Sequence[Identity]]()
    async for stat in services.stored.list(layout.KEY_FILES):  # in the order of their times
        team_id = layout.parse_key_file(stat.key)
        if team_id is None:
            continue
        try:
            file = await age.open_sealed(stat.key, await services.stored.get(stat.key), [given])
        except KeyMissing:  # it was sealed before this key was added, or is another team's
            continue
        lines = file.decode("ascii", "replace").splitlines()
        found[TeamId(team_id)] = [
            read_identity(line) for line in lines if line.startswith("AGE-SECRET-KEY-1")
        ]
    return found


async def keep(services: Services, found: Mapping[TeamId, Sequence[Identity]]) -> None:
    """Keep what key files had, so that it opens backups from now on. Safe to run twice.

    A team that is not here is the command line's own, which has another id in another database.
    """
    for team_id, known in found.items():
        here = team_id if await teams.find(services.db, team_id) else await teams.default(services.db)
        for one in known:
            await keys.bring_back(services.db, _keyring(services), here, one, services.clock())


def lost(one: Unreadable) -> str:
    """What to do about an identity that SECRET_KEYS does not open."""
    which = "the key" if one.newest else "an older key"
    return (
        f"SECRET_KEYS no longer opens {which} of {one.team}, so that sealed backups cannot be read or"
        " restored here. Nothing is lost, and they can still be verified: add the key that was removed to"
        f" the end of SECRET_KEYS, or import a recovery key: everref keys import --team {one.team}"
    )


def _as(
    services: Services, by: By | None, team: Team, action: str, subject: str, **detail: Any
) -> AbstractAsyncContextManager[tuple[asyncpg.Connection, datetime]]:
    """A transaction in which an owner, or whoever runs Everref, changes a team's keys, and its entry."""
    operator.check_signed_in(by, _NO_TOKEN)
    return operator.acting_as(services, by, team, Role.OWNER, action, subject, **detail)


def _who(by: By | None) -> str:
    return by.person.name if by else operator.ACTOR.capitalize()  # which begins a sentence


def _keyring(services: Services) -> Keyring:
    """Raises UsageError where there is none."""
    if services.keyring is None:
        raise UsageError(_NO_KEYRING)
    return services.keyring
