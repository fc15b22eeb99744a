"""Keys to recover with: what is refused, how they are proved, and that sealing waits for a proof."""

import asyncio
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from html import unescape
from pathlib import Path

import pyrage
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mirror.core import identities
from mirror.core.errors import Refused, UsageError
from mirror.core.formats import layout, recovery_words
from mirror.core.keyring import Keyring
from mirror.core.rules.keeping import recovery_keys as rules
from mirror.core.rules.keeping.recovery_keys import Kind
from mirror.core.rules.roles import Role
from mirror.jobs.pending import CARRY_OUT
from mirror.people import keys as flow
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.store.people import audit, keys, notices
from mirror.store.people import pending as pending_rows
from mirror.store.people.teams import Team
from tests.parts.web import Browser, Site
from tests.test_cli import Everref, everref

__all__ = ["everref"]

PRIVATE = identities.made()


def ssh_public(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def pem(key: ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


SSH = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("typed", "kind", "text"),
    [
        pytest.param(f"  {PRIVATE.recipient}\n", Kind.AGE, PRIVATE.recipient, id="age"),
        pytest.param(
            PRIVATE.recipient.upper(), Kind.AGE, PRIVATE.recipient, id="in capitals, as a QR code has it"
        ),
        pytest.param(ssh_public(SSH) + " ann@home", Kind.SSH, ssh_public(SSH), id="ssh with a comment"),
        pytest.param(
            "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
            Kind.PLUGIN,
            "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
            id="a hardware key",
        ),
    ],
)
def test_a_public_key_is_read(typed: str, kind: Kind, text: str) -> None:
    found = rules.read(typed)
    assert (found.kind, found.text) == (kind, text)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        pytest.param(PRIVATE.text, "the private half of a key; nothing was stored", id="an age identity"),
        pytest.param(
            f"# created: 2026\n{PRIVATE.text.lower()}", "the private half", id="a key file in small letters"
        ),
        pytest.param(pem(SSH), "the private half", id="an SSH key file"),
        pytest.param("", "give a public key", id="nothing"),
        pytest.param("hunter2", "this is no public key", id="a word"),
        pytest.param(PRIVATE.recipient[:-1], "begins like an age key, but is not one", id="cut off"),
        pytest.param("ssh-ed25519 AAAA", "begins like an SSH public key, but is not one", id="cut off SSH"),
        pytest.param(
            ssh_public(rsa.generate_private_key(65537, 1024)),
            "this RSA key has 1024 bits",
            id="a short RSA key",
        ),
        pytest.param(
            ssh_public(ec.generate_private_key(ec.SECP256R1())),
            "age does not seal to keys of the kind",
            id="ecdsa",
        ),
        pytest.param(
            "age1tag1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
            "age1tag yet",
            id="of a newer age",
        ),
    ],
)
def test_what_is_no_public_key_is_refused_without_repeating_it(typed: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)) as refused:
        rules.read(typed)
    assert "\n" not in str(refused.value) and (len(typed) < 20 or typed not in str(refused.value))


def test_an_identity_is_words_that_bip39_reads_and_back() -> None:
    """The vector is of BIP-39 for 32 bytes of 0x7f; the check words are by the rule that is documented."""
    identity = recovery_words.identity_of(b"\x7f" * 32)
    assert str(pyrage.x25519.Identity.from_str(identity)) == identity
    lines = recovery_words.written(identity)
    bip39 = " ".join(word for line in lines for word in line.split()[:-1])
    assert bip39 == (
        "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful"
        " legal winner thank year wave sausage worth title"
    )
    typed = "\n".join(f"{number}. {line.upper()}" for number, line in enumerate(lines, 1))
    assert recovery_words.read(typed) == identity
    assert recovery_words.read(" ".join(word[:4] for word in " ".join(lines).split())) == identity


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            lambda words: ["zzzz", *words[1:]], "line 1, word 1: 'zzzz' is not a word", id="no word"
        ),
        pytest.param(
            lambda words: [words[1], words[0], *words[2:]], "line 1 has a typing error", id="swapped"
        ),
        pytest.param(
            lambda words: [*words[:7], "zoo", *words[8:]], "line 2 has a typing error", id="another word"
        ),
        pytest.param(
            lambda words: [*words[7:14], *words[:7], *words[14:]],
            "line 1 has a typing error",
            id="lines swapped",
        ),
        pytest.param(lambda words: words[:-1], "these are 27 words; a sheet has 28", id="one missing"),
        pytest.param(lambda words: [*words, "zoo"], "these are 29 words", id="one too many"),
    ],
)
def test_a_typing_error_is_found_in_its_line(change: Callable[[list[str]], list[str]], says: str) -> None:
    lines = recovery_words.written(recovery_words.identity_of(bytes(range(32))))
    with pytest.raises(UsageError, match=re.escape(says)):
        recovery_words.read(" ".join(change(" ".join(lines).split())))


