"""Sealing and opening, with keys that change; one tampering for each test."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import OurFault
from mirror.core.keyring import OVERHEAD, BadKey, Keyring

OLD, NEW = "o" * 32, "n" * 32
PLACE = "credential/1"


@given(st.binary(max_size=300), st.text(max_size=50))
def test_what_was_sealed_opens_to_the_same(plain: bytes, context: str) -> None:
    keyring = Keyring([NEW])
    assert keyring.open(keyring.seal(plain, context), context) == plain


def test_the_same_text_never_seals_to_the_same_bytes() -> None:
    keyring = Keyring([NEW])
    assert keyring.seal(b"hush", PLACE) != keyring.seal(b"hush", PLACE)


def test_whoever_has_an_envelope_seals_one_text_for_its_place_alone() -> None:
    keyring = Keyring([NEW, OLD])
    made, nonce = keyring.envelope(PLACE), bytes(12)
    sealed = made.head + nonce + AESGCM(made.key).encrypt(nonce, b"hush", made.context)
    assert len(sealed) == len(b"hush") + OVERHEAD and keyring.is_newest(sealed)
    assert keyring.open(sealed, PLACE) == b"hush"
    elsewhere = made.head + nonce + AESGCM(made.key).encrypt(nonce, b"hush", b"")
    for wrong, context in ((sealed, "credential/2"), (elsewhere, PLACE)):
        with pytest.raises(BadKey, match="changed or moved"):
            keyring.open(wrong, context)
    assert keyring.envelope(PLACE).key != made.key and made.key.hex() not in repr(made)


def test_the_newest_key_seals_and_an_older_one_still_opens() -> None:
    sealed = Keyring([OLD]).seal(b"hush", PLACE)
    both = Keyring([NEW, OLD])
    assert both.open(sealed, PLACE) == b"hush"
    assert not both.is_newest(sealed)
    resealed = both.seal(b"hush", PLACE)
    assert both.is_newest(resealed)
    assert Keyring([NEW]).open(resealed, PLACE) == b"hush"


def test_a_key_that_is_missing_is_said_to_be_added() -> None:
    with pytest.raises(BadKey, match="credential/1: the key that encrypted it is not in SECRET_KEYS"):
        Keyring([NEW]).open(Keyring([OLD]).seal(b"hush", PLACE), PLACE)


def test_what_was_sealed_for_one_place_opens_in_no_other() -> None:
    keyring = Keyring([NEW])
    with pytest.raises(BadKey, match="changed or moved"):
        keyring.open(keyring.seal(b"hush", PLACE), "credential/2")


@pytest.mark.parametrize("position", [9, 20, 21, 68, 69, 80, 81, 100], ids="byte {}".format)
def test_a_flipped_bit_is_found_wherever_it_is(position: int) -> None:
    keyring = Keyring([NEW])
    sealed = bytearray(keyring.seal(b"hush", PLACE))
    assert len(sealed) == 101
    sealed[position] ^= 1
    with pytest.raises(BadKey, match="changed or moved"):
        keyring.open(bytes(sealed), PLACE)


@pytest.mark.parametrize("length", [0, 1, 9, 50, 96], ids="{} bytes".format)
def test_a_text_that_was_cut_is_refused(length: int) -> None:
    keyring = Keyring([NEW])
    with pytest.raises(BadKey, match="Everref did not encrypt this"):
        keyring.open(keyring.seal(b"hush", PLACE)[:length], PLACE)


def test_a_text_cut_within_is_refused() -> None:
    keyring = Keyring([NEW])
    with pytest.raises(BadKey, match="changed or moved"):
        keyring.open(keyring.seal(b"hush", PLACE)[:-1], PLACE)


def test_a_text_of_another_format_is_refused() -> None:
    keyring = Keyring([NEW])
    with pytest.raises(BadKey, match="Everref did not encrypt this"):
        keyring.open(b"\x02" + keyring.seal(b"hush", PLACE)[1:], PLACE)


def test_no_key_at_all_is_our_fault_and_says_what_to_set() -> None:
    with pytest.raises(BadKey, match="SECRET_KEYS is empty") as raised:
        Keyring([])
    assert isinstance(raised.value, OurFault)


def test_neither_repr_nor_error_shows_a_key_or_a_text() -> None:
    keyring = Keyring(["hush" * 8])
    assert repr(keyring) == "Keyring(1 keys)"
    with pytest.raises(BadKey) as raised:
        keyring.open(Keyring([OLD]).seal(b"secret", PLACE), PLACE)
    assert "hush" not in str(raised.value)
    assert "secret" not in str(raised.value)
