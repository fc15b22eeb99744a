"""A token that comes without a user name goes with the one that its host documents."""

from base64 import b64decode

import pytest

from mirror.core import login
from mirror.core.model import Remote, Secret


@pytest.mark.parametrize(
    ("host", "token", "user"),
    [
        ("github.com", "ghp_abc", "x-access-token"),
        ("github.com", "0123456789abcdef", "x-access-token"),
        ("git.example.com", "github_pat_abc", "x-access-token"),
        ("octo.ghe.com", "abc", "x-access-token"),
        ("notghe.com", "abc", "oauth2"),
        ("gitlab.com", "glpat-abc", "oauth2"),
        ("bitbucket.org", "ATATT3xFfGF0abc", "x-bitbucket-api-token-auth"),
        ("bitbucket.org", "ATCTT3xFfGN0abc", "x-token-auth"),
        ("bitbucket.org", "an OAuth token", "x-token-auth"),
        ("bitbucket.org.example.com", "ATATT3xFfGF0abc", "oauth2"),
        ("dev.azure.com", "abc", "oauth2"),
        ("codeberg.org", "abc", "oauth2"),
    ],
)
def test_a_token_alone_goes_with_the_user_name_of_its_host(host: str, token: str, user: str) -> None:
    remote = Remote(f"https://{host}:8443/owner/name.git", Secret("", token))
    assert said(remote) == f"{user}:{token}"
    assert login.user_of(host, token) == user


def test_a_user_name_that_was_given_is_kept() -> None:
    assert said(Remote("https://bitbucket.org/a/b", Secret("bob", "ATATT3x"))) == "bob:ATATT3x"


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    assert login.authorization(Remote("https://bitbucket.org/a/b")) is None


def said(remote: Remote) -> str:
    value = login.authorization(remote)
    assert value and value.startswith("Basic ")
    return b64decode(value.removeprefix("Basic ")).decode()