@dataclass
class Owner:
    """Ann, who owns a team, and her browser."""

    site: Site
    team: Team
    by: By
    browser: Browser
    base: str = "/ann/-/settings/keys"

    async def proved(self) -> keys.RecoveryKey:
        """A key of hers, proved by its sample."""
        services = self.site.mirror.services
        mine = identities.made()
        made = await flow.add(services, self.by, self.team, mine.recipient, "Ann's key")
        sample = await flow.challenge(services, self.team, made.id)
        return await flow.prove(services, self.by, self.team, made.id, flow.opened(sample, [mine]).decode())


@pytest_asyncio.fixture
async def owner(site: Site) -> Owner:
    site.mirror.clock.step *= 0
    ann = await site.person("ann")
    await flow.due(site.mirror.services)
    return Owner(site, await site.team(ann), By(ann, site.mirror.clock.now), await site.signed_in(ann))


async def test_a_key_counts_once_stock_age_opened_its_sample(owner: Owner, tmp_path: Path) -> None:
    db = owner.site.mirror.services.db
    home = tmp_path / "id_ed25519"
    home.write_text(pem(SSH))
    home.chmod(0o600)
    await owner.browser.get(owner.base)
    added = await owner.browser.post(owner.base, recipient=ssh_public(SSH) + " ann@home", name="")
    (key,) = await keys.recovery_keys(db, owner.team.id)
    assert (key.name, key.proved_at) == ("ann@home", None)
    own = await keys.recipients(db, owner.team.id)
    shown = await owner.browser.follow(added)
    sample = (await owner.browser.get(f"{owner.base}/{key.id}/sample.age")).text
    assert "BEGIN AGE ENCRYPTED FILE" in unescape(shown.text) and "BEGIN AGE" in sample
    wrong = await owner.browser.post(f"{owner.base}/{key.id}/prove", answer="AAAA-BBBB")
    assert wrong.status_code == 422 and "not what the sample says" in wrong.text
    pasted = await owner.browser.post(f"{owner.base}/{key.id}/prove", answer=pem(SSH))
    assert "the private half of a key; nothing was stored" in pasted.text and "OPENSSH" not in pasted.text
    assert await keys.recipients(db, owner.team.id) == own and len(own) == 1
    (tmp_path / "sample.age").write_text(sample)
    said = await asyncio.to_thread(
        subprocess.check_output, ["age", "-d", "-i", str(home), str(tmp_path / "sample.age")]
    )
    right = await owner.browser.post(f"{owner.base}/{key.id}/prove", answer=said.decode().lower())
    assert right.status_code == 303
    assert await keys.recipients(db, owner.team.id) == [*own, key.recipient]
    actions = [one.entry.action for one in await audit.page(db, owner.team.id)]
    assert actions == ["keys.prove", "keys.add"]
    told = [one.message for one in await notices.open_of(db, owner.team.id)]
    assert told[0] == "Ann proved the recovery key ann@home: it opens what is sealed from now on."


async def test_a_sheet_is_shown_once_and_proved_by_its_words(owner: Owner) -> None:
    services = owner.site.mirror.services
    await owner.browser.get(owner.base)
    shown = await owner.browser.follow(await owner.browser.post(f"{owner.base}/sheet"))
    identity = re.search(r"AGE-SECRET-KEY-1[A-Z0-9]{58}", shown.text)
    lines = re.findall(r'<td class="mono">([a-z ]+)</td>', shown.text)
    assert identity and len(lines) == recovery_words.LINES and "no-store" in shown.headers["cache-control"]
    assert "AGE-SECRET" not in (await owner.browser.get(f"{owner.base}/sheet")).text
    (key,) = await keys.recovery_keys(services.db, owner.team.id)
    stored = await services.db.fetch(
        "select recovery_key::text, to_jsonb(team_key)::text from recovery_key, team_key"
    )
    assert identity[0] not in str(stored) and key.kind is Kind.SHEET
    prove, swapped = f"{owner.base}/{key.id}/prove", lines[1].split(maxsplit=1)[1]
    typo = await owner.browser.post(prove, answer=" ".join([lines[0], f"zebra {swapped}", *lines[2:]]))
    assert typo.status_code == 422 and "zebra" not in typo.text
    assert "line 2 has a typing error" in typo.text.lower()
    other = "\n".join(recovery_words.written(PRIVATE.text))
    assert "the words of another sheet" in (await owner.browser.post(prove, answer=other)).text
    assert (await keys.recovery_keys(services.db, owner.team.id))[0].proved_at is None
    assert (await owner.browser.post(prove, answer="\r\n".join(lines))).status_code == 303
    assert (await keys.recovery_keys(services.db, owner.team.id))[0].proved_at is not None


