"""Signatures of deliveries: what other programs computed is taken, and one tampering per test is not."""

import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha1, sha256

import pytest

from hooks import verify
from hooks.errors import BadSignature

NOW = datetime(2025, 11, 21, 4, 40, tzinfo=UTC)
SECRET, OTHER = "s" * 43, "o" * 43
BODY = b'{"ref":"refs/heads/main"}'

# The example of GitHub's page on validating deliveries.
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_MAC = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

# Made by `standardwebhooks` 1.1.0 of PyPI: the key is the bytes 0 to 31, the time is NOW.
TOKEN = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
TOKEN_BODY = b'{"object_kind":"push"}'
TOKEN_HEADERS = {
    "webhook-id": "msg_delivery_1",
    "webhook-timestamp": "1763700000",
    "webhook-signature": "v1,hKMpIIY/1q2h34epxy/aH4V7ySCVrcJXiARCZIRbb8c=",
}


def mac(secret: str = SECRET, body: bytes = BODY) -> str:
    return hmac.new(secret.encode(), body, sha256).hexdigest()


def signed(key: bytes, seconds: str, name: str = "msg_1", body: bytes = BODY) -> dict[str, str]:
    """The headers of Standard Webhooks, by the words of its specification."""
    text = f"{name}.{seconds}.".encode() + body
    signature = b64encode(hmac.new(key, text, sha256).digest()).decode()
    return {"webhook-id": name, "webhook-timestamp": seconds, "webhook-signature": "v1," + signature}


def refused(forge: str, secrets: list[str], body: bytes, headers: Mapping[str, str]) -> BadSignature:
    with pytest.raises(BadSignature) as caught:
        verify.VERIFIERS[forge](secrets, body, headers, NOW)
    return caught.value


def test_the_example_of_github_is_taken() -> None:
    verify.github([GITHUB_SECRET], GITHUB_BODY, {"x-hub-signature-256": "sha256=" + GITHUB_MAC})


def test_a_signature_of_standardwebhooks_is_taken() -> None:
    verify.gitlab([TOKEN], TOKEN_BODY, TOKEN_HEADERS, NOW)


@pytest.mark.parametrize("name", ["x-gitea-signature", "x-forgejo-signature"])
def test_gitea_and_forgejo_sign_with_bare_hex(name: str) -> None:
    verify.gitea([SECRET], BODY, {name: mac()})


def test_gitea_is_taken_by_the_signature_it_makes_for_others() -> None:
    verify.gitea([SECRET], BODY, {"x-hub-signature-256": "sha256=" + mac()})


def test_the_older_token_of_gitlab_is_taken() -> None:
    verify.gitlab([SECRET], BODY, {"x-gitlab-token": SECRET}, NOW)


HEADERS = {
    "github": {"x-hub-signature-256": "sha256=" + mac()},
    "gitea": {"x-gitea-signature": mac()},
    "gitlab": {"x-gitlab-token": SECRET},
}


@pytest.mark.parametrize("forge", verify.VERIFIERS)
@pytest.mark.parametrize("secrets", [[SECRET, OTHER], [OTHER, SECRET]], ids=["new", "old"])
def test_while_a_secret_changes_both_are_taken(forge: str, secrets: list[str]) -> None:
    verify.VERIFIERS[forge](secrets, BODY, HEADERS[forge], NOW)


@pytest.mark.parametrize("forge", verify.VERIFIERS)
def test_another_hooks_secret_is_refused(forge: str) -> None:
    refused(forge, [OTHER], BODY, HEADERS[forge])


@pytest.mark.parametrize("forge", verify.VERIFIERS)
def test_what_carries_no_signature_is_refused(forge: str) -> None:
    refused(forge, [SECRET], BODY, {})


@pytest.mark.parametrize("forge", verify.VERIFIERS)
@pytest.mark.parametrize("value", ["", "sha256=", "v1,", "v1", " ", "é", "\udc80", "ÿ" * 64])
def test_an_odd_signature_is_refused(forge: str, value: str) -> None:
    names = ("x-hub-signature-256", "x-gitea-signature", "x-forgejo-signature", "x-gitlab-token")
    refused(forge, [SECRET], BODY, dict.fromkeys(names, value))


@pytest.mark.parametrize("forge", verify.VERIFIERS)
def test_a_hook_without_secrets_takes_nothing(forge: str) -> None:
    refused(forge, [], BODY, HEADERS[forge])


EMPTY = {
    "github": {"x-hub-signature-256": "sha256=" + mac("")},
    "gitea": {"x-gitea-signature": mac("")},
    "gitlab": {"x-gitlab-token": ""},
}


@pytest.mark.parametrize("forge", verify.VERIFIERS)
def test_an_empty_secret_signs_nothing(forge: str) -> None:
    refused(forge, [""], BODY, EMPTY[forge])


@pytest.mark.parametrize("token", ["", "whsec_"])
def test_an_empty_signing_token_signs_nothing(token: str) -> None:
    refused("gitlab", [token], BODY, signed(b"", "1763700000"))


@pytest.mark.parametrize("forge", ["github", "gitea"])
@pytest.mark.parametrize("body", [BODY + b" ", BODY[:-1], b""], ids=["longer", "cut", "empty"])
def test_another_body_is_refused(forge: str, body: bytes) -> None:
    refused(forge, [SECRET], body, HEADERS[forge])


