"""The forges of the settings: given one by one or as lists, and a wrong one is a clear line."""

import pytest

from mirror.core.config import GITHUB, GITLAB, App, Settings, app_at, from_env
from mirror.core.errors import UsageError
from mirror.services.startup import SETTINGS, environment


def read(path: str) -> str:
    return {"/run/id": "the id\n", "/run/secret": " the secret \n"}[path]


def settings(**env: str) -> Settings:
    return from_env(env, read, "/data")


def test_without_settings_both_clouds_are_connected_by_token() -> None:
    assert settings().apps == (GITHUB, GITLAB)
    assert not any(app.registered for app in settings().apps)
    assert Settings("/data").apps == settings().apps


def test_an_application_is_read_from_files_too() -> None:
    found = settings(GITHUB_CLIENT_ID_FILE="/run/id", GITHUB_CLIENT_SECRET_FILE="/run/secret").apps[0]
    assert found == App("github", GITHUB.url, GITHUB.api_url, "the id", "the secret")
    assert found.registered and found.host == "github.com"


def test_several_hosts_are_lists_of_the_same_length() -> None:
    found = settings(
        GITHUB_URL="https://github.com, https://ghe.example.com/",
        GITHUB_API_URL=",https://api.ghe.example.com",
        GITHUB_CLIENT_ID="a, b",
        GITHUB_CLIENT_SECRET="x, y",
        GITLAB_URL="https://gitlab.com,https://git.example.com:8443/sub",
        GITLAB_CLIENT_ID=",c",
        GITLAB_CLIENT_SECRET=",z",
    ).apps
    assert found == (
        App("github", "https://github.com", "https://api.github.com", "a", "x"),
        App("github", "https://ghe.example.com", "https://api.ghe.example.com", "b", "y"),
        GITLAB,
        App(
            "gitlab", "https://git.example.com:8443/sub", "https://git.example.com:8443/sub/api/v4", "c", "z"
        ),
    )
    assert found[-1].host == "git.example.com:8443"


def test_an_enterprise_server_has_its_interface_where_github_says() -> None:
    assert app_at("github", "https://ghe.example.com/").api_url == "https://ghe.example.com/api/v3"
    assert app_at("github", "https://github.com") == GITHUB


@pytest.mark.parametrize(
    "env, line",
    [
        ({"GITHUB_CLIENT_ID": "a"}, "GITHUB_CLIENT_ID and GITHUB_CLIENT_SECRET go together"),
        ({"GITLAB_CLIENT_SECRET": "a"}, "GITLAB_CLIENT_ID and GITLAB_CLIENT_SECRET go together"),
        (
            {"GITHUB_URL": "https://a.example,https://b.example", "GITHUB_CLIENT_ID": "a"},
            "GITHUB_CLIENT_ID names 1 where GITHUB_URL names 2",
        ),
        ({"GITHUB_CLIENT_ID": "a,b", "GITHUB_CLIENT_SECRET": "x,y"}, "the host github.com is named twice"),
        (
            {"EVERREF_LISTING_BYTES": "64M"},
            "EVERREF_LISTING_BYTES must be a number of bytes, 1048576 or more",
        ),
        ({"EVERREF_LISTING_BYTES": "1000"}, "EVERREF_LISTING_BYTES must be a number of bytes"),
        ({"GITLAB_URL": "https://github.com"}, "the host github.com is named twice"),
        ({"GITLAB_URL": "gitlab.example.com"}, "GITLAB_URL must begin with https://"),
        ({"GITLAB_URL": "ftp://gitlab.example.com"}, "GITLAB_URL must begin with https://"),
        ({"GITLAB_URL": "https://gitlab.example.com:x"}, "GITLAB_URL cannot be read"),
        ({"GITLAB_URL": "https://me@gitlab.example.com"}, "GITLAB_URL has a user name"),
        ({"GITHUB_API_URL": "https://api.github.com/?a=b"}, "GITHUB_API_URL has a user name, a query"),
        (
            {"GITLAB_URL": "http://gitlab.example.com", "DATABASE_URL": "postgresql:///x"},
            "http would expose tokens",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line(env: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError) as raised:
        settings(**env)
    assert line in str(raised.value) and "secret" not in str(raised.value)


def test_a_secret_shows_in_no_repr() -> None:
    found = settings(GITHUB_CLIENT_ID="a", GITHUB_CLIENT_SECRET="very secret")
    assert "very secret" not in repr(found)


def test_processes_are_handed_the_same_forges() -> None:
    found = settings(
        GITHUB_URL="https://github.com,https://ghe.example.com",
        GITHUB_CLIENT_ID="a,",
        GITHUB_CLIENT_SECRET="x,",
        GITLAB_URL="http://127.0.0.1:8123",
        EVERREF_DATA="/data",
        EVERREF_LISTING_BYTES="268435456",
    )
    inherited = {"GITLAB_CLIENT_ID": "of somebody else", "GITHUB_CLIENT_SECRET_FILE": "/nowhere"}
    assert from_env(environment(found, inherited), read, "elsewhere") == found
    assert {"GITHUB_API_URL", "GITLAB_URL"} <= set(SETTINGS)


@pytest.mark.parametrize(
    ("text", "bytes"),
    [(None, None), ("0", 0), ("5000", 5000), ("500M", 500 << 20), ("20G", 20 << 30), ("2TiB", 2 << 40)],
)
def test_what_pools_may_take_is_given_in_bytes_or_larger_units(text: str | None, bytes: int | None) -> None:
    found = settings(**({"EVERREF_POOL_BYTES": text} if text else {}))
    assert found.pool_bytes == bytes
    assert from_env(environment(found, {"EVERREF_POOL_BYTES": "7"}), read, "/data").pool_bytes == bytes


@pytest.mark.parametrize("text", ["-1", "1.5G", "half", "20 G", "1E", "\u0662"])
def test_a_bound_of_pools_that_is_no_size_is_a_clear_line(text: str) -> None:
    with pytest.raises(UsageError, match="EVERREF_POOL_BYTES must be a number of bytes such as 20G"):
        settings(EVERREF_POOL_BYTES=text)


@pytest.mark.parametrize(
    "text", ["*", "0.0.0.0/0", "::/0", "10.0.0.0/0,1.2.3.4", "proxy.example", "10.0.0.1/8", ","]
)
def test_a_proxy_is_named_by_its_address_and_never_everybody(text: str) -> None:
    with pytest.raises(UsageError, match="FORWARDED_ALLOW_IPS must name your proxies by address or network"):
        from_env({"FORWARDED_ALLOW_IPS": text}, read, "/data")


def test_which_proxies_are_believed_reaches_every_process() -> None:
    for text, count in (("10.0.0.7, 172.18.0.0/16", 2), ("none", 0), ("", 2)):
        found = from_env({"FORWARDED_ALLOW_IPS": text}, read, "/data")
        assert len(found.forwarded) == count
        assert from_env(environment(found, {}), read, "/data").forwarded == found.forwarded