async def test_sealing_waits_for_a_key_that_was_proved(owner: Owner) -> None:
    services = owner.site.mirror.services
    await flow.add(services, owner.by, owner.team, PRIVATE.recipient)
    await owner.browser.get(owner.base)
    refused = await owner.browser.post(f"{owner.base}/seal", on="1")
    assert refused.status_code == 422 and "first add a recovery key" in refused.text.lower()
    assert (await keys.sealing(services.db, owner.team.id)).since is None
    await owner.proved()
    assert (await owner.browser.post(f"{owner.base}/seal", on="1")).status_code == 303
    assert (await keys.sealing(services.db, owner.team.id)).since is not None
    assert not await flow.switch_on(services, owner.by, owner.team)
    page = await owner.browser.post(f"{owner.base}/seal", on="0")
    assert (await keys.sealing(services.db, owner.team.id)).since is None
    assert "stay so, and readable" in (await owner.browser.follow(page)).text


@pytest.mark.parametrize("typed", ["again", "own", "private", "plugin"])
async def test_a_key_that_cannot_count_is_refused_in_the_form(
    owner: Owner, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, db = owner.site.mirror.services, owner.site.mirror.services.db
    known = await flow.add(services, owner.by, owner.team, PRIVATE.recipient, "safe")
    monkeypatch.setenv("PATH", "/nowhere")
    text, says = {
        "again": (known.recipient, "is here already, as safe"),
        "own": ((await keys.recipients(db, owner.team.id))[0], "the key of a team here"),
        "private": (PRIVATE.text, "the private half of a key; nothing was stored"),
        "plugin": (
            "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
            "needs the program age-plugin-yubikey wherever Everref runs",
        ),
    }[typed]
    await owner.browser.get(owner.base)
    answer = await owner.browser.post(owner.base, recipient=text)
    assert answer.status_code == 422 and says in unescape(answer.text)
    assert (PRIVATE.text in answer.text) is False
    assert len(await keys.recovery_keys(db, owner.team.id)) == 1


async def test_only_an_owner_changes_keys_and_whoever_was_let_in_by_a_link_does_not(owner: Owner) -> None:
    services = owner.site.mirror.services
    bob = await owner.site.member(owner.team, "bob", Role.ADMIN)
    with pytest.raises(Refused, match="needs the role owner"):
        await flow.rotate(services, By(bob, owner.by.at), owner.team)
    with pytest.raises(Refused, match="set a new password first"):
        await flow.rotate(services, By(owner.by.person, owner.by.at, let_in=True), owner.team)
    page = (await (await owner.site.signed_in(bob)).get(owner.base)).text
    assert "Recovery keys" in page and "Make a recovery sheet" not in page


async def test_a_new_key_seals_and_the_old_one_still_opens(owner: Owner) -> None:
    services = owner.site.mirror.services
    assert services.keyring
    (before,) = await keys.identities(services.db, services.keyring, owner.team.id)
    recipient = await flow.rotate(services, owner.by, owner.team)
    after = await keys.identities(services.db, services.keyring, owner.team.id)
    assert [one.recipient for one in after] == [recipient, before.recipient]
    assert await keys.recipients(services.db, owner.team.id) == [recipient]


async def test_a_team_whose_key_does_not_open_is_told_what_to_do_until_it_does(owner: Owner) -> None:
    services, db = owner.site.mirror.services, owner.site.mirror.services.db
    assert services.keyring
    await owner.proved()
    await flow.switch_on(services, owner.by, owner.team)
    (mine,) = await keys.identities(db, services.keyring, owner.team.id)
    await db.execute(
        "update team_key set sealed = $1 where team_id = $2",
        Keyring(["lost" * 8]).seal(b"x", "team_key/x"),
        owner.team.id,
    )
    for _ in range(2):
        await flow.due(services)
    (told,) = [one for one in await notices.open_of(db, owner.team.id) if "no longer opens" in one.message]
    assert "everref keys import --team ann" in told.message
    assert "everref keys import --team ann" in (await owner.browser.get(owner.base)).text
    assert await keys.closed(db, services.keyring.marks) == ["ann"]
    assert await flow.bring_back(services, owner.by, owner.team, f"# my sheet\n{mine.text}\n") == (
        mine.recipient,
        True,
    )
    assert await flow.bring_back(services, owner.by, owner.team, mine.text) == (mine.recipient, False)
    await flow.due(services)
    assert (await flow.standing(services, owner.team)).unreadable is None
    assert await keys.closed(db, services.keyring.marks) == []
    assert await keys.identities(db, services.keyring, owner.team.id) == [mine]


async def test_a_proved_key_goes_only_when_it_was_asked_for_and_never_as_the_last(owner: Owner) -> None:
    services = owner.site.mirror.services
    key, other = await owner.proved(), await owner.proved()
    await flow.switch_on(services, owner.by, owner.team)
    await owner.browser.get(owner.base)
    asked = await owner.browser.follow(await owner.browser.post(f"{owner.base}/{key.id}/remove"))
    assert "asked to remove the recovery key" in unescape(asked.text)
    assert len(await keys.recipients(services.db, owner.team.id)) == 3
    (one,) = await pending_rows.of_team(services.db, owner.team.id)
    assert await CARRY_OUT[one.kind](services, one) == {"removed": True, "recipient": key.recipient}
    assert await CARRY_OUT[one.kind](services, one) == {"removed": False}
    assert key.recipient not in await keys.recipients(services.db, owner.team.id)
    assert len(await keys.own_keys(services.db, owner.team.id)) == 2  # nor to an identity that it could open
    with pytest.raises(Refused, match="is the only proved recovery key"):
        await flow.remove(services, owner.by, owner.team, other.id)


async def test_the_keys_leave_only_on_the_day_that_was_asked_for(owner: Owner) -> None:
    services = owner.site.mirror.services
    await owner.browser.get(owner.base)
    assert (await owner.browser.post(f"{owner.base}/download")).status_code == 422
    asked = await flow.ask_export(services, owner.by, owner.team)
    await CARRY_OUT[asked.kind](services, asked)
    file = (await owner.browser.post(f"{owner.base}/download")).text
    assert services.keyring
    assert flow.read_identity(file) in await keys.identities(services.db, services.keyring, owner.team.id)
    assert "keys.export" in [one.entry.action for one in await audit.page(services.db, owner.team.id)]


async def test_a_key_that_was_added_later_opens_what_was_sealed_before(owner: Owner, tmp_path: Path) -> None:
    services, db = owner.site.mirror.services, owner.site.mirror.services.db
    assert services.keyring
    await owner.proved()
    await flow.switch_on(services, owner.by, owner.team)
    (before,) = await keys.identities(db, services.keyring, owner.team.id)
    await flow.rotate(services, owner.by, owner.team)
    for _ in range(2):
        await flow.store_key_files(services)
    before_it = await services.stored.get(await db.fetchval("select key_file from team where name = 'ann'"))
    added = await flow.add(services, owner.by, owner.team, PRIVATE.recipient, "later")
    sample = await flow.challenge(services, owner.team, added.id)
    said = flow.opened_with(sample, PRIVATE.text)
    clock = owner.site.mirror.clock
    clock.now += timedelta(days=1)
    by = By(owner.by.person, clock.now)
    await flow.prove(services, by, owner.team, added.id, said)
    await flow.store_key_files(services)
    # To open what was sealed before takes as many days as an export of the keys, and it can be removed.
    assert len([one async for one in services.stored.list(layout.KEY_FILES)]) == 2
    assert await flow.remove(services, by, owner.team, added.id) is None
    assert added.recipient not in await keys.recipients(db, owner.team.id)
    added = await flow.add(services, by, owner.team, PRIVATE.recipient, "later")
    said = flow.opened_with(await flow.challenge(services, owner.team, added.id), PRIVATE.text)
    await flow.prove(services, by, owner.team, added.id, said)
    clock.now += timedelta(days=7)
    await flow.store_key_files(services)
    files = [one.key async for one in services.stored.list(layout.KEY_FILES)]
    assert len(files) == 3 and all(one.startswith(f"keys/{owner.team.id}/") for one in files)
    newest = await services.stored.get(await db.fetchval("select key_file from team where name = 'ann'"))
    (tmp_path / "team.age").write_bytes(newest)
    (tmp_path / "key.txt").write_text(PRIVATE.text)
    opened = await asyncio.to_thread(
        subprocess.check_output,
        ["age", "-d", "-i", str(tmp_path / "key.txt"), str(tmp_path / "team.age")],
        text=True,
    )
    assert before.text in opened and opened.count("AGE-SECRET-KEY-1") == 2
    with pytest.raises(UsageError, match="does not open"):
        flow.opened_with(before_it, PRIVATE.text)


async def test_a_token_sees_keys_by_the_api_and_changes_none(owner: Owner) -> None:
    api, base = owner.browser.client, "/api/v1/teams/ann"
    key = await owner.proved()
    await flow.switch_on(owner.site.mirror.services, owner.by, owner.team)
    raw = await owner.site.token(owner.by.person, owner.team, ("read", "admin"))
    headers = {"authorization": f"Bearer {raw}"}
    owner.browser.client.cookies.clear()
    for method, path, body in (
        ("POST", "keys", {"recipient": PRIVATE.recipient}),
        ("GET", f"keys/{key.id}/sample", None),
        ("POST", f"keys/{key.id}/prove", {"answer": "x"}),
        ("POST", "keys/rotate", {}),
        ("PUT", "sealing", {"sealed": False}),
        ("DELETE", f"keys/{key.id}", None),
    ):
        refused = await api.request(method, f"{base}/{path}", json=body, headers=headers)
        assert refused.status_code == 403 and "does not have the scope account" in refused.text, path
    shown = await api.get(f"{base}/keys", headers=headers)
    assert [one["name"] for one in shown.json()["recovery"]] == [key.name]
    assert "SECRET" not in shown.text and len(shown.json()["own"]) == 1 and shown.json()["sealed_since"]


def test_keys_by_the_command_line(everref: Everref, tmp_path: Path) -> None:
    file = tmp_path / "key.txt"
    file.write_text(f"# my key\n{PRIVATE.text}\n")
    assert "not sealed" in everref("keys").out
    assert "the private half of a key; nothing was stored" in everref("keys", "add", PRIVATE.text, code=2).err
    assert "first add a recovery key" in everref("keys", "seal", code=1).err
    everref("keys", "add", PRIVATE.recipient, "--name", "Ann")
    wrong = everref("keys", "prove", "Ann", "--identity", str(tmp_path / "none"), code=2)
    assert "cannot be read" in wrong.err
    assert "proved" in everref("keys", "prove", "Ann", "--identity", str(file)).out
    assert "sealed from now on" in everref("keys", "seal").out
    sheet = everref.json("keys", "sheet").one
    (tmp_path / "words").write_text("\n".join(sheet["words"]))
    everref("keys", "prove", sheet["recipient"], stdin="\n".join(sheet["words"]))
    shown = everref.json("keys").one
    assert all(one["recipient"] in everref("keys").out for one in shown["recovery"])
    assert [bool(one["proved_at"]) for one in shown["recovery"]] == [True, True] and shown["sealed_since"]
    assert "asked to remove the recovery key Ann" in everref("keys", "remove", "Ann").out
    assert "opens backups here" in everref("keys", "import", str(tmp_path / "words")).out


async def test_a_run_that_died_after_it_stored_a_key_file_stores_another_and_nothing_is_lost(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = owner.site.mirror.services
    await owner.proved()

    def die(step: str) -> None:
        raise KilledHere(step)

    monkeypatch.setattr(failpoints, "reached", die)
    with pytest.raises(KilledHere, match="keys: file stored"):
        await flow.switch_on(services, owner.by, owner.team)
    monkeypatch.undo()
    for _ in range(2):
        await flow.store_key_files(services)
    files = [one.key async for one in services.stored.list(layout.KEY_FILES)]
    newest = await services.db.fetchval("select key_file from team where name = 'ann'")
    assert len(files) == 2 and newest in files


class KilledHere(Exception):
    """What a test raises in place of a crash."""