@pytest.mark.parametrize("at", [0, 31, 63])
def test_a_changed_digit_is_refused(at: int) -> None:
    digit = "1" if GITHUB_MAC[at] == "0" else "0"
    changed = GITHUB_MAC[:at] + digit + GITHUB_MAC[at + 1 :]
    refused("github", [GITHUB_SECRET], GITHUB_BODY, {"x-hub-signature-256": "sha256=" + changed})


def test_a_signature_that_was_cut_is_refused() -> None:
    refused("github", [SECRET], BODY, {"x-hub-signature-256": "sha256=" + mac()[:-1]})


def test_a_signature_without_its_method_is_refused() -> None:
    refused("github", [SECRET], BODY, {"x-hub-signature-256": mac()})


def test_sha1_alone_is_refused() -> None:
    weak = hmac.new(SECRET.encode(), BODY, sha1).hexdigest()
    refused("github", [SECRET], BODY, {"x-hub-signature": "sha1=" + weak})


def test_sha1_in_the_place_of_sha256_is_refused() -> None:
    weak = hmac.new(SECRET.encode(), BODY, sha1).hexdigest()
    refused("github", [SECRET], BODY, {"x-hub-signature-256": "sha1=" + weak})


def test_the_empty_signature_of_a_gitea_hook_without_a_secret_is_refused() -> None:
    names = ("x-forgejo-signature", "x-gitea-signature")
    refused("gitea", [SECRET], BODY, dict.fromkeys(names, "") | {"x-hub-signature-256": "sha256="})


@pytest.mark.parametrize("body", [TOKEN_BODY + b"\n", TOKEN_BODY.replace(b"push", b"pull")])
def test_another_body_is_refused_by_a_signing_token(body: bytes) -> None:
    refused("gitlab", [TOKEN], body, TOKEN_HEADERS)


def test_another_id_is_refused() -> None:
    refused("gitlab", [TOKEN], TOKEN_BODY, TOKEN_HEADERS | {"webhook-id": "msg_delivery_2"})


def test_another_time_is_refused() -> None:
    refused("gitlab", [TOKEN], TOKEN_BODY, TOKEN_HEADERS | {"webhook-timestamp": "1763700001"})


@pytest.mark.parametrize("gone", TOKEN_HEADERS)
def test_no_header_of_a_signing_token_may_be_missing(gone: str) -> None:
    refused("gitlab", [TOKEN], TOKEN_BODY, {k: v for k, v in TOKEN_HEADERS.items() if k != gone})


@pytest.mark.parametrize("version", ["v1a", "v2", "V1", ""])
def test_another_version_of_the_signature_is_refused(version: str) -> None:
    changed = TOKEN_HEADERS["webhook-signature"].replace("v1", version)
    refused("gitlab", [TOKEN], TOKEN_BODY, TOKEN_HEADERS | {"webhook-signature": changed})


def test_one_right_signature_among_several_is_enough() -> None:
    several = f"v2,abc v1,AAAA {TOKEN_HEADERS['webhook-signature']} nonsense"
    verify.gitlab([TOKEN], TOKEN_BODY, TOKEN_HEADERS | {"webhook-signature": several}, NOW)


@pytest.mark.parametrize("seconds", [-verify.TOLERANCE, 0, verify.TOLERANCE])
def test_a_clock_may_be_five_minutes_off(seconds: int) -> None:
    verify.gitlab([TOKEN], TOKEN_BODY, TOKEN_HEADERS, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [-verify.TOLERANCE - 1, verify.TOLERANCE + 1])
def test_a_delivery_of_another_hour_is_refused(seconds: int) -> None:
    with pytest.raises(BadSignature, match="not within 300 s of now"):
        verify.gitlab([TOKEN], TOKEN_BODY, TOKEN_HEADERS, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "seconds", ["", "1763700000.0", " 1763700000", "-1", "1_763_700_000", "nan", "9" * 5000, "١٧٦٣٧٠٠٠٠٠"]
)
def test_an_odd_time_is_refused_though_it_is_signed(seconds: str) -> None:
    refused("gitlab", [TOKEN], BODY, signed(bytes(range(32)), seconds))


def test_an_id_with_a_dot_is_refused_since_it_could_be_cut_elsewhere() -> None:
    refused("gitlab", [TOKEN], BODY, signed(bytes(range(32)), "1763700000", name="msg.1"))


def test_a_token_that_is_no_base64_signs_nothing() -> None:
    refused("gitlab", ["whsec_!!!"], BODY, signed(b"", "1763700000"))


def test_what_is_signed_wrongly_is_not_saved_by_the_older_token() -> None:
    headers = TOKEN_HEADERS | {"webhook-id": "msg_delivery_2", "x-gitlab-token": TOKEN}
    refused("gitlab", [TOKEN], TOKEN_BODY, headers)


@pytest.mark.parametrize("forge", verify.VERIFIERS)
def test_no_message_tells_a_secret_a_signature_or_the_body(forge: str) -> None:
    message = str(refused(forge, [OTHER], BODY, HEADERS[forge]))
    assert not any(told in message for told in (OTHER, SECRET, mac(), mac(OTHER), "refs/heads"))
